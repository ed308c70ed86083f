//! Attention layers: queries, keys and values as matrices of their own, and each head as the form it is.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::head::{self, Head, HeadNorms, NormalLogits};
use super::layout::{Attention, Heads, Order, Projections};
use crate::analysis::device::{chosen, or_processor};
use crate::analysis::model::{AttentionAnalysis, HeadAnalysis, Measured, TensorAnalysis};
use crate::checkpoint::Checkpoint;
use crate::compute::cuda::Device;
use crate::compute::{Cpu, Matrix};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::parallel;
use crate::tensor::Tensor;

/// Keys and rows that the entropy is predicted over; longer contexts have nearly the same share.
const MOST_KEYS: usize = 4096;
const ROWS: usize = 32;

/// Bytes of the projections that the heads of a layer have in f64 at once, here and on a GPU: 256 MB, which all of a layer of 4096 numbers
/// and 32 heads of 128 take.
const MOST_BYTES: usize = 1 << 28;

/// The matrices that are stored as one in the tensor `index`; none where it is a single one.
pub(super) fn parts<'a>(
    layers: &[Attention],
    index: usize,
    tensor: &'a Tensor,
) -> Vec<(&'static str, Matrix<'a>)> {
    let fused = layers.iter().find_map(|layer| match &layer.projections {
        Projections::Fused { tensor, order, transposed, .. } if *tensor == index => {
            Some((layer.heads, *order, *transposed))
        }
        _ => None,
    });
    let Some((Heads { query, key, width }, order, transposed)) = fused else { return Vec::new() };
    let group = query / key;
    let ranges = |part: u64| -> Vec<Range<u64>> {
        match order {
            Order::Contiguous => {
                let starts = [0, query, query + key, query + 2 * key].map(|heads| heads * width);
                std::iter::once(starts[part as usize]..starts[part as usize + 1]).collect()
            }
            Order::Grouped => (0..key)
                .map(|head| {
                    let starts =
                        [0, group, group + 1, group + 2].map(|heads| (head * (group + 2) + heads) * width);
                    starts[part as usize]..starts[part as usize + 1]
                })
                .collect(),
        }
    };
    let matrix = |part| {
        let ranges = ranges(part);
        match <[_; 1]>::try_from(ranges) {
            Ok([columns]) if transposed => Some(Matrix::new(tensor).with_columns(columns)),
            Ok([rows]) => Some(Matrix::new(tensor).with_rows(vec![rows])),
            Err(_) if transposed => None,
            Err(rows) => Some(Matrix::new(tensor).with_rows(rows)),
        }
    };
    let names = ["query", "key", "value"];
    (0..3).filter_map(|part| Some((names[part as usize], matrix(part)?))).collect()
}

/// Measures every head of every layer.
pub(super) fn measure_all(
    checkpoint: &Checkpoint,
    layers: &[Attention],
    analyses: &[TensorAnalysis],
    context: &Context,
    errors: &mut Vec<Error>,
) -> Measured<Vec<AttentionAnalysis>> {
    if !Attention::is_in(checkpoint) {
        return Measured::Value(Vec::new());
    }
    if layers.is_empty() {
        return Measured::not("no attention layer whose queries and keys could be told apart by the config");
    }
    let readable: Vec<&Attention> = layers.iter().filter(|layer| is_finite(layer, analyses)).collect();
    // On a GPU one layer after the other: there is one device, and the heads of a layer are read by all threads.
    let device = chosen(context);
    let measure = |layer: &&Attention| measure(checkpoint, layer, device.as_ref(), context);
    let measured: Vec<Result<Option<AttentionAnalysis>>> = match &device {
        Some(_) => readable.iter().map(measure).collect(),
        None => parallel::map(&readable, measure),
    };
    let mut found = Vec::new();
    for layer in measured {
        match layer {
            Ok(Some(layer)) => found.push(layer),
            Ok(None) => return Measured::not("stopped, or an iteration did not converge"),
            Err(error) => errors.push(error),
        }
    }
    if found.is_empty() {
        Measured::not("no attention layer has finite weights")
    } else {
        Measured::Value(found)
    }
}

fn is_finite(layer: &Attention, analyses: &[TensorAnalysis]) -> bool {
    let finite = |index: usize| {
        analyses[index]
            .statistics
            .value()
            .is_some_and(|statistics| statistics.count > 0 && statistics.non_finite() == 0)
    };
    let norms = [
        layer.norm,
        layer.norm_bias,
        layer.head_norms.map(|norms| norms.0),
        layer.head_norms.map(|norms| norms.1),
        layer.query_norm_bias,
    ];
    let projections = match &layer.projections {
        Projections::Apart { query, key, bias } => [Some(*query), Some(*key), *bias],
        Projections::Fused { tensor, bias, .. } => [Some(*tensor), *bias, None],
    };
    norms.into_iter().chain(projections).flatten().all(finite)
}

