//! Methods against their references, on a recorded series and on gradients (`fixtures/make_clip.py`).

use serde_json::Value;

use super::*;

fn oracle(name: &str) -> Value {
    let path = format!("fixtures/oracle/clip/{name}.json");
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|one| one.as_f64().unwrap_or(f64::INFINITY)).collect()
}

/// Limits of every step, against the reference's.
fn assert_limits(method: Method, norms: &[f64], expected: &[f64], tolerance: f64) {
    let mut clipper = method.start();
    assert_eq!(norms.len(), expected.len());
    for (at, (&norm, &expected)) in norms.iter().zip(expected).enumerate() {
        let found = clipper.threshold(norm).unwrap();
        let equal = found == expected || (found / expected - 1.0).abs() < tolerance;
        assert!(equal, "{method}, step {at}: {found}, not {expected}");
    }
}

#[test]
fn thresholds_of_a_recorded_series_are_those_of_the_references() {
    let series = oracle("series");
    let norms = numbers(&series["norms"]);
    let cases = [
        (Method::AutoClip(AutoClip { percentile: 10.0 }), "autoclip_10"),
        (Method::AutoClip(AutoClip { percentile: 90.0 }), "autoclip_90"),
        (Method::MeanDeviation(MeanDeviation::default()), "mean_deviation"),
        (Method::DpQuantile(DpQuantile::default()), "dp_quantile"),
        (Method::MeanMultiple(MeanMultiple { multiple: 1.0 }), "mean_multiple"),
        (Method::RollingMedian(RollingMedian::default()), "rolling_median"),
    ];
    for (method, name) in cases {
        assert_limits(method, &norms, &numbers(&series[name]), 1e-12);
    }
}

/// `zclip` 1.0.0 gives what is left of a norm.
#[test]
fn zclip_leaves_what_the_published_package_leaves() {
    let series = oracle("series");
    let norms = numbers(&series["norms"]);
    for (max_norm, name) in [(None, "zclip"), (Some(1.0), "zclip_at_most_1")] {
        let mut clipper = Method::ZClip(ZClip { max_norm, ..ZClip::default() }).start();
        let mut clipped = 0;
        for (at, (&norm, expected)) in norms.iter().zip(numbers(&series[name])).enumerate() {
            let factor = coefficient(norm, clipper.threshold(norm).unwrap());
            let left = norm * factor;
            clipped += usize::from(factor < 1.0);
            // The coefficient has 1e-6 in it, which its package leaves out where a norm is not above the limit.
            assert!((left / expected - 1.0).abs() < 1e-5, "{name}, step {at}: {left}, not {expected}");
        }
        assert!(clipped > 5, "{name}: only {clipped} steps were clipped");
    }
}

#[test]
fn steps_are_skipped_that_the_reference_skips() {
    let series = oracle("series");
    let mut clipper = Method::SkipStep(SkipStep::default()).start();
    let mut skipped = 0;
    for (at, norm) in numbers(&series["norms"]).into_iter().enumerate() {
        let expected = series["skip_step"][at].as_bool().unwrap();
        let limit = clipper.threshold(norm).unwrap();
        assert_eq!(limit, if expected { 0.0 } else { f64::INFINITY }, "step {at}");
        skipped += usize::from(expected);
    }
    assert!(skipped > 0);
}

/// The definition: all values sorted, at the percentile's place.
#[test]
fn autoclip_keeps_the_percentile_of_everything_so_far() {
    let norms: Vec<f64> =
        crate::random::Stream::new(8, 1).uniforms(900).into_iter().map(|one| (one * 40.0).round()).collect();
    for percent in [0usize, 10, 50, 99, 100] {
        let percentile = percent as f64;
        let mut clipper = Method::AutoClip(AutoClip { percentile }).start();
        for at in 0..norms.len() {
            let mut sorted = norms[..=at].to_vec();
            sorted.sort_by(f64::total_cmp);
            let (below, rest) = (percent * at / 100, percent * at % 100);
            let next = sorted[(below + 1).min(at)];
            let expected = sorted[below] + (next - sorted[below]) * (rest as f64 / 100.0);
            assert!((clipper.threshold(norms[at]).unwrap() - expected).abs() < 1e-12, "{percentile}, {at}");
        }
    }
}

const NAMES: [&str; 3] = ["matrix", "bias", "kernel"];

/// Gradients, weights and second moments of three tensors.
struct Tensors {
    gradients: Vec<Vec<f32>>,
    weights: Vec<Vec<f32>>,
    second: Vec<Vec<f32>>,
    units: Vec<usize>,
}

