//! Opens what the KBS sealed: a flattened JWE (RFC 7516), `ECDH-ES+A256KW` or `RSA-OAEP-256`
//! around `A256GCM`.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::Error as _;
use zeroize::Zeroizing;

use crate::error::{printable, unquoted};
use crate::key::{ECDH_ES_A256KW, Private, RSA_OAEP_256, TeeKey, rsa_decrypt};
use crate::messages::{FlattenedJwe, JweHeader, Jwk};
use crate::secret::Secret;

impl TeeKey {
    /// Opens a flattened JWE that was sealed to this key.
    ///
    /// The additional authenticated data is the `protected` member byte for byte as received: a
    /// header is never written again from its parsed form, where the order of members would decide.
    ///
    /// # Errors
    /// [`JweError`], which says what the sealer did wrong, or that the content was sealed to another
    /// key or altered on the way.
    pub fn open(&self, jwe: &[u8]) -> Result<Secret, JweError> {
        let jwe: FlattenedJwe = serde_json::from_slice(jwe)
            .map_err(|source| JweError::Shape(Arc::new(unquoted(source))))?;
        let header: JweHeader = serde_json::from_slice(&decode("protected", &jwe.protected)?)
            .map_err(|source| JweError::Header(printed(&source)))?;
        expect(&header.enc, A256GCM)?;
        let content_key =
            self.content_key(&header, &decode("encrypted_key", &jwe.encrypted_key)?)?;
        decrypt(&content_key, &jwe)
    }

