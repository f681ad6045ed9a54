//! Signs an image as `cosign sign --key` does, with a key made for this run.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::fault::Fault;
use crate::layer::sha256;
use crate::registry::Registry;

/// A signing key that lives as long as the run.
#[derive(Debug)]
pub(crate) struct Signer {
    key: EcdsaKeyPair,
    /// The public half, as a key file holds it.
    pub(crate) public_pem: String,
}

impl Signer {
    pub(crate) fn new() -> Result<Signer, Fault> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .map_err(|_: Unspecified| Fault::Signing(Unspecified))?;
        let der: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(Fault::Signing)?;
        let public_pem = format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            STANDARD.encode(der.as_ref())
        );
        Ok(Signer { key, public_pem })
    }

    /// Attaches a signature of `image` under the tag that cosign gives it.
    pub(crate) fn sign(&self, registry: &Registry, image: &str) -> Result<(), Fault> {
        let (digest, _) = registry.manifest(image)?;
        let payload = json!({
            "critical": {
                "identity": { "docker-reference": format!("{}/bench/{image}", registry.host()) },
                "image": { "docker-manifest-digest": digest },
                "type": "cosign container image signature",
            },
            "optional": null,
        })
        .to_string();
        let random = SystemRandom::new();
        let signature = self
            .key
            .sign(&random, payload.as_bytes())
            .map_err(Fault::Signing)?;
        let config = json!({
            "architecture": "", "os": "", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [sha256(payload.as_bytes())] },
        })
        .to_string();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": sha256(config.as_bytes()),
                "size": config.len(),
            },
            "layers": [{
                "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
                "digest": sha256(payload.as_bytes()),
                "size": payload.len(),
                "annotations": {
                    "dev.cosignproject.cosign/signature": STANDARD.encode(signature.as_ref()),
                },
            }],
        });
        registry.put_blob(image, config.as_bytes())?;
        registry.put_blob(image, payload.as_bytes())?;
        let tag = format!("{}.sig", digest.replace(':', "-"));
        registry.put_manifest(image, &tag, manifest.to_string().as_bytes())
    }
}
