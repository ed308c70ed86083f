//! The product of two inputs of one shape, element by element: gates. `J·(a, b) = y·a + x·b`, `Jᵀ·u = (y·u, x·u)`.

use super::Described;
use crate::compute::{Backend, Binary, Real};
use crate::error::Result;
use crate::network::Array;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};

/// From two of one shape to that shape.
#[derive(Debug, Clone, Copy)]
pub struct Multiply;

impl Shaped for Multiply {
    fn shape(&self, _: &[usize], inputs: &[&[usize]]) -> Described {
        if inputs.len() != 2 {
            return Err(format!("takes two inputs, not {}", inputs.len()));
        }
        super::alike(inputs)
    }
}

impl<B: Backend, T: Real> Operate<B, T> for Multiply {
    fn forward(&self, run: &Run<'_, B, T>, inputs: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        Ok((product(run, inputs[0], inputs[1])?, Kept::nothing()))
    }

    fn jvp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        tangents: &[Option<&Array<B, T>>],
    ) -> Result<Array<B, T>> {
        let products = [(tangents[0], place.inputs[1]), (tangents[1], place.inputs[0])];
        let mut products = products.into_iter().filter_map(|(tangent, other)| Some((tangent?, other)));
        let (tangent, other) = products.next().expect("an input has a tangent");
        let mut sum = product(run, tangent, other)?;
        for (tangent, other) in products {
            sum.add(run.backend, &product(run, tangent, other)?)?;
        }
        Ok(sum)
    }

    fn vjp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Array<B, T>>>> {
        let others = place.inputs.iter().rev();
        let times = |other| product(run, cotangent, other);
        wanted.iter().zip(others).map(|(wanted, other)| wanted.then(|| times(other)).transpose()).collect()
    }
}

fn product<B: Backend, T: Real>(
    run: &Run<'_, B, T>,
    x: &Array<B, T>,
    y: &Array<B, T>,
) -> Result<Array<B, T>> {
    let mut z = Array::room(run.backend, &x.shape)?;
    run.backend.zip(Binary::Multiply, &x.buffer, &y.buffer, &mut z.buffer)?;
    Ok(z)
}
