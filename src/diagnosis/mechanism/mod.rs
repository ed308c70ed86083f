//! What kind of failure it was: one scoring function a mechanism, over the same facts, and the table of them.
//!
//! Each function states what speaks for its mechanism and what against, with points for both. The points say what a
//! piece of evidence is worth to a judge, not how likely anything is.

mod data;
mod decay;
mod drift;
mod fast;
mod logits;
mod rate;
mod seam;
mod standstill;
mod start;
mod state;
mod unreset;

use super::Mechanism;
use super::facts::{Facts, median, whole};
use super::onset::Onset;
use super::outrun::Outrun;
use crate::rules::{Bound, Confidence, Evidence};
pub(super) use decay::{USUAL as USUAL_DECAY, largest as largest_decay};
pub(super) use rate::lowered;
pub(super) use state::broken_by_a_step;

/// Points of an identity that only this mechanism can break.
pub(super) const CONCLUSIVE: f64 = 4.0;

/// Points of evidence that other mechanisms rarely give.
pub(super) const STRONG: f64 = 2.0;

/// Points of evidence that other mechanisms give too.
pub(super) const SUPPORTING: f64 = 1.0;

/// Points that a mechanism needs to be named.
const ENOUGH: f64 = 2.0;

/// What speaks for one mechanism.
#[derive(Debug, Clone)]
pub(super) struct Case {
    /// Which.
    pub mechanism: Mechanism,
    /// Where it began; `None` where it began everywhere at once.
    pub tensor: Option<String>,
    /// Sum of the points.
    pub points: f64,
    /// How far to trust the strongest piece.
    pub confidence: Confidence,
    /// The step at which it began, where the evidence dates it.
    pub onset: Option<u64>,
    /// The steps between which it began.
    pub interval: Option<[u64; 2]>,
    /// The last step of what came and went in several.
    pub last: Option<u64>,
    /// Sentences for it.
    pub reasons: Vec<String>,
    /// Sentences against it.
    pub against: Vec<String>,
    /// The numbers.
    pub evidence: Vec<Evidence>,
}

impl Case {
    /// A case without any evidence yet.
    pub fn of(mechanism: Mechanism) -> Self {
        Self {
            mechanism,
            tensor: None,
            points: 0.0,
            confidence: Confidence::Heuristic,
            onset: None,
            interval: None,
            last: None,
            reasons: Vec::new(),
            against: Vec::new(),
            evidence: Vec::new(),
        }
    }

    /// Where it began.
    pub fn in_tensor(mut self, tensor: Option<String>) -> Self {
        self.tensor = tensor;
        self
    }

    /// The step at which it began, and the steps between which it did.
    pub fn at(mut self, step: u64, interval: [u64; 2]) -> Self {
        (self.onset, self.interval) = (Some(step), Some(interval));
        self
    }

    /// It came and went, and `step` was the last of it.
    pub fn until(mut self, step: u64) -> Self {
        self.last = Some(step);
        self
    }

    /// It was so from the start of the run: the first checkpoint that is kept, at `first`, already shows it.
    pub fn since_the_start(self, first: u64) -> Self {
        self.at(0, [0, first])
    }

    /// Something that speaks for it.
    pub fn because(mut self, points: f64, reason: impl Into<String>) -> Self {
        self.points += points;
        self.reasons.push(reason.into());
        self
    }

    /// Something that speaks against it.
    pub fn although(mut self, points: f64, reason: impl Into<String>) -> Self {
        self.points -= points;
        self.against.push(reason.into());
        self
    }

    /// How far to trust it.
    pub fn with_confidence(mut self, confidence: Confidence) -> Self {
        self.confidence = confidence;
        self
    }

    /// A number it stands on.
    pub fn number(mut self, label: &str, value: f64, limit: Option<f64>, unit: &str) -> Self {
        // A number that JSON cannot hold says nothing that the sentence does not say.
        if value.is_finite() {
            let (label, unit) = (label.to_owned(), unit.to_owned());
            self.evidence.push(Evidence { label, value, limit, unit, bound: Bound::AtMost });
        }
        self
    }
}

/// Looks for one mechanism; `None` where nothing speaks for it.
type Advocate = fn(Facts, Option<&Onset>) -> Option<Case>;

