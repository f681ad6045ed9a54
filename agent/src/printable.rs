//! What strangers wrote, made fit for an answer or a log.

/// Text of others, short and on one line: it can neither fill an answer nor forge a line.
pub(crate) fn printable(text: &str, limit: usize) -> String {
    let (head, cut) = match text.char_indices().nth(limit) {
        Some((end, _)) => (text.get(..end).unwrap_or_default(), "..."),
        None => (text, ""),
    };
    let safe = |c: char| if c.is_control() { ' ' } else { c };
    head.chars().map(safe).chain(cut.chars()).collect()
}

/// The same of a text that may say nothing.
pub(crate) fn said(text: &str, limit: usize) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| printable(text, limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_strangers_neither_forge_a_line_nor_fill_an_answer() {
        assert_eq!(printable("a\nb\u{1b}[0m \u{e9}", 20), "a b [0m \u{e9}");
        assert_eq!(
            printable("\u{20ac}\u{20ac}\u{20ac}", 3),
            "\u{20ac}\u{20ac}\u{20ac}"
        );
        assert_eq!(
            printable("\u{20ac}\u{20ac}\u{20ac}", 2),
            "\u{20ac}\u{20ac}..."
        );
        assert_eq!(said(" \r\n", 9), None);
        assert_eq!(said(" no \n", 9), Some("no".to_owned()));
    }
}
