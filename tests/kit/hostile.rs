//! A registry that misbehaves on demand.
//!
//! It serves what it is given over http or https, honestly unless a fault is armed for the path.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderName, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use http_body_util::StreamBody;
use http_body_util::combinators::BoxBody;
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::authority::Authority;
use crate::image::{Image, media_type};

/// What to do instead of the honest answer.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This status and a registry error body.
    Status(u16),
    /// 401 with this challenge.
    Challenge(String),
    /// Other bytes, under an honest length.
    Bytes(Bytes),
    /// The right bytes under this content type.
    ContentType(String),
    /// The right length, but the connection is cut after so many bytes.
    CutAfter(usize),
    /// The first so many bytes of the right ones, under the length of those.
    Shorter(usize),
    /// So many bytes more than the right ones.
    Longer(usize),
    /// The right bytes, then zeros for ever, under no length.
    Endless,
    /// So many bytes, then silence on an open connection.
    StallAfter(usize),
    /// The right bytes, so many at a time with this pause between.
    Slow(usize, Duration),
    /// 307 to this URL.
    Redirect(String),
    /// The connection ends without an answer.
    HangUp,
}

#[derive(Debug)]
struct Rule {
    path: String,
    fault: Fault,
    remaining: Option<u32>,
}

#[derive(Debug, Default)]
struct State {
    manifests: HashMap<String, (String, Bytes)>,
    blobs: HashMap<String, Bytes>,
    rules: Vec<Rule>,
    requests: Vec<String>,
}

type Shared = Arc<Mutex<State>>;
type Body = BoxBody<Bytes, io::Error>;

/// The registry; dropped, it and its connections end.
#[derive(Debug)]
pub struct Hostile {
    address: SocketAddr,
    authority: Option<Authority>,
    state: Shared,
    server: JoinHandle<()>,
}

impl Hostile {
    /// Starts one on a free port, over plain http.
    pub async fn start() -> Self {
        Self::launch(None).await
    }

    /// The same over https, under a certificate of its own authority.
    pub async fn start_https() -> Self {
        Self::start_under(Authority::mint("hostile")).await
    }

    /// The same under a certificate of this authority.
    pub async fn start_under(authority: Authority) -> Self {
        Self::launch(Some(authority)).await
    }

    /// PEM of the authority of one over https.
    pub fn authority(&self) -> &str {
        let authority = self.authority.as_ref();
        authority.expect("it speaks https").certificate()
    }

    async fn launch(authority: Option<Authority>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a port");
        let address = listener.local_addr().expect("the port");
        let state = Shared::default();
        let acceptor = authority.as_ref().map(Authority::acceptor);
        let server = tokio::spawn(accept(listener, acceptor, Arc::clone(&state)));
        Self {
            address,
            authority,
            state,
            server,
        }
    }

    /// `127.0.0.1:<port>`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Serves an image under `repository:tag` and its digests; returns the reference by tag.
    pub fn push(&self, name: &str, image: &Image) -> String {
        let (repository, tag) = name.rsplit_once(':').expect("repository:tag");
        let mut state = lock(&self.state);
        image.visit(&mut |digest, bytes, media_type| match media_type {
            None => drop(state.blobs.insert(digest.to_owned(), bytes.clone())),
            Some(kind) => {
                let path = format!("/v2/{repository}/manifests/{digest}");
                state
                    .manifests
                    .insert(path, (kind.to_owned(), bytes.clone()));
            }
        });
        state.manifests.insert(
            format!("/v2/{repository}/manifests/{tag}"),
            (image.media_type.clone(), image.manifest.clone()),
        );
        format!("{}/{name}", self.address)
    }

    /// Misbehaves in this way whenever `path` is part of what is asked for.
    pub fn arm(&self, path: &str, fault: Fault) {
        lock(&self.state).rules.push(Rule {
            path: path.to_owned(),
            fault,
            remaining: None,
        });
    }

    /// The same for the first `times` requests only.
    pub fn arm_times(&self, path: &str, fault: Fault, times: u32) {
        let remaining = Some(times);
        lock(&self.state).rules.push(Rule {
            path: path.to_owned(),
            fault,
            remaining,
        });
    }

    /// Behaves again, and forgets the requests seen.
    pub fn disarm(&self) {
        let mut state = lock(&self.state);
        state.rules.clear();
        state.requests.clear();
    }

    /// The requests seen, as `METHOD path`.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.state).requests.clone()
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A loopback address on which nothing listens.
pub fn closed_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind a port");
    listener.local_addr().expect("the port").to_string()
}

