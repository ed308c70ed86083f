//! JUnit XML: a suite for each checkpoint, a case for each rule and check, so that any CI shows what failed and why.
//!
//! A case fails where something of it fails, is an error where it prevents a decision, and is skipped where it was not
//! evaluated. Without a gate, critical findings fail.

use std::collections::BTreeMap;
use std::io;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use super::Report;
use super::items::{Item, items, subject_name};
use super::text::safe_lines;
use crate::gate::{Effect, title};
use crate::rules::{NotEvaluated, RULES};

/// The report as JUnit XML.
///
/// # Panics
/// Never: it is written to memory.
pub fn to_junit(report: &Report) -> Vec<u8> {
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 1);
    write(report, &mut writer).expect("writing to memory does not fail");
    let mut bytes = writer.into_inner();
    bytes.push(b'\n');
    bytes
}

/// One case: everything about one rule or check in one checkpoint.
#[derive(Default)]
struct Case<'a> {
    items: Vec<Item<'a>>,
    not_evaluated: Vec<&'a NotEvaluated>,
}

/// What becomes of a case.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Passed,
    Failure,
    Error,
    Skipped,
}

impl Case<'_> {
    fn ending(&self) -> Ending {
        match self.items.iter().map(|item| item.effect).min() {
            Some(Effect::Prevents) => Ending::Error,
            Some(Effect::Fails) => Ending::Failure,
            _ if self.not_evaluated.is_empty() => Ending::Passed,
            _ => Ending::Skipped,
        }
    }
}

/// Cases of one checkpoint, by code and name.
type Suite<'a> = BTreeMap<(&'a str, &'a str), Case<'a>>;

fn write(report: &Report, writer: &mut Writer<Vec<u8>>) -> io::Result<()> {
    let suites = suites(report);
    let count = |ending| suites.iter().map(|(_, suite)| of(suite, ending)).sum::<usize>();
    let tests = suites.iter().map(|(_, suite)| suite.len()).sum::<usize>();
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let attributes = [
        ("name", "flashpoint".to_owned()),
        ("tests", tests.to_string()),
        ("failures", count(Ending::Failure).to_string()),
        ("errors", count(Ending::Error).to_string()),
    ];
    let attributes = attributes.iter().map(|(name, value)| (*name, value.as_str()));
    writer.create_element("testsuites").with_attributes(attributes).write_inner_content(|writer| {
        suites.iter().try_for_each(|(name, suite)| write_suite(name, suite, report, writer))
    })?;
    Ok(())
}

fn of(suite: &Suite<'_>, ending: Ending) -> usize {
    suite.values().filter(|case| case.ending() == ending).count()
}

/// A suite for each checkpoint, and one for what belongs to none.
fn suites(report: &Report) -> Vec<(&str, Suite<'_>)> {
    let rules = || RULES.iter().map(|rule| ((rule.code, rule.name), Case::default()));
    let checkpoints = report.analysis.checkpoints.iter();
    let mut suites: Vec<(&str, Suite<'_>)> =
        checkpoints.map(|checkpoint| (checkpoint.name.as_str(), rules().collect())).collect();
    for item in items(report) {
        let suite = suite_of(&mut suites, item.checkpoint);
        suite.entry((item.check, item.name)).or_default().items.push(item);
    }
    for entry in &report.not_evaluated {
        let code = entry.rule.as_deref().unwrap_or("elements");
        let name = RULES.iter().find(|rule| rule.code == code).map_or("not read", |rule| rule.name);
        let own = suites.iter().any(|(checkpoint, _)| *checkpoint == entry.checkpoint);
        if own || report.analysis.checkpoints.is_empty() {
            let suite = suite_of(&mut suites, &entry.checkpoint);
            suite.entry((code, name)).or_default().not_evaluated.push(entry);
            continue;
        }
        // What is of a run was evaluated in none of its checkpoints: nowhere does it count as passed.
        for (_, suite) in &mut suites[..report.analysis.checkpoints.len()] {
            suite.entry((code, name)).or_default().not_evaluated.push(entry);
        }
    }
    suites
}

fn suite_of<'a, 'b>(suites: &'b mut Vec<(&'a str, Suite<'a>)>, name: &'a str) -> &'b mut Suite<'a> {
    let index = suites.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
        suites.push((name, Suite::new()));
        suites.len() - 1
    });
    &mut suites[index].1
}

