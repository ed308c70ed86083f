//! GPT-2 (Radford et al. 2019): learned positions, LayerNorm in front of every sub-layer, weights of linear layers stored
//! the other way round, logits by the embedding's own table.

use super::Places;
use super::config::Config;
use super::draft::{Draft, Heads, parts};
use crate::error::Result;
use crate::network::{Assembly, Block, Embedding, InputKind, Mask, Network, Rows, ValueId};

/// Before the names of the model with a head, and of the model alone.
const PREFIXES: [&str; 2] = ["transformer.", ""];

pub(super) fn build(config: &Config<'_>, places: &Places<'_>) -> Result<Network> {
    let (width, vocabulary) = (config.size("n_embd")?, config.size("vocab_size")?);
    let (positions, layers) = (config.size("n_positions")?, config.layers("n_layer")?);
    let epsilon = config.number_or("layer_norm_epsilon", 1e-5)?;
    if config.flag_or("add_cross_attention", false)? {
        return Err(config.not_built("add_cross_attention"));
    }
    let prefix = places.prefix(&PREFIXES, "wte.weight").unwrap_or(PREFIXES[0]);
    let input = InputKind::Tokens { vocabulary, positions: Some(positions) };
    let mut draft = Draft { assembly: Assembly::new("gpt2", input), places, prefix: prefix.to_owned() };
    let table = draft.assembly.parameter(&format!("{prefix}wte.weight"), &[vocabulary, width]);
    let mut x = draft.assembly.push("wte", Embedding { count: vocabulary, width, table }, &[]);
    x = draft.add_rows("wpe", x, positions, width, Rows::From(0));
    for layer in 0..layers {
        x = block(config, &mut draft, layer, x)?;
    }
    x = draft.layer_norm("ln_f", x, width, epsilon);
    if config.architecture_has("LMHead") || places.find("lm_head.weight").is_some() {
        x = head(config, &mut draft, x, (width, vocabulary))?;
    }
    Ok(draft.finish(x))
}

fn head(
    config: &Config<'_>,
    draft: &mut Draft<'_>,
    x: ValueId,
    (width, vocabulary): (usize, usize),
) -> Result<ValueId> {
    if config.flag_or("tie_word_embeddings", true)? {
        return Ok(draft.tied_head("lm_head", "wte.weight", x, (width, vocabulary)));
    }
    draft.prefix.clear();
    Ok(draft.linear("lm_head", x, (width, vocabulary), false))
}

fn block(config: &Config<'_>, draft: &mut Draft<'_>, layer: usize, x: ValueId) -> Result<ValueId> {
    let width = config.size("n_embd")?;
    let inner = config.size_or("n_inner", 4 * width)?;
    let epsilon = config.number_or("layer_norm_epsilon", 1e-5)?;
    let heads = config.size("n_head")?;
    let mut heads =
        Heads { mask: Mask::Causal, ..Heads::plain(heads, config.divided("n_head", width, heads)?) };
    if !config.flag_or("scale_attn_weights", true)? {
        heads.scale = 1.0;
    }
    if config.flag_or("scale_attn_by_inverse_layer_idx", false)? {
        heads.scale /= (layer + 1) as f64;
    }
    let name = |rest: &str| format!("h.{layer}.{rest}");

    let normal = draft.layer_norm(&name("ln_1"), x, width, epsilon);
    let all = draft.convolution(&name("attn.c_attn"), normal, (width, 3 * width));
    let queries = draft.part(&name("attn.query"), all, width, 0);
    let keys = draft.part(&name("attn.key"), all, width, 1);
    let values = draft.part(&name("attn.value"), all, width, 2);
    let mixed = draft.attention(&name("attn"), [queries, keys, values], &heads);
    let attended = draft.convolution(&name("attn.c_proj"), mixed, (width, width));
    let middle = draft.add(&name("attn.residual"), x, attended);

    let normal = draft.layer_norm(&name("ln_2"), middle, width, epsilon);
    let hidden = draft.convolution(&name("mlp.c_fc"), normal, (width, inner));
    let function = config.activation("activation_function", "gelu_new")?;
    let hidden = draft.activation(&name("mlp.act"), hidden, function);
    let fed = draft.convolution(&name("mlp.c_proj"), hidden, (inner, width));
    let output = draft.add(&format!("h.{layer}"), middle, fed);
    draft.assembly.block(Block {
        name: format!("h.{layer}"),
        input: x,
        output,
        parts: parts((x, attended), &[queries, keys], (middle, fed)),
    });
    Ok(output)
}
