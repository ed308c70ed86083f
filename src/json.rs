//! JSON that can be compared with `diff`: line breaks down to a depth, one line for each value below it.

use std::io;

use serde::Serialize;
use serde_json::ser::Formatter;

/// JSON with line breaks down to nesting `depth`, and one line for each value below it.
///
/// # Panics
/// Never for plain data with text keys.
pub fn to_lines(value: &impl Serialize, depth: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, Lines { level: 0, depth });
    value.serialize(&mut serializer).expect("plain data with text keys, written to memory");
    bytes.push(b'\n');
    bytes
}

/// Breaks lines down to a nesting depth.
struct Lines {
    level: usize,
    depth: usize,
}

impl Lines {
    fn open<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.level += 1;
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.level -= 1;
        if self.level < self.depth {
            self.line(writer)?;
        }
        writer.write_all(bracket)
    }

    fn next<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(b",")?;
        }
        if self.level <= self.depth {
            self.line(writer)?;
        }
        Ok(())
    }

    fn line<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b"\n")?;
        for _ in 0..self.level {
            writer.write_all(b" ")?;
        }
        Ok(())
    }
}

impl Formatter for Lines {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.next(writer, first)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.next(writer, first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_below_the_depth_stand_on_one_line() {
        let value = serde_json::json!({ "tensors": [{ "name": "a", "shape": [1, 2] }, { "name": "b" }] });
        let text = String::from_utf8(to_lines(&value, 2)).unwrap();
        assert_eq!(
            text,
            "{\n \"tensors\":[\n  {\"name\":\"a\",\"shape\":[1,2]},\n  {\"name\":\"b\"}\n ]\n}\n"
        );
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
