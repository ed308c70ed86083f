//! Whether a map holds a draw of a usual initialisation: uniform, as nobody has trained or scaled it since, or standard normal, as tables
//! stay in training.

use std::f64::consts::FRAC_1_SQRT_2;

use super::weights::{Fans, fans};
use crate::analysis::model::TensorAnalysis;

/// Standard errors by which the RMS of a draw may differ from its law's.
const STANDARD_ERRORS: f64 = 3.0;
/// The largest of n draws is below `1 - m` of the bound with the probability `(1 - m)^n < exp(-m n)`: 0.001 here.
const SHORT_OF_BOUND: f64 = 7.0;
/// What storing in bf16 moves an element by, of its size: half of the distance of its numbers.
const ROUNDING: f64 = 1.0 / 256.0;
/// Fewer elements leave the largest of them too far from the bound to tell one law from another.
const FEWEST: u64 = 64;

/// The gains `σ_w²` that usual initialisations give a map of these fans: Glorot, He, LeCun, and what `torch.nn.Linear` and the
/// convolutions of PyTorch begin with. All are at most 2, so that a map drawn so multiplies signals by no more than He's.
fn usual_gains(fans: Fans) -> [f64; 4] {
    let (input, output) = (fans.input as f64, fans.output as f64);
    [2.0 * input / (input + output), 2.0, 1.0, 1.0 / 3.0]
}

/// Whether the elements are uniform within the bound of a usual initialisation for the shape of the map. The bound is sharp: elements fill it to
/// the edge and none is beyond, which no other width does by chance.
pub(super) fn is_uniform_draw(tensor: &TensorAnalysis) -> bool {
    let is_of = |bound: f64| {
        let statistics = tensor.statistics.value()?;
        let (largest, rms) = (*statistics.max_abs.value()?, *statistics.rms.value()?);
        let count = tensor.elements as f64;
        let fills = largest <= bound * (1.0 + ROUNDING)
            && largest >= bound * (1.0 - SHORT_OF_BOUND / count - ROUNDING);
        // Of a uniform draw, the variance of x² is 4/5 of its squared mean.
        let error = STANDARD_ERRORS * (0.2 / count).sqrt() + ROUNDING;
        Some(fills && (rms * 3.0f64.sqrt() / bound - 1.0).abs() <= error)
    };
    let Some(fans) = fans(tensor).filter(|_| tensor.elements >= FEWEST) else { return false };
    // A uniform draw within ±b has the variance b²/3, and the gain is the variance times the fan-in.
    usual_gains(fans).into_iter().any(|gain| is_of((3.0 * gain / fans.input as f64).sqrt()) == Some(true))
}

/// So many of n normal numbers are expected beyond the largest of them: more than the first with the probability `exp(-7)`, fewer than the
/// second with 0.001.
const BEYOND_LARGEST: std::ops::RangeInclusive<f64> = 0.001..=SHORT_OF_BOUND;
/// The largest of a uniform draw is `√3` times its RMS, which is what a few normal numbers have as well: of 100 some still pass for normal, of 256
/// none of the 500 in the test below.
pub(super) const FEWEST_NORMAL: u64 = 100;

