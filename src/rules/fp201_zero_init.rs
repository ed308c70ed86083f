//! B1: two maps of zeros in a row, neither of which ever gets a gradient.

use std::collections::{BTreeSet, HashMap};

use super::peers::without_numbers;
use super::weights::{
    block, fans, is_in_transformer_block, is_meant_to_be_zero, is_zero, kernel, maps, wanted,
};
use super::{Check, Confidence, Finding, Findings, Needs, Rule, Severity, Subject, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Role, TensorAnalysis};

pub(super) static RULE: Rule = Rule {
    code: "FP201",
    name: "zero-init",
    summary: "two consecutive maps are all zero, so that neither ever gets a gradient",
    page: include_str!("../../docs/rules/FP201-zero-init.md"),
    severity: Severity::Critical,
    confidence: Confidence::Heuristic,
    needs: Needs::NORMS,
    thresholds: &[],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, _: &Thresholds, findings: &mut Findings) {
    let mut zeros = Vec::new();
    let mut stack = Vec::new();
    for tensor in maps(checkpoint).filter(|tensor| !is_meant_to_be_zero(tensor)) {
        let Some(statistics) = wanted(&tensor.statistics, tensor, "statistics", findings) else { continue };
        let zero = is_zero(statistics);
        if is_plain(tensor) {
            stack.push((tensor, zero));
        } else if zero {
            zeros.push(tensor);
        }
    }
    report_stack(stack, findings);
    report_blocks(&zeros, findings);
}

/// Whether the map belongs to a plain stack, in which the next one reads what it puts out.
fn is_plain(tensor: &TensorAnalysis) -> bool {
    matches!(tensor.role, Role::Linear | Role::Convolution)
}

/// Neighbours in forward order of which the second can read the first.
fn report_stack(mut stack: Vec<(&TensorAnalysis, bool)>, findings: &mut Findings) {
    stack.sort_by_key(|(tensor, _)| tensor.layer.order);
    let filled: BTreeSet<String> = stack
        .iter()
        .filter(|(_, zero)| !zero)
        .map(|(tensor, _)| without_numbers(&tensor.canonical_name))
        .collect();
    for pair in stack.windows(2) {
        if let [(first, true), (second, true)] = pair
            && can_follow(first, second)
            && are_of_one_chain(first, second, &filled)
        {
            let finding = report(first, second, findings);
            // In a list of maps around each of which there is a shortcut, all begin so beside others that do not.
            if !filled.is_empty()
                && !filled.contains(&without_numbers(&first.canonical_name))
                && are_of_one_line(first, second)
            {
                finding.severity(Severity::Warning);
            }
        }
    }
}

/// Whether `second` can take what `first` puts out: as many channels, or a multiple where a map was flattened.
fn can_follow(first: &TensorAnalysis, second: &TensorAnalysis) -> bool {
    let (Some(from), Some(to)) = (fans(first), fans(second)) else { return false };
    let outputs = from.output.checked_div(kernel(first)).filter(|&outputs| outputs > 0);
    let inputs = to.input.checked_div(kernel(second));
    let (Some(outputs), Some(inputs)) = (outputs, inputs) else { return false };
    outputs == inputs || (second.role == Role::Linear && inputs.is_multiple_of(outputs))
}

/// Whether nothing can lead past the first of the two. Around a numbered block there may be a shortcut, so that its last map and what follows may both begin at
/// zero, as those of diffusion's U-Nets do; but two blocks of one line of code are a chain where others of that line are not zero.
fn are_of_one_chain(first: &TensorAnalysis, second: &TensorAnalysis, filled: &BTreeSet<String>) -> bool {
    let paths = [first, second].map(|tensor| tensor.layer.path.as_str());
    let is_filled = filled.contains(&without_numbers(&first.canonical_name));
    let are_near_root =
        paths.iter().all(|path| path.split('.').count() <= NEAR_ROOT && !is_in_numbered_block(path));
    parent(paths[0]) == parent(paths[1]) || are_near_root || (is_filled && are_of_one_line(first, second))
}

