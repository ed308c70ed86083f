//! The largest singular values by Lanczos with blocks of vectors (Golub and Underwood 1977; the bound of [`super::bracket`]).
//!
//! `AᵀA·Q = Q·T + rest` on the shorter side, Q orthonormal and grown by a block a step: what `AᵀA` makes of the last block, without what lies
//! in Q. The eigenvalues of T are the squares of the Ritz values. A step reads the matrix twice for all vectors of a block, and asks a device
//! for little more than Lanczos asks of it for one vector, in less than half of the steps.
//!
//! The values are not those of T but are taken anew: of each of the largest Ritz vectors x, `|A·x|/|x|`, in f64 over the stored matrix. That
//! is a lower bound of σ₁ however Q came about; of equal singular values a block sees as many as it has vectors; the distance to a singular value is the norm of `AᵀA·x − σ²·x` over σ, taken anew as well.

use super::jacobi;
use super::lanczos::Basis;
use super::matrix::CONVERGED;
use super::operator::{flip, forward};
use super::{bracket, symmetric};
use crate::compute::{Backend, Gemm, Matrix};
use crate::context::Context;
use crate::error::Result;
use crate::parallel;
use crate::random::Stream;
use crate::robust::largest_first;

/// Vectors of a block: what the kernels of a device read a matrix once for. Even, as the bound wants it.
pub const WIDTH: usize = 8;

/// A direction that is shorter than this share of the largest number met is rounding, or adds less than rounding to any value. Of `AᵀA`:
/// singular values below its root, as a share of the largest, are not told apart from nothing.
pub(super) const DEPENDENT: f64 = 1e-13;

/// Eigenvalues of a Gram matrix below this share of the largest are rounding: their directions are looked at again at their own length.
const FLOOR: f64 = 1e-16;

/// A block whose Gram matrix has eigenvalues this near to each other, as a share of the largest, is orthonormal to 1e-12 once it is
/// divided by them.
const WELL_CONDITIONED: f64 = 1e-4;

/// Times that a block is made orthonormal at most. Each multiplies lengths that are too small by 1e8, and the first has 1e-13 to come from.
const MOST_PASSES: usize = 4;

/// What was found.
#[derive(Debug, Clone)]
pub struct Largest {
    /// Singular values, largest first: as many as were wanted or as there are, or those of the first blocks that have all converged and
    /// of the one after them.
    pub values: Vec<f64>,
    /// For each, the distance within which there is a singular value.
    pub residuals: Vec<f64>,
    /// Σθ² of all Ritz values θ.
    pub squares: f64,
    /// Vectors of the first block.
    pub width: usize,
    /// Blocks that were multiplied.
    pub steps: usize,
    /// The Krylov space is complete: the values are singular values, but for rounding.
    pub is_complete: bool,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// With values.
    Found(Largest),
    /// With products that are no numbers, or an iteration that did not converge.
    Failed,
    /// The user asked to stop.
    Stopped,
}

/// A block of vectors, which lie side by side.
struct Block<Vectors> {
    vectors: Vectors,
    width: usize,
}

/// The space, and T as far as it has come.
struct Space<Vectors> {
    basis: Basis<Vectors>,
    /// For each block its first vector, its width, and the inner products of what `AᵀA` made of it with all vectors up to its last.
    columns: Vec<(usize, usize, Vec<f64>)>,
    /// The largest number of T, which lengths are compared with.
    largest: f64,
}

/// The `wanted` largest singular values of `matrix`, after the steps that the bracket asks for.
///
/// # Errors
/// As the backend.
pub fn run<B: Backend>(
    backend: &B,
    matrix: &Matrix<'_>,
    wanted: usize,
    start: [Stream; WIDTH],
    context: &Context,
) -> Result<Outcome> {
    let short = matrix.row_count().min(matrix.column_count());
    let width = WIDTH.min(short);
    let steps = if width < 2 { 1 } else { bracket::block_steps(short, width) };
    let most = (steps * width).min(short);
    let mut space = Space { basis: Basis::new(backend, most, short)?, columns: Vec::new(), largest: 0.0 };
    let first = Block { vectors: backend.upload(&side_by_side(&start[..width], short))?, width };
    let gram = products_of(backend, &first, short)?;
    let gram = backend.download::<f64>(&gram)?;
    let Some(mut block) = space.orthonormalised(backend, first, gram)? else { return Ok(Outcome::Failed) };
    while block.width > 0 && space.columns.len() < steps {
        if context.cancelled() {
            return Ok(Outcome::Stopped);
        }
        let [_, image] = images(backend, matrix, &block)?;
        let Some((rest, gram)) = space.step(backend, image)? else { return Ok(Outcome::Failed) };
        if space.columns.len() == steps || space.basis.count() == most {
            break;
        }
        let Some(next) = space.orthonormalised(backend, rest, gram)? else { return Ok(Outcome::Failed) };
        block = next;
    }
    let is_complete = block.width == 0 || space.basis.count() == short;
    let count = space.basis.count();
    let projected = space.projected();
    let squares = (0..count).map(|at| projected[at * count + at]).sum();
    let Some(vectors) = symmetric::largest_vectors(projected, count, wanted) else {
        return Ok(Outcome::Failed);
    };
    let mut pairs = Vec::with_capacity(vectors.len());
    for some in vectors.chunks(WIDTH) {
        pairs.extend(anew(backend, matrix, &space.basis, some)?);
        // What comes after one that is near to nothing is nearer to nothing still.
        if pairs.iter().any(|(value, residual)| *residual > CONVERGED * value) {
            break;
        }
    }
    let order = largest_first(&pairs.iter().map(|(value, _)| *value).collect::<Vec<f64>>());
    let (values, residuals) = order.into_iter().map(|index| pairs[index]).unzip();
    Ok(Outcome::Found(Largest { values, residuals, squares, width, steps: space.columns.len(), is_complete }))
}

