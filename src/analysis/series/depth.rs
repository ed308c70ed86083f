//! How gradients change with depth, by the layers of one dump.
//!
//! A layer is what has one index in its name; its gradient is that of its maps and convolutions, as RMS over their elements,
//! so that layers of different widths compare. Gains and biases are left out: their gradients are sums over positions.
//!
//! The gain is exp of the slope, by least squares, of ln RMS against the layer's place in the stack: the factor from one layer
//! to the next. Backwards through L layers gradients shrink by the gain to the power L−1 on the way to the first.

use std::collections::BTreeMap;

use crate::analysis::model::{Degenerate, DumpTensor, Measured, Role};

/// RMS of the gradient of each layer, by the layer's index.
///
/// # Errors
/// With a reason, where a layer has none or there are fewer than two.
fn layers(tensors: &[DumpTensor]) -> Result<Vec<f64>, String> {
    let mut sums: BTreeMap<u64, (f64, u64)> = BTreeMap::new();
    for tensor in tensors.iter().filter(|tensor| is_map(tensor.role)) {
        let Some(index) = tensor.layer.index else { continue };
        if tensor.non_finite > 0 {
            return Err(format!("the gradient of {} is not finite", tensor.name));
        }
        let norm = match &tensor.norm {
            Measured::Value(norm) => *norm,
            Measured::Degenerate(Degenerate::Empty) => continue,
            Measured::NotMeasured(reason) => return Err(format!("{}: {reason}", tensor.name)),
            Measured::Degenerate(_) => return Err(format!("{} has no finite norm", tensor.name)),
        };
        let (sum, elements) = sums.entry(index).or_default();
        *sum += norm * norm;
        *elements += tensor.elements;
    }
    if sums.len() < 2 {
        return Err("the names of its maps tell no two layers apart".to_owned());
    }
    Ok(sums.into_values().map(|(sum, elements)| (sum / elements as f64).sqrt()).collect())
}

fn is_map(role: Role) -> bool {
    !matches!(
        role,
        Role::NormGain | Role::NormBias | Role::Bias | Role::Buffer | Role::OptimizerState | Role::Other
    )
}

/// RMS of the first layer's gradient over that of the last one's.
pub(super) fn first_over_last(tensors: &[DumpTensor]) -> Measured<f64> {
    match layers(tensors) {
        Err(reason) => Measured::not(reason),
        Ok(layers) if layers[layers.len() - 1] == 0.0 => Measured::Degenerate(Degenerate::AllZero),
        Ok(layers) => super::number(layers[0] / layers[layers.len() - 1]),
    }
}

/// Factor by which RMS of the gradient changes from one layer to the next deeper one.
pub(super) fn gain(tensors: &[DumpTensor]) -> Measured<f64> {
    let layers = match layers(tensors) {
        Ok(layers) => layers,
        Err(reason) => return Measured::not(reason),
    };
    if layers.contains(&0.0) {
        return Measured::Degenerate(Degenerate::AllZero);
    }
    let middle = (layers.len() - 1) as f64 / 2.0;
    let (mut product, mut square) = (0.0, 0.0);
    for (place, rms) in layers.iter().enumerate() {
        let distance = place as f64 - middle;
        product += distance * rms.ln();
        square += distance * distance;
    }
    super::number((product / square).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Layer;

    fn tensor(index: u64, role: Role, elements: u64, norm: f64) -> DumpTensor {
        DumpTensor {
            name: format!("h.{index}"),
            canonical_name: format!("h.{index}"),
            layer: Layer { path: format!("h.{index}"), index: Some(index), order: index },
            role,
            elements,
            non_finite: 0,
            norm: Measured::Value(norm),
            max_abs: Measured::Value(norm),
        }
    }

    #[test]
    fn a_gradient_that_halves_with_every_layer_has_gain_two_whatever_the_widths() {
        // RMS 1, 2, 4, 8 from the first layer to the last, in layers of different size, two tensors in the first.
        let mut dump: Vec<DumpTensor> = (1..4)
            .map(|index| {
                let (elements, rms) = (10 * (index + 1), 2f64.powi(index as i32));
                tensor(index, Role::Linear, elements, rms * (elements as f64).sqrt())
            })
            .collect();
        dump.push(tensor(0, Role::MlpIn, 3, 3f64.sqrt()));
        dump.push(tensor(0, Role::MlpOut, 5, 5f64.sqrt()));
        dump.push(tensor(0, Role::Bias, 1, 1e9));
        assert!((gain(&dump).value().unwrap() - 2.0).abs() < 1e-12);
        assert!((first_over_last(&dump).value().unwrap() - 0.125).abs() < 1e-12);
    }

    #[test]
    fn one_layer_no_gradient_and_gradients_that_are_not_finite_are_no_numbers() {
        let one = [tensor(0, Role::Linear, 4, 1.0)];
        assert!(matches!(gain(&one), Measured::NotMeasured(_)));
        let vanished = [tensor(0, Role::Linear, 4, 0.0), tensor(1, Role::Linear, 4, 1.0)];
        assert_eq!(gain(&vanished), Measured::Degenerate(Degenerate::AllZero));
        assert_eq!(first_over_last(&vanished), Measured::Value(0.0));
        let mut broken = vanished;
        broken[1].non_finite = 1;
        assert!(matches!(first_over_last(&broken), Measured::NotMeasured(_)));
    }
}
