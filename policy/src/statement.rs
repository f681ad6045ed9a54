//! in-toto statements: what a bundle says, and about what.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use crate::digest::Digest;
use crate::json::{Json, JsonError};
use crate::manifest::{Manifest, Subject, SubjectKind, Unverified};

/// What an envelope has, read and not proved.
#[derive(Debug, Clone)]
pub struct UntrustedStatement {
    predicate_type: String,
    subjects: Vec<StatementSubject>,
    predicate: Value,
}

#[derive(Debug, Clone)]
struct StatementSubject {
    digest: Digest,
    annotations: BTreeMap<String, String>,
}

impl UntrustedStatement {
    /// Reads a statement (in-toto attestation framework, version 0.1 or 1) from an envelope's
    /// payload.
    ///
    /// Subjects without a sha256 digest are passed over; one that is malformed is a fault.
    pub fn parse(payload_type: &str, payload: &[u8]) -> Result<Self, StatementProblem> {
        if payload_type != PAYLOAD_TYPE {
            let found = payload_type.to_owned();
            return Err(StatementProblem::PayloadType { found });
        }
        // Whatever stands twice would have two readings.
        Json::parse(payload)?;
        let raw: Raw = serde_json::from_slice(payload).map_err(|source| {
            let why = source.to_string();
            StatementProblem::Malformed { why }
        })?;
        if !TYPES.contains(&raw.kind.as_str()) {
            return Err(StatementProblem::Type { found: raw.kind });
        }
        let subjects = raw.subject.into_iter().flatten();
        let subjects = subjects.filter_map(RawSubject::parse);
        let subjects = subjects.collect::<Result<Vec<_>, _>>()?;
        if subjects.is_empty() {
            return Err(StatementProblem::NoSubject);
        }
        Ok(Self {
            predicate_type: raw.predicate_type,
            subjects,
            predicate: raw.predicate,
        })
    }

    pub(crate) fn predicate_type(&self) -> &str {
        &self.predicate_type
    }

    /// Whether it is about what has this sha256 digest.
    pub(crate) fn names(&self, digest: &Digest) -> bool {
        self.subjects
            .iter()
            .any(|subject| subject.digest == *digest)
    }

    pub(crate) fn predicate(&self) -> &Value {
        &self.predicate
    }

    /// Which of the image's documents it is about, by which digest, and what it says of that.
    pub(crate) fn about(
        &self,
        manifest: &Unverified<Manifest>,
    ) -> Result<(SubjectKind, &Digest, &BTreeMap<String, String>), StatementProblem> {
        let found = self.subjects.iter().find_map(|named| {
            let mut documents = manifest.subjects();
            let document = documents.find(|subject: &Subject<'_>| subject.has(&named.digest))?;
            Some((document.kind, &named.digest, &named.annotations))
        });
        found.ok_or_else(|| StatementProblem::OtherSubject {
            named: self.subjects.iter().map(|subject| subject.digest).collect(),
            found: *manifest.digest(),
        })
    }
}

/// Why an envelope's content is no statement about an image.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum StatementProblem {
    /// The envelope has something else.
    #[error("its payload is of type {found:?}, a statement is {PAYLOAD_TYPE:?}")]
    PayloadType {
        /// The type.
        found: String,
    },
    /// Not the JSON that it should be.
    #[error("its statement: {0}")]
    Json(JsonError),
    /// JSON, but no statement.
    #[error("its statement is malformed: {why}")]
    Malformed {
        /// What the reader says.
        why: String,
    },
    /// A statement of another version.
    #[error("its statement is of type {found:?}, known are {} and {}", TYPES[0], TYPES[1])]
    Type {
        /// The type.
        found: String,
    },
    /// Nothing by a sha256 digest.
    #[error("its statement names nothing by a sha256 digest")]
    NoSubject,
    /// Something else.
    #[error("its statement is about {}, this is {found}", listed(named))]
    OtherSubject {
        /// The digests in it.
        named: Vec<Digest>,
        /// The digest of the manifest.
        found: Digest,
    },
}

impl From<JsonError> for StatementProblem {
    fn from(error: JsonError) -> Self {
        Self::Json(error)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Option<RawSubject>>,
    predicate_type: String,
    #[serde(default)]
    predicate: Value,
}

#[derive(Deserialize)]
struct RawSubject {
    digest: Option<BTreeMap<String, Value>>,
    annotations: Option<BTreeMap<String, Value>>,
}

impl RawSubject {
    fn parse(self) -> Option<Result<StatementSubject, StatementProblem>> {
        let digests = self.digest?;
        let digest = digests.get("sha256")?.as_str()?;
        let digest: Result<Digest, _> = format!("sha256:{digest}").parse();
        let annotations = self.annotations.unwrap_or_default().into_iter();
        let annotations = annotations.filter_map(|(key, value)| match value {
            Value::String(text) => Some((key, text)),
            _ => None,
        });
        let annotations = annotations.collect();
        Some(match digest {
            Ok(digest) => Ok(StatementSubject {
                digest,
                annotations,
            }),
            Err(error) => {
                let why = error.to_string();
                Err(StatementProblem::Malformed { why })
            }
        })
    }
}

fn listed(digests: &[Digest]) -> String {
    let shown = digests.iter().take(MAX_SHOWN).map(Digest::to_string);
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if digests.len() > MAX_SHOWN {
        text.push_str(" and others");
    }
    text
}

const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const TYPES: [&str; 2] = [
    "https://in-toto.io/Statement/v1",
    "https://in-toto.io/Statement/v0.1",
];
const MAX_SHOWN: usize = 3;
