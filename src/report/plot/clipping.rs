//! How the norms of a run's gradients are distributed, and where a threshold cuts them.

use plotters::element::Rectangle;
use plotters::style::Color;

use super::canvas::{Area, Axes, Draw, Drawn, Entry, Mark, PANEL, legend, legend_height, panel, vertical};
use super::notes::{Named, Notes};
use super::palette::{HEALTHY, INK, KINDS, TROUBLE};
use super::scale::Scale;
use crate::clip::{Recommendation, Series};
use crate::number::short;

/// Bars of the histogram.
const BARS: usize = 60;

/// Norms, and what they are held against.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Clipping {
    norms: Vec<f64>,
    threshold: Option<f64>,
    interval: Option<[f64; 2]>,
    used: Option<f64>,
    median: Option<f64>,
}

impl Clipping {
    /// Nothing where no norm is known.
    pub fn of(series: &Series, advice: &Recommendation) -> Option<Self> {
        let norms = series.points.iter().map(|point| point.norm);
        let norms: Vec<f64> = norms.filter(|norm| norm.is_finite() && *norm > 0.0).collect();
        (!norms.is_empty()).then(|| Self {
            norms,
            threshold: advice.threshold,
            interval: advice.low.zip(advice.high).map(|(low, high)| [low, high]),
            used: advice.used.filter(|used| *used > 0.0),
            median: advice.median,
        })
    }

    fn marks(&self) -> [(Option<f64>, &'static str, plotters::style::RGBColor); 3] {
        [
            (self.threshold, "recommended", HEALTHY),
            (self.used, "used by the run", TROUBLE),
            (self.median, "median", INK),
        ]
    }

    fn entries(&self) -> Vec<Entry> {
        let marks = self.marks().into_iter().filter_map(|(value, name, color)| {
            Some(Entry::new(format!("{name} {}", short(value?)), color, Mark::Dashes))
        });
        [Entry::new("steps", KINDS[0], Mark::Square)].into_iter().chain(marks).collect()
    }
}

impl Draw for Clipping {
    fn height(&self) -> u32 {
        legend_height(&self.entries()) + PANEL
    }

    fn draw(&self, area: &Area<'_>, notes: &Notes) -> Drawn {
        let body = legend(&self.entries(), area)?;
        let lines = self.marks().into_iter().filter_map(|(value, _, _)| value);
        let x = Scale::positive(self.norms.iter().copied().chain(lines));
        let mut counts = [0u32; BARS];
        for norm in &self.norms {
            counts[((x.share(*norm) * BARS as f64) as usize).min(BARS - 1)] += 1;
        }
        let most = counts.iter().max().copied().unwrap_or(1);
        let y = if most > 50 {
            Scale::log(0.9, f64::from(most))
        } else {
            Scale::whole(0.0, f64::from(most) * 1.1)
        };
        let axes = Axes { x: &x, y: &y, x_name: "gradient norm", y_name: "steps" };
        let mut chart = panel(&body, &axes)?;
        let edge = |bar: usize| {
            let share = bar as f64 / BARS as f64;
            if x.is_log { x.low * (x.high / x.low).powf(share) } else { x.low + share * (x.high - x.low) }
        };
        if let Some([low, high]) = self.interval {
            let band = Rectangle::new([(low, y.low), (high, y.high)], HEALTHY.mix(0.15).filled());
            chart.draw_series([band])?;
        }
        let bars = counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(bar, count)| {
            Rectangle::new([(edge(bar), y.low), (edge(bar + 1), f64::from(*count))], KINDS[0].filled())
        });
        chart.draw_series(bars)?;
        for (value, _, color) in self.marks() {
            if let Some(value) = value {
                vertical(&mut chart, &axes, value, color)?;
            }
        }
        let middles = counts.iter().enumerate().filter(|(_, count)| **count > 0);
        let middles =
            middles.map(|(bar, count)| (f64::midpoint(edge(bar), edge(bar + 1)), f64::from(*count)));
        let bar = |norm: f64| ((x.share(norm) * BARS as f64) as usize).min(BARS - 1);
        let place = |first: f64, last: f64| {
            format!("norms {} to {}", short(edge(bar(first))), short(edge(bar(last) + 1)))
        };
        let values: Vec<(f64, f64)> = middles.collect();
        notes.columns(&chart, &axes, &[Named { name: "steps", values: &values }], place);
        Ok(())
    }
}
