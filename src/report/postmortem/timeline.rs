//! The run in a few lines of text: loss and gradient norm by step, and the gradients of each layer by interval.

use std::collections::BTreeMap;

use crate::analysis::model::{
    Analysis, IntervalAnalysis, LogPoint, Measured, TensorInterval, cancelled_biases,
};
use crate::number::short;
use crate::report::text::safe;

/// Columns of a drawing.
const WIDTH: usize = 56;

/// Columns of a label.
const LABEL: usize = 20;

/// Rows of the heat map.
const ROWS: usize = 12;

/// From low to high.
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What is not finite.
const BROKEN: char = '×';

/// Gradient over its trailing median from which a cell is drawn darker.
const SHADES: [(f64, char); 4] = [(10.0, '█'), (4.0, '▓'), (2.0, '▒'), (1.25, '░')];

/// The drawing, line by line, none of which is wider than 80 columns.
pub(in crate::report) fn draw(analysis: &Analysis, onset: Option<u64>) -> Vec<String> {
    let Some((first, last)) = steps(analysis) else { return Vec::new() };
    let axis = Axis { first, last };
    let points = analysis.log.as_ref().map_or(&[][..], |log| &log.points);
    let mut lines = Vec::new();
    lines.extend(sparkline("loss", &axis, points, |point| Some(point.loss?.0)));
    lines.extend(sparkline("gradient norm", &axis, points, |point| Some(point.grad_norm?.0)));
    lines.extend(heat_map(&analysis.intervals, &axis));
    if lines.is_empty() {
        return lines;
    }
    lines.push(axis.ruler());
    if let Some(onset) = onset.filter(|&onset| onset >= first) {
        let mark = format!("▲ step {onset}");
        let column = axis.column(onset).min(WIDTH.saturating_sub(mark.chars().count()));
        // A mark that does not fit to the right of its step points with its end.
        let mark = if column < axis.column(onset) { format!("step {onset} ▲") } else { mark };
        let column = (axis.column(onset) + 1).saturating_sub(if mark.ends_with('▲') {
            mark.chars().count()
        } else {
            1
        });
        lines.push(format!("{:LABEL$} {:column$}{mark}", "", ""));
    }
    lines
}

/// First and last step of which anything is known.
fn steps(analysis: &Analysis) -> Option<(u64, u64)> {
    let logged = analysis.log.iter().flat_map(|log| log.points.iter().map(|point| point.step));
    let saved = analysis.checkpoints.iter().filter_map(|one| one.step.value().copied());
    let all: Vec<u64> = logged.chain(saved).collect();
    Some((*all.iter().min()?, *all.iter().max()?))
}

/// Steps as columns.
struct Axis {
    first: u64,
    last: u64,
}

impl Axis {
    fn column(&self, step: u64) -> usize {
        let span = (self.last - self.first).max(1) as f64;
        let share = step.saturating_sub(self.first) as f64 / span;
        whole(share * WIDTH as f64).min(WIDTH - 1)
    }

    fn ruler(&self) -> String {
        let (first, last) = (self.first.to_string(), self.last.to_string());
        let gap = WIDTH.saturating_sub(first.len() + last.len());
        format!("{:LABEL$} {first}{:gap$}{last}", "step", "")
    }
}

/// One line of blocks, logarithmic where everything is positive, with its range; the largest value of each column.
fn sparkline(
    label: &str,
    axis: &Axis,
    points: &[LogPoint],
    quantity: fn(&LogPoint) -> Option<f64>,
) -> Vec<String> {
    let mut columns: Vec<Option<f64>> = vec![None; WIDTH];
    for (step, value) in points.iter().filter_map(|point| Some((point.step, quantity(point)?))) {
        let column = &mut columns[axis.column(step)];
        *column = Some(match *column {
            // What is not finite is what must be seen.
            Some(earlier) if !earlier.is_finite() || earlier >= value => earlier,
            _ => value,
        });
    }
    let finite: Vec<f64> = columns.iter().flatten().copied().filter(|value| value.is_finite()).collect();
    let broken = columns.iter().flatten().any(|value| !value.is_finite());
    if finite.is_empty() && !broken {
        return Vec::new();
    }
    let low = finite.iter().copied().fold(f64::INFINITY, f64::min);
    let high = finite.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let scale = |value: f64| if low > 0.0 { value.ln() } else { value };
    let level = |value: f64| {
        let share = (scale(value) - scale(low)) / (scale(high) - scale(low)).max(f64::MIN_POSITIVE);
        LEVELS[whole((share * 7.0).round()).min(7)]
    };
    let drawn = columns.iter().map(|column| match column {
        None => ' ',
        Some(value) if !value.is_finite() => BROKEN,
        Some(value) => level(*value),
    });
    let line = format!("{label:LABEL$} {}", drawn.collect::<String>());
    let range = match (finite.is_empty(), broken) {
        (true, _) => "not finite".to_owned(),
        (false, false) => format!("{} to {}", short(low), short(high)),
        (false, true) => format!("{} to {}, {BROKEN} not finite", short(low), short(high)),
    };
    vec![line.trim_end().to_owned(), format!("{:LABEL$} {range}", "")]
}