fn are_of_one_line(first: &TensorAnalysis, second: &TensorAnalysis) -> bool {
    without_numbers(&first.canonical_name) == without_numbers(&second.canonical_name)
}

/// `8.conv2`, and neither `features.3` nor `conv2`.
fn is_in_numbered_block(path: &str) -> bool {
    parent(path).split('.').any(|component| component.parse::<u64>().is_ok())
}

/// The path of what holds a module.
fn parent(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(parent, _)| parent)
}

/// Components of the path of a module that is in no block: `features.3`, `conv2`.
const NEAR_ROOT: usize = 2;

/// Roles of one block whose maps multiply: with both zero, the gradient of each is zero.
const MULTIPLY: [(Role, Role); 6] = [
    (Role::AttentionQuery, Role::AttentionKey),
    (Role::AttentionValue, Role::AttentionOutput),
    (Role::AttentionQkv, Role::AttentionOutput),
    (Role::MlpIn, Role::MlpOut),
    (Role::MlpGate, Role::MlpOut),
    (Role::MlpGate, Role::MlpIn),
];

fn report_blocks(zeros: &[&TensorAnalysis], findings: &mut Findings) {
    let mut blocks: HashMap<&str, Vec<&TensorAnalysis>> = HashMap::new();
    for &tensor in zeros {
        blocks.entry(block(tensor)).or_default().push(tensor);
    }
    for &first in zeros.iter().filter(|tensor| is_in_transformer_block(tensor)) {
        for &second in &blocks[block(first)] {
            if MULTIPLY.contains(&(first.role, second.role)) {
                report(first, second, findings);
            }
        }
    }
}

