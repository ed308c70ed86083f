//! What was not looked at: damage, files beside the model, tensors without plain elements, nothing at all.

use super::{Bench, Unreadable};
use crate::analysis::model::{CheckpointAnalysis, Measured, Problem, Section, TensorAnalysis};
use crate::gate::check;
use crate::gate::claim::Claim;
use crate::gate::damage;
use crate::gate::judgement::{BaselineState, Effect};
use crate::rules::{Finding, Severity, Subject};

/// Kinds of problems that mean that something was not read, although nothing is lost.
const UNREAD_KINDS: [&str; 3] = ["stray-shard", "duplicate-name", OTHER_MODEL];

/// A second model beside the one that was read.
const OTHER_MODEL: &str = "other-model";

/// Why what was not read prevents a decision.
const NOT_READ: &str = "what was not read was not judged";

impl Bench<'_> {
    pub(super) fn unreadable(&mut self, unreadable: &Unreadable) {
        let Unreadable { name, message, advice } = unreadable;
        let claim = Claim::of_gate(
            &check::UNREADABLE,
            Severity::Critical,
            name,
            Subject::Checkpoint,
            format!("{name} cannot be read: {message}"),
        );
        self.prevent(claim.advised(advice), NOT_READ);
    }

    pub(super) fn refused_baseline(&mut self, refused: &Unreadable) {
        let Unreadable { name, message, advice } = refused;
        let claim = Claim::of_gate(
            &check::REFUSED_BASELINE,
            Severity::Critical,
            name,
            Subject::Checkpoint,
            format!("{name}: {message}"),
        );
        self.prevent(claim.advised(advice), "nothing was held against the accepted checkpoint");
    }

    pub(super) fn nothing(&mut self, message: &str) {
        let message = message.to_owned();
        let claim = Claim::of_gate(&check::NOT_JUDGED, Severity::Critical, "", Subject::Checkpoint, message);
        self.prevent(claim, NOT_READ);
    }

    /// Damage, and bytes that no tensor refers to: no severity, exception or baseline has a say here.
    pub(super) fn damage(&mut self, checkpoint: &CheckpointAnalysis) {
        let findings = self.own_findings(checkpoint).collect::<Vec<_>>();
        for finding in findings.iter().copied().filter(|finding| damage::is_told_by(finding)) {
            let reason = if finding.rule == damage::UNCOVERED {
                "bytes that belong to no tensor were not judged; no severity or exception changes that"
            } else {
                "what is damaged cannot be judged; no severity or exception changes that"
            };
            self.prevent(Claim::of_rule(finding), reason);
        }
        let file = |problem: &Problem| Subject::File(problem.file.clone());
        for problem in damage::untold(checkpoint, &findings) {
            let message = format!("{}: {}", problem.file, problem.message);
            let claim = Claim::of_gate(
                &check::UNREADABLE,
                Severity::Critical,
                &checkpoint.name,
                file(problem),
                message,
            );
            self.prevent(claim.advised(&problem.advice), "what is damaged cannot be judged");
        }
        for (file, bytes) in damage::let_be(checkpoint, &findings) {
            let message = format!("{bytes} bytes of {file} belong to no tensor, and were not judged");
            let subject = Subject::File(file.to_owned());
            let claim =
                Claim::of_gate(&check::NOT_JUDGED, Severity::Note, &checkpoint.name, subject, message);
            let reason = "within the limit `bytes` that the policy gives FP904";
            let decision = claim.decided(Effect::Tolerated, Severity::Note, reason);
            self.push(decision, BaselineState::New);
        }
    }

    /// What lies in the checkpoint and was not looked at: stray shards, other models, tensors without plain elements, nothing at all.
    pub(super) fn unread(&mut self, checkpoint: &CheckpointAnalysis) {
        let not_judged = |subject: Subject, message: String| {
            Claim::of_gate(&check::NOT_JUDGED, Severity::Critical, &checkpoint.name, subject, message)
        };
        for problem in unread_problems(checkpoint) {
            let subject = Subject::File(problem.file.clone());
            let claim = not_judged(subject, format!("{}: {}", problem.file, problem.message));
            let advice = if problem.kind == OTHER_MODEL {
                "gate that file by its own path as well, or move it out of the checkpoint"
            } else {
                &problem.advice
            };
            self.prevent(claim.advised(advice), NOT_READ);
        }
        if !is_measured(checkpoint) {
            let any = checkpoint.tensors.iter().any(|tensor| tensor.statistics.value().is_some());
            let claim = if any {
                let message = format!(
                    "no element of a model or an optimizer was read in {}: its tensors are of neither",
                    checkpoint.name
                );
                not_judged(Subject::Checkpoint, message).advised("name the file that holds the weights")
            } else {
                not_judged(Subject::Checkpoint, format!("no element of {} was read", checkpoint.name))
            };
            self.prevent(claim, "nothing was judged");
            return;
        }
        for tensor in checkpoint.tensors.iter().filter(|tensor| is_unmeasured(tensor)) {
            let Measured::NotMeasured(reason) = &tensor.statistics else { continue };
            let message = format!("{} was not read: {reason}", tensor.name);
            let claim = not_judged(Subject::Tensor(tensor.name.clone()), message);
            self.prevent_unless_excepted(claim, check::NOT_JUDGED.code, &super::names(tensor), NOT_READ);
        }
    }
}

/// Whether an element of the training state was read: a checkpoint of which none was says nothing about a model.
pub(in crate::gate) fn is_measured(checkpoint: &CheckpointAnalysis) -> bool {
    let tensors = checkpoint.tensors.iter().filter(|tensor| tensor.section != Section::Other);
    tensors.into_iter().any(|tensor| tensor.statistics.value().is_some())
}

/// Whether a finding says of a file that it was not read, as the gate itself does.
pub(super) fn tells_unread(checkpoint: &CheckpointAnalysis, finding: &Finding) -> bool {
    let Subject::File(file) = &finding.subject else { return false };
    finding.rule == damage::DAMAGED
        && unread_problems(checkpoint)
            .any(|problem| problem.file == *file && finding.message.ends_with(&problem.message))
}

fn unread_problems(checkpoint: &CheckpointAnalysis) -> impl Iterator<Item = &Problem> {
    checkpoint.problems.iter().filter(|problem| UNREAD_KINDS.contains(&problem.kind.as_str()))
}

/// A tensor of the training state whose elements nobody looked at, although nothing is damaged.
fn is_unmeasured(tensor: &TensorAnalysis) -> bool {
    tensor.section != Section::Other
        && !tensor.damaged
        && matches!(tensor.statistics, Measured::NotMeasured(_))
}
