//! What a decision costs beside its signature checks: 1,000 scopes, 20 signatures.
//!
//! Reading the policy, once for each time that it is fetched, is shown by itself.
//! `cargo run --release -p policy --example decide_bench`; fails when it is not under 5 ms. One
//! thread and nothing to wait for, so the shortest time of many is the CPU time.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    reason = "an example that reports to people"
)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
    ParsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use policy::{
    COSIGN_PAYLOAD, CosignSignature, Digest, Document, Evidence, ImageRef, Manifest, OCI_MANIFEST,
    Policy, Unverified,
};
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

    let read = shortest(|| (), |()| Policy::parse(&document).unwrap());
    let policy = Policy::parse(&document).unwrap();
    let decide = shortest(manifest, |manifest| {
        let rules = policy.rules_for(manifest.reference());
        let needs = rules.needs(&manifest);
        (needs, rules.decide(manifest, &evidence).unwrap())
    });
    let verify = verify_time(counts);
    let checks = verify * SIGNATURES;
    let apart = decide.saturating_sub(checks);
    println!(
        "reading a policy of {SCOPES} scopes, {} KiB   {read:>10.1?}",
        document.len() >> 10
    );
    println!("deciding over {SIGNATURES} signatures            {decide:>10.1?}");
    println!("one check by aws-lc-rs                {verify:>10.1?}");
    println!("{SIGNATURES} checks                             {checks:>10.1?}");
    println!("apart from the checks                 {apart:>10.1?}  (at most {MOST:?})");
    if apart < MOST {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn document(signer: &EcdsaKeyPair) -> Vec<u8> {
    let der: PublicKeyX509Der<'_> = signer.public_key().as_der().unwrap();
    let body = STANDARD.encode(der.as_ref());
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n");
    let requirement = json!({"type": "sigstoreSigned", "keyData": STANDARD.encode(pem)});
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

fn verify_time(signer: &EcdsaKeyPair) -> Duration {
    let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, signer.public_key().as_ref()).unwrap();
    let message = payload(&Digest::sha256_of(b""));
    let signature = signer.sign(&SystemRandom::new(), &message).unwrap();
    shortest(
        || (),
        |()| key.verify_sig(&message, signature.as_ref()).unwrap(),
    )
}

/// The shortest time of many; what is made before and dropped after does not count.
fn shortest<I, T>(prepare: impl Fn() -> I, run: impl Fn(I) -> T) -> Duration {
    let once = |_| {
        let input = prepare();
        let start = Instant::now();
        let result = run(input);
        let time = start.elapsed();
        drop(result);
        time
    };
    (0..RUNS).map(once).min().unwrap_or_default()
}

const SCOPES: u32 = 1000;
const SIGNATURES: u32 = 20;
const RUNS: u32 = 200;
const MOST: Duration = Duration::from_millis(5);
const REPOSITORY: &str = "registry.example/team/app";
