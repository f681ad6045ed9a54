//! What can go wrong between a caller and a secret.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::attester::AttesterError;
use crate::init_data::InitDataError;
use crate::jwe::JweError;
use crate::key::KeyError;
use crate::offline::OfflineError;

/// Why there is no secret.
///
/// Every variant that concerns an exchange carries its `url`, without query. No variant carries a
/// secret, a token or a cookie. Clonable, as one failed handshake is reported to all who waited
/// for it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The KBS cannot be reached, or stopped answering. The network or the KBS is at fault; trying
    /// again later may help.
    #[error("KBS not reachable at {url}: {reason}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Which step did not happen.
        reason: Unreachability,
        /// The cause, as the HTTP library has it.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The KBS was not asked, because who answers is not proved to be the KBS. Its certificate, the
    /// configured roots or a clock is at fault. Never retried.
    #[error(
        "no trusted connection to the KBS at {url}: {reason}{}; {hint}",
        of(subject.as_deref())
    )]
    Tls {
        /// What was asked for.
        url: String,
        /// Whose certificate is not accepted (RFC 4514), when it came to that.
        subject: Option<String>,
        /// The TLS library's reason.
        reason: String,
        /// What to look at; our clock, when it matters.
        hint: String,
    },
    /// The KBS speaks another version of the protocol; there is no negotiation.
    #[error("this client speaks KBS protocol {ours}, the KBS at {url} speaks {theirs}")]
    Version {
        /// Where the session was asked for.
        url: String,
        /// [`PROTOCOL_VERSION`](crate::PROTOCOL_VERSION).
        ours: &'static str,
        /// The version that the KBS expects, from the text of its refusal.
        theirs: String,
    },
    /// The KBS opens no session for this TEE: it has no verifier for it, or does not understand the
    /// request.
    #[error("KBS opens no session for TEE {tee} at {url}: {refusal}")]
    SessionRefused {
        /// Where the session was asked for.
        url: String,
        /// The TEE that was named.
        tee: String,
        /// Its answer.
        refusal: Refusal,
    },
    /// The KBS does not accept the evidence. It tells the cause to nobody but its own log.
    #[error(
        "evidence refused at {url}: {refusal}; the cause is in the KBS log{}",
        at(date.as_deref())
    )]
    EvidenceRefused {
        /// Where the evidence was sent.
        url: String,
        /// When, by the clock of the KBS: where to look in its log.
        date: Option<String>,
        /// Its answer.
        refusal: Refusal,
    },
    /// The resource policy of the KBS says no. Final: asking again changes nothing.
    #[error("denied by the resource policy of the KBS: {url}")]
    PolicyDenied {
        /// What was asked for.
        url: String,
    },
    /// The KBS has no such resource, or calls its name illegal; it does not say which. Final.
    #[error("no such resource in the KBS, or a name that it calls illegal: {url}")]
    NotFound {
        /// What was asked for.
        url: String,
    },
    /// The KBS does not have the plugin that the URI names, or is no KBS.
    #[error("no such plugin in the KBS: {url}")]
    NoSuchPlugin {
        /// What was asked for.
        url: String,
    },
    /// The KBS does not accept the token that it has just issued. Its clock, its configuration or
    /// several instances with different keys are at fault.
    #[error("KBS refuses, right after attestation, its own token at {url}: {refusal}")]
    TokenRefused {
        /// What was asked for.
        url: String,
        /// Its answer.
        refusal: Refusal,
    },
    /// Any other answer than success, among them redirects, which are not followed.
    #[error("unexpected answer of the KBS at {url}: {refusal}")]
    Refused {
        /// What was asked for.
        url: String,
        /// Its answer.
        refusal: Refusal,
    },
    /// The content of the resource cannot be decrypted.
    #[error("resource cannot be decrypted: {url}")]
    Undecryptable {
        /// What was asked for.
        url: String,
        /// Why.
        #[source]
        source: JweError,
    },
    /// The answer is a success, yet not the message that belongs there.
    #[error("malformed answer at {url}: expected {expected}")]
    Malformed {
        /// What was asked for.
        url: String,
        /// The message that belongs there.
        expected: &'static str,
        /// What the parser found, where there is a parser.
        #[source]
        source: Option<Arc<serde_json::Error>>,
    },
    /// The answer is longer than allowed; reading stopped there.
    #[error("answer longer than {limit} bytes at {url}")]
    TooLarge {
        /// What was asked for.
        url: String,
        /// [`KbsConfig::max_response_bytes`](crate::KbsConfig::max_response_bytes).
        limit: usize,
    },
    /// The attester has no evidence; the guest or its host is at fault.
    #[error("no evidence from the attester")]
    Attester {
        /// Its own error.
        #[source]
        source: AttesterError,
    },
    /// What the guest was configured with is not what the hardware says. Nothing was sent.
    #[error(transparent)]
    InitData(#[from] InitDataError),
    /// The files that stand for a KBS are at fault, or lack the resource.
    #[error(transparent)]
    Offline(#[from] OfflineError),
    /// The ephemeral key cannot be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A message cannot be written as JSON, because of what the attester put into it.
    #[error("request to {url} cannot be written as JSON")]
    Unwritable {
        /// Where it was to be sent.
        url: String,
        /// Why.
        #[source]
        source: Arc<serde_json::Error>,
    },
}

impl Error {
    /// Whether the same request may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Attester { source, .. } => source.is_transient(),
            Self::Refused { refusal, .. } => matches!(refusal.status, 429 | 500..=599),
            _ => false,
        }
    }
}

