//! Finds checkpoints, gradient dumps and logs in the directory of a run, by names and by what directories hold.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::log::{LogFile, LogFiles, config};
use super::{FoundKind, History, Options, RemarkKind};
use crate::checkpoint::{self, Checkpoint, NameRules};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use names::LogName;

mod names;
mod order;
mod tree;

use order::Candidate;
use tree::Folder;

/// Checkpoints without a step in their names that are opened to ask for it.
const MOST_OPENED: usize = 64;

/// Text files that are searched for rows: more are not one run's.
const MOST_TEXTS: usize = 64;

/// What is found before it is ordered.
#[derive(Default)]
struct Finds {
    checkpoints: Vec<Candidate>,
    dumps: Vec<Candidate>,
    logs: LogFiles,
    states: BTreeMap<u64, LogFile>,
    configs: Vec<PathBuf>,
    opened: usize,
    texts: usize,
}

/// Fills `history` with checkpoints and dumps; the logs, and the clipping threshold that a config gives.
pub(super) fn discover(
    run: &Path,
    options: &Options,
    context: &Context,
    history: &mut History,
) -> Result<(LogFiles, Option<f64>)> {
    let mut finds = Finds::default();
    let metadata = std::fs::metadata(run).map_err(|error| Error::io(run, "look at it", &error))?;
    if metadata.is_dir() {
        let root = Folder::read(run, "", 0, history)?;
        if names::is_gradients(&history.name) && !root.holds_a_model() {
            finds.dumps_in(&root, history);
        } else {
            finds.folder(&root, context, history);
        }
    } else {
        finds.single(run, &history.name.clone(), context, history);
    }
    for path in &options.grads {
        finds.given_dumps(path, history);
    }
    if !options.logs.is_empty() {
        finds.logs =
            LogFiles { logs: options.logs.iter().map(|path| given_log(path)).collect(), states: Vec::new() };
        finds.states.clear();
    }
    history.checkpoints = order::settle(finds.checkpoints, "checkpoint", history);
    history.dumps = order::settle(finds.dumps, "gradient dump", history);
    // The newest holds what the others do; but of an attempt that goes on from an earlier step the newest may be another's.
    let superseded = if options.earlier.is_some() { 0 } else { finds.states.len().saturating_sub(1) };
    finds.logs.states.extend(finds.states.into_values().skip(superseded));
    order::one_rank(&mut finds.logs.logs, history);
    let beside = finds.configs.iter().find_map(|path| config::clip_threshold(path, context));
    let newest =
        history.checkpoints.last().filter(|found| found.kind == FoundKind::Stored && found.path.is_file());
    let clip_threshold = beside.or_else(|| config::clip_threshold_within(&newest?.path, context));
    Ok((finds.logs, clip_threshold))
}

fn given_log(path: &Path) -> LogFile {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    LogFile { path: path.to_owned(), name }
}

impl Finds {
    /// The run is one file.
    fn single(&mut self, path: &Path, name: &str, context: &Context, history: &mut History) {
        if names::is_measurement(name) {
            // Whether of one checkpoint or of a whole run: it says the steps itself.
            let candidate = Candidate::measured(path.to_owned(), name.to_owned(), 0);
            return self.checkpoints.push(candidate);
        }
        if names::may_hold_tensors(name) {
            return self.without_step(path, name, context, history);
        }
        let is_state = path.extension().is_some_and(|extension| extension == "json");
        let list = if is_state { &mut self.logs.states } else { &mut self.logs.logs };
        list.push(LogFile { path: path.to_owned(), name: name.to_owned() });
    }

    /// A directory of the run, or the run itself; it may be a checkpoint at the same time.
    fn folder(&mut self, folder: &Folder, context: &Context, history: &mut History) {
        let is_checkpoint = folder.holds_a_model();
        if is_checkpoint {
            self.directory(folder, context, history);
        }
        let mut unnumbered = Vec::new();
        for name in &folder.files {
            let path = folder.path.join(name);
            let shown = folder.shown(name);
            if names::is_measurement(name) {
                self.measured(&path, &shown, history);
            } else if names::may_hold_tensors(name) {
                if names::is_of_gradients(name) {
                    self.dump(path, shown, history);
                } else if !is_checkpoint {
                    match names::step(name) {
                        Some((step, true)) => self.checkpoints.push(Candidate::new(path, shown, step)),
                        _ => unnumbered.push((path, shown)),
                    }
                }
            } else {
                self.side_file(path, name, shown, history);
            }
        }
        self.numbered(unnumbered, context, history);
        for name in &folder.folders {
            self.subfolder(folder, name, context, history);
        }
    }

