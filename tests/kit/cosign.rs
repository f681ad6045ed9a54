//! Keys and signatures as `cosign sign --key` makes them, and as it never would.
//!
//! Keys and signatures come from the openssl program, which shares no code with what is tested.

use std::path::PathBuf;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::image::{Image, media_type, sha256};
use crate::programs::{require, run};

/// Media type of a simple-signing payload in a `.sig` manifest.
pub const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Annotation that carries the signature.
pub const SIGNATURE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";

/// Kind of a signing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA over P-256, what `cosign generate-key-pair` makes.
    P256,
    /// ECDSA over P-384.
    P384,
    /// ECDSA over P-521.
    P521,
    /// Ed25519.
    Ed25519,
    /// RSA of 2048 bits, PKCS #1 v1.5.
    Rsa2048,
}

impl KeyKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::P256,
        Self::P384,
        Self::P521,
        Self::Ed25519,
        Self::Rsa2048,
    ];

    fn genpkey(self) -> &'static [&'static str] {
        match self {
            Self::P256 => &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            Self::P384 => &["EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
            Self::P521 => &["EC", "-pkeyopt", "ec_paramgen_curve:P-521"],
            Self::Ed25519 => &["ED25519"],
            Self::Rsa2048 => &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        }
    }
}

/// A signing key, minted at run time and forgotten with the value.
#[derive(Debug)]
pub struct Key {
    kind: KeyKind,
    directory: TempDir,
    openssl: PathBuf,
}

impl Key {
    /// Mints a key.
    pub fn mint(kind: KeyKind) -> Self {
        let openssl = require("openssl", "openssl");
        let directory = tempfile::tempdir().expect("make a directory");
        run(Command::new(&openssl)
            .args(["genpkey", "-algorithm"])
            .args(kind.genpkey())
            .arg("-out")
            .arg(directory.path().join("key.pem")));
        Self {
            kind,
            directory,
            openssl,
        }
    }

    /// The public key: PEM, `SubjectPublicKeyInfo`, the content of `cosign.pub`.
    pub fn public_pem(&self) -> String {
        let output = run(Command::new(&self.openssl)
            .args(["pkey", "-pubout", "-in"])
            .arg(self.directory.path().join("key.pem")));
        String::from_utf8(output.stdout).expect("PEM is text")
    }

    /// The public key: DER, `SubjectPublicKeyInfo`.
    pub fn public_der(&self) -> Vec<u8> {
        let output = run(Command::new(&self.openssl)
            .args(["pkey", "-pubout", "-outform", "DER", "-in"])
            .arg(self.directory.path().join("key.pem")));
        output.stdout
    }

    /// Signs a message with SHA-256, or as Ed25519 does.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.sign_with(message, "-sha256")
    }

    /// Signs a message with the hash that goes with the key.
    pub fn sign_by_default(&self, message: &[u8]) -> Vec<u8> {
        let hash = match self.kind {
            KeyKind::P384 => "-sha384",
            KeyKind::P521 => "-sha512",
            KeyKind::P256 | KeyKind::Ed25519 | KeyKind::Rsa2048 => "-sha256",
        };
        self.sign_with(message, hash)
    }

    fn sign_with(&self, message: &[u8], hash: &str) -> Vec<u8> {
        let file = tempfile::NamedTempFile::new_in(self.directory.path()).expect("make a file");
        std::fs::write(file.path(), message).expect("write the message");
        let key = self.directory.path().join("key.pem");
        let mut command = Command::new(&self.openssl);
        match self.kind {
            KeyKind::Ed25519 => command
                .args(["pkeyutl", "-sign", "-rawin", "-inkey"])
                .arg(key)
                .arg("-in")
                .arg(file.path()),
            _ => command
                .args(["dgst", hash, "-sign"])
                .arg(key)
                .arg(file.path()),
        };
        run(&mut command).stdout
    }

    /// Signs a claim as cosign does.
    pub fn attest(&self, claim: &Claim) -> Signature {
        let payload = claim.payload();
        let signature = STANDARD.encode(self.sign(&payload));
        Signature {
            payload: payload.into(),
            annotation: signature,
            evidence: Vec::new(),
        }
    }
}

