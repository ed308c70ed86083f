//! Examples of a file: `.npz` or safetensors with arrays for samples and labels, or IDX files.
//!
//! Arrays are called `x` and `y`, or `x_train`, `y_train`, `x_test` and `y_test` where the file has a test set of its own. The first
//! axis counts the examples.

use std::path::Path;
use std::sync::Arc;

use super::{Examples, idx};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::files::InputFile;
use crate::format::{Container, detect, torch};
use crate::tensor::{Kind, Tensor};

/// Numbers that are held at once. A set is trained on from memory.
const MOST_NUMBERS: u64 = 1 << 30;

/// Numbers that are read at once.
const READ: u64 = 1 << 20;

pub(super) fn read(path: &Path, context: &Context) -> Result<Examples> {
    if idx::is_one(path) {
        return idx::read(path);
    }
    let container = open(path, context)?;
    let has = |name: &str| container.entries.iter().any(|entry| entry.name == name);
    if !has("x_train") {
        let (features, shape) = samples(&container, "x", path)?;
        let labels = labels(&container, "y", path)?;
        return joined(path, &shape, features, labels, None);
    }
    let (mut features, shape) = samples(&container, "x_train", path)?;
    let mut all = labels(&container, "y_train", path)?;
    let (test, test_shape) = samples(&container, "x_test", path)?;
    let test_labels = labels(&container, "y_test", path)?;
    if shape[1..] != test_shape[1..] {
        let message =
            format!("samples of x_train are of shape {:?}, of x_test {:?}", &shape[1..], &test_shape[1..]);
        return Err(refused(path, message));
    }
    features.extend(test);
    all.extend(&test_labels);
    let shape = [&[shape[0] + test_shape[0]], &shape[1..]].concat();
    joined(path, &shape, features, all, Some(test_labels.len()))
}

/// The arrays of a file. What is not what its checksum says is not trained on.
fn open(path: &Path, context: &Context) -> Result<Container> {
    let input = Arc::new(InputFile::open(path, context)?);
    let container = detect::read_file(&input, context)?;
    if container.format.is_archive()
        && let Some(damage) = torch::verify_checksums(&input, context)?.into_iter().next()
    {
        return Err(damage);
    }
    Ok(container)
}

/// Samples and labels of one shape and number.
pub(super) fn joined(
    path: &Path,
    shape: &[usize],
    features: Vec<f32>,
    labels: Vec<u32>,
    test: Option<usize>,
) -> Result<Examples> {
    if shape[0] != labels.len() {
        return Err(refused(
            path,
            format!("{} samples and {} labels do not belong together", shape[0], labels.len()),
        ));
    }
    if features.is_empty() {
        return Err(refused(path, "there is no example in it".to_owned()));
    }
    Ok(Examples { shape: shape[1..].to_vec(), features, labels, test })
}

fn refused(path: &Path, message: String) -> Error {
    ErrorKind::TrainingData { message }.in_file(path)
}

fn tensor<'c>(container: &'c Container, name: &str, path: &Path) -> Result<&'c Tensor> {
    let entry = container.entries.iter().find(|entry| entry.name == name);
    let Some(entry) = entry else {
        let names: Vec<&str> = container.entries.iter().take(8).map(|entry| entry.name.as_str()).collect();
        let message = format!(
            "it has no array {name}; arrays are x and y, or x_train, y_train, x_test and y_test; there are {}",
            names.join(", ")
        );
        return Err(refused(path, message));
    };
    let tensor = entry.readable()?;
    if tensor.count() > MOST_NUMBERS || tensor.dtype.kind() == Kind::Opaque {
        return Err(refused(
            path,
            format!("{name} is {} numbers of {}, which are not trained on", tensor.count(), tensor.dtype),
        ));
    }
    Ok(tensor)
}

fn samples(container: &Container, name: &str, path: &Path) -> Result<(Vec<f32>, Vec<usize>)> {
    let tensor = tensor(container, name, path)?;
    if tensor.shape.is_empty() {
        return Err(refused(path, format!("{name} is one number; its first axis must count the samples")));
    }
    let mut features = Vec::with_capacity(tensor.count() as usize);
    for_each_number(tensor, |value| features.push(value as f32))?;
    Ok((features, tensor.shape.iter().map(|&size| size as usize).collect()))
}

#[expect(clippy::cast_sign_loss, reason = "what does not come back as it was is refused")]
fn labels(container: &Container, name: &str, path: &Path) -> Result<Vec<u32>> {
    let tensor = tensor(container, name, path)?;
    let mut labels = Vec::with_capacity(tensor.count() as usize);
    let mut wrong = None;
    for_each_number(tensor, |value| {
        let label = value as u32;
        if f64::from(label) != value {
            wrong.get_or_insert((labels.len(), value));
        }
        labels.push(label);
    })?;
    match wrong {
        Some((at, value)) => {
            Err(refused(path, format!("label {at} of {name} is {value}, not the number of a class")))
        }
        None => Ok(labels),
    }
}

fn for_each_number(tensor: &Tensor, mut take: impl FnMut(f64)) -> Result<()> {
    let mut values = Vec::new();
    for start in (0..tensor.count()).step_by(READ as usize) {
        tensor.read_f64(start..(start + READ).min(tensor.count()), &mut values)?;
        for &value in &values {
            take(value);
        }
    }
    Ok(())
}
