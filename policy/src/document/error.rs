//! What can be wrong with a policy document.

use std::fmt;

use thiserror::Error;

use crate::json::{DidYouMean, JsonError, JsonProblem, Place};
use crate::reference::ReferenceError;

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
    /// The text is not base64.
    #[error("invalid base64: {0}")]
    Base64(base64::DecodeError),
    /// The text is no reference.
    #[error("{0}")]
    Reference(ReferenceError),
    /// The reference names no tag and no digest.
    #[error("the reference needs a tag or a digest")]
    NameOnly,
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
