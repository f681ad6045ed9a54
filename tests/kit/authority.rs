//! Certificates for servers on loopback, minted at run time.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// An authority and the certificate that it issued for `127.0.0.1`, `localhost` and other names.
#[derive(Debug)]
pub struct Authority {
    root: String,
    server: String,
    server_key: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Mints both; `name` tells authorities apart in error texts.
    pub fn mint(name: &str) -> Self {
        Self::mint_for(name, &[])
    }

    /// The same for a server that has further names.
    pub fn mint_for(name: &str, hosts: &[&str]) -> Self {
        Self::mint_by(name, hosts, |_server| {})
    }

    /// The same for a server whose certificate is made otherwise.
    pub fn mint_by(
        name: &str,
        hosts: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let mut root = CertificateParams::new(Vec::new()).expect("no names is legal");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        root.distinguished_name
            .push(DnType::CommonName, format!("{name} test authority"));
        let root_key = KeyPair::generate().expect("a key");
        let certificate = root.self_signed(&root_key).expect("a certificate");
        let issuer = Issuer::new(root, root_key);

        let names = ["127.0.0.1", "localhost"].iter().chain(hosts);
        let names: Vec<_> = names.map(|&name| name.to_owned()).collect();
        let mut server = CertificateParams::new(names).expect("legal names");
        change(&mut server);
        let server_key = KeyPair::generate().expect("a key");
        let server = server
            .signed_by(&server_key, &issuer)
            .expect("a certificate");
        Self {
            root: certificate.pem(),
            server: server.pem(),
            server_key: server_key.serialize_pem(),
            issuer,
        }
    }

    /// A certificate for the client `name`, and its key, both in PEM.
    pub fn issue_client(&self, name: &str) -> (String, String) {
        let mut client = CertificateParams::new(Vec::new()).expect("no names is legal");
        client.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = client.signed_by(&key, &self.issuer);
        let certificate = certificate.expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    /// PEM of the authority's own certificate.
    pub fn certificate(&self) -> &str {
        &self.root
    }

    /// The same for an HTTP client.
    pub(crate) fn root(&self) -> reqwest::Certificate {
        reqwest::Certificate::from_pem(self.root.as_bytes()).expect("PEM of our own")
    }

    /// What serves TLS with the server's certificate.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let server = CertificateDer::from_pem_slice(self.server.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(self.server_key.as_bytes());
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions of the provider")
            .with_no_client_auth()
            .with_single_cert(vec![server.expect("our PEM")], key.expect("our PEM"))
            .expect("a key that fits its certificate");
        TlsAcceptor::from(Arc::new(config))
    }

    /// Writes `server.pem` and `server.key`.
    pub fn write(&self, directory: &Path) {
        std::fs::write(directory.join("server.pem"), &self.server).expect("write server.pem");
        std::fs::write(directory.join("server.key"), &self.server_key).expect("write server.key");
    }
}
