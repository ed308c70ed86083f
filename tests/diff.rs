//! `flashpoint diff` from outside: what it says of two files, and with which exit code.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

fn flashpoint(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flashpoint"))
        .args(arguments)
        .output()
        .expect("the binary under test can be started")
}

fn diff(before: &Path, after: &Path, more: &[&str]) -> Output {
    let [before, after] = [before, after].map(|path| path.to_str().expect("temporary paths are UTF-8"));
    flashpoint(&[&["diff", before, after], more].concat())
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("reports are UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("errors are UTF-8")
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary directory can be made")
}

/// A safetensors file of f32 vectors, written by the format's own description.
fn write(folder: &TempDir, name: &str, tensors: &[(&str, &[f32])]) -> PathBuf {
    let (mut header, mut data) = (String::new(), Vec::new());
    for (tensor, values) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let comma = if start == 0 { "" } else { "," };
        let (count, end) = (values.len(), data.len());
        write!(
            header,
            r#"{comma}"{tensor}":{{"dtype":"F32","shape":[{count}],"data_offsets":[{start},{end}]}}"#
        )
        .expect("writing to a string does not fail");
    }
    let header = format!("{{{header}}}");
    let length = (header.len() as u64).to_le_bytes();
    let path = folder.path().join(name);
    std::fs::write(&path, [&length[..], header.as_bytes(), &data].concat()).expect("it can be written");
    path
}

#[test]
fn a_tensor_that_gained_nan_says_so_with_the_counts_of_each_in_text_and_json() {
    let folder = folder();
    let moved = [1.0, 2.0, 3.0, 4.5];
    let before = write(
        &folder,
        "a.safetensors",
        &[("still", &[1.0; 4]), ("w", &[1.0, 2.0, 3.0, f32::INFINITY]), ("v", &[1.0, 2.0, 3.0, 4.0])],
    );
    let after = write(
        &folder,
        "b.safetensors",
        &[("still", &[1.0; 4]), ("w", &[1.0, f32::NAN, 3.0, f32::INFINITY]), ("v", &moved)],
    );
    let output = diff(&before, &after, &[]);
    let text = stdout(&output);
    assert!(text.contains("NaN or infinite: w: 1 before, 2 after, of 4 elements"), "{text}");
    assert!(
        text.contains("verdict: 2 of 3 tensors changed, 1 with more NaN or infinity than before"),
        "{text}"
    );
    let row = |name: &str| text.lines().position(|line| line.trim_start().starts_with(name));
    assert!(row("w ") < row("v "), "what is broken stands first: {text}");
    let json: serde_json::Value =
        serde_json::from_slice(&diff(&before, &after, &["--format", "json"]).stdout).expect("it is JSON");
    assert_eq!(json["tensors"][1]["name"], "w");
    assert_eq!(json["tensors"][1]["non_finite"], 2);
    assert_eq!(json["tensors"][1]["non_finite_each"], serde_json::json!([1, 2]));
    assert_eq!(json["tensors"][2]["non_finite_each"], serde_json::json!([0, 0]));
}

#[test]
fn nan_in_one_of_a_master_and_its_model_is_no_rounding() {
    let folder = folder();
    let whole = write(&folder, "a.safetensors", &[("w", &[1.0, 2.0, 3.0])]);
    let broken = write(&folder, "b.safetensors", &[("w", &[1.0, f32::NAN, 3.0])]);
    for (before, after) in [(&whole, &broken), (&broken, &whole)] {
        let output = diff(before, after, &["--master", "--fail-on", "critical"]);
        assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    }
    let same = diff(&broken, &broken, &["--master", "--fail-on", "critical"]);
    assert_eq!(same.status.code(), Some(0), "{}{}", stdout(&same), stderr(&same));
}

#[test]
fn what_could_not_be_compared_is_2_and_the_rest_is_still_told() {
    let folder = folder();
    let whole = write(&folder, "a.safetensors", &[("first", &[1.0; 4]), ("last", &[2.0; 4])]);
    let cut = folder.path().join("cut.safetensors");
    let bytes = std::fs::read(&whole).expect("it was written");
    std::fs::write(&cut, &bytes[..bytes.len() - 4]).expect("it can be written");
    for (before, after) in [(&whole, &cut), (&cut, &whole)] {
        let output = diff(before, after, &["--replicas", "--fail-on", "critical"]);
        assert!(
            stdout(&output).contains("verdict: 0 of 1 tensor changed, 1 not compared"),
            "{}",
            stdout(&output)
        );
        assert_eq!(output.status.code(), Some(2));
    }
    assert_eq!(diff(&whole, &whole, &[]).status.code(), Some(0));
}

