//! The report for people: what it is, its layers, what was found, what was not evaluated, one line of verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use super::Report;
pub(super) use super::text::safe_sentence;
use super::text::{flowing, safe};
use super::{maps, moments};
use crate::analysis::model::{CheckpointAnalysis, DType, DeviceUse, Measured, Statistics, TensorAnalysis};
use crate::number::{bytes, counted, grouped, share, short};
use crate::robust::largest_first;
use crate::rules::{Evidence, Finding, NotEvaluated, RULES, Severity, Subject};

/// How to write for a terminal.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Colour severities.
    pub color: bool,
    /// Show every tensor, finding and reason.
    pub all: bool,
    /// Columns of the terminal; none of a file or a log, whose lines are as long as what they say.
    pub width: Option<usize>,
}

/// Columns of the table of tensors.
const COLUMNS: [&str; 12] = [
    "tensor",
    "role",
    "shape",
    "dtype",
    "L2",
    "RMS",
    "max |x|",
    "sigma_1",
    "stable rank",
    "non-finite",
    "zero",
    "spread",
];

/// The first of them that stands to the right.
const FIRST_NUMBER: usize = 3;

/// What a narrow terminal does without, first to last.
const LEAST: [&str; 8] = ["zero", "L2", "stable rank", "dtype", "role", "shape", "max |x|", "sigma_1"];

/// Rows of a folded table.
const FOLDED_ROWS: usize = 12;

/// Findings of one rule that are shown before the rest is counted.
const FOLDED_FINDINGS: usize = 3;

/// The whole report as text.
pub fn checkpoint_reports(report: &Report, style: Style) -> String {
    let mut text = String::new();
    for checkpoint in &report.analysis.checkpoints {
        let page = Page { report, checkpoint, style };
        page.write(&mut text).expect("writing to a string does not fail");
    }
    for (limit, value) in &report.replaced_limits {
        writeln!(text, "limit replaced: {limit} = {}", short(*value))
            .expect("writing to a string does not fail");
    }
    verdicts(report, style, &mut text).expect("writing to a string does not fail");
    text
}

/// The last lines: one on all, and before it one on each of several.
pub(super) fn verdicts(report: &Report, style: Style, out: &mut String) -> fmt::Result {
    if report.verdicts.len() > 1 {
        for one in &report.verdicts {
            flowing(out, "", &format!("{}: {}", safe(&one.checkpoint), one.verdict.sentence), style.width)?;
        }
    }
    flowing(out, "", &format!("verdict: {}", report.verdict.sentence), style.width)
}

/// One checkpoint's part of the report.
pub(super) struct Page<'a> {
    pub report: &'a Report,
    pub checkpoint: &'a CheckpointAnalysis,
    pub style: Style,
}

