//! The tables of a vocabulary, embedding and head, against what a config says of them.

use super::config_layers::has_stack_with_ends;
use super::config_sizes::{Config, EMBEDDING, HIDDEN, LAYERS, LEFT_AT_RANDOM, VOCABULARY, is_whole};
use super::weights::{is_matrix, wanted};
use super::{Findings, Severity, Subject};
use crate::analysis::model::{CheckpointAnalysis, Role, TensorAnalysis};

/// How the classes of transformers end that embed tokens and give them.
const LANGUAGE_MODELS: [&str; 4] = ["ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration"];

/// Judges whether the tables are there, and whether two of them are one.
pub(super) fn judge(checkpoint: &CheckpointAnalysis, config: &Config<'_>, findings: &mut Findings) {
    let obstacle = config.recast().or_else(|| (!is_whole(checkpoint)).then_some(PART));
    judge_tie(checkpoint, config, obstacle, findings);
    // Where the network is known, it says more than the vocabulary alone.
    if checkpoint.architecture.value().is_some() {
        return;
    }
    match (Vocabulary::of(checkpoint, config), obstacle) {
        (Some(_), Some(reason)) => findings.not_evaluated(Subject::Checkpoint, reason),
        (Some(vocabulary), None) => judge_presence(checkpoint, config, &vocabulary, findings),
        (None, _) => {}
    }
}

const PART: &str = "it is an adapter, or not all of it can be read: what a whole model has may be elsewhere";

/// The tokens that a network embeds, as its config or that of its text says, and what that says beside them.
struct Vocabulary {
    key: String,
    words: u64,
    /// How wide a table of them may be, where that is said.
    widths: Vec<u64>,
    layers: Option<u64>,
}

impl Vocabulary {
    fn of(checkpoint: &CheckpointAnalysis, config: &Config<'_>) -> Option<Self> {
        let is_language_model = LANGUAGE_MODELS.iter().any(|end| config.class().ends_with(end));
        let whole = config.size(&VOCABULARY).filter(|_| is_language_model);
        let has_text =
            || checkpoint.tensors.iter().any(|tensor| tensor.name.contains("text_model.encoder.layer"));
        let of_text = || config.size_of_part("text", &VOCABULARY).filter(|_| is_language_model || has_text());
        let (key, words) = whole.map(|(key, words)| (key.to_owned(), words)).or_else(of_text)?;
        let size = |keys: &[&str]| {
            let of_text = config.size_of_part("text", keys).map(|(_, size)| size);
            of_text.or_else(|| keys.iter().find_map(|key| config.size(&[*key])).map(|(_, size)| size))
        };
        let widths = [size(&HIDDEN), size(&EMBEDDING)].into_iter().flatten().collect();
        (words > 0).then(|| Self { key, words, widths, layers: size(&LAYERS) })
    }

    /// What may embed so many tokens, or give them.
    fn tables<'a>(&self, checkpoint: &'a CheckpointAnalysis) -> Vec<&'a TensorAnalysis> {
        let may_be = |tensor: &&TensorAnalysis| match tensor.role {
            Role::TokenEmbedding | Role::OutputHead => tensor.shape.iter().any(|&size| size >= self.words),
            // Under a name that is not known, but in no block.
            Role::Linear | Role::Other => tensor.layer.index.is_none() && self.is_shaped_so(&tensor.shape),
            _ => false,
        };
        checkpoint.tensors.iter().filter(|tensor| is_matrix(tensor)).filter(may_be).collect()
    }

    /// As many rows or columns as tokens, and the other side as wide as the stream or the embedding.
    fn is_shaped_so(&self, shape: &[u64]) -> bool {
        let is_width = |size: &u64| self.widths.is_empty() || self.widths.contains(size);
        match shape {
            [rows, columns] => {
                (*rows >= self.words && is_width(columns)) || (*columns >= self.words && is_width(rows))
            }
            _ => false,
        }
    }
}

/// A language model without any table of its vocabulary, or with one where its config says that embedding and head are two.
fn judge_presence(
    checkpoint: &CheckpointAnalysis,
    config: &Config<'_>,
    vocabulary: &Vocabulary,
    findings: &mut Findings,
) {
    let class = config.class();
    let (named, key, words) = (class.escape_debug(), &vocabulary.key, vocabulary.words);
    let has = |role| checkpoint.tensors.iter().any(|tensor| tensor.role == role && is_matrix(tensor));
    match vocabulary.tables(checkpoint).as_slice() {
        // One that has fewer rows is there, and is told by its rows.
        [] if !has(Role::TokenEmbedding) && !has(Role::OutputHead) => {
            let message = format!(
                "the config says {key} {words}, and no tensor has so many rows or columns: {named} has no token embedding"
            );
            let finding = findings.push(Subject::Checkpoint, message, LEFT_AT_RANDOM);
            finding.short_of("tables of the vocabulary", 0.0, 1.0, "tensors");
            // A stage of a pipeline or a renamed shard has its blocks alone.
            if has_stack_with_ends(checkpoint, vocabulary.layers) {
                finding.severity(Severity::Critical);
            }
        }
        [sole] if class.ends_with("ForCausalLM") && config.flag(TIED) == Some(false) => {
            let (lost, role) = match sole.role {
                Role::TokenEmbedding => ("output head", Role::OutputHead),
                _ => ("token embedding", Role::TokenEmbedding),
            };
            if has(role) {
                return;
            }
            let message = format!(
                "the config says {TIED} false, and {} is the only table of its {words} tokens: {named} has no {lost}",
                sole.name,
            );
            let finding = findings.push(Subject::Checkpoint, message, LEFT_AT_RANDOM);
            finding.short_of("tables of the vocabulary", 1.0, 2.0, "tensors");
        }
        _ => {}
    }
}

