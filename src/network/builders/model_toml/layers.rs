//! What each operation of a `model.toml` is, by its name, its keys and the shapes of its parameters.

use super::super::WIDEST_HEAD;
use super::super::perceptron::DEFAULT_EPSILON;
use super::super::recurrent::Stack;
use super::super::state::{Sizes, below};
use super::stated::MOST_STACKED;
use super::table::Table;
use super::{Writing, is_too_large};
use crate::compute::Unary;
use crate::error::{Error, Result};
use crate::nearest::did_you_mean;
use crate::network::{
    Activation, Add, Attention, BatchNorm, CellKind, Concat, CrossEntropy, Embedding, GroupNorm, LastStep,
    LayerNorm, Linear, Mask, MeanSquaredError, Multiply, Operation, ParameterId, PositionEmbedding, Reshape,
    Rotary, Rows, Scale, Slice, Softmax, Transpose, ValueId,
};

/// What the epsilon of RMSNorm is, as a rule.
const RMS_EPSILON: f64 = 1e-6;

/// The base of rotary frequencies, as a rule.
const ROTARY_BASE: f64 = 10_000.0;

/// Names of operations that are no function of each element.
const OPERATIONS: [&str; 32] = [
    "linear",
    "embedding",
    "position_embedding",
    "layer_norm",
    "rms_norm",
    "batch_norm",
    "group_norm",
    "conv1d",
    "conv2d",
    "max_pool",
    "average_pool",
    "adaptive_average_pool",
    "rnn",
    "lstm",
    "gru",
    "rnn_cell",
    "lstm_cell",
    "gru_cell",
    "last_step",
    "attention",
    "rotary",
    "softmax",
    "add",
    "multiply",
    "scale",
    "concat",
    "slice",
    "reshape",
    "flatten",
    "transpose",
    "cross_entropy",
    "mean_squared_error",
];

/// Those that need targets.
pub(super) const LOSSES: [&str; 2] = ["cross_entropy", "mean_squared_error"];

/// Names of functions of each element.
const FUNCTIONS: [&str; 13] = [
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "gelu",
    "gelu_tanh",
    "gelu_sigmoid",
    "silu",
    "tanh",
    "sigmoid",
    "softplus",
    "soft_cap",
    "exp",
];

/// Puts the nodes of a layer behind `inputs`.
pub(super) fn push(
    writing: &mut Writing<'_>,
    table: &Table<'_>,
    node: &str,
    inputs: &[ValueId],
) -> Result<ValueId> {
    let op = table.op();
    let layer = Layer { table, node, inputs };
    if writing.state.is_none() {
        writing.stated = layer.stated(writing)?;
    }
    let operation: Operation = match op {
        "linear" => layer.linear(writing)?,
        "embedding" => return layer.embedding(writing),
        "position_embedding" => layer.position_embedding(writing)?,
        "layer_norm" | "rms_norm" => layer.norm(writing, op == "layer_norm")?,
        "batch_norm" => layer.batch_norm(writing)?,
        "group_norm" => layer.group_norm(writing)?,
        "conv1d" => layer.conv1d(writing)?,
        "conv2d" => layer.conv2d(writing)?,
        "max_pool" => layer.max_pool(writing)?,
        "average_pool" => layer.average_pool(writing)?,
        "adaptive_average_pool" => layer.adaptive_pool(writing)?,
        "rnn" | "lstm" | "gru" => return layer.recurrent(writing),
        "rnn_cell" | "lstm_cell" | "gru_cell" => return layer.cell(writing),
        "attention" => layer.attention()?,
        "rotary" => layer.rotary()?,
        "last_step" => LastStep.into(),
        "softmax" => Softmax.into(),
        "add" => Add.into(),
        "multiply" => Multiply.into(),
        "scale" => Scale { factor: table.number("factor")?.ok_or_else(|| table.missing("factor"))? }.into(),
        "concat" => Concat { axis: table.needed("axis")? }.into(),
        "slice" => {
            let (from, to) = (table.count("from_place")?.unwrap_or(0), table.needed("to_place")?);
            Slice { axis: table.needed("axis")?, places: from..to }.into()
        }
        "reshape" => {
            let shape = table.free_sizes("shape")?;
            if is_too_large(&shape.iter().flatten().copied().collect::<Vec<_>>()) {
                return Err(table.refuse_at("shape", "shape is that of more numbers than can be computed"));
            }
            Reshape { shape }.into()
        }
        "flatten" => Reshape { shape: vec![None] }.into(),
        "transpose" => {
            let count = table.listed("axes").ok_or_else(|| table.missing("axes"))?;
            Transpose { axes: table.sizes("axes", count, 0)?.unwrap_or_default() }.into()
        }
        "cross_entropy" => CrossEntropy.into(),
        "mean_squared_error" => MeanSquaredError.into(),
        _ => Activation { function: function(table)? }.into(),
    };
    let takes = match op {
        "attention" => 3..=3,
        "multiply" => 2..=2,
        "add" | "concat" => 2..=usize::MAX,
        _ => 1..=1,
    };
    layer.check_inputs(&takes)?;
    Ok(writing.push(node, operation, inputs))
}

