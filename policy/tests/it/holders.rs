//! Transparency logs and certificate authorities, made at run time.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use policy::{CosignSignature, Digest};
use proptest::sample::Index;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, date_time_ymd,
};
use serde_json::{Value, json};

use crate::support::{SIGNATURE, Signer, pem};

pub(crate) const BUNDLE: &str = "dev.sigstore.cosign/bundle";
pub(crate) const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
pub(crate) const CHAIN: &str = "dev.sigstore.cosign/chain";
pub(crate) const EMAIL: &str = "dev@example.com";
pub(crate) const OIDC: &str = "https://login.example.com";
/// 2024-06-15, within the validity of everything here that is not made to be expired.
pub(crate) const TIME: u64 = 1_718_409_600;

/// What a log would have of a signature.
pub(crate) fn log_body(signature: &CosignSignature, signer: &str) -> Value {
    let payload = signature.payload.as_ref().unwrap();
    json!({
        "apiVersion": "0.0.1",
        "kind": "hashedrekord",
        "spec": {
            "data": {"hash": {"algorithm": "sha256", "value": Digest::sha256_of(payload).hex()}},
            "signature": {
                "content": signature.annotations[SIGNATURE],
                "publicKey": {"content": STANDARD.encode(signer)},
            },
        },
    })
}

/// The bundle annotation for an entry that `log` promises. Members print in order of their names,
/// which is the canonical form of these.
pub(crate) fn promise(log: &Signer, body: &Value, time: u64) -> Value {
    let payload = json!({
        "body": STANDARD.encode(body.to_string()),
        "integratedTime": time,
        "logID": "c0d23d6ad406973f9559f3ba2d1ca01f84147d8ffc5b8445c224f98b9591801d",
        "logIndex": 42,
    });
    let signature = log.sign(payload.to_string().as_bytes());
    json!({"SignedEntryTimestamp": STANDARD.encode(signature), "Payload": payload})
}

/// An authority with what it takes to issue.
pub(crate) struct Ca {
    pub(crate) pem: String,
    pub(crate) spki: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn root(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let (params, key) = (Self::params("root", change), KeyPair::generate().unwrap());
        let (pem, spki) = (params.self_signed(&key).unwrap().pem(), spki(&key));
        let issuer = Issuer::new(params, key);
        Self { pem, spki, issuer }
    }

    pub(crate) fn below(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let (params, key) = (Self::params(name, change), KeyPair::generate().unwrap());
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        let (spki, issuer) = (spki(&key), Issuer::new(params, key));
        Self { pem, spki, issuer }
    }

    fn params(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        valid(&mut params, 2020, 2040);
        change(&mut params);
        params
    }

    /// A certificate as Fulcio issues them, changed.
    pub(crate) fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> Holder {
        self.issue_logged(change, |_| None)
    }

    /// The same with what logs make of the certificate without it, as an extension in the middle.
    pub(crate) fn issue_logged(
        &self,
        change: impl FnOnce(&mut CertificateParams),
        log: impl FnOnce(&[u8]) -> Option<CustomExtension>,
    ) -> Holder {
        let mut params = CertificateParams::default();
        valid(&mut params, 2024, 2025);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        params.subject_alt_names = vec![email(EMAIL)];
        params.custom_extensions = vec![issuer_v1(OIDC), issuer_v2(OIDC)];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        params.serial_number = Some(SerialNumber::from(42));
        let shown = params.signed_by(&key, &self.issuer).unwrap();
        let middle = params.custom_extensions.len().min(1);
        params
            .custom_extensions
            .splice(middle..middle, log(content_of(shown.der())));
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.serialized_der());
        let signer = Signer::Ecdsa(pair.unwrap());
        let (spki, issuer) = (spki(&key), Issuer::new(params, key));
        Holder {
            // Without the newline behind it, which a log's entry must not have either.
            pem: pem.trim_end().to_owned(),
            signer,
            as_ca: Ca { pem, spki, issuer },
        }
    }
}

/// A holder of a certificate.
pub(crate) struct Holder {
    pub(crate) pem: String,
    pub(crate) signer: Signer,
    /// The same certificate, used for what it must not be.
    pub(crate) as_ca: Ca,
}