#[test]
fn one_tensor_differs_and_two_differ() {
    let folder = folder();
    let one = write(&folder, "a.safetensors", &[("v", &[1.0]), ("w", &[1.0])]);
    let other = write(&folder, "b.safetensors", &[("v", &[1.0]), ("w", &[2.0])]);
    let third = write(&folder, "c.safetensors", &[("v", &[2.0]), ("w", &[2.0])]);
    let told = stdout(&diff(&one, &other, &["--replicas"]));
    assert!(told.contains("verdict: 1 tensor differs between the replicas, w first"), "{told}");
    let told = stdout(&diff(&one, &third, &["--replicas"]));
    assert!(told.contains("verdict: 2 tensors differ between the replicas, v first"), "{told}");
}

#[test]
fn a_measurement_file_is_refused_as_what_it_is() {
    let folder = folder();
    let stored = write(&folder, "a.safetensors", &[("w", &[1.0])]);
    let measured = folder.path().join("a.measured.json");
    let [from, to] = [&stored, &measured].map(|path| path.to_str().expect("temporary paths are UTF-8"));
    assert_eq!(flashpoint(&["measure", from, "--output", to]).status.code(), Some(0));
    let output = diff(&stored, &measured, &[]);
    assert_eq!(output.status.code(), Some(2));
    let told = stderr(&output);
    assert!(
        told.ends_with("holds no elements to compare; name the checkpoint that was measured\n"),
        "{told}"
    );
}

/// A safetensors file of one f64 matrix `w`.
fn matrix(folder: &TempDir, name: &str, columns: usize, values: &[f64]) -> PathBuf {
    let (rows, bytes) = (values.len() / columns, 8 * values.len());
    let header =
        format!(r#"{{"w":{{"dtype":"F64","shape":[{rows},{columns}],"data_offsets":[0,{bytes}]}}}}"#);
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let path = folder.path().join(name);
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(&path, [&length[..], header.as_bytes(), &data].concat()).expect("it can be written");
    path
}

fn spectrum_of_change(before: &Path, after: &Path) -> serde_json::Value {
    let output = diff(before, after, &["--format", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    json["tensors"][0]["spectrum"]["value"].clone()
}

fn near(value: &serde_json::Value, expected: f64) -> bool {
    value.as_f64().is_some_and(|value| (value - expected).abs() <= 1e-10 * expected.abs().max(1.0))
}

#[test]
fn a_change_along_the_largest_direction_grows_it_and_one_across_does_not() {
    let folder = folder();
    let diagonal = [5.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0];
    let changed = |at: usize, by: f64| {
        let mut values = diagonal;
        values[at] += by;
        values
    };
    let before = matrix(&folder, "a.safetensors", 3, &diagonal);
    let along = matrix(&folder, "b.safetensors", 3, &changed(0, -2.0));
    let across = matrix(&folder, "c.safetensors", 3, &changed(5, 2.0));
    for (after, alignment, growth) in [(along, 1.0, -0.4), (across, 0.0, 0.0)] {
        let spectrum = spectrum_of_change(&before, &after);
        assert!(near(&spectrum["spectral_norm"]["value"], 2.0), "{spectrum}");
        assert!(near(&spectrum["relative_spectral_norm"]["value"], 0.4), "{spectrum}");
        assert!(near(&spectrum["stable_rank"], 1.0), "{spectrum}");
        for side in 0..2 {
            assert!(near(&spectrum["alignment"]["value"][side], alignment), "{spectrum}");
        }
        assert!(near(&spectrum["growth"]["value"], growth), "{spectrum}");
    }
}

#[test]
fn the_norm_of_a_change_is_that_of_the_difference_decomposed_as_a_matrix() {
    use flashpoint::analysis::spectrum::bidiagonal::singular_values;
    use flashpoint::random::Stream;
    let folder = folder();
    for (rows, columns) in [(40, 30), (30, 40), (1, 7)] {
        let [one, other] = [1, 2].map(|stream| Stream::new(7, stream).normals(rows * columns));
        let before = matrix(&folder, "a.safetensors", columns, &one);
        let after = matrix(&folder, "b.safetensors", columns, &other);
        let difference: Vec<f64> = one.iter().zip(&other).map(|(one, other)| other - one).collect();
        let reference = singular_values(difference, rows, columns).expect("it converges");
        let spectrum = spectrum_of_change(&before, &after);
        assert!(near(&spectrum["spectral_norm"]["value"], reference[0]), "{spectrum} {}", reference[0]);
        let squares: f64 = reference.iter().map(|value| value * value).sum();
        assert!(near(&spectrum["stable_rank"], squares / reference[0].powi(2)), "{spectrum}");
    }
}

#[test]
fn no_spectrum_is_measured_where_none_is_asked_for() {
    let folder = folder();
    let before = matrix(&folder, "a.safetensors", 2, &[1.0, 2.0, 3.0, 4.0]);
    let after = matrix(&folder, "b.safetensors", 2, &[1.0, 2.0, 3.0, 5.0]);
    let text = stdout(&diff(&before, &after, &["--measure", "stats"]));
    assert!(!text.contains("spectrum of the change"), "{text}");
    assert!(stdout(&diff(&before, &after, &[])).contains("spectrum of the change"));
}
