//! The largest singular value of every block's Jacobian and of the whole, beside the same Lanczos driven by torch.func, in one run: a
//! GPT-2 of random weights. Where there is a GPU, on that as well.
//!
//! `FLASHPOINT_PYTHON=python3 cargo bench --bench jacobian`. `FLASHPOINT_BENCH_BLOCKS` (12), `FLASHPOINT_BENCH_WIDTH` (768) and
//! `FLASHPOINT_BENCH_TOKENS` (64) are its size.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use flashpoint::analysis::jacobian::segment::SegmentJacobian;
use flashpoint::analysis::spectrum::lanczos;
use flashpoint::checkpoint::{Checkpoint, NameRules};
use flashpoint::compute::{Backend, Cpu, cuda};
use flashpoint::context::Context;
use flashpoint::network::builders::{Built, from_config};
use flashpoint::network::{Feed, Input, Segment, Tape, ValueId, Weights};
use flashpoint::random::Stream;

/// Pairs of products.
const PAIRS: usize = 20;

/// Rows of the embedding: it is no part of what is measured.
const VOCABULARY: usize = 256;

fn main() {
    let size = |name: &str, default: usize| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let blocks = size("FLASHPOINT_BENCH_BLOCKS", 12);
    let width = size("FLASHPOINT_BENCH_WIDTH", 768);
    let tokens = size("FLASHPOINT_BENCH_TOKENS", 64);
    let folder = make_checkpoint(blocks, width, tokens);
    let context = Context::default();
    let checkpoint = Checkpoint::read(&folder, &NameRules::default(), &context).expect("it was just made");
    let built = from_config(&checkpoint).expect("it is a GPT-2");
    let total = measured(&Cpu, "processor", &built, &checkpoint, tokens);
    match cuda::open(0, &[]) {
        Ok(device) => {
            // Kernels are compiled, and memory had, when they are first needed.
            measured(&device.backend(), &format!("{}, first", device.name()), &built, &checkpoint, tokens);
            let gpu = measured(&device.backend(), &device.name(), &built, &checkpoint, tokens);
            println!("the processor takes {:.1} times as long as {}", total / gpu, device.name());
        }
        Err(reason) => println!("GPU NOT MEASURED: {reason}"),
    }
    torch(&folder, blocks, tokens);
}

/// Seconds for every block and the whole on one device.
fn measured<B: Backend>(
    backend: &B,
    name: &str,
    built: &Built,
    checkpoint: &Checkpoint,
    tokens: usize,
) -> f64 {
    let network = &built.network;
    let tensors = built.tensors(checkpoint);
    let last = ValueId(network.nodes.len() - 1);
    let mut weights = Weights::<B, f32>::none(network);
    weights
        .load(backend, network, &tensors, &network.parameters_between(None, last))
        .expect("the weights can be read");
    let ids = (0..tokens as u32).map(|token| token * 7 % VOCABULARY as u32).collect();
    let feed = Feed::from(Input::Tokens { batch: 1, ids });
    let start = Instant::now();
    let mut tape = Tape::new(network, backend, &feed).expect("the input fits");
    tape.advance(&weights, last).expect("a forward pass");
    println!("flashpoint forward, {name}: {:.3} s", start.elapsed().as_secs_f64());
    let segments = network.blocks.iter().map(|block| (block.name.clone(), block.segment()));
    let whole = ("end to end".to_owned(), Segment::new(network.entry(), network.exit()));
    let mut total = 0.0;
    for (part, segment) in segments.chain([whole]) {
        let operator = SegmentJacobian { backend, tape: &tape, weights: &weights, segment };
        let start = Instant::now();
        let ritz = lanczos::run(backend, &operator, PAIRS, Stream::new(0, 0), &Context::default())
            .expect("products can be made")
            .expect("nobody stops it");
        let seconds = start.elapsed().as_secs_f64();
        total += seconds;
        println!("flashpoint {part}, {name}: {seconds:.3} s, sigma_1 {:.6}", ritz.values[0]);
    }
    println!("flashpoint in all, {name}: {total:.3} s");
    total
}

/// The same by `benches/jacobian.py`, on as many threads.
fn torch(folder: &Path, blocks: usize, tokens: usize) {
    let Some(python) = std::env::var_os("FLASHPOINT_PYTHON") else { return };
    let threads = rayon::current_num_threads().to_string();
    let arguments = [blocks.to_string(), tokens.to_string(), PAIRS.to_string(), threads];
    let status = Command::new(python).arg("benches/jacobian.py").arg(folder).args(arguments).status();
    if !status.is_ok_and(|status| status.success()) {
        println!("torch could not be run");
    }
}

/// A GPT-2 as it is initialised, in f32.
fn make_checkpoint(blocks: usize, width: usize, tokens: usize) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("gpt2-{blocks}x{width}x{tokens}"));
    let path = folder.join("model.safetensors");
    if path.is_file() {
        return folder;
    }
    std::fs::create_dir_all(&folder).expect("the target directory is writable");
    let small = 0.02 / (2.0 * blocks as f64).sqrt();
    let mut tensors = vec![
        ("wte.weight".to_owned(), vec![VOCABULARY, width], 0.02, 0.0),
        ("wpe.weight".to_owned(), vec![tokens, width], 0.02, 0.0),
        ("ln_f.weight".to_owned(), vec![width], 0.0, 1.0),
        ("ln_f.bias".to_owned(), vec![width], 0.0, 0.0),
    ];
    for block in 0..blocks {
        let mut add = |name: &str, shape: Vec<usize>, deviation: f64, mean: f64| {
            tensors.push((format!("h.{block}.{name}"), shape, deviation, mean));
        };
        for norm in ["ln_1", "ln_2"] {
            add(&format!("{norm}.weight"), vec![width], 0.0, 1.0);
            add(&format!("{norm}.bias"), vec![width], 0.0, 0.0);
        }
        for (part, rows, columns, deviation) in [
            ("attn.c_attn", width, 3 * width, 0.02),
            ("attn.c_proj", width, width, small),
            ("mlp.c_fc", width, 4 * width, 0.02),
            ("mlp.c_proj", 4 * width, width, small),
        ] {
            add(&format!("{part}.weight"), vec![rows, columns], deviation, 0.0);
            add(&format!("{part}.bias"), vec![columns], 0.0, 0.0);
        }
    }
    let (mut header, mut offset) = (serde_json::Map::new(), 0usize);
    for (name, shape, ..) in &tensors {
        let bytes = 4 * shape.iter().product::<usize>();
        let entry =
            serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [offset, offset + bytes] });
        header.insert(name.clone(), entry);
        offset += bytes;
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).expect("it is writable"));
    let mut write = |bytes: &[u8]| file.write_all(bytes).expect("the disk has room");
    write(&(header.len() as u64).to_le_bytes());
    write(header.as_bytes());
    for (index, (_, shape, deviation, mean)) in tensors.iter().enumerate() {
        for value in Stream::new(7, index as u64).normals(shape.iter().product()) {
            write(&((mean + deviation * value) as f32).to_le_bytes());
        }
    }
    drop(file);
    let config = serde_json::json!({
        "model_type": "gpt2", "vocab_size": VOCABULARY, "n_positions": tokens, "n_embd": width, "n_layer": blocks,
        "n_head": width / 64, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).expect("it is writable");
    folder
}
