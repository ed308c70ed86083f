//! The spectrum of a change: ΔW = W′ − W, known by its products alone, against the direction in which W is largest.
//!
//! σ₁(ΔW) by Golub–Kahan–Lanczos with the bracket of [`super::bracket`]; W's own leading singular triplet (σ, u, v) by as many
//! steps. A change of low stable rank along u and v grows σ₁ itself: to first order uᵀΔWv is what σ₁ gains (Stewart and Sun
//! 1990, theorem IV.2.3).

use super::bracket;
use super::lanczos::{self, Basis, Ritz};
use super::matrix::{CONVERGED, SEED, norm_of, rounding};
use super::operator::{Operator, flip, forward};
use crate::analysis::model::{ChangeSpectrum, Degenerate, Measured};
use crate::compute::{Backend, Matrix, Side};
use crate::context::Context;
use crate::error::Result;
use crate::random::Stream;

/// Why there is no direction.
const UNSETTLED: &str = "the largest singular values are too near to each other for a direction";

/// W′ − W.
struct Change<'m, 't> {
    before: &'m Matrix<'t>,
    after: &'m Matrix<'t>,
}

impl<B: Backend> Operator<B> for Change<'_, '_> {
    fn rows(&self) -> usize {
        self.before.row_count()
    }

    fn columns(&self) -> usize {
        self.before.column_count()
    }

    fn apply(&self, backend: &B, side: Side, x: &B::Buffer<f64>, y: &mut B::Buffer<f64>) -> Result<()> {
        let length = if side == Side::Plain { self.before.row_count() } else { self.before.column_count() };
        let mut earlier = backend.zeros(length)?;
        backend.multiply(self.before, side, 1, x, &mut earlier)?;
        backend.multiply(self.after, side, 1, x, y)?;
        backend.axpy(-1.0, &earlier, y)
    }
}

/// A map without one direction of its shorter side: its largest singular value is the second of the map where that direction is the
/// map's first.
struct Without<'o, O, Vectors> {
    operator: &'o O,
    direction: Basis<Vectors>,
}

impl<B: Backend, O: Operator<B>> Operator<B> for Without<'_, O, B::Buffer<f64>>
where
    B::Buffer<f64>: Sync,
{
    fn rows(&self) -> usize {
        self.operator.rows()
    }

    fn columns(&self) -> usize {
        self.operator.columns()
    }

    fn apply(&self, backend: &B, side: Side, x: &B::Buffer<f64>, y: &mut B::Buffer<f64>) -> Result<()> {
        if side == flip(forward(self.operator)) {
            self.operator.apply(backend, side, x, y)?;
            return self.direction.remove_from(backend, y);
        }
        let mut rest = backend.zeros(self.direction.length())?;
        backend.place(x, &mut rest, 0)?;
        self.direction.remove_from(backend, &mut rest)?;
        self.operator.apply(backend, side, &rest, y)
    }
}

/// What the second singular value is at most, as far as it can be told: the second Ritz value, and the largest of the map without
/// the first direction. A Krylov space has each singular value once, however often the map has it. `None` when the user asked to stop.
fn second<B: Backend, O: Operator<B>>(
    backend: &B,
    operator: &O,
    ritz: &Ritz<B::Buffer<f64>>,
    context: &Context,
) -> Result<Option<f64>> {
    let within = |ritz: &Ritz<B::Buffer<f64>>, index: usize| {
        ritz.values
            .get(index)
            .zip(ritz.residuals.get(index))
            .map_or(0.0, |(value, residual)| value + residual)
    };
    let length = operator.rows().min(operator.columns());
    let mut direction = Basis::new(backend, 1, length)?;
    direction.push(backend, &ritz.vector)?;
    let rest = Without { operator, direction };
    let found = lanczos::run(backend, &rest, ritz.steps, Stream::new(SEED, 2), context)?;
    Ok(found.map(|found| within(ritz, 1).max(within(&found, 0))))
}

/// Whether the direction of the largest Ritz value is that of the largest singular value to a hundredth: a residual turns it by at
/// most as much as its share of the gap to the other singular values (Davis and Kahan 1970; Wedin 1972). `None` when the user asked
/// to stop.
fn is_settled<B: Backend, O: Operator<B>>(
    backend: &B,
    operator: &O,
    ritz: &Ritz<B::Buffer<f64>>,
    context: &Context,
) -> Result<Option<bool>> {
    let (Some(&value), Some(&residual)) = (ritz.values.first(), ritz.residuals.first()) else {
        return Ok(Some(false));
    };
    let residual = residual.max(rounding(operator.rows(), operator.columns()) * value);
    // No gap is larger than the value itself.
    if value == 0.0 || residual > CONVERGED * value {
        return Ok(Some(false));
    }
    let second = second(backend, operator, ritz, context)?;
    Ok(second.map(|second| residual <= CONVERGED * (value - second)))
}

/// The unit vectors u and v of the largest Ritz value of `operator`.
fn leading<B: Backend, O: Operator<B>>(
    backend: &B,
    operator: &O,
    ritz: &Ritz<B::Buffer<f64>>,
) -> Result<[B::Buffer<f64>; 2]> {
    let value = ritz.values.first().copied().unwrap_or(0.0);
    let forward = forward(operator);
    let is_tall = forward == Side::Plain;
    let (short, long) = (operator.rows().min(operator.columns()), operator.rows().max(operator.columns()));
    let mut shorter = backend.zeros(short)?;
    backend.place(&ritz.vector, &mut shorter, 0)?;
    let mut longer = backend.zeros(long)?;
    operator.apply(backend, forward, &shorter, &mut longer)?;
    backend.scale(1.0 / value, &mut longer)?;
    Ok(if is_tall { [longer, shorter] } else { [shorter, longer] })
}

