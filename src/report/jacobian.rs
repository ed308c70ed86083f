//! Jacobians for people: what they were measured at, part by part, over depth, through time; and what measuring would take.

use std::fmt::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::Report;
use super::markdown::code;
use super::terminal::{Page, Style, verdicts};
use super::text::{safe, safe_sentence};
use crate::analysis::model::{
    CheckpointAnalysis, Degenerate, DepthGain, Estimated, GradientSource, JacobianAnalysis, JacobianCost,
    JacobianSetting, Measured, PartJacobian, PartKind, ProbeKind, RecurrenceAnalysis, Spread,
};
use crate::number::{bytes, counted, grouped, short};
use crate::robust::largest_first;

/// Rows of a table before only blocks are shown, and of those the ones with the largest σ₁.
const FOLDED_ROWS: usize = 40;

/// The Jacobians of every checkpoint as text, and what the rules say about them.
pub fn jacobian_page(report: &Report, style: Style) -> String {
    let mut text = String::new();
    write(report, style, &mut text).expect("writing to a string does not fail");
    text
}

fn write(report: &Report, style: Style, out: &mut String) -> fmt::Result {
    for checkpoint in &report.analysis.checkpoints {
        let page = Page { report, checkpoint, style };
        page.heading(out)?;
        match &checkpoint.jacobian {
            Measured::Value(jacobian) => {
                if let Some(device) = device(checkpoint, jacobian) {
                    writeln!(out, "  device of the Jacobians: {}", safe(device))?;
                }
                measured(jacobian, style, out)?;
            }
            Measured::NotMeasured(reason) => {
                writeln!(out, "\n  Jacobians were not measured: {}\n", safe_sentence(reason))?;
            }
            Measured::Degenerate(_) => writeln!(out, "\n  the network has no Jacobian\n")?,
        }
        page.findings(out)?;
        page.not_evaluated(out)?;
    }
    for (limit, value) in &report.replaced_limits {
        writeln!(out, "limit replaced: {limit} = {}", short(*value))?;
    }
    verdicts(report, style, out)
}

/// What ran the network, where a GPU took part in anything.
pub(super) fn device<'a>(checkpoint: &CheckpointAnalysis, jacobian: &'a JacobianAnalysis) -> Option<&'a str> {
    let is_used = checkpoint.device.as_ref().is_some_and(|device| !device.name.is_empty());
    jacobian.device.as_deref().or(is_used.then_some("cpu"))
}

fn measured(jacobian: &JacobianAnalysis, style: Style, out: &mut String) -> fmt::Result {
    writeln!(out, "  network {}, {}", safe(&jacobian.architecture), setting(&jacobian.setting))?;
    if let Some(first) = jacobian.unused.first() {
        let count = counted(jacobian.unused.len() as u64, "parameter");
        writeln!(out, "  not used by the network: {count}, {} first", safe(first))?;
    }
    for assumption in &jacobian.assumptions {
        writeln!(out, "  taken for granted: {}", safe_sentence(assumption))?;
    }
    writeln!(out)?;
    network(jacobian, style, out)?;
    for recurrence in &jacobian.recurrences {
        through_time(recurrence, out)?;
    }
    Ok(())
}

fn network(jacobian: &JacobianAnalysis, style: Style, out: &mut String) -> fmt::Result {
    let shown = shown(jacobian, style);
    let hidden = jacobian.parts.len() - shown.len();
    let mut rows: Vec<Vec<String>> = shown.iter().map(|part| row(part)).collect();
    match &jacobian.end_to_end {
        Measured::Value(whole) => rows.push(row(whole)),
        other => writeln!(out, "  end to end was not measured: {}\n", why(other))?,
    }
    match &jacobian.initial {
        Measured::Value(initial) => rows.push(vec![
            "as initialised".to_owned(),
            String::new(),
            spread(&initial.spectral_norm),
            spread(&initial.gain),
            String::new(),
            String::new(),
            String::new(),
            format!("weights {}", safe_sentence(&initial.scheme)),
        ]),
        other => writeln!(out, "  the architecture as initialised was not measured: {}\n", why(other))?,
    }
    let header = ["part", "size", "sigma_1", "gain", "stable rank", "RMS in", "RMS out", ""];
    table(&header, rows, 1..7, out)?;
    if hidden > 0 {
        writeln!(out, "  … {hidden} more parts (--all shows every part)")?;
    }
    writeln!(out)?;
    depths(&jacobian.depths, jacobian.setting.gradient, style, out)
}

