//! The procedure over hand-built analyses.

use super::{Mechanism, diagnose};
use crate::analysis::model::{
    Analysis, IntervalAnalysis, Layer, LogAnalysis, LogPoint, MeasureLevel, Measured, Number, Role, Run,
    SCHEMA_VERSION, TensorInterval,
};
use crate::rules::{Assessment, Confidence, Finding, Severity, Subject};

/// A run of `steps` logged steps whose gradient norm is 1 and whose loss falls from 4 towards 2, then edited.
fn run(steps: u64, mut edit: impl FnMut(&mut LogPoint)) -> Analysis {
    let points = (1..=steps).map(|step| {
        let loss = 2.0 + 2.0 * (-(step as f64) / 50.0).exp();
        let mut point = LogPoint {
            step,
            loss: Some(Number(loss)),
            grad_norm: Some(Number(1.0)),
            learning_rate: Some(Number(1e-3)),
            grad_norm_z: (step > 20).then_some(0.0),
            grad_norm_ratio: (step > 20).then_some(1.0),
            loss_ratio: (step > 3).then_some(1.0),
            ..LogPoint::default()
        };
        edit(&mut point);
        point
    });
    let log = LogAnalysis { points: points.collect(), ..LogAnalysis::default() };
    Analysis {
        schema_version: SCHEMA_VERSION.to_owned(),
        tool_version: String::new(),
        measured: MeasureLevel::Stats,
        checkpoints: Vec::new(),
        run: Some(Run { name: "run".to_owned(), until: None, remarks: Vec::new() }),
        intervals: Vec::new(),
        replicas: Vec::new(),
        dumps: Vec::new(),
        clipping: None,
        log: Some(log),
    }
}

/// The gradient norm of a point becomes `norm`, the usual being 1.
fn spike(point: &mut LogPoint, norm: f64) {
    point.grad_norm = Some(Number(norm));
    point.grad_norm_ratio = Some(norm);
    point.grad_norm_z = Some(norm.ln() / (1.4826 * 0.05));
}

/// An interval of 20 steps in which each tensor's gradient is so many times its usual.
fn interval(from_step: u64, ratios: &[(&str, f64)]) -> IntervalAnalysis {
    let tensors =
        ratios.iter().enumerate().map(|(order, (name, ratio))| tensor_interval(name, order as u64, *ratio));
    IntervalAnalysis {
        from: format!("checkpoint-{from_step}"),
        to: format!("checkpoint-{}", from_step + 20),
        from_step,
        to_step: from_step + 20,
        tensors: tensors.collect(),
        unmatched: Vec::new(),
    }
}

fn tensor_interval(name: &str, order: u64, ratio: f64) -> TensorInterval {
    let not = || Measured::not("not in this test");
    TensorInterval {
        name: name.to_owned(),
        canonical_name: name.to_owned(),
        layer: Layer { path: name.trim_end_matches(".weight").to_owned(), index: None, order },
        role: Role::Linear,
        elements: 64,
        from_master: false,
        weight_rms: Measured::Value(0.1),
        change_rms: Measured::Value(1e-3),
        relative_change: Measured::Value(1e-2),
        growth_rate: Measured::Value(0.0),
        steps: Measured::Value(20.0),
        energy: Measured::Value(ratio * ratio),
        gradient_norm: Measured::Value(ratio),
        gradient_ratio: Measured::Value(ratio),
        change_ratio: Measured::Value(1.0),
        decay_ratio: Measured::Value(2.0),
        floor_share: Measured::Value(0.0),
        below_floor_share: Measured::Value(0.0),
        mapping_cosine: not(),
    }
}

const CALM: [(&str, f64); 3] = [("a.weight", 1.0), ("b.weight", 1.0), ("c.weight", 1.05)];

#[test]
fn a_calm_run_has_no_mechanism_and_nothing_to_do() {
    let mut analysis = run(200, |_| {});
    analysis.intervals = (0..10).map(|index| interval(20 * index, &CALM)).collect();
    let diagnosis = diagnose(&analysis, &Assessment::default());
    assert_eq!((diagnosis.mechanism, diagnosis.onset_step), (Mechanism::None, None));
    assert!(diagnosis.actions.is_empty() && diagnosis.suspects.is_empty());
}

#[test]
fn one_gradient_far_above_all_others_is_a_spike_of_its_tensor_at_its_step() {
    let mut analysis = run(200, |point| {
        if point.step == 133 {
            spike(point, 40.0);
        }
    });
    analysis.intervals = (0..10).map(|index| interval(20 * index, &CALM)).collect();
    analysis.intervals[6] = interval(120, &[("a.weight", 1.1), ("b.weight", 9.0), ("c.weight", 1.0)]);
    let diagnosis = diagnose(&analysis, &Assessment::default());
    assert_eq!(diagnosis.mechanism, Mechanism::GradientSpike);
    assert_eq!(diagnosis.tensor.as_deref(), Some("b.weight"));
    assert_eq!((diagnosis.onset_step, diagnosis.onset_interval), (Some(133), Some([132, 133])));
    assert!(
        diagnosis.actions.iter().any(|action| action.what.contains("step 133")),
        "{:?}",
        diagnosis.actions
    );
}

