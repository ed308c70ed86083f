//! I4: the energy of an interval's gradients, from the second moments at its two ends.
//!
//! ```text
//! E_k = (v_{t+k} − β₂^k v_t)/(1−β₂) = Σⱼ β₂^{k−j} gⱼ²
//! ```
//!
//! Exact, whatever came before the interval: a spike before it has left both terms alike. Linear in v, so that sums over
//! a tensor, or over its shards, are enough. RMS over the interval of the gradient's norm is √(ΣE_k·(1−β₂)/(1−β₂^k)).
//! The gradients are those that entered the optimizer, after clipping.
//!
//! The difference of two rounded numbers carries an error of up to r·(Σv_{t+k} + β₂^k Σv_t), r = 2⁻²³ for f32 and 2⁻⁷
//! for bf16; relative to the energy of steady gradients that is r/(1−β₂^k) and more. Where it is more than
//! [`LARGEST_ERROR`] of the energy, the energy is not measured.

use super::number;
use crate::analysis::model::{Degenerate, Measured};
use crate::tensor::DType;

/// Relative error beyond which an energy is none.
pub const LARGEST_ERROR: f64 = 0.1;

/// Unit roundoff of half precision.
const HALF_PRECISION: f64 = 1.0 / 2048.0;

/// 1−β₂ below which bf16 second moments do not decay.
const BF16_DECAY: f64 = crate::analysis::optimizer::bound::BF16_DECAY;

/// The second moment of one parameter at both ends of an interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ends {
    /// Σv_t.
    pub before: f64,
    /// Σv_{t+k}.
    pub after: f64,
    /// β₂ over the interval.
    pub beta2: f64,
    /// k, at least 1.
    pub steps: f64,
    /// How v is stored at both ends.
    pub dtypes: [DType; 2],
}

impl Ends {
    /// β₂^k.
    fn decay(&self) -> f64 {
        self.beta2.powf(self.steps)
    }

    /// ΣE_k.
    pub fn energy(&self) -> Measured<f64> {
        let floor = self.decay() * self.before;
        if self.dtypes.contains(&DType::Bf16) && 1.0 - self.beta2 < BF16_DECAY {
            return Measured::not(format!("bf16 second moments cannot follow β₂ = {}", self.beta2));
        }
        let difference = self.after - floor;
        let error = self.roundoff() * (self.after + floor);
        if self.after == 0.0 && self.before == 0.0 {
            return Measured::Value(0.0);
        }
        if difference < -error {
            return Measured::not(
                "its second moments fell below free decay: the state was replaced in between",
            );
        }
        if error > LARGEST_ERROR * difference {
            let reason = "its second moments did little but decay: what gradients added is lost in rounding";
            return Measured::not(reason);
        }
        number(difference / (1.0 - self.beta2))
    }

    /// RMS over the interval of the norm of the gradient, by its energy.
    pub fn gradient_norm(&self, energy: &Measured<f64>) -> Measured<f64> {
        let share = (1.0 - self.beta2) / -(self.steps * self.beta2.ln()).exp_m1();
        match energy {
            Measured::Value(energy) => number((energy * share).sqrt()),
            other => other.clone(),
        }
    }

    /// Σv_{t+k}/(β₂^k Σv_t): 1 where no gradient arrived (C2).
    pub fn decay_ratio(&self) -> Measured<f64> {
        if self.before == 0.0 {
            return Measured::Degenerate(Degenerate::AllZero);
        }
        number(self.after / (self.decay() * self.before))
    }

    /// The spacing at 1 of the coarser of the two dtypes; what is narrower than half precision is taken for it.
    fn roundoff(&self) -> f64 {
        let of = |dtype: DType| 2.0 * dtype.unit_roundoff().unwrap_or(HALF_PRECISION);
        of(self.dtypes[0]).max(of(self.dtypes[1]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Σv over `gradients`, newest last, continued from `v`.
    fn second_moment(v: f64, beta2: f64, gradients: &[f64]) -> f64 {
        gradients.iter().fold(v, |v, g| beta2 * v + (1.0 - beta2) * g * g)
    }

    fn ends(before: f64, after: f64, beta2: f64, steps: f64) -> Ends {
        Ends { before, after, beta2, steps, dtypes: [DType::F64; 2] }
    }

    #[test]
    fn the_energy_is_the_discounted_sum_of_the_intervals_own_gradients() {
        let gradients = [0.3, -2.0, 0.5, 0.25];
        let beta2 = 0.99;
        let before = second_moment(0.0, beta2, &[100.0, 3.0, 1.0]);
        let after = second_moment(before, beta2, &gradients);
        let by_hand: f64 = (0..4).zip(&gradients).map(|(j, g)| beta2.powi(3 - j) * g * g).sum();
        let found = *ends(before, after, beta2, 4.0).energy().value().unwrap();
        assert!((found / by_hand - 1.0).abs() < 1e-10, "{found} {by_hand}");
    }

    #[test]
    fn steady_gradients_have_their_own_norm() {
        let before = second_moment(7.0, 0.999, &[2.0; 50]);
        let ends = ends(before, second_moment(before, 0.999, &[3.0; 100]), 0.999, 100.0);
        let norm = *ends.gradient_norm(&ends.energy()).value().unwrap();
        assert!((norm - 3.0).abs() < 1e-9, "{norm}");
    }

    #[test]
    fn what_rounding_hides_and_what_no_gradient_gives_is_not_measured() {
        let f32_ends = |before, after| Ends { dtypes: [DType::F32; 2], ..ends(before, after, 0.999, 100.0) };
        let floor = 0.999f64.powi(100);
        assert!(f32_ends(1.0, floor * (1.0 + 1e-6)).energy().value().is_none());
        assert!(f32_ends(1.0, floor * (1.0 + 1e-4)).energy().value().is_some());
        let Measured::NotMeasured(reason) = f32_ends(1.0, 0.5 * floor).energy() else { panic!("it fell") };
        assert!(reason.contains("below free decay"));
        assert_eq!(f32_ends(0.0, 0.0).energy(), Measured::Value(0.0));
        let bf16 = Ends { dtypes: [DType::Bf16; 2], ..ends(1.0, 2.0, 0.999, 10.0) };
        assert!(bf16.energy().value().is_none());
    }

    #[test]
    fn no_gradient_leaves_the_decay_ratio_at_one() {
        let free = ends(3.0, 3.0 * 0.999f64.powi(100), 0.999, 100.0);
        assert!((free.decay_ratio().value().unwrap() - 1.0).abs() < 1e-12);
    }

    proptest! {
        #[test]
        fn energies_of_shards_add_up_to_that_of_the_whole(
            shards in prop::collection::vec((1e-6f64..10.0, 1e-3f64..10.0), 1..8),
            beta2 in 0.9f64..0.9999,
            steps in 1u32..200,
        ) {
            let steps = f64::from(steps);
            let decay = beta2.powf(steps);
            let end = |&(before, energy): &(f64, f64)| ends(before, decay * before + (1.0 - beta2) * energy, beta2, steps);
            let parts: f64 = shards.iter().map(|shard| *end(shard).energy().value().unwrap()).sum();
            let sum = |of: fn(&Ends) -> f64| shards.iter().map(|shard| of(&end(shard))).sum::<f64>();
            let whole = ends(sum(|ends| ends.before), sum(|ends| ends.after), beta2, steps);
            prop_assert!((whole.energy().value().unwrap() / parts - 1.0).abs() < 1e-6);
        }
    }
}