/// Standard normal numbers: a vector for each stream, side by side.
fn side_by_side(start: &[Stream], length: usize) -> Vec<f64> {
    let vectors: Vec<Vec<f64>> = parallel::map(start, |stream| stream.normals(length));
    (0..length).flat_map(|row| vectors.iter().map(move |vector| vector[row])).collect()
}

/// `A` and `AᵀA` times a block of vectors of the shorter side.
fn images<B: Backend>(
    backend: &B,
    matrix: &Matrix<'_>,
    block: &Block<B::Buffer<f64>>,
) -> Result<[Block<B::Buffer<f64>>; 2]> {
    let (rows, columns) = (matrix.row_count(), matrix.column_count());
    let (forward, width) = (forward::<B>(matrix), block.width);
    let mut once = Block { vectors: backend.room(rows.max(columns) * width)?, width };
    let mut twice = Block { vectors: backend.room(rows.min(columns) * width)?, width };
    backend.multiply(matrix, forward, width, &block.vectors, &mut once.vectors)?;
    backend.multiply(matrix, flip(forward), width, &once.vectors, &mut twice.vectors)?;
    Ok([once, twice])
}

impl<Vectors> Space<Vectors> {
    /// Takes the space out of what `AᵀA` made of its last block, and notes what that was. What is left, and its Gram matrix; `None` where
    /// something is no number.
    fn step<B: Backend<Buffer<f64> = Vectors>>(
        &mut self,
        backend: &B,
        mut image: Block<Vectors>,
    ) -> Result<Option<(Block<Vectors>, Vec<f64>)>> {
        let shares = self.basis.remove_from_block(backend, image.width, &mut image.vectors)?;
        // Twice: once leaves what rounding put in (Parlett: "twice is enough").
        self.basis.remove_from_block(backend, image.width, &mut image.vectors)?;
        // Everything is asked for before anything is waited for.
        let gram = products_of(backend, &image, self.basis.length())?;
        let (shares, gram) = (backend.download::<f64>(&shares)?, backend.download::<f64>(&gram)?);
        if !shares.iter().all(|x| x.is_finite()) {
            return Ok(None);
        }
        self.largest = shares.iter().fold(self.largest, |most, x| most.max(x.abs()));
        self.columns.push((self.basis.count() - image.width, image.width, shares));
        Ok(Some((image, gram)))
    }

    /// An orthonormal block of the same span, which is added to the basis; narrower by what is no direction of its own. `None` where
    /// something is no number.
    ///
    /// Divided by the roots of the eigenvalues of its Gram matrix, along their vectors. That loses directions that are far shorter than
    /// others to rounding: these come out with a length below 1, and are looked at again.
    fn orthonormalised<B: Backend<Buffer<f64> = Vectors>>(
        &mut self,
        backend: &B,
        mut block: Block<Vectors>,
        mut gram: Vec<f64>,
    ) -> Result<Option<Block<Vectors>>> {
        let length = self.basis.length();
        // The squared length that each vector had before it was divided.
        let mut squares = vec![1.0; block.width];
        let shortest = (DEPENDENT * self.largest).powi(2);
        for pass in 1..=MOST_PASSES {
            if !gram.iter().all(|x| x.is_finite()) {
                return Ok(None);
            }
            let width = block.width;
            let eigen = jacobi::triplets(gram.chunks_exact(width).map(<[f64]>::to_vec).collect());
            let most = eigen.values[0];
            let mut kept: Vec<(f64, f64, &Vec<f64>)> = Vec::with_capacity(width);
            for (value, vector) in eigen.values.iter().zip(&eigen.right) {
                let value = value.max(FLOOR * most);
                let before: f64 = vector.iter().zip(&squares).map(|(x, square)| x * x * square).sum();
                if value * before > shortest && value > 0.0 {
                    kept.push((value, value * before, vector));
                }
            }
            kept.truncate(self.basis.room());
            let Some(&(least, ..)) = kept.last() else {
                return Ok(Some(Block { vectors: block.vectors, width: 0 }));
            };
            let factors: Vec<f64> = (0..width)
                .flat_map(|row| kept.iter().map(move |(value, _, vector)| vector[row] / value.sqrt()))
                .collect();
            let factors = backend.upload(&factors)?;
            let (before, narrow) = (block, kept.len());
            block = Block { vectors: backend.room::<f64>(length * narrow)?, width: narrow };
            add(backend, &before, &factors, (1.0, 0.0), length, &mut block)?;
            if least >= WELL_CONDITIONED * most || pass == MOST_PASSES {
                let rows = as_rows(backend, &before, &factors, narrow, length)?;
                self.basis.push_rows(backend, &rows, narrow)?;
                break;
            }
            squares = kept.iter().map(|(_, square, _)| *square).collect();
            if self.basis.count() > 0 {
                self.basis.remove_from_block(backend, narrow, &mut block.vectors)?;
            }
            gram = backend.download(&products_of(backend, &block, length)?)?;
        }
        Ok(Some(block))
    }

