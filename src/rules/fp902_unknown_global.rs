//! Classes and functions in a pickle that nobody knows.

use std::collections::BTreeSet;

use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Danger};

pub(super) static RULE: Rule = Rule {
    code: "FP902",
    name: "unknown-global",
    summary: "a pickle names classes or functions that are on no list",
    page: include_str!("../../docs/rules/FP902-unknown-global.md"),
    severity: Severity::Note,
    confidence: Confidence::Exact,
    needs: Needs::LIST,
    thresholds: &[],
    check: Check::Checkpoint(check),
};

/// So many names fit in a sentence.
const NAMED: usize = 5;

fn check(checkpoint: &CheckpointAnalysis, _: &Thresholds, findings: &mut Findings) {
    let unknown = || checkpoint.globals.iter().filter(|global| global.danger == Danger::Unknown);
    let names: BTreeSet<_> = unknown().map(|global| global.global.escape_debug().to_string()).collect();
    if names.is_empty() {
        return;
    }
    let files: BTreeSet<_> = unknown().map(|global| global.file.as_str()).collect();
    let place = match files.iter().collect::<Vec<_>>()[..] {
        [file] => format!("{file} names"),
        _ => format!("{} files name", files.len()),
    };
    let message = format!("{place} {}, on no list of harmless globals", enumerate(&names));
    let advice =
        "they are inert here; load the file elsewhere only if you know where these classes come from";
    findings.push(Subject::Checkpoint, message, advice).evidence(
        "unknown globals",
        names.len() as f64,
        "names",
    );
}

/// The first few names, and how many more there are.
fn enumerate(names: &BTreeSet<String>) -> String {
    let first = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > NAMED { format!("{first} and {} more", names.len() - NAMED) } else { first }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{checkpoint, global, judge};

    fn message(names: &[&str]) -> String {
        let mut saved = checkpoint(Vec::new());
        saved.globals = names.iter().map(|name| global(name, Danger::Unknown, true)).collect();
        let mut findings = judge(&RULE, &saved);
        assert_eq!(findings.told(), [(Severity::Note, "checkpoint".to_owned())]);
        findings.found.remove(0).message
    }

    #[test]
    fn one_class_is_a_note() {
        assert_eq!(message(&["my.Model"]), "model.pt names my.Model, on no list of harmless globals");
    }

    #[test]
    fn many_are_one_finding_that_names_the_first_few_once() {
        let names = ["f.A", "f.B", "f.C", "f.D", "f.E", "f.F", "f.A"];
        let expected = "model.pt names f.A, f.B, f.C, f.D, f.E and 1 more, on no list of harmless globals";
        assert_eq!(message(&names), expected);
    }

    #[test]
    fn none_is_silent_and_dangerous_ones_belong_to_another_rule() {
        let mut saved = checkpoint(Vec::new());
        assert!(judge(&RULE, &saved).is_clean());
        saved.globals = vec![global("posix.system", Danger::Dangerous, true)];
        assert!(judge(&RULE, &saved).is_clean());
    }
}
