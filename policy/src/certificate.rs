//! An X.509 certificate (RFC 5280) and what it says. Reading it proves nothing: see
//! [`Authority`](crate::Authority).

use std::collections::BTreeSet;

use rustls_pki_types::CertificateDer;
use spki::ObjectIdentifier;
use spki::der::asn1::Utf8StringRef;
use spki::der::{self, Decode, Encode};
use thiserror::Error;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName};
use x509_cert::name::Name;
use x509_cert::{TbsCertificate, Version};

use crate::digest::Digest;
use crate::encoding::{PemError, decode_pem, decode_pem_blocks};

/// A certificate that was read whole, every extension of it standing once.
#[derive(Debug, Clone)]
pub struct Certificate {
    der: CertificateDer<'static>,
    content: TbsCertificate,
}

impl Certificate {
    /// Reads a text that is exactly one PEM block of `CERTIFICATE`.
    pub fn from_pem(text: &[u8]) -> Result<Self, CertificateError> {
        check_size(text, MAX_TEXT_BYTES)?;
        let (label, der) = decode_pem(text)?;
        Self::from_block(label, der)
    }

    /// Reads certificates one after the other.
    pub(crate) fn list_from_pem(text: &[u8]) -> Result<Vec<Self>, CertificateError> {
        PemCertificates::read(text)?.parse()
    }

    fn from_block(label: &str, der: Vec<u8>) -> Result<Self, CertificateError> {
        if label != "CERTIFICATE" {
            let found = label.to_owned();
            return Err(CertificateError::Label { found });
        }
        Self::from_der(der)
    }

    /// Reads the DER of a certificate.
    pub(crate) fn from_der(der: Vec<u8>) -> Result<Self, CertificateError> {
        check_size(&der, MAX_DER_BYTES)?;
        let content = x509_cert::Certificate::from_der(&der)?.tbs_certificate;
        let der = CertificateDer::from(der);
        let certificate = Self { der, content };
        let mut seen = BTreeSet::new();
        for extension in certificate.extensions() {
            if !seen.insert(extension.extn_id) {
                let oid = extension.extn_id.to_string();
                return Err(CertificateError::DuplicateExtension { oid });
            }
        }
        Ok(certificate)
    }

    /// The `OpenID` Connect issuer that Fulcio saw the signer log in with, as it says.
    ///
    /// There are two extensions for it, an older and a newer one; where both are, they must agree.
    pub fn untrusted_oidc_issuer(&self) -> Result<&str, IssuerError> {
        let older = self.value(ISSUER).map(str::from_utf8).transpose()?;
        let newer = self.value(ISSUER_V2).map(Utf8StringRef::from_der);
        let newer = newer.transpose().map_err(IssuerError::Der)?;
        match (older, newer.map(|text| text.as_str())) {
            (Some(older), Some(newer)) if older != newer => Err(IssuerError::Inconsistent {
                older: older.to_owned(),
                newer: newer.to_owned(),
            }),
            (_, Some(issuer)) | (Some(issuer), None) => Ok(issuer),
            (None, None) => Err(IssuerError::Missing),
        }
    }

    /// The email addresses among the subject's alternative names.
    pub(crate) fn untrusted_emails(&self) -> Result<Vec<String>, der::Error> {
        let names = self.content.get::<SubjectAltName>()?;
        let names = names.map(|(_critical, names)| names.0).unwrap_or_default();
        let email = |name| match name {
            GeneralName::Rfc822Name(email) => Some(email.to_string()),
            _ => None,
        };
        Ok(names.into_iter().filter_map(email).collect())
    }

    /// The texts among the subject's alternative names: addresses, URIs, hosts, and the names of
    /// users that Fulcio has a type of its own for.
    pub(crate) fn untrusted_subjects(&self) -> Result<Vec<String>, der::Error> {
        let names = self.content.get::<SubjectAltName>()?;
        let names = names.map(|(_critical, names)| names.0).unwrap_or_default();
        let texts = names.iter().filter_map(|name| text_of(name).transpose());
        texts.collect()
    }

    /// What an extension of Fulcio's says, which has bare text.
    pub(crate) fn untrusted_claim(&self, oid: ObjectIdentifier) -> Option<&[u8]> {
        self.value(oid)
    }

