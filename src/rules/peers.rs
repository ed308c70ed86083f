//! What is usual for the maps of a role, and which of them one line of code makes.

use std::collections::BTreeMap;

use super::drawn::FEWEST_NORMAL;
use super::weights::{fans, maps};
use crate::analysis::model::{CheckpointAnalysis, Role, TensorAnalysis};
use crate::robust::median;

/// Fewer layers say nothing about what is usual for their like.
pub(super) const FEWEST_PEERS: usize = 3;

/// How wide a map is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Level {
    pub rms: f64,
    pub gain: f64,
    /// `fan_out·RMS²`: by how much it multiplies the variance of gradients on their way back.
    pub backward_gain: f64,
}

impl Level {
    /// `None` where it has no statistics or no fans.
    pub(super) fn of(tensor: &TensorAnalysis) -> Option<Self> {
        let rms = *tensor.statistics.value()?.rms.value()?;
        let backward_gain = fans(tensor)?.output as f64 * rms * rms;
        Some(Self { rms, gain: gain(tensor)?, backward_gain })
    }
}

/// `σ_w² = ‖W‖_F²/fan_out = fan_in·RMS²`: by how much the map multiplies the variance of independent inputs.
pub(super) fn gain(tensor: &TensorAnalysis) -> Option<f64> {
    let rms = tensor.statistics.value()?.rms.value()?;
    Some(fans(tensor)?.input as f64 * rms * rms)
}

/// The usual RMS and gains of maps that are alike.
pub(super) struct Usual {
    pub maps: usize,
    pub level: Level,
    levels: Vec<Level>,
}

impl Usual {
    /// Whether fan-outs set the levels of the maps other than one at `level`.
    pub(super) fn is_by_fan_out(&self, level: &Level) -> bool {
        is_by_fan_out(&self.levels, level)
    }
}

/// Whether the maps other than one at `level` are more alike by their backward gains than by their RMS and than by their gains, so that
/// fan-outs set their levels.
fn is_by_fan_out(levels: &[Level], level: &Level) -> bool {
    let own = levels.iter().position(|other| other.rms == level.rms);
    let others: Vec<&Level> =
        levels.iter().enumerate().filter(|(index, _)| Some(*index) != own).map(|(_, other)| other).collect();
    // Mean distance from the median, in factors of the RMS.
    let unlikeness = |of: fn(&Level) -> f64| {
        let logs: Vec<f64> = others.iter().map(|level| of(level).ln()).collect();
        let middle = median(logs.iter().copied())?;
        Some(logs.iter().map(|log| (log - middle).abs()).sum::<f64>() / logs.len() as f64)
    };
    let rms = unlikeness(|level| level.rms);
    let gain = unlikeness(|level| level.gain.sqrt());
    let backward = unlikeness(|level| level.backward_gain.sqrt());
    let Some(((rms, gain), backward)) = rms.zip(gain).zip(backward) else { return false };
    // Equal fans leave equal distances but for rounding.
    backward + 1e-9 < rms.min(gain)
}

/// The maps by role. Depthwise convolutions are a population of their own where there are enough of them: they sum over
/// one channel, so that no rule of initialisation makes them as wide as the others, by RMS or by gain.
pub(super) struct Populations(BTreeMap<Population, Usual>);

/// A role, and whether the maps are its depthwise convolutions.
type Population = (Role, bool);

fn population(tensor: &TensorAnalysis) -> Population {
    (tensor.role, is_depthwise(tensor))
}

impl Populations {
    pub(super) fn of(checkpoint: &CheckpointAnalysis) -> Self {
        let mut levels: BTreeMap<Population, Vec<Level>> = BTreeMap::new();
        for tensor in maps(checkpoint) {
            if let Some(level) = Level::of(tensor).filter(|level| level.rms > 0.0) {
                levels.entry(population(tensor)).or_default().push(level);
            }
        }
        let key = |depthwise| (Role::Convolution, depthwise);
        if levels.get(&key(true)).is_some_and(|few| few.len() < FEWEST_PEERS) {
            let few = levels.remove(&key(true)).unwrap_or_default();
            levels.entry(key(false)).or_default().extend(few);
        }
        let usual = |levels: Vec<Level>| {
            let rms = median(levels.iter().map(|level| level.rms))?;
            let gain = median(levels.iter().map(|level| level.gain))?;
            let backward_gain = median(levels.iter().map(|level| level.backward_gain))?;
            let level = Level { rms, gain, backward_gain };
            Some(Usual { maps: levels.len(), level, levels })
        };
        Self(levels.into_iter().filter_map(|(key, levels)| Some((key, usual(levels)?))).collect())
    }

