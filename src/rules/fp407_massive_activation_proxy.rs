//! D7: one output channel of a down projection far above the others, the trace of massive activations in the weights.

use super::weights::{is_input_first, is_matrix, wanted};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Role, Rows, TensorAnalysis};

pub(super) static RULE: Rule = Rule {
    code: "FP407",
    name: "massive-activation-proxy",
    summary: "one output row of a down projection is far above the others: expect massive activations in that channel",
    page: include_str!("../../docs/rules/FP407-massive-activation-proxy.md"),
    severity: Severity::Note,
    confidence: Confidence::Heuristic,
    needs: Needs::STATS,
    thresholds: &[Threshold {
        name: "ratio",
        default: 10.0,
        unit: "largest row norm over the median row norm",
        source: "twice the largest of 42 down projections of 4 published BERTs, 4.97",
    }],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let down = checkpoint.tensors.iter().filter(|tensor| is_matrix(tensor) && tensor.role == Role::MlpOut);
    let mut input_first = 0;
    for tensor in down {
        if is_input_first(tensor) {
            input_first += 1;
        } else if let Some(rows) = wanted(&tensor.rows, tensor, "rows", findings) {
            judge_rows(tensor, rows, thresholds.get("ratio"), findings);
        }
    }
    if input_first > 0 {
        let reason = format!(
            "{input_first} down projections are stored input first: their rows are no output channels"
        );
        findings.not_evaluated(Subject::Checkpoint, reason);
    }
}

fn judge_rows(tensor: &TensorAnalysis, rows: &Rows, limit: f64, findings: &mut Findings) {
    // More than half of the rows are zero: nothing is typical.
    if rows.median_norm <= 0.0 {
        let reason = "more than half of its rows are zero: no typical row norm";
        return findings.not_evaluated(Subject::Tensor(tensor.name.clone()), reason);
    }
    let ratio = rows.largest_norm / rows.median_norm;
    if ratio < limit {
        return;
    }
    let message = format!(
        "row {} of {} has {ratio:.1} times the median row norm (limit {limit}): expect massive activations in that channel",
        rows.largest_row, tensor.name,
    );
    findings
        .push(
            Subject::Tensor(tensor.name.clone()),
            message,
            "nothing by itself; keep this channel out of f16 and int8, and look at its activations before quantising",
        )
        .against("largest over median row norm", ratio, limit, "1")
        .evidence("largest row norm", rows.largest_norm, "1")
        .evidence("row", rows.largest_row as f64, "index");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{checkpoint, judge, judge_with, tensor};

    fn down(largest: f64) -> TensorAnalysis {
        tensor("layers.0.mlp.down_proj.weight", Role::MlpOut, &[32, 88]).with_largest_row(largest)
    }

    #[test]
    fn a_row_thirty_times_the_median_is_a_note_that_says_which() {
        let findings = judge(&RULE, &checkpoint(vec![down(30.0)]));
        assert_eq!(findings.told(), [(Severity::Note, "layers.0.mlp.down_proj.weight".to_owned())]);
        assert!(findings.found[0].message.starts_with("row 3 of "));
    }

    #[test]
    fn ten_times_is_the_first_that_fires() {
        assert!(judge(&RULE, &checkpoint(vec![down(9.99)])).is_clean());
        assert_eq!(judge(&RULE, &checkpoint(vec![down(10.0)])).told().len(), 1);
    }

    #[test]
    fn the_ratio_can_be_overridden() {
        assert!(judge_with(&RULE, &checkpoint(vec![down(30.0)]), &[("ratio", 31.0)]).is_clean());
    }

    #[test]
    fn matrices_stored_input_first_are_not_evaluated_once_for_all() {
        let stored = |name| tensor(name, Role::MlpOut, &[128, 32]).with_largest_row(30.0);
        let findings =
            judge(&RULE, &checkpoint(vec![stored("h.0.mlp.c_proj.weight"), stored("h.1.mlp.c_proj.weight")]));
        assert!(findings.told().is_empty());
        assert_eq!(findings.not_evaluated.len(), 1);
    }

    #[test]
    fn a_matrix_of_mostly_zero_rows_is_not_evaluated() {
        let mut sparse = down(30.0);
        if let crate::analysis::model::Measured::Value(rows) = &mut sparse.rows {
            rows.median_norm = 0.0;
        }
        let findings = judge(&RULE, &checkpoint(vec![sparse]));
        assert!(findings.told().is_empty());
        assert_eq!(findings.not_evaluated.len(), 1);
    }

    #[test]
    fn other_maps_are_not_judged() {
        let up = tensor("layers.0.mlp.up_proj.weight", Role::MlpIn, &[88, 32]).with_largest_row(30.0);
        assert!(judge(&RULE, &checkpoint(vec![up])).is_clean());
    }
}