impl Page<'_> {
    fn write(&self, out: &mut String) -> fmt::Result {
        self.heading(out)?;
        self.table(out)?;
        self.maps(out)?;
        if let Measured::Value(state) = &self.checkpoint.optimizer {
            moments::write(state, self.style.all, out)?;
        }
        self.findings(out)?;
        self.not_evaluated(out)
    }

    pub(super) fn heading(&self, out: &mut String) -> fmt::Result {
        let checkpoint = self.checkpoint;
        let formats = checkpoint.files.iter().map(|file| name_of(&file.format)).collect::<BTreeSet<_>>();
        let formats = formats.into_iter().collect::<Vec<_>>().join(", ");
        let step = match &checkpoint.step {
            // What a file states needs no more words; what a name suggests does.
            Measured::Value(step) => match checkpoint.step_source.as_deref() {
                Some(place) if place.starts_with("the ") => {
                    format!("step {} by {}", grouped(*step), safe_sentence(place))
                }
                _ => format!("step {}", grouped(*step)),
            },
            _ => "step unknown".to_owned(),
        };
        writeln!(out, "{}", safe(&checkpoint.name))?;
        writeln!(out, "  {formats} ({}), {step}", name_of(&checkpoint.layout))?;
        let parameters = checkpoint.tensors.iter().filter(|tensor| tensor.is_parameter());
        let parameters = parameters.map(|tensor| tensor.elements).fold(0, u64::saturating_add);
        let size = checkpoint.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add);
        let files = counted(checkpoint.files.len() as u64, "file");
        writeln!(
            out,
            "  {}, {}, {} in {files}; {}",
            counted(checkpoint.tensors.len() as u64, "tensor"),
            counted(parameters, "parameter"),
            bytes(size),
            dtypes(checkpoint),
        )?;
        match checkpoint.global_norm() {
            Measured::Value(norm) => writeln!(out, "  parameter norm {}", short(norm))?,
            Measured::NotMeasured(reason) => {
                writeln!(out, "  parameter norm not measured: {}", safe(&reason))?;
            }
            Measured::Degenerate(_) => {}
        }
        checkpoint.device.as_ref().map_or(Ok(()), |device| self.device(device, out))
    }

    /// What a GPU did, and what the processor did in its place.
    fn device(&self, device: &DeviceUse, out: &mut String) -> fmt::Result {
        if let Some(reason) = &device.unused {
            writeln!(out, "  device: cpu (the GPU is not used: {})", safe(reason))?;
        }
        if device.name.is_empty() {
            return Ok(());
        }
        let pieces = match device.pieces {
            1 => "1 piece of work".to_owned(),
            count => format!("{} pieces of work", grouped(count)),
        };
        writeln!(out, "  device: {}, {pieces}", safe(&device.name))?;
        let shown = if self.style.all { usize::MAX } else { FOLDED_FINDINGS };
        for piece in device.redone.iter().take(shown) {
            writeln!(out, "  device of {}: cpu (gpu: {})", safe(&piece.tensor), safe(&piece.reason))?;
        }
        match device.redone.len().saturating_sub(shown) {
            0 => Ok(()),
            more => writeln!(out, "  device of {more} more: cpu (--all names them)"),
        }
    }

    fn table(&self, out: &mut String) -> fmt::Result {
        let tensors = &self.checkpoint.tensors;
        let shown = if self.style.all || tensors.len() <= FOLDED_ROWS {
            (0..tensors.len()).collect()
        } else {
            self.worst_rows()
        };
        let rows: Vec<Vec<String>> = shown.iter().map(|&index| tensor_cells(&tensors[index])).collect();
        let columns = self.fitting(&rows);
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.set_header(columns.iter().map(|&column| COLUMNS[column]));
        for (place, &column) in columns.iter().enumerate() {
            if let Some(own) = table.column_mut(place).filter(|_| column >= FIRST_NUMBER) {
                own.set_cell_alignment(CellAlignment::Right);
            }
        }
        for row in &rows {
            table.add_row(columns.iter().map(|&column| &row[column]));
        }
        writeln!(out)?;
        for line in table.lines() {
            writeln!(out, "  {}", line.trim_end())?;
        }
        if columns.len() < COLUMNS.len() {
            let left_out = (0..COLUMNS.len()).filter(|column| !columns.contains(column));
            let names = left_out.map(|column| COLUMNS[column]).collect::<Vec<_>>().join(", ");
            flowing(out, "  ", &format!("not shown at this width: {names}"), self.style.width)?;
        }
        if shown.len() < tensors.len() {
            self.folded(out, &shown)?;
        }
        writeln!(out)
    }

    /// What the convolutions and the gates were measured as.
    fn maps(&self, out: &mut String) -> fmt::Result {
        let lines = maps::lines(self.checkpoint, self.style.all);
        if lines.is_empty() {
            return Ok(());
        }
        writeln!(out, "  maps that are not one matrix, as they were measured:")?;
        for line in lines {
            flowing(out, "    ", &line, self.style.width)?;
        }
        writeln!(out)
    }

    /// The columns that there is room for.
    fn fitting(&self, rows: &[Vec<String>]) -> Vec<usize> {
        let mut columns: Vec<usize> = (0..COLUMNS.len()).collect();
        let Some(width) = self.style.width else { return columns };
        let of_column = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([COLUMNS[column].chars().count()]).max().unwrap_or(0)
        };
        for left_out in LEAST {
            // Two columns of space stand between two of the table.
            let needed: usize = 2 + columns.iter().map(|&column| of_column(column) + 2).sum::<usize>();
            if needed <= width {
                break;
            }
            columns.retain(|&column| COLUMNS[column] != left_out);
        }
        columns
    }

    /// The rows of a folded table, in file order: tensors with findings first, then the farthest from their role.
    fn worst_rows(&self) -> Vec<usize> {
        let found = self.own_findings().filter_map(|finding| match &finding.subject {
            Subject::Tensor(name) => Some(name.as_str()),
            _ => None,
        });
        let found = found.collect::<BTreeSet<_>>();
        let badness = |tensor: &TensorAnalysis| match tensor.role_spread {
            _ if found.contains(tensor.name.as_str()) || tensor.damaged => f64::INFINITY,
            Measured::Value(spread) => spread.ln().abs(),
            _ => -1.0,
        };
        let mut order = largest_first(&self.checkpoint.tensors.iter().map(badness).collect::<Vec<f64>>());
        order.truncate(FOLDED_ROWS);
        order.sort_unstable();
        order
    }

    /// One line per role for the tensors that are not shown.
    fn folded(&self, out: &mut String, shown: &[usize]) -> fmt::Result {
        let mut roles: BTreeMap<_, (u64, f64, f64)> = BTreeMap::new();
        for (index, tensor) in self.checkpoint.tensors.iter().enumerate() {
            if !shown.contains(&index) {
                let entry = roles.entry(tensor.role).or_insert((0, f64::INFINITY, f64::NEG_INFINITY));
                entry.0 += 1;
                if let Some(&rms) = tensor.statistics.value().and_then(|statistics| statistics.rms.value()) {
                    (entry.1, entry.2) = (entry.1.min(rms), entry.2.max(rms));
                }
            }
        }
        let hidden = self.checkpoint.tensors.len() - shown.len();
        writeln!(out, "  … {} more (--all shows every tensor):", grouped(hidden as u64))?;
        for (role, (count, low, high)) in roles {
            let range =
                if low <= high { format!(", RMS {} to {}", short(low), short(high)) } else { String::new() };
            writeln!(out, "    {count} {}{range}", name_of(&role))?;
        }
        Ok(())
    }

    fn own_findings(&self) -> impl Iterator<Item = &Finding> {
        self.report.findings.iter().filter(|finding| finding.checkpoint == self.checkpoint.name)
    }

    pub(super) fn findings(&self, out: &mut String) -> fmt::Result {
        let mut by_rule: Vec<Vec<&Finding>> = Vec::new();
        for finding in self.own_findings() {
            match by_rule.last_mut() {
                Some(group) if group[0].rule == finding.rule && group[0].severity == finding.severity => {
                    group.push(finding);
                }
                _ => by_rule.push(vec![finding]),
            }
        }
        if by_rule.is_empty() {
            return writeln!(out, "no findings\n");
        }
        for group in by_rule {
            let shown = if self.style.all { group.len() } else { FOLDED_FINDINGS };
            for finding in group.iter().take(shown) {
                self.finding(out, finding)?;
            }
            if group.len() > shown {
                let more = group.len() - shown;
                writeln!(out, "  … and {more} more of {} (--all shows every finding)\n", group[0].rule)?;
            }
        }
        Ok(())
    }

    fn finding(&self, out: &mut String, finding: &Finding) -> fmt::Result {
        let Finding { severity, rule, name, confidence, message, .. } = finding;
        let mut text = String::new();
        flowing(
            &mut text,
            "",
            &format!("{severity} {rule} {name} ({confidence}): {message}"),
            self.style.width,
        )?;
        // Colour codes take no columns: they come in after the lines are broken.
        out.push_str(&text.replacen(&severity.to_string(), &painted(*severity, self.style), 1));
        let numbers = finding.evidence.iter().map(evidence).collect::<Vec<_>>();
        if !numbers.is_empty() {
            flowing(out, "  ", &format!("evidence: {}", numbers.join("; ")), self.style.width)?;
        }
        flowing(out, "  ", &format!("what to do: {}", finding.advice), self.style.width)?;
        writeln!(out, "  flashpoint explain {}\n", finding.rule)
    }

    pub(super) fn not_evaluated(&self, out: &mut String) -> fmt::Result {
        // What is of a run and of none of its checkpoints is told once, with the last of them.
        let is_last =
            self.report.analysis.checkpoints.last().is_some_and(|last| last.name == self.checkpoint.name);
        let is_own = |entry: &&NotEvaluated| {
            entry.checkpoint == self.checkpoint.name || (is_last && entry.subject == Subject::Run)
        };
        let own = self.report.not_evaluated.iter().filter(is_own);
        let mut reasons: BTreeMap<(Option<&str>, &str), Vec<&NotEvaluated>> = BTreeMap::new();
        for entry in own {
            reasons.entry((entry.rule.as_deref(), &entry.reason)).or_default().push(entry);
        }
        if reasons.is_empty() {
            return Ok(());
        }
        writeln!(out, "not evaluated")?;
        let mut of_the_whole: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for ((rule, reason), entries) in reasons {
            if let Some(rule) = rule
                && entries.iter().all(|entry| matches!(entry.subject, Subject::Checkpoint | Subject::Run))
            {
                of_the_whole.entry(reason).or_default().push(rule);
                continue;
            }
            let what = rule.map_or_else(|| "elements".to_owned(), titled);
            let subjects = self.subjects(&entries);
            flowing(out, "  ", &format!("{what}{subjects}: {reason}"), self.style.width)?;
        }
        for (reason, rules) in of_the_whole {
            // Many rules lack the same thing: their codes are enough.
            let what = if let [rule] = rules[..] { titled(rule) } else { rules.join(", ") };
            flowing(out, "  ", &format!("{what}: {reason}"), self.style.width)?;
        }
        writeln!(out)
    }

    /// The tensors of entries that share a reason.
    fn subjects(&self, entries: &[&NotEvaluated]) -> String {
        let names = entries.iter().filter_map(|entry| match &entry.subject {
            Subject::Tensor(name) | Subject::Layer(name) | Subject::File(name) => Some(safe(name)),
            Subject::Checkpoint | Subject::Steps(..) | Subject::Run => None,
        });
        let names = names.collect::<Vec<_>>();
        let shown = if self.style.all { names.len() } else { FOLDED_FINDINGS };
        match names.len() {
            0 => String::new(),
            count if count > shown => format!(" of {} and {} more", names[..shown].join(", "), count - shown),
            _ => format!(" of {}", names.join(", ")),
        }
    }
}

