//! What all plots share: sizes, text, the two ways to draw them, a panel with axes, a legend, lines and points.

use std::io;
use std::sync::Once;

use plotters::backend::{BitMapBackend, SVGBackend};
use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea};
use plotters::element::{Circle, DashedPathElement, PathElement, Polygon, Rectangle, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{
    Color, FontFamily, FontStyle, FontTransform, IntoFont, RGBColor, ShapeStyle, TextStyle, WHITE,
    register_font,
};

use super::notes::Notes;
use super::palette::{AXIS, GRID, INK, TROUBLE};
use super::scale::Scale;
use super::surface::Surface;

/// Width of every plot. A page shows it at half of that or less.
pub(super) const WIDTH: u32 = 960;

/// Height of a panel, its axes included.
pub(super) const PANEL: u32 = 460;

/// Text at this size can be read in a plot that is 370 pixels wide.
const TEXT: i32 = 34;

/// Height of a line of text.
const LINE: u32 = 38;

/// Width of the numbers of the upright axis, and of its name.
const LEFT: u32 = 148;

/// Height of the numbers of the level axis, and of its name.
const BOTTOM: u32 = 84;

/// Points of a series that are drawn one by one; more are a line.
const FEW_POINTS: usize = 80;

/// The font of the PNG files: `font/LICENSE.txt`.
static FONT: &[u8] = include_bytes!("font/DejaVuSans-subset.ttf");

static REGISTERED: Once = Once::new();

/// What drawing returns.
pub(super) type Drawn<T = ()> = Result<T, DrawingAreaErrorKind<io::Error>>;

/// A stretch of canvas in pixels.
pub(super) type Area<'s> = DrawingArea<Surface<'s>, Shift>;

/// A stretch of canvas with axes.
pub(super) type Chart<'a, 's> = ChartContext<'a, Surface<'s>, Cartesian2d<Scale, Scale>>;

/// What can be drawn.
pub(super) trait Draw {
    /// Pixels from top to bottom.
    fn height(&self) -> u32;
    /// Draws it on an area of [`WIDTH`] by its height, and notes what to say to who points at it.
    fn draw(&self, area: &Area<'_>, notes: &Notes) -> Drawn;
}

/// As SVG without a ground, for a page.
pub(super) fn to_svg(drawing: &dyn Draw) -> String {
    register();
    let mut text = String::new();
    let notes = Notes::default();
    let area =
        Surface::Svg(SVGBackend::with_string(&mut text, (WIDTH, drawing.height()))).into_drawing_area();
    drawing.draw(&area, &notes).and_then(|()| area.present()).expect("drawing into a string does not fail");
    drop(area);
    // Every element ends in a line break, which nothing needs.
    noted(&text.replace('\n', ""), &notes)
}

/// An SVG element with its notes on top of everything.
fn noted(svg: &str, notes: &Notes) -> String {
    let inside = svg.trim_end().strip_suffix("</svg>").expect("an SVG element ends so");
    format!("{inside}{}</svg>", notes.to_svg())
}

/// As SVG with a white ground and a title, for a file.
pub(super) fn to_svg_file(title: &str, drawing: &dyn Draw) -> String {
    register();
    let mut text = String::new();
    let notes = Notes::default();
    let area = Surface::Svg(SVGBackend::with_string(&mut text, file_size(drawing))).into_drawing_area();
    titled(title, drawing, &area, &notes).expect("drawing into a string does not fail");
    drop(area);
    noted(&text, &notes)
}

/// As rows of red, green and blue, with their number and width, for a file.
pub(super) fn to_pixels(title: &str, drawing: &dyn Draw) -> (Vec<u8>, u32, u32) {
    register();
    let (width, height) = file_size(drawing);
    let mut pixels = vec![0; (width * height * 3) as usize];
    let area = Surface::Pixels(BitMapBackend::with_buffer(&mut pixels, (width, height))).into_drawing_area();
    titled(title, drawing, &area, &Notes::default()).expect("drawing into memory does not fail");
    drop(area);
    (pixels, width, height)
}

fn file_size(drawing: &dyn Draw) -> (u32, u32) {
    (WIDTH, drawing.height() + 2 * LINE)
}

fn titled(title: &str, drawing: &dyn Draw, area: &Area<'_>, notes: &Notes) -> Drawn {
    area.fill(&WHITE)?;
    let (head, body) = area.split_vertically(2 * LINE);
    head.draw(&Text::new(title.to_owned(), (24, LINE as i32 / 2), text(INK)))?;
    drawing.draw(&body, notes)?;
    area.present()
}

fn register() {
    REGISTERED.call_once(|| {
        let registered = register_font("sans-serif", FontStyle::Normal, FONT);
        assert!(registered.is_ok(), "the embedded font is a font");
    });
}

/// The style of text in one colour.
pub(super) fn text(color: RGBColor) -> TextStyle<'static> {
    (FontFamily::SansSerif, TEXT).into_font().color(&color)
}

/// Text with its end, or its middle, at a point.
pub(super) fn anchored(color: RGBColor, horizontal: HPos) -> TextStyle<'static> {
    text(color).pos(Pos::new(horizontal, VPos::Center))
}

