//! Where the KBS is and how long to wait for it.

use std::fmt;
use std::time::Duration;

use url::{Host, Url};

use crate::key::TeeKeyAlgorithm;

/// How a [`KbsClient`](crate::KbsClient) reaches its KBS. Nothing else is consulted: no environment
/// variable, no file.
#[derive(Clone)]
#[non_exhaustive]
pub struct KbsConfig {
    /// Base address, `http` or `https`, with a path if the KBS sits behind one.
    pub url: Url,
    /// Certificates in PEM, one or several in each item. When any is given, the KBS is trusted
    /// through these alone; when none is, through the system's.
    pub root_certificates: Vec<Vec<u8>>,
    /// Proxy on the way; none when absent, whatever the environment says.
    pub proxy: Option<Url>,
    /// Key that secrets are encrypted to.
    pub tee_key: TeeKeyAlgorithm,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Longest answer that is read, in bytes, against an endless one. Default 2 MiB, as much as the
    /// server itself takes.
    pub max_response_bytes: usize,
    /// Value of the `User-Agent` header.
    pub user_agent: String,
}

impl KbsConfig {
    /// A KBS at this address, with defaults for the rest.
    pub fn new(url: Url) -> Self {
        Self {
            url,
            root_certificates: Vec::new(),
            proxy: None,
            tee_key: TeeKeyAlgorithm::default(),
            timeouts: Timeouts::default(),
            max_response_bytes: 2 * 1024 * 1024,
            user_agent: concat!("kbs-client/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }

    /// Whether nobody but the KBS can answer: by TLS, or because there is no network in between.
    pub fn is_authenticated(&self) -> bool {
        self.url.scheme() == "https" || (is_loopback(&self.url) && self.proxy.is_none())
    }
}

/// The name `localhost` is resolved without asking anybody.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// User names and passwords within URLs are masked.
impl fmt::Debug for KbsConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("KbsConfig")
            .field("url", &without_user(&self.url))
            .field("root_certificates", &self.root_certificates.len())
            .field("proxy", &self.proxy.as_ref().map(without_user))
            .field("tee_key", &self.tee_key)
            .field("timeouts", &self.timeouts)
            .field("max_response_bytes", &self.max_response_bytes)
            .field("user_agent", &self.user_agent)
            .finish()
    }
}

/// How long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, with its TLS handshake. Default 10 s.
    pub connect: Duration,
    /// For one exchange from first attempt to last byte, retries included. Default 60 s.
    pub total: Duration,
    /// How long a connection that fails is tried anew, within `total`. Default 5 s; zero for a
    /// single attempt.
    pub retry: Duration,
    /// For the attester to produce evidence. Default 60 s, as a quote may take 30.
    pub evidence: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            total: Duration::from_mins(1),
            retry: Duration::from_secs(5),
            evidence: Duration::from_mins(1),
        }
    }
}

/// The URL in a form that may be printed.
pub(crate) fn without_user(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    format!(
        "{}://{host}{port}{}",
        url.scheme(),
        url.path().trim_end_matches('/')
    )
}
