//! Plots of what was measured, one kind a file: as SVG for a page, as SVG and PNG for a directory.
//!
//! Draws plain data; computes no statistic beyond counting what falls into a bar. Whatever the data, a plot has axes.

#![expect(
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "pixels of a canvas of a thousand, and shares from 0 to 1 of it, fit every integer"
)]

mod canvas;
mod clipping;
mod depth;
mod exponents;
mod heat_map;
mod jacobian;
mod norms;
mod notes;
mod palette;
mod scale;
mod spectrum;
mod surface;
#[cfg(test)]
mod tests;
mod training;
mod updates;

use std::collections::{BTreeMap, BTreeSet};

use canvas::{Draw, to_pixels, to_svg, to_svg_file};

use super::text::safe;
use super::{DifferenceReport, PostMortem, Report};
use crate::analysis::model::{Analysis, CheckpointAnalysis, TensorAnalysis};
use crate::clip::{Recommendation, Series};
use crate::diagnosis::Diagnosis;
use crate::number::short;
use crate::rules::{self, Finding, Subject};

/// Spectra of one checkpoint that are drawn: those of tensors with findings first.
const SPECTRA: usize = 4;

/// A drawing, and what to say about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Plot {
    /// The stem of its file, `layer-norms`.
    pub name: String,
    /// What it shows, in a few words.
    pub title: String,
    /// How to read it, in a sentence.
    pub caption: String,
    kind: Kind,
}

/// The kinds of plots.
#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Training(training::Training),
    HeatMap(heat_map::HeatMap),
    Depth(depth::Depth),
    Jacobian(jacobian::Gains),
    Spectrum(spectrum::Singular),
    Exponents(exponents::Exponents),
    Clipping(clipping::Clipping),
}

impl Plot {
    fn new(name: &str, title: impl Into<String>, caption: impl Into<String>, kind: Kind) -> Self {
        Self { name: name.to_owned(), title: title.into(), caption: caption.into(), kind }
    }

    /// As an SVG element without a ground, for a page.
    pub fn svg(&self) -> String {
        to_svg(self.drawing())
    }

    /// As a file of SVG, with its title on a white ground.
    pub fn svg_file(&self) -> Vec<u8> {
        to_svg_file(&self.title, self.drawing()).into_bytes()
    }

    /// As a file of PNG, with its title on a white ground.
    pub fn png_file(&self) -> Vec<u8> {
        let (pixels, width, height) = to_pixels(&self.title, self.drawing());
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width, height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().expect("writing to memory does not fail");
        writer.write_image_data(&pixels).expect("there are as many bytes as the header says");
        writer.finish().expect("writing to memory does not fail");
        file
    }

    fn drawing(&self) -> &dyn Draw {
        match &self.kind {
            Kind::Training(one) => one,
            Kind::HeatMap(one) => one,
            Kind::Depth(one) => one,
            Kind::Jacobian(one) => one,
            Kind::Spectrum(one) => one,
            Kind::Exponents(one) => one,
            Kind::Clipping(one) => one,
        }
    }
}

/// What there is to see in one checkpoint; `findings` say which spectra matter, `replaced` are the limits of the policy.
pub(super) fn of_checkpoint(
    checkpoint: &CheckpointAnalysis,
    findings: &[Finding],
    replaced: &BTreeMap<String, f64>,
) -> Vec<Plot> {
    let gains = checkpoint.jacobian.value().and_then(|own| jacobian::Gains::of(own, replaced)).map(|one| {
        let caption = "By how much each block, and all of them up to it, multiply small changes and gradients: means, and the range of the draws (pale).";
        Plot::new("jacobian-gain", "Jacobian gain along depth", caption, Kind::Jacobian(one))
    });
    let norms = norms::of(checkpoint).map(|one| {
        let caption =
            "The root mean square of every parameter, by kind. A layer that leaves its kind stands out.";
        Plot::new("layer-norms", "Weights along depth", caption, Kind::Depth(one))
    });
    let updates = updates::of(checkpoint, replaced).map(|one| {
        let caption =
            "By how much of itself the next optimizer step changes every parameter; about 0.001 is usual.";
        Plot::new("update-ratios", "Size of the next step", caption, Kind::Depth(one))
    });
    let exponents = exponents::Exponents::of(checkpoint).map(|one| {
        let caption = "Weights by power of two, over what narrower formats hold: normal numbers (bar), subnormal ones (line). What lies outside is lost in a cast.";
        Plot::new("exponents", "Range of the weights", caption, Kind::Exponents(one))
    });
    let mut plots: Vec<Plot> = [gains, norms, updates, exponents].into_iter().flatten().collect();
    plots.extend(spectra(checkpoint, findings));
    plots
}

/// A limit of a rule, by the policy where that replaces it.
fn limit(code: &str, name: &str, replaced: &BTreeMap<String, f64>) -> Option<f64> {
    let own = rules::find(code)?.thresholds.iter().find(|threshold| threshold.name == name)?.default;
    Some(replaced.get(&format!("{code}.{name}")).copied().unwrap_or(own))
}

