//! PyTorch archives: numbers of the pickle over the opcodes that hold them, and the checksums of the members that changed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use super::super::edit::{NumberAt, NumberEdit};
use super::write_at;
use crate::error::{Error, ErrorKind, Result};
use crate::files::InputFile;
use crate::format::zip::{Archive, Member, Method};
use crate::format::{Node, NodeId, Objects, Span, pickle};

/// Bytes whose checksum is computed at once.
const WINDOW: usize = 1 << 20;

/// Writes the new values over the old ones. Nothing is moved: a number that does not fit its opcode is refused.
pub(super) fn write_numbers(
    input: &InputFile,
    numbers: &[&NumberEdit],
    file: &File,
    target: &Path,
) -> Result<()> {
    let pickled: Vec<(&NumberEdit, u32, u32)> = numbers
        .iter()
        .filter_map(|number| match number.at {
            NumberAt::Pickled { start, end, .. } => Some((*number, start, end)),
            _ => None,
        })
        .collect();
    if pickled.is_empty() {
        return Ok(());
    }
    let refuse = |message: String| ErrorKind::NotEditable { message }.in_file(input.path());
    let archive = Archive::open(input)?;
    let member = pickle_of(&archive).ok_or_else(|| refuse("it has no pickle".to_owned()))?;
    if member.method != Method::Stored {
        return Err(refuse("its pickle is compressed".to_owned()));
    }
    let mut buffer = Vec::new();
    let bytes = input.bytes(member.data.clone(), &mut buffer)?;
    let objects = pickle::read(bytes, input.len()).objects;
    let uses = uses(&objects);
    for (number, start, end) in pickled {
        let span = Span { start, end };
        if uses.get(&span_key(span)).is_none_or(|count| *count != 1) {
            return Err(refuse(format!("{} is a number that stands in several places at once", number.name)));
        }
        let old = bytes.get(start as usize..end as usize).unwrap_or_default();
        let new = opcode(old, number.to).ok_or_else(|| {
            refuse(format!(
                "{} is written in {} bytes as {}, where {} does not fit",
                number.name,
                old.len(),
                if old.first() == Some(&b'G') { "a float" } else { "an integer" },
                number.to
            ))
        })?;
        write_at(file, target, &new, member.data.start + u64::from(start))?;
    }
    Ok(())
}

fn span_key(span: Span) -> (u32, u32) {
    (span.start, span.end)
}

/// How many containers hold the number of each span.
fn uses(objects: &Objects) -> HashMap<(u32, u32), u64> {
    let mut uses = HashMap::new();
    let mut note = |id: NodeId| {
        if matches!(objects.node(id), Node::Int(_) | Node::Float(_)) {
            *uses.entry(span_key(objects.spans[id])).or_insert(0u64) += 1;
        }
    };
    for node in &objects.nodes {
        match node {
            Node::List(items) | Node::Tuple(items) | Node::Set(items) => {
                items.iter().copied().for_each(&mut note);
            }
            Node::Dict(entries) => entries.iter().for_each(|&(key, value)| {
                note(key);
                note(value);
            }),
            Node::Object(object) => {
                object.items.iter().copied().for_each(&mut note);
                object.entries.iter().for_each(|&(key, value)| {
                    note(key);
                    note(value);
                });
            }
            _ => {}
        }
    }
    uses
}

/// `value` in the bytes of `old`, an opcode and its argument; `None` where it does not fit.
fn opcode(old: &[u8], value: f64) -> Option<Vec<u8>> {
    let whole = (value.fract() == 0.0 && value.abs() < 9e15).then_some(value as i64);
    let new = match (old.first()?, old.len()) {
        (b'G', 9) => [&b"G"[..], &value.to_be_bytes()].concat(),
        (b'K', 2) => vec![b'K', u8::try_from(whole?).ok()?],
        (b'M', 3) => [&b"M"[..], &u16::try_from(whole?).ok()?.to_le_bytes()].concat(),
        (b'J', 5) => [&b"J"[..], &i32::try_from(whole?).ok()?.to_le_bytes()].concat(),
        (0x8a, length) if length > 2 && usize::from(old[1]) == length - 2 => {
            let bytes = i128::from(whole?).to_le_bytes();
            let kept = bytes.get(..length - 2)?;
            let sign = if whole? < 0 { 0xff } else { 0 };
            let fits = bytes[length - 2..].iter().all(|byte| *byte == sign)
                && (kept.last()? & 0x80 != 0) == (sign != 0);
            if !fits {
                return None;
            }
            [&old[..2], kept].concat()
        }
        _ => return None,
    };
    Some(new)
}

fn pickle_of(archive: &Archive) -> Option<&Member> {
    archive.members().iter().find(|member| member.name.ends_with("/data.pkl"))
}

/// Computes the checksums of the members that hold any of `touched`, and of the pickle where `pickle` was changed.
pub(super) fn write_checksums(
    input: &InputFile,
    touched: &[Range<u64>],
    pickle: bool,
    file: &File,
    target: &Path,
) -> Result<()> {
    let archive = Archive::open(input)?;
    let places = archive.checksum_places(input)?;
    let is_pickle =
        |member: &Member| pickle && pickle_of(&archive).is_some_and(|own| own.name == member.name);
    let is_touched = |member: &Member| {
        touched.iter().any(|range| range.start < member.data.end && range.end > member.data.start)
    };
    for member in archive.members() {
        // Without a checksum there is none to keep.
        if member.checksum == 0 || !(is_touched(member) || is_pickle(member)) {
            continue;
        }
        let checksum = checksum(file, target, &member.data)?;
        for place in places.get(&member.name).into_iter().flatten() {
            write_at(file, target, &checksum.to_le_bytes(), *place)?;
        }
    }
    Ok(())
}

fn checksum(mut file: &File, target: &Path, range: &Range<u64>) -> Result<u32> {
    let refused = |error: std::io::Error| Error::io(target, "read it", &error);
    file.seek(SeekFrom::Start(range.start)).map_err(refused)?;
    let mut crc = flate2::Crc::new();
    let mut left = range.end - range.start;
    let mut chunk = vec![0; WINDOW];
    while left > 0 {
        let take = left.min(WINDOW as u64) as usize;
        file.read_exact(&mut chunk[..take]).map_err(refused)?;
        crc.update(&chunk[..take]);
        left -= take as u64;
    }
    Ok(crc.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_keeps_the_length_of_its_opcode_or_is_refused() {
        let half = opcode(b"G\x3f\xf0\0\0\0\0\0\0", 0.5).unwrap();
        assert_eq!(half, b"G\x3f\xe0\0\0\0\0\0\0");
        assert_eq!(opcode(b"K\x05", 0.0).unwrap(), b"K\0");
        assert_eq!(opcode(b"K\x05", 256.0), None);
        assert_eq!(opcode(b"K\x05", 0.5), None);
        assert_eq!(opcode(b"M\x90\x01", 0.0).unwrap(), b"M\0\0");
        assert_eq!(opcode(b"J\0\0\x01\0", -1.0).unwrap(), b"J\xff\xff\xff\xff");
        assert_eq!(opcode(b"\x8a\x03\0\0\x01", 0.0).unwrap(), b"\x8a\x03\0\0\0");
        assert_eq!(opcode(b"\x8a\x01\x05", 128.0), None, "a byte of 128 is a negative number");
        assert_eq!(opcode(b"I400\n", 0.0), None);
    }
}
