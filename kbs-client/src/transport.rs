//! One exchange over HTTP: deadlines, caps, retries of broken connections. The only file that knows
//! the HTTP library.

use std::error::Error as StdError;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use reqwest::header::{CONTENT_TYPE, COOKIE, DATE, HeaderName, HeaderValue, SET_COOKIE};
use reqwest::{Client, Proxy, redirect};
use rustls::CertificateError;
use url::Url;

use crate::clock::Clock;
use crate::config::{KbsConfig, Timeouts, Trust, without_user};
use crate::error::{ConfigError, Error, Unreachability};
use crate::handshake::{Answer, Method, Request};
use crate::tls::{self, Rejected};

/// A client bound to one KBS.
#[derive(Debug)]
pub(crate) struct Transport {
    http: Client,
    /// Address of the KBS without a slash at the end.
    base: String,
    authenticated: bool,
    only_own_roots: bool,
    timeouts: Timeouts,
    max_response_bytes: usize,
}

impl Transport {
    pub(crate) fn new(config: &KbsConfig, clock: Arc<Clock>) -> Result<Self, ConfigError> {
        check_url(&config.url)?;
        Ok(Self {
            http: http_client(config, clock)?,
            base: without_user(&config.url),
            authenticated: config.is_authenticated(),
            only_own_roots: config.trust == Trust::Pinned && !config.root_certificates.is_empty(),
            timeouts: config.timeouts,
            max_response_bytes: config.max_response_bytes,
        })
    }

    /// Whether nobody but the KBS can have answered: TLS, or no network in between.
    pub(crate) fn authenticated(&self) -> bool {
        self.authenticated
    }

    /// Sends, and reads the whole answer. A connection that fails and a gateway that asks for
    /// patience are tried anew for a while, which is harmless for every request of the protocol.
    pub(crate) async fn exchange(&self, request: &Request) -> Result<Answer, Error> {
        let url = format!("{}{}", self.base, request.path());
        let total = self.timeouts.total;
        match tokio::time::timeout(total, self.attempts(request, &url)).await {
            Ok(outcome) => outcome,
            Err(elapsed) => Err(Error::Unreachable {
                url,
                reason: Unreachability::Timeout(total),
                source: Arc::new(elapsed),
            }),
        }
    }

    async fn attempts(&self, request: &Request, url: &str) -> Result<Answer, Error> {
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let outcome = self.attempt(request, url).await;
            let why = match &outcome {
                Ok(answer) if BUSY.contains(&answer.status) => format!("status {}", answer.status),
                Err(error @ Error::Unreachable { .. }) => error.to_string(),
                _ => return outcome,
            };
            if started.elapsed().saturating_add(pause) >= self.timeouts.retry {
                return outcome;
            }
            tracing::debug!(url, why, "the KBS cannot be reached, trying again");
            tokio::time::sleep(jittered(pause)).await;
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    async fn attempt(&self, request: &Request, url: &str) -> Result<Answer, Error> {
        let target = match request.query() {
            Some(query) => format!("{url}?{query}"),
            None => url.to_owned(),
        };
        let mut builder = match request.method() {
            Method::Get => self.http.get(target),
            Method::Post => self
                .http
                .post(target)
                .header(CONTENT_TYPE, "application/json")
                .body(request.body().to_vec()),
        };
        if let Some(mut cookie) = request.cookie().and_then(header_value) {
            // As with the token: not in logs of the HTTP library, nor in the tables of HTTP/2.
            cookie.set_sensitive(true);
            builder = builder.header(COOKIE, cookie);
        }
        if let Some(token) = request.bearer() {
            builder = builder.bearer_auth(token);
        }
        let response = builder
            .send()
            .await
            .map_err(|error| self.classify(error, url))?;
        self.read(response, url).await
    }

    async fn read(&self, mut response: reqwest::Response, url: &str) -> Result<Answer, Error> {
        let limit = self.max_response_bytes;
        let too_large = || Error::TooLarge {
            url: url.to_owned(),
            limit,
        };
        let mut answer = Answer {
            url: url.to_owned(),
            received: Instant::now(),
            status: response.status().as_u16(),
            set_cookie: texts(&response, &SET_COOKIE),
            date: texts(&response, &DATE).pop(),
            body: Vec::new(),
        };
        let announced = response.content_length().map(usize::try_from);
        if announced.is_some_and(|length| length.is_ok_and(|length| length > limit)) {
            return Err(too_large());
        }
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.classify(error, url))?
        {
            if chunk.len() > limit.saturating_sub(answer.body.len()) {
                return Err(too_large());
            }
            answer.body.extend_from_slice(&chunk);
        }
        Ok(answer)
    }

    fn classify(&self, error: reqwest::Error, url: &str) -> Error {
        let error = error.without_url();
        if let Some(cause) = find::<rustls::Error>(&error) {
            return self.tls_error(cause, url);
        }
        if self.base.starts_with("http:") && is_not_http(&error) {
            return Error::Tls {
                url: url.to_owned(),
                subject: None,
                reason: "it does not answer in HTTP".to_owned(),
                hint: "if it speaks TLS there, the configured URL has to begin with https".into(),
            };
        }
        let reason = if error.is_timeout() {
            let connecting = error.is_connect();
            Unreachability::Timeout(if connecting {
                self.timeouts.connect
            } else {
                self.timeouts.total
            })
        } else if is_refused(&error) {
            Unreachability::Refused
        } else if error.is_connect() && chain(&error).any(|cause| cause.to_string() == "dns error")
        {
            Unreachability::Dns
        } else {
            Unreachability::Broken
        };
        Error::Unreachable {
            url: url.to_owned(),
            reason,
            source: Arc::new(error),
        }
    }

