//! Schedules of the learning rate: a factor by step, and a linear warm-up before it.

use serde::{Deserialize, Serialize};

/// How the learning rate goes on after the warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// It stays.
    #[default]
    Constant,
    /// To zero, in a line.
    Linear,
    /// To zero, along half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983).
    Cosine,
    /// A tenth of it after half of the steps, a hundredth after three quarters.
    Step,
}

/// A schedule over a known number of steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// After the warm-up.
    pub shape: Shape,
    /// Steps in which the rate rises in a line; 0 for none.
    pub warmup: u64,
}

impl Schedule {
    /// By what the learning rate of step `step` (counted from 1) of `total` is multiplied.
    pub fn factor(self, step: u64, total: u64) -> f64 {
        if step <= self.warmup {
            return step as f64 / self.warmup as f64;
        }
        let length = total.saturating_sub(self.warmup).max(1) as f64;
        let done = ((step - 1).saturating_sub(self.warmup) as f64 / length).min(1.0);
        match self.shape {
            Shape::Constant => 1.0,
            Shape::Linear => 1.0 - done,
            Shape::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            Shape::Step if done < 0.5 => 1.0,
            Shape::Step if done < 0.75 => 0.1,
            Shape::Step => 0.01,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_up_rises_in_a_line_and_the_shape_begins_at_the_full_rate_after_it() {
        for shape in [Shape::Constant, Shape::Linear, Shape::Cosine, Shape::Step] {
            let schedule = Schedule { shape, warmup: 4 };
            assert_eq!([1, 2, 3, 4, 5].map(|step| schedule.factor(step, 104)), [0.25, 0.5, 0.75, 1.0, 1.0]);
        }
    }

    #[test]
    fn shapes_pass_through_their_known_values() {
        let at = |shape, step| Schedule { shape, warmup: 0 }.factor(step, 100);
        assert_eq!(
            [at(Shape::Constant, 100), at(Shape::Linear, 26), at(Shape::Linear, 51)],
            [1.0, 0.75, 0.5]
        );
        assert!((at(Shape::Cosine, 51) - 0.5).abs() < 1e-15);
        assert!((at(Shape::Cosine, 26) - 0.5 * (1.0 + 0.5f64.sqrt())).abs() < 1e-15);
        assert_eq!([at(Shape::Step, 50), at(Shape::Step, 51), at(Shape::Step, 76)], [1.0, 0.1, 0.01]);
    }
}
