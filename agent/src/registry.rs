//! The registry: an untrusted place that serves manifests and blobs by name and digest.
//!
//! [`Registry::open`] gives the [`Source`] of one image: where it is fetched from and with which
//! credentials. What a source returns is as trustworthy as the registry itself, not at all; the
//! [`policy`] crate turns its bytes into something better.

mod blob;
mod credentials;
mod download;
mod error;
mod extension;
mod http;
mod retry;
mod throttle;
mod token;

use std::sync::{Mutex, OnceLock, PoisonError};

use policy::{Descriptor, Digest, ImageRef};
use reqwest::header::HeaderValue;
use reqwest::{Response, StatusCode, Url};
use tokio::sync::OnceCell;

use self::credentials::BasicCredentials;
use self::download::{Download, Ended};
use self::extension::MAX_LIST_BYTES;
use self::http::{Answer, Http, Request};
use crate::registries::{Endpoint, Registries, RewriteError, Transport};

pub(crate) use self::blob::{BlobReader, BlobSender, blob_channel};
pub(crate) use self::credentials::CredentialsError;
pub(crate) use self::error::{RegistryError, Wanted};
pub(crate) use self::http::Route;
pub(crate) use self::throttle::Throttle;

/// How registries are reached, for the life of the process.
#[derive(Debug)]
pub(crate) struct Registry {
    route: Route,
    secure: OnceLock<Http>,
    plain: OnceLock<Http>,
}

/// Bytes as a registry served them, and what it calls them.
#[derive(Debug)]
pub(crate) struct Served {
    /// The body.
    pub(crate) untrusted_bytes: Vec<u8>,
    /// The `Content-Type` header.
    pub(crate) untrusted_content_type: Option<String>,
}

impl Registry {
    /// Registries reached by `route`; nothing is connected or read yet.
    pub(crate) fn new(route: Route) -> Self {
        Self {
            route,
            secure: OnceLock::new(),
            plain: OnceLock::new(),
        }
    }

    /// The place that serves `reference` according to `registries`, to be used with the owner's
    /// `auth_json` if there is one.
    pub(crate) fn open(
        &self,
        registries: &Registries,
        reference: &ImageRef,
        auth_json: Option<&[u8]>,
    ) -> Result<Source, OpenError> {
        let endpoint = registries.lookup(reference)?;
        if endpoint.blocked {
            return Err(RegistryError::Blocked {
                name: reference.to_string(),
            }
            .into());
        }
        let credentials = auth_json
            .map(|file| credentials::credentials_for(file, &endpoint.host, &endpoint.repository))
            .transpose()?
            .flatten();
        let (http, base) = self.client_for(&endpoint)?;
        Ok(Source {
            http,
            base,
            endpoint,
            asked: reference.repository().to_owned(),
            plain_hosts: registries.plain_hosts(),
            credentials,
            authorization: Mutex::new(None),
            keeps_signatures: OnceCell::new(),
        })
    }

    /// What a lookaside has at `url`, an http or https address, at most `limit` bytes of it; None
    /// when it has nothing there. The owner wrote the scheme, and no credentials go there.
    pub(crate) async fn lookaside(
        &self,
        url: Url,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, RegistryError> {
        let transport = match url.scheme() {
            "http" => Transport::PlainHttp,
            _ => Transport::Https,
        };
        let request = Request {
            wanted: Wanted {
                host: url.host_str().unwrap_or_default().to_owned(),
                thing: "a signature".to_owned(),
            },
            url,
            accept: None,
            from: 0,
            authorization: None,
            plain_hosts: &[],
        };
        let answer = self.http(transport)?.get_small(&request, limit).await?;
        match answer.status {
            StatusCode::OK => Ok(Some(answer.body)),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(RegistryError::refusal(&request.wanted, &answer)),
        }
    }

    fn http(&self, transport: Transport) -> Result<Http, RegistryError> {
        let cell = match transport {
            Transport::Https => &self.secure,
            Transport::PlainHttp => &self.plain,
        };
        if let Some(http) = cell.get() {
            return Ok(http.clone());
        }
        let http = match transport {
            Transport::Https => Http::secure(&self.route)?,
            Transport::PlainHttp => Http::plain(&self.route)?,
        };
        Ok(cell.get_or_init(|| http).clone())
    }

    fn client_for(&self, endpoint: &Endpoint) -> Result<(Http, Url), RegistryError> {
        let http = self.http(endpoint.transport)?;
        let scheme = match endpoint.transport {
            Transport::Https => "https",
            Transport::PlainHttp => "http",
        };
        // Docker Hub's name is not the host of its registry.
        let host = match endpoint.host.as_str() {
            "docker.io" => "registry-1.docker.io",
            host => host,
        };
        let wanted = Wanted {
            host: host.to_owned(),
            thing: "the registry".to_owned(),
        };
        let base = Url::parse(&format!("{scheme}://{host}/v2/")).map_err(|error| {
            RegistryError::Unreachable {
                wanted,
                reason: error.to_string(),
            }
        })?;
        Ok((http, base))
    }
}

/// Why a source cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The registry is blocked, or the client cannot be made.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The registries configuration makes no name of this one.
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    /// The owner's credentials file is malformed.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// One repository at one registry, with the credentials for it alone.
#[derive(Debug)]
pub(crate) struct Source {
    http: Http,
    base: Url,
    endpoint: Endpoint,
    /// The repository as the caller named it: what errors name, since where the configuration
    /// leads from there may be the owner's secret.
    asked: String,
    plain_hosts: Vec<String>,
    credentials: Option<BasicCredentials>,
    authorization: Mutex<Option<HeaderValue>>,
    keeps_signatures: OnceCell<bool>,
}

impl Source {
    /// The image under the name of the place that it is pulled from, by which lookasides go; the
    /// policy goes by the name that was asked for.
    pub(crate) fn physical(&self, image: &ImageRef) -> ImageRef {
        let (host, repository) = (&self.endpoint.host, &self.endpoint.repository);
        let name = match (image.digest(), image.tag()) {
            (Some(digest), _) => format!("{host}/{repository}@{digest}"),
            (None, Some(tag)) => format!("{host}/{repository}:{tag}"),
            (None, None) => format!("{host}/{repository}"),
        };
        name.parse().unwrap_or_else(|_| image.clone())
    }

