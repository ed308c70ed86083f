//! Convolutions in every combination of stride, padding, dilation and groups, and the trainer's `nn` network.

use super::*;
use flashpoint::compute::Unary;
use flashpoint::network::{
    Activation, Array, Assembly, Conv1d, Conv2d, InputKind, Linear, Operation, Reshape, same_padding,
};
use safetensors::{Dtype, SafeTensors};

/// A setting of the oracle.
#[derive(serde::Deserialize)]
struct Setting {
    inputs: usize,
    outputs: usize,
    image: Vec<usize>,
    kernel: Vec<usize>,
    stride: Vec<usize>,
    padding: serde_json::Value,
    dilation: Vec<usize>,
    groups: usize,
    whole: bool,
}

impl Setting {
    fn padding(&self) -> Vec<[usize; 2]> {
        match &self.padding {
            serde_json::Value::String(_) => {
                self.kernel.iter().zip(&self.dilation).map(|(&k, &d)| same_padding(k, d)).collect()
            }
            sizes => {
                let sizes: Vec<usize> = serde_json::from_value(sizes.clone()).unwrap();
                sizes.into_iter().map(|size| [size, size]).collect()
            }
        }
    }

    fn weight_shape(&self) -> Vec<usize> {
        [&[self.outputs, self.inputs / self.groups], self.kernel.as_slice()].concat()
    }

    fn operation(&self, assembly: &mut Assembly) -> Operation {
        let weight = assembly.parameter("weight", &self.weight_shape());
        let bias = Some(assembly.parameter("bias", &[self.outputs]));
        let (inputs, outputs, groups, padding) = (self.inputs, self.outputs, self.groups, self.padding());
        if let [kernel] = self.kernel[..] {
            let (stride, padding, dilation) = (self.stride[0], padding[0], self.dilation[0]);
            return Conv1d { inputs, outputs, groups, kernel, stride, padding, dilation, weight, bias }
                .into();
        }
        let pair = |sizes: &[usize]| [sizes[0], sizes[1]];
        let (kernel, stride, dilation) = (pair(&self.kernel), pair(&self.stride), pair(&self.dilation));
        let padding = [padding[0], padding[1]];
        Conv2d { inputs, outputs, groups, kernel, stride, padding, dilation, weight, bias }.into()
    }
}

/// Integers of a tensor, times `unit`.
fn integers(file: &SafeTensors<'_>, name: &str, unit: f64) -> Vec<f64> {
    let view = file.tensor(name).unwrap();
    let bytes = view.data();
    match view.dtype() {
        Dtype::I16 => {
            bytes.as_chunks().0.iter().map(|&word| f64::from(i16::from_le_bytes(word)) * unit).collect()
        }
        Dtype::I8 => bytes.iter().map(|&byte| f64::from(byte.cast_signed()) * unit).collect(),
        other => panic!("{name} has dtype {other:?}"),
    }
}

/// Differences from the oracle: output, J·x, Jᵀ·u, gradients of weight and bias, and the Jacobian where it is kept.
fn errors<T: Real>(setting: &Setting, expected: &[f64], whole: Option<&[f64]>) -> Vec<f64> {
    let batch = 2;
    let free = setting.image.iter().map(|_| None);
    let shape = std::iter::once(Some(setting.inputs)).chain(free).collect();
    let mut assembly = Assembly::new("convolution", InputKind::Features { shape });
    let x = assembly.input();
    let operation = setting.operation(&mut assembly);
    let output = assembly.push("convolution", operation, &[x]);
    let network = assembly.finish(output);
    let mut weights = Weights::<Cpu, T>::none(&network);
    for (index, seed) in [2, 3].into_iter().enumerate() {
        let shape = &network.parameters[index].shape;
        let values = draw(seed, shape.iter().product());
        weights.set(ParameterId(index), Array::upload(&Cpu, shape, &values).unwrap());
    }
    let shape = [&[batch, setting.inputs], setting.image.as_slice()].concat();
    let count: usize = shape.iter().product();
    let tape = tape(&network, &weights, Input::Features { shape: shape.clone(), values: draw(1, count) });
    let segment = Segment::new(x, output);
    let u: Vec<T> = narrow(&draw(5, tape.length(output)));
    let mut gradients = Gradients::none(&network);
    tape.parameter_gradient(&weights, output, u.clone(), &mut gradients).unwrap();
    let gradient = |index: usize| wide(gradients.get(ParameterId(index)).unwrap().buffer.clone());
    let found = [
        wide(tape.download(output).unwrap()),
        wide(tape.jvp(&weights, &segment, narrow(&draw(4, count))).unwrap()),
        wide(tape.vjp(&weights, &segment, u).unwrap()),
        gradient(0),
        gradient(1),
    ];
    let mut start = 0;
    let mut errors = Vec::new();
    for part in &found {
        errors.push(distance(part, &expected[start..start + part.len()]));
        start += part.len();
    }
    assert_eq!(start, expected.len());
    if let Some(whole) = whole {
        let one = [&[1], &shape[1..]].concat();
        let input = Input::Features { values: draw(1, count / batch), shape: one };
        let tape = super::tape(&network, &weights, input);
        errors.push(distance(&jacobian(&tape, &weights, &segment), whole));
        errors.push(distance(&jacobian_by_rows(&tape, &weights, &segment), whole));
    }
    errors
}

