//! Low-rank adapters of which one half is not there, or whose halves do not multiply.

use std::collections::BTreeMap;

use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Role, TensorAnalysis};

pub(super) static RULE: Rule = Rule {
    code: "FP215",
    name: "broken-adapter",
    summary: "a low-rank adapter lacks one of its halves, or has halves of two ranks",
    page: include_str!("../../docs/rules/FP215-broken-adapter.md"),
    severity: Severity::Critical,
    confidence: Confidence::Exact,
    needs: Needs::LIST,
    thresholds: &[],
    check: Check::Checkpoint(check),
};

/// What the halves are called, the first and the second.
const MARKS: [(&str, &str); 3] =
    [("lora_embedding_a", "lora_embedding_b"), ("lora_a", "lora_b"), ("lora_down", "lora_up")];

/// The halves of one adapter.
#[derive(Default)]
struct Pair<'a> {
    first: Option<&'a TensorAnalysis>,
    second: Option<&'a TensorAnalysis>,
}

fn check(checkpoint: &CheckpointAnalysis, _: &Thresholds, findings: &mut Findings) {
    let pairs = pairs(checkpoint);
    tell_halves(checkpoint, &pairs, findings);
    tell_ranks(&pairs, findings);
}

/// The adapters by their names without what tells the halves apart.
fn pairs(checkpoint: &CheckpointAnalysis) -> BTreeMap<String, Pair<'_>> {
    let mut pairs: BTreeMap<String, Pair<'_>> = BTreeMap::new();
    for tensor in checkpoint.tensors.iter().filter(|tensor| tensor.is_parameter()) {
        let Some(adapter) = adapter(tensor) else { continue };
        let pair = pairs.entry(adapter).or_default();
        match tensor.role {
            Role::LoraA => pair.first = Some(tensor),
            _ => pair.second = Some(tensor),
        }
    }
    pairs
}

/// The name without what tells the halves apart: its last component that is called like a half, since modules have such names too.
fn adapter(tensor: &TensorAnalysis) -> Option<String> {
    let half: fn(&(&'static str, &'static str)) -> &'static str = match tensor.role {
        Role::LoraA => |(first, _)| first,
        Role::LoraB => |(_, second)| second,
        _ => return None,
    };
    let name = tensor.canonical_name.to_ascii_lowercase();
    // The bias of a half (`lora_bias`) is none.
    if name.rsplit_once('.').is_some_and(|(_, leaf)| leaf == "bias") {
        return None;
    }
    let is_mark = |component: &str| MARKS.iter().map(half).any(|mark| mark == component);
    let mut components: Vec<&str> = name.split('.').collect();
    let place = components.iter().rposition(|component| is_mark(component))?;
    components[place] = "lora";
    Some(components.join("."))
}

fn tell_halves(checkpoint: &CheckpointAnalysis, pairs: &BTreeMap<String, Pair<'_>>, findings: &mut Findings) {
    let lone: Vec<(&TensorAnalysis, &str)> = pairs
        .values()
        .filter_map(|pair| match (pair.first, pair.second) {
            (Some(first), None) => Some((first, "second")),
            (None, Some(second)) => Some((second, "first")),
            _ => None,
        })
        .collect();
    let Some(&(first, missing)) = lone.first() else { return };
    // Where no adapter is whole, other names may hold the other halves: one first half for several numbered second ones, a shared pair.
    if lone.len() == pairs.len() && holds_others(checkpoint) {
        let reason =
            "its adapters have no halves under the names that are known, and others under names like theirs";
        return findings.not_evaluated(Subject::Checkpoint, reason);
    }
    let others = match lone.len() - 1 {
        0 => String::new(),
        more => format!("; {more} more of {} adapters are half", pairs.len()),
    };
    let message = format!("{} stands without the {missing} half of its adapter{others}", first.name);
    let advice = "a loader leaves the other half as it was initialised, and the adapter changes nothing or at random: save the adapter again, with all of its tensors";
    findings.push(Subject::Tensor(first.name.clone()), message, advice).against(
        "adapters with one half",
        lone.len() as f64,
        0.0,
        "adapters",
    );
}

/// Whether there is anything that is called like a half with something behind it: `lora_B0`, `lora_b_shared`. Scales (`alpha`) and
/// magnitudes (`lora_magnitude_vector`) stand beside halves that are known.
fn holds_others(checkpoint: &CheckpointAnalysis) -> bool {
    let marks = || MARKS.iter().flat_map(|&(first, second)| [first, second]);
    let is_numbered = |component: &str| {
        let behind = |mark: &str| component.strip_prefix(mark).and_then(|rest| rest.chars().next());
        marks().filter_map(behind).any(|character| character == '_' || character.is_ascii_digit())
    };
    checkpoint.tensors.iter().any(|tensor| {
        let name = tensor.canonical_name.to_ascii_lowercase();
        !matches!(tensor.role, Role::LoraA | Role::LoraB) && name.split('.').any(is_numbered)
    })
}

