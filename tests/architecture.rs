//! Holds every `use crate::…` in `src/` against the table of `docs/architecture.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What each room may import. A room may always import itself.
///
/// When an import is refused here, the question is which of the two is wrong: the import, or the table. The table is
/// changed in `docs/architecture.md` and here, in one commit that says why.
const MAY_USE: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("context", &[]),
    ("json", &[]),
    ("number", &[]),
    ("nearest", &[]),
    ("files", &["error", "context"]),
    ("tensor", &["error", "context", "files"]),
    ("format", &["error", "context", "files", "tensor"]),
    ("random", &[]),
    ("robust", &[]),
    ("parallel", &[]),
    ("compute", &["error", "context", "tensor", "random"]),
    ("checkpoint", &["error", "context", "files", "tensor", "format", "parallel"]),
    (
        "history",
        &["error", "context", "number", "files", "tensor", "format", "random", "robust", "checkpoint"],
    ),
    ("network", &["error", "nearest", "tensor", "checkpoint", "compute", "random"]),
    (
        "analysis",
        &[
            "error",
            "context",
            "json",
            "files",
            "tensor",
            "format",
            "checkpoint",
            "history",
            "random",
            "robust",
            "parallel",
            "compute",
            "network",
        ],
    ),
    ("rules", &["number", "nearest", "robust", "analysis::model"]),
    ("clip", &["number", "random", "robust", "parallel", "analysis::model", "analysis::series::clip"]),
    ("diagnosis", &["number", "robust", "analysis::model", "rules", "clip"]),
    ("gate", &["error", "context", "number", "files", "checkpoint", "analysis::model", "rules", "diagnosis"]),
    (
        "train",
        &[
            "error", "context", "random", "parallel", "files", "tensor", "format", "compute", "network",
            "clip",
        ],
    ),
    (
        "recover",
        &[
            "error",
            "context",
            "json",
            "nearest",
            "number",
            "files",
            "tensor",
            "format",
            "checkpoint",
            "history",
            "analysis",
            "rules",
            "diagnosis",
            "gate",
        ],
    ),
    (
        "report",
        &[
            "json",
            "number",
            "robust",
            "analysis::model",
            "rules",
            "clip",
            "diagnosis",
            "gate",
            "train",
            "recover",
        ],
    ),
    ("lib", &[]),
];

#[test]
fn every_import_between_rooms_is_in_the_table() {
    let may_use: BTreeMap<_, _> = MAY_USE.iter().copied().collect();
    let mut refused = Vec::new();
    for file in sources() {
        let room = room_of(&file);
        if room == "cli" || room == "main" {
            continue;
        }
        let allowed = may_use.get(room.as_str()).unwrap_or_else(|| panic!("{room} is not in the table"));
        for import in imports(&file) {
            let own = import.split("::").next() == Some(room.as_str());
            let covered =
                allowed.iter().any(|path| import == *path || import.starts_with(&format!("{path}::")));
            if !own && !covered {
                refused.push(format!("{}: crate::{import}", file.display()));
            }
        }
    }
    assert!(refused.is_empty(), "imports that the table does not allow:\n{}", refused.join("\n"));
}

#[test]
fn every_room_of_the_table_exists_and_stands_in_the_document() {
    let document = std::fs::read_to_string("docs/architecture.md").expect("docs/architecture.md is there");
    let rooms: BTreeSet<_> = sources().iter().map(|file| room_of(file)).collect();
    for (room, _) in MAY_USE {
        assert!(rooms.contains(*room), "{room} has no source");
        let named = *room == "lib"
            || document.contains(&format!("`{room}/`"))
            || document.contains(&format!("`{room}.rs`"));
        assert!(named, "{room} is not in docs/architecture.md");
    }
}

#[test]
fn the_binary_reaches_the_library_only_through_its_public_rooms() {
    let cli = sources().into_iter().filter(|file| room_of(file) == "cli");
    let inside = cli.filter(|file| !imports(file).is_empty()).collect::<Vec<_>>();
    assert!(
        inside.is_empty(),
        "the command line uses `flashpoint::…` and `super`, not `crate::…`: {inside:?}"
    );
}

