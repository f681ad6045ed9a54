//! The programs of the distribution that the tests run beside our own.

use std::path::PathBuf;
use std::process::{Command, Output};

/// Finds `program` in `PATH`.
///
/// A missing program is a failure, never a reason to skip: a test that cannot run proves nothing.
pub fn require(program: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| {
            panic!("`{program}` is not installed; on Debian: apt-get install {package}")
        })
}

/// Runs `command` to its end and fails with its own words when it fails.
pub fn run(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    output
}
