//! An interpreter of the PTX that is committed, so that kernels are tested where there is no GPU.
//!
//! It knows the instructions that occur and no other: an unknown one is an error, never a guess. It checks what a GPU does not tell:
//! bounds and alignment of every access, writes to what is read through the read-only cache, lanes missing from a shuffle, barriers
//! that not every thread of a block comes to, and kernels that do not end. It cannot show races between warps in every order (it runs
//! them first to last, or last to first), nor speed.

mod machine;
mod operations;
mod parse;

pub use machine::{Grid, Memory, Order, launch};
pub use parse::{Kernel, Module};
