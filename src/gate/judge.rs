//! The verdict: the only place where a severity is overridden, and where damage and absence become more than findings.

mod limits;
mod unread;

use std::collections::{BTreeSet, HashMap};

use toml::value::Date;

use super::baseline::{Baseline, Known, Recognition};
use super::check::{self, GateCheck, title};
use super::claim::Claim;
use super::damage;
use super::exception::Exception;
use super::judgement::{BaselineState, Decision, Effect, Judgement, Outcome};
use super::names::Names;
use super::policy::Policy;
use crate::analysis::model::{Analysis, CheckpointAnalysis, TensorAnalysis};
use crate::rules::{self, Assessment, Finding, NotEvaluated, RULES, Severity, Subject};

pub(super) use unread::is_measured;

/// What is to be judged, and by what.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// What was measured.
    pub analysis: &'a Analysis,
    /// What the rules said about it, under the policy's thresholds.
    pub assessment: &'a Assessment,
    /// Paths that could not be read.
    pub unreadable: &'a [Unreadable],
    /// The baseline, where it cannot be used.
    pub refused_baseline: Option<&'a Unreadable>,
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

/// Judges a case: pass, fail, or could not decide.
pub fn judge(case: Case<'_>) -> Judgement {
    let checkpoints = case.analysis.checkpoints.iter();
    let names = checkpoints.map(|checkpoint| (checkpoint.name.as_str(), Names::of(checkpoint))).collect();
    let mut bench = Bench { case, names, used: BTreeSet::new(), decisions: Vec::new() };
    for unreadable in case.unreadable {
        bench.unreadable(unreadable);
    }
    if let Some(refused) = case.refused_baseline {
        bench.refused_baseline(refused);
    }
    if case.interrupted {
        bench.nothing("the command was ended before everything was measured");
    } else if case.analysis.checkpoints.is_empty()
        && case.unreadable.is_empty()
        && case.refused_baseline.is_none()
    {
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
        sentence: sentence(outcome, &decisions, &unchecked(&case.assessment.not_evaluated)),
        policy: case.policy.name.clone().unwrap_or_else(|| "built-in".to_owned()),
        fail_on: case.policy.fail_on,
        baseline: case.baseline.map(|baseline| baseline.summary(case.analysis.checkpoints.first())),
        decisions,
    }
}

