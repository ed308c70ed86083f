//! Convolutional and recurrent networks against PyTorch in float64: operations in every setting, small networks written as
//! `model.toml`, networks by their shapes alone, published recurrences. `fixtures/make_network_conv.py` makes the oracles.

#[path = "../common/mod.rs"]
mod common;
mod convolutions;
mod model_toml;
mod real;
mod shapes;

use std::path::{Path, PathBuf};

use flashpoint::analysis::spectrum::bidiagonal;
use flashpoint::checkpoint::{Checkpoint, NameRules};
use flashpoint::compute::{Backend, Cpu, Real};
use flashpoint::context::Context;
use flashpoint::network::builders::{Built, from_model_toml, stated_by_model_toml, with_input_sizes};
use flashpoint::network::{Gradients, Input, Network, ParameterId, Segment, Tape, ValueId, Weights};

const ORACLE: &str = "fixtures/oracle/network";

/// `|J - J_torch|_F / |J_torch|_F`: seen 7e-15 in f64 and 8e-6 in f32 (numerics: JVP of a GPT against jacrev).
const JACOBIAN_F64: f64 = 1e-10;
const JACOBIAN_F32: f64 = 1e-4;
/// The largest singular value.
const LARGEST: f64 = 1e-4;

fn read(path: &Path) -> Checkpoint {
    Checkpoint::read(path, &NameRules::default(), &Context::default())
        .unwrap_or_else(|error| panic!("{error}"))
}

/// A tensor of a checkpoint: its shape and its numbers.
fn tensor(checkpoint: &Checkpoint, name: &str) -> Option<(Vec<usize>, Vec<f64>)> {
    let named = checkpoint.tensors.iter().find(|tensor| tensor.name == name)?;
    let tensor = named.tensor.as_ref().unwrap();
    let shape = tensor.shape.iter().map(|&size| size as usize).collect();
    Some((shape, Cpu.load::<f64>(tensor).unwrap()))
}

/// The numbers of a tensor that is there.
fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f64> {
    tensor(checkpoint, name).unwrap_or_else(|| panic!("the oracle has no {name}")).1
}

/// Sixteenths in [-1, 1), as `draw` of `fixtures/make_network_conv.py` gives them.
fn draw(seed: u64, count: usize) -> Vec<f64> {
    let bits = |index: u64| ((index * 2_654_435_761 + seed * 40_503) % (1 << 32)) >> 27;
    (1..=count as u64).map(|index| bits(index) as f64 / 16.0 - 1.0).collect()
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
    if whole == 0.0 { difference.sqrt() } else { (difference / whole).sqrt() }
}

