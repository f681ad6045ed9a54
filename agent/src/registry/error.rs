//! What can go wrong between us and a registry.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use policy::Digest;
use reqwest::header::{HeaderMap, RETRY_AFTER};

use super::guard::Near;
use super::http::Answer;
use crate::printable;

/// What was asked for, and of whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The registry, `host[:port]`.
    pub host: String,
    /// The repository, tag and digest as the registry was asked for them.
    pub thing: String,
    /// The proxy on the way, its password masked.
    pub via: Option<String>,
}

impl Wanted {
    /// This thing, from this host.
    pub(crate) fn of(host: &str, thing: &str) -> Self {
        let (host, thing) = (host.to_owned(), thing.to_owned());
        let via = None;
        Self { host, thing, via }
    }

    /// The same through a proxy, if there is one.
    pub(crate) fn through(self, via: Option<String>) -> Self {
        Self { via, ..self }
    }

    /// The manifest `selector` (a tag or a digest) of a repository.
    pub(crate) fn manifest(host: &str, repository: &str, selector: &str) -> Self {
        Self::of(host, &format!("manifest {selector} of {repository}"))
    }

    /// The blob `digest` of a repository.
    pub(crate) fn blob(host: &str, repository: &str, digest: &str) -> Self {
        Self::of(host, &format!("blob {digest} of {repository}"))
    }

    /// The signatures that a registry itself keeps of the document `subject` of a repository.
    pub(crate) fn signatures(host: &str, repository: &str, subject: &Digest) -> Self {
        Self::of(host, &format!("signatures of {subject} of {repository}"))
    }

    /// A token for a repository.
    pub(crate) fn token(host: &str, repository: &str) -> Self {
        Self::of(host, &format!("a pull token for {repository}"))
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {}", self.thing, self.host)?;
        match &self.via {
            Some(proxy) => write!(f, " through the proxy {proxy}"),
            None => Ok(()),
        }
    }
}

