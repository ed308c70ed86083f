//! What happened, one sentence a line, in the order of time.

use super::facts::{Facts, median};
use super::healthy::Healthy;
use super::mechanism::Case;
use super::onset::{Onset, Sign};
use super::{Mechanism, bracket, jump};
use crate::number::{counted, grouped, short};

/// Points before the onset whose median is what the run was like.
pub(super) const BEFORE_POINTS: usize = 20;

/// The sentences.
pub(super) fn tell(
    facts: Facts,
    step: Option<u64>,
    onset: Option<&Onset>,
    case: Option<&Case>,
    healthy: Option<&Healthy>,
) -> Vec<String> {
    let mut story = Vec::new();
    let Some(step) = step else {
        story.push(seen(facts));
        story.extend(without_a_loss(facts).map(str::to_owned));
        story.push("no sign of a failure was found in it".to_owned());
        return story;
    };
    story.extend(without_a_loss(facts).map(str::to_owned));
    story.extend(before(facts, step));
    if let Some(case) = case {
        story.extend(case.reasons.iter().cloned());
    }
    match onset {
        Some(onset) => story.push(first_sign(onset)),
        None if case.is_none() => story.push(format!("at step {step} the loss has diverged (FP503)")),
        None => {}
    }
    story.extend(after(facts, step));
    if case.is_none() {
        story.push(missing(facts, step));
    }
    if let Some(healthy) = healthy {
        let distance = counted(step.saturating_sub(healthy.step), "step");
        let name = &healthy.name;
        story.push(match healthy.wanted {
            Some(wanted) if !healthy.is_near => format!(
                "the newest checkpoint without a critical finding far enough before is {name}, {distance} earlier: {} are asked for, since {}",
                grouped(wanted.steps),
                wanted.because
            ),
            Some(wanted) if wanted.steps <= step => format!(
                "{name} is the newest clean checkpoint before it, {distance} earlier; {} would be safer, since {}, but none is that old",
                grouped(wanted.steps),
                wanted.because
            ),
            // Of a run that is younger than that, none could be.
            _ => format!("{name} is the newest clean checkpoint before it, {distance} earlier"),
        });
    }
    story
}

/// What there was to look at.
fn seen(facts: Facts) -> String {
    let checkpoints = facts.checkpoints().count();
    let points = facts.points().len();
    match facts.last_step() {
        Some(last) => format!(
            "{} and {} were looked at, up to step {}",
            counted(checkpoints as u64, "checkpoint"),
            counted(points as u64, "logged step"),
            grouped(last)
        ),
        None => "nothing with a known step was there to look at".to_owned(),
    }
}

/// What is not known where no loss was read.
fn without_a_loss(facts: Facts) -> Option<&'static str> {
    let points = facts.points();
    if points.is_empty() {
        return Some("no log was read, so that what the loss did is not known: name one with --log FILE");
    }
    points.iter().all(|point| point.loss.is_none()).then_some(
        "the log gave no loss, so that much of a failure would not show: name its column with --columns loss=NAME",
    )
}

/// What the run was like until then.
fn before(facts: Facts, step: u64) -> Option<String> {
    let points = step.checked_sub(1).map_or(&[][..], |last| facts.points_until(last));
    let recent = &points[points.len().saturating_sub(BEFORE_POINTS)..];
    let loss = median(recent.iter().filter_map(|point| point.loss?.finite()))?;
    let norm = median(recent.iter().filter_map(|point| point.grad_norm?.finite()));
    let norm = norm.map_or_else(String::new, |norm| format!(", the gradient norm about {}", short(norm)));
    Some(format!("until step {} the loss was about {}{norm}", points.last()?.step, short(loss)))
}

