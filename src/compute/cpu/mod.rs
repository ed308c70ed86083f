//! The processor as a backend: ndarray's matrix products, and products with stored matrices in loops of its own.

mod dense;
mod elementwise;
mod gram;
mod index;
mod lanes;
mod layout;
mod load;
mod product;
mod rows;
#[cfg(test)]
mod tests;
mod widen;
mod window;

pub(super) use widen::widen;

use super::{Backend, Binary, Gemm, Matrix, Norm, Real, Side, Spread, Strip, Unary, Window};
use crate::error::Result;
use crate::tensor::Tensor;

/// The processor.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu;

impl Backend for Cpu {
    type Buffer<T: Real> = Vec<T>;
    type Index = Vec<u32>;

    fn zeros<T: Real>(&self, length: usize) -> Result<Vec<T>> {
        Ok(vec![T::zero(); length])
    }

    /// NaN where assertions are on: what is read before it is written is seen in what comes of it.
    fn room<T: Real>(&self, length: usize) -> Result<Vec<T>> {
        if cfg!(debug_assertions) { Ok(vec![T::from_f64(f64::NAN); length]) } else { self.zeros(length) }
    }

    fn upload<T: Real>(&self, values: &[T]) -> Result<Vec<T>> {
        Ok(values.to_vec())
    }

    fn download<T: Real>(&self, buffer: &Vec<T>) -> Result<Vec<T>> {
        Ok(buffer.clone())
    }

    fn place<T: Real>(&self, from: &Vec<T>, to: &mut Vec<T>, at: usize) -> Result<()> {
        to[at..at + from.len()].copy_from_slice(from);
        Ok(())
    }

    fn gemm<T: Real>(&self, gemm: &Gemm<T>, a: &Vec<T>, b: &Vec<T>, c: &mut Vec<T>) -> Result<()> {
        dense::gemm(gemm, a, b, c);
        Ok(())
    }

    fn dot<T: Real>(&self, x: &Vec<T>, y: &Vec<T>) -> Result<f64> {
        Ok(dense::dot(x, y))
    }

    fn axpy<T: Real>(&self, alpha: T, x: &Vec<T>, y: &mut Vec<T>) -> Result<()> {
        dense::axpy(alpha, x, y);
        Ok(())
    }

    fn scale<T: Real>(&self, alpha: T, x: &mut Vec<T>) -> Result<()> {
        for x in x.iter_mut() {
            *x = *x * alpha;
        }
        Ok(())
    }

    fn multiply(
        &self,
        matrix: &Matrix<'_>,
        side: Side,
        columns: usize,
        x: &Vec<f64>,
        y: &mut Vec<f64>,
    ) -> Result<()> {
        product::multiply(matrix, side, columns, x, y)
    }

    fn sum_of_squares(&self, matrix: &Matrix<'_>) -> Result<f64> {
        let mut sum = 0.0;
        let mut values = Vec::new();
        matrix.for_each_block(0..matrix.row_count(), 0..matrix.column_count(), |block| {
            values.resize(block.rows.len() * block.columns.len(), 0.0);
            matrix.widen(block.bytes, &mut values);
            sum += dense::dot(&values, &values);
            Ok(())
        })?;
        Ok(sum)
    }

    fn gram(&self, matrix: &Matrix<'_>) -> Result<Vec<f64>> {
        gram::gram(matrix)
    }

    fn load<T: Real>(&self, tensor: &Tensor) -> Result<Vec<T>> {
        load::load(tensor)
    }

    fn convert<S: Real, T: Real>(&self, x: &Vec<S>, y: &mut Vec<T>) -> Result<()> {
        elementwise::convert(x, y);
        Ok(())
    }

    fn map<T: Real>(
        &self,
        function: Unary,
        x: &Vec<T>,
        y: &mut Vec<T>,
        derivative: Option<&mut Vec<T>>,
    ) -> Result<()> {
        elementwise::map(function, x, y, derivative);
        Ok(())
    }

    fn zip<T: Real>(&self, operation: Binary, x: &Vec<T>, y: &Vec<T>, z: &mut Vec<T>) -> Result<()> {
        elementwise::zip(operation, x, y, z);
        Ok(())
    }

    fn broadcast<T: Real>(
        &self,
        operation: Binary,
        spread: Spread,
        v: &Vec<T>,
        y: &mut Vec<T>,
    ) -> Result<()> {
        elementwise::broadcast(operation, spread, v, y);
        Ok(())
    }

    fn reduce<T: Real>(&self, spread: Spread, x: &Vec<T>, v: &mut Vec<T>) -> Result<()> {
        rows::reduce(spread, x, v);
        Ok(())
    }

    fn softmax<T: Real>(&self, columns: usize, logarithm: bool, x: &Vec<T>, y: &mut Vec<T>) -> Result<()> {
        rows::softmax(columns, logarithm, x, y);
        Ok(())
    }

    fn softmax_product<T: Real>(&self, columns: usize, p: &Vec<T>, x: &Vec<T>, y: &mut Vec<T>) -> Result<()> {
        rows::softmax_product(columns, p, x, y);
        Ok(())
    }

    fn normalize<T: Real>(&self, norm: Norm, x: &Vec<T>, y: &mut Vec<T>, inverse: &mut Vec<T>) -> Result<()> {
        rows::normalize(norm, x, y, inverse);
        Ok(())
    }

    fn normalize_product<T: Real>(
        &self,
        norm: Norm,
        normal: &Vec<T>,
        inverse: &Vec<T>,
        x: &Vec<T>,
        y: &mut Vec<T>,
    ) -> Result<()> {
        rows::normalize_product(norm, normal, inverse, x, y);
        Ok(())
    }

    fn index(&self, rows: &[u32]) -> Result<Vec<u32>> {
        Ok(rows.to_vec())
    }

    fn gather<T: Real>(&self, width: usize, index: &Vec<u32>, x: &Vec<T>, y: &mut Vec<T>) -> Result<()> {
        index::gather(width, index, x, y);
        Ok(())
    }

    fn scatter_add<T: Real>(&self, width: usize, index: &Vec<u32>, x: &Vec<T>, y: &mut Vec<T>) -> Result<()> {
        index::scatter_add(width, index, x, y);
        Ok(())
    }

    fn argmax<T: Real>(&self, columns: usize, x: &Vec<T>) -> Result<Vec<u32>> {
        Ok(rows::argmax(columns, x))
    }

    fn im2col<T: Real>(&self, window: &Window, outside: T, x: &Vec<T>, y: &mut Vec<T>) -> Result<()> {
        window::im2col(window, outside, x, y);
        Ok(())
    }

    fn col2im<T: Real>(&self, window: &Window, x: &Vec<T>, y: &mut Vec<T>) -> Result<()> {
        window::col2im(window, x, y);
        Ok(())
    }

    fn permute<T: Real>(&self, shape: &[usize], axes: &[usize], x: &Vec<T>, y: &mut Vec<T>) -> Result<()> {
        layout::permute(shape, axes, x, y);
        Ok(())
    }

    fn copy_strip<T: Real>(&self, strip: &Strip, x: &Vec<T>, y: &mut Vec<T>) -> Result<()> {
        layout::copy_strip(strip, x, y);
        Ok(())
    }
}
