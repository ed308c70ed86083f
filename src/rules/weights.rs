//! What several rules ask of a weight: whether it maps, which way it is stored, and why it cannot be judged.

use std::ops::Range;

use super::{Findings, Subject};
use crate::analysis::model::{
    CheckpointAnalysis, Degenerate, Measured, Role, Section, Statistics, TensorAnalysis,
};

/// How many numbers one output of a map sums over, and how many outputs one input reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fans {
    pub input: u64,
    pub output: u64,
}

/// The model's linear and convolutional maps between hidden states, each once. Embeddings, heads, routers, experts and
/// adapters are not among them: they start, and are shared, by rules of their own.
pub(super) fn maps(checkpoint: &CheckpointAnalysis) -> impl Iterator<Item = &TensorAnalysis> {
    checkpoint.tensors.iter().filter(|tensor| is_matrix(tensor) && is_map(tensor.role))
}

/// Whether the tensor is a parameter of at least two axes.
pub(super) fn is_matrix(tensor: &TensorAnalysis) -> bool {
    tensor.is_parameter() && tensor.shape.len() >= 2 && tensor.elements > 0
}

/// Whether the network is a plain stack, as far as its tensors tell: no norm, no attention, no recurrence, nothing that is embedded, mixed
/// or adapted. Skip connections leave no trace in weights.
pub(super) fn is_plain_stack(checkpoint: &CheckpointAnalysis) -> bool {
    let is_plain = |tensor: &TensorAnalysis| {
        is_mlp(tensor.role)
            || matches!(
                tensor.role,
                Role::Linear | Role::Convolution | Role::OutputHead | Role::Bias | Role::Buffer
            )
    };
    checkpoint.tensors.iter().filter(|tensor| tensor.section == Section::Model).all(is_plain)
}

fn is_map(role: Role) -> bool {
    is_attention(role)
        || is_mlp(role)
        || matches!(role, Role::Linear | Role::Convolution | Role::RecurrentInput | Role::RecurrentHidden)
}

fn is_attention(role: Role) -> bool {
    matches!(
        role,
        Role::AttentionQuery
            | Role::AttentionKey
            | Role::AttentionValue
            | Role::AttentionOutput
            | Role::AttentionQkv
    )
}

fn is_mlp(role: Role) -> bool {
    matches!(role, Role::MlpIn | Role::MlpGate | Role::MlpOut)
}

/// Whether the tensor stands in a block of attention and feed-forward.
pub(super) fn is_in_transformer_block(tensor: &TensorAnalysis) -> bool {
    is_attention(tensor.role) || is_mlp(tensor.role)
}

/// Whether the tensor belongs to the model or to an averaged copy of it.
pub(super) fn is_of_model(tensor: &TensorAnalysis) -> bool {
    matches!(tensor.section, Section::Model | Section::Average)
        && tensor.role != Role::Buffer
        && tensor.tied_to.is_none()
}

/// The norm gains of the model that hold any element.
pub(super) fn norm_gains(checkpoint: &CheckpointAnalysis) -> impl Iterator<Item = &TensorAnalysis> {
    let judged = |tensor: &&TensorAnalysis| {
        tensor.is_parameter() && tensor.role == Role::NormGain && tensor.elements > 0
    };
    checkpoint.tensors.iter().filter(judged)
}

/// Whether every element is zero, of either sign.
pub(super) fn is_zero(statistics: &Statistics) -> bool {
    statistics.count > 0 && statistics.zero == statistics.count
}

/// Whether the tensor is one that people set to zero on purpose, by its name: the second half of a low-rank adapter,
/// the modulation of adaLN-zero, the zero convolutions of `ControlNet`, what places and weighs the samples of deformable attention side by side.
pub(super) fn is_meant_to_be_zero(tensor: &TensorAnalysis) -> bool {
    const MARKS: [&str; 6] =
        ["adaln", "modulation", "zero_conv", "controlnet", "sampling_offsets", "attention_weights"];
    let name = tensor.canonical_name.to_ascii_lowercase();
    tensor.role == Role::LoraB || MARKS.iter().any(|mark| name.contains(mark))
}

/// Fan-in and fan-out; `None` for what is no matrix.
pub(super) fn fans(tensor: &TensorAnalysis) -> Option<Fans> {
    let input = tensor.elements.checked_div(*tensor.shape.first()?)?;
    let output = tensor.elements.checked_div(*tensor.shape.get(1)?)?;
    Some(if is_input_first(tensor) { Fans { input: output, output: input } } else { Fans { input, output } })
}

/// Elements of a kernel, that of a convolution or 1 for a matrix.
pub(super) fn kernel(tensor: &TensorAnalysis) -> u64 {
    tensor.shape.iter().skip(2).fold(1, |product: u64, &size| product.saturating_mul(size))
}

