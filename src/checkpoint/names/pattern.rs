//! The small language of the role table: dotted names from their end, case ignored.
//!
//! Components are separated by dots; a component is alternatives separated by `|`; `*` in an alternative is any text;
//! a component `**` is any number of components. A pattern matches the end of a name, with a leading `^` all of it.

/// Whether the components of a name (lower case) end with, or with a leading `^` are, what `pattern` says.
pub(super) fn matches(pattern: &str, components: &[&str]) -> bool {
    if !may_end(pattern, components) {
        return false;
    }
    let whole = pattern.strip_prefix('^');
    let pattern: Vec<&str> = whole.unwrap_or(pattern).split('.').collect();
    let starts = if whole.is_some() { 1 } else { components.len() };
    (0..starts).any(|start| all(&pattern, &components[start..]))
}

/// Whether the last component can be that of the pattern. Rules out nearly all patterns without taking them apart.
fn may_end(pattern: &str, components: &[&str]) -> bool {
    let last = pattern.rsplit('.').next().unwrap_or_default().trim_start_matches('^');
    let Some(component) = components.last() else { return false };
    last == "**" || last.split('|').any(|alternative| glob(alternative, component))
}

/// Whether `pattern` matches `components` from first to last.
fn all(pattern: &[&str], components: &[&str]) -> bool {
    match (pattern.split_first(), components.split_first()) {
        (None, None) => true,
        (Some((&"**", rest)), _) => (0..=components.len()).any(|skipped| all(rest, &components[skipped..])),
        (None, Some(_)) | (Some(_), None) => false,
        (Some((alternatives, rest)), Some((component, others))) => {
            alternatives.split('|').any(|alternative| glob(alternative, component)) && all(rest, others)
        }
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
    fn matches(pattern: &str, name: &str) -> bool {
        super::matches(pattern, &name.split('.').collect::<Vec<_>>())
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