impl Tensors {
    fn new(oracle: &Value, gradients: &Value, second: Option<&Value>) -> Self {
        let of = |value: &Value, name: &str| -> Vec<f32> {
            numbers(&value[name]).into_iter().map(|one| one as f32).collect()
        };
        let units = |name: &str| {
            let shape = oracle["shapes"][name].as_array().unwrap();
            if shape.len() > 1 { shape[0].as_u64().unwrap() as usize } else { 1 }
        };
        Self {
            gradients: NAMES.iter().map(|name| of(gradients, name)).collect(),
            weights: NAMES.iter().map(|name| of(&oracle["weights"], name)).collect(),
            second: second
                .map_or_else(Vec::new, |second| NAMES.iter().map(|name| of(second, name)).collect()),
            units: NAMES.iter().map(|name| units(name)).collect(),
        }
    }

    fn apply(&mut self, clipper: &mut Clipper) -> Applied {
        let mut parameters: Vec<Parameter<'_>> = self
            .gradients
            .iter_mut()
            .enumerate()
            .map(|(at, gradient)| Parameter {
                gradient,
                weights: &self.weights[at],
                units: self.units[at],
                second_moment: self.second.get(at).map(Vec::as_slice),
                is_head: false,
            })
            .collect();
        clipper.apply(&mut parameters)
    }

    fn assert_close(&self, expected: &Value, what: &str) {
        for (name, gradient) in NAMES.iter().zip(&self.gradients) {
            for (at, (&found, expected)) in gradient.iter().zip(numbers(&expected[*name])).enumerate() {
                // Six units of f32: the references compute their factors in it.
                let close = (f64::from(found) - expected).abs() <= 4e-7 * expected.abs().max(1e-3);
                assert!(close, "{what}, {name}[{at}]: {found}, not {expected}");
            }
        }
    }
}

#[test]
fn gradients_are_clipped_as_the_references_clip_them() {
    let oracle = oracle("gradients");
    let layers = |shares| Method::PerLayer(PerLayer { threshold: 0.5, shares });
    let cases = [
        (Method::FixedNorm(FixedNorm { threshold: 0.25 }), "fixed_norm"),
        (Method::ByValue(ByValue { limit: 0.1 }), "by_value"),
        (Method::UnitWise(UnitWise { ratio: 0.1, floor: 1e-3 }), "agc"),
        (Method::BlockRms(BlockRms { threshold: 0.08 }), "block_rms"),
        (layers(Shares::Uniform), "per_layer_uniform"),
        (layers(Shares::BySize), "per_layer_by_size"),
    ];
    for (method, name) in cases {
        let mut tensors = Tensors::new(&oracle, &oracle["gradients"][0], None);
        let applied = tensors.apply(&mut method.start());
        tensors.assert_close(&oracle["one_step"][name], name);
        assert!(applied.clipped_norm < applied.norm && !applied.skip, "{name}: {applied:?}");
    }
}

#[test]
fn adagc_leaves_of_every_tensor_what_the_reference_leaves() {
    let oracle = oracle("gradients");
    let mut clipper = Method::AdaGc(AdaGc::default()).start();
    let mut by_norms = Method::AdaGc(AdaGc::default()).start();
    for (step, gradients) in oracle["gradients"].as_array().unwrap().iter().enumerate() {
        let mut tensors = Tensors::new(&oracle, gradients, None);
        let norms: Vec<f64> =
            tensors.gradients.iter().map(|one| super::super::gradient::norm_of(one)).collect();
        let factors = by_norms.factors(&norms, &[12, 5, 12]).unwrap();
        tensors.apply(&mut clipper);
        for (at, name) in NAMES.iter().enumerate() {
            let found = super::super::gradient::norm_of(&tensors.gradients[at]);
            let expected = oracle["adagc"][step][*name].as_f64().unwrap();
            // The reference follows its mean in f32, over 130 steps.
            assert!((found / expected - 1.0).abs() < 1e-5, "step {step}, {name}: {found}, not {expected}");
            assert!(
                (norms[at] * factors[at] / found - 1.0).abs() < 1e-6,
                "by norms alone: step {step}, {name}"
            );
        }
    }
}

#[test]
fn spam_clips_resets_and_warms_up_as_the_reference_does() {
    let oracle = oracle("gradients");
    let spam = Spam { ratio: 50.0, interval: 50, quiet: 20, warm_up: 10 };
    let mut clipper = Method::Spam(spam).start();
    let mut clipped = 0;
    for (step, gradients) in oracle["gradients"].as_array().unwrap().iter().enumerate() {
        let kept = oracle["spam"].as_array().unwrap().iter().find(|row| row["step"] == step);
        let mut tensors = Tensors::new(&oracle, gradients, kept.map(|row| &row["second"]));
        let applied = tensors.apply(&mut clipper);
        let expected = &oracle["spam_schedule"][step];
        assert_eq!(applied.reset_moments, expected["reset"].as_bool().unwrap(), "step {step}");
        // The reference's factor is read off a step of f32 weights.
        assert!(
            (applied.rates[0] - expected["rate"].as_f64().unwrap()).abs() < 5e-3,
            "step {step}: {applied:?}"
        );
        if let Some(row) = kept {
            tensors.assert_close(&row["clipped"], &format!("SPAM, step {step}"));
            clipped += usize::from(applied.clipped_norm < applied.norm);
        }
    }
    assert!(clipped >= 3, "only {clipped} of the steps were clipped");
}

