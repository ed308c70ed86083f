//! T21: queries and keys that learn twenty times as fast condense their softmax while the loss still looks fine; the same
//! network at one rate does not. Two runs of the zoo, against what torch saw of their attention in float64
//! (`fixtures/zoo/attention.py`).

mod common;

use std::path::Path;

use flashpoint::analysis::measure_checkpoint;
use flashpoint::analysis::model::{HeadAnalysis, MeasureLevel, Measured};
use flashpoint::checkpoint::{Checkpoint, NameRules};
use flashpoint::context::Context;
use serde_json::Value;

/// One head at one checkpoint: what was measured of the weights, and what torch saw of its logits.
struct Row {
    step: u64,
    loss: f64,
    head: HeadAnalysis,
    predicted_std: f64,
    largest_logit: f64,
    entropy: f64,
}

/// Every head of every checkpoint of an arm.
fn rows(arm: &str) -> (u64, Vec<Row>) {
    let oracle = &common::oracle(Path::new("fixtures/oracle/zoo/T21.json"))[arm];
    let number = |value: &Value| value.as_f64().expect("the oracle holds numbers");
    let mut rows = Vec::new();
    for saved in oracle["checkpoints"].as_array().expect("a list") {
        let step = saved["step"].as_u64().expect("a step");
        let path = Path::new("fixtures/runs").join(arm).join(format!("checkpoint-{step}"));
        let checkpoint = Checkpoint::read(&path, &NameRules::default(), &Context::default())
            .unwrap_or_else(|error| panic!("{error}"));
        let analysis = measure_checkpoint(&checkpoint, MeasureLevel::Spectra, &Context::default());
        let Measured::Value(layers) = analysis.attention else {
            panic!("{arm} {step}: {:?}", analysis.attention)
        };
        let expected = saved["layers"].as_array().expect("a list");
        assert_eq!(layers.len(), expected.len());
        for (layer, expected) in layers.iter().zip(expected) {
            for (index, head) in layer.heads.iter().enumerate() {
                rows.push(Row {
                    step,
                    loss: number(&saved["loss"]),
                    head: head.clone(),
                    predicted_std: number(&expected["predicted_std"][index]),
                    largest_logit: number(&expected["max_logit"][index]),
                    entropy: number(&expected["entropy_over_ln_t"][index]),
                });
            }
        }
    }
    (oracle["context"].as_u64().expect("a length"), rows)
}

#[test]
fn fast_queries_and_keys_cross_the_point_of_condensation_while_the_loss_looks_fine() {
    let (context, rows) = rows("gpt-attention-logits");
    let condensed = (2.0 * (context as f64).ln()).sqrt();
    assert!((condensed - 2.52).abs() < 0.01, "{condensed}");
    // The catalogue's arm crosses between steps 50 and 100; this one has its full rate from step 20 and is above at 50.
    for row in rows.iter().filter(|row| row.step >= 50) {
        assert!(row.head.logit_std > condensed, "step {}: {}", row.step, row.head.logit_std);
    }
    let at = |step: u64| rows.iter().filter(move |row| row.step == step);
    let least = at(100).map(|row| row.entropy).fold(f64::INFINITY, f64::min);
    assert!(least <= 0.18, "{least}");
    let loss = |step: u64| at(step).next().expect("the oracle has that step").loss;
    assert!(loss(100) < loss(25), "the loss goes on falling: {} {}", loss(25), loss(100));
}

#[test]
fn at_one_rate_logits_stay_far_below_it() {
    let (_, rows) = rows("gpt-steady-attention");
    assert_eq!(rows.len(), 20);
    for row in rows {
        assert!(row.head.logit_std <= 1.1 && row.entropy > 0.8, "step {}: {}", row.step, row.head.logit_std);
    }
}

#[test]
fn the_predicted_spread_is_that_of_torch_and_no_logit_is_above_the_bound() {
    for arm in ["gpt-attention-logits", "gpt-steady-attention"] {
        for row in rows(arm).1 {
            let relative = row.head.logit_std / row.predicted_std - 1.0;
            assert!(relative.abs() < 1e-9, "{arm} {}: {relative}", row.step);
            assert!(
                row.head.logit_bound >= row.largest_logit,
                "{arm} {}: {}",
                row.step,
                row.head.logit_bound
            );
        }
    }
}
