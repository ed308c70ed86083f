//! Networks as a `model.toml` writes them down: layers one after the other, with labels for what goes around them.
//!
//! `docs/model-toml.md` describes the format. Sizes come from the checkpoint's own tensors, and the file says what no shape tells; where there
//! is no checkpoint yet, the file states them too (`stated.rs`).

mod images;
mod layers;
mod stated;
mod table;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use self::stated::Stated;
use self::table::{Source, Table};
use super::Built;
use super::state::{Sizes, State};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::nearest::did_you_mean;
use crate::network::{Assembly, Block, InputKind, MOST_NUMBERS, Network, Operation, ValueId};

/// Keys and values of a table, with their places.
type Keys = BTreeMap<Spanned<String>, Spanned<toml::Value>>;

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// What the network is called.
    name: Option<String>,
    /// What it takes.
    input: Keys,
    /// What is computed, in order.
    layer: Vec<Keys>,
}

/// What the file is called in errors.
pub const MODEL_FILE: &str = "the model file";

/// Bytes above it are those of no such file.
pub const LARGEST_MODEL_FILE: u64 = 1 << 20;

/// Layers above it are those of no network.
const MOST_LAYERS: usize = 4096;

/// The label of what the network is given.
const INPUT: &str = "input";

/// The network that `text`, the file at `path`, says a checkpoint is of.
///
/// # Errors
/// With line and column, when it is not TOML, a key or an operation is unknown, a value is missing or of the wrong kind, a
/// layer cannot take what it is given, or the checkpoint has no such parameters.
pub fn from_model_toml(text: &str, path: &Path, checkpoint: &Checkpoint) -> Result<Built> {
    let source = Source { text, path };
    let file = source.file()?;
    let kind = input(&Table::of_input(&source, &file.input))?;
    let network = network(&source, &file, kind, Some(&State::of(checkpoint)))?;
    Built::join(network, checkpoint)
}

/// The network that `text`, the file at `path`, states with all its sizes, for samples of this shape. A loss at its end is left out.
///
/// # Errors
/// As [`from_model_toml`]; and when a size is missing, or the network takes token ids.
pub fn stated_by_model_toml(text: &str, path: &Path, sample: &[usize]) -> Result<Network> {
    let source = Source { text, path };
    let file = source.file()?;
    let table = Table::of_input(&source, &file.input);
    let kind = input(&table)?.filled(sample).map_err(|message| table.refuse_at("shape", &message))?;
    Ok(network(&source, &file, kind, None)?.without_loss())
}

/// The same text with the sizes that its input leaves open as samples of this shape have them.
///
/// # Errors
/// As [`stated_by_model_toml`], of the input.
pub fn with_input_sizes(text: &str, path: &Path, sample: &[usize]) -> Result<String> {
    let source = Source { text, path };
    let file = source.file()?;
    let table = Table::of_input(&source, &file.input);
    let kind = input(&table)?;
    let is_open = matches!(&kind, InputKind::Features { shape } if shape.contains(&None));
    let Some(place) = table.place("shape").filter(|_| is_open) else { return Ok(text.to_owned()) };
    let filled = kind.filled(sample).map_err(|message| table.refuse_at("shape", &message))?;
    let InputKind::Features { shape } = filled else { return Ok(text.to_owned()) };
    let sizes: Vec<String> = shape.iter().flatten().map(ToString::to_string).collect();
    Ok(format!("{}[{}]{}", &text[..place.start], sizes.join(", "), &text[place.end..]))
}

fn network(source: &Source<'_>, file: &File, input: InputKind, state: Option<&State<'_>>) -> Result<Network> {
    let mut writing = Writing::new(file, input, state);
    if file.layer.is_empty() || file.layer.len() > MOST_LAYERS {
        let message = format!("1 to {MOST_LAYERS} layers are needed, there are {}", file.layer.len());
        return Err(source.refuse(&message, 0));
    }
    for (index, keys) in file.layer.iter().enumerate() {
        let table = Table::new(source, keys, "op")?;
        if layers::LOSSES.contains(&table.op()) {
            writing.check_loss(&table, index + 1 == file.layer.len())?;
        }
        writing.layer(&table)?;
    }
    if let Some(block) = writing.block.take() {
        writing.assembly.block(block);
    }
    let output = writing.last.expect("there is a layer");
    Ok(writing.assembly.finish(output))
}

/// A network while its layers are read.
struct Writing<'w> {
    /// A checkpoint's tensors; without one, layers state the shapes of their parameters.
    state: Option<&'w State<'w>>,
    /// Those of the layer that is being read.
    stated: Stated,
    assembly: Assembly,
    /// Values by their labels.
    labels: BTreeMap<String, ValueId>,
    /// What the layer before gives; `None` in front of an embedding.
    last: Option<ValueId>,
    /// The shape of one input with a batch of 1, where all sizes are known.
    input: Option<Vec<usize>>,
    /// The shapes of values that follow from it.
    shapes: Vec<Option<Vec<usize>>>,
    /// The block that is being written.
    block: Option<Block>,
}

impl<'w> Writing<'w> {
    fn new(file: &File, kind: InputKind, state: Option<&'w State<'w>>) -> Self {
        let known = match &kind {
            InputKind::Features { shape } => {
                let sizes: Option<Vec<usize>> = shape.iter().copied().collect();
                sizes.map(|sizes| [vec![1], sizes].concat())
            }
            InputKind::Tokens { .. } => None,
        };
        let is_features = matches!(kind, InputKind::Features { .. });
        let mut writing = Self {
            state,
            stated: Vec::new(),
            assembly: Assembly::new(file.name.as_deref().unwrap_or("model.toml"), kind),
            labels: BTreeMap::new(),
            last: None,
            input: known.clone(),
            shapes: Vec::new(),
            block: None,
        };
        if is_features {
            let input = writing.assembly.input();
            writing.shapes.push(known);
            writing.labels.insert(INPUT.to_owned(), input);
            writing.last = Some(input);
        }
        writing
    }

