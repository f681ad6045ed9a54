//! Why a requirement is not met, in words for the owner and in fewer for the host.

use thiserror::Error;

use crate::certificate::CertificateError;
use crate::digest::Digest;
use crate::evidence::{Failure, NotFetched};
use crate::key::KeyError;
use crate::openpgp::KeyringError;
use crate::printable::printable;
use crate::sigstore::TrustedRootError;

/// Why a requirement is not met.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The policy says no.
    #[error("the policy rejects every image here")]
    Rejects,
    /// The requirement is understood, and this program cannot check it.
    #[error("{feature} cannot be checked by this version")]
    Unsupported {
        /// What the policy asks for.
        feature: &'static str,
    },
    /// A key could not be had.
    #[error("key {location} could not be fetched: {why}")]
    KeyNotFetched {
        /// Where the policy says it is.
        location: String,
        /// What the fetcher said.
        why: NotFetched,
    },
    /// A key is not one.
    #[error("key {location} cannot be used: {problem}")]
    KeyUnusable {
        /// Where it comes from.
        location: String,
        /// What is wrong with it.
        problem: KeyError,
    },
    /// A keyring is not one.
    #[error("keyring {location} cannot be used: {problem}")]
    KeyringUnusable {
        /// Where it comes from.
        location: String,
        /// What is wrong with it.
        problem: KeyringError,
    },
    /// The certificates of an authority are none, or what the policy wants of them cannot be.
    #[error("the authority {location} cannot be used: {problem}")]
    AuthorityUnusable {
        /// Where the certificates come from.
        location: String,
        /// What is wrong with them.
        problem: CertificateError,
    },
    /// A trusted root is none, or has too little for what the policy wants.
    #[error("the trusted root {location} cannot be used: {problem}")]
    TrustedRootUnusable {
        /// Where it comes from.
        location: String,
        /// What is wrong with it.
        problem: TrustedRootError,
    },
    /// Something may have expired, and nobody said what time it is. The caller is at fault.
    #[error("the time is not known")]
    NoTime,
    /// The policy does not list the image.
    #[error("the policy does not list {name} with the digest {found}")]
    DigestNotAllowed {
        /// The repository that was asked for.
        name: String,
        /// The digest of the manifest.
        found: Digest,
    },
    /// A layer is not encrypted.
    #[error(
        "layer {index} is not encrypted, its media type is {:?}",
        printable(media_type)
    )]
    LayerNotEncrypted {
        /// Which one, from 0 at the bottom.
        index: usize,
        /// Its media type.
        media_type: String,
    },
    /// There is no layer that could be encrypted.
    #[error("the image has no layers")]
    NoLayers,
    /// The image was asked for by tag.
    #[error("the image was not asked for by digest")]
    NotByDigest,
    /// Too few members of a threshold are met, or by too few signers.
    #[error("{}", too_few(*wanted, *of, *found))]
    TooFew {
        /// How many are wanted.
        wanted: usize,
        /// Of how many.
        of: usize,
        /// How many there are.
        found: usize,
    },
    /// The signatures could not be looked up, and none of those found elsewhere counts.
    #[error("the signatures of {subject} could not be listed: {}", printable(why))]
    NotListed {
        /// The document whose signatures were wanted.
        subject: Digest,
        /// What the fetcher said.
        why: NotFetched,
    },
    /// Nobody has signed.
    #[error("no signature was found")]
    NoSignature,
    /// There are signatures, none of which counts.
    #[error("{}", none_counts(*found))]
    NoneCounts {
        /// How many.
        found: usize,
    },
    /// The rules are those for another reference. The caller is at fault.
    #[error("the rules are those for {rules_for}")]
    OtherReference {
        /// The reference that the rules are for.
        rules_for: String,
    },
}

impl Refusal {
    /// The cause in words that name nothing of the owner's: safe to show to the host.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Rejects => "rejected by the policy",
            Self::Unsupported { .. } => "unsupported requirement",
            Self::KeyNotFetched { why, .. } => match why.failure {
                Failure::Transient => "key not available for now",
                Failure::NotConfigured | Failure::Permanent => "key not available",
            },
            Self::KeyUnusable { .. } | Self::KeyringUnusable { .. } => "key not usable",
            Self::AuthorityUnusable { .. } | Self::TrustedRootUnusable { .. } => {
                "authority not usable"
            }
            Self::DigestNotAllowed { .. } => "digest not allowed",
            Self::LayerNotEncrypted { .. } | Self::NoLayers => "layer not encrypted",
            Self::NotByDigest => "not asked for by digest",
            Self::TooFew { .. } => "too few acceptable signatures",
            Self::NoTime => "time not known",
            Self::NotListed { why, .. } => match why.failure {
                Failure::Transient => SIGNATURES_LATER,
                Failure::NotConfigured => "no place for signatures is configured",
                Failure::Permanent => "signatures not available",
            },
            Self::NoSignature => "no signature",
            Self::NoneCounts { .. } => "no acceptable signature",
            Self::OtherReference { .. } => "rules for another reference",
        }
    }
}

/// What denies only until the place of the signatures answers.
pub(super) const SIGNATURES_LATER: &str = "signatures not available for now";

fn too_few(wanted: usize, of: usize, found: usize) -> String {
    match wanted {
        1 => format!("none of the {of} members is met"),
        _ => format!(
            "{wanted} of the {of} members must be met by signers of their own, {found} can be"
        ),
    }
}

fn none_counts(found: usize) -> String {
    match found {
        1 => "the one signature found does not count".to_owned(),
        _ => format!("none of the {found} signatures found counts"),
    }
}
