//! Convolutions as the linear maps they are, between whole inputs and outputs.
//!
//! The unfolded kernel, a matrix of `out × in·k²`, understates them: a smooth kernel adds its taps up. Here the value of record is
//! Lanczos on the convolution and its transpose, with zeros or the opposite edge beyond the edge, any stride, padding,
//! dilation and groups, in any number of spatial axes.

use super::operator::Operator;
use crate::compute::{Backend, Cpu, Gemm, Side};
use crate::error::Result;

/// A convolution between inputs of one size.
#[derive(Debug, Clone)]
pub struct Convolution {
    /// out × in/groups × taps, row-major.
    pub(super) weights: Vec<f64>,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) groups: usize,
    /// Sizes of the kernel.
    pub(super) kernel: Vec<usize>,
    pub(super) geometry: Geometry,
    /// For each output place and tap the input place, `NOWHERE` beyond the edge.
    places: Vec<usize>,
    pub(super) in_places: usize,
    out_places: usize,
}

/// How a kernel is laid over its input, an entry for each spatial axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    /// Sizes of the input.
    pub input: Vec<usize>,
    /// Distance between neighbouring outputs.
    pub stride: Vec<usize>,
    /// Zeros before and after the input, or how far the kernel reaches round the edge.
    pub padding: Vec<usize>,
    /// Distance between neighbouring taps.
    pub dilation: Vec<usize>,
    /// Beyond the edge is the opposite edge.
    pub circular: bool,
}

const NOWHERE: usize = usize::MAX;

/// Numbers that the unfolded input may hold at once.
const UNFOLDED: usize = 1 << 19;

impl Geometry {
    /// Stride 1, and outputs of the size of the input, for a kernel of these sizes.
    /// Padding such as `same` of even kernels is one-sided: what stands here is the nearest symmetric one.
    pub fn same(input: &[usize], kernel: &[usize], circular: bool) -> Self {
        Self {
            input: input.to_vec(),
            stride: vec![1; kernel.len()],
            padding: kernel.iter().map(|size| (size - 1) / 2).collect(),
            dilation: vec![1; kernel.len()],
            circular,
        }
    }

    /// Sizes of the output; `None` where the kernel does not fit in the input.
    pub fn output(&self, kernel: &[usize]) -> Option<Vec<usize>> {
        (0..kernel.len())
            .map(|axis| {
                if self.circular {
                    return Some(self.input[axis].div_ceil(self.stride[axis]));
                }
                let reach = self.dilation[axis] * (kernel[axis] - 1) + 1;
                let room = (self.input[axis] + 2 * self.padding[axis]).checked_sub(reach)?;
                Some(room / self.stride[axis] + 1)
            })
            .collect()
    }

    /// The input index along one axis for an output index and a tap.
    fn along(&self, axis: usize, output: usize, tap: usize) -> Option<usize> {
        let padded = output * self.stride[axis] + tap * self.dilation[axis];
        let size = self.input[axis];
        if self.circular {
            return Some(
                (padded + size * self.padding[axis].div_ceil(size.max(1)) - self.padding[axis]) % size,
            );
        }
        padded.checked_sub(self.padding[axis]).filter(|index| *index < size)
    }
}

impl Convolution {
    /// The convolution with these weights, `outputs × inputs/groups × kernel…`; `None` where the kernel does not fit in the input or the
    /// groups do not divide the channels.
    pub fn new(
        weights: Vec<f64>,
        outputs: usize,
        groups: usize,
        kernel: Vec<usize>,
        geometry: Geometry,
    ) -> Option<Self> {
        let taps: usize = kernel.iter().product();
        let inputs = weights.len().checked_div(outputs * taps)? * groups;
        if groups == 0 || !outputs.is_multiple_of(groups) || weights.len() * groups != outputs * inputs * taps
        {
            return None;
        }
        let output = geometry.output(&kernel)?;
        let (in_places, out_places) = (geometry.input.iter().product(), output.iter().product());
        let mut places = Vec::with_capacity(out_places * taps);
        for place in 0..out_places {
            let at = index_of(place, &output);
            for tap in 0..taps {
                let offset = index_of(tap, &kernel);
                let axes = (0..kernel.len()).map(|axis| geometry.along(axis, at[axis], offset[axis]));
                let input =
                    axes.zip(&geometry.input).try_fold(0, |place, (index, size)| Some(place * size + index?));
                places.push(input.unwrap_or(NOWHERE));
            }
        }
        Some(Self { weights, inputs, outputs, groups, kernel, geometry, places, in_places, out_places })
    }

    /// Rows and columns of the operator.
    pub fn sides(&self) -> (usize, usize) {
        (self.outputs * self.out_places, self.inputs * self.in_places)
    }

