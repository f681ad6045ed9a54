//! What can be wrong with a configuration, and where.

use std::fmt;
use std::path::PathBuf;

/// Why there is no configuration. The author of the file, of the kernel command line or of the
/// guest image is at fault; no text of the file is in here that could be a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's account.
        source: std::io::Error,
    },

    /// The file is larger than any configuration.
    #[error("{path}: larger than the limit of {limit} bytes", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The cap, in bytes.
        limit: usize,
    },

    /// The file is not text.
    #[error("line {line}: not UTF-8")]
    NotUtf8 {
        /// The first line that is not, from 1.
        line: usize,
    },

    /// The text is not TOML; a key given twice is not, either.
    #[error("{at}: not TOML: {message}")]
    Syntax {
        /// Where.
        at: Position,
        /// The parser's account.
        message: String,
    },

    /// A key that nobody would read: most likely a misspelled one.
    #[error("{at}: unknown key {key:?}{}", Suggestion(nearest.as_deref()))]
    UnknownKey {
        /// The key, with its tables.
        key: String,
        /// Where.
        at: Position,
        /// The known key of the same table that looks most like it.
        nearest: Option<String>,
    },

    /// A key with a value of another type.
    #[error("{at}: {key}: expected {expected}, found {found}")]
    WrongType {
        /// The key, with its tables.
        key: String,
        /// Where.
        at: Position,
        /// The type that it has.
        expected: &'static str,
        /// The type that was written.
        found: &'static str,
    },

    /// A table without a key that it must have.
    #[error("{at}: {key} is missing")]
    Missing {
        /// The key, with its tables.
        key: String,
        /// Where the table is.
        at: Position,
    },

    /// A value of the right type that is not legal.
    #[error("{origin}")]
    Value {
        /// Where it was written.
        origin: Origin,
        /// What is wrong with it.
        source: Box<Fault>,
    },
}

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

impl Position {
    /// The place of the byte at `offset`.
    pub(super) fn of(offset: usize, text: &str) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.matches('\n').count().saturating_add(1);
        let start = before
            .rfind('\n')
            .map_or(0, |newline| newline.saturating_add(1));
        let column = before
            .get(start..)
            .unwrap_or_default()
            .chars()
            .count()
            .saturating_add(1);
        Self { line, column }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// In the file.
    File {
        /// The key, with its tables.
        key: String,
        /// The place of the value.
        at: Position,
    },
    /// On the kernel command line.
    CommandLine {
        /// The parameter.
        parameter: &'static str,
    },
    /// In the environment of the process.
    Environment {
        /// The variable.
        variable: &'static str,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { key, at } => write!(f, "{at}: {key}"),
            Self::CommandLine { parameter } => write!(f, "kernel command line: {parameter}"),
            Self::Environment { variable } => write!(f, "environment variable {variable}"),
        }
    }
}

