//! Series of pickles written by hand: what each one claims, and that the claim is seen through.

use proptest::prelude::*;

use super::*;
use crate::format::craft::*;
use crate::format::{Danger, Entry};

/// The five pickles and what follows them, true or not.
#[derive(Clone)]
struct File {
    magic: Vec<u8>,
    protocol: Vec<u8>,
    system: Vec<u8>,
    object: Vec<u8>,
    keys: Vec<u8>,
    /// Counts, and bytes.
    storages: Vec<(i64, Vec<u8>)>,
    tail: Vec<u8>,
}

impl File {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for pickle in [&self.magic, &self.protocol, &self.system, &self.object, &self.keys] {
            bytes.extend(pickled(pickle));
        }
        for (count, data) in &self.storages {
            bytes.extend(count.to_le_bytes());
            bytes.extend(data);
        }
        [bytes, self.tail.clone()].concat()
    }
}

fn list(items: &[Vec<u8>]) -> Vec<u8> {
    [&b"]("[..], &items.concat(), b"e"].concat()
}

fn keys(names: &[&str]) -> Vec<u8> {
    list(&names.iter().map(|name| text(name)).collect::<Vec<_>>())
}

/// A vector of floats over a whole storage.
fn vector(key: &str, count: i64) -> Vec<u8> {
    floats(key, count, 0, &[count], &[1])
}

/// Three vectors of 1, 2 and 3 floats.
fn plain() -> File {
    File {
        magic: [&b"\x8a\x0a"[..], &MAGIC].concat(),
        protocol: int(PROTOCOL),
        system: dict(&[("little_endian", b"\x88".to_vec())]),
        object: dict(&[("a", vector("0", 1)), ("b", vector("1", 2)), ("c", vector("2", 3))]),
        keys: keys(&["0", "1", "2"]),
        storages: vec![(1, vec![0; 4]), (2, vec![0; 8]), (3, vec![0; 12])],
        tail: Vec::new(),
    }
}

/// Read with a map and without, which must not differ.
fn read_bytes(bytes: &[u8]) -> Container {
    let [mapped, unmapped] = [true, false].map(|mmap| {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("file.pt");
        std::fs::write(&path, bytes).expect("a writable directory");
        let context = Context { mmap, ..Context::default() };
        let file = InputFile::open(&path, &context).expect("a file");
        read(Arc::new(file), &context).expect("whatever is wrong is in the container")
    });
    assert_eq!(outcome(&mapped), outcome(&unmapped), "with and without a map");
    assert_eq!(problems(&mapped), problems(&unmapped), "with and without a map");
    mapped
}

fn outcome(container: &Container) -> Vec<(&str, std::result::Result<u64, ErrorKind>)> {
    let tensor = |entry: &Entry| match &entry.tensor {
        Ok(tensor) => Ok(tensor.count()),
        Err(error) => Err(error.kind.clone()),
    };
    container.entries.iter().map(|entry| (entry.name.as_str(), tensor(entry))).collect()
}

fn problems(container: &Container) -> Vec<ErrorKind> {
    container.problems.iter().map(|error| error.kind.clone()).collect()
}

fn unplaced(key: &str) -> std::result::Result<u64, ErrorKind> {
    Err(ErrorKind::UnplacedStorage { key: key.to_owned() })
}

/// The first vector is intact, the second has this fault, which is also told once for the file, the third is lost.
#[track_caller]
fn assert_second_is_lost(file: &File, fault: ErrorKind) {
    let container = read_bytes(&file.bytes());
    assert_eq!(outcome(&container), [("a", Ok(1)), ("b", Err(fault.clone())), ("c", unplaced("2"))]);
    assert_eq!(problems(&container), [fault]);
}

#[track_caller]
fn assert_refused(file: &File, fault: ErrorKind) {
    let container = read_bytes(&file.bytes());
    assert_eq!(outcome(&container), []);
    assert_eq!(problems(&container), [fault]);
}

fn evil() -> Vec<u8> {
    call("posix", "system", &[text("true")])
}

#[track_caller]
fn assert_finds_the_call(bytes: &[u8]) -> Container {
    let container = read_bytes(bytes);
    let [found] = container.globals.as_slice() else { panic!("{:?}", container.globals) };
    assert_eq!((found.global.name.as_str(), found.danger), ("system", Danger::Dangerous));
    assert_eq!(&bytes[found.offset as usize..][..7], b"cposix\n", "the place is in the file");
    container
}

#[test]
fn a_plain_file_is_read_whole() {
    let container = read_bytes(&plain().bytes());
    assert_eq!(container.format, Format::TorchLegacy);
    assert_eq!(outcome(&container), [("a", Ok(1)), ("b", Ok(2)), ("c", Ok(3))]);
    assert_eq!((container.problems, container.uncovered, container.globals), (vec![], vec![], vec![]));
}

