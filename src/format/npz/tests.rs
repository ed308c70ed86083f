//! Archives of arrays written by hand: what each one claims, and that the claim is seen through.

use super::*;
use crate::error::ZipFault;
use crate::format::Danger;
use crate::format::craft::{Record, call, crc, deflated, pickled, stored, text, zip};

fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
}

fn plain() -> Vec<u8> {
    npy("<f4", "(2,)", &[0; 8])
}

/// Bytes as an array of them.
fn array_of(bytes: &[u8]) -> Vec<u8> {
    npy("|u1", &format!("({},)", bytes.len()), bytes)
}

/// Read with a map and without, which must not differ.
fn read_bytes(records: &[Record]) -> Result<Container> {
    let [mapped, unmapped] = [true, false].map(|mmap| {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("arrays.npz");
        std::fs::write(&path, zip(records)).expect("a writable directory");
        let context = Context { mmap, ..Context::default() };
        read(Arc::new(InputFile::open(&path, &context).expect("a file")), &context)
    });
    let described = |read: &Result<Container>| read.as_ref().map(outcome).map_err(|error| error.kind.clone());
    assert_eq!(described(&mapped), described(&unmapped), "with and without a map");
    mapped
}

fn outcome(container: &Container) -> Vec<(String, std::result::Result<u64, ErrorKind>)> {
    let tensor = |entry: &Entry| match &entry.tensor {
        Ok(tensor) => Ok(tensor.count()),
        Err(error) => Err(error.kind.clone()),
    };
    container.entries.iter().map(|entry| (entry.name.clone(), tensor(entry))).collect()
}

/// What is said about one member beside an intact one.
#[track_caller]
fn beside_an_intact_one(member: Record) -> std::result::Result<u64, ErrorKind> {
    let container = read_bytes(&[stored("intact.npy", &plain()), member]).expect("a readable archive");
    let [intact, other] = <[_; 2]>::try_from(outcome(&container)).expect("two arrays");
    assert_eq!(intact, ("intact".to_owned(), Ok(2)));
    other.1
}

fn fault(name: &str, fault: ZipFault) -> std::result::Result<u64, ErrorKind> {
    Err(ErrorKind::ZipMember { name: name.to_owned(), fault })
}

#[test]
fn stored_and_deflated_arrays_are_read() {
    let data = 1.5f32.to_le_bytes();
    let array = npy("<f4", "(1,)", &data);
    for member in [stored("x/weight.npy", &array), deflated("x/weight.npy", &array)] {
        let container = read_bytes(&[member]).expect("an archive");
        assert_eq!(outcome(&container), [("x/weight".to_owned(), Ok(1))]);
        assert_eq!((&container.uncovered, &container.problems), (&vec![], &vec![]));
        let mut values = Vec::new();
        let tensor = container.entries[0].tensor.as_ref().expect("an array");
        tensor.read_f64(0..1, &mut values).expect("readable elements");
        assert_eq!(values, [1.5]);
    }
}

#[test]
fn declares_more_than_it_inflates_to() {
    let record = deflated("w.npy", &plain());
    let longer = Record { size: record.size + 1, ..record.clone() };
    let shorter = Record { size: record.size - 1, ..record };
    assert_eq!(beside_an_intact_one(longer), fault("w.npy", ZipFault::Inflate));
    assert_eq!(beside_an_intact_one(shorter), fault("w.npy", ZipFault::Inflate));
}

#[test]
fn declares_more_than_is_ever_inflated() {
    let record = Record { size: u32::MAX - 1, ..deflated("w.npy", &plain()) };
    let what = "a member of the archive";
    let refused = beside_an_intact_one(record);
    let limits = LEAST_INFLATED..MAX_INFLATED;
    let expected = |kind: &ErrorKind| {
        matches!(kind, ErrorKind::TooLarge { what: told, actual, limit }
            if *told == what && *actual == u64::from(u32::MAX - 1) && limits.contains(limit))
    };
    assert!(refused.as_ref().is_err_and(expected), "{refused:?}");
}

#[test]
fn what_was_declared_is_spent_even_by_a_lie() {
    let liar = Record { size: LEAST_INFLATED as u32, ..deflated("liar.npy", &plain()) };
    let honest = array_of(&vec![0; 1 << 20]);
    let container = read_bytes(&[liar, deflated("w.npy", &honest)]).expect("an archive");
    let outcome = outcome(&container);
    assert_eq!(outcome[0], ("liar".to_owned(), fault("liar.npy", ZipFault::Inflate)));
    assert!(matches!(outcome[1].1, Err(ErrorKind::TooLarge { limit, .. }) if limit < 1 << 20), "{outcome:?}");
}

#[test]
fn inflates_to_other_bytes_than_were_deflated() {
    let array = plain();
    let record = Record { checksum: Some(!crc(&array)), ..deflated("w.npy", &array) };
    assert!(matches!(beside_an_intact_one(record), Err(ErrorKind::ZipChecksum { .. })));
}

#[test]
fn is_compressed_by_another_method() {
    let record = Record { method: 12, ..stored("w.npy", &plain()) };
    assert_eq!(beside_an_intact_one(record), fault("w.npy", ZipFault::Method(12)));
}

#[test]
fn claims_more_elements_than_its_member_has() {
    let short = npy("<f4", "(3,)", &[0; 8]);
    let expected = Err(ErrorKind::SizeMismatch { expected: 12, actual: 8 });
    assert_eq!(beside_an_intact_one(stored("w.npy", &short)), expected);
    assert_eq!(beside_an_intact_one(deflated("w.npy", &short)), expected);
}

#[test]
fn is_no_array_but_named_like_one() {
    let expected = Err(ErrorKind::NpyHeader { message: "it does not begin as one" });
    assert_eq!(beside_an_intact_one(stored("w.npy", b"hello, world")), expected);
}

#[test]
fn two_members_of_one_name_are_refused() {
    let error = read_bytes(&[stored("w.npy", &plain()), stored("w.npy", &plain())]).expect_err("ambiguous");
    assert_eq!(fault("w.npy", ZipFault::Duplicate), Err(error.kind));
}

#[test]
fn bytes_that_are_no_array_are_told() {
    let long = [plain(), vec![0; 3]].concat();
    let container =
        read_bytes(&[stored("w.npy", &long), stored("readme.txt", b"hello")]).expect("an archive");
    let lengths: Vec<_> = container.uncovered.iter().map(|range| range.end - range.start).collect();
    assert_eq!(lengths, [3, 5]);
    let container = read_bytes(&[deflated("w.npy", &long)]).expect("an archive");
    let kinds: Vec<_> = container.problems.iter().map(|error| &error.kind).collect();
    assert_eq!(kinds, [&ErrorKind::TrailingBytes { bytes: 3 }]);
}

#[test]
fn hides_a_call_of_the_shell_in_a_deflated_array_of_objects() {
    let evil = npy("|O", "(1,)", &pickled(&call("posix", "system", &[text("true")])));
    let container = read_bytes(&[deflated("w.npy", &evil)]).expect("an archive");
    let [found] = container.globals.as_slice() else { panic!("{:?}", container.globals) };
    assert_eq!((found.global.name.as_str(), found.danger), ("system", Danger::Dangerous));
}

#[test]
fn an_archive_without_arrays_has_no_tensors() {
    let error = read_bytes(&[stored("readme.txt", b"hello")]).expect_err("nothing to read");
    assert_eq!(error.kind, ErrorKind::NoTensors);
}
