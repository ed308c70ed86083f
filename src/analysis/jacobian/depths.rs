//! What becomes of small changes on the way forward, and of gradients on the way back, at every depth at once.
//!
//! Random vectors are pushed from the first state through all stages and their length is read at each: `E‖J_l·z‖² = ‖J_l‖²_F`, the
//! averaged partial Jacobian norm times N_l (Doshi, He and Gromov 2021, arXiv 2111.12143). Back go gradients of the last state: those
//! of labels where there are any, otherwise random ones.

use super::parameters::Parameters;
use super::segment::converted;
use super::stages::Stage;
use crate::compute::{Backend, Real};
use crate::context::Context;
use crate::error::Result;
use crate::network::Tape;
use crate::random::Stream;

/// Streams of the vectors that go forward, and of those that go back.
const FORWARD_STREAM: u64 = 1 << 20;
const BACKWARD_STREAM: u64 = 1 << 21;

/// Of one draw, one number a stage, which may be none that is finite.
#[derive(Debug, Clone, PartialEq)]
pub struct Depths {
    /// ‖dh_l/dh_0‖_F/√N_l behind each stage.
    pub from_input: Vec<f64>,
    /// ‖dh_L/dh_l ᵀ·u‖/‖u‖ before each stage; `None` where u is zero, as the gradient of labels is that the network is sure of.
    pub gradient: Option<Vec<f64>>,
    /// Root mean square of the state behind each stage.
    pub state_rms: Vec<f64>,
}

/// Measures the depths of one draw, whose stages lie on `tape`, with `vectors` random vectors each way; `None` when the user asked to
/// stop. `gradient` is that of the last state, where labels gave one.
#[expect(clippy::too_many_arguments, reason = "each is one thing that the measurement depends on")]
pub fn measure<B: Backend, T: Real>(
    backend: &B,
    tape: &Tape<'_, B, T>,
    parameters: &Parameters<'_, B, T>,
    stages: &[Stage],
    gradient: Option<&[f64]>,
    vectors: usize,
    seed: u64,
    context: &Context,
) -> Result<Option<Depths>> {
    let (Some(first), Some(last)) = (stages.first(), stages.last()) else {
        return Ok(Some(Depths { from_input: Vec::new(), gradient: None, state_rms: Vec::new() }));
    };
    let length = tape.length(first.segment.from);
    let random = |stream: u64, length: usize| -> Result<B::Buffer<T>> {
        let values = backend.upload(&Stream::new(seed, stream).normals(length))?;
        converted::<B, f64, T>(backend, &values, length)
    };
    let forward = (0..vectors as u64).map(|vector| random(FORWARD_STREAM + vector, length));
    let mut forward: Vec<B::Buffer<T>> = forward.collect::<Result<_>>()?;
    let (mut from_input, mut state_rms) = (Vec::new(), Vec::new());
    for stage in stages {
        if context.cancelled() {
            return Ok(None);
        }
        let pushed = parameters.with(backend, &stage.segment, |weights| {
            forward.drain(..).map(|x| tape.jvp(weights, &stage.segment, x)).collect::<Result<Vec<_>>>()
        })?;
        let squares = pushed.iter().map(|x| backend.dot(x, x)).collect::<Result<Vec<f64>>>()?;
        let mean = squares.iter().sum::<f64>() / squares.len() as f64;
        from_input.push((mean / tape.length(stage.segment.to) as f64).sqrt());
        let state = &tape.array(stage.segment.to).buffer;
        state_rms.push((backend.dot(state, state)? / tape.length(stage.segment.to) as f64).sqrt());
        forward = pushed;
    }
    drop(forward);
    let length = tape.length(last.segment.to);
    let mut backward: Vec<B::Buffer<T>> = match gradient {
        Some(gradient) => vec![converted::<B, f64, T>(backend, &backend.upload(gradient)?, length)?],
        None => (0..vectors as u64)
            .map(|vector| random(BACKWARD_STREAM + vector, length))
            .collect::<Result<_>>()?,
    };
    let total = |vectors: &[B::Buffer<T>]| -> Result<f64> {
        Ok(vectors.iter().map(|x| backend.dot(x, x)).collect::<Result<Vec<f64>>>()?.iter().sum())
    };
    let start = total(&backward)?;
    if start == 0.0 {
        return Ok(Some(Depths { from_input, gradient: None, state_rms }));
    }
    let mut gains = Vec::new();
    for stage in stages.iter().rev() {
        if context.cancelled() {
            return Ok(None);
        }
        backward = parameters.with(backend, &stage.segment, |weights| {
            backward.drain(..).map(|u| tape.vjp(weights, &stage.segment, u)).collect::<Result<Vec<_>>>()
        })?;
        gains.push((total(&backward)? / start).sqrt());
    }
    gains.reverse();
    Ok(Some(Depths { from_input, gradient: Some(gains), state_rms }))
}
