//! What a decision costs: reading a policy with 1,000 scopes, deciding over 20 signatures, and one
//! check of each kind of signature beside the crypto library's own figure for it.
//!
//! `cargo run --release -p policy --example decide_bench`; fails when reading and deciding, apart
//! from the checks, are not under 5 ms. All times are medians of CPU time.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    reason = "an example that reports to people"
)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair,
    VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use policy::{
    COSIGN_PAYLOAD, CosignSignature, Digest, Document, Evidence, Hashes, ImageRef, Keyrings,
    Manifest, OCI_MANIFEST, Policy, PublicKey, Unverified, open_cosign, open_simple,
};
use rustix::time::{ClockId, clock_gettime};
use sequoia_openpgp::cert::CertBuilder;
use sequoia_openpgp::packet::{Packet, Signature};
use sequoia_openpgp::parse::Parse as _;
use sequoia_openpgp::policy::StandardPolicy;
use sequoia_openpgp::serialize::Serialize as _;
use sequoia_openpgp::serialize::stream::{LiteralWriter, Message, Signer};
use sequoia_openpgp::{Cert, PacketPile};
use serde_json::{Value, json};

fn main() -> ExitCode {
    let signers: Vec<EcdsaKeyPair> = (0..SIGNATURES)
        .map(|_| EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap())
        .collect();
    let counts = signers.last().unwrap();
    let document = document(counts);
    let digest = *manifest().digest();
    // The one that counts is the last.
    let signatures = signers.iter().map(|signer| sign(signer, &digest)).collect();
    let mut evidence = Evidence::default();
    evidence.cosign.insert(digest, Ok(signatures));

    let read = median(|| (), |()| Policy::parse(&document).unwrap());
    let policy = Policy::parse(&document).unwrap();
    let decide = median(manifest, |manifest| {
        let rules = policy.rules_for(manifest.reference());
        let needs = rules.needs(&manifest);
        (needs, rules.decide(manifest, &evidence).unwrap())
    });
    let checks = [p256(counts), rsa(), ed25519(), openpgp()];
    let raw = checks.first().map(|check| check.library).unwrap();
    let apart = read + decide.saturating_sub(raw * SIGNATURES);
    println!(
        "reading {SCOPES} scopes, {} KiB      {read:>10.1?}",
        document.len() >> 10
    );
    println!("deciding over {SIGNATURES} signatures     {decide:>10.1?}");
    println!("both, apart from {SIGNATURES} checks       {apart:>10.1?}  (at most {MOST:?})");
    println!("\none check           ours    the library     ratio");
    for Check {
        kind,
        ours,
        library,
    } in checks
    {
        let ratio = ours.as_secs_f64() / library.as_secs_f64();
        println!("{kind:14} {ours:>10.1?} {library:>14.1?} {ratio:>9.2}");
    }
    if apart < MOST {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What it takes to check one signature, here from bytes to payload, and in the crypto library.
struct Check {
    kind: &'static str,
    ours: Duration,
    library: Duration,
}

fn p256(signer: &EcdsaKeyPair) -> Check {
    let spki: PublicKeyX509Der<'_> = signer.public_key().as_der().unwrap();
    let message = payload(&Digest::sha256_of(b""));
    let signature = signer.sign(&SystemRandom::new(), &message).unwrap();
    let (spki, raw) = (spki.as_ref(), signer.public_key().as_ref());
    let algorithm = &ECDSA_P256_SHA256_ASN1;
    cosign("P-256", algorithm, spki, raw, &message, signature.as_ref())
}

fn rsa() -> Check {
    let signer = RsaKeyPair::generate(KeySize::Rsa3072).unwrap();
    let spki: PublicKeyX509Der<'_> = signer.public_key().as_der().unwrap();
    let message = payload(&Digest::sha256_of(b""));
    let mut signature = vec![0; signer.public_modulus_len()];
    let random = SystemRandom::new();
    signer
        .sign(&RSA_PKCS1_SHA256, &random, &message, &mut signature)
        .unwrap();
    let (spki, raw) = (spki.as_ref(), signer.public_key().as_ref());
    let algorithm = &RSA_PKCS1_2048_8192_SHA256;
    cosign("RSA-3072", algorithm, spki, raw, &message, &signature)
}

fn ed25519() -> Check {
    let signer = Ed25519KeyPair::generate().unwrap();
    let spki: PublicKeyX509Der<'_> = signer.public_key().as_der().unwrap();
    let message = payload(&Digest::sha256_of(b""));
    let signature = signer.sign(&message);
    let (spki, raw) = (spki.as_ref(), signer.public_key().as_ref());
    cosign("Ed25519", &ED25519, spki, raw, &message, signature.as_ref())
}

fn cosign(
    kind: &'static str,
    algorithm: &'static dyn VerificationAlgorithm,
    spki: &[u8],
    raw: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Check {
    let keys = [PublicKey::from_pem(pem(spki).as_bytes()).unwrap()];
    let encoded = STANDARD.encode(signature);
    let open = |()| open_cosign(&keys, message, &encoded).unwrap().1;
    let key = ParsedPublicKey::new(algorithm, raw).unwrap();
    let verify = |()| key.verify_sig(message, signature).unwrap();
    Check::new(kind, &(|| (), open), &(|| (), verify))
}

impl Check {
    /// Both by turns, so that whatever slows the machine down slows both.
    fn new<A, B, T, U>(
        kind: &'static str,
        ours: &(impl Fn() -> A, impl Fn(A) -> T),
        library: &(impl Fn() -> B, impl Fn(B) -> U),
    ) -> Self {
        let both = |_| (once(&ours.0, &ours.1), once(&library.0, &library.1));
        let (ours, library) = (0..RUNS).map(both).unzip();
        Self {
            kind,
            ours: middle(ours),
            library: middle(library),
        }
    }
}

/// Ed25519 in `OpenPGP`: the library checks the signature alone, with a key that it has read.
fn openpgp() -> Check {
    let builder = CertBuilder::new().add_userid("owner").add_signing_subkey();
    let (certificate, _) = builder.generate().unwrap();
    let content = simple_payload(&Digest::sha256_of(b""));
    let mut ring = Vec::new();
    certificate.serialize(&mut ring).unwrap();
    let mut keys = Keyrings::default();
    keys.add(&ring).unwrap();
    let now = SystemTime::now();
    let open = |message: Vec<u8>| open_simple(&keys, &message, now, Hashes::Strong).unwrap();
    // The library remembers what it has verified, so that each time takes a message of its own.
    let message = || sign_message(&certificate, &content);
    let signature = || {
        let packets = PacketPile::from_bytes(&message()).unwrap();
        let found = packets.into_children().find_map(|packet| match packet {
            Packet::Signature(signature) => Some(signature),
            _ => None,
        });
        found.unwrap()
    };

    let policy = StandardPolicy::new();
    let signing = certificate.keys().with_policy(&policy, now).for_signing();
    let key = signing.subkeys().next().unwrap().key().clone();
    let verify = |signature: Signature| signature.verify_message(&key, &content).unwrap();
    Check::new("OpenPGP", &(message, open), &(signature, verify))
}

fn sign_message(certificate: &Cert, content: &[u8]) -> Vec<u8> {
    let policy = StandardPolicy::new();
    let keys = certificate.keys().secret().with_policy(&policy, None);
    let key = keys.for_signing().subkeys().next().unwrap().key().clone();
    let mut message = Vec::new();
    let signer = Signer::new(Message::new(&mut message), key.into_keypair().unwrap());
    let signer = signer.unwrap().build().unwrap();
    let mut literal = LiteralWriter::new(signer).build().unwrap();
    literal.write_all(content).unwrap();
    literal.finalize().unwrap();
    message
}

fn simple_payload(digest: &Digest) -> Vec<u8> {
    let critical = json!({
        "identity": {"docker-reference": format!("{REPOSITORY}:1")},
        "image": {"docker-manifest-digest": digest},
        "type": "atomic container signature",
    });
    let payload = json!({"critical": critical, "optional": {}});
    payload.to_string().into_bytes()
}

fn pem(spki: &[u8]) -> String {
    let body = STANDARD.encode(spki);
    format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
}

fn document(signer: &EcdsaKeyPair) -> Vec<u8> {
    let der: PublicKeyX509Der<'_> = signer.public_key().as_der().unwrap();
    let key = STANDARD.encode(pem(der.as_ref()));
    let requirement = json!({"type": "sigstoreSigned", "keyData": key});
    let mut scopes: serde_json::Map<String, Value> = (1..SCOPES)
        .map(|number| {
            (
                format!("registry.example/team-{number}/app"),
                json!([requirement]),
            )
        })
        .collect();
    scopes.insert("registry.example".to_owned(), json!([requirement]));
    let document = json!({"default": [{"type": "reject"}], "transports": {"docker": scopes}});
    document.to_string().into_bytes()
}

fn manifest() -> Unverified<Manifest> {
    let descriptor =
        |kind: &str| json!({"mediaType": kind, "digest": Digest::sha256_of(b"{}"), "size": 2});
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json"),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip")],
    });
    let reference = ImageRef::parse_edge(&format!("{REPOSITORY}:1")).unwrap();
    let raw = manifest.to_string().into_bytes();
    match Document::parse(&reference, Some(OCI_MANIFEST), raw).unwrap() {
        Document::Manifest(manifest) => manifest,
        Document::Index(_) => panic!("this is no index"),
    }
}