fn function(table: &Table<'_>) -> Result<Unary> {
    Ok(match table.op() {
        "relu" => Unary::Relu,
        "relu6" => Unary::Relu6,
        "leaky_relu" => Unary::LeakyRelu { slope: table.number("slope")?.unwrap_or(0.01) },
        "elu" => Unary::Elu { alpha: table.positive("alpha", 1.0)? },
        "gelu" => Unary::GeluErf,
        "gelu_tanh" => Unary::GeluTanh,
        "gelu_sigmoid" => Unary::GeluSigmoid,
        "silu" => Unary::Silu,
        "tanh" => Unary::Tanh,
        "sigmoid" => Unary::Sigmoid,
        "softplus" => Unary::Softplus,
        "exp" => Unary::Exp,
        "soft_cap" => {
            let cap = table.positive("cap", 0.0)?;
            if cap == 0.0 {
                return Err(table.missing("cap"));
            }
            Unary::SoftCap { cap }
        }
        other => {
            let near = did_you_mean(other, OPERATIONS.into_iter().chain(FUNCTIONS));
            return Err(
                table.refuse_at("op", &format!("there is no operation {}{near}", other.escape_debug()))
            );
        }
    })
}

/// A layer that is being read.
pub(super) struct Layer<'l> {
    pub table: &'l Table<'l>,
    pub node: &'l str,
    pub inputs: &'l [ValueId],
}

