//! ALBERT (Lan et al. 2020): BERT with a narrow embedding that is widened once, and parameters that layers share.

use super::Places;
use super::bert::{Sizes, begin, embed, masked_head};
use super::config::{Config, MOST_LAYERS};
use super::draft::{Draft, Heads, parts};
use crate::error::Result;
use crate::network::{Block, Network, ValueId};

const PREFIXES: [&str; 2] = ["albert.", ""];

pub(super) fn build(config: &Config<'_>, places: &Places<'_>) -> Result<Network> {
    let sizes = Sizes::of(config)?;
    let embedded = config.size("embedding_size")?;
    let (layers, groups) = (config.layers("num_hidden_layers")?, config.size_or("num_hidden_groups", 1)?);
    let inner = config.size_or("inner_group_num", 1)?;
    config.at_most("inner_group_num", layers.saturating_mul(inner), MOST_LAYERS)?;
    let mut draft = begin(config, "albert", places, &PREFIXES, 0)?;
    let x = embed(config, &mut draft, (embedded, sizes.epsilon), 0)?;
    let mut x = draft.linear("encoder.embedding_hidden_mapping_in", x, (embedded, sizes.width), true);
    for layer in 0..layers {
        let group = layer * groups / layers;
        for index in 0..inner {
            let shared = format!("encoder.albert_layer_groups.{group}.albert_layers.{index}");
            let name = if inner == 1 { format!("layer.{layer}") } else { format!("layer.{layer}.{index}") };
            x = block(config, &sizes, &mut draft, (&shared, &name), x)?;
        }
    }
    let names = ["predictions.dense", "predictions.LayerNorm", "predictions"];
    x = masked_head(config, &mut draft, names, (sizes.width, embedded, sizes.epsilon), x)?;
    Ok(draft.finish(x))
}

/// A layer of its own name with the parameters that it shares.
fn block(
    config: &Config<'_>,
    sizes: &Sizes,
    draft: &mut Draft<'_>,
    (shared, block): (&str, &str),
    x: ValueId,
) -> Result<ValueId> {
    let &Sizes { width, inner, heads, epsilon } = sizes;
    let first = draft.assembly.count();
    let name = |rest: &str| format!("{shared}.{rest}");
    let square = (width, width);

    let queries = draft.linear(&name("attention.query"), x, square, true);
    let keys = draft.linear(&name("attention.key"), x, square, true);
    let values = draft.linear(&name("attention.value"), x, square, true);
    let plain = Heads::plain(heads, config.divided("num_attention_heads", width, heads)?);
    let mixed = draft.attention(&name("attention"), [queries, keys, values], &plain);
    let attended = draft.linear(&name("attention.dense"), mixed, square, true);
    let sum = draft.add(&name("attention.residual"), x, attended);
    let middle = draft.layer_norm(&name("attention.LayerNorm"), sum, width, epsilon);

    let hidden = draft.linear(&name("ffn"), middle, (width, inner), true);
    let hidden = draft.activation(&name("ffn.act"), hidden, config.activation("hidden_act", "gelu_new")?);
    let fed = draft.linear(&name("ffn_output"), hidden, (inner, width), true);
    let sum = draft.add(&name("residual"), middle, fed);
    let output = draft.layer_norm(&name("full_layer_layer_norm"), sum, width, epsilon);

    // Nodes are named after the layer that they are in, not after the one whose parameters they share.
    draft.assembly.rename(first, shared, block);
    draft.assembly.block(Block {
        name: block.to_owned(),
        input: x,
        output,
        parts: parts((x, attended), &[queries, keys], (middle, fed)),
    });
    Ok(output)
}