    pub(super) fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// √Σσ²: every tap of every output place that falls on the input.
    pub fn frobenius_norm(&self) -> f64 {
        let taps = self.taps();
        let mut uses = vec![0.0; taps];
        for (at, place) in self.places.iter().enumerate() {
            uses[at % taps] += f64::from(u8::from(*place != NOWHERE));
        }
        self.weights.iter().enumerate().map(|(at, w)| w * w * uses[at % taps]).sum::<f64>().sqrt()
    }

    /// Calls `use_part` with every group and run of output places whose unfolded input is held at once.
    fn parts(&self, mut use_part: impl FnMut(usize, std::ops::Range<usize>)) {
        let depth = self.inputs / self.groups * self.taps();
        let step = (UNFOLDED / depth.max(1)).clamp(1, self.out_places.max(1));
        for group in 0..self.groups {
            for first in (0..self.out_places).step_by(step) {
                use_part(group, first..(first + step).min(self.out_places));
            }
        }
    }

    fn plain(&self, backend: Cpu, x: &[f64], y: &mut [f64]) -> Result<()> {
        let (outputs, inputs, taps) = (self.outputs / self.groups, self.inputs / self.groups, self.taps());
        let mut outcome = Ok(());
        self.parts(|group, places| {
            let width = places.len();
            let mut unfolded = vec![0.0; inputs * taps * width];
            for (row, line) in unfolded.chunks_exact_mut(width).enumerate() {
                let (input, tap) = (row / taps, row % taps);
                let channel = &x[(group * inputs + input) * self.in_places..][..self.in_places];
                for (value, place) in line.iter_mut().zip(places.clone()) {
                    let from = self.places[place * taps + tap];
                    *value = if from == NOWHERE { 0.0 } else { channel[from] };
                }
            }
            let kernel = self.weights[group * outputs * inputs * taps..][..outputs * inputs * taps].to_vec();
            let mut product = vec![0.0; outputs * width];
            let gemm = dense(outputs, width, inputs * taps, false);
            if let Err(error) = backend.gemm(&gemm, &kernel, &unfolded, &mut product) {
                outcome = Err(error);
            }
            for (output, line) in product.chunks_exact(width).enumerate() {
                let row = (group * outputs + output) * self.out_places;
                y[row + places.start..row + places.end].copy_from_slice(line);
            }
        });
        outcome
    }

    fn transposed(&self, backend: Cpu, x: &[f64], y: &mut [f64]) -> Result<()> {
        let (outputs, inputs, taps) = (self.outputs / self.groups, self.inputs / self.groups, self.taps());
        y.fill(0.0);
        let mut outcome = Ok(());
        self.parts(|group, places| {
            let width = places.len();
            let mut given = vec![0.0; outputs * width];
            for (output, line) in given.chunks_exact_mut(width).enumerate() {
                let row = (group * outputs + output) * self.out_places;
                line.copy_from_slice(&x[row + places.start..row + places.end]);
            }
            let kernel = self.weights[group * outputs * inputs * taps..][..outputs * inputs * taps].to_vec();
            let mut unfolded = vec![0.0; inputs * taps * width];
            let gemm = dense(inputs * taps, width, outputs, true);
            if let Err(error) = backend.gemm(&gemm, &kernel, &given, &mut unfolded) {
                outcome = Err(error);
            }
            for (row, line) in unfolded.chunks_exact(width).enumerate() {
                let (input, tap) = (row / taps, row % taps);
                let channel = &mut y[(group * inputs + input) * self.in_places..][..self.in_places];
                for (value, place) in line.iter().zip(places.clone()) {
                    let to = self.places[place * taps + tap];
                    if to != NOWHERE {
                        channel[to] += value;
                    }
                }
            }
        });
        outcome
    }
}

impl Operator<Cpu> for Convolution {
    fn rows(&self) -> usize {
        self.outputs * self.out_places
    }

    fn columns(&self) -> usize {
        self.inputs * self.in_places
    }

    fn apply(&self, backend: &Cpu, side: Side, x: &Vec<f64>, y: &mut Vec<f64>) -> Result<()> {
        match side {
            Side::Plain => self.plain(*backend, x, y),
            Side::Transposed => self.transposed(*backend, x, y),
        }
    }
}

fn dense(m: usize, n: usize, k: usize, transpose_a: bool) -> Gemm<f64> {
    Gemm { batch: 1, m, n, k, transpose_a, transpose_b: false, alpha: 1.0, beta: 0.0 }
}

