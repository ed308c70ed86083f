//! Scaled dot-product attention (Vaswani et al. 2017) of several heads, from queries, keys and values:
//! `S = a·Q·Kᵀ`, `S ← cap·tanh(S/cap)` where logits are capped, `P = softmax(S + M)` by rows, `Y = P·V`.
//!
//! With c the slope of the cap, or 1:
//!
//! ```text
//! J:   dS = c·a·(dQ·Kᵀ + Q·dKᵀ)    dP = P·(dS - Σ P·dS)    dY = dP·V + P·dV
//! Jᵀ:  dP = U·Vᵀ   dV = Pᵀ·U       dS = c·P·(dP - Σ P·dP)  dQ = a·dS·K   dK = a·dSᵀ·Q
//! ```
//!
//! Heads that share keys and values (GQA, MQA) are stacked as rows of one product, so nothing is repeated and the sum over
//! the group in `dK` and `dV` is that of the product.

use super::Described;
use crate::compute::{Backend, Binary, Gemm, Real, Spread, Unary};
use crate::error::Result;
use crate::network::Array;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};

/// From queries `[batch, tokens, heads·width]`, and keys and values `[batch, tokens, shared·width]`, to the shape of the
/// queries.
#[derive(Debug, Clone)]
pub struct Attention {
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values; their number divides that of the queries'.
    pub shared: usize,
    /// Numbers of a head.
    pub width: usize,
    /// What logits are multiplied by: `1/√width`, as a rule.
    pub scale: f64,
    /// The bound of the logits, where they are capped.
    pub cap: Option<f64>,
    /// Which keys a query sees.
    pub mask: Mask,
}

/// Which keys a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// All.
    None,
    /// Those of its own token and the ones before it.
    Causal,
    /// Of those, the last so many.
    Window(usize),
}

impl Mask {
    const fn hides(self, query: usize, key: usize) -> bool {
        match self {
            Self::None => false,
            Self::Causal => key > query,
            Self::Window(window) => key > query || query - key >= window,
        }
    }
}

/// Sizes of one pass.
#[derive(Clone, Copy)]
struct Sizes {
    queries: usize,
    keys: usize,
}

/// What forward keeps, heads before tokens.
struct Parts<'a, B: Backend, T: Real> {
    queries: &'a Array<B, T>,
    keys: &'a Array<B, T>,
    values: &'a Array<B, T>,
    probabilities: &'a Array<B, T>,
    slope: Option<&'a Array<B, T>>,
}

impl<'a, B: Backend, T: Real> Parts<'a, B, T> {
    fn of(kept: &'a Kept<B, T>) -> Self {
        let [queries, keys, values, probabilities, rest @ ..] = &kept.arrays[..] else {
            unreachable!("forward keeps four arrays")
        };
        Self { queries, keys, values, probabilities, slope: rest.first() }
    }
}

impl Attention {
    fn sizes<B: Backend, T: Real>(queries: &Array<B, T>, keys: &Array<B, T>) -> Sizes {
        Sizes { queries: queries.shape[1], keys: keys.shape[1] }
    }

    /// `[batch, tokens, shared·group·width]` to `[batch·shared, group·tokens, width]`.
    fn split<B: Backend, T: Real>(&self, backend: &B, x: &Array<B, T>) -> Result<Array<B, T>> {
        let [batch, tokens, width] = x.shape[..] else { unreachable!("shapes were checked") };
        let group = width / (self.shared * self.width);
        let mut y = Array::room(backend, &[batch * self.shared, group * tokens, self.width])?;
        let shape = [batch, tokens, self.shared, group, self.width];
        backend.permute(&shape, &[0, 2, 3, 1, 4], &x.buffer, &mut y.buffer)?;
        Ok(y)
    }

    /// The way back.
    fn join<B: Backend, T: Real>(
        &self,
        backend: &B,
        x: &Array<B, T>,
        shape: &[usize],
    ) -> Result<Array<B, T>> {
        let [batch, tokens, width] = shape[..] else { unreachable!("shapes were checked") };
        let group = width / (self.shared * self.width);
        let mut y = Array::room(backend, shape)?;
        let stacked = [batch, self.shared, group, tokens, self.width];
        backend.permute(&stacked, &[0, 3, 1, 2, 4], &x.buffer, &mut y.buffer)?;
        Ok(y)
    }