/// Every mechanism that is looked for. Of equal cases the earlier one is taken: exact ones come first.
const TABLE: &[Advocate] = &[
    seam::replica_drift,
    state::state_lost,
    state::low_precision_state,
    start::zero_init,
    decay::weight_decay,
    standstill::frozen,
    standstill::dead_units,
    data::fp16_overflow,
    seam::schedule_break,
    seam::accumulation_change,
    unreset::accumulation_without_end,
    data::non_finite,
    state::epsilon,
    start::recurrent_gain,
    start::init_gain,
    state::second_moment_decoupled,
    logits::attention_logits,
    logits::output_logits,
    data::gradient_spike,
    rate::no_warmup,
    rate::learning_rate,
];

/// Every mechanism that anything speaks for, the strongest case first.
pub(super) fn cases(facts: Facts, onset: Option<&Onset>) -> Vec<Case> {
    let cases = TABLE.iter().filter_map(|advocate| advocate(facts, onset));
    let outrun = rate::outrun(facts);
    let mut cases: Vec<Case> =
        cases.map(|case| unless_outrun(outrun, unless_aftermath(facts, onset, case))).collect();
    // Stable: equal cases stay in the order of the table.
    cases.sort_by(|a, b| b.points.total_cmp(&a.points));
    cases
}

/// The case that is strong enough to be told, if any is: of cases in order the first.
pub(super) fn named(cases: &[Case]) -> Option<&Case> {
    cases.first().filter(|case| case.points >= ENOUGH)
}

/// What comes first in time is the cause: a run that fails also stands still, and its levels change, and what began when it
/// had been failing for longer than from one checkpoint to the next did not make it fail.
fn unless_aftermath(facts: Facts, onset: Option<&Onset>, case: Case) -> Case {
    let (Some(onset), Some([from, _])) = (onset, case.interval) else { return case };
    let steps: Vec<u64> = facts.checkpoints().map(|(step, _)| step).collect();
    let apart = median(steps.windows(2).map(|pair| (pair[1] - pair[0]) as f64)).map_or(0, whole);
    if !is_event(case.mechanism, onset) || onset.step + apart > from {
        return case;
    }
    let began = format!("the run was failing from step {} on, before that", onset.step);
    case.although(CONCLUSIVE, began)
}

/// What a rate does to a run that had outrun it: units die, maps grow, gradients stand out.
fn unless_outrun(outrun: Option<Outrun>, case: Case) -> Case {
    let (Some(Outrun { lowest, until, .. }), Some([from, _])) = (outrun, case.interval) else { return case };
    let may_come_of_it = matches!(
        case.mechanism,
        Mechanism::DeadUnits | Mechanism::Frozen | Mechanism::AttentionLogits | Mechanism::GradientSpike
    );
    if !may_come_of_it || from < until {
        return case;
    }
    let turned = format!(
        "the loss had turned round at step {lowest}, before that, while the learning rate was rising"
    );
    case.although(CONCLUSIVE, turned)
}

/// Whether a mechanism is something that any failing run may come to, and begins when it is first seen: units take a while to
/// die, and a gradient that stands alone among all norms of the run is none of a failing one's. But behind an explosion dead units
/// are what it left.
fn is_event(mechanism: Mechanism, onset: &Onset) -> bool {
    match mechanism {
        Mechanism::AccumulationChange
        | Mechanism::Frozen
        | Mechanism::SecondMomentDecoupled
        | Mechanism::WeightDecay => true,
        Mechanism::DeadUnits => onset.is_explosion(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_began_after_a_rate_had_outrun_the_run_came_of_it_and_what_began_before_did_not() {
        let outrun = Some(Outrun { lowest: 60, until: 67, rate: 6e-3, full: 1e-2, ratio: 1.3 });
        let points = |mechanism, from| {
            let case = Case::of(mechanism).because(STRONG, "it was seen").at(from + 1, [from, from + 20]);
            unless_outrun(outrun, case).points
        };
        assert_eq!(points(Mechanism::DeadUnits, 380), STRONG - CONCLUSIVE);
        assert_eq!(points(Mechanism::AttentionLogits, 67), STRONG - CONCLUSIVE);
        assert_eq!(points(Mechanism::DeadUnits, 40), STRONG);
        assert_eq!(points(Mechanism::NonFinite, 380), STRONG);
    }
}
