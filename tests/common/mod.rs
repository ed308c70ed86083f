//! What several test files share: reading oracles made by PyTorch and numpy, and comparing an analysis with them.

#![allow(dead_code, reason = "each test file uses a part")]

use std::path::{Path, PathBuf};

use flashpoint::analysis::measure_checkpoint;
use flashpoint::analysis::model::{
    CheckpointAnalysis, Kind, MeasureLevel, Measured, Statistics, TensorAnalysis,
};
use flashpoint::checkpoint::{Checkpoint, NameRules};
use flashpoint::context::Context;
use flashpoint::format::Entry;
use flashpoint::tensor::Tensor;
use serde_json::Value;

/// Reads and measures a checkpoint that must be readable.
pub fn analyse(path: &Path, context: &Context) -> CheckpointAnalysis {
    analyse_at(path, MeasureLevel::Stats, context)
}

/// Reads a checkpoint that must be readable and measures it at a depth.
pub fn analyse_at(path: &Path, level: MeasureLevel, context: &Context) -> CheckpointAnalysis {
    let checkpoint = Checkpoint::read(path, &NameRules::default(), context)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    measure_checkpoint(&checkpoint, level, context)
}

/// Every `*.json` below `folder`.
pub fn json_files(folder: &Path) -> Vec<PathBuf> {
    let is_json = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "json");
    let mut files: Vec<PathBuf> = files_below(folder).into_iter().filter(is_json).collect();
    files.sort();
    files
}

