//! `model.toml`: what it can say, and what it says where it is wrong.

use super::*;
use flashpoint::error::{At, Error, ErrorKind};

/// The tensors that the texts below are about.
fn tensors() -> Vec<(&'static str, Vec<usize>)> {
    vec![
        ("conv.weight", vec![4, 1, 3, 3]),
        ("conv.bias", vec![4]),
        ("fc.weight", vec![2, 16]),
        ("table.weight", vec![9, 6]),
        ("positions.weight", vec![5, 6]),
        ("qkv.weight", vec![18, 6]),
        ("norm.weight", vec![6]),
        ("norm.bias", vec![6]),
        ("lstm.weight_ih_l0", vec![8, 3]),
        ("lstm.weight_hh_l0", vec![8, 2]),
        ("bn.running_mean", vec![4]),
        ("bn.running_var", vec![4]),
        ("bn.num_batches_tracked", vec![1]),
        ("signal.weight", vec![3, 1, 2]),
        ("cell.weight_ih", vec![8, 3]),
        ("cell.weight_hh", vec![8, 2]),
    ]
}

fn refusal(text: &str) -> (Error, String) {
    let (_folder, checkpoint) = saved(&tensors());
    let error = from_model_toml(text, Path::new("model.toml"), &checkpoint).expect_err(text);
    let message = error.to_string();
    (error, message)
}

const IMAGES: &str = "input = { shape = [1, 6, 6] }\n";

#[test]
fn every_mistake_is_named_with_its_line_and_column() {
    let image = |layers: &str| format!("{IMAGES}{layers}");
    let cases = [
        (image("[[layer]]\nop = \"con2d\""), 3, 6, "no operation con2d (did you mean conv2d?)"),
        (
            image("[[layer]]\nop = \"conv2d\"\nname = \"conv\"\npading = 1"),
            5,
            1,
            "no key pading (did you mean padding?)",
        ),
        (
            image("[[layer]]\nop = \"conv2d\"\nname = \"cnov\""),
            4,
            8,
            "no cnov.weight (did you mean conv.weight?)",
        ),
        (image("[[layer]]\nname = \"conv\""), 3, 1, "needs its operation"),
        (image("[[layer]]\nop = \"conv2d\""), 3, 6, "conv2d needs name"),
        (
            image("[[layer]]\nop = \"conv2d\"\nname = \"conv\"\nstride = 0"),
            5,
            10,
            "stride of conv2d is a size",
        ),
        (image("[[layer]]\nop = \"conv2d\"\nname = \"conv\"\nstride = [1, 2, 3]"), 5, 10, "each of 2 axes"),
        (
            image("[[layer]]\nop = \"conv2d\"\nname = \"conv\"\nstride = 2\npadding = \"same\""),
            6,
            11,
            "stride of 1",
        ),
        (
            image("[[layer]]\nop = \"conv2d\"\nname = \"conv\"\ngroups = 3"),
            5,
            10,
            "4 channels do not make 3 groups",
        ),
        (
            image("[[layer]]\nop = \"linear\"\nname = \"conv\""),
            4,
            8,
            "shape [4, 1, 3, 3], 2 sizes are needed",
        ),
        (image("[[layer]]\nop = \"linear\"\nname = \"fc\""), 3, 6, "takes rows of 16 numbers"),
        (
            image("[[layer]]\nop = \"relu\"\n[[layer]]\nop = \"add\"\nwith = \"inptu\""),
            6,
            8,
            "did you mean input?",
        ),
        (image("[[layer]]\nop = \"add\""), 3, 6, "takes 2 values, 1 is given"),
        (image("[[layer]]\nop = \"relu\"\nwith = \"input\""), 4, 8, "takes 1 values, 2 are given"),
        (image("[[layer]]\nop = \"relu\"\nas = \"input\""), 4, 6, "label of an earlier value"),
        (image("[[layer]]\nop = \"max_pool\"\nsize = 9"), 3, 6, "does not fit"),
        (image("[[layer]]\nop = \"lstm\"\nname = \"gone\""), 4, 8, "gone.weight_ih_l0"),
        (image("[[layer]]\nop = \"gru\"\nname = \"lstm\""), 3, 6, "parameters are of lstm, not of gru"),
        (image("[[layer]]\nop = \"batch_norm\"\nname = \"bn\"\nepsilon = 0"), 5, 11, "positive number"),
        (image("[[layer]]\nop = \"relu\"\nop = \"tanh\""), 4, 1, "duplicate key"),
        (image("[[layers]]\nop = \"relu\""), 2, 3, "unknown field `layers`"),
        ("input = { shape = [0] }\n[[layer]]\nop = \"relu\"".to_owned(), 1, 19, "list of sizes"),
        (
            "input = { vocabulary = 10 }\n[[layer]]\nop = \"embedding\"\nname = \"table\"".to_owned(),
            4,
            8,
            "9 rows",
        ),
        ("input = { vocabulary = 9 }\n[[layer]]\nop = \"relu\"".to_owned(), 3, 6, "an embedding comes first"),
        (image("[[layer]]\nop = \"embedding\"\nname = \"table\""), 3, 6, "first layer"),
    ];
    for (text, line, column, words) in cases {
        let (error, message) = refusal(&text);
        assert!(matches!(error.kind, ErrorKind::SideFile { what: "the model file", .. }), "{message}");
        assert!(message.contains(words), "{text}\n{message}");
        assert_eq!(error.at, Some(At::Line(line, column)), "{text}\n{message}");
    }
}

