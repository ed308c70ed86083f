//! Which state to go on from, and the user's command with the values of that state in its arguments.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;

use super::write::state;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::optimizer::Quantity;
use crate::context::Context;
use crate::diagnosis::{Diagnosis, Mechanism};
use crate::error::{Error, ErrorKind, Result};
use crate::format::detect;
use crate::history::{FoundKind, History};
use crate::nearest::did_you_mean;
use crate::number::{counted, grouped, plain, short};

/// Steps that are listed where none of them is the one asked for.
const LISTED_STEPS: usize = 12;

/// `--from`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// By the post-mortem the newest clean checkpoint far enough before the onset, or of all where the run came back by itself.
    LastHealthy,
    /// That of a step.
    Step(u64),
}

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "last-healthy" {
            return Ok(Self::LastHealthy);
        }
        text.parse().map(Self::Step).map_err(|_| "last-healthy, or the step of a checkpoint".to_owned())
    }
}

/// The checkpoint to go on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Chosen {
    /// Where it is.
    #[serde(skip)]
    pub path: PathBuf,
    /// Its place in the run.
    pub checkpoint: String,
    /// Its step.
    pub step: u64,
    /// Why it is the one, in one sentence.
    pub because: String,
}

/// Picks the checkpoint to go on from. The post-mortem's `diagnosis` is needed for the last healthy one.
///
/// # Errors
/// When there is none, or only its measurement is kept.
pub fn choose(run: &Path, history: &History, from: From, diagnosis: Option<&Diagnosis>) -> Result<Chosen> {
    let refuse = |message: String, advice| Err(ErrorKind::NotDone { message, advice }.in_file(run));
    let (step, because) = match (from, diagnosis) {
        (From::Step(step), _) => (step, "its step was asked for".to_owned()),
        (From::LastHealthy, Some(diagnosis)) => match (diagnosis.go_on_step, diagnosis.last_healthy_step) {
            (Some(step), _) => (step, came_back_because(diagnosis)),
            (None, Some(step)) => (step, healthy_because(diagnosis, step)),
            (None, None) => {
                return refuse(
                    format!("no clean checkpoint from before the trouble is kept ({})", diagnosis.verdict),
                    "start again, or name a step: --from STEP",
                );
            }
        },
        (From::LastHealthy, None) => {
            return refuse("the run was not looked at".to_owned(), "name a step: --from STEP");
        }
    };
    let of_step = || history.checkpoints.iter().filter(move |found| found.step == step);
    let Some(found) = of_step().find(|found| found.kind == FoundKind::Stored) else {
        if of_step().next().is_some() {
            return refuse(
                format!("of step {} only the measurement is kept, not the weights", grouped(step)),
                "name a step whose checkpoint is there",
            );
        }
        let mut steps: Vec<String> = history.checkpoints.iter().map(|found| found.step.to_string()).collect();
        let more = steps.len().saturating_sub(LISTED_STEPS);
        steps.truncate(LISTED_STEPS);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        return refuse(
            format!("it has no checkpoint of step {step}; those there are: {}{more}", steps.join(", ")),
            "name one of them",
        );
    };
    let shown = found.path.strip_prefix(run).unwrap_or(&found.path).display().to_string();
    let shown = if shown.is_empty() { run.display().to_string() } else { shown };
    Ok(Chosen { path: found.path.clone(), checkpoint: shown, step, because })
}

fn came_back_because(diagnosis: &Diagnosis) -> String {
    let from = diagnosis.onset_step.map_or_else(String::new, |onset| format!(" of step {}", grouped(onset)));
    let what = match diagnosis.mechanism {
        Mechanism::Unknown => "large gradients".to_owned(),
        mechanism => mechanism.to_string(),
    };
    format!("the run came back by itself from the {what}{from}: the newest clean checkpoint")
}

fn healthy_because(diagnosis: &Diagnosis, step: u64) -> String {
    match (diagnosis.mechanism, diagnosis.onset_step) {
        (Mechanism::None, _) => "nothing is wrong with the run: the newest clean checkpoint".to_owned(),
        (mechanism, Some(onset)) => format!(
            "the newest clean checkpoint before {} began at step {}, {} earlier",
            if mechanism == Mechanism::Unknown { "the failure".to_owned() } else { mechanism.to_string() },
            grouped(onset),
            counted(onset.saturating_sub(step), "step")
        ),
        (mechanism, None) => format!("the newest clean checkpoint ({mechanism})"),
    }
}

/// What stands for the placeholders of a command.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// `{checkpoint}`.
    pub checkpoint: PathBuf,
    /// `{step}`.
    pub step: u64,
    /// `{clip_norm}`, where a threshold was asked for and found.
    pub clip_norm: Option<f64>,
    /// `{lr}`.
    pub lr: Option<f64>,
    /// A rate was asked for that only the program itself can set.
    pub program_sets_lr: bool,
    /// `{skip_from}` and `{skip_to}`: batches to leave out, first and last.
    pub skip: Option<(u64, u64)>,
}

/// A placeholder and what it became.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Substitution {
    /// `{checkpoint}`, …
    pub placeholder: String,
    /// What stands in its place.
    pub value: String,
}