fn measure(
    checkpoint: &Checkpoint,
    layer: &Attention,
    device: Option<&Arc<Device>>,
    context: &Context,
) -> Result<Option<AttentionAnalysis>> {
    let reader = Reader { checkpoint, layer };
    let gains = match layer.norm {
        Some(norm) => reader.gains(norm)?,
        None => Vec::new(),
    };
    let bias = reader.bias(layer.norm_bias)?;
    let logits = layer.context.map(|context| NormalLogits::new((context as usize).min(MOST_KEYS), ROWS));
    let read = |number: u64| reader.head(number, &gains, &bias);
    let heads = match device {
        Some(device) => on_device(device, layer, reader.head_bytes()?, &read, context)?,
        None => on_processor(0..layer.heads.query, &read, context)?,
    };
    let Some(mut heads) = heads else { return Ok(None) };
    if let Some(logits) = &logits {
        heads.par_iter_mut().for_each(|head| {
            head.predicted_entropy = Measured::Value(logits.entropy_share(head.logit_std));
        });
    }
    let name = |index: usize| checkpoint.tensors[index].name.clone();
    let (Projections::Apart { query: tensor, .. } | Projections::Fused { tensor, .. }) = layer.projections;
    Ok(Some(AttentionAnalysis {
        layer: layer.layer.clone(),
        index: layer.index,
        tensor: name(tensor),
        context: layer.context,
        head_width: layer.heads.width,
        norm: layer.norm.filter(|_| !gains.is_empty()).map(name),
        normalises_queries: layer.head_norms.is_some(),
        rotates: layer.rotates,
        heads,
    }))
}

/// Reads a head.
type Read<'a> = dyn Fn(u64) -> Result<Head> + Sync + 'a;

/// Each head by itself, on the threads there are; `None` where an iteration did not converge, or the user asked to stop.
fn on_processor(
    numbers: Range<u64>,
    read: &Read<'_>,
    context: &Context,
) -> Result<Option<Vec<HeadAnalysis>>> {
    let one = |number| {
        if context.cancelled() {
            return Ok(None);
        }
        head::measure(&Cpu, &[read(number)?])
    };
    let heads = parallel::map_range(numbers, one);
    let heads: Vec<Option<Vec<HeadAnalysis>>> = heads.into_iter().collect::<Result<_>>()?;
    Ok(heads.into_iter().collect::<Option<Vec<_>>>().map(|heads| heads.concat()))
}

/// The heads of a layer together, as many as the memory for their projections holds.
fn on_device(
    device: &Arc<Device>,
    layer: &Attention,
    head_bytes: usize,
    read: &Read<'_>,
    context: &Context,
) -> Result<Option<Vec<HeadAnalysis>>> {
    let piece = format!("the heads of {}", layer.layer);
    let mut found = Vec::new();
    let step = (MOST_BYTES / head_bytes.max(1)).max(1);
    for first in (0..layer.heads.query).step_by(step) {
        if context.cancelled() {
            return Ok(None);
        }
        let numbers = first..(first + step as u64).min(layer.heads.query);
        let heads = parallel::map_range(numbers.clone(), read);
        let heads: Vec<Head> = heads.into_iter().collect::<Result<_>>()?;
        let measured = head::measure(&device.backend(), &heads);
        let on_processor = || on_processor(numbers, read, context);
        let Some(heads) = or_processor(device, &piece, measured, on_processor, context)? else {
            return Ok(None);
        };
        found.extend(heads);
    }
    Ok(Some(found))
}

struct Reader<'a> {
    checkpoint: &'a Checkpoint,
    layer: &'a Attention,
}

