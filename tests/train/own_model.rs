//! Networks of one's own: a `model.toml` that states its sizes.

use super::*;

/// Every kind of parameter that is trained, on samples of 1×10×10 or 100 numbers, for ten classes.
const OWN: &str = r#"
name = "own"
input = { shape = [1, 10, 10] }

[[layer]]
op = "conv2d"
name = "conv1"
outputs = 8
kernel = 3
padding = 1
bias = false

[[layer]]
op = "group_norm"
name = "norm1"
groups = 2

[[layer]]
op = "relu"
as = "low"

[[layer]]
op = "conv2d"
name = "conv2"
outputs = 8
kernel = [3, 5]
padding = "same"
groups = 4
block = "stage"

[[layer]]
op = "add"
with = "low"
block = "stage"

[[layer]]
op = "max_pool"
size = 2

[[layer]]
op = "reshape"
shape = [8, 25]

[[layer]]
op = "position_embedding"
name = "positions"
rows = 8

[[layer]]
op = "lstm"
name = "lstm"
hidden = 12
layers = 2
bidirectional = true

[[layer]]
op = "last_step"

[[layer]]
op = "layer_norm"
name = "norm2"

[[layer]]
op = "linear"
name = "fc"
outputs = 16
transposed = true

[[layer]]
op = "gelu"

[[layer]]
op = "linear"
name = "head"
outputs = 10
"#;

/// As `nn.LSTM(25, 12, num_layers=2, bidirectional=True)` and its like name and shape them.
fn parameters() -> BTreeMap<String, Vec<usize>> {
    let mut expected = vec![
        ("conv1.weight".to_owned(), vec![8, 1, 3, 3]),
        ("norm1.weight".to_owned(), vec![8]),
        ("norm1.bias".to_owned(), vec![8]),
        ("conv2.weight".to_owned(), vec![8, 2, 3, 5]),
        ("conv2.bias".to_owned(), vec![8]),
        ("positions.weight".to_owned(), vec![8, 25]),
        ("norm2.weight".to_owned(), vec![24]),
        ("norm2.bias".to_owned(), vec![24]),
        ("fc.weight".to_owned(), vec![24, 16]),
        ("fc.bias".to_owned(), vec![16]),
        ("head.weight".to_owned(), vec![10, 16]),
        ("head.bias".to_owned(), vec![10]),
    ];
    for (layer, inputs) in [(0, 25), (1, 24)] {
        for direction in ["", "_reverse"] {
            let name = |leaf: &str| format!("lstm.{leaf}_l{layer}{direction}");
            expected.push((name("weight_ih"), vec![48, inputs]));
            expected.push((name("weight_hh"), vec![48, 12]));
            expected.push((name("bias_ih"), vec![48]));
            expected.push((name("bias_hh"), vec![48]));
        }
    }
    expected.into_iter().collect()
}

