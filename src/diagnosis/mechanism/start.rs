//! What a run began with: maps that are zero, too wide, or a recurrence that grows.

use super::{CONCLUSIVE, Case, STRONG, SUPPORTING, fast};
use crate::analysis::model::{CheckpointAnalysis, Role, TensorAnalysis};
use crate::diagnosis::Mechanism;
use crate::diagnosis::facts::{Facts, is_matrix, median, rms};
use crate::diagnosis::onset::{Onset, Sign};
use crate::diagnosis::suspects::geometry;
use crate::number::short;
use crate::rules::Confidence;

/// RMS over that of the other matrices, whichever way these are initialised, from which one is too wide. Xavier, He,
/// LeCun, torch's default and GPT-2's scaled projections lie within a factor of √6 of each other.
const WIDE: f64 = 4.0;

/// Gain σ_w² = fan-in · RMS² above which a recurrence with tanh leaves its linear regime (Pascanu 2013: spectral radius
/// above 1); for ReLU it is 2. An orthogonal matrix has exactly 1.
const CRITICAL_GAIN: f64 = 1.2;

/// Gain at which ten steps grow a hundredfold, whatever the activation passes on (FP203's limit for recurrences).
const EXPLOSIVE_GAIN: f64 = 4.0;

/// First logged gradient norm over the median of those after it from which gradients exploded at the start: at most 9 in healthy runs
/// of the zoo, and 220 in the mildest of its ReLU recurrences with a gain above 2.
const EXPLODED: f64 = 100.0;

/// Norms after the first without which it is not known what is usual.
const FEWEST_NORMS: usize = 16;

/// Share of the run, or steps, within which the first checkpoint still shows what the run began with.
const EARLY_STEPS: u64 = 100;

/// The first checkpoint, where it is early enough to show what the run began with.
fn first(facts: Facts<'_>) -> Option<(u64, &CheckpointAnalysis)> {
    facts.checkpoints().next().filter(|(step, _)| *step <= EARLY_STEPS)
}

/// Consecutive maps of zeros: neither ever gets a gradient.
pub(super) fn zero_init(facts: Facts, _: Option<&Onset>) -> Option<Case> {
    let finding = facts.findings("FP201").into_iter().next()?;
    let (step, checkpoint) = facts.checkpoints().next()?;
    let told =
        facts.assessment.findings.iter().any(|own| own.rule == "FP201" && own.checkpoint == checkpoint.name);
    let case = Case::of(Mechanism::ZeroInit)
        .with_confidence(Confidence::Exact)
        .in_tensor(facts.tensor_of(finding))
        .because(CONCLUSIVE, finding.message.clone());
    Some(if told {
        case.since_the_start(step)
    } else {
        let since = finding.step.unwrap_or(step);
        case.at(since, [step, since]).although(STRONG, "the first checkpoint does not show it")
    })
}

/// One map far wider than the others from the start.
pub(super) fn init_gain(facts: Facts, _: Option<&Onset>) -> Option<Case> {
    let (step, checkpoint) = first(facts)?;
    let judged =
        checkpoint.tensors.iter().filter(|tensor| is_matrix(tensor) && tensor.role != Role::RecurrentHidden);
    // The first factor of an adapter is as wide as its own small fan-in asks, beside a second one of zeros.
    let judged = judged.filter(|tensor| !tensor.role.is_adapter() && !is_standard_normal(tensor));
    let wide = judged.filter_map(|tensor| Some((tensor, geometry(checkpoint, &tensor.canonical_name)?)));
    let (tensor, ratio) = wide.max_by(|a, b| a.1.total_cmp(&b.1)).filter(|(_, ratio)| *ratio >= WIDE)?;
    let case = Case::of(Mechanism::InitGain)
        .with_confidence(Confidence::Calibrated)
        .in_tensor(Some(tensor.canonical_name.clone()))
        .since_the_start(step)
        .because(
            STRONG,
            format!(
                "at step {step} {} already was {} times as wide as the other matrices",
                tensor.canonical_name,
                short(ratio)
            ),
        )
        .number("RMS over that of the other matrices", ratio, Some(WIDE), "1");
    let told =
        facts.findings("FP203").iter().any(|own| facts.tensor_of(own).as_ref() == case.tensor.as_ref());
    let case = if told {
        case.because(SUPPORTING, "its gain stands out among the maps of its role (FP203)")
    } else {
        case
    };
    let case = if step == 0 { case.because(SUPPORTING, "no step had been taken yet") } else { case };
    let rated = fast::parameters(facts)
        .is_some_and(|fast| fast.matrices.iter().any(|own| own.name == tensor.canonical_name));
    let case = if rated && step > 0 {
        case.although(STRONG, "it is trained by a learning rate of its own: by then it had grown")
    } else {
        case
    };
    // What grew from a usual size is not what the run began with.
    Some(match grown(facts, tensor) {
        Some(growth) if growth > 2.0 && step > 0 => case.although(
            SUPPORTING,
            format!("it went on growing, by {} times until the last checkpoint", short(growth)),
        ),
        _ => case,
    })
}

