//! Every operation against itself: ⟨u, J·x⟩ = ⟨Jᵀ·u, x⟩ in f64 and f32, J·x and parameter gradients against central
//! differences in f64. What they are held against besides, PyTorch, is in `tests/network/`.

use super::*;
use crate::compute::{Cpu, Unary};
use crate::network::{
    Assembly, Feed, Gradients, Input, InputKind, Network, Operation, ParameterId, Segment, Tape, Targets,
    ValueId, Weights,
};
use crate::random::Stream;

/// Sequences or images in every input.
const BATCH: usize = 2;

/// One operation on inputs of these sizes behind the batch.
struct Case {
    operation: fn(&mut Assembly) -> Operation,
    inputs: &'static [&'static [usize]],
    targets: Option<Targets>,
}

fn case(operation: fn(&mut Assembly) -> Operation, inputs: &'static [&'static [usize]]) -> Case {
    Case { operation, inputs, targets: None }
}

/// The operations that do not begin a network, each at least once.
fn cases() -> Vec<Case> {
    let functions: [fn(&mut Assembly) -> Operation; 12] = [
        |_| Activation { function: Unary::Relu }.into(),
        |_| Activation { function: Unary::Relu6 }.into(),
        |_| Activation { function: Unary::LeakyRelu { slope: 0.1 } }.into(),
        |_| Activation { function: Unary::Elu { alpha: 0.7 } }.into(),
        |_| Activation { function: Unary::GeluErf }.into(),
        |_| Activation { function: Unary::GeluTanh }.into(),
        |_| Activation { function: Unary::GeluSigmoid }.into(),
        |_| Activation { function: Unary::Silu }.into(),
        |_| Activation { function: Unary::Tanh }.into(),
        |_| Activation { function: Unary::Sigmoid }.into(),
        |_| Activation { function: Unary::Softplus }.into(),
        |_| Activation { function: Unary::SoftCap { cap: 1.5 } }.into(),
    ];
    let mut cases: Vec<Case> = functions.into_iter().map(|function| case(function, &[&[3, 7]])).collect();
    cases.extend([
        case(|a| linear(a, false, true), &[&[3, 5]]),
        case(|a| linear(a, true, false), &[&[3, 5]]),
        case(
            |a| {
                let table = a.parameter("positions", &[6, 4]);
                PositionEmbedding { count: 6, width: 4, table, rows: Rows::From(2) }.into()
            },
            &[&[3, 4]],
        ),
        case(
            |a| {
                let table = a.parameter("types", &[2, 4]);
                PositionEmbedding { count: 2, width: 4, table, rows: Rows::Always(1) }.into()
            },
            &[&[3, 4]],
        ),
        case(|a| norm(a, true, 7), &[&[3, 7]]),
        case(|a| norm(a, false, 7), &[&[3, 7]]),
        case(|a| norm(a, false, 4), &[&[3, 8]]),
        case(|_| Softmax.into(), &[&[3, 7]]),
        case(|_| rotary(6), &[&[5, 18]]),
        case(|_| rotary(4), &[&[5, 18]]),
        case(|_| attention(4, Mask::None, None), &[&[5, 12], &[5, 12], &[5, 12]]),
        case(|_| attention(4, Mask::None, None), &[&[2, 12], &[5, 12], &[5, 12]]),
        case(|_| attention(4, Mask::Causal, Some(0.8)), &[&[5, 12], &[5, 12], &[5, 12]]),
        case(|_| attention(2, Mask::Causal, None), &[&[5, 12], &[5, 6], &[5, 6]]),
        case(|_| attention(1, Mask::Window(2), None), &[&[5, 12], &[5, 3], &[5, 3]]),
        case(|_| Add.into(), &[&[3, 4], &[3, 4], &[3, 4]]),
        case(|_| Multiply.into(), &[&[3, 4], &[3, 4]]),
        case(|_| Scale { factor: -1.7 }.into(), &[&[3, 4]]),
        case(|_| Concat { axis: 2 }.into(), &[&[3, 4], &[3, 1], &[3, 2]]),
        case(|_| Concat { axis: 1 }.into(), &[&[3, 4], &[1, 4]]),
        case(|_| Slice { axis: 1, places: 1..3 }.into(), &[&[4, 5]]),
        case(|_| Slice { axis: 2, places: 4..5 }.into(), &[&[4, 5]]),
        case(|_| Reshape { shape: vec![Some(2), None, Some(3)] }.into(), &[&[4, 6]]),
        case(|_| Transpose { axes: vec![0, 3, 1, 2] }.into(), &[&[2, 3, 4]]),
        case(|a| conv2d(a, 1, [3, 2], [1, 1], [[1, 1], [0, 1]], [1, 1]), &[&[4, 5, 4]]),
        case(|a| conv2d(a, 2, [3, 3], [2, 1], [[0, 0], [2, 2]], [1, 2]), &[&[4, 6, 5]]),
        case(|a| conv2d(a, 4, [1, 1], [1, 1], [[1, 1], [1, 1]], [1, 1]), &[&[4, 3, 3]]),
        case(|a| conv1d(a, 1, 3, 2, [1, 1], 1), &[&[4, 7]]),
        case(|a| conv1d(a, 2, 4, 1, same_padding(4, 3), 3), &[&[4, 9]]),
        case(batch_norm, &[&[3, 2, 2]]),
        case(|a| group_norm(a, 2), &[&[6, 3]]),
        case(|a| group_norm(a, 6), &[&[6, 2, 2]]),
        case(|_| max_pool(&[(2, 2, 0, 1), (3, 1, 1, 2)]), &[&[3, 5, 6]]),
        case(|_| max_pool(&[(3, 2, 1, 1)]), &[&[3, 7]]),
        case(|_| average_pool(&[(2, 2, 0, true), (3, 2, 1, true)]), &[&[3, 5, 6]]),
        case(|_| average_pool(&[(3, 2, 1, false)]), &[&[3, 7]]),
        case(|_| adaptive(&[2, 3]), &[&[3, 5, 4]]),
        case(|_| adaptive(&[1]), &[&[3, 5]]),
        case(|_| LastStep.into(), &[&[4, 3]]),
        case(|a| cell(a, CellKind::Tanh).into(), &[&[3], &[4]]),
        case(|a| cell(a, CellKind::Relu).into(), &[&[3], &[4]]),
        case(|a| cell(a, CellKind::Gru).into(), &[&[3], &[4]]),
        case(|a| cell(a, CellKind::Lstm).into(), &[&[3], &[8]]),
        case(|a| layer(a, CellKind::Tanh, false), &[&[5, 3]]),
        case(|a| layer(a, CellKind::Gru, true), &[&[5, 3]]),
        case(|a| layer(a, CellKind::Lstm, false), &[&[5, 3]]),
        case(|a| layer(a, CellKind::Lstm, true), &[&[5, 3]]),
        Case {
            operation: |_| CrossEntropy.into(),
            inputs: &[&[3, 5]],
            targets: Some(Targets::Classes(vec![0, 4, 2, 2, 1, 0])),
        },
        Case {
            operation: |_| MeanSquaredError.into(),
            inputs: &[&[3, 5]],
            targets: Some(Targets::Values(Stream::new(9, 9).normals(30))),
        },
    ]);
    cases
}

