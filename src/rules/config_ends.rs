//! Whether blocks that a config promises behind the last one of a stack were lost, or are another's.

use super::config_sizes::{Config, VOCABULARY};
use super::model_types::{self, Saved};
use crate::analysis::model::{CheckpointAnalysis, Role};

/// Whether the checkpoint is the whole of a network whose config promises blocks behind the last of `stack`: of a model type that is known,
/// of a class of transformers or of none, no adapter, draft head or stage of a pipeline. Such blocks were lost, or the
/// config is that of another network; a loader leaves them at random either way.
pub(super) fn lacks_its_end(
    checkpoint: &CheckpointAnalysis,
    config: &Config<'_>,
    part: Option<&str>,
    stack: &str,
) -> bool {
    let kind = part.map_or(config.model_type(), |part| config.type_of_part(part).unwrap_or_default());
    let is_whole = match model_types::known(kind) {
        Some((Saved::InStages, _)) => has_an_end(checkpoint, config, stack),
        Some((Saved::Whole, _)) => true,
        None => false,
    };
    // The class beside several parts is that of the whole.
    is_whole && (part.is_some() || is_class_of_type(config))
}

/// Whether the config is of a model type whose blocks are known to be numbered, and of one of its classes or of none.
pub(super) fn has_known_blocks(config: &Config<'_>) -> bool {
    model_types::known(config.model_type()).is_some() && is_class_of_type(config)
}

/// Whether a norm or a head of its own stands behind the blocks of the stack: the first stage of a pipeline has none. The norm of the
/// embeddings is before them.
fn has_an_end(checkpoint: &CheckpointAnalysis, config: &Config<'_>, stack: &str) -> bool {
    // A head over the vocabulary: the map that joins hidden states before a draft head is called like one.
    let words = config.size(&VOCABULARY).map(|(_, words)| words);
    let beside = stack.rsplit_once('.').map_or("", |(path, _)| path);
    // Encoders of images keep their blocks a level deeper than what follows them: `vit.encoder.layer`, `vit.layernorm`.
    let beside = beside.strip_suffix("encoder").map_or(beside, |path| path.trim_end_matches('.'));
    checkpoint.tensors.iter().any(|tensor| {
        let is_beside =
            || tensor.canonical_name.strip_prefix(beside).is_some_and(|rest| !rest.contains("embed"));
        let is_end = match tensor.role {
            Role::NormGain => is_beside(),
            role => role == Role::OutputHead && tensor.shape.first().copied() == words,
        };
        tensor.is_parameter() && tensor.layer.index.is_none() && is_end
    })
}

/// Words in the classes of heads that draft for a network of the type and have a block or two of their own.
const DRAFTS: [&str; 5] = ["eagle", "draft", "mtp", "medusa", "speculat"];

/// Whether the class, where one is named, is one that the model type has: `GPTNeoXForCausalLM` of `gpt_neox`, and not a draft head
/// `LlamaForCausalLMEagle3` of `llama`.
fn is_class_of_type(config: &Config<'_>) -> bool {
    let class = config.class().to_ascii_lowercase();
    let kind = config.model_type().trim_end_matches("_text").replace(['_', '-'], "");
    let Some(rest) = class.strip_prefix(&kind) else {
        // Types and classes of one network that are called differently.
        return class.is_empty() || (kind == "audiospectrogramtransformer" && class.starts_with("ast"));
    };
    let heads =
        ["causallm", "maskedlm", "pretraining", "generation", "classification", "answering", "choice"];
    let others = ["model", "ctc", "detection", "modeling", "prediction", "xvector", "segmentation"];
    let is_draft = DRAFTS.iter().any(|word| rest.contains(word));
    // `CLIPTextModel` of `clip_text_model`.
    rest.is_empty() || !is_draft && heads.iter().chain(&others).any(|end| rest.ends_with(end))
}
