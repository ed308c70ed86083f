//! Products with stored matrices. One that fits is kept on the device as it is stored, and read there as often as it takes; of one that
//! does not, panels of rows, or of columns, come one after the other, each time anew.

use std::ops::Range;

use super::Cuda;
use super::backend::{Buffer, blocks};
use super::block::{MOST_VECTORS, Stored, Target, fold};
use super::driver::{Argument, Memory};
use super::fault::Fault;
use super::kernels::{self, Module};
use super::upload::upload;
use crate::compute::{Gemm, Matrix, Side};
use crate::error::Result;

/// Elements of a panel that is widened to f64: 512 MB.
const PANEL: usize = 1 << 26;

/// Rows that one thread combines at least, and parts at most.
const LEAST_ROWS: usize = 64;
const MOST_PARTS: usize = 256;

/// Kernels over the matrix's dtype; zeros are what is no float, and no kernel reads it.
fn module(matrix: &Matrix<'_>) -> Module {
    Module::stored(matrix.dtype()).expect("only floats have spectra")
}

fn size(matrix: &Matrix<'_>) -> usize {
    matrix.dtype().size().expect("only dtypes of whole bytes are matrices") as usize
}

/// Panels of at most so many elements along one side of `length`, whose lines have `line` elements.
fn panels(length: usize, line: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let step = (most / line.max(1)).clamp(1, length.max(1));
    (0..length).step_by(step).map(move |first| first..(first + step).min(length))
}

impl Cuda<'_> {
    /// The resident matrix, if this is it.
    fn resident(&self, matrix: &Matrix<'_>) -> Option<&Memory> {
        let (held, memory) = self.resident.as_ref()?;
        std::ptr::eq(std::ptr::from_ref(*held).cast::<()>(), std::ptr::from_ref(matrix).cast::<()>())
            .then_some(memory)
    }

    /// Elements of panels, by what is left of the memory.
    fn panel_elements(&self) -> usize {
        (self.device.driver.left() / 4 / size_of::<f64>()).clamp(1, PANEL)
    }

    /// These rows and columns in f64, dense; what is not resident is uploaded.
    fn widened(&self, matrix: &Matrix<'_>, rows: Range<usize>, columns: Range<usize>) -> Result<Buffer<f64>> {
        let count = rows.len() * columns.len();
        if let Some(memory) = self.resident(matrix) {
            let width = matrix.column_count();
            let at = rows.start * width * size(matrix);
            return self.told(self.widen(matrix, memory, at, (count, columns.len(), width, columns.start)));
        }
        let memory = upload(&self.device.driver, matrix, rows, columns.clone())?;
        self.told(self.widen(matrix, &memory, 0, (count, columns.len(), columns.len(), 0)))
    }

    /// `count` elements that are on the device as stored, in f64: `columns` of each row of `width`, from the `first` on.
    pub(super) fn widen(
        &self,
        matrix: &Matrix<'_>,
        memory: &Memory,
        at: usize,
        (count, columns, width, first): (usize, usize, usize, usize),
    ) -> std::result::Result<Buffer<f64>, Fault> {
        let wide = Buffer::<f64>::new(&self.device.driver, count)?;
        let arguments = [
            memory.at(at),
            Argument::U64(count as u64),
            Argument::Count(columns),
            Argument::Count(width),
            Argument::Count(first),
            Argument::F64(matrix.scale()),
            wide.all(),
        ];
        self.device.driver.launch(module(matrix), kernels::WIDEN, blocks(count), 256, &arguments)?;
        Ok(wide)
    }

    /// One vector times these rows, which `memory` holds.
    fn apply_rows(
        &self,
        matrix: &Matrix<'_>,
        side: Side,
        rows: Range<usize>,
        memory: &Memory,
        (x, y): (&Buffer<f64>, &Buffer<f64>),
    ) -> std::result::Result<(), Fault> {
        let (count, columns) = (rows.len(), matrix.column_count());
        let driver = &self.device.driver;
        match side {
            Side::Plain => {
                let parts = columns.div_ceil(kernels::DOT_COLUMNS);
                let partials = Buffer::<f64>::new(driver, parts * count)?;
                let arguments =
                    [memory.at(0), Argument::Count(count), Argument::Count(columns), x.all(), partials.all()];
                let grid = [count.div_ceil(kernels::DOT_ROWS), parts, 1];
                driver.launch(module(matrix), kernels::ROWS_DOT, grid, 128, &arguments)?;
                let target = Target { y: &y.memory, at: rows.start, factor: matrix.scale(), adds: false };
                fold(driver, &partials, parts, count, &target)
            }
            Side::Transposed => {
                let step = count.div_ceil(MOST_PARTS).max(LEAST_ROWS);
                let parts = count.div_ceil(step);
                let partials = Buffer::<f64>::new(driver, parts * columns)?;
                let arguments = [
                    memory.at(0),
                    Argument::Count(count),
                    Argument::Count(columns),
                    Argument::Count(step),
                    x.memory.at(rows.start * size_of::<f64>()),
                    partials.all(),
                ];
                let grid = [columns.div_ceil(512), parts, 1];
                driver.launch(module(matrix), kernels::COLUMNS_COMBINE, grid, 128, &arguments)?;
                let target = Target { y: &y.memory, at: 0, factor: matrix.scale(), adds: rows.start > 0 };
                fold(driver, &partials, parts, columns, &target)
            }
        }
    }
}

