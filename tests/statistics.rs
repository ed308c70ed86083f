//! The statistics of tensors against a slow, obvious reference, and against themselves: whatever the instruction set,
//! the number of threads, and the way the file is read, the same bits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flashpoint::analysis::model::{Cast, Degenerate, Headroom, MeasureLevel, Measured, Statistics};
use flashpoint::analysis::statistics::{Isa, Pivot, Plan, STOPPED, measure, measure_as_planned};
use flashpoint::context::Context;
use flashpoint::error::ErrorKind;
use flashpoint::files::InputFile;
use flashpoint::tensor::{Axis, DType, Piece, Tensor, decode};
use half::{bf16, f16};
use proptest::prelude::*;

const FLOATS: [DType; 6] = [DType::F64, DType::F32, DType::F16, DType::Bf16, DType::F8E4M3, DType::F8E5M2];

/// Bytes before the tensor: odd, so that nothing can rely on alignment.
const OFFSET: usize = 13;

fn write(directory: &Path, bytes: &[u8]) -> PathBuf {
    let path = directory.join("tensor");
    std::fs::write(&path, [&[0xa5; OFFSET][..], bytes].concat()).unwrap();
    path
}

fn open(path: &Path, context: &Context) -> Arc<InputFile> {
    Arc::new(InputFile::open(path, context).unwrap())
}

/// A contiguous tensor of `bytes` in a file in `directory`.
fn tensor(directory: &Path, dtype: DType, bytes: &[u8], context: &Context) -> Tensor {
    let file = open(&write(directory, bytes), context);
    let count = bytes.len() as u64 / dtype.size().unwrap();
    let range = OFFSET as u64..file.len();
    Tensor::contiguous(dtype, vec![count], file, range).unwrap()
}

fn stats(dtype: DType, bytes: &[u8], pivot: Pivot) -> Statistics {
    let directory = tempfile::tempdir().unwrap();
    let tensor = tensor(directory.path(), dtype, bytes, &Context::default());
    value(&measure(&tensor, MeasureLevel::Stats, pivot, &Context::default()).unwrap())
}

#[track_caller]
fn value<T: Clone + std::fmt::Debug>(measured: &Measured<T>) -> T {
    match measured {
        Measured::Value(value) => value.clone(),
        other => panic!("no value: {other:?}"),
    }
}

/// The bytes of `values` in `dtype`, rounded to nearest.
fn encode(dtype: DType, values: &[f64]) -> Vec<u8> {
    let nearest_byte = |decode: fn(u8) -> f64| {
        let table: Vec<(u8, f64)> =
            (0u8..=255).map(|byte| (byte, decode(byte))).filter(|(_, x)| x.is_finite()).collect();
        move |value: &f64| {
            let distance = |(_, x): &(u8, f64)| (x - value).abs();
            table.iter().min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap().0
        }
    };
    match dtype {
        DType::F64 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::F32 => values.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|x| f16::from_f64(*x).to_le_bytes()).collect(),
        DType::Bf16 => values.iter().flat_map(|x| bf16::from_f64(*x).to_le_bytes()).collect(),
        DType::F8E4M3 => values.iter().map(nearest_byte(decode::f8_e4m3_to_f64)).collect(),
        DType::F8E5M2 => values.iter().map(nearest_byte(decode::f8_e5m2_to_f64)).collect(),
        _ => panic!("floats only"),
    }
}

/// Deterministic numbers: xorshift.
struct Random(u64);

impl Random {
    fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length.div_ceil(8)).flat_map(|_| self.word().to_le_bytes()).take(length).collect()
    }

    /// Roughly normal.
    fn normal(&mut self) -> f64 {
        let word = self.word();
        let parts = [0, 16, 32, 48].map(|shift| f64::from((word >> shift) as u16) / 65535.0);
        (parts.iter().sum::<f64>() - 2.0) * 3f64.sqrt()
    }

    fn normals(&mut self, count: usize, mean: f64, deviation: f64) -> Vec<f64> {
        (0..count).map(|_| mean + deviation * self.normal()).collect()
    }
}

// The reference: one element after the other, compensated sums, two passes for the moments.

