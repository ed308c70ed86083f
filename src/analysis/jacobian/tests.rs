//! Networks of a few blocks, against their dense Jacobians and against each other.

use std::sync::Arc;

use super::measure::{Found, Options, of_network, over};
use super::parameters::Parameters;
use super::probe::IGNORED;
use super::spectrum::Request;
use super::stages::{are_a_chain, stages};
use super::{Precision, cost, exact, probe};
use crate::analysis::jacobian::segment::SegmentJacobian;
use crate::analysis::model::{Degenerate, DepthGain, Measured, PartJacobian, PartKind, Spread};
use crate::analysis::spectrum::bidiagonal;
use crate::compute::{Cpu, Unary};
use crate::context::Context;
use crate::error::ErrorKind;
use crate::files::InputFile;
use crate::network::{
    Activation, Add, Assembly, Attention, Block, Feed, Input, InputKind, LayerNorm, Linear, Mask, Network,
    Part, Segment, Tape, Targets, ValueId, Weights,
};
use crate::random::Stream;
use crate::tensor::{DType, Tensor};

const TOKENS: usize = 5;
const WIDTH: usize = 8;

const OPTIONS: Options = Options {
    spectrum: Request {
        pairs: 20,
        probes: 16,
        density: false,
        exact: false,
        seed: 3,
        unit: f64::EPSILON / 2.0,
    },
    per_operation: false,
    depth_spectra: true,
    initial: false,
};

fn linear(assembly: &mut Assembly, name: &str, from: ValueId, inputs: usize, outputs: usize) -> ValueId {
    let weight = assembly.parameter(&format!("{name}.weight"), &[outputs, inputs]);
    let bias = Some(assembly.parameter(&format!("{name}.bias"), &[outputs]));
    assembly.push(name, Linear { inputs, outputs, weight, bias, transposed: false }, &[from])
}

fn norm(assembly: &mut Assembly, name: &str, from: ValueId) -> ValueId {
    let gain = Some(assembly.parameter(&format!("{name}.weight"), &[WIDTH]));
    let norm = LayerNorm { columns: WIDTH, centred: true, epsilon: 1e-5, gain, bias: None };
    assembly.push(name, norm, &[from])
}

/// Pre-norm blocks of attention and feed-forward on features.
fn transformer(blocks: usize) -> Network {
    let input = InputKind::Features { shape: vec![None, Some(WIDTH)] };
    let mut own = Assembly::new("gpt2-like", input);
    let mut state = own.input();
    for index in 0..blocks {
        let start = state;
        let name = |part: &str| format!("h.{index}.{part}");
        let normed = norm(&mut own, &name("ln_1"), start);
        let [queries, keys, values] =
            ["q", "k", "v"].map(|part| linear(&mut own, &name(part), normed, WIDTH, WIDTH));
        let heads =
            Attention { heads: 2, shared: 2, width: WIDTH / 2, scale: 0.5, cap: None, mask: Mask::Causal };
        let mixed = own.push(&name("attention"), heads, &[queries, keys, values]);
        let attended = linear(&mut own, &name("o"), mixed, WIDTH, WIDTH);
        let middle = own.push(&name("residual"), Add, &[start, attended]);
        let normed = norm(&mut own, &name("ln_2"), middle);
        let wide = linear(&mut own, &name("up"), normed, WIDTH, 2 * WIDTH);
        let active = own.push(&name("act"), Activation { function: Unary::Tanh }, &[wide]);
        let down = linear(&mut own, &name("down"), active, 2 * WIDTH, WIDTH);
        state = own.push(&name("out"), Add, &[middle, down]);
        own.block(Block {
            name: format!("h.{index}"),
            input: start,
            output: state,
            parts: vec![
                Part {
                    name: "attention".to_owned(),
                    input: start,
                    output: attended,
                    logits_from: vec![queries, keys],
                },
                Part { name: "mlp".to_owned(), input: middle, output: down, logits_from: Vec::new() },
            ],
        });
    }
    let logits = linear(&mut own, "head", state, WIDTH, 11);
    own.finish(logits)
}

/// Layers of tanh without blocks.
fn perceptron(layers: usize) -> Network {
    let mut own = Assembly::new("sequential", InputKind::Features { shape: vec![Some(WIDTH)] });
    let mut state = own.input();
    for index in 0..layers {
        let before = linear(&mut own, &format!("{index}"), state, WIDTH, WIDTH);
        state = own.push(&format!("{index}.act"), Activation { function: Unary::Tanh }, &[before]);
    }
    own.finish(state)
}

