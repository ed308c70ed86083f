//! In which binades the weights lie, and which narrower formats hold them.

use std::collections::BTreeMap;

use plotters::element::{Rectangle, Text};
use plotters::style::Color;
use plotters::style::text_anchor::HPos;

use super::canvas::{Area, Axes, Draw, Drawn, PANEL, anchored, panel};
use super::notes::{Named, Notes};
use super::palette::{AXIS, INK, KINDS};
use super::scale::Scale;
use crate::analysis::model::CheckpointAnalysis;

/// Height of the bar of one format.
const BAR: u32 = 42;

/// A format: its name, and the exponents of its smallest subnormal, its smallest normal and its largest number.
struct Limits(&'static str, [i32; 3]);

/// By IEEE 754 and the FP8 formats of Micikevicius et al. 2022.
const FORMATS: [Limits; 4] = [
    Limits("bf16", [-133, -126, 127]),
    Limits("fp16", [-24, -14, 15]),
    Limits("fp8 e5m2", [-16, -14, 15]),
    Limits("fp8 e4m3", [-9, -6, 8]),
];

/// The binades that are always shown: those of fp16 and the formats within it.
const SHOWN: [i32; 2] = [-27, 17];

/// How many weights lie in each binade.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Exponents {
    counts: BTreeMap<i32, u64>,
}

impl Exponents {
    /// Of all parameters; nothing where none was counted, or all are zero.
    pub fn of(checkpoint: &CheckpointAnalysis) -> Option<Self> {
        let mut counts: BTreeMap<i32, u64> = BTreeMap::new();
        for tensor in checkpoint.tensors.iter().filter(|tensor| tensor.is_parameter()) {
            let found = tensor.statistics.value().and_then(|statistics| statistics.exponents.value());
            for (index, count) in found.iter().flat_map(|one| one.counts.iter().enumerate()) {
                let binade = found.map_or(0, |one| one.lowest).saturating_add(index as i32);
                let sum = counts.entry(binade).or_default();
                *sum = sum.saturating_add(*count);
            }
        }
        counts.retain(|_, count| *count > 0);
        (!counts.is_empty()).then_some(Self { counts })
    }

    fn binades(&self) -> Scale {
        let lowest = self.counts.keys().next().map_or(SHOWN[0], |one| SHOWN[0].min(one.saturating_sub(1)));
        let highest =
            self.counts.keys().next_back().map_or(SHOWN[1], |one| SHOWN[1].max(one.saturating_add(2)));
        Scale::whole(f64::from(lowest), f64::from(highest))
    }
}

impl Draw for Exponents {
    fn height(&self) -> u32 {
        PANEL + FORMATS.len() as u32 * BAR
    }

    fn draw(&self, area: &Area<'_>, notes: &Notes) -> Drawn {
        let (head, body) = area.split_vertically(FORMATS.len() as u32 * BAR);
        let total = self.counts.values().fold(0, |sum: u64, count| sum.saturating_add(*count)) as f64;
        let shares: Vec<(f64, f64)> =
            self.counts.iter().map(|(binade, count)| (f64::from(*binade), *count as f64 / total)).collect();
        let x = self.binades();
        let y = Scale::positive(shares.iter().map(|share| share.1));
        let axes = Axes { x: &x, y: &y, x_name: "power of two below |w|", y_name: "share of weights" };
        let mut chart = panel(&body, &axes)?;
        let bars = shares.iter().map(|&(binade, share)| {
            Rectangle::new([(binade + 0.1, y.low), (binade + 0.9, share)], KINDS[0].filled())
        });
        chart.draw_series(bars)?;
        let place = |first: f64, last: f64| format!("|w| from 2^{} to 2^{}", first - 0.5, last + 0.5);
        let middles: Vec<(f64, f64)> = shares.iter().map(|share| (share.0 + 0.5, share.1)).collect();
        notes.columns(&chart, &axes, &[Named { name: "share of weights", values: &middles }], place);
        let ends = [x.low, x.high].map(|end| chart.backend_coord(&(end, y.low)).0 - area.get_base_pixel().0);
        let at = |binade: i32| {
            ends[0] + (x.share(f64::from(binade)) * f64::from(ends[1] - ends[0])).round() as i32
        };
        for (row, Limits(name, [subnormal, normal, largest])) in FORMATS.iter().enumerate() {
            let top = row as i32 * BAR as i32;
            let (low, high) = (top + 6, top + BAR as i32 - 6);
            let middle = i32::midpoint(low, high);
            head.draw(&Rectangle::new(
                [(at(*subnormal), middle - 4), (at(*normal), middle + 4)],
                AXIS.filled(),
            ))?;
            head.draw(&Rectangle::new([(at(*normal), low), (at(largest + 1), high)], KINDS[2].filled()))?;
            let right = at(largest + 1);
            // The name stands where there is room: behind the bar, before it, or before the axis.
            let left = at(*subnormal);
            if right + 180 < ends[1] + 30 {
                head.draw(&Text::new(*name, (right + 12, middle), anchored(INK, HPos::Left)))?;
            } else if left - 180 > ends[0] {
                head.draw(&Text::new(*name, (left - 12, middle), anchored(INK, HPos::Right)))?;
            } else {
                head.draw(&Text::new(*name, (ends[0] - 12, middle), anchored(INK, HPos::Right)))?;
            }
        }
        Ok(())
    }
}
