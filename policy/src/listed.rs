//! The list of the simple-signing signatures that a registry itself keeps.
//!
//! There is no other specification of it than the reference implementation (containers/image,
//! `docker/docker_client.go`) and `OpenShift`, whose registry has it.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use thiserror::Error;

use crate::encoding::decode_base64;

/// A signature as a registry lists it. Nothing of it is proved.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedSignature {
    /// Its place in the list, from 0.
    pub position: usize,
    /// The signature: an `OpenPGP` message, if the registry is honest.
    pub untrusted_message: Vec<u8>,
}

/// Why a list cannot be read. The registry is at fault.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SignatureListError {
    /// It is not the JSON that it should be, or has more entries than any honest one.
    #[error("malformed list of signatures")]
    Json(#[source] serde_json::Error),
    /// The content of an entry is not base64.
    #[error("signature {position} is not base64")]
    Base64 {
        /// The entry, from 0.
        position: usize,
        /// The decoder's account.
        source: base64::DecodeError,
    },
}

/// Reads the list of a registry.
///
/// As in the reference implementation, entries of another version or type are passed over, and an
/// entry that is malformed spoils the whole list, whatever its version. A list that is absent or
/// null is empty.
pub fn parse_signature_list(
    untrusted_list: &[u8],
) -> Result<Vec<ListedSignature>, SignatureListError> {
    let list: Object<List> =
        serde_json::from_slice(untrusted_list).map_err(SignatureListError::Json)?;
    let entries = list.0.signatures.map(|entries| entries.0);
    let mut signatures = Vec::new();
    for (position, entry) in entries.unwrap_or_default().into_iter().enumerate() {
        let entry = entry.map(|entry| entry.0).unwrap_or_default();
        let content = entry.content.as_deref().unwrap_or_default();
        let untrusted_message = decode_base64(content)
            .map_err(|source| SignatureListError::Base64 { position, source })?;
        if entry.version == Some(VERSION) && entry.kind.as_deref() == Some(TYPE) {
            signatures.push(ListedSignature {
                position,
                untrusted_message,
            });
        }
    }
    Ok(signatures)
}

#[derive(serde::Deserialize)]
struct List {
    signatures: Option<Entries>,
}

/// Its `name` is made up by whoever stored it, and says nothing.
#[derive(Default, serde::Deserialize)]
struct Entry {
    #[serde(rename = "schemaVersion")]
    version: Option<i64>,
    #[serde(rename = "type")]
    kind: Option<String>,
    content: Option<String>,
}

/// The entries: reading stops at the first that is too many.
struct Entries(Vec<Option<Object<Entry>>>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of signatures")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Entries, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = list.next_element()? {
            if entries.len() == MAX_SIGNATURES {
                return Err(A::Error::custom(format_args!(
                    "more than {MAX_SIGNATURES} signatures"
                )));
            }
            entries.push(entry);
        }
        Ok(Entries(entries))
    }
}

/// A JSON object. What serde derives takes an array of the members' values for one as well.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(members)).map(Object)
    }
}

/// As many as of a lookaside.
const MAX_SIGNATURES: usize = 128;
const VERSION: i64 = 2;
const TYPE: &str = "atomic";

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(list: &str) -> Vec<(usize, Vec<u8>)> {
        let listed = parse_signature_list(list.as_bytes()).unwrap();
        let pair = |one: ListedSignature| (one.position, one.untrusted_message);
        listed.into_iter().map(pair).collect()
    }

    #[test]
    fn reads_signatures_of_its_version_and_type_and_passes_over_others() {
        let known = r#"{"schemaVersion":2,"name":"sha256:0@1","type":"atomic","content":"YQ=="}"#;
        let with = |before: &str| format!(r#"{{"signatures":[{before},{known}],"more":[1]}}"#);
        assert_eq!(messages(&with(known)), [(0, b"a".into()), (1, b"a".into())]);
        for other in [
            r#"{"schemaVersion":1,"type":"atomic","content":"YQ=="}"#,
            r#"{"version":2,"type":"atomic","content":"YQ=="}"#,
            r#"{"schemaVersion":2,"type":"cosign","content":"YQ=="}"#,
            r#"{"schemaVersion":2,"type":"Atomic","content":"YQ=="}"#,
            r#"{"schemaVersion":2,"content":"YQ=="}"#,
            r#"{"schemaVersion":null,"type":null,"content":null}"#,
            "{}",
            "null",
        ] {
            assert_eq!(messages(&with(other)), [(1, b"a".into())], "{other}");
        }
        for none in ["{}", r#"{"signatures":null}"#, r#"{"signatures":[]}"#] {
            assert_eq!(messages(none), [], "{none}");
        }
        let folded = r#"{"signatures":[{"schemaVersion":2,"type":"atomic","content":"Y\r\nQ=="}]}"#;
        assert_eq!(messages(folded), [(0, b"a".into())]);
    }

    #[test]
    fn malformed_lists_are_refused_as_a_whole() {
        for text in [
            "",
            "[]",
            "null",
            "{",
            r#"{"signatures":{}}"#,
            r#"{"signatures":[1]}"#,
            r#"{"signatures":[[2,"atomic","YQ=="]]}"#,
            r#"[[{"schemaVersion":2,"type":"atomic","content":"YQ=="}]]"#,
            r#"{"signatures":[{"schemaVersion":"2"}]}"#,
            r#"{"signatures":[{"schemaVersion":2.5}]}"#,
            r#"{"signatures":[{"content":[1]}]}"#,
            r#"{"signatures":[]} x"#,
            r#"{"signatures":[],"signatures":[]}"#,
        ] {
            let error = parse_signature_list(text.as_bytes()).unwrap_err();
            assert!(
                matches!(error, SignatureListError::Json(_)),
                "{text}: {error}"
            );
        }
        for content in ["Y", "Y Q==", "YQ", "_-8="] {
            let text = format!(r#"{{"signatures":[{{}},{{"content":"{content}"}}]}}"#);
            let error = parse_signature_list(text.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), "signature 1 is not base64", "{content}");
        }
    }

    #[test]
    fn a_list_of_too_many_signatures_is_refused() {
        let of = |count: usize| format!(r#"{{"signatures":[{}]}}"#, vec!["{}"; count].join(","));
        assert_eq!(messages(&of(MAX_SIGNATURES)), []);
        let error = parse_signature_list(of(MAX_SIGNATURES + 1).as_bytes()).unwrap_err();
        let SignatureListError::Json(cause) = error else {
            panic!("{error:?}");
        };
        let text = cause.to_string();
        let start = "more than 128 signatures at line 1 column ";
        assert!(text.starts_with(start), "{text}");
        // What comes behind the first that is too many is not even read.
        let endless = of(MAX_SIGNATURES + 1).replace("]}", ",{{{");
        let error = parse_signature_list(endless.as_bytes()).unwrap_err();
        assert!(matches!(error, SignatureListError::Json(cause) if cause.is_data()));
    }
}
