//! Writing a file so that a reader sees the old one or the new one, never half of either.

use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};

/// Writes `bytes` to a temporary sibling of `path`, syncs it, and renames it into place.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let refused = |error: &std::io::Error| Error::io(path, "write it", error);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    // Never through something that lies there already, such as a link to elsewhere.
    let created = std::fs::OpenOptions::new().write(true).create_new(true).open(&temporary);
    let written = created.and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.and_then(|()| std::fs::rename(&temporary, path)).map_err(|error| {
        // The temporary file is ours; failing to remove it must not hide why the write failed.
        let _ = std::fs::remove_file(&temporary);
        refused(&error)
    })
}
