//! Lines of configuration that clip, for each framework: the one home of them.

use serde::{Deserialize, Serialize};

use super::method::{CLIPPED_SHARE, MOST_POWER, MOST_REACH, POWER_RATE, RollingMedian};
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

/// Clipping by a multiple of the median of the last norms, which begin at `median`, whose power follows the share that is clipped. A norm that is
/// not finite is not remembered, and its gradients are dropped, so that the optimizer has none to step with. The Trainer calls
/// `on_pre_optimizer_step` behind its own clipping, which an infinite `max_grad_norm` keeps to unscaling.
pub fn rolling_median(rule: RollingMedian, median: f64) -> Vec<Snippet> {
    let (multiple, usual, window) = (short(rule.multiple), short(median), rule.window);
    let most = rule.max_norm.map_or_else(|| "math.inf".to_owned(), short);
    let begin = format!(
        "import math; from collections import deque; from statistics import median; recent, power = deque([{usual}] * {window}, maxlen={window}), [1.0]"
    );
    let of_norm = format!(
        "def max_norm(norm): multiple, usual = {multiple} ** power[0], median(recent); limit = min(multiple * usual, {most}); power[0] = min(max(power[0] + {POWER_RATE} * ((norm > limit) - {CLIPPED_SHARE}), 0), {MOST_POWER}); norm > 0 and recent.append(min(norm, limit)); return min(math.sqrt(limit * min(norm, limit * min(multiple, {MOST_REACH}))), {most}) if norm > limit else limit"
    );
    let clip = "def clip(model): norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), math.inf)); torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm(norm)) if math.isfinite(norm) else model.zero_grad(set_to_none=True)";
    let step = format!(
        "clip(model)  # before optimizer.step(), {UNSCALED}; on one device or under DDP: elsewhere a gradient is in parts"
    );
    let trainer = "class RollingMedian(transformers.TrainerCallback): on_pre_optimizer_step = lambda self, args, state, control, model, **_: clip(model)  # with PyTorch's first three lines, TrainingArguments(max_grad_norm=math.inf) and callbacks=[RollingMedian()]; not under FSDP or DeepSpeed";
    let lightning = "def configure_gradient_clipping(self, *_, **__): clip(self)  # in the LightningModule, with PyTorch's first three lines; not under FSDP or DeepSpeed";
    vec![
        Snippet::new("PyTorch", begin),
        Snippet::new("PyTorch", of_norm),
        Snippet::new("PyTorch", clip),
        Snippet::new("PyTorch", step),
        Snippet::new("Hugging Face Trainer", trainer),
        Snippet::new("Lightning", lightning),
    ]
}

/// AutoClip at percentile 10 of all norms so far (Seetharaman et al. 2020). A norm that is not finite is no step, and is not remembered:
/// one among the norms would make every percentile after it NaN, and with it the weights.
pub fn auto_clip() -> Vec<Snippet> {
    [
        "import math, numpy  # and, before the first step, norms = []".to_owned(),
        format!("norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), math.inf))  # {UNSCALED}"),
        "if math.isfinite(norm): norms.append(norm); torch.nn.utils.clip_grad_norm_(model.parameters(), numpy.percentile(norms, 10)); optimizer.step()".to_owned(),
    ]
    .map(|line| Snippet::new("PyTorch", line))
    .to_vec()
}

/// Clipping some tensors on their own, the others not. A name is that of a parameter, or of the layer that holds some.
pub fn per_tensor(thresholds: &[(&str, f64)]) -> Vec<Snippet> {
    let line = |(name, threshold): &(&str, f64)| {
        let (own, value) = (quoted(&format!(".{}.", unwrapped(name))), short(*threshold));
        // Whole parts of a name: layers.1 is not layers.10. Wrappers put their own parts between and before, as a LightningModule does.
        let bare = r#""." + "".join(f"{part}." for part in n.split(".") if part[0] != "_")"#;
        Snippet::new(
            "PyTorch",
            format!(
                "torch.nn.utils.clip_grad_norm_([p for n, p in model.named_parameters() if {own} in {bare}], {value})"
            ),
        )
    };
    thresholds.iter().map(line).collect()
}

