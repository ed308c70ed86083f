//! Which algorithm wrote a state, by what it keeps for a parameter and what its groups are configured with.
//!
//! Keys as in torch 2.9, torch-optimizer, apex, DeepSpeed and bitsandbytes 0.4x.

use std::collections::BTreeSet;

use super::Algorithm;

/// What the groups say that the algorithm can be told by.
#[derive(Debug, Default)]
pub(super) struct Configuration<'a> {
    /// Keys of all groups.
    pub keys: BTreeSet<&'a str>,
    /// The value of `decoupled_weight_decay`, since torch 2.7.
    pub decoupled: Option<bool>,
}

/// Keys of groups that only ever belong to Adam or `AdamW`: torch, transformers before 5, apex and DeepSpeed.
const ADAM_MARKS: &[&str] = &["amsgrad", "correct_bias", "bias_correction"];

/// Keys of groups whose optimizer keeps Adam's names for moments of another kind, or steps of another size: NAdam, LAMB, Muon, D-adaptation and
/// Prodigy (`d_coef`, `growth_rate`), SOAP, and those of the package `pytorch_optimizer` (`weight_decouple`), Yogi, ADOPT, `LaProp` and others.
const OTHER_MARKS: &[&str] = &[
    "momentum_decay",
    "grad_averaging",
    "ns_steps",
    "max_coeff",
    "trust_clip",
    "max_grad_norm",
    "d_coef",
    "growth_rate",
    "precondition_frequency",
    "weight_decouple",
];

/// Keys of states that Adam has not, beside moments that may be called like its own: NAdam, Adadelta, Adamax, Adan and `DiffGrad`, `AdEMAMix`, MARS,
/// Ranger, SOAP, Prodigy, `StableSPAM`.
const OTHER_STATE: &[&str] = &[
    "mu_product",
    "acc_delta",
    "exp_inf",
    "exp_avg_diff",
    "previous_grad",
    "exp_avg_slow",
    "last_grad",
    "slow_buffer",
    "GG",
    "p0",
    "m_norm_t",
];

/// The algorithm whose state has `keys` for its parameters.
pub(super) fn recognise(keys: &BTreeSet<&str>, configuration: &Configuration<'_>) -> Algorithm {
    let has = |key: &str| keys.contains(key);
    let group = |key: &str| configuration.keys.contains(key);
    let marked = |marks: &[&str]| marks.iter().any(|mark| group(mark));
    let unknown = || Algorithm::Unknown { keys: keys.iter().map(|&key| key.to_owned()).collect() };
    if has("state1") || has("absmax1") || has("qmap1") {
        Algorithm::EightBit
    } else if has("exp_avg_sq_row")
        || has("variance")
        || has("row_var")
        || group("beta2_decay")
        || keys.is_empty() && group("scale_parameter") && group("relative_step")
    {
        Algorithm::Adafactor
    } else if OTHER_STATE.iter().any(|key| has(key)) || marked(OTHER_MARKS) {
        unknown()
    } else if has("exp_avg") && has("exp_avg_sq") || keys.is_empty() && group("betas") && marked(ADAM_MARKS) {
        adam(configuration, marked(ADAM_MARKS)).unwrap_or_else(unknown)
    } else if has("exp_avg") {
        Algorithm::Lion
    } else if has("square_avg") || keys.is_empty() && group("alpha") && group("centered") {
        Algorithm::RmsProp
    } else if has("sum") || keys.is_empty() && group("lr_decay") && group("initial_accumulator_value") {
        Algorithm::Adagrad
    } else if has("momentum_buffer") || group("nesterov") {
        Algorithm::Sgd
    } else {
        unknown()
    }
}

