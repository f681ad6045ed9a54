//! The requirements beyond the format: each met by what it asks for and by nothing less.

use policy::{
    Digest, Evidence, Grounds, Outcome, Policy, PolicyProblem, Refusal, SignatureProblem, Stale,
};
use serde_json::{Value, json};

use crate::support::{
    NAME, REPOSITORY, Signer, config, decide, decision, evidence, manifest_bytes, manifest_for,
    payload, policy, resolve, resolve_through_index, signed_by_key,
};

/// What became of the one requirement.
fn outcome(requirement: &Value, asked: &str, raw: Vec<u8>, evidence: &Evidence) -> Outcome {
    let answer = decide(
        &policy(&json!([requirement])),
        resolve(asked, raw),
        evidence,
    );
    decision(&answer).findings()[0].outcome.clone()
}

fn problem(requirement: &Value) -> PolicyProblem {
    let document = json!({"default": [requirement]}).to_string();
    let error = Policy::parse(document.as_bytes()).unwrap_err();
    error.problem().clone()
}

#[test]
fn digest_allowed_lists_repositories_and_digests_of_manifest_or_index() {
    let raw = manifest_bytes();
    let digest = Digest::sha256_of(&raw);
    let (through_index, index) = resolve_through_index(NAME);
    let other = Digest::sha256_of(b"other");
    let rule = |name: &str, digests: &[Digest]| json!({"type": "digestAllowed", "digests": {name: digests}});
    let rows = [
        (rule(REPOSITORY, &[digest]), true),
        (rule(REPOSITORY, &[other, digest]), true),
        (rule(REPOSITORY, &[other]), false),
        (rule("registry.example/team/other", &[digest]), false),
        // Not reached through it.
        (rule(REPOSITORY, &[index]), false),
    ];
    for (rule, met) in rows {
        let expected = if met {
            Outcome::Met(Grounds::DigestAllowed(digest))
        } else {
            Outcome::Refused(Refusal::DigestNotAllowed {
                name: REPOSITORY.to_owned(),
                found: digest,
            })
        };
        let found = outcome(&rule, NAME, raw.clone(), &Evidence::default());
        assert_eq!(found, expected, "{rule}");
    }
    let by_index = policy(&json!([rule(REPOSITORY, &[index])]));
    let approved = decide(&by_index, through_index, &Evidence::default()).unwrap();
    let met = Outcome::Met(Grounds::DigestAllowed(index));
    assert_eq!(approved.decision().findings()[0].outcome, met);
}

#[test]
fn require_digest_refuses_a_tag() {
    let rule = json!({"type": "requireDigest"});
    let raw = manifest_bytes();
    let by_digest = format!("{NAME}@{}", Digest::sha256_of(&raw));
    let none = Evidence::default();
    assert_eq!(
        outcome(&rule, NAME, raw.clone(), &none),
        Outcome::Refused(Refusal::NotByDigest)
    );
    assert_eq!(
        outcome(&rule, &by_digest, raw, &none),
        Outcome::Met(Grounds::AskedByDigest)
    );
}

#[test]
fn encrypted_wants_every_layer_and_at_least_one() {
    let encrypted = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
    let plain = "application/vnd.oci.image.layer.v1.tar+gzip";
    let refused = |index: usize, media_type: &str| {
        Outcome::Refused(Refusal::LayerNotEncrypted {
            index,
            media_type: media_type.to_owned(),
        })
    };
    let rows = [
        (
            vec![encrypted, encrypted],
            Outcome::Met(Grounds::LayersEncrypted(2)),
        ),
        (vec![encrypted, plain], refused(1, plain)),
        (vec![plain, encrypted], refused(0, plain)),
        (vec!["x+encrypted"], refused(0, "x+encrypted")),
        (vec![], Outcome::Refused(Refusal::NoLayers)),
    ];
    for (types, expected) in rows {
        let mut manifest = manifest_for(config().to_string().as_bytes());
        let layer =
            |kind: &&str| json!({"mediaType": kind, "digest": Digest::sha256_of(b""), "size": 0});
        manifest["layers"] = types.iter().map(layer).collect();
        let raw = manifest.to_string().into_bytes();
        let rule = json!({"type": "encrypted"});
        assert_eq!(
            outcome(&rule, NAME, raw, &Evidence::default()),
            expected,
            "{types:?}"
        );
    }
}

