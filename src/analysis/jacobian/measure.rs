//! The Jacobians of one network: stage by stage while the forward pass goes on, then the whole, then the depths.
//!
//! Draws and parts are spread over the threads; each is computed by itself in a fixed order, so that the numbers are the same on
//! any number of them.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;

use super::parameters::Parameters;
use super::probe::IGNORED;
use super::segment::{Chain, Difference, SegmentJacobian};
use super::spectrum::{self, Request};
use super::stages::{self, Stage, StagePart};
use super::watched::Watched;
use super::{depths, initial, probe};
use crate::analysis::model::{
    AttentionPaths, Degenerate, DepthGain, InitialGain, JacobianSpectrum, Measured, PartJacobian, PartKind,
    Spread,
};
use crate::analysis::spectrum::lanczos;
use crate::analysis::spectrum::operator::Operator;
use crate::compute::{Backend, Real};
use crate::context::Context;
use crate::error::{ErrorKind, Result};
use crate::network::{Feed, Network, Segment, Tape, Targets, ValueId};
use crate::parallel;
use crate::random::Stream;

/// What is measured of a network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Of each spectrum.
    pub spectrum: Request,
    /// Operations beside branches and blocks.
    pub per_operation: bool,
    /// The map from the first state to each depth as a spectrum of its own.
    pub depth_spectra: bool,
    /// The architecture as it is initialised, end to end.
    pub initial: bool,
}

/// What a part at one draw counts in the progress, beside which the bytes of weights are nothing.
const UNIT: u64 = 1 << 30;

/// Announces what measuring `network` will count.
pub(super) fn planned(network: &Network, draws: usize, options: &Options, context: &Context) {
    let stages = stages::stages(network, options.per_operation);
    let parts: usize = stages.iter().map(|stage| stage.parts.len() + usize::from(stages.len() > 1)).sum();
    let wholes = stages.len() * if options.initial { 2 } else { 1 };
    context.progress.expect(((parts + wholes) * draws) as u64 * UNIT);
}

/// What was measured of a network on its stages.
pub(super) struct Found {
    pub parts: Vec<PartJacobian>,
    pub end_to_end: Measured<PartJacobian>,
    pub depths: Measured<Vec<DepthGain>>,
}

/// One draw's forward pass, and what was measured on it.
struct Draw<'a, B: Backend, T: Real> {
    tape: Tape<'a, B, T>,
    gradient: Option<Vec<f64>>,
}

/// A part at one draw.
struct PartAtDraw {
    spectrum: Measured<JacobianSpectrum>,
    input_rms: f64,
    output_rms: f64,
    paths: Option<(f64, f64)>,
}

const TOO_LARGE: &str = "its parameters do not all fit into memory, and its blocks are no chain";

/// The stages of a network, and its architecture as it is initialised; `None` when the user asked to stop.
pub(super) fn of_network<B: Backend, T: Real>(
    backend: &B,
    network: &Network,
    parameters: &Parameters<'_, B, T>,
    config: Option<&BTreeMap<String, serde_json::Value>>,
    feeds: &[Feed],
    options: &Options,
    context: &Context,
) -> Result<Option<(Found, Measured<InitialGain>)>> {
    let initial = if !options.initial {
        Measured::not("was not asked for")
    } else if !parameters.is_resident() {
        Measured::not("its parameters do not all fit into memory")
    } else {
        context.progress.say("as initialised");
        let scheme = initial::Scheme::of(&network.architecture, config);
        match run_initial::<B, T>(backend, network, scheme, feeds, options, context)? {
            Some(found) => found,
            None => return Ok(None),
        }
    };
    let found = run(backend, network, parameters, feeds, options, context)?;
    Ok(found.map(|found| (found, initial)))
}

