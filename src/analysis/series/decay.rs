//! I3: a second moment never falls faster than β₂^k.
//!
//! v_{t+k} = β₂^k v_t + (1−β₂) Σ β₂^{k−j} gⱼ² ≥ β₂^k v_t, with equality where no gradient arrived. An element at the
//! floor had none in the interval: it is dead, unused, frozen, or its second moment has decoupled (C2). One below the
//! floor was replaced or reset in between: no history of gradients leads from one state to the other. Exact.
//!
//! Each of k steps rounds v twice, and multiplies by a β₂ that is itself rounded to the dtype: a relative error of at
//! most 3k·u, u the dtype's unit roundoff. Where that is too much, as in bf16, neither share is measured. Values so
//! small that they are, or become, subnormal are left out.

use crate::tensor::DType;

/// Free decay over an interval, and how far rounding may carry a value from it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Floor {
    /// β₂^k.
    pub decay: f64,
    /// Relative error of the recurrence.
    tolerance: f64,
    /// The smallest v whose decayed value the dtype resolves.
    smallest: f64,
    /// Whether the dtype resolves anything over so many steps.
    is_sharp: bool,
}

/// The largest relative error at which a value at the floor can be told from one above it.
const LARGEST_TOLERANCE: f64 = 0.01;

/// Roundings a step: of the product, of the sum, of β₂ itself.
const ROUNDINGS: f64 = 3.0;

impl Floor {
    /// Free decay over `steps` steps of a second moment stored as `dtype`.
    pub fn new(beta2: f64, steps: f64, dtype: DType) -> Self {
        let normal = match dtype {
            DType::F64 => f64::MIN_POSITIVE,
            DType::F32 | DType::Bf16 => f64::from(f32::MIN_POSITIVE),
            // Half precision; what is narrower still has no roundoff, and resolves nothing.
            _ => 2f64.powi(-14),
        };
        let roundoff = dtype.unit_roundoff().unwrap_or(1.0);
        let decay = beta2.powf(steps);
        let tolerance = ROUNDINGS * steps * roundoff;
        Self { decay, tolerance, smallest: normal / decay, is_sharp: tolerance <= LARGEST_TOLERANCE }
    }

    /// Whether shares at and below the floor mean anything, or why not.
    ///
    /// # Errors
    /// With a reason.
    pub fn sharp(&self) -> Result<(), String> {
        if self.is_sharp {
            Ok(())
        } else {
            Err(format!(
                "rounding alone may move its second moments by {:.0} % over the interval",
                (100.0 * self.tolerance).min(100.0)
            ))
        }
    }

    /// Whether v and its decayed value are normal numbers of the dtype.
    pub fn resolves(&self, before: f64) -> bool {
        before > 0.0 && before >= self.smallest
    }

    /// Whether v did nothing but decay.
    pub fn is_at(&self, before: f64, after: f64) -> bool {
        let floor = self.decay * before;
        (after - floor).abs() <= self.tolerance * floor
    }

    /// Whether v fell below free decay.
    pub fn is_below(&self, before: f64, after: f64) -> bool {
        after < self.decay * before * (1.0 - self.tolerance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// v in f32 after `steps` steps of torch's `v.mul_(β₂).addcmul_(g, g, value=1−β₂)`.
    fn decayed(mut v: f32, beta2: f64, steps: u32, gradient: f32) -> f64 {
        for _ in 0..steps {
            v = v * beta2 as f32 + (1.0 - beta2) as f32 * (gradient * gradient);
        }
        f64::from(v)
    }

    #[test]
    fn what_only_decayed_is_at_the_floor_in_f32() {
        for (beta2, steps) in [(0.999, 1), (0.999, 100), (0.999, 3000), (0.95, 25)] {
            let floor = Floor::new(beta2, f64::from(steps), DType::F32);
            assert_eq!(floor.sharp(), Ok(()));
            for v in [1e-3f32, 3.7, 1.23e-11] {
                let after = decayed(v, beta2, steps, 0.0);
                assert!(
                    floor.is_at(v.into(), after) && !floor.is_below(v.into(), after),
                    "{beta2} {steps} {v}"
                );
                let fed = decayed(v, beta2, steps, v.sqrt());
                assert!(!floor.is_at(v.into(), fed) && !floor.is_below(v.into(), fed), "{beta2} {steps} {v}");
                assert!(floor.is_below(v.into(), 0.5 * after) && floor.is_below(v.into(), 0.0));
            }
        }
    }

    #[test]
    fn bf16_and_what_decays_into_subnormals_is_not_judged() {
        assert!(Floor::new(0.95, 25.0, DType::Bf16).sharp().is_err());
        let floor = Floor::new(0.95, 25.0, DType::F32);
        assert!(!floor.resolves(0.0) && !floor.resolves(1.2e-38) && floor.resolves(1e-30));
    }
}
