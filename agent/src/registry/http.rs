//! HTTP with caps and deadlines: the only file that sends a request.
//!
//! Whatever a server sends, no body is read past its cap and no wait is longer than its deadline.
//! Redirects are followed by hand, because what may follow one is a matter of security: never
//! from https to http, never with our credentials to another host, and never into the guest itself.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Certificate, Client, ClientBuilder, Identity, Proxy, Response, StatusCode, Url};
use zeroize::Zeroizing;

use super::error::{RegistryError, Wanted, is_overload};
use super::guard::Named;
use super::redirect::{redirect_target, same_origin};
use super::retry::Tries;
use super::throttle::Throttle;
use crate::certs::Certificates;
use crate::config::{Timeouts, masked};

/// How registries are reached: proxy, extra roots and deadlines, as configured.
#[derive(Clone)]
pub(crate) struct Route {
    /// Proxy for https requests.
    pub(crate) https_proxy: Option<String>,
    /// Proxy for plain http requests.
    pub(crate) http_proxy: Option<String>,
    /// Hosts, domains and networks that no proxy is used for.
    pub(crate) no_proxy: Option<String>,
    /// PEM certificates trusted besides the system's.
    pub(crate) extra_root_certificates: Vec<String>,
    /// Deadlines of a connection.
    pub(crate) timeouts: Timeouts,
    /// How often one thing is asked for.
    pub(crate) attempts: NonZeroU32,
    /// How fast layers may come.
    pub(crate) throttle: Arc<Throttle>,
}

/// Without the proxies, which may have a password.
impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").finish_non_exhaustive()
    }
}

/// How one registry is spoken to, and who vouches for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reach {
    /// By TLS.
    Tls(Certificates),
    /// By TLS, whoever answers, as `insecure = true` allows.
    UnverifiedTls(Certificates),
    /// By plain http, as `insecure = true` allows.
    PlainHttp,
}

impl Reach {
    fn is_plain(&self) -> bool {
        matches!(self, Self::PlainHttp)
    }
}

/// An HTTP client that only knows capped, bounded requests.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    /// For the registry itself.
    near: Client,
    /// For where it sends us, to whom it is not said who we are.
    far: Arc<Far>,
    named: Named,
    timeouts: Timeouts,
    /// For the whole of a small answer.
    small_answer: Duration,
    attempts: NonZeroU32,
    throttle: Arc<Throttle>,
}

/// A client for other hosts than the registry, made when one is asked: to read the system's roots
/// takes longer than to ask for a manifest.
#[derive(Debug)]
struct Far {
    route: Route,
    reach: Reach,
    named: Named,
    client: OnceLock<Client>,
}

impl Far {
    fn client(&self) -> Result<&Client, RegistryError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let elsewhere = match &self.reach {
            Reach::Tls(known) | Reach::UnverifiedTls(known) => Reach::Tls(Certificates {
                // Who we are is for the registry itself.
                clients: Vec::new(),
                ..known.clone()
            }),
            Reach::PlainHttp => Reach::Tls(Certificates::default()),
        };
        let client = match self.made(&elsewhere) {
            // A guest without any root may use a registry that needs none.
            Err(_) if self.reach.is_plain() => self.made(&self.reach)?,
            made => made?,
        };
        Ok(self.client.get_or_init(|| client))
    }

    fn made(&self, reach: &Reach) -> Result<Client, RegistryError> {
        let builder = builder(&self.route)?.https_only(!self.reach.is_plain());
        let builder = builder.dns_resolver(self.named.clone());
        build(trusting(builder, &self.route, reach)?)
    }
}

/// A request for one thing of one registry.
pub(crate) struct Request<'a> {
    /// Where the thing is.
    pub(crate) url: Url,
    /// What is asked for, as errors name it.
    pub(crate) wanted: Wanted,
    /// Value of the `Accept` header.
    pub(crate) accept: Option<&'static str>,
    /// The first byte that is wanted; what comes before is there already.
    pub(crate) from: u64,
    /// Value of the `Authorization` header, for the host of `url` alone.
    pub(crate) authorization: Option<&'a HeaderValue>,
    /// The hosts, `host[:port]`, that a redirect may lead to over plain http.
    pub(crate) plain_hosts: &'a [String],
    /// The registry that this is about: the only host that our client certificate is shown to.
    pub(crate) home: &'a Url,
    /// A form to be posted, for `url` alone; without one, this is a GET.
    pub(crate) form: Option<&'a Zeroizing<String>>,
}

/// Without the form, which may have a token.
impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut request = f.debug_struct("Request");
        request
            .field("wanted", &self.wanted)
            .finish_non_exhaustive()
    }
}

