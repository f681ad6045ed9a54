//! What names a signer in a record.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::digest::Digest;

/// The fingerprint of a key: two signatures with the same one are by the same signer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Fingerprint {
    /// The sha256 digest of a key's `SubjectPublicKeyInfo` in DER (RFC 5280 section 4.1.2.7).
    Spki(Digest),
    /// The fingerprint of an `OpenPGP` primary key in upper-case hex (RFC 9580 section 5.5.4), also
    /// when one of its subkeys signed.
    OpenPgp(String),
    /// Whom a certificate names, of what the policy asked for: its key may be another each time.
    Holder(String),
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spki(digest) => write!(f, "{digest}"),
            Self::OpenPgp(hex) => write!(f, "openpgp:{hex}"),
            Self::Holder(names) => write!(f, "holder:{names}"),
        }
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