impl fmt::Display for Substitution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.placeholder, self.value)
    }
}

/// A placeholder, what stands for it, and what gives it a value.
type Placeholder = (&'static str, Option<String>, &'static str);

/// The command's words with every placeholder replaced, and what was replaced.
///
/// # Errors
/// When a placeholder has no value, or a value that was asked for has no place: it would be without effect.
pub fn command(words: &[String], settings: &Settings) -> Result<(Vec<String>, Vec<Substitution>)> {
    let refuse = |message: String, advice| {
        Err(ErrorKind::NotDone { message, advice }
            .in_file(Path::new(words.first().map_or("", String::as_str))))
    };
    let checkpoint = settings.checkpoint.display().to_string();
    let values: [Placeholder; 6] = [
        ("{checkpoint}", Some(checkpoint), ""),
        ("{step}", Some(settings.step.to_string()), ""),
        (
            "{clip_norm}",
            settings.clip_norm.map(|norm| norm.to_string()),
            "--clip recommended, or --clip NORM",
        ),
        ("{lr}", settings.lr.map(plain), "a checkpoint that holds one learning rate"),
        ("{skip_from}", settings.skip.map(|(from, _)| from.to_string()), "--skip-batches FIRST..LAST"),
        ("{skip_to}", settings.skip.map(|(_, to)| to.to_string()), "--skip-batches FIRST..LAST"),
    ];
    if let Some((written, meant)) = words.iter().find_map(|word| mistyped(word, &values)) {
        return refuse(
            format!("there is no placeholder {written}{meant}"),
            "the placeholders are {checkpoint}, {step}, {lr}, {clip_norm}, {skip_from} and {skip_to}",
        );
    }
    let mut told = Vec::new();
    for (placeholder, value, needs) in &values {
        if !words.iter().any(|word| word.contains(placeholder)) {
            continue;
        }
        let Some(value) = value else {
            return refuse(
                format!("nothing stands for {placeholder}: it needs {needs}"),
                "give it, or leave the placeholder out",
            );
        };
        told.push(Substitution { placeholder: (*placeholder).to_owned(), value: value.clone() });
    }
    let has = |placeholder: &str| told.iter().any(|one: &Substitution| one.placeholder == placeholder);
    let unused = [
        (true, "{checkpoint}", "the checkpoint"),
        (settings.clip_norm.is_some(), "{clip_norm}", "the clipping threshold"),
        (settings.skip.is_some(), "{skip_from}", "the first batch to skip"),
        (settings.skip.is_some(), "{skip_to}", "the last batch to skip"),
        (settings.program_sets_lr, "{lr}", "the program sets the learning rate itself, and --lr-scale"),
    ];
    if let Some((_, placeholder, what)) =
        unused.iter().find(|(wanted, placeholder, _)| *wanted && !has(placeholder))
    {
        return refuse(
            format!("the command has no {placeholder}: {what} would be without effect"),
            "put it where the program takes it, such as --resume-from {checkpoint} --max-grad-norm {clip_norm} --lr {lr}",
        );
    }
    Ok((words.iter().map(|word| filled(word, &values)).collect(), told))
}

/// The first `{name}` of a word that is no placeholder and near to one, and which that is. Other braces are the program's own.
fn mistyped<'a>(word: &'a str, values: &[Placeholder]) -> Option<(&'a str, String)> {
    word.match_indices('{').find_map(|(at, _)| {
        let written = &word[at..=at + word[at..].find('}')?];
        if !written[1..written.len() - 1].bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
            return None;
        }
        let known = values.iter().map(|(placeholder, ..)| *placeholder);
        let meant = did_you_mean(written, known.clone());
        (!meant.is_empty() && !known.into_iter().any(|placeholder| placeholder == written))
            .then_some((written, meant))
    })
}

/// A word with its placeholders replaced, in one pass: a value that looks like a placeholder stays what it is.
fn filled(word: &str, values: &[Placeholder]) -> String {
    let mut text = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(at) = rest.find('{') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let found = values.iter().find(|(placeholder, ..)| rest.starts_with(placeholder));
        let (value, length) = match found {
            Some((placeholder, Some(value), _)) => (value.as_str(), placeholder.len()),
            _ => ("{", 1),
        };
        text.push_str(value);
        rest = &rest[length..];
    }
    text.push_str(rest);
    text
}

/// A number as pages show it: a recommendation is no more precise than that.
pub fn as_shown(number: f64) -> f64 {
    short(number).parse().unwrap_or(number)
}

/// The learning rate that the run was started with, as far as the checkpoint says it: the one that its schedule multiplies,
/// nanoGPT's `config`, or that of the next step. `None` where its groups have several, or nothing says one.
///
/// # Errors
/// When `state.json` is not JSON.
pub fn learning_rate(checkpoint: &Checkpoint, context: &Context) -> Result<Option<f64>> {
    let own = state::numbers(checkpoint)?;
    let of = |quantity| {
        let stored = checkpoint.optimizers.iter().flat_map(|optimizer| &optimizer.hyperparameters);
        let stored = stored.filter(move |number| number.quantity == quantity).map(|number| number.value);
        let own = own.iter().filter(move |(_, of, _)| *of == quantity).map(|(_, _, value)| *value);
        let mut rates: Vec<f64> = stored.chain(own).collect();
        rates.dedup();
        rates
    };
    let base = of(Quantity::BaseRate);
    let written = if base.is_empty() { configured(checkpoint, context).into_iter().collect() } else { base };
    let rates = if written.is_empty() { of(Quantity::LearningRate) } else { written };
    Ok(match rates[..] {
        [rate] => Some(rate),
        _ => None,
    })
}