/// The whole Jacobian of a segment, row-major, column by column from J·e.
fn jacobian<T: Real>(tape: &Tape<'_, Cpu, T>, weights: &Weights<Cpu, T>, segment: &Segment) -> Vec<f64> {
    let (rows, columns) = (tape.length(segment.to), tape.length(segment.from));
    let mut matrix = vec![0.0; rows * columns];
    for column in 0..columns {
        let mut unit = vec![T::zero(); columns];
        unit[column] = T::one();
        for (row, value) in wide(tape.jvp(weights, segment, unit).unwrap()).into_iter().enumerate() {
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
    let row = |row: usize| {
        let mut unit = vec![T::zero(); rows];
        unit[row] = T::one();
        wide(tape.vjp(weights, segment, unit).unwrap())
    };
    (0..rows).flat_map(row).collect()
}

/// The largest singular value of a matrix.
fn largest(matrix: &[f64], rows: usize) -> f64 {
    let columns = matrix.len() / rows;
    let (matrix, long, short) = if rows >= columns {
        (matrix.to_vec(), rows, columns)
    } else {
        let at = |index: usize| matrix[index % rows * columns + index / rows];
        ((0..matrix.len()).map(at).collect(), columns, rows)
    };
    bidiagonal::singular_values(matrix, long, short).unwrap()[0]
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

/// The networks of an oracle, each with the text that builds it.
fn networks(checkpoint: &Checkpoint) -> Vec<(String, String)> {
    let texts = &checkpoint.metadata["networks"];
    let texts: serde_json::Map<String, serde_json::Value> = serde_json::from_str(texts).unwrap();
    texts.into_iter().map(|(name, text)| (name, text.as_str().unwrap().to_owned())).collect()
}

fn built(checkpoint: &Checkpoint, text: &str) -> Built {
    from_model_toml(text, Path::new("model.toml"), checkpoint)
        .unwrap_or_else(|error| panic!("{text}\n{error}"))
}

/// Output, whole Jacobian from both sides and largest singular value against the oracle of a network.
fn check<T: Real>(checkpoint: &Checkpoint, name: &str, built: &Built, tolerance: f64) {
    let oracle = |leaf: &str| tensor(checkpoint, &format!("oracle.{name}.{leaf}")).unwrap();
    let (shape, x) = oracle("x");
    let weights = weights::<T>(checkpoint, built);
    let network = &built.network;
    let tape = tape(network, &weights, Input::Features { shape, values: x });
    let (shape, y) = oracle("y");
    assert_eq!(tape.shape(network.output), shape, "{name}");
    let error = distance(&wide(tape.download(network.output).unwrap()), &y);
    assert!(error <= tolerance, "{name}: {error:e} in the output");
    let segment = Segment::new(ValueId(0), network.output);
    let expected = oracle("j").1;
    let columns = jacobian(&tape, &weights, &segment);
    for (side, found) in [("columns", &columns), ("rows", &jacobian_by_rows(&tape, &weights, &segment))] {
        let error = distance(found, &expected);
        assert!(error <= tolerance, "{name}: {error:e} in the Jacobian by {side}");
    }
    let (found, expected) = (largest(&columns, y.len()), oracle("largest").1[0]);
    assert!((found / expected - 1.0).abs() <= LARGEST.min(tolerance), "{name}: {found} against {expected}");
}

/// The gradients of every parameter that PyTorch gives one.
fn check_gradients<T: Real>(checkpoint: &Checkpoint, name: &str, built: &Built, tolerance: f64) -> usize {
    let oracle = |leaf: &str| tensor(checkpoint, &format!("oracle.{name}.{leaf}"));
    let (shape, x) = oracle("x").unwrap();
    let weights = weights::<T>(checkpoint, built);
    let network = &built.network;
    let tape = tape(network, &weights, Input::Features { shape, values: x });
    let u = narrow(&draw(7, tape.length(network.output)));
    let mut gradients = Gradients::none(network);
    tape.parameter_gradient(&weights, network.output, u, &mut gradients).unwrap();
    let mut checked = 0;
    for (index, parameter) in network.parameters.iter().enumerate() {
        let leaf = parameter.name.strip_prefix(&format!("{name}.")).unwrap();
        let found = gradients.get(ParameterId(index));
        assert_eq!(found.is_some(), !leaf.contains("running"), "{name}.{leaf}");
        if let Some(found) = found {
            let expected = oracle(&format!("gradient.{leaf}")).expect("PyTorch gives it a gradient").1;
            let error = distance(&wide(found.buffer.clone()), &expected);
            assert!(error <= tolerance, "{name}: {error:e} in the gradient of {leaf}");
            checked += 1;
        }
    }
    checked
}

#[test]
fn every_network_has_the_output_the_jacobian_and_the_gradients_of_pytorch() {
    let (mut checked, mut gradients) = (0, 0);
    for file in ["images", "recurrent"] {
        let checkpoint = read(&Path::new(ORACLE).join(format!("{file}.safetensors")));
        for (name, text) in networks(&checkpoint) {
            let built = built(&checkpoint, &text);
            assert!(built.assumptions.is_empty(), "a file assumes nothing");
            check::<f64>(&checkpoint, &name, &built, JACOBIAN_F64);
            check::<f32>(&checkpoint, &name, &built, JACOBIAN_F32);
            gradients += check_gradients::<f64>(&checkpoint, &name, &built, JACOBIAN_F64);
            check_gradients::<f32>(&checkpoint, &name, &built, JACOBIAN_F32);
            checked += 1;
        }
    }
    assert!(checked >= 23 && gradients >= 60, "{checked} networks, {gradients} gradients");
}

#[test]
fn a_recurrence_taken_step_by_step_is_the_layer_and_its_steps_chain_to_the_layers_jacobian() {
    let checkpoint = read(&Path::new(ORACLE).join("recurrent.safetensors"));
    let mut checked = 0;
    for (name, text) in networks(&checkpoint) {
        let built = built(&checkpoint, &text);
        let weights = weights::<f64>(&checkpoint, &built);
        let (shape, x) = tensor(&checkpoint, &format!("oracle.{name}.x")).unwrap();
        let tape = tape(&built.network, &weights, Input::Features { shape: shape.clone(), values: x });
        let found = built.network.recurrences();
        assert!(!found.is_empty(), "{name}");
        for recurrence in found.iter().filter(|_| shape.len() == 3) {
            let layer =
                ValueId(built.network.nodes.iter().position(|node| node.name == recurrence.name).unwrap());
            let (inputs, outputs) = (tape.download(recurrence.input).unwrap(), tape.download(layer).unwrap());
            let (width, hidden) = (recurrence.inputs(), recurrence.cell.hidden);
            let steps = inputs.len() / width;
            let mut order: Vec<usize> = (0..steps).collect();
            if recurrence.reversed {
                order.reverse();
            }
            let mut state = vec![0.0; recurrence.state()];
            // A change of the input of the first step, as it is in the state after every step.
            let change = draw(60, width);
            let mut carried: Option<Vec<f64>> = None;
            for &step in &order {
                let feed = recurrence.feed(&inputs[step * width..][..width], &state);
                let mut one = Tape::new(&recurrence.step, &Cpu, &feed).unwrap();
                one.advance(&weights, recurrence.step.output).unwrap();
                state = one.download(recurrence.step.output).unwrap();
                let error = distance(&state[..hidden], &outputs[step * hidden..][..hidden]);
                assert!(error < 1e-13, "{name} {}: {error:e} at step {step}", recurrence.name);
                let by_input = Segment::new(
                    recurrence.step.node(recurrence.step.output).inputs[0],
                    recurrence.segment.to,
                );
                carried = Some(match carried {
                    Some(before) => one.jvp(&weights, &recurrence.segment, before).unwrap(),
                    None => one.jvp(&weights, &by_input, change.clone()).unwrap(),
                });
            }
            let mut changes = vec![0.0; inputs.len()];
            changes[order[0] * width..][..width].copy_from_slice(&change);
            let whole = tape.jvp(&weights, &Segment::new(recurrence.input, layer), changes).unwrap();
            let last = &whole[order[steps - 1] * hidden..][..hidden];
            let error = distance(&carried.expect("there are steps")[..hidden], last);
            assert!(error < 1e-12, "{name} {}: {error:e} along all steps", recurrence.name);
            assert!(last.iter().any(|x| x.abs() > 1e-6), "{name}: the first step still matters");
            checked += 1;
        }
    }
    assert!(checked >= 12, "{checked} recurrences");
}

#[test]
fn products_have_the_same_bits_on_any_number_of_threads() {
    let bits = |threads: usize| -> Vec<u64> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let checkpoint = read(&Path::new(ORACLE).join("images.safetensors"));
            let (_, text) = networks(&checkpoint).into_iter().find(|(name, _)| name == "cnn").unwrap();
            let built = built(&checkpoint, &text);
            let weights = weights::<f32>(&checkpoint, &built);
            let input = Input::Features { shape: vec![3, 1, 6, 6], values: draw(8, 108) };
            let tape = tape(&built.network, &weights, input);
            let segment = Segment::new(ValueId(0), built.network.output);
            let x = narrow(&draw(9, tape.length(segment.from)));
            let u = narrow(&draw(10, tape.length(segment.to)));
            let products: [Vec<f32>; 2] =
                [tape.jvp(&weights, &segment, x).unwrap(), tape.vjp(&weights, &segment, u).unwrap()];
            products.into_iter().flatten().map(|value| u64::from(value.to_bits())).collect()
        })
    };
    let one = bits(1);
    for threads in [2, 5] {
        assert_eq!(bits(threads), one, "{threads} threads");
    }
}

/// A checkpoint of these tensors, in a folder that is removed with it.
fn saved(tensors: &[(&str, Vec<usize>)]) -> (tempfile::TempDir, Checkpoint) {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("model.safetensors");
    let bytes = |shape: &[usize]| -> Vec<u8> {
        draw(1, shape.iter().product()).iter().flat_map(|&value| (value as f32).to_le_bytes()).collect()
    };
    let data: Vec<Vec<u8>> = tensors.iter().map(|(_, shape)| bytes(shape)).collect();
    let views = tensors.iter().zip(&data).map(|((name, shape), data)| {
        (*name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), data).unwrap())
    });
    let file = safetensors::serialize(views, None).unwrap();
    std::fs::write(&path, file).unwrap();
    let checkpoint = read(&path);
    (folder, checkpoint)
}
