//! Layers by intervals: how large the gradients of each were between two checkpoints, against what was usual for it.

use std::collections::BTreeMap;

use plotters::element::{PathElement, Rectangle, Text};
use plotters::style::Color;
use plotters::style::text_anchor::HPos;

use super::canvas::{
    Area, Axes, Chart, Draw, Drawn, Entry, Mark, PANEL, WIDTH, anchored, legend, legend_height, panel,
    vertical,
};
use super::notes::{Notes, counted};
use super::palette::{INK, LEVELS, TROUBLE};
use super::scale::Scale;
use crate::analysis::model::{Analysis, IntervalAnalysis, Measured, TensorInterval};
use crate::number::short;
use crate::report::text::safe;

/// Rows that can be told apart; more layers share one, which shows the largest of them.
const ROWS: usize = 48;

/// Columns that can be told apart; more intervals share one.
const COLUMNS: usize = 96;

/// Gradient over what was usual, at which one colour gives way to the next.
const RATIOS: [f64; 6] = [0.5, 0.8, 1.25, 2.0, 4.0, 10.0];

/// Names of the colours, first to last.
const NAMES: [&str; 7] = ["< ½", "½ to 0.8", "usual", "1.25×", "2×", "4×", "≥ 10×"];

/// A layer's row.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    /// First and last layer in forward order.
    layers: [usize; 2],
    /// The path of the first.
    name: String,
    /// One value an interval: over what is usual.
    cells: Vec<Option<f64>>,
}

/// Which layers stood out when.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct HeatMap {
    /// Intervals: first and last step of each.
    steps: Vec<[f64; 2]>,
    rows: Vec<Row>,
    layers: usize,
    /// Gradients, or, where no optimizer state tells them, changes of the weights.
    by_gradient: bool,
    onset: Option<f64>,
}

impl HeatMap {
    /// Nothing where no interval can be held against earlier ones.
    pub fn of(analysis: &Analysis, onset: Option<u64>) -> Option<Self> {
        let intervals = &analysis.intervals;
        let ratio_of = |quantity: &Measured<f64>| quantity.value().copied().filter(|ratio| ratio.is_finite());
        let by_gradient =
            intervals.iter().flat_map(|one| &one.tensors).any(|own| ratio_of(&own.gradient_ratio).is_some());
        let ratio = |own: &TensorInterval| {
            ratio_of(if by_gradient { &own.gradient_ratio } else { &own.change_ratio })
        };
        let mut layers: BTreeMap<(u64, &str), Vec<Option<f64>>> = BTreeMap::new();
        for (index, interval) in intervals.iter().enumerate() {
            for own in &interval.tensors {
                let cells = layers
                    .entry((own.layer.order, own.layer.path.as_str()))
                    .or_insert_with(|| vec![None; intervals.len()]);
                cells[index] = larger(cells[index], ratio(own));
            }
        }
        layers.retain(|_, cells| cells.iter().any(Option::is_some));
        if layers.is_empty() {
            return None;
        }
        let count = layers.len();
        let names: Vec<&str> = layers.keys().map(|(_, path)| *path).collect();
        let all: Vec<Vec<Option<f64>>> = layers.values().cloned().collect();
        let rows = grouped(count, ROWS).into_iter().map(|[first, last]| Row {
            layers: [first, last],
            name: safe(names[first]),
            cells: (0..intervals.len())
                .map(|column| all[first..=last].iter().map(|cells| cells[column]).fold(None, larger))
                .collect(),
        });
        let rows: Vec<Row> = rows.collect();
        let map = Self {
            steps: intervals.iter().map(steps).collect(),
            rows,
            layers: count,
            by_gradient,
            onset: onset.map(|step| step as f64),
        };
        Some(map.with_fewer_columns())
    }

    /// What a colour says.
    pub fn quantity(&self) -> &'static str {
        if self.by_gradient { "gradient" } else { "change" }
    }

    fn with_fewer_columns(mut self) -> Self {
        let groups = grouped(self.steps.len(), COLUMNS);
        for row in &mut self.rows {
            let merged = groups
                .iter()
                .map(|&[first, last]| row.cells[first..=last].iter().copied().fold(None, larger));
            row.cells = merged.collect();
        }
        self.steps =
            groups.iter().map(|&[first, last]| [self.steps[first][0], self.steps[last][1]]).collect();
        self
    }

    fn entries(&self) -> Vec<Entry> {
        let levels = NAMES.iter().zip(LEVELS).map(|(name, color)| Entry::new(*name, color, Mark::Square));
        let onset = self.onset.map(|_| Entry::new("onset", TROUBLE, Mark::Dashes));
        levels.chain(onset).collect()
    }
}