#[test]
fn a_pulse_in_a_run_whose_norms_have_a_trend_is_found_by_its_neighbours() {
    // ln(norm) falls by 3 over the run, so that the window before a step is wide: six times the usual has a z of 2.
    let falling =
        |step: u64| 20.0 * (-(step as f64) / 80.0).exp() * if step.is_multiple_of(2) { 1.0 } else { 1.2 };
    let analysis = run(240, |point| {
        let norm = falling(point.step) * if point.step == 150 { 6.0 } else { 1.0 };
        point.grad_norm = Some(Number(norm));
        point.grad_norm_z = Some(2.0);
        point.grad_norm_ratio = Some(norm / falling(point.step.saturating_sub(64)));
    });
    let diagnosis = diagnose(&analysis, &Assessment::default());
    assert_eq!((diagnosis.mechanism, diagnosis.onset_step), (Mechanism::GradientSpike, Some(150)));
}

#[test]
fn a_norm_that_explodes_into_nan_is_no_pulse() {
    let analysis = run(200, |point| {
        if point.step == 150 {
            spike(point, 500.0);
        }
        if point.step > 150 {
            (point.loss, point.grad_norm) = (Some(Number(f64::NAN)), Some(Number(f64::NAN)));
            (point.grad_norm_ratio, point.grad_norm_z, point.loss_ratio) = (None, None, None);
        }
    });
    assert_ne!(diagnose(&analysis, &Assessment::default()).mechanism, Mechanism::GradientSpike);
}

#[test]
fn energy_that_the_log_of_every_step_does_not_know_came_in_no_single_gradient() {
    // 20 steps whose norm is 1 and whose energy of b is 81: one gradient of 9 would be in the log.
    let mut analysis = run(200, |_| {});
    analysis.intervals = (0..10).map(|index| interval(20 * index, &CALM)).collect();
    analysis.intervals[6] = interval(120, &[("a.weight", 1.1), ("b.weight", 9.0), ("c.weight", 1.0)]);
    assert_eq!(diagnose(&analysis, &Assessment::default()).mechanism, Mechanism::None);
    // Where only every tenth step is logged, it may have been another one.
    if let Some(log) = &mut analysis.log {
        log.points.retain(|point| point.step.is_multiple_of(10));
    }
    assert_eq!(diagnose(&analysis, &Assessment::default()).mechanism, Mechanism::GradientSpike);
}

#[test]
fn a_loss_that_goes_up_and_comes_back_again_and_again_has_not_diverged() {
    // Down by a factor of six, in waves that grow to 2.7 times, each a little higher than the one before.
    let wave = |step: f64| (-step / 900.0 + 0.5 * step / 1600.0 * (step / 16.0).sin()).exp();
    let analysis = run(1600, |point| {
        point.loss = Some(Number(wave(point.step as f64)));
        point.learning_rate = Some(Number(1e-3));
    });
    assert_eq!(diagnose(&analysis, &Assessment::default()).mechanism, Mechanism::None);
}

#[test]
fn a_loss_scale_that_grows_in_between_has_not_collapsed() {
    let halved_at = |steps: [u64; 3], grown_at: u64| {
        let scale = move |step: u64| {
            let halvings = steps.iter().filter(|&&at| step >= at).count();
            65536.0
                * 0.5_f64.powi(i32::try_from(halvings).unwrap())
                * if step >= grown_at { 2.0 } else { 1.0 }
        };
        run(200, move |point| point.loss_scale = Some(Number(scale(point.step))))
    };
    let told = |analysis| {
        let diagnosis = diagnose(&analysis, &Assessment::default());
        (diagnosis.mechanism, diagnosis.onset_step)
    };
    assert_eq!(told(halved_at([60, 110, 112], 100)), (Mechanism::None, None));
    assert_eq!(told(halved_at([108, 110, 112], 100)), (Mechanism::Fp16Overflow, Some(108)));
}

#[test]
fn excursions_of_every_size_are_heavy_tails_and_no_fault() {
    let sizes = [3.0, 5.0, 2.6, 8.0, 4.0, 6.0, 9.0, 3.5];
    let analysis = run(400, |point| {
        if point.step > 30 && point.step % 40 == 0 {
            spike(point, sizes[(point.step / 40) as usize % sizes.len()]);
        }
    });
    assert_eq!(diagnose(&analysis, &Assessment::default()).mechanism, Mechanism::None);
}

