//! The only place that prints: data on stdout, everything else on stderr.

use std::io::{self, ErrorKind, Write as _};

use serde::Serialize;

use super::Exit;

/// Prints data on stdout, and returns `exit` unless the data got lost.
pub(super) fn print(text: &str, exit: Exit) -> Exit {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{}", text.trim_end()).and_then(|()| stdout.flush()) {
        // A closed pipe is the reader's wish.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            complain(&format!("standard output: {error}"));
            Exit::Failed
        }
        _ => exit,
    }
}

/// Prints a value as one JSON document on stdout, and returns `exit` unless it got lost.
pub(super) fn print_json(value: &impl Serialize, exit: Exit) -> Exit {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(&text, exit),
        Err(error) => {
            complain(&format!("this cannot be printed as JSON: {error}"));
            Exit::Failed
        }
    }
}

/// Prints a message for people on stderr.
pub(super) fn complain(text: &str) {
    // There is nowhere left to complain to.
    let _ = writeln!(io::stderr().lock(), "image-agent: {}", text.trim_end());
}