#[test]
fn only_the_named_leaves_hold_unsafe_code() {
    let leaves = [
        "src/files/map.rs",
        "src/analysis/statistics/kernel/",
        "src/compute/cpu/lanes.rs",
        "src/compute/cuda/",
    ];
    for file in sources() {
        let text = std::fs::read_to_string(&file).expect("a listed file can be read");
        let path = file.to_string_lossy().replace('\\', "/");
        let allowed = leaves.iter().any(|leaf| path.starts_with(leaf));
        assert!(allowed || !text.contains("unsafe_code"), "{path} makes an exception from unsafe_code");
    }
}

/// A name that a checkpoint gives is opened by `files::open_sibling`, which looks at what was opened. The user's own path is not.
#[test]
fn files_of_a_checkpoint_are_opened_within_its_directory() {
    let own = Path::new("src/checkpoint/layout/single_file.rs");
    for file in sources().into_iter().filter(|file| room_of(file) == "checkpoint" && file != own) {
        let text = std::fs::read_to_string(&file).expect("a listed file can be read");
        let code = text.split("#[cfg(test)]\nmod tests {").next().expect("text before it");
        for opening in ["File::open(", "detect::read(", "fs::read(", "fs::read_to_string("] {
            assert!(!code.contains(opening), "{}: {opening} instead of open_sibling", file.display());
        }
    }
}

/// Crates that run once a command, and may be compiled for less than full speed; what is hot of ndarray is generic, and compiled with
/// our own. When matrixmultiply stood among them every product of matrices took ten times as long, and no other test saw it.
const NOT_HOT: [&str; 17] = [
    "anstream",
    "clap_builder",
    "clap_complete",
    "clap_mangen",
    "comfy-table",
    "console",
    "cudarc",
    "indicatif",
    "ndarray",
    "plotters",
    "png",
    "quick-xml",
    "rustix",
    "strsim",
    "toml",
    "toml_parser",
    "ttf-parser",
];

#[test]
fn only_crates_that_run_once_a_command_are_not_optimised() {
    let manifest = std::fs::read_to_string("Cargo.toml").unwrap();
    let packages = manifest.lines().filter_map(|line| line.strip_prefix("[profile.release.package."));
    let packages: Vec<&str> = packages.filter_map(|name| name.strip_suffix(']')).collect();
    assert!(packages.contains(&"cudarc"), "{packages:?}");
    let hot: Vec<_> = packages.into_iter().filter(|name| !NOT_HOT.contains(name)).collect();
    assert!(hot.is_empty(), "{hot:?}");
}

#[test]
fn main_fits_on_a_screen() {
    let lines = std::fs::read_to_string("src/main.rs").expect("src/main.rs is there").lines().count();
    assert!(lines <= 40, "src/main.rs has {lines} lines");
}

/// The room a source file belongs to: the folder under `src/`, or the file's own name.
fn room_of(file: &Path) -> String {
    let inside = file.strip_prefix("src").expect("sources lie under src");
    let first = inside.components().next().expect("a file has a name");
    Path::new(first.as_os_str()).file_stem().expect("a file has a stem").to_string_lossy().into_owned()
}

/// Every path that follows `crate::` in code, with `use crate::{a, b::c}` taken apart.
fn imports(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).expect("a listed file can be read");
    let code =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    for (start, _) in code.match_indices("crate::") {
        let rest = &code[start + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let group = group.split('}').next().unwrap_or_default();
            found.extend(group.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()));
        } else {
            let end =
                rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
            found.push(rest[..end].trim_end_matches(':').to_owned());
        }
    }
    found
}

fn sources() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::from("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("src can be listed") {
            let path = entry.expect("an entry of src can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

#[test]
fn every_constant_of_the_diagnosis_stands_in_its_page_with_its_value() {
    let page = std::fs::read_to_string("docs/postmortem.md").expect("docs/postmortem.md is there");
    let mut constants = 0;
    for file in
        sources().into_iter().filter(|file| room_of(file) == "diagnosis" && !file.ends_with("tests.rs"))
    {
        let text = std::fs::read_to_string(&file).expect("a listed file can be read");
        for line in text
            .lines()
            .filter_map(|line| line.strip_prefix("const ").or_else(|| line.strip_prefix("pub(super) const ")))
        {
            let (name, rest) = line.split_once(": ").expect("a constant has a type");
            let Some(value) = rest.split_once(" = ").and_then(|(_, value)| value.strip_suffix(';')) else {
                continue;
            };
            let row = format!("`{name}` | {} |", value.replace('_', ""));
            assert!(page.contains(&row), "{}: {row} is not in docs/postmortem.md", file.display());
            constants += 1;
        }
    }
    assert!(constants > 40, "only {constants} constants were found");
}
