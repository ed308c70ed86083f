//! The stacks of blocks of a model against the numbers of layers that its config says.

use std::collections::{BTreeMap, BTreeSet};

use super::config_ends::{has_known_blocks, lacks_its_end};
use super::config_sizes::{ANOTHER_CONFIG, Config, HIDDEN, LAYERS, LEFT_AT_RANDOM, PARTS, is_whole};
use super::weights::is_in_transformer_block;
use super::{Findings, Severity, Subject};
use crate::analysis::model::CheckpointAnalysis;

const OTHER_LAYERS: [&str; 4] =
    ["encoder_layers", "decoder_layers", "num_decoder_layers", "num_hidden_groups"];
const OF_ENCODER: [&str; 4] = ["encoder_layers", "num_encoder_layers", "num_layers", "num_hidden_layers"];
const OF_DECODER: [&str; 4] = ["decoder_layers", "num_decoder_layers", "num_layers", "num_hidden_layers"];
/// What a stack is called, the last component of its path.
const STACKS: [&str; 5] = ["layers", "layer", "blocks", "block", "h"];

/// Blocks behind the last that predict the tokens after the next.
const PREDICTION_LAYERS: &str = "num_nextn_predict_layers";

/// Keys of configs whose blocks were pruned away one by one: a block of which nothing is left is no loss.
const PRUNED: [&str; 2] = ["block_configs", "no_op"];

/// The numbers of the blocks of each stack, by the path before them.
type Stacks<'a> = BTreeMap<&'a str, BTreeSet<u64>>;

/// Holds every stack that a key of the config is about against it.
pub(super) fn judge(checkpoint: &CheckpointAnalysis, config: &Config<'_>, findings: &mut Findings) {
    let (stacks, are_of_transformer) = stacks(checkpoint);
    let is_pruned =
        config.model_type() == "nemotron-nas" || PRUNED.iter().any(|key| config.0.contains_key(*key));
    let is_whole = is_whole(checkpoint) && !is_pruned;
    let held = Held { checkpoint, config, stacks, are_of_transformer, is_whole };
    let mut told: BTreeSet<&str> = BTreeSet::new();
    for part in PARTS {
        let Some((key, declared)) = config.size_of_part(part, &LAYERS) else { continue };
        let extra = config.size_of_part(part, &[PREDICTION_LAYERS]).map_or(0, |(_, extra)| extra);
        let promise = Promise { key: &key, declared, extra, part: Some(part) };
        for (stack, blocks) in held.stacks.iter().filter(|(stack, _)| is_of_part(stack, part)) {
            if !held.keep(&promise, blocks) {
                held.tell(stack, blocks, &promise, findings);
                told.insert(stack);
            }
        }
    }
    if config.flag("is_encoder_decoder") == Some(true) {
        for (side, keys) in [("encoder", OF_ENCODER), ("decoder", OF_DECODER)] {
            let Some((key, declared)) = config.size(&keys) else { continue };
            let promise = Promise { key, declared, extra: 0, part: None };
            let of_side = || held.stacks.iter().filter(|(stack, _)| is_of_side(stack, side, &held.stacks));
            for (stack, blocks) in of_side().filter(|(_, blocks)| !held.keep(&promise, blocks)) {
                held.tell(stack, blocks, &promise, findings);
                told.insert(stack);
            }
            if of_side().next().is_none() && (held.stacks.is_empty() || has_both_sides(config)) {
                held.tell_none(key, declared, findings);
            }
        }
    } else if config.divided().is_none() && config.size(&HIDDEN).is_some() {
        // What stands beside the configs of the parts is about none of them.
        told.extend(held.judge_deepest(findings));
    }
    for (stack, blocks) in held.stacks.iter().filter(|(stack, _)| !told.contains(*stack)) {
        held.judge_gap(stack, blocks, findings);
    }
}

/// How many blocks a config says that a stack has.
struct Promise<'a> {
    key: &'a str,
    declared: u64,
    /// Prediction layers behind the last, which may be there or not.
    extra: u64,
    /// The part that has a config of its own.
    part: Option<&'a str>,
}

impl Promise<'_> {
    /// As many as the stack should have: with the prediction layers, where it goes on to the last of them.
    fn blocks(&self, blocks: &BTreeSet<u64>) -> u64 {
        let all = self.declared.saturating_add(self.extra);
        if has_ends(blocks, all) { all } else { self.declared }
    }
}