/// A solid line.
pub(super) fn stroke(color: RGBColor) -> ShapeStyle {
    color.stroke_width(4)
}

/// How an entry of a legend is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// A line.
    Line,
    /// A dashed line.
    Dashes,
    /// A filled square.
    Square,
    /// A cross.
    Cross,
    /// A triangle.
    Triangle,
    /// A point.
    Dot,
}

/// One entry of a legend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// What it says.
    pub label: String,
    /// Its colour.
    pub color: RGBColor,
    /// Its mark.
    pub mark: Mark,
}

impl Entry {
    /// An entry.
    pub fn new(label: impl Into<String>, color: RGBColor, mark: Mark) -> Self {
        Self { label: label.into(), color, mark }
    }

    /// Its width, by a bound on that of its letters.
    fn width(&self) -> u32 {
        76 + self.label.chars().count() as u32 * (TEXT as u32 * 53 / 100)
    }
}

/// Which entries share a line, first to last.
fn legend_lines(entries: &[Entry]) -> Vec<&[Entry]> {
    let mut lines = Vec::new();
    let (mut start, mut used) = (0, 0);
    for (index, entry) in entries.iter().enumerate() {
        if index > start && used + entry.width() > WIDTH - 32 {
            lines.push(&entries[start..index]);
            (start, used) = (index, 0);
        }
        used += entry.width();
    }
    if start < entries.len() {
        lines.push(&entries[start..]);
    }
    lines
}

/// Height of a legend.
pub(super) fn legend_height(entries: &[Entry]) -> u32 {
    legend_lines(entries).len() as u32 * LINE
}

/// Draws a legend on top of an area, and gives the area below.
pub(super) fn legend<'s>(entries: &[Entry], area: &Area<'s>) -> Drawn<Area<'s>> {
    let (head, body) = area.split_vertically(legend_height(entries));
    for (row, line) in legend_lines(entries).into_iter().enumerate() {
        let mut x = 24;
        let y = row as i32 * LINE as i32 + LINE as i32 / 2;
        for entry in line {
            swatch(entry, (x, y), &head)?;
            head.draw(&Text::new(entry.label.clone(), (x + 48, y), anchored(INK, HPos::Left)))?;
            x += entry.width() as i32;
        }
    }
    Ok(body)
}

fn swatch(entry: &Entry, (x, y): (i32, i32), area: &Area<'_>) -> Drawn {
    match entry.mark {
        Mark::Line => {
            area.draw(&PathElement::new([(x, y), (x + 36, y)], stroke(entry.color).stroke_width(6)))
        }
        Mark::Dashes => {
            for start in [x, x + 14, x + 28] {
                area.draw(&PathElement::new([(start, y), (start + 8, y)], stroke(entry.color)))?;
            }
            Ok(())
        }
        Mark::Square => area.draw(&Rectangle::new([(x + 6, y - 12), (x + 30, y + 12)], entry.color.filled())),
        Mark::Cross => cross(area, (x + 18, y), entry.color),
        Mark::Triangle => triangle(area, (x + 18, y), entry.color),
        Mark::Dot => area.draw(&Circle::new((x + 18, y), 9, entry.color.filled())),
    }
}

/// A cross in pixels.
pub(super) fn cross(area: &Area<'_>, (x, y): (i32, i32), color: RGBColor) -> Drawn {
    area.draw(&PathElement::new([(x - 9, y - 9), (x + 9, y + 9)], stroke(color)))?;
    area.draw(&PathElement::new([(x - 9, y + 9), (x + 9, y - 9)], stroke(color)))
}

/// A triangle that points up, in pixels.
pub(super) fn triangle(area: &Area<'_>, (x, y): (i32, i32), color: RGBColor) -> Drawn {
    let corners = vec![(x - 11, y + 10), (x + 11, y + 10), (x, y - 11)];
    area.draw(&Polygon::new(corners, color.filled()))
}

/// Names and values of two axes.
pub(super) struct Axes<'a> {
    /// The level axis.
    pub x: &'a Scale,
    /// The upright axis.
    pub y: &'a Scale,
    /// What the level axis counts; nothing where another panel below says it.
    pub x_name: &'a str,
    /// What the upright axis measures, with its unit.
    pub y_name: &'a str,
}

