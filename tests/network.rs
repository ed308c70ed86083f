//! The network engine against PyTorch in float64: operations, small transformers as `transformers` saves them, and a
//! published one. `fixtures/make_network.py` makes the oracles.

mod common;

use std::path::{Path, PathBuf};

use flashpoint::analysis::spectrum::operator::Operator;
use flashpoint::analysis::spectrum::{bidiagonal, lanczos};
use flashpoint::checkpoint::{Checkpoint, NameRules};
use flashpoint::compute::{Cpu, Real, Side, Unary};
use flashpoint::context::Context;
use flashpoint::error::ErrorKind;
use flashpoint::network::builders::{Built, from_config};
use flashpoint::network::{
    Activation, Add, Array, Assembly, Attention, Block, Concat, CrossEntropy, Feed, Input, InputKind,
    LayerNorm, Linear, Mask, MeanSquaredError, Multiply, Network, Operation, ParameterId, Reshape, Rotary,
    Scale, Segment, Slice, Softmax, Tape, Targets, Transpose, ValueId, Weights,
};
use flashpoint::random::Stream;
use safetensors::{Dtype, SafeTensors};

const ORACLE: &str = "fixtures/oracle/network";

/// `|J - J_torch|_F / |J_torch|_F`: seen 7e-15 in f64 and 8e-6 in f32 (numerics: JVP of a GPT against jacrev).
const JACOBIAN_F64: f64 = 1e-10;
const JACOBIAN_F32: f64 = 1e-4;
/// `transformers` computes norms, rotary tables and softmax in float32 whatever it is given.
const LOGITS: f64 = 1e-6;

/// The tensors of an oracle in f64, by name.
struct Oracle {
    bytes: Vec<u8>,
}

impl Oracle {
    fn read(name: &str) -> Self {
        let path = Path::new(ORACLE).join(format!("{name}.safetensors"));
        Self { bytes: std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())) }
    }

    fn names(&self) -> Vec<String> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        file.names().into_iter().map(ToString::to_string).collect()
    }

    fn has(&self, name: &str) -> bool {
        self.names().iter().any(|other| other == name)
    }

    fn get(&self, name: &str) -> (Vec<usize>, Vec<f64>) {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor(name).unwrap_or_else(|_| panic!("the oracle has no {name}"));
        let bytes = tensor.data();
        let values = match tensor.dtype() {
            Dtype::F64 => bytes.as_chunks().0.iter().map(|&word| f64::from_le_bytes(word)).collect(),
            Dtype::F32 => bytes.as_chunks().0.iter().map(|&word| f32::from_le_bytes(word).into()).collect(),
            other => panic!("{name} has dtype {other:?}"),
        };
        (tensor.shape().to_vec(), values)
    }

    fn values(&self, name: &str) -> Vec<f64> {
        self.get(name).1
    }

    fn tokens(&self, name: &str) -> Input {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor(name).unwrap();
        let ids = tensor.data().as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect();
        Input::Tokens { batch: tensor.shape()[0], ids }
    }
}

fn wide<T: Real>(values: Vec<T>) -> Vec<f64> {
    values.into_iter().map(Into::into).collect()
}

fn narrow<T: Real>(values: &[f64]) -> Vec<T> {
    values.iter().map(|&value| T::from_f64(value)).collect()
}

fn distance(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let difference: f64 = found.iter().zip(expected).map(|(x, y)| (x - y).powi(2)).sum();
    let whole: f64 = expected.iter().map(|y| y * y).sum();
    (difference / whole).sqrt()
}

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

mod operations {
    use super::*;

