//! What frameworks leave on disk: each layout is told by what is in it, and gives its step, sections, names, roles and config.

mod common;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "../src/format/craft.rs"]
mod craft;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use flashpoint::analysis::model::MeasureLevel;
use flashpoint::analysis::{measure_checkpoint, of_checkpoints};
use flashpoint::checkpoint::{Checkpoint, Layout, NameRules, Role, Section};
use flashpoint::context::Context;
use flashpoint::rules::{self, Overrides};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/layouts").join(name)
}

fn read(path: &Path) -> Checkpoint {
    Checkpoint::read(path, &NameRules::default(), &Context::default())
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What one of the fixtures is.
struct Truth {
    path: &'static str,
    layout: Layout,
    step: Option<u64>,
    /// Tensors of the model, of its average, of the optimizer, and others.
    sections: [usize; 4],
    /// Some roles of the model, by canonical name.
    roles: &'static [(&'static str, Role)],
    /// A key of the config and its value.
    config: Option<(&'static str, &'static str)>,
}

const TRANSFORMER: &[(&str, Role)] = &[
    ("transformer.wte.weight", Role::TokenEmbedding),
    ("transformer.h.0.ln_1.weight", Role::NormGain),
    ("transformer.h.0.attn.c_attn.weight", Role::AttentionQkv),
    ("transformer.h.0.mlp.c_proj.weight", Role::MlpOut),
];

const CLASSIFIER: &[(&str, Role)] = &[
    ("fc1.weight", Role::Linear),
    ("norm.weight", Role::NormGain),
    ("norm.running_var", Role::Buffer),
    ("head.weight", Role::OutputHead),
];

const TRUTH: &[Truth] = &[
    Truth {
        path: "hf-trainer/checkpoint-6",
        layout: Layout::HfTrainer,
        step: Some(6),
        sections: [9, 0, 27, 2],
        roles: TRANSFORMER,
        config: Some(("n_embd", "8")),
    },
    Truth {
        path: "accelerate/checkpoints/checkpoint_0",
        layout: Layout::Accelerate,
        step: Some(6),
        sections: [9, 0, 18, 12],
        roles: CLASSIFIER,
        config: None,
    },
    Truth {
        path: "lightning.ckpt",
        layout: Layout::Lightning,
        step: Some(6),
        sections: [9, 0, 18, 1],
        roles: CLASSIFIER,
        config: None,
    },
    Truth {
        path: "nanogpt.pt",
        layout: Layout::NanoGpt,
        step: Some(6),
        sections: [10, 0, 27, 1],
        roles: TRANSFORMER,
        config: Some(("block_size", "8")),
    },
    Truth {
        path: "timm.pth.tar",
        layout: Layout::Timm,
        // timm counts epochs, and the SGD that is its default counts nothing.
        step: None,
        sections: [20, 20, 20, 0],
        roles: &[
            ("blocks.0.attn.qkv.weight", Role::AttentionQkv),
            ("blocks.0.mlp.fc1.weight", Role::MlpIn),
            ("pos_embed", Role::PositionEmbedding),
            ("head.weight", Role::OutputHead),
        ],
        config: Some(("arch", "\"vit_tiny_fixture\"")),
    },
    Truth {
        path: "model-and-optimizer.pt",
        layout: Layout::TrainingDict,
        step: Some(6),
        sections: [9, 0, 6, 1],
        roles: CLASSIFIER,
        config: None,
    },
    Truth {
        path: "whole-module.pt",
        layout: Layout::SavedModule,
        step: None,
        sections: [9, 0, 0, 0],
        roles: &[("0.weight", Role::Linear), ("1.weight", Role::NormGain), ("1.running_var", Role::Buffer)],
        config: None,
    },
    Truth {
        path: "optimizer-state.pt",
        layout: Layout::SingleFile,
        step: Some(6),
        sections: [0, 0, 18, 0],
        roles: &[],
        config: None,
    },
];

