//! Tiny models: logits, Jacobians, singular values, gradients, and a tape that holds a block at a time.

use flashpoint::analysis::spectrum::bidiagonal;
use flashpoint::checkpoint::CheckpointTensor;
use flashpoint::compute::{Cpu, Real};
use flashpoint::network::builders::from_shapes;
use flashpoint::network::{
    Block, CrossEntropy, Feed, Gradients, Input, Operation, ParameterId, Segment, Tape, Targets, ValueId,
    Weights,
};

use super::oracle::{Oracle, distance, narrow, wide};
use super::{JACOBIAN_F32, JACOBIAN_F64, LOGITS, MODELS, jacobian, jacobian_by_rows, model, tape, weights};

#[test]
fn logits_are_those_of_transformers() {
    for name in MODELS {
        let oracle = Oracle::read(name);
        let (checkpoint, built) = model(name);
        assert!(built.unused.is_empty(), "{name}: {:?}", built.unused);
        let logits = |weights: &Weights<Cpu, f64>| {
            wide(tape(&built.network, weights, oracle.tokens("ids")).download(built.network.output).unwrap())
        };
        let found = logits(&weights(&checkpoint, &built));
        if oracle.has("logits") {
            let error = distance(&found, &oracle.values("logits"));
            assert!(error < LOGITS, "{name}: {error:e} from transformers");
        }
        let error = distance(&found, &oracle.values("written"));
        assert!(error < 1e-12, "{name}: {error:e} from the model written out in float64");
        let single = weights::<f32>(&checkpoint, &built);
        let found =
            wide(tape(&built.network, &single, oracle.tokens("ids")).download(built.network.output).unwrap());
        let error = distance(&found, &oracle.values("written"));
        assert!(error < 1e-5, "{name}: {error:e} in f32");
    }
}

