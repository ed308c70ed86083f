//! Tied tensors: two names of the same elements.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::CheckpointTensor;
use crate::files::InputFile;
use crate::tensor::{DType, Piece, Tensor};

/// Marks every tensor whose bytes are those of an earlier one, seen in the same way.
pub(super) fn tie(tensors: &mut [CheckpointTensor]) {
    let mut first: HashMap<View<'_>, usize, RandomState> =
        HashMap::with_capacity_and_hasher(tensors.len(), RandomState::default());
    let mut ties = Vec::new();
    for (index, tensor) in tensors.iter().enumerate() {
        let Some(view) = tensor.tensor.as_ref().ok().and_then(View::of) else { continue };
        let earlier = *first.entry(view).or_insert(index);
        if earlier != index {
            ties.push((index, tensors[earlier].name.clone()));
        }
    }
    for (index, name) in ties {
        tensors[index].tied_to = Some(name);
    }
}

/// How a tensor sees the bytes of its file: equal for two names of the same elements.
pub(super) struct View<'a> {
    dtype: DType,
    piece: &'a Piece,
}

impl<'a> View<'a> {
    /// `None` where there are no bytes, or several parts.
    pub(super) fn of(tensor: &'a Tensor) -> Option<Self> {
        let [piece] = tensor.pieces.as_slice() else { return None };
        Some(Self { dtype: tensor.dtype, piece })
    }

    /// The open file itself is compared, not its name: what two parts of a file inflated to bear one name.
    fn key(&self) -> (*const InputFile, u64, DType, impl Iterator<Item = (u64, u64)> + 'a) {
        let axes = self.piece.axes.iter().map(|axis| (axis.size, axis.storage_stride));
        (Arc::as_ptr(&self.piece.file), self.piece.bytes.start, self.dtype, axes)
    }
}

impl PartialEq for View<'_> {
    fn eq(&self, other: &Self) -> bool {
        let (file, start, dtype, axes) = self.key();
        let (other_file, other_start, other_dtype, other_axes) = other.key();
        (file, start, dtype) == (other_file, other_start, other_dtype) && axes.eq(other_axes)
    }
}

impl Eq for View<'_> {}

impl Hash for View<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (file, start, dtype, axes) = self.key();
        (file, start, dtype).hash(state);
        axes.for_each(|axis| axis.hash(state));
    }
}
