//! Signatures and attestations that are not in a bundle, made into one: so that one engine judges
//! all of them.

use base64::DecodeError;
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::certificate::{Certificate, CertificateError, PemCertificates};
use crate::cosign::{BUNDLE_ANNOTATION, CERTIFICATE_ANNOTATION, CHAIN_ANNOTATION};
use crate::digest::Digest;
use crate::encoding::{decode_base64, encode_base64};
use crate::evidence::CosignSignature;
use crate::json::{Json, JsonError};
use crate::sigstore::{BundleProblem, UntrustedBundle};

/// The payload of a cosign signature and the evidence in the annotations beside it, as a bundle that
/// says the same. `signature` is in base64.
pub fn signature_as_bundle(
    found: &CosignSignature,
    untrusted_payload: &[u8],
    signature: &str,
) -> Result<UntrustedBundle, AttachedProblem> {
    let content = json!({
        "messageDigest": {
            "algorithm": "SHA2_256",
            "digest": encode_base64(Digest::sha256_of(untrusted_payload).bytes()),
        },
        "signature": encode_base64(&decode_base64(signature)?),
    });
    bundle(found, SIGNED_BYTES, &content)
}

/// An envelope, whatever evidence there is beside it.
pub(crate) fn bare_envelope(untrusted_envelope: &[u8]) -> Result<UntrustedBundle, AttachedProblem> {
    let content = Json::parse(untrusted_envelope)?.root().to_value()?;
    Ok(UntrustedBundle::of_envelope(&content)?)
}

/// An envelope and the evidence in the annotations beside it.
pub(crate) fn envelope_as_bundle(
    found: &CosignSignature,
    untrusted_envelope: &[u8],
) -> Result<UntrustedBundle, AttachedProblem> {
    let content = Json::parse(untrusted_envelope)?.root().to_value()?;
    bundle(found, "dsseEnvelope", &content)
}

fn bundle(
    found: &CosignSignature,
    kind: &str,
    content: &Value,
) -> Result<UntrustedBundle, AttachedProblem> {
    let annotation = |key: &str| found.annotations.get(key);
    let mut material = Map::new();
    let (key, signer) = match annotation(CERTIFICATE_ANNOTATION) {
        Some(pem) => (
            "x509CertificateChain",
            json!({"certificates": chain(found, pem)?}),
        ),
        None => ("publicKey", json!({"hint": ""})),
    };
    material.insert(key.to_owned(), signer);
    if let Some(entry) = annotation(BUNDLE_ANNOTATION) {
        let entries = json!([log_entry(entry)?]);
        material.insert("tlogEntries".to_owned(), entries);
    }
    // Beside an envelope cosign's is of all of it, where bundles have one of the signature: nothing
    // that the engine could check.
    let stamp = annotation(TIMESTAMP_ANNOTATION).filter(|_| kind == SIGNED_BYTES);
    if let Some(stamp) = stamp {
        let json = Json::parse(stamp.as_bytes())?;
        let stamp = json.root().open_object()?;
        let stamp = stamp.required("SignedRFC3161Timestamp")?.string()?;
        let stamps = json!({"rfc3161Timestamps": [{"signedTimestamp": stamp}]});
        material.insert("timestampVerificationData".to_owned(), stamps);
    }
    // Of the versions only the first is content with the promise of a log.
    let version = if annotation(BUNDLE_ANNOTATION).is_some() {
        "0.1"
    } else {
        "0.2"
    };
    let bundle = json!({
        "mediaType": format!("application/vnd.dev.sigstore.bundle+json;version={version}"),
        "verificationMaterial": material,
        kind: content,
    });
    Ok(UntrustedBundle::parse(bundle.to_string().as_bytes())?)
}

/// The last one of a chain is the root that the signer thinks of, and means nothing.
fn chain(found: &CosignSignature, leaf: &str) -> Result<Vec<Value>, AttachedProblem> {
    let mut certificates = vec![Certificate::from_pem(leaf.as_bytes())?];
    if let Some(pem) = found.annotations.get(CHAIN_ANNOTATION) {
        let blocks = PemCertificates::read(pem.as_bytes())?;
        let many = blocks.len();
        if many > MAX_CHAIN {
            return Err(AttachedProblem::LongChain { found: many });
        }
        let mut above = blocks.parse()?;
        above.pop();
        certificates.extend(above);
    }
    let raw = |certificate: &Certificate| json!({"rawBytes": encode_base64(certificate.der())});
    Ok(certificates.iter().map(raw).collect())
}

/// `{"SignedEntryTimestamp", "Payload": {body, integratedTime, logIndex, logID}}`, as cosign has it.
fn log_entry(annotation: &str) -> Result<Value, AttachedProblem> {
    let json = Json::parse(annotation.as_bytes())?;
    let top = json.root().object(&["SignedEntryTimestamp", "Payload"])?;
    let promise = top.required("SignedEntryTimestamp")?.string()?;
    let known = ["body", "integratedTime", "logID", "logIndex"];
    let payload = top.required("Payload")?.object(&known)?;
    let body = payload.required("body")?.string()?;
    let decoded = decode_base64(body)?;
    let entry = Json::parse(&decoded)?;
    let entry = entry.root().open_object()?;
    let log = payload.required("logID")?.string()?;
    let log: Digest = format!("sha256:{log}")
        .parse()
        .map_err(AttachedProblem::LogId)?;
    Ok(json!({
        "logIndex": payload.required("logIndex")?.unsigned()?.to_string(),
        "logId": {"keyId": encode_base64(log.bytes())},
        "kindVersion": {
            "kind": entry.required("kind")?.string()?,
            "version": entry.required("apiVersion")?.string()?,
        },
        "integratedTime": payload.required("integratedTime")?.unsigned()?.to_string(),
        "inclusionPromise": {"signedEntryTimestamp": promise},
        "canonicalizedBody": body,
    }))
}

/// Why what stands beside a signature is no evidence. Anyone may have put it there.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum AttachedProblem {
    /// Not the JSON that it should be.
    #[error("its evidence is malformed: {0}")]
    Json(JsonError),
    /// Something that should be base64 is not.
    #[error("a part of its evidence is not base64: {0}")]
    Base64(#[from] DecodeError),
    /// The name of the log is none.
    #[error("the name of its log: {0}")]
    LogId(crate::digest::DigestError),
    /// The certificates beside it are none.
    #[error("its certificate: {0}")]
    Certificate(#[from] CertificateError),
    /// More authorities than any honest chain has.
    #[error("its certificate chain has {found} certificates, at most {MAX_CHAIN} are read")]
    LongChain {
        /// How many it has.
        found: usize,
    },
    /// All of it together is no bundle.
    #[error("{0}")]
    Bundle(#[from] BundleProblem),
}

impl From<JsonError> for AttachedProblem {
    fn from(error: JsonError) -> Self {
        Self::Json(error)
    }
}

const SIGNED_BYTES: &str = "messageSignature";
const TIMESTAMP_ANNOTATION: &str = "dev.sigstore.cosign/rfc3161timestamp";
const MAX_CHAIN: usize = 8;
