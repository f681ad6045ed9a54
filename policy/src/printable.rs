//! What strangers wrote, made fit for a record that is one line.

use std::fmt::{self, Display, Write};

/// The text of `value` without control characters, cut where it is too long.
pub(crate) fn printable(value: &impl Display) -> String {
    let mut line = Line(String::new());
    match write!(line, "{value}") {
        Ok(()) => line.0,
        Err(fmt::Error) => line.0 + "...",
    }
}

/// A text that takes no more once it is full, so that what is cut off is never written out.
struct Line(String);

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.0.len() + c.len_utf8() > MAX_TEXT {
                return Err(fmt::Error);
            }
            self.0.push(if c.is_control() { ' ' } else { c });
        }
        Ok(())
    }
}

/// In bytes: enough for two references with digests and the words around them.
const MAX_TEXT: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_short_and_cuts_between_characters() {
        assert_eq!(printable(&"a \u{e9}\n\u{1b}[0m"), "a \u{e9}  [0m");
        let whole = "x".repeat(MAX_TEXT);
        assert_eq!(printable(&whole), whole);
        let cut = printable(&"\u{20ac}".repeat(MAX_TEXT));
        assert_eq!(cut, format!("{}...", "\u{20ac}".repeat(MAX_TEXT / 3)));
    }
}
