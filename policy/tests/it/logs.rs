//! Keyed cosign signatures that a transparency log must have taken in.

use std::sync::LazyLock;

use aws_lc_rs::signature::Ed25519KeyPair;
use policy::{
    CosignSignature, Digest, Evidence, Grounds, KeyError, LogKey, LogProblem, Outcome, Refusal,
    SignatureProblem, UntrustedLogEntry,
};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use crate::holders::{BUNDLE, TIME, flip_text, log_body, promise};
use crate::support::{
    KEY, NAME, REPOSITORY, SIGNATURE, Signer, decide, decision, manifest_bytes, policy, resolve,
};

const OTHER_KEY: &str = "kbs:///default/cosign-key/2";
const LOG: &str = "kbs:///default/rekor-key/1";

struct Scene {
    log: Signer,
    signer: Signer,
    other: Signer,
}

impl Scene {
    fn new() -> Self {
        Self {
            log: Signer::new(),
            signer: Signer::new(),
            other: Signer::new(),
        }
    }

    fn signature(&self) -> CosignSignature {
        let digest = Digest::sha256_of(&manifest_bytes());
        self.signer.attach(&digest, REPOSITORY)
    }

    /// A signature with a promise of the log, whose entry is changed first.
    fn logged(&self, change: impl FnOnce(&mut Value)) -> CosignSignature {
        let mut signature = self.signature();
        let mut body = log_body(&signature, &self.signer.pem());
        change(&mut body);
        let bundle = promise(&self.log, &body, TIME).to_string();
        signature.annotations.insert(BUNDLE.to_owned(), bundle);
        signature
    }

    fn decide(&self, signature: CosignSignature) -> (Outcome, Option<SignatureProblem>) {
        let mut evidence = Evidence::default();
        for (location, signer) in [
            (KEY, &self.signer),
            (OTHER_KEY, &self.other),
            (LOG, &self.log),
        ] {
            let pem = Ok(signer.pem().into_bytes());
            evidence.resources.insert(location.to_owned(), pem);
        }
        let digest = Digest::sha256_of(&manifest_bytes());
        evidence.cosign.insert(digest, Ok(vec![signature]));
        let requirement = json!([{
            "type": "sigstoreSigned",
            "keyPaths": [OTHER_KEY, KEY],
            "rekorPublicKeyPath": LOG,
        }]);
        let manifest = resolve(NAME, manifest_bytes());
        let policy = policy(&requirement);
        let needs = policy.rules_for(manifest.reference()).needs(&manifest);
        let wanted: Vec<_> = needs.resources.iter().collect();
        assert_eq!(wanted, [KEY, OTHER_KEY, LOG]);
        let answer = decide(&policy, manifest, &evidence);
        let finding = decision(&answer).findings()[0].clone();
        let problem = finding.rejected.first().map(|found| found.problem.clone());
        (finding.outcome, problem)
    }

