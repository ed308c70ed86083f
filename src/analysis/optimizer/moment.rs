//! Moments as they are stored: plain tensors, or 8-bit codes with a codebook and a scale a block.
//!
//! bitsandbytes (Dettmers et al., *8-bit optimizers via block-wise quantization*, arXiv:2110.02861) keeps an element as
//! `qmap[code] · absmax[block]`, in blocks of 256 elements, 2048 before version 0.44, and reads and rounds it at every
//! step. What the optimizer sees is exactly that product, so that norms, signal and updates are taken from it.
//!
//! What a history of gradients gives is not: each step rounds to the nearest code, by at most half the distance h to its
//! neighbour, and later steps shrink that error by β. So a stored moment is at most Σ βᵏ·h = h/(1−β) away from the sum
//! over gradients. That is the slack which the bound of I2 is held against; small moments in a block with a large one
//! have much of it, and are not judged.

use std::ops::Range;

use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// Where the elements of a first or second moment are.
#[derive(Debug)]
pub(super) enum Moment<'a> {
    /// One number an element.
    Plain(&'a Tensor),
    /// One code an element.
    Blockwise(Blockwise<'a>),
}

/// Codes, what they stand for, and the largest magnitude of each block.
#[derive(Debug)]
pub(super) struct Blockwise<'a> {
    codes: &'a Tensor,
    scales: &'a Tensor,
    /// The value of each code, and half the distance to its farther neighbour.
    codebook: Vec<(f64, f64)>,
    /// Elements of a block.
    block: u64,
    /// h/(1−β) for h = 1.
    memory: f64,
}

/// Codes of 8 bits.
const CODES: u64 = 256;

/// Elements that share a scale, in all versions there have been.
const BLOCKS: [u64; 3] = [256, 2048, 4096];

impl<'a> Moment<'a> {
    /// The tensor whose elements are read one by one.
    pub(super) fn tensor(&self) -> &'a Tensor {
        match self {
            Self::Plain(tensor) => tensor,
            Self::Blockwise(blockwise) => blockwise.codes,
        }
    }

    pub(super) fn is_blockwise(&self) -> bool {
        matches!(self, Self::Blockwise(_))
    }

    /// Reads the elements of `range`, and how far each may be from what gradients gave.
    pub(super) fn read(&self, range: Range<u64>, values: &mut Vec<f64>, slack: &mut Vec<f64>) -> Result<()> {
        match self {
            Self::Plain(tensor) => {
                slack.clear();
                slack.resize((range.end - range.start) as usize, 0.0);
                tensor.read_f64(range, values)
            }
            Self::Blockwise(blockwise) => blockwise.read(range, values, slack),
        }
    }
}

impl<'a> Blockwise<'a> {
    /// Codes of a moment that decays by `decay`, or why they cannot be decoded.
    pub(super) fn new(
        codes: &'a Tensor,
        codebook: Option<&Tensor>,
        scales: Option<&'a Tensor>,
        decay: f64,
    ) -> std::result::Result<Self, String> {
        let (Some(codebook), Some(scales)) = (codebook, scales) else {
            return Err("its 8-bit moments have no codebook, or one scale for the whole tensor".to_owned());
        };
        if codes.dtype != DType::U8 || codebook.dtype != DType::F32 || scales.dtype != DType::F32 {
            return Err("its 8-bit moments are not bytes with scales and a codebook in F32".to_owned());
        }
        let (elements, blocks) = (codes.count(), scales.count());
        let fits = |block: &&u64| elements.div_ceil(**block) == blocks;
        let Some(&block) = BLOCKS.iter().find(fits) else {
            return Err(format!("its 8-bit moments have {blocks} scales for {elements} elements"));
        };
        let mut values = Vec::new();
        if codebook.count() != CODES || codebook.read_f64(0..CODES, &mut values).is_err() {
            return Err("its codebook does not have 256 values".to_owned());
        }
        if !values.iter().all(|value| value.is_finite()) {
            return Err("its codebook holds values that are not finite".to_owned());
        }
        Ok(Self { codes, scales, codebook: with_half_cells(&values), block, memory: 1.0 / (1.0 - decay) })
    }

    fn read(&self, range: Range<u64>, values: &mut Vec<f64>, slack: &mut Vec<f64>) -> Result<()> {
        let first = range.start / self.block;
        let mut scales = Vec::new();
        self.scales.read_f64(first..range.end.div_ceil(self.block), &mut scales)?;
        let mut buffer = Vec::new();
        let codes = self.codes.bytes(range.clone(), &mut buffer)?;
        values.clear();
        slack.clear();
        for (index, &code) in range.zip(codes.iter()) {
            let (value, half) = self.codebook[usize::from(code)];
            let scale = scales[(index / self.block - first) as usize];
            values.push(value * scale);
            slack.push(half * scale.abs() * self.memory);
        }
        Ok(())
    }
}

/// Each value with half the distance to the farther one of its neighbours by size.
fn with_half_cells(values: &[f64]) -> Vec<(f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = |value: f64| {
        let below =
            sorted.partition_point(|&other| other < value).checked_sub(1).map(|at| value - sorted[at]);
        let above = sorted.get(sorted.partition_point(|&other| other <= value)).map(|other| other - value);
        below.unwrap_or(0.0).max(above.unwrap_or(0.0)) / 2.0
    };
    values.iter().map(|&value| (value, half(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_reaches_half_the_way_to_the_farther_neighbour() {
        let cells = with_half_cells(&[0.5, -1.0, 0.0, 1.0]);
        assert_eq!(cells, [(0.5, 0.25), (-1.0, 0.5), (0.0, 0.5), (1.0, 0.25)]);
    }
}
