//! A tensor and the pieces of files that hold its elements.

use std::ops::Range;
use std::sync::Arc;

use super::{DType, decode};
use crate::error::{Error, ErrorKind, Result};
use crate::files::InputFile;

/// A tensor in files, readable by logical (row-major) element index.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Element type, as stored.
    pub dtype: DType,
    /// Sizes, outermost first. Empty for a scalar.
    pub shape: Vec<u64>,
    /// The parts that hold the elements; together they cover every logical index exactly once.
    pub pieces: Vec<Piece>,
}

/// A tensor, or why it cannot be read. Ten thousand are held at once, and errors are large.
pub type Listed = std::result::Result<Tensor, Box<Error>>;

/// A box of elements of a tensor, and where they lie in one file.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The file that holds the bytes.
    pub file: Arc<InputFile>,
    /// The bytes of the file that this piece may touch.
    pub bytes: Range<u64>,
    /// The logical index of the piece's first element.
    pub logical_offset: u64,
    /// The box, outermost axis first. Empty for a single element.
    pub axes: Vec<Axis>,
}

/// One axis of a piece: how many, how far apart in the tensor, how far apart in the file (in elements).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Axis {
    /// Elements along the axis.
    pub size: u64,
    /// Distance in logical index between neighbours.
    pub logical_stride: u64,
    /// Distance in stored elements between neighbours; 0 for an expanded axis.
    pub storage_stride: u64,
}

/// The number of elements of `shape`, unless it does not fit in 63 bits.
pub fn element_count(shape: &[u64]) -> Option<u64> {
    if shape.contains(&0) {
        // Zero elements, but the other sizes must still be sizes.
        return shape.iter().all(|&size| i64::try_from(size).is_ok()).then_some(0);
    }
    shape
        .iter()
        .try_fold(1u64, |product, &size| product.checked_mul(size))
        .filter(|&product| i64::try_from(product).is_ok())
}

/// The product of `sizes`, some or all of a shape, or [`u64::MAX`] where it does not fit: beside a size of zero the others may
/// be anything.
pub fn saturating_count(sizes: &[u64]) -> u64 {
    sizes.iter().fold(1, |product: u64, &size| product.saturating_mul(size))
}

impl Tensor {
    /// A tensor whose elements lie one after the other in `bytes` of `file`.
    ///
    /// # Errors
    /// When shape, dtype and byte range disagree, or the range is not in the file.
    pub fn contiguous(
        dtype: DType,
        shape: Vec<u64>,
        file: Arc<InputFile>,
        bytes: Range<u64>,
    ) -> Result<Self> {
        let strides = row_major_strides(&shape);
        Self::seen_by(dtype, shape, (&strides, &strides), file, bytes)
    }

    /// A tensor whose element at index `i` lies `i · storage_strides` elements after the start of `bytes`.
    ///
    /// # Errors
    /// When the shape overflows or the view reaches outside `bytes`, or `bytes` outside the file, or when it shows more
    /// elements than it spans, other than by strides of 0.
    pub fn strided(
        dtype: DType,
        shape: Vec<u64>,
        storage_strides: &[u64],
        file: Arc<InputFile>,
        bytes: Range<u64>,
    ) -> Result<Self> {
        let row_major = row_major_strides(&shape);
        Self::seen_by(dtype, shape, (&row_major, storage_strides), file, bytes)
    }

    /// [`Tensor::strided`], with the strides that `shape` has in logical order and those in the file.
    fn seen_by(
        dtype: DType,
        shape: Vec<u64>,
        (row_major, storage_strides): (&[u64], &[u64]),
        file: Arc<InputFile>,
        bytes: Range<u64>,
    ) -> Result<Self> {
        let refuse = |kind: ErrorKind| Err(kind.at_byte(file.path(), bytes.start));
        let Some(count) = element_count(&shape) else {
            return refuse(ErrorKind::ShapeOverflow { shape });
        };
        if bytes.start > bytes.end || bytes.end > file.len() {
            return refuse(ErrorKind::PastEndOfFile { needed: bytes.end, available: file.len() });
        }
        let available = bytes.end - bytes.start;
        let last = if count == 0 || storage_strides == row_major {
            Some(count.saturating_sub(1))
        } else {
            last_element(&shape, storage_strides)
        };
        let Some(needed) = last.and_then(|last| bytes_spanned(dtype, count, last)) else {
            return refuse(ErrorKind::ShapeOverflow { shape });
        };
        if needed > available {
            return refuse(ErrorKind::SizeMismatch { expected: needed, actual: available });
        }
        if let Some(message) = overlap(&shape, storage_strides) {
            return refuse(ErrorKind::ViewOutOfStorage { message });
        }
        let axes = shape
            .iter()
            .zip(row_major)
            .zip(storage_strides)
            .map(|((&size, &logical_stride), &storage_stride)| Axis { size, logical_stride, storage_stride })
            .collect();
        let pieces =
            if count == 0 { Vec::new() } else { vec![Piece { file, bytes, logical_offset: 0, axes }] };
        Ok(Self { dtype, shape, pieces })
    }