/// A sum that carries what rounding took (Neumaier).
fn exact_sum(terms: impl Iterator<Item = f64>) -> f64 {
    let (sum, lost) = terms.fold((0.0f64, 0.0), |(sum, lost), term| {
        let next = sum + term;
        let error = if sum.abs() >= term.abs() { (sum - next) + term } else { (term - next) + sum };
        (next, lost + error)
    });
    sum + lost
}

fn smallest_normal(dtype: DType) -> f64 {
    2f64.powi(match dtype {
        DType::F64 => -1022,
        DType::F32 | DType::Bf16 => -126,
        DType::F16 | DType::F8E5M2 => -14,
        _ => -6,
    })
}

fn count(values: &[f64], predicate: impl Fn(f64) -> bool) -> u64 {
    values.iter().filter(|&&x| predicate(x)).count() as u64
}

/// The magnitudes of a target dtype in order, and one more where its next would be.
fn magnitudes(decode: impl Fn(u16) -> f64, patterns: u16) -> Vec<f64> {
    let mut values: Vec<f64> = (0..patterns).map(decode).take_while(|x| x.is_finite()).collect();
    let last = values.len() - 1;
    values.push(2.0 * values[last] - values[last - 1]);
    values
}

/// Rounding by looking for the nearest of all magnitudes; of two equally near, the one with the even pattern.
fn nearest(table: &[f64], x: f64) -> usize {
    let above = table.partition_point(|&y| y < x);
    if above == 0 || above == table.len() {
        return above.min(table.len() - 1);
    }
    let (down, up) = (x - table[above - 1], table[above] - x);
    match down.total_cmp(&up) {
        std::cmp::Ordering::Less => above - 1,
        std::cmp::Ordering::Greater => above,
        std::cmp::Ordering::Equal => above - 1 + (above - 1) % 2,
    }
}

/// f16, bf16, E4M3, E5M2: their magnitudes, and how many of these are below the smallest normal.
struct Targets([(Vec<f64>, usize); 4]);

impl Targets {
    fn new() -> Self {
        Self([
            (magnitudes(|bits| f16::from_bits(bits).to_f64(), 0x8000), 1 << 10),
            (magnitudes(|bits| bf16::from_bits(bits).to_f64(), 0x8000), 1 << 7),
            (magnitudes(|bits| decode::f8_e4m3_to_f64(bits as u8), 0x80), 1 << 3),
            (magnitudes(|bits| decode::f8_e5m2_to_f64(bits as u8), 0x80), 1 << 2),
        ])
    }

    fn headroom(&self, finite: &[f64]) -> Headroom {
        let [f16, bf16, f8_e4m3, f8_e5m2] = [0, 1, 2, 3].map(|target: usize| {
            let (table, normal) = &self.0[target];
            let mut cast = Cast::default();
            for x in finite.iter().filter(|&&x| x != 0.0) {
                let pattern = nearest(table, x.abs());
                cast.overflow += u64::from(pattern == table.len() - 1);
                cast.flush += u64::from(pattern == 0);
                cast.subnormal += u64::from((1..*normal).contains(&pattern));
            }
            cast
        });
        Headroom { f16, bf16, f8_e4m3, f8_e5m2 }
    }
}

/// γ as the documentation of the sums states it.
fn gamma(count: usize) -> f64 {
    let per_lane = count.min(1 << 20).div_ceil(32);
    (per_lane + 5 + count.div_ceil(1 << 20) + 8) as f64 * f64::EPSILON / 2.0
}

#[track_caller]
fn near(what: &str, ours: f64, reference: f64, bound: f64) {
    let error = (ours - reference).abs();
    // Roundings of the last formulas, and of the reference.
    let bound = bound + 4.0 * f64::EPSILON * reference.abs();
    assert!(error <= bound, "{what}: {ours:e} against {reference:e}, off by {error:e}, bound {bound:e}");
}

/// The same for a quantity that may leave the range of f64 where the reference, scaled, does not.
#[track_caller]
fn near_scaled(what: &str, ours: &Measured<f64>, scale: f64, reference: f64, bound: f64) {
    match ours {
        Measured::Degenerate(Degenerate::Overflow) => assert!((reference * scale).is_infinite()),
        ours => near(what, value(ours) / scale, reference, bound),
    }
}

