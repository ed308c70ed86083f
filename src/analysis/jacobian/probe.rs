//! What a network is run on: inputs drawn at random where there is no data, or those of a file.
//!
//! The scale of a probe decides: standard normal hidden states gave a gain of 1.1 where tokens through the model's own
//! embedding gave 9.9, as norms divide by the size of what they get. Synthetic tokens therefore go through the embedding, and
//! several draws show their spread. `docs/jacobian.md` says what a synthetic probe means.

use std::path::Path;

use crate::analysis::model::{Measured, ProbeKind};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{self, Entry};
use crate::network::{Feed, Input, InputKind, Network, Targets};
use crate::random::Stream;
use crate::tensor::{DType, Kind, Tensor};

/// Inputs of one shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// Where they come from.
    pub kind: ProbeKind,
    /// The file, by its name.
    pub file: Option<String>,
    /// Sizes of one input.
    pub shape: Vec<u64>,
    /// Length of a sequence.
    pub tokens: Measured<u64>,
    /// Each by itself, a batch of one.
    pub feeds: Vec<Feed>,
}

/// What is asked of a probe.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// Length of a sequence.
    pub tokens: usize,
    /// Inputs.
    pub draws: usize,
    /// Seed of what is drawn.
    pub seed: u64,
    /// Sizes of images, where the network takes any.
    pub image: Vec<u64>,
}

/// Streams of inputs, behind those of vectors.
const FIRST_STREAM: u64 = 1 << 16;

/// Side of an image where neither the network nor the user says.
const SIDE: usize = 32;

/// Numbers of one input.
const LARGEST: u64 = 1 << 26;

/// Draws a probe for `network`.
///
/// # Errors
/// A sentence that says why its input cannot be drawn.
pub fn draw(network: &Network, wanted: &Wanted) -> std::result::Result<Probe, String> {
    let streams = (0..wanted.draws as u64).map(|draw| Stream::new(wanted.seed, FIRST_STREAM + draw));
    let (kind, shape, feeds): (_, Vec<usize>, Vec<Feed>) = match &network.input {
        InputKind::Tokens { vocabulary, positions } => {
            let tokens = wanted.tokens.min(positions.unwrap_or(usize::MAX));
            if *vocabulary == 0 || tokens == 0 {
                return Err("its vocabulary or the sequence is empty".to_owned());
            }
            let feed = |stream: Stream| {
                let ids = random_ids(stream, tokens, *vocabulary);
                Feed::from(Input::Tokens { batch: 1, ids })
            };
            (ProbeKind::SyntheticTokens, vec![tokens], streams.map(feed).collect())
        }
        InputKind::Features { shape } => {
            let sizes = sizes(shape, wanted)?;
            let count = sizes.iter().fold(1u64, |product, &size| product.saturating_mul(size as u64));
            if count == 0 || count > LARGEST {
                return Err(format!("an input of shape {sizes:?} has {count} numbers"));
            }
            let whole: Vec<usize> = std::iter::once(1).chain(sizes.iter().copied()).collect();
            let feed = |stream: Stream| {
                let values = stream.normals(count as usize);
                Feed::from(Input::Features { shape: whole.clone(), values })
            };
            (ProbeKind::SyntheticFeatures, sizes, streams.map(feed).collect())
        }
    };
    if let Some(feed) = feeds.first() {
        network.shapes(&feed.input.shape())?;
    }
    let tokens = length(network, &shape);
    Ok(Probe { kind, file: None, shape: shape.iter().map(|&size| size as u64).collect(), tokens, feeds })
}

/// Token ids, each of the vocabulary as likely as the others.
#[expect(clippy::cast_sign_loss, reason = "a uniform number is not negative")]
pub(super) fn random_ids(stream: Stream, tokens: usize, vocabulary: usize) -> Vec<u32> {
    let id = |u: f64| ((u * vocabulary as f64) as u32).min(vocabulary as u32 - 1);
    stream.uniforms(tokens).into_iter().map(id).collect()
}

/// Sizes of a drawn input: those that the network leaves open are the length of a sequence, or sides of an image.
///
/// # Errors
/// A sentence, where the sides that are wanted of an image are more or fewer than those that are open.
fn sizes(shape: &[Option<usize>], wanted: &Wanted) -> std::result::Result<Vec<usize>, String> {
    let open = shape.iter().filter(|size| size.is_none()).count();
    let is_image = shape.len() > 2;
    if is_image && !wanted.image.is_empty() && wanted.image.len() != open {
        return Err(format!(
            "--input-size gives {} for the {open} that the network leaves open",
            wanted.image.iter().map(u64::to_string).collect::<Vec<_>>().join("x")
        ));
    }
    let mut sides = wanted.image.iter().map(|&side| side as usize);
    let mut of = |size: &Option<usize>| match size {
        Some(size) => *size,
        None if is_image => sides.next().unwrap_or(SIDE),
        None => wanted.tokens,
    };
    Ok(shape.iter().map(&mut of).collect())
}

