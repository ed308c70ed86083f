//! What pages share: the head, findings, figures, lists of what was not evaluated.

use std::collections::{BTreeMap, BTreeSet};

use crate::analysis::model::Remark;
use crate::clip::Snippet;
use crate::number::short;
use crate::report::Plot;
use crate::report::items::{Item, rule, subject_name};
use crate::report::terminal::{titled, unit};
use crate::report::text::{remarked, safe, safe_sentence};
use crate::rules::{Evidence, NotEvaluated, Severity, Subject};

/// What every page looks like.
pub(super) static STYLE: &str = include_str!("style.css");

/// What sorts and filters its tables.
pub(super) static SCRIPT: &str = include_str!("script.js");

/// SHA-256 of the script in base 64: what the page's policy lets run.
pub(super) const SCRIPT_DIGEST: &str = "sha256-vv2iirdWBFeW6ry2gsCReOaZa75uAjA3f1GC99Qij1M=";

/// Findings of one rule that are told in a line each behind the first; more are counted.
const LINES: usize = 200;

/// Tensors named with a reason; more are counted.
const SUBJECTS: usize = 12;

/// The first lines of a page, and what it says of itself.
pub(super) struct Head {
    /// The command that wrote it.
    pub command: &'static str,
    /// What the page is about.
    pub name: String,
    /// `critical`, `warning`, `note` or `good`.
    pub tone: &'static str,
    /// The verdict in a word or two.
    pub word: String,
    /// The verdict in a sentence.
    pub verdict: String,
    /// Small print under it.
    pub facts: Vec<String>,
    /// Version of flashpoint.
    pub version: &'static str,
    /// What the page looks like.
    pub style: &'static str,
    /// What sorts and filters its tables.
    pub script: &'static str,
    /// The script's digest, for the page's policy.
    pub script_digest: &'static str,
    /// Limits that the policy replaced.
    pub replaced: Vec<String>,
}

impl Head {
    /// A head without facts.
    pub fn new(command: &'static str, name: &str, (tone, word): (&'static str, &str), verdict: &str) -> Self {
        Self {
            command,
            name: safe(name),
            tone,
            word: word.to_owned(),
            verdict: safe_sentence(verdict),
            facts: Vec::new(),
            version: env!("CARGO_PKG_VERSION"),
            style: STYLE,
            script: SCRIPT,
            script_digest: SCRIPT_DIGEST,
            replaced: Vec::new(),
        }
    }

    /// With the limits that the policy replaced.
    pub fn replacing(mut self, limits: &BTreeMap<String, f64>) -> Self {
        self.replaced =
            limits.iter().map(|(limit, value)| format!("{} = {}", safe(limit), short(*value))).collect();
        self
    }
}

/// The class of a severity, which is its name.
pub(super) fn tone(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "critical",
        Severity::Warning => "warning",
        Severity::Note => "note",
    }
}

/// The verdict of a report without a gate, in a tone and a word.
pub(super) fn worst_word(critical: u64, warnings: u64, judged: bool) -> (&'static str, &'static str) {
    match (critical, warnings) {
        (0, 0) if judged => ("good", "no warning"),
        (0, 0) => ("warning", "not judged"),
        (0, _) => ("warning", "warning"),
        _ => ("critical", "critical"),
    }
}

/// A number behind a finding.
pub(super) struct EvidenceRow {
    pub label: String,
    pub value: String,
    pub limit: String,
}

/// Numbers behind a finding, with their limits.
pub(super) fn evidence(all: &[Evidence]) -> Vec<EvidenceRow> {
    let row = |one: &Evidence| EvidenceRow {
        label: safe_sentence(&one.label),
        value: safe_sentence(format!("{} {}", short(one.value), unit(one)).trim_end()),
        limit: one.limit.map_or_else(|| "–".to_owned(), short),
    };
    all.iter().map(row).collect()
}

/// A finding, and what else its rule found.
pub(super) struct FindingView {
    pub tone: &'static str,
    pub severity: String,
    pub code: String,
    pub name: String,
    /// How far to trust it.
    pub trust: String,
    pub message: String,
    pub place: String,
    pub evidence: Vec<EvidenceRow>,
    pub reason: String,
    pub advice: String,
    /// There is a page to read about it.
    pub is_rule: bool,
    /// What the same rule found elsewhere, a sentence each.
    pub others: Vec<String>,
    /// How many more there are.
    pub uncounted: usize,
}

/// Items, those of one rule, severity and effect together, in the order of the first of each.
pub(super) fn findings(items: &[Item<'_>], several: bool) -> Vec<FindingView> {
    let mut groups: Vec<Vec<&Item<'_>>> = Vec::new();
    for item in items {
        let alike = |group: &&mut Vec<&Item<'_>>| {
            (group[0].check, group[0].severity, group[0].effect) == (item.check, item.severity, item.effect)
        };
        match groups.iter_mut().find(alike) {
            Some(group) => group.push(item),
            None => groups.push(vec![item]),
        }
    }
    groups.into_iter().map(|group| view(&group, several)).collect()
}

