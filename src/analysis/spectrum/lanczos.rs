//! Golub–Kahan–Lanczos bidiagonalisation with full reorthogonalisation (Golub and Kahan 1965; Simon and Zha 2000).
//!
//! `A·V = U·B`, `Aᵀ·U = V·Bᵀ + β·v·eᵀ` with B upper bidiagonal. The singular values of B are the Ritz values: the largest is
//! a lower bound of σ₁, and with a random start [`super::bracket`] says how far σ₁ can lie above it. The start, and the
//! vectors that the spectrum of B is about, are those of the shorter side.

use super::jacobi::{self, Triplets};
use super::operator::{Operator, flip, forward};
use crate::compute::{Backend, Gemm, Side};
use crate::context::Context;
use crate::error::Result;
use crate::random::Stream;

/// Both bases are kept orthogonal as long as the longer one has at most so many numbers, 256 MB; beyond that only the
/// shorter, which is enough for the largest values (Simon and Zha 2000).
const LARGEST_LEFT_BASIS: usize = 1 << 25;

/// What a bidiagonalisation has found.
#[derive(Debug, Clone)]
pub struct Ritz<Vector> {
    /// Ritz values, largest first.
    pub values: Vec<f64>,
    /// For each, the distance within which there is a singular value.
    pub residuals: Vec<f64>,
    /// Steps taken: products with A.
    pub steps: usize,
    /// The Krylov space is complete: the values are singular values, but for rounding.
    pub is_complete: bool,
    /// For each, the share of the start that lies in its direction: the weights of Gauss quadrature.
    pub weights: Vec<f64>,
    /// The right vector of the largest, on the shorter side: of A for a tall operator, of Aᵀ for a wide one.
    pub vector: Vector,
}

/// What is smaller than so much of the largest value met is rounding.
const BREAKDOWN: f64 = 1e-14;

/// Runs at most `steps` steps on `operator`; `None` when the user asked to stop.
pub fn run<B: Backend>(
    backend: &B,
    operator: &dyn Operator<B>,
    steps: usize,
    start: Stream,
    context: &Context,
) -> Result<Option<Ritz<B::Buffer<f64>>>> {
    run_orthogonal_to(backend, operator, steps, start, None, context)
}

/// [`run`] from a start without the directions `taken`, of the shorter side, which the operator must not lead back to.
pub(super) fn run_orthogonal_to<B: Backend>(
    backend: &B,
    operator: &dyn Operator<B>,
    steps: usize,
    start: Stream,
    taken: Option<&Basis<B::Buffer<f64>>>,
    context: &Context,
) -> Result<Option<Ritz<B::Buffer<f64>>>> {
    let found = run_with_space(backend, operator, steps, start, taken, context)?;
    Ok(found.map(|(ritz, _)| ritz))
}

/// What a bidiagonalisation leaves beside its values: the space they are of.
pub struct Space<Vectors> {
    /// Its orthonormal vectors, of the shorter side.
    pub basis: Basis<Vectors>,
    /// For each Ritz value, its right vector in the basis.
    pub factors: Vec<Vec<f64>>,
    /// Which side of the operator takes vectors of the shorter side.
    pub forward: Side,
    /// The images of the basis were kept orthogonal as well, so that `‖A·V‖²_F` is the sum of the squared Ritz values.
    pub is_isometric: bool,
}

/// Ritz values and the space that they are of.
type Found<Vectors> = (Ritz<Vectors>, Space<Vectors>);

