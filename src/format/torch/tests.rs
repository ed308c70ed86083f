//! Archives and pickles written by hand: what each one claims, and that the claim is seen through.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::format::Entry;
use crate::format::craft::*;
use crate::tensor::Tensor;

/// An archive of one pickle and some storages.
fn archive(value: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let mut records = vec![stored("root/data.pkl", &pickled(value))];
    records.extend(storages.iter().map(|(key, data)| stored(&format!("root/data/{key}"), data)));
    zip(&records)
}

fn read_bytes(bytes: &[u8]) -> Result<Container> {
    let mapped = read_with(bytes, true);
    let unmapped = read_with(bytes, false);
    let described = |result: &Result<Container>| match result {
        Ok(container) => Ok(format!("{:?} {:?}", shapes(container), container.uncovered)),
        Err(error) => Err(error.kind.clone()),
    };
    assert_eq!(described(&mapped), described(&unmapped), "with and without a map");
    mapped
}

fn read_with(bytes: &[u8], mmap: bool) -> Result<Container> {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("file.pt");
    std::fs::write(&path, bytes).expect("a writable directory");
    let context = Context { mmap, ..Context::default() };
    read(Arc::new(InputFile::open(&path, &context)?), &context)
}

fn shapes(container: &Container) -> Vec<(String, std::result::Result<Vec<u64>, ErrorKind>)> {
    let shape = |entry: &Entry| {
        entry.tensor.as_ref().map(|tensor| tensor.shape.clone()).map_err(|error| error.kind.clone())
    };
    container.entries.iter().map(|entry| (entry.name.clone(), shape(entry))).collect()
}

#[track_caller]
fn refused(bytes: &[u8]) -> ErrorKind {
    match read_bytes(bytes) {
        Ok(container) => panic!("read as {:?}", shapes(&container)),
        Err(error) => error.kind,
    }
}

#[track_caller]
fn member_fault(bytes: &[u8]) -> ZipFault {
    match refused(bytes) {
        ErrorKind::ZipMember { fault, .. } => fault,
        other => panic!("{other:?}"),
    }
}

/// The one tensor of an archive, named `w`.
#[track_caller]
fn only_tensor(value: Vec<u8>, storages: &[(&str, &[u8])]) -> std::result::Result<Tensor, ErrorKind> {
    let container = read_bytes(&archive(&dict(&[("w", value)]), storages)).expect("a readable archive");
    assert_eq!(container.entries.len(), 1, "{:?}", shapes(&container));
    let entry = container.entries.into_iter().next().expect("one entry");
    assert_eq!(entry.name, "w");
    entry.tensor.map_err(|error| error.kind)
}

const PLAIN: &[u8] = &[0; 16];

fn plain() -> Vec<u8> {
    dict(&[("w", floats("0", 4, 0, &[4], &[1]))])
}

fn values(tensor: &Tensor) -> Vec<f64> {
    let mut values = Vec::new();
    tensor.read_f64(0..tensor.count(), &mut values).expect("readable elements");
    values
}

mod archives {
    use super::*;

    #[test]
    fn a_plain_archive_is_read_whole() {
        let container = read_bytes(&archive(&plain(), &[("0", PLAIN)])).expect("a plain archive");
        assert_eq!(shapes(&container), [("w".to_owned(), Ok(vec![4]))]);
        assert_eq!((container.uncovered, container.problems, container.globals), (vec![], vec![], vec![]));
    }

    #[test]
    fn sizes_in_zip64_fields_are_read() {
        let mut member = stored("root/data/0", PLAIN);
        member.zip64 = true;
        let bytes = zip(&[stored("root/data.pkl", &pickled(&plain())), member]);
        assert_eq!(shapes(&read_bytes(&bytes).expect("zip64")), [("w".to_owned(), Ok(vec![4]))]);
    }

    #[test]
    fn claims_zip64_sizes_but_has_none() {
        let mut bytes = archive(&plain(), &[("0", PLAIN)]);
        let directory = find(&bytes, b"PK\x01\x02");
        bytes[directory + 20..directory + 28].fill(0xff);
        assert_eq!(member_fault(&bytes), ZipFault::NotThere);
    }

