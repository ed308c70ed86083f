//! What to do, in order: go back, change what caused it, watch what would have shown it.

use super::facts::{Facts, median};
use super::healthy::Healthy;
use super::mechanism::{self, Case};
use super::onset::{LEVEL_POINTS, Onset, Sign};
use super::recovery::{self, Recovery};
use super::{Action, Mechanism, Places, Snippet, jump, quoted};
use crate::analysis::model::Layout;
use crate::number::{counted, short};

/// Clipping threshold over the median gradient norm of the healthy steps, where they are too few for the recommender, which bounds
/// it by 1.05 and 3 (section 2.4).
const CLIP_OVER_MEDIAN: f64 = 2.0;

/// Factor by which a learning rate that was too high is lowered at first: to a third, the step of a usual sweep.
const LOWER_RATE: f64 = 1.0 / 3.0;

/// Norms that a clipping threshold is taken from, before the onset.
const NORM_POINTS: usize = 200;

/// Batches around the onset that are skipped, where one batch was at fault.
const SKIPPED: u64 = 1;

/// What to do about `case`, in a run that lies at `places`.
pub(super) fn recommend(
    facts: Facts,
    case: &Case,
    healthy: Option<&Healthy>,
    places: &Places,
) -> Vec<Action> {
    let mut actions = Vec::new();
    if is_of_the_start(case) {
        actions.push(Action {
            what: "start again: no checkpoint of this run is without it".to_owned(),
            snippets: Vec::new(),
        });
    } else if let Some(recovery) = recovered(facts, case) {
        actions.extend(go_on(facts, recovery));
    } else if let Some(healthy) = healthy {
        actions.push(resume(facts, healthy, places));
    } else {
        actions.push(Action {
            what: "start again: no clean checkpoint from before it is kept".to_owned(),
            snippets: Vec::new(),
        });
    }
    actions.extend(remedy(facts, case));
    actions
}

/// The recovery from a spike that the run has behind it: other causes are still there when the loss has come back.
pub(super) fn recovered(facts: Facts, case: &Case) -> Option<Recovery> {
    let step = case.onset.filter(|_| case.mechanism == Mechanism::GradientSpike && !is_of_the_start(case))?;
    recovery::from(facts, step)
}

/// The recovery from gradients that stood out, or from a loss that rose, where nothing shows why they did. Of a loss that left its level the noise is no
/// excuse: it has to end no higher at all.
pub(super) fn recovered_without_a_cause(facts: Facts, onset: Option<&Onset>) -> Option<Recovery> {
    let onset = onset?;
    let recovery = recovery::from(facts, onset.step)?;
    match onset.sign {
        Sign::GradientNorm(_) => Some(recovery),
        Sign::Loss(_) => Some(recovery).filter(|recovery| recovery.is_beyond_doubt()),
        _ => None,
    }
}

/// To go on, from moments that the spike is no more in.
fn go_on(facts: Facts, recovery: Recovery) -> Vec<Action> {
    let came_back = format!(
        "the loss came back by itself, from {} before to {} at the end",
        short(recovery.before),
        short(recovery.end)
    );
    let newest = facts.checkpoints().next_back().map(|(_, one)| one.name.as_str());
    let poisoned =
        facts.findings("FP312").into_iter().filter(|found| Some(found.checkpoint.as_str()) == newest).count();
    if poisoned == 0 {
        return vec![say(&format!("nothing has to be gone back to: {came_back}"))];
    }
    let whose = counted(poisoned as u64, "parameter");
    vec![
        say(&format!("go on from the newest checkpoint, but not with its moments as they are: {came_back}")),
        say(&format!(
            "reset m, v and step of the {whose} of FP312 together, and warm up again: the spike is still in the second moments, and keeps the steps short"
        )),
    ]
}

