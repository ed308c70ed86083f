//! Convolutions frequency by frequency.
//!
//! With the opposite edge beyond the edge and stride 1 the map falls apart into one small matrix a frequency (Sedghi, Gupta and Long 2019),
//! which gives all singular values; at the size `n + k − 1` the largest is an upper bound for zeros at size n, as that map is a piece of
//! this one.

use super::bidiagonal;
use super::convolution::{Convolution, Geometry, index_of};

impl Convolution {
    /// All singular values of a circular convolution of stride 1, largest first: those of the kernel's transform at every
    /// frequency. `None` for other convolutions, or where an iteration did not converge.
    pub fn circular_singular_values(&self) -> Option<Vec<f64>> {
        if !self.geometry.circular || self.geometry.stride.iter().any(|stride| *stride != 1) {
            return None;
        }
        let mut values: Vec<f64> = Vec::with_capacity(self.in_places * self.inputs.min(self.outputs));
        for frequency in 0..self.in_places {
            for group in 0..self.groups {
                values.extend(self.at_frequency(group, frequency, &self.geometry.input)?);
            }
        }
        values.sort_by(f64::total_cmp);
        values.reverse();
        Some(values)
    }

    /// Sizes of the input whose opposite edges no output of a stride reaches both of.
    fn sizes_beyond_reach(&self) -> Vec<usize> {
        let Geometry { input, dilation, .. } = &self.geometry;
        let reach = |axis: usize| dilation[axis] * (self.kernel[axis] - 1);
        input.iter().enumerate().map(|(axis, size)| size + reach(axis)).collect()
    }

    /// Multiplications that [`Self::fourier_bound`] takes, about.
    pub fn cost_of_fourier_bound(&self) -> u64 {
        let places =
            self.sizes_beyond_reach().iter().fold(1u64, |all, size| all.saturating_mul(*size as u64));
        let (outputs, inputs) = ((self.outputs / self.groups) as u64, (self.inputs / self.groups) as u64);
        // Bidiagonalisation of a matrix of twice as many rows and columns, at half of the frequencies.
        let symbol = 16u64.saturating_mul(outputs).saturating_mul(inputs).saturating_mul(outputs.min(inputs));
        let transform =
            2u64.saturating_mul(outputs).saturating_mul(inputs).saturating_mul(self.taps() as u64);
        let halves = (places / 2 + 1).saturating_mul(self.groups as u64);
        halves.saturating_mul(symbol.saturating_add(transform))
    }

    /// An upper bound of σ₁ where zeros are beyond the edge, for certain. On inputs that are larger by the reach of the kernel no output
    /// meets both edges, so that this map with the opposite edge beyond the edge holds the one with zeros as a piece: inputs that are
    /// zero in the margin, and the outputs that stride and padding leave. `None` where an iteration did not converge.
    pub fn fourier_bound(&self) -> Option<f64> {
        let sizes = self.sizes_beyond_reach();
        let mut largest = 0.0f64;
        for frequency in 0..sizes.iter().product() {
            let index = index_of(frequency, &sizes);
            // The transform of real weights at the opposite frequency is the conjugate, of the same singular values.
            let opposite =
                index.iter().zip(&sizes).fold(0, |place, (at, size)| place * size + (size - at) % size);
            if opposite < frequency {
                continue;
            }
            for group in 0..self.groups {
                largest = largest.max(*self.at_frequency(group, frequency, &sizes)?.first()?);
            }
        }
        Some(largest)
    }

    /// The singular values of a group at one frequency of inputs of these sizes, largest first.
    fn at_frequency(&self, group: usize, frequency: usize, sizes: &[usize]) -> Option<Vec<f64>> {
        let (symbol, rows, columns) = self.symbol(group, &index_of(frequency, sizes), sizes);
        let pairs = bidiagonal::singular_values(symbol, rows, columns)?;
        Some(pairs.into_iter().step_by(2).collect())
    }

