//! A8: storage that was lost or written twice, and weights of zeros among weights that are not.

use std::collections::BTreeSet;

use super::config_sizes::{Config, VOCABULARY};
use super::model_types::adds_gains_to_one;
use super::threshold::FEWEST_STEPS;
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
    thresholds: &[FEWEST_STEPS],
    check: Check::Checkpoint(check),
};

/// Bytes of a page.
const PAGE: u64 = 4096;

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    for tensor in checkpoint.tensors.iter().filter(|tensor| is_of_model(tensor) && bytes(tensor) >= PAGE) {
        if let Some(pages) = wanted(&tensor.pages, tensor, "pages", findings) {
            report_lost_pages(tensor, pages, findings);
            report_repeated_pages(tensor, pages, findings);
        }
    }
    report_zero_matrices(checkpoint, thresholds.get(FEWEST_STEPS.name), findings);
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

/// All-zero matrices, and gains of norms, of roles that have others which are not.
fn report_zero_matrices(checkpoint: &CheckpointAnalysis, fewest_steps: f64, findings: &mut Findings) {
    let step = checkpoint.step.value().copied();
    let matrices =
        || checkpoint.tensors.iter().filter(|tensor| is_matrix(tensor) && tensor.role != Role::Other);
    let live: BTreeSet<Role> = matrices()
        .filter(|tensor| tensor.statistics.value().is_some() && !is_of_zeros(tensor))
        .map(|tensor| tensor.role)
        .collect();
    if !live.contains(&Role::TokenEmbedding) {
        let zero_tables =
            matrices().filter(|tensor| tensor.role == Role::TokenEmbedding && is_of_zeros(tensor));
        if let Some(table) = zero_tables.max_by_key(|tensor| tensor.elements) {
            report_zero_vocabulary(checkpoint, table, findings);
        }
    }
    if step == Some(0) {
        return;
    }
    for tensor in matrices() {
        if is_of_zeros(tensor) && live.contains(&tensor.role) && !is_meant_to_be_zero(tensor) {
            report_zero_matrix(tensor, step, findings);
        }
    }
    if !may_begin_at_zero(checkpoint, fewest_steps) {
        report_zero_gains(checkpoint, step, findings);
    }
}

fn is_of_zeros(tensor: &TensorAnalysis) -> bool {
    tensor.statistics.value().is_some_and(|statistics| is_zero(statistics))
}

/// Gains of norms that are all zero beside others that are not.
fn report_zero_gains(checkpoint: &CheckpointAnalysis, step: Option<u64>, findings: &mut Findings) {
    let is_gain = |tensor: &&TensorAnalysis| tensor.role == Role::NormGain && tensor.is_parameter();
    let gains = || checkpoint.tensors.iter().filter(is_gain);
    if gains().all(is_of_zeros) {
        return;
    }
    for gain in gains().filter(|gain| is_of_zeros(gain)) {
        report_zero_matrix(gain, step, findings);
    }
}

/// Whether norms of the network, or of its text, add their gain to 1, and are as they began for all that is known.
fn may_begin_at_zero(checkpoint: &CheckpointAnalysis, fewest_steps: f64) -> bool {
    let is_early = checkpoint.step.value().is_none_or(|&step| (step as f64) < fewest_steps);
    is_early && adds_gains_to_one(checkpoint)
}