fn linear(assembly: &mut Assembly, transposed: bool, has_bias: bool) -> Operation {
    let shape = if transposed { [5, 4] } else { [4, 5] };
    let weight = assembly.parameter("weight", &shape);
    let bias = has_bias.then(|| assembly.parameter("bias", &[4]));
    Linear { inputs: 5, outputs: 4, weight, bias, transposed }.into()
}

fn conv2d(
    assembly: &mut Assembly,
    groups: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [[usize; 2]; 2],
    dilation: [usize; 2],
) -> Operation {
    let weight = assembly.parameter("weight", &[8, 4 / groups, kernel[0], kernel[1]]);
    let bias = Some(assembly.parameter("bias", &[8]));
    Conv2d { inputs: 4, outputs: 8, groups, kernel, stride, padding, dilation, weight, bias }.into()
}

fn conv1d(
    assembly: &mut Assembly,
    groups: usize,
    kernel: usize,
    stride: usize,
    padding: [usize; 2],
    dilation: usize,
) -> Operation {
    let weight = assembly.parameter("weight", &[6, 4 / groups, kernel]);
    let bias = Some(assembly.parameter("bias", &[6]));
    Conv1d { inputs: 4, outputs: 6, groups, kernel, stride, padding, dilation, weight, bias }.into()
}

