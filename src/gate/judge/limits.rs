//! The limits of the policy, held against a checkpoint: of the whole model, of tensors, of attention heads.

use std::collections::HashMap;

use super::{Bench, names};
use crate::analysis::model::{AttentionAnalysis, CheckpointAnalysis, Measured, TensorAnalysis};
use crate::gate::baseline::{Baseline, Recognition};
use crate::gate::check;
use crate::gate::claim::Claim;
use crate::gate::limit::{Limit, Quantity, Then, Verdict};
use crate::number::short;
use crate::rules::{Evidence, Subject};

/// What a verdict is of.
struct Place<'a> {
    subject: Subject,
    /// As it is called in a sentence.
    of: String,
    /// The names by which an exception may mean it.
    names: Vec<&'a str>,
}

const UNJUDGED: &str = "a limit of the policy could not be judged";

impl Bench<'_> {
    pub(super) fn limits(&mut self, checkpoint: &CheckpointAnalysis) {
        for limit in &self.case.policy.limits {
            if limit.needs_baseline() && self.case.baseline.is_none() {
                let message = format!(
                    "the {} of {} needs a baseline",
                    limit.compared().join(" and "),
                    limit.quantity.name()
                );
                self.prevent(
                    of_limit(limit, checkpoint, Subject::Checkpoint, message),
                    "a limit of the policy could not be judged; give --baseline or baseline.file",
                );
            }
            match limit.quantity {
                Quantity::ParameterNorm => self.limit_of_the_model(limit, checkpoint),
                Quantity::LogitBound => self.limit_of_heads(limit, checkpoint),
                _ => self.limit_of_tensors(limit, checkpoint),
            }
        }
    }

    fn limit_of_the_model(&mut self, limit: &Limit, checkpoint: &CheckpointAnalysis) {
        let now = limit.quantity.of_checkpoint(checkpoint);
        let then = self.case.baseline.map(|baseline| {
            let value = limit.quantity.of_checkpoint(baseline.checkpoint());
            baseline.then(value, checkpoint)
        });
        let place = Place { subject: Subject::Checkpoint, of: checkpoint.name.clone(), names: Vec::new() };
        for verdict in limit.judge(&now, then.as_ref()) {
            self.limit(checkpoint, limit, &place, verdict);
        }
    }

    fn limit_of_tensors(&mut self, limit: &Limit, checkpoint: &CheckpointAnalysis) {
        if let Some(message) = limit.about_nothing(checkpoint) {
            self.limit_of_nothing(limit, checkpoint, message);
        }
        let before = self.case.baseline.map(Baseline::tensors);
        for tensor in checkpoint.tensors.iter().filter(|tensor| limit.is_about(tensor)) {
            let now = limit.quantity.of_tensor(tensor);
            // A tensor that the baseline lacks is told as new: it has no growth.
            let then = self.case.baseline.zip(before.as_ref()).and_then(|(baseline, before)| {
                let before = before.get(tensor.canonical_name.as_str())?;
                Some(baseline.then(limit.quantity.of_tensor(before), checkpoint))
            });
            let subject = Subject::Tensor(tensor.name.clone());
            let place = Place { subject, of: tensor.name.clone(), names: names(tensor).to_vec() };
            for verdict in limit.judge(&now, then.as_ref()) {
                self.limit(checkpoint, limit, &place, verdict);
            }
        }
    }

    /// Every head on its own: one that grows beside a larger one is seen.
    fn limit_of_heads(&mut self, limit: &Limit, checkpoint: &CheckpointAnalysis) {
        let tensors: HashMap<&str, &TensorAnalysis> =
            checkpoint.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let layers = match &checkpoint.attention {
            Measured::Value(layers) => layers.as_slice(),
            Measured::NotMeasured(reason) => {
                let message = format!("the logit bounds of {} were not judged: {reason}", checkpoint.name);
                let claim = of_limit(limit, checkpoint, Subject::Checkpoint, message);
                return self.prevent(claim, UNJUDGED);
            }
            Measured::Degenerate(_) => &[],
        };
        let baseline = self.case.baseline.map(|baseline| (baseline, baseline.tensors()));
        let mut judged = false;
        for layer in layers {
            let tensor = tensors.get(layer.tensor.as_str()).copied();
            let stored = tensor.map(names).into_iter().flatten();
            let names = stored.chain([layer.layer.as_str()]).collect::<Vec<_>>();
            if !limit.names_one_of(&names) {
                continue;
            }
            judged = true;
            let then = tensor.map_or(Before::New, |tensor| before(baseline.as_ref(), tensor, layer));
            for (of, verdict) in self.judge_heads(limit, checkpoint, layer, &then) {
                let place =
                    Place { subject: Subject::Tensor(layer.tensor.clone()), of, names: names.clone() };
                self.limit(checkpoint, limit, &place, verdict);
            }
        }
        for tensor in checkpoint.tensors.iter().filter(|tensor| Quantity::has_heads(tensor)) {
            let names = [&*tensor.name, &*tensor.canonical_name, &*tensor.layer.path];
            if layers.iter().any(|layer| layer.tensor == tensor.name) || !limit.names_one_of(&names) {
                continue;
            }
            judged = true;
            let subject = Subject::Tensor(tensor.name.clone());
            let place = Place { subject, of: tensor.name.clone(), names: names.to_vec() };
            let verdict = Verdict::Unknown("its heads were not measured".to_owned());
            self.limit(checkpoint, limit, &place, verdict);
        }
        if !judged {
            let pattern = limit.tensors.as_ref().map_or_else(String::new, |(pattern, _)| {
                format!(" for tensors = \"{}\"", pattern.escape_debug())
            });
            let message = format!(
                "the limit of logit-bound{pattern} was not judged: no attention layer of {} has such a name, or it has none",
                checkpoint.name
            );
            self.limit_of_nothing(limit, checkpoint, message);
        }
    }

    /// What the limit says of the heads of one layer: of those beyond it the farthest, and one reason of each kind why not.
    fn judge_heads(
        &self,
        limit: &Limit,
        checkpoint: &CheckpointAnalysis,
        layer: &AttentionAnalysis,
        before: &Before,
    ) -> Vec<(String, Verdict)> {
        let mut told: Vec<(usize, usize, Verdict)> = Vec::new();
        for (number, head) in layer.heads.iter().enumerate() {
            let then: Option<Then> = self.case.baseline.and_then(|baseline| {
                let value = match before {
                    Before::New => return None,
                    Before::Heads(heads) => Measured::Value(heads[number]),
                    Before::Unknown(reason) => Measured::not(reason.clone()),
                };
                Some(baseline.then(value, checkpoint))
            });
            for verdict in limit.judge(&Measured::Value(head.logit_bound), then.as_ref()) {
                let alike = told.iter_mut().find(|(_, _, other)| other.is_alike(&verdict));
                match (alike, &verdict) {
                    (_, Verdict::Holds) => {}
                    (None, _) => told.push((number, 1, verdict)),
                    (Some((first, count, other)), _) => {
                        *count += 1;
                        if verdict.is_farther_than(other) {
                            (*first, *other) = (number, verdict);
                        }
                    }
                }
            }
        }
        let told = told.into_iter().map(|(number, count, verdict)| {
            let of = match verdict {
                Verdict::Unknown(_) => layer.layer.clone(),
                _ => {
                    format!("head {number} of {}, as of {count} of {} heads", layer.layer, layer.heads.len())
                }
            };
            (of, verdict)
        });
        told.collect()
    }

    fn limit_of_nothing(&mut self, limit: &Limit, checkpoint: &CheckpointAnalysis, message: String) {
        let claim = of_limit(limit, checkpoint, Subject::Checkpoint, message);
        self.prevent(claim.advised("mend its pattern, or take the limit out of the policy"), UNJUDGED);
    }

    fn limit(&mut self, checkpoint: &CheckpointAnalysis, limit: &Limit, place: &Place<'_>, verdict: Verdict) {
        let quantity = limit.quantity.name();
        let Place { subject, of, names } = place;
        let claim = |message: String| of_limit(limit, checkpoint, subject.clone(), message);
        match verdict {
            Verdict::Holds => {}
            Verdict::Broken(label, value, limit, bound) => {
                let (shown, shown_limit) = told_apart(value, limit);
                let mut claim = claim(format!("{quantity} of {of}: {label} {shown} (limit {shown_limit})"));
                let (label, unit) = (format!("{quantity}, {label}"), "1".to_owned());
                claim.evidence.push(Evidence { label, value, limit: Some(limit), unit, bound });
                self.weigh(claim, names, Recognition::New);
            }
            Verdict::Unknown(reason) => {
                let claim = claim(format!("{quantity} of {of} was not judged: {reason}"));
                self.prevent_unless_excepted(claim, check::LIMIT.code, names, UNJUDGED);
            }
        }
    }
}

