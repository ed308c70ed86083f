//! What the kernels of a backend are told: closed sets of functions, and how elements lie in buffers.

/// A function of one number, with its derivative.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unary {
    /// `max(x, 0)`; the derivative at 0 is 0.
    Relu,
    /// `min(max(x, 0), 6)`; the derivative at 0 and 6 is 0.
    Relu6,
    /// x, or `slope·x` below 0; the derivative at 0 is the slope.
    LeakyRelu {
        /// The slope below 0.
        slope: f64,
    },
    /// x, or `alpha·(eˣ - 1)` below 0.
    Elu {
        /// The limit below 0, negated.
        alpha: f64,
    },
    /// `x·Φ(x)`, Φ the standard normal distribution (Hendrycks and Gimpel 2016).
    GeluErf,
    /// `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`, the same by tanh.
    GeluTanh,
    /// `x·σ(1.702·x)`, the same by σ.
    GeluSigmoid,
    /// `x·σ(x)`.
    Silu,
    /// `tanh x`.
    Tanh,
    /// `σ(x) = 1/(1 + e⁻ˣ)`.
    Sigmoid,
    /// `ln(1 + eˣ)`.
    Softplus,
    /// `eˣ`.
    Exp,
    /// `ln x`.
    Log,
    /// `cap·tanh(x/cap)`.
    SoftCap {
        /// The bound that it comes near.
        cap: f64,
    },
}

/// What is done with two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// `x + y`.
    Add,
    /// `x - y`.
    Subtract,
    /// `x·y`.
    Multiply,
}

/// One axis of a buffer: element `(o·count + j)·inner + k` has place j on it, for any o.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    /// Places on the axis.
    pub count: usize,
    /// Elements one after the other with the same place.
    pub inner: usize,
}

impl Spread {
    /// The columns of a matrix.
    pub const fn columns(count: usize) -> Self {
        Self { count, inner: 1 }
    }

    /// The rows of a matrix of so many columns.
    pub const fn rows(count: usize, columns: usize) -> Self {
        Self { count, inner: columns }
    }
}

/// How rows are normalised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// Elements of a row.
    pub columns: usize,
    /// Whether the mean is taken away: LayerNorm and GroupNorm, not RMSNorm.
    pub centred: bool,
    /// Added to the mean square before the root.
    pub epsilon: f64,
}

/// Where a window stands on images, height before width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Images.
    pub batch: usize,
    /// Channels of an image.
    pub channels: usize,
    /// Groups of channels that are laid out apart; their number divides that of the channels.
    pub groups: usize,
    /// Pixels of a channel.
    pub size: [usize; 2],
    /// Pixels of the window.
    pub kernel: [usize; 2],
    /// Pixels from one place of the window to the next.
    pub stride: [usize; 2],
    /// Pixels outside of the image on each side.
    pub padding: [usize; 2],
    /// Pixels from one pixel of the window to the next.
    pub dilation: [usize; 2],
    /// Places of the window.
    pub places: [usize; 2],
}

impl Window {
    /// Elements of the images.
    pub const fn image_length(&self) -> usize {
        self.batch * self.channels * self.size[0] * self.size[1]
    }

    /// Elements of the patches.
    pub const fn patch_length(&self) -> usize {
        self.batch * self.places[0] * self.places[1] * self.channels * self.kernel[0] * self.kernel[1]
    }
}

/// Columns of two row-major matrices: `y[r, to + c] ← x[r, from + c]` for r below `rows` and c below `columns`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strip {
    /// Rows of both.
    pub rows: usize,
    /// Columns that are copied.
    pub columns: usize,
    /// Columns of x.
    pub from_width: usize,
    /// The first column of x.
    pub from: usize,
    /// Columns of y.
    pub to_width: usize,
    /// The first column of y.
    pub to: usize,
}