    fn subfolder(&mut self, parent: &Folder, name: &str, context: &Context, history: &mut History) {
        let (path, shown) = (parent.path.join(name), parent.shown(name));
        let folder = match Folder::read(&path, &shown, parent.depth + 1, history) {
            Ok(folder) => folder,
            Err(error) => return history.errors.push(error),
        };
        if names::is_of_gradients(name) {
            return self.dumps_in(&folder, history);
        }
        match names::step(name) {
            Some((step, _)) if folder.is_checkpoint() => self.checkpoint(&folder, step, history),
            _ => self.folder(&folder, context, history),
        }
    }

    /// A directory that its name makes a checkpoint.
    fn checkpoint(&mut self, folder: &Folder, step: u64, history: &mut History) {
        if folder.files.iter().any(|file| file == "trainer_state.json") {
            let (path, name) = (folder.path.join("trainer_state.json"), folder.shown("trainer_state.json"));
            self.states.insert(step, LogFile { path, name });
        }
        self.configs
            .extend(folder.files.iter().filter(|name| is_config(name)).map(|name| folder.path.join(name)));
        if let Some(path) = folder.megatron() {
            match path {
                Ok(path) => self.checkpoints.push(Candidate::new(path, folder.shown.clone(), step)),
                Err(reason) => history.remark(RemarkKind::LeftOut, Some(folder.shown.clone()), reason),
            }
            return;
        }
        match checkpoint::refusal(&folder.path) {
            Some(error) => {
                let message = format!("{}; {}", error.kind, error.kind.advice());
                history.remark(RemarkKind::LeftOut, Some(folder.shown.clone()), message);
            }
            None => self.checkpoints.push(Candidate::new(folder.path.clone(), folder.shown.clone(), step)),
        }
    }

    /// A directory that holds a model and has no step in its name.
    fn directory(&mut self, folder: &Folder, context: &Context, history: &mut History) {
        let shown = if folder.shown.is_empty() { history.name.clone() } else { folder.shown.clone() };
        self.without_step(&folder.path, &shown, context, history);
    }

    /// Files without a certain step in their names: by what is in them, or by the number that tells them apart.
    fn numbered(&mut self, files: Vec<(PathBuf, String)>, context: &Context, history: &mut History) {
        let mut patterns: BTreeMap<String, usize> = BTreeMap::new();
        for (_, shown) in &files {
            if let Some((_, pattern)) = names::numbered(shown) {
                *patterns.entry(pattern).or_default() += 1;
            }
        }
        let mut told = Vec::new();
        for (path, shown) in files {
            if names::step(&shown).is_some() {
                self.uncertain(&path, &shown, context, history);
                continue;
            }
            if names::epoch(&shown).is_some() {
                self.without_step(&path, &shown, context, history);
                continue;
            }
            let numbered = names::numbered(&shown)
                .filter(|(_, pattern)| patterns.get(pattern).is_some_and(|count| *count > 1));
            match numbered {
                Some((number, pattern)) => {
                    let step = self.ask(&path, context).unwrap_or(number);
                    if step == number && !told.contains(&pattern) {
                        let message = format!("the numbers of {pattern} are taken for steps");
                        history.remark(RemarkKind::TakenFor, Some(shown.clone()), message);
                        told.push(pattern);
                    }
                    self.checkpoints.push(Candidate::new(path, shown, step));
                }
                None => self.without_step(&path, &shown, context, history),
            }
        }
    }

    /// `ckpt_3.pt`: what the file says goes before its name, whose number may be an epoch.
    fn uncertain(&mut self, path: &Path, shown: &str, context: &Context, history: &mut History) {
        let Some((number, _)) = names::step(shown) else { return };
        let inside = self.ask(path, context);
        if let Some(step) = inside.filter(|step| *step != number) {
            let message =
                format!("it says step {step}; the {number} in its name is taken for something else");
            history.remark(RemarkKind::TakenFor, Some(shown.to_owned()), message);
        }
        self.checkpoints.push(Candidate::new(path.to_owned(), shown.to_owned(), inside.unwrap_or(number)));
    }

