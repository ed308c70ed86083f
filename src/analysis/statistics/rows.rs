//! The rows of a matrix: their norms, rows of zeros, rows that repeat an earlier one.
//!
//! Norms take one pass at the speed of memory. Two rows can only be equal up to sign when their norms are, so rows
//! are sorted by norm and each is compared with its neighbours of lower index: first four fixed columns, then the
//! column where the row is largest (which tells sparse rows apart), then all of it. For unit vectors
//! ‖u − v‖² = 2(1 − cos), so that cos > 1 − 1e-6 leaves no column more than √2e-6 apart; the probes reject beyond that.
//!
//! Norms are over whole rows: a row with NaN or Inf has none, and takes no part.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use ndarray::ArrayView1;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::block::{READ_BYTES, element_size, parts};
use super::kernel::{Isa, add_squares};
use super::sums::{BLOCK, LANES, halve};
use super::{STOPPED, unsupported};
use crate::analysis::model::{Degenerate, Measured, Rows};
use crate::context::Context;
use crate::error::Result;
use crate::parallel;
use crate::tensor::{DType, Kind, Tensor};

/// How far norms may differ, and how far |cos| may be from 1, for rows to count as equal up to sign.
const EQUAL: f64 = 1e-6;
/// √2e-6, and a little more for the rounding of norms.
const PROBE_TOLERANCE: f64 = 1.5e-3;
/// Columns compared before anything else, evenly spread and kept in memory.
const COLUMNS: usize = 4;
/// Comparisons after which the search ends: a second or two.
const BUDGET: u64 = 1 << 24;
/// Comparisons in memory that cost as much as one element read from the file.
const COMPARISONS_PER_READ: u64 = 16;
/// Elements read in a row that cost as much as one comparison in memory.
const ELEMENTS_PER_COMPARISON: u64 = 4;
/// Rows that are compared: 32 bytes are held of each.
const MAX_ROWS: u64 = 1 << 20;
/// Sums of squares outside this range come near the limits of f64 and are computed again, scaled.
const SAFE_SQUARES: Range<f64> = 1e-270..1e270;

/// Bytes that [`measure_rows`] holds while it looks at `tensor`: of each row a norm, twice while they are joined, or later
/// its place in their order and the compared columns.
pub(super) fn held_bytes(tensor: &Tensor) -> u64 {
    const EACH: usize = size_of::<f64>() + 2 * size_of::<u32>() + size_of::<[f32; COLUMNS]>();
    match tensor.shape[..] {
        [rows, _, ..] if rows <= MAX_ROWS => rows * EACH as u64,
        _ => 0,
    }
}

/// Measures the rows of `tensor`: dimension 0 against the rest.
///
/// # Errors
/// A file that cannot be read, or a dtype without plain elements.
pub fn measure_rows(tensor: &Tensor, context: &Context) -> Result<Measured<Rows>> {
    match tensor.dtype.kind() {
        Kind::Opaque => return Err(unsupported(tensor)),
        Kind::Integer => return Ok(Measured::not("counts and indices have no norm")),
        Kind::Float => {}
    }
    let [count, ref rest @ ..] = tensor.shape[..] else { return Ok(Measured::not("a scalar has no rows")) };
    if rest.is_empty() {
        return Ok(Measured::not("a vector has no rows"));
    }
    if tensor.count() == 0 {
        return Ok(Measured::Degenerate(Degenerate::Empty));
    }
    if tensor.without_repeats().1 > 1 {
        return Ok(Measured::not("an expanded view repeats its elements by construction"));
    }
    if count > MAX_ROWS {
        return Ok(Measured::not(format!("{count} rows, more than the {MAX_ROWS} that are compared")));
    }
    let matrix = Matrix { tensor, width: tensor.count() / count };
    let Some(norms) = matrix.norms(count, context)? else { return Ok(Measured::not(STOPPED)) };
    Rows::of(&matrix, &norms, context)
}

impl Rows {
    fn of(matrix: &Matrix, norms: &[f64], context: &Context) -> Result<Measured<Self>> {
        let mut order: Vec<u32> =
            (0u32..).zip(norms).filter(|(_, norm)| norm.is_finite()).map(|(row, _)| row).collect();
        let norm = |row: u32| norms[row as usize];
        order.par_sort_unstable_by(|&a, &b| norm(a).total_cmp(&norm(b)).then(a.cmp(&b)));
        let Some(&last) = order.last() else {
            return Ok(Measured::Degenerate(Degenerate::NoFiniteElement));
        };
        let largest_norm = norm(last);
        let largest_row = order[order.partition_point(|&row| norm(row) < largest_norm)];
        let median_norm = f64::midpoint(norm(order[(order.len() - 1) / 2]), norm(order[order.len() / 2]));
        let zero = order.partition_point(|&row| norm(row) == 0.0);
        let shares = matrix.shares(norms)?;
        let search = Search { matrix, norms, order: &order[zero..], shares, spent: AtomicU64::new(0) };
        let Some(duplicates) = search.duplicates(context)? else {
            return Ok(Measured::not(STOPPED));
        };
        if search.spent.into_inner() > BUDGET {
            let reason = format!(
                "so many rows have equal norms that {BUDGET} comparisons did not settle which repeat"
            );
            return Ok(Measured::not(reason));
        }
        Ok(Measured::Value(Rows {
            count: norms.len() as u64,
            duplicates,
            zero: zero as u64,
            largest_norm,
            largest_row: u64::from(largest_row),
            median_norm,
        }))
    }
}

