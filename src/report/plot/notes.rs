//! What a reader sees who points at a plot: the values of that column, as the title of a stretch that shows nothing itself.
//!
//! An SVG title needs no script. In a PNG there is nothing to point at.

use std::cell::RefCell;
use std::fmt::Write;

use super::canvas::{Axes, Chart};
use crate::number::{grouped, short};
use crate::report::text::safe;

/// Least width of a column in pixels of the canvas: narrower ones are not hit, and make a page large.
const COLUMN: i32 = 10;

/// Notes of one plot.
#[derive(Debug, Default)]
pub(super) struct Notes(RefCell<Vec<Note>>);

/// A stretch of canvas, and what to say about it.
#[derive(Debug, PartialEq, Eq)]
struct Note {
    left: i32,
    top: i32,
    right: i32,
    bottom: i32,
    text: String,
}

/// Values with a name, by their places on the level axis. A value that is not finite is said to be so.
pub(super) struct Named<'a> {
    pub name: &'a str,
    pub values: &'a [(f64, f64)],
}

impl Notes {
    /// The values of every column of a panel. `place` says what stands at one place, or from one to another.
    pub fn columns(
        &self,
        chart: &Chart<'_, '_>,
        axes: &Axes<'_>,
        series: &[Named<'_>],
        place: impl Fn(f64, f64) -> String,
    ) {
        let pixel = |x: f64, y: f64| chart.backend_coord(&(x, y));
        let mut places: Vec<f64> =
            series.iter().flat_map(|one| one.values).map(|value| value.0).filter(|x| x.is_finite()).collect();
        places.sort_by(f64::total_cmp);
        places.dedup();
        let column = |x: &f64| pixel(*x, axes.y.low).0 / COLUMN;
        let columns: Vec<[f64; 2]> = places
            .chunk_by(|one, other| column(one) == column(other))
            .map(|own| [own[0], own[own.len() - 1]])
            .collect();
        let (left, bottom) = pixel(axes.x.low, axes.y.low);
        let (right, top) = pixel(axes.x.high, axes.y.high);
        let middle =
            |[first, last]: [f64; 2]| i32::midpoint(pixel(first, axes.y.low).0, pixel(last, axes.y.low).0);
        let texts = texts(&columns, series, place);
        let mut notes = self.0.borrow_mut();
        for (index, text) in texts.into_iter().enumerate() {
            // A column reaches half-way to its neighbours, so that there is one under every point.
            let before = index.checked_sub(1).map(|before| middle(columns[before]));
            let own = middle(columns[index]);
            let after = columns.get(index + 1).map(|after| middle(*after));
            notes.push(Note {
                left: before.map_or(left, |before| i32::midpoint(before, own)),
                top,
                right: after.map_or(right, |after| i32::midpoint(own, after)),
                bottom,
                text,
            });
        }
    }

    /// What to say about a panel from one place to another.
    pub fn stretch(&self, chart: &Chart<'_, '_>, axes: &Axes<'_>, [first, last]: [f64; 2], text: String) {
        let (left, bottom) = chart.backend_coord(&(first, axes.y.low));
        let (right, top) = chart.backend_coord(&(last, axes.y.high));
        self.0.borrow_mut().push(Note { left, top, right, bottom, text });
    }

    /// As SVG elements that are hit and not seen.
    pub fn to_svg(&self) -> String {
        let mut svg = String::new();
        let notes = self.0.borrow();
        if notes.is_empty() {
            return svg;
        }
        svg.push_str("<g class=\"notes\" fill=\"none\" pointer-events=\"all\">");
        for Note { left, top, right, bottom, text } in notes.iter() {
            let (width, height) = (right - left, bottom - top);
            let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            write!(svg, "<path d=\"M{left} {top}h{width}v{height}h-{width}z\"><title>{text}</title></path>")
                .expect("writing to a string does not fail");
        }
        svg.push_str("</g>");
        svg
    }
}

/// What each column says: its place, and a line for each series that has a value there.
fn texts(columns: &[[f64; 2]], series: &[Named<'_>], place: impl Fn(f64, f64) -> String) -> Vec<String> {
    let mut texts: Vec<String> = columns.iter().map(|[first, last]| place(*first, *last)).collect();
    for one in series {
        let mut own: Vec<Option<Range>> = vec![None; columns.len()];
        for (x, value) in one.values.iter().filter(|value| value.0.is_finite()) {
            let index = columns.partition_point(|[_, last]| last < x);
            if let Some(range) = own.get_mut(index) {
                range.get_or_insert_default().add(*value);
            }
        }
        for (text, range) in texts.iter_mut().zip(own) {
            if let Some(range) = range {
                write!(text, "\n{}: {}", safe(one.name), range.told())
                    .expect("writing to a string does not fail");
            }
        }
    }
    texts
}

/// The values of one series in one column.
#[derive(Debug, Clone, Copy, Default)]
struct Range {
    ends: Option<[f64; 2]>,
    broken: bool,
}

impl Range {
    fn add(&mut self, value: f64) {
        if !value.is_finite() {
            self.broken = true;
            return;
        }
        let [low, high] = self.ends.unwrap_or([value; 2]);
        self.ends = Some([low.min(value), high.max(value)]);
    }

    fn told(self) -> String {
        let ends = self.ends.map(|[low, high]| {
            if low == high { short(low) } else { format!("{} to {}", short(low), short(high)) }
        });
        let broken = self.broken.then(|| "not finite".to_owned());
        ends.into_iter().chain(broken).collect::<Vec<_>>().join(", ")
    }
}

/// `step 187`, or `steps 180 to 190`.
pub(super) fn counted(what: &str, first: f64, last: f64) -> String {
    let number = |place: f64| grouped(place.max(0.0) as u64);
    if first == last {
        format!("{what} {}", number(first))
    } else {
        format!("{what}s {} to {}", number(first), number(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(columns: &[[f64; 2]], values: &[(f64, f64)]) -> Vec<String> {
        texts(columns, &[Named { name: "loss", values }], |first, last| counted("step", first, last))
    }

    #[test]
    fn a_column_of_one_place_has_its_value_and_one_of_several_their_range() {
        let values = [(1.0, 0.5), (2.0, 0.25), (3.0, f64::NAN), (1187.0, 38.75)];
        assert_eq!(
            told(&[[1.0, 1.0], [2.0, 3.0], [1187.0, 1187.0]], &values),
            ["step 1\nloss: 0.5000", "steps 2 to 3\nloss: 0.2500, not finite", "step 1,187\nloss: 38.75"]
        );
    }

    #[test]
    fn a_spike_is_in_the_range_of_its_column() {
        let mut values: Vec<(f64, f64)> = (0..100).map(|step| (f64::from(step), 1.0)).collect();
        values[42].1 = 64.0;
        assert_eq!(
            told(&[[0.0, 49.0], [50.0, 99.0]], &values),
            ["steps 0 to 49\nloss: 1 to 64", "steps 50 to 99\nloss: 1"]
        );
    }

    #[test]
    fn a_name_cannot_leave_its_title() {
        let notes = Notes::default();
        let text = "</title><script>alert(1)</script>".to_owned();
        notes.0.borrow_mut().push(Note { left: 1, top: 2, right: 11, bottom: 22, text });
        let svg = notes.to_svg();
        assert_eq!(svg.matches("</title>").count(), 1, "{svg}");
        assert!(svg.contains("M1 2h10v20h-10z") && !svg.contains("<script"), "{svg}");
    }
}
