//! Adam on made-up gradients, for tests: the truth is known.

/// Reproducible noise: `SplitMix64` and Box–Muller.
pub(in crate::analysis) struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn normal(&mut self) -> f64 {
        let (radius, angle) = ((1.0 - self.uniform()).ln(), self.uniform());
        (-2.0 * radius).sqrt() * (std::f64::consts::TAU * angle).cos()
    }
}

/// Moments in f32, as torch keeps them.
#[derive(Clone)]
pub(in crate::analysis) struct Adam {
    pub first: Vec<f32>,
    pub second: Vec<f32>,
    pub beta1: f64,
    pub beta2: f64,
    pub steps: u64,
}

impl Adam {
    pub fn new(elements: usize, beta1: f64, beta2: f64) -> Self {
        Self { first: vec![0.0; elements], second: vec![0.0; elements], beta1, beta2, steps: 0 }
    }

    pub fn step(&mut self, mut gradient: impl FnMut(usize) -> f64) {
        self.steps += 1;
        for (index, (first, second)) in self.first.iter_mut().zip(&mut self.second).enumerate() {
            let g = gradient(index);
            *first = (self.beta1 * f64::from(*first) + (1.0 - self.beta1) * g) as f32;
            *second = (self.beta2 * f64::from(*second) + (1.0 - self.beta2) * g * g) as f32;
        }
    }
}