/// What to do where something went wrong, and what is kept does not show what.
pub(super) fn without_a_cause(
    facts: Facts,
    onset: Option<&Onset>,
    healthy: Option<&Healthy>,
    places: &Places,
) -> Vec<Action> {
    let recovery = recovered_without_a_cause(facts, onset).map(|recovery| go_on(facts, recovery));
    let back = || healthy.map(|healthy| vec![resume(facts, healthy, places)]);
    let mut actions: Vec<Action> = recovery.or_else(back).unwrap_or_default();
    if let Some(jump) = onset.and_then(|onset| jump::at(facts, onset.step)) {
        actions.push(say(&format!(
            "look at what step {} and those after it were fed, beside the steps before: labels, their order, scaling, another epoch or shard; at whether the loss is the same; and, where the run was resumed there, at what was loaded",
            jump.step
        )));
    }
    actions.push(say(
        "go on with gradient dumps every few steps and checkpoints closer together: the next one will show its cause",
    ));
    actions
}

/// Whether every checkpoint already has what was wrong from the first step on.
fn is_of_the_start(case: &Case) -> bool {
    let initial =
        matches!(case.mechanism, Mechanism::InitGain | Mechanism::ZeroInit | Mechanism::RecurrentGain);
    initial || case.onset == Some(0)
}

fn resume(facts: Facts, healthy: &Healthy, places: &Places) -> Action {
    let name = healthy.name.as_str();
    let layout = facts.analysis.checkpoints.iter().find(|one| one.name == healthy.name).map(|one| one.layout);
    let path = places.checkpoints.get(&healthy.step).map_or(name, String::as_str);
    let literal = quoted::python(path);
    let line = match layout {
        Some(Layout::RunDirectory) => {
            let run = places.run.as_deref().map_or_else(|| "RUN".to_owned(), quoted::shell);
            ("flashpoint", format!("flashpoint resume {run} --from {}", healthy.step))
        }
        Some(Layout::Lightning) => ("Lightning", format!("trainer.fit(model, ckpt_path={literal})")),
        Some(Layout::HfTrainer) => {
            ("Hugging Face Trainer", format!("trainer.train(resume_from_checkpoint={literal})"))
        }
        Some(Layout::Accelerate) => ("accelerate", format!("accelerator.load_state({literal})")),
        Some(Layout::ModelDirectory | Layout::Sharded) => {
            ("transformers", format!("AutoModel.from_pretrained({literal})"))
        }
        Some(Layout::SingleFile) if path.ends_with(".safetensors") => {
            ("PyTorch", format!("state = safetensors.torch.load_file({literal})"))
        }
        // Its class comes with it: only a program that knows it can load the module.
        Some(Layout::SavedModule) => {
            ("PyTorch", format!("model = torch.load({literal}, weights_only=False)"))
        }
        Some(Layout::SingleFile | Layout::NanoGpt | Layout::Timm | Layout::TrainingDict) | None => {
            ("PyTorch", format!("state = torch.load({literal}, weights_only=True)"))
        }
    };
    Action { what: format!("go back to {name} (step {})", healthy.step), snippets: snippets([line]) }
}

