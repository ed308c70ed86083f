//! Names from files, made safe to print, and sentences broken into lines.

use std::fmt::{self, Write};

use super::terminal::name_of;
use crate::analysis::model::{Remark, RemarkKind};
use crate::number::grouped;

/// Columns of a page.
pub(super) const WIDTH: usize = 80;

/// The most characters of one name that are printed.
const LONGEST: usize = 160;

/// The most characters of one sentence: those of ours that name a dozen tensors are shorter.
const LONGEST_SENTENCE: usize = 3000;

/// The most characters of several lines: a thousand tensors and the reason for each.
const LONGEST_TEXT: usize = 200_000;

/// `name` without control characters, direction overrides or line breaks, cut in the middle when very long.
pub fn safe(name: &str) -> String {
    let characters = name.chars().count();
    if characters <= LONGEST {
        return name.chars().map(shown).collect();
    }
    let half = LONGEST / 2 - 10;
    let start = name.chars().take(half).map(shown).collect::<String>();
    let end = name.chars().skip(characters - half).map(shown).collect::<String>();
    format!("{start}…({characters} characters)…{end}")
}

/// What a remark says of which file and steps. That something was taken for something is the heading of remarks.
pub(super) fn remarked(remark: &Remark) -> String {
    let kind = match remark.kind {
        RemarkKind::TakenFor => String::new(),
        kind => format!("{}: ", name_of(&kind)),
    };
    let file = remark.file.as_ref().map_or_else(String::new, |file| format!("{file}: "));
    let steps = match remark.steps {
        Some([from, to]) if from == to => format!(" (step {})", grouped(from)),
        Some([from, to]) => format!(" (steps {} to {})", grouped(from), grouped(to)),
        None => String::new(),
    };
    format!("{kind}{file}{}{steps}", remark.message)
}

/// A sentence of ours that may hold names from a file, cut at its end when very long.
pub(super) fn safe_sentence(sentence: &str) -> String {
    words(sentence).join(" ")
}

/// Lines that may hold names from a file, the last ones left out when there are very many.
pub(super) fn safe_lines(text: &str) -> String {
    let (mut lines, mut length) = (Vec::new(), 0);
    for line in text.split('\n') {
        let line = safe_sentence(line);
        length += line.chars().count() + 1;
        if length > LONGEST_TEXT {
            lines.push(format!("…({} lines)", text.split('\n').count()));
            break;
        }
        lines.push(line);
    }
    lines.join("\n")
}

/// The words of a sentence, each safe: a name with a million spaces is a million words, of which the first are enough.
fn words(sentence: &str) -> Vec<String> {
    let (mut words, mut length) = (Vec::new(), 0);
    for word in sentence.split(' ') {
        let word = safe(word);
        length += word.chars().count() + 1;
        if length > LONGEST_SENTENCE {
            words.push(format!("…({} characters)", sentence.chars().count()));
            break;
        }
        words.push(word);
    }
    words
}

/// A character as it may be printed: itself, or its code point.
fn shown(character: char) -> String {
    // `escape_debug` also escapes quotes and backslashes, which are harmless here.
    if matches!(character, '\'' | '"' | '\\') {
        return character.to_string();
    }
    let mut text = String::new();
    write!(text, "{}", character.escape_debug()).expect("writing to a string does not fail");
    text
}

/// Writes a sentence that may hold names from a file, broken into lines of the page, the later ones indented further.
pub(super) fn wrapped(out: &mut String, indent: &str, sentence: &str) -> fmt::Result {
    broken(out, indent, sentence, WIDTH)
}

/// Writes a sentence that may hold names from a file: broken into lines where someone looks at it at a terminal of `width`
/// columns, in one line in a log, where it is searched.
pub(super) fn flowing(out: &mut String, indent: &str, sentence: &str, width: Option<usize>) -> fmt::Result {
    match width {
        Some(width) => broken(out, indent, sentence, width),
        None => writeln!(out, "{indent}{}", safe_sentence(sentence)),
    }
}

fn broken(out: &mut String, indent: &str, sentence: &str, width: usize) -> fmt::Result {
    let mut line = indent.to_owned();
    let mut is_empty = true;
    for word in words(sentence) {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > width {
            writeln!(out, "{line}")?;
            line = format!("{indent}  ");
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(&word);
        is_empty = false;
    }
    writeln!(out, "{line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_direction_overrides_do_not_reach_the_terminal() {
        assert_eq!(safe("a\u{1b}[31m\n\u{202e}b"), "a\\u{1b}[31m\\n\\u{202e}b");
        assert_eq!(safe("it's \"plain\" α.weight"), "it's \"plain\" α.weight");
    }

    #[test]
    fn a_name_of_a_megabyte_is_cut_and_says_so() {
        let name = safe(&"x".repeat(1 << 20));
        assert!(name.chars().count() < 200 && name.contains("1048576 characters"), "{name}");
    }

    #[test]
    fn a_sentence_of_a_megabyte_of_short_words_is_cut_and_says_so() {
        let sentence = "a ".repeat(1 << 19);
        let (mut page, mut log) = (String::new(), String::new());
        wrapped(&mut page, "  ", &sentence).expect("writing to a string does not fail");
        flowing(&mut log, "  ", &sentence, None).expect("writing to a string does not fail");
        for text in [safe_sentence(&sentence), page, log] {
            assert!(text.len() < 4000 && text.contains("1048576"), "{} bytes", text.len());
        }
        let lines = safe_lines(&"a\n".repeat(1 << 19));
        assert!(lines.len() < 250_000 && lines.ends_with("…(524289 lines)"), "{} bytes", lines.len());
        assert_eq!(safe_lines("one\ntwo"), "one\ntwo");
        let short = "tensor h.0.weight has  two spaces";
        assert_eq!(safe_sentence(short), short);
    }
}