/// What became of the first signature under a `notOlder`, None when it counted.
fn staleness(bounds: &Value, optional: &Value) -> Option<SignatureProblem> {
    let signer = Signer::new();
    let raw = manifest_bytes();
    let digest = Digest::sha256_of(&raw);
    let mut content: Value = serde_json::from_slice(&payload(&digest, REPOSITORY)).unwrap();
    content["optional"] = optional.clone();
    let mut signature = signer.attach_payload(content.to_string().into_bytes());
    // What is not signed has no say.
    for (key, value) in [("timestamp", "4000000000"), ("version", "99.0.0")] {
        signature
            .annotations
            .insert(key.to_owned(), value.to_owned());
    }
    let mut rule = bounds.clone();
    rule["type"] = json!("notOlder");
    rule["signature"] = signed_by_key();
    let evidence = evidence(&signer, &[(digest, vec![signature])]);
    let answer = decide(&policy(&json!([rule])), resolve(NAME, raw), &evidence);
    let finding = &decision(&answer).findings()[0];
    assert_eq!(finding.requirement, "notOlder");
    assert_eq!(answer.is_ok(), finding.rejected.is_empty());
    finding
        .rejected
        .first()
        .map(|rejected| rejected.problem.clone())
}

#[test]
fn not_older_compares_signed_time() {
    let bounds = json!({"signedAfter": "2026-01-01T00:00:00Z"});
    let bound = 1_767_225_600;
    for (optional, stale) in [
        (json!({"timestamp": bound + 1}), None),
        (json!({"timestamp": bound}), Some(bound)),
        (json!({"timestamp": bound - 1}), Some(bound - 1)),
        (json!({"timestamp": -1}), Some(-1)),
    ] {
        let expected = stale.map(|found| {
            let wanted = "2026-01-01T00:00:00Z".parse().unwrap();
            SignatureProblem::Stale(Stale::SignedBefore { wanted, found })
        });
        assert_eq!(staleness(&bounds, &optional), expected);
    }
    for missing in [json!(null), json!({}), json!({"Timestamp": bound + 1})] {
        let expected = SignatureProblem::Stale(Stale::NoTimestamp);
        assert_eq!(staleness(&bounds, &missing), Some(expected));
    }
}

#[test]
fn not_older_compares_signed_versions() {
    let bounds = json!({"minimumVersion": {"annotation": "version", "version": "1.10.0"}});
    for met in ["1.10.0", "1.10.0+build.7", "1.11.0-rc.1", "2.0.0"] {
        assert_eq!(staleness(&bounds, &json!({"version": met})), None, "{met}");
    }
    for older in ["1.9.9", "1.10.0-rc.1", "0.0.1"] {
        let found = staleness(&bounds, &json!({"version": older}));
        let Some(SignatureProblem::Stale(Stale::OlderVersion { found, .. })) = found else {
            panic!("{older}: {found:?}");
        };
        assert_eq!(found.to_string(), older);
    }
    for none in ["1.10", "v1.10.0", "", "latest", "1.10.0 "] {
        let found = staleness(&bounds, &json!({"version": none}));
        let no_version = matches!(
            found,
            Some(SignatureProblem::Stale(Stale::NotAVersion { .. }))
        );
        assert!(no_version, "{none}: {found:?}");
    }
    for missing in [
        json!(null),
        json!({"Version": "2.0.0"}),
        json!({"version": 2}),
    ] {
        let found = staleness(&bounds, &missing);
        let no_version = matches!(
            found,
            Some(SignatureProblem::Stale(Stale::NoVersion { .. }))
        );
        assert!(no_version, "{missing}: {found:?}");
    }
}

