//! `signedBy`: which `OpenPGP` messages count, and that the rest is refused with the reason.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use policy::{
    Digest, Evidence, Fingerprint, Grounds, Hashes, KeyringError, Keyrings, NotFetched,
    OpenPgpProblem, Outcome, PolicyCheck, Refusal, SignatureProblem, SimpleSignature, SubjectKind,
    open_simple,
};
use sequoia_openpgp::armor::{Kind, Writer};
use sequoia_openpgp::cert::{Cert, CertBuilder, CertRevocationBuilder, CipherSuite};
use sequoia_openpgp::crypto::KeyPair;
use sequoia_openpgp::crypto::mpi::PublicKey;
use sequoia_openpgp::packet::signature::SignatureBuilder;
use sequoia_openpgp::packet::{Packet, Signature};
use sequoia_openpgp::policy::StandardPolicy;
use sequoia_openpgp::serialize::Serialize;
use sequoia_openpgp::serialize::stream::{LiteralWriter, Message, Signer};
use sequoia_openpgp::types::{HashAlgorithm, KeyFlags, ReasonForRevocation, SignatureType};
use serde_json::{Value, json};

use crate::support::{
    NAME, REPOSITORY, decide, decision, manifest_bytes, policy, resolve, resolve_through_index,
};

const RING: &str = "kbs:///default/gpg-public-config/test";

fn now() -> SystemTime {
    // Whole seconds, as OpenPGP has them.
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs())
}

fn days(count: u64) -> Duration {
    Duration::from_hours(24 * count)
}

/// A key with a subkey that signs, made a year ago.
fn new_key() -> Cert {
    key(None)
}

fn key(validity: Option<Duration>) -> Cert {
    CertBuilder::new()
        .add_userid("owner@example.com")
        .set_cipher_suite(CipherSuite::Cv25519)
        .set_creation_time(now() - days(365))
        .set_validity_period(validity)
        .add_signing_subkey()
        .generate()
        .unwrap()
        .0
}

fn ring(keys: &[&Cert]) -> Vec<u8> {
    let mut ring = Vec::new();
    for key in keys {
        key.serialize(&mut ring).unwrap();
    }
    ring
}

fn armored(key: &Cert) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), Kind::PublicKey).unwrap();
    key.serialize(&mut writer).unwrap();
    writer.finalize().unwrap()
}

fn signing_pair(key: &Cert, time: SystemTime) -> KeyPair {
    let policy = StandardPolicy::new();
    let keys = key.keys().secret().with_policy(&policy, time).for_signing();
    let key = keys.subkeys().next().unwrap().key().clone();
    key.into_keypair().unwrap()
}

fn payload(digest: &Digest, reference: &str) -> Vec<u8> {
    let critical = json!({
        "identity": {"docker-reference": reference},
        "image": {"docker-manifest-digest": digest},
        "type": "atomic container signature",
    });
    json!({"critical": critical, "optional": {}})
        .to_string()
        .into_bytes()
}

struct Signing<'a> {
    keys: &'a [&'a Cert],
    time: SystemTime,
    hash: HashAlgorithm,
    validity: Option<Duration>,
}

impl<'a> Signing<'a> {
    fn by(keys: &'a [&'a Cert]) -> Self {
        Self {
            keys,
            time: now() - days(1),
            hash: HashAlgorithm::SHA512,
            validity: None,
        }
    }

    fn sign(&self, content: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        let template = SignatureBuilder::new(SignatureType::Binary)
            .set_signature_validity_period(self.validity.unwrap_or_else(|| days(10_000)))
            .unwrap();
        let pairs = self.keys.iter().map(|key| signing_pair(key, self.time));
        let mut pairs: Vec<KeyPair> = pairs.collect();
        let first = pairs.pop().unwrap();
        let mut signer = Signer::with_template(Message::new(&mut message), first, template)
            .unwrap()
            .creation_time(self.time)
            .hash_algo(self.hash)
            .unwrap();
        for pair in pairs {
            signer = signer.add_signer(pair).unwrap();
        }
        let mut literal = LiteralWriter::new(signer.build().unwrap()).build().unwrap();
        literal.write_all(content).unwrap();
        literal.finalize().unwrap();
        message
    }
}

