//! Every kind of plot, with 1, 12, 96 and 2,000 layers and with series that have no range: axes, marks, bounds, both formats.

use super::depth::{Depth, Place};
use super::*;
use crate::analysis::model::{
    Density, IntervalAnalysis, Layer, Measured, Role, SpectralNorm, Spectrum, SpectrumMethod, SpectrumOf,
    TensorInterval,
};
use crate::clip::{Point, Source};

const DEPTHS: [u64; 4] = [1, 12, 96, 2000];

fn plot(kind: Kind) -> Plot {
    Plot::new("name", "Title", "caption", kind)
}

fn depth(layers: u64, value: impl Fn(u64) -> f64) -> Kind {
    let roles = [Role::MlpIn, Role::MlpOut, Role::AttentionQkv, Role::AttentionOutput, Role::NormGain];
    let place = |order: u64| {
        let value = value(order);
        roles.map(|role| Place { order, role, value: value.is_finite().then_some(value) })
    };
    let places: Vec<Place> = (0..layers).flat_map(place).collect();
    let limits = vec![("limit 0.1".to_owned(), 0.1)];
    Kind::Depth(Depth::new("RMS", &places, limits).expect("there is something to draw"))
}

fn training(steps: u64, value: impl Fn(u64) -> f64) -> Kind {
    let points: Vec<(f64, f64)> = (0..steps).map(|step| (step as f64, value(step))).collect();
    Kind::Training(training::Training {
        loss: points.clone(),
        norm: points,
        onset: Some(steps as f64 / 2.0),
        checkpoints: vec![0.0, steps as f64 / 3.0],
        healthy: Some(0.0),
        threshold: Some(1.0),
    })
}

fn analysis(layers: u64, intervals: u64, ratio: impl Fn(u64, u64) -> f64) -> Analysis {
    let none = || Measured::not("not here");
    let tensor = |layer: u64, interval: u64| TensorInterval {
        name: format!("h.{layer}.w"),
        canonical_name: format!("h.{layer}.w"),
        layer: Layer { path: format!("h.{layer}"), index: Some(layer), order: layer },
        role: Role::Linear,
        elements: 1,
        from_master: false,
        weight_rms: none(),
        change_rms: none(),
        relative_change: none(),
        growth_rate: none(),
        steps: none(),
        energy: none(),
        gradient_norm: none(),
        gradient_ratio: if interval == 0 { none() } else { Measured::Value(ratio(layer, interval)) },
        change_ratio: none(),
        decay_ratio: none(),
        floor_share: none(),
        below_floor_share: none(),
        mapping_cosine: none(),
    };
    let interval = |index: u64| IntervalAnalysis {
        from: format!("{index}"),
        to: format!("{}", index + 1),
        from_step: index * 100,
        to_step: (index + 1) * 100,
        tensors: (0..layers).map(|layer| tensor(layer, index)).collect(),
        unmatched: Vec::new(),
    };
    let mut analysis: Analysis = serde_json::from_value(serde_json::json!({
        "schema_version": "1.0", "tool_version": "0", "measured": "stats", "checkpoints": []
    }))
    .expect("an analysis of nothing");
    analysis.intervals = (0..intervals).map(interval).collect();
    analysis
}

fn spectrum(count: usize, value: impl Fn(usize) -> f64) -> Spectrum {
    let values: Vec<f64> = (0..count).map(value).collect();
    Spectrum {
        of: SpectrumOf::Matrix,
        rows: count as u64,
        columns: count as u64,
        method: SpectrumMethod::Gram,
        spectral_norm: SpectralNorm {
            value: values[0],
            upper: Measured::Value(values[0]),
            failure_probability: 0.0,
            residual: 0.0,
            steps: 1,
        },
        frobenius_norm: 1.0,
        stable_rank: 1.0,
        largest: values.iter().take(4).copied().collect(),
        values: Measured::Value(values),
        rounding: Measured::Value(0.0),
        smallest: Measured::Value(0.1),
        condition: Measured::Value(1.0),
        effective_rank: Measured::Value(1.0),
        spread: Measured::Value(1.0),
        density: Measured::not("not here"),
        marchenko_pastur: Measured::not("not here"),
        weight_watcher: Measured::not("not here"),
        spectral_radius: Measured::not("not here"),
        parts: Vec::new(),
    }
}