fn first_sign(onset: &Onset) -> String {
    let step = onset.step;
    match onset.sign {
        Sign::NonFinite => {
            format!("in the log, step {step} is the first whose loss or gradient is not finite")
        }
        Sign::NonFiniteState => {
            format!("the checkpoint of step {step} is the first that holds NaN or infinity")
        }
        Sign::GradientNorm(ratio) => {
            format!(
                "the log shows it first at step {step}: the gradient norm is {} times its median",
                short(ratio)
            )
        }
        Sign::Loss(ratio) => {
            format!(
                "the log shows it first at step {step}: the loss is {} times its lowest before",
                short(ratio)
            )
        }
        Sign::LossScale => format!("the log shows it first at step {step}: the loss scale comes down"),
    }
}

/// What became of the loss.
fn after(facts: Facts, step: u64) -> Option<String> {
    let later = facts.points_from(step);
    let before = facts.points_until(step.checked_sub(1)?);
    let lowest = before.iter().filter_map(|point| point.loss?.finite()).fold(f64::INFINITY, f64::min);
    if let Some(lost) = later.iter().find(|point| point.loss.is_some_and(|loss| loss.finite().is_none())) {
        return Some(format!("from step {} on the loss was not finite", lost.step));
    }
    let highest = later.iter().filter_map(|point| Some((point.step, point.loss?.finite()?)));
    let (worst, loss) = highest.max_by(|a, b| a.1.total_cmp(&b.1))?;
    let end = later.iter().rev().find_map(|point| point.loss?.finite())?;
    (lowest.is_finite() && loss > 1.2 * lowest).then(|| {
        format!("after it the loss reached {} at step {worst}, and ended at {}", short(loss), short(end))
    })
}

/// What would have to be kept to tell, or what it looks like.
fn missing(facts: Facts, step: u64) -> String {
    if let Some(jump) = jump::at(facts, step) {
        return format!(
            "from step {} to step {step} the loss went from {} at most to {} and did not come back at once, at a learning rate that had not risen and after gradients as usual: as where the data or the loss are others from there on, or what was loaded there is",
            jump.from,
            short(jump.before),
            short(jump.loss)
        );
    }
    let bracket = bracket::of(facts, step);
    match (bracket.before, bracket.after) {
        (Some(before), Some(after)) => format!(
            "what is kept of steps {before} to {after} does not show what it was: keep gradient dumps, or save more often"
        ),
        (Some(before), None) => {
            format!("no checkpoint after step {before} has seen it: keep gradient dumps, or save more often")
        }
        _ => "no checkpoint before it is kept: keep gradient dumps, or save more often".to_owned(),
    }
}

/// The verdict in one line.
pub(super) fn verdict(
    facts: Facts,
    mechanism: Mechanism,
    tensor: Option<&str>,
    step: Option<u64>,
    sign: Option<Sign>,
    came_back: bool,
) -> String {
    let place = tensor.map_or_else(String::new, |tensor| format!(" in {tensor}"));
    match (mechanism, step) {
        (Mechanism::None, _) => "no failure found".to_owned(),
        (Mechanism::Unknown, Some(step)) if came_back => {
            let began = match sign {
                _ if jump::at(facts, step).is_some() => "the loss jumped",
                Some(Sign::Loss(_)) => "the loss rose",
                _ => "gradients stood out",
            };
            format!("{began} at step {step}, the run came back by itself, and what is kept does not show why")
        }
        (Mechanism::Unknown, Some(step)) if jump::at(facts, step).is_some() => format!(
            "the loss jumped at step {step} and stayed up, as where the data change, and what is kept does not show why"
        ),
        (Mechanism::Unknown, Some(step)) => {
            format!("failing from step {step} on, and what is kept does not show why")
        }
        (Mechanism::Unknown, None) => "failing, and what is kept does not show why".to_owned(),
        (_, Some(0)) => format!("{}{place} from the start", mechanism.name()),
        (_, Some(step)) => format!("{}{place} at step {step}", mechanism.name()),
        (_, None) => format!("{}{place}", mechanism.name()),
    }
}