#[test]
fn every_layout_gives_its_step_its_sections_its_roles_and_its_config() {
    for truth in TRUTH {
        let checkpoint = read(&fixture(truth.path));
        let path = truth.path;
        assert_eq!((checkpoint.layout, checkpoint.step), (truth.layout, truth.step), "{path}");
        assert_eq!(checkpoint.problems, [], "{path}");
        let sections = [Section::Model, Section::Average, Section::Optimizer, Section::Other];
        let count = |section| checkpoint.tensors.iter().filter(|tensor| tensor.section == section).count();
        assert_eq!(sections.map(count), truth.sections, "{path}");
        let model = checkpoint.tensors.iter().filter(|tensor| tensor.section == Section::Model);
        let roles: BTreeMap<&str, Role> =
            model.map(|tensor| (tensor.canonical_name.as_str(), tensor.role)).collect();
        for (name, role) in truth.roles {
            assert_eq!(roles.get(name), Some(role), "{path}: {name} in {roles:?}");
        }
        let found = truth.config.map(|(key, _)| {
            checkpoint.config.as_ref().and_then(|config| config.get(key)).map(ToString::to_string)
        });
        assert_eq!(found, truth.config.map(|(_, value)| Some(value.to_owned())), "{path}");
        assert_eq!(checkpoint.config.is_some(), truth.config.is_some(), "{path}");
    }
}

#[test]
fn every_optimizer_of_a_framework_is_mapped_to_the_model_beside_it() {
    for truth in TRUTH.iter().filter(|truth| truth.sections[0] > 0 && truth.sections[2] > 0) {
        let checkpoint = read(&fixture(truth.path));
        let [optimizer] = checkpoint.optimizers.as_slice() else { panic!("{}", truth.path) };
        assert_eq!(optimizer.mapping.refused, 0, "{}: {:?}", truth.path, optimizer.mapping);
    }
}

#[test]
fn every_number_is_the_one_pytorch_reads() {
    let oracles = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/oracle/layouts");
    let mut compared = 0;
    for path in common::json_files(&oracles) {
        let oracle = common::oracle(&path);
        let file = oracle["file"].as_str().expect("an oracle names its file");
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(file);
        let checkpoint = read(&target);
        let mut analysis = measure_checkpoint(&checkpoint, MeasureLevel::Stats, &Context::default());
        if target.is_dir() {
            // The oracle of a directory is that of its model.
            analysis.tensors.retain(|tensor| tensor.section == Section::Model);
        }
        assert_eq!(common::differences(&analysis, &oracle), [""; 0], "{file}");
        compared += 1;
    }
    assert_eq!(compared, TRUTH.len());
}

#[test]
fn the_name_of_a_file_says_nothing_about_its_layout() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, other) in
        [("lightning.ckpt", "a.pth.tar"), ("timm.pth.tar", "b.ckpt"), ("nanogpt.pt", "c.bin")]
    {
        let path = folder.path().join(other);
        std::fs::copy(fixture(name), &path).expect("a copy");
        assert_eq!(read(&path).layout, read(&fixture(name)).layout, "{name}");
    }
}

#[test]
fn a_global_step_that_lightnings_loops_contradict_is_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("last.ckpt");
    let mut bytes = std::fs::read(fixture("lightning.ckpt")).expect("a fixture");
    let key = b"global_step";
    let start = bytes.windows(key.len()).position(|window| window == key).expect("the key is there");
    // BININT1 and its argument, behind the key and its memo.
    let step = bytes[start..].windows(2).position(|window| window == b"K\x06").expect("its value is there");
    bytes[start + step + 1] = 7;
    std::fs::write(&path, bytes).expect("a copy");
    let checkpoint = read(&path);
    assert_eq!(checkpoint.step, Some(7));
    assert!(problems(&checkpoint).contains(&"steps-disagree".to_owned()), "{:?}", checkpoint.problems);
}

/// The fixture's directory, copied without the files of these names.
fn copy_without(name: &str, left_out: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let copy = folder.path().join("checkpoint");
    std::fs::create_dir(&copy).expect("a folder");
    for file in std::fs::read_dir(fixture(name)).expect("a fixture") {
        let file = file.expect("a file").path();
        let own = file.file_name().expect("a file has a name");
        if !left_out.iter().any(|name| own == *name) {
            std::fs::copy(&file, copy.join(own)).expect("a copy");
        }
    }
    (folder, copy)
}