/// The only token embedding, or the largest of several, of zeros alone: nothing that is read makes any difference. Nobody begins with zeros there, and
/// it is certain where the config, or that of the text, says that so many tokens are embedded, and likely once steps were taken.
fn report_zero_vocabulary(checkpoint: &CheckpointAnalysis, table: &TensorAnalysis, findings: &mut Findings) {
    let words = checkpoint.config.value().and_then(|config| {
        let of_text = || Config(config).size_of_part("text", &VOCABULARY).map(|(_, words)| words);
        Config(config).size(&VOCABULARY).map(|(_, words)| words).or_else(of_text)
    });
    let is_vocabulary = words.is_some_and(|words| words > 1 && table.shape[0] >= words);
    // A table of one column is a bias for each token, which may begin at zero.
    let is_trained =
        checkpoint.step.value().is_some_and(|&step| step > 0) && table.shape.iter().all(|&size| size > 1);
    if !is_vocabulary && !is_trained {
        return;
    }
    let message = format!(
        "all {} elements of {} are zero: its {} tokens are all alike",
        table.elements,
        table.told(),
        table.shape[0]
    );
    let advice = "the end of the file was not written, or the table was never filled: copy the file again, or roll back one checkpoint";
    let finding = findings.push(Subject::Tensor(table.name.clone()), message, advice);
    finding.evidence("zero elements", table.elements as f64, "elements");
    if !is_vocabulary {
        finding.severity(Severity::Warning);
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
    fn a_norm_whose_gains_are_all_zero_is_told_beside_others() {
        let gain = |name: &str, value| tensor(name, Role::NormGain, &[64]).filled(value);
        let at = |value| {
            let tensors = vec![gain("a.norm.weight", 1.0), gain("b.norm.weight", value)];
            judge(&RULE, &checkpoint(tensors).at_step(1)).told()
        };
        assert_eq!(at(0.0), [(Severity::Warning, "b.norm.weight".to_owned())]);
        assert!(at(1e-6).is_empty());
        let of_gemma = vec![gain("a.norm.weight", 0.0), gain("b.norm.weight", 0.0)];
        assert!(judge(&RULE, &checkpoint(of_gemma).at_step(1)).is_clean(), "gains that are added to 1");
    }

    #[test]
    fn norms_that_add_their_gain_to_one_begin_at_zero_beside_others_that_do_not() {
        let gain = |name: &str, value| tensor(name, Role::NormGain, &[64]).filled(value);
        // The norms of a fresh Qwen3NextForCausalLM.
        let fresh = || {
            let of_layer = |number: u64| {
                let name = |norm: &str| format!("model.layers.{number}.{norm}.weight");
                let gated = gain(&name("linear_attn.norm"), 1.0);
                [gain(&name("input_layernorm"), 0.0), gain(&name("post_attention_layernorm"), 0.0), gated]
            };
            let layers = (0..2).flat_map(of_layer);
            checkpoint(layers.chain([gain("model.norm.weight", 0.0)]).collect())
        };
        let told = |saved: CheckpointAnalysis, config: serde_json::Value| {
            judge(&RULE, &saved.with_config(config)).told().len()
        };
        let qwen = || serde_json::json!({"model_type": "qwen3_next"});
        let of_text = serde_json::json!({"model_type": "paligemma", "text_config": {"model_type": "gemma"}});
        assert_eq!(
            (told(fresh(), qwen()), told(fresh().at_step(16), qwen()), told(fresh(), of_text)),
            (0, 0, 0)
        );
        assert_eq!(told(fresh().at_step(17), qwen()), 5, "nothing has moved them");
        assert_eq!(told(fresh(), serde_json::json!({"model_type": "llama"})), 5);
    }

    #[test]
    fn a_vocabulary_of_zeros_is_critical_where_the_config_says_that_it_is_one() {
        let table = |rms| tensor("shared.weight", Role::TokenEmbedding, &[100, 8]).filled(rms);
        let with = |rms, words: u64| {
            let config = serde_json::json!({"vocab_size": words});
            judge(&RULE, &checkpoint(vec![table(rms), weight("a")]).with_config(config)).told()
        };
        assert_eq!(with(0.0, 100), [(Severity::Critical, "shared.weight".to_owned())]);
        assert!(with(0.02, 100).is_empty());
        assert!(with(0.0, 101).is_empty(), "another table");
        let of_text = serde_json::json!({"text_config": {"vocab_size": 100}});
        let drawn = checkpoint(vec![table(0.0), weight("a")]).with_config(of_text).at_step(0);
        assert_eq!(judge(&RULE, &drawn).told(), [(Severity::Critical, "shared.weight".to_owned())]);
        assert!(told(vec![table(0.0), weight("a")]).is_empty(), "nobody says that it is one of tokens");
        let at = |step| judge(&RULE, &checkpoint(vec![table(0.0), weight("a")]).at_step(step)).told();
        assert!(at(0).is_empty());
        assert_eq!(at(1), [(Severity::Warning, "shared.weight".to_owned())]);
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