    #[test]
    fn checksum_zero_is_none_and_a_wrong_one_is_a_problem() {
        let with = |checksum| {
            let pickle = Record { checksum, ..stored("root/data.pkl", &pickled(&plain())) };
            read_bytes(&zip(&[pickle, stored("root/data/0", PLAIN)])).expect("readable all the same")
        };
        assert_eq!(with(Some(0)).problems, []);
        let damaged = with(Some(1));
        assert!(matches!(damaged.problems[0].kind, ErrorKind::ZipChecksum { expected: 1, .. }));
        assert_eq!(damaged.entries.len(), 1);
    }

    #[test]
    fn a_deflated_pickle_is_inflated() {
        let bytes = zip(&[deflated("root/data.pkl", &pickled(&plain())), stored("root/data/0", PLAIN)]);
        assert_eq!(shapes(&read_bytes(&bytes).expect("deflated")), [("w".to_owned(), Ok(vec![4]))]);
    }

    #[test]
    fn claims_fewer_bytes_than_it_inflates_to() {
        let bomb = Record { size: 10, ..deflated("root/data.pkl", &vec![0; 1 << 20]) };
        assert_eq!(member_fault(&zip(&[bomb])), ZipFault::Inflate);
        let short = Record { size: 1 << 20, ..deflated("root/data.pkl", b"N.") };
        assert_eq!(member_fault(&zip(&[short])), ZipFault::Inflate);
    }

    #[test]
    fn claims_a_pickle_of_a_gigabyte() {
        let bomb = Record { size: 1 << 30, ..deflated("root/data.pkl", b"N.") };
        let expected = ErrorKind::TooLarge {
            what: "a member of the archive",
            actual: 1 << 30,
            limit: MAX_INFLATED + MAX_RATIO * 4,
        };
        assert_eq!(refused(&zip(&[bomb])), expected);
    }

    #[test]
    fn a_compressed_storage_is_one_damaged_tensor() {
        let bytes = zip(&[stored("root/data.pkl", &pickled(&plain())), deflated("root/data/0", PLAIN)]);
        let container = read_bytes(&bytes).expect("the rest is intact");
        let kind = ErrorKind::ZipMember { name: "root/data/0".to_owned(), fault: ZipFault::Compressed };
        assert_eq!(shapes(&container), [("w".to_owned(), Err(kind))]);
    }

    #[test]
    fn a_method_that_is_not_read_is_refused_where_it_is_needed() {
        let odd = Record { method: 14, ..stored("root/data.pkl", b"N.") };
        assert_eq!(member_fault(&zip(&[odd])), ZipFault::Method(14));
        let elsewhere = Record { method: 14, ..stored("root/notes", b"N.") };
        assert!(read_bytes(&zip(&[stored("root/data.pkl", b"N."), elsewhere])).is_ok());
    }

    #[test]
    fn members_that_could_be_read_in_two_ways_are_refused() {
        let pickle = || stored("root/data.pkl", b"N.");
        let encrypted = Record { flags: 1, ..pickle() };
        assert_eq!(member_fault(&zip(&[encrypted])), ZipFault::Encrypted);
        assert_eq!(member_fault(&zip(&[pickle(), pickle()])), ZipFault::Duplicate);
        let overlapping = Record { header: Some(0), ..stored("root/data.qkl", b"N.") };
        assert_eq!(member_fault(&zip(&[pickle(), overlapping])), ZipFault::Overlap);
        let astray = Record { header: Some(3), ..pickle() };
        assert_eq!(member_fault(&zip(&[astray])), ZipFault::NotThere);
        let two_sizes = Record { size: 1, ..pickle() };
        assert_eq!(member_fault(&zip(&[two_sizes])), ZipFault::Sizes);
    }

    #[test]
    fn names_that_lead_outside_are_refused() {
        for name in
            ["../data.pkl", "root/../data.pkl", "/root/data.pkl", "root\\data.pkl", "root/\0", "./a", ""]
        {
            let bytes = zip(&[stored("root/data.pkl", b"N."), stored(name, b"")]);
            assert_eq!(member_fault(&bytes), ZipFault::UnsafeName, "{name}");
        }
    }

    #[test]
    fn two_pickles_in_different_roots_are_refused() {
        let bytes = zip(&[stored("a/data.pkl", b"N."), stored("b/data.pkl", b"cos\nsystem\n.")]);
        assert!(matches!(refused(&bytes), ErrorKind::SeveralPickles { .. }));
    }

    #[test]
    fn a_comment_that_imitates_a_directory_is_an_error_not_another_archive() {
        let fake = zip(&[]);
        let bytes = zip_with_comment(&[stored("root/data.pkl", b"N.")], &fake);
        assert!(matches!(refused(&bytes), ErrorKind::NoPickle | ErrorKind::ZipDirectory { .. }));
    }