    /// The manifest or index that a tag or digest names, at most `limit` bytes of it.
    pub(crate) async fn manifest(
        &self,
        selector: &str,
        limit: usize,
    ) -> Result<Served, RegistryError> {
        let wanted = Wanted::manifest(&self.endpoint.host, &self.asked, selector);
        let url = self.url("manifests", selector);
        let answer = self.get_small(url, Some(ACCEPTED), &wanted, limit).await?;
        let untrusted_content_type = answer.content_type().map(str::to_owned);
        Ok(Served {
            untrusted_bytes: answer.body,
            untrusted_content_type,
        })
    }

    /// A blob small enough to be kept in memory, checked against its descriptor.
    pub(crate) async fn small_blob(
        &self,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let digest = descriptor.digest().to_string();
        let wanted = Wanted::blob(&self.endpoint.host, &self.asked, &digest);
        let size = descriptor.size();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        if usize::try_from(size).map_or(true, |size| size > limit) {
            return Err(RegistryError::TooLarge { wanted, limit });
        }
        let url = self.url("blobs", &digest);
        let bytes = self.get_small(url, None, &wanted, limit).await?.body;
        let found = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if found != size {
            return Err(RegistryError::WrongSize {
                wanted,
                expected: size,
                found,
            });
        }
        let found = Digest::of(descriptor.digest().algorithm(), &bytes);
        if found != *descriptor.digest() {
            let found = found.to_string();
            return Err(RegistryError::WrongDigest {
                wanted,
                expected: digest,
                found,
            });
        }
        Ok(bytes)
    }

    /// Sends a blob down `sender`, piece by piece, until its end or until nobody listens. When the
    /// line breaks, it goes on from there.
    ///
    /// Nothing is checked here but lengths and ranges: digest and size are the unpacker's.
    pub(crate) async fn blob(
        &self,
        descriptor: &Descriptor,
        sender: BlobSender,
        mut progress: impl FnMut(u64),
    ) -> Result<(), RegistryError> {
        let digest = descriptor.digest().to_string();
        let wanted = Wanted::blob(&self.endpoint.host, &self.asked, &digest);
        let url = self.url("blobs", &digest);
        let mut download = Download::new(wanted, descriptor.size());
        let mut tries = self.http.tries();
        loop {
            let begun_at = download.offset();
            let attempt = self.go_on(&mut download, &url, &sender, &mut progress);
            let error = match attempt.await {
                Ok(Ended::Complete) => break sender.finish().await,
                Ok(Ended::NobodyListens) => break,
                Err(error) => error,
            };
            if download.offset() > begun_at {
                tries.progressed();
            }
            tries.again_after(error).await?;
        }
        Ok(())
    }

    /// One attempt at what is missing of a blob.
    async fn go_on(
        &self,
        download: &mut Download,
        url: &Url,
        sender: &BlobSender,
        progress: &mut impl FnMut(u64),
    ) -> Result<Ended, RegistryError> {
        let (from, wanted) = (download.offset(), download.wanted.clone());
        let response = self.open(url.clone(), None, from, &wanted).await?;
        let throttle = self.http.throttle();
        download.receive(response, sender, throttle, progress).await
    }

