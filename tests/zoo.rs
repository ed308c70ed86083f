//! The zoo: small real runs whose fault is known because it was put there, through rules and diagnosis.
//!
//! What is committed in `fixtures/zoo` is what was measured of each run, without the weights. A zoo elsewhere is
//! measured and scored by `FLASHPOINT_ZOO=DIR cargo test --test zoo -- --nocapture scored`; with `FLASHPOINT_ZOO_KEEP=OUT`
//! what was measured is written there as it is committed here.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use flashpoint::analysis::model::{Analysis, MeasureLevel};
use flashpoint::analysis::run::{Request, measure};
use flashpoint::checkpoint::NameRules;
use flashpoint::context::Context;
use flashpoint::diagnosis::{Diagnosis, diagnose};
use flashpoint::history::{History, Options};
use flashpoint::rules::{self, Overrides, Severity};
use serde::Deserialize;

/// What was done to a run.
#[derive(Debug, Clone, Deserialize)]
struct Truth {
    mechanism: String,
    tensor: Option<String>,
    also: Vec<String>,
    onset: Option<u64>,
    kind: Option<String>,
    strength: Option<f64>,
    difficulty: Option<String>,
    healthy: bool,
    loss_doubled: Option<u64>,
    steps: u64,
    checkpoint_interval: u64,
}

struct Run {
    name: String,
    truth: Truth,
    analysis: Analysis,
}

/// What was said about one run.
struct Score {
    name: String,
    truth: Truth,
    diagnosis: Diagnosis,
    mechanism: bool,
    tensor: bool,
    onset: bool,
    /// Warnings and worse of rules other than those about files.
    alarms: Vec<String>,
    /// Steps by which the diagnosis came before the loss doubled, judging at every checkpoint and no later.
    lead: Option<i64>,
}

/// Share of the failing runs whose mechanism and tensor have to be right, and of those of one mechanism.
const ALL_RIGHT: f64 = 0.9;
const EACH_RIGHT: f64 = 0.6;

/// Runs of the attribution set, of 27, whose tensor has to be right.
const ATTRIBUTED: usize = 25;

#[test]
fn the_committed_zoo_is_told_apart() {
    let scores: Vec<Score> = committed("fixtures/zoo").iter().map(score).collect();
    println!("{}", report(&scores));
    assert!(scores.len() >= 40, "fixtures/zoo holds {} measured runs", scores.len());
    let wrong: Vec<&str> = scores
        .iter()
        .filter(|score| score.truth.healthy && !score.mechanism)
        .map(|score| score.name.as_str())
        .collect();
    assert!(wrong.is_empty(), "healthy runs that a failure was told of: {wrong:?}");
    let failing: Vec<&Score> = scores.iter().filter(|score| !score.truth.healthy).collect();
    assert!(share(&failing) >= ALL_RIGHT, "{:.3} of the failing runs are told right", share(&failing));
    let mut by_mechanism: BTreeMap<&str, Vec<&Score>> = BTreeMap::new();
    for score in &failing {
        by_mechanism.entry(&score.truth.mechanism).or_default().push(score);
    }
    for (mechanism, own) in by_mechanism {
        assert!(share(&own) >= EACH_RIGHT, "{:.3} of {mechanism} are told right", share(&own));
    }
    let late: Vec<&str> = failing
        .iter()
        .filter(|score| score.mechanism && !score.onset)
        .map(|score| score.name.as_str())
        .collect();
    assert!(late.is_empty(), "right mechanism, wrong onset: {late:?}");
}

/// Share of runs whose mechanism and tensor are right.
fn share(scores: &[&Score]) -> f64 {
    let right = scores.iter().filter(|score| score.mechanism && score.tensor).count();
    right as f64 / scores.len().max(1) as f64
}

/// Three faults in three tensors with three seeds (T29).
#[test]
fn three_faults_are_traced_to_their_tensors() {
    let scores: Vec<Score> = committed("fixtures/zoo/attribution").iter().map(score).collect();
    println!("{}", report(&scores));
    assert_eq!(scores.len(), 27);
    let right = scores.iter().filter(|score| score.tensor && score.onset).count();
    assert!(right >= ATTRIBUTED, "{right} of 27 are traced to their tensor");
}

#[test]
fn a_zoo_elsewhere_is_scored() {
    let Some(directory) = std::env::var_os("FLASHPOINT_ZOO").map(PathBuf::from) else {
        println!("FLASHPOINT_ZOO is not set: nothing was scored");
        return;
    };
    let kept = std::env::var_os("FLASHPOINT_ZOO_KEEP").map(PathBuf::from);
    let wanted = std::env::var("FLASHPOINT_ZOO_ONLY").unwrap_or_default();
    let mut names: Vec<String> = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.expect("an entry can be read").file_name().to_string_lossy().into_owned())
        .filter(|name| directory.join(name).join("truth.json").is_file() && name.contains(&wanted))
        .collect();
    names.sort();
    let runs: Vec<Run> = if names.is_empty() {
        committed(directory.to_str().expect("the path is text"))
    } else {
        names.iter().map(|name| measured(&directory, name)).collect()
    };
    if let Some(kept) = kept {
        for run in &runs {
            keep(&kept, run, &directory);
        }
    }
    let scores: Vec<Score> = runs.iter().map(score).collect();
    println!("{}", report(&scores));
}

