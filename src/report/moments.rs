//! The table of optimizer state for people: how large gradients have been, how much of them is signal, and what the next
//! step will change.

use std::fmt::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use super::text::{safe, safe_sentence};
use crate::analysis::model::{Measured, OptimizerAnalysis, OptimizerSummary, ParameterOptimizer};
use crate::number::{counted, grouped, short};
use crate::robust::largest_first;

/// Rows of a folded table.
const FOLDED_ROWS: usize = 12;

/// Writes what is known of the optimizers; every parameter, where `all`.
pub(super) fn write(state: &OptimizerAnalysis, all: bool, out: &mut String) -> fmt::Result {
    writeln!(out, "optimizer state")?;
    for optimizer in &state.optimizers {
        writeln!(out, "  {}", described(optimizer))?;
    }
    if let Measured::Value(spike) = &state.spike {
        writeln!(out, "  a spike about {:.0} steps ago in {}", spike.age, safe(&spike.name))?;
    }
    let shown = shown(state, all);
    if shown.is_empty() {
        return writeln!(out);
    }
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["tensor", "steps", "RMS gradient", "signal", "update RMS", "update/weight"]);
    for index in 1..6 {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for &index in &shown {
        table.add_row(row(&state.parameters[index]));
    }
    for line in table.lines() {
        writeln!(out, "  {}", line.trim_end())?;
    }
    let hidden = state.parameters.len() - shown.len();
    if hidden > 0 {
        writeln!(out, "  … {} more (--all shows every parameter)", grouped(hidden as u64))?;
    }
    writeln!(out)
}

/// One optimizer in a line.
pub(super) fn described(optimizer: &OptimizerSummary) -> String {
    let mut line = format!("{}: {}", safe(&optimizer.place), super::terminal::name_of(&optimizer.algorithm));
    if let Measured::Value(norm) = optimizer.gradient_norm {
        line = format!("{line}, gradient norm {}", short(norm));
    }
    if optimizer.mapping.refused > 0 {
        let reason = optimizer.mapping.reason.as_deref().unwrap_or("the reason is not known");
        let count = counted(optimizer.mapping.refused, "parameter");
        line = format!("{line}; {count} without a name: {}", safe_sentence(reason));
    }
    line
}

/// The rows of the table, in the order of the state: those whose next step is largest.
fn shown(state: &OptimizerAnalysis, all: bool) -> Vec<usize> {
    if all || state.parameters.len() <= FOLDED_ROWS {
        return (0..state.parameters.len()).collect();
    }
    let size = |parameter: &ParameterOptimizer| parameter.update_ratio.value().copied().unwrap_or(-1.0);
    let mut order = largest_first(&state.parameters.iter().map(size).collect::<Vec<f64>>());
    order.truncate(FOLDED_ROWS);
    order.sort_unstable();
    order
}

/// What the table says of one parameter.
pub(super) fn row(parameter: &ParameterOptimizer) -> Vec<String> {
    let number =
        |quantity: &Measured<f64>| quantity.value().map_or_else(|| "–".to_owned(), |&value| short(value));
    vec![
        safe(&parameter.name),
        parameter.step.map_or_else(|| "–".to_owned(), |step| format!("{step:.0}")),
        number(&parameter.gradient_rms),
        number(&parameter.signal_share),
        number(&parameter.update_rms),
        number(&parameter.update_ratio),
    ]
}
