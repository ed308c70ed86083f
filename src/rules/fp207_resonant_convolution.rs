//! B7: a convolution that answers one input pattern far more than noise of its size would.

use super::weights::{kernel, maps, wanted};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{
    CheckpointAnalysis, ConvolutionSetting, Measured, Role, SpectrumOf, TensorAnalysis,
};
use crate::number::short;

pub(super) static RULE: Rule = Rule {
    code: "FP207",
    name: "resonant-convolution",
    summary: "the operator norm of a convolution is far above that of a random kernel of its size",
    page: include_str!("../../docs/rules/FP207-resonant-convolution.md"),
    severity: Severity::Note,
    confidence: Confidence::Heuristic,
    needs: Needs::SPECTRA,
    thresholds: &[Threshold {
        name: "resonance",
        default: 10.0,
        unit: "times the norm of a random kernel",
        source: "smooth kernels reach 2 to 6, the measured convolutions of the design study",
    }],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let limit = thresholds.get("resonance");
    let convolutions =
        maps(checkpoint).filter(|tensor| tensor.role == Role::Convolution && tensor.shape.len() > 2);
    for tensor in convolutions {
        if matches!(tensor.spectrum, Measured::Degenerate(_)) {
            continue;
        }
        let Some(spectrum) = wanted(&tensor.spectrum, tensor, "spectrum", findings) else { continue };
        let SpectrumOf::Convolution(setting) = &spectrum.of else { continue };
        let Some(noise) = norm_of_noise(tensor, setting) else { continue };
        let resonance = spectrum.spectral_norm.value / noise;
        if resonance < limit {
            continue;
        }
        let message = format!(
            "{} multiplies one pattern by {}, {} times as much as a random kernel of its size (limit {limit})",
            tensor.name,
            short(spectrum.spectral_norm.value),
            short(resonance),
        );
        findings
            .push(
                Subject::Tensor(tensor.name.clone()),
                message,
                "compare with earlier checkpoints: if it grows, lower the learning rate or normalise the weight by its operator norm",
            )
            .against("operator norm over that of noise", resonance, limit, "1")
            .evidence("operator norm", spectrum.spectral_norm.value, "1")
            .evidence("norm of the unfolded kernel", setting.unfolded, "1");
    }
}

/// `RMS·(√(inputs·taps) + √(outputs·taps/strides))`: the largest singular value over all frequencies, for large kernels. An output reads
/// inputs·taps numbers, and an input goes into outputs·taps/strides.
fn norm_of_noise(tensor: &TensorAnalysis, setting: &ConvolutionSetting) -> Option<f64> {
    let rms = *tensor.statistics.value()?.rms.value()?;
    let taps = kernel(tensor);
    let groups = if setting.depthwise { tensor.shape[0] } else { setting.groups.max(1) };
    let (outputs, inputs) = (tensor.shape[0] as f64 / groups as f64, tensor.shape[1] as f64);
    let strides: f64 = setting.stride.iter().map(|stride| *stride as f64).product();
    // A stride beyond the kernel leaves inputs out.
    let uses = (taps as f64 / strides).max(1.0);
    Some(rms * ((inputs * taps as f64).sqrt() + (outputs * uses).sqrt())).filter(|norm| *norm > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::GeometrySources;
    use crate::rules::test_support::{checkpoint, judge, judge_with, spectrum, tensor};

    /// Noise of RMS 0.1 would have 0.1·2·√(16·9) = 2.4.
    fn convolution(norm: f64) -> CheckpointAnalysis {
        laid(norm, &[16, 16, 3, 3], 1, 1)
    }

    fn laid(norm: f64, shape: &[u64], groups: u64, stride: u64) -> CheckpointAnalysis {
        let mut weight = tensor("conv.weight", Role::Convolution, shape);
        let mut own = spectrum(16, 144, norm);
        own.of = SpectrumOf::Convolution(ConvolutionSetting {
            input: vec![16, 16],
            circular: true,
            depthwise: false,
            unfolded: 1.0,
            stride: vec![stride, stride],
            padding: vec![1, 1],
            dilation: vec![1, 1],
            groups,
            sources: GeometrySources::default(),
            blocks: None,
            fourier_bound: Measured::not("not in this test"),
        });
        weight.spectrum = Measured::Value(own.into());
        checkpoint(vec![weight])
    }

    #[test]
    fn ten_times_the_norm_of_noise_is_a_note() {
        assert_eq!(judge(&RULE, &convolution(24.1)).told(), [(Severity::Note, "conv.weight".to_owned())]);
        assert!(judge(&RULE, &convolution(23.9)).is_clean());
        assert!(judge_with(&RULE, &convolution(24.1), &[("resonance", 11.0)]).is_clean());
    }

    /// Noise of RMS 0.1 in 4 groups of 4 channels with a stride of 2: 0.1·(√(4·9) + √(4·9/4)) = 0.9. Of patches of 3×3 side by side it is that of
    /// a matrix of 16 by 4·9: 0.1·(√36 + √16) = 1.
    #[test]
    fn groups_and_strides_lower_the_norm_of_noise() {
        assert_eq!(judge(&RULE, &laid(9.1, &[16, 4, 3, 3], 4, 2)).told().len(), 1);
        assert!(judge(&RULE, &laid(8.9, &[16, 4, 3, 3], 4, 2)).is_clean());
        assert_eq!(judge(&RULE, &laid(10.1, &[16, 4, 3, 3], 1, 3)).told().len(), 1);
        assert!(judge(&RULE, &laid(9.9, &[16, 4, 3, 3], 1, 3)).is_clean());
    }

    #[test]
    fn a_convolution_that_is_too_dear_is_not_evaluated() {
        let mut dear = convolution(1.0);
        dear.tensors[0].spectrum = Measured::not("needs --measure full");
        assert_eq!(judge(&RULE, &dear).not_evaluated.len(), 1);
    }
}
