//! Paths as they are written in lines to copy: in a shell, and in Python.

use std::fmt::Write;

/// `text` as one word of a POSIX shell.
pub(super) fn shell(text: &str) -> String {
    // Beside letters and digits no shell takes these for anything else.
    let is_plain = |character: char| character.is_alphanumeric() || "_-./+=:,@%".contains(character);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// `text` as a string of Python.
pub(super) fn python(text: &str) -> String {
    let mut literal = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => literal.extend(['\\', character]),
            _ if character.is_control() => {
                write!(literal, "\\u{:04x}", u32::from(character))
                    .expect("writing to a string does not fail");
            }
            _ => literal.push(character),
        }
    }
    literal.push('"');
    literal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_one_word() {
        // By the rules of POSIX, section 2.2.2: between single quotes everything but the quote stands for itself.
        for (text, written) in [
            ("runs/nn-1.5/a+b", "runs/nn-1.5/a+b"),
            ("my run", "'my run'"),
            ("a$HOME`b`\"c\\", "'a$HOME`b`\"c\\'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
        ] {
            assert_eq!(shell(text), written);
        }
    }

    #[test]
    fn python_reads_back_the_same_text() {
        // By the escapes of its reference, section 2.4.1.
        for (text, written) in [
            ("runs/nn/ckpt_150.pt", r#""runs/nn/ckpt_150.pt""#),
            (r"C:\new\run", r#""C:\\new\\run""#),
            (r#"a "b" 'c'"#, r#""a \"b\" 'c'""#),
            ("a\nb", r#""a\u000ab""#),
        ] {
            assert_eq!(python(text), written);
        }
    }
}
