//! Convolutions and pools of a `model.toml`: what stands on images and signals.

use super::Writing;
use super::layers::Layer;
use crate::error::Result;
use crate::network::{
    AveragePool, AverageWindow, Conv1d, Conv2d, MaxPool, MaxWindow, Operation, same_padding,
};

/// Where the kernel of a convolution stands, and its groups.
struct Placing<const N: usize> {
    stride: [usize; N],
    dilation: [usize; N],
    /// Zeros before and behind each axis.
    padding: [[usize; 2]; N],
    groups: usize,
}

impl Layer<'_> {
    fn placing<const N: usize>(&self, kernel: [usize; N], outputs: usize) -> Result<Placing<N>> {
        let table = self.table;
        let each = |key, otherwise, least| -> Result<[usize; N]> {
            let sizes = table.sizes(key, N, least)?.unwrap_or_else(|| vec![otherwise; N]);
            Ok(sizes.try_into().expect("as many sizes as axes are read"))
        };
        let (stride, dilation) = (each("stride", 1, 1)?, each("dilation", 1, 1)?);
        let padding = match table.text("padding") {
            Ok(Some("valid")) => [[0; 2]; N],
            Ok(Some("same")) if stride.iter().all(|&stride| stride == 1) => {
                std::array::from_fn(|axis| same_padding(kernel[axis], dilation[axis]))
            }
            Ok(Some("same")) => {
                return Err(table.refuse_at("padding", "padding = \"same\" needs a stride of 1"));
            }
            Ok(Some(_)) => {
                return Err(
                    table.refuse_at("padding", "padding is a size, one for each axis, \"same\" or \"valid\"")
                );
            }
            Ok(None) | Err(_) => each("padding", 0, 0)?.map(|size| [size, size]),
        };
        let groups = table.size("groups")?.unwrap_or(1);
        if !outputs.is_multiple_of(groups) {
            let message = format!("{outputs} channels do not make {groups} groups");
            return Err(table.refuse_at("groups", &message));
        }
        Ok(Placing { stride, dilation, padding, groups })
    }

    pub fn conv1d(&self, writing: &mut Writing<'_>) -> Result<Operation> {
        let (name, shape @ [outputs, own, kernel]) = self.shape::<3>(writing, "weight")?;
        let Placing { stride: [stride], dilation: [dilation], padding: [padding], groups } =
            self.placing([kernel], outputs)?;
        let weight = self.parameter(writing, &name, &shape)?;
        let bias = self.optional(writing, "bias", &[outputs])?;
        self.check_convolution(outputs, &[kernel])?;
        let inputs = own * groups;
        Ok(Conv1d { inputs, outputs, groups, kernel, stride, padding, dilation, weight, bias }.into())
    }

    pub fn conv2d(&self, writing: &mut Writing<'_>) -> Result<Operation> {
        let (name, shape @ [outputs, own, height, width]) = self.shape::<4>(writing, "weight")?;
        let kernel = [height, width];
        let Placing { stride, dilation, padding, groups } = self.placing(kernel, outputs)?;
        let weight = self.parameter(writing, &name, &shape)?;
        let bias = self.optional(writing, "bias", &[outputs])?;
        self.check_convolution(outputs, &kernel)?;
        let inputs = own * groups;
        Ok(Conv2d { inputs, outputs, groups, kernel, stride, padding, dilation, weight, bias }.into())
    }

    /// That outputs and kernel, where they are stated, are those that the weight has.
    fn check_convolution(&self, outputs: usize, kernel: &[usize]) -> Result<()> {
        self.table.check_size("outputs", outputs)?;
        match self.table.sizes("kernel", kernel.len(), 1)? {
            Some(stated) if stated != kernel => {
                let message = format!("kernel is {stated:?}, by its parameters it is {kernel:?}");
                Err(self.table.refuse_at("kernel", &message))
            }
            _ => Ok(()),
        }
    }

    /// Axes of a pool: as many as `key` lists, or as what it is given has behind the channels.
    fn axes(&self, writing: &Writing<'_>, key: &'static str) -> Result<usize> {
        let given = self.inputs.first().and_then(|&input| writing.shape(input));
        let axes = self.table.listed(key).or_else(|| given.and_then(|shape| shape.len().checked_sub(2)));
        match axes {
            Some(axes @ (1 | 2)) => Ok(axes),
            Some(_) => Err(self.table.refuse_at(key, "pools have one axis or two")),
            None => {
                let message =
                    format!("give {key} one number for each axis: how many there are is not known here");
                Err(self.table.refuse_at(key, &message))
            }
        }
    }

    /// The windows of a pool: size, stride (its size, unless given) and padding of each axis.
    fn windows(&self, axes: usize) -> Result<Vec<[usize; 3]>> {
        let sizes = self.table.sizes("size", axes, 1)?.ok_or_else(|| self.table.missing("size"))?;
        let strides = self.table.sizes("stride", axes, 1)?.unwrap_or_else(|| sizes.clone());
        let paddings = self.table.sizes("padding", axes, 0)?.unwrap_or_else(|| vec![0; axes]);
        Ok((0..axes).map(|axis| [sizes[axis], strides[axis], paddings[axis]]).collect())
    }

    pub fn max_pool(&self, writing: &Writing<'_>) -> Result<Operation> {
        let axes = self.axes(writing, "size")?;
        let dilations = self.table.sizes("dilation", axes, 1)?.unwrap_or_else(|| vec![1; axes]);
        let windows = self.windows(axes)?.into_iter().zip(dilations);
        let window = |([size, stride, padding], dilation): ([usize; 3], usize)| MaxWindow {
            size,
            stride,
            padding,
            dilation,
        };
        Ok(MaxPool { axes: windows.map(window).collect() }.into())
    }

    pub fn average_pool(&self, writing: &Writing<'_>) -> Result<Operation> {
        let counts_padding = self.table.flag("counts_padding", true)?;
        let windows = self.windows(self.axes(writing, "size")?)?;
        let window = |[size, stride, padding]: [usize; 3]| AverageWindow::Fixed {
            size,
            stride,
            padding,
            counts_padding,
        };
        Ok(AveragePool { axes: windows.into_iter().map(window).collect() }.into())
    }

    pub fn adaptive_pool(&self, writing: &Writing<'_>) -> Result<Operation> {
        let axes = self.axes(writing, "places")?;
        let places = self.table.sizes("places", axes, 1)?.ok_or_else(|| self.table.missing("places"))?;
        let axes = places.into_iter().map(|places| AverageWindow::Adaptive { places }).collect();
        Ok(AveragePool { axes }.into())
    }
}
