//! The header judged entry by entry, for files that the reference reader refuses or would misread.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use foldhash::fast::RandomState;
use serde::Deserialize;

use super::container;
use super::outline::{Damage, Declared, Outline, without_place};
use crate::error::{Error, ErrorKind, Result};
use crate::files::InputFile;
use crate::format::{Container, Entry};
use crate::tensor::{DType, Listed, Tensor, element_count};

/// Longest value of one name. A dtype, a shape of a few sizes and two offsets take about a hundred bytes.
const MAX_ENTRY_BYTES: usize = 64 << 10;

/// Longest text metadata that is read. The longest in use, of adapters with their captions, has some hundred thousand bytes.
const MAX_METADATA_BYTES: usize = 4 << 20;

/// Most axes of a tensor, as in torch. A header of nothing but zeros would otherwise become four times its bytes.
const MAX_AXES: usize = 64;

/// Lists what `outline` declares: each tensor that is intact, and why each other one is not.
///
/// # Errors
/// When the header breaks off before its first tensor.
pub(super) fn read(file: &Arc<InputFile>, header: &Range<u64>, outline: Outline<'_>) -> Result<Container> {
    let audit = Audit { file, header };
    let mut problems = Vec::new();
    if let Some(damage) = &outline.damage {
        let error = audit.syntax(damage);
        if outline.tensors.is_empty() {
            return Err(error);
        }
        problems.push(error);
    }
    let metadata = audit.metadata(&outline.metadata, &mut problems);
    let mut claims = audit.claims(outline.tensors);
    claims.sort_by_key(|claim| {
        claim.bytes.as_ref().map_or((u64::MAX, u64::MAX), |bytes| (bytes.start, bytes.end))
    });
    problems.extend(audit.overlaps(&claims));
    let uncovered = audit.uncovered(&claims);
    problems.extend(audit.hole(&uncovered));
    let entries = claims
        .into_iter()
        .map(|claim| Entry { name: claim.name, tensor: claim.tensor, storage: None })
        .collect();
    Ok(Container { uncovered, problems, ..container(entries, metadata) })
}

struct Audit<'a> {
    file: &'a Arc<InputFile>,
    header: &'a Range<u64>,
}

/// What the header says about one tensor, and what holds of it.
struct Claim {
    name: String,
    /// The bytes it claims, from the start of the file, where it says which.
    bytes: Option<Range<u64>>,
    tensor: Listed,
}