fn has_gap(blocks: &BTreeSet<u64>) -> bool {
    let ends = blocks.first().zip(blocks.last());
    ends.is_some_and(|(first, last)| last - first >= blocks.len() as u64)
}

/// Whether the numbers of three blocks or more are evenly apart, as those of layers with activations between them are.
fn are_even(blocks: &BTreeSet<u64>) -> bool {
    let numbers: Vec<u64> = blocks.iter().copied().collect();
    numbers.len() > 2 && numbers.windows(3).all(|three| three[1] - three[0] == three[2] - three[1])
}

/// The stacks of a checkpoint and the config that they are held against.
struct Held<'a> {
    checkpoint: &'a CheckpointAnalysis,
    config: &'a Config<'a>,
    stacks: Stacks<'a>,
    /// Whether they are told by the blocks of a transformer in them, and not by what they are called.
    are_of_transformer: bool,
    is_whole: bool,
}

impl Held<'_> {
    /// Whether a stack has as many blocks as was promised, and is no transformer's with a gap between them.
    fn keep(&self, promise: &Promise<'_>, blocks: &BTreeSet<u64>) -> bool {
        let counts = [promise.declared, promise.declared.saturating_add(promise.extra)];
        let is_gap = self.are_of_transformer && has_gap(blocks) && !are_even(blocks);
        counts.contains(&(blocks.len() as u64)) && !is_gap
    }

    /// One stack of the declared size is enough: towers beside it count for themselves. Prediction layers behind the last count extra,
    /// a decoder and ALBERT's shared groups have their own keys.
    /// Gives the stack that it told.
    fn judge_deepest(&self, findings: &mut Findings) -> Option<&str> {
        let (key, declared) = self.config.size(&LAYERS)?;
        let extra = self.config.size(&[PREDICTION_LAYERS]).map_or(0, |(_, extra)| extra);
        let promise = Promise { key, declared, extra, part: None };
        let is_other = |blocks: &BTreeSet<u64>| {
            let mut others = OTHER_LAYERS.iter().filter_map(|key| Some(self.config.size(&[key])?.1));
            !has_gap(blocks) && others.any(|other| other == blocks.len() as u64)
        };
        if self.stacks.values().any(|blocks| self.keep(&promise, blocks) || is_other(blocks)) {
            return None;
        }
        let Some((stack, blocks)) = self.stacks.iter().max_by_key(|(_, blocks)| blocks.len()) else {
            self.tell_none(key, declared, findings);
            return None;
        };
        self.tell(stack, blocks, &promise, findings);
        Some(stack)
    }

    /// A gap between the blocks of a transformer that no number of the config is known to count: a tower under a name of its own.
    fn judge_gap(&self, stack: &str, blocks: &BTreeSet<u64>, findings: &mut Findings) {
        let Some(&last) = blocks.last().filter(|_| blocks.first() == Some(&0)) else { return };
        if !self.is_whole || !self.are_of_transformer || !has_gap(blocks) || are_even(blocks) {
            return;
        }
        let numbers = last.saturating_add(1);
        let message = format!("blocks of {stack} are numbered from 0 to {last}{}", without(blocks, numbers));
        let finding = findings.push(Subject::Checkpoint, message, LEFT_AT_RANDOM);
        finding
            .short_of("blocks", blocks.len() as f64, numbers as f64, "blocks")
            .severity(Severity::Critical);
    }

    /// No block under a name that is known: critical in a network whose blocks are known to be numbered.
    fn tell_none(&self, key: &str, declared: u64, findings: &mut Findings) {
        if declared == 0 || !self.is_whole || self.config.recast().is_some() {
            return;
        }
        let kind = self.config.model_type();
        let message = format!(
            "the config says {key} {declared} of {}, and no tensor is called as one of a block",
            kind.escape_debug()
        );
        let finding = findings.push(Subject::Checkpoint, message, LEFT_AT_RANDOM);
        finding.short_of("blocks", 0.0, declared as f64, "blocks");
        if has_known_blocks(self.config) {
            finding.severity(Severity::Critical);
        }
    }

    /// A stack that has another number of blocks than the config says, for the whole or for a part, or a gap between them.
    fn tell(&self, stack: &str, blocks: &BTreeSet<u64>, promise: &Promise<'_>, findings: &mut Findings) {
        let promised = promise.blocks(blocks);
        let is_lost = self.are_lost(stack, blocks, promised, promise.part);
        let within = blocks.range(..promised).count();
        let (found, without) = if (within as u64) < promised && (is_lost || has_gap(blocks)) {
            (within, without(blocks, promised))
        } else {
            (blocks.len(), String::new())
        };
        let and = if promised > promise.declared {
            format!(" and {PREDICTION_LAYERS} {}", promise.extra)
        } else {
            String::new()
        };
        let message = format!(
            "the config says {} {}{and}, blocks of {stack}: {found}{without}",
            promise.key, promise.declared
        );
        let advice = if is_lost { LEFT_AT_RANDOM } else { ANOTHER_CONFIG };
        let finding = findings.push(Subject::Checkpoint, message, advice);
        let (value, limit) = (found as f64, promised as f64);
        if value > limit {
            finding.against("blocks", value, limit, "blocks");
        } else {
            finding.short_of("blocks", value, limit, "blocks");
        }
        if is_lost {
            finding.severity(Severity::Critical);
        }
    }

    /// Where the first and the last block are there and others between are not, blocks were lost: nobody numbers layers so. A stage of a pipeline
    /// or a renamed shard lacks one of the ends: where the last is not there, it is certain only beside what else a whole network has.
    fn are_lost(&self, stack: &str, blocks: &BTreeSet<u64>, promised: u64, part: Option<&str>) -> bool {
        if !self.is_whole {
            return false;
        }
        if has_gap(blocks) {
            return has_ends(blocks, promised);
        }
        let is_short = blocks.first() == Some(&0) && (blocks.len() as u64) < promised;
        is_short && lacks_its_end(self.checkpoint, self.config, part, stack)
    }
}