    /// `a·Q·Kᵀ`.
    fn logits<B: Backend, T: Real>(
        &self,
        backend: &B,
        queries: &Array<B, T>,
        keys: &Array<B, T>,
    ) -> Result<Array<B, T>> {
        multiplied(backend, queries, keys, (false, true), self.scale)
    }

    fn mask<B: Backend, T: Real>(&self, backend: &B, sizes: Sizes, logits: &mut Array<B, T>) -> Result<()> {
        if self.mask == Mask::None {
            return Ok(());
        }
        let hidden = (0..sizes.queries).flat_map(|query| {
            (0..sizes.keys).map(move |key| if self.mask.hides(query, key) { f64::NEG_INFINITY } else { 0.0 })
        });
        let mask = Array::upload(backend, &[sizes.queries, sizes.keys], &hidden.collect::<Vec<_>>())?;
        let all = Spread::columns(sizes.queries * sizes.keys);
        backend.broadcast(Binary::Add, all, &mask.buffer, &mut logits.buffer)
    }

    /// `c·(diag P - P·Pᵀ)·x` by rows.
    fn softmax_product<B: Backend, T: Real>(
        backend: &B,
        parts: &Parts<'_, B, T>,
        x: &Array<B, T>,
        slope_first: bool,
    ) -> Result<Array<B, T>> {
        let columns = x.columns();
        let sloped = |x: &Array<B, T>| match parts.slope {
            Some(slope) => {
                let mut y = Array::room(backend, &x.shape)?;
                backend.zip(Binary::Multiply, &slope.buffer, &x.buffer, &mut y.buffer)?;
                Ok(Some(y))
            }
            None => Ok(None),
        };
        let before = if slope_first { sloped(x)? } else { None };
        let mut y = Array::room(backend, &x.shape)?;
        let x = before.as_ref().unwrap_or(x);
        backend.softmax_product(columns, &parts.probabilities.buffer, &x.buffer, &mut y.buffer)?;
        let after = if slope_first { None } else { sloped(&y)? };
        Ok(after.unwrap_or(y))
    }
}

/// `factor·op(A)·op(B)` for each head, of shapes `[batch, rows, columns]`.
fn multiplied<B: Backend, T: Real>(
    backend: &B,
    a: &Array<B, T>,
    b: &Array<B, T>,
    (transpose_a, transpose_b): (bool, bool),
    factor: f64,
) -> Result<Array<B, T>> {
    let (m, k) = if transpose_a { (a.shape[2], a.shape[1]) } else { (a.shape[1], a.shape[2]) };
    let n = if transpose_b { b.shape[1] } else { b.shape[2] };
    let (batch, alpha, beta) = (a.shape[0], T::from_f64(factor), T::zero());
    let mut c = Array::room(backend, &[batch, m, n])?;
    let gemm = Gemm { batch, m, n, k, transpose_a, transpose_b, alpha, beta };
    backend.gemm(&gemm, &a.buffer, &b.buffer, &mut c.buffer)?;
    Ok(c)
}

/// The sum of what there is.
fn sum<B: Backend, T: Real>(
    backend: &B,
    a: Option<Array<B, T>>,
    b: Option<Array<B, T>>,
) -> Result<Option<Array<B, T>>> {
    match (a, b) {
        (Some(mut a), Some(b)) => {
            a.add(backend, &b)?;
            Ok(Some(a))
        }
        (a, b) => Ok(a.or(b)),
    }
}

impl Shaped for Attention {
    fn shape(&self, _: &[usize], inputs: &[&[usize]]) -> Described {
        let [queries, keys, values] = inputs else {
            return Err(format!("takes queries, keys and values, not {} inputs", inputs.len()));
        };
        let fits = self.shared > 0
            && self.heads.is_multiple_of(self.shared)
            && queries.len() == 3
            && keys.len() == 3
            && queries[2] == self.heads * self.width
            && keys[2] == self.shared * self.width
            && keys == values
            && keys[0] == queries[0]
            && (self.mask == Mask::None || keys[1] == queries[1]);
        if fits {
            Ok(queries.to_vec())
        } else {
            let heads = format!("{} and {} heads of {} numbers", self.heads, self.shared, self.width);
            Err(format!("takes {heads}, not shapes {inputs:?}"))
        }
    }

