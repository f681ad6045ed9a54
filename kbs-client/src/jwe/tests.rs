//! Vectors sealed by another library, and every way to spoil one.

use aws_lc_rs::agreement::{self, ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::*;
use crate::key::TeeKeyAlgorithm;

/// Made by pyca/cryptography 48 with throw-away keys, from RFC 7516 and 7518 alone.
struct Vector {
    /// PKCS #8 in base64.
    key: &'static str,
    jwe: [&'static str; 5],
    content: &'static [u8],
}

/// The header has spaces, and its members stand in an order of their own.
const SPACED: Vector = Vector {
    key: "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgdnNR0pPjivTfUV9XrWCxMHA5/KQXJRYu\
         z644TLYdxiyhRANCAASNpKZbIZRsZD4uONeUGm8RQO3PYC88PZ+ezT/3zqwk3K0f3qysIMJQIqGMgsxE\
         SFiv0dEK4eZIgKzf/F18IMQP",
    jwe: [
        "IHsgImVuYyIgOiAiQTI1NkdDTSIsICJlcGsiOnsieSI6IkJ5MTMwQmlTY1JPWTUzYnc0eUYxZnNFS3BS\
         d1l6Nm9vM0xab3BEQzRrWlEiLCJ4IjoiVm45SHlWU1hNNzlEWkFWN0g4cXdNV3o5ZXdfOVVPVUMtRDFr\
         Y0VlMW5sZyIsImt0eSI6IkVDIiwiY3J2IjoiUC0yNTYifSwgImFsZyI6IkVDREgtRVMrQTI1NktXIiB9\
         IA",
        "0tWGFdmTymJjHOscBAQyizZ5P5LR6pbV5osj0y-WjB-5FibV_50fzA",
        "2Z-kR3zlC6OKw6VC",
        "srZOFNQxJw3m2anHKZ17SWy7mVq8LpoGYw",
        "8-fqYHmxYZYRp3a5xWhzvA",
    ],
    content: b"sealed by another library",
};

/// The header names parties, `apu` and `apv`.
const WITH_PARTIES: Vector = Vector {
    key: "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgVbjul9QPUXFfMZKW0GNbLeJyF+U7nsJS\
         yjn/WUN6jY6hRANCAATip2OyQU/611h3q6BFMW1ySkRUY1YqecXqVqxhj4yXSKZO6igXc2u2GNdcBpo8\
         O8x0AZLbXsGkuJVIndsSiZc9",
    jwe: [
        "IHsgImVuYyIgOiAiQTI1NkdDTSIsICJlcGsiOnsieSI6IndHV2xtV01QWWRsOFczSlcxUjM4YnJaT2t0\
         ZVRLMGJqQ2hjX25Zal9wTlUiLCJ4IjoibEkweWlYQWtoekZGQWpQV19fSzc4Z2xJa1lOZnNGN1JzRTZ4\
         Mi1CVUhkcyIsImt0eSI6IkVDIiwiY3J2IjoiUC0yNTYifSwgImFsZyI6IkVDREgtRVMrQTI1NktXIiwi\
         YXB1IjoiUVd4cFkyVSIsImFwdiI6IlFtOWkiIH0g",
        "DWyG59qPxPSDT6J3izarYNGhUllrHKK4YkI1Z-r08czJPJNQirJX6w",
        "_xhZA8DJVJTl8vky",
        "9QfVGLrDH6Yu7oeDy-4pZJoj",
        "HLcuKBV2KsKL_43B3Hvzgw",
    ],
    content: b"for Bob from Alice",
};

const MEMBERS: [&str; 5] = ["protected", "encrypted_key", "iv", "ciphertext", "tag"];

impl Vector {
    fn key(&self) -> TeeKey {
        TeeKey::from_pkcs8(&STANDARD.decode(self.key).unwrap()).unwrap()
    }

    fn jwe(&self) -> Value {
        MEMBERS
            .iter()
            .zip(self.jwe)
            .map(|(name, value)| (*name, value))
            .collect()
    }
}

fn open(key: &TeeKey, jwe: &Value) -> Result<Vec<u8>, JweError> {
    key.open(jwe.to_string().as_bytes())
        .map(|secret| secret.expose().to_vec())
}

/// A JWE with any header, sealed to the P-256 key of `key`, content key and all.
fn seal(key: &TeeKey, alter: impl FnOnce(&mut Value)) -> Value {
    let Jwk::Ec { x, y, .. } = key.public() else {
        panic!("not an EC key")
    };
    let coordinate = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    let peer = [vec![4], coordinate(x), coordinate(y)].concat();
    let own = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new()).unwrap();
    let point = own.compute_public_key().unwrap().as_ref().to_vec();
    let peer = UnparsedPublicKey::new(&ECDH_P256, peer);
    let info = b"\0\0\0\x0eECDH-ES+A256KW\0\0\0\0\0\0\0\0\0\0\x01\0";
    let wrapping_key = agreement::agree_ephemeral(own, peer, (), |shared| {
        Ok(digest(&SHA256, &[b"\0\0\0\x01", shared, info].concat()))
    })
    .unwrap();
    let mut wrapped = [0; 40];
    let kek = AesKek::new(&AES_256, wrapping_key.as_ref()).unwrap();
    kek.wrap(&[7; 32], &mut wrapped).unwrap();
    let coordinate = |range| URL_SAFE_NO_PAD.encode(&point[range]);
    let mut header = json!({
        "alg": "ECDH-ES+A256KW",
        "enc": "A256GCM",
        "epk": { "kty": "EC", "crv": "P-256", "x": coordinate(1..33), "y": coordinate(33..65) },
    });
    alter(&mut header);
    let protected = URL_SAFE_NO_PAD.encode(header.to_string());
    let mut content = b"content".to_vec();
    let tag = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap())
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key([9; 12]),
            Aad::from(protected.as_bytes()),
            &mut content,
        )
        .unwrap();
    json!({
        "protected": protected,
        "encrypted_key": URL_SAFE_NO_PAD.encode(wrapped),
        "iv": URL_SAFE_NO_PAD.encode([9; 12]),
        "ciphertext": URL_SAFE_NO_PAD.encode(content),
        "tag": URL_SAFE_NO_PAD.encode(tag.as_ref()),
    })
}

