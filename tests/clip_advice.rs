//! The advice on clipping against numbers by hand, and what it says of optimizers, thresholds in use and norms that are cut off.

#[path = "common/kept.rs"]
mod kept;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use flashpoint::analysis::model::{Analysis, LogAnalysis, LogPoint, LogSemantics, MeasureLevel, Number};
use flashpoint::analysis::of_checkpoints;
use flashpoint::analysis::run::{Request, measure};
use flashpoint::checkpoint::NameRules;
use flashpoint::clip::{
    Backtest, FixedNorm, Method, PerLayer, Shares, SkipStep, Status, advise, backtest, collect, fit,
};
use flashpoint::context::Context;
use flashpoint::history::{History, Options};

fn logged(points: Vec<LogPoint>, semantics: LogSemantics) -> Analysis {
    let mut analysis = of_checkpoints(Vec::new(), MeasureLevel::Stats);
    analysis.log = Some(LogAnalysis { points, semantics, ..LogAnalysis::default() });
    analysis
}

fn point(step: u64, norm: f64) -> LogPoint {
    LogPoint { step, grad_norm: Some(Number(norm)), ..LogPoint::default() }
}

/// Norms around 1 in a pattern, and one of 20 at step 150.
fn with_a_spike() -> Vec<LogPoint> {
    (1..=200)
        .map(|step| point(step, if step == 150 { 20.0 } else { 0.8 + 0.05 * (step % 9) as f64 }))
        .collect()
}

fn zoo(name: &str) -> Analysis {
    kept::read(Path::new("fixtures/zoo"), name)
}

fn measured(path: &Path) -> Analysis {
    let context = Context::default();
    let history = History::read(path, &Options::default(), &context).expect("it is there");
    let names = NameRules::default();
    measure(&history, &Request { level: MeasureLevel::Stats, names: &names }, &context).analysis
}

fn backtested(analysis: &Analysis, method: Method) -> Backtest {
    let series = collect(analysis);
    let fit = fit(&series, None).expect("there are enough norms");
    backtest(method, &series, &fit, 0.99).value().expect("it can be evaluated").clone()
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-12 * expected.abs().max(1.0), "{found}, not {expected}");
}

/// The definitions of docs/clip.md, one loop each.
#[test]
fn a_backtest_gives_the_numbers_of_its_definitions() {
    let points = with_a_spike();
    let found = backtested(
        &logged(points.clone(), LogSemantics::default()),
        Method::FixedNorm(FixedNorm { threshold: 1.0 }),
    );
    let healthy: Vec<f64> = points
        .iter()
        .filter(|point| point.step >= 50 && point.step != 150)
        .map(|point| point.grad_norm.expect("it has one").0)
        .collect();
    let count = healthy.len() as f64;
    let kept = healthy.iter().map(|norm| (1.0 / norm).min(1.0)).sum::<f64>() / count;
    close(found.shrinkage.value, kept);
    let above = healthy.iter().filter(|norm| **norm > 1.0).count() as f64;
    close(found.share_clipped.value, above / count);
    let left = healthy.iter().map(|norm| norm.min(1.0)).sum::<f64>();
    close(found.rate_loss.value, 1.0 - left / healthy.iter().sum::<f64>());
    close(found.needless.expect("steps were clipped").value, above / (above + 1.0));
    let mut sorted = healthy.clone();
    sorted.push(20.0);
    sorted.sort_by(f64::total_cmp);
    let median = sorted[sorted.len() / 2];
    close(found.containment.expect("there is a spike"), 1.0 / median);
    let square = healthy.iter().map(|norm| norm * norm).sum::<f64>() / count;
    close(found.inflation.expect("there is a spike"), (1.0 + 0.01 / square).sqrt());
    // The 128 norms before the spike have the median 1: a spike clipped to it costs nothing.
    let lost = healthy.iter().map(|norm| 1.0 - (1.0 / norm).min(1.0)).sum::<f64>();
    close(found.regret.value, lost / (count + 1.0));
    assert_eq!((found.spikes, found.spikes_clipped, found.first_clipped_spike), (1, 1, Some(150)));
    assert_eq!(
        found.first_clipped_step,
        points.iter().find(|point| point.grad_norm.expect("it has one").0 > 1.0).map(|point| point.step)
    );
}

#[test]
fn what_lets_a_spike_through_pays_for_it_and_a_skipped_spike_costs_nothing() {
    let analysis = logged(with_a_spike(), LogSemantics::default());
    let loose = backtested(&analysis, Method::FixedNorm(FixedNorm { threshold: 10.0 }));
    let steps = 151.0;
    close(loose.regret.value, 10f64.ln() / steps);
    assert!(loose.share_clipped.value == 0.0 && loose.share_clipped.high > 0.0);
    let skipping = backtested(&analysis, Method::SkipStep(SkipStep::default()));
    assert_eq!((skipping.regret.value, skipping.containment), (0.0, Some(0.0)));
    assert_eq!(skipping.inflation, Some(1.0));
}

