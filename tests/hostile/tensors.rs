//! Tensors of PyTorch: what the calls that rebuild them can ask for.

use super::craft::*;
use super::expectation::*;
use super::pickle::archived;

/// The vector [1, 2] as `a`, and `b` by that call over the same storage of two floats.
fn beside(b: Vec<u8>) -> Vec<u8> {
    archived(&pickled(&dict(&[("a", floats("0", 2, 0, &[2], &[1])), ("b", b)])))
}

const A: (&str, f64) = ("a", 3.0);

fn lost(name: &'static str, b: Vec<u8>, kind: &'static str) -> Case {
    file(name, beside(b), damaged(&[kind], &[A]))
}

fn view_of(offset: i64, size: &[i64], stride: &[i64]) -> Vec<u8> {
    floats("0", 2, offset, size, stride)
}

fn listed(name: &'static str, b: Vec<u8>, reason: &'static str) -> Case {
    file(name, beside(b), reads(&[A]).listing("b", "unsupported-tensor", reason))
}

/// Elements of a storage of four megabytes, all of them 1.
const ONES: i64 = 1 << 20;

fn ones() -> Record {
    stored("archive/data/1", &super::safetensors::numbers(&vec![1.0; ONES as usize]))
}

/// An archive of `tensors` over the storage `1`, which has four megabytes of ones.
fn over_ones(folder: &std::path::Path, tensors: &[(String, Vec<u8>)]) -> std::path::PathBuf {
    let entries: Vec<(&str, Vec<u8>)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    write(folder, "model.pt", &zip(&[stored("archive/data.pkl", &pickled(&dict(&entries))), ones()]))
}

/// What is read of vectors of that many ones.
fn of_ones(lengths: impl IntoIterator<Item = i64>) -> Vec<(String, f64)> {
    lengths.into_iter().enumerate().map(|(k, length)| (format!("w{k}"), length as f64)).collect()
}

/// A convolution without elements and Adam's moments of it, in shapes whose other sizes multiply to 2^64.
fn optimizer_of_nothing() -> Vec<u8> {
    let nothing = |size: [i64; 3]| floats("0", 2, 0, &size, &[1; 3]);
    let number = |value: f64| [&b"G"[..], &value.to_be_bytes()].concat();
    let list = |items: Vec<u8>| [&b"]("[..], &items, b"e"].concat();
    let state = |size| {
        let moments = [("exp_avg", nothing(size)), ("exp_avg_sq", nothing(size))];
        dict(&[[("step", int(7))].as_slice(), &moments].concat())
    };
    let sizes = [[0, 1 << 62, 4], [1 << 62, 4, 0]];
    let states = (0..).zip(sizes).map(|(key, size)| [int(key), state(size)].concat()).collect::<Vec<_>>();
    let group = dict(&[
        ("lr", number(0.001)),
        ("betas", tuple(&[number(0.9), number(0.999)])),
        ("eps", number(1e-8)),
        ("weight_decay", number(0.0)),
        ("amsgrad", b"\x89".to_vec()),
        ("params", list([int(0), int(1)].concat())),
    ]);
    let model = [
        ("a", floats("0", 2, 0, &[2], &[1])),
        ("conv.weight", nothing(sizes[0])),
        ("head.weight", nothing(sizes[1])),
    ];
    let optimizer = [("state", [&b"}("[..], &states.concat(), b"u"].concat()), ("param_groups", list(group))];
    dict(&[("model", dict(&model)), ("optimizer", dict(&optimizer))])
}

