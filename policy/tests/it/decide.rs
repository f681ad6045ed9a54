//! What the policy allows and what it denies, and that it says why.

use policy::{
    COSIGN_PAYLOAD, ConfigError, CosignSignature, Digest, Evidence, Fingerprint, Grounds, ImageRef,
    NotFetched, Outcome, Policy, Refusal, Rejected, SignatureProblem, SubjectKind,
};
use serde_json::{Value, json};

use crate::support::{
    KEY, NAME, REPOSITORY, SIGNATURE, Signer, config, decide, decision, evidence, list_in_index,
    manifest_bytes, manifest_for, payload, policy, resolve, resolve_through_index, signed_by_key,
};

fn outcome(requirements: &Value, evidence: &Evidence) -> Outcome {
    let answer = decide(
        &policy(requirements),
        resolve(NAME, manifest_bytes()),
        evidence,
    );
    let decision = decision(&answer);
    assert_eq!(decision.is_allowed(), answer.is_ok());
    decision.findings()[0].outcome.clone()
}

fn problems(signature: CosignSignature, requirement: &Value) -> (Outcome, Vec<Rejected>) {
    let signer = Signer::new();
    let digest = Digest::sha256_of(&manifest_bytes());
    problems_with(&signer, signature, requirement, digest)
}

fn problems_with(
    signer: &Signer,
    signature: CosignSignature,
    requirement: &Value,
    digest: Digest,
) -> (Outcome, Vec<Rejected>) {
    let evidence = evidence(signer, &[(digest, vec![signature])]);
    let answer = decide(
        &policy(&json!([requirement])),
        resolve(NAME, manifest_bytes()),
        &evidence,
    );
    let finding = decision(&answer).findings()[0].clone();
    (finding.outcome, finding.rejected)
}

#[test]
fn accepts_the_owner_s_usual_policy_with_a_plain_cosign_signature() {
    let signer = Signer::new();
    let document = json!({
        "default": [{"type": "reject"}],
        "transports": {"docker": {"registry.example": [signed_by_key()]}},
    });
    let policy = Policy::parse(document.to_string().as_bytes()).unwrap();
    let manifest = resolve(NAME, manifest_bytes());
    let digest = *manifest.digest();
    let rules = policy.rules_for(manifest.reference());
    let needs = rules.needs(&manifest);
    assert_eq!(needs.resources.iter().collect::<Vec<_>>(), [KEY]);
    assert_eq!(rules.resources(), needs.resources);
    assert_eq!(needs.cosign_subjects, [digest]);

    let evidence = evidence(
        &signer,
        &[(digest, vec![signer.attach(&digest, REPOSITORY)])],
    );
    let approved = rules.decide(manifest, &evidence).unwrap();
    assert_eq!(approved.digest(), &digest);
    let Outcome::Met(Grounds::Signature(proof)) = &approved.decision().findings()[0].outcome else {
        panic!("not met by a signature");
    };
    let fingerprint = Fingerprint::Spki(Digest::sha256_of(&signer.spki()));
    assert_eq!(proof.key_fingerprint, fingerprint);
    assert_eq!(proof.subject, SubjectKind::Manifest);
    assert_eq!(proof.signed_reference, REPOSITORY);
}

#[test]
fn without_a_stated_identity_a_signature_is_held_to_what_it_names() {
    let signer = Signer::new();
    let raw = manifest_bytes();
    let digest = Digest::sha256_of(&raw);
    let by_digest = format!("{REPOSITORY}@{digest}");
    let rows = [
        ("the repository", NAME, REPOSITORY, true),
        ("the tag", NAME, NAME, true),
        ("another tag", NAME, "registry.example/team/app:2.0", false),
        (
            "another repository",
            NAME,
            "registry.example/team/other",
            false,
        ),
        ("a parent", NAME, "registry.example/team", false),
        ("another registry", NAME, "other.example/team/app", false),
        ("nothing", NAME, "", false),
        (
            "by digest, any tag",
            &by_digest,
            "registry.example/team/app:2.0",
            true,
        ),
        (
            "by digest, another repository",
            &by_digest,
            "registry.example/team/other:1.0",
            false,
        ),
    ];
    for (row, asked, signed, allowed) in rows {
        let manifest = resolve(asked, raw.clone());
        let evidence = evidence(&signer, &[(digest, vec![signer.attach(&digest, signed)])]);
        let answer = decide(&policy(&json!([signed_by_key()])), manifest, &evidence);
        assert_eq!(answer.is_ok(), allowed, "{row}");
    }
}