impl Http {
    /// A client for a registry that is reached like this.
    pub(crate) fn new(route: &Route, reach: &Reach, named: &Named) -> Result<Self, RegistryError> {
        let far = Far {
            route: route.clone(),
            reach: reach.clone(),
            named: named.clone(),
            client: OnceLock::new(),
        };
        let builder = builder(route)?.https_only(!reach.is_plain());
        let near = build(trusting(builder, route, reach)?)?;
        Ok(Self {
            near,
            far: Arc::new(far),
            named: named.clone(),
            timeouts: route.timeouts,
            small_answer: route.timeouts.idle.saturating_mul(SMALL_ANSWER),
            attempts: route.attempts,
            throttle: Arc::clone(&route.throttle),
        })
    }

    /// The same client, which gives up sooner: there is somebody else to ask.
    pub(crate) fn hasty(&self) -> Self {
        Self {
            attempts: self.attempts.min(HASTY_ATTEMPTS),
            small_answer: self.timeouts.idle,
            ..self.clone()
        }
    }

    /// Whether `url` is an address of the guest itself that the configuration does not name, and
    /// not the host of the registry at `home` that was to be asked anyhow.
    pub(crate) fn forbids(&self, url: &Url, home: &Url) -> bool {
        url.host() != home.host() && self.named.forbids(url)
    }

    /// Sends a GET, follows redirects, and returns the first answer that is not one.
    ///
    /// The answer may have any other status: its meaning is the caller's business.
    pub(crate) async fn get(&self, request: &Request<'_>) -> Result<Response, RegistryError> {
        let mut url = request.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(&url, request).await?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            url = redirect_target(&url, response.headers(), request)?;
            if self.forbids(&url, request.home) {
                return Err(RegistryError::BadRedirect {
                    wanted: request.wanted.clone(),
                    reason: "it leads to an address of the guest itself that the configuration \
                             does not name",
                });
            }
        }
        Err(RegistryError::TooManyRedirects {
            wanted: request.wanted.clone(),
            limit: MAX_REDIRECTS,
        })
    }

    /// Sends a GET and reads the whole answer, which may not be larger than `limit` bytes; again
    /// when the line breaks or the server is overloaded.
    pub(crate) async fn get_small(
        &self,
        request: &Request<'_>,
        limit: usize,
    ) -> Result<Answer, RegistryError> {
        let mut tries = self.tries();
        loop {
            let error = match self.get_small_once(request, limit).await {
                Ok(answer) if !answer.is_overload() => return Ok(answer),
                Ok(overload) => RegistryError::refusal(&request.wanted, &overload),
                Err(error) => error,
            };
            tries.again_after(error).await?;
        }
    }

    /// The attempts that one thing is worth.
    pub(crate) fn tries(&self) -> Tries {
        Tries::new(self.attempts)
    }

    /// How long the next byte may take.
    pub(crate) fn idle(&self) -> Duration {
        self.timeouts.idle
    }

    /// What the bytes of layers must pass.
    pub(crate) fn throttle(&self) -> &Throttle {
        &self.throttle
    }

    /// Sends a GET and reads the whole answer, which may not be larger than `limit` bytes.
    pub(crate) async fn get_small_once(
        &self,
        request: &Request<'_>,
        limit: usize,
    ) -> Result<Answer, RegistryError> {
        let wanted = &request.wanted;
        let whole = async { Answer::read(self.get(request).await?, limit, wanted).await };
        self.in_time(wanted, whole).await
    }

    /// Does `work` within the deadline that a small answer has for all of it, so that a byte now
    /// and then does not keep us waiting for ever.
    pub(crate) async fn in_time<T>(
        &self,
        wanted: &Wanted,
        work: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let deadline = self.small_answer;
        tokio::time::timeout(deadline, work)
            .await
            .unwrap_or_else(|_elapsed| {
                Err(RegistryError::Deadline {
                    wanted: wanted.clone(),
                    seconds: deadline.as_secs(),
                })
            })
    }

    async fn send(&self, url: &Url, request: &Request<'_>) -> Result<Response, RegistryError> {
        let home = (request.home.scheme(), request.home.host());
        let client = if (url.scheme(), url.host()) == home {
            &self.near
        } else {
            self.far.client()?
        };
        let mut get = match request.form {
            None => client.get(url.clone()),
            Some(form) => client
                .post(url.clone())
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form.as_bytes().to_vec()),
        };
        if let Some(accept) = request.accept {
            get = get.header(reqwest::header::ACCEPT, accept);
        }
        if request.from > 0 {
            get = get.header(RANGE, format!("bytes={}-", request.from));
        }
        if let Some(value) = request.authorization
            && same_origin(url, &request.url)
        {
            get = get.header(AUTHORIZATION, value);
        }
        get.send()
            .await
            .map_err(|source| RegistryError::transport(&request.wanted, &source))
    }
}

