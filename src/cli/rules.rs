//! `flashpoint rules`: every rule in a line.

use clap::Args;
use flashpoint::error::Result;
use flashpoint::rules::RULES;

use super::Outcome;
use super::output::print;

#[derive(Debug, Args)]
pub struct Arguments {}

pub fn run(_: &Arguments) -> Result<Outcome> {
    let lines = RULES.iter().map(|rule| {
        let confidence = rule.confidence.to_string();
        format!("{}  {:<8}  {confidence:<10}  {}: {}\n", rule.code, rule.severity, rule.name, rule.summary)
    });
    print(lines.collect::<String>().as_bytes())?;
    Ok(Outcome::Answered)
}