    /// The transform of a group's kernel at one frequency, [Re −Im; Im Re]: each singular value comes twice.
    fn symbol(&self, group: usize, frequency: &[usize], sizes: &[usize]) -> (Vec<f64>, usize, usize) {
        let (outputs, inputs, taps) = (self.outputs / self.groups, self.inputs / self.groups, self.taps());
        let waves: Vec<(f64, f64)> = (0..taps)
            .map(|tap| {
                let offset = index_of(tap, &self.kernel);
                let turns: f64 = (0..offset.len())
                    .map(|axis| {
                        let steps =
                            offset[axis] * self.geometry.dilation[axis] * frequency[axis] % sizes[axis];
                        steps as f64 / sizes[axis] as f64
                    })
                    .sum();
                let (sine, cosine) = (std::f64::consts::TAU * turns).sin_cos();
                (cosine, sine)
            })
            .collect();
        let width = 2 * inputs;
        let mut symbol = vec![0.0; 2 * outputs * width];
        for output in 0..outputs {
            for input in 0..inputs {
                let kernel = &self.weights[((group * outputs + output) * inputs + input) * taps..][..taps];
                let real: f64 = kernel.iter().zip(&waves).map(|(w, wave)| w * wave.0).sum();
                let imaginary: f64 = kernel.iter().zip(&waves).map(|(w, wave)| w * wave.1).sum();
                symbol[output * width + input] = real;
                symbol[output * width + inputs + input] = -imaginary;
                symbol[(outputs + output) * width + input] = imaginary;
                symbol[(outputs + output) * width + inputs + input] = real;
            }
        }
        (symbol, 2 * outputs, width)
    }
}

#[cfg(test)]
mod tests {
    use super::super::convolution::tests::{Case, every, written_out};
    use super::*;
    use crate::random::Stream;

    #[test]
    fn the_values_by_frequency_are_those_of_the_circular_operator_written_out() {
        for groups in [1, 2] {
            let geometry = Geometry::same(&[5, 4], &[3, 3], true);
            let weights = Stream::new(3, 7).normals(4 * 2 / groups * 9);
            let (dense, rows, columns) = written_out(&weights, (4, 2), groups, &[3, 3], &geometry);
            let expected = bidiagonal::singular_values(dense, rows, columns).unwrap();
            let convolution = Convolution::new(weights, 4, groups, vec![3, 3], geometry).unwrap();
            let found = convolution.circular_singular_values().unwrap();
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-12, "{found} {expected}");
            }
        }
    }

    #[test]
    fn with_zeros_no_stride_padding_dilation_or_group_exceeds_the_bound() {
        let mut closest = f64::INFINITY;
        for Case { convolution, geometry, dense: (dense, rows, columns) } in every(false) {
            let largest = bidiagonal::singular_values(dense, rows, columns).unwrap()[0];
            let bound = convolution.fourier_bound().unwrap();
            let case = (&geometry, &convolution.kernel, convolution.groups);
            assert!(bound >= largest * (1.0 - 1e-12), "{case:?}: {largest} above {bound}");
            closest = closest.min(bound / largest);
            // A single tap is the same matrix at every place, which any stride leaves some of.
            if convolution.taps() == 1 {
                assert!(bound <= largest * (1.0 + 1e-12), "{case:?}: {largest} below {bound}");
            }
            // The norm of a whole image is at most that of all taps together.
            let sum: f64 = convolution.weights.iter().map(|weight| weight.abs()).sum();
            assert!(bound <= sum, "{case:?}");
        }
        assert!(closest < 1.0 + 1e-12);
    }

    /// The bound by half of the frequencies is the largest of all of them.
    #[test]
    fn the_bound_is_the_norm_of_the_larger_circular_convolution() {
        for (input, larger) in [([6, 5], [8, 9]), ([7, 6], [9, 10])] {
            let weights = Stream::new(4, 7).normals(3 * 2 * 9);
            let zeros = Geometry { dilation: vec![1, 2], ..Geometry::same(&input, &[3, 3], false) };
            let around = Geometry { dilation: vec![1, 2], ..Geometry::same(&larger, &[3, 3], true) };
            let (dense, rows, columns) = written_out(&weights, (3, 2), 1, &[3, 3], &around);
            let expected = bidiagonal::singular_values(dense, rows, columns).unwrap()[0];
            let bound = Convolution::new(weights, 3, 1, vec![3, 3], zeros).unwrap().fourier_bound().unwrap();
            assert!((bound / expected - 1.0).abs() < 1e-12, "{bound} {expected}");
        }
    }
}
