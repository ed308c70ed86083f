//! BERT (Devlin et al. 2019), RoBERTa and MiniLM: every token sees all others, LayerNorm behind every sub-layer.
//!
//! One sequence of one type, without padding. RoBERTa counts positions from the one behind its padding token; ids that are
//! the padding token get ordinary positions here.

use super::Places;
use super::config::Config;
use super::draft::{Draft, Heads, parts};
use crate::error::Result;
use crate::network::{Assembly, Block, Embedding, InputKind, Linear, Network, Rows, ValueId};

/// Sizes of embeddings and layers, and what BERT, RoBERTa and ALBERT call them alike.
pub(super) struct Sizes {
    pub width: usize,
    pub inner: usize,
    pub heads: usize,
    pub epsilon: f64,
}

impl Sizes {
    pub fn of(config: &Config<'_>) -> Result<Self> {
        if config.text("position_embedding_type").is_some_and(|kind| kind != "absolute") {
            return Err(config.not_built("position_embedding_type"));
        }
        if config.flag_or("is_decoder", false)? {
            return Err(config.not_built("is_decoder"));
        }
        Ok(Self {
            width: config.size("hidden_size")?,
            inner: config.size("intermediate_size")?,
            heads: config.size("num_attention_heads")?,
            epsilon: config.number_or("layer_norm_eps", 1e-12)?,
        })
    }
}

pub(super) fn build(config: &Config<'_>, kind: &str, places: &Places<'_>) -> Result<Network> {
    let sizes = Sizes::of(config)?;
    // The position of the first token, and the row that never is one.
    let first = if kind == "bert" { 0 } else { padding(config)? + 1 };
    let prefixes: &[&str] = if kind == "bert" { &["bert.", ""] } else { &["roberta.", ""] };
    let mut draft = begin(config, kind, places, prefixes, first)?;
    let mut x = embed(config, &mut draft, (sizes.width, sizes.epsilon), first)?;
    for layer in 0..config.layers("num_hidden_layers")? {
        x = block(config, &sizes, &mut draft, layer, x)?;
    }
    let names = if kind == "bert" {
        ["cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions"]
    } else {
        ["lm_head.dense", "lm_head.layer_norm", "lm_head"]
    };
    x = masked_head(config, &mut draft, names, (sizes.width, sizes.width, sizes.epsilon), x)?;
    Ok(draft.finish(x))
}

fn padding(config: &Config<'_>) -> Result<usize> {
    match config.get("pad_token_id").and_then(serde_json::Value::as_u64) {
        Some(0) => Ok(0),
        _ => config.size_or("pad_token_id", 1),
    }
}

/// A network of token ids, with as many positions as the table has behind the first.
pub(super) fn begin<'p>(
    config: &Config<'_>,
    kind: &str,
    places: &'p Places<'p>,
    prefixes: &[&str],
    first: usize,
) -> Result<Draft<'p>> {
    let positions = config.size("max_position_embeddings")?.saturating_sub(first);
    let input = InputKind::Tokens { vocabulary: config.size("vocab_size")?, positions: Some(positions) };
    let prefix = places.prefix(prefixes, "embeddings.word_embeddings.weight").unwrap_or(prefixes[0]);
    Ok(Draft { assembly: Assembly::new(kind, input), places, prefix: prefix.to_owned() })
}

/// The sum of the embeddings of token, type and position, normalised.
pub(super) fn embed(
    config: &Config<'_>,
    draft: &mut Draft<'_>,
    (width, epsilon): (usize, f64),
    first: usize,
) -> Result<ValueId> {
    let count = config.size("vocab_size")?;
    let name = format!("{}embeddings.word_embeddings.weight", draft.prefix);
    let table = draft.assembly.parameter(&name, &[count, width]);
    let x = draft.assembly.push("embeddings.word_embeddings", Embedding { count, width, table }, &[]);
    let types = config.size_or("type_vocab_size", 2)?;
    let x = draft.add_rows("embeddings.token_type_embeddings", x, types, width, Rows::Always(0));
    let positions = config.size("max_position_embeddings")?;
    let x = draft.add_rows("embeddings.position_embeddings", x, positions, width, Rows::From(first));
    Ok(draft.layer_norm("embeddings.LayerNorm", x, width, epsilon))
}

