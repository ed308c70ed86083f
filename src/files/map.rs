//! The one memory map.

use std::fs::File;

use memmap2::Mmap;

/// Maps `file` read-only.
///
/// A mapped file that another process truncates raises SIGBUS when the lost pages are touched; no check before or
/// after can rule that out, which is why `--no-mmap` exists.
#[expect(unsafe_code, reason = "mapping a file is inherently a promise about other processes")]
pub(super) fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is private and read-only and is never handed out mutably. What can still go wrong is another
    // process truncating or rewriting the file while it is mapped: the bytes seen may then change (they are only
    // ever parsed with bounds checks and decoded as numbers, for which every bit pattern is valid), or a lost page
    // raises SIGBUS and ends the process. The size, mtime and inode are compared before and after reading
    // (`InputFile::check_unchanged`), and the user's way out is `--no-mmap`.
    unsafe { Mmap::map(file) }
}
