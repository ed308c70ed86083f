//! Zip archives as a table of members, each with the place of its bytes in the file.
//!
//! The central directory is the authority, as it is for PyTorch: local headers only say where the data begins. An archive
//! that two readers could understand differently (two members of one name, overlapping members) is refused as a whole.

mod gaps;

use std::collections::HashMap;
use std::io::Read;
use std::ops::Range;

use flate2::read::DeflateDecoder;
use rawzip::{CompressionMethod, RangeReader, ReaderAt, ZipArchive, ZipFileHeaderRecord, ZipLocator};

use crate::context::Context;
use crate::error::{At, Error, ErrorKind, Result, ZipFault};
use crate::files::InputFile;
use crate::format::MAX_TENSORS;
use gaps::End;

/// The members of an archive.
#[derive(Debug)]
pub struct Archive {
    members: Vec<Member>,
    /// Places of the members, by name.
    by_name: Vec<u32>,
    /// Where the central directory begins.
    directory: u64,
    /// Bytes that nothing in the archive accounts for.
    uncovered: Vec<Range<u64>>,
    /// How many of them begin like a member: one that the directory has lost.
    lost: u64,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name, UTF-8 and relative.
    pub name: String,
    /// How it is compressed.
    pub method: Method,
    /// Its bytes in the file, compressed as they are.
    pub data: Range<u64>,
    /// Its length when it is not compressed.
    pub size: u64,
    /// CRC-32 by the directory; 0 where the writer computed none.
    pub checksum: u32,
    /// Where its local header starts.
    header: u64,
}

/// How a member is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Not at all.
    Stored,
    /// By deflate.
    Deflated,
    /// By something that is not read.
    Other(u16),
}

/// Most members of an archive: a storage for every tensor that is read, and as many others.
const MAX_MEMBERS: u64 = 2 * MAX_TENSORS;

/// Most bytes of all names together. Real ones have some twenty.
const MAX_NAME_BYTES: usize = 16 << 20;

/// Bytes that are checked or inflated at once.
const CHUNK: u64 = 1 << 20;

impl Archive {
    /// Reads the central directory of `file`.
    ///
    /// # Errors
    /// When there is none, or it describes an archive that could be read in more than one way.
    pub fn open(file: &InputFile) -> Result<Self> {
        let mut buffer = vec![0; rawzip::MAX_CENTRAL_DIRECTORY_RECORD_SIZE];
        let broken = |error: &rawzip::Error| {
            ErrorKind::ZipDirectory { message: error.to_string().to_lowercase() }.in_file(file.path())
        };
        let archive = ZipLocator::new()
            .locate_in_reader(Bytes(file), &mut buffer, file.len())
            .map_err(|(_, error)| broken(&error))?;
        let too_many = |what, limit| ErrorKind::TooMany { what, limit }.in_file(file.path());
        let (mut members, mut folders, mut records, mut name_bytes) = (Vec::new(), Vec::new(), 0, 0);
        let mut last = archive.directory_offset();
        let mut entries = archive.entries(&mut buffer);
        while let Some(record) = entries.next_entry().map_err(|error| broken(&error))? {
            records += 1;
            last = record.central_directory_offset();
            name_bytes += record.file_path().as_bytes().len();
            if records > MAX_MEMBERS {
                return Err(too_many("members", MAX_MEMBERS));
            }
            if name_bytes > MAX_NAME_BYTES {
                return Err(too_many("bytes of names of members", MAX_NAME_BYTES as u64));
            }
            // An entry that only stands for a directory has no bytes; one with bytes is a member, whatever its name ends in.
            if !record.is_dir() || record.compressed_size_hint() > 0 || record.uncompressed_size_hint() > 0 {
                members.push(member(file, &archive, &record)?);
            } else {
                folders.push(record.local_header_offset());
            }
        }
        let stated = archive.entries_hint();
        if records != stated {
            // Where its start is wrong, what is read as a directory may be the rest of one.
            let message = format!("it lists {records} members and states {stated}");
            return Err(ErrorKind::ZipDirectory { message }.in_file(file.path()));
        }
        let directory = archive.directory_offset();
        refuse_overlap(file, &members, directory)?;
        let end = End { directory, last, record: archive.eocd_offset(), behind: archive.end_offset() };
        let uncovered = gaps::between(file, &members, &folders, &end)?;
        for member in &members {
            if local_name(file, member.header)? != member.name.as_bytes() {
                return Err(fault(file, &member.name, ZipFault::TwoNames));
            }
        }
        let name = |position: u32| members[position as usize].name.as_str();
        let mut by_name: Vec<u32> = (0..members.len() as u32).collect();
        by_name.sort_unstable_by_key(|&position| name(position));
        if let Some(pair) = by_name.windows(2).find(|pair| name(pair[0]) == name(pair[1])) {
            return Err(fault(file, name(pair[0]), ZipFault::Duplicate));
        }
        let lost =
            uncovered.iter().filter(|gap| gaps::is_member(file, gap)).map(|gap| gap.end - gap.start).sum();
        Ok(Self { members, by_name, directory, uncovered, lost })
    }