/// Adam or `AdamW`. RAdam has the same moments, says how its weight decay acts, and has no AMSGrad.
fn adam(configuration: &Configuration<'_>, marked: bool) -> Option<Algorithm> {
    match configuration.decoupled {
        Some(_) if !marked => None,
        Some(true) => Some(Algorithm::AdamW),
        Some(false) => Some(Algorithm::Adam),
        // transformers' own AdamW.
        None if configuration.keys.contains("correct_bias") => Some(Algorithm::AdamW),
        None => Some(Algorithm::AdamLike),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(state: &[&str], group: &[&str], decoupled: Option<bool>) -> Algorithm {
        let configuration = Configuration { keys: group.iter().copied().collect(), decoupled };
        recognise(&state.iter().copied().collect(), &configuration)
    }

    #[test]
    fn torch_optimizers_are_told_apart() {
        let adam = ["step", "exp_avg", "exp_avg_sq"];
        assert_eq!(of(&adam, &["betas", "amsgrad"], Some(true)), Algorithm::AdamW);
        assert_eq!(of(&adam, &["betas", "amsgrad"], Some(false)), Algorithm::Adam);
        assert_eq!(of(&adam, &["betas", "amsgrad"], None), Algorithm::AdamLike);
        assert_eq!(of(&adam, &["betas", "correct_bias"], None), Algorithm::AdamW);
        assert_eq!(of(&adam, &[], None), Algorithm::AdamLike);
        assert_eq!(of(&["momentum_buffer"], &["nesterov"], None), Algorithm::Sgd);
        assert_eq!(of(&[], &["nesterov"], None), Algorithm::Sgd);
        assert_eq!(of(&[], &["betas", "amsgrad"], None), Algorithm::AdamLike);
        assert_eq!(of(&["step", "square_avg"], &["alpha"], None), Algorithm::RmsProp);
        assert_eq!(of(&[], &["lr", "momentum", "alpha", "centered"], None), Algorithm::RmsProp);
        assert_eq!(of(&["step", "sum"], &["lr_decay"], None), Algorithm::Adagrad);
        assert_eq!(of(&[], &["lr_decay", "initial_accumulator_value"], None), Algorithm::Adagrad);
        assert_eq!(of(&["exp_avg"], &["betas"], None), Algorithm::Lion);
        assert_eq!(of(&["step", "row_var", "col_var"], &["beta2_decay"], None), Algorithm::Adafactor);
        assert_eq!(of(&[], &["scale_parameter", "relative_step", "beta1"], None), Algorithm::Adafactor);
        assert_eq!(of(&["step", "state1", "qmap1"], &["betas"], None), Algorithm::EightBit);
    }

    #[test]
    fn what_keeps_adams_names_for_something_else_is_unknown() {
        let adam = ["step", "exp_avg", "exp_avg_sq"];
        let is_unknown = |algorithm| matches!(algorithm, Algorithm::Unknown { .. });
        assert!(is_unknown(of(&adam, &["betas"], Some(false))), "RAdam");
        assert!(
            is_unknown(of(&["exp_avg", "exp_avg_sq", "mu_product"], &["momentum_decay"], Some(false))),
            "NAdam"
        );
        assert!(is_unknown(of(&adam, &["betas", "bias_correction", "grad_averaging"], None)), "LAMB");
        assert!(is_unknown(of(&["momentum_buffer"], &["nesterov", "ns_steps"], None)), "Muon");
        let prodigy = of(&["step", "s", "p0", "exp_avg", "exp_avg_sq"], &["betas", "d", "d_coef"], None);
        assert!(is_unknown(prodigy));
        assert!(is_unknown(of(&["exp_avg", "exp_avg_sq"], &["betas", "weight_decouple"], None)), "ADOPT");
        assert!(is_unknown(of(&["exp_avg", "exp_avg_sq", "exp_avg_slow"], &["betas"], None)), "AdEMAMix");
        assert!(
            is_unknown(of(&["exp_avg", "exp_avg_sq", "GG", "Q"], &["betas", "correct_bias"], None)),
            "SOAP"
        );
    }
}
