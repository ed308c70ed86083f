//! The header as a list of names and uninterpreted values, in order and with their places, as far as it is JSON.

use std::fmt;

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::format::MAX_TENSORS;

/// The key that holds text about the file instead of a tensor.
const METADATA_KEY: &str = "__metadata__";

/// What a header declares, before any of it is believed.
pub(super) struct Outline<'a> {
    /// The tensors, in the order of the header, repeated names included.
    pub tensors: Vec<Declared<'a>>,
    /// Every `__metadata__`, in the order of the header.
    pub metadata: Vec<Declared<'a>>,
    /// Whether it declares more tensors than are read. Those behind the last one that is are not above.
    pub has_too_many: bool,
    /// Where and why the header stops being JSON. What stood before it is above.
    pub damage: Option<Damage>,
}

/// One key of the header.
pub(super) struct Declared<'a> {
    /// The key.
    pub name: String,
    /// Where its value begins, from the start of the header.
    pub at: u64,
    /// Its value, JSON of any kind.
    pub value: &'a RawValue,
}

/// The place where a header stops being JSON.
pub(super) struct Damage {
    /// Bytes from the start of the header.
    pub at: u64,
    /// The parser's words.
    pub message: String,
}

impl<'a> Outline<'a> {
    /// Reads `header` as far as it goes.
    pub fn of(header: &'a [u8]) -> Self {
        let mut pairs = Vec::new();
        let damage = match header.first() {
            Some(b'{') => collect(header, &mut pairs).err().map(|error| Damage::of(header, &error)),
            _ => Some(Damage { at: 0, message: "it does not begin with {".to_owned() }),
        };
        let has_too_many = pairs.len() as u64 > MAX_TENSORS;
        let declared = pairs.into_iter().map(|(name, value)| {
            let at = (value.get().as_ptr().addr() - header.as_ptr().addr()) as u64;
            Declared { name, at, value }
        });
        let (metadata, tensors) = declared.partition(|declared| declared.name == METADATA_KEY);
        Self { tensors, metadata, has_too_many, damage }
    }
}

impl Damage {
    fn of(header: &[u8], error: &serde_json::Error) -> Self {
        let line = error.line().saturating_sub(1);
        let line_start: usize =
            header.split_inclusive(|&byte| byte == b'\n').take(line).map(<[u8]>::len).sum();
        let at = (line_start + error.column().saturating_sub(1)).min(header.len()) as u64;
        Self { at, message: without_place(error) }
    }
}

/// The parser's words without its line and column, which say nothing in a header of one line.
pub(super) fn without_place(error: &serde_json::Error) -> String {
    const LONGEST: usize = 160;
    let text = error.to_string();
    let words = text.rsplit_once(" at line ").map_or(text.as_str(), |(words, _)| words);
    words.chars().take(LONGEST).collect()
}

/// Collects the pairs of the object in `header`; those before an error stay in `pairs`.
fn collect<'a>(header: &'a [u8], pairs: &mut Vec<(String, &'a RawValue)>) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_slice(header);
    deserializer.deserialize_map(Pairs(pairs))?;
    deserializer.end()
}

struct Pairs<'p, 'a>(&'p mut Vec<(String, &'a RawValue)>);

impl<'a> Visitor<'a> for Pairs<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(pair) = map.next_entry()? {
            self.0.push(pair);
            if self.0.len() as u64 > MAX_TENSORS {
                return Err(A::Error::custom("more tensors than are read"));
            }
        }
        Ok(())
    }
}
