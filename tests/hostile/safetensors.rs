//! safetensors: what a header can claim.

use super::expectation::*;

/// A header and the data behind it.
pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

pub fn entry(name: &str, dtype: &str, shape: &str, start: &str, end: &str) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
}

pub fn numbers(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// `a` is [1, 2, 3], and then comes `second`, over the four bytes of 4.
fn beside(second: &str) -> Vec<u8> {
    let header = format!("{{{},{second}}}", entry("a", "F32", "[3]", "0", "12"));
    with_header(&header, &numbers(&[1.0, 2.0, 3.0, 4.0]))
}

/// One honest tensor.
pub fn honest(name: &str, values: &[f32]) -> Vec<u8> {
    let (count, end) = (values.len().to_string(), (4 * values.len()).to_string());
    with_header(&format!("{{{}}}", entry(name, "F32", &format!("[{count}]"), "0", &end)), &numbers(values))
}

const A: (&str, f64) = ("a", 6.0);

pub fn cases() -> Vec<Case> {
    let length = |length: u64| [&length.to_le_bytes()[..], b"{}"].concat();
    let b = |dtype, shape, start, end| beside(&entry("b", dtype, shape, start, end));
    let whole = beside(&entry("b", "F32", "[1]", "12", "16"));
    let name = |index: usize| format!("layer.{index}.weight");
    let mut cases = vec![
        file("safetensors/honest.safetensors", whole.clone(), reads(&[A, ("b", 4.0)])),
        file("safetensors/empty.safetensors", Vec::new(), refused("empty-file")),
        file("safetensors/seven-bytes.safetensors", vec![1; 7], refused("past-end-of-file")),
        file("safetensors/length-of-2-to-the-64.safetensors", length(u64::MAX), refused("too-large")),
        file("safetensors/length-that-wraps-around.safetensors", length(u64::MAX - 7), refused("too-large")),
        file("safetensors/length-past-the-end.safetensors", length(1 << 20), refused("past-end-of-file")),
        file(
            "safetensors/length-of-99-megabytes-in-ten-bytes.safetensors",
            length(99_000_000),
            refused("past-end-of-file"),
        ),
        file("safetensors/length-of-zero.safetensors", 0u64.to_le_bytes().to_vec(), refused("header-syntax")),
        file("safetensors/no-tensors.safetensors", with_header("{}", b""), refused("no-tensors")),
        file("safetensors/header-is-a-list.safetensors", with_header("[]", b""), refused("header-syntax")),
        file(
            "safetensors/header-begins-with-a-space.safetensors",
            with_header(&format!(" {{{}}}", entry("a", "F32", "[1]", "0", "4")), &numbers(&[1.0])),
            refused("header-syntax"),
        ),
        file(
            "safetensors/byte-order-mark.safetensors",
            with_header(&format!("\u{feff}{{{}}}", entry("a", "F32", "[1]", "0", "4")), &numbers(&[1.0])),
            refused("header-syntax"),
        ),
        file(
            "safetensors/header-is-not-utf-8.safetensors",
            [&10u64.to_le_bytes()[..], b"{\"\xff\xfe\":1}  "].concat(),
            refused("header-syntax"),
        ),
        file(
            "safetensors/header-breaks-off-behind-one-tensor.safetensors",
            with_header(&format!("{{{},", entry("a", "F32", "[3]", "0", "12")), &numbers(&[1.0, 2.0, 3.0])),
            damaged(&["header-syntax"], &[A]),
        ),
        file(
            "safetensors/a-hundred-thousand-brackets.safetensors",
            with_header(&format!("{{\"a\":{}", "[".repeat(10_000)), b""),
            refused("header-syntax"),
        ),
        file(
            "safetensors/data-cut-off.safetensors",
            whole[..whole.len() - 4].to_vec(),
            damaged(&["past-end-of-file"], &[A]),
        ),
        file(
            "safetensors/trailing-bytes.safetensors",
            [&whole[..], b"more"].concat(),
            damaged(&["uncovered-bytes"], &[A, ("b", 4.0)]).finding("FP904"),
        ),
        file(
            "safetensors/hole.safetensors",
            with_header(
                &format!(
                    "{{{},{}}}",
                    entry("a", "F32", "[1]", "0", "4"),
                    entry("b", "F32", "[1]", "8", "12")
                ),
                &numbers(&[1.0, 9.0, 2.0]),
            ),
            damaged(&["uncovered-bytes"], &[("a", 1.0), ("b", 2.0)]).finding("FP904"),
        ),
        file(
            "safetensors/overlap.safetensors",
            b("F32", "[2]", "8", "16"),
            damaged(&["overlapping-tensors"], &[A, ("b", 7.0)]),
        ),
        file(
            "safetensors/the-same-bytes-twice.safetensors",
            with_header(
                &format!("{{{},{}}}", entry("a", "F32", "[1]", "0", "4"), entry("b", "F32", "[1]", "0", "4")),
                &numbers(&[1.0]),
            ),
            damaged(&["overlapping-tensors"], &[("a", 1.0), ("b", 1.0)]),
        ),
        file(
            "safetensors/offsets-reversed.safetensors",
            b("F32", "[1]", "16", "12"),
            damaged(&["reversed-offsets", "uncovered-bytes"], &[A]).finding("FP904"),
        ),
        file(
            "safetensors/offset-negative.safetensors",
            b("F32", "[1]", "-4", "16"),
            damaged(&["header-entry", "uncovered-bytes"], &[A]).finding("FP904"),
        ),
        file(
            "safetensors/offset-a-float.safetensors",
            b("F32", "[1]", "12.0", "16.0"),
            damaged(&["header-entry", "uncovered-bytes"], &[A]).finding("FP904"),
        ),
        file(
            "safetensors/offset-1e400.safetensors",
            b("F32", "[1]", "12", "1e400"),
            damaged(&["header-entry", "uncovered-bytes"], &[A]).finding("FP904"),
        ),
        file(
            "safetensors/offset-nan.safetensors",
            b("F32", "[1]", "12", "NaN"),
            damaged(&["header-syntax", "uncovered-bytes"], &[A]).finding("FP904"),
        ),
        file(
            "safetensors/offset-past-the-end.safetensors",
            b("F32", "[1]", "12", "18446744073709551615"),
            damaged(&["past-end-of-file", "uncovered-bytes"], &[A]).finding("FP904"),
        ),
        file(
            "safetensors/shape-negative.safetensors",
            b("F32", "[-1]", "12", "16"),
            damaged(&["header-entry", "uncovered-bytes"], &[A]).finding("FP904"),
        ),
        file(
            "safetensors/shape-a-float.safetensors",
            b("F32", "[1.0]", "12", "16"),
            damaged(&["header-entry", "uncovered-bytes"], &[A]).finding("FP904"),
        ),
        file(
            "safetensors/shape-overflows.safetensors",
            b("F32", "[4294967296,4294967296,4]", "12", "16"),
            damaged(&["shape-overflow"], &[A]),
        ),
        file(
            "safetensors/shape-wraps-to-zero.safetensors",
            b("F32", "[4294967296,4294967296]", "12", "12"),
            damaged(&["shape-overflow", "uncovered-bytes"], &[A]).finding("FP904"),
        ),
        file(
            "safetensors/shape-of-nothing-times-2-to-the-62.safetensors",
            beside(&format!(
                "{},{}",
                entry("b", "F32", "[1]", "12", "16"),
                entry("e", "F32", "[0,4611686018427387904,4611686018427387904]", "16", "16")
            )),
            reads(&[A, ("b", 4.0), ("e", 0.0)]),
        ),
        file(
            "safetensors/shape-of-more-than-the-bytes.safetensors",
            b("F32", "[2]", "12", "16"),
            damaged(&["size-mismatch"], &[A]),
        ),
        file(
            "safetensors/name-twice-alike.safetensors",
            with_header(&format!("{{{0},{0}}}", entry("a", "F32", "[1]", "0", "4")), &numbers(&[1.0])),
            damaged(&["repeated-name", "overlapping-tensors"], &[("a", 1.0)]),
        ),
        file(
            "safetensors/name-twice-with-other-bytes.safetensors",
            with_header(
                &format!("{{{},{}}}", entry("a", "F32", "[1]", "0", "4"), entry("a", "I32", "[1]", "4", "8")),
                &numbers(&[1.0, 0.0]),
            ),
            damaged(&["repeated-name"], &[("a", 0.0)]),
        ),
        file(
            "safetensors/name-twice-with-a-list-for-an-entry.safetensors",
            with_header(
                &format!(r#"{{"a":["F32",[1],[0,4]],{}}}"#, entry("a", "F32", "[1]", "0", "4")),
                &numbers(&[1.0]),
            ),
            damaged(&["repeated-name", "overlapping-tensors"], &[("a", 1.0)]),
        ),
        file(
            "safetensors/metadata-with-an-escaped-quote.safetensors",
            with_header(
                &format!(
                    r#"{{"__metadata__":{{"no\"te":"says \"a\": {{}}"}},{}}}"#,
                    entry("a", "F32", "[1]", "0", "4")
                ),
                &numbers(&[1.0]),
            ),
            reads(&[("a", 1.0)]),
        ),
        file(
            "safetensors/names-that-differ-by-case.safetensors",
            with_header(
                &format!("{{{},{}}}", entry("A", "F32", "[1]", "0", "4"), entry("a", "F32", "[1]", "4", "8")),
                &numbers(&[1.0, 2.0]),
            ),
            reads(&[("A", 1.0), ("a", 2.0)]),
        ),
        file(
            "safetensors/name-like-the-metadata.safetensors",
            honest("__metadata__ ", &[1.0]),
            reads(&[("__metadata__ ", 1.0)]),
        ),
        file(
            "safetensors/name-of-control-characters.safetensors",
            honest(r"a\u0000\u001b[31m\n\u202eb", &[1.0]),
            reads(&[("a\0\u{1b}[31m\n\u{202e}b", 1.0)]),
        ),
        file(
            "safetensors/name-of-a-formula.safetensors",
            honest("=cmd|' /C calc'!A0", &[1.0]),
            reads(&[("=cmd|' /C calc'!A0", 1.0)]),
        ),
        file(
            "safetensors/name-of-a-path.safetensors",
            honest("../../etc/passwd", &[1.0]),
            reads(&[("../../etc/passwd", 1.0)]),
        ),
        file("safetensors/name-empty.safetensors", honest("", &[1.0]), reads(&[("", 1.0)])),
        file(
            "safetensors/dtype-unknown.safetensors",
            b("F128", "[1]", "12", "16"),
            reads(&[A]).listing("b", "unknown-dtype", "unknown dtype F128"),
        ),
        file(
            "safetensors/packed-elements-that-fill-no-byte.safetensors",
            b("F4", "[7]", "12", "16"),
            damaged(&["partial-byte"], &[A]),
        ),
        file(
            "safetensors/packed-elements.safetensors",
            b("F4", "[8]", "12", "16"),
            reads(&[A]).listing("b", "opaque", "F4 tensors"),
        ),
        file("safetensors/scalar.safetensors", b("F32", "[]", "12", "16"), reads(&[A, ("b", 4.0)])),
        file(
            "safetensors/entry-a-number.safetensors",
            beside(r#""b":7"#),
            damaged(&["header-entry", "uncovered-bytes"], &[A]).finding("FP904"),
        ),
        file(
            "safetensors/entry-without-offsets.safetensors",
            beside(r#""b":{"dtype":"F32","shape":[1]}"#),
            damaged(&["header-entry", "uncovered-bytes"], &[A]).finding("FP904"),
        ),
        file(
            "safetensors/metadata-of-numbers.safetensors",
            beside(&format!(r#"{},"__metadata__":{{"step":7}}"#, entry("b", "F32", "[1]", "12", "16"))),
            damaged(&["header-metadata"], &[A, ("b", 4.0)]),
        ),
        file(
            "safetensors/misaligned.safetensors",
            with_header(
                &format!("{{{},{}}}", entry("a", "U8", "[1]", "0", "1"), entry("b", "F32", "[1]", "1", "5")),
                &[&[7u8][..], &numbers(&[4.0])].concat(),
            ),
            reads(&[("a", 0.0), ("b", 4.0)]),
        ),
        file(
            "safetensors/a-hundred-axes.safetensors",
            b("F32", &format!("[{}1]", "1,".repeat(99)), "12", "16"),
            reads(&[A, ("b", 4.0)]),
        ),
        made(
            "safetensors/a-hundred-thousand-axes.safetensors",
            |folder| {
                write(
                    folder,
                    "model.safetensors",
                    &beside(&entry("b", "F32", &format!("[{}1]", "1,".repeat(100_000)), "12", "16")),
                )
            },
            damaged(&["too-large", "uncovered-bytes"], &[A]).finding("FP904"),
        ),
        made(
            "safetensors/three-hundred-tensors-over-four-megabytes.safetensors",
            |folder| {
                let size = |k: usize| (1 << 20) - k;
                let entries = (0..300).map(|k| {
                    entry(&format!("w{k}"), "F32", &format!("[{}]", size(k)), "0", &(4 * size(k)).to_string())
                });
                let header = format!("{{{}}}", entries.collect::<Vec<_>>().join(","));
                write(folder, "model.safetensors", &with_header(&header, &numbers(&vec![1.0; 1 << 20])))
            },
            Expected {
                // The shortest first: 64 MiB and sixteen times the four of the file, in tensors of four.
                tensors: (0..32)
                    .map(|k| 299 - k)
                    .map(|k| (format!("w{k}"), f64::from((1 << 20) - k)))
                    .collect(),
                ..damaged(&["overlapping-tensors", "too-many"], &[])
            },
        ),
        made(
            "safetensors/name-of-a-megabyte.safetensors",
            |folder| write(folder, "model.safetensors", &honest(&"n".repeat(1 << 20), &[1.0])),
            Expected { tensors: vec![("n".repeat(1 << 20), 1.0)], ..Expected::default() },
        ),
        made(
            "safetensors/a-million-brackets.safetensors",
            |folder| {
                write(
                    folder,
                    "model.safetensors",
                    &with_header(&format!("{{\"a\":{}", "[".repeat(1 << 20)), b""),
                )
            },
            refused("header-syntax"),
        ),
        made(
            "safetensors/two-hundred-gigabytes-of-nothing.safetensors",
            |folder| {
                let path = write(folder, "model.safetensors", &honest("a", &[1.0, 2.0, 3.0]));
                let sparse =
                    std::fs::OpenOptions::new().write(true).open(&path).expect("it was just written");
                sparse.set_len(200 << 30).expect("a sparse file costs nothing");
                path
            },
            damaged(&["uncovered-bytes"], &[A]).finding("FP904"),
        ),
        made(
            "safetensors/name-of-forty-megabytes.safetensors",
            |folder| {
                let header = format!("{{{}}}", entry(&"n".repeat(40 << 20), "F32", "[1]", "0", "4"));
                write(folder, "model.safetensors", &with_header(&header, &numbers(&[1.0])))
            },
            refused("too-many"),
        ),
        made(
            "safetensors/thirty-megabytes-of-metadata.safetensors",
            |folder| {
                let pairs =
                    (0..2_000_000).map(|key| format!(r#""k{key}":"v""#)).collect::<Vec<_>>().join(",");
                let metadata = format!(r#""__metadata__":{{{pairs}}}"#);
                let header = format!("{{{metadata},{}}}", entry("a", "F32", "[3]", "0", "12"));
                write(folder, "model.safetensors", &with_header(&header, &numbers(&[1.0, 2.0, 3.0])))
            },
            damaged(&["too-large"], &[A]),
        ),
        made(
            "safetensors/twenty-million-axes.safetensors",
            |folder| {
                let shape = format!("[{}1]", "1,".repeat(20_000_000));
                let b = entry("b", "F32", &shape, "12", "16");
                write(folder, "model.safetensors", &beside(&b))
            },
            damaged(&["too-large", "uncovered-bytes"], &[A]).finding("FP904"),
        ),
        made(
            "safetensors/more-tensors-than-are-read.safetensors",
            |folder| {
                let entries = (0..300_000).map(|index| {
                    format!(
                        r#""{index}":{{"dtype":"U8","shape":[1],"data_offsets":[{index},{}]}}"#,
                        index + 1
                    )
                });
                let header = format!("{{{}}}", entries.collect::<Vec<_>>().join(","));
                write(folder, "model.safetensors", &with_header(&header, &vec![1; 300_000]))
            },
            refused("too-many"),
        ),
    ];
    let many = (0..400).map(|index| {
        entry(&name(index), "F32", "[1]", &(4 * index).to_string(), &(4 * index + 4).to_string())
    });
    cases.push(file(
        "safetensors/four-hundred-tensors-in-reverse.safetensors",
        with_header(&format!("{{{}}}", many.rev().collect::<Vec<_>>().join(",")), &numbers(&[1.0; 400])),
        Expected { tensors: (0..400).map(|index| (name(index), 1.0)).collect(), ..Expected::default() },
    ));
    cases
}
