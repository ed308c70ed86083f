//! `flashpoint explain FP101`: the page of one rule, or what a check of the gate says of itself.

use std::borrow::Cow;
use std::path::Path;

use clap::Args;
use flashpoint::error::{ErrorKind, Result};
use flashpoint::gate;
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
    /// A rule's code or name, as `flashpoint rules` lists them, or the code of a check of the gate (gate-limit)
    #[arg(value_name = "RULE")]
    rule: String,
    /// Bold headings and coloured code in place of Markdown
    #[arg(long, value_enum, default_value_t = Color::Auto, help_heading = "Output")]
    color: Color,
}

pub fn run(arguments: &Arguments) -> Result<Outcome> {
    let Some(page) = page(&arguments.rule) else {
        let names = rules::RULES.iter().flat_map(|rule| [rule.code, rule.name]);
        let codes = gate::CHECKS.iter().map(|check| check.code);
        let nearest = did_you_mean(&arguments.rule, names.chain(codes));
        return Err(
            ErrorKind::UnknownRule { code: arguments.rule.clone(), nearest }.in_file(Path::new("explain"))
        );
    };
    if arguments.color.on_stdout() {
        print(rule_page(&page).as_bytes())?;
    } else {
        print(page.as_bytes())?;
    }
    Ok(Outcome::Answered)
}

/// The page of a rule, or what a check of the gate's own says of itself.
fn page(code_or_name: &str) -> Option<Cow<'static, str>> {
    let of_gate = || gate::find_check(&code_or_name.to_ascii_lowercase());
    rules::find(code_or_name)
        .map(|rule| Cow::Borrowed(rule.page))
        .or_else(|| of_gate().map(|check| Cow::Owned(check.page())))
}
