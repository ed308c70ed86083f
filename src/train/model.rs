//! The network that is trained, with a loss behind it: `nn`.

use std::path::Path;

use super::config::Config;
use super::data::Data;
use super::loss::Loss;
use crate::compute::Unary;
use crate::error::{ErrorKind, Result};
use crate::network::{Activation, Assembly, Conv2d, InputKind, Linear, Network, Node, Reshape, ValueId};

/// The name of the built-in network.
pub const BUILT_IN: &str = "nn";

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

impl Model {
    /// The network that a configuration names, for these examples.
    ///
    /// # Errors
    /// When there is no network of this name, or it does not take the examples or give a logit for each of their classes.
    pub(super) fn load(config: &Config, data: &Data) -> Result<Self> {
        let path = Path::new("--model-name");
        if config.model_name != BUILT_IN {
            let message = format!("there is no network called {}", config.model_name);
            return Err(
                ErrorKind::NotDone { message, advice: "nn is the one that is built in" }.in_file(path)
            );
        }
        let model = Self::new(nn(), config.arm.loss, data);
        model.map_err(|message| {
            let examples = config.source.data.as_deref().unwrap_or(Path::new("the built-in set"));
            ErrorKind::TrainingData { message: format!("{}: {message}", config.model_name) }.in_file(examples)
        })
    }

    fn new(mut network: Network, loss: Loss, data: &Data) -> std::result::Result<Self, String> {
        let InputKind::Features { shape } = &network.input else {
            return Err("the network takes token ids, and examples are numbers".to_owned());
        };
        let sample = sample_shape(shape, &data.shape);
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

/// The shape in which samples go in: that of the network where it says all sizes and samples have as many numbers.
fn sample_shape(wanted: &[Option<usize>], given: &[usize]) -> Vec<usize> {
    let whole: Option<Vec<usize>> = wanted.iter().copied().collect();
    let fits = |shape: &Vec<usize>| shape.iter().product::<usize>() == given.iter().product::<usize>();
    whole.filter(fits).unwrap_or_else(|| given.to_vec())
}

/// 1×10×10; convolutions 1→10 and 10→100, kernel 1, stride 1, padding 1; linear maps 19,600→128→100; ReLU between them.
fn nn() -> Network {
    let mut build = Assembly::new(BUILT_IN, InputKind::Features { shape: [1, 10, 10].map(Some).to_vec() });
    let x = build.input();
    let x = convolution(&mut build, "conv1", 1, 10, x);
    let x = build.push("relu1", Activation { function: Unary::Relu }, &[x]);
    let x = convolution(&mut build, "conv2", 10, 100, x);
    let x = build.push("relu2", Activation { function: Unary::Relu }, &[x]);
    let x = build.push("flatten", Reshape { shape: vec![None] }, &[x]);
    let x = linear(&mut build, "fc1", 100 * 14 * 14, 128, x);
    let x = build.push("relu3", Activation { function: Unary::Relu }, &[x]);
    let x = linear(&mut build, "fc2", 128, 100, x);
    build.finish(x)
}

fn convolution(build: &mut Assembly, name: &str, inputs: usize, outputs: usize, x: ValueId) -> ValueId {
    let weight = build.parameter(&format!("{name}.weight"), &[outputs, inputs, 1, 1]);
    let bias = Some(build.parameter(&format!("{name}.bias"), &[outputs]));
    let convolution = Conv2d {
        inputs,
        outputs,
        groups: 1,
        kernel: [1, 1],
        stride: [1, 1],
        padding: [[1, 1], [1, 1]],
        dilation: [1, 1],
        weight,
        bias,
    };
    build.push(name, convolution, &[x])
}

fn linear(build: &mut Assembly, name: &str, inputs: usize, outputs: usize, x: ValueId) -> ValueId {
    let weight = build.parameter(&format!("{name}.weight"), &[outputs, inputs]);
    let bias = Some(build.parameter(&format!("{name}.bias"), &[outputs]));
    build.push(name, Linear { inputs, outputs, weight, bias, transposed: false }, &[x])
}