/// What to change.
fn remedy(facts: Facts, case: &Case) -> Vec<Action> {
    let tensor = case.tensor.as_deref();
    let of = tensor.map_or_else(String::new, |tensor| format!(" of {tensor}"));
    match case.mechanism {
        Mechanism::GradientSpike => {
            let mut actions: Vec<Action> = clip(facts, case).into_iter().collect();
            actions.extend(skip(case));
            actions
        }
        Mechanism::LearningRate => {
            let mut actions = vec![lower_rate(facts, case)];
            actions.extend(clip(facts, case));
            actions
        }
        Mechanism::NoWarmup => vec![warm_up()],
        Mechanism::RecurrentGain => {
            let mut actions = vec![plain(
                &format!("initialise the recurrence{of} orthogonally (gain 1)"),
                "PyTorch",
                "torch.nn.init.orthogonal_(rnn.weight_hh_l0)",
            )];
            actions.extend(clip(facts, case));
            actions
        }
        Mechanism::InitGain => {
            let what = tensor.unwrap_or("it");
            vec![say(&format!("initialise {what} at the width of the other matrices"))]
        }
        Mechanism::ZeroInit => {
            vec![say("initialise at least one of two consecutive maps with other than zeros")]
        }
        Mechanism::AttentionLogits => vec![
            say("normalise queries and keys (QK-norm), or train them at the learning rate of the others"),
            plain("or cap the logits while training", "Megatron-LM", "--qk-clip --qk-clip-threshold 100"),
        ],
        Mechanism::OutputLogits => vec![plain(
            "train the output layer at the learning rate of the others, and hold its logits by a z-loss",
            "PyTorch",
            "loss = loss + 1e-4 * logits.logsumexp(-1).pow(2).mean()",
        )],
        Mechanism::SecondMomentDecoupled => vec![
            beta2(),
            say("or clip the update: divide the step by max(1, RMS(g²/v)), as StableAdamW does"),
        ],
        Mechanism::Epsilon => vec![say(if tensor.is_none() {
            "lower epsilon to 1e-8 or below, or scale the loss up"
        } else {
            "raise epsilon to 1e-8, or mask the rows that have no gradient"
        })],
        Mechanism::StateLost => vec![say(
            "unless it was meant, resume with the optimizer's whole state; where it is lost, reset moments and step counter together and warm the learning rate up again",
        )],
        Mechanism::LowPrecisionState if mechanism::broken_by_a_step(facts).is_some() => vec![plain(
            "keep weights and moments in f32 and only compute in half precision: in f16 an epsilon of 1e-8 is 0, and so is the second moment of a small gradient",
            "PyTorch",
            "with torch.autocast(\"cuda\", dtype=torch.float16): loss = model(batch)  # no model.half()",
        )],
        Mechanism::LowPrecisionState => {
            vec![say("keep second moments in f32, or lower beta2 to 0.99 or below"), beta2()]
        }
        Mechanism::Fp16Overflow => vec![
            say(
                "look at what is fed from the onset on: inputs that are not normalised, a sum where a mean was meant",
            ),
            plain(
                "train in bfloat16, which has the range of f32",
                "Hugging Face Trainer",
                "TrainingArguments(bf16=True, fp16=False)",
            ),
        ],
        Mechanism::NonFinite => {
            let mut actions = vec![plain(
                "stop at the first gradient that is not finite instead of applying it",
                "PyTorch",
                "torch.nn.utils.clip_grad_norm_(model.parameters(), float(\"inf\"), error_if_nonfinite=True)",
            )];
            actions.extend(skip(case));
            actions
        }
        Mechanism::DeadUnits => {
            let biases = tensor.unwrap_or("the biases");
            vec![say(&format!(
                "use an activation with a gradient everywhere (GELU, leaky ReLU), and look at what pushes {biases} down"
            ))]
        }
        Mechanism::WeightDecay => vec![lower_decay(facts)],
        Mechanism::Frozen => vec![say(if tensor.is_none() {
            "look at the schedule: the learning rate is 0"
        } else {
            "look at requires_grad and at the optimizer's groups after the resume"
        })],
        Mechanism::AccumulationChange if case.onset == Some(0) => vec![plain(
            "set the gradients back to zero after every step of the optimizer",
            "PyTorch",
            "optimizer.zero_grad()  # before each backward, or before the first of several micro-batches",
        )],
        Mechanism::AccumulationChange => vec![say(
            "divide the loss by the number of micro-batches again, or scale clipping threshold and learning rate with it",
        )],
        Mechanism::ScheduleBreak => vec![say(
            "restore the scheduler with the optimizer, and look at the learning rate of the first resumed step",
        )],
        Mechanism::ReplicaDrift => vec![say(&format!(
            "broadcast weights and moments{of} from one rank, and look at which gradients are not averaged"
        ))],
        Mechanism::None | Mechanism::Unknown => Vec::new(),
    }
}