/// The severity, in its colour.
pub(super) fn painted(severity: Severity, style: Style) -> String {
    if !style.color {
        return severity.to_string();
    }
    let color = match severity {
        Severity::Critical => anstyle::AnsiColor::Red,
        Severity::Warning => anstyle::AnsiColor::Yellow,
        Severity::Note => anstyle::AnsiColor::Cyan,
    };
    let style = color.on_default().bold();
    format!("{style}{severity}{style:#}")
}

/// A rule's code and name.
pub(super) fn titled(code: &str) -> String {
    let rule = RULES.iter().find(|rule| rule.code == code);
    rule.map_or_else(|| code.to_owned(), |rule| format!("{code} {}", rule.name))
}

/// A number behind a finding, and its limit.
pub(super) fn evidence(evidence: &Evidence) -> String {
    let unit = match unit(evidence) {
        "" => String::new(),
        unit => format!(" {unit}"),
    };
    match evidence.limit {
        Some(limit) => format!("{} {}{unit} (limit {})", evidence.label, short(evidence.value), short(limit)),
        None => format!("{} {}{unit}", evidence.label, short(evidence.value)),
    }
}

/// The unit of a number as it is read: none of a plain number, one thing of things that are counted.
pub(super) fn unit(evidence: &Evidence) -> &str {
    match evidence.unit.as_str() {
        "1" => "",
        unit if evidence.value == 1.0 && !unit.contains(' ') && unit != "times" => {
            unit.strip_suffix('s').unwrap_or(unit)
        }
        unit => unit,
    }
}

