//! E3: the loss rises above its lowest, for longer than noise does, or stops being a number.

use super::collapse::{Limits, collapse};
use super::logs::{Divergence, GIVEN_BACK, first_divergence, log};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{Analysis, LogAnalysis, LogPoint, Number};
use crate::number::short;

pub(super) static RULE: Rule = Rule {
    code: "FP503",
    name: "divergence",
    summary: "the loss rises well above its lowest, or is not finite",
    page: include_str!("../../docs/rules/FP503-divergence.md"),
    severity: Severity::Critical,
    confidence: Confidence::Calibrated,
    needs: Needs::LOG,
    thresholds: &[
        Threshold {
            name: "rise",
            default: 1.5,
            unit: "times the lowest loss",
            source: "risk.md E3: 6 of 6 failing runs, none of 12 healthy or merely bad ones",
        },
        Threshold {
            name: "noise",
            default: 5.0,
            unit: "deviations of ln loss",
            source: "design: highest over lowest median of three among thousands stays below exp(4 deviations)",
        },
        Threshold {
            name: "given-back",
            default: GIVEN_BACK,
            unit: "of what the loss had fallen",
            source: "design: near zero a loss is a multiple of its lowest within 0.01 of its fall, and a divergence gives back all",
        },
        Threshold {
            name: "early-peak",
            default: Limits::DEFAULT.early_peak,
            unit: "times the first loss",
            source: "as `rise`: the noise of a log that is long enough for this is known",
        },
        Threshold {
            name: "unlearned",
            default: Limits::DEFAULT.unlearned,
            unit: "of the first loss",
            source: "design: a run that ends within a tenth of its first loss has learned next to nothing",
        },
        Threshold {
            name: "learned",
            default: Limits::DEFAULT.learned,
            unit: "of the loss",
            source: "design: less is soon lost to another mix of data",
        },
        Threshold {
            name: "gone",
            default: Limits::DEFAULT.gone,
            unit: "of what was learned",
            source: "design: a network that guesses again has lost all of it",
        },
    ],
    check: Check::Run(check),
};

fn check(analysis: &Analysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(log) = log(analysis) else { return };
    if log.points.iter().all(|point| point.loss.is_none()) {
        findings.not_evaluated(Subject::Run, "the log has no loss");
        return;
    }
    let last = log.points.last().map_or(0, |point| point.step);
    let advice =
        "go back to a checkpoint well before this step; lower the learning rate or clip before going on";
    if let Some(point) =
        log.points.iter().find(|point| point.loss.is_some_and(|loss| loss.finite().is_none()))
    {
        let message = format!("the loss is not finite from step {} on", point.step);
        findings.push(Subject::Steps(point.step, last), message, advice).at_step(point.step);
    }
    let (rise, noise) = (thresholds.get("rise"), thresholds.get("noise"));
    let divergence = first_divergence(log, rise, noise, thresholds.get("given-back"));
    if let Some(divergence) = divergence.as_ref().filter(|rise| !rise.came_back) {
        tell_rise(log, divergence, advice, findings);
    } else if findings.found.is_empty()
        && let Some(collapse) = collapse(&log.points, limits(thresholds), rise)
    {
        let message = if collapse.at_the_start {
            format!(
                "the loss rises to {} times the first at step {}, and the run ends no better than it began",
                short(collapse.ratio),
                collapse.step
            )
        } else {
            format!(
                "the loss is back at the level that the run began with from step {} on: what was learned is gone",
                collapse.step
            )
        };
        findings.push(Subject::Steps(collapse.step, last), message, advice).at_step(collapse.step).evidence(
            "loss over what it was before",
            collapse.ratio,
            "times",
        );
    } else if let Some(divergence) = divergence {
        // A run that ends below where it was before its loss rose has not failed by that, whatever it did in between.
        let advice = "nothing has to be gone back to; look at what the run was fed from this step on, if that was not meant";
        tell_rise(log, &divergence, advice, findings);
    } else if findings.found.is_empty() {
        note_signed(log, findings);
    }
}

/// That the loss left its lowest, and whether the run came back from it.
fn tell_rise(log: &LogAnalysis, divergence: &Divergence, advice: &str, findings: &mut Findings) {
    let Divergence { point, allowed, came_back } = *divergence;
    let step = point.step;
    let ratio = point.loss_ratio.unwrap_or(f64::NAN);
    let top = log.points.iter().filter_map(|point| point.loss_ratio).fold(ratio, f64::max);
    let last = log.points.last().map_or(step, |point| point.step);
    let end = if came_back { "; the run came back from it, and ends no higher than before" } else { "" };
    let message =
        format!("the loss is {ratio:.2} times its lowest at step {step} and reaches {top:.2} times{end}");
    let found = findings.push(Subject::Steps(step, last), message, advice);
    found.at_step(step).against("loss over its lowest", ratio, allowed, "times, medians of three");
    if came_back {
        found.severity(Severity::Note);
    }
}

