//! Hyperparameters that no training goes on from: what the frameworks refuse to begin with and read back without a word.
//!
//! `torch.optim` checks its arguments when an optimizer is made, and never again: `load_state_dict` takes a learning rate of
//! NaN as it is, and the next step makes every parameter NaN.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number that no training goes on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ImpossibleNumber {
    /// The file, and the keys that lead to it: `optimizer.pt: param_groups[0].lr`.
    pub place: String,
    /// The number, also where JSON has none for it: `NaN`, `-0.001`.
    pub value: String,
    /// What it may be.
    pub wanted: Range,
}

/// What a hyperparameter may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Range {
    /// Finite, above 0.
    Positive,
    /// Finite, 0 or more.
    NotNegative,
    /// From 0 to below 1.
    BelowOne,
    /// From 0 to 1.
    UpToOne,
}

/// Hyperparameters of a group, by the names that torch gives them, and what its constructors ask of each.
pub(super) const OF_GROUPS: &[(&str, Range)] = &[
    ("lr", Range::NotNegative),
    ("initial_lr", Range::NotNegative),
    ("eps", Range::NotNegative),
    ("weight_decay", Range::NotNegative),
    ("momentum", Range::UpToOne),
    ("alpha", Range::UpToOne),
];

/// The decays of `betas`, however many.
pub(super) const OF_BETAS: Range = Range::BelowOne;

/// The rates of a schedule.
pub(super) const OF_RATES: Range = Range::NotNegative;

/// A loss scale: gradients are divided by it.
pub(super) const OF_SCALES: Range = Range::Positive;

impl Range {
    /// `value` at `place`, where it is none of these.
    pub(super) fn violated(self, place: String, value: f64) -> Option<ImpossibleNumber> {
        let holds = match self {
            Range::Positive => value.is_finite() && value > 0.0,
            Range::NotNegative => value.is_finite() && value >= 0.0,
            Range::BelowOne => (0.0..1.0).contains(&value),
            Range::UpToOne => (0.0..=1.0).contains(&value),
        };
        (!holds).then(|| ImpossibleNumber { place, value: value.to_string(), wanted: self })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Range::Positive => "a finite number above 0",
            Range::NotNegative => "a finite number, 0 or more",
            Range::BelowOne => "from 0 to below 1",
            Range::UpToOne => "from 0 to 1",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_number_is_in_no_range_and_what_constructors_take_is_in_its_own() {
        for range in [Range::Positive, Range::NotNegative, Range::BelowOne, Range::UpToOne] {
            for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1e-3] {
                assert!(range.violated(String::new(), value).is_some(), "{range} {value}");
            }
            assert_eq!(range.violated(String::new(), 0.5), None);
        }
        let holds = |range: Range, value| range.violated(String::new(), value).is_none();
        assert!(!holds(Range::Positive, 0.0) && holds(Range::NotNegative, 0.0));
        assert!(!holds(Range::BelowOne, 1.0) && holds(Range::UpToOne, 1.0));
        let told = Range::BelowOne.violated("betas[1]".to_owned(), f64::NAN).unwrap();
        assert_eq!((told.place.as_str(), told.value.as_str()), ("betas[1]", "NaN"));
    }
}