/// A clipping threshold from the run's own norms before the onset: the recommender's, or, where they are too few for it, twice
/// their median. Norms that were logged after clipping give none.
fn clip(facts: Facts, case: &Case) -> Option<Action> {
    let log = facts.analysis.log.as_ref()?;
    if log.semantics.before_clipping == Some(false) {
        return None;
    }
    let onset = case.onset?;
    let mut series = crate::clip::collect(facts.analysis);
    series.points.retain(|point| point.step < onset);
    let (threshold, basis) = if let Ok(fit) = crate::clip::fit(&series, log.warmup_end) {
        let [from, to] = fit.steps;
        let multiple = short(fit.multiple.value);
        let basis = format!("{multiple} times its median at step {to} (by steps {from} to {to})");
        (fit.threshold.value, basis)
    } else {
        let norms = series.points.iter().rev().map(|point| point.norm).take(NORM_POINTS);
        let usual = median(norms)?;
        (CLIP_OVER_MEDIAN * usual, format!("twice its median of {} before the onset", short(usual)))
    };
    if let Some(used) = log.semantics.clip_threshold.filter(|used| *used <= threshold) {
        return Some(say(&format!(
            "go on clipping the gradient norm at {}: that is no looser than {}, {basis}",
            short(used),
            short(threshold)
        )));
    }
    let norms: Vec<f64> = series.points.iter().map(|point| point.norm).collect();
    let further_back =
        highest_level(&norms).filter(|level| *level > threshold).map_or_else(String::new, |level| {
            format!(
                "; norms before that were up to {}: further back take the rule of flashpoint clip",
                short(level)
            )
        });
    Some(Action {
        what: format!("clip the gradient norm at {}, {basis}{further_back}", short(threshold)),
        snippets: crate::clip::global_norm_snippets(threshold),
    })
}

/// The highest level that norms had for [`LEVEL_POINTS`] steps.
fn highest_level(norms: &[f64]) -> Option<f64> {
    norms.chunks_exact(LEVEL_POINTS).filter_map(|some| median(some.iter().copied())).reduce(f64::max)
}

fn lower_rate(facts: Facts, case: &Case) -> Action {
    let until = case.onset.unwrap_or(u64::MAX);
    let peak = facts.learning_rates().peak(until);
    if let Some(tensor) = &case.tensor {
        return say(&format!("train {tensor} at the learning rate of the others"));
    }
    if peak <= 0.0 {
        return say("lower the learning rate to a third, and warm it up over more steps");
    }
    let rate = short(LOWER_RATE * peak);
    let lines = [
        ("Hugging Face Trainer", format!("TrainingArguments(learning_rate={rate})")),
        ("Megatron-LM", format!("--lr {rate} --override-opt_param-scheduler")),
        ("DeepSpeed", format!("\"optimizer\": {{\"params\": {{\"lr\": {rate}}}}}")),
        ("PyTorch", format!("for group in optimizer.param_groups: group[\"lr\"] = {rate}")),
    ];
    Action {
        what: format!(
            "{}, and look that it takes: a resume restores the saved one",
            mechanism::lowered(facts, until, peak, &rate)
        ),
        snippets: snippets(lines),
    }
}

fn lower_decay(facts: Facts) -> Action {
    let Some((decay, rate)) = mechanism::largest_decay(facts) else {
        return say("lower the weight decay");
    };
    let usual = short(mechanism::USUAL_DECAY);
    let lines = [
        ("Hugging Face Trainer", format!("TrainingArguments(weight_decay={usual})")),
        ("Megatron-LM", format!("--weight-decay {usual}")),
        ("DeepSpeed", format!("\"optimizer\": {{\"params\": {{\"weight_decay\": {usual}}}}}")),
        ("PyTorch", format!("for group in optimizer.param_groups: group[\"weight_decay\"] = {usual}")),
    ];
    Action {
        what: format!(
            "lower the weight decay from {} to {usual} or less: every step takes off it times the learning rate, {} of each weight",
            short(decay),
            short(decay * rate)
        ),
        snippets: snippets(lines),
    }
}

fn warm_up() -> Action {
    let lines = [
        ("Hugging Face Trainer", "TrainingArguments(warmup_steps=2000)"),
        ("Megatron-LM", "--lr-warmup-iters 2000"),
        ("PyTorch", "LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 2000))"),
    ];
    Action {
        what: "warm the learning rate up over 2/(1-beta2) steps, 2000 for beta2 = 0.999".to_owned(),
        snippets: snippets(lines),
    }
}

