//! The processor as a backend: ndarray's matrix products, and products with stored matrices in loops of its own.

mod dense;
mod gram;
mod lanes;
mod product;
mod widen;

pub(super) use widen::widen;

use super::{Backend, Gemm, Matrix, Real, Side};
use crate::error::Result;

/// The processor.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu;

impl Backend for Cpu {
    type Buffer<T: Real> = Vec<T>;

    fn zeros<T: Real>(&self, length: usize) -> Result<Vec<T>> {
        Ok(vec![T::zero(); length])
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
}
