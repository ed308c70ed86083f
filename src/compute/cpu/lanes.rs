//! The inner loops of a product with one vector, compiled for what the processor has.
//!
//! One text for every instruction set: the same operations on the same four lanes in the same order, and no product is
//! fused with a sum. So they give the same bits.

#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "entering code compiled for a detected feature")
)]
#![expect(clippy::inline_always, reason = "only what is inlined into an entry is compiled for its feature")]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256d, _mm_castsi128_ps, _mm_loadl_epi64, _mm_loadu_ps, _mm_setzero_si128, _mm_unpacklo_epi16,
    _mm256_add_pd, _mm256_cvtps_pd, _mm256_loadu_pd, _mm256_mul_pd, _mm256_setzero_pd, _mm256_storeu_pd,
};

/// Rows that are multiplied together.
pub(super) const ROWS: usize = 4;

/// Independent sums of each row's dot product.
const LANES: usize = 4;

/// An element as it is stored, little-endian where it is bytes.
pub(super) trait Stored: Copy {
    /// Its value.
    fn value(self) -> f64;

    /// The values of four, in a register.
    ///
    /// # Safety
    /// Only for what is inlined into code compiled for AVX2.
    #[cfg(target_arch = "x86_64")]
    unsafe fn four(elements: &[Self; LANES]) -> __m256d;
}

/// [`Stored`] of a type: its value by `$value`, four of them by `$load` from the address of the first.
macro_rules! stored {
    ($(#[$text:meta])* $type:ty, |$element:ident| $value:expr, |$address:ident| $load:expr) => {
        $(#[$text])*
        impl Stored for $type {
            #[inline(always)]
            fn value(self) -> f64 {
                let $element = self;
                $value
            }

            #[cfg(target_arch = "x86_64")]
            #[inline(always)]
            unsafe fn four(elements: &[Self; LANES]) -> __m256d {
                let $address = elements.as_ptr();
                // SAFETY: four elements are there, and the loads need no alignment; the caller has AVX2.
                unsafe { $load }
            }
        }
    };
}

stored!(f32, |x| f64::from(x), |address| _mm256_cvtps_pd(_mm_loadu_ps(address)));
stored!(
    /// An f64.
    [u8; 8], |x| f64::from_le_bytes(x), |address| _mm256_loadu_pd(address.cast())
);
stored!(
    /// An f32.
    [u8; 4], |x| f64::from(f32::from_le_bytes(x)), |address| _mm256_cvtps_pd(_mm_loadu_ps(address.cast()))
);
stored!(
    /// A bf16: the upper half of an f32.
    [u8; 2],
    |x| f64::from(f32::from_bits(u32::from(u16::from_le_bytes(x)) << 16)),
    |address| {
        let words = _mm_loadl_epi64(address.cast());
        _mm256_cvtps_pd(_mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), words)))
    }
);

/// Adds `scale` times the dot products of up to four `lines` with x to y, each as long as x.
pub(super) fn dots<T: Stored>(lines: &[&[T]], scale: f64, x: &[f64], y: &mut [f64]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the one feature that this is compiled for.
        return unsafe { dots_avx2(lines, scale, x, y) };
    }
    add_dots(lines, scale, x, y, dot_four);
}

/// Adds the combination of up to four `lines` with the factors x, times `scale`, to y.
pub(super) fn combine<T: Stored>(lines: &[&[T]], scale: f64, x: &[f64], y: &mut [f64]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: as above.
        return unsafe { combine_avx2(lines, scale, x, y) };
    }
    add_combination(lines, scale, x, y);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dots_avx2<T: Stored>(lines: &[&[T]], scale: f64, x: &[f64], y: &mut [f64]) {
    add_dots(lines, scale, x, y, |lines, x| dot_four_avx2(lines, x));
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn combine_avx2<T: Stored>(lines: &[&[T]], scale: f64, x: &[f64], y: &mut [f64]) {
    add_combination(lines, scale, x, y);
}

// Loops go by index: iterators over arrays, and `zip`, are calls where crates are not optimised together.

#[inline(always)]
fn add_dots<T: Stored>(
    lines: &[&[T]],
    scale: f64,
    x: &[f64],
    y: &mut [f64],
    dot_four: impl Fn([&[T]; ROWS], &[f64]) -> [f64; ROWS],
) {
    if let (&[a, b, c, d], [y0, y1, y2, y3]) = (lines, &mut *y) {
        let sums = dot_four([a, b, c, d], x);
        *y0 += scale * sums[0];
        *y1 += scale * sums[1];
        *y2 += scale * sums[2];
        *y3 += scale * sums[3];
        return;
    }
    for row in 0..lines.len() {
        y[row] += scale * dot_one(lines[row], x);
    }
}

#[inline(always)]
fn dot_four<T: Stored>(lines: [&[T]; ROWS], x: &[f64]) -> [f64; ROWS] {
    let mut dots = [0.0; ROWS];
    for row in 0..ROWS {
        dots[row] = dot_one(lines[row], x);
    }
    dots
}

/// [`dot_four`] with the sums of all rows in registers: left to itself, the compiler puts the rows side by side and takes
/// their elements one by one.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dot_four_avx2<T: Stored>(lines: [&[T]; ROWS], x: &[f64]) -> [f64; ROWS] {
    let [a, b, c, d] = lines;
    let xs = x.as_chunks::<LANES>().0;
    let (a, b) = (&a.as_chunks::<LANES>().0[..xs.len()], &b.as_chunks::<LANES>().0[..xs.len()]);
    let (c, d) = (&c.as_chunks::<LANES>().0[..xs.len()], &d.as_chunks::<LANES>().0[..xs.len()]);
    let mut sums = [_mm256_setzero_pd(); ROWS];
    for at in 0..xs.len() {
        // SAFETY: four numbers are there; the elements are loaded in code compiled for AVX2.
        let (x, a, b, c, d) = unsafe {
            (
                _mm256_loadu_pd(xs[at].as_ptr()),
                T::four(&a[at]),
                T::four(&b[at]),
                T::four(&c[at]),
                T::four(&d[at]),
            )
        };
        sums[0] = _mm256_add_pd(sums[0], _mm256_mul_pd(a, x));
        sums[1] = _mm256_add_pd(sums[1], _mm256_mul_pd(b, x));
        sums[2] = _mm256_add_pd(sums[2], _mm256_mul_pd(c, x));
        sums[3] = _mm256_add_pd(sums[3], _mm256_mul_pd(d, x));
    }
    let mut dots = [0.0; ROWS];
    for row in 0..ROWS {
        let mut lanes = [0.0; LANES];
        // SAFETY: there is room for four numbers, of any alignment.
        unsafe { _mm256_storeu_pd(lanes.as_mut_ptr(), sums[row]) };
        dots[row] = joined(lanes, lines[row], x);
    }
    dots
}

