//! Quantities against simulated training, whose gradients are known.

use super::history::{History, history};
use super::pass::{Scales, Sums};
use super::simulation::{Adam, Noise};
use super::{gradient, signal, update};

const ELEMENTS: usize = 4000;

fn sums(adam: &Adam) -> (History, Sums) {
    let history = history(adam.beta1, adam.beta2, adam.steps as f64);
    let scales = Scales {
        first_correction: history.first_correction(),
        second_correction: history.second_correction(),
        epsilon: 1e-8,
        ..Scales::default()
    };
    let mut sums = Sums::new();
    for (index, (&first, &second)) in adam.first.iter().zip(&adam.second).enumerate() {
        sums.add(index as u64, [first.into(), second.into(), 1.0], [0.0; 2], &scales);
    }
    (history, sums)
}

#[test]
fn the_signal_share_is_recovered() {
    for (seed, share) in [(1, 0.091), (2, 0.333), (3, 0.5), (4, 0.75)] {
        let mut noise = Noise::new(seed);
        let means: Vec<f64> = (0..ELEMENTS).map(|_| f64::sqrt(share) * noise.normal()).collect();
        let mut adam = Adam::new(ELEMENTS, 0.9, 0.99);
        for _ in 0..400 {
            adam.step(|index| means[index] + f64::sqrt(1.0 - share) * noise.normal());
        }
        let (history, sums) = sums(&adam);
        let fraction = *signal::fraction(&history, &sums).value().unwrap();
        let found = *signal::share(fraction, signal::noise_floor(&history), ELEMENTS as u64).value().unwrap();
        assert!((found - share).abs() < 0.02, "{share}: {found}");
    }
}

/// I5 is the root of the mean square of the gradients, each weighted by how much of it v still holds: exactly, but for f32.
#[test]
fn the_norm_of_gradients_is_their_weighted_root_mean_square() {
    for beta2 in [0.95, 0.999] {
        let mut noise = Noise::new(6);
        let mut adam = Adam::new(ELEMENTS, 0.9, beta2);
        let (mut weighted, mut weights) = (0.0, 0.0);
        // Norms that vary from step to step, log-normally.
        for _ in 0..600 {
            let scale = (0.3 * noise.normal()).exp();
            let gradients: Vec<f64> = (0..ELEMENTS).map(|_| scale * noise.normal()).collect();
            let square: f64 = gradients.iter().map(|gradient| gradient * gradient).sum();
            weighted = beta2 * weighted + (1.0 - beta2) * square;
            weights = beta2 * weights + (1.0 - beta2);
            adam.step(|index| gradients[index]);
        }
        let (history, sums) = sums(&adam);
        let found = *gradient::norm(&history, &sums).value().unwrap();
        let expected = f64::sqrt(weighted / weights);
        // Each step rounds v by 2^-25 of it at most; 1/(1 - beta2) steps are remembered.
        let tolerance = 2f64.powi(-25) / (1.0 - beta2);
        assert!((found / expected - 1.0).abs() < tolerance, "{beta2}: {found} {expected}");
    }
}

/// As an estimate of the plain root mean square over the whole run, it is as good as its deviation says.
#[test]
fn the_norm_of_all_gradients_is_recovered_within_its_deviation() {
    for beta2 in [0.95, 0.999] {
        let mut noise = Noise::new(6);
        let mut adam = Adam::new(ELEMENTS, 0.9, beta2);
        let mut squares = 0.0;
        let steps = 600;
        for _ in 0..steps {
            let scale = (0.3 * noise.normal()).exp();
            squares += scale * scale / f64::from(steps);
            adam.step(|_| scale * noise.normal());
        }
        let (history, sums) = sums(&adam);
        let found = gradient::norm(&history, &sums).value().unwrap() / (ELEMENTS as f64).sqrt();
        let variation = ((4.0 * 0.09f64).exp() - 1.0).sqrt();
        let deviation = gradient::deviation(squares.sqrt(), variation, gradient::effective_steps(&history));
        assert!((found - squares.sqrt()).abs() < 2.0 * deviation, "{beta2}: {found} {deviation}");
    }
}

#[test]
fn the_update_of_noise_is_the_root_of_the_noise_floor() {
    let mut noise = Noise::new(8);
    let mut adam = Adam::new(ELEMENTS, 0.9, 0.999);
    for _ in 0..1000 {
        adam.step(|_| 1e-3 * noise.normal());
    }
    let (history, sums) = sums(&adam);
    let found = *update::rms(&history, &sums, ELEMENTS as u64).value().unwrap();
    assert!((found - 0.2294).abs() < 0.01, "{found}");
}
