//! The tables of a vocabulary, embedding and head, against what a config says of them.

use super::config_layers::is_whole;
use super::config_sizes::{Config, VOCABULARY};
use super::weights::is_matrix;
use super::{Findings, Severity, Subject};
use crate::analysis::model::{CheckpointAnalysis, Measured, Role, TensorAnalysis};

/// How the classes of transformers end that embed tokens and give them.
const LANGUAGE_MODELS: [&str; 4] = ["ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration"];

/// Keys of configs whose vocabulary is cut into several tables.
const CUT: [&str; 2] = ["cutoffs", "adaptive"];

/// Judges whether the tables are there, and whether two of them are one.
pub(super) fn judge(checkpoint: &CheckpointAnalysis, config: &Config<'_>, findings: &mut Findings) {
    judge_tie(checkpoint, config, findings);
    let is_quantised = config.0.get("quantization_config").is_some_and(|value| !value.is_null());
    let is_cut = CUT.iter().any(|key| config.0.contains_key(*key));
    // Where the network is known, it says more than the vocabulary alone.
    if !is_quantised && !is_cut && checkpoint.architecture.value().is_none() && is_whole(checkpoint) {
        judge_presence(checkpoint, config, findings);
    }
}

/// A language model without any table of its vocabulary, or with one where its config says that embedding and head are two.
fn judge_presence(checkpoint: &CheckpointAnalysis, config: &Config<'_>, findings: &mut Findings) {
    let class = config.class();
    let is_language_model = LANGUAGE_MODELS.iter().any(|end| class.ends_with(end));
    let whole = config.size(&VOCABULARY).filter(|_| is_language_model);
    let whole = whole.map(|(key, size)| (key.to_owned(), size));
    let has_text =
        || checkpoint.tensors.iter().any(|tensor| tensor.name.contains("text_model.encoder.layer"));
    let of_text = || config.size_of_part("text", &VOCABULARY).filter(|_| is_language_model || has_text());
    let Some((key, words)) = whole.or_else(of_text).filter(|(_, words)| *words > 0) else { return };
    let tables: Vec<&TensorAnalysis> = tables(checkpoint, words).collect();
    let named = class.escape_debug();
    match tables.as_slice() {
        [] => {
            let message = format!(
                "the config says {key} {words}, and no tensor has so many rows or columns: {named} has no token embedding"
            );
            let finding = findings.push(Subject::Checkpoint, message, ADVICE).severity(Severity::Critical);
            finding.short_of("tables of the vocabulary", 0.0, 1.0, "tensors");
        }
        [sole] if class.ends_with("ForCausalLM") && config.flag(TIED) == Some(false) => {
            let lost = if sole.role == Role::TokenEmbedding { "output head" } else { "token embedding" };
            let message = format!(
                "the config says {TIED} false, and {} is the only table of its {words} tokens: {named} has no {lost}",
                sole.name,
            );
            let finding = findings.push(Subject::Checkpoint, message, ADVICE);
            finding.short_of("tables of the vocabulary", 1.0, 2.0, "tensors");
        }
        _ => {}
    }
}

const ADVICE: &str = "a loader leaves at random what it does not find: take the checkpoint that was written with this config, or write it again";

const TIED: &str = "tie_word_embeddings";

/// What may embed so many tokens, or give them.
fn tables(checkpoint: &CheckpointAnalysis, words: u64) -> impl Iterator<Item = &TensorAnalysis> {
    checkpoint.tensors.iter().filter(move |tensor| {
        let may_be = match tensor.role {
            Role::TokenEmbedding | Role::OutputHead => true,
            // Under a name that is not known, but in no block.
            Role::Linear | Role::Other | Role::PositionEmbedding => tensor.layer.index.is_none(),
            _ => false,
        };
        may_be && is_matrix(tensor) && tensor.shape.iter().any(|&size| size >= words)
    })
}

