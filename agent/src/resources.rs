//! Resources: the owner's policy, keys and credentials, by URI.
//!
//! `kbs://` comes from the Key Broker Service by attested requests, `file://` and bare paths from
//! the guest's own measured files. Nothing is kept on disk, and nothing is kept in memory either:
//! every pull asks again, so that a rotated policy or key takes effect with the next pull, unless
//! the configuration gives it time; then `SIGHUP` ends that time.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kbs_client::{
    AttestationAgent, DetectedAttester, InitData, InitDataError, KbsClient, KbsConfig,
    OfflineError, OfflineFs, ResourceUri, SampleAttester, Secret, TsmAttester, TsmProvider,
    TsmSettings,
};
use policy::Digest;
use url::Url;
use zeroize::Zeroizing;

use crate::blocking::blocking;
use crate::config::{AttesterName, Config, Kbc, Own, PolicySource};

/// Where resources come from, for the life of the process.
#[derive(Debug)]
pub(crate) struct Resources {
    kbs: Kbs,
    /// Location of the policy, and the only ones that it may be.
    accepted: Option<(String, Vec<Digest>)>,
    keeps: bool,
}

#[derive(Debug)]
enum Kbs {
    Remote(KbsClient),
    Offline(Vec<PathBuf>),
}

/// A resource that could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResourceError {
    /// The location is none that we can read: the owner's or the guest builder's typo.
    #[error("{location}: not a kbs:///, file:/// or absolute path")]
    Location {
        /// The location as it was written.
        location: String,
    },

    /// The `kbs://` URI is malformed.
    #[error("{location}")]
    Uri {
        /// The location as it was written.
        location: String,
        /// What is wrong with it.
        source: kbs_client::UriError,
    },

    /// The policy is none of those that the measured configuration accepts: an old one, or one
    /// that it has not been told of yet.
    #[error("{location}: {found} is not in image_agent.kbs.accepted_policies")]
    NotAccepted {
        /// The location as it was written.
        location: String,
        /// The digest of what was fetched.
        found: Digest,
    },

    /// The Key Broker Service refused or could not be asked.
    #[error("{location}")]
    Kbs {
        /// The location as it was written.
        location: String,
        /// The client's account.
        source: Box<kbs_client::Error>,
    },

    /// A file that cannot be read.
    #[error("{path}")]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The system's account.
        source: std::io::Error,
    },

    /// A resource beyond the cap.
    #[error("{location}: larger than the limit of {limit} bytes")]
    TooLarge {
        /// The location as it was written.
        location: String,
        /// The cap, in bytes.
        limit: usize,
    },
}

