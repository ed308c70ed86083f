//! Which tensors make up an attention layer, and how queries, keys and values lie in them.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use serde_json::Value;

use crate::checkpoint::{Checkpoint, CheckpointTensor, Role, Section};

/// The tensors of one attention layer, by index in the checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Attention {
    /// The module that holds the projections.
    pub layer: String,
    /// Index of the block.
    pub index: Option<u64>,
    /// Where queries and keys come from.
    pub projections: Projections,
    /// Query heads, heads of keys and values, numbers of each.
    pub heads: Heads,
    /// Gains of the norm before the layer.
    pub norm: Option<usize>,
    /// Bias of that norm.
    pub norm_bias: Option<usize>,
    /// Norms add their gain to 1.
    pub gain_is_offset: bool,
    /// Gains of the norms of queries and keys.
    pub head_norms: Option<(usize, usize)>,
    /// Bias of the norm of queries.
    pub query_norm_bias: Option<usize>,
    /// Queries and keys are turned by their positions.
    pub rotates: bool,
    /// Longest context.
    pub context: Option<u64>,
}

/// Where the projections of a layer are stored.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Projections {
    /// A matrix for queries and one for keys, with the bias of the queries.
    Apart { query: usize, key: usize, bias: Option<usize> },
    /// One matrix for queries, keys and values.
    Fused { tensor: usize, bias: Option<usize>, order: Order, transposed: bool },
}

/// How rows of a fused matrix are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// All queries, all keys, all values.
    Contiguous,
    /// For each head of keys: its queries, its key, its value (NeoX, BLOOM, Falcon, Megatron).
    Grouped,
}

/// How many heads there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heads {
    pub query: u64,
    pub key: u64,
    pub width: u64,
}

/// More heads than any model has.
const MOST_HEADS: u64 = 1 << 16;

const HEADS: [&str; 7] = [
    "num_attention_heads",
    "n_head",
    "n_heads",
    "num_heads",
    "attention_heads",
    "encoder_attention_heads",
    "heads",
];
const KEY_HEADS: [&str; 4] = ["num_key_value_heads", "num_kv_heads", "n_head_kv", "n_kv_heads"];
const WIDTHS: [&str; 2] = ["head_dim", "attention_head_dim"];
const CONTEXTS: [&str; 5] = ["max_position_embeddings", "n_positions", "n_ctx", "block_size", "max_seq_len"];

/// Norms that stand before attention in a block, by the end of their path.
const NORMS_BEFORE: [&str; 11] = [
    "input_layernorm",
    "ln_1",
    "ln1",
    "norm1",
    "norm_1",
    "attention_norm",
    "attn_norm",
    "layernorm_before",
    "layer_norm1",
    "pre_attention_layernorm",
    "input_norm",
];
/// The norm that BART and DETR have behind attention, and these model types before it, as their modules in transformers 5 do.
const NORM_OF_BART: &str = "self_attn_layer_norm";
const PRE_NORM_TYPES: [&str; 16] = [
    "bigbird_pegasus",
    "biogpt",
    "blenderbot",
    "m2m_100",
    "mbart",
    "musicgen_decoder",
    "nllb-moe",
    "opt",
    "pegasus",
    "pegasus_x",
    "seamless_m4t",
    "seamless_m4t_v2",
    "speech_to_text",
    "table-transformer",
    "whisper",
    "xglm",
];
const QUERY_NORMS: [&str; 4] = ["q_norm", "query_norm", "q_layernorm", "query_layernorm"];
const KEY_NORMS: [&str; 4] = ["k_norm", "key_norm", "k_layernorm", "key_layernorm"];
const ROTARY: [&str; 6] = [
    "rope_theta",
    "rope_scaling",
    "rotary_pct",
    "rotary_emb_base",
    "partial_rotary_factor",
    "rope_parameters",
];
/// Model types whose norms multiply by 1 + gain, as their modules in transformers 5 do; those of gemma3n and gemma4 do not.
const OFFSET_GAINS: [&str; 14] = [
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3_text",
    "paligemma",
    "recurrent_gemma",
    "shieldgemma2",
    "t5gemma",
    "vaultgemma",
    "qwen3_next",
    "qwen3_5",
    "qwen3_5_text",
    "qwen3_5_moe",
    "qwen3_5_moe_text",
];
/// Modules of attention whose keys come from another stack than its queries: no norm stands before both.
const CROSS: [&str; 4] = ["encoder_attn", "crossattention", "cross_attn", "EncDecAttention"];
/// Fused matrices whose heads are interleaved.
const GROUPED: [&str; 2] = ["query_key_value", "linear_qkv"];

/// A config as far as it says how attention is built.
struct Config<'a>(&'a BTreeMap<String, Value>);

