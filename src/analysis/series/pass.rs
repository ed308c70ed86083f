//! One pass over a tensor at two checkpoints and the moments at both: everything that needs an element is gathered here, in a
//! reading of its own, or in that which measures the later weights.
//!
//! Blocks of 2²⁰ elements are read on all cores in parts of 2¹⁴; within a block elements are added in index order in
//! f64, and blocks are joined in index order, so that any number of threads gives the same bits. With n elements, a sum
//! of squares carries a relative error of at most (2²⁰ + ⌈n/2²⁰⌉)·2⁻⁵³.

use std::cell::RefCell;
use std::ops::Range;

use super::decay::Floor;
use super::movement;
use crate::analysis::optimizer::mapping_proof::Alignment;
use crate::analysis::statistics::Beside;
use crate::context::Context;
use crate::error::Result;
use crate::parallel;
use crate::tensor::{DType, Tensor, decode};

/// Elements per block.
const BLOCK: u64 = 1 << 20;
/// Elements read at once.
const PART: u64 = 1 << 14;
/// Blocks in flight before they are joined.
const WAVE: u64 = 256;

/// A tensor at two checkpoints, and its moments. All that are there have one shape.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pair<'a> {
    /// w at the earlier checkpoint and at the later one.
    pub weights: Option<[&'a Tensor; 2]>,
    /// v at the earlier checkpoint and at the later one, and what free decay makes of the earlier.
    pub seconds: Option<([&'a Tensor; 2], Floor)>,
    /// m at the later checkpoint.
    pub first: Option<&'a Tensor>,
}

/// What a tensor's change amounts to. Sums of weights are over elements that are finite at both ends, those of second
/// moments over elements that are finite and not negative at both.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sums {
    /// Elements.
    pub elements: u64,
    /// Elements that are not finite at one end.
    pub non_finite: u64,
    /// Those at the earlier end, and those at the later.
    pub non_finite_each: [u64; 2],
    /// Σw².
    pub before: f64,
    /// Σw'².
    pub after: f64,
    /// Σw·w'.
    pub product: f64,
    /// Σ(w'−w)².
    pub change: f64,
    /// What rounding both ends to the stored dtype adds to it, as expected.
    pub rounding: f64,
    /// Largest |w'−w|.
    pub largest_change: f64,
    /// Elements whose bits differ, once both are f64.
    pub changed: u64,
    /// Σv.
    pub second_before: f64,
    /// Σv'.
    pub second_after: f64,
    /// Elements whose moments are not finite, or negative.
    pub bad_seconds: u64,
    /// Elements whose v is above what its dtype resolves.
    pub decaying: u64,
    /// Those of them whose v did nothing but decay.
    pub at_floor: u64,
    /// Those of them whose v fell below free decay.
    pub below_floor: u64,
    /// Δw against −m/√v.
    pub alignment: Alignment,
}

impl Sums {
    /// Adds one element.
    fn add(&mut self, [before, after, second_before, second_after, first]: [f64; 5], reading: &Reading) {
        self.elements += 1;
        if reading.weights {
            self.add_weights(before, after, reading);
        }
        if let Some(floor) = &reading.floor {
            self.add_seconds(second_before, second_after, floor);
            if reading.first && reading.weights {
                self.alignment.add(before, after, first, second_after);
            }
        }
    }

    fn add_weights(&mut self, before: f64, after: f64, reading: &Reading) {
        self.changed += u64::from(before.to_bits() != after.to_bits());
        if !before.is_finite() || !after.is_finite() {
            self.non_finite += 1;
            for (count, value) in self.non_finite_each.iter_mut().zip([before, after]) {
                *count += u64::from(!value.is_finite());
            }
            return;
        }
        let change = after - before;
        self.before += before * before;
        self.after += after * after;
        self.product += before * after;
        self.change += change * change;
        self.largest_change = self.largest_change.max(change.abs());
        self.rounding +=
            movement::rounding(before, reading.dtypes[0]) + movement::rounding(after, reading.dtypes[1]);
    }

    fn add_seconds(&mut self, before: f64, after: f64, floor: &Floor) {
        if !(before.is_finite() && after.is_finite() && before >= 0.0 && after >= 0.0) {
            self.bad_seconds += 1;
            return;
        }
        self.second_before += before;
        self.second_after += after;
        if floor.resolves(before) {
            self.decaying += 1;
            self.at_floor += u64::from(floor.is_at(before, after));
            self.below_floor += u64::from(floor.is_below(before, after));
        }
    }

    /// Joins the next block.
    fn join(&mut self, next: &Self) {
        self.elements += next.elements;
        self.non_finite += next.non_finite;
        for (count, next) in self.non_finite_each.iter_mut().zip(next.non_finite_each) {
            *count += next;
        }
        self.before += next.before;
        self.after += next.after;
        self.product += next.product;
        self.change += next.change;
        self.rounding += next.rounding;
        self.largest_change = self.largest_change.max(next.largest_change);
        self.changed += next.changed;
        self.second_before += next.second_before;
        self.second_after += next.second_after;
        self.bad_seconds += next.bad_seconds;
        self.decaying += next.decaying;
        self.at_floor += next.at_floor;
        self.below_floor += next.below_floor;
        self.alignment.product += next.alignment.product;
        self.alignment.movement += next.alignment.movement;
        self.alignment.update += next.alignment.update;
    }
}

/// A pair whose later weights are read by whoever measures them: the others are read along with them.
#[derive(Debug, Clone, Copy)]
pub struct Accompanying<'a> {
    /// The pair; it has weights.
    pub pair: Pair<'a>,
    /// Whom to tell about progress.
    pub context: &'a Context,
}

