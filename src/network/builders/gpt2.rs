//! GPT-2 (Radford et al. 2019): learned positions, LayerNorm in front of every sub-layer, weights of linear layers stored
//! the other way round, logits by the embedding's own table. And as nanoGPT trains it: weights as PyTorch stores them,
//! biases only where they are asked for, GELU by erf.

use std::collections::BTreeMap;

use serde_json::Value;

use super::config::{Config, MOST_LAYERS};
use super::draft::{Draft, Heads, parts};
use super::state::State;
use super::{Built, Places};
use crate::compute::Unary;
use crate::error::{ErrorKind, Result};
use crate::network::{Assembly, Block, Embedding, InputKind, Mask, Network, Rows, ValueId};

/// Before the names of the model with a head, and of the model alone.
const PREFIXES: [&str; 2] = ["transformer.", ""];

/// Who wrote the model down.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// `transformers`.
    Transformers,
    /// nanoGPT, with the arguments of the model for a config.
    NanoGpt,
}

/// What the names and shapes of a GPT-2 tell of it: all but its heads, and what a config beside it says all the same.
pub(super) struct Shapes {
    writer: Writer,
    width: usize,
    config: BTreeMap<String, Value>,
}

/// What a block of GPT-2 has, its mask among it: with anything else it is a block of another network.
const BLOCK: [&str; 8] =
    ["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj", "attn.bias", "attn.masked_bias"];

impl Shapes {
    /// Those of a checkpoint; `None` where it has not the tensors of a GPT-2, or a config that says which model it is.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn of(state: &State<'_>) -> Result<Option<Self>> {
        let mut config = state.checkpoint.config.clone().unwrap_or_default();
        let prefix = state.places.prefix(&PREFIXES, "h.0.attn.c_attn.weight").unwrap_or(PREFIXES[0]);
        if config.contains_key("model_type") || !has_plain_blocks(state, prefix) {
            return Ok(None);
        }
        let weight = |name: &str| state.shape(&format!("{prefix}{name}.weight"));
        let all = [weight("wte")?, weight("wpe")?, weight("h.0.attn.c_attn")?, weight("h.0.mlp.c_fc")?];
        let [Some([vocabulary, width]), Some([positions, _]), Some(attention), Some(inner)] =
            all.each_ref().map(|shape| shape.as_ref()?.as_array::<2>())
        else {
            return Ok(None);
        };
        let (writer, inner) = match attention {
            [inputs, outputs] if inputs == width && *outputs == 3 * width => (Writer::Transformers, inner[1]),
            [outputs, inputs] if inputs == width && *outputs == 3 * width => (Writer::NanoGpt, inner[0]),
            _ => return Ok(None),
        };
        let has = |layer: &usize| state.has(&format!("{prefix}h.{layer}.attn.c_attn.weight"));
        let layers = (0..MOST_LAYERS).take_while(has).count();
        let sizes = [
            ("vocab_size", *vocabulary),
            ("n_embd", *width),
            ("n_positions", *positions),
            ("block_size", *positions),
            ("n_inner", inner),
            ("n_layer", layers),
        ];
        config.extend(sizes.into_iter().map(|(key, size)| (key.to_owned(), size.into())));
        let has_biases = state.has(&format!("{prefix}h.0.attn.c_attn.bias"));
        config.insert("bias".to_owned(), has_biases.into());
        // The prefix is that of a model with a head: a classifier's, or one of words, whose table is stored where it is not the embedding's.
        let has_words = prefix == PREFIXES[0] && !state.has("score.weight");
        let classes: &[&str] = if has_words { &["GPT2LMHeadModel"] } else { &[] };
        config.insert("architectures".to_owned(), classes.into());
        config.insert("tie_word_embeddings".to_owned(), (!state.has("lm_head.weight")).into());
        Ok(Some(Self { writer, width: *width, config }))
    }

    /// The network, with so many heads where no config says how many, and what is taken for granted of it.
    ///
    /// # Errors
    /// When nobody says how many, they do not divide the width, or its tensors are those of no GPT-2 after all.
    pub fn build(mut self, state: &State<'_>, heads: Option<usize>) -> Result<Built> {
        let stated = self.config.get("n_head").and_then(Value::as_u64).map(|heads| heads as usize);
        if let (Some(stated), Some(heads)) = (stated, heads)
            && stated != heads
        {
            return Err(state.unknown(format!("its config says {stated} heads, and --heads {heads}")));
        }
        let known = stated.or(heads);
        if let Some(heads) = known.filter(|heads| *heads == 0 || !self.width.is_multiple_of(*heads)) {
            return Err(state.unknown(format!("{heads} heads do not divide its width {}", self.width)));
        }
        // Whether it is a GPT-2 at all is asked first.
        self.config.insert("n_head".to_owned(), known.unwrap_or(1).into());
        let network = build(&Config::new(&self.config, &state.checkpoint.path), self.writer, &state.places)?;
        let mut built = Built::join(network, state.checkpoint).map_err(|error| {
            state.unknown(format!("its names and shapes are like those of a GPT-2, but {}", error.kind))
        })?;
        if known.is_none() {
            return Err(ErrorKind::UnknownHeads { architecture: "GPT-2" }.in_file(&state.checkpoint.path));
        }
        built.assumptions.push(self.assumption());
        Ok(built)
    }

    fn assumption(&self) -> String {
        let (stored, function) = match self.writer {
            Writer::Transformers => ("transformers stores it", "tanh"),
            Writer::NanoGpt => ("nanoGPT stores it", "erf"),
        };
        format!(
            "it is taken to be a GPT-2 as {stored}: queries, keys and values one after the other, a causal mask, logits over the root of a head's width and, where no config says otherwise, GELU by {function} and an epsilon of 1e-5; no shape tells it, give --model where it is another"
        )
    }
}

