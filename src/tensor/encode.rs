//! Numbers to stored bytes, each rounded once, to the nearest and to even: the way back from [`decode`](super::decode).

use half::{bf16, f16};

use super::DType;

/// Whether numbers can be written in this dtype.
pub const fn is_written(dtype: DType) -> bool {
    matches!(dtype, DType::F64 | DType::F32 | DType::F16 | DType::Bf16)
}

/// Replaces `bytes` by `values` in `dtype`. Dtypes that are not written give nothing.
pub fn from_f64(dtype: DType, values: &[f64], bytes: &mut Vec<u8>) {
    bytes.clear();
    match dtype {
        DType::F64 => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        DType::F32 => bytes.extend(values.iter().flat_map(|&value| (value as f32).to_le_bytes())),
        DType::F16 => bytes.extend(values.iter().flat_map(|&value| f16::from_f32(odd(value)).to_le_bytes())),
        DType::Bf16 => {
            bytes.extend(values.iter().flat_map(|&value| bf16::from_f32(odd(value)).to_le_bytes()));
        }
        _ => {}
    }
}

/// `value` in f32, rounded to odd: what is then rounded to fewer bits is rounded as if it had been once (Boldo and Melquiond 2008).
/// `half::bf16::from_f64` leaves the lower half of the number out of the decision.
fn odd(value: f64) -> f32 {
    let nearest = value as f32;
    if value.is_nan() || value.is_infinite() || f64::from(nearest) == value {
        return nearest;
    }
    let away = f64::from(nearest).abs() > value.abs();
    let toward_zero = if away { nearest.to_bits() - 1 } else { nearest.to_bits() };
    f32::from_bits(toward_zero | 1)
}

#[cfg(test)]
mod tests {
    use super::super::decode::to_f64;
    use super::*;

    #[test]
    fn every_half_precision_number_comes_back_as_it_was() {
        for dtype in [DType::F16, DType::Bf16] {
            let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
            let (mut values, mut written) = (Vec::new(), Vec::new());
            to_f64(dtype, &bytes, &mut values);
            from_f64(dtype, &values, &mut written);
            for (at, value) in values.iter().enumerate().filter(|(_, value)| !value.is_nan()) {
                assert_eq!(bytes[2 * at..2 * at + 2], written[2 * at..2 * at + 2], "{dtype} {value}");
            }
        }
    }

    #[test]
    fn numbers_are_rounded_once() {
        // Just above the middle between 1 and the next bf16: rounding to f32 first would make it the middle, and then 1.
        let above = 1.0 + 2f64.powi(-8) + 2f64.powi(-40);
        let mut bytes = Vec::new();
        from_f64(DType::Bf16, &[above, 1.0 + 2f64.powi(-8)], &mut bytes);
        assert_eq!(bytes, [0x81, 0x3f, 0x80, 0x3f]);
        let above = 1.0 + 2f64.powi(-11) + 2f64.powi(-40);
        from_f64(DType::F16, &[above, 1.0 + 2f64.powi(-11)], &mut bytes);
        assert_eq!(bytes, [0x01, 0x3c, 0x00, 0x3c]);
    }
}
