//! One table of a `model.toml`, asked by key; what is wrong with it is said with line and column.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use toml::{Spanned, Value};

use super::super::LARGEST;
use super::{File, Keys, MODEL_FILE};
use crate::error::{At, Error, ErrorKind, Result};
use crate::nearest::did_you_mean;

/// The text of a file, for errors with a place.
pub(super) struct Source<'s> {
    pub text: &'s str,
    pub path: &'s Path,
}

impl Source<'_> {
    /// The file that the text is of.
    pub fn file(&self) -> Result<File> {
        toml::from_str(self.text)
            .map_err(|error| self.refuse(error.message(), error.span().map_or(0, |span| span.start)))
    }

    pub fn refuse(&self, message: &str, byte: usize) -> Error {
        let kind = ErrorKind::SideFile { what: MODEL_FILE, message: message.to_owned() };
        kind.in_file(self.path).at(At::in_text(self.text, byte))
    }
}

/// Keys with their values, and which of them were asked for.
pub(super) struct Table<'t> {
    source: &'t Source<'t>,
    keys: &'t Keys,
    op: &'t str,
    start: usize,
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'t> Table<'t> {
    /// A layer, whose operation is under `key`.
    pub fn new(source: &'t Source<'t>, keys: &'t Keys, key: &'static str) -> Result<Self> {
        let mut table = Self::of_input(source, keys);
        let op =
            table.text(key)?.ok_or_else(|| source.refuse("a layer needs its operation: op", table.start))?;
        table.op = op;
        table.start = table.value(key).map_or(table.start, |value| value.span().start);
        Ok(table)
    }

    /// A table that is no layer.
    pub fn of_input(source: &'t Source<'t>, keys: &'t Keys) -> Self {
        let start = keys.keys().map(|key| key.span().start).min().unwrap_or(0);
        Self { source, keys, op: "input", start, asked: RefCell::default() }
    }

    /// The operation's name.
    pub const fn op(&self) -> &'t str {
        self.op
    }

    fn value(&self, key: &str) -> Option<&'t Spanned<Value>> {
        self.keys.iter().find(|(own, _)| own.get_ref() == key).map(|(_, value)| value)
    }

    fn ask(&self, key: &'static str) -> Option<&'t Spanned<Value>> {
        self.asked.borrow_mut().insert(key);
        self.value(key)
    }

    /// Where the value of a key stands in the text.
    pub fn place(&self, key: &str) -> Option<Range<usize>> {
        self.value(key).map(Spanned::span)
    }

    /// Whether a key is there.
    pub fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// That a key's value will not do; that the operation will not, where there is no such key.
    pub fn refuse_at(&self, key: &str, message: &str) -> Error {
        self.source.refuse(message, self.value(key).map_or(self.start, |value| value.span().start))
    }

    fn wrong(&self, key: &str, wanted: &str) -> Error {
        self.refuse_at(key, &format!("{key} of {} is {wanted}", self.op))
    }

    /// That a key is missing; one that is there may be meant by it.
    pub fn missing(&self, key: &str) -> Error {
        let asked = self.asked.borrow();
        let own = self.keys.keys().map(|own| own.get_ref().as_str()).filter(|own| !asked.contains(own));
        let near = own.filter(|own| !did_you_mean(own, [key]).is_empty()).min();
        let instead = near.map_or_else(String::new, |near| format!(", not {}", near.escape_debug()));
        self.source.refuse(&format!("{} needs {key}{instead}", self.op), self.start)
    }

    /// That every key was asked for.
    pub fn finish(&self) -> Result<()> {
        let asked = self.asked.borrow();
        match self.keys.keys().find(|key| !asked.contains(key.get_ref().as_str())) {
            None => Ok(()),
            Some(key) => {
                let near = did_you_mean(key.get_ref(), asked.iter().copied());
                let message = format!("{} has no key {}{near}", self.op, key.get_ref().escape_debug());
                Err(self.source.refuse(&message, key.span().start))
            }
        }
    }

    /// What a parameter is called; `None` where no key says it, or the key is `false` and there is none.
    pub fn parameter(&self, key: &'static str) -> Result<Option<&'t str>> {
        match self.ask(key).map(Spanned::get_ref) {
            None | Some(Value::Boolean(false)) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "the name of a parameter, or false where there is none")),
        }
    }

    /// Whether the file says that there is no such parameter.
    pub fn leaves_out(&self, key: &str) -> bool {
        matches!(self.value(key).map(Spanned::get_ref), Some(Value::Boolean(false)))
    }

    /// That a size is the one that parameters have, where it is stated.
    pub fn check_size(&self, key: &'static str, actual: usize) -> Result<()> {
        match self.size(key)? {
            Some(stated) if stated != actual => {
                Err(self.refuse_at(key, &format!("{key} is {stated}, by its parameters it is {actual}")))
            }
            _ => Ok(()),
        }
    }

    pub fn text(&self, key: &'static str) -> Result<Option<&'t str>> {
        match self.ask(key).map(Spanned::get_ref) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "a text")),
        }
    }

    /// One text, or several.
    pub fn texts(&self, key: &'static str) -> Result<Vec<&'t str>> {
        let wrong = || self.wrong(key, "a text or a list of them");
        match self.ask(key).map(Spanned::get_ref) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text]),
            Some(Value::Array(values)) => {
                values.iter().map(|value| value.as_str().ok_or_else(wrong)).collect()
            }
            Some(_) => Err(wrong()),
        }
    }

    pub fn flag(&self, key: &'static str, otherwise: bool) -> Result<bool> {
        match self.ask(key).map(Spanned::get_ref) {
            None => Ok(otherwise),
            Some(Value::Boolean(flag)) => Ok(*flag),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    pub fn number(&self, key: &'static str) -> Result<Option<f64>> {
        match self.ask(key).map(Spanned::get_ref) {
            None => Ok(None),
            Some(Value::Float(number)) if number.is_finite() => Ok(Some(*number)),
            Some(Value::Integer(number)) => Ok(Some(*number as f64)),
            Some(_) => Err(self.wrong(key, "a number")),
        }
    }

    /// A positive number; what is added to variances.
    pub fn positive(&self, key: &'static str, otherwise: f64) -> Result<f64> {
        match self.number(key)? {
            None => Ok(otherwise),
            Some(number) if number > 0.0 => Ok(number),
            Some(_) => Err(self.wrong(key, "a positive number")),
        }
    }

    /// A positive size.
    pub fn size(&self, key: &'static str) -> Result<Option<usize>> {
        let wrong = || self.wrong(key, "a positive size");
        self.ask(key).map(|value| size(value.get_ref(), 1).ok_or_else(wrong)).transpose()
    }

    /// A count from 0 on.
    pub fn count(&self, key: &'static str) -> Result<Option<usize>> {
        let wrong = || self.wrong(key, "a number of places");
        self.ask(key).map(|value| size(value.get_ref(), 0).ok_or_else(wrong)).transpose()
    }

    /// A size that must be there.
    pub fn needed(&self, key: &'static str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| self.missing(key))
    }

    /// One size for each of so many axes; a single one is that of all.
    pub fn sizes(&self, key: &'static str, axes: usize, least: i64) -> Result<Option<Vec<usize>>> {
        let wrong = || self.wrong(key, &format!("a size, or one for each of {axes} axes"));
        let Some(value) = self.ask(key) else { return Ok(None) };
        let sizes = match value.get_ref() {
            Value::Array(values) if values.len() == axes => {
                values.iter().map(|value| size(value, least)).collect()
            }
            Value::Array(_) => None,
            value => size(value, least).map(|size| vec![size; axes]),
        };
        sizes.map(Some).ok_or_else(wrong)
    }

    /// How many sizes are listed under a key.
    pub fn listed(&self, key: &'static str) -> Option<usize> {
        self.ask(key).and_then(|value| value.get_ref().as_array()).map(Vec::len)
    }

    /// A list of sizes, `"any"` where any will do.
    pub fn free_sizes(&self, key: &'static str) -> Result<Vec<Option<usize>>> {
        let wrong = || self.wrong(key, "a list of sizes, or of \"any\" where any will do");
        let value = self.ask(key).ok_or_else(|| self.missing(key))?;
        let values = value.get_ref().as_array().filter(|values| !values.is_empty()).ok_or_else(wrong)?;
        let free = |value: &Value| match value {
            Value::String(text) if text == "any" => Ok(None),
            value => size(value, 1).map(Some).ok_or_else(wrong),
        };
        values.iter().map(free).collect()
    }
}

fn size(value: &Value, least: i64) -> Option<usize> {
    let size = value.as_integer().filter(|size| *size >= least && size.unsigned_abs() < LARGEST)?;
    usize::try_from(size).ok()
}