/// A file with random parameters, each of `gain` over the root of its last size.
fn tensors(network: &Network, gain: f64) -> (tempfile::TempDir, Vec<Tensor>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("parameters");
    let mut bytes: Vec<u8> = Vec::new();
    let mut places = Vec::new();
    for (index, parameter) in network.parameters.iter().enumerate() {
        let count = parameter.shape.iter().product::<usize>();
        let first = bytes.len() as u64;
        let scale = gain / (*parameter.shape.last().unwrap() as f64).sqrt();
        for value in Stream::new(5, index as u64).normals(count) {
            bytes.extend((scale * value).to_le_bytes());
        }
        places.push(first..bytes.len() as u64);
    }
    std::fs::write(&path, bytes).unwrap();
    let file = Arc::new(InputFile::open(&path, &Context::default()).unwrap());
    let tensor = |(parameter, place): (&crate::network::Parameter, std::ops::Range<u64>)| {
        let shape = parameter.shape.iter().map(|&size| size as u64).collect();
        Tensor::contiguous(DType::F64, shape, file.clone(), place).unwrap()
    };
    let tensors = network.parameters.iter().zip(places).map(tensor).collect();
    (folder, tensors)
}

fn feeds(network: &Network, draws: u64) -> Vec<Feed> {
    let shape = match &network.input {
        InputKind::Features { shape } if shape.len() == 2 => vec![1, TOKENS, WIDTH],
        _ => vec![1, WIDTH],
    };
    let count = shape.iter().product();
    let feed = |draw| {
        Feed::from(Input::Features { shape: shape.clone(), values: Stream::new(9, draw).normals(count) })
    };
    (0..draws).map(feed).collect()
}

fn measured(network: &Network, tensors: &[Tensor], feeds: &[Feed], options: &Options) -> Found {
    let tensors: Vec<&Tensor> = tensors.iter().collect();
    let context = Context::default();
    let parameters = Parameters::<_, f64>::read(&Cpu, network, &tensors).unwrap();
    of_network(&Cpu, network, &parameters, None, feeds, options, &context).unwrap().unwrap().0
}

/// All singular values of the dense Jacobian of a segment at one input.
fn dense(network: &Network, tensors: &[Tensor], feed: &Feed, segment: Segment) -> Vec<f64> {
    let mut weights = Weights::<Cpu, f64>::none(network);
    let tensors: Vec<&Tensor> = tensors.iter().collect();
    let last = ValueId(network.nodes.len() - 1);
    weights.load(&Cpu, network, &tensors, &network.parameters_between(None, last)).unwrap();
    let mut tape = Tape::new(network, &Cpu, feed).unwrap();
    tape.advance(&weights, last).unwrap();
    let operator = SegmentJacobian { backend: &Cpu, tape: &tape, weights: &weights, segment };
    let (rows, columns) = (tape.length(operator.segment.to), tape.length(operator.segment.from));
    let matrix = exact::dense(&Cpu, &operator, &Context::default()).unwrap().unwrap();
    bidiagonal::singular_values(matrix, rows, columns).unwrap()
}

fn mean(value: &Measured<Spread>) -> f64 {
    value.value().unwrap().mean
}

#[track_caller]
fn assert_near(found: f64, expected: f64, relative: f64) {
    assert!((found / expected - 1.0).abs() <= relative, "{found} is not within {relative} of {expected}");
}

