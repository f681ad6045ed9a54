//! Where an image is fetched from: registries configuration, credentials and certificates become
//! [`Places`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use policy::ImageRef;
use tracing::{info, warn};

use crate::accounts::Accounts;
use crate::auth::{AuthFile, AuthFileError};
use crate::blocking::blocking;
use crate::certs::{Certificates, CertificatesError, ClientCertificate};
use crate::config::{Config, RegistrySettings, Source as ConfigSource};
use crate::error::{Error, chain};
use crate::helper::HelperError;
use crate::registries::{Endpoint, Registries, RewriteError, Transport};
use crate::registry::{Account, Places, Reach, Registry, RegistryError, Source};
use crate::resources::{Resources, read_capped};

/// What it takes to open the places of an image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sources<'a> {
    pub(crate) config: &'a Config,
    pub(crate) resources: &'a Resources,
    pub(crate) registry: &'a Registry,
    /// Whether credentials are left aside.
    pub(crate) anonymous: bool,
}

/// Why a place cannot be opened. The author of the configuration is at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Every place is blocked, or the client cannot be made.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The registries configuration makes no name of this one.
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    /// The owner's credentials file is malformed.
    #[error(transparent)]
    Credentials(#[from] AuthFileError),
    /// The credentials for a host are a program's to know, which may not be run.
    #[error(
        "the registry credentials for {host} are those of the program docker-credential-{helper}, \
         which is not run unless image_agent.credential_helpers has {helper:?}"
    )]
    HelperNotEnabled {
        /// The host.
        host: String,
        /// The program, without its prefix.
        helper: String,
    },
    /// The program that knows the credentials for a host does not tell them.
    #[error(transparent)]
    Helper(#[from] HelperError),
    /// The folder of certificates of a host is malformed.
    #[error("{folder}", folder = folder.display())]
    Certificates {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        source: CertificatesError,
    },
    /// What should vouch for a host vouches for nobody.
    #[error("the ca of {host} in [[image_agent.registry]] is no certificate in PEM")]
    NoCertificate {
        /// The host.
        host: String,
    },
    /// The folder of certificates of a host cannot be read.
    #[error("{path}", path = path.display())]
    File {
        /// The folder or the file in it.
        path: PathBuf,
        /// The system's account.
        source: io::Error,
    },
}

