//! What clipping to the run's threshold does to the mean of its dumped gradients: cos(Σcₜgₜ, Σgₜ) for every parameter.
//!
//! Clipping by the norm of the whole keeps the direction of each gradient, but weighs large ones less: the mean turns. One
//! dump is open at a time. Sums are kept for as many parameters as fit [`MOST_HELD`]; more are another round over the dumps,
//! so that memory does not grow with the model, and each gradient is read once.

use std::collections::HashMap;

use rayon::iter::{IntoParallelRefMutIterator, ParallelIterator};

use crate::analysis::model::{
    ClippedTensor, ClippingAnalysis, Degenerate, DumpAnalysis, DumpTensor, Measured, Section,
};
use crate::analysis::optimizer::pass_over;
use crate::analysis::optimizer::place::readable;
use crate::analysis::series::{clip, dump, number};
use crate::analysis::statistics::STOPPED;
use crate::checkpoint::{Checkpoint, CheckpointTensor, NameRules};
use crate::context::Context;
use crate::history::{Found, History};

/// Bytes of the sums of one round.
const MOST_HELD: u64 = 64 << 20;

/// The threshold that the run clips to, as far as a config or a log says it.
pub(super) fn threshold(history: &History) -> Option<f64> {
    history.clip_threshold.filter(|threshold| *threshold > 0.0 && threshold.is_finite())
}

/// What clipping does to the mean; `None` where the run says no threshold, or fewer than two dumps are of gradients that
/// were not clipped yet and have a norm.
pub(super) fn of(
    history: &History,
    dumps: &[DumpAnalysis],
    names: &NameRules,
    context: &Context,
) -> Option<ClippingAnalysis> {
    let threshold = threshold(history)?;
    let usable: Vec<(&Found, &DumpAnalysis, f64)> = dumps
        .iter()
        .filter(|dump| dump.clipped != Some(true) && dump.unscaled != Some(false))
        .filter_map(|dump| {
            let found = history.dumps.iter().find(|found| found.step == dump.step)?;
            Some((found, dump, clip::coefficient(*dump.norm.value()?, threshold)))
        })
        .collect();
    if usable.len() < 2 {
        return None;
    }
    let clipped = usable.iter().filter(|(_, _, coefficient)| *coefficient < 1.0).count() as u64;
    let mut found = ClippingAnalysis { threshold, dumps: usable.len() as u64, clipped, tensors: Vec::new() };
    if clipped > 0 {
        let (_, last, _) = usable[usable.len() - 1];
        for round in rounds(&last.tensors) {
            found.tensors.extend(one_round(round, &usable, names, context));
        }
    }
    Some(found)
}

/// The parameters, as many at a time as may be summed side by side.
fn rounds(tensors: &[DumpTensor]) -> impl Iterator<Item = &[DumpTensor]> {
    let mut rest = tensors;
    std::iter::from_fn(move || {
        let mut sum = 0u64;
        let fits = |tensor: &&DumpTensor| {
            sum = sum.saturating_add(tensor.elements.saturating_mul(16));
            sum <= MOST_HELD
        };
        let length = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let (round, later) = rest.split_at(length);
        rest = later;
        (!round.is_empty()).then_some(round)
    })
}

/// The sums of one parameter.
struct Sums<'a> {
    tensor: &'a DumpTensor,
    clipped: Vec<f64>,
    whole: Vec<f64>,
    /// Why there is no mean.
    failed: Option<String>,
}

fn one_round(
    tensors: &[DumpTensor],
    dumps: &[(&Found, &DumpAnalysis, f64)],
    names: &NameRules,
    context: &Context,
) -> Vec<ClippedTensor> {
    let mut sums: Vec<Sums<'_>> = tensors
        .iter()
        .map(|tensor| Sums { tensor, clipped: Vec::new(), whole: Vec::new(), failed: too_large(tensor) })
        .collect();
    for (found, _, coefficient) in dumps {
        match Checkpoint::read(&found.path, names, context) {
            Ok(dump) => {
                let gradients = by_name(&dump);
                sums.par_iter_mut().for_each(|sums| sums.add(&gradients, *coefficient, context));
            }
            Err(error) => {
                let reason = error.kind.to_string();
                for sums in &mut sums {
                    sums.fail(reason.clone());
                }
            }
        }
    }
    sums.into_iter().map(Sums::finish).collect()
}

/// Why a parameter alone is more than a round may hold.
fn too_large(tensor: &DumpTensor) -> Option<String> {
    let is_too_large = tensor.elements.saturating_mul(16) > MOST_HELD;
    is_too_large.then(|| format!("its sums are larger than the {} MiB that are held", MOST_HELD >> 20))
}

fn by_name(dump: &Checkpoint) -> HashMap<&str, &CheckpointTensor> {
    let model = dump.tensors.iter().filter(|tensor| tensor.section == Section::Model);
    model.map(|tensor| (dump::parameter(&tensor.canonical_name), tensor)).collect()
}

impl Sums<'_> {
    fn fail(&mut self, reason: String) {
        self.failed.get_or_insert(reason);
    }

    fn add(&mut self, gradients: &HashMap<&str, &CheckpointTensor>, coefficient: f64, context: &Context) {
        if self.failed.is_some() {
            return;
        }
        let Some(named) = gradients.get(self.tensor.canonical_name.as_str()) else {
            return self.fail("a dump lacks it".to_owned());
        };
        let tensor = match &named.tensor {
            Ok(tensor) if tensor.count() != self.tensor.elements => {
                return self.fail("its shape changed from one dump to the next".to_owned());
            }
            Ok(tensor) => tensor,
            Err(error) => return self.fail(error.kind.to_string()),
        };
        if let Err(reason) = readable(tensor) {
            return self.fail(reason);
        }
        self.clipped.resize(tensor.count() as usize, 0.0);
        self.whole.resize(tensor.count() as usize, 0.0);
        let mut places = self.clipped.iter_mut().zip(&mut self.whole);
        let outcome = pass_over([tensor], context, |[gradient]| {
            if let Some((clipped, whole)) = places.next() {
                *clipped += coefficient * gradient;
                *whole += gradient;
            }
        });
        match outcome {
            Ok(true) => {}
            Ok(false) => self.fail(STOPPED.to_owned()),
            Err(error) => self.fail(error.kind.to_string()),
        }
    }

    fn finish(self) -> ClippedTensor {
        ClippedTensor {
            name: self.tensor.name.clone(),
            canonical_name: self.tensor.canonical_name.clone(),
            cosine: match self.failed {
                Some(reason) => Measured::not(reason),
                None => cosine(&self.clipped, &self.whole),
            },
        }
    }
}

fn cosine(one: &[f64], other: &[f64]) -> Measured<f64> {
    let largest = |values: &[f64]| values.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
    let scales = [largest(one), largest(other)];
    if one.is_empty() {
        return Measured::Degenerate(Degenerate::Empty);
    }
    if scales.contains(&0.0) {
        return Measured::Degenerate(Degenerate::AllZero);
    }
    // Scaled, so that squares of gradients of 1e200 or 1e-200 stay in range.
    let (mut product, mut first, mut second) = (0.0, 0.0, 0.0);
    for (one, other) in one.iter().zip(other) {
        let (one, other) = (one / scales[0], other / scales[1]);
        product += one * other;
        first += one * one;
        second += other * other;
    }
    number(product / (f64::sqrt(first) * f64::sqrt(second)))
}