    pub(super) fn usual(&self, tensor: &TensorAnalysis) -> Option<&Usual> {
        let own = self.0.get(&population(tensor));
        own.or_else(|| self.0.get(&(tensor.role, false)))
    }
}

/// A convolution whose outputs each read one channel. One whose whole input is one channel looks the same.
fn is_depthwise(tensor: &TensorAnalysis) -> bool {
    tensor.role == Role::Convolution
        && matches!(tensor.shape[..], [outputs, 1, ..] if outputs > 1 && tensor.elements > outputs)
}

/// The maps by what makes them: those whose names differ in the numbers of layers alone are made by one line of code, once
/// a layer. A tower, a decoder or a fusion block has its own, and a tower as a whole has its own law for the maps of a role.
pub(super) struct Kin {
    of_one_line: BTreeMap<String, Vec<Level>>,
    of_tower: BTreeMap<(Population, String), Vec<Level>>,
    shared: BTreeMap<Population, usize>,
    /// The least RMS of the maps whose names differ by any numbers, `fc3` and `fc4`, as far as they are large enough to be told from a draw.
    narrowest: BTreeMap<String, f64>,
    /// The first map in forward order, and the inputs of the second.
    beginning: Option<(String, u64)>,
    /// The last map in forward order, where it gives fewer numbers than it takes and no map takes as many as it gives.
    end: Option<String>,
}

impl Kin {
    pub(super) fn of(checkpoint: &CheckpointAnalysis) -> Self {
        let shared = shared_components(checkpoint);
        let (of_one_line, of_tower, narrowest) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut in_order: Vec<&TensorAnalysis> = maps(checkpoint).collect();
        in_order.sort_by_key(|tensor| tensor.layer.order);
        let beginning = match in_order[..] {
            [first, second, ..] => fans(second).map(|fans| (first.canonical_name.clone(), fans.input)),
            _ => None,
        };
        let end = in_order.last().filter(|last| is_read_by_none(last, &in_order));
        let end = end.map(|last| last.canonical_name.clone());
        let mut kin = Self { of_one_line, of_tower, shared, narrowest, beginning, end };
        for tensor in maps(checkpoint) {
            let Some(level) = Level::of(tensor) else { continue };
            if tensor.elements >= FEWEST_NORMAL {
                let least = kin.narrowest.entry(without_digits(&tensor.canonical_name)).or_insert(level.rms);
                *least = least.min(level.rms);
            }
            kin.of_one_line.entry(without_numbers(&tensor.canonical_name)).or_default().push(level);
            kin.of_tower.entry(kin.tower(tensor)).or_default().push(level);
        }
        kin
    }

    /// Whether the tensor has kin and all of them are at one level, by RMS or by gain, or by the gain of gradients where fan-outs set the
    /// levels of the others: within `factor` of one another. Either those of one line of code, or those of its role in its tower, of which
    /// there must be `fewest` others.
    pub(super) fn are_alike(&self, tensor: &TensorAnalysis, factor: f64, fewest: f64) -> bool {
        let Some(level) = Level::of(tensor) else { return false };
        let are_alike = |kin: Option<&Vec<Level>>, fewest: f64| {
            kin.is_some_and(|kin| kin.len() as f64 > fewest && are_within(kin, &level, factor))
        };
        are_alike(self.of_one_line.get(&without_numbers(&tensor.canonical_name)), 1.0)
            || are_alike(self.of_tower.get(&self.tower(tensor)), fewest)
    }

    /// Whether a map of its name but for numbers lies nearer the `usual` RMS of the role than the RMS 1 of a standard normal draw: a layer of a stack
    /// that is such a draw then lacks the scale of the others. Tables lie at 1, trained or not.
    pub(super) fn are_scaled(&self, tensor: &TensorAnalysis, usual: f64) -> bool {
        let narrowest = self.narrowest.get(&without_digits(&tensor.canonical_name));
        narrowest.is_some_and(|&rms| rms < usual.sqrt())
    }

