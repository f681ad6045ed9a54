//! Authorities whose certificates name the signers that count, and the path from one to the other.
//!
//! The path is built by `webpki`; here stand the questions around it.

use std::collections::BTreeSet;
use std::time::Duration;

use rustls_pki_types::{
    CertificateDer, ServerName, SignatureVerificationAlgorithm, TrustAnchor, UnixTime,
};
use serde::Serialize;
use spki::der;
use thiserror::Error;
use webpki::aws_lc_rs as algorithms;
use webpki::{
    EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, KeyUsage,
    RequiredEkuNotFoundContext, VerifiedPath,
};

use crate::certificate::{Certificate, CertificateError, IssuerError, PemCertificates};
use crate::digest::Digest;
use crate::fingerprint::Fingerprint;
use crate::key::{KeyError, PublicKey};
use crate::rekor::LogKey;
use crate::sct::{self, SctProblem};

/// An authority that the owner trusts, and whom its certificates must name.
#[derive(Debug)]
pub struct Authority {
    roots: Vec<Root>,
    intermediates: Vec<CertificateDer<'static>>,
    subject: Subject,
    /// The logs that must have seen a signer's certificate, if any must.
    ct_logs: Option<Vec<LogKey>>,
}

impl Authority {
    /// `fulcio` of a policy: the PEM of its certificates, and who must have logged in where.
    pub fn fulcio(
        ca: &[u8],
        oidc_issuer: &str,
        subject_email: &str,
    ) -> Result<Self, CertificateError> {
        let (oidc_issuer, email) = (oidc_issuer.to_owned(), subject_email.to_owned());
        Ok(Self {
            roots: roots(ca)?,
            intermediates: Vec::new(),
            subject: Subject::Fulcio { oidc_issuer, email },
            ct_logs: None,
        })
    }

    /// `pki` of a policy: the PEM of its certificates, and the names that a signer's must have.
    pub fn pki(
        ca_roots: &[u8],
        ca_intermediates: Option<&[u8]>,
        subject_email: Option<&str>,
        subject_hostname: Option<&str>,
    ) -> Result<Self, CertificateError> {
        let intermediates = ca_intermediates.map(some_certificates).transpose()?;
        let hostname = subject_hostname.map(hostname).transpose()?;
        Ok(Self {
            roots: roots(ca_roots)?,
            intermediates: issuers(&intermediates.unwrap_or_default())?,
            subject: Subject::Named {
                email: subject_email.map(str::to_owned),
                hostname,
            },
            ct_logs: None,
        })
    }

    /// The same authority, of whose certificates only those count that one of `logs` has seen: an
    /// embedded timestamp says so (RFC 6962 section 3.3).
    #[must_use]
    pub fn logged_by(self, logs: Vec<LogKey>) -> Self {
        let ct_logs = Some(logs);
        Self { ct_logs, ..self }
    }

    /// The key in `certificate`, once the authority stood behind it at that time (in seconds since
    /// 1970) and it names whom the policy wants.
    ///
    /// `certificate` is the PEM of one; `chain` is that of the authorities above, the last of
    /// which is the root that the signer thinks of and means nothing. Both come from anyone.
    pub fn vouch(
        &self,
        certificate: &[u8],
        chain: &[u8],
        time: u64,
    ) -> Result<(PublicKey, SignerCertificate), CertificateProblem> {
        let leaf = Certificate::from_pem(certificate)?;
        let chain = PemCertificates::read(chain).map_err(CertificateProblem::Chain)?;
        let found = chain.len().saturating_sub(1);
        if found > MAX_CHAIN {
            return Err(CertificateProblem::LongChain { found });
        }
        let mut chain = chain.parse().map_err(CertificateProblem::Chain)?;
        chain.pop();
        let mut intermediates = issuers(&chain).map_err(CertificateProblem::ChainDer)?;
        intermediates.extend(self.intermediates.iter().cloned());
        let end = EndEntityCert::try_from(leaf.der()).map_err(|error| path_problem(&error))?;
        let issuer = build_path(&self.roots, &end, &intermediates, time)?;
        if let Some(logs) = &self.ct_logs {
            sct::check(&leaf, &issuer, logs)?;
        }
        let key = PublicKey::from_spki(&end.subject_public_key_info());
        let key = key.map_err(CertificateProblem::Key)?;
        let named = self.subject.named_by(&leaf, &end, &key)?;
        Ok((key, named))
    }
}

