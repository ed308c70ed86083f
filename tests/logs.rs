//! Logs by their own writers, against what was taken down while they were written; and the traps in which logs lie.

mod common;

use std::path::Path;

use flashpoint::analysis::log;
use flashpoint::analysis::model::{LogAnalysis, LogPoint, Number, RemarkKind};
use flashpoint::context::Context;
use flashpoint::history::{History, Options};
use serde_json::Value;

fn read(path: &str) -> History {
    History::read(Path::new(path), &Options::default(), &Context::default())
        .unwrap_or_else(|error| panic!("{error}"))
}

fn measured(history: &History) -> LogAnalysis {
    log::measure(history)
        .unwrap_or_else(|| panic!("{}: no log; {:?} {:?}", history.name, history.remarks, history.errors))
}

fn series(log: &LogAnalysis, key: &str) -> Vec<(u64, f64)> {
    let value = |point: &LogPoint| match key {
        "loss" => point.loss,
        "grad_norm" => point.grad_norm,
        "lr" => point.learning_rate,
        "loss_scale" => point.loss_scale,
        _ => panic!("no such series: {key}"),
    };
    log.points
        .iter()
        .filter_map(|point| Some((point.step, value(point).map(|Number(value)| value)?)))
        .collect()
}

/// What differs between a log and its oracle, whose steps are `shift` lower.
fn differences(log: &LogAnalysis, oracle: &Value, keys: &[&str], shift: u64) -> Vec<String> {
    let mut wrong = Vec::new();
    for key in keys {
        let Some(expected) = oracle["series"][key].as_array() else { continue };
        let number = |value: &Value| {
            value
                .as_f64()
                .unwrap_or_else(|| value.as_str().and_then(|text| text.parse().ok()).expect("a number"))
        };
        let expected: Vec<(u64, f64)> = expected
            .iter()
            .map(|pair| (pair[0].as_u64().expect("a step") + shift, number(&pair[1])))
            .collect();
        let found = series(log, key);
        let same =
            |(a, b): (&(u64, f64), &(u64, f64))| a.0 == b.0 && (a.1 == b.1 || (a.1.is_nan() && b.1.is_nan()));
        if found.len() != expected.len() || !found.iter().zip(&expected).all(same) {
            wrong.push(format!("{key}: {found:?}, not {expected:?}"));
        }
    }
    wrong
}

