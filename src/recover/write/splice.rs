//! Numbers of a JSON text replaced where they stand. Everything else stays byte for byte what it was: a reader that gave numbers
//! a type of ours would round the integers of 128 bits that states of random-number generators are made of.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::value::RawValue;

/// `text` with the value at each JSON pointer replaced. `None` where one of them is not there.
pub(super) fn replaced(text: &str, edits: &[(&str, String)]) -> Option<String> {
    let mut places = Vec::with_capacity(edits.len());
    for (pointer, new) in edits {
        places.push((place(text, pointer)?, new.as_str()));
    }
    places.sort_by_key(|(range, _)| range.start);
    places.dedup_by_key(|(range, _)| range.start);
    let mut written = String::with_capacity(text.len() + 16 * places.len());
    let mut from = 0;
    for (range, new) in places {
        written.push_str(&text[from..range.start]);
        written.push_str(new);
        from = range.end;
    }
    written.push_str(&text[from..]);
    Some(written)
}

/// The bytes of `text` that hold the value at a pointer, whose keys need no escapes.
fn place(text: &str, pointer: &str) -> Option<Range<usize>> {
    let mut value: &RawValue = serde_json::from_str(text).ok()?;
    for key in pointer.split('/').skip(1) {
        value = if value.get().starts_with('[') {
            let items: Vec<&RawValue> = serde_json::from_str(value.get()).ok()?;
            items.get(key.parse::<usize>().ok()?).copied()?
        } else {
            let entries: BTreeMap<String, &RawValue> = serde_json::from_str(value.get()).ok()?;
            entries.get(key).copied()?
        };
    }
    let start = value.get().as_ptr().addr() - text.as_ptr().addr();
    Some(start..start + value.get().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The state of numpy's PCG64: two integers of 128 bits.
    const STATE: &str = "{\n \"rng\": {\"state\": 213914190021264268166117096116393812427, \"inc\": 1},\n \
                         \"optimizer\": {\"groups\": [{\"lr\": 1e-3, \"betas\": [0.9, 0.999]},\t{\"lr\":0.1}]},\n \"x\": 1.0e0\n}\n";

    #[test]
    fn only_the_numbers_that_are_named_change_and_long_integers_keep_every_digit() {
        let edits = [
            ("/optimizer/groups/1/lr", "0.05".to_owned()),
            ("/optimizer/groups/0/betas/1", "0.95".to_owned()),
        ];
        let expected = STATE.replace("0.999", "0.95").replace("\"lr\":0.1", "\"lr\":0.05");
        assert_eq!(replaced(STATE, &edits), Some(expected));
        assert_eq!(replaced(STATE, &[]), Some(STATE.to_owned()));
    }

    #[test]
    fn what_is_not_there_is_not_written() {
        for pointer in ["/optimizer/groups/2/lr", "/nothing", "/x/y", "/optimizer/groups/lr"] {
            assert_eq!(replaced(STATE, &[(pointer, "1".to_owned())]), None, "{pointer}");
        }
    }
}
