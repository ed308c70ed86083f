//! One layer of a stack that lacks a tensor, or has it in another shape, where all the others are alike.

use std::collections::{BTreeMap, BTreeSet};

use super::config_sizes::Config;
use super::model_types;
use super::weights::place_of_number;
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Kind, Role, Section, TensorAnalysis};

pub(super) static RULE: Rule = Rule {
    code: "FP214",
    name: "odd-layer",
    summary: "one layer of a stack lacks a tensor or has it in another shape, where all the others are alike",
    page: include_str!("../../docs/rules/FP214-odd-layer.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::LIST,
    thresholds: &[
        Threshold {
            name: "fewest-layers",
            default: 4.0,
            unit: "layers of a stack",
            source: "design: one between two ends that are left out and one more that it could be like",
        },
        Threshold {
            name: "largest-difference",
            default: 0.25,
            unit: "of the tensors of a layer",
            source: "design: a layer of another kind (an attention among recurrences, experts, a cross-attention) differs in more",
        },
    ],
    check: Check::Checkpoint(check),
};

/// What stands in one layer: shapes by name below the layer.
type Population<'a> = BTreeMap<&'a str, &'a [u64]>;

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    // Where the network is known, it says more than the neighbours.
    if checkpoint.architecture.value().is_some() {
        return;
    }
    for (stack, layers) in stacks(checkpoint) {
        let whole: Layers<'_> = layers.iter().map(|(number, layer)| (*number, layer)).collect();
        let Some((number, usual, count)) = odd_one(checkpoint, &whole, thresholds.get("fewest-layers"))
        else {
            continue;
        };
        let own = &layers[&number];
        let names: BTreeSet<&str> = usual.keys().chain(own.keys()).copied().collect();
        let differing: Vec<&str> =
            names.into_iter().filter(|name| usual.get(name) != own.get(name)).collect();
        let share = differing.len() as f64 / usual.len() as f64;
        if share > thresholds.get("largest-difference") {
            continue;
        }
        let has_more = differing.iter().any(|name| !usual.contains_key(name));
        let is_quantised = checkpoint.config.value().is_some_and(|config| Config(config).is_quantised());
        if is_quantised && has_more {
            let reason = "its config says that it is quantised, and a layer that is left out of that is stored otherwise than the others";
            findings.not_evaluated(Subject::Layer(format!("{stack}{number}")), reason);
            continue;
        }
        report(&Odd { stack, number, layers: count, usual, own, differing }, findings);
    }
}

/// The layer that alone is unlike `fewest` or more that stand together with it; what those are like, and how many stand there.
fn odd_one<'a>(
    checkpoint: &CheckpointAnalysis,
    whole: &[(u64, &'a Population<'a>)],
    fewest: f64,
) -> Option<(u64, &'a Population<'a>, usize)> {
    // A first layer of its own, such as that of T5 with the biases of positions, hides none behind it.
    let stretches = [whole, whole.get(1..).unwrap_or_default()];
    let mut judged = stretches.into_iter().filter(|stretch| stretch.len() as f64 >= fewest);
    judged.find_map(|stretch| {
        let end = if stretch.len() == whole.len() { sole_end(checkpoint, stretch) } else { None };
        end.or_else(|| sole_odd(stretch)).map(|(number, usual)| (number, usual, stretch.len()))
    })
}

/// The first or the last layer, where it alone is unlike the others in a network whose layers are all alike; and what the others are like.
fn sole_end<'a>(
    checkpoint: &CheckpointAnalysis,
    layers: &[(u64, &'a Population<'a>)],
) -> Option<(u64, &'a Population<'a>)> {
    let kind = Config(checkpoint.config.value()?).model_type();
    let [(first, of_first), (_, usual), .., (last, of_last)] = layers else { return None };
    let differing = layers.iter().filter(|(_, layer)| layer != usual).count();
    let ends = [(*first, of_first), (*last, of_last)];
    let sole = ends.into_iter().find(|(_, layer)| *layer != usual)?;
    let are_alike = model_types::known(kind).is_some_and(|(_, layers)| layers == model_types::Layers::Alike);
    (are_alike && differing == 1).then_some((sole.0, *usual))
}

/// The layer that differs from its neighbours.
struct Odd<'a> {
    stack: &'a str,
    number: u64,
    layers: usize,
    usual: &'a Population<'a>,
    own: &'a Population<'a>,
    differing: Vec<&'a str>,
}

