//! The help of flashpoint as a whole: its commands under what people come for.

use clap::builder::StyledStr;
use clap::{Command, CommandFactory};

use super::Arguments;

/// What people come for, and the commands for it, in the order in which they are needed.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Look", &["inspect", "postmortem", "clip", "jacobian", "diff", "measure"]),
    ("Judge", &["gate"]),
    ("Go on", &["resume", "repair", "convert", "train"]),
    ("Help", &["rules", "explain", "devices", "completions", "man", "help"]),
];

/// The command line, whose help lists its commands in groups.
pub fn grouped() -> Command {
    let whole = Arguments::command();
    let template = template(&whole);
    whole.help_template(template)
}

/// clap's own template, with its list of commands cut into groups. A command of none stands under "Other".
fn template(whole: &Command) -> StyledStr {
    let mut listed = listed(whole);
    let header = whole.get_styles().get_header();
    let mut groups = Vec::new();
    for (title, names) in GROUPS {
        let mut own = Vec::new();
        for name in names {
            if let Some(index) = listed.iter().position(|(known, _)| known == name) {
                own.push(listed.remove(index).1);
            }
        }
        groups.push((title, own));
    }
    groups.push(("Other", listed.into_iter().map(|(_, entry)| entry).collect()));
    groups.retain(|(_, entries)| !entries.is_empty());
    let groups = groups
        .iter()
        .map(|(title, entries)| format!("{header}{title}:{header:#}\n{}\n", entries.concat()))
        .collect::<Vec<_>>()
        .concat();
    let before = "{before-help}{about-with-newline}\n{usage-heading} {usage}\n\n";
    format!("{before}{groups}{header}Options:{header:#}\n{{options}}{{after-help}}").into()
}

/// Every command with its lines in the list, as clap breaks and colours them.
fn listed(whole: &Command) -> Vec<(String, String)> {
    let rendered = whole.clone().help_template("{subcommands}").render_help();
    let (plain, colored) = (rendered.to_string(), rendered.ansi().to_string());
    let mut entries: Vec<(String, String)> = Vec::new();
    for (plain, colored) in plain.lines().zip(colored.lines()) {
        // An entry begins two columns in; what does not fit on its line goes on farther in.
        let begins = plain.strip_prefix("  ").is_some_and(|rest| !rest.starts_with(' '));
        if begins {
            entries.push((plain.split_whitespace().next().unwrap_or_default().to_owned(), String::new()));
        }
        if let Some((_, lines)) = entries.last_mut().filter(|_| !plain.trim().is_empty()) {
            lines.push_str(colored);
            lines.push('\n');
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_stands_in_one_group_with_the_words_of_its_own_help() {
        let help = grouped().render_help().to_string();
        assert!(!help.contains("Other:"), "{help}");
        let whole = Arguments::command();
        for command in whole.get_subcommands() {
            let lines =
                help.lines().filter(|line| line.split_whitespace().next() == Some(command.get_name()));
            assert_eq!(lines.count(), 1, "{}: {help}", command.get_name());
            let about = command.get_about().expect("it says what it does").to_string();
            let flat = help.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(flat.contains(&about), "{about}: {help}");
        }
        for title in ["Look:", "Judge:", "Go on:", "Help:", "Options:", "Examples:", "Exit codes:"] {
            assert!(help.contains(&format!("\n{title}")), "{title} {help}");
        }
    }
}