/// Runs `network` on each of `feeds` and measures its stages; `None` when the user asked to stop.
fn run<B: Backend, T: Real>(
    backend: &B,
    network: &Network,
    parameters: &Parameters<'_, B, T>,
    feeds: &[Feed],
    options: &Options,
    context: &Context,
) -> Result<Option<Found>> {
    let stages = stages::stages(network, options.per_operation);
    let Some(whole) = stages::whole(&stages) else {
        let reason = "the network has no stages";
        let (end_to_end, depths) = (Measured::not(reason), Measured::not(reason));
        return Ok(Some(Found { parts: Vec::new(), end_to_end, depths }));
    };
    let mut draws = prepare(backend, network, parameters, feeds, whole.from)?;
    let mut parts = Vec::new();
    let is_single = stages.len() == 1;
    for (index, stage) in stages.iter().enumerate() {
        context.progress.say(&format!("{} of {} blocks", index, stages.len()));
        let measured = parameters.with(backend, &stage.segment, |weights| {
            draws.par_iter_mut().try_for_each(|draw| draw.tape.advance(weights, stage.segment.to))?;
            let block = StagePart {
                name: stage.name.clone(),
                kind: PartKind::Block,
                segment: stage.segment.clone(),
                logits_from: Vec::new(),
            };
            // The only block is the network, which is measured as that.
            let own = stage.parts.iter().chain((stage.is_block && !is_single).then_some(&block));
            let own: Vec<&StagePart> = own.collect();
            let tasks: Vec<(usize, usize)> =
                (0..own.len()).flat_map(|part| (0..draws.len()).map(move |draw| (part, draw))).collect();
            let found: Vec<Result<Option<PartAtDraw>>> = parallel::map(&tasks, |&(part, draw)| {
                let tape = &draws[draw].tape;
                let of = |segment: Segment| SegmentJacobian { backend, tape, weights, segment };
                part_at_draw(backend, tape, own[part], &of, &options.spectrum, context)
            });
            let mut rest = found.into_iter();
            let mut measured = Vec::new();
            for part in own {
                let Some(at_draws) = take(&mut rest, draws.len())? else { return Ok(None) };
                measured.push(joined(part, index, &draws[0].tape, at_draws));
            }
            Ok(Some(measured))
        })?;
        let Some(measured) = measured else { return Ok(None) };
        parts.extend(measured);
    }
    context.progress.say("end to end");
    let is_chain = stages::are_a_chain(network, &stages);
    let tail = Segment::new(whole.to, network.output);
    finish(backend, network, parameters, &mut draws, feeds, &tail)?;
    let is_measurable = is_chain || parameters.is_resident();
    let segments = if is_chain { segments(&stages) } else { vec![whole.clone()] };
    let end_to_end = if is_measurable {
        let Some(found) = end_to_end(
            backend,
            parameters,
            &draws,
            &segments,
            PartKind::Network,
            &options.spectrum,
            context,
        )?
        else {
            return Ok(None);
        };
        Measured::Value(found)
    } else {
        Measured::not(TOO_LARGE)
    };
    let depths = if is_chain {
        let Some(found) = all_depths(backend, parameters, &draws, &stages, options, context)? else {
            return Ok(None);
        };
        Measured::Value(found)
    } else {
        Measured::not("the blocks are no chain: some take what blocks before their neighbour give")
    };
    Ok(Some(Found { parts, end_to_end, depths }))
}

/// End to end alone, of the same network with other parameters.
fn run_initial<B: Backend, T: Real>(
    backend: &B,
    network: &Network,
    scheme: initial::Scheme,
    feeds: &[Feed],
    options: &Options,
    context: &Context,
) -> Result<Option<Measured<InitialGain>>> {
    let seed = options.spectrum.seed;
    let Some(weights) = initial::draw::<B, T>(backend, network, scheme, seed)? else {
        return Ok(Some(Measured::not("an operation of it has no initialisation that is known here")));
    };
    let parameters = Parameters::Resident(weights);
    let stages = stages::stages(network, false);
    let Some(whole) = stages::whole(&stages) else {
        return Ok(Some(Measured::not("the network has no stages")));
    };
    let mut draws = prepare(backend, network, &parameters, feeds, whole.from)?;
    parameters.with(backend, &whole, |weights| {
        draws.par_iter_mut().try_for_each(|draw| draw.tape.advance(weights, whole.to))
    })?;
    let segments = if stages::are_a_chain(network, &stages) { segments(&stages) } else { vec![whole] };
    let request = Request { density: false, exact: false, ..options.spectrum };
    let Some(found) =
        end_to_end(backend, &parameters, &draws, &segments, PartKind::Network, &request, context)?
    else {
        return Ok(None);
    };
    Ok(Some(match (found.spectral_norm, found.gain) {
        (Measured::Value(spectral_norm), Measured::Value(gain)) => {
            Measured::Value(InitialGain { scheme: scheme.describe(), spectral_norm, gain })
        }
        (Measured::Value(_), other) | (other, _) => other.map(|_| unreachable!("it has no value")),
    }))
}