impl Layer<'_> {
    fn check_inputs(&self, takes: &std::ops::RangeInclusive<usize>) -> Result<()> {
        if takes.contains(&self.inputs.len()) {
            return Ok(());
        }
        let message = match (self.inputs.len(), *takes.start()) {
            (0, _) => "stands where there is no value yet: an embedding comes first".to_owned(),
            (given, least) if given < least => {
                format!("takes {least} values, {given} is given; name the others under with")
            }
            (given, _) => format!("takes {} values, {given} are given", takes.end()),
        };
        Err(self.table.refuse_at("with", &format!("{} {message}", self.table.op())))
    }

    /// The name that its parameters begin with.
    pub fn name(&self) -> Result<&str> {
        self.table.text("name")?.ok_or_else(|| self.table.missing("name"))
    }

    /// What a parameter is called: as the key of its leaf says, or by the layer's name.
    pub fn parameter_name(&self, leaf: &'static str) -> Result<Option<String>> {
        if let Some(name) = self.table.parameter(leaf)? {
            return Ok(Some(name.to_owned()));
        }
        if self.table.leaves_out(leaf) {
            return Ok(None);
        }
        Ok(self.table.text("name")?.map(|name| below(name, leaf)))
    }

    /// A parameter's shape, which must have so many sizes.
    pub fn shape<const N: usize>(
        &self,
        writing: &Writing<'_>,
        leaf: &'static str,
    ) -> Result<(String, [usize; N])> {
        if self.table.leaves_out(leaf) {
            return Err(self
                .table
                .refuse_at(leaf, &format!("{} is nothing without {leaf}", self.table.op())));
        }
        let name = self.parameter_name(leaf)?.ok_or_else(|| self.table.missing("name"))?;
        let key = if self.table.has(leaf) { leaf } else { "name" };
        let sizes = writing.sizes();
        let Some(shape) = sizes.shape(&name)? else {
            let near = did_you_mean(&name, sizes.names());
            let message = format!("the checkpoint has no {}{near}", name.escape_debug());
            return Err(self.table.refuse_at(key, &message));
        };
        match <[usize; N]>::try_from(shape) {
            Ok(shape) => Ok((name, shape)),
            Err(shape) => {
                let message = format!("{} has shape {shape:?}, {N} sizes are needed", name.escape_debug());
                Err(self.table.refuse_at(key, &message))
            }
        }
    }

    /// A parameter of this shape, where the checkpoint has it or the layer names it.
    pub fn optional(
        &self,
        writing: &mut Writing<'_>,
        leaf: &'static str,
        shape: &[usize],
    ) -> Result<Option<ParameterId>> {
        let named = self.table.has(leaf);
        let name = self.parameter_name(leaf)?.filter(|name| named || writing.sizes().has(name));
        name.map(|name| self.parameter(writing, &name, shape)).transpose()
    }

    pub fn parameter(&self, writing: &mut Writing<'_>, name: &str, shape: &[usize]) -> Result<ParameterId> {
        writing.assembly.shared_parameter(name, shape).ok_or_else(|| {
            let message = format!("{} was taken in another shape by an earlier layer", name.escape_debug());
            self.table.refuse_at("name", &message)
        })
    }

    fn linear(&self, writing: &mut Writing<'_>) -> Result<Operation> {
        let transposed = self.table.flag("transposed", false)?;
        let (name, shape) = self.shape::<2>(writing, "weight")?;
        let weight = self.parameter(writing, &name, &shape)?;
        let [outputs, inputs] = if transposed { [shape[1], shape[0]] } else { shape };
        self.table.check_size("outputs", outputs)?;
        let bias = self.optional(writing, "bias", &[outputs])?;
        Ok(Linear { inputs, outputs, weight, bias, transposed }.into())
    }

    fn embedding(&self, writing: &mut Writing<'_>) -> Result<ValueId> {
        self.check_inputs(&(0..=0)).map_err(|_| {
            self.table.refuse_at("op", "an embedding is the first layer of a network that takes a vocabulary")
        })?;
        let (name, [count, width]) = self.shape::<2>(writing, "weight")?;
        let table = self.parameter(writing, &name, &[count, width])?;
        if !writing.assembly.takes_tokens_below(count) {
            let message = format!("{name} has {count} rows, fewer than the vocabulary of the input");
            return Err(self.table.refuse_at("name", &message));
        }
        Ok(writing.push(self.node, Embedding { count, width, table }, &[]))
    }

    fn position_embedding(&self, writing: &mut Writing<'_>) -> Result<Operation> {
        let (name, [count, width]) = self.shape::<2>(writing, "weight")?;
        let table = self.parameter(writing, &name, &[count, width])?;
        self.table.check_size("rows", count)?;
        let rows = match self.table.count("always")? {
            Some(row) => Rows::Always(row),
            None => Rows::From(self.table.count("first")?.unwrap_or(0)),
        };
        Ok(PositionEmbedding { count, width, table, rows }.into())
    }

    /// The numbers of a norm: stated, those of its gain, or those along an axis of what it takes.
    fn width(
        &self,
        writing: &Writing<'_>,
        key: &'static str,
        along: impl Fn(&[usize]) -> Option<usize>,
    ) -> Result<usize> {
        if let Some(width) = self.table.size(key)? {
            return Ok(width);
        }
        if self.parameter_name("weight")?.is_some() {
            return Ok(self.shape::<1>(writing, "weight")?.1[0]);
        }
        let given = self.inputs.first().and_then(|&input| writing.shape(input));
        given.and_then(along).ok_or_else(|| self.table.missing(&format!("name, or {key}")))
    }

    fn norm(&self, writing: &mut Writing<'_>, centred: bool) -> Result<Operation> {
        let epsilon = self.table.positive("epsilon", if centred { DEFAULT_EPSILON } else { RMS_EPSILON })?;
        let columns = self.width(writing, "columns", |shape| shape.last().copied())?;
        let gain = self.optional(writing, "weight", &[columns])?;
        let bias = self.optional(writing, "bias", &[columns])?;
        Ok(LayerNorm { columns, centred, epsilon, gain, bias }.into())
    }

    fn batch_norm(&self, writing: &mut Writing<'_>) -> Result<Operation> {
        let epsilon = self.table.positive("epsilon", DEFAULT_EPSILON)?;
        let (mean, [channels]) = self.shape::<1>(writing, "running_mean")?;
        let (variance, of_variance) = self.shape::<1>(writing, "running_var")?;
        let mean = self.parameter(writing, &mean, &[channels])?;
        let variance = self.parameter(writing, &variance, &of_variance)?;
        let gain = self.optional(writing, "weight", &[channels])?;
        let bias = self.optional(writing, "bias", &[channels])?;
        if of_variance != [channels] {
            return Err(self.table.refuse_at("name", "its mean and its variance have different sizes"));
        }
        Ok(BatchNorm { channels, epsilon, mean, variance, gain, bias }.into())
    }

    fn group_norm(&self, writing: &mut Writing<'_>) -> Result<Operation> {
        let epsilon = self.table.positive("epsilon", DEFAULT_EPSILON)?;
        let groups = self.table.needed("groups")?;
        let channels = self.width(writing, "channels", |shape| shape.get(1).copied())?;
        if !channels.is_multiple_of(groups) {
            let message = format!("{channels} channels do not make {groups} groups");
            return Err(self.table.refuse_at("groups", &message));
        }
        let gain = self.optional(writing, "weight", &[channels])?;
        let bias = self.optional(writing, "bias", &[channels])?;
        Ok(GroupNorm { channels, groups, epsilon, gain, bias }.into())
    }

    /// What a cell of one gate is.
    fn plain(&self) -> Result<CellKind> {
        if !self.table.op().starts_with("rnn") {
            return Ok(CellKind::Tanh);
        }
        match self.table.text("nonlinearity")? {
            None | Some("tanh") => Ok(CellKind::Tanh),
            Some("relu") => Ok(CellKind::Relu),
            Some(_) => Err(self.table.refuse_at("nonlinearity", "nonlinearity is \"tanh\" or \"relu\"")),
        }
    }

    /// That parameters are of the kind of cell that the operation names.
    fn check_kind(&self, kind: CellKind) -> Result<()> {
        let op = self.table.op();
        let is = match kind {
            CellKind::Tanh | CellKind::Relu => "rnn",
            CellKind::Lstm => "lstm",
            CellKind::Gru => "gru",
        };
        if op.starts_with(is) {
            return Ok(());
        }
        let message = format!("its parameters are of {is}, not of {op}");
        Err(self.table.refuse_at("op", &message))
    }

    fn recurrent(&self, writing: &mut Writing<'_>) -> Result<ValueId> {
        self.check_inputs(&(1..=1))?;
        let first = writing.assembly.count();
        let refuse = |message: String| self.table.refuse_at("name", &message);
        let stack = self.stack(Sizes::of(writing.state, &writing.stated), &refuse)?;
        let output = stack.layers(&mut writing.assembly, self.inputs[0])?;
        self.check_depth(writing)?;
        if let Operation::RecurrentLayer(layer) = writing.assembly.operation(ValueId(first)) {
            self.check_kind(layer.cell.kind)?;
            self.table.check_size("hidden", layer.cell.hidden)?;
        }
        Ok(output)
    }

    fn stack<'a>(&'a self, sizes: Sizes<'a>, refuse: &'a dyn Fn(String) -> Error) -> Result<Stack<'a>> {
        let has_bias = self.table.flag("bias", true)?;
        Ok(Stack { sizes, prefix: self.name()?, plain: self.plain()?, has_bias, refuse })
    }

    /// That the parameters are of as many layers and directions as the file says.
    fn check_depth(&self, writing: &Writing<'_>) -> Result<()> {
        let (sizes, name) = (writing.sizes(), self.name()?);
        let has = |suffix: &str| sizes.has(&below(name, &format!("weight_hh{suffix}")));
        let layers = 1 + (1..MOST_STACKED).take_while(|layer| has(&format!("_l{layer}"))).count();
        self.table.check_size("layers", layers)?;
        let both = has("_l0_reverse");
        if self.table.flag("bidirectional", both)? == both {
            return Ok(());
        }
        let directions = if both { "two directions" } else { "one direction" };
        Err(self.table.refuse_at("bidirectional", &format!("its parameters are of {directions}")))
    }

    fn cell(&self, writing: &mut Writing<'_>) -> Result<ValueId> {
        self.check_inputs(&(2..=2))?;
        let refuse = |message: String| self.table.refuse_at("name", &message);
        let stack = self.stack(Sizes::of(writing.state, &writing.stated), &refuse)?;
        let cell = stack.cell(&mut writing.assembly, "")?;
        self.check_kind(cell.kind)?;
        self.table.check_size("hidden", cell.hidden)?;
        Ok(writing.push(self.node, cell, self.inputs))
    }

    fn attention(&self) -> Result<Operation> {
        let table = self.table;
        let (heads, width) = (table.needed("heads")?, table.needed("width")?);
        let shared = table.size("shared")?.unwrap_or(heads);
        if !heads.is_multiple_of(shared) {
            return Err(table.refuse_at("shared", &format!("{heads} heads do not share {shared} evenly")));
        }
        let mask = match (table.text("mask")?, table.size("window")?) {
            (None | Some("none"), None) => Mask::None,
            (Some("causal"), None) => Mask::Causal,
            (None | Some("causal"), Some(window)) => Mask::Window(window),
            _ => return Err(table.refuse_at("mask", "mask is \"none\" or \"causal\"; a window is causal")),
        };
        let scale = table.positive("scale", 1.0 / (width as f64).sqrt())?;
        let cap = if table.has("cap") { Some(table.positive("cap", 1.0)?) } else { None };
        Ok(Attention { heads, shared, width, scale, cap, mask }.into())
    }

    fn rotary(&self) -> Result<Operation> {
        let table = self.table;
        let (heads, width) = (table.needed("heads")?, table.needed("width")?);
        let rotated = table.size("rotated")?.unwrap_or(width);
        let most = width.min(WIDEST_HEAD);
        if rotated > most || !rotated.is_multiple_of(2) {
            let message = format!("an even number of at most {most} numbers of a head is rotated");
            return Err(table.refuse_at("rotated", &message));
        }
        let (base, factor) = (table.positive("base", ROTARY_BASE)?, table.positive("factor", 1.0)?);
        let frequency = |index: usize| base.powf(-2.0 * index as f64 / rotated as f64);
        let frequencies = (0..rotated / 2).map(frequency).collect();
        Ok(Rotary { heads, width, frequencies, factor }.into())
    }
}
