//! I8: step counters that differ.

use std::collections::BTreeMap;

use super::moments::{parameters, state, subject, uncounted};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, ParameterOptimizer};

pub(super) static RULE: Rule = Rule {
    code: "FP708",
    name: "inconsistent-steps",
    summary: "parameters of one optimizer have taken different numbers of steps",
    page: include_str!("../../docs/rules/FP708-inconsistent-steps.md"),
    severity: Severity::Warning,
    confidence: Confidence::Exact,
    needs: Needs::NORMS.and(Needs::OPTIMIZER),
    thresholds: &[Threshold {
        name: "shortfall",
        default: 0.1,
        unit: "of the checkpoint's steps",
        source: "skipped steps of fp16 loss scaling are fewer",
    }],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(state) = state(checkpoint) else { return };
    for (index, optimizer) in (0..).zip(&state.optimizers) {
        let counted =
            || parameters(checkpoint).filter(move |(p, _, _)| p.optimizer == index && p.step.is_some());
        let step = |parameter: &ParameterOptimizer| parameter.step.unwrap_or_default();
        let Some(most) = counted().map(|(parameter, _, _)| step(parameter)).reduce(f64::max) else {
            findings.not_evaluated(Subject::Checkpoint, uncounted(optimizer));
            continue;
        };
        let behind: Vec<_> =
            counted().map(|(parameter, _, _)| parameter).filter(|parameter| step(parameter) < most).collect();
        if let Some(&first) = behind.first() {
            let message = format!(
                "{} of {} parameters, from {} on, have taken fewer steps ({}) than the others ({most})",
                behind.len(),
                counted().count(),
                first.name,
                step(first),
            );
            let advice = "if these parameters were added or unfrozen later, or had no gradient in some steps, this is as it should be; if not, their state was lost and began again";
            let finding = findings.push(subject(first), message, advice);
            finding.short_of("steps", step(first), most, "optimizer steps");
            if were_added_later(checkpoint, index) {
                finding.severity(Severity::Note);
            }
        }
        compare_with_checkpoint(checkpoint, most, thresholds.get("shortfall"), findings);
    }
}

/// Whether all parameters of a group have taken the same number of steps, and no group more than one before it: as where groups are
/// added one after the other (`add_param_group`). A group whose state was lost and began again looks the same.
fn were_added_later(checkpoint: &CheckpointAnalysis, optimizer: u64) -> bool {
    let mut groups: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
    for (parameter, _, _) in
        parameters(checkpoint).filter(|(parameter, _, _)| parameter.optimizer == optimizer)
    {
        let Some(step) = parameter.step else { continue };
        let (least, most) = groups.entry(parameter.group).or_insert((step, step));
        (*least, *most) = (least.min(step), most.max(step));
    }
    let steps: Vec<(f64, f64)> = groups.into_values().collect();
    steps.len() > 1
        && steps.iter().all(|(least, most)| least == most && *least > 0.0)
        && steps.windows(2).all(|pair| pair[1].0 <= pair[0].0)
}

fn compare_with_checkpoint(
    checkpoint: &CheckpointAnalysis,
    most: f64,
    shortfall: f64,
    findings: &mut Findings,
) {
    let Some(&total) = checkpoint.step.value() else { return };
    let total = total as f64;
    // Loops count before or after the step: one more or less is a habit.
    if most <= total + 1.0 && most + 1.0 >= (1.0 - shortfall) * total {
        return;
    }
    let message = format!("the optimizer has taken {most} steps, the checkpoint says {total}");
    let advice = "if the run counts batches, epochs or another optimizer's steps this is as it should be; if not, the files are of different saves";
    let finding = findings.push(Subject::Checkpoint, message, advice).severity(Severity::Note);
    let (label, unit) = ("steps of the optimizer", "optimizer steps");
    if most > total {
        finding.against(label, most, total, unit);
    } else {
        finding.short_of(label, most, total, unit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Measured;
    use crate::rules::test_support::{checkpoint, judge, moments};

    fn at_steps(first: f64, second: f64) -> CheckpointAnalysis {
        let mut saved =
            checkpoint(Vec::new()).with_moments(vec![moments("a.weight"), moments("b.weight")], |_, _| {});
        let mut steps = [first, second].into_iter();
        saved.edit_moments(|parameter| parameter.step = steps.next());
        saved
    }

    #[test]
    fn a_parameter_that_is_behind_is_told() {
        assert!(judge(&RULE, &at_steps(400.0, 400.0)).is_clean());
        assert_eq!(judge(&RULE, &at_steps(400.0, 7.0)).told(), [(Severity::Warning, "b.weight".to_owned())]);
    }

    #[test]
    fn groups_that_were_added_later_are_a_note_and_an_earlier_group_that_is_behind_is_a_warning() {
        let grouped = |steps: [f64; 3]| {
            let parameters = vec![moments("a.weight"), moments("b.weight"), moments("c.weight")];
            let mut saved = checkpoint(Vec::new()).with_moments(parameters, |_, _| {});
            let mut places = (0..).zip(steps);
            saved.edit_moments(|parameter| {
                let (group, step) = places.next().unwrap();
                (parameter.group, parameter.step) = (group, Some(step));
            });
            if let Measured::Value(state) = &mut saved.optimizer {
                let group = state.optimizers[0].groups[0].clone();
                state.optimizers[0].groups = vec![group; 3];
            }
            judge(&RULE, &saved).told()
        };
        let unfrozen = grouped([400.0, 200.0, 100.0]);
        assert_eq!(unfrozen, [(Severity::Note, "b.weight".to_owned())], "from the top down, or lost");
        assert_eq!(grouped([400.0, 7.0, 400.0]), [(Severity::Warning, "b.weight".to_owned())]);
        assert_eq!(
            grouped([400.0, 400.0, 0.0])[0].0,
            Severity::Warning,
            "a counter of zero was never stepped"
        );
    }

    #[test]
    fn an_optimizer_without_any_counter_is_not_evaluated() {
        let mut saved = at_steps(400.0, 400.0);
        saved.edit_moments(|parameter| parameter.step = None);
        let findings = judge(&RULE, &saved);
        assert!(findings.found.is_empty());
        assert_eq!(findings.not_evaluated.len(), 1);
        assert!(findings.not_evaluated[0].1.contains("no parameter has a step counter"));
    }

    #[test]
    fn another_step_than_the_checkpoints_is_a_note() {
        for total in [400, 401, 440] {
            assert!(judge(&RULE, &at_steps(400.0, 400.0).at_step(total)).is_clean(), "{total}");
        }
        for total in [300, 4000] {
            assert_eq!(judge(&RULE, &at_steps(400.0, 400.0).at_step(total)).told()[0].0, Severity::Note);
        }
    }
}