/// A tensor seen as rows.
struct Matrix<'a> {
    tensor: &'a Tensor,
    width: u64,
}

impl Matrix<'_> {
    fn row(&self, row: u32) -> Range<u64> {
        u64::from(row) * self.width..(u64::from(row) + 1) * self.width
    }

    /// The norms of all rows; NaN or Inf where an element is. Nothing when the user asked to stop.
    fn norms(&self, rows: u64, context: &Context) -> Result<Option<Vec<f64>>> {
        let tasks: Vec<Range<u64>> = parts(0..rows, (BLOCK / self.width).max(1)).collect();
        let norms = parallel::map(&tasks, |rows| self.norms_of(rows.clone(), context));
        let norms: Option<Vec<Vec<f64>>> = norms.into_iter().collect::<Result<_>>()?;
        Ok(norms.map(|norms| norms.concat()))
    }

    fn norms_of(&self, rows: Range<u64>, context: &Context) -> Result<Option<Vec<f64>>> {
        let mut norms = Vec::with_capacity((rows.end - rows.start) as usize);
        let mut buffer = Vec::new();
        for row in rows {
            if context.cancelled() {
                return Ok(None);
            }
            norms.push(self.norm(row as u32, &mut buffer)?);
        }
        Ok(Some(norms))
    }

    fn norm(&self, row: u32, buffer: &mut Vec<u8>) -> Result<f64> {
        let dtype = self.tensor.dtype;
        let mut lanes = [0.0; LANES];
        for part in parts(self.row(row), elements_per_read(dtype)) {
            add_squares(Isa::best(), dtype, self.tensor.bytes(part, buffer)?, &mut lanes);
        }
        let square = halve(lanes);
        if dtype == DType::F64 && !SAFE_SQUARES.contains(&square) {
            return self.scaled_norm(row);
        }
        Ok(square.sqrt())
    }

    /// The norm of a row whose squares leave the range of f64.
    fn scaled_norm(&self, row: u32) -> Result<f64> {
        let mut largest = 0.0f64;
        self.for_parts(row, |values| {
            // `max` would drop a NaN.
            largest =
                values.iter().fold(largest, |largest, x| if x.abs() <= largest { largest } else { x.abs() });
        })?;
        if largest == 0.0 || !largest.is_finite() {
            return Ok(largest);
        }
        let mut square = 0.0;
        self.for_parts(row, |values| square += values.iter().map(|x| (x / largest).powi(2)).sum::<f64>())?;
        Ok(largest * square.sqrt())
    }

    fn for_parts(&self, row: u32, mut look: impl FnMut(&[f64])) -> Result<()> {
        let mut values = Vec::new();
        for part in parts(self.row(row), elements_per_read(self.tensor.dtype)) {
            self.tensor.read_f64(part, &mut values)?;
            look(&values);
        }
        Ok(())
    }

    /// |element| / norm of every row in the compared columns.
    fn shares(&self, norms: &[f64]) -> Result<Vec<[f32; COLUMNS]>> {
        let of_row = |row: usize| {
            let mut shares = [0.0; COLUMNS];
            let mut values = Vec::new();
            for (column, share) in (0..).zip(&mut shares) {
                let column = (2 * column + 1) * self.width / (2 * COLUMNS as u64);
                *share = (self.element(row as u32, column, &mut values)?.abs() / norms[row]) as f32;
            }
            Ok(shares)
        };
        (0..norms.len()).into_par_iter().map(of_row).collect()
    }

    /// The column of the largest magnitude of a row.
    fn peak(&self, row: u32) -> Result<u64> {
        let (mut largest, mut peak, mut column) = (-1.0, 0, 0);
        self.for_parts(row, |values| {
            for x in values {
                if x.abs() > largest {
                    (largest, peak) = (x.abs(), column);
                }
                column += 1;
            }
        })?;
        Ok(peak)
    }

    fn element(&self, row: u32, column: u64, values: &mut Vec<f64>) -> Result<f64> {
        let index = self.row(row).start + column;
        self.tensor.read_f64(index..index + 1, values)?;
        Ok(values[0])
    }

    /// The inner product of two rows scaled to length 1.
    fn cosine(&self, (a, norm_a): (u32, f64), (b, norm_b): (u32, f64)) -> Result<f64> {
        let (mut left, mut right, mut sum) = (Vec::new(), Vec::new(), 0.0);
        let length = elements_per_read(self.tensor.dtype);
        for (part_a, part_b) in parts(self.row(a), length).zip(parts(self.row(b), length)) {
            self.tensor.read_f64(part_a, &mut left)?;
            self.tensor.read_f64(part_b, &mut right)?;
            let (left, right) = (ArrayView1::from(&left), ArrayView1::from(&right));
            // Each divided by its own norm: the product of two norms may leave the range of f64.
            sum += (&left / norm_a).dot(&(&right / norm_b));
        }
        Ok(sum)
    }
}