fn has_ends(blocks: &BTreeSet<u64>, declared: u64) -> bool {
    blocks.first() == Some(&0) && blocks.last().is_some_and(|last| last.saturating_add(1) == declared)
}

/// Whether there is a stack with its first and its last block, so that what stands before and behind the blocks should be there too. Where
/// the config says no number of layers, the first has to do.
pub(super) fn has_stack_with_ends(checkpoint: &CheckpointAnalysis, declared: Option<u64>) -> bool {
    stacks(checkpoint).0.values().any(|blocks| match declared {
        Some(declared) => has_ends(blocks, declared),
        None => blocks.first() == Some(&0),
    })
}

/// So many lost blocks are named.
const NAMED: usize = 3;

/// `, without 2, 3`: the numbers below `promised` that no block has.
fn without(blocks: &BTreeSet<u64>, promised: u64) -> String {
    let missing = (0..promised).filter(|number| !blocks.contains(number)).take(NAMED + 1);
    let missing: Vec<String> = missing.map(|number| number.to_string()).collect();
    let more = if missing.len() > NAMED { ", …" } else { "" };
    format!(", without {}{more}", missing[..missing.len().min(NAMED)].join(", "))
}

/// The stacks of a transformer that have its blocks, and true; in a network without attention and feed-forward, all that are called stacks, and false.
fn stacks(checkpoint: &CheckpointAnalysis) -> (Stacks<'_>, bool) {
    let parameters = || checkpoint.tensors.iter().filter(|tensor| tensor.is_parameter());
    let is_transformer = parameters().any(is_in_transformer_block);
    let (mut stacks, mut with_blocks) = (Stacks::new(), BTreeSet::new());
    for tensor in parameters() {
        let Some(index) = tensor.layer.index else { continue };
        let stack = stack_of(&tensor.layer.path, index);
        stacks.entry(stack).or_default().insert(index);
        if is_in_transformer_block(tensor) || (!is_transformer && last(stack).is_some_and(is_stack)) {
            with_blocks.insert(stack);
        }
    }
    stacks.retain(|stack, _| with_blocks.contains(stack));
    (stacks, is_transformer)
}

fn is_stack(component: &str) -> bool {
    STACKS.contains(&component)
}

fn last(path: &str) -> Option<&str> {
    path.rsplit('.').next()
}

