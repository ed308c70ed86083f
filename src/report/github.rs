//! GitHub annotations: one workflow command a line, the outcome first.

use std::fmt::Write;

use super::Report;
use super::items::{Item, items};
use super::text::{safe_lines, safe_sentence};
use crate::gate::{Effect, Outcome, title};
use crate::rules::Severity;

/// GitHub shows so many annotations of a level for each step and drops the rest without a word.
const SHOWN: usize = 10;

/// The report as workflow commands.
pub fn to_github(report: &Report) -> Vec<u8> {
    let mut text = String::new();
    let (level, sentence) = outcome(report);
    command(&mut text, level, "flashpoint", None, &sentence);
    let items = items(report);
    for level in ["error", "warning", "notice"] {
        let own = items.iter().filter(|item| level_of(item) == Some(level)).collect::<Vec<_>>();
        // One place of each level is for the outcome, and one for what is left out.
        let room = if own.len() < SHOWN { own.len() } else { SHOWN - 2 };
        for item in &own[..room] {
            annotation(&mut text, level, item);
        }
        if own.len() > room {
            let more = format!("and {} more; the report has them all", own.len() - room);
            command(&mut text, level, "flashpoint", None, &more);
        }
    }
    text.into_bytes()
}

fn outcome(report: &Report) -> (&'static str, String) {
    match &report.gate {
        Some(gate) => {
            let level = if gate.outcome == Outcome::Pass { "notice" } else { "error" };
            (level, format!("gate: {}: {}", gate.outcome, gate.sentence))
        }
        None if report.verdict.critical > 0 => ("error", report.verdict.sentence.clone()),
        None if report.verdict.warnings > 0 => ("warning", report.verdict.sentence.clone()),
        None => ("notice", report.verdict.sentence.clone()),
    }
}

/// What was tolerated is in the report, and no annotation.
fn level_of(item: &Item<'_>) -> Option<&'static str> {
    match (item.effect, item.severity) {
        (Effect::Tolerated, _) => None,
        (Effect::Prevents | Effect::Fails, _) => Some("error"),
        (Effect::Noticed, Severity::Critical | Severity::Warning) => Some("warning"),
        (Effect::Noticed, Severity::Note) => Some("notice"),
    }
}

fn annotation(text: &mut String, level: &str, item: &Item<'_>) {
    let title = title(item.check, item.name);
    let file = item.file.map(|file| match item.place {
        "" => file.to_owned(),
        checkpoint if checkpoint.rsplit('/').next() == Some(file) => checkpoint.to_owned(),
        checkpoint => format!("{checkpoint}/{file}"),
    });
    let reason = item.reason.map(|reason| format!("\nwhy: {reason}")).unwrap_or_default();
    let message = format!("{}{reason}\nwhat to do: {}", item.message, item.advice);
    command(text, level, &title, file.as_deref(), &message);
}

fn command(text: &mut String, level: &str, title: &str, file: Option<&str>, message: &str) {
    let file = file.map(|file| format!("file={},", property(file))).unwrap_or_default();
    let lines = safe_lines(message);
    writeln!(text, "::{level} {file}title={}::{}", property(title), data(&lines))
        .expect("writing to a string does not fail");
}

/// A message as a workflow command carries it.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// A property of a workflow command.
fn property(text: &str) -> String {
    data(&safe_sentence(text)).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_name_ends_a_command_or_begins_another() {
        let mut text = String::new();
        command(&mut text, "error", "a,b:c", Some("m\n::set-output name=x::y"), "100%\n::error::z\r");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert_eq!(
            text,
            "::error file=m\\n%3A%3Aset-output name=x%3A%3Ay,title=a%2Cb%3Ac::100%25%0A::error::z\\r\n"
        );
    }
}