fn lock(state: &Shared) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, state: Shared) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let (state, acceptor) = (Arc::clone(&state), acceptor.clone());
        connections.spawn(async move {
            match acceptor {
                None => serve(stream, state).await,
                // A client that does not trust us hangs up here, as it should.
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, state).await;
                    }
                }
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, state: Shared) {
    let service = service_fn(move |request| ready(answer(&state, &request)));
    // A client that hangs up, and our own cut answers, end a connection with an error.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn answer(state: &Shared, request: &Request<Incoming>) -> Result<Response<Body>, io::Error> {
    let path = request.uri().path().to_owned();
    let (honest, fault) = {
        let mut state = lock(state);
        state.requests.push(format!("{} {path}", request.method()));
        (state.find(&path), state.fault(&path))
    };
    let answer = match fault {
        Some(fault) => misbehave(fault, honest)?,
        None => match honest {
            Some((kind, bytes)) => whole(&kind, bytes),
            None => refusal(404),
        },
    };
    if request.method() == Method::HEAD {
        return Ok(answer.map(|_| empty()));
    }
    Ok(answer)
}

impl State {
    fn find(&self, path: &str) -> Option<(String, Bytes)> {
        if path == "/v2/" || path == "/v2" {
            return Some(("application/json".to_owned(), Bytes::from_static(b"{}")));
        }
        if let Some(found) = self.manifests.get(path) {
            return Some(found.clone());
        }
        let (_, digest) = path.split_once("/blobs/")?;
        let blob = self.blobs.get(digest)?;
        Some(("application/octet-stream".to_owned(), blob.clone()))
    }

    fn fault(&mut self, path: &str) -> Option<Fault> {
        let rule = self
            .rules
            .iter_mut()
            .find(|rule| path.contains(&rule.path) && rule.remaining != Some(0))?;
        if let Some(remaining) = &mut rule.remaining {
            *remaining -= 1;
        }
        Some(rule.fault.clone())
    }
}

fn misbehave(fault: Fault, honest: Option<(String, Bytes)>) -> Result<Response<Body>, io::Error> {
    let (kind, bytes) =
        honest.unwrap_or_else(|| (media_type::OCI_MANIFEST.to_owned(), Bytes::new()));
    Ok(match fault {
        Fault::Status(status) => refusal(status),
        Fault::Challenge(challenge) => with_header(refusal(401), WWW_AUTHENTICATE, &challenge),
        Fault::Redirect(target) => with_header(refusal(307), LOCATION, &target),
        Fault::HangUp => return Err(io::ErrorKind::ConnectionAborted.into()),
        Fault::Bytes(other) => whole(&kind, other),
        Fault::ContentType(other) => whole(&other, bytes),
        Fault::Shorter(length) => whole(&kind, bytes.slice(..length.min(bytes.len()))),
        Fault::Longer(more) => whole(&kind, [bytes.as_ref(), &vec![0; more]].concat().into()),
        Fault::CutAfter(length) => {
            let start = stream::iter([Ok(bytes.slice(..length.min(bytes.len())))]);
            // The pause lets what was sent so far leave before the connection ends.
            let cut = stream::once(async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Err(io::ErrorKind::ConnectionAborted.into())
            });
            streamed(&kind, Some(bytes.len()), start.chain(cut))
        }
        Fault::StallAfter(length) => {
            let start = stream::iter([Ok(bytes.slice(..length.min(bytes.len())))]);
            streamed(&kind, Some(bytes.len()), start.chain(stream::pending()))
        }
        Fault::Endless => {
            let zeros = Bytes::from(vec![0; 64 << 10]);
            streamed(
                &kind,
                None,
                stream::iter([Ok(bytes)]).chain(stream::repeat_with(move || Ok(zeros.clone()))),
            )
        }
        Fault::Slow(step, pause) => {
            let length = bytes.len();
            let pieces: Vec<_> = bytes.chunks(step).map(Bytes::copy_from_slice).collect();
            let pieces = stream::iter(pieces).then(move |piece| async move {
                tokio::time::sleep(pause).await;
                Ok(piece)
            });
            streamed(&kind, Some(length), pieces)
        }
    })
}

fn whole(kind: &str, bytes: Bytes) -> Response<Body> {
    streamed(kind, Some(bytes.len()), stream::iter([Ok(bytes)]))
}

fn refusal(status: u16) -> Response<Body> {
    let body = br#"{"errors":[{"code":"UNKNOWN","message":"the words of the registry"}]}"#;
    let mut answer = whole("application/json", Bytes::from_static(body));
    *answer.status_mut() = StatusCode::from_u16(status).expect("a legal status");
    answer
}

fn streamed(
    kind: &str,
    length: Option<usize>,
    parts: impl Stream<Item = io::Result<Bytes>> + Send + Sync + 'static,
) -> Response<Body> {
    let body = StreamBody::new(parts.map(|part| part.map(Frame::data)));
    let mut answer = Response::builder().header(CONTENT_TYPE, kind);
    if let Some(length) = length {
        answer = answer.header(CONTENT_LENGTH, length);
    }
    answer.body(BodyExt::boxed(body)).expect("legal headers")
}

fn with_header(mut answer: Response<Body>, name: HeaderName, value: &str) -> Response<Body> {
    answer
        .headers_mut()
        .insert(name, value.parse().expect("a legal header"));
    answer
}

fn empty() -> Body {
    http_body_util::Empty::new()
        .map_err(|never: Infallible| match never {})
        .boxed()
}