    /// The subject's alternative names, each in one form: texts in lower case, for those that differ
    /// in case alone may be one holder's; others by the digest of their DER.
    pub(crate) fn untrusted_names(&self) -> Result<BTreeSet<String>, der::Error> {
        let names = self.content.get::<SubjectAltName>()?;
        let names = names.map(|(_critical, names)| names.0).unwrap_or_default();
        let form = |name: &GeneralName| match text_of(name)? {
            Some(text) => Ok(text.to_lowercase()),
            None => name.to_der().map(|der| Digest::sha256_of(&der).hex()),
        };
        names.iter().map(form).collect()
    }

    /// The sha256 digest of the certificate in DER.
    pub(crate) fn fingerprint(&self) -> Digest {
        Digest::sha256_of(&self.der)
    }

    pub(crate) fn subject(&self) -> &Name {
        &self.content.subject
    }

    pub(crate) fn issuer(&self) -> &Name {
        &self.content.issuer
    }

    /// Whether those below it may have some names only (RFC 5280 section 4.2.1.10).
    pub(crate) fn constrains_names(&self) -> bool {
        self.value(NAME_CONSTRAINTS).is_some()
    }

    pub(crate) fn content(&self) -> &TbsCertificate {
        &self.content
    }

    pub(crate) fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Whether a certificate for signing code may hang on this one: an authority that signs
    /// certificates, and whose own purposes are not others. Checked for those that are trusted,
    /// too, of which path building asks nothing but name and key.
    pub(crate) fn may_issue(&self) -> Result<bool, der::Error> {
        let constraints = self.content.get::<BasicConstraints>()?;
        let usage = self.content.get::<KeyUsage>()?;
        let purposes = self.content.get::<ExtendedKeyUsage>()?;
        let understood =
            |extension: &Extension| !extension.critical || UNDERSTOOD.contains(&extension.extn_id);
        Ok(self.content.version == Version::V3
            && constraints.is_some_and(|(_, constraints)| constraints.ca)
            && usage.is_none_or(|(_, usage)| usage.key_cert_sign())
            && purposes.is_none_or(|(_, purposes)| {
                purposes.0.contains(&CODE_SIGNING) || purposes.0.contains(&ANY_PURPOSE)
            })
            && self.extensions().iter().all(understood))
    }

    /// How many authorities may stand between this one and a signer; none means any number.
    pub(crate) fn path_limit(&self) -> Result<Option<u8>, der::Error> {
        let constraints = self.content.get::<BasicConstraints>()?;
        Ok(constraints.and_then(|(_, constraints)| constraints.path_len_constraint))
    }

    /// Whether it is valid at that time, in seconds since 1970.
    pub(crate) fn is_valid_at(&self, time: u64) -> bool {
        let validity = &self.content.validity;
        let (from, to) = (validity.not_before, validity.not_after);
        (from.to_unix_duration().as_secs()..=to.to_unix_duration().as_secs()).contains(&time)
    }

    /// From when to when it is valid.
    pub(crate) fn validity(&self) -> (der::DateTime, der::DateTime) {
        let validity = &self.content.validity;
        (
            validity.not_before.to_date_time(),
            validity.not_after.to_date_time(),
        )
    }

    fn extensions(&self) -> &[Extension] {
        self.content.extensions.as_deref().unwrap_or_default()
    }

    fn value(&self, oid: ObjectIdentifier) -> Option<&[u8]> {
        let mut extensions = self.extensions().iter();
        let found = extensions.find(|extension| extension.extn_id == oid);
        found.map(|extension| extension.extn_value.as_bytes())
    }
}

/// PEM blocks, one after the other, none of them read as a certificate yet.
pub(crate) struct PemCertificates<'a>(Vec<(&'a str, Vec<u8>)>);

