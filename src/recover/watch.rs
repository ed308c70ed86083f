//! The log of a training that goes on, looked at by the rules that look at logs: whether it blows up again.
//!
//! Everything critical that they find behind the step of the resume counts. What a log already said before the resume is the
//! baseline up to that step; behind it, it is the earlier attempt, and is left out.

use std::path::{Path, PathBuf};

use crate::analysis::log::measure_log;
use crate::analysis::model::{Analysis, MeasureLevel, Run};
use crate::analysis::of_checkpoints;
use crate::context::Context;
use crate::error::ErrorKind;
use crate::history::{Earlier, History, Options};
use crate::rules::{self, Overrides, Severity};

/// A log that is watched.
pub struct Watch {
    path: PathBuf,
    options: Options,
    thresholds: Overrides,
    from: u64,
}

/// What a look at the log showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Nothing of the new attempt is logged yet.
    Nothing,
    /// It cannot be read: why.
    Unreadable(String),
    /// So many points of it, the last at this step, and nothing critical.
    Fine {
        /// Points behind the resume.
        points: usize,
        /// Step of the last.
        last: u64,
    },
    /// It blew up: what the rule says.
    BlownUp(String),
}

impl Watch {
    /// Watches the log, or the directory of logs, at `path`, which need not be there yet, for what happens behind step `from`.
    pub fn new(path: &Path, from: u64, options: Options, thresholds: Overrides, context: &Context) -> Self {
        let earlier = Some(Earlier::note(path, from, &options, context));
        Self { path: path.to_owned(), options: Options { earlier, ..options }, thresholds, from }
    }

    /// Looks at what is logged by now.
    pub fn look(&mut self, context: &Context) -> Seen {
        if let Some(earlier) = &mut self.options.earlier {
            earlier.forget_rewritten(context);
        }
        let history = match History::read(&self.path, &self.options, context) {
            Ok(history) => history,
            Err(error) if is_passing(&error.kind) => return Seen::Nothing,
            Err(error) => return Seen::Unreadable(error.to_string()),
        };
        let Some(log) = &history.log else {
            let first = history.errors.iter().find(|error| !is_passing(&error.kind));
            return first.map_or(Seen::Nothing, |error| Seen::Unreadable(error.to_string()));
        };
        let new = log.records.iter().filter(|record| record.step > self.from);
        let (points, last) = (new.clone().count(), new.map(|record| record.step).max());
        let Some(last) = last else { return Seen::Nothing };
        let analysis = Analysis {
            run: Some(Run { name: history.name.clone(), ..Run::default() }),
            log: Some(measure_log(log)),
            ..of_checkpoints(Vec::new(), MeasureLevel::List)
        };
        let assessment = rules::evaluate(&analysis, &self.thresholds);
        let critical = assessment.findings.iter().filter(|finding| {
            finding.severity == Severity::Critical && finding.step.is_none_or(|step| step > self.from)
        });
        // The first to happen is the one to tell.
        match critical.min_by_key(|finding| finding.step) {
            Some(finding) => Seen::BlownUp(format!("{} {}: {}", finding.rule, finding.name, finding.message)),
            None => Seen::Fine { points, last },
        }
    }
}

