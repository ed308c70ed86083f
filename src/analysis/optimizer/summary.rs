//! What the parameters of one optimizer amount to together.

use super::number;
use super::parameter::Energies;
use crate::analysis::model::{Degenerate, Measured, OptimizerSummary, ParameterOptimizer};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::optimizer::OptimizerState;

/// One summary for each optimizer of `checkpoint`.
pub(super) fn optimizers(
    checkpoint: &Checkpoint,
    parameters: &[ParameterOptimizer],
    energies: &[Energies],
) -> Vec<OptimizerSummary> {
    let summary = |(index, optimizer): (usize, &OptimizerState)| {
        // They stand optimizer by optimizer.
        let first = parameters.partition_point(|parameter| parameter.optimizer < index as u64);
        let behind = parameters.partition_point(|parameter| parameter.optimizer <= index as u64);
        let own = || parameters[first..behind].iter().zip(&energies[first..behind]);
        OptimizerSummary {
            place: optimizer.place.clone(),
            algorithm: optimizer.algorithm.clone(),
            mapping: optimizer.mapping.clone(),
            groups: optimizer.groups.clone(),
            scheduled: optimizer.scheduled.clone().map_or_else(
                || Measured::not("no scheduler beside it that is plainly its own"),
                Measured::Value,
            ),
            gradient_norm: total(own().map(|(parameter, _)| &parameter.gradient_norm)),
            signal_fraction: signal_fraction(own().map(|(_, energies)| *energies)),
        }
    };
    checkpoint.optimizers.iter().enumerate().map(summary).collect()
}

/// The norm of all gradients together. A part that is not known leaves the whole unknown.
fn total<'a>(norms: impl Iterator<Item = &'a Measured<f64>>) -> Measured<f64> {
    let mut sum = 0.0;
    for norm in norms {
        match norm {
            Measured::Value(norm) => sum += norm * norm,
            Measured::Degenerate(Degenerate::Empty) => {}
            other => return other.clone(),
        }
    }
    number(sum.sqrt())
}

/// ‖m̂‖²/Σv̂ over every parameter that has both.
fn signal_fraction(energies: impl Iterator<Item = Energies>) -> Measured<f64> {
    let (first, second) =
        energies.fold((0.0, 0.0), |(first, second), next| (first + next.first, second + next.second));
    if second > 0.0 { number(first / second) } else { Measured::Degenerate(Degenerate::AllZero) }
}
