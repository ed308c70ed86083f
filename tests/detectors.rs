//! How often detectors of gradient spikes cry wolf, and when each sees BLOOM-176B: the table of `docs/benchmarks-detectors.md`.
//!
//! `cargo test --release --test detectors -- --nocapture` prints it.

use std::time::Instant;

use flashpoint::analysis::log::measure_log;
use flashpoint::history::{Log, LogSemantics, Record};

/// Steps of each simulated run.
const STEPS: usize = 10_000;

/// Runs for each kind of tail.
const RUNS: u64 = 10;

/// Correlation of ln(norm) from one step to the next.
const AR1: f64 = 0.5;

/// A generator of random numbers with a known sequence: SplitMix64.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Box and Muller.
    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.uniform()).ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Student's t: a normal over the root of a mean of squares.
    fn student(&mut self, freedom: u32) -> f64 {
        let squares: f64 = (0..freedom).map(|_| self.normal().powi(2)).sum();
        self.normal() / (squares / f64::from(freedom)).sqrt()
    }
}

/// ln(norm) as an AR(1) whose innovations have the tail, scaled by `deviation`.
fn norms(seed: u64, freedom: Option<u32>, deviation: f64) -> Vec<f64> {
    let mut random = Random(seed);
    let mut log = 0.0;
    (0..STEPS)
        .map(|_| {
            let innovation = match freedom {
                Some(freedom) => random.student(freedom),
                None => random.normal(),
            };
            log = AR1 * log + (1.0 - AR1 * AR1).sqrt() * deviation * innovation;
            0.5 * log.exp()
        })
        .collect()
}

/// Which steps a detector flags.
type Detector = fn(&[f64]) -> Vec<bool>;

fn robust(norms: &[f64], z: f64, ratio: f64) -> Vec<bool> {
    let record = |(step, norm): (usize, &f64)| Record {
        step: step as u64,
        grad_norm: Some(*norm),
        ..Record::default()
    };
    let log = Log {
        records: norms.iter().enumerate().map(record).collect(),
        semantics: LogSemantics::default(),
        sources: Vec::new(),
    };
    let points = measure_log(&log).points;
    let out = |found: Option<f64>, limit: f64| found.is_some_and(|found| found > limit);
    points.iter().map(|point| out(point.grad_norm_z, z) && out(point.grad_norm_ratio, ratio)).collect()
}

fn mean_and_deviations(norms: &[f64], window: usize, limit: f64) -> Vec<bool> {
    let mut sums = vec![(0.0, 0.0)];
    for norm in norms {
        let (sum, squares) = sums[sums.len() - 1];
        sums.push((sum + norm, squares + norm * norm));
    }
    let flag = |at: usize| {
        let from = at.saturating_sub(window);
        let count = (at - from) as f64;
        let mean = (sums[at].0 - sums[from].0) / count;
        let variance = (sums[at].1 - sums[from].1) / count - mean * mean;
        at - from >= 64 && norms[at] > mean + limit * variance.max(0.0).sqrt()
    };
    (0..norms.len()).map(flag).collect()
}

fn stays(flags: &[bool]) -> Vec<bool> {
    let confirmed =
        |at: usize| flags[at] && flags[at.saturating_sub(4)..=at].iter().filter(|flag| **flag).count() >= 3;
    (0..flags.len()).map(confirmed).collect()
}

const DETECTORS: &[(&str, Detector)] = &[
    ("mean + 6 deviations, 128 (OLMo-core)", |norms| mean_and_deviations(norms, 128, 6.0)),
    ("mean + 7 deviations, 1000 (OLMo 2)", |norms| mean_and_deviations(norms, 1000, 7.0)),
    ("log-MAD z > 6, ratio > 2.5 (FP501)", |norms| robust(norms, 6.0, 2.5)),
    ("log-MAD z > 8", |norms| robust(norms, 8.0, 0.0)),
    ("10 times the median", |norms| robust(norms, f64::NEG_INFINITY, 10.0)),
    ("FP501, three of five", |norms| stays(&robust(norms, 6.0, 2.5))),
];

