//! The kernels: their PTX, as it is committed and embedded, and the parameters of each.
//!
//! A driver alone compiles them, and no toolkit is needed to build or to run flashpoint. `kernels/*.cu` is their source;
//! `tests/gpu` holds the two against each other.

use super::fault::Fault;
use crate::tensor::DType;

/// A module, for one dtype or number type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Module {
    StoredF64,
    StoredF32,
    StoredF16,
    StoredBf16,
    StoredE4m3,
    StoredE5m2,
    DenseF32,
    DenseF64,
    NetworkF32,
    NetworkF64,
}

impl Module {
    /// The kernels over elements stored so; `None` where there are none.
    pub(super) fn stored(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F64 => Some(Self::StoredF64),
            DType::F32 => Some(Self::StoredF32),
            DType::F16 => Some(Self::StoredF16),
            DType::Bf16 => Some(Self::StoredBf16),
            DType::F8E4M3 => Some(Self::StoredE4m3),
            DType::F8E5M2 => Some(Self::StoredE5m2),
            _ => None,
        }
    }

    /// Its PTX.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::StoredF64 => include_str!("kernels/stored_f64.ptx"),
            Self::StoredF32 => include_str!("kernels/stored_f32.ptx"),
            Self::StoredF16 => include_str!("kernels/stored_f16.ptx"),
            Self::StoredBf16 => include_str!("kernels/stored_bf16.ptx"),
            Self::StoredE4m3 => include_str!("kernels/stored_e4m3.ptx"),
            Self::StoredE5m2 => include_str!("kernels/stored_e5m2.ptx"),
            Self::DenseF32 => include_str!("kernels/dense_f32.ptx"),
            Self::DenseF64 => include_str!("kernels/dense_f64.ptx"),
            Self::NetworkF32 => include_str!("kernels/network_f32.ptx"),
            Self::NetworkF64 => include_str!("kernels/network_f64.ptx"),
        }
    }

    /// The bytes of the numbers it works on, `r` in the parameters of a kernel; 0 where it has none.
    pub(super) fn number(self) -> usize {
        match self {
            Self::DenseF32 | Self::NetworkF32 => 4,
            Self::DenseF64 | Self::NetworkF64 => 8,
            _ => 0,
        }
    }

    #[cfg(test)]
    pub(super) const ALL: [Self; 10] = [
        Self::StoredF64,
        Self::StoredF32,
        Self::StoredF16,
        Self::StoredBf16,
        Self::StoredE4m3,
        Self::StoredE5m2,
        Self::DenseF32,
        Self::DenseF64,
        Self::NetworkF32,
        Self::NetworkF64,
    ];
}

/// A kernel's name and its parameters: `p` a pointer, `u` a u32, `l` a u64, `d` an f64, `r` a number of the module's type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kernel {
    pub name: &'static str,
    pub parameters: &'static str,
}

const fn kernel(name: &'static str, parameters: &'static str) -> Kernel {
    Kernel { name, parameters }
}

pub(super) const NORMS: Kernel = kernel("norms", "pldp");
pub(super) const HISTOGRAM: Kernel = kernel("histogram", "plp");
pub(super) const WIDEN: Kernel = kernel("widen", "pluuudp");
pub(super) const ROWS_DOT: Kernel = kernel("rows_dot", "puupp");
pub(super) const COLUMNS_COMBINE: Kernel = kernel("columns_combine", "puuupp");
pub(super) const ROWS_BLOCK: Kernel = kernel("rows_block", "puuuupp");
pub(super) const COLUMNS_BLOCK: Kernel = kernel("columns_block", "puuuupp");
pub(super) const GEMM: Kernel = kernel("gemm", "uuuuurpprp");
pub(super) const AXPY: Kernel = kernel("axpy", "lrpp");
pub(super) const SCALE: Kernel = kernel("scale", "lrp");
pub(super) const DOT: Kernel = kernel("dot", "lppp");
pub(super) const TOTAL: Kernel = kernel("total", "lpp");
pub(super) const FOLD: Kernel = kernel("fold", "ludupp");

