//! One parameter: its moments are read once, and every quantity is taken from the sums.

use super::history::History;
use super::moment::Moment;
use super::pass::{self, Inputs, Scales, Sums};
use super::place::{Moments, Place};
use super::{bound, gradient, number, signal, spike, steps, update};
use crate::analysis::model::{
    Defects, Degenerate, MappedTensor, Measured, ParameterOptimizer, SecondMomentRows,
};
use crate::analysis::statistics::STOPPED;
use crate::checkpoint::CheckpointTensor;
use crate::checkpoint::optimizer::{Algorithm, ParameterGroup};
use crate::context::Context;
use crate::tensor::{DType, saturating_count};

/// ‖m̂‖² and Σv̂, for sums over parameters; zero where either is not known.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Energies {
    pub first: f64,
    pub second: f64,
}

/// Measures one parameter.
pub(super) fn measure(place: &Place<'_>, context: &Context) -> (ParameterOptimizer, Energies) {
    let unmeasured = |reason: &str| (unmeasured(place, reason), Energies::default());
    let moments = match place.moments() {
        Ok(moments) => moments,
        Err(reason) => return unmeasured(&reason),
    };
    let reading = Reading::new(place, &moments);
    let Moments { first, second, shape } = moments;
    let inputs = reading.inputs(place, first, second, shape);
    context.progress.begin(place.named().map_or("optimizer state", |named| &named.name));
    match pass::run(&inputs, shape, context) {
        Ok(Some(sums)) => reading.finish(place, &inputs, shape, &sums),
        Ok(None) => unmeasured(STOPPED),
        Err(error) => unmeasured(&error.kind.to_string()),
    }
}

/// A parameter of which nothing is known beyond its place, because `reason`.
fn unmeasured(place: &Place<'_>, reason: &str) -> ParameterOptimizer {
    fn not<T>(reason: &str) -> Measured<T> {
        Measured::not(reason.to_owned())
    }
    let moments = place.moments().ok();
    let shape = moments.as_ref().map(|moments| moments.shape.to_vec()).unwrap_or_default();
    let dtype = |index: Option<usize>| {
        place.checkpoint.tensors[index?].tensor.as_ref().ok().map(|tensor| tensor.dtype)
    };
    let state = place.state;
    ParameterOptimizer {
        optimizer: place.optimizer_index as u64,
        group: state.group as u64,
        name: place.name(),
        tensor: place.named().and_then(mapped),
        elements: if moments.is_some() { saturating_count(&shape) } else { 0 },
        shape,
        step: state.step,
        first_moment: dtype(state.exp_avg.or(state.momentum_buffer)),
        second_moment: dtype(state.exp_avg_sq.or(state.square_avg)),
        defects: not(reason),
        bound_ratio: not(reason),
        bound_tolerance: 0.0,
        first_step: not(reason),
        second_moment_sum: not(reason),
        gradient_norm: not(reason),
        gradient_rms: not(reason),
        effective_steps: not(reason),
        signal_fraction: not(reason),
        noise_floor: not(reason),
        signal_share: not(reason),
        update_rms: not(reason),
        update_bound: not(reason),
        update_ratio: not(reason),
        denominator_rms: not(reason),
        below_epsilon: not(reason),
        sign_steps: not(reason),
        rows: not(reason),
        spike: not(reason),
        inflation: not(reason),
        stuck_share: not(reason),
    }
}

fn mapped(named: &CheckpointTensor) -> Option<MappedTensor> {
    let tensor = named.tensor.as_ref().ok()?;
    Some(MappedTensor {
        canonical_name: named.canonical_name.clone(),
        layer: named.layer.clone(),
        role: named.role,
        dtype: tensor.dtype,
    })
}

/// What the hyperparameters make of the moments.
struct Reading {
    history: Result<History, String>,
    /// Dtypes of both moments of Adam.
    dtypes: Option<(DType, DType)>,
    /// Whether they are 8-bit codes.
    is_blockwise: bool,
}

