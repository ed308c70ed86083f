//! The elements of one tensor, changed block by block.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use super::super::edit::{Operation, ScaledRange};
use super::write_at;
use crate::checkpoint::CheckpointTensor;
use crate::context::Context;
use crate::error::{ErrorKind, Result};
use crate::tensor::{DType, Tensor, encode};

/// Elements in hand at once.
const BLOCK: u64 = 1 << 18;

/// What is to be done to the elements of one tensor.
pub(super) struct Job<'a> {
    name: &'a str,
    tensor: &'a Tensor,
    operations: &'a [&'a Operation],
    copies: &'a [&'a Tensor],
    /// The dtype of what is written.
    pub dtype: DType,
}

impl<'a> Job<'a> {
    /// # Errors
    /// When numbers are not written in the dtype.
    pub fn new(
        name: &'a str,
        tensor: &'a Tensor,
        operations: &'a [&'a Operation],
        copies: &'a [&'a Tensor],
    ) -> Result<Self> {
        let cast = operations.iter().rev().find_map(|operation| match operation {
            Operation::Cast { to } => Some(*to),
            _ => None,
        });
        let job = Self { name, tensor, operations, copies, dtype: cast.unwrap_or(tensor.dtype) };
        if !job.is_copy() && !job.is_zero() && !encode::is_written(job.dtype) {
            return Err(job.refuse(format!("numbers are not written in {}", job.dtype)));
        }
        Ok(job)
    }

    fn refuse(&self, message: String) -> crate::error::Error {
        let path = self.tensor.file().map_or_else(|| Path::new("").to_owned(), |file| file.path().to_owned());
        ErrorKind::NotEditable { message }.in_file(&path).for_tensor(self.name)
    }

    /// Nothing is done to it.
    fn is_copy(&self) -> bool {
        self.operations.is_empty()
    }

    /// Its elements become zero, whatever they are.
    fn is_zero(&self) -> bool {
        matches!(self.operations.last(), Some(Operation::Zero)) && self.dtype.size().is_some()
    }

    /// Gives `each` the new bytes of the elements, block by block in order. False when the user asked to stop.
    pub fn blocks(
        &self,
        context: &Context,
        mut each: impl FnMut(Range<u64>, &[u8]) -> Result<()>,
    ) -> Result<bool> {
        let Some(size) = self.dtype.size() else { return self.packed(context, each) };
        let (mut values, mut bytes, mut buffer) = (Vec::new(), Vec::new(), Vec::new());
        let mut start = 0;
        while start < self.tensor.count() {
            if context.cancelled() {
                return Ok(false);
            }
            let range = start..(start + BLOCK).min(self.tensor.count());
            start = range.end;
            if self.is_copy() {
                each(range.clone(), self.tensor.bytes(range, &mut buffer)?)?;
            } else if self.is_zero() {
                bytes.clear();
                bytes.resize(((range.end - range.start) * size) as usize, 0);
                each(range, &bytes)?;
            } else {
                self.tensor.read_f64(range.clone(), &mut values)?;
                self.change(&range, &mut values)?;
                encode::from_f64(self.dtype, &values, &mut bytes);
                each(range, &bytes)?;
            }
        }
        Ok(true)
    }

    /// Elements of less than a byte can only be copied, where they lie together.
    fn packed(
        &self,
        context: &Context,
        mut each: impl FnMut(Range<u64>, &[u8]) -> Result<()>,
    ) -> Result<bool> {
        let Some((file, bytes)) = self.tensor.contiguous_bytes().filter(|_| self.is_copy()) else {
            return match self.tensor.count() {
                0 => Ok(true),
                _ => Err(self.refuse("its elements are packed into bytes".to_owned())),
            };
        };
        let mut buffer = Vec::new();
        let mut start = bytes.start;
        while start < bytes.end {
            if context.cancelled() {
                return Ok(false);
            }
            let end = bytes.end.min(start + BLOCK);
            each(start..end, file.bytes(start..end, &mut buffer)?)?;
            start = end;
        }
        Ok(true)
    }

    fn change(&self, range: &Range<u64>, values: &mut [f64]) -> Result<()> {
        for operation in self.operations {
            match operation {
                Operation::Zero => values.fill(0.0),
                Operation::Scale { factor, .. } => values.iter_mut().for_each(|value| *value *= factor),
                Operation::ScaleRanges { axis, ranges } => self.scale(range, *axis, ranges, values),
                Operation::Average { .. } => self.average(range, values)?,
                Operation::Cast { .. } => {}
            }
        }
        Ok(())
    }

    fn scale(&self, range: &Range<u64>, axis: usize, ranges: &[ScaledRange], values: &mut [f64]) {
        let size = self.tensor.shape.get(axis).copied().unwrap_or(1).max(1);
        let stride = self.tensor.shape.iter().skip(axis + 1).product::<u64>().max(1);
        for (at, value) in (range.start..range.end).zip(values) {
            let index = at / stride % size;
            if let Some(own) = ranges.iter().find(|own| (own.from..own.to).contains(&index)) {
                *value *= own.factor;
            }
        }
    }

    /// The mean over the copies, summed in their order.
    fn average(&self, range: &Range<u64>, values: &mut [f64]) -> Result<()> {
        let mut other = Vec::new();
        for copy in self.copies {
            copy.read_f64(range.clone(), &mut other)?;
            values.iter_mut().zip(&other).for_each(|(value, other)| *value += other);
        }
        let copies = (self.copies.len() + 1) as f64;
        for value in values {
            *value /= copies;
        }
        Ok(())
    }

    /// Writes the new elements where the old ones lie. False when the user asked to stop.
    pub fn write_in_place(&self, file: &File, target: &Path, context: &Context) -> Result<bool> {
        let Some(size) = self.dtype.size() else {
            return Err(self.refuse("its elements are packed into bytes".to_owned()));
        };
        if let Some((_, bytes)) = self.tensor.contiguous_bytes() {
            return self.blocks(context, |range, block| {
                write_at(file, target, block, bytes.start + range.start * size)
            });
        }
        if self.tensor.without_repeats().1 > 1 {
            return Err(self.refuse("one stored element stands for several of it".to_owned()));
        }
        self.blocks(context, |range, block| {
            for (logical, element) in (range.start..range.end).zip(block.chunks_exact(size as usize)) {
                let places = self.tensor.pieces.iter().filter_map(|piece| piece.offset_of(logical, size));
                for place in places {
                    write_at(file, target, element, place)?;
                }
            }
            Ok(())
        })
    }
}