/// Two tensors, one of them above its share of the threshold: cosines by hand.
#[test]
fn methods_by_tensor_are_judged_where_every_tensor_was_logged_and_not_otherwise() {
    let with_layers = |step: u64| {
        let (one, other) = (0.9 + 0.01 * (step % 5) as f64, 0.1);
        let layers: BTreeMap<String, Number> =
            [("one".to_owned(), Number(one)), ("other".to_owned(), Number(other))].into();
        LogPoint { grad_norm_by_layer: layers, ..point(step, f64::hypot(one, other)) }
    };
    let method = Method::PerLayer(PerLayer { threshold: 1.0, shares: Shares::Uniform });
    let analysis = logged((1..=120).map(with_layers).collect(), LogSemantics::default());
    let found = backtested(&analysis, method);
    let limit = 0.5f64.sqrt();
    let cosines = (50..=120).map(|step| {
        let (one, other) = (0.9 + 0.01 * f64::from(step % 5), 0.1);
        (limit * one + other * other) / (f64::hypot(one, other) * f64::hypot(limit, other))
    });
    close(found.direction.expect("every step is clipped"), cosines.sum::<f64>() / 71.0);
    assert_eq!(found.share_clipped.value, 1.0);
    let bare = logged((1..=120).map(|step| point(step, 1.0)).collect(), LogSemantics::default());
    let series = collect(&bare);
    let fit = fit(&series, None).expect("there are enough norms");
    assert!(backtest(method, &series, &fit, 0.999).value().is_none());
}

#[test]
fn sgd_and_adam_are_told_what_a_threshold_does_under_each() {
    let notes = |name: &str| advise(&zoo(name)).recommendation.notes.join("\n");
    let sgd = notes("cnn-momentum");
    assert!(sgd.contains("under SGD") && !sgd.contains("under Adam"), "{sgd}");
    let adam = notes("gpt-unclipped");
    assert!(adam.contains("under Adam") && adam.contains("beta2") && !adam.contains("under SGD"), "{adam}");
}

#[test]
fn a_threshold_in_use_is_told_whether_it_fires() {
    let notes = advise(&zoo("mlp-heavy-tails")).recommendation.notes.join("\n");
    assert!(notes.contains("the threshold in use, 5, fired at"), "{notes}");
    let notes = advise(&zoo("lstm-adam")).recommendation.notes.join("\n");
    assert!(notes.contains("the threshold in use, 1, never fired"), "{notes}");
}

#[test]
fn norms_that_are_not_finite_are_counted_and_are_no_evidence() {
    let mut points = with_a_spike();
    let whole = advise(&logged(points.clone(), LogSemantics::default())).recommendation;
    points.push(point(201, f64::NAN));
    points.push(point(202, f64::INFINITY));
    let with_some = advise(&logged(points, LogSemantics::default())).recommendation;
    assert_eq!((with_some.non_finite, with_some.threshold), (2, whole.threshold));
    assert!(with_some.notes.iter().any(|note| note.contains("error_if_nonfinite")));
}

/// Norms that end at the threshold: whatever share of them was clipped, no smaller threshold comes out.
#[test]
fn norms_that_were_cut_off_never_lead_to_a_smaller_threshold() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("metrics.jsonl");
    for limit in [0.85, 0.9, 1.0, 1.1, 1.15] {
        let mut text = String::new();
        for step in 1..=300 {
            let norm = (0.8 + 0.05 * f64::from(step % 9)).min(limit);
            writeln!(text, "{{\"step\": {step}, \"grad_norm\": {norm}}}").expect("writing to a string");
        }
        std::fs::write(&path, text).expect("it is writable");
        let found = advise(&measured(&path)).recommendation;
        assert_eq!((found.status, found.threshold), (Status::NotEvaluated, None), "{limit}");
        assert!(found.sentence.contains("after clipping"), "{}", found.sentence);
    }
}

/// Σv̂/τ² is 1 where every step was clipped to τ.
#[test]
fn second_moments_of_steps_that_were_all_clipped_give_no_threshold() {
    let mut analysis = measured(Path::new("fixtures/runs/cnn-healthy"));
    let free = advise(&analysis).recommendation;
    let median = free.median.expect("there is a scale");
    let with_limit = |analysis: &mut Analysis, limit: f64| {
        let semantics = LogSemantics { clip_threshold: Some(limit), ..LogSemantics::default() };
        analysis.log = Some(LogAnalysis { semantics, ..LogAnalysis::default() });
        advise(analysis).recommendation
    };
    let saturated = with_limit(&mut analysis, median * 1.01);
    assert_eq!((saturated.status, saturated.threshold), (Status::NotEvaluated, None));
    assert!(saturated.sentence.contains("raise the threshold"), "{}", saturated.sentence);
    let below = with_limit(&mut analysis, median * 3.0);
    assert_eq!(below.threshold, free.threshold);
}
