//! The configuration: today's `cdh.toml`, environment and kernel command line, and a table of ours.
//!
//! What leaves this module is parsed: every value is legal, every default is filled in, and what
//! was misspelled has been refused by name. Nothing here does I/O but [`Config::load`], which
//! reads the file, and [`Environment::from_process`].

mod document;
mod downloads;
mod effective;
mod environment;
mod error;
mod evidence;
mod kbs;
mod limits;
mod nearest;
mod read;
mod registry;
mod store;
#[cfg(test)]
mod tests;
mod value;
mod warning;

use std::fmt;
use std::io::Read as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kbs_client::KbsConfig;
use policy::Platform;
use url::Url;

use crate::registries::Registries;
use crate::registry::{Route, Throttle};

pub use self::downloads::DownloadSettings;
pub use self::environment::Environment;
pub use self::error::{ConfigError, Fault, Origin, Position};
pub use self::evidence::{EvidenceLimits, EvidencePlaces};
pub use self::kbs::KbsSettings;
pub use self::registry::RegistrySettings;
pub use self::store::StoreSettings;
pub use self::warning::Warning;

pub(crate) use self::document::{Document, Found, Section};
pub(crate) use self::value::{credential_helper, word};

/// The effective configuration: parsed, every value legal.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the daemon listens.
    pub socket: PathBuf,
    /// Where resources come from.
    pub kbc: Kbc,
    /// Where the attestation agent listens.
    pub aa_socket: PathBuf,
    /// Resources that are written to files after the start.
    pub credentials: Vec<Credential>,
    /// How images are pulled.
    pub image: Image,
    /// A level, or a list of `target=level`.
    pub log_level: String,
    /// What is ours alone: the table `[image_agent]`.
    pub image_agent: Own,
}

/// Where resources come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kbc {
    /// `cc_kbc`: a Key Broker Service, by attested requests.
    Kbs {
        /// Its address, http or https.
        url: Url,
        /// Certificates in PEM; the system's when absent.
        certificates: Option<String>,
    },
    /// `offline_fs_kbc`: files of the guest.
    OfflineFs {
        /// Files besides the two that have a fixed place.
        extra_files: Vec<PathBuf>,
    },
}

/// A resource that is written to a file beneath [`CREDENTIALS_FOLDER`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    resource_uri: String,
    path: PathBuf,
}

/// How images are pulled.
#[derive(Debug, Clone)]
pub struct Image {
    /// Where layers and overlays are kept.
    pub work_dir: PathBuf,
    /// Which images may run.
    pub policy: PolicySource,
    /// Where the signatures of simple signing are.
    pub sigstore_config: Option<Source>,
    /// Location of an auth.json.
    pub registry_credentials: Option<String>,
    /// Whether a registry that refuses these is asked once more without.
    pub anonymous_fallback: bool,
    /// What to know about registries, as far as the configuration itself says it.
    pub registries: Registries,
    /// Location of a registries.conf, if there is no table of that kind in the configuration.
    pub registry_configuration: Option<String>,
    /// How many layers of one image are fetched at the same time; when it is not said, as many as
    /// their sizes allow.
    pub max_concurrent_layer_downloads: Option<NonZeroUsize>,
    /// The proxy on the way to registries.
    pub proxy: Proxy,
    /// Certificates in PEM that are trusted for registries besides the system's.
    pub extra_root_certificates: Vec<String>,
}

/// Which images may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicySource {
    /// The policy is at this location.
    Uri(String),
    /// The policy is this text.
    Inline(String),
    /// There is no policy, so none may.
    NotConfigured {
        /// How to configure one.
        hint: String,
    },
}

/// A document that is named or written out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// It is at this location.
    Uri(String),
    /// It is this text.
    Inline(String),
}

/// The proxy on the way to registries. Its passwords do not print.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxy {
    https: Option<Url>,
    http: Option<Url>,
    exceptions: Option<String>,
}

