//! The protocol itself: auth, attest, resource.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::io;
use std::time::{Instant, SystemTime};

use aws_lc_rs::digest::{SHA384, digest};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::answer::{self, Refusal};
use super::{Fault, Server, State, Step};
use super::{evidence, seal};

/// From auth to its end.
#[derive(Debug, Clone)]
pub(super) struct Session {
    tee: String,
    nonce: String,
    /// Fixed at auth; attestation does not extend it.
    ends: Instant,
    /// The same moment as `Expires` of the cookie.
    expires: SystemTime,
    token: Option<String>,
}

impl Session {
    pub(super) fn token(&self) -> Option<String> {
        self.token.clone()
    }
}

const BASE: &str = "/kbs/v0/";
const BODY_LIMIT: usize = 2 * 1024 * 1024;
const COOKIE: &str = "kbs-session-id";
/// What trustee knows; `sample`, `tdx` and `snp` have a verifier here.
const TEES: [&str; 15] = [
    "az-snp-vtpm",
    "az-tdx-vtpm",
    "nvidia",
    "sgx",
    "snp",
    "tdx",
    "cca",
    "csv",
    "se",
    "hygondcu",
    "nvidia-dpu",
    "nvidiadpu",
    "tpm",
    "sample",
    "sampledevice",
];

impl Server {
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<BoxBody<Bytes, io::Error>>, Infallible> {
        let step = step_of(request.uri().path(), request.method());
        let fault = step.and_then(|step| self.state().count(step));
        let (head, body) = request.into_parts();
        let answer = match Limited::new(body, BODY_LIMIT).collect().await {
            Err(_) => Err(Refusal::TooLarge),
            Ok(body) => self.route(step, &head, &body.to_bytes()),
        };
        let answer = answer.unwrap_or_else(Refusal::into_response);
        Ok(match fault {
            Some(fault) => fault.apply(answer).await,
            None => answer,
        })
    }

    fn route(
        &self,
        step: Option<Step>,
        head: &http::request::Parts,
        body: &[u8],
    ) -> Result<Response<BoxBody<Bytes, io::Error>>, Refusal> {
        match step {
            Some(Step::Auth) => self.state().auth(body),
            Some(Step::Attest) => {
                let mut state = self.state();
                let id = session_id(&head.headers).ok_or(Refusal::Attest)?;
                state.attest(&id, body).ok_or(Refusal::Attest)
            }
            Some(Step::Get) => self.resource(head),
            None if !head.uri.path().starts_with(BASE) => Err(Refusal::Outside),
            None => Err(Refusal::Method),
        }
    }

    fn resource(
        &self,
        head: &http::request::Parts,
    ) -> Result<Response<BoxBody<Bytes, io::Error>>, Refusal> {
        let (plugin, path) = plugin_and_path(head.uri.path());
        if plugin != "resource" {
            return Err(Refusal::PluginNotFound {
                name: plugin.to_owned(),
            });
        }
        let state = self.state();
        let token = state.token(&head.headers).ok_or(Refusal::TokenNotFound)?;
        let verified = state.token_key.verify(&token, state.now());
        let expired = state.expired_tokens.contains(&token);
        let key = verified
            .filter(|_| !expired)
            .ok_or(Refusal::TokenVerifier)?;
        if state.denied.contains(path) {
            return Err(Refusal::PolicyDeny);
        }
        if state.broken.contains(path) {
            return Err(Refusal::Broken);
        }
        let content = self.content(&state, path).ok_or(Refusal::Plugin)?;
        seal::seal(&key, &content)
            .map(answer::json)
            .ok_or(Refusal::Jwe)
    }

    fn content(&self, state: &State, path: &str) -> Option<Vec<u8>> {
        if !is_legal_path(path) {
            return None;
        }
        let registered = state.resources.get(path).cloned();
        registered.or_else(|| std::fs::read(self.directory.as_ref()?.join(path)).ok())
    }
}

impl State {
    /// The time by its own clock.
    pub(super) fn now(&self) -> SystemTime {
        SystemTime::now() + self.ahead - self.behind
    }

