//! The GPU as a backend: products by cuBLAS where it is found, else by kernels of its own, as is everything beside.
//!
//! Sums have two stages of a shape that sizes alone decide, and no atomics on floats: a device gives the same bits every time.

use std::any::TypeId;
use std::marker::PhantomData;
use std::sync::Arc;

use super::block::{MOST_VECTORS, Stored, Target};
use super::driver::{Argument, Driver, MOST_BLOCKS, Memory};
use super::fault::Fault;
use super::kernels::{self, Module};
use super::network::Index;
use super::stored;
use super::{Cuda, Device};
use crate::compute::{Backend, Binary, Gemm, Matrix, Norm, Real, Side, Spread, Strip, Unary, Window};
use crate::error::Result;
use crate::tensor::Tensor;

/// Numbers on a device.
pub struct Buffer<T> {
    pub(super) memory: Memory,
    pub(super) length: usize,
    numbers: PhantomData<T>,
}

impl<T> Buffer<T> {
    /// Room for `length` numbers.
    pub(super) fn new(driver: &Arc<Driver>, length: usize) -> std::result::Result<Self, Fault> {
        Ok(Self { memory: driver.allocate(length * size_of::<T>())?, length, numbers: PhantomData })
    }

    /// All of it, for a kernel.
    pub(super) fn all(&self) -> Argument<'_> {
        self.memory.at(0)
    }
}

/// Whether T is f64; it is f32 otherwise.
pub(super) fn is_wide<T: Real>() -> bool {
    let wide = TypeId::of::<T>() == TypeId::of::<f64>();
    assert!(wide || TypeId::of::<T>() == TypeId::of::<f32>(), "a number is f32 or f64");
    wide
}

pub(super) fn dense<T: Real>() -> Module {
    if is_wide::<T>() { Module::DenseF64 } else { Module::DenseF32 }
}

/// A number of the module's type.
pub(super) fn number<'a, T: Real>(value: T) -> Argument<'a> {
    let value: f64 = value.into();
    if is_wide::<T>() { Argument::F64(value) } else { Argument::F32(value as f32) }
}

/// The bytes of numbers, little end first.
pub(super) fn to_bytes<T: Real>(values: &[T]) -> Vec<u8> {
    let wide = is_wide::<T>();
    let mut bytes = Vec::with_capacity(size_of_val(values));
    for &value in values {
        let value: f64 = value.into();
        if wide {
            bytes.extend(value.to_le_bytes());
        } else {
            // Back to what it was: every f32 is an f64.
            bytes.extend((value as f32).to_le_bytes());
        }
    }
    bytes
}

fn from_bytes<T: Real>(bytes: &[u8]) -> Vec<T> {
    if is_wide::<T>() {
        bytes.as_chunks().0.iter().map(|word| T::from_f64(f64::from_le_bytes(*word))).collect()
    } else {
        bytes.as_chunks().0.iter().map(|word| T::from_f64(f64::from(f32::from_le_bytes(*word)))).collect()
    }
}

/// Blocks of 256 threads for `count` elements; each takes more where there are many.
pub(super) fn blocks(count: usize) -> [usize; 3] {
    [count.div_ceil(256).clamp(1, 1 << 16), 1, 1]
}

/// Whether a product is one of a whole matrix with a block of a few columns, in f64.
fn is_for_block<T: Real>(gemm: &Gemm<T>, from: usize) -> bool {
    let Gemm { batch, n, k, transpose_b, beta, .. } = *gemm;
    let is_alone = batch == 1 && !transpose_b && from == 0 && k > 0;
    // One column is a product of its own in cuBLAS, and there it is quick.
    let is_block = (2..=MOST_VECTORS).contains(&n);
    is_wide::<T>() && is_alone && is_block && (beta == T::zero() || beta == T::one())
}

/// A buffer of a device from element `at` on.
pub(super) type Part<'b, T> = (&'b Buffer<T>, usize);

