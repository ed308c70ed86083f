//! The methods, one a file, and the closed list of them. A method limits one step at a time and knows nothing of runs.
//!
//! [`Clipper::threshold`] is for a recorded norm; [`Clipper::apply`] for the gradients themselves, and what a trainer calls. What
//! a method needs beyond the norm it says in [`Method::needs`], and then has no threshold.

use std::fmt;
use std::mem::discriminant;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::gradient::{Applied, Parameter, global_norm, scale};
use crate::analysis::series::clip::coefficient;

mod ada_gc;
mod auto_clip;
mod block_rms;
mod by_value;
mod dp_quantile;
mod fixed_norm;
mod mean_deviation;
mod mean_multiple;
mod per_layer;
mod rolling_median;
mod skip_step;
mod spam;
#[cfg(test)]
mod tests;
mod unit_wise;
mod update_clipping;
mod window;
mod z_clip;

pub use ada_gc::AdaGc;
pub use auto_clip::AutoClip;
pub use block_rms::BlockRms;
pub use by_value::ByValue;
pub use dp_quantile::DpQuantile;
pub use fixed_norm::{FixedNorm, USUAL};
pub use mean_deviation::MeanDeviation;
pub use mean_multiple::MeanMultiple;
pub use per_layer::{PerLayer, Shares};
pub use rolling_median::{CLIPPED_SHARE, MOST_POWER, MOST_REACH, POWER_RATE, RECENT_NORMS, RollingMedian};
pub use skip_step::SkipStep;
pub use spam::Spam;
pub use unit_wise::UnitWise;
pub use update_clipping::UpdateClipping;
pub use z_clip::ZClip;

/// A method and its constants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Method {
    /// The global norm, to a constant.
    FixedNorm(FixedNorm),
    /// Every element, to a constant.
    ByValue(ByValue),
    /// Every tensor's norm, to its share of a constant.
    PerLayer(PerLayer),
    /// Every tensor's RMS, to a constant.
    BlockRms(BlockRms),
    /// Every unit's norm, to a share of its weights' (AGC).
    UnitWise(UnitWise),
    /// A percentile of the norms so far.
    AutoClip(AutoClip),
    /// Norms that stand out from an exponential mean.
    ZClip(ZClip),
    /// Every tensor's norm, to an exponential mean of its own.
    AdaGc(AdaGc),
    /// Elements that stand out of their second moment.
    Spam(Spam),
    /// The step of every tensor, by g²/v (`StableAdamW`).
    UpdateClipping(UpdateClipping),
    /// A quantile followed by a geometric step.
    DpQuantile(DpQuantile),
    /// The mean of the last norms plus k deviations.
    MeanDeviation(MeanDeviation),
    /// Steps that stand out are not taken.
    SkipStep(SkipStep),
    /// A multiple of the mean norm.
    MeanMultiple(MeanMultiple),
    /// A multiple of the median of the last norms that is itself adapted to the share it clips.
    RollingMedian(RollingMedian),
}

/// What a method needs to be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Needs {
    /// The norm of the whole gradient.
    Norm,
    /// The norm of every tensor's gradient, at every step.
    TensorNorms,
    /// The gradients themselves, with weights or second moments.
    Gradients,
}

/// A method under way.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Stored")]
pub struct Clipper {
    /// The method.
    pub method: Method,
    state: State,
}

/// A method as it was written down, by this version or another.
#[derive(Deserialize)]
struct Stored {
    method: Method,
    state: State,
}

impl TryFrom<Stored> for Clipper {
    type Error = String;

    /// A method without its own memory would let everything through.
    fn try_from(Stored { method, state }: Stored) -> Result<Self, String> {
        let is_its_own = discriminant(&state) == discriminant(&method.start().state);
        if is_its_own {
            Ok(Self { method, state })
        } else {
            Err(format!("what is remembered of {} is of another method or version", method.name()))
        }
    }
}

/// What methods remember.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum State {
    None,
    AutoClip(auto_clip::State),
    ZClip(z_clip::State),
    AdaGc(ada_gc::State),
    Spam(spam::State),
    DpQuantile(dp_quantile::State),
    Window(window::Window),
    RollingMedian(rolling_median::State),
    Mean(mean_multiple::State),
}

impl Method {
    /// The method with nothing seen yet.
    pub fn start(self) -> Clipper {
        let state = match self {
            Method::AutoClip(_) => State::AutoClip(auto_clip::State::default()),
            Method::ZClip(_) => State::ZClip(z_clip::State::default()),
            Method::AdaGc(_) => State::AdaGc(ada_gc::State::default()),
            Method::Spam(_) => State::Spam(spam::State::default()),
            Method::DpQuantile(_) => State::DpQuantile(dp_quantile::State::default()),
            Method::MeanDeviation(_) | Method::SkipStep(_) => State::Window(window::Window::default()),
            Method::RollingMedian(_) => State::RollingMedian(rolling_median::State::default()),
            Method::MeanMultiple(_) => State::Mean(mean_multiple::State::default()),
            Method::FixedNorm(_)
            | Method::ByValue(_)
            | Method::PerLayer(_)
            | Method::BlockRms(_)
            | Method::UnitWise(_)
            | Method::UpdateClipping(_) => State::None,
        };
        Clipper { method: self, state }
    }