#[test]
fn blocks_branches_and_the_whole_have_the_values_of_their_dense_jacobians() {
    let network = transformer(3);
    let (_folder, tensors) = tensors(&network, 1.5);
    let feeds = feeds(&network, 2);
    let found = measured(&network, &tensors, &feeds, &OPTIONS);
    let names: Vec<&str> = found.parts.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names[..3], ["h.0 attention", "h.0 mlp", "h.0"]);
    assert_eq!(found.parts.len(), 9);
    let stages = stages(&network, false);
    for (stage, parts) in stages.iter().zip(found.parts.chunks(3)) {
        let segments = stage.parts.iter().map(|part| part.segment.clone()).chain([stage.segment.clone()]);
        for (segment, part) in segments.zip(parts) {
            let all: Vec<Vec<f64>> =
                feeds.iter().map(|feed| dense(&network, &tensors, feed, segment.clone())).collect();
            let expected = all.iter().map(|values| values[0]).sum::<f64>() / all.len() as f64;
            assert_near(mean(&part.spectral_norm), expected, 1e-6);
            for (draw, values) in part.draws.iter().zip(&all) {
                let own = draw.value().unwrap().frobenius_norm;
                let exact = values.iter().map(|x| x * x).sum::<f64>().sqrt();
                // √(2/16)·√Σσ⁴ of what the space of 20 directions leaves, which is less than the values from the 11th on.
                let rest = values[10..].iter().map(|x| x.powi(4)).sum::<f64>().sqrt();
                let deviation = (2.0f64 / 16.0).sqrt() * rest / (2.0 * exact);
                assert!(
                    (own.value - exact).abs() <= 4.0 * deviation,
                    "{}: {own:?} {exact} {deviation}",
                    part.name
                );
                assert!(own.standard_error < 2.0 * deviation, "{}: {own:?} {deviation}", part.name);
            }
        }
    }
    let whole = found.end_to_end.value().unwrap();
    let expected: f64 = feeds
        .iter()
        .map(|feed| dense(&network, &tensors, feed, Segment::new(network.entry(), network.exit()))[0])
        .sum::<f64>()
        / feeds.len() as f64;
    assert_near(mean(&whole.spectral_norm), expected, 1e-6);
    let last = &found.depths.value().unwrap()[2];
    assert_near(mean(&last.spectral_norm), expected, 1e-6);
}

#[test]
fn exact_measurement_gives_the_whole_spectrum() {
    let network = transformer(2);
    let (_folder, tensors) = tensors(&network, 1.0);
    let feeds = feeds(&network, 1);
    let options = Options { spectrum: Request { exact: true, ..OPTIONS.spectrum }, ..OPTIONS };
    let found = measured(&network, &tensors, &feeds, &options);
    let expected = dense(&network, &tensors, &feeds[0], Segment::new(network.entry(), network.exit()));
    let own = found.end_to_end.value().unwrap().draws[0].value().unwrap();
    assert_near(own.spectral_norm.value, expected[0], 1e-12);
    assert_near(own.frobenius_norm.value, expected.iter().map(|x| x * x).sum::<f64>().sqrt(), 1e-12);
    assert_near(*own.smallest.value().unwrap(), *expected.last().unwrap(), 1e-9);
    let logarithm = expected.iter().map(|x| x.ln()).sum::<f64>() / expected.len() as f64;
    assert!((own.mean_logarithm.value().unwrap() - logarithm).abs() < 1e-9);
}

#[test]
fn the_gain_by_depth_is_that_of_the_dense_jacobians() {
    let network = transformer(3);
    let (_folder, tensors) = tensors(&network, 1.5);
    let feeds = feeds(&network, 1);
    let options = Options { spectrum: Request { probes: 400, ..OPTIONS.spectrum }, ..OPTIONS };
    let found = measured(&network, &tensors, &feeds, &options);
    let n = (TOKENS * WIDTH) as f64;
    let frobenius = |from: ValueId, to: ValueId| {
        dense(&network, &tensors, &feeds[0], Segment::new(from, to)).iter().map(|x| x * x).sum::<f64>().sqrt()
    };
    for (depth, block) in found.depths.value().unwrap().iter().zip(&network.blocks) {
        // 400 vectors: the standard error is at most 1/√800 of the value for one direction that carries everything.
        assert_near(mean(&depth.from_input), frobenius(network.entry(), block.output) / n.sqrt(), 0.12);
        // The mean square length of a random gradient, Σσ²/N.
        assert_near(mean(&depth.gradient), frobenius(block.input, network.exit()) / n.sqrt(), 0.12);
    }
}

