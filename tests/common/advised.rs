//! What `flashpoint clip` says of a run that left some files and nothing else.

use std::path::Path;

use flashpoint::analysis::model::{Analysis, MeasureLevel};
use flashpoint::analysis::run::{Request, measure};
use flashpoint::checkpoint::NameRules;
use flashpoint::clip::{Advice, advise};
use flashpoint::context::Context;
use flashpoint::history::{History, Options};
use flashpoint::random::Stream;

pub fn measured(path: &Path) -> Analysis {
    let context = Context::default();
    let history = History::read(path, &Options::default(), &context).expect("it is there");
    let names = NameRules::default();
    measure(&history, &Request { level: MeasureLevel::Stats, names: &names }, &context).analysis
}

/// What a run says that left these files and nothing else.
pub fn advised(files: &[(&str, &str)]) -> Advice {
    let folder = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("it is writable");
    }
    advise(&measured(folder.path()))
}

/// Log-normal norms of that median and deviation of ln n, without correlation.
pub fn log_normal(median: f64, deviation: f64, count: usize, seed: u64) -> Vec<f64> {
    Stream::new(seed, 24).normals(count).iter().map(|one| median * (deviation * one).exp()).collect()
}
