//! Clipping thresholds: which one would have held the spikes of a run and left the rest alone, by the run's own record.
//!
//! One method a file in `method/`, for a recorded norm and, for the trainer, on gradients. `series.rs` takes the norms out of
//! an analysis, `fit.rs` finds what is usual, `backtest.rs` judges every method, `recommend.rs` puts them together. Opens no
//! file and judges no run: `docs/clip.md` says how each number comes about, `docs/benchmarks-clip.md` how well it holds.

mod backtest;
mod estimate;
mod fit;
mod gradient;
mod layers;
mod losers;
mod method;
mod notes;
mod onset;
mod optimizer;
mod recommend;
mod series;
mod snippets;
mod state;

pub use crate::analysis::series::clip::{coefficient, cosine};
pub use backtest::{Backtest, Candidate, run as backtest};
pub use estimate::{Estimate, correlation_time, mean, quantile, share};
pub use fit::{Fit, fit};
pub use gradient::{Applied, Parameter};
pub use layers::{Concentration, TensorEnergy};
pub use method::{
    AdaGc, AutoClip, BlockRms, ByValue, Clipper, DpQuantile, FixedNorm, MeanDeviation, MeanMultiple, Method,
    Needs, PerLayer, RECENT_NORMS, RollingMedian, Shares, SkipStep, Spam, UnitWise, UpdateClipping, ZClip,
};
pub use recommend::{Advice, Recommendation, Status, advise};
pub use series::{Point, Series, Source, collect};
pub use snippets::{Snippet, global_norm as global_norm_snippets};
