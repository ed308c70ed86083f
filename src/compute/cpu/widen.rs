//! Stored elements to f32 and f64, many at a time.
//!
//! The plain definition is `tensor::decode`; this gives the same numbers, and what is not a float gives zeros.

use std::sync::LazyLock;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::tensor::{DType, decode};

/// All values of a byte in f32: every one is exact there.
type Table = LazyLock<[f32; 256]>;

static E4M3: Table = LazyLock::new(|| std::array::from_fn(|byte| decode::f8_e4m3_to_f64(byte as u8) as f32));
static E5M2: Table = LazyLock::new(|| std::array::from_fn(|byte| decode::f8_e5m2_to_f64(byte as u8) as f32));

/// The elements `bytes` in f64.
pub(in crate::compute) fn widen(dtype: DType, bytes: &[u8], values: &mut [f64]) {
    if dtype == DType::F64 {
        for (value, &word) in values.iter_mut().zip(bytes.as_chunks().0) {
            *value = f64::from_le_bytes(word);
        }
        return;
    }
    let mut narrow = [0.0; CHUNK];
    let size = dtype.size().unwrap_or(1) as usize;
    for (values, bytes) in values.chunks_mut(CHUNK).zip(bytes.chunks(CHUNK * size)) {
        to_f32(dtype, bytes, &mut narrow[..values.len()]);
        for (value, &narrow) in values.iter_mut().zip(&narrow) {
            *value = f64::from(narrow);
        }
    }
}

/// Elements that pass through f32 at once, in the first-level cache.
const CHUNK: usize = 512;

/// The elements `bytes`, of a dtype that fits in f32, in f32.
pub(super) fn to_f32(dtype: DType, bytes: &[u8], values: &mut [f32]) {
    match dtype {
        DType::F32 => {
            for (value, &word) in values.iter_mut().zip(bytes.as_chunks().0) {
                *value = f32::from_le_bytes(word);
            }
        }
        DType::Bf16 => {
            for (value, &word) in values.iter_mut().zip(bytes.as_chunks().0) {
                // By the bits: `half` takes NaN apart, which keeps the loop from being one of vectors.
                *value = f32::from_bits(u32::from(u16::from_le_bytes(word)) << 16);
            }
        }
        DType::F16 => {
            // By the slice: `half` uses the processor's own conversion where there is one.
            let mut halves = [f16::ZERO; CHUNK];
            for (values, bytes) in values.chunks_mut(CHUNK).zip(bytes.chunks(CHUNK * 2)) {
                let halves = &mut halves[..values.len()];
                for (half, &word) in halves.iter_mut().zip(bytes.as_chunks().0) {
                    *half = f16::from_le_bytes(word);
                }
                halves.convert_to_f32_slice(values);
            }
        }
        DType::F8E4M3 => by_table(&E4M3, bytes, values),
        DType::F8E5M2 => by_table(&E5M2, bytes, values),
        _ => values.fill(0.0),
    }
}

fn by_table(table: &[f32; 256], bytes: &[u8], values: &mut [f32]) {
    for (value, &byte) in values.iter_mut().zip(bytes) {
        *value = table[usize::from(byte)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_and_every_byte_is_what_the_plain_definition_says() {
        let words: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let bytes: Vec<u8> = (0..=u8::MAX).collect();
        for (dtype, stored) in
            [(DType::F16, &words), (DType::Bf16, &words), (DType::F8E4M3, &bytes), (DType::F8E5M2, &bytes)]
        {
            let mut expected = Vec::new();
            decode::to_f64(dtype, stored, &mut expected);
            let mut values = vec![0.0; expected.len()];
            widen(dtype, stored, &mut values);
            for (value, expected) in values.iter().zip(&expected) {
                let same = value.to_bits() == expected.to_bits() || (value.is_nan() && expected.is_nan());
                assert!(same, "{dtype}: {value} instead of {expected}");
            }
        }
    }
}