fn write_suite(
    name: &str,
    suite: &Suite<'_>,
    report: &Report,
    writer: &mut Writer<Vec<u8>>,
) -> io::Result<()> {
    let name = if name.is_empty() { "the whole" } else { name };
    let attributes = [
        ("name", xml_text(name)),
        ("tests", suite.len().to_string()),
        ("failures", of(suite, Ending::Failure).to_string()),
        ("errors", of(suite, Ending::Error).to_string()),
        ("skipped", of(suite, Ending::Skipped).to_string()),
    ];
    let attributes = attributes.iter().map(|(name, value)| (*name, value.as_str()));
    writer.create_element("testsuite").with_attributes(attributes).write_inner_content(|writer| {
        for ((code, rule), case) in suite {
            write_case(code, rule, case, writer)?;
        }
        let sentence = report.gate.as_ref().map_or_else(
            || report.verdict.sentence.clone(),
            |gate| format!("gate: {}: {}", gate.outcome, gate.sentence),
        );
        write_text("system-out", &xml_text(&sentence), writer)
    })?;
    Ok(())
}

fn write_case(code: &str, rule: &str, case: &Case<'_>, writer: &mut Writer<Vec<u8>>) -> io::Result<()> {
    let title = title(code, rule);
    let element = writer.create_element("testcase");
    let element = element.with_attributes([("name", title.as_str()), ("classname", "flashpoint")]);
    let ending = case.ending();
    if ending == Ending::Passed && case.items.is_empty() {
        element.write_empty()?;
        return Ok(());
    }
    element.write_inner_content(|writer| {
        for item in &case.items {
            let kind = match item.effect {
                Effect::Prevents => "error",
                Effect::Fails => "failure",
                Effect::Noticed | Effect::Tolerated => continue,
            };
            let message = xml_text(item.message);
            let attributes = [("type", item.check), ("message", message.as_str())];
            writer
                .create_element(kind)
                .with_attributes(attributes)
                .write_text_content(BytesText::new(&xml_text(&details(item))))?;
        }
        if ending == Ending::Skipped {
            let reasons = case.not_evaluated.iter().map(|entry| {
                let of = subject_name(&entry.subject).map(|name| format!("{name}: ")).unwrap_or_default();
                format!("{of}{}", entry.reason)
            });
            let reasons = xml_text(&reasons.collect::<Vec<_>>().join("\n")).replace('\n', "; ");
            writer.create_element("skipped").with_attribute(("message", reasons.as_str())).write_empty()?;
        }
        let told = case.items.iter().filter(|item| item.effect > Effect::Fails).map(details);
        let told = told.collect::<Vec<_>>().join("\n");
        if told.is_empty() { Ok(()) } else { write_text("system-out", &xml_text(&told), writer) }
    })?;
    Ok(())
}

/// A finding in lines: what, why it counts, what to do.
fn details(item: &Item<'_>) -> String {
    let mut lines = vec![format!("{} {}: {}", item.severity, title(item.check, item.name), item.message)];
    lines.extend(item.reason.map(|reason| format!("why: {reason}")));
    lines.push(format!("what to do: {}", item.advice));
    lines.join("\n")
}

fn write_text(name: &str, text: &str, writer: &mut Writer<Vec<u8>>) -> io::Result<()> {
    writer.create_element(name).write_text_content(BytesText::new(text))?;
    Ok(())
}

/// Text in which no character is forbidden in XML; line breaks of our own stay.
fn xml_text(text: &str) -> String {
    safe_lines(text)
}
