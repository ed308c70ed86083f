//! What was measured about a run as a whole: the intervals between its checkpoints, its gradient dumps, its log.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Layer, Measured, Role};
pub use crate::history::{Remark, RemarkKind};

/// The run that checkpoints, dumps and logs belong to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Run {
    /// The path's last component, never absolute.
    pub name: String,
    /// The last step that was looked at, where the user asked to stop there.
    pub until: Option<u64>,
    /// What was taken for what, and what was left out, in the order in which it was found.
    pub remarks: Vec<Remark>,
}

/// What happened to the tensors between two checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IntervalAnalysis {
    /// Name of the earlier checkpoint.
    pub from: String,
    /// Name of the later one.
    pub to: String,
    /// Step of the earlier checkpoint.
    pub from_step: u64,
    /// Step of the later one.
    pub to_step: u64,
    /// Every tensor of the model that both have, in the later one's order.
    pub tensors: Vec<TensorInterval>,
    /// Parameters that only one has, or that changed shape: `(canonical name, what)`.
    pub unmatched: Vec<(String, String)>,
}

/// What happened to one parameter between two checkpoints, k optimizer steps apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TensorInterval {
    /// Its name in the later checkpoint.
    pub name: String,
    /// The name both are joined by.
    pub canonical_name: String,
    /// Its layer.
    pub layer: Layer,
    /// Its role.
    pub role: Role,
    /// Number of elements.
    pub elements: u64,
    /// The fp32 master weights of the optimizer were compared, not the stored weights.
    pub from_master: bool,
    /// RMS(w) at the later checkpoint.
    pub weight_rms: Measured<f64>,
    /// RMS(Δw), less what rounding to the stored dtype alone would give.
    pub change_rms: Measured<f64>,
    /// RMS(Δw)/RMS(w), w at the earlier checkpoint.
    pub relative_change: Measured<f64>,
    /// ln(‖w_{t+k}‖/‖w_t‖)/k, per step.
    pub growth_rate: Measured<f64>,
    /// Optimizer steps k between the two states, by the parameter's own counter.
    pub steps: Measured<f64>,
    /// ΣE_k = (Σv_{t+k} − β₂^k Σv_t)/(1−β₂): discounted energy of the interval's gradients (I4).
    pub energy: Measured<f64>,
    /// RMS over the interval of the norm of its gradient: √(ΣE_k·(1−β₂)/(1−β₂^k)).
    pub gradient_norm: Measured<f64>,
    /// `gradient_norm` over the median of those of up to eight intervals before.
    pub gradient_ratio: Measured<f64>,
    /// `relative_change` per √step over the median of those of up to eight intervals before.
    pub change_ratio: Measured<f64>,
    /// Σv_{t+k}/(β₂^k Σv_t): 1 when no gradient arrived at all (C2).
    pub decay_ratio: Measured<f64>,
    /// Share of the elements with v_t > 0 whose v did nothing but decay (I3).
    pub floor_share: Measured<f64>,
    /// Share of the elements whose v fell below free decay: the state was replaced in between (I3).
    pub below_floor_share: Measured<f64>,
    /// cos(Δw, −m/√v) for the state the mapping gives (I9).
    pub mapping_cosine: Measured<f64>,
}

/// One gradient dump.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DumpAnalysis {
    /// Its file or directory, in the run.
    pub name: String,
    /// The step that applied this gradient.
    pub step: u64,
    /// Whether it was taken after clipping, where it says so.
    pub clipped: Option<bool>,
    /// Whether the loss scale is divided out, where it says so.
    pub unscaled: Option<bool>,
    /// Number of micro-batches it is the mean of.
    pub accumulation: Option<u64>,
    /// The rank that wrote it.
    pub rank: Option<u64>,
    /// Norm over all parameters.
    pub norm: Measured<f64>,
    /// Every parameter's gradient, in forward order.
    pub tensors: Vec<DumpTensor>,
    /// (Δgᵀ Δw)/(Δwᵀ Δw) against the dump before, where the weights at both are there (C1).
    pub secant: Measured<f64>,
}

/// The gradient of one parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DumpTensor {
    /// Its name in the dump.
    pub name: String,
    /// The name series join on.
    pub canonical_name: String,
    /// Its layer.
    pub layer: Layer,
    /// Its role.
    pub role: Role,
    /// Number of elements.
    pub elements: u64,
    /// Elements that are NaN or infinite.
    pub non_finite: u64,
    /// L2 norm of the finite elements.
    pub norm: Measured<f64>,
    /// Largest |g|.
    pub max_abs: Measured<f64>,
}

