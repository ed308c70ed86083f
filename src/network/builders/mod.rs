//! Networks for checkpoints: from their `config.json`, from the shapes of their parameters, from a `model.toml`; and what
//! joins a network to the tensors that hold its parameters.
//!
//! What a network needs and does not find is an error; what it does not use is listed.

mod albert;
mod bert;
mod config;
mod draft;
mod gpt2;
mod llama;
mod model_toml;
mod perceptron;
mod population;
mod recurrent;
mod rope;
mod shapes;
mod state;

pub use model_toml::{
    LARGEST_MODEL_FILE, MODEL_FILE, from_model_toml, stated_by_model_toml, with_input_sizes,
};
pub use population::{Population, population};
pub use shapes::{from_shapes, recurrences};

use std::collections::{HashMap, HashSet};

use self::config::Config;
use self::gpt2::Writer;
use super::Network;
use crate::checkpoint::{Checkpoint, CheckpointTensor, Layout, Role, Section};
use crate::error::{ErrorKind, Result};
use crate::tensor::{Kind, Tensor};

/// Sizes, widths and vocabularies above it are those of no network.
const LARGEST: u64 = 1 << 27;

/// Numbers of a head above it are those of no network: a table is made of as many.
const WIDEST_HEAD: usize = 1 << 16;

/// A network and the tensors of a checkpoint that hold its parameters.
#[derive(Debug)]
pub struct Built {
    /// What is computed.
    pub network: Network,
    /// For each parameter of the network, the index of its tensor in the checkpoint.
    pub tensors: Vec<usize>,
    /// Names of floating tensors of the model that the network does not use, buffers left out.
    pub unused: Vec<String>,
    /// What neither the checkpoint nor a config says and was taken for granted, a sentence each.
    pub assumptions: Vec<String>,
}

/// The network of a checkpoint, by the `config.json` beside it, or the arguments that nanoGPT keeps with the model.
///
/// # Errors
/// When there is no config, it is of a model that is not built, or its parameters are not those of the checkpoint.
pub fn from_config(checkpoint: &Checkpoint) -> Result<Built> {
    Built::join(network_of_config(checkpoint)?, checkpoint)
}

fn network_of_config(checkpoint: &Checkpoint) -> Result<Network> {
    let unknown = |message: &str| {
        ErrorKind::UnknownArchitecture { message: message.to_owned() }.in_file(&checkpoint.path)
    };
    let values = checkpoint.config.as_ref().ok_or_else(|| unknown("there is no config.json beside it"))?;
    let config = Config::new(values, &checkpoint.path);
    let places = Places::of(checkpoint);
    if checkpoint.layout == Layout::NanoGpt {
        return gpt2::build(&config, Writer::NanoGpt, &places);
    }
    let kind = config.text("model_type").ok_or_else(|| unknown("config.json has no model_type"))?;
    match kind {
        "gpt2" => gpt2::build(&config, Writer::Transformers, &places),
        "llama" | "mistral" | "qwen2" | "qwen3" => llama::build(&config, kind, &places),
        "bert" | "roberta" | "xlm-roberta" | "camembert" => bert::build(&config, kind, &places),
        "albert" => albert::build(&config, &places),
        _ => Err(config.not_built("model_type")),
    }
}

/// How the names of the architectures that are built end in the first block, with the `model_type`s that have them.
const FAMILIES: [(&str, &[&str]); 4] = [
    ("h.0.attn.c_attn.weight", &["gpt2"]),
    ("layers.0.self_attn.q_proj.weight", &["llama", "mistral", "qwen2", "qwen3"]),
    ("encoder.layer.0.attention.self.query.weight", &["bert", "roberta", "xlm-roberta", "camembert"]),
    ("albert_layers.0.attention.query.weight", &["albert"]),
];

/// Whether the tensors have the names of an architecture that is built, and it is another than the config's.
pub fn is_another(checkpoint: &Checkpoint) -> bool {
    let kind = checkpoint.config.as_ref().and_then(|values| values.get("model_type")?.as_str());
    let Some(kind) = kind else { return false };
    let is_there = |end: &str| {
        let mut model = checkpoint.tensors.iter().filter(|tensor| tensor.section == Section::Model);
        model.any(|tensor| tensor.canonical_name.ends_with(end))
    };
    FAMILIES.iter().any(|(end, kinds)| !kinds.contains(&kind) && is_there(end))
}

/// How transformers begins the names of the classes of the architectures that are built, in lower case.
const CLASSES: [&str; 10] =
    ["gpt2", "llama", "mistral", "qwen2", "qwen3", "bert", "roberta", "xlmroberta", "camembert", "albert"];
/// What follows there: the model alone, or with a head that is known to stand beside the blocks.
const HEADS: [&str; 11] = [
    "model",
    "lmheadmodel",
    "doubleheadsmodel",
    "forcausallm",
    "formaskedlm",
    "forpretraining",
    "fornextsentenceprediction",
    "forsequenceclassification",
    "fortokenclassification",
    "forquestionanswering",
    "formultiplechoice",
];

/// The class that the config names, where it is none that transformers has for the architectures that are built: such as
/// `LlamaForCausalLMEagle3`, whose `model_type` is "llama" and whose parameters are its own.
pub fn class_of_its_own(checkpoint: &Checkpoint) -> Option<&str> {
    let class = checkpoint.config.as_ref()?.get("architectures")?.get(0)?.as_str()?;
    let lower = class.to_ascii_lowercase();
    let of_framework = lower.strip_prefix("flax").or_else(|| lower.strip_prefix("tf"));
    let named = of_framework.unwrap_or(&lower);
    let is_known =
        CLASSES.iter().any(|begin| named.strip_prefix(begin).is_some_and(|end| HEADS.contains(&end)));
    (!is_known).then_some(class)
}

