//! Evidence as artefacts beside an image.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::bundle::{Bundle, MEDIA_TYPE};
use crate::cosign::{SIGNATURE_ANNOTATION, Signature, signature_image};
use crate::image::{Image, media_type, sha256};

/// An artefact that refers to an image, and how it is listed.
#[derive(Debug, Clone)]
pub struct Attached {
    /// The manifest with what it names.
    pub image: Image,
    artifact_type: String,
    annotations: Map<String, Value>,
}

impl Attached {
    /// A bundle, as cosign 3 attaches it to the document `subject`.
    pub fn bundle(subject: &Image, bundle: &Bundle) -> Self {
        Self::bytes(subject, MEDIA_TYPE, bundle.bytes())
    }

    /// One layer of any media type.
    pub fn bytes(subject: &Image, kind: &str, content: impl Into<Bytes>) -> Self {
        let content = content.into();
        let annotations = json!({
            "dev.sigstore.bundle.content": "dsse-envelope",
            "org.opencontainers.image.created": "2026-11-22T10:00:00Z",
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "artifactType": kind,
            "config": {"mediaType": EMPTY_TYPE, "size": 2, "digest": sha256(b"{}")},
            "layers": [{"mediaType": kind, "size": content.len(), "digest": sha256(&content)}],
            "subject": descriptor(subject),
            "annotations": annotations,
        });
        let blobs = vec![
            (sha256(b"{}"), Bytes::from_static(b"{}")),
            (sha256(&content), content),
        ];
        let annotations = annotations.as_object().cloned().unwrap_or_default();
        Self {
            image: artefact(&manifest, blobs),
            artifact_type: kind.to_owned(),
            annotations,
        }
    }

    /// Simple-signing signatures, as cosign 2 attaches them in its experiment with referrers.
    pub fn signatures(subject: &Image, signatures: impl IntoIterator<Item = Signature>) -> Self {
        const KIND: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
        let attachment = signature_image(signatures);
        let mut manifest: Value = serde_json::from_slice(&attachment.manifest).expect("our JSON");
        manifest["artifactType"] = KIND.into();
        manifest["config"]["mediaType"] = KIND.into();
        manifest["subject"] = descriptor(subject);
        Self {
            image: artefact(&manifest, attachment.blobs),
            artifact_type: KIND.to_owned(),
            annotations: Map::new(),
        }
    }

    /// Changed: the manifest itself.
    #[must_use]
    pub fn manifest(mut self, change: impl FnOnce(&mut Value)) -> Self {
        let mut manifest = serde_json::from_slice(&self.image.manifest).expect("our JSON");
        change(&mut manifest);
        self.image.manifest = manifest.to_string().into();
        self
    }

    /// Listed as another type than it is, and without its annotations.
    #[must_use]
    pub fn listed_as(mut self, artifact_type: &str) -> Self {
        artifact_type.clone_into(&mut self.artifact_type);
        self.annotations.clear();
        self
    }

    /// Its entry in a list of referrers.
    pub fn entry(&self) -> Value {
        let mut entry = descriptor(&self.image);
        if !self.artifact_type.is_empty() {
            entry["artifactType"] = self.artifact_type.as_str().into();
        }
        if !self.annotations.is_empty() {
            entry["annotations"] = Value::Object(self.annotations.clone());
        }
        entry
    }
}

/// The list of referrers as it is kept under [`fallback_tag`].
pub fn referrers(attached: &[Attached]) -> Image {
    let entries: Vec<_> = attached.iter().map(Attached::entry).collect();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "manifests": entries,
    });
    Image {
        manifest: index.to_string().into(),
        media_type: media_type::OCI_INDEX.to_owned(),
        blobs: Vec::new(),
        children: attached.iter().map(|one| one.image.clone()).collect(),
    }
}

/// The artefact that cosign 2 keeps attestations in: the envelope of each bundle is a layer.
pub fn attestation_image<'a>(bundles: impl IntoIterator<Item = &'a Bundle>) -> Image {
    let envelopes: Vec<Bytes> = bundles
        .into_iter()
        .map(|bundle| bundle.json()["dsseEnvelope"].to_string().into())
        .collect();
    let layers: Vec<_> = envelopes
        .iter()
        .map(|envelope| {
            json!({
                "mediaType": "application/vnd.dsse.envelope.v1+json",
                "size": envelope.len(),
                "digest": sha256(envelope),
                "annotations": {SIGNATURE_ANNOTATION: ""},
            })
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": {"mediaType": media_type::OCI_CONFIG, "size": 2, "digest": sha256(b"{}")},
        "layers": layers,
    });
    let mut blobs = vec![(sha256(b"{}"), Bytes::from_static(b"{}"))];
    blobs.extend(envelopes.into_iter().map(|one| (sha256(&one), one)));
    artefact(&manifest, blobs)
}

/// The same of envelopes with evidence beside them.
pub fn logged_attestation_image(attestations: impl IntoIterator<Item = Signature>) -> Image {
    let attachment = signature_image(attestations);
    let mut manifest: Value = serde_json::from_slice(&attachment.manifest).expect("our JSON");
    for layer in manifest["layers"].as_array_mut().expect("a list") {
        layer["mediaType"] = "application/vnd.dsse.envelope.v1+json".into();
    }
    artefact(&manifest, attachment.blobs)
}

/// The tag under which referrers are listed where a registry has no list of its own.
pub fn fallback_tag(digest: &str) -> String {
    digest.replace(':', "-")
}

/// The tag that cosign 2 keeps attestations under.
pub fn attestation_tag(digest: &str) -> String {
    format!("{}.att", fallback_tag(digest))
}

fn artefact(manifest: &Value, blobs: Vec<(String, Bytes)>) -> Image {
    Image {
        manifest: manifest.to_string().into(),
        media_type: media_type::OCI_MANIFEST.to_owned(),
        blobs,
        children: Vec::new(),
    }
}

fn descriptor(image: &Image) -> Value {
    json!({
        "mediaType": image.media_type,
        "size": image.manifest.len(),
        "digest": image.digest(),
    })
}

const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