#[test]
fn labels_give_the_gradient_that_goes_back() {
    let network = transformer(2);
    let (_folder, tensors) = tensors(&network, 1.0);
    let mut feeds = feeds(&network, 1);
    feeds[0].targets = Some(Targets::Classes(vec![0, 3, 5, 10, 2]));
    let found = measured(&network, &tensors, &feeds, &OPTIONS);
    // The loss by itself, at two points near the first state and near the last: the ratio of the lengths of its gradients.
    let loss = |at: ValueId, index: usize, shift: f64| -> f64 {
        let mut weights = Weights::<Cpu, f64>::none(&network);
        let refs: Vec<&Tensor> = tensors.iter().collect();
        let last = ValueId(network.nodes.len() - 1);
        weights.load(&Cpu, &network, &refs, &network.parameters_between(None, last)).unwrap();
        let mut tape = Tape::new(&network, &Cpu, &feeds[0]).unwrap();
        tape.advance(&weights, last).unwrap();
        let mut logits = tape.download(network.output).unwrap();
        let mut unit = vec![0.0; tape.length(at)];
        unit[index] = shift;
        let change = tape.jvp(&weights, &Segment::new(at, network.output), unit).unwrap();
        logits.iter_mut().zip(change).for_each(|(logit, change)| *logit += change);
        let classes = [0usize, 3, 5, 10, 2];
        let rows = logits.chunks_exact(11).zip(classes);
        rows.map(|(row, class)| row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[class]).sum::<f64>() / 5.0
    };
    let length = |at: ValueId| -> f64 {
        let slope = |index| (loss(at, index, 1e-5) - loss(at, index, -1e-5)) / 2e-5;
        (0..TOKENS * WIDTH).map(|index| slope(index).powi(2)).sum::<f64>().sqrt()
    };
    let expected = length(network.entry()) / length(network.exit());
    assert_near(mean(&found.depths.value().unwrap()[0].gradient), expected, 1e-6);
}

