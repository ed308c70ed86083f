//! F3: the model is not the rounding of its f32 master weights.

use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, MasterAnalysis, MasterRounding, Measured};

pub(super) static RULE: Rule = Rule {
    code: "FP603",
    name: "master-mismatch",
    summary: "the model's weights are not the rounding of its f32 master weights",
    page: include_str!("../../docs/rules/FP603-master-mismatch.md"),
    severity: Severity::Critical,
    confidence: Confidence::Exact,
    needs: Needs::NORMS,
    thresholds: &[
        Threshold {
            name: "distance",
            default: 1.0,
            unit: "spacings of the model's dtype",
            source: "a cast to nearest leaves half, one that truncates or is stochastic less than one",
        },
        Threshold {
            name: "steps",
            default: 100.0,
            unit: "optimizer steps",
            source: "masters made of rounded weights move off their grid with the first steps",
        },
    ],
    check: Check::Checkpoint(check),
};

/// Elements without which masters that all lie on the grid of the rounded weights may do so by chance.
const ENOUGH: u64 = 1000;

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    if checkpoint.masters.is_empty() {
        return findings.not_evaluated(Subject::Checkpoint, "it holds no f32 master weights that are read");
    }
    let mut known: Vec<(&MasterAnalysis, &MasterRounding)> = Vec::new();
    for master in &checkpoint.masters {
        match &master.rounding {
            Measured::Value(rounding) => known.push((master, rounding)),
            Measured::NotMeasured(reason) => {
                findings.not_evaluated(Subject::Tensor(master.tensor.clone()), reason.clone());
            }
            Measured::Degenerate(_) => {}
        }
    }
    tell_mismatch(&known, thresholds.get("distance"), findings);
    let steps = checkpoint.step.value().map(|&step| step as f64);
    if steps.is_some_and(|steps| steps >= thresholds.get("steps")) {
        tell_rebuilt(&known, findings);
    }
}

/// Tells the tensor that is farthest, and how many others are as far as no cast goes.
fn tell_mismatch(known: &[(&MasterAnalysis, &MasterRounding)], limit: f64, findings: &mut Findings) {
    let beyond: Vec<_> = known.iter().filter(|(_, rounding)| rounding.largest > limit).collect();
    let Some((worst, rounding)) =
        beyond.iter().max_by(|one, other| one.1.largest.total_cmp(&other.1.largest))
    else {
        return;
    };
    let message = format!(
        "{} is not the rounding of its master weights: {} of {} elements are farther than half a spacing, as {} of {} tensors have them",
        worst.tensor,
        rounding.beyond_half,
        rounding.elements,
        beyond.len(),
        known.len(),
    );
    findings
        .push(Subject::Tensor(worst.tensor.clone()), message, ADVICE)
        .against("largest distance to the master", rounding.largest, limit, "spacings")
        .evidence("elements beyond half a spacing", rounding.beyond_half as f64, "elements")
        .evidence("tensors that differ", beyond.len() as f64, "tensors");
}

/// Tells masters that hold nothing but what the rounded weights hold.
fn tell_rebuilt(known: &[(&MasterAnalysis, &MasterRounding)], findings: &mut Findings) {
    let elements: u64 = known.iter().map(|(_, rounding)| rounding.elements).sum();
    let equal: u64 = known.iter().map(|(_, rounding)| rounding.equal).sum();
    if elements < ENOUGH || equal < elements {
        return;
    }
    let message = format!(
        "all {elements} master weights are the rounded weights themselves: they were rebuilt from them"
    );
    findings
        .push(
            Subject::Checkpoint,
            message,
            "take the masters of the checkpoint before, or accept that what was rounded off is lost",
        )
        .severity(Severity::Warning)
        .evidence("masters on the grid of the rounded weights", equal as f64, "elements");
}

const ADVICE: &str = "find out which of both is of this step (the optimizer goes on from the masters), and write the model anew from the masters";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::DType;
    use crate::rules::test_support::{checkpoint, judge};

    fn held(rounding: MasterRounding) -> CheckpointAnalysis {
        let mut saved = checkpoint(Vec::new()).at_step(500);
        saved.masters.push(MasterAnalysis {
            tensor: "fc.weight".to_owned(),
            master: "optimizer.state.0.master_param".to_owned(),
            dtypes: [DType::Bf16, DType::F32],
            rounding: Measured::Value(rounding),
        });
        saved
    }

    const CAST: MasterRounding =
        MasterRounding { elements: 4096, equal: 16, beyond_half: 0, beyond_one: 0, largest: 0.5 };

    #[test]
    fn what_no_cast_leaves_is_told_and_truncation_is_not() {
        assert!(judge(&RULE, &held(CAST)).is_clean());
        let truncated = MasterRounding { beyond_half: 2000, largest: 0.99, ..CAST };
        assert!(judge(&RULE, &held(truncated)).is_clean());
        let other = MasterRounding { beyond_half: 4000, beyond_one: 3900, largest: 40.0, ..CAST };
        assert_eq!(judge(&RULE, &held(other)).told(), [(Severity::Critical, "fc.weight".to_owned())]);
    }

    #[test]
    fn masters_that_hold_nothing_more_are_told_once_there_were_steps() {
        let rebuilt = held(MasterRounding { equal: 4096, largest: 0.0, ..CAST });
        let findings = judge(&RULE, &rebuilt);
        assert_eq!(findings.found.len(), 1);
        assert_eq!(findings.found[0].severity, Severity::Warning);
        assert!(judge(&RULE, &rebuilt.at_step(0)).is_clean(), "training begins with them");
        let none = judge(&RULE, &checkpoint(Vec::new()));
        assert_eq!((none.found.len(), none.not_evaluated.len()), (0, 1));
    }
}
