//! What a project decided about its checkpoints, in `flashpoint.toml`.

mod policy;

pub use policy::Policy;