    fn problem(&self, change: impl FnOnce(&mut Value)) -> LogProblem {
        match self.decide(self.logged(change)) {
            (
                Outcome::Refused(Refusal::NoneCounts { found: 1 }),
                Some(SignatureProblem::Log(problem)),
            ) => problem,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_logged_signature_counts_and_the_record_says_when_it_was_logged() {
    let scene = Scene::new();
    let (outcome, _) = scene.decide(scene.logged(|_| {}));
    let Outcome::Met(Grounds::Signature(proof)) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(proof.logged_at, Some(TIME));
    assert_eq!(proof.certificate, None);
}

#[test]
fn a_signature_that_nobody_logged_does_not_count() {
    let scene = Scene::new();
    let (_, problem) = scene.decide(scene.signature());
    assert_eq!(problem, Some(SignatureProblem::NoBundle));
}

#[test]
fn binding_1_an_entry_about_another_key_does_not_count() {
    let scene = Scene::new();
    let stranger = Signer::new();
    let problem = scene.problem(|body| {
        *body = log_body(&scene.signature(), &stranger.pem());
    });
    assert_eq!(problem, LogProblem::OtherSigner);
}

#[test]
fn binding_2_an_entry_about_another_signature_does_not_count() {
    let scene = Scene::new();
    let problem = scene.problem(|body| {
        let other = scene.other.attach_payload(b"other".to_vec());
        body["spec"]["signature"]["content"] = json!(other.annotations[SIGNATURE]);
    });
    assert_eq!(problem, LogProblem::OtherSignature);
}

#[test]
fn binding_3_an_entry_about_another_hash_does_not_count() {
    let scene = Scene::new();
    let problem = scene.problem(|body| {
        body["spec"]["data"]["hash"]["algorithm"] = json!("sha512");
    });
    let found = "sha512".to_owned();
    assert_eq!(problem, LogProblem::OtherHash { found });
}

#[test]
fn binding_4_an_entry_about_other_content_does_not_count() {
    let scene = Scene::new();
    let found = Digest::sha256_of(b"other").hex();
    let problem = scene.problem(|body| {
        body["spec"]["data"]["hash"]["value"] = json!(found);
    });
    let payload = scene.signature().payload.unwrap();
    let expected = Digest::sha256_of(&payload);
    assert_eq!(problem, LogProblem::OtherContent { expected, found });
}

#[test]
fn of_several_keys_only_the_one_that_was_logged_may_have_signed() {
    let scene = Scene::new();
    // The policy trusts both keys, and the entry names the other one with this one's signature.
    let signature = scene.logged(|body| {
        *body = log_body(&scene.signature(), &scene.other.pem());
    });
    let mut logged = signature.clone();
    let body = log_body(&logged, &scene.other.pem());
    let bundle = promise(&scene.log, &body, TIME).to_string();
    logged.annotations.insert(BUNDLE.to_owned(), bundle);
    let (_, problem) = scene.decide(logged);
    assert_eq!(problem, Some(SignatureProblem::OtherKey { tried: 1 }));
}

#[test]
fn what_a_log_did_not_sign_proves_nothing() {
    let scene = Scene::new();
    let signature = scene.signature();
    let body = log_body(&signature, &scene.signer.pem());
    let stranger = promise(&Signer::new(), &body, TIME);
    let honest = promise(&scene.log, &body, TIME);
    let changed = |key: &str, value: Value| {
        let mut bundle = honest.clone();
        bundle["Payload"][key] = value;
        bundle
    };
    let rows = [
        ("another log", stranger),
        (
            "an earlier time",
            changed("integratedTime", json!(TIME - 1)),
        ),
        ("another place", changed("logIndex", json!(43))),
        ("another id", changed("logID", json!("00"))),
        ("another body", changed("body", json!("e30="))),
    ];
    for (row, bundle) in rows {
        let mut signature = signature.clone();
        let bundle = bundle.to_string();
        signature.annotations.insert(BUNDLE.to_owned(), bundle);
        let (_, problem) = scene.decide(signature);
        let expected = SignatureProblem::Log(LogProblem::OtherLog { tried: 1 });
        assert_eq!(problem, Some(expected), "{row}");
    }
}

#[test]
fn entries_of_another_kind_prove_nothing() {
    let scene = Scene::new();
    for (member, value) in [("kind", "intoto"), ("apiVersion", "0.0.2")] {
        let problem = scene.problem(|body| body[member] = json!(value));
        let (mut kind, mut version) = ("hashedrekord".to_owned(), "0.0.1".to_owned());
        let changed = if member == "kind" {
            &mut kind
        } else {
            &mut version
        };
        value.clone_into(changed);
        assert_eq!(problem, LogProblem::Kind { kind, version });
    }
    let more = scene.problem(|body| body["spec"]["more"] = json!({}));
    assert!(matches!(more, LogProblem::Json(_)), "{more}");
    let label = scene.problem(|body| {
        *body = log_body(
            &scene.signature(),
            &scene.signer.pem().replace("PUBLIC KEY", "PRIVATE KEY"),
        );
    });
    let found = "PRIVATE KEY".to_owned();
    assert_eq!(label, LogProblem::SignerLabel { found });
    let twice = scene.problem(|body| {
        let pem = scene.signer.pem();
        *body = log_body(&scene.signature(), &format!("{pem}{pem}"));
    });
    assert_eq!(twice, LogProblem::Signer(policy::PemError::NotOneBlock));
}

#[test]
fn a_bundle_has_one_reading() {
    let scene = Scene::new();
    let body = log_body(&scene.signature(), &scene.signer.pem());
    let text = promise(&scene.log, &body, TIME).to_string();
    assert!(UntrustedLogEntry::parse(text.as_bytes()).is_ok());
    let rows = [
        (
            "a key twice",
            "\"logIndex\":42",
            "\"logIndex\":42,\"logIndex\":42",
        ),
        (
            "a key more",
            "\"logIndex\":42",
            "\"logIndex\":42,\"more\":0",
        ),
        ("a key less", ",\"logIndex\":42", ""),
        ("a key in lower case", "\"Payload\"", "\"payload\""),
        (
            "a negative time",
            "\"integratedTime\":",
            "\"integratedTime\":-",
        ),
        ("a fraction", "\"logIndex\":42", "\"logIndex\":42.0"),
        ("a text", "\"logIndex\":42", "\"logIndex\":\"42\""),
    ];
    for (row, from, to) in rows {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{row}");
        let error = UntrustedLogEntry::parse(changed.as_bytes()).unwrap_err();
        assert!(matches!(error, LogProblem::Json(_)), "{row}: {error}");
    }
    let padded = format!("{text}{}", " ".repeat(64 << 10));
    assert_eq!(
        UntrustedLogEntry::parse(padded.as_bytes()),
        Err(LogProblem::TooLarge {
            limit: 64 << 10,
            found: padded.len(),
        })
    );
    let large = text.replacen("\"logIndex\":42", "\"logIndex\":9007199254740992", 1);
    assert_eq!(
        UntrustedLogEntry::parse(large.as_bytes()),
        Err(LogProblem::Inexact { found: 1 << 53 })
    );
}

#[test]
fn logs_have_ecdsa_keys() {
    let other = Signer::Ed25519(Ed25519KeyPair::generate().unwrap());
    let error = LogKey::from_pem(other.pem().as_bytes()).unwrap_err();
    assert_eq!(error, KeyError::NotEcdsa);
    let scene = Scene {
        log: other,
        ..Scene::new()
    };
    let (outcome, _) = scene.decide(scene.logged(|_| {}));
    let expected = Refusal::KeyUnusable {
        location: LOG.to_owned(),
        problem: KeyError::NotEcdsa,
    };
    assert_eq!(outcome, Outcome::Refused(expected));
}

static SCENE: LazyLock<Scene> = LazyLock::new(Scene::new);

proptest! {
    #[test]
    fn a_changed_byte_of_a_logged_signature_never_yields_an_approval(
        at in any::<Index>(),
        by in 1_u8..=127,
        part in 0_u8..3,
    ) {
        let mut signature = SCENE.logged(|_| {});
        match part {
            0 => flip_text(signature.annotations.get_mut(BUNDLE).unwrap(), at, by),
            1 => flip_text(signature.annotations.get_mut(SIGNATURE).unwrap(), at, by),
            _ => {
                let payload = signature.payload.as_mut().unwrap();
                let at = at.index(payload.len());
                payload[at] ^= by;
            }
        }
        let (outcome, _) = SCENE.decide(signature);
        prop_assert!(!matches!(outcome, Outcome::Met(_)));
    }
}
