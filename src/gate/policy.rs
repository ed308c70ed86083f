//! `flashpoint.toml`, checked: what fails, what must have been judged, limits, exceptions, names of a project's own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::value::{Date, Datetime};

use super::exception::Exception;
use super::limit::{Limit, QUANTITIES, Quantity};
use super::written::{self, File, Level};
use crate::analysis::model::Format;
use crate::checkpoint::{Glob, NameRules};
use crate::context::Context;
use crate::error::{At, Error, ErrorKind, Result};
use crate::files::read_text;
use crate::rules::{self, Check, Overrides, RULES, Rule, Severity, did_you_mean};

/// What a project decided about its checkpoints; by default, what the gate judges by without a file.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The file's name; `None` for what is built in.
    pub name: Option<String>,
    /// Limits that replace the rules' defaults.
    pub thresholds: Overrides,
    /// Severities that replace those of findings, by rule code.
    pub severities: BTreeMap<&'static str, Level>,
    /// The least severity that fails.
    pub fail_on: Severity,
    /// Codes of the rules that must have been evaluated.
    pub required: BTreeSet<&'static str>,
    /// Formats that files may have; all without a list.
    pub formats: Option<Vec<Format>>,
    /// Tensors that rules and limits leave alone.
    pub exceptions: Vec<Exception>,
    /// Largest values and largest growth.
    pub limits: Vec<Limit>,
    /// How to compare with the accepted checkpoint.
    pub baseline: Comparison,
    /// Roles and layers of tensors whose names flashpoint does not know.
    pub names: NameRules,
}

/// How a checkpoint is compared with an accepted one.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// The accepted checkpoint's measurement file.
    pub file: Option<PathBuf>,
    /// The factor by which the numbers behind a known finding may be worse.
    pub finding_growth: f64,
    /// Severity of a tensor that the baseline does not have.
    pub new: Level,
    /// Severity of a tensor that only the baseline has.
    pub missing: Level,
    /// Severity of another dtype.
    pub retyped: Level,
    /// Severity of another shape.
    pub reshaped: Level,
}

/// The rule without which nothing passes: a checkpoint that was not looked at for NaN was not judged.
const ALWAYS_REQUIRED: &str = "FP101";

impl Default for Comparison {
    fn default() -> Self {
        Self {
            file: None,
            // A design choice: counts of broken elements may not grow, and norms of healthy models move by less
            // between neighbouring checkpoints.
            finding_growth: 1.1,
            new: Level::Warning,
            missing: Level::Critical,
            retyped: Level::Warning,
            reshaped: Level::Critical,
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            name: None,
            thresholds: Overrides::default(),
            severities: BTreeMap::new(),
            fail_on: Severity::Critical,
            required: BTreeSet::from([ALWAYS_REQUIRED]),
            formats: None,
            exceptions: Vec::new(),
            limits: Vec::new(),
            baseline: Comparison::default(),
            names: NameRules::default(),
        }
    }
}

/// Longest file that is read.
const LARGEST: u64 = 1 << 20;

/// The key of a rule's table that is no limit.
const SEVERITY: &str = "severity";

impl Policy {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// Not TOML, an unknown section, rule, limit, quantity or role, a glob that does not parse, an exception without a
    /// reason; with line and column, and the nearest name that is known.
    pub fn read(path: &Path, context: &Context) -> Result<Self> {
        Self::parse(&read_text(path, "the policy", LARGEST, context)?, path)
    }

    /// Parses the text of the file at `path`.
    ///
    /// # Errors
    /// As [`Policy::read`].
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let reader = Reader { text, path };
        let file: File = toml::from_str(text)
            .map_err(|error| reader.refuse(error.message(), error.span().map_or(0, |span| span.start)))?;
        let (thresholds, severities) = reader.rules(&file.rules)?;
        let mut required = BTreeSet::from([ALWAYS_REQUIRED]);
        for named in &file.gate.required {
            required.extend(reader.required(named)?);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self {
            name: Some(name),
            thresholds,
            severities,
            fail_on: file.gate.fail_on.unwrap_or(Severity::Critical),
            required,
            formats: file.gate.formats,
            exceptions: file.skip.iter().map(|skip| reader.exception(skip)).collect::<Result<_>>()?,
            limits: file.limits.iter().map(|limit| reader.limit(limit)).collect::<Result<_>>()?,
            baseline: reader.comparison(file.baseline)?,
            names: NameRules::parse(path, text)?,
        })
    }

    /// Whether a growth limit needs something to compare with.
    pub fn needs_baseline(&self) -> bool {
        self.limits.iter().any(Limit::needs_baseline)
    }
}

