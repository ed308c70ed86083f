//! A safetensors file written anew, because a dtype in it changes or a tensor is added; and the total of its index.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::super::edit::{AddedTensor, Edit, Operation};
use super::elements::copy_elements;
use super::{Source, Work, create, splice, write_at};
use crate::checkpoint::Checkpoint;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::format::safetensors::{self, Written, written_header};
use crate::tensor::{DType, Tensor};

/// Writes file `index` with the work's edits and `added`. False when the user asked to stop.
pub(super) fn write(
    work: &Work<'_>,
    index: usize,
    added: &[&AddedTensor],
    target: &Path,
    context: &Context,
) -> Result<bool> {
    let checkpoint = work.checkpoint;
    let input = &checkpoint.files[index].input;
    let container = safetensors::read(input)?;
    // Several files of a model may repeat each other's names: a tensor is told by where its bytes are, or by its name.
    let own = checkpoint.tensors.iter().enumerate().filter(|(_, tensor)| tensor.file == Some(index));
    let by_name: HashMap<&str, usize> = own.map(|(at, tensor)| (tensor.name.as_str(), at)).collect();
    let find = |name: &str| {
        let labelled = by_name
            .iter()
            .find(|(known, _)| known.strip_suffix(name).is_some_and(|head| head.ends_with('/')));
        by_name.get(name).or_else(|| labelled.map(|(_, at)| at)).copied()
    };
    let mut plan: Vec<(Written, Option<(usize, &Tensor)>)> = Vec::new();
    for entry in &container.entries {
        let tensor = entry.readable()?;
        let edited = find(&entry.name).filter(|at| work.operations.contains_key(at));
        let dtype = edited.map_or(Ok(tensor.dtype), |at| work.job(at).map(|job| job.dtype))?;
        let written = Written { name: entry.name.clone(), dtype, shape: tensor.shape.clone() };
        plan.push((written, Some((edited.unwrap_or(usize::MAX), tensor))));
    }
    for tensor in added {
        let written = Written { name: tensor.tensor.clone(), dtype: DType::F32, shape: Vec::new() };
        plan.push((written, None));
    }
    let list: Vec<Written> = plan.iter().map(|(written, _)| written.clone()).collect();
    let header = written_header(&list, &container.metadata).map_err(|kind| kind.in_file(target))?;
    let file = create(target)?;
    write_at(&file, target, &header, 0)?;
    let mut at = header.len() as u64;
    for (written, source) in &plan {
        let mut append = |bytes: &[u8]| {
            write_at(&file, target, bytes, at)?;
            at += bytes.len() as u64;
            Ok(())
        };
        let done = match source {
            None => append(&0f32.to_le_bytes()).map(|()| true)?,
            Some((usize::MAX, tensor)) => copy_elements(&written.name, tensor, context, append)?,
            Some((edited, _)) => work.job(*edited)?.blocks(context, |_, bytes| append(bytes))?,
        };
        if !done {
            return Ok(false);
        }
    }
    input.check_unchanged()?;
    Ok(true)
}

/// Where an index of shards states it.
const TOTAL: &str = "/metadata/total_size";

/// States the new total in the index of shards, where a cast changed it.
pub(super) fn settle_index(
    checkpoint: &Checkpoint,
    sources: &[Source],
    folder: &Path,
    edits: &[Edit],
    context: &Context,
) -> Result<()> {
    let casts = edits
        .iter()
        .flat_map(|edit| &edit.tensors)
        .any(|change| matches!(change.operation, Operation::Cast { .. }));
    let index = sources.iter().find(|source| source.name.ends_with(".safetensors.index.json"));
    let (true, Some(index)) = (casts, index) else { return Ok(()) };
    let path = folder.join(&index.name);
    let text = std::fs::read_to_string(&path).map_err(|error| Error::io(&path, "read it", &error))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| {
        ErrorKind::SideFile { what: "the index of shards", message: error.to_string() }.in_file(&path)
    })?;
    if value.pointer(TOTAL).is_none() {
        return Ok(());
    }
    let names: Vec<&str> = value_shards(checkpoint);
    let mut bytes = 0u64;
    for name in names {
        let input = std::sync::Arc::new(crate::files::InputFile::open(&folder.join(name), context)?);
        let tensors = safetensors::read(&input)?.entries;
        bytes += tensors
            .iter()
            .filter_map(|entry| entry.tensor.as_ref().ok())
            .map(Tensor::byte_count)
            .sum::<u64>();
    }
    let written = splice::replaced(&text, &[(TOTAL, bytes.to_string())]).unwrap_or(text);
    std::fs::write(&path, written).map_err(|error| Error::io(&path, "write it", &error))
}

/// The shards of the model, by name.
fn value_shards(checkpoint: &Checkpoint) -> Vec<&str> {
    let names = checkpoint.files.iter().map(|file| file.name.as_str());
    names.filter(|name| name.contains("-of-") && name.ends_with(".safetensors")).collect()
}
