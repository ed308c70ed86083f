//! Bytes of an archive that nothing in it accounts for.
//!
//! Every record of the directory accounts for its local header with name and extra field (where PyTorch puts the padding that
//! aligns storages), its data, and the descriptor behind it where that says what the directory says. Behind the directory stand
//! the records of zip64 and the end with its comment. What is left over no reader of the directory sees: a member that
//! the directory has lost, or whatever somebody put there.

use std::ops::Range;

use super::Member;
use crate::error::Result;
use crate::files::InputFile;

/// Where the directory and what follows it lie.
pub(super) struct End {
    /// First byte of the directory.
    pub directory: u64,
    /// First byte of its last record; of the directory where it has none.
    pub last: u64,
    /// First byte of the record at the end.
    pub record: u64,
    /// One past the comment of that record.
    pub behind: u64,
}

/// Bytes of a local header before its name.
const HEADER: u64 = 30;
/// Bytes of a record of the directory before its name.
const RECORD: u64 = 46;
/// Bytes of the zip64 locator, and of the zip64 end before what it may be extended by.
const LOCATOR: u64 = 20;
const END_64: u64 = 56;

/// The gaps of an archive, in order. `folders` are the headers of members without bytes.
pub(super) fn between(
    file: &InputFile,
    members: &[Member],
    folders: &[u64],
    end: &End,
) -> Result<Vec<Range<u64>>> {
    let mut taken = Vec::with_capacity(members.len() + folders.len() + 2);
    for member in members {
        taken.push(member.header..member.data.end + descriptor(file, member)?);
    }
    for &folder in folders {
        taken.push(folder..folder + header_length(file, folder)?);
    }
    taken.push(end.directory..directory_end(file, end)?);
    taken.push(zip64_start(file, end)..end.behind);
    taken.sort_unstable_by_key(|range| range.start);
    let mut gaps = Vec::new();
    let mut at = 0;
    for range in taken {
        if range.start > at {
            gaps.push(at..range.start);
        }
        at = at.max(range.end);
    }
    if at < file.len() {
        gaps.push(at..file.len());
    }
    Ok(gaps)
}

/// Whether a gap begins as a member does.
pub(super) fn is_member(file: &InputFile, gap: &Range<u64>) -> bool {
    super::word_at(file, gap.start) == Some(u32::from_le_bytes(*b"PK\x03\x04"))
}

fn half(bytes: &[u8], at: usize) -> u64 {
    u64::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

fn header_length(file: &InputFile, header: u64) -> Result<u64> {
    let mut fixed = [0; HEADER as usize];
    file.read_exact_at(&mut fixed, header)?;
    Ok(HEADER + half(&fixed, 26) + half(&fixed, 28))
}

/// Length of the descriptor behind a member: with a signature or without, of short sizes or long ones. 0 where there is none
/// that says what the directory says.
fn descriptor(file: &InputFile, member: &Member) -> Result<u64> {
    let mut flags = [0; 2];
    file.read_exact_at(&mut flags, member.header + 6)?;
    if u16::from_le_bytes(flags) & 8 == 0 {
        return Ok(0);
    }
    let compressed = member.data.end - member.data.start;
    let checksum = member.checksum.to_le_bytes();
    let short = [compressed as u32, member.size as u32].map(u32::to_le_bytes).concat();
    let long = [compressed, member.size].map(u64::to_le_bytes).concat();
    // Longest first: a short one is the beginning of none of them but by accident.
    let shapes: [[&[u8]; 3]; 4] = [
        [b"PK\x07\x08", &checksum, &long],
        [b"PK\x07\x08", &checksum, &short],
        [b"", &checksum, &long],
        [b"", &checksum, &short],
    ];
    let mut behind = [0; 24];
    let available = (file.len() - member.data.end).min(behind.len() as u64) as usize;
    file.read_exact_at(&mut behind[..available], member.data.end)?;
    let behind = &behind[..available];
    let found = shapes.iter().find(|parts| {
        let mut rest = Some(behind);
        parts.iter().for_each(|part| rest = rest.and_then(|rest| rest.strip_prefix(*part)));
        rest.is_some()
    });
    Ok(found.map_or(0, |parts| parts.iter().map(|part| part.len() as u64).sum()))
}

/// One past the last record of the directory.
fn directory_end(file: &InputFile, end: &End) -> Result<u64> {
    let mut at = end.last;
    while at + RECORD <= end.record {
        let mut fixed = [0; RECORD as usize];
        file.read_exact_at(&mut fixed, at)?;
        if !fixed.starts_with(b"PK\x01\x02") {
            break;
        }
        at += RECORD + half(&fixed, 28) + half(&fixed, 30) + half(&fixed, 32);
    }
    Ok(at.min(end.record))
}

/// First byte of the records of zip64 before the end, or of the end where there are none.
fn zip64_start(file: &InputFile, end: &End) -> u64 {
    let long = |at: u64| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).ok().map(|()| u64::from_le_bytes(bytes))
    };
    let is = |at: u64, signature: &[u8; 4]| super::word_at(file, at) == Some(u32::from_le_bytes(*signature));
    let Some(locator) = end.record.checked_sub(LOCATOR).filter(|&at| is(at, b"PK\x06\x07")) else {
        return end.record;
    };
    // Its own length counts what is behind the first twelve bytes.
    let start =
        locator.checked_sub(END_64).filter(|&at| is(at, b"PK\x06\x06") && long(at + 4) == Some(END_64 - 12));
    start.unwrap_or(locator)
}
