//! An index and its shards. The index says which shard holds which tensor; both may lie, each about the other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::Path;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::listing::Listing;
use super::{Parts, incomplete};
use crate::checkpoint::ties::View;
use crate::checkpoint::{Layout, json};
use crate::context::Context;
use crate::error::{At, Error, ErrorKind, Result};
use crate::format::{Entry, MAX_TENSORS};
use crate::tensor::Tensor;

/// Longest index that is read: as many tensors as a checkpoint may have, of a hundred bytes each.
const MAX_INDEX_BYTES: u64 = 16 << 20;

/// Elements compared at a time where two shards hold a tensor of the same name.
const BLOCK_ELEMENTS: u64 = 1 << 18;

const WHAT: &str = "the index of shards";
const INDEX_ENDING: &str = ".index.json";
const SAFETENSORS_ENDING: &str = ".safetensors.index.json";

/// The index as written. Values are kept as text, so that one wrong one costs one tensor.
#[derive(Deserialize)]
struct Written {
    metadata: Option<WrittenMetadata>,
    #[serde(deserialize_with = "bounded")]
    weight_map: BTreeMap<String, Box<RawValue>>,
}

/// The pairs of `weight_map`, no more than a checkpoint may have tensors.
fn bounded<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<BTreeMap<String, Box<RawValue>>, D::Error> {
    struct Pairs;

    impl<'de> Visitor<'de> for Pairs {
        type Value = BTreeMap<String, Box<RawValue>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
            let mut pairs = BTreeMap::new();
            while let Some((name, shard)) = map.next_entry()? {
                pairs.insert(name, shard);
                if pairs.len() as u64 > MAX_TENSORS {
                    return Err(A::Error::custom(format_args!("it names more than {MAX_TENSORS} tensors")));
                }
            }
            Ok(pairs)
        }
    }

    deserializer.deserialize_map(Pairs)
}

#[derive(Deserialize)]
struct WrittenMetadata {
    total_size: Option<Box<RawValue>>,
}

/// Whether a file of this name is an index.
pub(super) fn is_index(name: &str) -> bool {
    name.ends_with(INDEX_ENDING)
}

/// The index of a directory; safetensors before pickles, where it holds the model in both.
pub(super) fn find_index(listing: &Listing) -> Option<String> {
    let ending = |end: &str| listing.files().find(|file| file.ends_with(end)).map(str::to_owned);
    ending(SAFETENSORS_ENDING).or_else(|| ending(".bin.index.json"))
}

/// Whether an index of this name is one of safetensors.
pub(super) fn is_of_safetensors(index: &str) -> bool {
    index.ends_with(SAFETENSORS_ENDING)
}

/// Reads the shards that `index` names, and compares both.
///
/// # Errors
/// When the index is not one, or no shard can be read.
pub(super) fn read(listing: &Listing, index: &str, context: &Context) -> Result<Parts> {
    let path = listing.path().join(index);
    let written: Written = json::read(listing.path(), index, WHAT, MAX_INDEX_BYTES, context)?;
    let mut parts = Parts::new(Layout::Sharded);
    let weight_map = weight_map(written.weight_map, &path, &mut parts.absent);
    let shards: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();
    let opened: BTreeSet<&str> =
        shards.iter().copied().filter(|shard| parts.add(listing, shard, None, context)).collect();
    if opened.is_empty() {
        return Err(nothing_read(listing, index, parts.problems));
    }
    let owners = owners(&parts, &weight_map);
    judge_others(&mut parts, &owners, context)?;
    judge_missing(&mut parts, &weight_map, &owners, &path);
    let strays = listing.files().filter(|file| is_shard_of(file, index) && !shards.contains(file));
    parts.problems.extend(strays.map(|stray| stray_shard(listing, stray, &shards)));
    if opened.len() == shards.len() {
        let stated = written.metadata.and_then(|metadata| metadata.total_size);
        let wrong = stated.and_then(|stated| wrong_total(&parts, stated.get()));
        parts.problems.extend(wrong.map(|kind| kind.in_file(&path).at(At::Key("total_size".to_owned()))));
    }
    Ok(parts)
}

/// Why not one shard could be read: what is wrong with the first, unless they are only not there.
fn nothing_read(listing: &Listing, index: &str, problems: Vec<Error>) -> Error {
    let refused = problems.into_iter().find(|problem| problem.kind != ErrorKind::NotFound);
    refused.unwrap_or_else(|| {
        incomplete(listing.path(), format!("the shards that {} names", index.escape_debug()))
    })
}

