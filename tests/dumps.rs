//! Gradient dumps against torch and numpy: curvature as Adam sees it, when it reaches the edge, depth, clipping
//! (`fixtures/make_dumps.py`).

mod common;

use std::path::Path;

use flashpoint::analysis::model::{Analysis, DumpAnalysis, MeasureLevel};
use flashpoint::analysis::run::{Request, measure};
use flashpoint::checkpoint::NameRules;
use flashpoint::context::Context;
use flashpoint::history::{History, Options};
use flashpoint::rules::{self, Overrides};
use serde_json::Value;

fn run(path: &str) -> Analysis {
    let (context, names) = (Context::default(), NameRules::default());
    let history = History::read(Path::new(path), &Options::default(), &context)
        .unwrap_or_else(|error| panic!("{path}: {error}"));
    let measured = measure(&history, &Request { level: MeasureLevel::Norms, names: &names }, &context);
    assert!(measured.errors.is_empty(), "{path}: {:?}", measured.errors);
    measured.analysis
}

fn oracle(name: &str) -> Value {
    common::oracle(Path::new("fixtures/oracle/series/dumps.json"))[name].clone()
}

fn dump(analysis: &Analysis, step: u64) -> &DumpAnalysis {
    analysis.dumps.iter().find(|dump| dump.step == step).expect("the run has that dump")
}

/// Whether two numbers agree up to what f32 gradients and sums in another order give.
fn near(found: f64, expected: &Value, tolerance: f64) -> bool {
    (found / expected.as_f64().expect("the oracle holds numbers") - 1.0).abs() <= tolerance
}

#[test]
fn curvature_as_adam_sees_it_is_that_of_torch_and_below_the_largest_eigenvalue() {
    for (folder, step) in [
        ("FP301/silent-adam-below-the-edge", 100),
        ("FP301/fires-adam-above-the-edge", 1150),
        ("FP302/fires-after-an-overshoot", 1276),
    ] {
        let analysis = run(&format!("fixtures/rules/{folder}"));
        let expected = &oracle(folder.rsplit('/').next().expect("a path has a last component"))["dumps"];
        let expected = &expected[step.to_string()];
        let found = dump(&analysis, step);
        let secant = *found.secant.value().expect("both dumps and both checkpoints are there");
        assert!(near(secant, &expected["secant"], 1e-9), "{folder}: {secant} {expected}");
        let sharpness = found.preconditioned.value().expect("the state of Adam is there");
        assert!(near(sharpness.value, &expected["value"], 1e-9), "{folder}: {sharpness:?} {expected}");
        assert!(near(sharpness.edge, &expected["edge"], 1e-12), "{folder}: {}", sharpness.edge);
        assert!(sharpness.value <= expected["largest"].as_f64().expect("an eigenvalue") * (1.0 + 1e-12));
    }
}

/// The run overshoots again where the largest eigenvalue crosses the edge, and the formula says so 32 steps before.
#[test]
fn the_step_of_the_next_overshoot_is_foretold_within_two_steps() {
    let analysis = run("fixtures/rules/FP302/fires-after-an-overshoot");
    let crossed = &oracle("fires-after-an-overshoot")["crossed"][2];
    assert_eq!(crossed[1], true);
    let crossed = crossed[0].as_u64().expect("a step");
    let sharpness = dump(&analysis, 1276).preconditioned.value().expect("the state of Adam is there");
    let foretold = *sharpness.edge_step.value().expect("it is below the edge, and curved");
    assert!(foretold.abs_diff(crossed) <= 2 && foretold >= crossed, "{foretold} {crossed}");
    let assessment = rules::evaluate(&analysis, &Overrides::default());
    let told = assessment.findings.iter().find(|finding| finding.rule == "FP302").expect("it only decays");
    assert!(told.message.contains(&format!("by step {foretold} at the latest")), "{}", told.message);
    assert!(told.evidence.iter().any(|evidence| evidence.value == foretold as f64), "{:?}", told.evidence);
}

#[test]
fn depth_and_clipping_are_those_of_torch() {
    let analysis = run("fixtures/runs-with-dumps/deep");
    let expected = oracle("deep");
    assert_eq!(analysis.dumps.len(), 8);
    for found in &analysis.dumps {
        let expected = &expected["dumps"][found.step.to_string()];
        for (name, quantity) in [
            ("norm", &found.norm),
            ("first_last_ratio", &found.first_last_ratio),
            ("depth_gain", &found.depth_gain),
            ("clip_cosine", &found.clip_cosine),
        ] {
            let value = *quantity.value().unwrap_or_else(|| panic!("{name}: {quantity:?}"));
            assert!(near(value, &expected[name], 1e-9), "{name}: {value} {expected}");
        }
    }
    let clipping = analysis.clipping.as_ref().expect("the run's config has a threshold");
    assert_eq!((clipping.threshold, clipping.dumps), (0.5, 8));
    assert_eq!(Some(clipping.clipped), expected["clipped"].as_u64());
    assert_eq!(clipping.tensors.len(), 14);
    for tensor in &clipping.tensors {
        let cosine = *tensor.cosine.value().unwrap_or_else(|| panic!("{tensor:?}"));
        assert!(near(cosine, &expected["cosines"][&tensor.name], 1e-9), "{}: {cosine}", tensor.name);
    }
}
