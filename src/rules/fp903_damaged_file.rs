//! Files that cannot be read, or not as a whole.

use std::collections::HashMap;

use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Problem};

pub(super) static RULE: Rule = Rule {
    code: "FP903",
    name: "damaged-file",
    summary: "a file, or a tensor in it, cannot be read as it says of itself",
    page: include_str!("../../docs/rules/FP903-damaged-file.md"),
    severity: Severity::Critical,
    confidence: Confidence::Exact,
    needs: Needs::LIST,
    thresholds: &[],
    check: Check::Checkpoint(check),
};

/// The kind of problem that FP904 reports.
const UNCOVERED: &str = "uncovered-bytes";

fn check(checkpoint: &CheckpointAnalysis, _: &Thresholds, findings: &mut Findings) {
    let mut groups: Vec<Vec<&Problem>> = Vec::new();
    // Tensors of one file that are damaged in one way: one cut takes many tensors with it.
    let mut alike: HashMap<(&str, &str), usize> = HashMap::new();
    for problem in checkpoint.problems.iter().filter(|problem| problem.kind != UNCOVERED) {
        let next = groups.len();
        let is_of_tensor = problem.tensor.is_some();
        let group =
            if is_of_tensor { *alike.entry((&problem.file, &problem.kind)).or_insert(next) } else { next };
        match groups.get_mut(group) {
            Some(group) => group.push(problem),
            None => groups.push(vec![problem]),
        }
    }
    let mut tensors: HashMap<&str, usize> = HashMap::new();
    for file in checkpoint.tensors.iter().filter_map(|tensor| tensor.file.as_deref()) {
        *tensors.entry(file).or_default() += 1;
    }
    for group in groups {
        report(&tensors, &group, findings);
    }
}

fn report(tensors: &HashMap<&str, usize>, group: &[&Problem], findings: &mut Findings) {
    let [first, others @ ..] = group else { return };
    let place = first.at.as_ref().map(|at| format!(" at {at}")).unwrap_or_default();
    let what = match (&first.tensor, others) {
        (None, _) => format!("{}{place}", first.file),
        (Some(tensor), []) => format!("tensor {} of {} cannot be read", tensor.escape_debug(), first.file),
        (Some(tensor), _) => format!(
            "{} of {} tensors of {} cannot be read, {} first",
            group.len(),
            tensors.get(first.file.as_str()).copied().unwrap_or(0).max(group.len()),
            first.file,
            tensor.escape_debug(),
        ),
    };
    let finding =
        findings.push(Subject::File(first.file.clone()), format!("{what}: {}", first.message), &first.advice);
    if !first.damage {
        finding.severity(Severity::Note);
    }
    if first.tensor.is_some() {
        finding.against("damaged tensors", group.len() as f64, 0.0, "tensors");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Role;
    use crate::rules::test_support::{checkpoint, judge, problem, tensor};

    #[test]
    fn a_problem_of_a_file_is_critical_in_the_words_of_the_reader() {
        let mut saved = checkpoint(Vec::new());
        saved.problems = vec![problem(None)];
        let findings = judge(&RULE, &saved);
        assert_eq!(findings.told(), [(Severity::Critical, "model.safetensors".to_owned())]);
        let message = "model.safetensors at byte 8: 64 bytes are needed here, the file has 40";
        assert_eq!(findings.found[0].message, message);
        assert_eq!(findings.found[0].advice, "copy the file again");
    }

    #[test]
    fn one_damaged_tensor_is_named() {
        let mut saved = checkpoint(vec![tensor("a", Role::Linear, &[2, 2])]);
        saved.problems = vec![problem(Some("a"))];
        assert!(
            judge(&RULE, &saved).found[0].message.starts_with("tensor a of model.safetensors cannot be read")
        );
    }

    #[test]
    fn tensors_damaged_in_one_way_are_one_finding_a_file() {
        let mut saved = checkpoint(["a", "b", "c"].map(|name| tensor(name, Role::Linear, &[2, 2])).to_vec());
        let mut elsewhere = problem(Some("d"));
        elsewhere.file = "other.safetensors".to_owned();
        saved.problems = vec![problem(Some("b")), problem(Some("c")), elsewhere, problem(None)];
        let findings = judge(&RULE, &saved);
        assert_eq!(findings.found.len(), 3);
        let message = "2 of 3 tensors of model.safetensors cannot be read, b first: 64 bytes are needed here, the file has 40";
        assert_eq!(findings.found[0].message, message);
        assert_eq!(findings.found[0].evidence[0].value, 2.0);
    }

    #[test]
    fn a_hundred_thousand_problems_of_files_are_told_in_one_pass() {
        let mut saved = checkpoint(Vec::new());
        let missing = |index: usize| Problem {
            file: format!("s{index}"),
            ..problem(index.is_multiple_of(2).then_some("a"))
        };
        saved.problems = (0..100_000).map(missing).collect();
        assert_eq!(judge(&RULE, &saved).found.len(), 100_000);
    }

    #[test]
    fn what_is_odd_but_lost_nothing_is_a_note() {
        let mut saved = checkpoint(Vec::new());
        saved.problems = vec![problem(None)];
        saved.problems[0].damage = false;
        assert_eq!(judge(&RULE, &saved).told()[0].0, Severity::Note);
    }

    #[test]
    fn uncovered_bytes_belong_to_another_rule() {
        let mut saved = checkpoint(Vec::new());
        saved.problems = vec![problem(None)];
        saved.problems[0].kind = UNCOVERED.to_owned();
        assert!(judge(&RULE, &saved).is_clean());
    }

    #[test]
    fn a_whole_file_is_silent() {
        assert!(judge(&RULE, &checkpoint(vec![tensor("a", Role::Linear, &[2, 2])])).is_clean());
    }
}
