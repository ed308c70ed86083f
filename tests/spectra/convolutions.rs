//! Convolutions as operators: T11 of the acceptance tests, and whole checkpoints against operators written out by PyTorch.

use std::path::Path;

use flashpoint::analysis::model::{ConvolutionSetting, GeometrySource, MeasureLevel, Spectrum, SpectrumOf};
use flashpoint::analysis::spectrum::{convolution, lanczos};
use flashpoint::compute::Cpu;
use flashpoint::context::{Context, StatedConvolution};
use flashpoint::random::Stream;
use serde_json::Value;

use super::{common, gaussian, reflection, singular_values};

/// T11: a He-initialised convolution of 64 channels has the operator norm 2.83, its unfolded kernel 1.88, and a kernel that
/// only turns channels has all singular values 1.
#[test]
fn a_convolution_is_more_than_its_unfolded_kernel() {
    let (channels, side) = (64, 16);
    let weights = gaussian(40, channels * channels * 9, (2.0 / (9.0 * channels as f64)).sqrt());
    let unfolded = singular_values(weights.clone(), channels, channels * 9)[0];
    assert!((unfolded / 1.878 - 1.0).abs() < 0.02, "{unfolded}");
    let operator = |circular| {
        let geometry = convolution::Geometry::same(&[side, side], &[3, 3], circular);
        convolution::Convolution::new(weights.clone(), channels, 1, vec![3, 3], geometry).unwrap()
    };
    let largest = |circular| {
        let ritz = lanczos::run(&Cpu, &operator(circular), 60, Stream::new(5, 5), &Context::default())
            .unwrap()
            .unwrap();
        ritz.values[0]
    };
    assert!((largest(true) / 2.828 - 1.0).abs() < 0.03, "{}", largest(true));
    assert!(largest(false) < largest(true) && largest(false) > 1.3 * unfolded);

    let turn = reflection(41, 4, 1.0);
    let delta: Vec<f64> =
        turn.iter().flat_map(|value| (0..9).map(move |tap| if tap == 4 { *value } else { 0.0 })).collect();
    let geometry = convolution::Geometry::same(&[8, 8], &[3, 3], true);
    let delta = convolution::Convolution::new(delta, 4, 1, vec![3, 3], geometry).unwrap();
    let values = delta.circular_singular_values().unwrap();
    assert_eq!(values.len(), 4 * 64);
    assert!(values.iter().all(|value| (value - 1.0).abs() < 1e-12));
}

#[test]
fn the_frequencies_of_a_larger_input_bound_the_operator_with_zeros() {
    let weights: Vec<f64> = gaussian(42, 8 * 8 * 9, 0.1).iter().map(|x| x + 0.05).collect();
    let made = |side: usize, circular| {
        let geometry = convolution::Geometry::same(&[side, side], &[3, 3], circular);
        convolution::Convolution::new(weights.clone(), 8, 1, vec![3, 3], geometry).unwrap()
    };
    let zeros =
        lanczos::run(&Cpu, &made(6, false), 80, Stream::new(5, 5), &Context::default()).unwrap().unwrap();
    let bound = made(8, true).circular_singular_values().unwrap()[0];
    let found = made(6, false).fourier_bound().unwrap();
    assert!((found / bound - 1.0).abs() < 1e-13, "{found} {bound}");
    assert!(zeros.values[0] <= bound && bound < 1.5 * zeros.values[0], "{} {bound}", zeros.values[0]);
}

const GEOMETRY: &str = "fixtures/oracle/spectra/geometry";

/// The spectra of a network's convolutions, by the names of their modules, with what PyTorch says of them.
fn measured(network: &str, context: &Context) -> Vec<(String, Spectrum, Value)> {
    let folder = Path::new(GEOMETRY).join(network);
    let expected = common::oracle(&folder.join("expected.json"));
    let checkpoint = common::analyse_at(&folder, MeasureLevel::Full, context);
    let of = |(name, expected): (&String, &Value)| {
        let tensor =
            checkpoint.tensors.iter().find(|tensor| tensor.name == format!("{name}.weight")).unwrap();
        let spectrum = tensor.spectrum.value().unwrap_or_else(|| panic!("{name}: {:?}", tensor.spectrum));
        (name.clone(), Spectrum::clone(spectrum), expected.clone())
    };
    expected.as_object().unwrap().iter().map(of).collect()
}

fn setting(spectrum: &Spectrum) -> &ConvolutionSetting {
    let SpectrumOf::Convolution(setting) = &spectrum.of else { panic!("no convolution: {spectrum:?}") };
    setting
}

#[track_caller]
fn assert_near(found: f64, expected: &Value, what: &str) {
    let expected = expected.as_f64().unwrap_or_else(|| panic!("{what} is not in the oracle"));
    assert!((found / expected - 1.0).abs() < 1e-10, "{what}: {found}, not {expected}");
}

fn sizes(value: &Value) -> Vec<u64> {
    serde_json::from_value(value.clone()).unwrap()
}

