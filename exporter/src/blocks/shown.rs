//! Texts of others that people read on terminals and in logs: nothing in them may hide, or turn the rest around.

/// `text` with a space in the place of each character that cannot be seen by itself: control and format characters (such as those
/// that turn the direction of writing around), separators of lines and paragraphs, and what Unicode has not assigned.
#[must_use]
pub(crate) fn shown(text: &str) -> String {
    text.chars().map(|one| if can_be_seen(one) { one } else { ' ' }).collect()
}

/// By the table of the standard library, which is that of what it escapes. Marks count as seen: the letter before them has them.
fn can_be_seen(one: char) -> bool {
    match one {
        '"' | '\'' | '\\' => true,
        // The first character of a text is escaped as a mark that has no letter before it.
        _ => ['x', one].iter().collect::<String>().escape_debug().count() == 2,
    }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn what_cannot_be_seen_becomes_a_space() {
        for text in ["", "plain", "ü \"quoted\" \\ 'so'", "日本語", "e\u{301}", "🦀", "ไทย"] {
            assert_eq!(shown(text), text);
        }
        for hidden in [
            '\n',
            '\u{1b}',
            '\u{9b}',
            '\u{202e}',
            '\u{2066}',
            '\u{200b}',
            '\u{feff}',
            '\u{2028}',
            '\u{2029}',
            '\u{ad}',
            '\u{e0041}',
        ] {
            assert_eq!(shown(&format!("a{hidden}b")), "a b", "{hidden:?}");
        }
    }
}
