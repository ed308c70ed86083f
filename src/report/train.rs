//! What came out of a training, for people: the runs side by side.

use std::fmt::Write as _;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use super::text::safe;
use crate::number::{counted, short};
use crate::train::{Clip, Precision, Trained};

/// Runs side by side, one a column.
pub fn train_page(runs: &[Trained]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    let cells = |name: &str, of: &dyn Fn(&Trained) -> String| {
        std::iter::once(name.to_owned()).chain(runs.iter().map(of)).collect::<Vec<String>>()
    };
    let pair = |pair: Option<(f64, f64)>| match pair {
        Some((loss, accuracy)) => (short(loss), format!("{:.2} %", 100.0 * accuracy)),
        None => ("–".to_owned(), "–".to_owned()),
    };
    table.add_row(cells("", &|run| run.name.clone()));
    table.add_row(cells("learning rate", &|run| short(run.config.arm.lr)));
    table.add_row(cells("loss", &|run| run.config.arm.loss.to_string()));
    table.add_row(cells("clipping", &|run| clipping(run.config.arm.clip)));
    if runs.iter().any(|run| run.config.arm.dtype != Precision::F32) {
        table.add_row(cells("parameters", &|run| {
            match (run.config.arm.dtype, run.config.arm.master) {
                (Precision::F32, _) => "f32",
                (Precision::Bf16, true) => "bf16, masters in f32",
                (Precision::Bf16, false) => "bf16",
            }
            .to_owned()
        }));
    }
    table.add_row(cells("steps", &|run| run.steps.to_string()));
    table.add_row(cells("training loss", &|run| run.record.training_loss.map_or("–".to_owned(), short)));
    table.add_row(cells("validation loss", &|run| pair(run.record.validation).0));
    table.add_row(cells("validation accuracy", &|run| pair(run.record.validation).1));
    table.add_row(cells("test accuracy", &|run| pair(run.record.test).1));
    table.add_row(cells("largest gradient norm", &|run| short(run.record.largest_grad_norm)));
    table.add_row(cells("steps clipped", &|run| run.record.clipped.to_string()));
    table.add_row(cells("steps not finite", &|run| run.record.non_finite.to_string()));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut page = String::new();
    for line in table.lines() {
        page.push_str(line.trim_end());
        page.push('\n');
    }
    for run in runs {
        let place = safe(&run.directory.display().to_string());
        let how = if run.finished {
            String::new()
        } else {
            format!(", stopped after {}; the same command goes on", counted(run.steps, "step"))
        };
        let _ = writeln!(page, "{}: {place}{how}", run.name);
    }
    page
}

/// What gradients are clipped by, in words.
pub fn clipping(clip: Option<Clip>) -> String {
    match clip {
        None => "none".to_owned(),
        Some(Clip::Method(method)) => method.to_string(),
        Some(clip @ Clip::Recommended) => format!("recommended: {}", clip.method()),
    }
}