    fn operations(&self, inputs: &[&[usize]], output: &[usize]) -> u64 {
        4 * output.iter().product::<usize>() as u64 * inputs[1][1] as u64
    }
}

impl<B: Backend, T: Real> Operate<B, T> for Attention {
    fn forward(&self, run: &Run<'_, B, T>, inputs: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        let backend = run.backend;
        let sizes = Self::sizes(inputs[0], inputs[1]);
        let [queries, keys, values] = [0, 1, 2].map(|at| self.split(backend, inputs[at]));
        let (queries, keys, values) = (queries?, keys?, values?);
        let mut logits = self.logits(backend, &queries, &keys)?;
        let mut slope = None;
        if let Some(cap) = self.cap {
            let mut capped = Array::room(backend, &logits.shape)?;
            let mut derivative = Array::room(backend, &logits.shape)?;
            let function = Unary::SoftCap { cap };
            backend.map(function, &logits.buffer, &mut capped.buffer, Some(&mut derivative.buffer))?;
            logits = capped;
            slope = Some(derivative);
        }
        self.mask(backend, sizes, &mut logits)?;
        let mut probabilities = Array::room(backend, &logits.shape)?;
        backend.softmax(sizes.keys, false, &logits.buffer, &mut probabilities.buffer)?;
        let heads = multiplied(backend, &probabilities, &values, (false, false), 1.0)?;
        let y = self.join(backend, &heads, &inputs[0].shape)?;
        let kept = [queries, keys, values, probabilities].into_iter().chain(slope).collect();
        Ok((y, Kept::arrays(kept)))
    }

    fn jvp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        tangents: &[Option<&Array<B, T>>],
    ) -> Result<Array<B, T>> {
        let backend = run.backend;
        let parts = Parts::of(place.kept);
        let split = |at: usize| tangents[at].map(|x: &Array<B, T>| self.split(backend, x)).transpose();
        let [queries, keys, values] = [split(0)?, split(1)?, split(2)?];
        let by_queries = queries.map(|queries| self.logits(backend, &queries, parts.keys)).transpose()?;
        let by_keys = keys.map(|keys| self.logits(backend, parts.queries, &keys)).transpose()?;
        let moved = match sum(backend, by_queries, by_keys)? {
            Some(logits) => {
                let moved = Self::softmax_product(backend, &parts, &logits, true)?;
                Some(multiplied(backend, &moved, parts.values, (false, false), 1.0)?)
            }
            None => None,
        };
        let carried = values
            .map(|values| multiplied(backend, parts.probabilities, &values, (false, false), 1.0))
            .transpose()?;
        let heads = sum(backend, moved, carried)?.expect("one input at least has a tangent");
        self.join(backend, &heads, &place.output.shape)
    }

    fn vjp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Array<B, T>>>> {
        let backend = run.backend;
        let parts = Parts::of(place.kept);
        let heads = self.split(backend, cotangent)?;
        let mut found = [None, None, None];
        if wanted[2] {
            let values = multiplied(backend, parts.probabilities, &heads, (true, false), 1.0)?;
            found[2] = Some(self.join(backend, &values, &place.inputs[2].shape)?);
        }
        if wanted[0] || wanted[1] {
            let probabilities = multiplied(backend, &heads, parts.values, (false, true), 1.0)?;
            let logits = Self::softmax_product(backend, &parts, &probabilities, false)?;
            if wanted[0] {
                let queries = multiplied(backend, &logits, parts.keys, (false, false), self.scale)?;
                found[0] = Some(self.join(backend, &queries, &place.inputs[0].shape)?);
            }
            if wanted[1] {
                let keys = multiplied(backend, &logits, parts.queries, (true, false), self.scale)?;
                found[1] = Some(self.join(backend, &keys, &place.inputs[1].shape)?);
            }
        }
        Ok(found.into())
    }
}
