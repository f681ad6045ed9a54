//! A front of the real registry that speaks what that one does not: the signature extension, as
//! `OpenShift`'s registry does, and lists of referrers, as registries of OCI distribution 1.1 do.
//!
//! What is asked for below `/v2/` is passed on and comes back with the header that announces the
//! extension; signatures are put and listed below `/extensions/v2/`, where the real `skopeo copy
//! --sign-by` puts them when it sees that header. A [`Front`] can misbehave on demand.

mod referrers;

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

pub use self::referrers::Referrers;
use crate::registry::Registry;

/// The front; dropped, it and its connections end.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    registry: String,
    client: reqwest::Client,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    announces: bool,
    /// By path of the list.
    lists: HashMap<String, Vec<Value>>,
    /// What every list is answered with instead.
    instead: Option<(u16, Bytes)>,
    requests: Vec<String>,
    /// None: the registry's own answer.
    referrers: Option<Referrers>,
    /// By a part of the path, what is answered to whatever is asked for there.
    faults: HashMap<String, (u16, Bytes)>,
    /// A part of the paths for which no answer ever comes.
    stalled: Option<String>,
}

impl Front {
    /// Starts one before `registry`, which speaks plain http.
    pub async fn start(registry: &Registry) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a port");
        let address = listener.local_addr().expect("the port");
        let client = reqwest::Client::builder().no_proxy().build();
        let shared = Arc::new(Shared {
            registry: registry.host().to_owned(),
            client: client.expect("an HTTP client"),
            state: Mutex::new(State {
                announces: true,
                lists: HashMap::new(),
                instead: None,
                requests: Vec::new(),
                referrers: None,
                faults: HashMap::new(),
                stalled: None,
            }),
        });
        let server = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            address,
            shared,
            server,
        }
    }

    /// `127.0.0.1:<port>`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// From now on the extension is announced, or not.
    pub fn announce(&self, announces: bool) {
        self.shared.state().announces = announces;
    }

    /// What is listed for the document `digest` of `repository`.
    pub fn list(&self, repository: &str, digest: &str) -> Vec<Value> {
        let lists = &self.shared.state().lists;
        lists
            .get(&path(repository, digest))
            .cloned()
            .unwrap_or_default()
    }

    /// Replaces what is listed for a document.
    pub fn set_list(&self, repository: &str, digest: &str, list: Vec<Value>) {
        let mut state = self.shared.state();
        state.lists.insert(path(repository, digest), list);
    }

    /// From now on every list is this status and body; `None` for the honest ones.
    pub fn answer_instead(&self, answer: Option<(u16, Bytes)>) {
        self.shared.state().instead = answer;
    }

    /// From now on referrers are listed like this; `None` for the registry's own answer.
    pub fn set_referrers(&self, referrers: Option<Referrers>) {
        self.shared.state().referrers = referrers;
    }

    /// From now on every request whose path has this part in it is answered so; `None` to stop.
    pub fn fail(&self, part: &str, answer: Option<(u16, Bytes)>) {
        let faults = &mut self.shared.state().faults;
        match answer {
            Some(answer) => drop(faults.insert(part.to_owned(), answer)),
            None => drop(faults.remove(part)),
        }
    }

    /// From now on no request is answered whose path has this part in it; `None` to stop.
    pub fn stall(&self, part: Option<&str>) {
        self.shared.state().stalled = part.map(str::to_owned);
    }

    /// Forgets the requests seen.
    pub fn forget_requests(&self) {
        self.shared.state().requests.clear();
    }

    /// The requests seen, as `METHOD path`.
    pub fn requests(&self) -> Vec<String> {
        self.shared.state().requests.clone()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl State {
    /// What this front answers by itself.
    fn made_up(&self, path: &str, query: &str) -> Option<Response<Full<Bytes>>> {
        let fault = self.faults.iter().find(|(part, _)| path.contains(*part));
        if let Some((_, (status, body))) = fault {
            let status = StatusCode::from_u16(*status).expect("a legal status");
            return Some(whole(status, body.clone()));
        }
        self.referrers.as_ref()?.answer(path, query)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stalls(&self, path: &str) -> bool {
        let state = self.state();
        let part = state.stalled.as_ref();
        part.is_some_and(|part| path.contains(part.as_str()))
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        if self.stalls(&path) {
            return pending().await;
        }
        let announces = {
            let mut state = self.state();
            state.requests.push(format!("{} {path}", head.method));
            if let Some(answer) = state.made_up(&path, head.uri.query().unwrap_or_default()) {
                return answer;
            }
            state.announces
        };
        // A client that hangs up in the middle gets no answer anyway.
        let body = body
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        if path.starts_with("/extensions/") {
            return self.signatures(&head.method, path, &body);
        }
        let mut answer = self.pass_on(head, body).await;
        if announces {
            let yes = HeaderValue::from_static("1");
            answer
                .headers_mut()
                .insert("x-registry-supports-signatures", yes);
        }
        answer
    }

    fn signatures(&self, method: &Method, path: String, body: &[u8]) -> Response<Full<Bytes>> {
        let mut state = self.state();
        if *method == Method::PUT {
            let signature = serde_json::from_slice(body).expect("a signature in JSON");
            state.lists.entry(path).or_default().push(signature);
            return whole(StatusCode::CREATED, Bytes::new());
        }
        if let Some((status, body)) = &state.instead {
            let status = StatusCode::from_u16(*status).expect("a legal status");
            return whole(status, body.clone());
        }
        let list = state.lists.get(&path).cloned().unwrap_or_default();
        let list = json!({ "signatures": list });
        whole(StatusCode::OK, list.to_string().into())
    }

    async fn pass_on(&self, head: http::request::Parts, body: Bytes) -> Response<Full<Bytes>> {
        let target = head.uri.path_and_query().expect("a path");
        let url = format!("http://{}{target}", self.registry);
        // The registry makes its own URLs from this header, so that uploads come by here as well.
        let mut headers = end_to_end(&head.headers);
        if let Some(host) = head.headers.get(HOST) {
            headers.insert(HOST, host.clone());
        }
        let request = self.client.request(head.method.clone(), url);
        let answer = request.headers(headers).body(body).send().await;
        let answer = answer.expect("the registry answers");
        let (status, mut headers) = (answer.status(), end_to_end(answer.headers()));
        if head.method == Method::HEAD
            && let Some(length) = answer.headers().get(CONTENT_LENGTH)
        {
            headers.insert(CONTENT_LENGTH, length.clone());
        }
        let body = answer.bytes().await.expect("the registry sends its answer");
        let mut passed = whole(status, body);
        *passed.headers_mut() = headers;
        passed
    }
}

/// Without those that concern one connection.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    for name in [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, HOST] {
        headers.remove(name);
    }
    headers
}

fn whole(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer
}

fn path(repository: &str, digest: &str) -> String {
    format!("/extensions/v2/{repository}/signatures/{digest}")
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(shared.answer(request).await) }
            });
            // A client that hangs up ends a connection with an error.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}
