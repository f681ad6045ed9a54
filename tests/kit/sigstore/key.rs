//! Keys of the services, and what is said of them in a trusted root.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData, SigningKey};
use serde_json::{Value, json};

use super::moment::{Moment, START};
use super::sha256;

/// A key of a service.
#[derive(Debug)]
pub(super) struct ServiceKey {
    pub(super) pair: KeyPair,
}

impl ServiceKey {
    /// ECDSA over P-256 with SHA-256.
    pub(super) fn p256() -> Self {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        Self { pair }
    }

    /// Ed25519.
    pub(super) fn ed25519() -> Self {
        let pair = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        Self { pair }
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).expect("a signature")
    }

    pub(super) fn spki(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }

    /// How RFC 6962 and the first version of Rekor name a log.
    pub(super) fn id(&self) -> [u8; 32] {
        sha256(&self.spki())
    }

    /// An entry of `tlogs` or `ctlogs` in a trusted root.
    pub(super) fn trusted(&self, url: &str, id: &[u8]) -> Value {
        let details = if self.pair.is_compatible(&PKCS_ED25519) {
            "PKIX_ED25519"
        } else {
            "PKIX_ECDSA_P256_SHA_256"
        };
        json!({
            "baseUrl": url,
            "hashAlgorithm": "SHA2_256",
            "publicKey": {
                "rawBytes": STANDARD.encode(self.spki()),
                "keyDetails": details,
                "validFor": {"start": Moment(START).rfc3339()},
            },
            "logId": {"keyId": STANDARD.encode(id)},
        })
    }
}
