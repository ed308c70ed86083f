//! SARIF, JUnit, annotations and Markdown: valid by the official schemas, and safe with hostile names.

#[path = "common/schema.rs"]
mod schema;

use std::path::Path;
use std::process::Command;

use schema::violations;
use serde_json::Value;

const EXPLODED: &str = "fixtures/runs/rnn-exploding/checkpoint-0400";
const HEALTHY: &str = "fixtures/runs/rnn-healthy/checkpoint-0400";
const DAMAGED: &str = "fixtures/rules/FP903-damaged-file/fires-truncated-shard";
const NAN: &str = "fixtures/runs/mlp-nan/checkpoint-0100";

fn flashpoint(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flashpoint"));
    let output = command.args(arguments).output().expect("the binary under test can be started");
    String::from_utf8(output.stdout).expect("reports are UTF-8")
}

fn sarif(arguments: &[&str]) -> Value {
    let text = flashpoint(&[arguments, &["--format", "sarif"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{text}"))
}

/// A safetensors file with one NaN in a tensor of that name.
fn hostile(folder: &Path, name: &str) -> String {
    let mut header = serde_json::to_string(&serde_json::json!({
        name: { "dtype": "F32", "shape": [2], "data_offsets": [0, 8] }
    }))
    .expect("JSON can be written");
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend([1.0f32, f32::NAN].iter().flat_map(|value| value.to_le_bytes()));
    let path = folder.join("model.safetensors");
    std::fs::write(&path, bytes).expect("it can be written");
    path.to_str().expect("temporary paths are UTF-8").to_owned()
}

/// Line breaks, workflow commands, tags, fences, pipes, entities, terminal escapes, direction overrides, mentions.
const HOSTILE: &str = "a\n::error::x\r\n%0A]]><b onload=\"x\">&amp;`|@team\u{1b}[31m\u{202e}\u{0}\u{fffe}#1";

#[test]
fn sarif_is_valid_by_the_official_schema() {
    let schema = std::fs::read("fixtures/schemas/sarif-2.1.0.schema.json").expect("the schema is there");
    let schema: Value = serde_json::from_slice(&schema).expect("the schema is JSON");
    // That it can say no.
    let without = serde_json::json!({ "version": "2.1.0", "runs": [{ "tool": {} }] });
    assert_eq!(violations(&schema, &without), ["/runs/0/tool: lacks driver"]);
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let hostile = hostile(folder.path(), HOSTILE);
    for command in ["gate", "inspect"] {
        for path in [HEALTHY, EXPLODED, DAMAGED, NAN, &hostile] {
            let log = sarif(&[command, path]);
            assert_eq!(violations(&schema, &log), Vec::<String>::new(), "{command} {path}");
        }
    }
}

#[test]
fn sarif_carries_the_page_of_every_rule_it_names() {
    let log = sarif(&["gate", EXPLODED]);
    let run = &log["runs"][0];
    let rules = run["tool"]["driver"]["rules"].as_array().expect("rules are a list");
    let results = run["results"].as_array().expect("results are a list");
    assert!(!results.is_empty());
    for result in results {
        let index = result["ruleIndex"].as_u64().expect("an index") as usize;
        assert_eq!(rules[index]["id"], result["ruleId"]);
        let rule = flashpoint::rules::find(result["ruleId"].as_str().expect("an id")).expect("a rule");
        assert_eq!(rules[index]["help"]["markdown"], rule.page);
        assert!(!rules[index]["help"]["text"].as_str().expect("text").is_empty());
    }
}

#[test]
fn fingerprints_outlive_a_new_checkpoint_and_tell_places_apart() {
    let of = |path: &str| {
        let log = sarif(&["gate", path]);
        let results = log["runs"][0]["results"].as_array().expect("results are a list").clone();
        let print = |result: &Value| {
            let print = result["partialFingerprints"]["flashpoint/v1"].as_str().expect("a fingerprint");
            (result["ruleId"].as_str().expect("an id").to_owned(), print.to_owned())
        };
        results.iter().map(print).collect::<Vec<_>>()
    };
    let (earlier, later) = (of("fixtures/runs/mlp-nan/checkpoint-0050"), of(NAN));
    assert!(!later.is_empty());
    let different = later.iter().map(|(_, print)| print).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(different.len(), later.len());
    let exploded = (of("fixtures/runs/rnn-exploding/checkpoint-0300"), of(EXPLODED));
    assert!(exploded.0.iter().any(|print| exploded.1.contains(print)), "{exploded:?} {earlier:?}");
}

#[test]
fn what_is_tolerated_is_a_suppressed_result() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let baseline = folder.path().join("accepted.measured.json");
    let baseline = baseline.to_str().expect("temporary paths are UTF-8");
    flashpoint(&["measure", EXPLODED, "--output", baseline]);
    let log = sarif(&["gate", EXPLODED, "--baseline", baseline]);
    let results = log["runs"][0]["results"].as_array().expect("results are a list");
    assert!(!results.is_empty());
    for result in results {
        assert_eq!(result["suppressions"][0]["status"], "accepted");
        assert_eq!(result["baselineState"], "unchanged");
    }
}

/// What `junit-10.xsd` says of an element: attributes that must and may be there, and children.
type Shape = (&'static str, &'static [&'static str], &'static [&'static str], &'static [&'static str]);

/// The part of `fixtures/schemas/junit-10.xsd` that a report without reruns can use.
const SHAPES: &[Shape] = &[
    ("testsuites", &[], &["name", "time", "tests", "failures", "errors"], &["testsuite"]),
    (
        "testsuite",
        &["name", "tests", "failures", "errors"],
        &[
            "group",
            "time",
            "skipped",
            "timestamp",
            "hostname",
            "id",
            "package",
            "file",
            "log",
            "url",
            "version",
        ],
        &["testsuite", "properties", "testcase", "system-out", "system-err"],
    ),
    (
        "testcase",
        &["name"],
        &["time", "classname", "group"],
        &["skipped", "error", "failure", "system-out", "system-err"],
    ),
    ("failure", &[], &["type", "message"], &[]),
    ("error", &[], &["type", "message"], &[]),
    ("skipped", &[], &["type", "message"], &[]),
    ("system-out", &[], &[], &[]),
];

/// Holds XML against [`SHAPES`], and counts the elements.
fn junit_counts(text: &str) -> std::collections::BTreeMap<String, usize> {
    use quick_xml::events::Event;
    let mut reader = quick_xml::Reader::from_str(text);
    let mut path: Vec<String> = Vec::new();
    let mut counts = std::collections::BTreeMap::new();
    loop {
        let event = reader.read_event().unwrap_or_else(|error| panic!("{error}\n{text}"));
        let (start, empty) = match &event {
            Event::Start(start) => (start, false),
            Event::Empty(start) => (start, true),
            Event::End(_) => {
                path.pop();
                continue;
            }
            Event::Eof => break,
            _ => continue,
        };
        let name = start.name().as_ref().to_owned();
        let shape =
            SHAPES.iter().find(|shape| shape.0 == name).unwrap_or_else(|| panic!("an element {name}"));
        match path.last() {
            None => assert_eq!(name, "testsuites"),
            Some(parent) => {
                let parent = SHAPES.iter().find(|shape| shape.0 == parent).expect("it was checked");
                assert!(parent.3.contains(&name.as_str()), "{name} in {}", parent.0);
            }
        }
        let attributes = start
            .attributes()
            .map(|attribute| attribute.expect("attributes are well-formed").key.as_ref().to_owned());
        let attributes = attributes.collect::<Vec<_>>();
        for needed in shape.1 {
            assert!(attributes.iter().any(|attribute| attribute == needed), "{name} lacks {needed}");
        }
        for attribute in &attributes {
            let known = shape.1.contains(&attribute.as_str()) || shape.2.contains(&attribute.as_str());
            assert!(known, "{name} has {attribute}");
        }
        *counts.entry(name.clone()).or_insert(0) += 1;
        if !empty {
            path.push(name);
        }
    }
    assert!(path.is_empty());
    counts
}

#[test]
fn junit_has_the_elements_and_attributes_of_its_schema_and_a_case_for_every_rule() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let hostile = hostile(folder.path(), HOSTILE);
    let rules = flashpoint::rules::RULES.len();
    for command in ["gate", "inspect"] {
        for (path, failed, errors) in [
            (HEALTHY, false, false),
            (EXPLODED, true, false),
            (DAMAGED, false, true),
            (&hostile, true, false),
        ] {
            let text = flashpoint(&[command, path, "--format", "junit"]);
            let counts = junit_counts(&text);
            assert!(counts["testcase"] >= rules, "{counts:?}");
            // Without a gate, damage is a critical finding like others.
            let (failed, errors) =
                if command == "gate" { (failed, errors) } else { (failed || errors, false) };
            assert_eq!(counts.contains_key("failure"), failed, "{command} {path}: {text}");
            assert_eq!(counts.contains_key("error"), errors, "{command} {path}: {text}");
            assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        }
    }
}

/// By the schema itself, where a Python with `xmlschema` or `lxml` is at hand; `.ci/run` sees to that.
#[test]
fn junit_is_valid_by_the_official_schema() {
    let python = std::env::var("FLASHPOINT_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let module = ["xmlschema", "lxml"].into_iter().find(|module| {
        let probe = Command::new(&python).args(["-c", &format!("import {module}")]).output();
        probe.is_ok_and(|output| output.status.success())
    });
    let Some(module) = module else {
        eprintln!("SKIPPED junit schema: no Python with xmlschema or lxml; set FLASHPOINT_PYTHON");
        return;
    };
    let script = match module {
        "xmlschema" => "import sys, xmlschema\nxmlschema.XMLSchema(sys.argv[1]).validate(sys.argv[2])",
        _ => {
            "import sys\nfrom lxml import etree\netree.XMLSchema(etree.parse(sys.argv[1])).assertValid(etree.parse(sys.argv[2]))"
        }
    };
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let hostile = hostile(folder.path(), HOSTILE);
    for command in ["gate", "inspect"] {
        for path in [HEALTHY, EXPLODED, DAMAGED, &hostile] {
            let report = folder.path().join("report.xml");
            std::fs::write(&report, flashpoint(&[command, path, "--format", "junit"]))
                .expect("it can be written");
            let output = Command::new(&python)
                .args(["-c", script, "fixtures/schemas/junit-10.xsd"])
                .arg(&report)
                .output()
                .expect("it was started before");
            assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[test]
fn no_name_gets_out_of_its_place_in_any_format() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let path = hostile(folder.path(), HOSTILE);
    for command in ["gate", "inspect"] {
        let github = flashpoint(&[command, &path, "--format", "github"]);
        for line in github.lines() {
            assert!(
                ["::error ", "::warning ", "::notice "].iter().any(|start| line.starts_with(start)),
                "{line}"
            );
        }
        let markdown = flashpoint(&[command, &path, "--format", "markdown"]);
        let outside = markdown.lines().map(outside_of_code).collect::<Vec<_>>().join("\n");
        for piece in ["@team", "onload", "::error", "#1"] {
            assert!(!outside.contains(piece), "{piece}: {outside}");
        }
        for format in ["terminal", "sarif", "junit", "github", "markdown"] {
            let text = flashpoint(&[command, &path, "--format", format]);
            for character in ['\u{1b}', '\u{202e}', '\u{0}', '\u{fffe}', '\r'] {
                assert!(!text.contains(character), "{format} holds {character:?}");
            }
        }
    }
}

/// A line without its code spans: what stands between runs of as many backticks.
fn outside_of_code(line: &str) -> String {
    let mut rest = line;
    let mut kept = String::new();
    while let Some(start) = rest.find('`') {
        kept.push_str(&rest[..start]);
        let fence = rest[start..].len() - rest[start..].trim_start_matches('`').len();
        let inside = &rest[start + fence..];
        let mut from = 0;
        let end = loop {
            let Some(next) = inside[from..].find('`') else { break inside.len() };
            let run = inside[from + next..].len() - inside[from + next..].trim_start_matches('`').len();
            if run == fence {
                break from + next + run;
            }
            from += next + run;
        };
        rest = &inside[end..];
    }
    kept + rest
}

#[test]
fn policies_are_valid_by_the_published_schema_and_mistakes_are_not() {
    let schema = std::fs::read("docs/schema/policy.schema.json").expect("the schema is there");
    let schema: Value = serde_json::from_slice(&schema).expect("the schema is JSON");
    let valid = |text: &str| {
        let table = text.parse::<toml::Table>().expect("it is TOML");
        violations(&schema, &json_of(table.into())).is_empty()
    };
    let everything = std::fs::read_to_string("tests/gate/flashpoint.toml").expect("the policy is there");
    assert!(valid(&everything) && valid(""));
    for mistake in [
        "[gates]\n",
        "[rules.FP406]\nseverity = \"error\"\n",
        "[rules.FP406]\nratio = \"20\"\n",
        "[[skip]]\ntensors = \"a\"\n",
        "[[limits]]\nquantity = \"nrom\"\n",
        "[gate]\nfail-on = \"off\"\n",
    ] {
        assert!(!valid(mistake), "{mistake}");
    }
}

/// TOML as JSON, with dates as text.
fn json_of(value: toml::Value) -> Value {
    match value {
        toml::Value::Datetime(date) => date.to_string().into(),
        toml::Value::Array(values) => values.into_iter().map(json_of).collect(),
        toml::Value::Table(table) => table.into_iter().map(|(key, value)| (key, json_of(value))).collect(),
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(truth) => truth.into(),
    }
}