/// Why a client cannot be made. The configuration is at fault.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The URL of the KBS has another scheme, no host, or parts that have no meaning in it.
    #[error("expected http://host or https://host as URL of the KBS, found {problem} in {url}")]
    Url {
        /// The URL, without user name and password.
        url: String,
        /// The part at fault.
        problem: &'static str,
    },
    /// The init-data is not readable.
    #[error(transparent)]
    InitData(#[from] InitDataError),
    /// A root certificate is not PEM, or none is in it.
    #[error("expected root certificates in PEM, found {problem}")]
    RootCertificates {
        /// What was found.
        problem: String,
    },
    /// The proxy's URL is not one.
    #[error("the proxy for the KBS is not usable: {reason}")]
    Proxy {
        /// Why.
        reason: String,
    },
    /// The TLS client cannot be set up; without root certificates of the system and without
    /// configured ones, nobody could be trusted.
    #[error("the HTTP client for the KBS cannot be set up: {reason}")]
    Client {
        /// The HTTP library's reason.
        reason: String,
    },
}

/// Which step towards the KBS did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unreachability {
    /// The host has no address.
    Dns,
    /// Nothing listens there.
    Refused,
    /// No connection, or no complete answer, within this time.
    Timeout(Duration),
    /// The connection broke before the answer was complete.
    Broken,
}

impl fmt::Display for Unreachability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns => formatter.write_str("its host has no address"),
            Self::Refused => formatter.write_str("connection refused"),
            Self::Timeout(after) => write!(formatter, "no answer within {after:?}"),
            Self::Broken => formatter.write_str("connection broke"),
        }
    }
}

/// An answer other than success, in the server's own words. Untrusted text: shortened, and without
/// control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// The machine-readable kind; empty if the body has none.
    pub kind: String,
    /// The text for people; empty if the body has none.
    pub detail: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "status {}", self.status)?;
        for (separator, text) in [(" ", &self.kind), (": ", &self.detail)] {
            if !text.is_empty() {
                write!(formatter, "{separator}{text}")?;
            }
        }
        Ok(())
    }
}

/// Text of somebody else, without control characters and not too long.
pub(crate) fn printable(text: &str) -> String {
    let visible = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(LONGEST_TEXT).map(visible).collect()
}

/// A parser's account without what it quotes: a token that came in another shape, or a secret that
/// came unsealed.
pub(crate) fn unquoted(source: serde_json::Error) -> serde_json::Error {
    let quotes_nothing = source.classify() != serde_json::error::Category::Data
        || source.to_string().starts_with("missing field");
    if quotes_nothing {
        return source;
    }
    let (line, column) = (source.line(), source.column());
    serde::de::Error::custom(format!(
        "a value that does not belong there, at line {line} column {column}"
    ))
}

const LONGEST_TEXT: usize = 300;

fn of(subject: Option<&str>) -> String {
    subject
        .map(|subject| format!(", certificate of {subject:?}"))
        .unwrap_or_default()
}

fn at(date: Option<&str>) -> String {
    date.map(|date| format!(" at {date}")).unwrap_or_default()
}