    /// The operation of a case of the oracle.
    fn operation(name: &str, oracle: &Oracle, assembly: &mut Assembly) -> Operation {
        let mut parameter = |leaf: &str| {
            let full = format!("{name}/{leaf}");
            oracle.has(&full).then(|| assembly.parameter(&full, &oracle.get(&full).0))
        };
        let function = |function| Activation { function }.into();
        let attention =
            |shared, scale, cap, mask| Attention { heads: 4, shared, width: 2, scale, cap, mask }.into();
        let norm = |columns, centred, epsilon, gain, bias| {
            LayerNorm { columns, centred, epsilon, gain, bias }.into()
        };
        let rotary = |frequencies: &[f64], factor| {
            Rotary { heads: 2, width: 4, frequencies: frequencies.to_vec(), factor }.into()
        };
        match name {
            "linear" | "linear-transposed" => {
                let weight = parameter("weight").unwrap();
                let transposed = name == "linear-transposed";
                Linear { inputs: 5, outputs: 4, weight, bias: parameter("bias"), transposed }.into()
            }
            "layer-norm" => norm(5, true, 1e-5, parameter("gain"), parameter("bias")),
            "rms-norm" => norm(5, false, 1e-6, parameter("gain"), None),
            "rms-norm-of-heads" => norm(3, false, 1e-6, parameter("gain"), None),
            "relu" => function(Unary::Relu),
            "relu6" => function(Unary::Relu6),
            "leaky-relu" => function(Unary::LeakyRelu { slope: 0.1 }),
            "elu" => function(Unary::Elu { alpha: 0.7 }),
            "gelu" => function(Unary::GeluErf),
            "gelu-tanh" => function(Unary::GeluTanh),
            "gelu-sigmoid" => function(Unary::GeluSigmoid),
            "silu" => function(Unary::Silu),
            "tanh" => function(Unary::Tanh),
            "sigmoid" => function(Unary::Sigmoid),
            "softplus" => function(Unary::Softplus),
            "soft-cap" => function(Unary::SoftCap { cap: 1.5 }),
            "softmax" => Softmax.into(),
            "rotary" => rotary(&[0.9, 0.3], 1.1),
            "rotary-partial" => rotary(&[0.9], 1.0),
            "attention" => attention(4, 0.7, None, Mask::None),
            "attention-causal-capped" => attention(4, 2.0, Some(0.8), Mask::Causal),
            "attention-grouped" => attention(2, 0.7, None, Mask::Causal),
            "attention-window" => attention(1, 0.7, None, Mask::Window(2)),
            "add" => Add.into(),
            "multiply" => Multiply.into(),
            "scale" => Scale { factor: -1.7 }.into(),
            "concat" => Concat { axis: 2 }.into(),
            "slice" => Slice { axis: 1, places: 1..3 }.into(),
            "reshape" => Reshape { shape: vec![Some(2), None] }.into(),
            "transpose" => Transpose { axes: vec![0, 2, 1] }.into(),
            "cross-entropy" | "cross-entropy-far" => CrossEntropy.into(),
            "mean-squared-error" => MeanSquaredError.into(),
            other => panic!("no operation for {other}"),
        }
    }

    fn targets(name: &str, oracle: &Oracle) -> Option<Targets> {
        match name {
            "cross-entropy" => Some(Targets::Classes(vec![0, 4, 2, 2, 1, 0])),
            "cross-entropy-far" => Some(Targets::Classes(vec![2])),
            "mean-squared-error" => Some(Targets::Values(oracle.values("mean-squared-error/targets"))),
            _ => None,
        }
    }

