//! The network that is trained, with a loss behind it: `nn`, or what a `model.toml` states.

use std::collections::BTreeSet;
use std::path::Path;

use super::config::Config;
use super::data::Data;
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

/// Examples that are looked at together without learning from them.
pub(super) const MEASURED_TOGETHER: usize = 100;

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
    /// The file that says it, with the sizes of its input.
    pub file: String,
}

/// Why a network is not trained.
enum Refusal {
    /// It is none that is trained, whatever the examples.
    Network(String),
    /// It does not take these examples.
    Examples(String),
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

impl Model {
    /// The network of a configuration, for these examples.
    ///
    /// # Errors
    /// When its file does not say one, or it does not take the examples or give a logit for each of their classes.
    pub(super) fn load(config: &Config, data: &Data) -> Result<Self> {
        let (text, path) = (config.model.as_deref().unwrap_or(NN), Path::new(&config.model_name));
        let network = builders::stated_by_model_toml(text, path, &data.shape)?;
        let file = builders::with_input_sizes(text, path, &data.shape)?;
        Self::new(network, file, config, data).map_err(|refusal| match refusal {
            Refusal::Network(message) => {
                ErrorKind::SideFile { what: builders::MODEL_FILE, message }.in_file(path)
            }
            Refusal::Examples(message) => {
                let examples = config.source.data.as_deref().unwrap_or(Path::new("the built-in set"));
                let message = format!("{} {message}", config.model_name);
                let advice = "mend the examples, or name a network that takes them: --model-name";
                ErrorKind::NotDone { message, advice }.in_file(examples)
            }
        })
    }

    /// The parameters of the last layer that has some, which AGC leaves alone.
    pub(super) fn head(&self) -> Vec<ParameterId> {
        let nodes = self.network.nodes.iter().rev();
        let mut parameters = nodes.map(|node| node.operation.shaped().parameters());
        parameters.find(|own| !own.is_empty()).unwrap_or_default()
    }

    fn new(
        mut network: Network,
        file: String,
        config: &Config,
        data: &Data,
    ) -> std::result::Result<Self, Refusal> {
        let InputKind::Features { shape } = &network.input else {
            unreachable!("a network of token ids has no sizes to fill in");
        };
        let sample: Vec<usize> = shape.iter().copied().flatten().collect();
        check_parameters(&network).map_err(Refusal::Network)?;
        if sample.iter().product::<usize>() != data.shape.iter().product::<usize>() {
            let message = format!("takes samples of shape {sample:?}, these are of shape {:?}", data.shape);
            return Err(Refusal::Examples(message));
        }
        let logits = network.output;
        let classes = logits_of(&network, &sample, 1).map_err(Refusal::Network)?;
        let most = most_together(config.batch_size, data);
        logits_of(&network, &sample, most)
            .map_err(|message| Refusal::Network(format!("of {most} examples together: {message}")))?;
        if data.classes > classes {
            let message = format!("gives {classes} logits, the labels go up to {}", data.classes - 1);
            return Err(Refusal::Examples(message));
        }
        network.nodes.push(Node {
            name: "loss".to_owned(),
            operation: config.arm.loss.operation(),
            inputs: vec![logits],
        });
        network.output = ValueId(network.nodes.len() - 1);
        Ok(Self { network, logits, sample, classes, file })
    }
}

/// How many logits the network gives for each of so many samples.
///
/// # Errors
/// When it gives something else, or takes more memory than is used.
fn logits_of(network: &Network, sample: &[usize], count: usize) -> std::result::Result<usize, String> {
    let shapes = network.shapes(&[&[count], sample].concat())?;
    match shapes[network.output.0].as_slice() {
        &[rows, classes] if rows == count => Ok(classes),
        other => Err(format!(
            "its output is of shape {other:?}, not a row of logits for each sample; flatten, last_step or a pool in front of the last layer makes one"
        )),
    }
}

/// The most examples of a batch, or of a look at those that are not learned from.
fn most_together(batch_size: usize, data: &Data) -> usize {
    let measured = data.validation.len().max(data.test.len());
    batch_size.min(data.train.len()).max(MEASURED_TOGETHER.min(measured))
}

/// That there is something to train, not too much of it, and nothing that no gradient reaches.
fn check_parameters(network: &Network) -> std::result::Result<(), String> {
    let sizes = network.parameters.iter().map(|parameter| parameter.shape.iter().product::<usize>());
    let count = sizes.fold(0, usize::saturating_add);
    if count == 0 || count > MOST_PARAMETERS {
        return Err(format!("it has {count} parameters, and 1 to {MOST_PARAMETERS} are trained"));
    }
    let (mut reached, mut trained) = (BTreeSet::from([network.output]), BTreeSet::new());
    for (index, node) in network.nodes.iter().enumerate().rev() {
        if reached.contains(&ValueId(index)) {
            reached.extend(&node.inputs);
            trained.extend(node.operation.shaped().parameters());
        }
    }
    match (0..network.parameters.len()).find(|&index| !trained.contains(&ParameterId(index))) {
        None => Ok(()),
        Some(index) => Err(format!(
            "{} would get no gradient: nothing that its layer gives reaches the output",
            network.parameters[index].name
        )),
    }
}
