//! The page of a rule as a terminal shows it: headings in bold, code in colour, paragraphs no wider than the page.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};

use super::text::WIDTH;

/// A page of Markdown with the marks turned into styles of the terminal. Tables and blocks of code keep their lines.
pub fn rule_page(markdown: &str) -> String {
    let mut text = String::new();
    let mut paragraph = String::new();
    let mut is_code = false;
    for line in markdown.lines() {
        let is_fence = line.starts_with("```");
        let is_item = is_item(line);
        let is_block = is_code || line.is_empty() || line.starts_with('#') || line.starts_with('|');
        if is_fence || is_block || is_item {
            flush(&mut paragraph, &mut text);
        }
        if is_fence {
            is_code = !is_code;
        } else if is_code {
            write(&mut text, &format!("    {}", painted(line, code())));
        } else if let Some(heading) = line.strip_prefix('#') {
            write(&mut text, &painted(heading.trim_start_matches('#').trim(), Style::new().bold()));
        } else if is_block {
            write(&mut text, &styled(line));
        } else {
            if !paragraph.is_empty() {
                paragraph.push(' ');
            }
            paragraph.push_str(line.trim());
        }
    }
    flush(&mut paragraph, &mut text);
    text
}

/// Whether a line begins a point of a list, numbered or not.
fn is_item(line: &str) -> bool {
    let rest = line.trim_start_matches(|character: char| character.is_ascii_digit());
    let is_numbered = rest.len() < line.len() && rest.starts_with(". ");
    is_numbered || line.starts_with("- ") || line.starts_with("* ")
}

fn write(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("writing to a string does not fail");
}

/// Ends a paragraph: its words in lines of the page. A span of code is not broken from its style, as styles come last.
fn flush(paragraph: &mut String, text: &mut String) {
    let words = std::mem::take(paragraph);
    if words.is_empty() {
        return;
    }
    let indent = if is_item(&words) { "  " } else { "" };
    let mut lines = vec![String::new()];
    for word in words.split(' ') {
        let line = lines.last_mut().expect("there is always one");
        if !line.is_empty() && shown(line) + 1 + shown(word) > WIDTH {
            lines.push(format!("{indent}{word}"));
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    write(text, &styled(&lines.join("\n")));
}

/// Columns of a piece of Markdown, its marks left out.
fn shown(text: &str) -> usize {
    text.replace("**", "").chars().filter(|character| *character != '`').count()
}

fn code() -> Style {
    AnsiColor::Cyan.on_default()
}

fn painted(text: &str, style: Style) -> String {
    format!("{style}{text}{style:#}")
}

/// Spans of code and of bold, by their marks.
fn styled(line: &str) -> String {
    let mut text = String::new();
    for (index, span) in line.split('`').enumerate() {
        if index % 2 == 1 {
            text.push_str(&painted(span, code()));
            continue;
        }
        for (index, part) in span.split("**").enumerate() {
            if index % 2 == 1 {
                text.push_str(&painted(part, Style::new().bold()));
            } else {
                text.push_str(part);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::RULES;

    fn plain(styled: &str) -> String {
        let mut text = String::new();
        for (index, part) in styled.split('\u{1b}').enumerate() {
            let end = if index == 0 { 0 } else { part.find('m').map_or(0, |end| end + 1) };
            text.push_str(&part[end..]);
        }
        text
    }

    #[test]
    fn headings_are_bold_code_is_coloured_and_the_marks_are_gone() {
        let page = rule_page("# FP1 name\n\nSee `x` and **y**.\n\n```sh\nrun it\n```\n");
        assert_eq!(
            page,
            "\u{1b}[1mFP1 name\u{1b}[0m\n\nSee \u{1b}[36mx\u{1b}[0m and \u{1b}[1my\u{1b}[0m.\n\n    \u{1b}[36mrun it\u{1b}[0m\n"
        );
    }

    #[test]
    fn every_page_keeps_its_words_and_no_paragraph_is_wider_than_the_page() {
        for rule in RULES {
            let shown = plain(&rule_page(rule.page));
            let words = |text: &str| -> String {
                let left = |character: &char| !character.is_whitespace() && !"#`*".contains(*character);
                text.lines()
                    .filter(|line| !line.starts_with("```"))
                    .flat_map(str::chars)
                    .filter(left)
                    .collect()
            };
            assert_eq!(words(&shown), words(rule.page), "{}", rule.code);
            let wide = shown.lines().find(|line| {
                line.chars().count() > WIDTH && line.contains(' ') && !line.starts_with(['|', ' '])
            });
            assert_eq!(wide, None, "{}", rule.code);
        }
    }
}