fn batch_norm(assembly: &mut Assembly) -> Operation {
    let mut parameter = |name: &str| assembly.parameter(name, &[3]);
    // The draws of a variance may be negative: what is added makes up for it.
    let (mean, variance) = (parameter("mean"), parameter("variance"));
    let (gain, bias) = (Some(parameter("gain")), Some(parameter("bias")));
    BatchNorm { channels: 3, epsilon: 5.0, mean, variance, gain, bias }.into()
}

fn group_norm(assembly: &mut Assembly, groups: usize) -> Operation {
    let gain = Some(assembly.parameter("gain", &[6]));
    let bias = Some(assembly.parameter("bias", &[6]));
    GroupNorm { channels: 6, groups, epsilon: 0.1, gain, bias }.into()
}

fn max_pool(axes: &[(usize, usize, usize, usize)]) -> Operation {
    let window = |&(size, stride, padding, dilation): &_| MaxWindow { size, stride, padding, dilation };
    MaxPool { axes: axes.iter().map(window).collect() }.into()
}

fn average_pool(axes: &[(usize, usize, usize, bool)]) -> Operation {
    let window = |&(size, stride, padding, counts_padding): &_| AverageWindow::Fixed {
        size,
        stride,
        padding,
        counts_padding,
    };
    AveragePool { axes: axes.iter().map(window).collect() }.into()
}

fn adaptive(places: &[usize]) -> Operation {
    AveragePool { axes: places.iter().map(|&places| AverageWindow::Adaptive { places }).collect() }.into()
}

fn cell(assembly: &mut Assembly, kind: CellKind) -> RecurrentCell {
    let rows = kind.gates() * 4;
    let input_weight = assembly.parameter("input weight", &[rows, 3]);
    let state_weight = assembly.parameter("state weight", &[rows, 4]);
    let input_bias = Some(assembly.parameter("input bias", &[rows]));
    let state_bias = Some(assembly.parameter("state bias", &[rows]));
    RecurrentCell { kind, inputs: 3, hidden: 4, input_weight, state_weight, input_bias, state_bias }
}

fn layer(assembly: &mut Assembly, kind: CellKind, reversed: bool) -> Operation {
    RecurrentLayer { cell: cell(assembly, kind), reversed }.into()
}

fn norm(assembly: &mut Assembly, centred: bool, columns: usize) -> Operation {
    let gain = Some(assembly.parameter("gain", &[columns]));
    let bias = centred.then(|| assembly.parameter("bias", &[columns]));
    LayerNorm { columns, centred, epsilon: 0.1, gain, bias }.into()
}

fn rotary(rotated: usize) -> Operation {
    let frequencies = (0..rotated / 2).map(|index| 0.9 / (1.0 + index as f64)).collect();
    Rotary { heads: 3, width: 6, frequencies, factor: 1.1 }.into()
}

fn attention(shared: usize, mask: Mask, cap: Option<f64>) -> Operation {
    Attention { heads: 4, shared, width: 3, scale: 0.6, cap, mask }.into()
}

/// A network of the one operation. Its inputs are cut out of one row of numbers for each of the batch.
struct Alone {
    network: Network,
    inputs: Vec<ValueId>,
    feed: Feed,
}

impl Alone {
    fn new(case: &Case) -> Self {
        let sizes: Vec<usize> = case.inputs.iter().map(|shape| shape.iter().product()).collect();
        let width: usize = sizes.iter().sum();
        let mut assembly = Assembly::new("alone", InputKind::Features { shape: vec![Some(width)] });
        let whole = assembly.input();
        let mut start = 0;
        let mut inputs = Vec::new();
        for (shape, size) in case.inputs.iter().zip(sizes) {
            let part = assembly.push("part", Slice { axis: 1, places: start..start + size }, &[whole]);
            let shape = shape.iter().copied().map(Some).collect();
            inputs.push(assembly.push("shaped", Reshape { shape }, &[part]));
            start += size;
        }
        let operation = (case.operation)(&mut assembly);
        let output = assembly.push("alone", operation, &inputs);
        let values = Stream::new(1, 0).normals(BATCH * width);
        let input = Input::Features { shape: vec![BATCH, width], values };
        let feed = Feed { input, targets: case.targets.clone() };
        Self { network: assembly.finish(output), inputs, feed }
    }

