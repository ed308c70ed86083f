//! `[[limits]]`: the largest value of a measured quantity, and its largest growth since the baseline.

use serde::{Deserialize, Serialize};

use crate::analysis::model::{
    CheckpointAnalysis, Degenerate, Measured, Role, Section, Statistics, TensorAnalysis,
};
use crate::checkpoint::Glob;
use crate::rules::{Bound, Severity};

/// What a limit is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Quantity {
    /// √Σx² over all parameters.
    ParameterNorm,
    /// √Σx² of a tensor.
    Norm,
    /// √(Σx²/n) of a tensor.
    Rms,
    /// Largest |x| of a tensor.
    MaxAbs,
    /// σ₁ of a tensor of two dimensions or more; needs `--measure spectra`.
    SpectralNorm,
    /// The largest logit that an attention head can give, of each head of a layer; needs `--measure spectra`.
    LogitBound,
}

/// Every quantity, by the name it has in a policy.
pub(super) const QUANTITIES: [(&str, Quantity); 6] = [
    ("parameter-norm", Quantity::ParameterNorm),
    ("norm", Quantity::Norm),
    ("rms", Quantity::Rms),
    ("max-abs", Quantity::MaxAbs),
    ("spectral-norm", Quantity::SpectralNorm),
    ("logit-bound", Quantity::LogitBound),
];

/// One limit of a policy.
#[derive(Debug, Clone)]
pub struct Limit {
    /// What is limited.
    pub quantity: Quantity,
    /// The pattern as written, and ready to match; every tensor of the model without one.
    pub tensors: Option<(String, Glob)>,
    /// The largest value.
    pub largest: Option<f64>,
    /// The largest ratio to the baseline.
    pub growth: Option<f64>,
    /// The largest ratio to the baseline for each step.
    pub growth_per_step: Option<f64>,
    /// The smallest ratio to the baseline.
    pub shrink: Option<f64>,
    /// How bad it is to break it.
    pub severity: Severity,
}

impl Limit {
    /// Whether it needs something to compare with.
    pub fn needs_baseline(&self) -> bool {
        self.growth.is_some() || self.growth_per_step.is_some() || self.shrink.is_some()
    }

    /// What of the quantity it compares with the baseline, for a sentence.
    pub(super) fn compared(&self) -> Vec<&'static str> {
        let grows = self.growth.is_some() || self.growth_per_step.is_some();
        [(grows, "growth"), (self.shrink.is_some(), "shrinking")]
            .into_iter()
            .filter_map(|(is_compared, what)| is_compared.then_some(what))
            .collect()
    }

    /// Whether it is about `tensor`.
    pub fn is_about(&self, tensor: &TensorAnalysis) -> bool {
        !matches!(self.quantity, Quantity::ParameterNorm | Quantity::LogitBound)
            && tensor.section == Section::Model
            && tensor.tied_to.is_none()
            && (self.quantity != Quantity::SpectralNorm || tensor.shape.len() >= 2)
            && self.names(tensor)
    }

    /// Whether its pattern, where it has one, is of `tensor`'s name.
    fn names(&self, tensor: &TensorAnalysis) -> bool {
        self.names_one_of(&[&tensor.name, &tensor.canonical_name])
    }

    /// Whether its pattern, where it has one, is of one of `names`.
    pub(super) fn names_one_of(&self, names: &[&str]) -> bool {
        self.tensors.as_ref().is_none_or(|(_, glob)| names.iter().any(|name| glob.is_match(name)))
    }

    /// Why it has nothing to judge in `checkpoint`, where its pattern leads to no tensor that it could be about.
    pub(super) fn about_nothing(&self, checkpoint: &CheckpointAnalysis) -> Option<String> {
        let (pattern, _) = self.tensors.as_ref()?;
        // Where no tensor was read at all, that is what is told.
        if checkpoint.tensors.is_empty() || checkpoint.tensors.iter().any(|tensor| self.is_about(tensor)) {
            return None;
        }
        let of_the_model = |tensor: &&TensorAnalysis| tensor.section == Section::Model && self.names(tensor);
        let why = match checkpoint.tensors.iter().find(of_the_model) {
            None => "no tensor of the model has such a name".to_owned(),
            Some(TensorAnalysis { name, tied_to: Some(first), .. }) => {
                format!("{} is {first} under another name, and is judged under that", name.escape_debug())
            }
            Some(tensor) => format!("{} has fewer than two dimensions", tensor.name.escape_debug()),
        };
        let (quantity, pattern) = (self.quantity.name(), pattern.escape_debug());
        Some(format!("the limit of {quantity} for tensors = \"{pattern}\" was not judged: {why}"))
    }
}