fn tell_ranks(pairs: &BTreeMap<String, Pair<'_>>, findings: &mut Findings) {
    let whole: Vec<(&TensorAnalysis, &TensorAnalysis)> =
        pairs.values().filter_map(|pair| pair.first.zip(pair.second)).filter(are_matrices).collect();
    // PyTorch stores outputs first; where no pair fits so, they may stand the other way round.
    let fits: fn(&(&TensorAnalysis, &TensorAnalysis)) -> bool =
        if whole.iter().any(fits_output_first) { fits_output_first } else { fits_input_first };
    let broken: Vec<_> = whole.iter().filter(|pair| !fits(pair)).collect();
    let Some((first, second)) = broken.first() else { return };
    let others = match broken.len() - 1 {
        0 => String::new(),
        more => format!("; {more} more of {} adapters are so", pairs.len()),
    };
    let message = format!(
        "{} of {:?} and {} of {:?} do not multiply: their ranks differ{others}",
        first.name, first.shape, second.name, second.shape,
    );
    let advice =
        "a loader refuses the adapter: save it again, or take both halves from one save of one configuration";
    findings.push(Subject::Tensor(first.name.clone()), message, advice).against(
        "adapters of two ranks",
        broken.len() as f64,
        0.0,
        "adapters",
    );
}

/// Halves of two axes, of a convolution's four, or of experts' three. Parts of a sharded adapter are vectors.
fn are_matrices((first, second): &(&TensorAnalysis, &TensorAnalysis)) -> bool {
    let is_whole = |tensor: &TensorAnalysis| tensor.shape.len() >= 2 && tensor.elements > 0;
    is_whole(first) && is_whole(second) && first.shape.len() == second.shape.len()
}

fn fits_output_first((first, second): &(&TensorAnalysis, &TensorAnalysis)) -> bool {
    // Of experts stacked in one tensor, the rank stands behind their number.
    let stacked =
        first.shape.len() == 3 && first.shape[0] == second.shape[0] && first.shape[1] == second.shape[2];
    first.shape[0] == second.shape[1] || stacked || is_merged(first, second)
}

/// The adapter of a matrix that holds several maps, as loralib and `LitGPT` keep it: one first half for each of two or three of them, one
/// above the other. There the halves are parameters, not modules that have a weight.
fn is_merged(first: &TensorAnalysis, second: &TensorAnalysis) -> bool {
    let is_parameter = first.canonical_name.to_ascii_lowercase().ends_with(".lora_a");
    let fits = |maps: u64| second.shape[1].checked_mul(maps) == Some(first.shape[0]);
    is_parameter && first.shape.len() == 2 && [2, 3].into_iter().any(fits)
}