/// A whole answer, read within its cap.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Status of the answer.
    pub(crate) status: StatusCode,
    /// Headers of the answer.
    pub(crate) headers: HeaderMap,
    /// The body: the whole of it for a success, the beginning of it for an error.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Reads `response`: a success of at most `limit` bytes, or the beginning of an error.
    pub(crate) async fn read(
        response: Response,
        limit: usize,
        wanted: &Wanted,
    ) -> Result<Self, RegistryError> {
        let status = response.status();
        let headers = response.headers().clone();
        let body = if status.is_success() {
            read_whole(response, limit, wanted).await?
        } else {
            read_beginning(response, wanted).await?
        };
        Ok(Self {
            status,
            headers,
            body,
        })
    }

    /// Whether it says that the same request may have another answer later.
    fn is_overload(&self) -> bool {
        is_overload(self.status.as_u16())
    }

    /// The `Content-Type`, if it is one line of text.
    pub(crate) fn content_type(&self) -> Option<&str> {
        self.headers
            .get(reqwest::header::CONTENT_TYPE)?
            .to_str()
            .ok()
    }
}

/// Reads the next piece of a body. The idle deadline is the client's.
pub(crate) async fn next_chunk(
    response: &mut Response,
    wanted: &Wanted,
) -> Result<Option<Bytes>, RegistryError> {
    response
        .chunk()
        .await
        .map_err(|source| RegistryError::transport(wanted, &source))
}

async fn read_whole(
    mut response: Response,
    limit: usize,
    wanted: &Wanted,
) -> Result<Vec<u8>, RegistryError> {
    let too_large = || RegistryError::TooLarge {
        wanted: wanted.clone(),
        limit,
    };
    let announced = response.content_length().unwrap_or(0);
    if announced > u64::try_from(limit).unwrap_or(u64::MAX) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    while let Some(chunk) = next_chunk(&mut response, wanted).await? {
        if chunk.len() > limit.saturating_sub(body.len()) {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// As much of an error as a message may need. One that ends there leaves its connection usable.
async fn read_beginning(mut response: Response, wanted: &Wanted) -> Result<Vec<u8>, RegistryError> {
    let mut body = Vec::new();
    while body.len() < MAX_ERROR_BODY {
        let Some(chunk) = next_chunk(&mut response, wanted).await? else {
            break;
        };
        let room = MAX_ERROR_BODY.saturating_sub(body.len());
        body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
    }
    Ok(body)
}

impl Route {
    /// The proxy that a request to `url` goes through, its password masked.
    pub(crate) fn proxy_for(&self, url: &Url) -> Option<String> {
        let (https, http) = (self.https_proxy.as_deref(), self.http_proxy.as_deref());
        let matcher = Matcher::builder()
            .https(https.unwrap_or_default())
            .http(http.unwrap_or_default())
            .no(self.no_proxy.as_deref().unwrap_or_default())
            .build();
        matcher.intercept(&url.as_str().parse().ok()?)?;
        let proxy = if url.scheme() == "https" { https } else { http };
        Some(masked(&Url::parse(proxy?).ok()?))
    }
}

/// What `reach` says about TLS.
fn trusting(
    builder: ClientBuilder,
    route: &Route,
    reach: &Reach,
) -> Result<ClientBuilder, RegistryError> {
    let (certificates, is_verified) = match reach {
        // It trusts no certificate at all, so that it works in a guest without any root.
        Reach::PlainHttp => return Ok(builder.tls_certs_only([])),
        Reach::Tls(certificates) => (certificates, true),
        Reach::UnverifiedTls(certificates) => (certificates, false),
    };
    let roots = route.extra_root_certificates.iter().map(String::as_bytes);
    let own = certificates.authorities.iter().map(Vec::as_slice);
    let mut builder = builder;
    for pem in roots.chain(own) {
        let bundle = Certificate::from_pem_bundle(pem).map_err(RegistryError::Client)?;
        builder = builder.tls_certs_merge(bundle);
    }
    if let Some(client) = certificates.clients.first() {
        let identity = Identity::from_pem(&client.pem()).map_err(RegistryError::Client)?;
        builder = builder.identity(identity);
    }
    Ok(builder.tls_danger_accept_invalid_certs(!is_verified))
}

fn build(builder: ClientBuilder) -> Result<Client, RegistryError> {
    builder.build().map_err(RegistryError::Client)
}

fn builder(route: &Route) -> Result<ClientBuilder, RegistryError> {
    let mut builder = Client::builder()
        .user_agent(concat!("image-agent/", env!("CARGO_PKG_VERSION")))
        .no_proxy()
        .referer(false)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(route.timeouts.connect)
        .read_timeout(route.timeouts.idle);
    let exceptions = || {
        route
            .no_proxy
            .as_deref()
            .and_then(reqwest::NoProxy::from_string)
    };
    if let Some(url) = &route.https_proxy {
        let proxy = Proxy::https(url).map_err(RegistryError::Client)?;
        builder = builder.proxy(proxy.no_proxy(exceptions()));
    }
    if let Some(url) = &route.http_proxy {
        let proxy = Proxy::http(url).map_err(RegistryError::Client)?;
        builder = builder.proxy(proxy.no_proxy(exceptions()));
    }
    Ok(builder)
}

/// A whole manifest, config or token may take so many times the deadline for the next byte.
const SMALL_ANSWER: u32 = 4;
const MAX_REDIRECTS: usize = 5;
/// Where there is another place to ask.
const HASTY_ATTEMPTS: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);
const MAX_ERROR_BODY: usize = 4096;
