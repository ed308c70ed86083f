//! Files that lie, one test a lie, and what is still said about them.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::context::Context;
use crate::error::At;

/// A file of the length of `header`, `header`, and `data`.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

fn entry(name: &str, dtype: &str, shape: &str, start: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
}

/// `bytes`, read through the map and again without it, which must not differ.
fn read_bytes(bytes: &[u8]) -> Result<Container> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    std::fs::write(&path, bytes).unwrap();
    let open = |mmap| InputFile::open(&path, &Context { mmap, ..Context::default() });
    let mapped = open(true).and_then(|file| read(&Arc::new(file)));
    let unmapped = open(false).and_then(|file| read(&Arc::new(file)));
    assert_eq!(
        format!("{:?}", mapped.as_ref().map(summary)),
        format!("{:?}", unmapped.as_ref().map(summary))
    );
    mapped
}

/// What was read, without the open files.
fn summary(container: &Container) -> String {
    let entries = container
        .entries
        .iter()
        .map(|entry| (&entry.name, entry.tensor.as_ref().map(|tensor| &tensor.shape)));
    format!("{:?} {:?} {:?}", entries.collect::<Vec<_>>(), container.uncovered, container.problems)
}

fn read_header(header: &str, data: &[u8]) -> Container {
    read_bytes(&file(header, data)).unwrap()
}

fn refusal(bytes: &[u8]) -> ErrorKind {
    read_bytes(bytes).unwrap_err().kind
}

/// The kinds of what is wrong with the file as a whole.
fn problems(container: &Container) -> Vec<String> {
    container.problems.iter().map(|problem| problem.kind.name()).collect()
}

/// Per entry, `ok` or what is wrong with it.
fn outcomes(container: &Container) -> Vec<(&str, String)> {
    let outcome =
        |entry: &Entry| entry.tensor.as_ref().map_or_else(|error| error.kind.name(), |_| "ok".to_owned());
    container.entries.iter().map(|entry| (entry.name.as_str(), outcome(entry))).collect()
}

fn expect(container: &Container, entries: &[(&str, &str)], file_problems: &[&str]) {
    let expected: Vec<_> = entries.iter().map(|&(name, outcome)| (name, outcome.to_owned())).collect();
    assert_eq!(outcomes(container), expected);
    assert_eq!(problems(container), file_problems);
}

#[test]
fn a_well_formed_file_lists_its_tensors_in_the_order_of_their_bytes() {
    let header = format!(
        r#"{{"__metadata__":{{"format":"pt"}},{},{},{}}}   "#,
        entry("z", "F32", "[2]", 0, 8),
        entry("a", "F16", "[1,2]", 8, 12),
        entry("nothing", "F32", "[0,3]", 8, 8)
    );
    let container = read_header(&header, &[0; 12]);
    expect(&container, &[("z", "ok"), ("nothing", "ok"), ("a", "ok")], &[]);
    assert_eq!(container.metadata["format"], "pt");
    assert!(container.uncovered.is_empty());
}

#[test]
fn every_dtype_of_the_format_is_listed_packed_ones_included() {
    for dtype in DType::ALL.into_iter().filter(|&dtype| dtype != DType::C128) {
        let bytes = dtype.bits();
        let header = format!("{{{}}}", entry("t", dtype.name(), "[8]", 0, bytes));
        let container = read_header(&header, &vec![0; bytes as usize]);
        expect(&container, &[("t", "ok")], &[]);
    }
}

#[test]
fn a_length_that_cannot_be_one_is_refused() {
    for length in [u64::MAX, u64::MAX - 7, 100_000_001] {
        let bytes = [&length.to_le_bytes()[..], b"{}"].concat();
        assert!(matches!(refusal(&bytes), ErrorKind::TooLarge { actual, .. } if actual == length));
    }
    let claims_much = [&99_000_000u64.to_le_bytes()[..], b"{}"].concat();
    let expected = ErrorKind::PastEndOfFile { needed: 99_000_008, available: 10 };
    assert_eq!(refusal(&claims_much), expected);
    assert!(matches!(refusal(b"\x01\0\0"), ErrorKind::PastEndOfFile { needed: 8, available: 3 }));
}

#[test]
fn a_header_that_is_not_json_is_refused_where_it_breaks() {
    let cases: [(&[u8], u64); 5] =
        [(b"\xef\xbb\xbf{}", 8), (b" {}", 8), (b"[]", 8), (b"{\"a\"", 12), (b"{\xff}", 9)];
    for (header, at) in cases {
        let error = read_bytes(&[&(header.len() as u64).to_le_bytes()[..], header].concat()).unwrap_err();
        assert!(matches!(error.kind, ErrorKind::HeaderSyntax { .. }), "{header:?}: {error}");
        assert!(matches!(error.at, Some(At::Byte(byte)) if byte.abs_diff(at) <= 1), "{header:?}: {error}");
    }
}

