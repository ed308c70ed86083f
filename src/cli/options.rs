//! Flags that mean the same on every subcommand that has them.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use clap::{Args, ValueEnum, value_parser};
use flashpoint::analysis::model::MeasureLevel;
use flashpoint::checkpoint::names::Glob;
use flashpoint::compute::cuda::{self, Unavailable};
use flashpoint::context::{Context, DeviceChoice, DeviceSettings, StatedConvolution};
use flashpoint::error::{Error, ErrorKind, Result};
use flashpoint::gate::Policy;
use flashpoint::rules::Severity;

/// A value that is a number above 0.
pub fn positive(text: &str) -> std::result::Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "a number above 0".to_owned())
}

/// How to read and measure.
#[derive(Debug, Args)]
pub struct Reading {
    /// How deep to measure, each level with those before it [default: spectra for inspect, for diff, and for measure
    /// but of a run's directory; otherwise stats]
    #[arg(long, value_enum, help_heading = "Reading")]
    pub measure: Option<Level>,
    /// Sizes of the input that convolutions are measured at, such as 32x32
    #[arg(long, value_name = "SIZES", value_parser = input_size, help_heading = "Reading")]
    pub input_size: Option<InputSize>,
    /// What neither the config nor the shapes say of convolutions: names, and any of stride, padding, dilation, groups and input, such
    /// as 'layer?.0.conv2=stride:2,padding:1'; repeatable
    #[arg(long, value_name = "GLOB=KEY:SIZE,…", value_parser = convolution, help_heading = "Reading")]
    pub convolution: Vec<StatedConvolution>,
    /// Threads to use [default: one per core]; results do not depend on it
    #[arg(long, value_name = "N", help_heading = "Reading", value_parser = value_parser!(u16).range(1..=MOST_THREADS))]
    pub threads: Option<u16>,
    #[command(flatten)]
    pub device: DeviceFlags,
    /// Read into bounded buffers instead of mapping files: for network file systems and files still being written
    #[arg(long, help_heading = "Reading")]
    pub no_mmap: bool,
    /// Limits and names of your own [default: flashpoint.toml in the current directory, if there is one]
    #[arg(long, visible_alias = "policy", value_name = "FILE", help_heading = "Reading")]
    pub config: Option<PathBuf>,
}

/// `--device` and what belongs to it.
#[derive(Debug, Clone, Args)]
pub struct DeviceFlags {
    /// Where to compute: `auto` takes the first GPU for the spectra of a checkpoint of many elements and for large Jacobians, and the
    /// processor without one; `cpu`; `cuda` or `cuda:N` takes that GPU for spectra of matrices, norms and Jacobians in f32, and fails where
    /// there is none
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = device, help_heading = "Reading")]
    pub device: DeviceChoice,
    /// A directory of CUDA's libraries, looked into first; repeatable
    #[arg(long, value_name = "DIR", help_heading = "Reading")]
    pub cuda_libs: Vec<PathBuf>,
}

impl DeviceFlags {
    /// What they say, after a look at the device: one that was asked for and cannot be used is an error.
    pub fn settings(&self) -> Result<DeviceSettings> {
        let settings = DeviceSettings {
            choice: self.device,
            libraries: directories(&self.cuda_libs)?,
            ..DeviceSettings::default()
        };
        if let DeviceChoice::Cuda(ordinal) = self.device {
            let refused = |reason: Unavailable| {
                ErrorKind::NoDevice { message: reason.to_string() }
                    .in_file(Path::new(&format!("--device cuda:{ordinal}")))
            };
            cuda::open(ordinal, &settings.libraries).map_err(refused)?;
        }
        Ok(settings)
    }
}

/// The directories of `--cuda-libs` by their whole paths: a relative one would be another where libraries are looked for later.
///
/// # Errors
/// One that is not there, or no directory.
pub fn directories(named: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let whole = |path: &PathBuf| -> Result<PathBuf> {
        let refused = |error: &std::io::Error| Error::io(path, "look for CUDA's libraries in it", error);
        let whole = path.canonicalize().map_err(|error| refused(&error))?;
        if whole.is_dir() { Ok(whole) } else { Err(refused(&std::io::ErrorKind::NotADirectory.into())) }
    };
    named.iter().map(whole).collect()
}

/// A device by its name.
pub fn device(text: &str) -> std::result::Result<DeviceChoice, String> {
    match text {
        "auto" => Ok(DeviceChoice::Auto),
        "cpu" => Ok(DeviceChoice::Cpu),
        "cuda" => Ok(DeviceChoice::Cuda(0)),
        _ => {
            let ordinal = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
            ordinal.map(DeviceChoice::Cuda).ok_or_else(|| "a device is auto, cpu, cuda, or cuda:N".to_owned())
        }
    }
}

/// `--measure`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Level {
    /// Names, shapes, dtypes
    List,
    /// Counts, extrema, norms
    Norms,
    /// Moments, exponents, rows and pages as well
    Stats,
    /// The largest singular values as well, with a bracket
    Spectra,
    /// All singular values as well
    Full,
    /// The Jacobians of the network as well, at synthetic probes
    Jacobian,
}

/// Sizes of an input, one for each axis.
#[derive(Debug, Clone)]
pub struct InputSize(Vec<u64>);

/// Larger inputs make larger vectors than a convolution is worth.
const LARGEST_INPUT: u64 = 1 << 20;

fn input_size(text: &str) -> std::result::Result<InputSize, String> {
    let sizes: Option<Vec<u64>> =
        text.split('x').map(|size| size.parse().ok().filter(|size| *size > 0)).collect();
    let sizes = sizes.ok_or_else(|| "sizes are numbers with an x between them, such as 32x32".to_owned())?;
    match sizes.iter().try_fold(1u64, |places, size| places.checked_mul(*size)) {
        Some(places) if places <= LARGEST_INPUT => Ok(InputSize(sizes)),
        _ => Err(format!("more than {LARGEST_INPUT} places")),
    }
}