fn check_against_reference(dtype: DType, bytes: &[u8], pivot: Pivot, targets: &Targets) {
    let ours = stats(dtype, bytes, pivot);
    let mut values = Vec::new();
    decode::to_f64(dtype, bytes, &mut values);
    let finite: Vec<f64> = values.iter().copied().filter(|x| x.is_finite()).collect();
    assert_eq!(ours.count, values.len() as u64);
    assert_eq!(ours.nan, count(&values, f64::is_nan));
    assert_eq!(ours.positive_infinity, count(&values, |x| x == f64::INFINITY));
    assert_eq!(ours.negative_infinity, count(&values, |x| x == f64::NEG_INFINITY));
    assert_eq!(ours.zero, count(&finite, |x| x == 0.0));
    assert_eq!(ours.subnormal, count(&finite, |x| x != 0.0 && x.abs() < smallest_normal(dtype)));
    assert_eq!(ours.negative, count(&finite, |x| x < 0.0));
    if finite.is_empty() {
        let expected = if values.is_empty() { Degenerate::Empty } else { Degenerate::NoFiniteElement };
        assert_eq!(ours.l2, Measured::Degenerate(expected));
        assert_eq!(ours.min, Measured::Degenerate(expected));
        assert_eq!(ours.headroom, Measured::Degenerate(expected));
        return;
    }
    let (min, max) = finite.iter().fold((f64::MAX, f64::MIN), |(a, b), &x| (a.min(x), b.max(x)));
    assert_eq!((value(&ours.min), value(&ours.max), value(&ours.max_abs)), (min, max, max.max(-min)));
    assert_eq!(value(&ours.all_equal), min == max && finite.len() == values.len());
    assert_eq!(value(&ours.all_one), values.iter().all(|&x| x == 1.0));
    assert_eq!(value(&ours.headroom), targets.headroom(&finite));
    check_exponents(&ours, &finite);
    check_sums(&ours, &finite, pivot);
}

fn check_exponents(ours: &Statistics, finite: &[f64]) {
    let mut expected = BTreeMap::<i32, u64>::new();
    for x in finite.iter().filter(|&&x| x != 0.0) {
        // Subnormal doubles have no exponent field of their own.
        let (x, shift) = if x.abs() < 1e-300 { (x * 2f64.powi(200), 200) } else { (*x, 0) };
        let binade = i32::try_from((x.to_bits() >> 52) & 0x7ff).unwrap() - 1023 - shift;
        *expected.entry(binade).or_default() += 1;
    }
    let Measured::Value(exponents) = &ours.exponents else {
        assert!(expected.is_empty(), "{:?}", ours.exponents);
        return;
    };
    let found: BTreeMap<i32, u64> =
        (exponents.lowest..).zip(exponents.counts.iter().copied()).filter(|(_, count)| *count > 0).collect();
    assert_eq!(found, expected);
    assert!(exponents.counts.first() != Some(&0) && exponents.counts.last() != Some(&0));
}