/// `config.learning_rate` of a file that holds the arguments it was trained with, as nanoGPT's does.
fn configured(checkpoint: &Checkpoint, context: &Context) -> Option<f64> {
    let [file] = &checkpoint.files[..] else { return None };
    let objects = detect::read_file(&file.input, context).ok()?.objects?;
    let config = objects.get(objects.root?, "config")?;
    objects.number(objects.get(config, "learning_rate")?).filter(|rate| rate.is_finite())
}

/// The range `FIRST..LAST` of batches, both ends in it.
///
/// # Errors
/// As a sentence for the command line.
pub fn batches(text: &str) -> std::result::Result<(u64, u64), String> {
    let parse = |(first, last): (&str, &str)| Some((first.parse().ok()?, last.parse().ok()?));
    let range = text.split_once("..").and_then(parse).filter(|(first, last): &(u64, u64)| first <= last);
    range.ok_or_else(|| "two numbers of batches with .. between them, such as 120..140".to_owned())
}

/// The first free name for what a resume of `run` writes: `RUN-resumed`, `RUN-resumed-2`, …
///
/// # Errors
/// When too many are taken.
pub fn new_run(run: &Path) -> Result<PathBuf> {
    const MOST: u32 = 1000;
    let resolved = run.canonicalize().map_err(|error| Error::io(run, "resolve it", &error))?;
    let name = resolved.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let named = |number: u32| {
        let ending = if number == 1 { String::new() } else { format!("-{number}") };
        run.canonicalize().map(|run| run.with_file_name(format!("{name}-resumed{ending}")))
    };
    let free = (1..MOST).filter_map(|number| named(number).ok()).find(|path| !path.exists());
    free.ok_or_else(|| {
        let message = format!("{MOST} resumes of it lie beside it");
        ErrorKind::NotDone { message, advice: "name another place: --to DIR" }.in_file(run)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn settings() -> Settings {
        Settings { checkpoint: "run/checkpoint-40".into(), step: 40, lr: Some(3e-4), ..Settings::default() }
    }

    #[test]
    fn every_placeholder_is_replaced_wherever_it_stands_and_other_braces_are_left_alone() {
        let given =
            words("python train.py --resume={checkpoint}/x --lr {lr} --json {\"a\":1} --at {step}{step}");
        let (replaced, told) = command(&given, &settings()).unwrap();
        assert_eq!(
            replaced,
            words("python train.py --resume=run/checkpoint-40/x --lr 0.0003 --json {\"a\":1} --at 4040")
        );
        assert_eq!(told.len(), 3);
    }

    #[test]
    fn a_placeholder_without_a_value_and_a_value_without_a_place_are_refused() {
        let refused =
            |text: &str, settings: &Settings| command(&words(text), settings).unwrap_err().to_string();
        assert!(refused("train {checkpoint} {clip_norm}", &settings()).contains("--clip recommended"));
        let clipped = Settings { clip_norm: Some(0.5), ..settings() };
        assert!(refused("train {checkpoint}", &clipped).contains("no {clip_norm}"));
        assert!(refused("train --lr {lr}", &settings()).contains("no {checkpoint}"));
        assert!(
            refused("train {checkpont}", &settings()).contains("{checkpont} (did you mean {checkpoint}?)")
        );
        let skipping = Settings { skip: Some((3, 5)), ..settings() };
        assert!(refused("train {checkpoint} {skip_from}", &skipping).contains("no {skip_to}"));
    }

    #[test]
    fn a_value_is_given_as_it_is_and_never_read_as_a_placeholder_again() {
        let given =
            Settings { checkpoint: "runs/{step}-{lr}".into(), clip_norm: Some(123_456.0), ..settings() };
        let (replaced, _) = command(&words("train {checkpoint} {clip_norm} {{step}"), &given).unwrap();
        assert_eq!(replaced, words("train runs/{step}-{lr} 123456 {40"));
    }

    #[test]
    fn a_rate_that_only_the_program_can_set_needs_a_place() {
        let scaled = Settings { program_sets_lr: true, ..settings() };
        let refused = command(&words("train {checkpoint}"), &scaled).unwrap_err().to_string();
        assert!(refused.contains("no {lr}"), "{refused}");
        assert!(command(&words("train {checkpoint} {lr}"), &scaled).is_ok());
    }

    #[test]
    fn ranges_of_batches_run_forwards() {
        assert_eq!(batches("120..140"), Ok((120, 140)));
        assert!(batches("140..120").is_err() && batches("7").is_err() && batches("a..b").is_err());
    }
}
