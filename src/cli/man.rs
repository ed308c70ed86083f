//! `flashpoint man`: the manual page, of the whole or of one command.

use std::path::Path;

use clap::{Args, CommandFactory};
use clap_mangen::Man;
use flashpoint::error::{Error, ErrorKind, Result};
use flashpoint::rules::did_you_mean;

use super::Outcome;
use super::output::print;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  flashpoint man | man -l -
  flashpoint man postmortem > flashpoint-postmortem.1")]
pub struct Arguments {
    /// A command [default: the page of flashpoint itself]
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

pub fn run(arguments: &Arguments) -> Result<Outcome> {
    let mut whole = super::Arguments::command();
    whole.build();
    let command = match &arguments.command {
        None => whole,
        Some(name) => {
            let Some(command) = whole.find_subcommand(name) else {
                let nearest = did_you_mean(name, whole.get_subcommands().map(clap::Command::get_name));
                return Err(
                    ErrorKind::UnknownCommand { name: name.clone(), nearest }.in_file(Path::new("man"))
                );
            };
            command.clone()
        }
    };
    let mut page = Vec::new();
    Man::new(command).render(&mut page).map_err(|error| Error::io(Path::new("man"), "write it", &error))?;
    print(&page)?;
    Ok(Outcome::Answered)
}
