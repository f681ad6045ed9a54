//! `sigstoreSigned`: a cosign signature, checked step by step.

use thiserror::Error;

use crate::attached::AttachedProblem;
use crate::authority::CertificateProblem;
use crate::bundle::check_annotations;
use crate::claims::Claims;
use crate::conditions::UnmetCondition;
use crate::decision::Proof;
use crate::digest::Digest;
use crate::encoding::decode_base64;
use crate::evidence::{COSIGN_PAYLOAD, CosignSignature, NotFetched};
use crate::freshness::Stale;
use crate::identity::{IdentityMismatch, SignedIdentity};
use crate::key::PublicKey;
use crate::manifest::{Manifest, Subject, SubjectKind, Unverified};
use crate::openpgp::OpenPgpProblem;
use crate::payload::{Payload, PayloadError};
use crate::rekor::LogProblem;
use crate::requirement::SigstoreSigned;
use crate::signers::Signers;
use crate::sigstore::{BundleProblem, TrustedRootError};
use crate::statement::StatementProblem;

/// Checks one signature against a requirement's signers.
///
/// In the order of trust: the signature over the bytes, then what the bytes say, then whether that
/// is about this image, then whether it is about the name asked for.
pub(crate) fn verify(
    signature: &CosignSignature,
    signers: &Signers,
    wanted: &SigstoreSigned,
    manifest: &Unverified<Manifest>,
) -> Result<(Proof, Claims), SignatureProblem> {
    if signature.media_type != COSIGN_PAYLOAD {
        let found = signature.media_type.clone();
        return Err(SignatureProblem::MediaType { found });
    }
    let untrusted_payload = match &signature.payload {
        Ok(payload) => payload,
        Err(why) => return Err(SignatureProblem::NotFetched { why: why.clone() }),
    };
    let encoded = signature
        .annotations
        .get(SIGNATURE_ANNOTATION)
        .ok_or(SignatureProblem::NoSignature)?;
    let opened = signers.open(signature, untrusted_payload, encoded)?;
    let payload = opened.payload;
    let subject = subject_of(&payload, manifest)?;
    let signed = payload.untrusted_reference();
    let default = SignedIdentity::default_for_cosign(signed);
    let identity = wanted.identity.as_ref();
    identity
        .unwrap_or(&default)
        .accepts(manifest.reference().as_reference(), signed)?;
    let proof = Proof {
        key_fingerprint: opened.signer,
        certificate: opened.certificate,
        logged_at: opened.logged_at,
        found: signature.found.clone(),
        subject,
        signed_reference: signed.to_owned(),
        predicate_type: None,
    };
    let claims = payload.into_claims();
    check_annotations(&wanted.annotations, &claims)?;
    Ok((proof, claims))
}

/// The payload, once one of `keys` has made the base64 `signature` over its bytes.
///
/// Nothing else may read them. This alone proves nothing about an image: the digest and the
/// reference in the payload are still to be compared.
pub fn open_cosign<'k>(
    keys: &'k [PublicKey],
    untrusted_payload: &[u8],
    signature: &str,
) -> Result<(&'k PublicKey, Payload), SignatureProblem> {
    let signature = decode_base64(signature)?;
    let key = keys
        .iter()
        .find(|key| key.verifies(untrusted_payload, &signature));
    let key = key.ok_or(SignatureProblem::OtherKey { tried: keys.len() })?;
    Ok((key, Payload::parse_cosign(untrusted_payload)?))
}

