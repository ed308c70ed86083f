//! Names that a file gives for other files: one plain component, resolved inside the checkpoint's directory.

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// The path of `name` beside the files of `directory`.
///
/// `name` comes from an untrusted index. It must be one path component; a symbolic link is followed only when what
/// it points to lies in `directory`, or in the `blobs` folder of the same hub cache entry (`models--*/snapshots/*`
/// links every file into `models--*/blobs`).
///
/// # Errors
/// [`ErrorKind::PathEscapes`] when the name or the link leads elsewhere, [`ErrorKind::NotFound`] when nothing is there.
pub fn sibling(directory: &Path, name: &str) -> Result<PathBuf> {
    let escapes = || ErrorKind::PathEscapes { name: name.to_owned() }.in_file(directory);
    let plain = !name.is_empty()
        && name != "."
        && name != ".."
        && !name.contains(['/', '\\', '\0'])
        && name.as_bytes().get(1) != Some(&b':');
    if !plain {
        return Err(escapes());
    }
    let path = directory.join(name);
    if lies_within(directory, &path)? { Ok(path) } else { Err(escapes()) }
}

/// Whether what `path` leads to, by links or without, lies in `directory`, or in the `blobs` folder of the hub cache entry
/// that `directory` is a snapshot of.
///
/// # Errors
/// When one of the two cannot be resolved.
pub fn lies_within(directory: &Path, path: &Path) -> Result<bool> {
    let resolve = |path: &Path| path.canonicalize().map_err(|error| Error::io(path, "resolve it", &error));
    let (target, home) = (resolve(path)?, resolve(directory)?);
    Ok(target.starts_with(&home) || hub_blobs(&home).is_some_and(|blobs| target.starts_with(blobs)))
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
}
