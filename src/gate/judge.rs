//! The verdict: the only place where a severity is overridden, and where damage and absence become more than findings.

use std::collections::{BTreeSet, HashMap};

use time::Date;

use super::baseline::{Baseline, Known, Recognition};
use super::check::{self, GateCheck, title};
use super::exception::{Exception, written};
use super::judgement::{Decision, Effect, Judgement, Outcome};
use super::limit::{Limit, Quantity, Verdict};
use super::policy::Policy;
use crate::analysis::model::{Analysis, CheckpointAnalysis, Measured, Problem, Section, TensorAnalysis};
use crate::number::short;
use crate::rules::{Assessment, Evidence, Finding, NotEvaluated, RULES, Severity, Subject};

/// What is to be judged, and by what.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// What was measured.
    pub analysis: &'a Analysis,
    /// What the rules said about it, under the policy's thresholds.
    pub assessment: &'a Assessment,
    /// Paths that could not be read.
    pub unreadable: &'a [Unreadable],
    /// What the project decided.
    pub policy: &'a Policy,
    /// The accepted checkpoint.
    pub baseline: Option<&'a Baseline>,
    /// The day on which exceptions hold or have expired.
    pub today: Date,
    /// The user ended the command before everything was measured.
    pub interrupted: bool,
}

/// A path that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Its last component, never absolute.
    pub name: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub advice: String,
}

/// Kinds of problems that mean that something was not read, although nothing is lost.
const UNREAD_KINDS: [&str; 2] = ["stray-shard", "duplicate-name"];

/// Judges a case: pass, fail, or could not decide.
pub fn judge(case: Case<'_>) -> Judgement {
    let mut bench = Bench { case, canonical: canonical_names(case.analysis), decisions: Vec::new() };
    for unreadable in case.unreadable {
        bench.unreadable(unreadable);
    }
    if case.interrupted {
        bench.nothing("the command was ended before everything was measured");
    } else if case.analysis.checkpoints.is_empty() && case.unreadable.is_empty() {
        bench.nothing("there is no checkpoint to judge");
    }
    for checkpoint in &case.analysis.checkpoints {
        bench.damage(checkpoint);
        bench.unread(checkpoint);
        bench.formats(checkpoint);
        bench.findings(checkpoint);
        bench.limits(checkpoint);
        bench.changes(checkpoint);
    }
    bench.findings_of_the_run();
    bench.required();
    bench.exceptions();
    let mut decisions = bench.decisions;
    // Stable: what is equally grave stays in the order in which it was found.
    decisions.sort_by(|a, b| (a.effect, b.severity).cmp(&(b.effect, a.severity)));
    let outcome = match decisions.first().map(|decision| decision.effect) {
        Some(Effect::Prevents) => Outcome::CouldNotDecide,
        Some(Effect::Fails) => Outcome::Fail,
        _ => Outcome::Pass,
    };
    Judgement {
        outcome,
        sentence: sentence(outcome, &decisions, case.assessment.not_evaluated.len()),
        policy: case.policy.name.clone().unwrap_or_else(|| "built-in".to_owned()),
        fail_on: case.policy.fail_on,
        baseline: case.baseline.map(|baseline| baseline.summary(case.analysis.checkpoints.first())),
        decisions,
    }
}

