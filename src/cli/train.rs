//! `flashpoint train`: arguments to a request, progress, and what came out side by side.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};
use flashpoint::context::{Context, DeviceChoice};
use flashpoint::error::{ErrorKind, Result};
use flashpoint::report::train_page;
use flashpoint::train::{
    self, ArmConfig, Clip, Config, Initialization, Interval, LoadSize, Loss, Normalization, Precision,
    Request, Schedule, Shape, Source, WeightUpdate, optimizer,
};

use super::Outcome;
use super::options::{self, context, directories};
use super::training::Watch;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  flashpoint train --save-path runs/nn
  flashpoint train --save-path runs/nn --optimizer torch.adam --optimizer tensorflow.adam --lr 0.001
  flashpoint train --save-path runs/own --data examples.npz --model-name model.toml --clip 1.0 --save-interval 500steps
  flashpoint postmortem runs/nn
  flashpoint resume runs/nn --from last-healthy --clip recommended

A run that is there already goes on from its last checkpoint. What is repeated (--optimizer, --loss, --lr) makes arms that are
trained side by side, from the same weights and on the same batches.")]
pub struct Arguments {
    /// The network: nn, two convolutions and two linear maps; or the path of a model.toml that states its sizes
    #[arg(long, default_value = train::BUILT_IN, value_name = "NAME|PATH", help_heading = "Model and data")]
    model_name: String,
    /// Examples: .npz or safetensors with arrays x and y, or IDX files [default: the built-in set]
    #[arg(long, value_name = "PATH", help_heading = "Model and data")]
    data: Option<PathBuf>,
    /// What is done with every sample
    #[arg(long, value_enum, default_value_t = NormalizationName::SumToOne, help_heading = "Model and data")]
    normalization: NormalizationName,
    /// How much of the training examples to use: a share (with a point, or 1), or a count
    #[arg(
        long,
        default_value = "1",
        value_name = "SHARE|COUNT",
        allow_negative_numbers = true,
        help_heading = "Model and data"
    )]
    train_load_size: LoadSize,
    /// The same of the validation examples
    #[arg(
        long,
        default_value = "1",
        value_name = "SHARE|COUNT",
        allow_negative_numbers = true,
        help_heading = "Model and data"
    )]
    validation_load_size: LoadSize,
    /// The same of the test examples
    #[arg(
        long,
        default_value = "1",
        value_name = "SHARE|COUNT",
        allow_negative_numbers = true,
        help_heading = "Model and data"
    )]
    test_load_size: LoadSize,
    /// Passes over the training examples
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000), help_heading = "Training")]
    num_epochs: u64,
    /// Examples of a step
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000), help_heading = "Training")]
    batch_size: u32,
    /// torch. or tensorflow. with sgd, adam, adamw or rmsprop; repeatable
    #[arg(long, default_value = "torch.adam", value_name = "NAME", help_heading = "Training")]
    optimizer: Vec<optimizer::Name>,
    /// torch. or tensorflow. with cross-entropy or mse; repeatable
    #[arg(long, default_value = "torch.cross-entropy", value_name = "NAME", help_heading = "Training")]
    loss: Vec<Loss>,
    /// Learning rate; repeatable
    #[arg(long, default_value = "0.001", value_name = "RATE", value_parser = rate, allow_negative_numbers = true, help_heading = "Training")]
    lr: Vec<f64>,
    /// How weights start: zeros, normal, xavier, he or orthogonal
    #[arg(long, default_value = "he", value_name = "NAME", help_heading = "Training")]
    weight_initialization: Initialization,
    /// optimizer.step, or gradient-descent: w - lr·g and nothing else
    #[arg(long, default_value = "optimizer.step", value_name = "HOW", help_heading = "Training")]
    weight_update: WeightUpdate,
    /// Start over from the initial weights with fresh optimizer state; a run that is there is set aside
    #[arg(long, default_value = "False", value_name = "True|False", value_parser = truth, num_args = 0..=1, default_missing_value = "True", action = ArgAction::Set, help_heading = "Training")]
    weight_reset: bool,
    /// Course of the learning rate
    #[arg(long, value_enum, default_value_t = ShapeName::Constant, help_heading = "Training")]
    schedule: ShapeName,
    /// Steps in which the learning rate rises to its full value
    #[arg(long, default_value_t = 0, value_name = "STEPS", help_heading = "Training")]
    warmup: u64,
    /// Clip gradients: a method of `flashpoint clip`, a number for their norm, or `recommended`
    #[arg(
        long,
        value_name = "METHOD|N|recommended",
        allow_negative_numbers = true,
        help_heading = "Training"
    )]
    clip: Option<Clip>,
    /// In what parameters are kept: f32 or bf16
    #[arg(long, default_value = "f32", value_name = "DTYPE", help_heading = "Training")]
    dtype: Precision,
    /// With bf16, keep parameters in f32 as well
    #[arg(long, help_heading = "Training")]
    master: bool,
    /// Of SGD and RMSprop [default: 0]
    #[arg(long, value_name = "M", value_parser = share, allow_negative_numbers = true, help_heading = "Training")]
    momentum: Option<f64>,
    /// Of all optimizers: an L2 penalty or decoupled, as the framework has it [default: the framework's]
    #[arg(long, value_name = "W", value_parser = share, allow_negative_numbers = true, help_heading = "Training")]
    weight_decay: Option<f64>,
    /// Of Adam and AdamW [default: 0.999]
    #[arg(long, value_name = "B", value_parser = share, allow_negative_numbers = true, help_heading = "Training")]
    beta2: Option<f64>,
    /// Of Adam, AdamW and RMSprop [default: the framework's]
    #[arg(long, value_name = "E", value_parser = rate, allow_negative_numbers = true, help_heading = "Training")]
    epsilon: Option<f64>,
    /// What forward and backward passes run on: cpu, cuda or cuda:N. The bits of a run depend on it
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device, help_heading = "Training")]
    device: DeviceChoice,
    /// A directory of CUDA's libraries, looked into first; repeatable
    #[arg(long, value_name = "DIR", help_heading = "Training")]
    cuda_libs: Vec<PathBuf>,
    /// Of all random numbers but those of the built-in set
    #[arg(long, default_value_t = 0, value_name = "N", help_heading = "Training")]
    seed: u64,
    /// Stop after so many steps in all, with a checkpoint; the same command without it goes on
    #[arg(long, value_name = "STEPS", help_heading = "Training")]
    max_steps: Option<u64>,
    /// Where the run goes; with several arms, a directory for each in it
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    save_path: PathBuf,
    /// Epochs from one checkpoint to the next, or steps: 100steps
    #[arg(long, default_value = "1", value_name = "N|Nsteps", help_heading = "Output")]
    save_interval: Interval,
    /// Steps from one gradient dump to the next [default: none]
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Output")]
    gradient_interval: Option<u64>,
    /// Threads to use [default: one per core]; results do not depend on it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// No progress on stderr
    #[arg(long, short, help_heading = "Output")]
    quiet: bool,
}