    /// Differences from the oracle of the output and of the Jacobian, by columns and by rows.
    fn errors<T: Real>(name: &str, oracle: &Oracle) -> [f64; 3] {
        let inputs: Vec<(Vec<usize>, Vec<f64>)> = (0..3)
            .map(|at| format!("{name}/input.{at}"))
            .filter(|input| oracle.has(input))
            .map(|input| oracle.get(&input))
            .collect();
        // All inputs in one row for each of the batch, cut apart again in the network.
        let batch = inputs[0].0[0];
        let widths: Vec<usize> = inputs.iter().map(|(_, values)| values.len() / batch).collect();
        let rows = (0..batch).flat_map(|row| {
            let part =
                move |(values, width): (&Vec<f64>, &usize)| values[row * width..(row + 1) * width].to_vec();
            inputs.iter().map(|(_, values)| values).zip(&widths).flat_map(part).collect::<Vec<_>>()
        });
        let values: Vec<f64> = rows.collect();
        let width = widths.iter().sum();
        let mut assembly = Assembly::new("one", InputKind::Features { shape: vec![Some(width)] });
        let whole = assembly.input();
        let mut start = 0;
        let mut parts = Vec::new();
        for ((shape, _), width) in inputs.iter().zip(&widths) {
            let part = assembly.push("part", Slice { axis: 1, places: start..start + width }, &[whole]);
            let shape = shape[1..].iter().copied().map(Some).collect();
            parts.push(assembly.push("shaped", Reshape { shape }, &[part]));
            start += width;
        }
        let operation = operation(name, oracle, &mut assembly);
        let output = assembly.push("one", operation, &parts);
        let network = assembly.finish(output);
        let mut weights = Weights::<Cpu, T>::none(&network);
        for (index, parameter) in network.parameters.iter().enumerate() {
            let values = oracle.values(&parameter.name);
            weights.set(ParameterId(index), Array::upload(&Cpu, &parameter.shape, &values).unwrap());
        }
        let input = Input::Features { shape: vec![batch, width], values };
        let mut tape = Tape::new(&network, &Cpu, &Feed { input, targets: targets(name, oracle) }).unwrap();
        tape.advance(&weights, output).unwrap();
        let rows = tape.length(output);
        let beside = |matrices: Vec<Vec<f64>>| -> Vec<f64> {
            let row = |matrix: &Vec<f64>, at: usize| {
                matrix[at * matrix.len() / rows..(at + 1) * matrix.len() / rows].to_vec()
            };
            (0..rows)
                .flat_map(|at| matrices.iter().flat_map(|matrix| row(matrix, at)).collect::<Vec<_>>())
                .collect()
        };
        let segments: Vec<Segment> = parts.iter().map(|&from| Segment::new(from, output)).collect();
        let columns = segments.iter().map(|segment| jacobian(&tape, &weights, segment)).collect();
        let by_rows = segments.iter().map(|segment| jacobian_by_rows(&tape, &weights, segment)).collect();
        let expected = oracle.values(&format!("{name}/jacobian"));
        [
            distance(&wide(tape.download(output).unwrap()), &oracle.values(&format!("{name}/output"))),
            distance(&beside(columns), &expected),
            distance(&beside(by_rows), &expected),
        ]
    }

    #[test]
    fn every_operation_has_the_output_and_the_whole_jacobian_of_pytorch() {
        let oracle = Oracle::read("ops");
        let names: Vec<String> = oracle
            .names()
            .iter()
            .filter_map(|name| name.strip_suffix("/jacobian").map(str::to_owned))
            .collect();
        assert!(names.len() >= 33, "{} operations", names.len());
        for name in names {
            let wide = errors::<f64>(&name, &oracle);
            assert!(wide.iter().all(|&error| error <= JACOBIAN_F64), "{name}: {wide:?} in f64");
            let narrow = errors::<f32>(&name, &oracle);
            assert!(narrow.iter().all(|&error| error <= JACOBIAN_F32), "{name}: {narrow:?} in f32");
        }
    }
}

const MODELS: [&str; 8] = ["gpt2", "llama", "mistral", "qwen2", "qwen3", "bert", "roberta", "albert"];

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

#[test]
fn logits_are_those_of_transformers() {
    for name in MODELS {
        let oracle = Oracle::read(name);
        let (checkpoint, built) = model(name);
        assert!(built.unused.is_empty(), "{name}: {:?}", built.unused);
        let logits = |weights: &Weights<Cpu, f64>| {
            wide(tape(&built.network, weights, oracle.tokens("ids")).download(built.network.output).unwrap())
        };
        let found = logits(&weights(&checkpoint, &built));
        let error = distance(&found, &oracle.values("logits"));
        assert!(error < LOGITS, "{name}: {error:e} from transformers");
        let error = distance(&found, &oracle.values("written"));
        assert!(error < 1e-12, "{name}: {error:e} from the model written out in float64");
        let single = weights::<f32>(&checkpoint, &built);
        let found =
            wide(tape(&built.network, &single, oracle.tokens("ids")).download(built.network.output).unwrap());
        let error = distance(&found, &oracle.values("written"));
        assert!(error < 1e-5, "{name}: {error:e} in f32");
    }
}