#[test]
fn a_parameter_that_is_missing_and_one_that_is_not_used_are_reported() {
    let text = format!("{IMAGES}[[layer]]\nop = \"conv2d\"\nname = \"conv\"\nbias = \"gone\"");
    let (error, message) = refusal(&text);
    assert!(matches!(error.kind, ErrorKind::MissingParameters { count: 1, .. }) && message.contains("gone"));
    let (_folder, checkpoint) = saved(&tensors());
    let text = format!("{IMAGES}[[layer]]\nop = \"conv2d\"\nname = \"conv\"");
    let built = from_model_toml(&text, Path::new("model.toml"), &checkpoint).unwrap();
    assert!(
        built.unused.contains(&"fc.weight".to_owned()) && !built.unused.contains(&"conv.bias".to_owned())
    );
    assert!(!built.unused.iter().any(|name| name.starts_with("bn.")), "buffers are no parameters");
}

#[test]
fn a_file_can_say_every_operation_there_is() {
    let (_folder, checkpoint) = saved(&tensors());
    let page = std::fs::read_to_string("docs/model-toml.md").unwrap();
    let list = std::fs::read_to_string("src/network/operation.rs").unwrap();
    let list = list.split("operations! {").nth(1).unwrap();
    let names: Vec<&str> = list
        .lines()
        .map(|line| line.trim().trim_end_matches(','))
        .filter(|line| line.starts_with(char::is_uppercase))
        .collect();
    let mut said = std::collections::BTreeSet::from(["Source"]);
    for text in [TRANSFORMER, IMAGE, SEQUENCE] {
        let built = from_model_toml(text, Path::new("model.toml"), &checkpoint)
            .unwrap_or_else(|error| panic!("{error}"));
        said.extend(built.network.nodes.iter().map(|node| node.operation.name()));
        for op in text.lines().filter_map(|line| line.strip_prefix("op = \"")) {
            let op = op.trim_end_matches('"');
            assert!(page.contains(&format!("`{op}`")), "the page does not have {op}");
        }
    }
    let missing: Vec<&str> = names.into_iter().filter(|name| !said.contains(name)).collect();
    assert!(missing.is_empty(), "no text has {missing:?}");
}

