//! The ephemeral key that secrets are encrypted to.

use std::fmt;

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{
    self, KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey,
};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::messages::Jwk;

/// Which key is made for a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum TeeKeyAlgorithm {
    /// ECDH-ES+A256KW over P-256: every server of protocol 0.4.0 knows it.
    #[default]
    P256,
    /// ECDH-ES+A256KW over P-521, known since trustee v0.16.
    P521,
    /// RSA-OAEP with SHA-256, 2048 bits. Slow to make: about 0.1 s.
    RsaOaep256,
}

/// The private half of the key that secrets are encrypted to. It never leaves the process, and is
/// made anew for each handshake.
pub struct TeeKey {
    private: Private,
    public: Jwk,
}

impl TeeKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`KeyError::Generate`] if the crypto library refuses, which on a healthy machine it does
    /// not.
    pub fn generate(algorithm: TeeKeyAlgorithm) -> Result<Self, KeyError> {
        let refused = |_: aws_lc_rs::error::Unspecified| KeyError::Generate { algorithm };
        match algorithm {
            TeeKeyAlgorithm::P256 => Self::from_ec(
                &P256,
                PrivateKey::generate(P256.agreement).map_err(refused)?,
            ),
            TeeKeyAlgorithm::P521 => Self::from_ec(
                &P521,
                PrivateKey::generate(P521.agreement).map_err(refused)?,
            ),
            TeeKeyAlgorithm::RsaOaep256 => {
                Self::from_rsa(PrivateDecryptingKey::generate(KeySize::Rsa2048).map_err(refused)?)
            }
        }
    }

    /// Reads a key from unencrypted PKCS #8 DER: P-256, P-521, or RSA of 2048 to 8192 bits.
    ///
    /// # Errors
    /// [`KeyError::Unreadable`] if it is none of these.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        for curve in [&P256, &P521] {
            if let Ok(key) = PrivateKey::from_private_key_der(curve.agreement, der) {
                return Self::from_ec(curve, key);
            }
        }
        PrivateDecryptingKey::from_pkcs8(der)
            .map_err(|cause| KeyError::Unreadable {
                reason: cause.to_string(),
            })
            .and_then(Self::from_rsa)
    }

    /// Reads a key from PEM: `PRIVATE KEY` (PKCS #8) as for [`from_pkcs8`](Self::from_pkcs8), or
    /// `RSA PRIVATE KEY` (PKCS #1).
    ///
    /// # Errors
    /// [`KeyError::Pem`] or [`KeyError::Unreadable`] if it is none of these.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let (label, der) = pem_rfc7468::decode_vec(pem.as_bytes()).map_err(KeyError::Pem)?;
        let der = Zeroizing::new(der);
        match label {
            "PRIVATE KEY" => Self::from_pkcs8(&der),
            "RSA PRIVATE KEY" => Self::from_pkcs8(&pkcs8_of_rsa(&der)),
            other => Err(KeyError::Unreadable {
                reason: format!("PEM of {:?}", crate::error::printable(other)),
            }),
        }
    }

    /// The public half, exactly as it is sent and hashed.
    pub(crate) fn public(&self) -> &Jwk {
        &self.public
    }

    pub(crate) fn private(&self) -> &Private {
        &self.private
    }

    /// SEC 1 section 2.3.3: an uncompressed point is `04 || x || y`, both of full length.
    fn from_ec(curve: &'static Curve, key: PrivateKey) -> Result<Self, KeyError> {
        let point = key.compute_public_key().map_err(|_| KeyError::Export)?;
        let (x, y) = point
            .as_ref()
            .split_first()
            .and_then(|(_, rest)| rest.split_at_checked(curve.coordinate_length))
            .ok_or(KeyError::Export)?;
        let public = Jwk::Ec {
            crv: curve.name.to_owned(),
            alg: Some(ECDH_ES_A256KW.to_owned()),
            x: URL_SAFE_NO_PAD.encode(x),
            y: URL_SAFE_NO_PAD.encode(y),
        };
        Ok(Self {
            private: Private::Ec(curve, key),
            public,
        })
    }

    fn from_rsa(key: PrivateDecryptingKey) -> Result<Self, KeyError> {
        let pkcs8 = key.as_der().map_err(|_| KeyError::Export)?;
        let pair =
            rsa::KeyPair::from_pkcs8(pkcs8.as_ref()).map_err(|cause| KeyError::Unreadable {
                reason: cause.to_string(),
            })?;
        let (n, e) = rsa_numbers(pair.public_key().as_ref()).ok_or(KeyError::Export)?;
        let public = Jwk::Rsa {
            alg: RSA_OAEP_256.to_owned(),
            n: URL_SAFE_NO_PAD.encode(n),
            e: URL_SAFE_NO_PAD.encode(e),
        };
        let key = OaepPrivateDecryptingKey::new(key).map_err(|_| KeyError::Export)?;
        Ok(Self {
            private: Private::Rsa(key),
            public,
        })
    }
}

