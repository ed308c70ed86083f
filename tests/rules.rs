//! What holds for every rule: codes, names, summaries, limits, and the page that explains it.

use std::collections::BTreeSet;
use std::path::Path;

use flashpoint::rules::{self, RULES, Rule};

const HEADINGS: [&str; 6] =
    ["What it measures", "Why it matters", "When it is wrong", "Thresholds", "What to do", "References"];

#[test]
fn codes_are_well_formed_unique_and_in_order() {
    for rule in RULES {
        let digits = rule.code.strip_prefix("FP").unwrap_or_default();
        assert!(digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit()), "{}", rule.code);
        assert!(!digits.starts_with('0'), "{}: families begin at 1", rule.code);
    }
    let codes: Vec<_> = RULES.iter().map(|rule| rule.code).collect();
    assert!(codes.windows(2).all(|pair| pair[0] < pair[1]), "{codes:?}");
}

#[test]
fn names_are_unique_and_kebab_case() {
    let names: BTreeSet<_> = RULES.iter().map(|rule| rule.name).collect();
    assert_eq!(names.len(), RULES.len());
    for name in names {
        assert!(is_kebab_case(name), "{name}");
    }
}

#[test]
fn a_rule_is_found_by_code_and_by_name_in_any_case() {
    for rule in RULES {
        for key in [rule.code.to_lowercase(), rule.name.to_uppercase()] {
            assert_eq!(rules::find(&key).map(|found| found.code), Some(rule.code), "{key}");
        }
    }
    assert!(rules::find("FP000").is_none());
}

#[test]
fn summaries_are_one_lower_case_line_without_a_full_stop() {
    for rule in RULES {
        let summary = rule.summary;
        let first = summary.split_whitespace().next().unwrap_or_default();
        assert!(!first.is_empty() && first == first.to_lowercase(), "{}: {summary}", rule.code);
        assert!(!summary.ends_with('.') && !summary.contains('\n'), "{}: {summary}", rule.code);
    }
}

#[test]
fn every_limit_has_a_kebab_case_name_a_unit_and_a_source() {
    for rule in RULES {
        let names: BTreeSet<_> = rule.thresholds.iter().map(|threshold| threshold.name).collect();
        assert_eq!(names.len(), rule.thresholds.len(), "{}", rule.code);
        for threshold in rule.thresholds {
            assert!(is_kebab_case(threshold.name), "{}: {}", rule.code, threshold.name);
            assert!(!threshold.unit.is_empty() && !threshold.source.is_empty(), "{}", rule.code);
            assert!(threshold.default.is_finite(), "{}: {}", rule.code, threshold.name);
        }
    }
}

#[test]
fn every_page_begins_with_code_and_name_and_has_the_fixed_headings() {
    for rule in RULES {
        let title = format!("# {} {}\n", rule.code, rule.name);
        assert!(rule.page.starts_with(&title), "the page of {} does not begin with {title}", rule.code);
        let headings: Vec<_> = rule.page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(headings, HEADINGS, "{}", rule.code);
    }
}

#[test]
fn every_page_says_severity_and_confidence_first() {
    for rule in RULES {
        let opening = rule.page.lines().skip(1).take_while(|line| !line.starts_with("## "));
        let opening = opening.collect::<Vec<_>>().join(" ").to_lowercase();
        assert!(opening.contains(&rule.severity.to_string()), "{}: {opening}", rule.code);
        assert!(opening.contains(&rule.confidence.to_string()), "{}: {opening}", rule.code);
    }
}

#[test]
fn every_page_lists_every_limit_with_its_default_and_unit() {
    for rule in RULES {
        let listed = section(rule, "Thresholds");
        for threshold in rule.thresholds {
            let row = format!("| `{}` | {} | {} |", threshold.name, threshold.default, threshold.unit);
            assert!(listed.contains(&row), "the page of {} lacks {row}", rule.code);
        }
        if rule.thresholds.is_empty() {
            assert!(listed.trim_start().starts_with("None"), "{}: {listed}", rule.code);
        }
    }
}

#[test]
fn every_page_file_is_named_for_its_rule_and_belongs_to_one() {
    let expected: BTreeSet<_> = RULES.iter().map(|rule| format!("{}-{}.md", rule.code, rule.name)).collect();
    let folder = std::fs::read_dir("docs/rules").expect("docs/rules can be listed");
    let found: BTreeSet<_> = folder
        .map(|entry| entry.expect("a listed entry can be read").file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(found, expected);
    for rule in RULES {
        let path = Path::new("docs/rules").join(format!("{}-{}.md", rule.code, rule.name));
        assert_eq!(std::fs::read_to_string(&path).expect("the page can be read"), rule.page, "{}", rule.code);
    }
}

#[test]
fn every_rule_has_a_source_file_named_for_it() {
    for rule in RULES {
        let name = format!("{}_{}.rs", rule.code.to_lowercase(), rule.name.replace('-', "_"));
        assert!(Path::new("src/rules").join(&name).is_file(), "src/rules/{name}");
    }
}

/// The text under one heading of a rule's page.
fn section(rule: &Rule, heading: &str) -> String {
    let lines = rule.page.lines().skip_while(|line| *line != format!("## {heading}")).skip(1);
    lines.take_while(|line| !line.starts_with("## ")).collect::<Vec<_>>().join("\n")
}

fn is_kebab_case(name: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    name.split('-').all(is_word)
}
