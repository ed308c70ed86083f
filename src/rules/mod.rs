//! Rules: one bad state a file, each a `static` descriptor and a pure function over what was measured.
//!
//! A rule touches no bytes, files, devices or clocks. What it needs is declared, and the planner here reports every
//! rule that could not be evaluated, with the missing need: absence is never silence.

mod assumed_order;
mod collapse;
mod config_ends;
mod config_layers;
mod config_sizes;
mod config_tables;
mod drawn;
mod finding;
mod intervals;
mod jacobians;
mod logs;
mod lost_state;
mod model_types;
mod moments;
mod peers;
mod plan;
mod replicas;
mod sawtooth;
mod threshold;
mod weights;

mod fp101_non_finite;
mod fp102_hidden_nan;
mod fp103_non_finite_clip;
mod fp104_loss_scale_collapse;
mod fp105_loss_scaled_norm;
mod fp106_stagnant_norm_gains;
mod fp107_low_precision_moments;
mod fp108_dead_storage;
mod fp109_negative_variance;
mod fp201_zero_init;
mod fp202_symmetric_init;
mod fp203_wrong_gain;
mod fp204_fan_mismatch;
mod fp205_ill_conditioned_stack;
mod fp206_unstable_recurrence;
mod fp207_resonant_convolution;
mod fp208_small_shortcut;
mod fp209_shape_error;
mod fp210_exploded_weights;
mod fp211_empty_weight;
mod fp212_wrong_parameters;
mod fp213_depth_gain;
mod fp214_odd_layer;
mod fp215_broken_adapter;
mod fp301_above_edge_of_stability;
mod fp302_decoupled_second_moment;
mod fp303_oversized_update;
mod fp304_epsilon_dominates;
mod fp305_sign_steps_on_noise;
mod fp306_updates_without_signal;
mod fp307_large_update_ratio;
mod fp308_lost_optimizer_step;
mod fp309_schedule_break;
mod fp310_warmup_end_onset;
mod fp311_weight_decay_drift;
mod fp312_poisoned_moments;
mod fp313_impossible_hyperparameter;
mod fp314_overshooting_steps;
mod fp401_attention_logits;
mod fp402_attention_entropy_collapse;
mod fp403_attention_rank_collapse;
mod fp404_output_logit_drift;
mod fp405_embedding_gradient_spike;
mod fp406_norm_gain_outlier;
mod fp407_massive_activation_proxy;
mod fp408_dead_rows;
mod fp409_router_collapse;
mod fp410_rank_collapse;
mod fp411_dying_units;
mod fp501_gradient_spike;
mod fp502_loss_spike;
mod fp503_divergence;
mod fp504_recurring_spikes;
mod fp505_accumulation_change;
mod fp601_tensor_parallel_drift;
mod fp602_data_parallel_drift;
mod fp603_master_mismatch;
mod fp604_lone_gradient_outlier;
mod fp701_impossible_second_moment;
mod fp702_broken_moment_bound;
mod fp703_replaced_optimizer_state;
mod fp704_interval_energy_jump;
mod fp707_recent_spike;
mod fp708_inconsistent_steps;
mod fp709_contradicted_mapping;
mod fp710_foreign_optimizer_state;
mod fp711_inconsistent_optimizer_groups;
mod fp801_large_end_to_end_gain;
mod fp802_block_gain_outlier;
mod fp803_gain_growing_with_depth;
mod fp804_growing_jacobian;
mod fp805_positive_lyapunov_exponent;
mod fp806_softmax_gradient_path;
mod fp807_lost_isometry;
mod fp808_branch_gain_outlier;
mod fp901_dangerous_pickle;
mod fp902_unknown_global;
mod fp903_damaged_file;
mod fp904_uncovered_bytes;

#[cfg(test)]
mod test_jacobian;
#[cfg(test)]
pub(crate) mod test_support;

pub(crate) use collapse::{Limits as CollapseLimits, collapse};
pub use finding::{Bound, Confidence, Evidence, Finding, Findings, Severity, Subject};
pub(crate) use fp503_divergence::diverges;
pub(crate) use fp801_large_end_to_end_gain::warned_above;
pub(crate) use fp802_block_gain_outlier::outlier_above;
pub(crate) use logs::{GIVEN_BACK, Habit, LEVEL_ERRORS, Swings, is_of_a_tail};
pub use plan::{Assessment, Needs, NotEvaluated, evaluate, level_needed};
pub(crate) use sawtooth::sawtooth;
pub use threshold::{Overrides, Threshold, Thresholds};

use crate::analysis::model::{Analysis, CheckpointAnalysis};
pub use crate::nearest::did_you_mean;