impl Sources<'_> {
    /// The same without credentials.
    pub(crate) fn anonymous(self) -> Self {
        let anonymous = true;
        Self { anonymous, ..self }
    }

    /// What the owner says about registries: in the configuration, or in a resource it names.
    ///
    /// Beside a file `F`, the files `F.d/*.conf` count, too, in the order of their names
    /// (containers-registries.conf.d(5)).
    pub(crate) async fn registries(&self) -> Result<Cow<'_, Registries>, Error> {
        let image = &self.config.image;
        let Some(location) = &image.registry_configuration else {
            return Ok(Cow::Borrowed(&image.registries));
        };
        let mut texts = vec![self.text(location).await?];
        for drop_in in drop_ins(location).await? {
            texts.push(self.text(&drop_in).await?);
        }
        let texts = texts.iter().map(String::as_str);
        let (registries, warnings) = Registries::parse_all(texts).map_err(Error::Registries)?;
        for warning in warnings {
            warn!(%location, "{warning}");
        }
        Ok(Cow::Owned(registries))
    }

    /// Every place that may serve the image, with what we know of it alone.
    pub(crate) async fn places(
        &self,
        registries: &Registries,
        image: &ImageRef,
    ) -> Result<Places, Error> {
        let own = &self.config.image_agent;
        let (file, order) = if self.anonymous {
            (None, Vec::new())
        } else {
            (self.logins().await?, registries.credential_sources())
        };
        let accounts = Accounts {
            file,
            order,
            enabled: &own.credential_helpers,
            deadline: own.timeouts.idle,
        };
        self.registry.name(registries.hosts());
        let configured = own.registries.iter();
        self.registry
            .name(configured.map(|settings| settings.host.as_str()));
        let endpoints = registries.endpoints(image);
        let endpoints = endpoints.map_err(|error| Error::Open(error.into()))?;
        let (blocked, open): (Vec<_>, Vec<_>) =
            endpoints.into_iter().partition(|endpoint| endpoint.blocked);
        let mut unasked = Vec::new();
        for Endpoint { host, .. } in &blocked {
            info!(%host, "blocked by the registries configuration");
            unasked.push(format!("{host} is blocked by the registries configuration"));
        }
        let plain_hosts = registries.plain_hosts();
        let mut sources = Vec::new();
        let mut failure = None;
        for endpoint in open {
            match self.place(&accounts, &endpoint, image, &plain_hosts).await {
                Ok(opened) => sources.extend(opened),
                // The others are as good as without it.
                Err(error) => {
                    let (host, cause) = (&endpoint.host, chain(&error));
                    warn!(%host, error = cause, "a place that cannot be asked");
                    unasked.push(format!("{host} cannot be asked: {cause}"));
                    failure = failure.or(Some(error));
                }
            }
        }
        Places::of(sources, unasked).ok_or_else(|| {
            let name = image.to_string();
            failure.unwrap_or_else(|| Error::Open(RegistryError::Blocked { name }.into()))
        })
    }

    async fn place(
        &self,
        accounts: &Accounts<'_>,
        endpoint: &Endpoint,
        image: &ImageRef,
        plain_hosts: &[String],
    ) -> Result<Vec<Source>, Error> {
        let account = accounts.at(endpoint).await.map_err(Error::Open)?;
        let certificates = self.certificates(&endpoint.host).await?;
        let opened = self.open(endpoint, image, plain_hosts, (account, certificates));
        opened.await.map_err(|error| Error::Open(error.into()))
    }

    /// The endpoint, and again by other means if it is `insecure` and those fail.
    async fn open(
        &self,
        endpoint: &Endpoint,
        image: &ImageRef,
        plain_hosts: &[String],
        (account, certificates): (Account, Certificates),
    ) -> Result<Vec<Source>, RegistryError> {
        let reaches = match endpoint.transport {
            Transport::Https => vec![Reach::Tls(certificates)],
            // No password goes in the clear to who would take it under TLS; and without a port the
            // two are not at the same one, of which the other may be closed without an answer.
            Transport::PlainHttp
                if (account.login.is_some() || !endpoint.host.contains(':'))
                    && self
                        .registry
                        .speaks_tls(&endpoint.host, &certificates)
                        .await? =>
            {
                vec![Reach::UnverifiedTls(certificates)]
            }
            Transport::PlainHttp => vec![Reach::PlainHttp, Reach::UnverifiedTls(certificates)],
        };
        let open = |(index, reach): (usize, &Reach)| {
            let (endpoint, account) = (endpoint.clone(), account.clone());
            let asked = image.repository();
            let registry = self.registry;
            let source = registry.source(endpoint, asked, reach, plain_hosts, account)?;
            Ok(if index > 0 {
                source.into_fallback()
            } else {
                source
            })
        };
        reaches.iter().enumerate().map(open).collect()
    }

    /// The owner's credentials file, and where it is from.
    async fn logins(&self) -> Result<Option<(AuthFile, &str)>, Error> {
        let Some(location) = &self.config.image.registry_credentials else {
            return Ok(None);
        };
        let what = "registry credentials";
        let text = self.resources.fetch(location).await;
        let text = text.map_err(|source| Error::Resource { what, source })?;
        let file = AuthFile::parse(text.expose()).map_err(|error| Error::Open(error.into()))?;
        for key in file.unusable() {
            warn!(%location, %key, "registry credentials that cannot be used");
        }
        Ok(Some((file, location)))
    }

    /// The certificates for `host`: those of its folder and those of the configuration.
    async fn certificates(&self, host: &str) -> Result<Certificates, Error> {
        let own = &self.config.image_agent;
        let folders = own.certs_d.iter().map(|folder| folder.join(host)).collect();
        let mut found = blocking(move || in_first_of(folders))
            .await
            .map_err(Error::Open)?;
        let mut configured = own.registries.iter();
        if let Some(settings) = configured.find(|settings| settings.host == host) {
            self.add_configured(settings, &mut found).await?;
        }
        Ok(found)
    }

    async fn add_configured(
        &self,
        settings: &RegistrySettings,
        found: &mut Certificates,
    ) -> Result<(), Error> {
        if let Some(ca) = &settings.ca {
            let pem = self.pem(ca).await?;
            if !String::from_utf8_lossy(&pem).contains(CERTIFICATE) {
                let host = settings.host.clone();
                return Err(Error::Open(OpenError::NoCertificate { host }));
            }
            found.authorities.push(pem);
        }
        if let Some((certificate, key)) = &settings.client {
            let (certificate, key) = (self.pem(certificate).await?, self.pem(key).await?);
            let client = ClientCertificate::new(&certificate, &key);
            found.clients.insert(0, client);
        }
        Ok(())
    }

    async fn pem(&self, source: &ConfigSource) -> Result<Vec<u8>, Error> {
        let location = match source {
            ConfigSource::Inline(text) => return Ok(text.clone().into_bytes()),
            ConfigSource::Uri(location) => location,
        };
        let what = "certificates of a registry";
        let fetched = self.resources.fetch(location).await;
        let fetched = fetched.map_err(|source| Error::Resource { what, source })?;
        Ok(fetched.expose().to_vec())
    }

    async fn text(&self, location: &str) -> Result<String, Error> {
        let what = "registries configuration";
        let text = self.resources.fetch(location).await;
        let text = text.map_err(|source| Error::Resource { what, source })?;
        Ok(String::from_utf8_lossy(text.expose()).into_owned())
    }
}