fn report<'f>(
    first: &TensorAnalysis,
    second: &TensorAnalysis,
    findings: &'f mut Findings,
) -> &'f mut Finding {
    let message = format!(
        "{} and {} follow one another and are both all zero: the gradient of either is exactly zero",
        first.name, second.name,
    );
    let advice = "initialise one of the two again; zero is sound for one map of a pair, never for both";
    findings
        .push(Subject::Tensor(first.name.clone()), message, advice)
        .evidence("zero elements of the first", first.elements as f64, "elements")
        .evidence("zero elements of the second", second.elements as f64, "elements")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{checkpoint, judge, tensor};

    fn linear(number: u64, value: f64) -> TensorAnalysis {
        let name = format!("layers.{number}.weight");
        tensor(&name, Role::Linear, &[16, 16]).with_order(number).filled(value)
    }

    fn told(tensors: Vec<TensorAnalysis>) -> Vec<(Severity, String)> {
        judge(&RULE, &checkpoint(tensors)).told()
    }

    #[test]
    fn two_zero_maps_in_a_row_are_critical_whatever_the_order_of_the_file() {
        let tensors = vec![linear(2, 0.0), linear(0, 0.1), linear(1, 0.0)];
        assert_eq!(told(tensors), [(Severity::Critical, "layers.1.weight".to_owned())]);
    }

    #[test]
    fn a_single_zero_map_is_sound() {
        assert!(told(vec![linear(0, 0.1), linear(1, 0.0), linear(2, 0.1)]).is_empty());
        assert!(told(vec![linear(0, 0.0), linear(1, 0.1), linear(2, 0.0)]).is_empty());
    }

    #[test]
    fn maps_that_cannot_follow_one_another_are_not_a_pair() {
        let narrow = tensor("other.weight", Role::Linear, &[16, 7]).with_order(1).filled(0.0);
        assert!(told(vec![linear(0, 0.0), narrow]).is_empty());
    }

    #[test]
    fn the_last_map_of_a_residual_block_and_the_head_behind_it_may_both_begin_at_zero() {
        let map =
            |name: &str, order| tensor(name, Role::Convolution, &[8, 8, 3, 3]).with_order(order).filled(0.0);
        let last = || map("output_blocks.11.0.out_layers.3.weight", 0);
        assert!(told(vec![last(), map("out.2.weight", 1)]).is_empty());
        assert_eq!(told(vec![last(), map("output_blocks.11.0.out_layers.6.weight", 1)]).len(), 1);
        assert_eq!(told(vec![map("features.3.weight", 0), map("classifier.0.weight", 1)]).len(), 1);
        assert!(told(vec![map("8.conv2.weight", 0), map("11.weight", 1)]).is_empty(), "Fixup in a sequence");
        let blocks = (0..4).map(|number| map(&format!("{number}.fc.weight"), number));
        assert!(told(blocks.collect()).is_empty(), "around each map there is a shortcut");
        let list = |others: f64| {
            let first = tensor("inp.weight", Role::Convolution, &[8, 8, 3, 3]).with_order(0).filled(others);
            let maps = (0..3).map(|number| map(&format!("res.{number}.weight"), number + 1));
            told([first].into_iter().chain(maps).collect())[0].0
        };
        assert_eq!((list(0.1), list(0.0)), (Severity::Warning, Severity::Critical));
        let parallel = ["attn.sampling_offsets.weight", "attn.attention_weights.weight"];
        assert!(told(parallel.iter().zip(0..).map(|(name, order)| map(name, order)).collect()).is_empty());
    }

    #[test]
    fn two_blocks_of_a_chain_are_a_pair_unless_all_of_its_blocks_begin_at_zero() {
        let block = |number: u64, value| {
            let name = format!("model.features.{number}.conv.weight");
            tensor(&name, Role::Convolution, &[8, 8, 3, 3]).with_order(number).filled(value)
        };
        let chain =
            |values: [f64; 4]| values.iter().zip(0..).map(|(&value, number)| block(number, value)).collect();
        assert_eq!(
            told(chain([0.1, 0.0, 0.0, 0.1])),
            [(Severity::Critical, "model.features.1.conv.weight".to_owned())]
        );
        assert!(told(chain([0.0; 4])).is_empty(), "around each of them there is a shortcut");
    }

    #[test]
    fn a_linear_map_can_follow_a_flattened_convolution() {
        let convolution = tensor("conv.weight", Role::Convolution, &[8, 3, 3, 3]).filled(0.0);
        let linear = tensor("fc.weight", Role::Linear, &[10, 8 * 16]).with_order(1).filled(0.0);
        assert_eq!(told(vec![convolution, linear]).len(), 1);
    }

    #[test]
    fn the_kernel_of_a_map_without_elements_may_be_of_any_size() {
        let empty = tensor("conv.weight", Role::Convolution, &[0, 8, 1 << 62, 4]);
        assert_eq!((kernel(&empty), fans(&empty)), (u64::MAX, None));
    }

    #[test]
    fn both_maps_of_an_mlp_are_a_pair_and_the_outputs_of_two_branches_are_not() {
        let weight = |name: &str, role, value| tensor(name, role, &[16, 16]).filled(value);
        let mlp = |fc: f64| {
            vec![
                weight("h.1.attn.c_proj.weight", Role::AttentionOutput, 0.0),
                weight("h.1.mlp.c_fc.weight", Role::MlpIn, fc),
                weight("h.1.mlp.c_proj.weight", Role::MlpOut, 0.0),
                weight("h.2.mlp.c_proj.weight", Role::MlpOut, 0.0),
            ]
        };
        assert_eq!(told(mlp(0.0)), [(Severity::Critical, "h.1.mlp.c_fc.weight".to_owned())]);
        assert!(told(mlp(0.1)).is_empty());
    }

    #[test]
    fn adapters_modulations_and_zero_convolutions_are_not_judged() {
        let modulation = |number: u64| {
            let name = format!("blocks.{number}.adaLN_modulation.1.weight");
            tensor(&name, Role::Linear, &[16, 16]).with_order(number).filled(0.0)
        };
        let adapter = |name| tensor(name, Role::LoraB, &[16, 16]).filled(0.0);
        assert!(
            told(vec![modulation(0), modulation(1), adapter("q.lora_B"), adapter("v.lora_B")]).is_empty()
        );
    }

    #[test]
    fn a_map_without_statistics_is_not_evaluated() {
        let findings = judge(&RULE, &checkpoint(vec![linear(0, 0.0), linear(1, 0.0).unmeasured()]));
        assert!(findings.told().is_empty());
        assert_eq!(findings.not_evaluated.len(), 1);
    }
}
