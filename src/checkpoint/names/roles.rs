//! Names and shapes to roles: the table of conventions, and what shapes say where it is silent.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use foldhash::fast::RandomState;

use super::pattern::Pattern;
use super::{Role, Subject, components, module};
use crate::parallel;
use crate::tensor::Kind;

/// How many axes a convention has. Without it, a 1-D `gate.weight` would be a router.
#[derive(Clone, Copy, PartialEq)]
enum Axes {
    Any,
    One,
    Two,
    /// Two, or three where the experts of a layer are stacked.
    TwoOrThree,
    ThreeOrMore,
    Four,
}

use Axes::{Any, Four, One, ThreeOrMore, Two, TwoOrThree};

/// Conventions of public architectures, most specific first: the first that matches holds.
///
/// Read top down as: what is not a weight at all, what replaces or adapts a weight, then the weights by where they
/// stand in a block. In GPT-2's `Conv1D` (`c_attn`, `c_proj`, `c_fc`) axis 0 is the input; everywhere else the output.
#[rustfmt::skip]
const CONVENTIONS: &[(&str, Axes, Role)] = &[
    // Running statistics, masks, rotary tables, position counters.
    ("running_mean|running_var|num_batches_tracked", Any, Role::Buffer),
    ("inv_freq|*position_ids|*token_type_ids|masked_bias|*mask|tril|freqs_cis", Any, Role::Buffer),
    ("cos_cached|sin_cached|cos_cache|sin_cache|relative_position_index|relative_coords_table", Any, Role::Buffer),
    ("*attn|*attention.bias", Four, Role::Buffer),
    // SAM draws the frequencies that it codes points with once, and never trains them.
    ("shared_image_embedding.positional_embedding", Two, Role::Buffer),
    ("positional_encoding_gaussian_matrix", Two, Role::Buffer),

    // Low-rank adapters (peft, torchtune, diffusers).
    ("lora_a|lora_embedding_a|lora_down.**", Any, Role::LoraA),
    ("lora_b|lora_embedding_b|lora_up.**", Any, Role::LoraB),

    // Recurrent cells: torch.nn.RNN, LSTM, GRU and their *Cell forms, with _l0 and _reverse.
    ("weight_ih*", Two, Role::RecurrentInput),
    ("weight_hh*", Two, Role::RecurrentHidden),
    ("bias_ih*|bias_hh*", One, Role::Bias),

    // Norms, wherever they stand.
    ("*norm*|ln*|*_ln|bn*|*_bn|gn*.weight|scale|gamma|g", One, Role::NormGain),
    ("*norm*|ln*|*_ln|bn*|*_bn|gn*.bias|beta|b", One, Role::NormBias),

    // Biases.
    ("bias|*_bias|*_proj_bias|b", One, Role::Bias),

    // Mixtures of experts: Mixtral, Qwen-MoE, DeepSeek, Switch, GPT-OSS.
    ("experts.**", TwoOrThree, Role::Expert),
    ("router.**", Two, Role::Router),
    ("block_sparse_moe|moe|*moe|mlp|ffn|feed_forward.gate|wg|shared_expert_gate.weight", Two, Role::Router),

    // Positions, before the tokens, whose patterns are wider.
    ("wpe|pos|pos_embd|position_embedding_table|embed_positions|position_embedding|position_embeddings|position_embeds|pos_embedding|pos_emb|pos_embed|positional_embedding|position_emb.weight", Any, Role::PositionEmbedding),
    ("positional_embedding|position_embedding|position_embeddings|pos_embed|pos_embedding|pos_emb|position_emb|relative_position_bias_table", Any, Role::PositionEmbedding),
    ("relative_attention_bias.weight", Two, Role::PositionEmbedding),
    // Which sentence a token is of: a row each, and no vocabulary.
    ("token_type_embeddings|token_type_embedding|segment_embeddings|segment_embedding.weight", Two, Role::PositionEmbedding),
    // Learned queries, one for each place of an answer, and levels of a pyramid: DETR, Mask2Former and their like.
    ("query_embed|query_feat|query_position_embeddings|queries_embedder|queries_features|level_embed.weight", Two, Role::PositionEmbedding),

    // Tokens: GPT-2, LLaMA, BERT, T5, BLOOM, NeoX, native LLaMA, ESPnet, torchtext, llama.cpp, tutorials.
    ("wte|embed_tokens|word_embedding|word_embeddings|tok_embeddings|tok_embedding|token_embedding|token_embeddings|token_emb|tok_emb|tok_embd|token_embedding_table|tok|tokens|vocab|lut|embed_in|shared.weight", Two, Role::TokenEmbedding),
    ("emb|embed|embedd*|embeddings|embedding_table|char_embedding.weight", Two, Role::TokenEmbedding),
    ("embedding|embeddings", Two, Role::TokenEmbedding),
    ("^encoder.weight", Two, Role::TokenEmbedding),

    // Output heads.
    ("lm_head|embed_out|output_projection|proj_out_head|score.weight", Two, Role::OutputHead),
    ("predictions.decoder.weight", Two, Role::OutputHead),
    ("^head|heads|classifier|fc_out|output|decoder|fc|logits|generator|qa_outputs.weight", Two, Role::OutputHead),
    // Logits over the words of a code book that speech is quantised with.
    ("quantizer.weight_proj.weight", Two, Role::OutputHead),
    ("^heads|generator|transformer|model.head|proj|fc_out|classifier.weight", Two, Role::OutputHead),

    // Fused query, key and value: GPT-2, NeoX, BLOOM, Falcon, timm, MPT, Phi-3, Megatron, nn.MultiheadAttention.
    ("c_attn|query_key_value|qkv|qkv_proj|wqkv|linear_qkv|to_qkv|in_proj_qkv.weight", Two, Role::AttentionQkv),
    ("in_proj_weight", Two, Role::AttentionQkv),
    ("*attn|*attention.in_proj.weight", Two, Role::AttentionQkv),
    ("attn_qkv|qkv_weight", Two, Role::AttentionQkv),

    // Query, key, value apart: LLaMA, OPT, BERT, T5, native LLaMA, diffusers, DistilBERT.
    ("q_proj|query|query_proj|q|wq|to_q|q_lin|linear_q|q_a_proj|q_b_proj.weight", Two, Role::AttentionQuery),
    ("k_proj|key|key_proj|k|wk|to_k|k_lin|linear_k|kv_a_proj_with_mqa.weight", Two, Role::AttentionKey),
    ("v_proj|value|value_proj|v|wv|to_v|v_lin|linear_v.weight", Two, Role::AttentionValue),
    ("kv_b_proj|to_kv|kv_proj.weight", Two, Role::AttentionQkv),
    ("q_proj_weight", Two, Role::AttentionQuery),
    ("k_proj_weight", Two, Role::AttentionKey),
    ("v_proj_weight", Two, Role::AttentionValue),

    // Mamba's projections share names with attention's.
    ("mixer.in_proj|out_proj|x_proj|dt_proj.weight", Two, Role::Linear),

    // Attention's way back into the stream.
    ("*attn|*attention.c_proj|proj|dense|wo|o|out_lin|linear_proj|linear_out|output.weight", Two, Role::AttentionOutput),
    ("*attn|*attention.output.dense.weight", Two, Role::AttentionOutput),
    ("o_proj|out_proj|out_lin.weight", Two, Role::AttentionOutput),
    ("to_out.0.weight", Two, Role::AttentionOutput),

    // Feed-forward, gated: LLaMA, T5 1.1, native LLaMA (w1 gates, w3 enters, w2 leaves).
    ("gate_proj|wi_0.weight", Two, Role::MlpGate),
    ("feed_forward|mlp|ffn.w1.weight", Two, Role::MlpGate),
    ("gate_up_proj|up_proj|wi|wi_1.weight", Two, Role::MlpIn),
    ("feed_forward|mlp|ffn.w3.weight", Two, Role::MlpIn),
    ("down_proj|wo.weight", Two, Role::MlpOut),
    ("feed_forward|mlp|ffn.w2.weight", Two, Role::MlpOut),

    // Feed-forward, plain: GPT-2, NeoX, BLOOM, Falcon, GPT-J, timm, CLIP, OPT, BERT, ALBERT, torch.nn, Megatron.
    ("c_fc|dense_h_to_4h|fc_in|lin1|linear_fc1|intermediate_dense.weight", Two, Role::MlpIn),
    ("dense_4h_to_h|lin2|linear_fc2|ffn_output|output_dense.weight", Two, Role::MlpOut),
    ("mlp|ffn.c_proj|fc_out|fc2.weight", Two, Role::MlpOut),
    ("mlp|ffn.fc1.weight", Two, Role::MlpIn),
    ("intermediate.dense.weight", Two, Role::MlpIn),
    ("*.*.output.dense.weight", Two, Role::MlpOut),
    ("layers|layer|blocks|h.*.linear1|fc1.weight", Two, Role::MlpIn),
    ("layers|layer|blocks|h.*.linear2|fc2.weight", Two, Role::MlpOut),
    ("albert_layers.*.ffn.weight", Two, Role::MlpIn),
    ("encoder_layer_*.mlp.0|linear_1.weight", Two, Role::MlpIn),
    ("encoder_layer_*.mlp.3|linear_2.weight", Two, Role::MlpOut),

    // What is left is told by its axes. Patch embeddings of images are convolutions, whatever they are called.
    ("*weight|*kernel", ThreeOrMore, Role::Convolution),
    ("*weight|*kernel", Two, Role::Linear),
];

