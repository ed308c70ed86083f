//! Stored bytes to f64, element by element. The plain definition that the fast kernels are tested against.

use half::{bf16, f16};

use super::DType;

/// Appends nothing: replaces `values` by the elements of `bytes`. Integers become the nearest f64.
///
/// Dtypes without plain elements give nothing.
pub fn to_f64(dtype: DType, bytes: &[u8], values: &mut Vec<f64>) {
    values.clear();
    match dtype {
        DType::F64 => values.extend(words(bytes).map(f64::from_le_bytes)),
        DType::F32 => values.extend(words(bytes).map(|word| f64::from(f32::from_le_bytes(word)))),
        DType::F16 => values.extend(words(bytes).map(|word| f16::from_le_bytes(word).to_f64())),
        DType::Bf16 => values.extend(words(bytes).map(|word| bf16::from_le_bytes(word).to_f64())),
        DType::F8E4M3 => values.extend(bytes.iter().map(|&byte| f8_e4m3_to_f64(byte))),
        DType::F8E5M2 => values.extend(bytes.iter().map(|&byte| f8_e5m2_to_f64(byte))),
        DType::I64 => values.extend(words(bytes).map(|word| i64::from_le_bytes(word) as f64)),
        DType::I32 => values.extend(words(bytes).map(|word| f64::from(i32::from_le_bytes(word)))),
        DType::I16 => values.extend(words(bytes).map(|word| f64::from(i16::from_le_bytes(word)))),
        DType::I8 => values.extend(bytes.iter().map(|&byte| f64::from(byte.cast_signed()))),
        DType::U64 => values.extend(words(bytes).map(|word| u64::from_le_bytes(word) as f64)),
        DType::U32 => values.extend(words(bytes).map(|word| f64::from(u32::from_le_bytes(word)))),
        DType::U16 => values.extend(words(bytes).map(|word| f64::from(u16::from_le_bytes(word)))),
        DType::U8 | DType::Bool => values.extend(bytes.iter().map(|&byte| f64::from(byte))),
        _ => {}
    }
}

/// FP8 E4M3 (the `fn` variant): bias 7, no infinity, NaN is 0x7f and 0xff. OCP FP8 specification, table 1.
pub fn f8_e4m3_to_f64(byte: u8) -> f64 {
    let magnitude = byte & 0x7f;
    let (exponent, mantissa) = (i32::from(magnitude >> 3), f64::from(magnitude & 7));
    let value = match (exponent, magnitude) {
        (_, 0x7f) => f64::NAN,
        (0, _) => mantissa / 8.0 * 2f64.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
    };
    if byte & 0x80 == 0 { value } else { -value }
}

/// FP8 E5M2: the upper byte of an IEEE half.
pub fn f8_e5m2_to_f64(byte: u8) -> f64 {
    f16::from_bits(u16::from(byte) << 8).to_f64()
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.as_chunks::<N>().0.iter().copied()
}