#[test]
fn no_change_of_a_few_characters_takes_it_down() {
    let (_folder, checkpoint) = saved(&tensors());
    let mut refused = 0;
    for (at, text) in [TRANSFORMER, IMAGE, SEQUENCE, STATED].into_iter().enumerate() {
        let mut bits = 88_172_645_463_325_252 + at as u64;
        let mut below = |count: usize| {
            // Marsaglia's xorshift: any numbers will do here.
            bits ^= bits << 13;
            bits ^= bits >> 7;
            bits ^= bits << 17;
            (bits % count as u64) as usize
        };
        for _ in 0..ROUNDS {
            let place = below(text.len());
            let end = (place + below(4)).min(text.len());
            let part = PARTS[below(PARTS.len())];
            let changed = format!("{}{part}{}", &text[..place], &text[end..]);
            let stored = from_model_toml(&changed, Path::new("model.toml"), &checkpoint);
            let stated = stated_by_model_toml(&changed, Path::new("model.toml"), &[2, 12]);
            if let Ok(network) = &stated {
                let whole = with_input_sizes(&changed, Path::new("model.toml"), &[2, 12]).unwrap();
                let again = stated_by_model_toml(&whole, Path::new("model.toml"), &[2, 12]).unwrap();
                assert_eq!(format!("{again:?}"), format!("{network:?}"));
            }
            for network in [stored.map(|built| built.network), stated] {
                match network {
                    Ok(network) => drop(network.shapes(&[1, 3])),
                    Err(error) => {
                        refused += 1;
                        assert!(!error.to_string().is_empty());
                    }
                }
            }
        }
    }
    assert!(refused > ROUNDS, "most changes are mistakes: {refused}");
}

/// What is put in.
const PARTS: [&str; 14] =
    ["0", "9", "-1", "134217727", "1e400", "\"", "[", "]", "=", "\n", "any", "same", "true", "[[layer]]"];

/// Changes of each text.
const ROUNDS: usize = 500;

/// What attention is made of.
const TRANSFORMER: &str = r#"
name = "tiny"
input = { vocabulary = 9, positions = 5 }

[[layer]]
op = "embedding"
name = "table"

[[layer]]
op = "position_embedding"
name = "positions"
as = "h"

[[layer]]
op = "layer_norm"
name = "norm"
block = "b"

[[layer]]
op = "linear"
name = "qkv"
block = "b"

[[layer]]
op = "slice"
axis = 2
to_place = 6
as = "q"
block = "b"

[[layer]]
op = "slice"
from = "qkv"
axis = 2
from_place = 6
to_place = 12
as = "k"
block = "b"

[[layer]]
op = "rotary"
heads = 2
width = 3
rotated = 2
as = "rotated"
block = "b"

[[layer]]
op = "slice"
from = "qkv"
axis = 2
from_place = 12
to_place = 18
as = "v"
block = "b"

[[layer]]
op = "attention"
from = "q"
with = ["rotated", "v"]
heads = 2
width = 3
mask = "causal"
cap = 30.0
block = "b"

[[layer]]
op = "add"
with = "h"
block = "b"

[[layer]]
op = "rms_norm"
columns = 6

[[layer]]
op = "linear"
weight = "table.weight"

[[layer]]
op = "softmax"
as = "p"

[[layer]]
op = "scale"
factor = 0.5

[[layer]]
op = "multiply"
with = "p"

[[layer]]
op = "concat"
axis = 2
with = "p"

[[layer]]
op = "cross_entropy"
"#;

const IMAGE: &str = r#"
input = { shape = [1, 6, 6] }

[[layer]]
op = "conv2d"
name = "conv"
padding = "same"

[[layer]]
op = "batch_norm"
name = "bn"

[[layer]]
op = "leaky_relu"
slope = 0.2

[[layer]]
op = "group_norm"
groups = 2
channels = 4

[[layer]]
op = "max_pool"
size = 2

[[layer]]
op = "average_pool"
size = 2
stride = 1

[[layer]]
op = "adaptive_average_pool"
places = 2

[[layer]]
op = "transpose"
axes = [0, 1, 3, 2]

[[layer]]
op = "reshape"
shape = [2, "any"]

[[layer]]
op = "flatten"

[[layer]]
op = "linear"
name = "fc"

[[layer]]
op = "mean_squared_error"
"#;

const SEQUENCE: &str = r#"
input = { shape = ["any", 3] }

