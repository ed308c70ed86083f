//! Columns that are losses under names of a program's own: which of them is the one that is trained on, where that can be told.
//!
//! A column under a name that trainers write goes before all of these. After it comes the sum of several losses, and then the only
//! loss that a log has: of several that stand for different things none is taken. What goes below zero, as the objective of a policy
//! does, has no level that it could leave, and is not taken either.

use std::collections::BTreeMap;

use super::columns::Quantity;
use super::table::{ALSO_EVALUATION, Series, Table};
use super::{Remark, RemarkKind};
use crate::history::EVALUATION;

/// The rank of a sum of losses, behind every name that trainers write.
const TOTAL: usize = 1000;

/// The rank of a loss of any other name.
const OTHER: usize = 2000;

/// Columns that are named where none of them is taken.
const MOST_NAMED: usize = 8;

/// Words around those of a sum: `train/total_loss`, `losses/total_loss`, `total_loss_step`.
const AROUND: &[&str] = &["losses", "train", "training", "step", "epoch"];

/// Words of what is no loss at all, or a term beside the one that is trained on.
const NOT_TRAINED_ON: &[&str] = &[
    "best",
    "lowest",
    "min",
    "max",
    "std",
    "scale",
    "scaler",
    "weight",
    "coef",
    "ratio",
    "delta",
    "target",
    "aux",
    "auxiliary",
    "reg",
    "regularization",
    "kl",
    "balance",
    "balancing",
    "z",
    "penalty",
    "commitment",
    "entropy",
];

/// The rank of a column as the training loss by its normalised name alone; `None` where it is no loss of training.
pub(super) fn rank(normal: &str) -> Option<usize> {
    let words: Vec<&str> = normal.split('_').filter(|word| !word.is_empty()).collect();
    let is_total = ["total", "loss"].iter().all(|word| words.contains(word))
        && words.iter().all(|word| ["total", "loss"].contains(word) || AROUND.contains(word));
    if is_total {
        return Some(TOTAL);
    }
    let words = kind(normal);
    let is_loss = matches!(words[..], ["loss" | "losses", _] | [.., _, "loss"]);
    let excluded = |(at, word): (usize, &&str)| {
        let is_cross_entropy = *word == "entropy" && at > 0 && words[at - 1] == "cross";
        EVALUATION.contains(word)
            || ALSO_EVALUATION.contains(word)
            || (NOT_TRAINED_ON.contains(word) && !is_cross_entropy)
    };
    (is_loss && !words.iter().enumerate().any(excluded)).then_some(OTHER)
}

/// The words of a name that tell one loss of a program from another: not those for how often it is logged.
fn kind(normal: &str) -> Vec<&str> {
    let words = normal.split('_').filter(|word| !word.is_empty());
    words.filter(|word| !["train", "training", "step", "epoch"].contains(word)).collect()
}

fn is_of_own_name(series: &Series) -> bool {
    series.column.quantity == Quantity::Loss && series.column.rank >= TOTAL
}

/// Leaves of the losses under names of a program's own those that stand for the training loss, and says why of the others.
pub(super) fn settle(tables: &mut [Table], remarks: &mut Vec<Remark>) {
    let is_loss = |series: &&Series| series.column.quantity == Quantity::Loss;
    let lowest =
        tables.iter().flat_map(|table| &table.series).filter(is_loss).map(|series| series.column.rank).min();
    let Some(lowest) = lowest else { return };
    for table in &mut *tables {
        table.series.retain(|series| !is_of_own_name(series) || series.column.rank == lowest);
    }
    if lowest < TOTAL {
        return;
    }
    let mut kinds: BTreeMap<Vec<String>, String> = BTreeMap::new();
    for series in tables.iter().flat_map(|table| &table.series).filter(|series| is_of_own_name(series)) {
        let words = kind(&series.column.normal).into_iter().map(str::to_owned).collect();
        kinds.entry(words).or_insert_with(|| series.name.clone());
    }
    let signed = tables.iter().flat_map(|table| &table.series).filter(|series| is_of_own_name(series));
    let signed = signed.flat_map(|series| &series.points).any(|(_, value)| *value < 0.0);
    let names: Vec<&str> = kinds.values().take(MOST_NAMED).map(String::as_str).collect();
    let message = match names[..] {
        [name] if signed => format!(
            "column {name} goes below zero, has no level that it could leave, and is not taken for the loss: where it is what is trained on, say so with --columns loss=NAME"
        ),
        [_] => return,
        _ => format!(
            "several columns are losses, and which one is trained on is not known ({}): name it with --columns loss=NAME",
            names.join(", ")
        ),
    };
    let file =
        tables.iter().find(|table| table.series.iter().any(is_of_own_name)).map(|table| table.file.clone());
    for table in &mut *tables {
        table.series.retain(|series| !is_of_own_name(series));
    }
    remarks.push(Remark { kind: RemarkKind::LeftOut, steps: None, file, message });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_losses_are_told_from_evaluations_and_from_terms_beside_them() {
        for name in ["total_loss", "train_total_loss", "losses_total_loss", "loss_total", "total_loss_step"] {
            assert_eq!(rank(name), Some(TOTAL), "{name}");
        }
        for name in ["policy_loss", "actor_loss_epoch", "train_ctc_loss", "loss_d", "cross_entropy_loss"] {
            assert_eq!(rank(name), Some(OTHER), "{name}");
        }
        for name in [
            "val_total_loss",
            "val_policy_loss",
            "eval_nll_loss",
            "loss_val",
            "test_loss",
            "loss_scaler",
            "aux_loss",
            "entropy_loss",
            "best_loss",
            "lossy",
            "reward",
            "loss",
        ] {
            assert_eq!(rank(name), None, "{name}");
        }
    }
}