#[test]
fn a_loss_that_leaves_its_minimum_without_any_reason_is_unknown_and_says_what_to_keep() {
    let analysis = run(200, |point| {
        if point.step > 150 {
            point.loss = Some(Number(8.0));
            point.loss_ratio = Some(4.0);
            point.learning_rate = Some(Number(1e-4));
        }
    });
    let diagnosis = diagnose(&analysis, &Assessment::default());
    assert_eq!((diagnosis.mechanism, diagnosis.onset_step), (Mechanism::Unknown, Some(151)));
    assert!(diagnosis.story.iter().any(|line| line.contains("save more often")), "{:?}", diagnosis.story);
}

#[test]
fn the_first_nan_after_calm_is_non_finite_and_after_a_divergence_it_is_the_end_of_that() {
    let broken = |point: &mut LogPoint| {
        (point.loss, point.grad_norm) = (Some(Number(f64::NAN)), Some(Number(f64::NAN)));
        (point.grad_norm_ratio, point.grad_norm_z, point.loss_ratio) = (None, None, None);
    };
    let sudden = run(200, |point| {
        if point.step >= 150 {
            broken(point);
        }
    });
    let diagnosis = diagnose(&sudden, &Assessment::default());
    assert_eq!((diagnosis.mechanism, diagnosis.onset_step), (Mechanism::NonFinite, Some(150)));
    let diverged = run(200, |point| match point.step {
        130..150 => {
            spike(point, 4.0 * (point.step - 129) as f64);
            (point.loss, point.loss_ratio) = (Some(Number(5.0)), Some(2.0));
        }
        150.. => broken(point),
        _ => {}
    });
    let diagnosis = diagnose(&diverged, &Assessment::default());
    assert_eq!((diagnosis.mechanism, diagnosis.onset_step), (Mechanism::LearningRate, Some(130)));
}

#[test]
fn the_same_analysis_gives_the_same_diagnosis() {
    let mut analysis = run(200, |point| {
        if point.step == 133 {
            spike(point, 40.0);
        }
    });
    analysis.intervals = (0..10).map(|index| interval(20 * index, &CALM)).collect();
    let once = diagnose(&analysis, &Assessment::default());
    assert_eq!(once, diagnose(&analysis, &Assessment::default()));
}

#[test]
fn a_divergence_that_a_rule_found_is_a_failure_though_nothing_shows_why() {
    let found = Finding {
        rule: "FP503".to_owned(),
        name: "divergence".to_owned(),
        severity: Severity::Critical,
        confidence: Confidence::Calibrated,
        checkpoint: "run".to_owned(),
        step: Some(7),
        subject: Subject::Checkpoint,
        message: String::new(),
        evidence: Vec::new(),
        advice: String::new(),
    };
    let assessment = Assessment { findings: vec![found], ..Assessment::default() };
    let diagnosis = diagnose(&run(200, |_| {}), &assessment);
    assert_eq!((diagnosis.mechanism, diagnosis.onset_step), (Mechanism::Unknown, Some(7)));
    assert!(
        diagnosis.story.iter().any(|sentence| sentence.contains("has diverged")),
        "{:?}",
        diagnosis.story
    );
}

/// Intervals in which some tensors moved and then did not, while another goes on.
fn stopping(stops: &[(&str, Role)]) -> Analysis {
    let mut analysis = run(80, |_| {});
    for from_step in [0, 20, 40, 60] {
        let names: Vec<(&str, f64)> =
            stops.iter().map(|(name, _)| (*name, 1.0)).chain([("other.weight", 1.0)]).collect();
        let mut one = interval(from_step, &names);
        for (tensor, (_, role)) in one.tensors.iter_mut().zip(stops) {
            tensor.role = *role;
            tensor.change_rms = Measured::Value(if from_step < 40 { 1e-3 } else { 0.0 });
        }
        one.tensors.last_mut().unwrap().change_rms = Measured::Value(1e-3);
        analysis.intervals.push(one);
    }
    analysis
}

#[test]
fn a_layer_that_stops_is_frozen_and_a_bias_alone_rests() {
    let layer = stopping(&[("conv.weight", Role::Linear), ("conv.bias", Role::Bias)]);
    let diagnosis = diagnose(&layer, &Assessment::default());
    assert_eq!((diagnosis.mechanism, diagnosis.tensor.as_deref()), (Mechanism::Frozen, Some("conv.weight")));
    assert!(
        diagnosis.story.iter().any(|one| one.contains("conv.weight and 1 more parameter were")),
        "{:?}",
        diagnosis.story
    );
    let bias = stopping(&[("conv.bias", Role::Bias)]);
    assert_eq!(diagnose(&bias, &Assessment::default()).mechanism, Mechanism::None);
}