    /// Every member, in the order of the directory.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Bytes that no member, header or record accounts for: between members, before the directory, behind the end.
    pub fn uncovered(&self) -> &[Range<u64>] {
        &self.uncovered
    }

    /// What is wrong with an archive whose directory has lost a member that is still there.
    pub fn lost_members(&self, file: &InputFile) -> Option<Error> {
        let kind = ErrorKind::UncoveredBytes { bytes: self.lost };
        (self.lost > 0).then(|| {
            kind.at_byte(
                file.path(),
                self.uncovered.iter().find(|gap| gaps::is_member(file, gap)).map_or(0, |gap| gap.start),
            )
        })
    }

    /// The member of that name.
    pub fn member(&self, name: &str) -> Option<&Member> {
        let member = |position: u32| &self.members[position as usize];
        let found = self.by_name.binary_search_by_key(&name, |&position| member(position).name.as_str());
        found.ok().map(|place| member(self.by_name[place]))
    }

    /// Where the checksum of every member that has one is written: in the directory, and in its header or behind its data.
    ///
    /// # Errors
    /// When a place does not hold the checksum that it should: the archive is one that no writer of PyTorch's makes.
    pub fn checksum_places(&self, file: &InputFile) -> Result<HashMap<String, [u64; 2]>> {
        const RECORD: u64 = 46;
        let mut places = HashMap::with_capacity(self.members.len());
        let mut at = self.directory;
        while places.len() < self.members.len() {
            let mut fixed = [0; RECORD as usize];
            file.read_exact_at(&mut fixed, at)?;
            if !fixed.starts_with(b"PK\x01\x02") {
                let message = "it is not where its end says".to_owned();
                return Err(ErrorKind::ZipDirectory { message }.at_byte(file.path(), at));
            }
            let half = |start: usize| u64::from(u16::from_le_bytes([fixed[start], fixed[start + 1]]));
            let mut name = vec![0; half(28) as usize];
            file.read_exact_at(&mut name, at + RECORD)?;
            if let Some(member) = std::str::from_utf8(&name).ok().and_then(|name| self.member(name)) {
                let behind = member.behind_or_in_header(file)?;
                let both = [at + 16, behind];
                if both.iter().any(|&place| word_at(file, place) != Some(member.checksum)) {
                    return Err(fault(file, &member.name, ZipFault::NotThere));
                }
                places.insert(member.name.clone(), both);
            }
            at += RECORD + half(28) + half(30) + half(32);
        }
        Ok(places)
    }

    /// Compares every member's bytes with its checksum, and says which differ. A checksum of 0 is none.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn verify_checksums(&self, file: &InputFile, context: &Context) -> Result<Vec<Error>> {
        let mut damaged = Vec::new();
        for member in self.members.iter().filter(|member| member.checksum != 0) {
            if context.cancelled() {
                break;
            }
            if let Err(error) = member.verify(file) {
                match error.kind {
                    ErrorKind::ZipChecksum { .. } | ErrorKind::ZipMember { .. } => damaged.push(error),
                    _ => return Err(error),
                }
            }
        }
        Ok(damaged)
    }
}

impl Member {
    /// The member's bytes as they were before compression, at most `limit` of them: borrowed from the map where they
    /// are stored, else in `buffer`.
    ///
    /// # Errors
    /// When it is larger than `limit`, compressed by another method, or does not inflate to its declared size.
    pub fn contents<'a>(&self, file: &'a InputFile, limit: u64, buffer: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        if self.size > limit {
            let kind = ErrorKind::TooLarge { what: "a member of the archive", actual: self.size, limit };
            return Err(kind.in_file(file.path()).at(At::Member(self.name.clone(), 0)));
        }
        match self.method {
            Method::Stored => file.bytes(self.data.clone(), buffer),
            Method::Deflated => {
                buffer.clear();
                // One byte more than declared is enough to see that the declaration lies.
                let read = self.inflated(file).take(self.size + 1).read_to_end(buffer);
                if read.is_err() || buffer.len() as u64 != self.size {
                    return Err(fault(file, &self.name, ZipFault::Inflate));
                }
                Ok(buffer)
            }
            Method::Other(method) => Err(fault(file, &self.name, ZipFault::Method(method))),
        }
    }

    /// Where its checksum is written beside the directory: behind the data, where the header says that it was not known before.
    fn behind_or_in_header(&self, file: &InputFile) -> Result<u64> {
        let mut flags = [0; 2];
        file.read_exact_at(&mut flags, self.header + 6)?;
        if u16::from_le_bytes(flags) & 8 == 0 {
            return Ok(self.header + 14);
        }
        let has_signature = word_at(file, self.data.end) == Some(u32::from_le_bytes(*b"PK\x07\x08"));
        Ok(self.data.end + if has_signature { 4 } else { 0 })
    }

    /// Compares `contents`, the whole member, with its checksum. A checksum of 0 is none.
    ///
    /// # Errors
    /// [`ErrorKind::ZipChecksum`] where they differ.
    pub fn check(&self, file: &InputFile, contents: &[u8]) -> Result<()> {
        let mut crc = flate2::Crc::new();
        crc.update(contents);
        self.compare(file, crc.sum())
    }

    /// Reads the member through and compares its checksum.
    fn verify(&self, file: &InputFile) -> Result<()> {
        let mut reader: Box<dyn Read> = match self.method {
            Method::Stored => Box::new(RangeReader::new(Bytes(file), self.data.clone())),
            Method::Deflated => Box::new(self.inflated(file).take(self.size)),
            Method::Other(method) => return Err(fault(file, &self.name, ZipFault::Method(method))),
        };
        let mut crc = flate2::Crc::new();
        let mut chunk = vec![0; self.size.min(CHUNK) as usize];
        loop {
            match reader.read(&mut chunk) {
                Ok(0) => return self.compare(file, crc.sum()),
                Ok(length) => crc.update(&chunk[..length]),
                Err(_) => return Err(fault(file, &self.name, ZipFault::Inflate)),
            }
        }
    }

    fn compare(&self, file: &InputFile, actual: u32) -> Result<()> {
        if self.checksum == 0 || self.checksum == actual {
            return Ok(());
        }
        let kind = ErrorKind::ZipChecksum { name: self.name.clone(), expected: self.checksum, actual };
        Err(kind.at_byte(file.path(), self.data.start))
    }

    fn inflated<'a>(&self, file: &'a InputFile) -> DeflateDecoder<RangeReader<Bytes<'a>>> {
        DeflateDecoder::new(RangeReader::new(Bytes(file), self.data.clone()))
    }
}

