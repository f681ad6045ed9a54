//! Transparency logs: that Rekor saw a signature, and that it was this one.
//!
//! A signed entry timestamp proves that a log took in some entry at some time, and no more. That
//! the entry is about the signature at hand takes four bindings, each checked for itself and with
//! an error of its own: the signer, the signature, the hash, the content (CVE-2026-22703 is what
//! comes of leaving them out).

use serde::Serialize;
use thiserror::Error;

use crate::digest::Digest;
use crate::encoding::{PemError, decode_base64, decode_lone_pem};
use crate::json::{Json, JsonError, Node};
use crate::key::{KeyError, PublicKey};

/// The public key of a transparency log.
#[derive(Debug)]
pub struct LogKey(PublicKey);

impl LogKey {
    /// Reads a text that is exactly one PEM block with an ECDSA key.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        let key = PublicKey::from_pem(text)?;
        if key.is_ecdsa() {
            Ok(Self(key))
        } else {
            Err(KeyError::NotEcdsa)
        }
    }

    pub(crate) fn key(&self) -> &PublicKey {
        &self.0
    }
}

/// What a log promised to have logged, as it stands beside a signature. Nothing in it is proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UntrustedLogEntry {
    timestamp_signature: Vec<u8>,
    body: Vec<u8>,
    integrated_time: u64,
    /// The payload in the form that logs sign: JSON as RFC 8785 has it.
    canonical: Vec<u8>,
}

impl UntrustedLogEntry {
    /// Reads the `dev.sigstore.cosign/bundle` annotation of a signature.
    ///
    /// The canonical form is made from what was read, so that there is no second reading of it.
    pub fn parse(bundle: &[u8]) -> Result<Self, LogProblem> {
        let (limit, found) = (MAX_BUNDLE_BYTES, bundle.len());
        if found > limit {
            return Err(LogProblem::TooLarge { limit, found });
        }
        let json = Json::parse(bundle)?;
        let top = json.root().object(&["SignedEntryTimestamp", "Payload"])?;
        let timestamp_signature = base64(&top.required("SignedEntryTimestamp")?)?;
        let known = ["body", "integratedTime", "logID", "logIndex"];
        let payload = top.required("Payload")?.object(&known)?;
        let body = payload.required("body")?;
        let integrated_time = exact(&payload.required("integratedTime")?)?;
        let signed = SignedForm {
            body: body.string()?,
            integrated_time,
            log_id: payload.required("logID")?.string()?,
            log_index: exact(&payload.required("logIndex")?)?,
        };
        let canonical = serde_json_canonicalizer::to_vec(&signed);
        let canonical = canonical.map_err(|source| LogProblem::NotCanonical {
            why: source.to_string(),
        })?;
        Ok(Self {
            timestamp_signature,
            body: base64(&body)?,
            integrated_time,
            canonical,
        })
    }

    /// The entry, once one of `logs` has signed for it.
    pub(crate) fn promised_by(self, logs: &[LogKey]) -> Result<LogEntry, LogProblem> {
        let signed = |log: &LogKey| log.0.verifies(&self.canonical, &self.timestamp_signature);
        if !logs.iter().any(signed) {
            return Err(LogProblem::OtherLog { tried: logs.len() });
        }
        LogEntry::parse(&self.body, self.integrated_time)
    }
}

/// An entry that a trusted log has. It may be about anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogEntry {
    integrated_time: u64,
    signer: Signer,
    signature: Vec<u8>,
    hash_algorithm: String,
    hash: String,
}

impl LogEntry {
    fn parse(body: &[u8], integrated_time: u64) -> Result<Self, LogProblem> {
        let json = Json::parse(body)?;
        let top = json.root().object(&["apiVersion", "kind", "spec"])?;
        let (kind, version) = (top.required("kind")?, top.required("apiVersion")?);
        let found = (kind.string()?, version.string()?);
        if found != (KIND, VERSION) {
            let (kind, version) = (found.0.to_owned(), found.1.to_owned());
            return Err(LogProblem::Kind { kind, version });
        }
        let spec = top.required("spec")?.object(&["data", "signature"])?;
        let hash = spec.required("data")?.object(&["hash"])?;
        let hash = hash.required("hash")?.object(&["algorithm", "value"])?;
        let signature = spec.required("signature")?;
        let signature = signature.object(&["content", "publicKey"])?;
        let signer = signature.required("publicKey")?.object(&["content"])?;
        Ok(Self {
            integrated_time,
            signer: Signer::from_pem(&base64(&signer.required("content")?)?)?,
            signature: base64(&signature.required("content")?)?,
            hash_algorithm: hash.required("algorithm")?.string()?.to_owned(),
            hash: hash.required("value")?.string()?.to_owned(),
        })
    }

    /// The first binding: who signed. Of several candidates, the place of the one that is named.
    pub(crate) fn signer_among(
        &self,
        candidates: impl IntoIterator<Item = Signer>,
    ) -> Result<usize, LogProblem> {
        let mut candidates = candidates.into_iter();
        let place = candidates.position(|candidate| candidate == self.signer);
        place.ok_or(LogProblem::OtherSigner)
    }

