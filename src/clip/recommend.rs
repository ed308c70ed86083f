//! From what a run kept to a threshold, or to why there is none (risk catalogue, section 2.4).

use serde::{Deserialize, Serialize};

use super::backtest::{self, Candidate};
use super::fit::{FEWEST_NORMS, Fit, fit};
use super::layers::{Concentration, concentration};
use super::losers;
use super::method::{AutoClip, FixedNorm, Method, RECENT_NORMS, USUAL, ZClip};
use super::notes::{about, by_optimizer, constant, doubted_scale, of_fit};
use super::optimizer::{self, Optimizer, USUAL_BETA2};
use super::series::{OVERFLOWED, Series, Source, collect};
use super::snippets::{self, Snippet};
use super::state::from_state;
use crate::analysis::model::{Analysis, LogAnalysis, Measured};
use crate::number::{grouped, short};
use crate::parallel;

/// Upper end of the interval over the lower one beyond which more has to be collected.
pub const WIDE: f64 = 1.5;

/// What a run's clipping should be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Advice {
    /// The threshold, and how sure it is.
    pub recommendation: Recommendation,
    /// Lines of configuration that clip to the threshold, a constant.
    pub snippets: Vec<Snippet>,
    /// Lines of code that clip to the multiple of the recent median, where that is recommended.
    #[serde(default)]
    pub rule_snippets: Vec<Snippet>,
    /// Every method held against the record: the recommended one first, then by regret, then those that were not evaluated.
    pub candidates: Vec<Candidate>,
    /// Where the energy of spikes is, which decides whether tensors should be clipped on their own.
    pub layers: Measured<Concentration>,
    /// Lines of configuration that clip tensors on their own, where that is better.
    pub layer_snippets: Vec<Snippet>,
}

/// How sure a recommendation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// The norms carry it.
    Recommended,
    /// The interval is too wide, or only the scale is known: use it, and look again with more norms.
    CollectMore,
    /// Nothing can be said.
    NotEvaluated,
}

/// A threshold for the norm of the whole gradient.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Recommendation {
    /// How sure it is.
    pub status: Status,
    /// `rolling-median` from recorded norms; `global-norm` where only the scale is known, or nothing.
    pub method: String,
    /// The norm to clip to while the median is `median`.
    pub threshold: Option<f64>,
    /// Lower end of its interval: that of the multiple, which spans the 90 % intervals of the two halves of the steps.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// It over the median norm; for `rolling-median` over that of the ten norms before a step.
    pub multiple_of_median: Option<f64>,
    /// The present median norm.
    pub median: Option<f64>,
    /// First and last step it was fitted on: it is about those, and expires as the norms move away from their median.
    pub fitted_steps: Option<[u64; 2]>,
    /// Norms it was fitted on, and how many independent ones they are worth.
    pub norms: u64,
    /// See `norms`.
    pub effective_norms: Option<f64>,
    /// The step from which norms rose to three times their lowest while the loss did not fall on: nothing from there on was fitted.
    pub onset: Option<u64>,
    /// Median of the last quarter of the fitted norms over that of the first.
    pub trend: Option<f64>,
    /// Steps whose norm is NaN or infinite.
    pub non_finite: u64,
    /// Where the norms are from.
    pub source: Source,
    /// The threshold that the run clipped to, where a config beside it says so.
    pub used: Option<f64>,
    /// The answer in one sentence.
    pub sentence: String,
    /// What to know about it, one sentence each.
    pub notes: Vec<String>,
}

/// The recommendation for a run, and what it stands on. A function of what was measured, and of nothing else.
pub fn advise(analysis: &Analysis) -> Advice {
    let series = collect(analysis);
    let optimizer = optimizer::of(analysis);
    let log = analysis.log.as_ref();
    let beside = analysis.run.as_ref().and_then(|run| run.clip_threshold);
    let used = log.and_then(|log| log.semantics.clip_threshold).or(beside);
    let logged_after =
        series.source == Source::Log && log.is_some_and(|log| log.semantics.before_clipping == Some(false));
    if logged_after {
        let limit = used.or(series.points.iter().map(|point| point.norm).reduce(f64::max));
        return without(censored(limit.unwrap_or_default()), &series, used);
    }
    if let Some(sentence) = log.filter(|_| series.source == Source::Log).and_then(negative) {
        return without(sentence, &series, used);
    }
    match fit(&series, log.and_then(|log| log.warmup_end)) {
        Ok(fit) => fitted(analysis, &series, &fit, optimizer, used),
        Err(reason) => match optimizer::norms(analysis) {
            Ok(norms) => from_state(&norms, &series, &reason, optimizer, used),
            Err(no_state) => unrecorded(nothing(analysis, &series, &reason, &no_state), &series, used),
        },
    }
}

