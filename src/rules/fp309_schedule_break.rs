//! C9: optimizer and scheduler disagree on the learning rate.

use super::moments::state;
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Measured};

pub(super) static RULE: Rule = Rule {
    code: "FP309",
    name: "schedule-break",
    summary: "the optimizer's learning rate is not the one its scheduler set",
    page: include_str!("../../docs/rules/FP309-schedule-break.md"),
    severity: Severity::Warning,
    confidence: Confidence::Exact,
    needs: Needs::NORMS.and(Needs::OPTIMIZER),
    thresholds: &[Threshold {
        name: "difference",
        default: 1e-06,
        unit: "relative",
        source: "the scheduler writes the same double into both",
    }],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let limit = thresholds.get("difference");
    for optimizer in state(checkpoint).into_iter().flat_map(|state| &state.optimizers) {
        let scheduled = match &optimizer.scheduled {
            Measured::Value(scheduled) => scheduled,
            Measured::NotMeasured(reason) => {
                findings.not_evaluated(Subject::Checkpoint, reason.clone());
                continue;
            }
            Measured::Degenerate(_) => continue,
        };
        if optimizer.groups.len() != scheduled.len() {
            let (rates, groups) = (scheduled.len(), optimizer.groups.len());
            let reason = format!("{}: its scheduler has {rates} rates for {groups} groups", optimizer.place);
            findings.not_evaluated(Subject::Checkpoint, reason);
        }
        for (index, (group, &scheduled)) in optimizer.groups.iter().zip(scheduled).enumerate() {
            let Some(rate) = group.learning_rate else {
                let reason = format!("{}: group {index} has no learning rate", optimizer.place);
                findings.not_evaluated(Subject::Checkpoint, reason);
                continue;
            };
            let difference =
                (rate - scheduled).abs() / rate.abs().max(scheduled.abs()).max(f64::MIN_POSITIVE);
            if difference > limit {
                let message = format!(
                    "group {index} of {} has learning rate {rate:e}, its scheduler set {scheduled:e}",
                    optimizer.place
                );
                findings
                    .push(
                        Subject::Checkpoint,
                        message,
                        "find which of both a resume will use, and set the other to it",
                    )
                    .against("relative difference", difference, limit, "");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{checkpoint, judge, moments};

    fn scheduled(rate: f64) -> CheckpointAnalysis {
        let mut saved = checkpoint(Vec::new())
            .with_moments(vec![moments("a.weight")], |group, _| group.learning_rate = Some(1e-3));
        if let Measured::Value(state) = &mut saved.optimizer {
            state.optimizers[0].scheduled = Measured::Value(vec![rate]);
        }
        saved
    }

    #[test]
    fn rates_that_differ_are_told() {
        assert!(judge(&RULE, &scheduled(1e-3)).is_clean());
        assert_eq!(judge(&RULE, &scheduled(1e-4)).told(), [(Severity::Warning, "checkpoint".to_owned())]);
    }

    #[test]
    fn groups_without_a_rate_on_either_side_are_not_evaluated() {
        let mut saved = scheduled(1e-3);
        if let Measured::Value(state) = &mut saved.optimizer {
            state.optimizers[0].scheduled = Measured::Value(vec![1e-3, 1e-3]);
        }
        assert_eq!(judge(&RULE, &saved).not_evaluated.len(), 1);
        let mut rateless = scheduled(1e-3);
        if let Measured::Value(state) = &mut rateless.optimizer {
            state.optimizers[0].groups[0].learning_rate = None;
        }
        assert_eq!(judge(&RULE, &rateless).not_evaluated.len(), 1);
    }
}
