//! `flashpoint.toml`: limits that replace a rule's defaults, and names of a project's own (`[[names]]`).

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use toml::Spanned;

use crate::checkpoint::NameRules;
use crate::context::Context;
use crate::error::{At, ErrorKind, Result};
use crate::files::InputFile;
use crate::rules::{self, Overrides};

/// What `flashpoint.toml` says.
#[derive(Debug, Default)]
pub struct Policy {
    /// Limits that replace the rules' defaults.
    pub thresholds: Overrides,
    /// Roles and layers of tensors whose names flashpoint does not know.
    pub names: NameRules,
}

/// The file as written. `[[names]]` is read by [`NameRules`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rules: BTreeMap<Spanned<String>, BTreeMap<Spanned<String>, f64>>,
    #[serde(default, rename = "names")]
    _names: IgnoredAny,
}

/// Longest file that is read.
const LARGEST: u64 = 1 << 20;

impl Policy {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// Not TOML, an unknown section, rule, threshold or role, or a glob that does not parse; with line and column.
    pub fn read(path: &Path, context: &Context) -> Result<Self> {
        let file = InputFile::open(path, context)?;
        if file.len() > LARGEST {
            let kind = ErrorKind::TooLarge { what: "flashpoint.toml", actual: file.len(), limit: LARGEST };
            return Err(kind.in_file(path));
        }
        let mut buffer = Vec::new();
        let bytes = file.bytes(0..file.len(), &mut buffer)?;
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let message = "it is not UTF-8".to_owned();
            let kind = ErrorKind::SideFile { what: "flashpoint.toml", message };
            kind.at_byte(path, error.valid_up_to() as u64)
        })?;
        Self::parse(text, path)
    }

    /// Parses the text of the file at `path`.
    fn parse(text: &str, path: &Path) -> Result<Self> {
        let refuse = |message: String, byte: usize| {
            let kind = ErrorKind::SideFile { what: "flashpoint.toml", message };
            kind.in_file(path).at(At::in_text(text, byte))
        };
        let file: File = toml::from_str(text)
            .map_err(|error| refuse(error.message().to_owned(), error.span().map_or(0, |span| span.start)))?;
        let mut thresholds = Overrides::default();
        for (code, values) in &file.rules {
            let rule = rules::find(code.get_ref())
                .ok_or_else(|| refuse(unknown_rule(code.get_ref()), code.span().start))?;
            for (name, &value) in values {
                if !rule.thresholds.iter().any(|threshold| threshold.name == name.get_ref()) {
                    return Err(refuse(unknown_threshold(rule, name.get_ref()), name.span().start));
                }
                if !(value.is_finite() && value >= 0.0) {
                    let message =
                        format!("{} cannot be {value}: a limit is a number from 0 up", name.get_ref());
                    return Err(refuse(message, name.span().start));
                }
                thresholds.0.insert((rule.code.to_owned(), name.get_ref().clone()), value);
            }
        }
        Ok(Self { thresholds, names: NameRules::parse(path, text)? })
    }
}

fn unknown_rule(code: &str) -> String {
    format!("there is no rule {}; `flashpoint rules` lists them", code.escape_debug())
}

fn unknown_threshold(rule: &rules::Rule, name: &str) -> String {
    let known = rule.thresholds.iter().map(|threshold| threshold.name).collect::<Vec<_>>();
    let known =
        if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) };
    format!("{} has no threshold {}; {known}", rule.code, name.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Policy> {
        Policy::parse(text, Path::new("flashpoint.toml"))
    }

    #[test]
    fn an_unknown_rule_is_an_error_at_its_line() {
        let error = parse("# limits\n[rules.FP999]\nx = 1.0\n").unwrap_err();
        assert!(matches!(error.at, Some(At::Line(2, _))), "{error}");
        assert!(error.to_string().contains("no rule FP999"), "{error}");
    }

    #[test]
    fn an_unknown_threshold_is_an_error_that_names_the_known_ones() {
        let error = parse("[rules.FP101]\nlimit = 3.0\n").unwrap_err();
        assert!(error.to_string().contains("FP101 has no threshold limit; it has none"), "{error}");
    }

    #[test]
    fn an_unknown_section_is_an_error() {
        assert!(parse("[rule.FP101]\n").is_err());
    }

    #[test]
    fn an_empty_policy_changes_nothing() {
        assert_eq!(parse("").unwrap().thresholds, Overrides::default());
    }
}