impl<'a> PemCertificates<'a> {
    pub(crate) fn read(text: &'a [u8]) -> Result<Self, CertificateError> {
        check_size(text, MAX_TEXT_BYTES)?;
        Ok(Self(decode_pem_blocks(text)?))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn parse(self) -> Result<Vec<Certificate>, CertificateError> {
        let blocks = self.0.into_iter();
        blocks
            .map(|(label, der)| Certificate::from_block(label, der))
            .collect()
    }
}

/// Why bytes are no certificates. Whoever stored them is at fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// More than any honest certificate or list of them has.
    #[error("it has {found} bytes, at most {limit} are read")]
    TooLarge {
        /// The limit.
        limit: usize,
        /// The size.
        found: usize,
    },
    /// Not PEM blocks.
    #[error("{0}")]
    Pem(PemError),
    /// PEM, but something else than a certificate.
    #[error("it is a PEM block of {found:?}, not of CERTIFICATE")]
    Label {
        /// The label.
        found: String,
    },
    /// The content is not the DER that it should be.
    #[error("it is not a DER certificate: {0}")]
    Der(der::Error),
    /// An extension stands twice, so it has two readings (RFC 5280 section 4.2).
    #[error("its extension {oid} stands twice")]
    DuplicateExtension {
        /// The object identifier of the extension.
        oid: String,
    },
    /// There is none at all.
    #[error("there is no certificate in it")]
    None,
    /// The path builder cannot read it.
    #[error("it cannot be trusted: {why}")]
    Unusable {
        /// What the path builder says.
        why: String,
    },
    /// The policy wants a host name that is none.
    #[error("the subjectHostname {found:?} is no host name")]
    Hostname {
        /// The name.
        found: String,
    },
}

impl From<PemError> for CertificateError {
    fn from(error: PemError) -> Self {
        Self::Pem(error)
    }
}

impl From<der::Error> for CertificateError {
    fn from(error: der::Error) -> Self {
        Self::Der(error)
    }
}

/// Why a certificate does not tell who its holder logged in with.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IssuerError {
    /// It does not say.
    #[error("the certificate names no OIDC issuer")]
    Missing,
    /// The older extension is not text.
    #[error("the OIDC issuer {ISSUER} is not text: {0}")]
    NotText(#[from] std::str::Utf8Error),
    /// The newer extension is not a string in DER.
    #[error("the OIDC issuer {ISSUER_V2} is not a string: {0}")]
    Der(der::Error),
    /// It says two things.
    #[error("the certificate names two OIDC issuers, {older:?} and {newer:?}")]
    Inconsistent {
        /// The one in the older extension.
        older: String,
        /// The one in the newer extension.
        newer: String,
    },
}

/// The text of a name: an address, a URI, a host, or the name of a user that Fulcio has a type of its
/// own for.
fn text_of(name: &GeneralName) -> Result<Option<String>, der::Error> {
    Ok(match name {
        GeneralName::Rfc822Name(text)
        | GeneralName::DnsName(text)
        | GeneralName::UniformResourceIdentifier(text) => Some(text.to_string()),
        GeneralName::OtherName(other) if other.type_id == USERNAME => {
            let text: Utf8StringRef<'_> = other.value.decode_as()?;
            Some(text.as_str().to_owned())
        }
        _ => None,
    })
}

fn check_size(content: &[u8], limit: usize) -> Result<(), CertificateError> {
    match content.len() {
        found if found > limit => Err(CertificateError::TooLarge { limit, found }),
        _ => Ok(()),
    }
}

/// A certificate with a large RSA key and many extensions has 4 KiB.
const MAX_DER_BYTES: usize = 64 << 10;
const MAX_TEXT_BYTES: usize = 256 << 10;

/// The extensions that decide here or in path building (RFC 5280 section 4.2.1): key usage,
/// subject alternative name, basic constraints, name constraints, extended key usage.
const UNDERSTOOD: [ObjectIdentifier; 5] = [
    ObjectIdentifier::new_unwrap("2.5.29.15"),
    ObjectIdentifier::new_unwrap("2.5.29.17"),
    ObjectIdentifier::new_unwrap("2.5.29.19"),
    NAME_CONSTRAINTS,
    ObjectIdentifier::new_unwrap("2.5.29.37"),
];
const NAME_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.30");
const CODE_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.3");
const ANY_PURPOSE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");
// https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md
const ISSUER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.57264.1.1");
/// The type of the names of users (Fulcio, `OtherName` SAN).
const USERNAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.57264.1.7");
const ISSUER_V2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.57264.1.8");
