//! What a decision needs, and what was found: plain data between the policy and whoever fetches.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::SystemTime;

use crate::digest::Digest;

/// What must be fetched before the rules can decide. Asking for more does no harm.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Needs {
    /// Where keys are, as the policy writes it: `kbs:///...`, `file:///...` or a path.
    pub resources: BTreeSet<String>,
    /// The documents whose cosign signatures are wanted: those under the tag
    /// [`attachment_tag`] of each in the image's repository.
    pub cosign_subjects: Vec<Digest>,
    /// The documents whose simple-signing signatures are wanted: those that a lookaside, or the
    /// registry's signature extension, has for each.
    pub lookaside_subjects: Vec<Digest>,
    /// The documents whose bundles and attestations are wanted, wherever they are found.
    pub discover: Vec<Digest>,
}

/// What was fetched. Nothing in it is believed; what is missing counts as not fetched.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// For each resource its content, or why there is none.
    pub resources: BTreeMap<String, Result<Vec<u8>, NotFetched>>,
    /// For each subject the signatures found, or why they could not be listed. A registry that
    /// knows no such tag has found none.
    pub cosign: BTreeMap<Digest, Result<Vec<CosignSignature>, NotFetched>>,
    /// For each subject the simple-signing signatures found, or why they could not be fetched. One
    /// that cannot be read fails them all, as in the reference implementation.
    pub simple: BTreeMap<Digest, Result<Vec<SimpleSignature>, NotFetched>>,
    /// For each subject the bundles and attestations found.
    pub discovered: BTreeMap<Digest, Discovered>,
    /// The time at which expiry is judged. Nothing that may expire is believed without it.
    pub now: Option<SystemTime>,
}

/// The bundles and attestations that were found for one document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Discovered {
    /// In the order in which they are to be tried, each with the media type of its layer.
    pub candidates: Vec<CosignSignature>,
    /// Why there may be more.
    pub incomplete: Vec<NotFetched>,
}

/// Why something that was wanted is not there. It displays as what the fetcher said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotFetched {
    /// What the fetcher said.
    pub why: String,
    /// What can be expected of asking again.
    pub failure: Failure,
}

/// What can be expected of asking again. Complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The same request may succeed later without anybody changing anything.
    Transient,
    /// The owner has configured no place to ask.
    NotConfigured,
    /// Asking again changes nothing.
    Permanent,
}

impl NotFetched {
    /// A failure that may pass: no answer, or one that says so.
    pub fn transient(why: impl Into<String>) -> Self {
        Self::new(why, Failure::Transient)
    }

    /// There is no place to ask.
    pub fn not_configured(why: impl Into<String>) -> Self {
        Self::new(why, Failure::NotConfigured)
    }

    /// A failure that lasts: it is denied, not there, or malformed.
    pub fn permanent(why: impl Into<String>) -> Self {
        Self::new(why, Failure::Permanent)
    }

    /// Whether asking again, or elsewhere, may bring it.
    pub fn is_transient(&self) -> bool {
        self.failure == Failure::Transient
    }

    fn new(why: impl Into<String>, failure: Failure) -> Self {
        let why = why.into();
        Self { why, failure }
    }
}

impl fmt::Display for NotFetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// A simple-signing signature as it was found: an `OpenPGP` message in binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimpleSignature {
    /// Where it was found, for the record: e.g. its address.
    pub found: String,
    /// The message.
    pub message: Vec<u8>,
}

/// A cosign signature as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CosignSignature {
    /// Where it was found, for the record: e.g. the digest of the attachment.
    pub found: String,
    /// The media type of the attachment.
    pub media_type: String,
    /// The bytes that are said to be signed, or why there are none.
    pub payload: Result<Vec<u8>, NotFetched>,
    /// The annotations of the attachment, the signature among them.
    pub annotations: BTreeMap<String, String>,
}

/// The tag under which cosign stores the signatures of a document: `sha256-<hex>.sig`.
pub fn attachment_tag(subject: &Digest) -> String {
    format!("{}-{}.sig", subject.algorithm(), subject.hex())
}

/// The media type of an attachment that holds a cosign signature.
pub const COSIGN_PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
