//! The recurrences of a network, each driven at several scales of its input: Lyapunov exponents and the norms of single steps.
//!
//! The sign of an exponent depends on the scale: the published LSTM of docs/jacobian.md is stable when driven and not without
//! input. Layers of one module follow each other, each driven by what the one before it gives.

use rayon::prelude::*;

use super::lyapunov::Directions;
use super::parameters::Parameters;
use super::segment::SegmentJacobian;
use crate::analysis::model::{Measured, RecurrenceAnalysis, RecurrenceAtScale, Spread};
use crate::analysis::spectrum::lanczos;
use crate::analysis::spectrum::operator::Operator;
use crate::checkpoint::Checkpoint;
use crate::compute::{Backend, Real, Side};
use crate::context::Context;
use crate::error::Result;
use crate::network::builders::step::{Cell, Step, steps};
use crate::network::{Feed, Input, Segment, Tape};
use crate::random::Stream;

/// Factors of the input: none, little, and as it is.
pub const SCALES: [f64; 3] = [0.0, 0.1, 1.0];

/// Exponents that are measured.
const EXPONENTS: usize = 4;

/// Steps that are averaged over, and steps before them: an error of 0.01 (`docs/jacobian.md`).
const STEPS: usize = 600;
const TRANSIENT: usize = 100;

/// Steps whose Jacobian's norm is measured, evenly over all.
const NORMS: usize = 16;

/// Pairs of products for one of them.
const PAIRS: usize = 12;

/// Streams of the inputs, the directions and the starts.
const INPUT_STREAM: u64 = 1 << 24;
const DIRECTION_STREAM: u64 = 1 << 25;

/// A sequence of inputs, one a step.
type Sequence = Vec<Vec<f64>>;

/// Measures every recurrence of `checkpoint`; `None` when the user asked to stop. `data` is a sequence that drives the first layer in
/// place of standard normal numbers.
pub fn measure<B: Backend, T: Real>(
    backend: &B,
    checkpoint: &Checkpoint,
    data: Option<&[Vec<f64>]>,
    seed: u64,
    context: &Context,
) -> Result<Option<Vec<RecurrenceAnalysis>>> {
    let steps = steps(checkpoint)?;
    let at_scales: Vec<Result<Option<Vec<RecurrenceAtScale>>>> = SCALES
        .par_iter()
        .map(|&scale| at_scale::<B, T>(backend, checkpoint, &steps, data, scale, seed, context))
        .collect();
    let mut recurrences: Vec<RecurrenceAnalysis> = steps
        .iter()
        .map(|step| RecurrenceAnalysis {
            name: format!("{} ({})", step.name, kind(step.cell)),
            state: step.state_length() as u64,
            scales: Vec::new(),
        })
        .collect();
    for found in at_scales {
        let Some(found) = found? else { return Ok(None) };
        for (recurrence, at) in recurrences.iter_mut().zip(found) {
            recurrence.scales.push(at);
        }
    }
    Ok(Some(recurrences))
}

fn kind(cell: Cell) -> &'static str {
    match cell {
        Cell::Tanh => "RNN, tanh assumed",
        Cell::Gru => "GRU",
        Cell::Lstm => "LSTM",
    }
}

/// Every recurrence at one scale, in their order.
fn at_scale<B: Backend, T: Real>(
    backend: &B,
    checkpoint: &Checkpoint,
    steps: &[Step],
    data: Option<&[Vec<f64>]>,
    scale: f64,
    seed: u64,
    context: &Context,
) -> Result<Option<Vec<RecurrenceAtScale>>> {
    let mut found = Vec::with_capacity(steps.len());
    let mut below: Option<(&str, usize, Sequence)> = None;
    for (index, step) in steps.iter().enumerate() {
        let follows = below.as_ref().is_some_and(|(module, layer, states)| {
            *module == step.module
                && layer + 1 == step.layer
                && states.first().is_some_and(|state| state.len() == step.inputs)
        });
        let drive: Sequence = match &below {
            Some((_, _, states)) if follows && !step.is_reversed => states.clone(),
            _ => inputs(step, data, scale, seed + index as u64),
        };
        let Some((at, states)) = drive_one::<B, T>(backend, checkpoint, step, &drive, scale, seed, context)?
        else {
            return Ok(None);
        };
        found.push(at);
        if !step.is_reversed {
            below = Some((&step.module, step.layer, states));
        }
    }
    Ok(Some(found))
}

