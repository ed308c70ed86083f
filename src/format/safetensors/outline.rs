//! The header as a list of names and uninterpreted values, in order and with their places, as far as it is JSON.

use std::fmt;

use serde::Deserialize;
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
    /// Of what it has more than is read, and the most that is. What stands behind is not above.
    pub excess: Option<Excess>,
    /// Where and why the header stops being JSON. What stood before it is above.
    pub damage: Option<Damage>,
}

/// More than is read, and the most that is.
pub(super) type Excess = (&'static str, u64);

/// Most bytes of all names together, which are held several times over. Real ones have some fifty each.
const MAX_NAME_BYTES: u64 = 16 << 20;

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
        let mut pairs =
            Pairs { start: header.as_ptr().addr(), tensors: Vec::new(), metadata: Vec::new(), name_bytes: 0 };
        let damage = match header.first() {
            Some(b'{') => collect(header, &mut pairs).err().map(|error| Damage::of(header, &error)),
            _ => Some(Damage { at: 0, message: "it does not begin with {".to_owned() }),
        };
        let excess = pairs.excess();
        Self { tensors: pairs.tensors, metadata: pairs.metadata, excess, damage }
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
fn collect<'a>(header: &'a [u8], pairs: &mut Pairs<'a>) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_slice(header);
    deserializer.deserialize_map(pairs)?;
    deserializer.end()
}

/// The pairs so far.
struct Pairs<'a> {
    /// The address of the header.
    start: usize,
    tensors: Vec<Declared<'a>>,
    metadata: Vec<Declared<'a>>,
    name_bytes: u64,
}

impl Pairs<'_> {
    fn excess(&self) -> Option<Excess> {
        if (self.tensors.len() + self.metadata.len()) as u64 > MAX_TENSORS {
            return Some(("tensors", MAX_TENSORS));
        }
        (self.name_bytes > MAX_NAME_BYTES).then_some(("bytes of names of tensors", MAX_NAME_BYTES))
    }
}

impl<'a> Visitor<'a> for &mut Pairs<'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((Name { text: name, length }, value)) = map.next_entry::<_, &RawValue>()? {
            self.name_bytes += length;
            let at = (value.get().as_ptr().addr() - self.start) as u64;
            let of_file = name == METADATA_KEY;
            let declared = if of_file { &mut self.metadata } else { &mut self.tensors };
            declared.push(Declared { name, at, value });
            if self.excess().is_some() {
                return Err(A::Error::custom("more than is read"));
            }
        }
        Ok(())
    }
}

/// A name as long as names may be together, or the length of one that is longer, which is not copied.
struct Name {
    text: String,
    length: u64,
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_str<E>(self, text: &str) -> Result<Name, E> {
                let length = text.len() as u64;
                let text = if length > MAX_NAME_BYTES { String::new() } else { text.to_owned() };
                Ok(Name { text, length })
            }
        }

        deserializer.deserialize_str(Text)
    }
}
