//! The fixtures as the specification of the rules: what fires where, what stays silent, and what healthy runs look like.

mod common;

use std::path::{Path, PathBuf};

use flashpoint::analysis::jacobian::{self, Question};
use flashpoint::analysis::measure_checkpoint;
use flashpoint::analysis::model::{Analysis, MeasureLevel, Measured};
use flashpoint::analysis::of_checkpoints;
use flashpoint::analysis::run::{Request, measure};
use flashpoint::checkpoint::{Checkpoint, NameRules};
use flashpoint::context::Context;
use flashpoint::history::{History, Options};
use flashpoint::rules::{self, Assessment, Check, Finding, Needs, Overrides, RULES, Severity, Subject};

#[test]
fn every_rule_fires_on_its_firing_fixtures_and_is_silent_on_the_others() {
    let mut wrong = Vec::new();
    for rule in RULES {
        for fixture in fixtures_of(rule.code) {
            let name = file_name(&fixture);
            let assessed = match rule.check {
                Check::Checkpoint(_) if rule.needs.has(Needs::JACOBIAN) => {
                    assess_jacobian(&fixture, rule.code)
                }
                Check::Checkpoint(_) => assess(&fixture),
                Check::Run(_) => Ok(assess_run(&fixture, rule.needs.has(Needs::JACOBIAN))),
            };
            let fired = match assessed {
                Ok(assessment) => assessment.findings.iter().any(|finding| finding.rule == rule.code),
                // A file that cannot be opened at all is damaged: the command says so and exits with 2.
                Err(_) => rule.name == "damaged-file",
            };
            if fired != name.starts_with("fires-") {
                wrong.push(format!("{} {}: {}", rule.code, name, if fired { "fired" } else { "was silent" }));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_rule_has_a_firing_and_a_silent_fixture() {
    for rule in RULES {
        let names = fixtures_of(rule.code).iter().map(|path| file_name(path)).collect::<Vec<_>>();
        for prefix in ["fires-", "silent-"] {
            assert!(
                names.iter().any(|name| name.starts_with(prefix)),
                "{} has no {prefix} fixture",
                rule.code
            );
        }
    }
}

#[test]
fn a_failing_run_is_named_with_its_tensor_and_a_healthy_one_is_not_accused() {
    let mut wrong = Vec::new();
    for run in folders(Path::new("fixtures/runs")) {
        let truth = common::oracle(&run.join("truth.json"));
        let checkpoints = checkpoints(&run);
        for checkpoint in &checkpoints {
            let assessment = assess(checkpoint).unwrap_or_else(|error| panic!("{error}"));
            if truth["healthy"].as_bool() == Some(true) {
                let alarms = assessment.findings.iter().filter(|finding| finding.severity > Severity::Note);
                wrong.extend(alarms.map(|finding| format!("{}: {}", checkpoint.display(), finding.message)));
            }
        }
        // What only the course of a run shows is for the post-mortem: no rule need find it in one checkpoint.
        if let Some(rule) = truth["expected_rule"].as_str() {
            let last = checkpoints.last().expect("a run has checkpoints");
            let assessment = assess(last).unwrap_or_else(|error| panic!("{error}"));
            let tensor = truth["tensor"].as_str();
            // Where every tensor went at once, the truth names none.
            let named = |finding: &Finding| {
                let culprit =
                    matches!(&finding.subject, Subject::Tensor(name) if tensor.is_none_or(|it| it == name));
                finding.rule == rule && culprit
            };
            if !assessment.findings.iter().any(named) {
                wrong.push(format!("{}: {rule} does not name {tensor:?}", last.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn assess(path: &Path) -> Result<Assessment, flashpoint::error::Error> {
    let checkpoint = Checkpoint::read(path, &NameRules::default(), &Context::default())?;
    let analysis = measure_checkpoint(&checkpoint, MeasureLevel::Full, &Context::default());
    let analysis: Analysis = of_checkpoints(vec![analysis], MeasureLevel::Full);
    Ok(rules::evaluate(&analysis, &Overrides::default()))
}

/// The same with Jacobians, at short sequences, and with all singular values where the rule asks for their spread.
fn assess_jacobian(path: &Path, code: &str) -> Result<Assessment, flashpoint::error::Error> {
    let context = Context::default();
    let checkpoint = Checkpoint::read(path, &NameRules::default(), &context)?;
    let question = Question { tokens: 8, draws: 2, exact: code == "FP807", ..Question::default() };
    let found = jacobian::prepare(&checkpoint, &question, &context)?.measure(&checkpoint, &context)?;
    let mut analysis = measure_checkpoint(&checkpoint, MeasureLevel::Norms, &context);
    analysis.jacobian = Measured::Value(found.expect("nobody stopped it"));
    Ok(rules::evaluate(&of_checkpoints(vec![analysis], MeasureLevel::Norms), &Overrides::default()))
}

/// What the rules say about a run: its directory, its log alone, or its measurement file.
fn assess_run(path: &Path, with_jacobians: bool) -> Assessment {
    let context = Context::default();
    let history = History::read(path, &Options::default(), &context)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let names = NameRules::default();
    let level = if with_jacobians { MeasureLevel::Jacobian } else { MeasureLevel::Spectra };
    let measured = measure(&history, &Request { level, names: &names }, &context);
    assert!(measured.errors.is_empty(), "{}: {:?}", path.display(), measured.errors);
    rules::evaluate(&measured.analysis, &Overrides::default())
}

/// The checkpoint directories of a run, which may keep gradients beside them.
fn checkpoints(run: &Path) -> Vec<PathBuf> {
    folders(run).into_iter().filter(|path| file_name(path).starts_with("checkpoint-")).collect()
}

fn fixtures_of(code: &str) -> Vec<PathBuf> {
    let folder =
        folders(Path::new("fixtures/rules")).into_iter().find(|path| file_name(path).starts_with(code));
    folder.map(|folder| entries(&folder)).unwrap_or_default()
}

fn folders(path: &Path) -> Vec<PathBuf> {
    entries(path).into_iter().filter(|entry| entry.is_dir()).collect()
}

fn entries(path: &Path) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut entries =
        listed.map(|entry| entry.expect("a listed entry can be read").path()).collect::<Vec<_>>();
    entries.sort();
    entries
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
