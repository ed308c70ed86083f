//! An index and its shards: what each can say about the other.

use std::path::Path;

use super::expectation::*;
use super::safetensors::honest;

fn index(map: &[(&str, &str)], size: &str) -> Vec<u8> {
    let entries = map.iter().map(|(tensor, file)| format!("{tensor:?}:{file}")).collect::<Vec<_>>().join(",");
    format!(r#"{{"metadata":{{"total_size":{size}}},"weight_map":{{{entries}}}}}"#).into_bytes()
}

const INDEX: &str = "model.safetensors.index.json";
const ONE: &str = "model-00001-of-00002.safetensors";
const TWO: &str = "model-00002-of-00002.safetensors";
const A: (&str, f64) = ("a", 1.0);
const B: (&str, f64) = ("b", 5.0);

fn one() -> (&'static str, Vec<u8>) {
    (ONE, honest("a", &[1.0]))
}

fn two() -> (&'static str, Vec<u8>) {
    (TWO, honest("b", &[2.0, 3.0]))
}

/// `a` where it should be, and `b` in a shard of that name, as JSON.
fn b_in(shard: &str) -> Vec<(&'static str, Vec<u8>)> {
    vec![(INDEX, index(&[("a", &format!("{ONE:?}")), ("b", shard)], "4")), one()]
}

/// `b` is said to lie in a shard whose name is refused.
fn escapes(name: &'static str, shard: &str) -> Case {
    directory(name, b_in(shard), damaged(&["path-escapes", "missing-shard"], &[A]))
}

fn both(size: &str) -> Vec<(&'static str, Vec<u8>)> {
    vec![(INDEX, index(&[("a", &format!("{ONE:?}")), ("b", &format!("{TWO:?}"))], size)), one(), two()]
}

/// A model outside of the checkpoint, whose tensor `outside` no report may show.
fn beside_a_model_outside(folder: &Path, link: fn(&Path, &Path)) -> std::path::PathBuf {
    let checkpoint = folder.join("checkpoint");
    std::fs::create_dir(&checkpoint).expect("a new directory");
    write(folder, "outside.safetensors", &honest("outside", &[9.0]));
    for (name, bytes) in b_in(&format!("{TWO:?}")) {
        write(&checkpoint, name, &bytes);
    }
    link(folder, &checkpoint);
    checkpoint
}

pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        directory("shards/honest", both("12"), reads(&[A, B])),
        escapes("shards/shard-up-the-tree", r#""../../../../etc/passwd""#),
        escapes("shards/shard-by-an-absolute-path", r#""/etc/passwd""#),
        escapes("shards/shard-in-a-folder", r#""sub/model.safetensors""#),
        escapes("shards/shard-on-a-drive", r#""C:\\model.safetensors""#),
        escapes("shards/shard-on-a-host", r#""\\\\host\\share""#),
        escapes("shards/shard-with-a-nul", r#""model\u0000.safetensors""#),
        escapes("shards/shard-without-a-name", r#""""#),
        directory(
            "shards/shard-in-percent-signs",
            b_in(r#""%2e%2e%2fpasswd""#),
            damaged(&["not-found", "missing-shard"], &[A]),
        ),
        directory(
            "shards/shard-with-a-full-width-slash",
            b_in("\"..\u{ff0f}passwd\""),
            damaged(&["not-found", "missing-shard"], &[A]),
        ),
        directory(
            "shards/shard-named-like-a-device",
            b_in(r#""CON""#),
            damaged(&["not-found", "missing-shard"], &[A]),
        ),
        directory(
            "shards/shard-is-the-index",
            b_in(&format!("{INDEX:?}")),
            damaged(&["text-file", "missing-shard"], &[A]),
        ),
        directory(
            "shards/shard-missing",
            b_in(&format!("{TWO:?}")),
            damaged(&["not-found", "missing-shard"], &[A]),
        ),
        directory(
            "shards/shards-all-missing",
            vec![(INDEX, index(&[("a", &format!("{ONE:?}"))], "4"))],
            refused("incomplete"),
        ),
        directory("shards/shards-without-an-index", vec![one(), two()], refused("incomplete")),
        directory(
            "shards/shard-that-the-index-lost",
            vec![(INDEX, index(&[("a", &format!("{ONE:?}"))], "4")), one(), two()],
            damaged(&["incomplete"], &[A]),
        ),
        directory(
            "shards/model-beside-its-shards",
            {
                let mut files = both("12");
                files.push(("model.safetensors", honest("a", &[1.0])));
                files
            },
            noted(&["stray-shard"], &[A, B]),
        ),
        directory("shards/shard-is-a-number", b_in("7"), damaged(&["side-file"], &[A])),
        directory("shards/shard-is-null", b_in("null"), damaged(&["side-file"], &[A])),
        directory("shards/index-without-a-map", vec![(INDEX, b"{}".to_vec()), one()], refused("side-file")),
        directory("shards/index-is-a-list", vec![(INDEX, b"[]".to_vec()), one()], refused("side-file")),
        directory(
            "shards/index-breaks-off",
            vec![(INDEX, b"{\"weight_map\":{\"a\":".to_vec()), one()],
            refused("side-file"),
        ),
        directory(
            "shards/index-is-not-utf-8",
            vec![(INDEX, b"{\"\xff\":1}".to_vec()), one()],
            refused("side-file"),
        ),
        directory(
            "shards/index-with-a-byte-order-mark",
            {
                let mut files = both("12");
                files[0].1.splice(0..0, *b"\xef\xbb\xbf");
                files
            },
            reads(&[A, B]),
        ),
        directory("shards/total-of-minus-one", both("-1"), noted(&["total-size"], &[A, B])),
        directory("shards/total-that-is-wrong", both("13"), noted(&["total-size"], &[A, B])),
        directory("shards/total-of-1e999", both("1e999"), noted(&["total-size"], &[A, B])),
        directory("shards/total-as-text", both("\"12\""), noted(&["total-size"], &[A, B])),
        directory(
            "shards/tensor-that-its-shard-lacks",
            vec![(INDEX, index(&[("a", &format!("{ONE:?}")), ("c", &format!("{ONE:?}"))], "4")), one()],
            damaged(&["not-in-shard"], &[A]),
        ),
        directory(
            "shards/tensor-that-the-index-lacks",
            {
                vec![
                    (INDEX, index(&[("b", &format!("{TWO:?}")), ("c", &format!("{ONE:?}"))], "12")),
                    one(),
                    two(),
                ]
            },
            damaged(&["not-in-shard", "not-in-index"], &[A, B]),
        ),
        directory(
            "shards/tensor-in-two-shards",
            {
                vec![
                    (INDEX, index(&[("a", &format!("{ONE:?}")), ("c", &format!("{TWO:?}"))], "4")),
                    one(),
                    (TWO, honest("a", &[7.0])),
                ]
            },
            damaged(&["different-copies", "not-in-shard"], &[A]),
        ),
        directory(
            "shards/two-models-in-one-directory",
            vec![("model.safetensors", honest("a", &[1.0])), ("pytorch_model.bin", super::zip::honest())],
            noted(&["other-model"], &[A]),
        ),
        directory(
            "shards/dangerous-pickle-beside-a-model",
            vec![
                ("model.safetensors", honest("a", &[1.0])),
                ("pytorch_model.bin", super::pickle::archived(&super::pickle::evil())),
            ],
            noted(&["other-model"], &[A]).finding("FP901"),
        ),
        directory(
            "shards/models-of-other-names-beside-a-model",
            vec![
                ("model.safetensors", honest("a", &[1.0])),
                ("v_head.safetensors", honest("v", &[f32::NAN])),
                ("sampler_net.safetensors", honest("s", &[f32::NAN])),
                ("extra.pt", super::pickle::archived(&super::pickle::evil())),
            ],
            noted(&["other-model"], &[A]).finding("FP901"),
        ),
        directory(
            "shards/tokenizer-that-runs-programs-beside-a-model",
            vec![("model.safetensors", honest("a", &[1.0])), ("tokenizer.pkl", super::pickle::evil())],
            reads(&[A]).finding("FP901"),
        ),
        directory(
            "shards/arrays-beside-a-model",
            vec![
                ("model.safetensors", honest("a", &[1.0])),
                ("weights.npz", b"not an archive".to_vec()),
                ("moments.npy", Vec::new()),
            ],
            noted(&["not-read"], &[A]),
        ),
        made(
            "shards/a-folder-of-two-thousand-models-in-a-model",
            |folder| {
                let below = folder.join("2_Dense");
                std::fs::create_dir(&below).expect("a folder can be made");
                std::fs::write(folder.join("model.safetensors"), honest("a", &[1.0]))
                    .expect("a file can be written");
                for number in 0..2_000 {
                    std::fs::write(below.join(format!("{number}.safetensors")), b"")
                        .expect("a file can be written");
                }
                folder.to_owned()
            },
            noted(&["not-read"], &[A]),
        ),
        made(
            "shards/folders-of-more-files-than-are-looked-through",
            |folder| {
                std::fs::write(folder.join("model.safetensors"), honest("a", &[1.0]))
                    .expect("a file can be written");
                for (below, files) in [("a", 10_001), ("z", 1)] {
                    let below = folder.join(below);
                    std::fs::create_dir(&below).expect("a folder can be made");
                    for number in 0..files {
                        std::fs::write(below.join(format!("{number}.txt")), b"")
                            .expect("a file can be written");
                    }
                }
                folder.to_owned()
            },
            noted(&["not-read"], &[A]),
        ),
        directory(
            "shards/index-of-pickles-beside-safetensors",
            vec![
                ("model.safetensors", honest("a", &[1.0])),
                (
                    "pytorch_model.bin.index.json",
                    index(&[("a", r#""pytorch_model-00001-of-00001.bin""#)], "8"),
                ),
                ("pytorch_model-00001-of-00001.bin", super::zip::honest()),
            ],
            noted(&["other-model"], &[A]),
        ),
        made(
            "shards/four-thousand-shards-missing",
            |folder| {
                let entries = (0..4_000).map(|tensor| format!(r#","x{tensor}":"s{tensor}""#));
                let entries = entries.collect::<Vec<_>>().concat();
                write(folder, INDEX, format!(r#"{{"weight_map":{{"a":{ONE:?}{entries}}}}}"#).as_bytes());
                let (name, bytes) = one();
                write(folder, name, &bytes);
                folder.to_owned()
            },
            damaged(&["not-found", "missing-shard"], &[A]),
        )
        .allowing(64),
        made(
            "shards/index-of-half-a-million-tensors",
            |folder| {
                let entries = (0..500_000).map(|tensor| format!(r#""{tensor}":"s""#)).collect::<Vec<_>>();
                let index = format!(r#"{{"weight_map":{{{}}}}}"#, entries.join(","));
                write(folder, INDEX, index.as_bytes());
                let (name, bytes) = one();
                write(folder, name, &bytes);
                folder.to_owned()
            },
            refused("side-file"),
        ),
    ];
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        cases.push(made(
            "shards/link-out-of-the-directory",
            |folder| {
                beside_a_model_outside(folder, |outside, checkpoint| {
                    symlink(outside.join("outside.safetensors"), checkpoint.join(TWO)).expect("a link");
                })
            },
            damaged(&["path-escapes", "missing-shard"], &[A]),
        ));
        cases.push(made(
            "shards/link-to-a-link-out-of-the-directory",
            |folder| {
                beside_a_model_outside(folder, |outside, checkpoint| {
                    symlink(outside.join("outside.safetensors"), checkpoint.join("between")).expect("a link");
                    symlink("between", checkpoint.join(TWO)).expect("a link");
                })
            },
            damaged(&["path-escapes", "missing-shard"], &[A]),
        ));
        cases.push(made(
            "shards/folder-that-is-a-link-out-of-the-directory",
            |folder| {
                beside_a_model_outside(folder, |outside, checkpoint| {
                    symlink(outside, checkpoint.join("below")).expect("a link");
                })
            },
            damaged(&["missing-shard", "not-found"], &[A]),
        ));
        cases.push(made(
            "shards/link-to-itself",
            |folder| {
                beside_a_model_outside(folder, |_, checkpoint| {
                    symlink(TWO, checkpoint.join(TWO)).expect("a link");
                })
            },
            damaged(&["io", "missing-shard"], &[A]),
        ));
        cases.push(made(
            "shards/link-into-a-folder-called-blobs",
            |folder| {
                beside_a_model_outside(folder, |outside, checkpoint| {
                    std::fs::create_dir(outside.join("blobs")).expect("a new directory");
                    std::fs::rename(outside.join("outside.safetensors"), outside.join("blobs/x"))
                        .expect("renamed");
                    symlink("../blobs/x", checkpoint.join(TWO)).expect("a link");
                })
            },
            damaged(&["path-escapes", "missing-shard"], &[A]),
        ));
        cases.push(made(
            "shards/links-of-a-hub-cache",
            |folder| {
                let snapshot = folder.join("models--a--b/snapshots/main");
                let blobs = folder.join("models--a--b/blobs");
                std::fs::create_dir_all(&snapshot).expect("a new directory");
                std::fs::create_dir(&blobs).expect("a new directory");
                for (name, bytes) in both("12") {
                    write(&blobs, name, &bytes);
                    symlink(format!("../../blobs/{name}"), snapshot.join(name)).expect("a link");
                }
                snapshot
            },
            reads(&[A, B]),
        ));
    }
    cases
}
