//! Bytes of a file that belong to no tensor.

use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::CheckpointAnalysis;

pub(super) static RULE: Rule = Rule {
    code: "FP904",
    name: "uncovered-bytes",
    summary: "a file holds data that no tensor refers to",
    page: include_str!("../../docs/rules/FP904-uncovered-bytes.md"),
    severity: Severity::Warning,
    confidence: Confidence::Exact,
    needs: Needs::LIST,
    thresholds: &[Threshold {
        name: "bytes",
        default: 0.0,
        unit: "bytes",
        source: "safetensors requires that tensors cover the data without a hole; writers leave none",
    }],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let limit = thresholds.get("bytes");
    for file in checkpoint.files.iter().filter(|file| file.uncovered_bytes as f64 > limit) {
        let message = format!(
            "{} of {} bytes of {} belong to no tensor (limit {limit})",
            file.uncovered_bytes, file.bytes, file.name,
        );
        findings
            .push(
                Subject::File(file.name.clone()),
                message,
                "find out what the bytes are before the file is passed on; writing the tensors to a new file drops them",
            )
            .against("uncovered bytes", file.uncovered_bytes as f64, limit, "bytes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{checkpoint, file, judge, judge_with};

    #[test]
    fn one_byte_that_no_tensor_refers_to_is_a_warning() {
        let mut saved = checkpoint(Vec::new());
        saved.files = vec![file("a.safetensors", 0), file("b.safetensors", 1)];
        let findings = judge(&RULE, &saved);
        assert_eq!(findings.told(), [(Severity::Warning, "b.safetensors".to_owned())]);
        assert_eq!(
            findings.found[0].message,
            "1 of 4096 bytes of b.safetensors belong to no tensor (limit 0)"
        );
    }

    #[test]
    fn the_limit_can_be_overridden_and_is_the_last_that_is_silent() {
        let mut saved = checkpoint(Vec::new());
        saved.files = vec![file("a.safetensors", 64)];
        assert!(judge_with(&RULE, &saved, &[("bytes", 64.0)]).is_clean());
        assert_eq!(judge_with(&RULE, &saved, &[("bytes", 63.0)]).told().len(), 1);
    }
}
