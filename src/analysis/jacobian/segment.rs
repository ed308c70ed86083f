//! Segments of a network as operators: what Lanczos sees of a tape.

use super::parameters::Parameters;
use crate::analysis::spectrum::operator::Operator;
use crate::compute::{Backend, Real, Side};
use crate::error::Result;
use crate::network::{Segment, Tape, Weights};

/// `∂to/∂from` of one segment, whose parameters are loaded. Vectors are f64; products are of precision T.
pub struct SegmentJacobian<'a, B: Backend, T: Real> {
    /// The device.
    pub backend: &'a B,
    /// The forward pass that it belongs to.
    pub tape: &'a Tape<'a, B, T>,
    /// The parameters of its nodes.
    pub weights: &'a Weights<B, T>,
    /// From where to where.
    pub segment: Segment,
}

impl<B: Backend, T: Real> Operator<B> for SegmentJacobian<'_, B, T> {
    fn rows(&self) -> usize {
        self.tape.length(self.segment.to)
    }

    fn columns(&self) -> usize {
        self.tape.length(self.segment.from)
    }

    fn apply(&self, backend: &B, side: Side, x: &B::Buffer<f64>, y: &mut B::Buffer<f64>) -> Result<()> {
        let (from, to) = match side {
            Side::Plain => (self.columns(), self.rows()),
            Side::Transposed => (self.rows(), self.columns()),
        };
        let x = converted::<B, f64, T>(backend, x, from)?;
        let product = match side {
            Side::Plain => self.tape.jvp(self.weights, &self.segment, x)?,
            Side::Transposed => self.tape.vjp(self.weights, &self.segment, x)?,
        };
        *y = converted(backend, &product, to)?;
        Ok(())
    }
}

/// A copy of `length` numbers in another precision.
pub(super) fn converted<B: Backend, S: Real, T: Real>(
    backend: &B,
    x: &B::Buffer<S>,
    length: usize,
) -> Result<B::Buffer<T>> {
    let mut y = backend.room(length)?;
    backend.convert(x, &mut y)?;
    Ok(y)
}

/// The difference of two operators of the same sides: what of a Jacobian is left when a part of it is taken out.
pub struct Difference<'a, O> {
    /// The whole.
    pub whole: &'a O,
    /// What is taken out.
    pub part: &'a O,
}

impl<B: Backend, O: Operator<B>> Operator<B> for Difference<'_, O> {
    fn rows(&self) -> usize {
        self.whole.rows()
    }

    fn columns(&self) -> usize {
        self.whole.columns()
    }

    fn apply(&self, backend: &B, side: Side, x: &B::Buffer<f64>, y: &mut B::Buffer<f64>) -> Result<()> {
        self.whole.apply(backend, side, x, y)?;
        let mut part = backend.zeros(if side == Side::Plain { self.rows() } else { self.columns() })?;
        self.part.apply(backend, side, x, &mut part)?;
        backend.axpy(-1.0, &part, y)
    }
}

/// The product of the Jacobians of segments that follow each other, whose parameters come and go where they do not all fit.
pub struct Chain<'a, B: Backend, T: Real> {
    /// The device.
    pub backend: &'a B,
    /// The forward pass that it belongs to, on which every segment lies.
    pub tape: &'a Tape<'a, B, T>,
    /// Where parameters come from.
    pub parameters: &'a Parameters<'a, B, T>,
    /// Each begins where the one before it ends.
    pub segments: Vec<Segment>,
}

impl<B: Backend, T: Real> Chain<'_, B, T> {
    fn length(&self, side: Side) -> usize {
        let end = match side {
            Side::Plain => self.segments.last().map(|segment| segment.to),
            Side::Transposed => self.segments.first().map(|segment| segment.from),
        };
        end.map_or(0, |value| self.tape.length(value))
    }
}

impl<B: Backend, T: Real> Operator<B> for Chain<'_, B, T> {
    fn rows(&self) -> usize {
        self.length(Side::Plain)
    }

    fn columns(&self) -> usize {
        self.length(Side::Transposed)
    }

    fn apply(&self, backend: &B, side: Side, x: &B::Buffer<f64>, y: &mut B::Buffer<f64>) -> Result<()> {
        let other = if side == Side::Plain { Side::Transposed } else { Side::Plain };
        let mut value = converted::<B, f64, T>(backend, x, self.length(other))?;
        for step in 0..self.segments.len() {
            let index = if side == Side::Plain { step } else { self.segments.len() - 1 - step };
            let segment = &self.segments[index];
            value = self.parameters.with(backend, segment, |weights| match side {
                Side::Plain => self.tape.jvp(weights, segment, value),
                Side::Transposed => self.tape.vjp(weights, segment, value),
            })?;
        }
        *y = converted(backend, &value, self.length(side))?;
        Ok(())
    }
}
