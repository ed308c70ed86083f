//! The reference trainer: small networks, with the whole state of a run on disk.
//!
//! Knows no rule and no report. What it writes is a run directory as `docs/run-directory.md` has it; the gradients are
//! `network/`'s, the clipping `clip/`'s. A run that was stopped and goes on has the same bits as one that was not, at any number of
//! threads: sums have a fixed order, random numbers are by counter, and a checkpoint holds everything else (`state.rs`).
//!
//! ```text
//! Config → Data, Model → Run (one an arm: Arm + position + record) → session: batch after batch, all arms
//! ```

mod arm;
mod config;
mod data;
mod initialization;
mod log;
mod loss;
mod model;
mod norm;
mod numerics;
pub mod optimizer;
mod passes;
mod run;
mod schedule;
mod session;
mod state;
mod storage;

pub use arm::{Arm, Measured, Numbers, Stepped};
pub use config::{ArmConfig, Clip, Config, Interval, Precision, WeightUpdate};
pub use data::{Batch, Data, LoadSize, Normalization, Source};
pub use initialization::Initialization;
pub use loss::Loss;
pub use model::{BUILT_IN, Model, read_model};
pub use numerics::Fingerprint;
pub use run::{Parent, Record, RunFile, is_run};
pub use schedule::{Schedule, Shape};
pub use session::{
    Clipping, Event, Request, Resumption, RunsOn, Settings, Trained, check_resumption, resume, train,
};
pub use state::State;
pub use storage::{checkpoint_path, read_state};
