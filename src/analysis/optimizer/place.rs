//! Where a parameter's state lies: its moments, its weights, and why they cannot be read where that is so.

use super::history::History;
use super::moment::{Blockwise, Moment};
use crate::checkpoint::optimizer::{Algorithm, Codebook, OptimizerState, ParameterGroup, ParameterState};
use crate::checkpoint::{Checkpoint, CheckpointTensor, Role};
use crate::tensor::{Kind, Tensor};

/// Where a parameter's state is.
pub(super) struct Place<'a> {
    pub checkpoint: &'a Checkpoint,
    pub optimizer_index: usize,
    pub optimizer: &'a OptimizerState,
    pub group: &'a ParameterGroup,
    pub state: &'a ParameterState,
}

impl<'a> Place<'a> {
    /// Every parameter with state, optimizer by optimizer.
    pub fn all(checkpoint: &'a Checkpoint) -> Vec<Self> {
        let of_one = |(optimizer_index, optimizer): (usize, &'a OptimizerState)| {
            let stored = optimizer.parameters.iter().filter(|state| state.stored);
            stored.map(move |state| Self {
                checkpoint,
                optimizer_index,
                optimizer,
                group: &optimizer.groups[state.group],
                state,
            })
        };
        checkpoint.optimizers.iter().enumerate().flat_map(of_one).collect()
    }