impl Quantity {
    /// The name in a policy and in sentences.
    pub fn name(self) -> &'static str {
        QUANTITIES.iter().find(|(_, quantity)| *quantity == self).map_or("", |(name, _)| name)
    }

    /// The quantity of a tensor. Not measured for that of a whole model.
    pub fn of_tensor(self, tensor: &TensorAnalysis) -> Measured<f64> {
        let pick = |statistics: &Statistics| match self {
            Quantity::ParameterNorm => Measured::not("it is a quantity of the whole model"),
            Quantity::Norm => statistics.l2.clone(),
            Quantity::Rms => statistics.rms.clone(),
            Quantity::MaxAbs => statistics.max_abs.clone(),
            Quantity::LogitBound => Measured::not("it is a quantity of attention heads"),
            Quantity::SpectralNorm => tensor.spectrum.clone().map(|spectrum| spectrum.spectral_norm.value),
        };
        match &tensor.statistics {
            Measured::Value(statistics) => pick(statistics),
            Measured::NotMeasured(reason) => Measured::NotMeasured(reason.clone()),
            Measured::Degenerate(kind) => Measured::Degenerate(*kind),
        }
    }

    /// The quantity of a whole model.
    pub fn of_checkpoint(self, checkpoint: &CheckpointAnalysis) -> Measured<f64> {
        match self {
            Quantity::ParameterNorm => checkpoint.global_norm(),
            _ => Measured::not("it is a quantity of single tensors"),
        }
    }

    /// Whether `tensor` holds the queries of attention heads, which have a logit bound.
    pub(super) fn has_heads(tensor: &TensorAnalysis) -> bool {
        matches!(tensor.role, Role::AttentionQuery | Role::AttentionQkv)
            && tensor.section == Section::Model
            && tensor.tied_to.is_none()
            && tensor.shape.len() >= 2
    }
}

/// What a limit says about one value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    /// Within it, or nothing there that could break it.
    Holds,
    /// Beyond it: label, value, limit, and on which side of the limit it should be.
    Broken(&'static str, f64, f64, Bound),
    /// It could not be judged, and why.
    Unknown(String),
}

impl Verdict {
    /// Whether both say the same of two values.
    pub(super) fn is_alike(&self, other: &Verdict) -> bool {
        match (self, other) {
            (Verdict::Broken(one, ..), Verdict::Broken(other, ..)) => one == other,
            (one, other) => one == other,
        }
    }

    /// Whether its value is farther beyond the limit than that of `other`, which is alike.
    pub(super) fn is_farther_than(&self, other: &Verdict) -> bool {
        match (self, other) {
            (Verdict::Broken(_, one, _, Bound::AtLeast), Verdict::Broken(_, other, ..)) => {
                one.total_cmp(other).is_lt()
            }
            (Verdict::Broken(_, one, ..), Verdict::Broken(_, other, ..)) => one.total_cmp(other).is_gt(),
            _ => false,
        }
    }
}

/// What was measured then, and how many steps ago.
pub(super) struct Then {
    pub value: Measured<f64>,
    pub steps: Option<u64>,
}

impl Limit {
    /// Holds a value, and what it was in the baseline, against every part of the limit.
    pub(super) fn judge(&self, now: &Measured<f64>, then: Option<&Then>) -> Vec<Verdict> {
        let now = match now {
            Measured::Value(now) => *now,
            Measured::Degenerate(Degenerate::Empty) => return vec![Verdict::Holds],
            Measured::Degenerate(kind) => {
                return vec![Verdict::Unknown(format!("it has no value ({kind:?})"))];
            }
            Measured::NotMeasured(reason) => return vec![Verdict::Unknown(reason.to_string())],
        };
        let mut verdicts = Vec::new();
        if let Some(largest) = self.largest {
            verdicts.push(held("value", now, largest));
        }
        if let Some(then) = then {
            if let Some(growth) = self.growth {
                verdicts.push(grown(now, then, growth));
            }
            if let Some(growth) = self.growth_per_step {
                verdicts.push(grown_per_step(now, then, growth));
            }
            if let Some(shrink) = self.shrink {
                verdicts.push(shrunk(now, then, shrink));
            }
        }
        verdicts
    }
}

fn held(label: &'static str, value: f64, limit: f64) -> Verdict {
    if value <= limit { Verdict::Holds } else { Verdict::Broken(label, value, limit, Bound::AtMost) }
}

fn shrunk(now: f64, then: &Then, limit: f64) -> Verdict {
    match divisor(then) {
        Err(verdict) => verdict,
        Ok(then) if now / then >= limit => Verdict::Holds,
        Ok(then) => Verdict::Broken("ratio to the baseline", now / then, limit, Bound::AtLeast),
    }
}

