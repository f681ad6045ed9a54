//! What the advisories about Sigstore's clients teach, one test for each: not who was vulnerable,
//! but what must not happen.
//!
//! More stand elsewhere: among the signatures of old `promise_of_a_log_must_be_for_this_signature`
//! (CVE-2026-22703) and `a_certificate_in_annotations_needs_the_evidence_that_one_in_a_bundle_needs`
//! (TOB-SIGSTORE-6), and the repository that a bundle does not name in `names`.

use std::time::{Duration, Instant};

use kit::client::Code;
use kit::image::Image;
use kit::scene::KEY;
use kit::sigstore::{
    Attached, Bundle, Identity, MEDIA_TYPE, Moment, Sigstore, Statement, Version,
    attestation_image, attestation_tag, predicate,
};
use serde_json::{Value, json};

use super::evidence::{Case, ENTRY, ISSUER, STAMP, by, by_dev, case, dev};
use super::{ROOT, Stage, stranger};
use crate::{DENIED, assert_says};

/// A bundle that dev did not make like this.
fn made(
    name: &'static str,
    make: impl Fn(&Sigstore, &Statement) -> Bundle + 'static,
    words: &'static [&'static str],
) -> Case {
    Case {
        name,
        requirement: by_dev(&json!({})),
        make: Box::new(make),
        words,
    }
}

/// A bundle of dev's that was changed afterwards.
fn changed(
    name: &'static str,
    change: impl Fn(&mut Value) + 'static,
    words: &'static [&'static str],
) -> Case {
    let make = move |services: &Sigstore, statement: &Statement| {
        dev(services).sign(statement).edit(&change)
    };
    made(name, make, words)
}

/// A bundle whose log entry is that of another one.
fn with_entry_of(bundle: Bundle, other: &Bundle) -> Bundle {
    let entry = other.json().pointer(ENTRY).expect("it is logged").clone();
    bundle.edit(|json| *json.pointer_mut(ENTRY).expect("it is logged") = entry)
}

/// Each of these is refused, and before and after them an honest one counts.
async fn refused(cases: impl IntoIterator<Item = Case>) {
    let stage = Stage::set().await;
    let honest = |name| case(name, &json!({}), |one| one, &[]);
    let mut all = vec![honest("honest")];
    all.extend(cases);
    all.push(honest("honest to the end"));
    stage.judge(all).await;
}

/// CVE-2022-23649: the entry was of something else than the signature.
#[tokio::test(flavor = "multi_thread")]
async fn log_entry_must_be_of_this_signature() {
    let of_another = |services: &Sigstore, statement: &Statement| {
        let other = dev(services).sign(&statement.clone().annotated("other", "one"));
        with_entry_of(dev(services).sign(statement), &other)
    };
    let of_a_second = |services: &Sigstore, statement: &Statement| {
        let second = dev(services).sign(statement);
        with_entry_of(dev(services).sign(statement), &second)
    };
    refused([
        made("of another statement", of_another, &["does not count"]),
        made("of a second signing", of_a_second, &["does not count"]),
    ])
    .await;
}

/// CVE-2022-35929: with attestations of other types alone the answer was yes.
#[tokio::test(flavor = "multi_thread")]
async fn without_an_attestation_of_the_wanted_type_the_answer_is_no() {
    let stage = Stage::set().await;
    let image = Image::small("attested otherwise");
    let digest = image.digest();
    let reference = stage.push("team/app:1", &image).await;
    stage.demand(&json!({
        "type": "attestedBy",
        "predicateType": predicate::SLSA,
        "keyPath": format!("kbs:///{KEY}"),
    }));
    let daemon = stage.guest.start().await;
    let refusal = daemon.refuses(&reference, &stage.guest.bundle("c1")).await;
    assert_says("none", &refusal.message, &[DENIED]);
    let attached = [Statement::spdx(&digest), Statement::vuln(&digest, 0)]
        .map(|statement| Bundle::keyed(&stage.scene.key, &statement))
        .map(|bundle| Attached::bundle(&image, &bundle));
    stage.refer("team/app", &image, &attached).await;
    let refusal = daemon.refuses(&reference, &stage.guest.bundle("c1")).await;
    assert_eq!(refusal.code, Code::PERMISSION_DENIED, "{refusal:?}");
    let words = [DENIED, predicate::SLSA, predicate::SPDX, predicate::VULN];
    assert_says("others", &refusal.message, &words);
}