/// The certificate of a signer, as the record of a decision has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SignerCertificate {
    /// The sha256 digest of the certificate in DER.
    pub fingerprint: Digest,
    /// The `OpenID` Connect issuer that the policy wants and the certificate names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oidc_issuer: Option<String>,
    /// The email address that the policy wants and the certificate names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_email: Option<String>,
    /// The host name that the policy wants and the certificate names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_hostname: Option<String>,
    /// The name, of whatever kind, by which an identity of the policy takes the certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Every name that it has, whatever the policy asked for.
    #[serde(skip)]
    pub(crate) names: BTreeSet<String>,
    /// The sha256 digest of its key.
    #[serde(skip)]
    pub(crate) key: Digest,
}

impl SignerCertificate {
    /// That of somebody whom an identity of the policy takes.
    pub(crate) fn of_identity(
        leaf: &Certificate,
        subject: String,
        oidc_issuer: String,
    ) -> Result<Self, CertificateProblem> {
        let end = EndEntityCert::try_from(leaf.der()).map_err(|error| path_problem(&error))?;
        Ok(Self {
            fingerprint: leaf.fingerprint(),
            oidc_issuer: Some(oidc_issuer),
            subject_email: None,
            subject_hostname: None,
            subject: Some(subject),
            names: leaf.untrusted_names().map_err(CertificateProblem::Names)?,
            key: Digest::sha256_of(&end.subject_public_key_info()),
        })
    }

    /// The holder by the names that the policy asked for.
    pub(crate) fn holder(&self) -> String {
        let names = [
            &self.subject,
            &self.subject_email,
            &self.subject_hostname,
            &self.oidc_issuer,
        ];
        let names: Vec<&str> = names.into_iter().filter_map(Option::as_deref).collect();
        names.join(" ")
    }

    /// All that its holder is known by: two certificates with the same key, or with a name in
    /// common, are one holder's, whatever else they say.
    pub(crate) fn identities(&self) -> impl Iterator<Item = Fingerprint> {
        let names = self.names.iter().cloned().map(Fingerprint::Holder);
        names.chain([Fingerprint::Spki(self.key)])
    }
}

