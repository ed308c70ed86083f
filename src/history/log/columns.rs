//! Which column of a log is which quantity: a table of the names that trainers write, and what the user says.

use std::str::FromStr;

use super::losses;

/// What a column of a log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quantity {
    /// Optimizer steps taken.
    Step,
    /// Training loss.
    Loss,
    /// Norm of the whole gradient.
    GradNorm,
    /// Norm of the gradient of one layer or parameter.
    LayerGradNorm,
    /// Learning rate.
    LearningRate,
    /// Loss scale of mixed precision.
    LossScale,
    /// Elements of the gradient that are NaN or infinite.
    NonFinite,
    /// Steps that the optimizer skipped.
    Skipped,
    /// Samples of one optimizer step, over all ranks.
    BatchSize,
    /// Micro-batches of one optimizer step.
    Accumulation,
    /// Number of ranks.
    WorldSize,
    /// What the batch was made of.
    Data,
    /// Which part of the data a row is of: training, or an evaluation.
    Split,
}

impl Quantity {
    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(quantity, _)| *quantity == self).map_or("", |(_, name)| name)
    }
}

const NAMES: &[(Quantity, &str)] = &[
    (Quantity::Step, "step"),
    (Quantity::Loss, "loss"),
    (Quantity::GradNorm, "grad_norm"),
    (Quantity::LayerGradNorm, "grad_norm_by_layer"),
    (Quantity::LearningRate, "learning_rate"),
    (Quantity::LossScale, "loss_scale"),
    (Quantity::NonFinite, "non_finite"),
    (Quantity::Skipped, "skipped"),
    (Quantity::BatchSize, "batch_size"),
    (Quantity::Accumulation, "accumulation"),
    (Quantity::WorldSize, "world_size"),
    (Quantity::Data, "data"),
    (Quantity::Split, "split"),
];

/// The user's word for which column a quantity is: `loss=train/loss`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The quantity.
    pub quantity: Quantity,
    /// The column's own name in the log.
    pub name: String,
}

impl FromStr for Column {
    type Err = String;

    /// # Errors
    /// A sentence, when it is not `QUANTITY=NAME` with a known quantity.
    fn from_str(text: &str) -> Result<Self, String> {
        let known = || NAMES.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
        let (word, name) = text.split_once('=').ok_or("write it as QUANTITY=NAME, loss=train/loss")?;
        let quantity = quantity(word.trim()).ok_or_else(|| format!("{word:?} is none of {}", known()))?;
        if name.trim().is_empty() {
            return Err("the name of the column is missing behind the =".to_owned());
        }
        Ok(Self { quantity, name: name.trim().to_owned() })
    }
}

/// The quantity that the user's `word` means: its name, or a name that trainers write, such as `lr`.
fn quantity(word: &str) -> Option<Quantity> {
    let named = NAMES.iter().find(|(_, name)| *name == word).map(|(quantity, _)| *quantity);
    let word = normalise(word);
    named.or_else(|| {
        KNOWN.iter().find(|(_, names)| names.contains(&word.as_str())).map(|(quantity, _)| *quantity)
    })
}

/// Several of the user's words in one: `step=iter,loss=train_nll`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns(pub Vec<Column>);

impl FromStr for Columns {
    type Err = String;

    /// A comma separates only where a `=` follows before the next one: names of columns may have commas.
    ///
    /// # Errors
    /// As [`Column`]'s.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts: Vec<String> = Vec::new();
        for piece in text.split(',') {
            match parts.last_mut().filter(|_| !piece.contains('=')) {
                Some(name) => {
                    name.push(',');
                    name.push_str(piece);
                }
                None => parts.push(piece.to_owned()),
            }
        }
        parts.iter().map(|part| part.parse()).collect::<Result<_, _>>().map(Self)
    }
}

