//! Signing: bundles as cosign 3 writes them, and the annotations that its elders write.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};

use super::authority::Holder;
use super::log::{Log, Version};
use super::moment::Moment;
use super::statement::Statement;
use super::{Identity, Sigstore, hex, sha256};
use crate::cosign::{Key, Signature};

/// A Sigstore bundle, version 0.3.
#[derive(Debug, Clone)]
pub struct Bundle {
    json: Value,
}

impl Bundle {
    /// As `cosign sign --key` makes one without any service.
    pub fn keyed(key: &Key, statement: &Statement) -> Self {
        let signature = key.sign_by_default(&statement.encoded());
        let mut bundle = Self::around(json!({
            "publicKey": {"hint": hint(key)},
            "timestampVerificationData": {},
        }));
        bundle.json["dsseEnvelope"] = statement.envelope(&signature);
        bundle
    }

    /// A bundle that somebody else has made.
    pub fn parse(bytes: &[u8]) -> Self {
        let json = serde_json::from_slice(bytes).expect("a bundle is JSON");
        Self { json }
    }

    /// The bytes.
    pub fn bytes(&self) -> Bytes {
        self.json.to_string().into()
    }

    /// The JSON.
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// Changed after it was signed.
    #[must_use]
    pub fn edit(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.json);
        self
    }

    /// Without the member at a JSON pointer.
    #[must_use]
    pub fn without(self, pointer: &str) -> Self {
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer to a member");
        self.edit(|json| {
            let parent = json.pointer_mut(parent).expect("the parent is there");
            let members = parent.as_object_mut().expect("the parent is an object");
            members.remove(name).expect("the member is there");
        })
    }

    /// With one bit changed in the middle of the base64 at a JSON pointer.
    #[must_use]
    pub fn spoiled(self, pointer: &str) -> Self {
        self.edit(|json| {
            let text = json.pointer_mut(pointer).expect("the member is there");
            let mut bytes = STANDARD
                .decode(text.as_str().expect("a text"))
                .expect("base64");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            *text = STANDARD.encode(bytes).into();
        })
    }

    fn around(material: Value) -> Self {
        let mut json = json!({"mediaType": MEDIA_TYPE});
        json["verificationMaterial"] = material;
        Self { json }
    }
}

/// Somebody who signs with a certificate, and with which evidence. At first it is everything that
/// today's public services give: an embedded timestamp of the certificate log, an entry in the first
/// version of the transparency log, and a timestamp.
#[derive(Debug, Clone)]
pub struct Ceremony<'a> {
    services: &'a Sigstore,
    identity: Identity,
    issued: Moment,
    signed: Moment,
    certificate_log: bool,
    log: Option<Version>,
    timestamp: bool,
}

impl<'a> Ceremony<'a> {
    pub(super) fn new(services: &'a Sigstore, identity: Identity) -> Self {
        let now = Moment::now().minus(60);
        Self {
            services,
            identity,
            issued: now,
            signed: now.plus(1),
            certificate_log: true,
            log: Some(Version::One),
            timestamp: true,
        }
    }

    /// With a certificate that no log has seen.
    #[must_use]
    pub fn without_certificate_log(mut self) -> Self {
        self.certificate_log = false;
        self
    }

    /// With an entry in this log.
    #[must_use]
    pub fn log(mut self, version: Version) -> Self {
        self.log = Some(version);
        self
    }

    /// Without an entry in a log.
    #[must_use]
    pub fn without_log(mut self) -> Self {
        self.log = None;
        self
    }

    /// Without a timestamp.
    #[must_use]
    pub fn without_timestamp(mut self) -> Self {
        self.timestamp = false;
        self
    }

    /// With a certificate for ten minutes from `issued`.
    #[must_use]
    pub fn issued(mut self, issued: Moment) -> Self {
        self.issued = issued;
        self
    }

    /// Logged and timestamped at `signed`.
    #[must_use]
    pub fn signed(mut self, signed: Moment) -> Self {
        self.signed = signed;
        self
    }

