//! The inner loops of a product with one vector, compiled for what the processor has.
//!
//! One text for every instruction set: the same operations on the same four lanes in the same order, and no product is
//! fused with a sum. So they give the same bits.

#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "entering code compiled for a detected feature")
)]
#![expect(clippy::inline_always, reason = "only what is inlined into an entry is compiled for its feature")]

macro_rules! for_this_processor {
    ($(#[$text:meta])* $name:ident, $avx2:ident, $anywhere:ident, ($($argument:ident: $type:ty),*)) => {
        $(#[$text])*
        pub(super) fn $name<T: Copy + Into<f64>>($($argument: $type),*) {
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") {
                // SAFETY: the processor has the one feature that this is compiled for.
                return unsafe { $avx2($($argument),*) };
            }
            $anywhere($($argument),*);
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2")]
        fn $avx2<T: Copy + Into<f64>>($($argument: $type),*) {
            $anywhere($($argument),*);
        }
    };
}

for_this_processor!(
    /// Adds `scale` times the dot products of the rows `elements` with x to y.
    dots, dots_avx2, add_dots, (elements: &[T], scale: f64, x: &[f64], y: &mut [f64])
);
for_this_processor!(
    /// Adds the combination of the rows `elements` with the factors x, times `scale`, to y.
    combine, combine_avx2, add_combination, (elements: &[T], scale: f64, x: &[f64], y: &mut [f64])
);

/// Independent sums of each row's dot product.
const LANES: usize = 4;

#[inline(always)]
fn add_dots<T: Copy + Into<f64>>(elements: &[T], scale: f64, x: &[f64], y: &mut [f64]) {
    let width = x.len();
    let line = |index: usize| &elements[index * width..(index + 1) * width];
    if let [a, b, c, d] = y {
        let (lines, rest) = ([line(0), line(1), line(2), line(3)], width - width % LANES);
        let mut sums = [[0.0f64; LANES]; 4];
        let chunks = lines.map(|line| line.as_chunks::<LANES>().0);
        let x_chunks = x.as_chunks::<LANES>().0;
        for (index, x) in x_chunks.iter().enumerate() {
            for row in 0..4 {
                let elements = &chunks[row][index];
                for lane in 0..LANES {
                    sums[row][lane] += elements[lane].into() * x[lane];
                }
            }
        }
        for (row, y) in [a, b, c, d].into_iter().enumerate() {
            let tail: f64 = (rest..width).map(|column| lines[row][column].into() * x[column]).sum();
            *y += scale * ((sums[row][0] + sums[row][1]) + (sums[row][2] + sums[row][3]) + tail);
        }
        return;
    }
    for (index, y) in y.iter_mut().enumerate() {
        let mut sums = [0.0f64; LANES];
        let (chunks, tail) = line(index).as_chunks::<LANES>();
        let (x_chunks, x_tail) = x.as_chunks::<LANES>();
        for (elements, x) in chunks.iter().zip(x_chunks) {
            for lane in 0..LANES {
                sums[lane] += elements[lane].into() * x[lane];
            }
        }
        let tail: f64 = tail.iter().zip(x_tail).map(|(&element, x)| element.into() * x).sum();
        *y += scale * ((sums[0] + sums[1]) + (sums[2] + sums[3]) + tail);
    }
}

#[inline(always)]
fn add_combination<T: Copy + Into<f64>>(elements: &[T], scale: f64, x: &[f64], y: &mut [f64]) {
    let width = y.len();
    let line = |index: usize| &elements[index * width..(index + 1) * width];
    if let &[a, b, c, d] = x {
        let factors = [a * scale, b * scale, c * scale, d * scale];
        let lines = line(0).iter().zip(line(1)).zip(line(2)).zip(line(3));
        for (y, (((&a, &b), &c), &d)) in y.iter_mut().zip(lines) {
            let pair = factors[0] * a.into() + factors[1] * b.into();
            *y += pair + (factors[2] * c.into() + factors[3] * d.into());
        }
        return;
    }
    for (index, x) in x.iter().enumerate() {
        for (y, &element) in y.iter_mut().zip(line(index)) {
            *y += x * scale * element.into();
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
    fn this_processor_gives_the_bits_of_the_plain_loops() {
        for (rows, columns) in [(1, 1), (3, 5), (4, 4), (4, 7), (4, 64), (4, 1001)] {
            let elements: Vec<f32> = numbers(rows * columns, 0.1).into_iter().map(|x| x as f32).collect();
            let (long, short) = (numbers(columns, 0.2), numbers(rows, 0.3));
            let (mut here, mut plain) = (short.clone(), short.clone());
            dots(&elements, 0.7, &long, &mut here);
            add_dots(&elements, 0.7, &long, &mut plain);
            assert_eq!(here, plain, "{rows} rows of {columns}");
            let (mut here, mut plain) = (long.clone(), long);
            combine(&elements, 0.7, &short, &mut here);
            add_combination(&elements, 0.7, &short, &mut plain);
            assert_eq!(here, plain, "{rows} rows of {columns}, transposed");
        }
    }
}
