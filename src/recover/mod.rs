//! From a state that something is wrong with to one that training goes on from: what a resume has and lacks, which edits repair
//! what can be repaired, a new checkpoint with exactly these edits, and the command that resumes it.
//!
//! Input is never written to: a repair is a new directory that appears whole or not at all. What a training step would
//! have to compute (gradients, losses) is not done here, and no program is started but the one the user names.

mod audit;
mod child;
mod convert;
mod edit;
mod health;
mod limits;
mod manifest;
mod moments;
mod plan;
mod qk_clip;
mod repair;
mod resume;
mod spectral_clip;
mod unfit;
mod watch;
mod write;

pub use audit::{Audit, Component, Exactness, Part, Presence, audit};
pub use child::{Ended, run as run_command};
pub use convert::{Conversion, Fate, Lost, convert};
pub use edit::{
    Action, AddedTensor, Edit, NumberAt, NumberEdit, Operation, Proposal, ScaledRange, TensorEdit,
};
pub use health::{Check, Outcome};
pub use manifest::{MANIFEST, Manifest, SourceFile};
pub use plan::{Plan, QkLimit, Wanted, plan};
pub use repair::{Repaired, repair};
pub use resume::{
    Chosen, From, Settings, Substitution, as_shown, batches, choose, command, learning_rate, new_run,
};
pub use unfit::{not_finite, refuse_irreparable, refuse_unfit};
pub use watch::{Seen, Watch};