fn check_sums(ours: &Statistics, finite: &[f64], pivot: Pivot) {
    let n = finite.len() as f64;
    let gamma = gamma(finite.len());
    let largest = finite.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    // The reference takes powers, so it works on numbers near 1.
    let scale =
        if largest > 0.0 { 2f64.powi(largest.log2().floor().clamp(-1000.0, 1000.0) as i32) } else { 1.0 };
    let k = if pivot == Pivot::One && (1e-60..1e60).contains(&largest) { 1.0 / scale } else { 0.0 };
    let x: Vec<f64> = finite.iter().map(|x| x / scale).collect();
    let l1 = exact_sum(x.iter().map(|x| x.abs()));
    let l2 = exact_sum(x.iter().map(|x| x * x)).sqrt();
    near_scaled("l1", &ours.l1, scale, l1, gamma * l1);
    near_scaled("l2", &ours.l2, scale, l2, gamma * l2);
    near_scaled("rms", &ours.rms, scale, l2 / n.sqrt(), gamma * l2 / n.sqrt());
    let mean = exact_sum(x.iter().copied()) / n;
    let absolute = |p: i32| exact_sum(x.iter().map(|x| (x - k).abs().powi(p)));
    let (a1, a2, a3, a4) = (absolute(1), absolute(2), absolute(3), absolute(4));
    near("mean", value(&ours.mean) / scale, mean, gamma * a1 / n + f64::EPSILON * (k + mean.abs()));
    if finite.iter().all(|&x| x == finite[0]) {
        assert_eq!(ours.variance, Measured::Value(0.0));
        assert_eq!(ours.skewness, Measured::Degenerate(Degenerate::Constant));
        assert_eq!(ours.excess_kurtosis, Measured::Degenerate(Degenerate::Constant));
        return;
    }
    let central = |p: i32| exact_sum(x.iter().map(|x| (x - mean).powi(p)));
    let (m2, m3, m4) = (central(2), central(3), central(4));
    let d = a1 / n;
    let error2 = gamma * (a2 + 2.0 * d * a1);
    let error3 = gamma * (a3 + 6.0 * d * a2 + 6.0 * n * d.powi(3));
    let error4 = gamma * (a4 + 8.0 * d * a3 + 18.0 * d * d * a2 + 12.0 * n * d.powi(4));
    let relative2 = error2 / m2;
    match &ours.variance {
        Measured::Value(variance) => near("variance", variance / scale / scale, m2 / n, error2 / n),
        Measured::NotMeasured(_) => assert!(4.0 * error2 > 1e-3 * m2, "given up without need"),
        Measured::Degenerate(kind) => {
            assert_eq!(*kind, Degenerate::Overflow);
            assert!(!(m2 / n * scale * scale).is_normal());
        }
    }
    let skewness = n.sqrt() * m3 / m2.powf(1.5);
    if let Measured::Value(ours) = ours.skewness {
        let bound = error3 * n.sqrt() / m2.powf(1.5) + 2.0 * relative2 * skewness.abs();
        near("skewness", ours, skewness, 2.0 * bound + 1e-14 * (1.0 + skewness.abs()));
    }
    let kurtosis = n * m4 / (m2 * m2) - 3.0;
    if let Measured::Value(ours) = ours.excess_kurtosis {
        let bound = error4 * n / (m2 * m2) + 2.0 * relative2 * (kurtosis + 3.0);
        near("kurtosis", ours, kurtosis, 2.0 * bound + 1e-14 * (kurtosis + 4.0));
    }
}

/// Both zeros, both infinities, NaN, and the edges of every format, of both signs.
fn special_values() -> Vec<f64> {
    let powers = [-9, -10, -14, -16, -17, -24, -25, -126, -133, -134, -149].map(|power| 2f64.powi(power));
    let edges =
        [0.0, 1.0, 448.0, 464.0, 480.0, 57344.0, 61440.0, 65504.0, 65520.0, 1e30, f64::from(f32::MAX)];
    let beyond = [f64::INFINITY, f64::NAN];
    powers.into_iter().chain(edges).chain(beyond).flat_map(|x| [x, -x]).collect()
}

#[test]
fn agrees_with_the_reference_on_weights_of_every_dtype_and_length() {
    let targets = Targets::new();
    let mut random = Random(1);
    for dtype in FLOATS {
        for length in [0, 1, 2, 31, 32, 33, 2047, 2048, 2049, 5000, 40_001] {
            let weights = encode(dtype, &random.normals(length, 0.0, 0.02));
            check_against_reference(dtype, &weights, Pivot::Zero, &targets);
            let gains = encode(dtype, &random.normals(length, 1.0, 0.01));
            check_against_reference(dtype, &gains, Pivot::One, &targets);
        }
    }
}

#[test]
fn agrees_with_the_reference_where_patterns_of_16_bits_are_counted() {
    let targets = Targets::new();
    let mut random = Random(5);
    // More than a block, and from where on patterns are counted.
    for (dtype, length) in [DType::F16, DType::Bf16].into_iter().flat_map(|dtype| {
        [(1 << 18) - 1, 1 << 18, (1 << 18) + 3, (1 << 20) + 70_001].map(|length| (dtype, length))
    }) {
        let weights = encode(dtype, &random.normals(length, 0.001, 0.02));
        check_against_reference(dtype, &weights, Pivot::Zero, &targets);
        let gains = encode(dtype, &random.normals(length, 1.0, 0.01));
        check_against_reference(dtype, &gains, Pivot::One, &targets);
        // Any bits: every NaN and Inf, every subnormal, all binades.
        check_against_reference(dtype, &random.bytes(2 * length), Pivot::Zero, &targets);
        check_against_reference(dtype, &[0, 0x80].repeat(length), Pivot::Zero, &targets);
    }
}