/// The length of a sequence, for what takes one: tokens, or rows of features of any number.
fn length(network: &Network, shape: &[usize]) -> Measured<u64> {
    match &network.input {
        InputKind::Tokens { .. } => Measured::Value(shape.first().copied().unwrap_or(0) as u64),
        InputKind::Features { shape: declared } if matches!(declared[..], [None, Some(_)]) => {
            Measured::Value(shape.first().copied().unwrap_or(0) as u64)
        }
        InputKind::Features { .. } => Measured::not("the network takes no sequence"),
    }
}

/// Names under which files hold what goes in, and what should come out.
const INPUTS: [&str; 7] = ["input_ids", "inputs", "input", "x", "tokens", "features", "images"];
const LABELS: [&str; 4] = ["labels", "targets", "target", "y"];

/// Reads the inputs of `path`: `.npy`, `.npz` or safetensors, the batch first. Sequences are cut to the length that is asked for.
/// Labels are taken as they are: row t of the output is held against label t, and nothing is shifted.
///
/// # Errors
/// When it holds no input that the network takes.
pub fn read(path: &Path, network: &Network, wanted: &Wanted, context: &Context) -> Result<Probe> {
    let refused = |message: String| ErrorKind::Probe { message }.in_file(path);
    let container = format::detect::read(path, context)?;
    let inputs = pick(&container.entries, &INPUTS).ok_or_else(|| {
        let names: Vec<&str> = container.entries.iter().map(|entry| entry.name.as_str()).take(8).collect();
        refused(format!("none of its arrays is named {}: it has {}", INPUTS.join(", "), names.join(", ")))
    })?;
    let tensor = inputs.readable()?;
    let labels = match container.entries.iter().find(|entry| LABELS.contains(&entry.name.as_str())) {
        Some(entry) => Some(entry.readable()?),
        None => None,
    };
    let feeds = feeds(path, network, tensor, labels, wanted)?;
    let shape = feeds.first().map(|feed| feed.input.shape()).unwrap_or_default();
    let shapes = network.shapes(&shape).map_err(refused)?;
    let logits = shapes[network.output.0].iter().product();
    for feed in &feeds {
        if let Some(Targets::Classes(classes)) = &feed.targets {
            check_labels(classes, logits).map_err(refused)?;
        }
    }
    let own = shape.get(1..).unwrap_or_default();
    Ok(Probe {
        kind: ProbeKind::Data,
        file: path.file_name().map(|name| name.to_string_lossy().into_owned()),
        shape: own.iter().map(|&size| size as u64).collect(),
        tokens: length(network, own),
        feeds,
    })
}

/// The entry of one of these names, or the only one.
fn pick<'e>(entries: &'e [Entry], names: &[&str]) -> Option<&'e Entry> {
    let named = names.iter().find_map(|name| entries.iter().find(|entry| entry.name == *name));
    named.or(match entries {
        [only] => Some(only),
        _ => None,
    })
}

fn feeds(
    path: &Path,
    network: &Network,
    tensor: &Tensor,
    labels: Option<&Tensor>,
    wanted: &Wanted,
) -> Result<Vec<Feed>> {
    let refused = |message: String| ErrorKind::Probe { message }.in_file(path);
    let (batch, own) = match (&network.input, &tensor.shape[..]) {
        (_, []) => return Err(refused("its array has no axes".to_owned())),
        // One sequence of ids needs no axis for the batch.
        (InputKind::Tokens { .. }, [tokens]) => (1, vec![*tokens]),
        (InputKind::Features { shape }, sizes) if sizes.len() == shape.len() => (1, sizes.to_vec()),
        (_, [batch, own @ ..]) => (*batch, own.to_vec()),
    };
    let count = own.iter().fold(1u64, |product, &size| product.saturating_mul(size));
    if batch == 0 || count == 0 || count > LARGEST {
        return Err(refused(format!(
            "its array of shape {:?} holds no input, or too large a one",
            tensor.shape
        )));
    }
    let taken = batch.min(wanted.draws as u64);
    (0..taken)
        .map(|index| {
            let input = match &network.input {
                InputKind::Tokens { vocabulary, positions } => {
                    let tokens =
                        (wanted.tokens as u64).min(count).min(positions.map_or(u64::MAX, |most| most as u64));
                    let ids = ids(path, tensor, index * count..index * count + tokens, *vocabulary)?;
                    Input::Tokens { batch: 1, ids }
                }
                InputKind::Features { .. } => {
                    let values = numbers(path, tensor, index * count..(index + 1) * count)?;
                    let shape = std::iter::once(1).chain(own.iter().map(|&size| size as usize)).collect();
                    Input::Features { shape, values }
                }
            };
            let shapes = network.shapes(&input.shape()).map_err(refused)?;
            let outputs = shapes[network.output.0].iter().product::<usize>() as u64;
            let targets =
                labels.map(|labels| targets(path, labels, (index, batch), &input, outputs)).transpose()?;
            Ok(Feed { input, targets })
        })
        .collect()
}