impl Config<'_> {
    fn number(&self, keys: &[&str]) -> Option<u64> {
        keys.iter().find_map(|key| self.0.get(*key)?.as_u64()).filter(|number| *number > 0)
    }

    fn is(&self, key: &str) -> bool {
        self.0.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    fn model_type(&self) -> &str {
        self.0.get("model_type").and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether a norm called as in BART stands before attention; OPT has it behind where its config says so.
    fn has_norm_of_bart_before(&self) -> bool {
        PRE_NORM_TYPES.contains(&self.model_type())
            && self.0.get("do_layer_norm_before").and_then(Value::as_bool).unwrap_or(true)
    }

    fn rotates(&self) -> bool {
        const TYPES: [&str; 7] = ["llama", "mistral", "qwen2", "qwen3", "gpt_neox", "gptj", "phi"];
        TYPES.contains(&self.model_type())
            || ROTARY.iter().any(|key| self.0.get(*key).is_some_and(|value| !value.is_null()))
    }
}

impl Attention {
    /// The attention layers of a model.
    ///
    /// # Errors
    /// Why heads cannot be told apart, as a reason.
    pub fn find(checkpoint: &Checkpoint) -> Result<Vec<Self>, String> {
        if !Self::is_in(checkpoint) {
            return Ok(Vec::new());
        }
        let Some(config) = checkpoint.config.as_ref().map(Config) else {
            return Err("no config.json beside the weights says how many heads there are".to_owned());
        };
        let Some(heads) = config.number(&HEADS) else {
            return Err("the config says no number of heads under a key that is known".to_owned());
        };
        let model = Model::of(checkpoint);
        let layers = model.projections(checkpoint).into_iter().filter_map(|(layer, index, projections)| {
            model.layer(checkpoint, &config, heads, layer, index, projections)
        });
        Ok(layers.collect())
    }

    /// Whether the model has attention, as far as its names tell.
    pub fn is_in(checkpoint: &Checkpoint) -> bool {
        let is_query = |tensor: &CheckpointTensor| {
            tensor.section == Section::Model
                && matches!(tensor.role, Role::AttentionQuery | Role::AttentionQkv)
        };
        checkpoint.tensors.iter().any(is_query)
    }

    /// Rows of query head `head`, and of the keys it meets, in their matrices.
    pub fn rows(&self, head: u64) -> (Range<u64>, Range<u64>) {
        let Heads { query, key, width } = self.heads;
        let group = query / key;
        let (query_place, key_place) = match &self.projections {
            Projections::Apart { .. } => (head, head / group),
            Projections::Fused { order: Order::Contiguous, .. } => (head, query + head / group),
            Projections::Fused { order: Order::Grouped, .. } => {
                let start = head / group * (group + 2);
                (start + head % group, start + group)
            }
        };
        (query_place * width..(query_place + 1) * width, key_place * width..(key_place + 1) * width)
    }
}

/// The tensors of a model by name.
struct Model<'a> {
    by_name: HashMap<&'a str, usize>,
}

impl<'a> Model<'a> {
    fn of(checkpoint: &'a Checkpoint) -> Self {
        let model =
            checkpoint.tensors.iter().enumerate().filter(|(_, tensor)| tensor.section == Section::Model);
        Self { by_name: model.map(|(index, tensor)| (tensor.canonical_name.as_str(), index)).collect() }
    }

    fn find(&self, module: &str, leaves: &[&str], parameter: &str) -> Option<usize> {
        let name = |leaf: &&str| {
            if module.is_empty() {
                format!("{leaf}.{parameter}")
            } else {
                format!("{module}.{leaf}.{parameter}")
            }
        };
        leaves.iter().find_map(|leaf| self.by_name.get(name(leaf).as_str()).copied())
    }

    /// The layers that hold queries and keys, in the order of the file.
    fn projections(&self, checkpoint: &Checkpoint) -> Vec<(String, Option<u64>, Projections)> {
        let mut found = Vec::new();
        for (index, tensor) in checkpoint.tensors.iter().enumerate() {
            if tensor.section != Section::Model || tensor.tied_to.is_some() || axes(tensor) != Some(2) {
                continue;
            }
            let module = tensor.layer.path.as_str();
            let bias = self.by_name.get(format!("{module}.bias").as_str()).copied();
            match tensor.role {
                Role::AttentionQkv => {
                    let leaf = module.rsplit('.').next().unwrap_or_default();
                    let order = if GROUPED.contains(&leaf) { Order::Grouped } else { Order::Contiguous };
                    let transposed = is_input_first(tensor);
                    let bias =
                        bias.or_else(|| self.by_name.get(format!("{module}.in_proj_bias").as_str()).copied());
                    let projections = Projections::Fused { tensor: index, bias, order, transposed };
                    found.push((parent(module).to_owned(), tensor.layer.index, projections));
                }
                Role::AttentionQuery => {
                    let home = parent(module);
                    let is_key = |other: &&usize| {
                        let other = &checkpoint.tensors[**other];
                        other.role == Role::AttentionKey
                            && parent(&other.layer.path) == home
                            && axes(other) == Some(2)
                    };
                    let mut keys = self.by_name.values().filter(is_key);
                    if let (Some(&key), None) = (keys.next(), keys.next()) {
                        let projections = Projections::Apart { query: index, key, bias };
                        found.push((home.to_owned(), tensor.layer.index, projections));
                    }
                }
                _ => {}
            }
        }
        found
    }

