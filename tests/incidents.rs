//! Published incidents, row by row: what a log alone says about BLOOM-176B and tr8-104B.

use std::path::Path;

use flashpoint::analysis::log;
use flashpoint::analysis::model::{LogAnalysis, LogPoint, Run};
use flashpoint::analysis::{model::MeasureLevel, of_checkpoints};
use flashpoint::context::Context;
use flashpoint::history::{History, Number, Options, RemarkKind};
use flashpoint::rules::{self, Finding, Overrides, Subject};

fn read(path: &str) -> History {
    History::read(Path::new(path), &Options::default(), &Context::default()).expect("the fixture is there")
}

fn findings(history: &History) -> Vec<Finding> {
    let mut analysis = of_checkpoints(Vec::new(), MeasureLevel::Stats);
    analysis.log = log::measure(history);
    analysis.run =
        Some(Run { name: history.name.clone(), remarks: history.remarks.clone(), ..Run::default() });
    rules::evaluate(&analysis, &Overrides::default()).findings
}

fn evidence(finding: &Finding, label: &str) -> f64 {
    finding
        .evidence
        .iter()
        .find(|one| one.label == label)
        .map(|one| one.value)
        .expect("the label is one of its own")
}

#[test]
fn the_spike_of_bloom_is_dated_four_steps_before_the_loss() {
    let history = read("fixtures/rules/FP501-gradient-spike/fires-bloom-behind-a-synthetic-baseline");
    let findings = findings(&history);
    let spike = findings.iter().find(|finding| finding.rule == "FP501").expect("the spike is found");
    assert_eq!((spike.step, &spike.subject), (Some(31215), &Subject::Steps(31215, 31222)));
    assert!((evidence(spike, "peak norm") - 960.351).abs() < 1e-9);
    assert!(spike.message.contains("at step 31219"), "{}", spike.message);
    assert!(spike.message.contains("by step 31217"), "{}", spike.message);
    assert!(spike.message.contains("back at step 31250"), "{}", spike.message);

    let log = log::measure(&history).expect("there is a log");
    let loss = |point: &&LogPoint| point.loss.and_then(Number::finite).unwrap_or(0.0);
    let worst = log.points.iter().max_by(|a, b| loss(a).total_cmp(&loss(b))).expect("there are points");
    assert_eq!(worst.step - spike.step.expect("it has a step"), 4);
}

/// The norm of one step.
fn norm(log: &LogAnalysis, step: u64) -> f64 {
    let point = log.points.iter().find(|point| point.step == step).expect("the row is there");
    point.grad_norm.and_then(Number::finite).expect("it has a norm")
}

#[test]
fn the_norms_of_tr8_are_freed_of_the_loss_scale() {
    let history = read("fixtures/rules/FP105-loss-scaled-norm/fires-tr8");
    let log = log::measure(&history).expect("there is a log");
    assert!(log.semantics.loss_scaled);
    for (step, expected) in [(7000, 47.98), (6900, 23.27), (12000, 0.304), (16800, 0.344)] {
        let found = norm(&log, step);
        assert!((found - expected).abs() / expected < 1e-3, "{step}: {found}");
    }
    // Rows 17062 to 17065 and 17067 to 17068 repeat the norm of the step before: they were skipped.
    let skipped: Vec<u64> = log.points.iter().filter(|point| point.skipped).map(|point| point.step).collect();
    assert_eq!(skipped, [17062, 17063, 17064, 17065, 17067, 17068]);
    assert!(history.remarks.iter().any(|remark| remark.kind == RemarkKind::Semantics));
}

#[test]
fn the_fall_of_the_loss_scale_of_tr8b_is_told_where_it_begins() {
    let findings = findings(&read("fixtures/rules/FP104-loss-scale-collapse/fires-tr8b"));
    let falls: Vec<Option<u64>> =
        findings.iter().filter(|finding| finding.rule == "FP104").map(|finding| finding.step).collect();
    assert_eq!(falls, [Some(14000), Some(17063)]);
}
