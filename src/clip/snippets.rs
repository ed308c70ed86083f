//! Lines of configuration that clip, for each framework: the one home of them.

use serde::{Deserialize, Serialize};

use crate::number::short;

/// Text to copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Snippet {
    /// Where it goes: `shell`, `PyTorch`, `Hugging Face Trainer`, …
    pub place: String,
    /// The text.
    pub text: String,
}

impl Snippet {
    /// `text`, for `place`.
    pub fn new(place: &str, text: impl Into<String>) -> Self {
        Self { place: place.to_owned(), text: text.into() }
    }
}

/// Gradients are unscaled before anything looks at their norm.
const UNSCALED: &str = "after scaler.unscale_(optimizer) under AMP";

/// Clipping the global norm to `threshold`.
pub fn global_norm(threshold: f64) -> Vec<Snippet> {
    let value = short(threshold);
    vec![
        Snippet::new(
            "PyTorch",
            format!("torch.nn.utils.clip_grad_norm_(model.parameters(), {value})  # {UNSCALED}"),
        ),
        Snippet::new("Hugging Face Trainer", format!("TrainingArguments(max_grad_norm={value})")),
        Snippet::new("Lightning", format!("Trainer(gradient_clip_val={value})")),
        Snippet::new("DeepSpeed", format!("\"gradient_clipping\": {value}")),
        Snippet::new("Megatron-LM", format!("--clip-grad {value}")),
        Snippet::new("optax", format!("optax.chain(optax.clip_by_global_norm({value}), optimizer)")),
        Snippet::new("Keras", format!("keras.optimizers.…(…, global_clipnorm={value})")),
    ]
}

/// ZClip without a fixed norm: a threshold that follows the norms. One norm that is not finite would make its mean NaN, after which it
/// clips nothing (zclip 1.0.0).
pub fn relative() -> Vec<Snippet> {
    vec![
        Snippet::new(
            "PyTorch",
            "from zclip import ZClip  # pip install zclip; and, before the first step, zclip = ZClip(max_grad_norm=None)",
        ),
        Snippet::new(
            "PyTorch",
            format!(
                "norm = torch.nn.utils.clip_grad_norm_(model.parameters(), float(\"inf\"))  # {UNSCALED}"
            ),
        ),
        Snippet::new("PyTorch", "if torch.isfinite(norm): zclip.step(model); optimizer.step()"),
        Snippet::new(
            "Lightning",
            "Trainer(callbacks=[ZClipLightningCallback(max_grad_norm=None)])  # from zclip; without that check",
        ),
    ]
}

/// AutoClip at percentile 10 of all norms so far (Seetharaman et al. 2020). A norm that is not finite is no step, and is not remembered:
/// one among the norms would make every percentile after it NaN, and with it the weights.
pub fn auto_clip() -> Vec<Snippet> {
    [
        "import math, numpy  # and, before the first step, norms = []",
        "norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), math.inf))  # after scaler.unscale_(optimizer) under AMP",
        "if math.isfinite(norm): norms.append(norm); torch.nn.utils.clip_grad_norm_(model.parameters(), numpy.percentile(norms, 10)); optimizer.step()",
    ]
    .map(|line| Snippet::new("PyTorch", line))
    .to_vec()
}

/// Clipping some tensors on their own, the others not. A name is that of a parameter, or of the layer that holds some.
pub fn per_tensor(thresholds: &[(&str, f64)]) -> Vec<Snippet> {
    let line = |(name, threshold): &(&str, f64)| {
        let (own, value) = (quoted(&format!("{}.", unwrapped(name))), short(*threshold));
        // Whole parts of a name: layers.1 is not layers.10. Wrappers put their own parts between.
        let bare = r#"f"{n}.".replace("_orig_mod.", "").removeprefix("module.")"#;
        Snippet::new(
            "PyTorch",
            format!(
                "torch.nn.utils.clip_grad_norm_([p for n, p in model.named_parameters() if {bare}.startswith({own})], {value})"
            ),
        )
    };
    thresholds.iter().map(line).collect()
}

/// A name without what `torch.compile` and `DistributedDataParallel` put into it.
fn unwrapped(name: &str) -> String {
    let name = name.replace("_orig_mod.", "");
    name.strip_prefix("module.").map(str::to_owned).unwrap_or(name)
}

/// A string of Python.
fn quoted(text: &str) -> String {
    let escaped = |character: char| match character {
        '"' | '\\' => format!("\\{character}"),
        _ if character.is_control() => format!("\\x{:02x}", u32::from(character)),
        _ => character.to_string(),
    };
    format!("\"{}\"", text.chars().map(escaped).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: a quote, a backslash and a line's end are escaped, wrappers' parts are no part of a name.
    #[test]
    fn names_are_strings_of_python_and_end_where_a_part_ends() {
        let lines =
            per_tensor(&[("module.layers.1", 0.5), ("a\")],1);evil(\"\\\n", 2.0), ("h._orig_mod.w", 1.0)]);
        let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
        assert!(texts[0].contains(r#".startswith("layers.1.")], 0.5000)"#), "{}", texts[0]);
        assert!(texts[1].contains(r#".startswith("a\")],1);evil(\"\\\x0a.")], 2)"#), "{}", texts[1]);
        assert!(texts[2].contains(r#".startswith("h.w.")], 1)"#), "{}", texts[2]);
        assert!(texts.iter().all(|text| text.starts_with("torch.nn.utils.clip_grad_norm_(")));
    }

    /// A norm that is not finite gets neither into what a method remembers nor into the weights.
    #[test]
    fn what_follows_norms_looks_whether_they_are_finite_first() {
        for lines in [relative(), auto_clip()] {
            let of_torch = lines.iter().filter(|line| line.place == "PyTorch");
            let text: Vec<&str> = of_torch.map(|line| line.text.as_str()).collect();
            let text = text.join("\n");
            let check = text.find("isfinite(norm)").expect("it checks");
            assert!(text.find("import").expect("it says what of") < text.find(UNSCALED).expect("of AMP too"));
            for later in ["zclip.step(", "norms.append(", "optimizer.step()"] {
                assert!(text.find(later).is_none_or(|at| at > check), "{later}: {text}");
            }
        }
    }
}
