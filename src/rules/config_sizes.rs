//! A config as far as it holds sizes, and what of it describes a part of the network alone.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

pub(super) const HIDDEN: [&str; 3] = ["hidden_size", "n_embd", "d_model"];
/// Where embeddings are narrower than the hidden states: ALBERT and ELECTRA, OPT.
pub(super) const EMBEDDING: [&str; 2] = ["embedding_size", "word_embed_proj_dim"];
pub(super) const INNER: [&str; 4] = ["intermediate_size", "n_inner", "ffn_dim", "d_ff"];
pub(super) const LAYERS: [&str; 3] = ["num_hidden_layers", "n_layer", "num_layers"];
pub(super) const HEADS: [&str; 2] = ["num_attention_heads", "n_head"];
pub(super) const VOCABULARY: [&str; 1] = ["vocab_size"];
/// Where the blocks are narrower inside than the stream between them, so that no one hidden size holds: `MobileBERT`.
pub(super) const BOTTLENECK: [&str; 3] = ["true_hidden_size", "intra_bottleneck_size", "use_bottleneck"];

/// The parts that have configs of their own inside that of the whole, as transformers calls both: `text_config` and `text_model`.
pub(super) const PARTS: [&str; 3] = ["text", "vision", "audio"];

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

    /// The first of `keys` that holds a size in the config of a part, as `text_config.num_hidden_layers`, with its value.
    pub(super) fn size_of_part(&self, part: &str, keys: &[&str]) -> Option<(String, u64)> {
        let values = self.part(part)?;
        keys.iter().find_map(|key| Some((format!("{part}_config.{key}"), values.get(*key)?.as_u64()?)))
    }

    /// The first part whose layers have a config of their own: what stands beside it describes none of them.
    pub(super) fn divided(&self) -> Option<&'static str> {
        PARTS.into_iter().find(|part| self.size_of_part(part, &LAYERS).is_some())
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
