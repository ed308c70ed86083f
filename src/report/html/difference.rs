//! The page on two checkpoints: what must not differ and does, how far every tensor moved, what only one of them has.

use askama::Template;

use super::parts::{Figure, Head, Unjudged, figures};
use super::rendered;
use super::tables::{Row, TableView, row};
use crate::analysis::model::TensorDifference;
use crate::number::{grouped, share};
use crate::report::DifferenceReport;
use crate::report::difference::{by_change, cells, spectrum_cells};
use crate::report::terminal::name_of;
use crate::report::text::{safe, safe_sentence};

#[derive(Template)]
#[template(path = "difference.html", whitespace = "minimize")]
struct Page {
    head: Head,
    forbidden: Vec<String>,
    plots: Vec<Figure>,
    lists: Vec<(&'static str, Vec<String>)>,
    tensors: Option<TableView>,
    spectra: Option<TableView>,
    unjudged: Vec<Unjudged>,
}

/// The report on two checkpoints as a page.
pub fn difference_html(report: &DifferenceReport) -> Vec<u8> {
    let found = &report.difference;
    let reshaped = found.reshaped.iter().map(|one| {
        let [before, after] = &one.shapes;
        format!("{}: from {before:?} to {after:?}", safe(&one.name))
    });
    let names = |all: &[String]| all.iter().map(|name| safe(name)).collect::<Vec<_>>();
    let lists = [
        ("Only in the first", names(&found.missing)),
        ("Only in the second", names(&found.new)),
        ("Of another shape", reshaped.collect()),
    ];
    rendered(&Page {
        head: head(report),
        forbidden: names(&report.forbidden),
        plots: figures(&crate::report::difference_plots(report)),
        lists: lists.into_iter().filter(|(_, names)| !names.is_empty()).collect(),
        tensors: tensors(report),
        spectra: spectra(report),
        unjudged: found
            .not_compared
            .iter()
            .map(|(name, reason)| Unjudged {
                what: safe(name),
                reason: safe_sentence(reason),
                subjects: String::new(),
            })
            .collect(),
    })
}

fn head(report: &DifferenceReport) -> Head {
    let found = &report.difference;
    let step = |step: Option<u64>| step.map_or_else(String::new, |step| format!(" (step {})", grouped(step)));
    let changed = found.tensors.iter().any(|tensor| tensor.changed > 0);
    let word = match (report.forbidden.is_empty(), changed) {
        (false, _) => ("critical", "must not differ"),
        (true, true) => ("note", "changed"),
        (true, false) => ("good", "equal"),
    };
    let name = format!("{} → {}", found.before, found.after);
    let mut head = Head::new("diff", &name, word, &report.verdict);
    head.facts = vec![format!(
        "first {}{}, second {}{}",
        safe(&found.before),
        step(found.steps[0]),
        safe(&found.after),
        step(found.steps[1])
    )];
    head
}

fn tensors(report: &DifferenceReport) -> Option<TableView> {
    let found = &report.difference;
    let told = |tensor: &&TensorDifference| {
        let mut cells = cells(tensor).to_vec();
        // The dtype is a word, and stands with the words.
        let dtype = cells.pop().unwrap_or_default();
        cells.insert(1, dtype);
        cells.insert(1, name_of(&tensor.role));
        cells.push(share(tensor.non_finite, tensor.elements));
        let tone = if report.forbidden.contains(&tensor.name) { "critical" } else { "" };
        Row { tone, cells }
    };
    let columns = [
        ("tensor", ""),
        ("role", ""),
        ("dtype", ""),
        ("|Δ|", "norm of the difference"),
        ("|Δ|/|w|", "over the norm of the first"),
        ("cosine", "between the two"),
        ("max |Δ|", ""),
        ("changed", "share of elements"),
        ("non-finite", "share of elements that are NaN or infinite in either"),
    ];
    let rows = by_change(&found.tensors).iter().map(told).collect();
    TableView::new("Every tensor that both have", 3, &columns, rows)
}

/// Along how many directions each matrix changed, and whether along those that were the largest.
fn spectra(report: &DifferenceReport) -> Option<TableView> {
    let changed = by_change(&report.difference.tensors);
    let rows = changed.into_iter().filter_map(spectrum_cells).map(|cells| row(cells.to_vec()));
    let columns = [
        ("tensor", ""),
        ("σ₁(Δ)", "largest singular value of the change"),
        ("/σ₁(w)", "over that of the matrix"),
        ("stable rank", "of the change: 1 for a change along one direction"),
        ("along u", "cosine with the leading left singular vector"),
        ("along v", "cosine with the leading right singular vector"),
        ("growth", "share by which σ₁ of the matrix grew"),
    ];
    TableView::new("Spectra of the changes", 1, &columns, rows.collect())
}
