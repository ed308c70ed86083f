//! IDX files, as MNIST is kept in: `train-images-idx3-ubyte` beside `train-labels-idx1-ubyte`, and `t10k-…` for the test.
//!
//! Two zero bytes, the type (8: a byte without sign), the number of axes, their sizes in four bytes each, highest first, and the
//! elements.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::{Examples, files::joined};
use crate::error::{Error, ErrorKind, Result};

/// What files begin with that gzip compressed, as MNIST's are published.
const GZIP: [u8; 2] = [0x1f, 0x8b];

const BYTE: u8 = 8;
const MOST_BYTES: usize = 1 << 30;
const IMAGES: &str = "images-idx";

/// A file of images in this format, or a directory of such files.
pub(super) fn is_one(path: &Path) -> bool {
    let is_file = path.file_name().is_some_and(|name| name.to_string_lossy().contains(IMAGES));
    is_file || (path.is_dir() && path.join("train-images-idx3-ubyte").is_file())
}

pub(super) fn read(path: &Path) -> Result<Examples> {
    if !path.is_dir() {
        let (shape, features, labels) = pair(path)?;
        return joined(path, &shape, features, labels, None);
    }
    let (mut shape, mut features, mut labels) = pair(&path.join("train-images-idx3-ubyte"))?;
    let test = path.join("t10k-images-idx3-ubyte");
    if !test.is_file() {
        return joined(path, &shape, features, labels, None);
    }
    let (test_shape, test_features, test_labels) = pair(&test)?;
    if shape[1..] != test_shape[1..] {
        return Err(refused(&test, "its images are of another size than those for training".to_owned()));
    }
    shape[0] += test_shape[0];
    features.extend(test_features);
    labels.extend(&test_labels);
    joined(path, &shape, features, labels, Some(test_labels.len()))
}

type Pair = (Vec<usize>, Vec<f32>, Vec<u32>);

fn pair(images: &Path) -> Result<Pair> {
    let (mut shape, pixels) = array(images)?;
    let (label_shape, labels) = array(&labels_of(images))?;
    if label_shape.len() != 1 || shape.len() < 2 {
        return Err(refused(images, "images have at least two axes and labels one".to_owned()));
    }
    // A channel, as images of one colour have.
    shape.insert(1, 1);
    if shape[0] != label_shape[0] {
        return Err(refused(
            images,
            format!("{} images and {} labels do not belong together", shape[0], label_shape[0]),
        ));
    }
    let features = pixels.iter().map(|&pixel| f32::from(pixel) / f32::from(u8::MAX)).collect();
    Ok((shape, features, labels.iter().map(|&label| u32::from(label)).collect()))
}

fn labels_of(images: &Path) -> PathBuf {
    let name = images.file_name().unwrap_or_default().to_string_lossy();
    let rest = name.split_once(IMAGES).map_or("", |(start, _)| start);
    images.with_file_name(format!("{rest}labels-idx1-ubyte"))
}

fn array(path: &Path) -> Result<(Vec<usize>, Vec<u8>)> {
    let mut file = std::fs::File::open(path).map_err(|error| Error::io(path, "open it", &error))?;
    let mut bytes = Vec::new();
    let most = (MOST_BYTES + 1) as u64;
    file.by_ref().take(most).read_to_end(&mut bytes).map_err(|error| Error::io(path, "read it", &error))?;
    if bytes.starts_with(&GZIP) {
        return Err(refused(path, "it is compressed by gzip: gunzip it first".to_owned()));
    }
    let [0, 0, BYTE, axes, rest @ ..] = bytes.as_slice() else {
        return Err(refused(path, "it does not begin as an IDX file of bytes does".to_owned()));
    };
    let (header, elements) = rest.split_at_checked(4 * usize::from(*axes)).unwrap_or((&[], &[]));
    let sizes = header.as_chunks::<4>().0.iter().map(|size| u32::from_be_bytes(*size) as usize);
    let shape: Vec<usize> = sizes.collect();
    let count = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
    if shape.len() != usize::from(*axes) || shape.is_empty() || count != Some(elements.len()) {
        return Err(refused(
            path,
            format!("sizes {shape:?} do not fit the {} bytes behind them", elements.len()),
        ));
    }
    Ok((shape, elements.to_vec()))
}

fn refused(path: &Path, message: String) -> Error {
    ErrorKind::TrainingData { message }.in_file(path)
}
