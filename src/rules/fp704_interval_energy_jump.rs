//! I4: the gradients of one interval outweigh those of the intervals before.

use super::intervals::{never_measured, span, subject, tensors};
use super::{Check, Confidence, Findings, Needs, Rule, Threshold, Thresholds};
use crate::analysis::model::Analysis;

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
        source: "a single gradient of 100 times the usual in 100 steps gives 10; healthy runs of our own reached 9.7",
    }],
    check: Check::Run(check),
};

fn check(analysis: &Analysis, thresholds: &Thresholds, findings: &mut Findings) {
    let limit = thresholds.get("ratio");
    for (interval, tensor) in tensors(analysis) {
        let (Some(&ratio), Some(&norm)) = (tensor.gradient_ratio.value(), tensor.gradient_norm.value())
        else {
            continue;
        };
        if ratio <= limit {
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

const ADVICE: &str = "look at the batches and logged norms of these steps; where the loss rose after, go back to the checkpoint before and skip or clip them";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{DType, Measured};
    use crate::rules::Severity;
    use crate::rules::test_support::{interval_tensor, judge_run, run_of};

    #[test]
    fn a_jump_of_one_tensor_in_one_interval_is_told_at_its_beginning() {
        let mut run = run_of(3, || vec![interval_tensor("emb.weight"), interval_tensor("fc.weight")]);
        assert!(judge_run(&RULE, &run, &[]).is_clean());
        run.intervals[1].tensors[0].gradient_ratio = Measured::Value(11.1);
        let findings = judge_run(&RULE, &run, &[]);
        assert_eq!(findings.told(), [(Severity::Warning, "emb.weight".to_owned())]);
        assert_eq!(findings.found[0].step, Some(run.intervals[1].from_step));
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

    /// A gradient whose norm is `norm`, in a direction of its own.
    fn gradient(state: &mut u64, norm: f64) -> Vec<f32> {
        let raw: Vec<f64> = (0..64)
            .map(|_| {
                *state =
                    state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (*state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
            })
            .collect();
        let length = raw.iter().map(|one| one * one).sum::<f64>().sqrt();
        raw.iter().map(|one| (norm * one / length) as f32).collect()
    }

    /// Second moments of Adam in f32, as PyTorch keeps them; their sum every hundred steps. One step may spike.
    fn sums(seed: u64, spike: Option<u64>) -> Vec<f64> {
        let mut state = seed;
        let mut second = vec![0_f32; 64];
        let mut sums = Vec::new();
        for step in 1..=4000 {
            let norm = if spike == Some(step) { 30.0 } else { 0.3 };
            for (v, g) in second.iter_mut().zip(gradient(&mut state, norm)) {
                *v = *v * 0.999 + g * g * (1.0 - 0.999);
            }
            if step % 100 == 0 {
                sums.push(second.iter().map(|&v| f64::from(v)).sum());
            }
        }
        sums
    }

    #[test]
    fn a_gradient_of_a_hundred_times_the_usual_is_told_in_its_own_tensor_and_interval_alone() {
        use crate::analysis::series::{energy::Ends, trailing};
        let names = ["emb.weight", "fc.weight", "lm_head.weight"];
        let sums: Vec<Vec<f64>> = (0..3).map(|index| sums(index + 1, (index == 0).then_some(3750))).collect();
        let mut run = run_of(39, || names.map(interval_tensor).to_vec());
        for (index, interval) in run.intervals.iter_mut().enumerate() {
            (interval.from_step, interval.to_step) = (100 * index as u64 + 100, 100 * index as u64 + 200);
            for (tensor, sums) in interval.tensors.iter_mut().zip(&sums) {
                let ends = Ends {
                    before: sums[index],
                    after: sums[index + 1],
                    beta2: 0.999,
                    steps: 100.0,
                    dtypes: [DType::F32; 2],
                };
                tensor.energy = ends.energy();
                tensor.gradient_norm = ends.gradient_norm(&tensor.energy);
            }
        }
        trailing::fill(&mut run.intervals);
        let findings = judge_run(&RULE, &run, &[]);
        assert_eq!(findings.told(), [(Severity::Warning, "emb.weight".to_owned())]);
        assert_eq!(findings.found[0].step, Some(3700));
        let ratio = *run.intervals[36].tensors[0].gradient_ratio.value().expect("it was measured");
        // All norms are 0.3 but one of 30 that is 50 steps old: its weight is 0.999^50 of a hundred such.
        let weight = 0.999_f64.powi(50) * 0.001 / (1.0 - 0.999_f64.powi(100));
        let expected = (1.0 + weight * (100.0_f64.powi(2) - 1.0)).sqrt();
        assert!(ratio >= 10.0 && (ratio / expected - 1.0).abs() < 1e-3, "{ratio}, expected {expected}");
        let after = run.intervals[37].tensors[0].gradient_ratio.value().expect("it was measured");
        assert!((after - 1.0).abs() < 1e-2, "{after} in the interval after the spike");
    }
}