impl Beside for Accompanying<'_> {
    type Sums = Sums;

    fn start(&self) -> Sums {
        Sums::default()
    }

    fn feed(&self, sums: &mut Sums, part: Range<u64>, bytes: &[u8]) -> Result<()> {
        thread_local! {
            // One set for each thread: a block's own would be held until all of a wave are joined.
            static VALUES: RefCell<[Vec<f64>; 5]> = const { RefCell::new([const { Vec::new() }; 5]) };
        }
        VALUES.with_borrow_mut(|values| {
            for (place, (tensor, values)) in
                self.pair.tensors().into_iter().zip(values.iter_mut()).enumerate()
            {
                match tensor {
                    Some(tensor) if place == LATER => decode::to_f64(tensor.dtype, bytes, values),
                    tensor => read_part(tensor, &part, values, self.context)?,
                }
            }
            add_part(sums, values, &self.pair.reading());
            Ok(())
        })
    }

    fn join(&self, whole: &mut Sums, next: Sums) {
        whole.join(&next);
    }
}

/// The place of the later weights among the tensors of a pair.
const LATER: usize = 1;

/// Reads the elements `part` of a tensor, zeros where there is none.
fn read_part(
    tensor: Option<&Tensor>,
    part: &Range<u64>,
    values: &mut Vec<f64>,
    context: &Context,
) -> Result<()> {
    let length = part.end - part.start;
    if let Some(tensor) = tensor {
        tensor.read_f64(part.clone(), values)?;
        context.progress.advance(length * tensor.dtype.size().unwrap_or(0));
    } else {
        values.clear();
        values.resize(length as usize, 0.0);
    }
    Ok(())
}

/// Adds elements that stand side by side.
fn add_part(sums: &mut Sums, values: &[Vec<f64>; 5], reading: &Reading) {
    let [before, after, second_before, second_after, first] = values;
    let weights = before.iter().zip(after);
    let seconds = second_before.iter().zip(second_after);
    for (((&before, &after), (&second_before, &second_after)), &first) in weights.zip(seconds).zip(first) {
        sums.add([before, after, second_before, second_after, first], reading);
    }
}

/// What of a pair is there.
struct Reading {
    weights: bool,
    dtypes: [DType; 2],
    floor: Option<Floor>,
    first: bool,
}

impl<'a> Pair<'a> {
    /// The tensors that are read, in the order in which an element's numbers stand.
    fn tensors(&self) -> [Option<&'a Tensor>; 5] {
        let [before, after] = self.weights.map_or([None, None], |pair| pair.map(Some));
        let [second_before, second_after] = self.seconds.map_or([None, None], |(pair, _)| pair.map(Some));
        [before, after, second_before, second_after, self.first]
    }

    /// Bytes that are read.
    pub fn bytes(&self) -> u64 {
        self.tensors().into_iter().flatten().map(Tensor::byte_count).fold(0, u64::saturating_add)
    }

    /// Those of them that are the later weights'.
    pub fn later_bytes(&self) -> u64 {
        self.weights.map_or(0, |[_, later]| later.byte_count())
    }

    fn reading(&self) -> Reading {
        let dtypes = self.weights.map_or([DType::F64; 2], |pair| pair.map(|tensor| tensor.dtype));
        Reading {
            weights: self.weights.is_some(),
            dtypes,
            floor: self.seconds.map(|(_, floor)| floor),
            first: self.first.is_some(),
        }
    }

    /// Reads every element once. Nothing when the user asked to stop.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn run(&self, context: &Context) -> Result<Option<Sums>> {
        let count = self.tensors().into_iter().flatten().map(Tensor::count).next().unwrap_or(0);
        let blocks = count.div_ceil(BLOCK);
        let mut whole = Sums::default();
        for wave in (0..blocks).step_by(WAVE as usize) {
            let block = |index: u64| self.one_block(index * BLOCK..count.min((index + 1) * BLOCK), context);
            let done = parallel::map_range(wave..blocks.min(wave + WAVE), block);
            let Some(done) = done.into_iter().collect::<Result<Option<Vec<Sums>>>>()? else {
                return Ok(None);
            };
            for next in &done {
                whole.join(next);
            }
        }
        Ok(Some(whole))
    }

    fn one_block(&self, range: Range<u64>, context: &Context) -> Result<Option<Sums>> {
        if context.cancelled() {
            return Ok(None);
        }
        let reading = self.reading();
        let mut sums = Sums::default();
        let mut values = [const { Vec::new() }; 5];
        let mut start = range.start;
        while start < range.end {
            let part = start..range.end.min(start + PART);
            for (tensor, values) in self.tensors().into_iter().zip(&mut values) {
                read_part(tensor, &part, values, context)?;
            }
            add_part(&mut sums, &values, &reading);
            start = part.end;
        }
        Ok(Some(sums))
    }
}
