//! The development KBS: a real HTTP(S) server that speaks protocol 0.4.0 as trustee does, down to
//! the texts of its errors, and misbehaves on demand.
//!
//! It shares no code with the client, so that a mistake of both cannot hide. It runs on a thread of
//! its own and serves synchronous and asynchronous tests alike.

mod answer;
mod certificate;
mod claims;
mod evidence;
mod fault;
mod protocol;
mod seal;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

pub use certificate::Certificate;
pub use fault::Fault;

use claims::TokenKey;
use protocol::Session;

/// How a KBS is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; port 0 for any that is free.
    pub listen: SocketAddr,
    /// Serve https, with a certificate of this kind.
    pub tls: Option<Certificate>,
    /// Offer HTTP/2 over https, and speak it with clients that take it.
    pub http2: bool,
    /// Directory of resources `<repository>/<type>/<tag>`, read at request time.
    pub directory: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            listen,
            tls: None,
            http2: false,
            directory: None,
        }
    }
}

/// The requests that a client makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// `POST /kbs/v0/auth`.
    Auth,
    /// `POST /kbs/v0/attest`.
    Attest,
    /// `GET /kbs/v0/<plugin>/<path>`.
    Get,
}

/// How often each request was made, whatever the answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// Sessions asked for.
    pub auth: usize,
    /// Evidence delivered.
    pub attest: usize,
    /// Resources asked for.
    pub get: usize,
}

/// A running KBS. Dropped, it ends, with all its connections.
#[derive(Debug)]
pub struct DevKbs {
    address: SocketAddr,
    authority: Option<String>,
    server: Arc<Server>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl DevKbs {
    /// Over http, on any free port.
    pub fn http() -> Self {
        Self::start(Options::default()).expect("a free port on loopback")
    }

    /// Over https, on any free port, with a certificate for `127.0.0.1` and `localhost`.
    pub fn https() -> Self {
        let options = Options {
            tls: Some(Certificate::Good),
            ..Options::default()
        };
        Self::start(options).expect("a free port on loopback")
    }

    /// As `options` say.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub fn start(options: Options) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(options.listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let minted = options
            .tls
            .map(|kind| certificate::mint(kind, options.http2));
        let (authority, acceptor) = minted.unzip();
        let server = Arc::new(Server::new(options.directory));
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&server);
        let thread = std::thread::Builder::new()
            .name("dev-kbs".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = accept(listener, acceptor, serving) => {}
                        _ = stopped => {}
                    }
                });
                runtime.shutdown_background();
            })?;
        Ok(Self {
            address,
            authority,
            server,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Base address, without a slash at the end.
    pub fn url(&self) -> String {
        let scheme = if self.authority.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// PEM of the authority that has issued its certificate: what `kbs_cert` takes.
    ///
    /// # Panics
    /// If it does not serve https.
    pub fn certificate(&self) -> &str {
        self.authority
            .as_deref()
            .expect("a KBS over http has no certificate")
    }

    /// Registers or replaces the resource at `repository/type/tag`.
    pub fn put(&self, path: &str, content: impl Into<Vec<u8>>) {
        self.server
            .state()
            .resources
            .insert(path.to_owned(), content.into());
    }

    /// Removes a resource that [`put`](Self::put) registered.
    pub fn remove(&self, path: &str) {
        self.server.state().resources.remove(path);
    }

    /// From now on the resource policy denies `repository/type/tag`.
    pub fn deny(&self, path: &str) {
        self.server.state().denied.insert(path.to_owned());
    }

    /// From now on the resource policy allows it again.
    pub fn allow(&self, path: &str) {
        self.server.state().denied.remove(path);
    }

    /// From now on requests for `repository/type/tag` are answered with status 503.
    pub fn break_down(&self, path: &str) {
        self.server.state().broken.insert(path.to_owned());
    }

    /// From now on they are answered again.
    pub fn repair(&self, path: &str) {
        self.server.state().broken.remove(path);
    }

    /// How often each request was made since the start.
    pub fn requests(&self) -> Requests {
        self.server.state().requests
    }

    /// How many connections were accepted since the start.
    pub fn connections(&self) -> usize {
        self.server.state().connections
    }

    /// `exp - iat` of tokens issued from now on. Default 5 minutes.
    pub fn set_token_life(&self, life: Duration) {
        self.server.state().token_life = life;
    }

    /// Seconds from auth to the end of sessions opened from now on. Default 5 minutes.
    pub fn set_session_life(&self, life: Duration) {
        self.server.state().session_life = life;
    }

    /// Its clock, from now on: this much ahead of the true one, or behind it.
    pub fn set_clock(&self, ahead: Duration, behind: Duration) {
        let mut state = self.server.state();
        (state.ahead, state.behind) = (ahead, behind);
    }

    /// The init-data that came with evidence it accepted, in order.
    pub fn init_data_seen(&self) -> Vec<Value> {
        self.server.state().init_data.clone()
    }

    /// A token for this public key, as if its owner had attested.
    pub fn token_for(&self, key: &Value) -> String {
        let state = self.server.state();
        let runtime_data = json!({ "nonce": "", "tee-pubkey": key });
        let times = (state.now(), state.token_life);
        let no_init_data = Value::Null;
        state
            .token_key
            .issue(&runtime_data, &[], &no_init_data, times)
    }

    /// Every token issued so far counts as expired, whatever it says; sessions live on.
    pub fn expire_tokens(&self) {
        let mut state = self.server.state();
        let issued: Vec<String> = state.sessions.values().filter_map(Session::token).collect();
        state.expired_tokens.extend(issued);
    }

    /// As after a restart: sessions are gone, and tokens were signed by a key that is no more.
    pub fn forget_sessions(&self) {
        let mut state = self.server.state();
        state.sessions.clear();
        state.token_key = TokenKey::generate();
    }

    /// The next `times` requests of this kind meet `fault` instead of, or before, their answer.
    pub fn fault(&self, step: Step, fault: Fault, times: usize) {
        self.server.state().faults.push((step, fault, times));
    }
}

impl Drop for DevKbs {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // The thread may have ended already; then there is nobody to tell.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                std::thread::panicking() || ended.is_ok(),
                "the KBS panicked"
            );
        }
    }
}

