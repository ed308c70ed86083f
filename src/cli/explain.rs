//! `flashpoint explain FP101`: the page of one rule.

use std::path::Path;

use clap::Args;
use flashpoint::error::{ErrorKind, Result};
use flashpoint::report::rule_page;
use flashpoint::rules::{self, did_you_mean};

use super::Outcome;
use super::options::Color;
use super::output::print;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  flashpoint explain FP203
  flashpoint explain wrong-gain --color always | less -R")]
pub struct Arguments {
    /// A rule's code or name, as `flashpoint rules` lists them
    #[arg(value_name = "RULE")]
    rule: String,
    /// Bold headings and coloured code in place of Markdown
    #[arg(long, value_enum, default_value_t = Color::Auto, help_heading = "Output")]
    color: Color,
}

pub fn run(arguments: &Arguments) -> Result<Outcome> {
    let Some(rule) = rules::find(&arguments.rule) else {
        let nearest =
            did_you_mean(&arguments.rule, rules::RULES.iter().flat_map(|rule| [rule.code, rule.name]));
        return Err(
            ErrorKind::UnknownRule { code: arguments.rule.clone(), nearest }.in_file(Path::new("explain"))
        );
    };
    if arguments.color.on_stdout() {
        print(rule_page(rule.page).as_bytes())?;
    } else {
        print(rule.page.as_bytes())?;
    }
    Ok(Outcome::Answered)
}
