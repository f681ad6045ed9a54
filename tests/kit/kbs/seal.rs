//! Seals resources to the key of a TEE: flattened JWE, written from RFC 7516 and RFC 7518.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{
    self, Algorithm, ECDH_P256, ECDH_P521, EphemeralPrivateKey, UnparsedPublicKey,
};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap as _};
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::rsa::{
    OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey, PublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// The JWE as JSON, or none if `key` is not usable (short coordinates, off the curve, padded
/// base64, another curve or algorithm): the real server notices at this moment, too.
pub(super) fn seal(key: &Value, content: &[u8]) -> Option<String> {
    let content_key: [u8; 32] = random();
    let (header, encrypted_key) = match (text(key, "kty")?, text(key, "alg")?) {
        ("EC", "ECDH-ES+A256KW") => for_ec(key, &content_key)?,
        ("RSA", "RSA-OAEP-256") => for_rsa(key, &content_key)?,
        _ => return None,
    };
    let protected = URL_SAFE_NO_PAD.encode(header);
    let iv: [u8; 12] = random();
    let mut ciphertext = content.to_vec();
    let tag = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &content_key).ok()?)
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(iv),
            Aad::from(protected.as_bytes()),
            &mut ciphertext,
        )
        .ok()?;
    let jwe = json!({
        "protected": protected,
        "encrypted_key": URL_SAFE_NO_PAD.encode(encrypted_key),
        "iv": URL_SAFE_NO_PAD.encode(iv),
        "ciphertext": URL_SAFE_NO_PAD.encode(ciphertext),
        "tag": URL_SAFE_NO_PAD.encode(tag.as_ref()),
    });
    Some(jwe.to_string())
}

fn for_ec(key: &Value, content_key: &[u8]) -> Option<(String, Vec<u8>)> {
    let curve = text(key, "crv")?;
    let (algorithm, length): (&'static Algorithm, usize) = match curve {
        "P-256" => (&ECDH_P256, 32),
        "P-521" => (&ECDH_P521, 66),
        _ => return None,
    };
    let coordinate = |name| {
        let bytes = URL_SAFE_NO_PAD.decode(text(key, name)?).ok()?;
        (bytes.len() == length).then_some(bytes)
    };
    let peer = [vec![4], coordinate("x")?, coordinate("y")?].concat();
    let own = EphemeralPrivateKey::generate(algorithm, &SystemRandom::new()).ok()?;
    let point = own.compute_public_key().ok()?.as_ref().to_vec();
    let derived = |shared: &[u8]| Ok(concat_kdf(shared));
    let wrapping_key =
        agreement::agree_ephemeral(own, UnparsedPublicKey::new(algorithm, peer), (), derived)
            .ok()?;
    let mut wrapped = [0; 40];
    AesKek::new(&AES_256, &wrapping_key)
        .ok()?
        .wrap(content_key, &mut wrapped)
        .ok()?;
    let epk = json!({
        "crv": curve,
        "kty": "EC",
        "x": URL_SAFE_NO_PAD.encode(&point[1..=length]),
        "y": URL_SAFE_NO_PAD.encode(&point[1 + length..]),
    });
    let header = format!(r#"{{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":{epk}}}"#);
    Some((header, wrapped.to_vec()))
}

/// RFC 7518 section 4.6.2: `round || Z || AlgorithmID || PartyUInfo || PartyVInfo || SuppPubInfo`.
fn concat_kdf(shared: &[u8]) -> Vec<u8> {
    let mut input = vec![0, 0, 0, 1];
    input.extend(shared);
    input.extend([0, 0, 0, 14]);
    input.extend(b"ECDH-ES+A256KW");
    input.extend([0, 0, 0, 0]);
    input.extend([0, 0, 0, 0]);
    input.extend([0, 0, 1, 0]);
    digest(&SHA256, &input).as_ref().to_vec()
}

fn for_rsa(key: &Value, content_key: &[u8]) -> Option<(String, Vec<u8>)> {
    let number = |name| URL_SAFE_NO_PAD.decode(text(key, name)?).ok();
    let key = PublicKeyComponents {
        n: number("n")?,
        e: number("e")?,
    };
    let key: PublicEncryptingKey = key.try_into().ok()?;
    let key = OaepPublicEncryptingKey::new(key).ok()?;
    let mut encrypted = vec![0; key.ciphertext_size()];
    key.encrypt(&OAEP_SHA256_MGF1SHA256, content_key, &mut encrypted, None)
        .ok()?;
    Some((
        r#"{"alg":"RSA-OAEP-256","enc":"A256GCM"}"#.to_owned(),
        encrypted,
    ))
}

fn text<'a>(key: &'a Value, name: &str) -> Option<&'a str> {
    key.get(name)?.as_str()
}

fn random<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    rand::fill(&mut bytes).expect("randomness");
    bytes
}
