//! What decoupled weight decay takes off the weights between two checkpoints: what is measured and what is diagnosed both ask it.

/// Share of a movement from which weight decay is most of it.
const MOSTLY: f64 = 0.5;

/// 1 − (1 − ηλ)^k: the share of the weights that decoupled weight decay takes off in k steps.
pub fn decayed(rate: f64, decay: f64, steps: f64) -> f64 {
    1.0 - (1.0 - rate * decay).max(0.0).powf(steps)
}

/// Whether what decay takes off is most of a relative change.
pub fn is_mostly_decay(decayed: f64, relative_change: f64) -> bool {
    decayed > MOSTLY * relative_change
}

#[cfg(test)]
mod tests {
    use super::*;

    /// torch 2.9.1, AdamW(lr=1e-3, weight_decay=30) on a weight of 1 whose gradient is 0: 0.21806568 after 50 steps.
    #[test]
    fn decoupled_decay_takes_off_a_power() {
        let decayed = decayed(1e-3, 30.0, 50.0);
        assert!((1.0 - decayed - 0.218_065_68).abs() < 1e-6, "{decayed}");
        assert!(is_mostly_decay(decayed, 0.8) && !is_mostly_decay(decayed, 1.6));
        assert_eq!(super::decayed(0.5, 30.0, 3.0), 1.0);
    }
}
