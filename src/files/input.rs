//! A file opened for reading: mapped or read in bounded pieces, and known to be the same file at the end.
//!
//! What had to be inflated stands in for a file: tensors are read from it like from any other.
//!
//! No file is held open between reads, so that a model may have more shards than a process may have descriptors: a map needs
//! none, and without one the file is opened for each read, and must be the one it was.

use std::fs::{File, Metadata, OpenOptions};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use memmap2::Mmap;

use super::map::map;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};

/// A regular file open for reading, or what a part of one inflated to.
#[derive(Debug)]
pub struct InputFile {
    path: PathBuf,
    length: u64,
    source: Source,
}

/// Where the bytes are.
#[derive(Debug)]
enum Source {
    Disk { map: Option<Mmap>, seen: Identity },
    Memory { bytes: Vec<u8>, origin: Arc<InputFile> },
}

/// What must not change while a file is read.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    length: u64,
    modified: Option<SystemTime>,
    #[cfg(unix)]
    inode: (u64, u64),
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self {
            length: metadata.len(),
            modified: metadata.modified().ok(),
            #[cfg(unix)]
            inode: {
                use std::os::unix::fs::MetadataExt;
                (metadata.dev(), metadata.ino())
            },
        }
    }
}

impl InputFile {
    /// Opens `path`, which must be a regular, non-empty file.
    ///
    /// # Errors
    /// Not found, not a regular file (a FIFO does not block), empty, or refused by the system.
    pub fn open(path: &Path, context: &Context) -> Result<Self> {
        let (file, metadata) = open(path)?;
        if !metadata.is_file() {
            let what = if metadata.is_dir() { "directory" } else { "device, pipe or socket" };
            return Err(ErrorKind::NotARegularFile { what }.in_file(path));
        }
        if metadata.len() == 0 {
            return Err(ErrorKind::EmptyFile.in_file(path));
        }
        let map = if context.mmap {
            Some(map(&file).map_err(|error| Error::io(path, "map it into memory (try --no-mmap)", &error))?)
        } else {
            None
        };
        let seen = Identity::of(&metadata);
        Ok(Self { path: path.to_owned(), length: seen.length, source: Source::Disk { map, seen } })
    }

    /// What a part of `origin` inflated to. The caller bounds its length.
    pub fn inflated(origin: &Arc<InputFile>, bytes: Vec<u8>) -> Self {
        Self {
            path: origin.path.clone(),
            length: bytes.len() as u64,
            source: Source::Memory { bytes, origin: origin.clone() },
        }
    }

    /// The path as it was opened; that of the origin for what was inflated.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length in bytes when it was opened. Nothing past it is ever touched.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether `there` are the facts of this file and of no other. Without numbers of files, none are told apart.
    pub(super) fn is_at(&self, there: &Metadata) -> bool {
        match &self.source {
            #[cfg(unix)]
            Source::Disk { seen, .. } => Identity::of(there).inode == seen.inode,
            #[cfg(not(unix))]
            Source::Disk { .. } => there.is_file(),
            Source::Memory { origin, .. } => origin.is_at(there),
        }
    }

    /// Never true of a file: an empty one is refused when it is opened.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// All bytes, where they can be borrowed.
    fn in_memory(&self) -> Option<&[u8]> {
        match &self.source {
            Source::Disk { map, .. } => map.as_deref(),
            Source::Memory { bytes, .. } => Some(bytes),
        }
    }

    /// The file that the bytes come from, opened again.
    ///
    /// A file that was replaced under its name counts as changed, although a map would still show the old one.
    fn reopen(&self) -> Result<File> {
        let seen = match &self.source {
            Source::Disk { seen, .. } => seen,
            Source::Memory { origin, .. } => return origin.reopen(),
        };
        match open(&self.path) {
            Ok((file, now)) if Identity::of(&now) == *seen => Ok(file),
            Err(error) if error.kind != ErrorKind::NotFound => Err(error),
            _ => Err(ErrorKind::ChangedWhileReading.in_file(&self.path)),
        }
    }

    /// The bytes of `range` where the file is mapped, or was inflated.
    pub fn mapped(&self, range: Range<u64>) -> Option<&[u8]> {
        self.in_memory()?.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
    }