    /// Number of elements.
    pub fn count(&self) -> u64 {
        element_count(&self.shape).expect("the shape was checked when the tensor was made")
    }

    /// Bytes of all elements in the stored dtype.
    pub fn byte_count(&self) -> u64 {
        (u128::from(self.count()) * u128::from(self.dtype.bits())).div_ceil(8).min(u128::from(u64::MAX))
            as u64
    }

    /// The file of the first piece.
    pub fn file(&self) -> Option<&Arc<InputFile>> {
        self.pieces.first().map(|piece| &piece.file)
    }

    /// The byte range and file of the whole tensor, where it is one contiguous piece.
    pub fn contiguous_bytes(&self) -> Option<(&Arc<InputFile>, Range<u64>)> {
        let [piece] = self.pieces.as_slice() else { return None };
        let contiguous =
            piece.axes.iter().all(|axis| axis.size == 1 || axis.storage_stride == axis.logical_stride);
        contiguous.then(|| (&piece.file, piece.bytes.start..piece.bytes.start + self.byte_count()))
    }

    /// The tensor without its expanded axes, and how many times each element stands for itself in the whole.
    ///
    /// `torch.Tensor.expand` stores one element for many: a view of 2^40 elements can stand on 4 bytes.
    pub fn without_repeats(&self) -> (Tensor, u64) {
        let [piece] = self.pieces.as_slice() else { return (self.clone(), 1) };
        let repeated = |axis: &Axis| axis.storage_stride == 0 && axis.size > 1;
        let repeats = piece.axes.iter().filter(|axis| repeated(axis)).map(|axis| axis.size).product();
        if repeats == 1 {
            return (self.clone(), 1);
        }
        let sizes =
            piece.axes.iter().map(|axis| if repeated(axis) { 1 } else { axis.size }).collect::<Vec<_>>();
        let strides = row_major_strides(&sizes);
        let axes = piece
            .axes
            .iter()
            .zip(&sizes)
            .zip(strides)
            .map(|((axis, &size), logical_stride)| Axis { size, logical_stride, ..*axis })
            .collect();
        let piece = Piece { file: piece.file.clone(), bytes: piece.bytes.clone(), logical_offset: 0, axes };
        (Tensor { dtype: self.dtype, shape: sizes, pieces: vec![piece] }, repeats)
    }

    /// The stored bytes of the elements `range`, in logical order, borrowed from the map where they lie together.
    ///
    /// Only for dtypes of whole bytes. The caller bounds `range`: at most that many elements are copied to `buffer`.
    pub fn bytes<'a>(&'a self, range: Range<u64>, buffer: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        let size = self.dtype.size().expect("sub-byte dtypes are listed, not read");
        debug_assert!(range.start <= range.end && range.end <= self.count());
        if let Some((file, bytes)) = self.contiguous_bytes() {
            return file.bytes(bytes.start + range.start * size..bytes.start + range.end * size, buffer);
        }
        buffer.clear();
        buffer.resize(((range.end - range.start) * size) as usize, 0);
        for piece in &self.pieces {
            piece.gather(&range, size, buffer)?;
        }
        Ok(buffer)
    }

    /// The elements `range` as f64, in logical order.
    pub fn read_f64(&self, range: Range<u64>, values: &mut Vec<f64>) -> Result<()> {
        let mut buffer = Vec::new();
        let bytes = self.bytes(range, &mut buffer)?;
        decode::to_f64(self.dtype, bytes, values);
        Ok(())
    }
}

impl Piece {
    /// Where in the file the element of the tensor at logical index `logical` begins, `size` bytes long; `None` where it is not
    /// of this piece.
    pub fn offset_of(&self, logical: u64, size: u64) -> Option<u64> {
        let mut rest = logical.checked_sub(self.logical_offset)?;
        let mut elements = 0;
        for axis in &self.axes {
            let index = rest.checked_div(axis.logical_stride).unwrap_or(0);
            if index >= axis.size {
                return None;
            }
            rest -= index * axis.logical_stride;
            elements += index * axis.storage_stride;
        }
        (rest == 0).then_some(self.bytes.start + elements * size)
    }

    /// Copies the elements of this piece whose logical index is in `range` to their places in `out`.
    fn gather(&self, range: &Range<u64>, size: u64, out: &mut [u8]) -> Result<()> {
        let Some((inner, outer)) = self.axes.split_last() else {
            if range.contains(&self.logical_offset) {
                let place = ((self.logical_offset - range.start) * size) as usize;
                self.file.read_exact_at(&mut out[place..place + size as usize], self.bytes.start)?;
            }
            return Ok(());
        };
        let mut run = Vec::new();
        let mut walk = Walk::new(outer);
        walk.skip_to(range.start, self.logical_offset);
        while let Some((logical, storage)) = walk.position() {
            let logical = self.logical_offset + logical;
            if logical >= range.end {
                // Logical index grows along the walk: nothing later can be in range.
                break;
            }
            self.gather_run(inner, logical, storage, range, size, &mut run, out)?;
            walk.advance();
        }
        Ok(())
    }