/// The outcome in one sentence.
fn sentence(outcome: Outcome, decisions: &[Decision], not_evaluated: usize) -> String {
    let count = |effect| decisions.iter().filter(|decision| decision.effect == effect).count();
    let unchecked = match not_evaluated {
        0 => String::new(),
        1 => "; 1 check could not run".to_owned(),
        checks => format!("; {checks} checks could not run"),
    };
    match (outcome, decisions.first()) {
        (Outcome::Pass, _) => {
            let told = [(Effect::Noticed, "below what fails"), (Effect::Tolerated, "tolerated")];
            let told = told.map(|(effect, what)| (count(effect), what));
            let told =
                told.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("; {count} {what}"));
            format!("nothing fails{}{unchecked}", told.collect::<String>())
        }
        (_, Some(first)) => {
            let effect = first.effect;
            let (one, many) = match effect {
                Effect::Prevents => ("1 thing prevents a decision", "things prevent a decision"),
                _ => ("1 check fails", "checks fail"),
            };
            let head = match count(effect) {
                1 => one.to_owned(),
                more => format!("{more} {many}"),
            };
            let also = match (effect, count(Effect::Fails)) {
                (Effect::Prevents, fails) if fails > 0 => format!("; {fails} more would fail"),
                _ => String::new(),
            };
            format!("{head}: {}: {}{also}{unchecked}", title(&first.check, &first.name), first.message)
        }
        (_, None) => String::new(),
    }
}

/// Something that is the case, before it is weighed.
struct Claim {
    check: String,
    name: String,
    severity: Severity,
    checkpoint: String,
    subject: Subject,
    message: String,
    evidence: Vec<Evidence>,
    advice: String,
}

impl Claim {
    fn of_gate(
        check: &GateCheck,
        severity: Severity,
        checkpoint: &str,
        subject: Subject,
        message: String,
    ) -> Self {
        Self {
            check: check.code.to_owned(),
            name: check.name().to_owned(),
            severity,
            checkpoint: checkpoint.to_owned(),
            subject,
            message,
            evidence: Vec::new(),
            advice: check.help.to_owned(),
        }
    }

    fn of_rule(finding: &Finding) -> Self {
        Self {
            check: finding.rule.clone(),
            name: finding.name.clone(),
            severity: finding.severity,
            checkpoint: finding.checkpoint.clone(),
            subject: finding.subject.clone(),
            message: finding.message.clone(),
            evidence: finding.evidence.clone(),
            advice: finding.advice.clone(),
        }
    }

    fn decided(self, effect: Effect, severity: Severity, reason: impl Into<String>) -> Decision {
        let Self { check, name, checkpoint, subject, message, evidence, advice, .. } = self;
        let reason = reason.into();
        Decision { effect, check, name, severity, checkpoint, subject, message, evidence, advice, reason }
    }
}

/// Where claims become decisions.
struct Bench<'a> {
    case: Case<'a>,
    /// Canonical name by checkpoint and stored name: one map for all, because a hostile file has a hundred thousand names.
    canonical: HashMap<(&'a str, &'a str), &'a str>,
    decisions: Vec<Decision>,
}