/// A glob over names of weights or of their modules, and what is said of these convolutions.
fn convolution(text: &str) -> std::result::Result<StatedConvolution, String> {
    let (names, said) = text.rsplit_once('=').ok_or("names and sizes have an = between them")?;
    // Who names the module means its weight.
    let names = if names.ends_with('*') || names.ends_with("weight") {
        names.to_owned()
    } else {
        format!("{names}.weight")
    };
    Glob::new(&names)?;
    let mut stated = StatedConvolution { names, ..StatedConvolution::default() };
    for one in said.split(',') {
        let (key, sizes) = one.split_once(':').ok_or("a key and its sizes have a : between them")?;
        let sizes: Option<Vec<u64>> = sizes.split('x').map(|size| size.parse().ok()).collect();
        let sizes = sizes.filter(|sizes| sizes.iter().all(|size| *size <= LARGEST_INPUT));
        let sizes = sizes.ok_or_else(|| format!("sizes of {key} are numbers of at most {LARGEST_INPUT}"))?;
        if key != "padding" && sizes.contains(&0) {
            return Err(format!("{key} is at least 1"));
        }
        match key {
            "stride" => stated.stride = sizes,
            "padding" => stated.padding = sizes,
            "dilation" => stated.dilation = sizes,
            "input" => stated.input = sizes,
            "groups" => match sizes[..] {
                [groups] => stated.groups = Some(groups),
                _ => return Err("groups is one number".to_owned()),
            },
            _ => return Err("the keys are stride, padding, dilation, groups and input".to_owned()),
        }
    }
    Ok(stated)
}

/// More threads than any machine has cores only take each other's time.
const MOST_THREADS: i64 = 1024;

/// What a shell reports of a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// The policy file that is used when it is there.
pub const DEFAULT_POLICY: &str = "flashpoint.toml";

impl Reading {
    /// Whether only names and shapes are asked for.
    pub fn is_list(&self) -> bool {
        matches!(self.measure, Some(Level::List))
    }

    /// The level that was asked for, or everything but spectra.
    pub fn level(&self) -> MeasureLevel {
        self.level_or(MeasureLevel::Stats)
    }

    /// The level that was asked for, or `default`.
    pub fn level_or(&self, default: MeasureLevel) -> MeasureLevel {
        match self.measure {
            None => default,
            Some(Level::List) => MeasureLevel::List,
            Some(Level::Norms) => MeasureLevel::Norms,
            Some(Level::Stats) => MeasureLevel::Stats,
            Some(Level::Spectra) => MeasureLevel::Spectra,
            Some(Level::Full) => MeasureLevel::Full,
            Some(Level::Jacobian) => MeasureLevel::Jacobian,
        }
    }

    /// Sets the number of threads up and Ctrl-C to end with what is known.
    pub fn context(&self) -> Result<Context> {
        let device = self.device.settings()?;
        let shared = context(self.threads)?;
        let input_size = self.input_size.clone().map(|size| size.0).unwrap_or_default();
        let convolutions = self.convolution.clone();
        Ok(Context { mmap: !self.no_mmap, input_size, convolutions, device, ..shared })
    }

    /// The policy named by `--config`, or the one in the current directory, or none.
    pub fn policy(&self, context: &Context) -> Result<Policy> {
        match &self.config {
            Some(path) => Policy::read(path, context),
            None if Path::new(DEFAULT_POLICY).is_file() => Policy::read(Path::new(DEFAULT_POLICY), context),
            None => Ok(Policy::default()),
        }
    }
}

/// A context with so many threads, and Ctrl-C set up to end with what is known.
pub fn context(threads: Option<u16>) -> Result<Context> {
    let context = Context::default();
    if let Some(threads) = threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(usize::from(threads)).build_global();
        let refused = |error: rayon::ThreadPoolBuildError| {
            ErrorKind::Io { doing: "start that many threads", message: error.to_string() }
                .in_file(Path::new("--threads"))
        };
        pool.map_err(refused)?;
    }
    let cancel = context.cancel.clone();
    let handler = ctrlc::set_handler(move || {
        // Whoever asks twice does not want to wait for the partial report either.
        if cancel.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED);
        }
    });
    // Without the handler Ctrl-C ends the process as it always does: nothing is lost but the partial report.
    drop(handler);
    Ok(context)
}

/// Digests of the files that are read.
#[derive(Debug, Args)]
pub struct Digests {
    /// Leave the BLAKE3 digest of every file out
    #[arg(long, help_heading = "Reading")]
    pub no_digest: bool,
}

impl Digests {
    /// Whether files are digested while they are measured.
    pub fn wanted(&self) -> bool {
        !self.no_digest
    }
}

/// What counts as failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// Findings never change the exit code
    Never,
    /// Critical findings exit with 1
    Critical,
    /// Critical findings and warnings exit with 1
    Warning,
}

impl FailOn {
    /// True where the worst finding is at or above the limit.
    pub fn fails(self, worst: Option<Severity>) -> bool {
        match self {
            FailOn::Never => false,
            FailOn::Critical => worst >= Some(Severity::Critical),
            FailOn::Warning => worst >= Some(Severity::Warning),
        }
    }
}

/// `--color`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Color {
    /// When stdout is a terminal and NO_COLOR is not set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl Color {
    /// Whether to colour what goes to stdout.
    pub fn on_stdout(self) -> bool {
        match self {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
                wanted && std::io::stdout().is_terminal()
            }
        }
    }
}
