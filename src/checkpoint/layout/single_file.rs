//! One file of tensors.

use std::path::Path;
use std::sync::Arc;

use super::hf_trainer::section_of_side_file;
use super::{Part, Parts};
use crate::checkpoint::{Layout, Section, section};
use crate::context::Context;
use crate::error::Result;
use crate::files::InputFile;
use crate::format::{Container, detect};

/// Reads the file at `path`, which the user named: a symbolic link is followed wherever it leads.
pub(super) fn read(path: &Path, context: &Context) -> Result<Parts> {
    let input = Arc::new(InputFile::open(path, context)?);
    let container = detect::read_file(&input, context)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let section = section(&name, &container);
    let mut parts = Parts::new(Layout::SingleFile);
    parts.push(Part { name, section, input, container, label: None });
    parts.recognise();
    Ok(parts)
}

/// What all of it is. A name proposes and the contents decide: who names a file means what is in it.
fn section(name: &str, container: &Container) -> Option<Section> {
    section_of_side_file(name).filter(|section| match section {
        Section::Optimizer => section::is_optimizer_state(container),
        _ => !section::may_hold_weights(container),
    })
}