impl<'a> Bench<'a> {
    /// The names an exception may match of a subject.
    fn names_of<'b>(&self, checkpoint: &str, subject: &'b Subject) -> Vec<&'b str>
    where
        'a: 'b,
    {
        match subject {
            Subject::Tensor(name) => {
                let canonical = self.canonical.get(&(checkpoint, name.as_str())).copied();
                [name.as_str()].into_iter().chain(canonical).collect()
            }
            Subject::Layer(path) => vec![path],
            _ => Vec::new(),
        }
    }

    /// Weighs a claim: an override of the severity, an exception, the baseline, and what the policy fails on.
    fn weigh(&mut self, claim: Claim, names: &[&str], recognition: Recognition) {
        let policy = self.case.policy;
        let (severity, overridden) = match policy.severities.get(claim.check.as_str()) {
            None => (Some(claim.severity), false),
            Some(level) => (level.severity(), level.severity() != Some(claim.severity)),
        };
        let own = claim.severity;
        let decision = if let Some(severity) = severity {
            let told = if overridden {
                format!("{severity} by the policy, {own} by the rule")
            } else {
                severity.to_string()
            };
            if let Some(exception) = self.exception(&claim.check, names) {
                claim.decided(Effect::Tolerated, severity, exception.said())
            } else {
                match recognition {
                    Recognition::Known => {
                        claim.decided(Effect::Tolerated, severity, "known: the baseline has it too, no worse")
                    }
                    Recognition::New => self.by_severity(claim, severity, &told),
                    Recognition::Worse(sentence) => {
                        self.by_severity(claim, severity, &format!("{told}, and not as known: {sentence}"))
                    }
                }
            }
        } else {
            claim.decided(Effect::Tolerated, own, "the policy switches this rule off")
        };
        self.decisions.push(decision);
    }

    fn by_severity(&self, claim: Claim, severity: Severity, told: &str) -> Decision {
        let fail_on = self.case.policy.fail_on;
        let effect = if severity >= fail_on { Effect::Fails } else { Effect::Noticed };
        claim.decided(effect, severity, format!("{told}; the policy fails on {fail_on}"))
    }

    fn prevent(&mut self, claim: Claim, reason: &str) {
        let severity = claim.severity;
        self.decisions.push(claim.decided(Effect::Prevents, severity, reason));
    }

    /// The exception that holds today for a tensor of one of these names.
    fn exception(&self, check: &str, names: &[&str]) -> Option<&'a Exception> {
        let exceptions = self.case.policy.exceptions.iter();
        exceptions
            .filter(|exception| exception.holds(self.case.today))
            .find(|exception| exception.covers(check) && exception.names(names))
    }

    fn unreadable(&mut self, unreadable: &Unreadable) {
        let Unreadable { name, message, advice } = unreadable;
        let mut claim = Claim::of_gate(
            &check::UNREADABLE,
            Severity::Critical,
            name,
            Subject::Checkpoint,
            format!("{name} cannot be read: {message}"),
        );
        claim.advice.clone_from(advice);
        self.prevent(claim, "what was not read was not judged");
    }

    fn nothing(&mut self, message: &str) {
        let message = message.to_owned();
        let claim = Claim::of_gate(&check::NOT_JUDGED, Severity::Critical, "", Subject::Checkpoint, message);
        self.prevent(claim, "what was not read was not judged");
    }

    /// Damage, and bytes that no tensor refers to: no severity, exception or baseline has a say here.
    fn damage(&mut self, checkpoint: &CheckpointAnalysis) {
        let findings = self.own_findings(checkpoint).filter(|finding| is_damage(finding));
        for finding in findings.collect::<Vec<_>>() {
            let reason = if finding.rule == UNCOVERED {
                "bytes that belong to no tensor were not judged; no severity or exception changes that"
            } else {
                "what is damaged cannot be judged; no severity or exception changes that"
            };
            self.prevent(Claim::of_rule(finding), reason);
        }
        // A problem that no rule tells is damage all the same.
        if checkpoint.is_damaged() && !self.own_findings(checkpoint).any(|finding| finding.rule == DAMAGED) {
            let message = format!("{} is damaged", checkpoint.name);
            let claim = Claim::of_gate(
                &check::UNREADABLE,
                Severity::Critical,
                &checkpoint.name,
                Subject::Checkpoint,
                message,
            );
            self.prevent(claim, "what is damaged cannot be judged");
        }
    }

    /// What lies in the checkpoint and was not looked at: stray shards, tensors without plain elements, nothing at all.
    fn unread(&mut self, checkpoint: &CheckpointAnalysis) {
        let not_judged = |subject: Subject, message: String| {
            Claim::of_gate(&check::NOT_JUDGED, Severity::Critical, &checkpoint.name, subject, message)
        };
        let stray = checkpoint.problems.iter().filter(|problem| is_unread(problem));
        for problem in stray {
            let subject = Subject::File(problem.file.clone());
            let mut claim = not_judged(subject, format!("{}: {}", problem.file, problem.message));
            claim.advice.clone_from(&problem.advice);
            self.prevent(claim, "what was not read was not judged");
        }
        if !checkpoint.tensors.iter().any(|tensor| tensor.statistics.value().is_some()) {
            let message = format!("no element of {} was read", checkpoint.name);
            self.prevent(not_judged(Subject::Checkpoint, message), "nothing was judged");
            return;
        }
        for tensor in checkpoint.tensors.iter().filter(|tensor| is_unmeasured(tensor)) {
            let Measured::NotMeasured(reason) = &tensor.statistics else { continue };
            let message = format!("{} was not read: {reason}", tensor.name);
            let claim = not_judged(Subject::Tensor(tensor.name.clone()), message);
            match self.exception(check::NOT_JUDGED.code, &names(tensor)) {
                Some(exception) => {
                    let decision = claim.decided(Effect::Tolerated, Severity::Critical, exception.said());
                    self.decisions.push(decision);
                }
                None => self.prevent(claim, "what was not read was not judged"),
            }
        }
    }

    fn formats(&mut self, checkpoint: &CheckpointAnalysis) {
        let Some(allowed) = &self.case.policy.formats else { return };
        for file in checkpoint.files.iter().filter(|file| !allowed.contains(&file.format)) {
            let allowed = allowed.iter().map(name_of).collect::<Vec<_>>().join(", ");
            let message = format!("{} is {}; allowed are: {allowed}", file.name, name_of(&file.format));
            let subject = Subject::File(file.name.clone());
            let claim =
                Claim::of_gate(&check::FORMAT, Severity::Critical, &checkpoint.name, subject, message);
            let told = Severity::Critical.to_string();
            let decision = self.by_severity(claim, Severity::Critical, &told);
            self.decisions.push(decision);
        }
    }

    fn findings(&mut self, checkpoint: &CheckpointAnalysis) {
        let mut known = self.case.baseline.map(|baseline| baseline.known(checkpoint));
        let findings = self.own_findings(checkpoint).filter(|finding| !is_damage(finding));
        for finding in findings.collect::<Vec<_>>() {
            let recognition = self.recognise(&mut known, finding);
            let names = self.names_of(&finding.checkpoint, &finding.subject);
            self.weigh(Claim::of_rule(finding), &names, recognition);
        }
    }

    fn recognise(&self, known: &mut Option<Known<'_>>, finding: &Finding) -> Recognition {
        let growth = self.case.policy.baseline.finding_growth;
        known.as_mut().map_or(Recognition::New, |known| known.recognise(finding, growth))
    }

    /// Findings of no single checkpoint.
    fn findings_of_the_run(&mut self) {
        let checkpoints = &self.case.analysis.checkpoints;
        let own: BTreeSet<_> = checkpoints.iter().map(|checkpoint| checkpoint.name.as_str()).collect();
        for finding in &self.case.assessment.findings {
            if !own.contains(finding.checkpoint.as_str()) {
                self.weigh(Claim::of_rule(finding), &[], Recognition::New);
            }
        }
    }

    fn limits(&mut self, checkpoint: &CheckpointAnalysis) {
        for limit in &self.case.policy.limits {
            if limit.needs_baseline() && self.case.baseline.is_none() {
                let message = format!("the growth of {} needs a baseline", limit.quantity.name());
                let claim = Claim::of_gate(
                    &check::LIMIT,
                    limit.severity,
                    &checkpoint.name,
                    Subject::Checkpoint,
                    message,
                );
                self.prevent(
                    claim,
                    "a limit of the policy could not be judged; give --baseline or baseline.file",
                );
            }
            let before = self.case.baseline.map(Baseline::tensors);
            if limit.quantity == Quantity::ParameterNorm {
                let now = limit.quantity.of_checkpoint(checkpoint);
                let then = self.case.baseline.map(|baseline| {
                    let value = limit.quantity.of_checkpoint(baseline.checkpoint());
                    baseline.then(value, checkpoint)
                });
                let verdicts = limit.judge(&now, then.as_ref());
                self.limit(checkpoint, limit, None, verdicts);
                continue;
            }
            if let Some(message) = limit.about_nothing(checkpoint) {
                let mut claim = Claim::of_gate(
                    &check::LIMIT,
                    limit.severity,
                    &checkpoint.name,
                    Subject::Checkpoint,
                    message,
                );
                "mend its pattern, or take the limit out of the policy".clone_into(&mut claim.advice);
                self.prevent(claim, "a limit of the policy could not be judged");
            }
            for tensor in checkpoint.tensors.iter().filter(|tensor| limit.is_about(tensor)) {
                let now = limit.quantity.of_tensor(tensor);
                // A tensor that the baseline lacks is told as new: it has no growth.
                let then = self.case.baseline.zip(before.as_ref()).and_then(|(baseline, before)| {
                    let before = before.get(tensor.canonical_name.as_str())?;
                    Some(baseline.then(limit.quantity.of_tensor(before), checkpoint))
                });
                let verdicts = limit.judge(&now, then.as_ref());
                self.limit(checkpoint, limit, Some(tensor), verdicts);
            }
        }
    }

    fn limit(
        &mut self,
        checkpoint: &CheckpointAnalysis,
        limit: &Limit,
        tensor: Option<&TensorAnalysis>,
        verdicts: Vec<Verdict>,
    ) {
        let quantity = limit.quantity.name();
        let subject = tensor.map_or(Subject::Checkpoint, |tensor| Subject::Tensor(tensor.name.clone()));
        let of = tensor.map_or_else(|| checkpoint.name.clone(), |tensor| tensor.name.clone());
        let names = tensor.map(names);
        let names = names.as_ref().map_or(&[][..], |names| &names[..]);
        for verdict in verdicts {
            let claim = |message: String| {
                Claim::of_gate(&check::LIMIT, limit.severity, &checkpoint.name, subject.clone(), message)
            };
            match verdict {
                Verdict::Holds => {}
                Verdict::Broken(label, value, largest) => {
                    let mut claim = claim(format!(
                        "{quantity} of {of}: {label} {} (limit {})",
                        short(value),
                        short(largest)
                    ));
                    let (label, unit) = (format!("{quantity}, {label}"), "1".to_owned());
                    claim.evidence.push(Evidence { label, value, limit: Some(largest), unit });
                    self.weigh(claim, names, Recognition::New);
                }
                Verdict::Unknown(reason) => {
                    let claim = claim(format!("{quantity} of {of} was not judged: {reason}"));
                    match self.exception(check::LIMIT.code, names) {
                        Some(exception) => {
                            self.decisions.push(claim.decided(
                                Effect::Tolerated,
                                limit.severity,
                                exception.said(),
                            ));
                        }
                        None => self.prevent(claim, "a limit of the policy could not be judged"),
                    }
                }
            }
        }
    }

    fn changes(&mut self, checkpoint: &CheckpointAnalysis) {
        let Some(baseline) = self.case.baseline else { return };
        for change in baseline.changes(checkpoint, &self.case.policy.baseline) {
            let subject = Subject::Tensor(change.tensor.clone());
            let severity = change.level.severity();
            let claim = Claim::of_gate(
                change.check,
                severity.unwrap_or(Severity::Note),
                &checkpoint.name,
                subject,
                change.message,
            );
            if severity.is_some() {
                self.weigh(claim, &[&change.tensor], Recognition::New);
            } else {
                let reason = format!("the policy sets baseline.{} to off", short_name(change.check));
                self.decisions.push(claim.decided(Effect::Tolerated, Severity::Note, reason));
            }
        }
    }

    /// Required rules that were not evaluated on a checkpoint, or on a part of it.
    fn required(&mut self) {
        let policy = self.case.policy;
        let off = |code: &str| policy.severities.get(code).is_some_and(|level| level.severity().is_none());
        for entry in &self.case.assessment.not_evaluated {
            let Some(code) = entry.rule.as_deref() else { continue };
            if policy.required.contains(code) && !off(code) {
                self.required_but_not_evaluated(code, entry);
            }
        }
    }

    fn required_but_not_evaluated(&mut self, code: &str, entry: &NotEvaluated) {
        let rule = RULES.iter().find(|rule| rule.code == code);
        let name = rule.map_or("", |rule| rule.name);
        let of = match &entry.subject {
            Subject::Tensor(part) | Subject::Layer(part) | Subject::File(part) => format!(" of {part}"),
            _ => String::new(),
        };
        let message = format!("{code} {name}{of} was not evaluated: {}", entry.reason);
        let claim = Claim::of_gate(
            &check::REQUIRED,
            Severity::Critical,
            &entry.checkpoint,
            entry.subject.clone(),
            message,
        );
        let names = self.names_of(&entry.checkpoint, &entry.subject);
        match self.exception(code, &names) {
            Some(exception) => {
                self.decisions.push(claim.decided(Effect::Tolerated, Severity::Critical, exception.said()));
            }
            None => self.prevent(claim, "the policy requires it"),
        }
    }

    /// Exceptions that no longer hold, and those that name nothing.
    fn exceptions(&mut self) {
        let tensors = || self.case.analysis.checkpoints.iter().flat_map(|checkpoint| &checkpoint.tensors);
        for exception in &self.case.policy.exceptions {
            let pattern = exception.pattern.escape_debug();
            let Exception { reason, expires, .. } = exception;
            let claim = |check: &GateCheck, severity, message| {
                Claim::of_gate(check, severity, "", Subject::Checkpoint, message)
            };
            if let Some(last) = expires.filter(|_| !exception.holds(self.case.today)) {
                let message = format!(
                    "the exception of {pattern} ({reason}) expired on {} and no longer applies",
                    written(last)
                );
                self.weigh(claim(&check::EXPIRED, Severity::Warning, message), &[], Recognition::New);
            } else if tensors().next().is_some() && !tensors().any(|tensor| exception.names(&names(tensor))) {
                let message = format!("the exception of {pattern} ({reason}) names no tensor");
                self.weigh(claim(&check::UNUSED, Severity::Note, message), &[], Recognition::New);
            }
        }
    }

    fn own_findings(&self, checkpoint: &CheckpointAnalysis) -> impl Iterator<Item = &'a Finding> {
        let name = checkpoint.name.clone();
        self.case.assessment.findings.iter().filter(move |finding| finding.checkpoint == name)
    }
}