/// What the table says of one tensor.
pub(super) fn tensor_cells(tensor: &TensorAnalysis) -> Vec<String> {
    let statistics = tensor.statistics.value().map(Box::as_ref);
    let number = |pick: fn(&Statistics) -> &Measured<f64>| match statistics.map(pick) {
        Some(Measured::Value(value)) => short(*value),
        _ => "–".to_owned(),
    };
    let non_finite = |s: &Statistics| grouped(s.nan + s.positive_infinity + s.negative_infinity);
    let name = match &tensor.tied_to {
        Some(source) => format!("{} = {}", safe(&tensor.name), safe(source)),
        None => safe(&tensor.name),
    };
    vec![
        name,
        if tensor.damaged { "damaged".to_owned() } else { name_of(&tensor.role) },
        shape(&tensor.shape),
        tensor.dtype.map_or_else(|| "?".to_owned(), |dtype| dtype.to_string()),
        number(|s| &s.l2),
        number(|s| &s.rms),
        number(|s| &s.max_abs),
        tensor.spectrum.value().map_or_else(|| "–".to_owned(), |spectrum| maps::sigma(spectrum)),
        tensor.spectrum.value().map_or_else(|| "–".to_owned(), |spectrum| short(spectrum.stable_rank)),
        statistics.map_or_else(|| "–".to_owned(), non_finite),
        statistics.map_or_else(|| "–".to_owned(), |s| share(s.zero, s.count)),
        match tensor.role_spread {
            Measured::Value(spread) => format!("×{}", short(spread)),
            _ => "–".to_owned(),
        },
    ]
}

fn shape(sizes: &[u64]) -> String {
    if sizes.is_empty() {
        return "scalar".to_owned();
    }
    sizes.iter().map(u64::to_string).collect::<Vec<_>>().join("×")
}

/// Tensors per dtype.
fn dtypes(checkpoint: &CheckpointAnalysis) -> String {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for tensor in &checkpoint.tensors {
        let name = tensor.dtype.map_or("unreadable", DType::name);
        *counts.entry(name).or_default() += 1;
    }
    counts.into_iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

/// The name a plain enum has in JSON.
pub(super) fn name_of(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}
