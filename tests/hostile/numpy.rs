//! Arrays of numpy's, by themselves and in archives.

use super::craft::*;
use super::expectation::*;

fn npy(version: [u8; 2], header: &[u8], data: &[u8]) -> Vec<u8> {
    let length = header.len() as u32;
    let length =
        if version[0] == 1 { (length as u16).to_le_bytes().to_vec() } else { length.to_le_bytes().to_vec() };
    [b"\x93NUMPY", &version[..], &length, header, data].concat()
}

fn array(descr: &str, order: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n");
    npy([1, 0], header.as_bytes(), data)
}

fn floats(shape: &str) -> Vec<u8> {
    array("'<f4'", "False", shape, &super::safetensors::numbers(&[1.0, 2.0, 3.0, 4.0]))
}

fn header(text: &str) -> Vec<u8> {
    npy([1, 0], text.as_bytes(), &[0; 16])
}

fn listed(name: &'static str, stem: &'static str, descr: &str, reason: &'static str) -> Case {
    file(
        name,
        array(descr, "False", "(1,)", &[0; 16]),
        unjudged().listing(stem, "unsupported-tensor", reason),
    )
}

pub fn cases() -> Vec<Case> {
    let whole = ("honest", 10.0);
    let objects = |pickle: &[u8]| array("'|O'", "False", "(1,)", pickle);
    let archive = |name: &str, bytes: &[u8]| zip(&[stored("a.npy", &floats("(4,)")), stored(name, bytes)]);
    let a = ("a", 10.0);
    vec![
        file("numpy/honest.npy", floats("(4,)"), reads(&[whole])),
        file(
            "numpy/column-major.npy",
            array("'<f4'", "True", "(2, 2)", &super::safetensors::numbers(&[1.0, 2.0, 3.0, 4.0])),
            reads(&[("column-major", 10.0)]),
        ),
        file("numpy/shape-overflows.npy", floats("(4294967296, 4294967296, 4)"), refused("shape-overflow")),
        file("numpy/shape-negative.npy", floats("(-4,)"), refused("npy-header")),
        file("numpy/shape-of-more-than-there-is.npy", floats("(5,)"), refused("size-mismatch")),
        file(
            "numpy/shape-of-less-than-there-is.npy",
            floats("(3,)"),
            reads(&[("shape-of-less-than-there-is", 6.0)]).finding("FP904"),
        ),
        file(
            "numpy/header-of-2-gigabytes.npy",
            [&b"\x93NUMPY\x02\0\xff\xff\xff\x7f"[..], &[b' '; 64]].concat(),
            refused("too-large"),
        ),
        file(
            "numpy/header-longer-than-the-file.npy",
            b"\x93NUMPY\x01\0\xff\x7f{".to_vec(),
            refused("past-end-of-file"),
        ),
        file("numpy/version-9.npy", npy([9, 0], b"{}", &[]), refused("npy-version")),
        file(
            "numpy/header-of-sixty-thousand-parentheses.npy",
            npy([2, 0], "(".repeat(60_000).as_bytes(), &[]),
            refused("npy-header"),
        ),
        file(
            "numpy/header-that-is-an-expression.npy",
            header("{'descr': __import__('os').system('true')}"),
            refused("npy-header"),
        ),
        file(
            "numpy/header-with-a-key-twice.npy",
            header("{'descr': '<f4', 'descr': '<f8', 'fortran_order': False, 'shape': (2,)}"),
            refused("npy-header"),
        ),
        file("numpy/header-that-breaks-off.npy", header("{'descr': '<f4'"), refused("npy-header")),
        listed("numpy/big-endian.npy", "big-endian", "'>f4'", "big-endian"),
        listed("numpy/bfloat16-that-became-raw.npy", "bfloat16-that-became-raw", "'<V2'", "raw"),
        listed("numpy/long-double.npy", "long-double", "'<f16'", "long double"),
        listed("numpy/dates.npy", "dates", "'<M8[ns]'", "date"),
        listed("numpy/text.npy", "text", "'<U4'", "text"),
        listed("numpy/structured.npy", "structured", "[('x', '<f4'), ('y', [('z', '<i4')])]", "structured"),
        file(
            "numpy/element-type-that-does-not-exist.npy",
            array("'<q9'", "False", "(1,)", &[0; 16]),
            unjudged().listing("element-type-that-does-not-exist", "unknown-dtype", "unknown dtype"),
        ),
        file(
            "numpy/objects-that-call-the-shell.npy",
            objects(&super::pickle::evil()),
            unjudged()
                .listing("objects-that-call-the-shell", "unsupported-tensor", "Python object")
                .finding("FP901"),
        ),
        file(
            "numpy/objects-by-an-old-code.npz",
            archive("b.npy", &array("'|O8'", "False", "(1,)", &super::pickle::evil())),
            reads(&[a]).listing("b", "unsupported-tensor", "Python object").finding("FP901"),
        ),
        file(
            "numpy/objects-in-a-field.npz",
            archive(
                "b.npy",
                &array("[('x', '<f4'), ('y', [('z', '|O', (2,))])]", "False", "(1,)", &super::pickle::evil()),
            ),
            reads(&[a]).listing("b", "unsupported-tensor", "Python object").finding("FP901"),
        ),
        file(
            "numpy/field-that-is-called-like-objects.npz",
            archive("b.npy", &array("[('O', '<f4')]", "False", "(1,)", &[0; 4])),
            reads(&[a]).listing("b", "unsupported-tensor", "structured"),
        ),
        file("numpy/objects-whose-pickle-breaks-off.npy", objects(b"\x80\x02("), refused("pickle-truncated")),
        file("numpy/honest.npz", archive("b.npy", &floats("(2, 2)")), reads(&[a, ("b", 10.0)])),
        file(
            "numpy/deflated.npz",
            zip(&[stored("a.npy", &floats("(4,)")), deflated("b.npy", &floats("(4,)"))]),
            reads(&[a, ("b", 10.0)]),
        ),
        file(
            "numpy/array-that-the-directory-lost.npz",
            super::zip::without_the_last_record(archive("b.npy", &floats("(2, 2)")), "b.npy"),
            damaged(&["uncovered-bytes"], &[a]).finding("FP904"),
        ),
        file(
            "numpy/member-that-is-no-array.npz",
            archive("b.npy", b"nothing"),
            damaged(&["past-end-of-file"], &[a]),
        ),
        file(
            "numpy/member-that-only-looks-like-an-array.npz",
            archive("b.npy", b"nothing at all of numpy"),
            damaged(&["npy-header"], &[a]),
        ),
        file(
            "numpy/member-of-more-elements-than-bytes.npz",
            archive("b.npy", &floats("(5,)")),
            damaged(&["size-mismatch"], &[a]),
        ),
        file(
            "numpy/member-declares-more-than-it-inflates-to.npz",
            {
                let mut record = deflated("b.npy", &floats("(4,)"));
                record.size += 1;
                zip(&[stored("a.npy", &floats("(4,)")), record])
            },
            damaged(&["zip-member"], &[a]),
        ),
        file(
            "numpy/member-inflates-to-more-than-its-array.npz",
            zip(&[stored("a.npy", &floats("(4,)")), deflated("b.npy", &floats("(3,)"))]),
            damaged(&["trailing-bytes"], &[a, ("b", 6.0)]),
        ),
        file("numpy/members-of-one-name.npz", archive("a.npy", &floats("(4,)")), refused("zip-member")),
        file(
            "numpy/member-that-is-no-array-by-name.npz",
            archive("notes.txt", b"hidden"),
            reads(&[a]).finding("FP904"),
        ),
        file(
            "numpy/objects-that-call-the-shell.npz",
            archive("b.npy", &objects(&super::pickle::evil())),
            reads(&[a]).listing("b", "unsupported-tensor", "Python object").finding("FP901"),
        ),
        made(
            "numpy/member-that-inflates-to-200-megabytes.npz",
            |folder| {
                let bomb = deflated("b.npy", &array("'<f4'", "False", "(52428800,)", &vec![0; 200 << 20]));
                write(folder, "arrays.npz", &zip(&[stored("a.npy", &floats("(4,)")), bomb]))
            },
            damaged(&["too-large"], &[a]),
        ),
    ]
}
