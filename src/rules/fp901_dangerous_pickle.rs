//! A pickle that would run code when loaded.

use std::collections::HashMap;

use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Danger, GlobalAnalysis};

pub(super) static RULE: Rule = Rule {
    code: "FP901",
    name: "dangerous-pickle",
    summary: "a pickle names a function that runs code, opens files or reaches the network",
    page: include_str!("../../docs/rules/FP901-dangerous-pickle.md"),
    severity: Severity::Critical,
    confidence: Confidence::Exact,
    needs: Needs::LIST,
    thresholds: &[],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, _: &Thresholds, findings: &mut Findings) {
    let mut called = calls(checkpoint);
    for global in checkpoint.globals.iter().filter(|global| global.danger == Danger::Dangerous) {
        // Removed once told: a name is reported at the first place that names it.
        if let Some(called) = called.remove(&place(global)) {
            report(global, called, findings);
        }
    }
}

/// For every file and name in it, whether any of the places that name it also calls it.
///
/// One map for all, because a hostile file names tens of thousands.
fn calls(checkpoint: &CheckpointAnalysis) -> HashMap<(&str, &str), bool> {
    let mut calls = HashMap::new();
    for global in &checkpoint.globals {
        *calls.entry(place(global)).or_insert(false) |= global.called;
    }
    calls
}

fn place(global: &GlobalAnalysis) -> (&str, &str) {
    (&global.file, &global.global)
}

fn report(global: &GlobalAnalysis, called: bool, findings: &mut Findings) {
    let message = format!(
        "{} {} {}, at byte {} of its pickle: {}",
        global.file,
        if called { "calls" } else { "names" },
        global.global.escape_debug(),
        global.offset,
        if called {
            "loading it runs code of its author's choice"
        } else {
            "loading it puts that within reach"
        },
    );
    let advice = "do not load this file with pickle or torch.load; ask its author for safetensors, or take an earlier copy";
    findings.push(Subject::File(global.file.clone()), message, advice).evidence(
        "offset in the pickle",
        global.offset as f64,
        "bytes",
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{checkpoint, global, judge};

    #[test]
    fn a_called_function_is_critical_and_said_to_be_called() {
        let mut saved = checkpoint(Vec::new());
        saved.globals = vec![global("posix.system", Danger::Dangerous, true)];
        let findings = judge(&RULE, &saved);
        assert_eq!(findings.told(), [(Severity::Critical, "model.pt".to_owned())]);
        assert!(findings.found[0].message.starts_with("model.pt calls posix.system, at byte 27"));
    }

    #[test]
    fn a_function_that_is_only_named_is_critical_too() {
        let mut saved = checkpoint(Vec::new());
        saved.globals = vec![global("posix.system", Danger::Dangerous, false)];
        assert!(judge(&RULE, &saved).found[0].message.contains("names posix.system"));
    }

    #[test]
    fn the_same_function_twice_is_one_finding() {
        let mut saved = checkpoint(Vec::new());
        let named = |called| global("posix.system", Danger::Dangerous, called);
        saved.globals = vec![named(false), named(true), global("builtins.eval", Danger::Dangerous, true)];
        let findings = judge(&RULE, &saved);
        assert_eq!(findings.found.len(), 2);
        assert!(findings.found[0].message.contains("calls posix.system"));
    }

    #[test]
    fn a_hundred_thousand_different_functions_are_found_in_one_pass() {
        let mut saved = checkpoint(Vec::new());
        let named = |index| global(&format!("os.f{index}"), Danger::Dangerous, false);
        saved.globals = (0..100_000).map(named).collect();
        assert_eq!(judge(&RULE, &saved).found.len(), 100_000);
    }

    #[test]
    fn an_unknown_class_is_not_judged_here() {
        let mut saved = checkpoint(Vec::new());
        saved.globals = vec![global("my.Model", Danger::Unknown, true)];
        assert!(judge(&RULE, &saved).is_clean());
    }
}
