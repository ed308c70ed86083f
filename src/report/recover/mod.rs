//! What repair, convert and resume say: what a state has and lacks, what is changed and why, what came of it.

mod convert;
mod plan;
mod resume;

pub use convert::conversion_page;
pub use plan::{audit_page, manifest_page, repair_plan_page};
pub use resume::{Continuation, ResumeReport, resume_page};