/// The weight outside the blocks that joins several hidden states into one, as the draft heads of EAGLE do: they guess the next words from
/// the hidden states of another model, and keep a config like its own.
pub fn fusion_of_states(checkpoint: &Checkpoint) -> Option<&str> {
    let hidden = checkpoint.config.as_ref()?.get("hidden_size")?.as_u64().filter(|&hidden| hidden > 0)?;
    let joins = |tensor: &&CheckpointTensor| {
        let is_fusion =
            tensor.section == Section::Model && tensor.canonical_name.rsplit('.').nth(1) == Some("fc");
        let shape = tensor.tensor.as_ref().map(|tensor| tensor.shape.as_slice());
        is_fusion
            && tensor.layer.index.is_none()
            && matches!(shape, Ok(&[outputs, inputs]) if outputs == hidden && inputs > hidden && inputs % hidden == 0)
    };
    checkpoint.tensors.iter().find(joins).map(|tensor| tensor.name.as_str())
}

/// So many missing parameters are named.
const NAMED: usize = 3;

impl Built {
    /// Finds the network's parameters by their names, as stored or canonical, in the checkpoint.
    ///
    /// # Errors
    /// When one is missing, has another shape, or cannot be read.
    pub fn join(network: Network, checkpoint: &Checkpoint) -> Result<Self> {
        let places = Places::of(checkpoint);
        let mut missing = Vec::new();
        let mut tensors = Vec::new();
        for parameter in &network.parameters {
            match places.find(&parameter.name) {
                Some(index) => tensors.push(index),
                None => missing.push(parameter.name.clone()),
            }
        }
        if !missing.is_empty() {
            let count = missing.len();
            missing.truncate(NAMED);
            return Err(ErrorKind::MissingParameters { count, first: missing }.in_file(&checkpoint.path));
        }
        for (parameter, &index) in network.parameters.iter().zip(&tensors) {
            let named = &checkpoint.tensors[index];
            let tensor = named.readable()?;
            let expected: Vec<u64> = parameter.shape.iter().map(|&size| size as u64).collect();
            if tensor.shape != expected {
                let kind = ErrorKind::ParameterShape { expected, actual: tensor.shape.clone() };
                return Err(kind.in_file(&checkpoint.path).for_tensor(&named.name));
            }
        }
        let unused = unused(checkpoint, &tensors).map(|index| &checkpoint.tensors[index]);
        let unused = unused.filter(|tensor| is_floating(tensor)).map(|tensor| tensor.name.clone()).collect();
        Ok(Self { network, tensors, unused, assumptions: Vec::new() })
    }

    /// The tensor of each parameter.
    ///
    /// # Panics
    /// When the checkpoint is not the one that the network was joined to.
    pub fn tensors<'c>(&self, checkpoint: &'c Checkpoint) -> Vec<&'c Tensor> {
        let tensor = |&index: &usize| checkpoint.tensors[index].tensor.as_ref();
        self.tensors.iter().map(|index| tensor(index).expect("joined tensors can be read")).collect()
    }
}

/// The tensors of a model by their names.
pub struct Places<'c> {
    stored: HashMap<&'c str, usize>,
    canonical: HashMap<&'c str, usize>,
}

impl<'c> Places<'c> {
    /// Those of the model's section.
    pub fn of(checkpoint: &'c Checkpoint) -> Self {
        let (mut stored, mut canonical) = (HashMap::new(), HashMap::new());
        for (index, tensor) in checkpoint.tensors.iter().enumerate() {
            if tensor.section == Section::Model {
                stored.entry(tensor.name.as_str()).or_insert(index);
                canonical.entry(tensor.canonical_name.as_str()).or_insert(index);
            }
        }
        Self { stored, canonical }
    }

    /// The tensor that is stored under this name, or has it as its canonical one.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.stored.get(name).or_else(|| self.canonical.get(name)).copied()
    }

    /// The first of these beginnings of names under which there is a tensor of this name.
    pub fn prefix<'p>(&self, prefixes: &[&'p str], name: &str) -> Option<&'p str> {
        prefixes.iter().copied().find(|prefix| self.find(&format!("{prefix}{name}")).is_some())
    }
}

/// Indices of the tensors of the model that no parameter has taken, buffers left out. A tensor and those tied to it are one.
fn unused(checkpoint: &Checkpoint, used: &[usize]) -> impl Iterator<Item = usize> {
    let first = move |index: usize| {
        let tensor = &checkpoint.tensors[index];
        tensor.tied_to.as_deref().unwrap_or(&tensor.name)
    };
    let taken: HashSet<&str> = used.iter().map(|&index| first(index)).collect();
    let is_parameter = move |index: usize| {
        let tensor = &checkpoint.tensors[index];
        tensor.section == Section::Model && tensor.role != Role::Buffer
    };
    (0..checkpoint.tensors.len()).filter(move |&index| is_parameter(index) && !taken.contains(first(index)))
}

fn is_floating(tensor: &CheckpointTensor) -> bool {
    tensor.tensor.as_ref().is_ok_and(|tensor| tensor.dtype.kind() == Kind::Float)
}
