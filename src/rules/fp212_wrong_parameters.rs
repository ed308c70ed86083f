//! Parameters that the network of the config has and the checkpoint lacks, has in another shape, or has beside them.

use super::config_sizes::Config;
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Thresholds};
use crate::analysis::model::{ArchitectureMatch, CheckpointAnalysis, Layout, Measured, Section};
use crate::number::counted;

pub(super) static RULE: Rule = Rule {
    code: "FP212",
    name: "wrong-parameters",
    summary: "the checkpoint lacks a parameter of the network that its config describes, or has it in another shape",
    page: include_str!("../../docs/rules/FP212-wrong-parameters.md"),
    severity: Severity::Critical,
    confidence: Confidence::Exact,
    needs: Needs::CONFIG,
    thresholds: &[],
    check: Check::Checkpoint(check),
};

/// So many names are given.
const NAMED: usize = 3;

fn check(checkpoint: &CheckpointAnalysis, _: &Thresholds, findings: &mut Findings) {
    tell_wrapped(checkpoint, findings);
    let found = match &checkpoint.architecture {
        Measured::Value(found) => found,
        Measured::NotMeasured(reason) => {
            return findings.not_evaluated(Subject::Checkpoint, reason.clone());
        }
        Measured::Degenerate(_) => return,
    };
    tell_missing(found, findings);
    tell_reshaped(found, findings);
    tell_turned(checkpoint, found, findings);
    if found.missing.is_empty() {
        tell_unexpected(found, findings);
    }
}

const ADVICE: &str = "a loader refuses it, or leaves at random what it does not find (`strict=False`, `ignore_mismatched_sizes`): take the checkpoint that was written with this config, or write it again";

fn tell_missing(found: &ArchitectureMatch, findings: &mut Findings) {
    if found.missing.is_empty() {
        return;
    }
    let beside = match found.unexpected.as_slice() {
        [] => String::new(),
        names => format!("; it has instead, and {} has not: {}", found.architecture, listed(names)),
    };
    let message = format!(
        "{} of {} parameters of {} by its config {} missing: {}{beside}",
        found.missing.len(),
        found.parameters,
        found.architecture,
        if found.missing.len() == 1 { "is" } else { "are" },
        listed(&found.missing),
    );
    let finding = findings.push(Subject::Checkpoint, message, ADVICE);
    finding.against("missing parameters", found.missing.len() as f64, 0.0, "tensors");
}

fn tell_reshaped(found: &ArchitectureMatch, findings: &mut Findings) {
    let Some(first) = found.reshaped.first() else { return };
    let others = match found.reshaped.len() - 1 {
        0 => String::new(),
        more => format!(", and {more} more of {} have another shape", found.parameters),
    };
    let message = format!(
        "{} has the shape {:?}, and {} by its config has {:?}{others}",
        first.name, first.shape, found.architecture, first.expected,
    );
    let finding = findings.push(Subject::Tensor(first.name.clone()), message, ADVICE);
    finding.against("parameters of another shape", found.reshaped.len() as f64, 0.0, "tensors");
}

/// Names that a wrapper around the model, or around a part of it, gave, in a directory that transformers reads. It takes off nothing, does not find those
/// parameters, and goes on with them at random.
fn tell_wrapped(checkpoint: &CheckpointAnalysis, findings: &mut Findings) {
    if !is_read_by_transformers(checkpoint) {
        return;
    }
    let parameters = || checkpoint.tensors.iter().filter(|tensor| tensor.section == Section::Model);
    let wrapped: Vec<String> =
        parameters().filter(|tensor| tensor.is_wrapped()).map(|tensor| tensor.name.clone()).collect();
    if wrapped.is_empty() {
        return;
    }
    let message = format!(
        "{} of {} have the names of a wrapped model, which from_pretrained does not take apart: {}",
        wrapped.len(),
        counted(parameters().count() as u64, "tensor"),
        listed(&wrapped),
    );
    let advice = "it does not find them, and leaves what they are at random: save the model inside the wrapper, or write the file again without the wrapper's part of the names; a loader of your own that takes it off reads it as it is";
    let finding = findings.push(Subject::Checkpoint, message, advice);
    finding.against("wrapped names", wrapped.len() as f64, 0.0, "tensors");
}

/// Whether its config has a model type, and a file the name that `from_pretrained` looks for: `model.safetensors`, `model.fp16-00001-of-00002.safetensors`.
fn is_read_by_transformers(checkpoint: &CheckpointAnalysis) -> bool {
    let has_type = checkpoint.config.value().is_some_and(|config| !Config(config).model_type().is_empty());
    has_type && checkpoint.files.iter().any(|file| is_pretrained(&file.name))
}