    fn weights<T: Real>(&self) -> Weights<Cpu, T> {
        let mut weights = Weights::none(&self.network);
        for (index, parameter) in self.network.parameters.iter().enumerate() {
            let values = Stream::new(2, index as u64).normals(parameter.shape.iter().product());
            let array = Array::upload(&Cpu, &parameter.shape, &values).unwrap();
            weights.set(ParameterId(index), array);
        }
        weights
    }

    fn tape<T: Real>(&self, weights: &Weights<Cpu, T>, feed: &Feed) -> Tape<'_, Cpu, T> {
        let mut tape = Tape::new(&self.network, &Cpu, feed).unwrap();
        tape.advance(weights, self.network.output).unwrap();
        tape
    }

    /// The distance of the two sides of the adjoint identity, over `‖u‖·‖J·x‖`.
    fn adjoint_error<T: Real>(&self, from: ValueId) -> f64 {
        let weights = self.weights::<T>();
        let tape = self.tape(&weights, &self.feed);
        let segment = Segment::new(from, self.network.output);
        let x = random::<T>(3, tape.length(from));
        let u = random::<T>(4, tape.length(segment.to));
        let forward = tape.jvp(&weights, &segment, x.clone()).unwrap();
        let back = tape.vjp(&weights, &segment, u.clone()).unwrap();
        let scale = (Cpu.dot(&u, &u).unwrap() * Cpu.dot(&forward, &forward).unwrap()).sqrt();
        (Cpu.dot(&u, &forward).unwrap() - Cpu.dot(&back, &x).unwrap()).abs() / scale.max(1e-300)
    }
}

fn random<T: Real>(stream: u64, count: usize) -> Vec<T> {
    Stream::new(5, stream).normals(count).into_iter().map(T::from_f64).collect()
}

/// The step of central differences: their error is about its square, and rounding over it.
const STEP: f64 = 1e-5;

fn distance(x: &[f64], y: &[f64]) -> f64 {
    let difference: Vec<f64> = x.iter().zip(y).map(|(x, y)| x - y).collect();
    (Cpu.dot(&difference, &difference).unwrap() / Cpu.dot(&y.to_vec(), &y.to_vec()).unwrap()).sqrt()
}

#[test]
fn every_operation_is_its_own_adjoint_from_all_inputs_and_from_each() {
    for case in cases() {
        let alone = Alone::new(&case);
        let name = format!("{:?}", alone.network.node(alone.network.output).operation);
        for from in std::iter::once(ValueId(0)).chain(alone.inputs.iter().copied()) {
            let error = alone.adjoint_error::<f64>(from);
            assert!(error < 1e-12, "{name} from {from:?}: {error:e} in f64");
            let error = alone.adjoint_error::<f32>(from);
            assert!(error < 1e-5, "{name} from {from:?}: {error:e} in f32");
        }
    }
}

#[test]
fn the_tangent_of_every_operation_is_the_limit_of_differences() {
    for case in cases() {
        let alone = Alone::new(&case);
        let name = format!("{:?}", alone.network.node(alone.network.output).operation);
        let weights = alone.weights::<f64>();
        let Input::Features { shape, values } = &alone.feed.input else { unreachable!() };
        let direction = random::<f64>(6, values.len());
        let at = |step: f64| {
            let values = values.iter().zip(&direction).map(|(x, d)| x + step * d).collect();
            let input = Input::Features { shape: shape.clone(), values };
            let feed = Feed { input, targets: alone.feed.targets.clone() };
            alone.tape(&weights, &feed).download(alone.network.output).unwrap()
        };
        let differences: Vec<f64> =
            at(STEP).iter().zip(at(-STEP)).map(|(plus, minus)| (plus - minus) / (2.0 * STEP)).collect();
        let segment = Segment::new(ValueId(0), alone.network.output);
        let tape = alone.tape(&weights, &alone.feed);
        let tangent = tape.jvp(&weights, &segment, direction).unwrap();
        let error = distance(&tangent, &differences);
        assert!(error < 1e-8, "{name}: {error:e}");
    }
}