/// What it was, where a ratio to it means something.
fn divisor(then: &Then) -> Result<f64, Verdict> {
    match &then.value {
        Measured::Value(then) if *then > 0.0 => Ok(*then),
        // Zero-initialised: every growth from there is infinite, and none of them means anything.
        Measured::Value(_) | Measured::Degenerate(Degenerate::Empty | Degenerate::AllZero) => {
            Err(Verdict::Holds)
        }
        Measured::Degenerate(kind) => {
            Err(Verdict::Unknown(format!("in the baseline it has no value ({kind:?})")))
        }
        Measured::NotMeasured(reason) => Err(Verdict::Unknown(format!("in the baseline: {reason}"))),
    }
}

fn grown(now: f64, then: &Then, limit: f64) -> Verdict {
    divisor(then).map_or_else(|verdict| verdict, |then| held("ratio to the baseline", now / then, limit))
}

fn grown_per_step(now: f64, then: &Then, limit: f64) -> Verdict {
    match (divisor(then), then.steps) {
        (Err(verdict), _) => verdict,
        (Ok(_), None) => Verdict::Unknown(
            "it is not known how many steps lie between the baseline and this checkpoint".to_owned(),
        ),
        (Ok(_), Some(0)) => Verdict::Unknown("the baseline is of the same step or a later one".to_owned()),
        (Ok(then), Some(steps)) => {
            held("ratio to the baseline per step", (now / then).powf(1.0 / steps as f64), limit)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(largest: Option<f64>, growth: Option<f64>, growth_per_step: Option<f64>) -> Limit {
        let (quantity, severity) = (Quantity::Norm, Severity::Critical);
        Limit { quantity, tensors: None, largest, growth, growth_per_step, shrink: None, severity }
    }

    fn then(value: f64, steps: Option<u64>) -> Then {
        Then { value: Measured::Value(value), steps }
    }

    #[test]
    fn the_limit_itself_is_the_last_value_that_holds() {
        let limit = limit(Some(4.0), Some(2.0), None);
        let judge = |now, before| limit.judge(&Measured::Value(now), Some(&then(before, None)));
        assert_eq!(judge(4.0, 2.0), [Verdict::Holds, Verdict::Holds]);
        assert_eq!(judge(4.5, 4.0), [Verdict::Broken("value", 4.5, 4.0, Bound::AtMost), Verdict::Holds]);
        assert_eq!(
            judge(3.0, 1.0),
            [Verdict::Holds, Verdict::Broken("ratio to the baseline", 3.0, 2.0, Bound::AtMost)]
        );
    }

    #[test]
    fn what_collapses_breaks_the_smallest_ratio_to_the_baseline() {
        let limit = Limit { shrink: Some(0.5), ..limit(None, None, None) };
        let judge = |now| limit.judge(&Measured::Value(now), Some(&then(4.0, None)));
        assert_eq!((judge(2.0), judge(9.0)), (vec![Verdict::Holds], vec![Verdict::Holds]));
        assert_eq!(judge(0.0), [Verdict::Broken("ratio to the baseline", 0.0, 0.5, Bound::AtLeast)]);
        assert!(judge(0.0)[0].is_farther_than(&judge(1.0)[0]));
    }

    #[test]
    fn growth_per_step_is_the_root_of_the_growth() {
        let limit = limit(None, None, Some(2.0));
        let judge = |now| limit.judge(&Measured::Value(now), Some(&then(1.0, Some(3))));
        assert_eq!(judge(8.0), [Verdict::Holds]);
        let [Verdict::Broken(_, ratio, 2.0, _)] = judge(27.0)[..] else { panic!("{:?}", judge(27.0)) };
        assert!((ratio - 3.0).abs() < 1e-12);
    }

    #[test]
    fn what_cannot_be_compared_is_unknown_and_growth_from_zero_is_no_growth() {
        let per_step = limit(None, None, Some(2.0));
        for steps in [None, Some(0)] {
            let verdict = per_step.judge(&Measured::Value(1.0), Some(&then(1.0, steps)));
            assert!(matches!(verdict[..], [Verdict::Unknown(_)]), "{verdict:?}");
        }
        let growth = limit(None, Some(2.0), None);
        assert_eq!(growth.judge(&Measured::Value(1.0), Some(&then(0.0, None))), [Verdict::Holds]);
        let unmeasured = Then { value: Measured::not("needs --measure norms"), steps: None };
        let verdict = growth.judge(&Measured::Value(1.0), Some(&unmeasured));
        assert_eq!(verdict, [Verdict::Unknown("in the baseline: needs --measure norms".to_owned())]);
    }

    #[test]
    fn a_value_that_is_not_a_number_breaks_its_limit() {
        let verdict = limit(Some(4.0), None, None).judge(&Measured::Value(f64::NAN), None);
        assert!(matches!(verdict[..], [Verdict::Broken(..)]), "{verdict:?}");
    }
}
