//! Where singular values lie: exactly, or by stochastic Lanczos quadrature (Golub and Meurant 1994; Ubaru, Chen and Saad 2017) on what
//! is left when the largest are taken out. Without that a few spikes would decide the estimate (Hutch++, Meyer et al. 2021).

use super::krylov::Top;
use super::lanczos::{self, Basis};
use super::matrix::SEED;
use super::operator::Operator;
use crate::analysis::model::Density;
use crate::compute::{Backend, Side};
use crate::context::Context;
use crate::error::Result;
use crate::random::Stream;
use crate::robust::by_first;

/// Quantiles that are reported: 0, 1/64, …, 1.
const QUANTILES: usize = 65;

/// Random starts, and steps of each.
const STARTS: u64 = 4;
const STEPS: usize = 40;

/// Products that a density takes at most.
pub(in crate::analysis) const PRODUCTS: u64 = 2 * STARTS * STEPS as u64;

/// Quantiles of all singular values, largest first; of the smallest to the largest, linear between neighbours.
#[expect(clippy::cast_sign_loss, reason = "a place in a list is not negative")]
pub fn quantiles(values: &[f64]) -> Vec<f64> {
    let last = values.len().saturating_sub(1) as f64;
    let count = QUANTILES.min(values.len());
    let quantile = |index: usize| {
        let place = if count < 2 { 0.0 } else { last * index as f64 / (count - 1) as f64 };
        let (low, share) = (place.floor() as usize, place.fract());
        let ascending = |index: usize| values[values.len() - 1 - index.min(values.len() - 1)];
        (1.0 - share) * ascending(low) + share * ascending(low + 1)
    };
    (0..count).map(quantile).collect()
}

/// The density of an operator whose largest singular values are `top`; `None` when the user asked to stop.
pub fn estimate<B: Backend>(
    backend: &B,
    operator: &dyn Operator<B>,
    top: &Top<B::Buffer<f64>>,
    context: &Context,
) -> Result<Option<Density>> {
    Ok(quadrature(backend, operator, top, context)?.map(|found| found.density()))
}

/// A quadrature over the singular values.
pub(in crate::analysis) struct Quadrature {
    /// Values and their weights, which sum to 1, smallest first.
    pub nodes: Vec<(f64, f64)>,
    /// The smallest value of every start is nearer to a singular value than to 0.
    pub resolves_smallest: bool,
}

impl Quadrature {
    /// The density that the nodes stand for.
    pub fn density(&self) -> Density {
        Density { quantiles: weighted_quantiles(&self.nodes), is_exact: false }
    }
}

/// The quadrature behind [`estimate`]; `None` when the user asked to stop.
pub(in crate::analysis) fn quadrature<B: Backend>(
    backend: &B,
    operator: &dyn Operator<B>,
    top: &Top<B::Buffer<f64>>,
    context: &Context,
) -> Result<Option<Quadrature>> {
    let n = operator.rows().min(operator.columns()) as f64;
    let rest = n - top.values.len() as f64;
    let deflated = Deflated { operator, taken: &top.vectors, forward: top.forward };
    let mut nodes: Vec<(f64, f64)> = top.values.iter().map(|value| (*value, 1.0 / n)).collect();
    let mut resolves_smallest = true;
    for start in 0..STARTS {
        let stream = Stream::new(SEED, 2 + start);
        let Some(ritz) =
            lanczos::run_orthogonal_to(backend, &deflated, STEPS, stream, Some(&top.vectors), context)?
        else {
            return Ok(None);
        };
        let smallest = ritz.values.last().zip(ritz.residuals.last());
        resolves_smallest &= smallest.is_none_or(|(value, residual)| residual < value);
        let share = rest / (n * STARTS as f64);
        nodes.extend(ritz.values.iter().zip(&ritz.weights).map(|(value, weight)| (*value, weight * share)));
    }
    by_first(&mut nodes);
    Ok(Some(Quadrature { nodes, resolves_smallest }))
}

/// Quantiles of values with weights, sorted: each value stands in the middle of its weight.
fn weighted_quantiles(nodes: &[(f64, f64)]) -> Vec<f64> {
    let total: f64 = nodes.iter().map(|(_, weight)| weight).sum();
    let mut before = 0.0;
    let places: Vec<(f64, f64)> = nodes
        .iter()
        .map(|(value, weight)| {
            let place = (before + 0.5 * weight) / total;
            before += weight;
            (place, *value)
        })
        .collect();
    let quantile = |index: usize| {
        let wanted = index as f64 / (QUANTILES - 1) as f64;
        let above = places.partition_point(|(place, _)| *place < wanted);
        match (above.checked_sub(1).map(|below| places[below]), places.get(above)) {
            (Some((low, a)), Some(&(high, b))) if high > low => a + (b - a) * (wanted - low) / (high - low),
            (_, Some(&(_, value))) | (Some((_, value)), None) => value,
            (None, None) => 0.0,
        }
    };
    (0..QUANTILES).map(quantile).collect()
}

/// An operator without the directions of its largest singular values.
struct Deflated<'a, B: Backend> {
    operator: &'a dyn Operator<B>,
    taken: &'a Basis<B::Buffer<f64>>,
    forward: Side,
}

impl<B: Backend> Operator<B> for Deflated<'_, B> {
    fn rows(&self) -> usize {
        self.operator.rows()
    }

    fn columns(&self) -> usize {
        self.operator.columns()
    }

    /// Vectors of the shorter side never leave the space without the taken directions, so that it is enough to
    /// project what comes back to it.
    fn apply(&self, backend: &B, side: Side, x: &B::Buffer<f64>, y: &mut B::Buffer<f64>) -> Result<()> {
        self.operator.apply(backend, side, x, y)?;
        if side == self.forward { Ok(()) } else { self.taken.remove_from(backend, y) }
    }
}
