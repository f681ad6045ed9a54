//! Answers, in the words of the real server.

use std::io;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use serde_json::json;

/// Every error that a client can be told. The status says little; the kind is what counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    VersionMismatch {
        found: String,
    },
    VersionUnreadable,
    RequestUnreadable,
    NoChallenge,
    /// The cause is told to the log alone.
    Attest,
    TokenNotFound,
    TokenVerifier,
    PolicyDeny,
    Broken,
    Plugin,
    Jwe,
    PluginNotFound {
        name: String,
    },
    Outside,
    Method,
    TooLarge,
}

impl Refusal {
    pub(super) fn into_response(self) -> Response<BoxBody<Bytes, io::Error>> {
        let auth = |cause: &str| {
            error(
                401,
                "AttestationError",
                &format!("{ATTESTATION} Auth failed: {cause}"),
            )
        };
        match self {
            Self::VersionMismatch { found } => auth(&format!(
                "KBS Client Protocol Version Mismatch: expect =0.4.0 while the request is {found}"
            )),
            Self::VersionUnreadable => auth("failed to parse KBS version"),
            Self::RequestUnreadable => auth("deserialize Request"),
            Self::NoChallenge => auth("Attestation Service generate challenge failed"),
            Self::Attest => error(
                401,
                "AttestationError",
                &format!("{ATTESTATION} Attest failed"),
            ),
            Self::TokenNotFound => error(401, "TokenNotFound", "Attestation Token not found"),
            Self::TokenVerifier => error(401, "TokenVerifierError", "Token Verifier error"),
            Self::PolicyDeny => error(401, "PolicyDeny", "Access denied by policy"),
            Self::Broken => plain(503, String::new()),
            Self::Plugin => error(401, "PluginInternalError", "Plugin internal error"),
            Self::Jwe => error(401, "JweError", "JWE failed"),
            Self::PluginNotFound { name } => {
                error(404, "PluginNotFound", &format!("Plugin {name} not found"))
            }
            Self::Outside => plain(404, String::new()),
            Self::Method => {
                let mut response = plain(405, String::new());
                let allow = HeaderValue::from_static("GET, POST, DELETE");
                response.headers_mut().insert(header::ALLOW, allow);
                response
            }
            Self::TooLarge => {
                let mut response = plain(413, "payload reached size limit".to_owned());
                let text = HeaderValue::from_static("text/plain; charset=utf-8");
                response.headers_mut().insert(header::CONTENT_TYPE, text);
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
                response
            }
        }
    }
}

const ATTESTATION: &str = "Attestation error: RCAR handshake";

/// Body of an error.
pub(super) fn error_body(kind: &str, detail: &str) -> String {
    let kind = format!("https://github.com/confidential-containers/kbs/errors/{kind}");
    json!({ "type": kind, "detail": detail }).to_string()
}

/// Success with a message.
pub(super) fn json(body: impl Into<Bytes>) -> Response<BoxBody<Bytes, io::Error>> {
    let mut response = with_body(body);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// An answer without content type.
pub(super) fn plain(status: u16, body: String) -> Response<BoxBody<Bytes, io::Error>> {
    let mut response = with_body(body);
    *response.status_mut() = StatusCode::from_u16(status).expect("a legal status");
    response
}

fn error(status: u16, kind: &str, detail: &str) -> Response<BoxBody<Bytes, io::Error>> {
    plain(status, error_body(kind, detail))
}

fn with_body(body: impl Into<Bytes>) -> Response<BoxBody<Bytes, io::Error>> {
    Response::new(
        Full::new(body.into())
            .map_err(|never| match never {})
            .boxed(),
    )
}