/// [`run_orthogonal_to`], and the space.
pub(in crate::analysis) fn run_with_space<B: Backend>(
    backend: &B,
    operator: &dyn Operator<B>,
    steps: usize,
    start: Stream,
    taken: Option<&Basis<B::Buffer<f64>>>,
    context: &Context,
) -> Result<Option<Found<B::Buffer<f64>>>> {
    let forward = forward(operator);
    let (short, long) = match forward {
        Side::Plain => (operator.columns(), operator.rows()),
        Side::Transposed => (operator.rows(), operator.columns()),
    };
    let steps = steps.min(short);
    let keeps_left = steps.saturating_mul(long) <= LARGEST_LEFT_BASIS;
    let mut right = Basis::new(backend, steps, short)?;
    let mut left = Basis::new(backend, if keeps_left { steps } else { 0 }, long)?;
    let mut v = backend.upload(&start.normals(short))?;
    if let Some(taken) = taken {
        taken.remove_from(backend, &mut v)?;
    }
    normalise(backend, &mut v)?;
    let (mut u, mut next) = (backend.zeros(long)?, backend.zeros(short)?);
    let mut u_before = backend.zeros(long)?;
    let (mut alphas, mut betas): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
    let mut largest = 0.0f64;
    let mut is_complete = false;
    for step in 0..steps {
        if context.cancelled() {
            return Ok(None);
        }
        right.push(backend, &v)?;
        operator.apply(backend, forward, &v, &mut u)?;
        if let Some(&beta) = betas.last() {
            backend.axpy(-beta, &u_before, &mut u)?;
        }
        if keeps_left {
            left.remove_from(backend, &mut u)?;
        }
        let alpha = backend.dot(&u, &u)?.sqrt();
        largest = largest.max(alpha);
        alphas.push(alpha);
        if alpha <= BREAKDOWN * largest {
            // A·v lies in the space of the u before it: what A can do with the start has been seen.
            is_complete = true;
            betas.push(0.0);
            break;
        }
        backend.scale(1.0 / alpha, &mut u)?;
        if keeps_left {
            left.push(backend, &u)?;
        }
        operator.apply(backend, flip(forward), &u, &mut next)?;
        backend.axpy(-alpha, &v, &mut next)?;
        right.remove_from(backend, &mut next)?;
        let beta = backend.dot(&next, &next)?.sqrt();
        largest = largest.max(beta);
        betas.push(beta);
        if beta <= BREAKDOWN * largest || step + 1 == short {
            is_complete = true;
            break;
        }
        backend.scale(1.0 / beta, &mut next)?;
        std::mem::swap(&mut v, &mut next);
        std::mem::swap(&mut u, &mut u_before);
    }
    let taken = alphas.len();
    let last = if is_complete { 0.0 } else { betas.last().copied().unwrap_or(0.0) };
    let Triplets { values, left: p, right: q } = jacobi::bidiagonal(&alphas, &betas);
    let residuals = p.iter().map(|p| last * p.last().copied().unwrap_or(0.0).abs()).collect();
    let weights = q.iter().map(|q| q.first().copied().unwrap_or(0.0).powi(2)).collect();
    let combination = backend.upload(q.first().map_or(&[][..], Vec::as_slice))?;
    let vector = right.combine(backend, &combination)?;
    let space = Space { basis: right, factors: q, forward, is_isometric: keeps_left };
    Ok(Some((Ritz { values, residuals, steps: taken, is_complete, weights, vector }, space)))
}

/// Orthonormal vectors, one a row.
pub struct Basis<Vectors> {
    vectors: Vectors,
    count: usize,
    most: usize,
    length: usize,
}

impl<Vectors> Basis<Vectors> {
    /// Room for `most` vectors of `length` numbers.
    pub fn new<B: Backend<Buffer<f64> = Vectors>>(backend: &B, most: usize, length: usize) -> Result<Self> {
        Ok(Self { vectors: backend.zeros::<f64>(most * length)?, count: 0, most, length })
    }

    /// Adds a vector, which is a unit vector orthogonal to the others.
    pub fn push<B: Backend<Buffer<f64> = Vectors>>(&mut self, backend: &B, vector: &Vectors) -> Result<()> {
        backend.place::<f64>(vector, &mut self.vectors, self.count * self.length)?;
        self.count += 1;
        Ok(())
    }

    /// Adds `count` vectors, one a row, which are orthonormal and orthogonal to the others.
    pub fn push_rows<B: Backend<Buffer<f64> = Vectors>>(
        &mut self,
        backend: &B,
        rows: &Vectors,
        count: usize,
    ) -> Result<()> {
        backend.place::<f64>(rows, &mut self.vectors, self.count * self.length)?;
        self.count += count;
        Ok(())
    }

    /// How many more vectors it has room for.
    pub fn room(&self) -> usize {
        self.most - self.count
    }

    /// Numbers of a vector.
    pub fn length(&self) -> usize {
        self.length
    }

    /// How many vectors it has.
    pub fn count(&self) -> usize {
        self.count
    }

