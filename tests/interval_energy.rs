//! T17: one gradient of a hundred times the usual, found by the second moments of checkpoints alone.

use flashpoint::analysis::model::{
    DType, IntervalAnalysis, Layer, MeasureLevel, Measured, Role, Run, TensorInterval,
};
use flashpoint::analysis::of_checkpoints;
use flashpoint::analysis::series::energy::Ends;
use flashpoint::analysis::series::trailing;
use flashpoint::rules::{self, Overrides, Severity, Subject};

const BETA2: f32 = 0.999;
const INTERVAL: usize = 100;

#[test]
fn a_gradient_of_a_hundred_times_the_usual_is_told_in_its_own_tensor_and_interval_alone() {
    let names = ["emb.weight", "fc.weight", "lm_head.weight"];
    let sums: Vec<Vec<f64>> =
        (0..3).map(|index| second_moment_sums(index + 1, (index == 0).then_some(3750))).collect();
    let mut intervals: Vec<IntervalAnalysis> = (0..39)
        .map(|index| {
            let tensors = names.iter().zip(&sums).map(|(name, sums)| interval_of(name, sums, index));
            let from = INTERVAL * (index + 1);
            IntervalAnalysis {
                from: format!("step-{from}"),
                to: format!("step-{}", from + INTERVAL),
                from_step: from as u64,
                to_step: (from + INTERVAL) as u64,
                tensors: tensors.collect(),
                unmatched: Vec::new(),
            }
        })
        .collect();
    trailing::fill(&mut intervals);
    let ratio = |index: usize| *intervals[index].tensors[0].gradient_ratio.value().expect("it was measured");
    // All norms are 0.3 but one of 30 that is 50 steps old: its weight is 0.999^50 of a hundred such.
    let weight = 0.999_f64.powi(50) * 0.001 / (1.0 - 0.999_f64.powi(100));
    let expected = (1.0 + weight * (100.0_f64.powi(2) - 1.0)).sqrt();
    assert!(ratio(36) >= 10.0 && (ratio(36) / expected - 1.0).abs() < 1e-3, "{}, {expected}", ratio(36));
    assert!((ratio(37) - 1.0).abs() < 1e-2, "{} in the interval after the spike", ratio(37));

    let mut analysis = of_checkpoints(Vec::new(), MeasureLevel::Stats);
    analysis.run =
        Some(Run { name: "run".to_owned(), until: None, clip_threshold: None, remarks: Vec::new() });
    analysis.intervals = intervals;
    let found = rules::evaluate(&analysis, &Overrides::default()).findings;
    let told: Vec<_> = found
        .iter()
        .filter(|finding| finding.rule == "FP704")
        .map(|finding| (finding.severity, finding.subject.clone(), finding.step))
        .collect();
    assert_eq!(told, [(Severity::Warning, Subject::Tensor("emb.weight".to_owned()), Some(3700))]);
}

/// What two neighbouring checkpoints say of a tensor by Σv alone.
fn interval_of(name: &str, sums: &[f64], index: usize) -> TensorInterval {
    let ends = Ends {
        before: sums[index],
        after: sums[index + 1],
        beta2: 0.999,
        steps: INTERVAL as f64,
        dtypes: [DType::F32; 2],
    };
    let energy = ends.energy();
    let unmeasured = || Measured::not("only the second moments are there");
    TensorInterval {
        name: name.to_owned(),
        canonical_name: name.to_owned(),
        layer: Layer { path: name.trim_end_matches(".weight").to_owned(), index: None, order: 0 },
        role: Role::Linear,
        elements: 64,
        from_master: false,
        weight_rms: unmeasured(),
        change_rms: unmeasured(),
        relative_change: unmeasured(),
        growth_rate: unmeasured(),
        steps: Measured::Value(INTERVAL as f64),
        gradient_norm: ends.gradient_norm(&energy),
        energy,
        gradient_ratio: unmeasured(),
        change_ratio: unmeasured(),
        decay_ratio: unmeasured(),
        floor_share: unmeasured(),
        below_floor_share: unmeasured(),
        mapping_cosine: unmeasured(),
    }
}

/// Σv of Adam's second moments in f32, as PyTorch keeps them, every hundred of 4000 steps. One step may spike.
fn second_moment_sums(seed: u64, spike: Option<usize>) -> Vec<f64> {
    let mut state = seed;
    let mut second = vec![0_f32; 64];
    let mut sums = Vec::new();
    for step in 1..=4000 {
        let norm = if spike == Some(step) { 30.0 } else { 0.3 };
        for (v, g) in second.iter_mut().zip(gradient(&mut state, norm)) {
            *v = *v * BETA2 + g * g * (1.0 - BETA2);
        }
        if step % INTERVAL == 0 {
            sums.push(second.iter().map(|&v| f64::from(v)).sum());
        }
    }
    sums
}

/// A gradient whose norm is `norm`, in a direction of its own.
fn gradient(state: &mut u64, norm: f64) -> Vec<f32> {
    let raw: Vec<f64> = (0..64)
        .map(|_| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
        })
        .collect();
    let length = raw.iter().map(|one| one * one).sum::<f64>().sqrt();
    raw.iter().map(|one| (norm * one / length) as f32).collect()
}
