//! What decides the bits of a step beside the state: the same fingerprint, the same bits.

use serde::{Deserialize, Serialize};

use crate::compute::cuda::Device;

/// Where numbers were computed. Matrix products choose their kernel by the processor, and functions such as exp are the
/// system's; the number of threads changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The version of flashpoint.
    pub flashpoint: String,
    /// Processor and system.
    pub target: String,
    /// What the processor has that matrix products ask for.
    pub features: Vec<String>,
    /// The GPU that passes ran on, with the versions of its libraries; none: the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
}

impl Fingerprint {
    /// That of this process, with passes on this GPU.
    pub fn here(gpu: Option<&Device>) -> Self {
        Self {
            flashpoint: env!("CARGO_PKG_VERSION").to_owned(),
            target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            features: features().into_iter().map(str::to_owned).collect(),
            gpu: gpu.map(Device::fingerprint),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    let mut found = Vec::new();
    if is_x86_feature_detected!("avx") {
        found.push("avx");
    }
    if is_x86_feature_detected!("fma") {
        found.push("fma");
    }
    if is_x86_feature_detected!("avx2") {
        found.push("avx2");
    }
    if is_x86_feature_detected!("avx512f") {
        found.push("avx512f");
    }
    found
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> Vec<&'static str> {
    Vec::new()
}
