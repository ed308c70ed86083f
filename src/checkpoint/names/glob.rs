//! Globs over names of tensors: `layers.*.{q,k,v}_proj.weight`. A `*` also matches dots and slashes.

use glob::Pattern;

/// More alternatives than anybody writes: braces multiply each other.
const MOST_ALTERNATIVES: usize = 4096;

/// A glob, compiled.
#[derive(Debug, Clone)]
pub struct Glob {
    /// One for each way through the braces.
    alternatives: Vec<Pattern>,
}

impl Glob {
    /// `*`, `?`, `[a-z]`, `[!a-z]` and braces that are not nested.
    ///
    /// # Errors
    /// That `text` is no glob, and why.
    pub fn new(text: &str) -> Result<Self, String> {
        Self::compiled(text).map_err(|why| format!("{} is no glob: {why}", text.escape_debug()))
    }

    fn compiled(text: &str) -> Result<Self, String> {
        let alternatives = expanded(text)?;
        let compiled = alternatives.iter().map(|alternative| {
            // Of a file's path two stars are more than one; a name is no path.
            let mut one_star = alternative.clone();
            while one_star.contains("**") {
                one_star = one_star.replace("**", "*");
            }
            // Without two stars, nothing else can be wrong with it.
            Pattern::new(&one_star).map_err(|_| "a bracket is not closed, or is empty".to_owned())
        });
        Ok(Self { alternatives: compiled.collect::<Result<_, _>>()? })
    }

    /// Whether the whole of `name` matches.
    pub fn is_match(&self, name: &str) -> bool {
        self.alternatives.iter().any(|alternative| alternative.matches(name))
    }
}

/// `text` once for each way through its braces.
fn expanded(text: &str) -> Result<Vec<String>, String> {
    let mut all = vec![String::new()];
    let mut rest = text;
    while let Some(open) = rest.find(['{', '}']) {
        let inside = &rest[open..];
        let inside = inside.strip_prefix('{').ok_or("a brace closes that was never opened")?;
        let close = inside.find('}').ok_or("a brace opens that is never closed")?;
        let choices: Vec<&str> = inside[..close].split(',').collect();
        if inside[..close].contains('{') {
            return Err("braces inside braces are not known here".to_owned());
        }
        if all.len() * choices.len() > MOST_ALTERNATIVES {
            return Err(format!("its braces have more than {MOST_ALTERNATIVES} ways through them"));
        }
        all = all
            .iter()
            .flat_map(|begun| choices.iter().map(move |choice| format!("{begun}{}{choice}", &rest[..open])))
            .collect();
        rest = &inside[close + 1..];
    }
    Ok(all.into_iter().map(|begun| begun + rest).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(glob: &str, name: &str) -> bool {
        Glob::new(glob).unwrap_or_else(|error| panic!("{glob}: {error}")).is_match(name)
    }

    #[test]
    fn a_glob_is_about_the_whole_name_and_its_stars_cross_dots_and_slashes() {
        assert!(matches("layers.*.weight", "layers.0.mlp.up_proj.weight"));
        assert!(matches("*/kernel", "encoder/layer_0/kernel"));
        assert!(matches("layers.**.weight", "layers.0.weight"));
        assert!(matches("layers.[0-3].bias", "layers.2.bias"));
        assert!(!matches("layers.[!0-3].bias", "layers.2.bias"));
        assert!(matches("layers.?.bias", "layers.7.bias"));
        assert!(!matches("layers.?.bias", "layers.17.bias"));
        assert!(!matches("layers.*", "model.layers.0.weight"));
    }

    #[test]
    fn braces_are_alternatives() {
        for name in ["h.3.q_proj.weight", "h.3.v_proj.bias"] {
            assert!(matches("h.*.{q,k,v}_proj.{weight,bias}", name), "{name}");
        }
        assert!(!matches("h.*.{q,k,v}_proj.weight", "h.3.o_proj.weight"));
        assert!(matches("a{,.b}", "a") && matches("a{,.b}", "a.b"));
    }

    #[test]
    fn what_is_no_glob_is_said_in_words() {
        for wrong in ["a[", "a{b", "a}b", "a{b{c}}", &"{a,b}".repeat(20)] {
            assert!(Glob::new(wrong).is_err_and(|message| !message.is_empty()), "{wrong}");
        }
    }
}