/// A row for each layer, a cell for each interval: its gradient over its trailing median. The layers that stand out
/// most, in forward order.
fn heat_map(intervals: &[IntervalAnalysis], axis: &Axis) -> Vec<String> {
    let by_gradient =
        intervals.iter().flat_map(|one| &one.tensors).any(|own| ratio_of(&own.gradient_ratio).is_some());
    let ratio =
        |own: &TensorInterval| ratio_of(if by_gradient { &own.gradient_ratio } else { &own.change_ratio });
    let cancelled = cancelled_biases(intervals);
    let mut layers: BTreeMap<(u64, &str), Vec<Option<f64>>> = BTreeMap::new();
    for interval in intervals {
        let columns = axis.column(interval.from_step)..=axis.column(interval.to_step.saturating_sub(1));
        for own in interval.tensors.iter().filter(|own| !cancelled.contains(own.canonical_name.as_str())) {
            let row =
                layers.entry((own.layer.order, own.layer.path.as_str())).or_insert_with(|| vec![None; WIDTH]);
            for column in columns.clone() {
                row[column] = row[column].into_iter().chain(ratio(own)).reduce(f64::max);
            }
        }
    }
    layers.retain(|_, row| row.iter().any(Option::is_some));
    if layers.is_empty() {
        return Vec::new();
    }
    let total = layers.len();
    let mut peaks: Vec<f64> = layers.values().map(|row| peak(row)).collect();
    peaks.sort_by(f64::total_cmp);
    let least = peaks[total - ROWS.min(total)];
    let shown = layers.iter().filter(|(_, row)| peak(row) >= least).take(ROWS);
    let what = if by_gradient { "gradient" } else { "change" };
    let mut lines = vec![format!("{what} of each layer over its usual: ░ 1.25  ▒ 2  ▓ 4  █ 10 times")];
    for ((_, path), row) in shown {
        let cells: String = row.iter().map(|cell| cell.map_or(' ', shade)).collect();
        lines.push(format!("{:LABEL$} {cells}", shortened(path)).trim_end().to_owned());
    }
    if total > ROWS {
        lines.push(format!("… {} more layers that stand out less", total - ROWS));
    }
    lines
}

/// The whole part of a number that is not negative.
fn whole(value: f64) -> usize {
    #[expect(clippy::cast_sign_loss, reason = "what is negative becomes 0 first")]
    let whole = value.max(0.0) as usize;
    whole
}

fn ratio_of(quantity: &Measured<f64>) -> Option<f64> {
    quantity.value().copied().filter(|ratio| ratio.is_finite())
}

fn peak(row: &[Option<f64>]) -> f64 {
    row.iter().flatten().copied().fold(0.0, f64::max)
}

fn shade(ratio: f64) -> char {
    SHADES.iter().find(|(limit, _)| ratio >= *limit).map_or('·', |(_, shade)| *shade)
}

/// A layer's path in a label: its end tells it from others.
fn shortened(path: &str) -> String {
    let path = safe(path);
    let length = path.chars().count();
    if length <= LABEL {
        return path;
    }
    format!("…{}", path.chars().skip(length - LABEL + 1).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Number;

    fn logged(values: &[f64]) -> Vec<LogPoint> {
        let point = |(step, &loss): (usize, &f64)| LogPoint {
            step: step as u64 + 1,
            loss: Some(Number(loss)),
            ..LogPoint::default()
        };
        values.iter().enumerate().map(point).collect()
    }

    #[test]
    fn what_is_not_finite_is_drawn_and_said() {
        let points = logged(&[1.0, f64::NAN, 4.0, f64::INFINITY]);
        let lines = sparkline("loss", &Axis { first: 1, last: 4 }, &points, |point| Some(point.loss?.0));
        assert_eq!(lines[0].matches(BROKEN).count(), 2);
        assert!(lines[1].contains("1 to 4, × not finite"), "{}", lines[1]);
    }

    #[test]
    fn a_log_of_nothing_but_nan_and_one_of_nothing_are_drawn() {
        let axis = Axis { first: 1, last: 2 };
        let nothing = sparkline("loss", &axis, &[], |point| Some(point.loss?.0));
        assert!(nothing.is_empty());
        let lines = sparkline("loss", &axis, &logged(&[f64::NAN]), |point| Some(point.loss?.0));
        assert!(lines[1].contains("not finite"));
    }

    #[test]
    fn the_largest_value_of_a_column_is_the_one_that_is_drawn() {
        let mut values = vec![1.0; 10_000];
        values[4321] = 1000.0;
        let points = logged(&values);
        let lines = sparkline("loss", &Axis { first: 1, last: 10_000 }, &points, |point| Some(point.loss?.0));
        assert_eq!(lines[0].matches('█').count(), 1);
        assert!(lines[0].chars().count() <= 80);
    }
}