fn beta2() -> Action {
    let lines = [
        ("Hugging Face Trainer", "TrainingArguments(adam_beta2=0.95)"),
        ("Megatron-LM", "--adam-beta2 0.95"),
        ("DeepSpeed", "\"betas\": [0.9, 0.95]"),
        ("PyTorch", "torch.optim.AdamW(parameters, betas=(0.9, 0.95))"),
    ];
    Action {
        what: "lower beta2, so that the second moment follows within tens of steps".to_owned(),
        snippets: snippets(lines),
    }
}

/// The batches to look at, and to skip where replaying them fails again.
fn skip(case: &Case) -> Option<Action> {
    let [from, to] = case.interval?;
    let first = if to - from <= SKIPPED { to } else { from + 1 };
    let last = case.last.unwrap_or(to);
    let steps = if first == last { format!("step {first}") } else { format!("steps {first} to {last}") };
    let text = format!("--skip-train-iteration-range {first}-{last}");
    Some(Action {
        what: format!(
            "look at the batches of {steps}; skip them where a replay from the same state fails again"
        ),
        snippets: vec![Snippet::new("Megatron-DeepSpeed", text)],
    })
}

fn snippets<T: Into<String>>(lines: impl IntoIterator<Item = (&'static str, T)>) -> Vec<Snippet> {
    lines.into_iter().map(|(place, text)| Snippet::new(place, text)).collect()
}

fn say(what: &str) -> Action {
    Action { what: what.to_owned(), snippets: Vec::new() }
}

fn plain(what: &str, place: &str, text: &str) -> Action {
    Action { what: what.to_owned(), snippets: vec![Snippet::new(place, text.to_owned())] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Measured;
    use crate::rules::Assessment;
    use crate::rules::test_support::{checkpoint, run_of};

    /// The line that goes back to `state.pt` of step 40, where the run lies at `run`.
    fn line(layout: Layout, run: Option<&str>) -> String {
        let mut analysis = run_of(0, Vec::new);
        let mut one = checkpoint(Vec::new());
        (one.name, one.layout, one.step) = ("state.pt".to_owned(), layout, Measured::Value(40));
        analysis.checkpoints = vec![one];
        let facts = Facts { analysis: &analysis, assessment: &Assessment::default() };
        let healthy = Healthy { name: "state.pt".to_owned(), step: 40, wanted: None, is_near: false };
        let checkpoints = run.map(|run| (40, format!("{run}/state.pt"))).into_iter().collect();
        let places = Places { run: run.map(str::to_owned), checkpoints };
        resume(facts, &healthy, &places).snippets[0].text.clone()
    }

    #[test]
    fn lines_that_go_back_work_from_where_the_command_was_given() {
        let load = r#"state = torch.load("my \"run\"/state.pt", weights_only=True)"#;
        assert_eq!(line(Layout::TrainingDict, Some("my \"run\"")), load);
        let fit = r#"trainer.fit(model, ckpt_path="../runs/a/state.pt")"#;
        assert_eq!(line(Layout::Lightning, Some("../runs/a")), fit);
        assert_eq!(line(Layout::RunDirectory, Some("my run")), "flashpoint resume 'my run' --from 40");
    }

    #[test]
    fn a_level_is_that_of_many_norms_and_no_spike() {
        let mut norms = vec![0.3; 60];
        norms[20] = 50.0;
        assert_eq!(highest_level(&norms), Some(0.3));
        norms[..15].fill(2.0);
        assert_eq!(highest_level(&norms), Some(2.0));
        assert_eq!(highest_level(&norms[..14]), None);
    }

    #[test]
    fn what_lies_nowhere_that_is_known_is_called_by_its_name() {
        assert_eq!(line(Layout::RunDirectory, None), "flashpoint resume RUN --from 40");
        assert_eq!(line(Layout::TrainingDict, None), r#"state = torch.load("state.pt", weights_only=True)"#);
    }
}
