//! The name that a mistyped one was probably meant to be.

/// ` (did you mean …?)` for the nearest of `known`, or nothing where none is near.
pub fn did_you_mean<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let lower = written.to_lowercase();
    let distance = |name: &str| strsim::damerau_levenshtein(&lower, &name.to_lowercase());
    // Codes differ in a digit or two, so that only one may be wrong; of longer names, a third.
    let near = |name: &str, distance: usize| distance <= (name.chars().count() / 3).clamp(1, 3);
    let nearest = known.into_iter().map(|name| (distance(name), name)).min_by_key(|(distance, _)| *distance);
    nearest
        .filter(|(distance, name)| if is_code(name) { *distance <= 1 } else { near(name, *distance) })
        .map_or_else(String::new, |(_, name)| format!(" (did you mean {name}?)"))
}

fn is_code(name: &str) -> bool {
    name.strip_prefix("FP").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_near_is_suggested() {
        let known = ["FP101", "FP903", "non-finite", "ratio"];
        assert_eq!(did_you_mean("fp10l", known), " (did you mean FP101?)");
        assert_eq!(did_you_mean("non-finit", known), " (did you mean non-finite?)");
        assert_eq!(did_you_mean("raito", known), " (did you mean ratio?)");
        assert_eq!(did_you_mean("FP999", known), "");
        assert_eq!(did_you_mean("something-else", known), "");
    }
}