fn numbers(path: &Path, tensor: &Tensor, range: std::ops::Range<u64>) -> Result<Vec<f64>> {
    let refused = |message: String| ErrorKind::Probe { message }.in_file(path);
    if tensor.dtype.kind() == Kind::Opaque || tensor.dtype.size().is_none() {
        return Err(refused(format!("its array is of {}", tensor.dtype)));
    }
    let mut values = Vec::new();
    tensor.read_f64(range, &mut values)?;
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(refused(format!("its element {at} is not finite"))),
        None => Ok(values),
    }
}

#[expect(clippy::cast_sign_loss, reason = "negative ids are refused")]
fn ids(path: &Path, tensor: &Tensor, range: std::ops::Range<u64>, vocabulary: usize) -> Result<Vec<u32>> {
    let refused = |message: String| ErrorKind::Probe { message }.in_file(path);
    if tensor.dtype.kind() != Kind::Integer || tensor.dtype == DType::Bool {
        return Err(refused(format!("token ids are integers, its array is of {}", tensor.dtype)));
    }
    let id = |value: f64| -> std::result::Result<u32, Error> {
        if value >= 0.0 && value < vocabulary as f64 {
            return Ok(value as u32);
        }
        Err(refused(format!("the id {value} is not below the vocabulary of {vocabulary}")))
    };
    numbers(path, tensor, range)?.into_iter().map(id).collect()
}

/// The class of rows that are left out of the loss.
pub(super) const IGNORED: u32 = u32::MAX;

/// How files say that a row is left out, as PyTorch's `ignore_index` does by default.
const IGNORE_INDEX: f64 = -100.0;

/// Whether labels are one a row of as many logits, each a class of theirs.
///
/// # Errors
/// A sentence that says what does not fit.
pub(super) fn check_labels(classes: &[u32], logits: usize) -> std::result::Result<(), String> {
    let width = logits.checked_div(classes.len()).unwrap_or(0);
    if width == 0 || width * classes.len() != logits {
        return Err(format!("its {} labels are not one a row of the {logits} logits", classes.len()));
    }
    if let Some(class) = classes.iter().find(|class| **class != IGNORED && **class as usize >= width) {
        return Err(format!("the label {class} is none of the {width} classes"));
    }
    if classes.iter().all(|class| *class == IGNORED) {
        return Err("its labels leave every row out".to_owned());
    }
    Ok(())
}

/// What should come out for one input: a number for each of the `outputs` where that is what the file holds, else classes.
fn targets(
    path: &Path,
    labels: &Tensor,
    (index, batch): (u64, u64),
    input: &Input,
    outputs: u64,
) -> Result<Targets> {
    if labels.dtype.kind() == Kind::Float && labels.count() == outputs.saturating_mul(batch) {
        return numbers(path, labels, index * outputs..(index + 1) * outputs).map(Targets::Values);
    }
    classes(path, labels, (index, batch), input)
}

/// The labels of one input: one for each token of it, or one for the whole.
#[expect(clippy::cast_sign_loss, reason = "negative labels are refused")]
fn classes(path: &Path, labels: &Tensor, (index, batch): (u64, u64), input: &Input) -> Result<Targets> {
    let refused = |message: String| ErrorKind::Probe { message }.in_file(path);
    let each = labels.count() / batch.max(1);
    let rows = match input {
        Input::Tokens { ids, .. } => ids.len() as u64,
        Input::Features { .. } => 1,
    };
    if each * batch != labels.count() || each == 0 || (each != rows && each < rows) {
        return Err(refused(format!(
            "its labels of shape {:?} are not one a row of the input",
            labels.shape
        )));
    }
    let found = numbers(path, labels, index * each..index * each + rows)?;
    let class = |value: f64| {
        if value >= 0.0 && value.fract() == 0.0 && value < f64::from(IGNORED) {
            return Ok(value as u32);
        }
        if value == IGNORE_INDEX {
            return Ok(IGNORED);
        }
        Err(refused(format!(
            "the label {value} is no class; the targets of a regression are one for each number that comes out"
        )))
    };
    Ok(Targets::Classes(found.into_iter().map(class).collect::<Result<_>>()?))
}
