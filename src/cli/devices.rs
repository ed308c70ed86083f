//! `flashpoint devices`: which GPU there is, by which files, and what is missing for what.

use std::path::PathBuf;

use clap::Args;
use flashpoint::compute::cuda;
use flashpoint::error::Result;

use super::Outcome;
use super::output::print;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  flashpoint devices
  flashpoint devices --cuda-libs /opt/cuda-13/lib64
  flashpoint devices --self-test")]
pub struct Arguments {
    /// A directory of CUDA's libraries, looked into first; repeatable
    #[arg(long, value_name = "DIR")]
    cuda_libs: Vec<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<Outcome> {
    print(cuda::inventory(&arguments.cuda_libs).to_string().as_bytes())?;
    Ok(Outcome::Answered)
}