    /// The bundle of a statement.
    pub fn sign(&self, statement: &Statement) -> Bundle {
        let holder = self.holder();
        let encoded = statement.encoded();
        let signature = holder.key.sign(&encoded);
        let entry = self.log.map(|version| {
            let log = self.services.log(version);
            let envelope = statement.envelope(&signature);
            take_envelope(
                log,
                &statement.payload(),
                &envelope,
                &encoded,
                &holder,
                self.signed,
            )
        });
        let mut bundle = self.bundle(&holder, &signature, entry);
        bundle.json["dsseEnvelope"] = statement.envelope(&signature);
        bundle
    }

    /// The bundle of a blob, which is not in it.
    pub fn sign_blob(&self, blob: &[u8]) -> Bundle {
        let holder = self.holder();
        let signature = holder.key.sign(blob);
        let entry = self.log.map(|version| {
            let log = self.services.log(version);
            take_signature(log, blob, &signature, &holder, self.signed)
        });
        let mut bundle = self.bundle(&holder, &signature, entry);
        bundle.json["messageSignature"] = json!({
            "messageDigest": {"algorithm": "SHA2_256", "digest": STANDARD.encode(sha256(blob))},
            "signature": STANDARD.encode(signature),
        });
        bundle
    }

    /// A simple-signing payload with the annotations that cosign 2 writes.
    pub fn sign_payload(&self, payload: &[u8]) -> Signature {
        let holder = self.holder();
        let signature = holder.key.sign(payload);
        let mut evidence = vec![
            (CERTIFICATE, holder.pem.clone()),
            (CHAIN, self.services.chain_pem()),
        ];
        if let Some(version) = self.log {
            let log = self.services.log(version);
            let entry = take_signature(log, payload, &signature, &holder, self.signed);
            evidence.push((BUNDLE, legacy_entry(&entry).to_string()));
        }
        if self.timestamp {
            let stamp = self.services.clock.stamp(&signature, self.signed);
            let stamp = json!({"SignedRFC3161Timestamp": STANDARD.encode(stamp)});
            evidence.push((TIMESTAMP, stamp.to_string()));
        }
        Signature {
            payload: payload.to_vec().into(),
            annotation: STANDARD.encode(signature),
            evidence,
        }
    }

    /// The envelope of a statement with the annotations that cosign 2 writes.
    pub fn sign_attestation(&self, statement: &Statement) -> Signature {
        let bundle = self.sign(statement);
        let envelope = bundle.json["dsseEnvelope"].to_string();
        let material = &bundle.json["verificationMaterial"];
        let leaf = material["certificate"]["rawBytes"].as_str();
        let leaf = leaf.expect("a text").as_bytes().chunks(64);
        let lines = leaf.map(|line| String::from_utf8_lossy(line).into_owned() + "\n");
        let lines: String = lines.collect();
        let pem = format!("-----BEGIN CERTIFICATE-----\n{lines}-----END CERTIFICATE-----\n");
        let mut evidence = vec![(CERTIFICATE, pem), (CHAIN, self.services.chain_pem())];
        if let Some(entry) = material["tlogEntries"].get(0) {
            evidence.push((BUNDLE, legacy_entry(entry).to_string()));
        }
        if self.timestamp {
            // Of all of it, and not of the signature alone.
            let stamp = self.services.clock.stamp(envelope.as_bytes(), self.signed);
            let stamp = json!({"SignedRFC3161Timestamp": STANDARD.encode(stamp)});
            evidence.push((TIMESTAMP, stamp.to_string()));
        }
        Signature {
            payload: envelope.into_bytes().into(),
            annotation: String::new(),
            evidence,
        }
    }

    fn holder(&self) -> Holder {
        let log = self
            .certificate_log
            .then_some(&self.services.certificate_log);
        self.services.fulcio.issue(&self.identity, self.issued, log)
    }

    fn bundle(&self, holder: &Holder, signature: &[u8], entry: Option<Value>) -> Bundle {
        let mut material = json!({"certificate": {"rawBytes": STANDARD.encode(&holder.der)}});
        if let Some(entry) = entry {
            material["tlogEntries"] = json!([entry]);
        }
        if self.timestamp {
            let stamp = self.services.clock.stamp(signature, self.signed);
            material["timestampVerificationData"] =
                json!({"rfc3161Timestamps": [{"signedTimestamp": STANDARD.encode(stamp)}]});
        }
        Bundle::around(material)
    }
}

