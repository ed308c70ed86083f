//! What the builders share: layers by the names of their parameters.

use super::Places;
use crate::compute::Unary;
use crate::network::{
    Activation, Add, Assembly, Attention, LayerNorm, Linear, Mask, Network, Part, PositionEmbedding, Rows,
    Slice, ValueId,
};

/// A network that is being put together from parameters whose names begin alike.
pub(super) struct Draft<'p> {
    pub assembly: Assembly,
    pub places: &'p Places<'p>,
    pub prefix: String,
}

/// Sizes of an attention.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub count: usize,
    pub shared: usize,
    pub width: usize,
    pub scale: f64,
    pub mask: Mask,
}

impl Heads {
    /// As many of keys and values, logits over the root of the width, all keys seen.
    pub fn plain(heads: usize, width: usize) -> Self {
        Self { count: heads, shared: heads, width, scale: 1.0 / (width as f64).sqrt(), mask: Mask::None }
    }
}

impl Draft<'_> {
    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.places.find(&self.full(name)).is_some()
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub fn linear(
        &mut self,
        name: &str,
        x: ValueId,
        (inputs, outputs): (usize, usize),
        bias: bool,
    ) -> ValueId {
        let weight = self.assembly.parameter(&self.full(&format!("{name}.weight")), &[outputs, inputs]);
        let bias = bias.then(|| self.assembly.parameter(&self.full(&format!("{name}.bias")), &[outputs]));
        self.assembly.push(name, Linear { inputs, outputs, weight, bias, transposed: false }, &[x])
    }

    /// GPT-2's layer that stores its weight the other way round.
    pub fn convolution(&mut self, name: &str, x: ValueId, (inputs, outputs): (usize, usize)) -> ValueId {
        let weight = self.assembly.parameter(&self.full(&format!("{name}.weight")), &[inputs, outputs]);
        let bias = Some(self.assembly.parameter(&self.full(&format!("{name}.bias")), &[outputs]));
        self.assembly.push(name, Linear { inputs, outputs, weight, bias, transposed: true }, &[x])
    }

    pub fn layer_norm(&mut self, name: &str, x: ValueId, columns: usize, epsilon: f64) -> ValueId {
        self.layer_norm_with(name, x, (columns, epsilon), true)
    }

    /// A norm with a gain, and a bias or none.
    pub fn layer_norm_with(
        &mut self,
        name: &str,
        x: ValueId,
        (columns, epsilon): (usize, f64),
        has_bias: bool,
    ) -> ValueId {
        // Before 2019 gains and biases of norms were called gamma and beta.
        let old = !self.has(&format!("{name}.weight")) && self.has(&format!("{name}.gamma"));
        let [gain, bias] = if old { ["gamma", "beta"] } else { ["weight", "bias"] };
        let mut parameter =
            |leaf: &str| self.assembly.parameter(&format!("{}{name}.{leaf}", self.prefix), &[columns]);
        let (gain, bias) = (Some(parameter(gain)), has_bias.then(|| parameter(bias)));
        self.assembly.push(name, LayerNorm { columns, centred: true, epsilon, gain, bias }, &[x])
    }

    pub fn rms_norm(&mut self, name: &str, x: ValueId, columns: usize, epsilon: f64) -> ValueId {
        let gain = Some(self.assembly.parameter(&self.full(&format!("{name}.weight")), &[columns]));
        self.assembly.push(name, LayerNorm { columns, centred: false, epsilon, gain, bias: None }, &[x])
    }

    pub fn add_rows(&mut self, name: &str, x: ValueId, count: usize, width: usize, rows: Rows) -> ValueId {
        let table = self.assembly.parameter(&self.full(&format!("{name}.weight")), &[count, width]);
        self.assembly.push(name, PositionEmbedding { count, width, table, rows }, &[x])
    }

    pub fn activation(&mut self, name: &str, x: ValueId, function: Unary) -> ValueId {
        self.assembly.push(name, Activation { function }, &[x])
    }

    pub fn add(&mut self, name: &str, x: ValueId, y: ValueId) -> ValueId {
        self.assembly.push(name, Add, &[x, y])
    }

    /// One of `parts` equal parts of the last axis of a sequence.
    pub fn part(&mut self, name: &str, x: ValueId, width: usize, index: usize) -> ValueId {
        self.assembly.push(name, Slice { axis: 2, places: index * width..(index + 1) * width }, &[x])
    }

    pub fn attention(&mut self, name: &str, inputs: [ValueId; 3], heads: &Heads) -> ValueId {
        let &Heads { count: heads, shared, width, scale, mask } = heads;
        self.assembly.push(name, Attention { heads, shared, width, scale, cap: None, mask }, &inputs)
    }

    /// Logits from a table that embeds tokens as well.
    pub fn tied_head(
        &mut self,
        name: &str,
        table: &str,
        x: ValueId,
        (width, count): (usize, usize),
    ) -> ValueId {
        let weight = self.assembly.parameter(&self.full(table), &[count, width]);
        let head = Linear { inputs: width, outputs: count, weight, bias: None, transposed: false };
        self.assembly.push(name, head, &[x])
    }

    pub fn finish(self, output: ValueId) -> Network {
        self.assembly.finish(output)
    }
}

/// The two sub-layers of a transformer block.
pub(super) fn parts(
    attention: (ValueId, ValueId),
    logits_from: &[ValueId],
    mlp: (ValueId, ValueId),
) -> Vec<Part> {
    let part = |name: &str, (input, output), logits_from: &[ValueId]| Part {
        name: name.to_owned(),
        input,
        output,
        logits_from: logits_from.to_vec(),
    };
    vec![part("attention", attention, logits_from), part("mlp", mlp, &[])]
}
