//! The digest of a file: BLAKE3 of all its bytes.

use super::InputFile;
use crate::context::Context;
use crate::error::Result;

/// Bytes held and hashed between two looks at whether the user asked to stop: every file in flight holds as many, and the cores
/// share out no less than an eighth of a megabyte.
const WINDOW: u64 = 4 << 20;

/// BLAKE3 of all bytes of `file`, in hexadecimal, over all cores. `None` when the user asked to stop.
///
/// # Errors
/// When it cannot be read any more.
pub fn digest(file: &InputFile, context: &Context) -> Result<Option<String>> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = Vec::new();
    let mut start = 0;
    while start < file.len() {
        if context.cancelled() {
            return Ok(None);
        }
        let end = file.len().min(start.saturating_add(WINDOW));
        hasher.update_rayon(file.bytes(start..end, &mut buffer)?);
        start = end;
    }
    Ok(Some(hasher.finalize().to_hex().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_the_reference_with_and_without_a_map() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, b"abc").unwrap();
        for mmap in [true, false] {
            let context = Context { mmap, ..Context::default() };
            let file = InputFile::open(&path, &context).unwrap();
            // Of `printf abc | b3sum`.
            let expected = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
            assert_eq!(digest(&file, &context).unwrap().as_deref(), Some(expected));
        }
    }

    #[test]
    fn who_asked_to_stop_gets_no_digest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, b"abc").unwrap();
        let context = Context::default();
        let file = InputFile::open(&path, &context).unwrap();
        context.cancel.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(digest(&file, &context).unwrap(), None);
    }
}
