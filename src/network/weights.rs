//! The numbers of a network's parameters, some or all of them, and their gradients.

use super::{Array, Network, ParameterId};
use crate::compute::{Backend, Real};
use crate::error::Result;
use crate::tensor::Tensor;

/// The numbers of those parameters that are loaded.
pub struct Weights<B: Backend, T: Real> {
    arrays: Vec<Option<Array<B, T>>>,
}

impl<B: Backend, T: Real> Weights<B, T> {
    /// None of the network's parameters.
    pub fn none(network: &Network) -> Self {
        Self { arrays: network.parameters.iter().map(|_| None).collect() }
    }

    /// Loads those of `ids` that are not there, each from its tensor: `tensors` has one for every parameter of the network.
    pub fn load(
        &mut self,
        backend: &B,
        network: &Network,
        tensors: &[&Tensor],
        ids: &[ParameterId],
    ) -> Result<()> {
        for id in ids {
            if self.arrays[id.0].is_none() {
                let shape = network.parameters[id.0].shape.clone();
                assert_eq!(shape.iter().product::<usize>() as u64, tensors[id.0].count());
                self.arrays[id.0] = Some(Array { shape, buffer: backend.load(tensors[id.0])? });
            }
        }
        Ok(())
    }

    /// Gives a parameter these numbers.
    pub fn set(&mut self, id: ParameterId, array: Array<B, T>) {
        self.arrays[id.0] = Some(array);
    }

    /// Drops all but `ids`.
    pub fn keep_only(&mut self, ids: &[ParameterId]) {
        for (index, array) in self.arrays.iter_mut().enumerate() {
            if !ids.contains(&ParameterId(index)) {
                *array = None;
            }
        }
    }

    /// The numbers of a parameter.
    ///
    /// # Panics
    /// When it is not loaded.
    pub fn get(&self, id: ParameterId) -> &Array<B, T> {
        self.arrays[id.0]
            .as_ref()
            .expect("parameters are loaded before the nodes that need them are computed")
    }

    /// The same, to change them.
    pub fn get_mut(&mut self, id: ParameterId) -> Option<&mut Array<B, T>> {
        self.arrays[id.0].as_mut()
    }

    /// Whether a parameter is loaded.
    pub fn has(&self, id: ParameterId) -> bool {
        self.arrays[id.0].is_some()
    }
}

/// The gradient by each parameter that was met on the way; one that was not met has none.
pub struct Gradients<B: Backend, T: Real> {
    arrays: Vec<Option<Array<B, T>>>,
}

impl<B: Backend, T: Real> Gradients<B, T> {
    /// None yet.
    pub fn none(network: &Network) -> Self {
        Self { arrays: network.parameters.iter().map(|_| None).collect() }
    }

    /// The gradient by a parameter.
    pub fn get(&self, id: ParameterId) -> Option<&Array<B, T>> {
        self.arrays[id.0].as_ref()
    }

    /// All that were met, to change them, in the order of the parameters.
    pub fn met_mut(&mut self) -> impl Iterator<Item = (ParameterId, &mut Array<B, T>)> {
        let arrays = self.arrays.iter_mut().enumerate();
        arrays.filter_map(|(index, array)| Some((ParameterId(index), array.as_mut()?)))
    }

    /// The gradient by a parameter of this shape, to add to; zeros at first.
    pub fn of(&mut self, backend: &B, id: ParameterId, shape: &[usize]) -> Result<&mut Array<B, T>> {
        let place = &mut self.arrays[id.0];
        match place {
            Some(array) => Ok(array),
            None => Ok(place.insert(Array::zeros(backend, shape)?)),
        }
    }
}