/// One record of the directory, checked, with the place of its data.
fn member(
    file: &InputFile,
    archive: &ZipArchive<Bytes<'_>>,
    record: &ZipFileHeaderRecord<'_>,
) -> Result<Member> {
    let raw = record.file_path();
    let name = String::from_utf8_lossy(raw.as_bytes()).into_owned();
    if std::str::from_utf8(raw.as_bytes()).is_err() || !is_safe(&name) {
        return Err(fault(file, &name, ZipFault::UnsafeName));
    }
    if record.flags().is_encrypted() || record.flags().has_strong_encryption() {
        return Err(fault(file, &name, ZipFault::Encrypted));
    }
    let method = match record.compression_method() {
        CompressionMethod::STORE => Method::Stored,
        CompressionMethod::DEFLATE => Method::Deflated,
        other => Method::Other(other.as_u16()),
    };
    let size = record.uncompressed_size_hint();
    if method == Method::Stored && size != record.compressed_size_hint() {
        return Err(fault(file, &name, ZipFault::Sizes));
    }
    let entry = archive.get_entry(record.wayfinder()).map_err(|_| fault(file, &name, ZipFault::NotThere))?;
    let (start, end) = entry.compressed_data_range();
    if end > file.len() {
        return Err(fault(file, &name, ZipFault::NotThere));
    }
    Ok(Member {
        name,
        method,
        data: start..end,
        size,
        checksum: record.crc32(),
        header: record.local_header_offset(),
    })
}

/// The little-endian number of four bytes at `offset`; `None` past the end.
fn word_at(file: &InputFile, offset: u64) -> Option<u32> {
    let mut word = [0; 4];
    file.read_exact_at(&mut word, offset).ok()?;
    Some(u32::from_le_bytes(word))
}

/// The name in the local header at `offset`, which readers of streams go by.
fn local_name(file: &InputFile, offset: u64) -> Result<Vec<u8>> {
    const FIXED: u64 = 30;
    let mut fixed = [0; FIXED as usize];
    file.read_exact_at(&mut fixed, offset)?;
    let mut name = vec![0; usize::from(u16::from_le_bytes([fixed[26], fixed[27]]))];
    file.read_exact_at(&mut name, offset + FIXED)?;
    Ok(name)
}

/// A relative name that stays in the archive, on every system.
fn is_safe(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('/')
        && !name.contains(['\\', '\0'])
        && name.split('/').all(|part| part != ".." && part != ".")
}

/// Two members that share bytes are how small archives claim to be huge ones.
fn refuse_overlap(file: &InputFile, members: &[Member], directory: u64) -> Result<()> {
    let mut order = (0..members.len()).collect::<Vec<_>>();
    order.sort_by_key(|&position| members[position].header);
    let ends = order.iter().skip(1).map(|&next| members[next].header).chain([directory]);
    for (&position, next) in order.iter().zip(ends) {
        if members[position].data.end > next {
            return Err(fault(file, &members[position].name, ZipFault::Overlap));
        }
    }
    Ok(())
}

fn fault(file: &InputFile, name: &str, fault: ZipFault) -> Error {
    ErrorKind::ZipMember { name: name.to_owned(), fault }.in_file(file.path())
}

/// A file as the zip crate reads it: nothing past its end.
struct Bytes<'a>(&'a InputFile);

impl ReaderAt for Bytes<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let available = self.0.len().saturating_sub(offset).min(buffer.len() as u64) as usize;
        if available > 0 {
            let read = self.0.read_exact_at(&mut buffer[..available], offset);
            read.map_err(|error| std::io::Error::other(error.kind.to_string()))?;
        }
        Ok(available)
    }
}