/// What a shard is that the index does not name: one of the same writing, which the index has lost, or another file.
fn stray_shard(listing: &Listing, stray: &str, named: &BTreeSet<&str>) -> Error {
    let series = |name: &str| name.rsplit_once("-of-").map(|(_, rest)| rest.to_owned());
    let is_lost =
        series(stray).is_some_and(|rest| named.iter().any(|name| series(name) == Some(rest.clone())));
    if is_lost {
        return incomplete(listing.path(), format!("the entries of the shard {stray} in the index"));
    }
    ErrorKind::StrayShard.in_file(&listing.path().join(stray))
}

/// Whether a file that `index` does not name looks as if it should.
pub(super) fn is_shard_of(file: &str, index: &str) -> bool {
    let Some((stem, extension)) = index.trim_end_matches(INDEX_ENDING).rsplit_once('.') else { return false };
    file.starts_with(stem) && file.rsplit_once('.').is_some_and(|(_, end)| end == extension)
}

/// Tensor to shard. Entries that are not text make their tensors absent.
fn weight_map(
    written: BTreeMap<String, Box<RawValue>>,
    index: &Path,
    absent: &mut Vec<(String, Error)>,
) -> BTreeMap<String, String> {
    let mut weight_map = BTreeMap::new();
    for (name, value) in written {
        if let Ok(shard) = serde_json::from_str::<String>(value.get()) {
            weight_map.insert(name, shard);
        } else {
            let message = "the value of a tensor in weight_map is not a file name".to_owned();
            let error = ErrorKind::SideFile { what: WHAT, message }.in_file(index).at(At::Key(name.clone()));
            absent.push((name.clone(), error.for_tensor(&name)));
        }
    }
    weight_map
}

/// File and entry of every tensor that lies where the index says.
type Owners = HashMap<String, (usize, usize)>;

fn owners(parts: &Parts, weight_map: &BTreeMap<String, String>) -> Owners {
    let mut owners = HashMap::new();
    for (file, part) in parts.files.iter().enumerate() {
        for (position, entry) in part.container.entries.iter().enumerate() {
            if weight_map.get(&entry.name) == Some(&part.name) {
                owners.insert(entry.name.clone(), (file, position));
            }
        }
    }
    owners
}

/// What an entry is that the index puts elsewhere or nowhere.
enum Other {
    /// The index does not name it, or names it in a shard that does not hold it.
    Unnamed(Error),
    /// Its name and its bytes are those of the tensor in the right place: one tensor, written twice.
    Copy,
    /// Only its name is.
    Different(Error),
}

/// Judges the entries that are not where the index says. Of a tensor written twice, one is kept.
fn judge_others(parts: &mut Parts, owners: &Owners, context: &Context) -> Result<()> {
    for file in 0..parts.files.len() {
        let mut others = HashMap::new();
        for (position, entry) in parts.files[file].container.entries.iter().enumerate() {
            if owners.get(&entry.name) != Some(&(file, position)) {
                others.insert(position, judge_other(parts, file, entry, owners, context)?);
            }
        }
        let entries = std::mem::take(&mut parts.files[file].container.entries);
        for (position, mut entry) in entries.into_iter().enumerate() {
            match others.remove(&position) {
                Some(Other::Copy) => continue,
                Some(Other::Different(error)) => entry.tensor = Err(Box::new(error)),
                Some(Other::Unnamed(problem)) => parts.problems.push(problem),
                None => {}
            }
            parts.files[file].container.entries.push(entry);
        }
    }
    Ok(())
}

fn judge_other(
    parts: &Parts,
    file: usize,
    entry: &Entry,
    owners: &Owners,
    context: &Context,
) -> Result<Other> {
    let refuse = |kind: ErrorKind| kind.in_file(parts.files[file].input.path()).for_tensor(&entry.name);
    let Some(&(owner_file, owner)) = owners.get(&entry.name).filter(|(owner_file, _)| *owner_file != file)
    else {
        return Ok(Other::Unnamed(refuse(ErrorKind::NotInIndex)));
    };
    let owner_part = &parts.files[owner_file];
    let same = match (&owner_part.container.entries[owner].tensor, &entry.tensor) {
        (Ok(first), Ok(second)) => same_elements(first, second, context)?,
        _ => false,
    };
    let other = owner_part.name.clone();
    Ok(if same { Other::Copy } else { Other::Different(refuse(ErrorKind::DifferentCopies { other })) })
}