#[test]
fn every_stride_padding_dilation_and_grouping_is_that_of_pytorch() {
    let bytes = std::fs::read(Path::new(ORACLE).join("convolutions.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let cases = &metadata.metadata().as_ref().unwrap()["cases"];
    let settings: Vec<Setting> = serde_json::from_str(cases).unwrap();
    let mut whole = 0;
    for (at, setting) in settings.iter().enumerate() {
        let expected = integers(&file, &at.to_string(), 1.0 / 256.0);
        let jacobian = setting.whole.then(|| integers(&file, &format!("{at}.jacobian"), 1.0 / 16.0));
        whole += usize::from(setting.whole);
        // Sums of products of sixteenths have no rounding in either type.
        assert_eq!(
            errors::<f64>(setting, &expected, jacobian.as_deref()),
            vec![0.0; 5 + 2 * usize::from(setting.whole)],
            "{at}"
        );
        assert!(
            errors::<f32>(setting, &expected, jacobian.as_deref()).iter().all(|&error| error == 0.0),
            "{at}"
        );
    }
    assert!(settings.len() == 52 && whole >= 7, "{} settings, {whole} whole Jacobians", settings.len());
}

/// 1×10×10 → conv 10, conv 100 (1×1, padding 1) → linear 128 → linear 100, with the factor of each parameter's draws.
fn nn() -> (Network, Vec<f64>) {
    let mut assembly = Assembly::new("nn", InputKind::Features { shape: vec![Some(1), Some(10), Some(10)] });
    let mut x = assembly.input();
    let relu = || Activation { function: Unary::Relu };
    for (name, inputs, outputs) in [("0", 1, 10), ("2", 10, 100)] {
        let weight = assembly.parameter(&format!("{name}.weight"), &[outputs, inputs, 1, 1]);
        let bias = Some(assembly.parameter(&format!("{name}.bias"), &[outputs]));
        let (padding, ones) = ([[1, 1], [1, 1]], [1, 1]);
        let (kernel, stride, dilation) = (ones, ones, ones);
        let conv = Conv2d { inputs, outputs, groups: 1, kernel, stride, padding, dilation, weight, bias };
        x = assembly.push(name, conv, &[x]);
        x = assembly.push("relu", relu(), &[x]);
    }
    x = assembly.push("flatten", Reshape { shape: vec![None] }, &[x]);
    for (name, inputs, outputs) in [("5", 19_600, 128), ("7", 128, 100)] {
        let weight = assembly.parameter(&format!("{name}.weight"), &[outputs, inputs]);
        let bias = Some(assembly.parameter(&format!("{name}.bias"), &[outputs]));
        x = assembly.push(name, Linear { inputs, outputs, weight, bias, transposed: false }, &[x]);
        if name == "5" {
            x = assembly.push("relu", relu(), &[x]);
        }
    }
    (assembly.finish(x), vec![1.0, 1.0, 0.5, 1.0, 1.0 / 64.0, 1.0, 0.25, 1.0])
}

fn check_nn<T: Real>(tolerance: f64) {
    let checkpoint = read(&Path::new(ORACLE).join("nn.safetensors"));
    let (network, factors) = nn();
    let mut weights = Weights::<Cpu, T>::none(&network);
    for (index, (parameter, factor)) in network.parameters.iter().zip(factors).enumerate() {
        let draws = draw(20 + index as u64, parameter.shape.iter().product());
        let values: Vec<f64> = draws.into_iter().map(|value| value * factor).collect();
        weights.set(ParameterId(index), Array::upload(&Cpu, &parameter.shape, &values).unwrap());
    }
    let tape = tape(&network, &weights, Input::Features { shape: vec![1, 1, 10, 10], values: draw(30, 100) });
    let close = |what: &str, found: &[f64], expected: &str| {
        let error = distance(found, &values(&checkpoint, expected));
        assert!(error <= tolerance, "{error:e} in {what}");
    };
    close("the output", &wide(tape.download(network.output).unwrap()), "y");
    let segment = Segment::new(ValueId(0), network.output);
    let columns = jacobian(&tape, &weights, &segment);
    close("singular values", &bidiagonal::singular_values(columns.clone(), 100, 100).unwrap(), "values");
    let times = |x: &[f64], transposed: bool| -> Vec<f64> {
        let entry = |row: usize, column: usize| {
            columns[if transposed { column * 100 + row } else { row * 100 + column }]
        };
        (0..100).map(|row| (0..100).map(|column| entry(row, column) * x[column]).sum()).collect()
    };
    let products = |seed, transposed| -> Vec<f64> {
        draw(seed, 400).chunks(100).flat_map(|x| times(x, transposed)).collect()
    };
    close("J·x", &products(32, false), "jx");
    close("Jᵀ·u", &products(33, true), "jtu");
    let by_rows = draw(33, 400)
        .chunks(100)
        .flat_map(|u| wide(tape.vjp(&weights, &segment, narrow(u)).unwrap()))
        .collect::<Vec<_>>();
    close("vjp", &by_rows, "jtu");
    let mut gradients = Gradients::none(&network);
    tape.parameter_gradient(&weights, network.output, narrow(&draw(31, 100)), &mut gradients).unwrap();
    let of = |index: usize| wide(gradients.get(ParameterId(index)).unwrap().buffer.clone());
    let lengths: Vec<f64> = (0..8).map(|index| of(index).iter().map(|x| x * x).sum::<f64>().sqrt()).collect();
    let product = |index: usize| -> f64 {
        let gradient = of(index);
        draw(40 + index as u64, gradient.len()).iter().zip(&gradient).map(|(x, y)| x * y).sum()
    };
    close("lengths of gradients", &lengths, "gradient.length");
    close("gradients", &(0..8).map(product).collect::<Vec<_>>(), "gradient.product");
}

#[test]
fn the_network_of_the_trainer_has_output_jacobian_and_gradients_of_pytorch() {
    check_nn::<f64>(JACOBIAN_F64);
    check_nn::<f32>(JACOBIAN_F32);
}
