//! A guard between an algorithm and a map that may leave the range of its numbers.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::analysis::spectrum::operator::Operator;
use crate::compute::{Backend, Side};
use crate::error::Result;

/// An operator whose products are taken for zero once one is not finite: iterations end on numbers, and
/// [`Watched::has_overflowed`] says what they are worth.
pub struct Watched<'a, B: Backend> {
    operator: &'a dyn Operator<B>,
    overflowed: AtomicBool,
}

impl<'a, B: Backend> Watched<'a, B> {
    /// Watches `operator`.
    pub fn new(operator: &'a dyn Operator<B>) -> Self {
        Self { operator, overflowed: AtomicBool::new(false) }
    }

    /// Whether a product was not finite.
    pub fn has_overflowed(&self) -> bool {
        self.overflowed.load(Ordering::Relaxed)
    }
}

impl<B: Backend> Operator<B> for Watched<'_, B> {
    fn rows(&self) -> usize {
        self.operator.rows()
    }

    fn columns(&self) -> usize {
        self.operator.columns()
    }

    fn apply(&self, backend: &B, side: Side, x: &B::Buffer<f64>, y: &mut B::Buffer<f64>) -> Result<()> {
        if !self.has_overflowed() {
            self.operator.apply(backend, side, x, y)?;
            // The square of a number beyond 1e154 is none of f64.
            if backend.dot(y, y)?.is_finite() {
                return Ok(());
            }
            self.overflowed.store(true, Ordering::Relaxed);
        }
        let length = if side == Side::Plain { self.rows() } else { self.columns() };
        *y = backend.zeros(length)?;
        Ok(())
    }
}
