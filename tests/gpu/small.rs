//! Many small matrices and the heads of attention on a GPU, through the unchanged binary: in few calls, with the numbers of the processor, and
//! what fails on the way is not lost.

use std::path::{Path, PathBuf};

use flashpoint::random::Stream;
use half::bf16;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

use crate::command::{apart, assert_close, driver, everything, flashpoint};
use crate::fake::fake;

const LAYERS: u64 = 3;

/// A tensor of normal numbers in bf16, where `change` leaves them.
struct Weight {
    name: String,
    shape: Vec<usize>,
    values: Vec<f64>,
}

fn weight(name: &str, shape: &[usize]) -> Weight {
    let number = name.bytes().fold(7u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let values = Stream::new(5, number).normals(shape.iter().product());
    Weight { name: name.to_owned(), shape: shape.to_vec(), values }
}

fn write(path: &Path, weights: &[Weight]) {
    let bytes: Vec<Vec<u8>> = weights
        .iter()
        .map(|weight| weight.values.iter().flat_map(|x| bf16::from_f64(0.1 * x).to_le_bytes()).collect())
        .collect();
    let tensors = weights.iter().zip(&bytes).map(|(weight, bytes)| {
        (weight.name.as_str(), TensorView::new(Dtype::BF16, weight.shape.clone(), bytes).expect("a tensor"))
    });
    std::fs::write(path, safetensors::serialize(tensors, None).expect("a file")).expect("a file");
}

/// A network of three layers of 32 numbers, four heads of eight and two of keys. Of its matrices one has rank three and one a NaN.
fn llama(directory: &Path) -> PathBuf {
    let config = r#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "num_hidden_layers": 3,
        "intermediate_size": 48, "vocab_size": 40, "max_position_embeddings": 64, "rope_theta": 10000.0,
        "tie_word_embeddings": false}"#;
    std::fs::write(directory.join("config.json"), config).expect("a file");
    let mut weights = vec![
        weight("model.embed_tokens.weight", &[40, 32]),
        weight("model.norm.weight", &[32]),
        weight("lm_head.weight", &[40, 32]),
    ];
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("self_attn.q_proj", &[32usize, 32][..]),
            ("self_attn.k_proj", &[16, 32]),
            ("self_attn.v_proj", &[16, 32]),
            ("self_attn.o_proj", &[32, 32]),
            ("mlp.gate_proj", &[48, 32]),
            ("mlp.up_proj", &[48, 32]),
            ("mlp.down_proj", &[32, 48]),
            ("input_layernorm", &[32]),
            ("post_attention_layernorm", &[32]),
        ] {
            weights.push(weight(&format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    let named = |weights: &mut Vec<Weight>, end: &str, change: &dyn Fn(&mut Vec<f64>)| {
        change(
            &mut weights.iter_mut().find(|weight| weight.name.ends_with(end)).expect("it is there").values,
        );
    };
    named(&mut weights, "1.mlp.up_proj.weight", &|values| {
        for at in 3 * 32..values.len() {
            values[at] = values[at % (3 * 32)];
        }
    });
    named(&mut weights, "2.mlp.gate_proj.weight", &|values| values[100] = f64::NAN);
    let path = directory.join("model.safetensors");
    write(&path, &weights);
    directory.to_owned()
}

/// Shorter sides of 32 that are measured: five in each layer, two tables, without the one that has a NaN.
const OF_32: usize = 16;
/// Shorter sides of 16.
const OF_16: usize = 6;

struct Inspected {
    device: Option<Value>,
    report: Value,
    /// Calls for eigenvalues: the name, n, and how many matrices.
    calls: Vec<(String, usize, usize)>,
}

impl Inspected {
    fn batches(&self, n: usize) -> Vec<usize> {
        let of = |(name, side, count): &(String, usize, usize)| {
            (name == "cusolverDnXsyevBatched" && *side == n).then_some(*count)
        };
        self.calls.iter().filter_map(of).collect()
    }

    fn singles(&self, n: usize) -> usize {
        self.calls.iter().filter(|(name, side, _)| name == "cusolverDnXsyevd" && *side == n).count()
    }

    /// What was done again on the processor.
    fn redone(&self) -> Vec<String> {
        let pieces = self.device.as_ref().and_then(|device| device.get("redone")?.as_array());
        let text = |piece: &Value| piece["tensor"].as_str().expect("a name").to_owned();
        pieces.into_iter().flatten().map(text).collect()
    }
}

fn inspected(path: &Path, device: &str, libraries: &[&Path], settings: &str, math: &str) -> Inspected {
    let notes = tempfile::tempdir().unwrap();
    let calls = notes.path().join("calls");
    let arguments =
        ["inspect", path.to_str().unwrap(), "--format", "json", "--measure", "full", "--device", device];
    let settings =
        [("FAKE_CUDA", settings), ("FAKE_MATH", math), ("FAKE_MATH_CALLS", calls.to_str().unwrap())];
    let run = flashpoint(&arguments, libraries, &settings);
    assert_eq!(run.code, Some(0), "{settings:?}: {}", run.stderr);
    assert!(!run.stderr.contains("panicked") && !run.stderr.contains("fake CUDA"), "{}", run.stderr);
    let (device, report) = apart(&run.stdout);
    let call = |line: &str| {
        let parts: Vec<&str> = line.split(' ').collect();
        (parts[0].to_owned(), parts[1].parse().unwrap(), parts[2].parse().unwrap())
    };
    let calls = std::fs::read_to_string(&calls).unwrap_or_default().lines().map(call).collect();
    Inspected { device, report, calls }
}

fn old_libraries() -> [&'static Path; 2] {
    [fake().driver.as_path(), fake().old_libraries.as_path()]
}

#[test]
fn matrices_of_one_size_and_the_heads_of_a_layer_take_one_call() {
    let home = tempfile::tempdir().unwrap();
    let path = llama(home.path());
    let expected = inspected(&path, "cpu", &[], "", "");
    let heads = expected.report["checkpoints"][0]["attention"]["value"].as_array().expect("attention layers");
    assert_eq!(heads.len() as u64, LAYERS);
    let found = inspected(&path, "cuda", &everything(), "", "");
    assert_close(&found.report, &expected.report, "report");
    assert_eq!(found.redone(), Vec::<String>::new());
    assert_eq!((found.batches(32), found.batches(16)), (vec![OF_32], vec![OF_16]));
    assert_eq!(
        found.batches(8),
        [4; 3 * LAYERS as usize],
        "the form, the queries and the keys of four heads"
    );
    assert_eq!(found.calls.len(), 2 + 3 * LAYERS as usize, "{:?}", found.calls);
    let pieces = found.device.expect("it took part")["pieces"].as_u64().unwrap();
    assert_eq!(pieces, OF_32 as u64 + OF_16 as u64 + LAYERS, "matrices, and the heads of each layer");
    let auto = inspected(&path, "auto", &everything(), "", "");
    assert_eq!((auto.device, auto.calls, auto.report), (None, Vec::new(), expected.report));
}

#[test]
fn one_call_a_matrix_gives_the_same_bits_where_the_library_has_no_other() {
    let home = tempfile::tempdir().unwrap();
    let path = llama(home.path());
    let expected = inspected(&path, "cuda", &everything(), "", "");
    let found = inspected(&path, "cuda", &old_libraries(), "", "");
    assert_eq!(found.report, expected.report);
    assert_eq!(found.redone(), Vec::<String>::new());
    assert_eq!((found.singles(32), found.singles(16)), (OF_32, OF_16));
    assert_eq!(found.calls.len(), OF_32 + OF_16 + 3 * 4 * LAYERS as usize);
    let devices = |libraries: &[&Path]| flashpoint(&["devices"], libraries, &[]).stdout;
    let lacks = "it lacks cusolverDnXsyevBatched, which came with CUDA 12.6 Update 2: small matrices are decomposed one after the other";
    assert!(devices(&old_libraries()).contains(lacks), "{}", devices(&old_libraries()));
    assert!(!devices(&everything()).contains("lacks"));
}

#[test]
fn where_the_driver_is_alone_the_processor_has_the_eigenvalues() {
    let home = tempfile::tempdir().unwrap();
    let path = llama(home.path());
    let expected = inspected(&path, "cpu", &[], "", "");
    let found = inspected(&path, "cuda", &driver(), "", "");
    assert_close(&found.report, &expected.report, "report");
    assert_eq!((found.redone(), found.calls.len()), (Vec::new(), 0));
    let pieces = found.device.expect("it took part")["pieces"].as_u64().unwrap();
    assert_eq!(pieces, OF_32 as u64 + OF_16 as u64 + LAYERS, "Gram matrices, and the heads of each layer");
}

#[test]
fn a_batch_that_fails_is_measured_matrix_by_matrix() {
    let home = tempfile::tempdir().unwrap();
    let path = llama(home.path());
    let expected = inspected(&path, "cpu", &[], "", "");
    let layers: Vec<String> =
        (0..LAYERS).map(|layer| format!("the heads of model.layers.{layer}.self_attn")).collect();
    // The call fails, or one of its matrices does not converge: each goes alone, and of heads the processor has all.
    for math in ["batch", "diverge-second"] {
        let found = inspected(&path, "cuda", &everything(), "", math);
        assert_close(&found.report, &expected.report, math);
        assert_eq!((found.singles(32), found.singles(16)), (OF_32, OF_16), "{math}");
        assert_eq!(found.redone(), layers, "{math}");
    }
    let found = inspected(&path, "cuda", &everything(), "", "diverge-second");
    let device = found.device.expect("it took part").to_string();
    assert!(device.contains("cusolverDnXsyevBatched: 3 values did not converge"), "{device}");
    // Nothing converges: all is the processor's, each by its name.
    let found = inspected(&path, "cuda", &everything(), "", "diverge");
    assert_close(&found.report, &expected.report, "diverge");
    assert_eq!(found.redone().len(), OF_32 + OF_16 + LAYERS as usize);
    assert!(found.redone().contains(&"model.layers.0.mlp.up_proj.weight".to_owned()));
    // One upload fails: the batch has the others.
    let found = inspected(&path, "cuda", &everything(), "fail=cuMemcpyHtoDAsync_v2:4:999", "");
    assert_close(&found.report, &expected.report, "an upload");
    assert_eq!(found.redone(), Vec::<String>::new());
    assert_eq!((found.batches(16), found.singles(16)), (vec![OF_16 - 1], 1), "{:?}", found.calls);
    assert_eq!((found.batches(32), found.singles(32)), (vec![OF_32], 0));
    // The device is lost on the way: what a batch before has is kept.
    let found = inspected(&path, "cuda", &everything(), "fail=cuLaunchKernel:9:719", "");
    assert_close(&found.report, &expected.report, "lost");
    assert_eq!((found.batches(16), found.redone().len()), (vec![OF_16], OF_32 + LAYERS as usize));
}

#[test]
fn a_batch_beyond_the_memory_goes_in_pieces() {
    let home = tempfile::tempdir().unwrap();
    let path = llama(home.path());
    let expected = inspected(&path, "cuda", &everything(), "", "");
    // Sixteen Gram matrices are 131 kB, their copies as much, and the workspace four times that.
    let found = inspected(&path, "cuda", &everything(), "memory=700000", "");
    assert_eq!(found.report, expected.report);
    assert_eq!(found.redone(), Vec::<String>::new());
    let pieces = found.batches(32);
    assert!(pieces.len() > 1, "{pieces:?}");
    assert_eq!(pieces.iter().sum::<usize>() + found.singles(32), OF_32, "{:?}", found.calls);
    // The device has less than it said: halves until they fit, or else one by one, or else the processor.
    let cpu = inspected(&path, "cpu", &[], "", "");
    for nth in [8, 12, 16, 20] {
        let found = inspected(&path, "cuda", &everything(), &format!("fail=cuMemAllocAsync:{nth}+:2"), "");
        assert_close(&found.report, &cpu.report, "report");
        assert!(!found.redone().is_empty(), "{nth}: nothing was left of the memory");
    }
}

#[test]
fn experts_and_kernels_of_convolutions_are_gathered_as_well() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("model.safetensors");
    let mut weights: Vec<Weight> =
        (0..4).map(|layer| weight(&format!("features.{layer}.conv.weight"), &[8, 3, 3, 3])).collect();
    weights.push(weight("model.layers.0.mlp.experts.gate_up_proj", &[5, 12, 20]));
    write(&path, &weights);
    let expected = inspected(&path, "cpu", &[], "", "");
    let found = inspected(&path, "cuda", &everything(), "", "");
    assert_close(&found.report, &expected.report, "report");
    assert_eq!(found.calls.len(), 2, "{:?}", found.calls);
    assert_eq!((found.batches(8), found.batches(12)), (vec![4], vec![5]));
}
