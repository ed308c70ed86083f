//! Whether what a clip was to bring down is down, by the second measurement.

use super::edit::{Action, Edit, Operation};
use super::health::{Check, Outcome};
use super::plan::QkLimit;
use super::qk_clip;
use super::spectral_clip::at_most;
use crate::analysis::model::CheckpointAnalysis;
use crate::number::{counted, short};

/// One check for each edit that clips. Heads have the limit `qk`.
pub(super) fn checks(after: &CheckpointAnalysis, edits: &[Edit], qk: Option<QkLimit>) -> Vec<Check> {
    let each = edits.iter().filter_map(|edit| match edit.action {
        Action::SpectralClip => Some(spectral(after, edit)),
        Action::QkClip => qk.map(|limit| heads(after, limit)),
        _ => None,
    });
    each.collect()
}

/// σ₁ of every map that was scaled, masters left out: they are rounded to the maps that are measured.
fn spectral(after: &CheckpointAnalysis, edit: &Edit) -> Check {
    const NAME: &str = "the largest singular value of what was clipped is at most its limit";
    let (mut held, mut unsure) = (0u64, None);
    for change in &edit.tensors {
        let Operation::Scale { limit, .. } = change.operation else { continue };
        let found = after.tensors.iter().find(|tensor| {
            tensor.name == change.tensor && tensor.file.as_deref() == Some(change.file.as_str())
        });
        if found.is_some_and(|tensor| !tensor.is_parameter()) {
            continue;
        }
        let Some(spectrum) = found.and_then(|tensor| tensor.spectrum.value()) else {
            unsure.get_or_insert_with(|| format!("sigma_1 of {} was not measured", change.tensor));
            continue;
        };
        let norm = &spectrum.spectral_norm;
        let told = || format!("{} has sigma_1 {} (limit {})", change.tensor, short(norm.value), short(limit));
        if norm.value > limit {
            return Check::new(NAME, Outcome::Fail, told());
        }
        if at_most(norm) > limit {
            unsure.get_or_insert_with(|| format!("{}, at most {}", told(), short(at_most(norm))));
            continue;
        }
        held += 1;
    }
    settled(NAME, held, "map", unsure)
}

/// The largest expected logit of every head.
fn heads(after: &CheckpointAnalysis, limit: QkLimit) -> Check {
    const NAME: &str = "no head's largest expected logit is above the limit";
    let Some(layers) = after.attention.value() else {
        return Check::new(NAME, Outcome::NotEvaluated, "the attention heads were not measured");
    };
    let (mut held, mut unsure) = (0u64, None);
    for layer in layers {
        let Ok((condensation, limit)) = qk_clip::limits(layer, limit) else {
            unsure.get_or_insert_with(|| format!("the context of {} is not known", layer.layer));
            continue;
        };
        for (index, head) in layer.heads.iter().enumerate() {
            let largest = head.logit_std * condensation.sqrt();
            // Not a number is not below it.
            if largest.is_nan() || largest > limit {
                let detail = format!(
                    "head {index} of {} has {} (limit {})",
                    layer.layer,
                    short(largest),
                    short(limit)
                );
                return Check::new(NAME, Outcome::Fail, detail);
            }
            held += 1;
        }
    }
    settled(NAME, held, "head", unsure)
}

fn settled(name: &str, held: u64, what: &str, unsure: Option<String>) -> Check {
    match unsure {
        Some(reason) => Check::new(name, Outcome::NotEvaluated, reason),
        None if held == 0 => Check::new(name, Outcome::NotEvaluated, format!("no {what} was measured")),
        None => Check::new(name, Outcome::Pass, format!("{} measured again", counted(held, what))),
    }
}
