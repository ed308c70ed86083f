//! Where a layer stands: its index in the stack of blocks, and its position in forward order.

use std::collections::HashMap;
use std::sync::LazyLock;

use foldhash::fast::RandomState;

use super::Named;

/// Modules that hold the blocks of a network under their numbers.
const STACKS: &[&str] = &[
    "layers",
    "layer",
    "h",
    "blocks",
    "block",
    "resblocks",
    "stages",
    "encoder_layers",
    "decoder_layers",
    "transformer_blocks",
    "layer_groups",
    "albert_layer_groups",
];

/// Numbers under these count alternatives, not depth.
const NOT_STACKS: &[&str] = &["experts", "heads", "parametrizations"];

/// The index of the block that `name` is part of: that of the outermost known stack, or else its outermost number.
///
/// `layers.3.…`, `encoder.layer.3.…` and `encoder_layer_3.…` are 3; `layer3.1.…` (`ResNet`) is 1, the block in the
/// stage; `weight_hh_l2` (`torch.nn.LSTM`) is 2.
pub(super) fn block_index(name: &str) -> Option<u64> {
    if super::is_too_long(name) {
        return None;
    }
    let components = || name.split('.');
    let pairs = || components().zip(components().skip(1));
    let stacked =
        pairs().find_map(|(stack, number)| if is_stack(stack) { number.parse().ok() } else { None });
    let spelled = || components().find_map(spelled_index);
    let numbered = || {
        let counts_depth = pairs().all(|(before, _)| !NOT_STACKS.contains(&before));
        counts_depth.then(|| components().find_map(|component| component.parse().ok())).flatten()
    };
    stacked.or_else(spelled).or_else(|| recurrent_index(components().next_back()?)).or_else(numbered)
}

/// `layers`, and `layer3` of networks in stages.
fn is_stack(component: &str) -> bool {
    STACKS.contains(&stem(component).0)
}

/// 3 of `encoder_layer_3` or `block_3`.
fn spelled_index(component: &str) -> Option<u64> {
    let (word, number) = component.rsplit_once('_')?;
    STACKS.iter().any(|stack| word.ends_with(stack) && stack.len() > 1).then(|| number.parse().ok())?
}

/// 2 of `weight_hh_l2_reverse`.
fn recurrent_index(parameter: &str) -> Option<u64> {
    let suffix = ["weight_ih_l", "weight_hh_l", "bias_ih_l", "bias_hh_l", "weight_hr_l"]
        .iter()
        .find_map(|prefix| parameter.strip_prefix(prefix))?;
    suffix.trim_end_matches("_reverse").parse().ok()
}

/// Where siblings stand among each other, where their names tell. All others are [`UNTOLD`].
const RANKS: &[(u8, &[&str])] = &[
    (
        10,
        &[
            "wte",
            "embed_tokens",
            "word_embeddings",
            "tok_embeddings",
            "token_embedding",
            "embeddings",
            "embedding",
            "embed",
            "embed_in",
            "emb",
            "shared",
            "patch_embed",
            "patch_embedding",
            "stem",
            "conv_stem",
        ],
    ),
    (12, &["wpe", "embed_positions", "position_embeddings", "pos_embed", "positional_embedding"]),
    (14, &["conv1", "embeddings_layernorm", "ln_pre"]),
    (16, &["bn1"]),
    (
        20,
        &["ln_1", "ln1", "norm1", "input_layernorm", "attention_norm", "layer_norm1", "self_attn_layer_norm"],
    ),
    (30, &["attn", "attention", "self_attn", "self_attention", "selfattention"]),
    (31, &["query", "q_proj", "wq", "q", "to_q", "self", "c_fc", "c_attn", "qkv", "query_key_value"]),
    (32, &["key", "k_proj", "wk", "k", "to_k"]),
    (33, &["value", "v_proj", "wv", "v", "to_v"]),
    (34, &["o_proj", "out_proj", "wo", "o", "to_out", "c_proj", "proj", "dense"]),
    (36, &["crossattention", "encoder_attn", "multihead_attn", "encdecattention"]),
    (40, &["ln_2", "ln2", "norm2", "post_attention_layernorm", "ffn_norm", "layer_norm2", "encoder"]),
    (60, &["decoder", "down_proj", "w2", "fc2", "linear2", "dense_4h_to_h", "pooler"]),
    (80, &["ln_f", "norm", "final_layer_norm", "final_layernorm", "ln_post", "ln_final"]),
    (
        90,
        &[
            "lm_head",
            "head",
            "heads",
            "classifier",
            "score",
            "fc_out",
            "fc",
            "output",
            "embed_out",
            "cls",
            "logits",
        ],
    ),
];