impl Reading {
    fn new(place: &Place<'_>, moments: &Moments<'_>) -> Self {
        let history = match place.optimizer.algorithm {
            Algorithm::RmsProp => root_mean_square(place.group, place.state.step),
            _ if place.optimizer.algorithm.is_adam() => History::of(place.group, place.state.step),
            _ => {
                Err("only Adam and its like keep a second moment that dates and weighs gradients".to_owned())
            }
        };
        let both = moments.first.as_ref().zip(moments.second.as_ref());
        // What is decoded from codes is as exact as the scales.
        let dtype =
            |moment: &Moment<'_>| if moment.is_blockwise() { DType::F32 } else { moment.tensor().dtype };
        let dtypes = both.map(|(first, second)| (dtype(first), dtype(second)));
        let is_blockwise = both.is_some_and(|(first, second)| first.is_blockwise() || second.is_blockwise());
        Self { history, dtypes, is_blockwise }
    }

    fn inputs<'a>(
        &self,
        place: &Place<'a>,
        first: Option<Moment<'a>>,
        second: Option<Moment<'a>>,
        shape: &[u64],
    ) -> Inputs<'a> {
        let weight = place.weight();
        let mut scales = Scales { epsilon: place.group.epsilon.unwrap_or(0.0), ..Scales::default() };
        if let Ok(history) = &self.history {
            scales.first_correction = history.first_correction();
            scales.second_correction = history.second_correction();
            scales.floor = bound::floor(self.dtypes.map_or(DType::F32, |(_, second)| second), history);
        }
        let is_bf16 = weight.is_some_and(|weight| weight.dtype == DType::Bf16);
        scales.bf16_rate = place.group.learning_rate.filter(|_| is_bf16);
        let maximum = place.maximum(shape).and_then(Result::ok);
        Inputs { first, second, maximum, weight, scales }
    }

    fn finish(
        &self,
        place: &Place<'_>,
        inputs: &Inputs<'_>,
        shape: &[u64],
        sums: &Sums,
    ) -> (ParameterOptimizer, Energies) {
        let elements = saturating_count(shape);
        let reason = self.history.as_ref().err().map_or("not kept by this optimizer", String::as_str);
        let mut found = unmeasured(place, reason);
        found.defects = Measured::Value(Defects {
            non_finite_first: sums.non_finite_first,
            non_finite_second: sums.non_finite_second,
            negative_second: sums.negative_second,
            non_finite_maximum: sums.non_finite_maximum,
            below_second: sums.below_second,
        });
        let defects = sums.non_finite_first
            + sums.non_finite_second
            + sums.negative_second
            + sums.non_finite_maximum
            + sums.below_second;
        // What was found is told; that nothing was found is no answer where the largest second moment was not compared.
        if let (0, Some(Err(reason))) = (defects, place.maximum(shape)) {
            found.defects = Measured::not(reason);
        }
        if elements == 0 || defects > 0 {
            let mut empty = Self::without_value(place, elements);
            empty.defects = found.defects;
            return (empty, Energies::default());
        }
        if inputs.second.is_some() {
            self.second_moment(place, shape, sums, &mut found);
        }
        if place.optimizer.algorithm.is_adam() {
            self.adam(place, sums, &mut found);
        } else if place.optimizer.algorithm == Algorithm::Sgd {
            found.update_ratio = ratio(place, sums.first.sqrt(), sums);
        }
        (found, self.energies(place, sums))
    }

    /// Every quantity of a parameter without elements, or with elements that are no moments.
    fn without_value(place: &Place<'_>, elements: u64) -> ParameterOptimizer {
        if elements > 0 {
            return unmeasured(place, "its moments hold what no gradients give");
        }
        ParameterOptimizer {
            gradient_norm: Measured::Degenerate(Degenerate::Empty),
            gradient_rms: Measured::Degenerate(Degenerate::Empty),
            update_rms: Measured::Degenerate(Degenerate::Empty),
            update_ratio: Measured::Degenerate(Degenerate::Empty),
            ..unmeasured(place, "it has no elements")
        }
    }

    /// What the mean square of the gradients tells, in Adam and `RMSprop`.
    fn second_moment(&self, place: &Place<'_>, shape: &[u64], sums: &Sums, found: &mut ParameterOptimizer) {
        found.rows = if self.is_blockwise {
            Measured::not("small second moments are zero in 8 bits")
        } else if pass::has_rows(shape) {
            Measured::Value(SecondMomentRows { count: shape[0], zero: sums.zero_rows })
        } else {
            Measured::not("it has no rows, or very long ones")
        };
        let Ok(history) = &self.history else { return };
        found.second_moment_sum = number(sums.second);
        found.effective_steps = if history.is_counted() {
            number(gradient::effective_steps(history))
        } else {
            Measured::not(super::UNCOUNTED)
        };
        found.gradient_norm = self.gradient_norm(place, history, sums);
        found.gradient_rms = found.gradient_norm.clone().map(|norm| norm / (found.elements as f64).sqrt());
        let measured = found.elements - sums.zero_second;
        found.denominator_rms = if measured == 0 {
            Measured::Degenerate(Degenerate::AllZero)
        } else {
            number((sums.second / history.second_correction() / measured as f64).sqrt())
        };
        if place.group.epsilon.is_some() {
            found.below_epsilon = Measured::Value(sums.below_epsilon);
        }
    }

    fn gradient_norm(&self, place: &Place<'_>, history: &History, sums: &Sums) -> Measured<f64> {
        let norm = gradient::norm(history, sums);
        if let Some((_, DType::Bf16)) = self.dtypes
            && 1.0 - history.beta2 < bound::BF16_DECAY
        {
            return Measured::not(format!("bf16 second moments cannot follow β₂ = {}", history.beta2));
        }
        let weights = place.weight().map(|_| sums.weight.sqrt());
        let decay = place.group.weight_decay.unwrap_or(0.0);
        let penalty = |&norm: &f64| gradient::penalty(&place.optimizer.algorithm, decay, weights, norm);
        match norm.value().and_then(penalty) {
            Some(reason) => Measured::not(reason),
            None => norm,
        }
    }

    fn adam(&self, place: &Place<'_>, sums: &Sums, found: &mut ParameterOptimizer) {
        let Ok(history) = &self.history else { return };
        let Some((first, second)) = self.dtypes else { return };
        match bound::tolerance(first, second, history) {
            Ok(tolerance) => {
                found.bound_tolerance = tolerance;
                found.bound_ratio = number(sums.largest_ratio / bound::bound(history));
                found.first_step = if self.is_blockwise {
                    Measured::not("rounding to 8 bits hides what one step leaves")
                } else {
                    steps::first_step(place.state.step, history, sums, tolerance)
                };
            }
            Err(reason) => {
                found.bound_ratio = Measured::not(reason.clone());
                found.first_step = Measured::not(reason);
            }
        }
        found.signal_fraction = signal::fraction(history, sums);
        if history.is_counted() {
            let floor = signal::noise_floor(history);
            found.noise_floor = Measured::Value(floor);
            if let Some(&fraction) = found.signal_fraction.value() {
                found.signal_share = signal::share(fraction, floor, found.elements);
            }
        }
        Self::steps(place, self.is_blockwise, history, sums, found);
        Self::date(place, history, sums, found);
    }

    /// What the next step will be.
    fn steps(
        place: &Place<'_>,
        is_blockwise: bool,
        history: &History,
        sums: &Sums,
        found: &mut ParameterOptimizer,
    ) {
        let reason = if place.group.amsgrad {
            "AMSGrad divides by the largest second moment so far"
        } else if place.group.epsilon.is_none() {
            "the group does not say its ε"
        } else if !history.is_counted() {
            super::UNCOUNTED
        } else if is_blockwise {
            found.update_rms = update::rms(history, sums, found.elements);
            found.update_ratio = ratio(place, sums.update.sqrt(), sums);
            found.update_bound = Measured::not("second moments that 8 bits round to zero have no bound");
            found.sign_steps = found.update_bound.clone().map(|_| 0);
            found.stuck_share = stuck_share(place, sums, found.elements);
            return;
        } else {
            found.update_rms = update::rms(history, sums, found.elements);
            found.update_bound = number(bound::update_bound(history));
            found.sign_steps = Measured::Value(sums.sign_steps);
            found.update_ratio = ratio(place, sums.update.sqrt(), sums);
            found.stuck_share = stuck_share(place, sums, found.elements);
            return;
        };
        found.update_rms = Measured::not(reason);
        found.update_bound = Measured::not(reason);
        found.sign_steps = Measured::not(reason);
        found.update_ratio = Measured::not(reason);
        found.stuck_share = Measured::not(reason);
    }

    fn date(place: &Place<'_>, history: &History, sums: &Sums, found: &mut ParameterOptimizer) {
        let reason = if place.is_sparse() {
            "its rows date their last visit: not every batch reaches each"
        } else if place.state.parameter.is_none() {
            "which tensor it is is not known, and an embedding's rows date their last visit"
        } else {
            found.spike = spike::date(history, &sums.top, sums.second, pass::row_length(&found.shape));
            found.inflation = match (&found.spike, found.noise_floor.value(), found.gradient_rms.value()) {
                (Measured::Value(_), Some(&floor), Some(&rms)) => {
                    spike::inflation(history, &sums.top, rms, floor)
                }
                (Measured::Degenerate(kind), _, _) => Measured::Degenerate(*kind),
                (Measured::NotMeasured(reason), _, _) => {
                    Measured::not(format!("no spike is dated in it: {reason}"))
                }
                (Measured::Value(_), _, _) => Measured::not("its usual gradient is not known"),
            };
            return;
        };
        found.spike = Measured::not(reason);
        found.inflation = Measured::not(reason);
    }

    fn energies(&self, place: &Place<'_>, sums: &Sums) -> Energies {
        match &self.history {
            Ok(history) if history.is_counted() && place.optimizer.algorithm.is_adam() => Energies {
                first: sums.first / history.first_correction().powi(2),
                second: sums.second / history.second_correction(),
            },
            _ => Energies::default(),
        }
    }
}