#[test]
fn agrees_with_the_reference_on_every_special_value_among_weights() {
    let targets = Targets::new();
    let mut random = Random(2);
    for dtype in [DType::F64, DType::F32, DType::F16, DType::Bf16] {
        let specials = encode(dtype, &special_values());
        check_against_reference(dtype, &specials, Pivot::Zero, &targets);
        let mut mixed = encode(dtype, &random.normals(6000, 0.0, 0.02));
        let size = dtype.size().unwrap() as usize;
        for (index, special) in specials.chunks(size).enumerate() {
            let place = (index * 131 + 7) % 6000 * size;
            mixed[place..place + size].copy_from_slice(special);
        }
        check_against_reference(dtype, &mixed, Pivot::Zero, &targets);
        check_against_reference(dtype, &mixed, Pivot::One, &targets);
    }
}

#[test]
fn agrees_with_the_reference_on_tensors_without_a_finite_element() {
    let targets = Targets::new();
    check_against_reference(DType::F32, &f32::NAN.to_le_bytes().repeat(3000), Pivot::Zero, &targets);
    check_against_reference(DType::F32, &f32::NEG_INFINITY.to_le_bytes().repeat(3000), Pivot::Zero, &targets);
    check_against_reference(DType::F8E4M3, &[0x7f; 40], Pivot::Zero, &targets);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn agrees_with_the_reference_on_any_bytes(
        dtype in proptest::sample::select(FLOATS.to_vec()),
        seed in 1u64..,
        length in 0usize..5000,
    ) {
        let bytes = Random(seed).bytes(length * dtype.size().unwrap() as usize);
        check_against_reference(dtype, &bytes, Pivot::Zero, &Targets::new());
    }

    #[test]
    fn agrees_with_the_reference_at_any_mean_and_spread(
        dtype in proptest::sample::select(vec![DType::F64, DType::F32]),
        seed in 1u64..,
        mean in -3.0f64..3.0,
        exponent in -7i32..4,
    ) {
        let values = encode(dtype, &Random(seed).normals(3001, mean, 10f64.powi(exponent)));
        check_against_reference(dtype, &values, Pivot::Zero, &Targets::new());
        check_against_reference(dtype, &values, Pivot::One, &Targets::new());
    }
}

#[test]
fn the_same_bits_for_every_instruction_set_thread_count_and_way_of_reading() {
    let names: Vec<String> = Isa::available().iter().map(Isa::to_string).collect();
    let skipped: Vec<&str> =
        Isa::NAMES.into_iter().filter(|name| !names.iter().any(|found| found == name)).collect();
    println!("instruction sets run: {names:?}; skipped, not on this processor: {skipped:?}");
    let directory = tempfile::tempdir().unwrap();
    let mut random = Random(3);
    for dtype in FLOATS {
        // Two blocks, the last one short and not a whole number of stripes; a period that is no multiple of 32.
        let count = (1 << 20) + 4099;
        let mut values = random.normals(1 << 16, 0.01, 0.02);
        values.extend(special_values());
        let length = count * dtype.size().unwrap() as usize;
        let bytes: Vec<u8> = encode(dtype, &values).into_iter().cycle().take(length).collect();
        let path = write(directory.path(), &bytes);
        let mut first = None;
        for context in [Context::default(), Context { mmap: false, ..Context::default() }] {
            let file = open(&path, &context);
            let range = OFFSET as u64..file.len();
            let tensor = Tensor::contiguous(dtype, vec![count as u64], file, range).unwrap();
            for isa in Isa::available() {
                for threads in [1, 2, 5] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let plan = Plan { isa, ..Plan::new(true) };
                    let found = pool.install(|| {
                        [Pivot::Zero, Pivot::One]
                            .map(|pivot| measure_as_planned(&tensor, plan, pivot, &context).unwrap())
                    });
                    let found = serde_json::to_string(&found).unwrap();
                    assert_eq!(
                        first.get_or_insert(found.clone()),
                        &found,
                        "{dtype}, {isa}, {threads} threads"
                    );
                }
            }
        }
    }
}

