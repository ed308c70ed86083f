//! Array files written by hand: what each one claims, and that the claim is seen through.

use proptest::prelude::*;

use super::*;
use crate::format::Danger;
use crate::format::craft::{call, pickled, text};

fn npy(version: [u8; 2], header: &[u8], data: &[u8]) -> Vec<u8> {
    let length = header.len() as u32;
    let length =
        if version[0] == 1 { (length as u16).to_le_bytes().to_vec() } else { length.to_le_bytes().to_vec() };
    [MAGIC, &version, &length, header, data].concat()
}

fn header(descr: &str, shape: &str) -> String {
    format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}  \n")
}

fn floats(shape: &str, data: &[u8]) -> Vec<u8> {
    npy([1, 0], header("'<f4'", shape).as_bytes(), data)
}

/// Read with a map and without, which must not differ.
fn read_bytes(bytes: &[u8]) -> Result<Container, ErrorKind> {
    let [mapped, unmapped] = [true, false].map(|mmap| {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("weights.npy");
        std::fs::write(&path, bytes).expect("a writable directory");
        let context = Context { mmap, ..Context::default() };
        let file = InputFile::open(&path, &context).expect("a file");
        read(Arc::new(file), &context).map_err(|error| error.kind)
    });
    let described = |read: &Result<Container, ErrorKind>| read.as_ref().map(outcome).map_err(Clone::clone);
    assert_eq!(described(&mapped), described(&unmapped), "with and without a map");
    mapped
}

fn outcome(container: &Container) -> Result<Vec<u64>, ErrorKind> {
    let [entry] = container.entries.as_slice() else { panic!("a file has one array") };
    entry.tensor.as_ref().map(|tensor| tensor.shape.clone()).map_err(|error| error.kind.clone())
}

/// Why the elements are not measured, although the header is a header.
#[track_caller]
fn unmeasured(bytes: &[u8]) -> ErrorKind {
    outcome(&read_bytes(bytes).expect("a readable header")).expect_err("elements that are not read")
}

#[track_caller]
fn assert_refused(bytes: &[u8], expected: &ErrorKind) {
    match read_bytes(bytes) {
        Ok(container) => panic!("read as {:?}", outcome(&container)),
        Err(kind) => assert_eq!(&kind, expected),
    }
}

#[track_caller]
fn assert_header_refused(text: &str, message: &'static str) {
    assert_refused(&npy([1, 0], text.as_bytes(), &[0; 64]), &ErrorKind::NpyHeader { message });
}

#[test]
fn a_plain_array_is_read_in_each_version() {
    for version in [[1, 0], [2, 0], [3, 0]] {
        let container =
            read_bytes(&npy(version, header("'<f4'", "(2, 3)").as_bytes(), &[0; 24])).expect("plain");
        assert_eq!(outcome(&container), Ok(vec![2, 3]));
        assert_eq!(container.entries[0].name, "weights");
        assert_eq!((container.uncovered, container.problems), (vec![], vec![]));
    }
}

#[test]
fn shapes_that_numpy_writes() {
    for (written, shape) in
        [("()", vec![]), ("(1,)", vec![1]), ("(1L, 1L)", vec![1, 1]), ("(0, 5)", vec![0, 5])]
    {
        assert_eq!(outcome(&read_bytes(&floats(written, &[0; 4])).expect(written)), Ok(shape));
    }
}

