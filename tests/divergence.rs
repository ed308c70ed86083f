//! FP503 on logs as they are measured: losses of single examples, explosions in the first steps, losses below zero.

use flashpoint::analysis::log::measure_log;
use flashpoint::analysis::model::{MeasureLevel, Run};
use flashpoint::analysis::of_checkpoints;
use flashpoint::history::{Log, Record};
use flashpoint::random::Stream;
use flashpoint::rules::{Assessment, Finding, Overrides, Severity, evaluate};

/// What is said of a run whose log has these losses.
fn assessed(losses: impl IntoIterator<Item = f64>) -> Assessment {
    let record = |(index, loss)| Record { step: index as u64 + 1, loss: Some(loss), ..Record::default() };
    let records = losses.into_iter().enumerate().map(record).collect();
    let mut run = of_checkpoints(Vec::new(), MeasureLevel::Norms);
    run.run = Some(Run { name: "run".to_owned(), ..Run::default() });
    run.log = Some(measure_log(&Log { records, ..Log::default() }));
    evaluate(&run, &Overrides::default())
}

/// The findings of FP503.
fn of_divergence(assessment: &Assessment) -> Vec<&Finding> {
    assessment.findings.iter().filter(|finding| finding.rule == "FP503").collect()
}

/// Why FP503 was not evaluated.
fn reasons(assessment: &Assessment) -> Vec<&str> {
    let own = assessment.not_evaluated.iter().filter(|entry| entry.rule.as_deref() == Some("FP503"));
    own.map(|entry| entry.reason.as_str()).collect()
}

#[test]
fn squared_errors_of_single_examples_that_stay_as_they_are_do_not_diverge() {
    let is_accused = |seed: u64, batch: usize| {
        let errors = Stream::new(seed, 503).normals(300 * batch);
        let losses = errors.chunks(batch).map(|own| own.iter().map(|error| error * error).sum::<f64>());
        let assessment = assessed(losses);
        assert!(reasons(&assessment).is_empty(), "it was evaluated");
        !of_divergence(&assessment).is_empty()
    };
    for batch in [1, 2, 4] {
        let accused: Vec<u64> = (0..100).filter(|&seed| is_accused(seed, batch)).collect();
        assert!(accused.is_empty(), "batches of {batch}: {accused:?} of 100 runs");
    }
}

#[test]
fn a_loss_that_explodes_in_its_first_steps_is_told_with_what_noise_it_has_after() {
    let noise = Stream::new(1, 503).normals(60);
    let told_at = |exploding: &[f64], deviation: f64, length: usize| {
        let after = noise.iter().map(|error| 600.0 * (deviation * error).exp());
        let assessment = assessed(exploding.iter().copied().chain(after).take(length));
        let told = of_divergence(&assessment);
        assert_eq!(told.len(), 1, "{exploding:?}, deviation {deviation}, {length} losses");
        assert_eq!(told[0].severity, Severity::Critical);
        told[0].step.expect("it has a step")
    };
    for deviation in [0.0, 0.1, 0.3] {
        let step = told_at(&[2.3, 2.2, 2.4, 2.2, 9.0, 40.0, 150.0, 400.0], deviation, 68);
        assert!((6..=9).contains(&step), "{step}");
        // Before there is any level, in logs that are too short for a collapse, and longer.
        for length in [8, 20, 30, 44, 62] {
            let step = told_at(&[2.3, 2.2], deviation, length);
            assert!((3..=6).contains(&step), "{step}");
        }
    }
}

#[test]
fn a_loss_that_goes_below_zero_is_not_evaluated_and_the_reason_names_the_step() {
    let below = assessed((0..100).map(|at| 1.0 - 0.03 * f64::from(at)));
    assert!(of_divergence(&below).is_empty());
    let [reason] = reasons(&below)[..] else { panic!("{:?}", below.not_evaluated) };
    // 1 − 0.03·34 is the first below zero, at the 35th step.
    assert!(reason.contains("below zero at step 35"), "{reason}");
    let exact = assessed((0..100).map(|at| if at < 50 { 1.0 - 0.02 * f64::from(at) } else { 0.0 }));
    assert!(
        of_divergence(&exact).is_empty() && reasons(&exact).is_empty(),
        "nothing is wrong with a loss of 0"
    );
}

/// Copies of a target network: every 100 steps the loss jumps to two to four times and decays again, over a level that drifts by `drift` a copy, in ln;
/// from `lost` on it stays at thirty times the level.
fn copied(seed: u64, drift: f64, noise: f64, lost: Option<usize>) -> Vec<f64> {
    let errors = Stream::new(seed, 504).normals(1200);
    let jumps = Stream::new(seed, 505).uniforms(12);
    let mut above = 0.0;
    let loss = |(step, error): (usize, &f64)| {
        if step % 100 == 0 && step > 0 {
            above += (2.0 + 2.0 * jumps[step / 100]).ln();
        }
        above *= (-1.0_f64 / 25.0).exp();
        let above = if lost.is_some_and(|lost| step >= lost) { 30_f64.ln() } else { above };
        (drift * (step / 100) as f64 + above + noise * error).exp()
    };
    errors.iter().enumerate().map(loss).collect()
}

#[test]
fn a_loss_that_jumps_with_every_copy_of_its_target_and_decays_again_does_not_diverge() {
    let mut accused = Vec::new();
    for seed in 0..20 {
        for drift in [-0.02, 0.0, 0.02] {
            for noise in [0.05, 0.2] {
                let told = !of_divergence(&assessed(copied(seed, drift, noise, None))).is_empty();
                accused.extend(told.then_some((seed, drift, noise)));
            }
        }
    }
    assert!(accused.is_empty(), "{accused:?} of 120 runs");
}

#[test]
fn a_loss_that_leaves_what_its_copies_did_for_good_diverges() {
    for seed in 0..20 {
        let assessment = assessed(copied(seed, 0.02, 0.05, Some(950)));
        let told = of_divergence(&assessment);
        assert_eq!(told.len(), 1, "seed {seed}");
        let step = told[0].step.expect("it has a step");
        assert!((950..=960).contains(&step), "seed {seed}: step {step}");
    }
}

#[test]
fn a_slow_divergence_is_told_however_its_loss_swings_on_the_way() {
    // From step 300 on the loss doubles every 150 steps, and swings by some tenths, by noise and in waves of 50 steps.
    for seed in 0..20 {
        let errors = Stream::new(seed, 506).normals(900);
        let loss = |(step, error): (usize, &f64)| {
            let slow = (step.saturating_sub(300)) as f64 / 150.0 * 2_f64.ln();
            let wave = 0.15 * (step as f64 / 50.0 * std::f64::consts::TAU).sin();
            (slow + wave + 0.1 * error).exp()
        };
        let assessment = assessed(errors.iter().enumerate().map(loss));
        let [told] = of_divergence(&assessment)[..] else { panic!("seed {seed}") };
        assert!(told.step.is_some_and(|step| (300..=600).contains(&step)), "seed {seed}: {:?}", told.step);
    }
}