    /// Whether it is the first map of the network, and the next one takes as many numbers as it has columns, or a multiple where words are laid side by side, and
    /// not as many as it has rows: a table, as an embedding that begins a sequence is (`0.weight`).
    pub(super) fn begins_with(&self, tensor: &TensorAnalysis) -> bool {
        let Some((first, reader_inputs)) = &self.beginning else { return false };
        let [rows, columns] = tensor.shape[..] else { return false };
        let may_give = |numbers: u64| numbers > 0 && reader_inputs.is_multiple_of(numbers);
        *first == tensor.canonical_name && may_give(columns) && !may_give(rows)
    }

    /// Whether it is the last map of the network and nothing reads what it gives, as of the last layer of `nn.Sequential`, which no name says to be a head.
    pub(super) fn ends_with(&self, tensor: &TensorAnalysis) -> bool {
        self.end.as_ref() == Some(&tensor.canonical_name)
    }

    /// The part of the network that the tensor stands in, where the names of the maps of its role part for the first time: `backbone`. Blocks
    /// and stages that are numbered (`3`, `layer3`) are parts of one.
    fn tower(&self, tensor: &TensorAnalysis) -> (Population, String) {
        let population = population(tensor);
        let shared = self.shared.get(&population).copied().unwrap_or_default();
        let parts: Vec<&str> = tensor.canonical_name.split('.').take(shared + 1).collect();
        (population, without_numbers(&parts.join(".")))
    }
}

fn is_read_by_none(last: &TensorAnalysis, maps: &[&TensorAnalysis]) -> bool {
    fans(last).is_some_and(|own| {
        let reads = |map: &&TensorAnalysis| fans(map).is_none_or(|other| other.input == own.output);
        // The first one reads the input of the network, which may have as many numbers.
        own.output < own.input && !maps.iter().skip(1).any(reads)
    })
}

fn are_within(kin: &[Level], level: &Level, factor: f64) -> bool {
    let is_within = |of: fn(&Level) -> f64| {
        let (least, most) = kin
            .iter()
            .map(of)
            .fold((f64::INFINITY, 0.0f64), |(least, most), at| (least.min(at), most.max(at)));
        least > 0.0 && most < factor * least
    };
    is_within(|level| level.rms)
        || is_within(|level| level.gain.sqrt())
        || (is_by_fan_out(kin, level) && is_within(|level| level.backward_gain.sqrt()))
}

/// With how many components the names of the maps of a role begin alike.
fn shared_components(checkpoint: &CheckpointAnalysis) -> BTreeMap<Population, usize> {
    let mut names: BTreeMap<Population, Vec<&str>> = BTreeMap::new();
    for tensor in maps(checkpoint) {
        names.entry(population(tensor)).or_default().push(&tensor.canonical_name);
    }
    let shared = |names: &[&str]| {
        let first = names[0].split('.');
        let alike =
            |name: &&str| first.clone().zip(name.split('.')).take_while(|(one, other)| one == other).count();
        names.iter().map(alike).min().unwrap_or_default()
    };
    names.iter().map(|(&key, names)| (key, shared(names))).collect()
}

/// What stages and blocks are called whose number is no component of its own: `layer3`, `denseblock2`.
const NUMBERED: [&str; 4] = ["layer", "stage", "block", "res"];

/// The line of code that makes a tensor: its name without the numbers that tell layers and stages apart. `layer3.0.conv1.weight` is of the line
/// `layer..conv1.weight`, and `conv1` is another than `conv2`.
pub(super) fn without_numbers(name: &str) -> String {
    let unnumbered = |part: &str| {
        let stem = part.trim_end_matches(|character: char| character.is_ascii_digit());
        let is_numbered = stem.is_empty() || NUMBERED.iter().any(|end| stem.ends_with(end));
        if is_numbered { stem.to_owned() } else { part.to_owned() }
    };
    name.split('.').map(unnumbered).collect::<Vec<_>>().join(".")
}