impl Cuda<'_> {
    /// A few vectors times these rows, which `memory` holds.
    fn apply_block(
        &self,
        matrix: &Matrix<'_>,
        side: Side,
        vectors: usize,
        rows: Range<usize>,
        memory: &Memory,
        (x, y): (&Buffer<f64>, &Buffer<f64>),
    ) -> std::result::Result<(), Fault> {
        let part =
            Stored { module: module(matrix), memory, rows: rows.len(), columns: matrix.column_count() };
        let (from, at, adds) = match side {
            Side::Plain => (0, rows.start * vectors, false),
            Side::Transposed => (rows.start * vectors, 0, rows.start > 0),
        };
        let target = Target { y: &y.memory, at, factor: matrix.scale(), adds };
        self.device.block_product(part, side, vectors, (&x.memory, from), &target)
    }
}

/// The hardware counts blocks of the second axis with 16 bits, and `rows_dot` has one for 4096 columns.
const MOST_COLUMNS: usize = 65535 * kernels::DOT_COLUMNS;

pub(super) fn multiply(
    cuda: &Cuda<'_>,
    matrix: &Matrix<'_>,
    side: Side,
    vectors: usize,
    x: &Buffer<f64>,
    y: &mut Buffer<f64>,
) -> Result<()> {
    let (rows, columns) = (matrix.row_count(), matrix.column_count());
    let (inputs, outputs) = match side {
        Side::Plain => (columns, rows),
        Side::Transposed => (rows, columns),
    };
    assert!(x.length == inputs * vectors && y.length == outputs * vectors);
    if rows == 0 || columns == 0 || vectors == 0 {
        return cuda.told(cuda.device.driver.zero(&mut y.memory));
    }
    if vectors <= MOST_VECTORS && (vectors > 1 || columns <= MOST_COLUMNS) {
        let y = &*y;
        let apply = |rows: Range<usize>, memory: &Memory| match vectors {
            1 => cuda.apply_rows(matrix, side, rows, memory, (x, y)),
            _ => cuda.apply_block(matrix, side, vectors, rows, memory, (x, y)),
        };
        if let Some(memory) = cuda.resident(matrix) {
            return cuda.told(apply(0..rows, memory));
        }
        for part in panels(rows, columns, cuda.panel_elements()) {
            let memory = upload(&cuda.device.driver, matrix, part.clone(), 0..columns)?;
            cuda.told(apply(part, &memory))?;
        }
        return Ok(());
    }
    for part in panels(rows, columns, cuda.panel_elements()) {
        let wide = cuda.widened(matrix, part.clone(), 0..columns)?;
        let (m, k, turned) = match side {
            Side::Plain => (part.len(), columns, false),
            Side::Transposed => (columns, part.len(), true),
        };
        let beta = if side == Side::Transposed && part.start > 0 { 1.0 } else { 0.0 };
        let gemm =
            Gemm { batch: 1, m, n: vectors, k, transpose_a: turned, transpose_b: false, alpha: 1.0, beta };
        let (from, to) = match side {
            Side::Plain => (0, part.start * vectors),
            Side::Transposed => (part.start * vectors, 0),
        };
        cuda.told(cuda.device.products(&gemm, (&wide, 0), (x, from), (y, to)))?;
    }
    Ok(())
}

pub(super) fn sum_of_squares(cuda: &Cuda<'_>, matrix: &Matrix<'_>) -> Result<f64> {
    let (rows, columns) = (matrix.row_count(), matrix.column_count());
    let mut sum = 0.0;
    for part in panels(rows, columns, cuda.panel_elements()) {
        let wide = cuda.widened(matrix, part, 0..columns)?;
        sum += cuda.told(cuda.device.inner(wide.length, (&wide, 0), (&wide, 0)))?;
    }
    Ok(sum)
}

pub(super) fn gram(cuda: &Cuda<'_>, matrix: &Matrix<'_>) -> Result<Buffer<f64>> {
    let (rows, columns) = (matrix.row_count(), matrix.column_count());
    let is_tall = rows >= columns;
    let (side, length) = if is_tall { (columns, rows) } else { (rows, columns) };
    let mut whole = cuda.told(Buffer::<f64>::new(&cuda.device.driver, side * side))?;
    cuda.told(cuda.device.driver.zero(&mut whole.memory))?;
    for part in panels(length, side, cuda.panel_elements()) {
        // Tall: PᵀP of panels of rows. Wide: PPᵀ of panels of columns.
        let wide = if is_tall {
            cuda.widened(matrix, part.clone(), 0..side)?
        } else {
            cuda.widened(matrix, 0..side, part.clone())?
        };
        let gemm = Gemm {
            batch: 1,
            m: side,
            n: side,
            k: part.len(),
            transpose_a: is_tall,
            transpose_b: !is_tall,
            alpha: 1.0,
            beta: 1.0,
        };
        cuda.told(cuda.device.products(&gemm, (&wide, 0), (&wide, 0), (&whole, 0)))?;
    }
    Ok(whole)
}
