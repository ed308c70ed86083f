//! Optimizer states written by torch: what is measured is what torch computes, every parameter finds its tensor, and
//! what a damaged copy shows is what `docs/forensics.md` says.

mod common;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "../src/format/craft.rs"]
mod craft;

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
    for (layout, source, expected_joined) in [
        ("hf-param-names", MappingSource::ParamNames, 13),
        ("hf-adamw", MappingSource::FrameworkOrder, 22),
        ("sgd-momentum", MappingSource::NamedParametersOrder, 13),
        ("rmsprop", MappingSource::NamedParametersOrder, 13),
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
        assert_eq!(joined, expected_joined, "{layout} of {}: {found:?}", expected.len());
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

fn moments(name: &str) -> Value {
    common::oracle(Path::new("fixtures/oracle/optimizer/moments.json"))[name].clone()
}

/// Every quantity of `expected`, by the parameter's canonical name.
#[track_caller]
fn assert_quantities(state: &OptimizerAnalysis, expected: &Value) {
    let expected = expected.as_object().expect("a table");
    assert_eq!(state.parameters.len(), expected.len());
    for parameter in &state.parameters {
        let name = &parameter.tensor.as_ref().expect("mapped").canonical_name;
        let found = [
            ("gradient_rms", &parameter.gradient_rms),
            ("signal_fraction", &parameter.signal_fraction),
            ("update_rms", &parameter.update_rms),
            ("update_ratio", &parameter.update_ratio),
        ];
        for (quantity, found) in found {
            let wanted = expected[name][quantity].as_f64().expect(quantity);
            let found = *found.value().unwrap_or_else(|| panic!("{name} {quantity}: {found:?}"));
            assert!((found / wanted - 1.0).abs() < 1e-6, "{name} {quantity}: {found} {wanted}");
        }
    }
}

#[test]
fn eight_bit_moments_are_decoded() {
    let state = state("fixtures/optimizer/eight-bit.pt");
    assert_eq!(state.optimizers[0].algorithm, Algorithm::EightBit);
    assert_quantities(&state, &moments("eight-bit"));
    for parameter in &state.parameters {
        assert!(*parameter.bound_ratio.value().expect("measured") < 1.0, "{}", parameter.name);
        assert!(parameter.defects.value().is_some());
    }
    let rms = *state.parameters[0].gradient_rms.value().expect("measured");
    assert!((rms / 0.01 - 1.0).abs() < 0.02, "gradients were of deviation 0.01: {rms}");
}

#[test]
fn eight_bit_moments_of_two_histories_break_the_bound_in_spite_of_rounding() {
    let state = state("fixtures/optimizer/eight-bit-broken.pt");
    assert!(*state.parameters[0].bound_ratio.value().expect("measured") > 2.0);
    assert!(*state.parameters[1].bound_ratio.value().expect("measured") < 1.0);
}

#[test]
fn a_run_directory_has_its_optimizer_by_name() {
    let state = state("fixtures/optimizer/run-directory/checkpoint-400");
    let optimizer = &state.optimizers[0];
    assert_eq!((&optimizer.algorithm, optimizer.mapping.source), (&Algorithm::AdamW, MappingSource::Fqn));
    assert_eq!(optimizer.mapping.refused, 0);
    assert_eq!(
        optimizer.groups.iter().map(|group| group.weight_decay).collect::<Vec<_>>(),
        [Some(0.01), Some(0.0)]
    );
    assert!(state.parameters.iter().all(|parameter| parameter.step == Some(400.0)));
    assert_quantities(&state, &moments("run-directory"));
}

#[test]
fn amsgrads_maximum_is_never_below_the_second_moment() {
    let healthy = state("fixtures/optimizer/amsgrad.pt");
    for parameter in &healthy.parameters {
        let defects = parameter.defects.value().expect("measured");
        assert_eq!((defects.below_second, defects.non_finite_maximum), (0, 0), "{}", parameter.name);
        assert!(parameter.gradient_rms.value().is_some());
    }
    let broken = state("fixtures/optimizer/amsgrad-broken.pt");
    let defects = broken.parameters[1].defects.value().expect("measured");
    assert_eq!((defects.below_second, defects.non_finite_maximum), (1, 1));
}

/// A model of one matrix and AMSGrad's state of it, whose largest second moment is a vector.
fn amsgrad_of_another_shape() -> Vec<u8> {
    use craft::{dict, floats, int, pickled, stored, tuple, zip};
    let number = |value: f64| [&b"G"[..], &value.to_be_bytes()].concat();
    let list = |item: Vec<u8>| [&b"]("[..], &item, b"e"].concat();
    let keyed = |value: Vec<u8>| [&b"}("[..], &int(0), &value, b"u"].concat();
    let square = |key: &str| floats(key, 4, 0, &[2, 2], &[2, 1]);
    let maximum = floats("3", 4, 0, &[4], &[1]);
    let state = dict(&[
        ("step", number(100.0)),
        ("exp_avg", square("1")),
        ("exp_avg_sq", square("2")),
        ("max_exp_avg_sq", maximum),
    ]);
    let betas = tuple(&[number(0.9), number(0.999)]);
    let group = dict(&[
        ("lr", number(1e-3)),
        ("betas", betas),
        ("eps", number(1e-8)),
        ("amsgrad", b"\x88".to_vec()),
        ("params", list(int(0))),
    ]);
    let optimizer = dict(&[("state", keyed(state)), ("param_groups", list(group))]);
    let root = dict(&[("model", dict(&[("fc.weight", square("0"))])), ("optimizer", optimizer)]);
    let storage = |key: usize| stored(&format!("archive/data/{key}"), &1e-3f32.to_le_bytes().repeat(4));
    let pickle = stored("archive/data.pkl", &pickled(&root));
    zip(&std::iter::once(pickle).chain((0..4).map(storage)).collect::<Vec<_>>())
}

#[test]
fn a_maximum_of_another_shape_is_not_evaluated_and_never_passed_over() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("amsgrad.pt");
    std::fs::write(&path, amsgrad_of_another_shape()).expect("a temporary file");
    let state = state(path.to_str().expect("a path of text"));
    let [parameter] = &state.parameters[..] else { panic!("{state:?}") };
    let Measured::NotMeasured(reason) = &parameter.defects else { panic!("{:?}", parameter.defects) };
    assert!(reason.contains("another shape"), "{reason}");
    assert!(parameter.gradient_rms.value().is_some(), "the moments themselves are read");
}

