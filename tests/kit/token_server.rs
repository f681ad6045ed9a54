//! A token server of the distribution (`spec/auth/token`), over https on loopback.
//!
//! It gives tokens that the real registry checks: JWTs signed by a key whose certificate the
//! registry has as its `rootcertbundle`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::authority::Authority;

/// The server; dropped, it and its connections end.
#[derive(Debug)]
pub struct TokenServer {
    address: SocketAddr,
    authority: Authority,
    directory: TempDir,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    key: EcdsaKeyPair,
    certificate: Vec<u8>,
    /// `Basic ...` of the one user.
    password: Mutex<String>,
    identity_token: String,
    anonymous: AtomicBool,
    requests: Mutex<Vec<String>>,
}

impl TokenServer {
    /// Starts one that knows one user, and one identity token.
    pub async fn start(user: &str, password: &str, identity_token: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(vec!["tokens".to_owned()]);
        let certificate = certificate.expect("a legal name").self_signed(&key);
        let certificate = certificate.expect("a certificate");
        let directory = tempfile::tempdir().expect("make a directory");
        let bundle = directory.path().join("tokens.pem");
        std::fs::write(bundle, certificate.pem()).expect("write tokens.pem");
        let pkcs8 = key.serialize_der();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8);
        let shared = Arc::new(Shared {
            key: key.expect("a key of our own"),
            certificate: certificate.der().to_vec(),
            password: Mutex::new(basic(user, password)),
            identity_token: identity_token.to_owned(),
            anonymous: AtomicBool::new(false),
            requests: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a port");
        let address = listener.local_addr().expect("the port");
        let authority = Authority::mint("token server");
        let server = tokio::spawn(accept(listener, authority.acceptor(), Arc::clone(&shared)));
        Self {
            address,
            authority,
            directory,
            shared,
            server,
        }
    }

    /// Where tokens are.
    pub fn realm(&self) -> String {
        format!("https://{}/token", self.address)
    }

    /// The section `auth` of a registry that believes its tokens.
    pub fn auth(&self) -> String {
        format!(
            "auth:\n  token:\n    realm: {}\n    service: registry.test\n    \
             issuer: token server\n    rootcertbundle: {}\n",
            self.realm(),
            self.directory.path().join("tokens.pem").display()
        )
    }

    /// PEM of the authority that vouches for it.
    pub fn authority(&self) -> &str {
        self.authority.certificate()
    }

    /// From now on the user has this password.
    pub fn set_password(&self, user: &str, password: &str) {
        *lock(&self.shared.password) = basic(user, password);
    }

    /// From now on whoever says nothing of himself gets a token, too.
    pub fn admit_anonymous(&self) {
        self.shared.anonymous.store(true, Ordering::Relaxed);
    }

    /// What was asked for: `GET basic scope`, `GET anonymous scope` or `POST refresh_token scope`.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.shared.requests).clone()
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes);
        let body = body.unwrap_or_default();
        let query = head.uri.query().unwrap_or_default().as_bytes();
        let form = if head.method == Method::POST {
            &body[..]
        } else {
            query
        };
        let of = |key: &str| {
            let mut pairs = url::form_urlencoded::parse(form);
            let found = pairs.find(|(name, _)| name == key);
            found
                .map(|(_, value)| value.into_owned())
                .unwrap_or_default()
        };
        let scope = of("scope");
        let header = head.headers.get(AUTHORIZATION);
        let header = header.and_then(|value| value.to_str().ok());
        let (kind, is_known) = match (&head.method, header) {
            (&Method::POST, _) => {
                let is_known = of("refresh_token") == self.identity_token
                    && of("grant_type") == "refresh_token"
                    && of("service") == "registry.test"
                    && !of("client_id").is_empty();
                ("refresh_token", is_known)
            }
            (_, Some(header)) => ("basic", *lock(&self.password) == header),
            (_, None) => ("anonymous", self.anonymous.load(Ordering::Relaxed)),
        };
        lock(&self.requests).push(format!("{} {kind} {scope}", head.method));
        let (status, body) = if is_known {
            let token = self.token(&scope);
            (
                StatusCode::OK,
                json!({"token": token, "access_token": token, "expires_in": 300}),
            )
        } else {
            let details = "who are you?";
            (StatusCode::UNAUTHORIZED, json!({"details": details}))
        };
        let mut answer = Response::new(Full::from(body.to_string()));
        *answer.status_mut() = status;
        answer
    }

    fn token(&self, scope: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.expect("a clock").as_secs();
        let mut parts = scope.splitn(3, ':');
        let mut part = || parts.next().unwrap_or_default();
        let access = json!([{"type": part(), "name": part(), "actions": [part()]}]);
        let header = json!({
            "typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(&self.certificate)],
        });
        let claims = json!({
            "iss": "token server", "sub": "user", "aud": "registry.test", "exp": now + 300,
            "nbf": now - 10, "iat": now, "jti": "1", "access": access,
        });
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self.key.sign(&SystemRandom::new(), message.as_bytes());
        let signature = signature.expect("a signature");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

async fn accept(listener: TcpListener, acceptor: tokio_rustls::TlsAcceptor, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let service = service_fn(|request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(shared.answer(request).await) }
            });
            // A client that goes away in the middle is its own business.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// The `auth` section of a registry that knows one user by its password, as `htpasswd` writes it
/// into `folder`.
pub fn htpasswd(folder: &Path, user: &str, password: &str) -> String {
    let program = crate::programs::require("htpasswd", "apache2-utils");
    let mut command = std::process::Command::new(program);
    let output = crate::programs::run(command.args(["-nbB", user, password]));
    let file = folder.join("htpasswd");
    std::fs::write(&file, output.stdout).expect("write htpasswd");
    format!(
        "auth:\n  htpasswd:\n    realm: basic\n    path: {}\n",
        file.display()
    )
}

/// The value of an `Authorization` header.
fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