pub fn cases() -> Vec<Case> {
    let outside = "view-out-of-storage";
    let v3 = |dtype: &str, size: i64| {
        let hooks = call("collections", "OrderedDict", &[]);
        let arguments = [
            storage("UntypedStorage", "0", 8),
            int(0),
            counts(&[size]),
            counts(&[1]),
            b"\x89".to_vec(),
            hooks,
            global("torch", dtype),
        ];
        call("torch._utils", "_rebuild_tensor_v3", &arguments)
    };
    vec![
        lost("tensors/stride-out-of-the-storage.pt", view_of(0, &[2], &[2]), outside),
        lost("tensors/stride-negative.pt", view_of(1, &[2], &[-1]), outside),
        lost("tensors/size-negative.pt", view_of(0, &[-2], &[1]), outside),
        lost("tensors/offset-of-2-to-the-62.pt", view_of(1 << 62, &[1], &[1]), outside),
        lost("tensors/offset-negative.pt", view_of(-1, &[1], &[1]), outside),
        lost("tensors/elements-of-2-to-the-62.pt", view_of(0, &[1 << 62], &[1]), outside),
        lost("tensors/elements-that-overflow.pt", view_of(0, &[1 << 40, 1 << 40], &[1, 1]), "shape-overflow"),
        file(
            "tensors/moments-of-nothing-times-2-to-the-64.pt",
            archived(&pickled(&optimizer_of_nothing())),
            reads(&[
                ("model.a", 3.0),
                ("model.conv.weight", 0.0),
                ("model.head.weight", 0.0),
                ("optimizer.state.0.exp_avg", 0.0),
                ("optimizer.state.0.exp_avg_sq", 0.0),
                ("optimizer.state.1.exp_avg", 0.0),
                ("optimizer.state.1.exp_avg_sq", 0.0),
            ]),
        ),
        lost("tensors/more-sizes-than-strides.pt", view_of(0, &[1, 2], &[1]), outside),
        lost("tensors/a-hundred-sizes.pt", view_of(0, &[1; 100], &[1; 100]), outside),
        lost("tensors/storage-shorter-than-claimed.pt", floats("0", 3, 0, &[3], &[1]), "size-mismatch"),
        lost("tensors/storage-of-2-to-the-62.pt", floats("0", 1 << 62, 0, &[2], &[1]), "size-mismatch"),
        lost(
            "tensors/storage-of-another-type.pt",
            view(storage("DoubleStorage", "0", 2), 0, &[2], &[1]),
            "size-mismatch",
        ),
        lost(
            "tensors/call-without-arguments.pt",
            call("torch._utils", "_rebuild_tensor_v2", &[]),
            "malformed-tensor",
        ),
        lost(
            "tensors/call-without-a-storage.pt",
            call("torch._utils", "_rebuild_tensor_v2", &[int(1), int(1), int(1), int(1)]),
            "malformed-tensor",
        ),
        file(
            "tensors/storage-of-a-type-that-does-not-exist.pt",
            beside(view(storage("OctopleStorage", "0", 2), 0, &[2], &[1])),
            reads(&[A]).listing("b", "unknown-dtype", "unknown dtype OctopleStorage"),
        ),
        file(
            "tensors/stride-of-zero.pt",
            beside(view_of(1, &[1 << 40], &[0])),
            reads(&[A, ("b", 2.0 * (1u64 << 40) as f64)]),
        ),
        file("tensors/no-elements.pt", beside(view_of(0, &[0, 1 << 40], &[0, 1])), reads(&[A, ("b", 0.0)])),
        file("tensors/no-dimensions.pt", beside(view_of(1, &[], &[])), reads(&[A, ("b", 2.0)])),
        file("tensors/two-names-of-one-view.pt", beside(view_of(0, &[2], &[1])), reads(&[A, ("b", 3.0)])),
        file("tensors/float8-in-bytes.pt", beside(v3("float8_e4m3fn", 8)), reads(&[A, ("b", 3.875)])),
        file(
            "tensors/complex-over-floats.pt",
            beside(v3("complex64", 1)),
            reads(&[A]).listing("b", "opaque", "C64 tensors"),
        ),
        lost("tensors/float64-over-the-end.pt", v3("float64", 2), outside),
        listed(
            "tensors/quantised.pt",
            call(
                "torch._utils",
                "_rebuild_qtensor",
                &[
                    storage("QInt8Storage", "0", 8),
                    int(0),
                    counts(&[8]),
                    counts(&[1]),
                    tuple(&[]),
                    b"\x89".to_vec(),
                ],
            ),
            "quantised tensors",
        ),
        listed(
            "tensors/sparse.pt",
            call(
                "torch._utils",
                "_rebuild_sparse_tensor",
                &[int(0), tuple(&[view_of(0, &[1, 2], &[2, 1]), view_of(0, &[2], &[1]), counts(&[4])])],
            ),
            "sparse tensors",
        ),
        listed(
            "tensors/nested.pt",
            call("torch._utils", "_rebuild_nested_tensor", &[view_of(0, &[2], &[1])]),
            "nested tensors",
        ),
        listed(
            "tensors/meta.pt",
            call(
                "torch._utils",
                "_rebuild_meta_tensor_no_storage",
                &[global("torch", "float32"), counts(&[4]), counts(&[1]), b"\x89".to_vec()],
            ),
            "meta (without data) tensors",
        ),
        listed(
            "tensors/shard-of-a-whole.pt",
            call(
                "torch._utils",
                "_rebuild_wrapper_subclass",
                &[
                    global("torch.distributed.tensor", "DTensor"),
                    global("torch", "float32"),
                    counts(&[4]),
                    counts(&[1]),
                ],
            ),
            "sharded tensors",
        ),
        file(
            "tensors/dispatches-through-a-function-that-runs-code.pt",
            beside(call(
                "torch._tensor",
                "_rebuild_from_type_v2",
                &[global("builtins", "eval"), global("torch", "Tensor"), tuple(&[text("1")]), b"N".to_vec()],
            )),
            reads(&[A]).finding("FP901"),
        ),
        file(
            "tensors/parameters-in-parameters.pt",
            {
                let mut tensor = view_of(0, &[2], &[1]);
                for _ in 0..40 {
                    tensor = call(
                        "torch._utils",
                        "_rebuild_parameter",
                        &[tensor, b"\x89".to_vec(), call("collections", "OrderedDict", &[])],
                    );
                }
                beside(tensor)
            },
            damaged(&["malformed-tensor"], &[A]),
        ),
        made(
            "tensors/three-hundred-views-that-overlap.pt",
            |folder| {
                let views = (0..300i64).map(|k| (format!("w{k}"), floats("1", ONES, k, &[ONES - k], &[1])));
                over_ones(folder, &views.collect::<Vec<_>>())
            },
            // 64 MiB and sixteen times the four of the file, in views of four.
            Expected { tensors: of_ones((0..32).map(|k| ONES - k)), ..damaged(&["too-many"], &[]) },
        ),
        made(
            "tensors/a-hundred-and-fifty-names-of-four-megabytes.pt",
            |folder| {
                let names = (0..150).map(|k| (format!("w{k}"), floats("1", ONES, 0, &[ONES], &[1])));
                over_ones(folder, &names.collect::<Vec<_>>())
            },
            // 64 MiB and sixty-four times the four of the file.
            Expected { tensors: of_ones([ONES; 80]), ..damaged(&["too-many"], &[]) },
        ),
        file(
            "tensors/counters-beside-weights.pt",
            beside(view(storage("ByteStorage", "0", 8), 0, &[8], &[1])),
            reads(&[A, ("b", 0.0)]),
        ),
    ]
}