    /// What it needs.
    pub fn needs(self) -> Needs {
        match self {
            Method::FixedNorm(_)
            | Method::AutoClip(_)
            | Method::ZClip(_)
            | Method::DpQuantile(_)
            | Method::MeanDeviation(_)
            | Method::SkipStep(_)
            | Method::MeanMultiple(_)
            | Method::RollingMedian(_) => Needs::Norm,
            Method::PerLayer(_) | Method::BlockRms(_) | Method::AdaGc(_) => Needs::TensorNorms,
            Method::ByValue(_) | Method::UnitWise(_) | Method::Spam(_) | Method::UpdateClipping(_) => {
                Needs::Gradients
            }
        }
    }

    /// Its name on the command line and in JSON, without its constants.
    pub fn name(self) -> &'static str {
        match self {
            Method::FixedNorm(_) => "global-norm",
            Method::ByValue(_) => "by-value",
            Method::PerLayer(_) => "per-layer",
            Method::BlockRms(_) => "block-rms",
            Method::UnitWise(_) => "agc",
            Method::AutoClip(_) => "autoclip",
            Method::ZClip(_) => "zclip",
            Method::AdaGc(_) => "adagc",
            Method::Spam(_) => "spam",
            Method::UpdateClipping(_) => "update-clipping",
            Method::DpQuantile(_) => "dp-quantile",
            Method::MeanDeviation(_) => "mean-deviation",
            Method::SkipStep(_) => "skip-step",
            Method::MeanMultiple(_) => "mean-multiple",
            Method::RollingMedian(_) => "rolling-median",
        }
    }
}

impl fmt::Display for Method {
    /// The method with the constants that tell it from others of its kind.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = crate::number::short;
        let text = match self {
            Method::FixedNorm(own) => format!("global norm {}", short(own.threshold)),
            Method::ByValue(own) => format!("by value {}", short(own.limit)),
            Method::PerLayer(own) => format!("per layer, {}", short(own.threshold)),
            Method::BlockRms(own) => format!("block RMS {}", short(own.threshold)),
            Method::UnitWise(own) => format!("AGC {}", short(own.ratio)),
            Method::AutoClip(own) => format!("AutoClip {}", short(own.percentile)),
            Method::ZClip(own) => match own.max_norm {
                Some(most) => format!("ZClip, at most {}", short(most)),
                None => "ZClip".to_owned(),
            },
            Method::AdaGc(_) => "AdaGC".to_owned(),
            Method::Spam(own) => format!("SPAM {}", short(own.ratio)),
            Method::UpdateClipping(_) => "update clipping (StableAdamW)".to_owned(),
            Method::DpQuantile(own) => format!("DP quantile {}", short(own.quantile)),
            Method::MeanDeviation(own) => format!("mean + {} sigma", short(own.deviations)),
            Method::SkipStep(own) => format!("skip beyond {} sigma", short(own.deviations)),
            Method::MeanMultiple(own) => format!("{} times the mean", short(own.multiple)),
            Method::RollingMedian(own) => format!("rolling median {}", short(own.multiple)),
        };
        f.pad(&text)
    }
}

impl FromStr for Method {
    type Err = String;

    /// A name of [`Method::name`] for the method with its paper's constants, or a number for the global norm.
    ///
    /// # Errors
    /// A sentence, when it is neither.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(threshold) = text.parse::<f64>() {
            let usable = threshold > 0.0 && threshold.is_finite();
            let method = Method::FixedNorm(FixedNorm { threshold });
            return if usable { Ok(method) } else { Err(format!("{text} is no norm to clip to")) };
        }
        let known = Self::with_usual_constants();
        let found = known.iter().find(|method| method.name() == text).copied();
        found.ok_or_else(|| {
            let names: Vec<&str> = known.iter().map(|method| method.name()).collect();
            format!("{text:?} is no clipping method; methods are {}, or a number", names.join(", "))
        })
    }
}