/// A loss may go below zero, as that of a policy or a bound of a likelihood does: how far it is above its lowest is then no ratio, and no other
/// number says what is far, as such a loss has no zero of its own.
fn note_signed(log: &LogAnalysis, findings: &mut Findings) {
    let is_negative = |point: &&LogPoint| point.loss.and_then(Number::finite).is_some_and(|loss| loss < 0.0);
    if let Some(point) = log.points.iter().find(is_negative) {
        let reason = format!(
            "the loss is below zero at step {}: a ratio to its lowest says nothing, and only whether it is finite was looked at",
            point.step
        );
        findings.not_evaluated(Subject::Run, reason);
    } else if log.points.iter().all(|point| point.loss_ratio.is_none()) {
        findings
            .not_evaluated(Subject::Run, "fewer than three losses above zero in a row: they have no ratio");
    }
}

/// Whether a log diverges by the limits that nothing overrides, whatever is asked of this rule.
pub(crate) fn diverges(log: &LogAnalysis) -> bool {
    let limit = |name: &str| {
        let named = RULE.thresholds.iter().find(|threshold| threshold.name == name);
        named.expect("the rule has it").default
    };
    first_divergence(log, limit("rise"), limit("noise"), limit("given-back")).is_some()
        || collapse(&log.points, Limits::DEFAULT, limit("rise")).is_some()
}

