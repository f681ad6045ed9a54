//! Certificates for servers on loopback, minted at run time.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// An authority and the certificate that it issued for `127.0.0.1` and `localhost`.
#[derive(Debug)]
pub struct Authority {
    root: String,
    server: String,
    server_key: String,
}

impl Authority {
    /// Mints both; `name` tells authorities apart in error texts.
    pub fn mint(name: &str) -> Self {
        let mut root = CertificateParams::new(Vec::new()).expect("no names is legal");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        root.distinguished_name
            .push(DnType::CommonName, format!("{name} test authority"));
        let root_key = KeyPair::generate().expect("a key");
        let certificate = root.self_signed(&root_key).expect("a certificate");
        let issuer = Issuer::new(root, root_key);

        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let server = CertificateParams::new(names).expect("legal names");
        let server_key = KeyPair::generate().expect("a key");
        let server = server
            .signed_by(&server_key, &issuer)
            .expect("a certificate");
        Self {
            root: certificate.pem(),
            server: server.pem(),
            server_key: server_key.serialize_pem(),
        }
    }

    /// PEM of the authority's own certificate.
    pub fn certificate(&self) -> &str {
        &self.root
    }

    /// The same for an HTTP client.
    pub(crate) fn root(&self) -> reqwest::Certificate {
        reqwest::Certificate::from_pem(self.root.as_bytes()).expect("PEM of our own")
    }

    /// Writes `server.pem` and `server.key`.
    pub(crate) fn write(&self, directory: &Path) {
        std::fs::write(directory.join("server.pem"), &self.server).expect("write server.pem");
        std::fs::write(directory.join("server.key"), &self.server_key).expect("write server.key");
    }
}
