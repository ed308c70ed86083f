//! The small language of the role table: dotted names from their end, case ignored.
//!
//! Components are separated by dots; a component is alternatives separated by `|`; `*` in an alternative is any text;
//! a component `**` is any number of components. A pattern matches the end of a name, with a leading `^` all of it.

/// A pattern, taken apart once.
pub(super) struct Pattern {
    /// Whether it is about the whole name, and not only its end.
    whole: bool,
    /// Whether it has no `**`, and so matches one number of components.
    fixed: bool,
    components: Vec<Component>,
}

enum Component {
    /// `**`
    Any,
    OneOf(Vec<Alternative>),
}

/// One text a component may be. Most hold no `*` and need no search.
enum Alternative {
    Text(&'static str),
    Glob(&'static str),
}

impl Pattern {
    pub(super) fn new(text: &'static str) -> Self {
        let components = text.trim_start_matches('^').split('.').map(|component| match component {
            "**" => Component::Any,
            alternatives => Component::OneOf(alternatives.split('|').map(Alternative::new).collect()),
        });
        let components: Vec<Component> = components.collect();
        let fixed = !components.iter().any(|component| matches!(component, Component::Any));
        Self { whole: text.starts_with('^'), fixed, components }
    }

    /// Whether the components of a name, in lower case, are what the pattern says.
    pub(super) fn matches(&self, name: &[&str]) -> bool {
        if self.whole {
            all(&self.components, name)
        } else if self.fixed {
            let start = name.len().checked_sub(self.components.len());
            start.is_some_and(|start| all(&self.components, &name[start..]))
        } else {
            (0..name.len()).any(|start| all(&self.components, &name[start..]))
        }
    }
}

impl Alternative {
    fn new(text: &'static str) -> Self {
        if text.contains('*') { Alternative::Glob(text) } else { Alternative::Text(text) }
    }

    fn is(&self, component: &str) -> bool {
        match self {
            Alternative::Text(text) => *text == component,
            Alternative::Glob(text) => glob(text, component),
        }
    }
}

/// Whether `pattern` matches `name` from first to last component.
fn all(pattern: &[Component], name: &[&str]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((Component::Any, rest)), _) => (0..=name.len()).any(|skipped| all(rest, &name[skipped..])),
        (Some((Component::OneOf(alternatives), rest)), Some((component, others))) => {
            all(rest, others) && alternatives.iter().any(|alternative| alternative.is(component))
        }
        (None, Some(_)) | (Some(_), None) => false,
    }
}

/// Whether `text` is `glob`, in which each `*` is any text.
fn glob(glob: &str, text: &str) -> bool {
    let Some((head, tail)) = glob.split_once('*') else { return glob == text };
    let Some(rest) = text.strip_prefix(head) else { return false };
    let mut starts = rest.char_indices().map(|(start, _)| start).chain([rest.len()]);
    starts.any(|start| self::glob(tail, &rest[start..]))
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    fn matches(pattern: &'static str, name: &str) -> bool {
        Pattern::new(pattern).matches(&name.split('.').collect::<Vec<_>>())
    }

    #[test]
    fn patterns_match_whole_components_at_the_end() {
        assert!(matches("attn|attention.c_proj.weight", "h.3.attn.c_proj.weight"));
        assert!(!matches("attn.c_proj.weight", "h.3.crossattn.c_proj.weight"));
        assert!(matches("*attn.c_proj.weight", "h.3.crossattn.c_proj.weight"));
        assert!(!matches("attn", "attn.bias"));
    }

    #[test]
    fn a_caret_anchors_and_two_stars_skip() {
        assert!(matches("^head.weight", "head.weight"));
        assert!(!matches("^head.weight", "blocks.1.head.weight"));
        assert!(matches("experts.**.weight", "layers.1.experts.0.w1.weight"));
        assert!(matches("lora_a.**", "q.lora_a.default.weight"));
    }
}
