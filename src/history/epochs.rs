//! Checkpoints that are named by epoch, put at the steps at which their epochs ended.
//!
//! `model_epoch_3.pth` beside a log of steps stands at step 1,173, not at step 3: taken for a step it would be older than
//! every onset, and what to go back to. Only a log that says both, the step and its epoch, can tell.

use super::log::Epochs;
use super::{Found, History, RemarkKind};

/// Epochs as logs write them, in decimals of a few digits.
const ROUNDING: f64 = 1e-3;

/// Epochs beyond which no run goes.
const MOST_EPOCHS: u64 = 1_000_000;

/// Puts checkpoints whose names count epochs at the last step of each, by what the log says of them.
pub(super) fn place(history: &mut History, logged: Epochs) {
    let named: Vec<u64> = history.checkpoints.iter().filter(|one| one.by_epoch).map(|one| one.step).collect();
    let (Some(&first), Some(&last)) = (named.first(), named.last()) else { return };
    if counts_epochs(history) {
        return;
    }
    let (ends, source) = match (Ends::of(logged.of_steps), even_epochs(logged.last_step, first, last)) {
        (Some(ends), _) => (ends, "by the log".to_owned()),
        (None, Some((ends, each))) => {
            (ends, format!("taken to be {each} steps, which divide those of the log evenly"))
        }
        (None, None) => {
            let message = format!(
                "the names of {} checkpoints count epochs, and no log says at which step an epoch ended: they are taken for steps; a log with the columns step and epoch would say it",
                named.len()
            );
            return history.remark(RemarkKind::TakenFor, None, message);
        }
    };
    let from = ends.number_of_the_first(first, last);
    let checkpoints = std::mem::take(&mut history.checkpoints);
    let mut placed: Vec<Found> = Vec::with_capacity(checkpoints.len());
    for mut found in checkpoints {
        if found.by_epoch {
            let Some(step) = ends.step(found.step as f64 + from) else {
                let name = found.path.file_name().map(|name| name.to_string_lossy().into_owned());
                history.remark(RemarkKind::LeftOut, name, "the log ends before the epoch in its name");
                continue;
            };
            found.step = step;
        }
        placed.push(found);
    }
    // What says its own step goes before what was put there.
    placed.sort_by_key(|found| (found.step, found.by_epoch));
    placed.dedup_by_key(|found| found.step);
    history.checkpoints = placed;
    let counting = match from {
        0.0 => "",
        1.0 => ", which counts them from 1 where the names count from 0",
        _ => ", which counts them from 0 where the names count from 1",
    };
    let message = format!(
        "the names of {} checkpoints count epochs: each is put at the last step of its epoch, {source}{counting}",
        named.len()
    );
    history.remark(RemarkKind::TakenFor, None, message);
}

/// Epochs of as many steps each, where those that are named divide the steps of the log evenly, and how many steps.
fn even_epochs(last_step: Option<u64>, first: u64, last: u64) -> Option<(Ends, u64)> {
    let steps = last_step?;
    let epochs = last + u64::from(first == 0);
    let each = steps.checked_div(epochs).filter(|each| *each > 1 && each * epochs == steps)?;
    let ends = (1..=epochs.min(MOST_EPOCHS)).map(|epoch| (each * epoch, epoch as f64)).collect();
    Some((Ends::of(ends)?, each))
}

/// Whether the log has a row an epoch, so that the numbers agree as they are.
fn counts_epochs(history: &History) -> bool {
    let sources = history.log.iter().flat_map(|log| &log.sources);
    sources.filter_map(|source| source.columns.get("step")).any(|step| step.eq_ignore_ascii_case("epoch"))
}

/// The last step up to each logged epoch, by ascending epoch.
struct Ends {
    steps: Vec<(f64, u64)>,
    /// Every epoch is a whole number: that of its row, not a share of the data.
    whole: bool,
}

impl Ends {
    fn of(logged: Vec<(u64, f64)>) -> Option<Self> {
        let mut steps: Vec<(f64, u64)> = logged
            .into_iter()
            .filter(|(_, epoch)| epoch.is_finite())
            .map(|(step, epoch)| (epoch, step))
            .collect();
        steps.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
        let mut latest = 0;
        for (_, step) in &mut steps {
            latest = latest.max(*step);
            *step = latest;
        }
        let whole = steps.iter().all(|(epoch, _)| epoch.fract() == 0.0);
        (!steps.is_empty()).then_some(Self { steps, whole })
    }

    /// What is added to the number of a name for the log's own: 0, or 1 in either direction where one counts from 0 and the
    /// other from 1, told by where both begin and end.
    fn number_of_the_first(&self, first: u64, last: u64) -> f64 {
        let (logged_first, logged_last) = (self.steps[0].0, self.steps[self.steps.len() - 1].0);
        let (first, last) = (first as f64, last as f64);
        if self.whole && logged_first == 0.0 && first >= 1.0 && last == logged_last + 1.0 {
            return -1.0;
        }
        let log_from_one = !self.whole || logged_first == 1.0;
        if log_from_one && first == 0.0 && last + 1.0 == logged_last.round() { 1.0 } else { 0.0 }
    }

    /// The last step of an epoch; `None` where the log ends before it.
    fn step(&self, epoch: f64) -> Option<u64> {
        let behind = self.steps.partition_point(|(logged, _)| *logged <= epoch + ROUNDING);
        let is_covered = behind < self.steps.len() || self.steps[behind - 1].0 + ROUNDING >= epoch;
        is_covered.then(|| if behind == 0 { 0 } else { self.steps[behind - 1].1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(logged: &[(u64, f64)]) -> Ends {
        Ends::of(logged.to_vec()).unwrap()
    }

    #[test]
    fn an_epoch_ends_at_the_last_step_that_a_log_gives_it() {
        let whole = ends(&[(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0)]);
        assert_eq!((whole.step(0.0), whole.step(1.0), whole.step(2.0)), (Some(0), Some(20), Some(40)));
        assert_eq!(whole.step(3.0), None);
        let shares = ends(&[(10, 0.5), (20, 1.0), (30, 1.5), (40, 2.0)]);
        assert_eq!((shares.step(1.0), shares.step(2.0), shares.step(3.0)), (Some(20), Some(40), None));
    }

    #[test]
    fn a_log_that_counts_from_0_and_names_that_count_from_1_are_told_apart_by_their_ends() {
        let from_zero = ends(&[(10, 0.0), (20, 1.0), (30, 2.0)]);
        assert_eq!(from_zero.number_of_the_first(1, 3), -1.0);
        assert_eq!(from_zero.number_of_the_first(0, 2), 0.0);
        let from_one = ends(&[(10, 1.0), (20, 2.0)]);
        assert_eq!((from_one.number_of_the_first(0, 1), from_one.number_of_the_first(1, 2)), (1.0, 0.0));
        let shares = ends(&[(10, 0.5), (20, 0.999), (30, 1.5), (40, 1.999)]);
        assert_eq!((shares.number_of_the_first(0, 1), shares.number_of_the_first(1, 2)), (1.0, 0.0));
        assert_eq!(shares.step(1.0), Some(20));
    }
}
