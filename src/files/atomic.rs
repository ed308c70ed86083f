//! Writing a file so that a reader sees the old one or the new one, never half of either.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Names that are tried for the temporary file: what lies under one was left by a process that ended in between.
const MOST_NAMES: u64 = 16;

/// Tells the temporary files of this process apart.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Writes `bytes` to a temporary sibling of `path`, syncs it, and renames it into place.
///
/// # Errors
/// When the sibling cannot be made, written or renamed; `path` is then as it was, and nothing is left beside it.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let refused = |error: &std::io::Error| Error::io(path, "write it", error);
    let (temporary, mut file) = create_beside(path).map_err(|error| refused(&error))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.and_then(|()| std::fs::rename(&temporary, path)).map_err(|error| {
        // The temporary file is ours; failing to remove it must not hide why the write failed.
        let _ = std::fs::remove_file(&temporary);
        refused(&error)
    })
}

/// A new file beside `path`, and where it lies.
fn create_beside(path: &Path) -> std::io::Result<(PathBuf, File)> {
    let mut tried = 0;
    loop {
        let temporary = temporary(path, NEXT.fetch_add(1, Ordering::Relaxed));
        tried += 1;
        // Never through something that lies there already, such as a link to elsewhere.
        match File::options().write(true).create_new(true).open(&temporary) {
            Ok(file) => return Ok((temporary, file)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists && tried < MOST_NAMES => {}
            Err(error) => return Err(error),
        }
    }
}

fn temporary(path: &Path, number: u64) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}-{number}.tmp", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes the next `count` names of temporary files of `path`.
    fn take(path: &Path, count: u64) -> Vec<PathBuf> {
        let next = NEXT.load(Ordering::Relaxed);
        let names: Vec<PathBuf> = (next..next + count).map(|number| temporary(path, number)).collect();
        for name in &names {
            std::fs::write(name, "theirs").unwrap();
        }
        names
    }

    fn entries(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn what_lies_under_the_name_of_a_temporary_file_is_passed_over_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        let names = take(&path, 3);
        write_atomically(&path, b"ours").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"ours");
        assert!(names.iter().all(|name| std::fs::read(name).unwrap() == b"theirs"));
        assert_eq!(entries(folder.path()), 4);
    }

    #[test]
    fn a_write_that_finds_every_name_taken_removes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        // Other tests of this process may count on in between.
        let names = take(&path, 100 * MOST_NAMES);
        assert!(write_atomically(&path, b"ours").is_err());
        assert!(names.iter().all(|name| std::fs::read(name).unwrap() == b"theirs"));
        assert!(!path.exists());
    }

    #[test]
    fn a_write_that_cannot_be_put_into_place_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        std::fs::create_dir_all(path.join("full")).unwrap();
        assert!(write_atomically(&path, b"ours").is_err());
        assert_eq!(entries(folder.path()), 1);
    }
}
