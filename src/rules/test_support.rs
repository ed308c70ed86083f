//! Small checkpoints for the tests of rules, built tensor by tensor.

use std::collections::BTreeMap;

use super::{Check, Findings, Overrides, Rule, Severity, Subject, Thresholds};
use crate::analysis::model::{
    Algorithm, Analysis, AttentionAnalysis, CheckpointAnalysis, DType, Danger, Defects, Degenerate,
    DumpAnalysis, FileAnalysis, FirstStep, Format, GlobalAnalysis, HeadAnalysis, IntervalAnalysis, Layer,
    Layout, LogAnalysis, LogPoint, MappedTensor, Mapping, MappingSource, MeasureLevel, Measured, Number,
    OptimizerAnalysis, OptimizerCoverage, OptimizerSummary, Pages, ParameterGroup, ParameterOptimizer,
    Problem, ReplicaAnalysis, Role, Rows, Run, SecondMomentRows, Section, SpectralNorm, Spectrum,
    SpectrumMethod, SpectrumOf, Statistics, TensorAnalysis, TensorDifference, TensorInterval,
};

/// A checkpoint of these tensors, without files, step or config.
pub(crate) fn checkpoint(tensors: Vec<TensorAnalysis>) -> CheckpointAnalysis {
    CheckpointAnalysis {
        name: "checkpoint".to_owned(),
        layout: Layout::SingleFile,
        step: Measured::not("the checkpoint does not say"),
        step_source: None,
        files: Vec::new(),
        problems: Vec::new(),
        globals: Vec::new(),
        config: Measured::not("no config.json beside the weights"),
        architecture: Measured::not("no config.json beside the weights"),
        tensors,
        optimizer: Measured::not("the checkpoint holds no optimizer state that is read"),
        coverage: Measured::not("the checkpoint holds no optimizer state that is read"),
        impossible: Measured::not("the checkpoint holds no optimizer, scheduler or loss scaler that is read"),
        masters: Vec::new(),
        attention: Measured::not("not in this test"),
        adapters: Measured::not("not in this test"),
        jacobian: Measured::not("not in this test"),
        device: None,
    }
}

impl CheckpointAnalysis {
    pub(crate) fn at_step(mut self, step: u64) -> Self {
        self.step = Measured::Value(step);
        self
    }

    pub(super) fn with_config(mut self, config: serde_json::Value) -> Self {
        self.config = Measured::Value(serde_json::from_value(config).expect("a config is an object"));
        self
    }
}

/// What one optimizer covers that lists so many parameters and keeps state of `stored` of them.
pub(super) fn optimizer_coverage(algorithm: Algorithm, listed: u64, stored: u64) -> OptimizerCoverage {
    OptimizerCoverage {
        place: "optimizer.pt".to_owned(),
        algorithm,
        averages: false,
        listed,
        stored,
        repeated: Vec::new(),
        orphans: Vec::new(),
        without_state: Vec::new(),
        groupless: false,
        uneven: Vec::new(),
        misplaced: Vec::new(),
        misplaced_by_name: false,
    }
}

/// A global named at byte 27 of the pickle of `model.pt`.
pub(super) fn global(name: &str, danger: Danger, called: bool) -> GlobalAnalysis {
    GlobalAnalysis { file: "model.pt".to_owned(), global: name.to_owned(), danger, called, offset: 27 }
}

/// A file of 4096 bytes.
pub(super) fn file(name: &str, uncovered_bytes: u64) -> FileAnalysis {
    let (format, digest) = (Format::Safetensors, None);
    FileAnalysis { name: name.to_owned(), format, bytes: 4096, uncovered_bytes, digest }
}

/// `model.safetensors` ends too early, for one tensor or as a whole.
pub(super) fn problem(tensor: Option<&str>) -> Problem {
    Problem {
        file: "model.safetensors".to_owned(),
        at: Some("byte 8".to_owned()),
        tensor: tensor.map(str::to_owned),
        kind: "past-end-of-file".to_owned(),
        damage: true,
        message: "64 bytes are needed here, the file has 40".to_owned(),
        advice: "copy the file again".to_owned(),
    }
}

