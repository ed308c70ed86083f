//! Where the answer goes: stdout in one format, files in others, opened before the long work.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use flashpoint::error::{Error, ErrorKind, Result};
use flashpoint::files::write_atomically;
use flashpoint::report::{self, Json, Plot, Report, Style};

use super::options::Color;

/// `--format`, `--output`, `--color`, `--all`.
#[derive(Debug, Args)]
pub struct Outputs {
    /// Format of what is printed
    #[arg(long, value_enum, default_value_t = Format::Terminal, help_heading = "Output")]
    format: Format,
    /// Also write the report to a file; repeatable, such as `--output json=report.json`
    #[arg(long, value_name = "[FORMAT=]FILE", help_heading = "Output")]
    output: Vec<Target>,
    /// Also draw what was measured: a directory for SVG and PNG files, made where it is not there
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    plots: Option<PathBuf>,
    /// Show every tensor, finding and reason
    #[arg(long, help_heading = "Output")]
    all: bool,
    /// Colour severities
    #[arg(long, value_enum, default_value_t = Color::Auto, help_heading = "Output")]
    color: Color,
    /// No progress on stderr
    #[arg(long, short, help_heading = "Output")]
    pub quiet: bool,
}

/// An output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Terminal,
    /// Everything, for programs
    Json,
    /// For the comment of a pull request, or an issue
    Markdown,
    /// One page with plots, that needs nothing beside it
    Html,
    /// SARIF 2.1.0, for code scanning (only where there are findings: inspect, postmortem, jacobian, gate)
    Sarif,
    /// JUnit XML, for any CI (only where there are findings)
    Junit,
    /// Annotations of GitHub Actions (only where there are findings)
    Github,
}

/// Endings of file names that say the format.
const ENDINGS: [(&str, Format); 7] = [
    ("txt", Format::Terminal),
    ("log", Format::Terminal),
    ("json", Format::Json),
    ("md", Format::Markdown),
    ("html", Format::Html),
    ("sarif", Format::Sarif),
    ("xml", Format::Junit),
];

/// The formats that every report has: the others tell findings one by one.
const OF_ANY_REPORT: [Format; 4] = [Format::Terminal, Format::Json, Format::Markdown, Format::Html];

/// What to take in place of a format that tells findings one by one.
const TAKE_ANY: &str =
    "take terminal, json, markdown or html; inspect, postmortem, jacobian and gate write the others";

/// What to take where there is no page.
const TAKE_TEXT: &str = "take terminal or json";

/// What one report looks like to people, and what there is to draw of it.
pub struct Renderings<'a> {
    /// At a terminal.
    pub terminal: &'a dyn Fn(Style) -> String,
    /// In an issue.
    pub markdown: &'a dyn Fn() -> Vec<u8>,
    /// In a browser.
    pub html: &'a dyn Fn() -> Vec<u8>,
    /// In a directory.
    pub plots: &'a dyn Fn() -> Vec<Plot>,
    /// Finding by finding, where that is what it has to say.
    pub findings: Option<&'a dyn Fn() -> Report>,
}

/// Narrower terminals get pages of this width.
const NARROWEST: usize = 40;

/// One `--output`.
#[derive(Debug, Clone)]
struct Target {
    format: Format,
    path: PathBuf,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let named =
            text.split_once('=').and_then(|(name, path)| Some((Format::from_str(name, true).ok()?, path)));
        let (format, path) = match named {
            Some((format, path)) => (Some(format), path),
            None => (by_ending(text), text),
        };
        let looks_like_a_format =
            |prefix: &str| !prefix.is_empty() && prefix.chars().all(|c| c.is_ascii_lowercase());
        if named.is_none() && text.split_once('=').is_some_and(|(prefix, _)| looks_like_a_format(prefix)) {
            return Err(format!(
                "no such format; formats are terminal, json, markdown, html, sarif, junit, github (a file of that name: ./{text})"
            ));
        }
        if path.is_empty() {
            return Err("no file name after the format".to_owned());
        }
        let format = format.ok_or_else(|| {
            format!("no report has this ending; take .txt, .json, .md, .html, .sarif or .xml, or name the format: terminal={text}")
        })?;
        Ok(Self { format, path: path.into() })
    }
}