#[test]
fn adafactor_is_named_as_not_invertible() {
    let state = state("fixtures/optimizer/adafactor.pt");
    assert_eq!(state.optimizers[0].algorithm, Algorithm::Adafactor);
    for parameter in &state.parameters {
        let Measured::NotMeasured(reason) = &parameter.gradient_rms else { panic!("{parameter:?}") };
        assert!(reason.contains("Adafactor") && reason.contains("factored"), "{reason}");
    }
}

/// What is wrong with a moment is said of the parameter it belongs to.
#[test]
fn a_finding_about_a_moment_names_its_parameter() {
    use flashpoint::analysis::model::MeasureLevel;
    use flashpoint::analysis::of_checkpoints;
    use flashpoint::rules::{Overrides, evaluate};
    let analysis = common::analyse(Path::new("fixtures/optimizer/amsgrad-broken.pt"), &Context::default());
    let assessment = evaluate(&of_checkpoints(vec![analysis], MeasureLevel::Stats), &Overrides::default());
    let finding = assessment.findings.iter().find(|finding| finding.rule == "FP101").expect("a NaN is told");
    assert!(finding.message.contains("max_exp_avg_sq of model.small.weight"), "{}", finding.message);
}

/// The table of acceptance tests in the docs names tests that exist.
#[test]
fn the_acceptance_tests_are_where_the_docs_say() {
    let page = std::fs::read_to_string("docs/forensics.md").expect("the page is there");
    let table = page.split("## The tests behind it").nth(1).and_then(|rest| rest.split("\n## ").next());
    let rows = table.expect("a table").lines().filter(|line| line.starts_with("| ") && line.contains('`'));
    let mut named = Vec::new();
    for row in rows {
        let quoted: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        let &[test, file] = quoted.as_slice() else { panic!("{row}") };
        let source = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(
            source.contains(&format!("#[test]\nfn {test}()"))
                || source.contains(&format!("#[test]\n    fn {test}()")),
            "{file}: {test}"
        );
        named.extend(row.split('|').nth(1).and_then(|cell| cell.trim().split(',').next()));
    }
    for acceptance in ["T15", "T16", "T17", "T18", "T27", "T28"] {
        assert!(named.contains(&acceptance), "{acceptance} is not in the table");
    }
}
