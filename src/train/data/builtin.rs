//! The built-in set: 100,000 noisy copies of 100 patterns of 10×10 non-negative numbers.
//!
//! Pattern c is uniform in [0, 1); an example of class c is the pattern with normal noise of deviation 0.6 added, and 0 where that
//! falls below it. Patterns are 4.1 apart on average, so that classes overlap a little and no network is right about all
//! of them. Example i is of class i mod 100.

use super::Examples;
use crate::parallel;
use crate::random::Stream;

/// Not the seed of a run: every run sees the same set.
const SEED: u64 = 10;

const EXAMPLES: usize = 100_000;
const CLASSES: usize = 100;
const SIDE: usize = 10;
const NOISE: f64 = 0.6;

/// Streams of noise begin here, behind those of the patterns.
const NOISE_STREAMS: u64 = 1 << 32;

pub(super) fn examples() -> Examples {
    let patterns: Vec<Vec<f64>> =
        (0..CLASSES as u64).map(|class| Stream::new(SEED, class).uniforms(SIDE * SIDE)).collect();
    let example = |index: usize| -> Vec<f32> {
        let noise = Stream::new(SEED, NOISE_STREAMS + index as u64).normals(SIDE * SIDE);
        let pattern = &patterns[index % CLASSES];
        pattern.iter().zip(noise).map(|(value, noise)| (value + NOISE * noise).max(0.0) as f32).collect()
    };
    let features: Vec<Vec<f32>> = parallel::map_indices(EXAMPLES, example);
    Examples {
        shape: vec![1, SIDE, SIDE],
        features: features.concat(),
        labels: (0..EXAMPLES).map(|index| (index % CLASSES) as u32).collect(),
        test: None,
    }
}
