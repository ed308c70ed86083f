//! Members of an archive that PyTorch writes no such names for: nobody loads them by accident, and whoever hides something
//! puts it there. Their bytes belong to no tensor, and those that are pickles are searched for what they name.

use std::ops::Range;

use super::{has_constants, in_pickle, longest_pickle};
use crate::error::{At, Error, ErrorKind};
use crate::files::InputFile;
use crate::format::pickle::{self, Pickle};
use crate::format::zip::{Archive, Member, Method};
use crate::format::{GlobalUse, torch::legacy};

/// Bytes of all members together that are looked into, inflated: so many, and so many more for each byte of the file. The rest is said not to
/// have been.
const LEAST_SCANNED: u64 = 16 << 20;
const MAX_RATIO: u64 = 4;

/// What was found beside the tensors.
#[derive(Default)]
pub(super) struct Others {
    pub globals: Vec<GlobalUse>,
    pub uncovered: Vec<Range<u64>>,
    pub problems: Vec<Error>,
}

/// Looks into every member that is no part of the checkpoint whose pickle is `data`, in the folder `root`.
pub(super) fn scan(file: &InputFile, archive: &Archive, root: &str, data: &Member) -> Others {
    let mut others = Others::default();
    let mut left = LEAST_SCANNED.saturating_add(MAX_RATIO.saturating_mul(file.len())).min(pickle::MAX_BYTES);
    let is_loadable_script = has_constants(archive, root);
    let is_read = |name: &str| is_read(name) || is_loadable_script && name.starts_with("constants/");
    for member in archive.members() {
        let inside = member.name.strip_prefix(root);
        if member == data || inside.is_some_and(is_read) {
            continue;
        }
        let is_of_script = is_loadable_script && inside.is_some_and(is_of_script);
        if !member.data.is_empty() && !is_of_script {
            others.uncovered.push(member.data.clone());
        }
        others.look_into(file, member, &mut left);
    }
    others
}

/// Whether a member of that name, below the root, is read elsewhere, with all that is wrong with it.
fn is_read(name: &str) -> bool {
    const RECORDS: [&str; 6] = [
        "version",
        "byteorder",
        ".format_version",
        ".storage_alignment",
        ".data/serialization_id",
        "constants.pkl",
    ];
    RECORDS.contains(&name) || name.starts_with("data/")
}

/// Whether a script has members of that name: its source with what debuggers ask for, and files of the author's own, which
/// may be anything.
fn is_of_script(name: &str) -> bool {
    ["code/", "extra/"].iter().any(|folder| name.starts_with(folder))
}

impl Others {
    fn look_into(&mut self, file: &InputFile, member: &Member, left: &mut u64) {
        let is_named_so = [".pkl", ".pickle"].iter().any(|ending| member.name.ends_with(ending));
        if !is_named_so && !begins_like_a_pickle(file, member) {
            return;
        }
        let limit = longest_pickle(member).min(*left);
        *left = left.saturating_sub(member.size);
        let mut buffer = Vec::new();
        let bytes = match member.contents(file, limit, &mut buffer) {
            Ok(bytes) => bytes,
            Err(error) => return self.problems.push(error),
        };
        let Pickle { globals, error, .. } = pickle::read(bytes, file.len());
        let room = pickle::MAX_GLOBALS.saturating_sub(self.globals.len());
        if globals.len() > room {
            let kind = ErrorKind::TooMany { what: "globals", limit: pickle::MAX_GLOBALS as u64 };
            self.problems.push(kind.in_file(file.path()).at(At::Member(member.name.clone(), 0)));
        }
        self.globals.extend(globals.into_iter().take(room));
        if is_named_so {
            self.problems.extend(error.map(|fault| in_pickle(file, member, fault)));
        }
    }
}

/// By its first bytes, where they stand in the file as they are. What is compressed has to have the name of a pickle.
fn begins_like_a_pickle(file: &InputFile, member: &Member) -> bool {
    let start = member.data.start..member.data.end.min(member.data.start + 2);
    let mut buffer = Vec::new();
    member.method == Method::Stored && file.bytes(start, &mut buffer).is_ok_and(legacy::matches)
}