/// The drop-ins of a configuration that is a file of the guest.
async fn drop_ins(location: &str) -> Result<Vec<String>, Error> {
    let path = location.strip_prefix("file://").unwrap_or(location);
    if !path.starts_with('/') {
        return Ok(Vec::new());
    }
    let folder = PathBuf::from(format!("{path}.d"));
    let listed = blocking(move || names_in(&folder))
        .await
        .map_err(Error::Open)?;
    let (folder, names) = listed.unwrap_or_default();
    let is_conf = |name: &String| name.strip_suffix(".conf").is_some();
    let paths = names.into_iter().filter(is_conf);
    Ok(paths
        .map(|name| folder.join(name).display().to_string())
        .collect())
}

/// The certificates in the first of `folders` that is there.
fn in_first_of(folders: Vec<PathBuf>) -> Result<Certificates, OpenError> {
    for folder in folders {
        let Some((folder, names)) = names_in(&folder)? else {
            continue;
        };
        let mut files = BTreeMap::new();
        for name in names.into_iter().filter(|name| Certificates::are_in(name)) {
            let path = folder.join(&name);
            let content = read_capped(&path, MAX_CERTIFICATES).and_then(|content| {
                if content.len() > MAX_CERTIFICATES {
                    return Err(io::Error::from(io::ErrorKind::FileTooLarge));
                }
                Ok(content.to_vec())
            });
            let content = content.map_err(|source| OpenError::File { path, source })?;
            files.insert(name, content);
        }
        return Certificates::parse(&files)
            .map_err(|source| OpenError::Certificates { folder, source });
    }
    Ok(Certificates::default())
}

/// The names of what is in a folder, sorted, if there is such a folder.
fn names_in(folder: &Path) -> Result<Option<(PathBuf, Vec<String>)>, OpenError> {
    let failed = |source| OpenError::File {
        path: folder.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        names.push(name.to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(Some((folder.to_owned(), names)))
}

/// How one begins.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
/// A folder of certificates is a few KiB.
const MAX_CERTIFICATES: usize = 1 << 20;