/// A registry that could not or would not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The configuration cannot be turned into an HTTP client: a bad proxy or certificate.
    #[error("proxy or certificates of the registry client")]
    Client(#[source] reqwest::Error),

    /// `registries.conf` says `blocked` for this name.
    #[error("{name} is blocked by the registries configuration")]
    Blocked {
        /// The name that was asked for.
        name: String,
    },

    /// No connection: name resolution, refused, unreachable, TLS. The network's fault.
    #[error("{wanted}: no connection ({reason})")]
    Unreachable {
        /// What was asked for.
        wanted: Wanted,
        /// The innermost cause, as the system puts it.
        reason: String,
    },

    /// Nobody who is trusted vouches for who answered under this name, at this time. Whoever is
    /// there, or the configuration of authorities, is at fault; waiting does not help.
    #[error(
        "{wanted}: its certificate is not trusted ({reason}); an authority of its own is configured \
         as ca in [[image_agent.registry]] or in certs_d"
    )]
    NotTrusted {
        /// What was asked for.
        wanted: Wanted,
        /// What is wrong with the certificate.
        reason: String,
    },

    /// The connection broke, or the answer was not HTTP, after it had been established.
    #[error("{wanted}: the connection broke ({reason})")]
    Broken {
        /// What was asked for.
        wanted: Wanted,
        /// The innermost cause, as the system puts it.
        reason: String,
    },

    /// No byte came within the deadline.
    #[error("{wanted}: no answer within the deadline")]
    Stalled {
        /// What was asked for.
        wanted: Wanted,
    },

    /// The answer as a whole took longer than its deadline.
    #[error("{wanted}: the answer took longer than {seconds} s")]
    Deadline {
        /// What was asked for.
        wanted: Wanted,
        /// The deadline, in seconds.
        seconds: u64,
    },

    /// The registry has no such thing (404).
    #[error("{wanted}: not found")]
    NotFound {
        /// What was asked for.
        wanted: Wanted,
    },

    /// The registry wants other credentials than we have (401, 403).
    #[error(
        "{wanted}: access refused {account}, HTTP status {status}{}",
        said(message.as_deref())
    )]
    Refused {
        /// What was asked for.
        wanted: Wanted,
        /// The HTTP status.
        status: u16,
        /// Whose credentials they are that were refused, in words and without a secret.
        account: String,
        /// What the registry said, printable and short.
        message: Option<String>,
    },

    /// Any other status than success.
    #[error("{wanted}: HTTP status {status}{}", said(message.as_deref()))]
    Status {
        /// What was asked for.
        wanted: Wanted,
        /// The HTTP status.
        status: u16,
        /// What the registry said, printable and short.
        message: Option<String>,
        /// How long the registry wants to be left alone.
        retry_after: Option<Duration>,
    },

    /// The registry answers a request for the rest of a blob with some other part of it.
    #[error("{wanted}: asked for the bytes from {offset} to the end at {size}, got others")]
    WrongRange {
        /// What was asked for.
        wanted: Wanted,
        /// The first byte asked for, from 0.
        offset: u64,
        /// The blob's size, in bytes.
        size: u64,
    },

    /// The same thing was asked for again and again.
    #[error("{last}, after {attempts} attempts")]
    GivenUp {
        /// How often in a row it failed.
        attempts: u32,
        /// Why the last time.
        last: Box<RegistryError>,
    },

    /// The answer is larger than its cap.
    #[error("{wanted}: larger than the limit of {limit} bytes")]
    TooLarge {
        /// What was asked for.
        wanted: Wanted,
        /// The cap, in bytes.
        limit: usize,
    },

    /// The registry announces another length than the descriptor has.
    #[error("{wanted}: expected {expected} bytes, found {found}")]
    WrongSize {
        /// What was asked for.
        wanted: Wanted,
        /// Size in the descriptor, in bytes.
        expected: u64,
        /// Size found, in bytes.
        found: u64,
    },

    /// A small blob (config, signature) is not what its descriptor says.
    #[error("{wanted}: expected {expected}, found {found}")]
    WrongDigest {
        /// What was asked for.
        wanted: Wanted,
        /// The digest in the descriptor.
        expected: String,
        /// The digest of the bytes received.
        found: String,
    },

    /// A redirect that we do not follow.
    #[error("{wanted}: redirect refused: {reason}")]
    BadRedirect {
        /// What was asked for.
        wanted: Wanted,
        /// Why it is not followed.
        reason: &'static str,
    },

    /// A redirect, or a token realm, whose name leads into the guest.
    #[error("{wanted}: {reason}")]
    LeadsInside {
        /// What was asked for.
        wanted: Wanted,
        /// The name, and where it leads.
        reason: String,
    },

    /// One redirect after another.
    #[error("{wanted}: more than {limit} redirects")]
    TooManyRedirects {
        /// What was asked for.
        wanted: Wanted,
        /// How many are followed.
        limit: usize,
    },

    /// The registry asks for an authentication that we cannot give.
    #[error("{wanted}: HTTP status 401, cannot authenticate: {reason}")]
    Challenge {
        /// What was asked for.
        wanted: Wanted,
        /// What is wrong with the challenge or with the token server's answer.
        reason: &'static str,
    },
}

impl RegistryError {
    /// Whether the same request may succeed later without anybody changing anything.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::Stalled { .. }
            | Self::Deadline { .. } => true,
            Self::Status { status, .. } => is_overload(*status),
            Self::GivenUp { last, .. } => last.is_transient(),
            _ => false,
        }
    }

    /// How long the registry wants to be left alone.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the registry wants other credentials.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::Refused { .. } => true,
            Self::GivenUp { last, .. } => last.is_refusal(),
            _ => false,
        }
    }

    /// Whether who answered plain http so may speak TLS instead.
    pub(crate) fn may_speak_tls(&self) -> bool {
        match self {
            Self::Status { status: 400, .. } | Self::Broken { .. } => true,
            Self::Unreachable { wanted, .. } => !wanted.host.contains(':'),
            Self::GivenUp { last, .. } => last.may_speak_tls(),
            _ => false,
        }
    }

    /// This, said of the credentials that were used.
    pub(crate) fn with_account(mut self, origin: &str) -> Self {
        if let Self::Refused { account, .. } = &mut self
            && !origin.is_empty()
        {
            origin.clone_into(account);
        }
        self
    }

    /// This as the last of so many failures in a row.
    pub(crate) fn after(self, attempts: u32) -> Self {
        match attempts {
            0 | 1 => self,
            _ => Self::GivenUp {
                attempts,
                last: Box::new(self),
            },
        }
    }

    /// Sorts a failure of the HTTP client by what it means to the reader.
    pub(crate) fn transport(wanted: &Wanted, source: &reqwest::Error) -> Self {
        let wanted = wanted.clone();
        let rejected = causes(source).find_map(|cause| cause.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::InvalidCertificate(fault)) = rejected {
            let reason = fault.to_string();
            return Self::NotTrusted { wanted, reason };
        }
        if let Some(near) = causes(source).find_map(|cause| cause.downcast_ref::<Near>()) {
            let reason = near.to_string();
            return Self::LeadsInside { wanted, reason };
        }
        if source.is_connect() {
            let reason = if source.is_timeout() {
                "no connection within the deadline".to_owned()
            } else {
                innermost(source)
            };
            return Self::Unreachable { wanted, reason };
        }
        if source.is_timeout() {
            return Self::Stalled { wanted };
        }
        let reason = innermost(source);
        Self::Broken { wanted, reason }
    }

    /// An answer that is not what was asked for.
    pub(crate) fn refusal(wanted: &Wanted, answer: &Answer) -> Self {
        let mut error = Self::status(wanted, answer.status.as_u16(), &answer.body);
        if let Self::Status { retry_after, .. } = &mut error {
            *retry_after = seconds_to_wait(&answer.headers);
        }
        error
    }

    /// An answer with a status other than success.
    pub(crate) fn status(wanted: &Wanted, status: u16, body: &[u8]) -> Self {
        let wanted = wanted.clone();
        let message = message_in(body);
        match status {
            404 => Self::NotFound { wanted },
            401 | 403 => Self::Refused {
                wanted,
                status,
                account: "without credentials".to_owned(),
                message,
            },
            _ => Self::Status {
                wanted,
                status,
                message,
                retry_after: None,
            },
        }
    }
}