#[test]
fn a_gpt2_without_its_config_is_built_from_its_shapes_and_its_heads() {
    for name in ["gpt2", "nano-gpt"] {
        let oracle = Oracle::read(name);
        let (mut checkpoint, _) = model(name);
        let heads = checkpoint.config.take().expect("it has one")["n_head"].as_u64().unwrap() as usize;
        let error = from_shapes(&checkpoint, None).expect_err("no shape tells the heads");
        assert!(error.to_string().contains("GPT-2") && error.to_string().contains("--heads"), "{error}");
        let built = from_shapes(&checkpoint, Some(heads)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(built.unused.is_empty() && built.assumptions.len() == 1, "{name}: {:?}", built.unused);
        let weights = weights::<f64>(&checkpoint, &built);
        let logits = tape(&built.network, &weights, oracle.tokens("ids")).download(built.network.output);
        let error = distance(&wide(logits.unwrap()), &oracle.values("written"));
        assert!(error < 1e-12, "{name}: {error:e} from the model written out in float64");
        let error = from_shapes(&checkpoint, Some(heads + 1)).expect_err("they do not divide the width");
        assert!(error.to_string().contains("do not divide its width"), "{error}");
    }
}

#[test]
fn a_config_without_a_model_type_is_heard_all_the_same() {
    let (mut checkpoint, with_config) = model("gpt2");
    let config = checkpoint.config.as_mut().expect("it has one");
    let heads = config["n_head"].as_u64().unwrap() as usize;
    config.remove("model_type");
    let built = from_shapes(&checkpoint, None).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(built.network.nodes.len(), with_config.network.nodes.len());
    let error = from_shapes(&checkpoint, Some(2 * heads)).expect_err("the config says another number");
    assert!(error.to_string().contains("--heads"), "{error}");
}

#[test]
fn blocks_that_hold_more_than_those_of_gpt2_are_of_another_network() {
    for name in ["transformer.h.0.crossattention.c_attn.weight", "transformer.h.1.ln_cross_attn.weight"] {
        let (mut checkpoint, _) = model("gpt2");
        checkpoint.config = None;
        let end = |tensor: &&mut CheckpointTensor| tensor.name.ends_with("ln_f.bias");
        let tensor = checkpoint.tensors.iter_mut().find(end).expect("it has one");
        (tensor.name, tensor.canonical_name) = (name.to_owned(), name.to_owned());
        let error = from_shapes(&checkpoint, Some(2)).expect_err("cross attention is not built");
        assert!(
            !error.to_string().contains("GPT-2, but"),
            "another network, not one that lacks a norm: {error}"
        );
    }
}

#[test]
fn a_config_of_another_model_is_not_overruled_by_shapes_like_those_of_gpt2() {
    let (mut checkpoint, _) = model("gpt2");
    let config = checkpoint.config.as_mut().expect("it has one");
    config.insert("model_type".to_owned(), "gpt_bigcode".into());
    let error = from_shapes(&checkpoint, None).expect_err("it is none of these");
    assert!(!error.to_string().contains("GPT-2"), "{error}");
}

/// Differences of products with the Jacobian of the stack from both sides, and of the whole where the oracle has it.
fn jacobian_errors<T: Real>(name: &str) -> Vec<f64> {
    let oracle = Oracle::read(name);
    let (checkpoint, built) = model(name);
    let weights = weights::<T>(&checkpoint, &built);
    let tape = tape(&built.network, &weights, oracle.tokens("jacobian.ids"));
    let segment = Segment::new(built.network.entry(), built.network.exit());
    let length = tape.length(segment.from);
    let mut errors = Vec::new();
    for [from, to] in [["jacobian.x", "jacobian.jx"], ["jacobian.u", "jacobian.jtu"]] {
        let (from_vectors, to_vectors) = (oracle.values(from), oracle.values(to));
        for (x, expected) in from_vectors.chunks(length).zip(to_vectors.chunks(length)) {
            let product = match from {
                "jacobian.x" => tape.jvp(&weights, &segment, narrow(x)),
                _ => tape.vjp(&weights, &segment, narrow(x)),
            };
            errors.push(distance(&wide(product.unwrap()), expected));
        }
    }
    if oracle.has("jacobian") {
        let expected = oracle.values("jacobian");
        errors.push(distance(&jacobian(&tape, &weights, &segment), &expected));
        errors.push(distance(&jacobian_by_rows(&tape, &weights, &segment), &expected));
    }
    errors
}

#[test]
fn jacobians_of_small_transformers_are_those_of_jacrev() {
    let mut whole = 0;
    for name in MODELS {
        let errors = jacobian_errors::<f64>(name);
        whole += usize::from(errors.len() == 6);
        assert!(errors.iter().all(|&error| error <= JACOBIAN_F64), "{name}: {errors:?} in f64");
        let errors = jacobian_errors::<f32>(name);
        assert!(errors.iter().all(|&error| error <= JACOBIAN_F32), "{name}: {errors:?} in f32");
    }
    assert_eq!(whole, 3, "one of each kind of block");
}

#[test]
fn singular_values_of_blocks_and_of_the_stack_are_those_of_pytorch() {
    for name in MODELS {
        let oracle = Oracle::read(name);
        let (checkpoint, built) = model(name);
        let (double, single) = (weights::<f64>(&checkpoint, &built), weights::<f32>(&checkpoint, &built));
        let input = || oracle.tokens("jacobian.ids");
        let (wide_tape, narrow_tape) =
            (tape(&built.network, &double, input()), tape(&built.network, &single, input()));
        let mut segments: Vec<Segment> = built.network.blocks.iter().map(Block::segment).collect();
        segments.push(Segment::new(built.network.entry(), built.network.exit()));
        let mut expected = oracle.values("block.values");
        expected.extend(oracle.values("jacobian.values"));
        let length = wide_tape.length(segments[0].from);
        assert_eq!(expected.len(), segments.len() * length);
        for (segment, expected) in segments.iter().zip(expected.chunks(length)) {
            let values = |matrix| bidiagonal::singular_values(matrix, length, length).unwrap();
            let error = |found: &[f64]| {
                let distances = found.iter().zip(expected).map(|(x, y)| (x - y).abs());
                distances.fold(0.0, f64::max) / expected[0]
            };
            let found = error(&values(jacobian(&wide_tape, &double, segment)));
            assert!(found < 1e-10, "{name} {segment:?}: {found:e} in f64");
            let found = error(&values(jacobian(&narrow_tape, &single, segment)));
            assert!(found < 1e-4, "{name} {segment:?}: {found:e} in f32");
        }
    }
}

#[test]
fn the_gradient_of_the_loss_by_every_parameter_is_that_of_autograd() {
    for name in MODELS {
        let oracle = Oracle::read(name);
        let (checkpoint, built) = model(name);
        let weights = weights::<f64>(&checkpoint, &built);
        let names: Vec<&str> =
            built.tensors.iter().map(|&index| checkpoint.tensors[index].name.as_str()).collect();
        let network = built.network.with_loss(CrossEntropy);
        let Input::Tokens { batch, ids } = oracle.tokens("ids") else { unreachable!() };
        let targets = Some(Targets::Classes(ids.iter().map(|id| (id + 1) % 40).collect()));
        let mut tape =
            Tape::new(&network, &Cpu, &Feed { input: Input::Tokens { batch, ids }, targets }).unwrap();
        tape.advance(&weights, network.output).unwrap();
        let mut gradients = Gradients::none(&network);
        tape.parameter_gradient(&weights, network.output, vec![1.0], &mut gradients).unwrap();
        for (index, parameter) in names.iter().enumerate() {
            let gradient = &gradients.get(ParameterId(index)).expect("every parameter is met").buffer;
            let parameter = parameter.trim_start_matches("model._orig_mod.");
            let expected = oracle.values(&format!("gradient/{parameter}"));
            let norm = gradient.iter().map(|x| x * x).sum::<f64>().sqrt();
            let along: f64 = gradient.iter().enumerate().map(|(at, x)| x * (at as f64).sin()).sum();
            // The softmax does not see what is added to all keys: the gradient of their biases is rounding.
            let scale = expected[0].max(1e-6);
            assert!((norm - expected[0]).abs() < 1e-10 * scale, "{name} {parameter}: {norm} {expected:?}");
            assert!((along - expected[1]).abs() < 1e-10 * scale, "{name} {parameter}: {along} {expected:?}");
        }
    }
}

#[test]
fn a_tape_that_rolls_over_the_blocks_gives_what_a_whole_one_gives() {
    for name in MODELS {
        let oracle = Oracle::read(name);
        let (checkpoint, built) = model(name);
        let network = &built.network;
        let all = weights::<f64>(&checkpoint, &built);
        let whole = tape(network, &all, oracle.tokens("jacobian.ids"));
        let tensors = built.tensors(&checkpoint);

        let mut few = Weights::<Cpu, f64>::none(network);
        let mut rolling = Tape::new(network, &Cpu, &oracle.tokens("jacobian.ids").into()).unwrap();
        few.load(&Cpu, network, &tensors, &network.parameters_between(None, network.entry())).unwrap();
        rolling.advance(&few, network.entry()).unwrap();
        for block in &network.blocks {
            rolling.forget(block.input);
            let needed = network.parameters_between(Some(block.input), block.output);
            few.keep_only(&needed);
            few.load(&Cpu, network, &tensors, &needed).unwrap();
            rolling.advance(&few, block.output).unwrap();
            let x: Vec<f64> = (0..whole.length(block.input)).map(|at| (at as f64).sin()).collect();
            let u: Vec<f64> = (0..whole.length(block.output)).map(|at| (at as f64).cos()).collect();
            let segment = block.segment();
            let products = |tape: &Tape<'_, Cpu, f64>, weights: &Weights<Cpu, f64>| {
                [
                    tape.jvp(weights, &segment, x.clone()).unwrap(),
                    tape.vjp(weights, &segment, u.clone()).unwrap(),
                ]
            };
            assert_eq!(products(&rolling, &few), products(&whole, &all), "{name} {}", block.name);
        }
        assert_eq!(
            rolling.download(network.exit()).unwrap(),
            whole.download(network.exit()).unwrap(),
            "{name}"
        );
    }
}

