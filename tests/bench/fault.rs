//! What can go wrong in the bench, and in whose hands it lies.

use std::io;
use std::process::ExitStatus;

/// A fault that ends the bench, or one tool's part of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Fault {
    /// The machine: a file, a mount or a process could not be had.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: String,
        #[source]
        source: io::Error,
    },
    /// A program under measurement, or one that the set-up needs, ended badly.
    #[error("{program} ended with {status}: {stderr}")]
    Command {
        program: String,
        status: ExitStatus,
        /// The last lines of what it wrote to standard error.
        stderr: String,
    },
    /// The machine lacks a program that cannot be done without.
    #[error("{program} not found: {remedy}")]
    Missing {
        program: &'static str,
        remedy: &'static str,
    },
    /// The registry answered otherwise than its protocol says.
    #[error("{method} {path}: expected status {expected}, found {found}")]
    Status {
        method: &'static str,
        path: String,
        expected: u16,
        found: u16,
    },
    /// The registry's answer lacks a header that the bench needs, or garbles it.
    #[error("{method} {path}: no usable {header} in the answer")]
    Header {
        method: &'static str,
        path: String,
        header: &'static str,
    },
    /// A document that the bench wrote or read is not what it should be.
    #[error("{what}")]
    Json {
        what: String,
        #[source]
        source: serde_json::Error,
    },
    /// The registry did not come up.
    #[error("docker-registry did not answer on port {port} within {seconds} s")]
    RegistryDown { port: u16, seconds: u64 },
    /// The crypto library could not make or use a key.
    #[error("signing with a fresh P-256 key: {0}")]
    Signing(aws_lc_rs::error::Unspecified),
    /// The command line asks for something that there is not.
    #[error("unknown {kind} {name:?}: expected one of {expected}")]
    Unknown {
        kind: &'static str,
        name: String,
        expected: String,
    },
    /// Two tools made different trees of the same image, so their times do not compare.
    #[error("{image}: {tool} made {found} entries, {other} made {expected}")]
    TreesDiffer {
        image: String,
        tool: &'static str,
        found: u64,
        other: &'static str,
        expected: u64,
    },
    /// `docs/performance.md` has lost the lines between which the results go.
    #[error("{path}: no line {marker:?}")]
    Marker { path: String, marker: &'static str },
    /// The KBS client cannot be made, or gets nothing.
    #[error("the KBS client")]
    KbsClient(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A bare request fails.
    #[error("a bare request to the KBS")]
    Bare(#[from] reqwest::Error),
    /// A worker thread ended by a panic.
    #[error("a generator thread panicked")]
    Panicked,
}

impl From<kbs_client::Error> for Fault {
    fn from(error: kbs_client::Error) -> Self {
        Self::KbsClient(Box::new(error))
    }
}

/// Names what was being done when a call of the operating system went wrong.
pub(crate) trait During<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Fault>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Fault> {
        self.map_err(|error| Fault::Io {
            what: what(),
            source: error.into(),
        })
    }
}

/// The fault and its causes on one line.
pub(crate) fn explain(fault: &Fault) -> String {
    let mut text = fault.to_string();
    let mut cause = std::error::Error::source(fault);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
