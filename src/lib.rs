//! flashpoint reads what a training run left on disk and says what is about to explode, which tensor started it, and why.
//!
//! ```text
//! paths → files → tensor → format → checkpoint → history → analysis → rules → diagnosis → report → screen | file + exit code
//!                                                               └ clip
//! ```
//!
//! Data goes forward only; `docs/architecture.md` says what each room owns and may use, and `tests/architecture.rs`
//! holds the code to it.

pub mod analysis;
pub mod checkpoint;
pub mod clip;
pub mod compute;
pub mod context;
pub mod diagnosis;
pub mod error;
pub mod files;
pub mod format;
pub mod gate;
pub mod history;
pub mod json;
pub mod nearest;
pub mod network;
pub mod number;
pub mod parallel;
pub mod random;
pub mod recover;
pub mod report;
pub mod robust;
pub mod rules;
pub mod tensor;
pub mod train;
