//! The cell of a GRU: `r, z = σ(p + q)`, `n = tanh(p_n + r∘q_n)`, `h′ = (1 - z)∘n + z∘h`.
//!
//! ```text
//! dh′ = α∘dp_n + α∘r∘dq_n + α∘q_n∘r′∘(dp_r + dq_r) + (h - n)∘z′∘(dp_z + dq_z) + z∘dh          α = (1 - z)∘n′
//! ```

use super::{Stepped, function, gate, stack, times};
use crate::compute::{Backend, Real, Unary};
use crate::error::Result;
use crate::network::Array;
use crate::network::operation::Run;

pub(super) fn step<B: Backend, T: Real>(
    run: &Run<'_, B, T>,
    p: &Array<B, T>,
    q: &Array<B, T>,
    h: &Array<B, T>,
) -> Result<Stepped<B, T>> {
    let sigmoid = |index: usize| {
        let mut sum = gate(run, p, index)?;
        sum.add(run.backend, &gate(run, q, index)?)?;
        function(run, Unary::Sigmoid, &sum)
    };
    let ((r, r_slope), (z, z_slope)) = (sigmoid(0)?, sigmoid(1)?);
    let q_n = gate(run, q, 2)?;
    let mut sum = gate(run, p, 2)?;
    sum.add(run.backend, &times(run, &r, &q_n)?)?;
    let (n, n_slope) = function(run, Unary::Tanh, &sum)?;

    let mut difference = h.copy(run.backend)?;
    run.backend.axpy(T::zero() - T::one(), &n.buffer, &mut difference.buffer)?;
    let mut next = times(run, &z, &difference)?;
    next.add(run.backend, &n)?;

    let by_z = times(run, &difference, &z_slope)?;
    let held = times(run, &z, &n_slope)?;
    let mut alpha = n_slope;
    run.backend.axpy(T::zero() - T::one(), &held.buffer, &mut alpha.buffer)?;
    let by_r = times(run, &times(run, &alpha, &q_n)?, &r_slope)?;
    let by_q = times(run, &alpha, &r)?;
    let input = stack(run, &[&by_r, &by_z, &alpha])?;
    let state = stack(run, &[&by_r, &by_z, &by_q])?;
    Ok((vec![next], vec![input, state, z]))
}