/// What a signature says: an identity and a digest.
#[derive(Debug, Clone)]
pub struct Claim {
    reference: String,
    digest: String,
    kind: &'static str,
    optional: Value,
}

impl Claim {
    /// What `cosign sign --key KEY <repository>@<digest>` says: it names the repository alone.
    pub fn of(repository: &str, digest: &str) -> Self {
        Self {
            reference: repository.to_owned(),
            digest: digest.to_owned(),
            kind: "cosign container image signature",
            optional: Value::Null,
        }
    }

    /// The same with a tag in the identity, as `skopeo` and `podman` sign.
    #[must_use]
    pub fn naming_tag(mut self, tag: &str) -> Self {
        self.reference = format!("{}:{tag}", self.reference);
        self
    }

    /// Another `critical.type`.
    #[must_use]
    pub fn of_type(mut self, kind: &'static str) -> Self {
        self.kind = kind;
        self
    }

    /// Annotations, as `cosign sign -a` adds them.
    #[must_use]
    pub fn optional(mut self, optional: Value) -> Self {
        self.optional = optional;
        self
    }

    /// The simple-signing payload.
    pub fn payload(&self) -> Vec<u8> {
        let payload = json!({
            "critical": {
                "identity": {"docker-reference": self.reference},
                "image": {"docker-manifest-digest": self.digest},
                "type": self.kind,
            },
            "optional": self.optional,
        });
        payload.to_string().into_bytes()
    }
}

/// One layer of a `.sig` manifest.
#[derive(Debug, Clone)]
pub struct Signature {
    /// The payload, byte for byte.
    pub payload: Bytes,
    /// The signature annotation: base64, unless a test wants otherwise.
    pub annotation: String,
    /// The annotations beside it: certificate, chain, log entry, timestamp.
    pub evidence: Vec<(&'static str, String)>,
}

impl Signature {
    /// The same payload under another annotation.
    #[must_use]
    pub fn annotated(mut self, annotation: impl Into<String>) -> Self {
        self.annotation = annotation.into();
        self
    }

    /// The same annotation over another payload.
    #[must_use]
    pub fn over(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }
}

/// The tag that cosign keeps the signatures of `digest` under.
pub fn signature_tag(digest: &str) -> String {
    format!("{}.sig", digest.replace(':', "-"))
}

/// The artefact to be pushed under [`signature_tag`]: one layer per signature.
pub fn signature_image(signatures: impl IntoIterator<Item = Signature>) -> Image {
    let signatures: Vec<_> = signatures.into_iter().collect();
    let diff_ids: Vec<_> = signatures
        .iter()
        .map(|found| sha256(&found.payload))
        .collect();
    let config = json!({
        "architecture": "", "created": "0001-01-01T00:00:00Z", "history": [{"created": "0001-01-01T00:00:00Z"}],
        "os": "", "rootfs": {"type": "layers", "diff_ids": diff_ids}, "config": {},
    })
    .to_string();
    let layers: Vec<_> = signatures
        .iter()
        .map(|found| {
            let mut annotations = json!({SIGNATURE_ANNOTATION: found.annotation});
            for (name, text) in &found.evidence {
                annotations[name] = text.as_str().into();
            }
            json!({
                "mediaType": PAYLOAD_TYPE,
                "size": found.payload.len(),
                "digest": sha256(&found.payload),
                "annotations": annotations,
            })
        })
        .collect();
    let config_digest = sha256(config.as_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": {"mediaType": media_type::OCI_CONFIG, "size": config.len(), "digest": config_digest},
        "layers": layers,
    });
    let mut blobs = vec![(config_digest, Bytes::from(config))];
    blobs.extend(
        signatures
            .into_iter()
            .map(|found| (sha256(&found.payload), found.payload)),
    );
    Image {
        manifest: manifest.to_string().into(),
        media_type: media_type::OCI_MANIFEST.to_owned(),
        blobs,
        children: Vec::new(),
    }
}