#[test]
fn claims_another_magic_number() {
    let mut file = plain();
    file.magic[2] ^= 1;
    let container = read_bytes(&file.bytes());
    assert_eq!(container.format, Format::Pickle);
    assert_eq!(problems(&container)[0], ErrorKind::NoTensors);
}

#[test]
fn claims_another_protocol() {
    assert_refused(&File { protocol: int(1002), ..plain() }, ErrorKind::LegacyProtocol { found: Some(1002) });
    assert_refused(&File { protocol: text("1001"), ..plain() }, ErrorKind::LegacyProtocol { found: None });
}

#[test]
fn claims_a_big_endian_machine() {
    let system = dict(&[("little_endian", b"\x89".to_vec())]);
    assert_refused(&File { system, ..plain() }, ErrorKind::ByteOrder { found: "big".to_owned() });
}

#[test]
fn lists_no_storages_but_a_number() {
    let message = "it is not a list";
    assert_refused(&File { keys: int(3), ..plain() }, ErrorKind::StorageList { message });
}

#[test]
fn lists_a_storage_that_is_no_text() {
    let message = "a key is not text";
    assert_refused(&File { keys: list(&[int(0)]), ..plain() }, ErrorKind::StorageList { message });
}

#[test]
fn lists_a_storage_twice() {
    let message = "a key stands twice";
    assert_refused(&File { keys: keys(&["0", "1", "0"]), ..plain() }, ErrorKind::StorageList { message });
}

#[test]
fn lists_a_storage_that_no_tensor_uses() {
    let container = read_bytes(&File { keys: keys(&["0", "9", "1", "2"]), ..plain() }.bytes());
    assert_eq!(outcome(&container), [("a", Ok(1)), ("b", unplaced("1")), ("c", unplaced("2"))]);
    assert_eq!(problems(&container), [ErrorKind::UnusedStorage { key: "9".to_owned() }]);
}

#[test]
fn lists_fewer_storages_than_tensors_use() {
    let mut file = File { keys: keys(&["0", "2"]), ..plain() };
    file.storages.remove(1);
    let container = read_bytes(&file.bytes());
    let missing = ErrorKind::MissingStorage { key: "1".to_owned() };
    assert_eq!(outcome(&container), [("a", Ok(1)), ("b", Err(missing)), ("c", Ok(3))]);
}

#[test]
fn states_a_negative_count() {
    let mut file = plain();
    file.storages[1].0 = -2;
    assert_second_is_lost(&file, ErrorKind::StorageLength { key: "1".to_owned(), stated: -2, expected: 2 });
}

#[test]
fn states_another_count_than_the_pickle() {
    let mut file = plain();
    file.storages[1] = (3, vec![0; 12]);
    assert_second_is_lost(&file, ErrorKind::StorageLength { key: "1".to_owned(), stated: 3, expected: 2 });
}

#[test]
fn states_more_elements_than_can_be_addressed() {
    let mut file = plain();
    let count = 1 << 62;
    file.object = dict(&[("a", vector("0", 1)), ("b", vector("1", count)), ("c", vector("2", 3))]);
    file.storages[1].0 = count;
    let available = file.bytes().len() as u64;
    assert_second_is_lost(&file, ErrorKind::PastEndOfFile { needed: u64::MAX, available });
}

#[test]
fn has_a_storage_of_a_type_that_does_not_exist() {
    let mut file = plain();
    let odd = view(storage("FortyBitStorage", "1", 2), 0, &[2], &[1]);
    file.object = dict(&[("a", vector("0", 1)), ("b", odd), ("c", vector("2", 3))]);
    assert_second_is_lost(&file, ErrorKind::UnknownDtype { dtype: "FortyBitStorage".to_owned() });
}

#[test]
fn quantised_storages_have_lengths_all_the_same() {
    let mut file = plain();
    let quantised = view(storage("QInt32Storage", "1", 2), 0, &[2], &[1]);
    file.object = dict(&[("a", vector("0", 1)), ("b", quantised), ("c", vector("2", 3))]);
    let unsupported = ErrorKind::UnsupportedTensor { what: "quantised", shape: Some(vec![2].into()) };
    let container = read_bytes(&file.bytes());
    assert_eq!(outcome(&container), [("a", Ok(1)), ("b", Err(unsupported)), ("c", Ok(3))]);
}

#[test]
fn cut_anywhere_it_is_never_clean() {
    let whole = plain().bytes();
    for length in 1..whole.len() {
        let container = read_bytes(&whole[..length]);
        assert_ne!(problems(&container), [], "the first {length} bytes");
    }
}

#[test]
fn bytes_behind_the_last_storage_are_told() {
    let file = File { tail: vec![7; 5], ..plain() };
    let bytes = file.bytes();
    let container = read_bytes(&bytes);
    let tail = bytes.len() as u64 - 5..bytes.len() as u64;
    assert_eq!(container.uncovered, std::slice::from_ref(&tail));
    assert_eq!(container.problems, []);
}