#[inline(always)]
fn add_products<T: Stored>(sums: &mut [f64; LANES], elements: &[T; LANES], x: &[f64; LANES]) {
    for lane in 0..LANES {
        sums[lane] += elements[lane].value() * x[lane];
    }
}

#[inline(always)]
fn dot_one<T: Stored>(line: &[T], x: &[f64]) -> f64 {
    let (chunks, xs) = (line.as_chunks::<LANES>().0, x.as_chunks::<LANES>().0);
    let mut sums = [0.0f64; LANES];
    for at in 0..xs.len() {
        add_products(&mut sums, &chunks[at], &xs[at]);
    }
    joined(sums, line, x)
}

/// The sums of the lanes, and of what is left behind the last whole ones.
#[inline(always)]
fn joined<T: Stored>(sums: [f64; LANES], line: &[T], x: &[f64]) -> f64 {
    let mut tail = 0.0;
    for column in x.len() - x.len() % LANES..x.len() {
        tail += line[column].value() * x[column];
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3]) + tail
}

#[inline(always)]
fn add_combination<T: Stored>(lines: &[&[T]], scale: f64, x: &[f64], y: &mut [f64]) {
    let width = y.len();
    if let (&[a, b, c, d], &[x0, x1, x2, x3]) = (lines, x) {
        let factors = [x0 * scale, x1 * scale, x2 * scale, x3 * scale];
        let (a, b, c, d) = (&a[..width], &b[..width], &c[..width], &d[..width]);
        for column in 0..width {
            let pair = factors[0] * a[column].value() + factors[1] * b[column].value();
            y[column] += pair + (factors[2] * c[column].value() + factors[3] * d[column].value());
        }
        return;
    }
    for row in 0..lines.len() {
        let (line, factor) = (&lines[row][..width], x[row] * scale);
        for column in 0..width {
            y[column] += factor * line[column].value();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that rounding touches.
    fn numbers(count: usize, first: f64) -> Vec<f64> {
        (0..count).map(|index| (first + 1.7 * index as f64).sin()).collect()
    }

    #[test]
    fn bytes_are_worth_what_they_store() {
        for value in [0.0, -0.0, 1.5, -3.25e-7, 1e30, f32::MIN_POSITIVE / 8.0] {
            assert_eq!(value.to_le_bytes().value().to_bits(), f64::from(value).to_bits());
            assert_eq!(f64::from(value).to_le_bytes().value().to_bits(), f64::from(value).to_bits());
            let half = half::bf16::from_f32(value);
            assert_eq!(half.to_le_bytes().value().to_bits(), half.to_f64().to_bits());
        }
    }

    #[test]
    fn this_processor_gives_the_bits_of_the_plain_loops() {
        for (rows, columns) in [(1, 1), (3, 5), (4, 4), (4, 7), (4, 64), (4, 1001)] {
            let elements: Vec<f32> = numbers(rows * columns, 0.1).into_iter().map(|x| x as f32).collect();
            let (long, short) = (numbers(columns, 0.2), numbers(rows, 0.3));
            let lines: Vec<&[f32]> = elements.chunks(columns).collect();
            let (mut here, mut plain) = (short.clone(), short.clone());
            dots(&lines, 0.7, &long, &mut here);
            add_dots(&lines, 0.7, &long, &mut plain, dot_four);
            assert_eq!(here, plain, "{rows} rows of {columns}");
            let (mut here, mut plain) = (long.clone(), long);
            combine(&lines, 0.7, &short, &mut here);
            add_combination(&lines, 0.7, &short, &mut plain);
            assert_eq!(here, plain, "{rows} rows of {columns}, transposed");
        }
    }
}