#[test]
fn column_major_elements_are_read_in_logical_order() {
    let text = "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3)}";
    let container = read_bytes(&npy([1, 0], text.as_bytes(), &[1, 4, 2, 5, 3, 6])).expect("an array");
    let mut values = Vec::new();
    container.entries[0]
        .tensor
        .as_ref()
        .expect("bytes")
        .read_f64(0..6, &mut values)
        .expect("readable elements");
    assert_eq!(values, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
}

#[test]
fn claims_more_elements_than_can_be_addressed() {
    for shape in [vec![1 << 62, 1 << 62], vec![1 << 32, 1 << 32], vec![0, u64::MAX], vec![1 << 62]] {
        let written = format!("{shape:?}").replace('[', "(").replace(']', ",)");
        assert_refused(&floats(&written, &[0; 4]), &ErrorKind::ShapeOverflow { shape });
    }
}

#[test]
fn claims_sizes_that_are_none() {
    assert_header_refused(&header("'<f4'", "(-1, 2)"), "a size is negative");
    assert_header_refused(&header("'<f4'", "(99999999999999999999,)"), "a size does not fit in 64 bits");
    assert_header_refused(&header("'<f4'", "(1.5,)"), "the shape is not a tuple of counts");
    assert_header_refused(&header("'<f4'", "('a',)"), "the shape is not a tuple of counts");
    assert_header_refused(&header("'<f4'", "4"), "the shape is not a tuple");
    assert_header_refused(
        &header("'<f4'", &format!("({})", "1,".repeat(65))),
        "it has more than 64 dimensions",
    );
}

#[test]
fn claims_more_elements_than_there_are() {
    let expected = ErrorKind::SizeMismatch { expected: 24, actual: 23 };
    assert_eq!(unmeasured(&floats("(2, 3)", &[0; 23])), expected);
}

#[test]
fn bytes_behind_the_elements_are_told() {
    let bytes = floats("(2,)", &[0; 11]);
    let container = read_bytes(&bytes).expect("an array");
    let tail = bytes.len() as u64 - 3..bytes.len() as u64;
    assert_eq!(container.uncovered, std::slice::from_ref(&tail));
}

#[test]
fn claims_a_header_of_two_gigabytes() {
    let bytes = [MAGIC, &[2, 0], &(1u32 << 31).to_le_bytes(), b"{}"].concat();
    let what = "the header of the array";
    assert_refused(&bytes, &ErrorKind::TooLarge { what, actual: 1 << 31, limit: MAX_HEADER_BYTES });
}

#[test]
fn claims_a_header_longer_than_the_file() {
    let whole = floats("(1,)", &[]);
    for length in 1..whole.len() {
        let error = read_bytes(&whole[..length]).map(|container| outcome(&container));
        assert!(matches!(error, Err(ErrorKind::PastEndOfFile { .. })), "{length}: {error:?}");
    }
}

#[test]
fn claims_a_version_that_does_not_exist() {
    assert_refused(&npy([9, 1], b"{}", &[]), &ErrorKind::NpyVersion { major: 9, minor: 1 });
}

#[test]
fn nests_sixty_thousand_parentheses() {
    let nested = "(".repeat(60_000);
    assert_header_refused(&header("'<f4'", &nested), "the shape is not a tuple of counts");
    assert_header_refused(&header(&format!("[{nested}"), "(1,)"), "a bracket is not closed");
    let closed = format!("[{}{}]", "(".repeat(30_000), ")".repeat(30_000));
    let structured = npy([1, 0], header(&closed, "(1,)").as_bytes(), &[]);
    assert!(matches!(unmeasured(&structured), ErrorKind::UnsupportedTensor { what: "structured numpy", .. }));
}

#[test]
fn headers_that_are_no_such_dict() {
    assert_header_refused("", "it is not the literal of a dict");
    assert_header_refused("__import__('os')", "it is not the literal of a dict");
    assert_header_refused("{'descr': '<f4'", "it is not the literal of a dict");
    assert_header_refused("{'descr': '<f4'}", "a key is missing");
    assert_header_refused("{'descr': '<f4', 'descr': '<f8'}", "a key stands twice");
    assert_header_refused("{'descr': '<f4', 'extra': 1}", "it has a key of its own");
    assert_header_refused("{'descr': '<f4", "a quote is not closed");
    assert_header_refused("{'descr': '\\x3cf4'}", "text has an escape");
    assert_header_refused("{'descr': f4}", "text is expected");
    assert_header_refused("{'fortran_order': 1}", "the order is not a truth value");
    assert_header_refused(&(header("'<f4'", "(1,)") + "x"), "something follows the dict");
}

#[test]
fn elements_that_are_not_measured_are_listed_by_name() {
    let kinds = [
        ("'>f4'", "big-endian numpy"),
        ("'<V2'", "raw 2-byte numpy (bfloat16 loses its name in numpy files)"),
        ("'|V1'", "raw 1-byte numpy (float8 loses its name in numpy files)"),
        ("'|V12'", "raw numpy"),
        ("'<f16'", "long double numpy"),
        ("'<M8[ns]'", "date and time numpy"),
        ("'<U5'", "text numpy"),
        ("[('x', '<f4'), ('y', [('z', '<f4')])]", "structured numpy"),
    ];
    for (descr, what) in kinds {
        let expected = ErrorKind::UnsupportedTensor { what, shape: Some(vec![2].into()) };
        assert_eq!(unmeasured(&npy([1, 0], header(descr, "(2,)").as_bytes(), &[0; 64])), expected, "{descr}");
    }
}

#[test]
fn claims_an_element_type_that_does_not_exist() {
    let expected = ErrorKind::UnknownDtype { dtype: "<f3".to_owned() };
    assert_eq!(unmeasured(&npy([1, 0], header("'<f3'", "(2,)").as_bytes(), &[0; 6])), expected);
}

#[test]
fn bytes_have_no_order() {
    let bytes = npy([1, 0], header("'>i1'", "(2,)").as_bytes(), &[0; 2]);
    assert_eq!(outcome(&read_bytes(&bytes).expect("an array")), Ok(vec![2]));
}

#[test]
fn hides_a_call_of_the_shell_among_its_objects() {
    let evil = pickled(&call("posix", "system", &[text("true")]));
    let container = read_bytes(&npy([1, 0], header("'|O'", "(1,)").as_bytes(), &evil)).expect("a header");
    let objects = ErrorKind::UnsupportedTensor { what: "Python object", shape: Some(vec![1].into()) };
    assert_eq!(outcome(&container), Err(objects));
    let [found] = container.globals.as_slice() else { panic!("{:?}", container.globals) };
    assert_eq!((found.global.name.as_str(), found.danger), ("system", Danger::Dangerous));
}

#[test]
fn hides_objects_behind_a_pickle_that_breaks_off() {
    let container =
        read_bytes(&npy([1, 0], header("'|O'", "(1,)").as_bytes(), b"\x80\x02}(")).expect("a header");
    let [problem] = container.problems.as_slice() else { panic!("{:?}", container.problems) };
    assert!(matches!(problem.kind, ErrorKind::PickleTruncated { .. }), "{problem}");
}

proptest! {
    #[test]
    fn no_header_panics(text in "[{}\\[\\]()'\",:a-zA-Z0-9 <>|L-]{0,80}") {
        drop(header::parse(text.as_bytes()));
    }

    #[test]
    fn no_change_of_a_byte_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = floats("(2, 3)", &[0; 24]);
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Ok(container) = read_bytes(&bytes)
            && let Ok(tensor) = &container.entries[0].tensor
            && tensor.dtype.size().is_some()
        {
            prop_assert!(tensor.read_f64(0..tensor.count().min(16), &mut Vec::new()).is_ok());
        }
    }
}
