//! Optimizer states written by torch: what is measured is what torch computes, every parameter finds its tensor, and
//! what a damaged copy shows is what `docs/forensics.md` says.

mod common;

use std::path::Path;

use flashpoint::analysis::model::{
    Algorithm, MappingSource, Measured, OptimizerAnalysis, ParameterOptimizer,
};
use flashpoint::context::Context;
use serde_json::Value;

fn state(path: &str) -> OptimizerAnalysis {
    match common::analyse(Path::new(path), &Context::default()).optimizer {
        Measured::Value(state) => state,
        other => panic!("{path}: {other:?}"),
    }
}

fn truth() -> Value {
    common::oracle(Path::new("fixtures/oracle/optimizer/truth.json"))
}

#[test]
fn quantities_are_those_that_torch_computes() {
    let state = state("fixtures/rules/FP701/silent-healthy.pt");
    let expected = truth();
    let expected = expected["states"].as_array().expect("a list");
    assert_eq!(state.parameters.len(), expected.len());
    for (parameter, expected) in state.parameters.iter().zip(expected) {
        let found = [
            ("gradient_norm", &parameter.gradient_norm),
            ("signal_fraction", &parameter.signal_fraction),
            ("update_rms", &parameter.update_rms),
            ("bound_ratio", &parameter.bound_ratio),
        ];
        for (name, found) in found {
            let (found, expected) = (*found.value().expect(name), expected[name].as_f64().expect(name));
            assert!((found / expected - 1.0).abs() < 1e-9, "{} {name}: {found} {expected}", parameter.name);
        }
    }
}

/// Gradients were Gaussian, of deviation 0.01 in every element.
#[test]
fn gradients_are_recovered_from_the_moments() {
    let state = state("fixtures/rules/FP701/silent-healthy.pt");
    for parameter in state.parameters.iter().filter(|parameter| parameter.elements >= 96) {
        let rms = parameter.gradient_rms.value().expect("measured");
        assert!((rms / 0.01 - 1.0).abs() < 0.02, "{}: {rms}", parameter.name);
    }
    let whole = *state.optimizers[0].gradient_norm.value().expect("measured");
    assert!((whole / (0.01 * 396f64.sqrt()) - 1.0).abs() < 0.02, "{whole}");
    let signal = *state.optimizers[0].signal_fraction.value().expect("measured");
    assert!((signal - 0.1 / 1.9).abs() < 0.02, "{signal}");
}

#[test]
fn a_spike_is_dated_and_its_weight_estimated() {
    let state = state("fixtures/rules/FP707/fires-spike.pt");
    let spike = state.spike.value().expect("dated");
    assert!((spike.age - 20.0).abs() < 0.5, "{spike:?}");
    // √(1 + 0.001 · 0.999^20 · 300² / (1 − 0.999^1500)); the largest of three estimates, from matrices of a hundred elements.
    assert!((spike.inflation / 10.7 - 1.0).abs() < 0.5, "{spike:?}");
}

fn names(state: &OptimizerAnalysis) -> Vec<Option<&str>> {
    state
        .parameters
        .iter()
        .map(|parameter| Some(parameter.tensor.as_ref()?.canonical_name.as_str()))
        .collect()
}

#[test]
fn no_parameter_is_joined_to_a_wrong_tensor() {
    for (layout, source, sure) in [
        ("hf-param-names", MappingSource::ParamNames, true),
        ("hf-adamw", MappingSource::FrameworkOrder, false),
        ("sgd-momentum", MappingSource::NamedParametersOrder, false),
        ("rmsprop", MappingSource::NamedParametersOrder, false),
    ] {
        let state = state(&format!("fixtures/optimizer/{layout}"));
        let mapping = &state.optimizers[0].mapping;
        assert_eq!(mapping.source, source, "{layout}");
        let orders = truth();
        let expected = orders["orders"][layout].as_array().expect("a list");
        let found = names(&state);
        assert_eq!(found.len(), expected.len(), "{layout}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.is_none() || *found == expected.as_str(), "{layout}: {found:?} for {expected}");
        }
        let joined = found.iter().flatten().count();
        assert_eq!(joined as u64 + mapping.refused, expected.len() as u64);
        assert!(
            if sure { joined == expected.len() } else { 2 * joined >= expected.len() },
            "{layout}: {joined}"
        );
        assert_eq!(mapping.reason.is_none(), mapping.refused == 0);
    }
}

#[test]
fn algorithms_and_their_limits_are_named() {
    assert_eq!(state("fixtures/optimizer/hf-adamw").optimizers[0].algorithm, Algorithm::AdamW);
    let sgd = state("fixtures/optimizer/sgd-momentum");
    assert_eq!(sgd.optimizers[0].algorithm, Algorithm::Sgd);
    let has = |state: &OptimizerAnalysis, pick: fn(&ParameterOptimizer) -> &Measured<f64>| {
        state.parameters.iter().filter(|parameter| pick(parameter).value().is_some()).count()
    };
    assert!(has(&sgd, |parameter| &parameter.update_ratio) > 0);
    assert_eq!(has(&sgd, |parameter| &parameter.gradient_norm), 0);
    let rmsprop = state("fixtures/optimizer/rmsprop");
    assert_eq!(rmsprop.optimizers[0].algorithm, Algorithm::RmsProp);
    assert_eq!(has(&rmsprop, |parameter| &parameter.gradient_norm), rmsprop.parameters.len());
    assert_eq!(has(&rmsprop, |parameter| &parameter.update_rms), 0);
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
    let measured = |threads| pool(threads).install(|| state("fixtures/optimizer/hf-adamw"));
    let text = |state| serde_json::to_string(&state).expect("an analysis is JSON");
    assert_eq!(text(measured(1)), text(measured(3)));
}

/// Moments of two layers of one shape, swapped, stay within every bound.
#[test]
fn a_swap_of_equal_shapes_is_not_seen_in_one_checkpoint() {
    let swapped = state("fixtures/rules/FP702/silent-swapped.pt");
    assert!(
        swapped.parameters.iter().all(|parameter| *parameter.bound_ratio.value().expect("measured") < 1.0)
    );
}
