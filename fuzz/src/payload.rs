//! Another reader of payloads.

use policy::Payload;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Asserts that `payload`, read from `raw`, is what `serde_json` makes of the same bytes: where two
/// readers differ, a signature says one thing to its signer and another to us.
pub fn assert_read_alike(raw: &[u8], payload: &Payload) {
    let other: Other = serde_json::from_slice(raw).unwrap();
    let critical = other.critical;
    let reference = critical.identity.reference.unwrap_or_default();
    assert_eq!(payload.untrusted_reference(), reference);
    assert_eq!(
        payload.untrusted_digest().to_string(),
        critical.image.digest
    );
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Other {
    critical: Critical,
    #[serde(rename = "optional")]
    _optional: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Critical {
    image: Image,
    identity: Identity,
    #[serde(rename = "type")]
    _kind: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    #[serde(rename = "docker-reference")]
    reference: Option<String>,
}