    fn layer(
        &self,
        checkpoint: &Checkpoint,
        config: &Config<'_>,
        heads: u64,
        layer: String,
        index: Option<u64>,
        projections: Projections,
    ) -> Option<Attention> {
        let heads = count_heads(checkpoint, config, heads, &projections)?;
        let head_norm = |names: &[&str]| self.find(&layer, names, "weight");
        let is_cross = layer.split('.').any(|module| CROSS.contains(&module));
        let norm = if is_cross { None } else { self.norm_before(config, &layer, index) };
        Some(Attention {
            norm,
            norm_bias: norm.and_then(|norm| self.bias_of(checkpoint, norm)),
            gain_is_offset: OFFSET_GAINS.contains(&config.model_type()),
            head_norms: head_norm(&QUERY_NORMS).zip(head_norm(&KEY_NORMS)),
            query_norm_bias: self.find(&layer, &QUERY_NORMS, "bias"),
            rotates: config.rotates(),
            context: config.number(&CONTEXTS).filter(|context| *context > 1),
            index,
            layer,
            projections,
            heads,
        })
    }

    /// The bias beside a norm's gains.
    fn bias_of(&self, checkpoint: &Checkpoint, norm: usize) -> Option<usize> {
        let module = checkpoint.tensors[norm].canonical_name.strip_suffix("weight")?;
        self.by_name.get(format!("{module}bias").as_str()).copied()
    }

    /// The norm that a layer's input comes from: one before it in its block, or, where norms stand behind, that of the block before.
    fn norm_before(&self, config: &Config<'_>, layer: &str, index: Option<u64>) -> Option<usize> {
        let of_bart = config.has_norm_of_bart_before().then_some(NORM_OF_BART);
        let names: Vec<&str> = NORMS_BEFORE.into_iter().chain(of_bart).collect();
        let mut block = layer;
        while !block.is_empty() {
            block = parent(block);
            if let Some(norm) = self.find(block, &names, "weight") {
                return Some(norm);
            }
        }
        let number = index?;
        let (stack, _) = layer.split_once(&format!(".{number}."))?;
        let behind = ["output.LayerNorm"];
        if let Some(before) = number.checked_sub(1) {
            return self.find(&format!("{stack}.{before}"), &behind, "weight");
        }
        let names = self.by_name.iter().filter(|(name, _)| name.ends_with("embeddings.LayerNorm.weight"));
        let mut names = names.map(|(_, index)| *index);
        names.next().filter(|_| names.next().is_none())
    }
}

/// Heads whose numbers add up to the shapes; `None` where they do not.
fn count_heads(
    checkpoint: &Checkpoint,
    config: &Config<'_>,
    query: u64,
    projections: &Projections,
) -> Option<Heads> {
    // A config is untrusted: more heads than any model has would overflow below.
    if query > MOST_HEADS {
        return None;
    }
    let declared = config.number(&KEY_HEADS).filter(|heads| *heads <= query);
    let heads = match projections {
        Projections::Apart { query: tensor, key, .. } => {
            let (rows, key_rows) = (side(checkpoint, *tensor, false)?, side(checkpoint, *key, false)?);
            let width = rows / query;
            Heads { query, key: key_rows.checked_div(width)?, width }
        }
        Projections::Fused { tensor, transposed, .. } => {
            let rows = side(checkpoint, *tensor, *transposed)?;
            let multi = config.is("multi_query") && !config.is("new_decoder_architecture");
            let key = declared.unwrap_or(if multi { 1 } else { query });
            let width = config.number(&WIDTHS).unwrap_or(rows / (query + 2 * key));
            if width.checked_mul(query + 2 * key) != Some(rows) {
                return None;
            }
            Heads { query, key, width }
        }
    };
    let fits = heads.width > 0 && heads.key > 0 && heads.query.is_multiple_of(heads.key);
    let apart = !matches!(projections, Projections::Apart { query: tensor, key, .. }
        if side(checkpoint, *tensor, false) != Some(heads.width * heads.query)
            || side(checkpoint, *key, false) != Some(heads.width * heads.key)
            || side(checkpoint, *tensor, true) != side(checkpoint, *key, true));
    (fits && apart).then_some(heads)
}

/// Rows of a matrix, or its columns.
fn side(checkpoint: &Checkpoint, tensor: usize, columns: bool) -> Option<u64> {
    let tensor = checkpoint.tensors[tensor].tensor.as_ref().ok()?;
    tensor.shape.get(usize::from(columns)).copied()
}

fn axes(tensor: &CheckpointTensor) -> Option<usize> {
    Some(tensor.tensor.as_ref().ok()?.shape.len())
}

fn parent(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(parent, _)| parent)
}

/// GPT-2's `c_attn` is stored input first; nanoGPT uses the name for a `torch.nn.Linear`. The shape tells.
fn is_input_first(tensor: &CheckpointTensor) -> bool {
    let shape = tensor.tensor.as_ref().map(|tensor| tensor.shape.as_slice()).unwrap_or_default();
    let is_named = tensor.layer.path.rsplit('.').next() == Some("c_attn");
    is_named && matches!(shape, [first, second] if second > first)
}
