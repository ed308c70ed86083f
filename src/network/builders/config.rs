//! A model's `config.json`, asked by key.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::{LARGEST, WIDEST_HEAD};
use crate::compute::Unary;
use crate::error::{At, Error, ErrorKind, Result};

/// The architecture's settings, as the framework wrote them.
pub(super) struct Config<'c> {
    values: &'c BTreeMap<String, Value>,
    path: &'c Path,
}

/// Layers above it are those of no network: nodes are made for each before any parameter is looked for.
pub(super) const MOST_LAYERS: usize = 4096;

impl<'c> Config<'c> {
    pub const fn new(values: &'c BTreeMap<String, Value>, path: &'c Path) -> Self {
        Self { values, path }
    }

    /// That the network is not known, and why.
    pub fn unknown(&self, message: String) -> Error {
        ErrorKind::UnknownArchitecture { message }.in_file(self.path)
    }

    fn wrong(&self, key: &str, message: &str) -> Error {
        let kind = ErrorKind::SideFile { what: "config.json", message: message.to_owned() };
        kind.in_file(self.path).at(At::Key(key.to_owned()))
    }

    /// What a key says; `null` says nothing.
    pub fn get(&self, key: &str) -> Option<&'c Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    pub fn text(&self, key: &str) -> Option<&'c str> {
        self.get(key).and_then(Value::as_str)
    }

    /// A positive size.
    ///
    /// # Errors
    /// When it is there and is none.
    pub fn size_or(&self, key: &str, otherwise: usize) -> Result<usize> {
        match self.get(key) {
            None => Ok(otherwise),
            Some(value) => match value.as_u64() {
                Some(size) if size > 0 && size < LARGEST => Ok(size as usize),
                _ => Err(self.wrong(key, "a positive size is needed")),
            },
        }
    }

    /// A positive size that must be there.
    pub fn size(&self, key: &str) -> Result<usize> {
        match self.get(key) {
            None => Err(self.unknown(format!("config.json has no {key}"))),
            Some(_) => self.size_or(key, 0),
        }
    }

    /// A number of layers.
    pub fn layers(&self, key: &str) -> Result<usize> {
        self.at_most(key, self.size(key)?, MOST_LAYERS)
    }

    /// Numbers of a head.
    pub fn head(&self, key: &str, width: usize) -> Result<usize> {
        self.at_most(key, width, WIDEST_HEAD)
    }

    /// A size, unless it is larger than the most.
    pub fn at_most(&self, key: &str, size: usize, most: usize) -> Result<usize> {
        if size <= most { Ok(size) } else { Err(self.wrong(key, &format!("at most {most} are built"))) }
    }

    pub fn number_or(&self, key: &str, otherwise: f64) -> Result<f64> {
        self.get(key).map_or(Ok(otherwise), |value| {
            value.as_f64().ok_or_else(|| self.wrong(key, "a number is needed"))
        })
    }

    pub fn flag_or(&self, key: &str, otherwise: bool) -> Result<bool> {
        self.get(key).map_or(Ok(otherwise), |value| {
            value.as_bool().ok_or_else(|| self.wrong(key, "true or false is needed"))
        })
    }

    /// Whether the first of the `architectures` ends so.
    pub fn architecture_has(&self, word: &str) -> bool {
        let first = self.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
        first.is_some_and(|name| name.contains(word))
    }

    /// A part of it that is an object of its own.
    pub fn object(&self, key: &str) -> Option<&'c serde_json::Map<String, Value>> {
        self.get(key).and_then(Value::as_object)
    }

    /// That a setting changes the network in a way that is not built.
    pub fn not_built(&self, key: &str) -> Error {
        let value = self.get(key).map_or_else(String::new, Value::to_string);
        self.unknown(format!("{key} = {value} in config.json is not built"))
    }

    /// The function of this key, by the names that `transformers` gives them.
    pub fn activation(&self, key: &str, otherwise: &'static str) -> Result<Unary> {
        Ok(match self.text(key).unwrap_or(otherwise) {
            "gelu" => Unary::GeluErf,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_accurate" => Unary::GeluTanh,
            "quick_gelu" => Unary::GeluSigmoid,
            "silu" | "swish" => Unary::Silu,
            "relu" => Unary::Relu,
            "relu6" => Unary::Relu6,
            "tanh" => Unary::Tanh,
            "sigmoid" => Unary::Sigmoid,
            _ => return Err(self.not_built(key)),
        })
    }

    /// That two sizes divide.
    pub fn divided(&self, key: &str, whole: usize, parts: usize) -> Result<usize> {
        if whole.is_multiple_of(parts) {
            Ok(whole / parts)
        } else {
            Err(self.wrong(key, &format!("{parts} does not divide {whole}")))
        }
    }
}
