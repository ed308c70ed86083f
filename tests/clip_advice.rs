//! The advice on clipping against numbers by hand, and what it says of optimizers, thresholds in use and norms that are cut off.

#[path = "common/advised.rs"]
mod advised;
#[path = "common/kept.rs"]
mod kept;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use advised::{advised, log_normal, measured};
use flashpoint::analysis::model::{
    Analysis, LogAnalysis, LogPoint, LogSemantics, MeasureLevel, Measured, Number,
};
use flashpoint::analysis::of_checkpoints;
use flashpoint::clip::{
    Backtest, FixedNorm, Method, PerLayer, Shares, SkipStep, Status, advise, backtest, collect, fit,
};

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

/// Lines of a log, from step 1 on: the norm, and what else a line has.
fn lines(norms: &[f64], more: impl Fn(usize) -> String) -> String {
    let mut text = String::new();
    for (at, norm) in norms.iter().enumerate() {
        writeln!(text, "{{\"step\": {}, \"grad_norm\": {norm}{}}}", at + 1, more(at))
            .expect("writing to a string");
    }
    text
}

fn zoo(name: &str) -> Analysis {
    kept::read(Path::new("fixtures/zoo"), name)
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
    // As torch.nn.utils.clip_grad_norm_ has it.
    let factor = |norm: f64| (1.0 / (norm + 1e-6)).min(1.0);
    let kept = healthy.iter().map(|norm| factor(*norm)).sum::<f64>() / count;
    close(found.shrinkage.value, kept);
    let above = healthy.iter().filter(|norm| factor(**norm) < 1.0).count() as f64;
    close(found.share_clipped.value, above / count);
    let left = healthy.iter().map(|norm| norm * factor(*norm)).sum::<f64>();
    close(found.rate_loss.value, 1.0 - left / healthy.iter().sum::<f64>());
    close(found.needless.expect("steps were clipped").value, above / (above + 1.0));
    let mut sorted = healthy.clone();
    sorted.push(20.0);
    sorted.sort_by(f64::total_cmp);
    let median = sorted[sorted.len() / 2];
    let held = 20.0 * factor(20.0);
    close(found.containment.expect("there is a spike"), held / median);
    let square = healthy.iter().map(|norm| norm * norm).sum::<f64>() / count;
    close(found.inflation.expect("there is a spike"), (1.0 + 0.01 * held * held / square).sqrt());
    // The 128 norms before the spike have the median 1: a spike clipped to it costs nothing.
    let lost = healthy.iter().map(|norm| 1.0 - factor(*norm)).sum::<f64>();
    close(found.regret.value, lost / (count + 1.0));
    assert_eq!((found.spikes, found.spikes_clipped, found.first_clipped_spike), (1, 1, Some(150)));
    assert_eq!(
        found.first_clipped_step,
        points
            .iter()
            .find(|point| factor(point.grad_norm.expect("it has one").0) < 1.0)
            .map(|point| point.step)
    );
}

