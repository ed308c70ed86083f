//! A checkpoint's tensors as one safetensors file, block by block. What does not go over is said.
//!
//! Tensors keep their names as stored. Of tied tensors the first is written; the others are stated in the file's metadata, alias to
//! name, as `safetensors.torch.save_model` does. A view is written as it is seen.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use serde::Serialize;

use super::unfit;
use super::write::{copy_elements, sources};
use crate::checkpoint::{Checkpoint, CheckpointTensor, Section};
use crate::context::Context;
use crate::error::{ErrorKind, Result};
use crate::files::NewFile;
use crate::format::safetensors::{Written, has_dtype, written_header};
use crate::format::{Danger, Format, Node, NodeId, Objects, detect};
use crate::number::counted;
use crate::tensor::{Tensor, saturating_count};

/// How many times its stored bytes a view may become: `expand` shows one element for as many as one likes.
const MOST_EXPANSION: u64 = 64;

/// Bytes that any tensor may become, however it is stored.
const LEAST_LIMIT: u64 = 1 << 20;

/// Nodes of a pickled object that are counted.
const MOST_NODES: usize = 1 << 22;

/// What came of a conversion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Conversion {
    /// The checkpoint's name.
    pub checkpoint: String,
    /// Tensors written.
    pub written: u64,
    /// Bytes of their elements.
    pub bytes: u64,
    /// Tensors that are not plainly themselves in the file.
    pub fates: Vec<Fate>,
    /// What does not go over, beside tensors.
    pub lost: Vec<Lost>,
    /// Tensors that do not go over, each with the reason: the conversion is not whole.
    pub refused: Vec<Lost>,
}

/// What became of one tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It is tied to another, which stands for both.
    Tied {
        /// Its name.
        tensor: String,
        /// The one that is written.
        to: String,
    },
    /// It is a strided view, written in the order in which it is seen.
    View {
        /// Its name.
        tensor: String,
    },
    /// One stored element stands for several, and is written as often.
    Expanded {
        /// Its name.
        tensor: String,
        /// How often.
        times: u64,
    },
    /// Its bytes are also those of another view, and are written twice.
    Shared {
        /// Its name.
        tensor: String,
        /// The other.
        with: String,
    },
}

/// Something that does not go over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Lost {
    /// What: a file, a key, a tensor.
    pub what: String,
    /// Why, or how much.
    pub why: String,
}

/// Writes the tensors of `checkpoint`, those of `sections` where any are named, to the new file `target`. `None` when the user
/// asked to stop: then nothing is left.
///
/// # Errors
/// When the checkpoint is damaged, when no tensor is left, when something is at `target`, or the system refuses.
pub fn convert(
    checkpoint: &Checkpoint,
    sections: &[Section],
    target: &Path,
    context: &Context,
) -> Result<Option<Conversion>> {
    let refuse =
        |message: String, advice| Err(ErrorKind::NotDone { message, advice }.in_file(&checkpoint.path));
    unfit::refuse_damaged(checkpoint)?;
    // What is copied on with a new header has no checksum that could tell later.
    unfit::refuse_wrong_checksums(checkpoint, context)?;
    let mut conversion = Conversion {
        checkpoint: checkpoint.name.clone(),
        written: 0,
        bytes: 0,
        fates: Vec::new(),
        lost: Vec::new(),
        refused: Vec::new(),
    };
    let chosen = conversion.choose(checkpoint, sections);
    if chosen.is_empty() {
        return match conversion.refused.first() {
            Some(first) => refuse(format!("{}: {}", first.what, first.why), "take another checkpoint"),
            None => refuse("it holds no tensor of the sections asked for".to_owned(), "leave --only out"),
        };
    }
    conversion.lost = lost(checkpoint, context)?;
    let mut metadata = checkpoint.metadata.clone();
    let by_torch =
        checkpoint.files.iter().any(|file| matches!(file.format, Format::TorchZip | Format::TorchLegacy));
    if by_torch {
        // Records of the archive are about the archive.
        metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    }
    for fate in &conversion.fates {
        if let Fate::Tied { tensor, to } = fate {
            metadata.insert(tensor.clone(), to.clone());
        }
    }
    let list: Vec<Written> = chosen
        .iter()
        .map(|(named, tensor)| Written {
            name: named.name.clone(),
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
        })
        .collect();
    let header = written_header(&list, &metadata).map_err(|kind| kind.in_file(target))?;
    context.progress.expect(list.iter().map(Written::byte_count).fold(0, u64::saturating_add));
    let mut file = NewFile::beside(target)?;
    file.write(&header)?;
    for (named, tensor) in &chosen {
        let done = copy_elements(&named.name, tensor, context, |bytes| {
            context.progress.advance(bytes.len() as u64);
            file.write(bytes)
        })?;
        if !done {
            return Ok(None);
        }
        conversion.bytes += tensor.byte_count();
    }
    conversion.written = chosen.len() as u64;
    checkpoint.files.iter().try_for_each(|file| file.input.check_unchanged())?;
    file.publish()?;
    Ok(Some(conversion))
}

