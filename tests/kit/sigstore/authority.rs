//! A certificate authority as Fulcio is one: a root, an intermediate, and certificates for ten
//! minutes with a signed certificate timestamp in them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use serde_json::{Value, json};

use super::der;
use super::identity::Identity;
use super::key::ServiceKey;
use super::moment::{LONG, Moment, START};
use super::sha256;

/// Root and intermediate.
#[derive(Debug)]
pub(super) struct Fulcio {
    root: Certificate,
    intermediate: Certificate,
    issuer: Issuer<'static, KeyPair>,
    issuer_key: Vec<u8>,
}

/// A key with the certificate that was issued for it.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) key: ServiceKey,
    pub(super) der: Vec<u8>,
    pub(super) pem: String,
}

impl Fulcio {
    /// An authority whose intermediate is good for `intermediate_seconds` from the beginning.
    pub(super) fn mint(intermediate_seconds: u64) -> Self {
        let root_key = ServiceKey::p256();
        let root_params = params("root", LONG);
        let root = root_params.self_signed(&root_key.pair);
        let root = root.expect("a certificate");
        let root_issuer = Issuer::new(root_params, root_key.pair);
        let key = ServiceKey::p256();
        let issuer_key = key.spki();
        let mut below = params("intermediate", intermediate_seconds);
        below.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        below.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        below.use_authority_key_identifier_extension = true;
        let intermediate = below.signed_by(&key.pair, &root_issuer);
        Self {
            root,
            intermediate: intermediate.expect("a certificate"),
            issuer: Issuer::new(below, key.pair),
            issuer_key,
        }
    }

    /// PEM of the root.
    pub(super) fn root_pem(&self) -> String {
        self.root.pem()
    }

    /// PEM of what is above a signer's certificate, the root last.
    pub(super) fn chain_pem(&self) -> String {
        format!("{}{}", self.intermediate.pem(), self.root.pem())
    }

    /// The entry of `certificateAuthorities` in a trusted root.
    pub(super) fn trusted(&self) -> Value {
        authority("https://fulcio.example", &[&self.intermediate, &self.root])
    }

    /// A certificate for `identity` from `begin` on, known to `log` if there is one.
    pub(super) fn issue(
        &self,
        identity: &Identity,
        begin: Moment,
        log: Option<&ServiceKey>,
    ) -> Holder {
        let key = ServiceKey::p256();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        begin.limit(VALIDITY, &mut params);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        params.use_authority_key_identifier_extension = true;
        // Fixed, so that what the log has seen and what is issued are the same but for the timestamp.
        params.serial_number = Some(SerialNumber::from_slice(&sha256(&key.spki())[12..]));
        identity.write(&mut params);
        if let Some(log) = log {
            let seen = params.signed_by(&key.pair, &self.issuer);
            let seen = seen.expect("a certificate");
            let stamp = self.timestamp(log, der::members(seen.der())[0], begin);
            params.custom_extensions.push(stamp);
        }
        let issued = params.signed_by(&key.pair, &self.issuer);
        let issued = issued.expect("a certificate");
        Holder {
            key,
            der: issued.der().to_vec(),
            pem: issued.pem(),
        }
    }

    /// The extension with what `log` says of a certificate (RFC 6962 sections 3.2 and 3.3).
    fn timestamp(&self, log: &ServiceKey, certificate: &[u8], at: Moment) -> CustomExtension {
        let time = (1000 * at.0).to_be_bytes();
        let length = u32::try_from(certificate.len())
            .expect("short")
            .to_be_bytes();
        let entry = [
            &[0, 1],
            sha256(&self.issuer_key).as_slice(),
            &length[1..],
            certificate,
        ]
        .concat();
        let signature = log.sign(&[&[0, 0], time.as_slice(), &entry, &[0, 0]].concat());
        let head = [&[0], log.id().as_slice(), &time, &[0, 0], &[4, 3]].concat();
        let timestamp = [head, with_length(&signature)].concat();
        let list = with_length(&with_length(&timestamp));
        let content = der::value(der::OCTET_STRING, &list);
        let mut extension =
            CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 11129, 2, 4, 2], content);
        extension.set_criticality(false);
        extension
    }
}

/// An entry of a trusted root for an authority with this chain, the root last.
pub(super) fn authority(url: &str, chain: &[&Certificate]) -> Value {
    let certificates: Vec<_> = chain
        .iter()
        .map(|certificate| json!({"rawBytes": STANDARD.encode(certificate.der())}))
        .collect();
    json!({
        "subject": {"organization": "kit", "commonName": url},
        "uri": url,
        "certChain": {"certificates": certificates},
        "validFor": {"start": Moment(START).rfc3339()},
    })
}

/// An authority's own certificate.
pub(super) fn params(name: &str, seconds: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Moment(START).limit(seconds, &mut params);
    params
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("short").to_be_bytes();
    [length.as_slice(), bytes].concat()
}

/// How long a signer's certificate is good, in seconds.
const VALIDITY: u64 = 600;
