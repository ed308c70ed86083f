//! The cell of an LSTM: `i, f, o = σ(p + q)`, `g = tanh(p + q)`, `c′ = f∘c + i∘g`, `h′ = o∘tanh c′`.
//!
//! ```text
//! dc′ = g∘i′∘da_i + c∘f′∘da_f + i∘g′∘da_g + f∘dc          a = p + q
//! dh′ = tanh c′∘o′∘da_o + s∘dc′                            s = o∘(1 - tanh² c′)
//! ```

use super::{Stepped, function, gate, stack, times};
use crate::compute::{Backend, Real, Unary};
use crate::error::Result;
use crate::network::Array;
use crate::network::operation::Run;

pub(super) fn step<B: Backend, T: Real>(
    run: &Run<'_, B, T>,
    mut p: Array<B, T>,
    q: &Array<B, T>,
    c: &Array<B, T>,
) -> Result<Stepped<B, T>> {
    p.add(run.backend, q)?;
    let (i, i_slope) = function(run, Unary::Sigmoid, &gate(run, &p, 0)?)?;
    let (f, f_slope) = function(run, Unary::Sigmoid, &gate(run, &p, 1)?)?;
    let (g, g_slope) = function(run, Unary::Tanh, &gate(run, &p, 2)?)?;
    let (o, o_slope) = function(run, Unary::Sigmoid, &gate(run, &p, 3)?)?;
    let mut next = times(run, &f, c)?;
    next.add(run.backend, &times(run, &i, &g)?)?;
    let (tanh, tanh_slope) = function(run, Unary::Tanh, &next)?;
    let h = times(run, &o, &tanh)?;

    let by_c = [times(run, &g, &i_slope)?, times(run, c, &f_slope)?, times(run, &i, &g_slope)?];
    let s = times(run, &o, &tanh_slope)?;
    let [by_i, by_f, by_g] = &by_c;
    let by_h = [times(run, &s, by_i)?, times(run, &s, by_f)?, times(run, &s, by_g)?];
    let by_o = times(run, &tanh, &o_slope)?;
    let none = Array::zeros(run.backend, &by_o.shape)?;
    let slopes_h = stack(run, &[&by_h[0], &by_h[1], &by_h[2], &by_o])?;
    let slopes_c = stack(run, &[by_i, by_f, by_g, &none])?;
    let carry_h = times(run, &s, &f)?;
    Ok((vec![h, next], vec![slopes_h, slopes_c, carry_h, f]))
}
