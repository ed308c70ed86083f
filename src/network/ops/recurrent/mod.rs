//! Recurrences: the cells of Elman's network, LSTM and GRU, one step or a whole sequence.
//!
//! A cell has G gates (1, 4 or 3), each with one sum of the input, `p = W_ih·x + b_ih`, and one of the state,
//! `q = W_hh·h + b_hh`. Whatever a cell does with them, one step is linear in small changes:
//!
//! ```text
//! ds′ₖ = Σ_g Aₖg ∘ dp_g + Bₖg ∘ dq_g + Dₖ ∘ dsⱼ
//! ```
//!
//! for each part k of the state (h; LSTM: h and c), with j the part that is carried on (GRU: h; LSTM: c). The files of the
//! cells compute A, B and D together with the step; everything else is written once here, over all cells.
//!
//! Gates lie outermost, `[gates, batch, hidden]`, so that a sum over gates is one reduction.

mod cell;
mod gru;
mod layer;
mod lstm;
mod plain;

pub use cell::RecurrentCell;
pub use layer::RecurrentLayer;

use crate::compute::{Backend, Binary, Gemm, Real, Spread, Strip, Unary};
use crate::error::Result;
use crate::network::operation::Run;
use crate::network::{Array, Gradients, ParameterId};

/// What a cell computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CellKind {
    /// `h′ = tanh(p + q)` (Elman 1990).
    Tanh,
    /// `h′ = max(p + q, 0)`.
    Relu,
    /// Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000. Its state is h, then c.
    Lstm,
    /// Cho et al. 2014, the reset gate behind the product, as PyTorch and cuDNN have it.
    Gru,
}

impl CellKind {
    /// Gates of it, in PyTorch's order: LSTM i, f, g, o; GRU r, z, n.
    pub const fn gates(self) -> usize {
        match self {
            Self::Tanh | Self::Relu => 1,
            Self::Gru => 3,
            Self::Lstm => 4,
        }
    }

    /// Parts of its state, each as wide as h.
    pub const fn parts(self) -> usize {
        if matches!(self, Self::Lstm) { 2 } else { 1 }
    }

    /// Arrays that a step keeps for derivatives.
    const fn kept(self) -> usize {
        match self {
            Self::Tanh | Self::Relu => 1,
            Self::Gru => 3,
            Self::Lstm => 4,
        }
    }
}

/// The coefficients of one step.
struct Slopes<'a, B: Backend, T: Real> {
    /// A, one for each part of the state, `[gates, batch, hidden]`.
    input: Vec<&'a Array<B, T>>,
    /// B, likewise.
    state: Vec<&'a Array<B, T>>,
    /// D, one for each part of the state, `[batch, hidden]`; none where nothing is carried.
    carry: Vec<&'a Array<B, T>>,
}

impl<'a, B: Backend, T: Real> Slopes<'a, B, T> {
    /// Those that the step of a cell kept.
    fn of(kind: CellKind, kept: &'a [Array<B, T>]) -> Self {
        match (kind, kept) {
            (CellKind::Tanh | CellKind::Relu, [slope]) => {
                Self { input: vec![slope], state: vec![slope], carry: Vec::new() }
            }
            (CellKind::Gru, [input, state, carry]) => {
                Self { input: vec![input], state: vec![state], carry: vec![carry] }
            }
            (CellKind::Lstm, [h, c, carry_h, carry_c]) => {
                Self { input: vec![h, c], state: vec![h, c], carry: vec![carry_h, carry_c] }
            }
            _ => unreachable!("a step keeps as many arrays as its kind says"),
        }
    }
}

/// What `Jᵀ·u` of a step comes through: the sums of each gate, and what is carried.
struct Pulled<B: Backend, T: Real> {
    /// By p, `[batch, gates·hidden]`.
    input: Array<B, T>,
    /// By q, where it is not the same.
    state: Option<Array<B, T>>,
    /// By the part of the state that is carried.
    carry: Option<Array<B, T>>,
}

impl<B: Backend, T: Real> Pulled<B, T> {
    fn state(&self) -> &Array<B, T> {
        self.state.as_ref().unwrap_or(&self.input)
    }
}