/// An f32 parameter of the model whose elements are all 0.1, without measured rows, pages or peers.
pub(crate) fn tensor(name: &str, role: Role, shape: &[u64]) -> TensorAnalysis {
    let unmeasured = "not in this test";
    let elements = shape.iter().product();
    let (path, _) = name.rsplit_once('.').unwrap_or(("", name));
    TensorAnalysis {
        name: name.to_owned(),
        canonical_name: name.to_owned(),
        file: Some("model.safetensors".to_owned()),
        section: Section::Model,
        layer: Layer {
            path: path.to_owned(),
            index: path.split('.').find_map(|part| part.parse().ok()),
            order: 0,
        },
        role,
        dtype: Some(DType::F32),
        shape: shape.to_vec(),
        elements,
        damaged: false,
        tied_to: None,
        state_of: None,
        statistics: Measured::Value(constant(elements, 0.1).into()),
        median_abs: Measured::not(unmeasured),
        rows: Measured::not(unmeasured),
        pages: Measured::not(unmeasured),
        role_spread: Measured::not(unmeasured),
        spectrum: Measured::not(unmeasured),
    }
}

/// The spectrum of a matrix whose singular values are all `norm`.
pub(super) fn spectrum(rows: u64, columns: u64, norm: f64) -> Spectrum {
    let unmeasured = "not in this test";
    let count = rows.min(columns) as f64;
    Spectrum {
        of: SpectrumOf::Matrix,
        rows,
        columns,
        method: SpectrumMethod::Gram,
        spectral_norm: SpectralNorm {
            value: norm,
            upper: Measured::Value(norm),
            failure_probability: 0.0,
            residual: 0.0,
            steps: 0,
        },
        frobenius_norm: norm * count.sqrt(),
        stable_rank: count,
        largest: vec![norm],
        values: Measured::not(unmeasured),
        rounding: Measured::not(unmeasured),
        smallest: Measured::Value(norm),
        condition: Measured::Value(1.0),
        effective_rank: Measured::Value(count),
        spread: Measured::Value(0.0),
        density: Measured::not(unmeasured),
        marchenko_pastur: Measured::not(unmeasured),
        weight_watcher: Measured::not(unmeasured),
        spectral_radius: Measured::not(unmeasured),
        parts: Vec::new(),
    }
}

/// One layer of one head of 16 numbers with a context of 512.
pub(super) fn attention(logit_std: f64, directions: f64, entropy: f64) -> Measured<Vec<AttentionAnalysis>> {
    let head = HeadAnalysis {
        logit_std,
        logit_bound: 100.0 * logit_std,
        spectral_entropy: directions.ln(),
        predicted_entropy: Measured::Value(entropy),
    };
    Measured::Value(vec![AttentionAnalysis {
        layer: "h.0.attn".to_owned(),
        index: Some(0),
        tensor: "h.0.attn.c_attn.weight".to_owned(),
        context: Some(512),
        head_width: 16,
        norm: Some("h.0.ln_1.weight".to_owned()),
        normalises_queries: false,
        rotates: false,
        heads: vec![head],
    }])
}

impl TensorAnalysis {
    /// All elements are `value`.
    pub(crate) fn filled(mut self, value: f64) -> Self {
        self.statistics = Measured::Value(constant(self.elements, value).into());
        self
    }

    pub(super) fn in_section(mut self, section: Section) -> Self {
        self.section = section;
        self
    }

    pub(super) fn with_dtype(mut self, dtype: DType) -> Self {
        self.dtype = Some(dtype);
        self
    }

    pub(super) fn with_order(mut self, order: u64) -> Self {
        self.layer.order = order;
        self
    }

    pub(super) fn with_role_spread(mut self, spread: f64) -> Self {
        self.role_spread = Measured::Value(spread);
        self
    }

    pub(super) fn with_median_abs(mut self, median: f64) -> Self {
        self.median_abs = Measured::Value(median);
        self
    }

    /// Rows of equal norm, `duplicates` of them equal to an earlier one and `zero` of them zero.
    pub(super) fn with_rows(mut self, duplicates: u64, zero: u64) -> Self {
        self.rows = Measured::Value(Box::new(Rows {
            count: self.shape[0],
            duplicates,
            zero,
            largest_norm: 1.0,
            largest_row: 0,
            median_norm: 1.0,
        }));
        self
    }

    /// Rows of norm 1 but for row 3, which has `largest`.
    pub(super) fn with_largest_row(mut self, largest: f64) -> Self {
        self = self.with_rows(0, 0);
        if let Measured::Value(rows) = &mut self.rows {
            (rows.largest_norm, rows.largest_row) = (largest, 3);
        }
        self
    }

    pub(super) fn with_pages(mut self, lost: u64, repeated: u64) -> Self {
        self.pages = Measured::Value(Box::new(Pages {
            count: 16,
            lost,
            first_lost: (lost > 0).then_some(4096),
            repeated,
            first_repeated: (repeated > 0).then_some(8192),
        }));
        self
    }