/// CVE-2022-36056: an entry by somebody else counted, and an invalid one ended the check with yes.
#[tokio::test(flavor = "multi_thread")]
async fn log_entry_must_be_by_this_signer_and_valid() {
    let of_another = |services: &Sigstore, statement: &Statement| {
        let other = services.ceremony(Identity::email("else@example.com", ISSUER));
        with_entry_of(dev(services).sign(statement), &other.sign(statement))
    };
    let of_another_log = |services: &Sigstore, statement: &Statement| {
        let other = dev(&Sigstore::mint()).sign(statement);
        with_entry_of(dev(services).sign(statement), &other)
    };
    let second = |json: &mut Value| {
        let entries = json["verificationMaterial"]["tlogEntries"].as_array_mut();
        let entries = entries.expect("a list");
        let mut invalid = entries[0].clone();
        invalid["canonicalizedBody"] = "e30=".into();
        entries.push(invalid);
    };
    refused([
        made("by another signer", of_another, &["does not count"]),
        made("by another log", of_another_log, &["does not count"]),
        changed("an invalid one beside it", second, &["does not count"]),
        changed(
            "of an unknown kind",
            |json| {
                let kind = json!({"kind": "unknown", "version": "0.0.1"});
                json["verificationMaterial"]["tlogEntries"][0]["kindVersion"] = kind;
            },
            &["does not count"],
        ),
        changed(
            "of another kind than it says",
            |json| {
                let kind = json!({"kind": "intoto", "version": "0.0.2"});
                json["verificationMaterial"]["tlogEntries"][0]["kindVersion"] = kind;
            },
            &["of kind \"dsse 0.0.1\"", "says \"intoto 0.0.2\""],
        ),
    ])
    .await;
}

/// CVE-2023-46737: a registry that lists attestations without end held the client up.
#[tokio::test(flavor = "multi_thread")]
async fn attestations_are_looked_at_up_to_a_limit() {
    let stage = Stage::set().await;
    let image = Image::small("attested often");
    let reference = stage.push("team/app:1", &image).await;
    stage.demand(&json!({
        "type": "attestedBy",
        "predicateType": predicate::SLSA,
        "keyPath": format!("kbs:///{KEY}"),
    }));
    let statement = Statement::slsa(&image.digest(), "https://builder.example", "source");
    let strange = Bundle::keyed(&stranger(), &statement);
    let mut all: Vec<Bundle> = (0..200)
        .map(|number| {
            let strange = strange.clone();
            strange.edit(|json| json["dsseEnvelope"]["number"] = number.into())
        })
        .collect();
    all.push(Bundle::keyed(&stage.scene.key, &statement));
    let tag = format!("team/app:{}", attestation_tag(&image.digest()));
    let attestations = attestation_image(&all);
    stage.scene.registry.push(&tag, &attestations).await;
    let daemon = stage.guest.start().await;
    let begin = Instant::now();
    let refusal = daemon.refuses(&reference, &stage.guest.bundle("c1")).await;
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    let words = [
        DENIED,
        "there are 201 pieces of evidence, the first 64 are looked at",
    ];
    assert_says("endless", &refusal.message, &words);
}

/// CVE-2024-29902: attachments of any size were read into memory; TOB-SIGSTORE-8: and hashed.
#[tokio::test(flavor = "multi_thread")]
async fn evidence_larger_than_the_limit_is_not_fetched() {
    let stage = Stage::set().await;
    let image = Image::small("with large evidence");
    let reference = stage.push("team/app:1", &image).await;
    let large = Attached::bytes(&image, MEDIA_TYPE, vec![b' '; 2 << 20]);
    stage.refer("team/app", &image, &[large]).await;
    let daemon = stage.guest.start().await;
    stage.front.forget_requests();
    let refusal = daemon.refuses(&reference, &stage.guest.bundle("c1")).await;
    let words = [DENIED, "see image_agent.evidence.candidate_bytes"];
    assert_says("large", &refusal.message, &words);
    let asked = stage.front.requests();
    let evidence: Vec<_> = asked
        .iter()
        .filter(|one| is_evidence(one, &image))
        .collect();
    assert!(evidence.is_empty(), "{evidence:?}");
}