/// What drives a layer that follows none: the data where its rows fit, otherwise standard normal numbers, times the scale.
fn inputs(step: &Step, data: Option<&[Vec<f64>]>, scale: f64, seed: u64) -> Sequence {
    match data.filter(|data| data.first().is_some_and(|row| row.len() == step.inputs)) {
        Some(data) => data.iter().map(|row| row.iter().map(|x| scale * x).collect()).collect(),
        None => {
            let row = |at: u64| Stream::new(seed, INPUT_STREAM + at).normals(step.inputs);
            let scaled = |at| row(at).into_iter().map(|x| scale * x).collect();
            (0..(STEPS + TRANSIENT) as u64).map(scaled).collect()
        }
    }
}

/// One recurrence under one sequence, and the h that it gives at every step.
fn drive_one<B: Backend, T: Real>(
    backend: &B,
    checkpoint: &Checkpoint,
    step: &Step,
    drive: &[Vec<f64>],
    scale: f64,
    seed: u64,
    context: &Context,
) -> Result<Option<(RecurrenceAtScale, Sequence)>> {
    let network = &step.built.network;
    let tensors = step.built.tensors(checkpoint);
    let parameters = Parameters::<B, T>::read(backend, network, &tensors)?;
    let length = step.state_length();
    let transient = TRANSIENT.min(drive.len() / 4);
    let counted = drive.len() - transient;
    let mut directions = Directions::new(EXPONENTS, length, Stream::new(seed, DIRECTION_STREAM));
    let mut state = vec![0.0; length];
    let (mut states, mut norms) = (Vec::with_capacity(drive.len()), Vec::new());
    let segment = Segment::new(step.state, network.output);
    for (index, x) in drive.iter().enumerate() {
        if context.cancelled() {
            return Ok(None);
        }
        let values = [x.as_slice(), &state].concat();
        let feed = Feed::from(Input::Features { shape: vec![1, values.len()], values });
        let mut tape = Tape::<B, T>::new(network, backend, &feed)?;
        state = parameters.with(backend, &segment, |weights| {
            tape.advance(weights, network.output)?;
            let jacobian = SegmentJacobian { backend, tape: &tape, weights, segment: segment.clone() };
            let images: Vec<Vec<f64>> = directions
                .vectors()
                .iter()
                .map(|vector| {
                    let mut image = backend.zeros(length)?;
                    jacobian.apply(backend, Side::Plain, &backend.upload(vector)?, &mut image)?;
                    backend.download(&image)
                })
                .collect::<Result<_>>()?;
            directions.step(images, index >= transient);
            if index >= transient && (index - transient).is_multiple_of((counted / NORMS).max(1)) {
                let start = Stream::new(seed, DIRECTION_STREAM + 1);
                let found = lanczos::run(backend, &jacobian, PAIRS, start, context)?;
                norms.extend(found.and_then(|ritz| ritz.values.first().copied()));
            }
            Ok(tape.download(network.output)?.into_iter().map(Into::into).collect())
        })?;
        states.push(state[..step.hidden].to_vec());
    }
    let step_norm = if norms.iter().all(|norm| norm.is_finite()) {
        Spread::of(&norms).map_or_else(|| Measured::not("no step was taken"), Measured::Value)
    } else {
        Measured::Degenerate(crate::analysis::model::Degenerate::Overflow)
    };
    let at = RecurrenceAtScale {
        scale,
        steps: counted as u64,
        transient: transient as u64,
        exponents: directions.exponents(),
        step_norm,
    };
    Ok(Some((at, states)))
}
