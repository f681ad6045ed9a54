//! Attestation tokens: ES256 JWT with the claims of an EAR.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// What signs tokens, for as long as the server runs.
#[derive(Debug)]
pub(super) struct TokenKey(EcdsaKeyPair);

impl TokenKey {
    pub(super) fn generate() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key"))
    }

    /// A token over `runtime_data`, whose report data was `digest`.
    pub(super) fn issue(
        &self,
        runtime_data: &Value,
        digest: &[u8],
        init_data: &Value,
        (now, life): (SystemTime, Duration),
    ) -> String {
        let point = self.0.public_key().as_ref();
        let header = json!({ "typ": "JWT", "alg": "ES256", "jwk": {
            "alg": "ES256", "kty": "EC", "crv": "P-256",
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..]),
        }});
        let now = seconds(now);
        let claims = json!({
            "eat_profile": "tag:github.com,2024:confidential-containers/Trustee",
            "iat": now,
            "exp": now + life.as_secs(),
            "iss": "CoCo-Attestation-Service",
            "ear.verifier-id": {
                "developer": "https://confidentialcontainers.org",
                "build": "attestation-service 0.1.0",
            },
            "submods": { "cpu0": {
                "ear.status": "contraindicated",
                "ear.appraisal-policy-id": "default",
                "ear.veraison.annotated-evidence": {
                    "init_data": init_data,
                    "report_data": STANDARD.encode(digest),
                    "runtime_data_claims": runtime_data,
                    "sample": {
                        "debug": false, "launch_digest": "abcde", "svn": "1",
                        "platform_version": { "major": 1, "minor": 4 },
                    },
                },
            }},
        });
        let signed = format!("{}.{}", encoded(&header), encoded(&claims));
        let signature = self
            .0
            .sign(&SystemRandom::new(), signed.as_bytes())
            .expect("a signature");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The public key of the TEE in a token of ours that has not expired. Like the real server, with
    /// a leeway of a minute.
    pub(super) fn verify(&self, token: &str, now: SystemTime) -> Option<Value> {
        let (signed, signature) = token.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.0.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .ok()?;
        let claims = URL_SAFE_NO_PAD.decode(signed.split_once('.')?.1).ok()?;
        let claims: Value = serde_json::from_slice(&claims).ok()?;
        let alive = claims["exp"].as_u64()? + 60 >= seconds(now);
        let evidence = &claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"];
        let key = &evidence["runtime_data_claims"]["tee-pubkey"];
        (alive && key.is_object()).then(|| key.clone())
    }
}

fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn seconds(moment: SystemTime) -> u64 {
    moment
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970")
        .as_secs()
}