fn segments(stages: &[Stage]) -> Vec<Segment> {
    stages.iter().map(|stage| stage.segment.clone()).collect()
}

/// Tapes that have come to the first state.
fn prepare<'a, B: Backend, T: Real>(
    backend: &'a B,
    network: &'a Network,
    parameters: &Parameters<'_, B, T>,
    feeds: &[Feed],
    first: ValueId,
) -> Result<Vec<Draw<'a, B, T>>> {
    parameters.with_nodes(backend, None, first, |weights| {
        feeds
            .iter()
            .map(|feed| {
                let mut tape = Tape::new(network, backend, feed)?;
                tape.advance(weights, first)?;
                Ok(Draw { tape, gradient: None })
            })
            .collect()
    })
}

/// Goes on to the output where there are labels, for the gradient that they give.
fn finish<B: Backend, T: Real>(
    backend: &B,
    network: &Network,
    parameters: &Parameters<'_, B, T>,
    draws: &mut [Draw<'_, B, T>],
    feeds: &[Feed],
    tail: &Segment,
) -> Result<()> {
    for (draw, feed) in draws.iter_mut().zip(feeds) {
        let Some(targets) = &feed.targets else { continue };
        let gradient = parameters.with(backend, tail, |weights| {
            draw.tape.advance(weights, network.output)?;
            let output: Vec<f64> = draw.tape.download(network.output)?.into_iter().map(Into::into).collect();
            let gradient = loss_gradient(&output, targets)
                .map_err(|message| ErrorKind::Probe { message }.in_file(Path::new("--input")))?;
            let cotangent = gradient.into_iter().map(T::from_f64).collect::<Vec<T>>();
            if tail.from == tail.to {
                return Ok(cotangent.into_iter().map(Into::into).collect());
            }
            let pulled = draw.tape.vjp(weights, tail, backend.upload(&cotangent)?)?;
            Ok(backend.download(&pulled)?.into_iter().map(Into::into).collect::<Vec<f64>>())
        })?;
        draw.gradient = Some(gradient);
    }
    Ok(())
}

/// The gradient by the output of what its targets are judged by: cross-entropy of classes, mean squared error of numbers.
///
/// # Errors
/// A sentence that says what does not fit.
pub(super) fn loss_gradient(output: &[f64], targets: &Targets) -> std::result::Result<Vec<f64>, String> {
    match targets {
        Targets::Classes(classes) => cross_entropy_gradient(output, classes),
        Targets::Values(values) => {
            if values.len() != output.len() {
                return Err(format!(
                    "its {} targets are not one for each of the {} numbers that come out",
                    values.len(),
                    output.len()
                ));
            }
            let share = 2.0 / output.len() as f64;
            Ok(output.iter().zip(values).map(|(given, wanted)| share * (given - wanted)).collect())
        }
    }
}

/// The gradient of the mean negative log-likelihood by the logits, one row a label; zero in rows whose label is left out.
///
/// # Errors
/// A sentence that says what does not fit.
fn cross_entropy_gradient(logits: &[f64], classes: &[u32]) -> std::result::Result<Vec<f64>, String> {
    probe::check_labels(classes, logits.len())?;
    let width = logits.len() / classes.len();
    let share = 1.0 / classes.iter().filter(|class| **class != IGNORED).count() as f64;
    let mut gradient = Vec::with_capacity(logits.len());
    for (row, &class) in logits.chunks_exact(width).zip(classes) {
        if class == IGNORED {
            gradient.extend(std::iter::repeat_n(0.0, width));
            continue;
        }
        let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = row.iter().map(|x| (x - most).exp()).sum();
        gradient.extend(row.iter().enumerate().map(|(index, x)| {
            share * ((x - most).exp() / total - f64::from(u8::from(index == class as usize)))
        }));
    }
    Ok(gradient)
}

fn part_at_draw<'a, B: Backend + 'a, T: Real>(
    backend: &B,
    tape: &Tape<'_, B, T>,
    part: &StagePart,
    of: &impl Fn(Segment) -> SegmentJacobian<'a, B, T>,
    request: &Request,
    context: &Context,
) -> Result<Option<PartAtDraw>> {
    let jacobian = of(part.segment.clone());
    let Some(spectrum) = spectrum::measure(backend, &jacobian, request, context)? else { return Ok(None) };
    let paths = if part.logits_from.is_empty() {
        None
    } else {
        let value = of(Segment { frozen: part.logits_from.clone(), ..part.segment.clone() });
        let softmax = Difference { whole: &jacobian, part: &value };
        match (largest(backend, &value, request, context)?, largest(backend, &softmax, request, context)?) {
            (Some(value), Some(softmax)) => Some((value, softmax)),
            _ => return Ok(None),
        }
    };
    context.progress.advance(UNIT);
    Ok(Some(PartAtDraw {
        spectrum,
        input_rms: rms(backend, tape, part.segment.from)?,
        output_rms: rms(backend, tape, part.segment.to)?,
        paths,
    }))
}

/// σ₁ alone, with half the pairs; NaN where a product is not finite.
fn largest<B: Backend>(
    backend: &B,
    operator: &dyn Operator<B>,
    request: &Request,
    context: &Context,
) -> Result<Option<f64>> {
    let watched = Watched::new(operator);
    let pairs = request.pairs.div_ceil(2).max(1);
    let found = lanczos::run(backend, &watched, pairs, Stream::new(request.seed, 1), context)?;
    let value = found.map(|ritz| ritz.values.first().copied().unwrap_or(0.0));
    Ok(value.map(|value| if watched.has_overflowed() { f64::NAN } else { value }))
}

fn rms<B: Backend, T: Real>(backend: &B, tape: &Tape<'_, B, T>, value: ValueId) -> Result<f64> {
    let buffer = &tape.array(value).buffer;
    Ok((backend.dot(buffer, buffer)? / tape.length(value).max(1) as f64).sqrt())
}

/// The next `count` results; `None` where the user asked to stop.
fn take<R>(rest: &mut impl Iterator<Item = Result<Option<R>>>, count: usize) -> Result<Option<Vec<R>>> {
    let taken: Vec<Option<R>> = rest.take(count).collect::<Result<_>>()?;
    Ok(taken.into_iter().collect())
}

fn joined<B: Backend, T: Real>(
    part: &StagePart,
    block: usize,
    tape: &Tape<'_, B, T>,
    at_draws: Vec<PartAtDraw>,
) -> PartJacobian {
    let paths: Option<Vec<(f64, f64)>> = at_draws.iter().map(|draw| draw.paths).collect();
    let paths = match paths.filter(|paths| !paths.is_empty()) {
        None => Measured::not("no attention"),
        Some(paths) if paths.iter().all(|(value, softmax)| value.is_finite() && softmax.is_finite()) => {
            let mean =
                |pick: fn(&(f64, f64)) -> f64| paths.iter().map(pick).sum::<f64>() / paths.len() as f64;
            Measured::Value(AttentionPaths { value: mean(|path| path.0), softmax: mean(|path| path.1) })
        }
        Some(_) => Measured::Degenerate(Degenerate::Overflow),
    };
    let of = |pick: fn(&PartAtDraw) -> f64| over(&at_draws.iter().map(pick).collect::<Vec<_>>());
    let (input_rms, output_rms) = (of(|draw| draw.input_rms), of(|draw| draw.output_rms));
    let spectra = at_draws.into_iter().map(|draw| draw.spectrum).collect();
    let sides = (tape.length(part.segment.to), tape.length(part.segment.from));
    let mut joined = summed(part.name.clone(), part.kind, Some(block as u64), sides, spectra);
    (joined.input_rms, joined.output_rms, joined.paths) = (input_rms, output_rms, paths);
    joined
}

/// The mean and spread of numbers that are finite, as both must be.
pub(super) fn over(values: &[f64]) -> Measured<Spread> {
    match Spread::of(values) {
        None => Measured::not("nothing was drawn"),
        Some(spread) if spread.is_finite() => Measured::Value(spread),
        Some(_) => Measured::Degenerate(Degenerate::Overflow),
    }
}

fn summed(
    name: String,
    kind: PartKind,
    block: Option<u64>,
    (rows, columns): (usize, usize),
    draws: Vec<Measured<JacobianSpectrum>>,
) -> PartJacobian {
    let of = |pick: &dyn Fn(&JacobianSpectrum) -> f64| -> Measured<Spread> {
        let mut values = Vec::with_capacity(draws.len());
        for draw in &draws {
            match draw {
                Measured::Value(spectrum) => values.push(pick(spectrum)),
                other => return other.clone().map(|_| unreachable!("it has no value")),
            }
        }
        over(&values)
    };
    PartJacobian {
        name,
        kind,
        block,
        rows: rows as u64,
        columns: columns as u64,
        spectral_norm: of(&|spectrum| spectrum.spectral_norm.value),
        gain: of(&|spectrum| spectrum.frobenius_norm.value / (rows as f64).sqrt()),
        stable_rank: of(&|spectrum| spectrum.stable_rank),
        input_rms: Measured::not("no state"),
        output_rms: Measured::not("no state"),
        paths: Measured::not("no attention"),
        draws,
    }
}

fn end_to_end<B: Backend, T: Real>(
    backend: &B,
    parameters: &Parameters<'_, B, T>,
    draws: &[Draw<'_, B, T>],
    segments: &[Segment],
    kind: PartKind,
    request: &Request,
    context: &Context,
) -> Result<Option<PartJacobian>> {
    let found: Vec<Result<Option<Measured<JacobianSpectrum>>>> = parallel::map(draws, |draw| {
        let chain = Chain { backend, tape: &draw.tape, parameters, segments: segments.to_vec() };
        let found = spectrum::measure(backend, &chain, request, context);
        context.progress.advance(segments.len() as u64 * UNIT);
        found
    });
    let Some(spectra) = take(&mut found.into_iter(), draws.len())? else { return Ok(None) };
    let tape = &draws.first().expect("something was drawn").tape;
    let (first, last) = (segments.first().map(|s| s.from), segments.last().map(|s| s.to));
    let length = |value: Option<ValueId>| value.map_or(0, |value| tape.length(value));
    let mut joined = summed("end to end".to_owned(), kind, None, (length(last), length(first)), spectra);
    let of = |value: Option<ValueId>| -> Result<Measured<Spread>> {
        let Some(value) = value else { return Ok(Measured::not("no state")) };
        Ok(over(&draws.iter().map(|draw| rms(backend, &draw.tape, value)).collect::<Result<Vec<_>>>()?))
    };
    (joined.input_rms, joined.output_rms) = (of(first)?, of(last)?);
    Ok(Some(joined))
}

fn all_depths<B: Backend, T: Real>(
    backend: &B,
    parameters: &Parameters<'_, B, T>,
    draws: &[Draw<'_, B, T>],
    stages: &[Stage],
    options: &Options,
    context: &Context,
) -> Result<Option<Vec<DepthGain>>> {
    let (vectors, seed) = (options.spectrum.probes.max(1), options.spectrum.seed);
    let found: Vec<Result<Option<depths::Depths>>> = parallel::map(draws, |draw| {
        let gradient = draw.gradient.as_deref();
        depths::measure(backend, &draw.tape, parameters, stages, gradient, vectors, seed, context)
    });
    let Some(found) = take(&mut found.into_iter(), draws.len())? else { return Ok(None) };
    let segments = segments(stages);
    let mut depths = Vec::new();
    for (index, stage) in stages.iter().enumerate() {
        let of = |pick: fn(&depths::Depths) -> &Vec<f64>| {
            over(&found.iter().map(|depths| pick(depths)[index]).collect::<Vec<f64>>())
        };
        let gradients = found.iter().map(|depths| depths.gradient.as_ref().map(|gains| gains[index]));
        let gradient = match gradients.collect::<Option<Vec<f64>>>() {
            Some(gains) => over(&gains),
            None => Measured::Degenerate(Degenerate::AllZero),
        };
        let spectral_norm = if options.depth_spectra {
            let request = Request { probes: 0, density: false, exact: false, ..options.spectrum };
            let kind = PartKind::Network;
            let until = &segments[..=index];
            match end_to_end(backend, parameters, draws, until, kind, &request, context)? {
                Some(found) => found.spectral_norm,
                None => return Ok(None),
            }
        } else {
            Measured::not("needs --depth-spectra")
        };
        depths.push(DepthGain {
            name: stage.name.clone(),
            block: index as u64,
            from_input: of(|depths| &depths.from_input),
            gradient,
            spectral_norm,
            state_rms: of(|depths| &depths.state_rms),
        });
    }
    Ok(Some(depths))
}