/// Every file below `folder`.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("a listed entry can be read").path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// The oracle at `path`.
pub fn oracle(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("a listed oracle can be read");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// CRC-32 of all elements of a tensor in logical order, as `fixtures/make_order.py` takes it of PyTorch's.
pub fn checksum(tensor: &Tensor) -> u32 {
    const BLOCK: u64 = 1 << 16;
    let mut sum = flate2::Crc::new();
    let mut buffer = Vec::new();
    for start in (0..tensor.count()).step_by(BLOCK as usize) {
        let block = start..tensor.count().min(start + BLOCK);
        sum.update(tensor.bytes(block, &mut buffer).expect("readable elements"));
    }
    sum.sum()
}

/// Tensors of `entries` whose elements stand in another order than PyTorch's, of those that `expected` lists.
pub fn out_of_order(entries: &[Entry], expected: &Value) -> Vec<String> {
    let expected = expected.as_object().expect("a table of checksums");
    assert!(!expected.is_empty());
    let is_wrong = |(name, sum): &(&String, &Value)| {
        let entry = entries.iter().find(|entry| entry.name == **name);
        let tensor = entry.and_then(|entry| entry.tensor.as_ref().ok());
        tensor.map(|tensor| u64::from(checksum(tensor))) != sum.as_u64()
    };
    expected.iter().filter(is_wrong).map(|(name, _)| name.clone()).collect()
}

/// Where an analysis differs from the oracle's `tensors`, one line each. Nothing may be missing on either side.
pub fn differences(analysis: &CheckpointAnalysis, oracle: &Value) -> Vec<String> {
    let expected = oracle["tensors"].as_object().expect("an oracle lists its tensors");
    let mut lines = Vec::new();
    for (name, numbers) in expected {
        match analysis.tensors.iter().find(|tensor| &tensor.name == name) {
            Some(tensor) => compare_tensor(tensor, numbers, &mut lines),
            None => lines.push(format!("{name}: not listed")),
        }
    }
    for tensor in &analysis.tensors {
        if !expected.contains_key(&tensor.name) {
            lines.push(format!("{}: listed, but PyTorch has no such tensor", tensor.name));
        }
    }
    lines
}

fn compare_tensor(tensor: &TensorAnalysis, expected: &Value, lines: &mut Vec<String>) {
    let mut differ = |what: &str, got: String| lines.push(format!("{}: {what}: {got}", tensor.name));
    let shape =
        expected["shape"].as_array().map(|sizes| sizes.iter().filter_map(Value::as_u64).collect::<Vec<_>>());
    if shape.as_ref() != Some(&tensor.shape) {
        differ("shape", format!("{:?}, expected {}", tensor.shape, expected["shape"]));
    }
    // Quantised and sparse tensors have no plain elements: listed with their shape, and said not to be measured.
    if expected["dtype"].as_str().is_some_and(|dtype| dtype.starts_with("QI"))
        || expected.get("layout").is_some()
    {
        if tensor.statistics.value().is_some() {
            differ("statistics", "measured, although it has no plain elements".to_owned());
        }
        return;
    }
    let dtype = tensor.dtype.map_or("none", flashpoint::tensor::DType::name);
    if expected["dtype"].as_str() != Some(dtype) {
        differ("dtype", format!("{dtype}, expected {}", expected["dtype"]));
    }
    match (&tensor.statistics, tensor.dtype.map(flashpoint::tensor::DType::kind)) {
        (Measured::Value(statistics), Some(kind)) => {
            compare_statistics(statistics, kind, expected, &mut differ);
        }
        (other, Some(Kind::Float | Kind::Integer)) => differ("statistics", format!("{other:?}")),
        _ => {}
    }
}

fn compare_statistics(got: &Statistics, kind: Kind, expected: &Value, differ: &mut impl FnMut(&str, String)) {
    let mut count = |name: &str, value: u64| {
        if let Some(wanted) = expected.get(name).and_then(Value::as_u64)
            && wanted != value
        {
            differ(name, format!("{value}, expected {wanted}"));
        }
    };
    count("count", got.count);
    count("zero", got.zero);
    if kind == Kind::Float {
        count("nan", got.nan);
        count("positive_infinity", got.positive_infinity);
        count("negative_infinity", got.negative_infinity);
        count("subnormal", got.subnormal);
        count("negative", got.negative);
    }
    let number = |name: &str| expected.get(name).and_then(Value::as_f64);
    let mut within = |name: &str, value: &Measured<f64>, tolerance: f64| match (number(name), value.value()) {
        (Some(wanted), Some(&got)) if (wanted - got).abs() <= tolerance => {}
        (None, None) => {}
        // An oracle may leave a statistic out; it says `null` where there is none.
        (None, Some(_)) if expected.get(name).is_none() => {}
        (wanted, got) => differ(name, format!("{got:?}, expected {wanted:?} within {tolerance:e}")),
    };
    within("min", &got.min, 0.0);
    within("max", &got.max, 0.0);
    if kind == Kind::Float {
        let finite = (got.count - got.nan - got.positive_infinity - got.negative_infinity).max(1) as f64;
        // Where the sum itself is beyond f64, the largest element bounds the mean's error.
        let l1 = number("l1").unwrap_or(finite * number("max_abs").unwrap_or(0.0));
        let l2 = number("l2").unwrap_or(0.0);
        within("max_abs", &got.max_abs, 0.0);
        within("l1", &got.l1, 1e-12 * l1);
        within("l2", &got.l2, 1e-12 * l2);
        within("mean", &got.mean, 1e-12 * (l1 / finite));
        if let (Some(variance), Some(mean)) = (number("variance"), number("mean")) {
            let Conditioning { second_moment, amplification } = Conditioning::of(variance, mean);
            if 4e-12 * amplification < 1.0 || got.variance.value().is_some() {
                within("variance", &got.variance, 4e-12 * second_moment);
            }
            if 4e-12 * amplification.powi(2) < 1e-3 {
                let skewness = 1.0 + number("skewness").unwrap_or(0.0).abs();
                let kurtosis = 3.0 + number("excess_kurtosis").unwrap_or(0.0).abs();
                within("skewness", &got.skewness, 4e-12 * amplification.powf(1.5) * skewness);
                within("excess_kurtosis", &got.excess_kurtosis, 4e-12 * amplification.powi(2) * kurtosis);
            }
        }
        compare_histograms(got, expected, differ);
    }
}

/// How much the central moments amplify the rounding of the power sums they are made of (docs/benchmarks.md, bounds).
struct Conditioning {
    /// E(x−K)², for the worse of the two pivots K, 0 and 1.
    second_moment: f64,
    /// That over the variance.
    amplification: f64,
}

impl Conditioning {
    fn of(variance: f64, mean: f64) -> Self {
        let second_moment = variance + mean.powi(2).max((mean - 1.0).powi(2));
        Self { second_moment, amplification: second_moment / variance.max(f64::MIN_POSITIVE) }
    }
}

fn compare_histograms(got: &Statistics, expected: &Value, differ: &mut impl FnMut(&str, String)) {
    if let (Some(wanted), Some(exponents)) = (expected.get("exponents"), got.exponents.value()) {
        let counts = exponents.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        let binade =
            |index: usize| i64::from(exponents.lowest) + i64::try_from(index).expect("at most 2200 binades");
        let found: serde_json::Map<_, _> =
            counts.map(|(index, &count)| (binade(index).to_string(), Value::from(count))).collect();
        let wanted = wanted.as_object().expect("exponents are a table");
        if found.len() != wanted.len()
            || found.iter().any(|(binade, count)| wanted.get(binade) != Some(count))
        {
            differ("exponents", format!("{found:?}, expected {wanted:?}"));
        }
    }
    if let (Some(wanted), Some(headroom)) = (expected.get("headroom"), got.headroom.value()) {
        let casts = [
            ("F16", headroom.f16),
            ("BF16", headroom.bf16),
            ("F8_E4M3", headroom.f8_e4m3),
            ("F8_E5M2", headroom.f8_e5m2),
        ];
        for (name, cast) in casts {
            let found = serde_json::json!({
                "overflow": cast.overflow, "flush": cast.flush, "subnormal": cast.subnormal
            });
            if wanted.get(name) != Some(&found) {
                differ("headroom", format!("{name} {found}, expected {:?}", wanted.get(name)));
            }
        }
    }
    let mut truth = |name: &str, value: &Measured<bool>| {
        if let (Some(wanted), Some(&got)) = (expected.get(name).and_then(Value::as_bool), value.value())
            && wanted != got
        {
            differ(name, format!("{got}, expected {wanted}"));
        }
    };
    truth("all_equal", &got.all_equal);
    truth("bit_equal_one", &got.all_one);
}
