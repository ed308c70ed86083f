//! Names that a file gives for other files: one plain component, resolved inside the checkpoint's directory.
//!
//! A path that was looked at may lead elsewhere when it is opened. What counts is therefore what was opened: the path is resolved
//! again behind that, and what lies there must be the file in hand. Where the system does not number its files (Windows), only the
//! path is looked at, before and behind.

use std::path::{Path, PathBuf};

use super::InputFile;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};

/// Opens `name` beside the files of `directory`.
///
/// # Errors
/// [`ErrorKind::PathEscapes`] when the name or a link of that name leads elsewhere, [`ErrorKind::ChangedWhileReading`] when it
/// led elsewhere while it was opened, and those of [`InputFile::open`].
pub fn open_sibling(directory: &Path, name: &str, context: &Context) -> Result<InputFile> {
    // Before anything is opened: opening a pipe or a device may already do something.
    let file = InputFile::open(&sibling(directory, name)?, context)?;
    refuse_outside(directory, &file)?;
    Ok(file)
}

/// Refuses a file that is open and does not lie in `directory`, wherever its path led before.
///
/// # Errors
/// As [`open_sibling`].
pub fn refuse_outside(directory: &Path, file: &InputFile) -> Result<()> {
    let path = file.path();
    let Some(target) = place_within(directory, path)? else {
        return Err(escapes(directory, &path.file_name().unwrap_or_default().to_string_lossy()));
    };
    // The place is no link, whatever the path is by now: another file there means that another one was opened.
    let there = std::fs::symlink_metadata(&target).map_err(|error| Error::io(path, "look at it", &error))?;
    if file.is_at(&there) { Ok(()) } else { Err(ErrorKind::ChangedWhileReading.in_file(path)) }
}

/// The path of `name` beside the files of `directory`.
///
/// `name` comes from an untrusted index. It must be one path component; a symbolic link is followed only when what
/// it points to lies in `directory`, or in the `blobs` folder of the same hub cache entry (`models--*/snapshots/*`
/// links every file into `models--*/blobs`).
///
/// # Errors
/// [`ErrorKind::PathEscapes`] when the name or the link leads elsewhere, [`ErrorKind::NotFound`] when nothing is there.
fn sibling(directory: &Path, name: &str) -> Result<PathBuf> {
    let plain = !name.is_empty()
        && name != "."
        && name != ".."
        && !name.contains(['/', '\\', '\0'])
        && name.as_bytes().get(1) != Some(&b':');
    if !plain {
        return Err(escapes(directory, name));
    }
    let path = directory.join(name);
    if lies_within(directory, &path)? { Ok(path) } else { Err(escapes(directory, name)) }
}

fn escapes(directory: &Path, name: &str) -> Error {
    ErrorKind::PathEscapes { name: name.to_owned() }.in_file(directory)
}

/// Whether what `path` leads to, by links or without, lies in `directory`, or in the `blobs` folder of the hub cache entry
/// that `directory` is a snapshot of.
///
/// # Errors
/// When one of the two cannot be resolved.
pub fn lies_within(directory: &Path, path: &Path) -> Result<bool> {
    place_within(directory, path).map(|place| place.is_some())
}

/// Where `path` leads to, if that lies in `directory`.
fn place_within(directory: &Path, path: &Path) -> Result<Option<PathBuf>> {
    let resolve = |path: &Path| path.canonicalize().map_err(|error| Error::io(path, "resolve it", &error));
    let (target, home) = (resolve(path)?, resolve(directory)?);
    let within = target.starts_with(&home) || hub_blobs(&home).is_some_and(|blobs| target.starts_with(blobs));
    Ok(within.then_some(target))
}