/// `--normalization`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum NormalizationName {
    /// As they are
    None,
    /// Each divided by its sum; samples must not be negative
    SumToOne,
    /// Each feature with mean 0 and deviation 1 over the training examples
    Standard,
}

/// `--schedule`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ShapeName {
    /// It stays
    Constant,
    /// To zero, in a line
    Linear,
    /// To zero, along half a cosine
    Cosine,
    /// A tenth after half of the steps, a hundredth after three quarters
    Step,
}

/// Only what was asked for: what a run is computed on decides its bits.
fn device(text: &str) -> std::result::Result<DeviceChoice, String> {
    match options::device(text) {
        Ok(DeviceChoice::Auto) | Err(_) => Err("a run is trained on cpu, cuda, or cuda:N".to_owned()),
        chosen => chosen,
    }
}

fn rate(text: &str) -> std::result::Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if value > 0.0 && value.is_finite() {
        Ok(value)
    } else {
        Err(format!("{text} is not above 0 and finite"))
    }
}

fn share(text: &str) -> std::result::Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (0.0..1.0).contains(&value) { Ok(value) } else { Err(format!("{text} does not lie in 0 to 1")) }
}

fn truth(text: &str) -> std::result::Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("{text:?} is neither True nor False")),
    }
}

pub fn run(arguments: &Arguments) -> Result<Outcome> {
    let mut context = context(arguments.threads)?;
    context.device.libraries = directories(&arguments.cuda_libs)?;
    let request = Request {
        save_path: arguments.save_path.clone(),
        arms: arguments.arms(&context)?,
        weight_reset: arguments.weight_reset,
        max_steps: arguments.max_steps,
    };
    let mut watch = Watch::start(arguments.quiet);
    let trained = train::train(&request, &context, &mut |event| watch.see(event))?;
    watch.finish();
    print!("{}", train_page(&trained));
    Ok(if context.cancelled() { Outcome::Interrupted } else { Outcome::Answered })
}