#[test]
fn a_stated_identity_is_held_to_the_letter() {
    let signer = Signer::new();
    let digest = Digest::sha256_of(&manifest_bytes());
    let rows = [
        (json!({"type": "matchRepoDigestOrExact"}), REPOSITORY, false),
        (json!({"type": "matchRepoDigestOrExact"}), NAME, true),
        (json!({"type": "matchExact"}), REPOSITORY, false),
        (json!({"type": "matchRepository"}), REPOSITORY, true),
        (
            json!({"type": "matchRepository"}),
            "registry.example/team/app:9",
            true,
        ),
        (
            json!({"type": "exactRepository", "dockerRepository": "origin.example/app"}),
            "origin.example/app:7",
            true,
        ),
        (
            json!({"type": "exactRepository", "dockerRepository": "origin.example/app"}),
            REPOSITORY,
            false,
        ),
        (
            json!({"type": "exactReference", "dockerReference": "origin.example/app:7"}),
            "origin.example/app:7",
            true,
        ),
        (
            json!({"type": "remapIdentity", "prefix": "registry.example",
                   "signedPrefix": "origin.example/mirror"}),
            "origin.example/mirror/team/app:1.0",
            true,
        ),
        (
            json!({"type": "remapIdentity", "prefix": "registry.example/te",
                   "signedPrefix": "origin.example"}),
            "origin.example/am/app:1.0",
            false,
        ),
    ];
    for (identity, signed, allowed) in rows {
        let mut requirement = signed_by_key();
        requirement["signedIdentity"] = identity.clone();
        let signature = signer.attach(&digest, signed);
        let (outcome, rejected) = problems_with(&signer, signature, &requirement, digest);
        assert_eq!(
            matches!(outcome, Outcome::Met(_)),
            allowed,
            "{identity} {signed}"
        );
        if !allowed {
            assert!(
                matches!(rejected[0].problem, SignatureProblem::Identity(ref mismatch)
                    if mismatch.signed == signed),
                "{identity} {signed}"
            );
        }
    }
}

#[test]
fn a_signature_on_the_index_counts_and_the_record_says_so() {
    let signer = Signer::new();
    let (manifest, index) = resolve_through_index(NAME);
    let own = *manifest.digest();
    let policy = policy(&json!([signed_by_key()]));
    let rules = policy.rules_for(manifest.reference());
    assert_eq!(rules.needs(&manifest).cosign_subjects, [own, index]);
    let evidence = evidence(
        &signer,
        &[
            (own, vec![]),
            (index, vec![signer.attach(&index, REPOSITORY)]),
        ],
    );
    let approved = rules.decide(manifest, &evidence).unwrap();
    let record: Value = serde_json::from_str(&approved.decision().to_json().unwrap()).unwrap();
    assert_eq!(record["requirements"][0]["signature"]["subject"], "index");
    assert_eq!(record["index_digest"], json!(index));
    assert_eq!(record["manifest_digest"], json!(own));
}

