//! JSON as training loops write it: `NaN`, `Infinity` and `-Infinity` may stand bare, and a number may be too large for f64.
//!
//! A pull parser: the caller descends, nothing is kept. It never recurses deeper than [`MAX_DEPTH`].

/// Deeper values are refused.
const MAX_DEPTH: usize = 64;

/// Where the text is not JSON, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    /// Byte from the beginning of the text.
    pub at: usize,
    pub message: &'static str,
}

/// A value without parts.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scalar {
    Number(f64),
    Text(String),
    Bool(bool),
    Null,
}

/// Reads JSON from the front.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

type Outcome<T> = Result<T, Fault>;

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, depth: 0 }
    }

    /// The first byte of what comes next.
    pub(super) fn peek(&mut self) -> Option<u8> {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.bytes.get(self.at).copied()
    }

    /// An object: `each` is called with every key, and must read or skip its value.
    pub(super) fn object(
        &mut self,
        each: &mut dyn FnMut(&str, &mut Reader<'a>) -> Outcome<()>,
    ) -> Outcome<()> {
        self.sequence(b'{', b'}', &mut |reader| {
            let key = reader.text()?;
            reader.expect(b':')?;
            each(&key, reader)
        })
    }

    /// An array: `each` is called at every value, and must read or skip it.
    pub(super) fn array(&mut self, each: &mut dyn FnMut(&mut Reader<'a>) -> Outcome<()>) -> Outcome<()> {
        self.sequence(b'[', b']', each)
    }

    fn sequence(
        &mut self,
        open: u8,
        close: u8,
        each: &mut dyn FnMut(&mut Reader<'a>) -> Outcome<()>,
    ) -> Outcome<()> {
        self.expect(open)?;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fault("it is nested more than 64 levels deep");
        }
        if self.peek() != Some(close) {
            loop {
                each(self)?;
                match self.peek() {
                    Some(b',') => self.at += 1,
                    Some(byte) if byte == close => break,
                    Some(_) => return self.fault("a comma or the end of the list is expected here"),
                    None => return self.fault("it ends here, in the middle"),
                }
            }
        }
        self.at += 1;
        self.depth -= 1;
        Ok(())
    }

    /// A value without parts.
    pub(super) fn scalar(&mut self) -> Outcome<Scalar> {
        match self.peek() {
            Some(b'"') => self.text().map(Scalar::Text),
            Some(b'{' | b'[') => self.fault("a number or text is expected here"),
            Some(_) => self.word(),
            None => self.fault("it ends here, in the middle"),
        }
    }

    /// Passes over any value.
    pub(super) fn skip(&mut self) -> Outcome<()> {
        match self.peek() {
            Some(b'{') => self.object(&mut |_, reader| reader.skip()),
            Some(b'[') => self.array(&mut Reader::skip),
            _ => self.scalar().map(|_| ()),
        }
    }

    fn word(&mut self) -> Outcome<Scalar> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|byte| b",]}:\"".contains(byte) || byte.is_ascii_whitespace());
        let word = std::str::from_utf8(&rest[..end.unwrap_or(rest.len())]).unwrap_or_default();
        let scalar = match word {
            "null" => Scalar::Null,
            "true" => Scalar::Bool(true),
            "false" => Scalar::Bool(false),
            _ => match number(word) {
                Some(number) => Scalar::Number(number),
                None => return self.fault("a value is expected here"),
            },
        };
        self.at += word.len();
        Ok(scalar)
    }

    fn text(&mut self) -> Outcome<String> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
            match self.bytes.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
                None => return self.fault("a text does not end"),
            }
        }
        let raw = &self.bytes[start..self.at];
        self.at += 1;
        if !raw.contains(&b'\\') {
            return Ok(String::from_utf8_lossy(raw).into_owned());
        }
        // The rare text with escapes goes through the reference parser.
        serde_json::from_slice(&self.bytes[start - 1..self.at])
            .map_err(|_| Fault { at: start, message: "a text has an escape that JSON does not know" })
    }

    fn expect(&mut self, byte: u8) -> Outcome<()> {
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        self.fault(match byte {
            b'{' => "an object is expected here",
            b'[' => "a list is expected here",
            b':' => "a colon is expected here",
            _ => "a text in quotation marks is expected here",
        })
    }

    fn fault<T>(&self, message: &'static str) -> Outcome<T> {
        Err(Fault { at: self.at.min(self.bytes.len()), message })
    }
}

/// A number as Python, C and people write it; what is too large for f64 is infinite.
pub(super) fn number(text: &str) -> Option<f64> {
    let begins = text.trim_start_matches(['-', '+']).bytes().next()?;
    let like_one = begins.is_ascii_digit() || begins == b'.';
    match text.trim_start_matches(['-', '+']).to_ascii_lowercase().as_str() {
        "nan" => Some(f64::NAN),
        "inf" | "infinity" => Some(if text.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY }),
        _ if like_one => text.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str) -> Outcome<Vec<(String, f64)>> {
        let mut found = Vec::new();
        Reader::new(text.as_bytes()).object(&mut |key, reader| {
            if let Scalar::Number(number) = reader.scalar()? {
                found.push((key.to_owned(), number));
            }
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn bare_words_of_python_and_numbers_beyond_f64_are_read() {
        let text =
            r#"{"a": NaN, "b": -Infinity , "c":Infinity,"d":1e999, "e": -2.5E-3, "f": null, "g": "NaN"}"#;
        let found = numbers(text).unwrap();
        let values: Vec<f64> = found.iter().map(|(_, value)| *value).collect();
        assert!(values[0].is_nan());
        assert_eq!(values[1..], [f64::NEG_INFINITY, f64::INFINITY, f64::INFINITY, -0.0025]);
    }

    #[test]
    fn what_is_not_json_is_refused_where_it_begins() {
        for (text, at) in [
            ("[1]", 0),
            ("{\"a\" 1}", 5),
            ("{\"a\": 1 2}", 8),
            ("{\"a\": nope}", 6),
            ("{\"a\": 1", 7),
            ("{\"a", 3),
        ] {
            assert_eq!(numbers(text).unwrap_err().at, at, "{text}");
        }
        let deep = "[".repeat(100_000);
        let fault = Reader::new(deep.as_bytes()).skip().unwrap_err();
        assert_eq!(fault.message, "it is nested more than 64 levels deep");
    }

    #[test]
    fn escapes_in_text_are_resolved() {
        let mut keys = Vec::new();
        let text = r#"{"tr\u0061in\/loss": 1, "a\"b": [1, {"c": "\\"}]}"#;
        Reader::new(text.as_bytes())
            .object(&mut |key, reader| {
                keys.push(key.to_owned());
                reader.skip()
            })
            .unwrap();
        assert_eq!(keys, ["train/loss", "a\"b"]);
    }
}