    pub(super) fn tied_to(mut self, name: &str) -> Self {
        self.tied_to = Some(name.to_owned());
        self
    }

    /// Readable, but without statistics.
    pub(super) fn unmeasured(mut self) -> Self {
        self.statistics = Measured::not("an integer");
        self
    }
}

fn constant(count: u64, value: f64) -> Statistics {
    let unmeasured = "not in this test";
    Statistics {
        count,
        nan: 0,
        positive_infinity: 0,
        negative_infinity: 0,
        zero: if value == 0.0 { count } else { 0 },
        subnormal: 0,
        negative: if value < 0.0 { count } else { 0 },
        min: Measured::Value(value),
        max: Measured::Value(value),
        max_abs: Measured::Value(value.abs()),
        l1: Measured::Value(value.abs() * count as f64),
        l2: Measured::Value(value.abs() * (count as f64).sqrt()),
        rms: Measured::Value(value.abs()),
        mean: Measured::Value(value),
        variance: Measured::Value(0.0),
        skewness: Measured::not(unmeasured),
        excess_kurtosis: Measured::not(unmeasured),
        exponents: Measured::not(unmeasured),
        headroom: Measured::not(unmeasured),
        all_equal: Measured::Value(true),
        all_one: Measured::Value(value == 1.0),
    }
}

/// What `rule` says about `checkpoint` by its default thresholds.
pub(super) fn judge(rule: &'static Rule, checkpoint: &CheckpointAnalysis) -> Findings {
    judge_with(rule, checkpoint, &[])
}

/// What `rule` says about `checkpoint` with these thresholds replaced.
pub(super) fn judge_with(
    rule: &'static Rule,
    checkpoint: &CheckpointAnalysis,
    overrides: &[(&str, f64)],
) -> Findings {
    let overrides: BTreeMap<_, _> =
        overrides.iter().map(|&(name, value)| ((rule.code.to_owned(), name.to_owned()), value)).collect();
    let overrides = Overrides(overrides);
    let mut findings = Findings::new(rule, &checkpoint.name, checkpoint.step.value().copied());
    let thresholds = Thresholds::new(rule, &overrides);
    match rule.check {
        Check::Checkpoint(check) => check(checkpoint, &thresholds, &mut findings),
        Check::Run(_) => panic!("{} looks at runs: use `judge_run`", rule.code),
    }
    findings
}

/// What `rule` says about the run `analysis` with these thresholds replaced.
pub(super) fn judge_run(rule: &'static Rule, analysis: &Analysis, overrides: &[(&str, f64)]) -> Findings {
    let overrides: BTreeMap<_, _> =
        overrides.iter().map(|&(name, value)| ((rule.code.to_owned(), name.to_owned()), value)).collect();
    let overrides = Overrides(overrides);
    let mut findings = Findings::new(rule, "run", None);
    let thresholds = Thresholds::new(rule, &overrides);
    match rule.check {
        Check::Run(check) => check(analysis, &thresholds, &mut findings),
        Check::Checkpoint(_) => panic!("{} looks at checkpoints: use `judge`", rule.code),
    }
    findings
}

/// A run of nothing but these logged points.
pub(super) fn logged(points: Vec<LogPoint>) -> Analysis {
    Analysis {
        schema_version: "1.0".to_owned(),
        tool_version: String::new(),
        measured: MeasureLevel::Stats,
        checkpoints: Vec::new(),
        run: Some(Run { name: "run".to_owned(), ..Run::default() }),
        intervals: Vec::new(),
        replicas: Vec::new(),
        dumps: Vec::new(),
        clipping: None,
        log: Some(LogAnalysis { points, ..LogAnalysis::default() }),
    }
}

/// A logged step at which nothing was logged yet.
pub(super) fn point(step: u64) -> LogPoint {
    LogPoint { step, ..LogPoint::default() }
}

