//! B2: units that start equal and therefore stay equal.

use super::weights::{maps, wanted};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Role, Rows, TensorAnalysis};

pub(super) static RULE: Rule = Rule {
    code: "FP202",
    name: "symmetric-init",
    summary: "rows of a hidden map equal one another up to sign: its units compute the same thing",
    page: include_str!("../../docs/rules/FP202-symmetric-init.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::STATS,
    thresholds: &[Threshold {
        name: "share",
        default: 0.01,
        unit: "share of the non-zero rows",
        source: "no duplicate row in any judged map of 12 published models, the largest with 1536 rows",
    }],
    check: Check::Checkpoint(check),
};

/// Fewer rows are no population to speak of a share of.
const FEWEST_ROWS: u64 = 4;
/// A single pair may be an accident, or a unit that was split on purpose.
const FEWEST_DUPLICATES: u64 = 2;
/// Narrower rows, such as depthwise 1-D kernels, coincide by chance in low precision.
const NARROWEST_ROW: u64 = 8;

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let severity = if checkpoint.step.value() == Some(&0) { Severity::Critical } else { Severity::Warning };
    for tensor in maps(checkpoint).filter(|tensor| is_judged(tensor)) {
        if let Some(rows) = wanted(&tensor.rows, tensor, "rows", findings) {
            judge_rows(tensor, rows, severity, thresholds.get("share"), findings);
        }
    }
}

/// Keys and values may repeat their heads on purpose, alone or fused with the query.
fn is_judged(tensor: &TensorAnalysis) -> bool {
    let repeats = matches!(tensor.role, Role::AttentionKey | Role::AttentionValue | Role::AttentionQkv);
    let rows = tensor.shape[0];
    !repeats && rows >= FEWEST_ROWS && tensor.elements / rows >= NARROWEST_ROW
}

fn judge_rows(tensor: &TensorAnalysis, rows: &Rows, severity: Severity, limit: f64, findings: &mut Findings) {
    let live = rows.count.saturating_sub(rows.zero);
    let share = rows.duplicates as f64 / live.max(1) as f64;
    if rows.duplicates < FEWEST_DUPLICATES || share <= limit {
        return;
    }
    let message = format!(
        "{} of {live} non-zero rows of {} equal an earlier row up to sign ({:.1} %, limit {:.1} %)",
        rows.duplicates,
        tensor.name,
        100.0 * share,
        100.0 * limit,
    );
    findings
        .push(
            Subject::Tensor(tensor.name.clone()),
            message,
            "initialise the layer again with independent random rows; copies that are meant need noise to come apart",
        )
        .against("share of duplicate rows", share, limit, "1")
        .evidence("duplicate rows", rows.duplicates as f64, "rows")
        .severity(severity);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{checkpoint, judge, judge_with, tensor};

    fn hidden(duplicates: u64) -> TensorAnalysis {
        tensor("layers.1.weight", Role::Linear, &[200, 64]).with_rows(duplicates, 0)
    }

    #[test]
    fn more_than_one_row_in_a_hundred_fires_and_exactly_one_does_not() {
        let severity = |duplicates| judge(&RULE, &checkpoint(vec![hidden(duplicates)])).told();
        assert!(severity(2).is_empty());
        assert_eq!(severity(3), [(Severity::Warning, "layers.1.weight".to_owned())]);
    }

    #[test]
    fn at_step_zero_it_is_critical() {
        let told = judge(&RULE, &checkpoint(vec![hidden(100)]).at_step(0)).told();
        assert_eq!(told[0].0, Severity::Critical);
        let told = judge(&RULE, &checkpoint(vec![hidden(100)]).at_step(1)).told();
        assert_eq!(told[0].0, Severity::Warning);
    }

    #[test]
    fn the_share_can_be_overridden() {
        assert!(judge_with(&RULE, &checkpoint(vec![hidden(100)]), &[("share", 0.5)]).is_clean());
    }

    #[test]
    fn zero_rows_are_not_counted() {
        let half_zero = tensor("layers.1.weight", Role::Linear, &[200, 64]).with_rows(2, 100);
        assert_eq!(judge(&RULE, &checkpoint(vec![half_zero])).told().len(), 1);
        let all_zero = tensor("layers.1.weight", Role::Linear, &[200, 64]).with_rows(0, 200);
        assert!(judge(&RULE, &checkpoint(vec![all_zero])).is_clean());
    }

    #[test]
    fn one_duplicate_few_rows_or_narrow_rows_say_nothing() {
        let one = tensor("a", Role::Linear, &[4, 64]).with_rows(1, 0);
        let few = tensor("b", Role::Linear, &[3, 64]).with_rows(2, 0);
        let narrow = tensor("c", Role::Convolution, &[64, 1, 7]).with_rows(60, 0);
        assert!(judge(&RULE, &checkpoint(vec![one, few, narrow])).is_clean());
    }

    #[test]
    fn repeated_heads_padded_vocabularies_and_experts_are_not_judged() {
        let roles =
            [Role::AttentionKey, Role::AttentionValue, Role::TokenEmbedding, Role::OutputHead, Role::Expert];
        let tensors = roles.iter().map(|&role| tensor("a", role, &[200, 64]).with_rows(100, 0)).collect();
        assert!(judge(&RULE, &checkpoint(tensors)).is_clean());
    }

    #[test]
    fn a_map_without_rows_is_not_evaluated() {
        let unread = tensor("layers.1.weight", Role::Linear, &[200, 64]);
        assert_eq!(judge(&RULE, &checkpoint(vec![unread])).not_evaluated.len(), 1);
    }
}
