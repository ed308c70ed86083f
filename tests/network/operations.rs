//! Every operation: output and whole Jacobian, by columns and by rows.

use flashpoint::compute::{Cpu, Real, Unary};
use flashpoint::network::{
    Activation, Add, Array, Assembly, Attention, Concat, CrossEntropy, Feed, Input, InputKind, LayerNorm,
    Linear, Mask, MeanSquaredError, Multiply, Operation, ParameterId, Reshape, Rotary, Scale, Segment, Slice,
    Softmax, Tape, Targets, Transpose, Weights,
};

use super::oracle::{Oracle, distance, wide};
use super::{JACOBIAN_F32, JACOBIAN_F64, jacobian, jacobian_by_rows};

/// The operation of a case of the oracle.
fn operation(name: &str, oracle: &Oracle, assembly: &mut Assembly) -> Operation {
    let mut parameter = |leaf: &str| {
        let full = format!("{name}/{leaf}");
        oracle.has(&full).then(|| assembly.parameter(&full, &oracle.get(&full).0))
    };
    let function = |function| Activation { function }.into();
    let attention =
        |shared, scale, cap, mask| Attention { heads: 4, shared, width: 2, scale, cap, mask }.into();
    let norm =
        |columns, centred, epsilon, gain, bias| LayerNorm { columns, centred, epsilon, gain, bias }.into();
    let rotary = |frequencies: &[f64], factor| {
        Rotary { heads: 2, width: 4, frequencies: frequencies.into(), factor }.into()
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
    let names: Vec<String> =
        oracle.names().iter().filter_map(|name| name.strip_suffix("/jacobian").map(str::to_owned)).collect();
    assert!(names.len() >= 33, "{} operations", names.len());
    for name in names {
        let wide = errors::<f64>(&name, &oracle);
        assert!(wide.iter().all(|&error| error <= JACOBIAN_F64), "{name}: {wide:?} in f64");
        let narrow = errors::<f32>(&name, &oracle);
        assert!(narrow.iter().all(|&error| error <= JACOBIAN_F32), "{name}: {narrow:?} in f32");
    }
}