const TAILS: &[(&str, Option<u32>, f64)] = &[
    ("logN 0.2", None, 0.2),
    ("logN 0.5", None, 0.5),
    ("log-t4 0.2", Some(4), 0.2),
    ("log-t3 0.3", Some(3), 0.3),
];

/// Norms of iterations 31214 to 31222: chronicles of BLOOM-176B.
const BLOOM: [f64; 9] = [0.242, 0.947, 2.390, 15.886, 145.119, 960.351, 353.2, 379.3, 650.2];

/// The first iteration that is flagged, behind 1000 steps around the median norm of 0.142.
fn first_flag(detector: Detector, deviation: f64) -> Option<usize> {
    let mut random = Random(31214);
    let mut norms: Vec<f64> = (0..1000).map(|_| 0.142 * (deviation * random.normal()).exp()).collect();
    norms.extend(BLOOM);
    detector(&norms)[1000..].iter().position(|flag| *flag).map(|at| 31214 + at)
}

fn alarms(detector: Detector, freedom: Option<u32>, deviation: f64) -> f64 {
    let count = |seed| detector(&norms(seed, freedom, deviation)).iter().filter(|flag| **flag).count();
    (1..=RUNS).map(count).sum::<usize>() as f64 / RUNS as f64
}

#[test]
fn false_alarms_and_first_flags_are_those_of_the_table() {
    println!("| detector | {} | BLOOM |", TAILS.iter().map(|tail| tail.0).collect::<Vec<_>>().join(" | "));
    println!("|---|{}---|", "---|".repeat(TAILS.len()));
    let mut ours = Vec::new();
    for (name, detector) in DETECTORS {
        let found: Vec<f64> =
            TAILS.iter().map(|(_, freedom, deviation)| alarms(*detector, *freedom, *deviation)).collect();
        let flags: Vec<String> = [0.078, 0.2, 0.35]
            .map(|deviation| {
                first_flag(*detector, deviation).map_or("–".to_owned(), |step| step.to_string())
            })
            .to_vec();
        let cells: Vec<String> = found.iter().map(|count| format!("{count:.1}")).collect();
        println!("| {name} | {} | {} |", cells.join(" | "), flags.join(" / "));
        ours.push((*name, found));
    }
    let of = |wanted: &str| {
        ours.iter()
            .find(|(name, _)| name.starts_with(wanted))
            .map(|(_, found)| found.clone())
            .expect("it is listed")
    };
    // What the rule stands on: log-normal norms are quiet, and so is what stays, whatever the tail.
    assert_eq!(of("log-MAD z > 6")[..2], [0.0, 0.0]);
    assert!(of("FP501, three of five").iter().all(|count| *count < 1.0));
    assert!(of("mean + 6 deviations")[1] > 1.0);
    assert_eq!(first_flag(|norms| robust(norms, 6.0, 2.5), 0.078), Some(31215));
    assert_eq!(first_flag(|norms| robust(norms, 6.0, 2.5), 0.2), Some(31215));
    assert_eq!(first_flag(|norms| stays(&robust(norms, 6.0, 2.5)), 0.078), Some(31217));
}

#[test]
fn a_million_norms_take_about_as_long_as_sorting_them_a_few_times() {
    let mut random = Random(7);
    let records: Vec<Record> = (0..1_000_000)
        .map(|step| Record {
            step,
            grad_norm: Some((0.3 * random.normal()).exp()),
            loss: Some(2.0 + random.uniform()),
            ..Record::default()
        })
        .collect();
    let mut sorted: Vec<f64> = records.iter().filter_map(|record| record.grad_norm).collect();
    let start = Instant::now();
    sorted.sort_by(f64::total_cmp);
    let sorting = start.elapsed().as_secs_f64();
    let log = Log { records, semantics: LogSemantics::default(), sources: Vec::new() };
    let start = Instant::now();
    let measured = measure_log(&log);
    let measuring = start.elapsed().as_secs_f64();
    println!("a million points: measured in {measuring:.2} s, sorted in {sorting:.2} s");
    assert_eq!(measured.points.len(), 1_000_000);
    // Against the clock a crowded machine decides; sorting every window by itself is hundreds of times as much.
    assert!(measuring < 60.0 * sorting, "{measuring} s, sorting {sorting} s");
}