/// [`CONVENTIONS`] with their patterns taken apart.
static PATTERNS: LazyLock<Vec<(Pattern, Axes, Role)>> = LazyLock::new(|| {
    CONVENTIONS.iter().map(|&(pattern, axes, role)| (Pattern::new(pattern), axes, role)).collect()
});

/// Kinds of names from which on the table is looked into by all threads; fewer are not worth starting them. An architecture
/// has some dozens.
const MANY_KINDS: usize = 256;

/// Lengths of the vectors of a model, by canonical name.
type Lengths<'a> = HashMap<&'a str, u64, RandomState>;

/// Behind the name of a weight: the scale that its stored codes are multiplied by.
const SCALES: [&str; 2] = ["_scale", "_scale_inv"];

/// The roles of the tensors `names`, the whole of a model.
///
/// What the table says is looked up once for all names that are the same to it: those of the layers of a stack.
pub(super) fn roles(names: &[String], subjects: &[Subject<'_>]) -> Vec<Role> {
    let lengths: Lengths<'_> = names
        .iter()
        .zip(subjects)
        .filter_map(|(name, subject)| match subject.shape {
            Some(&[length]) if length > 0 => Some((name.as_str(), length)),
            _ => None,
        })
        .collect();
    let mut kinds: HashMap<Kindred, usize, RandomState> = HashMap::default();
    let mut kind_of = |(name, subject): (&String, &Subject<'_>)| {
        let next = kinds.len();
        *kinds.entry(Kindred::of(name, subject)).or_insert(next)
    };
    let kind_of: Vec<usize> = names.iter().zip(subjects).map(&mut kind_of).collect();
    let mut kinds: Vec<(Kindred, usize)> = kinds.into_iter().collect();
    kinds.sort_unstable_by_key(|&(_, number)| number);
    let conventional: Vec<Role> = if kinds.len() < MANY_KINDS {
        kinds.iter().map(|(kind, _)| kind.role()).collect()
    } else {
        parallel::map(&kinds, |(kind, _)| kind.role())
    };
    let scaled: HashSet<&str> = names
        .iter()
        .flat_map(|name| SCALES.iter().filter_map(move |scale| name.strip_suffix(scale)))
        .collect();
    let subjects = names.iter().zip(subjects).zip(kind_of);
    subjects
        .map(|((name, subject), kind)| {
            // Codes are no weights before they are multiplied, and their scales are none at all.
            let is_code = scaled.contains(name.as_str()) && is_narrow(subject);
            let scale = SCALES.iter().find_map(|scale| name.strip_suffix(scale));
            if is_code || scale.is_some_and(|name| name.ends_with("weight")) {
                return Role::Buffer;
            }
            role(name, subject, conventional[kind], &lengths)
        })
        .collect()
}

/// Whether its dtype is FP8: nobody keeps weights in it without a scale beside them.
fn is_narrow(subject: &Subject<'_>) -> bool {
    subject.dtype.is_some_and(|dtype| dtype.kind() == Kind::Float && dtype.bits() == 8)
}

/// All names that the table does not tell apart.
#[derive(PartialEq, Eq, Hash)]
struct Kindred {
    /// In lower case, with [`ANY_NUMBER`] for each component that is a number which no convention names. Empty for a name
    /// that is too long.
    name: String,
    axes: Option<usize>,
}

/// Stands for a number that no convention names. No component can be both this and what a convention names.
const ANY_NUMBER: &str = "#";

/// The numbers that stand as components in [`CONVENTIONS`].
static NUMBERS: LazyLock<HashSet<&str, RandomState>> = LazyLock::new(|| {
    let components = CONVENTIONS.iter().flat_map(|(pattern, _, _)| pattern.split(['^', '.', '|']));
    components.filter(|component| is_number(component)).collect()
});

fn is_number(component: &str) -> bool {
    !component.is_empty() && component.bytes().all(|byte| byte.is_ascii_digit())
}

impl Kindred {
    fn of(name: &str, subject: &Subject<'_>) -> Self {
        let mut kind = String::new();
        if !super::is_too_long(name) {
            kind.reserve(name.len());
            for component in components(name) {
                let unnamed = is_number(component) && !NUMBERS.contains(component);
                kind.push_str(if unnamed { ANY_NUMBER } else { component });
                kind.push('.');
            }
            kind.pop();
            kind.make_ascii_lowercase();
        }
        Self { name: kind, axes: subject.shape.map(<[u64]>::len) }
    }

    /// What the table says.
    fn role(&self) -> Role {
        let components: Vec<&str> = self.name.split('.').collect();
        let mut admitted = PATTERNS.iter().filter(|(_, wanted, _)| wanted.admits(self.axes));
        admitted
            .find(|(pattern, _, _)| pattern.matches(&components))
            .map_or(Role::Other, |(_, _, role)| *role)
    }
}

/// The role of one tensor of which the table says `conventional`.
fn role(name: &str, subject: &Subject<'_>, conventional: Role, lengths: &Lengths<'_>) -> Role {
    if subject.dtype.is_some_and(|dtype| dtype.kind() == Kind::Integer) {
        return Role::Buffer;
    }
    if super::is_too_long(name) {
        return Role::Other;
    }
    let is_last = |leaf: &str| name.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case(leaf));
    match conventional {
        Role::Bias if is_last("bias") && is_norm(module(name), lengths) => Role::NormBias,
        Role::Other if is_last("weight") && is_norm(module(name), lengths) => Role::NormGain,
        role => role,
    }
}