impl Device {
    /// Products of parts of buffers.
    pub(super) fn products<T: Real>(
        &self,
        gemm: &Gemm<T>,
        a: Part<'_, T>,
        b: Part<'_, T>,
        c: Part<'_, T>,
    ) -> std::result::Result<(), Fault> {
        let Gemm { batch, m, n, k, .. } = *gemm;
        assert!(a.0.length >= a.1 + batch * m * k);
        assert!(b.0.length >= b.1 + batch * k * n);
        assert!(c.0.length >= c.1 + batch * m * n);
        if batch == 0 || m == 0 || n == 0 {
            return Ok(());
        }
        if is_for_block(gemm, a.1) {
            let (side, rows, columns) =
                if gemm.transpose_a { (Side::Transposed, k, m) } else { (Side::Plain, m, k) };
            let matrix = Stored { module: Module::StoredF64, memory: &a.0.memory, rows, columns };
            let target =
                Target { y: &c.0.memory, at: c.1, factor: gemm.alpha.into(), adds: gemm.beta == T::one() };
            return self.block_product(matrix, side, n, (&b.0.memory, b.1), &target);
        }
        let at = |at: usize| at * size_of::<T>();
        if let Some(blas) = &self.blas
            && k > 0
            && blas.gemm(
                &self.driver,
                gemm,
                (&a.0.memory, at(a.1)),
                (&b.0.memory, at(b.1)),
                (&c.0.memory, at(c.1)),
            )?
        {
            return Ok(());
        }
        // What is more than the hardware counts goes in several launches.
        let most = MOST_BLOCKS as usize;
        for first in (0..batch).step_by(most) {
            let count = most.min(batch - first);
            let arguments = [
                Argument::Count(m),
                Argument::Count(n),
                Argument::Count(k),
                Argument::U32(u32::from(gemm.transpose_a)),
                Argument::U32(u32::from(gemm.transpose_b)),
                number(gemm.alpha),
                a.0.memory.at(at(a.1 + first * m * k)),
                b.0.memory.at(at(b.1 + first * k * n)),
                number(gemm.beta),
                c.0.memory.at(at(c.1 + first * m * n)),
            ];
            let grid = [m.div_ceil(kernels::GEMM_TILE), n.div_ceil(kernels::GEMM_TILE), count];
            self.driver.launch(dense::<T>(), kernels::GEMM, grid, 256, &arguments)?;
        }
        Ok(())
    }

    /// `Σ x·y` over `count` elements from the given ones on.
    pub(super) fn inner<T: Real>(
        &self,
        count: usize,
        x: Part<'_, T>,
        y: Part<'_, T>,
    ) -> std::result::Result<f64, Fault> {
        assert!(x.1 + count <= x.0.length && y.1 + count <= y.0.length);
        if count == 0 {
            return Ok(0.0);
        }
        let parts = count.div_ceil(kernels::DOT_PART);
        let partials = Buffer::<f64>::new(&self.driver, parts)?;
        let sum = Buffer::<f64>::new(&self.driver, 1)?;
        let (x, y) = (x.0.memory.at(x.1 * size_of::<T>()), y.0.memory.at(y.1 * size_of::<T>()));
        let arguments = [Argument::U64(count as u64), x, y, partials.all()];
        self.driver.launch(dense::<T>(), kernels::DOT, [parts, 1, 1], 256, &arguments)?;
        let arguments = [Argument::U64(parts as u64), partials.all(), sum.all()];
        self.driver.launch(Module::DenseF64, kernels::TOTAL, [1, 1, 1], 256, &arguments)?;
        let mut bytes = [0; size_of::<f64>()];
        self.driver.read(&sum.memory, 0, &mut bytes)?;
        Ok(f64::from_le_bytes(bytes))
    }
}