/// Whether a tensor is an embedding as torch draws it, with a standard deviation of 1 whatever the others have.
fn is_standard_normal(tensor: &TensorAnalysis) -> bool {
    let is_embedding = matches!(tensor.role, Role::TokenEmbedding | Role::PositionEmbedding | Role::Other);
    // `positions.weight` and the like are no names of frameworks, so that their role is not told from linear maps'.
    let is_called_so =
        tensor.canonical_name.split('.').any(|part| part.starts_with("pos") || part.starts_with("emb"));
    (is_embedding || is_called_so) && rms(tensor).is_some_and(|rms| (0.8..=1.25).contains(&rms))
}

/// RMS at the last checkpoint over that at the first.
fn grown(facts: Facts, tensor: &TensorAnalysis) -> Option<f64> {
    let of = |one: &CheckpointAnalysis| {
        rms(one.tensors.iter().find(|own| own.canonical_name == tensor.canonical_name)?)
    };
    let (_, last) = facts.checkpoints().next_back()?;
    Some(of(last)? / rms(tensor)?)
}

/// A recurrence that multiplies what it carries at every step of time.
pub(super) fn recurrent_gain(facts: Facts, onset: Option<&Onset>) -> Option<Case> {
    let (step, checkpoint) = first(facts)?;
    let (tensor, gain) = widest_recurrence(checkpoint)?;
    let radius = spectral_radius(tensor);
    if radius.map_or(gain, |radius| gain.max(radius * radius)) <= CRITICAL_GAIN {
        return None;
    }
    let case = Case::of(Mechanism::RecurrentGain)
        .with_confidence(Confidence::Calibrated)
        .in_tensor(Some(tensor.canonical_name.clone()))
        .since_the_start(step)
        .number("gain sigma_w^2 of the recurrence", gain, Some(CRITICAL_GAIN), "1");
    let what =
        format!("at step {step} the recurrence {} had the gain {}", tensor.canonical_name, short(gain));
    let case = if gain >= EXPLOSIVE_GAIN {
        case.because(
            STRONG + SUPPORTING,
            format!("{what}: ten steps of time can grow more than a hundredfold"),
        )
    } else if gain > CRITICAL_GAIN {
        case.because(SUPPORTING, format!("{what}, above the critical 1"))
    } else {
        case
    };
    let case = match radius {
        Some(radius) if radius > 1.0 => case
            .because(
                SUPPORTING,
                format!(
                    "where nothing saturates, what it carries grows {}-fold a step (its spectral radius)",
                    short(radius)
                ),
            )
            .number("spectral radius of the recurrence", radius, Some(1.0), "1"),
        Some(radius) if radius < 1.0 => case.although(
            SUPPORTING,
            format!("its spectral radius is {}: what it carries dies out in the end", short(radius)),
        ),
        _ => case,
    };
    Some(match (onset, exploded_at_first(facts)) {
        (Some(onset), _) if !matches!(onset.sign, Sign::LossScale) => {
            case.because(SUPPORTING, "the run failed, as gradients through such a recurrence explode")
        }
        (_, Some((step, ratio))) => case.because(
            SUPPORTING,
            format!(
                "at step {step} the gradient norm was {} times what it was later: gradients through it exploded until training had tamed it",
                short(ratio)
            ),
        ),
        _ => case,
    })
}