/// Whether axis 0 of a matrix is its input.
///
/// GPT-2's `Conv1D` is stored so, and so are the kernels of Flax and Keras. Its names alone do not tell, because nanoGPT
/// uses them for `torch.nn.Linear`: the shape does, as `c_attn` and `c_fc` widen and the `c_proj` of an MLP narrows.
pub(super) fn is_input_first(tensor: &TensorAnalysis) -> bool {
    let [first, second] = tensor.shape[..] else { return false };
    let mut components = tensor.canonical_name.rsplit('.');
    let (parameter, module) = (components.next().unwrap_or_default(), components.next().unwrap_or_default());
    match module {
        _ if parameter == "kernel" => true,
        "c_attn" | "c_fc" => second > first,
        "c_proj" => tensor.role == Role::MlpOut && first > second,
        _ => false,
    }
}

/// Root mean square of the elements; `None`, and noted as not evaluated, where there is none.
pub(super) fn rms(tensor: &TensorAnalysis, findings: &mut Findings) -> Option<f64> {
    let statistics = wanted(&tensor.statistics, tensor, "statistics", findings)?;
    wanted(&statistics.rms, tensor, "RMS", findings).copied()
}

/// The value of a quantity a rule cannot judge `tensor` without. Where there is none, that is noted, except for a
/// damaged tensor, which the planner reports once for all rules.
pub(super) fn wanted<'a, T>(
    quantity: &'a Measured<T>,
    tensor: &TensorAnalysis,
    name: &str,
    findings: &mut Findings,
) -> Option<&'a T> {
    let reason = match quantity {
        Measured::Value(value) => return Some(value),
        Measured::NotMeasured(reason) => reason.to_string(),
        Measured::Degenerate(kind) => format!("it has no {name}: {}", why(*kind)),
    };
    if !tensor.damaged {
        findings.not_evaluated(Subject::Tensor(tensor.name.clone()), reason);
    }
    None
}

fn why(kind: Degenerate) -> &'static str {
    match kind {
        Degenerate::Empty => "it is empty",
        Degenerate::NoFiniteElement => "no element is finite",
        Degenerate::Constant => "all elements are equal",
        Degenerate::AllZero => "every element is zero",
        Degenerate::Overflow => "the value is beyond the range of f64",
        Degenerate::Absent => "there is none",
    }
}

/// The path up to and including the block's number; the whole path where there is none.
pub(super) fn block(tensor: &TensorAnalysis) -> &str {
    let path = tensor.layer.path.as_str();
    let number = tensor.layer.index.and_then(|index| place_of_number(path, index));
    number.map_or(path, |number| &path[..number.end])
}

/// Where the first component of `name` that is `number` stands.
pub(super) fn place_of_number(name: &str, number: u64) -> Option<Range<usize>> {
    let mut start = 0;
    for component in name.split('.') {
        let end = start + component.len();
        if component.starts_with(|first: char| first.is_ascii_digit()) && component.parse() == Ok(number) {
            return Some(start..end);
        }
        start = end + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::tensor;

    fn fans_of(name: &str, role: Role, shape: &[u64]) -> Option<(u64, u64)> {
        fans(&tensor(name, role, shape)).map(|fans| (fans.input, fans.output))
    }

    #[test]
    fn a_linear_weight_is_stored_output_first() {
        assert_eq!(fans_of("layers.0.weight", Role::Linear, &[8, 3]), Some((3, 8)));
    }

    #[test]
    fn a_convolution_counts_its_kernel_on_both_sides() {
        assert_eq!(fans_of("conv.weight", Role::Convolution, &[16, 8, 3, 3]), Some((72, 144)));
    }

    #[test]
    fn gpt2_stores_its_matrices_input_first_and_nanogpt_does_not() {
        assert_eq!(fans_of("h.0.mlp.c_fc.weight", Role::MlpIn, &[32, 128]), Some((32, 128)));
        assert_eq!(fans_of("h.0.mlp.c_fc.weight", Role::MlpIn, &[128, 32]), Some((32, 128)));
        assert_eq!(fans_of("h.0.mlp.c_proj.weight", Role::MlpOut, &[128, 32]), Some((128, 32)));
        assert_eq!(fans_of("h.0.mlp.c_proj.weight", Role::MlpOut, &[32, 128]), Some((128, 32)));
        assert_eq!(fans_of("h.0.attn.c_attn.weight", Role::AttentionQkv, &[32, 96]), Some((32, 96)));
    }

    #[test]
    fn a_kernel_is_stored_input_first() {
        assert_eq!(fans_of("dense.kernel", Role::Linear, &[8, 3]), Some((8, 3)));
    }

    #[test]
    fn what_is_no_matrix_has_no_fans() {
        assert_eq!(fans_of("bias", Role::Linear, &[8]), None);
        assert_eq!(fans_of("empty.weight", Role::Linear, &[0, 8]), None);
    }
}