impl fmt::Debug for TeeKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TeeKey")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

/// Why there is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The crypto library could not make one; the machine is at fault.
    #[error("no ephemeral {algorithm:?} key can be made")]
    Generate {
        /// Which was asked for.
        algorithm: TeeKeyAlgorithm,
    },
    /// The public half cannot be written; the crypto library is at fault.
    #[error("the public half of the ephemeral key cannot be written")]
    Export,
    /// The text is not PEM; whoever gave it is at fault.
    #[error("expected a private key in PEM: {0}")]
    Pem(pem_rfc7468::Error),
    /// The bytes are not such a key; whoever gave them is at fault.
    #[error("expected a PKCS #8 key on P-256 or P-521 or an RSA key, found none: {reason}")]
    Unreadable {
        /// The crypto library's word for it.
        reason: String,
    },
}

/// RFC 7518 section 4.6.
pub(crate) const ECDH_ES_A256KW: &str = "ECDH-ES+A256KW";
/// RFC 7518 section 4.3.
pub(crate) const RSA_OAEP_256: &str = "RSA-OAEP-256";

pub(crate) enum Private {
    Ec(&'static Curve, PrivateKey),
    Rsa(OaepPrivateDecryptingKey),
}

pub(crate) struct Curve {
    pub name: &'static str,
    /// Bytes of a coordinate, leading zeros included.
    pub coordinate_length: usize,
    agreement: &'static agreement::Algorithm,
}

static P256: Curve = Curve {
    name: "P-256",
    coordinate_length: 32,
    agreement: &agreement::ECDH_P256,
};
static P521: Curve = Curve {
    name: "P-521",
    coordinate_length: 66,
    agreement: &agreement::ECDH_P521,
};

impl Curve {
    /// The shared secret with the key at (`x`, `y`), or none if that is no point of the curve.
    pub(crate) fn agree(&self, key: &PrivateKey, x: &[u8], y: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let point = [&[4], x, y].concat();
        agreement::agree(
            key,
            UnparsedPublicKey::new(self.agreement, point),
            None,
            |shared| Ok(Some(Zeroizing::new(shared.to_vec()))),
        )
        .unwrap_or_else(|nothing: Option<Zeroizing<Vec<u8>>>| nothing)
    }
}

/// RSA-OAEP with SHA-256 for both the label and MGF1.
pub(crate) fn rsa_decrypt(
    key: &OaepPrivateDecryptingKey,
    encrypted: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let mut room = Zeroizing::new(vec![0; key.min_output_size()]);
    let plain = key
        .decrypt(&OAEP_SHA256_MGF1SHA256, encrypted, &mut room, None)
        .ok()?;
    Some(Zeroizing::new(plain.to_vec()))
}

/// RFC 5208 section 5: version 0, `rsaEncryption` with null parameters, the key in an octet string.
fn pkcs8_of_rsa(pkcs1: &[u8]) -> Zeroizing<Vec<u8>> {
    let head = b"\x02\x01\x00\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
    let key = der_of(0x04, pkcs1);
    der_of(0x30, &Zeroizing::new([head, key.as_slice()].concat()))
}

/// X.690 sections 8.1.3 and 10.1: the value after its tag and its length in as few bytes as it takes.
fn der_of(tag: u8, value: &[u8]) -> Zeroizing<Vec<u8>> {
    let length = value.len().to_be_bytes();
    let digits = length.iter().skip_while(|digit| **digit == 0);
    let mut der = Zeroizing::new(Vec::with_capacity(value.len().saturating_add(10)));
    der.push(tag);
    if value.len() >= 0x80 {
        der.push(u8::try_from(digits.clone().count()).unwrap_or(8) | 0x80);
        der.extend(digits);
    } else {
        der.extend(length.last());
    }
    der.extend_from_slice(value);
    der
}

/// RFC 8017 appendix A.1.1: `RSAPublicKey ::= SEQUENCE { modulus INTEGER, publicExponent INTEGER }`,
/// as unsigned big-endian numbers without leading zeros.
fn rsa_numbers(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (body, _) = der_value(der, 0x30)?;
    let (modulus, rest) = der_value(body, 0x02)?;
    let (exponent, _) = der_value(rest, 0x02)?;
    let unsigned = |number: &'_ [u8]| number.iter().take_while(|byte| **byte == 0).count();
    Some((
        modulus.get(unsigned(modulus)..)?,
        exponent.get(unsigned(exponent)..)?,
    ))
}

/// X.690 sections 8.1 and 10.1: the value with this tag at the start of `der`, and what follows it.
fn der_value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(*first & 0x7f))?;
        let length = digits.iter().try_fold(0_usize, |sum, digit| {
            sum.checked_mul(256)?.checked_add(usize::from(*digit))
        })?;
        (length, rest)
    };
    rest.split_at_checked(length).filter(|_| *found == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_have_full_length() {
        for (algorithm, length) in [(TeeKeyAlgorithm::P256, 43), (TeeKeyAlgorithm::P521, 88)] {
            let Jwk::Ec { x, y, .. } = TeeKey::generate(algorithm).unwrap().public else {
                panic!("not an EC key");
            };
            assert_eq!((x.len(), y.len()), (length, length), "{algorithm:?}");
        }
    }

    #[test]
    fn rsa_key_is_written_as_modulus_and_exponent() {
        let key = TeeKey::generate(TeeKeyAlgorithm::RsaOaep256).unwrap();
        let Jwk::Rsa { n, e, .. } = &key.public else {
            panic!("not an RSA key")
        };
        assert_eq!(URL_SAFE_NO_PAD.decode(n).unwrap().len(), 256);
        assert_eq!(e, "AQAB");
    }

    /// PEM of `der`.
    fn pem(label: &str, der: &[u8]) -> String {
        pem_rfc7468::encode_string(label, pem_rfc7468::LineEnding::LF, der).unwrap()
    }

    #[test]
    fn key_in_pem_is_read_as_the_attestation_agent_writes_it() {
        let ec = PrivateKey::generate(P521.agreement).unwrap();
        let pkcs8: aws_lc_rs::encoding::EcPrivateKeyRfc5915Der<'_> = ec.as_der().unwrap();
        let read = TeeKey::from_pem(&pem("PRIVATE KEY", pkcs8.as_ref())).unwrap();
        assert!(matches!(&read.public, Jwk::Ec { crv, .. } if crv == "P-521"));

        let rsa = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
        let pkcs8 = rsa.as_der().unwrap();
        let expected = TeeKey::from_pkcs8(pkcs8.as_ref()).unwrap().public;
        // PKCS #8 is version, algorithm, and PKCS #1 in an octet string.
        let (body, _) = der_value(pkcs8.as_ref(), 0x30).unwrap();
        let (_, rest) = der_value(body, 0x02).unwrap();
        let (_, rest) = der_value(rest, 0x30).unwrap();
        let (pkcs1, _) = der_value(rest, 0x04).unwrap();
        let read = TeeKey::from_pem(&pem("RSA PRIVATE KEY", pkcs1)).unwrap();
        assert_eq!(read.public, expected);
    }

    #[test]
    fn other_text_is_no_key() {
        let error = TeeKey::from_pem("no PEM").unwrap_err();
        assert!(matches!(error, KeyError::Pem(_)), "{error}");
        let error = TeeKey::from_pem(&pem("CERTIFICATE", b"der")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "expected a PKCS #8 key on P-256 or P-521 or an RSA key, found none: PEM of \
             \"CERTIFICATE\""
        );
    }

    #[test]
    fn other_bytes_are_no_key() {
        let error = TeeKey::from_pkcs8(b"not a key").unwrap_err();
        assert!(matches!(error, KeyError::Unreadable { .. }), "{error}");
    }

    #[test]
    fn debug_shows_the_public_half_only() {
        let shown = format!("{:?}", TeeKey::generate(TeeKeyAlgorithm::P256).unwrap());
        assert!(shown.starts_with("TeeKey { public: Ec"), "{shown}");
        assert!(shown.ends_with(", .. }"), "{shown}");
    }
}
