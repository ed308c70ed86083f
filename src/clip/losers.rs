//! What a method did to the record, in a few words: why it is not the recommended one.

use super::backtest::Backtest;
use super::method::{Method, PerLayer};
use crate::analysis::model::Measured;
use crate::number::short;

/// Share of healthy steps beyond which a method clips most of what is healthy.
const MOST: f64 = 0.5;

/// Share below which it hardly acts.
const HARDLY: f64 = 0.005;

/// Norm of a spike over the median that is too much to keep.
const LOOSE: f64 = 4.0;

/// The method with its constant at the scale of the run, where it shares out a norm of the whole, or with those that are
/// recommended. A fixed 1.0 stays what it is: it is what people have.
pub(super) fn at_scale(method: Method, threshold: f64, recommended: Method) -> Method {
    match method {
        Method::PerLayer(own) => Method::PerLayer(PerLayer { threshold, ..own }),
        Method::RollingMedian(_) => recommended,
        other => other,
    }
}

/// In a few words.
pub(super) fn why(method: Method, backtest: &Measured<Backtest>, is_recommended: bool) -> String {
    let found = match backtest {
        Measured::Value(found) => found,
        Measured::NotMeasured(reason) => return format!("not evaluated: it {reason}"),
        Measured::Degenerate(_) => return "not evaluated".to_owned(),
    };
    let mut parts = Vec::new();
    let share = found.share_clipped.value;
    if is_recommended || share > MOST {
        parts.push(format!("clips {} of healthy steps", percent(share)));
    } else if share < HARDLY && found.spikes_clipped == 0 {
        parts.push("never fires".to_owned());
    } else {
        parts.push(format!("clips {}", percent(share)));
    }
    if found.containment == Some(0.0) {
        parts.push("skips every spike".to_owned());
    } else if let Some(containment) = found.containment {
        let how = if containment > LOOSE { "lets a spike through at" } else { "holds spikes at" };
        parts.push(format!("{how} {} times the median", short(containment)));
    }
    if let Some(direction) = found.direction.filter(|cosine| *cosine < 0.999) {
        parts.push(format!("turns the step (cosine {})", short(direction)));
    }
    if let Method::FixedNorm(own) = method
        && let Some(multiple) = found
            .multiple_of_median
            .filter(|multiple| !is_recommended && (*multiple > 3.0 || *multiple < 1.0))
    {
        parts.insert(
            0,
            format!(
                "{} is {} times the median of {}",
                short(own.threshold),
                short(multiple),
                short(own.threshold / multiple)
            ),
        );
    }
    parts.join(", ")
}

fn percent(share: f64) -> String {
    if share > 0.0 && share < 0.001 { "<0.1 %".to_owned() } else { format!("{:.1} %", 100.0 * share) }
}
