//! By how much each block, and all of them up to a depth, multiply small changes: against the limits of FP801, FP802 and FP803.

use std::collections::BTreeMap;

use plotters::style::RGBColor;

use super::canvas::{
    Area, Axes, Draw, Drawn, Entry, Mark, PANEL, band, horizontal, legend, legend_height, panel, series,
};
use super::notes::{Named, Notes, counted};
use super::palette::{INK, KINDS, TROUBLE};
use super::scale::Scale;
use crate::analysis::model::{Degenerate, DepthGain, JacobianAnalysis, Measured, PartKind, Spread};
use crate::number::short;
use crate::report::text::safe;
use crate::rules::{outlier_above, warned_above};

/// Names of the upright axes.
const OF_PARTS: &str = "σ₁ of each part";
const OF_DEPTHS: &str = "growth along depth";

/// The parts of a network that are drawn.
const PARTS: [(PartKind, &str, RGBColor); 4] = [
    (PartKind::Block, "block", KINDS[0]),
    (PartKind::Attention, "its attention", KINDS[1]),
    (PartKind::FeedForward, "its feed-forward", KINDS[2]),
    (PartKind::Branch, "its branch", KINDS[6]),
];

/// A quantity by block: its least, its mean and its most over the draws; not a number where it is not finite.
#[derive(Debug, Clone, PartialEq)]
struct Curve {
    name: &'static str,
    color: RGBColor,
    values: Vec<(f64, [f64; 3])>,
}

impl Curve {
    fn new(
        name: &'static str,
        color: RGBColor,
        values: impl IntoIterator<Item = (f64, [f64; 3])>,
    ) -> Option<Self> {
        let values: Vec<(f64, [f64; 3])> = values.into_iter().collect();
        // A logarithm has no place for 0: a curve of nothing else is none.
        let is_drawn = values.iter().any(|(_, [_, mean, _])| *mean > 0.0 || !mean.is_finite());
        is_drawn.then_some(Self { name, color, values })
    }

    fn means(&self) -> Vec<(f64, f64)> {
        self.values.iter().map(|(block, [_, mean, _])| (*block, *mean)).collect()
    }
}

/// Curves that share an axis, with the limits that they are held against.
#[derive(Debug, Clone, PartialEq)]
struct Panel {
    name: &'static str,
    curves: Vec<Curve>,
    limits: Vec<(String, f64, RGBColor)>,
}

/// What a network does to small changes, block by block and along depth.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Gains {
    panels: Vec<Panel>,
    /// Names of blocks, by their numbers.
    blocks: BTreeMap<u64, String>,
}

impl Gains {
    /// Nothing where neither a block nor a depth was measured; `replaced` are the limits of the policy.
    pub fn of(jacobian: &JacobianAnalysis, replaced: &BTreeMap<String, f64>) -> Option<Self> {
        let depths = jacobian.depths.value().map_or(&[][..], Vec::as_slice);
        let panels = [of_parts(jacobian, replaced), of_depths(jacobian, depths, replaced)];
        let panels: Vec<Panel> = panels.into_iter().filter(|panel| !panel.curves.is_empty()).collect();
        let parts = jacobian.parts.iter().filter(|part| part.kind == PartKind::Block);
        let named = parts.filter_map(|part| Some((part.block?, safe(&part.name))));
        let blocks = depths.iter().map(|depth| (depth.block, safe(&depth.name))).chain(named).collect();
        (!panels.is_empty()).then_some(Self { panels, blocks })
    }

    fn entries(&self) -> Vec<Entry> {
        let of_panel = |panel: &Panel| {
            let curves = panel.curves.iter().map(|one| Entry::new(one.name, one.color, Mark::Line));
            let limits = panel.limits.iter().map(|(name, _, color)| Entry::new(name, *color, Mark::Dashes));
            curves.chain(limits).collect::<Vec<_>>()
        };
        let mut curves = self.panels.iter().flat_map(|panel| &panel.curves).flat_map(|curve| &curve.values);
        let broken = curves.any(|(_, [_, mean, _])| !mean.is_finite());
        let broken = broken.then(|| Entry::new("not finite", TROUBLE, Mark::Cross));
        self.panels.iter().flat_map(of_panel).chain(broken).collect()
    }
}

/// σ₁ of blocks and their branches; above the limit FP802 finds a block.
fn of_parts(jacobian: &JacobianAnalysis, replaced: &BTreeMap<String, f64>) -> Panel {
    let curve = |(kind, name, color): (PartKind, &'static str, RGBColor)| {
        let own = jacobian.parts.iter().filter(|part| part.kind == kind);
        let values = own.filter_map(|part| Some((part.block? as f64, ends(&part.spectral_norm)?)));
        Curve::new(name, color, values)
    };
    let limit = |name| super::limit("FP802", name, replaced);
    let limit =
        limit("ratio").zip(limit("gain")).and_then(|(ratio, gain)| outlier_above(jacobian, ratio, gain));
    Panel {
        name: OF_PARTS,
        curves: PARTS.into_iter().filter_map(curve).collect(),
        limits: limit.map(|limit| told("FP802", limit, KINDS[0])).into_iter().collect(),
    }
}

