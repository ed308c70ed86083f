//! The run's own record: `metrics.jsonl`, a line a step, and `validation.jsonl`, a line each time examples are set aside for it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::arm::{Measured, Stepped};
use crate::error::{Error, Result};
use crate::files::write_atomically;

/// A file of JSON lines that only grows.
pub(super) struct Lines {
    path: PathBuf,
    file: File,
}

impl Lines {
    /// Opens the file, and drops the lines that are not to be kept.
    pub(super) fn open(path: &Path, keeps: impl Fn(&str) -> bool) -> Result<Self> {
        if path.exists() {
            let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, "read it", &error))?;
            let kept: String = text.split_inclusive('\n').filter(|line| keeps(line)).collect();
            if kept != text {
                write_atomically(path, kept.as_bytes())?;
            }
        }
        let file = File::options().create(true).append(true).open(path);
        Ok(Self { path: path.to_owned(), file: file.map_err(|error| Error::io(path, "write it", &error))? })
    }

    /// Adds a line, whole: one write.
    pub(super) fn add(&mut self, line: &str) -> Result<()> {
        let written = self.file.write_all(format!("{line}\n").as_bytes());
        written.map_err(|error| Error::io(&self.path, "write it", &error))
    }
}

/// Whether a line, which begins with its step, is of one up to `step`: those behind it are of a process that did not come to write
/// their checkpoint. A line that was cut off is not.
pub(super) fn is_up_to(line: &str, step: u64) -> bool {
    let rest = line.strip_prefix("{\"step\": ").filter(|_| line.ends_with("}\n")).unwrap_or_default();
    let digits = rest.split(|character: char| !character.is_ascii_digit()).next().unwrap_or_default();
    digits.parse::<u64>().is_ok_and(|own| own <= step)
}

/// Whether a line is of a look at the test examples. A run that goes on takes it again at its end.
pub(super) fn is_of_test(line: &str) -> bool {
    line.contains("\"split\": \"test\"")
}

/// The line of a step.
pub(super) fn metrics(step: u64, epoch: u64, stepped: &Stepped, clips: bool) -> String {
    let mut line = format!("{{\"step\": {step}, \"epoch\": {epoch}, \"loss\": {}", number(stepped.loss));
    let mut add = |key: &str, value: &str| {
        write!(line, ", \"{key}\": {value}").expect("text takes any text");
    };
    add("grad_norm", &number(stepped.grad_norm));
    let layers = stepped.grad_norm_by_layer.iter();
    let layers: Vec<String> = layers
        .map(|(layer, norm)| format!("{}: {}", serde_json::Value::from(layer.as_str()), number(*norm)))
        .collect();
    add("grad_norm_by_layer", &format!("{{{}}}", layers.join(", ")));
    add("lr", &number(stepped.learning_rate));
    add("nonfinite", &stepped.non_finite.to_string());
    if clips {
        add("clipped_grad_norm", &number(stepped.clipped_norm));
        add("skipped", if stepped.skipped { "1" } else { "0" });
    }
    line.push('}');
    line
}

/// The line of a look at examples that are not learned from.
pub(super) fn measured(step: u64, epoch: u64, split: &str, measured: &Measured) -> String {
    let (loss, accuracy) = (number(measured.loss), number(measured.accuracy));
    format!(
        "{{\"step\": {step}, \"epoch\": {epoch}, \"split\": \"{split}\", \"loss\": {loss}, \"accuracy\": {accuracy}}}"
    )
}

/// The shortest text that is this number again; `NaN` and `Infinity` bare, as Python's `json` writes them.
fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else {
        serde_json::Value::from(value).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_behind_the_checkpoint_and_lines_that_were_cut_off_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(
            &path,
            "{\"step\": 1, \"loss\": NaN}\n{\"step\": 12, \"loss\": 2}\n{\"step\": 2, \"lo",
        )
        .unwrap();
        Lines::open(&path, |line| is_up_to(line, 11)).unwrap().add("{\"step\": 2}").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"step\": 1, \"loss\": NaN}\n{\"step\": 2}\n");
    }
}