#[test]
fn the_gradient_by_every_parameter_is_the_limit_of_differences() {
    let mut checked = 0;
    for case in cases() {
        let alone = Alone::new(&case);
        let tape_of = |weights: &Weights<Cpu, f64>| alone.tape(weights, &alone.feed);
        for (index, parameter) in alone.network.parameters.iter().enumerate() {
            if ["mean", "variance"].contains(&parameter.name.as_str()) {
                continue;
            }
            let error = gradient_error(&alone.network, &alone.weights(), tape_of, ParameterId(index));
            let name = &parameter.name;
            assert!(error < 1e-8, "{name} of {:?}: {error:e}", alone.network.nodes.last().unwrap().operation);
            checked += 1;
        }
    }
    assert!(checked >= 9);
}

/// The distance of a directional derivative by a parameter from a central difference, relative.
fn gradient_error<'n>(
    network: &'n Network,
    weights: &Weights<Cpu, f64>,
    tape_of: impl Fn(&Weights<Cpu, f64>) -> Tape<'n, Cpu, f64>,
    id: ParameterId,
) -> f64 {
    let tape = tape_of(weights);
    let u = random::<f64>(7, tape.length(network.output));
    let mut gradients = Gradients::none(network);
    tape.parameter_gradient(weights, network.output, u.clone(), &mut gradients).unwrap();
    let gradient = &gradients.get(id).expect("the parameter was met").buffer;
    let direction = random::<f64>(8, gradient.len());
    let at = |step: f64| {
        let mut moved = Weights::none(network);
        for other in (0..network.parameters.len()).map(ParameterId) {
            let mut array = weights.get(other).copy(&Cpu).unwrap();
            if other == id {
                Cpu.axpy(step, &direction, &mut array.buffer).unwrap();
            }
            moved.set(other, array);
        }
        Cpu.dot(&u, &tape_of(&moved).download(network.output).unwrap()).unwrap()
    };
    let difference = (at(STEP) - at(-STEP)) / (2.0 * STEP);
    (Cpu.dot(gradient, &direction).unwrap() - difference).abs() / difference.abs()
}

#[test]
fn the_gradient_of_an_embedding_adds_up_over_repeated_tokens() {
    let mut assembly = Assembly::new("alone", InputKind::Tokens { vocabulary: 5, positions: None });
    let table = assembly.parameter("table", &[5, 3]);
    let output = assembly.push("embedding", Embedding { count: 5, width: 3, table }, &[]);
    let network = assembly.finish(output);
    let feed = Feed::from(Input::Tokens { batch: 2, ids: vec![4, 1, 1, 0, 4, 1] });
    let mut weights = Weights::none(&network);
    weights.set(table, Array::upload(&Cpu, &[5, 3], &Stream::new(1, 1).normals(15)).unwrap());
    let tape_of = |weights: &Weights<Cpu, f64>| {
        let mut tape = Tape::new(&network, &Cpu, &feed).unwrap();
        tape.advance(weights, output).unwrap();
        tape
    };
    assert!(gradient_error(&network, &weights, tape_of, table) < 1e-8);
    let mut gradients = Gradients::none(&network);
    let ones = vec![1.0; 18];
    tape_of(&weights).parameter_gradient(&weights, output, ones, &mut gradients).unwrap();
    let counts: Vec<f64> = gradients.get(table).unwrap().buffer.iter().step_by(3).copied().collect();
    assert_eq!(counts, [1.0, 3.0, 0.0, 0.0, 2.0]);
}

#[test]
fn every_operation_of_the_list_has_a_case() {
    let list = include_str!("../operation.rs").split("operations! {").nth(1).unwrap();
    let names = list.lines().map(|line| line.trim().trim_end_matches(','));
    let names = names.filter(|line| line.starts_with(char::is_uppercase));
    let begins = ["Source", "Embedding"];
    let cases: Vec<&str> =
        cases().iter().map(|case| Alone::new(case).network.nodes.last().unwrap().operation.name()).collect();
    let without: Vec<&str> = names.filter(|name| !begins.contains(name) && !cases.contains(name)).collect();
    assert!(without.is_empty(), "no case for {without:?}");
}
