//! Public keys, and the one question they answer: is this signature over these bytes mine.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ECDSA_P521_SHA256_ASN1,
    ECDSA_P521_SHA512_ASN1, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    VerificationAlgorithm,
};
use spki::der::asn1::{AnyRef, BitStringRef, UintRef};
use spki::der::{Decode, Encode, Reader, SliceReader};
use spki::{AlgorithmIdentifierRef, ObjectIdentifier, SubjectPublicKeyInfoRef};
use thiserror::Error;

use crate::digest::Digest;
use crate::encoding::{PemError, decode_pem};

/// A public key that was read whole and is of a kind that signatures are checked with.
#[derive(Debug)]
pub struct PublicKey {
    fingerprint: Digest,
    spki: Vec<u8>,
    is_ecdsa: bool,
    /// One per hash that a signature by this key may use.
    verifiers: Vec<ParsedPublicKey>,
}

impl PublicKey {
    /// Reads a text that is exactly one PEM block, `PUBLIC KEY` or `RSA PUBLIC KEY`.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        match decode_pem(text)? {
            ("PUBLIC KEY", der) => Self::from_spki(&der),
            ("RSA PUBLIC KEY", der) => Self::from_spki(&wrap_pkcs1(&der)?),
            (label, _) => Err(KeyError::Label {
                found: label.to_owned(),
            }),
        }
    }

    /// The sha256 digest of the key's `SubjectPublicKeyInfo` in DER (RFC 5280 section 4.1.2.7).
    pub fn fingerprint(&self) -> &Digest {
        &self.fingerprint
    }

    /// Whether `signature` is by this key over `message`.
    ///
    /// For P-384 and P-521 the hash is the curve's own or, as cosign has it, SHA-256; for all
    /// others there is only one choice. RSA is PKCS#1 v1.5, ECDSA is in DER.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.verifiers
            .iter()
            .any(|key| key.verify_sig(message, signature).is_ok())
    }

    /// The `SubjectPublicKeyInfo` in DER.
    pub(crate) fn spki(&self) -> &[u8] {
        &self.spki
    }

    pub(crate) fn is_ecdsa(&self) -> bool {
        self.is_ecdsa
    }

    /// Reads a `SubjectPublicKeyInfo`.
    pub(crate) fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        let spki = SubjectPublicKeyInfoRef::from_der(der)?;
        let algorithms = algorithms(&spki.algorithm)?;
        let bytes = spki
            .subject_public_key
            .as_bytes()
            .ok_or(KeyError::UnusedBits)?;
        match spki.algorithm.oid {
            EC => check_point(bytes)?,
            RSA => check_rsa_size(bytes)?,
            _ => {}
        }
        let parse = |algorithm: &&'static dyn VerificationAlgorithm| {
            ParsedPublicKey::new(*algorithm, bytes).map_err(|source| KeyError::Invalid {
                why: source.to_string(),
            })
        };
        let verifiers = algorithms.iter().map(parse).collect::<Result<_, _>>()?;
        Ok(Self {
            fingerprint: Digest::sha256_of(der),
            spki: der.to_vec(),
            is_ecdsa: spki.algorithm.oid == EC,
            verifiers,
        })
    }
}

/// Why bytes are no usable public key. Whoever stored the key is at fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not one PEM block.
    #[error("{0}")]
    Pem(PemError),
    /// PEM, but something else than a public key.
    #[error("it is a PEM block of {found:?}, not of PUBLIC KEY")]
    Label {
        /// The label.
        found: String,
    },
    /// The content is not the DER that it should be.
    #[error("it is not a DER public key: {0}")]
    Der(spki::der::Error),
    /// The bit string does not end on a byte.
    #[error("its bit string has unused bits")]
    UnusedBits,
    /// A key of a kind that signatures are not checked with.
    #[error("keys of the kind {oid} are not supported")]
    Algorithm {
        /// The object identifier of the algorithm or curve.
        oid: String,
    },
    /// Transparency logs sign with ECDSA, and their keys are of no other kind.
    #[error("the key of a transparency log is an ECDSA key, this is another")]
    NotEcdsa,
    /// A key of which the fingerprint would be one of several: others write it uncompressed, and
    /// read no other form.
    #[error(
        "the point of its curve should be uncompressed and begin with 04, it does with {found}"
    )]
    Point {
        /// The first byte, in hexadecimal.
        found: String,
    },
    /// Parameters that an algorithm does not have (RFC 3279 section 2.3.1, RFC 8410 section 3).
    #[error("the parameters of its algorithm should be {expected}")]
    Parameters {
        /// What they have to be.
        expected: &'static str,
    },
    /// An RSA modulus too short to be safe or too long to be quick.
    #[error("an RSA key should have 2048 to 4096 bits, found {found}")]
    RsaSize {
        /// The length of the modulus in bits.
        found: usize,
    },
    /// The numbers do not form a key.
    #[error("it is not a valid key: {why}")]
    Invalid {
        /// What the crypto library says.
        why: String,
    },
}