fn written(folder: &Path, text: &str) -> String {
    let path = folder.join("model.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_network_of_ones_own_has_the_parameters_that_its_file_states_and_is_known_to_the_other_commands() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(&run, &["--model-name", &written(folder.path(), OWN), "--gradient-interval", "1"]);
    let bytes = std::fs::read(run.join("checkpoint-6/model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let found: BTreeMap<String, Vec<usize>> =
        tensors.iter().map(|(name, tensor)| (name.to_owned(), tensor.shape().to_vec())).collect();
    assert_eq!(found, parameters());
    let bytes = std::fs::read(run.join("gradients/step-6.safetensors")).unwrap();
    let gradients = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for (name, gradient) in gradients.iter() {
        // Of the last step the way back has seen nothing before: its state is still zero.
        if name == "lstm.weight_hh_l1_reverse" {
            continue;
        }
        let mut numbers = gradient.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
        assert!(numbers.any(|number| number != 0.0), "{name} gets no gradient");
    }
    assert_eq!(gradients.len(), found.len());
    // Neither --model nor the file that the run was started with is needed: the run keeps it.
    std::fs::remove_file(folder.path().join("model.toml")).unwrap();
    let checkpoint = run.join("checkpoint-6");
    for (from, path) in [(folder.path(), checkpoint.to_str().unwrap()), (checkpoint.as_path(), ".")] {
        let jacobian = ["jacobian", path, "--quiet", "--format", "json"];
        let binary = env!("CARGO_BIN_EXE_flashpoint");
        let output = Command::new(binary).args(jacobian).current_dir(from).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("\"stage\""), "the block is measured");
    }
}

#[test]
fn a_network_of_ones_own_goes_on_bit_for_bit_and_is_refused_when_its_file_has_changed() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let model = written(folder.path(), OWN);
    let own = ["--model-name", &model, "--save-interval", "3steps"];
    train(&whole, &[&own[..], &["--threads", "2"]].concat());
    train(&parts, &[&own[..], &["--threads", "1", "--max-steps", "3"]].concat());
    train(&parts, &own);
    assert_same(&whole, &parts, "two processes");
    written(folder.path(), &OWN.replace("hidden = 12", "hidden = 11"));
    let text = refused(&parts, &own);
    assert!(text.contains("model.toml is not what it was when the run began"), "{text}");
    let again = folder.path().join("again");
    resume(&parts, &["--from", "3", "--to", again.to_str().unwrap()]);
    let [ended, gone_on] =
        [&parts, &again].map(|run| std::fs::read(run.join("checkpoint-6/model.safetensors")).unwrap());
    assert!(ended == gone_on, "resume takes the network from the run");
}

#[test]
fn nn_as_a_file_of_ones_own_has_the_bits_of_nn() {
    let folder = tempfile::tempdir().unwrap();
    let (built_in, own) = (folder.path().join("built-in"), folder.path().join("own"));
    train(&built_in, &["--max-steps", "2"]);
    let model = written(folder.path(), &std::fs::read_to_string(built_in.join("model.toml")).unwrap());
    train(&own, &["--max-steps", "2", "--model-name", &model]);
    let [built_in, own] =
        [built_in, own].map(|run| std::fs::read(run.join("checkpoint-2/model.safetensors")).unwrap());
    assert!(built_in == own);
}

/// 20,010 × 20,010 numbers, which are computed of one sample but not of the eight of a batch.
const WIDE: &str = r#"
input = { shape = [1, 10, 10] }
layer = [
    { op = "conv2d", name = "wide", outputs = 1, kernel = 1, padding = 10000 },
    { op = "adaptive_average_pool", places = 1 },
    { op = "flatten" },
    { op = "linear", name = "head", outputs = 10 },
]
"#;

#[test]
fn a_file_that_cannot_be_trained_is_refused_with_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let mistakes = [
        (OWN.replacen("outputs = 8\n", "", 1), "conv2d needs outputs"),
        (OWN.replacen("hidden = 12\n", "", 1), "lstm needs hidden"),
        (OWN.replace("op = \"group_norm\"", "op = \"batch_norm\""), "use group_norm or layer_norm"),
        (OWN.replace("groups = 4", "groups = 3"), "8 channels that it takes do not make 3 groups"),
        (OWN.replace("rows = 8", "rows = 7"), "8 rows of 25 are needed, the table has 7"),
        (OWN.replace("outputs = 16", "outputs = 134217727"), "larger than can be computed"),
        (OWN.replace("shape = [1, 10, 10]", "vocabulary = 10"), "takes token ids"),
        (OWN.replace("shape = [1, 10, 10]", "shape = [\"any\", 10, 10]"), "left open"),
        (OWN.replace("outputs = 16", "output = 16"), "linear needs outputs, not output"),
        (OWN.replace("outputs = 16", "outputs = 16\nweight = false"), "linear is nothing without weight"),
        (OWN.replace("layers = 2", "layers = 2000"), "layers is 2000, more than the 1024 that are computed"),
        (
            OWN.replace("op = \"last_step\"", "op = \"relu\""),
            "its output is of shape [1, 8, 10], not a row of logits",
        ),
        (OWN.replace("op = \"gelu\"", "op = \"gelu\"\nfrom = \"norm2\""), "fc.weight would get no gradient"),
        (
            WIDE.to_owned(),
            "of 8 examples together: wide: gives [8, 1, 20010, 20010], which takes more memory",
        ),
        ("input = { shape = [100] }\nlayer = [{ op = \"relu\" }]".to_owned(), "it has 0 parameters"),
        (String::new(), "missing field"),
    ];
    for (text, why) in mistakes {
        let model = written(folder.path(), &text);
        let text = refused(&folder.path().join("run"), &["--model-name", &model]);
        assert!(text.starts_with(&format!("flashpoint: {model}")) && text.contains(why), "{why}: {text}");
        assert!(!folder.path().join("run").exists(), "{why}");
    }
    for (text, why) in [
        (OWN.replace("shape = [1, 10, 10]", "shape = [1, 10, 11]"), "samples of shape [1, 10, 11]"),
        (OWN.replace("outputs = 10", "outputs = 9"), "gives 9 logits, the labels go up to 9"),
    ] {
        let model = written(folder.path(), &text);
        let text = refused(&folder.path().join("run"), &["--model-name", &model]);
        assert!(text.contains(why), "{why}: {text}");
    }
    let text = refused(&folder.path().join("run"), &["--model-name", "mlp"]);
    assert!(text.contains("there is no network called mlp") && text.contains("model.toml"), "{text}");
    let gone = folder.path().join("gone.toml");
    let text = refused(&folder.path().join("run"), &["--model-name", gone.to_str().unwrap()]);
    assert!(text.contains("gone.toml"), "{text}");
}

/// Norms without parameters, and an input that takes samples as they are.
const OPEN: &str = r#"
input = { shape = ["any", "any"] } # whatever they are

[[layer]]
op = "layer_norm"

[[layer]]
op = "group_norm"
groups = 5

[[layer]]
op = "flatten"

[[layer]]
op = "rms_norm"

[[layer]]
op = "linear"
name = "head"
outputs = 10
"#;

#[test]
fn sizes_that_a_file_leaves_open_are_those_of_the_examples_for_the_other_commands_too() {
    let folder = tempfile::tempdir().unwrap();
    let (run, again) = (folder.path().join("run"), folder.path().join("again"));
    train(&run, &["--model-name", &written(folder.path(), OPEN), "--max-steps", "1"]);
    let kept = run.join("model.toml");
    let text = std::fs::read_to_string(&kept).unwrap();
    assert_eq!(text, OPEN.replace("[\"any\", \"any\"]", "[10, 10]"));
    let checkpoint = run.join("checkpoint-1");
    let output = flashpoint(&["jacobian", checkpoint.to_str().unwrap(), "--quiet", "--format", "json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    train(&again, &["--model-name", kept.to_str().unwrap(), "--max-steps", "1"]);
    let [first, second] =
        [&run, &again].map(|run| std::fs::read(run.join("checkpoint-1/model.safetensors")).unwrap());
    assert!(first == second);
    let bytes = std::fs::read(run.join("checkpoint-1/model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut names = tensors.names();
    names.sort_unstable();
    assert_eq!(names, ["head.bias", "head.weight"]);
}
