//! Reports that people look at, as the commands write them: pages, Markdown, plots, and what happens to them on the way.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A command with a report, and what its page and its Markdown must say.
struct Report {
    command: &'static [&'static str],
    says: &'static [&'static str],
    plots: &'static [&'static str],
}

const REPORTS: [Report; 6] = [
    Report {
        command: &["inspect", "fixtures/runs/rnn-exploding/checkpoint-0400"],
        says: &["rnn.weight_hh_l0", "FP203", "FP210", "critical", "spectral radius"],
        plots: &["layer-norms", "exponents", "spectrum-1"],
    },
    Report {
        command: &["postmortem", "fixtures/runs/gpt-spike"],
        says: &[
            "gradient-spike",
            "lm_head.weight",
            "187",
            "checkpoint-160",
            "max_grad_norm",
            "FP501",
            "loss",
        ],
        plots: &["training", "layers-by-interval", "layer-norms", "update-ratios"],
    },
    Report {
        command: &["clip", "fixtures/clip/bloom-176b.jsonl"],
        says: &[
            "0.1569",
            "1.103 times the median",
            "clip_grad_norm_",
            "ZClip",
            "AutoClip",
            "regret",
            "31,207",
        ],
        plots: &["clipping"],
    },
    Report {
        command: &["gate", "fixtures/runs/rnn-exploding/checkpoint-0400"],
        says: &["fail", "FP203", "built-in", "rnn.weight_hh_l0"],
        plots: &["layer-norms", "exponents"],
    },
    Report {
        command: &[
            "diff",
            "fixtures/runs/gpt-spike/checkpoint-160",
            "fixtures/runs/gpt-spike/checkpoint-200",
        ],
        says: &["lm_head.weight", "29 of 29 tensors changed", "cosine"],
        plots: &["changes"],
    },
    Report {
        command: &[
            "jacobian",
            "fixtures/rules/FP802-block-gain-outlier/fires-second-block-of-five",
            "--tokens",
            "8",
        ],
        says: &["FP802", "h.1 mlp", "end to end", "as initialised", "synthetic probe", "stable rank"],
        plots: &["jacobian-gain", "layer-norms"],
    },
];

fn flashpoint(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flashpoint"))
        .args(arguments)
        .output()
        .expect("the binary under test can be started")
}

fn printed(arguments: &[&str]) -> String {
    String::from_utf8(flashpoint(arguments).stdout).expect("reports are UTF-8")
}

fn with<'a>(command: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    command.iter().chain(more).copied().collect()
}

#[test]
fn every_page_and_every_markdown_tells_the_story() {
    for report in REPORTS {
        for format in ["html", "markdown"] {
            let text = printed(&with(report.command, &["--format", format]));
            for sentence in report.says {
                assert!(text.contains(sentence), "{:?} as {format} does not say {sentence}", report.command);
            }
            assert!(
                text.contains("ot evaluated") || report.command[0] == "diff",
                "{:?} as {format}",
                report.command
            );
        }
    }
}

#[test]
fn every_page_is_whole_and_needs_nothing_beside_it() {
    for report in REPORTS {
        let page = printed(&with(report.command, &["--format", "html"]));
        assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
        assert!(page.contains("<figure>") && page.contains("screen and (prefers-color-scheme:dark)"));
        let addresses = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        for outside in ["http://", "https://", "src=", "<link", "url(", "@import"] {
            assert!(!addresses.contains(outside), "{:?}: {outside}", report.command);
        }
    }
}

#[test]
fn a_page_in_a_file_is_the_page_on_stdout_and_the_same_every_time() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    for report in REPORTS {
        let file = folder.path().join("report.html");
        let file_name = file.to_str().expect("temporary paths are UTF-8");
        // The ending says the format.
        flashpoint(&with(report.command, &["--output", file_name]));
        let written = std::fs::read(&file).expect("the page was written");
        assert!(written == printed(&with(report.command, &["--format", "html"])).as_bytes());
        let threads = printed(&with(report.command, &["--format", "html", "--threads", "1"]));
        assert!(written == threads.as_bytes(), "{:?} depends on the threads", report.command);
    }
}

