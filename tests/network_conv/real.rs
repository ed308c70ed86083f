//! Published recurrences and a convolutional network, from the files that their authors published.
//!
//! `fixtures/real_inputs.py fetch DIR` downloads them; `FLASHPOINT_REAL_INPUTS=DIR cargo test` uses them.

use super::*;
use flashpoint::network::builders::from_shapes;

/// How far a singular value may be from PyTorch's: both are computed in f64 from weights in f32.
const VALUES: f64 = 1e-9;

/// The folder of fetched files, or `None` after saying loudly that nothing was checked.
fn inputs(test: &str) -> Option<PathBuf> {
    let folder =
        std::env::var_os("FLASHPOINT_REAL_INPUTS").filter(|value| !value.is_empty()).map(PathBuf::from);
    if folder.is_none() {
        eprintln!("SKIPPED {test}: FLASHPOINT_REAL_INPUTS is not set, no real input was read");
    }
    folder
}

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
        let built = from_shapes(&checkpoint, None).unwrap_or_else(|error| panic!("{error}"));
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

#[test]
fn a_published_convolutional_network_runs_from_its_file_by_a_model_toml() {
    let Some(folder) = inputs("a published convolutional network") else { return };
    let oracle = common::oracle(&Path::new(ORACLE).join("convolutional-real.json"));
    let checkpoint = read(&folder.join(oracle["file"].as_str().unwrap()));
    let built = built(&checkpoint, oracle["text"].as_str().unwrap());
    assert!(built.unused.is_empty(), "{:?}", built.unused);
    let close = |what: &str, found: &[f64], tolerance: f64| {
        let norm = Cpu.dot(&found.to_vec(), &found.to_vec()).unwrap().sqrt();
        let expected = oracle[what]["norm"].as_f64().unwrap();
        assert!((norm / expected - 1.0).abs() < tolerance, "{what}: {norm} against {expected}");
        let some: Vec<f64> = found.iter().step_by(40).copied().collect();
        let expected = oracle[what]["some"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap());
        assert!(distance(&some, &expected.collect::<Vec<_>>()) < tolerance, "{what}");
    };
    let input = || Input::Features { shape: vec![1, 1, 1024, 1], values: draw(70, 1024) };
    let segment = Segment::new(ValueId(0), built.network.output);
    let weights = weights::<f64>(&checkpoint, &built);
    let tape = tape(&built.network, &weights, input());
    close("y", &tape.download(built.network.output).unwrap(), 1e-10);
    close("jx", &tape.jvp(&weights, &segment, draw(71, 1024)).unwrap(), 1e-10);
    close("jtu", &tape.vjp(&weights, &segment, draw(72, 360)).unwrap(), 1e-10);
    let found = largest(&jacobian_by_rows(&tape, &weights, &segment), 360);
    let expected = oracle["largest"].as_f64().unwrap();
    assert!((found / expected - 1.0).abs() < 1e-10, "{found} against {expected}");
}
