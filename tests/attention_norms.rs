//! The norms that attention heads are read with, as the modules of transformers apply them: gains that are added to 1, queries and keys
//! normalised head by head or all together, a bias of the norm before, and keys that come from another stack.

mod common;

use std::path::Path;

use flashpoint::analysis::model::{AttentionAnalysis, MeasureLevel};
use flashpoint::context::Context;
use flashpoint::random::Stream;
use serde_json::{Map, json};

const STREAM: usize = 8;
const HEADS: usize = 2;
const WIDTH: usize = STREAM / HEADS;

/// A tensor's name, shape and values.
type Stored = (String, Vec<usize>, Vec<f64>);

fn write(folder: &Path, model_type: &str, tensors: &[Stored]) {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        let entry = json!({"dtype": "F64", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), entry);
    }
    let header = serde_json::to_vec(&header).expect("a header");
    let bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    std::fs::write(folder.join("model.safetensors"), bytes).expect("the weights");
    let config = json!({"model_type": model_type, "num_attention_heads": HEADS, "rope_theta": 10_000.0});
    std::fs::write(folder.join("config.json"), config.to_string()).expect("the config");
}

/// Queries and keys of the module `path`, and other tensors of its block.
fn measured(model_type: &str, path: &str, others: &[(&str, &[f64])]) -> AttentionAnalysis {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut tensors: Vec<Stored> = Vec::new();
    for (number, leaf) in (0..).zip(["q_proj", "k_proj"]) {
        let values = Stream::new(8, number).normals(STREAM * STREAM);
        tensors.push((format!("{path}.{leaf}.weight"), vec![STREAM, STREAM], values));
    }
    let (block, _) = path.rsplit_once('.').expect("a module of a block");
    for (name, values) in others {
        tensors.push((format!("{block}.{name}"), vec![values.len()], values.to_vec()));
    }
    write(folder.path(), model_type, &tensors);
    let found = common::analyse_at(folder.path(), MeasureLevel::Spectra, &Context::default());
    let layers = found.attention.value().unwrap_or_else(|| panic!("{:?}", found.attention));
    layers[0].clone()
}

const LLAMA: &str = "model.layers.0.self_attn";

/// The bound of every head.
fn bounds(layer: &AttentionAnalysis) -> Vec<f64> {
    layer.heads.iter().map(|head| head.logit_bound).collect()
}

#[test]
fn gains_are_added_to_one_in_the_models_that_do_so_and_in_no_others() {
    let with =
        |gain: f64| [("self_attn.q_norm.weight", [gain; WIDTH]), ("self_attn.k_norm.weight", [gain; WIDTH])];
    for (model_type, gain) in [
        ("gemma3_text", 0.0),
        ("qwen3_next", 0.0),
        ("qwen3", 1.0),
        ("gemma3n_text", 1.0),
        ("gemma4_text", 1.0),
    ] {
        let gains = with(gain);
        let others: Vec<(&str, &[f64])> = gains.iter().map(|(name, values)| (*name, &values[..])).collect();
        let layer = measured(model_type, LLAMA, &others);
        assert!(layer.normalises_queries, "{model_type}");
        // Vectors of length √d each, over √d.
        for head in &layer.heads {
            assert!((head.logit_bound / (WIDTH as f64).sqrt() - 1.0).abs() < 1e-12, "{model_type}: {head:?}");
            assert!((head.logit_std - 1.0).abs() < 1e-12, "{model_type}: {head:?}");
        }
    }
}

/// `q_norm(q_proj(x))` before the heads are split, as in OLMo 2: one head may have the whole length √(heads·d), so may its key.
#[test]
fn heads_that_are_normalised_together_share_their_length() {
    let ones = [1.0; STREAM];
    let others: [(&str, &[f64]); 2] =
        [("self_attn.q_norm.weight", &ones), ("self_attn.k_norm.weight", &ones)];
    let expected = STREAM as f64 / (WIDTH as f64).sqrt();
    assert!(
        bounds(&measured("olmo2", LLAMA, &others)).iter().all(|found| (found / expected - 1.0).abs() < 1e-12)
    );
}

/// A norm whose inputs are constant gives its bias alone: with gains of nearly nothing the logits are those of the bias, and every query is
/// `W_q·b`.
#[test]
fn the_bias_of_the_norm_before_reaches_the_queries() {
    let (gains, bias) = ([1e-3; STREAM], [3.0; STREAM]);
    let norm: [(&str, &[f64]); 2] = [("input_layernorm.weight", &gains), ("input_layernorm.bias", &bias)];
    let (with, without) = (measured("gpt_neox", LLAMA, &norm), measured("gpt_neox", LLAMA, &norm[..1]));
    let query = Stream::new(8, 0).normals(STREAM * STREAM);
    for (head, (with, without)) in bounds(&with).iter().zip(bounds(&without)).enumerate() {
        let rows = query.chunks_exact(STREAM).skip(head * WIDTH).take(WIDTH);
        let common =
            rows.map(|row| row.iter().map(|weight| 3.0 * weight).sum::<f64>().powi(2)).sum::<f64>().sqrt();
        // The bound is (|W_q|·√n + |W_q·b|)·|W_k|·√n/√d, and without the bias its first term alone.
        let query_norm = 1e-3 * largest(&query[head * WIDTH * STREAM..(head + 1) * WIDTH * STREAM]);
        let expected = 1.0 + common / (query_norm * (STREAM as f64).sqrt());
        assert!((with / without / expected - 1.0).abs() < 1e-9, "{head}: {} {expected}", with / without);
    }
}

/// σ₁ of the rows of a head, by steps of power iteration.
fn largest(rows: &[f64]) -> f64 {
    let mut x = vec![1.0; STREAM];
    let mut size = 0.0;
    for _ in 0..2000 {
        let images: Vec<f64> =
            rows.chunks_exact(STREAM).map(|row| row.iter().zip(&x).map(|(a, b)| a * b).sum()).collect();
        let next: Vec<f64> = (0..STREAM)
            .map(|column| {
                rows.chunks_exact(STREAM).zip(&images).map(|(row, image)| row[column] * image).sum()
            })
            .collect();
        size = next.iter().map(|x| x * x).sum::<f64>().sqrt();
        x = next.iter().map(|x| x / size).collect();
    }
    size.sqrt()
}

#[test]
fn no_norm_stands_before_the_queries_and_the_keys_of_another_stack() {
    let gains = [50.0; STREAM];
    let others: [(&str, &[f64]); 1] = [("self_attn_layer_norm.weight", &gains)];
    let of_itself = measured("whisper", "model.decoder.layers.0.self_attn", &others);
    assert_eq!(of_itself.norm.as_deref(), Some("model.decoder.layers.0.self_attn_layer_norm.weight"));
    let of_encoder = measured("whisper", "model.decoder.layers.0.encoder_attn", &others);
    assert_eq!(of_encoder.norm, None);
}

#[test]
fn a_norm_behind_attention_is_none_that_its_queries_come_from() {
    let gains: &[f64] = &[2.0; STREAM];
    let norm = |model_type| {
        measured(model_type, "model.encoder.layers.0.self_attn", &[("self_attn_layer_norm.weight", gains)])
            .norm
    };
    for before in ["mbart", "whisper", "opt"] {
        assert!(norm(before).is_some_and(|name| name.ends_with("self_attn_layer_norm.weight")), "{before}");
    }
    for behind in ["bart", "marian", "detr"] {
        assert_eq!(norm(behind), None, "{behind}");
    }
}