pub(super) const MAP: Kernel = kernel("map", "udlppup");
pub(super) const ZIP: Kernel = kernel("zip", "ulppp");
pub(super) const BROADCAST: Kernel = kernel("broadcast", "ululpp");
pub(super) const REDUCE: Kernel = kernel("reduce", "lulpp");
pub(super) const REDUCE_FOLD: Kernel = kernel("reduce_fold", "lupp");
pub(super) const SOFTMAX: Kernel = kernel("softmax", "luupp");
pub(super) const SOFTMAX_PRODUCT: Kernel = kernel("softmax_product", "luppp");
pub(super) const NORMALIZE: Kernel = kernel("normalize", "luudppp");
pub(super) const NORMALIZE_PRODUCT: Kernel = kernel("normalize_product", "luupppp");
pub(super) const ARGMAX: Kernel = kernel("argmax", "lupp");
pub(super) const GATHER: Kernel = kernel("gather", "luppp");
pub(super) const SCATTER_ADD: Kernel = kernel("scatter_add", "luppppp");
pub(super) const IM2COL: Kernel = kernel("im2col", "luuuuuuuuuuuuuuurpp");
pub(super) const COL2IM: Kernel = kernel("col2im", "luuuuuuuuuuuuuuupp");
pub(super) const PERMUTE: Kernel = kernel("permute", "luuuuuuuuuuuuuuupp");
pub(super) const COPY_STRIP: Kernel = kernel("copy_strip", "luuuuupp");
pub(super) const CONVERT: Kernel = kernel("convert", "lpp");

/// Elements of a block of [`NORMS`] and [`HISTOGRAM`].
pub(super) const NORM_BLOCK: u64 = 1 << 20;
/// Rows of a block of [`ROWS_DOT`].
pub(super) const DOT_ROWS: usize = 16;
/// Columns of a part of [`ROWS_DOT`].
pub(super) const DOT_COLUMNS: usize = 4096;
/// Vectors that [`ROWS_BLOCK`] and [`COLUMNS_BLOCK`] have room for.
pub(super) const BLOCK_VECTORS: usize = 8;
/// Rows of a block of [`ROWS_BLOCK`].
pub(super) const BLOCK_ROWS: usize = 256;
/// Columns of a block of [`COLUMNS_BLOCK`].
pub(super) const BLOCK_COLUMNS: usize = 512;
/// Columns of [`ROWS_BLOCK`], and rows of [`COLUMNS_BLOCK`], that are held at a time: parts are whole multiples.
pub(super) const BLOCK_STRIP: usize = 32;
/// Elements of a part of [`DOT`].
pub(super) const DOT_PART: usize = 4096;
/// Rows and columns of a tile of [`GEMM`].
pub(super) const GEMM_TILE: usize = 32;

/// A count that a kernel, or the hardware, has so many values for.
pub(super) fn counted(kernel: Kernel, count: usize, most: u32) -> Result<u32, Fault> {
    let fits = u32::try_from(count).ok().filter(|count| *count <= most);
    fits.ok_or(Fault::TooMany { kernel: kernel.name, count })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Kernel; 30] = [
        NORMS,
        HISTOGRAM,
        WIDEN,
        ROWS_DOT,
        COLUMNS_COMBINE,
        ROWS_BLOCK,
        COLUMNS_BLOCK,
        GEMM,
        AXPY,
        SCALE,
        DOT,
        TOTAL,
        FOLD,
        MAP,
        ZIP,
        BROADCAST,
        REDUCE,
        REDUCE_FOLD,
        SOFTMAX,
        SOFTMAX_PRODUCT,
        NORMALIZE,
        NORMALIZE_PRODUCT,
        ARGMAX,
        GATHER,
        SCATTER_ADD,
        IM2COL,
        COL2IM,
        PERMUTE,
        COPY_STRIP,
        CONVERT,
    ];

    /// The parameters that a kernel's PTX declares; `None` where the module has no such kernel.
    fn declared(module: Module, name: &str) -> Option<Vec<&'static str>> {
        let (_, rest) = module.text().split_once(&format!(".visible .entry {name}("))?;
        let (header, _) = rest.split_once(')')?;
        Some(
            header
                .lines()
                .filter_map(|line| line.trim().strip_prefix(".param .")?.split(' ').next())
                .collect(),
        )
    }

    #[test]
    fn kernels_have_the_parameters_that_they_are_launched_with() {
        for kernel in ALL {
            let mut found = 0;
            for module in Module::ALL {
                let Some(declared) = declared(module, kernel.name) else { continue };
                let real = if module.number() == 4 { "f32" } else { "f64" };
                let expected: Vec<&str> = kernel
                    .parameters
                    .chars()
                    .map(|kind| match kind {
                        'p' | 'l' => "u64",
                        'u' => "u32",
                        'd' => "f64",
                        _ => real,
                    })
                    .collect();
                assert_eq!(declared, expected, "{module:?} {}", kernel.name);
                found += 1;
            }
            assert!(found > 0, "{} is in no module", kernel.name);
        }
    }
}