fn view(group: &[&Item<'_>], several: bool) -> FindingView {
    let first = group[0];
    let said = |item: &Item<'_>| {
        let place = if several { format!("{}: ", item.checkpoint) } else { String::new() };
        safe_sentence(&format!("{place}{}", item.message))
    };
    let known = rule(first.check);
    FindingView {
        tone: tone(first.severity),
        severity: first.severity.to_string(),
        code: safe(first.check),
        name: if first.check.ends_with(first.name) { String::new() } else { safe(first.name) },
        trust: known.map_or_else(String::new, |rule| rule.confidence.to_string()),
        message: said(first),
        place: place(first),
        evidence: evidence(first.evidence),
        reason: first.reason.map(safe_sentence).unwrap_or_default(),
        advice: safe_sentence(first.advice),
        is_rule: known.is_some(),
        others: group[1..].iter().take(LINES).map(|item| said(item)).collect(),
        uncounted: (group.len() - 1).saturating_sub(LINES),
    }
}

fn place(item: &Item<'_>) -> String {
    let subject = match item.subject {
        Subject::Tensor(name) => format!("tensor {name}"),
        Subject::Layer(name) => format!("layer {name}"),
        other => subject_name(other).unwrap_or_default(),
    };
    let file = item.file.filter(|file| *file != subject).map(|file| format!("file {file}"));
    let parts = [Some(subject), file].into_iter().flatten().filter(|part| !part.is_empty());
    parts.map(|part| safe_sentence(&part)).collect::<Vec<_>>().join(", ")
}

/// A reason, and what could not be evaluated for it.
pub(super) struct Unjudged {
    pub what: String,
    pub reason: String,
    pub subjects: String,
}

/// What was not evaluated, by reason, most first.
///
/// Reasons that differ in the name of the checkpoint's file alone are one.
pub(super) fn unjudged(entries: &[NotEvaluated]) -> Vec<Unjudged> {
    let mut reasons: BTreeMap<String, Vec<&NotEvaluated>> = BTreeMap::new();
    for entry in entries {
        let file = entry.checkpoint.rsplit('/').next().unwrap_or_default();
        let told_apart = entry.reason.strip_prefix(file).unwrap_or(&entry.reason);
        reasons.entry(told_apart.to_owned()).or_default().push(entry);
    }
    let mut reasons: Vec<_> =
        reasons.into_values().map(|entries| (entries[0].reason.as_str(), entries)).collect();
    reasons.sort_by_key(|(_, entries)| std::cmp::Reverse(entries.len()));
    let said = |(reason, entries): (&str, Vec<&NotEvaluated>)| {
        let rules: BTreeSet<&str> = entries.iter().filter_map(|entry| entry.rule.as_deref()).collect();
        let what = match rules.len() {
            0 => "elements".to_owned(),
            1 => titled(rules.first().expect("there is one")),
            _ => rules.into_iter().collect::<Vec<_>>().join(", "),
        };
        let names: BTreeSet<String> =
            entries.iter().filter_map(|entry| subject_name(&entry.subject)).map(|name| safe(&name)).collect();
        let checkpoints: BTreeSet<&str> = entries.iter().filter_map(|entry| entry.of_checkpoint()).collect();
        let mut subjects: Vec<String> = names.iter().take(SUBJECTS).cloned().collect();
        if names.len() > SUBJECTS {
            subjects.push(format!("and {} more", names.len() - SUBJECTS));
        }
        if checkpoints.len() > 1 {
            subjects.push(format!("in {} checkpoints", checkpoints.len()));
        }
        Unjudged { what, reason: safe_sentence(reason), subjects: subjects.join(", ") }
    };
    reasons.into_iter().map(said).collect()
}

/// A plot as it stands in a page.
pub(super) struct Figure {
    pub title: String,
    pub caption: String,
    pub svg: String,
}

/// Plots as they stand in a page.
pub(super) fn figures(plots: &[Plot]) -> Vec<Figure> {
    let figure =
        |plot: &Plot| Figure { title: plot.title.clone(), caption: plot.caption.clone(), svg: plot.svg() };
    plots.iter().map(figure).collect()
}

/// Lines to copy, made safe to show.
pub(super) fn snippets(all: &[Snippet]) -> Vec<Snippet> {
    all.iter().map(|one| Snippet::new(&safe(&one.place), safe_sentence(&one.text))).collect()
}

/// What was taken for what, and what was left out.
pub(super) fn remarks(all: &[Remark]) -> Vec<String> {
    all.iter().map(|remark| safe_sentence(&remarked(remark))).collect()
}