/// The index along each axis of a row-major place.
pub(super) fn index_of(mut place: usize, sizes: &[usize]) -> Vec<usize> {
    let mut index = vec![0; sizes.len()];
    for (axis, size) in sizes.iter().enumerate().rev() {
        index[axis] = place % size;
        place /= size;
    }
    index
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::random::Stream;

    #[expect(clippy::cast_possible_wrap, clippy::cast_sign_loss, reason = "indices of a few places")]
    /// The operator written out from the definition, element by element.
    pub fn written_out(
        weights: &[f64],
        channels: (usize, usize),
        groups: usize,
        kernel: &[usize; 2],
        geometry: &Geometry,
    ) -> (Vec<f64>, usize, usize) {
        let (outputs, inputs) = channels;
        let out = geometry.output(kernel).unwrap();
        let (height, width) = (geometry.input[0], geometry.input[1]);
        let (rows, columns) = (outputs * out[0] * out[1], inputs * height * width);
        let mut dense = vec![0.0; rows * columns];
        let (per_out, per_in) = (outputs / groups, inputs / groups);
        for o in 0..outputs {
            for i in 0..per_in {
                let channel = o / per_out * per_in + i;
                for y in 0..out[0] {
                    for x in 0..out[1] {
                        for ky in 0..kernel[0] {
                            for kx in 0..kernel[1] {
                                let v = (y * geometry.stride[0] + ky * geometry.dilation[0]) as i64
                                    - geometry.padding[0] as i64;
                                let u = (x * geometry.stride[1] + kx * geometry.dilation[1]) as i64
                                    - geometry.padding[1] as i64;
                                let (v, u) = if geometry.circular {
                                    (v.rem_euclid(height as i64), u.rem_euclid(width as i64))
                                } else {
                                    (v, u)
                                };
                                if v < 0 || u < 0 || v >= height as i64 || u >= width as i64 {
                                    continue;
                                }
                                let row = (o * out[0] + y) * out[1] + x;
                                let column = (channel * height + v as usize) * width + u as usize;
                                let weight = weights[((o * per_in + i) * kernel[0] + ky) * kernel[1] + kx];
                                dense[row * columns + column] += weight;
                            }
                        }
                    }
                }
            }
        }
        (dense, rows, columns)
    }

    /// A small convolution, and what it is made of.
    pub struct Case {
        pub convolution: Convolution,
        pub geometry: Geometry,
        /// The operator written out, its rows and its columns.
        pub dense: (Vec<f64>, usize, usize),
    }

    /// Convolutions of every stride, padding, dilation and group that fit into an input of 6×5.
    pub fn every(circular: bool) -> Vec<Case> {
        let (outputs, inputs) = (4, 2);
        let mut cases = Vec::new();
        for kernel in [[1, 1], [2, 3], [3, 3]] {
            for at in 0..48 {
                let (stride, padding, dilation, groups) =
                    (1 + at % 3, at / 3 % 4, 1 + at / 12 % 2, 1 + at / 24);
                let geometry = Geometry {
                    input: vec![6, 5],
                    stride: vec![stride, 1],
                    padding: vec![padding, padding / 2],
                    dilation: vec![dilation, 1],
                    circular,
                };
                let weights = Stream::new(2, 7).normals(outputs * inputs / groups * kernel[0] * kernel[1]);
                let made =
                    Convolution::new(weights.clone(), outputs, groups, kernel.to_vec(), geometry.clone());
                let Some(convolution) = made else {
                    assert!(geometry.output(&kernel).is_none());
                    continue;
                };
                let dense = written_out(&weights, (outputs, inputs), groups, &kernel, &geometry);
                cases.push(Case { convolution, geometry, dense });
            }
        }
        cases
    }

    #[test]
    fn it_is_the_operator_written_out_for_every_stride_padding_dilation_and_group() {
        for Case { convolution, geometry, dense: (dense, rows, columns) } in
            [false, true].into_iter().flat_map(every)
        {
            let case = (&geometry, &convolution.kernel, convolution.groups);
            assert_eq!(convolution.sides(), (rows, columns));
            let x = Stream::new(8, 1).normals(columns);
            let mut y = vec![0.0; rows];
            convolution.apply(&Cpu, Side::Plain, &x, &mut y).unwrap();
            let z = Stream::new(8, 2).normals(rows);
            let mut w = vec![0.0; columns];
            convolution.apply(&Cpu, Side::Transposed, &z, &mut w).unwrap();
            for row in 0..rows {
                let expected: f64 =
                    (0..columns).map(|column| dense[row * columns + column] * x[column]).sum();
                assert!((y[row] - expected).abs() < 1e-12, "{case:?}");
            }
            for column in 0..columns {
                let expected: f64 = (0..rows).map(|row| dense[row * columns + column] * z[row]).sum();
                assert!((w[column] - expected).abs() < 1e-12, "{case:?}");
            }
            let squares: f64 = dense.iter().map(|x| x * x).sum();
            // Taps that meet at one place round a small input add up in the operator.
            if !geometry.circular {
                assert!((convolution.frobenius_norm() / squares.sqrt() - 1.0).abs() < 1e-12, "{case:?}");
            }
        }
    }
}