    /// Where shapes of parameters are looked up.
    fn sizes(&self) -> Sizes<'_> {
        Sizes::of(self.state, &self.stated)
    }

    /// Reads one layer.
    fn layer(&mut self, table: &Table<'_>) -> Result<()> {
        let (name, label, block) = (table.text("name")?, table.text("as")?, table.text("block")?);
        let first = match table.text("from")? {
            Some(label) => Some(self.labelled(table, "from", label)?),
            None => self.last,
        };
        let mut inputs: Vec<ValueId> = first.into_iter().collect();
        for label in table.texts("with")? {
            inputs.push(self.labelled(table, "with", label)?);
        }
        let count = self.assembly.count();
        let node = label.or(name).map_or_else(|| format!("{}.{count}", table.op()), str::to_owned);
        let output = layers::push(self, table, &node, &inputs)?;
        table.finish()?;
        self.check_shapes(table)?;
        if let Some(label) = label.or(name)
            && self.labels.insert(label.to_owned(), output).is_some()
        {
            let key = if table.has("as") { "as" } else { "name" };
            let message = format!("{label} is the label of an earlier value; give this one another with as");
            return Err(table.refuse_at(key, &message));
        }
        self.within(table, block, first, output)?;
        self.last = Some(output);
        Ok(())
    }

    /// That a loss is of what the network gives: it stands last, behind a layer, and is no part of a block.
    fn check_loss(&self, table: &Table<'_>, is_last: bool) -> Result<()> {
        let refused = if !is_last {
            Some(("op", "a loss stands last: nothing is computed from it"))
        } else if self.assembly.count() < 2 {
            Some(("op", "a loss stands behind the layers whose output it judges"))
        } else if table.has("from") {
            Some(("from", "a loss is of the layer before it"))
        } else if table.has("block") {
            Some(("block", "a loss is no part of a block"))
        } else {
            None
        };
        refused.map_or(Ok(()), |(key, message)| Err(table.refuse_at(key, message)))
    }

    fn labelled(&self, table: &Table<'_>, key: &str, label: &str) -> Result<ValueId> {
        self.labels.get(label).copied().ok_or_else(|| {
            let near = did_you_mean(label, self.labels.keys().map(String::as_str));
            table.refuse_at(key, &format!("no earlier value has the label {}{near}", label.escape_debug()))
        })
    }

    /// An operation on earlier values.
    fn push(&mut self, node: &str, operation: impl Into<Operation>, inputs: &[ValueId]) -> ValueId {
        self.assembly.push(node, operation, inputs)
    }

    /// The shape of a value, where it is known.
    fn shape(&self, value: ValueId) -> Option<&[usize]> {
        self.shapes.get(value.0)?.as_deref()
    }

    /// That the new nodes take what they are given, as far as shapes are known.
    fn check_shapes(&mut self, table: &Table<'_>) -> Result<()> {
        for index in self.shapes.len()..self.assembly.count() {
            let value = ValueId(index);
            let inputs = self.assembly.inputs(value);
            let known: Option<Vec<&[usize]>> = inputs.iter().map(|&input| self.shape(input)).collect();
            let shape = match (&self.input, known) {
                (Some(input), Some(known)) => {
                    let shape = self.assembly.operation(value).shaped().shape(input, &known);
                    let shape = shape.map_err(|message| table.refuse_at("op", &message))?;
                    if is_too_large(&shape) {
                        return Err(
                            table.refuse_at("op", &format!("gives {shape:?}, more than can be computed"))
                        );
                    }
                    Some(shape)
                }
                _ => None,
            };
            self.shapes.push(shape);
        }
        Ok(())
    }

    /// Puts the layer into the block that it says it is in.
    fn within(
        &mut self,
        table: &Table<'_>,
        name: Option<&str>,
        input: Option<ValueId>,
        output: ValueId,
    ) -> Result<()> {
        let goes_on = self.block.as_ref().map(|block| block.name.as_str()) == name;
        if !goes_on && let Some(block) = self.block.take() {
            self.assembly.block(block);
        }
        match (&mut self.block, name) {
            (Some(block), _) => block.output = output,
            (None, Some(name)) => {
                let input =
                    input.ok_or_else(|| table.refuse_at("block", "a block begins behind the embedding"))?;
                self.block = Some(Block { name: name.to_owned(), input, output, parts: Vec::new() });
            }
            (None, None) => {}
        }
        Ok(())
    }
}

/// Whether a value of this shape has too many numbers, also to count them.
fn is_too_large(shape: &[usize]) -> bool {
    let count = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
    count.is_none_or(|count| count > MOST_NUMBERS)
}

/// What the network takes.
fn input(table: &Table<'_>) -> Result<InputKind> {
    let kind = if let Some(vocabulary) = table.size("vocabulary")? {
        InputKind::Tokens { vocabulary, positions: table.size("positions")? }
    } else {
        let shape = table.free_sizes("shape")?;
        if is_too_large(&shape.iter().flatten().copied().collect::<Vec<_>>()) {
            return Err(table.refuse_at("shape", "shape is that of more numbers than can be computed"));
        }
        InputKind::Features { shape }
    };
    table.finish()?;
    Ok(kind)
}
