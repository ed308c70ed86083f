//! LLaMA (Touvron et al. 2023) and what is built like it: Mistral with a sliding window, Qwen2 with biases, Qwen3 with norms
//! of queries and keys. RMSNorm in front of every sub-layer, rotary positions, shared keys and values, gated MLP.

use std::sync::Arc;

use super::Places;
use super::config::Config;
use super::draft::{Draft, Heads, parts};
use super::rope::{self, Rotation};
use crate::error::Result;
use crate::network::{Assembly, Block, Embedding, InputKind, Mask, Multiply, Network, Rotary, ValueId};

/// Before the names of the model with a head, and of the model alone.
const PREFIXES: [&str; 2] = ["model.", ""];

/// What all layers share.
struct Sizes {
    width: usize,
    inner: usize,
    heads: usize,
    shared: usize,
    head: usize,
    epsilon: f64,
    rotation: Rotation,
    /// Biases of queries, keys and values; of the attention's output; of the MLP.
    biases: [bool; 3],
    norms_heads: bool,
}

pub(super) fn build(config: &Config<'_>, kind: &str, places: &Places<'_>) -> Result<Network> {
    let vocabulary = config.size("vocab_size")?;
    let sizes = sizes(config, kind)?;
    let width = sizes.width;
    let prefix = places.prefix(&PREFIXES, "embed_tokens.weight").unwrap_or(PREFIXES[0]);
    let input = InputKind::Tokens { vocabulary, positions: sizes.rotation.longest };
    let mut draft = Draft { assembly: Assembly::new(kind, input), places, prefix: prefix.to_owned() };
    let table = draft.assembly.parameter(&format!("{prefix}embed_tokens.weight"), &[vocabulary, width]);
    let mut x = draft.assembly.push("embed_tokens", Embedding { count: vocabulary, width, table }, &[]);
    for layer in 0..config.layers("num_hidden_layers")? {
        let mask = window(config, kind, layer)?.map_or(Mask::Causal, Mask::Window);
        x = block(config, &sizes, &mut draft, (layer, mask), x)?;
    }
    x = draft.rms_norm("norm", x, width, sizes.epsilon);
    let is_tied = config.flag_or("tie_word_embeddings", false)?;
    if is_tied && config.architecture_has("CausalLM") {
        x = draft.tied_head("lm_head", "embed_tokens.weight", x, (width, vocabulary));
    } else if places.find("lm_head.weight").is_some() || config.architecture_has("CausalLM") {
        draft.prefix.clear();
        x = draft.linear("lm_head", x, (width, vocabulary), false);
    }
    Ok(draft.finish(x))
}

fn sizes(config: &Config<'_>, kind: &str) -> Result<Sizes> {
    let (width, heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
    let shared = config.size_or("num_key_value_heads", heads)?;
    config.divided("num_key_value_heads", heads, shared)?;
    let head = match config.get("head_dim") {
        Some(_) => config.size("head_dim")?,
        None => config.divided("num_attention_heads", width, heads)?,
    };
    let head = config.head("head_dim", head)?;
    let all = config.flag_or("attention_bias", false)?;
    let attention = if kind == "qwen2" { [true, false] } else { [all, all] };
    Ok(Sizes {
        width,
        inner: config.size("intermediate_size")?,
        heads,
        shared,
        head,
        epsilon: config.number_or("rms_norm_eps", 1e-6)?,
        rotation: rope::rotation(config, head)?,
        biases: [attention[0], attention[1], config.flag_or("mlp_bias", false)?],
        norms_heads: kind == "qwen3",
    })
}

/// The sliding window of a layer, where it has one.
fn window(config: &Config<'_>, kind: &str, layer: usize) -> Result<Option<usize>> {
    let size = || config.size("sliding_window").map(Some);
    if config.get("sliding_window").is_none() || kind == "llama" {
        return Ok(None);
    }
    if let Some(kinds) = config.get("layer_types").and_then(serde_json::Value::as_array) {
        return match kinds.get(layer).and_then(serde_json::Value::as_str) {
            Some("full_attention") => Ok(None),
            Some("sliding_attention") => size(),
            _ => Err(config.not_built("layer_types")),
        };
    }
    if kind == "mistral" {
        return size();
    }
    let from = config.size_or("max_window_layers", usize::MAX)?;
    if config.flag_or("use_sliding_window", false)? && layer >= from { size() } else { Ok(None) }
}

fn block(
    config: &Config<'_>,
    sizes: &Sizes,
    draft: &mut Draft<'_>,
    (layer, mask): (usize, Mask),
    x: ValueId,
) -> Result<ValueId> {
    let &Sizes { width, inner, heads, shared, head, epsilon, .. } = sizes;
    let [qkv_bias, out_bias, mlp_bias] = sizes.biases;
    let name = |rest: &str| format!("layers.{layer}.{rest}");

    let normal = draft.rms_norm(&name("input_layernorm"), x, width, epsilon);
    let (all, some) = ((width, heads * head), (width, shared * head));
    let mut queries = draft.linear(&name("self_attn.q_proj"), normal, all, qkv_bias);
    let mut keys = draft.linear(&name("self_attn.k_proj"), normal, some, qkv_bias);
    let values = draft.linear(&name("self_attn.v_proj"), normal, some, qkv_bias);
    if sizes.norms_heads {
        queries = draft.rms_norm(&name("self_attn.q_norm"), queries, head, epsilon);
        keys = draft.rms_norm(&name("self_attn.k_norm"), keys, head, epsilon);
    }
    let Rotation { frequencies, factor, .. } = &sizes.rotation;
    let rotary = |heads| Rotary { heads, width: head, frequencies: Arc::clone(frequencies), factor: *factor };
    let queries = draft.assembly.push(&name("self_attn.q_rotary"), rotary(heads), &[queries]);
    let keys = draft.assembly.push(&name("self_attn.k_rotary"), rotary(shared), &[keys]);
    let plain = Heads { shared, mask, ..Heads::plain(heads, head) };
    let mixed = draft.attention(&name("self_attn"), [queries, keys, values], &plain);
    let attended = draft.linear(&name("self_attn.o_proj"), mixed, (heads * head, width), out_bias);
    let middle = draft.add(&name("self_attn.residual"), x, attended);

    let normal = draft.rms_norm(&name("post_attention_layernorm"), middle, width, epsilon);
    let gate = draft.linear(&name("mlp.gate_proj"), normal, (width, inner), mlp_bias);
    let gate = draft.activation(&name("mlp.act_fn"), gate, config.activation("hidden_act", "silu")?);
    let up = draft.linear(&name("mlp.up_proj"), normal, (width, inner), mlp_bias);
    let gated = draft.assembly.push(&name("mlp.gated"), Multiply, &[gate, up]);
    let fed = draft.linear(&name("mlp.down_proj"), gated, (inner, width), mlp_bias);
    let output = draft.add(&format!("layers.{layer}"), middle, fed);
    draft.assembly.block(Block {
        name: format!("layers.{layer}"),
        input: x,
        output,
        parts: parts((x, attended), &[queries, keys], (middle, fed)),
    });
    Ok(output)
}