#[test]
fn opens_what_another_library_sealed() {
    for vector in [SPACED, WITH_PARTIES] {
        assert_eq!(open(&vector.key(), &vector.jwe()).unwrap(), vector.content);
    }
}

#[test]
fn no_bit_of_any_member_can_be_changed() {
    let key = SPACED.key();
    for member in MEMBERS {
        let bytes = URL_SAFE_NO_PAD
            .decode(SPACED.jwe()[member].as_str().unwrap())
            .unwrap();
        for position in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[position] ^= 1;
            let mut jwe = SPACED.jwe();
            jwe[member] = json!(URL_SAFE_NO_PAD.encode(altered));
            let outcome = open(&key, &jwe);
            assert!(outcome.is_err(), "byte {position} of {member} was changed");
        }
    }
}

#[test]
fn no_part_of_a_jwe_is_a_jwe() {
    let key = SPACED.key();
    let whole = SPACED.jwe().to_string();
    for length in 0..whole.len() {
        let error = key.open(&whole.as_bytes()[..length]).unwrap_err();
        assert!(
            matches!(error, JweError::Shape(_)),
            "{length} bytes: {error:?}"
        );
    }
}

#[test]
fn other_key_does_not_open() {
    let other = TeeKey::generate(TeeKeyAlgorithm::P256).unwrap();
    let error = open(&other, &SPACED.jwe()).unwrap_err();
    assert!(matches!(error, JweError::ContentKey), "{error:?}");
}

fn altered(key: &TeeKey, pointer: &str, value: &Value) -> JweError {
    let jwe = seal(key, |header| {
        *header.pointer_mut(pointer).unwrap() = value.clone();
    });
    open(key, &jwe).unwrap_err()
}

