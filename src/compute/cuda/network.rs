//! What networks are made of, on a GPU: kernels of `kernels/network.cu`. Sums have a shape that sizes alone decide.

use super::Cuda;
use super::backend::{Buffer, blocks, is_wide, number};
use super::driver::{Argument, Memory};
use super::fault::Fault;
use super::kernels::{self, Kernel, Module, counted};
use super::upload::upload;
use crate::compute::{Binary, Matrix, Norm, Real, Spread, Strip, Unary, Window};
use crate::error::Result;
use crate::tensor::{Kind, Tensor};

/// Row numbers on a device, and for each row that occurs the places where it does, in order.
pub struct Index {
    /// The numbers.
    numbers: Memory,
    length: usize,
    /// The largest, where there is one.
    largest: Option<u32>,
    /// Where the places of each row that occurs begin, and their end.
    starts: Memory,
    /// Places, those of one row after the other.
    order: Memory,
    /// The rows that occur, ascending.
    rows: Memory,
    row_count: usize,
}

/// Elements of a part of a sum over a spread.
const REDUCE_PART: usize = 1024;

/// Rows of a block of 256 threads.
const ROWS: usize = 8;

fn module<T: Real>() -> Module {
    if is_wide::<T>() { Module::NetworkF64 } else { Module::NetworkF32 }
}

fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// The number of a function, and its parameter, as the kernel knows them.
fn function(function: Unary) -> (u32, f64) {
    match function {
        Unary::Relu => (0, 0.0),
        Unary::Relu6 => (1, 0.0),
        Unary::LeakyRelu { slope } => (2, slope),
        Unary::Elu { alpha } => (3, alpha),
        Unary::GeluErf => (4, 0.0),
        Unary::GeluTanh => (5, 0.0),
        Unary::GeluSigmoid => (6, 1.702),
        Unary::Silu => (6, 1.0),
        Unary::Tanh => (7, 0.0),
        Unary::Sigmoid => (8, 0.0),
        Unary::Softplus => (9, 0.0),
        Unary::Exp => (10, 0.0),
        Unary::Log => (11, 0.0),
        Unary::SoftCap { cap } => (12, cap),
    }
}

fn operation<'a>(operation: Binary) -> Argument<'a> {
    Argument::U32(match operation {
        Binary::Add => 0,
        Binary::Subtract => 1,
        Binary::Multiply => 2,
    })
}

fn flag<'a>(set: bool) -> Argument<'a> {
    Argument::U32(u32::from(set))
}

fn long<'a>(count: usize) -> Argument<'a> {
    Argument::U64(count as u64)
}

fn image<'a>(window: &Window) -> Vec<Argument<'a>> {
    let Window { batch, channels, groups, size, kernel, stride, padding, dilation, places } = *window;
    let pairs = [size, kernel, stride, padding, dilation, places];
    [batch, channels, groups].into_iter().chain(pairs.into_iter().flatten()).map(Argument::Count).collect()
}