/// Everything the logs of a run say, by step, read with their semantics.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct LogAnalysis {
    /// Where it was read.
    pub sources: Vec<LogSource>,
    /// One point a logged step, by ascending step.
    pub points: Vec<LogPoint>,
    /// What the numbers mean.
    pub semantics: LogSemantics,
}

/// One log file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogSource {
    /// Its name in the run.
    pub file: String,
    /// Its format, `trainer-state`.
    pub format: String,
    /// Rows read.
    pub rows: u64,
    /// Columns that were used: its own name for each quantity.
    pub columns: BTreeMap<String, String>,
}

/// What the numbers of a log mean, as far as it can be told.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct LogSemantics {
    /// Steps from one point to the next: the most common distance.
    pub stride: Option<u64>,
    /// Clipping threshold, where a config beside the log gives it.
    pub clip_threshold: Option<f64>,
    /// Logged norms are those before clipping; `None` where it cannot be told.
    pub before_clipping: Option<bool>,
    /// Logged norms were multiplied by the loss scale, and were divided by it here (A5).
    pub loss_scaled: bool,
    /// The framework replaces a NaN loss by a mean, so that NaN shows as a frozen loss or as 0 (A2).
    pub nan_filtered: bool,
    /// Points whose norm of exactly 0 means that it was not measured.
    pub unmeasured_zeros: u64,
}

/// What was logged at one step, and how it stands against the steps before it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct LogPoint {
    /// The step.
    pub step: u64,
    /// Training loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Number>,
    /// L2 norm of the whole gradient, before clipping and without loss scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<Number>,
    /// Learning rate: of the first group where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<Number>,
    /// Loss scale of mixed precision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<Number>,
    /// Elements of the gradient that are NaN or infinite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub non_finite: Option<u64>,
    /// The optimizer skipped this step.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    /// Gradient norm by layer or parameter.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub grad_norm_by_layer: BTreeMap<String, Number>,
    /// Robust z of ln(grad_norm) against the window before: (ln n − median)/(1.4826·MAD), MAD not below 0.05 (E1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grad_norm_z: Option<f64>,
    /// grad_norm over the median of the window before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grad_norm_ratio: Option<f64>,
    /// (loss − mean)/standard deviation of the window before (E2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_z: Option<f64>,
    /// Median of the last three losses over its running minimum (E3); only where losses are positive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_ratio: Option<f64>,
}

/// A logged number, which may be NaN or infinite: JSON has `"nan"`, `"inf"`, `"-inf"` for these.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Number(pub f64);

impl Number {
    /// The number, where it is finite.
    pub fn finite(self) -> Option<f64> {
        self.0.is_finite().then_some(self.0)
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            value if value.is_finite() => serializer.serialize_f64(value),
            value if value.is_nan() => serializer.serialize_str("nan"),
            value if value > 0.0 => serializer.serialize_str("inf"),
            _ => serializer.serialize_str("-inf"),
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberVisitor)
    }
}

struct NumberVisitor;

impl Visitor<'_> for NumberVisitor {
    type Value = Number;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a number, \"nan\", \"inf\" or \"-inf\"")
    }

    fn visit_f64<E>(self, value: f64) -> Result<Number, E> {
        Ok(Number(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Number, E> {
        Ok(Number(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Number, E> {
        Ok(Number(value as f64))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Number, E> {
        match value {
            "nan" => Ok(Number(f64::NAN)),
            "inf" => Ok(Number(f64::INFINITY)),
            "-inf" => Ok(Number(f64::NEG_INFINITY)),
            other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
        }
    }
}

impl JsonSchema for Number {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Number".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A logged number, which may be NaN or infinite.",
            "anyOf": [{ "type": "number" }, { "enum": ["nan", "inf", "-inf"] }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_json_lacks_come_back_as_they_went() {
        for value in [1.5, -2.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            let text = serde_json::to_string(&Number(value)).unwrap();
            let back: Number = serde_json::from_str(&text).unwrap();
            assert_eq!(back.0.to_bits(), value.to_bits(), "{text}");
        }
        assert!(serde_json::from_str::<Number>("\"many\"").is_err());
    }
}