/// A persistent id whose sixth item says which part of the storage of four floats is meant.
fn part(offset: i64, count: i64) -> Vec<u8> {
    let place = tuple(&[text("part"), int(offset), int(count)]);
    let id = [text("storage"), global("torch", "FloatStorage"), text("0"), text("cpu"), int(4), place];
    [tuple(&id), b"Q".to_vec()].concat()
}

fn of_part(offset: i64, count: i64, size: i64) -> std::result::Result<u64, ErrorKind> {
    let object = dict(&[("w", view(part(offset, count), 0, &[size], &[1]))]);
    let file = File { object, keys: keys(&["0"]), storages: vec![(4, vec![0; 16])], ..plain() };
    let container = read_bytes(&file.bytes());
    let [(_, tensor)] = outcome(&container).try_into().expect("one tensor");
    tensor
}

#[test]
fn a_view_of_a_part_of_a_storage() {
    assert_eq!(of_part(1, 3, 3), Ok(3));
    assert!(matches!(of_part(1, 3, 4), Err(ErrorKind::ViewOutOfStorage { .. })), "longer than its part");
}

#[test]
fn claims_a_part_outside_of_its_storage() {
    for (offset, count) in [(2, 3), (5, 0), (1 << 62, 1), (i64::MAX, i64::MAX)] {
        assert!(
            matches!(of_part(offset, count, 1), Err(ErrorKind::ViewOutOfStorage { .. })),
            "{offset} {count}"
        );
    }
}

#[test]
fn calls_the_shell_in_place_of_the_magic_number() {
    let container = assert_finds_the_call(&pickled(&evil()));
    assert_eq!(container.format, Format::Pickle);
    assert_eq!(problems(&container), [ErrorKind::NoTensors]);
}

#[test]
fn calls_the_shell_in_any_of_the_pickles() {
    assert_finds_the_call(&File { magic: evil(), ..plain() }.bytes());
    assert_finds_the_call(&File { protocol: evil(), ..plain() }.bytes());
    assert_finds_the_call(&File { system: evil(), ..plain() }.bytes());
    assert_finds_the_call(&File { object: evil(), ..plain() }.bytes());
    assert_finds_the_call(&File { keys: evil(), ..plain() }.bytes());
}

#[test]
fn calls_the_shell_behind_a_header_that_is_refused() {
    assert_finds_the_call(&File { protocol: int(1002), object: evil(), ..plain() }.bytes());
}

#[test]
fn calls_the_shell_in_the_last_of_a_thousand_pickles() {
    let bytes = [pickled(b"N").repeat(999), pickled(&evil())].concat();
    assert_finds_the_call(&bytes);
}

#[test]
fn calls_the_shell_behind_more_bytes_than_are_read_at_first() {
    let long = text(&"x".repeat(FIRST_WINDOW as usize));
    assert_finds_the_call(&pickled(&tuple(&[long, evil()])));
}

#[test]
fn has_more_pickles_than_are_read() {
    let container = read_bytes(&pickled(b"N").repeat(MAX_PICKLES + 2));
    let too_many = ErrorKind::TooMany { what: "pickles in a row", limit: MAX_PICKLES as u64 };
    assert_eq!(problems(&container), [ErrorKind::NoTensors, too_many]);
}

#[test]
fn a_pickle_that_breaks_off_is_not_clean() {
    let container = read_bytes(b"\x80\x02}(");
    assert!(
        matches!(problems(&container)[..], [ErrorKind::PickleTruncated { .. }]),
        "{:?}",
        container.problems
    );
}

#[test]
fn a_pickled_numpy_array_is_a_tensor() {
    let empty = [call("numpy.core.multiarray", "_reconstruct", &[global("numpy", "ndarray"), counts(&[0])])];
    let dtype = [call("numpy", "dtype", &[text("f4")]), tuple(&[int(3), text("<")]), b"b".to_vec()].concat();
    let elements = [&b"C\x08"[..], &1.5f32.to_le_bytes(), &2.5f32.to_le_bytes()].concat();
    let state = tuple(&[int(1), counts(&[2]), dtype, b"\x89".to_vec(), elements]);
    let array = [empty.concat(), state, b"b".to_vec()].concat();
    let container = read_bytes(&pickled(&dict(&[("keys", array)])));
    assert_eq!(outcome(&container), [("keys", Ok(2))]);
    assert_eq!(container.problems, []);
    let mut values = Vec::new();
    let tensor = container.entries[0].tensor.as_ref().expect("an array");
    tensor.read_f64(0..2, &mut values).expect("readable elements");
    assert_eq!(values, [1.5, 2.5]);
}

proptest! {
    #[test]
    fn no_change_of_a_byte_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = plain().bytes();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let container = read_bytes(&bytes);
        let mut values = Vec::new();
        for tensor in container.entries.iter().filter_map(|entry| entry.tensor.as_ref().ok()) {
            prop_assert!(tensor.read_f64(0..tensor.count().min(16), &mut values).is_ok());
        }
    }
}