/// What PyTorch's modules do to every unit vector: the largest singular value, and the geometry that was found for it.
fn assert_is_the_operator(network: &str, context: &Context) -> Vec<Spectrum> {
    let found = measured(network, context);
    for (name, spectrum, expected) in &found {
        let setting = setting(spectrum);
        assert_eq!(setting.stride, sizes(&expected["stride"]), "{name}");
        let norm = &spectrum.spectral_norm;
        if setting.blocks.is_some() {
            assert_eq!(setting.blocks, expected["blocks"].as_u64(), "{name}");
        } else {
            assert_eq!(setting.input, sizes(&expected["input"]), "{name}");
            assert_eq!(setting.circular, expected["circular"].as_bool().unwrap(), "{name}");
            assert_eq!(setting.groups, expected["groups"].as_u64().unwrap(), "{name}");
            assert_near(spectrum.frobenius_norm, &expected["frobenius"], name);
        }
        let sigma = expected["sigma"].as_f64().unwrap();
        assert!(norm.value <= sigma * (1.0 + 1e-10), "{name}: {norm:?}, not {sigma}");
        assert!(*norm.upper.value().unwrap() >= sigma * (1.0 - 1e-10), "{name}: {norm:?}, not {sigma}");
        assert!((norm.value / sigma - 1.0).abs() < 1e-3, "{name}: {norm:?}, not {sigma}");
        assert_eq!(setting.fourier_bound.value().is_some(), expected.get("bound").is_some(), "{name}");
        if let Some(&bound) = setting.fourier_bound.value() {
            assert_eq!(setting.padding, sizes(&expected["padding"]), "{name}");
            assert_near(bound, &expected["bound"], name);
            assert!(bound >= sigma, "{name}: {bound} is below {sigma}");
        }
    }
    found.into_iter().map(|(_, spectrum, _)| spectrum).collect()
}

#[test]
fn patches_side_by_side_have_the_singular_values_of_the_matrix_of_one() {
    for (network, blocks) in [("vit", Some(16)), ("convnext", Some(64))] {
        let (name, spectrum, expected) = measured(network, &Context::default()).remove(0);
        assert_eq!(setting(&spectrum).blocks, blocks, "{name}");
        assert_eq!(setting(&spectrum).sources.stride, GeometrySource::Config);
        assert_eq!(setting(&spectrum).input, sizes(&expected["input"]));
        let expected = expected["values"].as_array().unwrap();
        let values = spectrum.values.value().unwrap();
        assert_eq!(values.len(), expected.len());
        for (value, expected) in values.iter().zip(expected) {
            assert_near(*value, expected, &name);
        }
    }
}

#[test]
fn what_a_config_says_of_a_convolution_is_the_operator_that_pytorch_makes_of_it() {
    let networks = ["vit", "convnext", "spectrogram", "wav2vec2", "whisper", "resnet"];
    for network in networks {
        for spectrum in assert_is_the_operator(network, &Context::default()) {
            let sources = setting(&spectrum).sources;
            assert_eq!((sources.stride, sources.groups), (GeometrySource::Config, GeometrySource::Config));
        }
    }
}

#[test]
fn the_first_convolution_of_a_state_space_layer_has_a_filter_a_channel_by_the_shapes_beside_it() {
    let found = assert_is_the_operator("mamba", &Context::default());
    let setting = setting(&found[0]);
    assert_eq!((setting.groups, setting.sources.groups), (12, GeometrySource::Shapes));
    assert_eq!((setting.depthwise, setting.sources.stride), (true, GeometrySource::Assumed));
}

#[test]
fn what_nothing_says_is_said_on_the_command_line() {
    let flag = StatedConvolution {
        names: "layer?.0.conv2.weight".to_owned(),
        stride: vec![2],
        padding: vec![2, 1],
        dilation: vec![2, 1],
        groups: None,
        input: vec![9, 7],
    };
    let context = Context { convolutions: vec![flag], ..Context::default() };
    let found = assert_is_the_operator("resnext", &context);
    let sources = setting(&found[0]).sources;
    assert_eq!((sources.stride, sources.groups), (GeometrySource::Flag, GeometrySource::Shapes));
    // Of another convolution it says nothing.
    let elsewhere = StatedConvolution { names: "layer?.1.*".to_owned(), ..context.convolutions[0].clone() };
    let context = Context { convolutions: vec![elsewhere], ..Context::default() };
    let (_, spectrum, _) = measured("resnext", &context).remove(0);
    assert_eq!(setting(&spectrum).sources.stride, GeometrySource::Assumed);
    assert_eq!(setting(&spectrum).stride, [1, 1]);
}

/// A size that is too dear is not taken from the config; where the user names it, that is what is refused.
#[test]
fn a_size_that_is_too_dear_gives_way_unless_the_user_asked_for_it() {
    let folder = Path::new(GEOMETRY).join("whisper");
    let flag = StatedConvolution {
        names: "*conv2.weight".to_owned(),
        input: vec![1 << 20],
        ..StatedConvolution::default()
    };
    let context = Context { convolutions: vec![flag], ..Context::default() };
    let checkpoint = common::analyse_at(&folder, MeasureLevel::Spectra, &context);
    let second = checkpoint.tensors.iter().find(|tensor| tensor.name.ends_with("conv2.weight")).unwrap();
    assert!(format!("{:?}", second.spectrum).contains("needs --measure full"), "{:?}", second.spectrum);

    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("model.safetensors"), directory.path().join("model.safetensors")).unwrap();
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let config = config.replace("\"max_source_positions\": 12", "\"max_source_positions\": 500000");
    std::fs::write(directory.path().join("config.json"), config).unwrap();
    let checkpoint = common::analyse_at(directory.path(), MeasureLevel::Spectra, &Context::default());
    let second = checkpoint.tensors.iter().find(|tensor| tensor.name.ends_with("conv2.weight")).unwrap();
    let setting = setting(second.spectrum.value().unwrap());
    assert!(setting.circular && setting.input == [32], "{setting:?}");
    assert_eq!((setting.stride.as_slice(), setting.sources.input), (&[2][..], GeometrySource::Assumed));
}