    fn content_key(
        &self,
        header: &JweHeader,
        encrypted: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, JweError> {
        let key = match self.private() {
            Private::Ec(..) => {
                expect(&header.alg, ECDH_ES_A256KW)?;
                unwrap_key(&self.wrapping_key(header)?, encrypted)?
            }
            Private::Rsa(private) => {
                expect(&header.alg, RSA_OAEP_256)?;
                rsa_decrypt(private, encrypted).ok_or(JweError::ContentKey)?
            }
        };
        check_length("content key", &key, CONTENT_KEY_LENGTH)?;
        Ok(key)
    }

    /// RFC 7518 section 4.6.2, with its Concat KDF (NIST SP 800-56A section 5.8.1), which for 256
    /// bits is one round of SHA-256.
    fn wrapping_key(&self, header: &JweHeader) -> Result<Zeroizing<Vec<u8>>, JweError> {
        let shared = self.shared_secret(header)?;
        let mut hash = Context::new(&SHA256);
        hash.update(&1_u32.to_be_bytes());
        hash.update(&shared);
        hash.update(&length_prefixed(ECDH_ES_A256KW.as_bytes())?);
        for (member, party) in [("apu", &header.apu), ("apv", &header.apv)] {
            let info = party
                .as_ref()
                .map(|info| decode(member, info))
                .transpose()?;
            hash.update(&length_prefixed(&info.unwrap_or_default())?);
        }
        hash.update(&256_u32.to_be_bytes());
        Ok(Zeroizing::new(hash.finish().as_ref().to_vec()))
    }

    fn shared_secret(&self, header: &JweHeader) -> Result<Zeroizing<Vec<u8>>, JweError> {
        let (Private::Ec(curve, key), Some(Jwk::Ec { crv, x, y, .. })) =
            (self.private(), &header.epk)
        else {
            return Err(JweError::NoEphemeralKey);
        };
        expect(crv, curve.name)?;
        let (x, y) = (decode("epk.x", x)?, decode("epk.y", y)?);
        check_length("epk.x", &x, curve.coordinate_length)?;
        check_length("epk.y", &y, curve.coordinate_length)?;
        curve.agree(key, &x, &y).ok_or(JweError::NotOnCurve)
    }
}

/// Why a JWE cannot be opened. All but [`ContentKey`](JweError::ContentKey) and
/// [`Content`](JweError::Content) are faults of the sealer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum JweError {
    /// Not JSON, truncated, or not the members of a flattened JWE.
    #[error("expected a flattened JWE, found something else")]
    Shape(#[source] Arc<serde_json::Error>),
    /// The protected header is not understood whole.
    #[error("the protected header of the JWE is not understood")]
    Header(#[source] Arc<serde_json::Error>),
    /// A member is not base64url without padding.
    #[error("expected base64url without padding in {member}")]
    Base64 {
        /// Name of the member.
        member: &'static str,
        /// What is wrong with it.
        #[source]
        source: base64::DecodeError,
    },
    /// Another algorithm, encryption or curve than the key calls for. `RSA1_5` is refused so.
    #[error("expected {expected} in the JWE, found {found:?}")]
    Algorithm {
        /// The one that fits the key.
        expected: &'static str,
        /// The one in the header.
        found: String,
    },
    /// A member has the wrong length.
    #[error("expected {expected} bytes of {what}, found {found}")]
    Length {
        /// Name of the member.
        what: &'static str,
        /// As the algorithm has it.
        expected: usize,
        /// As received.
        found: usize,
    },
    /// No `epk` in the header, or one of another type.
    #[error("the JWE names no ephemeral EC key (epk)")]
    NoEphemeralKey,
    /// The point in `epk` is not on its curve.
    #[error("the ephemeral key of the JWE is not a point of its curve")]
    NotOnCurve,
    /// The content key was not encrypted to our key, or was altered.
    #[error("the content key of the JWE is not encrypted to our key")]
    ContentKey,
    /// The tag does not fit: header, iv or content was altered.
    #[error("the content of the JWE is not authentic")]
    Content,
}

const A256GCM: &str = "A256GCM";
const CONTENT_KEY_LENGTH: usize = 32;
const TAG_LENGTH: usize = 16;

fn expect(found: &str, expected: &'static str) -> Result<(), JweError> {
    if found == expected {
        return Ok(());
    }
    let found = found.chars().take(40).collect();
    Err(JweError::Algorithm { expected, found })
}

fn check_length(what: &'static str, bytes: &[u8], expected: usize) -> Result<(), JweError> {
    if bytes.len() == expected {
        return Ok(());
    }
    Err(JweError::Length {
        what,
        expected,
        found: bytes.len(),
    })
}

fn decode(member: &'static str, text: &str) -> Result<Vec<u8>, JweError> {
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|source| JweError::Base64 { member, source })
}

/// The error with the text of others in it made printable: a member of the header or a key type that
/// is not known is quoted as it came.
fn printed(source: &serde_json::Error) -> Arc<serde_json::Error> {
    Arc::new(serde_json::Error::custom(printable(&source.to_string())))
}

fn length_prefixed(bytes: &[u8]) -> Result<Vec<u8>, JweError> {
    let Ok(length) = u32::try_from(bytes.len()) else {
        return Err(JweError::Length {
            what: "apu or apv",
            expected: 0,
            found: bytes.len(),
        });
    };
    Ok([&length.to_be_bytes(), bytes].concat())
}

/// RFC 3394.
fn unwrap_key(wrapping_key: &[u8], wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, JweError> {
    check_length("encrypted_key", wrapped, CONTENT_KEY_LENGTH + 8)?;
    let mut key = Zeroizing::new(vec![0; CONTENT_KEY_LENGTH]);
    AesKek::new(&AES_256, wrapping_key)
        .and_then(|kek| kek.unwrap(wrapped, &mut key).map(|_| ()))
        .map_err(|Unspecified| JweError::ContentKey)?;
    Ok(key)
}

/// RFC 7516 section 5.2, steps 14 to 16.
fn decrypt(content_key: &[u8], jwe: &FlattenedJwe) -> Result<Secret, JweError> {
    let mut associated = jwe.protected.clone().into_bytes();
    if let Some(aad) = &jwe.aad {
        associated.push(b'.');
        associated.extend_from_slice(aad.as_bytes());
    }
    let (iv, tag) = (decode("iv", &jwe.iv)?, decode("tag", &jwe.tag)?);
    let ciphertext = decode("ciphertext", &jwe.ciphertext)?;
    check_length("iv", &iv, AES_256_GCM.nonce_len())?;
    check_length("tag", &tag, TAG_LENGTH)?;
    let mut plain = Zeroizing::new(vec![0; ciphertext.len()]);
    UnboundKey::new(&AES_256_GCM, content_key)
        .and_then(|key| {
            let nonce = Nonce::try_assume_unique_for_key(&iv)?;
            let associated = Aad::from(&associated);
            LessSafeKey::new(key).open_separate_gather(
                nonce,
                associated,
                &ciphertext,
                &tag,
                &mut plain,
            )
        })
        .map_err(|Unspecified| JweError::Content)?;
    Ok(Secret::new(plain))
}

#[cfg(test)]
mod tests;