/// Measures `directory/name`.
fn measured(directory: &Path, name: &str) -> Run {
    let context = Context::default();
    let path = directory.join(name);
    let truth = truth_in(&path.join("truth.json"));
    let history =
        History::read(&path, &Options::default(), &context).unwrap_or_else(|error| panic!("{name}: {error}"));
    let names = NameRules::default();
    let request = Request { level: MeasureLevel::Stats, names: &names };
    let run = measure(&history, &request, &context);
    for error in &run.errors {
        println!("{name}: {error}");
    }
    Run { name: name.to_owned(), truth, analysis: run.analysis }
}

fn truth_in(path: &Path) -> Truth {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What was measured of every run of a directory.
fn committed(directory: &str) -> Vec<Run> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let names = entries.filter_map(|entry| {
        let name = entry.ok()?.file_name().to_string_lossy().into_owned();
        name.strip_suffix(".measured.json.gz").map(str::to_owned)
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    let directory = Path::new(directory);
    let read = |name: String| {
        let file =
            std::fs::File::open(directory.join(format!("{name}.measured.json.gz"))).expect("it was listed");
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(file)
            .read_to_end(&mut text)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let analysis = serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        Run { truth: truth_in(&directory.join(format!("{name}.truth.json"))), analysis, name }
    };
    names.into_iter().map(read).collect()
}

fn keep(directory: &Path, run: &Run, source: &Path) {
    let path = directory.join(format!("{}.measured.json.gz", run.name));
    let file = std::fs::File::create(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::best());
    let text = flashpoint::analysis::measurement::to_json(&run.analysis);
    encoder.write_all(&text).and_then(|()| encoder.finish().map(drop)).expect("the disk has room");
    let truth = source.join(&run.name).join("truth.json");
    if truth.is_file() {
        std::fs::copy(truth, directory.join(format!("{}.truth.json", run.name))).expect("the disk has room");
    }
}

/// The analysis as if the run had ended at `step`: every ratio in it looks only back.
fn until(analysis: &Analysis, step: u64) -> Analysis {
    let mut cut = analysis.clone();
    cut.checkpoints.retain(|one| one.step.value().is_some_and(|&own| own <= step));
    cut.intervals.retain(|one| one.to_step <= step);
    cut.dumps.retain(|one| one.step <= step);
    cut.replicas.retain(|one| one.step <= step);
    if let Some(log) = &mut cut.log {
        log.points.retain(|point| point.step <= step);
    }
    cut
}

fn diagnosed(analysis: &Analysis) -> (Diagnosis, Vec<String>) {
    let assessment = rules::evaluate(analysis, &Overrides::default());
    let loud = assessment.findings.iter().filter(|own| own.severity >= Severity::Warning);
    let mut alarms: Vec<String> =
        loud.filter(|own| !own.rule.starts_with("FP9")).map(|own| own.rule.clone()).collect();
    alarms.sort();
    alarms.dedup();
    (diagnose(analysis, &assessment), alarms)
}

fn score(run: &Run) -> Score {
    let (diagnosis, alarms) = diagnosed(&run.analysis);
    let truth = run.truth.clone();
    let mechanism = diagnosis.mechanism.name() == truth.mechanism;
    let tensor = match (&truth.tensor, &diagnosis.tensor) {
        (None, None) => true,
        (Some(own), Some(told)) => own == told || truth.also.contains(told),
        _ => false,
    };
    let onset = is_in_time(&truth, diagnosis.onset_step);
    let lead = truth.loss_doubled.and_then(|doubled| lead(run, doubled));
    Score { name: run.name.clone(), truth, diagnosis, mechanism, tensor, onset, alarms, lead }
}

/// A pulse within one checkpoint interval; a sustained fault between its injection and the doubling of the loss, within
/// one checkpoint interval on either side.
fn is_in_time(truth: &Truth, told: Option<u64>) -> bool {
    let (Some(onset), Some(told)) = (truth.onset, told) else {
        return truth.onset.is_none() && told.is_none();
    };
    let slack = truth.checkpoint_interval;
    if truth.kind.as_deref() == Some("pulse") {
        return told.abs_diff(onset) <= slack;
    }
    let last = truth.loss_doubled.unwrap_or(truth.steps);
    (onset.saturating_sub(slack)..=last + slack).contains(&told)
}

/// Steps from the first checkpoint at which the run's mechanism is told to the doubling of its loss.
fn lead(run: &Run, doubled: u64) -> Option<i64> {
    let steps = run.analysis.checkpoints.iter().filter_map(|one| one.step.value().copied());
    let mut steps: Vec<u64> = steps.collect();
    steps.sort_unstable();
    steps.dedup();
    let told = steps
        .into_iter()
        .find(|&step| diagnosed(&until(&run.analysis, step)).0.mechanism.name() == run.truth.mechanism)?;
    Some(doubled.cast_signed() - told.cast_signed())
}

/// The confusion table, the misses, and the sums.
fn report(scores: &[Score]) -> String {
    let mut text = String::new();
    table(scores, &mut text);
    for score in scores.iter().filter(|score| !is_right(score)) {
        let told = &score.diagnosis;
        let truth = &score.truth;
        writeln!(
            text,
            "MISS {}: {} in {:?} at {:?}, told {} in {:?} at {:?}{}{}",
            score.name,
            truth.mechanism,
            truth.tensor,
            truth.onset,
            told.mechanism,
            told.tensor,
            told.onset_step,
            told.runner_up.as_ref().map_or(String::new(), |other| format!(", next {}", other.mechanism)),
            if score.truth.healthy { format!(", alarms {:?}", score.alarms) } else { String::new() },
        )
        .expect("writing to a string does not fail");
    }
    if std::env::var_os("FLASHPOINT_ZOO_LEADS").is_some() {
        for score in scores.iter().filter(|score| score.truth.loss_doubled.is_some()) {
            let truth = &score.truth;
            println!("LEAD {} {:?} onset {:?} doubled {:?} every {} lead {:?}", score.name, truth.kind, truth.onset, truth.loss_doubled, truth.checkpoint_interval, score.lead);
        }
    }
    let failing: Vec<&Score> = scores.iter().filter(|score| !score.truth.healthy).collect();
    let healthy: Vec<&Score> = scores.iter().filter(|score| score.truth.healthy).collect();
    let count = |scores: &[&Score], is: fn(&Score) -> bool| scores.iter().filter(|score| is(score)).count();
    let mut leads: Vec<i64> = failing.iter().filter_map(|score| score.lead).collect();
    leads.sort_unstable();
    let doubled = failing.iter().filter(|score| score.truth.loss_doubled.is_some()).count();
    writeln!(
        text,
        "failing {}: mechanism {}, mechanism and tensor {}, onset {}\nhealthy {}: none {}, no warning {}\nlead over a doubled loss: {} of {doubled} told by a checkpoint, median {:?} steps",
        failing.len(),
        count(&failing, |score| score.mechanism),
        count(&failing, |score| score.mechanism && score.tensor),
        count(&failing, |score| score.onset),
        healthy.len(),
        count(&healthy, |score| score.mechanism),
        count(&healthy, |score| score.alarms.is_empty()),
        leads.len(),
        leads.get(leads.len() / 2),
    )
    .expect("writing to a string does not fail");
    text
}

fn is_right(score: &Score) -> bool {
    score.mechanism && score.tensor && score.onset && (!score.truth.healthy || score.alarms.is_empty())
}

/// A row for each mechanism and difficulty: runs, right mechanism, right tensor, right onset, and what else was told.
fn table(scores: &[Score], text: &mut String) {
    let mut rows: BTreeMap<(String, String), Vec<&Score>> = BTreeMap::new();
    for score in scores {
        let difficulty = score.truth.difficulty.clone().unwrap_or_else(|| "–".to_owned());
        rows.entry((score.truth.mechanism.clone(), difficulty)).or_default().push(score);
    }
    writeln!(text, "| mechanism | strength | runs | mechanism | + tensor | onset | told instead |\n|---|---|---|---|---|---|---|")
        .expect("writing to a string does not fail");
    for ((mechanism, difficulty), own) in rows {
        let count = |is: fn(&Score) -> bool| own.iter().filter(|score| is(score)).count();
        let mut instead: BTreeMap<&str, usize> = BTreeMap::new();
        for score in own.iter().filter(|score| !score.mechanism) {
            *instead.entry(score.diagnosis.mechanism.name()).or_default() += 1;
        }
        let instead: Vec<String> = instead.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let strengths: Vec<String> =
            own.iter().filter_map(|score| score.truth.strength).map(|one| format!("{one}")).collect();
        let strengths =
            if strengths.is_empty() { String::new() } else { format!(" ({})", strengths.join(", ")) };
        writeln!(
            text,
            "| {mechanism} | {difficulty}{strengths} | {} | {} | {} | {} | {} |",
            own.len(),
            count(|score| score.mechanism),
            count(|score| score.mechanism && score.tensor),
            count(|score| score.onset),
            instead.join(", ")
        )
        .expect("writing to a string does not fail");
    }
}