    /// Whether the registry says that it keeps simple-signing signatures itself: it is asked once.
    ///
    /// As the reference implementation does it: the base of the API is asked without credentials,
    /// and says so also when it answers that it wants some.
    pub(crate) async fn keeps_signatures(&self) -> Result<bool, RegistryError> {
        let asking = || async {
            let request = Request {
                url: self.base.clone(),
                wanted: Wanted {
                    host: self.endpoint.host.clone(),
                    thing: "the registry's features".to_owned(),
                },
                accept: None,
                from: 0,
                authorization: None,
                plain_hosts: &self.plain_hosts,
            };
            let answer = self.http.get_small(&request, MAX_PING_BYTES).await?;
            match answer.status {
                StatusCode::OK | StatusCode::UNAUTHORIZED => {
                    Ok(extension::is_announced(&answer.headers))
                }
                _ => Err(RegistryError::refusal(&request.wanted, &answer)),
            }
        };
        self.keeps_signatures.get_or_try_init(asking).await.copied()
    }

    /// Where the registry lists the signatures that it keeps of a document.
    pub(crate) fn signature_list_url(&self, subject: &Digest) -> Url {
        let mut url = self.base.clone();
        let path = extension::path(&self.endpoint.repository, subject);
        url.set_path(&path);
        url
    }

    /// The list of the signatures that the registry keeps of a document, as it is served.
    pub(crate) async fn signature_list(&self, subject: &Digest) -> Result<Vec<u8>, RegistryError> {
        let url = self.signature_list_url(subject);
        let wanted = Wanted::signatures(&self.endpoint.host, &self.asked, subject);
        let answer = self.get_small(url, None, &wanted, MAX_LIST_BYTES).await?;
        Ok(answer.body)
    }

    /// Sends a GET, once more with what the registry asks for when it answers 401, and returns
    /// the answer if it is 200, or 206 where the beginning was not asked for.
    async fn open(
        &self,
        url: Url,
        accept: Option<&'static str>,
        from: u64,
        wanted: &Wanted,
    ) -> Result<Response, RegistryError> {
        let authorization = self.authorization();
        let mut request = Request {
            url,
            wanted: wanted.clone(),
            accept,
            from,
            authorization: authorization.as_ref(),
            plain_hosts: &self.plain_hosts,
        };
        let mut response = self.http.get(&request).await?;
        let renewed;
        if response.status() == StatusCode::UNAUTHORIZED {
            let challenge = self.refusal(response, wanted).await?;
            renewed = self.authorize(&challenge.headers).await?;
            request.authorization = Some(&renewed);
            response = self.http.get(&request).await?;
        }
        match response.status() {
            StatusCode::OK => return Ok(response),
            StatusCode::PARTIAL_CONTENT if from > 0 => return Ok(response),
            _ => {}
        }
        let refusal = self.refusal(response, wanted).await?;
        Err(RegistryError::refusal(wanted, &refusal))
    }

    /// An answer that is not what was asked for.
    async fn refusal(&self, response: Response, wanted: &Wanted) -> Result<Answer, RegistryError> {
        let reading = Answer::read(response, MAX_PING_BYTES, wanted);
        self.http.in_time(wanted, reading).await
    }

    async fn get_small(
        &self,
        url: Url,
        accept: Option<&'static str>,
        wanted: &Wanted,
        limit: usize,
    ) -> Result<Answer, RegistryError> {
        let mut tries = self.http.tries();
        loop {
            let whole = async {
                let response = self.open(url.clone(), accept, 0, wanted).await?;
                Answer::read(response, limit, wanted).await
            };
            match self.http.in_time(wanted, whole).await {
                Ok(answer) => return Ok(answer),
                Err(error) => tries.again_after(error).await?,
            }
        }
    }

    async fn authorize(
        &self,
        headers: &reqwest::header::HeaderMap,
    ) -> Result<HeaderValue, RegistryError> {
        let value = token::answer_challenge(
            &self.http,
            &self.endpoint.repository,
            &self.base,
            headers,
            self.credentials.as_ref(),
        )
        .await?;
        *self
            .authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(value.clone());
        Ok(value)
    }

    fn authorization(&self) -> Option<HeaderValue> {
        self.authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Repository, tag and digest have a grammar without a character that would need escaping.
    fn url(&self, kind: &str, selector: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!(
            "/v2/{}/{kind}/{selector}",
            self.endpoint.repository
        ));
        url
    }
}

/// Bytes of an answer whose body nobody reads.
const MAX_PING_BYTES: usize = 1 << 20;
/// Every kind of manifest that we can read; what else a registry has, it may refuse or convert.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";