#[test]
fn rows_whose_label_is_left_out_take_no_part_in_the_gradient() {
    let network = transformer(2);
    let (_folder, tensors) = tensors(&network, 1.0);
    let with = |classes: Vec<u32>| {
        let mut feeds = feeds(&network, 1);
        feeds[0].targets = Some(Targets::Classes(classes));
        mean(&measured(&network, &tensors, &feeds, &OPTIONS).depths.value().unwrap()[0].gradient)
    };
    // A causal network: what is left out at the end is as if it were not there, and another label there changes nothing.
    let some = with(vec![0, 3, 5, IGNORED, IGNORED]);
    assert!((some / with(vec![0, 3, 5, 10, 2]) - 1.0).abs() > 1e-3);
    let network_gradient =
        |classes: &[u32]| super::measure::loss_gradient(&[0.5; 22], &Targets::Classes(classes.to_vec()));
    let gradient = network_gradient(&[3, IGNORED]).unwrap();
    assert!(gradient[11..].iter().all(|x| *x == 0.0), "{gradient:?}");
    // Of uniform rows: 1/11 each, less 1 at the class.
    assert!((gradient[3] - (1.0 / 11.0 - 1.0)).abs() < 1e-15 && (gradient[4] - 1.0 / 11.0).abs() < 1e-15);
    for (classes, reason) in [
        (&[3, 11][..], "the label 11 is none of the 11 classes"),
        (&[0, 1, 2], "its 3 labels are not one a row of the 22 logits"),
        (&[IGNORED, IGNORED], "leave every row out"),
        (&[], "its 0 labels are not one a row"),
    ] {
        let error = network_gradient(classes).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn numbers_as_targets_are_judged_by_their_mean_squared_error() {
    // The mean of (0.5 − 1)², (2 − 0)², (−1 + 1)² by each output: 2(y − t)/3.
    let gradient =
        |values: &[f64]| super::measure::loss_gradient(&[0.5, 2.0, -1.0], &Targets::Values(values.to_vec()));
    let expected = [-1.0 / 3.0, 4.0 / 3.0, 0.0];
    let found = gradient(&[1.0, 0.0, -1.0]).unwrap();
    assert!(
        found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-15),
        "{found:?}"
    );
    assert!(gradient(&[1.0]).unwrap_err().contains("not one for each of the 3 numbers"));
}

#[test]
fn a_network_that_is_sure_of_its_labels_has_no_gradient_to_follow() {
    let network = perceptron(3);
    let (_folder, tensors) = tensors(&network, 0.0);
    let found = measured(&network, &tensors, &feeds(&network, 1), &OPTIONS);
    // Of weights that are zero nothing comes out, and nothing goes back.
    let depths = found.depths.value().unwrap();
    assert!(depths.iter().all(|depth| mean(&depth.from_input) == 0.0 && mean(&depth.gradient) == 0.0));
    // One class: its probability is 1, and the gradient of its logarithm 0.
    let mut own = Assembly::new("sequential", InputKind::Features { shape: vec![Some(WIDTH)] });
    let state = own.input();
    let state = linear(&mut own, "0", state, WIDTH, WIDTH);
    let state = linear(&mut own, "1", state, WIDTH, 1);
    let network = own.finish(state);
    let (_folder, tensors) = self::tensors(&network, 1.0);
    let mut feeds = feeds(&network, 1);
    feeds[0].targets = Some(Targets::Classes(vec![0]));
    let found = measured(&network, &tensors, &feeds, &OPTIONS);
    for depth in found.depths.value().unwrap() {
        assert_eq!(depth.gradient, Measured::Degenerate(Degenerate::AllZero));
    }
}

#[test]
fn labels_that_do_not_fit_are_an_error_and_not_random_vectors() {
    let network = transformer(1);
    let (_folder, tensors) = tensors(&network, 1.0);
    let mut feeds = feeds(&network, 1);
    feeds[0].targets = Some(Targets::Classes(vec![0, 3, 5, 11, 2]));
    let tensors: Vec<&Tensor> = tensors.iter().collect();
    let parameters = Parameters::<_, f64>::read(&Cpu, &network, &tensors).unwrap();
    let found = of_network(&Cpu, &network, &parameters, None, &feeds, &OPTIONS, &Context::default());
    let error = found.map(|_| ()).unwrap_err();
    assert!(
        matches!(error.kind, ErrorKind::Probe { .. }) && error.to_string().contains("label 11"),
        "{error}"
    );
}

#[test]
fn what_is_not_finite_is_typed_and_comes_back_from_a_file() {
    let network = transformer(2);
    let (folder, mut tensors) = tensors(&network, 1.0);
    let index = network.parameters.iter().position(|own| own.name == "h.1.up.weight").unwrap();
    let path = folder.path().join("nan");
    let count = tensors[index].count() as usize;
    std::fs::write(&path, f64::NAN.to_le_bytes().repeat(count)).unwrap();
    let file = Arc::new(InputFile::open(&path, &Context::default()).unwrap());
    let (shape, range) = (tensors[index].shape.clone(), 0..file.len());
    tensors[index] = Tensor::contiguous(DType::F64, shape, file, range).unwrap();
    let found = measured(&network, &tensors, &feeds(&network, 2), &OPTIONS);
    let depths = found.depths.value().unwrap();
    let overflow = Measured::Degenerate(Degenerate::Overflow);
    assert!(depths[0].from_input.value().is_some() && depths[0].state_rms.value().is_some());
    assert_eq!((&depths[1].from_input, &depths[1].state_rms), (&overflow, &overflow));
    assert_eq!((&depths[0].gradient, &depths[1].gradient), (&overflow, &overflow));
    let json = serde_json::to_string(&(&found.parts, &found.end_to_end, depths)).unwrap();
    assert!(!json.contains(":null,\"standard_deviation") && !json.contains("mean\":null"), "{json}");
    let (parts, end_to_end, back): (Vec<PartJacobian>, Measured<PartJacobian>, Vec<DepthGain>) =
        serde_json::from_str(&json).unwrap();
    assert_eq!((parts, end_to_end, &back), (found.parts, found.end_to_end, depths));
}

#[test]
fn values_whose_squares_leave_the_range_of_doubles_have_no_spread() {
    assert_eq!(over(&[1e200, -1e200]), Measured::Degenerate(Degenerate::Overflow));
    assert_eq!(over(&[1.0, f64::NAN]), Measured::Degenerate(Degenerate::Overflow));
    assert_eq!(over(&[2.0]).value().unwrap().mean, 2.0);
}

#[test]
fn what_rounding_makes_of_a_zero_in_single_precision_is_no_singular_value() {
    let network = transformer(1);
    let (_folder, tensors) = tensors(&network, 1.0);
    let tensors: Vec<&Tensor> = tensors.iter().collect();
    let parameters = Parameters::<_, f32>::read(&Cpu, &network, &tensors).unwrap();
    let spectrum = Request { exact: true, unit: Precision::F32.unit(), ..OPTIONS.spectrum };
    let options = Options { spectrum, per_operation: true, depth_spectra: false, ..OPTIONS };
    let feeds = feeds(&network, 1);
    let found = of_network(&Cpu, &network, &parameters, None, &feeds, &options, &Context::default());
    let found = found.unwrap().unwrap().0;
    // A norm that takes the mean out, and divides by the size, maps two directions of each of 5 tokens to zero.
    let norm = found.parts.iter().find(|part| part.name == "h.0.ln_1").unwrap().draws[0].value().unwrap();
    assert!(
        matches!(&norm.smallest, Measured::NotMeasured(reason) if reason.contains("rounding")),
        "{norm:?}"
    );
    assert!(
        matches!(&norm.mean_logarithm, Measured::NotMeasured(reason) if reason.contains("not resolvable"))
    );
    // The residual and the bound are those of single precision as well.
    let unit = Precision::F32.unit();
    assert!(norm.spectral_norm.residual > unit * norm.spectral_norm.value);
    let by_products = Options { spectrum: Request { exact: false, ..spectrum }, ..options };
    let found = of_network(&Cpu, &network, &parameters, None, &feeds, &by_products, &Context::default());
    let found = found.unwrap().unwrap().0;
    let exact = dense(
        &network,
        &tensors.iter().map(|&tensor| tensor.clone()).collect::<Vec<_>>(),
        &feeds[0],
        found_segment(&network),
    );
    let own = found.end_to_end.value().unwrap().draws[0].value().unwrap().spectral_norm.clone();
    assert!(own.residual >= unit * own.value);
    assert!(*own.upper.value().unwrap() >= exact[0] && exact[0] >= own.value * (1.0 - 100.0 * unit));
    assert!(*own.upper.value().unwrap() > own.value * (1.0 + 10.0 * unit));
}

fn found_segment(network: &Network) -> Segment {
    Segment::new(network.entry(), network.exit())
}

#[test]
fn the_paths_through_an_attention_are_its_parts_held_still() {
    let network = transformer(1);
    let (_folder, tensors) = tensors(&network, 2.0);
    let feeds = feeds(&network, 1);
    // One block alone is the network; its branches are measured all the same.
    let found = measured(&network, &tensors, &feeds, &OPTIONS);
    assert!(found.parts.iter().all(|part| part.kind != PartKind::Block));
    let own = found.parts[0].paths.value().unwrap();
    let part = &network.blocks[0].parts[0];
    let frozen = Segment { frozen: part.logits_from.clone(), ..Segment::new(part.input, part.output) };
    assert_near(own.value, dense(&network, &tensors, &feeds[0], frozen)[0], 1e-3);
    // The triangle inequality, both ways.
    let whole = found.parts[0].spectral_norm.value().unwrap().mean;
    assert!(whole <= (own.value + own.softmax) * 1.001 && own.softmax <= (whole + own.value) * 1.001);
}

#[test]
fn a_network_without_blocks_is_measured_layer_by_layer() {
    let network = perceptron(4);
    let (_folder, tensors) = tensors(&network, 1.0);
    let feeds = feeds(&network, 2);
    let stages = stages(&network, false);
    let names: Vec<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names, ["0", "1", "2", "3"]);
    assert!(are_a_chain(&network, &stages));
    let found = measured(&network, &tensors, &feeds, &OPTIONS);
    assert_eq!(found.parts.len(), 4);
    let expected = dense(&network, &tensors, &feeds[0], Segment::new(ValueId(0), network.output));
    let own = found.end_to_end.value().unwrap();
    assert_near(own.draws[0].value().unwrap().spectral_norm.value, expected[0], 1e-10);
    assert_eq!((own.rows, own.columns), (WIDTH as u64, WIDTH as u64));
}

