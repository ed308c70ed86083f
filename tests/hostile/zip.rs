//! Zip archives: what the directory at the end can claim.

use super::craft::*;
use super::expectation::*;

pub const A: (&str, f64) = ("a", 3.0);

/// A state dict of one vector, [1, 2].
pub fn honest() -> Vec<u8> {
    zip(&records())
}

fn data() -> Vec<u8> {
    super::safetensors::numbers(&[1.0, 2.0])
}

fn pickle() -> Vec<u8> {
    pickled(&dict(&[("a", floats("0", 2, 0, &[2], &[1]))]))
}

fn records() -> Vec<Record> {
    vec![
        stored("archive/data.pkl", &pickle()),
        stored("archive/data/0", &data()),
        stored("archive/version", b"3\n"),
    ]
}

/// The archive with a member of its own.
fn with(record: Record) -> Vec<u8> {
    zip(&[records(), vec![record]].concat())
}

/// The archive with one member changed.
fn changed(position: usize, change: impl FnOnce(&mut Record)) -> Vec<u8> {
    let mut records = records();
    change(&mut records[position]);
    zip(&records)
}

/// A directory that says something else at `offset` bytes of its first record.
fn directory_says(offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut archive = honest();
    let start = archive.windows(4).position(|window| window == b"PK\x01\x02").expect("there is a directory");
    archive[start + offset..start + offset + bytes.len()].copy_from_slice(bytes);
    archive
}

/// An archive whose directory has lost its last record, of a member called `name`, and knows nothing of it.
pub fn without_the_last_record(mut archive: Vec<u8>, name: &str) -> Vec<u8> {
    let record = 46 + name.len();
    let end = archive.len() - 22;
    archive.drain(end - record..end);
    let end = end - record;
    for at in [end + 8, end + 10] {
        archive[at] -= 1;
    }
    let length = u32::from_le_bytes(archive[end + 12..end + 16].try_into().expect("four bytes"));
    archive[end + 12..end + 16].copy_from_slice(&(length - record as u32).to_le_bytes());
    archive
}

/// An archive with bytes between its last member and its directory.
fn with_bytes_before_the_directory(mut archive: Vec<u8>, bytes: &[u8]) -> Vec<u8> {
    let end = archive.len() - 22;
    let start = u32::from_le_bytes(archive[end + 16..end + 20].try_into().expect("four bytes"));
    archive[end + 16..end + 20].copy_from_slice(&(start + bytes.len() as u32).to_le_bytes());
    archive.splice(start as usize..start as usize, bytes.iter().copied());
    archive
}

