//! The command line: parse, run, map to an exit code.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run(cli::parse()) {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            eprintln!("flashpoint: {error}");
            cli::Outcome::CouldNot.into()
        }
    }
}
