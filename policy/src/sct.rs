//! Signed certificate timestamps: that a Certificate Transparency log saw a certificate before it
//! was issued (RFC 6962).
//!
//! The lists are parsed by `x509-cert`, the path to the issuer is `webpki`'s, the signature is
//! checked by the crypto library. Putting together the bytes that the log signed is left to us:
//! `webpki` reads the timestamps and does not check them, the crate `sct` is for those of TLS and
//! brings a second crypto library, and `sigstore-verify` keeps its check to bundles with a trust
//! root of their own.

use spki::der::{self, Encode};
use thiserror::Error;
use x509_cert::ext::pkix::SignedCertificateTimestampList;
use x509_cert::ext::pkix::sct::{
    Error as ListError, HashAlgorithm, SerializedSct, SignatureAlgorithm,
    SignedCertificateTimestamp,
};

use crate::certificate::Certificate;
use crate::digest::Digest;
use crate::rekor::LogKey;

/// Whether one of `logs` has promised to log `leaf`, as it was to be issued by the owner of
/// `issuer`, a `SubjectPublicKeyInfo`. One good promise is enough; others beside it do no harm.
pub(crate) fn check(leaf: &Certificate, issuer: &[u8], logs: &[LogKey]) -> Result<(), SctProblem> {
    let list = leaf.content().get::<SignedCertificateTimestampList>();
    let (_critical, list) = list.map_err(malformed)?.ok_or(SctProblem::Missing)?;
    let promises = list.parse_timestamps().map_err(unreadable)?;
    let signed = Signed {
        issuer_key: Digest::sha256_of(issuer),
        certificate: precertificate(leaf).map_err(malformed)?,
    };
    let mut problem = SctProblem::OtherLog {
        found: promises.len(),
    };
    for promise in &promises {
        match check_one(promise, leaf, &signed, logs) {
            Ok(()) => return Ok(()),
            // The promise of another log says less than what is wrong with that of this one.
            Err(SctProblem::OtherLog { .. }) => {}
            Err(found) => problem = found,
        }
    }
    Err(problem)
}

/// Why a certificate counts as logged nowhere. Whoever issued it, or put it there, is at fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SctProblem {
    /// Nothing in the certificate says that a log saw it.
    #[error("it has no signed certificate timestamp")]
    Missing,
    /// What should say so cannot be read.
    #[error("its signed certificate timestamps are malformed: {why}")]
    Malformed {
        /// What the parser says.
        why: String,
    },
    /// No log of the policy is among those that saw it.
    #[error("none of its {found} signed certificate timestamps is by a log of the policy")]
    OtherLog {
        /// How many it has.
        found: usize,
    },
    /// A log of the policy is named, and did not sign this: the certificate or its issuer is
    /// another.
    #[error("its signed certificate timestamp does not hold for this certificate and its issuer")]
    BadSignature,
    /// The log saw it when it was not valid.
    #[error("its signed certificate timestamp is of {found}, when it was not valid")]
    OutsideValidity {
        /// The time, in milliseconds since 1970.
        found: u64,
    },
}

/// What a log signs of a certificate.
struct Signed {
    issuer_key: Digest,
    certificate: Vec<u8>,
}

impl Signed {
    /// `digitally-signed struct` of RFC 6962 section 3.2, for a `precert_entry`.
    fn by(&self, promise: &SignedCertificateTimestamp) -> Option<Vec<u8>> {
        let extensions = promise.extensions.as_slice();
        let length = u32::try_from(self.certificate.len()).ok()?.to_be_bytes();
        let length = length.strip_prefix(&[0])?;
        Some(
            [
                &[V1, CERTIFICATE_TIMESTAMP],
                promise.timestamp.to_be_bytes().as_slice(),
                &PRECERT_ENTRY,
                self.issuer_key.bytes(),
                length,
                &self.certificate,
                &u16::try_from(extensions.len()).ok()?.to_be_bytes(),
                extensions,
            ]
            .concat(),
        )
    }
}

fn check_one(
    promise: &SerializedSct,
    leaf: &Certificate,
    signed: &Signed,
    logs: &[LogKey],
) -> Result<(), SctProblem> {
    let promise = promise.parse_timestamp().map_err(unreadable)?;
    let named = |log: &&LogKey| log.key().fingerprint().bytes() == promise.log_id.key_id;
    let log = logs.iter().find(named);
    let log = log.ok_or(SctProblem::OtherLog { found: 1 })?;
    // The logs of RFC 6962 section 2.1.4 sign with SHA-256.
    let algorithm = &promise.signature.algorithm;
    let is_known =
        algorithm.hash == HashAlgorithm::Sha256 && algorithm.signature == SignatureAlgorithm::Ecdsa;
    let signature = promise.signature.signature.as_slice();
    let holds = |content: Vec<u8>| log.key().verifies(&content, signature);
    if !is_known || !signed.by(&promise).is_some_and(holds) {
        return Err(SctProblem::BadSignature);
    }
    let found = promise.timestamp;
    if leaf.is_valid_at(found / 1000) {
        Ok(())
    } else {
        Err(SctProblem::OutsideValidity { found })
    }
}

/// The certificate as it was shown to the log: without signature, and without what the log said.
fn precertificate(leaf: &Certificate) -> Result<Vec<u8>, der::Error> {
    let mut content = leaf.content().clone();
    if let Some(extensions) = &mut content.extensions {
        extensions.retain(|extension| extension.extn_id != SCT_LIST);
    }
    content.to_der()
}

fn unreadable(error: ListError) -> SctProblem {
    match error {
        ListError::Der(error) => malformed(error),
        ListError::Tls(error) => SctProblem::Malformed {
            why: error.to_string(),
        },
    }
}

fn malformed(error: der::Error) -> SctProblem {
    SctProblem::Malformed {
        why: error.to_string(),
    }
}

const SCT_LIST: spki::ObjectIdentifier =
    <SignedCertificateTimestampList as der::oid::AssociatedOid>::OID;
const V1: u8 = 0;
const CERTIFICATE_TIMESTAMP: u8 = 0;
const PRECERT_ENTRY: [u8; 2] = [0, 1];