fn censored(limit: f64) -> String {
    format!(
        "the logged gradient norms are those after clipping at {0}: how large they were is not recorded, and no smaller threshold follows from them; raise it, or log the norm before clipping",
        short(limit)
    )
}

/// Share of norms below 0 from which the column holds none: a few are what some logger writes for a step without one.
const NEGATIVE: f64 = 0.01;

/// What to say of a column whose numbers are no norms.
fn negative(log: &LogAnalysis) -> Option<String> {
    let norms: Vec<f64> = log.points.iter().filter_map(|point| point.grad_norm?.finite()).collect();
    let below = norms.iter().filter(|norm| **norm < 0.0 && **norm != OVERFLOWED).count();
    (below as f64 > NEGATIVE * norms.len() as f64).then(|| {
        format!(
            "{} of {} gradient norms are negative, and a norm is not: is this its logarithm? Log the norm itself, or name its column with --columns grad_norm=NAME",
            grouped(below as u64),
            grouped(norms.len() as u64)
        )
    })
}

/// Why there is nothing to recommend.
fn nothing(analysis: &Analysis, series: &Series, reason: &str, no_state: &str) -> String {
    let what = match series.source {
        Source::Nothing => {
            "there is no log whose columns are known (--columns names them), and no gradient dump".to_owned()
        }
        _ if series.points.is_empty() && series.non_finite > 0 && series.zeros > 0 => format!(
            "of {} gradient norms {} are NaN or infinite and {} are 0, which says that they were not measured",
            grouped(series.non_finite + series.zeros),
            grouped(series.non_finite),
            grouped(series.zeros)
        ),
        _ if series.points.is_empty() && series.non_finite > 0 => {
            format!("all {} gradient norms are NaN or infinite", grouped(series.non_finite))
        }
        _ if series.points.is_empty() && series.zeros > 0 => {
            format!(
                "all {} gradient norms are 0, which says that they were not measured",
                grouped(series.zeros)
            )
        }
        Source::Log if series.points.is_empty() => {
            "the log has no gradient norm (name its column with --columns grad_norm=NAME)".to_owned()
        }
        _ => reason.to_owned(),
    };
    let scaled = analysis.log.as_ref().is_some_and(|log| log.semantics.loss_scaled);
    let scaled = if scaled {
        "; the norms contain the loss scale, and only those with a known scale count"
    } else {
        ""
    };
    format!(
        "{what}{scaled}; and instead of norms, {no_state}: log the gradient norm of {FEWEST_NORMS} steps or more"
    )
}

/// What to do until there is a record.
const UNTIL_THEN: &str = "until then AutoClip at percentile 10 needs no record and has no scale of its own: of short runs with faults it lost 0 of 48, a fixed 1.0 lost 0 of 48 at a higher loss, and 12 of 36 were lost that were not clipped; it shrinks most steps, so that the learning rate may have to rise (docs/benchmarks-clip.md)";

fn unrecorded(sentence: String, series: &Series, used: Option<f64>) -> Advice {
    let mut advice = without(sentence, series, used);
    advice.recommendation.notes.push(UNTIL_THEN.to_owned());
    advice.snippets = snippets::auto_clip();
    advice
}

pub(super) fn without(sentence: String, series: &Series, used: Option<f64>) -> Advice {
    let recommendation = Recommendation {
        status: Status::NotEvaluated,
        method: "global-norm".to_owned(),
        threshold: None,
        low: None,
        high: None,
        multiple_of_median: None,
        median: None,
        fitted_steps: None,
        norms: series.points.len() as u64,
        effective_norms: None,
        onset: None,
        trend: None,
        non_finite: series.non_finite,
        source: series.source,
        used,
        sentence,
        notes: Vec::new(),
    };
    Advice {
        recommendation,
        snippets: Vec::new(),
        rule_snippets: Vec::new(),
        candidates: Vec::new(),
        layers: Measured::not("there is no threshold for the whole gradient"),
        layer_snippets: Vec::new(),
    }
}