fn open(ring: &[u8], message: &[u8]) -> Result<String, OpenPgpProblem> {
    open_at(ring, message, now(), Hashes::Strong)
}

fn open_at(
    ring: &[u8],
    message: &[u8],
    now: SystemTime,
    hashes: Hashes,
) -> Result<String, OpenPgpProblem> {
    let mut keys = Keyrings::default();
    keys.add(ring).unwrap();
    open_simple(&keys, message, now, hashes).map(|(fingerprint, _)| fingerprint)
}

fn any_payload() -> Vec<u8> {
    payload(&Digest::sha256_of(b""), NAME)
}

/// A compressed data packet in the old format with indeterminate length, as gpg writes it.
fn compressed(algorithm: u8, body: &[u8]) -> Vec<u8> {
    [&[0xa3, algorithm], body].concat()
}

fn zlib(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn requirement() -> Value {
    json!({"type": "signedBy", "keyType": "GPGKeys", "keyPath": RING})
}

fn evidence(key: &Cert, found: &[(Digest, Vec<u8>)]) -> Evidence {
    let mut evidence = Evidence {
        now: Some(now()),
        ..Evidence::default()
    };
    evidence.resources.insert(RING.to_owned(), Ok(armored(key)));
    for (subject, message) in found {
        let signature = SimpleSignature {
            found: "signature-1".to_owned(),
            message: message.clone(),
        };
        evidence.simple.insert(*subject, Ok(vec![signature]));
    }
    evidence
}

/// The outcome, and what was wrong with the signature.
fn weigh(
    requirement: &Value,
    evidence: &Evidence,
    name: &str,
) -> (Outcome, Option<SignatureProblem>) {
    let policy = policy(&json!([requirement]));
    let answer = decide(&policy, resolve(name, manifest_bytes()), evidence);
    let finding = decision(&answer).findings()[0].clone();
    assert_eq!(answer.is_ok(), matches!(finding.outcome, Outcome::Met(_)));
    let problem = finding
        .rejected
        .first()
        .map(|rejected| rejected.problem.clone());
    (finding.outcome, problem)
}

#[test]
fn accepts_the_owner_s_signature_and_names_the_primary_key() {
    let key = new_key();
    let manifest = resolve(NAME, manifest_bytes());
    let digest = *manifest.digest();
    let policy = policy(&json!([requirement()]));
    let rules = policy.rules_for(manifest.reference());
    let needs = rules.needs(&manifest);
    assert_eq!(needs.resources.iter().collect::<Vec<_>>(), [RING]);
    assert_eq!(rules.resources(), needs.resources);
    assert_eq!(needs.lookaside_subjects, [digest]);
    assert_eq!(needs.cosign_subjects, []);

    let message = Signing::by(&[&key]).sign(&payload(&digest, NAME));
    let evidence = evidence(&key, &[(digest, message)]);
    let approved = rules.decide(manifest, &evidence).unwrap();
    let Outcome::Met(Grounds::Signature(proof)) = &approved.decision().findings()[0].outcome else {
        panic!("not met by a signature");
    };
    let primary = key.fingerprint().to_hex();
    assert_eq!(proof.key_fingerprint, Fingerprint::OpenPgp(primary));
    assert_eq!(proof.subject, SubjectKind::Manifest);
}

#[test]
fn accepts_a_signature_on_the_index() {
    let key = new_key();
    let (manifest, index) = resolve_through_index(NAME);
    let digest = *manifest.digest();
    let message = Signing::by(&[&key]).sign(&payload(&index, NAME));
    let mut evidence = evidence(&key, &[(index, message)]);
    evidence.simple.insert(digest, Ok(Vec::new()));
    let answer = decide(&policy(&json!([requirement()])), manifest, &evidence);
    let Outcome::Met(Grounds::Signature(proof)) = &decision(&answer).findings()[0].outcome else {
        panic!("not met by a signature");
    };
    assert_eq!(proof.subject, SubjectKind::Index);
}

#[test]
fn denies_a_signature_for_another_digest_or_name() {
    let key = new_key();
    let digest = Digest::sha256_of(&manifest_bytes());
    let other = Digest::sha256_of(b"other");
    let signed = |payload: &[u8]| {
        let message = Signing::by(&[&key]).sign(payload);
        weigh(&requirement(), &evidence(&key, &[(digest, message)]), NAME)
    };
    let (outcome, problem) = signed(&payload(&other, NAME));
    assert_eq!(outcome, Outcome::Refused(Refusal::NoneCounts { found: 1 }));
    let expected = SignatureProblem::OtherDigest {
        signed: other,
        found: digest,
    };
    assert_eq!(problem, Some(expected));
    // Without a signedIdentity, matchRepoDigestOrExact: the tag counts, and so does having one.
    for name in [
        "registry.example/team/app:2.0",
        REPOSITORY,
        "registry.example/team/other:1.0",
    ] {
        let (_, problem) = signed(&payload(&digest, name));
        assert!(
            matches!(problem, Some(SignatureProblem::Identity(_))),
            "{name}: {problem:?}"
        );
    }
}

type Change<'a> = &'a dyn Fn(&mut Evidence);

#[test]
fn denies_without_keyring_signature_or_time() {
    let key = new_key();
    let digest = Digest::sha256_of(&manifest_bytes());
    let message = Signing::by(&[&key]).sign(&payload(&digest, NAME));
    let good = evidence(&key, &[(digest, message)]);
    let refusal = |change: Change<'_>| {
        let mut evidence = good.clone();
        change(&mut evidence);
        weigh(&requirement(), &evidence, NAME).0
    };
    let rows: [(&str, Change<'_>, Refusal); 5] = [
        (
            "an empty keyring",
            &|evidence| {
                evidence.resources.insert(RING.to_owned(), Ok(Vec::new()));
            },
            Refusal::KeyringUnusable {
                location: RING.to_owned(),
                problem: KeyringError::NoKey,
            },
        ),
        (
            "no keyring",
            &|evidence| {
                evidence
                    .resources
                    .insert(RING.to_owned(), Err(NotFetched::permanent("gone")));
            },
            Refusal::KeyNotFetched {
                location: RING.to_owned(),
                why: NotFetched::permanent("gone"),
            },
        ),
        ("no time", &|evidence| evidence.now = None, Refusal::NoTime),
        (
            "no signature",
            &|evidence| {
                evidence.simple.insert(digest, Ok(Vec::new()));
            },
            Refusal::NoSignature,
        ),
        (
            "a lookaside that does not answer",
            &|evidence| {
                evidence
                    .simple
                    .insert(digest, Err(NotFetched::transient("503")));
            },
            Refusal::NotListed {
                subject: digest,
                why: NotFetched::transient("503"),
            },
        ),
    ];
    for (row, change, expected) in rows {
        assert_eq!(refusal(change), Outcome::Refused(expected), "{row}");
    }
}

#[test]
fn reads_keyrings_of_many_keys_binary_and_armored() {
    let (one, two) = (new_key(), new_key());
    let message = Signing::by(&[&two]).sign(&any_payload());
    let expected = two.fingerprint().to_hex();
    let concatenated = [armored(&one), armored(&two)].concat();
    for ring in [ring(&[&one, &two]), concatenated] {
        assert_eq!(open(&ring, &message), Ok(expected.clone()));
    }
    let Err(OpenPgpProblem::OtherKey { issuers }) = open(&ring(&[&one]), &message) else {
        panic!("another key");
    };
    assert!(!issuers.is_empty());
    let mut keys = Keyrings::default();
    assert_eq!(keys.add(b"hello"), Err(KeyringError::NotAKeyring));
    let mut damaged = ring(&[&one]);
    damaged.truncate(damaged.len() - 5);
    assert!(matches!(
        keys.add(&damaged),
        Err(KeyringError::Unreadable { .. })
    ));
}

#[test]
fn a_message_has_exactly_one_signature_and_nothing_else() {
    let (one, two) = (new_key(), new_key());
    let ring = ring(&[&one, &two]);
    let single = Signing::by(&[&one]).sign(&any_payload());
    assert!(open(&ring, &single).is_ok());
    let double = Signing::by(&[&one, &two]).sign(&any_payload());
    let nested = compressed(2, &zlib(&compressed(2, &zlib(&single))));
    let mut text = Writer::new(Vec::new(), Kind::Message).unwrap();
    text.write_all(&single).unwrap();
    let text = text.finalize().unwrap();
    let zeros = zlib(&vec![0; 5 << 20]);
    let rows = [
        ("two signers", double, OpenPgpProblem::Form),
        (
            "twice",
            [single.clone(), single.clone()].concat(),
            OpenPgpProblem::Form,
        ),
        ("compressed twice", nested, OpenPgpProblem::Form),
        ("armor", text, OpenPgpProblem::NotBinary),
        ("nothing", Vec::new(), OpenPgpProblem::NotBinary),
        (
            "a bomb",
            compressed(2, &zeros),
            OpenPgpProblem::TooLarge { limit: 65_536 },
        ),
        (
            "too large",
            vec![0xa3; (4 << 20) + 1],
            OpenPgpProblem::TooLarge { limit: 4 << 20 },
        ),
        (
            "bzip2",
            compressed(3, &single),
            OpenPgpProblem::Compression {
                algorithm: "BZip2".to_owned(),
            },
        ),
    ];
    for (row, message, expected) in rows {
        assert_eq!(open(&ring, &message), Err(expected), "{row}");
    }
    assert!(open(&ring, &compressed(2, &zlib(&single))).is_ok());
}

#[test]
fn a_key_that_cannot_sign_now_does_not_count() {
    let content = any_payload();
    let expired = key(Some(days(100)));
    let signers = [&expired];
    let signing = Signing {
        time: now() - days(300),
        ..Signing::by(&signers)
    };
    let message = signing.sign(&content);
    let ring_of_expired = ring(&[&expired]);
    let then = open_at(
        &ring_of_expired,
        &message,
        now() - days(299),
        Hashes::Strong,
    );
    assert_eq!(then, Ok(expired.fingerprint().to_hex()));
    let problem = open(&ring_of_expired, &message);
    assert!(
        matches!(problem, Err(OpenPgpProblem::BadKey { .. })),
        "{problem:?}"
    );

    // Revoked after it signed, and a copy without the revocation beside it.
    let key = new_key();
    let message = Signing::by(&[&key]).sign(&content);
    let mut primary = key
        .primary_key()
        .key()
        .clone()
        .parts_into_secret()
        .unwrap()
        .into_keypair();
    for reason in [
        ReasonForRevocation::KeyCompromised,
        ReasonForRevocation::KeySuperseded,
    ] {
        let revocation = CertRevocationBuilder::new()
            .set_reason_for_revocation(reason, b"")
            .unwrap()
            .build(primary.as_mut().unwrap(), &key, None)
            .unwrap();
        let revoked = key.clone().insert_packets(revocation).unwrap().0;
        for ring in [
            ring(&[&revoked]),
            ring(&[&key, &revoked]),
            ring(&[&revoked, &key]),
        ] {
            let problem = open(&ring, &message);
            assert!(
                matches!(problem, Err(OpenPgpProblem::BadKey { .. })),
                "{problem:?}"
            );
        }
    }
}

/// The owner took signing from the subkey, and whoever has it dates the signature back.
#[test]
fn a_subkey_that_may_no_longer_sign_does_not_count() {
    let key = new_key();
    let signers = [&key];
    let backdated = Signing {
        time: now() - days(100),
        ..Signing::by(&signers)
    };
    let message = backdated.sign(&any_payload());
    assert!(open(&ring(&[&key]), &message).is_ok());

    let subkey = key.keys().subkeys().next().unwrap().key().clone();
    let binding = SignatureBuilder::new(SignatureType::SubkeyBinding)
        .set_key_flags(KeyFlags::empty().set_authentication())
        .unwrap()
        .set_signature_creation_time(now() - days(50))
        .unwrap();
    let binding = subkey.bind(&mut primary_pair(&key), &key, binding).unwrap();
    let changed = key.clone().insert_packets(binding).unwrap().0;
    let expected = OpenPgpProblem::BadKey {
        fingerprint: key.fingerprint().to_hex(),
        why: "it is no longer for signing".to_owned(),
    };
    assert_eq!(open(&ring(&[&changed]), &message), Err(expected));
}

fn primary_pair(key: &Cert) -> KeyPair {
    let primary = key.primary_key().key().clone();
    primary.parts_into_secret().unwrap().into_keypair().unwrap()
}

fn revocation_by(revoker: &Cert, key: &Cert) -> Signature {
    CertRevocationBuilder::new()
        .set_reason_for_revocation(ReasonForRevocation::KeyCompromised, b"")
        .unwrap()
        .build(&mut primary_pair(revoker), key, None)
        .unwrap()
}

#[test]
fn a_damaged_revocation_refuses_the_keyring() {
    let key = new_key();
    let message = Signing::by(&[&key]).sign(&any_payload());
    let public = key.clone().strip_secret_key_material();
    let revoked = public.insert_packets(revocation_by(&key, &key)).unwrap().0;
    let good = ring(&[&revoked]);
    assert!(matches!(
        open(&good, &message),
        Err(OpenPgpProblem::BadKey { .. })
    ));
    // It stands behind the primary key, which is followed by a user ID.
    let mut revocation = Vec::new();
    let packet = revoked.primary_key().self_revocations().next().unwrap();
    Packet::from(packet.clone())
        .serialize(&mut revocation)
        .unwrap();
    let start = good
        .windows(revocation.len())
        .position(|window| window == revocation)
        .unwrap();
    let last = start + revocation.len() - 1;
    let mut damaged = good.clone();
    damaged[last] ^= 1;
    let fingerprint = key.fingerprint().to_hex();
    let expected = KeyringError::Revocation { fingerprint };
    assert_eq!(Keyrings::default().add(&damaged), Err(expected));
    // Wherever it is damaged.
    let mut accepted = Vec::new();
    for at in start..=last {
        for bit in 0..8 {
            let mut damaged = good.clone();
            damaged[at] ^= 1 << bit;
            let mut keys = Keyrings::default();
            if keys.add(&damaged).is_ok() {
                let opened = open_simple(&keys, &message, now(), Hashes::Strong);
                accepted.extend(opened.map(|_| (at - start, bit)));
            }
        }
    }
    assert_eq!(accepted, []);
}

#[test]
fn a_revocation_that_cannot_be_checked_refuses_the_keyring() {
    let (key, other) = (new_key(), new_key());
    let by_other = revocation_by(&other, &key);
    let revoked = key.clone().insert_packets(by_other).unwrap().0;
    let fingerprint = key.fingerprint().to_hex();
    let expected = KeyringError::Revocation { fingerprint };
    assert_eq!(Keyrings::default().add(&ring(&[&revoked])), Err(expected));

    // As `gpg --gen-revoke` writes it, in one file with the key.
    let mut armor = Writer::new(Vec::new(), Kind::PublicKey).unwrap();
    let own = Packet::from(revocation_by(&key, &key));
    own.serialize(&mut armor).unwrap();
    let file = [armored(&key), armor.finalize().unwrap()].concat();
    let found = Keyrings::default().add(&file);
    assert_eq!(found, Err(KeyringError::LoneRevocation));

    // A block whose first line lost a character.
    let copy = String::from_utf8(armored(&key)).unwrap();
    let file = [armored(&key), copy.as_bytes()[1..].to_vec()].concat();
    let found = Keyrings::default().add(&file);
    let why = "not every armored block of it begins with -----BEGIN PGP PUBLIC KEY BLOCK-----";
    let why = why.to_owned();
    assert_eq!(found, Err(KeyringError::Unreadable { why }));
}

#[test]
fn no_clock_is_too_strange_to_judge_by() {
    let key = new_key();
    let message = Signing::by(&[&key]).sign(&any_payload());
    let ring = ring(&[&key]);
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(i64::MAX).unwrap());
    for now in [last, SystemTime::UNIX_EPOCH - days(365)] {
        let opened = open_at(&ring, &message, now, Hashes::Strong);
        assert!(
            matches!(opened, Err(OpenPgpProblem::BadSignature { .. })),
            "{opened:?}"
        );
    }
}

