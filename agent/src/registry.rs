//! The registry: an untrusted place that serves manifests and blobs by name and digest.
//!
//! [`Registry::source`] gives a [`Source`] of one image: a place where it is fetched from, and with
//! which credentials. What a source returns is as trustworthy as the registry itself, not at all; the
//! [`policy`] crate turns its bytes into something better.

mod blob;
mod download;
mod error;
mod extension;
mod guard;
mod http;
mod places;
mod redirect;
mod referrers;
mod retry;
mod throttle;
mod token;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use policy::{Descriptor, Digest, ImageRef};
use reqwest::header::HeaderValue;
use reqwest::{Response, StatusCode, Url};
use tokio::sync::OnceCell;

use self::download::{Download, Ended};
use self::extension::MAX_LIST_BYTES;
use self::guard::Named;
use self::http::{Answer, Http, Request};
use self::redirect::same_origin;
use crate::auth::Login;
use crate::certs::Certificates;
use crate::registries::Endpoint;

pub(crate) use self::blob::{BlobReader, BlobSender, blob_channel};
pub(crate) use self::error::{RegistryError, Wanted};
pub(crate) use self::http::{Reach, Route};
pub(crate) use self::places::Places;
pub(crate) use self::referrers::{Incomplete, Listing, Referrer};
pub(crate) use self::throttle::Throttle;

/// How registries are reached, for the life of the process.
#[derive(Debug)]
pub(crate) struct Registry {
    route: Route,
    named: Named,
    /// Connections are kept for as long as a place is reached in the same way, the latest first.
    clients: Mutex<Vec<(Reach, Http)>>,
}

/// Who we are at one place.
#[derive(Debug, Clone, Default)]
pub(crate) struct Account {
    /// The login, if there is one.
    pub(crate) login: Option<Login>,
    /// Where it is from, in words and without a secret.
    pub(crate) origin: String,
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
        let named = Named::default();
        let proxies = [&route.https_proxy, &route.http_proxy];
        let proxies = proxies.into_iter().flatten();
        let proxies: Vec<Url> = proxies.filter_map(|url| Url::parse(url).ok()).collect();
        named.add(proxies.iter().filter_map(Url::host_str));
        Self {
            route,
            named,
            clients: Mutex::default(),
        }
    }

    /// Lets registries lead to these hosts, `host[:port]`, which the configuration names, even
    /// where they are addresses of the guest itself.
    pub(crate) fn name<'h>(&self, hosts: impl IntoIterator<Item = &'h str>) {
        self.named.add(hosts);
    }

    /// One place that serves the image whose repository the caller calls `asked`.
    pub(crate) fn source(
        &self,
        endpoint: Endpoint,
        asked: &str,
        reach: &Reach,
        plain_hosts: &[String],
        account: Account,
    ) -> Result<Source, RegistryError> {
        let base = base(&endpoint.host, reach)?;
        Ok(Source {
            http: self.http(reach)?,
            via: self.route.proxy_for(&base),
            base,
            is_fallback: false,
            endpoint,
            asked: asked.to_owned(),
            plain_hosts: plain_hosts.to_vec(),
            account,
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
        let reach = match url.scheme() {
            "http" => Reach::PlainHttp,
            _ => Reach::Tls(Certificates::default()),
        };
        let host = url.host_str().unwrap_or_default();
        self.named.add([host]);
        let wanted = Wanted::of(host, "a signature").through(self.route.proxy_for(&url));
        let request = Request {
            wanted,
            home: &url.clone(),
            form: None,
            url,
            accept: None,
            from: 0,
            authorization: None,
            plain_hosts: &[],
        };
        let answer = self.http(&reach)?.get_small(&request, limit).await?;
        match answer.status {
            StatusCode::OK => Ok(Some(answer.body)),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(RegistryError::refusal(&request.wanted, &answer)),
        }
    }

    /// Whether TLS is spoken at `host`, whoever it is, and at once.
    pub(crate) async fn speaks_tls(
        &self,
        host: &str,
        certificates: &Certificates,
    ) -> Result<bool, RegistryError> {
        let reach = Reach::UnverifiedTls(certificates.clone());
        let base = base(host, &reach)?;
        let request = Request {
            wanted: Wanted::of(host, "whether it speaks TLS"),
            home: &base,
            form: None,
            url: base.clone(),
            accept: None,
            from: 0,
            authorization: None,
            plain_hosts: &[],
        };
        let http = self.http(&reach)?;
        let asking = http.get_small_once(&request, MAX_PING_BYTES);
        let answer = tokio::time::timeout(MAX_PING, asking).await;
        Ok(answer.is_ok_and(|answer| answer.is_ok()))
    }

    fn http(&self, reach: &Reach) -> Result<Http, RegistryError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, http)) = clients.iter().find(|(known, _)| known == reach) {
            return Ok(http.clone());
        }
        let http = Http::new(&self.route, reach, &self.named)?;
        clients.insert(0, (reach.clone(), http.clone()));
        clients.truncate(MAX_CLIENTS);
        Ok(http)
    }
}

