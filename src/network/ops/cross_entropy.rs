//! The mean negative log-likelihood of the targets' classes: `L = -1/n·Σᵢ ln softmax(xᵢ)[cᵢ]` over n rows.
//!
//! `∂L/∂xᵢ = (softmax(xᵢ) - e[cᵢ])/n`. The logarithm is taken of the sum, not of the probability: one that underflows
//! costs nothing.

use super::{Described, only};
use crate::compute::{Backend, Real, Spread, Unary};
use crate::error::Result;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};
use crate::network::{Array, Targets};

/// From `[…, classes]` to one number.
#[derive(Debug, Clone, Copy)]
pub struct CrossEntropy;

impl Shaped for CrossEntropy {
    fn shape(&self, _: &[usize], inputs: &[&[usize]]) -> Described {
        only(inputs).map(|_| vec![1])
    }

    fn operations(&self, inputs: &[&[usize]], _: &[usize]) -> u64 {
        8 * inputs.iter().flat_map(|shape| shape.iter()).product::<usize>() as u64
    }
}

impl<B: Backend, T: Real> Operate<B, T> for CrossEntropy {
    fn forward(&self, run: &Run<'_, B, T>, inputs: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        let (backend, x) = (run.backend, inputs[0]);
        let (rows, columns) = (x.rows(), x.columns());
        let Some(Targets::Classes(classes)) = &run.input.targets else {
            panic!("a network that ends in cross-entropy is given classes");
        };
        assert!(classes.len() == rows && classes.iter().all(|&class| (class as usize) < columns));
        let at = (0..).zip(classes).map(|(row, &class)| row * columns as u32 + class);
        let index = backend.index(&at.collect::<Vec<_>>())?;
        let share = -1.0 / rows as f64;

        let mut logarithms = Array::room(backend, &x.shape)?;
        backend.softmax(columns, true, &x.buffer, &mut logarithms.buffer)?;
        let mut chosen = backend.room(rows)?;
        backend.gather(1, &index, &logarithms.buffer, &mut chosen)?;
        let mut loss = Array::zeros(backend, &[1])?;
        backend.reduce(Spread::rows(1, rows), &chosen, &mut loss.buffer)?;
        backend.scale(T::from_f64(share), &mut loss.buffer)?;

        let mut gradient = Array::room(backend, &x.shape)?;
        backend.map(Unary::Exp, &logarithms.buffer, &mut gradient.buffer, None)?;
        let minus_one = backend.upload(&vec![T::from_f64(-1.0); rows])?;
        backend.scatter_add(1, &index, &minus_one, &mut gradient.buffer)?;
        backend.scale(T::from_f64(-share), &mut gradient.buffer)?;
        Ok((loss, Kept::arrays(vec![gradient])))
    }

    fn jvp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        tangents: &[Option<&Array<B, T>>],
    ) -> Result<Array<B, T>> {
        super::along_gradient(run, place, tangents)
    }

    fn vjp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        _: &[bool],
    ) -> Result<Vec<Option<Array<B, T>>>> {
        super::times_gradient(run, place, cotangent)
    }
}
