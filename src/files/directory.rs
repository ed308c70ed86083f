//! A directory, or a large file, that comes into being whole: written beside its name, synced, renamed.
//!
//! Whoever is killed in between leaves a hidden `.NAME.….tmp` that no reader takes for anything, and nothing under the name.

use std::fs::File;
use std::io::{BufWriter, ErrorKind as IoErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// Names that are tried: what lies under one was left by a process that was killed.
const MOST_NAMES: u64 = 16;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A directory that has no name yet. Dropped without [`NewDirectory::publish`], it is gone.
#[derive(Debug)]
pub struct NewDirectory {
    target: PathBuf,
    /// What is removed in the end, with the new directory in it under its final name.
    outer: PathBuf,
    inner: PathBuf,
}

/// A file that has no name yet. Dropped without [`NewFile::publish`], it is gone.
#[derive(Debug)]
pub struct NewFile {
    target: PathBuf,
    temporary: PathBuf,
    writer: BufWriter<File>,
}

/// Refuses a name under which something is.
///
/// # Errors
/// [`ErrorKind::AlreadyThere`].
pub fn refuse_existing(target: &Path) -> Result<()> {
    match std::fs::symlink_metadata(target) {
        Ok(_) => Err(ErrorKind::AlreadyThere.in_file(target)),
        Err(error) if error.kind() == IoErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(target, "look at it", &error)),
    }
}

impl NewDirectory {
    /// An empty directory that is to become `target`. Directories above it are made.
    ///
    /// # Errors
    /// When something is there already, or nothing can be written beside it.
    pub fn beside(target: &Path) -> Result<Self> {
        refuse_existing(target)?;
        let parent = parent(target);
        std::fs::create_dir_all(parent).map_err(|error| Error::io(parent, "make it", &error))?;
        let name = target.file_name().ok_or_else(|| ErrorKind::AlreadyThere.in_file(target))?;
        let outer = free_name(target, |path| std::fs::create_dir(path))?;
        let new = Self { target: target.to_owned(), inner: outer.join(name), outer };
        std::fs::create_dir(&new.inner).map_err(|error| Error::io(target, "write it", &error))?;
        Ok(new)
    }

    /// Where to write what is to be in it.
    pub fn path(&self) -> &Path {
        &self.inner
    }

    /// Syncs everything in it and gives it its name.
    ///
    /// # Errors
    /// When that fails, or something has come to be there; then nothing is left behind.
    pub fn publish(self) -> Result<()> {
        sync(&self.inner)?;
        refuse_existing(&self.target)?;
        std::fs::rename(&self.inner, &self.target)
            .map_err(|error| Error::io(&self.target, "give it its name", &error))?;
        let parent = parent(&self.target);
        open_and_sync(parent)
    }
}

impl Drop for NewDirectory {
    fn drop(&mut self) {
        // What cannot be removed is hidden, and taken for unfinished by every reader.
        let _ = std::fs::remove_dir_all(&self.outer);
    }
}

impl NewFile {
    /// An empty file that is to become `target`.
    ///
    /// # Errors
    /// When something is there already, or nothing can be written beside it.
    pub fn beside(target: &Path) -> Result<Self> {
        refuse_existing(target)?;
        let mut made = None;
        let temporary = free_name(target, |path| {
            made = Some(File::options().write(true).create_new(true).open(path)?);
            Ok(())
        })?;
        let file = made.expect("a free name was made into a file");
        Ok(Self { target: target.to_owned(), temporary, writer: BufWriter::with_capacity(1 << 20, file) })
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).map_err(|error| Error::io(&self.target, "write it", &error))
    }

    /// Syncs it and gives it its name.
    ///
    /// # Errors
    /// When that fails, or something has come to be there; then nothing is left behind.
    pub fn publish(mut self) -> Result<()> {
        let refused = |error: &std::io::Error| Error::io(&self.target, "write it", error);
        self.writer.flush().map_err(|error| refused(&error))?;
        self.writer.get_ref().sync_all().map_err(|error| refused(&error))?;
        refuse_existing(&self.target)?;
        std::fs::rename(&self.temporary, &self.target).map_err(|error| refused(&error))?;
        open_and_sync(parent(&self.target))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // Gone already where it was given its name.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Has `make` create something under a hidden name beside `target`, one that is free.
fn free_name(target: &Path, mut make: impl FnMut(&Path) -> std::io::Result<()>) -> Result<PathBuf> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let mut tried = 0;
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = target.with_file_name(format!(".{name}.{}-{number}.tmp", std::process::id()));
        tried += 1;
        match make(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == IoErrorKind::AlreadyExists && tried < MOST_NAMES => {}
            Err(error) => return Err(Error::io(target, "write beside it", &error)),
        }
    }
}

/// Syncs every file and directory below `folder`, and itself.
fn sync(folder: &Path) -> Result<()> {
    let refused = |path: &Path, error: &std::io::Error| Error::io(path, "sync it", error);
    for entry in std::fs::read_dir(folder).map_err(|error| refused(folder, &error))? {
        let path = entry.map_err(|error| refused(folder, &error))?.path();
        if path.is_dir() {
            sync(&path)?;
        } else {
            open_and_sync(&path)?;
        }
    }
    open_and_sync(folder)
}

fn open_and_sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| Error::io(path, "sync it", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_directory_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a/checkpoint-4");
        let new = NewDirectory::beside(&target).unwrap();
        std::fs::write(new.path().join("x"), "1").unwrap();
        assert!(!target.exists());
        drop(new);
        assert_eq!(names(&folder.path().join("a")), Vec::<String>::new());
        let new = NewDirectory::beside(&target).unwrap();
        std::fs::write(new.path().join("x"), "2").unwrap();
        new.publish().unwrap();
        assert_eq!(std::fs::read(target.join("x")).unwrap(), b"2");
        assert_eq!(names(&folder.path().join("a")), ["checkpoint-4"]);
    }

    #[test]
    fn what_is_there_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("there");
        let early = (NewDirectory::beside(&target).unwrap(), NewFile::beside(&target).unwrap());
        std::fs::write(&target, "theirs").unwrap();
        assert_eq!(NewDirectory::beside(&target).unwrap_err().kind, ErrorKind::AlreadyThere);
        assert_eq!(NewFile::beside(&target).unwrap_err().kind, ErrorKind::AlreadyThere);
        assert_eq!(early.0.publish().unwrap_err().kind, ErrorKind::AlreadyThere);
        assert_eq!(early.1.publish().unwrap_err().kind, ErrorKind::AlreadyThere);
        assert_eq!(names(folder.path()), ["there"]);
        assert_eq!(std::fs::read(&target).unwrap(), b"theirs");
    }
}
