//! The kernels that networks are made of against loops that are too plain to be wrong.

use super::*;
use crate::random::Stream;

fn numbers(stream: u64, count: usize) -> Vec<f64> {
    Stream::new(11, stream).normals(count)
}

fn close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= tolerance * expected.abs().max(1.0), "{at}: {found} {expected}");
    }
}

#[test]
fn a_product_is_the_sum_of_products_however_it_is_cut_and_transposed() {
    // One strip; strips of columns; strips of rows; many small ones; one column.
    for (batch, m, n, k) in
        [(1, 5, 7, 3), (1, 32, 700, 96), (1, 700, 33, 96), (40, 33, 31, 64), (3, 9, 1, 20)]
    {
        for (transpose_a, transpose_b) in [(false, false), (true, false), (false, true), (true, true)] {
            let gemm = Gemm { batch, m, n, k, transpose_a, transpose_b, alpha: 0.7, beta: -1.3 };
            let (a, b) = (numbers(1, batch * m * k), numbers(2, batch * k * n));
            let before = numbers(3, batch * m * n);
            let mut found = before.clone();
            Cpu.gemm(&gemm, &a, &b, &mut found).unwrap();
            let entry = |at: usize| {
                let (index, row, column) = (at / (m * n), at / n % m, at % n);
                let a = |l: usize| a[index * m * k + if transpose_a { l * m + row } else { row * k + l }];
                let b =
                    |l: usize| b[index * k * n + if transpose_b { column * k + l } else { l * n + column }];
                0.7 * (0..k).map(|l| a(l) * b(l)).sum::<f64>() - 1.3 * before[at]
            };
            let expected: Vec<f64> = (0..batch * m * n).map(entry).collect();
            close(&found, &expected, 1e-12);
        }
    }
}

#[test]
fn a_product_of_nothing_is_only_what_was_there() {
    let gemm =
        |m, n, k| Gemm { batch: 2, m, n, k, transpose_a: false, transpose_b: false, alpha: 1.0, beta: 0.5 };
    let mut c = vec![2.0; 12];
    Cpu.gemm(&gemm(3, 2, 0), &vec![], &vec![], &mut c).unwrap();
    assert_eq!(c, [1.0; 12]);
    Cpu.gemm::<f64>(&gemm(0, 2, 3), &vec![], &vec![1.0; 12], &mut vec![]).unwrap();
}

/// Kernels of several sizes, strides, paddings and groups.
fn windows() -> Vec<Window> {
    let plain = Window {
        batch: 2,
        channels: 4,
        groups: 1,
        size: [5, 6],
        kernel: [3, 2],
        stride: [1, 1],
        padding: [0, 0],
        dilation: [1, 1],
        places: [3, 5],
    };
    vec![
        plain,
        Window { groups: 2, padding: [1, 2], places: [5, 9], ..plain },
        Window { groups: 4, stride: [2, 3], padding: [1, 0], places: [3, 2], ..plain },
        Window { dilation: [2, 3], padding: [2, 0], places: [5, 3], ..plain },
        Window { kernel: [1, 1], size: [1, 6], places: [1, 6], ..plain },
    ]
}

/// `use_tap(pixel in the images, element of the patches)` for every tap of every window, `None` outside of the image.
fn for_each_tap(window: &Window, mut use_tap: impl FnMut(Option<usize>, usize)) {
    let Window { batch, channels, groups, size, kernel, stride, padding, dilation, places } = *window;
    let mut element = 0;
    for group in 0..groups {
        for image in 0..batch {
            for place in 0..places[0] * places[1] {
                for channel in 0..channels / groups {
                    for tap in 0..kernel[0] * kernel[1] {
                        let along = |place: usize, tap: usize, axis: usize| {
                            let at = (place * stride[axis] + tap * dilation[axis]).checked_sub(padding[axis]);
                            at.filter(|&at| at < size[axis])
                        };
                        let row = along(place / places[1], tap / kernel[1], 0);
                        let column = along(place % places[1], tap % kernel[1], 1);
                        let channel = group * (channels / groups) + channel;
                        let pixel = row.zip(column).map(|(row, column)| {
                            ((image * channels + channel) * size[0] + row) * size[1] + column
                        });
                        use_tap(pixel, element);
                        element += 1;
                    }
                }
            }
        }
    }
    assert_eq!(element, window.patch_length());
}

#[test]
fn patches_of_images_are_laid_out_and_added_back_as_the_formula_says() {
    for window in windows() {
        let image = numbers(4, window.image_length());
        let mut patches = vec![0.0; window.patch_length()];
        Cpu.im2col(&window, -9.0, &image, &mut patches).unwrap();
        for_each_tap(&window, |pixel, element| {
            assert_eq!(patches[element], pixel.map_or(-9.0, |pixel| image[pixel]), "{window:?}");
        });
        let values = numbers(5, window.patch_length());
        let (mut found, mut expected) = (image.clone(), image);
        Cpu.col2im(&window, &values, &mut found).unwrap();
        for_each_tap(&window, |pixel, element| {
            if let Some(pixel) = pixel {
                expected[pixel] += values[element];
            }
        });
        close(&found, &expected, 1e-13);
    }
}

