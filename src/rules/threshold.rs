//! Limits: each has a name, a unit and a source, and can be overridden.

use std::collections::BTreeMap;

use super::Rule;

/// One limit of one rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    /// Its name in the policy.
    pub name: &'static str,
    /// Its value unless overridden.
    pub default: f64,
    /// Its unit.
    pub unit: &'static str,
    /// Where the value comes from.
    pub source: &'static str,
}

/// Before so many steps nothing need have moved: of rules on what has not.
pub(super) const FEWEST_STEPS: Threshold = Threshold {
    name: "fewest-steps",
    default: 17.0,
    unit: "optimizer steps",
    source: "torch.amp.GradScaler begins at 2^16 and halves for each step that it skips: 16 until the scale is 1",
};

/// Values that replace defaults, by rule code and threshold name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overrides(pub BTreeMap<(String, String), f64>);

/// The limits of one rule, overrides applied.
#[derive(Debug)]
pub struct Thresholds<'a> {
    rule: &'static Rule,
    overrides: &'a Overrides,
}

impl<'a> Thresholds<'a> {
    pub(super) fn new(rule: &'static Rule, overrides: &'a Overrides) -> Self {
        Self { rule, overrides }
    }

    /// The value of the rule's threshold `name`.
    ///
    /// # Panics
    /// When the rule declares no such threshold: a mistake in the rule, found by its own firing fixture.
    pub fn get(&self, name: &str) -> f64 {
        let overridden = self.overrides.0.get(&(self.rule.code.to_owned(), name.to_owned()));
        overridden.copied().unwrap_or_else(|| {
            let declared = self.rule.thresholds.iter().find(|threshold| threshold.name == name);
            declared.expect("a rule reads only the thresholds it declares").default
        })
    }
}