/// The answer in one sentence.
fn answer(fit: &Fit) -> String {
    format!(
        "clip the gradient norm at {} times the median of the last {RECENT_NORMS} norms; as a constant that is {} at present (fitted on steps {} to {})",
        short(fit.multiple.value),
        short(fit.threshold.value),
        grouped(fit.steps[0]),
        grouped(fit.steps[1]),
    )
}

fn fitted(
    analysis: &Analysis,
    series: &Series,
    fit: &Fit,
    optimizer: Optimizer,
    used: Option<f64>,
) -> Advice {
    let threshold = fit.threshold.value;
    let is_bounded = fit.unbounded.value > fit.multiple.value;
    let is_wide = is_bounded || fit.unbounded.high / fit.unbounded.low > WIDE;
    let rule = fit.rule();
    let recommended = Method::RollingMedian(rule);
    let doubt = doubted_scale(series, analysis, threshold);
    let sentence = [answer(fit)].into_iter().chain(doubt.clone()).collect::<Vec<String>>().join("; ");
    let beta2 = optimizer.beta2.unwrap_or(USUAL_BETA2);
    let candidates = candidates(series, fit, recommended, used, beta2);
    let layers = concentration(series, &analysis.intervals, fit.multiple.value);
    let single: Vec<(&str, f64)> = layers
        .iter()
        .flat_map(|found| &found.tensors)
        .filter_map(|tensor| Some((tensor.name.as_str(), tensor.threshold?)))
        .collect();
    let layer_snippets = snippets::per_tensor(&single);
    let mut notes = Vec::new();
    if is_wide {
        let (low, high) = (short(fit.unbounded.low), short(fit.unbounded.high));
        notes.push(format!("collect more: the right multiple is anywhere from {low} to {high}; the norms are worth {:.0} independent ones", fit.effective));
    }
    notes.extend(of_fit(fit, analysis));
    notes.extend(about(series, analysis, used, threshold));
    notes.extend(by_optimizer(optimizer));
    notes.push(constant(fit));
    let recommendation = Recommendation {
        status: if is_wide || doubt.is_some() { Status::CollectMore } else { Status::Recommended },
        method: recommended.name().to_owned(),
        threshold: Some(threshold),
        low: Some(fit.threshold.low),
        high: Some(fit.threshold.high),
        multiple_of_median: Some(fit.multiple.value),
        median: Some(fit.median),
        fitted_steps: Some(fit.steps),
        norms: fit.core,
        effective_norms: Some(fit.effective),
        onset: fit.onset,
        trend: Some(fit.trend),
        non_finite: series.non_finite,
        source: series.source,
        used,
        sentence,
        notes,
    };
    Advice {
        recommendation,
        snippets: snippets::global_norm(threshold),
        rule_snippets: snippets::rolling_median(rule, fit.median),
        candidates,
        layers: layers.map_or_else(Measured::not, Measured::Value),
        layer_snippets,
    }
}

/// Every method, the recommended one first.
fn candidates(
    series: &Series,
    fit: &Fit,
    recommended: Method,
    used: Option<f64>,
    beta2: f64,
) -> Vec<Candidate> {
    let threshold = fit.threshold.value;
    let mut methods = vec![recommended];
    let ten_fold = Method::FixedNorm(FixedNorm { threshold: 10.0 * fit.median });
    let more = [
        Method::FixedNorm(FixedNorm { threshold }),
        Method::FixedNorm(FixedNorm { threshold: USUAL }),
        ten_fold,
        Method::AutoClip(AutoClip { percentile: 90.0 }),
        Method::ZClip(ZClip::default()),
    ];
    let in_use = used.map(|threshold| Method::FixedNorm(FixedNorm { threshold }));
    let known = Method::with_usual_constants().map(|method| losers::at_scale(method, threshold, recommended));
    for method in in_use.into_iter().chain(more).chain(known) {
        if !methods.contains(&method) {
            methods.push(method);
        }
    }
    // In any order, collected in that of the list.
    let mut found: Vec<Candidate> = parallel::map(&methods, |&method| {
        let backtest = backtest::run(method, series, fit, beta2);
        let why = losers::why(method, &backtest, method == recommended);
        let label = if method == ten_fold { "10 times the median".to_owned() } else { method.to_string() };
        Candidate { method: method.name().to_owned(), label, needs: method.needs(), backtest, why }
    });
    // Stable: what was not evaluated stays in the order of the list, behind the others.
    found[1..].sort_by(|one, other| {
        let regret = |own: &Candidate| own.backtest.value().map_or(f64::INFINITY, |found| found.regret.value);
        regret(one).total_cmp(&regret(other))
    });
    found
}