#[test]
fn update_clipping_shortens_the_steps_that_the_reference_shortens() {
    let oracle = oracle("gradients");
    let mut clipper = Method::UpdateClipping(UpdateClipping::default()).start();
    let mut shortened = 0;
    for row in oracle["stable"].as_array().unwrap() {
        let gradients = &oracle["gradients"][row["step"].as_u64().unwrap() as usize];
        let mut tensors = Tensors::new(&oracle, gradients, Some(&row["second"]));
        let before = tensors.gradients.clone();
        let applied = tensors.apply(&mut clipper);
        assert_eq!(tensors.gradients, before, "it leaves gradients alone");
        for (name, rate) in NAMES.iter().zip(applied.rates) {
            let expected = row["factors"][*name].as_f64().unwrap();
            assert!((rate / expected - 1.0).abs() < 1e-5, "{name}: {rate}, not {expected}");
            shortened += usize::from(rate < 0.9);
        }
    }
    assert!(shortened >= 3, "only {shortened} steps were shortened");
}

/// torch 2.9, `clip_grad_norm_` of f32 gradients to 1: `[inf, 1]` becomes `[nan, 0]`, `[1e20, 1]` becomes `[0, 0]` (A3, T26).
#[test]
fn gradients_beyond_f32_keep_their_direction_and_infinite_ones_skip_the_step() {
    let elements = [1e20f32, 1.0];
    let in_f32 = elements.iter().map(|g| g * g).sum::<f32>().sqrt();
    assert!(in_f32.is_infinite() && 1.0 / (in_f32 + 1e-6) == 0.0);
    assert!((f32::INFINITY * (1.0 / (f32::INFINITY + 1e-6))).is_nan());
    let clip = |elements: &mut [f32]| {
        let parameter = Parameter {
            gradient: elements,
            weights: &[1.0, 1.0],
            units: 1,
            second_moment: None,
            is_head: false,
        };
        Method::FixedNorm(FixedNorm { threshold: 1.0 }).start().apply(&mut [parameter])
    };
    let mut large = elements;
    assert!(!clip(&mut large).skip);
    assert!((large[0] - 1.0).abs() < 1e-6 && large[1] > 0.0, "{large:?}");
    let mut infinite = [f32::INFINITY, 1.0];
    assert!(clip(&mut infinite).skip);
    assert_eq!(infinite, [f32::INFINITY, 1.0]);
}

#[test]
fn a_norm_that_is_not_finite_is_no_step_and_is_not_remembered() {
    for method in Method::with_usual_constants().into_iter().filter(|method| method.needs() == Needs::Norm) {
        let (mut one, mut other) = (method.start(), method.start());
        for step in 0..200 {
            let norm = 1.0 + f64::from(step % 7) / 10.0;
            if step % 11 == 0 {
                assert_eq!(one.threshold(f64::NAN), Some(0.0), "{method}");
                assert_eq!(one.threshold(f64::INFINITY), Some(0.0), "{method}");
            }
            assert_eq!(one.threshold(norm), other.threshold(norm), "{method}");
        }
    }
}

#[test]
fn what_needs_more_than_norms_has_no_threshold_and_names_lead_back_to_methods() {
    for method in Method::with_usual_constants() {
        assert_eq!(method.start().threshold(1.0).is_some(), method.needs() == Needs::Norm, "{method}");
        assert_eq!(method.name().parse::<Method>(), Ok(method));
    }
    assert_eq!("0.25".parse::<Method>(), Ok(Method::FixedNorm(FixedNorm { threshold: 0.25 })));
    for wrong in ["-1", "0", "nan", "inf", "clip"] {
        assert!(wrong.parse::<Method>().is_err(), "{wrong}");
    }
}

#[test]
fn a_method_that_remembers_what_is_of_another_is_not_read() {
    let of = |method: Method| serde_json::to_value(method.start()).unwrap();
    let mut stored = of(Method::RollingMedian(RollingMedian::default()));
    stored["state"] = of(Method::SkipStep(SkipStep::default()))["state"].clone();
    let error = serde_json::from_value::<Clipper>(stored).unwrap_err().to_string();
    assert!(error.contains("rolling-median") && error.contains("another method"), "{error}");
}

/// What a resumed trainer needs: a clipper written down and read again goes on as it would have.
#[test]
fn a_clipper_that_was_written_down_goes_on() {
    let norms = crate::random::Stream::new(2, 9).uniforms(300);
    for method in Method::with_usual_constants().into_iter().filter(|method| method.needs() == Needs::Norm) {
        let mut whole = method.start();
        for norm in &norms[..200] {
            whole.threshold(*norm);
        }
        let text = serde_json::to_string(&whole).unwrap();
        let mut resumed: Clipper = serde_json::from_str(&text).unwrap();
        for norm in &norms[200..] {
            assert_eq!(resumed.threshold(*norm), whole.threshold(*norm), "{method}");
        }
    }
}
