//! Published recurrences, from the files that their authors published.
//!
//! `fixtures/real_inputs.py fetch DIR` downloads them; `FLASHPOINT_REAL_INPUTS=DIR cargo test` uses them.

use super::*;
use flashpoint::network::builders::from_shapes;

/// How far a singular value may be from PyTorch's: both are computed in f64 from weights in f32.
const VALUES: f64 = 1e-9;

#[test]
fn published_lstms_run_from_their_files_and_step_as_pytorch_steps() {
    let folder =
        std::env::var_os("FLASHPOINT_REAL_INPUTS").filter(|value| !value.is_empty()).map(PathBuf::from);
    let Some(folder) = folder else {
        eprintln!("SKIPPED published lstms: FLASHPOINT_REAL_INPUTS is not set, no real input was read");
        return;
    };
    let oracle = common::oracle(&Path::new(ORACLE).join("recurrent-real.json"));
    for real in oracle.as_array().unwrap() {
        let file = real["file"].as_str().unwrap();
        let checkpoint = read(&folder.join(file));
        let built = from_shapes(&checkpoint).unwrap_or_else(|error| panic!("{error}"));
        let weights = weights::<f64>(&checkpoint, &built);
        assert!(!built.unused.is_empty(), "{file}: its head lies beside the recurrence");
        let (steps, width) =
            (real["steps"].as_u64().unwrap() as usize, real["inputs"].as_u64().unwrap() as usize);
        let at = real["at"].as_u64().unwrap() as usize;
        let recurrences = built.network.recurrences();
        let layers = real["layers"].as_array().unwrap();
        assert_eq!(recurrences.len(), layers.len(), "{file}");
        let mut inputs = draw(50, steps * width);
        if recurrences[0].input != ValueId(1) {
            // A stack runs as a whole too.
            let input = Input::Features { shape: vec![1, steps, width], values: inputs.clone() };
            let whole = tape(&built.network, &weights, input);
            let last = whole.download(built.network.output).unwrap();
            let norm = Cpu.dot(&last, &last).unwrap().sqrt();
            let expected = layers.last().unwrap()["norm"].as_f64().unwrap();
            assert!((norm / expected - 1.0).abs() < 1e-10, "{file}: {norm} against {expected}");
        }
        for (recurrence, layer) in recurrences.iter().zip(layers) {
            let mut state = vec![0.0; recurrence.state()];
            let mut outputs = Vec::new();
            for (step, x) in inputs.chunks(recurrence.inputs()).enumerate() {
                let feed = recurrence.feed(x, &state);
                let mut one = Tape::new(&recurrence.step, &Cpu, &feed).unwrap();
                one.advance(&weights, recurrence.step.output).unwrap();
                if step == at {
                    let matrix = jacobian(&one, &weights, &recurrence.segment);
                    let n = recurrence.state();
                    let found = bidiagonal::singular_values(matrix, n, n).unwrap();
                    for (found, expected) in found.iter().zip(layer["largest"].as_array().unwrap()) {
                        let expected = expected.as_f64().unwrap();
                        assert!(
                            (found / expected - 1.0).abs() < VALUES,
                            "{file} {}: {found} {expected}",
                            recurrence.name
                        );
                    }
                }
                state = one.download(recurrence.step.output).unwrap();
                outputs.extend_from_slice(&state[..recurrence.cell.hidden]);
            }
            let first: Vec<f64> = outputs.chunks(recurrence.cell.hidden).map(|h| h[0]).collect();
            let expected: Vec<f64> =
                layer["first"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
            assert!(distance(&first, &expected) < 1e-10, "{file} {}", recurrence.name);
            let norm = Cpu.dot(&outputs, &outputs).unwrap().sqrt();
            assert!(
                (norm / layer["norm"].as_f64().unwrap() - 1.0).abs() < 1e-10,
                "{file} {}",
                recurrence.name
            );
            inputs = outputs;
        }
    }
}
