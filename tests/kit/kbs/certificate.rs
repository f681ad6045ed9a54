//! Certificates of the KBS, minted at start.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// What is wrong with the certificate of the KBS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    /// Nothing: it is for `127.0.0.1` and `localhost`.
    Good,
    /// It expired in 2001.
    Expired,
    /// It is for another host.
    OtherName,
    /// It is the authority's own.
    AuthorityItself,
}

/// PEM of the authority, and what serves TLS with its certificate.
pub(super) fn mint(kind: Certificate, http2: bool) -> (String, TlsAcceptor) {
    let names = match kind {
        Certificate::OtherName => vec!["elsewhere.example".to_owned()],
        _ => vec!["127.0.0.1".to_owned(), "localhost".to_owned()],
    };
    let mut root = CertificateParams::new(names.clone()).expect("legal names");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    root.distinguished_name
        .push(DnType::CommonName, "development KBS authority");
    let root_key = KeyPair::generate().expect("a key");
    let authority = root.self_signed(&root_key).expect("a certificate");
    let (chain, key) = if kind == Certificate::AuthorityItself {
        (authority.der().clone(), root_key)
    } else {
        let mut leaf = CertificateParams::new(names).expect("legal names");
        if kind == Certificate::Expired {
            leaf.not_before = rcgen::date_time_ymd(2000, 1, 1);
            leaf.not_after = rcgen::date_time_ymd(2001, 1, 1);
        }
        let key = KeyPair::generate().expect("a key");
        let issuer = Issuer::new(root, root_key);
        (
            leaf.signed_by(&key, &issuer)
                .expect("a certificate")
                .der()
                .clone(),
            key,
        )
    };
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions of the provider")
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .expect("a key that fits its certificate");
    if http2 {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    (authority.pem(), TlsAcceptor::from(Arc::new(config)))
}
