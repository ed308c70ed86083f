//! D8 over a run: units and experts that had gradients, and from one interval on have none.

use std::collections::BTreeMap;

use super::fp302_decoupled_second_moment::decay_per_step;
use super::intervals::{never_measured, span, tensors};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{Analysis, IntervalAnalysis, Measured, Role, TensorInterval};

pub(super) static RULE: Rule = Rule {
    code: "FP411",
    name: "dying-units",
    summary: "units or experts that had gradients have none from one interval on",
    page: include_str!("../../docs/rules/FP411-dying-units.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::NORMS.and(Needs::OPTIMIZER).and(Needs::INTERVALS),
    thresholds: &[
        Threshold {
            name: "share",
            default: 0.5,
            unit: "of the elements",
            source: "half of a layer that does not learn (FP408)",
        },
        Threshold {
            name: "alive-share",
            default: 0.1,
            unit: "of the elements",
            source: "a layer whose units lived has no more elements without a gradient",
        },
        Threshold {
            name: "steps",
            default: 20.0,
            unit: "optimizer steps",
            source: "so many batches in a row that reach no unit are no chance",
        },
        Threshold {
            name: "others-share",
            default: 0.1,
            unit: "of the elements",
            source: "where all stand still the run does, and not this layer",
        },
        Threshold {
            name: "others-energy",
            default: 0.01,
            unit: "of what steady gradients add to second moments",
            source: "where no gradient has a tenth of its usual norm, free decay is what all of them look like",
        },
    ],
    check: Check::Run(check),
};

/// What is known of a tensor as the run goes on.
#[derive(Default)]
struct Course {
    /// It had gradients in some interval.
    lived: bool,
    /// Intervals in a row without, and what was seen at their beginning.
    since: Option<(u64, f64, f64)>,
}

fn check(analysis: &Analysis, thresholds: &Thresholds, findings: &mut Findings) {
    let mut courses: BTreeMap<&str, Course> = BTreeMap::new();
    for interval in &analysis.intervals {
        let stands_still = still_share(&interval.tensors) > 1.0 - thresholds.get("others-share")
            || has_faded(analysis, interval, thresholds.get("others-energy"));
        for tensor in interval.tensors.iter().filter(|tensor| is_wanted(tensor)) {
            let Some(&share) = tensor.floor_share.value() else { continue };
            let course = courses.entry(tensor.canonical_name.as_str()).or_default();
            if share <= thresholds.get("alive-share") {
                *course = Course { lived: true, since: None };
            } else if share > thresholds.get("share") && course.lived && !stands_still {
                let steps = tensor.steps.value().copied().unwrap_or(0.0);
                let (from, known, _) = course.since.unwrap_or((interval.from_step, 0.0, share));
                course.since = Some((from, known + steps, share));
            } else {
                course.since = None;
            }
        }
    }
    for (interval, tensor) in tensors(analysis) {
        let Some(course) = courses.get(tensor.canonical_name.as_str()) else { continue };
        // Told where the stretch that lasts to the end begins.
        let Some((_, steps, share)) = course.since.filter(|(from, _, _)| *from == interval.from_step) else {
            continue;
        };
        if steps < thresholds.get("steps") {
            continue;
        }
        let what = if tensor.role == Role::Expert {
            "no token is routed to it any more"
        } else {
            "its units have died"
        };
        let message = format!(
            "{}: {:.0} % of its elements have had no gradient since the interval {}, and most had before: {what}",
            tensor.name,
            100.0 * share,
            span(interval),
        );
        findings
            .push(Subject::Tensor(tensor.name.clone()), message, ADVICE)
            .at_step(interval.from_step)
            .against("share of elements without a gradient", share, thresholds.get("share"), "")
            .evidence("steps without", steps, "optimizer steps");
    }
    never_measured(analysis, |tensor| &tensor.floor_share, findings);
}

/// Maps and experts: rows of embeddings wait for their tokens, gains and biases follow the layer.
fn is_wanted(tensor: &TensorInterval) -> bool {
    !matches!(
        tensor.role,
        Role::TokenEmbedding
            | Role::PositionEmbedding
            | Role::Router
            | Role::NormGain
            | Role::NormBias
            | Role::Bias
            | Role::Buffer
            | Role::Other
    )
}

/// Whether gradients have become so small everywhere that second moments cannot tell them from none, as in a run that has converged
/// or behind a spike that outweighs all others.
fn has_faded(analysis: &Analysis, interval: &IntervalAnalysis, limit: f64) -> bool {
    let mut fed = interval.tensors.iter().filter_map(|tensor| {
        let (&ratio, &steps) = (tensor.decay_ratio.value()?, tensor.steps.value()?);
        let steady = decay_per_step(analysis, &interval.to, tensor)?.powf(-steps) - 1.0;
        Some(ratio - 1.0 >= limit * steady)
    });
    // Any that is fed ends the search; where nothing is known, nothing has faded.
    fed.next().is_some_and(|first| !first && !fed.any(|other| other))
}

/// Share of all elements without a gradient, of tensors where it is known.
fn still_share(tensors: &[TensorInterval]) -> f64 {
    let (mut still, mut all) = (0.0, 0.0);
    for tensor in tensors {
        if let Measured::Value(share) = tensor.floor_share {
            still += share * tensor.elements as f64;
            all += tensor.elements as f64;
        }
    }
    if all > 0.0 { still / all } else { 0.0 }
}

const ADVICE: &str = "go back to the checkpoint before; then lower the learning rate or leak through the activation, or, of experts, balance the load";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{interval_tensor, judge_run, run_of};

    fn run(shares: &[f64]) -> Analysis {
        let mut run =
            run_of(shares.len(), || vec![interval_tensor("fc.weight"), interval_tensor("head.weight")]);
        for (interval, &share) in run.intervals.iter_mut().zip(shares) {
            interval.tensors[0].floor_share = Measured::Value(share);
        }
        run
    }

    #[test]
    fn what_lived_and_has_no_gradient_to_the_end_is_told_at_its_beginning() {
        let findings = judge_run(&RULE, &run(&[0.0, 0.05, 0.8, 0.9]), &[]);
        assert_eq!(findings.told(), [(Severity::Warning, "fc.weight".to_owned())]);
        assert_eq!(findings.found[0].step, Some(200));
        assert!(findings.found[0].message.contains("90 %"), "{}", findings.found[0].message);
        for silent in [[0.0, 0.8, 0.8, 0.0], [0.9, 0.9, 0.9, 0.9], [0.0, 0.3, 0.4, 0.5]] {
            assert!(judge_run(&RULE, &run(&silent), &[]).is_clean(), "{silent:?}");
        }
    }

    #[test]
    fn a_run_that_stands_still_as_a_whole_and_rows_that_wait_for_tokens_are_not_told() {
        let mut still = run(&[0.0, 1.0]);
        still.intervals[1].tensors[1].floor_share = Measured::Value(1.0);
        assert!(judge_run(&RULE, &still, &[]).is_clean());
        // A tenth of the usual gradient leaves 0.01·(0.999⁻¹⁰⁰ − 1) = 0.00105 in the second moments.
        for (ratio, told) in [(1.0009, 0), (1.0012, 1)] {
            let mut converged = run(&[0.0, 0.8]);
            converged.intervals[1]
                .tensors
                .iter_mut()
                .for_each(|one| one.decay_ratio = Measured::Value(ratio));
            assert_eq!(judge_run(&RULE, &converged, &[]).told().len(), told, "{ratio}");
        }
        let mut rows = run(&[0.0, 1.0]);
        rows.intervals.iter_mut().for_each(|interval| interval.tensors[0].role = Role::TokenEmbedding);
        assert!(judge_run(&RULE, &rows, &[]).is_clean());
        let mut expert = run(&[0.0, 1.0]);
        expert.intervals.iter_mut().for_each(|interval| interval.tensors[0].role = Role::Expert);
        let findings = judge_run(&RULE, &expert, &[]);
        assert!(findings.found[0].message.contains("no token is routed"), "{}", findings.found[0].message);
    }
}