#[test]
fn norms_are_the_same_at_both_levels() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = encode(DType::F32, &Random(4).normals(100_000, 0.3, 1.0));
    let tensor = tensor(directory.path(), DType::F32, &bytes, &Context::default());
    for pivot in [Pivot::Zero, Pivot::One] {
        let at = |level| value(&measure(&tensor, level, pivot, &Context::default()).unwrap());
        let (norms, stats) = (at(MeasureLevel::Norms), at(MeasureLevel::Stats));
        assert_eq!((&norms.l1, &norms.l2, &norms.mean), (&stats.l1, &stats.l2, &stats.mean));
        assert_eq!((&norms.min, &norms.max), (&stats.min, &stats.max));
        let moments = [&norms.variance, &norms.skewness, &norms.excess_kurtosis];
        assert!(moments.iter().all(|moment| matches!(moment, Measured::NotMeasured(_))));
        assert!(matches!(norms.exponents, Measured::NotMeasured(_)));
        assert!(matches!(norms.headroom, Measured::NotMeasured(_)));
    }
}

// Closed forms.

#[test]
fn constants_have_exact_norms_and_no_shape() {
    for constant in [0.0f64, 1.0, -0.375, 1000.0] {
        for dtype in [DType::F64, DType::F32, DType::F16, DType::Bf16] {
            for pivot in [Pivot::Zero, Pivot::One] {
                let ours = stats(dtype, &encode(dtype, &vec![constant; 4096]), pivot);
                assert_eq!(value(&ours.l1), 4096.0 * constant.abs());
                assert_eq!(value(&ours.l2), 64.0 * constant.abs());
                assert_eq!(value(&ours.rms), constant.abs());
                assert_eq!(value(&ours.mean), constant);
                assert_eq!(ours.variance, Measured::Value(0.0));
                assert_eq!(ours.skewness, Measured::Degenerate(Degenerate::Constant));
                assert!(value(&ours.all_equal));
                assert_eq!(value(&ours.all_one), constant == 1.0);
            }
        }
    }
    assert_eq!(stats(DType::F32, &[0; 64], Pivot::Zero).exponents, Measured::Degenerate(Degenerate::AllZero));
}

#[test]
fn zeros_of_both_signs_are_equal_and_positive() {
    let ours = stats(DType::F32, &encode(DType::F32, &[-0.0, 0.0, -0.0]), Pivot::Zero);
    assert_eq!((ours.zero, ours.negative, value(&ours.all_equal)), (3, 0, true));
    assert!(value(&ours.min).is_sign_positive() && value(&ours.mean).is_sign_positive());
}

#[test]
fn coins_have_variance_1_and_kurtosis_minus_2() {
    let coins = [1.0, -1.0].repeat(20_000);
    for dtype in FLOATS {
        let ours = stats(dtype, &encode(dtype, &coins), Pivot::Zero);
        assert_eq!((value(&ours.mean), value(&ours.variance)), (0.0, 1.0));
        assert_eq!((value(&ours.skewness), value(&ours.excess_kurtosis)), (0.0, -2.0));
        assert_eq!(ours.negative, 20_000);
    }
}

/// 1, 2, … n: mean (n+1)/2, variance (n²−1)/12, excess kurtosis −6/5·(n²+1)/(n²−1).
#[test]
fn counting_up_gives_the_moments_of_the_uniform_distribution() {
    let n = 1_200_000.0;
    let values: Vec<f64> = (1..=1_200_000).map(f64::from).collect();
    let ours = stats(DType::F32, &encode(DType::F32, &values), Pivot::Zero);
    near("l1", value(&ours.l1), n * (n + 1.0) / 2.0, 0.0);
    let square = n * (n + 1.0) * (2.0 * n + 1.0) / 6.0;
    near("l2", value(&ours.l2), square.sqrt(), gamma(1_200_000) * square.sqrt());
    assert_eq!(value(&ours.mean), f64::midpoint(n, 1.0));
    near("variance", value(&ours.variance), (n * n - 1.0) / 12.0, 1e-11 * n * n);
    near("skewness", value(&ours.skewness), 0.0, 1e-10);
    near("kurtosis", value(&ours.excess_kurtosis), -1.2 * (n * n + 1.0) / (n * n - 1.0), 1e-10);
}

#[test]
fn a_spread_lost_in_rounding_is_not_given_as_a_number() {
    let values: Vec<f64> = (0..4096).map(|index| 1e9 + f64::from(index % 2)).collect();
    let ours = stats(DType::F64, &encode(DType::F64, &values), Pivot::Zero);
    assert!(matches!(ours.variance, Measured::NotMeasured(_)), "{:?}", ours.variance);
    assert!(!value(&ours.all_equal));
}