/// What is ours alone: the table `[image_agent]`.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a key of its own in the configuration"
)]
#[derive(Debug, Clone)]
pub struct Own {
    /// Who attests to the Key Broker Service; found out when it is not said.
    pub attester: Option<AttesterName>,
    /// How it is asked.
    pub kbs: KbsSettings,
    /// Refuse a Key Broker Service whose answers can be forged on the way.
    pub require_authenticated_kbs: bool,
    /// Relay every detail of an error to the caller, who is outside of the guest.
    pub verbose_errors: bool,
    /// Refuse a bundle, which names no repository, unless the policy asks for its digest alone.
    pub strict_identity: bool,
    /// Keep layers also where the host can change them after they were proved.
    pub danger_host_writable_store: bool,
    /// What a layer may cost.
    pub limits: rootfs::Limits,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// What is asked of registries, and how hard.
    pub downloads: DownloadSettings,
    /// How layers are got and kept.
    pub store: StoreSettings,
    /// The platform whose image is chosen from an index, where it is not the one that this program
    /// was built for.
    pub platform: Option<Platform>,
    /// The folders that may have certificates for a registry, the first that has any counts.
    pub certs_d: Vec<PathBuf>,
    /// The programs `docker-credential-NAME` that may be run for credentials, by these names.
    pub credential_helpers: Vec<String>,
    /// What single registries have of their own.
    pub registries: Vec<RegistrySettings>,
    /// Where evidence about images is looked for, and how much of it is read.
    pub evidence: EvidencePlaces,
}

impl Default for Own {
    fn default() -> Self {
        Self {
            attester: None,
            kbs: KbsSettings::default(),
            require_authenticated_kbs: false,
            verbose_errors: false,
            strict_identity: false,
            danger_host_writable_store: false,
            limits: rootfs::Limits::default(),
            timeouts: Timeouts::default(),
            downloads: DownloadSettings::default(),
            store: StoreSettings::default(),
            evidence: EvidencePlaces::default(),
            platform: None,
            certs_d: CERTS_D.into_iter().map(PathBuf::from).collect(),
            credential_helpers: Vec::new(),
            registries: Vec::new(),
        }
    }
}

/// Where containers-certs.d(5) has certificates for registries.
const CERTS_D: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];

/// Who attests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttesterName {
    /// Evidence of the sample kind, which proves nothing.
    Sample,
    /// Intel TDX, through the kernel.
    Tdx,
    /// AMD SEV-SNP, through the kernel.
    Snp,
    /// The attestation agent of the guest, whatever its evidence.
    AttestationAgent,
    /// The attestation agent of the guest, which does the handshake with the service, too.
    AttestationAgentToken,
}

impl AttesterName {
    const ALL: [Self; 5] = [
        Self::Sample,
        Self::Tdx,
        Self::Snp,
        Self::AttestationAgent,
        Self::AttestationAgentToken,
    ];
    /// In the same order.
    pub(crate) const NAMES: [&str; 5] = [
        "sample",
        "tdx",
        "snp",
        "attestation-agent",
        "attestation-agent-token",
    ];

    /// Each with the name that a configuration has for it.
    pub(crate) fn named() -> impl Iterator<Item = (&'static str, Self)> {
        Self::NAMES.into_iter().zip(Self::ALL)
    }
}

/// How long things may take on the way to a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection. Default 10 s.
    pub connect: Duration,
    /// For the next byte. Default 30 s.
    pub idle: Duration,
    /// For a whole pull. Default 1,200 s, as kata-agent waits.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            total: Duration::from_mins(20),
        }
    }
}

/// The only folder that `[[credentials]]` are written to.
pub const CREDENTIALS_FOLDER: &str = "/run/confidential-containers/cdh/kbs";

impl Config {
    /// The configuration in the file at `path`, and what `environment` adds to it; without a file,
    /// `environment` alone.
    pub fn load(
        path: Option<&Path>,
        environment: &Environment,
    ) -> Result<(Self, Vec<Warning>), ConfigError> {
        match path {
            None => Self::parse("", environment),
            Some(path) => Self::parse(&read_text(path)?, environment),
        }
    }