/// What makes a value illegal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A socket address of another kind, such as the TCP address of a gRPC build.
    #[error("expected unix:// and an absolute path, found {found:?}")]
    Socket {
        /// What was written.
        found: String,
    },

    /// A socket whose path the kernel does not take.
    #[error("expected a path of at most {limit} bytes, as the kernel takes, found {found}")]
    SocketPath {
        /// Bytes of the path, or of the name beside it that the socket first gets.
        found: usize,
        /// The most that are possible.
        limit: usize,
    },

    /// A location of a scheme that cannot be read.
    #[error(
        "expected kbs:///repository/type/tag, file:///path or an absolute path, found {found:?}"
    )]
    Location {
        /// What was written.
        found: String,
    },

    /// A malformed name of a resource.
    #[error("{found:?}")]
    Resource {
        /// What was written.
        found: String,
        /// What is wrong with it.
        source: kbs_client::UriError,
    },

    /// A path that depends on the working directory, or on what `..` means.
    #[error("expected an absolute path without .., found {found:?}")]
    RelativePath {
        /// What was written.
        found: String,
    },

    /// A credential that would be written elsewhere.
    #[error(
        "expected a path beneath {folder} without . or .., found {found:?}",
        folder = super::CREDENTIALS_FOLDER
    )]
    CredentialPath {
        /// What was written.
        found: String,
    },

    /// A word that is none of a closed list.
    #[error("expected one of {}, found {found:?}{}", expected.join(", "), Suggestion(*nearest))]
    Word {
        /// The list.
        expected: &'static [&'static str],
        /// What was written.
        found: String,
        /// The word of the list that looks most like it.
        nearest: Option<&'static str>,
    },

    /// An address that cannot be parsed. It may hold a password, so it is not in here.
    #[error("not a URL")]
    Url(#[source] url::ParseError),

    /// An address of a scheme that is not spoken.
    #[error("expected a URL with one of the schemes {}, found {found:?}", expected.join(", "))]
    Scheme {
        /// Those that are.
        expected: &'static [&'static str],
        /// What was written.
        found: String,
    },

    /// An address with a part that would be ignored.
    #[error("a {part} has no meaning in this URL")]
    UrlPart {
        /// The part.
        part: &'static str,
    },

    /// An `aa_kbc_params` of another form.
    #[error("expected <kbc>::<url>, found {found:?}")]
    KbcParameters {
        /// What was written.
        found: String,
    },

    /// A `cdh.kbs_resources` of another form.
    #[error("expected <resource>::<path>, found {found:?}")]
    KbsResource {
        /// What was written.
        found: String,
    },

    /// A log level that is none, and no list of `target=level` either.
    #[error("expected one of off, error, warn, info, debug, trace, found {found:?}")]
    LogLevel {
        /// What was written.
        found: String,
    },

    /// Text that should be certificates.
    #[error("expected certificates in PEM: {reason}")]
    Certificates {
        /// What is wrong with it.
        reason: &'static str,
    },

    /// A digest that is none.
    #[error("expected a digest such as sha256: and 64 digits, found {found:?}")]
    Digest {
        /// What was written.
        found: String,
        /// What is wrong with it.
        source: policy::DigestError,
    },

    /// A platform that is none.
    #[error("expected a platform such as linux/arm64/v8, found {found:?}")]
    Platform {
        /// What was written.
        found: String,
    },

    /// A number out of its range.
    #[error("expected a number from {minimum} to {maximum}, found {found}")]
    Range {
        /// What was written.
        found: String,
        /// The smallest that is legal.
        minimum: u64,
        /// The largest that is legal.
        maximum: u64,
    },

    /// A kernel parameter that is a yes or a no.
    #[error("expected true or false, found {found:?}")]
    Boolean {
        /// What was written.
        found: String,
    },

    /// A kernel parameter with two values, of which it is anybody's guess which one counts.
    #[error("given twice, as {first:?} and as {second:?}")]
    Contradiction {
        /// One value.
        first: String,
        /// Another one.
        second: String,
    },

    /// A Key Broker Service whose answers anybody on the way can forge.
    #[error(
        "{url} is plain http and not on loopback, which require_authenticated_kbs = true forbids; \
         use https"
    )]
    UnauthenticatedKbs {
        /// Its address.
        url: String,
    },

    /// A policy in the file itself that is none.
    #[error("not an image policy")]
    Policy(#[source] policy::PolicyError),

    /// A registries.d document in the file itself that is none.
    #[error("not a registries.d document")]
    Lookaside(#[source] policy::LookasideError),

    /// A name of a registry or of a namespace in it that is none.
    #[error("expected {expected}, found {found:?}")]
    RegistryName {
        /// The form that it should have.
        expected: &'static str,
        /// What was written.
        found: String,
    },

    /// Not what a proxy can be without.
    #[error(
        "expected a host or domain without a port, an address, a network such as 10.0.0.0/8, or *, \
         found {found:?}"
    )]
    ProxyException {
        /// The item of the list.
        found: String,
    },

    /// Not the name of a credential helper.
    #[error(
        "expected what follows docker-credential- in the name of a program, such as ecr-login, \
         found {found:?}"
    )]
    HelperName {
        /// What was written.
        found: String,
    },

    /// A setting that does not go with another one of the same registry.
    #[error("does not go with {other}")]
    Incompatible {
        /// The other one.
        other: &'static str,
    },
}

/// `, did you mean "x"?`, or nothing.
struct Suggestion<'a>(Option<&'a str>);

impl fmt::Display for Suggestion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(nearest) => write!(f, ", did you mean {nearest:?}?"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let rows = [
            (0, 1, 1),
            (1, 1, 2),
            (2, 1, 3),
            (3, 2, 1),
            (5, 2, 2),
            (99, 2, 2),
        ];
        for (offset, line, column) in rows {
            assert_eq!(
                Position::of(offset, "ab\né"),
                Position { line, column },
                "{offset}"
            );
        }
    }
}