    fn tls_error(&self, error: &rustls::Error, url: &str) -> Error {
        let url = url.to_owned();
        let Some(Rejected { subject, at, cause }) = Rejected::within(error) else {
            return Error::Tls {
                url,
                subject: None,
                reason: error.to_string(),
                hint: "the port may not speak TLS, or the two sides share no version of it".into(),
            };
        };
        Error::Tls {
            url,
            subject: Some(subject.clone()),
            reason: cause.to_string(),
            hint: self.hint(cause, *at),
        }
    }

    fn hint(&self, cause: &rustls::Error, at: SystemTime) -> String {
        let rustls::Error::InvalidCertificate(fault) = cause else {
            return "its certificate is not acceptable".to_owned();
        };
        let hint = match fault {
            // Another root of the same name gives a signature that does not fit.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                if self.only_own_roots {
                    "none of the configured root certificates has issued its certificate"
                } else {
                    "no root that is trusted has issued its certificate; configure the one that has"
                }
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => {
                let clock = httpdate::fmt_http_date(at);
                return format!("either its certificate or our clock is wrong, which says {clock}");
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "its certificate is for other names than the host in the configured URL"
            }
            other if other.to_string().contains("CaUsedAsEndEntity") => {
                "it presents a CA certificate as its own; let that CA issue one for the host"
            }
            _ => "its certificate is not acceptable",
        };
        hint.to_owned()
    }
}

/// What stands before a KBS that is overloaded or starting answers one of these; a KBS itself says
/// what is wrong with its kinds, under other ones.
const BUSY: [u16; 4] = [429, 502, 503, 504];

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

fn check_url(url: &Url) -> Result<(), ConfigError> {
    let problem = match url {
        _ if !matches!(url.scheme(), "http" | "https") => "another scheme",
        _ if !url.username().is_empty() || url.password().is_some() => "a user name",
        _ if url.query().is_some() => "a query",
        _ if url.fragment().is_some() => "a fragment",
        _ => return Ok(()),
    };
    Err(ConfigError::Url {
        url: without_user(url),
        problem,
    })
}

/// The HTTP library goes without a proxy of a kind that it does not know, and says nothing.
fn check_proxy(proxy: &Url) -> Result<(), ConfigError> {
    match proxy.scheme() {
        "http" | "https" | "socks4" | "socks4a" | "socks5" | "socks5h" => Ok(()),
        other => Err(ConfigError::Proxy {
            reason: format!("expected http, https or socks5 as its scheme, found {other}"),
        }),
    }
}

fn http_client(config: &KbsConfig, clock: Arc<Clock>) -> Result<Client, ConfigError> {
    let mut builder = Client::builder()
        .user_agent(&config.user_agent)
        .connect_timeout(config.timeouts.connect)
        .redirect(redirect::Policy::none())
        .referer(false)
        .no_proxy()
        // So that "loopback" is a fact, not what a resolver says.
        .resolve_to_addrs("localhost", &LOCALHOST);
    if let Some(proxy) = &config.proxy {
        check_proxy(proxy)?;
        let refused = |error: reqwest::Error| ConfigError::Proxy {
            reason: sentence(&error),
        };
        builder = builder.proxy(Proxy::all(proxy.clone()).map_err(refused)?);
    }
    builder = match tls::client_config(config, clock)? {
        Some(tls) => builder.tls_backend_preconfigured(tls),
        None => builder.tls_certs_only([]),
    };
    builder.build().map_err(|error| ConfigError::Client {
        reason: sentence(&error),
    })
}

const LOCALHOST: [SocketAddr; 2] = [
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
    SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::LOCALHOST), 0),
];

/// Between half of the pause and all of it, so that guests that start together do not come back
/// together. Without randomness it is all of it.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    if aws_lc_rs::rand::fill(&mut byte).is_err() {
        return pause;
    }
    pause.mul_f64(0.5 + f64::from(byte[0]) / 512.0)
}

fn texts(response: &reqwest::Response, name: &HeaderName) -> Vec<String> {
    let values = response.headers().get_all(name).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .map(str::to_owned)
        .collect()
}

/// None would be a request without its cookie, which the KBS refuses.
fn header_value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok()
}

fn is_refused(error: &reqwest::Error) -> bool {
    find::<io::Error>(error).is_some_and(|cause| cause.kind() == io::ErrorKind::ConnectionRefused)
}

/// Whether what came back is not the beginning of an HTTP answer, as when a TLS server is asked in
/// clear. The type of the cause is the HTTP library's own affair, its text is all there is.
fn is_not_http(error: &reqwest::Error) -> bool {
    chain(error).any(|cause| cause.to_string() == "invalid HTTP version parsed")
}

/// The errors beneath `error`, outermost first. What an [`io::Error`] wraps is not among its
/// sources, and is visited too.
fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| beneath(*error))
}

fn beneath<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
    {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    chain(error).find_map(|cause| cause.downcast_ref())
}

/// The whole chain in one line, without URLs.
fn sentence(error: &reqwest::Error) -> String {
    let texts: Vec<String> = chain(error).map(ToString::to_string).collect();
    texts.join(": ")
}
