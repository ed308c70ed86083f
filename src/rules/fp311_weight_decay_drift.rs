//! C11: weights that grow or shrink exponentially, interval after interval.

use super::intervals::{never_measured, subject};
use super::moments::parameters;
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Threshold, Thresholds};
use crate::analysis::model::{Analysis, Role, TensorInterval};

pub(super) static RULE: Rule = Rule {
    code: "FP311",
    name: "weight-decay-drift",
    summary: "an embedding or gain shrinks steadily under weight decay",
    page: include_str!("../../docs/rules/FP311-weight-decay-drift.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::NORMS.and(Needs::INTERVALS),
    thresholds: &[
        Threshold {
            name: "total",
            default: 0.5,
            unit: "of the norm at first",
            source: "a halved embedding doubles the Jacobian of the norm behind it; OLMo 2 decays no embedding",
        },
        Threshold {
            name: "fewest-intervals",
            default: 3.0,
            unit: "intervals, shrinking in each",
            source: "a cosine tail or one restart is no drift",
        },
    ],
    check: Check::Run(check),
};

fn check(analysis: &Analysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(last) = analysis.intervals.last() else { return };
    for tensor in last.tensors.iter().filter(|tensor| is_judged(tensor)) {
        let mut logarithm = 0.0;
        let mut intervals = 0;
        // From the end back, as long as it shrank.
        for interval in analysis.intervals.iter().rev() {
            let same = interval.tensors.iter().find(|other| other.canonical_name == tensor.canonical_name);
            let Some(&rate) = same.and_then(|same| same.growth_rate.value()).filter(|rate| **rate < 0.0)
            else {
                break;
            };
            let steps = same.and_then(|same| same.steps.value().copied()).filter(|steps| *steps > 0.0);
            logarithm += rate * steps.unwrap_or((interval.to_step - interval.from_step) as f64);
            intervals += 1;
        }
        let left = logarithm.exp();
        if f64::from(intervals) < thresholds.get("fewest-intervals") || left >= thresholds.get("total") {
            continue;
        }
        if never_decays(analysis, &tensor.canonical_name) {
            let reason = format!(
                "it shrank to {:.0} % of its norm under a weight decay of 0: its gradients made it smaller",
                100.0 * left
            );
            findings.not_evaluated(subject(tensor), reason);
            continue;
        }
        let message = format!(
            "{} shrank in each of the last {intervals} intervals, to {:.0} % of its norm",
            tensor.name,
            100.0 * left,
        );
        findings
            .push(subject(tensor), message, ADVICE)
            .short_of("norm over what it was", left, thresholds.get("total"), "")
            .evidence("growth per step", tensor.growth_rate.value().copied().unwrap_or(0.0), "per step");
    }
    never_measured(analysis, |tensor| &tensor.growth_rate, findings);
}

fn is_judged(tensor: &TensorInterval) -> bool {
    matches!(tensor.role, Role::TokenEmbedding | Role::PositionEmbedding | Role::NormGain)
}

/// Whether every checkpoint that says how this parameter is decayed says that it is not, as SGD's default does.
fn never_decays(analysis: &Analysis, name: &str) -> bool {
    let entries = analysis.checkpoints.iter().flat_map(parameters);
    let own = entries.filter(|(parameter, _, _)| {
        parameter.tensor.as_ref().is_some_and(|tensor| tensor.canonical_name == name)
    });
    let mut decays = own.filter_map(|(_, _, group)| group.weight_decay).peekable();
    decays.peek().is_some() && decays.all(|decay| decay == 0.0)
}

const ADVICE: &str = "exempt embeddings and norm gains from weight decay";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Measured;
    use crate::rules::test_support::{interval_tensor, judge_run, run_of};

    /// Says of every checkpoint that its parameters are decayed by `decay`.
    fn under(mut run: Analysis, decay: Option<f64>) -> Analysis {
        for checkpoint in &mut run.checkpoints {
            let Measured::Value(state) = &mut checkpoint.optimizer else { panic!("it has one") };
            state.optimizers[0].groups[0].weight_decay = decay;
        }
        run
    }

    /// Four intervals in which an embedding loses 55 % of its norm.
    fn shrinking_under(decay: Option<f64>) -> Analysis {
        let mut run = run_of(4, || vec![interval_tensor("emb.weight")]);
        for interval in &mut run.intervals {
            interval.tensors[0].role = Role::TokenEmbedding;
            interval.tensors[0].growth_rate = Measured::Value(-0.002);
        }
        under(run, decay)
    }

    #[test]
    fn what_shrinks_under_a_decay_of_zero_is_not_blamed_on_decay() {
        let findings = judge_run(&RULE, &shrinking_under(Some(0.0)), &[]);
        assert!(findings.told().is_empty());
        assert!(findings.not_evaluated[0].1.contains("under a weight decay of 0"));
        for decay in [Some(0.1), None] {
            assert_eq!(judge_run(&RULE, &shrinking_under(decay), &[]).told().len(), 1, "{decay:?}");
        }
        let mut later = shrinking_under(Some(0.0));
        later.checkpoints[2] = shrinking_under(Some(0.1)).checkpoints[2].clone();
        assert_eq!(judge_run(&RULE, &later, &[]).told().len(), 1, "it was decayed for a while");
    }

    #[test]
    fn an_embedding_that_halves_over_some_intervals_is_told_and_a_matrix_is_not() {
        let mut run = run_of(4, || vec![interval_tensor("emb.weight"), interval_tensor("fc.weight")]);
        for interval in &mut run.intervals {
            interval.tensors[0].role = Role::TokenEmbedding;
            for tensor in &mut interval.tensors {
                tensor.growth_rate = Measured::Value(-0.002);
            }
        }
        let mut run = under(run, Some(0.1));
        let findings = judge_run(&RULE, &run, &[]);
        assert_eq!(findings.told(), [(Severity::Warning, "emb.weight".to_owned())]);
        run.intervals[3].tensors[0].growth_rate = Measured::Value(0.001);
        assert!(judge_run(&RULE, &run, &[]).is_clean(), "it grows again");
    }
}