fn limits(thresholds: &Thresholds) -> Limits {
    Limits {
        early_peak: thresholds.get("early-peak"),
        unlearned: thresholds.get("unlearned"),
        learned: thresholds.get("learned"),
        gone: thresholds.get("gone"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{judge_run, logged, point};

    fn run(ratios: &[f64], noise: Option<f64>) -> Analysis {
        let points = ratios.iter().enumerate().map(|(index, ratio)| {
            let mut point = point(index as u64).with_loss(2.0 * ratio);
            point.loss_ratio = Some(*ratio);
            point.loss_noise = noise;
            point
        });
        logged(points.collect())
    }

    #[test]
    fn a_rise_beyond_the_noise_is_told_at_its_first_step() {
        let told = |run: &Analysis| judge_run(&RULE, run, &[]).told();
        assert_eq!(
            told(&run(&[1.0, 1.4, 1.6, 9.0], Some(0.01))),
            [(Severity::Critical, "steps 2 to 3".to_owned())]
        );
        assert!(told(&run(&[1.0, 1.4], Some(0.01))).is_empty());
        // exp(5·0.2) = 2.7.
        assert!(told(&run(&[1.0, 1.6, 2.6], Some(0.2))).is_empty());
        assert_eq!(told(&run(&[1.0, 1.6, 2.8], Some(0.2)))[0].1, "steps 2 to 2");
    }

    #[test]
    fn a_rise_that_comes_back_is_none() {
        let mut ratios = vec![1.0, 1.6, 1.6];
        ratios.extend([1.1; 10]);
        assert!(judge_run(&RULE, &run(&ratios, Some(0.01)), &[]).told().is_empty());
    }

    /// Losses of 2 that are `tops` for forty each, and `lows` for forty behind each.
    fn told_of(tops: &[(f64, f64)]) -> Vec<(Severity, String)> {
        let behind = tops.iter().flat_map(|(top, low)| [[*top; 40], [*low; 40]].concat());
        let ratios: Vec<f64> = std::iter::repeat_n(1.0, 40).chain(behind).collect();
        let mut run = run(&ratios, Some(0.01));
        let mut lowest = f64::INFINITY;
        for (point, ratio) in run.log.as_mut().unwrap().points.iter_mut().zip(ratios) {
            lowest = lowest.min(ratio);
            point.loss_ratio = Some(ratio / lowest);
        }
        judge_run(&RULE, &run, &[]).told()
    }

    #[test]
    fn a_rise_that_the_log_ends_no_higher_for_is_a_note_and_one_that_it_stays_above_is_critical() {
        let note = [(Severity::Note, "steps 40 to 119".to_owned())];
        assert_eq!(told_of(&[(9.0, 1.0)]), note);
        assert_eq!(told_of(&[(9.0, 0.2)]), note);
        assert_eq!(told_of(&[(9.0, 1.01)]), [(Severity::Critical, "steps 40 to 119".to_owned())]);
        // Below where it began, and far above what it had come to.
        assert_eq!(told_of(&[(9.0, 0.2), (0.9, 0.9)]), [(Severity::Critical, "steps 120 to 199".to_owned())]);
    }

    #[test]
    fn a_run_whose_last_losses_are_no_numbers_or_zeros_did_not_come_back() {
        for lost in [f64::NAN, f64::INFINITY, 0.0] {
            let ratios: Vec<f64> = [[1.0; 40], [9.0; 40], [0.9; 40]].concat();
            let mut run = run(&ratios, Some(0.01));
            let points = &mut run.log.as_mut().unwrap().points;
            let last = points.len() - 5;
            points[last..]
                .iter_mut()
                .for_each(|point| (point.loss, point.loss_ratio) = (Some(Number(lost)), None));
            let told = judge_run(&RULE, &run, &[]).told();
            assert!(told.iter().any(|(severity, _)| *severity == Severity::Critical), "{lost}: {told:?}");
            assert!(told.iter().all(|(severity, _)| *severity != Severity::Note), "{lost}: {told:?}");
        }
    }

    #[test]
    fn a_rise_like_those_it_came_back_from_is_none_and_a_larger_one_is() {
        let mut ratios: Vec<f64> = Vec::new();
        for _ in 0..3 {
            ratios.extend([1.0, 1.4, 1.4, 1.4, 1.0]);
        }
        let told = |top: f64| {
            let ratios: Vec<f64> = ratios.iter().copied().chain([top; 12]).collect();
            judge_run(&RULE, &run(&ratios, Some(0.01)), &[]).told()
        };
        // Twice as far in ln is 1.4² = 1.96; the level of the twelve that are left has to be above 1.5 times that of the fifteen before, which is 1.4.
        assert!(told(1.9).is_empty() && told(2.09).is_empty());
        assert_eq!(told(2.2), [(Severity::Critical, "steps 15 to 26".to_owned())]);
    }

    #[test]
    fn before_its_noise_is_known_a_loss_may_triple() {
        assert!(judge_run(&RULE, &run(&[1.0, 2.9], None), &[]).told().is_empty());
        assert_eq!(judge_run(&RULE, &run(&[1.0, 2.9, 3.1], None), &[]).told().len(), 1);
    }

    #[test]
    fn a_loss_that_fell_to_next_to_nothing_may_be_a_multiple_of_its_lowest() {
        let told = |top: f64| {
            let mut run = run(&[1.0; 40], Some(0.01));
            let points = &mut run.log.as_mut().unwrap().points;
            for (at, point) in points.iter_mut().enumerate() {
                point.loss = Some(Number(if at < 15 { 1.0 } else { 0.01 }));
            }
            for point in &mut points[35..] {
                point.loss = Some(Number(top));
                point.loss_ratio = Some(top / 0.01);
            }
            judge_run(&RULE, &run, &[]).told().len()
        };
        assert_eq!((told(0.02), told(0.2)), (0, 1));
    }

    #[test]
    fn a_level_may_leave_its_lowest_by_its_own_noise() {
        let told = |top: f64| {
            let mut run = run(&[1.0; 60], Some(0.206));
            let points = &mut run.log.as_mut().unwrap().points;
            for (at, point) in points.iter_mut().enumerate() {
                point.loss = Some(Number(if at < 15 { 1.0 } else { 0.4 }));
            }
            // Medians of three are far above the lowest of them, which fifteen are not.
            for point in &mut points[30..45] {
                (point.loss, point.loss_ratio) = (Some(Number(top)), Some(3.0));
            }
            judge_run(&RULE, &run, &[]).told().len()
        };
        // exp(7·1.2533·0.206/√15) = 1.59 times 0.4.
        assert_eq!((told(0.62), told(0.65)), (0, 1));
    }

    #[test]
    fn a_rise_at_the_end_of_a_log_is_held_against_what_so_few_losses_may_be() {
        let told = |end: &[f64], noise: f64| {
            let mut run = run(&[1.0; 40], Some(noise));
            for (at, loss) in end.iter().enumerate() {
                let mut point = point(40 + at as u64).with_loss(2.0 * loss);
                (point.loss_ratio, point.loss_noise) = (Some(*loss), Some(noise));
                run.log.as_mut().unwrap().points.push(point);
            }
            judge_run(&RULE, &run, &[]).told().len()
        };
        // The median of three is far above its lowest, which was that of three as well; the level of the last three is not above the lowest of
        // fifteen, which is 1: of a noise of 1 it may be exp(7·1.2533/√3) = 158 times that.
        let mut low = run(&[1.0; 40], Some(1.0));
        for (at, loss) in [0.9, 150.0, 150.0].into_iter().enumerate() {
            let mut point = point(40 + at as u64).with_loss(2.0 * loss);
            (point.loss_ratio, point.loss_noise) = (Some(100.0 * loss), Some(1.0));
            low.log.as_mut().unwrap().points.push(point);
        }
        assert!(judge_run(&RULE, &low, &[]).told().is_empty());
        assert_eq!((told(&[1.0, 2.4, 2.4], 0.2), told(&[4.0, 6.0, 9.0], 0.2)), (0, 1));
    }

    #[test]
    fn a_loss_that_is_no_number_is_told() {
        let run = logged(vec![point(1).with_loss(2.0), point(2).with_loss(f64::NAN)]);
        assert_eq!(judge_run(&RULE, &run, &[]).told(), [(Severity::Critical, "steps 2 to 2".to_owned())]);
    }
}
