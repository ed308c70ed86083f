//! Pickles, read by a machine that builds plain data and runs nothing.
//!
//! [`read`] interprets every opcode of protocols 0 to 5 over an arena ([`Objects`]). A call becomes a node that says what
//! would have been called; the name of what would have been called is taken from the stack and the memo, as CPython
//! takes it, and judged by the tables in `globals.rs`.

mod globals;
mod literal;
mod machine;
mod opcode;
#[cfg(test)]
mod tests;

pub use globals::{Judgement, judge};
pub use machine::{Fault, MAX_BYTES, MAX_GLOBALS, MAX_HELD, Pickle, read};

use super::{Danger, Global, GlobalUse, Node, NodeId, Object, Objects, Span};