impl RecurrentCell {
    /// Numbers of the state.
    pub const fn state(&self) -> usize {
        self.kind.parts() * self.hidden
    }

    /// The part of the state that is carried on.
    const fn carried(&self) -> usize {
        self.kind.parts() - 1
    }

    /// The next state, and what derivatives need.
    fn advance<B: Backend, T: Real>(
        &self,
        run: &Run<'_, B, T>,
        x: &Array<B, T>,
        state: &Array<B, T>,
    ) -> Result<Advanced<B, T>> {
        let p = self.gates(run, x, self.input_weight, self.input_bias)?;
        let h = self.part(run, state, 0)?;
        let q = self.gates(run, &h, self.state_weight, self.state_bias)?;
        let (parts, kept) = match self.kind {
            CellKind::Tanh => plain::step(run, Unary::Tanh, p, &q)?,
            CellKind::Relu => plain::step(run, Unary::Relu, p, &q)?,
            CellKind::Gru => gru::step(run, &p, &q, &h)?,
            CellKind::Lstm => lstm::step(run, p, &q, &self.part(run, state, 1)?)?,
        };
        Ok((self.join(run, &parts)?, kept))
    }

    /// `J·(x, state)` of a step, for what has a tangent.
    fn push<B: Backend, T: Real>(
        &self,
        run: &Run<'_, B, T>,
        kept: &[Array<B, T>],
        x: Option<&Array<B, T>>,
        state: Option<&Array<B, T>>,
    ) -> Result<Array<B, T>> {
        let slopes = Slopes::of(self.kind, kept);
        let p = x.map(|x| self.gates(run, x, self.input_weight, None)).transpose()?;
        let q = match state {
            Some(state) => Some(self.gates(run, &self.part(run, state, 0)?, self.state_weight, None)?),
            None => None,
        };
        let carried = state.map(|state| self.part(run, state, self.carried())).transpose()?;
        let mut parts = Vec::new();
        for part in 0..self.kind.parts() {
            let mut part_tangent = None;
            for (tangent, slopes) in [(&p, &slopes.input), (&q, &slopes.state)] {
                if let Some(tangent) = tangent {
                    accumulate(run, &mut part_tangent, times(run, slopes[part], tangent)?)?;
                }
            }
            let by_gate = part_tangent.expect("the input or the state has a tangent");
            let mut sum = Array::zeros(run.backend, &by_gate.shape[1..])?;
            run.backend.reduce(Spread::columns(sum.length()), &by_gate.buffer, &mut sum.buffer)?;
            if let (Some(carried), Some(slope)) = (&carried, slopes.carry.get(part)) {
                sum.add(run.backend, &times(run, slope, carried)?)?;
            }
            parts.push(sum);
        }
        self.join(run, &parts)
    }

    /// What u of the next state is by the sums of the gates.
    fn pull<B: Backend, T: Real>(
        &self,
        run: &Run<'_, B, T>,
        kept: &[Array<B, T>],
        u: &Array<B, T>,
    ) -> Result<Pulled<B, T>> {
        let slopes = Slopes::of(self.kind, kept);
        let (mut input, mut state, mut carry) = (None, None, None);
        for part in 0..self.kind.parts() {
            let u = self.part(run, u, part)?;
            accumulate(run, &mut input, spread(run, slopes.input[part], &u)?)?;
            if matches!(self.kind, CellKind::Gru) {
                accumulate(run, &mut state, spread(run, slopes.state[part], &u)?)?;
            }
            if let Some(slope) = slopes.carry.get(part) {
                accumulate(run, &mut carry, times(run, slope, &u)?)?;
            }
        }
        let input = self.by_batch(run, input.expect("a state has a part"))?;
        let state = state.map(|state| self.by_batch(run, state)).transpose()?;
        Ok(Pulled { input, state, carry })
    }

    /// `Jᵀ·u` by the input.
    fn input_cotangent<B: Backend, T: Real>(
        &self,
        run: &Run<'_, B, T>,
        pulled: &Pulled<B, T>,
    ) -> Result<Array<B, T>> {
        back(run, &pulled.input, self.input_weight, self.inputs)
    }

