//! C6: large updates of several tensors whose gradients are nothing but noise.

use super::moments::{is_matrix, parameters, subject};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Threshold, Thresholds};
use crate::analysis::model::{Analysis, CheckpointAnalysis, ParameterOptimizer};

pub(super) static RULE: Rule = Rule {
    code: "FP306",
    name: "updates-without-signal",
    summary: "updates of several tensors grew large while their gradients lost their signal",
    page: include_str!("../../docs/rules/FP306-updates-without-signal.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::NORMS.and(Needs::OPTIMIZER).and(Needs::INTERVALS),
    thresholds: &[
        Threshold {
            name: "signal",
            default: 1.2,
            unit: "times the noise floor",
            source: "Molybog et al., arXiv:2304.09871: updates lose their correlation with the gradient",
        },
        Threshold {
            name: "update-rms",
            default: 0.5,
            unit: "learning rates",
            source: "noise alone gives 0.23; twice that is no noise that the second moment has seen",
        },
        Threshold {
            name: "tensors",
            default: 3.0,
            unit: "tensors at once",
            source: "one tensor alone is FP303",
        },
    ],
    check: Check::Run(check),
};

fn check(analysis: &Analysis, thresholds: &Thresholds, findings: &mut Findings) {
    let mut was = false;
    for checkpoint in &analysis.checkpoints {
        let found = suspects(checkpoint, thresholds);
        let is = found.len() as f64 >= thresholds.get("tensors");
        if let Some(first) = found.first().filter(|_| is && !was) {
            let message = format!(
                "{} tensors, from {} on, are stepped far by moments that hold no signal",
                found.len(),
                first.name,
            );
            let finding = findings.push(subject(first), message, ADVICE);
            if let Some(&step) = checkpoint.step.value() {
                finding.at_step(step);
            }
            if let (Some(&rms), Some(&signal)) = (first.update_rms.value(), first.signal_fraction.value()) {
                finding
                    .against("RMS of the update", rms, thresholds.get("update-rms"), "learning rates")
                    .evidence("signal fraction", signal, "");
            }
        }
        was = is;
    }
}

fn suspects<'a>(checkpoint: &'a CheckpointAnalysis, thresholds: &Thresholds) -> Vec<&'a ParameterOptimizer> {
    let large = |parameter: &ParameterOptimizer| {
        let (rms, signal) = (parameter.update_rms.value()?, parameter.signal_fraction.value()?);
        let floor = parameter.noise_floor.value()?;
        Some(*rms >= thresholds.get("update-rms") && *signal <= thresholds.get("signal") * floor)
    };
    let matrices =
        parameters(checkpoint).map(|(parameter, _, _)| parameter).filter(|parameter| is_matrix(parameter));
    matrices.filter(|parameter| large(parameter) == Some(true)).collect()
}

const ADVICE: &str =
    "go back to the checkpoint before and go on with a smaller learning rate, or a smaller beta2";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Measured;
    use crate::rules::test_support::{checkpoint, judge_run, moments, run_of};

    #[test]
    fn several_tensors_with_large_noise_are_told_once_and_one_alone_is_not() {
        let names = ["a.weight", "b.weight", "c.weight"];
        let saved = |large: usize| {
            let parameters = names.iter().enumerate().map(|(index, name)| {
                let mut parameter = moments(name);
                if index < large {
                    parameter.update_rms = Measured::Value(0.7);
                }
                parameter
            });
            checkpoint(Vec::new()).with_moments(parameters.collect(), |_, _| {})
        };
        let mut run = run_of(2, Vec::new);
        run.checkpoints = vec![saved(0), saved(3), saved(3)];
        assert_eq!(judge_run(&RULE, &run, &[]).told(), [(Severity::Warning, "a.weight".to_owned())]);
        run.checkpoints = vec![saved(0), saved(1), saved(2)];
        assert!(judge_run(&RULE, &run, &[]).is_clean());
    }
}
