//! The log of a training that goes on, looked at by the rules that look at logs: whether it blows up again.
//!
//! Everything critical that they find behind the step of the resume counts. What a log already said before the resume is the
//! baseline up to that step; behind it, it is the earlier attempt, and is left out until it is written anew.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::analysis::log::measure_log;
use crate::analysis::model::{Analysis, MeasureLevel, Run};
use crate::analysis::of_checkpoints;
use crate::context::Context;
use crate::history::{History, Options, Record};
use crate::rules::{self, Overrides, Severity};

/// A log that is watched.
pub struct Watch {
    path: PathBuf,
    options: Options,
    thresholds: Overrides,
    from: u64,
    /// What was logged behind the resume before it began: loss and norm by step, as bits.
    earlier: HashMap<u64, [Option<u64>; 2]>,
}

/// What a look at the log showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Nothing of the new attempt is logged yet.
    Nothing,
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
        let mut watch = Self { path: path.to_owned(), options, thresholds, from, earlier: HashMap::new() };
        let records = watch.records(context);
        watch.earlier = records
            .into_iter()
            .filter(|record| record.step > from)
            .map(|record| (record.step, bits(&record)))
            .collect();
        watch
    }

    fn records(&self, context: &Context) -> Vec<Record> {
        let history = History::read(&self.path, &self.options, context).ok();
        history.and_then(|history| history.log).map_or_else(Vec::new, |log| log.records)
    }

    /// Looks at what is logged by now.
    pub fn look(&self, context: &Context) -> Seen {
        let Ok(mut history) = History::read(&self.path, &self.options, context) else { return Seen::Nothing };
        let Some(log) = &mut history.log else { return Seen::Nothing };
        log.records.retain(|record| {
            record.step <= self.from || self.earlier.get(&record.step) != Some(&bits(record))
        });
        let new = log.records.iter().filter(|record| record.step > self.from);
        let (points, last) = (new.clone().count(), new.map(|record| record.step).max());
        let Some(last) = last else { return Seen::Nothing };
        let analysis = Analysis {
            run: Some(Run { name: history.name.clone(), until: None, remarks: Vec::new() }),
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

fn bits(record: &Record) -> [Option<u64>; 2] {
    [record.loss, record.grad_norm].map(|number| number.map(f64::to_bits))
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
        let watch = watch(&path, 100);
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
        let watch = watch(&path, 100);
        assert_eq!(watch.look(&Context::default()), Seen::Nothing);
        std::fs::write(&path, before + &lines(101..130, None).replace("0.5", "0.4")).unwrap();
        let seen = watch.look(&Context::default());
        assert!(!matches!(seen, Seen::BlownUp(_)), "{seen:?}");
    }
}