/// Why a certificate does not count. Anyone may have put it beside the signature.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CertificateProblem {
    /// It is none.
    #[error("its certificate: {0}")]
    Certificate(#[from] CertificateError),
    /// The chain is no list of certificates.
    #[error("its certificate chain: {0}")]
    Chain(CertificateError),
    /// A certificate of the chain has a malformed extension.
    #[error("its certificate chain: {0}")]
    ChainDer(der::Error),
    /// More authorities than any honest chain has: trying every order of them costs time.
    #[error("its certificate chain has {found} intermediates, at most {MAX_CHAIN} are read")]
    LongChain {
        /// How many it has.
        found: usize,
    },
    /// None of the policy's certificates is valid at that time.
    #[error("none of the {found} authorities of the policy may issue certificates at that time")]
    NoRoot {
        /// How many certificates the policy has.
        found: usize,
    },
    /// No path leads to an authority of the policy.
    #[error("no path leads from its certificate to an authority of the policy: {why}")]
    Path {
        /// What the path builder says.
        why: String,
    },
    /// No log of the policy has seen it.
    #[error("its certificate: {0}")]
    Sct(#[from] SctProblem),
    /// It does not tell who logged in where.
    #[error("{0}")]
    Issuer(#[from] IssuerError),
    /// The holder logged in elsewhere.
    #[error("its OIDC issuer is {found:?}, the policy wants {expected:?}")]
    OtherIssuer {
        /// The issuer in the policy.
        expected: String,
        /// The issuer in the certificate.
        found: String,
    },
    /// The subject's names are malformed.
    #[error("its subject alternative names are malformed: {0}")]
    Names(der::Error),
    /// It is for someone else.
    #[error("it is for {found:?}, the policy wants {expected:?}")]
    OtherEmail {
        /// The address in the policy.
        expected: String,
        /// Those in the certificate.
        found: Vec<String>,
    },
    /// It is for another host.
    #[error("it is not for the host {expected:?}: {why}")]
    OtherHostname {
        /// The name in the policy.
        expected: String,
        /// What the path builder says.
        why: String,
    },
    /// Its key is not of a kind that signatures are checked with.
    #[error("the key of its certificate cannot be used: {0}")]
    Key(KeyError),
}

/// The `SubjectPublicKeyInfo` of the certificate's issuer, once a path leads to a root.
pub(crate) fn build_path(
    trusted: &[Root],
    end: &EndEntityCert<'_>,
    intermediates: &[CertificateDer<'_>],
    time: u64,
) -> Result<Vec<u8>, CertificateProblem> {
    let roots = trusted.iter().filter(|root| root.may_issue_at(time));
    let roots: Vec<&Root> = roots.collect();
    if roots.is_empty() {
        let found = trusted.len();
        return Err(CertificateProblem::NoRoot { found });
    }
    let anchors: Vec<_> = roots.iter().map(|root| root.anchor.clone()).collect();
    // Path building takes a trusted certificate for a name and a key without limits.
    let within_limit = |path: &VerifiedPath<'_>| {
        let below = path.intermediate_certificates().count();
        let allowed = |root: &&Root| root.anchor == *path.anchor() && root.allows(below);
        let limited = webpki::Error::PathLenConstraintViolated;
        roots.iter().any(allowed).then_some(()).ok_or(limited)
    };
    let path = end.verify_for_usage(
        SIGNATURE_ALGORITHMS,
        &anchors,
        intermediates,
        UnixTime::since_unix_epoch(Duration::from_secs(time)),
        CodeSigning,
        None,
        Some(&within_limit),
    );
    let path = path.map_err(|error| path_problem(&error))?;
    Ok(path.issuer_spki().to_vec())
}

/// A trusted certificate.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) certificate: Certificate,
    anchor: TrustAnchor<'static>,
    may_issue: bool,
    path_limit: Option<u8>,
}

impl Root {
    pub(crate) fn new(certificate: Certificate) -> Result<Self, CertificateError> {
        let anchor = webpki::anchor_from_trusted_cert(certificate.der());
        let anchor = anchor.map_err(|source| CertificateError::Unusable {
            why: source.to_string(),
        })?;
        Ok(Self {
            anchor: anchor.to_owned(),
            may_issue: certificate.may_issue()?,
            path_limit: certificate.path_limit()?,
            certificate,
        })
    }

    pub(crate) fn may_issue_at(&self, time: u64) -> bool {
        self.may_issue && self.certificate.is_valid_at(time)
    }

    fn allows(&self, below: usize) -> bool {
        self.path_limit.is_none_or(|limit| below <= limit.into())
    }
}

/// Whom a certificate must name.
#[derive(Debug)]
enum Subject {
    Fulcio {
        oidc_issuer: String,
        email: String,
    },
    Named {
        email: Option<String>,
        hostname: Option<(String, ServerName<'static>)>,
    },
}

impl Subject {
    fn named_by(
        &self,
        leaf: &Certificate,
        end: &EndEntityCert<'_>,
        key: &PublicKey,
    ) -> Result<SignerCertificate, CertificateProblem> {
        let mut named = SignerCertificate {
            fingerprint: leaf.fingerprint(),
            oidc_issuer: None,
            subject_email: None,
            subject_hostname: None,
            subject: None,
            names: leaf.untrusted_names().map_err(CertificateProblem::Names)?,
            key: *key.fingerprint(),
        };
        match self {
            Self::Fulcio { oidc_issuer, email } => {
                check_issuer(leaf, oidc_issuer)?;
                check_email(leaf, email)?;
                named.oidc_issuer = Some(oidc_issuer.clone());
                named.subject_email = Some(email.clone());
            }
            Self::Named { email, hostname } => {
                if let Some(email) = email {
                    check_email(leaf, email)?;
                    named.subject_email = Some(email.clone());
                }
                if let Some((text, name)) = hostname {
                    check_hostname(end, text, name)?;
                    named.subject_hostname = Some(text.clone());
                }
            }
        }
        Ok(named)
    }
}

fn check_issuer(leaf: &Certificate, expected: &str) -> Result<(), CertificateProblem> {
    let found = leaf.untrusted_oidc_issuer()?;
    if found == expected {
        return Ok(());
    }
    let (expected, found) = (expected.to_owned(), found.to_owned());
    Err(CertificateProblem::OtherIssuer { expected, found })
}

fn check_email(leaf: &Certificate, expected: &str) -> Result<(), CertificateProblem> {
    let found = leaf.untrusted_emails().map_err(CertificateProblem::Names)?;
    if found.iter().any(|email| email == expected) {
        return Ok(());
    }
    let expected = expected.to_owned();
    Err(CertificateProblem::OtherEmail { expected, found })
}

fn check_hostname(
    end: &EndEntityCert<'_>,
    expected: &str,
    name: &ServerName<'_>,
) -> Result<(), CertificateProblem> {
    let checked = end.verify_is_valid_for_subject_name(name);
    checked.map_err(|source| CertificateProblem::OtherHostname {
        expected: expected.to_owned(),
        why: source.to_string(),
    })
}

fn roots(text: &[u8]) -> Result<Vec<Root>, CertificateError> {
    let certificates = some_certificates(text)?.into_iter();
    certificates.map(Root::new).collect()
}

fn some_certificates(text: &[u8]) -> Result<Vec<Certificate>, CertificateError> {
    let certificates = Certificate::list_from_pem(text)?;
    if certificates.is_empty() {
        return Err(CertificateError::None);
    }
    Ok(certificates)
}

/// Those that may stand in the middle of a path. The rest lead nowhere, so they do no harm.
pub(crate) fn issuers(
    certificates: &[Certificate],
) -> Result<Vec<CertificateDer<'static>>, der::Error> {
    let mut issuers = Vec::new();
    for certificate in certificates {
        if certificate.may_issue()? {
            issuers.push(certificate.der().clone());
        }
    }
    Ok(issuers)
}

/// A dot at the end says that the name is absolute, which it is anyway.
fn hostname(text: &str) -> Result<(String, ServerName<'static>), CertificateError> {
    let name = ServerName::try_from(text.strip_suffix('.').unwrap_or(text).to_owned());
    let name = name.ok().ok_or_else(|| CertificateError::Hostname {
        found: text.to_owned(),
    })?;
    Ok((text.to_owned(), name))
}

pub(crate) fn path_problem(error: &webpki::Error) -> CertificateProblem {
    CertificateProblem::Path {
        why: error.to_string(),
    }
}

/// Every certificate on the path names its purposes, among them the signing of code, or none.
struct CodeSigning;

impl ExtendedKeyUsageValidator for CodeSigning {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let mut present = Vec::new();
        for purpose in purposes {
            let purpose = purpose?;
            if [CODE_SIGNING, ANY_PURPOSE].contains(&purpose.to_decoded_oid().as_slice()) {
                return Ok(());
            }
            present.push(purpose.to_decoded_oid());
        }
        if present.is_empty() {
            return Ok(());
        }
        let required = KeyUsage::required(CODE_SIGNING_DER);
        Err(webpki::Error::RequiredEkuNotFoundContext(
            RequiredEkuNotFoundContext { required, present },
        ))
    }
}

const CODE_SIGNING: &[usize] = &[1, 3, 6, 1, 5, 5, 7, 3, 3];
const CODE_SIGNING_DER: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 3];
const ANY_PURPOSE: &[usize] = &[2, 5, 29, 37, 0];

/// The longest chain that is read, the root left out. Public authorities have one intermediate.
const MAX_CHAIN: usize = 8;

/// No SHA-1, and RSA from 2048 bits.
const SIGNATURE_ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P256_SHA512,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ECDSA_P384_SHA512,
    algorithms::ECDSA_P521_SHA256,
    algorithms::ECDSA_P521_SHA384,
    algorithms::ECDSA_P521_SHA512,
    algorithms::ED25519,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];