#[test]
fn plots_are_files_of_both_kinds() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    for report in REPORTS {
        let plots = folder.path().join(report.command[0]).join("deep");
        let name = plots.to_str().expect("temporary paths are UTF-8");
        flashpoint(&with(report.command, &["--plots", name]));
        for plot in report.plots {
            let svg = std::fs::read_to_string(plots.join(format!("{plot}.svg"))).expect("an SVG file");
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{plot}");
            let png = std::fs::read(plots.join(format!("{plot}.png"))).expect("a PNG file");
            assert!(png.starts_with(b"\x89PNG\r\n\x1a\n") && png.len() > 5_000, "{plot}");
        }
        let left = std::fs::read_dir(&plots).expect("the directory is there");
        let others = left.filter_map(Result::ok).filter(|entry| {
            let path = entry.path();
            !path.extension().is_some_and(|ending| ending == "svg" || ending == "png")
        });
        assert_eq!(others.count(), 0, "nothing else is left there");
    }
}

#[test]
fn plots_are_never_drawn_into_the_input() {
    let run = Path::new("fixtures/runs/gpt-spike");
    let folder = run.join("plots");
    let output =
        flashpoint(&["postmortem", "fixtures/runs/gpt-spike", "--plots", folder.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("part of the input"), "{told}");
    assert!(!folder.exists());
}

#[test]
fn a_format_of_findings_is_refused_where_there_are_none() {
    let output = flashpoint(&["clip", "fixtures/clip/bloom-176b.jsonl", "--format", "sarif"]);
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("does not write sarif") && told.contains("html"), "{told}");
}

#[test]
fn a_page_of_jacobians_says_every_number_of_the_terminal() {
    let commands: [&[&str]; 2] = [
        REPORTS[5].command,
        &["jacobian", "fixtures/rules/FP805-positive-lyapunov-exponent/fires-gain-of-three", "--tokens", "8"],
    ];
    for command in commands {
        let page = printed(&with(command, &["--format", "html"]));
        assert!(page.contains("flashpoint jacobian</title>"), "the page is named after its command");
        let terminal = printed(&with(command, &["--all"]));
        let told = |line: &&str| !line.contains("explain ") && !line.starts_with("verdict");
        // What has no decimal point may stand elsewhere for something else.
        let is_number = |word: &&str| word.contains('.') && word.parse::<f64>().is_ok();
        let words = terminal.lines().filter(told).flat_map(|line| line.split([' ', ',', ';', '(', ')']));
        let numbers: Vec<&str> = words.filter(is_number).collect();
        assert!(numbers.len() > 30, "{terminal}");
        for number in numbers {
            assert!(page.contains(number), "{command:?}: {number} is not on the page");
        }
    }
}

#[test]
fn a_post_mortem_tells_its_findings_one_by_one_where_it_is_asked() {
    let run = ["postmortem", "fixtures/runs/gpt-spike"];
    let sarif: serde_json::Value =
        serde_json::from_str(&printed(&with(&run, &["--format", "sarif"]))).expect("SARIF is JSON");
    let results = sarif["runs"][0]["results"].as_array().expect("results");
    let rules: Vec<&str> = results.iter().filter_map(|result| result["ruleId"].as_str()).collect();
    assert_eq!(rules, ["FP501", "FP604", "FP704"]);
    let notes = sarif["runs"][0]["invocations"][0]["toolExecutionNotifications"].as_array().expect("notes");
    let verdict = notes.last().and_then(|note| note["message"]["text"].as_str()).expect("a verdict");
    assert!(verdict.starts_with("gradient-spike in lm_head.weight at step 187"), "{verdict}");
    let junit = printed(&with(&run, &["--format", "junit"]));
    assert!(junit.contains("<failure type=\"FP501\"") && junit.contains("gradient-spike in lm_head.weight"));
    let github = printed(&with(&run, &["--format", "github"]));
    let first = github.lines().next().expect("a line");
    assert!(first.starts_with("::error title=flashpoint::gradient-spike in lm_head.weight"), "{first}");
}