/// The first logged step, and its gradient norm over the usual one later, where it is that of an explosion. No window of norms says so:
/// each begins among them.
fn exploded_at_first(facts: Facts) -> Option<(u64, f64)> {
    let mut norms = facts.points().iter().filter_map(|point| Some((point.step, point.grad_norm?.finite()?)));
    let (step, first) = norms.next().filter(|(step, _)| *step <= EARLY_STEPS)?;
    let later: Vec<f64> = norms.map(|(_, norm)| norm).collect();
    let usual = median(later.iter().copied()).filter(|&usual| usual > 0.0)?;
    (later.len() >= FEWEST_NORMS && first >= EXPLODED * usual).then_some((step, first / usual))
}

/// The layer of a recurrence that began with an explosive gain.
pub(super) fn explosive_recurrence(facts: Facts<'_>) -> Option<&str> {
    let (_, checkpoint) = first(facts)?;
    let (tensor, gain) = widest_recurrence(checkpoint)?;
    (gain >= EXPLOSIVE_GAIN).then_some(tensor.layer.path.as_str())
}

/// The recurrence with the largest gain, and that gain.
fn widest_recurrence(checkpoint: &CheckpointAnalysis) -> Option<(&TensorAnalysis, f64)> {
    let recurrences =
        checkpoint.tensors.iter().filter(|tensor| is_matrix(tensor) && is_plain_recurrence(tensor));
    recurrences.filter_map(|tensor| Some((tensor, gain(tensor)?))).max_by(|a, b| a.1.total_cmp(&b.1))
}

/// Of one gate: a square matrix. The gates of LSTM and GRU hold theirs together.
fn is_plain_recurrence(tensor: &TensorAnalysis) -> bool {
    tensor.role == Role::RecurrentHidden && tensor.shape.len() == 2 && tensor.shape[0] == tensor.shape[1]
}

/// Largest |eigenvalue|, where spectra were measured.
fn spectral_radius(tensor: &TensorAnalysis) -> Option<f64> {
    tensor.spectrum.value()?.spectral_radius.value().copied()
}

fn gain(tensor: &TensorAnalysis) -> Option<f64> {
    let rms = rms(tensor)?;
    Some(*tensor.shape.get(1)? as f64 * rms * rms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{LogAnalysis, LogPoint, Number};
    use crate::diagnosis::diagnose;
    use crate::rules::Assessment;
    use crate::rules::test_support::{checkpoint, run_of, tensor};

    /// What is told of a recurrence of 64 units with this gain, whose gradient norm falls from `first` to 0.5 in ten steps and whose loss
    /// falls all the time.
    fn told(gain: f64, first: f64) -> (Mechanism, Option<u64>) {
        let mut run = run_of(0, Vec::new);
        let hidden = tensor("rnn.weight_hh_l0", Role::RecurrentHidden, &[64, 64]);
        run.checkpoints = vec![checkpoint(vec![hidden.filled((gain / 64.0).sqrt())]).at_step(0)];
        let norm = |step: u64| 0.5 * (first / 0.5).powf(1.0 - (step - 1).min(10) as f64 / 10.0);
        let points = (1..=100).map(|step| LogPoint {
            step,
            loss: Some(Number((-(step as f64) / 50.0).exp())),
            grad_norm: Some(Number(norm(step))),
            ..LogPoint::default()
        });
        run.log = Some(LogAnalysis { points: points.collect(), ..LogAnalysis::default() });
        let told = diagnose(&run, &Assessment::default());
        (told.mechanism, told.onset_step)
    }

    #[test]
    fn gradients_that_explode_at_first_tell_of_a_recurrence_above_critical() {
        assert_eq!(told(3.4, 120.0), (Mechanism::RecurrentGain, Some(0)));
        // One whose gradients are usual from the start takes that gain, and one below critical explodes nothing.
        assert_eq!(told(3.4, 4.5), (Mechanism::None, None));
        assert_eq!(told(1.0, 120.0), (Mechanism::None, None));
    }
}