impl Reader<'_> {
    fn tensor(&self, index: usize) -> Result<&Tensor> {
        self.checkpoint.tensors[index].readable()
    }

    /// Bytes of the queries and keys of one head in f64.
    fn head_bytes(&self) -> Result<usize> {
        let Heads { query, key, .. } = self.layer.heads;
        let (index, heads) = match self.layer.projections {
            Projections::Apart { query: index, .. } => (index, query),
            Projections::Fused { tensor, .. } => (tensor, query + 2 * key),
        };
        let numbers = self.tensor(index)?.count().checked_div(heads).unwrap_or(0);
        Ok(2 * numbers as usize * size_of::<f64>())
    }

    fn vector(&self, index: usize) -> Result<Vec<f64>> {
        Matrix::new(self.tensor(index)?).to_dense()
    }

    fn bias(&self, index: Option<usize>) -> Result<Vec<f64>> {
        index.map_or_else(|| Ok(Vec::new()), |index| self.vector(index))
    }

    /// What a norm multiplies by.
    fn gains(&self, norm: usize) -> Result<Vec<f64>> {
        let offset = f64::from(u8::from(self.layer.gain_is_offset));
        Ok(self.vector(norm)?.into_iter().map(|gain| gain + offset).collect())
    }

    /// The norms of the queries and keys whose rows these are.
    fn norms(&self, query_rows: &Range<u64>, key_rows: &Range<u64>) -> Result<Option<HeadNorms>> {
        let Some((query, key)) = self.layer.head_norms else { return Ok(None) };
        let width = self.layer.heads.width as usize;
        let slice = |values: &[f64], rows: &Range<u64>| {
            let rows = if values.len() == width { 0..width } else { rows.start as usize..rows.end as usize };
            values.get(rows).map(<[f64]>::to_vec)
        };
        let (query_gains, key_gains) = (self.gains(query)?, self.gains(key)?);
        let bias = self.bias(self.layer.query_norm_bias)?;
        // Gains in rows of a head each are of heads that are normalised one by one.
        let together = |norm: usize, gains: &[f64]| -> Result<usize> {
            Ok(if self.tensor(norm)?.shape.len() > 1 { width } else { gains.len() })
        };
        let together = (together(query, &query_gains)?, together(key, &key_gains)?);
        Ok(slice(&query_gains, query_rows).zip(slice(&key_gains, key_rows)).map(|(query, key)| {
            let query_bias = slice(&bias, query_rows).unwrap_or_default();
            HeadNorms { query, key, query_bias, together }
        }))
    }

    fn head(&self, number: u64, gains: &[f64], norm_bias: &[f64]) -> Result<Head> {
        let (query_rows, key_rows) = self.layer.rows(number);
        let width = self.layer.heads.width as usize;
        let (query, key, bias) = match &self.layer.projections {
            Projections::Apart { query, key, bias } => {
                let rows = |index: usize, rows: &Range<u64>| {
                    Matrix::new(self.tensor(index)?).with_rows(vec![rows.clone()]).to_dense()
                };
                (rows(*query, &query_rows)?, rows(*key, &key_rows)?, *bias)
            }
            Projections::Fused { tensor, bias, transposed, .. } => {
                let rows = |rows: &Range<u64>| self.fused(*tensor, rows, *transposed);
                (rows(&query_rows)?, rows(&key_rows)?, *bias)
            }
        };
        let query_bias = self.bias(bias)?;
        let own = query_bias.get(query_rows.start as usize..query_rows.end as usize).unwrap_or_default();
        let query_bias = common(own, &query, norm_bias, width);
        let multiplied = |mut rows: Vec<f64>| {
            let stream = rows.len() / width;
            if gains.len() == stream {
                rows.iter_mut().enumerate().for_each(|(at, value)| *value *= gains[at % stream]);
            }
            rows
        };
        Ok(Head {
            query: multiplied(query),
            key: multiplied(key),
            width,
            query_bias,
            norms: self.norms(&query_rows, &key_rows)?,
            rotates: self.layer.rotates,
        })
    }

    /// Rows of a fused matrix; its columns, turned, where it is stored input first.
    fn fused(&self, index: usize, rows: &Range<u64>, transposed: bool) -> Result<Vec<f64>> {
        let matrix = Matrix::new(self.tensor(index)?);
        if !transposed {
            return matrix.with_rows(vec![rows.clone()]).to_dense();
        }
        let matrix = matrix.with_columns(rows.clone());
        let (stream, width) = (matrix.row_count(), matrix.column_count());
        let values = matrix.to_dense()?;
        Ok((0..values.len()).map(|at| values[at % stream * width + at / stream]).collect())
    }
}

/// What the queries of a head, `width` rows, have in common: their own bias, and what the bias of the norm before them makes of them.
fn common(own: &[f64], query: &[f64], norm_bias: &[f64], width: usize) -> Vec<f64> {
    if norm_bias.len() * width != query.len() {
        return own.to_vec();
    }
    let rows = query.chunks_exact(norm_bias.len().max(1));
    let moved = rows.map(|row| row.iter().zip(norm_bias).map(|(weight, bias)| weight * bias).sum::<f64>());
    moved.enumerate().map(|(at, moved)| own.get(at).copied().unwrap_or(0.0) + moved).collect()
}
