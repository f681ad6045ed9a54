//! The simple-signing payload: what a signature says, once the signature itself is proved.

use thiserror::Error;

use crate::claims::Claims;
use crate::digest::{Digest, DigestError};
use crate::json::{Json, JsonError, Members, Node};

/// What a signer says: this digest goes by this reference.
///
/// Parsing proves nothing; only the bytes that a signature covers may come in here.
#[derive(Debug, Clone, PartialEq)]
pub struct Payload {
    digest: Digest,
    reference: String,
    creator: Option<String>,
    claims: Claims,
}

impl Payload {
    /// Reads the payload of a cosign signature.
    pub fn parse_cosign(raw: &[u8]) -> Result<Self, PayloadError> {
        // cosign writes null when there are no annotations.
        Self::parse(raw, COSIGN_TYPE, true)
    }

    /// Reads the content of an `OpenPGP` simple-signing message.
    pub fn parse_simple(raw: &[u8]) -> Result<Self, PayloadError> {
        Self::parse(raw, SIMPLE_TYPE, false)
    }

    fn parse(
        raw: &[u8],
        expected: &'static str,
        null_is_absent: bool,
    ) -> Result<Self, PayloadError> {
        let json = Json::parse(raw)?;
        let top = json.root().object(&["critical", "optional"])?;
        let critical = top
            .required("critical")?
            .object(&["type", "image", "identity"])?;
        let found = critical.required("type")?.string()?;
        if found != expected {
            let found = found.to_owned();
            return Err(PayloadError::Type { expected, found });
        }
        let image = critical
            .required("image")?
            .object(&["docker-manifest-digest"])?;
        let identity = critical
            .required("identity")?
            .object(&["docker-reference"])?;
        let optional = top.required("optional")?;
        let optional = if null_is_absent && optional.is_null() {
            None
        } else {
            Some(optional.open_object()?)
        };
        let (creator, claims) = optional
            .as_ref()
            .map(claims)
            .transpose()?
            .unwrap_or_default();
        Ok(Self {
            digest: image
                .required("docker-manifest-digest")?
                .string()?
                .parse()?,
            reference: text_or_null(&identity.required("docker-reference")?)?.to_owned(),
            creator,
            claims,
        })
    }

    /// The manifest digest that the signature is for.
    pub fn untrusted_digest(&self) -> &Digest {
        &self.digest
    }

    /// The reference that the signature is for; any text at all.
    pub fn untrusted_reference(&self) -> &str {
        &self.reference
    }

    /// The program that signed, as it calls itself.
    pub fn untrusted_creator(&self) -> Option<&str> {
        self.creator.as_deref()
    }

    /// When it was signed by the signer's clock, in seconds since 1970.
    pub fn untrusted_timestamp(&self) -> Option<i64> {
        self.claims.timestamp
    }

    /// The rest of what is signed.
    pub(crate) fn into_claims(self) -> Claims {
        self.claims
    }
}

/// Why signed bytes are no simple-signing payload. Whoever signed is at fault.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// Not the JSON that it should be, to the key.
    #[error("{0}")]
    Json(JsonError),
    /// A signature of another kind.
    #[error("its type should be {expected:?}, found {found:?}")]
    Type {
        /// The type wanted.
        expected: &'static str,
        /// The type found.
        found: String,
    },
    /// The digest is none.
    #[error("its docker-manifest-digest is invalid: {0}")]
    Digest(DigestError),
    /// The timestamp is no whole number of seconds.
    #[error("its timestamp {found} is not a whole number of seconds")]
    Timestamp {
        /// The number found.
        found: String,
    },
}

impl From<JsonError> for PayloadError {
    fn from(error: JsonError) -> Self {
        Self::Json(error)
    }
}

impl From<DigestError> for PayloadError {
    fn from(error: DigestError) -> Self {
        Self::Digest(error)
    }
}