#[test]
fn algorithm_that_does_not_fit_the_key_is_refused_by_name() {
    let key = TeeKey::generate(TeeKeyAlgorithm::P256).unwrap();
    assert_eq!(open(&key, &seal(&key, |_| {})).unwrap(), b"content");
    let rows = [
        ("/alg", "RSA1_5", ECDH_ES_A256KW),
        ("/alg", "dir", ECDH_ES_A256KW),
        ("/enc", "A128GCM", A256GCM),
        ("/epk/crv", "P-521", "P-256"),
    ];
    for (pointer, value, wanted) in rows {
        let error = altered(&key, pointer, &json!(value));
        let JweError::Algorithm { expected, found } = &error else {
            panic!("{error:?}")
        };
        assert_eq!((*expected, found.as_str()), (wanted, value), "{pointer}");
    }
}

#[test]
fn ephemeral_key_that_is_none_is_refused_with_its_fault() {
    let key = TeeKey::generate(TeeKeyAlgorithm::P256).unwrap();
    let zero = URL_SAFE_NO_PAD.encode([0; 32]);
    let rows = [
        (
            "/epk/x",
            json!("AAAA"),
            "expected 32 bytes of epk.x, found 3",
        ),
        (
            "/epk/y",
            json!("AAAA="),
            "expected base64url without padding in epk.y",
        ),
        (
            "/epk/x",
            json!(zero),
            "the ephemeral key of the JWE is not a point of its curve",
        ),
        (
            "/epk",
            json!(null),
            "the JWE names no ephemeral EC key (epk)",
        ),
        (
            "/epk/kty",
            json!("OKP"),
            "the protected header of the JWE is not understood",
        ),
        (
            "/alg",
            json!(1),
            "the protected header of the JWE is not understood",
        ),
    ];
    for (pointer, value, expected) in rows {
        assert_eq!(
            altered(&key, pointer, &value).to_string(),
            expected,
            "{pointer} = {value}"
        );
    }
}

#[test]
fn extension_that_must_be_understood_is_refused() {
    let key = TeeKey::generate(TeeKeyAlgorithm::P256).unwrap();
    for member in ["crit", "zip", "b64"] {
        let error = open(&key, &seal(&key, |header| header[member] = json!("x"))).unwrap_err();
        assert!(matches!(error, JweError::Header(_)), "{member}: {error:?}");
    }
}

#[test]
fn unknown_names_are_quoted_in_one_line() {
    let key = TeeKey::generate(TeeKeyAlgorithm::P256).unwrap();
    let kind = seal(&key, |header| header["epk"]["kty"] = json!("OK\u{1b}\n"));
    let member = seal(&key, |header| header["enc\u{7f}\n"] = json!(""));
    for jwe in [kind, member] {
        let error = open(&key, &jwe).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("\u{fffd}`, expected"), "{source:?}");
        assert!(!source.contains(char::is_control), "{source:?}");
    }
}

#[test]
fn lengths_are_checked_before_anything_is_decrypted() {
    let key = SPACED.key();
    for (member, expected) in [("encrypted_key", 40), ("iv", 12), ("tag", 16)] {
        let mut jwe = SPACED.jwe();
        jwe[member] = json!("AAAA");
        let error = open(&key, &jwe).unwrap_err();
        let JweError::Length {
            what,
            expected: wanted,
            found: 3,
        } = error
        else {
            panic!("{error:?}")
        };
        assert_eq!((what, wanted), (member, expected));
    }
}

#[test]
fn content_may_be_empty() {
    let key = TeeKey::generate(TeeKeyAlgorithm::P256).unwrap();
    let mut jwe = seal(&key, |_| {});
    let protected = jwe["protected"].as_str().unwrap().to_owned();
    let tag = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap())
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key([9; 12]),
            Aad::from(protected.as_bytes()),
            &mut [],
        )
        .unwrap();
    jwe["ciphertext"] = json!("");
    jwe["tag"] = json!(URL_SAFE_NO_PAD.encode(tag.as_ref()));
    assert_eq!(open(&key, &jwe).unwrap(), b"");
}

#[test]
fn additional_data_is_authenticated() {
    let mut jwe = SPACED.jwe();
    jwe["aad"] = json!("AAAA");
    let error = open(&SPACED.key(), &jwe).unwrap_err();
    assert!(matches!(error, JweError::Content), "{error:?}");
}
