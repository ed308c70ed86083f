//! The page of a run: what happened, where and why, what to do, then everything it stands on.

use askama::Template;

use super::parts::{
    EvidenceRow, Figure, FindingView, Head, Unjudged, evidence, figures, findings, remarks, snippets,
    unjudged, worst_word,
};
use super::rendered;
use super::tables::{TableView, course, row, tensors};
use crate::clip::Snippet;
use crate::diagnosis::{Diagnosis, Mechanism};
use crate::gate::Effect;
use crate::number::{grouped, short};
use crate::report::PostMortem;
use crate::report::items::Item;
use crate::report::postmortem::counted as several;
use crate::report::text::{safe, safe_sentence};
use crate::rules::Finding;

#[derive(Template)]
#[template(path = "postmortem.html", whitespace = "minimize")]
struct Page {
    head: Head,
    story: Vec<String>,
    answers: Vec<(&'static str, String)>,
    evidence: Vec<EvidenceRow>,
    against: Vec<String>,
    runner_up: String,
    actions: Vec<Action>,
    plots: Vec<Figure>,
    suspects: Option<TableView>,
    findings: Vec<FindingView>,
    checkpoint_title: String,
    checkpoint_plots: Vec<Figure>,
    tensors: Option<TableView>,
    remarks: Vec<String>,
    unjudged: Vec<Unjudged>,
}

/// One thing to do.
struct Action {
    what: String,
    snippets: Vec<Snippet>,
}

/// The report on a run as a page.
pub fn postmortem_html(report: &PostMortem) -> Vec<u8> {
    let (analysis, diagnosis) = (&report.analysis, &report.diagnosis);
    let items: Vec<Item<'_>> = report.findings.iter().map(item).collect();
    let last = analysis.checkpoints.last();
    let told = |sentences: &[String]| sentences.iter().map(|one| safe_sentence(one)).collect::<Vec<_>>();
    let last_plots =
        last.map(|one| crate::report::plot::of_checkpoint(one, &report.findings, &report.replaced_limits));
    rendered(&Page {
        head: head(report),
        story: told(&diagnosis.story),
        answers: answers(diagnosis),
        evidence: evidence(&diagnosis.evidence),
        against: told(&diagnosis.against),
        runner_up: runner_up(diagnosis),
        actions: diagnosis
            .actions
            .iter()
            .map(|one| Action { what: safe_sentence(&one.what), snippets: snippets(&one.snippets) })
            .collect(),
        plots: figures(&crate::report::plot::of_run(analysis, diagnosis)),
        suspects: suspects(diagnosis),
        findings: findings(&items, true),
        checkpoint_title: last
            .map_or_else(String::new, |one| format!("The last checkpoint, {}", safe(&one.name))),
        checkpoint_plots: figures(&last_plots.unwrap_or_default()),
        tensors: course(&analysis.intervals).or_else(|| last.and_then(|one| tensors(one, &items))),
        remarks: analysis.run.as_ref().map_or_else(Vec::new, |run| remarks(&run.remarks)),
        unjudged: unjudged(&report.not_evaluated),
    })
}

fn item(finding: &Finding) -> Item<'_> {
    Item {
        check: &finding.rule,
        name: &finding.name,
        severity: finding.severity,
        effect: Effect::Noticed,
        checkpoint: &finding.checkpoint,
        place: &finding.checkpoint,
        subject: &finding.subject,
        message: &finding.message,
        evidence: &finding.evidence,
        advice: &finding.advice,
        reason: None,
        baseline_state: None,
        file: None,
    }
}

fn head(report: &PostMortem) -> Head {
    let (analysis, diagnosis) = (&report.analysis, &report.diagnosis);
    let run = analysis.run.as_ref();
    let verdict = &report.verdict;
    let (tone, word) = match diagnosis.mechanism {
        Mechanism::None => {
            let judged = (analysis.is_judged() || analysis.log.is_some()) && report.unread.is_empty();
            let (tone, _) = worst_word(verdict.critical, verdict.warnings, judged);
            (tone, "nothing blew up".to_owned())
        }
        Mechanism::Unknown => ("warning", "unclear".to_owned()),
        _ => ("critical", "failed".to_owned()),
    };
    let name = run.map_or("run", |run| run.name.as_str());
    let mut head = Head::new("postmortem", name, (tone, &word), &verdict.sentence);
    let until = run.and_then(|run| run.until).map(|step| format!(", until step {}", grouped(step)));
    head.facts = vec![format!(
        "{}, {}, {}{}",
        several(analysis.checkpoints.len(), "checkpoint"),
        several(analysis.log.as_ref().map_or(0, |log| log.points.len()), "logged step"),
        several(analysis.dumps.len(), "gradient dump"),
        until.unwrap_or_default()
    )];
    head.replacing(&report.replaced_limits)
}

/// The answers that a post-mortem gives, each under its question.
fn answers(diagnosis: &Diagnosis) -> Vec<(&'static str, String)> {
    let mut answers = vec![("mechanism", format!("{} ({})", diagnosis.mechanism, diagnosis.confidence))];
    if let Some(tensor) = &diagnosis.tensor {
        answers.push(("began in", safe(tensor)));
    }
    if let Some(step) = diagnosis.onset_step {
        let between = match diagnosis.onset_interval {
            Some([from, to]) if from != to => {
                format!(", between steps {} and {}", grouped(from), grouped(to))
            }
            _ => String::new(),
        };
        answers.push(("began at", format!("step {}{between}", grouped(step))));
    }
    if let Some(name) = &diagnosis.last_healthy {
        let step = diagnosis.last_healthy_step.map(|step| format!(" (step {})", grouped(step)));
        answers.push(("go back to", format!("{}{}", safe(name), step.unwrap_or_default())));
    }
    answers
}

fn runner_up(diagnosis: &Diagnosis) -> String {
    let Some(other) = &diagnosis.runner_up else { return String::new() };
    let place = other.tensor.as_ref().map_or_else(String::new, |tensor| format!(" in {tensor}"));
    safe_sentence(&format!(
        "Next likely: {}{place}, as {}; but {}",
        other.mechanism, other.reason, other.against
    ))
}

fn suspects(diagnosis: &Diagnosis) -> Option<TableView> {
    let times =
        |ratio: Option<f64>| ratio.map_or_else(|| "–".to_owned(), |ratio| format!("×{}", short(ratio)));
    let rows = diagnosis.suspects.iter().map(|one| {
        let ratios = [one.gradient_ratio, one.change_ratio, one.geometry_ratio].map(times);
        row([safe(&one.tensor)].into_iter().chain(ratios).collect())
    });
    let columns = [("tensor", ""), ("gradient", ""), ("change", ""), ("width", "against the other matrices")];
    TableView::new("Suspects", 1, &columns, rows.collect())
}
