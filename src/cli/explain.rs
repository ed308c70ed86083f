//! `flashpoint explain FP101`: the page of one rule.

use clap::Args;
use flashpoint::error::{ErrorKind, Result};
use flashpoint::rules;
use std::path::Path;

use super::Outcome;
use super::output::print;

#[derive(Debug, Args)]
pub struct Arguments {
    /// A rule's code or name, as `flashpoint rules` lists them
    #[arg(value_name = "RULE")]
    rule: String,
}

pub fn run(arguments: &Arguments) -> Result<Outcome> {
    let Some(rule) = rules::find(&arguments.rule) else {
        return Err(ErrorKind::UnknownRule { code: arguments.rule.clone() }.in_file(Path::new("explain")));
    };
    print(rule.page.as_bytes())?;
    Ok(Outcome::Answered)
}
