//! The plain data of an analysis: what rules judge, reports show and measurement files hold.
//!
//! No absolute paths, times or thread counts; the same input gives the same bytes.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

mod cancelled;
mod decay;
mod jacobian;
mod optimizer;
mod run;
mod spectrum;

pub use cancelled::{cancelled_biases, weight_of};
pub use decay::{decayed, is_mostly_decay};
pub use jacobian::{
    AttentionPaths, DepthGain, Estimated, GradientSource, InitialGain, JacobianAnalysis, JacobianCost,
    JacobianSetting, JacobianSpectrum, PartJacobian, PartKind, ProbeKind, RecurrenceAnalysis,
    RecurrenceAtScale, Spread,
};

pub use optimizer::{
    Algorithm, Defects, FirstStep, ImpossibleNumber, MappedTensor, Mapping, MappingSource, MasterAnalysis,
    MasterRounding, MisplacedState, Nothing, OptimizerAnalysis, OptimizerCoverage, OptimizerSummary,
    ParameterGroup, ParameterOptimizer, Range, RepeatedParameter, SecondMomentRows, Spike, SpikeAge,
    StateCoverage, UnevenMoments, UnfilledOptimizer,
};

pub use run::{
    AccumulationChange, ClippedTensor, ClippingAnalysis, Difference, DumpAnalysis, DumpTensor,
    IntervalAnalysis, LogAnalysis, LogPoint, LogSemantics, LogSource, Number, Remark, RemarkKind,
    ReplicaAnalysis, Reshaped, Run, ScaleFall, Sharpness, TensorDifference, TensorInterval,
};

pub use spectrum::{
    AdapterAnalysis, AttentionAnalysis, ChangeSpectrum, ConvolutionSetting, Density, GeometrySource,
    GeometrySources, HeadAnalysis, MarchenkoPastur, SpectralNorm, Spectrum, SpectrumMethod, SpectrumOf,
    SpectrumPart, WeightWatcher,
};

use crate::checkpoint::names::{is_of_adapter, is_wrapped};
pub use crate::checkpoint::{Layer, Layout, Role, Section};
pub use crate::format::{Danger, Format};
use crate::tensor::element_count;
pub use crate::tensor::{DType, Kind};

/// Version of the analysis format: additive within a major version.
pub const SCHEMA_VERSION: &str = "1.0";

/// Everything measured about one or more checkpoints, or about a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Analysis {
    /// Version of this format, `major.minor`.
    pub schema_version: String,
    /// Version of flashpoint that measured.
    pub tool_version: String,
    /// How deep it measured.
    pub measured: MeasureLevel,
    /// The checkpoints, in the order they were named; those of a run by step.
    pub checkpoints: Vec<CheckpointAnalysis>,
    /// The run they belong to, where a run was looked at as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
    /// What happened between each two neighbouring checkpoints of the run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub intervals: Vec<IntervalAnalysis>,
    /// Replicas of the run's checkpoints by other ranks, by step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<ReplicaAnalysis>,
    /// The run's gradient dumps, by step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dumps: Vec<DumpAnalysis>,
    /// What clipping does to the mean of the dumps' gradients, where the run has a threshold and dumps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clipping: Option<ClippingAnalysis>,
    /// The run's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogAnalysis>,
}

/// How deep to measure. Each level includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum MeasureLevel {
    /// Names, shapes, dtypes: no element is read.
    List,
    /// Counts, extrema, L1, L2, mean.
    Norms,
    /// Moments, exponent histogram, rows, storage pages as well.
    Stats,
    /// The largest singular values as well, with a bracket.
    Spectra,
    /// All singular values as well.
    Full,
    /// The Jacobians of the network as well, at synthetic probes.
    Jacobian,
}

impl MeasureLevel {
    /// Every level, the shallowest first.
    pub const ALL: [Self; 6] =
        [Self::List, Self::Norms, Self::Stats, Self::Spectra, Self::Full, Self::Jacobian];