/// Whether a status says that the same request may have another answer later: not one that says
/// that the server cannot do what it was asked.
pub(super) fn is_overload(status: u16) -> bool {
    matches!(status, 429 | 500..) && !matches!(status, 501 | 505)
}

/// `Retry-After` in seconds (RFC 9110 section 10.2.3). A date is left aside: the guest's clock is
/// the host's.
fn seconds_to_wait(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

/// The last cause in a chain: the one that names DNS or the socket.
fn innermost(error: &reqwest::Error) -> String {
    let text = causes(error)
        .last()
        .map_or_else(String::new, ToString::to_string);
    // What rustls says to an answer in plain http; the type is buried in the client's error.
    if text.contains("InvalidContentType") {
        return "it does not speak TLS; where plain http is meant, set insecure = true for it in \
                [[image.registry_config.registry]]"
            .to_owned();
    }
    // A part of it may be the server's own words.
    printable::said(&text, MAX_MESSAGE).unwrap_or_default()
}

/// An error and what lies beneath it, outermost first. What an [`io::Error`] wraps is not among its
/// sources, and is visited too.
fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| beneath(*error))
}

fn beneath<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    let io = error.downcast_ref::<io::Error>();
    match io.and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

/// What a registry says of its error.
fn message_in(body: &[u8]) -> Option<String> {
    printable::said(&String::from_utf8_lossy(body), MAX_MESSAGE)
}

fn said(message: Option<&str>) -> String {
    message.map_or_else(String::new, |text| format!(", the registry says: {text}"))
}

const MAX_MESSAGE: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_of_a_registry_is_one_short_printable_line() {
        let body = format!("\u{1b}[31mno\r\nway{}", "x".repeat(1000));
        let text = message_in(body.as_bytes()).unwrap();
        assert!(text.starts_with(" [31mno  way"), "{text}");
        assert!(text.len() <= MAX_MESSAGE + "...".len());
        assert_eq!(message_in(b" \n"), None);
    }

    #[test]
    fn what_a_server_cannot_do_is_not_asked_of_it_again() {
        let wanted = Wanted::manifest("registry.example", "app", "1");
        for (status, is_transient) in [
            (429, true),
            (500, true),
            (501, false),
            (503, true),
            (505, false),
        ] {
            let error = RegistryError::status(&wanted, status, b"");
            assert_eq!(error.is_transient(), is_transient, "{status}");
        }
    }

    #[test]
    fn status_is_sorted_by_meaning() {
        let wanted = Wanted::manifest("registry.example", "app", "1");
        assert!(matches!(
            RegistryError::status(&wanted, 404, b""),
            RegistryError::NotFound { .. }
        ));
        assert!(matches!(
            RegistryError::status(&wanted, 403, b"{}"),
            RegistryError::Refused { status: 403, .. }
        ));
        assert!(matches!(
            RegistryError::status(&wanted, 503, b""),
            RegistryError::Status {
                status: 503,
                message: None,
                ..
            }
        ));
    }
}
