//! Lightning's `.ckpt`: one dict with the model, every optimizer and scheduler, loops and callbacks.

use super::Part;
use super::object::Root;
use crate::checkpoint::step::Claim;

/// Whose version it is: that of `pytorch_lightning` and `lightning`, which both write this key.
const VERSION: &str = "pytorch-lightning_version";

/// Where the loops count optimizer steps, when Lightning steps and when the module does.
const LOOP_COUNTERS: &[&[&str]] = &[
    &["loops", "fit_loop", "epoch_loop.automatic_optimization.optim_progress", "optimizer", "step"],
    &["loops", "fit_loop", "epoch_loop.manual_optimization.optim_step_progress"],
];

pub(super) fn is_one(root: &Root<'_>) -> bool {
    root.has(&["state_dict", VERSION]) || root.has(&["state_dict", "global_step", "loops"])
}

/// What the loops say beside `global_step`: the sum of both counters, of which one stands still.
pub(super) fn claim(root: &Root<'_>, part: &Part) -> Option<Claim> {
    let counts = LOOP_COUNTERS.iter().filter_map(|path| {
        let path: Vec<&str> = path.iter().chain(&["total", "completed"]).copied().collect();
        root.objects.count(root.find(&path)?)
    });
    let step = counts.reduce(u64::saturating_add)?;
    Some(Claim { place: format!("the loops of {}", part.name), step, certain: true })
}