/// Whether `module`, whose own name does not say so, is a norm: its weight is a vector, with a bias or running
/// statistics of the same length beside it. Nothing else in `torch.nn` is like that; equivariant linear maps keep
/// their weight in a vector too, beside a bias of another length or of none.
fn is_norm(module: &str, lengths: &Lengths<'_>) -> bool {
    let length = |leaf: &str| lengths.get(format!("{module}.{leaf}").as_str());
    let weight = length("weight");
    weight.is_some() && (weight == length("bias") || weight == length("running_mean"))
}

impl Axes {
    /// Whether a tensor of `axes` axes can be meant; one whose shape is unknown can.
    fn admits(self, axes: Option<usize>) -> bool {
        let Some(axes) = axes else { return true };
        match self {
            Any => true,
            One => axes == 1,
            Two => axes == 2,
            TwoOrThree => axes == 2 || axes == 3,
            ThreeOrMore => axes >= 3,
            Four => axes == 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_no_convention_names_is_any_number_to_all_of_them() {
        let alternatives = CONVENTIONS.iter().flat_map(|(pattern, _, _)| pattern.split(['^', '.', '|']));
        for alternative in alternatives.filter(|alternative| !["*", "**"].contains(alternative)) {
            // What has a letter matches neither a number nor what stands for one.
            let has_letter = alternative.bytes().any(|byte| byte.is_ascii_alphabetic());
            assert!(alternative.is_empty() || has_letter || NUMBERS.contains(alternative), "{alternative}");
        }
        assert!(NUMBERS.contains("0") && !NUMBERS.contains("17"));
    }
}