fn sign(signer: &EcdsaKeyPair, digest: &Digest) -> CosignSignature {
    let payload = payload(digest);
    let signature = signer.sign(&SystemRandom::new(), &payload).unwrap();
    let annotation = "dev.cosignproject.cosign/signature".to_owned();
    CosignSignature {
        found: "made here".to_owned(),
        media_type: COSIGN_PAYLOAD.to_owned(),
        payload: Ok(payload),
        annotations: BTreeMap::from([(annotation, STANDARD.encode(signature.as_ref()))]),
    }
}

fn payload(digest: &Digest) -> Vec<u8> {
    let critical = json!({
        "identity": {"docker-reference": REPOSITORY},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    });
    let payload = json!({"critical": critical, "optional": null});
    payload.to_string().into_bytes()
}

/// The median time of many.
fn median<I, T>(prepare: impl Fn() -> I, run: impl Fn(I) -> T) -> Duration {
    middle((0..RUNS).map(|_| once(&prepare, &run)).collect())
}

/// What is made before and dropped after does not count.
fn once<I, T>(prepare: impl Fn() -> I, run: impl Fn(I) -> T) -> Duration {
    let input = prepare();
    let start = cpu_time();
    let result = run(input);
    let time = cpu_time().saturating_sub(start);
    drop(result);
    time
}

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap())
}

const SCOPES: u32 = 1000;
const SIGNATURES: u32 = 20;
const RUNS: u32 = 201;
const MOST: Duration = Duration::from_millis(5);
const REPOSITORY: &str = "registry.example/team/app";