#[test]
fn every_format_gives_the_numbers_that_were_written() {
    let all = ["loss", "grad_norm", "lr", "loss_scale"];
    let cases = [
        ("jsonl/metrics.jsonl", "jsonl", 0),
        ("lightning/metrics.csv", "lightning", 1),
        ("megatron/log.txt", "megatron", 0),
        ("tensorboard/events.out.tfevents.1700000000.host.1.0", "tensorboard", 0),
        ("timm/summary.csv", "timm", 0),
        ("torchtitan/train.log", "torchtitan", 0),
        ("trainer/trainer_state.json", "trainer", 0),
        ("wandb/chart.csv", "wandb-chart", 0),
        ("wandb/history.csv", "wandb-history", 0),
        ("traps/bare-nan/trainer_state.json", "trap-bare-nan", 0),
    ];
    let mut wrong = Vec::new();
    for (path, oracle, shift) in cases {
        let history = read(&format!("fixtures/logs/{path}"));
        assert!(history.errors.is_empty(), "{path}: {:?}", history.errors);
        let oracle = common::oracle(&Path::new("fixtures/oracle/logs").join(format!("{oracle}.json")));
        let found = differences(&measured(&history), &oracle, &all, shift);
        wrong.extend(found.into_iter().map(|line| format!("{path}: {line}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn truth(trap: &str) -> Value {
    common::oracle(&Path::new("fixtures/logs/traps").join(trap).join("truth.json"))
}

fn trap(name: &str) -> (History, LogAnalysis, Value) {
    let history = read(&format!("fixtures/logs/traps/{name}"));
    let log = measured(&history);
    (history, log, truth(name))
}

#[test]
fn a_loss_of_nan_shown_as_zero_is_nan_again() {
    let (_, log, _) = trap("nan-logged-as-zero");
    assert_eq!(log.semantics.hidden_nan, [[30, 40]]);
    assert_eq!(log.semantics.loss_is_window_mean, Some(true));
    assert!(
        log.points
            .iter()
            .filter(|point| point.step >= 30)
            .all(|point| point.loss.is_none_or(|loss| loss.0.is_nan()))
    );
}

#[test]
fn norms_with_the_loss_scale_in_them_are_divided_by_it() {
    let (_, log, truth) = trap("loss-scaled-norms");
    assert!(log.semantics.loss_scaled);
    let norms = series(&log, "grad_norm");
    for (pair, (step, norm)) in truth["true_norms"].as_array().expect("a list").iter().zip(norms) {
        let expected = pair[1].as_f64().expect("a norm");
        assert!(pair[0] == step && (norm / expected - 1.0).abs() < 1e-6, "{step}: {norm}, not {expected}");
    }
}

#[test]
fn norms_before_and_after_clipping_are_told_apart() {
    let (_, after, _) = trap("norm-after-clipping");
    assert_eq!(after.semantics.before_clipping, Some(false));
    let (_, before, _) = trap("norm-before-clipping");
    assert_ne!(before.semantics.before_clipping, Some(false));
}

#[test]
fn a_norm_of_zero_is_none() {
    let (_, log, _) = trap("zero-not-measured");
    assert!(series(&log, "grad_norm").is_empty());
    assert_eq!(log.semantics.unmeasured_zeros, log.points.len() as u64);
}

#[test]
fn means_of_windows_are_told_to_be_such() {
    let (history, log, _) = trap("window-means");
    assert_eq!((log.semantics.stride, log.semantics.loss_is_window_mean), (Some(10), Some(true)));
    assert!(history.remarks.iter().any(|remark| remark.message.starts_with("one point stands for 10 steps")));
}

#[test]
fn of_steps_that_are_logged_twice_the_later_writer_counts() {
    // Lightning's steps are one more here than in its files.
    for (name, shift) in [("rewound", 0), ("overlapping-files", 1)] {
        let (history, log, truth) = trap(name);
        let kept: Vec<(u64, f64)> = truth["kept"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|pair| (pair[0].as_u64().expect("a step") + shift, pair[1].as_f64().expect("a loss")))
            .collect();
        assert_eq!(series(&log, "loss"), kept, "{name}");
        let seams: Vec<u64> = truth["seams"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|step| step.as_u64().expect("a step") + shift)
            .collect();
        assert_eq!(log.semantics.seams, seams, "{name}");
        assert!(history.remarks.iter().any(|remark| remark.kind == RemarkKind::Rewind), "{name}");
    }
}

#[test]
fn repeated_norms_belong_to_skipped_steps() {
    let (_, log, truth) = trap("skipped-steps");
    let skipped: Vec<u64> = log.points.iter().filter(|point| point.skipped).map(|point| point.step).collect();
    let ranges = truth["repeated"].as_array().expect("a list");
    let bound = |range: &Value, end: usize| range[end].as_u64().expect("a step");
    let expected: Vec<u64> = ranges.iter().flat_map(|range| bound(range, 0)..=bound(range, 1)).collect();
    assert_eq!(skipped, expected);
}

#[test]
fn more_micro_batches_are_seen_where_they_are_logged() {
    // By itself this log does not show it: its norms move as much without it.
    let (_, log, truth) = trap("more-micro-batches");
    let (at, factor) =
        (truth["change"].as_u64().expect("a step"), truth["factor"].as_u64().expect("a factor"));
    assert!(log.accumulation_changes.iter().all(|change| change.factor.is_none()));
    let rows = std::fs::read_to_string("fixtures/logs/traps/more-micro-batches/metrics.jsonl")
        .expect("the rows are there");
    let mut text = String::new();
    for row in rows.lines() {
        let mut row: Value = serde_json::from_str(row).expect("a row is JSON");
        let later = row["step"].as_u64().expect("a step") >= at;
        row["gradient_accumulation_steps"] = Value::from(if later { factor } else { 1 });
        text.push_str(&row.to_string());
        text.push('\n');
    }
    let folder = tempfile::tempdir().expect("a directory can be made");
    std::fs::write(folder.path().join("metrics.jsonl"), text).expect("it can be written");
    let log = measured(&read(&folder.path().to_string_lossy()));
    let change = log.accumulation_changes.iter().find(|change| change.step == at).expect("it is found");
    assert_eq!(change.factor, Some(4.0));
}

#[test]
fn damaged_event_files_give_what_is_whole() {
    let whole = common::oracle(Path::new("fixtures/oracle/logs/tensorboard.json"));
    let all = whole["series"]["loss"].as_array().expect("a list").len();
    let (history, log, _) = trap("tensorboard-cut-off");
    assert!(history.errors.is_empty());
    assert!(
        history.remarks.iter().any(|remark| remark.message.starts_with("it ends in the middle of a record"))
    );
    assert!((1..=all).contains(&series(&log, "loss").len()));
    let (history, log, _) = trap("tensorboard-flipped-bit");
    assert!(
        history.errors[0].to_string().contains("the checksum of 1 records is wrong"),
        "{:?}",
        history.errors
    );
    let read = ["loss", "grad_norm", "lr"].map(|key| series(&log, key).len()).iter().sum::<usize>();
    assert_eq!(read, 3 * all - 1);
}

#[test]
fn incidents_read_the_same_from_what_was_printed_and_from_lines_of_json() {
    for name in ["bloom-176b", "tr8-104b"] {
        let printed = measured(&read(&format!("fixtures/logs/incidents/{name}.log")));
        let lines = measured(&read(&format!("fixtures/logs/incidents/{name}.jsonl")));
        for key in ["loss", "grad_norm", "lr"] {
            assert_eq!(series(&printed, key), series(&lines, key), "{name}: {key}");
        }
    }
    let tr8 = measured(&read("fixtures/logs/incidents/tr8-104b.log"));
    assert!(tr8.semantics.loss_scaled);
    // Rows 7000 to 7220 are of an attempt that was given up for one that goes on at 6900.
    let norms = series(&tr8, "grad_norm");
    for (step, expected) in [(6900, 23.269_915), (12_000, 0.303_970), (16_800, 0.344_041)] {
        let (_, found) = norms.iter().find(|(at, _)| *at == step).expect("the row is there");
        assert!((found / expected - 1.0_f64).abs() < 1e-5, "{step}: {found}");
    }
}
