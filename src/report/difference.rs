//! The report on two checkpoints: the tensors that changed, most first, and what only one of them has.

use std::fmt::Write;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde::{Deserialize, Serialize};

use super::Style;
use super::text::safe;
use crate::analysis::model::{DType, Difference, Measured, TensorDifference};
use crate::number::{counted, grouped, share, short};
use crate::robust::largest_first;
use crate::rules::Severity;

/// Rows of a folded table.
const FOLDED_ROWS: usize = 24;

/// Everything there is to say about two checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DifferenceReport {
    /// What differs.
    #[serde(flatten)]
    pub difference: Difference,
    /// Tensors that differ although they must not, as replicas or beyond the rounding of a master copy.
    pub forbidden: Vec<String>,
    /// One line.
    pub verdict: String,
}

impl DifferenceReport {
    /// Puts it together. `replicas` must be equal bit for bit; a `master` up to the rounding of the narrower copy.
    pub fn new(difference: Difference, replicas: bool, master: bool) -> Self {
        let differs = |tensor: &&TensorDifference| {
            (replicas && tensor.changed > 0) || (master && exceeds_rounding(tensor))
        };
        let forbidden: Vec<String> =
            difference.tensors.iter().filter(differs).map(|tensor| tensor.name.clone()).collect();
        let changed = difference.tensors.iter().filter(|tensor| tensor.changed > 0).count();
        let gained = |tensor: &&TensorDifference| gained_non_finite(tensor);
        let mut verdict =
            format!("{changed} of {} changed", counted(difference.tensors.len() as u64, "tensor"));
        for (count, what) in [
            (difference.tensors.iter().filter(gained).count(), "with more NaN or infinity than before"),
            (difference.missing.len(), "missing"),
            (difference.new.len(), "new"),
            (difference.reshaped.len(), "of another shape"),
            (difference.not_compared.len(), "not compared"),
        ] {
            if count > 0 {
                write!(verdict, ", {count} {what}").expect("writing to a string does not fail");
            }
        }
        if let Some(first) = forbidden.first() {
            let differ = if forbidden.len() == 1 { "differs" } else { "differ" };
            let what = if replicas { "between the replicas" } else { "from the master beyond its rounding" };
            let tensors = counted(forbidden.len() as u64, "tensor");
            verdict = format!("{tensors} {differ} {what}, {first} first; {verdict}");
        }
        Self { difference, forbidden, verdict }
    }

    /// Critical where something differs that must not.
    pub fn worst(&self) -> Option<Severity> {
        (!self.forbidden.is_empty()).then_some(Severity::Critical)
    }
}

/// Whether the second has more elements that are NaN or infinite than the first.
fn gained_non_finite(tensor: &TensorDifference) -> bool {
    tensor.non_finite_each.is_some_and(|[before, after]| after > before)
}

/// Whether the largest difference is more than half a spacing of the narrower dtype at the largest value it can be at.
fn exceeds_rounding(tensor: &TensorDifference) -> bool {
    if tensor.non_finite_each.is_some_and(|each| each.iter().any(|count| *count != tensor.non_finite)) {
        // No rounding makes a finite number NaN, nor the other way round.
        return true;
    }
    let unit = tensor.dtypes.iter().map(|dtype| roundoff(*dtype)).fold(0.0, f64::max);
    // ‖Δ‖ ≤ u‖w‖ for a copy that was rounded element by element.
    tensor.relative_difference.value().is_some_and(|&difference| difference > unit)
}

/// Nothing for f64, which the elements were compared in.
fn roundoff(dtype: DType) -> f64 {
    dtype.unit_roundoff().filter(|_| dtype != DType::F64).unwrap_or(0.0)
}

/// The report as text.
pub fn difference_page(report: &DifferenceReport, style: Style) -> String {
    let mut text = String::new();
    write(&mut text, report, style).expect("writing to a string does not fail");
    text
}

fn write(text: &mut String, report: &DifferenceReport, style: Style) -> std::fmt::Result {
    let found = &report.difference;
    let step = |step: Option<u64>| step.map_or_else(String::new, |step| format!(" (step {})", grouped(step)));
    writeln!(text, "{}{}", safe(&found.before), step(found.steps[0]))?;
    writeln!(text, "{}{}", safe(&found.after), step(found.steps[1]))?;
    let mut changed = by_change(&found.tensors);
    changed.retain(|tensor| tensor.changed > 0);
    let shown = if style.all { changed.len() } else { changed.len().min(FOLDED_ROWS) };
    if shown > 0 {
        writeln!(text, "\n{}", table(&changed[..shown]))?;
    }
    if changed.len() > shown {
        writeln!(text, "  … {} more: --all", changed.len() - shown)?;
    }
    let spectra = spectra(&changed[..shown]);
    if spectra.row_count() > 0 {
        writeln!(
            text,
            "\nspectrum of the change, against the leading singular vectors u, v of what changed\n{spectra}"
        )?;
    }
    for tensor in found.tensors.iter().filter(|tensor| tensor.non_finite > 0) {
        writeln!(text, "{}", non_finite(tensor))?;
    }
    let equal = found.tensors.len() - changed.len();
    writeln!(text, "\nbit-equal: {equal} of {}", counted(found.tensors.len() as u64, "tensor"))?;
    for (title, names) in [("missing", &found.missing), ("new", &found.new)] {
        for name in names {
            writeln!(text, "{title}: {}", safe(name))?;
        }
    }
    for tensor in &found.reshaped {
        writeln!(
            text,
            "reshaped: {} from {:?} to {:?}",
            safe(&tensor.name),
            tensor.shapes[0],
            tensor.shapes[1]
        )?;
    }
    for (name, reason) in &found.not_compared {
        writeln!(text, "not compared: {}: {}", safe(name), safe(reason))?;
    }
    writeln!(text, "verdict: {}", safe(&report.verdict))
}