    #[test]
    fn archives_without_their_end_are_refused_at_every_length() {
        let whole = archive(&plain(), &[("0", PLAIN)]);
        for length in 1..whole.len() {
            refused(&whole[..length]);
        }
    }

    #[test]
    fn a_script_has_the_tensors_of_its_constants_too() {
        let attributes = [text("w"), floats("0", 4, 0, &[4], &[1])].concat();
        let module = [global("__torch__", "Net"), b")\x81}(".to_vec(), attributes, b"ub".to_vec()].concat();
        let constants = tuple(&[floats("0", 1, 0, &[1], &[1])]);
        let script = zip(&[
            stored("m/data.pkl", &pickled(&module)),
            stored("m/data/0", PLAIN),
            deflated("m/code/__torch__.py", b"class Net(Module): ..."),
            stored("m/constants.pkl", &pickled(&constants)),
            stored("m/constants/0", &[0; 4]),
        ]);
        let container = read_bytes(&script).expect("a script");
        assert_eq!(container.format, Format::TorchScript);
        let expected = [("w".to_owned(), Ok(vec![4])), ("constants.0".to_owned(), Ok(vec![1]))];
        assert_eq!(shapes(&container), expected);
        assert_eq!((container.uncovered, container.problems, container.globals), (vec![], vec![], vec![]));
    }

    #[test]
    fn a_call_among_the_constants_of_a_script_is_found() {
        let evil = call("posix", "system", &[text("true")]);
        let script = zip(&[stored("m/data.pkl", b"N."), stored("m/constants.pkl", &pickled(&evil))]);
        let container = read_bytes(&script).expect("a script");
        assert_eq!(container.globals.len(), 1, "{:?}", container.globals);
    }

    #[test]
    fn the_folders_of_a_script_are_no_hiding_place() {
        let evil = pickled(&call("posix", "system", &[text("true")]));
        for folder in ["extra", "code", "constants"] {
            let plain = zip(&[
                stored("m/data.pkl", b"N."),
                stored("m/version", b"3\n"),
                stored(&format!("m/{folder}/payload.pkl"), &evil),
            ]);
            let container = read_bytes(&plain).expect("an archive with a member more");
            assert_eq!((container.globals.len(), container.uncovered.len()), (1, 1), "{folder}");
        }
        for name in ["m/extra/payload.pkl", "m/extra/notes.txt", "m/code/payload.pkl"] {
            let script = zip(&[
                stored("m/data.pkl", b"N."),
                stored("m/constants.pkl", b"N."),
                stored("m/code/__torch__.py", b"class Net(Module): ..."),
                stored("m/extra/config.json", b"{}"),
                stored(name, &evil),
            ]);
            let container = read_bytes(&script).expect("a script");
            assert_eq!(container.format, Format::TorchScript);
            assert_eq!((container.globals.len(), container.uncovered.len()), (1, 0), "{name}");
        }
    }

    #[test]
    fn a_directory_with_bytes_is_a_member_like_any() {
        let evil = pickled(&call("posix", "system", &[text("true")]));
        let archive = |data: &[u8]| zip(&[stored("m/data.pkl", b"N."), stored("m/notes/", data)]);
        let empty = read_bytes(&archive(b"")).expect("an archive with a directory");
        assert_eq!((empty.globals.len(), empty.uncovered.len()), (0, 0));
        let filled = read_bytes(&archive(&evil)).expect("an archive with a member more");
        assert_eq!((filled.globals.len(), filled.uncovered.len()), (1, 1));
    }

    #[test]
    fn other_formats_are_refused_by_name() {
        assert_eq!(refused(b"junk before PK\x03\x04"), ErrorKind::UnknownFormat);
        assert_eq!(refused(&zip(&[stored("x.npy", b"")])), ErrorKind::NoPickle);
        assert_eq!(refused(&zip(&[stored("data.pkl", b"N.")])), ErrorKind::NoPickle);
        let export = zip(&[stored("m/archive_format", b"pt2")]);
        assert!(
            matches!(refused(&export), ErrorKind::UnsupportedFormat { format } if format.contains("pt2"))
        );
        let swapped = zip(&[stored("m/data.pkl", b"N."), stored("m/byteorder", b"big")]);
        assert_eq!(refused(&swapped), ErrorKind::ByteOrder { found: "big".to_owned() });
    }

