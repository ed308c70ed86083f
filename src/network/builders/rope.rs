//! Rotary positions by the settings of `config.json`: plain, linear, dynamic, LLaMA 3's and YaRN.
//!
//! θᵢ = base^(-2i/r) for r rotated numbers (Su et al. 2021). Linear scaling divides all by a factor (Chen et al. 2023).
//! LLaMA 3 divides those whose wavelength is long against the context that it was first trained on, and goes over
//! smoothly. YaRN (Peng et al. 2023) does so over a range of indices, and multiplies what is rotated by a factor. Dynamic scaling
//! changes the base for sequences beyond the context, which are not taken here. Names and defaults are those of
//! `transformers`, modeling_rope_utils.py.

use std::f64::consts::TAU;
use std::sync::Arc;

use serde_json::Value;

use super::config::Config;
use crate::error::Result;

/// How heads are rotated.
pub(super) struct Rotation {
    /// Radians per token, one for each pair.
    pub frequencies: Arc<[f64]>,
    /// What rotated numbers are multiplied by.
    pub factor: f64,
    /// The longest sequence for which these are the frequencies, where they depend on it.
    pub longest: Option<usize>,
}

/// How heads of `width` numbers are rotated.
///
/// # Errors
/// When the settings are of a kind that is not built, or lack a number.
pub(super) fn rotation(config: &Config<'_>, width: usize) -> Result<Rotation> {
    // `rope_parameters` holds all of it since transformers 5; before, `rope_scaling` held what changes.
    let key = if config.get("rope_parameters").is_some() { "rope_parameters" } else { "rope_scaling" };
    let settings = config.object(key);
    let setting = |name: &str| settings.and_then(|settings| settings.get(name));
    let number = |name: &str| setting(name).and_then(Value::as_f64);
    let base = match number("rope_theta") {
        Some(base) => base,
        None => config.number_or("rope_theta", 10_000.0)?,
    };
    let share = match number("partial_rotary_factor") {
        Some(share) => share,
        None => config.number_or("partial_rotary_factor", 1.0)?,
    };
    if !(share > 0.0 && share <= 1.0 && base > 0.0) {
        return Err(config.not_built(key));
    }
    // As many whole pairs as fit: `int(head_dim · share)`.
    let rotated = (1..=width).take_while(|&count| count as f64 <= width as f64 * share).count();
    let plain = (0..rotated / 2).map(|index| base.powf(-2.0 * index as f64 / rotated as f64));
    let plain: Vec<f64> = plain.collect();
    let scaled = |scale: &dyn Fn(f64) -> f64| plain.iter().map(|&frequency| scale(frequency)).collect();
    let kind = setting("rope_type").or_else(|| setting("type")).and_then(Value::as_str);
    let mut rotation = Rotation { frequencies: Arc::default(), factor: 1.0, longest: None };
    match (kind.unwrap_or("default"), number("factor")) {
        ("default", _) => rotation.frequencies = plain.into(),
        ("linear", Some(factor)) => rotation.frequencies = scaled(&|frequency| frequency / factor),
        ("dynamic", Some(_)) => {
            rotation.longest = Some(config.size("max_position_embeddings")?);
            rotation.frequencies = plain.into();
        }
        ("llama3", Some(factor)) => {
            let ends =
                ["low_freq_factor", "high_freq_factor", "original_max_position_embeddings"].map(number);
            let [Some(low), Some(high), Some(context)] = ends else { return Err(config.not_built(key)) };
            rotation.frequencies = scaled(&|frequency| llama3(frequency, factor, (low, high), context));
        }
        ("yarn", factor) => {
            let Some(context) = number("original_max_position_embeddings").filter(|&context| context > 0.0)
            else {
                return Err(config.not_built(key));
            };
            let factor = match factor {
                Some(factor) => factor,
                None => config.size("max_position_embeddings")? as f64 / context,
            };
            let truncated = setting("truncate").and_then(Value::as_bool).unwrap_or(true);
            let turns = [number("beta_fast").unwrap_or(32.0), number("beta_slow").unwrap_or(1.0)];
            let yarn = Yarn { base, factor, context, turns, truncated };
            rotation.frequencies = yarn.frequencies(&plain, rotated);
            rotation.factor = number("attention_factor")
                .unwrap_or_else(|| yarn.attention_factor(number("mscale"), number("mscale_all_dim")));
        }
        _ => return Err(config.not_built(key)),
    }
    Ok(rotation)
}

/// YaRN's settings.
struct Yarn {
    base: f64,
    factor: f64,
    /// Tokens of the context before it was stretched.
    context: f64,
    /// Turns over that context above which a frequency stays (`beta_fast`), and below which it is divided (`beta_slow`).
    turns: [f64; 2],
    /// The range of indices begins and ends at whole ones.
    truncated: bool,
}

impl Yarn {
    fn frequencies(&self, plain: &[f64], rotated: usize) -> Arc<[f64]> {
        let index =
            |turns: f64| rotated as f64 * (self.context / (turns * TAU)).ln() / (2.0 * self.base.ln());
        let [mut low, mut high] = self.turns.map(index);
        if self.truncated {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(rotated as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        let scaled = plain.iter().enumerate().map(|(index, frequency)| {
            let divided = ((index as f64 - low) / (high - low)).clamp(0.0, 1.0);
            divided * frequency / self.factor + (1.0 - divided) * frequency
        });
        scaled.collect()
    }

    /// Section 3.4: 0.1·ln s + 1, which lowers the temperature of the softmax.
    fn attention_factor(&self, scale: Option<f64>, scale_of_all: Option<f64>) -> f64 {
        let of = |scale: f64| if self.factor <= 1.0 { 1.0 } else { 0.1 * scale * self.factor.ln() + 1.0 };
        match (scale, scale_of_all) {
            (Some(scale), Some(all)) if scale != 0.0 && all != 0.0 => of(scale) / of(all),
            _ => of(1.0),
        }
    }
}

fn llama3(frequency: f64, factor: f64, (low, high): (f64, f64), context: f64) -> f64 {
    let turns = context * frequency / TAU;
    if turns > high {
        frequency
    } else if turns < low {
        frequency / factor
    } else {
        let smooth = (turns - low) / (high - low);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;

    #[test]
    fn frequencies_and_factors_are_those_of_transformers() {
        let oracle: Value = serde_json::from_str(include_str!("../../../fixtures/oracle/rope.json")).unwrap();
        let cases = oracle["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 7);
        for case in cases {
            let values: BTreeMap<String, Value> = serde_json::from_value(case["config"].clone()).unwrap();
            let found = rotation(&Config::new(&values, Path::new("config.json")), 16).unwrap();
            let expected: Vec<f64> = serde_json::from_value(case["frequencies"].clone()).unwrap();
            assert_eq!(found.frequencies.len(), expected.len());
            for (found, expected) in found.frequencies.iter().zip(&expected) {
                // Theirs are computed in f32.
                assert!((found / expected - 1.0).abs() < 1e-6, "{}: {found} {expected}", case["name"]);
            }
            assert!((found.factor - case["factor"].as_f64().unwrap()).abs() < 1e-12, "{}", case["name"]);
        }
    }
}
