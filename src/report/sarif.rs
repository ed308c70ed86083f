//! SARIF 2.1.0, for code scanning: rules with their pages, results with fingerprints that outlive a new checkpoint.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value, json};

use super::Report;
use super::items::{Item, items, rule, subject_name, summary};
use super::text::safe_sentence;
use crate::gate::{BaselineState, Effect, Outcome, find_check};
use crate::rules::{Confidence, Severity, Subject};

/// The schema that the log names.
const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

/// The key of our fingerprint; its number changes when what goes into it does.
const FINGERPRINT: &str = "flashpoint/v1";

/// The report as a SARIF log with one run.
pub fn to_sarif(report: &Report) -> Vec<u8> {
    let items = items(report);
    let codes = items.iter().map(|item| item.check).collect::<BTreeSet<_>>();
    let codes = codes.into_iter().collect::<Vec<_>>();
    let mut fingerprints =
        Fingerprints { several: report.analysis.checkpoints.len() > 1, seen: HashMap::new() };
    let results = items.iter().map(|item| result(item, &codes, &mut fingerprints));
    let results = results.collect::<Vec<_>>();
    let log = json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "flashpoint",
                "semanticVersion": report.analysis.tool_version,
                "rules": codes.iter().map(|code| descriptor(code)).collect::<Vec<_>>(),
            }},
            "columnKind": "unicodeCodePoints",
            "invocations": [invocation(report)],
            "artifacts": artifacts(report),
            "results": results,
        }],
    });
    let mut bytes = serde_json::to_vec_pretty(&log).expect("plain data with text keys, written to memory");
    bytes.push(b'\n');
    bytes
}

/// A rule, or a check of the gate, with what it says of itself.
fn descriptor(code: &str) -> Value {
    let Some(rule) = rule(code) else {
        let (name, help) = find_check(code).map_or((code, ""), |check| (check.name(), check.help));
        return json!({
            "id": code,
            "name": pascal_case(name),
            "shortDescription": { "text": summary(code) },
            "help": { "text": help },
            "defaultConfiguration": { "level": "error" },
            "properties": { "tags": ["checkpoint", "gate"] },
        });
    };
    let precision = match rule.confidence {
        Confidence::Exact => "very-high",
        Confidence::Calibrated => "high",
        Confidence::Heuristic => "medium",
    };
    json!({
        "id": rule.code,
        "name": pascal_case(rule.name),
        "shortDescription": { "text": rule.summary },
        "fullDescription": { "text": section(rule.page, "Why it matters") },
        "help": { "text": section(rule.page, "What to do"), "markdown": rule.page },
        "defaultConfiguration": { "level": level(rule.severity) },
        "properties": { "tags": ["checkpoint"], "precision": precision },
    })
}

fn result(item: &Item<'_>, codes: &[&str], fingerprints: &mut Fingerprints) -> Value {
    let mut message = safe_sentence(item.message);
    if let Some(reason) = item.reason {
        message = format!("{message} ({})", safe_sentence(reason));
    }
    let mut result = json!({
        "ruleId": item.check,
        "ruleIndex": codes.binary_search(&item.check).unwrap_or_default(),
        "level": level_of(item),
        "message": { "text": format!("{message}. What to do: {}", safe_sentence(item.advice)) },
        "locations": [location(item)],
        "partialFingerprints": { FINGERPRINT: fingerprints.of(item) },
    });
    let fields = result.as_object_mut().expect("it was written as an object");
    if let (Effect::Tolerated, Some(reason)) = (item.effect, item.reason) {
        let justification = safe_sentence(reason);
        let suppression = json!({ "kind": "external", "status": "accepted", "justification": justification });
        fields.insert("suppressions".to_owned(), json!([suppression]));
    }
    if let Some(state) = item.baseline_state {
        let state = match state {
            BaselineState::New => "new",
            BaselineState::Unchanged => "unchanged",
            BaselineState::Worse => "updated",
        };
        fields.insert("baselineState".to_owned(), state.into());
    }
    let numbers = item.evidence.iter().map(|evidence| {
        // A number that JSON lacks is text: never a null.
        let number = |value: f64| if value.is_finite() { json!(value) } else { json!(value.to_string()) };
        let limit = evidence.limit.map(number);
        let numbers = [("value", Some(number(evidence.value))), ("limit", limit)];
        let numbers = numbers.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        (evidence.label.clone(), Value::Object(numbers.collect()))
    });
    let numbers = numbers.collect::<Map<_, _>>();
    if !numbers.is_empty() {
        fields.insert("properties".to_owned(), json!({ "evidence": numbers }));
    }
    result
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    }
}

