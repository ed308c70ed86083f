//! D10: a matrix loses half of its stable rank from one checkpoint to the next.

use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{Analysis, CheckpointAnalysis, Measured, Role, SpectrumOf, TensorAnalysis};

pub(super) static RULE: Rule = Rule {
    code: "FP410",
    name: "rank-collapse",
    summary: "a matrix loses half of its stable rank from one checkpoint to the next",
    page: include_str!("../../docs/rules/FP410-rank-collapse.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::SPECTRA.and(Needs::INTERVALS),
    thresholds: &[
        Threshold {
            name: "share",
            default: 0.5,
            unit: "of the stable rank before",
            source: "half the directions are gone (catalogue D10)",
        },
        Threshold {
            name: "least-before",
            default: 4.0,
            unit: "stable rank",
            source: "below, one direction more or less halves it",
        },
        Threshold {
            name: "early-share",
            default: 0.25,
            unit: "of the run",
            source: "a random matrix has the rank of noise: it falls as the first directions are learned",
        },
    ],
    check: Check::Run(check),
};

fn check(analysis: &Analysis, thresholds: &Thresholds, findings: &mut Findings) {
    let [limit, least] = ["share", "least-before"].map(|name| thresholds.get(name));
    let last =
        analysis.checkpoints.last().and_then(|checkpoint| checkpoint.step.value().copied()).unwrap_or(0);
    let early = thresholds.get("early-share") * last as f64;
    let mut judged = false;
    for pair in analysis.checkpoints.windows(2) {
        let [before, after] = pair else { continue };
        if before.step.value().is_none_or(|&step| (step as f64) < early) {
            continue;
        }
        for tensor in after.tensors.iter().filter(|tensor| is_wanted(tensor)) {
            let Some([was, is]) = ranks(before, tensor, findings) else { continue };
            judged = true;
            if was < least || is > limit * was {
                continue;
            }
            let message = format!(
                "{}: its stable rank fell from {was:.1} to {is:.1} between {} and {}",
                tensor.name, before.name, after.name,
            );
            let finding = findings.push(Subject::Tensor(tensor.name.clone()), message, ADVICE);
            finding.short_of("stable rank over the one before", is / was, limit, "").evidence(
                "stable rank",
                is,
                "",
            );
            if let Some(&step) = before.step.value() {
                finding.at_step(step);
            }
        }
    }
    if !judged {
        let reason =
            "no matrix has its largest singular value measured at two checkpoints behind the run's start";
        findings.not_evaluated(Subject::Run, reason);
    }
}

/// Matrices of the model; heads, adapters and routers have few directions by design.
fn is_wanted(tensor: &TensorAnalysis) -> bool {
    let low_by_design = matches!(tensor.role, Role::OutputHead | Role::LoraA | Role::LoraB | Role::Router);
    tensor.is_parameter() && tensor.shape.len() >= 2 && !low_by_design
}

/// The tensor's stable rank before and now. One that cannot be told is noted.
fn ranks(before: &CheckpointAnalysis, tensor: &TensorAnalysis, findings: &mut Findings) -> Option<[f64; 2]> {
    let name = tensor.canonical_name.as_str();
    let earlier =
        before.tensors.iter().find(|earlier| earlier.is_parameter() && earlier.canonical_name == name)?;
    let rank = |tensor: &TensorAnalysis| match &tensor.spectrum {
        Measured::Value(spectrum) if matches!(spectrum.of, SpectrumOf::Matrix) => {
            Ok(Some(spectrum.stable_rank))
        }
        Measured::Value(_) | Measured::Degenerate(_) => Ok(None),
        Measured::NotMeasured(reason) => Err(reason.clone()),
    };
    match (rank(earlier), rank(tensor)) {
        (Ok(was), Ok(is)) => Some([was?, is?]),
        (Err(reason), _) | (_, Err(reason)) => {
            findings.not_evaluated(Subject::Tensor(tensor.name.clone()), reason);
            None
        }
    }
}

const ADVICE: &str = "look at what feeds it (a norm whose gains blew up, a learning rate too high, low-precision attention), and go back to the checkpoint before";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{checkpoint, judge_run, run_of, spectrum, tensor};

    /// A run of checkpoints whose matrix has these stable ranks.
    fn run(role: Role, ranks: &[f64]) -> Analysis {
        let mut run = run_of(ranks.len() - 1, Vec::new);
        run.measured = crate::analysis::model::MeasureLevel::Spectra;
        run.checkpoints = ranks
            .iter()
            .enumerate()
            .map(|(index, &rank)| {
                let mut matrix = tensor("h.0.fc.weight", role, &[64, 64]);
                let mut known = spectrum(64, 64, 1.0);
                known.stable_rank = rank;
                matrix.spectrum = Measured::Value(known.into());
                checkpoint(vec![matrix]).at_step(100 * index as u64)
            })
            .collect();
        run
    }

    #[test]
    fn half_of_the_rank_in_one_interval_is_told_behind_the_start() {
        let falls = [20.0, 19.0, 18.0, 8.0];
        let findings = judge_run(&RULE, &run(Role::Linear, &falls), &[]);
        assert_eq!(findings.told(), [(Severity::Warning, "h.0.fc.weight".to_owned())]);
        assert_eq!(findings.found[0].step, Some(200));
        assert!(judge_run(&RULE, &run(Role::Linear, &[20.0, 19.0, 18.0, 9.1]), &[]).is_clean());
        assert!(judge_run(&RULE, &run(Role::Linear, &[40.0, 19.0, 18.0, 18.0]), &[]).is_clean(), "early");
        assert!(
            judge_run(&RULE, &run(Role::Linear, &[3.9, 3.9, 3.9, 1.0]), &[]).is_clean(),
            "few directions"
        );
    }

    #[test]
    fn heads_and_adapters_have_few_directions_by_design_and_what_is_not_known_is_not_judged() {
        let head = judge_run(&RULE, &run(Role::OutputHead, &[20.0, 19.0, 18.0, 8.0]), &[]);
        assert_eq!((head.found.len(), head.not_evaluated.len()), (0, 1));
        let mut unknown = run(Role::Linear, &[20.0, 19.0, 18.0, 8.0]);
        unknown.checkpoints[3].tensors[0].spectrum = Measured::not("stopped before it was measured");
        let findings = judge_run(&RULE, &unknown, &[]);
        assert_eq!((findings.found.len(), findings.not_evaluated.len()), (0, 1));
    }
}
