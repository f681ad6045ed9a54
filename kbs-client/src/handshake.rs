//! The handshake of protocol 0.4.0 as values: what to send, and what an answer means. No I/O.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::digest;
use serde_json::{Value, json};

use zeroize::Zeroizing;

use crate::attester::ReportData;
use crate::config::SessionProof;
use crate::error::{Error, Refusal, printable, unquoted};
use crate::init_data::InitData;
use crate::key::TeeKey;
use crate::lifetime::{Lifetime, untrusted_claims};
use crate::messages::{
    Attestation, Challenge, ErrorAnswer, RuntimeData, TeeEvidence, TokenAnswer, TokenLife,
};
use crate::secret::Secret;
use crate::uri::ResourceUri;

/// The only version that is spoken. The server accepts no other: there is no negotiation.
pub const PROTOCOL_VERSION: &str = "0.4.0";

/// A handshake in one of its states; each step consumes the one before.
///
/// ```text
/// auth_request ──► Handshake<Challenged> ──► Handshake<Attested> ──► resource_request, open
///                                                  ▲
///                                token of another ─┘
/// ```
///
/// A resource cannot be asked for before attestation, because that state has no such method:
///
/// ```compile_fail,E0599
/// use kbs_client::{Challenged, Handshake, Request, ResourceUri};
///
/// fn too_early(handshake: &Handshake<Challenged>, uri: &ResourceUri) -> Request {
///     handshake.resource_request(uri)
/// }
/// ```
///
/// After it, it can:
///
/// ```
/// use kbs_client::{Attested, Handshake, Request, ResourceUri};
///
/// fn in_time(handshake: &Handshake<Attested>, uri: &ResourceUri) -> Request {
///     handshake.resource_request(uri)
/// }
/// ```
pub struct Handshake<State> {
    key: TeeKey,
    state: State,
}

/// The KBS has given a nonce and waits for evidence.
#[derive(Debug)]
pub struct Challenged {
    cookie: SessionCookie,
    nonce: String,
    hash: &'static digest::Algorithm,
}

/// The KBS has accepted the evidence.
#[derive(Debug)]
pub struct Attested {
    proof: Proof,
    token: Token,
    lifetime: Lifetime,
}

impl Handshake<Challenged> {
    /// The request that opens a session for `tee`, a name in lower case.
    pub fn auth_request(tee: &str) -> Request {
        let body = json!({
            "version": PROTOCOL_VERSION,
            "tee": tee,
            "extra-params": { "supported-hash-algorithms": HASH_ALGORITHMS },
        });
        Request::post(AUTH, None, body.to_string().into_bytes())
    }

    /// Reads the answer to [`auth_request`](Self::auth_request). `key` is what secrets will be
    /// encrypted to.
    ///
    /// # Errors
    /// [`Error::Version`], [`Error::SessionRefused`], [`Error::Malformed`].
    pub fn challenged(tee: &str, key: TeeKey, answer: &Answer) -> Result<Self, Error> {
        if answer.status != 200 {
            return Err(answer.session_refusal(tee));
        }
        let challenge: Challenge = answer.message("a challenge with nonce")?;
        let hash = selected_hash(&challenge.extra_params)
            .ok_or_else(|| answer.malformed("sha256, sha384 or sha512 as hash algorithm"))?;
        let cookie = SessionCookie::from_answer(answer)
            .ok_or_else(|| answer.malformed("the session cookie kbs-session-id"))?;
        Ok(Self {
            key,
            state: Challenged {
                cookie,
                nonce: challenge.nonce,
                hash,
            },
        })
    }

    /// What the evidence of secondary devices must carry.
    ///
    /// # Errors
    /// [`Error::Unwritable`], if the nonce has no canonical form.
    pub fn device_report_data(&self) -> Result<ReportData, Error> {
        self.hash(None)
    }

    /// What the primary evidence must carry. `additional` is the evidence of secondary devices,
    /// exactly as it will be sent.
    ///
    /// # Errors
    /// [`Error::Unwritable`], if the nonce has no canonical form.
    pub fn report_data(&self, additional: &str) -> Result<ReportData, Error> {
        self.hash(Some(additional))
    }