    fn find(bytes: &[u8], needle: &[u8]) -> usize {
        bytes.windows(needle.len()).position(|window| window == needle).expect("the needle is there")
    }
}

mod tensors {
    use super::*;

    fn outside(kind: &ErrorKind) -> bool {
        matches!(kind, ErrorKind::ViewOutOfStorage { .. })
    }

    #[test]
    fn views_read_the_elements_they_name() {
        let data = [0f32, 1.0, 2.0, 3.0, 4.0, 5.0].map(f32::to_le_bytes).concat();
        let transposed = only_tensor(floats("0", 6, 0, &[3, 2], &[1, 3]), &[("0", &data)]).expect("a view");
        assert_eq!(values(&transposed), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        let tail = only_tensor(floats("0", 6, 4, &[2], &[1]), &[("0", &data)]).expect("a view");
        assert_eq!(values(&tail), [4.0, 5.0]);
        let scalar = only_tensor(floats("0", 6, 5, &[], &[]), &[("0", &data)]).expect("a scalar");
        assert_eq!((values(&scalar), scalar.shape.len()), (vec![5.0], 0));
        let empty = only_tensor(floats("0", 0, 0, &[0, 5], &[5, 1]), &[("0", &[])]).expect("an empty tensor");
        assert_eq!(empty.shape, [0, 5]);
    }

    #[test]
    fn an_expanded_view_of_a_trillion_elements_stands_on_four_bytes() {
        let tensor = only_tensor(floats("0", 1, 0, &[1 << 40], &[0]), &[("0", &[0; 4])]).expect("a view");
        let (distinct, repeats) = tensor.without_repeats();
        assert_eq!((distinct.count(), repeats), (1, 1 << 40));
    }

    #[test]
    fn a_view_that_shows_its_elements_again_and_again_is_refused_unless_it_is_expanded() {
        let data = [0u8; 16 << 10];
        let view =
            |size: &[i64], stride: &[i64]| only_tensor(floats("0", 4096, 0, size, stride), &[("0", &data)]);
        let kind = view(&[1024; 4], &[1; 4]).expect_err("2^40 elements of 16 KB");
        let message =
            "the view shows 1099511627776 elements of a storage of 4093: it overlaps itself".to_owned();
        assert_eq!(kind, ErrorKind::ViewOutOfStorage { message });
        assert!(outside(
            &view(&[1024, 1024, 1 << 30], &[1, 1, 0]).expect_err("an overlap in front of an expansion")
        ));
        assert_eq!(view(&[1000, 7], &[1, 1]).expect("windows of seven").count(), 7000);
        let expanded = view(&[1 << 20, 64, 64], &[0, 1, 64]).expect("an expanded matrix");
        let (distinct, repeats) = expanded.without_repeats();
        assert_eq!((distinct.count(), repeats), (4096, 1 << 20));
        assert_eq!(view(&[0, 9], &[0, 1]).expect("an empty view").shape, [0, 9]);
    }

    #[test]
    fn claims_elements_outside_of_its_storage() {
        for (offset, size, stride) in [
            (0, vec![5], vec![1]),
            (4, vec![1], vec![1]),
            (0, vec![2], vec![4]),
            (1 << 62, vec![1], vec![1]),
            (0, vec![2, 2], vec![i64::MAX, i64::MAX]),
            (-1, vec![1], vec![1]),
            (0, vec![-1], vec![1]),
            (0, vec![1], vec![-1]),
            (0, vec![1, 1], vec![1]),
            (0, vec![1; 65], vec![1; 65]),
        ] {
            let kind = only_tensor(floats("0", 4, offset, &size, &stride), &[("0", PLAIN)])
                .expect_err("out of bounds");
            assert!(outside(&kind), "{offset} {size:?} {stride:?}: {kind:?}");
        }
    }

    #[test]
    fn claims_more_elements_than_can_be_counted() {
        let kind =
            only_tensor(floats("0", 4, 0, &[1 << 62, 1 << 62], &[0, 0]), &[("0", PLAIN)]).expect_err("2^124");
        assert!(matches!(kind, ErrorKind::ShapeOverflow { .. }));
    }

    #[test]
    fn claims_a_storage_of_another_length() {
        for count in [3, 5, 1 << 62, i64::MAX] {
            let kind =
                only_tensor(floats("0", count, 0, &[1], &[1]), &[("0", PLAIN)]).expect_err("a false length");
            assert!(matches!(kind, ErrorKind::SizeMismatch { actual: 16, .. }), "{count}: {kind:?}");
        }
    }

    #[test]
    fn claims_a_storage_that_is_not_there() {
        let kind = only_tensor(floats("../../etc/passwd", 4, 0, &[4], &[1]), &[("0", PLAIN)])
            .expect_err("no such key");
        assert_eq!(kind, ErrorKind::MissingStorage { key: "../../etc/passwd".to_owned() });
    }

    #[test]
    fn one_damaged_tensor_leaves_the_others_intact() {
        let value = dict(&[("bad", floats("9", 4, 0, &[4], &[1])), ("good", floats("0", 4, 0, &[4], &[1]))]);
        let container = read_bytes(&archive(&value, &[("0", PLAIN)])).expect("a readable archive");
        assert!(container.entries[0].tensor.is_err() && container.entries[1].tensor.is_ok());
    }

    #[test]
    fn bytes_without_a_type_take_it_from_the_call() {
        let arguments = |dtype: &str| {
            let hooks = call("collections", "OrderedDict", &[]);
            let bytes = storage("UntypedStorage", "0", 4);
            [bytes, int(0), counts(&[4]), counts(&[1]), b"\x89".to_vec(), hooks, global("torch", dtype)]
        };
        let rebuilt = |dtype| {
            only_tensor(call("torch._utils", "_rebuild_tensor_v3", &arguments(dtype)), &[("0", &[0x38; 4])])
        };
        assert_eq!(values(&rebuilt("float8_e4m3fn").expect("fp8")), [1.0; 4]);
        assert_eq!(
            rebuilt("float3").expect_err("no such type"),
            ErrorKind::UnknownDtype { dtype: "float3".to_owned() }
        );
        assert!(outside(&rebuilt("float64").expect_err("32 bytes on 4")));
    }

    #[test]
    fn tensors_without_plain_elements_are_listed_with_their_shape() {
        let unsupported = |value, what, shape: &[u64]| {
            let kind = only_tensor(value, &[("0", PLAIN)]).expect_err(what);
            assert_eq!(kind, ErrorKind::UnsupportedTensor { what, shape: Some(shape.into()) });
        };
        let quantised = [storage("QInt8Storage", "0", 16), int(0), counts(&[2, 8]), counts(&[8, 1])];
        unsupported(call("torch._utils", "_rebuild_qtensor", &quantised), "quantised", &[2, 8]);
        let meta = [global("torch", "float32"), counts(&[3]), counts(&[1]), b"\x89".to_vec()];
        unsupported(
            call("torch._utils", "_rebuild_meta_tensor_no_storage", &meta),
            "meta (without data)",
            &[3],
        );
        let part = || floats("0", 4, 0, &[4], &[1]);
        let size = call("torch", "Size", &[counts(&[9, 9])]);
        let sparse = [text("layout"), tuple(&[part(), part(), size, b"\x88".to_vec()])];
        unsupported(call("torch._utils", "_rebuild_sparse_tensor", &sparse), "sparse", &[9, 9]);
        let shard = tuple(&[
            global("torch.distributed.tensor", "DTensor"),
            global("torch", "float32"),
            counts(&[8]),
            counts(&[1]),
        ]);
        let state = dict(&[("_local_tensor", part())]);
        let wrapper = global("torch._utils", "_rebuild_wrapper_subclass");
        let sharded = [wrapper, global("torch.distributed.tensor", "DTensor"), shard, state];
        unsupported(call("torch._tensor", "_rebuild_from_type_v2", &sharded), "sharded", &[8]);
        let hooks = call("collections", "OrderedDict", &[]);
        let negated = dict(&[("neg", b"\x88".to_vec())]);
        let arguments = [
            storage("FloatStorage", "0", 4),
            int(0),
            counts(&[4]),
            counts(&[1]),
            b"\x89".to_vec(),
            hooks,
            negated,
        ];
        unsupported(
            call("torch._utils", "_rebuild_tensor_v2", &arguments),
            "lazily negated or conjugated",
            &[4],
        );
    }

    #[test]
    fn calls_with_the_wrong_arguments_are_malformed_tensors() {
        for arguments in [vec![], vec![int(1), int(1), int(1), int(1)]] {
            let kind = only_tensor(call("torch._utils", "_rebuild_tensor_v2", &arguments), &[])
                .expect_err("no tensor");
            assert!(matches!(kind, ErrorKind::MalformedTensor { .. }), "{kind:?}");
        }
    }

    #[test]
    fn a_parameter_in_itself_is_no_tensor_and_no_loop() {
        let own = b"ctorch._utils\n_rebuild_parameter\n(]q\x00h\x00atR".to_vec();
        let container = read_bytes(&archive(&dict(&[("w", own)]), &[])).expect("a readable archive");
        assert_eq!(container.entries.len(), 0);
        let mut nested = floats("0", 4, 0, &[4], &[1]);
        for _ in 0..40 {
            nested = call("torch._utils", "_rebuild_parameter", &[nested]);
        }
        assert!(matches!(only_tensor(nested, &[("0", PLAIN)]), Err(ErrorKind::MalformedTensor { .. })));
    }

    #[test]
    fn a_numpy_array_encoded_as_latin_1_text_is_decoded_and_other_text_is_refused() {
        let dtype = [call("numpy", "dtype", &[text("f4"), b"\x89".to_vec(), b"\x88".to_vec()])].concat();
        let array = |characters: &str| {
            let encoded = call("_codecs", "encode", &[text(characters), text("latin1")]);
            let arguments = [global("numpy", "ndarray"), counts(&[0]), text("b")];
            let empty = call("numpy.core.multiarray", "_reconstruct", &arguments);
            let state = tuple(&[int(1), counts(&[1]), dtype.clone(), b"\x89".to_vec(), encoded]);
            [empty, state, b"b".to_vec()].concat()
        };
        // -1.5 is 0xbfc00000: two of its bytes take two bytes of UTF-8 each.
        let minus_one_and_a_half = "\0\0\u{c0}\u{bf}";
        assert_eq!(values(&only_tensor(array(minus_one_and_a_half), &[]).expect("an array")), [-1.5]);
        let short = only_tensor(array("\u{c0}\u{bf}"), &[]).expect_err("two bytes for four");
        assert_eq!(short, ErrorKind::SizeMismatch { expected: 4, actual: 2 });
        let other = only_tensor(array("\0\0\0\u{100}"), &[]).expect_err("a character above a byte");
        assert!(matches!(other, ErrorKind::MalformedTensor { .. }));
    }

    #[test]
    fn a_numpy_array_in_plain_bytes_is_a_tensor_over_the_pickle() {
        let dtype = [call("numpy", "dtype", &[text("f4"), b"\x89".to_vec(), b"\x88".to_vec()])].concat();
        let bytes = [&b"C\x08"[..], &1.5f32.to_le_bytes(), &(-2f32).to_le_bytes()].concat();
        let array = |bytes: Vec<u8>| {
            let empty = call(
                "numpy.core.multiarray",
                "_reconstruct",
                &[global("numpy", "ndarray"), counts(&[0]), text("b")],
            );
            [empty, tuple(&[int(1), counts(&[2]), dtype.clone(), b"\x89".to_vec(), bytes]), b"b".to_vec()]
                .concat()
        };
        assert_eq!(values(&only_tensor(array(bytes), &[]).expect("an array")), [1.5, -2.0]);
        let short = only_tensor(array(b"C\x03abc".to_vec()), &[]).expect_err("eight bytes in three");
        assert_eq!(short, ErrorKind::SizeMismatch { expected: 8, actual: 3 });
        let unencoded = only_tensor(array(text("eight by")), &[]).expect_err("text that nobody decodes");
        assert!(matches!(unencoded, ErrorKind::MalformedTensor { .. }));
    }
}

mod paths {
    use super::*;