/// The rule that tells damage.
const DAMAGED: &str = "FP903";

/// The rule that tells bytes of no tensor.
const UNCOVERED: &str = "FP904";

/// Whether a finding is of what cannot be judged. FP903 has notes as well, of what is only odd.
fn is_damage(finding: &Finding) -> bool {
    finding.rule == UNCOVERED || finding.rule == DAMAGED && finding.severity == Severity::Critical
}

fn is_unread(problem: &Problem) -> bool {
    UNREAD_KINDS.contains(&problem.kind.as_str())
}

/// A tensor of the training state whose elements nobody looked at, although nothing is damaged.
fn is_unmeasured(tensor: &TensorAnalysis) -> bool {
    tensor.section != Section::Other
        && !tensor.damaged
        && matches!(tensor.statistics, Measured::NotMeasured(_))
}

fn names(tensor: &TensorAnalysis) -> [&str; 2] {
    [&tensor.name, &tensor.canonical_name]
}

/// Canonical name by checkpoint and stored name.
fn canonical_names(analysis: &Analysis) -> HashMap<(&str, &str), &str> {
    let mut canonical = HashMap::new();
    for checkpoint in &analysis.checkpoints {
        for tensor in &checkpoint.tensors {
            canonical
                .insert((checkpoint.name.as_str(), tensor.name.as_str()), tensor.canonical_name.as_str());
        }
    }
    canonical
}

/// `new` of `new-tensor`, as the policy calls it.
fn short_name(check: &GateCheck) -> &'static str {
    check.name().trim_end_matches("-tensor")
}

/// The name a plain enum has in JSON.
fn name_of(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}
