//! The report on clipping: the threshold, the lines that set it, and what every other method would have done.

use std::fmt::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde::{Deserialize, Serialize};

use super::Style;
use super::text::{safe, safe_sentence, wrapped};
use crate::analysis::model::{Analysis, Measured, Remark, RemarkKind};
use crate::clip::{Advice, Backtest, Candidate, Concentration, Snippet, Source, Status, TensorEnergy};
use crate::number::{counted, grouped, short};

/// Candidates beyond the recommended one that a folded table shows.
const FOLDED_ROWS: usize = 11;

/// Tensors that a folded table of layers shows.
const FOLDED_TENSORS: usize = 8;

/// Everything there is to say about clipping in a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ClipReport {
    /// Name of the run.
    pub run: String,
    /// The recommendation and what it stands on.
    #[serde(flatten)]
    pub advice: Advice,
    /// How the log's numbers were read, and what was left out.
    pub remarks: Vec<Remark>,
}

impl ClipReport {
    /// Puts it together.
    pub fn new(analysis: &Analysis, advice: Advice) -> Self {
        let run = analysis.run.as_ref();
        Self {
            run: run.map_or_else(String::new, |run| run.name.clone()),
            advice,
            remarks: run.map_or_else(Vec::new, |run| run.remarks.clone()),
        }
    }

    /// Whether a threshold was found.
    pub fn is_answered(&self) -> bool {
        self.advice.recommendation.status != Status::NotEvaluated
    }
}

/// The report as text; with `per_layer`, the tensors that spikes are in.
pub fn clip_page(report: &ClipReport, per_layer: bool, style: Style) -> String {
    let mut text = String::new();
    Page { report, per_layer, style }.write(&mut text).expect("writing to a string does not fail");
    text
}

struct Page<'a> {
    report: &'a ClipReport,
    per_layer: bool,
    style: Style,
}