/// `RMSprop`'s mean square is Adam's second moment with α for β₂, and without the correction, which is made here.
fn root_mean_square(group: &ParameterGroup, step: Option<f64>) -> Result<History, String> {
    let group = ParameterGroup { beta1: Some(0.0), beta2: group.alpha, ..group.clone() };
    History::of(&group, step).map_err(|_| "the group does not say its α".to_owned())
}

fn ratio(place: &Place<'_>, step_norm: f64, sums: &Sums) -> Measured<f64> {
    if place.weight().is_none() {
        let reason = place.optimizer.mapping.reason.as_deref().filter(|_| place.state.parameter.is_none());
        return Measured::not(reason.unwrap_or("its weights cannot be read").to_owned());
    }
    update::ratio(place.group.learning_rate, step_norm, sums)
}

fn stuck_share(place: &Place<'_>, sums: &Sums, elements: u64) -> Measured<f64> {
    match place.weight() {
        Some(weight)
            if weight.dtype == DType::Bf16 && place.group.learning_rate.is_some_and(|rate| rate > 0.0) =>
        {
            number(sums.stuck as f64 / elements as f64)
        }
        Some(weight) if weight.dtype == DType::Bf16 => {
            Measured::not("its learning rate is zero or not known")
        }
        Some(_) => Measured::not("its weights are not in bf16"),
        None => Measured::not("its weights are not known"),
    }
}
