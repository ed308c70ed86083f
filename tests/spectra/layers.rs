//! Layers of whole checkpoints: attention heads, fused matrices, and a reason wherever there is no spectrum.

use std::path::Path;

use flashpoint::analysis::model::{MeasureLevel, Measured, Role, Section};
use flashpoint::context::Context;

use super::common;

/// Every attention layer of a checkpoint.
fn attention(path: &str) -> Vec<flashpoint::analysis::model::AttentionAnalysis> {
    let checkpoint = common::analyse_at(Path::new(path), MeasureLevel::Spectra, &Context::default());
    checkpoint.attention.value().cloned().unwrap_or_else(|| panic!("{path}: {:?}", checkpoint.attention))
}

#[test]
fn heads_of_fused_and_grouped_layers_are_those_written_out_with_torch() {
    let oracle = common::oracle(Path::new("fixtures/oracle/spectra/heads.json"));
    for (name, layers) in oracle.as_object().unwrap() {
        let found = attention(&format!("fixtures/runs/{name}"));
        let layers = layers.as_array().unwrap();
        assert_eq!(found.len(), layers.len(), "{name}");
        for (index, expected) in layers.iter().enumerate() {
            let layer = found.iter().find(|layer| layer.index == Some(index as u64)).unwrap();
            let expected = expected.as_array().unwrap();
            assert_eq!(layer.heads.len(), expected.len(), "{name} {index}");
            for (head, expected) in layer.heads.iter().zip(expected) {
                let near = |found: f64, key: &str| {
                    let expected = expected[key].as_f64().unwrap();
                    assert!(
                        (found / expected - 1.0).abs() < 1e-7,
                        "{name} {index} {key}: {found}, not {expected}"
                    );
                };
                near(head.logit_std, "logit_std");
                near(head.logit_bound, "logit_bound");
                near(head.spectral_entropy, "spectral_entropy");
            }
        }
    }
}

#[test]
fn fused_queries_keys_and_values_are_parts_that_add_up() {
    let checkpoint = common::analyse_at(
        Path::new("fixtures/runs/gpt-healthy/checkpoint-0400"),
        MeasureLevel::Spectra,
        &Context::default(),
    );
    let fused: Vec<_> = checkpoint
        .tensors
        .iter()
        .filter(|tensor| tensor.role == Role::AttentionQkv && tensor.shape.len() == 2)
        .collect();
    assert_eq!(fused.len(), 3);
    for tensor in fused {
        let spectrum = tensor.spectrum.value().unwrap();
        let names: Vec<_> = spectrum.parts.iter().map(|part| part.name.as_str()).collect();
        assert_eq!(names, ["query", "key", "value"]);
        let squares: f64 = spectrum.parts.iter().map(|part| part.frobenius_norm.powi(2)).sum();
        assert!((squares.sqrt() / spectrum.frobenius_norm - 1.0).abs() < 1e-12);
        let largest = spectrum.parts.iter().fold(0.0f64, |most, part| most.max(part.spectral_norm.value));
        assert!(largest <= spectrum.spectral_norm.value * (1.0 + 1e-12));
    }
}

#[test]
fn every_tensor_has_a_spectrum_or_says_why_not() {
    for run in [
        "cnn-healthy/checkpoint-0200",
        "lstm-healthy/checkpoint-0400",
        "rnn-exploding/checkpoint-0400",
        "mlp-nan",
    ] {
        let path = Path::new("fixtures/runs").join(run);
        let path = if run == "mlp-nan" {
            std::fs::read_dir(&path)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.is_dir())
                .max()
                .unwrap()
        } else {
            path
        };
        let checkpoint = common::analyse_at(&path, MeasureLevel::Full, &Context::default());
        for tensor in &checkpoint.tensors {
            let is_matrix =
                tensor.shape.len() >= 2 && tensor.section == Section::Model && tensor.elements > 0;
            let is_finite = tensor.statistics.value().is_some_and(|statistics| statistics.non_finite() == 0);
            match &tensor.spectrum {
                Measured::Value(spectrum) => {
                    let norm = &spectrum.spectral_norm;
                    assert!(
                        is_matrix && norm.value > 0.0 && *norm.upper.value().unwrap() >= norm.value,
                        "{}",
                        tensor.name
                    );
                }
                Measured::NotMeasured(reason) => {
                    assert!(!(is_matrix && is_finite), "{}: {reason}", tensor.name);
                    assert!(!reason.is_empty(), "{} says no reason", tensor.name);
                }
                Measured::Degenerate(_) => {}
            }
        }
    }
}

/// Gates by numpy's singular values and eigenvalues, in the order in which PyTorch stacks them.
#[test]
fn gates_of_recurrences_have_the_norms_and_radii_of_their_own_matrices() {
    let folder = Path::new("fixtures/oracle/spectra/geometry/recurrences");
    let oracle = common::oracle(&folder.join("expected.json"));
    let checkpoint = common::analyse_at(folder, MeasureLevel::Spectra, &Context::default());
    let hidden = checkpoint.tensors.iter().filter(|tensor| tensor.role == Role::RecurrentHidden);
    let mut gated = 0;
    for tensor in hidden {
        let spectrum = tensor.spectrum.value().unwrap();
        let Some(gates) = oracle.get(&tensor.name).and_then(|gates| gates.as_object()) else {
            // A plain recurrence is one matrix, with a radius of its own.
            assert!(spectrum.parts.is_empty() && spectrum.spectral_radius.value().is_some());
            continue;
        };
        gated += 1;
        assert!(spectrum.spectral_radius.value().is_none(), "gates together are no square map");
        assert_eq!(spectrum.parts.len(), gates.len());
        for (part, order) in spectrum.parts.iter().zip(if gates.len() == 4 { "ifgo" } else { "rzn" }.chars())
        {
            assert_eq!(part.name, order.to_string());
            let expected = &gates[&part.name];
            let near = |found: f64, key: &str, limit: f64| {
                let expected = expected[key].as_f64().unwrap();
                assert!((found / expected - 1.0).abs() < limit, "{} {} {key}", tensor.name, part.name);
            };
            near(part.spectral_norm.value, "sigma", 1e-12);
            near(*part.spectral_radius.value().unwrap(), "radius", 1e-6);
        }
    }
    assert_eq!(gated, 3);
}
