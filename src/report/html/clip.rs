//! The page on clipping: the threshold and the lines that set it, the norms, and what every other method would have done.

use askama::Template;

use super::parts::{Figure, Head, Unjudged, figures, remarks, snippets};
use super::rendered;
use super::tables::{TableView, row};
use crate::analysis::model::Measured;
use crate::clip::{Candidate, Series, Snippet, Status};
use crate::number::{counted, short};
use crate::report::ClipReport;
use crate::report::clip::{backtest_cells, percent, source_name};
use crate::report::text::{safe, safe_sentence};

#[derive(Template)]
#[template(path = "clip.html", whitespace = "minimize")]
struct Page {
    head: Head,
    snippets: Vec<Snippet>,
    rule_snippets: Vec<Snippet>,
    notes: Vec<String>,
    plots: Vec<Figure>,
    record: String,
    candidates: Option<TableView>,
    /// What each method that is not recommended would have done.
    others: Vec<String>,
    layers: String,
    layer_snippets: Vec<Snippet>,
    tensors: Option<TableView>,
    remarks: Vec<String>,
    unjudged: Vec<Unjudged>,
}

/// The report on clipping as a page; `series` are the norms that it is about.
pub fn clip_html(report: &ClipReport, series: &Series) -> Vec<u8> {
    let advice = &report.advice;
    let judged: Vec<&Candidate> =
        advice.candidates.iter().filter(|one| one.backtest.value().is_some()).collect();
    let spikes = judged.first().and_then(|one| one.backtest.value()).map_or(0, |found| found.spikes);
    rendered(&Page {
        head: head(report),
        snippets: snippets(&advice.snippets),
        rule_snippets: snippets(&advice.rule_snippets),
        notes: advice.recommendation.notes.iter().map(|note| safe_sentence(note)).collect(),
        plots: figures(&crate::report::clip_plots(series, &advice.recommendation)),
        record: match spikes {
            0 => "No spike is on the record: what a method would have held is not known.".to_owned(),
            spikes => format!("The record has {}.", counted(spikes, "spike")),
        },
        candidates: candidates(&judged),
        others: judged
            .iter()
            .skip(1)
            .map(|one| safe_sentence(&format!("{}: {}", one.label, one.why)))
            .collect(),
        layers: layers(report),
        layer_snippets: snippets(&advice.layer_snippets),
        tensors: tensors(report),
        remarks: remarks(&report.remarks),
        unjudged: unjudged(&advice.candidates),
    })
}

fn head(report: &ClipReport) -> Head {
    let own = &report.advice.recommendation;
    let (tone, word) = match own.status {
        Status::Recommended => ("good", "recommended"),
        Status::CollectMore => ("warning", "collect more"),
        Status::NotEvaluated => ("warning", "not evaluated"),
    };
    let mut head = Head::new("clip", &report.run, (tone, word), &own.sentence);
    let worth =
        own.effective_norms.map_or_else(String::new, |worth| format!(", worth {worth:.0} independent ones"));
    head.facts.push(format!(
        "{} from {}{worth}",
        counted(own.norms, "gradient norm"),
        source_name(own.source)
    ));
    if let (Some(low), Some(high)) = (own.low, own.high) {
        let median =
            own.median.map_or_else(String::new, |one| format!(" at the median norm, {}", short(one)));
        head.facts.push(format!("interval {} to {}{median}", short(low), short(high)));
    }
    head
}

fn candidates(judged: &[&Candidate]) -> Option<TableView> {
    let rows =
        judged.iter().filter_map(|one| Some(row(backtest_cells(&one.label, one.backtest.value()?).to_vec())));
    let columns = [
        ("method", ""),
        ("clips to", "median over the steps"),
        ("× median", "that over the median norm"),
        ("clipped", "share of healthy steps"),
        ("step lost", "mean share of a healthy step"),
        ("spike at", "largest norm a spike keeps, over the median"),
        ("regret", "mean distance to the oracle"),
    ];
    TableView::new("Methods", 1, &columns, rows.collect())
}

fn layers(report: &ClipReport) -> String {
    match &report.advice.layers {
        Measured::Value(found) => {
            let alone = found.tensors.iter().any(|tensor| tensor.threshold.is_some());
            let verdict =
                if alone { "clip what holds it on its own" } else { "clip the gradient as a whole" };
            format!(
                "{} of the energy above what is usual is in the two tensors with the most (by {}): {verdict}.",
                percent(found.share),
                safe_sentence(&found.measured_on)
            )
        }
        Measured::NotMeasured(reason) => format!("Not evaluated: {}", safe_sentence(reason)),
        Measured::Degenerate(_) => "Not evaluated: the norms of the tensors have no spread".to_owned(),
    }
}

fn tensors(report: &ClipReport) -> Option<TableView> {
    let found = report.advice.layers.value()?;
    let rows = found.tensors.iter().map(|tensor| {
        let threshold = tensor.threshold.map_or_else(|| "–".to_owned(), short);
        row(vec![safe(&tensor.name), percent(tensor.share), short(tensor.usual), threshold])
    });
    let columns = [("tensor", ""), ("spike energy", "its share"), ("usual norm", ""), ("clip to", "")];
    TableView::new("Tensors that spikes are in", 1, &columns, rows.collect())
}

/// Methods that could not be held against the record, by reason.
fn unjudged(candidates: &[Candidate]) -> Vec<Unjudged> {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for one in candidates.iter().filter(|one| one.backtest.value().is_none()) {
        match reasons.iter_mut().find(|(why, _)| *why == one.why) {
            Some((_, labels)) => labels.push(&one.label),
            None => reasons.push((&one.why, vec![&one.label])),
        }
    }
    let said = |(why, labels): (&str, Vec<&str>)| Unjudged {
        what: safe(&labels.join("; ")),
        reason: safe_sentence(why.trim_start_matches("not evaluated: ")),
        subjects: String::new(),
    };
    reasons.into_iter().map(said).collect()
}