/// What values belong to: `3 draws of a synthetic probe (…) of 32 tokens, seed 0, f32, 20 pairs`.
pub(super) fn setting(setting: &JacobianSetting) -> String {
    let kind = match setting.probe {
        ProbeKind::SyntheticTokens => {
            "a synthetic probe (random tokens through the model's own embedding)".to_owned()
        }
        ProbeKind::SyntheticFeatures => "a synthetic probe (standard normal features)".to_owned(),
        ProbeKind::Data => format!("data ({})", safe(setting.file.as_deref().unwrap_or("a file"))),
    };
    let size = match &setting.tokens {
        Measured::Value(tokens) => counted(*tokens, "token"),
        _ => setting.shape.iter().map(u64::to_string).collect::<Vec<_>>().join("×"),
    };
    let size = if size.is_empty() { size } else { format!(", {size}") };
    format!(
        "{} of {kind}{size}; seed {}, {}, {} pairs",
        counted(setting.draws, "draw"),
        setting.seed,
        setting.dtype.to_string().to_lowercase(),
        setting.pairs,
    )
}

/// All parts where they are few; otherwise the blocks, and of those the ones that grow most, in their order.
fn shown(jacobian: &JacobianAnalysis, style: Style) -> Vec<&PartJacobian> {
    let all: Vec<&PartJacobian> = jacobian.parts.iter().collect();
    if style.all || all.len() <= FOLDED_ROWS {
        return all;
    }
    let blocks: Vec<&PartJacobian> =
        all.into_iter().filter(|part| part.kind != PartKind::Operation).collect();
    if blocks.len() <= FOLDED_ROWS {
        return blocks;
    }
    let norm = |part: &&PartJacobian| part.spectral_norm.value().map_or(f64::INFINITY, |norm| norm.mean);
    let mut order = largest_first(&blocks.iter().map(norm).collect::<Vec<f64>>());
    order.truncate(FOLDED_ROWS);
    order.sort_unstable();
    order.into_iter().map(|index| blocks[index]).collect()
}

pub(super) fn row(part: &PartJacobian) -> Vec<String> {
    let size = if part.rows == part.columns {
        grouped(part.rows)
    } else {
        format!("{}×{}", grouped(part.rows), grouped(part.columns))
    };
    let remark = match part.paths.value() {
        Some(paths) => format!("values {}, softmax {}", short(paths.value), short(paths.softmax)),
        None => String::new(),
    };
    vec![
        safe(&part.name),
        size,
        or_dash(&part.spectral_norm),
        or_dash(&part.gain),
        mean_or_dash(&part.stable_rank),
        mean_or_dash(&part.input_rms),
        mean_or_dash(&part.output_rms),
        remark,
    ]
}

fn depths(
    depths: &Measured<Vec<DepthGain>>,
    gradient: GradientSource,
    style: Style,
    out: &mut String,
) -> fmt::Result {
    let depths = match depths {
        Measured::Value(depths) => depths,
        other => return writeln!(out, "  the gain by depth was not measured: {}\n", why(other)),
    };
    if depths.is_empty() {
        return Ok(());
    }
    if gradient == GradientSource::Labels {
        writeln!(out, "  gradients are those of the labels")?;
    }
    let step = if style.all { 1 } else { depths.len().div_ceil(FOLDED_ROWS).max(1) };
    let picked = |index: usize| index.is_multiple_of(step) || index + 1 == depths.len();
    let of_norm = depths.iter().any(|depth| depth.spectral_norm.value().is_some());
    let mut header = vec!["behind", "gain from the start", "gradient gain to before it", "RMS of the state"];
    if of_norm {
        header.push("sigma_1 from the start");
    }
    let rows = depths.iter().enumerate().filter(|(index, _)| picked(*index)).map(|(_, depth)| {
        let mut row = vec![
            safe(&depth.name),
            or_dash(&depth.from_input),
            or_dash(&depth.gradient),
            mean_or_dash(&depth.state_rms),
        ];
        if of_norm {
            row.push(or_dash(&depth.spectral_norm));
        }
        row
    });
    table(&header, rows.collect(), 1..5, out)?;
    writeln!(out)
}

fn through_time(recurrence: &RecurrenceAnalysis, out: &mut String) -> fmt::Result {
    writeln!(out, "  {}, state of {}", safe(&recurrence.name), grouped(recurrence.state))?;
    let rows = recurrence.scales.iter().map(|at| {
        let exponents = at.exponents.iter().map(exponent).collect::<Vec<_>>().join("  ");
        vec![short(at.scale), grouped(at.steps), or_dash(&at.step_norm), exponents]
    });
    table(
        &["input scale", "steps", "sigma_1 of a step", "Lyapunov exponents a step"],
        rows.collect(),
        0..3,
        out,
    )?;
    writeln!(out)
}