    /// The name behind `--measure`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Norms => "norms",
            Self::Stats => "stats",
            Self::Spectra => "spectra",
            Self::Full => "full",
            Self::Jacobian => "jacobian",
        }
    }
}

/// Why something was not measured: mostly one of a few sentences, which ten thousand tensors share.
pub type Reason = Cow<'static, str>;

/// A quantity, or why there is none. A check that could not run is never a pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Measured<T> {
    /// The value.
    Value(T),
    /// It was not measured, and why.
    NotMeasured(Reason),
    /// It was, and has no value.
    Degenerate(Degenerate),
}

/// Why a measured quantity has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Degenerate {
    /// The tensor has no elements.
    Empty,
    /// No element is finite.
    NoFiniteElement,
    /// All elements are equal: no spread to divide by.
    Constant,
    /// Every element is zero.
    AllZero,
    /// The value is beyond the range of f64.
    Overflow,
    /// It was looked for, and there is none.
    Absent,
}

impl<T> Measured<T> {
    /// The value, if there is one.
    pub fn value(&self) -> Option<&T> {
        match self {
            Measured::Value(value) => Some(value),
            _ => None,
        }
    }

    /// Not measured, because `reason`.
    pub fn not(reason: impl Into<Reason>) -> Self {
        Measured::NotMeasured(reason.into())
    }

    /// The same quantity with its value converted.
    pub fn map<U>(self, convert: impl FnOnce(T) -> U) -> Measured<U> {
        match self {
            Measured::Value(value) => Measured::Value(convert(value)),
            Measured::NotMeasured(reason) => Measured::NotMeasured(reason),
            Measured::Degenerate(kind) => Measured::Degenerate(kind),
        }
    }
}

/// Everything measured about one checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CheckpointAnalysis {
    /// The path's last components, never absolute.
    pub name: String,
    /// How its files are laid out.
    pub layout: Layout,
    /// Optimizer steps taken, where the checkpoint says so.
    pub step: Measured<u64>,
    /// The place that says so: `global_step in last.ckpt`, `the name ckpt_400.pt`.
    #[serde(default)]
    pub step_source: Option<String>,
    /// The files that were read.
    pub files: Vec<FileAnalysis>,
    /// What is wrong with files or with the whole.
    pub problems: Vec<Problem>,
    /// Classes and functions named by pickles that are not on the allow-list.
    pub globals: Vec<GlobalAnalysis>,
    /// What the architecture's config says, as far as rules use it.
    pub config: Measured<BTreeMap<String, serde_json::Value>>,
    /// How its parameters differ from those of the network that the config describes.
    #[serde(default = "not_in_the_file::<ArchitectureMatch>")]
    pub architecture: Measured<ArchitectureMatch>,
    /// Every tensor, in file order.
    pub tensors: Vec<TensorAnalysis>,
    /// Its optimizers' state.
    #[serde(default = "not_in_the_file::<OptimizerAnalysis>")]
    pub optimizer: Measured<OptimizerAnalysis>,
    /// Which parameters its optimizers list, and of which they keep state.
    #[serde(default = "not_in_the_file::<StateCoverage>")]
    pub coverage: Measured<StateCoverage>,
    /// Numbers of its optimizers, schedulers and loss scalers that no training goes on from.
    #[serde(default = "not_in_the_file::<Vec<ImpossibleNumber>>")]
    pub impossible: Measured<Vec<ImpossibleNumber>>,
    /// The f32 master weights that it holds beside the weights rounded from them (F3).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub masters: Vec<MasterAnalysis>,
    /// The logits its attention layers can give.
    #[serde(default = "not_in_the_file::<Vec<AttentionAnalysis>>")]
    pub attention: Measured<Vec<AttentionAnalysis>>,
    /// Its low-rank adapters.
    #[serde(default = "not_in_the_file::<Vec<AdapterAnalysis>>")]
    pub adapters: Measured<Vec<AdapterAnalysis>>,
    /// The Jacobians of its network.
    #[serde(default = "not_in_the_file::<JacobianAnalysis>")]
    pub jacobian: Measured<JacobianAnalysis>,
    /// The GPU that took part; absent where the processor computed everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceUse>,
}

