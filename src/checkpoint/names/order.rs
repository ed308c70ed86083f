//! Where a layer stands: its index in the stack of blocks, and its position in forward order.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::LazyLock;

use foldhash::fast::RandomState;

use super::{Named, components};

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
    let pairs = || components(name).zip(components(name).skip(1));
    let stacked =
        pairs().find_map(|(stack, number)| if is_stack(stack) { number.parse().ok() } else { None });
    let spelled = || components(name).find_map(spelled_index);
    let numbered = || {
        let counts_depth = pairs().all(|(before, _)| !NOT_STACKS.contains(&before));
        counts_depth.then(|| components(name).find_map(|component| component.parse().ok())).flatten()
    };
    stacked.or_else(spelled).or_else(|| recurrent_index(name.rsplit('.').next()?)).or_else(numbered)
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
/// occurs in the file, then by its number. One word for the three: there is one for each component of each layer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place(u64);

impl Place {
    /// The place of a layer whose name is none that a framework makes: behind all others.
    const NOWHERE: Self = Self(u64::MAX);

    /// Words are fewer than [`MAX_PLACES`] and a name's components, which takes 24 bits; numbers from 2³² on are as one.
    fn new(rank: u8, first: u32, number: u64) -> Self {
        debug_assert!(first < 1 << 24);
        Self(u64::from(rank) << 56 | u64::from(first) << 32 | number.min(u32::MAX.into()))
    }
}

/// Sets every layer's position in forward order. Layers that names do not tell apart keep the order of the file.
pub(super) fn put_in_order(named: &mut [Named]) {
    let positions = positions(named);
    for (tensor, order) in named.iter_mut().zip(positions) {
        tensor.layer.order = order;
    }
}

/// The position of every tensor's layer.
fn positions(named: &[Named]) -> Vec<u64> {
    // There are about as many words as tensors.
    let words = HashMap::with_capacity_and_hasher(named.len(), RandomState::default());
    let mut seen = Seen { words, ..Seen::default() };
    let mut numbers: HashMap<&str, usize, RandomState> =
        HashMap::with_capacity_and_hasher(named.len(), RandomState::default());
    let mut layers: Vec<(Range<usize>, &str)> = Vec::with_capacity(named.len());
    let mut layer_of: Vec<usize> = Vec::with_capacity(named.len());
    for tensor in named {
        let path = tensor.layer.path.as_str();
        let number = *numbers.entry(path).or_insert_with(|| {
            layers.push((seen.place(path), path));
            layers.len() - 1
        });
        layer_of.push(number);
    }
    let key = |&layer: &usize| {
        let (places, path) = &layers[layer];
        (&seen.places[places.clone()], *path)
    };
    let mut in_order: Vec<usize> = (0..layers.len()).collect();
    // No two paths are equal, so that the sort need not be stable.
    in_order.sort_unstable_by(|one, other| key(one).cmp(&key(other)));
    let mut orders = vec![0; layers.len()];
    for (order, layer) in (0..).zip(in_order) {
        orders[layer] = order;
    }
    layer_of.into_iter().map(|layer| orders[layer]).collect()
}

/// Most components of all layers together that are given places: no checkpoint has half as many.
const MAX_PLACES: usize = 1 << 22;

/// What is known of the tree of modules. Each module is a number, so that a deep one does not cost the text of all
/// modules above it; one that nothing is below needs none.
#[derive(Default)]
struct Seen<'a> {
    /// Parent and component to the number of the module.
    modules: HashMap<(u32, &'a str), u32, RandomState>,
    /// Parent and word to when the word first occurred.
    words: HashMap<(u32, &'a str), u32, RandomState>,
    /// The components of the path before, with their places: neighbours have most of them in common.
    before: Vec<(&'a str, Place)>,
    /// The numbers of the modules that these are of, as far as anything was below them.
    parents: Vec<u32>,
    /// The places of the components of all paths.
    places: Vec<Place>,
}

impl<'a> Seen<'a> {
    /// Where among the places those of `path` are.
    fn place(&mut self, path: &'a str) -> Range<usize> {
        let start = self.places.len();
        if super::is_too_long(path) || start > MAX_PLACES {
            self.places.push(Place::NOWHERE);
            return start..start + 1;
        }
        let components = components(path).filter(|component| !component.is_empty());
        let shared = self.before.iter().zip(components.clone());
        let shared = shared.take_while(|((before, _), component)| before == component).count();
        self.before.truncate(shared);
        self.parents.truncate(shared);
        for component in components.skip(shared) {
            let place = self.place_below(component);
            self.before.push((component, place));
        }
        self.places.extend(self.before.iter().map(|&(_, place)| place));
        start..self.places.len()
    }

    /// The place of `component` below the path before.
    fn place_below(&mut self, component: &'a str) -> Place {
        for &(above, _) in &self.before[self.parents.len()..] {
            let parent = self.parents.last().copied().unwrap_or(ROOT);
            let next = self.modules.len() as u32 + 1;
            self.parents.push(*self.modules.entry((parent, above)).or_insert(next));
        }
        let parent = self.parents.last().copied().unwrap_or(ROOT);
        let (word, number) = stem(component);
        let next = self.words.len() as u32;
        let first = *self.words.entry((parent, word)).or_insert(next);
        Place::new(rank(component), first, number)
    }
}

/// The module that all are below; numbers of others begin behind it.
const ROOT: u32 = 0;

/// [`RANKS`] by name.
static RANK_OF: LazyLock<HashMap<&str, u8, RandomState>> = LazyLock::new(|| {
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
