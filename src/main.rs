//! The command line: parse, run, map to an exit code.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    match cli::run(arguments) {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            eprintln!("flashpoint: {error}");
            cli::Outcome::CouldNot.into()
        }
    }
}
