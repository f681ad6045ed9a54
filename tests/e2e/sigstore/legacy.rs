//! Certificates beside signatures under the tag `.sig`, as cosign 1 and 2 write them: the evidence
//! is in annotations, and the same rules hold for it as for that of a bundle.

use kit::client::Code;
use kit::cosign::{Claim, Signature};
use kit::image::Image;
use kit::sigstore::{Identity, Sigstore};
use serde_json::{Value, json};

use super::Stage;
use super::evidence::{EMAIL, ISSUER, by, by_dev, dev};
use crate::{DENIED, assert_says};

const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
const CHAIN: &str = "dev.sigstore.cosign/chain";
const BUNDLE: &str = "dev.sigstore.cosign/bundle";

/// How a signature is made of a payload.
type Make = fn(&Sigstore, &[u8]) -> Signature;

/// A signature without one of its annotations.
fn without(mut signature: Signature, annotation: &str) -> Signature {
    signature.evidence.retain(|(name, _)| *name != annotation);
    signature
}

/// A signature with an annotation of another.
pub(super) fn with_of(mut signature: Signature, annotation: &str, other: &Signature) -> Signature {
    for (name, text) in &mut signature.evidence {
        let theirs = other.evidence.iter().find(|(theirs, _)| theirs == name);
        if *name == annotation {
            let (_, theirs) = theirs.expect("the other has it as well");
            theirs.clone_into(text);
        }
    }
    signature
}

impl Stage {
    /// Puts this one signature under the tag of an image of its own, and pulls that.
    pub(super) async fn judge_signature(
        &self,
        case: &str,
        requirement: &Value,
        make: impl Fn(&Sigstore, &[u8]) -> Signature,
        words: &[&str],
    ) {
        let image = Image::small(case);
        let reference = self.push("team/app:1", &image).await;
        let repository = format!("{}/team/app", self.front.host());
        let payload = Claim::of(&repository, &image.digest()).payload();
        let signature = make(&self.services, &payload);
        self.scene
            .push_signatures("team/app", &image.digest(), [signature])
            .await;
        self.demand(requirement);
        let daemon = self.guest.start().await;
        if words.is_empty() {
            return self.delivers(&daemon, case, &reference).await;
        }
        let refusal = daemon.refuses(&reference, &self.guest.bundle("c1")).await;
        assert_eq!(refusal.code, Code::PERMISSION_DENIED, "{case}: {refusal:?}");
        assert_says(case, &refusal.message, &[DENIED]);
        assert_says(case, &refusal.message, words);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_in_annotations_counts_as_one_in_a_bundle_does() {
    let stage = Stage::set().await;
    let (all, no_log) = (by_dev(&json!({})), by_dev(&json!({"tlog": false})));
    let identities = json!([{"subject": EMAIL, "issuer": ISSUER}]);
    let named = by(
        &identities,
        &json!({"signedIdentity": {"type": "matchRepository"}}),
    );
    let rows: [(&str, &Value, Make); 5] = [
        ("everything", &all, |services, payload| {
            dev(services).sign_payload(payload)
        }),
        ("a name that is wanted", &named, |services, payload| {
            dev(services).sign_payload(payload)
        }),
        ("no timestamp", &all, |services, payload| {
            dev(services).without_timestamp().sign_payload(payload)
        }),
        ("no chain", &all, |services, payload| {
            without(dev(services).sign_payload(payload), CHAIN)
        }),
        ("no log, none wanted", &no_log, |services, payload| {
            dev(services).without_log().sign_payload(payload)
        }),
    ];
    for (case, requirement, make) in rows {
        stage.judge_signature(case, requirement, make, &[]).await;
    }
}

/// TOB-SIGSTORE-6: what one way of verifying demanded, another one did not.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_in_annotations_needs_the_evidence_that_one_in_a_bundle_needs() {
    let stage = Stage::set().await;
    let (all, no_log) = (by_dev(&json!({})), by_dev(&json!({"tlog": false})));
    let rows: [(&str, &Value, Make, &[&str]); 5] = [
        (
            "no log",
            &all,
            |services, payload| dev(services).without_log().sign_payload(payload),
            &["no entry of a transparency log"],
        ),
        (
            "no log, none wanted, no time",
            &no_log,
            |services, payload| {
                let signer = dev(services).without_log().without_timestamp();
                signer.sign_payload(payload)
            },
            &["time"],
        ),
        (
            "no certificate log",
            &all,
            |services, payload| {
                dev(services)
                    .without_certificate_log()
                    .sign_payload(payload)
            },
            &["SCT"],
        ),
        (
            "no certificate",
            &all,
            |services, payload| without(dev(services).sign_payload(payload), CERTIFICATE),
            &["it has no annotation dev.sigstore.cosign/certificate"],
        ),
        (
            "a certificate of somebody else",
            &all,
            |services, payload| {
                let other = Identity::email("else@example.com", ISSUER);
                services.ceremony(other).sign_payload(payload)
            },
            &["else@example.com"],
        ),
    ];
    for (case, requirement, make, words) in rows {
        stage.judge_signature(case, requirement, make, words).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_in_annotations_is_of_a_trusted_root_and_of_this_signature() {
    let stage = Stage::set().await;
    let wanted = by_dev(&json!({}));
    let rows: [(&str, Make); 3] = [
        ("services with a root of their own", |_services, payload| {
            dev(&Sigstore::mint()).sign_payload(payload)
        }),
        (
            "the certificate of another signature",
            |services, payload| {
                let other = dev(services).sign_payload(payload);
                with_of(dev(services).sign_payload(payload), CERTIFICATE, &other)
            },
        ),
        ("another payload", |services, payload| {
            let other = [payload, b" "].concat();
            dev(services).sign_payload(payload).over(other)
        }),
    ];
    for (case, make) in rows {
        stage
            .judge_signature(case, &wanted, make, &["does not count"])
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_in_annotations_signs_for_its_digest_and_its_repository() {
    let stage = Stage::set().await;
    let wanted = by_dev(&json!({}));
    let other = "sha256:".to_owned() + &"0".repeat(64);
    let elsewhere = |services: &Sigstore, payload: &[u8]| {
        let payload = String::from_utf8(payload.to_vec()).unwrap();
        let payload = payload.replace("/team/app", "/team/other");
        dev(services).sign_payload(payload.as_bytes())
    };
    stage
        .judge_signature("repository", &wanted, elsewhere, &["team/other"])
        .await;
    let of_other = |services: &Sigstore, _payload: &[u8]| {
        let repository = format!("{}/team/app", stage.front.host());
        dev(services).sign_payload(&Claim::of(&repository, &other).payload())
    };
    let words = ["it is for the digest", other.as_str()];
    stage
        .judge_signature("digest", &wanted, of_other, &words)
        .await;
}

/// CVE-2026-22703: the promise of a log was checked, and not what it promises.
#[tokio::test(flavor = "multi_thread")]
async fn promise_of_a_log_must_be_for_this_signature() {
    let stage = Stage::set().await;
    let wanted = by_dev(&json!({}));
    let swapped = |services: &Sigstore, payload: &[u8]| {
        let other = dev(services).sign_payload(payload);
        with_of(dev(services).sign_payload(payload), BUNDLE, &other)
    };
    stage
        .judge_signature("swapped", &wanted, swapped, &["does not count"])
        .await;
    let of_other_content = |services: &Sigstore, payload: &[u8]| {
        let other = dev(services).sign_payload(b"other content");
        with_of(dev(services).sign_payload(payload), BUNDLE, &other)
    };
    stage
        .judge_signature("content", &wanted, of_other_content, &["does not count"])
        .await;
}