impl Cuda<'_> {
    /// A kernel over `count` elements.
    fn over<T: Real>(
        &self,
        kernel: Kernel,
        count: usize,
        arguments: &[Argument<'_>],
    ) -> std::result::Result<(), Fault> {
        if count == 0 {
            return Ok(());
        }
        self.device.driver.launch(module::<T>(), kernel, blocks(count), 256, arguments)
    }

    /// A kernel with a warp for each of `rows` rows.
    fn over_rows<T: Real>(
        &self,
        kernel: Kernel,
        rows: usize,
        arguments: &[Argument<'_>],
    ) -> std::result::Result<(), Fault> {
        if rows == 0 {
            return Ok(());
        }
        self.device.driver.launch(module::<T>(), kernel, [rows.div_ceil(ROWS), 1, 1], 256, arguments)
    }

    pub(super) fn load_tensor<T: Real>(&self, tensor: &Tensor) -> Result<Buffer<T>> {
        let count = tensor.count() as usize;
        if count == 0 || tensor.dtype.kind() != Kind::Float {
            return crate::compute::Backend::zeros(self, count);
        }
        // One row of all elements.
        let flat = Tensor { shape: vec![tensor.count()], ..tensor.clone() };
        let matrix = Matrix::new(&flat);
        let stored = upload(&self.device.driver, &matrix, 0..1, 0..count)?;
        let wide = self.told(self.widen(&matrix, &stored, 0, (count, count, count, 0)))?;
        drop(stored);
        let mut loaded = self.told(Buffer::<T>::new(&self.device.driver, count))?;
        self.converted(&wide, &mut loaded)?;
        Ok(loaded)
    }

    pub(super) fn converted<S: Real, T: Real>(&self, x: &Buffer<S>, y: &mut Buffer<T>) -> Result<()> {
        assert_eq!(x.length, y.length);
        if is_wide::<S>() == is_wide::<T>() {
            return self.told(self.device.driver.copy(&x.memory, 0..x.memory.bytes(), &mut y.memory, 0));
        }
        self.told(self.over::<T>(kernels::CONVERT, x.length, &[long(x.length), x.all(), y.all()]))
    }

    pub(super) fn mapped<T: Real>(
        &self,
        wanted: Unary,
        x: &Buffer<T>,
        y: &Buffer<T>,
        derivative: Option<&Buffer<T>>,
    ) -> Result<()> {
        assert_eq!(x.length, y.length);
        assert!(derivative.is_none_or(|slopes| slopes.length == x.length));
        let (function, parameter) = function(wanted);
        // Where no derivative is wanted the kernel does not write it, and y stands for it.
        let slopes = derivative.unwrap_or(y).all();
        let arguments = [
            Argument::U32(function),
            Argument::F64(parameter),
            long(x.length),
            x.all(),
            y.all(),
            flag(derivative.is_some()),
            slopes,
        ];
        self.told(self.over::<T>(kernels::MAP, x.length, &arguments))
    }

    pub(super) fn zipped<T: Real>(
        &self,
        combine: Binary,
        x: &Buffer<T>,
        y: &Buffer<T>,
        z: &Buffer<T>,
    ) -> Result<()> {
        assert!(x.length == y.length && y.length == z.length);
        let arguments = [operation(combine), long(x.length), x.all(), y.all(), z.all()];
        self.told(self.over::<T>(kernels::ZIP, x.length, &arguments))
    }

    pub(super) fn spread<T: Real>(
        &self,
        combine: Binary,
        Spread { count, inner }: Spread,
        v: &Buffer<T>,
        y: &Buffer<T>,
    ) -> Result<()> {
        assert!(v.length == count && y.length.is_multiple_of((count * inner).max(1)));
        let arguments =
            [operation(combine), long(y.length), Argument::Count(count), long(inner), v.all(), y.all()];
        self.told(self.over::<T>(kernels::BROADCAST, y.length, &arguments))
    }

    pub(super) fn reduced<T: Real>(
        &self,
        Spread { count, inner }: Spread,
        x: &Buffer<T>,
        v: &Buffer<T>,
    ) -> Result<()> {
        assert!(v.length == count && x.length.is_multiple_of((count * inner).max(1)));
        if count * inner == 0 || x.length == 0 {
            return Ok(());
        }
        let each = x.length / count;
        let parts = each.div_ceil(REDUCE_PART);
        let partials = self.told(Buffer::<f64>::new(&self.device.driver, parts * count))?;
        let arguments = [long(each), Argument::Count(count), long(inner), x.all(), partials.all()];
        let grid = [count.div_ceil(256), parts, 1];
        self.told(self.device.driver.launch(module::<T>(), kernels::REDUCE, grid, 256, &arguments))?;
        let arguments = [long(count), Argument::Count(parts), partials.all(), v.all()];
        self.told(self.over::<T>(kernels::REDUCE_FOLD, count, &arguments))
    }

    pub(super) fn softmaxed<T: Real>(
        &self,
        columns: usize,
        logarithm: bool,
        x: &Buffer<T>,
        y: &Buffer<T>,
    ) -> Result<()> {
        let rows = rows_of(x.length, columns);
        assert_eq!(x.length, y.length);
        let arguments = [long(rows), Argument::Count(columns), flag(logarithm), x.all(), y.all()];
        self.told(self.over_rows::<T>(kernels::SOFTMAX, rows, &arguments))
    }

    pub(super) fn softmax_applied<T: Real>(
        &self,
        columns: usize,
        p: &Buffer<T>,
        x: &Buffer<T>,
        y: &Buffer<T>,
    ) -> Result<()> {
        let rows = rows_of(x.length, columns);
        assert!(p.length == x.length && x.length == y.length);
        let arguments = [long(rows), Argument::Count(columns), p.all(), x.all(), y.all()];
        self.told(self.over_rows::<T>(kernels::SOFTMAX_PRODUCT, rows, &arguments))
    }

    pub(super) fn normalized<T: Real>(
        &self,
        Norm { columns, centred, epsilon }: Norm,
        x: &Buffer<T>,
        y: &Buffer<T>,
        inverse: &Buffer<T>,
    ) -> Result<()> {
        assert!(x.length == y.length && x.length == inverse.length * columns);
        let rows = inverse.length;
        let arguments = [
            long(rows),
            Argument::Count(columns),
            flag(centred),
            Argument::F64(epsilon),
            x.all(),
            y.all(),
            inverse.all(),
        ];
        self.told(self.over_rows::<T>(kernels::NORMALIZE, rows, &arguments))
    }

    pub(super) fn normalize_applied<T: Real>(
        &self,
        Norm { columns, centred, .. }: Norm,
        normal: &Buffer<T>,
        inverse: &Buffer<T>,
        x: &Buffer<T>,
        y: &Buffer<T>,
    ) -> Result<()> {
        assert!(normal.length == x.length && x.length == y.length && x.length == inverse.length * columns);
        let rows = inverse.length;
        let arguments = [
            long(rows),
            Argument::Count(columns),
            flag(centred),
            normal.all(),
            inverse.all(),
            x.all(),
            y.all(),
        ];
        self.told(self.over_rows::<T>(kernels::NORMALIZE_PRODUCT, rows, &arguments))
    }

    pub(super) fn indexed(&self, numbers: &[u32]) -> Result<Index> {
        let mut order: Vec<u32> = (0..numbers.len()).map(|at| at as u32).collect();
        order.sort_by_key(|&at| numbers[at as usize]);
        let (mut starts, mut rows): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
        for (at, &place) in order.iter().enumerate() {
            let row = numbers[place as usize];
            if rows.last() != Some(&row) {
                rows.push(row);
                starts.push(at as u32);
            }
        }
        starts.push(order.len() as u32);
        let put = |numbers: &[u32]| -> Result<Memory> {
            let driver = &self.device.driver;
            let memory = self.told(driver.allocate(size_of_val(numbers)))?;
            self.told(driver.write(&memory, 0, &words(numbers)))?;
            Ok(memory)
        };
        Ok(Index {
            numbers: put(numbers)?,
            length: numbers.len(),
            largest: numbers.iter().copied().max(),
            starts: put(&starts)?,
            order: put(&order)?,
            row_count: rows.len(),
            rows: put(&rows)?,
        })
    }

    pub(super) fn gathered<T: Real>(
        &self,
        width: usize,
        index: &Index,
        x: &Buffer<T>,
        y: &Buffer<T>,
    ) -> Result<()> {
        assert_eq!(y.length, index.length * width);
        assert!(index.largest.is_none_or(|row| (row as usize + 1) * width <= x.length));
        let arguments = [long(y.length), Argument::Count(width), index.numbers.at(0), x.all(), y.all()];
        self.told(self.over::<T>(kernels::GATHER, y.length, &arguments))
    }

    pub(super) fn scattered<T: Real>(
        &self,
        width: usize,
        index: &Index,
        x: &Buffer<T>,
        y: &Buffer<T>,
    ) -> Result<()> {
        assert_eq!(x.length, index.length * width);
        assert!(index.largest.is_none_or(|row| (row as usize + 1) * width <= y.length));
        let count = index.row_count * width;
        let arguments = [
            long(count),
            Argument::Count(width),
            index.starts.at(0),
            index.order.at(0),
            index.rows.at(0),
            x.all(),
            y.all(),
        ];
        self.told(self.over::<T>(kernels::SCATTER_ADD, count, &arguments))
    }

    pub(super) fn largest_of<T: Real>(&self, columns: usize, x: &Buffer<T>) -> Result<Index> {
        assert!(columns > 0);
        let rows = rows_of(x.length, columns);
        let driver = &self.device.driver;
        // Places in x are written as 32 bits.
        self.told(counted(kernels::ARGMAX, x.length, u32::MAX))?;
        let found = self.told(driver.allocate(rows * size_of::<u32>()))?;
        let arguments = [long(rows), Argument::Count(columns), x.all(), found.at(0)];
        self.told(self.over_rows::<T>(kernels::ARGMAX, rows, &arguments))?;
        let mut bytes = vec![0; found.bytes()];
        self.told(driver.read(&found, 0, &mut bytes))?;
        let numbers: Vec<u32> = bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        self.indexed(&numbers)
    }

    pub(super) fn patches<T: Real>(
        &self,
        window: &Window,
        outside: T,
        x: &Buffer<T>,
        y: &Buffer<T>,
    ) -> Result<()> {
        assert!(x.length == window.image_length() && y.length == window.patch_length());
        let mut arguments = vec![long(y.length)];
        arguments.extend(image(window));
        arguments.extend([number(outside), x.all(), y.all()]);
        self.told(self.over::<T>(kernels::IM2COL, y.length, &arguments))
    }

    pub(super) fn pixels<T: Real>(&self, window: &Window, x: &Buffer<T>, y: &Buffer<T>) -> Result<()> {
        assert!(y.length == window.image_length() && x.length == window.patch_length());
        if x.length == 0 {
            return Ok(());
        }
        let mut arguments = vec![long(y.length)];
        arguments.extend(image(window));
        arguments.extend([x.all(), y.all()]);
        self.told(self.over::<T>(kernels::COL2IM, y.length, &arguments))
    }

    pub(super) fn permuted<T: Real>(
        &self,
        shape: &[usize],
        axes: &[usize],
        x: &Buffer<T>,
        y: &Buffer<T>,
    ) -> Result<()> {
        const AXES: usize = 8;
        let count: usize = shape.iter().product();
        assert!(shape.len() == axes.len() && shape.len() <= AXES);
        assert!(x.length == count && y.length == count);
        // Places in x are counted with 32 bits.
        self.told(counted(kernels::PERMUTE, count, u32::MAX))?;
        let strides: Vec<usize> = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect();
        let mut arguments = vec![long(count)];
        // Last axis of y first; those that there are not have one place.
        let sizes = axes.iter().rev().map(|&axis| shape[axis]).chain(std::iter::repeat(1));
        arguments.extend(sizes.take(AXES - 1).map(Argument::Count));
        let apart = axes.iter().rev().map(|&axis| strides[axis]).chain(std::iter::repeat(0));
        arguments.extend(apart.take(AXES).map(Argument::Count));
        arguments.extend([x.all(), y.all()]);
        self.told(self.over::<T>(kernels::PERMUTE, count, &arguments))
    }

    pub(super) fn strip<T: Real>(&self, strip: &Strip, x: &Buffer<T>, y: &Buffer<T>) -> Result<()> {
        let Strip { rows, columns, from_width, from, to_width, to } = *strip;
        assert!(x.length == rows * from_width && y.length == rows * to_width);
        assert!(from + columns <= from_width && to + columns <= to_width);
        let count = rows * columns;
        let sizes = [columns, from_width, from, to_width, to].map(Argument::Count);
        let arguments: Vec<_> = [long(count)].into_iter().chain(sizes).chain([x.all(), y.all()]).collect();
        self.told(self.over::<T>(kernels::COPY_STRIP, count, &arguments))
    }
}

fn rows_of(length: usize, columns: usize) -> usize {
    assert!(length.is_multiple_of(columns.max(1)));
    length / columns.max(1)
}
