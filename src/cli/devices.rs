//! `flashpoint devices`: which GPU there is, by which files, and what is missing for what.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use flashpoint::analysis::self_test::{self, Check, Extent};
use flashpoint::compute::cuda;
use flashpoint::error::{ErrorKind, Result};

use super::Outcome;
use super::options::directories;
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
    /// Compare everything that a GPU computes with the processor
    #[arg(long)]
    self_test: bool,
    /// Leave out large matrices
    #[arg(long, requires = "self_test")]
    quick: bool,
    /// The GPU to test
    #[arg(long, value_name = "N", default_value_t = 0, requires = "self_test")]
    number: usize,
}

pub fn run(arguments: &Arguments) -> Result<Outcome> {
    let libraries = directories(&arguments.cuda_libs)?;
    print(cuda::inventory(&libraries).to_string().as_bytes())?;
    if !arguments.self_test {
        return Ok(Outcome::Answered);
    }
    let device = cuda::open(arguments.number, &libraries).map_err(|reason| {
        let option = format!("--number {}", arguments.number);
        ErrorKind::NoDevice { message: reason.to_string() }.in_file(Path::new(&option))
    })?;
    let extent = if arguments.quick { Extent::Quick } else { Extent::Whole };
    let checks = self_test::run(&device, &std::env::temp_dir(), extent)?;
    let mut text = format!("self-test of {}, against the processor\n", device.name());
    for Check { name, outcome } in &checks {
        let told = match outcome {
            Ok((0.0, 0.0)) => "pass, the same bits".to_owned(),
            Ok((difference, allowed)) if difference <= allowed => {
                format!("pass, {difference:.1e} apart, at most {allowed:.1e}")
            }
            Ok((difference, allowed)) => format!("FAIL, {difference:.1e} apart, at most {allowed:.1e}"),
            Err(reason) => format!("FAIL, {reason}"),
        };
        writeln!(text, "{name}: {told}").expect("writing to a string does not fail");
    }
    let failed = checks.iter().filter(|check| !check.has_passed()).count();
    writeln!(text, "{} checks, {failed} failed", checks.len()).expect("writing to a string does not fail");
    print(text.as_bytes())?;
    Ok(if failed == 0 { Outcome::Answered } else { Outcome::CouldNot })
}