#[test]
fn every_operation_is_measured_where_it_was_asked_for() {
    let network = transformer(1);
    let (_folder, tensors) = tensors(&network, 1.0);
    let options = Options { per_operation: true, depth_spectra: false, ..OPTIONS };
    let found = measured(&network, &tensors, &feeds(&network, 1), &options);
    let names: Vec<&str> = found
        .parts
        .iter()
        .filter(|part| part.kind == PartKind::Operation)
        .map(|part| part.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "h.0.ln_1",
            "h.0.q",
            "h.0.k",
            "h.0.v",
            "h.0.attention by h.0.q",
            "h.0.attention by h.0.k",
            "h.0.attention by h.0.v",
            "h.0.o",
            "h.0.ln_2",
            "h.0.up",
            "h.0.act",
            "h.0.down",
        ]
    );
    let own = found.parts.iter().find(|part| part.name == "h.0.up").unwrap();
    // A linear map on every token has the norm of its matrix.
    let index = network.parameters.iter().position(|parameter| parameter.name == "h.0.up.weight").unwrap();
    let mut values = Vec::new();
    tensors[index].read_f64(0..tensors[index].count(), &mut values).unwrap();
    let expected = bidiagonal::singular_values(values, 2 * WIDTH, WIDTH).unwrap()[0];
    assert_near(mean(&own.spectral_norm), expected, 1e-3);
}

