//! Networks by the shapes of their parameters alone.

use super::*;
use flashpoint::error::ErrorKind;
use flashpoint::network::builders::{from_shapes, recurrences};
use flashpoint::network::{CellKind, Operation};

/// The parameters of a network of an oracle by themselves, as the network's own state dict names them.
fn alone(file: &str, name: &str) -> (tempfile::TempDir, Checkpoint) {
    let bytes = std::fs::read(Path::new(ORACLE).join(format!("{file}.safetensors"))).unwrap();
    let oracle = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let prefix = format!("{name}.");
    let views: Vec<_> = oracle
        .tensors()
        .into_iter()
        .filter_map(|(full, view)| Some((full.strip_prefix(&prefix)?.to_owned(), view)))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    let checkpoint = read(&path);
    (folder, checkpoint)
}

#[test]
fn networks_that_their_shapes_determine_give_what_pytorch_gives() {
    for (file, name) in [
        ("images", "mlp"),
        ("recurrent", "lstm"),
        ("recurrent", "lstm-both"),
        ("recurrent", "gru"),
        ("recurrent", "rnn"),
    ] {
        let oracle = read(&Path::new(ORACLE).join(format!("{file}.safetensors")));
        let (_folder, checkpoint) = alone(file, name);
        let built = from_shapes(&checkpoint, None).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(built.unused.is_empty(), "{name}: {:?}", built.unused);
        let (shape, x) = tensor(&oracle, &format!("oracle.{name}.x")).unwrap();
        let weights = weights::<f64>(&checkpoint, &built);
        let tape = tape(&built.network, &weights, Input::Features { shape, values: x });
        let found = tape.download(built.network.output).unwrap();
        let error = distance(&found, &values(&oracle, &format!("oracle.{name}.y")));
        assert!(error < JACOBIAN_F64, "{name}: {error:e}");
        let says_so = built.assumptions.iter().any(|text| text.contains("--model"));
        assert_eq!(says_so, ["mlp", "rnn"].contains(&name), "{name}: {:?}", built.assumptions);
        assert!(!built.network.blocks.is_empty());
    }
}

#[test]
fn a_cell_is_a_network_from_an_input_and_a_state_to_the_next_state() {
    let oracle = read(&Path::new(ORACLE).join("recurrent.safetensors"));
    for (name, kind) in
        [("lstm-cell", CellKind::Lstm), ("gru-cell", CellKind::Gru), ("rnn-cell", CellKind::Tanh)]
    {
        let (_folder, checkpoint) = alone("recurrent", name);
        let built = from_shapes(&checkpoint, None).unwrap();
        let recurrences = built.network.recurrences();
        assert!(recurrences.len() == 1 && recurrences[0].cell.kind == kind, "{name}");
        let (shape, x) = tensor(&oracle, &format!("oracle.{name}.x")).unwrap();
        let weights = weights::<f64>(&checkpoint, &built);
        let tape = tape(&built.network, &weights, Input::Features { shape, values: x });
        let error = distance(
            &tape.download(built.network.output).unwrap(),
            &values(&oracle, &format!("oracle.{name}.y")),
        );
        assert!(error < JACOBIAN_F64, "{name}: {error:e}");
        // The part of the whole Jacobian that is by the state.
        let columns = 3 + recurrences[0].state();
        let whole = values(&oracle, &format!("oracle.{name}.j"));
        let by_state: Vec<f64> = whole.chunks(columns).flat_map(|row| row[3..].to_vec()).collect();
        let segment = Segment::new(built.network.node(built.network.output).inputs[1], built.network.output);
        assert!(distance(&jacobian(&tape, &weights, &segment), &by_state) < JACOBIAN_F64, "{name}");
    }
}

