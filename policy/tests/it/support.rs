//! Images, policies and signers, all made at run time.

use std::collections::BTreeMap;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use policy::{
    Approved, COSIGN_PAYLOAD, CosignSignature, Decision, Denied, Digest, Document, Evidence,
    ImageRef, Manifest, OCI_INDEX, OCI_MANIFEST, Platform, Policy, Unverified,
};
use serde_json::{Value, json};

pub(crate) const NAME: &str = "registry.example/team/app:1.0";
pub(crate) const REPOSITORY: &str = "registry.example/team/app";
pub(crate) const KEY: &str = "kbs:///default/cosign-key/1";

/// A key pair that signs as cosign does.
pub(crate) enum Signer {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl Signer {
    pub(crate) fn new() -> Self {
        Self::ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING)
    }

    pub(crate) fn ecdsa(algorithm: &'static EcdsaSigningAlgorithm) -> Self {
        Self::Ecdsa(EcdsaKeyPair::generate(algorithm).unwrap())
    }

    pub(crate) fn spki(&self) -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = match self {
            Self::Ecdsa(pair) => pair.public_key().as_der().unwrap(),
            Self::Ed25519(pair) => pair.public_key().as_der().unwrap(),
            Self::Rsa(pair) => pair.public_key().as_der().unwrap(),
        };
        der.as_ref().to_vec()
    }

    pub(crate) fn pem(&self) -> String {
        pem("PUBLIC KEY", &self.spki())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Ecdsa(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .unwrap();
                signature
            }
        }
    }

    /// What `cosign sign` would push for a document of this digest.
    pub(crate) fn attach(&self, digest: &Digest, reference: &str) -> CosignSignature {
        self.attach_payload(payload(digest, reference))
    }

    pub(crate) fn attach_payload(&self, payload: Vec<u8>) -> CosignSignature {
        let signature = STANDARD.encode(self.sign(&payload));
        CosignSignature {
            found: format!("attachment {}", Digest::sha256_of(&payload)),
            media_type: COSIGN_PAYLOAD.to_owned(),
            payload: Ok(payload),
            annotations: BTreeMap::from([(SIGNATURE.to_owned(), signature)]),
        }
    }
}

pub(crate) const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

pub(crate) fn payload(digest: &Digest, reference: &str) -> Vec<u8> {
    let critical = json!({
        "identity": {"docker-reference": reference},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    });
    json!({"critical": critical, "optional": null})
        .to_string()
        .into_bytes()
}

pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        STANDARD.encode(der)
    )
}

pub(crate) fn config() -> Value {
    let host = Platform::host();
    json!({
        "os": host.os,
        "architecture": host.architecture,
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/app"], "Entrypoint": null},
        "rootfs": {"type": "layers", "diff_ids": [Digest::sha256_of(b"tar 0"), Digest::sha256_of(b"tar 1")]},
    })
}

pub(crate) fn manifest_for(config: &[u8]) -> Value {
    let layer = |content: &[u8]| {
        json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": Digest::sha256_of(content),
            "size": content.len(),
        })
    };
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest::sha256_of(config),
            "size": config.len(),
        },
        "layers": [layer(b"blob 0"), layer(b"blob 1")],
    })
}

pub(crate) fn manifest_bytes() -> Vec<u8> {
    manifest_for(config().to_string().as_bytes())
        .to_string()
        .into_bytes()
}

pub(crate) fn resolve(name: &str, raw: Vec<u8>) -> Unverified<Manifest> {
    let reference = ImageRef::parse_edge(name).unwrap();
    match Document::parse(&reference, Some(OCI_MANIFEST), raw).unwrap() {
        Document::Manifest(manifest) => manifest,
        Document::Index(_) => panic!("an index"),
    }
}

/// The same manifest, reached through an index; and the digest of the index.
pub(crate) fn resolve_through_index(name: &str) -> (Unverified<Manifest>, Digest) {
    list_in_index(name, manifest_bytes())
}

/// `manifest`, reached through an index that lists it for this platform.
pub(crate) fn list_in_index(name: &str, manifest: Vec<u8>) -> (Unverified<Manifest>, Digest) {
    let host = Platform::host();
    let entry = json!({
        "mediaType": OCI_MANIFEST,
        "digest": Digest::sha256_of(&manifest),
        "size": manifest.len(),
        "platform": {"os": host.os, "architecture": host.architecture},
    });
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]});
    let reference = ImageRef::parse_edge(name).unwrap();
    let index = index.to_string().into_bytes();
    let Document::Index(index) = Document::parse(&reference, Some(OCI_INDEX), index).unwrap()
    else {
        panic!("no index");
    };
    let digest = *index.digest();
    let chosen = index.choose(&host).unwrap();
    (
        index
            .instance(&chosen, Some(OCI_MANIFEST), manifest)
            .unwrap(),
        digest,
    )
}

/// A policy that rejects by default and has these requirements for [`REPOSITORY`].
pub(crate) fn policy(requirements: &Value) -> Policy {
    let document = json!({
        "default": [{"type": "reject"}],
        "transports": {"docker": {REPOSITORY: requirements}},
    });
    Policy::parse(document.to_string().as_bytes()).unwrap()
}

pub(crate) fn signed_by_key() -> Value {
    json!({"type": "sigstoreSigned", "keyPath": KEY})
}

pub(crate) fn evidence(signer: &Signer, found: &[(Digest, Vec<CosignSignature>)]) -> Evidence {
    let mut evidence = Evidence::default();
    evidence
        .resources
        .insert(KEY.to_owned(), Ok(signer.pem().into_bytes()));
    for (subject, signatures) in found {
        evidence.cosign.insert(*subject, Ok(signatures.clone()));
    }
    evidence
}

pub(crate) fn decide(
    policy: &Policy,
    manifest: Unverified<Manifest>,
    evidence: &Evidence,
) -> Result<Approved<Manifest>, Denied> {
    let reference = manifest.reference().clone();
    policy.rules_for(&reference).decide(manifest, evidence)
}

/// The decision, whichever it is.
pub(crate) fn decision(answer: &Result<Approved<Manifest>, Denied>) -> &Decision {
    match answer {
        Ok(approved) => approved.decision(),
        Err(denied) => denied.decision(),
    }
}
