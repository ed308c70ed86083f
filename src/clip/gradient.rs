//! What a method works on when it has the gradients themselves: one parameter at one step. The trainer's and the tests' alike.

/// One parameter's gradient, and what a method may hold it against.
#[derive(Debug)]
pub struct Parameter<'a> {
    /// The gradient, row after row; clipped in place.
    pub gradient: &'a mut [f32],
    /// The weights, as many.
    pub weights: &'a [f32],
    /// Output units: the length of the first axis, or 1 for a tensor of one axis or none.
    pub units: usize,
    /// The optimizer's second moment, as many, where it keeps one.
    pub second_moment: Option<&'a [f32]>,
    /// It is of the output layer, which AGC leaves alone.
    pub is_head: bool,
}

/// What became of one step's gradient.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// Norm of the whole gradient before.
    pub norm: f64,
    /// And after.
    pub clipped_norm: f64,
    /// The step is not to be taken: the method skips it, or the gradient is not finite.
    pub skip: bool,
    /// Both moments are to be set to 0 before this step (SPAM).
    pub reset_moments: bool,
    /// Factor of the learning rate of each parameter, in their order; 1 where a method does not touch it.
    pub rates: Vec<f64>,
}

/// Independent sums of a norm, folded in index order at the end.
const LANES: usize = 8;

/// L2 norm, summed in f64 in eight lanes.
pub fn norm_of(elements: &[f32]) -> f64 {
    let (chunks, rest) = elements.as_chunks::<LANES>();
    let mut sums = [0.0f64; LANES];
    for chunk in chunks {
        for (sum, &element) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(element) * f64::from(element);
        }
    }
    let rest: f64 = rest.iter().map(|&element| f64::from(element).powi(2)).sum();
    (sums.iter().sum::<f64>() + rest).sqrt()
}

/// L2 norm over all parameters.
pub fn global_norm(parameters: &[Parameter<'_>]) -> f64 {
    parameters.iter().map(|parameter| norm_of(parameter.gradient).powi(2)).sum::<f64>().sqrt()
}

/// Multiplies every element.
pub fn scale(gradient: &mut [f32], factor: f64) {
    for element in gradient {
        *element = (f64::from(*element) * factor) as f32;
    }
}