/// Names of columns, normalised, in the order in which they are believed where a log has several of one quantity.
const KNOWN: &[(Quantity, &[&str])] = &[
    (
        Quantity::Step,
        // Trainers' own counts before those of loggers, which count their calls. Epochs are better than nothing (timm).
        &[
            "train_global_step",
            "trainer_global_step",
            "global_step",
            "global_steps",
            "optimizer_step",
            "step",
            "steps",
            "iteration",
            "iterations",
            "iter",
            "iter_num",
            "num_updates",
            "update",
            "_step",
            "epoch",
        ],
    ),
    (
        Quantity::Loss,
        // A step's own loss before means over an epoch.
        &[
            "lm_loss",
            "train_loss_step",
            "train_step_loss",
            "loss",
            "train_loss",
            "training_loss",
            "loss_train",
            "loss_metrics_global_avg_loss",
            "train_ce_loss",
            "loss_train_total",
            "train_samples_train_loss",
            "train_train_loss",
            "train_loss_epoch",
        ],
    ),
    (
        Quantity::GradNorm,
        &[
            "grad_norm",
            "gradient_norm",
            "train_grad_norm",
            "train_gradient_norm",
            "grad_norm_total",
            "total_grad_norm",
            "optim_total_grad_norm",
            "grad_2_0_norm_total",
            "l2_norm_grad_global",
            "global_grad_norm",
            "train_global_grad_norm",
            "gnorm",
            "avg_grad_norm",
        ],
    ),
    (
        Quantity::LearningRate,
        &[
            "learning_rate",
            "lr",
            "train_learning_rate",
            "train_lr",
            "train_samples_lr",
            "optim_lr",
            "lr_group_0",
            "lr_0",
        ],
    ),
    (
        Quantity::LossScale,
        &[
            "loss_scale",
            "train_loss_scale",
            "train_samples_loss_scale",
            "grad_scale",
            "scaler_scale",
            "amp_scale",
        ],
    ),
    (Quantity::NonFinite, &["nonfinite", "non_finite", "num_nonfinite", "grad_nonfinite", "num_nan_grads"]),
    (
        Quantity::Skipped,
        &["number_of_skipped_iterations", "skipped", "skipped_steps", "overflow", "step_skipped"],
    ),
    (Quantity::BatchSize, &["global_batch_size", "batch_size", "train_batch_size", "total_batch_size"]),
    (
        Quantity::Accumulation,
        &[
            "gradient_accumulation_steps",
            "accumulation",
            "grad_accum",
            "grad_accumulation",
            "accumulation_steps",
        ],
    ),
    (Quantity::WorldSize, &["world_size", "num_gpus", "n_gpus", "dp_world_size", "data_parallel_size"]),
    (
        Quantity::Data,
        &[
            "data",
            "data_id",
            "batch_id",
            "batch_index",
            "shard",
            "data_shard",
            "data_file",
            "sample_index",
            "data_index",
        ],
    ),
    (Quantity::Split, &["split", "phase", "mode", "stage", "subset"]),
];

/// Beginnings of names that go on with a layer or parameter, as they are written.
const LAYERS: &[&str] = &[
    "grad_norm_by_layer/",
    "grad_2.0_norm/",
    "l2_norm/grad/",
    "grad_norm/",
    "train/grad_norm/",
    "gradients/norm/",
];

/// A column that was recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recognised {
    pub quantity: Quantity,
    /// The layer, for norms by layer.
    pub layer: Option<String>,
    /// The lower, the more it is believed.
    pub rank: usize,
    /// Its name, lower case, with `_` for whatever is neither letter nor digit.
    pub normal: String,
}

/// What the column `name` is; `choices` of the user go before the table.
pub(super) fn recognise(name: &str, choices: &[Column]) -> Option<Recognised> {
    let chosen = choices.iter().find(|choice| choice.name == name);
    if let Some(choice) = chosen {
        let layer = (choice.quantity == Quantity::LayerGradNorm).then(|| name.to_owned());
        return Some(Recognised { quantity: choice.quantity, layer, rank: 0, normal: normalise(name) });
    }
    // Charts of wandb are exported as `name of the run - name of the column`, with two more for the extremes.
    let own = name.rsplit_once(" - ").map_or(name, |(_, own)| own);
    if own.ends_with("__MIN") || own.ends_with("__MAX") {
        return None;
    }
    let normal = normalise(own);
    let known = KNOWN.iter().find_map(|(quantity, names)| {
        names.iter().position(|known| *known == normal).map(|rank| (*quantity, rank + 1))
    });
    let found = known.or_else(|| losses::rank(&normal).map(|rank| (Quantity::Loss, rank)));
    let of = |quantity, rank| Recognised { quantity, layer: None, rank, normal: normal.clone() };
    let found = found.map(|(quantity, rank)| of(quantity, rank)).or_else(|| layer(own)).or_else(|| {
        // Lightning's monitor names the optimizer: lr-AdamW, lr-AdamW/pg1, lr-SGD-1.
        let monitored = normal.starts_with("lr_") || normal.starts_with("learning_rate_");
        monitored.then(|| of(Quantity::LearningRate, 100))
    })?;
    // Where the user names a column for a quantity, no other one is it.
    let taken = choices.iter().any(|choice| choice.quantity == found.quantity);
    (!taken).then_some(found)
}

