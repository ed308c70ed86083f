//! The parameters of a checkpoint against those of the network that its config describes. Reads no element.

use super::model::{ArchitectureMatch, Measured, ReshapedParameter};
use super::own_class::class_of_its_own;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::names::is_of_adapter;
use crate::error::Error;
use crate::network::builders::{self, Population};

/// Whether most parameters may be there under other names: as many tensors hold none of them, or as many elements, since a
/// writer may join several matrices in one. What nothing stands in place of is missing, however much it is.
fn is_of_another_writer(population: &Population) -> bool {
    let missing = population.missing.len();
    let stands_in = population.others >= missing || population.other_elements >= population.missing_elements;
    2 * missing > population.expected && stands_in
}

/// Compares names and shapes; not measured where the config is of no network that is built here, or the checkpoint is no plain
/// copy of it.
pub fn compare(checkpoint: &Checkpoint) -> Measured<ArchitectureMatch> {
    let Some(config) = &checkpoint.config else {
        return Measured::not("no config.json beside the weights");
    };
    if config.get("quantization_config").is_some_and(|value| !value.is_null()) {
        return Measured::not("its config says that it is quantised");
    }
    if checkpoint.tensors.iter().any(|tensor| tensor.role.is_adapter()) {
        return Measured::not("it holds low-rank adapters");
    }
    if checkpoint.tensors.iter().any(|tensor| is_of_adapter(&tensor.name)) {
        return Measured::not("it holds adapters");
    }
    let population = match builders::population(checkpoint) {
        Ok(population) => population,
        Err(Error { at: Some(at), kind, .. }) => return Measured::not(format!("{kind} ({at})")),
        Err(error) => return Measured::not(error.kind.to_string()),
    };
    if let Some(reason) = parameters_of_its_own(checkpoint).filter(|_| !population.is_whole()) {
        return Measured::not(reason);
    }
    if let Some(reason) = class_of_its_own(checkpoint, &population) {
        return Measured::not(reason);
    }
    // Names that another architecture has, and none that the config's has: then it is not the writer that is another.
    let is_another = population.missing.len() == population.expected && builders::is_another(checkpoint);
    let is_of_another_writer = !is_another && is_of_another_writer(&population);
    let Population { architecture, expected, missing, reshaped, unexpected, .. } = population;
    if is_of_another_writer {
        let missing = missing.len();
        let reason = format!(
            "{missing} of {expected} parameters of {architecture} have other names, or are not there"
        );
        return Measured::not(reason);
    }
    let reshaped = reshaped.into_iter().filter_map(|(index, expected)| {
        let named = &checkpoint.tensors[index];
        let shape = named.tensor.as_ref().ok()?.shape.clone();
        Some(ReshapedParameter { name: named.name.clone(), shape, expected })
    });
    Measured::Value(ArchitectureMatch {
        architecture,
        parameters: expected as u64,
        missing,
        reshaped: reshaped.collect(),
        unexpected,
    })
}