    /// `count` vectors from the `first` on, one a row.
    pub fn slice<B: Backend<Buffer<f64> = Vectors>>(
        &self,
        backend: &B,
        first: usize,
        count: usize,
    ) -> Result<Vectors> {
        let all = backend.download::<f64>(&self.vectors)?;
        backend.upload(&all[first * self.length..(first + count) * self.length])
    }

    /// All its vectors, one behind the other.
    pub fn numbers<B: Backend<Buffer<f64> = Vectors>>(&self, backend: &B) -> Result<Vec<f64>> {
        let mut all = backend.download::<f64>(&self.vectors)?;
        all.truncate(self.count * self.length);
        Ok(all)
    }

    /// The inner products of its vectors with those of `other`, which has as many.
    pub fn against<B: Backend<Buffer<f64> = Vectors>>(&self, backend: &B, other: &Self) -> Result<Vectors> {
        let gemm = Gemm {
            batch: 1,
            m: self.count,
            n: other.count,
            k: self.length,
            transpose_a: false,
            transpose_b: true,
            alpha: 1.0,
            beta: 0.0,
        };
        let mut products = backend.room::<f64>(self.count * other.count)?;
        backend.gemm::<f64>(&gemm, &self.vectors, &other.vectors, &mut products)?;
        Ok(products)
    }

    /// Takes the span of the basis out of `vector`, twice: once leaves what rounding put in (Parlett: "twice is enough").
    pub fn remove_from<B: Backend<Buffer<f64> = Vectors>>(
        &self,
        backend: &B,
        vector: &mut Vectors,
    ) -> Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        let mut shares = backend.room::<f64>(self.count)?;
        for _ in 0..2 {
            backend.gemm::<f64>(&self.times(false, 1.0, 0.0), &self.vectors, vector, &mut shares)?;
            backend.gemm::<f64>(&self.times(true, -1.0, 1.0), &self.vectors, &shares, vector)?;
        }
        Ok(())
    }

    /// Takes the span of the basis out of `width` vectors that lie side by side, once, and returns their inner products with its
    /// vectors.
    pub fn remove_from_block<B: Backend<Buffer<f64> = Vectors>>(
        &self,
        backend: &B,
        width: usize,
        block: &mut Vectors,
    ) -> Result<Vectors> {
        let mut shares = backend.room::<f64>(self.count * width)?;
        backend.gemm::<f64>(&self.times_block(false, width, 1.0, 0.0), &self.vectors, block, &mut shares)?;
        backend.gemm::<f64>(&self.times_block(true, width, -1.0, 1.0), &self.vectors, &shares, block)?;
        Ok(shares)
    }

    /// The combinations of the vectors with `width` columns of factors, side by side.
    pub fn combine_block<B: Backend<Buffer<f64> = Vectors>>(
        &self,
        backend: &B,
        width: usize,
        factors: &Vectors,
    ) -> Result<Vectors> {
        let mut block = backend.room::<f64>(self.length * width)?;
        backend.gemm::<f64>(&self.times_block(true, width, 1.0, 0.0), &self.vectors, factors, &mut block)?;
        Ok(block)
    }

    /// The combination of the vectors with these factors.
    pub fn combine<B: Backend<Buffer<f64> = Vectors>>(
        &self,
        backend: &B,
        factors: &Vectors,
    ) -> Result<Vectors> {
        let mut vector = backend.room::<f64>(self.length)?;
        backend.gemm::<f64>(&self.times(true, 1.0, 0.0), &self.vectors, factors, &mut vector)?;
        Ok(vector)
    }

    fn times(&self, transposed: bool, alpha: f64, beta: f64) -> Gemm<f64> {
        self.times_block(transposed, 1, alpha, beta)
    }

    fn times_block(&self, transposed: bool, n: usize, alpha: f64, beta: f64) -> Gemm<f64> {
        let (m, k) = if transposed { (self.length, self.count) } else { (self.count, self.length) };
        Gemm { batch: 1, m, n, k, transpose_a: transposed, transpose_b: false, alpha, beta }
    }
}

fn normalise<B: Backend>(backend: &B, vector: &mut B::Buffer<f64>) -> Result<()> {
    let norm = backend.dot(vector, vector)?.sqrt();
    backend.scale(1.0 / norm, vector)
}