/// Every byte of the elements of `tensor`, in logical order. False when the user asked to stop.
pub(in crate::recover) fn copy_elements(
    name: &str,
    tensor: &Tensor,
    context: &Context,
    mut each: impl FnMut(&[u8]) -> Result<()>,
) -> Result<bool> {
    Job::new(name, tensor, &[], &[])?.blocks(context, |_, bytes| each(bytes))
}

/// Whether two tensors of one dtype and shape hold the same bytes. `None` when the user asked to stop.
pub(in crate::recover) fn compare(one: &Tensor, other: &Tensor, context: &Context) -> Result<Option<bool>> {
    if one.dtype != other.dtype || one.shape != other.shape {
        return Ok(Some(false));
    }
    if one.dtype.size().is_none() {
        let (Some((file, bytes)), Some((second, others))) =
            (one.contiguous_bytes(), other.contiguous_bytes())
        else {
            return Ok(Some(one.count() == 0));
        };
        if bytes.end - bytes.start != others.end - others.start {
            return Ok(Some(false));
        }
        let (mut first, mut buffer) = (Vec::new(), Vec::new());
        let mut done = 0;
        while done < bytes.end - bytes.start {
            if context.cancelled() {
                return Ok(None);
            }
            let block = BLOCK.min(bytes.end - bytes.start - done);
            let own = bytes.start + done..bytes.start + done + block;
            let other = others.start + done..others.start + done + block;
            if file.bytes(own, &mut first)? != second.bytes(other, &mut buffer)? {
                return Ok(Some(false));
            }
            done += block;
        }
        return Ok(Some(true));
    }
    let ((one, _), (other, _)) = (one.without_repeats(), other.without_repeats());
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let mut start = 0;
    while start < one.count() {
        if context.cancelled() {
            return Ok(None);
        }
        let range = start..(start + BLOCK).min(one.count());
        start = range.end;
        if one.bytes(range.clone(), &mut first)? != other.bytes(range, &mut second)? {
            return Ok(Some(false));
        }
    }
    Ok(Some(true))
}

/// Writes `value` over the one element of a tensor that holds a number.
pub(super) fn write_number(named: &CheckpointTensor, value: f64, file: &File, target: &Path) -> Result<()> {
    let tensor = named.readable()?;
    let refuse = || {
        let message = format!("{value} is not written in a tensor of {}", tensor.dtype);
        ErrorKind::NotEditable { message }.in_file(target).for_tensor(&named.name)
    };
    let piece = tensor.pieces.first().filter(|_| tensor.count() == 1).ok_or_else(refuse)?;
    let whole = value.fract() == 0.0 && value.abs() < 2f64.powi(31);
    let mut bytes = Vec::new();
    match tensor.dtype {
        DType::I64 if whole => bytes.extend((value as i64).to_le_bytes()),
        DType::I32 if whole => bytes.extend((value as i32).to_le_bytes()),
        dtype => encode::from_f64(dtype, &[value], &mut bytes),
    }
    if bytes.is_empty() {
        return Err(refuse());
    }
    write_at(file, target, &bytes, piece.bytes.start)
}