fn is_pretrained(name: &str) -> bool {
    let stem = name.strip_suffix(".safetensors").and_then(|stem| stem.strip_prefix("model"));
    let stem = stem.or_else(|| name.strip_suffix(".bin").and_then(|stem| stem.strip_prefix("pytorch_model")));
    let Some(variant_and_shard) = stem else { return false };
    let (variant, shard) = variant_and_shard.split_once('-').unwrap_or((variant_and_shard, ""));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_shard = shard.split_once("-of-").is_some_and(|(own, all)| is_number(own) && is_number(all));
    (variant.is_empty() || variant.starts_with('.')) && (is_shard || !variant_and_shard.contains('-'))
}

/// GPT-2's matrices all output first, as PyTorch's own layers store them, beside a config that names the class of transformers, whose layers
/// store them input first. Where they are not all alike, those that differ were told as reshaped.
fn tell_turned(checkpoint: &CheckpointAnalysis, found: &ArchitectureMatch, findings: &mut Findings) {
    let is_turned =
        found.architecture == "gpt2" && found.reshaped.is_empty() && has_turned_attention(checkpoint);
    let Some(class) = class(checkpoint).filter(|class| is_turned && class.starts_with("GPT2")) else {
        return;
    };
    let message = format!(
        "all matrices stand output first, and those of {}, which its config names, stand input first",
        class.escape_debug()
    );
    let advice = "transformers refuses them: load them with the code that trained them, or transpose the matrices of attention and MLP";
    findings.push(Subject::Checkpoint, message, advice).severity(Severity::Warning);
}

/// What the config calls its class; a model's arguments as nanoGPT keeps them name none.
fn class(checkpoint: &CheckpointAnalysis) -> Option<&str> {
    let Measured::Value(config) = &checkpoint.config else { return None };
    let named = config.get("architectures")?.get(0)?.as_str();
    named.filter(|_| checkpoint.layout != Layout::NanoGpt)
}

/// Queries, keys and values of one matrix are never square.
fn has_turned_attention(checkpoint: &CheckpointAnalysis) -> bool {
    checkpoint.tensors.iter().any(|tensor| {
        tensor.section == Section::Model
            && tensor.canonical_name.ends_with("attn.c_attn.weight")
            && matches!(*tensor.shape.as_slice(), [outputs, inputs] if inputs > 0 && inputs.checked_mul(3) == Some(outputs))
    })
}

fn tell_unexpected(found: &ArchitectureMatch, findings: &mut Findings) {
    let Some(first) = found.unexpected.first() else { return };
    let message = format!(
        "{} in the blocks that {} by its config does not have: {}",
        counted(found.unexpected.len() as u64, "tensor"),
        found.architecture,
        listed(&found.unexpected),
    );
    let advice = "a loader leaves them out: load the weights with the config they were made with";
    let finding = findings.push(Subject::Tensor(first.clone()), message, advice).severity(Severity::Warning);
    finding.against("tensors that the network has not", found.unexpected.len() as f64, 0.0, "tensors");
}