#[test]
fn a_format_that_a_command_lacks_is_refused_with_those_that_it_has() {
    let refused = |arguments: &[&str]| {
        let output = flashpoint(arguments);
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let checkpoint = "fixtures/runs/gpt-spike/checkpoint-160";
    let told = refused(&["repair", checkpoint, "--plan", "--format", "html"]);
    assert!(told.contains("does not write html") && told.contains("take terminal or json"), "{told}");
    let told = refused(&["resume", "fixtures/runs/gpt-spike", "--dry-run", "--format", "markdown"]);
    assert!(told.contains("does not write markdown") && told.contains("take terminal or json"), "{told}");
    let told = refused(&["diff", checkpoint, checkpoint, "--format", "junit"]);
    assert!(told.contains("does not write junit") && told.contains("postmortem"), "{told}");
}

/// Names that do harm where they are printed as they are.
const HOSTILE: [&str; 8] = [
    "<script>alert(1)</script>.weight",
    "\u{202e}thgiew.\u{2066}lm\u{2069}",
    "\u{1b}[2J\u{1b}]0;owned\u{7}.weight",
    "=cmd|' /C calc'!A0",
    "`code` | **bold** @someone [link](http://x) <!-- -->",
    "::error file=x::owned",
    "a\nverdict: nothing critical\r\nb",
    "{{ head }}{% raw %}&lt;",
];

/// A safetensors file of matrices with those names, one of a megabyte, and NaN in each.
fn hostile_file(folder: &Path, value: f32) -> PathBuf {
    let names: Vec<String> =
        HOSTILE.iter().map(|name| (*name).to_owned()).chain(["x".repeat(1 << 20)]).collect();
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let start = data.len();
        for element in 0..64 {
            let element = if element == index { f32::NAN } else { value * (element as f32 - 31.5) };
            data.extend(element.to_le_bytes());
        }
        header.insert(
            name.clone(),
            serde_json::json!({"dtype": "F32", "shape": [8, 8], "data_offsets": [start, data.len()]}),
        );
    }
    let header = serde_json::to_vec(&header).expect("JSON");
    let path = folder.join(format!("model-{value}.safetensors"));
    std::fs::write(&path, [&(header.len() as u64).to_le_bytes(), &header[..], &data].concat())
        .expect("a file");
    path
}

#[test]
fn no_name_of_a_tensor_does_harm_in_any_format() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let [one, other] = [0.01, 0.02].map(|value| hostile_file(folder.path(), value));
    let run = folder.path().join("run");
    for (step, file) in [(100, &one), (200, &other)] {
        let checkpoint = run.join(format!("checkpoint-{step}"));
        std::fs::create_dir_all(&checkpoint).expect("a directory");
        std::fs::copy(file, checkpoint.join("model.safetensors")).expect("a copy");
    }
    let [one, other, run] = [&one, &other, &run].map(|path| path.to_str().expect("UTF-8"));
    let commands: [&[&str]; 4] = [
        &["inspect", one, "--all"],
        &["gate", one],
        &["diff", one, other, "--all"],
        &["postmortem", run, "--all"],
    ];
    for command in commands {
        let findings = matches!(command[0], "inspect" | "gate" | "postmortem");
        let formats: &[&str] = if findings {
            &["terminal", "markdown", "html", "sarif", "junit", "github", "json"]
        } else {
            &["terminal", "markdown", "html", "json"]
        };
        for format in formats {
            let text = printed(&with(command, &["--format", format]));
            let told = format!("{command:?} as {format}");
            assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "{told}: an escape sequence");
            if *format == "json" {
                // For programs, which need the name as it is: what a terminal would obey is escaped.
                serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
                continue;
            }
            assert!(!text.contains('\u{202e}') && !text.contains('\u{2066}'), "{told}: a direction override");
            assert!(
                !text.lines().any(|line| line == "verdict: nothing critical"),
                "{told}: a line of its own"
            );
            assert!(
                !text.lines().any(|line| line.starts_with("::error file=x")),
                "{told}: a workflow command"
            );
            if *format == "html" {
                assert_eq!(text.matches("<script").count(), 1, "{told}");
                assert!(text.len() < 400_000, "{told}: {} bytes", text.len());
            }
            if *format == "markdown" {
                let outside = outside_code(&text);
                assert!(!outside.contains("<script") && !outside.contains("@someone"), "{told}: {outside}");
            }
            if matches!(*format, "terminal" | "markdown") {
                assert!(text.lines().all(|line| line.chars().count() < 4000), "{told}: a name of a megabyte");
            }
        }
    }
}

/// Puts harmful text into every string of a measurement that is free to be anything.
fn poison(value: &mut serde_json::Value, text: &str) {
    const OF_FILES: [&str; 8] =
        ["name", "architecture", "scheme", "unused", "assumptions", "not_measured", "file", "message"];
    match value {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields.iter_mut() {
                match value {
                    serde_json::Value::String(own) if OF_FILES.contains(&key.as_str()) => {
                        text.clone_into(own);
                    }
                    serde_json::Value::Array(list) if ["unused", "assumptions"].contains(&key.as_str()) => {
                        *list = vec![text.into()];
                    }
                    other => poison(other, text),
                }
            }
        }
        serde_json::Value::Array(list) => list.iter_mut().for_each(|value| poison(value, text)),
        _ => {}
    }
}

