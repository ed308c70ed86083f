//! The kept measurements of the zoo: JSON, compressed with LZMA.

#![allow(dead_code, reason = "each test file uses a part")]

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use flashpoint::analysis::model::Analysis;
use lzma_rust2::LzmaReader;

/// The ending of a kept measurement.
pub const KEPT: &str = ".measured.json.lzma";

/// Memory that one may take to read, in KiB.
const MOST_KIB: u32 = 1 << 17;

/// The names of the runs whose measurements are kept in `directory`, in order.
pub fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("the zoo is there");
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            let name = entry.expect("it can be listed").file_name().to_string_lossy().into_owned();
            name.strip_suffix(KEPT).map(str::to_owned)
        })
        .collect();
    names.sort();
    names
}

/// What was measured of the run `name`.
pub fn read(directory: &Path, name: &str) -> Analysis {
    let path = directory.join(format!("{name}{KEPT}"));
    let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut text = Vec::new();
    LzmaReader::new_mem_limit(BufReader::new(file), MOST_KIB, None)
        .and_then(|mut reader| reader.read_to_end(&mut text))
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}
