//! One pass over the moments of a parameter, and its weights: everything that needs an element is gathered here.
//!
//! Blocks of about 2²⁰ elements, whole rows each, are read on all cores in parts of 2¹⁴; within a block elements are
//! added in index order in f64, and blocks are joined in index order, so that any number of threads gives the same bits.
//! With n elements, a sum of squares carries a relative error of at most (2²⁰ + ⌈n/2²⁰⌉)·2⁻⁵³, 1.2e-10.

use std::ops::Range;

use super::moment::Moment;
use crate::context::Context;
use crate::error::Result;
use crate::parallel;
use crate::tensor::{Tensor, saturating_count};

/// Elements per block, before it is rounded down to whole rows.
const BLOCK: u64 = 1 << 20;
/// Elements read at once.
const PART: u64 = 1 << 14;
/// Blocks in flight before they are joined.
const WAVE: u64 = 256;
/// Coordinates that are kept to date a spike.
pub(super) const TOP: usize = 64;
/// √v̂ below which a gradient is nothing but rounding, and |u| above which a step is a sign (C5).
const DEAD_DENOMINATOR: f64 = 1e-12;
const SIGN_STEP: f64 = 0.5;

/// What is read, and what it is scaled by.
pub(super) struct Inputs<'a> {
    /// m, or a momentum buffer.
    pub first: Option<Moment<'a>>,
    /// v.
    pub second: Option<Moment<'a>>,
    /// AMSGrad's largest v.
    pub maximum: Option<&'a Tensor>,
    /// The parameter itself.
    pub weight: Option<&'a Tensor>,
    pub scales: Scales,
}

/// What turns stored moments into u, and what they are held against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scales {
    /// 1 − β₁^t.
    pub first_correction: f64,
    /// 1 − β₂^t.
    pub second_correction: f64,
    pub epsilon: f64,
    /// Smallest v that is a measurement.
    pub floor: f64,
    /// Learning rate, where the weights are in bf16.
    pub bf16_rate: Option<f64>,
}

impl Default for Scales {
    fn default() -> Self {
        Self { first_correction: 1.0, second_correction: 1.0, epsilon: 0.0, floor: 0.0, bf16_rate: None }
    }
}

/// A coordinate with one of the largest second moments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Coordinate {
    pub index: u64,
    pub first: f64,
    pub second: f64,
}

/// What a parameter's state amounts to. Sums are over elements whose moments are finite and v ≥ 0.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sums {
    pub non_finite_first: u64,
    pub non_finite_second: u64,
    pub negative_second: u64,
    pub non_finite_maximum: u64,
    pub below_second: u64,
    /// Elements with v = 0.
    pub zero_second: u64,
    /// Σm².
    pub first: f64,
    /// Σv.
    pub second: f64,
    /// Σu².
    pub update: f64,
    /// Σw².
    pub weight: f64,
    /// Largest |m|/√max(v, floor).
    pub largest_ratio: f64,
    /// Smallest |m|/√v over v ≥ floor.
    pub smallest_ratio: f64,
    pub below_epsilon: u64,
    pub sign_steps: u64,
    /// Elements that a step does not change in bf16.
    pub stuck: u64,
    pub zero_rows: u64,
    /// By falling v, then rising index.
    pub top: Vec<Coordinate>,
}

impl Sums {
    pub(super) fn new() -> Self {
        Self {
            non_finite_first: 0,
            non_finite_second: 0,
            negative_second: 0,
            non_finite_maximum: 0,
            below_second: 0,
            zero_second: 0,
            first: 0.0,
            second: 0.0,
            update: 0.0,
            weight: 0.0,
            largest_ratio: 0.0,
            smallest_ratio: f64::INFINITY,
            below_epsilon: 0,
            sign_steps: 0,
            stuck: 0,
            zero_rows: 0,
            top: Vec::new(),
        }
    }

    /// Adds AMSGrad's largest v of one element whose v is `second`.
    fn add_maximum(&mut self, maximum: f64, second: f64) {
        self.non_finite_maximum += u64::from(!maximum.is_finite());
        self.below_second += u64::from(maximum < second);
    }

    /// Adds m, v and w of one element, which may be `slack` away from what gradients gave.
    pub(super) fn add(
        &mut self,
        index: u64,
        [first, second, weight]: [f64; 3],
        slack: [f64; 2],
        scales: &Scales,
    ) {
        self.non_finite_first += u64::from(!first.is_finite());
        self.non_finite_second += u64::from(!second.is_finite());
        self.negative_second += u64::from(second < 0.0);
        if !first.is_finite() || !second.is_finite() || second < 0.0 {
            return;
        }
        let root = second.sqrt();
        let denominator = root / scales.second_correction.sqrt();
        let update =
            if first == 0.0 { 0.0 } else { first / scales.first_correction / (denominator + scales.epsilon) };
        self.zero_second += u64::from(second == 0.0);
        self.first += first * first;
        self.second += second;
        self.update += update * update;
        self.weight += weight * weight;
        let (least_first, most_second) = ((first.abs() - slack[0]).max(0.0), second + slack[1]);
        self.largest_ratio = self.largest_ratio.max(least_first / most_second.max(scales.floor).sqrt());
        if second >= scales.floor && second > 0.0 {
            self.smallest_ratio = self.smallest_ratio.min(first.abs() / root);
        }
        self.below_epsilon += u64::from(denominator < scales.epsilon);
        self.sign_steps += u64::from(denominator < DEAD_DENOMINATOR && update.abs() > SIGN_STEP);
        let stuck = |rate: f64| super::stuck::is_stuck(weight, rate * update);
        self.stuck += u64::from(scales.bf16_rate.is_some_and(stuck));
        self.offer(Coordinate { index, first, second });
    }