fn clipping(norms: impl IntoIterator<Item = f64>) -> Option<Kind> {
    let point =
        |(step, norm): (usize, f64)| Point { step: step as u64, norm, usual: None, tensors: Vec::new() };
    let series = Series {
        source: Source::Log,
        points: norms.into_iter().enumerate().map(point).collect(),
        non_finite: 0,
        zeros: 0,
        tensors: Vec::new(),
    };
    let analysis = analysis(1, 0, |_, _| 1.0);
    let advice = Recommendation {
        threshold: Some(0.5),
        low: Some(0.4),
        high: Some(0.6),
        median: Some(0.3),
        used: Some(1.0),
        ..crate::clip::advise(&analysis).recommendation
    };
    Some(Kind::Clipping(clipping::Clipping::of(&series, &advice)?))
}

/// Holds a plot against what every plot has: names of axes, numbers on them, marks, nothing outside, few bytes, two files.
fn check(kind: Kind, axes: &[&str]) {
    let plot = plot(kind);
    let svg = plot.svg();
    for axis in axes {
        assert!(svg.contains(&format!(">{axis}</text>")), "no axis {axis}: {svg}");
    }
    assert!(svg.matches("<text").count() >= axes.len() + 4, "too few numbers on the axes: {svg}");
    assert!(
        ["<circle", "<polyline", "<rect", "<polygon"].iter().any(|mark| svg.contains(mark)),
        "no mark: {svg}"
    );
    assert!(svg.len() < 130_000, "{} bytes", svg.len());
    assert!(!svg.contains("NaN") && !svg.contains("inf\""), "{svg}");
    let height = |svg: &str| number_after(svg, "height=\"").expect("it has a height");
    for (attribute, limit) in
        [(" x=\"", 960.0), (" cx=\"", 960.0), (" y=\"", height(&svg)), (" cy=\"", height(&svg))]
    {
        for part in svg.split(attribute).skip(1) {
            let value = number_after(part, "").expect("a number");
            assert!((-20.0..=limit + 20.0).contains(&value), "{attribute}{value} is outside");
        }
    }
    let (file, png) = (String::from_utf8(plot.svg_file()).expect("SVG is text"), plot.png_file());
    assert!(file.contains(">Title</text>") || file.contains("Title"), "{file}");
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().expect("it is a PNG");
    let mut pixels = vec![0; reader.output_buffer_size().expect("it fits")];
    reader.next_frame(&mut pixels).expect("it has an image");
    assert_eq!(f64::from(reader.info().height), height(&file));
    let dark = pixels.chunks(3).filter(|pixel| pixel.iter().all(|part| *part < 90)).count();
    assert!(dark > 500, "the PNG has next to no text: {dark} dark pixels");
}

fn number_after(text: &str, before: &str) -> Option<f64> {
    let rest = if before.is_empty() { text } else { text.split(before).nth(1)? };
    rest.split('"').next()?.parse().ok()
}

#[test]
fn depth_is_drawn_with_any_number_of_layers() {
    for layers in DEPTHS {
        check(depth(layers, |order| 0.02 * 1.001f64.powf(order as f64)), &["layer, in forward order", "RMS"]);
    }
}

#[test]
fn depth_is_drawn_with_values_that_are_not_finite_constant_tiny_and_huge() {
    for value in [f64::NAN, f64::INFINITY, 0.02, 5e-324, f64::MAX] {
        check(depth(12, |_| value), &["layer, in forward order", "RMS"]);
        check(depth(12, |order| if order == 7 { value } else { 1.0 }), &["layer, in forward order", "RMS"]);
    }
    assert_eq!(Depth::new("RMS", &[], Vec::new()), None);
}

