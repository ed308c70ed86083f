//! `h′ = f(p + q)`: Elman's cell. `A = B = f′(p + q)`.

use super::{Stepped, function};
use crate::compute::{Backend, Real, Unary};
use crate::error::Result;
use crate::network::Array;
use crate::network::operation::Run;

pub(super) fn step<B: Backend, T: Real>(
    run: &Run<'_, B, T>,
    f: Unary,
    mut p: Array<B, T>,
    q: &Array<B, T>,
) -> Result<Stepped<B, T>> {
    p.add(run.backend, q)?;
    let (h, slope) = function(run, f, &p)?;
    let shape = h.shape[1..].to_vec();
    Ok((vec![h.reshaped(&shape)], vec![slope]))
}