/// Whether two tensors are the same bit by bit. Packed elements, which are not read one by one, count as different, and
/// so do tensors that are expanded along different axes.
fn same_elements(first: &Tensor, second: &Tensor, context: &Context) -> Result<bool> {
    if first.dtype != second.dtype || first.shape != second.shape || first.dtype.size().is_none() {
        return Ok(false);
    }
    let ((first_distinct, repeats), (second_distinct, other_repeats)) =
        (first.without_repeats(), second.without_repeats());
    if first_distinct.shape == second_distinct.shape {
        return same_blocks(&first_distinct, &second_distinct, context);
    }
    // One that is not expanded has no more elements than its file.
    Ok((repeats == 1 || other_repeats == 1) && same_blocks(first, second, context)?)
}

/// Compares two tensors of the same shape block by block. What the user did not wait for counts as the same: that says
/// nothing against the files.
fn same_blocks(first: &Tensor, second: &Tensor, context: &Context) -> Result<bool> {
    let (mut buffer, mut other_buffer) = (Vec::new(), Vec::new());
    let mut start = 0;
    while start < first.count() && !context.cancelled() {
        let block = start..(start + BLOCK_ELEMENTS).min(first.count());
        if first.bytes(block.clone(), &mut buffer)? != second.bytes(block.clone(), &mut other_buffer)? {
            return Ok(false);
        }
        start = block.end;
    }
    Ok(true)
}

/// Adds what the index names and nothing holds: to its shard where that was read, or else to no file.
fn judge_missing(parts: &mut Parts, weight_map: &BTreeMap<String, String>, owners: &Owners, index: &Path) {
    let files: HashMap<String, usize> =
        (0..).zip(&parts.files).map(|(file, part)| (part.name.clone(), file)).collect();
    for (name, shard) in weight_map.iter().filter(|(name, _)| !owners.contains_key(*name)) {
        let refuse = |kind: ErrorKind| kind.in_file(index).at(At::Key(name.clone())).for_tensor(name);
        let shard = shard.clone();
        match files.get(&shard) {
            Some(&file) => {
                let tensor = Err(Box::new(refuse(ErrorKind::NotInShard { shard })));
                parts.files[file].container.entries.push(Entry { name: name.clone(), tensor, storage: None });
            }
            None => parts.absent.push((name.clone(), refuse(ErrorKind::MissingShard { shard }))),
        }
    }
}

/// Compares the stated total with the bytes of all tensors, each counted once or, where tied, as often as it is named:
/// writers do both. Old ones write a float.
fn wrong_total(parts: &Parts, stated: &str) -> Option<ErrorKind> {
    let entries = parts.files.iter().flat_map(|part| &part.container.entries);
    let tensors = entries.filter_map(|entry| entry.tensor.as_ref().ok());
    let named = tensors.clone().map(Tensor::byte_count).fold(0, u64::saturating_add);
    let views: HashMap<_, u64> =
        tensors.filter_map(|tensor| Some((View::of(tensor)?, tensor.byte_count()))).collect();
    let distinct = views.values().copied().fold(0, u64::saturating_add);
    let matches = |stated: f64| stated == named as f64 || stated == distinct as f64;
    let right = stated.parse().is_ok_and(matches);
    (!right).then(|| ErrorKind::TotalSize { stated: stated.chars().take(40).collect(), actual: distinct })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::files::InputFile;
    use crate::tensor::DType;

    /// A view of the bytes 0, 1, 2 …
    fn view(shape: &[u64], strides: &[u64]) -> Tensor {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), (0..=255u8).collect::<Vec<_>>()).expect("written");
        let input = Arc::new(InputFile::open(file.path(), &Context::default()).expect("opened"));
        Tensor::strided(DType::U8, shape.to_vec(), strides, input, 0..256).expect("a view")
    }

    fn same(first: &Tensor, second: &Tensor) -> bool {
        same_elements(first, second, &Context::default()).expect("compared")
    }

    #[test]
    fn expanded_tensors_are_compared_by_what_they_stand_on() {
        let endless = view(&[1 << 40, 16], &[0, 1]);
        assert!(same(&endless, &view(&[1 << 40, 16], &[0, 1])));
        assert!(!same(&endless, &view(&[1 << 40, 16], &[0, 2])));
        assert!(!same(&endless, &view(&[1 << 40, 16], &[0, 0])));
        assert!(!same(&view(&[16, 16], &[0, 1]), &view(&[16, 16], &[16, 1])));
        assert!(same(&view(&[1, 16], &[0, 1]), &view(&[1, 16], &[16, 1])));
    }

    #[test]
    fn nothing_is_compared_once_the_user_asked_to_stop() {
        let context = Context::default();
        context.cancel.store(true, Ordering::Relaxed);
        let compared = same_elements(&view(&[16], &[1]), &view(&[16], &[2]), &context);
        assert_eq!(compared, Ok(true));
    }
}
