//! What is known of transformers' model types whose number of layers counts one stack of blocks, or one for each side, and nothing else. Networks
//! that share blocks, that were pruned, or that are joined of several are not among them.

/// How a network is saved.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Saved {
    /// Also in stages of a pipeline, of which the last alone has the norm or the head behind the blocks.
    InStages,
    /// As a whole: encoders, and networks of encoder and decoder.
    Whole,
}

/// What the layers are to each other.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Layers {
    /// Of the same parameters all, the first and the last too.
    Alike,
    /// Some may have others, or it is not known.
    Various,
}

use super::config_sizes::{Config, PARTS};
use crate::analysis::model::CheckpointAnalysis;
use Layers::{Alike, Various};
use Saved::{InStages, Whole};

#[rustfmt::skip]
const MODEL_TYPES: [(&str, Saved, Layers); 83] = [
    ("llama", InStages, Various),
    ("mistral", InStages, Various),
    ("ministral", InStages, Various),
    ("mixtral", InStages, Alike),
    ("qwen2", InStages, Various),
    ("qwen2_moe", InStages, Various),
    ("qwen3", InStages, Various),
    ("qwen3_moe", InStages, Various),
    ("gemma", InStages, Alike),
    ("gemma2", InStages, Alike),
    ("gemma3_text", InStages, Alike),
    ("phi", InStages, Alike),
    ("phi3", InStages, Alike),
    ("phimoe", InStages, Various),
    ("gpt2", InStages, Various),
    ("gpt_neo", InStages, Alike),
    ("gpt_neox", InStages, Alike),
    ("gptj", InStages, Alike),
    ("gpt_bigcode", InStages, Alike),
    ("bloom", InStages, Alike),
    ("falcon", InStages, Alike),
    ("opt", InStages, Alike),
    ("olmo", InStages, Alike),
    ("olmo2", InStages, Alike),
    ("olmo3", InStages, Various),
    ("olmoe", InStages, Various),
    ("starcoder2", InStages, Alike),
    ("stablelm", InStages, Alike),
    ("cohere", InStages, Alike),
    ("cohere2", InStages, Various),
    ("granite", InStages, Alike),
    ("granitemoe", InStages, Various),
    ("glm", InStages, Alike),
    ("glm4", InStages, Alike),
    ("persimmon", InStages, Various),
    ("smollm3", InStages, Various),
    ("mamba", InStages, Various),
    ("mamba2", InStages, Various),
    ("vit", InStages, Alike),
    ("deit", InStages, Alike),
    ("dinov2", InStages, Various),
    ("yolos", InStages, Various),
    ("codegen", InStages, Various),
    ("xglm", InStages, Various),
    ("deepseek_v2", InStages, Various),
    ("deepseek_v3", InStages, Various),
    ("glm4_moe", InStages, Various),
    ("bert", Whole, Various),
    ("roberta", Whole, Various),
    ("xlm-roberta", Whole, Various),
    ("camembert", Whole, Various),
    ("electra", Whole, Alike),
    ("deberta", Whole, Various),
    ("deberta-v2", Whole, Various),
    ("mpnet", Whole, Various),
    ("esm", Whole, Various),
    ("layoutlm", Whole, Various),
    ("longformer", Whole, Various),
    ("big_bird", Whole, Various),
    ("roformer", Whole, Various),
    ("ernie", Whole, Various),
    ("nystromformer", Whole, Various),
    ("modernbert", Whole, Various),
    ("wav2vec2", Whole, Various),
    ("hubert", Whole, Various),
    ("wavlm", Whole, Various),
    ("unispeech", Whole, Various),
    ("audio-spectrogram-transformer", Whole, Various),
    ("t5", Whole, Various),
    ("mt5", Whole, Various),
    ("umt5", Whole, Various),
    ("longt5", Whole, Various),
    ("bart", Whole, Various),
    ("mbart", Whole, Various),
    ("pegasus", Whole, Various),
    ("marian", Whole, Various),
    ("m2m_100", Whole, Various),
    ("blenderbot", Whole, Various),
    ("whisper", Whole, Various),
    ("speech_to_text", Whole, Various),
    ("plbart", Whole, Various),
    ("clip_text_model", Whole, Various),
    ("siglip_text_model", Whole, Various),
];

/// What is known of `model_type`.
pub(super) fn known(model_type: &str) -> Option<(Saved, Layers)> {
    MODEL_TYPES.iter().find(|(name, ..)| *name == model_type).map(|&(_, saved, layers)| (saved, layers))
}

/// How model types of transformers begin whose norms add their gain to 1, so that it begins at zero, beside others in the same network that do not
/// (`(1.0 + self.weight)` in their `modeling_*.py`, transformers 5.24).
const ADDED_TO_ONE: [&str; 12] = [
    "gemma",
    "minimax_m3",
    "muse_",
    "nemotron",
    "qwen3_5",
    "qwen3_next",
    "qwen4_exp",
    "recurrent_gemma",
    "step3p7",
    "t5gemma",
    "vaultgemma",
    "videoprism",
];

/// Whether norms of the network, or of a part of it, add their gain to 1.
pub(super) fn adds_gains_to_one(checkpoint: &CheckpointAnalysis) -> bool {
    let Some(config) = checkpoint.config.value().map(Config) else { return false };
    let of_parts = PARTS.iter().filter_map(|part| config.type_of_part(part));
    let mut kinds = of_parts.chain([config.model_type()]);
    kinds.any(|kind| ADDED_TO_ONE.iter().any(|begin| kind.starts_with(begin)))
}