/// Whether a stack is the encoder's or the decoder's own: `model.decoder.layers`, `encoder.block`. What stands before them may be nothing,
/// `model`, or what stands before every stack: another network inside has sides of its own (`t2u_model.model.encoder.layers`).
fn is_of_side(stack: &str, side: &str, stacks: &Stacks<'_>) -> bool {
    let Some((path, name)) = stack.rsplit_once('.') else { return false };
    let Some(before) = path.strip_suffix(side) else { return false };
    let is_of_all = || before.ends_with('.') && stacks.keys().all(|other| other.starts_with(before));
    is_stack(name) && (matches!(before, "" | "model.") || is_of_all())
}

/// Whether the class that the config names has an encoder and a decoder: half of a network is saved under a class of its own (`T5EncoderModel`), or none.
fn has_both_sides(config: &Config<'_>) -> bool {
    let class = config.class();
    !class.is_empty() && !class.contains("Encoder") && !class.contains("Decoder")
}

/// Whether a stack is that of a part: `text_model.encoder.layers`, `model.vision_model.layers`. The text is also that of a `language_model`.
fn is_of_part(stack: &str, part: &str) -> bool {
    let components: Vec<&str> = stack.rsplit('.').collect();
    let is_model = |component: &str| {
        let named = component.strip_suffix("_model").or_else(|| component.strip_suffix("_tower"));
        named == Some(part) || (part == "text" && named == Some("language"))
    };
    match components.as_slice() {
        [name, "encoder" | "model", model, ..] if is_model(model) => is_stack(name),
        [name, model, ..] => is_stack(name) && is_model(model),
        _ => false,
    }
}