#[test]
fn with_queries_and_keys_frozen_the_value_path_of_an_attention_remains() {
    // The Jacobian is a sum over paths: of values alone, and of queries and keys alone. Both add up to the whole.
    for name in MODELS {
        let oracle = Oracle::read(name);
        let (checkpoint, built) = model(name);
        let weights = weights::<f64>(&checkpoint, &built);
        let tape = tape(&built.network, &weights, oracle.tokens("jacobian.ids"));
        for block in &built.network.blocks {
            let part = block.parts.iter().find(|part| part.name == "attention").unwrap();
            assert_eq!(part.logits_from.len(), 2);
            let attention = (part.input.0..=part.output.0)
                .find(|&at| matches!(built.network.nodes[at].operation, Operation::Attention(_)))
                .unwrap();
            let values = built.network.nodes[attention].inputs[2];
            let frozen = |frozen: &[ValueId]| {
                let segment = Segment { from: part.input, to: part.output, frozen: frozen.to_vec() };
                let columns = jacobian(&tape, &weights, &segment);
                assert!(distance(&jacobian_by_rows(&tape, &weights, &segment), &columns) < 1e-12);
                columns
            };
            let whole = frozen(&[]);
            let sum: Vec<f64> =
                frozen(&part.logits_from).iter().zip(frozen(&[values])).map(|(x, y)| x + y).collect();
            assert!(distance(&sum, &whole) < 1e-12, "{name} {}", block.name);
            assert!(distance(&frozen(&part.logits_from), &whole) > 1e-3, "{name}: logits matter in these");
        }
    }
}

#[test]
fn products_have_the_same_bits_on_any_number_of_threads() {
    let bits = |threads: usize| -> Vec<u64> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (checkpoint, built) = model("qwen3");
            let weights = weights::<f32>(&checkpoint, &built);
            let ids = (0..64).map(|at| at * 7 % 40).collect();
            let tape = tape(&built.network, &weights, Input::Tokens { batch: 2, ids });
            let segment = Segment::new(built.network.entry(), built.network.output);
            let x = (0..tape.length(segment.from)).map(|at| (at as f32).sin()).collect();
            let u = (0..tape.length(segment.to)).map(|at| (at as f32).cos()).collect();
            let products =
                [tape.jvp(&weights, &segment, x).unwrap(), tape.vjp(&weights, &segment, u).unwrap()];
            products.into_iter().flatten().map(|value| u64::from(value.to_bits())).collect()
        })
    };
    let one = bits(1);
    for threads in [2, 5] {
        assert_eq!(bits(threads), one, "{threads} threads");
    }
}
