//! Groups and state of an optimizer that cannot be of one save, and parameters that both leave out.

use std::collections::{BTreeMap, BTreeSet};

use super::lost_state;
use super::threshold::FEWEST_STEPS;
use super::weights::block;
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Thresholds};
use crate::analysis::model::{
    CheckpointAnalysis, Measured, OptimizerCoverage, RepeatedParameter, Role, StateCoverage, TensorAnalysis,
};
use crate::number::counted;

pub(super) static RULE: Rule = Rule {
    code: "FP711",
    name: "inconsistent-optimizer-groups",
    summary: "an optimizer lists a parameter twice, keeps state that no group lists, or lacks a parameter or its state",
    page: include_str!("../../docs/rules/FP711-inconsistent-optimizer-groups.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::LIST,
    thresholds: &[FEWEST_STEPS],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let coverage = match &checkpoint.coverage {
        Measured::Value(coverage) => coverage,
        Measured::NotMeasured(reason) => {
            return findings.not_evaluated(Subject::Checkpoint, format!("needs optimizer state: {reason}"));
        }
        Measured::Degenerate(_) => return,
    };
    for optimizer in &coverage.optimizers {
        tell_repeated(optimizer, findings);
        tell_uneven(optimizer, findings);
        tell_misplaced(optimizer, findings);
        tell_orphans(optimizer, findings);
    }
    lost_state::judge(checkpoint, coverage, thresholds.get(FEWEST_STEPS.name), findings);
    tell_left_out(checkpoint, coverage, findings);
}

/// Parameters that the groups list more than once.
fn tell_repeated(optimizer: &OptimizerCoverage, findings: &mut Findings) {
    let Some(first) = optimizer.repeated.first() else { return };
    let groups: BTreeSet<u64> = first.groups.iter().copied().collect();
    let groups: Vec<String> = groups.iter().map(u64::to_string).collect();
    let is_in_several =
        |repeated: &RepeatedParameter| repeated.groups.iter().any(|&group| group != repeated.groups[0]);
    let several = optimizer.repeated.iter().any(is_in_several);
    let others = match optimizer.repeated.len() - 1 {
        0 => String::new(),
        1 => ", and so does one other".to_owned(),
        more => format!(", and so do {more} others"),
    };
    let place = match groups.as_slice() {
        [group] => format!("stands {} times in group {group}", first.groups.len()),
        groups => format!("stands in groups {}", groups.join(" and ")),
    };
    let message = format!("{}: parameter {} {place}{others}", optimizer.place, first.key.escape_debug());
    let advice = if several {
        "no optimizer of PyTorch has such groups: a resume fails, or gives one parameter the state of another; take the file from an earlier save, or list each parameter once"
    } else {
        "PyTorch warns of it, and steps the parameter once for each time: give the optimizer each parameter once"
    };
    let finding = findings.push(Subject::Checkpoint, message, advice);
    finding.against(
        "parameters that stand more than once",
        optimizer.repeated.len() as f64,
        0.0,
        "parameters",
    );
    if several {
        finding.severity(Severity::Critical);
    }
}

/// Parameters whose two moments have different shapes.
fn tell_uneven(optimizer: &OptimizerCoverage, findings: &mut Findings) {
    let Some(first) = optimizer.uneven.first() else { return };
    let others = match optimizer.uneven.len() - 1 {
        0 => String::new(),
        more => format!("; {more} more of its parameters are so"),
    };
    let message = format!(
        "{}: the moments of {} have different shapes, {:?} and {:?}{others}",
        optimizer.place,
        first.parameter.escape_debug(),
        first.first,
        first.second,
    );
    let advice = "no optimizer of PyTorch keeps such moments, and the next step fails: take the optimizer from an earlier save";
    findings
        .push(Subject::Checkpoint, message, advice)
        .against(
            "parameters with moments of different shapes",
            optimizer.uneven.len() as f64,
            0.0,
            "parameters",
        )
        .severity(Severity::Critical);
}

/// States that lie under one another's parameters.
fn tell_misplaced(optimizer: &OptimizerCoverage, findings: &mut Findings) {
    let Some(first) = optimizer.misplaced.first() else { return };
    let count = optimizer.misplaced.len();
    let (told, severity, advice) = if optimizer.misplaced_by_name {
        let advice = "the state is that of other parameters, and the next step fails: take the optimizer from an earlier save";
        ("by their names", Severity::Critical, advice)
    } else {
        let advice = "if the optimizer was given its parameters in another order this is as it should be; if not, states have changed places, and the next step fails: take the optimizer from an earlier save";
        ("by the order of parameters", Severity::Warning, advice)
    };
    let message = format!(
        "{}: {told}, {count} states lie under one another's parameters, such as moments of {:?} for {} of {:?}",
        optimizer.place,
        first.moments,
        first.parameter.escape_debug(),
        first.shape,
    );
    findings
        .push(Subject::Checkpoint, message, advice)
        .against("states under other parameters", count as f64, 0.0, "states")
        .severity(severity);
}

/// State of parameters that no group lists.
fn tell_orphans(optimizer: &OptimizerCoverage, findings: &mut Findings) {
    let Some(first) = optimizer.orphans.first() else { return };
    let message = match optimizer.listed {
        0 if optimizer.groupless => {
            let message = format!(
                "{} keeps state of {} and has no group of parameters",
                optimizer.place,
                counted(optimizer.orphans.len() as u64, "parameter"),
            );
            let advice = "learning rate and settings are lost, and `load_state_dict` refuses it: take the optimizer from an earlier save";
            findings
                .push(Subject::Checkpoint, message, advice)
                .short_of("groups of parameters", 0.0, 1.0, "groups")
                .severity(Severity::Critical);
            return;
        }
        0 => {
            return findings.not_evaluated(
                Subject::Checkpoint,
                format!("{}: its groups list no parameter", optimizer.place),
            );
        }
        _ => format!(
            "{} keeps state of {} that no group lists: {}",
            optimizer.place,
            counted(optimizer.orphans.len() as u64, "parameter"),
            first.escape_debug(),
        ),
    };
    let advice = "groups and state are of different saves, or a parameter was taken out of its group: a resume fails, or trains without it and without a word; take both from one save";
    let count = optimizer.orphans.len() as f64;
    findings.push(Subject::Checkpoint, message, advice).against(
        "states that no group lists",
        count,
        0.0,
        "states",
    );
}

/// Parameters of the model without state although the rest of their layer has some, and others of their kind.
fn tell_left_out(checkpoint: &CheckpointAnalysis, coverage: &StateCoverage, findings: &mut Findings) {
    // Where none keeps state, there is nothing that a parameter could lack.
    if coverage.optimizers.iter().all(|optimizer| optimizer.stored == 0) {
        return;
    }
    let unlisted: BTreeSet<&str> = match &coverage.unlisted {
        Measured::Value(unlisted) => unlisted.iter().map(String::as_str).collect(),
        Measured::NotMeasured(reason) => {
            return findings
                .not_evaluated(Subject::Checkpoint, format!("parameters that are left out: {reason}"));
        }
        Measured::Degenerate(_) => return,
    };
    let bare = coverage.optimizers.iter().flat_map(|optimizer| &optimizer.without_state);
    let bare: BTreeSet<&str> = bare.map(String::as_str).collect();
    let parameters = || checkpoint.tensors.iter().filter(|tensor| tensor.is_parameter());
    let (without, with): (Vec<_>, Vec<_>) =
        parameters().partition(|tensor| unlisted.contains(&*tensor.name) || bare.contains(&*tensor.name));
    let layers: BTreeSet<&str> = with.iter().map(|tensor| tensor.layer.path.as_str()).collect();
    let blocks: BTreeSet<&str> = with.iter().map(|tensor| block(tensor)).collect();
    let mut kinds: BTreeMap<(Role, &str), usize> = BTreeMap::new();
    for tensor in &with {
        *kinds.entry(kind(tensor)).or_default() += 1;
    }
    let alone = without.len() == 1;
    // What is frozen is frozen layer by layer, or kind by kind. Where a layer is nothing but its weight, one that stands alone in the
    // whole model is told by the rest of its block.
    let is_odd = |tensor: &&&TensorAnalysis| {
        let alike = kinds.get(&kind(tensor)).copied().unwrap_or(0);
        let has_siblings = layers.contains(&*tensor.layer.path) && alike > 0;
        has_siblings || (alone && tensor.layer.index.is_some() && blocks.contains(block(tensor)) && alike > 1)
    };
    let odd: Vec<&TensorAnalysis> = without.iter().filter(is_odd).copied().collect();
    for (is_listed, what, advice) in [
        (
            true,
            "is listed by its optimizer and has no state",
            "if it is frozen or has never had a gradient this is as it should be; if not, its moments are lost, and a resume begins it anew with the learning rate of this step",
        ),
        (
            false,
            "is listed by no optimizer",
            "if it is frozen this is as it should be; if not, it is not trained: give it to the optimizer, or take the optimizer from the save of this model",
        ),
    ] {
        let alike: Vec<_> =
            odd.iter().filter(|tensor| unlisted.contains(&*tensor.name) != is_listed).collect();
        let Some(first) = alike.first() else { continue };
        let others = match alike.len() - 1 {
            0 => String::new(),
            more => format!(", and so are {more} more"),
        };
        let message = format!(
            "{} {what}, although the rest of {} and others of its kind have state{others}",
            first.name.escape_debug(),
            if layers.contains(&*first.layer.path) { &first.layer.path } else { block(first) }.escape_debug(),
        );
        findings.push(Subject::Tensor(first.name.clone()), message, advice).against(
            "parameters left out",
            alike.len() as f64,
            0.0,
            "parameters",
        );
    }
}

/// What it does in its layer, and what it is called there.
fn kind(tensor: &TensorAnalysis) -> (Role, &str) {
    (tensor.role, tensor.canonical_name.rsplit_once('.').map_or(&*tensor.canonical_name, |(_, leaf)| leaf))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{Algorithm, MisplacedState, UnevenMoments};
    use crate::rules::test_support::{checkpoint, judge, optimizer_coverage, tensor};

    /// Three layers of weight and bias, and an Adam that has state of all but `without_state` and `unlisted`.
    fn trained(without_state: &[&str], unlisted: &[&str]) -> CheckpointAnalysis {
        let layer = |name: &str| {
            [(".weight", Role::Linear), (".bias", Role::Bias)]
                .map(|(leaf, role)| tensor(&format!("{name}{leaf}"), role, &[8]))
        };
        let mut saved = checkpoint(["a", "b", "c"].into_iter().flat_map(layer).collect());
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let listed = 6 - unlisted.len() as u64;
        saved.coverage = Measured::Value(StateCoverage {
            optimizers: vec![OptimizerCoverage {
                without_state: names(without_state),
                ..optimizer_coverage(Algorithm::AdamW, listed, listed - without_state.len() as u64)
            }],
            unlisted: Measured::Value(names(unlisted)),
            unfilled: Vec::new(),
        });
        saved
    }

    fn edited(edit: impl FnOnce(&mut OptimizerCoverage)) -> CheckpointAnalysis {
        let mut saved = trained(&[], &[]);
        let Measured::Value(coverage) = &mut saved.coverage else { panic!("it was given one") };
        edit(&mut coverage.optimizers[0]);
        saved
    }

    #[test]
    fn a_parameter_in_two_groups_is_critical_and_named_and_twice_in_one_a_warning() {
        let repeated = |groups: &[u64]| {
            edited(|optimizer| {
                optimizer.repeated = vec![RepeatedParameter { key: "3".to_owned(), groups: groups.to_vec() }];
            })
        };
        let across = judge(&RULE, &repeated(&[0, 1]));
        assert_eq!(across.told(), [(Severity::Critical, "checkpoint".to_owned())]);
        assert_eq!(across.found[0].message, "optimizer.pt: parameter 3 stands in groups 0 and 1");
        let within = judge(&RULE, &repeated(&[1, 1]));
        assert_eq!(within.told()[0].0, Severity::Warning);
        assert_eq!(within.found[0].message, "optimizer.pt: parameter 3 stands 2 times in group 1");
    }

    #[test]
    fn state_that_no_group_lists_is_told_and_groups_without_parameters_are_not_evaluated() {
        let orphan = |listed| {
            edited(|optimizer| {
                optimizer.listed = listed;
                optimizer.orphans = vec!["7".to_owned()];
            })
        };
        let found = judge(&RULE, &orphan(5));
        assert_eq!(found.told(), [(Severity::Warning, "checkpoint".to_owned())]);
        assert!(found.found[0].message.contains("1 parameter that no group lists: 7"));
        let empty = judge(&RULE, &orphan(0));
        assert!(empty.found.is_empty() && empty.not_evaluated.len() == 1);
    }

    #[test]
    fn state_without_any_group_is_critical() {
        let found = judge(
            &RULE,
            &edited(|optimizer| {
                (optimizer.listed, optimizer.groupless) = (0, true);
                optimizer.orphans = vec!["0".to_owned(), "1".to_owned()];
            }),
        );
        assert_eq!(found.told(), [(Severity::Critical, "checkpoint".to_owned())]);
        let message = "optimizer.pt keeps state of 2 parameters and has no group of parameters";
        assert_eq!(found.found[0].message, message);
    }

    #[test]
    fn moments_of_different_shapes_are_critical_and_named() {
        let found = judge(
            &RULE,
            &edited(|optimizer| {
                optimizer.uneven =
                    vec![UnevenMoments { parameter: "a.weight".to_owned(), first: vec![8], second: vec![4] }];
            }),
        );
        assert_eq!(found.told(), [(Severity::Critical, "checkpoint".to_owned())]);
        let message = "optimizer.pt: the moments of a.weight have different shapes, [8] and [4]";
        assert_eq!(found.found[0].message, message);
    }

    #[test]
    fn states_that_changed_places_are_critical_by_name_and_a_warning_by_order() {
        let state = |parameter: &str, shape: u64, moments: u64| MisplacedState {
            parameter: parameter.to_owned(),
            shape: vec![shape],
            moments: vec![moments],
        };
        let told = |by_name| {
            judge(
                &RULE,
                &edited(|optimizer| {
                    optimizer.misplaced = vec![state("a.weight", 8, 4), state("b.weight", 4, 8)];
                    optimizer.misplaced_by_name = by_name;
                }),
            )
        };
        assert_eq!(told(true).told(), [(Severity::Critical, "checkpoint".to_owned())]);
        assert_eq!(told(false).told(), [(Severity::Warning, "checkpoint".to_owned())]);
        let message = "optimizer.pt: by their names, 2 states lie under one another's parameters, such as moments of [4] for a.weight of [8]";
        assert_eq!(told(true).found[0].message, message);
    }

    #[test]
    fn a_parameter_whose_layer_and_kind_have_state_is_told_with_and_without_a_group() {
        let lost = judge(&RULE, &trained(&["b.bias"], &[]));
        assert_eq!(lost.told(), [(Severity::Warning, "b.bias".to_owned())]);
        assert!(lost.found[0].message.contains("has no state"));
        let left_out = judge(&RULE, &trained(&[], &["c.weight"]));
        assert_eq!(left_out.told(), [(Severity::Warning, "c.weight".to_owned())]);
        assert!(left_out.found[0].message.contains("is listed by no optimizer"));
    }

    #[test]
    fn where_a_layer_is_its_weight_alone_the_rest_of_the_block_tells() {
        let without = |lost: &[&str]| {
            let weight = |number: u64| {
                ["q", "k"].map(|part| {
                    let mut weight = tensor(&format!("layers.{number}.{part}.weight"), Role::Linear, &[8, 8]);
                    weight.layer.index = Some(number);
                    weight
                })
            };
            let coverage = trained(lost, &[]).coverage;
            CheckpointAnalysis { coverage, ..checkpoint((0..3).flat_map(weight).collect()) }
        };
        let lost = judge(&RULE, &without(&["layers.1.q.weight"]));
        assert_eq!(lost.told(), [(Severity::Warning, "layers.1.q.weight".to_owned())]);
        assert!(lost.found[0].message.contains("although the rest of layers.1 and others"));
        let frozen = without(&["layers.0.q.weight", "layers.1.q.weight"]);
        assert!(judge(&RULE, &frozen).is_clean(), "frozen in the lower layers");
    }

    #[test]
    fn layers_and_kinds_that_are_frozen_as_a_whole_are_silent() {
        assert!(judge(&RULE, &trained(&["a.weight", "a.bias"], &["b.weight", "b.bias"])).is_clean());
        assert!(judge(&RULE, &trained(&[], &["a.weight", "b.weight", "c.weight"])).is_clean());
        assert!(judge(&RULE, &trained(&["a.bias", "b.bias", "c.bias"], &[])).is_clean());
    }

    #[test]
    fn tensors_that_were_not_joined_and_checkpoints_without_an_optimizer_are_not_evaluated() {
        let mut saved = trained(&[], &[]);
        let Measured::Value(coverage) = &mut saved.coverage else { panic!("it was given one") };
        coverage.unlisted = Measured::not("it is not known which tensor each of its parameters is");
        assert_eq!(judge(&RULE, &saved).not_evaluated.len(), 1);
        assert_eq!(judge(&RULE, &checkpoint(Vec::new())).not_evaluated.len(), 1);
    }
}