fn fits_input_first((first, second): &(&TensorAnalysis, &TensorAnalysis)) -> bool {
    let stacked =
        first.shape.len() == 3 && first.shape[0] == second.shape[0] && first.shape[2] == second.shape[1];
    first.shape[1] == second.shape[0] || stacked
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{checkpoint, judge, tensor};

    fn half(layer: u64, second: bool, shape: &[u64]) -> TensorAnalysis {
        let (letter, role) = if second { ("B", Role::LoraB) } else { ("A", Role::LoraA) };
        tensor(&format!("base_model.model.layers.{layer}.q_proj.lora_{letter}.weight"), role, shape)
    }

    fn adapters(layers: u64) -> Vec<TensorAnalysis> {
        (0..layers).flat_map(|layer| [half(layer, false, &[8, 64]), half(layer, true, &[32, 8])]).collect()
    }

    #[test]
    fn whole_adapters_and_models_without_any_are_silent() {
        assert!(judge(&RULE, &checkpoint(adapters(3))).is_clean());
        assert!(judge(&RULE, &checkpoint(vec![tensor("a.weight", Role::Linear, &[8, 8])])).is_clean());
    }

    #[test]
    fn a_half_without_the_other_is_critical_and_named() {
        let mut tensors = adapters(3);
        tensors.remove(3);
        let found = judge(&RULE, &checkpoint(tensors));
        let name = "base_model.model.layers.1.q_proj.lora_A.weight";
        assert_eq!(found.told(), [(Severity::Critical, name.to_owned())]);
        let message = format!("{name} stands without the second half of its adapter");
        assert_eq!(found.found[0].message, message);
        let firsts = (0..3).map(|layer| half(layer, false, &[8, 64])).collect();
        let found = judge(&RULE, &checkpoint(firsts));
        assert!(found.found[0].message.ends_with("; 2 more of 3 adapters are half"));
    }

    #[test]
    fn second_halves_under_names_of_their_own_are_not_evaluated() {
        let mut tensors: Vec<_> = (0..3).map(|layer| half(layer, false, &[8, 64])).collect();
        tensors.push(tensor("layers.0.q_proj.lora_B0.weight", Role::Linear, &[32, 8]));
        let found = judge(&RULE, &checkpoint(tensors));
        assert!(found.found.is_empty());
        assert_eq!(found.not_evaluated.len(), 1);
    }

    #[test]
    fn halves_of_two_ranks_are_critical() {
        let mut tensors = adapters(3);
        tensors[2] = half(1, false, &[4, 64]);
        let found = judge(&RULE, &checkpoint(tensors));
        assert_eq!(found.told().len(), 1);
        assert!(found.found[0].message.contains("do not multiply: their ranks differ"));
    }

    #[test]
    fn halves_stored_input_first_convolutions_and_stacked_experts_fit() {
        let fit = |first: &[u64], second: &[u64]| {
            judge(&RULE, &checkpoint(vec![half(0, false, first), half(0, true, second)])).is_clean()
        };
        assert!(fit(&[64, 8], &[8, 32]));
        assert!(fit(&[8, 64, 3, 3], &[32, 8, 1, 1]));
        assert!(fit(&[16, 8, 64], &[16, 32, 8]));
        assert!(!fit(&[7, 64], &[32, 8]));
    }

    #[test]
    fn one_first_half_for_each_map_of_a_merged_matrix_fits_where_the_halves_are_parameters() {
        let fits = |leaf: &str, first: &[u64], second: &[u64]| {
            let half = |letter: &str, role, shape: &[u64]| {
                tensor(&format!("transformer.h.0.attn.attn.lora_{letter}{leaf}"), role, shape)
            };
            let halves = vec![half("A", Role::LoraA, first), half("B", Role::LoraB, second)];
            judge(&RULE, &checkpoint(halves)).is_clean()
        };
        assert!(fits("", &[6, 32], &[96, 2]), "queries, keys and values");
        assert!(fits("", &[4, 32], &[64, 2]), "queries and values");
        assert!(!fits("", &[8, 32], &[96, 2]), "nothing has four maps");
        assert!(!fits(".weight", &[6, 32], &[96, 2]), "halves of two ranks of peft");
    }

    #[test]
    fn modules_that_are_called_like_a_half_are_not_one() {
        let named = |prefix: &str| {
            let first = tensor(&format!("{prefix}.q.lora_A.weight"), Role::LoraA, &[8, 64]);
            let second = tensor(&format!("{prefix}.q.lora_B.weight"), Role::LoraB, &[32, 8]);
            judge(&RULE, &checkpoint(vec![first, second]))
        };
        for prefix in ["layers.0.lora_adapter", "lora_attn_blocks.0", "lora_a.0"] {
            assert!(named(prefix).is_clean(), "{prefix}: {:?}", named(prefix).found);
        }
    }

    #[test]
    fn scales_and_magnitudes_beside_first_halves_do_not_hide_that_the_others_are_lost() {
        for beside in ["lora_unet_down_0.alpha", "layers.0.q_proj.lora_magnitude_vector"] {
            let mut tensors: Vec<_> = (0..3).map(|layer| half(layer, false, &[8, 64])).collect();
            tensors.push(tensor(beside, Role::Other, &[32]));
            assert_eq!(judge(&RULE, &checkpoint(tensors)).told().len(), 1, "{beside}");
        }
    }

    #[test]
    fn halves_of_other_names_are_pairs_by_them() {
        let named = |first: &str, second: &str| {
            judge(
                &RULE,
                &checkpoint(vec![
                    tensor(first, Role::LoraA, &[8, 64]),
                    tensor(second, Role::LoraB, &[32, 8]),
                ]),
            )
        };
        assert!(named("q.lora_down.weight", "q.lora_up.weight").is_clean());
        assert!(named("q.lora_A.default.weight", "q.lora_B.default.weight").is_clean());
        assert!(named("e.lora_embedding_A.default", "e.lora_embedding_B.default").is_clean());
        assert_eq!(named("q.lora_A.one.weight", "q.lora_B.two.weight").told().len(), 1);
    }
}