    fn named(value: &[u8], storages: &[(&str, &[u8])]) -> (Vec<String>, Vec<ErrorKind>) {
        let container = read_bytes(&archive(value, storages)).expect("a readable archive");
        let names = container.entries.into_iter().map(|entry| entry.name).collect();
        (names, container.problems.into_iter().map(|problem| problem.kind).collect())
    }

    fn weight() -> Vec<u8> {
        floats("0", 4, 0, &[4], &[1])
    }

    #[test]
    fn the_last_of_duplicate_keys_counts_and_is_reported() {
        let value = dict(&[("w", floats("0", 4, 0, &[4], &[1])), ("w", floats("0", 4, 0, &[2], &[1]))]);
        let container = read_bytes(&archive(&value, &[("0", PLAIN)])).expect("a readable archive");
        assert_eq!(shapes(&container), [("w".to_owned(), Ok(vec![2]))]);
        assert_eq!(container.problems[0].kind, ErrorKind::DuplicateKey { key: "w".to_owned(), count: 2 });
    }

    #[test]
    fn names_that_only_look_the_same_are_both_kept_and_reported() {
        let value = [&b"}("[..], &int(0), &weight(), &text("0"), &weight(), b"u"].concat();
        let (names, problems) = named(&value, &[("0", PLAIN)]);
        assert_eq!((names, problems), (vec!["0".to_owned(); 2], vec![ErrorKind::DuplicateName { count: 2 }]));
        let nested = dict(&[("a.b", weight()), ("a", dict(&[("b", weight())]))]);
        assert_eq!(named(&nested, &[("0", PLAIN)]).1, [ErrorKind::DuplicateName { count: 2 }]);
    }

