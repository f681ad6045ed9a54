//! Why bundles prove nothing, and why documents are no trusted roots.

use thiserror::Error;

use super::MEDIA_TYPES;
use super::bundle::MAX_PARTS;
use crate::certificate::CertificateError;
use crate::digest::Digest;
use crate::identities::OtherSigner;
use crate::json::JsonError;
use crate::statement::StatementProblem;

/// Why a bundle proves nothing. Anyone may have put it there.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum BundleProblem {
    /// More than any honest bundle has.
    #[error("it has {found} bytes, at most {limit} are read")]
    TooLarge {
        /// The limit.
        limit: usize,
        /// The size.
        found: usize,
    },
    /// More of something than any honest bundle has.
    #[error("it has {found} {what}, at most {MAX_PARTS} are looked at")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        found: usize,
    },
    /// Not the JSON that it should be.
    #[error("it is malformed: {0}")]
    Json(JsonError),
    /// None or several of what excludes each other: who reads it decides what it says.
    #[error("it has {found} of {}, where a bundle has one", group.join(", "))]
    NotOne {
        /// The members of which it must have one.
        group: &'static [&'static str],
        /// How many it has.
        found: usize,
    },
    /// JSON, but no bundle.
    #[error("it is no bundle: {why}")]
    Malformed {
        /// What the reader says.
        why: String,
    },
    /// A signature over bytes where one over a statement is wanted.
    #[error("it signs no statement, as bundles of images do")]
    NoEnvelope,
    /// A transparency log must have it.
    #[error("it has no entry of a transparency log, which is demanded")]
    NoLogEntry,
    /// A timestamp authority must have seen the signature.
    #[error("it has no timestamp by an authority, which is demanded")]
    NoTimestamp,
    /// The engine refuses it.
    #[error("{why}")]
    Refused {
        /// Why.
        why: String,
    },
    /// The log had no trust, or none any more, when the signature was made.
    #[error("no log has it that the trusted root trusts for the time of the signature: {why}")]
    LogNotTrusted {
        /// What the engine says without that log.
        why: String,
    },
    /// An entry of a log is of another kind than the bundle says.
    #[error("the log has an entry of kind {found:?}, the bundle says {stated:?}")]
    EntryKind {
        /// What the bundle says.
        stated: String,
        /// What the log has.
        found: String,
    },
    /// The engine accepts it without having proved all that was demanded.
    #[error("not all that is demanded of it was proved")]
    Unproved,
    /// A certificate of it is none.
    #[error("its certificate: {0}")]
    Certificate(CertificateError),
    /// No path to an authority was valid when it was signed.
    #[error("no path of certificates to a trusted root was valid when it was signed: {why}")]
    Path {
        /// What the path builder says.
        why: String,
    },
    /// The key did not make it.
    #[error("it is not by the key")]
    OtherKey,
    /// What it signs is no statement.
    #[error("{0}")]
    Statement(#[from] StatementProblem),
    /// It is about something else.
    #[error("its statement is not about {found}")]
    OtherArtifact {
        /// The digest of what it should be about.
        found: Digest,
    },
    /// It is by somebody else.
    #[error("{0}")]
    OtherSigner(#[from] OtherSigner),
}

impl From<JsonError> for BundleProblem {
    fn from(error: JsonError) -> Self {
        Self::Json(error)
    }
}

/// Why a document is no trusted root. Whoever stored it is at fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TrustedRootError {
    /// More than any trusted root has.
    #[error("it has {found} bytes, at most {limit} are read")]
    TooLarge {
        /// The limit.
        limit: usize,
        /// The size.
        found: usize,
    },
    /// Not the JSON that it should be.
    #[error("{0}")]
    Json(JsonError),
    /// Not text.
    #[error("it is not text: {0}")]
    NotText(std::str::Utf8Error),
    /// Another kind of document.
    #[error("its mediaType is {found:?}, that of a trusted root is {:?}", MEDIA_TYPES[0])]
    MediaType {
        /// What it says.
        found: String,
    },
    /// A service is missing that the policy needs.
    #[error("its {list} are empty{}", switch_off(*switch))]
    Missing {
        /// The list.
        list: &'static str,
        /// What to set to false in the policy, if anything helps.
        switch: Option<&'static str>,
    },
    /// A certificate in it is none.
    #[error("a certificate in it: {0}")]
    Certificate(CertificateError),
    /// The engine cannot use it.
    #[error("{why}")]
    Unusable {
        /// Why.
        why: String,
    },
}

impl From<JsonError> for TrustedRootError {
    fn from(error: JsonError) -> Self {
        Self::Json(error)
    }
}

fn switch_off(switch: Option<&str>) -> String {
    switch.map_or_else(String::new, |switch| {
        format!(
            ", so that nothing could ever count; a private Sigstore without them is named by \
             \"evidence\": {{\"{switch}\": false}}"
        )
    })
}