/// Differences of products with the Jacobian of the stack from both sides, and of the whole where the oracle has it.
fn jacobian_errors<T: Real>(name: &str) -> Vec<f64> {
    let oracle = Oracle::read(name);
    let (checkpoint, built) = model(name);
    let weights = weights::<T>(&checkpoint, &built);
    let tape = tape(&built.network, &weights, oracle.tokens("jacobian.ids"));
    let segment = Segment::new(built.network.entry(), built.network.exit());
    let length = tape.length(segment.from);
    let mut errors = Vec::new();
    for [from, to] in [["jacobian.x", "jacobian.jx"], ["jacobian.u", "jacobian.jtu"]] {
        let (from_vectors, to_vectors) = (oracle.values(from), oracle.values(to));
        for (x, expected) in from_vectors.chunks(length).zip(to_vectors.chunks(length)) {
            let product = match from {
                "jacobian.x" => tape.jvp(&weights, &segment, narrow(x)),
                _ => tape.vjp(&weights, &segment, narrow(x)),
            };
            errors.push(distance(&wide(product.unwrap()), expected));
        }
    }
    if oracle.has("jacobian") {
        let expected = oracle.values("jacobian");
        errors.push(distance(&jacobian(&tape, &weights, &segment), &expected));
        errors.push(distance(&jacobian_by_rows(&tape, &weights, &segment), &expected));
    }
    errors
}

#[test]
fn jacobians_of_small_transformers_are_those_of_jacrev() {
    let mut whole = 0;
    for name in MODELS {
        let errors = jacobian_errors::<f64>(name);
        whole += usize::from(errors.len() == 6);
        assert!(errors.iter().all(|&error| error <= JACOBIAN_F64), "{name}: {errors:?} in f64");
        let errors = jacobian_errors::<f32>(name);
        assert!(errors.iter().all(|&error| error <= JACOBIAN_F32), "{name}: {errors:?} in f32");
    }
    assert_eq!(whole, 3, "one of each kind of block");
}

#[test]
fn singular_values_of_blocks_and_of_the_stack_are_those_of_pytorch() {
    for name in MODELS {
        let oracle = Oracle::read(name);
        let (checkpoint, built) = model(name);
        let (double, single) = (weights::<f64>(&checkpoint, &built), weights::<f32>(&checkpoint, &built));
        let input = || oracle.tokens("jacobian.ids");
        let (wide_tape, narrow_tape) =
            (tape(&built.network, &double, input()), tape(&built.network, &single, input()));
        let mut segments: Vec<Segment> = built.network.blocks.iter().map(Block::segment).collect();
        segments.push(Segment::new(built.network.entry(), built.network.exit()));
        let mut expected = oracle.values("block.values");
        expected.extend(oracle.values("jacobian.values"));
        let length = wide_tape.length(segments[0].from);
        assert_eq!(expected.len(), segments.len() * length);
        for (segment, expected) in segments.iter().zip(expected.chunks(length)) {
            let values = |matrix| bidiagonal::singular_values(matrix, length, length).unwrap();
            let error = |found: &[f64]| {
                let distances = found.iter().zip(expected).map(|(x, y)| (x - y).abs());
                distances.fold(0.0, f64::max) / expected[0]
            };
            let found = error(&values(jacobian(&wide_tape, &double, segment)));
            assert!(found < 1e-10, "{name} {segment:?}: {found:e} in f64");
            let found = error(&values(jacobian(&narrow_tape, &single, segment)));
            assert!(found < 1e-4, "{name} {segment:?}: {found:e} in f32");
        }
    }
}

