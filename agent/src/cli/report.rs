//! The only place that prints: data on stdout, everything else on stderr.

use std::io::{self, Write as _};

use serde::Serialize;

/// Prints data on stdout.
pub(super) fn print(text: &str) {
    // A closed pipe is the reader's wish.
    let _ = writeln!(io::stdout().lock(), "{}", text.trim_end());
}

/// Prints a value as one JSON document on stdout.
pub(super) fn print_json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(&text),
        Err(error) => complain(&format!("this cannot be printed as JSON: {error}")),
    }
}

/// Prints a message for people on stderr.
pub(super) fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "image-agent: {}", text.trim_end());
}