fn elements_per_read(dtype: DType) -> u64 {
    // f64 copies of both rows are held at once.
    READ_BYTES / element_size(dtype)
}

/// The search for rows that repeat an earlier one.
struct Search<'a> {
    matrix: &'a Matrix<'a>,
    norms: &'a [f64],
    /// Rows with a finite norm above 0, by norm and then by index.
    order: &'a [u32],
    shares: Vec<[f32; COLUMNS]>,
    /// Comparisons so far. What each row costs does not depend on the others, so neither does going over budget.
    spent: AtomicU64,
}

impl Search<'_> {
    /// How many rows repeat an earlier one. Not to be used when over budget. Nothing when the user asked to stop.
    fn duplicates(&self, context: &Context) -> Result<Option<u64>> {
        let repeats = (0..self.order.len()).into_par_iter().map(|place| {
            if context.cancelled() {
                return Ok(None);
            }
            if self.spent.load(Ordering::Relaxed) > BUDGET {
                return Ok(Some(0));
            }
            let (repeats, cost) = self.repeats_earlier(place)?;
            self.spent.fetch_add(cost, Ordering::Relaxed);
            Ok(Some(u64::from(repeats)))
        });
        // A sum of integers: no order of addition can change it.
        repeats.try_reduce(|| Some(0), |one, two| Ok(one.zip(two).map(|(one, two)| one + two)))
    }

    fn norm(&self, row: u32) -> f64 {
        self.norms[row as usize]
    }

    /// Whether the row at `place` equals one of lower index, and what it cost to know.
    fn repeats_earlier(&self, place: usize) -> Result<(bool, u64)> {
        let row = self.order[place];
        let norm = self.norm(row);
        let near = |&&other: &&u32| (self.norm(other) - norm).abs() <= EQUAL * self.norm(other).max(norm);
        let below = self.order[..place].iter().rev().take_while(near);
        let above = self.order[place + 1..].iter().take_while(near);
        let mut probe = Probe::new(self, row);
        for &other in below.chain(above).filter(|&&other| other < row) {
            if probe.cost > BUDGET {
                break;
            }
            if probe.equals(other)? {
                return Ok((true, probe.cost));
            }
        }
        Ok((false, probe.cost))
    }
}

/// One row, compared with others. Its peak is looked for when it is first needed.
struct Probe<'a> {
    search: &'a Search<'a>,
    row: u32,
    peak: Option<(u64, f64)>,
    cost: u64,
    values: Vec<f64>,
}

impl<'a> Probe<'a> {
    fn new(search: &'a Search<'a>, row: u32) -> Self {
        Self { search, row, peak: None, cost: 0, values: Vec::new() }
    }

    fn equals(&mut self, other: u32) -> Result<bool> {
        self.cost += 1;
        let shares = |row: u32| self.search.shares[row as usize];
        let differ = |(one, two): (f32, f32)| f64::from(one - two).abs() > PROBE_TOLERANCE;
        if shares(self.row).into_iter().zip(shares(other)).any(differ) {
            return Ok(false);
        }
        let matrix = self.search.matrix;
        let whole_row = matrix.width / ELEMENTS_PER_COMPARISON;
        let (column, share) = if let Some(peak) = self.peak {
            peak
        } else {
            self.cost += whole_row;
            let column = matrix.peak(self.row)?;
            let peak = (column, self.share(self.row, column)?);
            *self.peak.insert(peak)
        };
        self.cost += COMPARISONS_PER_READ;
        if (self.share(other, column)? - share).abs() > PROBE_TOLERANCE {
            return Ok(false);
        }
        self.cost += 2 * whole_row;
        let with_norm = |row: u32| (row, self.search.norm(row));
        let cosine = matrix.cosine(with_norm(self.row), with_norm(other))?;
        Ok(cosine.abs() > 1.0 - EQUAL)
    }

    /// |element| / norm.
    fn share(&mut self, row: u32, column: u64) -> Result<f64> {
        Ok(self.search.matrix.element(row, column, &mut self.values)?.abs() / self.search.norm(row))
    }
}