/// CVE-2024-29903: so were artefacts of any number of layers.
#[tokio::test(flavor = "multi_thread")]
async fn artefact_of_very_many_layers_is_read_up_to_a_limit() {
    let stage = Stage::set().await;
    let image = Image::small("with very many layers of evidence");
    let reference = stage.push("team/app:1", &image).await;
    let of = |count: usize| {
        Attached::bytes(&image, MEDIA_TYPE, "{}").manifest(|manifest| {
            let layer = manifest["layers"][0].clone();
            manifest["layers"] = json!(vec![layer; count]);
        })
    };
    let daemon = stage.guest.start().await;
    for (count, words) in [
        (400, "there are 400 pieces of evidence, the first 64"),
        (3000, "the image has 3000 layers, at most 500"),
    ] {
        stage.refer("team/app", &image, &[of(count)]).await;
        stage.front.forget_requests();
        let refusal = daemon.refuses(&reference, &stage.guest.bundle("c1")).await;
        assert_says("many", &refusal.message, &[DENIED, words]);
        let asked = stage.front.requests();
        let blobs = asked.iter().filter(|one| is_evidence(one, &image)).count();
        assert!(blobs <= 64, "{blobs}");
    }
}

/// Whether a request is for a blob that is not the image's own.
fn is_evidence(request: &str, image: &Image) -> bool {
    let is_own = image
        .blobs
        .iter()
        .any(|(digest, _)| request.ends_with(digest));
    request.contains("/blobs/") && !is_own
}

/// CVE-2024-45395: a bundle with very many entries, timestamps or certificates kept the client busy.
#[tokio::test(flavor = "multi_thread")]
async fn bundle_of_very_many_parts_is_refused_before_any_is_checked() {
    fn many(name: &'static str, part: &'static str, words: &'static [&'static str]) -> Case {
        let change = move |json: &mut Value| {
            let list = json.pointer_mut(part).expect("a list");
            *list = json!(vec![list[0].clone(); 100]);
        };
        changed(name, change, words)
    }
    let stamps = "/verificationMaterial/timestampVerificationData/rfc3161Timestamps";
    refused([
        many(
            "entries",
            "/verificationMaterial/tlogEntries",
            &["it has 100 log entries, at most 32 are looked at"],
        ),
        many(
            "timestamps",
            stamps,
            &["it has 100 timestamps, at most 32 are looked at"],
        ),
        changed(
            "certificates",
            |json| {
                let material = json["verificationMaterial"].as_object_mut();
                let material = material.expect("an object");
                let leaf = material.remove("certificate").expect("a certificate");
                let chain = json!({"certificates": vec![leaf; 100]});
                material.insert("x509CertificateChain".to_owned(), chain);
            },
            &["it has 100 certificates, at most 32 are looked at"],
        ),
    ])
    .await;
}

/// CVE-2026-24122: an intermediate that had expired before the signing counted.
#[tokio::test(flavor = "multi_thread")]
async fn intermediates_must_be_valid_when_they_are_used() {
    // Within the year of the intermediate, which ended long ago.
    const THEN: Moment = Moment(1_590_000_000);
    let mut stage = Stage::set().await;
    stage.services = Sigstore::with_expired_intermediate();
    let root = stage.services.trusted_root().to_string();
    stage.scene.kbs.put(ROOT, root);
    let all = json!({});
    let in_time = case(
        "in its time",
        &all,
        |one| one.issued(THEN).signed(THEN.plus(10)),
        &[],
    );
    let late = case("after its time", &all, |one| one, &["does not count"]);
    stage.judge(vec![in_time, late]).await;
}

