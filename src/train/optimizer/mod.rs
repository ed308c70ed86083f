//! The optimizers, one a file, each as its framework writes it: the same operations in the same order, in f32.
//!
//! What differs between frameworks under one name is told in each file. Elements are apart, so threads change nothing.
//! `fixtures/make_train.py` holds every one of them against its framework.

mod tensorflow_adam;
mod tensorflow_adamw;
mod tensorflow_rmsprop;
mod tensorflow_sgd;
#[cfg(test)]
mod tests;
mod torch_adam;
mod torch_adamw;
mod torch_rmsprop;
mod torch_sgd;

use std::fmt;
use std::str::FromStr;

use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::{ParallelSlice, ParallelSliceMut};
use serde::{Deserialize, Serialize};

pub use tensorflow_adam::TensorFlowAdam;
pub use tensorflow_adamw::TensorFlowAdamW;
pub use tensorflow_rmsprop::TensorFlowRmsProp;
pub use tensorflow_sgd::TensorFlowSgd;
pub use torch_adam::TorchAdam;
pub use torch_adamw::TorchAdamW;
pub use torch_rmsprop::TorchRmsProp;
pub use torch_sgd::TorchSgd;

/// Elements that are worth a task of their own.
const CHUNK: usize = 1 << 14;

/// An optimizer, by the name that the command line gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Name {
    /// `torch.optim.SGD`.
    #[serde(rename = "torch.sgd")]
    TorchSgd,
    /// `torch.optim.Adam`.
    #[serde(rename = "torch.adam")]
    TorchAdam,
    /// `torch.optim.AdamW`.
    #[serde(rename = "torch.adamw")]
    TorchAdamW,
    /// `torch.optim.RMSprop`.
    #[serde(rename = "torch.rmsprop")]
    TorchRmsProp,
    /// `keras.optimizers.SGD`.
    #[serde(rename = "tensorflow.sgd")]
    TensorFlowSgd,
    /// `keras.optimizers.Adam`.
    #[serde(rename = "tensorflow.adam")]
    TensorFlowAdam,
    /// `keras.optimizers.AdamW`.
    #[serde(rename = "tensorflow.adamw")]
    TensorFlowAdamW,
    /// `keras.optimizers.RMSprop`.
    #[serde(rename = "tensorflow.rmsprop")]
    TensorFlowRmsProp,
}

impl Name {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::TorchSgd,
        Self::TorchAdam,
        Self::TorchAdamW,
        Self::TorchRmsProp,
        Self::TensorFlowSgd,
        Self::TensorFlowAdam,
        Self::TensorFlowAdamW,
        Self::TensorFlowRmsProp,
    ];

    /// Whether it has momentum that can be set.
    pub const fn has_momentum(self) -> bool {
        !self.has_beta2()
    }

    /// Whether it has a decay of second moments called beta2.
    pub const fn has_beta2(self) -> bool {
        matches!(self, Self::TorchAdam | Self::TorchAdamW | Self::TensorFlowAdam | Self::TensorFlowAdamW)
    }

    /// Whether it divides by something that an epsilon is added to.
    pub const fn has_epsilon(self) -> bool {
        !matches!(self, Self::TorchSgd | Self::TensorFlowSgd)
    }

    /// As the command line and `run.json` have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TorchSgd => "torch.sgd",
            Self::TorchAdam => "torch.adam",
            Self::TorchAdamW => "torch.adamw",
            Self::TorchRmsProp => "torch.rmsprop",
            Self::TensorFlowSgd => "tensorflow.sgd",
            Self::TensorFlowAdam => "tensorflow.adam",
            Self::TensorFlowAdamW => "tensorflow.adamw",
            Self::TensorFlowRmsProp => "tensorflow.rmsprop",
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Name {
    type Err = String;

    /// # Errors
    /// A sentence that lists the names, when it is none of them.
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|name| name.as_str() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::as_str);
            format!("{text:?} is no optimizer; optimizers are {}", names.join(", "))
        })
    }
}

