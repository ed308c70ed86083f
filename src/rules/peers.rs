//! What is usual for the maps of a role, and which of them one line of code makes.

use std::collections::BTreeMap;

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
    /// Whether the maps other than one at `level` are more alike by their backward gains than by their RMS and than by their gains, so that
    /// fan-outs set their levels.
    pub(super) fn is_by_fan_out(&self, level: &Level) -> bool {
        let own = self.levels.iter().position(|other| other.rms == level.rms);
        let others = || self.levels.iter().enumerate().filter(|(index, _)| Some(*index) != own);
        // Mean distance from the median, in factors of the RMS.
        let unlikeness = |of: fn(&Level) -> f64| {
            let logs: Vec<f64> = others().map(|(_, level)| of(level).ln()).collect();
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
}

/// The maps by role. Depthwise convolutions are a population of their own where there are enough of them: they sum over
/// one channel, so that no rule of initialisation makes them as wide as the others, by RMS or by gain.
pub(super) struct Populations(BTreeMap<(Role, bool), Usual>);

impl Populations {
    pub(super) fn of(checkpoint: &CheckpointAnalysis) -> Self {
        let mut levels: BTreeMap<(Role, bool), Vec<Level>> = BTreeMap::new();
        for tensor in maps(checkpoint) {
            if let Some(level) = Level::of(tensor).filter(|level| level.rms > 0.0) {
                levels.entry((tensor.role, is_depthwise(tensor))).or_default().push(level);
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
        let own = self.0.get(&(tensor.role, is_depthwise(tensor)));
        own.or_else(|| self.0.get(&(tensor.role, false)))
    }
}

/// A convolution whose outputs each read one channel. One whose whole input is one channel looks the same.
fn is_depthwise(tensor: &TensorAnalysis) -> bool {
    tensor.role == Role::Convolution
        && matches!(tensor.shape[..], [outputs, 1, ..] if outputs > 1 && tensor.elements > outputs)
}

/// The maps by what makes them: those whose names differ in the numbers of layers alone are made by one line of code, once
/// a layer. A tower, a decoder or a fusion block has its own.
pub(super) struct Kin(BTreeMap<String, Vec<Level>>);

impl Kin {
    pub(super) fn of(checkpoint: &CheckpointAnalysis) -> Self {
        let mut kin: BTreeMap<String, Vec<Level>> = BTreeMap::new();
        for tensor in maps(checkpoint) {
            if let Some(level) = Level::of(tensor) {
                kin.entry(without_numbers(&tensor.canonical_name)).or_default().push(level);
            }
        }
        Self(kin)
    }

    /// Whether the tensor has kin and all of them are at one level, by RMS or by gain, or by the gain of gradients where levels are set
    /// `by_fan_out`: within `factor` of one another.
    pub(super) fn are_alike(&self, tensor: &TensorAnalysis, factor: f64, by_fan_out: bool) -> bool {
        let Some(kin) = self.0.get(&without_numbers(&tensor.canonical_name)) else { return false };
        let is_within = |levels: &mut dyn Iterator<Item = f64>| {
            let (least, most) =
                levels.fold((f64::INFINITY, 0.0f64), |(least, most), at| (least.min(at), most.max(at)));
            least > 0.0 && most < factor * least
        };
        kin.len() > 1
            && (is_within(&mut kin.iter().map(|level| level.rms))
                || is_within(&mut kin.iter().map(|level| level.gain.sqrt()))
                || (by_fan_out && is_within(&mut kin.iter().map(|level| level.backward_gain.sqrt()))))
    }
}

fn without_numbers(name: &str) -> String {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = name.split('.').map(|part| if is_number(part) { "#" } else { part }).collect();
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{checkpoint, tensor};

    #[test]
    fn maps_are_kin_by_their_names_and_alike_by_rms_or_by_gain() {
        let layer = |name: &str, inputs: u64, rms: f64| {
            tensor(name, Role::Convolution, &[8, inputs, 3, 3]).filled(rms)
        };
        let tensors = vec![
            layer("stages.0.layers.0.conv.weight", 64, 1.0),
            layer("stages.1.layers.0.conv.weight", 6400, 0.1),
            layer("stages.0.layers.0.wrong.weight", 64, 1.0),
            layer("stages.0.layers.1.wrong.weight", 64, 0.2),
            layer("sole.conv.weight", 64, 1.0),
        ];
        let saved = checkpoint(tensors);
        let kin = Kin::of(&saved);
        let alike: Vec<bool> = saved.tensors.iter().map(|tensor| kin.are_alike(tensor, 4.0, false)).collect();
        assert_eq!(alike, [true, true, false, false, false]);
    }
}
