//! Which keys and signatures are checked, and how.

use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING,
    ECDSA_P256K1_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING,
    ECDSA_P521_SHA256_ASN1_SIGNING, ECDSA_P521_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING,
    Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use policy::{KeyError, PemError, PublicKey};

use crate::support::{Signer, pem};

fn rsa(size: KeySize) -> Signer {
    Signer::Rsa(RsaKeyPair::generate(size).unwrap())
}

#[test]
fn checks_signatures_of_every_supported_kind() {
    let rows = [
        (
            "P-256",
            Signer::ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING),
            true,
        ),
        (
            "P-384 with SHA-384",
            Signer::ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING),
            true,
        ),
        (
            "P-521 with SHA-256",
            Signer::ecdsa(&ECDSA_P521_SHA256_ASN1_SIGNING),
            true,
        ),
        (
            "P-521 with SHA-512",
            Signer::ecdsa(&ECDSA_P521_SHA512_ASN1_SIGNING),
            true,
        ),
        (
            "Ed25519",
            Signer::Ed25519(Ed25519KeyPair::generate().unwrap()),
            true,
        ),
        ("RSA 2048", rsa(KeySize::Rsa2048), true),
        ("RSA 3072", rsa(KeySize::Rsa3072), true),
        (
            "P-521 with SHA-384",
            Signer::ecdsa(&ECDSA_P521_SHA384_ASN1_SIGNING),
            false,
        ),
        (
            "P-256, raw r and s",
            Signer::ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING),
            false,
        ),
    ];
    for (name, signer, verifies) in rows {
        let key = PublicKey::from_pem(signer.pem().as_bytes()).unwrap();
        let signature = signer.sign(b"message");
        assert_eq!(key.verifies(b"message", &signature), verifies, "{name}");
        assert!(!key.verifies(b"massage", &signature), "{name}");
        assert!(!key.verifies(b"message", b""), "{name}");
    }
}

#[test]
fn reads_a_pkcs1_key_as_the_same_key() {
    let signer = rsa(KeySize::Rsa2048);
    let Signer::Rsa(pair) = &signer else {
        unreachable!()
    };
    let pkcs1 = pem("RSA PUBLIC KEY", pair.public_key().as_ref());
    let key = PublicKey::from_pem(pkcs1.as_bytes()).unwrap();
    let same = PublicKey::from_pem(signer.pem().as_bytes()).unwrap();
    assert_eq!(key.fingerprint(), same.fingerprint());
    assert!(key.verifies(b"message", &signer.sign(b"message")));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn refuses_what_is_no_usable_key_and_says_why() {
    let secp256k1 = Signer::ecdsa(&ECDSA_P256K1_SHA256_ASN1_SIGNING);
    let signer = Signer::new();
    let two = format!("{0}{0}", signer.pem());
    let mut off_curve = signer.spki();
    *off_curve.last_mut().unwrap() ^= 1;
    // The curve where the kind of key should be: SEQUENCE { OBJECT IDENTIFIER prime256v1 }.
    let curve = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
    let bits = signer.spki()[23..].to_vec();
    let no_kind = [b"\x30\x50\x30\x0a", &curve[..], &bits].concat();
    let rows = [
        ("nothing", String::new(), KeyError::Pem(PemError::NoBlock)),
        (
            "a curve as the kind",
            pem("PUBLIC KEY", &no_kind),
            KeyError::Algorithm {
                oid: "1.2.840.10045.3.1.7".to_owned(),
            },
        ),
        ("two keys", two, KeyError::Pem(PemError::NotOneBlock)),
        (
            "a certificate",
            pem("CERTIFICATE", b"x"),
            KeyError::Label {
                found: "CERTIFICATE".to_owned(),
            },
        ),
        (
            "a private key",
            pem("PRIVATE KEY", b"x"),
            KeyError::Label {
                found: "PRIVATE KEY".to_owned(),
            },
        ),
        (
            "secp256k1",
            secp256k1.pem(),
            KeyError::Algorithm {
                oid: "1.3.132.0.10".to_owned(),
            },
        ),
        (
            "RSA 2047",
            pem("RSA PUBLIC KEY", &pkcs1(256)),
            KeyError::RsaSize { found: 2047 },
        ),
        (
            "RSA 4103",
            pem("RSA PUBLIC KEY", &pkcs1(513)),
            KeyError::RsaSize { found: 4103 },
        ),
    ];
    for (name, text, expected) in rows {
        assert_eq!(
            PublicKey::from_pem(text.as_bytes()).unwrap_err(),
            expected,
            "{name}"
        );
    }
    let off_curve = pem("PUBLIC KEY", &off_curve);
    assert!(matches!(
        PublicKey::from_pem(off_curve.as_bytes()),
        Err(KeyError::Invalid { .. })
    ));
    let garbage = pem("PUBLIC KEY", b"garbage");
    assert!(matches!(
        PublicKey::from_pem(garbage.as_bytes()),
        Err(KeyError::Der(_))
    ));
}

#[test]
fn a_key_is_written_in_one_way_alone() {
    let ec = Signer::new().spki();
    let (algorithm, point) = (&ec[2..23], &ec[26..]);
    let odd = point.last().unwrap() & 1;
    let mut hybrid = ec.clone();
    hybrid[26] = 6 | odd;
    let header = [b"\x30\x39", algorithm, b"\x03\x22\x00"].concat();
    let compressed = [&header[..], &[2 | odd], &point[1..33]].concat();

    let rsa = rsa(KeySize::Rsa2048).spki();
    let null = rsa.windows(2).position(|pair| pair == b"\x05\x00").unwrap();
    let mut octets = rsa.clone();
    octets[null] = 0x04;

    let pair = Signer::Ed25519(Ed25519KeyPair::generate().unwrap()).spki();
    let with_null = [b"\x30\x2c\x30\x07\x06\x03\x2b\x65\x70\x05\x00", &pair[9..]];
    let point = |found: u8| KeyError::Point {
        found: format!("{found:02x}"),
    };
    for (name, der, expected) in [
        ("hybrid", hybrid, point(6 | odd)),
        ("compressed", compressed, point(2 | odd)),
        ("RSA", octets, KeyError::Parameters { expected: "NULL" }),
        (
            "Ed25519",
            with_null.concat(),
            KeyError::Parameters { expected: "absent" },
        ),
    ] {
        let text = pem("PUBLIC KEY", &der);
        let error = PublicKey::from_pem(text.as_bytes()).unwrap_err();
        assert_eq!(error, expected, "{name}");
    }
}

/// An `RSAPublicKey` (RFC 8017 A.1.1) whose modulus of that many bytes has its top bit clear.
fn pkcs1(modulus_bytes: u16) -> Vec<u8> {
    let header = |tag: u8, length: u16| {
        let [high, low] = length.to_be_bytes();
        vec![tag, 0x82, high, low]
    };
    let exponent = [0x02, 0x03, 0x01, 0x00, 0x01];
    let mut der = header(0x30, 4 + modulus_bytes + 5);
    der.extend(header(0x02, modulus_bytes));
    der.extend(vec![0x7f; usize::from(modulus_bytes)]);
    der.extend(exponent);
    der
}
