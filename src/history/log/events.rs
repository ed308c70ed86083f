//! TensorBoard event files: TFRecord framing with masked CRC-32C, and of the protobuf only step, tag and scalar.

use std::sync::Arc;

use super::columns::Column;
use super::table::{Table, Value};
use crate::error::{ErrorKind, Result};
use crate::files::InputFile;

/// Larger records hold images or histograms and are passed over unread.
const MAX_RECORD: u64 = 1 << 20;

/// Bytes before the payload (length and its checksum) and behind it.
const HEADER: u64 = 12;
const FOOTER: u64 = 4;

/// The log, and why reading ended before the end of the file.
pub(super) struct Events {
    pub table: Table,
    pub ended: Option<&'static str>,
    /// Byte at which it ended.
    pub at: u64,
    /// Records whose own checksum is wrong, and the byte of the first: they were left out.
    pub damaged: u64,
    pub first_damaged: u64,
}

/// Reads every scalar.
///
/// A file whose writer is still running, or was killed, ends inside a record: what comes before is kept.
pub(super) fn read(file: &Arc<InputFile>, name: &str, choices: &[Column]) -> Result<Events> {
    let mut events = Events {
        table: Table::new(name, "tensorboard", choices),
        ended: None,
        at: 0,
        damaged: 0,
        first_damaged: 0,
    };
    let mut buffer = Vec::new();
    while events.at < file.len() {
        let left = file.len() - events.at;
        if left < HEADER {
            events.ended = Some("it ends in the middle of a record");
            break;
        }
        let mut header = [0; HEADER as usize];
        file.read_exact_at(&mut header, events.at)?;
        let (length, check) = header.split_at(8);
        if little_endian(check) != u64::from(masked_crc(length)) {
            events.ended = Some("the checksum of a record's length is wrong");
            break;
        }
        let length = little_endian(length);
        let needed = length.checked_add(HEADER + FOOTER);
        let Some(end) = needed.filter(|needed| *needed <= left).map(|needed| events.at + needed) else {
            events.ended = Some("it ends in the middle of a record");
            break;
        };
        if length <= MAX_RECORD {
            let payload = file.bytes(events.at + HEADER..end, &mut buffer)?;
            let (payload, check) = payload.split_at(length as usize);
            if little_endian(check) == u64::from(masked_crc(payload)) {
                event(payload, &mut events.table).map_err(|kind| kind.at_byte(file.path(), events.at))?;
            } else {
                // Its length is certain, so that the next record is too.
                if events.damaged == 0 {
                    events.first_damaged = events.at;
                }
                events.damaged += 1;
            }
        }
        events.at = end;
    }
    events.table.finish();
    Ok(events)
}

/// One event: its scalars are a row. What is not well-formed ends the event.
fn event(payload: &[u8], table: &mut Table) -> std::result::Result<(), ErrorKind> {
    let mut step = 0;
    let mut scalars: Vec<(String, f64)> = Vec::new();
    let mut message = Message(payload);
    while let Some((field, content)) = message.next() {
        match (field, content) {
            (2, Content::Varint(value)) => step = value,
            (5, Content::Bytes(summary)) => scalars.extend(summary_scalars(summary)),
            _ => {}
        }
    }
    if scalars.is_empty() {
        return Ok(());
    }
    table.cell("step", Value::Number(step as f64))?;
    for (tag, value) in scalars {
        table.cell(&tag, Value::Number(value))?;
    }
    table.end_row()
}

fn summary_scalars(summary: &[u8]) -> Vec<(String, f64)> {
    let mut scalars = Vec::new();
    let mut message = Message(summary);
    while let Some((field, content)) = message.next() {
        if let (1, Content::Bytes(value)) = (field, content) {
            scalars.extend(scalar(value));
        }
    }
    scalars
}

/// `Summary.Value`: a tag, and a `simple_value` or a tensor of one element.
fn scalar(value: &[u8]) -> Option<(String, f64)> {
    let (mut tag, mut number) = (None, None);
    let mut message = Message(value);
    while let Some((field, content)) = message.next() {
        match (field, content) {
            (1, Content::Bytes(text)) => tag = std::str::from_utf8(text).ok().map(str::to_owned),
            (2, Content::Four(bits)) => number = Some(f64::from(f32::from_bits(bits))),
            (8, Content::Bytes(tensor)) => number = tensor_scalar(tensor),
            _ => {}
        }
    }
    Some((tag?, number?))
}

