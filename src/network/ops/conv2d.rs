//! Cross-correlation of images with a kernel, as deep learning calls convolution:
//! `y[b, o, p, q] = β[o] + Σ W[o, c, u, v]·x[b, c, p·stride + u·dilation - before, …]` over the channels c of o's group.
//!
//! The patches of a group are the rows of a matrix X, its kernels those of W: `y = W·Xᵀ` is one product a group. So are
//! `Jᵀ·u = col2im(uᵀ·W)` and `∂/∂W = u·X`; X is laid out anew for each, which costs less than keeping it.

use super::{Described, only};
use crate::compute::{Backend, Binary, Gemm, Real, Spread, Window};
use crate::error::Result;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};
use crate::network::{Array, Gradients, ParameterId};

/// From `[batch, inputs, height, width]` to `[batch, outputs, …]`. Pairs are height before width.
#[derive(Debug, Clone)]
pub struct Conv2d {
    /// Channels that it takes.
    pub inputs: usize,
    /// Channels that it gives.
    pub outputs: usize,
    /// Groups of channels that do not see each other; their number divides both.
    pub groups: usize,
    /// Pixels of the kernel.
    pub kernel: [usize; 2],
    /// Pixels from one place of the kernel to the next.
    pub stride: [usize; 2],
    /// Zeros before and behind each axis.
    pub padding: [[usize; 2]; 2],
    /// Pixels from one pixel of the kernel to the next.
    pub dilation: [usize; 2],
    /// `outputs × inputs/groups × height × width`.
    pub weight: ParameterId,
    /// `outputs`.
    pub bias: Option<ParameterId>,
}

/// Places of a window of `taps` pixels on an axis, or a sentence that says that it does not fit.
pub(super) fn places(
    size: usize,
    taps: usize,
    stride: usize,
    [before, after]: [usize; 2],
    dilation: usize,
) -> std::result::Result<usize, String> {
    let reach = dilation * (taps - 1) + 1;
    (size + before + after).checked_sub(reach).map(|free| free / stride + 1).ok_or_else(|| {
        format!("a window that spans {reach} does not fit on {size} with {before} + {after} around")
    })
}

/// Zeros before and behind an axis that leave as many places as pixels at a stride of 1: `same` in PyTorch.
pub fn same_padding(kernel: usize, dilation: usize) -> [usize; 2] {
    let total = dilation * (kernel - 1);
    [total / 2, total - total / 2]
}

impl Conv2d {
    /// Where the kernel stands on these images.
    pub(super) fn window(&self, batch: usize, size: [usize; 2]) -> std::result::Result<Window, String> {
        let along = |axis: usize| {
            let (taps, stride) = (self.kernel[axis], self.stride[axis]);
            places(size[axis], taps, stride, self.padding[axis], self.dilation[axis])
        };
        Ok(Window {
            batch,
            channels: self.inputs,
            groups: self.groups,
            size,
            kernel: self.kernel,
            stride: self.stride,
            padding: [self.padding[0][0], self.padding[1][0]],
            dilation: self.dilation,
            places: [along(0)?, along(1)?],
        })
    }

    /// Numbers of a kernel.
    fn taps(&self) -> usize {
        self.inputs / self.groups * self.kernel[0] * self.kernel[1]
    }

    /// `y` without the bias, `[batch, outputs, …places]`.
    pub(super) fn product<B: Backend, T: Real>(
        &self,
        run: &Run<'_, B, T>,
        window: &Window,
        x: &B::Buffer<T>,
    ) -> Result<B::Buffer<T>> {
        let patches = patches(run, window, x)?;
        let gemm = self.gemm(self.outputs / self.groups, columns(window), self.taps());
        let mut y = run.backend.room(self.outputs * columns(window))?;
        let gemm = Gemm { transpose_b: true, ..gemm };
        run.backend.gemm(&gemm, &run.weights.get(self.weight).buffer, &patches, &mut y)?;
        if window.batch == 1 {
            return Ok(y);
        }
        let mut images = run.backend.room(self.outputs * columns(window))?;
        let shape = [self.outputs, window.batch, window.places[0] * window.places[1]];
        run.backend.permute(&shape, &[1, 0, 2], &y, &mut images)?;
        Ok(images)
    }

    /// `Jᵀ·u`.
    pub(super) fn pull_back<B: Backend, T: Real>(
        &self,
        run: &Run<'_, B, T>,
        window: &Window,
        u: &B::Buffer<T>,
    ) -> Result<B::Buffer<T>> {
        let by_channel = self.by_channel(run, window, u)?;
        let u = by_channel.as_ref().unwrap_or(u);
        let gemm = self.gemm(columns(window), self.taps(), self.outputs / self.groups);
        let mut patches = run.backend.room(window.patch_length())?;
        let gemm = Gemm { transpose_a: true, ..gemm };
        run.backend.gemm(&gemm, u, &run.weights.get(self.weight).buffer, &mut patches)?;
        let mut x = run.backend.zeros(window.image_length())?;
        run.backend.col2im(window, &patches, &mut x)?;
        Ok(x)
    }

