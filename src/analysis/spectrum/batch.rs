//! Many small matrices on a GPU: their Gram matrices one after the other, and all eigenvalues of those of one size in one call.
//!
//! What a batch does not have is measured alone: a matrix is not lost with others. A call for many that never works costs time and no
//! number, and `flashpoint devices --self-test` tells of it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::compute::cuda::Device;
use crate::compute::{Backend, Matrix};
use crate::context::Context;
use crate::error::Result;

/// Shorter sides of matrices that are gathered. One row or column is a norm. 512 is an estimate that was not timed: one 512×512 takes 6 ms on
/// an H200 (`choice`), which its 180 million multiplications do not account for.
pub const SIDES: RangeInclusive<usize> = 2..=512;

/// Bytes of the Gram matrices of a batch: 1 GB, and no more than one part in [`SHARE`] of what is left of the memory. The solver copies them,
/// and has a workspace.
const MOST_BYTES: usize = 1 << 30;
const SHARE: usize = 4;

/// For each matrix, in the order given, the eigenvalues of the Gram matrix of its shorter side, ascending; `None` where it is alone with its
/// size, where its file or the device failed, or the user asked to stop.
pub(in crate::analysis) fn eigenvalues(
    device: &Arc<Device>,
    matrices: &[&Matrix<'_>],
    context: &Context,
) -> Vec<Option<Vec<f64>>> {
    let mut by_side: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (place, matrix) in matrices.iter().enumerate() {
        by_side.entry(matrix.row_count().min(matrix.column_count())).or_default().push(place);
    }
    let mut found = vec![None; matrices.len()];
    for (side, places) in by_side {
        let bytes = MOST_BYTES.min(device.memory_left() / SHARE);
        let most = (bytes / (side * side * size_of::<f64>())).max(1);
        for places in places.chunks(most).filter(|places| places.len() > 1) {
            // A batch that fails is none: its matrices are measured alone, and say why where that fails too.
            for (place, values) in together(device, matrices, places, side, context).unwrap_or_default() {
                found[place] = Some(values);
            }
        }
    }
    found
}

/// The eigenvalues of the matrices at these places, whose shorter sides are `side`: of those whose Gram matrix could be had.
fn together(
    device: &Arc<Device>,
    matrices: &[&Matrix<'_>],
    places: &[usize],
    side: usize,
    context: &Context,
) -> Result<Vec<(usize, Vec<f64>)>> {
    let cuda = device.backend();
    let area = side * side;
    let mut grams = cuda.room::<f64>(places.len() * area)?;
    let mut members = Vec::with_capacity(places.len());
    for &place in places {
        if context.cancelled() {
            return Ok(Vec::new());
        }
        let Ok(gram) = cuda.gram(matrices[place]) else { continue };
        cuda.place(&gram, &mut grams, members.len() * area)?;
        members.push(place);
    }
    let Some(values) = cuda.eigenvalues(&grams, side, members.len())? else { return Ok(Vec::new()) };
    Ok(members.into_iter().zip(values.chunks_exact(side).map(<[f64]>::to_vec)).collect())
}