impl From<PemError> for KeyError {
    fn from(error: PemError) -> Self {
        Self::Pem(error)
    }
}

impl From<spki::der::Error> for KeyError {
    fn from(error: spki::der::Error) -> Self {
        Self::Der(error)
    }
}

impl From<spki::Error> for KeyError {
    fn from(error: spki::Error) -> Self {
        Self::Invalid {
            why: error.to_string(),
        }
    }
}

type Algorithms = &'static [&'static dyn VerificationAlgorithm];

fn algorithms(identifier: &AlgorithmIdentifierRef<'_>) -> Result<Algorithms, KeyError> {
    match identifier.oid {
        EC => on_curve(identifier.parameters_oid()?),
        ED25519_KEY if identifier.parameters.is_none() => Ok(&[&ED25519]),
        ED25519_KEY => Err(KeyError::Parameters { expected: "absent" }),
        RSA if identifier.parameters == Some(AnyRef::NULL) => Ok(&[&RSA_PKCS1_2048_8192_SHA256]),
        RSA => Err(KeyError::Parameters { expected: "NULL" }),
        oid => Err(unsupported(oid)),
    }
}

fn on_curve(curve: ObjectIdentifier) -> Result<Algorithms, KeyError> {
    match curve {
        P256 => Ok(&[&ECDSA_P256_SHA256_ASN1]),
        P384 => Ok(&[&ECDSA_P384_SHA384_ASN1, &ECDSA_P384_SHA256_ASN1]),
        P521 => Ok(&[&ECDSA_P521_SHA512_ASN1, &ECDSA_P521_SHA256_ASN1]),
        oid => Err(unsupported(oid)),
    }
}

fn unsupported(oid: ObjectIdentifier) -> KeyError {
    KeyError::Algorithm {
        oid: oid.to_string(),
    }
}

/// SEC 1 section 2.3.3 has compressed points, too, and X9.62 hybrid ones; the crypto library reads
/// all of them.
fn check_point(point: &[u8]) -> Result<(), KeyError> {
    match point.first() {
        Some(0x04) => Ok(()),
        other => Err(KeyError::Point {
            found: other.map_or_else(|| "nothing".to_owned(), |byte| format!("{byte:02x}")),
        }),
    }
}

fn check_rsa_size(pkcs1: &[u8]) -> Result<(), KeyError> {
    // RSAPublicKey ::= SEQUENCE { modulus INTEGER, publicExponent INTEGER } (RFC 8017 A.1.1)
    let modulus = SliceReader::new(pkcs1)?.sequence(|reader| {
        let modulus = UintRef::decode(reader)?;
        UintRef::decode(reader).map(|_exponent| modulus)
    })?;
    let bytes = modulus.as_bytes();
    let leading = bytes.first().map_or(0, |byte| byte.leading_zeros());
    let found = (8 * bytes.len()).saturating_sub(usize::try_from(leading).unwrap_or_default());
    if (2048..=4096).contains(&found) {
        Ok(())
    } else {
        Err(KeyError::RsaSize { found })
    }
}

fn wrap_pkcs1(der: &[u8]) -> Result<Vec<u8>, KeyError> {
    let spki = SubjectPublicKeyInfoRef {
        algorithm: AlgorithmIdentifierRef {
            oid: RSA,
            parameters: Some(AnyRef::NULL),
        },
        subject_public_key: BitStringRef::from_bytes(der)?,
    };
    Ok(spki.to_der()?)
}

const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const ED25519_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