    /// The tensors that are read.
    pub fn read(&self) -> Vec<&'a Tensor> {
        match self.moments() {
            Ok(Moments { first, second, .. }) => {
                let moments = [first, second].into_iter().flatten().map(|moment| moment.tensor());
                moments.chain(self.weight()).collect()
            }
            Err(_) => Vec::new(),
        }
    }

    pub fn named(&self) -> Option<&'a CheckpointTensor> {
        self.state.parameter.map(|index| &self.checkpoint.tensors[index])
    }

    /// The weights themselves, where they are known and can be read.
    pub fn weight(&self) -> Option<&'a Tensor> {
        let weight = self.named()?.tensor.as_ref().ok()?;
        let shape = self.moments().ok()?.shape;
        (weight.shape == shape && readable(weight).is_ok()).then_some(weight)
    }

    /// The moments, or why they cannot be read.
    pub fn moments(&self) -> Result<Moments<'a>, String> {
        let tensor = |index: Option<usize>| {
            let Some(index) = index else { return Ok(None) };
            let named = &self.checkpoint.tensors[index];
            let tensor = named.tensor.as_ref().map_err(|error| format!("{}: {}", named.name, error.kind))?;
            readable(tensor).map(|()| Some(tensor))
        };
        let plain = |index: Option<usize>| tensor(index).map(|tensor| tensor.map(Moment::Plain));
        let (first, second) = match self.optimizer.algorithm {
            Algorithm::Adam | Algorithm::AdamW | Algorithm::AdamLike => {
                (plain(self.state.exp_avg)?, plain(self.state.exp_avg_sq)?)
            }
            Algorithm::EightBit => self.eight_bit()?,
            Algorithm::Lion => (plain(self.state.exp_avg)?, None),
            Algorithm::Sgd => (plain(self.state.momentum_buffer)?, None),
            Algorithm::RmsProp | Algorithm::Adagrad => {
                (plain(self.state.momentum_buffer)?, plain(self.state.square_avg)?)
            }
            Algorithm::Adafactor => {
                let reason =
                    "Adafactor keeps its second moment factored: it cannot be taken apart into elements";
                return Err(reason.to_owned());
            }
            Algorithm::Unknown { .. } => return Err("the optimizer is not one that is known".to_owned()),
        };
        if self.optimizer.algorithm.is_adam() && (first.is_none() || second.is_none()) {
            return Err("one of its moments is not there".to_owned());
        }
        let shapes: Vec<&[u64]> =
            [&first, &second].into_iter().flatten().map(|moment| moment.tensor().shape.as_slice()).collect();
        match shapes[..] {
            [] => Err("no moments are stored".to_owned()),
            [one, other] if one != other => Err("its moments have different shapes".to_owned()),
            [shape, ..] => Ok(Moments { first, second, shape }),
        }
    }

    /// The states of bitsandbytes: codes with a codebook, or, of small tensors, plain numbers.
    fn eight_bit(&self) -> Result<(Option<Moment<'a>>, Option<Moment<'a>>), String> {
        let named = |index: Option<usize>| {
            let Some(index) = index else { return Ok(None) };
            let named = &self.checkpoint.tensors[index];
            named.tensor.as_ref().map(Some).map_err(|error| format!("{}: {}", named.name, error.kind))
        };
        let History { beta1, beta2, .. } = History::of(self.group, self.state.step)?;
        let [first_codebook, second_codebook] = self.state.codebooks;
        let moment = |index: Option<usize>, codebook: Codebook, decay: f64| {
            let Some(tensor) = named(index)? else {
                return Err("only optimizers of two states are decoded".to_owned());
            };
            if tensor.dtype.kind() == Kind::Float {
                return readable(tensor).map(|()| Some(Moment::Plain(tensor)));
            }
            if tensor.without_repeats().1 != 1 {
                return Err("it is an expanded view of fewer elements".to_owned());
            }
            let (values, scales) = (named(codebook.values)?, named(codebook.scales)?);
            Blockwise::new(tensor, values, scales, decay).map(|blockwise| Some(Moment::Blockwise(blockwise)))
        };
        Ok((
            moment(self.state.exp_avg, first_codebook, beta1)?,
            moment(self.state.exp_avg_sq, second_codebook, beta2)?,
        ))
    }

    /// AMSGrad's largest second moments, or why they cannot be compared element by element. `None` where none are kept.
    pub fn maximum(&self, shape: &[u64]) -> Option<Result<&'a Tensor, String>> {
        let named = &self.checkpoint.tensors[self.state.max_exp_avg_sq?];
        let tensor = match &named.tensor {
            Ok(tensor) => tensor,
            Err(error) => return Some(Err(format!("{}: {}", named.name, error.kind))),
        };
        if tensor.shape != shape {
            return Some(Err("its largest second moment has another shape than its moments".to_owned()));
        }
        let unread = |reason| format!("its largest second moment cannot be read: {reason}");
        Some(readable(tensor).map(|()| tensor).map_err(unread))
    }

    /// What leads to the state, where its tensor is not known: the name of a moment without its last component.
    pub fn name(&self) -> String {
        if let Some(named) = self.named() {
            return named.name.clone();
        }
        let state = self.state;
        let moments = [state.exp_avg, state.exp_avg_sq, state.momentum_buffer, state.square_avg];
        match moments.into_iter().flatten().next() {
            Some(index) => {
                let name = &self.checkpoint.tensors[index].canonical_name;
                name.rsplit_once('.').map_or(name.as_str(), |(state, _)| state).to_owned()
            }
            None => format!("{}: {}", self.optimizer.place, state.key),
        }
    }

    pub fn is_sparse(&self) -> bool {
        let role = self.named().map(|named| named.role);
        matches!(role, Some(Role::TokenEmbedding | Role::PositionEmbedding | Role::Expert | Role::Router))
    }
}

pub(super) struct Moments<'a> {
    pub first: Option<Moment<'a>>,
    pub second: Option<Moment<'a>>,
    pub shape: &'a [u64],
}

/// Whether elements can be read one by one; an expanded view has more of them than the file has bytes.
pub(in crate::analysis) fn readable(tensor: &Tensor) -> Result<(), String> {
    if tensor.dtype.kind() != Kind::Float {
        return Err(format!("{} moments are not decoded", tensor.dtype));
    }
    if tensor.without_repeats().1 != 1 {
        return Err("it is an expanded view of fewer elements".to_owned());
    }
    Ok(())
}
