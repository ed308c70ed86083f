//! `flashpoint completions SHELL`: the script that completes commands and flags in a shell.

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use flashpoint::error::Result;

use super::Outcome;
use super::output::print;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  flashpoint completions bash > ~/.local/share/bash-completion/completions/flashpoint
  flashpoint completions zsh > ~/.zfunc/_flashpoint
  flashpoint completions fish > ~/.config/fish/completions/flashpoint.fish")]
pub struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(arguments: &Arguments) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::Arguments::command(), "flashpoint", &mut script);
    print(&script)?;
    Ok(Outcome::Answered)
}