/// Draws axes, and gives what to draw between them.
pub(super) fn panel<'a, 's>(area: &'a Area<'s>, axes: &Axes<'_>) -> Drawn<Chart<'a, 's>> {
    let mut chart = ChartBuilder::on(area)
        .margin_top(16)
        .margin_right(30)
        .x_label_area_size(if axes.x_name.is_empty() { 14 } else { BOTTOM })
        .y_label_area_size(LEFT)
        .build_cartesian_2d(axes.x.clone(), axes.y.clone())?;
    let mut mesh = chart.configure_mesh();
    mesh.axis_style(AXIS.stroke_width(2))
        .bold_line_style(GRID.stroke_width(2))
        .light_line_style(plotters::style::TRANSPARENT)
        .max_light_lines(1)
        .label_style(text(INK))
        .axis_desc_style(text(INK));
    if axes.x_name.is_empty() {
        mesh.x_labels(0).x_label_formatter(&|_| String::new());
    } else {
        mesh.x_desc(axes.x_name);
    }
    mesh.draw()?;
    upright(area, axes.y_name)?;
    Ok(chart)
}

/// The name of the upright axis, along it.
fn upright(area: &Area<'_>, name: &str) -> Drawn {
    let (_, height) = area.dim_in_pixel();
    let style = text(INK).transform(FontTransform::Rotate270).pos(Pos::new(HPos::Center, VPos::Top));
    area.draw(&Text::new(name.to_owned(), (18, (height / 2) as i32 - 20), style))
}

/// A dashed line across a panel at one value of the level axis.
pub(super) fn vertical(chart: &mut Chart<'_, '_>, scales: &Axes<'_>, value: f64, color: RGBColor) -> Drawn {
    dashes(chart, [(value, scales.y.low), (value, scales.y.high)], color)
}

/// A dashed line across a panel at one value of the upright axis.
pub(super) fn horizontal(chart: &mut Chart<'_, '_>, scales: &Axes<'_>, value: f64, color: RGBColor) -> Drawn {
    dashes(chart, [(scales.x.low, value), (scales.x.high, value)], color)
}

fn dashes(chart: &mut Chart<'_, '_>, ends: [(f64, f64); 2], color: RGBColor) -> Drawn {
    chart.draw_series([DashedPathElement::new(ends, 12, 9, stroke(color))]).map(drop)
}

/// A series: its line where it has enough points, its points where they are few, and a cross at the top for what is not finite.
pub(super) fn series(
    area: &Area<'_>,
    chart: &mut Chart<'_, '_>,
    scales: &Axes<'_>,
    points: &[(f64, f64)],
    color: RGBColor,
) -> Drawn {
    let finite: Vec<(f64, f64)> = points.iter().copied().filter(|point| point.1.is_finite()).collect();
    let drawn = thinned(&finite, scales.x);
    if drawn.len() > 1 {
        chart.draw_series([PathElement::new(drawn.clone(), stroke(color))])?;
    }
    if drawn.len() <= FEW_POINTS {
        chart.draw_series(drawn.iter().map(|point| Circle::new(*point, 6, color.filled())))?;
    }
    let broken: Vec<f64> = points.iter().filter(|point| !point.1.is_finite()).map(|point| point.0).collect();
    crosses(area, chart, scales, &broken)
}

/// Points without a line, for what is no series.
pub(super) fn dots(
    chart: &mut Chart<'_, '_>,
    scales: &Axes<'_>,
    points: &[(f64, f64)],
    color: RGBColor,
) -> Drawn {
    let drawn = thinned(points, scales.x);
    chart.draw_series(drawn.iter().map(|point| Circle::new(*point, 6, color.filled()))).map(drop)
}

/// Crosses at the top of a panel, for what has no place on its axis.
pub(super) fn crosses(area: &Area<'_>, chart: &Chart<'_, '_>, scales: &Axes<'_>, places: &[f64]) -> Drawn {
    let places: Vec<(f64, f64)> = places.iter().map(|place| (*place, scales.y.high)).collect();
    let (left, top) = area.get_base_pixel();
    for place in thinned(&places, scales.x) {
        let (x, y) = chart.backend_coord(&place);
        cross(area, (x - left, y - top + 12), TROUBLE)?;
    }
    Ok(())
}