/// Measures how `after` differs from `before`, two matrices of one shape whose elements are finite, and whose difference has
/// the Frobenius norm `difference`; `None` when the user asked to stop.
///
/// # Errors
/// A file that cannot be read.
pub fn measure<B: Backend>(
    backend: &B,
    before: &Matrix<'_>,
    after: &Matrix<'_>,
    difference: f64,
    context: &Context,
) -> Result<Option<Measured<ChangeSpectrum>>> {
    let shorter = before.row_count().min(before.column_count());
    if shorter == 0 {
        return Ok(Some(Measured::Degenerate(Degenerate::Empty)));
    }
    let change = Change { before, after };
    let steps = bracket::steps(shorter);
    let Some(ritz) = lanczos::run(backend, &change, steps, Stream::new(SEED, 0), context)? else {
        return Ok(None);
    };
    let Some(own) = lanczos::run(backend, before, steps, Stream::new(SEED, 1), context)? else {
        return Ok(None);
    };
    let spectral_norm = norm_of(&ritz, shorter, difference);
    if spectral_norm.value == 0.0 {
        return Ok(Some(Measured::Degenerate(Degenerate::AllZero)));
    }
    let size = own.values.first().copied().unwrap_or(0.0);
    let over = |value: f64| {
        if size > 0.0 { Measured::Value(value / size) } else { Measured::Degenerate(Degenerate::AllZero) }
    };
    let mut alignment = Measured::not(UNSETTLED);
    let mut growth = Measured::not(UNSETTLED);
    let Some(has_direction) = is_settled(backend, before, &own, context)? else { return Ok(None) };
    if has_direction {
        let [left, right] = leading(backend, before, &own)?;
        let mut moved = backend.zeros(before.row_count())?;
        change.apply(backend, Side::Plain, &right, &mut moved)?;
        growth = over(backend.dot(&left, &moved)?);
        let Some(has_direction) = is_settled(backend, &change, &ritz, context)? else { return Ok(None) };
        if has_direction {
            let [changed_left, changed_right] = leading(backend, &change, &ritz)?;
            let cosines = [backend.dot(&changed_left, &left)?, backend.dot(&changed_right, &right)?];
            alignment = Measured::Value(cosines.map(f64::abs));
        }
    }
    Ok(Some(Measured::Value(ChangeSpectrum {
        stable_rank: (difference / spectral_norm.value).powi(2),
        relative_spectral_norm: over(spectral_norm.value),
        spectral_norm,
        alignment,
        growth,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::Cpu;

    /// A diagonal matrix.
    struct Diagonal(Vec<f64>);

    impl Operator<Cpu> for Diagonal {
        fn rows(&self) -> usize {
            self.0.len()
        }

        fn columns(&self) -> usize {
            self.0.len()
        }

        fn apply(&self, _: &Cpu, _: Side, x: &Vec<f64>, y: &mut Vec<f64>) -> Result<()> {
            *y = self.0.iter().zip(x).map(|(factor, x)| factor * x).collect();
            Ok(())
        }
    }

    /// The share of its first axis in the leading direction of a diagonal matrix, after so many steps; `None` where it has none.
    fn first_axis(values: Vec<f64>, steps: usize) -> Option<f64> {
        let (operator, context) = (Diagonal(values), Context::default());
        let ritz = lanczos::run(&Cpu, &operator, steps, Stream::new(SEED, 0), &context).unwrap().unwrap();
        let settled = is_settled(&Cpu, &operator, &ritz, &context).unwrap().unwrap();
        settled.then(|| leading(&Cpu, &operator, &ritz).unwrap()[1][0].abs())
    }

    /// 1 and `second`, and 298 values from 0.9 down.
    fn spiked(second: f64) -> Vec<f64> {
        let rest = (0..298).map(|index| 0.9 * (1.0 - f64::from(index) / 298.0));
        [1.0, second].into_iter().chain(rest).collect()
    }

    #[test]
    fn a_largest_singular_value_that_stands_alone_has_a_direction() {
        let mut values = spiked(0.5);
        values[0] = 2.0;
        assert!(first_axis(values, 30).unwrap() > 0.9999);
        assert!((first_axis(vec![3.0, 2.0, 1.0], 30).unwrap() - 1.0).abs() < 1e-12);
        assert!((first_axis(vec![3.0], 30).unwrap() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn one_that_is_there_twice_has_none() {
        assert_eq!(first_axis(vec![1.0; 50], 30), None, "the identity");
        assert_eq!(first_axis(vec![1.0, 1.0, 0.5, 0.2, 0.0], 30), None);
        assert_eq!(first_axis(spiked(1.0), 40), None);
    }

    #[test]
    fn a_direction_is_given_only_where_it_is_one_to_a_hundredth() {
        let mut none = 0;
        for second in [0.95, 0.99, 0.999, 0.9999, 0.999_999] {
            for steps in (2..60).step_by(4) {
                match first_axis(spiked(second), steps) {
                    // The sine of the angle.
                    Some(axis) => {
                        assert!(
                            (1.0 - axis * axis).max(0.0).sqrt() <= CONVERGED,
                            "{second}, {steps}: {axis}"
                        );
                    }
                    None => none += 1,
                }
            }
        }
        assert!((10..65).contains(&none), "{none} of 75 have none");
        // All of a small matrix is known but for rounding.
        assert!((first_axis(vec![1.0, 0.9999, 0.5], 30).unwrap() - 1.0).abs() < 1e-8);
    }

    #[test]
    fn a_change_of_one_direction_has_that_direction() {
        let mut values = vec![0.0; 200];
        values[0] = 0.3;
        assert!((first_axis(values, 40).unwrap() - 1.0).abs() < 1e-12);
    }
}