    #[test]
    fn a_module_is_named_as_its_state_dict() {
        let linear = dict(&[
            ("training", b"\x88".to_vec()),
            ("_parameters", dict(&[("weight", weight())])),
            ("_buffers", dict(&[])),
            ("_modules", dict(&[])),
        ]);
        let linear =
            [global("torch.nn.modules.linear", "Linear"), b")\x81".to_vec(), linear, b"b".to_vec()].concat();
        let outer = dict(&[
            ("_parameters", dict(&[])),
            ("_buffers", dict(&[("mean", weight())])),
            ("_modules", dict(&[("fc", linear)])),
        ]);
        let outer = [global("mine", "Net"), b")\x81".to_vec(), outer, b"b".to_vec()].concat();
        assert_eq!(named(&outer, &[("0", PLAIN)]).0, ["mean", "fc.weight"]);
    }

    #[test]
    fn keys_of_every_kind_have_a_name() {
        let keys = [
            text("text"),
            int(-7),
            b"N".to_vec(),
            b"\x88".to_vec(),
            b"G\x3f\xe0\0\0\0\0\0\0".to_vec(),
            b")".to_vec(),
        ];
        let entries = keys.iter().map(|key| [key.clone(), weight()].concat()).collect::<Vec<_>>().concat();
        let (names, _) = named(&[&b"}("[..], &entries, b"u"].concat(), &[("0", PLAIN)]);
        assert_eq!(names, ["text", "-7", "None", "True", "0.5", "5"]);
    }

