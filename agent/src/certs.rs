//! Certificates for one registry: whom it must be vouched for by, and who we are to it.
//!
//! Pure: texts in, certificates out. They come from a folder of the kind of `certs.d`
//! (containers-certs.d(5)) or from `[[image_agent.registry]]`.

use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroizing;

/// What one registry has besides what all have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Certificates {
    /// PEM of authorities, trusted for this registry besides the system's.
    pub authorities: Vec<Vec<u8>>,
    /// Who we may be. The first is shown.
    pub clients: Vec<ClientCertificate>,
}

/// A certificate with its key. The key never prints.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

/// A folder of certificates that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificatesError {
    /// A client certificate alone proves nothing.
    #[error("expected {key} beside {certificate}; an authority's certificate is named *.crt")]
    NoKey {
        /// The file that is there.
        certificate: String,
        /// The file that is missing.
        key: String,
    },
    /// A key alone is no certificate.
    #[error("expected {certificate} beside {key}")]
    NoCertificate {
        /// The file that is missing.
        certificate: String,
        /// The file that is there.
        key: String,
    },
}

impl Certificates {
    /// Reads the files of one registry's folder: `*.crt` are authorities, `*.cert` with `*.key` is
    /// who we are, anything else is none of our business.
    pub fn parse(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, CertificatesError> {
        let mut found = Self::default();
        for (name, content) in files {
            if name.strip_suffix(".crt").is_some() {
                found.authorities.push(content.clone());
            } else if let Some(stem) = name.strip_suffix(".cert") {
                let key = format!("{stem}.key");
                let key = files.get(&key).ok_or_else(|| CertificatesError::NoKey {
                    certificate: name.clone(),
                    key: key.clone(),
                })?;
                found.clients.push(ClientCertificate::new(content, key));
            } else if let Some(stem) = name.strip_suffix(".key") {
                let certificate = format!("{stem}.cert");
                if !files.contains_key(&certificate) {
                    let key = name.clone();
                    return Err(CertificatesError::NoCertificate { certificate, key });
                }
            }
        }
        Ok(found)
    }

    /// Whether a file of this name would be looked at.
    pub fn are_in(name: &str) -> bool {
        [".crt", ".cert", ".key"]
            .iter()
            .any(|end| name.ends_with(end))
    }
}

impl ClientCertificate {
    /// PEM of a certificate, and of its key.
    pub fn new(certificate: &[u8], key: &[u8]) -> Self {
        Self {
            certificate: certificate.to_vec(),
            key: Zeroizing::new(key.to_vec()),
        }
    }

    /// PEM of the certificate and of the key, one after the other.
    pub(crate) fn pem(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([self.certificate.as_slice(), b"\n", self.key.as_slice()].concat())
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientCertificate(masked)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(names: &[&str]) -> Result<Certificates, CertificatesError> {
        let files = names
            .iter()
            .map(|name| ((*name).to_owned(), b"text".to_vec()));
        Certificates::parse(&files.collect())
    }

    #[test]
    fn suffixes_tell_what_a_file_is() {
        let found = parse(&["a.crt", "b.crt", "me.cert", "me.key", "ca.pem", "README"]).unwrap();
        assert_eq!((found.authorities.len(), found.clients.len()), (2, 1));
    }

    #[test]
    fn half_of_a_pair_is_refused_by_the_name_of_the_other() {
        let no_key = parse(&["a.cert", "b.key"]).unwrap_err();
        assert_eq!(
            no_key.to_string(),
            "expected a.key beside a.cert; an authority's certificate is named *.crt"
        );
        let no_certificate = parse(&["b.key"]).unwrap_err();
        assert_eq!(no_certificate.to_string(), "expected b.cert beside b.key");
    }

    #[test]
    fn key_never_prints() {
        let found = parse(&["me.cert", "me.key"]).unwrap();
        assert!(!format!("{found:?}").contains("text"), "{found:?}");
    }
}
