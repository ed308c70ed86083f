//! The state of optimizers that is gone as a whole, in a checkpoint of a run that has begun.

use super::{Finding, Findings, Severity, Subject};
use crate::analysis::model::{
    Algorithm, CheckpointAnalysis, Nothing, OptimizerCoverage, StateCoverage, UnfilledOptimizer,
};
use crate::number::counted;

/// Optimizers that must have had state by now, where none of the checkpoint has any, and places for one that hold nothing. Before `fewest_steps`
/// a loss scaler may have skipped every step.
pub(super) fn judge(
    checkpoint: &CheckpointAnalysis,
    coverage: &StateCoverage,
    fewest_steps: f64,
    findings: &mut Findings,
) {
    let keeps_nothing = |optimizer: &OptimizerCoverage| optimizer.stored == 0 && optimizer.orphans.is_empty();
    if !coverage.optimizers.iter().all(keeps_nothing) {
        return;
    }
    let emptied = || {
        let listing = coverage.optimizers.iter().filter(|optimizer| optimizer.listed > 0);
        listing
            .map(|optimizer| (optimizer, keeps_state(optimizer)))
            .filter(|(_, keeps)| *keeps != Some(false))
    };
    let Some(&step) = checkpoint.step.value() else {
        if !coverage.unfilled.is_empty() || emptied().next().is_some() {
            let reason = "an optimizer without state is as it should be before the first step, and the checkpoint says no step";
            findings.not_evaluated(Subject::Checkpoint, reason);
        }
        return;
    };
    if step == 0 {
        return;
    }
    for (optimizer, keeps) in emptied() {
        let what = format!(
            "{} lists {} and keeps state of none, at step {step}",
            optimizer.place,
            counted(optimizer.listed, "parameter"),
        );
        if keeps.is_none() {
            let reason = format!("{what}: its algorithm is not known, nor whether it keeps any");
            findings.not_evaluated(Subject::Checkpoint, reason);
            continue;
        }
        let finding = tell_emptied(what, findings);
        if (step as f64) < fewest_steps {
            finding.severity(Severity::Warning);
        }
    }
    for optimizer in coverage.optimizers.iter().filter(|optimizer| optimizer.groupless) {
        let what = "neither state nor a group of parameters";
        tell_unfilled((&optimizer.place, what, Severity::Warning), step, findings);
    }
    for UnfilledOptimizer { place, holds } in &coverage.unfilled {
        let (what, severity) = match holds {
            Nothing::None => ("None", Severity::Note),
            Nothing::EmptyList => ("an empty list", Severity::Note),
            Nothing::EmptyDict => ("an empty dict", Severity::Warning),
        };
        tell_unfilled((place, what, severity), step, findings);
    }
}

fn tell_emptied(message: String, findings: &mut Findings) -> &mut Finding {
    let advice = "its moments and counters are lost, and `load_state_dict` says nothing: a resume begins them anew with the learning rate of this step. Take an earlier save, or warm the learning rate up again; if the optimizer was begun anew at this very step, a loss scaler has skipped every step so far, or everything it lists is frozen, this is as it should be";
    let finding = findings.push(Subject::Checkpoint, message, advice);
    finding.short_of("parameters with state", 0.0, 1.0, "parameters").severity(Severity::Critical)
}

/// `None` and no optimizer at all are written on purpose, where weights alone are saved or each process keeps its own state elsewhere. No optimizer gives
/// an empty dict: that is what a process holds while another gathers the state.
fn tell_unfilled((place, what, severity): (&str, &str, Severity), step: u64, findings: &mut Findings) {
    let place = place.escape_debug();
    let message = format!("{place} holds {what}, at step {step}: there is no optimizer to resume with");
    let advice = "if these are weights to use, or the state is kept in files of its own, this is as it should be; if a run is to go on from here, its moments and counters are lost: save `optimizer.state_dict()`, with the state gathered where processes share it";
    let finding = findings.push(Subject::Checkpoint, message, advice);
    finding.short_of("optimizers with state", 0.0, 1.0, "optimizers").severity(severity);
}