    /// The other three: the signature, the hash that it is over, the content that has this hash.
    pub(crate) fn about(&self, signature: &[u8], payload: &[u8]) -> Result<u64, LogProblem> {
        if self.signature != signature {
            return Err(LogProblem::OtherSignature);
        }
        if self.hash_algorithm != HASH {
            let found = self.hash_algorithm.clone();
            return Err(LogProblem::OtherHash { found });
        }
        let expected = Digest::sha256_of(payload);
        if self.hash != expected.hex() {
            let found = self.hash.clone();
            return Err(LogProblem::OtherContent { expected, found });
        }
        Ok(self.integrated_time)
    }
}

/// Who signed: the sha256 digest of a `SubjectPublicKeyInfo` or of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signer {
    Key(Digest),
    Certificate(Digest),
}

impl Signer {
    pub(crate) fn from_pem(text: &[u8]) -> Result<Self, LogProblem> {
        match decode_lone_pem(text).map_err(LogProblem::Signer)? {
            ("PUBLIC KEY", der) => Ok(Self::Key(Digest::sha256_of(&der))),
            ("CERTIFICATE", der) => Ok(Self::Certificate(Digest::sha256_of(&der))),
            (label, _) => Err(LogProblem::SignerLabel {
                found: label.to_owned(),
            }),
        }
    }
}

/// When one of `logs` took in this very signature, in seconds since 1970.
///
/// `bundle` is the annotation of that name, `signer` the PEM of the public key or certificate,
/// `signature` the signature over `payload` in base64. It proves nothing about the signature
/// itself.
pub fn open_log_entry(
    logs: &[LogKey],
    bundle: &[u8],
    signer: &[u8],
    signature: &str,
    payload: &[u8],
) -> Result<u64, LogProblem> {
    let entry = UntrustedLogEntry::parse(bundle)?.promised_by(logs)?;
    entry.signer_among([Signer::from_pem(signer)?])?;
    let signature = decode_base64(signature).map_err(LogProblem::Base64)?;
    entry.about(&signature, payload)
}

/// Why a log entry proves nothing about a signature. Anyone may have put it there.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LogProblem {
    /// More than any honest entry has.
    #[error("it has {found} bytes, at most {limit} are read")]
    TooLarge {
        /// The limit.
        limit: usize,
        /// The size.
        found: usize,
    },
    /// Not the JSON that it should be, to the key.
    #[error("{0}")]
    Json(JsonError),
    /// Something that should be base64 is not.
    #[error("a part of it is not base64: {0}")]
    Base64(base64::DecodeError),
    /// A number that has no exact form in canonical JSON (RFC 8785 section 3.2.2.3).
    #[error("the number {found} is too large to be exact in JSON")]
    Inexact {
        /// The number.
        found: u64,
    },
    /// There is no canonical form of it.
    #[error("it has no canonical form: {why}")]
    NotCanonical {
        /// What the serialiser says.
        why: String,
    },
    /// No log of the policy signed for it.
    #[error("it is promised by none of the {tried} logs of the policy")]
    OtherLog {
        /// The number of keys tried.
        tried: usize,
    },
    /// An entry of another kind.
    #[error("it is a {kind:?} of version {version:?}, not a {KIND} of version {VERSION}")]
    Kind {
        /// The kind of the entry.
        kind: String,
        /// Its version.
        version: String,
    },
    /// The signer that it names is no PEM block.
    #[error("its signer: {0}")]
    Signer(PemError),
    /// The signer is neither a key nor a certificate.
    #[error("its signer is a PEM block of {found:?}, not of PUBLIC KEY or CERTIFICATE")]
    SignerLabel {
        /// The label.
        found: String,
    },
    /// The entry is about another key or certificate.
    #[error("it is about another signer's signature")]
    OtherSigner,
    /// The entry is about another signature.
    #[error("it is about another signature")]
    OtherSignature,
    /// The entry is about a hash of another kind.
    #[error("its hash is a {found:?}, not a {HASH}")]
    OtherHash {
        /// The algorithm.
        found: String,
    },
    /// The entry is about other content.
    #[error("it is about content with the hash {found:?}, this is {expected}")]
    OtherContent {
        /// The hash of the content at hand.
        expected: Digest,
        /// The hash in the entry.
        found: String,
    },
}

impl From<JsonError> for LogProblem {
    fn from(error: JsonError) -> Self {
        Self::Json(error)
    }
}

/// What a log signs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SignedForm<'a> {
    body: &'a str,
    integrated_time: u64,
    #[serde(rename = "logID")]
    log_id: &'a str,
    log_index: u64,
}

fn base64(node: &Node<'_>) -> Result<Vec<u8>, LogProblem> {
    decode_base64(node.string()?).map_err(LogProblem::Base64)
}

fn exact(node: &Node<'_>) -> Result<u64, LogProblem> {
    match node.unsigned()? {
        found @ ..=MAX_EXACT => Ok(found),
        found => Err(LogProblem::Inexact { found }),
    }
}

/// A signature, a certificate and a hash, each in base64 twice, are 8 KiB.
const MAX_BUNDLE_BYTES: usize = 64 << 10;
/// 2^53-1, beyond which two integers may be one number.
const MAX_EXACT: u64 = (1 << 53) - 1;
const KIND: &str = "hashedrekord";
const VERSION: &str = "0.0.1";
const HASH: &str = "sha256";