const TIED: &str = "tie_word_embeddings";

/// A head that differs from the embedding, beside a config that says they are one.
fn judge_tie(
    checkpoint: &CheckpointAnalysis,
    config: &Config<'_>,
    obstacle: Option<&'static str>,
    findings: &mut Findings,
) {
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
        if let Some(reason) = obstacle {
            findings.not_evaluated(subject, reason);
            continue;
        }
        let Some(of_head) = wanted(&head.statistics, head, "statistics", findings) else { continue };
        if alike.iter().any(|table| table.statistics.value() == Some(of_head)) {
            continue;
        }
        let is_measured =
            |table: &&TensorAnalysis| wanted(&table.statistics, table, "statistics", findings).is_some();
        if alike.iter().all(is_measured) {
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
    fn a_model_without_its_last_block_and_without_any_table_is_a_warning() {
        let mut config = config("MambaForCausalLM", true);
        config["num_hidden_layers"] = json!(1);
        assert_eq!(told(&[], config.clone())[0].0, Severity::Critical);
        config["num_hidden_layers"] = json!(2);
        let found = told(&[], config);
        assert!(found.iter().all(|(severity, _)| *severity == Severity::Warning), "{found:?}");
        assert_eq!(found.len(), 2, "the layers, and the embedding");
    }

    #[test]
    fn tables_of_fewer_rows_than_tokens_are_there() {
        let fewer: [(&str, Role, &[u64]); 2] = [
            ("embed.weight", Role::TokenEmbedding, &[99, 8]),
            ("lm_head.weight", Role::OutputHead, &[99, 8]),
        ];
        let found = told(&fewer, config("MixtralForCausalLM", false));
        let message = "the config says vocab_size 100, embed.weight has rows 99";
        assert_eq!(found, [(Severity::Warning, message.to_owned())]);
        assert!(told(&[EMBEDDING, fewer[1]], config("MixtralForCausalLM", false)).is_empty());
    }

    #[test]
    fn positions_and_maps_of_other_widths_are_no_table() {
        let positions: (&str, Role, &[u64]) = ("wpe.weight", Role::PositionEmbedding, &[128, 8]);
        let adapter: (&str, Role, &[u64]) = ("connector.weight", Role::Linear, &[400, 24]);
        for beside in [positions, adapter] {
            assert_eq!(told(&[beside], config("MambaForCausalLM", true)).len(), 1, "{}", beside.0);
        }
        let mut narrow = config("MambaForCausalLM", true);
        narrow["embedding_size"] = json!(4);
        let words: (&str, Role, &[u64]) = ("words.weight", Role::Linear, &[100, 4]);
        assert!(told(&[words], narrow).is_empty());
    }

    #[test]
    fn what_cannot_be_compared_is_not_evaluated() {
        let judged = |tensors: Vec<TensorAnalysis>, config: Value| {
            let found = judge(&RULE, &checkpoint(tensors).with_config(config));
            assert!(found.found.is_empty(), "{:?}", found.told());
            found.not_evaluated.len()
        };
        let mut quantised = config("MambaForCausalLM", true);
        quantised["quantization_config"] = json!({"quant_method": "awq"});
        assert_eq!(judged(Vec::new(), quantised.clone()), 1);
        let mut packed = config("MambaForCausalLM", true);
        packed["quantization"] = json!({"group_size": 32, "bits": 4});
        assert_eq!(judged(Vec::new(), packed), 1, "MLX");
        let table = |(name, role, shape): (&str, Role, &[u64])| tensor(name, role, shape);
        assert_eq!(judged(vec![table(EMBEDDING), table(HEAD).filled(0.3)], quantised), 2, "and the tie");
        let tables = |embedding: TensorAnalysis| vec![embedding, table(HEAD).filled(0.3)];
        let tied = || config("LlamaForCausalLM", true);
        assert_eq!(judged(tables(table(EMBEDDING).unmeasured()), tied()), 1);
        let ia3 = tensor("layers.0.k_proj.ia3_l", Role::Other, &[8, 1]);
        assert_eq!(judged(vec![ia3], tied()), 1, "an adapter has no table of its own");
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