#[test]
fn a_tape_that_rolls_over_the_blocks_gives_what_a_whole_one_gives() {
    for name in MODELS {
        let oracle = Oracle::read(name);
        let (checkpoint, built) = model(name);
        let network = &built.network;
        let all = weights::<f64>(&checkpoint, &built);
        let whole = tape(network, &all, oracle.tokens("jacobian.ids"));
        let tensors = built.tensors(&checkpoint);

        let mut few = Weights::<Cpu, f64>::none(network);
        let mut rolling = Tape::new(network, &Cpu, &oracle.tokens("jacobian.ids").into()).unwrap();
        few.load(&Cpu, network, &tensors, &network.parameters_between(None, network.entry())).unwrap();
        rolling.advance(&few, network.entry()).unwrap();
        for block in &network.blocks {
            rolling.forget(block.input);
            let needed = network.parameters_between(Some(block.input), block.output);
            few.keep_only(&needed);
            few.load(&Cpu, network, &tensors, &needed).unwrap();
            rolling.advance(&few, block.output).unwrap();
            let x: Vec<f64> = (0..whole.length(block.input)).map(|at| (at as f64).sin()).collect();
            let u: Vec<f64> = (0..whole.length(block.output)).map(|at| (at as f64).cos()).collect();
            let segment = block.segment();
            let products = |tape: &Tape<'_, Cpu, f64>, weights: &Weights<Cpu, f64>| {
                [
                    tape.jvp(weights, &segment, x.clone()).unwrap(),
                    tape.vjp(weights, &segment, u.clone()).unwrap(),
                ]
            };
            assert_eq!(products(&rolling, &few), products(&whole, &all), "{name} {}", block.name);
        }
        assert_eq!(
            rolling.download(network.exit()).unwrap(),
            whole.download(network.exit()).unwrap(),
            "{name}"
        );
    }
}

#[test]
fn with_queries_and_keys_frozen_the_value_path_of_an_attention_remains() {
    // The Jacobian is a sum over paths: of values alone, and of queries and keys alone. Both add up to the whole.
    for name in MODELS {
        let oracle = Oracle::read(name);
        let (checkpoint, built) = model(name);
        let weights = weights::<f64>(&checkpoint, &built);
        let tape = tape(&built.network, &weights, oracle.tokens("jacobian.ids"));
        for block in &built.network.blocks {
            let part = block.parts.iter().find(|part| part.name == "attention").unwrap();
            assert_eq!(part.logits_from.len(), 2);
            let attention = (part.input.0..=part.output.0)
                .find(|&at| matches!(built.network.nodes[at].operation, Operation::Attention(_)))
                .unwrap();
            let values = built.network.nodes[attention].inputs[2];
            let frozen = |frozen: &[ValueId]| {
                let segment = Segment { from: part.input, to: part.output, frozen: frozen.to_vec() };
                let columns = jacobian(&tape, &weights, &segment);
                assert!(distance(&jacobian_by_rows(&tape, &weights, &segment), &columns) < 1e-12);
                columns
            };
            let whole = frozen(&[]);
            let sum: Vec<f64> =
                frozen(&part.logits_from).iter().zip(frozen(&[values])).map(|(x, y)| x + y).collect();
            assert!(distance(&sum, &whole) < 1e-12, "{name} {}", block.name);
            assert!(distance(&frozen(&part.logits_from), &whole) > 1e-3, "{name}: logits matter in these");
        }
    }
}

#[test]
fn products_have_the_same_bits_on_any_number_of_threads() {
    let bits = |threads: usize| -> Vec<u64> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (checkpoint, built) = model("qwen3");
            let weights = weights::<f32>(&checkpoint, &built);
            let ids = (0..64).map(|at| at * 7 % 40).collect();
            let tape = tape(&built.network, &weights, Input::Tokens { batch: 2, ids });
            let segment = Segment::new(built.network.entry(), built.network.output);
            let x = (0..tape.length(segment.from)).map(|at| (at as f32).sin()).collect();
            let u = (0..tape.length(segment.to)).map(|at| (at as f32).cos()).collect();
            let products =
                [tape.jvp(&weights, &segment, x).unwrap(), tape.vjp(&weights, &segment, u).unwrap()];
            products.into_iter().flatten().map(|value| u64::from(value.to_bits())).collect()
        })
    };
    let one = bits(1);
    for threads in [2, 5] {
        assert_eq!(bits(threads), one, "{threads} threads");
    }
}