    /// The request that delivers evidence.
    ///
    /// # Errors
    /// [`Error::Unwritable`], if the evidence cannot be written as JSON.
    pub fn attest_request(
        &self,
        evidence: &Evidence,
        init_data: Option<&InitData>,
    ) -> Result<Request, Error> {
        let body = Attestation {
            init_data: init_data.map(InitData::to_json),
            runtime_data: self.runtime_data(None),
            tee_evidence: TeeEvidence {
                primary_evidence: &evidence.primary,
                additional_evidence: &evidence.additional,
            },
        };
        let body = serde_json::to_vec(&body).map_err(unwritable)?;
        Ok(Request::post(ATTEST, Some(&self.state.cookie), body))
    }

    /// Reads the answer to [`attest_request`](Self::attest_request). `proof` is what will go with
    /// requests from now on.
    ///
    /// # Errors
    /// [`Error::EvidenceRefused`], [`Error::Malformed`].
    pub fn attested(
        self,
        answer: &Answer,
        proof: SessionProof,
    ) -> Result<Handshake<Attested>, Error> {
        if answer.status != 200 {
            return Err(answer.evidence_refusal());
        }
        let expected = "an attestation token";
        let token: TokenAnswer = answer.message(expected)?;
        let token =
            Token::parse(Zeroizing::new(token.token)).ok_or_else(|| answer.malformed(expected))?;
        let lifetime = Lifetime::of_token(&token.0, answer.received);
        let (proof, lifetime) = match proof {
            SessionProof::Bearer => (Proof::Bearer, lifetime),
            SessionProof::Cookie => {
                let cookie = SessionCookie::from_answer(answer).unwrap_or(self.state.cookie);
                let lifetime = lifetime.shorter_of(cookie.lifetime);
                (Proof::Cookie(cookie), lifetime)
            }
        };
        let state = Attested {
            proof,
            token,
            lifetime,
        };
        Ok(Handshake {
            key: self.key,
            state,
        })
    }

    fn runtime_data<'a>(&'a self, additional_evidence: Option<&'a str>) -> RuntimeData<'a> {
        RuntimeData {
            additional_evidence,
            nonce: &self.state.nonce,
            tee_pubkey: self.key.public(),
        }
    }

    fn hash(&self, additional_evidence: Option<&str>) -> Result<ReportData, Error> {
        let runtime_data = self.runtime_data(additional_evidence);
        ReportData::digest_of(self.state.hash, &runtime_data).map_err(unwritable)
    }
}

impl Handshake<Attested> {
    /// Goes on from a handshake that somebody else has done, such as the attestation agent: its
    /// token, received just now, and its key. None if the token is none.
    pub fn with_token(key: TeeKey, token: Zeroizing<String>) -> Option<Self> {
        let token = Token::parse(token)?;
        let lifetime = Lifetime::of_token(&token.0, Instant::now());
        let state = Attested {
            proof: Proof::Bearer,
            token,
            lifetime,
        };
        Some(Self { key, state })
    }

    /// The request for a resource.
    pub fn resource_request(&self, uri: &ResourceUri) -> Request {
        let (cookie, bearer) = match &self.state.proof {
            Proof::Cookie(cookie) => (Some(cookie.pair()), None),
            Proof::Bearer => (None, Some(self.state.token.0.clone())),
        };
        Request {
            method: Method::Get,
            path: uri.http_path(),
            query: uri.query().map(str::to_owned),
            cookie,
            bearer,
            body: Vec::new(),
        }
    }

    /// What the token says of the guest, for people: its signature is not checked here.
    pub fn untrusted_claims(&self) -> Option<Value> {
        untrusted_claims(&self.state.token.0)
    }

    /// When the token says that it was issued, in seconds since 1970.
    pub(crate) fn untrusted_issue(&self) -> Option<f64> {
        untrusted_claims(&self.state.token.0).map(|life: TokenLife| life.iat)
    }

    /// Reads the answer to [`resource_request`](Self::resource_request) and decrypts the resource.
    ///
    /// # Errors
    /// [`Error::PolicyDenied`], [`Error::NotFound`], [`Error::NoSuchPlugin`], [`Error::Refused`],
    /// [`Error::Undecryptable`]; [`Error::TokenRefused`] calls for a new handshake.
    pub fn open(&self, answer: &Answer) -> Result<Secret, Error> {
        if answer.status != 200 {
            return Err(answer.resource_refusal());
        }
        self.key
            .open(&answer.body)
            .map_err(|source| Error::Undecryptable {
                url: answer.url.clone(),
                source,
            })
    }

