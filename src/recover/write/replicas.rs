//! The copies of one state that several ranks wrote: which tensors differ, and the copies of each.

use std::path::PathBuf;

use super::super::unfit::refuse_unfit;
use super::elements::compare;
use crate::checkpoint::{Checkpoint, NameRules, Section};
use crate::context::Context;
use crate::error::{ErrorKind, Result};
use crate::tensor::{Kind, Tensor};

/// Opens the ranks' checkpoints, whose names mean what `names` says.
///
/// # Errors
/// When one cannot be read, is damaged, or would run code when it is loaded.
pub(in crate::recover) fn open(
    paths: &[PathBuf],
    names: &NameRules,
    context: &Context,
) -> Result<Vec<Checkpoint>> {
    let opened = |path: &PathBuf| {
        let checkpoint = Checkpoint::read(path, names, context)?;
        refuse_unfit(&checkpoint, context).map(|()| checkpoint)
    };
    paths.iter().map(opened).collect()
}

/// The tensors of model and optimizer whose bytes differ in any of the other ranks' checkpoints, by index.
///
/// # Errors
/// When a rank lacks one of them, has it in another shape or dtype, or cannot be read.
pub(in crate::recover) fn differing(
    checkpoint: &Checkpoint,
    replicas: &[Checkpoint],
    context: &Context,
) -> Result<Vec<usize>> {
    let mut found = Vec::new();
    for (index, tensor) in checkpoint.tensors.iter().enumerate() {
        let is_state = matches!(tensor.section, Section::Model | Section::Optimizer);
        let Ok(own) = &tensor.tensor else { continue };
        if !is_state || tensor.tied_to.is_some() || own.dtype.kind() != Kind::Float {
            continue;
        }
        for copy in copies(checkpoint, index, replicas)? {
            if compare(own, copy, context)? == Some(false) {
                found.push(index);
                break;
            }
        }
    }
    Ok(found)
}

/// The same tensor in each of the other ranks' checkpoints.
///
/// # Errors
/// When a rank lacks it, or has it in another shape or dtype.
pub(super) fn copies<'a>(
    checkpoint: &Checkpoint,
    index: usize,
    replicas: &'a [Checkpoint],
) -> Result<Vec<&'a Tensor>> {
    let own = &checkpoint.tensors[index];
    let stored = own.readable()?;
    let same = |replica: &'a Checkpoint| {
        let named = replica
            .tensors
            .iter()
            .find(|tensor| tensor.section == own.section && tensor.canonical_name == own.canonical_name);
        let copy = named.and_then(|tensor| tensor.tensor.as_ref().ok());
        copy.filter(|copy| copy.shape == stored.shape && copy.dtype == stored.dtype).ok_or_else(|| {
            let message = format!("it has no {} of the same shape and dtype", own.name);
            let advice = "name the checkpoints that other ranks wrote of the same step";
            ErrorKind::NotDone { message, advice }.in_file(&replica.path)
        })
    };
    replicas.iter().map(same).collect()
}