fn steps(interval: &IntervalAnalysis) -> [f64; 2] {
    [interval.from_step as f64, interval.to_step as f64]
}

fn larger(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    one.into_iter().chain(other).reduce(f64::max)
}

/// `count` things in at most `most` groups of neighbours: first and last of each.
fn grouped(count: usize, most: usize) -> Vec<[usize; 2]> {
    let size = count.div_ceil(most).max(1);
    (0..count).step_by(size).map(|first| [first, (first + size - 1).min(count - 1)]).collect()
}

fn level(ratio: f64) -> usize {
    RATIOS.iter().filter(|limit| ratio >= **limit).count()
}

impl Draw for HeatMap {
    fn height(&self) -> u32 {
        legend_height(&self.entries()) + PANEL + (self.rows.len() as u32 * 8).min(240)
    }

    fn draw(&self, area: &Area<'_>, notes: &Notes) -> Drawn {
        let body = legend(&self.entries(), area)?;
        let first = self.steps.first().map_or(0.0, |step| step[0]);
        let last = self.steps.last().map_or(1.0, |step| step[1]);
        let x = Scale::whole(first, self.onset.map_or(last, |onset| last.max(onset)));
        let y = Scale::whole(0.0, self.layers as f64);
        let axes = Axes { x: &x, y: &y, x_name: "optimizer step", y_name: "layers, first at the bottom" };
        let mut chart = panel(&body, &axes)?;
        for row in &self.rows {
            let [bottom, top] = [row.layers[0] as f64, row.layers[1] as f64 + 1.0];
            let mut column = 0;
            for run in row.cells.chunk_by(|one, other| one.map(level) == other.map(level)) {
                let (start, end) = (self.steps[column][0], self.steps[column + run.len() - 1][1]);
                column += run.len();
                if let Some(ratio) = run[0] {
                    let color = LEVELS[level(ratio)].filled();
                    chart.draw_series([Rectangle::new([(start, bottom), (end, top)], color)])?;
                }
            }
        }
        if self.rows.iter().all(|row| row.cells.first().is_some_and(Option::is_none)) {
            let width = x.share(self.steps[0][1]) * f64::from(WIDTH);
            if width > 260.0 {
                let middle = (f64::midpoint(self.steps[0][0], self.steps[0][1]), y.high / 2.0);
                chart.draw_series([Text::new("nothing usual yet", middle, anchored(INK, HPos::Center))])?;
            }
        }
        if let Some(onset) = self.onset {
            // On a light line the dashes are seen on the darkest cell too.
            let ends = [(onset, y.low), (onset, y.high)];
            chart.draw_series([PathElement::new(ends, LEVELS[2].stroke_width(8))])?;
            vertical(&mut chart, &axes, onset, TROUBLE)?;
        }
        self.note(&chart, &axes, notes);
        Ok(())
    }
}

impl HeatMap {
    /// The layer that stands out most in each interval.
    fn note(&self, chart: &Chart<'_, '_>, axes: &Axes<'_>, notes: &Notes) {
        let largest = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| Some((row, row.cells[column]?)));
            cells.max_by(|one, other| one.1.total_cmp(&other.1))
        };
        for (column, [from, to]) in self.steps.iter().enumerate() {
            let Some((row, ratio)) = largest(column) else { continue };
            let first = &row.name;
            let layers = if row.layers[0] == row.layers[1] {
                first.clone()
            } else {
                format!("{first} and the {} behind it", row.layers[1] - row.layers[0])
            };
            let steps = counted("step", *from, *to);
            notes.stretch(
                chart,
                axes,
                [*from, *to],
                format!("{steps}\nmost in {layers}: {} times", short(ratio)),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_in_groups_are_all_there_once_and_in_order() {
        for count in [1, 12, 47, 48, 49, 96, 2000] {
            let groups = grouped(count, ROWS);
            assert!(groups.len() <= ROWS);
            assert_eq!(groups[0][0], 0);
            assert!(groups.windows(2).all(|pair| pair[0][1] + 1 == pair[1][0]), "{count}");
            assert_eq!(groups.last().expect("there is one")[1], count - 1);
        }
    }

    #[test]
    fn a_ratio_has_the_colour_of_the_limit_below_it() {
        assert_eq!([0.1, 0.5, 1.0, 1.25, 3.0, 9.9, 10.0].map(level), [0, 1, 2, 3, 4, 5, 6]);
    }
}
