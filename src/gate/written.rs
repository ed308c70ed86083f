//! `flashpoint.toml` as it is written, before anything in it is checked; its JSON Schema.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use toml::Spanned;

use crate::analysis::model::Format;
#[cfg(test)]
use crate::checkpoint::Role;
use crate::rules::Severity;

/// What a project decided about its checkpoints.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct File {
    /// What passes and what does not.
    #[serde(default)]
    pub gate: Gate,
    /// For a rule (`FP406`, `norm-gain-outlier`) or a family (`FP4xx`): its severity, and for a rule its limits.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "BTreeMap<String, RuleTable>"))]
    pub rules: BTreeMap<Spanned<String>, BTreeMap<Spanned<String>, Spanned<toml::Value>>>,
    /// Exceptions: tensors that rules and limits leave alone, each with a reason.
    #[serde(default)]
    pub skip: Vec<Skip>,
    /// Largest values and largest growth of what was measured.
    #[serde(default)]
    pub limits: Vec<Limit>,
    /// How to compare with the accepted checkpoint.
    #[serde(default)]
    pub baseline: Baseline,
    /// Roles and layers of tensors whose names flashpoint does not know.
    #[serde(default, rename = "names")]
    #[cfg_attr(test, schemars(with = "Vec<Name>"))]
    pub _names: IgnoredAny,
}

/// `[gate]`.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Gate {
    /// The least severity that fails; `critical` when not given.
    pub fail_on: Option<Severity>,
    /// Rules or families that must have been evaluated, or the gate cannot decide. FP101 always is one of them.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub required: Vec<Spanned<String>>,
    /// Formats that files may have; all when not given.
    pub formats: Option<Vec<Format>>,
}

/// One table below `[rules]`, for the schema.
#[cfg(test)]
#[derive(schemars::JsonSchema)]
#[schemars(rename_all = "kebab-case")]
struct RuleTable {
    /// Replaces the severity of the rule's findings.
    #[expect(dead_code, reason = "read through toml::Value, to keep the place of each key")]
    severity: Option<Level>,
    /// Limits by name, as `flashpoint explain` lists them.
    #[expect(dead_code, reason = "read through toml::Value, to keep the place of each key")]
    #[schemars(flatten)]
    thresholds: BTreeMap<String, f64>,
}

/// A severity, or none at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Does not count.
    Off,
    /// As a note.
    Note,
    /// As a warning.
    Warning,
    /// As critical.
    Critical,
}

impl Level {
    /// The severity; none for what does not count.
    pub fn severity(self) -> Option<Severity> {
        match self {
            Level::Off => None,
            Level::Note => Some(Severity::Note),
            Level::Warning => Some(Severity::Warning),
            Level::Critical => Some(Severity::Critical),
        }
    }
}

/// One `[[skip]]`.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Skip {
    /// A glob over names of tensors; `*` also matches dots.
    #[cfg_attr(test, schemars(with = "String"))]
    pub tensors: Spanned<String>,
    /// Rules or families that leave them alone; all, and the limits, when not given.
    #[cfg_attr(test, schemars(with = "Option<Vec<String>>"))]
    pub rules: Option<Vec<Spanned<String>>>,
    /// Why.
    #[cfg_attr(test, schemars(with = "String"))]
    pub reason: Spanned<String>,
    /// The last day on which it holds, such as 2027-06-30, in quotes or not.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub expires: Option<Spanned<toml::Value>>,
}

/// One `[[limits]]`.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Limit {
    /// What is limited: `parameter-norm` of the whole model, or `norm`, `rms`, `max-abs`, `spectral-norm` of tensors,
    /// `logit-bound` of the heads of attention layers.
    #[cfg_attr(test, schemars(with = "super::limit::Quantity"))]
    pub quantity: Spanned<String>,
    /// A glob over names of tensors; every tensor of the model when not given.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub tensors: Option<Spanned<String>>,
    /// The largest value.
    #[cfg_attr(test, schemars(with = "Option<f64>"))]
    pub largest: Option<Spanned<f64>>,
    /// The largest ratio to the baseline, however many steps lie between.
    #[cfg_attr(test, schemars(with = "Option<f64>"))]
    pub growth: Option<Spanned<f64>>,
    /// The largest ratio to the baseline for each step: (now/then)^(1/steps).
    #[cfg_attr(test, schemars(with = "Option<f64>"))]
    pub growth_per_step: Option<Spanned<f64>>,
    /// The smallest ratio to the baseline, 0 to 1: what collapses breaks it.
    #[cfg_attr(test, schemars(with = "Option<f64>"))]
    pub shrink: Option<Spanned<f64>>,
    /// How bad it is to break it; `critical` when not given.
    pub severity: Option<Severity>,
}

/// `[baseline]`.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Baseline {
    /// The measurement file of the accepted checkpoint, beside the policy; `--baseline` replaces it.
    pub file: Option<String>,
    /// A finding that the baseline has is known, until a number behind it is worse by more than this factor; 1.1 when
    /// not given.
    #[cfg_attr(test, schemars(with = "Option<f64>"))]
    pub finding_growth: Option<Spanned<f64>>,
    /// Severity of a tensor that the baseline does not have; `warning` when not given.
    pub new: Option<Level>,
    /// Severity of a tensor that only the baseline has; `critical` when not given.
    pub missing: Option<Level>,
    /// Severity of another dtype; `warning` when not given.
    pub retyped: Option<Level>,
    /// Severity of another shape; `critical` when not given.
    pub reshaped: Option<Level>,
}

/// One `[[names]]`, for the schema; read with the checkpoint's names.
#[cfg(test)]
#[derive(schemars::JsonSchema)]
#[expect(dead_code, reason = "the schema needs the fields, the reader is elsewhere")]
#[schemars(deny_unknown_fields)]
struct Name {
    /// A glob over canonical names.
    pattern: String,
    /// The role of every tensor it matches.
    role: Role,
    /// The path of its layer, instead of the name without its last component.
    layer: Option<String>,
}

/// The JSON Schema of `flashpoint.toml`; dates are text there.
#[cfg(test)]
pub(crate) fn policy_schema() -> schemars::Schema {
    schemars::schema_for!(File)
}