    /// Adds the gradients of weight and bias.
    pub(super) fn gradient<B: Backend, T: Real>(
        &self,
        run: &Run<'_, B, T>,
        window: &Window,
        (x, u): (&B::Buffer<T>, &B::Buffer<T>),
        gradients: &mut Gradients<B, T>,
    ) -> Result<()> {
        if let Some(bias) = self.bias {
            let gradient = gradients.of(run.backend, bias, &[self.outputs])?;
            run.backend.reduce(self.channels(window), u, &mut gradient.buffer)?;
        }
        let patches = patches(run, window, x)?;
        let by_channel = self.by_channel(run, window, u)?;
        let u = by_channel.as_ref().unwrap_or(u);
        let gemm = self.gemm(self.outputs / self.groups, self.taps(), columns(window));
        let gemm = Gemm { beta: T::one(), ..gemm };
        let weight = gradients.of(run.backend, self.weight, &run.weights.get(self.weight).shape)?;
        run.backend.gemm(&gemm, u, &patches, &mut weight.buffer)
    }

    /// Adds the bias.
    pub(super) fn shift<B: Backend, T: Real>(
        &self,
        run: &Run<'_, B, T>,
        window: &Window,
        y: &mut B::Buffer<T>,
    ) -> Result<()> {
        match self.bias {
            None => Ok(()),
            Some(bias) => {
                let bias = &run.weights.get(bias).buffer;
                run.backend.broadcast(Binary::Add, self.channels(window), bias, y)
            }
        }
    }

    const fn channels(&self, window: &Window) -> Spread {
        Spread { count: self.outputs, inner: window.places[0] * window.places[1] }
    }

    /// `[batch, outputs, …]` with the channels before the batch, unless that is one image.
    fn by_channel<B: Backend, T: Real>(
        &self,
        run: &Run<'_, B, T>,
        window: &Window,
        u: &B::Buffer<T>,
    ) -> Result<Option<B::Buffer<T>>> {
        if window.batch == 1 {
            return Ok(None);
        }
        let mut by_channel = run.backend.room(self.outputs * columns(window))?;
        let shape = [window.batch, self.outputs, window.places[0] * window.places[1]];
        run.backend.permute(&shape, &[1, 0, 2], u, &mut by_channel)?;
        Ok(Some(by_channel))
    }

    /// One product a group.
    fn gemm<T: Real>(&self, m: usize, n: usize, k: usize) -> Gemm<T> {
        let (alpha, beta) = (T::one(), T::zero());
        Gemm { batch: self.groups, m, n, k, transpose_a: false, transpose_b: false, alpha, beta }
    }

    /// Floating-point operations of one forward pass.
    pub(super) fn products(&self, output: &[usize]) -> u64 {
        2 * self.taps() as u64 * output.iter().product::<usize>() as u64
    }
}

fn patches<B: Backend, T: Real>(
    run: &Run<'_, B, T>,
    window: &Window,
    x: &B::Buffer<T>,
) -> Result<B::Buffer<T>> {
    let mut patches = run.backend.room(window.patch_length())?;
    run.backend.im2col(window, T::zero(), x, &mut patches)?;
    Ok(patches)
}

/// Places of the kernel on all images.
const fn columns(window: &Window) -> usize {
    window.batch * window.places[0] * window.places[1]
}

/// The window on images of this shape, which was checked.
fn checked(conv: &Conv2d, shape: &[usize]) -> Window {
    conv.window(shape[0], [shape[2], shape[3]]).expect("shapes were checked")
}

impl Shaped for Conv2d {
    fn shape(&self, _: &[usize], inputs: &[&[usize]]) -> Described {
        match *only(inputs)? {
            [batch, channels, height, width] if channels == self.inputs => {
                let [rows, columns] = self.window(batch, [height, width])?.places;
                Ok(vec![batch, self.outputs, rows, columns])
            }
            ref shape => {
                Err(format!("takes batch × {} channels × height × width, not shape {shape:?}", self.inputs))
            }
        }
    }

    fn parameters(&self) -> Vec<ParameterId> {
        std::iter::once(self.weight).chain(self.bias).collect()
    }

    fn operations(&self, _: &[&[usize]], output: &[usize]) -> u64 {
        self.products(output)
    }
}

impl<B: Backend, T: Real> Operate<B, T> for Conv2d {
    fn forward(&self, run: &Run<'_, B, T>, inputs: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        let window = checked(self, &inputs[0].shape);
        let mut y = self.product(run, &window, &inputs[0].buffer)?;
        self.shift(run, &window, &mut y)?;
        let shape = vec![window.batch, self.outputs, window.places[0], window.places[1]];
        Ok((Array { shape, buffer: y }, Kept::nothing()))
    }

    fn jvp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        tangents: &[Option<&Array<B, T>>],
    ) -> Result<Array<B, T>> {
        let x = tangents[0].expect("the one input has a tangent");
        let buffer = self.product(run, &checked(self, &x.shape), &x.buffer)?;
        Ok(Array { shape: place.output.shape.clone(), buffer })
    }

    fn vjp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        _: &[bool],
    ) -> Result<Vec<Option<Array<B, T>>>> {
        let shape = place.inputs[0].shape.clone();
        let buffer = self.pull_back(run, &checked(self, &shape), &cotangent.buffer)?;
        Ok(vec![Some(Array { shape, buffer })])
    }

    fn parameter_gradient(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        gradients: &mut Gradients<B, T>,
    ) -> Result<()> {
        let x = place.inputs[0];
        self.gradient(run, &checked(self, &x.shape), (&x.buffer, &cotangent.buffer), gradients)
    }
}