/// The value of a name, as the format prescribes it.
#[derive(Deserialize)]
struct Info<'a> {
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl Audit<'_> {
    fn syntax(&self, damage: &Damage) -> Error {
        ErrorKind::HeaderSyntax { message: damage.message.clone() }
            .at_byte(self.file.path(), self.header.start + damage.at)
    }

    /// An error about the value of `declared`.
    fn refuse(&self, declared: &Declared<'_>, kind: ErrorKind) -> Error {
        kind.at_byte(self.file.path(), self.header.start + declared.at).for_tensor(&declared.name)
    }

    /// The text metadata: the last one, if it is text to text.
    fn metadata(&self, declared: &[Declared<'_>], problems: &mut Vec<Error>) -> BTreeMap<String, String> {
        let Some((last, earlier)) = declared.split_last() else { return BTreeMap::new() };
        problems.extend(earlier.iter().map(|repeated| self.refuse(repeated, ErrorKind::RepeatedName)));
        if last.value.get().len() > MAX_METADATA_BYTES {
            let (actual, limit) = (last.value.get().len() as u64, MAX_METADATA_BYTES as u64);
            problems.push(self.refuse(last, ErrorKind::TooLarge { what: "the metadata", actual, limit }));
            return BTreeMap::new();
        }
        match serde_json::from_str::<Option<BTreeMap<String, String>>>(last.value.get()) {
            Ok(metadata) => metadata.unwrap_or_default(),
            Err(error) => {
                problems
                    .push(self.refuse(last, ErrorKind::HeaderMetadata { message: without_place(&error) }));
                BTreeMap::new()
            }
        }
    }

    fn claims(&self, tensors: Vec<Declared<'_>>) -> Vec<Claim> {
        // Of a name that occurs twice, the last one holds.
        let mut later: HashSet<&str, RandomState> =
            HashSet::with_capacity_and_hasher(tensors.len(), RandomState::default());
        let mut is_repeated: Vec<bool> =
            tensors.iter().rev().map(|declared| !later.insert(&declared.name)).collect();
        is_repeated.reverse();
        let claim = |(declared, is_repeated)| self.claim(declared, is_repeated);
        tensors.into_iter().zip(is_repeated).map(claim).collect()
    }

    fn claim(&self, declared: Declared<'_>, is_repeated: bool) -> Claim {
        let claimed = self.info(&declared).and_then(|info| {
            let place = self.place(info.data_offsets).map_err(|kind| self.refuse(&declared, kind))?;
            Ok((info, place))
        });
        let (bytes, tensor) = match claimed {
            Ok((info, bytes)) => {
                let tensor = self.tensor(info, bytes.clone()).map_err(|kind| self.refuse(&declared, kind));
                (Some(bytes), tensor)
            }
            Err(error) => (None, Err(error)),
        };
        let tensor = if is_repeated { Err(self.refuse(&declared, ErrorKind::RepeatedName)) } else { tensor };
        Claim { name: declared.name, bytes, tensor: tensor.map_err(Box::new) }
    }

    fn info<'a>(&self, declared: &'a Declared<'_>) -> Result<Info<'a>> {
        let text = declared.value.get();
        if text.len() > MAX_ENTRY_BYTES {
            let (actual, limit) = (text.len() as u64, MAX_ENTRY_BYTES as u64);
            return Err(
                self.refuse(declared, ErrorKind::TooLarge { what: "the header's entry", actual, limit })
            );
        }
        let refuse = |message| self.refuse(declared, ErrorKind::HeaderEntry { message });
        let info: Info<'_> = serde_json::from_str(text).map_err(|error| refuse(without_place(&error)))?;
        if info.shape.len() > MAX_AXES {
            return Err(refuse(format!(
                "its shape has {} axes, at most {MAX_AXES} are read",
                info.shape.len()
            )));
        }
        Ok(info)
    }

    /// The bytes of the file that `offsets`, which count from the end of the header, stand for.
    fn place(&self, (start, end): (u64, u64)) -> std::result::Result<Range<u64>, ErrorKind> {
        if start > end {
            return Err(ErrorKind::ReversedOffsets { start, end });
        }
        let available = self.file.len();
        let absolute = |offset: u64| self.header.end.checked_add(offset);
        let past = || ErrorKind::PastEndOfFile { needed: u64::MAX, available };
        Ok(absolute(start).ok_or_else(past)?..absolute(end).ok_or_else(past)?)
    }

    fn tensor(&self, info: Info<'_>, bytes: Range<u64>) -> std::result::Result<Tensor, ErrorKind> {
        let Some(dtype) = DType::from_name(&info.dtype) else {
            return Err(ErrorKind::UnknownDtype { dtype: info.dtype.chars().take(40).collect() });
        };
        let expected = bytes_needed(dtype, &info.shape)?;
        let actual = bytes.end - bytes.start;
        if expected != actual {
            return Err(ErrorKind::SizeMismatch { expected, actual });
        }
        Tensor::contiguous(dtype, info.shape, self.file.clone(), bytes).map_err(|error| error.kind)
    }

    /// One problem for each tensor that begins before an earlier one has ended.
    fn overlaps(&self, claims: &[Claim]) -> Vec<Error> {
        let mut furthest: Option<(&str, u64)> = None;
        let mut problems = Vec::new();
        for (name, bytes) in occupied(claims) {
            if let Some((other, end)) = furthest
                && bytes.start < end
            {
                let kind = ErrorKind::OverlappingTensors { other: other.to_owned() };
                problems.push(kind.at_byte(self.file.path(), bytes.start).for_tensor(name));
            }
            if furthest.is_none_or(|(_, end)| bytes.end > end) {
                furthest = Some((name, bytes.end));
            }
        }
        problems
    }

    /// The data bytes of the file that no tensor claims.
    fn uncovered(&self, claims: &[Claim]) -> Vec<Range<u64>> {
        let mut reached = self.header.end;
        let mut holes = Vec::new();
        for (_, bytes) in occupied(claims) {
            let start = bytes.start.min(self.file.len());
            if start > reached {
                holes.push(reached..start);
            }
            reached = reached.max(bytes.end);
        }
        if reached < self.file.len() {
            holes.push(reached..self.file.len());
        }
        holes
    }

    fn hole(&self, uncovered: &[Range<u64>]) -> Option<Error> {
        let first = uncovered.first()?;
        let bytes = uncovered.iter().map(|range| range.end - range.start).fold(0, u64::saturating_add);
        Some(ErrorKind::UncoveredBytes { bytes }.at_byte(self.file.path(), first.start))
    }
}

/// The claims that stand for bytes, which are sorted by their start.
fn occupied(claims: &[Claim]) -> impl Iterator<Item = (&str, &Range<u64>)> {
    claims
        .iter()
        .filter_map(|claim| Some((claim.name.as_str(), claim.bytes.as_ref()?)))
        .filter(|(_, bytes)| !bytes.is_empty())
}

/// Whole bytes that elements of `dtype` in `shape` take.
fn bytes_needed(dtype: DType, shape: &[u64]) -> std::result::Result<u64, ErrorKind> {
    let overflow = || ErrorKind::ShapeOverflow { shape: shape.to_vec() };
    let elements = element_count(shape).ok_or_else(overflow)?;
    let bits = u128::from(elements) * u128::from(dtype.bits());
    if bits % 8 != 0 {
        return Err(ErrorKind::PartialByte { elements, bits: dtype.bits() });
    }
    u64::try_from(bits / 8).map_err(|_| overflow())
}
