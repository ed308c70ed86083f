//! What a GPU computes against what the processor computes: every kernel, every route to a spectrum, every operation of networks.
//!
//! Where both do the same operations in the same order the results must be the same bits; elsewhere they may differ by what the
//! order of a sum, or the rounding of a function, makes of it.

mod dense;
mod eigenvalues;
mod largest;
mod stored;

use std::path::Path;
use std::sync::Arc;

use stored::Content;

use crate::compute::Real;
use crate::compute::cuda::Device;
use crate::error::Result;
use crate::random::Stream;
use crate::tensor::DType;

/// One comparison.
#[derive(Debug, Clone)]
pub struct Check {
    /// What was compared.
    pub name: String,
    /// The largest difference, and the one that is allowed; or what went wrong.
    pub outcome: std::result::Result<(f64, f64), String>,
}

impl Check {
    /// Whether the two agree.
    pub fn has_passed(&self) -> bool {
        matches!(self.outcome, Ok((difference, allowed)) if difference <= allowed)
    }
}

/// How much is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Every kernel, at sizes that are quick where kernels are interpreted.
    Quick,
    /// Matrices that go through all buffers of an upload, and over several blocks of a norm, as well.
    Whole,
}

/// Compares everything, with matrices that are written to `directory` and removed again.
///
/// # Errors
/// The directory cannot be written or read.
pub fn run(device: &Arc<Device>, directory: &Path, extent: Extent) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    let plain = device.plain();
    dense::check::<f32>(device, &plain, &mut checks);
    dense::check::<f64>(device, &plain, &mut checks);
    for dtype in [DType::F64, DType::F32, DType::F16, DType::Bf16, DType::F8E4M3, DType::F8E5M2] {
        stored::check(device, &plain, dtype, directory, &mut checks)?;
        stored::patterns(device, &plain, dtype, directory, &mut checks)?;
        stored::wide(&plain, dtype, directory, &mut checks)?;
        if extent == Extent::Whole {
            stored::large(device, &plain, dtype, directory, &mut checks)?;
        }
    }
    if extent == Extent::Quick {
        stored::blocks(device, directory, &mut checks)?;
    }
    let shapes = [("tall", 90u64, 40u64), ("wide", 33, 75)];
    for (name, rows, columns) in shapes {
        let tensor = stored::written(directory, DType::F32, rows, columns, Content::Normals)?;
        stored::spectra(device, &tensor, name, &mut checks);
    }
    largest::check(device, &plain, directory, extent, &mut checks)?;
    eigenvalues::check(device, extent, &mut checks);
    eigenvalues::gathered(device, directory, &mut checks)?;
    eigenvalues::heads(device, &plain, &mut checks);
    Ok(checks)
}

/// How far results may be apart: relative to the largest of them for sums, to each for functions.
#[derive(Clone, Copy)]
enum Allowed {
    SameBits,
    OfLargest(f64),
    OfEach(f64),
}

/// Compares numbers; NaN and infinities must be the same.
fn compared(found: &[f64], expected: &[f64], allowed: Allowed) -> std::result::Result<(f64, f64), String> {
    if found.len() != expected.len() {
        return Err(format!("{} numbers instead of {}", found.len(), expected.len()));
    }
    if expected.is_empty() {
        return Err("there is nothing to compare with".to_owned());
    }
    let largest = expected.iter().filter(|x| x.is_finite()).fold(0.0f64, |most, x| most.max(x.abs()));
    let mut worst = 0.0f64;
    for (at, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
        if same {
            continue;
        }
        if !found.is_finite() || !expected.is_finite() {
            return Err(format!("number {at} is {found:e} instead of {expected:e}"));
        }
        let scale = match allowed {
            // A difference that is not one of bits is one of the sign of zero, or counts.
            Allowed::SameBits => 1.0,
            Allowed::OfLargest(_) => largest,
            Allowed::OfEach(_) => expected.abs().max(f64::MIN_POSITIVE),
        };
        worst = worst.max(if found == expected { 0.0 } else { (found - expected).abs() / scale });
    }
    let bound = match allowed {
        Allowed::SameBits => 0.0,
        Allowed::OfLargest(bound) | Allowed::OfEach(bound) => bound,
    };
    Ok((worst, bound))
}

fn check(
    name: String,
    found: Result<Vec<f64>>,
    expected: Result<Vec<f64>>,
    allowed: Allowed,
    checks: &mut Vec<Check>,
) {
    let outcome = match (found, expected) {
        (Ok(found), Ok(expected)) => compared(&found, &expected, allowed),
        (Err(error), _) | (_, Err(error)) => Err(error.to_string()),
    };
    checks.push(Check { name, outcome });
}

fn numbers<T: Real>(stream: u64, count: usize) -> Vec<T> {
    Stream::new(0x5e1f, stream).normals(count).into_iter().map(T::from_f64).collect()
}

fn wide<T: Real>(values: Vec<T>) -> Vec<f64> {
    values.into_iter().map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_no_agreement() {
        assert!(compared(&[], &[], Allowed::SameBits).is_err());
        assert!(compared(&[], &[1.0], Allowed::SameBits).is_err());
        assert_eq!(compared(&[f64::NAN, 1.0], &[f64::NAN, 1.0], Allowed::SameBits), Ok((0.0, 0.0)));
        assert!(compared(&[f64::INFINITY], &[1.0], Allowed::OfLargest(1.0)).is_err());
    }
}