    /// T, which is symmetric but for rounding.
    fn projected(&self) -> Vec<f64> {
        let count = self.basis.count();
        let mut projected = vec![0.0; count * count];
        for (first, width, shares) in &self.columns {
            for (row, shares) in shares.chunks_exact(*width).enumerate() {
                for (column, &share) in (*first..).zip(shares) {
                    // Of the two of a pair the later one is kept: it lies on or above the diagonal.
                    projected[column * count + row] = share;
                    projected[row * count + column] = share;
                }
            }
        }
        projected
    }
}

/// The inner products of the vectors of a block: its Gram matrix, on the device.
fn products_of<B: Backend>(
    backend: &B,
    block: &Block<B::Buffer<f64>>,
    length: usize,
) -> Result<B::Buffer<f64>> {
    let width = block.width;
    let mut products = backend.room::<f64>(width * width)?;
    let gemm = Gemm { transpose_a: true, ..product(width, width, length) };
    backend.gemm::<f64>(&gemm, &block.vectors, &block.vectors, &mut products)?;
    Ok(products)
}

fn product(m: usize, n: usize, k: usize) -> Gemm<f64> {
    Gemm { batch: 1, m, n, k, transpose_a: false, transpose_b: false, alpha: 1.0, beta: 0.0 }
}

/// `to ← α·block·factors + β·to`.
fn add<B: Backend>(
    backend: &B,
    block: &Block<B::Buffer<f64>>,
    factors: &B::Buffer<f64>,
    (alpha, beta): (f64, f64),
    length: usize,
    to: &mut Block<B::Buffer<f64>>,
) -> Result<()> {
    let gemm = Gemm { alpha, beta, ..product(length, to.width, block.width) };
    backend.gemm::<f64>(&gemm, &block.vectors, factors, &mut to.vectors)
}

/// `(block·factors)ᵀ`: `narrow` vectors, one a row.
fn as_rows<B: Backend>(
    backend: &B,
    block: &Block<B::Buffer<f64>>,
    factors: &B::Buffer<f64>,
    narrow: usize,
    length: usize,
) -> Result<B::Buffer<f64>> {
    let mut rows = backend.room(narrow * length)?;
    let gemm = Gemm { transpose_a: true, transpose_b: true, ..product(narrow, length, block.width) };
    backend.gemm::<f64>(&gemm, factors, &block.vectors, &mut rows)?;
    Ok(rows)
}

/// The value and residual of each of some vectors of the basis, by products with the matrix.
fn anew<B: Backend>(
    backend: &B,
    matrix: &Matrix<'_>,
    basis: &Basis<B::Buffer<f64>>,
    vectors: &[Vec<f64>],
) -> Result<Vec<(f64, f64)>> {
    let (width, short) = (vectors.len(), basis.length());
    let factors: Vec<f64> =
        (0..basis.count()).flat_map(|row| vectors.iter().map(move |vector| vector[row])).collect();
    let x = Block { vectors: basis.combine_block(backend, width, &backend.upload(&factors)?)?, width };
    let long = matrix.row_count().max(matrix.column_count());
    let [y, mut rest] = images(backend, matrix, &x)?;
    let (lengths, images) = (products_of(backend, &x, short)?, products_of(backend, &y, long)?);
    let (lengths, images) = (backend.download::<f64>(&lengths)?, backend.download::<f64>(&images)?);
    let square = |index: usize| images[index * (width + 1)] / lengths[index * (width + 1)];
    let diagonal: Vec<f64> = (0..width * width)
        .map(|at| if at / width == at % width { square(at / width) } else { 0.0 })
        .collect();
    add(backend, &x, &backend.upload(&diagonal)?, (-1.0, 1.0), short, &mut rest)?;
    let rests = backend.download::<f64>(&products_of(backend, &rest, short)?)?;
    let pair = |index: usize| {
        let value = square(index).sqrt();
        let rest = (rests[index * (width + 1)] / lengths[index * (width + 1)]).sqrt();
        (value, if value > 0.0 { rest / value } else { 0.0 })
    };
    Ok((0..width).map(pair).collect())
}
