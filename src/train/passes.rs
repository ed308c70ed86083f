//! Forward and backward passes on a GPU: weights go there, and losses and gradients come back, each time. Clipping and the optimizer
//! stay on the processor, so that a step differs from the processor's by its passes alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::compute::cuda::{self, Device};
use crate::compute::{Backend, Cpu};
use crate::error::{ErrorKind, Result};
use crate::network::{Array, Feed, Gradients, Network, ParameterId, Tape, Weights};

/// Opens a GPU for training.
///
/// # Errors
/// Why it cannot be used.
pub(super) fn open(ordinal: usize, libraries: &[PathBuf]) -> Result<Arc<Device>> {
    cuda::open(ordinal, libraries).map_err(|reason| {
        let kind = ErrorKind::NoDevice { message: reason.to_string() };
        kind.in_file(Path::new(&format!("--device cuda:{ordinal}")))
    })
}

/// A copy of the weights on a device.
pub(super) fn uploaded<B: Backend>(
    backend: &B,
    network: &Network,
    weights: &Weights<Cpu, f32>,
) -> Result<Weights<B, f32>> {
    let mut there = Weights::none(network);
    for index in 0..network.parameters.len() {
        let id = ParameterId(index);
        let Array { shape, buffer } = weights.get(id);
        there.set(id, Array { shape: shape.clone(), buffer: backend.upload(buffer)? });
    }
    Ok(there)
}

/// The loss of a batch; its gradients take the place of those before.
pub(super) fn differentiate<B: Backend>(
    backend: &B,
    network: &Network,
    feed: &Feed,
    weights: &Weights<Cpu, f32>,
    gradients: &mut Gradients<Cpu, f32>,
) -> Result<f64> {
    let weights = uploaded(backend, network, weights)?;
    let mut tape = Tape::new(network, backend, feed)?;
    tape.advance(&weights, network.output)?;
    let loss = f64::from(tape.download(network.output)?[0]);
    let mut there = Gradients::none(network);
    tape.parameter_gradient(&weights, network.output, backend.upload(&[1.0])?, &mut there)?;
    for (id, gradient) in there.met_mut() {
        gradients.of(&Cpu, id, &gradient.shape)?.buffer = backend.download(&gradient.buffer)?;
    }
    Ok(loss)
}