/// A `TensorProto` of one f32 or f64, as content or in its typed list.
fn tensor_scalar(tensor: &[u8]) -> Option<f64> {
    let (mut dtype, mut content_bytes, mut typed) = (0, None, None);
    let mut message = Message(tensor);
    while let Some((field, content)) = message.next() {
        match (field, content) {
            (1, Content::Varint(value)) => dtype = value,
            (4, Content::Bytes(bytes)) => content_bytes = Some(bytes),
            (5, Content::Four(bits)) => typed = Some(f64::from(f32::from_bits(bits))),
            (5, Content::Bytes(bytes)) => typed = one_f32(bytes),
            (6, Content::Eight(bits)) => typed = Some(f64::from_bits(bits)),
            (6, Content::Bytes(bytes)) => typed = one_f64(bytes),
            _ => {}
        }
    }
    match (dtype, content_bytes) {
        (1, Some(bytes)) => one_f32(bytes),
        (2, Some(bytes)) => one_f64(bytes),
        (1 | 2, None) => typed,
        _ => None,
    }
}

fn one_f32(bytes: &[u8]) -> Option<f64> {
    bytes.try_into().ok().map(|bytes| f64::from(f32::from_le_bytes(bytes)))
}

fn one_f64(bytes: &[u8]) -> Option<f64> {
    bytes.try_into().ok().map(f64::from_le_bytes)
}

/// The fields of a protobuf message, as far as they are well-formed.
struct Message<'a>(&'a [u8]);

enum Content<'a> {
    Varint(u64),
    Four(u32),
    Eight(u64),
    Bytes(&'a [u8]),
}

impl<'a> Message<'a> {
    fn next(&mut self) -> Option<(u64, Content<'a>)> {
        let key = self.varint()?;
        let content = match key & 7 {
            0 => Content::Varint(self.varint()?),
            1 => Content::Eight(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let length = self.varint()?;
                Content::Bytes(self.take(usize::try_from(length).ok()?)?)
            }
            5 => Content::Four(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((key >> 3, content))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// CRC-32C, rotated and shifted, so that a checksum of data with checksums in it stays one (TFRecord).
fn masked_crc(bytes: &[u8]) -> u32 {
    let crc = !bytes
        .iter()
        .fold(!0, |crc: u32, byte| TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ (crc >> 8));
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), reflected.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { 0x82f6_3b78 ^ (crc >> 1) } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis_masked() {
        // RFC 3720, B.4: 32 bytes of zeros have 0x8a9136aa; "123456789" has 0xe3069283, the check value of the polynomial.
        let unmask = |masked: u32| masked.wrapping_sub(0xa282_ead8).rotate_left(15);
        assert_eq!(unmask(masked_crc(&[0; 32])), 0x8a91_36aa);
        assert_eq!(unmask(masked_crc(b"123456789")), 0xe306_9283);
    }

    #[test]
    fn a_scalar_is_a_simple_value_or_a_tensor_of_one() {
        let tag = b"\x0a\x04loss".to_vec();
        let simple = [tag.clone(), b"\x15".to_vec(), 2.5_f32.to_le_bytes().to_vec()].concat();
        assert_eq!(scalar(&simple), Some(("loss".to_owned(), 2.5)));
        let tensor = [b"\x08\x01\x12\x00\x22\x04".to_vec(), 0.5_f32.to_le_bytes().to_vec()].concat();
        let value = [tag.clone(), vec![0x42, tensor.len() as u8], tensor].concat();
        assert_eq!(scalar(&value), Some(("loss".to_owned(), 0.5)));
        let matrix = [b"\x08\x01\x22\x08".to_vec(), vec![0; 8]].concat();
        assert_eq!(scalar(&[tag, vec![0x42, matrix.len() as u8], matrix].concat()), None);
    }

    #[test]
    fn a_message_that_lies_about_its_lengths_ends() {
        for hostile in
            [&b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"[..], b"\x0a\x05a", b"\x80", b"\x0b", b"\xff"]
        {
            assert_eq!(scalar(hostile), None);
        }
    }
}
