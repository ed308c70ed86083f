//! A config as far as it holds sizes, and what of it describes a part of the network alone.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Finding, Findings, Subject};
use crate::analysis::model::{CheckpointAnalysis, Section, TensorAnalysis};

pub(super) const HIDDEN: [&str; 3] = ["hidden_size", "n_embd", "d_model"];
/// Where embeddings are narrower than the hidden states, or wider: ALBERT and ELECTRA, OPT, `RemBERT`.
pub(super) const EMBEDDING: [&str; 3] = ["embedding_size", "word_embed_proj_dim", "input_embedding_size"];
pub(super) const INNER: [&str; 4] = ["intermediate_size", "n_inner", "ffn_dim", "d_ff"];
pub(super) const LAYERS: [&str; 3] = ["num_hidden_layers", "n_layer", "num_layers"];
pub(super) const HEADS: [&str; 2] = ["num_attention_heads", "n_head"];
pub(super) const VOCABULARY: [&str; 1] = ["vocab_size"];
/// Where the blocks are narrower inside than the stream between them, so that no one hidden size holds: `MobileBERT`.
pub(super) const BOTTLENECK: [&str; 3] = ["true_hidden_size", "intra_bottleneck_size", "use_bottleneck"];

/// The parts that have configs of their own inside that of the whole, as transformers calls both: `text_config` and `text_model`.
pub(super) const PARTS: [&str; 3] = ["text", "vision", "audio"];

/// Keys of configs whose vocabulary is cut into several tables.
const CUT: [&str; 2] = ["cutoffs", "adaptive"];

/// What to do where the config is that of other weights.
pub(super) const ANOTHER_CONFIG: &str =
    "load the weights with the config they were made with, or convert them again";
/// What to do where parts that the config promises are not there.
pub(super) const LEFT_AT_RANDOM: &str = "a loader leaves at random what it does not find: take the checkpoint that was written with this config, or write it again";

/// A config as far as it holds sizes.
pub(super) struct Config<'a>(pub &'a BTreeMap<String, Value>);

impl<'a> Config<'a> {
    /// The first of `keys` that holds a size, with its value.
    pub(super) fn size<'k>(&self, keys: &[&'k str]) -> Option<(&'k str, u64)> {
        keys.iter().find_map(|key| Some((*key, self.0.get(*key)?.as_u64()?)))
    }

    pub(super) fn model_type(&self) -> &'a str {
        self.0.get("model_type").and_then(Value::as_str).unwrap_or_default()
    }

    /// The class that it was saved from.
    pub(super) fn class(&self) -> &'a str {
        self.0.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.0.get(key).and_then(Value::as_bool)
    }

    /// The config of a part: `text_config`.
    pub(super) fn part(&self, part: &str) -> Option<&'a Map<String, Value>> {
        self.0.get(&format!("{part}_config")).and_then(Value::as_object)
    }

    /// The model type of a part.
    pub(super) fn type_of_part(&self, part: &str) -> Option<&'a str> {
        self.part(part)?.get("model_type")?.as_str()
    }

    /// The first of `keys` that holds a size in the config of a part, as `text_config.num_hidden_layers`, with its value.
    pub(super) fn size_of_part(&self, part: &str, keys: &[&str]) -> Option<(String, u64)> {
        let values = self.part(part)?;
        keys.iter().find_map(|key| Some((format!("{part}_config.{key}"), values.get(*key)?.as_u64()?)))
    }

    /// The first part whose layers have a config of their own, where the text has a config too: what stands beside them describes none of
    /// them. Without one, it describes the text, and only the other towers have configs of their own (MiniCPM-V).
    pub(super) fn divided(&self) -> Option<&'static str> {
        self.part("text")?;
        PARTS.into_iter().find(|part| self.size_of_part(part, &LAYERS).is_some())
    }

    fn is_set(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|value| !value.is_null())
    }

    /// MLX calls it `quantization`, and packs tables into integers.
    pub(super) fn is_quantised(&self) -> bool {
        self.is_set("quantization_config") || self.is_set("quantization")
    }

    /// Why matrices may have other shapes than the config says, or other numbers of them.
    pub(super) fn recast(&self) -> Option<&'static str> {
        if self.is_quantised() {
            return Some("its config says that it is quantised");
        }
        CUT.into_iter()
            .any(|key| self.is_set(key))
            .then_some("its config says that the vocabulary is cut into several tables")
    }

    /// The key that says the blocks have a bottleneck. `false` and null say that they have none.
    pub(super) fn bottleneck(&self) -> Option<&'static str> {
        let says = |value: &Value| !matches!(value, Value::Null | Value::Bool(false));
        BOTTLENECK.into_iter().find(|key| self.0.get(*key).is_some_and(says))
    }

    /// Whether some of the feed-forward layers are mixtures, whose widths follow other keys.
    pub(super) fn has_experts(&self) -> bool {
        self.0.keys().any(|key| key.contains("expert") || key.starts_with("moe_"))
    }
}

/// What the config says under `key` against what the weights have, as `what`.
pub(super) fn contradict<'f>(
    subject: Subject,
    (key, declared): (&str, u64),
    (what, found): (&str, u64),
    findings: &'f mut Findings,
) -> &'f mut Finding {
    let message = format!("the config says {key} {declared}, {what} {found}");
    let finding = findings.push(subject, message, ANOTHER_CONFIG);
    let (value, limit) = (found as f64, declared as f64);
    if found > declared {
        finding.against(what, value, limit, "elements")
    } else {
        finding.short_of(what, value, limit, "elements")
    }
}

/// Whether nothing says that it is a part of a model only: adapters are, and what could not be read leaves gaps of its own.
pub(super) fn is_whole(checkpoint: &CheckpointAnalysis) -> bool {
    let is_unread = |tensor: &TensorAnalysis| tensor.section == Section::Model && tensor.dtype.is_none();
    let is_lost = checkpoint.problems.iter().any(|problem| problem.damage || problem.kind == "other-model");
    let is_of_adapter = checkpoint.files.iter().any(|file| file.name.contains("adapter_model"));
    !is_lost
        && !is_of_adapter
        && !checkpoint.tensors.iter().any(|tensor| tensor.is_of_adapter() || is_unread(tensor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Role;
    use crate::rules::test_support::{checkpoint, file, tensor};

    #[test]
    fn an_adapter_is_a_part_of_a_model_only_whatever_its_kind() {
        let with = |name: &str| checkpoint(vec![tensor(name, Role::Other, &[8, 1])]);
        assert!(is_whole(&with("layers.0.k_proj.weight")));
        for leaf in ["ia3_l", "hada_w1_a", "lokr_w1", "oft_R.weight", "vera_lambda_b"] {
            assert!(!is_whole(&with(&format!("base_model.model.layers.0.k_proj.{leaf}"))), "{leaf}");
        }
        assert!(!is_whole(&with("prompt_embeddings")));
        let mut named = with("layers.0.k_proj.weight");
        named.files.push(file("adapter_model.safetensors", 0));
        assert!(!is_whole(&named));
    }
}