/// What a log says of a certificate, without its length in front (RFC 6962 section 3.2).
pub(crate) fn timestamp(log: &Signer, content: &[u8], issuer: &[u8], seconds: u64) -> Vec<u8> {
    let hash = |bytes: &[u8]| sha256(bytes).as_ref().to_vec();
    let time = (1000 * seconds).to_be_bytes();
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    let entry = [&[0, 1], hash(issuer).as_slice(), &length[1..], content].concat();
    let signature = log.sign(&[&[0, 0], time.as_slice(), &entry, &[0, 0]].concat());
    let head = [&[0], hash(&log.spki()).as_slice(), &time, &[0, 0], &[4, 3]].concat();
    [head, with_length(&signature)].concat()
}

/// The extension with these.
pub(crate) fn timestamps(list: &[Vec<u8>]) -> CustomExtension {
    let list: Vec<u8> = list.iter().flat_map(|item| with_length(item)).collect();
    let list = with_length(&list);
    let [high, low] = u16::try_from(list.len()).unwrap().to_be_bytes();
    let header = match (high, low) {
        (0, ..0x80) => vec![4, low],
        (0, _) => vec![4, 0x81, low],
        _ => vec![4, 0x82, high, low],
    };
    let der = [header, list].concat();
    extension(&[1, 3, 6, 1, 4, 1, 11129, 2, 4, 2], &der, false)
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    [length.as_slice(), bytes].concat()
}

fn sha256(bytes: &[u8]) -> aws_lc_rs::digest::Digest {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes)
}

/// The first member of a certificate: what is signed.
fn content_of(certificate: &[u8]) -> &[u8] {
    let (outer, _) = der_lengths(certificate);
    let inner = &certificate[outer..];
    let (header, body) = der_lengths(inner);
    &inner[..header + body]
}

/// The lengths of the header of a DER value and of what follows it.
fn der_lengths(der: &[u8]) -> (usize, usize) {
    match der[1] {
        0x82 => (4, usize::from(u16::from_be_bytes([der[2], der[3]]))),
        0x81 => (3, usize::from(der[2])),
        short => (2, usize::from(short)),
    }
}

fn spki(key: &KeyPair) -> Vec<u8> {
    key.subject_public_key_info()
}

pub(crate) fn valid(params: &mut CertificateParams, from: i32, to: i32) {
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
}

pub(crate) fn email(address: &str) -> SanType {
    SanType::Rfc822Name(address.try_into().unwrap())
}

pub(crate) fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

pub(crate) fn extension(oid: &[u64], content: &[u8], critical: bool) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
    extension.set_criticality(critical);
    extension
}

pub(crate) fn issuer_v1(issuer: &str) -> CustomExtension {
    extension(&[1, 3, 6, 1, 4, 1, 57264, 1, 1], issuer.as_bytes(), false)
}

pub(crate) fn issuer_v2(issuer: &str) -> CustomExtension {
    let length = u8::try_from(issuer.len()).unwrap();
    let der = [&[0x0c, length], issuer.as_bytes()].concat();
    extension(&[1, 3, 6, 1, 4, 1, 57264, 1, 8], &der, false)
}

/// Changes a character of a text that is all ASCII.
pub(crate) fn flip_text(text: &mut String, at: Index, by: u8) {
    let mut bytes = std::mem::take(text).into_bytes();
    let at = at.index(bytes.len());
    bytes[at] ^= by;
    *text = String::from_utf8(bytes).unwrap();
}

/// Changes a byte in the first PEM block of a text.
pub(crate) fn flip_pem(text: &str, at: Index, by: u8) -> String {
    let end = "-----END CERTIFICATE-----";
    let (block, rest) = text.split_once(end).unwrap();
    let body = block.strip_prefix("-----BEGIN CERTIFICATE-----").unwrap();
    let body: String = body.chars().filter(|c| !c.is_whitespace()).collect();
    let mut der = STANDARD.decode(body).unwrap();
    let at = at.index(der.len());
    der[at] ^= by;
    format!("{}{rest}", pem("CERTIFICATE", &der).trim_end())
}