impl Conversion {
    /// The tensors that are written, in the order in which they lie in the file: the widest elements first, so that all are aligned.
    fn choose<'a>(
        &mut self,
        checkpoint: &'a Checkpoint,
        sections: &[Section],
    ) -> Vec<(&'a CheckpointTensor, &'a Tensor)> {
        let wanted = |tensor: &&CheckpointTensor| sections.is_empty() || sections.contains(&tensor.section);
        let mut chosen: Vec<(&CheckpointTensor, &Tensor)> = Vec::new();
        let mut names = BTreeSet::new();
        for named in checkpoint.tensors.iter().filter(wanted) {
            let tensor = match &named.tensor {
                Ok(tensor) => tensor,
                Err(error) => {
                    self.refuse(named, error.kind.to_string());
                    continue;
                }
            };
            if let Some(to) = named.tied_to.as_ref().filter(|to| names.contains(to.as_str())) {
                if names.contains(named.name.as_str()) {
                    self.refuse(named, "another tensor has this name".to_owned());
                } else {
                    self.fates.push(Fate::Tied { tensor: named.name.clone(), to: to.clone() });
                }
                continue;
            }
            if let Some(reason) = unwritable(tensor) {
                self.refuse(named, reason);
                continue;
            }
            if !names.insert(named.name.as_str()) {
                self.refuse(named, "another tensor has this name".to_owned());
                continue;
            }
            self.note_view(named, tensor);
            chosen.push((named, tensor));
        }
        self.note_shared(&chosen);
        chosen.sort_by(|(one, tensor), (other, others)| {
            others.dtype.bits().cmp(&tensor.dtype.bits()).then_with(|| one.name.cmp(&other.name))
        });
        chosen
    }

    fn refuse(&mut self, named: &CheckpointTensor, why: String) {
        self.refused.push(Lost { what: named.name.clone(), why });
    }

    fn note_view(&mut self, named: &CheckpointTensor, tensor: &Tensor) {
        let times = tensor.without_repeats().1;
        if times > 1 {
            self.fates.push(Fate::Expanded { tensor: named.name.clone(), times });
        } else if tensor.contiguous_bytes().is_none() && tensor.count() > 0 {
            self.fates.push(Fate::View { tensor: named.name.clone() });
        }
    }

    /// Views that share bytes without being the same one.
    fn note_shared(&mut self, chosen: &[(&CheckpointTensor, &Tensor)]) {
        let mut places: Vec<(usize, u64, u64, &str)> = chosen
            .iter()
            .filter_map(|(named, tensor)| {
                let piece = tensor.pieces.first()?;
                Some((
                    std::sync::Arc::as_ptr(&piece.file).addr(),
                    piece.bytes.start,
                    piece.bytes.end,
                    named.name.as_str(),
                ))
            })
            .collect();
        places.sort_unstable();
        let mut farthest: Option<(usize, u64, &str)> = None;
        for (file, start, end, name) in places {
            if let Some((of, until, with)) = farthest
                && of == file
                && start < until
            {
                self.fates.push(Fate::Shared { tensor: name.to_owned(), with: with.to_owned() });
            }
            if farthest.is_none_or(|(of, until, _)| of != file || end > until) {
                farthest = Some((file, end, name));
            }
        }
    }
}

/// Why a tensor cannot be written.
fn unwritable(tensor: &Tensor) -> Option<String> {
    if !has_dtype(tensor.dtype) {
        return Some(format!("the format has no {}", tensor.dtype));
    }
    if tensor.dtype.size().is_none() && tensor.contiguous_bytes().is_none() && tensor.count() > 0 {
        return Some("its elements are packed into bytes, and do not lie together".to_owned());
    }
    let stored: u64 = tensor.pieces.iter().map(|piece| piece.bytes.end - piece.bytes.start).sum();
    let limit = stored.saturating_mul(MOST_EXPANSION).max(LEAST_LIMIT);
    if tensor.byte_count() > limit {
        return Some(format!("{} bytes would become {}", stored, tensor.byte_count()));
    }
    (tensor.count() == 0 && saturating_count(&tensor.shape) != 0).then(|| "its shape has no size".to_owned())
}

