//! The network engine against PyTorch in float64: operations, small transformers as `transformers` saves them, and a
//! published one. `fixtures/make_network.py` makes the oracles.

#[path = "../common/mod.rs"]
mod common;
mod minilm;
mod models;
mod operations;
mod oracle;
mod refusals;

use std::path::Path;

use flashpoint::checkpoint::{Checkpoint, NameRules};
use flashpoint::compute::{Cpu, Real};
use flashpoint::context::Context;
use flashpoint::network::builders::{Built, from_config};
use flashpoint::network::{Input, Network, ParameterId, Segment, Tape, Weights};

use oracle::wide;

const ORACLE: &str = "fixtures/oracle/network";

/// `|J - J_torch|_F / |J_torch|_F`: seen 7e-15 in f64 and 8e-6 in f32 (numerics: JVP of a GPT against jacrev).
const JACOBIAN_F64: f64 = 1e-10;
const JACOBIAN_F32: f64 = 1e-4;
/// `transformers` computes norms, rotary tables and softmax in float32 whatever it is given.
const LOGITS: f64 = 1e-6;

/// The whole Jacobian of a segment, row-major, column by column from J·e.
fn jacobian<T: Real>(tape: &Tape<'_, Cpu, T>, weights: &Weights<Cpu, T>, segment: &Segment) -> Vec<f64> {
    let (rows, columns) = (tape.length(segment.to), tape.length(segment.from));
    let mut matrix = vec![0.0; rows * columns];
    for column in 0..columns {
        let mut unit = vec![T::zero(); columns];
        unit[column] = T::one();
        let product = wide(tape.jvp(weights, segment, unit).unwrap());
        for (row, value) in product.into_iter().enumerate() {
            matrix[row * columns + column] = value;
        }
    }
    matrix
}

/// The same, row by row from Jᵀ·e.
fn jacobian_by_rows<T: Real>(
    tape: &Tape<'_, Cpu, T>,
    weights: &Weights<Cpu, T>,
    segment: &Segment,
) -> Vec<f64> {
    let rows = tape.length(segment.to);
    (0..rows)
        .flat_map(|row| {
            let mut unit = vec![T::zero(); rows];
            unit[row] = T::one();
            wide(tape.vjp(weights, segment, unit).unwrap())
        })
        .collect()
}

const MODELS: [&str; 9] =
    ["gpt2", "llama", "mistral", "qwen2", "qwen3", "bert", "roberta", "albert", "nano-gpt"];

fn read(path: &Path) -> Checkpoint {
    Checkpoint::read(path, &NameRules::default(), &Context::default())
        .unwrap_or_else(|error| panic!("{error}"))
}

fn model(name: &str) -> (Checkpoint, Built) {
    let checkpoint = read(&Path::new(ORACLE).join(name));
    let built = from_config(&checkpoint).unwrap_or_else(|error| panic!("{error}"));
    (checkpoint, built)
}

fn weights<T: Real>(checkpoint: &Checkpoint, built: &Built) -> Weights<Cpu, T> {
    let mut weights = Weights::none(&built.network);
    let all: Vec<ParameterId> = (0..built.network.parameters.len()).map(ParameterId).collect();
    weights.load(&Cpu, &built.network, &built.tensors(checkpoint), &all).unwrap();
    weights
}

fn tape<'n, T: Real>(network: &'n Network, weights: &Weights<Cpu, T>, input: Input) -> Tape<'n, Cpu, T> {
    let mut tape = Tape::new(network, &Cpu, &input.into()).unwrap();
    tape.advance(weights, network.output).unwrap();
    tape
}