    /// Counts a request, and says whether it is to fail.
    fn count(&mut self, step: Step) -> Option<Fault> {
        let counter = match step {
            Step::Auth => &mut self.requests.auth,
            Step::Attest => &mut self.requests.attest,
            Step::Get => &mut self.requests.get,
        };
        *counter += 1;
        let planned = self
            .faults
            .iter_mut()
            .find(|(at, _, times)| *at == step && *times > 0)?;
        planned.2 -= 1;
        Some(planned.1.clone())
    }

    fn auth(&mut self, body: &[u8]) -> Result<Response<BoxBody<Bytes, io::Error>>, Refusal> {
        let request: Value =
            serde_json::from_slice(body).map_err(|_| Refusal::RequestUnreadable)?;
        let text = |name| request.get(name).and_then(Value::as_str);
        let (version, tee) = text("version")
            .zip(text("tee"))
            .ok_or(Refusal::RequestUnreadable)?;
        if request.get("extra-params").is_none() || !TEES.contains(&tee) {
            return Err(Refusal::RequestUnreadable);
        }
        check_version(version)?;
        if tee == "se" {
            return Err(Refusal::NoChallenge);
        }
        let session = Session {
            tee: tee.to_owned(),
            nonce: STANDARD.encode(random::<32>()),
            ends: Instant::now() + self.session_life,
            expires: self.now() + self.session_life,
            token: None,
        };
        let id = random::<16>().iter().fold(String::new(), |mut id, byte| {
            write!(id, "{byte:02x}").expect("a string takes everything");
            id
        });
        let challenge = json!({ "nonce": session.nonce, "extra-params": "" });
        let answer = answer::json(challenge.to_string());
        let answer = with_cookie(answer, &id, &session, self.now());
        self.sessions.insert(id, session);
        Ok(answer)
    }

    /// Nothing but the log of the real server tells the causes apart, so none are told here.
    fn attest(&mut self, id: &str, body: &[u8]) -> Option<Response<BoxBody<Bytes, io::Error>>> {
        let session = self
            .sessions
            .get(id)
            .filter(|session| session.ends > Instant::now())?;
        // An attested session gives its old token, and does not look at the body.
        let token = if let Some(token) = &session.token {
            token.clone()
        } else {
            let request: Value = serde_json::from_slice(body).ok()?;
            let token = self.verified(session, &request)?;
            let init_data = request.get("init-data").cloned();
            self.init_data.push(init_data.unwrap_or_default());
            token
        };
        let now = self.now();
        let session = self.sessions.get_mut(id)?;
        session.token = Some(token.clone());
        let answer = answer::json(json!({ "token": token }).to_string());
        Some(with_cookie(answer, id, session, now))
    }

    fn verified(&self, session: &Session, request: &Value) -> Option<String> {
        let runtime_data = request.get("runtime-data")?;
        let delivered = request.get("tee-evidence")?;
        let additional = delivered.get("additional_evidence")?.as_str()?;
        let nonce = runtime_data.get("nonce")?.as_str()?;
        let key = typed_key(runtime_data.get("tee-pubkey")?)?;
        let init_data = request.get("init-data").unwrap_or(&Value::Null);
        if nonce != session.nonce || !is_init_data(init_data) {
            return None;
        }
        let canonical = format!(
            r#"{{"additional-evidence":{},"nonce":{},"tee-pubkey":{}}}"#,
            Value::from(additional),
            Value::from(nonce),
            canonical_key(&key)?,
        );
        let expected = digest(&SHA384, canonical.as_bytes());
        let primary = delivered.get("primary_evidence")?;
        evidence::check(&session.tee, primary, expected.as_ref(), init_data)?;
        let runtime_data =
            json!({ "additional-evidence": additional, "nonce": nonce, "tee-pubkey": key });
        let life = self.token_life;
        Some(self.token_key.issue(
            &runtime_data,
            expected.as_ref(),
            init_data,
            (self.now(), life),
        ))
    }