/// What the user sets in place of the framework's defaults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Of SGD and RMSprop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// An L2 penalty or decoupled, as the framework has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Of Adam and AdamW: decay of the second moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta2: Option<f64>,
    /// Added to the root of the second moment, or under it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<f64>,
}

/// An optimizer with its constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Optimizer {
    /// `torch.optim.SGD`.
    TorchSgd(TorchSgd),
    /// `torch.optim.Adam`.
    TorchAdam(TorchAdam),
    /// `torch.optim.AdamW`.
    TorchAdamW(TorchAdamW),
    /// `torch.optim.RMSprop`.
    TorchRmsProp(TorchRmsProp),
    /// `keras.optimizers.SGD`.
    TensorFlowSgd(TensorFlowSgd),
    /// `keras.optimizers.Adam`.
    TensorFlowAdam(TensorFlowAdam),
    /// `keras.optimizers.AdamW`.
    TensorFlowAdamW(TensorFlowAdamW),
    /// `keras.optimizers.RMSprop`.
    TensorFlowRmsProp(TensorFlowRmsProp),
}

/// The state of one parameter: a tensor for each of [`Optimizer::leaves`].
pub type Slots = Vec<Vec<f32>>;

/// One parameter at one step.
pub struct Step<'a> {
    /// Steps that the optimizer has taken, this one included.
    pub number: u64,
    /// The learning rate of this step.
    pub learning_rate: f64,
    /// Changed in place.
    pub weights: &'a mut [f32],
    /// As many.
    pub gradient: &'a [f32],
    /// As many in each, changed in place.
    pub slots: &'a mut [Vec<f32>],
}

impl Optimizer {
    /// The optimizer of this name with the defaults of its framework where nothing else is set.
    pub fn new(name: Name, settings: &Settings) -> Self {
        match name {
            Name::TorchSgd => Self::TorchSgd(TorchSgd::new(settings)),
            Name::TorchAdam => Self::TorchAdam(TorchAdam::new(settings)),
            Name::TorchAdamW => Self::TorchAdamW(TorchAdamW::new(settings)),
            Name::TorchRmsProp => Self::TorchRmsProp(TorchRmsProp::new(settings)),
            Name::TensorFlowSgd => Self::TensorFlowSgd(TensorFlowSgd::new(settings)),
            Name::TensorFlowAdam => Self::TensorFlowAdam(TensorFlowAdam::new(settings)),
            Name::TensorFlowAdamW => Self::TensorFlowAdamW(TensorFlowAdamW::new(settings)),
            Name::TensorFlowRmsProp => Self::TensorFlowRmsProp(TensorFlowRmsProp::new(settings)),
        }
    }

    /// What it calls the tensors that it keeps for each parameter.
    pub const fn leaves(&self) -> &'static [&'static str] {
        match self {
            Self::TorchSgd(own) => own.leaves(),
            Self::TorchRmsProp(own) => own.leaves(),
            Self::TensorFlowSgd(own) => own.leaves(),
            Self::TensorFlowRmsProp(own) => own.leaves(),
            Self::TorchAdam(_) | Self::TorchAdamW(_) | Self::TensorFlowAdam(_) | Self::TensorFlowAdamW(_) => {
                &["exp_avg", "exp_avg_sq"]
            }
        }
    }

    /// The state of a parameter of this many elements before its first step.
    pub fn fresh(&self, elements: usize) -> Slots {
        self.leaves().iter().map(|_| vec![0.0; elements]).collect()
    }

    /// Which of the leaves is the second moment.
    pub fn second_moment(&self) -> Option<usize> {
        self.leaves().iter().position(|leaf| ["exp_avg_sq", "square_avg"].contains(leaf))
    }

    /// Takes one step for one parameter.
    pub fn step(&self, step: Step<'_>) {
        match self {
            Self::TorchSgd(own) => own.step(step),
            Self::TorchAdam(own) => own.step(step),
            Self::TorchAdamW(own) => own.step(step),
            Self::TorchRmsProp(own) => own.step(step),
            Self::TensorFlowSgd(own) => own.step(step),
            Self::TensorFlowAdam(own) => own.step(step),
            Self::TensorFlowAdamW(own) => own.step(step),
            Self::TensorFlowRmsProp(own) => own.step(step),
        }
    }

    /// Its hyperparameters in the words of `state.json`.
    pub fn written(&self, learning_rate: f64) -> Written {
        let (algorithm, mut group) = match self {
            Self::TorchSgd(own) => ("sgd", own.written()),
            Self::TorchAdam(own) => ("adam", own.written()),
            Self::TorchAdamW(own) => ("adamw", own.written()),
            Self::TorchRmsProp(own) => ("rmsprop", own.written()),
            Self::TensorFlowSgd(own) => ("sgd", own.written()),
            Self::TensorFlowAdam(own) => ("adam", own.written()),
            Self::TensorFlowAdamW(own) => ("adamw", own.written()),
            Self::TensorFlowRmsProp(own) => ("rmsprop", own.written()),
        };
        group.lr = learning_rate;
        Written { algorithm: algorithm.to_owned(), groups: vec![group] }
    }
}