fn layer(name: &str) -> Option<Recognised> {
    let layer = LAYERS.iter().find_map(|start| name.strip_prefix(start))?;
    let total = ["total", "global"].contains(&layer);
    let quantity = if total { Quantity::GradNorm } else { Quantity::LayerGradNorm };
    let layer = (!total).then(|| layer.to_owned());
    Some(Recognised { quantity, layer, rank: 50, normal: normalise(name) })
}

/// Lower case, with `_` for whatever is neither letter nor digit.
fn normalise(name: &str) -> String {
    name.trim()
        .chars()
        .map(|character| if character.is_alphanumeric() { character.to_ascii_lowercase() } else { '_' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantity(name: &str) -> Option<(Quantity, Option<String>)> {
        recognise(name, &[]).map(|found| (found.quantity, found.layer))
    }

    #[test]
    fn names_that_trainers_write_are_known() {
        let cases = [
            ("lm loss", Quantity::Loss),
            ("Train/Samples/train_loss", Quantity::Loss),
            ("loss_metrics/global_avg_loss", Quantity::Loss),
            ("train/CE loss", Quantity::Loss),
            ("grad-norm", Quantity::GradNorm),
            ("optim/total grad norm", Quantity::GradNorm),
            ("l2_norm/grad/global", Quantity::GradNorm),
            ("grad_2.0_norm_total", Quantity::GradNorm),
            ("lr-AdamW/pg1", Quantity::LearningRate),
            ("train/learning_rate", Quantity::LearningRate),
            ("loss scale", Quantity::LossScale),
            ("number of skipped iterations", Quantity::Skipped),
            ("trainer/global_step", Quantity::Step),
            ("Step", Quantity::Step),
            ("gpt2 - train/loss", Quantity::Loss),
        ];
        for (name, expected) in cases {
            assert_eq!(quantity(name), Some((expected, None)), "{name}");
        }
        let layer = (Quantity::LayerGradNorm, Some("model.0.weight".to_owned()));
        assert_eq!(quantity("grad_2.0_norm/model.0.weight"), Some(layer));
    }

    #[test]
    fn what_is_not_of_training_is_left_alone() {
        for name in [
            "eval_loss",
            "val/loss",
            "validation loss",
            "perplexity",
            "gpt2 - train/loss__MIN",
            "train_runtime",
        ] {
            assert_eq!(quantity(name), None, "{name}");
        }
    }

    #[test]
    fn what_the_user_says_goes_before_the_table() {
        let choices = ["loss=my loss".parse::<Column>().unwrap()];
        assert_eq!(recognise("my loss", &choices).unwrap().quantity, Quantity::Loss);
        assert_eq!(recognise("loss", &choices), None);
        assert_eq!(recognise("grad_norm", &choices).unwrap().quantity, Quantity::GradNorm);
        for wrong in ["loss", "speed=x", "loss= "] {
            assert!(wrong.parse::<Column>().is_err(), "{wrong}");
        }
        let layer = ["grad_norm_by_layer=norm of fc".parse::<Column>().unwrap()];
        assert_eq!(recognise("norm of fc", &layer).unwrap().layer.as_deref(), Some("norm of fc"));
    }

    #[test]
    fn one_word_may_name_several_columns_and_columns_may_have_commas() {
        let named = |text: &str| {
            let Columns(columns) = text.parse().unwrap();
            columns.into_iter().map(|column| (column.quantity, column.name)).collect::<Vec<_>>()
        };
        let own = |quantity, name: &str| (quantity, name.to_owned());
        assert_eq!(
            named("step=iter,loss=train_nll, grad_norm=gnorm,lr=the rate"),
            [
                own(Quantity::Step, "iter"),
                own(Quantity::Loss, "train_nll"),
                own(Quantity::GradNorm, "gnorm"),
                own(Quantity::LearningRate, "the rate"),
            ]
        );
        assert_eq!(
            named("loss=nll, mean,step=n"),
            [own(Quantity::Loss, "nll, mean"), own(Quantity::Step, "n")]
        );
        assert!("loss=a,speed=b".parse::<Columns>().unwrap_err().contains("\"speed\" is none of step, loss"));
    }
}