/// Why a network of a known architecture's config may have parameters of its own.
fn parameters_of_its_own(checkpoint: &Checkpoint) -> Option<String> {
    let of_class = builders::class_of_its_own(checkpoint).map(|class| {
        let class = class.escape_debug();
        format!(
            "its config names the class {class}, which transformers has for none of the architectures that are built, and it has not all parameters of one: they may be its own"
        )
    });
    let of_fusion = || {
        let fusion = builders::fusion_of_states(checkpoint)?.escape_debug();
        Some(format!(
            "{fusion} joins several hidden states of another model: a draft head, whose parameters no config tells"
        ))
    };
    of_class.or_else(of_fusion)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use safetensors::tensor::{Dtype, TensorView};
    use serde_json::{Value, json};

    use super::*;
    use crate::checkpoint::{Layout, NameRules};
    use crate::context::Context;

    type Shapes = Vec<(String, Vec<usize>)>;

    /// Zeros of these shapes beside a config.
    fn saved(shapes: &Shapes, config: &Value) -> Checkpoint {
        let folder = tempfile::tempdir().unwrap();
        let bytes = shapes.iter().map(|(_, shape)| vec![0u8; 4 * shape.iter().product::<usize>()]);
        let bytes: Vec<_> = bytes.collect();
        let views = shapes.iter().zip(&bytes).map(|((name, shape), bytes)| {
            (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
        });
        let path = folder.path().join("model.safetensors");
        std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        Checkpoint::read(folder.path(), &NameRules::default(), &Context::default()).unwrap()
    }

    fn compared(shapes: &Shapes, config: &Value) -> ArchitectureMatch {
        match compare(&saved(shapes, config)) {
            Measured::Value(found) => found,
            other => panic!("{other:?}"),
        }
    }

    fn reason(shapes: &Shapes, config: &Value) -> String {
        match compare(&saved(shapes, config)) {
            Measured::NotMeasured(reason) => reason.to_string(),
            other => panic!("{other:?}"),
        }
    }

    /// Nine parameters a layer, and three beside the layers.
    fn llama(layers: usize, prefix: &str) -> Shapes {
        let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![10, 4])];
        for layer in 0..layers {
            let of_layer: [(&str, &[usize]); 9] = [
                ("self_attn.q_proj", &[4, 4]),
                ("self_attn.k_proj", &[2, 4]),
                ("self_attn.v_proj", &[2, 4]),
                ("self_attn.o_proj", &[4, 4]),
                ("mlp.gate_proj", &[6, 4]),
                ("mlp.up_proj", &[6, 4]),
                ("mlp.down_proj", &[4, 6]),
                ("input_layernorm", &[4]),
                ("post_attention_layernorm", &[4]),
            ];
            let named =
                of_layer.map(|(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
            shapes.extend(named);
        }
        shapes
            .extend([("model.norm.weight".to_owned(), vec![4]), ("lm_head.weight".to_owned(), vec![10, 4])]);
        shapes.into_iter().map(|(name, shape)| (format!("{prefix}{name}"), shape)).collect()
    }

    fn llama_config(layers: usize) -> Value {
        json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": layers, "hidden_size": 4,
            "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 6, "vocab_size": 10,
        })
    }

    #[test]
    fn layers_that_nothing_stands_in_place_of_are_missing_however_many_they_are() {
        for (kept, all) in [(2, 6), (1, 12), (5, 12)] {
            let found = compared(&llama(kept, ""), &llama_config(all));
            assert_eq!((found.missing.len(), found.parameters), (9 * (all - kept), 9 * all as u64 + 3));
        }
    }

    #[test]
    fn a_class_of_its_own_has_parameters_of_its_own() {
        // EAGLE-3: queries, keys and values read the token and the hidden state side by side.
        let eagle = |layer: &str| {
            let reads_both =
                |name: &str| ["q_proj", "k_proj", "v_proj"].iter().any(|part| name.contains(part));
            let twice = |(name, mut shape): (String, Vec<usize>)| {
                shape[1..].iter_mut().for_each(|inputs| *inputs *= if reads_both(&name) { 2 } else { 1 });
                (name.replace("model.layers.0", layer).replace("model.", ""), shape)
            };
            llama(1, "").into_iter().map(twice).collect::<Shapes>()
        };
        let mut config = llama_config(1);
        for layer in ["layers.0", "midlayer"] {
            config["architectures"] = json!(["LlamaForCausalLMEagle3"]);
            assert!(reason(&eagle(layer), &config).contains("the class LlamaForCausalLMEagle3"));
        }
        let whole = compared(&llama(1, ""), &config);
        assert!(whole.missing.is_empty(), "a class of one's own with all parameters of the known one");
        let gemma = json!({"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"]});
        assert!(
            !reason(&llama(1, ""), &gemma).contains("class"),
            "what is not built is not a class of its own"
        );
        config["architectures"] = json!(["LlamaForCausalLM"]);
        assert_eq!(
            compared(&eagle("layers.0"), &config).reshaped.len(),
            3,
            "nothing says that it is a draft head"
        );
        let mut fused = eagle("layers.0");
        fused.push(("fc.weight".to_owned(), vec![4, 12]));
        assert!(reason(&fused, &config).starts_with("fc.weight joins several hidden states"));
        // A layer of that name that joins nothing is a head like others.
        fused.last_mut().unwrap().1 = vec![4, 10];
        assert_eq!(compared(&fused, &config).reshaped.len(), 3);
    }

    #[test]
    fn the_classes_of_transformers_are_compared_whatever_their_head() {
        let mut lost = llama(2, "");
        lost.retain(|(name, _)| !name.contains("layers.1.mlp.up_proj"));
        for class in [
            "LlamaForCausalLM",
            "LLaMAForCausalLM",
            "LlamaModel",
            "LlamaForSequenceClassification",
            "MistralForCausalLM",
        ] {
            let mut config = llama_config(2);
            config["architectures"] = json!([class]);
            assert_eq!(compared(&lost, &config).missing.len(), 1, "{class}");
        }
        let mut config = llama_config(2);
        config.as_object_mut().unwrap().remove("architectures");
        assert_eq!(compared(&lost, &config).missing.len(), 1);
    }

    /// What comes of parameters as nanoGPT has them, in two blocks, where `change` gives each another name and shape, or leaves it out.
    fn of_nano_gpt(change: impl Fn(&str) -> Option<(&str, &[usize])>) -> Measured<ArchitectureMatch> {
        let mut shapes: Shapes = Vec::new();
        let mut add = |place: &str, name: &str, shape: &[usize]| {
            let full = format!("transformer.{place}{name}.weight");
            match change(&full) {
                Some((other, shape)) => {
                    shapes.extend((!other.is_empty()).then(|| (full.replace(name, other), shape.to_vec())));
                }
                None => shapes.push((full, shape.to_vec())),
            }
        };
        for (name, shape) in [("wte", [10, 4]), ("wpe", [8, 4])] {
            add("", name, &shape);
        }
        add("", "ln_f", &[4]);
        for block in ["h.0.", "h.1."] {
            add(block, "ln_1", &[4]);
            add(block, "attn.c_attn", &[12, 4]);
            add(block, "attn.c_proj", &[4, 4]);
            add(block, "ln_2", &[4]);
            add(block, "mlp.c_fc", &[16, 4]);
            add(block, "mlp.c_proj", &[4, 16]);
        }
        let config = json!({
            "n_layer": 2, "n_head": 2, "n_embd": 4, "block_size": 8, "vocab_size": 10, "bias": false, "dropout": 0.0,
        });
        let mut checkpoint = saved(&shapes, &config);
        checkpoint.layout = Layout::NanoGpt;
        compare(&checkpoint)
    }

    #[test]
    fn a_class_of_ones_own_in_a_file_of_nano_gpt_differs_in_every_block() {
        const GONE: (&str, &[usize]) = ("", &[]);
        let whole = of_nano_gpt(|_| None);
        assert!(matches!(&whole, Measured::Value(found) if found.missing.is_empty()), "{whole:?}");
        let rotary = of_nano_gpt(|name| name.contains("wpe").then_some(GONE));
        let gated = of_nano_gpt(|name| name.contains("c_fc").then_some(("mlp.w1", &[16, 4])));
        let grouped = of_nano_gpt(|name| name.contains("c_attn").then_some(("attn.c_attn", &[8, 4])));
        for own in [rotary, gated, grouped] {
            let is_told = |reason: &str| reason.contains("model_args names no class");
            assert!(matches!(&own, Measured::NotMeasured(reason) if is_told(reason.as_ref())), "{own:?}");
        }
        let lost = [
            of_nano_gpt(|name| name.contains("h.1.mlp.c_fc").then_some(GONE)),
            of_nano_gpt(|name| name.contains("h.1.mlp.c_fc").then_some(("mlp.w1", &[16, 4]))),
            of_nano_gpt(|name| name.contains("c_fc").then_some(GONE)),
            of_nano_gpt(|name| name.contains("ln_f").then_some(GONE)),
        ];
        for lost in lost {
            assert!(matches!(&lost, Measured::Value(found) if !found.missing.is_empty()), "{lost:?}");
        }
        let cut = of_nano_gpt(|name| name.contains("h.1.attn.c_attn").then_some(("attn.c_attn", &[8, 4])));
        assert!(matches!(&cut, Measured::Value(found) if found.reshaped.len() == 1), "{cut:?}");
    }

    #[test]
    fn names_of_another_writer_are_not_compared() {
        let renamed = |(name, shape): (String, Vec<usize>)| {
            (name.replace("mlp.", "ffn.").replace("self_attn.", "attention."), shape)
        };
        let renamed: Shapes = llama(6, "").into_iter().map(renamed).collect();
        assert_eq!(
            reason(&renamed, &llama_config(6)),
            "42 of 57 parameters of llama have other names, or are not there"
        );
    }

    #[test]
    fn the_names_of_another_architecture_are_those_of_another_model() {
        let gpt2 = json!({
            "model_type": "gpt2", "n_layer": 2, "n_embd": 4, "n_head": 2, "vocab_size": 10, "n_positions": 8,
        });
        let found = compared(&llama(6, ""), &gpt2);
        assert_eq!((found.missing.len() as u64, &*found.architecture), (found.parameters, "gpt2"));
    }

    #[test]
    fn a_writer_that_joins_matrices_has_fewer_tensors_of_as_many_elements() {
        let is_apart = |name: &str| {
            ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"].iter().any(|part| name.contains(part))
        };
        let mut joined: Shapes = llama(6, "").into_iter().filter(|(name, _)| !is_apart(name)).collect();
        for layer in 0..6 {
            joined.push((format!("model.layers.{layer}.self_attn.qkv_proj.weight"), vec![8, 4]));
            joined.push((format!("model.layers.{layer}.mlp.gate_up_proj.weight"), vec![12, 4]));
        }
        assert!(reason(&joined, &llama_config(6)).starts_with("30 of 57 "));
    }

    #[test]
    fn a_tensor_beside_those_of_a_block_is_told_behind_wrappers_too() {
        for wrapper in ["", "module.", "_orig_mod.", "module._orig_mod."] {
            let mut shapes = llama(2, wrapper);
            let extra = format!("{wrapper}model.layers.1.extra.weight");
            shapes.push((extra.clone(), vec![4, 4]));
            let found = compared(&shapes, &llama_config(2));
            assert_eq!((found.missing.len(), found.unexpected), (0, vec![extra]), "{wrapper}");
        }
    }

    #[test]
    fn what_stands_instead_of_a_missing_parameter_is_told_behind_wrappers_too() {
        let renamed =
            |(name, shape): (String, Vec<usize>)| (name.replace("1.input_layernorm", "1.norm"), shape);
        let shapes: Shapes = llama(2, "module.").into_iter().map(renamed).collect();
        let found = compared(&shapes, &llama_config(2));
        assert_eq!(found.missing, ["model.layers.1.input_layernorm.weight"]);
        assert_eq!(found.unexpected, ["module.model.layers.1.norm.weight"]);
    }

    #[test]
    fn a_parameter_that_was_not_gathered_has_another_shape() {
        let mut shapes = llama(2, "");
        let name = "model.layers.1.mlp.up_proj.weight";
        shapes.iter_mut().find(|(stored, _)| stored == name).unwrap().1 = vec![0];
        let found = compared(&shapes, &llama_config(2));
        let expected = ReshapedParameter { name: name.to_owned(), shape: vec![0], expected: vec![6, 4] };
        assert_eq!(found.reshaped, [expected]);
    }

    #[test]
    fn a_head_of_which_any_tensor_is_left_is_a_head() {
        let config = json!({
            "model_type": "bert", "architectures": ["BertForMaskedLM"], "num_hidden_layers": 1, "hidden_size": 4,
            "num_attention_heads": 2, "intermediate_size": 6, "vocab_size": 10, "max_position_embeddings": 8,
        });
        let mut trunk: Shapes = vec![
            ("bert.embeddings.word_embeddings.weight".to_owned(), vec![10, 4]),
            ("bert.embeddings.position_embeddings.weight".to_owned(), vec![8, 4]),
            ("bert.embeddings.token_type_embeddings.weight".to_owned(), vec![2, 4]),
        ];
        let layer = "bert.encoder.layer.0";
        let mut linear = |name: &str, outputs: usize, inputs: usize| {
            trunk.push((format!("{name}.weight"), vec![outputs, inputs]));
            trunk.push((format!("{name}.bias"), vec![outputs]));
        };
        for name in
            ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
        {
            linear(&format!("{layer}.{name}"), 4, 4);
        }
        linear(&format!("{layer}.intermediate.dense"), 6, 4);
        linear(&format!("{layer}.output.dense"), 4, 6);
        for name in ["bert.embeddings", &format!("{layer}.attention.output"), &format!("{layer}.output")] {
            for leaf in ["weight", "bias"] {
                trunk.push((format!("{name}.LayerNorm.{leaf}"), vec![4]));
            }
        }
        let head: Shapes = [
            ("transform.dense.weight", vec![4, 4]),
            ("transform.dense.bias", vec![4]),
            ("transform.LayerNorm.weight", vec![4]),
            ("transform.LayerNorm.bias", vec![4]),
            ("bias", vec![10]),
        ]
        .map(|(name, shape)| (format!("cls.predictions.{name}"), shape))
        .to_vec();
        let missing = |head: &[(String, Vec<usize>)]| {
            let mut shapes = trunk.clone();
            shapes.extend_from_slice(head);
            compared(&shapes, &config).missing
        };
        assert!(missing(&[]).is_empty(), "a head may be missing as a whole");
        assert!(missing(&head).is_empty());
        for lost in 0..head.len() {
            let mut rest = head.clone();
            let (name, _) = rest.remove(lost);
            assert_eq!(missing(&rest), [name]);
        }
    }

    #[test]
    fn a_size_that_is_none_is_told_with_its_key() {
        for (key, value) in
            [("num_hidden_layers", json!(-1)), ("vocab_size", json!(1u64 << 63)), ("hidden_size", json!(0))]
        {
            let mut config = llama_config(2);
            config[key] = value;
            let expected = format!("config.json is not usable: a positive size is needed (key {key})");
            assert_eq!(reason(&llama(2, ""), &config), expected);
        }
    }

    #[test]
    fn tensors_beside_a_large_network_cost_time_in_proportion() {
        let mut shapes = llama(3000, "");
        shapes.extend((0..60_000).map(|index| (format!("beside.{index}"), vec![1])));
        let checkpoint = saved(&shapes, &llama_config(3000));
        let started = Instant::now();
        let Measured::Value(found) = compare(&checkpoint) else { panic!("it is compared") };
        assert_eq!((found.parameters, found.missing.len()), (27_003, 0));
        // All pairs would be 1.6·10⁹ comparisons of names.
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    }
}