    /// A session that is alive and attested wins over a Bearer token.
    fn token(&self, headers: &http::HeaderMap) -> Option<String> {
        let session = session_id(headers)
            .and_then(|id| self.sessions.get(&id))
            .filter(|session| session.ends > Instant::now());
        let bearer = || {
            let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
            value.strip_prefix("Bearer ").map(str::to_owned)
        };
        session
            .and_then(|session| session.token.clone())
            .or_else(bearer)
    }
}

fn step_of(path: &str, method: &Method) -> Option<Step> {
    let path = path.strip_prefix(BASE)?;
    match (method, path) {
        (&Method::POST, "auth") => Some(Step::Auth),
        (&Method::POST, "attest") => Some(Step::Attest),
        (&Method::GET, _) => Some(Step::Get),
        _ => None,
    }
}

fn plugin_and_path(path: &str) -> (&str, &str) {
    let path = path.strip_prefix(BASE).unwrap_or_default();
    path.split_once('/').unwrap_or((path, ""))
}

/// `[A-Za-z0-9_-][A-Za-z0-9_.-]*`, three times.
fn is_legal_path(path: &str) -> bool {
    let segments: Vec<&str> = path.split('/').collect();
    let name = |segment: &&str| {
        let mut bytes = segment.bytes();
        let first = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        bytes.next().is_some_and(first) && bytes.all(|byte| first(byte) || byte == b'.')
    };
    segments.len() == 3 && segments.iter().all(name)
}

/// A semantic version, and this one.
fn check_version(version: &str) -> Result<(), Refusal> {
    let (numbers, _) = version.split_once('-').unwrap_or((version, ""));
    let parts: Vec<&str> = numbers.split('.').collect();
    if parts.len() != 3 || parts.iter().any(|part| part.parse::<u64>().is_err()) {
        return Err(Refusal::VersionUnreadable);
    }
    if version != "0.4.0" {
        return Err(Refusal::VersionMismatch {
            found: version.to_owned(),
        });
    }
    Ok(())
}

/// Null, or TOML: no other format is taken, whatever the protocol's text says.
fn is_init_data(init_data: &Value) -> bool {
    init_data.is_null() || (init_data["format"] == "toml" && init_data["body"].is_string())
}

/// The key as the server re-serialises it: members that it does not know are gone.
fn typed_key(key: &Value) -> Option<Value> {
    let names: &[&str] = match key.get("kty")?.as_str()? {
        "EC" => &["alg", "crv", "kty", "x", "y"],
        "RSA" => &["alg", "e", "kty", "n"],
        _ => return None,
    };
    let member = |name: &&str| Some(((*name).to_owned(), key.get(*name)?.clone()));
    names
        .iter()
        .map(member)
        .collect::<Option<serde_json::Map<_, _>>>()
        .map(Value::Object)
}

/// RFC 8785: members in order, no spaces.
fn canonical_key(key: &Value) -> Option<String> {
    let mut members: Vec<(&String, &Value)> = key.as_object()?.iter().collect();
    members.sort_by_key(|(name, _)| *name);
    let members: Vec<String> = members
        .iter()
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    Some(format!("{{{}}}", members.join(",")))
}

fn session_id(headers: &http::HeaderMap) -> Option<String> {
    let cookies = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok());
    cookies
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, id)| id.to_owned())
}

fn with_cookie(
    mut answer: Response<BoxBody<Bytes, io::Error>>,
    id: &str,
    session: &Session,
    now: SystemTime,
) -> Response<BoxBody<Bytes, io::Error>> {
    let date = HeaderValue::from_str(&httpdate::fmt_http_date(now)).expect("a legal header");
    answer.headers_mut().insert(header::DATE, date);
    let expires = httpdate::fmt_http_date(session.expires);
    let cookie = HeaderValue::from_str(&format!("{COOKIE}={id}; Expires={expires}"));
    answer
        .headers_mut()
        .insert(header::SET_COOKIE, cookie.expect("a legal header"));
    answer
}

fn random<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    rand::fill(&mut bytes).expect("randomness");
    bytes
}