#[test]
fn tensors_before_the_place_where_the_header_breaks_are_kept() {
    let header = format!(
        r#"{{{},"b":{{"dtype":"F32","shape":[NaN],"data_offsets":[8,12]}}}}"#,
        entry("a", "F32", "[2]", 0, 8)
    );
    let container = read_header(&header, &[0; 12]);
    expect(&container, &[("a", "ok")], &["header-syntax", "uncovered-bytes"]);
}

#[test]
fn nesting_of_any_depth_is_survived() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let header = format!(r#"{{{},"deep":{deep}}}"#, entry("a", "F32", "[2]", 0, 8));
    let container = read_header(&header, &[0; 8]);
    expect(&container, &[("a", "ok"), ("deep", "too-large")], &[]);
}

#[test]
fn a_truncated_file_keeps_the_tensors_that_are_there() {
    let header = format!(
        "{{{},{},{}}}",
        entry("first", "F32", "[2]", 0, 8),
        entry("second", "F32", "[2]", 8, 16),
        entry("third", "F32", "[2]", 16, 24)
    );
    let container = read_header(&header, &[0; 12]);
    expect(
        &container,
        &[("first", "ok"), ("second", "past-end-of-file"), ("third", "past-end-of-file")],
        &[],
    );
}

#[test]
fn bytes_of_no_tensor_are_reported_wherever_they_are() {
    let header = format!("{{{},{}}}", entry("a", "F32", "[1]", 4, 8), entry("b", "F32", "[1]", 12, 16));
    let data_start = 8 + header.len() as u64;
    let container = read_header(&header, &[0; 20]);
    expect(&container, &[("a", "ok"), ("b", "ok")], &["uncovered-bytes"]);
    let holes = [(0, 4), (8, 12), (16, 20)].map(|(start, end)| data_start + start..data_start + end);
    assert_eq!(container.uncovered, holes);
    assert_eq!(container.problems[0].kind, ErrorKind::UncoveredBytes { bytes: 12 });
}

#[test]
fn overlapping_tensors_are_named_and_stay_readable() {
    let header = format!(
        "{{{},{},{}}}",
        entry("long", "F32", "[4]", 0, 16),
        entry("inside", "F32", "[1]", 4, 8),
        entry("after", "F32", "[1]", 12, 16)
    );
    let container = read_header(&header, &[0; 16]);
    let both = ["overlapping-tensors", "overlapping-tensors"];
    expect(&container, &[("long", "ok"), ("inside", "ok"), ("after", "ok")], &both);
    assert_eq!(container.problems[1].kind, ErrorKind::OverlappingTensors { other: "long".to_owned() });
}

#[test]
fn a_repeated_name_is_never_silent() {
    for second in [entry("a", "F32", "[2]", 0, 8), entry("a", "I64", "[1]", 0, 8)] {
        let header = format!("{{{},{second}}}", entry("a", "F32", "[2]", 0, 8));
        let container = read_header(&header, &[0; 8]);
        expect(&container, &[("a", "repeated-name"), ("a", "ok")], &["overlapping-tensors"]);
    }
}

#[test]
fn names_that_differ_by_case_or_look_like_metadata_are_names() {
    let header = format!(
        "{{{},{},{}}}",
        entry("A", "U8", "[1]", 0, 1),
        entry("a", "U8", "[1]", 1, 2),
        entry("__metadata__ ", "U8", "[1]", 2, 3)
    );
    expect(&read_header(&header, &[0; 3]), &[("A", "ok"), ("a", "ok"), ("__metadata__ ", "ok")], &[]);
}

#[test]
fn names_pass_through_as_they_are() {
    let header = format!("{{{}}}", entry(r"\u0000\u001b[31m\n../=cmd()", "U8", "[1]", 0, 1));
    let container = read_header(&header, &[0]);
    assert_eq!(container.entries[0].name, "\0\u{1b}[31m\n../=cmd()");
}