/// A run of `intervals` intervals of 100 steps, each of these tensors, and of the checkpoints at their ends, which hold
/// Adam's state for every tensor.
pub(crate) fn run_of(intervals: usize, tensors: impl Fn() -> Vec<TensorInterval>) -> Analysis {
    let names = tensors().into_iter().map(|tensor| tensor.name).collect::<Vec<_>>();
    let mut run = logged(Vec::new());
    run.log = None;
    run.checkpoints = (0..=intervals)
        .map(|index| {
            let parameters = names.iter().map(|name| moments(name)).collect();
            let mut saved = checkpoint(Vec::new()).with_moments(parameters, |_, _| {});
            saved.name = format!("step-{}", 100 * index);
            saved.at_step(100 * index as u64)
        })
        .collect();
    run.intervals = (0..intervals)
        .map(|index| IntervalAnalysis {
            from: format!("step-{}", 100 * index),
            to: format!("step-{}", 100 * (index + 1)),
            from_step: 100 * index as u64,
            to_step: 100 * (index as u64 + 1),
            tensors: tensors(),
            unmatched: Vec::new(),
        })
        .collect();
    run
}

/// A 64×64 matrix over 100 steps of healthy training by Adam.
pub(crate) fn interval_tensor(name: &str) -> TensorInterval {
    let known = moments(name).tensor.expect("it is known");
    TensorInterval {
        name: name.to_owned(),
        canonical_name: name.to_owned(),
        layer: known.layer,
        role: known.role,
        elements: 4096,
        from_master: false,
        weight_rms: Measured::Value(0.02),
        change_rms: Measured::Value(2e-4),
        relative_change: Measured::Value(0.01),
        growth_rate: Measured::Value(1e-5),
        steps: Measured::Value(100.0),
        energy: Measured::Value(1.0),
        gradient_norm: Measured::Value(0.1),
        gradient_ratio: Measured::Value(1.0),
        change_ratio: Measured::Value(1.0),
        decay_ratio: Measured::Value(1.1),
        floor_share: Measured::Value(0.0),
        below_floor_share: Measured::Value(0.0),
        mapping_cosine: Measured::Value(0.25),
    }
}

/// The dump that applied `step`, of no tensor.
pub(super) fn dump(step: u64) -> DumpAnalysis {
    DumpAnalysis {
        name: format!("step-{step}"),
        step,
        clipped: None,
        unscaled: None,
        accumulation: None,
        rank: None,
        norm: Measured::Value(1.0),
        tensors: Vec::new(),
        secant: Measured::not("needs the dump before it"),
        preconditioned: Measured::not("needs the dump before it"),
        first_last_ratio: Measured::not("not in this test"),
        depth_gain: Measured::not("not in this test"),
        clip_cosine: Measured::not("not in this test"),
    }
}

/// Rank 1 at `step` against rank 0.
pub(super) fn replica(step: u64, differing: Vec<TensorDifference>) -> ReplicaAnalysis {
    ReplicaAnalysis {
        name: "rank1".to_owned(),
        against: "rank0".to_owned(),
        step,
        compared: 10,
        differing,
        not_compared: Vec::new(),
    }
}

/// A tensor of the model that differs by that much of its norm.
pub(super) fn difference(name: &str, role: Role, relative: f64) -> TensorDifference {
    TensorDifference {
        name: name.to_owned(),
        canonical_name: name.to_owned(),
        section: Section::Model,
        layer: Layer { path: String::new(), index: None, order: 0 },
        role,
        elements: 64,
        dtypes: [DType::F32; 2],
        difference: Measured::Value(relative),
        relative_difference: Measured::Value(relative),
        cosine: Measured::Value(1.0 - relative * relative / 2.0),
        largest_difference: Measured::Value(relative),
        changed: 64,
        non_finite: 0,
        non_finite_each: Some([0; 2]),
        spectrum: Measured::not("needs --measure spectra"),
    }
}

impl LogPoint {
    pub(super) fn with_loss(mut self, loss: f64) -> Self {
        self.loss = Some(Number(loss));
        self
    }

    pub(super) fn with_norm(mut self, norm: f64) -> Self {
        self.grad_norm = Some(Number(norm));
        self
    }

    pub(super) fn with_scale(mut self, scale: f64) -> Self {
        self.loss_scale = Some(Number(scale));
        self
    }
}

impl Findings {
    /// Severity and subject of everything found.
    pub(super) fn told(&self) -> Vec<(Severity, String)> {
        self.found
            .iter()
            .map(|finding| {
                let subject = match &finding.subject {
                    Subject::Tensor(name) | Subject::Layer(name) | Subject::File(name) => name.clone(),
                    Subject::Checkpoint => "checkpoint".to_owned(),
                    Subject::Steps(from, to) => format!("steps {from} to {to}"),
                    Subject::Run => "run".to_owned(),
                };
                (finding.severity, subject)
            })
            .collect()
    }

    /// Whether nothing was found and everything was evaluated.
    pub(super) fn is_clean(&self) -> bool {
        self.found.is_empty() && self.not_evaluated.is_empty()
    }
}

