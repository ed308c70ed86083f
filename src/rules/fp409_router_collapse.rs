//! D9: experts that the router no longer chooses, and routers with one row above all others.

use std::collections::BTreeMap;

use super::moments::parameters;
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Measured, ParameterOptimizer, Role, TensorAnalysis};

pub(super) static RULE: Rule = Rule {
    code: "FP409",
    name: "router-collapse",
    summary: "experts get next to no gradient, or one row of a router outweighs the others",
    page: include_str!("../../docs/rules/FP409-router-collapse.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::STATS,
    thresholds: &[
        Threshold {
            name: "energy-share",
            default: 0.01,
            unit: "of the median expert's second moments",
            source: "a tenth of its gradient: next to no token is routed to it (catalogue D9)",
        },
        Threshold {
            name: "row-ratio",
            default: 10.0,
            unit: "times the median row",
            source: "one expert's logit is ten times the others' for the same token (catalogue D9 has no number)",
        },
        Threshold {
            name: "steps",
            default: 100.0,
            unit: "optimizer steps",
            source: "experts of an upcycled model begin alike, and the first batches need not reach all",
        },
    ],
    check: Check::Checkpoint(check),
};

/// Experts without which none is the usual one.
const FEWEST: usize = 3;

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let experts =
        checkpoint.tensors.iter().any(|tensor| tensor.is_parameter() && tensor.role == Role::Expert);
    let routers =
        checkpoint.tensors.iter().filter(|tensor| tensor.is_parameter() && tensor.role == Role::Router);
    let routers: Vec<&TensorAnalysis> = routers.collect();
    for router in &routers {
        judge_rows(router, thresholds.get("row-ratio"), findings);
    }
    if experts {
        judge_experts(checkpoint, thresholds, findings);
    }
    if experts || !routers.is_empty() {
        let reason =
            "how evenly tokens are spread over the experts stands in no checkpoint: log the router's load";
        findings.not_evaluated(Subject::Checkpoint, reason);
    }
}

fn judge_rows(router: &TensorAnalysis, limit: f64, findings: &mut Findings) {
    let subject = Subject::Tensor(router.name.clone());
    let rows = match &router.rows {
        Measured::Value(rows) => rows,
        Measured::NotMeasured(reason) => return findings.not_evaluated(subject, reason.clone()),
        Measured::Degenerate(_) => return,
    };
    if rows.median_norm == 0.0 {
        return findings.not_evaluated(subject, "half of its rows are zero: the router has not been trained");
    }
    let ratio = rows.largest_norm / rows.median_norm;
    if ratio <= limit {
        return;
    }
    let message = format!(
        "{}: row {} is {ratio:.1} times the median row: its expert wins whatever the token is",
        router.name, rows.largest_row,
    );
    findings.push(subject, message, ADVICE).against("largest row over the median row", ratio, limit, "times");
}

/// Holds each expert of a layer against the others, by Σv over the maps it consists of.
fn judge_experts(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    if let Measured::NotMeasured(reason) = &checkpoint.optimizer {
        return findings
            .not_evaluated(Subject::Checkpoint, format!("experts: needs optimizer state: {reason}"));
    }
    let mut layers: BTreeMap<String, BTreeMap<u64, Expert<'_>>> = BTreeMap::new();
    for (parameter, _, _) in parameters(checkpoint) {
        let Some(tensor) = parameter.tensor.as_ref().filter(|tensor| tensor.role == Role::Expert) else {
            continue;
        };
        if let Some((layer, number)) = place(&tensor.canonical_name) {
            layers.entry(layer).or_default().entry(number).or_default().add(parameter);
        } else {
            let reason =
                "the experts of this layer are one tensor, and second moments are summed over all of it";
            findings.not_evaluated(Subject::Tensor(parameter.name.clone()), reason);
        }
    }
    for (layer, experts) in layers {
        judge_layer(&layer, &experts, thresholds, findings);
    }
}

/// What is known of one expert.
#[derive(Default)]
struct Expert<'a> {
    energy: f64,
    first: Option<&'a ParameterOptimizer>,
    unknown: Option<&'a str>,
    steps: f64,
}

impl<'a> Expert<'a> {
    fn add(&mut self, parameter: &'a ParameterOptimizer) {
        match &parameter.second_moment_sum {
            Measured::Value(sum) => self.energy += sum,
            Measured::NotMeasured(reason) => self.unknown = Some(reason),
            Measured::Degenerate(_) => self.unknown = Some("its second moments have no finite sum"),
        }
        self.first = self.first.or(Some(parameter));
        self.steps = self.steps.max(parameter.step.unwrap_or(0.0));
    }
}