fn report(odd: &Odd<'_>, findings: &mut Findings) {
    let Some(&first) = odd.differing.first() else { return };
    let layer = format!("{}{}", odd.stack, odd.number);
    let others = odd.layers - 1;
    let what = match (odd.own.get(first), odd.usual.get(first)) {
        (None, Some(shape)) => {
            format!("{layer} lacks {first}, which the other {others} layers have with the shape {shape:?}")
        }
        (Some(shape), None) => {
            format!("{layer} has {first} of {shape:?}, and none of the other {others} layers has")
        }
        (found, usual) => format!(
            "{layer}.{first} has the shape {:?}, {:?} in the other {others} layers",
            found.copied().unwrap_or_default(),
            usual.copied().unwrap_or_default(),
        ),
    };
    let more = match odd.differing.len() - 1 {
        0 => String::new(),
        more => format!("; {more} more of its tensors differ"),
    };
    let advice = "if the model is built so, this is as it should be; if not, the tensor was lost, renamed or transposed: a loader refuses it or leaves it at random";
    findings.push(Subject::Layer(layer), format!("{what}{more}"), advice).against(
        "tensors unlike those of the other layers",
        odd.differing.len() as f64,
        0.0,
        "tensors",
    );
}

/// The layers of every stack by number, by what stands before the number.
fn stacks(checkpoint: &CheckpointAnalysis) -> BTreeMap<&str, BTreeMap<u64, Population<'_>>> {
    let mut stacks: BTreeMap<&str, BTreeMap<u64, Population<'_>>> = BTreeMap::new();
    for tensor in checkpoint.tensors.iter().filter(|tensor| is_weight(tensor)) {
        if let Some((stack, number, rest)) = placed(tensor) {
            stacks.entry(stack).or_default().entry(number).or_default().insert(rest, &tensor.shape);
        }
    }
    // Of a tensor that cannot be read, neither dtype nor shape need be known: its layer is not compared.
    for (stack, number, _) in checkpoint.tensors.iter().filter(|tensor| tensor.damaged).filter_map(placed) {
        if let Some(layers) = stacks.get_mut(stack) {
            layers.remove(&number);
        }
    }
    stacks
}

/// A floating tensor of the model that is no buffer. Adapters sit in the layers that they are given to.
fn is_weight(tensor: &TensorAnalysis) -> bool {
    tensor.section == Section::Model
        && !tensor.is_of_adapter()
        && tensor.role != Role::Buffer
        && tensor.dtype.is_some_and(|dtype| dtype.kind() == Kind::Float)
}

/// What stands before the number of its layer, that number, and what stands behind it.
fn placed(tensor: &TensorAnalysis) -> Option<(&str, u64, &str)> {
    let (name, number) = (tensor.canonical_name.as_str(), tensor.layer.index?);
    let place = place_of_number(name, number)?;
    Some((&name[..place.start], number, name.get(place.end + 1..)?))
}

/// Layers of a stack with their numbers, in order.
type Layers<'a> = Vec<(u64, &'a Population<'a>)>;