fn problems(checkpoint: &Checkpoint) -> Vec<String> {
    checkpoint.problems.iter().map(|problem| problem.kind.name()).collect()
}

#[test]
fn a_directory_without_what_is_written_last_is_incomplete() {
    for (name, last) in [
        ("hf-trainer/checkpoint-6", "trainer_state.json"),
        ("accelerate/checkpoints/checkpoint_0", "random_states_0.pkl"),
    ] {
        let (_folder, path) = copy_without(name, &[last]);
        assert_eq!(problems(&read(&path)), ["incomplete"], "{name}");
    }
}

#[test]
fn a_rank_without_its_random_state_is_told() {
    for (name, states, later) in [
        ("hf-trainer/checkpoint-6", "rng_state.pth", "rng_state_1.pth"),
        ("accelerate/checkpoints/checkpoint_0", "random_states_0.pkl", "random_states_1.pkl"),
    ] {
        let (_folder, path) = copy_without(name, &[states]);
        std::fs::copy(fixture(name).join(states), path.join(later)).expect("a copy");
        assert_eq!(problems(&read(&path)), ["incomplete"], "{name}");
    }
}

#[test]
fn a_config_beside_a_file_counts_where_the_directory_holds_no_other_model() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let weights = fixture("accelerate/checkpoints/checkpoint_0/model.safetensors");
    let copy = |name: &str| {
        let path = folder.path().join(name);
        std::fs::copy(&weights, &path).expect("a copy");
        path
    };
    let model = copy("weights.safetensors");
    std::fs::write(folder.path().join("config.json"), r#"{"hidden_size": 8}"#).expect("a config");
    assert!(read(&model).config.is_some());
    copy("others.safetensors");
    assert_eq!(read(&model).config, None);
    assert!(read(&copy("model.safetensors")).config.is_some());
    let index = fixture("hf-trainer/checkpoint-6/model.safetensors.index.json");
    assert!(read(&index).config.is_some());
    let shard = fixture("hf-trainer/checkpoint-6/model-00001-of-00002.safetensors");
    assert_eq!(read(&shard).config, None);
}

#[test]
fn parts_that_repeat_names_are_told_apart_by_their_files() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let weights = fixture("accelerate/checkpoints/checkpoint_0/model.safetensors");
    for part in ["consolidated.00.pth", "consolidated.01.pth"] {
        std::fs::copy(&weights, folder.path().join(part)).expect("a copy");
    }
    let checkpoint = read(folder.path());
    let heads: Vec<_> = checkpoint
        .tensors
        .iter()
        .filter(|tensor| tensor.role == Role::OutputHead)
        .map(|tensor| (tensor.name.as_str(), tensor.canonical_name.as_str(), tensor.layer.path.as_str()))
        .collect();
    let named = |name, layer| (name, name, layer);
    assert_eq!(
        heads,
        [
            named("consolidated.00/head.weight", "consolidated.00/head"),
            named("consolidated.01/head.weight", "consolidated.01/head"),
        ]
    );
}