[[layer]]
op = "lstm"
name = "lstm"

[[layer]]
op = "last_step"
as = "h"

[[layer]]
op = "reshape"
shape = [1, 2]

[[layer]]
op = "conv1d"
name = "signal"

[[layer]]
op = "flatten"
as = "x"

[[layer]]
op = "concat"
from = "h"
with = "h"
axis = 1
as = "state"

[[layer]]
op = "lstm_cell"
name = "cell"
from = "x"
with = "state"
"#;

#[test]
fn a_loss_stands_last_behind_what_it_judges() {
    let linear = "input = { shape = [16] }\n[[layer]]\nop = \"linear\"\nname = \"fc\"\nas = \"y\"\n";
    let loss = "[[layer]]\nop = \"cross_entropy\"\n";
    let refused = |text: &str| refusal(text).1;
    assert!(refused(&format!("{linear}{loss}[[layer]]\nop = \"tanh\"")).contains("a loss stands last"));
    assert!(refused(&format!("input = {{ shape = [16] }}\n{loss}")).contains("behind the layers"));
    assert!(refused(&format!("{linear}{loss}from = \"input\"")).contains("of the layer before it"));
    assert!(refused(&format!("{linear}{loss}block = \"b\"")).contains("no part of a block"));
}

#[test]
fn a_network_that_ends_in_a_loss_is_measured_up_to_what_the_loss_judges() {
    use flashpoint::analysis::jacobian::{Question, prepare};
    use flashpoint::context::Context;
    let (folder, checkpoint) = saved(&tensors());
    let body =
        "input = { shape = [16] }\n[[layer]]\nop = \"linear\"\nname = \"fc\"\n[[layer]]\nop = \"tanh\"\n";
    let measured = |text: &str| {
        let path = folder.path().join("network.toml");
        std::fs::write(&path, text).unwrap();
        let question = Question { model: Some(path), ..Question::default() };
        let prepared = prepare(&checkpoint, &question, &Context::default()).unwrap();
        prepared.measure(&checkpoint, &Context::default()).unwrap().expect("nobody asked to stop")
    };
    let plain = measured(body);
    for loss in ["cross_entropy", "mean_squared_error"] {
        let judged = measured(&format!("{body}[[layer]]\nop = \"{loss}\"\n"));
        assert_eq!(judged.end_to_end, plain.end_to_end, "{loss}");
        assert!(judged.end_to_end.value().is_some(), "{loss}");
    }
}

#[test]
fn more_numbers_than_are_computed_are_refused_where_the_input_leaves_its_sizes_open() {
    use flashpoint::analysis::jacobian::{Question, prepare};
    use flashpoint::context::Context;
    let (folder, checkpoint) = saved(&tensors());
    // A kernel on 4096 by 4096 pixels with a border of a hundred million.
    let text = "input = { shape = [1, \"any\", \"any\"] }\n[[layer]]\nop = \"conv2d\"\nname = \"conv\"\npadding = 100000000\n";
    let path = folder.path().join("network.toml");
    std::fs::write(&path, text).unwrap();
    let question = Question { model: Some(path), ..Question::default() };
    let context = Context { input_size: vec![4096, 4096], ..Context::default() };
    let error = prepare(&checkpoint, &question, &context).err().expect("it is refused").to_string();
    assert!(error.contains("takes more memory than is used"), "{error}");
}

/// Every layer that has parameters, with their sizes.
const STATED: &str = r#"
input = { shape = [2, 12] }

[[layer]]
op = "conv1d"
name = "signal"
outputs = 6
kernel = 3
stride = 2
padding = 1
groups = 2

[[layer]]
op = "group_norm"
name = "groups"
groups = 3

[[layer]]
op = "position_embedding"
name = "positions"
rows = 6

[[layer]]
op = "gru"
name = "gru"
hidden = 5
layers = 2
bidirectional = true
bias = false

[[layer]]
op = "rms_norm"
name = "norm"
block = "last"

[[layer]]
op = "linear"
name = "fc"
outputs = 4
bias = false
block = "last"