#[test]
fn what_lets_a_spike_through_pays_for_it_and_a_skipped_spike_costs_nothing() {
    let analysis = logged(with_a_spike(), LogSemantics::default());
    let loose = backtested(&analysis, Method::FixedNorm(FixedNorm { threshold: 10.0 }));
    let steps = 151.0;
    close(loose.regret.value, (10.0 * 20.0 / (20.0 + 1e-6_f64)).ln() / steps);
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

/// A spike in one of two tensors is turned as well: the mean cosine is that of it and of the steps around it.
#[test]
fn the_direction_of_a_clipped_spike_counts() {
    let norms = |step: u64| if step == 100 { (20.0, 1.0) } else { (0.5 + 0.01 * (step % 5) as f64, 0.4) };
    let with_layers = |step: u64| {
        let (one, other) = norms(step);
        let layers = [("one".to_owned(), Number(one)), ("other".to_owned(), Number(other))].into();
        LogPoint { grad_norm_by_layer: layers, ..point(step, f64::hypot(one, other)) }
    };
    let method = Method::PerLayer(PerLayer { threshold: 1.0, shares: Shares::Uniform });
    let found = backtested(&logged((1..=150).map(with_layers).collect(), LogSemantics::default()), method);
    // Both tensors are within 1/√2 but at the spike, where both are cut to it: (1, 1)/√2 against (20, 1).
    close(found.direction.expect("the spike is clipped"), 21.0 / (2.0 * 401.0_f64).sqrt());
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
    assert!(with_some.notes.iter().any(|note| note.contains("if torch.isfinite(norm)")));
}

/// GradScaler doubles its scale until a norm is infinite, and halves it there: the steps were skipped. A NaN elsewhere was not.
#[test]
fn norms_that_are_not_finite_where_the_loss_scale_falls_are_the_scalers_own() {
    let mut norms: Vec<String> = log_normal(0.3, 0.2, 300, 9).iter().map(f64::to_string).collect();
    for at in [100, 200] {
        norms[at] = "Infinity".to_owned();
    }
    let told = |norms: &[String]| {
        let mut text = String::new();
        for (at, norm) in norms.iter().enumerate() {
            let scale = 65536 >> (u8::from(at >= 100) + u8::from(at >= 200));
            writeln!(text, "{{\"step\": {}, \"grad_norm\": {norm}, \"loss_scale\": {scale}}}", at + 1)
                .expect("writing to a string");
        }
        advised(&[("metrics.jsonl", &text)]).recommendation.notes.join("\n")
    };
    let probes = told(&norms);
    assert!(probes.contains("2 steps with a norm") && probes.contains("skipped them already"), "{probes}");
    assert!(!probes.contains("optimizer.step()"), "{probes}");
    norms[150] = "NaN".to_owned();
    let both = told(&norms);
    assert!(both.contains("2 steps with a norm") && both.contains("1 step with a norm"), "{both}");
    assert!(both.contains("if torch.isfinite(norm): optimizer.step()"), "{both}");
}

/// Norms that end at the threshold: whatever share of them was clipped, no smaller threshold comes out. Where no config says the
/// threshold, from a twentieth of them on.
#[test]
fn norms_that_were_cut_off_never_lead_to_a_smaller_threshold() {
    let before = log_normal(0.6, 0.25, 1000, 3);
    let mut sorted = before.clone();
    sorted.sort_by(f64::total_cmp);
    for clipped in [5, 20, 40, 60, 200, 500, 900] {
        let limit = sorted[1000 - clipped];
        let after: Vec<f64> = before.iter().map(|norm| norm * (limit / (norm + 1e-6)).min(1.0)).collect();
        let text = lines(&after, |_| String::new());
        let config = format!("{{\"max_grad_norm\": {limit}}}");
        let mut runs = vec![advised(&[("metrics.jsonl", &text), ("run.json", &config)])];
        if clipped > 50 {
            runs.push(advised(&[("metrics.jsonl", &text)]));
        }
        for found in runs.into_iter().map(|advice| advice.recommendation) {
            assert_eq!((found.status, found.threshold), (Status::NotEvaluated, None), "{clipped}");
            assert!(found.sentence.contains("after clipping"), "{}", found.sentence);
        }
    }
}

/// One norm at the threshold in use and none above may be one that was clipped.
#[test]
fn a_threshold_that_norms_reach_is_not_said_never_to_have_fired() {
    let mut norms = log_normal(0.3, 0.1, 300, 8);
    norms[200] = 1.0 - 7e-7;
    let notes = |norms: &[f64]| {
        let text = lines(norms, |_| String::new());
        let found = advised(&[("metrics.jsonl", &text), ("run.json", r#"{"max_grad_norm": 1.0}"#)]);
        found.recommendation.notes.join("\n")
    };
    let reached = notes(&norms);
    assert!(reached.contains("is reached by 1 of 300 norms") && !reached.contains("never"), "{reached}");
    norms[200] = 0.9;
    assert!(notes(&norms).contains("never fired"));
}

/// Σv̂/τ² is 1 where every step was clipped to τ. What was kept is a checkpoint and a config: no log, for which this is.
#[test]
fn second_moments_of_steps_that_were_all_clipped_give_no_threshold() {
    let folder = tempfile::tempdir().expect("a directory");
    copied(Path::new("fixtures/runs/cnn-healthy"), folder.path());
    let analysis = measured(folder.path());
    assert!(analysis.log.is_none());
    let free = advise(&analysis).recommendation;
    let median = free.median.expect("there is a scale");
    let with_limit = |limit: f64| {
        let config = format!("{{\"max_grad_norm\": {limit}}}");
        std::fs::write(folder.path().join("run.json"), config).expect("it is writable");
        advise(&measured(folder.path())).recommendation
    };
    let saturated = with_limit(median * 1.01);
    assert_eq!((saturated.status, saturated.threshold), (Status::NotEvaluated, None));
    assert!(saturated.sentence.contains("raise the threshold"), "{}", saturated.sentence);
    let below = with_limit(median * 3.0);
    assert_eq!((below.threshold, below.used), (free.threshold, Some(median * 3.0)));
    assert!(below.notes.iter().any(|note| note.contains("well below")), "{:?}", below.notes);
    let near = with_limit(median / 0.8);
    let told = |note: &String| note.contains("these are 0.8000 of it: many steps were clipped");
    assert!(near.notes.iter().any(told), "{:?}", near.notes);
}

/// A mean over 1/(1 − β₂) steps is about these, and not about the run from its beginning.
#[test]
fn second_moments_of_one_checkpoint_are_about_its_recent_steps() {
    let mut analysis = measured(Path::new("fixtures/runs/cnn-healthy/checkpoint-0200"));
    let state = match &mut analysis.checkpoints[0].optimizer {
        Measured::Value(state) => state,
        other => panic!("{other:?}"),
    };
    state.optimizers.iter_mut().flat_map(|own| &mut own.groups).for_each(|group| group.beta2 = Some(0.99));
    assert_eq!(advise(&analysis).recommendation.fitted_steps, Some([100, 200]));
}

/// The files of a run, and none of its configs.
fn copied(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("it is there") {
        let path = entry.expect("it can be listed").path();
        let name = path.file_name().expect("it has a name");
        if path.is_dir() {
            std::fs::create_dir(to.join(name)).expect("it is writable");
            copied(&path, &to.join(name));
        } else if name != "run.json" {
            std::fs::copy(&path, to.join(name)).expect("it is writable");
        }
    }
}

/// GradScaler doubles its scale while norms grow to two and a half times what they were: they are the run's, and of its size.
#[test]
fn norms_that_rise_with_a_growing_loss_scale_are_not_divided_by_it() {
    let noise = log_normal(1.0, 0.05, 3000, 5);
    let norms: Vec<f64> =
        noise.iter().enumerate().map(|(at, noise)| (0.3 + 0.45 * at as f64 / 2999.0) * noise).collect();
    let scale = |at: usize| format!(", \"loss_scale\": {}", 2_f64.powf((10 + at / 400) as f64));
    let found = advised(&[("metrics.jsonl", &lines(&norms, scale))]).recommendation;
    // The middle of the last 200 of them.
    let expected = 0.3 + 0.45 * 2899.5 / 2999.0;
    assert!((found.median.expect("there is one") / expected - 1.0).abs() < 0.02, "{found:?}");
}

#[test]
fn norms_divided_on_their_size_alone_are_told_in_the_answer() {
    let norms = log_normal(2000.0, 0.1, 400, 6);
    let found = advised(&[("metrics.jsonl", &lines(&norms, |_| ", \"loss_scale\": 65536.0".to_owned()))]);
    let found = found.recommendation;
    assert_eq!(found.status, Status::CollectMore);
    let threshold = found.threshold.expect("there is one");
    assert!((2000.0 / 65536.0..3.0 * 2000.0 / 65536.0).contains(&threshold), "{threshold}");
    let otherwise = format!("clip near {:.0}", threshold * 65536.0);
    assert!(found.sentence.contains(&otherwise), "{otherwise}: {}", found.sentence);
}
