//! Tensors of an oracle, and how far numbers are from them.

use std::path::Path;

use flashpoint::compute::Real;
use flashpoint::network::Input;
use safetensors::{Dtype, SafeTensors};

use super::ORACLE;

/// The tensors of an oracle in f64, by name.
pub struct Oracle {
    bytes: Vec<u8>,
}

impl Oracle {
    pub fn read(name: &str) -> Self {
        let path = Path::new(ORACLE).join(format!("{name}.safetensors"));
        Self { bytes: std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())) }
    }

    pub fn names(&self) -> Vec<String> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        file.names().into_iter().map(ToString::to_string).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        self.names().iter().any(|other| other == name)
    }

    pub fn get(&self, name: &str) -> (Vec<usize>, Vec<f64>) {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor(name).unwrap_or_else(|_| panic!("the oracle has no {name}"));
        let bytes = tensor.data();
        let values = match tensor.dtype() {
            Dtype::F64 => bytes.as_chunks().0.iter().map(|&word| f64::from_le_bytes(word)).collect(),
            Dtype::F32 => bytes.as_chunks().0.iter().map(|&word| f32::from_le_bytes(word).into()).collect(),
            other => panic!("{name} has dtype {other:?}"),
        };
        (tensor.shape().to_vec(), values)
    }

    pub fn values(&self, name: &str) -> Vec<f64> {
        self.get(name).1
    }

    pub fn tokens(&self, name: &str) -> Input {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor(name).unwrap();
        let ids = tensor.data().as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect();
        Input::Tokens { batch: tensor.shape()[0], ids }
    }
}

pub fn wide<T: Real>(values: Vec<T>) -> Vec<f64> {
    values.into_iter().map(Into::into).collect()
}

pub fn narrow<T: Real>(values: &[f64]) -> Vec<T> {
    values.iter().map(|&value| T::from_f64(value)).collect()
}

pub fn distance(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let difference: f64 = found.iter().zip(expected).map(|(x, y)| (x - y).powi(2)).sum();
    let whole: f64 = expected.iter().map(|y| y * y).sum();
    (difference / whole).sqrt()
}
