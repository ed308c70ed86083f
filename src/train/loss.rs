//! Losses by their names. Both frameworks compute the same: the mean over the batch of `-ln softmax(x)[c]`
//! (`torch.nn.CrossEntropyLoss`; `keras.losses.SparseCategoricalCrossentropy(from_logits=True)`), and the mean over all numbers of the
//! square distance from the class as a one-hot row (`torch.nn.MSELoss`, `keras.losses.MeanSquaredError`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::network::{CrossEntropy, MeanSquaredError, Operation, Targets};

/// What is minimised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Loss {
    /// Cross-entropy from logits.
    #[serde(rename = "torch.cross-entropy")]
    TorchCrossEntropy,
    /// The same.
    #[serde(rename = "tensorflow.cross-entropy")]
    TensorFlowCrossEntropy,
    /// The mean square distance from one-hot rows.
    #[serde(rename = "torch.mse")]
    TorchMse,
    /// The same.
    #[serde(rename = "tensorflow.mse")]
    TensorFlowMse,
}

impl Loss {
    const ALL: [Self; 4] =
        [Self::TorchCrossEntropy, Self::TensorFlowCrossEntropy, Self::TorchMse, Self::TensorFlowMse];

    /// As the command line and `run.json` have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TorchCrossEntropy => "torch.cross-entropy",
            Self::TensorFlowCrossEntropy => "tensorflow.cross-entropy",
            Self::TorchMse => "torch.mse",
            Self::TensorFlowMse => "tensorflow.mse",
        }
    }

    /// The last operation of the network.
    pub(super) fn operation(self) -> Operation {
        match self {
            Self::TorchCrossEntropy | Self::TensorFlowCrossEntropy => CrossEntropy.into(),
            Self::TorchMse | Self::TensorFlowMse => MeanSquaredError.into(),
        }
    }

    /// What the network's output is held against.
    pub(super) fn targets(self, labels: &[u32], classes: usize) -> Targets {
        match self {
            Self::TorchCrossEntropy | Self::TensorFlowCrossEntropy => Targets::Classes(labels.to_vec()),
            Self::TorchMse | Self::TensorFlowMse => {
                let mut rows = vec![0.0; labels.len() * classes];
                for (row, &label) in rows.chunks_exact_mut(classes).zip(labels) {
                    row[label as usize] = 1.0;
                }
                Targets::Values(rows)
            }
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Loss {
    type Err = String;

    /// # Errors
    /// A sentence that lists the names, when it is none of them.
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|loss| loss.as_str() == text);
        found.ok_or_else(|| {
            format!("{text:?} is no loss; losses are {}", Self::ALL.map(Self::as_str).join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::compute::Cpu;
    use crate::network::{Assembly, Feed, Input, InputKind, Segment, Tape, ValueId, Weights};

    fn read(name: &str) -> Value {
        let path = format!("{}/fixtures/oracle/train/{name}", env!("CARGO_MANIFEST_DIR"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn numbers(value: &Value) -> Vec<f64> {
        match value {
            Value::Array(values) => values.iter().flat_map(numbers).collect(),
            value => vec![value.as_f64().unwrap()],
        }
    }

    #[test]
    fn losses_and_their_gradients_are_those_of_the_frameworks() {
        let inputs = read("gradients.json");
        let logits = numbers(&inputs["logits"]);
        let labels: Vec<u32> = serde_json::from_value(inputs["labels"].clone()).unwrap();
        let classes = logits.len() / labels.len();
        for loss in Loss::ALL {
            let (framework, name) = loss.as_str().split_once('.').unwrap();
            let expected = &read(&format!("{framework}.json"))["losses"][name];
            let mut build = Assembly::new("loss", InputKind::Features { shape: vec![Some(classes)] });
            let x = build.input();
            let end = build.push("loss", loss.operation(), &[x]);
            let network = build.finish(end);
            let feed = Feed {
                input: Input::Features { shape: vec![labels.len(), classes], values: logits.clone() },
                targets: Some(loss.targets(&labels, classes)),
            };
            let weights = Weights::<Cpu, f64>::none(&network);
            let mut tape = Tape::new(&network, &Cpu, &feed).unwrap();
            tape.advance(&weights, end).unwrap();
            let value = tape.download(end).unwrap()[0];
            let gradient = tape.vjp(&weights, &Segment::new(ValueId(0), end), vec![1.0]).unwrap();
            let close =
                |found: f64, expected: f64| (found - expected).abs() <= 1e-12 * (1.0 + expected.abs());
            assert!(close(value, expected["loss"].as_f64().unwrap()), "{loss}: {value}");
            let wanted = numbers(&expected["gradient"]);
            assert_eq!(gradient.len(), wanted.len());
            assert!(gradient.iter().zip(&wanted).all(|(&found, &wanted)| close(found, wanted)), "{loss}");
        }
    }
}