    /// One run along the innermost axis, starting at logical index `logical`, `storage` elements into the bytes.
    #[expect(clippy::too_many_arguments, reason = "the inner loop of gather, split out to be read alone")]
    fn gather_run(
        &self,
        inner: &Axis,
        logical: u64,
        storage: u64,
        range: &Range<u64>,
        size: u64,
        run: &mut Vec<u8>,
        out: &mut [u8],
    ) -> Result<()> {
        let stride = inner.logical_stride.max(1);
        let first = range.start.saturating_sub(logical).div_ceil(stride);
        let last = (range.end - logical).div_ceil(stride).min(inner.size);
        if first >= last {
            return Ok(());
        }
        let place = |index: u64| ((logical + index * stride - range.start) * size) as usize;
        let start = self.bytes.start + (storage + first * inner.storage_stride) * size;
        let element = size as usize;
        if inner.storage_stride == 1 && stride == 1 {
            let length = ((last - first) * size) as usize;
            return self.file.read_exact_at(&mut out[place(first)..place(first) + length], start);
        }
        let length = (last - first - 1) * inner.storage_stride * size + size;
        if length <= MAX_RUN_BYTES {
            let source = self.file.bytes(start..start + length, run)?;
            for index in first..last {
                let from = ((index - first) * inner.storage_stride * size) as usize;
                out[place(index)..place(index) + element].copy_from_slice(&source[from..from + element]);
            }
            return Ok(());
        }
        for index in first..last {
            let from = self.bytes.start + (storage + index * inner.storage_stride) * size;
            self.file.read_exact_at(&mut out[place(index)..place(index) + element], from)?;
        }
        Ok(())
    }
}

/// Longest span that is read at once to pick strided elements from it.
const MAX_RUN_BYTES: u64 = 1 << 20;

/// An odometer over the outer axes of a piece.
struct Walk<'a> {
    axes: &'a [Axis],
    index: Vec<u64>,
    done: bool,
}

impl<'a> Walk<'a> {
    fn new(axes: &'a [Axis]) -> Self {
        Self { axes, index: vec![0; axes.len()], done: false }
    }

    /// Moves to the last position at or before logical index `target`, so that earlier rows are not visited.
    fn skip_to(&mut self, target: u64, offset: u64) {
        let mut remaining = target.saturating_sub(offset);
        for (index, axis) in self.index.iter_mut().zip(self.axes) {
            let steps = remaining.checked_div(axis.logical_stride).unwrap_or(0);
            *index = steps.min(axis.size - 1);
            remaining -= *index * axis.logical_stride;
        }
    }

    /// Logical and storage offset of the current position.
    fn position(&self) -> Option<(u64, u64)> {
        if self.done {
            return None;
        }
        let sum = |stride: fn(&Axis) -> u64| {
            self.index.iter().zip(self.axes).map(|(i, axis)| i * stride(axis)).sum()
        };
        Some((sum(|axis| axis.logical_stride), sum(|axis| axis.storage_stride)))
    }

    fn advance(&mut self) {
        for (index, axis) in self.index.iter_mut().zip(self.axes).rev() {
            *index += 1;
            if *index < axis.size {
                return;
            }
            *index = 0;
        }
        self.done = true;
    }
}

/// Distances between neighbours along each axis of a row-major tensor.
fn row_major_strides(shape: &[u64]) -> Vec<u64> {
    let mut strides = vec![1u64; shape.len()];
    for axis in (0..shape.len().saturating_sub(1)).rev() {
        strides[axis] = strides[axis + 1].saturating_mul(shape[axis + 1].max(1));
    }
    strides
}

/// Bytes from the first to past the `last` of the elements that a view reaches.
fn bytes_spanned(dtype: DType, count: u64, last: u64) -> Option<u64> {
    if count == 0 {
        return Some(0);
    }
    let bits = u128::from(last + 1) * u128::from(dtype.bits());
    u64::try_from(bits.div_ceil(8)).ok()
}

/// How many elements after the first the last element of a view that shows any lies.
fn last_element(shape: &[u64], strides: &[u64]) -> Option<u64> {
    shape.iter().zip(strides).try_fold(0u64, |sum, (&size, &stride)| {
        (size - 1).checked_mul(stride).and_then(|reach| sum.checked_add(reach))
    })
}

/// How often a view may show a stored element: windows of `torch.Tensor.unfold` do, a few times each.
const MOST_OVERLAP: u64 = 64;

/// What is wrong with a view that shows stored elements many times, other than along an expanded axis.
///
/// `torch.Tensor.as_strided` with strides of 1 shows 2^40 elements of 16 KB, which would be read one by one. Expanded
/// axes, whose stride is 0, are not: see [`Tensor::without_repeats`].
fn overlap(shape: &[u64], strides: &[u64]) -> Option<String> {
    let distinct = shape.iter().zip(strides).filter(|(_, stride)| **stride != 0).map(|(&size, _)| size);
    let shown = distinct.fold(1, u64::saturating_mul);
    if shape.contains(&0) {
        return None;
    }
    let spanned = last_element(shape, strides)?.saturating_add(1);
    (shown / MOST_OVERLAP > spanned)
        .then(|| format!("the view shows {shown} elements of a storage of {spanned}: it overlaps itself"))
}
