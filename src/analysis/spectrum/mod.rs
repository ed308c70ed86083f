//! Singular values of weights.

pub mod bidiagonal;
pub mod bracket;
pub mod jacobi;
pub mod lanczos;
pub mod operator;
pub mod symmetric;
pub mod tridiagonal;