impl Page<'_> {
    fn write(&self, out: &mut String) -> fmt::Result {
        self.heading(out)?;
        let advice = &self.report.advice;
        if advice.candidates.is_empty() {
            snippets(out, &advice.snippets)?;
        } else {
            self.candidates(out)?;
        }
        for note in &advice.recommendation.notes {
            wrapped(out, "", note)?;
        }
        self.layers(out)?;
        self.remarks(out)
    }

    fn heading(&self, out: &mut String) -> fmt::Result {
        let own = &self.report.advice.recommendation;
        writeln!(out, "{}", safe(&self.report.run))?;
        let from = source_name(own.source);
        let worth = own
            .effective_norms
            .map_or_else(String::new, |worth| format!(", worth {worth:.0} independent ones"));
        writeln!(out, "  {} from {from}{worth}\n", counted(own.norms, "gradient norm"))?;
        let status = match own.status {
            Status::Recommended => "",
            Status::CollectMore => "collect more: ",
            Status::NotEvaluated => "not evaluated: ",
        };
        wrapped(out, "", &format!("{status}{}", own.sentence))?;
        if let (Some(low), Some(high)) = (own.low, own.high) {
            let median = own
                .median
                .map_or_else(String::new, |median| format!(" at the median norm, {}", short(median)));
            wrapped(out, "", &format!("interval {} to {}{median}", short(low), short(high)))?;
        }
        writeln!(out)
    }

    fn candidates(&self, out: &mut String) -> fmt::Result {
        let all = &self.report.advice.candidates;
        let judged: Vec<&Candidate> = all.iter().filter(|one| one.backtest.value().is_some()).collect();
        let shown = if self.style.all { judged.len() } else { judged.len().min(FOLDED_ROWS + 1) };
        let spikes = judged.first().and_then(|one| one.backtest.value()).map_or(0, |found| found.spikes);
        let what = match spikes {
            0 => "no spike in the record: what a method would have held is not known".to_owned(),
            1 => "on the record, with its one spike".to_owned(),
            spikes => format!("on the record, with its {} spikes", grouped(spikes)),
        };
        writeln!(out, "{what}")?;
        writeln!(out, "{}", table(&judged[..shown]))?;
        if judged.len() > shown {
            writeln!(out, "  … {} more (--all shows every method)", judged.len() - shown)?;
        }
        writeln!(out)?;
        writeln!(out, "as a constant")?;
        snippets(out, &self.report.advice.snippets)?;
        if !self.report.advice.rule_snippets.is_empty() {
            writeln!(out, "or, instead of a constant, as a rule that follows the norms")?;
            snippets(out, &self.report.advice.rule_snippets)?;
        }
        for one in judged.iter().skip(1).take(shown - 1) {
            wrapped(out, "  ", &format!("{}: {}", one.label, one.why))?;
        }
        let mut reasons: Vec<(String, Vec<&str>)> = Vec::new();
        for one in all.iter().filter(|one| one.backtest.value().is_none()) {
            match reasons.iter_mut().find(|(why, _)| *why == one.why) {
                Some((_, labels)) => labels.push(&one.label),
                None => reasons.push((one.why.clone(), vec![&one.label])),
            }
        }
        for (why, labels) in reasons {
            wrapped(out, "  ", &format!("{}: {why}", labels.join("; ")))?;
        }
        writeln!(out)
    }

    fn layers(&self, out: &mut String) -> fmt::Result {
        let advice = &self.report.advice;
        let found = match &advice.layers {
            Measured::Value(found) => found,
            Measured::NotMeasured(reason) if self.per_layer => {
                return wrapped(out, "", &format!("per layer, not evaluated: {reason}"));
            }
            _ => return Ok(()),
        };
        let is_concentrated = found.tensors.iter().any(|tensor| tensor.threshold.is_some());
        if !is_concentrated && !self.per_layer {
            return Ok(());
        }
        let named = |tensor: &&TensorEnergy| !is_concentrated || tensor.threshold.is_some();
        let first: Vec<&str> =
            found.tensors.iter().take(2).filter(named).map(|tensor| tensor.name.as_str()).collect();
        let verdict =
            if is_concentrated { "clip what holds it on its own" } else { "clip the gradient as a whole" };
        wrapped(
            out,
            "",
            &format!(
                "per layer: {} of the energy above what is usual is in {} (by {}): {verdict}",
                percent(found.share),
                first.join(" and "),
                found.measured_on
            ),
        )?;
        snippets(out, &advice.layer_snippets)?;
        if self.per_layer {
            self.tensors(out, found)?;
        }
        Ok(())
    }

    fn tensors(&self, out: &mut String, found: &Concentration) -> fmt::Result {
        let shown =
            if self.style.all { found.tensors.len() } else { found.tensors.len().min(FOLDED_TENSORS) };
        let mut table = plain(&["tensor", "spike energy", "usual norm", "clip to"]);
        for tensor in &found.tensors[..shown] {
            let threshold = tensor.threshold.map_or_else(|| "–".to_owned(), short);
            table.add_row([safe(&tensor.name), percent(tensor.share), short(tensor.usual), threshold]);
        }
        writeln!(out, "{table}")?;
        if found.tensors.len() > shown {
            writeln!(out, "  … {} more tensors (--all)", found.tensors.len() - shown)?;
        }
        Ok(())
    }

    /// What changed a number on its way from the log, and what could not be read.
    fn remarks(&self, out: &mut String) -> fmt::Result {
        let told = |kind: RemarkKind| matches!(kind, RemarkKind::Semantics | RemarkKind::LeftOut);
        for remark in self.report.remarks.iter().filter(|remark| self.style.all || told(remark.kind)) {
            let file = remark.file.as_ref().map_or_else(String::new, |file| format!("{file}: "));
            wrapped(out, "", &format!("note: {file}{}", remark.message))?;
        }
        Ok(())
    }
}

fn snippets(out: &mut String, snippets: &[Snippet]) -> fmt::Result {
    if snippets.is_empty() {
        return Ok(());
    }
    let width = snippets.iter().map(|one| one.place.chars().count()).max().unwrap_or(0);
    for one in snippets {
        writeln!(out, "  {:width$}  {}", one.place, safe_sentence(&one.text))?;
    }
    writeln!(out)
}

fn plain(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn table(candidates: &[&Candidate]) -> Table {
    let mut table = plain(&["method", "clips to", "x median", "clipped", "step lost", "spike at", "regret"]);
    for one in candidates {
        let Some(found) = one.backtest.value() else { continue };
        table.add_row(backtest_cells(&one.label, found));
    }
    table
}

/// What the table says of one method.
pub(super) fn backtest_cells(label: &str, found: &Backtest) -> [String; 7] {
    let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), short);
    [
        label.to_owned(),
        number(found.threshold),
        number(found.multiple_of_median),
        percent(found.share_clipped.value),
        percent(1.0 - found.shrinkage.value),
        number(found.containment),
        format!("{:.4}", found.regret.value),
    ]
}

/// Where norms are from, in words.
pub(super) fn source_name(source: Source) -> &'static str {
    match source {
        Source::Log => "log",
        Source::Dumps => "gradient dumps",
        Source::OptimizerState => "optimizer state",
        Source::Nothing => "nothing",
    }
}

pub(super) fn percent(share: f64) -> String {
    if share > 0.0 && share < 0.001 { "<0.1%".to_owned() } else { format!("{:.1}%", 100.0 * share) }
}