impl ResourceError {
    /// Whether the same request may succeed later without anybody changing anything.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Kbs { source, .. } if source.is_transient())
    }

    /// Whether whoever was asked has said that there is no such resource.
    pub(crate) fn is_absent(&self) -> bool {
        match self {
            Self::Kbs { source, .. } => matches!(
                **source,
                kbs_client::Error::NotFound { .. }
                    | kbs_client::Error::Offline(OfflineError::NotFound { .. })
            ),
            Self::File { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

impl Resources {
    /// Resources as `config` says; nothing is connected or read yet.
    pub(crate) fn new(config: &Config) -> Result<Self, kbs_client::ConfigError> {
        let kbs = match &config.kbc {
            Kbc::OfflineFs { extra_files } => {
                let usual = OfflineFs::DEFAULT_FILES.iter().map(PathBuf::from);
                Kbs::Offline(usual.chain(extra_files.iter().cloned()).collect())
            }
            Kbc::Kbs { url, certificates } => {
                let settings = settings(url, certificates.as_deref(), &config.image_agent)?;
                Kbs::Remote(client(settings, config)?)
            }
        };
        let accepted = config.image_agent.kbs.accepted_policies.clone();
        let accepted = match &config.image.policy {
            PolicySource::Uri(location) if !accepted.is_empty() => {
                Some((location.clone(), accepted))
            }
            _ => None,
        };
        let freshness = config.image_agent.kbs.freshness;
        let keeps = !freshness.ttl.is_zero() || !freshness.stale.is_zero();
        Ok(Self {
            kbs,
            accepted,
            keeps,
        })
    }

    /// The client of the Key Broker Service, unless files stand for it.
    pub(crate) fn client(&self) -> Option<&KbsClient> {
        match &self.kbs {
            Kbs::Remote(client) => Some(client),
            Kbs::Offline(_) => None,
        }
    }

    /// Forgets what was fetched, so that what was rotated takes effect with the next pull.
    pub(crate) fn forget(&self) {
        if let Some(client) = self.client() {
            client.forget_resources();
        }
    }

    /// Forgets one resource, so that it is fetched anew. Whether it may have been a kept one.
    pub(crate) fn forget_one(&self, location: &str) -> bool {
        let (Some(client), Ok(Location::Kbs(uri))) = (self.client(), Location::parse(location))
        else {
            return false;
        };
        client.forget_resource(&uri);
        self.keeps
    }

    /// What time it is at least: the host can set our clock back, but not before our own making,
    /// nor before what an authenticated Key Broker Service has said.
    pub(crate) fn now(&self) -> SystemTime {
        let clock = SystemTime::now().max(made());
        self.client().map_or(clock, KbsClient::now)
    }

    /// Whether what comes from the Key Broker Service is known to come from it. Over plain http
    /// (loopback apart) it is whatever the host says; see `SECURITY.md`.
    pub(crate) fn kbs_authenticated(&self) -> bool {
        match &self.kbs {
            Kbs::Remote(client) => client.authenticated(),
            Kbs::Offline(_) => true,
        }
    }

    /// The resource at `location`: `kbs:///repository/type/tag`, `file:///path` or `/path`.
    pub(crate) async fn fetch(&self, location: &str) -> Result<Secret, ResourceError> {
        let secret = match Location::parse(location)? {
            Location::Kbs(uri) => self.fetch_kbs(location, &uri).await,
            Location::File(path) => read_file(location, path).await,
        }?;
        self.check_accepted(location, &secret)?;
        Ok(secret)
    }

    fn check_accepted(&self, location: &str, content: &Secret) -> Result<(), ResourceError> {
        let Some((policy, accepted)) = &self.accepted else {
            return Ok(());
        };
        let content = content.expose();
        if location != policy || accepted.iter().any(|digest| digest.matches(content)) {
            return Ok(());
        }
        Err(ResourceError::NotAccepted {
            location: location.to_owned(),
            found: Digest::sha256_of(content),
        })
    }

    async fn fetch_kbs(&self, location: &str, uri: &ResourceUri) -> Result<Secret, ResourceError> {
        let answer = match &self.kbs {
            Kbs::Remote(client) => client.resource(uri).await,
            Kbs::Offline(files) => offline(files.clone(), uri.clone()).await,
        };
        answer.map_err(|source| ResourceError::Kbs {
            location: location.to_owned(),
            source: Box::new(source),
        })
    }
}

/// How the service at `url` is reached.
fn settings(
    url: &Url,
    certificates: Option<&str>,
    own: &Own,
) -> Result<KbsConfig, kbs_client::ConfigError> {
    let kbs = &own.kbs;
    let mut settings = KbsConfig::new(url.clone());
    let roots = certificates.map(|pem| pem.as_bytes().to_vec());
    settings.root_certificates.extend(roots);
    settings.trust = kbs.trust;
    settings.proof = kbs.proof;
    settings.tee_key = kbs.tee_key;
    settings.freshness = kbs.freshness;
    settings.timeouts = kbs.timeouts;
    settings.proxy.clone_from(&kbs.proxy);
    settings.max_response_bytes = kbs
        .max_response_bytes
        .unwrap_or(settings.max_response_bytes);
    settings.not_before = made();
    settings.init_data = match &kbs.init_data {
        None => InitData::read(Path::new(InitData::DEFAULT_FILE))?,
        Some(file) => Some(InitData::read(file)?.ok_or_else(|| InitDataError::missing(file))?),
    };
    Ok(settings)
}

fn client(settings: KbsConfig, config: &Config) -> Result<KbsClient, kbs_client::ConfigError> {
    let own = &config.image_agent;
    let agent = AttestationAgent::new(&config.aa_socket);
    let kernel = |provider| {
        let mut settings = TsmSettings::default();
        settings.provider = provider;
        if let Some(folder) = &own.kbs.configfs_tsm {
            settings.folder.clone_from(folder);
        }
        TsmAttester::new(settings)
    };
    match own.attester {
        None => {
            let detected = DetectedAttester::new(agent, kernel(None));
            KbsClient::new(settings, Arc::new(detected))
        }
        Some(AttesterName::Sample) => KbsClient::new(settings, Arc::new(SampleAttester)),
        Some(AttesterName::Tdx) => {
            KbsClient::new(settings, Arc::new(kernel(Some(TsmProvider::Tdx))))
        }
        Some(AttesterName::Snp) => {
            KbsClient::new(settings, Arc::new(kernel(Some(TsmProvider::Snp))))
        }
        Some(AttesterName::AttestationAgent) => KbsClient::new(settings, Arc::new(agent)),
        Some(AttesterName::AttestationAgentToken) => KbsClient::with_agent_tokens(settings, agent),
    }
}

/// When this program was made, if its builder has said so (`SOURCE_DATE_EPOCH`), else when its
/// source was: it cannot be earlier now.
fn made() -> SystemTime {
    let said = option_env!("SOURCE_DATE_EPOCH").and_then(|seconds| seconds.parse().ok());
    SystemTime::UNIX_EPOCH + Duration::from_secs(said.unwrap_or(SOURCE_DATE))
}

/// 2026-11-22.
const SOURCE_DATE: u64 = 1_795_305_600;

/// The files are read anew each time: what a guest builder changes takes effect at once.
async fn offline(files: Vec<PathBuf>, uri: ResourceUri) -> Result<Secret, kbs_client::Error> {
    blocking(move || Ok(OfflineFs::open(files)?.resource(&uri)?)).await
}

enum Location {
    Kbs(ResourceUri),
    File(PathBuf),
}

impl Location {
    fn parse(location: &str) -> Result<Self, ResourceError> {
        if location.starts_with("kbs:") || location.starts_with("kbs+") {
            return location
                .parse()
                .map(Self::Kbs)
                .map_err(|source| ResourceError::Uri {
                    location: location.to_owned(),
                    source,
                });
        }
        let path = Path::new(location.strip_prefix("file://").unwrap_or(location));
        if path.is_absolute() {
            return Ok(Self::File(path.to_owned()));
        }
        Err(ResourceError::Location {
            location: location.to_owned(),
        })
    }
}

/// Reads a file of the guest, off the async threads, at most [`MAX_RESOURCE`] bytes of it.
async fn read_file(location: &str, path: PathBuf) -> Result<Secret, ResourceError> {
    let shown = path.clone();
    let reading = blocking(move || read_capped(&path, MAX_RESOURCE));
    let bytes = reading.await.map_err(|source| ResourceError::File {
        path: shown,
        source,
    })?;
    if bytes.len() > MAX_RESOURCE {
        let location = location.to_owned();
        return Err(ResourceError::TooLarge {
            location,
            limit: MAX_RESOURCE,
        });
    }
    Ok(Secret::new(bytes))
}

/// Reads a regular file; one byte more than `limit` if it is larger.
pub(crate) fn read_capped(path: &Path, limit: usize) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    let limit = u64::try_from(limit).unwrap_or(u64::MAX);
    // Looked at before it is opened: opening a fifo waits for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let file = std::fs::File::open(path)?;
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// As the Key Broker Service itself limits it.
const MAX_RESOURCE: usize = 2 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn offline() -> Resources {
        Resources {
            kbs: Kbs::Offline(Vec::new()),
            accepted: None,
            keeps: false,
        }
    }

    #[tokio::test]
    async fn policy_that_the_configuration_does_not_accept_is_refused_by_its_digest() {
        let folder = tempfile::tempdir().unwrap();
        let document = folder.path().join("policy.json").display().to_string();
        let other = folder.path().join("key.pem").display().to_string();
        std::fs::write(&document, b"{}").unwrap();
        std::fs::write(&other, b"key").unwrap();
        let mut resources = offline();
        for (accepted, expected) in [
            (Digest::sha256_of(b"{}"), true),
            (Digest::of(policy::Algorithm::Sha512, b"{}"), true),
            (Digest::sha256_of(b"{ }"), false),
        ] {
            resources.accepted = Some((document.clone(), vec![accepted]));
            match resources.fetch(&document).await {
                Ok(_) => assert!(expected, "{accepted}"),
                Err(ResourceError::NotAccepted { found, .. }) => {
                    assert!(!expected, "{accepted}");
                    assert_eq!(found, Digest::sha256_of(b"{}"));
                }
                Err(error) => panic!("{error:?}"),
            }
            assert_eq!(resources.fetch(&other).await.unwrap().expose(), b"key");
        }
    }

    #[tokio::test]
    async fn reads_files_of_the_guest_by_uri_and_by_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.json");
        std::fs::write(&path, b"{}").unwrap();
        for location in [
            format!("file://{}", path.display()),
            path.display().to_string(),
        ] {
            assert_eq!(offline().fetch(&location).await.unwrap().expose(), b"{}");
        }
    }

    #[tokio::test]
    async fn refuses_what_is_no_location_by_name() {
        for location in [
            "policy.json",
            "https://example.com/p",
            "oci:x",
            "",
            "file://../x",
        ] {
            match offline().fetch(location).await {
                Err(ResourceError::Location { location: named }) => assert_eq!(named, location),
                other => panic!("{location}: {other:?}"),
            }
        }
        assert!(matches!(
            offline().fetch("kbs:///../a/b").await,
            Err(ResourceError::Uri { .. })
        ));
        assert!(matches!(
            offline().fetch("kbs:///a/b/c").await,
            Err(ResourceError::Kbs { .. })
        ));
    }

    #[tokio::test]
    async fn a_file_beyond_the_cap_or_of_another_kind_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let large = folder.path().join("large");
        std::fs::write(&large, vec![0; MAX_RESOURCE + 1]).unwrap();
        assert!(matches!(
            offline().fetch(large.to_str().unwrap()).await,
            Err(ResourceError::TooLarge {
                limit: MAX_RESOURCE,
                ..
            })
        ));
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        for path in [folder.path(), fifo.as_path()] {
            assert!(matches!(
                offline().fetch(path.to_str().unwrap()).await,
                Err(ResourceError::File { .. })
            ));
        }
    }
}