impl Arguments {
    /// Refuses a setting that no arm has a use for: what came of the run would be taken for its effect.
    fn refuse_what_is_without_effect(&self) -> Result<()> {
        let any = |uses: fn(optimizer::Name) -> bool| {
            self.weight_update == WeightUpdate::OptimizerStep && self.optimizer.iter().any(|&name| uses(name))
        };
        let settings = [
            ("--momentum", self.momentum.is_some(), any(optimizer::Name::has_momentum)),
            ("--weight-decay", self.weight_decay.is_some(), any(|_| true)),
            ("--beta2", self.beta2.is_some(), any(optimizer::Name::has_beta2)),
            ("--epsilon", self.epsilon.is_some(), any(optimizer::Name::has_epsilon)),
            ("--master", self.master, self.dtype == Precision::Bf16),
        ];
        let Some((flag, ..)) = settings.iter().find(|(_, is_given, is_used)| *is_given && !is_used) else {
            return Ok(());
        };
        let message = "it would be without effect: no arm has a use for it".to_owned();
        let advice = "leave it out, or choose what uses it: flashpoint help train says what does";
        Err(ErrorKind::NotDone { message, advice }.in_file(std::path::Path::new(flag)))
    }

    /// One configuration for each arm: what is given once is for all of them.
    fn arms(&self, context: &Context) -> Result<Vec<Config>> {
        self.refuse_what_is_without_effect()?;
        let model = train::read_model(&self.model_name, context)?;
        let count = self.optimizer.len().max(self.loss.len()).max(self.lr.len());
        let arm = |index: usize| -> Result<Config> {
            let arm = ArmConfig {
                optimizer: *of(&self.optimizer, index, count, "--optimizer")?,
                settings: optimizer::Settings {
                    momentum: self.momentum,
                    weight_decay: self.weight_decay,
                    beta2: self.beta2,
                    epsilon: self.epsilon,
                },
                loss: *of(&self.loss, index, count, "--loss")?,
                lr: *of(&self.lr, index, count, "--lr")?,
                schedule: Schedule { shape: self.shape(), warmup: self.warmup },
                clip: self.clip,
                weight_update: self.weight_update,
                dtype: self.dtype,
                master: self.master,
            };
            Ok(Config {
                model_name: self.model_name.clone(),
                model: model.clone(),
                source: self.source(),
                num_epochs: self.num_epochs,
                batch_size: self.batch_size as usize,
                save_interval: self.save_interval,
                gradient_interval: self.gradient_interval,
                weight_initialization: self.weight_initialization,
                seed: self.seed,
                cuda: self.cuda(),
                arm,
                skip_batches: Vec::new(),
            })
        };
        (0..count).map(arm).collect()
    }

    fn cuda(&self) -> Option<usize> {
        match self.device {
            DeviceChoice::Auto | DeviceChoice::Cpu => None,
            DeviceChoice::Cuda(ordinal) => Some(ordinal),
        }
    }

    fn source(&self) -> Source {
        Source {
            data: self.data.clone(),
            normalization: match self.normalization {
                NormalizationName::None => Normalization::None,
                NormalizationName::SumToOne => Normalization::SumToOne,
                NormalizationName::Standard => Normalization::Standard,
            },
            train_load_size: self.train_load_size,
            validation_load_size: self.validation_load_size,
            test_load_size: self.test_load_size,
        }
    }

    fn shape(&self) -> Shape {
        match self.schedule {
            ShapeName::Constant => Shape::Constant,
            ShapeName::Linear => Shape::Linear,
            ShapeName::Cosine => Shape::Cosine,
            ShapeName::Step => Shape::Step,
        }
    }
}

/// The value of an arm.
fn of<'v, T>(values: &'v [T], index: usize, count: usize, flag: &'static str) -> Result<&'v T> {
    match values {
        [one] => Ok(one),
        several if several.len() == count => Ok(&several[index]),
        several => {
            let message = format!("it is given {} times, and there are {count} arms", several.len());
            Err(ErrorKind::UnpairedArms { message }.in_file(std::path::Path::new(flag)))
        }
    }
}
