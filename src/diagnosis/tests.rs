//! The procedure over hand-built analyses.

use super::{Mechanism, diagnose};
use crate::analysis::model::{
    Analysis, IntervalAnalysis, Layer, LogAnalysis, LogPoint, MeasureLevel, Measured, Number, Role, Run,
    SCHEMA_VERSION, TensorInterval,
};
use crate::rules::test_support::{interval_tensor, run_of};
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
        run: Some(Run { name: "run".to_owned(), ..Run::default() }),
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
fn a_collapse_begins_where_the_halvings_come_together() {
    let halved_at = |steps: [u64; 4]| {
        let halvings = move |step: u64| steps.iter().filter(|&&at| step >= at).count();
        let analysis = run(200, move |point| {
            point.loss_scale =
                Some(Number(65536.0 * 0.5_f64.powi(i32::try_from(halvings(point.step)).unwrap())));
        });
        let diagnosis = diagnose(&analysis, &Assessment::default());
        (diagnosis.mechanism, diagnosis.onset_step)
    };
    // The first is of a scale that had grown too far; where they are as far apart as that, it is one of them.
    assert_eq!(halved_at([60, 140, 143, 147]), (Mechanism::Fp16Overflow, Some(140)));
    assert_eq!(halved_at([60, 90, 120, 150]), (Mechanism::Fp16Overflow, Some(60)));
}

#[test]
fn a_loss_scale_that_comes_down_to_0_has_collapsed_and_tells_no_halvings_that_were_not_logged() {
    let told = |scales: &[f64]| {
        let analysis = run(200, |point| {
            let at = scales.len().min(usize::try_from(point.step).unwrap().saturating_sub(99));
            point.loss_scale = Some(Number(if at == 0 { 65536.0 } else { scales[at - 1] }));
        });
        let diagnosis = diagnose(&analysis, &Assessment::default());
        assert_eq!((diagnosis.mechanism, diagnosis.onset_step), (Mechanism::Fp16Overflow, Some(100)));
        let halvings = diagnosis.evidence.iter().find(|own| own.label == "halvings of the loss scale");
        (halvings.map(|own| own.value), diagnosis.story.iter().any(|line| line.contains("came down to 0")))
    };
    assert_eq!(told(&[0.0]), (None, true));
    assert_eq!(told(&[32768.0, 0.0]), (None, true));
    assert_eq!(told(&[32768.0, 16384.0, 8192.0, 4096.0, 0.0]), (Some(4.0), false));
}

#[test]
fn a_gradient_that_grew_out_of_the_one_before_is_no_pulse() {
    let told = |before: f64| {
        let analysis = run(200, |point| match point.step {
            149 => spike(point, before),
            150 => spike(point, 8.0),
            _ => {}
        });
        diagnose(&analysis, &Assessment::default()).mechanism
    };
    // ln 3 is 0.53 of ln 8, ln 2 a third of it.
    assert_eq!(told(3.0), Mechanism::None);
    assert_eq!(told(2.0), Mechanism::GradientSpike);
}

#[test]
fn norms_that_swing_out_with_the_loss_and_leave_it_lower_are_no_onset() {
    let told = |by: f64, end: f64| {
        let analysis = run(400, |point| {
            let away = (250.0 - point.step as f64).abs();
            if away < 9.0 {
                spike(point, by.powf(9.0 - away));
                point.loss_ratio = Some(2.0);
            }
            if point.step > 258 {
                point.loss = Some(Number(end));
            }
        });
        diagnose(&analysis, &Assessment::default()).onset_step
    };
    // The loss before is 2.01. Norms that are three times the one before came at once.
    assert_eq!(told(1.4, 1.9), None);
    assert!(told(1.4, 2.9).is_some_and(|step| step < 250));
    assert!(told(3.0, 1.9).is_some_and(|step| step < 250));
}