/// The parameters of a checkpoint against those of the network that its config describes, by names and shapes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ArchitectureMatch {
    /// The architecture.
    pub architecture: String,
    /// Parameters that the network has.
    pub parameters: u64,
    /// Names of those that the checkpoint lacks.
    pub missing: Vec<String>,
    /// Those of another shape; more rows than the vocabulary has tokens are none.
    pub reshaped: Vec<ReshapedParameter>,
    /// Names of tensors in the stack of blocks that the network has not.
    pub unexpected: Vec<String>,
}

/// A parameter of another shape than the config says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ReshapedParameter {
    /// The tensor, by its name as stored.
    pub name: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// The shape that the network has.
    pub expected: Vec<u64>,
}

/// What a GPU did of a measurement. What is not counted here the processor computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DeviceUse {
    /// The device, `NVIDIA H200 (cuda:0)`; empty where it could not be used.
    pub name: String,
    /// Matrices whose singular values it computed, tensors whose norms, and networks whose Jacobians.
    pub pieces: u64,
    /// Why a GPU that is there was not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused: Option<String>,
    /// What it was given and did not do, so that the processor computed it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redone: Vec<RedonePiece>,
}

/// A piece of work that a GPU did not do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RedonePiece {
    /// The tensor, or `the Jacobians`.
    pub tensor: String,
    /// Why.
    pub reason: String,
}

/// One file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FileAnalysis {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its format.
    pub format: Format,
    /// Its length.
    pub bytes: u64,
    /// Data bytes that no tensor refers to.
    pub uncovered_bytes: u64,
    /// BLAKE3 of all its bytes in hexadecimal, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// What is wrong with a file, or with one tensor in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Problem {
    /// The file's name in the checkpoint.
    pub file: String,
    /// The place in it.
    pub at: Option<String>,
    /// The tensor.
    pub tensor: Option<String>,
    /// The kind of error, `past-end-of-file`.
    pub kind: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub advice: String,
    /// Data is lost or wrong; otherwise it is only odd.
    pub damage: bool,
}

impl Problem {
    /// The file, the place in it, and what is wrong, in one sentence.
    pub fn told(&self) -> String {
        let place = self.at.as_ref().map(|at| format!(", {at}")).unwrap_or_default();
        format!("{}{place}: {}", self.file, self.message)
    }
}

/// A global outside the allow-list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct GlobalAnalysis {
    /// The file's name in the checkpoint.
    pub file: String,
    /// `module.name`.
    pub global: String,
    /// Whether loading it would run code.
    pub danger: Danger,
    /// Whether it is called.
    pub called: bool,
    /// Where it is named, from the start of the pickle.
    pub offset: u64,
}

/// Everything measured about one tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TensorAnalysis {
    /// Its name as stored.
    pub name: String,
    /// Its name with wrappers' prefixes removed: the key that series join on.
    pub canonical_name: String,
    /// The file that holds it, by name; none where an index names it and its shard is missing.
    pub file: Option<String>,
    /// What part of the training state it is.
    pub section: Section,
    /// Its layer.
    pub layer: Layer,
    /// What it does in its layer.
    pub role: Role,
    /// Element type.
    pub dtype: Option<DType>,
    /// Sizes.
    pub shape: Vec<u64>,
    /// Number of elements.
    pub elements: u64,
    /// The file names it, but its elements cannot be read; `problems` says why.
    pub damaged: bool,
    /// The first tensor with the same storage and view, where this one is tied to it.
    pub tied_to: Option<String>,
    /// The parameter whose optimizer state it is, by its name as stored, where that is known.
    #[serde(default)]
    pub state_of: Option<String>,
    /// Statistics of its elements.
    pub statistics: Measured<Box<Statistics>>,
    /// Median of |x| over the finite elements, for small tensors.
    pub median_abs: Measured<f64>,
    /// What its rows look like, for matrices.
    pub rows: Measured<Box<Rows>>,
    /// Zeroed and repeated pages of the file under it.
    pub pages: Measured<Box<Pages>>,
    /// RMS divided by the median RMS of the tensors of its role.
    pub role_spread: Measured<f64>,
    /// Its singular values, for what maps.
    #[serde(default = "not_in_the_file::<Box<Spectrum>>")]
    pub spectrum: Measured<Box<Spectrum>>,
}

