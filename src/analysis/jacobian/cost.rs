//! What measuring takes, before it starts: operations and memory, from shapes alone.

use super::measure::Options;
use super::parameters::{RESIDENT_BYTES, bytes};
use super::spectrum::Request;
use super::{exact, recurrences, stages};
use crate::analysis::model::JacobianCost;
use crate::compute::Real;
use crate::network::{Network, Segment, ValueId};

/// Numbers kept of a node, beside its value, as a multiple of the value: derivatives and softmax rows.
const KEPT: u64 = 2;

/// What `options` take of `network` in precision T for `draws` inputs of this shape, the batch first.
///
/// # Errors
/// A sentence that says why the network does not take such an input.
pub fn of<T: Real>(
    network: &Network,
    input: &[usize],
    draws: usize,
    options: &Options,
    threads: usize,
) -> Result<JacobianCost, String> {
    let shapes = network.shapes(input)?;
    let length = |value: ValueId| shapes[value.0].iter().product::<usize>();
    let operations = |segment: &Segment| {
        let nodes = segment.from.0 + 1..=segment.to.0;
        let of = |index: usize| {
            let node = &network.nodes[index];
            let inputs: Vec<&[usize]> = node.inputs.iter().map(|value| shapes[value.0].as_slice()).collect();
            node.operation.shaped().operations(&inputs, &shapes[index])
        };
        nodes.map(of).fold(0u64, u64::saturating_add)
    };
    let stages = stages::stages(network, options.per_operation);
    let draws = draws as u64;
    let mut cost = JacobianCost {
        blocks: stages.len() as u64,
        parts: 0,
        state: stages.first().map_or(0, |stage| length(stage.segment.from) as u64),
        products: 0,
        operations: 0,
        parameter_bytes: bytes::<T>(network),
        is_resident: true,
        activation_bytes: 0,
        vector_bytes: 0,
    };
    let mut most = 0u64;
    let add = |cost: &mut JacobianCost, products: u64, operations: u64| {
        cost.products = cost.products.saturating_add(products * draws);
        cost.operations = cost.operations.saturating_add((products * draws).saturating_mul(operations));
    };
    let request = &options.spectrum;
    for stage in &stages {
        for part in &stage.parts {
            let (rows, columns) = (length(part.segment.to), length(part.segment.from));
            most = most.max(held(request, rows, columns));
            add(&mut cost, request.products(rows, columns), operations(&part.segment));
            if !part.logits_from.is_empty() {
                // The value path, and twice as much for the difference from it.
                add(&mut cost, 3 * request.pairs as u64, operations(&part.segment));
            }
        }
        cost.parts += stage.parts.len() as u64;
        if stages.len() > 1 {
            let (rows, columns) = (length(stage.segment.to), length(stage.segment.from));
            most = most.max(held(request, rows, columns));
            add(&mut cost, request.products(rows, columns), operations(&stage.segment));
            cost.parts += 1;
        }
    }
    if let Some(whole) = stages::whole(&stages) {
        let (rows, columns) = (length(whole.to), length(whole.from));
        let all = operations(&whole);
        most = most.max(held(request, rows, columns));
        let times = if options.initial { 2 } else { 1 };
        add(&mut cost, times * request.products(rows, columns), all);
        add(&mut cost, 2 * request.probes as u64, all);
        if options.depth_spectra {
            // Half of the whole on average.
            add(&mut cost, request.pairs as u64 * stages.len() as u64, all);
        }
    }
    let size = size_of::<T>() as u64;
    let activations = |shapes: &[Vec<usize>]| {
        let numbers: u64 = shapes.iter().map(|shape| shape.iter().product::<usize>() as u64).sum();
        numbers.saturating_mul((1 + KEPT) * size)
    };
    cost.activation_bytes = activations(&shapes).saturating_mul(draws);
    let at_once = draws.min(threads.max(1) as u64);
    if cost.parameter_bytes > RESIDENT_BYTES {
        cost.is_resident = false;
        let of_stage = |stage: &stages::Stage| {
            let ids = network.parameters_between(Some(stage.segment.from), stage.segment.to);
            let elements = |id: &crate::network::ParameterId| {
                network.parameters[id.0].shape.iter().product::<usize>() as u64
            };
            ids.iter().map(elements).sum::<u64>().saturating_mul(size)
        };
        // Over the whole each draw goes through the blocks by itself.
        cost.parameter_bytes = stages.iter().map(of_stage).max().unwrap_or(0).saturating_mul(at_once);
    } else {
        if options.initial {
            cost.parameter_bytes = cost.parameter_bytes.saturating_mul(2);
        }
        through_time(network, &mut cost, activations)?;
    }
    // The random vectors of the depths and their images, of each draw that is at work.
    let longest =
        stages.iter().flat_map(|stage| [length(stage.segment.from), length(stage.segment.to)]).max();
    let pushed = longest.unwrap_or(0) as u64 * 2 * request.probes as u64 * size;
    let of_depths = pushed.saturating_mul(at_once);
    cost.vector_bytes = most.saturating_mul(threads.max(1) as u64).max(of_depths);
    Ok(cost)
}

/// Bytes that measuring one map of these sides holds beside the network: the matrix, or both bases of a bidiagonalisation, in f64.
fn held(request: &Request, rows: usize, columns: usize) -> u64 {
    let (rows, columns) = (rows as u64, columns as u64);
    if request.exact && exact::is_small(rows as usize, columns as usize) {
        return rows.saturating_mul(columns).saturating_mul(8);
    }
    rows.max(columns).saturating_mul(2 * request.pairs as u64 * 8)
}

/// Adds what following the recurrences takes, whose long sequences run at all scales side by side when the draws are done.
fn through_time(
    network: &Network,
    cost: &mut JacobianCost,
    activations: impl Fn(&[Vec<usize>]) -> u64,
) -> Result<(), String> {
    let found = network.recurrences();
    if found.is_empty() {
        return Ok(());
    }
    let scales = recurrences::scales(network).len() as u64;
    let steps = (recurrences::STEPS + recurrences::TRANSIENT) as u64;
    for recurrence in &found {
        let step = &recurrence.step;
        let feed = recurrence.feed(&vec![0.0; recurrence.inputs()], &vec![0.0; recurrence.state()]);
        let shapes = step.shapes(&feed.input.shape())?;
        let of = |index: usize| {
            let node = &step.nodes[index];
            let inputs: Vec<&[usize]> = node.inputs.iter().map(|value| shapes[value.0].as_slice()).collect();
            node.operation.shaped().operations(&inputs, &shapes[index])
        };
        let operations = (1..step.nodes.len()).map(of).fold(0u64, u64::saturating_add);
        let directions = recurrences::EXPONENTS.min(recurrence.state()) as u64;
        let norms = (2 * recurrences::NORMS * recurrences::PAIRS.min(recurrence.state())) as u64;
        let products = scales * (steps * directions + norms);
        cost.products = cost.products.saturating_add(products);
        cost.operations =
            cost.operations.saturating_add((products + scales * steps).saturating_mul(operations));
    }
    if let Some(shape) = recurrences::long_shape(network) {
        let bytes = activations(&network.shapes(&shape)?).saturating_mul(scales);
        cost.activation_bytes = cost.activation_bytes.max(bytes);
    }
    Ok(())
}