#[test]
fn metadata_that_is_not_text_to_text_is_a_problem_of_its_own() {
    for metadata in [r#"{"a":1}"#, r#"["a"]"#, r#""a""#, r#"{"a":{"b":"c"}}"#] {
        let header = format!(r#"{{"__metadata__":{metadata},{}}}"#, entry("a", "F32", "[2]", 0, 8));
        expect(&read_header(&header, &[0; 8]), &[("a", "ok")], &["header-metadata"]);
    }
}

/// What is wrong with one tensor says nothing about its neighbour.
#[test]
fn each_lie_about_one_tensor_stays_with_it() {
    let lies = [
        (r#"{"dtype":"F9","shape":[2],"data_offsets":[8,16]}"#, "unknown-dtype"),
        (r#"{"dtype":"F32","shape":[3],"data_offsets":[8,16]}"#, "size-mismatch"),
        (r#"{"dtype":"F32","shape":[1],"data_offsets":[8,16]}"#, "size-mismatch"),
        (r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[8,16]}"#, "shape-overflow"),
        (r#"{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[8,16]}"#, "shape-overflow"),
        (r#"{"dtype":"F64","shape":[4611686018427387904],"data_offsets":[8,16]}"#, "shape-overflow"),
        (r#"{"dtype":"F32","shape":[2],"data_offsets":[16,8]}"#, "reversed-offsets"),
        (r#"{"dtype":"F32","shape":[2],"data_offsets":[-8,16]}"#, "header-entry"),
        (r#"{"dtype":"F32","shape":[2],"data_offsets":[8.0,16.0]}"#, "header-entry"),
        (r#"{"dtype":"F32","shape":[2.0],"data_offsets":[8,16]}"#, "header-entry"),
        (r#"{"dtype":"F32","shape":[-2],"data_offsets":[8,16]}"#, "header-entry"),
        (r#"{"dtype":"F32","shape":[2],"data_offsets":[8]}"#, "header-entry"),
        (r#"{"dtype":"F32","shape":[2],"data_offsets":[8,16,24]}"#, "header-entry"),
        (r#"{"dtype":"F32","dtype":"F64","shape":[2],"data_offsets":[8,16]}"#, "header-entry"),
        (r#"{"dtype":5,"shape":[2],"data_offsets":[8,16]}"#, "header-entry"),
        (r#"{"shape":[2],"data_offsets":[8,16]}"#, "header-entry"),
        ("null", "header-entry"),
        (r#"{"dtype":"F4","shape":[15],"data_offsets":[8,16]}"#, "partial-byte"),
        (r#"{"dtype":"U8","shape":[8],"data_offsets":[8,18446744073709551615]}"#, "past-end-of-file"),
    ];
    for (lie, expected) in lies {
        let header = format!(r#"{{{},"liar":{lie}}}"#, entry("honest", "F32", "[2]", 0, 8));
        let container = read_header(&header, &[0; 16]);
        let liar = outcomes(&container).into_iter().find(|(name, _)| *name == "liar");
        assert_eq!(liar, Some(("liar", expected.to_owned())), "{lie}");
        assert!(outcomes(&container).contains(&("honest", "ok".to_owned())), "{lie}");
    }
}

#[test]
fn a_shape_of_no_elements_may_name_any_other_size() {
    let huge = 1u64 << 62;
    for shape in [format!("[0,{huge},{huge}]"), format!("[{huge},{huge},0]")] {
        let header = format!("{{{}}}", entry("empty", "F32", &shape, 0, 0));
        expect(&read_header(&header, &[]), &[("empty", "ok")], &[]);
    }
}

#[test]
fn a_shape_of_too_many_axes_is_an_entry_that_cannot_be_read() {
    let shape = format!("[{}]", vec!["1"; 65].join(","));
    let header = format!("{{{},{}}}", entry("a", "U8", "[1]", 0, 1), entry("b", "U8", &shape, 1, 2));
    expect(&read_header(&header, &[0; 3]), &[("a", "ok"), ("b", "header-entry")], &["uncovered-bytes"]);
}

#[test]
fn a_number_too_large_for_json_is_an_entry_that_cannot_be_read() {
    let header = r#"{"a":{"dtype":"F32","shape":[1e400],"data_offsets":[0,8]}}"#;
    let container = read_header(header, &[0; 8]);
    assert_eq!(outcomes(&container)[0].1, "header-entry");
}

fn honest_header() -> String {
    let tensors = (0..6u64)
        .map(|index| entry(&format!("layers.{index}.weight"), "F32", "[2,2]", 16 * index, 16 * index + 16));
    format!("{{{}}}", tensors.collect::<Vec<_>>().join(","))
}

proptest! {
    #[test]
    fn a_changed_header_never_hides_a_tensor_silently(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in 0usize..40,
    ) {
        let header = honest_header();
        let mut bytes = file(&header, &[1; 96]);
        for (place, value) in changes {
            let place = place.index(8 + header.len());
            bytes[place] = value;
        }
        bytes.truncate(bytes.len() - cut);
        if let Ok(container) = read_bytes(&bytes) {
            let intact = container.entries.iter().filter(|entry| entry.tensor.is_ok()).count();
            let admitted = container.entries.len() > intact || !container.problems.is_empty();
            prop_assert!(intact == 6 || admitted, "{}", summary(&container));
        }
    }
}
