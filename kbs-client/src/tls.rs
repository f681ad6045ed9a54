//! Who may answer as the KBS: certificates, judged at a time that is not before what is known.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};
use x509_cert::der::Decode as _;

use crate::clock::Clock;
use crate::config::{KbsConfig, Trust};
use crate::error::ConfigError;

/// What connections to the KBS are made with. Over http that is nothing, and the roots of the system
/// are not needed, and may be missing.
pub(crate) fn client_config(
    config: &KbsConfig,
    clock: Arc<Clock>,
) -> Result<Option<ClientConfig>, ConfigError> {
    if config.url.scheme() == "http" {
        return Ok(None);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let setup = |reason: String| ConfigError::Client { reason };
    let inner = WebPkiServerVerifier::builder_with_provider(
        Arc::new(roots(config)?),
        Arc::clone(&provider),
    )
    .build()
    .map_err(|error| setup(error.to_string()))?;
    let mut tls = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| setup(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier {
            inner,
            provider,
            clock,
        }))
        .with_no_client_auth();
    // A session that goes on is not judged again, and a certificate may have ended in between.
    tls.resumption = Resumption::disabled();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(tls))
}

/// A certificate that is not accepted: whose, when, and why.
#[derive(Debug)]
pub(crate) struct Rejected {
    pub subject: String,
    /// When, by our clock.
    pub at: SystemTime,
    pub cause: rustls::Error,
}

impl fmt::Display for Rejected {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.cause, self.subject)
    }
}

impl std::error::Error for Rejected {}

impl Rejected {
    /// The one that is within `error`.
    pub(crate) fn within(error: &rustls::Error) -> Option<&Self> {
        match error {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
                inner.downcast_ref()
            }
            _ => None,
        }
    }
}

/// The verifier of rustls, with another clock and with more to say.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    provider: Arc<CryptoProvider>,
    clock: Arc<Clock>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let claimed = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(now.as_secs()));
        let at = claimed.map_or_else(|| self.clock.now(), |claimed| self.clock.at_least(claimed));
        let since = at.duration_since(SystemTime::UNIX_EPOCH);
        let now = since.map_or(now, UnixTime::since_unix_epoch);
        self.inner
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .map_err(|cause| {
                let subject = subject(end_entity);
                let rejected = Rejected { subject, at, cause };
                CertificateError::Other(OtherError(Arc::new(rejected))).into()
            })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// RFC 4514, as far as the certificate can be read.
fn subject(certificate: &CertificateDer<'_>) -> String {
    let certificate = match x509_cert::Certificate::from_der(certificate) {
        Ok(certificate) => certificate,
        Err(error) => return format!("certificate not readable: {error}"),
    };
    let mut subject = String::new();
    // Not `to_string`, which panics when a name of somebody else's making cannot be written.
    match write!(subject, "{}", certificate.tbs_certificate.subject) {
        Ok(()) => crate::error::printable(&subject),
        Err(error) => format!("subject not readable: {error}"),
    }
}

/// Given certificates alone, or the system's, or both, as `config` has it.
fn roots(config: &KbsConfig) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    for bundle in &config.root_certificates {
        add_bundle(&mut roots, bundle)?;
    }
    if config.trust == Trust::Pinned && !roots.is_empty() {
        return Ok(roots);
    }
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a root certificate of the system cannot be read");
    }
    // The system may hold what is no root by our rules.
    let (_added, _ignored) = roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(ConfigError::Client {
            reason: "the system has no root certificates, and none are configured".to_owned(),
        });
    }
    Ok(roots)
}

fn add_bundle(roots: &mut RootCertStore, bundle: &[u8]) -> Result<(), ConfigError> {
    let unreadable = |problem: String| ConfigError::RootCertificates { problem };
    let mut found = 0_usize;
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| unreadable(error.to_string()))?;
        found = found.saturating_add(1);
    }
    if found == 0 {
        return Err(unreadable(format!(
            "no certificate in {} bytes",
            bundle.len()
        )));
    }
    Ok(())
}