#[test]
fn an_expired_signature_does_not_count() {
    let key = new_key();
    let signers = [&key];
    let signing = Signing {
        validity: Some(days(2)),
        ..Signing::by(&signers)
    };
    let message = signing.sign(&any_payload());
    let ring = ring(&[&key]);
    assert!(open(&ring, &message).is_ok());
    let later = open_at(&ring, &message, now() + days(2), Hashes::Strong);
    assert!(
        matches!(later, Err(OpenPgpProblem::BadSignature { .. })),
        "{later:?}"
    );
    let before = open_at(&ring, &message, now() - days(2), Hashes::Strong);
    assert!(
        matches!(before, Err(OpenPgpProblem::BadSignature { .. })),
        "{before:?}"
    );
}

#[test]
fn sha1_counts_only_where_the_policy_says_so_whatever_the_clock_says() {
    let key = new_key();
    let digest = Digest::sha256_of(&manifest_bytes());
    let signers = [&key];
    let signing = Signing {
        hash: HashAlgorithm::SHA1,
        ..Signing::by(&signers)
    };
    let message = signing.sign(&payload(&digest, NAME));
    let evidence = evidence(&key, &[(digest, message)]);
    let (_, problem) = weigh(&requirement(), &evidence, NAME);
    assert!(
        matches!(
            problem,
            Some(SignatureProblem::OpenPgp(
                OpenPgpProblem::BadSignature { .. }
            ))
        ),
        "{problem:?}"
    );
    let mut weak = requirement();
    weak["allowWeakHashes"] = json!(true);
    let (outcome, _) = weigh(&weak, &evidence, NAME);
    assert!(matches!(outcome, Outcome::Met(_)), "{outcome:?}");
    assert_eq!(policy(&json!([weak])).warnings().len(), 1);
}

