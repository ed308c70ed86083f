//! Rows that repeat or are zero, and pages that were lost or repeated, in files made to have them.

use std::path::Path;
use std::sync::Arc;

use flashpoint::analysis::model::{Degenerate, Measured, Pages, Rows};
use flashpoint::analysis::statistics::{measure_pages, measure_rows};
use flashpoint::context::Context;
use flashpoint::files::InputFile;
use flashpoint::tensor::{DType, Tensor};

/// The file offset of the tensor: no multiple of a page or of an element's size but 4.
const OFFSET: usize = 1316;

fn contexts() -> [Context; 2] {
    [Context::default(), Context { mmap: false, ..Context::default() }]
}

fn tensor(directory: &Path, dtype: DType, shape: &[u64], bytes: &[u8], context: &Context) -> Tensor {
    let path = directory.join("tensor");
    std::fs::write(&path, [&[0xa5; OFFSET][..], bytes].concat()).unwrap();
    let file = Arc::new(InputFile::open(&path, context).unwrap());
    let range = OFFSET as u64..file.len();
    Tensor::contiguous(dtype, shape.to_vec(), file, range).unwrap()
}

/// Numbers without zeros or repeats, from −1 to 1.
fn noise(count: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9u32;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..count).map(next).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn rows(shape: &[u64], values: &[f32]) -> Measured<Rows> {
    let directory = tempfile::tempdir().unwrap();
    let [mapped, read] = contexts().map(|context| {
        let tensor = tensor(directory.path(), DType::F32, shape, &bytes(values), &context);
        measure_rows(&tensor, &context).unwrap()
    });
    assert_eq!(mapped, read);
    mapped
}

fn pages(shape: &[u64], bytes: &[u8]) -> Pages {
    let directory = tempfile::tempdir().unwrap();
    let zeros = bytes.chunks(4).filter(|element| **element == [0; 4]).count() as u64;
    let [mapped, read] = contexts().map(|context| {
        let tensor = tensor(directory.path(), DType::F32, shape, bytes, &context);
        measure_pages(&tensor, zeros, &context).unwrap()
    });
    assert_eq!(mapped, read);
    mapped.value().unwrap().clone()
}

/// Offset in the tensor's bytes of the `page`th whole page of the file under it.
fn page_start(page: usize) -> usize {
    (page + 1) * 4096 - OFFSET
}

// Rows.

#[test]
fn row_norms_are_those_of_the_rows() {
    let (count, width) = (501, 77);
    let mut values = noise(count * width);
    values[7 * width..8 * width].fill(0.0);
    let Measured::Value(found) = rows(&[501, 7, 11], &values) else { panic!() };
    let norm = |row: &[f32]| row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let norms: Vec<f64> = values.chunks(width).map(norm).collect();
    let largest = (0..count).max_by(|&a, &b| norms[a].total_cmp(&norms[b])).unwrap();
    let mut sorted = norms.clone();
    sorted.sort_by(f64::total_cmp);
    assert_eq!((found.count, found.zero, found.duplicates, found.largest_row), (501, 1, 0, largest as u64));
    assert!((found.largest_norm / norms[largest] - 1.0).abs() < 1e-14);
    assert!((found.median_norm / sorted[count / 2] - 1.0).abs() < 1e-14);
}

#[test]
fn copies_negations_and_near_copies_are_duplicates_and_others_are_not() {
    let (count, width) = (300, 128);
    let mut values = noise(count * width);
    let row = |index: usize| index * width..(index + 1) * width;
    values.copy_within(row(3), row(200).start);
    for column in 0..width {
        values[250 * width + column] = -values[5 * width + column];
        // Off by 1e-7 of itself: cos is 1 − 1e-14.
        values[260 * width + column] = values[9 * width + column] * (1.0 + 1.2e-7);
        // Every other column turned: the same norm, another direction.
        values[270 * width + column] = values[11 * width + column] * if column % 2 == 0 { 1.0 } else { -1.0 };
        // Twice as long.
        values[280 * width + column] = values[13 * width + column] * 2.0;
    }
    assert_eq!(rows(&[300, 128], &values).value().unwrap().duplicates, 3);
}

#[test]
fn all_rows_but_the_first_of_equal_ones_are_duplicates() {
    let row = noise(64);
    assert_eq!(rows(&[5000, 64], &row.repeat(5000)).value().unwrap().duplicates, 4999);
}

#[test]
fn the_rows_of_an_identity_matrix_are_told_apart() {
    let size = 500;
    let mut values = vec![0.0; size * size];
    (0..size).for_each(|index| values[index * size + index] = 1.0);
    let found = rows(&[500, 500], &values);
    assert_eq!(found.value().map(|rows| (rows.duplicates, rows.largest_norm)), Some((0, 1.0)));
}

