//! The commands in the README and the docs are run, and print what stands below them.

use std::path::Path;
use std::process::Command;

/// A command in a ```` ```console ```` block, and the output that stands below it.
struct Example {
    command: String,
    output: String,
}

#[test]
fn every_console_block_prints_what_it_shows() {
    let mut examples = 0;
    for page in ["README.md", "README.zh-CN.md", "docs/formats.md", "docs/adding-a-rule.md"] {
        let text = std::fs::read_to_string(page).unwrap_or_else(|error| panic!("{page}: {error}"));
        for example in console_examples(&text) {
            let printed = run(&example.command);
            assert_eq!(printed.trim_end(), example.output.trim_end(), "{page}: $ {}", example.command);
            examples += 1;
        }
    }
    assert!(examples >= 2, "only {examples} examples were found");
}

#[test]
fn the_first_two_commands_of_the_readme_are_the_promised_ones() {
    let text = std::fs::read_to_string("README.md").expect("README.md is there");
    let first = text.split("```").nth(1).expect("the README has a code block");
    let commands = first.lines().skip(1).map(|line| line.split('#').next().unwrap_or_default().trim());
    let commands = commands.filter(|line| !line.is_empty()).collect::<Vec<_>>();
    let expected =
        ["cargo run --release -- inspect fixtures/runs/rnn-exploding/checkpoint-0400", "cargo test"];
    assert_eq!(commands, expected);
}

#[test]
fn the_table_of_commands_has_every_command() {
    let text = std::fs::read_to_string("README.md").expect("README.md is there");
    let table =
        text.split("## Commands").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section");
    let help = run("flashpoint --help");
    let commands = help.split("Usage:").nth(1).and_then(|rest| rest.split("Options:").next()).expect("lists");
    // A line of a list begins two columns in; what does not fit on it goes on farther in.
    let commands = commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let mut names = commands.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    assert!(names.clone().count() >= 8, "{help}");
    assert!(names.all(|name| table.contains(&format!("`flashpoint {name}"))), "{table}");
}

#[test]
fn the_chinese_readme_shows_what_the_english_one_shows() {
    let [english, chinese] = ["README.md", "README.zh-CN.md"]
        .map(|page| std::fs::read_to_string(page).unwrap_or_else(|error| panic!("{page}: {error}")));
    let blocks =
        |text: &str| -> Vec<String> { text.split("```").skip(1).step_by(2).map(str::to_owned).collect() };
    assert_eq!(blocks(&chinese), blocks(&english), "blocks of code are the same, in the same order");
    let rows = |text: &str| {
        let rows = text.lines().filter(|line| line.starts_with("| `flashpoint"));
        rows.filter_map(|row| row.split('|').nth(1).map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(rows(&chinese), rows(&english), "the tables of commands have the same rows");
}

#[test]
fn every_local_link_leads_somewhere() {
    for page in ["README.md", "README.zh-CN.md", "CONTRIBUTING.md", "docs/reports.md"] {
        let text = std::fs::read_to_string(page).unwrap_or_else(|error| panic!("{page}: {error}"));
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let local = !link.starts_with("http") && !link.starts_with('#');
            let beside = Path::new(page).parent().unwrap_or(Path::new(""));
            assert!(!local || beside.join(link.split('#').next().unwrap_or(link)).exists(), "{page}: {link}");
        }
    }
}

fn console_examples(text: &str) -> Vec<Example> {
    let mut examples = Vec::new();
    for block in text.split("```console\n").skip(1) {
        let block = block.split("```").next().unwrap_or_default();
        for part in format!("\n{block}").split("\n$ ").skip(1) {
            let (command, output) = part.split_once('\n').unwrap_or((part, ""));
            examples.push(Example { command: command.to_owned(), output: output.to_owned() });
        }
    }
    examples
}

/// Runs `flashpoint …` (or `cargo run --release -- …`) with the binary under test; stdout, then stderr.
fn run(command: &str) -> String {
    let arguments = command
        .strip_prefix("cargo run --release -- ")
        .or_else(|| command.strip_prefix("flashpoint "))
        .unwrap_or_else(|| panic!("an example runs flashpoint: {command}"));
    let output = Command::new(env!("CARGO_BIN_EXE_flashpoint"))
        .args(arguments.split_whitespace())
        .env_remove("NO_COLOR")
        .output()
        .expect("the binary under test can be started");
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8(text).expect("reports are UTF-8")
}