    /// `Jᵀ·u` by the state.
    fn state_cotangent<B: Backend, T: Real>(
        &self,
        run: &Run<'_, B, T>,
        pulled: Pulled<B, T>,
    ) -> Result<Array<B, T>> {
        let mut h = back(run, pulled.state(), self.state_weight, self.hidden)?;
        match (self.kind, pulled.carry) {
            (CellKind::Lstm, Some(c)) => self.join(run, &[h, c]),
            (_, Some(carry)) => {
                h.add(run.backend, &carry)?;
                Ok(h)
            }
            (_, None) => Ok(h),
        }
    }

    /// Adds the gradients of the cell's parameters.
    fn gradient<B: Backend, T: Real>(
        &self,
        run: &Run<'_, B, T>,
        pulled: &Pulled<B, T>,
        (x, state): (&Array<B, T>, &Array<B, T>),
        gradients: &mut Gradients<B, T>,
    ) -> Result<()> {
        let h = self.part(run, state, 0)?;
        let sides = [
            (&pulled.input, x, self.input_weight, self.input_bias),
            (pulled.state(), &h, self.state_weight, self.state_bias),
        ];
        for (u, from, weight, bias) in sides {
            let gemm = gemm(u.columns(), from.columns(), u.rows());
            let gemm = Gemm { transpose_a: true, beta: T::one(), ..gemm };
            let gradient = gradients.of(run.backend, weight, &[u.columns(), from.columns()])?;
            run.backend.gemm(&gemm, &u.buffer, &from.buffer, &mut gradient.buffer)?;
            if let Some(bias) = bias {
                let gradient = gradients.of(run.backend, bias, &[u.columns()])?;
                run.backend.reduce(Spread::columns(u.columns()), &u.buffer, &mut gradient.buffer)?;
            }
        }
        Ok(())
    }

    /// `W·x + b` of all gates, the gates outermost.
    fn gates<B: Backend, T: Real>(
        &self,
        run: &Run<'_, B, T>,
        x: &Array<B, T>,
        weight: ParameterId,
        bias: Option<ParameterId>,
    ) -> Result<Array<B, T>> {
        let (batch, columns) = (x.rows(), self.kind.gates() * self.hidden);
        let mut y = Array::zeros(run.backend, &[batch, self.kind.gates(), self.hidden])?;
        let gemm = Gemm { transpose_b: true, ..gemm(batch, columns, x.columns()) };
        run.backend.gemm(&gemm, &x.buffer, &run.weights.get(weight).buffer, &mut y.buffer)?;
        if let Some(bias) = bias {
            let bias = &run.weights.get(bias).buffer;
            run.backend.broadcast(Binary::Add, Spread::columns(columns), bias, &mut y.buffer)?;
        }
        if batch == 1 {
            return Ok(y.reshaped(&[self.kind.gates(), 1, self.hidden]));
        }
        y.permuted(run.backend, &[1, 0, 2])
    }

    /// The sums of the gates with the batch outermost, one row for each of it.
    fn by_batch<B: Backend, T: Real>(&self, run: &Run<'_, B, T>, sums: Array<B, T>) -> Result<Array<B, T>> {
        let batch = sums.shape[1];
        let sums = if batch == 1 { sums } else { sums.permuted(run.backend, &[1, 0, 2])? };
        Ok(sums.reshaped(&[batch, self.kind.gates() * self.hidden]))
    }

    /// One part of states, `[batch, hidden]`.
    fn part<B: Backend, T: Real>(
        &self,
        run: &Run<'_, B, T>,
        state: &Array<B, T>,
        part: usize,
    ) -> Result<Array<B, T>> {
        let mut y = Array::zeros(run.backend, &[state.rows(), self.hidden])?;
        let strip = super::backwards(&self.strip(state.rows(), part));
        run.backend.copy_strip(&strip, &state.buffer, &mut y.buffer)?;
        Ok(y)
    }

    /// States of their parts.
    fn join<B: Backend, T: Real>(&self, run: &Run<'_, B, T>, parts: &[Array<B, T>]) -> Result<Array<B, T>> {
        let mut state = Array::zeros(run.backend, &[parts[0].rows(), self.state()])?;
        for (index, part) in parts.iter().enumerate() {
            run.backend.copy_strip(&self.strip(part.rows(), index), &part.buffer, &mut state.buffer)?;
        }
        Ok(state)
    }