[[layer]]
op = "flatten"

[[layer]]
op = "linear"
name = "head"
outputs = 3
transposed = true
"#;

/// The tensors that PyTorch's layers of these sizes have.
fn stated_tensors() -> Vec<(&'static str, Vec<usize>)> {
    vec![
        ("signal.weight", vec![6, 1, 3]),
        ("signal.bias", vec![6]),
        ("groups.weight", vec![6]),
        ("groups.bias", vec![6]),
        ("positions.weight", vec![6, 6]),
        ("gru.weight_ih_l0", vec![15, 6]),
        ("gru.weight_hh_l0", vec![15, 5]),
        ("gru.weight_ih_l0_reverse", vec![15, 6]),
        ("gru.weight_hh_l0_reverse", vec![15, 5]),
        ("gru.weight_ih_l1", vec![15, 10]),
        ("gru.weight_hh_l1", vec![15, 5]),
        ("gru.weight_ih_l1_reverse", vec![15, 10]),
        ("gru.weight_hh_l1_reverse", vec![15, 5]),
        ("norm.weight", vec![10]),
        ("fc.weight", vec![4, 10]),
        ("head.weight", vec![24, 3]),
        ("head.bias", vec![3]),
    ]
}

#[test]
fn a_file_that_states_its_sizes_says_the_network_that_a_checkpoint_of_these_sizes_has() {
    let (_folder, checkpoint) = saved(&stated_tensors());
    let stored = from_model_toml(STATED, Path::new("model.toml"), &checkpoint).unwrap();
    assert_eq!((stored.tensors.len(), stored.unused.len()), (stated_tensors().len(), 0));
    let stated = stated_by_model_toml(STATED, Path::new("model.toml"), &[2, 12]).unwrap();
    assert_eq!(format!("{stated:?}"), format!("{:?}", stored.network));
    // The block that the file ends its last parameters in, and the two of the recurrence.
    assert_eq!(stated.blocks.last().unwrap().name, "last");
    let open = STATED.replace("[2, 12]", "[2, \"any\"]");
    let filled = stated_by_model_toml(&open, Path::new("model.toml"), &[2, 12]).unwrap();
    assert_eq!(format!("{filled:?}"), format!("{stated:?}"));
    assert_eq!(with_input_sizes(&open, Path::new("model.toml"), &[2, 12]).unwrap(), STATED);
}

#[test]
fn a_block_that_ends_with_the_file_is_one() {
    let text = format!("{IMAGES}[[layer]]\nop = \"conv2d\"\nname = \"conv\"\nblock = \"only\"");
    let (_folder, checkpoint) = saved(&tensors());
    let built = from_model_toml(&text, Path::new("model.toml"), &checkpoint).unwrap();
    assert_eq!(built.network.blocks.iter().map(|block| block.name.as_str()).collect::<Vec<_>>(), ["only"]);
}

#[test]
fn a_size_that_is_not_the_checkpoints_is_named_with_its_line_and_column() {
    let (_folder, checkpoint) = saved(&stated_tensors());
    for (size, other, line, words) in [
        ("outputs = 6", "outputs = 7", 7, "outputs is 7, by its parameters it is 6"),
        ("kernel = 3", "kernel = [5]", 8, "kernel is [5], by its parameters it is [3]"),
        ("rows = 6", "rows = 8", 21, "rows is 8, by its parameters it is 6"),
        ("hidden = 5", "hidden = 6", 26, "hidden is 6, by its parameters it is 5"),
        ("layers = 2", "layers = 3", 27, "layers is 3, by its parameters it is 2"),
        ("bidirectional = true", "bidirectional = false", 28, "its parameters are of two directions"),
    ] {
        let text = STATED.replacen(size, other, 1);
        let error = from_model_toml(&text, Path::new("model.toml"), &checkpoint).expect_err(other);
        assert!(error.to_string().contains(words), "{error}");
        assert!(matches!(error.at, Some(At::Line(at, _)) if at == line), "{error}");
    }
}
