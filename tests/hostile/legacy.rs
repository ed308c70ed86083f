//! Files of before PyTorch 1.6: five pickles, a list of keys, and counts.

use super::craft::*;
use super::expectation::*;

const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

struct File {
    pickles: [Vec<u8>; 5],
    storages: Vec<(i64, Vec<u8>)>,
}

fn list(items: &[Vec<u8>]) -> Vec<u8> {
    [&b"]("[..], &items.concat(), b"e"].concat()
}

fn vector(key: &str, count: i64) -> Vec<u8> {
    floats(key, count, 0, &[count], &[1])
}

/// [1], [2, 3] and [4, 5, 6].
fn plain() -> File {
    let data = super::safetensors::numbers;
    File {
        pickles: [
            MAGIC.to_vec(),
            int(1001),
            dict(&[("little_endian", b"\x88".to_vec())]),
            dict(&[("a", vector("0", 1)), ("b", vector("1", 2)), ("c", vector("2", 3))]),
            list(&["0", "1", "2"].map(text)),
        ],
        storages: vec![(1, data(&[1.0])), (2, data(&[2.0, 3.0])), (3, data(&[4.0, 5.0, 6.0]))],
    }
}

impl File {
    fn with(mut self, pickle: usize, value: Vec<u8>) -> Self {
        self.pickles[pickle] = value;
        self
    }

    fn counting(mut self, storage: usize, count: i64) -> Self {
        self.storages[storage].0 = count;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let pickles = self.pickles.iter().flat_map(|pickle| pickled(pickle));
        let storages =
            self.storages.iter().flat_map(|(count, data)| [&count.to_le_bytes()[..], data].concat());
        pickles.chain(storages).collect()
    }
}

const A: (&str, f64) = ("a", 1.0);
const ALL: [(&str, f64); 3] = [A, ("b", 5.0), ("c", 15.0)];

/// What comes behind a storage that is not where it should be.
fn from_the_second(kind: &'static str) -> Expected {
    damaged(&[kind, "unplaced-storage"], &[A])
}

pub fn cases() -> Vec<Case> {
    let shell = super::pickle::evil();
    let shell = &shell[2..shell.len() - 1];
    let whole = plain().bytes();
    vec![
        file("legacy/honest.pt", whole.clone(), reads(&ALL)),
        file("legacy/magic-of-another-number.pt", plain().with(0, int(7)).bytes(), refused("no-tensors")),
        file(
            "legacy/magic-that-calls-the-shell.pt",
            plain().with(0, shell.to_vec()).bytes(),
            damaged(&["no-tensors", "pickle-opcode"], &[]).finding("FP901"),
        ),
        file("legacy/protocol-1000.pt", plain().with(1, int(1000)).bytes(), refused("legacy-protocol")),
        file(
            "legacy/protocol-that-is-text.pt",
            plain().with(1, text("1001")).bytes(),
            refused("legacy-protocol"),
        ),
        file(
            "legacy/big-endian.pt",
            plain().with(2, dict(&[("little_endian", b"\x89".to_vec())])).bytes(),
            refused("byte-order"),
        ),
        file(
            "legacy/object-that-calls-the-shell.pt",
            plain()
                .with(
                    3,
                    dict(&[
                        ("a", vector("0", 1)),
                        ("b", vector("1", 2)),
                        ("c", vector("2", 3)),
                        ("d", shell.to_vec()),
                    ]),
                )
                .bytes(),
            reads(&ALL).finding("FP901"),
        ),
        file("legacy/keys-that-are-a-number.pt", plain().with(4, int(3)).bytes(), refused("storage-list")),
        file(
            "legacy/keys-that-are-no-text.pt",
            plain().with(4, list(&[int(0)])).bytes(),
            refused("storage-list"),
        ),
        file(
            "legacy/key-twice.pt",
            plain().with(4, list(&["0", "0"].map(text))).bytes(),
            refused("storage-list"),
        ),
        file(
            "legacy/key-that-no-tensor-uses.pt",
            plain().with(4, list(&["0", "x", "1", "2"].map(text))).bytes(),
            damaged(&["unused-storage", "unplaced-storage"], &[A]).finding("FP904"),
        ),
        file(
            "legacy/fewer-keys-than-storages.pt",
            plain().with(4, list(&["0"].map(text))).bytes(),
            damaged(&["missing-storage"], &[A]).finding("FP904"),
        ),
        file("legacy/count-negative.pt", plain().counting(1, -2).bytes(), from_the_second("storage-length")),
        file(
            "legacy/count-of-another-number.pt",
            plain().counting(1, 3).bytes(),
            from_the_second("storage-length"),
        ),
        file(
            "legacy/count-of-2-to-the-62.pt",
            plain()
                .with(3, dict(&[("a", vector("0", 1)), ("b", vector("1", 1 << 62)), ("c", vector("2", 3))]))
                .counting(1, 1 << 62)
                .bytes(),
            from_the_second("past-end-of-file"),
        ),
        file(
            "legacy/storage-of-a-type-that-does-not-exist.pt",
            plain()
                .with(
                    3,
                    dict(&[
                        ("a", vector("0", 1)),
                        ("b", view(storage("OctopleStorage", "1", 2), 0, &[2], &[1])),
                        ("c", vector("2", 3)),
                    ]),
                )
                .bytes(),
            damaged(&["unplaced-storage", "unknown-dtype"], &[A]).listing(
                "b",
                "unknown-dtype",
                "unknown dtype",
            ),
        ),
        file(
            "legacy/cut-in-the-last-storage.pt",
            whole[..whole.len() - 4].to_vec(),
            damaged(&["past-end-of-file"], &ALL[..2]),
        ),
        file("legacy/cut-in-the-object.pt", whole[..200].to_vec(), refused("pickle-truncated")),
        file(
            "legacy/bytes-behind-the-end.pt",
            [whole, b"more".to_vec()].concat(),
            reads(&ALL).finding("FP904"),
        ),
    ]
}
