//! PyTorch checkpoints: the zip archives that `torch.save` writes since 1.6, `TorchScript` archives, and, in [`legacy`], the
//! files of before.
//!
//! An archive has one root folder with `data.pkl`, the pickled object, and `data/KEY`, the bytes of each storage. The pickle
//! is read by [`pickle`], which runs nothing; the calls in it that rebuild tensors are read as descriptions of
//! views of the storages. A `TorchScript` archive has a second such pair, `constants.pkl` and `constants/KEY`, and its source
//! in `code/`, which is not read.

pub mod legacy;
mod listing;
mod names;
mod numpy;
mod other_members;
mod rebuild;
mod storage;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::listing::Listing;
use self::storage::Storages;
use super::pickle::{self, Fault, Pickle};
use super::zip::{Archive, Member, Method};
use super::{Container, Format};
use crate::context::Context;
use crate::error::{At, Error, ErrorKind, Result, ZipFault};
use crate::files::InputFile;

pub use names::{MAX_DEPTH, MAX_KEY_BYTES, MAX_NAME_BYTES, MAX_PROBLEMS};

/// How a zip archive written by PyTorch begins.
const ZIP: &[u8] = b"PK\x03\x04";

/// Bytes that say which kind of file it is.
const PROBE_BYTES: u64 = 64;

/// Bytes that a compressed pickle may inflate to, and so many more for each byte that it takes in the file: pickles of
/// names and numbers shrink to a tenth, bombs to a thousandth.
const MAX_INFLATED: u64 = 16 << 20;
const MAX_RATIO: u64 = 4;

/// The longest text record that is read into the metadata.
const MAX_RECORD: u64 = 256;

/// Reads the tensors of a PyTorch checkpoint.
///
/// # Errors
/// When the file is no archive of PyTorch's, or one that is not read. Everything that is wrong within a readable archive
/// is in the container's `problems` and in its entries.
pub fn read(file: Arc<InputFile>, context: &Context) -> Result<Container> {
    let mut buffer = Vec::new();
    let start = file.bytes(0..file.len().min(PROBE_BYTES), &mut buffer)?;
    if legacy::matches(start) {
        return legacy::read(file, context);
    }
    if !start.starts_with(ZIP) {
        return Err(ErrorKind::UnknownFormat.in_file(file.path()));
    }
    read_archive(&file)
}

fn read_archive(file: &Arc<InputFile>) -> Result<Container> {
    let archive = Archive::open(file)?;
    let (root, data) = find_pickle(file, &archive)?;
    let metadata = records(file, &archive, root)?;
    refuse_byte_order(file, &metadata)?;
    let mut listing = list(file, &archive, data, &format!("{root}data/"), "")?;
    if let Some(constants) = archive.member(&format!("{root}constants.pkl")) {
        listing.absorb(list(file, &archive, constants, &format!("{root}constants/"), "constants")?);
    }
    let others = other_members::scan(file, &archive, root, data);
    listing.globals.extend(others.globals);
    listing.uncovered.extend(others.uncovered);
    listing.problems.extend(others.problems);
    listing.uncovered.extend(archive.uncovered().iter().cloned());
    listing.problems.extend(archive.lost_members(file));
    let format = if is_by_torch_script(&archive, root) { Format::TorchScript } else { Format::TorchZip };
    Ok(listing.into_container(format, metadata))
}

/// The tensors of one pickle of the archive, over the storages in `folder`.
fn list(
    file: &Arc<InputFile>,
    archive: &Archive,
    member: &Member,
    folder: &str,
    prefix: &str,
) -> Result<Listing> {
    let mut buffer = Vec::new();
    let bytes = member.contents(file, longest_pickle(member), &mut buffer)?;
    let damage = member.check(file, bytes).err();
    let Pickle { objects, globals, error, .. } = pickle::read(bytes, file.len());
    let start = (member.method == Method::Stored).then_some(member.data.start);
    let mut listing = Listing::of(objects, storages(file.clone(), archive, folder), start, prefix);
    listing.globals = globals;
    if listing.unreferenced > 0 && error.is_none() {
        // A tensor that is in the file and not in the list: behind a pickle that breaks off, that is no news.
        let kind = ErrorKind::UncoveredBytes { bytes: listing.unreferenced };
        listing.problems.push(kind.in_file(file.path()).at(At::Member(member.name.clone(), 0)));
    }
    let faults = damage.into_iter().chain(error.map(|fault| in_pickle(file, member, fault)));
    listing.problems.splice(0..0, faults);
    Ok(listing)
}