    /// The configuration in the `text` of a file, and what `environment` adds to it.
    pub fn parse(
        text: &str,
        environment: &Environment,
    ) -> Result<(Self, Vec<Warning>), ConfigError> {
        read::read(&Document::parse(text)?, environment)
    }

    /// Where to listen when the rest of the configuration is broken, so that callers can be told:
    /// the socket that the file names as far as it can be read, or else the usual one.
    pub fn socket_of_broken(path: Option<&Path>) -> PathBuf {
        let text = path
            .and_then(|path| read_text(path).ok())
            .unwrap_or_default();
        let (table, _errors) = toml::de::DeTable::parse_recoverable(&text);
        let named = table
            .get_ref()
            .get("socket")
            .and_then(|value| value.get_ref().as_str());
        named
            .and_then(|text| value::socket(text).ok())
            .unwrap_or_else(|| PathBuf::from(read::SOCKET))
    }

    /// The whole configuration as a file would have to say it, secrets masked.
    pub fn effective_toml(&self) -> String {
        effective::print(self)
    }

    /// How registries are reached.
    pub(crate) fn route(&self) -> Route {
        // The HTTP client takes the word for all hosts to mean names, and not addresses, too.
        let is_for_all = |list: &String| list.split(',').any(|item| item.trim() == "*");
        let exceptions = self.image.proxy.exceptions.as_ref();
        let proxy = if exceptions.is_some_and(is_for_all) {
            &Proxy::default()
        } else {
            &self.image.proxy
        };
        Route {
            https_proxy: proxy.https.as_ref().map(Url::to_string),
            http_proxy: proxy.http.as_ref().map(Url::to_string),
            no_proxy: proxy.exceptions.clone(),
            extra_root_certificates: self.image.extra_root_certificates.clone(),
            timeouts: self.image_agent.timeouts,
            attempts: self.image_agent.downloads.attempts,
            throttle: Arc::new(Throttle::new(self.image_agent.downloads.bytes_per_second)),
        }
    }
}

impl Kbc {
    /// Whether what comes from there is known to come from there: https, loopback or own files.
    pub fn is_authenticated(&self) -> bool {
        match self {
            Self::OfflineFs { .. } => true,
            Self::Kbs { url, .. } => KbsConfig::new(url.clone()).is_authenticated(),
        }
    }
}

impl Credential {
    /// The resource, `kbs:///repository/type/tag`.
    pub fn resource_uri(&self) -> &str {
        &self.resource_uri
    }

    /// The file beneath [`CREDENTIALS_FOLDER`]: relative, without `.` or `..`.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// User names and passwords are masked.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("https", &self.https.as_ref().map(masked))
            .field("http", &self.http.as_ref().map(masked))
            .field("exceptions", &self.exceptions)
            .finish()
    }
}

/// A URL without its user name and password.
pub(crate) fn masked(url: &Url) -> String {
    let text = url.as_str();
    match text
        .split_once("://")
        .and_then(|(scheme, rest)| Some((scheme, rest.split_once('@')?)))
    {
        Some((scheme, (_, rest))) if !url.username().is_empty() || url.password().is_some() => {
            format!("{scheme}://masked@{rest}")
        }
        _ => text.to_owned(),
    }
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let limit = u64::try_from(MAX_FILE).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() > MAX_FILE {
        return Err(ConfigError::TooLarge {
            path: path.to_owned(),
            limit: MAX_FILE,
        });
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error
            .as_bytes()
            .iter()
            .take(error.utf8_error().valid_up_to());
        let line = valid
            .filter(|byte| **byte == b'\n')
            .count()
            .saturating_add(1);
        ConfigError::NotUtf8 { line }
    })
}

/// Certificates and an inline policy included, a configuration is a few KiB.
const MAX_FILE: usize = 4 << 20;
