//! The recurrences of a network, each driven at several scales of the network's input: Lyapunov exponents and the norms of single
//! steps.
//!
//! The sign of an exponent may depend on the scale, as that of the published LSTM of docs/jacobian.md does. A layer is driven by what
//! the layers before it give.

use super::lyapunov::Directions;
use super::parameters::Parameters;
use super::probe::random_ids;
use super::segment::SegmentJacobian;
use super::watched::Watched;
use crate::analysis::model::{Degenerate, Measured, RecurrenceAnalysis, RecurrenceAtScale, Spread};
use crate::analysis::spectrum::lanczos;
use crate::analysis::spectrum::operator::Operator;
use crate::compute::{Backend, Real, Side};
use crate::context::Context;
use crate::error::Result;
use crate::network::{CellKind, Feed, Input, InputKind, Network, Recurrence, Tape, Weights};
use crate::parallel;
use crate::random::Stream;

/// Factors of features: none, little, and as they are. Token ids have no scale.
pub(super) const SCALES: [f64; 3] = [0.0, 0.1, 1.0];

/// Exponents that are measured.
pub(super) const EXPONENTS: usize = 4;

/// Steps that are averaged over, and steps before them. What they leave uncertain is the standard error beside each exponent.
pub(super) const STEPS: usize = 600;
pub(super) const TRANSIENT: usize = 100;

/// Steps whose Jacobian's norm is measured, evenly over all.
pub(super) const NORMS: usize = 16;

/// Pairs of products for one of them.
pub(super) const PAIRS: usize = 12;

/// Streams of the inputs, the directions and the starts.
const INPUT_STREAM: u64 = 1 << 24;
const DIRECTION_STREAM: u64 = 1 << 25;

/// Measures every recurrence of `network`; `None` when the user asked to stop. With `data`, features of a sequence drive it in place of
/// a long synthetic one.
pub(super) fn measure<B: Backend, T: Real>(
    backend: &B,
    network: &Network,
    parameters: &Parameters<'_, B, T>,
    data: Option<&Feed>,
    seed: u64,
    context: &Context,
) -> Result<Option<Vec<RecurrenceAnalysis>>> {
    let recurrences = network.recurrences();
    let scales = scales(network);
    let at_scales: Vec<Result<Option<Vec<RecurrenceAtScale>>>> = parallel::map(scales, |&scale| {
        let Some(last) = recurrences.last() else { return Ok(Some(Vec::new())) };
        parameters.with_nodes(backend, None, last.input, |weights| {
            let feed = long(network, data, scale, seed);
            let tape = match &feed {
                Some(feed) => {
                    let mut tape = Tape::new(network, backend, feed)?;
                    tape.advance(weights, last.input)?;
                    Some(tape)
                }
                None => None,
            };
            let mut found = Vec::with_capacity(recurrences.len());
            for (index, recurrence) in recurrences.iter().enumerate() {
                let own = seed.wrapping_add(index as u64);
                let rows = rows(recurrence, tape.as_ref(), scale, own)?;
                match drive::<B, T>(backend, recurrence, parameters, &rows, scale, seed, context)? {
                    Some(at) => found.push(at),
                    None => return Ok(None),
                }
            }
            Ok(Some(found))
        })
    });
    let mut found: Vec<RecurrenceAnalysis> = recurrences
        .iter()
        .map(|recurrence| RecurrenceAnalysis {
            name: format!("{} ({})", recurrence.name, kind(recurrence.cell.kind)),
            state: recurrence.state() as u64,
            scales: Vec::new(),
        })
        .collect();
    for at_scale in at_scales {
        let Some(at_scale) = at_scale? else { return Ok(None) };
        for (recurrence, at) in found.iter_mut().zip(at_scale) {
            recurrence.scales.push(at);
        }
    }
    Ok(Some(found))
}

/// The scales that its input is given.
pub(super) fn scales(network: &Network) -> &'static [f64] {
    if matches!(network.input, InputKind::Features { .. }) { &SCALES } else { &SCALES[2..] }
}

/// The shape of a long synthetic sequence, the batch first; `None` for a network that takes none.
pub(super) fn long_shape(network: &Network) -> Option<Vec<usize>> {
    let steps = STEPS + TRANSIENT;
    match &network.input {
        InputKind::Tokens { positions, .. } => Some(vec![1, steps.min(positions.unwrap_or(usize::MAX))]),
        InputKind::Features { shape } => match shape[..] {
            [None, Some(width)] => Some(vec![1, steps, width]),
            _ => None,
        },
    }
}

fn kind(kind: CellKind) -> &'static str {
    match kind {
        CellKind::Tanh => "tanh",
        CellKind::Relu => "ReLU",
        CellKind::Gru => "GRU",
        CellKind::Lstm => "LSTM",
    }
}

