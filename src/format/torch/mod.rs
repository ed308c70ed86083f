//! PyTorch checkpoints: the zip archives that `torch.save` writes since 1.6.
//!
//! An archive has one root folder with `data.pkl`, the pickled object, and `data/KEY`, the bytes of each storage. The pickle
//! is read by [`pickle`](super::pickle), which runs nothing; the calls in it that rebuild tensors are read as descriptions of
//! views of the storages.

mod names;
mod numpy;
mod rebuild;
mod storage;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::names::{NamedTensor, Problem};
use self::rebuild::Rebuilder;
use self::storage::Storages;
use super::pickle::{self, Fault, Pickle};
use super::zip::{Archive, Member, Method};
use super::{Container, Entry, Format, Node, Objects};
use crate::context::Context;
use crate::error::{At, Error, ErrorKind, Result};
use crate::files::InputFile;

pub use names::{MAX_DEPTH, MAX_NAME_BYTES, MAX_PROBLEMS, MAX_TENSORS};

/// How a zip archive written by PyTorch begins.
const ZIP: &[u8] = b"PK\x03\x04";

/// How a checkpoint of before PyTorch 1.6 begins: the pickle of its magic number, in each protocol from 2 on.
const LEGACY_MAGIC: &[u8] = &[0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// The longest text record that is read into the metadata.
const MAX_RECORD: u64 = 256;

/// Reads the tensors of a PyTorch checkpoint.
///
/// # Errors
/// When the file is no archive of PyTorch's, or one that is not read. Everything that is wrong within a readable archive
/// is in the container's `problems` and in its entries.
#[expect(clippy::needless_pass_by_value, reason = "every reader takes the file that its tensors keep open")]
pub fn read(file: Arc<InputFile>, _context: &Context) -> Result<Container> {
    recognise(&file)?;
    let archive = Archive::open(&file)?;
    let (root, data) = find_pickle(&file, &archive)?;
    refuse_other_kinds(&file, &archive, root)?;
    let metadata = records(&file, &archive, root)?;
    refuse_byte_order(&file, &metadata)?;

    let mut buffer = Vec::new();
    let bytes = data.contents(&file, pickle::MAX_BYTES, &mut buffer)?;
    let mut problems = Vec::new();
    problems.extend(data.check(&file, bytes).err());
    let Pickle { mut objects, globals, error, .. } = pickle::read(bytes);
    problems.extend(error.map(|fault| in_pickle(&file, data, fault)));
    names::replace_numbers(&mut objects);

    let mut storages = storages(file.clone(), &archive, root);
    let pickle_start = (data.method == Method::Stored).then_some(data.data.start);
    let named = names::named_tensors(&objects, &mut Rebuilder::new(&objects, &mut storages, pickle_start));
    mark_tensors(&mut objects, &named.tensors);
    problems.extend(named.problems.into_iter().map(|problem| at_name(&file, problem)));
    Ok(Container {
        format: Format::TorchZip,
        entries: named.tensors.into_iter().map(|tensor| entry(&file, tensor)).collect(),
        metadata,
        objects: Some(objects),
        globals,
        uncovered: storages.uncovered(),
        problems,
    })
}

/// Compares every member of the archive with its checksum, and says which differ: the answer to "is the file damaged".
///
/// # Errors
/// When the archive cannot be read.
pub fn verify_checksums(file: &InputFile, context: &Context) -> Result<Vec<Error>> {
    Archive::open(file)?.verify_checksums(file, context)
}

/// Names the formats that begin otherwise.
fn recognise(file: &InputFile) -> Result<()> {
    let mut buffer = Vec::new();
    let head = file.bytes(0..file.len().min(64), &mut buffer)?;
    if head.starts_with(ZIP) {
        return Ok(());
    }
    let is_legacy =
        head.starts_with(&[0x80]) && head.windows(LEGACY_MAGIC.len()).any(|window| window == LEGACY_MAGIC);
    let kind = if is_legacy {
        ErrorKind::UnsupportedFormat { format: "a PyTorch checkpoint of before 1.6 (legacy pickle)" }
    } else {
        ErrorKind::UnknownFormat
    };
    Err(kind.in_file(file.path()))
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

fn refuse_other_kinds(file: &InputFile, archive: &Archive, root: &str) -> Result<()> {
    let code = format!("{root}code/");
    let is_script = archive.member(&format!("{root}constants.pkl")).is_some()
        || archive.members().iter().any(|member| member.name.starts_with(&code));
    if is_script {
        return Err(ErrorKind::UnsupportedFormat { format: "a TorchScript archive" }.in_file(file.path()));
    }
    Ok(())
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

fn storages(file: Arc<InputFile>, archive: &Archive, root: &str) -> Storages {
    let folder = format!("{root}data/");
    let mut storages = Storages::new(file);
    for member in archive.members() {
        if let Some(key) = member.name.strip_prefix(&folder) {
            let compressed = (member.method != Method::Stored).then(|| member.name.clone());
            storages.add(key, member.data.clone(), compressed);
        }
    }
    storages
}

fn mark_tensors(objects: &mut Objects, tensors: &[NamedTensor]) {
    // Backwards, so that a tensor with two names is known by the first.
    for (index, tensor) in tensors.iter().enumerate().rev() {
        objects.nodes[tensor.node] = Node::Tensor(index);
    }
}

fn entry(file: &InputFile, named: NamedTensor) -> Entry {
    let NamedTensor { name, tensor, identity, .. } = named;
    let tensor = tensor.map_err(|kind| kind.in_file(file.path()).for_tensor(&name));
    Entry { name, tensor, storage: identity }
}

fn in_pickle(file: &InputFile, member: &Member, fault: Fault) -> Error {
    fault.kind.in_file(file.path()).at(At::Member(member.name.clone(), fault.offset))
}

fn at_name(file: &InputFile, problem: Problem) -> Error {
    let error = problem.kind.in_file(file.path());
    if problem.name.is_empty() { error } else { error.for_tensor(&problem.name) }
}