/// An index that nobody signed must not pass a signed image for another platform off as ours.
#[test]
fn an_unsigned_index_is_not_believed_about_the_platform() {
    let signer = Signer::new();
    let policy = policy(&json!([signed_by_key()]));
    let mut foreign = config();
    foreign["architecture"] = json!("pdp11");
    let raw = foreign.to_string().into_bytes();
    for signs_index in [false, true] {
        let manifest = manifest_for(&raw).to_string().into_bytes();
        let (manifest, index) = list_in_index(NAME, manifest);
        let own = *manifest.digest();
        let subject_signed = if signs_index { index } else { own };
        let mut found = [(own, vec![]), (index, vec![])];
        for (subject, signatures) in &mut found {
            if *subject == subject_signed {
                signatures.push(signer.attach(&subject_signed, REPOSITORY));
            }
        }
        let evidence = evidence(&signer, &found);
        let rules = policy.rules_for(manifest.reference());
        let image = rules.decide(manifest, &evidence).unwrap().with_config(&raw);
        match image {
            Ok(_) => assert!(signs_index),
            Err(ConfigError::Platform { found, .. }) => {
                assert!(!signs_index);
                assert_eq!(found.architecture, "pdp11");
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Whatever the requirement that a manifest meets, and however it is wrapped up.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn what_was_proved_of_the_manifest_says_nothing_for_the_index() {
    let signer = Signer::new();
    let mut foreign = config();
    foreign["architecture"] = json!("s390x");
    let raw = foreign.to_string().into_bytes();
    let manifest = manifest_for(&raw).to_string().into_bytes();
    let own = Digest::sha256_of(&manifest);
    let (_, index) = list_in_index(NAME, manifest.clone());
    let listed =
        |digest: Digest| json!({"type": "digestAllowed", "digests": {REPOSITORY: [digest]}});
    let any = |of: Value| json!({"type": "threshold", "count": 1, "of": of});
    let key = signed_by_key();
    let by_index = format!("{REPOSITORY}@{index}");
    let rows = [
        ("signed", NAME, json!([key]), false),
        ("in a threshold", NAME, json!([any(json!([key]))]), false),
        (
            "in two",
            NAME,
            json!([any(json!([any(json!([key]))]))]),
            false,
        ),
        ("listed", NAME, json!([listed(own)]), false),
        (
            "asked for by digest",
            &by_index,
            json!([{"type": "requireDigest"}]),
            false,
        ),
        (
            "the index listed, too",
            NAME,
            json!([key, listed(index)]),
            false,
        ),
        ("the index listed", NAME, json!([listed(index)]), true),
        (
            "in a threshold",
            NAME,
            json!([any(json!([listed(index)]))]),
            true,
        ),
        (
            "nothing asked",
            NAME,
            json!([{"type": "insecureAcceptAnything"}]),
            true,
        ),
    ];
    for (row, name, requirements, trusted) in rows {
        let (manifest, _) = list_in_index(name, manifest.clone());
        let signature = signer.attach(&own, REPOSITORY);
        let evidence = evidence(&signer, &[(own, vec![signature]), (index, vec![])]);
        let approved = decide(&policy(&requirements), manifest, &evidence).unwrap();
        match approved.with_config(&raw) {
            Ok(_) => assert!(trusted, "{row}"),
            Err(ConfigError::Platform { found, .. }) => {
                assert!(!trusted, "{row}");
                assert_eq!(found.architecture, "s390x");
            }
            Err(error) => panic!("{row}: {error:?}"),
        }
    }
}

#[test]
fn a_signature_on_an_index_that_was_not_resolved_does_not_count() {
    let signer = Signer::new();
    let (_, index) = resolve_through_index(NAME);
    let own = Digest::sha256_of(&manifest_bytes());
    let signature = signer.attach(&index, REPOSITORY);
    let (outcome, rejected) = problems_with(&signer, signature, &signed_by_key(), own);
    assert_eq!(outcome, Outcome::Refused(Refusal::NoneCounts { found: 1 }));
    assert_eq!(
        rejected[0].problem,
        SignatureProblem::OtherDigest {
            signed: index,
            found: own
        }
    );
}

#[test]
fn broken_and_foreign_signatures_do_not_spoil_a_good_one() {
    let signer = Signer::new();
    let stranger = Signer::new();
    let digest = Digest::sha256_of(&manifest_bytes());
    let good = signer.attach(&digest, REPOSITORY);
    let unfetched = CosignSignature {
        payload: Err(NotFetched::permanent("timed out")),
        ..good.clone()
    };
    let mut bare = good.clone();
    bare.annotations.clear();
    let found = vec![
        stranger.attach(&digest, REPOSITORY),
        unfetched,
        bare,
        signer.attach_payload(b"not json".to_vec()),
        CosignSignature {
            media_type: "text/plain".to_owned(),
            ..good.clone()
        },
        good,
    ];
    let evidence = evidence(&signer, &[(digest, found)]);
    let requirements = json!([signed_by_key()]);
    let answer = decide(
        &policy(&requirements),
        resolve(NAME, manifest_bytes()),
        &evidence,
    );
    assert!(decision(&answer).is_allowed());
    assert_eq!(decision(&answer).findings()[0].rejected.len(), 5);
}

#[test]
fn says_what_is_wrong_with_each_signature() {
    let stranger = Signer::new();
    let digest = Digest::sha256_of(&manifest_bytes());
    let foreign = stranger.attach(&digest, REPOSITORY);
    let (outcome, rejected) = problems(foreign.clone(), &signed_by_key());
    assert_eq!(outcome, Outcome::Refused(Refusal::NoneCounts { found: 1 }));
    assert_eq!(rejected[0].problem, SignatureProblem::OtherKey { tried: 1 });

    let typed = CosignSignature {
        media_type: format!("{COSIGN_PAYLOAD}; q=1"),
        ..foreign.clone()
    };
    let (_, rejected) = problems(typed, &signed_by_key());
    assert!(matches!(
        rejected[0].problem,
        SignatureProblem::MediaType { .. }
    ));

    let mut spaced = foreign.clone();
    spaced
        .annotations
        .insert(SIGNATURE.to_owned(), "not base64".to_owned());
    let (_, rejected) = problems(spaced, &signed_by_key());
    assert!(matches!(rejected[0].problem, SignatureProblem::Base64(_)));

    let unfetched = CosignSignature {
        payload: Err(NotFetched::permanent("timed out")),
        ..foreign
    };
    let (_, rejected) = problems(unfetched, &signed_by_key());
    let why = NotFetched::permanent("timed out");
    assert_eq!(rejected[0].problem, SignatureProblem::NotFetched { why });
}

#[test]
fn a_line_break_in_the_signature_annotation_is_tolerated() {
    let signer = Signer::new();
    let digest = Digest::sha256_of(&manifest_bytes());
    let mut signature = signer.attach(&digest, REPOSITORY);
    let annotation = signature.annotations.get_mut(SIGNATURE).unwrap();
    annotation.insert_str(40, "\r\n");
    annotation.push('\n');
    let (outcome, _) = problems_with(&signer, signature, &signed_by_key(), digest);
    assert!(matches!(outcome, Outcome::Met(Grounds::Signature(_))));
}

#[test]
fn the_same_bytes_signed_under_another_algorithm_of_digest_count() {
    let signer = Signer::new();
    let raw = manifest_bytes();
    let long = Digest::of(policy::Algorithm::Sha512, &raw);
    let digest = Digest::sha256_of(&raw);
    let signature = signer.attach(&long, REPOSITORY);
    let (outcome, _) = problems_with(&signer, signature, &signed_by_key(), digest);
    assert!(matches!(outcome, Outcome::Met(Grounds::Signature(_))));
}

#[test]
fn a_key_that_is_not_to_be_had_denies_and_is_never_skipped() {
    let signer = Signer::new();
    let digest = Digest::sha256_of(&manifest_bytes());
    let good = evidence(
        &signer,
        &[(digest, vec![signer.attach(&digest, REPOSITORY)])],
    );
    let second = "kbs:///default/cosign-key/2";
    let requirements = json!([{"type": "sigstoreSigned", "keyPaths": [KEY, second]}]);

    let not_fetched = |why: &str| {
        Outcome::Refused(Refusal::KeyNotFetched {
            location: second.to_owned(),
            why: NotFetched::permanent(why),
        })
    };
    assert_eq!(
        outcome(&requirements, &good),
        not_fetched("nobody asked for it")
    );

    let mut failed = good.clone();
    failed.resources.insert(
        second.to_owned(),
        Err(NotFetched::permanent("403 forbidden")),
    );
    assert_eq!(
        outcome(&requirements, &failed),
        not_fetched("403 forbidden")
    );

    let mut garbage = good.clone();
    garbage
        .resources
        .insert(second.to_owned(), Ok(b"not a key".to_vec()));
    assert!(matches!(
        outcome(&requirements, &garbage),
        Outcome::Refused(Refusal::KeyUnusable { location, .. }) if location == second
    ));

    let mut both = good;
    both.resources
        .insert(second.to_owned(), Ok(Signer::new().pem().into_bytes()));
    assert!(matches!(outcome(&requirements, &both), Outcome::Met(_)));
}

#[test]
fn signatures_that_cannot_be_listed_deny_unless_another_place_has_a_good_one() {
    let signer = Signer::new();
    let (manifest, index) = resolve_through_index(NAME);
    let own = *manifest.digest();
    let mut evidence = evidence(&signer, &[(index, vec![])]);
    let why = NotFetched::permanent("malformed");
    evidence.cosign.insert(own, Err(why.clone()));
    let policy = policy(&json!([signed_by_key()]));
    let denied = decide(&policy, manifest, &evidence).unwrap_err();
    assert_eq!(
        denied.decision().findings()[0].outcome,
        Outcome::Refused(Refusal::NotListed { subject: own, why })
    );
    assert_eq!(denied.cause(), "signatures not available");

    let (manifest, _) = resolve_through_index(NAME);
    evidence
        .cosign
        .insert(index, Ok(vec![signer.attach(&index, REPOSITORY)]));
    assert!(decide(&policy, manifest, &evidence).is_ok());
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn what_may_pass_is_told_from_a_denial_also_behind_a_threshold() {
    let signer = Signer::new();
    let digest = Digest::sha256_of(&manifest_bytes());
    let good = || {
        evidence(
            &signer,
            &[(digest, vec![signer.attach(&digest, REPOSITORY)])],
        )
    };
    let key = |failure: NotFetched| {
        let mut evidence = good();
        evidence.resources.insert(KEY.to_owned(), Err(failure));
        evidence
    };
    let listing = |failure: NotFetched| {
        let mut evidence = good();
        evidence.cosign.insert(digest, Err(failure));
        evidence
    };
    let payload = |failure: NotFetched| {
        let mut evidence = good();
        let signature = CosignSignature {
            payload: Err(failure),
            ..signer.attach(&digest, REPOSITORY)
        };
        evidence.cosign.insert(digest, Ok(vec![signature]));
        evidence
    };
    let refused = || NotFetched::permanent("403");
    let passing = || NotFetched::transient("503");
    let other = Digest::sha256_of(b"other");
    let not_listed = json!({"type": "digestAllowed", "digests": {REPOSITORY: [other]}});
    let nowhere = || NotFetched::not_configured("no place");
    let later = "signatures not available for now";
    let place = "no place for signatures is configured";
    let rows = [
        (key(passing()), true, "key not available for now"),
        (key(refused()), false, "key not available"),
        (listing(passing()), true, later),
        (listing(refused()), false, "signatures not available"),
        (listing(nowhere()), false, place),
        (payload(passing()), true, later),
        (payload(refused()), false, "no acceptable signature"),
    ];
    for (evidence, undecided, cause) in rows {
        let threshold =
            |count: usize, of: Value| json!({"type": "threshold", "count": count, "of": of});
        let by_key = signed_by_key;
        for (requirements, hopeful) in [
            (json!([by_key()]), true),
            (json!([by_key(), {"type": "insecureAcceptAnything"}]), true),
            (json!([by_key(), {"type": "requireDigest"}]), false),
            (json!([threshold(1, json!([not_listed, by_key()]))]), true),
            (
                json!([threshold(1, json!([threshold(1, json!([by_key()]))]))]),
                true,
            ),
        ] {
            let denied = decide(
                &policy(&requirements),
                resolve(NAME, manifest_bytes()),
                &evidence,
            );
            let denied = denied.unwrap_err();
            let row = format!("{requirements}: {denied}");
            assert_eq!(
                denied.decision().is_undecided(),
                undecided && hopeful,
                "{row}"
            );
            let is_threshold = requirements[0]["type"] == "threshold";
            let hidden = is_threshold && !undecided && cause != place;
            let expected = if hidden {
                "too few acceptable signatures"
            } else {
                cause
            };
            assert_eq!(denied.cause(), expected, "{row}");
        }
    }
}

#[test]
fn no_signature_is_its_own_reason() {
    let signer = Signer::new();
    let digest = Digest::sha256_of(&manifest_bytes());
    let none = evidence(&signer, &[(digest, vec![])]);
    assert_eq!(
        outcome(&json!([signed_by_key()]), &none),
        Outcome::Refused(Refusal::NoSignature)
    );
    assert!(matches!(
        outcome(
            &json!([signed_by_key()]),
            &Evidence {
                cosign: [].into(),
                ..none
            }
        ),
        Outcome::Refused(Refusal::NotListed { .. })
    ));
}

#[test]
fn every_requirement_must_be_met_and_each_by_its_own_signature() {
    let (first, second) = (Signer::new(), Signer::new());
    let digest = Digest::sha256_of(&manifest_bytes());
    let other = "kbs:///default/cosign-key/2";
    let requirements = json!([signed_by_key(), {"type": "sigstoreSigned", "keyPath": other}]);
    let with = |signatures: Vec<CosignSignature>| {
        let mut evidence = evidence(&first, &[(digest, signatures)]);
        evidence
            .resources
            .insert(other.to_owned(), Ok(second.pem().into_bytes()));
        decide(
            &policy(&requirements),
            resolve(NAME, manifest_bytes()),
            &evidence,
        )
    };
    let one = first.attach(&digest, REPOSITORY);
    let two = second.attach(&digest, REPOSITORY);
    assert!(with(vec![one.clone(), two]).is_ok());
    let denied = with(vec![one]).unwrap_err();
    let outcomes: Vec<bool> = denied
        .decision()
        .findings()
        .iter()
        .map(|finding| matches!(finding.outcome, Outcome::Met(_)))
        .collect();
    assert_eq!(outcomes, [true, false]);
}

#[test]
fn requirements_that_cannot_be_checked_deny_by_name_and_ask_for_nothing() {
    let identity = json!({"type": "matchRepository"});
    let rows = [
        (
            json!({"type": "signedBy", "keyType": "X509Certificates", "keyPath": "/k"}),
            "signedBy",
        ),
        (
            json!({"type": "signedBaseLayer", "baseLayerIdentity": identity}),
            "signedBaseLayer",
        ),
    ];
    let signer = Signer::new();
    let digest = Digest::sha256_of(&manifest_bytes());
    let good = evidence(
        &signer,
        &[(digest, vec![signer.attach(&digest, REPOSITORY)])],
    );
    for (requirement, word) in rows {
        let policy = policy(&json!([signed_by_key(), requirement]));
        let manifest = resolve(NAME, manifest_bytes());
        let rules = policy.rules_for(manifest.reference());
        assert_eq!(rules.needs(&manifest), policy::Needs::default(), "{word}");
        let denied = rules.decide(manifest, &good).unwrap_err();
        let findings = denied.decision().findings();
        assert_eq!(findings[0].outcome, Outcome::NotExamined, "{word}");
        let Outcome::Refused(Refusal::Unsupported { feature }) = findings[1].outcome else {
            panic!("{word}: {:?}", findings[1].outcome);
        };
        assert!(feature.contains(word), "{feature}");
        assert!(denied.to_string().contains(feature));
    }
}

#[test]
fn the_default_speaks_only_where_no_scope_does() {
    let accept = json!([{"type": "insecureAcceptAnything"}]);
    let open = policy(&accept);
    let inside = resolve(NAME, manifest_bytes());
    assert!(decide(&open, inside, &Evidence::default()).is_ok());
    let outside = resolve("registry.example/team/other:1.0", manifest_bytes());
    let denied = decide(&open, outside, &Evidence::default()).unwrap_err();
    assert_eq!(
        denied.decision().findings()[0].outcome,
        Outcome::Refused(Refusal::Rejects)
    );
    assert_eq!(
        denied.to_string(),
        "registry.example/team/other:1.0 is denied by the policy's default; \
         requirement 1, reject: the policy rejects every image here"
    );
}

#[test]
fn the_rules_for_one_reference_decide_about_no_other() {
    let open = policy(&json!([{"type": "insecureAcceptAnything"}]));
    let asked: ImageRef = NAME.parse().unwrap();
    let other = resolve("registry.example/team/other:1.0", manifest_bytes());
    let denied = open
        .rules_for(&asked)
        .decide(other, &Evidence::default())
        .unwrap_err();
    let rules_for = NAME.to_owned();
    assert_eq!(
        denied.decision().findings()[0].outcome,
        Outcome::Refused(Refusal::OtherReference { rules_for })
    );
}

#[test]
fn the_record_is_canonical_and_complete() {
    let signer = Signer::new();
    let digest = Digest::sha256_of(&manifest_bytes());
    let by_both = format!("{NAME}@{digest}");
    let signature = signer.attach(&digest, REPOSITORY);
    let stranger = Signer::new().attach_payload(payload(&digest, "x"));
    let evidence = evidence(
        &signer,
        &[(digest, vec![stranger.clone(), signature.clone()])],
    );
    let policy = policy(&json!([signed_by_key()]));
    let approved = decide(&policy, resolve(&by_both, manifest_bytes()), &evidence).unwrap();
    let expected = json!({
        "allowed": true,
        "asked": by_both,
        "manifest_digest": digest,
        "policy_digest": policy.digest(),
        "reference": format!("{REPOSITORY}@{digest}"),
        "requirements": [{
            "outcome": "met",
            "rejected": [{
                "found": stranger.found,
                "problem": "it is not by the key of the policy",
            }],
            "requirement": "sigstoreSigned",
            "signature": {
                "found": signature.found,
                "key_fingerprint": Digest::sha256_of(&signer.spki()),
                "signed_reference": REPOSITORY,
                "subject": "manifest",
            },
        }],
        "scope": "transports.docker.\"registry.example/team/app\"",
    });
    assert_eq!(approved.decision().to_json().unwrap(), expected.to_string());
}

/// As many signatures as are fetched, in each of which everything is as long and as strange as a
/// registry lets it be.
#[test]
fn what_a_stranger_wrote_is_cut_in_the_record() {
    let signer = Signer::new();
    let digest = Digest::sha256_of(&manifest_bytes());
    let long = "\"\u{1b}]0;\n".repeat(10_000);
    let foreign = Signer::new().attach(&digest, REPOSITORY);
    let typed = CosignSignature {
        found: long.clone(),
        media_type: long.clone(),
        ..foreign.clone()
    };
    let unfetched = CosignSignature {
        payload: Err(NotFetched::permanent(long.clone())),
        ..foreign.clone()
    };
    let elsewhere = signer.attach(&digest, &long);
    let signatures = [typed, unfetched, elsewhere, foreign];
    let many = signatures.iter().cycle().take(64).cloned().collect();
    let evidence = evidence(&signer, &[(digest, many)]);
    let denied = decide(
        &policy(&json!([signed_by_key()])),
        resolve(NAME, manifest_bytes()),
        &evidence,
    )
    .unwrap_err();
    assert_eq!(denied.decision().findings()[0].rejected.len(), 64);
    let record = denied.decision().to_json().unwrap();
    assert!(record.len() < 64 << 10, "{} bytes", record.len());
    let text = denied.to_string();
    assert!(text.len() < 64 << 10, "{} bytes", text.len());
    for text in [record, text] {
        assert!(!text.contains(char::is_control));
        assert!(!text.contains("\\u001b"));
        assert!(text.contains("it is not by the key of the policy"));
    }
}

#[test]
fn a_denial_reads_as_one_paragraph_and_its_cause_names_nothing() {
    let signer = Signer::new();
    let digest = Digest::sha256_of(&manifest_bytes());
    let stranger = Signer::new().attach(&digest, REPOSITORY);
    let text = stranger.found.clone();
    let evidence = evidence(&signer, &[(digest, vec![stranger])]);
    let policy = policy(&json!([signed_by_key()]));
    let denied = decide(&policy, resolve(NAME, manifest_bytes()), &evidence).unwrap_err();
    assert_eq!(
        denied.to_string(),
        format!(
            "registry.example/team/app:1.0 is denied by the policy's \
             transports.docker.\"registry.example/team/app\"; requirement 1, sigstoreSigned: \
             the one signature found does not count: {text}: it is not by the key of the policy"
        )
    );
    assert_eq!(denied.cause(), "no acceptable signature");
}

#[test]
fn an_explanation_names_the_scope_and_those_that_come_before() {
    let policy = policy(&json!([signed_by_key()]));
    let explanation = policy.explain(&NAME.parse().unwrap());
    assert_eq!(
        explanation.candidates,
        [
            NAME,
            REPOSITORY,
            "registry.example/team",
            "registry.example",
            "*.example",
            ""
        ]
    );
    assert_eq!(
        explanation.scope.to_string(),
        format!("transports.docker.{REPOSITORY:?}")
    );
    assert_eq!(explanation.requirements[0]["keyPath"], KEY);
}
