//! What to know about a recommendation, one sentence each: what the record says of the norms, and what a threshold does under the
//! run's optimizer.

use super::fit::{FEWEST_CORE, Fit};
use super::optimizer::{Kind, Optimizer};
use super::series::{OVERFLOWED, Series, Source};
use crate::analysis::model::{Analysis, LogAnalysis, LogPoint, Number};
use crate::analysis::series::clip::coefficient;
use crate::number::{counted, grouped, short};
use crate::robust::median;

/// A norm within this share of the threshold in use may have been clipped to it (rounding of loggers, and torch's 1e-6).
const REACHED: f64 = 1e-3;

/// Median norm below which the 1e-6 that frameworks add to a norm shrinks every step by a hundredth of the threshold and more.
const TINY: f64 = 1e-4;

/// Trend of the median over the fitted steps beyond which a constant is wrong soon.
const TREND: f64 = 2.0;

/// What the steps that were fitted were like.
pub(super) fn of_fit(fit: &Fit, analysis: &Analysis) -> Vec<String> {
    let onset = fit.onset.map(|step| {
        format!(
            "from step {} on norms rise to three times their lowest: nothing from there on was fitted",
            grouped(step)
        )
    });
    let learned_on = fit.learned_on.map(|step| {
        format!(
            "from step {} on norms rose to three times their lowest while the loss went on falling: they are the run's own, and were fitted",
            grouped(step)
        )
    });
    let bounded = (fit.unbounded.value > fit.multiple.value).then(|| {
        format!(
            "a tenth of the norms is above {} times the recent median: the multiple begins at {}, and as a constant clips more than that tenth",
            short(fit.unbounded.value),
            short(fit.multiple.value)
        )
    });
    let is_moving = fit.trend > TREND || fit.trend < 1.0 / TREND;
    let moving = is_moving.then(|| {
        format!(
            "the median norm became {} times what it was over these steps: a constant would soon be wrong",
            short(fit.trend)
        )
    });
    [onset, learned_on, bounded, moving, tiny(fit), warming_up(fit, analysis)].into_iter().flatten().collect()
}

/// How long the answer as a constant is right.
pub(super) fn constant(fit: &Fit) -> String {
    let factor = fit.multiple.value.sqrt();
    format!(
        "a constant is right while the median norm stays within {} and {}; norms go on moving: of the runs we know the constant clipped what was asked in about half, the rule in nearly all (docs/benchmarks-clip.md)",
        short(fit.median / factor),
        short(fit.median * factor)
    )
}

/// What follows from norms that are as small as what frameworks add to them.
fn tiny(fit: &Fit) -> Option<String> {
    if fit.median >= TINY {
        return None;
    }
    let left = coefficient(fit.median, fit.threshold.value);
    let factor = 10_f64.powf(-fit.median.log10().floor());
    Some(format!(
        "norms are so small that the 1e-6 which PyTorch, DeepSpeed and Megatron-LM add to them counts: at this threshold a step of the median norm is multiplied by {}; multiply the loss by {factor:e} (under SGD divide the learning rate by it) and look again",
        short(left)
    ))
}

/// What is to be said where the warm-up of the learning rate left too few norms behind it to be left out.
fn warming_up(fit: &Fit, analysis: &Analysis) -> Option<String> {
    let end = analysis.log.as_ref()?.warmup_end.filter(|end| *end >= fit.steps[0])?;
    Some(format!(
        "the learning rate warms up to step {}, and fewer than {FEWEST_CORE} norms lie behind that: those of the warm-up were fitted with them, and the threshold may be wrong for the rest of the run",
        grouped(end)
    ))
}

/// What is to be said with the answer where norms were divided by the loss scale on their size alone: what follows if that was
/// wrong.
pub(super) fn doubted_scale(series: &Series, analysis: &Analysis, threshold: f64) -> Option<String> {
    let log = analysis.log.as_ref().filter(|_| series.source == Source::Log)?;
    if !log.semantics.scaled_by_size {
        return None;
    }
    let scale = median(log.points.iter().filter_map(|point| point.loss_scale?.finite()))?;
    Some(format!(
        "the logged norms were divided by the loss scale ({}) because they are so large, and it does not change in a way that shows whether it is in them; where it is not, as with a loss that is a sum, clip near {}",
        short(scale),
        short(threshold * scale)
    ))
}