    /// The bytes of `range`: borrowed from the map, or read into `buffer`. The caller bounds the length.
    pub fn bytes<'a>(&'a self, range: Range<u64>, buffer: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        if range.start > range.end || range.end > self.len() {
            let kind = ErrorKind::PastEndOfFile { needed: range.end, available: self.len() };
            return Err(kind.at_byte(&self.path, range.start));
        }
        if let Some(all) = self.in_memory() {
            return Ok(&all[range.start as usize..range.end as usize]);
        }
        buffer.resize((range.end - range.start) as usize, 0);
        self.read_exact_at(buffer, range.start)?;
        Ok(buffer)
    }

    /// Fills `buffer` from `offset`.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let end = offset.saturating_add(buffer.len() as u64);
        if end > self.len() {
            let kind = ErrorKind::PastEndOfFile { needed: end, available: self.len() };
            return Err(kind.at_byte(&self.path, offset));
        }
        if let Some(bytes) = self.mapped(offset..end) {
            buffer.copy_from_slice(bytes);
            return Ok(());
        }
        read_exact_at(&self.reopen()?, buffer, offset).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => ErrorKind::ChangedWhileReading.at_byte(&self.path, offset),
            _ => Error::io(&self.path, "read it", &error),
        })
    }

    /// Compares size, modification time and inode with those at opening.
    ///
    /// # Errors
    /// [`ErrorKind::ChangedWhileReading`] when what was measured may be a mixture of two files.
    pub fn check_unchanged(&self) -> Result<()> {
        self.reopen().map(|_| ())
    }
}

/// Opens `path` for reading; that of a FIFO nobody writes to does not block.
fn open(path: &Path) -> Result<(File, Metadata)> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(libc::O_NONBLOCK);
    }
    let file = options.open(path).map_err(|error| Error::io(path, "open it", &error))?;
    let metadata = file.metadata().map_err(|error| Error::io(path, "read its size", &error))?;
    Ok((file, metadata))
}

#[cfg(unix)]
fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => {
                buffer = &mut buffer[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_inflated_is_read_like_a_file_and_changes_with_its_origin() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("archive");
        std::fs::write(&path, b"deflated").unwrap();
        let origin = Arc::new(InputFile::open(&path, &Context::default()).unwrap());
        let inflated = InputFile::inflated(&origin, b"what it was".to_vec());
        assert_eq!((inflated.len(), inflated.path()), (11, path.as_path()));
        assert_eq!(inflated.bytes(8..11, &mut Vec::new()), Ok(&b"was"[..]));
        let mut end = [0; 4];
        let past = inflated.read_exact_at(&mut end, 8).unwrap_err();
        assert_eq!(past.kind, ErrorKind::PastEndOfFile { needed: 12, available: 11 });
        assert_eq!(inflated.check_unchanged(), Ok(()));
        std::fs::write(&path, b"deflated again").unwrap();
        assert_eq!(inflated.check_unchanged().unwrap_err().kind, ErrorKind::ChangedWhileReading);
    }

    fn open_with(path: &Path, mmap: bool) -> InputFile {
        InputFile::open(path, &Context { mmap, ..Context::default() }).unwrap()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn files_that_are_open_hold_no_descriptor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shard");
        std::fs::write(&path, b"bytes").unwrap();
        let files = [open_with(&path, true), open_with(&path, false)];
        let target = path.canonicalize().unwrap();
        let held = std::fs::read_dir("/proc/self/fd").unwrap();
        let held = held.filter(|entry| {
            std::fs::read_link(entry.as_ref().unwrap().path()).is_ok_and(|place| place == target)
        });
        assert_eq!(held.count(), 0);
        for file in files {
            assert_eq!(file.bytes(1..3, &mut Vec::new()), Ok(&b"yt"[..]));
        }
    }

    #[test]
    fn a_file_that_was_replaced_or_removed_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        for mmap in [true, false] {
            std::fs::write(&path, b"first").unwrap();
            let file = open_with(&path, mmap);
            let new = folder.path().join("new");
            std::fs::write(&new, b"other").unwrap();
            std::fs::rename(&new, &path).unwrap();
            assert_eq!(file.check_unchanged().unwrap_err().kind, ErrorKind::ChangedWhileReading);
            let read = file.bytes(0..1, &mut Vec::new()).map(<[u8]>::to_vec);
            assert_eq!(read.is_ok(), mmap, "{read:?}");
            std::fs::remove_file(&path).unwrap();
            assert_eq!(file.check_unchanged().unwrap_err().kind, ErrorKind::ChangedWhileReading);
        }
    }
}