#[test]
fn not_older_wants_every_bound_of_one_signature() {
    let signer = Signer::new();
    let raw = manifest_bytes();
    let digest = Digest::sha256_of(&raw);
    let attach = |optional: &Value| {
        let mut content: Value = serde_json::from_slice(&payload(&digest, REPOSITORY)).unwrap();
        content["optional"] = optional.clone();
        signer.attach_payload(content.to_string().into_bytes())
    };
    let (recent, version) = (json!({"timestamp": 1_800_000_000}), json!({"v": "2.0.0"}));
    let both = json!({"timestamp": 1_800_000_000, "v": "2.0.0"});
    let rule = json!({"type": "notOlder", "signature": signed_by_key(),
        "signedAfter": "2026-01-01T00:00:00Z",
        "minimumVersion": {"annotation": "v", "version": "2.0.0"}});
    for (signatures, allowed) in [
        (vec![attach(&recent), attach(&version)], false),
        (vec![attach(&recent), attach(&both)], true),
    ] {
        let evidence = evidence(&signer, &[(digest, signatures)]);
        let answer = decide(
            &policy(&json!([rule])),
            resolve(NAME, raw.clone()),
            &evidence,
        );
        assert_eq!(answer.is_ok(), allowed);
    }
}

/// A `sigstoreSigned` by any of these.
fn by(signers: &[&Signer]) -> Value {
    let keys: Vec<String> = signers
        .iter()
        .map(|signer| serde_json::to_value(signer.pem()).unwrap())
        .filter_map(|pem| pem.as_str().map(str::to_owned))
        .collect();
    json!({"type": "sigstoreSigned", "keyDatas": keys})
}

