//! What instructions that only touch registers compute. Registers are 64 bits wide; narrower values have zeros above them.

#![expect(clippy::cast_possible_wrap, clippy::cast_sign_loss, reason = "a register is bits")]
#![expect(clippy::neg_cmp_op_on_partial_ord, reason = "unordered comparisons are true of NaN")]

/// An instruction by its number of inputs.
pub(super) enum Function {
    One(fn(u64) -> u64),
    Two(fn(u64, u64) -> u64),
    Three(fn(u64, u64, u64) -> u64),
}

use Function::{One, Three, Two};

/// Bytes of a type.
pub(super) fn bytes_of(kind: &str) -> Result<usize, String> {
    match kind {
        "u8" | "s8" | "b8" => Ok(1),
        "u16" | "s16" | "b16" | "f16" => Ok(2),
        "u32" | "s32" | "b32" | "f32" => Ok(4),
        "u64" | "s64" | "b64" | "f64" => Ok(8),
        _ => Err(format!("type {kind} is not known")),
    }
}

fn f32_of(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn f64_of(bits: u64) -> f64 {
    f64::from_bits(bits)
}

fn single(x: f32) -> u64 {
    u64::from(x.to_bits())
}

fn s32(x: u64) -> i32 {
    x as u32 as i32
}

fn wide(x: i32) -> u64 {
    u64::from(x as u32)
}

/// The function of an instruction; none where it is not known.
pub(super) fn function(parts: &[&str]) -> Option<Function> {
    Some(match parts {
        // Moves and selections.
        ["mov", "u16" | "b16" | "u32" | "s32" | "b32" | "f32" | "u64" | "s64" | "b64" | "f64" | "pred"] => {
            One(|a| a)
        }
        ["cvta", "to", "global", "u64"] => One(|a| a),
        ["selp", "b16" | "u16" | "b32" | "u32" | "s32" | "f32" | "b64" | "u64" | "s64" | "f64"] => {
            Three(|a, b, p| if p != 0 { a } else { b })
        }
        // Integers.
        ["add", "s16" | "u16"] => Two(|a, b| u64::from((a as u16).wrapping_add(b as u16))),
        ["add", "s32" | "u32"] => Two(|a, b| u64::from((a as u32).wrapping_add(b as u32))),
        ["add", "s64" | "u64"] => Two(u64::wrapping_add),
        ["sub", "s16" | "u16"] => Two(|a, b| u64::from((a as u16).wrapping_sub(b as u16))),
        ["sub", "s32" | "u32"] => Two(|a, b| u64::from((a as u32).wrapping_sub(b as u32))),
        ["sub", "s64" | "u64"] => Two(u64::wrapping_sub),
        ["mul", "lo", "s32" | "u32"] => Two(|a, b| u64::from((a as u32).wrapping_mul(b as u32))),
        ["mul", "lo", "s64" | "u64"] => Two(u64::wrapping_mul),
        ["mul", "wide", "u32"] => Two(|a, b| u64::from(a as u32) * u64::from(b as u32)),
        ["mul", "wide", "s32"] => Two(|a, b| (i64::from(s32(a)) * i64::from(s32(b))) as u64),
        ["mul", "wide", "u16"] => Two(|a, b| u64::from(a as u16) * u64::from(b as u16)),
        ["mul", "hi", "u32"] => Two(|a, b| (u64::from(a as u32) * u64::from(b as u32)) >> 32),
        ["mul", "hi", "u64"] => Two(|a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64),
        ["mad", "lo", "s32" | "u32"] => {
            Three(|a, b, c| u64::from((a as u32).wrapping_mul(b as u32).wrapping_add(c as u32)))
        }
        ["mad", "lo", "s64" | "u64"] => Three(|a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        ["mad", "wide", "u32"] => {
            Three(|a, b, c| (u64::from(a as u32) * u64::from(b as u32)).wrapping_add(c))
        }
        // A division by zero gives all ones, as the hardware does.
        ["div", "u32"] => Two(|a, b| u64::from((a as u32).checked_div(b as u32).unwrap_or(u32::MAX))),
        ["rem", "u32"] => Two(|a, b| u64::from((a as u32).checked_rem(b as u32).unwrap_or(a as u32))),
        ["div", "u64"] => Two(|a, b| a.checked_div(b).unwrap_or(u64::MAX)),
        ["rem", "u64"] => Two(|a, b| a.checked_rem(b).unwrap_or(a)),
        ["neg", "s32"] => One(|a| wide(s32(a).wrapping_neg())),
        ["neg", "s64"] => One(|a| (a as i64).wrapping_neg() as u64),
        ["abs", "s32"] => One(|a| wide(s32(a).wrapping_abs())),
        ["min", "u32"] => Two(|a, b| u64::from((a as u32).min(b as u32))),
        ["max", "u32"] => Two(|a, b| u64::from((a as u32).max(b as u32))),
        ["min", "s32"] => Two(|a, b| wide(s32(a).min(s32(b)))),
        ["max", "s32"] => Two(|a, b| wide(s32(a).max(s32(b)))),
        ["min", "u64"] => Two(u64::min),
        ["max", "u64"] => Two(u64::max),
        ["min", "s64"] => Two(|a, b| (a as i64).min(b as i64) as u64),
        ["max", "s64"] => Two(|a, b| (a as i64).max(b as i64) as u64),
        // Bits.
        ["and", "b16" | "b32" | "b64" | "pred"] => Two(|a, b| a & b),
        ["or", "b16" | "b32" | "b64" | "pred"] => Two(|a, b| a | b),
        ["xor", "b16" | "b32" | "b64" | "pred"] => Two(|a, b| a ^ b),
        ["not", "pred"] => One(|a| u64::from(a == 0)),
        ["not", "b16"] => One(|a| u64::from(!(a as u16))),
        ["not", "b32"] => One(|a| u64::from(!(a as u32))),
        ["not", "b64"] => One(|a| !a),
        // Shifts beyond the width clamp.
        ["shl", "b16"] => Two(|a, b| if b as u32 > 15 { 0 } else { u64::from((a as u16) << (b as u32)) }),
        ["shl", "b32"] => Two(|a, b| if b as u32 > 31 { 0 } else { u64::from((a as u32) << (b as u32)) }),
        ["shl", "b64"] => Two(|a, b| if b as u32 > 63 { 0 } else { a << (b as u32) }),
        ["shr", "u16" | "b16"] => {
            Two(|a, b| if b as u32 > 15 { 0 } else { u64::from((a as u16) >> (b as u32)) })
        }
        ["shr", "u32" | "b32"] => {
            Two(|a, b| if b as u32 > 31 { 0 } else { u64::from((a as u32) >> (b as u32)) })
        }
        ["shr", "u64" | "b64"] => Two(|a, b| if b as u32 > 63 { 0 } else { a >> (b as u32) }),
        ["shr", "s32"] => Two(|a, b| wide(s32(a) >> (b as u32).min(31))),
        ["shr", "s64"] => Two(|a, b| ((a as i64) >> (b as u32).min(63)) as u64),
        // Comparisons.
        ["setp", comparison, kind] => Two(compare(comparison, kind)?),
        // Conversions.
        ["cvt", "u16", "u32" | "u64" | "s32"] => One(|a| u64::from(a as u16)),
        ["cvt", "u32", "u16"] => One(|a| u64::from(a as u16)),
        ["cvt", "u32", "u64"] => One(|a| u64::from(a as u32)),
        ["cvt", "u64", "u16"] => One(|a| u64::from(a as u16)),
        ["cvt", "u64", "u32"] => One(|a| u64::from(a as u32)),
        ["cvt", "s64", "s32"] => One(|a| i64::from(s32(a)) as u64),
        ["cvt", "f64", "f32"] => One(|a| f64::from(f32_of(a)).to_bits()),
        ["cvt", "rn", "f32", "f64"] => One(|a| single(f64_of(a) as f32)),
        ["cvt", "rn", "f64", "s32"] => One(|a| f64::from(s32(a)).to_bits()),
        ["cvt", "rn", "f64", "u32"] => One(|a| f64::from(a as u32).to_bits()),
        ["cvt", "rn", "f64", "s64"] => One(|a| (a as i64 as f64).to_bits()),
        ["cvt", "rn", "f64", "u64"] => One(|a| (a as f64).to_bits()),
        ["cvt", "rzi", "s32", "f64"] => One(|a| wide(f64_of(a) as i32)),
        ["cvt", "rni", "s32", "f64"] => One(|a| wide(f64_of(a).round_ties_even() as i32)),
        ["cvt", "rni", "f64", "f64"] => One(|a| f64_of(a).round_ties_even().to_bits()),
        ["cvt", "f32", "f16"] => One(|a| u64::from(half(a as u16))),
        // Floats, each operation rounded once.
        ["add", "rn", "f32"] | ["add", "f32"] => Two(|a, b| single(f32_of(a) + f32_of(b))),
        ["add", "rn", "f64"] | ["add", "f64"] => Two(|a, b| (f64_of(a) + f64_of(b)).to_bits()),
        ["sub", "rn", "f32"] | ["sub", "f32"] => Two(|a, b| single(f32_of(a) - f32_of(b))),
        ["sub", "rn", "f64"] | ["sub", "f64"] => Two(|a, b| (f64_of(a) - f64_of(b)).to_bits()),
        ["mul", "rn", "f32"] | ["mul", "f32"] => Two(|a, b| single(f32_of(a) * f32_of(b))),
        ["mul", "rn", "f64"] | ["mul", "f64"] => Two(|a, b| (f64_of(a) * f64_of(b)).to_bits()),
        ["div", "rn", "f32"] => Two(|a, b| single(f32_of(a) / f32_of(b))),
        ["div", "rn", "f64"] => Two(|a, b| (f64_of(a) / f64_of(b)).to_bits()),
        ["rcp", "rn", "f64"] => One(|a| (1.0 / f64_of(a)).to_bits()),
        ["rcp", "rn", "f32"] => One(|a| single(1.0 / f32_of(a))),
        ["sqrt", "rn", "f32"] => One(|a| single(f32_of(a).sqrt())),
        ["sqrt", "rn", "f64"] => One(|a| f64_of(a).sqrt().to_bits()),
        ["fma", "rn", "f32"] => Three(|a, b, c| single(f32_of(a).mul_add(f32_of(b), f32_of(c)))),
        ["fma", "rn", "f64"] => Three(|a, b, c| f64_of(a).mul_add(f64_of(b), f64_of(c)).to_bits()),
        ["abs", "f32"] => One(|a| a & 0x7fff_ffff),
        ["abs", "f64"] => One(|a| a & !(1 << 63)),
        ["neg", "f32"] => One(|a| a ^ 0x8000_0000),
        ["neg", "f64"] => One(|a| a ^ (1 << 63)),
        // Where one is NaN the other comes out.
        ["min", "f32"] => Two(|a, b| single(f32_of(a).min(f32_of(b)))),
        ["max", "f32"] => Two(|a, b| single(f32_of(a).max(f32_of(b)))),
        ["min", "f64"] => Two(|a, b| f64_of(a).min(f64_of(b)).to_bits()),
        ["max", "f64"] => Two(|a, b| f64_of(a).max(f64_of(b)).to_bits()),
        _ => return None,
    })
}

fn compare(comparison: &str, kind: &str) -> Option<fn(u64, u64) -> u64> {
    macro_rules! by {
        ($read:expr) => {
            match comparison {
                "eq" => |a, b| u64::from($read(a) == $read(b)),
                "ne" => |a, b| u64::from($read(a) != $read(b)),
                "lt" => |a, b| u64::from($read(a) < $read(b)),
                "le" => |a, b| u64::from($read(a) <= $read(b)),
                "gt" => |a, b| u64::from($read(a) > $read(b)),
                "ge" => |a, b| u64::from($read(a) >= $read(b)),
                _ => return None,
            }
        };
    }
    macro_rules! floats {
        ($read:expr) => {
            match comparison {
                // Ordered: false where either is NaN. Rust's `!=` is true there, PTX's `ne` is not.
                "eq" => |a, b| u64::from($read(a) == $read(b)),
                "ne" => |a, b| u64::from($read(a) < $read(b) || $read(a) > $read(b)),
                "lt" => |a, b| u64::from($read(a) < $read(b)),
                "le" => |a, b| u64::from($read(a) <= $read(b)),
                "gt" => |a, b| u64::from($read(a) > $read(b)),
                "ge" => |a, b| u64::from($read(a) >= $read(b)),
                // Unordered: true where either is NaN.
                "equ" => |a, b| u64::from(!($read(a) < $read(b) || $read(a) > $read(b))),
                "neu" => |a, b| u64::from($read(a) != $read(b)),
                "ltu" => |a, b| u64::from(!($read(a) >= $read(b))),
                "leu" => |a, b| u64::from(!($read(a) > $read(b))),
                "gtu" => |a, b| u64::from(!($read(a) <= $read(b))),
                "geu" => |a, b| u64::from(!($read(a) < $read(b))),
                "nan" => |a, b| u64::from($read(a).is_nan() || $read(b).is_nan()),
                "num" => |a, b| u64::from(!$read(a).is_nan() && !$read(b).is_nan()),
                _ => return None,
            }
        };
    }
    Some(match kind {
        "u16" | "b16" => by!(|a| a as u16),
        "s16" => by!(|a| a as u16 as i16),
        "u32" | "b32" => by!(|a| a as u32),
        "s32" => by!(s32),
        "u64" | "b64" => by!(|a: u64| a),
        "s64" => by!(|a| a as i64),
        "f32" => floats!(f32_of),
        "f64" => floats!(f64_of),
        _ => return None,
    })
}

/// The bits of a half as those of a float: exact.
fn half(bits: u16) -> u32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let (exponent, mantissa) = (u32::from(bits >> 10) & 31, u32::from(bits & 0x3ff));
    match (exponent, mantissa) {
        (31, 0) => sign | 0x7f80_0000,
        (31, _) => sign | 0x7fc0_0000 | (mantissa << 13),
        (0, _) => sign | (mantissa as f32 * 2f32.powi(-24)).to_bits(),
        _ => sign | ((exponent + 112) << 23) | (mantissa << 13),
    }
}