/// One bad state: how it is called, what it needs, and how it is recognised.
#[derive(Debug)]
pub struct Rule {
    /// `FP` and three digits, the family first. Never reused.
    pub code: &'static str,
    /// The bad state, in kebab case.
    pub name: &'static str,
    /// One line.
    pub summary: &'static str,
    /// The page in `docs/rules/`, whole.
    pub page: &'static str,
    /// The severity its findings have unless the rule's page says otherwise.
    pub severity: Severity,
    /// How far its findings can be trusted.
    pub confidence: Confidence,
    /// What must have been measured.
    pub needs: Needs,
    /// Its limits, each overridable.
    pub thresholds: &'static [Threshold],
    /// How it is recognised.
    pub check: Check,
}

/// What a rule looks at. It is asked only where everything in its `needs` is there.
#[derive(Debug, Clone, Copy)]
pub enum Check {
    /// One checkpoint after the other.
    Checkpoint(fn(&CheckpointAnalysis, &Thresholds, &mut Findings)),
    /// A run as a whole: its checkpoints in order, intervals, dumps, log.
    Run(fn(&Analysis, &Thresholds, &mut Findings)),
}

/// Every rule, by code.
pub static RULES: &[&Rule] = &[
    &fp101_non_finite::RULE,
    &fp102_hidden_nan::RULE,
    &fp103_non_finite_clip::RULE,
    &fp104_loss_scale_collapse::RULE,
    &fp105_loss_scaled_norm::RULE,
    &fp106_stagnant_norm_gains::RULE,
    &fp107_low_precision_moments::RULE,
    &fp108_dead_storage::RULE,
    &fp109_negative_variance::RULE,
    &fp201_zero_init::RULE,
    &fp202_symmetric_init::RULE,
    &fp203_wrong_gain::RULE,
    &fp204_fan_mismatch::RULE,
    &fp205_ill_conditioned_stack::RULE,
    &fp206_unstable_recurrence::RULE,
    &fp207_resonant_convolution::RULE,
    &fp208_small_shortcut::RULE,
    &fp209_shape_error::RULE,
    &fp210_exploded_weights::RULE,
    &fp211_empty_weight::RULE,
    &fp212_wrong_parameters::RULE,
    &fp213_depth_gain::RULE,
    &fp214_odd_layer::RULE,
    &fp215_broken_adapter::RULE,
    &fp301_above_edge_of_stability::RULE,
    &fp302_decoupled_second_moment::RULE,
    &fp303_oversized_update::RULE,
    &fp304_epsilon_dominates::RULE,
    &fp305_sign_steps_on_noise::RULE,
    &fp306_updates_without_signal::RULE,
    &fp307_large_update_ratio::RULE,
    &fp308_lost_optimizer_step::RULE,
    &fp309_schedule_break::RULE,
    &fp310_warmup_end_onset::RULE,
    &fp311_weight_decay_drift::RULE,
    &fp312_poisoned_moments::RULE,
    &fp313_impossible_hyperparameter::RULE,
    &fp314_overshooting_steps::RULE,
    &fp401_attention_logits::RULE,
    &fp402_attention_entropy_collapse::RULE,
    &fp403_attention_rank_collapse::RULE,
    &fp404_output_logit_drift::RULE,
    &fp405_embedding_gradient_spike::RULE,
    &fp406_norm_gain_outlier::RULE,
    &fp407_massive_activation_proxy::RULE,
    &fp408_dead_rows::RULE,
    &fp409_router_collapse::RULE,
    &fp410_rank_collapse::RULE,
    &fp411_dying_units::RULE,
    &fp501_gradient_spike::RULE,
    &fp502_loss_spike::RULE,
    &fp503_divergence::RULE,
    &fp504_recurring_spikes::RULE,
    &fp505_accumulation_change::RULE,
    &fp601_tensor_parallel_drift::RULE,
    &fp602_data_parallel_drift::RULE,
    &fp603_master_mismatch::RULE,
    &fp604_lone_gradient_outlier::RULE,
    &fp701_impossible_second_moment::RULE,
    &fp702_broken_moment_bound::RULE,
    &fp703_replaced_optimizer_state::RULE,
    &fp704_interval_energy_jump::RULE,
    &fp707_recent_spike::RULE,
    &fp708_inconsistent_steps::RULE,
    &fp709_contradicted_mapping::RULE,
    &fp710_foreign_optimizer_state::RULE,
    &fp711_inconsistent_optimizer_groups::RULE,
    &fp801_large_end_to_end_gain::RULE,
    &fp802_block_gain_outlier::RULE,
    &fp803_gain_growing_with_depth::RULE,
    &fp804_growing_jacobian::RULE,
    &fp805_positive_lyapunov_exponent::RULE,
    &fp806_softmax_gradient_path::RULE,
    &fp807_lost_isometry::RULE,
    &fp808_branch_gain_outlier::RULE,
    &fp901_dangerous_pickle::RULE,
    &fp902_unknown_global::RULE,
    &fp903_damaged_file::RULE,
    &fp904_uncovered_bytes::RULE,
];

/// The rule of that code or name, in any case.
pub fn find(code_or_name: &str) -> Option<&'static Rule> {
    RULES.iter().copied().find(|rule| {
        rule.code.eq_ignore_ascii_case(code_or_name) || rule.name.eq_ignore_ascii_case(code_or_name)
    })
}
