//! Frequencies of rotary positions, by the settings of `config.json`: plain, linear, and LLaMA 3's.
//!
//! θᵢ = base^(-2i/r) for r rotated numbers (Su et al. 2021). Linear scaling divides all by a factor (Chen et al. 2023).
//! LLaMA 3 divides those whose wavelength is long against the context that it was first trained on, and goes over
//! smoothly (`transformers`, modeling_rope_utils.py, `_compute_llama3_parameters`).

use std::f64::consts::TAU;

use serde_json::Value;

use super::config::Config;
use crate::error::Result;

/// Radians per token for heads of `width` numbers.
pub(super) fn frequencies(config: &Config<'_>, width: usize) -> Result<Vec<f64>> {
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
    let kind = setting("rope_type").or_else(|| setting("type")).and_then(Value::as_str);
    match (kind.unwrap_or("default"), number("factor")) {
        ("default", _) => Ok(plain.collect()),
        ("linear", Some(factor)) => Ok(plain.map(|frequency| frequency / factor).collect()),
        ("llama3", Some(factor)) => {
            let ends =
                ["low_freq_factor", "high_freq_factor", "original_max_position_embeddings"].map(number);
            let [Some(low), Some(high), Some(context)] = ends else { return Err(config.not_built(key)) };
            Ok(plain.map(|frequency| llama3(frequency, factor, (low, high), context)).collect())
        }
        _ => Err(config.not_built(key)),
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