fn claims(optional: &Members<'_>) -> Result<(Option<String>, Claims), PayloadError> {
    let creator = optional
        .optional("creator")
        .map(|node| node.string())
        .transpose()?;
    let timestamp = optional
        .optional("timestamp")
        .map(|node| seconds(&node))
        .transpose()?;
    let texts = optional
        .iter()
        .filter_map(|(name, node)| Some((name.to_owned(), node.string().ok()?.to_owned())));
    let claims = Claims {
        timestamp,
        annotations: texts.collect(),
    };
    Ok((creator.map(str::to_owned), claims))
}

/// Go reads null as the empty text, which is no reference and meets no identity.
fn text_or_null<'a>(node: &Node<'a>) -> Result<&'a str, JsonError> {
    if node.is_null() {
        Ok("")
    } else {
        node.string()
    }
}

/// JSON has no integers: 5.0 is the same number as 5, and is read as such. So is 5e0, which no
/// signer writes for whole seconds, and which is refused.
fn seconds(node: &Node<'_>) -> Result<i64, PayloadError> {
    let text = node.number()?;
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let whole = text.strip_suffix(".0").and_then(|whole| whole.parse().ok());
    whole.ok_or_else(|| PayloadError::Timestamp {
        found: text.to_owned(),
    })
}

const COSIGN_TYPE: &str = "cosign container image signature";
const SIMPLE_TYPE: &str = "atomic container signature";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::JsonProblem;

    const HEX: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn parse(critical: &str, optional: &str) -> Result<Payload, PayloadError> {
        let text = format!(r#"{{"critical":{{{critical}}},"optional":{optional}}}"#);
        Payload::parse_cosign(text.as_bytes())
    }

    fn critical(kind: &str, digest: &str, more: &str) -> String {
        format!(
            r#""type":"{kind}","image":{{"docker-manifest-digest":"{digest}"}},
               "identity":{{"docker-reference":"a/b"{more}}}"#
        )
    }

    #[test]
    fn reads_what_cosign_writes() {
        let good = critical(COSIGN_TYPE, &format!("sha256:{HEX}"), "");
        let payload = parse(&good, "null").unwrap();
        assert_eq!(payload.untrusted_reference(), "a/b");
        assert_eq!(payload.untrusted_digest().hex(), HEX);
        let claims = r#"{"creator":"c","timestamp":-5.0,"own":[1]}"#;
        let payload = parse(&good, claims).unwrap();
        assert_eq!(payload.untrusted_creator(), Some("c"));
        assert_eq!(payload.untrusted_timestamp(), Some(-5));
    }

    #[test]
    fn refuses_a_payload_of_another_kind_or_with_more_to_say() {
        let digest = format!("sha256:{HEX}");
        let simple = parse(&critical("atomic container signature", &digest, ""), "{}");
        assert_eq!(
            simple,
            Err(PayloadError::Type {
                expected: COSIGN_TYPE,
                found: "atomic container signature".to_owned(),
            })
        );
        let traversal = parse(&critical(COSIGN_TYPE, "sha256:../..", ""), "{}");
        assert!(matches!(
            traversal,
            Err(PayloadError::Digest(DigestError::Length { .. }))
        ));
        let good = critical(COSIGN_TYPE, &digest, "");
        let half = parse(&good, r#"{"timestamp":0.5}"#);
        assert_eq!(
            half,
            Err(PayloadError::Timestamp {
                found: "0.5".to_owned()
            })
        );
        let rows = [
            (
                "one key more",
                critical(COSIGN_TYPE, &digest, r#","tag":"x""#),
                "{}",
            ),
            (
                "a key twice",
                critical(COSIGN_TYPE, &digest, r#","docker-reference":"x""#),
                "{}",
            ),
            ("no list", good.clone(), "[]"),
            ("no object", good, "null,\"x\":1"),
        ];
        for (row, critical, optional) in rows {
            let Err(PayloadError::Json(error)) = parse(&critical, optional) else {
                panic!("{row}");
            };
            assert!(
                !matches!(error.problem(), JsonProblem::Syntax { .. }),
                "{row}: {error}"
            );
        }
    }
}
