//! The inner loops, and which instruction set runs them.
//!
//! There is one algorithm ([`tile`], [`powers`], [`scan`]), generic over a small [`vector::Vector`]; each instruction
//! set is that algorithm compiled with its features, entered once per read. The choice never changes a bit of a result.

#![expect(
    clippy::inline_always,
    reason = "only inlined into an entry point is code compiled for its features"
)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod comparisons;
pub(super) mod element;
mod portable;
mod powers;
mod scan;
mod tile;
mod vector;

use std::fmt;
use std::sync::OnceLock;

use element::{Bf16, Bits, Element, F16, F32, F64};
use portable::Portable;
pub(super) use tile::Job;

use super::block::Block;
use super::sums::LANES;
use crate::tensor::{DType, decode};

/// An instruction set that this processor has. There is no other way to make one than to find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(Level);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// Those of this processor, from the plainest to the widest.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut, reason = "only x86-64 has more than one")]
        let mut found = vec![Self(Level::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("f16c")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("popcnt")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            found.extend(avx2.then_some(Self(Level::Avx2)));
            found.extend((avx2 && avx512).then_some(Self(Level::Avx512)));
        }
        found
    }

    /// The widest of this processor.
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().pop().unwrap_or(Self(Level::Portable)))
    }

    /// The names of all instruction sets this program was built for.
    pub const NAMES: [&str; 3] = ["portable", "AVX2", "AVX-512"];
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Level::Portable => Self::NAMES[0],
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Self::NAMES[1],
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Self::NAMES[2],
        })
    }
}

/// Adds `bytes` of a float dtype wider than a byte to `block`.
pub(super) fn add(isa: Isa, dtype: DType, job: &Job, bytes: &[u8], block: &mut Block) {
    match dtype {
        DType::F64 => add_elements::<F64>(isa, job, bytes, block),
        DType::F32 => add_elements::<F32>(isa, job, bytes, block),
        DType::F16 => add_elements::<F16>(isa, job, bytes, block),
        DType::Bf16 => add_elements::<Bf16>(isa, job, bytes, block),
        _ => unreachable!("bytes and integers have their own paths"),
    }
}

#[cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "entering a function compiled for features that only `Isa` vouches for")
)]
fn add_elements<E: Element>(isa: Isa, job: &Job, bytes: &[u8], block: &mut Block) {
    match isa.0 {
        Level::Portable => tile::tiles::<E, Portable>(job, bytes, block),
        // SAFETY: this `Isa` is made only where every feature of the entry point was detected.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::entry::<E>(job, bytes, block) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::entry::<E>(job, bytes, block) },
    }
}

/// Adds the squares of the elements in `bytes`, which begin at lane 0, to `lanes`. NaN and Inf are not left out.
pub(super) fn add_squares(isa: Isa, dtype: DType, bytes: &[u8], lanes: &mut [f64; LANES]) {
    match dtype {
        DType::F64 => add_element_squares::<F64>(isa, bytes, lanes),
        DType::F32 => add_element_squares::<F32>(isa, bytes, lanes),
        DType::F16 => add_element_squares::<F16>(isa, bytes, lanes),
        DType::Bf16 => add_element_squares::<Bf16>(isa, bytes, lanes),
        DType::F8E4M3 => add_byte_squares(decode::f8_e4m3_to_f64, bytes, lanes),
        DType::F8E5M2 => add_byte_squares(decode::f8_e5m2_to_f64, bytes, lanes),
        _ => unreachable!("integers have no rows to speak of"),
    }
}

#[cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "entering a function compiled for features that only `Isa` vouches for")
)]
fn add_element_squares<E: Element>(isa: Isa, bytes: &[u8], lanes: &mut [f64; LANES]) {
    let (stripes, rest) = bytes.split_at(bytes.len() - bytes.len() % (LANES * E::SIZE));
    match isa.0 {
        Level::Portable => powers::add_squares::<E, Portable>(stripes, lanes),
        // SAFETY: this `Isa` is made only where every feature of the entry point was detected.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::squares::<E>(stripes, lanes) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::squares::<E>(stripes, lanes) },
    }
    for (lane, &word) in lanes.iter_mut().zip(E::Bits::split(rest)) {
        let x = E::value(E::Bits::read(word));
        *lane += x * x;
    }
}

fn add_byte_squares(decode: fn(u8) -> f64, bytes: &[u8], lanes: &mut [f64; LANES]) {
    for (index, &byte) in bytes.iter().enumerate() {
        let x = decode(byte);
        lanes[index % LANES] += x * x;
    }
}