/// Whether the floating tensors of its blocks are those of GPT-2's and no others.
fn has_plain_blocks(state: &State<'_>, prefix: &str) -> bool {
    let is_plain = |name: &str| {
        let Some((_, own)) =
            name.strip_prefix(prefix).and_then(|name| name.strip_prefix("h.")?.split_once('.'))
        else {
            return true;
        };
        let layer = own.strip_suffix(".weight").or(own.strip_suffix(".bias")).unwrap_or(own);
        BLOCK.contains(&layer) || BLOCK.contains(&own)
    };
    state.names().into_iter().all(is_plain)
}

/// What all layers share.
struct Sizes {
    writer: Writer,
    width: usize,
    inner: usize,
    heads: Heads,
    epsilon: f64,
    function: Unary,
    has_biases: bool,
    divides_by_layer: bool,
}

pub(super) fn build(config: &Config<'_>, writer: Writer, places: &Places<'_>) -> Result<Network> {
    let sizes = sizes(config, writer)?;
    let (width, vocabulary) = (sizes.width, config.size("vocab_size")?);
    let positions = config.size(if writer == Writer::NanoGpt { "block_size" } else { "n_positions" })?;
    let prefix = places.prefix(&PREFIXES, "wte.weight").unwrap_or(PREFIXES[0]);
    let input = InputKind::Tokens { vocabulary, positions: Some(positions) };
    let mut draft = Draft { assembly: Assembly::new("gpt2", input), places, prefix: prefix.to_owned() };
    let table = draft.assembly.parameter(&format!("{prefix}wte.weight"), &[vocabulary, width]);
    let mut x = draft.assembly.push("wte", Embedding { count: vocabulary, width, table }, &[]);
    x = draft.add_rows("wpe", x, positions, width, Rows::From(0));
    for layer in 0..config.layers("n_layer")? {
        x = block(&sizes, &mut draft, layer, x);
    }
    x = sizes.norm(&mut draft, "ln_f", x);
    let has_head = config.architecture_has("LMHead") || writer == Writer::NanoGpt;
    if has_head || places.find("lm_head.weight").is_some() {
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

fn sizes(config: &Config<'_>, writer: Writer) -> Result<Sizes> {
    if config.flag_or("add_cross_attention", false)? {
        return Err(config.not_built("add_cross_attention"));
    }
    let (width, heads) = (config.size("n_embd")?, config.size("n_head")?);
    let mut heads =
        Heads { mask: Mask::Causal, ..Heads::plain(heads, config.divided("n_head", width, heads)?) };
    if !config.flag_or("scale_attn_weights", true)? {
        heads.scale = 1.0;
    }
    let function = if writer == Writer::NanoGpt { "gelu" } else { "gelu_new" };
    Ok(Sizes {
        writer,
        width,
        inner: config.size_or("n_inner", 4 * width)?,
        heads,
        epsilon: config.number_or("layer_norm_epsilon", 1e-5)?,
        function: config.activation("activation_function", function)?,
        has_biases: config.flag_or("bias", true)?,
        divides_by_layer: config.flag_or("scale_attn_by_inverse_layer_idx", false)?,
    })
}

impl Sizes {
    fn norm(&self, draft: &mut Draft<'_>, name: &str, x: ValueId) -> ValueId {
        draft.layer_norm_with(name, x, (self.width, self.epsilon), self.has_biases)
    }

    fn layer(&self, draft: &mut Draft<'_>, name: &str, x: ValueId, sizes: (usize, usize)) -> ValueId {
        match self.writer {
            Writer::Transformers => draft.convolution(name, x, sizes),
            Writer::NanoGpt => draft.linear(name, x, sizes, self.has_biases),
        }
    }
}

fn block(sizes: &Sizes, draft: &mut Draft<'_>, layer: usize, x: ValueId) -> ValueId {
    let &Sizes { width, inner, function, .. } = sizes;
    let mut heads = sizes.heads;
    if sizes.divides_by_layer {
        heads.scale /= (layer + 1) as f64;
    }
    let name = |rest: &str| format!("h.{layer}.{rest}");

    let normal = sizes.norm(draft, &name("ln_1"), x);
    let all = sizes.layer(draft, &name("attn.c_attn"), normal, (width, 3 * width));
    let queries = draft.part(&name("attn.query"), all, width, 0);
    let keys = draft.part(&name("attn.key"), all, width, 1);
    let values = draft.part(&name("attn.value"), all, width, 2);
    let mixed = draft.attention(&name("attn"), [queries, keys, values], &heads);
    let attended = sizes.layer(draft, &name("attn.c_proj"), mixed, (width, width));
    let middle = draft.add(&name("attn.residual"), x, attended);

    let normal = sizes.norm(draft, &name("ln_2"), middle);
    let hidden = sizes.layer(draft, &name("mlp.c_fc"), normal, (width, inner));
    let hidden = draft.activation(&name("mlp.act"), hidden, function);
    let fed = sizes.layer(draft, &name("mlp.c_proj"), hidden, (inner, width));
    let output = draft.add(&format!("h.{layer}"), middle, fed);
    draft.assembly.block(Block {
        name: format!("h.{layer}"),
        input: x,
        output,
        parts: parts((x, attended), &[queries, keys], (middle, fed)),
    });
    output
}
