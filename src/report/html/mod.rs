//! Reports as one page of HTML that needs nothing beside it: no network, no script to be read, light and dark, on paper too.
//!
//! A template a page under `templates/`, which escapes whatever it is given; what comes from a file went through [`safe`] before.
//! The page's security policy allows its own script alone, by its digest.
//!
//! [`safe`]: super::text::safe

mod checkpoints;
mod clip;
mod difference;
mod jacobian;
mod parts;
mod postmortem;
mod tables;
#[cfg(test)]
mod tests;

use askama::Template;

pub use checkpoints::{checkpoints_html, jacobian_html};
pub use clip::clip_html;
pub use difference::difference_html;
pub use postmortem::postmortem_html;

/// The page of a template.
fn rendered(page: &impl Template) -> Vec<u8> {
    page.render().expect("writing to a string does not fail").into_bytes()
}
