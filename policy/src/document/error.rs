//! What can be wrong with a policy document.

use std::fmt;

use thiserror::Error;

use crate::digest::DigestError;
use crate::identities::PatternError;
use crate::json::{DidYouMean, JsonError, JsonProblem, Place};
use crate::reference::ReferenceError;
use crate::sigstore::TrustedRootError;

/// A fault in a policy document, and its place. The author of the policy is at fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{place}: {problem}")]
pub struct PolicyError {
    pub(super) place: Place,
    pub(super) problem: PolicyProblem,
}

impl PolicyError {
    /// Where the fault stands.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What is wrong there.
    pub fn problem(&self) -> &PolicyProblem {
        &self.problem
    }
}

impl From<JsonError> for PolicyError {
    fn from(error: JsonError) -> Self {
        let place = error.place().clone();
        Self {
            place,
            problem: PolicyProblem::Json(error.problem().clone()),
        }
    }
}

/// What can be wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PolicyProblem {
    /// The JSON is not as it should be.
    #[error("{0}")]
    Json(JsonProblem),
    /// A list that must not be empty.
    #[error("the list is empty; nothing configured is never permission")]
    EmptyList,
    /// A text that must not be empty.
    #[error("the value is empty")]
    EmptyText,
    /// A value that is none of the known ones.
    #[error("unknown value {found:?}{}, known are {}", DidYouMean(.suggestion.as_deref()), known.join(", "))]
    UnknownValue {
        /// The value.
        found: String,
        /// The nearest known one.
        suggestion: Option<String>,
        /// The known ones.
        known: Vec<&'static str>,
    },
    /// Not exactly one of several keys.
    #[error("exactly one of {} must be given, found {}", one_of.join(", "), Listed(found))]
    ExactlyOne {
        /// The keys.
        one_of: Vec<&'static str>,
        /// Those found.
        found: Vec<&'static str>,
    },
    /// More than one of several keys.
    #[error("at most one of {} may be given, found {}", one_of.join(", "), found.join(", "))]
    AtMostOne {
        /// The keys.
        one_of: Vec<&'static str>,
        /// Those found.
        found: Vec<&'static str>,
    },
    /// A Rekor key is missing beside `fulcio`, whose certificates live for minutes.
    #[error("fulcio needs a rekorPublicKey: only the log tells when the certificate was used")]
    FulcioWithoutRekor,
    /// A Rekor key beside `pki`, for which it has no meaning.
    #[error("pki and rekorPublicKey cannot be combined")]
    PkiWithRekor,
    /// Neither of the two names that `pki` can check.
    #[error("pki needs a subjectEmail or a subjectHostname")]
    PkiWithoutSubject,
    /// A Rekor key beside `trustedRoot`, which has the logs.
    #[error("trustedRoot and rekorPublicKey cannot be combined: the trusted root has the logs")]
    RootWithRekor,
    /// Nobody is named whom a trusted root could vouch for.
    #[error("trustedRoot needs identities: without them anybody with an account could sign")]
    RootWithoutIdentities,
    /// Something that only a trusted root gives a meaning to.
    #[error("{key} needs a trustedRoot")]
    NeedsRoot {
        /// The key.
        key: &'static str,
    },
    /// The text is no place of a trusted root.
    #[error(
        "a trustedRoot is \"public-good\", kbs:///..., file:///..., an absolute path, or the document itself"
    )]
    RootLocation,
    /// The document is no trusted root.
    #[error("{0}")]
    TrustedRoot(TrustedRootError),
    /// The text is no regular expression for identities or fields.
    #[error("{0}")]
    Pattern(PatternError),
    /// The text is no JSON pointer (RFC 6901).
    #[error(
        "a pointer is empty or begins with /, e.g. /runDetails/builder/id, and ~ is written ~0 in it"
    )]
    Pointer,
    /// A number that a reader may take for another one.
    #[error("a number that is compared has at most 64 bits, and with a fraction at most 53")]
    NumberNotExact,
    /// A condition without a test.
    #[error("a condition needs at least one of {}", known.join(", "))]
    NoTest {
        /// The tests.
        known: Vec<&'static str>,
    },
    /// `digestOnly` where signatures always name a reference.
    #[error("digestOnly is for sigstoreSigned and attestedBy, whose bundles name no reference")]
    DigestOnlyHere,
    /// The text is not base64.
    #[error("invalid base64: {0}")]
    Base64(base64::DecodeError),
    /// The text is no reference.
    #[error("{0}")]
    Reference(ReferenceError),
    /// The reference names no tag and no digest.
    #[error("the reference needs a tag or a digest")]
    NameOnly,
    /// The reference names more than a repository.
    #[error("the name of a repository has no tag and no digest")]
    NotNameOnly,
    /// The text is no digest.
    #[error("{0}")]
    Digest(DigestError),
    /// A `notOlder` that any signature would meet.
    #[error("notOlder needs signedAfter or minimumVersion")]
    NoBound,
    /// The text is no moment.
    #[error("a moment is written in UTC to the second, e.g. 2026-01-31T12:00:00Z")]
    Moment,
    /// The text is no version.
    #[error("it is no semantic version: {why}")]
    Version {
        /// What is wrong with it.
        why: String,
    },
    /// A threshold that everything meets, or nothing.
    #[error("the count should be from 1 to the {members} members, found {found}")]
    Count {
        /// The count.
        found: usize,
        /// The number of members.
        members: usize,
    },
    /// A threshold of too many.
    #[error("a threshold has at most {limit} members, found {found}")]
    TooMany {
        /// The limit.
        limit: usize,
        /// The number found.
        found: usize,
    },
    /// Thresholds in thresholds.
    #[error("thresholds are nested deeper than {limit}")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// A requirement that an image nobody has signed or listed can meet, so that it would decide a
    /// threshold by itself, or one that never counts.
    #[error("{kind} cannot be a member of a threshold")]
    NoChoice {
        /// Its type.
        kind: &'static str,
    },
    /// A requirement whose signers cannot be counted, in a threshold that counts them.
    #[error(
        "{kind} as it is here names no signers that can be told apart, which a count above 1 needs"
    )]
    NoSigners {
        /// Its type.
        kind: &'static str,
    },
    /// The text is no prefix of image names.
    #[error("a prefix has the form host[:port] or host[:port]/path")]
    RemapPrefix,
    /// The scope can never match in this transport.
    #[error("a scope of the transport dir is an absolute path without . or .. and not /")]
    DirScope,
}

struct Listed<'a>(&'a [&'static str]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            f.write_str("none")
        } else {
            f.write_str(&self.0.join(", "))
        }
    }
}