/// The entry of a keyed bundle in the first version of the log.
pub(super) fn take_keyed(log: &Log, key: &Key, statement: &Statement, bundle: &Bundle) -> Value {
    let envelope = &bundle.json["dsseEnvelope"];
    let body = dsse_body(&statement.payload(), envelope, &key.public_pem());
    log.take(("dsse", "0.0.1"), &body, Moment::now().minus(60))
}

fn take_envelope(
    log: &Log,
    payload: &[u8],
    envelope: &Value,
    encoded: &[u8],
    holder: &Holder,
    time: Moment,
) -> Value {
    match log.version() {
        Version::One => {
            let body = dsse_body(payload, envelope, &holder.pem);
            log.take(("dsse", "0.0.1"), &body, time)
        }
        Version::Two => {
            let signature = &envelope["signatures"][0]["sig"];
            let body = second_body(encoded, signature, holder);
            log.take(("hashedrekord", "0.0.2"), &body, time)
        }
    }
}

fn take_signature(
    log: &Log,
    message: &[u8],
    signature: &[u8],
    holder: &Holder,
    time: Moment,
) -> Value {
    let signature = STANDARD.encode(signature);
    match log.version() {
        Version::One => {
            let body = json!({
                "apiVersion": "0.0.1",
                "kind": "hashedrekord",
                "spec": {
                    "data": {"hash": {"algorithm": "sha256", "value": hex(&sha256(message))}},
                    "signature": {
                        "content": signature,
                        "publicKey": {"content": STANDARD.encode(&holder.pem)},
                    },
                },
            });
            log.take(("hashedrekord", "0.0.1"), &body, time)
        }
        Version::Two => {
            let body = second_body(message, &signature.into(), holder);
            log.take(("hashedrekord", "0.0.2"), &body, time)
        }
    }
}

fn dsse_body(payload: &[u8], envelope: &Value, verifier: &str) -> Value {
    json!({
        "apiVersion": "0.0.1",
        "kind": "dsse",
        "spec": {
            "envelopeHash": {
                "algorithm": "sha256",
                "value": hex(&sha256(envelope.to_string().as_bytes())),
            },
            "payloadHash": {"algorithm": "sha256", "value": hex(&sha256(payload))},
            "signatures": [{
                "signature": envelope["signatures"][0]["sig"],
                "verifier": STANDARD.encode(verifier),
            }],
        },
    })
}

fn second_body(message: &[u8], signature: &Value, holder: &Holder) -> Value {
    json!({
        "apiVersion": "0.0.2",
        "kind": "hashedrekord",
        "spec": {"hashedRekordV002": {
            "data": {"algorithm": "SHA2_256", "digest": STANDARD.encode(sha256(message))},
            "signature": {
                "content": signature,
                "verifier": {
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "x509Certificate": {"rawBytes": STANDARD.encode(&holder.der)},
                },
            },
        }},
    })
}

/// The annotation that cosign 2 makes of an entry.
fn legacy_entry(entry: &Value) -> Value {
    let number = |value: &Value| -> u64 {
        let text = value.as_str().expect("a number in a text");
        text.parse().expect("a number")
    };
    let id = entry["logId"]["keyId"].as_str().expect("a text");
    let id = STANDARD.decode(id).expect("base64");
    json!({
        "SignedEntryTimestamp": entry["inclusionPromise"]["signedEntryTimestamp"],
        "Payload": {
            "body": entry["canonicalizedBody"],
            "integratedTime": number(&entry["integratedTime"]),
            "logIndex": number(&entry["logIndex"]),
            "logID": hex(&id),
        },
    })
}

/// How cosign hints at a key: the SHA-256 of its public half.
fn hint(key: &Key) -> String {
    STANDARD.encode(sha256(&key.public_der()))
}

/// Media type of the bundle, and of the layer that it is.
pub const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
const CHAIN: &str = "dev.sigstore.cosign/chain";
const BUNDLE: &str = "dev.sigstore.cosign/bundle";
const TIMESTAMP: &str = "dev.sigstore.cosign/rfc3161timestamp";
