//! What is not built, and models whose config and weights do not belong together.

use std::path::{Path, PathBuf};

use flashpoint::error::ErrorKind;
use flashpoint::network::builders::from_config;
use safetensors::SafeTensors;

use super::{ORACLE, common, model, read};

/// A copy of the tiny model with its config changed.
fn changed(name: &str, change: impl FnOnce(&mut serde_json::Value)) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let from = Path::new(ORACLE).join(name);
    std::fs::copy(from.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let mut config = common::oracle(&from.join("config.json"));
    change(&mut config);
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let path = folder.path().to_owned();
    (folder, path)
}

fn refusal(name: &str, change: impl FnOnce(&mut serde_json::Value)) -> (ErrorKind, String) {
    let (_folder, path) = changed(name, change);
    let error = from_config(&read(&path)).expect_err("the network is refused");
    (error.kind.clone(), error.to_string())
}

#[test]
fn a_model_that_is_not_built_is_named() {
    let (kind, message) = refusal("gpt2", |config| config["model_type"] = "mamba".into());
    assert!(matches!(kind, ErrorKind::UnknownArchitecture { .. }));
    assert!(message.contains("model_type = \"mamba\"") && message.contains("--model"), "{message}");
}

#[test]
fn without_a_config_the_way_on_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let from = Path::new(ORACLE).join("gpt2/model.safetensors");
    std::fs::copy(from, folder.path().join("model.safetensors")).unwrap();
    let error = from_config(&read(folder.path())).expect_err("there is no config");
    assert!(error.to_string().contains("give --model"), "{error}");
}

#[test]
fn settings_that_change_the_network_in_a_way_that_is_not_built_are_named() {
    let yarn = serde_json::json!({ "rope_type": "yarn", "rope_theta": 50.0, "factor": 2.0 });
    let (kind, message) = refusal("llama", |config| config["rope_parameters"] = yarn);
    assert!(matches!(kind, ErrorKind::UnknownArchitecture { .. }) && message.contains("yarn"), "{message}");
    let (_, message) = refusal("bert", |config| config["hidden_act"] = "mish".into());
    assert!(message.contains("hidden_act = \"mish\""), "{message}");
    let (_, message) = refusal("bert", |config| config["is_decoder"] = true.into());
    assert!(message.contains("is_decoder"), "{message}");
}

#[test]
fn a_model_without_its_head_and_without_the_prefix_of_one_is_built_up_to_the_last_norm() {
    let folder = tempfile::tempdir().unwrap();
    let from = Path::new(ORACLE).join("gpt2");
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let bare = file.tensors().into_iter().map(|(name, tensor)| (name.replace("transformer.", ""), tensor));
    safetensors::serialize_to_file(bare, None, &folder.path().join("model.safetensors")).unwrap();
    let mut config = common::oracle(&from.join("config.json"));
    config["architectures"] = serde_json::json!(["GPT2Model"]);
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let built = from_config(&read(folder.path())).unwrap();
    assert_eq!(built.network.node(built.network.output).name, "ln_f");
    assert!(built.unused.is_empty(), "{:?}", built.unused);
}

#[test]
fn parameters_that_are_missing_are_named() {
    let (kind, message) = refusal("gpt2", |config| config["n_layer"] = 3.into());
    let ErrorKind::MissingParameters { count, .. } = kind else { panic!("{message}") };
    assert_eq!(count, 12, "those of a whole block");
    assert!(message.contains("h.2."), "{message}");
}

#[test]
fn parameters_that_are_not_used_are_listed() {
    let (_folder, path) = changed("gpt2", |config| config["n_layer"] = 1.into());
    let unused = from_config(&read(&path)).unwrap().unused;
    assert_eq!(unused.len(), 12, "{unused:?}");
    assert!(unused.iter().all(|name| name.contains("h.1.")), "{unused:?}");
}

#[test]
fn a_parameter_of_another_shape_is_named_with_both() {
    let (kind, message) = refusal("gpt2", |config| config["n_inner"] = 32.into());
    assert!(matches!(kind, ErrorKind::ParameterShape { .. }), "{message}");
    assert!(
        message.contains("mlp.c_fc") && message.contains("[16, 32]") && message.contains("[16, 64]"),
        "{message}"
    );
}

#[test]
fn sizes_that_no_network_has_cost_neither_memory_nor_time() {
    for (name, key) in [
        ("gpt2", "n_layer"),
        ("llama", "head_dim"),
        ("llama", "num_hidden_layers"),
        ("albert", "inner_group_num"),
    ] {
        let start = std::time::Instant::now();
        let (kind, message) = refusal(name, |config| config[key] = 2_000_000_000.into());
        assert!(matches!(kind, ErrorKind::SideFile { .. }), "{message}");
        assert!(start.elapsed().as_secs() < 2);
    }
    for (name, key, value) in
        [("gpt2", "n_head", 3), ("llama", "num_key_value_heads", 3), ("bert", "num_attention_heads", 5)]
    {
        let (kind, message) = refusal(name, |config| config[key] = value.into());
        assert!(matches!(kind, ErrorKind::SideFile { .. }), "{message}");
    }
}

#[test]
fn an_input_that_does_not_fit_is_a_sentence() {
    let (_, built) = model("gpt2");
    let message = built.network.shapes(&[1, 17]).expect_err("there are 16 positions");
    assert_eq!(message, "17 tokens are given, the network has positions for 16");
    assert!(built.network.shapes(&[1, 0]).is_err() && built.network.shapes(&[4]).is_err());
}