fn threshold(count: usize, of: &[Value]) -> Value {
    json!({"type": "threshold", "count": count, "of": of})
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn threshold_counts_keys_not_signatures_nor_members() {
    let (a, b, c) = (Signer::new(), Signer::new(), Signer::new());
    let raw = manifest_bytes();
    let digest = Digest::sha256_of(&raw);
    let any = by(&[&a, &b, &c]);
    let (ab, only_a) = (by(&[&a, &b]), by(&[&a]));
    let fresh_a =
        json!({"type": "notOlder", "signedAfter": "2026-01-01T00:00:00Z", "signature": only_a});
    let two = [any.clone(), any.clone()];
    let rows: [(&str, Value, &[&Signer], Option<usize>); 10] = [
        ("two signers", threshold(2, &two), &[&a, &b], None),
        ("one signer twice", threshold(2, &two), &[&a, &a], Some(1)),
        ("one signer once", threshold(2, &two), &[&a], Some(1)),
        ("nobody", threshold(2, &two), &[], Some(0)),
        (
            "the order of members",
            threshold(2, &[ab.clone(), only_a.clone()]),
            &[&a, &b],
            None,
        ),
        (
            "the order of signatures",
            threshold(2, &[ab.clone(), only_a.clone()]),
            &[&b, &a],
            None,
        ),
        (
            "members of one key",
            threshold(2, &[only_a.clone(), only_a.clone()]),
            &[&a, &b],
            Some(1),
        ),
        (
            "a stale one",
            threshold(2, &[fresh_a, ab.clone()]),
            &[&a, &b],
            Some(1),
        ),
        (
            "a group is one member",
            threshold(2, &[threshold(1, &two), only_a.clone()]),
            &[&a],
            Some(1),
        ),
        (
            "a group beside",
            threshold(2, &[threshold(1, &two), only_a.clone()]),
            &[&a, &c],
            None,
        ),
    ];
    for (row, rule, signers, short) in rows {
        let attach = |signer: &&Signer| signer.attach(&digest, REPOSITORY);
        let signatures = signers.iter().map(attach).collect();
        let evidence = evidence(&a, &[(digest, signatures)]);
        let expected = match short {
            None => Outcome::Met(Grounds::Members(2)),
            Some(found) => Outcome::Refused(Refusal::TooFew {
                wanted: 2,
                of: 2,
                found,
            }),
        };
        assert_eq!(
            outcome(&rule, NAME, raw.clone(), &evidence),
            expected,
            "{row}"
        );
    }
}

#[test]
fn any_of_is_a_threshold_of_one_and_says_why_none_is_met() {
    let (a, b) = (Signer::new(), Signer::new());
    let raw = manifest_bytes();
    let digest = Digest::sha256_of(&raw);
    let listed = json!({"type": "digestAllowed", "digests": {REPOSITORY: [digest]}});
    let other = Digest::sha256_of(b"other");
    let not_listed = json!({"type": "digestAllowed", "digests": {REPOSITORY: [other]}});
    let evidence = evidence(&a, &[(digest, vec![b.attach(&digest, REPOSITORY)])]);
    let met = threshold(1, &[not_listed.clone(), by(&[&a]), listed]);
    assert_eq!(
        outcome(&met, NAME, raw.clone(), &evidence),
        Outcome::Met(Grounds::Members(1))
    );
    let refused = policy(&json!([threshold(1, &[not_listed, by(&[&a])])]));
    let denied = decide(&refused, resolve(NAME, raw), &evidence).unwrap_err();
    assert_eq!(denied.cause(), "too few acceptable signatures");
    let text = denied.to_string();
    assert!(
        text.contains("threshold: none of the 2 members is met (digestAllowed: "),
        "{text}"
    );
    assert!(text.contains("not by the key of the policy)"), "{text}");
    let record = denied.decision().to_json().unwrap();
    assert!(
        record.contains(r#""members":[{"outcome":"refused","#),
        "{record}"
    );
}

#[test]
fn a_threshold_needs_what_its_members_need() {
    let listed = Digest::sha256_of(b"listed");
    let listed = json!({"type": "digestAllowed", "digests": {REPOSITORY: [listed]}});
    let rule = threshold(1, &[listed, signed_by_key()]);
    let policy = policy(&json!([rule]));
    let manifest = resolve(NAME, manifest_bytes());
    let rules = policy.rules_for(manifest.reference());
    let needs = rules.needs(&manifest);
    assert_eq!(rules.resources(), needs.resources);
    assert_eq!(
        needs.resources.iter().collect::<Vec<_>>(),
        [crate::support::KEY]
    );
    assert_eq!(needs.cosign_subjects, [*manifest.digest()]);
}

#[test]
fn a_threshold_of_what_cannot_be_counted_is_no_policy() {
    let accept = json!({"type": "insecureAcceptAnything"});
    let reject = json!({"type": "reject"});
    let key = signed_by_key();
    let pki = json!({"type": "sigstoreSigned", "pki": {"caRootsPath": "/c", "subjectEmail": "e"}});
    let two = threshold(2, &[key.clone(), key.clone()]);
    let listed = Digest::sha256_of(b"listed");
    let listed = json!({"type": "digestAllowed", "digests": {REPOSITORY: [listed]}});
    let no_choice = |kind| PolicyProblem::NoChoice { kind };
    let no_signers = |kind| PolicyProblem::NoSigners { kind };
    let count = |found, members| PolicyProblem::Count { found, members };
    let deep = (0..4).fold(key.clone(), |inner, _| threshold(1, &[inner]));
    let rows = [
        (
            threshold(1, &[key.clone(), accept]),
            no_choice("insecureAcceptAnything"),
        ),
        (threshold(1, &[key.clone(), reject]), no_choice("reject")),
        (
            threshold(1, &[json!({"type": "requireDigest"}), key.clone()]),
            no_choice("requireDigest"),
        ),
        (
            threshold(1, &[key.clone(), json!({"type": "encrypted"})]),
            no_choice("encrypted"),
        ),
        (threshold(0, std::slice::from_ref(&key)), count(0, 1)),
        (threshold(2, std::slice::from_ref(&key)), count(2, 1)),
        (threshold(1, &[]), PolicyProblem::EmptyList),
        (
            threshold(2, &[key.clone(), pki]),
            no_signers("sigstoreSigned"),
        ),
        (
            threshold(2, &[key.clone(), listed]),
            no_signers("digestAllowed"),
        ),
        (threshold(2, &[key.clone(), two]), no_signers("threshold")),
        (
            threshold(1, &vec![key; 33]),
            PolicyProblem::TooMany {
                limit: 32,
                found: 33,
            },
        ),
        (deep, PolicyProblem::TooDeep { limit: 3 }),
    ];
    for (rule, expected) in rows {
        assert_eq!(problem(&rule), expected, "{rule}");
    }
}

#[test]
fn sloppy_bounds_are_no_policy() {
    let with = |members: Value| {
        let mut rule = members;
        rule["type"] = json!("notOlder");
        rule["signature"] = signed_by_key();
        problem(&rule)
    };
    assert_eq!(with(json!({})), PolicyProblem::NoBound);
    for text in [
        "",
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-01-01T00:00:00+01:00",
        "2026-02-30T00:00:00Z",
        "2026-01-01 00:00:00Z",
        "1767225600",
    ] {
        assert_eq!(
            with(json!({"signedAfter": text})),
            PolicyProblem::Moment,
            "{text}"
        );
    }
    for text in ["", "1", "1.2", "v1.2.3", "01.2.3", "latest"] {
        let bound = json!({"minimumVersion": {"annotation": "v", "version": text}});
        let found = with(bound);
        assert!(
            matches!(found, PolicyProblem::Version { .. }),
            "{text}: {found:?}"
        );
    }
    let digests = |name: &str, list: Value| {
        problem(&json!({"type": "digestAllowed", "digests": {name: list}}))
    };
    let digest = Digest::sha256_of(b"");
    assert_eq!(
        digests("a.example/b:1", json!([digest])),
        PolicyProblem::NotNameOnly
    );
    assert_eq!(digests("a.example/b", json!([])), PolicyProblem::EmptyList);
    assert!(matches!(
        digests("busybox", json!([digest])),
        PolicyProblem::Reference(_)
    ));
    assert!(matches!(
        digests("a.example/b", json!(["latest"])),
        PolicyProblem::Digest(_)
    ));
    assert_eq!(
        problem(&json!({"type": "digestAllowed", "digests": {}})),
        PolicyProblem::EmptyList
    );
    let wrapped = json!({"type": "notOlder", "signedAfter": "2026-01-01T00:00:00Z",
        "signature": {"type": "insecureAcceptAnything"}});
    assert!(matches!(
        problem(&wrapped),
        PolicyProblem::UnknownValue { .. }
    ));
}

#[test]
fn own_requirements_print_as_what_they_were_read_from() {
    let mut key = signed_by_key();
    key["signedIdentity"] = json!({"type": "matchRepository"});
    let document = json!({
        "default": [
            {"type": "requireDigest"},
            {"type": "encrypted"},
            {"type": "digestAllowed", "digests": {REPOSITORY: [Digest::sha256_of(b"")]}},
            {"type": "notOlder", "signedAfter": "2026-01-31T12:00:00Z", "signature": key,
                "minimumVersion": {"annotation": "version", "version": "1.2.3-rc.1"}},
            threshold(2, &[key.clone(), threshold(1, &[key.clone()])]),
        ],
        "transports": {},
    });
    let policy = Policy::parse(document.to_string().as_bytes()).unwrap();
    assert_eq!(serde_json::to_value(&policy).unwrap(), document);
}