/// Statistics over the finite elements of a tensor; counts over all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Statistics {
    /// Elements.
    pub count: u64,
    /// NaN elements.
    pub nan: u64,
    /// +Inf elements.
    pub positive_infinity: u64,
    /// −Inf elements.
    pub negative_infinity: u64,
    /// Elements equal to 0 (+0 and −0).
    pub zero: u64,
    /// Elements that are subnormal in the stored dtype.
    pub subnormal: u64,
    /// Finite elements below 0.
    pub negative: u64,
    /// Smallest element.
    pub min: Measured<f64>,
    /// Largest element.
    pub max: Measured<f64>,
    /// Largest |x|.
    pub max_abs: Measured<f64>,
    /// Σ|x|.
    pub l1: Measured<f64>,
    /// √Σx².
    pub l2: Measured<f64>,
    /// √(Σx²/n).
    pub rms: Measured<f64>,
    /// Σx/n.
    pub mean: Measured<f64>,
    /// Population variance, M2/n.
    pub variance: Measured<f64>,
    /// √n·M3/M2^1.5.
    pub skewness: Measured<f64>,
    /// n·M4/M2² − 3.
    pub excess_kurtosis: Measured<f64>,
    /// How many finite, non-zero elements lie in each binade.
    pub exponents: Measured<Exponents>,
    /// What a cast to a narrower dtype would do.
    pub headroom: Measured<Headroom>,
    /// All elements are finite and equal.
    pub all_equal: Measured<bool>,
    /// All elements are bit-equal to 1.0.
    pub all_one: Measured<bool>,
}

/// Counts of finite, non-zero elements by ⌊log2|x|⌋.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Exponents {
    /// ⌊log2|x|⌋ of the first count.
    pub lowest: i32,
    /// Counts per binade, from `lowest` upwards; no zeros at either end.
    pub counts: Vec<u64>,
}

impl Exponents {
    /// Whether floats of 64 bits, which have the widest range, can have them: from 2⁻¹⁰⁷⁴ to below 2¹⁰²⁴.
    fn are_possible(&self) -> bool {
        let highest = i64::from(self.lowest).saturating_add_unsigned(self.counts.len() as u64);
        (-1100..=1100).contains(&self.lowest) && highest <= 1100
    }
}

/// What rounding to nearest-even in a narrower dtype would do to the elements.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Headroom {
    /// In IEEE half.
    pub f16: Cast,
    /// In bfloat16.
    pub bf16: Cast,
    /// In FP8 E4M3 (fn).
    pub f8_e4m3: Cast,
    /// In FP8 E5M2.
    pub f8_e5m2: Cast,
}

/// The elements one cast would lose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Cast {
    /// Finite elements that become infinite (E4M3: exceed 448 after rounding).
    pub overflow: u64,
    /// Non-zero elements that become zero.
    pub flush: u64,
    /// Non-zero elements that become subnormal.
    pub subnormal: u64,
}

/// What the rows of a matrix look like (dimension 0 against the rest).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Rows {
    /// Number of rows.
    pub count: u64,
    /// Rows that equal an earlier row up to sign: |cos| > 1 − 1e-6 and equal norm. Zero rows are not counted.
    pub duplicates: u64,
    /// Rows of zeros.
    pub zero: u64,
    /// Largest row norm.
    pub largest_norm: f64,
    /// Its index.
    pub largest_row: u64,
    /// Median row norm.
    pub median_norm: f64,
}