/// The name without any digit: `fc3` and `fc4` are `fc`.
fn without_digits(name: &str) -> String {
    name.chars().filter(|character| !character.is_ascii_digit()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{checkpoint, tensor};

    fn layer(name: &str, outputs: u64, inputs: u64, rms: f64) -> TensorAnalysis {
        tensor(name, Role::Convolution, &[outputs, inputs, 3, 3]).filled(rms)
    }

    fn alike(tensors: Vec<TensorAnalysis>) -> Vec<bool> {
        let saved = checkpoint(tensors);
        let kin = Kin::of(&saved);
        saved.tensors.iter().map(|tensor| kin.are_alike(tensor, 4.0, 8.0)).collect()
    }

    #[test]
    fn maps_are_kin_by_their_names_and_alike_by_rms_or_by_gain() {
        let told = alike(vec![
            layer("stages.0.layers.0.conv.weight", 8, 64, 1.0),
            layer("stages.1.layers.0.conv.weight", 8, 6400, 0.1),
            layer("stages.0.layers.0.wrong.weight", 8, 64, 1.0),
            layer("stages.0.layers.1.wrong.weight", 8, 64, 0.2),
            layer("sole.conv.weight", 8, 64, 1.0),
        ]);
        assert_eq!(told, [true, true, false, false, false]);
    }

    #[test]
    fn kin_are_alike_by_the_gain_of_gradients_where_fan_outs_set_their_own_levels() {
        let he = |name: &str, outputs: u64, inputs: u64, factor: f64| {
            layer(name, outputs, inputs, factor * (2.0 / (9.0 * outputs as f64)).sqrt())
        };
        let bottlenecks = |factor: f64| {
            alike(vec![
                he("stages.0.layer.0.weight", 8, 512, factor),
                he("stages.1.layer.0.weight", 16, 16, 1.0),
                he("stages.2.layer.0.weight", 128, 128, 1.0),
                he("stages.3.layer.0.weight", 256, 2048, 1.0),
            ])
        };
        assert_eq!(bottlenecks(1.0), [true; 4]);
        assert!(!bottlenecks(8.0)[0]);
        // Fans that are equal tell no law, so that a layer of few outputs is no kin by its gradients.
        let mut heads: Vec<_> =
            (0..4).map(|number| layer(&format!("{number}.weight"), 256, 256, 0.01)).collect();
        heads.push(layer("8.weight", 1, 256, 0.1));
        assert!(!alike(heads)[4]);
    }

    #[test]
    fn a_tower_of_eight_other_maps_has_a_law_of_its_own() {
        let tower = |maps: usize, factor: f64| {
            let of = |name: String, rms: f64| layer(&name, 8, 64, rms);
            let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
            let mut tensors: Vec<_> =
                names[..maps].iter().map(|name| of(format!("model.backbone.{name}.weight"), 0.1)).collect();
            tensors.push(of("model.backbone.shortcut.weight".to_owned(), 0.1 * factor));
            tensors.extend(names.map(|name| of(format!("model.encoder.{name}.weight"), 0.01)));
            alike(tensors)[maps]
        };
        assert!(tower(8, 1.0));
        assert!(!tower(7, 1.0), "too few to tell");
        assert!(!tower(8, 8.0));
    }

    #[test]
    fn a_numbered_block_or_stage_is_no_tower() {
        let scaled = |stage: &str| {
            let of = |number: u64, map: u64| {
                let rms = if number == 2 { 10.0 } else { 0.1 };
                layer(&format!("{stage}{number}.part{map}.weight"), 8, 64, rms)
            };
            let tensors = (0..4).flat_map(|number| (0..9).map(move |map| of(number, map)));
            alike(tensors.collect())
        };
        assert!(scaled("blocks.").iter().all(|alike| !alike));
        assert!(scaled("layer").iter().all(|alike| !alike));
        let stage = |number: u64, block: u64| {
            layer(&format!("layer{number}.{block}.conv1.weight"), 8, 64, if number == 2 { 10.0 } else { 0.1 })
        };
        let stages = (1..4).flat_map(|number| (0..4).map(move |block| stage(number, block)));
        assert!(alike(stages.collect()).iter().all(|alike| !alike));
        assert_eq!(scaled("encoder")[18..27], [true; 9], "a tower that is called by a number");
    }
}