pub fn cases() -> Vec<Case> {
    let whole = honest();
    let end = whole.len();
    vec![
        file("zip/honest.pt", whole.clone(), reads(&[A])),
        file("zip/directory-missing.pt", whole[..end - 22].to_vec(), refused("zip-directory")),
        file("zip/cut-in-half.pt", whole[..end / 2].to_vec(), refused("zip-directory")),
        file("zip/junk-before-it.pt", [&b"junk"[..], &whole].concat(), refused("unknown-format")),
        file(
            "zip/directory-past-the-end.pt",
            {
                let mut archive = whole.clone();
                archive[end - 6..end - 2].copy_from_slice(&u32::MAX.to_le_bytes());
                archive
            },
            refused("zip-directory"),
        ),
        file(
            "zip/more-members-than-there-are.pt",
            {
                let mut archive = whole.clone();
                archive[end - 14..end - 10].copy_from_slice(&[0xfe; 4]);
                archive
            },
            refused("zip-directory"),
        ),
        file(
            "zip/fewer-members-than-there-are.pt",
            {
                let mut archive = whole.clone();
                archive[end - 14..end - 10].copy_from_slice(&[1, 0, 1, 0]);
                archive
            },
            refused("zip-directory"),
        ),
        file(
            "zip/member-of-two-names.pt",
            {
                let mut archive = whole.clone();
                let start = archive
                    .windows(14)
                    .position(|window| window == b"archive/data/0")
                    .expect("a local header");
                archive[start + 13] = b'1';
                archive
            },
            refused("zip-member"),
        ),
        file(
            "zip/comment-with-an-end-of-its-own.pt",
            zip_with_comment(&records(), &[&b"PK\x05\x06"[..], &[0; 18]].concat()),
            refused("zip-directory"),
        ),
        file(
            "zip/member-of-2-gigabytes.pt",
            changed(1, |record| record.size = 2 << 30),
            refused("zip-member"),
        ),
        file(
            "zip/member-past-the-end.pt",
            directory_says(42, &u32::MAX.to_le_bytes()),
            refused("zip-member"),
        ),
        file(
            "zip/member-over-the-directory.pt",
            directory_says(20, &[0, 2, 0, 0, 0, 2, 0, 0]),
            refused("zip-member"),
        ),
        file(
            "zip/members-share-bytes.pt",
            changed(1, |record| record.header = Some(0)),
            refused("zip-member"),
        ),
        file("zip/members-of-one-name.pt", with(stored("archive/data/0", &[0; 8])), refused("zip-member")),
        file(
            "zip/pickle-twice.pt",
            with(stored("other/data.pkl", &super::pickle::evil())),
            refused("several-pickles"),
        ),
        file(
            "zip/member-up-the-tree.pt",
            with(stored("archive/../../etc/passwd", b"x")),
            refused("zip-member"),
        ),
        file("zip/member-by-an-absolute-path.pt", with(stored("/etc/passwd", b"x")), refused("zip-member")),
        file("zip/member-with-a-backslash.pt", with(stored("archive\\data", b"x")), refused("zip-member")),
        file("zip/member-encrypted.pt", changed(0, |record| record.flags = 1), refused("zip-member")),
        file("zip/storage-encrypted.pt", changed(1, |record| record.flags = 1), refused("zip-member")),
        file("zip/pickle-by-bzip2.pt", changed(0, |record| record.method = 12), refused("zip-member")),
        file(
            "zip/storage-by-lzma.pt",
            changed(1, |record| record.method = 14),
            damaged(&["zip-member"], &[]),
        ),
        file(
            "zip/storage-deflated.pt",
            changed(1, |record| *record = deflated("archive/data/0", &data())),
            damaged(&["zip-member"], &[]),
        ),
        file(
            "zip/pickle-deflated.pt",
            changed(0, |record| *record = deflated("archive/data.pkl", &pickle())),
            reads(&[A]),
        ),
        file(
            "zip/pickle-deflated-to-less-than-declared.pt",
            changed(0, |record| {
                *record = deflated("archive/data.pkl", &pickle());
                record.size += 1;
            }),
            refused("zip-member"),
        ),
        file(
            "zip/pickle-deflated-to-more-than-declared.pt",
            changed(0, |record| {
                *record = deflated("archive/data.pkl", &pickle());
                record.size -= 1;
            }),
            refused("zip-member"),
        ),
        file(
            "zip/checksum-of-the-pickle-wrong.pt",
            changed(0, |record| record.checksum = Some(7)),
            damaged(&["zip-checksum"], &[A]),
        ),
        file(
            "zip/checksum-of-a-storage-wrong.pt",
            changed(1, |record| record.checksum = Some(7)),
            damaged(&["zip-checksum"], &[A]),
        ),
        file(
            "zip/checksums-switched-off.pt",
            {
                let mut records = records();
                for record in &mut records {
                    record.checksum = Some(0);
                }
                zip(&records)
            },
            reads(&[A]),
        ),
        file("zip/sizes-of-64-bits.pt", changed(1, |record| record.zip64 = true), reads(&[A])),
        file(
            "zip/sizes-of-64-bits-that-are-not-there.pt",
            directory_says(20, &[0xff; 8]),
            refused("zip-member"),
        ),
        file(
            "zip/storage-missing.pt",
            zip(&[stored("archive/data.pkl", &pickle())]),
            damaged(&["missing-storage"], &[]),
        ),
        file(
            "zip/storage-up-the-tree.pt",
            zip(&[stored(
                "archive/data.pkl",
                &pickled(&dict(&[("a", floats("../../../etc/passwd", 2, 0, &[2], &[1]))])),
            )]),
            damaged(&["missing-storage"], &[]),
        ),
        file(
            "zip/storage-that-no-tensor-uses.pt",
            with(stored("archive/data/1", b"hidden")),
            damaged(&["uncovered-bytes"], &[A]).finding("FP904"),
        ),
        file(
            "zip/member-of-no-known-name.pt",
            with(stored("archive/notes.txt", b"hidden")),
            reads(&[A]).finding("FP904"),
        ),
        file(
            "zip/pickle-beside-the-pickle.pt",
            with(stored("archive/extra.pkl", &super::pickle::evil())),
            reads(&[A]).finding("FP901").finding("FP904"),
        ),
        file(
            "zip/pickle-under-another-name.pt",
            with(stored("archive/data-x", &super::pickle::evil())),
            reads(&[A]).finding("FP901").finding("FP904"),
        ),
        file(
            "zip/pickle-in-another-folder.pt",
            with(stored("other/deep.pkl", &super::pickle::evil())),
            reads(&[A]).finding("FP901").finding("FP904"),
        ),
        file(
            "zip/pickle-among-the-extra-files-of-no-script.pt",
            with(stored("archive/extra/payload.pkl", &super::pickle::evil())),
            reads(&[A]).finding("FP901").finding("FP904"),
        ),
        file(
            "zip/pickle-among-the-extra-files-of-a-script.pt",
            zip(&[
                records(),
                vec![
                    stored("archive/constants.pkl", &pickled(b")")),
                    stored("archive/code/__torch__.py", b"class Net(Module): ..."),
                    stored("archive/extra/payload.pkl", &super::pickle::evil()),
                ],
            ]
            .concat()),
            reads(&[A]).finding("FP901"),
        ),
        file(
            "zip/pickle-as-a-directory.pt",
            with(stored("archive/notes/", &super::pickle::evil())),
            reads(&[A]).finding("FP901").finding("FP904"),
        ),
        file(
            "zip/pickle-beside-the-pickle-breaks-off.pt",
            with(stored("archive/extra.pkl", b"\x80\x02(")),
            damaged(&["pickle-truncated"], &[A]).finding("FP904"),
        ),
        file(
            "zip/member-that-the-directory-lost.pt",
            without_the_last_record(with(stored("archive/data/1", &data())), "archive/data/1"),
            damaged(&["uncovered-bytes"], &[A]).finding("FP904"),
        ),
        file(
            "zip/bytes-before-the-directory.pt",
            with_bytes_before_the_directory(honest(), b"hidden"),
            reads(&[A]).finding("FP904"),
        ),
        file("zip/bytes-behind-the-end.pt", [&whole[..], b"hidden"].concat(), reads(&[A]).finding("FP904")),
        file("zip/byte-order-big.pt", with(stored("archive/byteorder", b"big")), refused("byte-order")),
        file(
            "zip/version-huge.pt",
            changed(2, |record| record.data = b"99999999999999999999".to_vec()),
            refused("zip-member"),
        ),
        file(
            "zip/version-of-another-time.pt",
            changed(2, |record| *record = stored("archive/version", b"99999999999999999999")),
            reads(&[A]),
        ),
        file("zip/no-pickle.pt", zip(&[stored("archive/data/0", &data())]), refused("no-pickle")),
        file(
            "zip/no-members.pt",
            [&b"PK\x03\x04"[..], &[0; 26], &zip(&[])[..]].concat(),
            refused("zip-directory"),
        ),
        file(
            "zip/export-archive.pt2",
            zip(&[stored("archive/archive_format", b"pt2"), stored("archive/models/model.json", b"{}")]),
            refused("unsupported-format"),
        ),
        made(
            "zip/pickle-that-inflates-to-120-megabytes.pt",
            |folder| write(folder, "model.pt", &zip(&[deflated("archive/data.pkl", &vec![b'N'; 120 << 20])])),
            refused("too-large"),
        ),
        made(
            "zip/storage-that-inflates-to-256-megabytes.pt",
            |folder| {
                let bomb = deflated("archive/data/0", &vec![0; 256 << 20]);
                let pickle = pickled(&dict(&[("a", floats("0", 64 << 20, 0, &[64 << 20], &[1]))]));
                write(folder, "model.pt", &zip(&[stored("archive/data.pkl", &pickle), bomb]))
            },
            damaged(&["zip-member"], &[]),
        ),
        made(
            "zip/sixty-pickles-that-inflate-to-eight-megabytes-each.pt",
            |folder| {
                let long = [&b"\x80\x02"[..], &b"N0".repeat(4 << 20), b"N."].concat();
                let one = deflated("archive/x0.pkl", &long);
                let sixty =
                    (0..60).map(|index| Record { name: format!("archive/x{index}.pkl"), ..one.clone() });
                write(folder, "model.pt", &zip(&records().into_iter().chain(sixty).collect::<Vec<_>>()))
            },
            damaged(&["too-large"], &[A]).finding("FP904"),
        ),
        made(
            "zip/three-hundred-thousand-members.pt",
            |folder| {
                let members = (0..300_000).map(|index| stored(&format!("archive/x{index}"), b""));
                write(folder, "model.pt", &zip(&records().into_iter().chain(members).collect::<Vec<_>>()))
            },
            refused("too-many"),
        ),
        made(
            "zip/sixty-thousand-members.pt",
            |folder| {
                let members = (0..60_000).map(|index| stored(&format!("archive/x{index}"), b"x"));
                write(folder, "model.pt", &zip(&records().into_iter().chain(members).collect::<Vec<_>>()))
            },
            reads(&[A]).finding("FP904"),
        ),
    ]
}