    /// Where a part lies in states.
    const fn strip(&self, batch: usize, part: usize) -> Strip {
        Strip {
            rows: batch,
            columns: self.hidden,
            from_width: self.hidden,
            from: 0,
            to_width: self.state(),
            to: part * self.hidden,
        }
    }
}

fn gemm<T: Real>(m: usize, n: usize, k: usize) -> Gemm<T> {
    let (alpha, beta) = (T::one(), T::zero());
    Gemm { batch: 1, m, n, k, transpose_a: false, transpose_b: false, alpha, beta }
}

/// `u·W` for each row u.
fn back<B: Backend, T: Real>(
    run: &Run<'_, B, T>,
    u: &Array<B, T>,
    weight: ParameterId,
    columns: usize,
) -> Result<Array<B, T>> {
    let mut x = Array::zeros(run.backend, &[u.rows(), columns])?;
    let gemm = gemm(u.rows(), columns, u.columns());
    run.backend.gemm(&gemm, &u.buffer, &run.weights.get(weight).buffer, &mut x.buffer)?;
    Ok(x)
}

/// `x ∘ y`.
fn times<B: Backend, T: Real>(run: &Run<'_, B, T>, x: &Array<B, T>, y: &Array<B, T>) -> Result<Array<B, T>> {
    let mut z = Array::zeros(run.backend, &x.shape)?;
    run.backend.zip(Binary::Multiply, &x.buffer, &y.buffer, &mut z.buffer)?;
    Ok(z)
}

/// `slopes ∘ u` for every gate.
fn spread<B: Backend, T: Real>(
    run: &Run<'_, B, T>,
    slopes: &Array<B, T>,
    u: &Array<B, T>,
) -> Result<Array<B, T>> {
    let mut y = slopes.copy(run.backend)?;
    run.backend.broadcast(Binary::Multiply, Spread::columns(u.length()), &u.buffer, &mut y.buffer)?;
    Ok(y)
}

fn accumulate<B: Backend, T: Real>(
    run: &Run<'_, B, T>,
    sum: &mut Option<Array<B, T>>,
    term: Array<B, T>,
) -> Result<()> {
    if let Some(sum) = sum {
        return sum.add(run.backend, &term);
    }
    *sum = Some(term);
    Ok(())
}

/// A function of x and its derivative.
fn function<B: Backend, T: Real>(
    run: &Run<'_, B, T>,
    function: Unary,
    x: &Array<B, T>,
) -> Result<(Array<B, T>, Array<B, T>)> {
    let (mut y, mut slope) = (Array::zeros(run.backend, &x.shape)?, Array::zeros(run.backend, &x.shape)?);
    run.backend.map(function, &x.buffer, &mut y.buffer, Some(&mut slope.buffer))?;
    Ok((y, slope))
}

/// One gate of `[gates, batch, hidden]`.
fn gate<B: Backend, T: Real>(run: &Run<'_, B, T>, gates: &Array<B, T>, index: usize) -> Result<Array<B, T>> {
    let mut y = Array::zeros(run.backend, &gates.shape[1..])?;
    let columns = y.length();
    let strip = Strip {
        rows: 1,
        columns,
        from_width: gates.length(),
        from: index * columns,
        to_width: columns,
        to: 0,
    };
    run.backend.copy_strip(&strip, &gates.buffer, &mut y.buffer)?;
    Ok(y)
}

/// Gates behind each other.
fn stack<B: Backend, T: Real>(run: &Run<'_, B, T>, gates: &[&Array<B, T>]) -> Result<Array<B, T>> {
    let length = gates[0].length();
    let mut y = Array::zeros(run.backend, &[&[gates.len()], gates[0].shape.as_slice()].concat())?;
    for (index, gate) in gates.iter().enumerate() {
        run.backend.place(&gate.buffer, &mut y.buffer, index * length)?;
    }
    Ok(y)
}

/// The next state, and what derivatives need.
type Advanced<B, T> = (Array<B, T>, Vec<Array<B, T>>);

/// The parts of the next state, and what derivatives need.
type Stepped<B, T> = (Vec<Array<B, T>>, Vec<Array<B, T>>);
