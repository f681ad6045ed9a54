//! Where the KBS is and how long to wait for it.

use std::fmt;
use std::time::{Duration, SystemTime};

use url::{Host, Url};

use crate::init_data::InitData;
use crate::key::TeeKeyAlgorithm;

/// How a [`KbsClient`](crate::KbsClient) reaches its KBS. Nothing else is consulted: no environment
/// variable, no file.
#[derive(Clone)]
#[non_exhaustive]
pub struct KbsConfig {
    /// Base address, `http` or `https`, with a path if the KBS sits behind one.
    pub url: Url,
    /// Certificates in PEM, one or several in each item, that the KBS is trusted through.
    pub root_certificates: Vec<Vec<u8>>,
    /// What is trusted besides.
    pub trust: Trust,
    /// Proxy on the way; none when absent, whatever the environment says.
    pub proxy: Option<Url>,
    /// Key that secrets are encrypted to.
    pub tee_key: TeeKeyAlgorithm,
    /// What goes with requests on an attested session.
    pub proof: SessionProof,
    /// What the guest was configured with from outside, if anything: sent with the evidence, and
    /// checked against it.
    pub init_data: Option<InitData>,
    /// How long what was fetched may serve again. By default it does not.
    pub freshness: Freshness,
    /// A moment that has certainly been, such as the time when the program was built: the clock,
    /// which is the host's, counts as no earlier. Default 1970.
    pub not_before: SystemTime,
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
            trust: Trust::default(),
            proxy: None,
            tee_key: TeeKeyAlgorithm::default(),
            proof: SessionProof::default(),
            init_data: None,
            freshness: Freshness::default(),
            not_before: SystemTime::UNIX_EPOCH,
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
            .field("trust", &self.trust)
            .field("proof", &self.proof)
            .field("init_data", &self.init_data.is_some())
            .field("freshness", &self.freshness)
            .field("not_before", &self.not_before)
            .field("timeouts", &self.timeouts)
            .field("max_response_bytes", &self.max_response_bytes)
            .field("user_agent", &self.user_agent)
            .finish()
    }
}

/// Through which certificates the KBS is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trust {
    /// Those of the configuration alone; the system's when there are none in it.
    #[default]
    Pinned,
    /// Those of the configuration and the system's.
    Added,
}

/// What goes with requests on an attested session. The KBS accepts either; neither opens a resource
/// without the private key, which stays here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SessionProof {
    /// The cookie of the session. It ends with the session or the token, whichever is first.
    #[default]
    Cookie,
    /// The token. It outlives the session, and a KBS that forgets its sessions; one with evidence of
    /// many devices may be longer than a server takes in a header.
    Bearer,
}

/// How long what was fetched may serve again, from the moment it was asked for. It is kept in memory
/// only, and wiped when the next resource is fetched after that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Freshness {
    /// Without asking the KBS. Zero, the default: it is asked each time.
    pub ttl: Duration,
    /// When the KBS cannot be reached. Zero, the default: not at all. A refusal by the KBS is an
    /// answer, which nothing replaces.
    pub stale: Duration,
}

/// How long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, with its TLS handshake. Default 10 s.
    pub connect: Duration,
    /// For one exchange from first attempt to last byte, retries included. Default 60 s.
    pub total: Duration,
    /// How long a connection that fails, or a gateway that answers 429, 502, 503 or 504, is tried
    /// anew, within `total`. Default 5 s; zero for a single attempt.
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
