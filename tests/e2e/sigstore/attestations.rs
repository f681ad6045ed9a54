//! Attestations: what somebody says about an image, and whether that is enough.

use kit::client::Code;
use kit::cosign::Signature;
use kit::image::Image;
use kit::scene::KEY;
use kit::sigstore::{
    Attached, Bundle, Identity, Sigstore, Statement, attestation_image, attestation_tag,
    logged_attestation_image, predicate,
};
use serde_json::{Value, json};

use super::evidence::{ISSUER, by_dev, dev};
use super::{ROOT, Stage, stranger};
use crate::{DENIED, assert_says};

const BUILDER: &str = "https://builder.example/trusted";
const SOURCE: &str = "https://github.com/acme/app";

/// A requirement of a statement by the owner's key.
fn attested(predicate_type: &str, conditions: &Value) -> Value {
    let mut requirement = json!({
        "type": "attestedBy",
        "predicateType": predicate_type,
        "keyPath": format!("kbs:///{KEY}"),
    });
    if conditions != &json!([]) {
        requirement["conditions"] = conditions.clone();
    }
    requirement
}

#[tokio::test(flavor = "multi_thread")]
async fn attestations_of_old_and_new_are_found_and_their_conditions_hold_or_not() {
    let stage = Stage::set().await;
    let image = Image::small("attested");
    let digest = image.digest();
    let reference = stage.push("team/app:1", &image).await;
    let key = &stage.scene.key;
    // Old: under the tag. New: referring to the image.
    let provenance = Bundle::keyed(key, &Statement::slsa(&digest, BUILDER, SOURCE));
    let strange = Bundle::keyed(&stranger(), &Statement::slsa(&digest, BUILDER, SOURCE));
    let tag = format!("team/app:{}", attestation_tag(&digest));
    let attestations = attestation_image([&strange, &provenance]);
    stage.scene.registry.push(&tag, &attestations).await;
    let attached = [Statement::spdx(&digest), Statement::vuln(&digest, 2)]
        .map(|statement| Attached::bundle(&image, &Bundle::keyed(key, &statement)));
    stage.refer("team/app", &image, &attached).await;
    let daemon = stage.guest.start().await;
    let builder = |id: &str| json!([{"pointer": "/runDetails/builder/id", "equals": id}]);
    let critical = |most: u64| json!([{"pointer": "/scanner/result/critical", "atMost": most}]);
    for (case, requirement, words) in [
        ("provenance", attested(predicate::SLSA, &json!([])), &[][..]),
        (
            "by that builder",
            attested(predicate::SLSA, &builder(BUILDER)),
            &[],
        ),
        (
            "by another builder",
            attested(predicate::SLSA, &builder("https://evil.example")),
            &["/runDetails/builder/id"],
        ),
        (
            "a bill of materials",
            attested(predicate::SPDX, &json!([])),
            &[],
        ),
        ("few critical", attested(predicate::VULN, &critical(2)), &[]),
        (
            "fewer critical",
            attested(predicate::VULN, &critical(1)),
            &["/scanner/result/critical"],
        ),
        // CVE-2022-35929: no attestation of the type is no attestation.
        (
            "of no such type",
            attested("https://example.com/none", &json!([])),
            &["https://example.com/none"],
        ),
    ] {
        stage.demand(&requirement);
        if words.is_empty() {
            stage.delivers(&daemon, case, &reference).await;
            continue;
        }
        let refusal = daemon.refuses(&reference, &stage.guest.bundle("c1")).await;
        assert_eq!(refusal.code, Code::PERMISSION_DENIED, "{case}: {refusal:?}");
        assert_says(case, &refusal.message, &[DENIED]);
        assert_says(case, &refusal.message, words);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn provenance_by_a_workflow_counts_and_is_no_signature() {
    let stage = Stage::set().await;
    let image = Image::small("built by a workflow");
    let reference = stage.push("team/app:1", &image).await;
    let identity = Identity::github("acme/app", "release.yml", "refs/heads/main");
    let statement = Statement::slsa(&image.digest(), BUILDER, SOURCE);
    let bundle = stage.services.ceremony(identity).sign(&statement);
    let attached = [Attached::bundle(&image, &bundle)];
    stage.refer("team/app", &image, &attached).await;
    let daemon = stage.guest.start().await;
    let mut requirement = json!({
        "type": "attestedBy",
        "predicateType": predicate::SLSA,
        "trustedRoot": format!("kbs:///{ROOT}"),
        "identities": [{
            "subjectRegExp": "https://github\\.com/acme/.*",
            "issuer": kit::sigstore::GITHUB_ISSUER,
        }],
    });
    stage.demand(&requirement);
    stage.delivers(&daemon, "attested", &reference).await;
    requirement["type"] = "sigstoreSigned".into();
    requirement.as_object_mut().unwrap().remove("predicateType");
    stage.demand(&requirement);
    let refusal = daemon.refuses(&reference, &stage.guest.bundle("c1")).await;
    let words = [DENIED, predicate::SLSA, predicate::SIGNATURE];
    assert_says("no signature", &refusal.message, &words);
}

/// What `cosign attest` 2 leaves under the tag for one who logs in.
#[expect(clippy::too_many_lines, reason = "a table")]
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_beside_an_envelope_attests_as_one_in_a_bundle_does() {
    type Make = fn(&Sigstore, &Statement) -> Signature;
    let stage = Stage::set().await;
    let daemon = stage.guest.start().await;
    let rows: [(&str, Value, Make, &[&str]); 6] = [
        (
            "everything",
            json!({}),
            |services, statement| dev(services).sign_attestation(statement),
            &[],
        ),
        (
            "no log",
            json!({}),
            |services, statement| dev(services).without_log().sign_attestation(statement),
            &["no entry of a transparency log"],
        ),
        (
            "no certificate log",
            json!({}),
            |services, statement| {
                let signer = dev(services).without_certificate_log();
                signer.sign_attestation(statement)
            },
            &["SCT"],
        ),
        (
            "a timestamp, which is of something else",
            json!({"timestamp": true}),
            |services, statement| dev(services).sign_attestation(statement),
            &["no timestamp by an authority"],
        ),
        (
            "somebody else",
            json!({}),
            |services, statement| {
                let other = Identity::email("else@example.com", ISSUER);
                services.ceremony(other).sign_attestation(statement)
            },
            &["else@example.com"],
        ),
        (
            "the evidence of another one",
            json!({}),
            |services, statement| {
                let other = dev(services).sign_attestation(statement);
                Signature {
                    evidence: other.evidence,
                    ..dev(services).sign_attestation(statement)
                }
            },
            &["does not count"],
        ),
    ];
    for (case, evidence, make, words) in rows {
        let image = Image::small(case);
        let reference = stage.push("team/app:1", &image).await;
        let statement = Statement::slsa(&image.digest(), BUILDER, SOURCE);
        let attestation = logged_attestation_image([make(&stage.services, &statement)]);
        let tag = format!("team/app:{}", attestation_tag(&image.digest()));
        stage.scene.registry.push(&tag, &attestation).await;
        let mut requirement = by_dev(&evidence);
        requirement["type"] = "attestedBy".into();
        requirement["predicateType"] = predicate::SLSA.into();
        stage.demand(&requirement);
        if words.is_empty() {
            stage.delivers(&daemon, case, &reference).await;
            continue;
        }
        let refusal = daemon.refuses(&reference, &stage.guest.bundle("c1")).await;
        assert_says(case, &refusal.message, &[DENIED]);
        assert_says(case, &refusal.message, words);
    }
}