impl Method {
    /// Every method once, with the constants of its paper or its reference.
    pub fn with_usual_constants() -> [Method; 15] {
        [
            Method::FixedNorm(FixedNorm { threshold: USUAL }),
            Method::ByValue(ByValue { limit: 1.0 }),
            Method::PerLayer(PerLayer { threshold: USUAL, shares: Shares::Uniform }),
            Method::BlockRms(BlockRms { threshold: 1.0 }),
            Method::UnitWise(UnitWise::default()),
            Method::AutoClip(AutoClip { percentile: 10.0 }),
            Method::ZClip(ZClip { max_norm: Some(USUAL), ..ZClip::default() }),
            Method::AdaGc(AdaGc::default()),
            Method::Spam(Spam::default()),
            Method::UpdateClipping(UpdateClipping::default()),
            Method::DpQuantile(DpQuantile::default()),
            Method::MeanDeviation(MeanDeviation::default()),
            Method::SkipStep(SkipStep::default()),
            Method::MeanMultiple(MeanMultiple { multiple: 1.0 }),
            Method::RollingMedian(RollingMedian::default()),
        ]
    }
}

impl Clipper {
    /// What a step of this norm is limited to: infinity where it is not, 0 where it is not taken; `None` where the method needs
    /// more than the norm. A norm that is not finite is no step: it gives 0 and is not remembered.
    pub fn threshold(&mut self, norm: f64) -> Option<f64> {
        if self.method.needs() > Needs::Norm {
            return None;
        }
        if !norm.is_finite() {
            return Some(0.0);
        }
        match (&self.method, &mut self.state) {
            (Method::FixedNorm(own), _) => Some(own.threshold(&mut (), norm)),
            (Method::AutoClip(own), State::AutoClip(state)) => Some(own.threshold(state, norm)),
            (Method::ZClip(own), State::ZClip(state)) => Some(own.threshold(state, norm)),
            (Method::DpQuantile(own), State::DpQuantile(state)) => Some(own.threshold(state, norm)),
            (Method::MeanDeviation(own), State::Window(state)) => Some(own.threshold(state, norm)),
            (Method::SkipStep(own), State::Window(state)) => Some(own.threshold(state, norm)),
            (Method::MeanMultiple(own), State::Mean(state)) => Some(own.threshold(state, norm)),
            (Method::RollingMedian(own), State::RollingMedian(state)) => Some(own.threshold(state, norm)),
            _ => None,
        }
    }

    /// By what each tensor is multiplied at a step of these norms, for the methods whose needs are at most
    /// [`Needs::TensorNorms`]; `elements` are the tensors' sizes.
    pub fn factors(&mut self, norms: &[f64], elements: &[u64]) -> Option<Vec<f64>> {
        let by_limit = |limits: Vec<f64>| {
            let factor = |(norm, limit): (&f64, f64)| if *norm > limit { limit / norm } else { 1.0 };
            norms.iter().zip(limits).map(factor).collect::<Vec<f64>>()
        };
        match (&self.method, &mut self.state) {
            (Method::PerLayer(own), _) => {
                let total = elements.iter().sum();
                let of = |&size: &u64| own.of_one(size, total, elements.len());
                Some(by_limit(elements.iter().map(of).collect()))
            }
            (Method::BlockRms(own), _) => {
                Some(by_limit(elements.iter().map(|&size| own.of_one(size)).collect()))
            }
            (Method::AdaGc(own), State::AdaGc(state)) => Some(own.factors(state, norms)),
            _ => {
                let norm = norms.iter().map(|norm| norm * norm).sum::<f64>().sqrt();
                self.threshold(norm).map(|limit| vec![coefficient(norm, limit); norms.len()])
            }
        }
    }

    /// Clips the gradients of one step in place. A gradient that is not finite is left as it is, and its step is to be skipped:
    /// scaling it would make NaN of what was infinite and 0 of the rest.
    pub fn apply(&mut self, parameters: &mut [Parameter<'_>]) -> Applied {
        let norm = global_norm(parameters);
        let mut applied = Applied {
            norm,
            clipped_norm: norm,
            skip: !norm.is_finite(),
            reset_moments: false,
            rates: vec![1.0; parameters.len()],
        };
        if applied.skip {
            return applied;
        }
        match (&self.method, &mut self.state) {
            (Method::ByValue(own), _) => own.apply(parameters),
            (Method::PerLayer(own), _) => own.apply(parameters),
            (Method::BlockRms(own), _) => own.apply(parameters),
            (Method::UnitWise(own), _) => own.apply(parameters),
            (Method::AdaGc(own), State::AdaGc(state)) => own.apply(state, parameters),
            (Method::Spam(own), State::Spam(state)) => {
                let rest = own.apply(state, parameters);
                applied.reset_moments = rest.reset_moments;
                applied.rates.fill(rest.rate);
            }
            (Method::UpdateClipping(own), _) => applied.rates = own.factors(parameters),
            _ => {
                let limit = self.threshold(norm).unwrap_or(f64::INFINITY);
                applied.skip = limit == 0.0;
                let factor = coefficient(norm, limit);
                if factor < 1.0 && !applied.skip {
                    for parameter in parameters.iter_mut() {
                        scale(parameter.gradient, factor);
                    }
                }
            }
        }
        applied.clipped_norm = if applied.skip { 0.0 } else { global_norm(parameters) };
        applied
    }
}