#[test]
fn a_batch_far_harder_than_others_that_are_far_harder_too_is_of_a_tail() {
    let told = |hard: &[u64]| {
        let analysis = run(400, |point| {
            if point.step == 300 {
                spike(point, 80.0);
            }
            if hard.contains(&point.step) {
                point.loss = Some(Number(40.0));
            }
        });
        let diagnosis = diagnose(&analysis, &Assessment::default());
        (diagnosis.mechanism, diagnosis.onset_step)
    };
    assert_eq!(told(&[90, 170, 240, 300]), (Mechanism::None, None));
    assert_eq!(told(&[170, 300]), (Mechanism::GradientSpike, Some(300)));
    assert_eq!(told(&[90, 170, 240]), (Mechanism::GradientSpike, Some(300)), "its own batch was no harder");
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
            // Over four steps: what jumps in one is told as that.
            let loss = (2.0 + 1.5 * (point.step - 150) as f64).min(8.0);
            (point.loss, point.loss_ratio) = (Some(Number(loss)), Some(loss / 2.0));
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

/// The gradient of step 133 is 40 times the usual; `loss` is what is logged from there on.
fn spiked(loss: impl Fn(u64) -> f64) -> Analysis {
    run(400, |point| {
        if point.step == 133 {
            spike(point, 40.0);
        }
        if point.step >= 133 {
            point.loss = Some(Number(loss(point.step)));
        }
    })
}

#[test]
fn a_run_that_came_back_from_a_spike_is_not_told_to_start_again() {
    let advice = |loss: &dyn Fn(u64) -> f64| {
        let diagnosis = diagnose(&spiked(loss), &Assessment::default());
        assert_eq!(diagnosis.mechanism, Mechanism::GradientSpike);
        diagnosis.actions[0].what.clone()
    };
    // The loss of `run` is 2.14 at step 133.
    let healed = advice(&|step| if step < 150 { 3.0 } else { 2.0 });
    assert!(
        healed.starts_with("nothing has to be gone back to") && healed.ends_with("to 2 at the end"),
        "{healed}"
    );
    assert!(advice(&|_| 2.5).starts_with("start again"));
    assert!(advice(&|step| if step == 300 { f64::NAN } else { 2.0 }).starts_with("start again"));
}

/// A warning about a parameter of the checkpoint of a step.
fn warning(rule: &str, step: u64) -> Finding {
    Finding {
        rule: rule.to_owned(),
        name: String::new(),
        severity: Severity::Warning,
        confidence: Confidence::Heuristic,
        checkpoint: format!("step-{step}"),
        step: Some(step),
        subject: Subject::Tensor("fc.weight".to_owned()),
        message: String::new(),
        evidence: Vec::new(),
        advice: String::new(),
    }
}

#[test]
fn a_run_that_came_back_with_a_spike_in_its_moments_is_told_to_reset_them_and_not_that_nothing_is_to_do() {
    let advice = |poisoned: u64| {
        let mut analysis = spiked(|step| if step < 150 { 3.0 } else { 2.0 });
        analysis.checkpoints = run_of(4, || vec![interval_tensor("fc.weight")]).checkpoints;
        let assessment = Assessment { findings: vec![warning("FP312", poisoned)], ..Assessment::default() };
        let diagnosis = diagnose(&analysis, &assessment);
        assert_eq!(diagnosis.mechanism, Mechanism::GradientSpike);
        diagnosis.actions.into_iter().map(|action| action.what).collect::<Vec<_>>()
    };
    let newest = advice(400);
    assert!(
        newest[0].starts_with("go on from the newest checkpoint, but not with its moments"),
        "{newest:?}"
    );
    assert!(newest[1].starts_with("reset m, v and step of the 1 parameter of FP312 together"), "{newest:?}");
    assert!(!newest.iter().any(|what| what.contains("nothing has to be gone back to")), "{newest:?}");
    // The newest one is free of it again.
    assert!(advice(200)[0].starts_with("nothing has to be gone back to"));
}

/// What is said of the checkpoint to go back to, of a run that is lost at step 1150 and has one every 100 steps.
fn last_healthy(beta2: f64) -> String {
    let mut analysis = run_of(12, || vec![interval_tensor("fc.weight")]);
    for checkpoint in &mut analysis.checkpoints {
        if let Measured::Value(state) = &mut checkpoint.optimizer {
            state.optimizers[0].groups[0].beta2 = Some(beta2);
        }
    }
    let lost = run(1200, |point| {
        if point.step >= 1150 {
            point.loss = Some(Number(f64::NAN));
        }
    });
    analysis.log = lost.log;
    let story = diagnose(&analysis, &Assessment::default()).story;
    story.into_iter().find(|line| line.contains("newest checkpoint")).expect("it is told")
}

#[test]
fn what_is_said_of_the_last_healthy_checkpoint_says_why_it_is_so_far_before() {
    let told = last_healthy(0.95);
    assert!(
        told.ends_with(
            "step-1000, 150 steps earlier: 100 are asked for, since a failure begins before it shows"
        ),
        "{told}"
    );
    // 1/(1 − 0.999) steps.
    let told = last_healthy(0.999);
    assert!(
        told.ends_with(
            "step-100, 1,050 steps earlier: 1,000 are asked for, since the second moments remember as many"
        ),
        "{told}"
    );
}

#[test]
fn a_threshold_in_use_that_is_tighter_is_not_loosened() {
    let advice = |used: Option<f64>| {
        let mut analysis = spiked(|_| 2.5);
        analysis.log.as_mut().unwrap().semantics.clip_threshold = used;
        let actions = diagnose(&analysis, &Assessment::default()).actions;
        actions[1].what.clone()
    };
    // All norms before are 1, so that the threshold is 1.05.
    assert!(advice(None).starts_with("clip the gradient norm at 1.050"), "{}", advice(None));
    assert!(advice(Some(5.0)).starts_with("clip the gradient norm at 1.050"));
    assert!(
        advice(Some(0.5)).starts_with("go on clipping the gradient norm at 0.5000"),
        "{}",
        advice(Some(0.5))
    );
}

/// Two batches twelve steps apart, each with an aftermath: no pulse stands alone, and the loss of both comes back at a rate that
/// never changed.
#[test]
fn a_rate_at_which_the_run_came_back_is_not_what_is_told() {
    let batches = |end: f64| {
        run(400, move |point| {
            let after = [251, 263].into_iter().filter_map(|step| point.step.checked_sub(step)).min();
            if let Some(after) = after.filter(|after| *after < 8) {
                spike(point, (20.0 * 0.75f64.powi(after as i32)).max(3.0));
                point.loss_ratio = Some(2.0);
                point.loss = Some(Number(4.0));
            } else if point.step > 251 {
                point.loss = Some(Number(end));
            }
        })
    };
    let came_back = diagnose(&batches(2.0), &Assessment::default());
    assert_eq!((came_back.mechanism, came_back.onset_step), (Mechanism::GradientSpike, Some(251)));
    let stayed = diagnose(&batches(3.5), &Assessment::default());
    assert_eq!((stayed.mechanism, stayed.onset_step), (Mechanism::LearningRate, Some(251)));
}

/// The optimizer's counter in checkpoints of steps 0, 100, 200 and 300, `None` where no optimizer was saved.
fn counted(counters: [Option<f64>; 4]) -> (Mechanism, Option<[u64; 2]>) {
    let mut analysis = run_of(3, || vec![interval_tensor("fc.weight")]);
    for (checkpoint, counter) in analysis.checkpoints.iter_mut().zip(counters) {
        match (counter, &mut checkpoint.optimizer) {
            (Some(_), Measured::Value(state)) => state.parameters[0].step = counter,
            _ => checkpoint.optimizer = Measured::not("no optimizer was saved"),
        }
    }
    let diagnosis = diagnose(&analysis, &Assessment::default());
    (diagnosis.mechanism, diagnosis.onset_interval)
}

#[test]
fn an_optimizer_that_was_lost_at_a_checkpoint_without_one_is_missed_behind_it() {
    assert_eq!(counted([Some(0.0), Some(100.0), None, Some(300.0)]), (Mechanism::None, None));
    assert_eq!(counted([Some(0.0), Some(100.0), None, Some(50.0)]), (Mechanism::StateLost, Some([100, 300])));
    assert_eq!(
        counted([Some(0.0), Some(100.0), Some(200.0), Some(100.0)]),
        (Mechanism::StateLost, Some([200, 300]))
    );
}

#[test]
fn a_state_that_most_parameters_lost_may_have_been_reset_on_purpose_and_that_of_one_was_not() {
    let against = |losing: usize| {
        let names = ["a.weight", "b.weight", "c.weight"];
        let mut analysis = run_of(2, || names.map(interval_tensor).to_vec());
        if let Measured::Value(state) = &mut analysis.checkpoints[2].optimizer {
            for parameter in state.parameters.iter_mut().take(losing) {
                parameter.step = Some(100.0);
            }
        }
        let diagnosis = diagnose(&analysis, &Assessment::default());
        assert_eq!(diagnosis.mechanism, Mechanism::StateLost);
        diagnosis.against.iter().any(|line| line.contains("as fine-tuning does, looks the same"))
    };
    assert!(against(3) && !against(1));
}

/// Second moments in f16: the checkpoint of step 100 is not finite, and the first gradient that is not is that of `lost`.
fn f16_moments(lost: u64) -> Mechanism {
    let mut analysis = run_of(1, || vec![interval_tensor("fc.weight")]);
    if let Measured::Value(state) = &mut analysis.checkpoints[1].optimizer
        && let Measured::Value(defects) = &mut state.parameters[0].defects
    {
        defects.non_finite_first = 1;
    }
    analysis.log = run(150, |point| {
        if point.step >= lost {
            (point.loss, point.grad_norm) = (Some(Number(f64::NAN)), Some(Number(f64::NAN)));
        }
    })
    .log;
    let found = Finding {
        rule: "FP107".to_owned(),
        name: "low-precision-moments".to_owned(),
        severity: Severity::Critical,
        confidence: Confidence::Exact,
        checkpoint: "step-0".to_owned(),
        step: Some(0),
        subject: Subject::Checkpoint,
        message: "1 second moment is f16".to_owned(),
        evidence: Vec::new(),
        advice: String::new(),
    };
    diagnose(&analysis, &Assessment { findings: vec![found], ..Assessment::default() }).mechanism
}

#[test]
fn weights_that_a_step_from_finite_gradients_broke_are_the_state_s_fault() {
    assert_eq!(f16_moments(101), Mechanism::LowPrecisionState);
    assert_eq!(f16_moments(100), Mechanism::NonFinite);
}
