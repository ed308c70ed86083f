//! Whole checkpoints: the fixtures' training runs, sharded models, and checkpoints that other people trained.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use flashpoint::checkpoint::{Checkpoint, Layout, NameRules, Role, Section};
use flashpoint::context::Context;
use flashpoint::error::Result;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn read(path: &Path) -> Result<Checkpoint> {
    Checkpoint::read(path, &NameRules::default(), &Context::default())
}

/// The roles of the model's tensors, by canonical name.
fn roles(checkpoint: &Checkpoint) -> BTreeMap<&str, Role> {
    let model = checkpoint.tensors.iter().filter(|tensor| tensor.section == Section::Model);
    model.map(|tensor| (tensor.canonical_name.as_str(), tensor.role)).collect()
}

/// Canonical paths of the model's layers in forward order.
fn layers(checkpoint: &Checkpoint) -> Vec<&str> {
    let model = checkpoint.tensors.iter().filter(|tensor| tensor.section == Section::Model);
    let mut layers: Vec<_> = model.map(|tensor| (tensor.layer.order, tensor.layer.path.as_str())).collect();
    layers.sort_unstable();
    layers.dedup();
    layers.into_iter().map(|(_, path)| path).collect()
}

#[test]
fn every_run_says_that_it_is_one_and_every_checkpoint_of_it_knows_its_step() {
    let mut checkpoints = 0;
    for run in std::fs::read_dir(fixture("runs")).expect("the fixtures are in the repository") {
        let run = run.expect("a directory that can be listed").path();
        if run.ends_with("cnn-healthy") {
            // Not the Trainer's: `a_pickled_dict_gives_its_step_its_sections_and_its_roles` reads it.
            continue;
        }
        assert_eq!(read(&run).expect_err("a run is not a checkpoint").kind.name(), "several-checkpoints");
        for checkpoint in std::fs::read_dir(&run).expect("a run is a directory") {
            let path = checkpoint.expect("a directory that can be listed").path();
            let Some(step) = path.file_name().and_then(|name| name.to_str()?.strip_prefix("checkpoint-"))
            else {
                continue;
            };
            let checkpoint = read(&path).expect("a checkpoint");
            assert_eq!(checkpoint.step, step.parse().ok(), "{}", path.display());
            let ours = path.join("state.json").is_file();
            assert_eq!(checkpoint.layout, if ours { Layout::RunDirectory } else { Layout::HfTrainer });
            assert!(checkpoint.tensors.iter().all(|tensor| tensor.tensor.is_ok()), "{}", path.display());
            checkpoints += 1;
        }
    }
    assert!(checkpoints > 10, "{checkpoints}");
}

#[test]
fn a_recurrent_run_has_its_recurrent_weights() {
    let checkpoint = read(&fixture("runs/rnn-exploding/checkpoint-0400")).expect("a checkpoint");
    assert_eq!(checkpoint.name, "rnn-exploding/checkpoint-0400");
    let expected = [
        ("head.bias", Role::Bias),
        ("head.weight", Role::OutputHead),
        ("rnn.weight_hh_l0", Role::RecurrentHidden),
        ("rnn.weight_ih_l0", Role::RecurrentInput),
    ];
    assert_eq!(roles(&checkpoint), BTreeMap::from(expected));
    assert_eq!(layers(&checkpoint), ["rnn", "head"]);
}

#[test]
fn a_sharded_transformer_is_one_model_in_forward_order() {
    let checkpoint = read(&fixture("runs/gpt-healthy/checkpoint-0400")).expect("a checkpoint");
    assert!(!roles(&checkpoint).values().any(|&role| role == Role::Other), "{:?}", roles(&checkpoint));
    let layers = layers(&checkpoint);
    assert_eq!(layers[..3], ["transformer.wte", "transformer.wpe", "transformer.h.0.ln_1"]);
    assert!(layers.last().is_some_and(|last| ["transformer.ln_f", "lm_head"].contains(last)), "{layers:?}");
    assert!(checkpoint.config.is_some());
}

#[test]
fn no_weight_of_the_fixtures_runs_is_without_a_role() {
    for run in ["llama-healthy", "lstm-healthy", "mlp-healthy"] {
        let checkpoint = read(&fixture("runs").join(run).join("checkpoint-0000")).expect("a checkpoint");
        assert!(
            !roles(&checkpoint).values().any(|&role| role == Role::Other),
            "{run}: {:?}",
            roles(&checkpoint)
        );
    }
}

#[test]
fn a_pickled_dict_gives_its_step_its_sections_and_its_roles() {
    let checkpoint = read(&fixture("runs/cnn-healthy/checkpoint-0200")).expect("a checkpoint");
    assert_eq!((checkpoint.layout, checkpoint.step), (Layout::TrainingDict, Some(200)));
    let optimizer = checkpoint.tensors.iter().filter(|tensor| tensor.section == Section::Optimizer).count();
    assert_eq!((checkpoint.tensors.len(), optimizer), (38, 24));
    let count = |role| roles(&checkpoint).values().filter(|&&found| found == role).count();
    let wanted =
        [Role::Convolution, Role::NormGain, Role::NormBias, Role::Buffer, Role::OutputHead, Role::Other];
    assert_eq!(wanted.map(count), [2, 2, 2, 6, 1, 0]);
}

#[test]
fn tensors_of_one_storage_and_view_are_tied() {
    let checkpoint = read(&fixture("formats/shared-storage.pt")).expect("a file of PyTorch");
    let tied: Vec<_> = checkpoint
        .tensors
        .iter()
        .filter_map(|tensor| Some((&tensor.name, tensor.tied_to.as_ref()?)))
        .collect();
    assert_eq!(tied, [(&"head.weight".to_owned(), &"embed.weight".to_owned())]);
}

#[test]
fn sharded_models_agree_with_their_index() {
    let checkpoint = read(&fixture("formats/sharded")).expect("a sharded model");
    assert_eq!((checkpoint.layout, checkpoint.tensors.len()), (Layout::Sharded, 7));
    assert_eq!(checkpoint.problems, []);
}
