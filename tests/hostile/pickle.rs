//! Pickles: programs that would do harm, and programs that are none.

use super::craft::*;
use super::expectation::*;

/// A call of the shell.
pub fn evil() -> Vec<u8> {
    pickled(&shell())
}

fn shell() -> Vec<u8> {
    call("posix", "system", &[text("true")])
}

/// A pickle as the only one of an archive, with one storage of [1, 2].
pub fn archived(pickle: &[u8]) -> Vec<u8> {
    zip(&[
        stored("archive/data.pkl", pickle),
        stored("archive/data/0", &super::safetensors::numbers(&[1.0, 2.0])),
    ])
}

fn vector() -> Vec<u8> {
    floats("0", 2, 0, &[2], &[1])
}

const A: (&str, f64) = ("a", 3.0);

/// `a`, and beside it under `b` whatever the bytes make.
fn beside(value: &[u8]) -> Vec<u8> {
    archived(&pickled(&dict(&[("a", vector()), ("b", value.to_vec())])))
}

/// `a`, and then bytes at which the machine stops.
fn stopped(bytes: &[u8]) -> Vec<u8> {
    archived(&[b"\x80\x02", &dict(&[("a", vector())])[..], bytes].concat())
}

fn dangerous(name: &'static str, value: &[u8]) -> Case {
    file(name, beside(value), reads(&[A]).finding("FP901"))
}

fn broken(name: &'static str, bytes: &[u8], kind: &'static str) -> Case {
    file(name, stopped(bytes), refused(kind))
}

fn large(
    folder: &std::path::Path,
    start: &[u8],
    middle: &[u8],
    count: usize,
    end: &[u8],
) -> std::path::PathBuf {
    let program = [start, &middle.repeat(count), end].concat();
    write(folder, "model.pt", &beside(&program))
}

/// A hundred optimizers that share the dict of one group, with a list of 20,000 parameters.
fn many_optimizers() -> Vec<u8> {
    let list = |items: Vec<u8>| [&b"]("[..], &items, b"e"].concat();
    let parameters = list((0..20_000).flat_map(int).collect());
    let group = [dict(&[("lr", int(1)), ("params", parameters)]), b"q\x60".to_vec()].concat();
    let optimizer = |group: Vec<u8>| dict(&[("state", dict(&[])), ("param_groups", list(group))]);
    let again = (1..100).flat_map(|_| optimizer(b"h\x60".to_vec()));
    let optimizers = list([optimizer(group), again.collect()].concat());
    let weight = floats("0", 2, 0, &[2], &[1]);
    pickled(&dict(&[("model", dict(&[("a", weight)])), ("optimizers", optimizers)]))
}