mod refusals {
    use super::*;

    /// A copy of the tiny model with its config changed.
    fn changed(name: &str, change: impl FnOnce(&mut serde_json::Value)) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let from = Path::new(ORACLE).join(name);
        std::fs::copy(from.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
        let mut config = common::oracle(&from.join("config.json"));
        change(&mut config);
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let path = folder.path().to_owned();
        (folder, path)
    }

    fn refusal(name: &str, change: impl FnOnce(&mut serde_json::Value)) -> (ErrorKind, String) {
        let (_folder, path) = changed(name, change);
        let error = from_config(&read(&path)).expect_err("the network is refused");
        (error.kind.clone(), error.to_string())
    }

    #[test]
    fn a_model_that_is_not_built_is_named() {
        let (kind, message) = refusal("gpt2", |config| config["model_type"] = "mamba".into());
        assert!(matches!(kind, ErrorKind::UnknownArchitecture { .. }));
        assert!(message.contains("model_type = \"mamba\"") && message.contains("--model"), "{message}");
    }

    #[test]
    fn without_a_config_the_way_on_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let from = Path::new(ORACLE).join("gpt2/model.safetensors");
        std::fs::copy(from, folder.path().join("model.safetensors")).unwrap();
        let error = from_config(&read(folder.path())).expect_err("there is no config");
        assert!(error.to_string().contains("give --model"), "{error}");
    }

    #[test]
    fn settings_that_change_the_network_in_a_way_that_is_not_built_are_named() {
        let yarn = serde_json::json!({ "rope_type": "yarn", "rope_theta": 50.0, "factor": 2.0 });
        let (kind, message) = refusal("llama", |config| config["rope_parameters"] = yarn);
        assert!(
            matches!(kind, ErrorKind::UnknownArchitecture { .. }) && message.contains("yarn"),
            "{message}"
        );
        let (_, message) = refusal("bert", |config| config["hidden_act"] = "mish".into());
        assert!(message.contains("hidden_act = \"mish\""), "{message}");
        let (_, message) = refusal("bert", |config| config["is_decoder"] = true.into());
        assert!(message.contains("is_decoder"), "{message}");
    }

    #[test]
    fn parameters_that_are_missing_are_named() {
        let (kind, message) = refusal("gpt2", |config| config["n_layer"] = 3.into());
        let ErrorKind::MissingParameters { count, .. } = kind else { panic!("{message}") };
        assert_eq!(count, 12, "those of a whole block");
        assert!(message.contains("h.2."), "{message}");
    }

    #[test]
    fn parameters_that_are_not_used_are_listed() {
        let (_folder, path) = changed("gpt2", |config| config["n_layer"] = 1.into());
        let unused = from_config(&read(&path)).unwrap().unused;
        assert_eq!(unused.len(), 12, "{unused:?}");
        assert!(unused.iter().all(|name| name.contains("h.1.")), "{unused:?}");
    }

    #[test]
    fn a_parameter_of_another_shape_is_named_with_both() {
        let (kind, message) = refusal("gpt2", |config| config["n_inner"] = 32.into());
        assert!(matches!(kind, ErrorKind::ParameterShape { .. }), "{message}");
        assert!(
            message.contains("mlp.c_fc") && message.contains("[16, 32]") && message.contains("[16, 64]"),
            "{message}"
        );
    }

    #[test]
    fn sizes_that_no_network_has_cost_neither_memory_nor_time() {
        for (name, key) in [
            ("gpt2", "n_layer"),
            ("llama", "head_dim"),
            ("llama", "num_hidden_layers"),
            ("albert", "inner_group_num"),
        ] {
            let start = std::time::Instant::now();
            let (kind, message) = refusal(name, |config| config[key] = 2_000_000_000.into());
            assert!(matches!(kind, ErrorKind::SideFile { .. }), "{message}");
            assert!(start.elapsed().as_secs() < 2);
        }
        for (name, key, value) in
            [("gpt2", "n_head", 3), ("llama", "num_key_value_heads", 3), ("bert", "num_attention_heads", 5)]
        {
            let (kind, message) = refusal(name, |config| config[key] = value.into());
            assert!(matches!(kind, ErrorKind::SideFile { .. }), "{message}");
        }
    }

    #[test]
    fn an_input_that_does_not_fit_is_a_sentence() {
        let (_, built) = model("gpt2");
        let message = built.network.shapes(&[1, 17]).expect_err("there are 16 positions");
        assert_eq!(message, "17 tokens are given, the network has positions for 16");
        assert!(built.network.shapes(&[1, 0]).is_err() && built.network.shapes(&[4]).is_err());
    }
}