#[test]
fn doubles_whose_squares_leave_the_range_keep_their_norm() {
    for element in [3e200, 3e-200, 2f64.powi(1000), f64::from_bits(1)] {
        let ours = stats(DType::F64, &encode(DType::F64, &[element, -element].repeat(5000)), Pivot::Zero);
        near("l2", value(&ours.l2), 100.0 * element, gamma(10_000) * 100.0 * element);
        near("l1", value(&ours.l1), 10_000.0 * element, gamma(10_000) * 1e4 * element);
        assert_eq!((value(&ours.mean), value(&ours.skewness)), (0.0, 0.0));
        near("kurtosis", value(&ours.excess_kurtosis), -2.0, 1e-9);
    }
    let ours = stats(DType::F64, &encode(DType::F64, &[f64::MAX, f64::MIN]), Pivot::Zero);
    assert_eq!(ours.l1, Measured::Degenerate(Degenerate::Overflow));
    assert_eq!(ours.l2, Measured::Degenerate(Degenerate::Overflow));
    assert_eq!(value(&ours.mean), 0.0);
}

// Casts.

#[test]
fn every_f16_and_bf16_pattern_is_cast_to_the_nearest_value() {
    let targets = Targets::new();
    for dtype in [DType::F16, DType::Bf16] {
        // In ranges, because counts over all patterns could hide two errors that cancel.
        for range in (0..=u16::MAX).collect::<Vec<_>>().chunks(64) {
            let bytes: Vec<u8> = range.iter().flat_map(|bits| bits.to_le_bytes()).collect();
            check_against_reference(dtype, &bytes, Pivot::Zero, &targets);
        }
    }
}

#[test]
fn f32_around_every_limit_is_cast_as_half_and_the_nearest_value_say() {
    let targets = Targets::new();
    let small =
        [-9, -10, -11, -6, -14, -16, -17, -18, -24, -25, -126, -133, -134].map(|power| 2f32.powi(power));
    let large = [448.0, 464.0, 480.0, 57344.0, 61440.0, 65504.0, 65520.0, bf16::MAX.to_f32()];
    let half_steps = [0.0, 2f32.powi(-10), 2f32.powi(-17), 2f32.powi(-25), 2f32.powi(-134), -2f32.powi(119)];
    for limit in small.into_iter().chain(large) {
        for half_step in half_steps {
            let middle = (limit - half_step).abs().to_bits();
            let around = (middle.saturating_sub(20)..middle + 20).map(f32::from_bits);
            let values: Vec<f32> = around.filter(|x| x.is_finite()).collect();
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            check_against_reference(DType::F32, &bytes, Pivot::Zero, &targets);
            let ours = value(&stats(DType::F32, &bytes, Pivot::Zero).headroom);
            let is = |category| move |found: std::num::FpCategory| found == category;
            let (infinite, subnormal) =
                (is(std::num::FpCategory::Infinite), is(std::num::FpCategory::Subnormal));
            let halves = |test: &dyn Fn(std::num::FpCategory) -> bool| {
                values.iter().filter(|&&x| test(f16::from_f32(x).classify())).count() as u64
            };
            let brains = |test: &dyn Fn(std::num::FpCategory) -> bool| {
                values.iter().filter(|&&x| test(bf16::from_f32(x).classify())).count() as u64
            };
            assert_eq!((ours.f16.overflow, ours.f16.subnormal), (halves(&infinite), halves(&subnormal)));
            assert_eq!((ours.bf16.overflow, ours.bf16.subnormal), (brains(&infinite), brains(&subnormal)));
        }
    }
}

// Tensors that are not one slice.

