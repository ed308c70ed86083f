//! The header of an array file: a Python dict literal with three keys, read by a parser for nothing else.

use std::ops::Range;

use crate::error::ErrorKind;
use crate::files::InputFile;

/// The longest header that is read. Numpy itself refuses those of more than 10 000 bytes.
pub const MAX_HEADER_BYTES: u64 = 64 << 10;

/// The most dimensions that numpy 2 takes.
pub const MAX_DIMENSIONS: usize = 64;

/// What a header says.
#[derive(Debug, PartialEq, Eq)]
pub struct Header {
    pub descr: Descr,
    /// Whether the first index is the fastest.
    pub column_major: bool,
    pub shape: Vec<u64>,
}

/// The element type as it is written.
#[derive(Debug, PartialEq, Eq)]
pub enum Descr {
    /// A code such as `<f4`.
    Plain(String),
    /// A list of fields. With one of Python objects among them, the elements are a pickle.
    Structured { objects: bool },
}

/// Reads the header of the array that fills `bytes` of `file`, and says where the elements start.
pub fn read(file: &InputFile, bytes: &Range<u64>) -> Result<(Header, u64), ErrorKind> {
    let mut buffer = Vec::new();
    let mut take = |start: u64, length: u64| {
        let end = start.saturating_add(length);
        if end > bytes.end {
            return Err(ErrorKind::PastEndOfFile { needed: end, available: bytes.end });
        }
        let taken = file.bytes(start..end, &mut buffer).map_err(|error| error.kind)?;
        Ok((taken.to_vec(), end))
    };
    let (magic, at) = take(bytes.start, super::MAGIC.len() as u64 + 2)?;
    if !super::matches(&magic) {
        return Err(ErrorKind::NpyHeader { message: "it does not begin as one" });
    }
    let (major, minor) = (magic[6], magic[7]);
    let width = match (major, minor) {
        (1, 0) => 2,
        (2 | 3, 0) => 4,
        _ => return Err(ErrorKind::NpyVersion { major, minor }),
    };
    let (length, at) = take(at, width)?;
    let length = length.iter().rev().fold(0, |length, &byte| length << 8 | u64::from(byte));
    if length > MAX_HEADER_BYTES {
        let what = "the header of the array";
        return Err(ErrorKind::TooLarge { what, actual: length, limit: MAX_HEADER_BYTES });
    }
    let (text, start) = take(at, length)?;
    Ok((parse(&text).map_err(|message| ErrorKind::NpyHeader { message })?, start))
}

/// Reads `{'descr': …, 'fortran_order': …, 'shape': …}`, each key once, in any order.
pub fn parse(text: &[u8]) -> Result<Header, &'static str> {
    let mut literal = Literal { rest: text };
    let (mut descr, mut column_major, mut shape) = (None, None, None);
    literal.expect(b'{')?;
    while !literal.accept(b'}') {
        let key = literal.text()?;
        literal.expect(b':')?;
        let repeated = match key {
            b"descr" => descr.replace(literal.descr()?).is_some(),
            b"fortran_order" => column_major.replace(literal.truth()?).is_some(),
            b"shape" => shape.replace(literal.sizes()?).is_some(),
            _ => return Err("it has a key of its own"),
        };
        if repeated {
            return Err("a key stands twice");
        }
        if !literal.accept(b',') {
            literal.expect(b'}')?;
            break;
        }
    }
    if !literal.rest.trim_ascii_start().is_empty() {
        return Err("something follows the dict");
    }
    match (descr, column_major, shape) {
        (Some(descr), Some(column_major), Some(shape)) => Ok(Header { descr, column_major, shape }),
        _ => Err("a key is missing"),
    }
}

/// Whether a code is that of references to Python objects: `O`, or, of before numpy 1.7, with the size of one.
pub fn is_of_objects(code: &str) -> bool {
    let code = code.trim_start_matches(['<', '>', '=', '|']);
    code.strip_prefix('O').is_some_and(|size| size.bytes().all(|byte| byte.is_ascii_digit()))
}

/// What is left of the literal.
struct Literal<'a> {
    rest: &'a [u8],
}

impl<'a> Literal<'a> {
    /// Skips white space, and then `byte` if it is next.
    fn accept(&mut self, byte: u8) -> bool {
        self.rest = self.rest.trim_ascii_start();
        let rest = self.rest.strip_prefix(&[byte]);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, byte: u8) -> Result<(), &'static str> {
        if self.accept(byte) { Ok(()) } else { Err("it is not the literal of a dict") }
    }

    /// Text in quotes, without escapes.
    fn text(&mut self) -> Result<&'a [u8], &'static str> {
        let quote = if self.accept(b'\'') {
            b'\''
        } else if self.accept(b'"') {
            b'"'
        } else {
            return Err("text is expected");
        };
        let end = self.rest.iter().position(|&byte| byte == quote).ok_or("a quote is not closed")?;
        let text = &self.rest[..end];
        if text.contains(&b'\\') {
            return Err("text has an escape");
        }
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }

    fn descr(&mut self) -> Result<Descr, &'static str> {
        if self.rest.trim_ascii_start().starts_with(b"[") {
            return Ok(Descr::Structured { objects: self.skip_brackets()? });
        }
        let code = std::str::from_utf8(self.text()?).map_err(|_| "the element type is not text")?;
        Ok(Descr::Plain(code.to_owned()))
    }

    /// Skips a list with all that it nests, and says whether the type of a field in it is that of Python objects.
    fn skip_brackets(&mut self) -> Result<bool, &'static str> {
        let (mut open, mut objects) = (0usize, false);
        // What stands first in a parenthesis is the name of a field.
        let mut is_name = false;
        loop {
            self.rest = self.rest.trim_ascii_start();
            match self.rest.first() {
                Some(b'\'' | b'"') => {
                    let text = self.text()?;
                    objects |= !is_name && std::str::from_utf8(text).is_ok_and(is_of_objects);
                    continue;
                }
                Some(b'[' | b'(') => open += 1,
                Some(b']' | b')') => open -= 1,
                Some(_) => {}
                None => return Err("a bracket is not closed"),
            }
            is_name = self.rest[0] == b'(';
            self.rest = &self.rest[1..];
            if open == 0 {
                return Ok(objects);
            }
        }
    }

    fn truth(&mut self) -> Result<bool, &'static str> {
        self.rest = self.rest.trim_ascii_start();
        for (word, value) in [(&b"True"[..], true), (b"False", false)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err("the order is not a truth value")
    }

    /// A tuple of counts.
    fn sizes(&mut self) -> Result<Vec<u64>, &'static str> {
        let mut sizes = Vec::new();
        if !self.accept(b'(') {
            return Err("the shape is not a tuple");
        }
        while !self.accept(b')') {
            if sizes.len() == MAX_DIMENSIONS {
                return Err("it has more than 64 dimensions");
            }
            sizes.push(self.size()?);
            if !self.accept(b',') {
                if self.accept(b')') {
                    break;
                }
                return Err("the shape is not a tuple of counts");
            }
        }
        Ok(sizes)
    }

    fn size(&mut self) -> Result<u64, &'static str> {
        if self.accept(b'-') {
            return Err("a size is negative");
        }
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, rest) = self.rest.split_at(digits);
        // Python 2 wrote its long integers with an L.
        self.rest = rest.strip_prefix(b"L").unwrap_or(rest);
        let number = std::str::from_utf8(number).expect("digits are text");
        if number.is_empty() {
            return Err("the shape is not a tuple of counts");
        }
        number.parse().map_err(|_| "a size does not fit in 64 bits")
    }
}
