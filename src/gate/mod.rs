//! What a project decided about its checkpoints, in `flashpoint.toml`, and what follows for the one at hand: pass, fail, or
//! could not decide. Formats no text for a screen or a file.
//!
//! [`judge()`] is the only place where a severity is overridden. What is damaged, was not read or was not judged as the
//! policy requires is never a pass.

mod baseline;
mod check;
mod claim;
mod damage;
mod exception;
mod judge;
mod judgement;
mod limit;
mod names;
mod policy;
mod ties;
mod written;

pub use baseline::Baseline;
pub use check::{CHECKS, GateCheck, UNREADABLE, find as find_check, title};
pub use exception::Exception;
pub use judge::{Case, Unreadable, judge};
pub use judgement::{BaselineState, BaselineSummary, Decision, Effect, Judgement, Outcome};
pub use limit::{Limit, Quantity};
pub use policy::{Comparison, Policy};
pub use written::Level;
#[cfg(test)]
pub(crate) use written::policy_schema;

/// The commented policy that `flashpoint gate --init` writes.
pub const TEMPLATE: &str = include_str!("../../docs/flashpoint.toml");