/// The format that the ending of a file's name says: text where there is no ending, such as `/dev/stderr`.
fn by_ending(name: &str) -> Option<Format> {
    let Some(ending) = Path::new(name).extension() else { return Some(Format::Terminal) };
    ENDINGS.iter().find(|(known, _)| ending.eq_ignore_ascii_case(known)).map(|(_, format)| *format)
}

impl Outputs {
    /// Finds out whether every file can be written, before the long work, and whether the formats are for any report.
    pub fn check(&self, inputs: &[PathBuf]) -> Result<()> {
        if let Some(format) = self.formats().find(|format| !OF_ANY_REPORT.contains(format)) {
            let name =
                format.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
            return Err(
                ErrorKind::NoSuchReport { format: name, advice: TAKE_ANY }.in_file(Path::new("--format"))
            );
        }
        self.check_for_report(inputs)
    }

    /// As [`Outputs::check`], for what [`Outputs::write_text`] writes.
    pub fn check_for_text(&self, inputs: &[PathBuf]) -> Result<()> {
        let others = self.formats().filter(|format| !matches!(format, Format::Terminal | Format::Json));
        let named = others.filter_map(|format| Some(format.to_possible_value()?.get_name().to_owned()));
        if let Some(format) = named.chain(self.plots.iter().map(|_| "plots".to_owned())).next() {
            return Err(ErrorKind::NoSuchReport { format, advice: TAKE_TEXT }.in_file(Path::new("--format")));
        }
        self.check_for_report(inputs)
    }

    /// As [`Outputs::check`], for what tells its findings one by one as well.
    pub fn check_for_report(&self, inputs: &[PathBuf]) -> Result<()> {
        self.output.iter().try_for_each(|target| check_writable(&target.path, inputs))?;
        self.plots.as_ref().map_or(Ok(()), |folder| check_folder(folder, inputs))
    }

    /// Whether any of them is read by programs.
    pub fn are_for_programs(&self) -> bool {
        self.formats().any(|format| format != Format::Terminal)
    }

    fn formats(&self) -> impl Iterator<Item = Format> + '_ {
        self.output.iter().map(|target| target.format).chain([self.format])
    }

    /// As [`Outputs::write`], of a report on checkpoints, in every format; `page` and `html` are those for people.
    pub fn write_report(
        &self,
        report: &Report,
        page: &dyn Fn(Style) -> String,
        html: fn(&Report) -> Vec<u8>,
    ) -> Result<()> {
        self.draw(&|| report::checkpoint_plots(report))?;
        self.emit(&|format, on_stdout| match format {
            Format::Terminal => page(self.style(on_stdout)).into_bytes(),
            Format::Json => report.to_json(),
            Format::Markdown => report::to_markdown(report),
            Format::Html => html(report),
            one_by_one => told_one_by_one(one_by_one, report),
        })
    }

    /// Writes the report to stdout and to every file, and its plots.
    ///
    /// # Panics
    /// Where there are no findings and [`Outputs::check`] was not asked, which refuses their formats.
    pub fn write(&self, report: &dyn Json, renderings: &Renderings<'_>) -> Result<()> {
        self.draw(renderings.plots)?;
        self.emit(&|format, on_stdout| match format {
            Format::Terminal => (renderings.terminal)(self.style(on_stdout)).into_bytes(),
            Format::Json => report.to_json(),
            Format::Markdown => (renderings.markdown)(),
            Format::Html => (renderings.html)(),
            one_by_one => {
                let findings =
                    renderings.findings.expect("without findings the format is refused before the work");
                told_one_by_one(one_by_one, &findings())
            }
        })
    }

    /// As [`Outputs::write`], of what is for a terminal and for programs alone.
    ///
    /// # Panics
    /// Where [`Outputs::check_for_text`] was not asked, which refuses the other formats.
    pub fn write_text(&self, report: &dyn Json, page: &dyn Fn(Style) -> String) -> Result<()> {
        self.emit(&|format, on_stdout| match format {
            Format::Terminal => page(self.style(on_stdout)).into_bytes(),
            Format::Json => report.to_json(),
            other => unreachable!("{other:?} is refused before the work"),
        })
    }

    /// How to write for people; `on_stdout` tells stdout from files.
    fn style(&self, on_stdout: bool) -> Style {
        let width = terminal_size::terminal_size_of(io::stdout()).filter(|_| on_stdout);
        let width = width.map(|(terminal_size::Width(columns), _)| usize::from(columns).max(NARROWEST));
        Style { color: on_stdout && self.color.on_stdout(), all: self.all, width }
    }

    fn emit(&self, render: &dyn Fn(Format, bool) -> Vec<u8>) -> Result<()> {
        for target in &self.output {
            write_atomically(&target.path, &render(target.format, false))?;
            self.tell_written(&target.path);
        }
        print(&render(self.format, true))
    }
}

