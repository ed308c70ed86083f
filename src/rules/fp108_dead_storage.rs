//! A8: storage that was lost or written twice, and weights of zeros among weights that are not.

use std::collections::BTreeSet;

use super::weights::{is_matrix, is_meant_to_be_zero, is_of_model, is_zero, wanted};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Pages, Role, TensorAnalysis};

pub(super) static RULE: Rule = Rule {
    code: "FP108",
    name: "dead-storage",
    summary: "pages of the file under a weight are zeroed or repeated, or a weight matrix is all zero",
    page: include_str!("../../docs/rules/FP108-dead-storage.md"),
    severity: Severity::Critical,
    confidence: Confidence::Heuristic,
    needs: Needs::STATS,
    thresholds: &[],
    check: Check::Checkpoint(check),
};

/// Bytes of a page.
const PAGE: u64 = 4096;

fn check(checkpoint: &CheckpointAnalysis, _: &Thresholds, findings: &mut Findings) {
    for tensor in checkpoint.tensors.iter().filter(|tensor| is_of_model(tensor) && bytes(tensor) >= PAGE) {
        if let Some(pages) = wanted(&tensor.pages, tensor, "pages", findings) {
            report_lost_pages(tensor, pages, findings);
            report_repeated_pages(tensor, pages, findings);
        }
    }
    report_zero_matrices(checkpoint, findings);
}

/// Bytes of the elements, as stored.
fn bytes(tensor: &TensorAnalysis) -> u64 {
    tensor.dtype.map_or(0, |dtype| tensor.elements.saturating_mul(dtype.bits()) / 8)
}

fn report_lost_pages(tensor: &TensorAnalysis, pages: &Pages, findings: &mut Findings) {
    if pages.lost == 0 {
        return;
    }
    let message = format!(
        "{} of {} pages of {PAGE} bytes under {} are zero inside non-zero data{}",
        pages.lost,
        pages.count,
        tensor.told(),
        place(pages.first_lost),
    );
    let advice =
        "compare the file's digest with that of its source and copy it again, or roll back one checkpoint";
    findings.push(Subject::Tensor(tensor.name.clone()), message, advice).against(
        "lost pages",
        pages.lost as f64,
        0.0,
        "pages",
    );
}

fn report_repeated_pages(tensor: &TensorAnalysis, pages: &Pages, findings: &mut Findings) {
    if pages.repeated == 0 {
        return;
    }
    let message = format!(
        "{} of {} pages of {PAGE} bytes under {} repeat an earlier page{}",
        pages.repeated,
        pages.count,
        tensor.told(),
        place(pages.first_repeated),
    );
    let advice = "compare the file's digest with that of its source and copy it again; parts copied on purpose, by less or more than whole rows, look the same";
    findings
        .push(Subject::Tensor(tensor.name.clone()), message, advice)
        .against("repeated pages", pages.repeated as f64, 0.0, "pages")
        .severity(Severity::Warning);
}

fn place(offset: Option<u64>) -> String {
    offset.map(|offset| format!(", the first at byte {offset} of the file")).unwrap_or_default()
}

/// All-zero matrices of roles that have others which are not.
fn report_zero_matrices(checkpoint: &CheckpointAnalysis, findings: &mut Findings) {
    let step = checkpoint.step.value().copied();
    if step == Some(0) {
        return;
    }
    let is_of_zeros =
        |tensor: &TensorAnalysis| tensor.statistics.value().is_some_and(|statistics| is_zero(statistics));
    let matrices =
        || checkpoint.tensors.iter().filter(|tensor| is_matrix(tensor) && tensor.role != Role::Other);
    let live: BTreeSet<Role> = matrices()
        .filter(|tensor| tensor.statistics.value().is_some() && !is_of_zeros(tensor))
        .map(|tensor| tensor.role)
        .collect();
    for tensor in matrices() {
        if is_of_zeros(tensor) && live.contains(&tensor.role) && !is_meant_to_be_zero(tensor) {
            report_zero_matrix(tensor, step, findings);
        }
    }
}

fn report_zero_matrix(tensor: &TensorAnalysis, step: Option<u64>, findings: &mut Findings) {
    let when =
        step.map_or_else(|| "in a model of unknown age".to_owned(), |step| format!("after {step} steps"));
    let message = format!(
        "all {} elements of {} are zero {when}, those of other tensors of its role are not",
        tensor.elements,
        tensor.told(),
    );
    let advice =
        "check that this layer was saved and is trained; roll back if an earlier checkpoint has values here";
    let severity = if step.is_some() { Severity::Warning } else { Severity::Note };
    findings
        .push(Subject::Tensor(tensor.name.clone()), message, advice)
        .evidence("zero elements", tensor.elements as f64, "elements")
        .severity(severity);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{Measured, Section};
    use crate::rules::test_support::{checkpoint, judge, tensor};

    fn weight(name: &str) -> TensorAnalysis {
        tensor(name, Role::Linear, &[128, 128]).with_pages(0, 0)
    }

    fn told(tensors: Vec<TensorAnalysis>) -> Vec<(Severity, String)> {
        judge(&RULE, &checkpoint(tensors)).told()
    }

    #[test]
    fn one_lost_page_is_critical() {
        assert_eq!(told(vec![weight("a").with_pages(1, 0)]), [(Severity::Critical, "a".to_owned())]);
    }

    #[test]
    fn a_repeated_page_is_a_warning() {
        assert_eq!(told(vec![weight("a").with_pages(0, 1)]), [(Severity::Warning, "a".to_owned())]);
    }

    #[test]
    fn a_zero_matrix_among_others_is_a_warning_once_steps_were_taken() {
        let tensors = || vec![weight("a"), weight("b").filled(0.0)];
        assert_eq!(told(tensors()), [(Severity::Note, "b".to_owned())]);
        let at = |step| judge(&RULE, &checkpoint(tensors()).at_step(step)).told();
        assert!(at(0).is_empty());
        assert_eq!(at(1), [(Severity::Warning, "b".to_owned())]);
    }

    #[test]
    fn zeros_that_are_meant_are_not_judged() {
        let adapter = tensor("q.lora_B.weight", Role::LoraB, &[128, 128]).with_pages(0, 0);
        let modulation = weight("blocks.0.adaLN_modulation.1.weight").filled(0.0);
        assert!(told(vec![weight("a"), adapter.clone(), adapter.filled(0.0), modulation]).is_empty());
    }

    #[test]
    fn a_role_of_zeros_only_is_not_judged() {
        assert!(told(vec![weight("a").filled(0.0), weight("b").filled(0.0)]).is_empty());
    }

    #[test]
    fn buffers_and_optimizer_state_may_hold_zero_pages() {
        let mask = tensor("mask", Role::Buffer, &[128, 128]).with_pages(3, 3);
        let moment = weight("exp_avg").in_section(Section::Optimizer).with_pages(3, 3);
        assert!(told(vec![mask, moment]).is_empty());
    }

    #[test]
    fn pages_that_were_not_measured_are_not_evaluated_unless_there_is_no_whole_one() {
        let mut unread = weight("a");
        unread.pages = Measured::not("a deflated entry has no pages");
        let small = tensor("b", Role::Bias, &[16]);
        assert_eq!(judge(&RULE, &checkpoint(vec![unread, small])).not_evaluated.len(), 1);
    }
}
