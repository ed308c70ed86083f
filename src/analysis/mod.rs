//! Everything measured: the model of an analysis, and the algorithms that fill it. Judges nothing, prints nothing.

pub mod model;
pub mod optimizer;
pub mod statistics;
