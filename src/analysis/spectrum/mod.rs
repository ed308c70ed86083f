//! Singular values of weights: of matrices, of convolutions as operators, of attention heads, recurrences and adapters.
//!
//! One algorithm a file, over `compute::Backend`; which one measures a matrix is the table of `choice`. No matrix is skipped:
//! what is not measured says why. Tensors are spread over the threads; within one the order of sums is fixed, so that the
//! numbers are the same on any number of them.

mod adapter;
mod attention;
pub(in crate::analysis) mod batch;
pub mod bidiagonal;
pub mod block_lanczos;
pub mod bracket;
pub mod change;
mod checkpoint;
pub mod choice;
mod config_convolutions;
pub mod convolution;
mod convolution_norm;
pub mod density;
mod device;
mod fourier;
mod geometry;
pub mod head;
pub mod jacobi;
pub mod krylov;
pub mod lanczos;
mod layout;
pub mod marchenko_pastur;
pub mod matrix;
pub mod operator;
pub mod power_law;
pub mod recurrence;
mod rows;
pub mod symmetric;
mod tensor;
pub mod tridiagonal;

pub use checkpoint::{Layers, measure_all};
pub use rows::AttentionRows;