pub fn cases() -> Vec<Case> {
    let stack_global = |module: &str, name: &str| {
        [text(module), b"q\x50".to_vec(), text(name), b"q\x51h\x50h\x51\x93".to_vec()].concat()
    };
    let hidden = [stack_global("posix", "system"), tuple(&[text("true")]), b"R".to_vec()].concat();
    // The memo is filled first, so that nothing dangerous stands near the call.
    let hidden = [&b"("[..], &hidden, b"1N"].concat();
    vec![
        file("pickle/honest.pt", beside(b"N"), reads(&[A])),
        file(
            "pickle/calls-the-shell-at-the-root.pt",
            archived(&evil()),
            damaged(&["uncovered-bytes"], &[]).finding("FP901").finding("FP904"),
        ),
        dangerous(
            "pickle/runs-a-program-by-a-helper-of-uuid.pt",
            &call("uuid", "_get_command_stdout", &[text("true")]),
        ),
        dangerous(
            "pickle/builds-what-evaluates-source-later.pt",
            &call("torch.fx.experimental.symbolic_shapes", "_eval_guards", &[text("1")]),
        ),
        made(
            "pickle/one-list-of-parameters-in-many-optimizers.pt",
            |folder| write(folder, "model.pt", &archived(&many_optimizers())),
            damaged(&["too-many"], &[("model.a", 3.0)]),
        )
        .allowing(64),
        dangerous("pickle/calls-the-shell-deep-within.pt", &dict(&[("c", tuple(&[tuple(&[shell()])]))])),
        dangerous("pickle/evaluates-source.pt", &call("builtins", "eval", &[text("1")])),
        dangerous("pickle/reaches-attributes.pt", &call("builtins", "getattr", &[text("a"), text("b")])),
        dangerous("pickle/calls-the-shell-through-the-memo.pt", &hidden),
        dangerous("pickle/calls-the-shell-by-inst.pt", b"(X\x04\0\0\0trueiposix\nsystem\n"),
        dangerous("pickle/calls-the-shell-by-obj.pt", b"(cposix\nsystem\nX\x04\0\0\0trueo"),
        dangerous(
            "pickle/calls-the-shell-by-its-python-2-name.pt",
            &call("commands", "getoutput", &[text("true")]),
        ),
        dangerous(
            "pickle/sets-attributes-of-a-function.pt",
            b"ctorch._utils\n_rebuild_tensor_v2\n}X\x01\0\0\0xNsb",
        ),
        dangerous(
            "pickle/calls-what-a-call-computes.pt",
            &[call("collections", "OrderedDict", &[]), text("system"), b"\x93)R".to_vec()].concat(),
        ),
        dangerous(
            "pickle/dotted-name-of-another-module.pt",
            &call("torch.serialization", "os.system", &[text("true")]),
        ),
        file("pickle/dotted-name-that-is-unknown.pt", beside(&call("numpy", "prod.b", &[])), reads(&[A])),
        file(
            "pickle/extension-codes.pt",
            beside(&tuple(&[b"\x82\x01".to_vec(), b"\x83\x01\x01".to_vec(), b"\x84\x01\0\0\0".to_vec()])),
            reads(&[A]),
        ),
        file(
            "pickle/calls-the-shell-in-a-bare-pickle.pkl",
            evil(),
            damaged(&["no-tensors"], &[]).finding("FP901"),
        ),
        file(
            "pickle/calls-the-shell-and-then-breaks-off.pkl",
            [&b"\x80\x02"[..], &shell(), b"h\x63"].concat(),
            damaged(&["pickle-memo"], &[]).finding("FP901"),
        ),
        file(
            "pickle/calls-the-shell-in-the-last-of-a-thousand.pkl",
            [b"\x80\x02N.".repeat(1000), evil()].concat(),
            damaged(&["no-tensors"], &[]).finding("FP901"),
        ),
        file("pickle/five-thousand-in-a-row.pkl", b"\x80\x02N.".repeat(5000), refused("no-tensors")),
        broken("pickle/opcode-that-does-not-exist.pt", b"\xfe.", "pickle-opcode"),
        broken("pickle/protocol-9.pt", b"\x80\x09.", "pickle-protocol"),
        broken("pickle/stack-empty.pt", b"00.", "pickle-stack"),
        broken("pickle/mark-missing.pt", b"t.", "pickle-mark"),
        broken("pickle/stop-missing.pt", b"", "pickle-truncated"),
        broken("pickle/memo-never-filled.pt", b"h\x07.", "pickle-memo"),
        broken("pickle/extension-code-of-zero.pt", b"\x82\0.", "pickle-argument"),
        broken("pickle/long-of-negative-length.pt", b"\x8b\xff\xff\xff\xff.", "pickle-argument"),
        broken("pickle/text-of-4-gigabytes.pt", b"X\xff\xff\xff\xffx.", "pickle-truncated"),
        broken(
            "pickle/text-of-2-to-the-64-bytes.pt",
            b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffx.",
            "pickle-truncated",
        ),
        broken(
            "pickle/frame-longer-than-the-file.pt",
            b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
            "pickle-truncated",
        ),
        broken("pickle/number-that-is-none.pt", b"Ixyz\n.", "pickle-argument"),
        broken("pickle/key-without-a-value.pt", b"}(Nu.", "pickle-argument"),
        broken("pickle/appends-to-a-number.pt", b"K\x01K\x02a.", "pickle-argument"),
        file(
            "pickle/breaks-off-behind-a-call-of-the-shell.pt",
            stopped(&[&shell()[..], b"h\x63."].concat()),
            damaged(&["pickle-memo"], &[]).finding("FP901").finding("FP904"),
        ),
        file("pickle/long-of-255-bytes.pt", beside(&[&b"\x8a\xff"[..], &[1; 255]].concat()), reads(&[A])),
        file("pickle/memo-at-2-to-the-31.pt", beside(b"Nr\xff\xff\xff\x7f"), reads(&[A])),
        file("pickle/list-that-holds-itself.pt", beside(b"]q\x63h\x63a"), reads(&[A])),
        file("pickle/dict-that-holds-itself.pt", beside(b"}q\x63X\x01\0\0\0xh\x63s"), reads(&[A])),
        file(
            "pickle/key-twice.pt",
            archived(&pickled(&dict(&[("a", floats("0", 2, 0, &[1], &[1])), ("a", vector())]))),
            damaged(&["duplicate-key"], &[A]),
        ),
        file(
            "pickle/keys-that-make-one-name.pt",
            archived(&pickled(
                &[&b"}("[..], &text("0"), &vector(), &int(0), &floats("0", 2, 1, &[1], &[1]), b"u"].concat(),
            )),
            noted(&["duplicate-name"], &[("0", 3.0), ("0", 2.0)]),
        ),
        file(
            "pickle/key-that-is-nan.pt",
            archived(&pickled(&[&b"}(G\x7f\xf8\0\0\0\0\0\0"[..], &vector(), b"u"].concat())),
            reads(&[("NaN", 3.0)]),
        ),
        file(
            "pickle/keys-of-five-kilobytes.pt",
            archived(&pickled(&dict(&[(&"k".repeat(5000), vector())]))),
            reads(&[("0", 3.0)]),
        ),
        file("pickle/storage-id-that-is-no-tuple.pt", beside(b"K\x07Q"), reads(&[A])),
        file(
            "pickle/sixty-times-a-memo-of-four.pt",
            {
                let double = |index: u8| {
                    [b"(".to_vec(), [b'h', index - 1].repeat(4), vec![b't', b'q', index]].concat()
                };
                let bomb = [vec![b'N', b'q', 150], (151..=210).flat_map(double).collect()].concat();
                beside(&[&b"("[..], &bomb, b"t"].concat())
            },
            reads(&[A]),
        ),
        made(
            "pickle/two-hundred-thousand-levels.pt",
            |folder| large(folder, b"N", b"\x85", 200_000, b""),
            damaged(&["too-many"], &[A]),
        ),
        made(
            "pickle/seventeen-million-values.pt",
            |folder| large(folder, b"(", b"N", 17 << 20, b"t"),
            refused("too-many"),
        ),
        made(
            "pickle/seventeen-million-bytes-of-lists.pt",
            |folder| large(folder, b"(", b"]", 17 << 20, b"t"),
            refused("too-many"),
        ),
        made(
            "pickle/seventeen-million-bytes-of-dicts.pt",
            |folder| large(folder, b"(", b"}NNs", 17 << 18, b"t"),
            refused("too-many"),
        ),
        made(
            "pickle/seventeen-million-bytes-of-calls.pt",
            |folder| large(folder, b"(N", b"NR", 17 << 19, b"t"),
            refused("too-many"),
        ),
        made(
            "pickle/seventeen-million-bytes-of-memo.pt",
            |folder| large(folder, b"N", b"\x94", 17 << 20, b""),
            refused("too-many"),
        ),
        made(
            "pickle/as-many-pairs-as-fit.pt",
            |folder| large(folder, b"}(", b"NN", 800_000, b"u"),
            reads(&[A]),
        ),
        made(
            "pickle/as-many-keys-as-fit.pt",
            |folder| {
                let keys: Vec<u8> =
                    (0..300_000u32).flat_map(|key| [&b"J"[..], &key.to_le_bytes(), b"N"].concat()).collect();
                large(folder, b"}(", &keys, 1, b"u")
            },
            reads(&[A]),
        ),
        made(
            "pickle/as-many-nested-tuples-as-fit.pt",
            |folder| large(folder, b"(", b"N\x85", 350_000, b"t"),
            reads(&[A]),
        ),
        made(
            "pickle/ten-million-entries.pt",
            |folder| large(folder, b"}(", b"K\x01N", 10_000_000, b"u"),
            refused("too-many"),
        ),
        made(
            "pickle/five-thousand-globals.pt",
            |folder| {
                let names: Vec<u8> = (0..5000).flat_map(|index| global("os", &format!("f{index}"))).collect();
                large(folder, b"(", &names, 1, b"t")
            },
            damaged(&["too-many"], &[]).finding("FP901").finding("FP904"),
        ),
        made(
            "pickle/forty-megabytes-of-text-that-is-not-utf-8.pt",
            |folder| {
                let length = 40u32 << 20;
                large(folder, &[&b"X"[..], &length.to_le_bytes()].concat(), b"\xff", length as usize, b"")
            },
            reads(&[A]),
        ),
        made(
            "pickle/one-tensor-under-a-million-names.pt",
            |folder| {
                let tensors = [&vector()[..], b"q\x63"].concat();
                large(folder, &[&b"("[..], &tensors].concat(), b"h\x63", 1_000_000, b"t")
            },
            Expected {
                tensors: std::iter::once("a".to_owned())
                    .chain((0..131_071).map(|index| format!("b.{index}")))
                    .map(|name| (name, 3.0))
                    .collect(),
                ..damaged(&["too-many"], &[])
            },
        )
        .allowing(4 * 131),
    ]
}
