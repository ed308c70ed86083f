//! What `flashpoint clip` makes of columns that are no norms, or not those before clipping: read from files, as a run leaves them.

#[path = "common/advised.rs"]
mod advised;

use std::fmt::Write as _;

use advised::{advised, log_normal};
use flashpoint::clip::{Candidate, Recommendation, Status};

/// Lines of a log, from step 1 on: what a line has.
fn lines(count: usize, line: impl Fn(usize) -> String) -> String {
    let mut text = String::new();
    for at in 0..count {
        writeln!(text, "{{\"step\": {}, {}}}", at + 1, line(at)).expect("writing to a string");
    }
    text
}

/// The recommendation on norms and nothing else.
fn of(norms: &[f64]) -> Recommendation {
    let text = lines(norms.len(), |at| format!("\"grad_norm\": {}", norms[at]));
    advised(&[("metrics.jsonl", &text)]).recommendation
}

/// DeepSpeed writes -1 where a norm overflowed.
#[test]
fn a_norm_of_minus_one_is_not_finite() {
    let norms = log_normal(0.3, 0.2, 300, 1);
    let whole = of(&norms
        .iter()
        .enumerate()
        .filter(|(at, _)| at % 20 != 0)
        .map(|(_, norm)| *norm)
        .collect::<Vec<_>>());
    let mut overflowed = norms;
    overflowed.iter_mut().step_by(20).for_each(|norm| *norm = -1.0);
    let found = of(&overflowed);
    assert_eq!((found.non_finite, found.status), (15, whole.status));
    assert!(found.notes.iter().any(|note| note.contains("15 steps with a norm that is NaN or infinite")));
}

#[test]
fn negative_norms_are_asked_about() {
    let norms = log_normal(0.3, 0.2, 300, 1);
    let logarithms: Vec<f64> = norms.iter().map(|norm| norm.log10()).collect();
    let negative: Vec<f64> = norms.iter().map(|norm| -norm).collect();
    // Around 1 half of the logarithms are positive, and no norms either.
    let around_one: Vec<f64> = norms.iter().map(|norm| (norm / 0.3).log10()).collect();
    for (column, count) in [
        (&logarithms, 300),
        (&negative, 300),
        (&around_one, around_one.iter().filter(|one| **one < 0.0).count()),
    ] {
        let found = of(column);
        assert_eq!((found.status, found.threshold), (Status::NotEvaluated, None));
        let expected = format!("{count} of 300 gradient norms are negative");
        assert!(
            found.sentence.contains(&expected) && found.sentence.contains("logarithm"),
            "{}",
            found.sentence
        );
    }
    // One of three hundred is what a logger writes for no norm.
    let mut one = norms;
    one[150] = -100.0;
    assert!(of(&one).threshold.is_some());
}

#[test]
fn norms_that_are_nan_and_zero_are_counted_apart() {
    let text = lines(300, |at| format!("\"grad_norm\": {}", if at % 2 == 0 { "0.0" } else { "NaN" }));
    let found = advised(&[("metrics.jsonl", &text)]).recommendation;
    assert!(
        found.sentence.contains("of 300 gradient norms 150 are NaN or infinite and 150 are 0"),
        "{}",
        found.sentence
    );
}

/// Norms of 1e-8: torch multiplies by τ/(n + 1e-6), which shrinks every step to a hundredth, whatever is above the threshold.
#[test]
fn norms_smaller_than_what_frameworks_add_to_them_are_told() {
    let norms = log_normal(1e-8, 0.2, 400, 2);
    let text = lines(400, |at| format!("\"grad_norm\": {}", norms[at]));
    let advice = advised(&[("metrics.jsonl", &text)]);
    let threshold = advice.recommendation.threshold.expect("there is one");
    let fitted = &norms[49..];
    let expected =
        fitted.iter().map(|norm| (threshold / (norm + 1e-6)).min(1.0)).sum::<f64>() / fitted.len() as f64;
    let constant = |one: &&Candidate| {
        one.method == "global-norm"
            && one.backtest.value().is_some_and(|found| found.threshold == Some(threshold))
    };
    let found = advice.candidates.iter().find(constant).expect("the constant is held against the record");
    let found = found.backtest.value().expect("it was evaluated");
    assert!((found.shrinkage.value / expected - 1.0).abs() < 1e-9, "{} {expected}", found.shrinkage.value);
    assert_eq!(found.share_clipped.value, 1.0);
    let notes = advice.recommendation.notes.join("\n");
    assert!(notes.contains("multiply the loss by 1e8"), "{notes}");
    // At usual norms nothing is said of it.
    assert!(!of(&log_normal(0.3, 0.2, 400, 2)).notes.join("\n").contains("1e-6"));
}

/// A warm-up that leaves too little behind it is fitted, and said.
#[test]
fn a_warm_up_that_is_fitted_is_told() {
    let norms = log_normal(0.3, 0.2, 300, 3);
    let of = |end: usize| {
        let rate = |at: usize| 1e-4 * (at as f64 / end as f64).min(1.0);
        let text = lines(300, |at| format!("\"grad_norm\": {}, \"learning_rate\": {}", norms[at], rate(at)));
        advised(&[("metrics.jsonl", &text)]).recommendation
    };
    let long = of(280);
    assert_eq!(long.fitted_steps, Some([50, 300]));
    assert!(long.notes.iter().any(|note| note.contains("warms up to step 281")), "{:?}", long.notes);
    let short = of(200);
    assert_eq!(short.fitted_steps, Some([202, 300]));
    assert!(!short.notes.iter().any(|note| note.contains("warms up")), "{:?}", short.notes);
}

/// Two decimals of norms of .03: the largest value has a tenth of them, and no threshold.
#[test]
fn rounding_is_not_taken_for_clipping() {
    let rounded: Vec<f64> =
        log_normal(0.03, 0.2, 300, 4).iter().map(|norm| (norm * 100.0).round() / 100.0).collect();
    let found = of(&rounded);
    assert!(found.threshold.is_some(), "{}", found.sentence);
    assert!(found.norms > 240, "{found:?}");
}

/// The threshold of another kind of clipping is not held against norms.
#[test]
fn a_threshold_by_value_is_none_of_the_norm() {
    let norms = log_normal(0.3, 0.2, 300, 5);
    let text = lines(300, |at| format!("\"grad_norm\": {}", norms[at]));
    for (config, used) in [
        (r#"{"gradient_clip_val": 0.2, "gradient_clip_algorithm": "value"}"#, None),
        (r#"{"clip": 0.2}"#, None),
        (r#"{"gradient_clip_val": 0.2, "gradient_clip_algorithm": "norm"}"#, Some(0.2)),
    ] {
        let found = advised(&[("metrics.jsonl", &text), ("run.json", config)]).recommendation;
        assert_eq!(found.used, used, "{config}");
    }
}

#[test]
fn one_norm_is_counted_as_one() {
    let found = of(&[0.3]);
    assert!(found.sentence.contains("there is 1 usable gradient norm, "), "{}", found.sentence);
}