/// From the least to the most at each place, pale behind the line of a series.
pub(super) fn band(
    chart: &mut Chart<'_, '_>,
    scales: &Axes<'_>,
    ends: &[(f64, [f64; 2])],
    color: RGBColor,
) -> Drawn {
    let is_drawn = |(_, ends): &(f64, [f64; 2])| ends.iter().all(|end| end.is_finite() && *end > 0.0);
    // Where it is not finite a band ends, and begins anew behind it.
    for run in ends.split(|one| !is_drawn(one)) {
        if let [(x, [low, high])] = run {
            chart
                .draw_series([PathElement::new([(*x, *low), (*x, *high)], stroke(color).stroke_width(8))])?;
        } else if run.len() > 1 {
            let columns = widest(run, scales.x);
            let high = columns.iter().map(|(x, [_, high])| (*x, *high));
            let low = columns.iter().rev().map(|(x, [low, _])| (*x, *low));
            let outline: Vec<(f64, f64)> = high.chain(low).collect();
            chart.draw_series([Polygon::new(outline, color.mix(0.2).filled())])?;
        }
    }
    Ok(())
}

/// The ends of a band, of many places the widest of each few pixels.
fn widest(ends: &[(f64, [f64; 2])], scale: &Scale) -> Vec<(f64, [f64; 2])> {
    if ends.len() <= FEW_POINTS {
        return ends.to_vec();
    }
    let column = |one: &(f64, [f64; 2])| (scale.share(one.0) * f64::from(WIDTH) / 8.0) as u32;
    let merged = ends.chunk_by(|one, other| column(one) == column(other)).map(|group| {
        let (first, last) = (group[0], group[group.len() - 1]);
        let low = group.iter().map(|one| one.1[0]).fold(first.1[0], f64::min);
        let high = group.iter().map(|one| one.1[1]).fold(first.1[1], f64::max);
        (f64::midpoint(first.0, last.0), [low, high])
    });
    merged.collect()
}

/// Points that are no more than two to a column of pixels: the first, and the last, the smallest and the largest of each.
pub(super) fn thinned(points: &[(f64, f64)], scale: &Scale) -> Vec<(f64, f64)> {
    if points.len() <= FEW_POINTS {
        return points.to_vec();
    }
    // A column of a page has two or three pixels of the canvas.
    let column = |point: &(f64, f64)| (scale.share(point.0) * f64::from(WIDTH) / 2.0) as u32;
    let mut kept = Vec::new();
    for group in points.chunk_by(|one, other| column(one) == column(other)) {
        let low = (0..group.len()).min_by(|&a, &b| group[a].1.total_cmp(&group[b].1));
        let high = (0..group.len()).max_by(|&a, &b| group[a].1.total_cmp(&group[b].1));
        let mut ends: Vec<usize> = low.into_iter().chain(high).collect();
        ends.sort_unstable();
        ends.dedup();
        kept.extend(ends.into_iter().map(|index| group[index]));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_the_peak_and_the_dip_and_bounds_the_number() {
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|step| (f64::from(step), 1.0)).collect();
        points[43_210].1 = 50.0;
        points[77_777].1 = 0.01;
        let kept = thinned(&points, &Scale::whole(0.0, 100_000.0));
        assert!(kept.contains(&(43_210.0, 50.0)) && kept.contains(&(77_777.0, 0.01)));
        assert!(kept.len() <= 2 * WIDTH as usize, "{}", kept.len());
        assert!(kept.is_sorted_by(|one, other| one.0 <= other.0));
    }

    #[test]
    fn a_band_of_thousands_is_as_wide_as_its_widest_place() {
        let mut ends: Vec<(f64, [f64; 2])> = (0..2000).map(|block| (f64::from(block), [1.0, 2.0])).collect();
        ends[777].1 = [0.25, 64.0];
        let kept = widest(&ends, &Scale::whole(0.0, 2000.0));
        assert!(kept.len() <= WIDTH as usize / 8 + 1, "{}", kept.len());
        assert_eq!(kept.iter().filter(|one| one.1 == [0.25, 64.0]).count(), 1);
        assert!(kept.iter().all(|one| one.1 == [1.0, 2.0] || one.1 == [0.25, 64.0]));
        assert_eq!(widest(&ends[..5], &Scale::whole(0.0, 5.0)), ends[..5]);
    }

    #[test]
    fn a_legend_has_as_many_lines_as_its_entries_need() {
        let entry = |label: &str| Entry::new(label, INK, Mark::Line);
        assert_eq!(legend_lines(&[]).len(), 0);
        assert_eq!(legend_lines(&[entry("onset"), entry("checkpoint")]).len(), 1);
        let many: Vec<Entry> = (0..7).map(|_| entry("attention-output")).collect();
        assert_eq!(legend_lines(&many).concat(), many);
        assert!(legend_lines(&many).len() > 1);
        assert_eq!(
            legend_lines(&[entry(&"x".repeat(500)), entry("y")]).len(),
            2,
            "one alone is as long as it is"
        );
    }
}
