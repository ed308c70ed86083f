//! The singular values of one map by rank, with the largest that noise of its size has (Marchenko and Pastur 1967).

use super::canvas::{
    Area, Axes, Draw, Drawn, Entry, Mark, PANEL, horizontal, legend, legend_height, panel, series,
};
use super::notes::{Named, Notes, counted};
use super::palette::{KINDS, TROUBLE};
use super::scale::Scale;
use crate::analysis::model::{Measured, Spectrum};
use crate::number::short;

/// Singular values, largest first.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Singular {
    /// Rank from 1, and value.
    values: Vec<(f64, f64)>,
    /// The edge of noise.
    edge: Option<f64>,
    /// Whether values between the largest and the smallest are an estimate.
    is_estimate: bool,
}

impl Singular {
    /// All values, or quantiles of them, or the largest: what was measured. Nothing where all are zero.
    pub fn of(spectrum: &Spectrum) -> Option<Self> {
        let ranks = spectrum.rows.min(spectrum.columns).max(1) as f64;
        let by_index = |values: &[f64]| -> Vec<(f64, f64)> {
            values.iter().enumerate().map(|(index, value)| (index as f64 + 1.0, *value)).collect()
        };
        let (mut values, is_estimate) = match (&spectrum.values, &spectrum.density) {
            (Measured::Value(values), _) if !values.is_empty() => (by_index(values), false),
            (_, Measured::Value(density)) if density.quantiles.len() > 1 => {
                let last = (density.quantiles.len() - 1) as f64;
                let place = |(index, value): (usize, &f64)| {
                    (1.0 + (1.0 - index as f64 / last) * (ranks - 1.0), *value)
                };
                let mut values = by_index(&spectrum.largest);
                let known = values.len() as f64;
                let below = density.quantiles.iter().enumerate().map(place).filter(|one| one.0 > known);
                values.extend(below.collect::<Vec<_>>().into_iter().rev());
                (values, !density.is_exact)
            }
            _ => (by_index(&spectrum.largest), false),
        };
        // What is 0 but for rounding has no place on a logarithmic axis.
        let floor = spectrum.spectral_norm.value * 1e-9;
        values.retain(|(_, value)| value.is_finite() && *value > floor);
        let edge = spectrum.marchenko_pastur.value().map(|fit| fit.edge).filter(|edge| *edge > floor);
        (!values.is_empty()).then_some(Self { values, edge, is_estimate })
    }

    fn entries(&self) -> Vec<Entry> {
        let name = if self.is_estimate { "singular values (estimate)" } else { "singular values" };
        let edge =
            self.edge.map(|edge| Entry::new(format!("edge of noise {}", short(edge)), TROUBLE, Mark::Dashes));
        [Entry::new(name, KINDS[0], Mark::Line)].into_iter().chain(edge).collect()
    }
}

impl Draw for Singular {
    fn height(&self) -> u32 {
        legend_height(&self.entries()) + PANEL
    }

    fn draw(&self, area: &Area<'_>, notes: &Notes) -> Drawn {
        let body = legend(&self.entries(), area)?;
        let x = Scale::of(self.values.iter().map(|value| value.0));
        let y = Scale::positive(self.values.iter().map(|value| value.1).chain(self.edge));
        let axes = Axes { x: &x, y: &y, x_name: "rank, largest first", y_name: "singular value" };
        let mut chart = panel(&body, &axes)?;
        if let Some(edge) = self.edge {
            horizontal(&mut chart, &axes, edge, TROUBLE)?;
        }
        series(&body, &mut chart, &axes, &self.values, KINDS[0])?;
        let place = |first: f64, last: f64| counted("rank", first.round(), last.round());
        let name = if self.is_estimate { "singular value (estimate)" } else { "singular value" };
        notes.columns(&chart, &axes, &[Named { name, values: &self.values }], place);
        Ok(())
    }
}
