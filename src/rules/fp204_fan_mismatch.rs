//! B4: matrices scaled by the side they do not sum over.

use super::weights::{Fans, fans, maps, rms};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Role, TensorAnalysis};

pub(super) static RULE: Rule = Rule {
    code: "FP204",
    name: "fan-mismatch",
    summary: "the initial widths of the linear maps follow their fan-out, where only fan-in keeps the variance",
    page: include_str!("../../docs/rules/FP204-fan-mismatch.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::NORMS.and(Needs::STEP),
    thresholds: &[
        Threshold {
            name: "ratio",
            default: 1.5,
            unit: "scatter about 1/sqrt(fan_in) over scatter about 1/sqrt(fan_out)",
            source: "design choice of the failure catalogue, B4",
        },
        Threshold {
            name: "layers",
            default: 3.0,
            unit: "non-square linear maps",
            source: "two points fit a power of either side",
        },
    ],
    check: Check::Checkpoint(check),
};

/// The width of one map beside its two sides.
struct Width {
    rms: f64,
    fans: Fans,
}

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    match checkpoint.step.value() {
        Some(0) => {}
        Some(_) => {
            let reason = "needs a checkpoint of step 0, this one is of a later step";
            return findings.not_evaluated(Subject::Checkpoint, reason);
        }
        None => return findings.not_evaluated(Subject::Checkpoint, "the number of steps taken has no value"),
    }
    let widths = widths(checkpoint, findings);
    if widths.len() as f64 >= thresholds.get("layers") {
        judge(&widths, thresholds.get("ratio"), findings);
    }
}

/// The non-square linear maps. Not recurrences, which torch scales by the hidden size whatever they sum over.
fn widths(checkpoint: &CheckpointAnalysis, findings: &mut Findings) -> Vec<Width> {
    let is_judged = |tensor: &&TensorAnalysis| {
        tensor.shape.len() == 2
            && tensor.shape[0] != tensor.shape[1]
            && !matches!(tensor.role, Role::RecurrentInput | Role::RecurrentHidden)
    };
    let mut widths = Vec::new();
    for tensor in maps(checkpoint).filter(is_judged) {
        // A zero matrix was set to zero, not scaled.
        if let (Some(rms), Some(fans)) = (rms(tensor, findings), fans(tensor))
            && rms > 0.0
        {
            widths.push(Width { rms, fans });
        }
    }
    widths
}

fn judge(widths: &[Width], limit: f64, findings: &mut Findings) {
    let by_input = scatter(widths, |fans| fans.input);
    let by_output = scatter(widths, |fans| fans.output);
    let by_both = scatter(widths, |fans| fans.input + fans.output);
    let by_none = scatter(widths, |_| 1);
    let ratio = by_input / by_output;
    // One width for all and Glorot's mean of both sides are other schemes: fan-out must explain more than they do.
    if ratio < limit || by_output >= by_both || by_output >= by_none {
        return;
    }
    let message = format!(
        "the widths of {} linear maps follow 1/sqrt(fan_out) {ratio:.2} times as closely as 1/sqrt(fan_in) (limit {limit})",
        widths.len(),
    );
    findings
        .push(
            Subject::Checkpoint,
            message,
            "scale by fan_in, the axis a map sums over: in layouts that store the input first the two are easily swapped",
        )
        .against("scatter ratio", ratio, limit, "1")
        .evidence("scatter about 1/sqrt(fan_in)", by_input, "1")
        .evidence("scatter about 1/sqrt(fan_out)", by_output, "1")
        .evidence("scatter about Glorot", by_both, "1")
        .evidence("scatter about one width", by_none, "1");
}

/// The geometric standard deviation of RMS·√side: 1 where 1/√side explains every width.
fn scatter(widths: &[Width], side: impl Fn(&Fans) -> u64) -> f64 {
    let logs: Vec<f64> =
        widths.iter().map(|width| width.rms.ln() + 0.5 * (side(&width.fans) as f64).ln()).collect();
    let count = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / count;
    let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / count;
    variance.sqrt().exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{checkpoint, judge as evaluate, judge_with, tensor};

    /// Maps of three aspect ratios, their widths as `width(fan_in, fan_out)` says.
    fn network(width: impl Fn(f64, f64) -> f64) -> CheckpointAnalysis {
        let sizes = [16_u64, 96, 24, 64, 16];
        let layers = sizes.windows(2).zip(0..).map(|(pair, number)| {
            let name = format!("layers.{number}.weight");
            tensor(&name, Role::Linear, &[pair[1], pair[0]]).filled(width(pair[0] as f64, pair[1] as f64))
        });
        checkpoint(layers.collect()).at_step(0)
    }

    #[test]
    fn widths_that_follow_fan_out_are_a_warning() {
        let told = evaluate(&RULE, &network(|_, output| 1.0 / output.sqrt())).told();
        assert_eq!(told, [(Severity::Warning, "checkpoint".to_owned())]);
    }

    #[test]
    fn fan_in_glorot_and_one_width_are_silent() {
        assert!(evaluate(&RULE, &network(|input, _| (2.0 / input).sqrt())).is_clean());
        assert!(evaluate(&RULE, &network(|input, output| (2.0 / (input + output)).sqrt())).is_clean());
        assert!(evaluate(&RULE, &network(|_, _| 0.02)).is_clean());
    }

    #[test]
    fn the_limits_can_be_overridden() {
        let wrong = network(|_, output| 1.0 / output.sqrt());
        assert!(judge_with(&RULE, &wrong, &[("ratio", 3.0)]).is_clean());
        assert!(judge_with(&RULE, &wrong, &[("layers", 5.0)]).is_clean());
    }

    #[test]
    fn square_maps_and_convolutions_say_nothing() {
        let square = |name| tensor(name, Role::Linear, &[32, 32]);
        assert!(
            evaluate(&RULE, &checkpoint(vec![square("a"), square("b"), square("c")]).at_step(0)).is_clean()
        );
        let convolution = |name, outputs: u64| {
            tensor(name, Role::Convolution, &[outputs, 16, 3, 3]).filled(1.0 / (outputs as f64).sqrt())
        };
        let tensors = vec![convolution("a", 4), convolution("b", 64), convolution("c", 256)];
        assert!(evaluate(&RULE, &checkpoint(tensors).at_step(0)).is_clean());
    }

    #[test]
    fn a_trained_checkpoint_is_not_evaluated() {
        let findings = evaluate(&RULE, &network(|_, output| 1.0 / output.sqrt()).at_step(1));
        assert!(findings.told().is_empty());
        assert_eq!(findings.not_evaluated[0].1, "needs a checkpoint of step 0, this one is of a later step");
    }

    #[test]
    fn zero_maps_are_left_out() {
        let mut zeroed = network(|_, output| 1.0 / output.sqrt());
        zeroed.tensors[0] = tensor("layers.0.weight", Role::Linear, &[96, 16]).filled(0.0);
        assert_eq!(evaluate(&RULE, &zeroed).told().len(), 1);
    }
}