/// A value and the limit it breaks, with as many digits as tell them apart.
fn told_apart(value: f64, limit: f64) -> (String, String) {
    let shown = (short(value), short(limit));
    if shown.0 == shown.1 { (value.to_string(), limit.to_string()) } else { shown }
}

fn of_limit(limit: &Limit, checkpoint: &CheckpointAnalysis, subject: Subject, message: String) -> Claim {
    Claim::of_gate(&check::LIMIT, limit.severity, &checkpoint.name, subject, message)
}

/// The heads of one layer in the baseline.
enum Before {
    /// The baseline has no such layer: it is told as new, and has no growth.
    New,
    /// Their logit bounds, in order.
    Heads(Vec<f64>),
    /// Why they cannot be compared.
    Unknown(String),
}

/// What the baseline, with its tensors by canonical name, has of the heads of `layer`, whose queries are in `tensor`.
fn before(
    baseline: Option<&(&Baseline, HashMap<&str, &TensorAnalysis>)>,
    tensor: &TensorAnalysis,
    layer: &AttentionAnalysis,
) -> Before {
    let Some((baseline, tensors)) = baseline else { return Before::New };
    let Some(then) = tensors.get(tensor.canonical_name.as_str()) else { return Before::New };
    match &baseline.checkpoint().attention {
        Measured::NotMeasured(reason) => Before::Unknown(reason.to_string()),
        Measured::Degenerate(_) => Before::Unknown("its heads were not measured".to_owned()),
        Measured::Value(layers) => match layers.iter().find(|other| other.tensor == then.name) {
            None => Before::Unknown("its heads were not measured".to_owned()),
            Some(other) if other.heads.len() != layer.heads.len() => {
                Before::Unknown(format!("it has {} heads, {} now", other.heads.len(), layer.heads.len()))
            }
            Some(other) => Before::Heads(other.heads.iter().map(|head| head.logit_bound).collect()),
        },
    }
}