/// A name without the parts that wrappers put into it: `torch.compile`, FSDP and others begin theirs with an underscore, DDP's stands first.
fn unwrapped(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').filter(|part| !part.starts_with('_')).collect();
    parts.join(".").trim_start_matches("module.").to_owned()
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
    use super::super::method::Method;
    use super::*;

    /// By hand: a quote, a backslash and a line's end are escaped, wrappers' parts are no part of a name.
    #[test]
    fn names_are_strings_of_python_and_end_where_a_part_ends() {
        let lines =
            per_tensor(&[("module.layers.1", 0.5), ("a\")],1);evil(\"\\\n", 2.0), ("h._orig_mod.w", 1.0)]);
        let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
        assert!(texts[0].contains(r#"if ".layers.1." in "." + "#), "{}", texts[0]);
        assert!(texts[1].contains(r#"if ".a\")],1);evil(\"\\\x0a." in "#), "{}", texts[1]);
        assert!(texts[2].contains(r#"if ".h.w." in "#), "{}", texts[2]);
        assert!(texts.iter().all(|text| text.starts_with("torch.nn.utils.clip_grad_norm_(")));
    }

    /// The printed lines, run by Python on norms with zeros, spikes and a drift, give the limits of the method that they are printed for.
    #[test]
    fn the_lines_of_the_rule_limit_what_the_rule_limits() {
        let rule = RollingMedian { multiple: 1.5, max_norm: Some(8.0), ..RollingMedian::default() };
        let noise = crate::random::Stream::new(17, 3).normals(2000);
        let norm = |(at, normal): (usize, &f64)| match at % 97 {
            13 => 0.0,
            29 | 30 => 40.0,
            _ => (0.4 * normal + (at as f64 / 300.0).sin()).exp(),
        };
        let norms: Vec<f64> = noise.iter().enumerate().map(norm).collect();
        let mut clipper = Method::RollingMedian(rule).start();
        // Ten norms of 1, of which five were held against a limit and not clipped: the lines begin with the same ten, and this power.
        for _ in 0..10 {
            clipper.threshold(1.0);
        }
        let power = 1.0 - 5.0 * POWER_RATE * CLIPPED_SHARE;
        let lines = rolling_median(rule, 1.0);
        let script = format!(
            "{}\n{}\npower[0] = {power}\nfor norm in {norms:?}: print(repr(max_norm(norm)))",
            lines[0].text, lines[1].text
        );
        let Ok(run) = std::process::Command::new("python3").args(["-c", &script]).output() else {
            println!("SKIPPED: there is no python3 to run the lines");
            return;
        };
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let printed = String::from_utf8(run.stdout).expect("numbers");
        let printed: Vec<f64> = printed.lines().map(|line| line.parse().expect("a number")).collect();
        assert_eq!(printed.len(), norms.len());
        for (norm, found) in norms.iter().zip(printed) {
            let expected = clipper.threshold(*norm).expect("a norm is enough");
            assert!((found - expected).abs() <= 1e-9 * expected, "{norm}: {found}, not {expected}");
        }
    }

    /// A norm that is not finite gets neither into what a method remembers nor into the weights.
    #[test]
    fn what_follows_norms_looks_whether_they_are_finite_first() {
        let text_of = |lines: Vec<Snippet>| {
            let of_torch = lines.into_iter().filter(|line| line.place == "PyTorch").map(|line| line.text);
            of_torch.collect::<Vec<String>>().join("\n")
        };
        let auto_clip = text_of(auto_clip());
        let check = auto_clip.find("if math.isfinite(norm): ").expect("it checks");
        for later in ["norms.append(", "optimizer.step()"] {
            assert!(auto_clip.find(later).is_some_and(|at| at > check), "{auto_clip}");
        }
        let rule = text_of(rolling_median(RollingMedian::default(), 1.0));
        assert!(
            rule.contains("max_norm(norm)) if math.isfinite(norm) else model.zero_grad(set_to_none=True)"),
            "{rule}"
        );
        assert_eq!(
            rule.matches("max_norm(norm)").count(),
            2,
            "where it is defined, and where it is called: {rule}"
        );
        for text in [auto_clip, rule] {
            assert!(text.find("import").expect("it says what of") < text.find(UNSCALED).expect("of AMP too"));
        }
    }
}
