//! The network that is trained, with a loss behind it: `nn`, or what a `model.toml` states.

use std::path::Path;

use super::config::Config;
use super::data::Data;
use super::loss::Loss;
use crate::context::Context;
use crate::error::{ErrorKind, Result};
use crate::files::read_text;
use crate::network::{InputKind, Network, Node, ParameterId, ValueId, builders};

/// The name of the built-in network.
pub const BUILT_IN: &str = "nn";

/// Its file.
const NN: &str = include_str!("nn.toml");

/// Parameters above it are not trained here: 16 GiB with gradients and Adam's moments.
const MOST_PARAMETERS: usize = 1 << 30;

/// A network that ends in a loss.
#[derive(Debug, Clone)]
pub struct Model {
    /// With the loss as its last node and output.
    pub network: Network,
    /// What is compared with the targets.
    pub logits: ValueId,
    /// Sizes of a sample.
    pub sample: Vec<usize>,
    /// Numbers of the logits.
    pub classes: usize,
}

/// The text of the file that says what the network of a name is; none for the built-in one.
///
/// # Errors
/// When the name is neither that of the built-in network nor the path of a file of text.
pub fn read_model(name: &str, context: &Context) -> Result<Option<String>> {
    if name == BUILT_IN {
        return Ok(None);
    }
    let path = Path::new(name);
    if !path.exists() && path.extension().is_none_or(|extension| extension != "toml") {
        let message = format!("there is no network called {name}");
        let advice = "nn is the one that is built in; another is given by the path of its model.toml (docs/model-toml.md)";
        return Err(ErrorKind::NotDone { message, advice }.in_file(Path::new("--model-name")));
    }
    read_text(path, builders::MODEL_FILE, builders::LARGEST_MODEL_FILE, context).map(Some)
}

/// The text of the file that says what the network of a configuration is.
pub(super) fn file_of(config: &Config) -> &str {
    config.model.as_deref().unwrap_or(NN)
}

impl Model {
    /// The network of a configuration, for these examples.
    ///
    /// # Errors
    /// When its file does not say one, or it does not take the examples or give a logit for each of their classes.
    pub(super) fn load(config: &Config, data: &Data) -> Result<Self> {
        let network =
            builders::stated_by_model_toml(file_of(config), Path::new(&config.model_name), &data.shape)?;
        Self::new(network, config.arm.loss, data).map_err(|message| {
            let examples = config.source.data.as_deref().unwrap_or(Path::new("the built-in set"));
            ErrorKind::TrainingData { message: format!("{}: {message}", config.model_name) }.in_file(examples)
        })
    }

    /// The parameters of the last layer that has some, which AGC leaves alone.
    pub(super) fn head(&self) -> Vec<ParameterId> {
        let nodes = self.network.nodes.iter().rev();
        let mut parameters = nodes.map(|node| node.operation.shaped().parameters());
        parameters.find(|own| !own.is_empty()).unwrap_or_default()
    }

    fn new(mut network: Network, loss: Loss, data: &Data) -> std::result::Result<Self, String> {
        let InputKind::Features { shape } = &network.input else {
            return Err("the network takes token ids, and examples are numbers".to_owned());
        };
        let sizes = network.parameters.iter().map(|parameter| parameter.shape.iter().product::<usize>());
        let count = sizes.fold(0, usize::saturating_add);
        if count == 0 || count > MOST_PARAMETERS {
            return Err(format!("it has {count} parameters, and 1 to {MOST_PARAMETERS} are trained"));
        }
        let sample: Vec<usize> = shape.iter().copied().flatten().collect();
        if sample.iter().product::<usize>() != data.shape.iter().product::<usize>() {
            return Err(format!(
                "it takes samples of shape {sample:?}, the examples are of shape {:?}",
                data.shape
            ));
        }
        let shapes = network.shapes(&[&[1], sample.as_slice()].concat())?;
        let logits = network.output;
        let classes = match shapes[logits.0].as_slice() {
            [1, classes] => *classes,
            other => {
                return Err(format!("its output is of shape {other:?}, not a row of logits for each sample"));
            }
        };
        if data.classes > classes {
            return Err(format!(
                "the examples have labels up to {}, the network {classes} outputs",
                data.classes - 1
            ));
        }
        network.nodes.push(Node {
            name: "loss".to_owned(),
            operation: loss.operation(),
            inputs: vec![logits],
        });
        network.output = ValueId(network.nodes.len() - 1);
        Ok(Self { network, logits, sample, classes })
    }
}
