//! C2: a second moment that does nothing but decay, so that steps grow until they overshoot.

use std::collections::BTreeMap;

use super::intervals::{never_measured, subject, tensors};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Threshold, Thresholds};
use crate::analysis::model::{Analysis, DumpAnalysis, IntervalAnalysis, Measured, TensorInterval};

pub(super) static RULE: Rule = Rule {
    code: "FP302",
    name: "decoupled-second-moment",
    summary: "a tensor's second moments only decay while it is still being stepped",
    page: include_str!("../../docs/rules/FP302-decoupled-second-moment.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::NORMS.and(Needs::OPTIMIZER).and(Needs::INTERVALS),
    thresholds: &[
        Threshold {
            name: "decay-ratio",
            default: 1.02,
            unit: "times free decay",
            source: "Bai et al., arXiv:2506.04805; 1 is no gradient at all",
        },
        Threshold {
            name: "gradient-ratio",
            default: 0.1,
            unit: "times the median of the intervals before",
            source: "after a spike v decays too, under gradients as large as before",
        },
        Threshold {
            name: "growth",
            default: 1.3,
            unit: "times the step per gradient at first",
            source: "training hovers at the edge of stability: what FP301 takes to be above it",
        },
        Threshold {
            name: "decaying-share",
            default: 0.5,
            unit: "of the elements",
            source: "curvature is measured for all of a model: it is foretold where most of it decays",
        },
    ],
    check: Check::Run(check),
};

/// Successive intervals in which nothing but decay was seen.
struct Stretch {
    from_step: u64,
    /// How much steps per gradient grew, β₂^(−k/2).
    growth: f64,
    told: bool,
}

fn check(analysis: &Analysis, thresholds: &Thresholds, findings: &mut Findings) {
    let limit = thresholds.get("growth");
    let mut stretches: BTreeMap<&str, Stretch> = BTreeMap::new();
    for (interval, tensor) in tensors(analysis) {
        let name = tensor.canonical_name.as_str();
        let Some((beta2, steps, ratio)) = free_decay(analysis, interval, tensor, thresholds) else {
            stretches.remove(name);
            continue;
        };
        let new = Stretch { from_step: interval.from_step, growth: 1.0, told: false };
        let stretch = stretches.entry(name).or_insert(new);
        stretch.growth *= beta2.powf(-0.5 * steps);
        if stretch.told || stretch.growth < limit {
            continue;
        }
        stretch.told = true;
        let doubling = 2.0 * std::f64::consts::LN_2 / -beta2.ln();
        let foretold = foretold(analysis, [stretch.from_step, interval.to_step], interval, thresholds);
        let when = match &foretold {
            Ok(Foretold { step, dump, .. }) => format!(
                ", and by the curvature along step {dump} they reach the edge of stability by step {step} at the latest"
            ),
            Err(_) => String::new(),
        };
        let message = format!(
            "{}: its second moments did nothing but decay between steps {} and {}: its steps per gradient double every {doubling:.0} steps{when}",
            tensor.name, stretch.from_step, interval.to_step,
        );
        let finding = findings
            .push(subject(tensor), message, ADVICE)
            .at_step(stretch.from_step)
            .against("growth of the step per gradient", stretch.growth, limit, "times")
            .evidence("second moments over free decay", ratio, "times")
            .evidence("steps until the preconditioned sharpness has doubled", doubling, "optimizer steps");
        match foretold {
            Ok(Foretold { step, sharpness, .. }) => {
                finding
                    .evidence("preconditioned sharpness over the edge of stability", sharpness, "times")
                    .evidence("step by which it reaches the edge", step as f64, "step");
            }
            Err(reason) => {
                let reason = format!("the step at which it overshoots is not foretold: {reason}");
                findings.not_evaluated(subject(tensor), reason);
            }
        }
    }
    never_measured(analysis, |tensor| &tensor.decay_ratio, findings);
}

/// When free decay reaches the edge of stability, by the last dump that shows it.
struct Foretold {
    step: u64,
    dump: u64,
    sharpness: f64,
}

/// What the dumps of steps `from..=to + 1` foretell; `interval` says how much of the model decays.
fn foretold(
    analysis: &Analysis,
    [from, to]: [u64; 2],
    interval: &IntervalAnalysis,
    thresholds: &Thresholds,
) -> Result<Foretold, String> {
    let known = analysis.dumps.iter().filter(|dump| dump.step > from && dump.step <= to + 1);
    let known: Vec<&DumpAnalysis> = known.collect();
    let judged = known.iter().rev().find_map(|dump| Some((dump.step, dump.preconditioned.value()?)));
    let Some((dump, sharpness)) = judged else {
        let reason = known.iter().rev().find_map(|dump| match &dump.preconditioned {
            Measured::NotMeasured(reason) => Some(reason.to_string()),
            _ => None,
        });
        let needs = "needs two gradient dumps in these steps, each with the checkpoint of the step before it";
        return Err(reason.unwrap_or_else(|| needs.to_owned()));
    };
    let share = decaying_share(interval, thresholds.get("decay-ratio"));
    if share < thresholds.get("decaying-share") {
        let percent = 100.0 * share;
        return Err(format!("only {percent:.0} % of the parameters decay, and the curvature is that of all"));
    }
    let &step = sharpness.edge_step.value().ok_or("the curvature along the step leads to no edge")?;
    Ok(Foretold { step, dump, sharpness: sharpness.value / sharpness.edge })
}

/// Share of the elements whose tensors do nothing but decay, of all whose decay is known.
fn decaying_share(interval: &IntervalAnalysis, limit: f64) -> f64 {
    let known =
        || interval.tensors.iter().filter_map(|tensor| Some((tensor.elements, *tensor.decay_ratio.value()?)));
    let all: u64 = known().map(|(elements, _)| elements).sum();
    let decaying: u64 = known().filter(|(_, ratio)| *ratio <= limit).map(|(elements, _)| elements).sum();
    decaying as f64 / all.max(1) as f64
}

/// β₂, steps and decay ratio of a tensor that still moves while its second moments do nothing but decay.
fn free_decay(
    analysis: &Analysis,
    interval: &IntervalAnalysis,
    tensor: &TensorInterval,
    thresholds: &Thresholds,
) -> Option<(f64, f64, f64)> {
    let (&ratio, &steps) = (tensor.decay_ratio.value()?, tensor.steps.value()?);
    // What does not move is frozen, or rests in its minimum: nothing can overshoot.
    let moves = tensor.relative_change.value().is_some_and(|&change| change > 0.0);
    // After a spike v decays as well, although gradients are what they were.
    let fed = tensor.gradient_ratio.value().is_some_and(|&ratio| ratio > thresholds.get("gradient-ratio"));
    let decays = ratio <= thresholds.get("decay-ratio") && steps > 0.0;
    if !decays || fed || !moves || is_sparse(tensor) {
        return None;
    }
    Some((decay_per_step(analysis, &interval.to, tensor)?, steps, ratio))
}

/// β₂ of the group that the tensor is in, at the checkpoint `name`.
pub(super) fn decay_per_step(analysis: &Analysis, name: &str, tensor: &TensorInterval) -> Option<f64> {
    let checkpoint = analysis.checkpoints.iter().find(|checkpoint| checkpoint.name == name)?;
    let beta2 = super::moments::parameters(checkpoint)
        .find(|(parameter, _, _)| {
            parameter.tensor.as_ref().is_some_and(|known| known.canonical_name == tensor.canonical_name)
        })
        .and_then(|(_, _, group)| group.beta2.or(group.alpha));
    beta2.filter(|beta2| (0.0..1.0).contains(beta2) && *beta2 > 0.0)
}

/// Rows that no batch reached decay for good reasons.
fn is_sparse(tensor: &TensorInterval) -> bool {
    use crate::analysis::model::Role;
    matches!(tensor.role, Role::TokenEmbedding | Role::PositionEmbedding | Role::Expert | Role::Router)
}

const ADVICE: &str = "lower beta2 (0.95 to 0.98) or the learning rate, or clip updates by their RMS, before the first gradient that counts arrives";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{Role, Sharpness};
    use crate::rules::test_support::{dump, interval_tensor, judge_run, run_of};

    #[test]
    fn free_decay_of_what_still_moves_is_told_with_the_time_in_which_steps_double() {
        let mut run = run_of(2, || vec![interval_tensor("fc.weight")]);
        assert!(judge_run(&RULE, &run, &[]).is_clean());
        run.intervals[1].tensors[0].steps = Measured::Value(600.0);
        run.intervals[1].tensors[0].decay_ratio = Measured::Value(1.0001);
        assert!(judge_run(&RULE, &run, &[]).is_clean(), "after a spike");
        run.intervals[1].tensors[0].gradient_ratio = Measured::Value(0.01);
        let findings = judge_run(&RULE, &run, &[]);
        assert_eq!(findings.told(), [(Severity::Warning, "fc.weight".to_owned())]);
        assert!(
            findings.found[0].message.contains("double every 1386 steps"),
            "{}",
            findings.found[0].message
        );
        run.intervals[1].tensors[0].relative_change = Measured::Value(0.0);
        assert!(judge_run(&RULE, &run, &[]).is_clean(), "frozen");
        run.intervals[1].tensors[0].relative_change = Measured::Value(1e-3);
        run.intervals[1].tensors[0].role = Role::TokenEmbedding;
        assert!(judge_run(&RULE, &run, &[]).is_clean(), "rows that no batch reached");
    }

    #[test]
    fn the_step_by_which_it_overshoots_is_foretold_by_a_dump_of_these_steps_where_most_of_the_model_decays() {
        let mut run = run_of(2, || vec![interval_tensor("fc.weight"), interval_tensor("other.weight")]);
        let decaying = &mut run.intervals[1].tensors[0];
        decaying.steps = Measured::Value(600.0);
        decaying.decay_ratio = Measured::Value(1.0);
        decaying.gradient_ratio = Measured::Value(0.01);
        let reason = |run: &Analysis| judge_run(&RULE, run, &[]).not_evaluated[0].1.clone();
        assert!(reason(&run).contains("not foretold: needs two gradient dumps"), "{}", reason(&run));
        run.dumps = vec![dump(50), dump(150)];
        for dump in &mut run.dumps {
            let edge_step = Measured::Value(10 * dump.step);
            dump.preconditioned = Measured::Value(Sharpness { value: 19_000.0, edge: 38_000.0, edge_step });
        }
        let findings = judge_run(&RULE, &run, &[]);
        let message = &findings.found[0].message;
        assert!(message.contains("by the curvature along step 150"), "{message}");
        assert!(message.ends_with("by step 1500 at the latest"), "{message}");
        assert!(findings.not_evaluated.is_empty());
        run.intervals[1].tensors[1].elements = 4097;
        assert!(reason(&run).contains("only 50 % of the parameters decay"), "{}", reason(&run));
        run.dumps.truncate(1);
        assert!(reason(&run).contains("needs two gradient dumps"), "a dump from before it began");
    }

    #[test]
    fn decay_that_grows_no_step_is_silent_until_intervals_together_do() {
        let mut run = run_of(2, || vec![interval_tensor("fc.weight")]);
        for interval in &mut run.intervals {
            interval.tensors[0].decay_ratio = Measured::Value(1.0);
            interval.tensors[0].gradient_ratio = Measured::not("lost in rounding");
            // 0.999^(-300/2) is 1.16, its square 1.35.
            interval.tensors[0].steps = Measured::Value(300.0);
        }
        let findings = judge_run(&RULE, &run, &[]);
        assert_eq!(findings.told(), [(Severity::Warning, "fc.weight".to_owned())]);
        assert_eq!(findings.found[0].step, Some(run.intervals[0].from_step));
        run.intervals[0].tensors[0].decay_ratio = Measured::Value(2.0);
        assert!(judge_run(&RULE, &run, &[]).is_clean(), "fed in between");
    }
}
