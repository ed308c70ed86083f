//! Movement of f32 master weights, against torch (`fixtures/make_masters.py`).

mod common;

use std::path::Path;

use flashpoint::analysis::model::{MeasureLevel, Measured};
use flashpoint::analysis::run::{Request, measure};
use flashpoint::checkpoint::{Checkpoint, NameRules};
use flashpoint::context::Context;
use flashpoint::history::{History, Options};

#[test]
fn movement_is_that_of_the_masters_where_a_checkpoint_has_them() {
    let (context, names) = (Context::default(), NameRules::default());
    let run = Path::new("fixtures/runs-with-masters/megatron");
    let history = History::read(run, &Options::default(), &context).unwrap_or_else(|error| panic!("{error}"));
    let measured = measure(&history, &Request { level: MeasureLevel::Norms, names: &names }, &context);
    let oracle = common::oracle(Path::new("fixtures/oracle/series/masters.json"));
    assert_eq!(measured.analysis.intervals.len(), 2);
    for interval in &measured.analysis.intervals {
        let expected = &oracle[interval.to_step.to_string()];
        assert_eq!(interval.tensors.len(), 4);
        for tensor in &interval.tensors {
            assert!(tensor.from_master, "{}", tensor.name);
            let change = *tensor.relative_change.value().unwrap_or_else(|| panic!("{tensor:?}"));
            let of = |what: &str| expected[&tensor.canonical_name][what].as_f64().expect("a number");
            assert!((change / of("masters") - 1.0).abs() < 1e-9, "{}: {change}", tensor.name);
            // The rounded weights tell another story: the test would see it if these were read.
            assert!((of("rounded") / of("masters") - 1.0).abs() > 0.01, "{}", tensor.name);
        }
    }
}

#[test]
fn masters_are_found_wherever_optimizers_keep_them() {
    for name in
        ["silent-megatron.pt", "silent-apex.pt", "silent-state.pt", "silent-file", "silent-truncated.pt"]
    {
        let path = Path::new("fixtures/rules/FP603").join(name);
        let checkpoint = Checkpoint::read(&path, &NameRules::default(), &Context::default())
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(checkpoint.masters.len(), 4, "{name}");
        for (&weight, &master) in &checkpoint.masters {
            let shape =
                |index: usize| checkpoint.tensors[index].tensor.as_ref().expect("it is sound").shape.clone();
            assert_eq!(shape(weight), shape(master), "{name}");
        }
        let analysis =
            flashpoint::analysis::measure_checkpoint(&checkpoint, MeasureLevel::Norms, &Context::default());
        for master in &analysis.masters {
            let Measured::Value(rounding) = master.rounding else { panic!("{master:?}") };
            assert_eq!(rounding.beyond_one, 0, "{name}");
            assert_eq!(rounding.beyond_half > 0, name == "silent-truncated.pt", "{name}: {master:?}");
        }
    }
}
