//! A threshold where neither log nor dumps have norms: by the optimizer's second moments, which have a scale and no spread.

use super::fit::MULTIPLE_RANGE;
use super::notes::by_optimizer;
use super::optimizer::{self, Optimizer, SATURATED};
use super::recommend::{Advice, Status, without};
use super::series::{Series, Source};
use super::snippets;
use crate::number::short;

/// Threshold over the RMS norm that optimizer state gives: in the middle of what the recommender allows. Its spread is not known.
pub const STATE_MULTIPLE: f64 = 2.0;

/// RMS norm over the threshold below which hardly a step can have been clipped: with norms of log-normal spread .3, one in a hundred.
const FREE: f64 = 0.5;

/// A threshold by the scale of gradients alone: their spread is not in second moments.
pub(super) fn from_state(
    norms: &optimizer::Norms,
    series: &Series,
    reason: &str,
    optimizer: Optimizer,
    used: Option<f64>,
) -> Advice {
    if let Some(limit) = used
        && (norms.median / limit).powi(2) > SATURATED
    {
        let before = if series.points.is_empty() {
            "how large norms were before is not recorded; raise the threshold, or log the norm before clipping"
                .to_owned()
        } else {
            format!("of those before clipping not enough is known: {reason}")
        };
        let sentence = format!(
            "the optimizer's gradients have the norm {}, the threshold {}: nearly every step was clipped, and {before}",
            short(norms.median),
            short(limit)
        );
        return without(sentence, series, used);
    }
    let threshold = norms.median * STATE_MULTIPLE;
    let [least, most] = MULTIPLE_RANGE;
    let mut advice = without(String::new(), series, used);
    let own = &mut advice.recommendation;
    own.status = Status::CollectMore;
    own.threshold = Some(threshold);
    own.low = Some(norms.median * least);
    own.high = Some(norms.median * most);
    own.multiple_of_median = Some(STATE_MULTIPLE);
    own.median = Some(norms.median);
    own.fitted_steps = Some(norms.steps);
    own.norms = norms.values.len() as u64;
    own.source = Source::OptimizerState;
    own.sentence = format!(
        "clip the gradient norm near {}, {} times the RMS norm {} that {} give; their spread is not in there, so that anything from {} to {} may be right: log the gradient norm",
        short(threshold),
        short(STATE_MULTIPLE),
        short(norms.median),
        norms.from,
        short(norms.median * least),
        short(norms.median * most),
    );
    own.notes.push(format!("norms were not read from log or dumps: {reason}"));
    let unseen = "second moments hold gradients after clipping";
    own.notes.push(match used {
        Some(limit) if norms.median < FREE * limit => {
            format!("{unseen} at {}, which these are well below", short(limit))
        }
        Some(limit) => format!(
            "{unseen} at {}, and these are {} of it: many steps were clipped, so that norms before it were larger",
            short(limit),
            short(norms.median / limit)
        ),
        None => format!("{unseen}: where the run clipped, norms before it were larger"),
    });
    own.notes.extend(by_optimizer(optimizer));
    advice.snippets = snippets::global_norm(threshold);
    advice
}