/// The layer and the number of an expert: what stands before `experts.N`, and N.
fn place(name: &str) -> Option<(String, u64)> {
    let parts: Vec<&str> = name.split('.').collect();
    let at = parts.iter().position(|part| part.ends_with("experts"))?;
    let number = parts.get(at + 1)?.parse().ok()?;
    Some((parts[..=at].join("."), number))
}

fn judge_layer(
    layer: &str,
    experts: &BTreeMap<u64, Expert<'_>>,
    thresholds: &Thresholds,
    findings: &mut Findings,
) {
    let subject = || Subject::Layer(layer.to_owned());
    if experts.len() < FEWEST {
        return findings
            .not_evaluated(subject(), "fewer than three experts have state: none is the usual one");
    }
    if let Some(reason) = experts.values().find_map(|expert| expert.unknown) {
        return findings.not_evaluated(subject(), reason);
    }
    if experts.values().any(|expert| expert.steps < thresholds.get("steps")) {
        return findings.not_evaluated(subject(), "too few steps to tell experts that are not chosen");
    }
    let mut energies: Vec<f64> = experts.values().map(|expert| expert.energy).collect();
    energies.sort_by(f64::total_cmp);
    let median = energies[energies.len() / 2];
    if median == 0.0 {
        return findings.not_evaluated(subject(), "most of its experts never had a gradient");
    }
    let limit = thresholds.get("energy-share");
    for (number, expert) in experts {
        let share = expert.energy / median;
        let Some(first) = expert.first.filter(|_| share < limit) else { continue };
        let message = format!(
            "expert {number} of {layer}: its second moments are {share:.1e} of the median expert's: next to no token is routed to it",
        );
        findings
            .push(Subject::Tensor(first.name.clone()), message, ADVICE)
            .short_of("second moments over the median expert's", share, limit, "")
            .evidence("experts of the layer", experts.len() as f64, "experts");
    }
}

const ADVICE: &str = "raise the load-balancing loss (0.01 in Switch) or the router's z-loss (1e-3 in ST-MoE), or reset the bias of experts that are not chosen";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{checkpoint, judge, moments, tensor};

    fn mixture(energies: &[f64], steps: f64) -> CheckpointAnalysis {
        let names: Vec<String> =
            (0..energies.len()).map(|number| format!("h.0.experts.{number}.w1.weight")).collect();
        let tensors = names.iter().map(|name| tensor(name, Role::Expert, &[64, 64])).collect();
        let states = names.iter().map(|name| moments(name)).collect();
        let mut energies = energies.iter();
        checkpoint(tensors).with_moments(states, |_, parameter| {
            parameter.second_moment_sum = Measured::Value(*energies.next().expect("one for each"));
            parameter.step = Some(steps);
            parameter.tensor.as_mut().expect("it is known").role = Role::Expert;
        })
    }

    #[test]
    fn an_expert_with_a_hundredth_of_the_usual_energy_is_told() {
        let findings = judge(&RULE, &mixture(&[1.0, 2.0, 0.009, 1.5], 500.0));
        assert_eq!(findings.told(), [(Severity::Warning, "h.0.experts.2.w1.weight".to_owned())]);
        assert!(judge(&RULE, &mixture(&[1.0, 2.0, 0.02, 1.5], 500.0)).found.is_empty());
        for unsure in [mixture(&[1.0, 2.0, 0.001, 1.5], 20.0), mixture(&[1.0, 0.001], 500.0)] {
            let findings = judge(&RULE, &unsure);
            assert!(
                findings.found.is_empty() && findings.not_evaluated.len() == 2,
                "{:?}",
                findings.not_evaluated
            );
        }
    }

    #[test]
    fn a_router_with_one_row_above_all_is_told_and_a_dense_model_is_left_alone() {
        let router = |largest| {
            checkpoint(vec![tensor("h.0.router.weight", Role::Router, &[8, 64]).with_largest_row(largest)])
        };
        assert_eq!(judge(&RULE, &router(10.1)).told(), [(Severity::Warning, "h.0.router.weight".to_owned())]);
        assert!(judge(&RULE, &router(9.9)).found.is_empty());
        assert!(judge(&RULE, &checkpoint(vec![tensor("fc.weight", Role::Linear, &[8, 64])])).is_clean());
        assert_eq!(place("h.1.mlp.experts.12.w1.weight"), Some(("h.1.mlp.experts".to_owned(), 12)));
        assert_eq!(place("h.1.mlp.experts.gate_up_proj"), None);
    }
}
