//! Files of nanoGPT's kind whose class is one of the trainer's own.

use std::collections::BTreeMap;

use crate::checkpoint::{Checkpoint, Layout};
use crate::network::builders::Population;

/// Positions, which a class with rotary or relative ones of its own has no table of.
const POSITIONS: &str = "wpe.weight";

/// Why parameters in a file of nanoGPT's kind are a matter of its class: `model_args` are the arguments of a class in the trainer's own
/// code and name none. They are where every block differs from GPT-2's in the same parameters, with others in the place of those that
/// are not there. What one block alone lacks was lost.
pub(super) fn class_of_its_own(checkpoint: &Checkpoint, population: &Population) -> Option<String> {
    if checkpoint.layout != Layout::NanoGpt {
        return None;
    }
    let blocks = checkpoint.config.as_ref()?.get("n_layer")?.as_u64().filter(|blocks| *blocks > 1)?;
    let reshaped: Vec<&str> =
        population.reshaped.iter().map(|(index, _)| checkpoint.tensors[*index].name.as_str()).collect();
    let in_blocks: Vec<&str> =
        population.missing.iter().map(String::as_str).filter(|name| !name.ends_with(POSITIONS)).collect();
    let unexpected: Vec<&str> = population.unexpected.iter().map(String::as_str).collect();
    let differ_alike =
        [&reshaped, &in_blocks, &unexpected].iter().all(|names| is_in_every_block(names, blocks));
    let stand_in = in_blocks.is_empty() || !unexpected.is_empty();
    let first = population.missing.first().map(String::as_str).or(reshaped.first().copied());
    let first = first.or(unexpected.first().copied())?;
    (differ_alike && stand_in).then(|| {
        format!(
            "model_args names no class, and all blocks differ from GPT-2's alike, as in {}: the class may be one of the trainer's own",
            first.escape_debug()
        )
    })
}

/// Whether each of the names is that of a parameter of a block, and stands there once for each of so many blocks.
fn is_in_every_block(names: &[&str], blocks: u64) -> bool {
    let is_number = |part: &&str| part.parse::<u64>().is_ok();
    let mut counts: BTreeMap<Vec<&str>, u64> = BTreeMap::new();
    for name in names {
        let of_block = |part| if is_number(&part) { "#" } else { part };
        *counts.entry(name.split('.').map(of_block).collect()).or_default() += 1;
    }
    counts.iter().all(|(parts, count)| parts.contains(&"#") && *count == blocks)
}
