//! I7: a spike that is still to be seen in the moments.

use super::moments::{note_unmeasured, state};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Measured};

pub(super) static RULE: Rule = Rule {
    code: "FP707",
    name: "recent-spike",
    summary: "one gradient of the recent past outweighs all others",
    page: include_str!("../../docs/rules/FP707-recent-spike.md"),
    severity: Severity::Note,
    confidence: Confidence::Calibrated,
    needs: Needs::NORMS.and(Needs::OPTIMIZER),
    thresholds: &[],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, _: &Thresholds, findings: &mut Findings) {
    let Some(state) = state(checkpoint) else { return };
    note_unmeasured(checkpoint, |parameter| &parameter.spike, findings);
    let spike = match &state.spike {
        Measured::Value(spike) => spike,
        Measured::NotMeasured(reason)
            if state.parameters.iter().any(|parameter| parameter.spike.value().is_some()) =>
        {
            return findings.not_evaluated(Subject::Checkpoint, reason.clone());
        }
        // No parameter is dominated by one gradient, or none could be asked: the latter was noted.
        _ => return,
    };
    let message = format!(
        "a gradient about {:.0} steps ago outweighs all others in {} parameters, most of all in {}",
        spike.age, spike.parameters, spike.name,
    );
    let advice = "look at the batch and the logged gradient norm of that step; if the loss has risen since, roll back to before it";
    findings
        .push(Subject::Tensor(spike.name.clone()), message, advice)
        .evidence("age", spike.age, "optimizer steps")
        .evidence("inflation of sqrt(v)", spike.inflation, "times");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Spike;
    use crate::rules::test_support::{checkpoint, judge, moments};

    #[test]
    fn a_dated_spike_is_a_note_and_none_is_silence() {
        let mut saved = checkpoint(Vec::new()).with_moments(vec![moments("a.weight")], |_, _| {});
        assert!(judge(&RULE, &saved).is_clean());
        if let Measured::Value(state) = &mut saved.optimizer {
            let name = "a.weight".to_owned();
            state.spike = Measured::Value(Spike { age: 12.2, name, parameters: 3, inflation: 3.3 });
        }
        let findings = judge(&RULE, &saved);
        assert_eq!(findings.told(), [(Severity::Note, "a.weight".to_owned())]);
        assert!(findings.found[0].message.contains("about 12 steps ago"));
    }

    #[test]
    fn parameters_that_could_not_be_asked_are_told() {
        let saved = checkpoint(Vec::new()).with_moments(vec![moments("a.weight")], |_, parameter| {
            parameter.spike = Measured::not("its rows date their last visit");
        });
        let findings = judge(&RULE, &saved);
        assert!(findings.found.is_empty());
        assert!(findings.not_evaluated[0].1.ends_with("a.weight: its rows date their last visit"));
    }
}
