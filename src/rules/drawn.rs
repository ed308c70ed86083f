//! Whether a map holds a uniform draw of a usual initialisation, as nobody has trained or scaled it since.

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
    fn a_few_elements_tell_nothing() {
        assert!(!is_uniform_draw(&uniform(&[3, 21], (6.0f64 / 24.0).sqrt())));
        assert!(is_uniform_draw(&uniform(&[3, 22], (6.0f64 / 25.0).sqrt())));
    }
}
