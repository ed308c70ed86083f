//! Where the queries and keys of each head lie, for who has to change them.

use std::ops::Range;

use super::layout::{Attention, Projections};
use crate::checkpoint::{Checkpoint, Section};

/// The projections of one attention layer, by index among the checkpoint's tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttentionRows {
    /// The layer's path, as in its measurement.
    pub layer: String,
    /// The tensor of the queries.
    pub query: usize,
    /// That of the keys; the same one where they are stored as one.
    pub key: usize,
    /// Biases of both.
    pub query_bias: Option<usize>,
    /// See `query_bias`.
    pub key_bias: Option<usize>,
    /// Heads lie along axis 1, not 0.
    pub transposed: bool,
    /// Of each query head its rows, and those of the keys that it meets.
    pub heads: Vec<(Range<u64>, Range<u64>)>,
}

impl AttentionRows {
    /// Every attention layer of a model.
    ///
    /// # Errors
    /// Why heads cannot be told apart, as a reason.
    pub fn of(checkpoint: &Checkpoint) -> Result<Vec<Self>, String> {
        let layers = Attention::find(checkpoint)?;
        Ok(layers.iter().map(|layer| Self::new(checkpoint, layer)).collect())
    }

    fn new(checkpoint: &Checkpoint, layer: &Attention) -> Self {
        let heads = (0..layer.heads.query).map(|head| layer.rows(head)).collect();
        let name = layer.layer.clone();
        match layer.projections {
            Projections::Apart { query, key, bias } => {
                let key_bias = bias_beside(checkpoint, key);
                Self { layer: name, query, key, query_bias: bias, key_bias, transposed: false, heads }
            }
            Projections::Fused { tensor, bias, transposed, .. } => Self {
                layer: name,
                query: tensor,
                key: tensor,
                query_bias: bias,
                key_bias: bias,
                transposed,
                heads,
            },
        }
    }
}

/// The bias of the module that holds tensor `index`.
fn bias_beside(checkpoint: &Checkpoint, index: usize) -> Option<usize> {
    let bias = format!("{}.bias", checkpoint.tensors[index].layer.path);
    let is_it = |tensor: &crate::checkpoint::CheckpointTensor| {
        tensor.section == Section::Model && tensor.canonical_name == bias
    };
    checkpoint.tensors.iter().position(is_it)
}