/// Bytes of a pickle that are read: more of one that stands in the file as it is.
fn longest_pickle(member: &Member) -> u64 {
    match member.method {
        Method::Stored => pickle::MAX_BYTES,
        _ => pickle::MAX_BYTES.min(MAX_INFLATED + MAX_RATIO * (member.data.end - member.data.start)),
    }
}

/// Compares every member of the archive with its checksum, and says which differ: the answer to "is the file damaged".
///
/// # Errors
/// When the archive cannot be read.
pub fn verify_checksums(file: &InputFile, context: &Context) -> Result<Vec<Error>> {
    Archive::open(file)?.verify_checksums(file, context)
}

/// The one `data.pkl`, and the folder it lies in. With two, what is loaded would depend on the loader.
fn find_pickle<'a>(file: &InputFile, archive: &'a Archive) -> Result<(&'a str, &'a Member)> {
    let folder = |member: &'a Member| {
        let folder = member.name.strip_suffix("data.pkl").filter(|folder| folder.ends_with('/'));
        folder.map(|folder| (folder, member))
    };
    let mut pickles = archive.members().iter().filter_map(folder);
    let kind = match (pickles.next(), pickles.next()) {
        (Some(found), None) => return Ok(found),
        (Some((_, first)), Some((_, second))) => {
            ErrorKind::SeveralPickles { names: vec![first.name.clone(), second.name.clone()] }
        }
        (None, _) if archive.members().iter().any(is_export_record) => {
            ErrorKind::UnsupportedFormat { format: "a torch.export archive (.pt2)" }
        }
        (None, _) => ErrorKind::NoPickle,
    };
    Err(kind.in_file(file.path()))
}

/// A record that only `torch.export` writes.
fn is_export_record(member: &Member) -> bool {
    member.name.ends_with("/archive_format")
        || member.name.ends_with("/data/weights/model_weights_config.json")
}

/// Whether it holds constants, without which `torch.jit` loads no script. Their storages are read with the pickle that names them.
fn has_constants(archive: &Archive, root: &str) -> bool {
    archive.member(&format!("{root}constants.pkl")).is_some()
}

/// Whether it holds anything of a `TorchScript` module, which `torch.save` never writes: constants, or source.
fn is_by_torch_script(archive: &Archive, root: &str) -> bool {
    let code = format!("{root}code/");
    has_constants(archive, root) || archive.members().iter().any(|member| member.name.starts_with(&code))
}

/// The short text records that PyTorch keeps beside the pickle.
fn records(file: &InputFile, archive: &Archive, root: &str) -> Result<BTreeMap<String, String>> {
    let mut records = BTreeMap::new();
    for name in ["version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id"] {
        let Some(member) = archive.member(&format!("{root}{name}")) else { continue };
        let mut buffer = Vec::new();
        let text = String::from_utf8_lossy(member.contents(file, MAX_RECORD, &mut buffer)?);
        records.insert(name.to_owned(), text.trim_end().to_owned());
    }
    Ok(records)
}

/// Archives without the record are older than it, and little-endian like every machine they were written on.
fn refuse_byte_order(file: &InputFile, records: &BTreeMap<String, String>) -> Result<()> {
    match records.get("byteorder").map(String::as_str) {
        None | Some("little") => Ok(()),
        Some(found) => Err(ErrorKind::ByteOrder { found: found.to_owned() }.in_file(file.path())),
    }
}

fn storages(file: Arc<InputFile>, archive: &Archive, folder: &str) -> Storages {
    let mut storages = Storages::new(file);
    for member in archive.members() {
        if let Some(key) = member.name.strip_prefix(folder) {
            let compressed =
                || ErrorKind::ZipMember { name: member.name.clone(), fault: ZipFault::Compressed };
            let fault = (member.method != Method::Stored).then(compressed);
            storages.add(key, member.data.clone(), fault);
        }
    }
    storages
}

fn in_pickle(file: &InputFile, member: &Member, fault: Fault) -> Error {
    fault.kind.in_file(file.path()).at(At::Member(member.name.clone(), fault.offset))
}
