//! Low-rank adapters: the product B·A of their halves, which neither half shows.
//!
//! With A of r rows and `A·Aᵀ = L·Lᵀ`, B·A has the singular values of B·L, whose Gram matrix is r×r.

use std::collections::HashMap;

use super::symmetric;
use crate::analysis::model::{AdapterAnalysis, Measured, Role, Section, TensorAnalysis};
use crate::checkpoint::Checkpoint;
use crate::compute::{Backend, Cpu, Matrix};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::parallel;

/// Ranks above it are no low rank.
const LARGEST_RANK: u64 = 1024;

/// The layer that a half adapts, and whether it is the first: `…q_proj.lora_A.default.weight`, `…lora_down.weight`.
fn place(analysis: &TensorAnalysis) -> Option<(String, bool)> {
    let first = match analysis.role {
        Role::LoraA => true,
        Role::LoraB => false,
        _ => return None,
    };
    let name = analysis.canonical_name.to_ascii_lowercase();
    let start = ["lora_a", "lora_b", "lora_down", "lora_up", "lora_embedding_a", "lora_embedding_b"]
        .iter()
        .filter_map(|mark| name.find(mark))
        .min()?;
    let (layer, rest) = analysis.canonical_name.split_at(start);
    let adapter = rest.split_once('.').map_or("", |(_, adapter)| adapter);
    let adapter = adapter.strip_suffix("weight").unwrap_or(adapter).trim_end_matches('.');
    let layer = layer.trim_end_matches(['.', '_']);
    let layer = if adapter.is_empty() { layer.to_owned() } else { format!("{layer} ({adapter})") };
    Some((layer, first))
}

/// The products of all pairs.
pub(super) fn measure_all(
    checkpoint: &Checkpoint,
    analyses: &[TensorAnalysis],
    context: &Context,
    errors: &mut Vec<Error>,
) -> Measured<Vec<AdapterAnalysis>> {
    let mut seconds = HashMap::new();
    let mut firsts = Vec::new();
    for (index, analysis) in
        analyses.iter().enumerate().filter(|(_, analysis)| analysis.section == Section::Model)
    {
        match place(analysis) {
            Some((layer, true)) => firsts.push((layer, index)),
            Some((layer, false)) => {
                seconds.insert(layer, index);
            }
            None => {}
        }
    }
    if firsts.is_empty() {
        return Measured::not("no low-rank adapters");
    }
    let pairs: Vec<(String, usize, usize)> = firsts
        .into_iter()
        .filter_map(|(layer, a)| seconds.get(&layer).map(|b| (layer.clone(), a, *b)))
        .collect();
    let measured: Vec<Result<Option<AdapterAnalysis>>> = parallel::map(&pairs, |(layer, a, b)| {
        if context.cancelled() { Ok(None) } else { product(checkpoint, analyses, layer, (*a, *b)) }
    });
    let mut found = Vec::new();
    for adapter in measured {
        match adapter {
            Ok(adapter) => found.extend(adapter),
            Err(error) => errors.push(error),
        }
    }
    if found.is_empty() {
        Measured::not("no pair of adapter halves that fit and are finite")
    } else {
        Measured::Value(found)
    }
}

fn product(
    checkpoint: &Checkpoint,
    analyses: &[TensorAnalysis],
    layer: &str,
    (a, b): (usize, usize),
) -> Result<Option<AdapterAnalysis>> {
    let finite = |index: usize| {
        let statistics = analyses[index].statistics.value();
        statistics.is_some_and(|statistics| statistics.count > 0 && statistics.non_finite() == 0)
    };
    let (Ok(first), Ok(second)) = (&checkpoint.tensors[a].tensor, &checkpoint.tensors[b].tensor) else {
        return Ok(None);
    };
    let ([rank, _], [_, columns]) = (&first.shape[..], &second.shape[..]) else { return Ok(None) };
    if rank != columns || *rank == 0 || *rank > LARGEST_RANK || !finite(a) || !finite(b) {
        return Ok(None);
    }
    let r = *rank as usize;
    // Either Gram matrix may be of the longer side where a half is wider than long; the short one is r×r otherwise.
    let inner = gram_of_rank(&Matrix::new(first), r, true)?;
    let outer = gram_of_rank(&Matrix::new(second), r, false)?;
    let squares = eigenvalues_of_product(&inner, &outer, r);
    let Some(squares) = squares else { return Ok(None) };
    let total: f64 = squares.iter().map(|x| x.max(0.0)).sum();
    let largest = squares.last().copied().unwrap_or(0.0).max(0.0);
    Ok(Some(AdapterAnalysis {
        layer: layer.to_owned(),
        tensors: [analyses[a].name.clone(), analyses[b].name.clone()],
        rank: *rank,
        spectral_norm: largest.sqrt(),
        frobenius_norm: total.sqrt(),
        stable_rank: if largest > 0.0 { total / largest } else { 0.0 },
    }))
}

/// `A·Aᵀ` of the r rows, or `BᵀB` of the r columns.
fn gram_of_rank(matrix: &Matrix<'_>, r: usize, of_rows: bool) -> Result<Vec<f64>> {
    let (rows, columns) = (matrix.row_count(), matrix.column_count());
    let is_shorter = if of_rows { rows < columns } else { columns <= rows };
    if is_shorter {
        return Cpu.gram(matrix);
    }
    let values = matrix.to_dense()?;
    let entry = |i: usize, j: usize| -> f64 {
        if of_rows {
            (0..columns).map(|k| values[i * columns + k] * values[j * columns + k]).sum()
        } else {
            (0..rows).map(|k| values[k * columns + i] * values[k * columns + j]).sum()
        }
    };
    Ok((0..r * r).map(|at| entry(at / r, at % r)).collect())
}

/// Eigenvalues of `P·Q` for two positive semidefinite matrices, smallest first.
fn eigenvalues_of_product(p: &[f64], q: &Vec<f64>, n: usize) -> Option<Vec<f64>> {
    let lower = super::head::cholesky(p, n);
    let right = super::head::multiply(&Cpu, q, &lower, (n, 1), false).ok()?;
    let values = super::head::multiply(&Cpu, &lower, &right, (n, 1), true).ok()?;
    symmetric::eigenvalues(values, n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::spectrum::bidiagonal;
    use crate::random::Stream;

    #[test]
    fn the_product_has_the_singular_values_of_the_product_written_out() {
        let (rows, rank, columns) = (14, 3, 9);
        let (b, a) = (Stream::new(1, 0).normals(rows * rank), Stream::new(1, 1).normals(rank * columns));
        let entry =
            |at: usize| (0..rank).map(|k| b[at / columns * rank + k] * a[k * columns + at % columns]).sum();
        let product: Vec<f64> = (0..rows * columns).map(entry).collect();
        let expected = bidiagonal::singular_values(product, rows, columns).unwrap();
        let gram =
            |of: &dyn Fn(usize, usize) -> f64| (0..rank * rank).map(|at| of(at / rank, at % rank)).collect();
        let inner: Vec<f64> =
            gram(&|i, j| (0..columns).map(|k| a[i * columns + k] * a[j * columns + k]).sum());
        let outer: Vec<f64> = gram(&|i, j| (0..rows).map(|k| b[k * rank + i] * b[k * rank + j]).sum());
        let found = eigenvalues_of_product(&inner, &outer, rank).unwrap();
        for (square, expected) in found.iter().rev().zip(&expected) {
            assert!((square.sqrt() - expected).abs() < 1e-12 * expected, "{square} {expected}");
        }
    }
}