    #[test]
    fn objects_of_unknown_classes_keep_their_tensors() {
        let slots = tuple(&[b"N".to_vec(), dict(&[("slot", weight())])]);
        let object = [
            global("mine", "Thing"),
            tuple(&[weight()]),
            b"\x81".to_vec(),
            slots,
            b"b".to_vec(),
            weight(),
            b"a".to_vec(),
        ]
        .concat();
        assert_eq!(named(&dict(&[("x", object)]), &[("0", PLAIN)]).0, ["x.0", "x.slot", "x.0"]);
        let ordered = call(
            "collections",
            "OrderedDict",
            &[[&b"]("[..], &tuple(&[text("k"), weight()]), b"e"].concat()],
        );
        assert_eq!(named(&ordered, &[("0", PLAIN)]).0, ["k"]);
    }

    #[test]
    fn a_tensor_by_itself_has_the_empty_name() {
        assert_eq!(named(&weight(), &[("0", PLAIN)]).0, [""]);
    }

    #[test]
    fn a_storage_by_itself_is_a_vector() {
        let container =
            read_bytes(&archive(&dict(&[("s", storage("FloatStorage", "0", 4))]), &[("0", PLAIN)]));
        assert_eq!(shapes(&container.expect("a readable archive")), [("s".to_owned(), Ok(vec![4]))]);
    }

    #[test]
    fn a_container_that_holds_itself_is_walked_once() {
        let value = [&b"}q\x01(X\x04\0\0\0selfh\x01"[..], &text("w"), &weight(), b"u"].concat();
        assert_eq!(named(&value, &[("0", PLAIN)]).0, ["w"]);
    }

    #[test]
    fn nesting_beyond_any_name_is_reported_and_what_lies_above_is_kept() {
        let deep = [b"]".repeat(200_000), weight(), b"a".repeat(200_000)].concat();
        let (names, problems) = named(&dict(&[("deep", deep), ("w", weight())]), &[("0", PLAIN)]);
        assert_eq!(names, ["w"]);
        assert_eq!(problems, [ErrorKind::TooMany { what: "levels of nesting", limit: MAX_DEPTH as u64 }]);
    }