/// `optimizer` of `state.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// `adam`, `adamw`, `sgd` or `rmsprop`.
    pub algorithm: String,
    /// One group that has all parameters.
    pub groups: Vec<Group>,
}

/// Hyperparameters of a group.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Learning rate of the next step.
    pub lr: f64,
    /// Of Adam and its like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub betas: Option<[f64; 2]>,
    /// Of Adam and RMSprop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
    /// Decay of RMSprop's mean square.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Of SGD and RMSprop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// Weight decay.
    pub weight_decay: f64,
}

/// Applies `update(weight, gradient)` to every element.
fn each(weights: &mut [f32], gradient: &[f32], update: impl Fn(&mut f32, f32) + Sync) {
    assert_eq!(weights.len(), gradient.len());
    weights.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK)).for_each(|(weights, gradient)| {
        for (weight, &gradient) in weights.iter_mut().zip(gradient) {
            update(weight, gradient);
        }
    });
}

/// Applies `update(weight, gradient, first)` to every element.
fn each_with_one(
    weights: &mut [f32],
    gradient: &[f32],
    first: &mut [f32],
    update: impl Fn(&mut f32, f32, &mut f32) + Sync,
) {
    assert!(weights.len() == gradient.len() && weights.len() == first.len());
    let chunks =
        weights.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK)).zip(first.par_chunks_mut(CHUNK));
    chunks.for_each(|((weights, gradient), first)| {
        for ((weight, &gradient), first) in weights.iter_mut().zip(gradient).zip(first) {
            update(weight, gradient, first);
        }
    });
}

/// Applies `update(weight, gradient, first, second)` to every element.
fn each_with_two(
    weights: &mut [f32],
    gradient: &[f32],
    slots: &mut [Vec<f32>],
    update: impl Fn(&mut f32, f32, &mut f32, &mut f32) + Sync,
) {
    let [first, second] = slots else { panic!("two tensors are kept for each parameter") };
    assert!(weights.len() == gradient.len() && weights.len() == first.len() && first.len() == second.len());
    let chunks = weights
        .par_chunks_mut(CHUNK)
        .zip(gradient.par_chunks(CHUNK))
        .zip(first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK)));
    chunks.for_each(|((weights, gradient), (first, second))| {
        let moments = first.iter_mut().zip(second);
        for ((weight, &gradient), (first, second)) in weights.iter_mut().zip(gradient).zip(moments) {
            update(weight, gradient, first, second);
        }
    });
}

/// `from + weight·(to - from)` as `torch.lerp` computes it: from the nearer end.
fn lerp(from: f32, to: f32, weight: f32) -> f32 {
    if weight < 0.5 { from + weight * (to - from) } else { to - (to - from) * (1.0 - weight) }
}