/// What the files hold beside tensors.
fn lost(checkpoint: &Checkpoint, context: &Context) -> Result<Vec<Lost>> {
    let mut lost = Vec::new();
    let read: HashMap<&Path, usize> =
        checkpoint.files.iter().enumerate().map(|(index, file)| (file.input.path(), index)).collect();
    for source in sources(checkpoint)? {
        let Some(&index) = read.get(source.path.as_path()) else {
            lost.push(Lost { what: source.name, why: "a file without tensors that are read".to_owned() });
            continue;
        };
        match detect::read_file(&checkpoint.files[index].input, context) {
            Ok(container) => {
                let objects = container.objects.as_ref();
                lost.extend(objects.map(|objects| beside_tensors(objects, &source.name)).unwrap_or_default());
            }
            Err(error) => {
                let why = format!("what it holds beside tensors cannot be told: {}", error.kind);
                lost.push(Lost { what: source.name, why });
            }
        }
    }
    let uncovered: u64 =
        checkpoint.files.iter().flat_map(|file| &file.uncovered).map(|range| range.end - range.start).sum();
    if uncovered > 0 {
        let why = format!("{uncovered} bytes that no tensor refers to");
        lost.push(Lost { what: "data".to_owned(), why });
    }
    for (file, found) in checkpoint.globals.iter().filter(|(_, found)| found.danger == Danger::Dangerous) {
        let what = format!("{}.{}", found.global.module, found.global.name);
        let why = format!("{} would have run it: the new file runs nothing", checkpoint.files[*file].name);
        lost.push(Lost { what, why });
    }
    Ok(lost)
}

/// What a pickled object holds beside tensors: one line for each key of its root.
fn beside_tensors(objects: &Objects, file: &str) -> Vec<Lost> {
    let Some(root) = objects.root else { return Vec::new() };
    let entries = objects.entries(root).unwrap_or_default();
    if entries.is_empty() {
        return tell(objects, root, file).into_iter().collect();
    }
    let named = entries.iter().filter_map(|&(key, value)| {
        let key =
            objects.text(key).map_or_else(|| "an entry".to_owned(), |key| key.chars().take(80).collect());
        tell(objects, value, &format!("{key} of {file}"))
    });
    named.collect()
}

/// Numbers, texts and objects below a node; `None` where there are only tensors.
fn tell(objects: &Objects, node: NodeId, what: &str) -> Option<Lost> {
    let mut seen = BTreeSet::new();
    let mut open = vec![node];
    let (mut values, mut calls) = (0u64, BTreeSet::new());
    while let Some(id) = open.pop() {
        if seen.len() >= MOST_NODES || !seen.insert(id) {
            continue;
        }
        match objects.node(id) {
            Node::List(items) | Node::Tuple(items) | Node::Set(items) => open.extend(items),
            Node::Dict(entries) => open.extend(entries.iter().map(|&(_, value)| value)),
            Node::Object(object) => {
                let name = objects.global(object.callable).map(|global| global.name.clone());
                // What only holds others in order is nothing of its own.
                if name.as_deref() != Some("OrderedDict") {
                    calls.extend(name);
                }
                open.extend(&object.items);
                open.extend(object.entries.iter().map(|&(_, value)| value));
                open.extend(object.state);
            }
            Node::Int(_)
            | Node::BigInt(_)
            | Node::Float(_)
            | Node::Text(_)
            | Node::Bytes { .. }
            | Node::Bool(_) => {
                values += 1;
            }
            _ => {}
        }
    }
    // The attributes that `state_dict` keeps beside its tensors are one version number a module.
    if values == 0 && calls.is_empty() {
        return None;
    }
    let mut parts = Vec::new();
    if values > 0 {
        parts.push(counted(values, "value"));
    }
    if !calls.is_empty() {
        let names: Vec<&str> = calls.iter().map(String::as_str).take(4).collect();
        parts.push(format!("objects such as {}", names.join(", ")));
    }
    Some(Lost { what: what.to_owned(), why: parts.join(", ") })
}
