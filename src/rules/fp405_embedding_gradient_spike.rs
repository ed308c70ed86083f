//! D5: the embedding's share of the gradient's energy jumps.

use super::intervals::{span, subject};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{Analysis, IntervalAnalysis, Role, TensorInterval};

pub(super) static RULE: Rule = Rule {
    code: "FP405",
    name: "embedding-gradient-spike",
    summary: "the embedding's share of the gradients' energy is far above what it was",
    page: include_str!("../../docs/rules/FP405-embedding-gradient-spike.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::NORMS.and(Needs::OPTIMIZER).and(Needs::INTERVALS),
    thresholds: &[
        Threshold {
            name: "ratio",
            default: 10.0,
            unit: "times the median share of the intervals before",
            source: "GLM-130B, arXiv:2210.02414: collapse lags behind a spike of the embedding's gradient",
        },
        Threshold {
            name: "fewest-intervals",
            default: 2.0,
            unit: "intervals before",
            source: "early training is always embedding-heavy",
        },
    ],
    check: Check::Run(check),
};

fn check(analysis: &Analysis, thresholds: &Thresholds, findings: &mut Findings) {
    let limit = thresholds.get("ratio");
    let mut before: Vec<f64> = Vec::new();
    for interval in &analysis.intervals {
        let Some((embedding, share)) = share(interval) else { continue };
        let usual = median(&before);
        before.push(share);
        let Some(usual) = usual.filter(|_| before.len() as f64 > thresholds.get("fewest-intervals")) else {
            continue;
        };
        if share <= limit * usual {
            continue;
        }
        let message = format!(
            "{}: {:.0} % of the gradients' energy {} is its own, {:.0} times its usual share",
            embedding.name,
            100.0 * share,
            span(interval),
            share / usual,
        );
        findings.push(subject(embedding), message, ADVICE).at_step(interval.from_step).against(
            "share over its median before",
            share / usual,
            limit,
            "times",
        );
    }
    if before.is_empty() {
        findings.not_evaluated(
            Subject::Run,
            "no interval in which the energy of an embedding and of all else is known",
        );
    }
}

/// The embedding with the largest share of the energy, and the share; where every tensor's energy is known.
fn share(interval: &IntervalAnalysis) -> Option<(&TensorInterval, f64)> {
    let energies: Option<Vec<f64>> =
        interval.tensors.iter().map(|tensor| tensor.energy.value().copied()).collect();
    let energies = energies?;
    let whole: f64 = energies.iter().sum();
    let embeddings =
        interval.tensors.iter().zip(&energies).filter(|(tensor, _)| tensor.role == Role::TokenEmbedding);
    let (tensor, energy) = embeddings.max_by(|one, other| one.1.total_cmp(other.1))?;
    (whole > 0.0).then_some((tensor, energy / whole))
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

const ADVICE: &str =
    "shrink the embedding's gradient (GLM-130B used 0.1), and look for tokens that are new in these batches";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Measured;
    use crate::rules::test_support::{interval_tensor, judge_run, run_of};

    #[test]
    fn a_share_far_above_the_usual_is_told() {
        let energies = |run: &mut Analysis, index: usize, embedding: f64| {
            run.intervals[index].tensors[0].role = Role::TokenEmbedding;
            run.intervals[index].tensors[0].energy = Measured::Value(embedding);
            run.intervals[index].tensors[1].energy = Measured::Value(1.0);
        };
        let mut run = run_of(4, || vec![interval_tensor("emb.weight"), interval_tensor("fc.weight")]);
        for index in 0..4 {
            energies(&mut run, index, 0.05);
        }
        assert!(judge_run(&RULE, &run, &[]).is_clean());
        energies(&mut run, 3, 30.0);
        assert_eq!(judge_run(&RULE, &run, &[]).told(), [(Severity::Warning, "emb.weight".to_owned())]);
        energies(&mut run, 3, 0.05);
        energies(&mut run, 0, 30.0);
        assert!(judge_run(&RULE, &run, &[]).is_clean(), "early training");
    }
}