/// What of a message or keyring no signature covers may change: packet framing, the name and date
/// of the literal data, unhashed hints, other signatures of the key. The content and the keys may
/// not, and whatever changes, an approval is for the genuine content by the genuine key.
#[test]
fn flipping_any_one_byte_of_message_or_keyring_never_approves_anything_else() {
    let key = new_key();
    let ring = ring(&[&key]);
    let content = any_payload();
    let message = Signing::by(&[&key]).sign(&content);
    let opened = |ring: &[u8], message: &[u8]| {
        let mut keys = Keyrings::default();
        keys.add(ring).ok()?;
        open_simple(&keys, message, now(), Hashes::Strong).ok()
    };
    let good = opened(&ring, &message).unwrap();
    assert_eq!(good.0, key.fingerprint().to_hex());
    let flips = |bytes: &[u8]| -> Vec<(usize, Vec<u8>)> {
        let all = (0..bytes.len()).flat_map(|at| [(at, 0x01), (at, 0x80)]);
        let flip = |(at, mask): (usize, u8)| {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= mask;
            (at, flipped)
        };
        all.map(flip).collect()
    };
    let signed = place_of(&content, &message);
    for (at, flipped) in flips(&message) {
        if let Some(found) = opened(&ring, &flipped) {
            assert_eq!(found, good, "byte {at} of the message");
            assert!(!signed.contains(&at), "byte {at} of the content");
        }
    }
    let signing = signing_pair(&key, now());
    let points = [key.primary_key().key().mpis(), signing.public().mpis()].map(|mpis| match mpis {
        PublicKey::EdDSA { q, .. } => place_of(q.value(), &ring),
        other => panic!("{other:?}"),
    });
    for (at, flipped) in flips(&ring) {
        if let Some(found) = opened(&flipped, &message) {
            assert_eq!(found, good, "byte {at} of the keyring");
            let in_key = points.iter().any(|point| point.contains(&at));
            assert!(!in_key, "byte {at} of a public key");
        }
    }
}

fn place_of(part: &[u8], whole: &[u8]) -> std::ops::Range<usize> {
    let start = whole.windows(part.len()).position(|found| found == part);
    let start = start.unwrap();
    start..start + part.len()
}

#[test]
fn a_check_names_the_keys_of_a_ring_that_cannot_sign() {
    let (good, expired) = (new_key(), key(Some(days(100))));
    let data = STANDARD.encode(ring(&[&good, &expired]));
    let requirement = json!({"type": "signedBy", "keyType": "GPGKeys", "keyData": data});
    let document = json!({"default": [requirement]}).to_string();
    let check = PolicyCheck::parse(document.as_bytes()).unwrap();
    let found = check.warnings(&BTreeMap::new(), now());
    let [warning] = found.as_slice() else {
        panic!("{found:#?}");
    };
    let expected = format!("key {} cannot sign now: ", expired.fingerprint().to_hex());
    assert!(warning.text().starts_with(&expected), "{warning}");
    assert!(warning.text().contains("Expired"), "{warning}");
    assert_eq!(warning.place().path(), "default[0].keyData");
    let then = now() - days(300);
    assert_eq!(check.warnings(&BTreeMap::new(), then), []);
}