/// Whether it is so only because the log was not begun yet, or is being written to.
fn is_passing(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::EmptyFile | ErrorKind::ChangedWhileReading)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    /// Lines of a log whose loss falls slowly from step `first` on; from `onset` on it grows.
    fn lines(steps: std::ops::Range<u64>, onset: Option<u64>) -> String {
        let mut text = String::new();
        for step in steps {
            let noise = 0.02 * ((step * 7919) % 13) as f64 / 13.0;
            let grown = onset.filter(|onset| step >= *onset).map_or(0, |onset| step - onset + 1);
            let factor = 1.6f64.powi(i32::try_from(grown).unwrap());
            let (loss, norm) = ((1.0 + noise) * factor, (0.5 + noise) * factor);
            writeln!(text, "{{\"step\": {step}, \"loss\": {loss}, \"grad_norm\": {norm}}}").unwrap();
        }
        text
    }

    fn watch(path: &Path, from: u64) -> Watch {
        Watch::new(path, from, Options::default(), Overrides::default(), &Context::default())
    }

    #[test]
    fn a_log_that_is_not_there_yet_and_one_that_goes_well_are_told_apart_from_one_that_blows_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut watch = watch(&path, 100);
        assert_eq!(watch.look(&Context::default()), Seen::Nothing);
        std::fs::write(&path, lines(101..160, None)).unwrap();
        assert_eq!(watch.look(&Context::default()), Seen::Fine { points: 59, last: 159 });
        std::fs::write(&path, lines(101..180, Some(150))).unwrap();
        assert!(matches!(watch.look(&Context::default()), Seen::BlownUp(_)));
    }

    #[test]
    fn the_explosion_of_the_attempt_before_does_not_stop_the_one_that_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let before = lines(1..200, Some(150));
        std::fs::write(&path, &before).unwrap();
        let mut watch = watch(&path, 100);
        assert_eq!(watch.look(&Context::default()), Seen::Nothing);
        std::fs::write(&path, before + &lines(101..130, None).replace("0.5", "0.4")).unwrap();
        let seen = watch.look(&Context::default());
        assert!(!matches!(seen, Seen::BlownUp(_)), "{seen:?}");
    }

    /// A log of two attempts, of which each becomes NaN at step 150.
    fn not_finite(steps: std::ops::Range<u64>) -> String {
        let known = |step: u64| format!("{{\"step\": {step}, \"loss\": 1.5, \"grad_norm\": 0.5}}\n");
        let lost = |step: u64| format!("{{\"step\": {step}, \"loss\": NaN, \"grad_norm\": NaN}}\n");
        steps.map(|step| if step < 150 { known(step) } else { lost(step) }).collect()
    }

    #[test]
    fn an_attempt_that_becomes_nan_as_the_one_before_did_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let before = not_finite(1..200);
        std::fs::write(&path, &before).unwrap();
        let mut watch = watch(&path, 100);
        assert_eq!(watch.look(&Context::default()), Seen::Nothing);
        std::fs::write(&path, before.clone() + &not_finite(101..140)).unwrap();
        assert_eq!(watch.look(&Context::default()), Seen::Fine { points: 39, last: 139 });
        std::fs::write(&path, before + &not_finite(101..170)).unwrap();
        let seen = watch.look(&Context::default());
        assert!(matches!(seen, Seen::BlownUp(_)), "{seen:?}");
    }

    #[test]
    fn an_attempt_that_logs_the_same_numbers_is_seen_behind_the_old_ones_and_in_a_log_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let (before, again) = (lines(1..200, Some(150)), lines(101..200, Some(150)));
        std::fs::write(&path, &before).unwrap();
        let mut appended = watch(&path, 100);
        let mut anew = watch(&path, 100);
        std::fs::write(&path, before.clone() + &again).unwrap();
        let seen = appended.look(&Context::default());
        assert!(matches!(seen, Seen::BlownUp(_)), "{seen:?}");
        // Shorter than it was: begun anew. Then it says what it said before.
        std::fs::write(&path, lines(1..120, None)).unwrap();
        assert_eq!(anew.look(&Context::default()), Seen::Fine { points: 19, last: 119 });
        std::fs::write(&path, &before).unwrap();
        let seen = anew.look(&Context::default());
        assert!(matches!(seen, Seen::BlownUp(_)), "{seen:?}");
    }

    #[test]
    fn a_log_that_cannot_be_read_is_no_silence() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, "neither this\nnor that\n").unwrap();
        let seen = watch(&path, 100).look(&Context::default());
        assert!(matches!(&seen, Seen::Unreadable(why) if why.contains("metrics.jsonl")), "{seen:?}");
    }
}