#[test]
fn a_published_minilm_has_the_hidden_states_and_jacobians_of_transformers() {
    let folder = std::env::var_os("FLASHPOINT_REAL_INPUTS").filter(|value| !value.is_empty());
    let Some(folder) = folder.map(PathBuf::from) else {
        eprintln!("SKIPPED minilm: FLASHPOINT_REAL_INPUTS is not set, no real input was read");
        return;
    };
    let oracle = common::oracle(&Path::new(ORACLE).join("minilm.json"));
    let checkpoint = read(&folder.join(oracle["file"].as_str().unwrap()));
    let built = from_config(&checkpoint).unwrap();
    assert!(built.unused.iter().all(|name| name.contains("pooler")), "{:?}", built.unused);
    let ids: Vec<u32> =
        oracle["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    let weights = weights::<f64>(&checkpoint, &built);
    let tape = tape(&built.network, &weights, Input::Tokens { batch: 1, ids });
    let blocks = &built.network.blocks;
    let states: Vec<ValueId> =
        std::iter::once(built.network.entry()).chain(blocks.iter().map(|block| block.output)).collect();
    let expected = oracle["states"].as_array().unwrap();
    assert_eq!(expected.len(), states.len());
    for (state, expected) in states.iter().zip(expected) {
        let found = tape.download(*state).unwrap();
        let norm = found.iter().map(|x| x * x).sum::<f64>().sqrt();
        assert!((norm / expected["norm"].as_f64().unwrap() - 1.0).abs() < 1e-10);
        let first: Vec<f64> = expected["first"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|row| row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()))
            .collect();
        let width = found.len() / 8;
        let ours: Vec<f64> = found.chunks(width).flat_map(|row| row[..4].to_vec()).collect();
        assert!(distance(&ours, &first) < 1e-10, "{state:?}");
    }
    for (block, expected) in blocks.iter().zip(expected) {
        let Some(largest) = expected["largest"][0].as_f64() else { continue };
        let map = Products { tape: &tape, weights: &weights, segment: block.segment() };
        let ritz = lanczos::run(&Cpu, &map, 60, Stream::new(3, 0), &Context::default()).unwrap().unwrap();
        assert!(
            (ritz.values[0] / largest - 1.0).abs() < 1e-6,
            "{}: {} {largest}",
            block.name,
            ritz.values[0]
        );
    }
    assert_eq!(expected.iter().filter(|state| state["largest"].is_array()).count(), 2);
}

/// The Jacobian of a segment as a linear map.
struct Products<'t, 'n> {
    tape: &'t Tape<'n, Cpu, f64>,
    weights: &'t Weights<Cpu, f64>,
    segment: Segment,
}

impl Operator<Cpu> for Products<'_, '_> {
    fn rows(&self) -> usize {
        self.tape.length(self.segment.to)
    }

    fn columns(&self) -> usize {
        self.tape.length(self.segment.from)
    }

    fn apply(&self, _: &Cpu, side: Side, x: &Vec<f64>, y: &mut Vec<f64>) -> flashpoint::error::Result<()> {
        *y = match side {
            Side::Plain => self.tape.jvp(self.weights, &self.segment, x.clone())?,
            Side::Transposed => self.tape.vjp(self.weights, &self.segment, x.clone())?,
        };
        Ok(())
    }
}