impl Cuda<'_> {
    /// The answer of the device as one of the crate.
    pub(super) fn told<T>(&self, answer: std::result::Result<T, Fault>) -> Result<T> {
        answer.map_err(|fault| fault.on(self.device.driver.ordinal))
    }

    fn driver(&self) -> &Arc<Driver> {
        &self.device.driver
    }
}

impl Backend for Cuda<'_> {
    type Buffer<T: Real> = Buffer<T>;
    type Index = Index;

    fn zeros<T: Real>(&self, length: usize) -> Result<Buffer<T>> {
        let mut buffer = self.told(Buffer::new(self.driver(), length))?;
        self.told(self.driver().zero(&mut buffer.memory))?;
        Ok(buffer)
    }

    fn room<T: Real>(&self, length: usize) -> Result<Buffer<T>> {
        self.told(Buffer::new(self.driver(), length))
    }

    fn upload<T: Real>(&self, values: &[T]) -> Result<Buffer<T>> {
        let buffer = self.told(Buffer::new(self.driver(), values.len()))?;
        self.told(self.driver().write(&buffer.memory, 0, &to_bytes(values)))?;
        Ok(buffer)
    }

    fn download<T: Real>(&self, buffer: &Buffer<T>) -> Result<Vec<T>> {
        let mut bytes = vec![0; buffer.memory.bytes()];
        self.told(self.driver().read(&buffer.memory, 0, &mut bytes))?;
        Ok(from_bytes(&bytes))
    }

    fn place<T: Real>(&self, from: &Buffer<T>, to: &mut Buffer<T>, at: usize) -> Result<()> {
        assert!(at + from.length <= to.length);
        let bytes = 0..from.memory.bytes();
        self.told(self.driver().copy(&from.memory, bytes, &mut to.memory, at * size_of::<T>()))
    }

    fn gemm<T: Real>(&self, gemm: &Gemm<T>, a: &Buffer<T>, b: &Buffer<T>, c: &mut Buffer<T>) -> Result<()> {
        self.told(self.device.products(gemm, (a, 0), (b, 0), (c, 0)))
    }

    fn dot<T: Real>(&self, x: &Buffer<T>, y: &Buffer<T>) -> Result<f64> {
        assert_eq!(x.length, y.length);
        self.told(self.device.inner(x.length, (x, 0), (y, 0)))
    }

    fn axpy<T: Real>(&self, alpha: T, x: &Buffer<T>, y: &mut Buffer<T>) -> Result<()> {
        assert_eq!(x.length, y.length);
        let arguments = [Argument::U64(x.length as u64), number(alpha), x.all(), y.all()];
        self.told(self.driver().launch(dense::<T>(), kernels::AXPY, blocks(x.length), 256, &arguments))
    }

    fn scale<T: Real>(&self, alpha: T, x: &mut Buffer<T>) -> Result<()> {
        let arguments = [Argument::U64(x.length as u64), number(alpha), x.all()];
        self.told(self.driver().launch(dense::<T>(), kernels::SCALE, blocks(x.length), 256, &arguments))
    }

    fn multiply(
        &self,
        matrix: &Matrix<'_>,
        side: Side,
        columns: usize,
        x: &Buffer<f64>,
        y: &mut Buffer<f64>,
    ) -> Result<()> {
        stored::multiply(self, matrix, side, columns, x, y)
    }

    fn sum_of_squares(&self, matrix: &Matrix<'_>) -> Result<f64> {
        stored::sum_of_squares(self, matrix)
    }

    fn gram(&self, matrix: &Matrix<'_>) -> Result<Buffer<f64>> {
        stored::gram(self, matrix)
    }

    fn eigenvalues(&self, matrices: &Buffer<f64>, n: usize, count: usize) -> Result<Option<Vec<f64>>> {
        let Some(solver) = &self.device.solver else { return Ok(None) };
        assert!(matrices.length >= n * n * count);
        self.told(solver.eigenvalues(self.driver(), &matrices.memory, n, count)).map(Some)
    }

    fn load<T: Real>(&self, tensor: &Tensor) -> Result<Buffer<T>> {
        self.load_tensor(tensor)
    }

    fn convert<S: Real, T: Real>(&self, x: &Buffer<S>, y: &mut Buffer<T>) -> Result<()> {
        self.converted(x, y)
    }

    fn map<T: Real>(
        &self,
        function: Unary,
        x: &Buffer<T>,
        y: &mut Buffer<T>,
        derivative: Option<&mut Buffer<T>>,
    ) -> Result<()> {
        self.mapped(function, x, y, derivative.map(|slopes| &*slopes))
    }

    fn zip<T: Real>(&self, operation: Binary, x: &Buffer<T>, y: &Buffer<T>, z: &mut Buffer<T>) -> Result<()> {
        self.zipped(operation, x, y, z)
    }

    fn broadcast<T: Real>(
        &self,
        operation: Binary,
        spread: Spread,
        v: &Buffer<T>,
        y: &mut Buffer<T>,
    ) -> Result<()> {
        self.spread(operation, spread, v, y)
    }

    fn reduce<T: Real>(&self, spread: Spread, x: &Buffer<T>, v: &mut Buffer<T>) -> Result<()> {
        self.reduced(spread, x, v)
    }

    fn softmax<T: Real>(
        &self,
        columns: usize,
        logarithm: bool,
        x: &Buffer<T>,
        y: &mut Buffer<T>,
    ) -> Result<()> {
        self.softmaxed(columns, logarithm, x, y)
    }

    fn softmax_product<T: Real>(
        &self,
        columns: usize,
        p: &Buffer<T>,
        x: &Buffer<T>,
        y: &mut Buffer<T>,
    ) -> Result<()> {
        self.softmax_applied(columns, p, x, y)
    }

    fn normalize<T: Real>(
        &self,
        norm: Norm,
        x: &Buffer<T>,
        y: &mut Buffer<T>,
        inverse: &mut Buffer<T>,
    ) -> Result<()> {
        self.normalized(norm, x, y, inverse)
    }

    fn normalize_product<T: Real>(
        &self,
        norm: Norm,
        normal: &Buffer<T>,
        inverse: &Buffer<T>,
        x: &Buffer<T>,
        y: &mut Buffer<T>,
    ) -> Result<()> {
        self.normalize_applied(norm, normal, inverse, x, y)
    }

    fn index(&self, rows: &[u32]) -> Result<Index> {
        self.indexed(rows)
    }

    fn gather<T: Real>(&self, width: usize, index: &Index, x: &Buffer<T>, y: &mut Buffer<T>) -> Result<()> {
        self.gathered(width, index, x, y)
    }

    fn scatter_add<T: Real>(
        &self,
        width: usize,
        index: &Index,
        x: &Buffer<T>,
        y: &mut Buffer<T>,
    ) -> Result<()> {
        self.scattered(width, index, x, y)
    }

    fn argmax<T: Real>(&self, columns: usize, x: &Buffer<T>) -> Result<Index> {
        self.largest_of(columns, x)
    }

    fn im2col<T: Real>(&self, window: &Window, outside: T, x: &Buffer<T>, y: &mut Buffer<T>) -> Result<()> {
        self.patches(window, outside, x, y)
    }

    fn col2im<T: Real>(&self, window: &Window, x: &Buffer<T>, y: &mut Buffer<T>) -> Result<()> {
        self.pixels(window, x, y)
    }

    fn permute<T: Real>(
        &self,
        shape: &[usize],
        axes: &[usize],
        x: &Buffer<T>,
        y: &mut Buffer<T>,
    ) -> Result<()> {
        self.permuted(shape, axes, x, y)
    }

    fn copy_strip<T: Real>(&self, strip: &Strip, x: &Buffer<T>, y: &mut Buffer<T>) -> Result<()> {
        self.strip(strip, x, y)
    }
}
