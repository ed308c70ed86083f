//! Shapes of a layer's parameters as the file states them: for a network that is about to be trained, which has no checkpoint yet.
//!
//! What a layer takes is known by then, so that a file says what comes out and nothing twice: `outputs`, `kernel`, `hidden`.

use super::super::state::below;
use super::layers::Layer;
use super::{Writing, is_too_large};
use crate::error::Result;

/// Names of parameters with their shapes.
pub(super) type Stated = Vec<(String, Vec<usize>)>;

impl Layer<'_> {
    /// The parameters of the layer: all that it can have, but for those that the file leaves out.
    pub fn stated(&self, writing: &Writing<'_>) -> Result<Stated> {
        let shapes = match self.table.op() {
            "linear" => self.of_linear(writing)?,
            "position_embedding" => {
                let (rows, width) = (self.table.needed("rows")?, self.last_size(writing)?);
                self.named(&[("weight", &[rows, width])])?
            }
            "layer_norm" | "rms_norm" => {
                let columns = self.table.size("columns")?.map_or_else(|| self.last_size(writing), Ok)?;
                self.of_norm(columns)?
            }
            "group_norm" => {
                let channels = self.table.size("channels")?.map_or_else(|| self.channels(writing), Ok)?;
                self.of_norm(channels)?
            }
            "conv1d" => self.of_convolution(writing, 1)?,
            "conv2d" => self.of_convolution(writing, 2)?,
            "rnn" | "lstm" | "gru" => self.of_recurrence(writing)?,
            "rnn_cell" | "lstm_cell" | "gru_cell" => self.of_cell("", self.last_size(writing)?)?,
            "batch_norm" => {
                let message = "batch_norm is computed with the statistics of a training that is over, which the trainer does not gather: use group_norm or layer_norm";
                return Err(self.table.refuse_at("op", message));
            }
            _ => Vec::new(),
        };
        match shapes.iter().find(|(_, shape)| is_too_large(shape)) {
            None => Ok(shapes),
            Some((name, shape)) => {
                let message =
                    format!("{} of shape {shape:?} is larger than can be computed", name.escape_debug());
                Err(self.table.refuse_at("op", &message))
            }
        }
    }

    /// Parameters by what they are to the layer, where it has a name for them.
    fn named(&self, leaves: &[(&'static str, &[usize])]) -> Result<Stated> {
        let named = |&(leaf, shape): &(&'static str, &[usize])| {
            let name = self.parameter_name(leaf)?;
            Ok(name.map(|name| (name, shape.to_vec())))
        };
        leaves.iter().filter_map(|leaf| named(leaf).transpose()).collect()
    }

    fn of_linear(&self, writing: &Writing<'_>) -> Result<Stated> {
        let (outputs, inputs) = (self.table.needed("outputs")?, self.last_size(writing)?);
        let shape = if self.table.flag("transposed", false)? { [inputs, outputs] } else { [outputs, inputs] };
        self.named(&[("weight", &shape), ("bias", &[outputs])])
    }

    fn of_norm(&self, width: usize) -> Result<Stated> {
        let has_bias = self.table.op() != "rms_norm" || self.table.has("bias");
        let leaves: [(&str, &[usize]); 2] = [("weight", &[width]), ("bias", &[width])];
        self.named(&leaves[..if has_bias { 2 } else { 1 }])
    }

    fn of_convolution(&self, writing: &Writing<'_>, axes: usize) -> Result<Stated> {
        let outputs = self.table.needed("outputs")?;
        let kernel = self.table.sizes("kernel", axes, 1)?.ok_or_else(|| self.table.missing("kernel"))?;
        let (channels, groups) = (self.channels(writing)?, self.table.size("groups")?.unwrap_or(1));
        if !channels.is_multiple_of(groups) {
            let message = format!("the {channels} channels that it takes do not make {groups} groups");
            return Err(self.table.refuse_at("groups", &message));
        }
        let shape = [&[outputs, channels / groups], kernel.as_slice()].concat();
        self.named(&[("weight", &shape), ("bias", &[outputs])])
    }

    fn of_recurrence(&self, writing: &Writing<'_>) -> Result<Stated> {
        let hidden = self.table.needed("hidden")?;
        let directions: &[&str] =
            if self.table.flag("bidirectional", false)? { &["", "_reverse"] } else { &[""] };
        let layers = self.table.size("layers")?.unwrap_or(1);
        if layers > MOST_STACKED {
            let message = format!("layers is {layers}, more than the {MOST_STACKED} that are computed");
            return Err(self.table.refuse_at("layers", &message));
        }
        let mut inputs = self.last_size(writing)?;
        let mut shapes = Vec::new();
        for layer in 0..layers {
            for direction in directions {
                shapes.extend(self.of_cell(&format!("_l{layer}{direction}"), inputs)?);
            }
            inputs = hidden.saturating_mul(directions.len());
        }
        Ok(shapes)
    }

    fn of_cell(&self, suffix: &str, inputs: usize) -> Result<Stated> {
        let hidden = self.table.needed("hidden")?;
        let gates = match self.table.op().trim_end_matches("_cell") {
            "lstm" => 4,
            "gru" => 3,
            _ => 1,
        };
        let rows = hidden.saturating_mul(gates);
        let leaves: [(&str, Vec<usize>); 4] = [
            ("weight_ih", vec![rows, inputs]),
            ("weight_hh", vec![rows, hidden]),
            ("bias_ih", vec![rows]),
            ("bias_hh", vec![rows]),
        ];
        let count = if self.table.flag("bias", true)? { 4 } else { 2 };
        let prefix = self.name()?;
        let named = |(leaf, shape)| (below(prefix, &format!("{leaf}{suffix}")), shape);
        Ok(leaves.into_iter().take(count).map(named).collect())
    }

    /// The shape of what it takes, where that is a value.
    fn given<'w>(&self, writing: &'w Writing<'_>) -> Result<&'w [usize]> {
        let shape = self.inputs.first().and_then(|&input| writing.shape(input));
        shape.ok_or_else(|| self.table.refuse_at("op", "what it takes is of no known shape"))
    }

    fn last_size(&self, writing: &Writing<'_>) -> Result<usize> {
        let shape = self.given(writing)?;
        Ok(*shape.last().expect("values have a batch at least"))
    }

    fn channels(&self, writing: &Writing<'_>) -> Result<usize> {
        let shape = self.given(writing)?;
        shape.get(1).copied().ok_or_else(|| {
            self.table.refuse_at("op", &format!("takes channels, and is given values of shape {shape:?}"))
        })
    }
}

/// Layers of a recurrence above it are those of none.
pub(super) const MOST_STACKED: usize = 1024;
