//! Bytes on disk: the one memory map, bounded reads, the guard against files that change, atomic writes.
//!
//! Knows no format. Everything here takes a path the user or a checkpoint named and treats it as hostile.

mod atomic;
mod containment;
mod digest;
mod directory;
mod input;
mod map;
mod text;

pub use atomic::write_atomically;
pub use containment::{lies_within, open_sibling, refuse_outside};
pub use digest::digest;
pub use directory::{NewDirectory, NewFile, refuse_existing};
pub use input::InputFile;
pub use text::read_text;
