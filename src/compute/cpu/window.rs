//! Patches of images: laid out one a row for a matrix product, and added back.

use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use crate::compute::{Real, Window};

pub(super) fn im2col<T: Real>(window: &Window, outside: T, x: &[T], y: &mut [T]) {
    assert!(x.len() == window.image_length() && y.len() == window.patch_length());
    if y.is_empty() {
        return;
    }
    let Layout { channels, row, pixels } = Layout::of(window);
    // A row of places in a group of an image a task: they do not meet.
    y.par_chunks_mut(window.places[1] * row).enumerate().for_each(|(task, y)| {
        let (group, image, p) = place(window, task);
        for (q, y) in y.chunks_exact_mut(row).enumerate() {
            for (channel, y) in y.chunks_exact_mut(window.kernel[0] * window.kernel[1]).enumerate() {
                let x = &x[((image * window.groups + group) * channels + channel) * pixels..][..pixels];
                for (u, y) in y.chunks_exact_mut(window.kernel[1]).enumerate() {
                    for (v, y) in y.iter_mut().enumerate() {
                        *y = pixel(window, [p, q], [u, v]).map_or(outside, |at| x[at]);
                    }
                }
            }
        }
    });
}

pub(super) fn col2im<T: Real>(window: &Window, x: &[T], y: &mut [T]) {
    assert!(y.len() == window.image_length() && x.len() == window.patch_length());
    if x.is_empty() {
        return;
    }
    let Layout { channels, row, pixels } = Layout::of(window);
    let taps = window.kernel[0] * window.kernel[1];
    let patches = window.places[0] * window.places[1];
    // A channel of an image a task: each of its pixels gets its sum in the order of the patches.
    y.par_chunks_mut(pixels).enumerate().for_each(|(task, y)| {
        let (image, channel) = (task / window.channels, task % window.channels);
        let (group, channel) = (channel / channels, channel % channels);
        let x = &x[(group * window.batch + image) * patches * row..][..patches * row];
        for (patch, x) in x.chunks_exact(row).enumerate() {
            let at = [patch / window.places[1], patch % window.places[1]];
            for (tap, &x) in x[channel * taps..][..taps].iter().enumerate() {
                let tap = [tap / window.kernel[1], tap % window.kernel[1]];
                if let Some(pixel) = pixel(window, at, tap) {
                    y[pixel] = y[pixel] + x;
                }
            }
        }
    });
}

struct Layout {
    /// Channels of a group.
    channels: usize,
    /// Elements of a patch in a group.
    row: usize,
    /// Pixels of a channel.
    pixels: usize,
}

impl Layout {
    fn of(window: &Window) -> Self {
        let channels = window.channels / window.groups;
        let row = channels * window.kernel[0] * window.kernel[1];
        Self { channels, row, pixels: window.size[0] * window.size[1] }
    }
}

/// Group, image and first place of the n-th row of places.
fn place(window: &Window, task: usize) -> (usize, usize, usize) {
    let (rest, p) = (task / window.places[0], task % window.places[0]);
    (rest / window.batch, rest % window.batch, p)
}

/// The pixel under a tap of the window, where it lies in the image.
fn pixel(window: &Window, at: [usize; 2], tap: [usize; 2]) -> Option<usize> {
    let along = |axis: usize| {
        let padded = at[axis] * window.stride[axis] + tap[axis] * window.dilation[axis];
        padded.checked_sub(window.padding[axis]).filter(|&at| at < window.size[axis])
    };
    Some(along(0)? * window.size[1] + along(1)?)
}