/// What the record says about the norms and about the threshold in use.
pub(super) fn about(series: &Series, analysis: &Analysis, used: Option<f64>, threshold: f64) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(used) = used {
        let verdict = fired(series, used);
        let change = short(threshold / used);
        notes.push(format!(
            "the threshold in use, {}, {verdict}; the recommended one is {change} times it",
            short(used)
        ));
    }
    notes.extend(not_finite(series, analysis));
    let Some(log) = analysis.log.as_ref().filter(|_| series.source == Source::Log) else { return notes };
    if let Some(stride) = log.semantics.stride.filter(|stride| *stride > 1) {
        notes.push(format!("one of {stride} steps is logged: spikes between them are not in the record"));
    }
    if log.semantics.loss_scaled && !log.semantics.scaled_by_size {
        notes.push("the logged norms contained the loss scale and were divided by it: the threshold is for unscaled gradients".to_owned());
    }
    if log.semantics.before_clipping.is_none() && used.is_none() {
        notes.push(
            "the norms are taken for those before clipping: no config beside the log says otherwise"
                .to_owned(),
        );
    }
    notes
}

/// What is to be done about steps whose norm is not finite. Where the loss scale falls at one, the scaler tried a larger scale, and
/// skipped it.
fn not_finite(series: &Series, analysis: &Analysis) -> Vec<String> {
    let log = analysis.log.as_ref().filter(|_| series.source == Source::Log);
    let log = log.filter(|log| log.points.iter().any(|point| point.loss_scale.is_some()));
    let is_probe = |(point, skipped): &(&LogPoint, bool)| {
        let is_none = |norm: Number| norm.finite().is_none_or(|norm| norm == OVERFLOWED);
        !point.skipped && point.grad_norm.is_some_and(is_none) && *skipped
    };
    let probes = |log: &LogAnalysis| log.points.iter().zip(log.skips()).filter(is_probe).count();
    let probes = log.map_or(0, probes) as u64;
    let mut notes = Vec::new();
    if probes > 0 {
        notes.push(format!(
            "{} with a norm that is NaN or infinite, where the loss scale falls: so the scaler finds the largest scale, and it skipped them already",
            counted(probes, "step")
        ));
    }
    let rest = series.non_finite.saturating_sub(probes);
    if rest > 0 {
        notes.push(format!(
            "{} with a norm that is NaN or infinite: no threshold makes such a step finite; skip it, norm = clip_grad_norm_(…) and then `if torch.isfinite(norm): optimizer.step()`",
            counted(rest, "step")
        ));
    }
    notes
}

/// Whether the threshold in use fired. Norms that end at it may be those after clipping.
fn fired(series: &Series, used: f64) -> String {
    let count = |least: f64| series.points.iter().filter(|point| point.norm > least).count() as u64;
    let steps = series.points.len() as u64;
    match (count(used), count(used * (1.0 - REACHED))) {
        (0, 0) => "never fired".to_owned(),
        (0, at) => format!(
            "is reached by {at} of {steps} norms and exceeded by none, so that whether it fired is not known: norms after clipping end so"
        ),
        (above, _) => format!("fired at {} of the logged steps", crate::number::share(above, steps)),
    }
}

/// What a threshold does under this optimizer.
pub(super) fn by_optimizer(optimizer: Optimizer) -> Vec<String> {
    let sgd =
        "under SGD the threshold sets the size of the largest step: use it with the learning rate of the run";
    let adam = "under Adam the size of a step does not depend on that of gradients, so that the threshold only buys that a spike does not poison the second moment";
    match optimizer.kind {
        Kind::Sgd => vec![sgd.to_owned()],
        Kind::Adam => {
            let beta2 = optimizer.beta2.map_or_else(String::new, |beta2| {
                format!(" (beta2 {beta2}: a spike is in it for {:.0} steps)", 1.0 / (1.0 - beta2))
            });
            let mut notes = vec![format!("{adam}{beta2}")];
            if let Some(rms) = optimizer.update_rms.filter(|rms| *rms > 1.0) {
                notes.push(format!(
                    "the largest update has the RMS {} (C3): update clipping or a lower beta2 holds that, a threshold of the norm does not",
                    short(rms)
                ));
            }
            notes
        }
        Kind::Unknown => vec![format!("{sgd}; {adam}")],
    }
}
