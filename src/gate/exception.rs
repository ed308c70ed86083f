//! `[[skip]]`: tensors that rules and limits leave alone, each with a reason, some until a date.

use toml::value::Date;

use crate::checkpoint::Glob;

/// One exception.
#[derive(Debug, Clone)]
pub struct Exception {
    /// The pattern as written.
    pub pattern: String,
    pub(super) glob: Glob,
    /// Codes of the rules that leave its tensors alone; every check where empty.
    pub rules: Vec<&'static str>,
    /// Why.
    pub reason: String,
    /// The last day on which it holds.
    pub expires: Option<Date>,
}

impl Exception {
    /// Whether its pattern matches one of the names of a tensor.
    pub fn names(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.glob.is_match(name))
    }

    /// Whether `check` is one that leaves its tensors alone.
    pub fn covers(&self, check: &str) -> bool {
        self.rules.is_empty() || self.rules.contains(&check)
    }

    /// Whether it holds on the day `today`.
    pub fn holds(&self, today: Date) -> bool {
        self.expires.is_none_or(|last| today <= last)
    }

    /// How a decision names it.
    pub fn said(&self) -> String {
        let until = self.expires.map_or_else(String::new, |last| format!(", until {last}"));
        format!("excepted by {}: {}{until}", self.pattern.escape_debug(), self.reason)
    }
}