#[test]
fn sums_over_an_axis_and_values_spread_along_it_are_those_of_a_loop() {
    for (outer, count, inner) in [(7, 200, 1), (3, 5, 130), (1, 1, 999), (4, 70, 3)] {
        let spread = Spread { count, inner };
        let x = numbers(6, outer * count * inner);
        let v = numbers(7, count);
        let (mut sums, mut expected) = (v.clone(), v.clone());
        Cpu.reduce(spread, &x, &mut sums).unwrap();
        for (at, x) in x.iter().enumerate() {
            expected[at / inner % count] += x;
        }
        close(&sums, &expected, 1e-12);
        for operation in [Binary::Add, Binary::Subtract, Binary::Multiply] {
            let apply = |x: f64, y: f64| match operation {
                Binary::Add => x + y,
                Binary::Subtract => x - y,
                Binary::Multiply => x * y,
            };
            let mut y = x.clone();
            Cpu.broadcast(operation, spread, &v, &mut y).unwrap();
            let expected: Vec<f64> =
                x.iter().enumerate().map(|(at, &x)| apply(x, v[at / inner % count])).collect();
            assert_eq!(y, expected);
            let mut z = vec![0.0; x.len()];
            Cpu.zip(operation, &x, &y, &mut z).unwrap();
            assert!(z.iter().zip(x.iter().zip(&y)).all(|(&z, (&x, &y))| z == apply(x, y)));
        }
    }
}

#[test]
fn softmax_keeps_its_sum_where_logits_are_huge_or_hidden() {
    let hidden = f64::NEG_INFINITY;
    let x = vec![1000.0, 999.0, hidden, -1e4, 0.0, 0.0, hidden, hidden];
    let mut p = vec![0.0; 8];
    Cpu.softmax(4, false, &x, &mut p).unwrap();
    let share = 1.0 / (1.0 + (-1.0f64).exp());
    close(&p, &[share, 1.0 - share, 0.0, 0.0, 0.5, 0.5, 0.0, 0.0], 1e-15);
    let mut logarithms = vec![0.0; 8];
    Cpu.softmax(4, true, &x, &mut logarithms).unwrap();
    let sum = (-1.0f64).exp().ln_1p();
    assert!((logarithms[3] - (-11_000.0 - sum)).abs() < 1e-9, "no logarithm of what underflowed");
    assert_eq!(logarithms[2], hidden);
}

#[test]
fn the_largest_of_a_row_is_the_first_of_equals_and_any_nan() {
    let x = vec![1.0, 3.0, 3.0, -1.0, -2.0, -1.0, 0.0, f64::NAN, 9.0];
    assert_eq!(Cpu.argmax(3, &x).unwrap(), [1, 3, 7]);
}

#[test]
fn rows_by_number_come_and_go() {
    let table = numbers(8, 12);
    let index = Cpu.index(&[3, 0, 3]).unwrap();
    let mut rows = vec![0.0; 9];
    Cpu.gather(3, &index, &table, &mut rows).unwrap();
    assert_eq!(rows, [&table[9..12], &table[0..3], &table[9..12]].concat());
    let mut sums = vec![0.0; 12];
    Cpu.scatter_add(3, &index, &vec![1.0, 2.0, 3.0, 10.0, 20.0, 30.0, 1.0, 2.0, 3.0], &mut sums).unwrap();
    assert_eq!(sums, [10.0, 20.0, 30.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 4.0, 6.0]);
}

#[test]
fn axes_are_put_in_another_order_and_strips_are_copied() {
    let shape = [2, 3, 4, 5];
    let x = numbers(9, 120);
    let mut y = vec![0.0; 120];
    Cpu.permute(&shape, &[2, 0, 3, 1], &x, &mut y).unwrap();
    for (at, &value) in x.iter().enumerate() {
        let [a, b, c, d] = [at / 60, at / 20 % 3, at / 5 % 4, at % 5];
        assert_eq!(y[((c * 2 + a) * 5 + d) * 3 + b], value);
    }
    let strip = Strip { rows: 2, columns: 2, from_width: 4, from: 1, to_width: 3, to: 1 };
    let mut y = vec![-1.0; 6];
    Cpu.copy_strip(&strip, &vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], &mut y).unwrap();
    assert_eq!(y, [-1.0, 1.0, 2.0, -1.0, 5.0, 6.0]);
}

#[test]
fn functions_keep_their_ends_and_a_nan() {
    let functions = [
        Unary::Relu,
        Unary::Relu6,
        Unary::LeakyRelu { slope: 0.1 },
        Unary::Elu { alpha: 1.0 },
        Unary::GeluErf,
        Unary::GeluTanh,
        Unary::GeluSigmoid,
        Unary::Silu,
        Unary::Tanh,
        Unary::Sigmoid,
        Unary::Softplus,
        Unary::SoftCap { cap: 2.0 },
    ];
    for function in functions {
        let mut y = vec![0.0; 4];
        let mut slope = vec![0.0; 4];
        Cpu.map(function, &vec![f64::NAN, 700.0, -700.0, 0.0], &mut y, Some(&mut slope)).unwrap();
        assert!(y[0].is_nan() && slope[0].is_nan(), "{function:?}");
        assert!(y[1..].iter().chain(&slope[1..]).all(|x| x.is_finite()), "{function:?}: {y:?} {slope:?}");
    }
}