fn listed(names: &[String]) -> String {
    let named: Vec<_> = names.iter().take(NAMED).map(|name| name.escape_debug().to_string()).collect();
    let more = if names.len() > NAMED { ", …" } else { "" };
    format!("{}{more}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::analysis::model::{ReshapedParameter, Role};
    use crate::rules::test_support::{checkpoint, file, judge, tensor};

    fn beside_a_config(edit: impl FnOnce(&mut ArchitectureMatch)) -> CheckpointAnalysis {
        let mut found = ArchitectureMatch {
            architecture: "gpt2".to_owned(),
            parameters: 40,
            missing: Vec::new(),
            reshaped: Vec::new(),
            unexpected: Vec::new(),
        };
        edit(&mut found);
        let mut saved = checkpoint(Vec::new()).with_config(json!({"model_type": "gpt2"}));
        saved.architecture = Measured::Value(found);
        saved
    }

    #[test]
    fn a_checkpoint_of_its_config_is_silent() {
        assert!(judge(&RULE, &beside_a_config(|_| ())).is_clean());
    }

    #[test]
    fn names_of_a_wrapped_model_are_critical_where_transformers_reads_them() {
        let named = |names: &[&str], file_name: &str, config: Value| {
            let linear = |name: &&str| tensor(name, Role::Linear, &[8, 8]);
            let mut saved = checkpoint(names.iter().map(linear).collect());
            saved.files.push(file(file_name, 0));
            judge(&RULE, &saved.with_config(config)).told()
        };
        let (gemma, own) = (|| json!({"model_type": "gemma"}), json!({"width": 8}));
        let critical = [(Severity::Critical, "checkpoint".to_owned())];
        for wrapped in [
            ["_orig_mod.a.weight", "_orig_mod.b.weight"],
            ["module.a.weight", "b.weight"],
            ["layers.0._fsdp_wrapped_module.a.weight", "b.weight"],
            ["layers.0._checkpoint_wrapped_module.a.weight", "b.weight"],
        ] {
            assert_eq!(named(&wrapped, "model.safetensors", gemma()), critical, "{wrapped:?}");
        }
        let wrapped = ["_orig_mod.a.weight"];
        assert!(named(&["stages.0.module.a.weight"], "model.safetensors", gemma()).is_empty(), "LeViT");
        assert!(named(&wrapped, "model.safetensors", own).is_empty(), "transformers does not read it");
        let files = |names: &[&str]| {
            names.iter().map(|name| named(&wrapped, name, gemma()).len()).collect::<Vec<_>>()
        };
        let read = [
            "pytorch_model.bin",
            "model-00001-of-00002.safetensors",
            "model.fp16.safetensors",
            "model.fp16-00001-of-00002.safetensors",
        ];
        assert_eq!(files(&read), [1; 4]);
        assert_eq!(files(&["ckpt.pt", "model-ema.safetensors", "model.pt", "models.safetensors"]), [0; 4]);
    }

    #[test]
    fn a_renamed_parameter_is_one_critical_finding_with_both_names() {
        let found = judge(
            &RULE,
            &beside_a_config(|found| {
                found.missing = vec!["h.1.ln_1.weight".to_owned()];
                found.unexpected = vec!["h.1.norm.weight".to_owned()];
            }),
        );
        assert_eq!(found.told(), [(Severity::Critical, "checkpoint".to_owned())]);
        let message = "1 of 40 parameters of gpt2 by its config is missing: h.1.ln_1.weight; it has instead, and gpt2 has not: h.1.norm.weight";
        assert_eq!(found.found[0].message, message);
    }

    #[test]
    fn another_shape_is_critical_and_so_is_none() {
        let reshaped = |shape: &[u64]| {
            let (name, shape, expected) = ("h.1.w".to_owned(), shape.to_vec(), vec![4, 8]);
            judge(
                &RULE,
                &beside_a_config(|found| found.reshaped = vec![ReshapedParameter { name, shape, expected }]),
            )
        };
        assert_eq!(reshaped(&[8, 4]).told(), [(Severity::Critical, "h.1.w".to_owned())]);
        assert_eq!(
            reshaped(&[8, 4]).found[0].message,
            "h.1.w has the shape [8, 4], and gpt2 by its config has [4, 8]"
        );
        // As a save leaves a parameter that is partitioned over processes and was not gathered.
        for shape in [&[0][..], &[0, 8]] {
            assert_eq!(reshaped(shape).told(), [(Severity::Critical, "h.1.w".to_owned())]);
        }
    }

    #[test]
    fn what_stands_beside_a_whole_network_is_a_warning() {
        let found = judge(
            &RULE,
            &beside_a_config(|found| {
                found.unexpected = ["a", "b", "c", "d"].map(|name| format!("h.0.{name}")).to_vec();
            }),
        );
        assert_eq!(found.told(), [(Severity::Warning, "h.0.a".to_owned())]);
        let message = "4 tensors in the blocks that gpt2 by its config does not have: h.0.a, h.0.b, h.0.c, …";
        assert_eq!(found.found[0].message, message);
    }

    #[test]
    fn one_tensor_beside_a_whole_network_is_told_in_the_singular() {
        let found = judge(&RULE, &beside_a_config(|found| found.unexpected = vec!["h.0.extra".to_owned()]));
        let message = "1 tensor in the blocks that gpt2 by its config does not have: h.0.extra";
        assert_eq!(found.found[0].message, message);
    }

    #[test]
    fn a_gpt2_that_stands_output_first_is_a_warning_where_the_config_names_the_class_of_transformers() {
        let saved = |shape: [u64; 2], config, layout| {
            let mut saved = beside_a_config(|_| ());
            saved.tensors = vec![tensor("transformer.h.0.attn.c_attn.weight", Role::Other, &shape)];
            saved.layout = layout;
            judge(&RULE, &saved.with_config(config))
        };
        let named = json!({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]});
        let found = saved([144, 48], named.clone(), Layout::SingleFile);
        assert_eq!(found.told(), [(Severity::Warning, "checkpoint".to_owned())]);
        let message = "all matrices stand output first, and those of GPT2LMHeadModel, which its config names, stand input first";
        assert_eq!(found.found[0].message, message);
        assert!(saved([48, 144], named.clone(), Layout::SingleFile).is_clean(), "as transformers stores it");
        assert!(saved([144, 48], named, Layout::NanoGpt).is_clean(), "nanoGPT's own file");
        for config in [json!({"model_type": "gpt2"}), json!({"model_type": "gpt2", "architectures": ["GPT"]})]
        {
            assert!(saved([144, 48], config, Layout::SingleFile).is_clean(), "nobody says transformers");
        }
    }

    #[test]
    fn an_architecture_that_is_not_built_is_not_evaluated() {
        let mut saved = beside_a_config(|_| ());
        saved.architecture = Measured::not("model_type = \"t5\" in config.json is not built");
        assert_eq!(judge(&RULE, &saved).not_evaluated.len(), 1);
    }
}
