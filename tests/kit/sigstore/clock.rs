//! A timestamp authority (RFC 3161).

use rcgen::{
    Certificate, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyUsagePurpose,
};
use serde_json::Value;

use super::authority::{authority, params};
use super::der::{self, CONTEXT_0, GENERALIZED_TIME, INTEGER, NULL, OCTET_STRING, SET, sequence};
use super::key::ServiceKey;
use super::moment::{LONG, Moment, START};
use super::sha256;

/// Its root and the certificate that it signs tokens with.
#[derive(Debug)]
pub(super) struct Clock {
    root: Certificate,
    leaf: Certificate,
    key: ServiceKey,
}

impl Clock {
    pub(super) fn mint() -> Self {
        let root_key = ServiceKey::p256();
        let root_params = params("timestamp root", LONG);
        let root = root_params.self_signed(&root_key.pair);
        let root = root.expect("a certificate");
        let issuer = Issuer::new(root_params, root_key.pair);
        let key = ServiceKey::p256();
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name = rcgen::DistinguishedName::new();
        leaf.distinguished_name
            .push(DnType::CommonName, "timestamps");
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.custom_extensions = vec![timestamping()];
        Moment(START).limit(LONG, &mut leaf);
        let leaf = leaf.signed_by(&key.pair, &issuer).expect("a certificate");
        Self { root, leaf, key }
    }

    /// The entry of `timestampAuthorities` in a trusted root.
    pub(super) fn trusted(&self) -> Value {
        authority("https://timestamp.example", &[&self.leaf, &self.root])
    }

    /// The response that `message` was there at `time`.
    pub(super) fn stamp(&self, message: &[u8], time: Moment) -> Vec<u8> {
        let info = sequence(&[
            &der::value(INTEGER, &[1]),
            &der::oid(&[1, 3, 6, 1, 4, 1, 57264, 2]),
            &sequence(&[
                &sha256_algorithm(),
                &der::value(OCTET_STRING, &sha256(message)),
            ]),
            &der::value(INTEGER, &[42]),
            &der::value(GENERALIZED_TIME, time.generalized().as_bytes()),
        ]);
        let signed = sequence(&[
            &der::value(INTEGER, &[3]),
            &der::value(SET, &sha256_algorithm()),
            &sequence(&[
                &der::oid(&TST_INFO),
                &der::value(CONTEXT_0, &der::value(OCTET_STRING, &info)),
            ]),
            &der::value(SET, &self.signer(&info)),
        ]);
        let token = sequence(&[
            &der::oid(&[1, 2, 840, 113_549, 1, 7, 2]),
            &der::value(CONTEXT_0, &signed),
        ]);
        let granted = sequence(&[&der::value(INTEGER, &[0])]);
        sequence(&[&granted, &token])
    }

    /// `SignerInfo` (RFC 5652 section 5.3) over `info`.
    fn signer(&self, info: &[u8]) -> Vec<u8> {
        let attribute =
            |oid: &[u64], value: Vec<u8>| sequence(&[&der::oid(oid), &der::value(SET, &value)]);
        let content_type = attribute(&[1, 2, 840, 113_549, 1, 9, 3], der::oid(&TST_INFO));
        let digest = der::value(OCTET_STRING, &sha256(info));
        let digest = attribute(&[1, 2, 840, 113_549, 1, 9, 4], digest);
        // In the order of DER: the shorter comes first.
        let attributes = [content_type, digest].concat();
        let signature = self.key.sign(&der::value(SET, &attributes));
        let certificate = der::members(der::members(self.leaf.der())[0]);
        let (serial, issuer) = (certificate[1], certificate[3]);
        sequence(&[
            &der::value(INTEGER, &[1]),
            &sequence(&[issuer, serial]),
            &sha256_algorithm(),
            &der::value(CONTEXT_0, &attributes),
            &sequence(&[&der::oid(&[1, 2, 840, 10045, 4, 3, 2])]),
            &der::value(OCTET_STRING, &signature),
        ])
    }
}

/// The extended key usage that a timestamp authority has alone, and marks as critical.
fn timestamping() -> CustomExtension {
    let usage = sequence(&[&der::oid(&[1, 3, 6, 1, 5, 5, 7, 3, 8])]);
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 37], usage);
    extension.set_criticality(true);
    extension
}

fn sha256_algorithm() -> Vec<u8> {
    sequence(&[
        &der::oid(&[2, 16, 840, 1, 101, 3, 4, 2, 1]),
        &der::value(NULL, &[]),
    ])
}

const TST_INFO: [u64; 9] = [1, 2, 840, 113_549, 1, 9, 16, 1, 4];