/// Whether the elements are those of a standard normal draw, as `torch.nn.Embedding` and `torch.randn` begin: a map of another role that
/// holds one is a table under a name that is not known. `drift` is how far training may have taken its RMS from 1. What scales a layer up to an RMS of 1 leaves a uniform draw short of so long a tail.
pub(super) fn is_standard_normal(tensor: &TensorAnalysis, drift: f64) -> bool {
    let is_one = || {
        let statistics = tensor.statistics.value()?;
        let (largest, rms, mean) =
            (*statistics.max_abs.value()?, *statistics.rms.value()?, *statistics.mean.value()?);
        let count = tensor.elements as f64;
        let beyond = |largest: f64| count * libm::erfc(largest / rms * FRAC_1_SQRT_2);
        // Rows that training has moved may be further out, by as much as the whole was.
        let has_tail =
            beyond(largest) <= *BEYOND_LARGEST.end() && beyond(largest / drift) >= *BEYOND_LARGEST.start();
        let error = STANDARD_ERRORS / count.sqrt() + (drift - 1.0);
        Some((1.0 / drift..drift).contains(&rms) && has_tail && mean.abs() < error)
    };
    tensor.elements >= FEWEST_NORMAL && is_one() == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{Measured, Role};
    use crate::rules::test_support::tensor;

    /// A map of elements evenly spaced over `±bound`, without the bound itself, as a draw fills it.
    fn uniform(shape: &[u64], bound: f64) -> TensorAnalysis {
        let mut map = tensor("a.weight", Role::Linear, shape).filled(bound / 3.0f64.sqrt());
        let Measured::Value(statistics) = &mut map.statistics else { panic!("it was filled") };
        statistics.max_abs = Measured::Value(bound * (1.0 - 1.0 / map.elements as f64));
        map
    }

    #[test]
    fn a_draw_of_each_usual_law_is_one_at_its_own_width_alone() {
        let shape = [2, 256];
        let (input, both) = (256.0f64, 258.0f64);
        // The bounds as torch.nn.init documents them: xavier_uniform_, kaiming_uniform_ with a = 0, 1 and sqrt 5.
        let bounds = [(6.0 / both).sqrt(), (6.0 / input).sqrt(), (3.0 / input).sqrt(), 1.0 / input.sqrt()];
        for bound in bounds {
            assert!(is_uniform_draw(&uniform(&shape, bound)));
            for factor in [0.1, 0.9, 1.1, 8.0, 10.0] {
                assert!(!is_uniform_draw(&uniform(&shape, factor * bound)), "{factor}");
            }
        }
    }

    #[test]
    fn a_normal_draw_of_the_same_width_is_none() {
        let rms = (2.0f64 / 258.0).sqrt();
        let mut normal = uniform(&[2, 256], rms * 3.0f64.sqrt());
        let Measured::Value(statistics) = &mut normal.statistics else { panic!("it was filled") };
        // The largest of 512 normal numbers is about three times their RMS.
        statistics.max_abs = Measured::Value(3.0 * rms);
        assert!(!is_uniform_draw(&normal));
    }

    #[test]
    fn a_standard_normal_table_is_one_and_a_layer_scaled_up_to_its_width_is_none() {
        let table = |rms: f64, largest: f64| {
            let mut table = tensor("label_emb.weight", Role::Linear, &[10, 128]).filled(rms);
            let Measured::Value(statistics) = &mut table.statistics else { panic!("it was filled") };
            statistics.mean = Measured::Value(0.01);
            statistics.max_abs = Measured::Value(largest);
            is_standard_normal(&table, 1.25)
        };
        // The largest of 1280 standard normal numbers is 3.4 in the mean.
        assert!(table(1.0, 3.4) && table(1.1, 3.8));
        assert!(!table(1.0, 3f64.sqrt()), "a uniform draw of the same RMS");
        assert!(!table(8.0, 27.0) && !table(0.2, 0.7));
        let shifted = tensor("a.weight", Role::Linear, &[10, 128]).filled(1.0);
        assert!(!is_standard_normal(&shifted, 1.25), "all ones");
    }

    #[test]
    fn normal_draws_of_any_size_are_standard_normal_and_uniform_ones_of_256_elements_are_not() {
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
        };
        let is_one = |values: &[f64]| {
            let count = values.len() as f64;
            let rms = (values.iter().map(|value| value * value).sum::<f64>() / count).sqrt();
            let mut table = tensor("a.weight", Role::Linear, &[1, values.len() as u64]).filled(rms);
            let Measured::Value(statistics) = &mut table.statistics else { panic!("it was filled") };
            statistics.mean = Measured::Value(values.iter().sum::<f64>() / count);
            let largest = values.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
            statistics.max_abs = Measured::Value(largest);
            is_standard_normal(&table, 1.25)
        };
        for (size, draws) in [(100, 500), (256, 500), (100_000, 10)] {
            let (mut told, mut mistaken) = (0, 0);
            for _ in 0..draws {
                // Box and Muller.
                let normals: Vec<f64> = (0..size)
                    .map(|_| (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos())
                    .collect();
                let flat: Vec<f64> = (0..size).map(|_| (2.0 * uniform() - 1.0) * 3f64.sqrt()).collect();
                told += u64::from(is_one(&normals));
                mistaken += u64::from(is_one(&flat));
            }
            // One in a thousand normal draws is short of its tail.
            assert!(told + 2 >= draws, "{size}: {told} of {draws}");
            assert!(mistaken == 0 || size < 256, "{size}: {mistaken} of {draws}");
        }
    }

    #[test]
    fn a_few_elements_tell_nothing() {
        assert!(!is_uniform_draw(&uniform(&[3, 21], (6.0f64 / 24.0).sqrt())));
        assert!(is_uniform_draw(&uniform(&[3, 22], (6.0f64 / 25.0).sqrt())));
    }
}
