//! Element types: their names, sizes, and whether they are weights, counts or neither.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The element type of a tensor, as stored. Names are those of the safetensors format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[allow(missing_docs, reason = "each variant is its own name")]
pub enum DType {
    F64,
    F32,
    F16,
    #[serde(rename = "BF16")]
    Bf16,
    #[serde(rename = "F8_E4M3")]
    F8E4M3,
    #[serde(rename = "F8_E5M2")]
    F8E5M2,
    #[serde(rename = "F8_E4M3FNUZ")]
    F8E4M3Fnuz,
    #[serde(rename = "F8_E5M2FNUZ")]
    F8E5M2Fnuz,
    #[serde(rename = "F8_E8M0")]
    F8E8M0,
    #[serde(rename = "F6_E2M3")]
    F6E2M3,
    #[serde(rename = "F6_E3M2")]
    F6E3M2,
    F4,
    C64,
    C128,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    #[serde(rename = "BOOL")]
    Bool,
}

/// What may be computed over a dtype.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Weights and states: every statistic.
    Float,
    /// Counters, indices, masks: extrema and zeros, never a norm.
    Integer,
    /// Listed, not measured.
    Opaque,
}

impl DType {
    /// Every dtype, in declaration order.
    pub const ALL: [DType; 23] = [
        DType::F64,
        DType::F32,
        DType::F16,
        DType::Bf16,
        DType::F8E4M3,
        DType::F8E5M2,
        DType::F8E4M3Fnuz,
        DType::F8E5M2Fnuz,
        DType::F8E8M0,
        DType::F6E2M3,
        DType::F6E3M2,
        DType::F4,
        DType::C64,
        DType::C128,
        DType::I64,
        DType::I32,
        DType::I16,
        DType::I8,
        DType::U64,
        DType::U32,
        DType::U16,
        DType::U8,
        DType::Bool,
    ];

    /// Bits per element.
    pub const fn bits(self) -> u64 {
        match self {
            DType::F4 => 4,
            DType::F6E2M3 | DType::F6E3M2 => 6,
            DType::F8E4M3
            | DType::F8E5M2
            | DType::F8E4M3Fnuz
            | DType::F8E5M2Fnuz
            | DType::F8E8M0
            | DType::I8
            | DType::U8
            | DType::Bool => 8,
            DType::F16 | DType::Bf16 | DType::I16 | DType::U16 => 16,
            DType::F32 | DType::I32 | DType::U32 => 32,
            DType::F64 | DType::C64 | DType::I64 | DType::U64 => 64,
            DType::C128 => 128,
        }
    }

    /// Whole bytes per element, `None` for packed sub-byte types.
    pub const fn size(self) -> Option<u64> {
        match self {
            DType::F4 | DType::F6E2M3 | DType::F6E3M2 => None,
            other => Some(other.bits() / 8),
        }
    }

    /// Half the spacing at 1: by how much rounding to it moves a number at most, relative to the number. `None` for what is
    /// narrower than half precision or no float.
    pub const fn unit_roundoff(self) -> Option<f64> {
        match self {
            DType::F64 => Some(1.0 / (1u64 << 53) as f64),
            DType::F32 => Some(1.0 / (1u64 << 24) as f64),
            DType::F16 => Some(1.0 / (1u64 << 11) as f64),
            DType::Bf16 => Some(1.0 / (1u64 << 8) as f64),
            _ => None,
        }
    }

    /// What may be computed over it.
    pub const fn kind(self) -> Kind {
        match self {
            DType::F64 | DType::F32 | DType::F16 | DType::Bf16 | DType::F8E4M3 | DType::F8E5M2 => Kind::Float,
            DType::I64
            | DType::I32
            | DType::I16
            | DType::I8
            | DType::U64
            | DType::U32
            | DType::U16
            | DType::U8
            | DType::Bool => Kind::Integer,
            _ => Kind::Opaque,
        }
    }

    /// The name in the safetensors format and in our reports.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F64 => "F64",
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::Bf16 => "BF16",
            DType::F8E4M3 => "F8_E4M3",
            DType::F8E5M2 => "F8_E5M2",
            DType::F8E4M3Fnuz => "F8_E4M3FNUZ",
            DType::F8E5M2Fnuz => "F8_E5M2FNUZ",
            DType::F8E8M0 => "F8_E8M0",
            DType::F6E2M3 => "F6_E2M3",
            DType::F6E3M2 => "F6_E3M2",
            DType::F4 => "F4",
            DType::C64 => "C64",
            DType::C128 => "C128",
            DType::I64 => "I64",
            DType::I32 => "I32",
            DType::I16 => "I16",
            DType::I8 => "I8",
            DType::U64 => "U64",
            DType::U32 => "U32",
            DType::U16 => "U16",
            DType::U8 => "U8",
            DType::Bool => "BOOL",
        }
    }

    /// The dtype of that name, if it is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