/// Gains from the start and of gradients; above the limits FP803 looks at the last one, and FP801 at σ₁ end to end.
fn of_depths(jacobian: &JacobianAnalysis, depths: &[DepthGain], replaced: &BTreeMap<String, f64>) -> Panel {
    let by_depth = |name, color, pick: fn(&DepthGain) -> Option<[f64; 3]>| {
        Curve::new(name, color, depths.iter().filter_map(|depth| Some((depth.block as f64, pick(depth)?))))
    };
    let last = depths.last().map(|depth| depth.block as f64);
    let whole = jacobian.end_to_end.value().and_then(|whole| ends(&whole.spectral_norm));
    let limit = |name| super::limit("FP801", name, replaced);
    let warned = limit("ratio")
        .zip(limit("gain-per-step"))
        .and_then(|(ratio, gain_per_step)| warned_above(jacobian, ratio, gain_per_step));
    let gain = super::limit("FP803", "gain", replaced).filter(|_| !depths.is_empty());
    let curves = [
        by_depth("gain from the start", KINDS[3], |depth| ends(&depth.from_input)),
        by_depth("gradient gain to before it", KINDS[4], |depth| ends(&depth.gradient)),
        by_depth("σ₁ from the start", KINDS[5], |depth| ends(&depth.spectral_norm)),
        Curve::new("σ₁ end to end", INK, last.zip(whole)),
    ];
    let limits =
        [gain.map(|gain| told("FP803", gain, KINDS[3])), warned.map(|limit| told("FP801", limit, INK))];
    let limits = limits.into_iter().flatten().filter(|(_, limit, _)| limit.is_finite() && *limit > 0.0);
    Panel { name: OF_DEPTHS, curves: curves.into_iter().flatten().collect(), limits: limits.collect() }
}

fn told(rule: &str, limit: f64, color: RGBColor) -> (String, f64, RGBColor) {
    (format!("{rule} above {}", short(limit)), limit, color)
}

/// The ends and the mean; what is not finite has none, what was not measured has no place.
fn ends(spread: &Measured<Spread>) -> Option<[f64; 3]> {
    match spread {
        Measured::Value(spread) => Some([spread.least, spread.mean, spread.most]),
        Measured::Degenerate(Degenerate::NoFiniteElement | Degenerate::Overflow) => Some([f64::NAN; 3]),
        Measured::Degenerate(Degenerate::AllZero) => Some([0.0; 3]),
        Measured::NotMeasured(_) | Measured::Degenerate(_) => None,
    }
}

impl Draw for Gains {
    fn height(&self) -> u32 {
        legend_height(&self.entries()) + self.panels.len() as u32 * (PANEL - 90) + 90
    }

    fn draw(&self, area: &Area<'_>, notes: &Notes) -> Drawn {
        let mut rest = legend(&self.entries(), area)?;
        let blocks = self.panels.iter().flat_map(|panel| &panel.curves).flat_map(|curve| &curve.values);
        let (first, last) =
            blocks.fold((f64::INFINITY, 0.0f64), |(low, high), (block, _)| (block.min(low), block.max(high)));
        let x = Scale::whole(first - 0.5, last + 0.5);
        for (index, own) in self.panels.iter().enumerate() {
            let is_last = index + 1 == self.panels.len();
            let (this, next) = rest.split_vertically(if is_last { PANEL } else { PANEL - 90 });
            let values = own.curves.iter().flat_map(|curve| &curve.values).flat_map(|(_, ends)| *ends);
            let y = Scale::positive(values.chain(own.limits.iter().map(|limit| limit.1)));
            let x_name = if is_last { "block, in forward order" } else { "" };
            let axes = Axes { x: &x, y: &y, x_name, y_name: own.name };
            let mut chart = panel(&this, &axes)?;
            for (_, limit, color) in &own.limits {
                horizontal(&mut chart, &axes, *limit, *color)?;
            }
            for curve in &own.curves {
                let ends: Vec<_> =
                    curve.values.iter().map(|(block, [low, _, high])| (*block, [*low, *high])).collect();
                band(&mut chart, &axes, &ends, curve.color)?;
            }
            let means: Vec<Vec<(f64, f64)>> = own.curves.iter().map(Curve::means).collect();
            for (curve, means) in own.curves.iter().zip(&means) {
                let drawn: Vec<(f64, f64)> = means.iter().copied().filter(|one| one.1 != 0.0).collect();
                series(&this, &mut chart, &axes, &drawn, curve.color)?;
            }
            let named = own.curves.iter().zip(&means).map(|(one, values)| Named { name: one.name, values });
            notes.columns(&chart, &axes, &named.collect::<Vec<_>>(), |first, last| self.place(first, last));
            rest = next;
        }
        Ok(())
    }
}

impl Gains {
    /// The name of a block, or the numbers of several.
    fn place(&self, first: f64, last: f64) -> String {
        let name = self.blocks.get(&(first as u64)).filter(|_| first == last);
        name.cloned().unwrap_or_else(|| counted("block", first, last))
    }
}