#[test]
fn more_equal_norms_than_can_be_compared_are_not_measured() {
    // Every row is a distinct pair of ones: all norms equal, few columns to tell them apart by.
    let width = 200;
    let mut values = Vec::new();
    for (one, two) in (0..width).flat_map(|one| (0..one).map(move |two| (one, two))) {
        let mut row = vec![0.0f32; width];
        (row[one], row[two]) = (1.0, 1.0);
        values.extend(row);
    }
    let found = rows(&[19_900, 200], &values);
    assert!(matches!(&found, Measured::NotMeasured(reason) if reason.contains("comparisons")), "{found:?}");
}

#[test]
fn rows_with_nan_take_no_part() {
    let mut values = noise(100 * 32);
    values[10 * 32] = f32::NAN;
    values[20 * 32] = f32::INFINITY;
    let found = rows(&[100, 32], &values);
    let found = found.value().unwrap();
    assert_eq!(found.count, 100);
    assert!(found.largest_norm.is_finite());
    assert_eq!(rows(&[2, 2], &[f32::NAN; 4]), Measured::Degenerate(Degenerate::NoFiniteElement));
}

#[test]
fn rows_of_doubles_beyond_the_range_of_squares_have_norms() {
    let directory = tempfile::tempdir().unwrap();
    let context = Context::default();
    let values = [3e200, 4e200, 3e-200, 4e-200, 0.0, 0.0f64];
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let tensor = tensor(directory.path(), DType::F64, &[3, 2], &bytes, &context);
    let found = measure_rows(&tensor, &context).unwrap();
    let found = found.value().unwrap();
    assert_eq!(found.zero, 1);
    assert!(
        (found.largest_norm / 5e200 - 1.0).abs() < 1e-14 && (found.median_norm / 5e-200 - 1.0).abs() < 1e-14
    );
}

#[test]
fn what_has_no_rows_says_so() {
    assert!(matches!(rows(&[4], &[1.0; 4]), Measured::NotMeasured(_)));
    assert_eq!(rows(&[0, 4], &[]), Measured::Degenerate(Degenerate::Empty));
}

// Pages.

/// A matrix whose rows are no multiple of a page.
const SHAPE: [u64; 2] = [64, 1500];

fn matrix() -> Vec<u8> {
    bytes(&noise(64 * 1500))
}

#[test]
fn noise_has_no_lost_and_no_repeated_page() {
    let found = pages(&SHAPE, &matrix());
    let whole = (OFFSET + 64 * 1500 * 4) / 4096 - 1;
    assert_eq!(
        found,
        Pages { count: whole as u64, lost: 0, first_lost: None, repeated: 0, first_repeated: None }
    );
}

#[test]
fn a_zeroed_page_of_the_file_is_lost() {
    let mut data = matrix();
    data[page_start(3)..page_start(5)].fill(0);
    let found = pages(&SHAPE, &data);
    assert_eq!((found.lost, found.first_lost), (2, Some(4 * 4096)));
}

#[test]
fn a_tail_that_was_never_written_is_lost() {
    let mut data = matrix();
    data[page_start(60)..].fill(0);
    let found = pages(&SHAPE, &data);
    assert_eq!(found.first_lost, Some(61 * 4096));
    assert_eq!(found.lost, ((OFFSET + data.len() - 61 * 4096) as u64).div_ceil(4096));
}

#[test]
fn zeros_that_ignore_the_pages_of_the_file_are_not_lost() {
    let mut data = matrix();
    data[page_start(3) + 400..page_start(5) + 400].fill(0);
    assert_eq!(pages(&SHAPE, &data).lost, 0);
}

#[test]
fn rows_of_zeros_are_not_lost_even_where_they_meet_a_page() {
    // Rows of one page, and a file where the tensor begins at a page.
    let directory = tempfile::tempdir().unwrap();
    let context = Context::default();
    let path = directory.path().join("aligned");
    let mut data = bytes(&noise(64 * 1024));
    data[5 * 4096..7 * 4096].fill(0);
    data[60 * 4096..].fill(0);
    std::fs::write(&path, [&[1; 4096][..], &data].concat()).unwrap();
    let file = Arc::new(InputFile::open(&path, &context).unwrap());
    let range = 4096..file.len();
    let tensor = Tensor::contiguous(DType::F32, vec![64, 1024], file, range).unwrap();
    let found = measure_pages(&tensor, 6 * 1024, &context).unwrap();
    assert_eq!(found.value().unwrap().lost, 0);
}

#[test]
fn a_page_written_twice_is_repeated() {
    let mut data = matrix();
    data.copy_within(page_start(2)..page_start(3), page_start(20));
    let found = pages(&SHAPE, &data);
    assert_eq!((found.repeated, found.first_repeated), (1, Some(21 * 4096)));
    assert_eq!(found.lost, 0);
}

#[test]
fn constant_pages_and_whole_equal_rows_are_not_repeated() {
    assert_eq!(pages(&SHAPE, &bytes(&vec![0.5; 64 * 1500])).repeated, 0);
    // 256 rows further on, every page of the first copy meets the same bytes: 256·6000 is a multiple of 4096.
    let copy = bytes(&noise(256 * 1500));
    assert_eq!(pages(&[512, 1500], &[&copy[..], &copy[..]].concat()).repeated, 0);
}