/// A long sequence for a network that takes sequences; `None` for one that does not.
fn long(network: &Network, data: Option<&Feed>, scale: f64, seed: u64) -> Option<Feed> {
    let stream = Stream::new(seed, INPUT_STREAM);
    match &network.input {
        InputKind::Tokens { vocabulary, .. } => {
            let ids = random_ids(stream, long_shape(network)?[1], *vocabulary);
            Some(Feed::from(Input::Tokens { batch: 1, ids }))
        }
        InputKind::Features { .. } => {
            if let Some(Feed { input: Input::Features { shape, values }, .. }) = data {
                let values = values.iter().map(|x| scale * x).collect();
                return Some(Feed::from(Input::Features { shape: shape.clone(), values }));
            }
            let shape = long_shape(network)?;
            let values = stream.normals(shape.iter().product());
            let values = values.into_iter().map(|x| scale * x).collect();
            Some(Feed::from(Input::Features { shape, values }))
        }
    }
}

/// What drives a recurrence, one row a step: what comes to it in the network, or standard normal numbers where it stands alone.
fn rows<B: Backend, T: Real>(
    recurrence: &Recurrence,
    tape: Option<&Tape<'_, B, T>>,
    scale: f64,
    seed: u64,
) -> Result<Vec<Vec<f64>>> {
    let width = recurrence.inputs();
    if let Some(tape) = tape
        && let [1, _, columns] = tape.shape(recurrence.input)
        && *columns == width
    {
        let values = tape.download(recurrence.input)?;
        let mut rows: Vec<Vec<f64>> =
            values.chunks_exact(width.max(1)).map(|row| row.iter().map(|&x| x.into()).collect()).collect();
        if recurrence.reversed {
            rows.reverse();
        }
        return Ok(rows);
    }
    let row = |at: u64| Stream::new(seed, INPUT_STREAM + 1 + at).normals(width);
    let scaled = |at| row(at).into_iter().map(|x| scale * x).collect();
    Ok((0..(STEPS + TRANSIENT) as u64).map(scaled).collect())
}

/// One recurrence under one sequence.
fn drive<B: Backend, T: Real>(
    backend: &B,
    recurrence: &Recurrence,
    parameters: &Parameters<'_, B, T>,
    rows: &[Vec<f64>],
    scale: f64,
    seed: u64,
    context: &Context,
) -> Result<Option<RecurrenceAtScale>> {
    let (step, length) = (&recurrence.step, recurrence.state());
    let transient = TRANSIENT.min(rows.len() / 4);
    let counted = rows.len() - transient;
    let mut directions = Directions::new(EXPONENTS, length, Stream::new(seed, DIRECTION_STREAM));
    let mut state = vec![0.0; length];
    let mut norms = Vec::new();
    let weights: &Weights<B, T> = match parameters {
        Parameters::Resident(weights) => weights,
        Parameters::Stored { .. } => unreachable!("recurrent networks fit into memory, see `question`"),
    };
    for (index, row) in rows.iter().enumerate() {
        if context.cancelled() {
            return Ok(None);
        }
        let mut tape = Tape::<B, T>::new(step, backend, &recurrence.feed(row, &state))?;
        tape.advance(weights, step.output)?;
        let segment = recurrence.segment.clone();
        let jacobian = SegmentJacobian { backend, tape: &tape, weights, segment };
        let image = |vector: &Vec<f64>| {
            let mut image = backend.zeros(length)?;
            jacobian.apply(backend, Side::Plain, &backend.upload(vector)?, &mut image)?;
            backend.download(&image)
        };
        let images: Vec<Vec<f64>> = directions.vectors().iter().map(image).collect::<Result<_>>()?;
        directions.step(images, index >= transient);
        if index >= transient && (index - transient).is_multiple_of((counted / NORMS).max(1)) {
            let start = Stream::new(seed, DIRECTION_STREAM + 1);
            let watched = Watched::new(&jacobian);
            let found = lanczos::run(backend, &watched, PAIRS, start, context)?;
            let norm = found.and_then(|ritz| ritz.values.first().copied());
            norms.extend(norm.map(|norm| if watched.has_overflowed() { f64::NAN } else { norm }));
        }
        state = tape.download(step.output)?.into_iter().map(Into::into).collect();
    }
    let step_norm = match Spread::of(&norms) {
        None => Measured::not("no step was taken"),
        Some(spread) if spread.is_finite() => Measured::Value(spread),
        Some(_) => Measured::Degenerate(Degenerate::Overflow),
    };
    Ok(Some(RecurrenceAtScale {
        scale,
        steps: counted as u64,
        transient: transient as u64,
        exponents: directions.exponents(),
        step_norm,
    }))
}