/// Why a signature does not count. Anyone may have put it there, so it is nobody's fault; it just
/// does not help.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum SignatureProblem {
    /// The attachment is of another kind.
    #[error("its media type is {found:?}, cosign's is {COSIGN_PAYLOAD:?}")]
    MediaType {
        /// The media type.
        found: String,
    },
    /// The signed bytes are not there.
    #[error("its payload could not be fetched: {why}")]
    NotFetched {
        /// What the fetcher said.
        why: NotFetched,
    },
    /// There is no signature beside the bytes.
    #[error("it has no annotation {SIGNATURE_ANNOTATION}")]
    NoSignature,
    /// A log must have taken the signature in, and nothing says that one did.
    #[error("it has no annotation {BUNDLE_ANNOTATION}")]
    NoBundle,
    /// What is said about a log does not hold for this signature.
    #[error("its log entry: {0}")]
    Log(#[from] LogProblem),
    /// The signer must have a certificate, and there is none.
    #[error("it has no annotation {CERTIFICATE_ANNOTATION}")]
    NoCertificate,
    /// The signer's certificate does not count.
    #[error("{0}")]
    Certificate(#[from] CertificateProblem),
    /// The evidence beside the signature is none.
    #[error("{0}")]
    Attached(#[from] AttachedProblem),
    /// The bundle proves nothing.
    #[error("{0}")]
    Bundle(#[from] BundleProblem),
    /// What the bundle signs is no statement about the image.
    #[error("{0}")]
    Statement(#[from] StatementProblem),
    /// A requirement that is about signatures of the older kind alone.
    #[error("it is a bundle, and {rule} judges none: name a trustedRoot and identities instead")]
    NoBundles {
        /// What the policy names.
        rule: &'static str,
    },
    /// The logs of the policy cannot be used for bundles.
    #[error("the rekorPublicKey of the policy cannot be used for bundles: {0}")]
    Logs(TrustedRootError),
    /// It says something else.
    #[error("its predicate type is {found:?}, wanted is {expected:?}")]
    PredicateType {
        /// The type wanted.
        expected: String,
        /// Its type.
        found: String,
    },
    /// What it says of the image is not what the policy wants.
    #[error("{0}")]
    Condition(#[from] UnmetCondition),
    /// Something is not signed with it that the policy wants.
    #[error("{}", other_annotation(key, expected, found.as_deref()))]
    Annotation {
        /// The key of the annotation.
        key: String,
        /// The text wanted.
        expected: String,
        /// The text that is signed, if any.
        found: Option<String>,
    },
    /// A rule about names, for something that has none.
    #[error(
        "a bundle names no repository, so {rule} cannot hold: \
         \"signedIdentity\": {{\"type\": \"digestOnly\"}} accepts it on its digest alone"
    )]
    NamesNoRepository {
        /// The rule.
        rule: &'static str,
    },
    /// The configuration wants the policy to say that a digest alone will do.
    #[error(
        "a bundle names no repository, and with strict_identity the requirement must say that this \
         will do: \"signedIdentity\": {{\"type\": \"digestOnly\"}}"
    )]
    IdentityNotStated,
    /// The signature is not base64.
    #[error("its signature is not base64: {0}")]
    Base64(#[from] base64::DecodeError),
    /// None of the keys made it.
    #[error("{}", other_key(*tried))]
    OtherKey {
        /// The number of keys tried.
        tried: usize,
    },
    /// The `OpenPGP` message proves nothing.
    #[error("{0}")]
    OpenPgp(#[from] OpenPgpProblem),
    /// What is signed is no payload.
    #[error("its payload is malformed: {0}")]
    Payload(#[from] PayloadError),
    /// It is for other content.
    #[error("it is for the digest {signed}, this is {found}")]
    OtherDigest {
        /// The digest that is signed.
        signed: Digest,
        /// The digest of the manifest.
        found: Digest,
    },
    /// It is for another name.
    #[error("{0}")]
    Identity(#[from] IdentityMismatch),
    /// It is not recent enough for a `notOlder`.
    #[error("{0}")]
    Stale(Stale),
}

impl From<Stale> for SignatureProblem {
    fn from(stale: Stale) -> Self {
        Self::Stale(stale)
    }
}

/// Which of the image's documents the payload is about.
pub(crate) fn subject_of(
    payload: &Payload,
    manifest: &Unverified<Manifest>,
) -> Result<SubjectKind, SignatureProblem> {
    let signed = payload.untrusted_digest();
    let subject = manifest
        .subjects()
        .find(|subject: &Subject<'_>| subject.has(signed));
    subject
        .map(|subject| subject.kind)
        .ok_or_else(|| SignatureProblem::OtherDigest {
            signed: *signed,
            found: *manifest.digest(),
        })
}

fn other_key(tried: usize) -> String {
    match tried {
        1 => "it is not by the key of the policy".to_owned(),
        _ => format!("it is by none of the {tried} keys of the policy"),
    }
}

fn other_annotation(key: &str, expected: &str, found: Option<&str>) -> String {
    match found {
        Some(found) => {
            format!("its signed annotation {key:?} is {found:?}, the policy wants {expected:?}")
        }
        None => format!("it has no signed annotation {key:?}, the policy wants {expected:?}"),
    }
}

const SIGNATURE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";
pub(crate) const BUNDLE_ANNOTATION: &str = "dev.sigstore.cosign/bundle";
pub(crate) const CERTIFICATE_ANNOTATION: &str = "dev.sigstore.cosign/certificate";
pub(crate) const CHAIN_ANNOTATION: &str = "dev.sigstore.cosign/chain";