    /// Keeps a coordinate if its second moment is among the largest.
    fn offer(&mut self, coordinate: Coordinate) {
        let comes_before = |kept: &Coordinate| kept.second >= coordinate.second;
        if coordinate.second == 0.0 || self.top.len() == TOP && self.top.last().is_some_and(comes_before) {
            return;
        }
        let place = self.top.partition_point(comes_before);
        self.top.insert(place, coordinate);
        self.top.truncate(TOP);
    }

    /// Joins the next block.
    fn join(&mut self, next: &Self) {
        self.non_finite_first += next.non_finite_first;
        self.non_finite_second += next.non_finite_second;
        self.negative_second += next.negative_second;
        self.non_finite_maximum += next.non_finite_maximum;
        self.below_second += next.below_second;
        self.zero_second += next.zero_second;
        self.first += next.first;
        self.second += next.second;
        self.update += next.update;
        self.weight += next.weight;
        self.largest_ratio = self.largest_ratio.max(next.largest_ratio);
        self.smallest_ratio = self.smallest_ratio.min(next.smallest_ratio);
        self.below_epsilon += next.below_epsilon;
        self.sign_steps += next.sign_steps;
        self.stuck += next.stuck;
        self.zero_rows += next.zero_rows;
        for &coordinate in &next.top {
            self.offer(coordinate);
        }
    }
}

/// Elements of a row: everything behind the first axis.
pub(super) fn row_length(shape: &[u64]) -> u64 {
    saturating_count(shape.get(1..).unwrap_or_default()).max(1)
}

/// Whether rows can be told within blocks.
pub(super) fn has_rows(shape: &[u64]) -> bool {
    shape.len() >= 2 && row_length(shape) <= BLOCK
}

/// Reads every element once. Nothing when the user asked to stop.
pub(super) fn run(inputs: &Inputs<'_>, shape: &[u64], context: &Context) -> Result<Option<Sums>> {
    let count = saturating_count(shape);
    let row = row_length(shape);
    let length = if has_rows(shape) { BLOCK / row * row } else { BLOCK };
    let blocks = count.div_ceil(length);
    let mut whole = Sums::new();
    for wave in (0..blocks).step_by(WAVE as usize) {
        let block =
            |index: u64| one_block(inputs, index * length..count.min((index + 1) * length), row, context);
        let done = parallel::map_range(wave..blocks.min(wave + WAVE), block);
        let Some(done) = done.into_iter().collect::<Result<Option<Vec<Sums>>>>()? else { return Ok(None) };
        for next in &done {
            whole.join(next);
        }
    }
    Ok(Some(whole))
}

fn one_block(inputs: &Inputs<'_>, range: Range<u64>, row: u64, context: &Context) -> Result<Option<Sums>> {
    if context.cancelled() {
        return Ok(None);
    }
    let mut sums = Sums::new();
    let (mut first, mut second, mut weight, mut maximum) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut slack = [Vec::new(), Vec::new()];
    let mut row_is_zero = true;
    let mut start = range.start;
    while start < range.end {
        let part = start..range.end.min(start + PART);
        let length = (part.end - part.start) as usize;
        let moments = [(&inputs.first, &mut first), (&inputs.second, &mut second)];
        for ((moment, values), slack) in moments.into_iter().zip(&mut slack) {
            if let Some(moment) = moment {
                moment.read(part.clone(), values, slack)?;
                context.progress.advance(length as u64 * moment.tensor().dtype.size().unwrap_or(0));
            } else {
                values.resize(length, 0.0);
                slack.resize(length, 0.0);
            }
        }
        if let Some(tensor) = inputs.weight {
            tensor.read_f64(part.clone(), &mut weight)?;
            context.progress.advance(length as u64 * tensor.dtype.size().unwrap_or(0));
        } else {
            weight.resize(length, 0.0);
        }
        if let Some(tensor) = inputs.maximum {
            tensor.read_f64(part.clone(), &mut maximum)?;
            maximum.iter().zip(&second).for_each(|(&maximum, &second)| sums.add_maximum(maximum, second));
        }
        let slack = slack[0].iter().zip(&slack[1]);
        let elements = part.clone().zip(&first).zip(&second).zip(&weight).zip(slack);
        for ((((index, &first), &second), &weight), (&first_slack, &second_slack)) in elements {
            sums.add(index, [first, second, weight], [first_slack, second_slack], &inputs.scales);
            row_is_zero &= second == 0.0;
            if (index + 1) % row == 0 {
                sums.zero_rows += u64::from(row_is_zero);
                row_is_zero = true;
            }
        }
        start = part.end;
    }
    Ok(Some(sums))
}
