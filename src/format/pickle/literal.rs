//! Numbers and strings as pickles write them: decimal and escaped text of protocol 0, two's complement of later ones.

/// An integer in decimal text, perhaps with the `L` of Python 2.
#[derive(Debug, PartialEq, Eq)]
pub enum Integer {
    /// It fits.
    Small(i64),
    /// Well-formed, but it does not fit.
    Big,
}

/// Decimal text, or `None` where it is not a number.
pub fn decimal(line: &[u8]) -> Option<Integer> {
    let text = std::str::from_utf8(line).ok()?.trim();
    let text = text.strip_suffix('L').unwrap_or(text);
    if let Ok(value) = text.parse() {
        return Some(Integer::Small(value));
    }
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let well_formed = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    well_formed.then_some(Integer::Big)
}

/// Little-endian two's complement of any length, where the value fits in 64 bits. No bytes are 0.
pub fn twos_complement(bytes: &[u8]) -> Option<i64> {
    let sign = if bytes.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 };
    let (low, high) = bytes.split_at(bytes.len().min(8));
    let mut word = [sign; 8];
    word[..low.len()].copy_from_slice(low);
    let value = i64::from_le_bytes(word);
    let fits = high.iter().all(|&byte| byte == sign) && (value < 0) == (sign == 0xff);
    fits.then_some(value)
}

/// The bytes of a quoted Python 2 string, escapes resolved, or `None` where the quotes do not match.
pub fn quoted(line: &[u8]) -> Option<Vec<u8>> {
    let line = line.trim_ascii();
    let (&quote, rest) = line.split_first()?;
    let (&last, inner) = rest.split_last()?;
    (last == quote && matches!(quote, b'\'' | b'"')).then(|| unescaped(inner))
}

/// Backslash escapes as in Python byte strings. Unknown ones stand for themselves, as there.
fn unescaped(mut text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    while let Some((&byte, rest)) = text.split_first() {
        text = rest;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let Some((&escape, rest)) = text.split_first() else {
            bytes.push(b'\\');
            break;
        };
        let simple = match escape {
            b'\\' | b'\'' | b'"' => Some(escape),
            b'n' => Some(b'\n'),
            b'r' => Some(b'\r'),
            b't' => Some(b'\t'),
            b'a' => Some(0x07),
            b'b' => Some(0x08),
            b'f' => Some(0x0c),
            b'v' => Some(0x0b),
            _ => None,
        };
        if let Some(byte) = simple {
            bytes.push(byte);
            text = rest;
        } else if let Some(value) = digits(rest, 2, 16).filter(|_| escape == b'x') {
            bytes.push(value as u8);
            text = &rest[2..];
        } else if (b'0'..=b'7').contains(&escape) {
            let length = text.iter().take(3).take_while(|digit| (b'0'..=b'7').contains(digit)).count();
            bytes.push(digits(text, length, 8).unwrap_or_default() as u8);
            text = &text[length..];
        } else {
            bytes.push(b'\\');
        }
    }
    bytes
}

/// The text of a UNICODE line: Latin-1 with `\uXXXX` and `\UXXXXXXXX`.
pub fn raw_unicode(mut line: &[u8]) -> String {
    let mut text = String::with_capacity(line.iter().map(|byte| 1 + usize::from(!byte.is_ascii())).sum());
    while let Some((&byte, rest)) = line.split_first() {
        let length = match rest.first() {
            Some(b'u') if byte == b'\\' => 4,
            Some(b'U') if byte == b'\\' => 8,
            _ => 0,
        };
        if let Some(code) = digits(rest.get(1..).unwrap_or_default(), length, 16).filter(|_| length > 0) {
            text.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            line = &rest[1 + length..];
        } else {
            text.push(char::from(byte));
            line = rest;
        }
    }
    text
}

/// The number in the first `length` digits.
fn digits(text: &[u8], length: usize, radix: u32) -> Option<u32> {
    text.get(..length)?.iter().try_fold(0u32, |value, &byte| {
        let digit = char::from(byte).to_digit(radix)?;
        value.checked_mul(radix)?.checked_add(digit)
    })
}

/// UTF-8, with what is not replaced: Python lets lone surrogates through, and a scanner must see what follows them.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_text_is_a_number_a_big_number_or_nothing() {
        assert_eq!(decimal(b"-12"), Some(Integer::Small(-12)));
        assert_eq!(decimal(b"7L"), Some(Integer::Small(7)));
        assert_eq!(decimal(b"1180591620717411303424"), Some(Integer::Big));
        assert_eq!(decimal(b"1e3"), None);
        assert_eq!(decimal(b""), None);
        assert_eq!(decimal(b"-"), None);
        assert_eq!(decimal(&[0xff]), None);
    }

    #[test]
    fn twos_complement_of_any_length_fits_or_does_not() {
        assert_eq!(twos_complement(&[]), Some(0));
        assert_eq!(twos_complement(&[0xff]), Some(-1));
        assert_eq!(twos_complement(&[0xff, 0]), Some(255));
        assert_eq!(twos_complement(&[0, 0, 0, 0, 0, 0, 0, 0x80]), Some(i64::MIN));
        assert_eq!(twos_complement(&[0, 0, 0, 0, 0, 0, 0, 0x80, 0]), None, "2^63");
        assert_eq!(twos_complement(&[0xff; 255]), Some(-1));
        assert_eq!(twos_complement(&[1; 9]), None);
    }

    #[test]
    fn strings_of_protocol_0_resolve_their_escapes() {
        assert_eq!(quoted(b"'a\\n\\x41\\101\\'\\q'").as_deref(), Some(&b"a\nAA'\\q"[..]));
        assert_eq!(quoted(b"\"\\"), None);
        assert_eq!(quoted(b"'\\"), None);
        assert_eq!(quoted(b"'"), None);
        assert_eq!(quoted(b""), None);
        assert_eq!(quoted(b"'\\x4'").as_deref(), Some(&b"\\x4"[..]));
        assert_eq!(raw_unicode(b"na\xefve \\u20ac \\U0001f525 \\u12"), "naïve € 🔥 \\u12");
        assert_eq!(raw_unicode(b"\\ud800"), "\u{fffd}");
    }
}
