//! Numbers of a device with a shape.

use crate::compute::{Backend, Real};
use crate::error::Result;

/// Row-major numbers in a device's memory.
pub struct Array<B: Backend, T: Real> {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// As many numbers as the product of the sizes.
    pub buffer: B::Buffer<T>,
}

impl<B: Backend, T: Real> Array<B, T> {
    /// Zeros of this shape.
    pub fn zeros(backend: &B, shape: &[usize]) -> Result<Self> {
        Ok(Self { shape: shape.to_vec(), buffer: backend.zeros(shape.iter().product())? })
    }

    /// Room for numbers of this shape: all are written before any is read.
    pub fn room(backend: &B, shape: &[usize]) -> Result<Self> {
        Ok(Self { shape: shape.to_vec(), buffer: backend.room(shape.iter().product())? })
    }

    /// These numbers, rounded to T, in this shape.
    pub fn upload(backend: &B, shape: &[usize], values: &[f64]) -> Result<Self> {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        let values: Vec<T> = values.iter().map(|&value| T::from_f64(value)).collect();
        Ok(Self { shape: shape.to_vec(), buffer: backend.upload(&values)? })
    }

    /// The same numbers once more.
    pub fn copy(&self, backend: &B) -> Result<Self> {
        let mut copy = Self::room(backend, &self.shape)?;
        backend.place(&self.buffer, &mut copy.buffer, 0)?;
        Ok(copy)
    }

    /// Numbers of it.
    pub fn length(&self) -> usize {
        self.shape.iter().product()
    }

    /// The size of the last axis; 1 for a single number.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The product of all sizes but the last.
    pub fn rows(&self) -> usize {
        self.shape.split_last().map_or(1, |(_, rest)| rest.iter().product())
    }

    /// The same numbers in another shape of as many.
    #[must_use]
    pub fn reshaped(self, shape: &[usize]) -> Self {
        assert_eq!(self.length(), shape.iter().product::<usize>());
        Self { shape: shape.to_vec(), buffer: self.buffer }
    }

    /// The same numbers with the axes in another order: axis k becomes what was axis `axes[k]`.
    pub fn permuted(&self, backend: &B, axes: &[usize]) -> Result<Self> {
        let shape: Vec<usize> = axes.iter().map(|&axis| self.shape[axis]).collect();
        let mut permuted = Self::room(backend, &shape)?;
        backend.permute(&self.shape, axes, &self.buffer, &mut permuted.buffer)?;
        Ok(permuted)
    }

    /// `self ← self + other`.
    pub fn add(&mut self, backend: &B, other: &Self) -> Result<()> {
        backend.axpy(T::one(), &other.buffer, &mut self.buffer)
    }
}