#[test]
fn the_same_numbers_come_out_on_any_number_of_threads() {
    let network = transformer(3);
    let (_folder, tensors) = tensors(&network, 1.5);
    let feeds = feeds(&network, 3);
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let found = measured(&network, &tensors, &feeds, &OPTIONS);
            (found.parts, found.end_to_end, found.depths)
        })
    };
    let one = on(1);
    assert_eq!(one, on(2));
    assert_eq!(one, on(5));
}

#[test]
fn the_plan_counts_what_is_multiplied() {
    let network = transformer(3);
    let options = Options { depth_spectra: false, ..OPTIONS };
    let cost = cost::of::<f32>(&network, &[1, TOKENS, WIDTH], 2, &options, 2).unwrap();
    assert_eq!((cost.blocks, cost.parts, cost.state), (3, 9, 40));
    // Of each of 9 parts 2·20 + 16, 60 for the paths of each of 3 attentions, of the whole 56 and 32 over depth.
    assert_eq!(cost.products, 2 * (9 * 56 + 3 * 60 + 56 + 32));
    assert!(cost.is_resident && cost.operations > 0 && cost.bytes() > cost.parameter_bytes);
}

#[test]
fn the_plan_counts_the_memory_of_formed_matrices_and_of_a_second_set_of_weights() {
    let network = transformer(3);
    let planned = |options: &Options, threads| {
        cost::of::<f32>(&network, &[1, TOKENS, WIDTH], 2, options, threads).unwrap()
    };
    let plain = planned(&OPTIONS, 2);
    let n = (TOKENS * WIDTH) as u64;
    // Two bases of 20 vectors of 40 numbers.
    assert_eq!(plain.vector_bytes, 2 * n * 40 * 8);
    let second = planned(&Options { initial: true, ..OPTIONS }, 2);
    assert_eq!(second.parameter_bytes, 2 * plain.parameter_bytes);
    // The widest part, from 8 to 8 numbers of each of 5 tokens, on each of three threads.
    let exact = Options { spectrum: Request { exact: true, ..OPTIONS.spectrum }, ..OPTIONS };
    assert_eq!(planned(&exact, 3).vector_bytes, 3 * n * n * 8);
    assert_eq!(plain.activation_bytes, planned(&exact, 3).activation_bytes);
}

#[test]
fn an_image_of_other_sizes_than_are_open_is_refused() {
    let shape = vec![Some(2), None, None];
    let mut own = Assembly::new("image", InputKind::Features { shape });
    let state = own.input();
    let state = own.push("act", Activation { function: Unary::Tanh }, &[state]);
    let network = own.finish(state);
    let of = |image: &[u64]| {
        probe::draw(&network, &probe::Wanted { tokens: 4, draws: 1, seed: 0, image: image.to_vec() })
            .map(|probe| probe.shape)
    };
    assert_eq!(of(&[6, 5]), Ok(vec![2, 6, 5]));
    assert_eq!(of(&[]), Ok(vec![2, 32, 32]));
    for image in [&[6][..], &[6, 5, 4]] {
        assert!(of(image).unwrap_err().contains("for the 2 that the network leaves open"));
    }
}

#[test]
fn parameters_that_come_and_go_give_the_same_numbers() {
    let network = transformer(3);
    let (_folder, tensors) = tensors(&network, 1.5);
    let feeds = feeds(&network, 1);
    let resident = measured(&network, &tensors, &feeds, &OPTIONS);
    let tensors: Vec<&Tensor> = tensors.iter().collect();
    let stored: Parameters<'_, Cpu, f64> = Parameters::Stored { network: &network, tensors: &tensors };
    let found = of_network(&Cpu, &network, &stored, None, &feeds, &OPTIONS, &Context::default());
    let found = found.unwrap().unwrap().0;
    assert_eq!(found.parts, resident.parts);
    assert_eq!(found.end_to_end, resident.end_to_end);
    assert_eq!(found.depths, resident.depths);
}