/// A head that differs from the embedding, beside a config that says they are one.
fn judge_tie(checkpoint: &CheckpointAnalysis, config: &Config<'_>, findings: &mut Findings) {
    if config.flag(TIED) != Some(true) {
        return;
    }
    let of_role = |role| {
        checkpoint
            .tensors
            .iter()
            .filter(move |tensor| tensor.role == role && is_matrix(tensor) && tensor.tied_to.is_none())
    };
    for head in of_role(Role::OutputHead) {
        let alike: Vec<&TensorAnalysis> = of_role(Role::TokenEmbedding)
            .filter(|embedding| embedding.shape == head.shape && embedding.dtype == head.dtype)
            .collect();
        let Some(first) = alike.first() else { continue };
        let subject = Subject::Tensor(head.name.clone());
        let of_head = match &head.statistics {
            Measured::Value(statistics) => statistics,
            Measured::NotMeasured(reason) => {
                findings.not_evaluated(subject, reason.clone());
                continue;
            }
            Measured::Degenerate(_) => continue,
        };
        let differs = |table: &&TensorAnalysis| {
            table.statistics.value().is_some_and(|statistics| statistics != of_head)
        };
        if alike.iter().all(differs) {
            let message = format!(
                "the config says {TIED} true, and {} differs from {}, which it should be",
                head.name, first.name,
            );
            let advice = "a loader that ties them drops one of the two: set tie_word_embeddings to false if the head was trained apart, or take the head out";
            findings.push(subject, message, advice);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::rules::fp209_shape_error::RULE;
    use crate::rules::test_support::{checkpoint, judge, tensor};

    fn told(tables: &[(&str, Role, &[u64])], config: Value) -> Vec<(Severity, String)> {
        let mut tensors = vec![tensor("layers.0.mlp.fc2.weight", Role::MlpOut, &[8, 200])];
        tensors.extend(tables.iter().map(|(name, role, shape)| tensor(name, *role, shape)));
        let found = judge(&RULE, &checkpoint(tensors).with_config(config)).found;
        found.into_iter().map(|finding| (finding.severity, finding.message)).collect()
    }

    const EMBEDDING: (&str, Role, &[u64]) = ("embed.weight", Role::TokenEmbedding, &[100, 8]);
    const HEAD: (&str, Role, &[u64]) = ("lm_head.weight", Role::OutputHead, &[100, 8]);

    fn config(class: &str, tied: bool) -> Value {
        json!({"architectures": [class], "vocab_size": 100, "hidden_size": 8, "tie_word_embeddings": tied})
    }

    #[test]
    fn a_language_model_without_any_table_is_critical() {
        let found = told(&[], config("MambaForCausalLM", true));
        let message = "the config says vocab_size 100, and no tensor has so many rows or columns: MambaForCausalLM has no token embedding";
        assert_eq!(found, [(Severity::Critical, message.to_owned())]);
        assert!(told(&[EMBEDDING], config("MambaForCausalLM", true)).is_empty());
        let in_block: (&str, Role, &[u64]) = ("layers.0.mixer.in_proj.weight", Role::Linear, &[400, 8]);
        assert_eq!(told(&[in_block], config("MambaForCausalLM", true)).len(), 1);
        let elsewhere: (&str, Role, &[u64]) = ("words.weight", Role::Linear, &[100, 8]);
        assert!(told(&[elsewhere], config("MambaForCausalLM", true)).is_empty());
        assert!(told(&[], config("Wav2Vec2Model", true)).is_empty(), "it has a vocabulary of its labels");
        let mut quantised = config("MambaForCausalLM", true);
        quantised["quantization_config"] = json!({"quant_method": "awq"});
        assert!(told(&[], quantised).is_empty());
    }

    #[test]
    fn a_text_tower_without_its_table_is_critical() {
        let config = json!({"architectures": ["CLIPModel"], "text_config": {"vocab_size": 100}});
        let layer: (&str, Role, &[u64]) =
            ("text_model.encoder.layers.0.mlp.fc1.weight", Role::MlpIn, &[8, 8]);
        assert_eq!(told(&[layer], config.clone())[0].0, Severity::Critical);
        assert!(told(&[layer, EMBEDDING], config.clone()).is_empty());
        assert!(told(&[], config).is_empty(), "the other tower alone");
    }

    #[test]
    fn one_table_where_the_config_says_two_is_a_warning_that_names_the_lost_one() {
        let found = told(&[EMBEDDING], config("MixtralForCausalLM", false));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, Severity::Warning);
        assert!(found[0].1.ends_with("MixtralForCausalLM has no output head"), "{}", found[0].1);
        let found = told(&[HEAD], config("MixtralForCausalLM", false));
        assert!(found[0].1.ends_with("MixtralForCausalLM has no token embedding"), "{}", found[0].1);
        assert!(told(&[EMBEDDING, HEAD], config("MixtralForCausalLM", false)).is_empty());
    }

    #[test]
    fn a_head_that_differs_from_the_embedding_it_should_be_is_a_warning() {
        let with = |head: f64, tied: bool| {
            let embedding = tensor("embed.weight", Role::TokenEmbedding, &[100, 8]).filled(0.02);
            let head = tensor("lm_head.weight", Role::OutputHead, &[100, 8]).filled(head);
            let saved = checkpoint(vec![embedding, head]).with_config(config("LlamaForCausalLM", tied));
            judge(&RULE, &saved)
        };
        let found = with(0.03, true);
        assert_eq!(found.told(), [(Severity::Warning, "lm_head.weight".to_owned())]);
        let message = "the config says tie_word_embeddings true, and lm_head.weight differs from embed.weight, which it should be";
        assert_eq!(found.found[0].message, message);
        assert!(with(0.02, true).is_clean(), "written twice");
        assert!(with(0.03, false).is_clean());
    }
}