/// What the file's 4 KiB pages under a tensor look like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Pages {
    /// Whole pages under the tensor.
    pub count: u64,
    /// Pages in runs of zero bytes that begin and end at page boundaries inside non-zero data: lost writes.
    pub lost: u64,
    /// File offset of the first lost page.
    pub first_lost: Option<u64>,
    /// Non-constant pages whose bytes repeat an earlier page of the tensor.
    pub repeated: u64,
    /// File offset of the first repeated page.
    pub first_repeated: Option<u64>,
}

/// What a measurement file of an earlier version says of what was added since.
fn not_in_the_file<T>() -> Measured<T> {
    Measured::not("the measurement file was written before this was measured")
}

impl Analysis {
    /// True where at least one element of every checkpoint was looked at.
    pub fn is_judged(&self) -> bool {
        self.checkpoints.iter().all(CheckpointAnalysis::is_judged)
    }
}

impl CheckpointAnalysis {
    /// True where at least one element was looked at.
    pub fn is_judged(&self) -> bool {
        self.tensors.iter().any(|tensor| tensor.statistics.value().is_some())
    }
}

impl Statistics {
    /// Elements that are NaN or infinite.
    pub fn non_finite(&self) -> u64 {
        self.nan.saturating_add(self.positive_infinity).saturating_add(self.negative_infinity)
    }
}

impl TensorAnalysis {
    /// Its name, and of optimizer state the parameter it belongs to: `state.3.exp_avg of layers.3.attn.qkv`.
    pub fn told(&self) -> String {
        match &self.state_of {
            Some(parameter) => format!("{} of {parameter}", self.name),
            None => self.name.clone(),
        }
    }

    /// True for a part of the model whose elements could not be read, so that it may be a parameter.
    pub fn is_unread_weight(&self) -> bool {
        self.section == Section::Model
            && self.role != Role::Buffer
            && self.tied_to.is_none()
            && self.dtype.is_none_or(|dtype| dtype.kind() == Kind::Opaque)
    }

    /// What contradicts itself in a tensor that was not measured here but read from a file.
    pub fn contradiction(&self) -> Option<&'static str> {
        let known = self.dtype.is_some() || !self.shape.is_empty();
        if known && element_count(&self.shape) != Some(self.elements) {
            return Some("its shape does not have that many elements");
        }
        if self.statistics.value().is_some_and(|statistics| statistics.count != self.elements) {
            return Some("its statistics are of another number of elements");
        }
        let exponents = self.statistics.value().and_then(|statistics| statistics.exponents.value());
        if exponents.is_some_and(|exponents| !exponents.are_possible()) {
            return Some("it has exponents that no number of a checkpoint has");
        }
        let rows = self.rows.value();
        let impossible =
            |rows: &Rows| rows.duplicates.max(rows.zero) > rows.count || rows.count > self.elements;
        rows.is_some_and(|rows| impossible(rows)).then_some("it has fewer rows than it counts")
    }

    /// Whether it is a part of an adapter, which stands beside a base model that is elsewhere.
    pub fn is_of_adapter(&self) -> bool {
        self.role.is_adapter() || is_of_adapter(&self.name)
    }

    /// Whether its name is one that a wrapper around the model or a part of it gives.
    pub fn is_wrapped(&self) -> bool {
        is_wrapped(&self.name)
    }

    /// True for what training adjusts: a floating tensor of the model that is no buffer, counted once where tied.
    pub fn is_parameter(&self) -> bool {
        self.section == Section::Model
            && self.role != Role::Buffer
            && self.tied_to.is_none()
            && self.dtype.is_some_and(|dtype| dtype.kind() == Kind::Float)
    }
}