/// Whether the algorithm keeps state of every parameter from its first step on; `None` where that is not known. SGD does so for its momentum alone.
/// RAdam, Lion and those of 8 bits are told by their state, of which there is none here: that they average is what their groups say.
fn keeps_state(optimizer: &OptimizerCoverage) -> Option<bool> {
    match optimizer.algorithm {
        Algorithm::Sgd => Some(optimizer.averages),
        Algorithm::Unknown { .. } => optimizer.averages.then_some(true),
        Algorithm::Adam
        | Algorithm::AdamW
        | Algorithm::AdamLike
        | Algorithm::EightBit
        | Algorithm::Adafactor
        | Algorithm::Lion
        | Algorithm::Adagrad
        | Algorithm::RmsProp => Some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Measured;
    use crate::rules::fp711_inconsistent_optimizer_groups::RULE;
    use crate::rules::test_support::{checkpoint, judge, optimizer_coverage};

    /// An optimizer of six parameters that keeps state of `stored` of them.
    fn optimizer(algorithm: Algorithm, stored: u64) -> OptimizerCoverage {
        let place = "a.pt: optimizer".to_owned();
        OptimizerCoverage { place, ..optimizer_coverage(algorithm, 6, stored) }
    }

    fn saved(optimizers: Vec<OptimizerCoverage>, holds: Option<Nothing>) -> CheckpointAnalysis {
        let place = "a.pt: optimizer".to_owned();
        let mut saved = checkpoint(Vec::new());
        saved.coverage = Measured::Value(StateCoverage {
            optimizers,
            unlisted: Measured::Value(Vec::new()),
            unfilled: holds.map(|holds| UnfilledOptimizer { place, holds }).into_iter().collect(),
        });
        saved
    }

    #[test]
    fn an_optimizer_without_any_state_is_critical_once_it_has_taken_steps() {
        let bare = || saved(vec![optimizer(Algorithm::AdamW, 0)], None);
        let unknown = judge(&RULE, &bare());
        assert!(unknown.found.is_empty() && unknown.not_evaluated.len() == 1, "nobody says the step");
        assert!(judge(&RULE, &bare().at_step(0)).is_clean());
        let found = judge(&RULE, &bare().at_step(400));
        assert_eq!(found.told(), [(Severity::Critical, "checkpoint".to_owned())]);
        let message = "a.pt: optimizer lists 6 parameters and keeps state of none, at step 400";
        assert_eq!(found.found[0].message, message);
    }

    #[test]
    fn in_the_first_steps_a_loss_scaler_may_have_skipped_all() {
        let at = |step| judge(&RULE, &saved(vec![optimizer(Algorithm::AdamW, 0)], None).at_step(step));
        assert_eq!((at(16).told()[0].0, at(17).told()[0].0), (Severity::Warning, Severity::Critical));
    }

    #[test]
    fn an_algorithm_that_is_told_by_its_state_keeps_some_where_its_groups_average() {
        let told = |averages| {
            let unknown = optimizer(Algorithm::Unknown { keys: Vec::new() }, 0);
            judge(&RULE, &saved(vec![OptimizerCoverage { averages, ..unknown }], None).at_step(400))
        };
        assert_eq!(told(true).told()[0].0, Severity::Critical);
        assert_eq!((told(false).found.len(), told(false).not_evaluated.len()), (0, 1));
    }

    #[test]
    fn plain_sgd_keeps_none_and_sgd_with_momentum_must() {
        let told = |averages| {
            let sgd = OptimizerCoverage { averages, ..optimizer(Algorithm::Sgd, 0) };
            judge(&RULE, &saved(vec![sgd], None).at_step(400)).told().len()
        };
        assert_eq!((told(false), told(true)), (0, 1));
    }

    #[test]
    fn beside_an_optimizer_that_has_begun_one_without_state_is_silent() {
        let both = vec![optimizer(Algorithm::AdamW, 0), optimizer(Algorithm::AdamW, 6)];
        assert!(judge(&RULE, &saved(both, Some(Nothing::None)).at_step(400)).is_clean());
    }

    #[test]
    fn a_place_for_an_optimizer_that_holds_nothing_is_told_once_steps_were_taken() {
        let at_step = |holds| judge(&RULE, &saved(Vec::new(), Some(holds)).at_step(400)).told()[0].0;
        assert_eq!(at_step(Nothing::EmptyDict), Severity::Warning);
        assert_eq!(at_step(Nothing::None), Severity::Note, "weights alone are saved so on purpose");
        assert_eq!(at_step(Nothing::EmptyList), Severity::Note);
        assert!(judge(&RULE, &saved(Vec::new(), Some(Nothing::EmptyDict)).at_step(0)).is_clean());
        let shell = OptimizerCoverage {
            listed: 0,
            groupless: true,
            ..optimizer(Algorithm::Unknown { keys: Vec::new() }, 0)
        };
        assert_eq!(judge(&RULE, &saved(vec![shell], None).at_step(400)).told()[0].0, Severity::Warning);
        let unknown = judge(&RULE, &saved(Vec::new(), Some(Nothing::None)));
        assert!(unknown.found.is_empty() && unknown.not_evaluated.len() == 1);
        let found = judge(&RULE, &saved(Vec::new(), Some(Nothing::None)).at_step(400)).found;
        let message = "a.pt: optimizer holds None, at step 400: there is no optimizer to resume with";
        assert_eq!(found[0].message, message);
    }
}