/// The `blobs` folder of the hub cache entry that `snapshot` belongs to.
fn hub_blobs(snapshot: &Path) -> Option<PathBuf> {
    let snapshots = snapshot.parent()?;
    let entry = snapshots.parent()?;
    let is_entry = snapshots.file_name()? == "snapshots"
        && entry.file_name()?.to_str().is_some_and(|name| name.starts_with("models--"));
    is_entry.then(|| entry.join("blobs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_one_component_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "C:x", "\\\\host\\share", "a\0b"] {
            let error = sibling(directory.path(), name).unwrap_err();
            assert!(matches!(error.kind, ErrorKind::PathEscapes { .. }), "{name:?}: {error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_followed_inside_the_directory_and_into_hub_blobs_only() {
        let root = tempfile::tempdir().unwrap();
        let snapshot = root.path().join("models--a--b/snapshots/main");
        let blobs = root.path().join("models--a--b/blobs");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(blobs.join("digest"), "x").unwrap();
        std::fs::write(root.path().join("outside"), "x").unwrap();
        std::os::unix::fs::symlink(blobs.join("digest"), snapshot.join("inside")).unwrap();
        std::os::unix::fs::symlink(root.path().join("outside"), snapshot.join("escape")).unwrap();
        assert!(sibling(&snapshot, "inside").is_ok());
        let error = sibling(&snapshot, "escape").unwrap_err();
        assert!(matches!(error.kind, ErrorKind::PathEscapes { .. }), "{error}");
    }

    #[cfg(unix)]
    fn link(to: &Path, at: &Path) {
        std::os::unix::fs::symlink(to, at).unwrap();
    }

    /// A directory with a file, and one outside of it.
    #[cfg(unix)]
    fn inside_and_outside() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("checkpoint");
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("inside"), "inside").unwrap();
        std::fs::write(root.path().join("outside"), "secret").unwrap();
        let outside = root.path().join("outside");
        (root, directory, outside)
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_changed_between_the_look_and_the_opening_is_refused() {
        let (_root, directory, outside) = inside_and_outside();
        let name = directory.join("name");
        link(&outside, &name);
        let opened = InputFile::open(&name, &Context::default()).unwrap();
        let error = refuse_outside(&directory, &opened).unwrap_err();
        assert!(matches!(error.kind, ErrorKind::PathEscapes { .. }), "{error}");
        // And one that leads back inside by the time that it is looked at again.
        std::fs::remove_file(&name).unwrap();
        link(&directory.join("inside"), &name);
        assert_eq!(refuse_outside(&directory, &opened).unwrap_err().kind, ErrorKind::ChangedWhileReading);
        let opened = InputFile::open(&name, &Context::default()).unwrap();
        assert_eq!(refuse_outside(&directory, &opened), Ok(()));
    }

    /// Somebody exchanges the link as fast as they can: what is opened is never the file outside.
    #[cfg(unix)]
    #[test]
    fn nothing_outside_is_read_however_a_link_is_exchanged() {
        use std::sync::atomic::{AtomicBool, Ordering};

        /// Ends the exchanges also where an assertion fails.
        struct Stop<'a>(&'a AtomicBool);

        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }

        let (_root, directory, outside) = inside_and_outside();
        let (name, stop) = (directory.join("name"), AtomicBool::new(false));
        link(&directory.join("inside"), &name);
        std::thread::scope(|scope| {
            let _stop = Stop(&stop);
            scope.spawn(|| {
                let targets = [&outside, &directory.join("inside")];
                for target in targets.into_iter().cycle() {
                    let new = directory.join("new");
                    link(target, &new);
                    std::fs::rename(&new, &name).unwrap();
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
            let (mut read, mut refused) = (0, 0);
            for _ in 0..100_000 {
                if read >= 500 && refused >= 500 {
                    break;
                }
                match open_sibling(&directory, "name", &Context::default()) {
                    Ok(file) => {
                        assert_eq!(file.bytes(0..6, &mut Vec::new()), Ok(&b"inside"[..]));
                        read += 1;
                    }
                    Err(_) => refused += 1,
                }
            }
            assert!(read > 0, "the file inside was never met");
        });
    }
}