/// The only layer that is not like the first, where it is neither the first nor the last; and what all the others are like.
fn sole_odd<'a>(layers: &[(u64, &'a Population<'a>)]) -> Option<(u64, &'a Population<'a>)> {
    let (_, usual) = *layers.first()?;
    let (last, _) = layers.last()?;
    let mut odd = layers.iter().filter(|(_, layer)| *layer != usual).map(|(number, _)| *number);
    let sole = odd.next().filter(|number| number != last)?;
    odd.next().is_none().then_some((sole, usual))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{ArchitectureMatch, Measured};
    use crate::rules::test_support::{checkpoint, judge, judge_with, tensor};

    /// Layers of eight weights, edited by their number.
    fn stack(layers: u64, mut edit: impl FnMut(u64, &mut Vec<TensorAnalysis>)) -> CheckpointAnalysis {
        let mut all = Vec::new();
        for number in 0..layers {
            let part = |part| tensor(&format!("layers.{number}.w{part}.weight"), Role::Linear, &[8, 4]);
            let mut layer = (0..8).map(part).collect();
            edit(number, &mut layer);
            all.extend(layer);
        }
        checkpoint(all)
    }

    fn told(saved: &CheckpointAnalysis) -> Vec<(Severity, String)> {
        judge(&RULE, saved).told()
    }

    #[test]
    fn adapters_of_one_layer_and_one_that_is_not_quantised_are_meant() {
        let with_extra = |role: Role, name: &str| {
            stack(5, |number, layer| {
                if number == 2 {
                    layer.push(tensor(&format!("layers.2.{name}"), role, &[8, 2]));
                }
            })
        };
        assert!(told(&with_extra(Role::LoraA, "w0.lora_A.weight")).is_empty());
        let extra = || with_extra(Role::Linear, "w8.weight");
        assert_eq!(told(&extra()).len(), 1);
        let quantised = || serde_json::json!({"quantization_config": {"ignore": ["layers.2.w8"]}});
        let found = judge(&RULE, &extra().with_config(quantised()));
        assert_eq!((found.told().len(), found.not_evaluated.len()), (0, 1));
        let lacks = stack(5, |number, layer| {
            if number == 2 {
                layer.remove(3);
            }
        });
        assert_eq!(told(&lacks.with_config(quantised())).len(), 1);
    }

    #[test]
    fn a_tensor_that_one_layer_lacks_or_has_transposed_is_told_with_the_layer() {
        let lacks = stack(4, |number, layer| {
            if number == 2 {
                layer.remove(3);
            }
        });
        assert_eq!(told(&lacks), [(Severity::Warning, "layers.2".to_owned())]);
        let message = "layers.2 lacks w3.weight, which the other 3 layers have with the shape [8, 4]";
        assert_eq!(judge(&RULE, &lacks).found[0].message, message);
        let transposed = stack(4, |number, layer| {
            if number == 1 {
                layer[0].shape.reverse();
            }
        });
        let message = "layers.1.w0.weight has the shape [4, 8], [8, 4] in the other 3 layers";
        assert_eq!(judge(&RULE, &transposed).found[0].message, message);
    }

    #[test]
    fn the_first_and_the_last_layer_are_compared_where_the_config_says_that_all_are_alike() {
        let lost = |at: u64, kind: &str| {
            let saved = stack(4, |number, layer| {
                if number == at {
                    layer.remove(3);
                }
            });
            told(&saved.with_config(serde_json::json!({"model_type": kind})))
        };
        for at in 0..4 {
            assert_eq!(lost(at, "gemma2"), [(Severity::Warning, format!("layers.{at}"))]);
        }
        assert!(lost(0, "t5").is_empty() && lost(3, "t5").is_empty());
    }

    #[test]
    fn the_layer_of_a_tensor_that_cannot_be_read_is_not_compared() {
        let damaged = stack(5, |number, layer| {
            if number == 2 {
                (layer[3].dtype, layer[3].damaged) = (None, true);
            }
        });
        assert!(told(&damaged).is_empty());
    }

    #[test]
    fn a_renamed_tensor_is_one_finding() {
        let renamed = stack(5, |number, layer| {
            if number == 2 {
                layer[3].canonical_name = "layers.2.x.weight".to_owned();
            }
        });
        let found = judge(&RULE, &renamed);
        assert_eq!(found.found.len(), 1);
        assert!(found.found[0].message.ends_with("; 1 more of its tensors differ"));
    }

    #[test]
    fn stacks_that_are_uniform_short_or_of_several_kinds_are_silent() {
        assert!(told(&stack(6, |_, _| ())).is_empty());
        let without_one_in = |layers, odd: fn(u64) -> bool| {
            told(&stack(layers, |number, layer| {
                if odd(number) {
                    layer.remove(0);
                }
            }))
        };
        assert!(without_one_in(3, |number| number == 1).is_empty(), "too short");
        assert!(without_one_in(6, |number| number == 0).is_empty(), "the first may be dense");
        assert!(without_one_in(6, |number| number == 5).is_empty(), "the last may be other");
        assert!(without_one_in(6, |number| number % 2 == 1).is_empty(), "alternating");
        assert!(without_one_in(8, |number| number == 3 || number == 6).is_empty(), "every third");
        assert_eq!(without_one_in(6, |number| number == 3).len(), 1);
    }

    #[test]
    fn a_first_layer_of_its_own_hides_none_behind_it() {
        let t5 = |layers, odd: Option<u64>| {
            told(&stack(layers, |number, layer| {
                if number == 0 {
                    layer.push(tensor("layers.0.relative_attention_bias.weight", Role::Linear, &[8, 4]));
                }
                if Some(number) == odd {
                    layer.remove(3);
                }
            }))
        };
        assert!(t5(6, None).is_empty());
        assert_eq!(t5(6, Some(2)), [(Severity::Warning, "layers.2".to_owned())]);
        assert!(t5(4, Some(2)).is_empty(), "too short without its first");
        assert!(t5(6, Some(1)).is_empty(), "an end of what is left");
        assert!(t5(6, Some(5)).is_empty());
    }

    #[test]
    fn a_layer_of_another_kind_is_silent_and_the_limit_can_be_overridden() {
        let other_kind = stack(6, |number, layer| {
            if number == 3 {
                layer.truncate(5);
            }
        });
        assert!(told(&other_kind).is_empty());
        assert_eq!(judge_with(&RULE, &other_kind, &[("largest-difference", 0.5)]).told().len(), 1);
    }

    #[test]
    fn buffers_count_nothing_and_a_known_network_is_compared_by_another_rule() {
        let lacking = || {
            stack(4, |number, layer| {
                if number == 2 {
                    layer.remove(3);
                }
            })
        };
        let mut known = lacking();
        known.architecture = Measured::Value(ArchitectureMatch {
            architecture: "llama".to_owned(),
            parameters: 32,
            missing: Vec::new(),
            reshaped: Vec::new(),
            unexpected: Vec::new(),
        });
        assert!(told(&known).is_empty());
        let buffer = stack(4, |number, layer| {
            if number == 2 {
                layer.push(tensor("layers.2.attn.mask", Role::Buffer, &[8, 8]));
            }
        });
        assert!(told(&buffer).is_empty());
    }
}
