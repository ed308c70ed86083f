//! C8: a step counter that was lost or reset while the moments were kept.

use super::moments::{note_unmeasured, parameters, state, subject, uncounted};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{
    CheckpointAnalysis, FirstStep, Measured, OptimizerSummary, ParameterGroup, ParameterOptimizer,
};

pub(super) static RULE: Rule = Rule {
    code: "FP308",
    name: "lost-optimizer-step",
    summary: "the optimizer's step counter is not that of its moments",
    page: include_str!("../../docs/rules/FP308-lost-optimizer-step.md"),
    severity: Severity::Critical,
    confidence: Confidence::Exact,
    needs: Needs::NORMS.and(Needs::OPTIMIZER),
    thresholds: &[
        Threshold {
            name: "window-share",
            default: 0.1,
            unit: "of 1/(1-beta2) steps",
            source: "bias correction is off by tenfold there, where the counter is wrong",
        },
        Threshold {
            name: "signal-share",
            default: 0.1,
            unit: "of the noise floor",
            source: "settled moments corrected as young give 1/100; gradients that alternate in sign 1/20",
        },
    ],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    note_unmeasured(checkpoint, |parameter| &parameter.first_step, findings);
    let mut told = Vec::new();
    for (parameter, _, group) in parameters(checkpoint) {
        let Some(&verdict) = parameter.first_step.value() else { continue };
        let place = (parameter.optimizer, verdict);
        if verdict == FirstStep::Consistent || told.contains(&place) {
            continue;
        }
        told.push(place);
        let same = parameters(checkpoint).filter(|(other, _, _)| {
            (other.optimizer, other.first_step.value()) == (parameter.optimizer, Some(&verdict))
        });
        report(parameter, same.count(), verdict, group, findings);
    }
    for (index, optimizer) in
        state(checkpoint).into_iter().flat_map(|state| state.optimizers.iter().enumerate())
    {
        emptied(checkpoint, index as u64, optimizer, findings);
        restarted(checkpoint, index as u64, optimizer, thresholds, findings);
    }
}

fn report(
    parameter: &ParameterOptimizer,
    count: usize,
    verdict: FirstStep,
    group: &ParameterGroup,
    findings: &mut Findings,
) {
    let what = match verdict {
        FirstStep::Missing => "have moments and no step counter",
        FirstStep::Zero => "have moments and a step counter of 0",
        FirstStep::NotTheFirst | FirstStep::Consistent => {
            "have a step counter of 1 and moments of more than one step"
        }
    };
    let message = format!("{count} parameters, from {} on, {what}", parameter.name);
    let finding = findings.push(subject(parameter), message, ADVICE);
    finding.evidence("parameters", count as f64, "");
    if let (Some(beta1), Some(beta2)) = (group.beta1, group.beta2) {
        finding.evidence(
            "first update after a reset of the counter",
            (1.0 - beta2).sqrt() / (1.0 - beta1),
            "times what it should be",
        );
    }
}

const ADVICE: &str = "restore the counter from the step of the checkpoint, or reset moments and counter together; never the counter alone";

/// Moments that are zero in every element of every parameter under a counter of more than one step. Of one step, PyTorch's distributed
/// checkpoints begin the state with gradients of zero.
fn emptied(
    checkpoint: &CheckpointAnalysis,
    index: u64,
    optimizer: &OptimizerSummary,
    findings: &mut Findings,
) {
    let all = || parameters(checkpoint).filter(|(parameter, _, _)| parameter.elements > 0);
    let own = || all().filter(move |(parameter, _, _)| parameter.optimizer == index);
    let stepped = |step: Option<f64>| step.is_some_and(|step| step > 1.0);
    if !optimizer.algorithm.is_adam()
        || own().next().is_none()
        || !own().all(|(parameter, _, _)| stepped(parameter.step))
    {
        return;
    }
    let no_second = |parameter: &ParameterOptimizer| parameter.second_moment_sum.value() == Some(&0.0);
    let no_first = |parameter: &ParameterOptimizer| parameter.signal_fraction.value() == Some(&0.0);
    let (which, severity) = if own().all(|(parameter, _, _)| no_second(parameter)) {
        let everywhere = all().all(|(parameter, _, _)| no_second(parameter));
        ("moments", if everywhere { Severity::Critical } else { Severity::Warning })
    } else if own().all(|(parameter, _, _)| no_first(parameter)) {
        ("first moments", Severity::Warning)
    } else {
        return;
    };
    let steps = own().filter_map(|(parameter, _, _)| parameter.step).fold(0.0, f64::max);
    let message = format!("{}: all {which} are zero after {steps} steps", optimizer.place);
    let advice = "if no parameter ever had a gradient, look for what cut them off; if not, the moments were lost: take an earlier save, or reset the counter with them and warm the learning rate up again";
    let finding = findings.push(Subject::Checkpoint, message, advice).severity(severity);
    finding.against("steps over moments of zero", steps, 1.0, "optimizer steps");
}