/// What the connections share.
#[derive(Debug)]
struct Server {
    directory: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    resources: BTreeMap<String, Vec<u8>>,
    denied: BTreeSet<String>,
    broken: BTreeSet<String>,
    sessions: BTreeMap<String, Session>,
    requests: Requests,
    faults: Vec<(Step, Fault, usize)>,
    token_key: TokenKey,
    expired_tokens: BTreeSet<String>,
    token_life: Duration,
    session_life: Duration,
    ahead: Duration,
    behind: Duration,
    init_data: Vec<Value>,
    connections: usize,
}

impl Server {
    fn new(directory: Option<PathBuf>) -> Self {
        let state = State {
            resources: BTreeMap::new(),
            denied: BTreeSet::new(),
            broken: BTreeSet::new(),
            sessions: BTreeMap::new(),
            requests: Requests::default(),
            faults: Vec::new(),
            token_key: TokenKey::generate(),
            expired_tokens: BTreeSet::new(),
            token_life: Duration::from_mins(5),
            session_life: Duration::from_mins(5),
            ahead: Duration::ZERO,
            behind: Duration::ZERO,
            init_data: Vec::new(),
            connections: 0,
        };
        Self {
            directory,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no request panicked")
    }
}

async fn accept(
    listener: std::net::TcpListener,
    acceptor: Option<TlsAcceptor>,
    server: Arc<Server>,
) {
    let listener = TcpListener::from_std(listener).expect("a listener that does not block");
    loop {
        // An accept that fails concerns one connection of a client that has given up.
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        server.state().connections += 1;
        let (server, acceptor) = (Arc::clone(&server), acceptor.clone());
        tokio::spawn(async move {
            match acceptor {
                // A client that does not trust us hangs up here, as it should.
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                        serve(stream, is_http2, server).await;
                    }
                }
                None => serve(stream, false, server).await,
            }
        });
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    is_http2: bool,
    server: Arc<Server>,
) {
    let service = service_fn(|request| {
        let server = Arc::clone(&server);
        async move { server.answer(request).await }
    });
    if is_http2 {
        let _ = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
        return;
    }
    // A connection that breaks is the client's to report.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .max_buf_size(128 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
