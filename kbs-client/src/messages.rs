//! The JSON of protocol 0.4.0. The mixed naming is real: outer names take dashes, the two members
//! of `tee-evidence` take underscores.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Answer to `POST /kbs/v0/auth`.
#[derive(Deserialize)]
pub(crate) struct Challenge {
    /// Opaque: the string itself is hashed and echoed.
    pub nonce: String,
    /// `""`, or an object that may select a hash algorithm.
    #[serde(rename = "extra-params", default)]
    pub extra_params: Value,
}

/// Body of `POST /kbs/v0/attest`.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Attestation<'a> {
    /// Init-data of the guest; null when it has none.
    pub init_data: Option<Value>,
    pub runtime_data: RuntimeData<'a>,
    pub tee_evidence: TeeEvidence<'a>,
}

/// What is sent, and, in canonical form, what is hashed.
#[derive(Serialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct RuntimeData<'a> {
    /// Hashed, not sent, for the primary TEE; absent for secondary devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub additional_evidence: Option<&'a str>,
    pub nonce: &'a str,
    pub tee_pubkey: &'a Jwk,
}

#[derive(Serialize)]
pub(crate) struct TeeEvidence<'a> {
    pub primary_evidence: &'a Value,
    pub additional_evidence: &'a str,
}

/// Answer to `POST /kbs/v0/attest`.
#[derive(Deserialize)]
pub(crate) struct TokenAnswer {
    pub token: String,
}

/// The claims of a token that say how long it lives (RFC 7519, `NumericDate`).
#[derive(Deserialize)]
pub(crate) struct TokenLife {
    pub iat: f64,
    pub exp: f64,
}

/// Body of every error of the KBS.
#[derive(Deserialize)]
pub(crate) struct ErrorAnswer {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub detail: String,
}

/// A public key. Exactly these members: the server drops others before it hashes.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(tag = "kty")]
pub(crate) enum Jwk {
    #[serde(rename = "EC")]
    Ec {
        crv: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        alg: Option<String>,
        x: String,
        y: String,
    },
    #[serde(rename = "RSA")]
    Rsa { alg: String, n: String, e: String },
}

/// A flattened JWE (RFC 7516 section 7.2.2), all values base64url without padding.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FlattenedJwe {
    pub protected: String,
    pub encrypted_key: String,
    pub iv: String,
    pub ciphertext: String,
    pub tag: String,
    pub aad: Option<String>,
}

/// The protected header. A member that changes how the message is read must be understood, so
/// unknown ones are refused (`crit`, `zip`).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JweHeader {
    pub alg: String,
    pub enc: String,
    pub epk: Option<Jwk>,
    pub apu: Option<String>,
    pub apv: Option<String>,
    #[serde(rename = "kid")]
    _kid: Option<String>,
    #[serde(rename = "typ")]
    _typ: Option<String>,
    #[serde(rename = "cty")]
    _cty: Option<String>,
}