/// A counter that is young, in a checkpoint that is not, over moments that are not young either.
fn restarted(
    checkpoint: &CheckpointAnalysis,
    index: u64,
    optimizer: &OptimizerSummary,
    thresholds: &Thresholds,
    findings: &mut Findings,
) {
    let own = || parameters(checkpoint).filter(move |(parameter, _, _)| parameter.optimizer == index);
    let Some(step) = own().filter_map(|(parameter, _, _)| parameter.step).reduce(f64::max) else {
        return findings.not_evaluated(Subject::Checkpoint, uncounted(optimizer));
    };
    // What is no Adam is noted already, parameter by parameter; a counter that is not young was not reset.
    let Some(beta2) = own().find_map(|(_, _, group)| group.beta2) else { return };
    let is_young = step < thresholds.get("window-share") / (1.0 - beta2);
    if !optimizer.algorithm.is_adam() || step < 1.0 || !is_young {
        return;
    }
    let unknown =
        |what: &str| format!("{}: whether its young counter was reset is not known: {what}", optimizer.place);
    let total = match &checkpoint.step {
        Measured::Value(total) => *total,
        Measured::NotMeasured(reason) => {
            return findings.not_evaluated(Subject::Checkpoint, unknown(reason));
        }
        Measured::Degenerate(_) => return,
    };
    if step >= 0.5 * total as f64 {
        return;
    }
    let floor = own().find_map(|(parameter, _, _)| parameter.noise_floor.value());
    let (Some(&signal), Some(&floor)) = (optimizer.signal_fraction.value(), floor) else {
        let reason = unknown("the signal in its moments was not measured");
        return findings.not_evaluated(Subject::Checkpoint, reason);
    };
    if signal >= thresholds.get("signal-share") * floor {
        return;
    }
    let message = format!(
        "the optimizer counts {step} steps of the checkpoint's {total}, and its moments are older than that: the counter was reset without them"
    );
    findings
        .push(Subject::Checkpoint, message, ADVICE)
        .short_of("signal fraction", signal, thresholds.get("signal-share") * floor, "")
        .evidence("steps of the checkpoint", total as f64, "optimizer steps");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Algorithm;
    use crate::rules::test_support::{checkpoint, judge, moments};

    fn with_verdict(verdict: FirstStep) -> CheckpointAnalysis {
        checkpoint(Vec::new()).with_moments(vec![moments("a.weight"), moments("b.weight")], |_, parameter| {
            parameter.first_step = Measured::Value(verdict);
        })
    }

    #[test]
    fn moments_without_their_counter_are_told_once() {
        assert!(judge(&RULE, &with_verdict(FirstStep::Consistent)).is_clean());
        for verdict in [FirstStep::Missing, FirstStep::Zero, FirstStep::NotTheFirst] {
            let told = judge(&RULE, &with_verdict(verdict)).told();
            assert_eq!(told, [(Severity::Critical, "a.weight".to_owned())]);
        }
    }

    #[test]
    fn moments_that_are_all_zero_after_many_steps_are_told_and_those_of_a_first_step_are_not() {
        let emptied = |step: f64, second: [f64; 2], first: f64| {
            let mut second = second.into_iter();
            let mut saved = checkpoint(Vec::new()).with_moments(
                vec![moments("a.weight"), moments("b.weight")],
                |_, parameter| {
                    parameter.step = Some(step);
                    parameter.second_moment_sum = Measured::Value(second.next().unwrap_or_default());
                    parameter.signal_fraction = Measured::Value(first);
                },
            );
            saved.edit_moments(|parameter| parameter.first_step = Measured::Value(FirstStep::Consistent));
            judge(&RULE, &saved).told()
        };
        let told = |severity| vec![(severity, "checkpoint".to_owned())];
        assert_eq!(emptied(30.0, [0.0, 0.0], 0.0), told(Severity::Critical));
        assert_eq!(emptied(30.0, [1.0, 1.0], 0.0), told(Severity::Warning), "the first moments alone");
        assert!(emptied(1.0, [0.0, 0.0], 0.0).is_empty(), "as PyTorch begins a distributed state");
        assert!(emptied(30.0, [0.0, 1.0], 0.5).is_empty(), "a frozen parameter");
    }

    fn counting(step: f64, total: u64, signal: f64) -> CheckpointAnalysis {
        let mut saved = checkpoint(Vec::new())
            .with_moments(vec![moments("a.weight")], |_, parameter| {
                parameter.step = Some(step);
                parameter.noise_floor = Measured::Value(0.2);
            })
            .at_step(total);
        if let Measured::Value(state) = &mut saved.optimizer {
            state.optimizers[0].signal_fraction = Measured::Value(signal);
        }
        saved
    }

    #[test]
    fn a_young_counter_over_old_moments_is_told_and_over_young_ones_is_not() {
        assert_eq!(
            judge(&RULE, &counting(10.0, 4000, 0.002)).told(),
            [(Severity::Critical, "checkpoint".to_owned())]
        );
        assert!(judge(&RULE, &counting(10.0, 4000, 0.2)).is_clean(), "a restart without optimizer state");
        assert!(judge(&RULE, &counting(10.0, 12, 0.002)).is_clean());
        assert!(judge(&RULE, &counting(2000.0, 9000, 0.002)).is_clean());
    }

    #[test]
    fn what_could_not_be_judged_is_said_once_an_optimizer() {
        let mut unmeasured = with_verdict(FirstStep::Consistent);
        unmeasured.edit_moments(|parameter| parameter.first_step = Measured::not("not Adam"));
        let findings = judge(&RULE, &unmeasured);
        assert!(findings.found.is_empty());
        let reasons = findings.not_evaluated.iter().map(|(_, reason)| reason.as_str()).collect::<Vec<_>>();
        assert_eq!(reasons, ["optimizer.pt: 2 parameters, from a.weight on: not Adam"]);
    }

    #[test]
    fn a_young_counter_in_a_checkpoint_without_a_step_or_a_signal_is_not_evaluated() {
        let mut stepless = counting(10.0, 4000, 0.002);
        stepless.step = Measured::not("the checkpoint does not say");
        let reason = judge(&RULE, &stepless).not_evaluated[0].1.clone();
        assert!(reason.ends_with("is not known: the checkpoint does not say"), "{reason}");
        let mut silent = counting(10.0, 4000, 0.002);
        if let Measured::Value(state) = &mut silent.optimizer {
            state.optimizers[0].signal_fraction = Measured::not("no moments");
        }
        assert_eq!(judge(&RULE, &silent).not_evaluated.len(), 1);
        let mut uncounted = counting(10.0, 4000, 0.002);
        uncounted.edit_moments(|parameter| parameter.step = None);
        assert_eq!(judge(&RULE, &uncounted).not_evaluated.len(), 1);
        let mut old = counting(2000.0, 9000, 0.002);
        old.step = Measured::not("the checkpoint does not say");
        assert!(judge(&RULE, &old).is_clean(), "a counter that is not young was not reset");
        let mut other = counting(10.0, 4000, 0.002);
        if let Measured::Value(state) = &mut other.optimizer {
            state.optimizers[0].algorithm = Algorithm::Adafactor;
        }
        assert!(judge(&RULE, &other).is_clean(), "its parameters are noted by what was measured of them");
    }
}
