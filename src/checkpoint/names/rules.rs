//! `[[names]]` of `flashpoint.toml`: what the names of a model of one's own mean.

use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use super::Glob;
use crate::checkpoint::Role;
use crate::error::{At, ErrorKind, Result};

/// Patterns over canonical names, tried before the built-in conventions. The first that matches holds.
#[derive(Debug, Clone, Default)]
pub struct NameRules {
    rules: Vec<(Glob, NameRule)>,
}

/// What one pattern says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameRule {
    /// The role of every tensor it matches.
    pub role: Role,
    /// The path of its layer, instead of the name without its last component.
    pub layer: Option<String>,
}

/// The part of `flashpoint.toml` that is ours; the policy's tables are read elsewhere.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    names: Vec<Written>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    pattern: Spanned<String>,
    role: Role,
    layer: Option<String>,
}

impl NameRules {
    /// The `[[names]]` of `text`, the TOML file at `path`. Other tables are the policy's.
    ///
    /// # Errors
    /// With line and column, when it is not TOML, a role is none of [`Role`], or a pattern is not a glob.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let refuse = |message: &str, byte: usize| {
            let kind = ErrorKind::SideFile { what: "the policy", message: message.to_owned() };
            kind.in_file(path).at(At::in_text(text, byte))
        };
        let file: File = toml::from_str(text)
            .map_err(|error| refuse(error.message(), error.span().map_or(0, |span| span.start)))?;
        let mut rules = Vec::with_capacity(file.names.len());
        for written in file.names {
            let pattern = &written.pattern;
            let glob = Glob::new(pattern.get_ref()).map_err(|error| refuse(&error, pattern.span().start))?;
            rules.push((glob, NameRule { role: written.role, layer: written.layer }));
        }
        Ok(Self { rules })
    }

    /// Whether names mean what they conventionally mean.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The first rule that matches the canonical `name`.
    pub fn find(&self, name: &str) -> Option<&NameRule> {
        self.rules.iter().find(|(glob, _)| glob.is_match(name)).map(|(_, rule)| rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<NameRules> {
        NameRules::parse(Path::new("flashpoint.toml"), text)
    }

    #[test]
    fn the_first_pattern_that_matches_holds() {
        let rules = parse(
            r#"
            [gate]
            fail-on = "critical"
            [[names]]
            pattern = "tower.*.mix"
            role = "attention-output"
            layer = "tower"
            [[names]]
            pattern = "tower.*"
            role = "linear"
            "#,
        )
        .unwrap();
        let mix = NameRule { role: Role::AttentionOutput, layer: Some("tower".to_owned()) };
        assert_eq!(rules.find("tower.3.mix"), Some(&mix));
        assert_eq!(rules.find("tower.3.other"), Some(&NameRule { role: Role::Linear, layer: None }));
        assert_eq!(rules.find("other"), None);
    }

    #[test]
    fn mistakes_are_refused_with_their_place() {
        let cases = [
            ("[[names]]\npattern = \"a[\"\nrole = \"linear\"\n", At::Line(2, 11)),
            ("[[names]]\npattern = \"a\"\nrole = \"lineal\"\n", At::Line(3, 8)),
            ("[[names]]\npattern = \n", At::Line(2, 11)),
            ("[[names]]\npatern = \"a\"\nrole = \"linear\"\n", At::Line(2, 1)),
        ];
        for (text, at) in cases {
            let error = parse(text).unwrap_err();
            assert!(matches!(error.kind, ErrorKind::SideFile { .. }), "{text}: {error}");
            assert_eq!(error.at, Some(at), "{text}: {error}");
        }
    }
}
