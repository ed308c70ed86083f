//! Jacobians of networks at the states they really take, known by their products alone.
//!
//! One algorithm a file, over [`Operator`](crate::analysis::spectrum::operator::Operator). Knows no thresholds and opens no
//! file.

pub mod cost;
pub mod depths;
mod device;
pub mod exact;
pub mod frobenius;
pub mod initial;
pub mod logarithm;
pub mod lyapunov;
pub mod measure;
pub mod parameters;
pub mod probe;
mod question;
pub mod recurrences;
pub mod segment;
pub mod spectrum;
pub mod stages;
pub mod watched;

pub use question::{Prepared, Question, prepare};

/// Precision of products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// f32, as networks are trained: enough for singular values to six digits.
    F32,
    /// f64, for what must be held against a reference.
    F64,
}

impl Precision {
    /// Unit roundoff: by how much a product may be off, relative to itself.
    pub fn unit(self) -> f64 {
        match self {
            Self::F32 => f64::from(f32::EPSILON) / 2.0,
            Self::F64 => f64::EPSILON / 2.0,
        }
    }
}

#[cfg(test)]
mod tests;
