//! Every kind of plot, with 1, 12, 96 and 2,000 layers and with series that have no range: axes, marks, bounds, both formats.

use super::depth::{Depth, Place};
use super::jacobian::Gains;
use super::*;
use crate::analysis::model::{
    DType, Degenerate, Density, DepthGain, GradientSource, InitialGain, IntervalAnalysis, JacobianAnalysis,
    JacobianSetting, Layer, Measured, PartJacobian, PartKind, ProbeKind, Role, SpectralNorm, Spectrum,
    SpectrumMethod, SpectrumOf, Spread, TensorInterval,
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
        let layer = Layer { path: format!("h.{order}"), index: Some(order), order };
        roles.map(|role| Place::new(&layer, role, value.is_finite().then_some(value)))
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
    let point = |(step, norm): (usize, f64)| Point {
        step: step as u64,
        norm,
        loss: None,
        usual: None,
        tensors: Vec::new(),
    };
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

/// A network of as many blocks: what σ₁ of each is, and what small changes have grown to behind it.
fn gains(layers: u64, value: impl Fn(u64) -> f64) -> JacobianAnalysis {
    let spread =
        |value: f64| Spread { mean: value, standard_deviation: 0.0, least: value / 2.0, most: value * 2.0 };
    let measured = |value: f64| {
        if value.is_finite() {
            Measured::Value(spread(value))
        } else {
            Measured::Degenerate(Degenerate::Overflow)
        }
    };
    let part = |name: String, kind: PartKind, block: Option<u64>, value: f64| PartJacobian {
        name,
        kind,
        block,
        rows: 64,
        columns: 64,
        spectral_norm: measured(value),
        gain: Measured::not("not here"),
        stable_rank: Measured::not("not here"),
        input_rms: Measured::not("not here"),
        output_rms: Measured::not("not here"),
        paths: Measured::not("not here"),
        draws: Vec::new(),
    };
    let block = |block: u64| {
        [(PartKind::Attention, " attention"), (PartKind::FeedForward, " mlp"), (PartKind::Block, "")]
            .map(|(kind, name)| part(format!("h.{block}{name}"), kind, Some(block), value(block)))
    };
    let depth = |block: u64| DepthGain {
        name: format!("h.{block}"),
        block,
        from_input: measured(value(block)),
        gradient: measured(value(block)),
        spectral_norm: measured(value(block)),
        state_rms: measured(1.0),
    };
    JacobianAnalysis {
        architecture: "gpt2".to_owned(),
        setting: JacobianSetting {
            probe: ProbeKind::SyntheticTokens,
            file: None,
            shape: vec![8],
            tokens: Measured::Value(8),
            draws: 3,
            seed: 0,
            dtype: DType::F32,
            pairs: 20,
            probes: 16,
            gradient: GradientSource::Random,
        },
        device: None,
        unused: Vec::new(),
        assumptions: Vec::new(),
        parts: (0..layers).flat_map(block).collect(),
        end_to_end: Measured::Value(part("end to end".to_owned(), PartKind::Network, None, 3.0)),
        initial: Measured::Value(InitialGain {
            scheme: "normal".to_owned(),
            spectral_norm: spread(1.4),
            gain: spread(1.0),
        }),
        depths: Measured::Value((0..layers).map(depth).collect()),
        recurrences: Vec::new(),
    }
}

fn drawn_gains(jacobian: &JacobianAnalysis) -> Kind {
    Kind::Jacobian(Gains::of(jacobian, &BTreeMap::new()).expect("there is something to draw"))
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
fn gains_are_drawn_with_any_number_of_blocks() {
    let axes = ["block, in forward order", "σ₁ of each part", "growth along depth"];
    for layers in DEPTHS {
        let jacobian = gains(layers, |block| 1.01f64.powf(block as f64));
        check(drawn_gains(&jacobian), &axes);
        let svg = plot(drawn_gains(&jacobian)).svg();
        // A hundredfold of 1.4, the hundred of FP803, and ten times the median, of which one block has none.
        let start = format!("FP801 above {}", short(140.0));
        for (limit, is_there) in
            [(start.as_str(), true), ("FP803 above 100", true), ("FP802 above", layers > 2)]
        {
            assert_eq!(svg.contains(limit), is_there, "{layers} blocks: {limit}");
        }
    }
}

#[test]
fn gains_are_drawn_with_values_that_are_not_finite_constant_zero_tiny_and_huge() {
    let axes = ["block, in forward order", "σ₁ of each part", "growth along depth"];
    for value in [f64::NAN, f64::INFINITY, 0.0, 2.0, 1e-320, f64::MAX] {
        check(drawn_gains(&gains(12, |block| if block == 7 { value } else { 1.0 })), &axes);
        if value != 0.0 {
            check(drawn_gains(&gains(12, |_| value)), &axes);
        }
    }
    let mut nothing = gains(3, |_| 0.0);
    assert!(Gains::of(&nothing, &BTreeMap::new()).is_some(), "σ₁ end to end is there");
    nothing.end_to_end = Measured::not("interrupted");
    assert_eq!(Gains::of(&nothing, &BTreeMap::new()), None);
}

#[test]
fn who_points_at_a_spike_reads_its_place_and_its_value() {
    let svg = plot(training(50, |step| if step == 31 { 4096.0 } else { 1.0 })).svg();
    assert!(svg.contains("<title>step 31\nloss: 4096</title>"), "{svg}");
    assert_eq!(svg.matches("<title>").count(), 2 * 50, "a note a step and panel");
    let svg = plot(drawn_gains(&gains(12, |block| if block == 7 { 31.5 } else { 1.0 }))).svg();
    assert!(svg.contains("<title>h.7\nblock: 31.50\nits attention: 31.50"), "{svg}");
    let svg = plot(depth(12, |order| if order == 7 { f64::NAN } else { 1.0 })).svg();
    assert!(svg.contains("<title>layer 7: h.7\nin it: not finite</title>"), "{svg}");
    // Thousands of layers share columns, each wide enough to be hit.
    let many = plot(depth(2000, |_| 1.0)).svg();
    assert!((40..=90).contains(&many.matches("<title>").count()), "{}", many.matches("<title>").count());
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
