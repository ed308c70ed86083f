//! What logged numbers mean, settled before any limit is held against them. One trap a file.
//!
//! | trap | where |
//! |---|---|
//! | NaN loss shown as a mean or as 0 | `nan_filter.rs` |
//! | bare `NaN`, `Infinity` | the readers of formats |
//! | norm before or after clipping | `clipping.rs` |
//! | norm multiplied by the loss scale | `loss_scale.rs` |
//! | 0 for "not measured" | `zeros.rs` |
//! | means over a window, last of a window | `sampling.rs` |
//! | overlapping and rewound logs | `../merge.rs` |
//! | norm of a skipped step repeats the one before | `repeats.rs` |
//! | another accumulation or world size | kept by step; judged by `accumulation-change` |
//! | optimizer state keyed by index | `checkpoint::optimizer` |

use super::merge::Merged;
use super::{Log, LogSemantics, Remark, RemarkKind};

mod clipping;
mod loss_scale;
mod nan_filter;
mod repeats;
mod sampling;
mod zeros;

/// Gives every number its meaning; `clip_threshold` is what a config beside the log says.
pub(super) fn settle(merged: Merged, clip_threshold: Option<f64>, remarks: &mut Vec<Remark>) -> Log {
    let Merged { sources, mut records, seams, formats } = merged;
    let mut semantics = LogSemantics { clip_threshold, seams, ..LogSemantics::default() };
    let mut say = |steps: Option<[u64; 2]>, kind: RemarkKind, message: String| {
        remarks.push(Remark { kind, steps, file: None, message });
    };
    sampling::settle(&records, &formats, &mut semantics, &mut say);
    // A norm that was not measured, or is another step's, must not speak for a loss scale or a threshold.
    repeats::settle(&mut records, &mut semantics, &mut say);
    zeros::settle(&mut records, &mut semantics, &mut say);
    loss_scale::settle(&mut records, &mut semantics, &mut say);
    nan_filter::settle(&mut records, &mut semantics, &mut say);
    clipping::settle(&records, &mut semantics, &mut say);
    Log { sources, records, semantics }
}

/// Notes a sentence about some steps, or about all.
type Say<'a> = dyn FnMut(Option<[u64; 2]>, RemarkKind, String) + 'a;
