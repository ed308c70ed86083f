//! The page of checkpoints: what was found in each, or what a gate decided; what each is, its Jacobians, and every tensor.

use askama::Template;

use super::jacobian::{Jacobian, jacobian};
use super::parts::{Figure, FindingView, Head, Unjudged, figures, findings, unjudged, worst_word};
use super::rendered;
use super::tables::{TableView, files, optimizer, tensors};
use crate::analysis::model::{CheckpointAnalysis, Measured};
use crate::gate::{Effect, Judgement, Outcome};
use crate::number::{grouped, short};
use crate::report::Report;
use crate::report::items::{Item, items};
use crate::report::terminal::{Page as TerminalPage, Style};
use crate::report::text::{safe, safe_sentence};
use crate::rules::Severity;

#[derive(Template)]
#[template(path = "checkpoints.html", whitespace = "minimize")]
struct Page {
    head: Head,
    unread: Vec<String>,
    groups: Vec<Group>,
    checkpoints: Vec<Checkpoint>,
    unjudged: Vec<Unjudged>,
}

/// Findings under one heading.
struct Group {
    title: &'static str,
    findings: Vec<FindingView>,
}

/// One checkpoint.
struct Checkpoint {
    name: String,
    facts: Vec<String>,
    jacobian: Option<Jacobian>,
    plots: Vec<Figure>,
    tensors: Option<TableView>,
    maps: Vec<String>,
    optimizer: Option<TableView>,
    files: Option<TableView>,
}

/// What was asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Question {
    Inspect,
    Jacobian,
}

/// The report on checkpoints, judged by a gate or not, as a page.
pub fn checkpoints_html(report: &Report) -> Vec<u8> {
    page(report, Question::Inspect)
}

/// The report on the Jacobians of checkpoints as a page.
pub fn jacobian_html(report: &Report) -> Vec<u8> {
    page(report, Question::Jacobian)
}

fn page(report: &Report, question: Question) -> Vec<u8> {
    let items = items(report);
    let unread = report.unread.iter().map(|problem| {
        let place = problem.at.as_ref().map(|at| format!(", {at}")).unwrap_or_default();
        safe_sentence(&format!("{}{place}: {}; {}", problem.file, problem.message, problem.advice))
    });
    rendered(&Page {
        head: head(report, question),
        unread: unread.collect(),
        groups: groups(report, items.as_slice()),
        checkpoints: report
            .analysis
            .checkpoints
            .iter()
            .map(|one| checkpoint(report, one, question, &items))
            .collect(),
        unjudged: unjudged(&report.not_evaluated),
    })
}

fn head(report: &Report, question: Question) -> Head {
    let names: Vec<&str> = report.analysis.checkpoints.iter().map(|one| one.name.as_str()).collect();
    let name = match names[..] {
        [] => "nothing could be read".to_owned(),
        [one] => one.to_owned(),
        [first, ..] => format!("{first} and {} more", names.len() - 1),
    };
    let head = if let Some(gate) = &report.gate {
        let tone = match gate.outcome {
            Outcome::Pass => "good",
            Outcome::Fail => "critical",
            Outcome::CouldNotDecide => "warning",
        };
        let mut head = Head::new("gate", &name, (tone, &gate.outcome.to_string()), &gate.sentence);
        head.facts = policy(gate);
        head
    } else {
        let verdict = &report.verdict;
        let judged = report.analysis.is_judged() && report.unread.is_empty();
        let command = if question == Question::Jacobian { "jacobian" } else { "inspect" };
        Head::new(command, &name, worst_word(verdict.critical, verdict.warnings, judged), &verdict.sentence)
    };
    head.replacing(&report.replaced_limits)
}

fn policy(gate: &Judgement) -> Vec<String> {
    let policy = format!("Policy: {}, fails on {}", safe(&gate.policy), gate.fail_on);
    let baseline = gate.baseline.as_ref().map(|baseline| {
        let step = baseline.step.map(|step| format!(", step {}", grouped(step))).unwrap_or_default();
        let (shared, all) = (grouped(baseline.shared), grouped(baseline.tensors));
        format!("Baseline: {}{step}; {shared} of its {all} tensors are here", safe(&baseline.checkpoint))
    });
    [policy].into_iter().chain(baseline).collect()
}

fn groups(report: &Report, items: &[Item<'_>]) -> Vec<Group> {
    let several = report.analysis.checkpoints.len() > 1;
    let of = |title, wanted: &dyn Fn(&Item<'_>) -> bool| {
        let own: Vec<Item<'_>> = items.iter().filter(|item| wanted(item)).copied().collect();
        Group { title, findings: findings(&own, several) }
    };
    let all = if report.gate.is_some() {
        vec![
            of("What prevents a decision", &|item| item.effect == Effect::Prevents),
            of("What fails", &|item| item.effect == Effect::Fails),
            of("Below what fails", &|item| item.effect == Effect::Noticed),
            of("Tolerated", &|item| item.effect == Effect::Tolerated),
        ]
    } else {
        // What could not be read has a section of its own.
        let found = |item: &Item<'_>| item.effect != Effect::Prevents;
        vec![
            of("What is wrong", &|item| found(item) && item.severity == Severity::Critical),
            of("What is likely to end badly", &|item| found(item) && item.severity == Severity::Warning),
            of("What is worth knowing", &|item| found(item) && item.severity == Severity::Note),
        ]
    };
    all.into_iter().filter(|group| !group.findings.is_empty()).collect()
}

fn checkpoint(
    report: &Report,
    checkpoint: &CheckpointAnalysis,
    question: Question,
    items: &[Item<'_>],
) -> Checkpoint {
    let plots = crate::report::plot::of_checkpoint(checkpoint, &report.findings, &report.replaced_limits);
    let state = checkpoint.optimizer.value();
    Checkpoint {
        name: safe(&checkpoint.name),
        facts: facts(report, checkpoint),
        jacobian: jacobian(checkpoint, question == Question::Jacobian, items),
        plots: figures(&plots),
        tensors: tensors(checkpoint, items),
        maps: crate::report::maps::lines(checkpoint, true),
        optimizer: state.and_then(optimizer),
        files: files(checkpoint),
    }
}

/// What the terminal says of it in its first lines, and of its optimizers.
fn facts(report: &Report, checkpoint: &CheckpointAnalysis) -> Vec<String> {
    let style = Style { color: false, all: true, width: None };
    let mut heading = String::new();
    TerminalPage { report, checkpoint, style }
        .heading(&mut heading)
        .expect("writing to a string does not fail");
    let mut facts: Vec<String> = heading.lines().skip(1).map(|line| line.trim().to_owned()).collect();
    let Measured::Value(state) = &checkpoint.optimizer else { return facts };
    for optimizer in &state.optimizers {
        facts.push(crate::report::moments::described(optimizer));
    }
    if let Measured::Value(spike) = &state.spike {
        facts.push(format!(
            "a spike about {:.0} steps ago in {}; it inflates √v {}-fold",
            spike.age,
            safe(&spike.name),
            short(spike.inflation)
        ));
    }
    facts
}