fn block(
    config: &Config<'_>,
    sizes: &Sizes,
    draft: &mut Draft<'_>,
    layer: usize,
    x: ValueId,
) -> Result<ValueId> {
    let &Sizes { width, inner, heads, epsilon } = sizes;
    let name = |rest: &str| format!("encoder.layer.{layer}.{rest}");
    let square = (width, width);

    let queries = draft.linear(&name("attention.self.query"), x, square, true);
    let keys = draft.linear(&name("attention.self.key"), x, square, true);
    let values = draft.linear(&name("attention.self.value"), x, square, true);
    let plain = Heads::plain(heads, config.divided("num_attention_heads", width, heads)?);
    let mixed = draft.attention(&name("attention.self"), [queries, keys, values], &plain);
    let attended = draft.linear(&name("attention.output.dense"), mixed, square, true);
    let sum = draft.add(&name("attention.residual"), x, attended);
    let middle = draft.layer_norm(&name("attention.output.LayerNorm"), sum, width, epsilon);

    let hidden = draft.linear(&name("intermediate.dense"), middle, (width, inner), true);
    let function = config.activation("hidden_act", "gelu")?;
    let hidden = draft.activation(&name("intermediate.act"), hidden, function);
    let fed = draft.linear(&name("output.dense"), hidden, (inner, width), true);
    let sum = draft.add(&name("output.residual"), middle, fed);
    let output = draft.layer_norm(&name("output.LayerNorm"), sum, width, epsilon);
    draft.assembly.block(Block {
        name: format!("encoder.layer.{layer}"),
        input: x,
        output,
        parts: parts((x, attended), &[queries, keys], (middle, fed)),
    });
    Ok(output)
}

/// The head of a masked language model by the names of its layers, where the checkpoint has one: `width` numbers of a token
/// to as many as the embedding has, and logits by the embedding's own table.
pub(super) fn masked_head(
    config: &Config<'_>,
    draft: &mut Draft<'_>,
    [dense, norm, decoder]: [&str; 3],
    (width, embedded, epsilon): (usize, usize, f64),
    x: ValueId,
) -> Result<ValueId> {
    // One tensor of it that is left says that there was a head.
    let leaves = ["weight", "bias", "gamma", "beta"];
    let layers = [dense, norm, decoder, &format!("{decoder}.decoder")];
    let mut names = layers.iter().flat_map(|layer| leaves.map(|leaf| format!("{layer}.{leaf}")));
    if !names.any(|name| draft.places.find(&name).is_some()) {
        return Ok(x);
    }
    let vocabulary = config.size("vocab_size")?;
    // The head lies beside the model, not in it.
    let prefix = std::mem::take(&mut draft.prefix);
    let x = draft.linear(dense, x, (width, embedded), true);
    let x = draft.activation(&format!("{dense}.act"), x, config.activation("hidden_act", "gelu")?);
    let x = draft.layer_norm(norm, x, embedded, epsilon);
    let table = if config.flag_or("tie_word_embeddings", true)? {
        format!("{prefix}embeddings.word_embeddings.weight")
    } else {
        format!("{decoder}.decoder.weight")
    };
    let weight = draft.assembly.parameter(&table, &[vocabulary, embedded]);
    let names = [format!("{decoder}.bias"), format!("{decoder}.decoder.bias")];
    let [own, _] = &names;
    let bias = names.iter().find(|name| draft.has(name)).unwrap_or(own);
    let bias = Some(draft.assembly.parameter(bias, &[vocabulary]));
    let head = Linear { inputs: embedded, outputs: vocabulary, weight, bias, transposed: false };
    Ok(draft.assembly.push(decoder, head, &[x]))
}
