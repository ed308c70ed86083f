//! The post-mortem for people, no wider than 80 columns but for names and commands.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

use super::PostMortem;
use super::findings::{Group, grouped};
use super::timeline;
use crate::diagnosis::{Action, Mechanism, Suspect};
use crate::number::{grouped as thousands, short};
use crate::report::Style;
use crate::report::terminal::{evidence, painted, safe_sentence, titled};
use crate::report::text::{WIDTH, remarked, safe, wrapped};
use crate::rules::{NotEvaluated, Severity};

/// Findings that are shown before the rest is counted.
const FOLDED_FINDINGS: usize = 3;

/// Remarks, and reasons for what was not evaluated, that are shown before the rest is counted.
const FOLDED_LINES: usize = 4;

/// The whole report as text.
pub fn postmortem_page(report: &PostMortem, style: Style) -> String {
    let mut text = String::new();
    Page { report, style }.write(&mut text).expect("writing to a string does not fail");
    text
}

struct Page<'a> {
    report: &'a PostMortem,
    style: Style,
}

impl Page<'_> {
    fn write(&self, out: &mut String) -> fmt::Result {
        self.heading(out)?;
        self.story(out)?;
        self.suspects(out)?;
        self.timeline(out)?;
        self.actions(out)?;
        self.findings(out)?;
        self.remarks(out)?;
        self.not_evaluated(out)?;
        for (limit, value) in &self.report.replaced_limits {
            writeln!(out, "limit replaced: {limit} = {}", short(*value))?;
        }
        wrapped(out, "", &format!("verdict: {}", self.report.verdict.sentence))
    }

    fn heading(&self, out: &mut String) -> fmt::Result {
        let analysis = &self.report.analysis;
        let run = analysis.run.as_ref();
        let until = run.and_then(|run| run.until);
        let until = until.map_or_else(String::new, |step| format!(", until step {}", thousands(step)));
        writeln!(out, "{}{until}", safe(run.map_or("run", |run| run.name.as_str())))?;
        let logged = analysis.log.as_ref().map_or(0, |log| log.points.len());
        let counts = [
            counted(analysis.checkpoints.len(), "checkpoint"),
            counted(logged, "logged step"),
            counted(analysis.dumps.len(), "gradient dump"),
        ];
        writeln!(out, "  {}\n", counts.join(", "))?;
        let partly = if self.report.unread.is_empty() { "" } else { ", as far as it could be read" };
        wrapped(out, "", &format!("{}{partly}", self.report.diagnosis.verdict))?;
        writeln!(out)
    }

    fn story(&self, out: &mut String) -> fmt::Result {
        let diagnosis = &self.report.diagnosis;
        for sentence in &diagnosis.story {
            wrapped(out, "  ", sentence)?;
        }
        if !matches!(diagnosis.mechanism, Mechanism::None | Mechanism::Unknown) {
            writeln!(out, "\nwhy")?;
            let mut line = format!("{} ({})", diagnosis.mechanism, diagnosis.confidence);
            let numbers: Vec<String> = diagnosis.evidence.iter().map(evidence).collect();
            if !numbers.is_empty() {
                write!(line, ": {}", numbers.join("; "))?;
            }
            wrapped(out, "  ", &line)?;
        }
        for sentence in &diagnosis.against {
            wrapped(out, "  ", &format!("against it: {sentence}"))?;
        }
        if let Some(other) = &diagnosis.runner_up {
            let place = other.tensor.as_ref().map_or_else(String::new, |tensor| format!(" in {tensor}"));
            let sentence = format!(
                "next likely: {}{place}, as {}; but {}",
                other.mechanism, other.reason, other.against
            );
            wrapped(out, "  ", &sentence)?;
        }
        writeln!(out)
    }

    fn suspects(&self, out: &mut String) -> fmt::Result {
        let suspects = &self.report.diagnosis.suspects;
        if suspects.is_empty() {
            return Ok(());
        }
        let longest = suspects.iter().map(|one| safe(&one.tensor).chars().count()).max().unwrap_or(0);
        let width = longest.clamp(8, WIDTH - 2 - 3 * 10);
        writeln!(out, "suspects, by what was usual before (width: against the other matrices)")?;
        writeln!(out, "  {:width$}{:>10}{:>10}{:>10}", "tensor", "gradient", "change", "width")?;
        for Suspect { tensor, gradient_ratio, change_ratio, geometry_ratio } in suspects {
            let [gradient, change, geometry] = [*gradient_ratio, *change_ratio, *geometry_ratio].map(times);
            writeln!(out, "  {:width$}{gradient:>10}{change:>10}{geometry:>10}", fitted(tensor, width))?;
        }
        writeln!(out)
    }

    fn timeline(&self, out: &mut String) -> fmt::Result {
        let lines = timeline::draw(&self.report.analysis, self.report.diagnosis.onset_step);
        if lines.is_empty() {
            return Ok(());
        }
        writeln!(out, "timeline")?;
        for line in lines {
            writeln!(out, "  {line}")?;
        }
        writeln!(out)
    }

    fn actions(&self, out: &mut String) -> fmt::Result {
        let actions = &self.report.diagnosis.actions;
        if actions.is_empty() {
            return Ok(());
        }
        writeln!(out, "what to do")?;
        for (index, Action { what, snippets }) in actions.iter().enumerate() {
            wrapped(out, "  ", &format!("{}. {what}", index + 1))?;
            let width = snippets.iter().map(|one| one.place.chars().count()).max().unwrap_or(0);
            for snippet in snippets {
                writeln!(out, "     {:width$}  {}", snippet.place, safe_sentence(&snippet.text))?;
            }
        }
        writeln!(out)
    }

    fn findings(&self, out: &mut String) -> fmt::Result {
        let groups = grouped(&self.report.findings);
        if groups.is_empty() {
            return writeln!(out, "no findings\n");
        }
        writeln!(out, "findings")?;
        let shown = if self.style.all { groups.len() } else { FOLDED_FINDINGS };
        for group in groups.iter().take(shown) {
            self.finding(out, group)?;
        }
        if groups.len() > shown {
            let hidden = groups.len() - shown;
            writeln!(out, "  … and {hidden} more (--all shows every finding)")?;
        }
        writeln!(out)
    }

    fn finding(&self, out: &mut String, group: &Group) -> fmt::Result {
        let finding = group.first;
        let severity = painted(finding.severity, self.style);
        let mut text = String::new();
        wrapped(
            &mut text,
            "  ",
            &format!(
                "{} {} {} ({}): {}",
                finding.severity, finding.rule, finding.name, finding.confidence, finding.message
            ),
        )?;
        // Colour codes take no columns: they come in after the lines are broken.
        out.push_str(&text.replacen(&finding.severity.to_string(), &severity, 1));
        let numbers: Vec<String> = finding.evidence.iter().map(evidence).collect();
        if !numbers.is_empty() {
            wrapped(out, "    ", &format!("evidence: {}", numbers.join("; ")))?;
        }
        let place = match (finding.step, group.checkpoints) {
            (Some(step), 1) => format!("at step {}", thousands(step)),
            (Some(step), count) => format!("first at step {}, in {count} checkpoints", thousands(step)),
            (None, 1) => String::new(),
            (None, count) => format!("in {count} checkpoints"),
        };
        if !place.is_empty() {
            writeln!(out, "    {place}")?;
        }
        if finding.severity > Severity::Note {
            wrapped(out, "    ", &format!("what to do: {}", finding.advice))?;
        }
        Ok(())
    }

    fn remarks(&self, out: &mut String) -> fmt::Result {
        let remarks = self.report.analysis.run.as_ref().map_or(&[][..], |run| &run.remarks);
        if remarks.is_empty() {
            return Ok(());
        }
        writeln!(out, "what was taken for what")?;
        let shown = if self.style.all { remarks.len() } else { FOLDED_LINES };
        for remark in remarks.iter().take(shown) {
            wrapped(out, "  ", &remarked(remark))?;
        }
        if remarks.len() > shown {
            writeln!(out, "  … and {} more (--all shows every remark)", remarks.len() - shown)?;
        }
        writeln!(out)
    }

    /// What could not be evaluated, by reason: the rules, and in how many checkpoints.
    fn not_evaluated(&self, out: &mut String) -> fmt::Result {
        if self.report.not_evaluated.is_empty() {
            return Ok(());
        }
        writeln!(out, "not evaluated")?;
        let mut reasons: BTreeMap<String, Vec<&NotEvaluated>> = BTreeMap::new();
        for entry in &self.report.not_evaluated {
            // Reasons that differ in a number alone, such as the step, are one.
            let key = if self.style.all { entry.reason.clone() } else { without_numbers(&entry.reason) };
            reasons.entry(key).or_default().push(entry);
        }
        let mut reasons: Vec<_> =
            reasons.into_values().map(|entries| (entries[0].reason.as_str(), entries)).collect();
        // Stable: those that keep as much from being judged stay in the order of their words.
        reasons.sort_by_key(|(_, entries)| std::cmp::Reverse(entries.len()));
        let shown = if self.style.all { reasons.len() } else { FOLDED_LINES };
        for (reason, entries) in reasons.iter().take(shown) {
            let rules: BTreeSet<&str> = entries.iter().filter_map(|entry| entry.rule.as_deref()).collect();
            let what = match rules.len() {
                0 => "elements".to_owned(),
                1 => titled(rules.first().expect("there is one")),
                _ => rules.into_iter().collect::<Vec<_>>().join(", "),
            };
            let checkpoints: BTreeSet<&str> =
                entries.iter().filter_map(|entry| entry.of_checkpoint()).collect();
            let where_ = if checkpoints.len() > 1 {
                format!(" in {} checkpoints", checkpoints.len())
            } else {
                String::new()
            };
            wrapped(out, "  ", &format!("{what}{where_}: {reason}"))?;
        }
        if reasons.len() > shown {
            writeln!(out, "  … and {} more reasons (--all shows every one)", reasons.len() - shown)?;
        }
        writeln!(out)
    }
}

fn without_numbers(reason: &str) -> String {
    reason.chars().filter(|character| !character.is_ascii_digit()).collect()
}

/// A count in words: `no checkpoint`, `1 checkpoint`, `6 checkpoints`.
pub(in crate::report) fn counted(count: usize, what: &str) -> String {
    match count {
        0 => format!("no {what}"),
        1 => format!("1 {what}"),
        count => format!("{} {what}s", thousands(count as u64)),
    }
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "–".to_owned(), |ratio| format!("×{}", short(ratio)))
}

/// A name in a column, its beginning cut where it is too long.
fn fitted(name: &str, width: usize) -> String {
    let name = safe(name);
    let length = name.chars().count();
    if length <= width {
        return name;
    }
    format!("…{}", name.chars().skip(length + 1 - width).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words_and_a_long_name_stands_alone() {
        let mut text = String::new();
        let name = "a.very.long.name.".repeat(6);
        wrapped(&mut text, "  ", &format!("{} {name} {}", "word ".repeat(20).trim_end(), "end")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH || line.contains(&name)), "{text}");
        assert!(lines.len() >= 3 && lines[1..].iter().all(|line| line.starts_with("    ")), "{text}");
    }
}
