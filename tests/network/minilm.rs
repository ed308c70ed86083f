//! A published model from its own files.

use std::path::{Path, PathBuf};

use flashpoint::analysis::spectrum::lanczos;
use flashpoint::analysis::spectrum::operator::Operator;
use flashpoint::compute::{Cpu, Side};
use flashpoint::context::Context;
use flashpoint::network::builders::from_config;
use flashpoint::network::{Input, Segment, Tape, ValueId, Weights};
use flashpoint::random::Stream;

use super::oracle::distance;
use super::{ORACLE, common, read, tape, weights};

#[test]
fn a_published_minilm_has_the_hidden_states_and_jacobians_of_transformers() {
    let folder = std::env::var_os("FLASHPOINT_REAL_INPUTS").filter(|value| !value.is_empty());
    let Some(folder) = folder.map(PathBuf::from) else {
        eprintln!("SKIPPED minilm: FLASHPOINT_REAL_INPUTS is not set, no real input was read");
        return;
    };
    let oracle = common::oracle(&Path::new(ORACLE).join("minilm.json"));
    let checkpoint = read(&folder.join(oracle["file"].as_str().unwrap()));
    let built = from_config(&checkpoint).unwrap();
    assert!(built.unused.iter().all(|name| name.contains("pooler")), "{:?}", built.unused);
    let ids: Vec<u32> =
        oracle["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    let weights = weights::<f64>(&checkpoint, &built);
    let tape = tape(&built.network, &weights, Input::Tokens { batch: 1, ids });
    let blocks = &built.network.blocks;
    let states: Vec<ValueId> =
        std::iter::once(built.network.entry()).chain(blocks.iter().map(|block| block.output)).collect();
    let expected = oracle["states"].as_array().unwrap();
    assert_eq!(expected.len(), states.len());
    for (state, expected) in states.iter().zip(expected) {
        let found = tape.download(*state).unwrap();
        let norm = found.iter().map(|x| x * x).sum::<f64>().sqrt();
        assert!((norm / expected["norm"].as_f64().unwrap() - 1.0).abs() < 1e-10);
        let first: Vec<f64> = expected["first"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|row| row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()))
            .collect();
        let width = found.len() / 8;
        let ours: Vec<f64> = found.chunks(width).flat_map(|row| row[..4].to_vec()).collect();
        assert!(distance(&ours, &first) < 1e-10, "{state:?}");
    }
    for (block, expected) in blocks.iter().zip(expected) {
        let Some(largest) = expected["largest"][0].as_f64() else { continue };
        let map = Products { tape: &tape, weights: &weights, segment: block.segment() };
        let ritz = lanczos::run(&Cpu, &map, 60, Stream::new(3, 0), &Context::default()).unwrap().unwrap();
        assert!(
            (ritz.values[0] / largest - 1.0).abs() < 1e-6,
            "{}: {} {largest}",
            block.name,
            ritz.values[0]
        );
    }
    assert_eq!(expected.iter().filter(|state| state["largest"].is_array()).count(), 2);
}

/// The Jacobian of a segment as a linear map.
struct Products<'t, 'n> {
    tape: &'t Tape<'n, Cpu, f64>,
    weights: &'t Weights<Cpu, f64>,
    segment: Segment,
}

impl Operator<Cpu> for Products<'_, '_> {
    fn rows(&self) -> usize {
        self.tape.length(self.segment.to)
    }

    fn columns(&self) -> usize {
        self.tape.length(self.segment.from)
    }

    fn apply(&self, _: &Cpu, side: Side, x: &Vec<f64>, y: &mut Vec<f64>) -> flashpoint::error::Result<()> {
        *y = match side {
            Side::Plain => self.tape.jvp(self.weights, &self.segment, x.clone())?,
            Side::Transposed => self.tape.vjp(self.weights, &self.segment, x.clone())?,
        };
        Ok(())
    }
}