/// What tensors are sorted by; those that gained NaN or infinity, and those without a ratio, first.
fn relative(tensor: &TensorDifference) -> f64 {
    if gained_non_finite(tensor) {
        return f64::INFINITY;
    }
    if tensor.changed == 0 {
        return -1.0;
    }
    tensor.relative_difference.value().copied().unwrap_or(f64::INFINITY)
}

/// How many elements of a tensor are no numbers, and what that makes of its row.
fn non_finite(tensor: &TensorDifference) -> String {
    let counts = tensor.non_finite_each.map_or_else(
        || format!("{} in one or the other", grouped(tensor.non_finite)),
        |[before, after]| format!("{} before, {} after", grouped(before), grouped(after)),
    );
    format!(
        "NaN or infinite: {}: {counts}, of {} elements; its other numbers are over the rest",
        safe(&tensor.name),
        grouped(tensor.elements)
    )
}

fn table(tensors: &[&TensorDifference]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["tensor", "|Δ|", "|Δ|/|w|", "cosine", "max |Δ|", "changed", "dtype"]);
    for column in table.column_iter_mut().skip(1).take(5) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for tensor in tensors {
        table.add_row(cells(tensor));
    }
    table
}

/// What the table says of one tensor.
pub(super) fn cells(tensor: &TensorDifference) -> [String; 7] {
    let [before, after] = tensor.dtypes;
    let dtype = if before == after { after.to_string() } else { format!("{before} → {after}") };
    [
        safe(&tensor.name),
        number(&tensor.difference),
        number(&tensor.relative_difference),
        number(&tensor.cosine),
        number(&tensor.largest_difference),
        share(tensor.changed, tensor.elements),
        dtype,
    ]
}

/// Tensors, those that moved farthest first.
pub(super) fn by_change(tensors: &[TensorDifference]) -> Vec<&TensorDifference> {
    let order = largest_first(&tensors.iter().map(relative).collect::<Vec<f64>>());
    order.into_iter().map(|index| &tensors[index]).collect()
}

/// σ₁ of each change, how it stands to the matrix, along how many directions it goes, and whether along the largest one.
fn spectra(tensors: &[&TensorDifference]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["tensor", "σ₁(Δ)", "/σ₁(w)", "stable rank", "along u", "along v", "growth"]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for cells in tensors.iter().filter_map(|tensor| spectrum_cells(tensor)) {
        table.add_row(cells);
    }
    table
}

/// What the table of spectra says of one change; nothing where its spectrum was not measured.
pub(super) fn spectrum_cells(tensor: &TensorDifference) -> Option<[String; 7]> {
    let spectrum = tensor.spectrum.value()?;
    let side = |side: usize| number(&spectrum.alignment.clone().map(|cosines| cosines[side]));
    Some([
        safe(&tensor.name),
        short(spectrum.spectral_norm.value),
        number(&spectrum.relative_spectral_norm),
        short(spectrum.stable_rank),
        side(0),
        side(1),
        number(&spectrum.growth),
    ])
}

fn number(value: &Measured<f64>) -> String {
    value.value().map_or_else(|| "–".to_owned(), |value| short(*value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{Layer, Role, Section};

    fn tensor(relative: f64, dtypes: [DType; 2]) -> TensorDifference {
        TensorDifference {
            name: "fc.weight".to_owned(),
            canonical_name: "fc.weight".to_owned(),
            section: Section::Model,
            layer: Layer { path: "fc".to_owned(), index: None, order: 0 },
            role: Role::Linear,
            elements: 100,
            dtypes,
            difference: Measured::Value(relative),
            relative_difference: Measured::Value(relative),
            cosine: Measured::Value(1.0),
            largest_difference: Measured::Value(relative),
            changed: if relative > 0.0 { 7 } else { 0 },
            non_finite: 0,
            non_finite_each: Some([0; 2]),
            spectrum: Measured::not("needs --measure spectra"),
        }
    }

    fn of(tensor: TensorDifference) -> Difference {
        Difference {
            before: "a".to_owned(),
            after: "b".to_owned(),
            steps: [Some(4000), None],
            tensors: vec![tensor],
            missing: Vec::new(),
            new: vec!["head.weight".to_owned()],
            reshaped: Vec::new(),
            not_compared: Vec::new(),
        }
    }

    #[test]
    fn what_a_difference_means_depends_on_what_the_two_are() {
        let moved = || of(tensor(1e-3, [DType::F32, DType::Bf16]));
        assert_eq!(DifferenceReport::new(moved(), false, false).worst(), None);
        assert_eq!(DifferenceReport::new(moved(), true, false).worst(), Some(Severity::Critical));
        assert_eq!(DifferenceReport::new(moved(), false, true).worst(), None, "rounding to bf16");
        let far = of(tensor(1e-2, [DType::F32, DType::Bf16]));
        assert_eq!(DifferenceReport::new(far, false, true).worst(), Some(Severity::Critical));
    }

    #[test]
    fn the_page_names_what_changed_and_what_is_new() {
        let report = DifferenceReport::new(of(tensor(1e-3, [DType::F32; 2])), false, false);
        let page = difference_page(&report, Style { color: false, all: false, width: None });
        assert!(page.contains("fc.weight") && page.contains("new: head.weight"), "{page}");
        assert!(page.ends_with("verdict: 1 of 1 tensor changed, 1 new\n"), "{page}");
    }
}