    /// Whether the session or its token has ended, or is about to, by what the KBS said of them.
    pub fn is_over(&self, now: Instant) -> bool {
        self.state.lifetime.is_over(now)
    }
}

impl<State> fmt::Debug for Handshake<State> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = std::any::type_name::<State>()
            .rsplit("::")
            .next()
            .unwrap_or_default();
        formatter
            .debug_struct("Handshake")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}

/// What an attester produced, ready to be sent.
#[derive(Clone)]
pub struct Evidence {
    /// Of the TEE itself.
    pub primary: Value,
    /// Of secondary devices: the text of a JSON object, or empty.
    pub additional: String,
}

/// Evidence is masked.
impl fmt::Debug for Evidence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Evidence").finish_non_exhaustive()
    }
}

/// The two methods that the protocol uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Fetches a resource.
    Get,
    /// Carries a step of the handshake.
    Post,
}

/// A request to send beneath the address of the KBS.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    method: Method,
    path: String,
    query: Option<String>,
    cookie: Option<String>,
    bearer: Option<Zeroizing<String>>,
    body: Vec<u8>,
}

impl Request {
    fn post(path: &str, cookie: Option<&SessionCookie>, body: Vec<u8>) -> Self {
        let cookie = cookie.map(SessionCookie::pair);
        Self {
            method: Method::Post,
            path: path.to_owned(),
            query: None,
            cookie,
            bearer: None,
            body,
        }
    }

    /// GET or POST.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Path beneath the address of the KBS, with a leading `/`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Query, without its `?`.
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// Value of the `Cookie` header.
    pub fn cookie(&self) -> Option<&str> {
        self.cookie.as_deref()
    }

    /// The token for an `Authorization` header of type `Bearer`.
    pub fn bearer(&self) -> Option<&str> {
        self.bearer.as_ref().map(|token| token.as_str())
    }

    /// JSON, empty for GET.
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

/// Cookie and evidence are masked.
impl fmt::Debug for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Request")
            .field("method", &self.method)
            .field("path", &self.path)
            .field("body_length", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// An answer of the server, complete and within its cap. Nothing in it is trusted.
#[derive(Clone)]
pub struct Answer {
    /// Where it came from, for errors: without query.
    pub url: String,
    /// When its head arrived.
    pub received: Instant,
    /// HTTP status.
    pub status: u16,
    /// Values of `Set-Cookie`.
    pub set_cookie: Vec<String>,
    /// Value of `Date`.
    pub date: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    fn message<T: serde::de::DeserializeOwned>(&self, expected: &'static str) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|source| Error::Malformed {
            url: self.url.clone(),
            expected,
            source: Some(Arc::new(unquoted(source))),
        })
    }

    fn malformed(&self, expected: &'static str) -> Error {
        Error::Malformed {
            url: self.url.clone(),
            expected,
            source: None,
        }
    }

    /// Errors carry no content type, and their status says little (401 for nearly everything): the
    /// kind at the end of `type` is what counts.
    fn refusal(&self) -> Refusal {
        let answer = serde_json::from_slice::<ErrorAnswer>(&self.body).ok();
        let (kind, detail) = answer
            .map(|answer| (answer.kind, answer.detail))
            .unwrap_or_default();
        let kind = kind.rsplit('/').next().unwrap_or_default();
        Refusal {
            status: self.status,
            kind: printable(kind),
            detail: printable(&detail),
        }
    }

    fn session_refusal(&self, tee: &str) -> Error {
        let (url, refusal) = (self.url.clone(), self.refusal());
        // Older servers may call it by another kind.
        if let Some(theirs) = expected_version(&refusal.detail) {
            return Error::Version {
                url,
                ours: PROTOCOL_VERSION,
                theirs,
            };
        }
        if refusal.kind == "AttestationError" {
            return Error::SessionRefused {
                url,
                tee: tee.to_owned(),
                refusal,
            };
        }
        Error::Refused { url, refusal }
    }

    fn evidence_refusal(&self) -> Error {
        let (url, refusal) = (self.url.clone(), self.refusal());
        if refusal.kind == "AttestationError" {
            let date = self.date.as_deref().map(printable);
            return Error::EvidenceRefused { url, date, refusal };
        }
        Error::Refused { url, refusal }
    }

