//! in-toto statements about an image, and the envelope that signs them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// A statement (in-toto attestation framework, version 1).
#[derive(Debug, Clone)]
pub struct Statement {
    json: Value,
    payload_type: String,
}

impl Statement {
    /// What `cosign sign` says of the document `digest`, `sha256:<hex>`.
    pub fn signature(digest: &str) -> Self {
        Self::about(digest, predicate::SIGNATURE, &json!({}))
    }

    /// SLSA provenance of a build by `builder` from `source`.
    pub fn slsa(digest: &str, builder: &str, source: &str) -> Self {
        let provenance = json!({
            "buildDefinition": {
                "buildType": "https://actions.github.io/buildtypes/workflow/v1",
                "externalParameters": {"workflow": {"ref": "refs/heads/main", "repository": source}},
                "resolvedDependencies": [{"uri": format!("git+{source}@refs/heads/main")}],
            },
            "runDetails": {"builder": {"id": builder}, "metadata": {"invocationId": "1"}},
        });
        Self::about(digest, predicate::SLSA, &provenance)
    }

    /// A bill of materials.
    pub fn spdx(digest: &str) -> Self {
        let document = json!({
            "spdxVersion": "SPDX-2.3",
            "SPDXID": "SPDXRef-DOCUMENT",
            "name": "app",
            "packages": [{"name": "busybox", "licenseConcluded": "GPL-2.0-only"}],
        });
        Self::about(digest, predicate::SPDX, &document)
    }

    /// A scan that has found so many critical vulnerabilities, as `cosign attest --type vuln` has it.
    pub fn vuln(digest: &str, critical: u64) -> Self {
        let scan = json!({
            "invocation": {"uri": "", "event_id": "", "builder.id": ""},
            "scanner": {
                "uri": "pkg:github/example/scanner@1",
                "version": "1.4.0",
                "result": {"critical": critical},
            },
            "metadata": {"scanFinishedOn": "2026-11-22T10:00:00Z"},
        });
        Self::about(digest, predicate::VULN, &scan)
    }

    /// Any predicate.
    pub fn about(digest: &str, predicate_type: &str, predicate: &Value) -> Self {
        let hex = digest.trim_start_matches("sha256:");
        let json = json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"digest": {"sha256": hex}}],
            "predicateType": predicate_type,
            "predicate": predicate,
        });
        Self {
            json,
            payload_type: "application/vnd.in-toto+json".to_owned(),
        }
    }

    /// With an annotation, as `cosign sign -a` adds it.
    #[must_use]
    pub fn annotated(self, key: &str, text: &str) -> Self {
        self.edit(|statement| statement["subject"][0]["annotations"][key] = text.into())
    }

    /// Changed before it is signed.
    #[must_use]
    pub fn edit(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.json);
        self
    }

    /// Signed as another type of payload.
    #[must_use]
    pub fn payload_type(mut self, payload_type: &str) -> Self {
        payload_type.clone_into(&mut self.payload_type);
        self
    }

    /// The `predicateType`.
    pub fn predicate_type(&self) -> &str {
        self.json["predicateType"].as_str().unwrap_or_default()
    }

    pub(super) fn payload(&self) -> Vec<u8> {
        self.json.to_string().into_bytes()
    }

    /// What is signed: the pre-authentication encoding of the payload.
    pub(super) fn encoded(&self) -> Vec<u8> {
        let (kind, payload) = (&self.payload_type, self.payload());
        let head = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
        [head.as_bytes(), &payload].concat()
    }

    /// The DSSE envelope with this signature.
    pub(super) fn envelope(&self, signature: &[u8]) -> Value {
        json!({
            "payload": STANDARD.encode(self.payload()),
            "payloadType": self.payload_type,
            "signatures": [{"sig": STANDARD.encode(signature)}],
        })
    }
}

/// Predicate types.
pub mod predicate {
    /// An image signature.
    pub const SIGNATURE: &str = "https://sigstore.dev/cosign/sign/v1";
    /// SLSA provenance, version 1.
    pub const SLSA: &str = "https://slsa.dev/provenance/v1";
    /// SPDX.
    pub const SPDX: &str = "https://spdx.dev/Document";
    /// A vulnerability scan.
    pub const VULN: &str = "https://cosign.sigstore.dev/attestation/vuln/v1";
}