    #[test]
    fn long_names_shared_by_many_tensors_are_bounded_together() {
        let key = "k".repeat(MAX_KEY_BYTES);
        let once = [&weight()[..], b"q\x02"].concat();
        let list = [&b"]("[..], &once, &b"h\x02".repeat(70_000), b"e"].concat();
        let container =
            read_with(&archive(&dict(&[(&key, list)]), &[("0", PLAIN)]), true).expect("a readable archive");
        assert!(container.entries.len() < 65_536, "{}", container.entries.len());
        let limit = ErrorKind::TooMany { what: "bytes of tensor names", limit: MAX_NAME_BYTES };
        assert!(container.problems.iter().any(|problem| problem.kind == limit));
    }

    #[test]
    fn a_key_longer_than_any_name_is_named_by_its_position() {
        let value = dict(&[("a", weight()), (&"k".repeat(MAX_KEY_BYTES + 1), weight())]);
        assert_eq!(named(&value, &[("0", PLAIN)]).0, ["a", "1"]);
    }

    #[test]
    fn objects_that_share_one_large_state_are_walked_in_linear_time() {
        let state = [
            &b"}("[..],
            &(0..1000).flat_map(|key| [int(key), b"]".to_vec()].concat()).collect::<Vec<_>>(),
            b"uq\x05",
        ]
        .concat();
        let object = [&global("mine", "Thing")[..], b")\x81h\x05ba"].concat();
        let value = [b"]".to_vec(), state, b"a".to_vec(), object.repeat(20_000)].concat();
        let started = std::time::Instant::now();
        assert_eq!(named(&value, &[]).0, Vec::<String>::new());
        assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
    }

    #[test]
    fn bytes_that_no_tensor_refers_to_are_found() {
        let data = [0; 1024];
        let value =
            dict(&[("a", floats("0", 256, 0, &[8], &[1])), ("b", floats("0", 256, 20, &[100], &[1]))]);
        let container = read_bytes(&archive(&value, &[("0", &data), ("1", &data), ("2", &[])]))
            .expect("a readable archive");
        let start = container.entries[0].tensor.as_ref().expect("a tensor").pieces[0].bytes.start;
        let [tail, other] = container.uncovered.as_slice() else { panic!("{:?}", container.uncovered) };
        assert_eq!(*tail, start + 480..start + 1024, "the 48 bytes between the views are padding");
        assert_eq!(other.end - other.start, 1024);
    }

    #[test]
    fn a_broken_pickle_keeps_its_findings_and_is_no_clean_file() {
        let value = [&global("posix", "system")[..], b"\xfe"].concat();
        let container = read_bytes(&archive(&value, &[("0", PLAIN)])).expect("a readable archive");
        assert_eq!(container.globals.len(), 1);
        assert_eq!(container.problems[0].kind, ErrorKind::PickleOpcode { byte: 0xfe });
        assert_eq!(container.problems[0].at, Some(At::Member("root/data.pkl".to_owned(), 16)));
    }
}

/// A real archive with every kind of member and node that `torch.save` writes for a training checkpoint.
const REAL: &[u8] = include_bytes!("../../../fixtures/formats/adam-checkpoint.pt");

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn changed_bytes_of_a_real_archive_end_in_a_container_or_a_typed_error(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = REAL.to_vec();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Ok(container) = read_bytes(&bytes) {
            for tensor in container.entries.iter().filter_map(|entry| entry.tensor.as_ref().ok()) {
                let mut values = Vec::new();
                prop_assert!(tensor.read_f64(0..tensor.count().min(100), &mut values).is_ok());
            }
        }
    }

    #[test]
    fn changed_bytes_of_a_real_pickle_end_in_a_container_or_a_typed_error(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let start = REAL.windows(2).position(|window| window == b"\x80\x02").expect("the pickle's protocol");
        let mut pickle = REAL[start..start + pickle::read(&REAL[start..], REAL.len() as u64).length as usize].to_vec();
        for (place, byte) in changes {
            let place = place.index(pickle.len());
            pickle[place] = byte;
        }
        let bytes = zip(&[stored("root/data.pkl", &pickle), stored("root/data/0", PLAIN)]);
        prop_assert!(read_bytes(&bytes).is_ok(), "a broken pickle is a problem of a readable archive");
    }
}
