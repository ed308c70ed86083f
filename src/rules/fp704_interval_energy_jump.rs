//! I4: the gradients of one interval outweigh those of the intervals before, and of the last of them.

use std::collections::BTreeMap;

use super::intervals::{never_measured, span, subject, tensors};
use super::{Check, Confidence, Findings, Needs, Rule, Threshold, Thresholds};
use crate::analysis::model::{Analysis, TensorInterval, cancelled_biases};

pub(super) static RULE: Rule = Rule {
    code: "FP704",
    name: "interval-energy-jump",
    summary: "a tensor's gradients between two checkpoints outweigh those of the intervals before",
    page: include_str!("../../docs/rules/FP704-interval-energy-jump.md"),
    severity: super::Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::NORMS.and(Needs::OPTIMIZER).and(Needs::INTERVALS),
    thresholds: &[Threshold {
        name: "ratio",
        default: 10.0,
        unit: "times the median of up to eight intervals before",
        source: "a single gradient of 100 times the usual in 100 steps gives 10",
    }],
    check: Check::Run(check),
};

fn check(analysis: &Analysis, thresholds: &Thresholds, findings: &mut Findings) {
    let limit = thresholds.get("ratio");
    // The RMS gradient norms of each tensor so far, the newest last.
    let mut earlier: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let cancelled = cancelled_biases(&analysis.intervals);
    let told = |(_, tensor): &(_, &TensorInterval)| !cancelled.contains(tensor.canonical_name.as_str());
    for (interval, tensor) in tensors(analysis).filter(told) {
        let (Some(&ratio), Some(&norm)) = (tensor.gradient_ratio.value(), tensor.gradient_norm.value())
        else {
            earlier.entry(&tensor.name).or_default().extend(tensor.gradient_norm.value());
            continue;
        };
        let before = earlier.entry(&tensor.name).or_default();
        let is_jump = before.len() >= FEWEST_BEFORE && before.last().is_some_and(|last| norm > limit * last);
        before.push(norm);
        // Gradients that grow from interval to interval, as those of attention do when it comes to life, leave the median
        // of the ones before far behind without any jump.
        if ratio <= limit || !is_jump {
            continue;
        }
        let message = format!(
            "{}: the gradient norm {} is {ratio:.1} times that of the intervals before",
            tensor.name,
            span(interval),
        );
        findings
            .push(subject(tensor), message, ADVICE)
            .at_step(interval.from_step)
            .against("gradient norm over its trailing median", ratio, limit, "times")
            .evidence("RMS gradient norm of the interval", norm, "");
    }
    never_measured(analysis, |tensor| &tensor.gradient_norm, findings);
}

/// Intervals before one without which it is not known what is usual: the first ones are those of a run that only begins.
const FEWEST_BEFORE: usize = 2;

const ADVICE: &str = "look at the batches and logged norms of these steps; where the loss rose after, go back to the checkpoint before and skip or clip them";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{Measured, Role};
    use crate::rules::Severity;
    use crate::rules::test_support::{interval_tensor, judge_run, run_of};

    #[test]
    fn a_jump_of_one_tensor_in_one_interval_is_told_at_its_beginning() {
        let mut run = run_of(3, || vec![interval_tensor("emb.weight"), interval_tensor("fc.weight")]);
        assert!(judge_run(&RULE, &run, &[]).is_clean());
        let usual = *run.intervals[2].tensors[0].gradient_norm.value().unwrap();
        run.intervals[2].tensors[0].gradient_norm = Measured::Value(11.1 * usual);
        run.intervals[2].tensors[0].gradient_ratio = Measured::Value(11.1);
        let findings = judge_run(&RULE, &run, &[]);
        assert_eq!(findings.told(), [(Severity::Warning, "emb.weight".to_owned())]);
        assert_eq!(findings.found[0].step, Some(run.intervals[2].from_step));
    }

    #[test]
    fn gradients_that_grow_from_interval_to_interval_are_no_jump() {
        let mut run = run_of(4, || vec![interval_tensor("ln.weight")]);
        for (index, interval) in run.intervals.iter_mut().enumerate() {
            interval.tensors[0].gradient_norm = Measured::Value(6.0_f64.powi(i32::try_from(index).unwrap()));
            interval.tensors[0].gradient_ratio = Measured::Value(if index == 0 { 1.0 } else { 15.0 });
        }
        assert!(judge_run(&RULE, &run, &[]).is_clean());
    }

    #[test]
    fn the_bias_of_keys_has_no_gradient_that_could_jump() {
        let layer = || {
            let mut map = ["attn.k_proj.weight", "attn.k_proj.bias"].map(interval_tensor);
            (map[0].role, map[1].role) = (Role::AttentionKey, Role::Bias);
            for own in &mut map {
                own.layer.path = "attn.k_proj".to_owned();
            }
            map[1].gradient_norm = Measured::Value(1e-9);
            map.to_vec()
        };
        let mut run = run_of(4, layer);
        run.intervals[3].tensors[1].gradient_norm = Measured::Value(1e-6);
        run.intervals[3].tensors[1].gradient_ratio = Measured::Value(1000.0);
        assert!(judge_run(&RULE, &run, &[]).is_clean());
        // As of a layer whose bias nothing cancels it is told.
        run.intervals.iter_mut().for_each(|interval| interval.tensors[0].role = Role::AttentionValue);
        assert!(!judge_run(&RULE, &run, &[]).is_clean());
    }

    #[test]
    fn tensors_whose_energy_is_never_known_are_not_evaluated() {
        let mut run = run_of(2, || vec![interval_tensor("fc.weight")]);
        for interval in &mut run.intervals {
            interval.tensors[0].gradient_norm = Measured::not("no optimizer state is joined to it");
            interval.tensors[0].gradient_ratio = Measured::not("no optimizer state is joined to it");
        }
        assert_eq!(judge_run(&RULE, &run, &[]).not_evaluated.len(), 1);
    }
}