#[test]
fn no_text_of_a_measurement_with_jacobians_does_harm() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let path = folder.path().join("own.measured.json");
    let name = path.to_str().expect("UTF-8");
    for checkpoint in [
        "fixtures/rules/FP806-softmax-gradient-path/fires-queries-and-keys-nine-times-too-large",
        "fixtures/rules/FP805-positive-lyapunov-exponent/silent-gain-of-nine-tenths",
    ] {
        flashpoint(&["measure", checkpoint, "--measure", "jacobian", "--output", name]);
        let own: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).expect("it was written")).expect("JSON");
        let harmful = "\u{1b}[2J\u{1b}]0;owned\u{7} \u{202e} <script>alert(1)</script> @someone\nverdict: nothing critical\r\n";
        for text in [harmful.to_owned(), format!("a {harmful}").repeat(4000)] {
            let mut hostile = own.clone();
            poison(&mut hostile["checkpoints"][0]["jacobian"], &text);
            std::fs::write(&path, hostile.to_string()).expect("it can be written");
            for format in ["terminal", "markdown", "html", "sarif", "junit", "github"] {
                let output = flashpoint(&["jacobian", name, "--all", "--format", format]);
                let page = String::from_utf8(output.stdout).expect("reports are UTF-8");
                let told = format!("{checkpoint} as {format}: {}", String::from_utf8_lossy(&output.stderr));
                assert!(!page.is_empty() && page.len() < 3_000_000, "{told}: {} bytes", page.len());
                assert!(!page.contains('\u{1b}') && !page.contains('\u{7}'), "{told}: an escape sequence");
                assert!(!page.contains('\u{202e}'), "{told}: a direction override");
                assert!(!page.lines().any(|line| line == "verdict: nothing critical"), "{told}");
                if format == "markdown" {
                    let outside = outside_code(&page);
                    assert!(
                        !outside.contains("<script") && !outside.contains("@someone"),
                        "{told}: {outside}"
                    );
                }
            }
        }
    }
}

/// Markdown without its spans of code, each of which ends with as many backticks as it began with.
fn outside_code(text: &str) -> String {
    let mut outside = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('`') {
        outside.push_str(&rest[..start]);
        let length = rest[start..].len() - rest[start..].trim_start_matches('`').len();
        let inside = &rest[start + length..];
        let fence = "`".repeat(length);
        let is_end =
            |place: &usize| !inside[..*place].ends_with('`') && !inside[place + length..].starts_with('`');
        let end = inside.match_indices(&fence).map(|(place, _)| place).find(is_end);
        let end = end.unwrap_or_else(|| panic!("a span of code does not end: {inside}"));
        rest = &inside[end + length..];
    }
    outside + rest
}

#[test]
fn a_terminal_of_eighty_columns_shows_the_story_of_a_run_unbroken() {
    for run in ["gpt-spike", "gpt-attention-logits", "mlp-nan"] {
        let text = printed(&["postmortem", &format!("fixtures/runs/{run}")]);
        // Commands are not broken, so that they can be copied.
        let is_wide = |line: &&str| line.chars().count() > 80 && !line.starts_with("     ");
        assert_eq!(text.lines().find(is_wide), None, "{run}");
        assert!(text.contains("critical") || text.contains("warning"), "severity is said in words too");
    }
}

#[test]
fn the_line_that_goes_back_names_a_checkpoint_by_a_path_from_where_one_stands() {
    let stands = Path::new("fixtures");
    let told = Command::new(env!("CARGO_BIN_EXE_flashpoint"))
        .args(["postmortem", "runs/gpt-spike"])
        .current_dir(stands)
        .output()
        .expect("the binary under test can be started");
    let text = String::from_utf8(told.stdout).expect("reports are UTF-8");
    let line = text.lines().find(|line| line.contains("resume_from_checkpoint")).expect("a line to copy");
    let path = line.split('"').nth(1).expect("a path in quotes");
    assert_eq!(path, "runs/gpt-spike/checkpoint-160");
    assert!(stands.join(path).is_dir(), "{path}");
}
