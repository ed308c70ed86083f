//! Rotary position embedding (Su et al. 2021), halves rotated against each other as in LLaMA: for token t and frequency θᵢ
//! `(xᵢ, xᵢ₊ᵣ) ↦ a·(xᵢ·cos tθᵢ - xᵢ₊ᵣ·sin tθᵢ, xᵢ₊ᵣ·cos tθᵢ + xᵢ·sin tθᵢ)` with r half of the rotated numbers of a head; the
//! rest of a head stays as it is (partial rotary).
//!
//! Linear: `J·x = C·x + S·swap(x)`, element by element, and `Jᵀ·u = C·u + swap(S·u)`, swap exchanging the halves.

use std::sync::Arc;

use super::{Described, only};
use crate::compute::{Backend, Binary, Real, Spread, Strip};
use crate::error::Result;
use crate::network::Array;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};

/// From and to `[batch, tokens, heads·width]`.
#[derive(Debug, Clone)]
pub struct Rotary {
    /// Heads of a token.
    pub heads: usize,
    /// Numbers of a head.
    pub width: usize,
    /// Radians from one token to the next, one for each rotated pair: at most half the width.
    pub frequencies: Arc<[f64]>,
    /// What rotated numbers are multiplied by: 1, but for some long-context scalings.
    pub factor: f64,
}

impl Rotary {
    /// The tables C and S for sequences of this length, `[tokens, heads, width]`.
    fn tables<B: Backend, T: Real>(&self, backend: &B, tokens: usize) -> Result<[Array<B, T>; 2]> {
        let (half, width) = (self.frequencies.len(), self.width);
        let (mut cosines, mut sines) = (Vec::new(), Vec::new());
        for token in 0..tokens {
            let angles = self.frequencies.iter().map(|frequency| (token as f64 * frequency).sin_cos());
            let (sin, cos): (Vec<f64>, Vec<f64>) = angles.unzip();
            let scaled = |values: &[f64], factor: f64| values.iter().map(|x| x * factor).collect::<Vec<_>>();
            let (cos, plus) = (scaled(&cos, self.factor), scaled(&sin, self.factor));
            let minus = scaled(&sin, -self.factor);
            let (ones, zeros) = (vec![1.0; width - 2 * half], vec![0.0; width - 2 * half]);
            for _ in 0..self.heads {
                cosines.extend([&cos, &cos, &ones].into_iter().flatten());
                sines.extend([&minus, &plus, &zeros].into_iter().flatten());
            }
        }
        let shape = [tokens, self.heads, width];
        Ok([Array::upload(backend, &shape, &cosines)?, Array::upload(backend, &shape, &sines)?])
    }

    /// The halves of every head exchanged; zeros where nothing is rotated.
    fn swap<B: Backend, T: Real>(&self, backend: &B, x: &Array<B, T>) -> Result<Array<B, T>> {
        let (half, width) = (self.frequencies.len(), self.width);
        let mut y = Array::zeros(backend, &x.shape)?;
        for (from, to) in [(0, half), (half, 0)] {
            let rows = x.length() / width;
            let strip = Strip { rows, columns: half, from_width: width, from, to_width: width, to };
            backend.copy_strip(&strip, &x.buffer, &mut y.buffer)?;
        }
        Ok(y)
    }

    fn rotate<B: Backend, T: Real>(
        &self,
        backend: &B,
        [cosines, sines]: [&Array<B, T>; 2],
        x: &Array<B, T>,
        back: bool,
    ) -> Result<Array<B, T>> {
        let table = Spread::columns(cosines.length());
        let times = |table_of: &Array<B, T>, x: &mut Array<B, T>| {
            backend.broadcast(Binary::Multiply, table, &table_of.buffer, &mut x.buffer)
        };
        let mut y = x.copy(backend)?;
        times(cosines, &mut y)?;
        let crossed = if back {
            let mut product = x.copy(backend)?;
            times(sines, &mut product)?;
            self.swap(backend, &product)?
        } else {
            let mut product = self.swap(backend, x)?;
            times(sines, &mut product)?;
            product
        };
        y.add(backend, &crossed)?;
        Ok(y)
    }
}

impl Shaped for Rotary {
    fn shape(&self, _: &[usize], inputs: &[&[usize]]) -> Described {
        let shape = only(inputs)?;
        match shape {
            [_, _, width]
                if *width == self.heads * self.width && 2 * self.frequencies.len() <= self.width =>
            {
                Ok(shape.to_vec())
            }
            _ => Err(format!("takes {} heads of {} numbers, not shape {shape:?}", self.heads, self.width)),
        }
    }

    fn operations(&self, _: &[&[usize]], output: &[usize]) -> u64 {
        3 * output.iter().product::<usize>() as u64
    }
}

impl<B: Backend, T: Real> Operate<B, T> for Rotary {
    fn forward(&self, run: &Run<'_, B, T>, inputs: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        let [cosines, sines] = self.tables(run.backend, inputs[0].shape[1])?;
        let y = self.rotate(run.backend, [&cosines, &sines], inputs[0], false)?;
        Ok((y, Kept::arrays(vec![cosines, sines])))
    }

    fn jvp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        tangents: &[Option<&Array<B, T>>],
    ) -> Result<Array<B, T>> {
        let [cosines, sines] = &place.kept.arrays[..] else { unreachable!("forward keeps two tables") };
        self.rotate(run.backend, [cosines, sines], tangents[0].expect("the one input has a tangent"), false)
    }

    fn vjp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        _: &[bool],
    ) -> Result<Vec<Option<Array<B, T>>>> {
        let [cosines, sines] = &place.kept.arrays[..] else { unreachable!("forward keeps two tables") };
        Ok(vec![Some(self.rotate(run.backend, [cosines, sines], cotangent, true)?)])
    }
}
