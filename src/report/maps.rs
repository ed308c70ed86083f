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

/// `stride 2, padding 1 (config), dilation 1, groups 1, input 16×16 (assumed)`.
fn geometry(setting: &ConvolutionSetting) -> String {
    let sources = &setting.sources;
    // Round the edge nothing depends on the padding, nor a patch on how many stand beside it.
    let is_moot = |source| source == GeometrySource::Assumed;
    let padding = if setting.circular && is_moot(sources.padding) { &[][..] } else { &setting.padding };
    let input = if setting.blocks.is_some() && is_moot(sources.input) { &[][..] } else { &setting.input };
    let groups = if setting.groups == 0 { String::new() } else { setting.groups.to_string() };
    let known = [
        ("stride", sizes(&setting.stride), sources.stride),
        ("padding", sizes(padding), sources.padding),
        ("dilation", sizes(&setting.dilation), sources.dilation),
        ("groups", groups, sources.groups),
        ("input", sizes(input), sources.input),
    ];
    let told: Vec<_> = known.iter().filter(|(_, value, _)| !value.is_empty()).collect();
    let numbers = told.iter().enumerate().map(|(index, (what, value, source))| {
        // Neighbours from one source say so once.
        let is_last = told.get(index + 1).is_none_or(|(.., next)| next != source);
        let source = if is_last { format!(" ({})", name_of(*source)) } else { String::new() };
        format!("{what} {value}{source}")
    });
    let numbers = numbers.collect::<Vec<_>>().join(", ");
    match setting.blocks {
        Some(blocks) if blocks > 1 => format!("{numbers}; one of its {} equal patches", grouped(blocks)),
        None if setting.circular => format!("{numbers}; the opposite edge beyond the edge"),
        _ => numbers,
    }
}

fn name_of(source: GeometrySource) -> &'static str {
    match source {
        GeometrySource::Assumed => "assumed",
        GeometrySource::Config => "config",
        GeometrySource::Shapes => "by the shapes around it",
        GeometrySource::Flag => "as asked",
    }
}

/// One number where all axes have the same small one.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn told(setting: &str) -> String {
        geometry(&serde_json::from_str(setting).expect("a setting"))
    }

    #[test]
    fn every_number_is_told_with_its_source() {
        let sources = |input: &str, groups: &str| {
            format!(
                r#"{{"input": "{input}", "stride": "config", "padding": "config", "dilation": "config", "groups": "{groups}"}}"#
            )
        };
        let setting = |input: &str, circular: bool, padding: &str, blocks: &str, sources: &str| {
            format!(
                r#"{{"input": {input}, "circular": {circular}, "depthwise": false, "unfolded": 1.0, "stride": [2, 2], "padding": {padding},
                "dilation": [1, 1], "groups": 4, "sources": {sources}, "blocks": {blocks}}}"#
            )
        };
        let strided = setting("[32, 32]", true, "[1, 1]", "null", &sources("assumed", "shapes"));
        assert_eq!(
            told(&strided),
            "stride 2, padding 1, dilation 1 (config), groups 4 (by the shapes around it), input 32×32 (assumed); the opposite edge beyond the edge"
        );
        let patches = setting("[224, 192]", false, "[0, 0]", "10752", &sources("flag", "config"));
        assert_eq!(
            told(&patches),
            "stride 2, padding none, dilation 1, groups 4 (config), input 224×192 (as asked); one of its 10,752 equal patches"
        );
        // How many patches there are is not known, and does not matter.
        let alone = setting("[2, 2]", false, "[0, 0]", "1", &sources("assumed", "config"));
        assert_eq!(told(&alone), "stride 2, padding none, dilation 1, groups 4 (config)");
    }

    /// Of a measurement file of an earlier build, which took a stride of 1.
    #[test]
    fn a_setting_of_an_earlier_build_is_read() {
        let earlier = r#"{"input": [16, 16], "circular": true, "depthwise": false, "unfolded": 1.88}"#;
        assert_eq!(told(earlier), "input 16×16 (assumed); the opposite edge beyond the edge");
    }
}