#[test]
fn training_is_drawn_with_one_step_and_with_many_and_with_what_is_not_finite() {
    let axes = ["optimizer step", "loss", "gradient norm"];
    for steps in [1, 2, 240, 100_000] {
        check(training(steps, |step| 5.0 / (1.0 + step as f64)), &axes);
    }
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -1.0, 7.0, f64::MAX] {
        check(training(100, |_| value), &axes);
        check(training(100, |step| if step > 60 { value } else { 2.0 }), &axes);
    }
}

#[test]
fn layers_by_interval_are_drawn_with_any_number_of_layers_and_intervals() {
    for layers in DEPTHS {
        for intervals in [2, 5, 300] {
            if layers * intervals > 100_000 {
                continue;
            }
            let ratio = |layer: u64, interval: u64| ((layer * 7 + interval * 13) % 40) as f64 / 3.0;
            let map = heat_map::HeatMap::of(&analysis(layers, intervals, ratio), Some(250)).expect("a map");
            check(Kind::HeatMap(map), &["optimizer step", "layers, first at the bottom"]);
        }
    }
    let nothing = heat_map::HeatMap::of(&analysis(12, 1, |_, _| 1.0), None);
    assert_eq!(nothing, None, "the first interval has nothing to be held against");
    let broken = heat_map::HeatMap::of(&analysis(12, 3, |_, _| f64::INFINITY), None);
    assert_eq!(broken, None);
}

#[test]
fn the_culprit_of_two_thousand_layers_is_seen_in_its_row() {
    let ratio = |layer: u64, interval: u64| if layer == 1234 && interval == 3 { 50.0 } else { 1.0 };
    let map = heat_map::HeatMap::of(&analysis(2000, 5, ratio), None).expect("a map");
    let svg = plot(Kind::HeatMap(map)).svg();
    // The darkest colour: once in the legend, once in the map.
    assert_eq!(svg.matches("#7A161A").count(), 2, "{svg}");
}

#[test]
fn spectra_are_drawn_whole_by_quantiles_and_by_the_largest_alone() {
    let axes = ["rank, largest first", "singular value"];
    for count in [1, 12, 96, 2000] {
        let whole = spectrum(count, |index| 3.0 / (index as f64 + 1.0));
        check(Kind::Spectrum(spectrum::Singular::of(&whole).expect("values")), &axes);
        let mut quantiles = whole.clone();
        quantiles.values = Measured::not("too many");
        quantiles.density =
            Measured::Value(Density { quantiles: (1..=65).map(f64::from).collect(), is_exact: false });
        check(Kind::Spectrum(spectrum::Singular::of(&quantiles).expect("values")), &axes);
        quantiles.density = Measured::not("not asked for");
        check(Kind::Spectrum(spectrum::Singular::of(&quantiles).expect("values")), &axes);
    }
    check(Kind::Spectrum(spectrum::Singular::of(&spectrum(50, |_| 2.0)).expect("values")), &axes);
    assert_eq!(spectrum::Singular::of(&spectrum(5, |_| 0.0)), None);
    assert_eq!(spectrum::Singular::of(&spectrum(5, |_| f64::NAN)), None);
}

#[test]
fn norms_and_their_threshold_are_drawn_for_one_norm_for_equal_ones_and_for_many() {
    let axes = ["gradient norm", "steps"];
    for norms in [vec![1.0], vec![0.25; 500], (1..20_000).map(|step| f64::from(step).sqrt()).collect()] {
        check(clipping(norms).expect("norms"), &axes);
    }
    check(clipping([1e-300, 1e300, f64::INFINITY, f64::NAN]).expect("norms"), &axes);
    assert_eq!(clipping([f64::NAN, f64::INFINITY]), None);
}

#[test]
fn a_title_cannot_leave_its_element() {
    let hostile = Plot::new("name", "</text><script>alert(1)</script>", "", depth(3, |_| 1.0));
    let file = String::from_utf8(hostile.svg_file()).expect("SVG is text");
    assert!(!file.contains("<script") && file.contains("&lt;script&gt;"), "{file}");
}
