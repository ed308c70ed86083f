//! What the norm pass gathers, block by block of 2²⁰ elements, on a GPU: the same sums in the same order as on the processor, and so the
//! same bits.

use std::ops::Range;

use super::Device;
use super::driver::{Argument, Memory};
use super::fault::Fault;
use super::kernels::{self, Module};
use super::upload::upload;
use crate::compute::Matrix;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// Bytes that are uploaded at once: whole blocks of every dtype.
const PART: u64 = 64 << 20;

/// What is gathered of a block of 2²⁰ elements. Sums are over its finite elements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockNorms {
    /// Elements.
    pub count: u64,
    /// Σ|x|.
    pub l1: f64,
    /// Σx².
    pub square: f64,
    /// Σ(x − K).
    pub sum: f64,
    /// NaN elements.
    pub nan: u32,
    /// +Inf elements.
    pub positive_infinity: u32,
    /// −Inf elements.
    pub negative_infinity: u32,
    /// +0 and −0.
    pub zero: u32,
    /// Non-zero, below the smallest normal of the dtype.
    pub subnormal: u32,
    /// Finite, below 0.
    pub negative: u32,
    /// Bits of the smallest and of the largest finite element, where there is one.
    pub extrema: Option<(u32, u32)>,
    /// The bits of all elements, where they are the same.
    pub uniform: Option<u32>,
}

/// Bytes of a block's record as the kernel writes it.
const RECORD: usize = 64;

impl Device {
    /// True for the dtypes that [`Device::norms`] takes.
    pub fn has_norms(dtype: DType) -> bool {
        matches!(dtype, DType::F32 | DType::F16 | DType::Bf16)
    }

    /// Gathers the blocks of `tensor`, in order. `uploaded` is told of bytes on their way; false from it ends the work, and what is
    /// gathered so far comes back.
    ///
    /// # Errors
    /// The device fails, or the file cannot be read.
    pub fn norms(
        &self,
        tensor: &Tensor,
        pivot: f64,
        mut uploaded: impl FnMut(u64) -> bool,
    ) -> Result<Option<Vec<BlockNorms>>> {
        let dtype = tensor.dtype;
        let sign = if dtype == DType::F32 { 1 << 31 } else { 1 << 15 };
        let module = Module::stored(dtype).expect("these dtypes have kernels");
        let mut found = Vec::new();
        let finished = self.in_parts(tensor, |part, memory, first| {
            let blocks = (part.end - part.start).div_ceil(kernels::NORM_BLOCK) as usize;
            let records = self.driver.allocate(blocks * RECORD)?;
            let count = part.end - part.start;
            let arguments = [memory.at(0), Argument::U64(count), Argument::F64(pivot), records.at(0)];
            self.driver.launch(module, kernels::NORMS, [blocks.div_ceil(4), 1, 1], 128, &arguments)?;
            let mut bytes = vec![0; records.bytes()];
            self.driver.read(&records, 0, &mut bytes)?;
            for (index, record) in bytes.chunks_exact(RECORD).enumerate() {
                let start = index as u64 * kernels::NORM_BLOCK;
                found.push(block(record, (count - start).min(kernels::NORM_BLOCK), sign, first[index]));
            }
            Ok(uploaded(count * dtype.size().expect("floats have whole bytes")))
        })?;
        Ok(finished.then_some(found))
    }

    /// How often each byte occurs in a tensor of bytes, as [`Device::norms`].
    ///
    /// # Errors
    /// As [`Device::norms`].
    pub fn histogram(
        &self,
        tensor: &Tensor,
        mut uploaded: impl FnMut(u64) -> bool,
    ) -> Result<Option<[u64; 256]>> {
        let module = Module::stored(tensor.dtype).expect("FP8 has kernels");
        let mut whole = [0; 256];
        let finished = self.in_parts(tensor, |part, memory, _| {
            let count = part.end - part.start;
            let blocks = count.div_ceil(kernels::NORM_BLOCK) as usize;
            let histograms = self.driver.allocate(blocks * 256 * size_of::<u32>())?;
            let arguments = [memory.at(0), Argument::U64(count), histograms.at(0)];
            self.driver.launch(module, kernels::HISTOGRAM, [blocks, 1, 1], 256, &arguments)?;
            let mut bytes = vec![0; histograms.bytes()];
            self.driver.read(&histograms, 0, &mut bytes)?;
            for (index, word) in bytes.as_chunks().0.iter().enumerate() {
                whole[index % 256] += u64::from(u32::from_le_bytes(*word));
            }
            Ok(uploaded(count))
        })?;
        Ok(finished.then_some(whole))
    }

    /// Uploads whole blocks of the tensor at a time, and calls `use_part` with their range, where they are, and the bits of each block's
    /// first element. False where `use_part` says so.
    fn in_parts(
        &self,
        tensor: &Tensor,
        mut use_part: impl FnMut(Range<u64>, &Memory, &[u32]) -> std::result::Result<bool, Fault>,
    ) -> Result<bool> {
        let size = tensor.dtype.size().expect("floats have whole bytes");
        let (count, step) = (tensor.count(), PART / size);
        // One row of all elements: parts are ranges of columns.
        let flat = Tensor { shape: vec![count], ..tensor.clone() };
        let matrix = Matrix::new(&flat);
        let mut buffer = Vec::new();
        for start in (0..count).step_by(step as usize) {
            let part = start..count.min(start + step);
            let mut first = Vec::new();
            for block in part.clone().step_by(kernels::NORM_BLOCK as usize) {
                let bytes = flat.bytes(block..block + 1, &mut buffer)?;
                first.push(bytes.iter().rev().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)));
            }
            let memory = upload(&self.driver, &matrix, 0..1, part.start as usize..part.end as usize)?;
            match use_part(part, &memory, &first) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(fault) => return Err(fault.on(self.driver.ordinal)),
            }
        }
        Ok(true)
    }
}

/// A record as it was written: three sums, six counts, the extrema in an order of unsigned integers, whether anything differs.
fn block(record: &[u8], count: u64, sign: u32, first: u32) -> BlockNorms {
    let sum = |index: usize| f64::from_le_bytes(record.as_chunks().0[index]);
    let word = |index: usize| u32::from_le_bytes(record.as_chunks().0[6 + index]);
    let bits = |key: u32| if key >= sign { key - sign } else { sign | (sign - 1 - key) };
    let (smallest, largest) = (word(6), word(7));
    BlockNorms {
        count,
        l1: sum(0),
        square: sum(1),
        sum: sum(2),
        nan: word(0),
        positive_infinity: word(1),
        negative_infinity: word(2),
        zero: word(3),
        subnormal: word(4),
        negative: word(5),
        extrema: (smallest <= largest).then(|| (bits(smallest), bits(largest))),
        uniform: (word(8) == 0).then_some(first),
    }
}
