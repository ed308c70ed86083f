//! Jacobians of networks at the states they really take, known by their products alone.
//!
//! One algorithm a file, over [`Operator`](crate::analysis::spectrum::operator::Operator). Knows no thresholds and opens no
//! file.

pub mod exact;
pub mod frobenius;
pub mod logarithm;
pub mod lyapunov;
pub mod mean_field;
pub mod spectrum;
pub mod watched;