/// The rank of a sibling whose name says nothing: between what comes first and what comes last.
const UNTOLD: u8 = 50;

/// Where one component of a path stands among its siblings: by what its name tells, then by when its word first
/// occurs in the file, then by its number.
type Place = (u8, usize, u64);

/// The place of a layer whose name is none that a framework makes: behind all others.
const NOWHERE: Place = (u8::MAX, 0, 0);

/// Sets every layer's position in forward order. Layers that names do not tell apart keep the order of the file.
pub(super) fn put_in_order(named: &mut [Named]) {
    let positions = positions(named);
    for (tensor, order) in named.iter_mut().zip(positions) {
        tensor.layer.order = order;
    }
}

/// The position of every tensor's layer.
fn positions(named: &[Named]) -> Vec<u64> {
    let mut seen = Seen::default();
    let mut numbers: HashMap<&str, usize, RandomState> =
        HashMap::with_capacity_and_hasher(named.len(), RandomState::default());
    let mut layers: Vec<(Vec<Place>, &str, usize)> = Vec::new();
    let mut layer_of: Vec<usize> = Vec::with_capacity(named.len());
    for tensor in named {
        let path = tensor.layer.path.as_str();
        let number = *numbers.entry(path).or_insert_with(|| {
            layers.push((seen.places(path), path, layers.len()));
            layers.len() - 1
        });
        layer_of.push(number);
    }
    // No two paths are equal, so that the sort need not be stable.
    layers.sort_unstable();
    let mut orders = vec![0; layers.len()];
    for (order, &(_, _, number)) in (0..).zip(&layers) {
        orders[number] = order;
    }
    layer_of.into_iter().map(|number| orders[number]).collect()
}

/// Most components of all layers together that are given places: no checkpoint has half as many.
const MAX_PLACES: usize = 1 << 22;

/// What is known of the tree of modules. Each module is a number, so that a deep one does not cost the text of all
/// modules above it.
#[derive(Default)]
struct Seen<'a> {
    /// Parent and component to the number of the module and its place.
    modules: HashMap<(usize, &'a str), (usize, Place), RandomState>,
    /// Parent and word to when the word first occurred.
    words: HashMap<(usize, &'a str), usize, RandomState>,
    /// The components of the path before, with their modules and places: neighbours have most of them in common.
    before: Vec<(&'a str, usize, Place)>,
    /// Components that were given places.
    placed: usize,
}

impl<'a> Seen<'a> {
    fn places(&mut self, path: &'a str) -> Vec<Place> {
        if super::is_too_long(path) || self.placed > MAX_PLACES {
            return vec![NOWHERE];
        }
        let components = path.split('.').filter(|component| !component.is_empty());
        let shared = self.before.iter().zip(components.clone());
        let shared = shared.take_while(|((before, _, _), component)| before == component).count();
        self.before.truncate(shared);
        for component in components.skip(shared) {
            // Numbers of modules begin at 1: the root is 0.
            let parent = self.before.last().map_or(0, |&(_, module, _)| module);
            let (module, place) = self.module(parent, component);
            self.before.push((component, module, place));
        }
        self.placed += self.before.len();
        self.before.iter().map(|&(_, _, place)| place).collect()
    }

    /// The number and the place of a component under its parent.
    fn module(&mut self, parent: usize, component: &'a str) -> (usize, Place) {
        let next = self.modules.len() + 1;
        let words = &mut self.words;
        *self.modules.entry((parent, component)).or_insert_with(|| {
            let (word, number) = stem(component);
            let first = words.len();
            let appearance = *words.entry((parent, word)).or_insert(first);
            (next, (rank(component), appearance, number))
        })
    }
}

/// [`RANKS`] by name.
static RANK_OF: LazyLock<HashMap<&str, u8>> = LazyLock::new(|| {
    RANKS.iter().flat_map(|&(rank, names)| names.iter().map(move |&name| (name, rank))).collect()
});

fn rank(component: &str) -> u8 {
    let known = |word: &str| RANK_OF.get(word).copied().unwrap_or(UNTOLD);
    if component.bytes().any(|byte| byte.is_ascii_uppercase()) {
        known(&component.to_ascii_lowercase())
    } else {
        known(component)
    }
}

/// A component as its word and the number behind it, 0 where there is none: `layer10` is `layer` and 10.
fn stem(component: &str) -> (&str, u64) {
    let word = component.trim_end_matches(|character: char| character.is_ascii_digit());
    (word, component[word.len()..].parse().unwrap_or(0))
}
