//! Tensors as they lie in files: dtype, shape, the pieces that hold the elements, and reading by logical index.
//!
//! Computes no statistic. A tensor is not one slice: partitioned, chunked, strided and shared storages exist.

pub mod decode;
mod dtype;
pub mod encode;
mod piece;

pub use dtype::{DType, Kind};
pub use piece::{Axis, Listed, Piece, Tensor, element_count, saturating_count};