#[test]
fn a_latest_that_names_no_directory_is_an_incomplete_checkpoint() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("latest"), "global_step40\n").expect("a file");
    std::fs::create_dir(folder.path().join("global_step20")).expect("a folder");
    let refusal = || {
        let read = Checkpoint::read(folder.path(), &NameRules::default(), &Context::default());
        read.expect_err("a root of DeepSpeed is no checkpoint").kind.name()
    };
    assert_eq!(refusal(), "incomplete");
    std::fs::create_dir(folder.path().join("global_step40")).expect("a folder");
    assert_eq!(refusal(), "several-checkpoints");
    let (_folder, path) = copy_without("hf-trainer/checkpoint-6", &[]);
    std::fs::write(path.join("latest"), "global_step6").expect("a file");
    assert_eq!(problems(&read(&path)), ["incomplete"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_model_of_more_shards_than_descriptors_is_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut weight_map = serde_json::Map::new();
    for shard in 0..3000 {
        let file = format!("model-{shard:05}-of-03000.safetensors");
        let header =
            format!(r#"{{"layer.{shard}.weight":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#);
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(1f32.to_le_bytes());
        std::fs::write(folder.path().join(&file), bytes).expect("a shard");
        weight_map.insert(format!("layer.{shard}.weight"), file.into());
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": weight_map}).to_string();
    std::fs::write(folder.path().join("model.safetensors.index.json"), index).expect("an index");
    let checkpoint = read(folder.path());
    let open = std::fs::read_dir("/proc/self/fd").expect("descriptors").count();
    assert!(open < 500, "{open} descriptors are open");
    assert_eq!((checkpoint.files.len(), checkpoint.tensors.len()), (3000, 3000));
    assert_eq!(checkpoint.problems, []);
}

/// An archive of one dict: under each key a vector, a matrix or a number of NaN, by its shape, or a dict of one.
fn saved(keys: &[(&str, Option<&str>, &[i64])]) -> Vec<u8> {
    use craft::{dict, floats, pickled, stored, zip};
    let strides: [&[i64]; 3] = [&[], &[1], &[2, 1]];
    let value = |index: usize, inner: Option<&str>, shape: &[i64]| {
        let tensor = floats(&index.to_string(), 4, 0, shape, strides[shape.len()]);
        inner.map_or(tensor.clone(), |name| dict(&[(name, tensor)]))
    };
    let entries: Vec<_> =
        (0..).zip(keys).map(|(index, &(key, inner, shape))| (key, value(index, inner, shape))).collect();
    let mut members = vec![stored("archive/data.pkl", &pickled(&dict(&entries)))];
    let elements = |key: &str| if key == "model" { 0.5f32 } else { f32::NAN };
    let storages = (0..).zip(keys).map(|(index, &(key, _, _))| {
        stored(&format!("archive/data/{index}"), &[elements(key).to_le_bytes(); 4].concat())
    });
    members.extend(storages);
    zip(&members)
}

/// Tensors that FP101 tells of, in a file of that name.
fn accused(name: &str, bytes: &[u8]) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("a temporary file");
    let analysis = common::analyse(&path, &Context::default());
    let assessment =
        rules::evaluate(&of_checkpoints(vec![analysis], MeasureLevel::Stats), &Overrides::default());
    let told = assessment.findings.into_iter().filter(|finding| finding.rule == "FP101");
    told.map(|finding| format!("{:?}", finding.subject)).collect()
}

#[test]
fn weights_under_a_key_that_nobody_knows_are_judged() {
    let square: &[i64] = &[2, 2];
    let model = ("model", Some("fc.weight"), square);
    let unknown = |key| saved(&[model, (key, Some("w"), square)]);
    for key in ["projector", "data2vec", "sampler_net", "ampli", "looped", "hyper_network", "value_head"] {
        assert_eq!(accused("x.pt", &unknown(key)), [format!("Tensor(\"{key}.w\")")], "{key}");
    }
    let bare = saved(&[model, ("prompt", None, square)]);
    assert_eq!(accused("x.pt", &bare), ["Tensor(\"prompt\")"]);
    for key in ["rng_states", "replay_buffer", "metrics", "lr_scheduler", "callbacks", "dataset"] {
        assert_eq!(accused("x.pt", &unknown(key)), Vec::<String>::new(), "{key}");
    }
    // A best loss that nobody has reached yet, and a list of losses.
    let counts = saved(&[model, ("best", Some("loss"), &[]), ("losses_of_validation", None, &[4])]);
    assert_eq!(accused("x.pt", &counts), Vec::<String>::new());
}

#[test]
fn a_file_that_is_named_is_never_taken_for_what_stands_beside_a_model_by_its_name_alone() {
    let weights = saved(&[("w", None, &[2, 2])]);
    for name in [
        "sampler_net.pt",
        "rng_state.pth",
        "scheduler.pt",
        "optimizer.pt",
        "scaler.pt",
        "custom_checkpoint_0.pkl",
    ] {
        assert_eq!(accused(name, &weights), ["Tensor(\"w\")"], "{name}");
    }
}
