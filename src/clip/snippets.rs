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

/// Clipping the global norm to `threshold`.
pub fn global_norm(threshold: f64) -> Vec<Snippet> {
    let value = short(threshold);
    vec![
        Snippet::new("PyTorch", format!("torch.nn.utils.clip_grad_norm_(model.parameters(), {value})")),
        Snippet::new("Hugging Face Trainer", format!("TrainingArguments(max_grad_norm={value})")),
        Snippet::new("Lightning", format!("Trainer(gradient_clip_val={value})")),
        Snippet::new("DeepSpeed", format!("\"gradient_clipping\": {value}")),
        Snippet::new("Megatron-LM", format!("--clip-grad {value}")),
        Snippet::new("optax", format!("optax.chain(optax.clip_by_global_norm({value}), optimizer)")),
        Snippet::new("Keras", format!("keras.optimizers.Adam(global_clipnorm={value})")),
    ]
}

/// ZClip without a fixed norm: a threshold that follows the norms.
pub fn relative() -> Vec<Snippet> {
    vec![Snippet::new(
        "PyTorch",
        "zclip = ZClip(max_grad_norm=None)  # pip install zclip; zclip.step(model) before the optimizer's",
    )]
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

/// Clipping some tensors on their own, the others not.
pub fn per_tensor(thresholds: &[(&str, f64)]) -> Vec<Snippet> {
    let line = |(name, threshold): &(&str, f64)| {
        let value = short(*threshold);
        Snippet::new(
            "PyTorch",
            format!(
                "clip_grad_norm_([p for n, p in model.named_parameters() if n.startswith(\"{name}\")], {value})"
            ),
        )
    };
    thresholds.iter().map(line).collect()
}