#[test]
fn a_strided_or_divided_tensor_has_the_statistics_of_its_contiguous_copy() {
    let directory = tempfile::tempdir().unwrap();
    let (rows, columns) = (700u64, 300u64);
    let values = Random(5).normals((rows * columns) as usize, 0.1, 1.0);
    let places = (0..columns).flat_map(|column| (0..rows).map(move |row| row * columns + column));
    let transposed: Vec<f64> = places.map(|place| values[place as usize]).collect();
    let expected = stats(DType::F32, &encode(DType::F32, &transposed), Pivot::Zero);
    let whole = stats(DType::F32, &encode(DType::F32, &values), Pivot::Zero);
    for context in [Context::default(), Context { mmap: false, ..Context::default() }] {
        let file = open(&write(directory.path(), &encode(DType::F32, &values)), &context);
        let bytes = OFFSET as u64..file.len();
        let view =
            Tensor::strided(DType::F32, vec![columns, rows], &[1, columns], file.clone(), bytes.clone())
                .unwrap();
        assert_eq!(value(&measure(&view, MeasureLevel::Stats, Pivot::Zero, &context).unwrap()), expected);

        let half = rows / 2 * columns + 17;
        let piece = |start: u64, count: u64| Piece {
            file: file.clone(),
            bytes: bytes.start + start * 4..bytes.start + (start + count) * 4,
            logical_offset: start,
            axes: vec![Axis { size: count, logical_stride: 1, storage_stride: 1 }],
        };
        let pieces = vec![piece(half, rows * columns - half), piece(0, half)];
        let divided = Tensor { dtype: DType::F32, shape: vec![rows, columns], pieces };
        assert_eq!(value(&measure(&divided, MeasureLevel::Stats, Pivot::Zero, &context).unwrap()), whole);
    }
}

#[test]
fn an_expanded_tensor_counts_each_element_as_often_as_it_stands() {
    let directory = tempfile::tempdir().unwrap();
    let values = [1.0, -2.0, 0.0, 3.0];
    let context = Context::default();
    let file = open(&write(directory.path(), &encode(DType::F32, &values)), &context);
    let bytes = OFFSET as u64..file.len();
    let small = Tensor::strided(DType::F32, vec![1024, 4], &[0, 1], file.clone(), bytes.clone()).unwrap();
    let ours = value(&measure(&small, MeasureLevel::Stats, Pivot::Zero, &context).unwrap());
    assert_eq!(ours, stats(DType::F32, &encode(DType::F32, &values.repeat(1024)), Pivot::Zero));
    let vast = Tensor::strided(DType::F32, vec![1 << 40, 4], &[0, 1], file, bytes).unwrap();
    let ours = value(&measure(&vast, MeasureLevel::Stats, Pivot::Zero, &context).unwrap());
    assert_eq!((ours.count, ours.zero, value(&ours.mean)), (1 << 42, 1 << 40, 0.5));
}

// What is no float, and what is not finished.

#[test]
fn integers_have_exact_extrema_and_no_norm() {
    let bytes: Vec<u8> = [i64::MIN, -1, 0, 0, 7, i64::MAX].iter().flat_map(|x| x.to_le_bytes()).collect();
    let ours = stats(DType::I64, &bytes, Pivot::Zero);
    assert_eq!((ours.count, ours.zero, ours.negative), (6, 2, 2));
    assert_eq!((value(&ours.min), value(&ours.max)), (-(2f64.powi(63)), 2f64.powi(63)));
    assert_eq!(ours.l2, Measured::not("counts and indices have no norm"));
    let ours = stats(DType::U64, &u64::MAX.to_le_bytes(), Pivot::Zero);
    assert_eq!((ours.negative, value(&ours.max), value(&ours.all_equal)), (0, 2f64.powi(64), true));
    let ours = stats(DType::Bool, &[0, 1, 1], Pivot::Zero);
    assert_eq!((ours.zero, value(&ours.min), value(&ours.max)), (1, 0.0, 1.0));
    assert!(!value(&ours.all_equal));
}

#[test]
fn complex_numbers_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let tensor = tensor(directory.path(), DType::C64, &[0; 16], &Context::default());
    let error = measure(&tensor, MeasureLevel::Stats, Pivot::Zero, &Context::default()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::UnsupportedTensor { what: "C64", shape: None });
}

#[test]
fn a_stopped_measurement_says_so_and_progress_counts_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let context = Context::default();
    let tensor = tensor(directory.path(), DType::F32, &[0; 4000], &context);
    measure(&tensor, MeasureLevel::Stats, Pivot::Zero, &context).unwrap();
    assert_eq!(context.progress.read().0, 4000);
    context.cancel.store(true, std::sync::atomic::Ordering::Relaxed);
    let stopped = measure(&tensor, MeasureLevel::Stats, Pivot::Zero, &context).unwrap();
    assert_eq!(stopped, Measured::not(STOPPED));
}