/// The state of a 64×64 matrix in the middle of healthy training by Adam.
pub(crate) fn moments(name: &str) -> ParameterOptimizer {
    let (path, _) = name.rsplit_once('.').unwrap_or(("", name));
    let layer = Layer { path: path.to_owned(), index: None, order: 0 };
    ParameterOptimizer {
        optimizer: 0,
        group: 0,
        name: name.to_owned(),
        tensor: Some(MappedTensor {
            canonical_name: name.to_owned(),
            layer,
            role: Role::Linear,
            dtype: DType::F32,
        }),
        shape: vec![64, 64],
        elements: 4096,
        step: Some(5000.0),
        first_moment: Some(DType::F32),
        second_moment: Some(DType::F32),
        defects: Measured::Value(Defects::default()),
        bound_ratio: Measured::Value(0.2),
        bound_tolerance: 1e-3,
        first_step: Measured::Value(FirstStep::Consistent),
        second_moment_sum: Measured::Value(1.0),
        gradient_norm: Measured::Value(0.1),
        gradient_rms: Measured::Value(0.1 / 64.0),
        effective_steps: Measured::Value(1999.0),
        signal_fraction: Measured::Value(0.06),
        noise_floor: Measured::Value(0.0526),
        signal_share: Measured::Value(0.01),
        update_rms: Measured::Value(0.24),
        update_bound: Measured::Value(7.27),
        update_ratio: Measured::Value(1e-3),
        denominator_rms: Measured::Value(0.1 / 64.0),
        below_epsilon: Measured::Value(0),
        sign_steps: Measured::Value(0),
        rows: Measured::Value(SecondMomentRows { count: 64, zero: 0 }),
        spike: Measured::Degenerate(Degenerate::Absent),
        inflation: Measured::Degenerate(Degenerate::Absent),
        stuck_share: Measured::not("its weights are not in bf16"),
    }
}

impl CheckpointAnalysis {
    /// Gives it one Adam of one group with these parameters, each edited together with the group.
    pub(crate) fn with_moments(
        mut self,
        mut parameters: Vec<ParameterOptimizer>,
        mut edit: impl FnMut(&mut ParameterGroup, &mut ParameterOptimizer),
    ) -> Self {
        let mut group = ParameterGroup {
            learning_rate: Some(1e-3),
            beta1: Some(0.9),
            beta2: Some(0.999),
            epsilon: Some(1e-8),
            weight_decay: Some(0.0),
            parameters: parameters.len() as u64,
            ..ParameterGroup::default()
        };
        for parameter in &mut parameters {
            edit(&mut group, parameter);
        }
        let optimizer = OptimizerSummary {
            place: "optimizer.pt".to_owned(),
            algorithm: Algorithm::Adam,
            mapping: Mapping {
                source: MappingSource::NamedParametersOrder,
                confirmed_by_shapes: true,
                refused: 0,
                reason: None,
            },
            groups: vec![group],
            scheduled: Measured::Value(vec![1e-3]),
            gradient_norm: Measured::Value(0.1),
            signal_fraction: Measured::Value(0.06),
        };
        let spike = Measured::not("no parameter's moments are dominated by a single gradient");
        self.optimizer =
            Measured::Value(OptimizerAnalysis { optimizers: vec![optimizer], parameters, spike });
        self
    }

    /// Edits every parameter's state.
    pub(super) fn edit_moments(&mut self, mut edit: impl FnMut(&mut ParameterOptimizer)) {
        if let Measured::Value(state) = &mut self.optimizer {
            for parameter in &mut state.parameters {
                edit(parameter);
            }
        }
    }
}

/// `rule` asks for Adam's moments: the same state of another optimizer gives no finding, and one note.
pub(super) fn assert_not_evaluated_without_adam(rule: &'static Rule, checkpoint: &CheckpointAnalysis) {
    assert_eq!(judge(rule, checkpoint).found.len(), 1, "with Adam");
    let mut other = checkpoint.clone();
    if let Measured::Value(state) = &mut other.optimizer {
        state.optimizers[0].algorithm = Algorithm::Adafactor;
        let second = state.parameters[0].clone();
        state.parameters.push(second);
    }
    let findings = judge(rule, &other);
    assert!(findings.found.is_empty());
    let reasons = findings.not_evaluated.iter().map(|(_, reason)| reason.as_str()).collect::<Vec<_>>();
    assert_eq!(reasons, ["optimizer.pt: it does not keep the moments of Adam and its like"]);
}