#[test]
fn where_an_activation_stands_follows_from_the_numbers_that_are_left_out() {
    let kinds = |tensors: &[(&str, Vec<usize>)]| -> Vec<&'static str> {
        let (_folder, checkpoint) = saved(tensors);
        let built = from_shapes(&checkpoint, None).unwrap_or_else(|error| panic!("{error}"));
        built.network.nodes[1..].iter().map(|node| node.operation.name()).collect()
    };
    let named = |names: [&'static str; 2]| [(names[0], vec![4, 3]), (names[1], vec![2, 4])];
    assert_eq!(kinds(&named(["fc1.weight", "fc2.weight"])), ["Linear", "Activation", "Linear"]);
    assert_eq!(kinds(&named(["layers.0.weight", "layers.1.weight"])), ["Linear", "Activation", "Linear"]);
    assert_eq!(kinds(&named(["net.0.weight", "net.3.weight"])), ["Linear", "Activation", "Linear"]);
    let ten = [("net.9.weight", vec![4, 3]), ("net.11.weight", vec![2, 4])];
    assert_eq!(kinds(&ten), ["Linear", "Activation", "Linear"], "numbers are no texts");
    let normed = [
        ("0.weight", vec![4, 3]),
        ("1.weight", vec![4]),
        ("1.bias", vec![4]),
        ("1.running_mean", vec![4]),
        ("1.running_var", vec![4]),
        ("3.weight", vec![2, 4]),
    ];
    assert_eq!(kinds(&normed), ["Linear", "BatchNorm", "Activation", "Linear"]);
}

#[test]
fn what_shapes_do_not_determine_is_named_and_a_model_file_asked_for() {
    let refusal = |tensors: &[(&str, Vec<usize>)]| {
        let (_folder, checkpoint) = saved(tensors);
        let error = from_shapes(&checkpoint, None).expect_err("the shapes do not determine it");
        assert!(matches!(error.kind, ErrorKind::UnknownArchitecture { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("give --model"), "{text}");
        text
    };
    let conv = refusal(&[("conv1.weight", vec![4, 1, 3, 3]), ("fc.weight", vec![2, 16])]);
    assert!(conv.contains("conv1") && conv.contains("stride and padding"), "{conv}");
    let chain = refusal(&[("fc1.weight", vec![4, 3]), ("fc2.weight", vec![2, 5])]);
    assert!(chain.contains("fc2 takes 5 numbers, the layer before it gives 4"), "{chain}");
    let names = refusal(&[("encoder.weight", vec![4, 3]), ("decoder.weight", vec![3, 4])]);
    assert!(names.contains("decoder"), "{names}");
    let far = refusal(&[("0.weight", vec![4, 3]), ("5.weight", vec![3, 4])]);
    assert!(far.contains("4 modules"), "{far}");
    let norms = refusal(&[("0.weight", vec![4, 3]), ("1.weight", vec![4]), ("2.weight", vec![3, 4])]);
    assert!(norms.contains("activations"), "{norms}");
    let cell = |name: &'static str| [(name, vec![8, 2])];
    let two = refusal(&[
        ("a.weight_ih_l0", vec![8, 3]),
        cell("a.weight_hh_l0")[0].clone(),
        ("b.weight_ih_l0", vec![8, 3]),
        cell("b.weight_hh_l0")[0].clone(),
    ]);
    assert!(two.contains("2 recurrences: a, b"), "{two}");
    let (_folder, checkpoint) = saved(&[
        ("a.weight_ih_l0", vec![8, 3]),
        ("a.weight_hh_l0", vec![8, 2]),
        ("conv.weight", vec![2, 2, 3, 3]),
        ("b.weight_ih", vec![6, 3]),
        ("b.weight_hh", vec![6, 2]),
    ]);
    let kinds: Vec<CellKind> = recurrences(&checkpoint)
        .unwrap()
        .iter()
        .flat_map(|built| built.network.recurrences())
        .map(|recurrence| recurrence.cell.kind)
        .collect();
    assert_eq!(kinds, [CellKind::Lstm, CellKind::Gru], "each by itself can be told");
    let odd = refusal(&[("weight_ih_l0", vec![10, 3]), ("weight_hh_l0", vec![10, 4])]);
    assert!(odd.contains("[10, 4]"), "{odd}");
}

#[test]
fn what_lies_beside_a_recurrence_is_reported_as_unused() {
    let (_folder, checkpoint) = saved(&[
        ("lstm.weight_ih_l0", vec![8, 3]),
        ("lstm.weight_hh_l0", vec![8, 2]),
        ("head.weight", vec![5, 2]),
    ]);
    let built = from_shapes(&checkpoint, None).unwrap();
    assert_eq!(built.unused, ["head.weight"]);
    assert!(
        built.assumptions.iter().any(|text| text.contains("lstm is taken by itself")),
        "{:?}",
        built.assumptions
    );
    assert!(matches!(built.network.node(built.network.output).operation, Operation::RecurrentLayer(_)));
}
