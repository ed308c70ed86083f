//! The median of |x|, exactly, for tensors small enough to sort: norm gains, biases, small maps.

use crate::analysis::model::{Degenerate, Measured};
use crate::context::Context;
use crate::error::Result;
use crate::tensor::{Kind, Tensor};

/// Larger tensors are not sorted: their median is not needed by any rule.
const MOST_ELEMENTS: u64 = 1 << 16;

/// The median of |x| over the finite elements; the mean of the middle two for an even number. O(n) by selection.
pub fn measure_median_abs(tensor: &Tensor, _: &Context) -> Result<Measured<f64>> {
    if tensor.dtype.kind() != Kind::Float {
        return Ok(Measured::not("counts and indices have no median that a rule uses"));
    }
    if tensor.count() > MOST_ELEMENTS {
        return Ok(Measured::not(format!("more than {MOST_ELEMENTS} elements")));
    }
    let mut values = Vec::new();
    tensor.read_f64(0..tensor.count(), &mut values)?;
    values.retain(|value| value.is_finite());
    if values.is_empty() {
        let kind = if tensor.count() == 0 { Degenerate::Empty } else { Degenerate::NoFiniteElement };
        return Ok(Measured::Degenerate(kind));
    }
    Ok(Measured::Value(median_abs(&mut values)))
}

fn median_abs(values: &mut [f64]) -> f64 {
    for value in values.iter_mut() {
        *value = value.abs();
    }
    let middle = values.len() / 2;
    let even = values.len().is_multiple_of(2);
    let (below, upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    let upper = *upper;
    if even { f64::midpoint(below.iter().copied().fold(0.0, f64::max), upper) } else { upper }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_signs_and_lies_between_the_middle_two() {
        assert_eq!(median_abs(&mut [-4.0, 1.0, 3.0, -2.0]), 2.5);
        assert_eq!(median_abs(&mut [-5.0, 1.0, 3.0]), 3.0);
        assert_eq!(median_abs(&mut [-5.0]), 5.0);
    }
}
