//! Maps that are not one matrix, in words: convolutions with the geometry that they were measured at, and the gates of recurrences.

use super::text::safe;
use crate::analysis::model::{
    CheckpointAnalysis, ConvolutionSetting, GeometrySource, Measured, Role, Spectrum, SpectrumOf,
    SpectrumPart,
};
use crate::number::{grouped, short};

/// Names and lines that are shown before the rest is counted.
const FOLDED_NAMES: usize = 3;
const FOLDED_LINES: usize = 12;

/// σ₁; with a mark where it is that of large inputs, or with the bound by frequencies.
pub(super) fn sigma(spectrum: &Spectrum) -> String {
    let value = short(spectrum.spectral_norm.value);
    match &spectrum.of {
        SpectrumOf::Convolution(setting) if setting.circular => format!("{value} ○"),
        SpectrumOf::Convolution(ConvolutionSetting { fourier_bound: Measured::Value(bound), .. }) => {
            format!("{value} ≤ {}", short(*bound))
        }
        _ => value,
    }
}

/// A line on each geometry of convolutions and on each recurrence with gates.
pub(super) fn lines(checkpoint: &CheckpointAnalysis, all: bool) -> Vec<String> {
    let mut geometries: Vec<(String, Vec<&str>)> = Vec::new();
    let mut lines = Vec::new();
    for tensor in &checkpoint.tensors {
        let Some(spectrum) = tensor.spectrum.value() else { continue };
        if let SpectrumOf::Convolution(setting) = &spectrum.of {
            let geometry = geometry(setting);
            match geometries.iter_mut().find(|(known, _)| *known == geometry) {
                Some((_, names)) => names.push(&tensor.name),
                None => geometries.push((geometry, vec![&tensor.name])),
            }
        }
        if tensor.role == Role::RecurrentHidden && !spectrum.parts.is_empty() {
            let gates: Vec<String> = spectrum.parts.iter().map(gate).collect();
            lines.push(format!("gates of {}: {}", safe(&tensor.name), gates.join("; ")));
        }
    }
    let geometries = geometries.into_iter().map(|(geometry, names)| {
        let shown = if all { names.len() } else { FOLDED_NAMES };
        let more = match names.len().saturating_sub(shown) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let names: Vec<String> = names.iter().take(shown).map(|name| safe(name)).collect();
        format!("{}{more}: {geometry}", names.join(", "))
    });
    let mut lines: Vec<String> = geometries.chain(lines).collect();
    if !all && lines.len() > FOLDED_LINES {
        let more = lines.len() - FOLDED_LINES;
        lines.truncate(FOLDED_LINES);
        lines.push(format!("… and {more} more (--all shows every one)"));
    }
    lines
}

/// `stride 2, padding 1 (config), dilation 1, groups 1, input 16×16 (assumed) with the opposite edge beyond the edge`.
fn geometry(setting: &ConvolutionSetting) -> String {
    let sources = &setting.sources;
    let known = [
        ("stride", sizes(&setting.stride), sources.stride),
        ("padding", sizes(&setting.padding), sources.padding),
        ("dilation", sizes(&setting.dilation), sources.dilation),
        ("groups", setting.groups.to_string(), sources.groups),
        ("input", sizes(&setting.input), sources.input),
    ];
    let mut text = String::new();
    // Files of earlier builds hold the size of the input alone.
    let told: Vec<_> = known.iter().filter(|(_, value, _)| !value.is_empty() && value != "0").collect();
    for (index, (what, value, source)) in told.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        text += &format!("{separator}{what} {value}");
        // Neighbours from one source say so once.
        if told.get(index + 1).is_none_or(|(.., next)| next != source) {
            text += &format!(" ({})", name_of(*source));
        }
    }
    match setting.blocks {
        Some(blocks) if blocks > 1 => text += &format!(", of which one of {} equal patches", grouped(blocks)),
        None if setting.circular => text += ", with the opposite edge beyond the edge",
        _ => {}
    }
    text
}

fn name_of(source: GeometrySource) -> &'static str {
    match source {
        GeometrySource::Assumed => "assumed",
        GeometrySource::Config => "config",
        GeometrySource::Shapes => "by the shapes around it",
        GeometrySource::Flag => "as asked",
    }
}

/// One number where all axes have it; padding of 0 is a size as well.
fn sizes(sizes: &[u64]) -> String {
    match sizes {
        [] => String::new(),
        [0, rest @ ..] if rest.iter().all(|size| *size == 0) => "none".to_owned(),
        [first, rest @ ..] if rest.iter().all(|size| size == first) && *first < 8 => first.to_string(),
        _ => sizes.iter().map(u64::to_string).collect::<Vec<_>>().join("×"),
    }
}

/// `i sigma_1 2.1, radius 0.7`.
fn gate(part: &SpectrumPart) -> String {
    let radius = part.spectral_radius.value().map(|radius| format!(", radius {}", short(*radius)));
    format!("{} sigma_1 {}{}", part.name, short(part.spectral_norm.value), radius.unwrap_or_default())
}
