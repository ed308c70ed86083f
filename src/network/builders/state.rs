//! The tensors of a model as builders ask for them: by canonical name, with their shapes.

use super::{LARGEST, Places};
use crate::checkpoint::{Checkpoint, Section};
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::Kind;

/// A checkpoint's model, without its numbers.
pub(super) struct State<'c> {
    pub checkpoint: &'c Checkpoint,
    pub places: Places<'c>,
}

impl<'c> State<'c> {
    pub fn of(checkpoint: &'c Checkpoint) -> Self {
        Self { checkpoint, places: Places::of(checkpoint) }
    }

    /// That the network cannot be told, and why.
    pub fn unknown(&self, message: impl Into<String>) -> Error {
        ErrorKind::UnknownArchitecture { message: message.into() }.in_file(&self.checkpoint.path)
    }

    /// Canonical names of the model's floating tensors, in file order.
    pub fn names(&self) -> Vec<&'c str> {
        let is_float = |tensor: &&crate::checkpoint::CheckpointTensor| {
            tensor.section == Section::Model
                && tensor.tensor.as_ref().is_ok_and(|tensor| tensor.dtype.kind() == Kind::Float)
        };
        let tensors = self.checkpoint.tensors.iter().filter(is_float);
        tensors.map(|tensor| tensor.canonical_name.as_str()).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        self.places.find(name).is_some()
    }

    /// The shape of a tensor; `None` where there is none of this name.
    ///
    /// # Errors
    /// When it cannot be read, or a size is none that a layer has.
    pub fn shape(&self, name: &str) -> Result<Option<Vec<usize>>> {
        let Some(index) = self.places.find(name) else { return Ok(None) };
        let named = &self.checkpoint.tensors[index];
        let tensor = named.readable()?;
        if tensor.shape.iter().any(|&size| size == 0 || size > LARGEST) {
            let message = format!("{name} has shape {:?}, which no layer has", tensor.shape);
            return Err(self.unknown(message).for_tensor(&named.name));
        }
        Ok(Some(tensor.shape.iter().map(|&size| size as usize).collect()))
    }
}

/// Where the shapes of parameters are looked up.
#[derive(Clone, Copy)]
pub(super) enum Sizes<'s> {
    /// The tensors of a checkpoint.
    Stored(&'s State<'s>),
    /// What a layer of a model file states of its own parameters.
    Stated(&'s [(String, Vec<usize>)]),
}

impl<'s> Sizes<'s> {
    /// Those of a checkpoint where there is one.
    pub fn of(state: Option<&'s State<'s>>, stated: &'s [(String, Vec<usize>)]) -> Self {
        state.map_or(Self::Stated(stated), Self::Stored)
    }

    pub fn has(self, name: &str) -> bool {
        match self {
            Self::Stored(state) => state.has(name),
            Self::Stated(shapes) => shapes.iter().any(|(own, _)| own == name),
        }
    }

    /// The shape of a parameter; `None` where there is none of this name.
    ///
    /// # Errors
    /// As [`State::shape`].
    pub fn shape(self, name: &str) -> Result<Option<Vec<usize>>> {
        match self {
            Self::Stored(state) => state.shape(name),
            Self::Stated(shapes) => {
                Ok(shapes.iter().find(|(own, _)| own == name).map(|(_, shape)| shape.clone()))
            }
        }
    }

    pub fn names(self) -> Vec<&'s str> {
        match self {
            Self::Stored(state) => state.names(),
            Self::Stated(shapes) => shapes.iter().map(|(name, _)| name.as_str()).collect(),
        }
    }
}

/// A name below another, which may be that of the whole.
pub(super) fn below(prefix: &str, leaf: &str) -> String {
    if prefix.is_empty() { leaf.to_owned() } else { format!("{prefix}.{leaf}") }
}