    /// A checkpoint whose step only its contents can tell.
    fn without_step(&mut self, path: &Path, shown: &str, context: &Context, history: &mut History) {
        if let Some(step) = self.ask(path, context).or(names::step(shown).map(|(step, _)| step)) {
            self.checkpoints.push(Candidate::unnamed(path.to_owned(), shown.to_owned(), step));
            return;
        }
        if let Some(epoch) = names::epoch(shown) {
            return self.checkpoints.push(Candidate::of_epoch(path.to_owned(), shown.to_owned(), epoch));
        }
        let reason = if self.opened >= MOST_OPENED {
            "there are too many files without a step in their names to open all"
        } else {
            "neither its name nor what is in it says a step"
        };
        history.remark(RemarkKind::LeftOut, Some(shown.to_owned()), reason);
    }

    /// The step that the checkpoint states.
    fn ask(&mut self, path: &Path, context: &Context) -> Option<u64> {
        if self.opened >= MOST_OPENED {
            return None;
        }
        self.opened += 1;
        Checkpoint::read(path, &NameRules::default(), context).ok()?.step
    }

    /// Logs, configs, and what is neither.
    fn side_file(&mut self, path: PathBuf, name: &str, shown: String, history: &mut History) {
        if name == "trainer_state.json" {
            self.logs.states.push(LogFile { path, name: shown });
        } else if is_config(name) {
            self.configs.insert(0, path);
        } else if std::path::Path::new(name).extension().is_some_and(|extension| extension == "wandb") {
            history.remark(
                RemarkKind::LeftOut,
                Some(shown),
                "a binary log of wandb is not read: export its history as CSV",
            );
        } else {
            match names::log(name) {
                Some(LogName::Text) if self.texts >= MOST_TEXTS => {
                    history.remark(
                        RemarkKind::LeftOut,
                        Some(shown),
                        "there are too many texts to search all for rows: name it with --log",
                    );
                }
                Some(kind) => {
                    self.texts += usize::from(kind == LogName::Text);
                    self.logs.logs.push(LogFile { path, name: shown });
                }
                None => {}
            }
        }
    }

    fn measured(&mut self, path: &Path, shown: &str, history: &mut History) {
        let stem = shown.trim_end_matches(".gz").trim_end_matches(".measured.json");
        let step = names::step(stem).map(|(step, _)| step);
        let step = step.or_else(|| names::numbered(stem).map(|(step, _)| step));
        let Some(step) = step else {
            let message = "the name of the measurement file has no step in it";
            return history.remark(RemarkKind::LeftOut, Some(shown.to_owned()), message);
        };
        self.checkpoints.push(Candidate::measured(path.to_owned(), shown.to_owned(), step));
    }

    /// A file or directory that the user says holds gradients.
    fn given_dumps(&mut self, path: &Path, history: &mut History) {
        let shown = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            match Folder::read(path, &shown, 0, history) {
                Ok(folder) => self.dumps_in(&folder, history),
                Err(error) => history.errors.push(error),
            }
        } else if path.exists() {
            self.dump(path.to_owned(), shown, history);
        } else {
            history.errors.push(ErrorKind::NotFound.in_file(path));
        }
    }

    /// Dumps are the files of the directory, or directories of shards in it.
    fn dumps_in(&mut self, folder: &Folder, history: &mut History) {
        for name in folder.files.iter().filter(|name| names::may_hold_tensors(name)) {
            self.dump(folder.path.join(name), folder.shown(name), history);
        }
        for name in folder.folders.iter().filter(|name| names::step(name).is_some()) {
            self.dump(folder.path.join(name), folder.shown(name), history);
        }
    }

    fn dump(&mut self, path: PathBuf, shown: String, history: &mut History) {
        let base = shown.rsplit('/').next().unwrap_or(&shown);
        let by_word = names::step(base).map(|(step, _)| step);
        match by_word.or_else(|| names::numbered(base).map(|(number, _)| number)) {
            Some(step) => self.dumps.push(Candidate::new(path, shown, step)),
            None => history.remark(
                RemarkKind::LeftOut,
                Some(shown),
                "no step is in the name of the gradient dump",
            ),
        }
    }
}

fn is_config(name: &str) -> bool {
    config::FILES.contains(&name)
}

#[cfg(test)]
mod tests;