/// Where the API of a registry is.
fn base(host: &str, reach: &Reach) -> Result<Url, RegistryError> {
    let scheme = match reach {
        Reach::PlainHttp => "http",
        Reach::Tls(_) | Reach::UnverifiedTls(_) => "https",
    };
    // Docker Hub's name is not the host of its registry.
    let host = match host {
        "docker.io" => "registry-1.docker.io",
        host => host,
    };
    Url::parse(&format!("{scheme}://{host}/v2/")).map_err(|error| RegistryError::Unreachable {
        wanted: Wanted::of(host, "the registry"),
        reason: error.to_string(),
    })
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
    /// The proxy on the way there.
    via: Option<String>,
    /// Whether this is another way to the place before, which may not speak plain http.
    is_fallback: bool,
    account: Account,
    authorization: Mutex<Option<HeaderValue>>,
    keeps_signatures: OnceCell<bool>,
}

impl Source {
    /// The place, `host/repository`.
    pub(crate) fn place(&self) -> String {
        format!("{}/{}", self.endpoint.host, self.endpoint.repository)
    }

    /// Whether credentials go there.
    pub(crate) fn has_login(&self) -> bool {
        self.account.login.is_some()
    }

    /// Whether this is another way to the place before, for when that does not speak plain http.
    pub(crate) fn is_fallback(&self) -> bool {
        self.is_fallback
    }

    /// Whether to ask this place after another one that has failed, with this error of its registry
    /// if it was that.
    pub(crate) fn is_worth_asking_after(&self, error: Option<&RegistryError>) -> bool {
        !self.is_fallback || error.is_some_and(RegistryError::may_speak_tls)
    }

    /// This as another way to the place before.
    pub(crate) fn into_fallback(self) -> Self {
        Self {
            is_fallback: true,
            ..self
        }
    }

    /// The same place, which is given up sooner, as there are others.
    pub(crate) fn hasty(self) -> Self {
        let http = self.http.hasty();
        Self { http, ..self }
    }

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
        let wanted = self.reached(Wanted::manifest(&self.endpoint.host, &self.asked, selector));
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
        let wanted = self.reached(Wanted::blob(&self.endpoint.host, &self.asked, &digest));
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
        let wanted = self.reached(Wanted::blob(&self.endpoint.host, &self.asked, &digest));
        let url = self.url("blobs", &digest);
        let mut download = Download::new(wanted, descriptor.size(), self.http.idle());
        let mut tries = self.http.tries();
        loop {
            let begun_at = download.offset();
            let attempt = self.go_on(&mut download, &url, &sender, &mut progress);
            let error = match attempt.await {
                Ok(Ended::Complete) => break sender.finish().await,
                Ok(Ended::NobodyListens) => break,
                Err(error) => error,
            };
            tries.brought(download.offset().saturating_sub(begun_at));
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
                wanted: self.reached(Wanted::of(&self.endpoint.host, "the registry's features")),
                home: &self.base,
                form: None,
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
        let wanted = self.reached(Wanted::signatures(
            &self.endpoint.host,
            &self.asked,
            subject,
        ));
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
            home: &self.base,
            form: None,
        };
        let mut response = self.http.get(&request).await?;
        let renewed;
        // Whoever a redirect has led to is told nothing of us, and does not say who is.
        let is_registry = same_origin(response.url(), &self.base);
        if response.status() == StatusCode::UNAUTHORIZED && is_registry {
            let challenge = self.refusal(response, wanted).await?;
            let authorized = self.authorize(&challenge.headers).await;
            renewed = authorized.map_err(|error| error.with_account(&self.account.origin))?;
            request.authorization = Some(&renewed);
            response = self.http.get(&request).await?;
        }
        match response.status() {
            StatusCode::OK => return Ok(response),
            StatusCode::PARTIAL_CONTENT if from > 0 => return Ok(response),
            _ => {}
        }
        let refusal = self.refusal(response, wanted).await?;
        Err(RegistryError::refusal(wanted, &refusal).with_account(&self.account.origin))
    }

    fn reached(&self, wanted: Wanted) -> Wanted {
        wanted.through(self.via.clone())
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
            self.account.login.as_ref(),
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
        if let Some(namespace) = &self.endpoint.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        url
    }
}

/// Each has connections of its own; more ways to reach registries than these are in no use at a time.
const MAX_CLIENTS: usize = 32;
/// How long an answer is waited for without which we can do.
const MAX_PING: Duration = Duration::from_secs(5);
/// Bytes of an answer whose body nobody reads.
const MAX_PING_BYTES: usize = 1 << 20;
/// Every kind of manifest that we can read; what else a registry has, it may refuse or convert.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";
