//! B9: a config that the weights contradict, or an inner width that is likely a slip.

use super::config_sizes::{Config, EMBEDDING, HEADS, HIDDEN, INNER, VOCABULARY, contradict};
use super::weights::{Fans, fans, is_matrix};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use super::{config_layers, config_tables};
use crate::analysis::model::{CheckpointAnalysis, Role, TensorAnalysis};

pub(super) static RULE: Rule = Rule {
    code: "FP209",
    name: "shape-error",
    summary: "the config contradicts the shapes of the weights, or the inner width is unusually small",
    page: include_str!("../../docs/rules/FP209-shape-error.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::CONFIG,
    thresholds: &[Threshold {
        name: "smallest-inner-ratio",
        default: 1.5,
        unit: "inner width over hidden width",
        source: "the BigScience 104B model was trained as 58B with 20480 / 16384 = 1.25",
    }],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(config) = checkpoint.config.value().map(Config) else {
        return findings.not_evaluated(Subject::Checkpoint, "the config has no value");
    };
    config_layers::judge(checkpoint, &config, findings);
    config_tables::judge(checkpoint, &config, findings);
    if let Some(part) = config.divided() {
        let reason = format!("the config says the sizes of its parts apart, such as {part}_config");
        return findings.not_evaluated(Subject::Checkpoint, reason);
    }
    if config.size(&HIDDEN).is_none() {
        let reason = "the config says no hidden size under a key that is known";
        return findings.not_evaluated(Subject::Checkpoint, reason);
    }
    if let Some(key) = config.bottleneck() {
        let reason = format!("the config says {key}: blocks with a bottleneck have several hidden sizes");
        return findings.not_evaluated(Subject::Checkpoint, reason);
    }
    judge_embedding(checkpoint, &config, findings);
    judge_heads(checkpoint, &config, findings);
    judge_inputs(checkpoint, &config, findings);
    judge_inner(checkpoint, &config, thresholds.get("smallest-inner-ratio"), findings);
}

/// The largest token embedding: fewer rows than tokens is a contradiction, more are padding.
fn judge_embedding(checkpoint: &CheckpointAnalysis, config: &Config<'_>, findings: &mut Findings) {
    let embeddings = matrices_of(checkpoint, Role::TokenEmbedding).filter(|tensor| tensor.shape.len() == 2);
    let Some(embedding) = embeddings.max_by_key(|tensor| tensor.shape[0]) else { return };
    let (rows, width) = (embedding.shape[0], embedding.shape[1]);
    let subject = || Subject::Tensor(embedding.name.clone());
    if let Some((key, declared)) = config.size(&VOCABULARY)
        && rows < declared
    {
        contradict(subject(), (key, declared), (&format!("{} has rows", embedding.name), rows), findings);
    }
    if let Some((key, declared)) = config.size(&EMBEDDING).or_else(|| config.size(&HIDDEN))
        && width != declared
    {
        contradict(subject(), (key, declared), (&format!("{} has columns", embedding.name), width), findings);
    }
}

/// A query that cannot be split into the heads.
fn judge_heads(checkpoint: &CheckpointAnalysis, config: &Config<'_>, findings: &mut Findings) {
    let Some((key, heads)) = config.size(&HEADS).filter(|(_, heads)| *heads > 0) else { return };
    let unsplit = |fans: &Fans| !fans.output.is_multiple_of(heads);
    report_role(
        checkpoint,
        Role::AttentionQuery,
        (key, heads),
        "puts out",
        unsplit,
        |fans| fans.output,
        findings,
    );
}

/// Maps that read the hidden state, but are not as wide as it.
fn judge_inputs(checkpoint: &CheckpointAnalysis, config: &Config<'_>, findings: &mut Findings) {
    let Some((key, hidden)) = config.size(&HIDDEN) else { return };
    let differs = |fans: &Fans| fans.input != hidden;
    report_role(checkpoint, Role::MlpIn, (key, hidden), "reads", differs, |fans| fans.input, findings);
}

/// The inner width of the feed-forward layers.
fn judge_inner(checkpoint: &CheckpointAnalysis, config: &Config<'_>, smallest: f64, findings: &mut Findings) {
    if config.has_experts() {
        return;
    }
    let Some((_, hidden)) = config.size(&HIDDEN).filter(|(_, hidden)| *hidden > 0) else { return };
    let Some((key, inner)) = config.size(&INNER).or_else(|| default_inner(config, hidden)) else { return };
    // RecurrentGemma says the width of gate and value together, and keeps two matrices.
    let kept = if config.model_type() == "recurrent_gemma" { inner / 2 } else { inner };
    // A matrix of gate and value together is twice as wide.
    let differs = |fans: &Fans| fans.output != kept && fans.output != kept.saturating_mul(2);
    report_role(checkpoint, Role::MlpIn, (key, kept), "puts out", differs, |fans| fans.output, findings);
    let ratio = inner as f64 / hidden as f64;
    if ratio < smallest {
        let message = format!(
            "the feed-forward layers are {inner} wide inside, {ratio:.2} times the hidden {hidden} (limit {smallest})"
        );
        findings
            .push(
                Subject::Checkpoint,
                message,
                "check that the width is meant: 4 times the hidden size is usual, 8/3 with a gate",
            )
            .short_of("inner over hidden width", ratio, smallest, "1")
            .severity(Severity::Note);
    }
}

/// GPT-2 leaves the inner width out and means four times the hidden size.
fn default_inner(config: &Config<'_>, hidden: u64) -> Option<(&'static str, u64)> {
    (config.model_type() == "gpt2").then(|| ("n_inner null, 4 n_embd =", hidden.saturating_mul(4)))
}

/// Contradicts when every matrix of `role` is `wrong`. A wrong config is wrong in every block; where some matrices agree
/// with it, the others belong to another tower.
fn report_role(
    checkpoint: &CheckpointAnalysis,
    role: Role,
    declared: (&str, u64),
    does: &str,
    wrong: impl Fn(&Fans) -> bool,
    side: impl Fn(&Fans) -> u64,
    findings: &mut Findings,
) {
    let all: Vec<_> =
        matrices_of(checkpoint, role).filter_map(|tensor| Some((tensor, fans(tensor)?))).collect();
    if let Some((first, fans)) = all.first()
        && all.iter().all(|(_, fans)| wrong(fans))
    {
        let what = format!("{} {does}", first.name);
        contradict(Subject::Tensor(first.name.clone()), declared, (&what, side(fans)), findings);
    }
}

fn matrices_of(checkpoint: &CheckpointAnalysis, role: Role) -> impl Iterator<Item = &TensorAnalysis> {
    checkpoint.tensors.iter().filter(move |tensor| is_matrix(tensor) && tensor.role == role)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::rules::config_sizes::BOTTLENECK;
    use crate::rules::test_support::{checkpoint, judge, judge_with, tensor};

    fn llama() -> Vec<TensorAnalysis> {
        let mut tensors = vec![tensor("model.embed_tokens.weight", Role::TokenEmbedding, &[128, 32])];
        for block in 0..2 {
            let block = format!("model.layers.{block}");
            let weight =
                |name: &str, role, shape: &[u64]| tensor(&format!("{block}.{name}.weight"), role, shape);
            tensors.extend([
                weight("self_attn.q_proj", Role::AttentionQuery, &[32, 32]),
                weight("mlp.up_proj", Role::MlpIn, &[88, 32]),
                weight("mlp.down_proj", Role::MlpOut, &[32, 88]),
            ]);
        }
        tensors
    }

    fn config() -> Value {
        json!({
            "model_type": "llama", "hidden_size": 32, "intermediate_size": 88, "num_hidden_layers": 2,
            "num_attention_heads": 4, "vocab_size": 128
        })
    }

    /// What is said about the network when its config says `value` under `key`.
    fn told_with(key: &str, value: impl Into<Value>) -> Vec<(Severity, String)> {
        let mut config = config();
        config[key] = value.into();
        judge(&RULE, &checkpoint(llama()).with_config(config)).told()
    }

    #[test]
    fn a_config_that_agrees_is_silent() {
        assert!(judge(&RULE, &checkpoint(llama()).with_config(config())).is_clean());
    }

    #[test]
    fn each_size_that_disagrees_is_a_warning_on_the_tensor_that_shows_it() {
        let up = "model.layers.0.mlp.up_proj.weight".to_owned();
        let embedding = "model.embed_tokens.weight".to_owned();
        assert_eq!(told_with("intermediate_size", 64), [(Severity::Warning, up.clone())]);
        assert_eq!(told_with("num_hidden_layers", 3), [(Severity::Warning, "checkpoint".to_owned())]);
        assert_eq!(told_with("vocab_size", 129), [(Severity::Warning, embedding.clone())]);
        let query = "model.layers.0.self_attn.q_proj.weight".to_owned();
        assert_eq!(told_with("num_attention_heads", 5), [(Severity::Warning, query)]);
        assert_eq!(told_with("hidden_size", 24), [(Severity::Warning, embedding), (Severity::Warning, up)]);
    }

    #[test]
    fn a_tower_of_other_sizes_is_not_a_contradiction() {
        let mut tensors = llama();
        for block in 0..5 {
            tensors.push(tensor(&format!("vision.layers.{block}.mlp.fc1.weight"), Role::MlpIn, &[64, 16]));
        }
        assert!(judge(&RULE, &checkpoint(tensors).with_config(config())).is_clean());
    }

    #[test]
    fn a_padded_vocabulary_has_more_rows_than_tokens() {
        assert!(told_with("vocab_size", 100).is_empty());
    }

    #[test]
    fn prediction_layers_may_follow_the_last() {
        let mut config = config();
        config["num_hidden_layers"] = json!(1);
        config["num_nextn_predict_layers"] = json!(1);
        assert!(judge(&RULE, &checkpoint(llama()).with_config(config)).is_clean());
    }

    #[test]
    fn experts_have_widths_of_their_own() {
        let mut config = config();
        config["intermediate_size"] = json!(64);
        config["num_local_experts"] = json!(8);
        assert!(judge(&RULE, &checkpoint(llama()).with_config(config)).is_clean());
    }

    #[test]
    fn gpt2_means_four_times_the_hidden_size_where_it_says_nothing() {
        let mlp = |inner| vec![tensor("h.0.mlp.c_fc.weight", Role::MlpIn, &[32, inner])];
        let config = json!({"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_inner": null});
        assert!(judge(&RULE, &checkpoint(mlp(128)).with_config(config.clone())).is_clean());
        let told = judge(&RULE, &checkpoint(mlp(96)).with_config(config)).told();
        assert_eq!(told, [(Severity::Warning, "h.0.mlp.c_fc.weight".to_owned())]);
    }

    #[test]
    fn a_declared_but_unusually_narrow_inner_width_is_a_note() {
        let mlp = |inner| checkpoint(vec![tensor("layers.0.mlp.fc1.weight", Role::MlpIn, &[inner, 32])]);
        let config = |inner: u64| json!({"hidden_size": 32, "intermediate_size": inner});
        assert_eq!(judge(&RULE, &mlp(47).with_config(config(47))).told()[0].0, Severity::Note);
        assert!(judge(&RULE, &mlp(48).with_config(config(48))).is_clean());
        let relaxed = [("smallest-inner-ratio", 1.0)];
        assert!(judge_with(&RULE, &mlp(47).with_config(config(47)), &relaxed).is_clean());
    }

    #[test]
    fn recurrent_gemma_says_the_width_of_both_its_matrices() {
        let saved = |inner| {
            let mlp = tensor("layers.0.mlp_block.up_proj.weight", Role::MlpIn, &[inner, 32]);
            let config =
                json!({"model_type": "recurrent_gemma", "hidden_size": 32, "intermediate_size": 192});
            judge(&RULE, &checkpoint(vec![mlp]).with_config(config)).told()
        };
        assert!(saved(96).is_empty());
        assert_eq!(saved(64).len(), 1);
    }

    #[test]
    fn blocks_with_a_bottleneck_are_not_evaluated() {
        for key in BOTTLENECK {
            let mut config = config();
            (config["hidden_size"], config[key]) = (json!(24), json!(16));
            let findings = judge(&RULE, &checkpoint(llama()).with_config(config));
            assert!(findings.told().is_empty());
            assert!(findings.not_evaluated[0].1.contains(key), "{:?}", findings.not_evaluated);
        }
        assert_eq!(told_with("use_bottleneck", false), []);
    }

    #[test]
    fn a_config_without_a_hidden_size_is_not_evaluated() {
        let findings = judge(&RULE, &checkpoint(llama()).with_config(json!({"num_layers": 7})));
        assert!(findings.told().is_empty());
        assert_eq!(findings.not_evaluated.len(), 1);
    }
}