/// The text of a policy, for errors with a place.
struct Reader<'a> {
    text: &'a str,
    path: &'a Path,
}

/// Limits and severities by rule.
type Judging = (Overrides, BTreeMap<&'static str, Level>);

impl Reader<'_> {
    fn refuse(&self, message: impl Into<String>, byte: usize) -> Error {
        let kind = ErrorKind::SideFile { what: "the policy", message: message.into() };
        kind.in_file(self.path).at(At::in_text(self.text, byte))
    }

    fn rules(
        &self,
        tables: &BTreeMap<Spanned<String>, BTreeMap<Spanned<String>, Spanned<toml::Value>>>,
    ) -> Result<Judging> {
        let mut thresholds = Overrides::default();
        let mut of_families = BTreeMap::new();
        let mut of_rules = BTreeMap::new();
        let mut seen = BTreeMap::new();
        for (named, table) in tables {
            let family = self.family(named)?;
            for (key, value) in table {
                match (key.get_ref().as_str(), family.as_deref()) {
                    (SEVERITY, Some(rules)) => {
                        let level = self.level(value)?;
                        of_families.extend(rules.iter().map(|rule| (rule.code, level)));
                    }
                    (_, Some(_)) => {
                        let message = format!(
                            "{} is a family, which has a severity only; {} belongs below a rule of it",
                            named.get_ref(),
                            key.get_ref().escape_debug()
                        );
                        return Err(self.refuse(message, key.span().start));
                    }
                    (SEVERITY, None) => {
                        of_rules.insert(self.rule(named)?.code, self.level(value)?);
                    }
                    (name, None) => {
                        let rule = self.rule(named)?;
                        let limit = self.threshold(rule, key, value)?;
                        thresholds.0.insert((rule.code.to_owned(), name.to_owned()), limit);
                    }
                }
            }
            if family.is_none() {
                let rule = self.rule(named)?;
                if let Some(other) = seen.insert(rule.code, named.get_ref()) {
                    let message =
                        format!("[rules.{}] and [rules.{other}] are the same rule", named.get_ref());
                    return Err(self.refuse(message, named.span().start));
                }
            }
        }
        // What is said of a rule holds before what is said of its family.
        of_families.extend(of_rules);
        Ok((thresholds, of_families))
    }

    /// The rules of a family such as `FP4xx`; `None` for what does not look like one.
    fn family(&self, named: &Spanned<String>) -> Result<Option<Vec<&'static Rule>>> {
        let upper = named.get_ref().to_ascii_uppercase();
        let Some(prefix) = upper.strip_suffix("XX").filter(|prefix| prefix.len() == 3) else {
            return Ok(None);
        };
        let rules = RULES.iter().copied().filter(|rule| rule.code.starts_with(prefix)).collect::<Vec<_>>();
        if rules.is_empty() {
            let families = RULES.iter().map(|rule| format!("{}xx", &rule.code[..3])).collect::<BTreeSet<_>>();
            let families = families.into_iter().collect::<Vec<_>>().join(", ");
            let message =
                format!("no rule belongs to {}; families are {families}", named.get_ref().escape_debug());
            return Err(self.refuse(message, named.span().start));
        }
        Ok(Some(rules))
    }

    fn rule(&self, named: &Spanned<String>) -> Result<&'static Rule> {
        let name = named.get_ref();
        rules::find(name).ok_or_else(|| {
            let known = RULES.iter().flat_map(|rule| [rule.code, rule.name]);
            let message = format!(
                "there is no rule {}{}; `flashpoint rules` lists them",
                name.escape_debug(),
                did_you_mean(name, known)
            );
            self.refuse(message, named.span().start)
        })
    }

    /// The rules that must be evaluated: of a family those that judge a checkpoint, since the gate judges no run.
    fn required(&self, named: &Spanned<String>) -> Result<Vec<&'static str>> {
        let family = self.family(named)?;
        let is_family = family.is_some();
        let rules = match family {
            Some(rules) => rules,
            None => vec![self.rule(named)?],
        };
        let codes: Vec<_> =
            rules.iter().filter(|rule| judges_checkpoints(rule)).map(|rule| rule.code).collect();
        if !codes.is_empty() {
            return Ok(codes);
        }
        let name = named.get_ref();
        let (what, instead) = if is_family {
            let families = RULES.iter().filter(|rule| judges_checkpoints(rule));
            let families = families.map(|rule| format!("{}xx", &rule.code[..3])).collect::<BTreeSet<_>>();
            let families = families.into_iter().collect::<Vec<_>>().join(", ");
            (format!("every rule of {name} judges a run"), format!("leave it out, or name one of {families}"))
        } else {
            (format!("{name} judges a run"), "leave it out".to_owned())
        };
        let message =
            format!("{what}, and the gate judges checkpoints: {instead}; flashpoint postmortem judges runs");
        Err(self.refuse(message, named.span().start))
    }

    /// The codes of a rule or a family.
    fn codes(&self, named: &Spanned<String>) -> Result<Vec<&'static str>> {
        match self.family(named)? {
            Some(rules) => Ok(rules.iter().map(|rule| rule.code).collect()),
            None => Ok(vec![self.rule(named)?.code]),
        }
    }

    fn level(&self, value: &Spanned<toml::Value>) -> Result<Level> {
        let level = value.get_ref().clone().try_into::<Level>();
        level.map_err(|_| {
            let message = format!(
                "a severity is \"critical\", \"warning\", \"note\" or \"off\", not {}",
                value.get_ref()
            );
            self.refuse(message, value.span().start)
        })
    }

    fn threshold(&self, rule: &Rule, key: &Spanned<String>, value: &Spanned<toml::Value>) -> Result<f64> {
        let name = key.get_ref();
        if !rule.thresholds.iter().any(|threshold| threshold.name == name) {
            return Err(self.refuse(unknown_threshold(rule, name), key.span().start));
        }
        let number = match value.get_ref() {
            toml::Value::Float(number) => *number,
            toml::Value::Integer(number) => *number as f64,
            other => {
                let message = format!("{name} must be a number, not {}", other.type_str());
                return Err(self.refuse(message, value.span().start));
            }
        };
        if !(number.is_finite() && number >= 0.0) {
            let message = format!("{name} cannot be {number}: a limit is a number from 0 up");
            return Err(self.refuse(message, key.span().start));
        }
        Ok(number)
    }

    fn glob(&self, pattern: &Spanned<String>) -> Result<Glob> {
        Glob::new(pattern.get_ref()).map_err(|error| self.refuse(error, pattern.span().start))
    }

    fn exception(&self, skip: &written::Skip) -> Result<Exception> {
        if skip.reason.get_ref().trim().is_empty() {
            let message = "an exception needs a reason that whoever reads the report can judge";
            return Err(self.refuse(message, skip.reason.span().start));
        }
        let mut rules = Vec::new();
        for named in skip.rules.iter().flatten() {
            rules.extend(self.codes(named)?);
        }
        if let (Some([]), first) = (skip.rules.as_deref(), &skip.tensors) {
            let message = "an exception from no rule excepts nothing; leave `rules` out to mean every rule";
            return Err(self.refuse(message, first.span().start));
        }
        Ok(Exception {
            pattern: skip.tensors.get_ref().clone(),
            glob: self.glob(&skip.tensors)?,
            rules,
            reason: skip.reason.get_ref().trim().to_owned(),
            expires: skip.expires.as_ref().map(|expires| self.date(expires)).transpose()?,
        })
    }

    fn date(&self, written: &Spanned<toml::Value>) -> Result<Date> {
        let refused = || {
            let message =
                format!("an exception expires on a day, such as 2027-06-30, not {}", written.get_ref());
            self.refuse(message, written.span().start)
        };
        let day = match written.get_ref() {
            toml::Value::Datetime(day) => *day,
            toml::Value::String(day) => day.parse().map_err(|_| refused())?,
            _ => return Err(refused()),
        };
        match day {
            Datetime { date: Some(date), time: None, offset: None } => Ok(date),
            _ => Err(refused()),
        }
    }

    fn limit(&self, written: &written::Limit) -> Result<Limit> {
        let quantity = self.quantity(&written.quantity)?;
        if let (Quantity::ParameterNorm, Some(tensors)) = (quantity, &written.tensors) {
            let message = "parameter-norm is of the whole model; norm is the quantity of single tensors";
            return Err(self.refuse(message, tensors.span().start));
        }
        let numbers = [
            ("largest", 0.0, &written.largest),
            ("growth", 1.0, &written.growth),
            ("growth-per-step", 1.0, &written.growth_per_step),
            ("shrink", 0.0, &written.shrink),
        ];
        for (name, least, number) in &numbers {
            if let Some(number) = number
                && !(number.get_ref().is_finite() && *number.get_ref() >= *least)
            {
                let message =
                    format!("{name} cannot be {}: it is a number from {least} up", number.get_ref());
                return Err(self.refuse(message, number.span().start));
            }
        }
        if let Some(shrink) = written.shrink.as_ref().filter(|shrink| *shrink.get_ref() > 1.0) {
            let message = format!("shrink cannot be {}: it is a ratio from 0 to 1", shrink.get_ref());
            return Err(self.refuse(message, shrink.span().start));
        }
        if numbers.iter().all(|(_, _, number)| number.is_none()) {
            let message = "it limits nothing; give it largest, growth, growth-per-step or shrink";
            return Err(self.refuse(message, written.quantity.span().start));
        }
        let pattern = written.tensors.as_ref();
        let tensors =
            pattern.map(|pattern| Ok((pattern.get_ref().clone(), self.glob(pattern)?))).transpose()?;
        let [largest, growth, growth_per_step, shrink] =
            numbers.map(|(_, _, number)| number.as_ref().map(|number| *number.get_ref()));
        let severity = written.severity.unwrap_or(Severity::Critical);
        Ok(Limit { quantity, tensors, largest, growth, growth_per_step, shrink, severity })
    }

    fn quantity(&self, written: &Spanned<String>) -> Result<Quantity> {
        let name = written.get_ref().as_str();
        if let Some((_, quantity)) = QUANTITIES.iter().find(|(known, _)| *known == name) {
            return Ok(*quantity);
        }
        let known = QUANTITIES.map(|(known, _)| known);
        let message = format!(
            "there is no quantity {}{}; quantities are {}",
            name.escape_debug(),
            did_you_mean(name, known),
            known.join(", ")
        );
        Err(self.refuse(message, written.span().start))
    }

    fn comparison(&self, written: written::Baseline) -> Result<Comparison> {
        let default = Comparison::default();
        if let Some(growth) = &written.finding_growth
            && !(growth.get_ref().is_finite() && *growth.get_ref() >= 1.0)
        {
            let message = format!("finding-growth cannot be {}: it is a number from 1 up", growth.get_ref());
            return Err(self.refuse(message, growth.span().start));
        }
        Ok(Comparison {
            // Beside the policy, wherever the command is run.
            file: written.file.map(|file| self.path.with_file_name(file)),
            finding_growth: written.finding_growth.map_or(default.finding_growth, Spanned::into_inner),
            new: written.new.unwrap_or(default.new),
            missing: written.missing.unwrap_or(default.missing),
            retyped: written.retyped.unwrap_or(default.retyped),
            reshaped: written.reshaped.unwrap_or(default.reshaped),
        })
    }
}

fn judges_checkpoints(rule: &Rule) -> bool {
    matches!(rule.check, Check::Checkpoint(_))
}

fn unknown_threshold(rule: &Rule, name: &str) -> String {
    let known = rule.thresholds.iter().map(|threshold| threshold.name).collect::<Vec<_>>();
    let listed =
        if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) };
    let nearest = did_you_mean(name, known.iter().copied().chain([SEVERITY]));
    format!("{} has no threshold {}{nearest}; {listed}", rule.code, name.escape_debug())
}

#[cfg(test)]
mod tests;