/// The outcome in one sentence.
fn sentence(outcome: Outcome, decisions: &[Decision], unchecked: &str) -> String {
    let count = |effect| decisions.iter().filter(|decision| decision.effect == effect).count();
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

/// How many checks could not run, and how many of them a deeper measurement would run.
fn unchecked(not_evaluated: &[NotEvaluated]) -> String {
    let all = match not_evaluated.len() {
        0 => return String::new(),
        1 => "; 1 check could not run".to_owned(),
        checks => format!("; {checks} checks could not run"),
    };
    let level = |entry: &NotEvaluated| rules::level_needed(&entry.reason);
    let too_shallow = not_evaluated.iter().filter_map(level).collect::<Vec<_>>();
    let Some(deepest) = too_shallow.iter().copied().max() else { return all };
    format!("{all}, {} of them only with --measure {}", too_shallow.len(), deepest.name())
}

/// Where claims become decisions.
struct Bench<'a> {
    case: Case<'a>,
    /// Names of tensors, by checkpoint.
    names: HashMap<&'a str, Names<'a>>,
    /// Exceptions that excepted something, by their place in the policy.
    used: BTreeSet<usize>,
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
                let canonical = self.names.get(checkpoint).and_then(|names| names.canonical(name));
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
        let state = recognition.state();
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
        self.push(decision, state);
    }

    /// Keeps a decision, with how it relates to the baseline where there is one.
    fn push(&mut self, decision: Decision, state: BaselineState) {
        let baseline_state = self.case.baseline.map(|_| state);
        self.decisions.push(Decision { baseline_state, ..decision });
    }

    fn by_severity(&self, claim: Claim, severity: Severity, told: &str) -> Decision {
        let fail_on = self.case.policy.fail_on;
        let effect = if severity >= fail_on { Effect::Fails } else { Effect::Noticed };
        claim.decided(effect, severity, format!("{told}; the policy fails on {fail_on}"))
    }

    fn prevent(&mut self, claim: Claim, reason: &str) {
        let severity = claim.severity;
        self.push(claim.decided(Effect::Prevents, severity, reason), BaselineState::New);
    }

    /// As [`Bench::prevent`], unless an exception of `check` names one of `names`.
    fn prevent_unless_excepted(&mut self, claim: Claim, check: &str, names: &[&str], reason: &str) {
        match self.exception(check, names) {
            Some(exception) => {
                let severity = claim.severity;
                let decision = claim.decided(Effect::Tolerated, severity, exception.said());
                self.push(decision, BaselineState::New);
            }
            None => self.prevent(claim, reason),
        }
    }

    /// The exception that holds today for a tensor of one of these names; it is used from then on.
    fn exception(&mut self, check: &str, names: &[&str]) -> Option<&'a Exception> {
        let exceptions = self.case.policy.exceptions.iter().enumerate();
        let (place, exception) = exceptions
            .filter(|(_, exception)| exception.holds(self.case.today))
            .find(|(_, exception)| exception.covers(check) && exception.names(names))?;
        self.used.insert(place);
        Some(exception)
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
            self.push(decision, BaselineState::New);
        }
    }

    fn findings(&mut self, checkpoint: &CheckpointAnalysis) {
        let mut known = self.case.baseline.map(|baseline| baseline.known(checkpoint));
        let findings = self.own_findings(checkpoint);
        let findings = findings
            .filter(|finding| !damage::is_told_by(finding) && !unread::tells_unread(checkpoint, finding));
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
                self.weigh(claim, &[&change.tensor, &change.canonical_name], Recognition::New);
            } else {
                let reason = format!("the policy sets baseline.{} to off", short_name(change.check));
                self.push(claim.decided(Effect::Tolerated, Severity::Note, reason), BaselineState::New);
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
        self.prevent_unless_excepted(claim, code, &names, "the policy requires it");
    }

    /// Exceptions that no longer hold, and those that name nothing.
    fn exceptions(&mut self) {
        let checkpoints = &self.case.analysis.checkpoints;
        let is_read = checkpoints.iter().any(|checkpoint| !checkpoint.tensors.is_empty());
        for (place, exception) in self.case.policy.exceptions.iter().enumerate() {
            let pattern = exception.pattern.escape_debug();
            let Exception { reason, expires, .. } = exception;
            let claim = |check: &GateCheck, severity, message| {
                Claim::of_gate(check, severity, "", Subject::Checkpoint, message)
            };
            if let Some(last) = expires.filter(|_| !exception.holds(self.case.today)) {
                let message =
                    format!("the exception of {pattern} ({reason}) expired on {last} and no longer applies");
                self.weigh(claim(&check::EXPIRED, Severity::Warning, message), &[], Recognition::New);
            } else if is_read
                && !self.used.contains(&place)
                && !checkpoints.iter().any(|checkpoint| names_something(exception, checkpoint))
            {
                let message = format!("the exception of {pattern} ({reason}) names no tensor and no layer");
                self.weigh(claim(&check::UNUSED, Severity::Note, message), &[], Recognition::New);
            }
        }
    }

    fn own_findings(&self, checkpoint: &CheckpointAnalysis) -> impl Iterator<Item = &'a Finding> {
        let name = checkpoint.name.clone();
        self.case.assessment.findings.iter().filter(move |finding| finding.checkpoint == name)
    }
}

/// Whether a tensor or a layer of `checkpoint` has such a name.
fn names_something(exception: &Exception, checkpoint: &CheckpointAnalysis) -> bool {
    let heads = checkpoint.attention.value().into_iter().flatten();
    checkpoint
        .tensors
        .iter()
        .any(|tensor| exception.names(&names(tensor)) || exception.names(&[&tensor.layer.path]))
        || heads.into_iter().any(|layer| exception.names(&[&layer.layer]))
}

fn names(tensor: &TensorAnalysis) -> [&str; 2] {
    [&tensor.name, &tensor.canonical_name]
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