/// CVE-2026-39395: any statement counted as a signature, and what could not be read as none.
#[tokio::test(flavor = "multi_thread")]
async fn type_of_the_predicate_is_checked_and_what_cannot_be_read_is_refused() {
    fn stated(name: &'static str, change: fn(&mut Value), words: &'static [&'static str]) -> Case {
        let make = move |services: &Sigstore, statement: &Statement| {
            dev(services).sign(&statement.clone().edit(change))
        };
        made(name, make, words)
    }
    let other_payload = |services: &Sigstore, statement: &Statement| {
        dev(services).sign(&statement.clone().payload_type("text/plain"))
    };
    refused([
        stated(
            "a bill of materials",
            |json| json["predicateType"] = predicate::SPDX.into(),
            &[predicate::SPDX, predicate::SIGNATURE],
        ),
        stated(
            "no type of predicate",
            |json| drop(json.as_object_mut().unwrap().remove("predicateType")),
            &["does not count", "predicateType"],
        ),
        stated(
            "an unknown statement",
            |json| json["_type"] = "https://in-toto.io/Statement/v9".into(),
            &["https://in-toto.io/Statement/v9"],
        ),
        made("another payload", other_payload, &["text/plain"]),
    ])
    .await;
}

/// CVE-2026-48816: the time of an entry was believed without the promise that covers it.
#[tokio::test(flavor = "multi_thread")]
async fn time_of_an_entry_counts_by_the_promise_of_the_log_alone() {
    let unpromised = |services: &Sigstore, statement: &Statement| {
        let signed = dev(services).without_timestamp().sign(statement);
        signed.without(&format!("{ENTRY}/inclusionPromise"))
    };
    let moved = |json: &mut Value| {
        json["verificationMaterial"]["tlogEntries"][0]["integratedTime"] = "1".into();
    };
    refused([
        made("without a promise", unpromised, &["time"]),
        changed("another time", moved, &["does not count"]),
    ])
    .await;
}

/// CVE-2026-49834: thresholds were reached by several entries of one and the same.
#[tokio::test(flavor = "multi_thread")]
async fn threshold_counts_signers_and_neither_entries_nor_bundles() {
    let stage = Stage::set().await;
    let image = Image::small("signed often");
    let reference = stage.push("team/app:1", &image).await;
    let statement = Statement::signature(&image.digest());
    let reviewer = "review@example.com";
    let anybody = json!([
        {"subject": "dev@example.com", "issuer": ISSUER},
        {"subject": reviewer, "issuer": ISSUER},
    ]);
    let member = by(&anybody, &json!({}));
    stage.demand(&json!({"type": "threshold", "count": 2, "of": [member, member]}));
    let signer = dev(&stage.services);
    let twice = signer.sign(&statement).edit(|json| {
        let entries = json["verificationMaterial"]["tlogEntries"].as_array_mut();
        let entries = entries.expect("a list");
        entries.push(entries[0].clone());
    });
    let second_log = signer.clone().log(Version::Two).sign(&statement);
    let mut bundles = vec![twice, signer.sign(&statement), second_log];
    let daemon = stage.guest.start().await;
    let attached = |bundles: &[Bundle]| -> Vec<_> {
        let attach = |bundle| Attached::bundle(&image, bundle);
        bundles.iter().map(attach).collect()
    };
    stage.refer("team/app", &image, &attached(&bundles)).await;
    let refusal = daemon.refuses(&reference, &stage.guest.bundle("c1")).await;
    assert_eq!(refusal.code, Code::PERMISSION_DENIED, "{refusal:?}");
    let words = [DENIED, "too few acceptable signatures"];
    assert_says("one signer", &refusal.message, &words);

    let other = stage.services.ceremony(Identity::email(reviewer, ISSUER));
    bundles.push(other.sign(&statement));
    stage.refer("team/app", &image, &attached(&bundles)).await;
    stage.delivers(&daemon, "two signers", &reference).await;
}

/// sigstore-go 618325f: with nothing to compare, whatever was signed matched.
#[tokio::test(flavor = "multi_thread")]
async fn statement_about_nothing_matches_nothing() {
    fn about(name: &'static str, subject: &'static str) -> Case {
        let make = move |services: &Sigstore, statement: &Statement| {
            let subject: Value = serde_json::from_str(subject).expect("JSON");
            dev(services).sign(&statement.clone().edit(|json| json["subject"] = subject))
        };
        made(name, make, &["does not count"])
    }
    refused([
        about("no subject", "[]"),
        about("null", "null"),
        about("a subject that is null", "[null]"),
        about("no digest", r#"[{"digest": {}}]"#),
        about("an empty digest", r#"[{"digest": {"sha256": ""}}]"#),
        about("another kind of digest", r#"[{"digest": {"md5": ""}}]"#),
    ])
    .await;
}

/// CVE-2026-23831, CVE-2026-48702: malformed bodies of entries ended the client with a panic.
#[tokio::test(flavor = "multi_thread")]
async fn malformed_log_entries_are_refused_and_the_daemon_goes_on() {
    fn body(name: &'static str, body: &'static str) -> Case {
        let change = move |json: &mut Value| {
            json["verificationMaterial"]["tlogEntries"][0]["canonicalizedBody"] = body.into();
        };
        changed(name, change, &["does not count"])
    }
    refused([
        body("empty", ""),
        body("no base64", "%"),
        body("an empty object", "e30="),
        body("null", "bnVsbA=="),
        body("a list", "W10="),
        // {"kind":"dsse","apiVersion":"0.0.1","spec":null}
        body(
            "no content",
            "eyJraW5kIjoiZHNzZSIsImFwaVZlcnNpb24iOiIwLjAuMSIsInNwZWMiOm51bGx9",
        ),
        changed(
            "an index out of range",
            |json| {
                let entry = &mut json["verificationMaterial"]["tlogEntries"][0];
                entry["inclusionProof"]["logIndex"] = u64::MAX.to_string().into();
            },
            &["does not count"],
        ),
    ])
    .await;
}

/// TOB-SIGSTORE-9: of several signatures in an envelope each step took the one that it liked.
#[tokio::test(flavor = "multi_thread")]
async fn envelope_has_exactly_one_signature() {
    refused([
        changed(
            "the same twice",
            |json| {
                let signature = json["dsseEnvelope"]["signatures"][0].clone();
                json["dsseEnvelope"]["signatures"] = json!([signature, signature]);
            },
            &["exactly one signature, found 2"],
        ),
        changed(
            "none",
            |json| json["dsseEnvelope"]["signatures"] = json!([]),
            &["exactly one signature, found 0"],
        ),
    ])
    .await;
}

/// TOB-SIGSTORE-11: a timestamp counted without being bound to the authority that is trusted.
#[tokio::test(flavor = "multi_thread")]
async fn timestamp_must_be_by_a_trusted_authority_and_of_this_signature() {
    let with_stamp_of = |bundle: Bundle, other: &Bundle| {
        let stamp = other.json().pointer(STAMP).expect("a timestamp").clone();
        bundle.edit(|json| *json.pointer_mut(STAMP).expect("a timestamp") = stamp)
    };
    let foreign = move |services: &Sigstore, statement: &Statement| {
        let other = dev(&Sigstore::mint()).sign(statement);
        with_stamp_of(dev(services).sign(statement), &other)
    };
    let of_another = move |services: &Sigstore, statement: &Statement| {
        let other = dev(services).sign(statement);
        with_stamp_of(dev(services).sign(statement), &other)
    };
    refused([
        made("by another authority", foreign, &["does not count"]),
        made("of another signature", of_another, &["does not count"]),
    ])
    .await;
}

/// Of a client without an advisory: neither proof nor promise of the log was checked.
#[tokio::test(flavor = "multi_thread")]
async fn proof_and_promise_of_a_log_are_both_checked() {
    fn spoiled(name: &'static str, member: &'static str) -> Case {
        let make = move |services: &Sigstore, statement: &Statement| {
            let bundle = dev(services).sign(statement);
            bundle.spoiled(&format!("{ENTRY}/{member}"))
        };
        made(name, make, &["does not count"])
    }
    refused([
        spoiled("path", "inclusionProof/hashes/0"),
        spoiled("root", "inclusionProof/rootHash"),
        spoiled("promise", "inclusionPromise/signedEntryTimestamp"),
        changed(
            "checkpoint",
            |json| {
                let entry = &mut json["verificationMaterial"]["tlogEntries"][0];
                let envelope = &mut entry["inclusionProof"]["checkpoint"]["envelope"];
                let changed = envelope.as_str().expect("a text").replace("4711", "4712");
                *envelope = changed.into();
            },
            &["does not count"],
        ),
    ])
    .await;
}
