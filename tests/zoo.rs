//! The zoo: small real runs whose fault is known because it was put there, through rules and diagnosis.
//!
//! What is committed in `fixtures/zoo` is what was measured of each run, without the weights. A zoo elsewhere is
//! measured and scored by `FLASHPOINT_ZOO=DIR cargo test --test zoo -- --nocapture scored`, at the depth of `FLASHPOINT_ZOO_MEASURE`; with `FLASHPOINT_ZOO_KEEP=OUT`
//! what was measured is written there as it is committed here.

#[path = "common/kept.rs"]
mod kept;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};

use flashpoint::analysis::model::{Analysis, MeasureLevel, Measured, Section, Statistics};
use flashpoint::analysis::run::{Request, measure};
use flashpoint::checkpoint::NameRules;
use flashpoint::context::Context;
use flashpoint::diagnosis::{Diagnosis, Mechanism, diagnose};
use flashpoint::history::{History, Options};
use flashpoint::rules::{self, Overrides, Severity};
use kept::KEPT;
use lzma_rust2::{LzmaOptions, LzmaWriter};
use serde::Deserialize;
use serde_json::Value;

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
    /// Where the loss doubled: how long before that the mechanism was told.
    lead: Option<Lead>,
}

/// Steps from the first telling of a run's fault to the doubling of its loss, judging the run as if it had ended at each step.
#[derive(Debug, Clone, Copy)]
struct Lead {
    /// At which of its checkpoints the mechanism is told.
    at_checkpoints: Option<i64>,
    /// At which of its logged steps it is.
    at_steps: Option<i64>,
    /// At which of its logged steps something is: any failure, or a warning, of those that a healthy run may not have.
    alarm: Option<i64>,
    interval: u64,
    /// Whether a checkpoint lies between the beginning of the fault and the doubling: where none does, no checkpoint can tell.
    has_checkpoint: bool,
    is_pulse: bool,
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
    let alarmed: Vec<(&str, &[String])> = scores
        .iter()
        .filter(|score| score.truth.healthy && !score.alarms.is_empty())
        .map(|score| (score.name.as_str(), score.alarms.as_slice()))
        .collect();
    assert!(alarmed.is_empty(), "healthy runs with a warning: {alarmed:?}");
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

/// Spectra say more of a fault that is a map's own, and say the same.
#[test]
fn faults_of_geometry_are_told_alike_with_spectra() {
    let told = |name: &str, level| diagnosed(&analysed(&Path::new("fixtures/runs").join(name), level)).0;
    for (name, mechanism) in [
        ("rnn-exploding", Mechanism::RecurrentGain),
        ("gpt-init-gain", Mechanism::InitGain),
        ("gpt-attention-logits", Mechanism::AttentionLogits),
    ] {
        let [by_statistics, by_spectra] =
            [MeasureLevel::Stats, MeasureLevel::Spectra].map(|level| told(name, level));
        assert_eq!((by_statistics.mechanism, by_spectra.mechanism), (mechanism, mechanism), "{name}");
        assert_eq!(by_statistics.tensor, by_spectra.tensor, "{name}");
        assert_eq!(by_statistics.onset_step, by_spectra.onset_step, "{name}");
    }
    let evidence = told("rnn-exploding", MeasureLevel::Spectra).evidence;
    let radius = evidence.iter().find(|one| one.label == "spectral radius of the recurrence");
    let radius = radius.expect("it was measured").value;
    // numpy: abs(eigvals(w)).max() of rnn.weight_hh_l0 in checkpoint-0000, in f64.
    assert!((radius / 2.841_658_125_702_590_4 - 1.0).abs() < 1e-6, "{radius}");
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

/// The limit of the failure catalogue for C7, which FP307 does not use, and the steps before which it judges nothing.
const CATALOGUE: f64 = 1e-2;
const FIRST_STEPS: f64 = 100.0;

#[test]
fn the_catalogues_limit_for_updates_would_accuse_healthy_runs() {
    let (mut measured, mut accused, mut largest) = (0, 0, 0.0f64);
    let (mut runs, mut accused_runs) = (0, 0);
    for run in committed("fixtures/zoo").iter().filter(|run| run.truth.healthy) {
        let states = run.analysis.checkpoints.iter().filter_map(|checkpoint| checkpoint.optimizer.value());
        let parameters = states.flat_map(|state| &state.parameters);
        let matrices = parameters.filter(|parameter| parameter.shape.len() >= 2);
        let late = matrices.filter(|parameter| parameter.step.is_some_and(|step| step >= FIRST_STEPS));
        let ratios: Vec<f64> = late.filter_map(|parameter| parameter.update_ratio.value().copied()).collect();
        let above = ratios.iter().filter(|&&ratio| ratio > CATALOGUE).count();
        runs += usize::from(!ratios.is_empty());
        accused_runs += usize::from(above > 0);
        measured += ratios.len();
        accused += above;
        largest = ratios.into_iter().fold(largest, f64::max);
    }
    println!(
        "C7: {accused} of {measured} matrices of checkpoints of {accused_runs} of {runs} healthy runs above {CATALOGUE}, the largest at {largest:.3}"
    );
    assert_eq!((accused, measured, accused_runs, runs), (645, 1058, 16, 21));
    assert!((0.0605..0.0615).contains(&largest), "{largest}");
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

/// How deep a zoo elsewhere is measured: what diagnosis says must not depend on how much it is told.
fn level() -> MeasureLevel {
    match std::env::var("FLASHPOINT_ZOO_MEASURE").as_deref() {
        Err(_) | Ok("stats") => MeasureLevel::Stats,
        Ok("norms") => MeasureLevel::Norms,
        Ok("spectra") => MeasureLevel::Spectra,
        Ok(other) => panic!("FLASHPOINT_ZOO_MEASURE is {other}, and not norms, stats or spectra"),
    }
}

/// Measures `directory/name`.
fn measured(directory: &Path, name: &str) -> Run {
    let path = directory.join(name);
    let truth = truth_in(&path.join("truth.json"));
    Run { name: name.to_owned(), truth, analysis: analysed(&path, level()) }
}

fn analysed(path: &Path, level: MeasureLevel) -> Analysis {
    let (context, name) = (Context::default(), path.display());
    let history =
        History::read(path, &Options::default(), &context).unwrap_or_else(|error| panic!("{name}: {error}"));
    let names = NameRules::default();
    let run = measure(&history, &Request { level, names: &names }, &context);
    for error in &run.errors {
        println!("{name}: {error}");
    }
    run.analysis
}

fn truth_in(path: &Path) -> Truth {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What was measured of every run of a directory.
fn committed(directory: &str) -> Vec<Run> {
    let directory = Path::new(directory);
    if !directory.is_dir() {
        return Vec::new();
    }
    let read = |name: String| Run {
        truth: truth_in(&directory.join(format!("{name}.truth.json"))),
        analysis: kept::read(directory, &name),
        name,
    };
    kept::names_in(directory).into_iter().map(read).collect()
}

/// Writes what was measured of a run, without what would only fill the repository: numbers to five digits, no statistics
/// that no rule reads, and none of the optimizer's tensors, whose moments are measured by parameter beside them.
fn keep(directory: &Path, run: &Run, source: &Path) {
    let mut analysis = run.analysis.clone();
    for tensor in analysis.checkpoints.iter_mut().flat_map(|one| &mut one.tensors) {
        if let Measured::Value(own) = &mut tensor.statistics {
            if tensor.section == Section::Optimizer && own.non_finite() == 0 {
                (tensor.statistics, tensor.rows, tensor.median_abs) = (left_out(), left_out(), left_out());
                continue;
            }
            let Statistics { min, max, l1, l2, mean, variance, skewness, excess_kurtosis, .. } = &mut **own;
            for number in [min, max, l1, l2, mean, variance, skewness, excess_kurtosis] {
                *number = left_out();
            }
        }
    }
    let mut value = serde_json::to_value(&analysis).expect("an analysis is plain data");
    round(&mut value);
    let path = directory.join(format!("{}{KEPT}", run.name));
    let file = std::fs::File::create(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let text = serde_json::to_vec(&value).expect("it came from JSON");
    LzmaWriter::new_use_header(file, &LzmaOptions::with_preset(9), None)
        .and_then(|mut writer| writer.write_all(&text).map(|()| writer))
        .and_then(LzmaWriter::finish)
        .expect("the disk has room");
    for truth in [source.join(&run.name).join("truth.json"), source.join(format!("{}.truth.json", run.name))]
    {
        if truth.is_file() {
            std::fs::copy(truth, directory.join(format!("{}.truth.json", run.name)))
                .expect("the disk has room");
        }
    }
}

fn left_out<T>() -> Measured<T> {
    Measured::not("not kept in the zoo")
}

/// Rounds every number that is no count to five digits.
fn round(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(round),
        Value::Object(fields) => fields.values_mut().for_each(round),
        Value::Number(number) if number.is_f64() => {
            let rounded = number.as_f64().and_then(|number| format!("{number:.4e}").parse().ok());
            if let Some(rounded) = rounded.and_then(serde_json::Number::from_f64) {
                *number = rounded;
            }
        }
        _ => {}
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
    let lead = truth.loss_doubled.filter(|_| !truth.healthy).map(|doubled| lead(run, doubled));
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

fn lead(run: &Run, doubled: u64) -> Lead {
    let steps = run.analysis.checkpoints.iter().filter_map(|one| one.step.value().copied());
    let checkpoints: BTreeSet<u64> = steps.collect();
    let told_at = |step: u64| diagnosed(&until(&run.analysis, step));
    let is_told = |step: u64| told_at(step).0.mechanism.name() == run.truth.mechanism;
    let by_checkpoint = checkpoints.iter().copied().find(|&step| is_told(step));
    let began = run.truth.onset.unwrap_or(0);
    let points = run.analysis.log.iter().flat_map(|log| &log.points).map(|point| point.step);
    let logged: Vec<u64> = points.filter(|&step| step >= began).collect();
    let mut between = logged.iter().copied().filter(|&step| by_checkpoint.is_none_or(|told| step < told));
    let by_step = between.find(|&step| is_told(step)).or(by_checkpoint);
    let mut earlier = logged.iter().copied().filter(|&step| by_step.is_none_or(|told| step < told));
    let before = |step: u64| doubled.cast_signed() - step.cast_signed();
    // What stood before the fault began is no alarm of it; before the first step nothing did.
    let (standing, old) = match (began > 1).then(|| told_at(began - 1)) {
        Some((diagnosis, alarms)) => (diagnosis.mechanism, alarms),
        None => (Mechanism::None, Vec::new()),
    };
    let is_alarmed = |step: u64| {
        let (diagnosis, alarms) = told_at(step);
        let is_told = diagnosis.mechanism != Mechanism::None && standing == Mechanism::None;
        is_told || alarms.iter().any(|rule| is_of_an_explosion(rule) && !old.contains(rule))
    };
    Lead {
        at_checkpoints: by_checkpoint.map(before),
        at_steps: by_step.map(before),
        alarm: earlier.find(|&step| is_alarmed(step)).or(by_step).map(before),
        interval: run.truth.checkpoint_interval,
        has_checkpoint: checkpoints.range(began..doubled).any(|&step| step > began),
        is_pulse: run.truth.kind.as_deref() == Some("pulse"),
    }
}

/// Whether a rule is of the families that tell of explosions: not of checkpoints that differ, of states that do not belong, or of files.
fn is_of_an_explosion(rule: &str) -> bool {
    ["FP1", "FP2", "FP3", "FP4", "FP5", "FP8"].iter().any(|family| rule.starts_with(family))
}

/// What the leads of some runs come to, in a row of the table: how many are told, the median in steps, and in checkpoint intervals.
fn lead_row(what: &str, leads: &[Lead], text: &mut String) {
    let middle = |of: fn(&Lead) -> Option<i64>| {
        let mut steps: Vec<i64> = leads.iter().filter_map(of).collect();
        let over = |lead: &Lead| of(lead).map(|steps| steps as f64 / lead.interval as f64);
        let mut intervals: Vec<f64> = leads.iter().filter_map(over).collect();
        steps.sort_unstable();
        intervals.sort_by(f64::total_cmp);
        match (steps.get(steps.len() / 2), intervals.get(intervals.len() / 2)) {
            (Some(middle), Some(over)) => format!("{} | {middle} | {over:.2}", steps.len()),
            _ => "0 | – | –".to_owned(),
        }
    };
    let [checkpoint, step, alarm] =
        [middle(|lead| lead.at_checkpoints), middle(|lead| lead.at_steps), middle(|lead| lead.alarm)];
    writeln!(text, "| {what} | {} | {checkpoint} | {step} | {alarm} |", leads.len())
        .expect("writing to a string does not fail");
}

/// The table of leads over a doubled loss.
fn lead_table(scores: &[&Score], text: &mut String) {
    let leads: Vec<Lead> = scores.iter().filter_map(|score| score.lead).collect();
    let some = |is: fn(&Lead) -> bool| -> Vec<Lead> { leads.iter().copied().filter(is).collect() };
    text.push_str("| lead over a doubled loss | runs | mechanism by a checkpoint | steps | intervals | mechanism by a step | steps | intervals | alarm by a step | steps | intervals |\n|---|---|---|---|---|---|---|---|---|---|---|\n");
    lead_row("all", &leads, text);
    lead_row("pulses", &some(|lead| lead.is_pulse), text);
    lead_row("sustained", &some(|lead| !lead.is_pulse), text);
    lead_row(
        "sustained, a checkpoint between injection and doubling",
        &some(|lead| !lead.is_pulse && lead.has_checkpoint),
        text,
    );
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
    let failing: Vec<&Score> = scores.iter().filter(|score| !score.truth.healthy).collect();
    let healthy: Vec<&Score> = scores.iter().filter(|score| score.truth.healthy).collect();
    let count = |scores: &[&Score], is: fn(&Score) -> bool| scores.iter().filter(|score| is(score)).count();
    writeln!(
        text,
        "failing {}: mechanism {}, mechanism and tensor {}, onset {}\nhealthy {}: none {}, no warning {}",
        failing.len(),
        count(&failing, |score| score.mechanism),
        count(&failing, |score| score.mechanism && score.tensor),
        count(&failing, |score| score.onset),
        healthy.len(),
        count(&healthy, |score| score.mechanism),
        count(&healthy, |score| score.alarms.is_empty()),
    )
    .expect("writing to a string does not fail");
    lead_table(&failing, &mut text);
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