    /// Where the kind is unknown or absent, the status decides, as the protocol's text has it: a
    /// server that follows it says 403 and 404 where trustee says 401.
    fn resource_refusal(&self) -> Error {
        let (url, refusal) = (self.url.clone(), self.refusal());
        match refusal.kind.as_str() {
            "PolicyDeny" => Error::PolicyDenied { url },
            "PluginInternalError" => Error::NotFound { url },
            "PluginNotFound" => Error::NoSuchPlugin { url },
            "TokenNotFound" | "TokenVerifierError" => Error::TokenRefused { url, refusal },
            _ => match refusal.status {
                403 => Error::PolicyDenied { url },
                404 => Error::NotFound { url },
                _ => Error::Refused { url, refusal },
            },
        }
    }
}

/// Cookies, bodies and tokens are masked.
impl fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Answer")
            .field("url", &self.url)
            .field("status", &self.status)
            .field("body_length", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// What goes with requests.
#[derive(Debug)]
enum Proof {
    Cookie(SessionCookie),
    Bearer,
}

/// An attestation token, masked, in characters that a header may hold.
struct Token(Zeroizing<String>);

impl Token {
    fn parse(text: Zeroizing<String>) -> Option<Self> {
        let legal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        legal.then_some(Self(text))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(..)")
    }
}

/// The session, and how long it lives.
#[derive(Clone)]
struct SessionCookie {
    value: String,
    lifetime: Lifetime,
}

impl SessionCookie {
    fn from_answer(answer: &Answer) -> Option<Self> {
        let cookie = answer.set_cookie.iter().find_map(|line| {
            line.trim_start()
                .strip_prefix(COOKIE_NAME)?
                .strip_prefix('=')
        })?;
        let mut parts = cookie.split(';').map(str::trim);
        let value = parts
            .next()
            .filter(|value| is_cookie_value(value))?
            .to_owned();
        let expires = parts.find_map(|attribute| {
            let (name, moment) = attribute.split_once('=')?;
            name.trim()
                .eq_ignore_ascii_case("expires")
                .then_some(moment.trim())
        });
        let lifetime = Lifetime::of_cookie(expires, answer.date.as_deref(), answer.received);
        Some(Self { value, lifetime })
    }

    fn pair(&self) -> String {
        format!("{COOKIE_NAME}={}", self.value)
    }
}

impl fmt::Debug for SessionCookie {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SessionCookie(..)")
    }
}

const AUTH: &str = "/kbs/v0/auth";
const ATTEST: &str = "/kbs/v0/attest";
const COOKIE_NAME: &str = "kbs-session-id";
const HASH_ALGORITHMS: [&str; 3] = ["sha256", "sha384", "sha512"];

/// RFC 6265 section 4.1.1, `cookie-octet`, within reason.
fn is_cookie_value(value: &str) -> bool {
    let octet = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b',' | b';' | b'\\');
    !value.is_empty() && value.len() <= 4096 && value.bytes().all(octet)
}

/// SHA-384 unless the server selects another of those that were offered.
fn selected_hash(extra_params: &Value) -> Option<&'static digest::Algorithm> {
    let Some(selected) = extra_params.get("selected-hash-algorithm") else {
        return Some(&digest::SHA384);
    };
    match selected.as_str()?.to_ascii_lowercase().as_str() {
        "sha256" => Some(&digest::SHA256),
        "sha384" => Some(&digest::SHA384),
        "sha512" => Some(&digest::SHA512),
        _ => None,
    }
}

/// `..Protocol Version Mismatch: expect =0.4.0 while the request is 0.3.0`: nothing else in the
/// protocol tells the server's version.
fn expected_version(detail: &str) -> Option<String> {
    let (_, mismatch) = detail.split_once("Version Mismatch")?;
    let version = mismatch
        .split_once("expect ")
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .map_or("another one, which it does not name", |version| {
            version.trim_start_matches('=')
        });
    Some(version.to_owned())
}

fn unwritable(source: serde_json::Error) -> Error {
    Error::Unwritable {
        url: ATTEST.to_owned(),
        source: Arc::new(source),
    }
}

#[cfg(test)]
mod tests;