/// Spectra of the tensors with findings, and of those with the largest spectral norms.
fn spectra(checkpoint: &CheckpointAnalysis, findings: &[Finding]) -> Vec<Plot> {
    let found: BTreeSet<&str> = findings
        .iter()
        .filter(|finding| finding.checkpoint == checkpoint.name)
        .filter_map(|finding| match &finding.subject {
            Subject::Tensor(name) => Some(name.as_str()),
            _ => None,
        })
        .collect();
    let norm = |tensor: &TensorAnalysis| tensor.spectrum.value().map_or(0.0, |one| one.spectral_norm.value);
    let mut tensors: Vec<&TensorAnalysis> =
        checkpoint.tensors.iter().filter(|tensor| tensor.spectrum.value().is_some()).collect();
    tensors.sort_by(|a, b| {
        let key = |one: &TensorAnalysis| found.contains(one.name.as_str());
        key(b).cmp(&key(a)).then(norm(b).total_cmp(&norm(a)))
    });
    let drawn = tensors.into_iter().filter_map(|tensor| {
        let spectrum = tensor.spectrum.value()?;
        Some((tensor, spectrum, spectrum::Singular::of(spectrum)?))
    });
    drawn
        .take(SPECTRA)
        .enumerate()
        .map(|(index, (tensor, spectrum, one))| {
            let name = safe(&tensor.name);
            let noise = match spectrum.marchenko_pastur.value() {
                Some(fit) => format!(" {} beyond the edge of noise (Marchenko–Pastur).", fit.spikes),
                None => String::new(),
            };
            let caption = format!(
                "{name}: the largest is {}, the stable rank {}.{noise}",
                short(spectrum.spectral_norm.value),
                short(spectrum.stable_rank)
            );
            let title = format!("Singular values of {}", shortened(&name));
            Plot::new(&format!("spectrum-{}", index + 1), title, caption, Kind::Spectrum(one))
        })
        .collect()
}

/// The end of a name, which tells it from others.
fn shortened(name: &str) -> String {
    const LONGEST: usize = 36;
    let length = name.chars().count();
    if length <= LONGEST {
        return name.to_owned();
    }
    format!("…{}", name.chars().skip(length - LONGEST + 1).collect::<String>())
}

/// What there is to see in a run as a whole.
pub(super) fn of_run(analysis: &Analysis, diagnosis: &Diagnosis) -> Vec<Plot> {
    let training = training::Training::of(analysis, diagnosis).map(|one| {
        let caption = "What was logged, step by step. Triangles are checkpoints; the green one is the newest clean one before the onset.";
        Plot::new("training", "Loss and gradient norm", caption, Kind::Training(one))
    });
    let map = heat_map::HeatMap::of(analysis, diagnosis.onset_step).map(|one| {
        let what = one.quantity();
        let title = format!("Layers by interval: {what} over what was usual");
        let caption = format!(
            "The {what} of each layer between two checkpoints, over the median of up to eight intervals before. The layer that it began in stands out first."
        );
        Plot::new("layers-by-interval", title, caption, Kind::HeatMap(one))
    });
    training.into_iter().chain(map).collect()
}

/// Every plot of a report on checkpoints: of several, the number of the checkpoint stands before the name.
pub fn checkpoint_plots(report: &Report) -> Vec<Plot> {
    let several = report.analysis.checkpoints.len() > 1;
    let all = report.analysis.checkpoints.iter().enumerate().flat_map(|(index, checkpoint)| {
        let mut plots = of_checkpoint(checkpoint, &report.findings, &report.replaced_limits);
        for plot in plots.iter_mut().filter(|_| several) {
            plot.name = format!("{}-{}", index + 1, plot.name);
            plot.title = format!("{}: {}", safe(&checkpoint.name), plot.title);
        }
        plots
    });
    all.collect()
}

/// Every plot of a report on a run: those of the run, and those of its last checkpoint.
pub fn postmortem_plots(report: &PostMortem) -> Vec<Plot> {
    let last = report.analysis.checkpoints.last();
    let of_last = last.map(|one| of_checkpoint(one, &report.findings, &report.replaced_limits));
    let mut plots = of_run(&report.analysis, &report.diagnosis);
    plots.extend(of_last.unwrap_or_default());
    plots
}

/// What there is to see of a run's clipping.
pub fn clip_plots(series: &Series, advice: &Recommendation) -> Vec<Plot> {
    let plot = clipping::Clipping::of(series, advice).map(|one| {
        let caption = "How often the gradient had which norm. What is to the right of the threshold is scaled down to it.";
        Plot::new("clipping", "Gradient norms and the threshold", caption, Kind::Clipping(one))
    });
    plot.into_iter().collect()
}

/// What there is to see of two checkpoints.
pub fn difference_plots(report: &DifferenceReport) -> Vec<Plot> {
    let plot = updates::between(&report.difference.tensors).map(|one| {
        let caption = "By how much of itself every tensor changed; what did not change is not shown.";
        Plot::new("changes", "Changes along depth", caption, Kind::Depth(one))
    });
    plot.into_iter().collect()
}