/// Findings in a format that tells them one by one.
fn told_one_by_one(format: Format, report: &Report) -> Vec<u8> {
    match format {
        Format::Sarif => report::to_sarif(report),
        Format::Junit => report::to_junit(report),
        Format::Github => report::to_github(report),
        other => unreachable!("{other:?} tells a story"),
    }
}

impl Outputs {
    fn draw(&self, plots: &dyn Fn() -> Vec<Plot>) -> Result<()> {
        let Some(folder) = &self.plots else { return Ok(()) };
        let plots = plots();
        for plot in &plots {
            write_atomically(&folder.join(format!("{}.svg", plot.name)), &plot.svg_file())?;
            write_atomically(&folder.join(format!("{}.png", plot.name)), &plot.png_file())?;
        }
        if plots.is_empty() {
            eprintln!("flashpoint: {}: there is nothing to draw", folder.display());
        }
        self.tell_written(folder);
        Ok(())
    }

    /// Says where a report is, as a link where someone can click on it.
    fn tell_written(&self, path: &Path) {
        if self.quiet || !io::stderr().is_terminal() {
            return;
        }
        let shown = report::safe(&path.to_string_lossy());
        match path.canonicalize() {
            Ok(whole) => eprintln!("wrote {}", linked(&whole, &shown)),
            Err(_) => eprintln!("wrote {shown}"),
        }
    }
}

/// `text` as a hyperlink to a file (OSC 8), which terminals that know none show as the text.
fn linked(file: &Path, text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(byte);
    let address = file.as_os_str().as_encoded_bytes().iter().map(|byte| match byte {
        byte if plain(byte) => char::from(*byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    format!("\u{1b}]8;;file://{}\u{1b}\\{text}\u{1b}]8;;\u{1b}\\", address.collect::<String>())
}

/// Makes the directory of plots, so that a bad path fails at once.
///
/// # Errors
/// When it cannot be made, or is, or lies in, one of `inputs`.
fn check_folder(folder: &Path, inputs: &[PathBuf]) -> Result<()> {
    // Of what is not there, the directory that it would be made in.
    let there = folder.ancestors().find(|path| path.exists());
    if there.is_some_and(|there| inputs.iter().any(|input| is_inside(there, input))) {
        return Err(ErrorKind::NotAnOutput { what: "part of the input" }.in_file(folder));
    }
    std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, "make it", &error))?;
    check_writable(&folder.join("plot.svg"), inputs)
}

/// Tries to create a file beside `path`, so that a bad path fails at once and an existing file stays as it is.
///
/// # Errors
/// When it cannot be written, is no regular file, or is, or lies in, one of `inputs`: input is never written to.
pub fn check_writable(path: &Path, inputs: &[PathBuf]) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let probe = path.with_file_name(format!(".{name}.{}.probe", std::process::id()));
    let refused = |error: io::Error| Error::io(path, "write it", &error);
    if let Ok(existing) = std::fs::symlink_metadata(path)
        && !existing.is_file()
    {
        let what = if existing.is_dir() { "directory" } else { "link or device" };
        return Err(ErrorKind::NotAnOutput { what }.in_file(path));
    }
    if inputs.iter().any(|input| is_inside(path, input)) {
        return Err(ErrorKind::NotAnOutput { what: "part of the input" }.in_file(path));
    }
    OpenOptions::new().write(true).create_new(true).open(&probe).map_err(refused)?;
    std::fs::remove_file(&probe).map_err(refused)
}

/// Whether writing `path` would change `input`: it is that file, or an existing file under that directory.
fn is_inside(path: &Path, input: &Path) -> bool {
    let (Ok(path), Ok(input)) = (path.canonicalize(), input.canonicalize()) else { return false };
    path.starts_with(input)
}

/// Writes to stdout. A reader that has gone away is not an error.
pub fn print(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::io(Path::new("stdout"), "write to it", &error))
        }
        _ => Ok(()),
    }
}