pub(super) fn exponent(exponent: &Measured<Estimated>) -> String {
    match exponent {
        Measured::Value(found) => format!("{:+.4} ± {:.4}", found.value, found.standard_error),
        Measured::Degenerate(Degenerate::AllZero) => "−∞".to_owned(),
        _ => "–".to_owned(),
    }
}

fn table(
    header: &[&str],
    rows: Vec<Vec<String>>,
    numbers: std::ops::Range<usize>,
    out: &mut String,
) -> fmt::Result {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(header.to_vec());
    for index in numbers {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for row in rows {
        table.add_row(row);
    }
    for line in table.lines() {
        writeln!(out, "  {}", line.trim_end())?;
    }
    Ok(())
}

/// `9.91 ± 0.12`; the mean alone of one draw.
pub(super) fn spread(spread: &Spread) -> String {
    if spread.least == spread.most {
        return short(spread.mean);
    }
    format!("{} ± {}", short(spread.mean), short(spread.standard_deviation))
}

pub(super) fn or_dash(value: &Measured<Spread>) -> String {
    match value {
        Measured::Value(value) => spread(value),
        Measured::Degenerate(Degenerate::Overflow) => "not finite".to_owned(),
        Measured::Degenerate(Degenerate::AllZero) => "0".to_owned(),
        _ => "–".to_owned(),
    }
}

pub(super) fn mean_or_dash(value: &Measured<Spread>) -> String {
    value.value().map_or_else(|| "–".to_owned(), |value| short(value.mean))
}

pub(super) fn why<T>(value: &Measured<T>) -> String {
    match value {
        Measured::NotMeasured(reason) => safe_sentence(reason),
        Measured::Degenerate(Degenerate::Overflow) => "a product is not finite".to_owned(),
        _ => "it is zero or empty".to_owned(),
    }
}

/// The table of blocks for the comment of a pull request, folded.
pub(super) fn write_markdown(jacobian: &JacobianAnalysis, out: &mut String) -> fmt::Result {
    writeln!(out, "<details><summary>Jacobians</summary>\n\n{}\n", code(&setting(&jacobian.setting)))?;
    writeln!(out, "| part | sigma_1 | gain | stable rank |\n|---|---:|---:|---:|")?;
    let style = Style { color: false, all: false, width: None };
    for part in shown(jacobian, style).into_iter().chain(jacobian.end_to_end.value()) {
        // A pipe would end the cell, also within a code span.
        let name = code(&part.name).replace('|', "\\|");
        let (norm, gain) = (or_dash(&part.spectral_norm), or_dash(&part.gain));
        writeln!(out, "| {name} | {norm} | {gain} | {} |", mean_or_dash(&part.stable_rank))?;
    }
    if let Measured::Value(initial) = &jacobian.initial {
        let (norm, gain) = (spread(&initial.spectral_norm), spread(&initial.gain));
        writeln!(out, "| as initialised | {norm} | {gain} | |")?;
    }
    for recurrence in &jacobian.recurrences {
        for at in &recurrence.scales {
            let first = at.exponents.first().map_or_else(|| "–".to_owned(), exponent);
            let name = code(&format!("{} at input scale {}", recurrence.name, at.scale)).replace('|', "\\|");
            writeln!(out, "| {name} | {} | Lyapunov exponent {first} | |", or_dash(&at.step_norm))?;
        }
    }
    writeln!(out, "\n</details>\n")
}

/// What measuring would take, for programs.
#[derive(Debug, Serialize)]
pub struct JacobianPlan {
    /// Name of the checkpoint.
    pub name: String,
    /// At what it would be measured.
    pub setting: JacobianSetting,
    /// What that would take.
    pub cost: JacobianCost,
}

/// What measuring would take, as text.
pub fn plan_page(of: &JacobianPlan) -> String {
    let mut text = String::new();
    plan(&of.name, &of.setting, &of.cost, &mut text).expect("writing to a string does not fail");
    text
}

fn plan(name: &str, own: &JacobianSetting, cost: &JacobianCost, out: &mut String) -> fmt::Result {
    writeln!(out, "{}", safe(name))?;
    writeln!(out, "  {}", setting(own))?;
    let (blocks, parts) = (counted(cost.blocks, "block"), counted(cost.parts, "part"));
    writeln!(out, "  {blocks}, {parts} measured by themselves, a first state of {}", grouped(cost.state))?;
    writeln!(
        out,
        "  {} products with Jacobians, {} floating-point operations",
        grouped(cost.products),
        short(cost.operations as f64)
    )?;
    let which = if cost.is_resident { "all parameters" } else { "parameters of one block at a time" };
    writeln!(
        out,
        "  memory {}: {which} {}, activations {}, vectors {}",
        bytes(cost.bytes()),
        bytes(cost.parameter_bytes),
        bytes(cost.activation_bytes),
        bytes(cost.vector_bytes)
    )
}
