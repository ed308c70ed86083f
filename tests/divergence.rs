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
