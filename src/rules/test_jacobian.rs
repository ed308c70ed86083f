//! Checkpoints with Jacobians for the tests of rules.

use super::test_support::checkpoint;
use crate::analysis::model::{
    AttentionPaths, CheckpointAnalysis, DType, DepthGain, Estimated, GradientSource, InitialGain,
    JacobianAnalysis, JacobianSetting, JacobianSpectrum, Measured, PartJacobian, PartKind, ProbeKind,
    RecurrenceAnalysis, RecurrenceAtScale, SpectralNorm, Spread,
};

const UNMEASURED: &str = "not in this test";

/// The same number in every draw.
fn each(value: f64) -> Spread {
    Spread { mean: value, standard_deviation: 0.0, least: value, most: value }
}

fn part(name: &str, kind: PartKind, norm: Measured<f64>) -> PartJacobian {
    PartJacobian {
        name: name.to_owned(),
        kind,
        block: Some(0),
        rows: 64,
        columns: 64,
        spectral_norm: norm.map(each),
        gain: Measured::not(UNMEASURED),
        stable_rank: Measured::not(UNMEASURED),
        input_rms: Measured::not(UNMEASURED),
        output_rms: Measured::not(UNMEASURED),
        paths: Measured::not(UNMEASURED),
        draws: Vec::new(),
    }
}

fn of(jacobian: JacobianAnalysis) -> CheckpointAnalysis {
    let mut checkpoint = checkpoint(Vec::new());
    checkpoint.jacobian = Measured::Value(jacobian);
    checkpoint
}

fn plain(parts: Vec<PartJacobian>) -> JacobianAnalysis {
    JacobianAnalysis {
        architecture: "gpt2".to_owned(),
        setting: JacobianSetting {
            probe: ProbeKind::SyntheticTokens,
            file: None,
            shape: vec![32],
            tokens: Measured::Value(32),
            draws: 3,
            seed: 0,
            dtype: DType::F32,
            pairs: 20,
            probes: 16,
            gradient: GradientSource::Random,
        },
        device: None,
        unused: Vec::new(),
        assumptions: Vec::new(),
        parts,
        end_to_end: Measured::not(UNMEASURED),
        initial: Measured::not(UNMEASURED),
        depths: Measured::not(UNMEASURED),
        recurrences: Vec::new(),
    }
}

/// A network of these parts alone.
pub(super) fn network(parts: Vec<PartJacobian>) -> CheckpointAnalysis {
    of(plain(parts))
}

/// A part whose input and output have these root mean squares.
pub(super) fn branch(name: &str, kind: PartKind, input: f64, output: f64) -> PartJacobian {
    let mut part = part(name, kind, Measured::Value(1.0));
    (part.input_rms, part.output_rms) = (Measured::Value(each(input)), Measured::Value(each(output)));
    part
}

/// A part of this gain, which is also its σ₁, for an input of this root mean square.
pub(super) fn reaching(name: &str, kind: PartKind, gain: f64, input: f64) -> PartJacobian {
    let mut part = part(name, kind, Measured::Value(gain));
    (part.gain, part.input_rms) = (Measured::Value(each(gain)), Measured::Value(each(input)));
    part
}

/// A network of this σ₁ end to end, whose architecture starts with `initial`.
pub(super) fn network_of_gain(norm: f64, initial: f64) -> CheckpointAnalysis {
    let mut jacobian = plain(Vec::new());
    jacobian.end_to_end = Measured::Value(part("end to end", PartKind::Network, Measured::Value(norm)));
    jacobian.initial = Measured::Value(InitialGain {
        scheme: "normal, deviation 0.02".to_owned(),
        spectral_norm: each(initial),
        gain: each(1.0),
    });
    of(jacobian)
}

/// Blocks with these σ₁.
pub(super) fn blocks(norms: &[f64]) -> CheckpointAnalysis {
    let block =
        |(index, norm): (usize, &f64)| part(&format!("h.{index}"), PartKind::Block, Measured::Value(*norm));
    network(norms.iter().enumerate().map(block).collect())
}

/// Blocks behind which small changes of the first state have grown to this.
pub(super) fn depths(gains: &[f64]) -> CheckpointAnalysis {
    let depth = |(index, gain): (usize, &f64)| DepthGain {
        name: format!("h.{index}"),
        block: index as u64,
        from_input: Measured::Value(each(*gain)),
        gradient: Measured::Value(each(1.0)),
        spectral_norm: Measured::not(UNMEASURED),
        state_rms: Measured::Value(each(1.0)),
    };
    let mut jacobian = plain(Vec::new());
    jacobian.depths = Measured::Value(gains.iter().enumerate().map(depth).collect());
    of(jacobian)
}

/// A recurrence with its first exponent and standard error at each scale of its input.
pub(super) fn recurrence(scales: &[(f64, f64, f64)]) -> CheckpointAnalysis {
    let at = |&(scale, value, standard_error): &(f64, f64, f64)| RecurrenceAtScale {
        scale,
        steps: 600,
        transient: 100,
        exponents: vec![Measured::Value(Estimated { value, standard_error })],
        step_norm: Measured::not(UNMEASURED),
    };
    let mut jacobian = plain(Vec::new());
    jacobian.recurrences = vec![RecurrenceAnalysis {
        name: "rnn layer 0".to_owned(),
        state: 64,
        scales: scales.iter().map(at).collect(),
    }];
    of(jacobian)
}

/// An attention with these ways through it.
pub(super) fn attention(softmax: f64, value: f64) -> CheckpointAnalysis {
    attentions(&[(softmax, value)])
}

/// Attentions, each with its gain through the softmax and through the values.
pub(super) fn attentions(paths: &[(f64, f64)]) -> CheckpointAnalysis {
    let own = |(index, &(softmax, value)): (usize, &(f64, f64))| {
        let mut own =
            part(&format!("h.{index} attention"), PartKind::Attention, Measured::Value(softmax.max(value)));
        own.paths = Measured::Value(AttentionPaths { value, softmax });
        own
    };
    network(paths.iter().enumerate().map(own).collect())
}

/// A network of that many layers whose singular values spread so far; NaN for not measured.
pub(super) fn spread(spread: f64, layers: usize) -> CheckpointAnalysis {
    let mut checkpoint = depths(&vec![1.0; layers]);
    let Measured::Value(jacobian) = &mut checkpoint.jacobian else { unreachable!("it was just made") };
    let mut whole = part("end to end", PartKind::Network, Measured::Value(1.0));
    whole.draws = vec![Measured::Value(JacobianSpectrum {
        spectral_norm: SpectralNorm {
            value: 1.0,
            upper: Measured::Value(1.0),
            failure_probability: 0.0,
            residual: 0.0,
            steps: 20,
        },
        largest: vec![1.0],
        frobenius_norm: Estimated { value: 1.0, standard_error: 0.0 },
        stable_rank: 1.0,
        mean_logarithm: Measured::not(UNMEASURED),
        smallest: Measured::not(UNMEASURED),
        spread: if spread.is_nan() { Measured::not("needs --exact") } else { Measured::Value(spread) },
        density: Measured::not(UNMEASURED),
    })];
    jacobian.end_to_end = Measured::Value(whole);
    checkpoint
}