/// The path before the component that is the block's number.
fn stack_of(path: &str, index: u64) -> &str {
    let mut end = 0;
    for component in path.split('.') {
        if component.parse() == Ok(index) {
            return path[..end].trim_end_matches('.');
        }
        end += component.len() + 1;
    }
    path
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::analysis::model::{Role, TensorAnalysis};
    use crate::rules::fp209_shape_error::RULE;
    use crate::rules::test_support::{checkpoint, judge, tensor};

    fn stack(path: &str, blocks: impl IntoIterator<Item = u64>) -> Vec<TensorAnalysis> {
        let block = |number: u64| tensor(&format!("{path}.{number}.mlp.fc2.weight"), Role::MlpOut, &[8, 8]);
        blocks.into_iter().map(block).collect()
    }

    fn told(tensors: Vec<TensorAnalysis>, config: Value) -> Vec<(Severity, String)> {
        let found = judge(&RULE, &checkpoint(tensors).with_config(config)).found;
        found.into_iter().map(|finding| (finding.severity, finding.message)).collect()
    }

    #[test]
    fn each_side_of_a_network_of_encoder_and_decoder_is_held_against_its_own_key() {
        let sides = |encoder: u64, decoder: u64| {
            let mut tensors = stack("model.encoder.layers", 0..encoder);
            tensors.extend(stack("model.decoder.layers", 0..decoder));
            let config = json!({"is_encoder_decoder": true, "encoder_layers": 4, "decoder_layers": 2});
            told(tensors, config)
        };
        assert!(sides(4, 2).is_empty());
        let message = "the config says decoder_layers 2, blocks of model.decoder.layers: 4";
        assert_eq!(sides(4, 4), [(Severity::Warning, message.to_owned())]);
        assert_eq!(sides(3, 2).len(), 1);
        // T5 counts the encoder under the key of both.
        let mut t5 = stack("encoder.block", 0..3);
        t5.extend(stack("decoder.block", 0..3));
        let config = json!({"is_encoder_decoder": true, "num_layers": 3, "num_decoder_layers": 3});
        assert!(told(t5.clone(), config.clone()).is_empty());
        t5.pop();
        assert_eq!(told(t5, config).len(), 1);
    }

    #[test]
    fn a_part_is_held_against_its_own_config_and_not_against_the_whole() {
        let config = json!({
            "hidden_size": 8, "num_hidden_layers": 16, "text_config": {"num_hidden_layers": 2},
            "vision_config": {"num_hidden_layers": 3},
        });
        let parts = |text: u64, vision: u64| {
            let mut tensors = stack("text_model.encoder.layers", 0..text);
            tensors.extend(stack("model.vision_model.encoder.layers", 0..vision));
            told(tensors, config.clone())
        };
        assert!(parts(2, 3).is_empty(), "the 16 are of nothing that is there");
        let message = "the config says vision_config.num_hidden_layers 3, blocks of model.vision_model.encoder.layers: 2";
        assert_eq!(parts(2, 2), [(Severity::Warning, message.to_owned())]);
    }

    #[test]
    fn a_gap_in_the_numbers_is_critical_unless_the_file_is_of_a_part_only() {
        let config = json!({"hidden_size": 8, "num_hidden_layers": 6});
        let lost = || stack("model.layers", [0, 1, 3, 4, 5]);
        let message = "the config says num_hidden_layers 6, blocks of model.layers: 5, without 2";
        assert_eq!(told(lost(), config.clone()), [(Severity::Critical, message.to_owned())]);
        let message = "the config says num_hidden_layers 6, blocks of model.layers: 5";
        assert_eq!(
            told(stack("model.layers", 0..5), config.clone()),
            [(Severity::Warning, message.to_owned())]
        );
        let mut adapter = lost();
        adapter.push(tensor("model.layers.0.q.lora_A.weight", Role::LoraA, &[8, 8]));
        assert_eq!(told(adapter, config)[0].0, Severity::Warning);
    }

    #[test]
    fn a_lost_last_block_is_critical_where_the_rest_of_a_known_network_is_there() {
        let config = |kind: &str| json!({"model_type": kind, "hidden_size": 8, "num_hidden_layers": 6});
        let norm = |name: &str| tensor(name, Role::NormGain, &[8]);
        let with = |extra: &[&str], config: Value| {
            let mut tensors = stack("model.layers", 0..5);
            tensors.extend(extra.iter().map(|name| norm(name)));
            told(tensors, config)
        };
        let message = "the config says num_hidden_layers 6, blocks of model.layers: 5, without 5";
        let lost = [(Severity::Critical, message.to_owned())];
        assert_eq!(with(&["model.norm.weight"], config("phi3")), lost);
        let severity = |extra: &[&str], config: Value| with(extra, config)[0].0;
        assert_eq!(severity(&[], config("phi3")), Severity::Warning, "the first stage of a pipeline");
        assert_eq!(severity(&["model.embed_norm.weight"], config("phi3")), Severity::Warning);
        assert_eq!(severity(&["model.norm.weight"], config("zamba")), Severity::Warning, "it shares blocks");
        for (class, expected) in [
            ("Phi3ForCausalLM", Severity::Critical),
            ("Phi3ForSequenceClassification", Severity::Critical),
            ("Phi3ForCausalLMEagle3", Severity::Warning),
            ("EaglePhi3ForCausalLM", Severity::Warning),
        ] {
            let mut named = config("phi3");
            named["architectures"] = json!([class]);
            assert_eq!(severity(&["model.norm.weight"], named), expected, "{class}");
        }
        let mut pruned = config("phi3");
        pruned["no_op"] = json!([]);
        assert_eq!(severity(&["model.norm.weight"], pruned), Severity::Warning);
    }

    #[test]
    fn more_blocks_than_the_config_says_are_a_warning() {
        let config = json!({"model_type": "electra", "hidden_size": 8, "num_hidden_layers": 4});
        let severity = |blocks| told(stack("electra.encoder.layer", 0..blocks), config.clone())[0].0;
        assert_eq!((severity(3), severity(5)), (Severity::Critical, Severity::Warning));
    }

    #[test]
    fn a_gap_is_told_where_prediction_layers_or_a_wrong_number_make_up_for_it() {
        let with = |blocks: &[u64], extra: u64| {
            let config = json!({"hidden_size": 8, "num_hidden_layers": 4, "num_nextn_predict_layers": extra});
            told(stack("model.layers", blocks.iter().copied()), config)
        };
        assert!(with(&[0, 1, 2, 3], 1).is_empty() && with(&[0, 1, 2, 3, 4], 1).is_empty());
        let message = "the config says num_hidden_layers 4 and num_nextn_predict_layers 1, blocks of model.layers: 4, without 3";
        assert_eq!(with(&[0, 1, 2, 4], 1), [(Severity::Critical, message.to_owned())]);
        let message = "the config says num_hidden_layers 4, blocks of model.layers: 3, without 3";
        assert_eq!(with(&[0, 1, 2, 4], 0), [(Severity::Warning, message.to_owned())]);
        let message = "the config says num_hidden_layers 4, blocks of model.layers: 5";
        assert_eq!(with(&[0, 1, 2, 3, 9], 0), [(Severity::Warning, message.to_owned())]);
        assert_eq!(with(&[0, 1, 2], u64::MAX).len(), 1);
    }

    #[test]
    fn a_known_network_without_any_block_is_critical() {
        let junk = |config: Value| told(vec![tensor("foo.bar", Role::Other, &[8, 8])], config);
        let llama = json!({"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 4});
        let message =
            "the config says num_hidden_layers 4 of llama, and no tensor is called as one of a block";
        assert_eq!(junk(llama.clone()), [(Severity::Critical, message.to_owned())]);
        let edited = |key: &str, value: Value| {
            let mut config = llama.clone();
            config[key] = value;
            junk(config)
        };
        for (key, value) in
            [("model_type", json!("zamba")), ("architectures", json!(["LlamaForCausalLMEagle3"]))]
        {
            assert_eq!(edited(key, value)[0].0, Severity::Warning);
        }
        assert!(edited("quantization_config", json!({"quant_method": "gptq"})).is_empty());
    }

    #[test]
    fn a_side_that_is_gone_is_critical_unless_its_class_has_one_side() {
        let sides = |tensors: Vec<TensorAnalysis>, class: &str| {
            let config = json!({
                "model_type": "bart", "architectures": [class], "is_encoder_decoder": true, "encoder_layers": 4, "decoder_layers": 4,
            });
            let found = told(tensors, config);
            found.into_iter().map(|(severity, _)| severity).collect::<Vec<_>>()
        };
        let encoder = || stack("model.encoder.layers", 0..4);
        assert_eq!(sides(encoder(), "BartForConditionalGeneration"), [Severity::Critical]);
        assert!(sides(encoder(), "BartEncoder").is_empty());
        let junk = vec![tensor("foo.bar", Role::Other, &[8, 8])];
        assert_eq!(sides(junk, "BartModel"), [Severity::Critical; 2]);
    }

    #[test]
    fn a_gap_in_a_tower_that_no_number_is_known_to_count_is_critical() {
        let towers = |numbers: &[u64]| {
            let mut tensors = stack("git.encoder.layer", numbers.iter().copied());
            tensors.extend(stack("git.image_encoder.vision_model.encoder.layers", 0..4));
            told(tensors, json!({"vision_config": {"num_hidden_layers": 4}}))
        };
        let message = "blocks of git.encoder.layer are numbered from 0 to 3, without 1";
        assert_eq!(towers(&[0, 2, 3]), [(Severity::Critical, message.to_owned())]);
        assert_eq!(towers(&[0, 2])[0].0, Severity::Critical);
        for whole in [&[0, 1, 2, 3][..], &[0, 2, 4], &[2, 4, 5]] {
            assert!(towers(whole).is_empty(), "{whole:?}");
        }
        let config =
            json!({"text_config": {"num_hidden_layers": 2}, "vision_config": {"num_hidden_layers": 4}});
        assert_eq!(told(stack("vision_tower.encoder.layers", 0..3), config).len(), 1);
    }

    #[test]
    fn layers_that_are_evenly_apart_or_of_no_transformer_have_no_gap() {
        let config = json!({"hidden_size": 8, "num_layers": 3});
        assert!(told(stack("layers", [0, 2, 4]), config.clone()).is_empty());
        let plain = |number: u64| tensor(&format!("layers.{number}.weight"), Role::Linear, &[8, 8]);
        assert!(told([0, 1, 5].map(plain).to_vec(), config.clone()).is_empty());
        assert_eq!(told(stack("layers", [0, 1, 5]), config).len(), 1);
        // A decoder of its own key has no gap either.
        let config = json!({"hidden_size": 8, "num_hidden_layers": 5, "decoder_layers": 4});
        assert_eq!(told(stack("model.layers", [0, 1, 3, 4]), config)[0].0, Severity::Critical);
    }

    #[test]
    fn the_text_of_a_network_of_parts_lost_its_last_block_and_a_tower_may_be_cut() {
        let config = json!({
            "text_config": {"model_type": "llama", "num_hidden_layers": 4},
            "vision_config": {"model_type": "clip_vision_model", "num_hidden_layers": 3},
        });
        let parts = |path: &str, text: u64, vision: u64| {
            let mut tensors = stack(&format!("{path}.layers"), 0..text);
            tensors.push(tensor(&format!("{path}.norm.weight"), Role::NormGain, &[8]));
            tensors.extend(stack("model.vision_model.encoder.layers", 0..vision));
            told(tensors, config.clone())
        };
        for path in ["model.language_model", "language_model.model"] {
            assert!(parts(path, 4, 3).is_empty());
            assert_eq!(parts(path, 3, 3)[0].0, Severity::Critical);
            assert_eq!(parts(path, 4, 2)[0].0, Severity::Warning, "layers behind the one that is read");
        }
    }

    #[test]
    fn a_stage_of_a_pipeline_and_a_pruned_network_are_a_warning() {
        let config = json!({"hidden_size": 8, "num_hidden_layers": 6});
        for blocks in [vec![4, 5], vec![2, 3]] {
            let found = told(stack("model.layers", blocks.clone()), config.clone());
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].0, Severity::Warning, "{blocks:?}");
        }
        for key in ["block_configs", "no_op"] {
            let mut pruned = config.clone();
            pruned[key] = json!([]);
            assert_eq!(told(stack("model.layers", [0, 1, 3, 4, 5]), pruned)[0].0, Severity::Warning);
        }
        let mut named = config;
        named["model_type"] = json!("nemotron-nas");
        assert_eq!(told(stack("model.layers", [0, 1, 3, 4, 5]), named)[0].0, Severity::Warning);
    }

    #[test]
    fn the_sides_of_a_network_inside_are_not_those_of_the_whole() {
        let config = json!({"is_encoder_decoder": true, "encoder_layers": 4, "decoder_layers": 4});
        let inside = |rest: &str| {
            let mut tensors = stack("t2u_model.model.encoder.layers", 0..2);
            tensors.extend(stack(rest, 0..4));
            told(tensors, config.clone())
        };
        assert!(inside("text_encoder.layers").is_empty());
        assert!(inside("model.encoder.layers").is_empty());
        let before_all = |blocks: u64| {
            let mut tensors = stack("module.model.encoder.layers", 0..4);
            tensors.extend(stack("module.model.decoder.layers", 0..blocks));
            told(tensors, config.clone())
        };
        assert!(before_all(4).is_empty());
        assert_eq!(before_all(3).len(), 1);
    }

    #[test]
    fn sizes_beside_the_config_of_another_tower_are_those_of_the_text() {
        let sizes = json!({
            "hidden_size": 8, "num_hidden_layers": 6, "vision_config": {"num_hidden_layers": 3},
        });
        let both = |blocks: &[u64], config: &Value| {
            let mut tensors = stack("llm.model.layers", blocks.iter().copied());
            tensors.extend(stack("vpm.encoder.layers", 0..3));
            told(tensors, config.clone())
        };
        assert!(both(&[0, 1, 2, 3, 4, 5], &sizes).is_empty());
        assert_eq!(both(&[0, 1, 4, 5], &sizes)[0].0, Severity::Critical);
        let mut divided = sizes;
        divided["text_config"] = json!({"hidden_size": 8});
        let message = "blocks of llm.model.layers are numbered from 0 to 5, without 2, 3";
        let found = both(&[0, 1, 4, 5], &divided);
        assert_eq!(found, [(Severity::Critical, message.to_owned())], "the text has a config of its own");
    }

    #[test]
    fn a_network_without_attention_is_counted_by_what_its_stacks_are_called() {
        let mixers = |layers: u64| {
            let mixer = |number| {
                tensor(&format!("backbone.layers.{number}.mixer.in_proj.weight"), Role::Linear, &[8, 8])
            };
            told((0..layers).map(mixer).collect(), json!({"hidden_size": 8, "num_hidden_layers": 3}))
        };
        assert!(mixers(3).is_empty());
        assert_eq!(mixers(2).len(), 1);
    }

    #[test]
    fn a_front_of_convolutions_is_no_stack_of_a_transformer() {
        let mut tensors = stack("encoder.layers", 0..2);
        tensors.extend((0..7).map(|number| {
            let name = format!("feature_extractor.conv_layers.{number}.conv.weight");
            tensor(&name, Role::Convolution, &[8, 8, 3])
        }));
        let message = "the config says num_hidden_layers 3, blocks of encoder.layers: 2";
        let config = json!({"hidden_size": 8, "num_hidden_layers": 3});
        assert_eq!(told(tensors, config), [(Severity::Warning, message.to_owned())]);
    }
}