/// What prevents a decision is an error, whatever the rule thinks of it.
fn level_of(item: &Item<'_>) -> &'static str {
    if item.effect == Effect::Prevents { "error" } else { level(item.severity) }
}

/// The file, which code scanning needs, and the tensor.
fn location(item: &Item<'_>) -> Value {
    let parts = [Some(item.place), item.file];
    let parts = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>();
    let uri = if parts.is_empty() { "flashpoint.toml".to_owned() } else { uri(&parts) };
    let mut location = json!({
        "physicalLocation": { "artifactLocation": { "uri": uri }, "region": { "startLine": 1 } },
    });
    if let Some(name) = subject_name(item.subject) {
        let kind = match item.subject {
            Subject::Tensor(_) => "parameter",
            Subject::Layer(_) => "module",
            Subject::File(_) => "resource",
            _ => "member",
        };
        let place = json!([{ "fullyQualifiedName": safe_sentence(&name), "kind": kind }]);
        location
            .as_object_mut()
            .expect("it was written as an object")
            .insert("logicalLocations".to_owned(), place);
    }
    location
}

/// A relative reference: the checkpoint's place and the file's name, percent-encoded but for the slashes between components.
///
/// A file that is the checkpoint has its name only once.
fn uri(parts: &[&str]) -> String {
    let parts = match parts {
        [checkpoint, file] if checkpoint.rsplit('/').next() == Some(file) => &parts[..1],
        all => all,
    };
    let encoded = parts.iter().map(|part| part.split('/').map(percent_encoded).collect::<Vec<_>>().join("/"));
    encoded.collect::<Vec<_>>().join("/")
}

/// Everything but the unreserved characters of RFC 3986 as `%XX`.
fn percent_encoded(text: &str) -> String {
    // Two dots alone would lead out of the folder.
    if text.bytes().all(|byte| byte == b'.') {
        return "%2E".repeat(text.len());
    }
    let encoded = text.bytes().map(|byte| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    });
    encoded.collect()
}

/// Names of places that stay the same while numbers, steps and paths change.
struct Fingerprints {
    /// With several checkpoints in one log, their names tell them apart.
    several: bool,
    seen: HashMap<String, u64>,
}

impl Fingerprints {
    /// Of the check, the kind of subject, its name, and how many alike came before.
    fn of(&mut self, item: &Item<'_>) -> String {
        let kind = match item.subject {
            Subject::Tensor(_) => "tensor",
            Subject::Layer(_) => "layer",
            Subject::File(_) => "file",
            Subject::Checkpoint => "checkpoint",
            Subject::Steps(..) | Subject::Run => "run",
        };
        let name = match item.subject {
            // Steps move with every run; what is wrong with it stays.
            Subject::Steps(..) => String::new(),
            subject => subject_name(subject).unwrap_or_default(),
        };
        let checkpoint = if self.several { item.checkpoint } else { "" };
        let key = [item.check, kind, &name, checkpoint].join("\0");
        let before = self.seen.entry(key.clone()).or_insert(0);
        *before += 1;
        let key = format!("{key}\0{before}");
        blake3::hash(key.as_bytes()).to_hex().chars().take(32).collect()
    }
}

/// How the command went, and what it could not evaluate.
fn invocation(report: &Report) -> Value {
    let outcome = report.gate.as_ref().map(|gate| gate.outcome);
    let notes = report.not_evaluated.iter().map(|entry| {
        let what = entry.rule.as_deref().unwrap_or("elements");
        let of = subject_name(&entry.subject)
            .map(|name| format!(" of {}", safe_sentence(&name)))
            .unwrap_or_default();
        let text = format!("{what}{of} was not evaluated: {}", safe_sentence(&entry.reason));
        json!({ "level": "note", "message": { "text": text } })
    });
    let mut notes = notes.collect::<Vec<_>>();
    let sentence = match &report.gate {
        Some(gate) => format!("gate: {}: {}", gate.outcome, gate.sentence),
        None => report.verdict.sentence.clone(),
    };
    notes.push(json!({ "level": "note", "message": { "text": safe_sentence(&sentence) } }));
    json!({
        "executionSuccessful": outcome != Some(Outcome::CouldNotDecide),
        "toolExecutionNotifications": notes,
    })
}

/// The files that were looked at, with their digests where they were found.
fn artifacts(report: &Report) -> Vec<Value> {
    let checkpoints = report.analysis.checkpoints.iter();
    let files =
        checkpoints.flat_map(|checkpoint| checkpoint.files.iter().map(move |file| (checkpoint, file)));
    let artifact = files.map(|(checkpoint, file)| {
        let mut artifact = json!({
            "location": { "uri": uri(&[report.place_of(&checkpoint.name), &file.name]) },
            "length": file.bytes,
        });
        if let (Some(digest), Some(fields)) = (&file.digest, artifact.as_object_mut()) {
            fields.insert("hashes".to_owned(), json!({ "blake3": digest }));
        }
        artifact
    });
    artifact.collect()
}

/// `lost-optimizer-step` as `LostOptimizerStep`.
fn pascal_case(name: &str) -> String {
    let words = name.split('-').map(|word| {
        let mut letters = word.chars();
        letters
            .next()
            .map(|first| first.to_uppercase().chain(letters).collect::<String>())
            .unwrap_or_default()
    });
    words.collect()
}

/// The text under one heading of a page, as one line.
fn section(page: &str, heading: &str) -> String {
    let heading = format!("## {heading}");
    let lines = page.lines().skip_while(|line| *line != heading).skip(1);
    let lines = lines.take_while(|line| !line.starts_with("## ")).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_holds_no_character_that_means_something_else() {
        assert_eq!(uri(&["run/checkpoint 9", "model.safetensors"]), "run/checkpoint%209/model.safetensors");
        assert_eq!(uri(&["model.safetensors", "model.safetensors"]), "model.safetensors");
        assert_eq!(uri(&["../../etc", "a\nb?c#d"]), "%2E%2E/%2E%2E/etc/a%0Ab%3Fc%23d");
    }

    #[test]
    fn names_are_pascal_case_and_sections_one_line() {
        assert_eq!(pascal_case("lost-optimizer-step"), "LostOptimizerStep");
        let page = "# A\n\n## Why it matters\n\nOne\ntwo.\n\n## What to do\n\nThree.\n";
        assert_eq!(section(page, "Why it matters"), "One two.");
        assert_eq!(section(page, "What to do"), "Three.");
    }
}
