//! Bundles: whose count, for what, and that bad ones beside a good one do no harm.

use std::collections::BTreeMap;

use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA256_ASN1_SIGNING,
    ECDSA_P521_SHA512_ASN1_SIGNING, Ed25519KeyPair, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use policy::{
    BundleProblem, CosignSignature, Denied, Discovered, Evidence, Manifest, NotFetched, Outcome,
    Policy, PolicyError, PolicyProblem, Refusal, SignatureProblem, StatementProblem, Unverified,
};
use serde_json::{Value, json};

use crate::support::{
    KEY, NAME, REPOSITORY, Signer, decide, decision, manifest_bytes, policy, resolve, signed_by_key,
};

const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";
const SIGNATURE: &str = "https://sigstore.dev/cosign/sign/v1";
const SLSA: &str = "https://slsa.dev/provenance/v1";

fn image() -> Unverified<Manifest> {
    resolve(NAME, manifest_bytes())
}

fn statement(predicate_type: &str, predicate: &Value) -> Value {
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {"sha256": image().digest().hex()}}],
        "predicateType": predicate_type,
        "predicate": predicate,
    })
}

fn signature() -> Value {
    statement(SIGNATURE, &json!({}))
}

fn envelope(signer: &Signer, payload_type: &str, payload: &[u8]) -> Value {
    let head = format!(
        "DSSEv1 {} {payload_type} {} ",
        payload_type.len(),
        payload.len()
    );
    let signature = signer.sign(&[head.as_bytes(), payload].concat());
    json!({
        "payloadType": payload_type,
        "payload": STANDARD.encode(payload),
        "signatures": [{"sig": STANDARD.encode(signature)}],
    })
}

fn bundle_of(envelope: &Value) -> Value {
    json!({
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": ""}},
        "dsseEnvelope": envelope,
    })
}

fn bundle(signer: &Signer, statement: &Value) -> Value {
    let payload = statement.to_string();
    bundle_of(&envelope(
        signer,
        "application/vnd.in-toto+json",
        payload.as_bytes(),
    ))
}

fn found(name: &str, content: &str) -> CosignSignature {
    CosignSignature {
        found: name.to_owned(),
        media_type: BUNDLE.to_owned(),
        payload: Ok(content.as_bytes().to_vec()),
        annotations: BTreeMap::new(),
    }
}

fn evidence(signer: &Signer, candidates: Vec<CosignSignature>) -> Evidence {
    let mut evidence = Evidence::default();
    let key = Ok(signer.pem().into_bytes());
    evidence.resources.insert(KEY.to_owned(), key);
    let subject = *image().digest();
    evidence.cosign.insert(subject, Ok(Vec::new()));
    let incomplete = Vec::new();
    let discovered = Discovered {
        candidates,
        incomplete,
    };
    evidence.discovered.insert(subject, discovered);
    evidence
}

fn with(signer: &Signer, bundle: &Value) -> Evidence {
    evidence(signer, vec![found("bundle", &bundle.to_string())])
}

/// What is wrong with the one candidate.
fn problem(policy: &Policy, evidence: &Evidence) -> SignatureProblem {
    let denied = decide(policy, image(), evidence).unwrap_err();
    one_problem(&denied)
}

fn one_problem(denied: &Denied) -> SignatureProblem {
    let [finding] = denied.decision().findings() else {
        panic!("{denied}");
    };
    let [rejected] = finding.rejected.as_slice() else {
        panic!("{denied}");
    };
    rejected.problem.clone()
}

fn attested(more: &Value) -> Policy {
    let mut requirement = json!({"type": "attestedBy", "keyPath": KEY, "predicateType": SLSA});
    for (key, value) in more.as_object().unwrap() {
        requirement[key] = value.clone();
    }
    policy(&json!([requirement]))
}

#[test]
fn bundle_by_a_key_of_any_kind_counts_without_a_log() {
    let ed25519 = Signer::Ed25519(Ed25519KeyPair::generate().unwrap());
    let rsa = Signer::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
    for signer in [
        Signer::ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING),
        Signer::ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING),
        Signer::ecdsa(&ECDSA_P521_SHA512_ASN1_SIGNING),
        Signer::ecdsa(&ECDSA_P521_SHA256_ASN1_SIGNING),
        ed25519,
        rsa,
    ] {
        let evidence = with(&signer, &bundle(&signer, &signature()));
        let answer = decide(&policy(&json!([signed_by_key()])), image(), &evidence);
        let decision = decision(&answer).clone();
        assert!(decision.is_allowed(), "{answer:?}");
        let record = decision.to_json().unwrap();
        assert!(record.contains("digest only"), "{record}");
    }
}

#[test]
fn one_good_bundle_counts_among_bad_ones_and_each_of_those_is_named() {
    let (owner, stranger) = (Signer::new(), Signer::new());
    let good = bundle(&owner, &signature()).to_string();
    let foreign = bundle(&stranger, &signature()).to_string();
    let unread = CosignSignature {
        payload: Err(NotFetched::transient("no answer")),
        ..found("unread", "")
    };
    let candidates = vec![
        found("broken", "{"),
        found("foreign", &foreign),
        unread,
        found("good", &good),
        found("behind", &foreign),
    ];
    let evidence = evidence(&owner, candidates);
    let answer = decide(&policy(&json!([signed_by_key()])), image(), &evidence);
    let decision = decision(&answer);
    assert!(decision.is_allowed(), "{answer:?}");
    let rejected = decision.findings()[0].rejected.iter();
    let rejected: Vec<&str> = rejected.map(|rejected| rejected.found.as_str()).collect();
    assert_eq!(rejected, ["broken", "foreign", "unread"]);
}

/// CVE-2026-39395: an attestation by the same key was taken for a signature.
#[test]
fn attestation_is_no_signature_and_signature_no_attestation() {
    let owner = Signer::new();
    let attestation = with(&owner, &bundle(&owner, &statement(SLSA, &json!({}))));
    let signature = with(&owner, &bundle(&owner, &signature()));
    let type_of = |expected: &str, found: &str| SignatureProblem::PredicateType {
        expected: expected.to_owned(),
        found: found.to_owned(),
    };
    let wants_signature = policy(&json!([signed_by_key()]));
    assert_eq!(
        problem(&wants_signature, &attestation),
        type_of(SIGNATURE, SLSA)
    );
    assert_eq!(
        problem(&attested(&json!({})), &signature),
        type_of(SLSA, SIGNATURE)
    );
    assert!(decide(&attested(&json!({})), image(), &attestation).is_ok());
}

/// CVE-2022-35929: without an attestation of the wanted type the answer was yes.
#[test]
fn nothing_attested_is_refused() {
    let owner = Signer::new();
    let denied = decide(&attested(&json!({})), image(), &evidence(&owner, vec![])).unwrap_err();
    let outcome = &denied.decision().findings()[0].outcome;
    assert_eq!(*outcome, Outcome::Refused(Refusal::NoSignature));
}

#[test]
fn attestation_must_say_what_the_policy_wants() {
    let owner = Signer::new();
    let predicate = json!({"builder": {"id": "https://ci.example/1"}, "critical": 2});
    let evidence = with(&owner, &bundle(&owner, &statement(SLSA, &predicate)));
    let rows = [
        (json!({"pointer": "/critical", "atMost": 2}), true),
        (json!({"pointer": "/critical", "atMost": 1}), false),
        (
            json!({"pointer": "/builder/id", "matches": "https://ci\\.example/[0-9]+"}),
            true,
        ),
        (
            json!({"pointer": "/builder/id", "matches": "https://ci\\.example/"}),
            false,
        ),
        (json!({"pointer": "/none", "equals": null}), false),
        (json!({"pointer": "/none", "exists": false}), true),
    ];
    for (condition, expected) in rows {
        let policy = attested(&json!({"conditions": [condition]}));
        let answer = decide(&policy, image(), &evidence);
        assert_eq!(answer.is_ok(), expected, "{condition}: {answer:?}");
        if let Err(denied) = answer {
            let problem = one_problem(&denied);
            assert!(
                matches!(problem, SignatureProblem::Condition(_)),
                "{problem:?}"
            );
        }
    }
}

#[test]
fn every_predicate_that_has_a_name_is_known_and_its_fields_are_compared() {
    let owner = Signer::new();
    let rows = [
        (
            "slsaprovenance",
            "https://slsa.dev/provenance/v0.2",
            "/builder/id",
        ),
        (
            "slsaprovenance02",
            "https://slsa.dev/provenance/v0.2",
            "/builder/id",
        ),
        ("slsaprovenance1", SLSA, "/runDetails/builder/id"),
        ("spdx", "https://spdx.dev/Document", "/packages/0/name"),
        ("spdxjson", "https://spdx.dev/Document", "/packages/0/name"),
        (
            "cyclonedx",
            "https://cyclonedx.org/bom",
            "/components/0/name",
        ),
        ("openvex", "https://openvex.dev/ns", "/statements/0/status"),
        (
            "vuln",
            "https://cosign.sigstore.dev/attestation/vuln/v1",
            "/scanner/uri",
        ),
        (
            "custom",
            "https://cosign.sigstore.dev/attestation/v1",
            "/Data",
        ),
    ];
    for (name, uri, pointer) in rows {
        // From the inside out: a number is a place in a list.
        let predicate = pointer.rsplit('/').filter(|part| !part.is_empty());
        let predicate = predicate.fold(json!("expected"), |inner, part| match part {
            "0" => json!([inner]),
            key => json!({key: inner}),
        });
        let mut statement = statement(uri, &predicate);
        statement["_type"] = json!("https://in-toto.io/Statement/v0.1");
        let evidence = with(&owner, &bundle(&owner, &statement));
        for (value, expected) in [("expected", true), ("else", false)] {
            let condition = json!({"pointer": pointer, "equals": value});
            let wants = json!({"predicateType": name, "conditions": [condition]});
            let answer = decide(&attested(&wants), image(), &evidence);
            assert_eq!(answer.is_ok(), expected, "{name} {value}: {answer:?}");
        }
        // By another name it is none.
        let other = if name == "custom" { "vuln" } else { "custom" };
        let problem = problem(&attested(&json!({"predicateType": other})), &evidence);
        assert!(
            matches!(problem, SignatureProblem::PredicateType { .. }),
            "{name}: {problem:?}"
        );
    }
}

#[test]
fn envelope_beside_an_image_attests_as_a_bundle_does() {
    let owner = Signer::new();
    let payload = statement(SLSA, &json!({})).to_string();
    let kind = "application/vnd.in-toto+json";
    let envelope = envelope(&owner, kind, payload.as_bytes());
    let candidate = CosignSignature {
        media_type: ENVELOPE.to_owned(),
        ..found("att", &envelope.to_string())
    };
    let evidence = evidence(&owner, vec![candidate]);
    assert!(decide(&attested(&json!({})), image(), &evidence).is_ok());
    // A signature it is not, whatever it says.
    let denied = decide(&policy(&json!([signed_by_key()])), image(), &evidence).unwrap_err();
    assert_eq!(denied.cause(), "no signature");
}

/// What cosign once wrote into the log is an entry that the engine does not know.
#[test]
fn evidence_that_no_key_needs_is_not_read() {
    let owner = Signer::new();
    let statement = statement(SLSA, &json!({}));
    let mut logged = bundle(&owner, &statement);
    logged["verificationMaterial"]["tlogEntries"] = json!([{
        "kindVersion": {"kind": "intoto", "version": "0.0.1"},
    }]);
    let wants = attested(&json!({}));
    assert!(decide(&wants, image(), &with(&owner, &logged)).is_ok());
    let payload = statement.to_string();
    let envelope = envelope(&owner, "application/vnd.in-toto+json", payload.as_bytes());
    let beside = [
        ("dev.sigstore.cosign/bundle", "{}"),
        ("dev.sigstore.cosign/certificate", "none"),
        ("dev.sigstore.cosign/chain", "none"),
        ("dev.sigstore.cosign/rfc3161timestamp", "none"),
    ];
    let candidate = CosignSignature {
        media_type: ENVELOPE.to_owned(),
        annotations: beside
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        ..found("att", &envelope.to_string())
    };
    assert!(decide(&wants, image(), &evidence(&owner, vec![candidate])).is_ok());
    // Somebody else's signature it does not make one of the key's.
    let foreign = with(&owner, &bundle(&Signer::new(), &statement));
    assert_eq!(
        problem(&wants, &foreign),
        SignatureProblem::OtherKey { tried: 1 }
    );
}

#[test]
fn statement_that_is_not_about_this_image_in_one_reading_is_refused() {
    let owner = Signer::new();
    let hex = image().digest().hex();
    let subject = |subject: Value| {
        let mut changed = signature();
        changed["subject"] = subject;
        changed.to_string()
    };
    let plain = signature().to_string();
    let rows = [
        (
            "another digest",
            subject(json!([{"digest": {"sha256": "0".repeat(64)}}])),
        ),
        ("no subjects", subject(json!([]))),
        ("null subjects", subject(Value::Null)),
        ("a null subject", subject(json!([null]))),
        ("a null digest", subject(json!([{"digest": null}]))),
        (
            "a digest that is no text",
            subject(json!([{"digest": {"sha256": 7}}])),
        ),
        (
            "sha512 only",
            subject(json!([{"digest": {"sha512": "0".repeat(128)}}])),
        ),
        (
            "upper case",
            subject(json!([{"digest": {"sha256": hex.to_uppercase()}}])),
        ),
        (
            "a key twice",
            plain.replacen('{', r#"{"predicateType":"x","#, 1),
        ),
        ("trailing bytes", format!("{plain}{{}}")),
        (
            "another type",
            plain.replace("Statement/v1", "Statement/v9"),
        ),
        ("empty object", "{}".to_owned()),
        ("nothing", String::new()),
    ];
    let wants = policy(&json!([signed_by_key()]));
    for (case, payload) in rows {
        let envelope = envelope(&owner, "application/vnd.in-toto+json", payload.as_bytes());
        let problem = problem(&wants, &with(&owner, &bundle_of(&envelope)));
        assert!(
            matches!(problem, SignatureProblem::Statement(_)),
            "{case}: {problem:?}"
        );
    }
    let other = envelope(&owner, "application/json", plain.as_bytes());
    let found = "application/json".to_owned();
    assert_eq!(
        problem(&wants, &with(&owner, &bundle_of(&other))),
        SignatureProblem::Statement(StatementProblem::PayloadType { found })
    );
}

#[test]
fn what_is_no_subject_does_not_spoil_one() {
    let owner = Signer::new();
    let own = json!({"digest": {"sha256": image().digest().hex(), "odd": null}});
    let mut statement = signature();
    statement["subject"] = json!([null, {"digest": null}, {"digest": {"sha256": 7}}, own]);
    let wants = policy(&json!([signed_by_key()]));
    assert!(decide(&wants, image(), &with(&owner, &bundle(&owner, &statement))).is_ok());
}

#[test]
fn bundle_that_has_two_readings_or_two_signatures_is_refused() {
    let owner = Signer::new();
    let good = bundle(&owner, &signature());
    let text = good.to_string();
    let mut two = good.clone();
    let signatures = two["dsseEnvelope"]["signatures"].as_array_mut().unwrap();
    signatures.push(signatures[0].clone());
    let mut none = good.clone();
    none["dsseEnvelope"]["signatures"] = json!([]);
    let mut version = good;
    version["mediaType"] = json!("application/vnd.dev.sigstore.bundle.v9.9+json");
    let wants = policy(&json!([signed_by_key()]));
    for (case, content) in [
        ("two signatures", two.to_string()),
        ("no signature", none.to_string()),
        ("another version", version.to_string()),
        ("no version", text.replace("mediaType", "type")),
        ("a key twice", text.replacen('{', r#"{"mediaType":"x","#, 1)),
        ("trailing bytes", format!("{text} {{}}")),
        ("nothing", String::new()),
    ] {
        let problem = problem(&wants, &evidence(&owner, vec![found(case, &content)]));
        assert!(
            matches!(
                problem,
                SignatureProblem::Bundle(BundleProblem::Json(_) | BundleProblem::Malformed { .. })
            ),
            "{case}: {problem:?}"
        );
    }
}

#[test]
fn bundle_with_none_or_two_of_what_excludes_each_other_is_refused() {
    let owner = Signer::new();
    let good = bundle(&owner, &signature());
    let wants = policy(&json!([signed_by_key()]));
    let message = json!({"signature": good["dsseEnvelope"]["signatures"][0]["sig"]});
    let content = ["dsseEnvelope", "messageSignature"].as_slice();
    let signer = ["certificate", "x509CertificateChain", "publicKey"].as_slice();
    let edited = |change: &dyn Fn(&mut Value)| {
        let mut changed = good.clone();
        change(&mut changed);
        changed
    };
    let material = "verificationMaterial";
    for (case, changed, group, found) in [
        (
            "both contents",
            edited(&|it| it["messageSignature"] = message.clone()),
            content,
            2,
        ),
        (
            "no content",
            edited(&|it| it["dsseEnvelope"] = Value::Null),
            content,
            0,
        ),
        (
            "key and certificate",
            edited(&|it| it[material]["certificate"] = json!({"rawBytes": "AA=="})),
            signer,
            2,
        ),
        (
            "neither key nor certificate",
            edited(&|it| it[material] = json!({})),
            signer,
            0,
        ),
    ] {
        assert_eq!(
            problem(&wants, &with(&owner, &changed)),
            SignatureProblem::Bundle(BundleProblem::NotOne { group, found }),
            "{case}"
        );
    }
    // What is null is not there.
    let nothing = edited(&|it| it["messageSignature"] = Value::Null);
    assert!(decide(&wants, image(), &with(&owner, &nothing)).is_ok());
}

#[test]
fn nothing_that_a_stranger_states_is_read() {
    let (owner, stranger) = (Signer::new(), Signer::new());
    let log = STANDARD.encode(Signer::new().pem());
    let mut logged = signed_by_key();
    logged["rekorPublicKeyData"] = json!(log);
    for wants in [signed_by_key(), logged] {
        let wants = policy(&json!([wants]));
        for (payload_type, payload) in [
            ("application/json", "{}"),
            ("application/vnd.in-toto+json", "no JSON"),
            ("application/vnd.in-toto+json", "{}"),
        ] {
            let envelope = envelope(&stranger, payload_type, payload.as_bytes());
            let problem = problem(&wants, &with(&owner, &bundle_of(&envelope)));
            assert_eq!(
                problem,
                SignatureProblem::OtherKey { tried: 1 },
                "{payload}"
            );
        }
    }
}

#[test]
fn name_of_the_repository_is_demanded_of_no_bundle_in_vain() {
    let owner = Signer::new();
    let evidence = with(&owner, &bundle(&owner, &signature()));
    let wants = |identity: Option<Value>| {
        let mut requirement = signed_by_key();
        if let Some(identity) = identity {
            requirement["signedIdentity"] = identity;
        }
        policy(&json!([requirement]))
    };
    let digest_only = || wants(Some(json!({"type": "digestOnly"})));
    assert!(decide(&digest_only(), image(), &evidence).is_ok());
    assert!(decide(&digest_only().strict_identity(), image(), &evidence).is_ok());
    assert_eq!(
        problem(&wants(None).strict_identity(), &evidence),
        SignatureProblem::IdentityNotStated
    );
    let named = wants(Some(json!({"type": "matchRepository"})));
    let rule = "matchRepository";
    let problem = problem(&named, &evidence);
    assert_eq!(problem, SignatureProblem::NamesNoRepository { rule });
    assert!(problem.to_string().contains("digestOnly"), "{problem}");
}

#[test]
fn annotations_must_be_signed() {
    let owner = Signer::new();
    let mut annotated = signature();
    annotated["subject"][0]["annotations"] = json!({"stage": "production"});
    let mut wants = signed_by_key();
    wants["annotations"] = json!({"stage": "production"});
    let wants = policy(&json!([wants]));
    let good = with(&owner, &bundle(&owner, &annotated));
    assert!(decide(&wants, image(), &good).is_ok());
    let mut beside = found("beside", &bundle(&owner, &signature()).to_string());
    let annotation = ("stage".to_owned(), "production".to_owned());
    beside.annotations.extend([annotation]);
    assert!(matches!(
        problem(&wants, &evidence(&owner, vec![beside])),
        SignatureProblem::Annotation { found: None, .. }
    ));
}

#[test]
fn one_bundle_counts_once_towards_a_threshold() {
    let owner = Signer::new();
    let threshold =
        json!({"type": "threshold", "count": 2, "of": [signed_by_key(), signed_by_key()]});
    let bundle = bundle(&owner, &signature()).to_string();
    let twice = vec![found("one", &bundle), found("two", &bundle)];
    let denied = decide(
        &policy(&json!([threshold])),
        image(),
        &evidence(&owner, twice),
    );
    let denied = denied.unwrap_err();
    assert_eq!(denied.cause(), "too few acceptable signatures");
}

#[test]
fn log_that_is_demanded_must_be_there_in_bundles_too() {
    let (owner, log) = (Signer::new(), Signer::new());
    let mut wants = signed_by_key();
    wants["rekorPublicKeyData"] = json!(STANDARD.encode(log.pem()));
    let evidence = with(&owner, &bundle(&owner, &signature()));
    let problem = problem(&policy(&json!([wants])), &evidence);
    assert_eq!(problem, SignatureProblem::Bundle(BundleProblem::NoLogEntry));
}

#[test]
fn bundles_are_looked_for_only_where_they_can_help() {
    let owner = Signer::new();
    let wants = policy(&json!([signed_by_key()]));
    let reference = image().reference().clone();
    let rules = wants.rules_for(&reference);
    let mut evidence = evidence(&owner, Vec::new());
    evidence.discovered.clear();
    assert_eq!(rules.needs(&image()).discover, []);
    let subject = *image().digest();
    assert_eq!(rules.needs_more(&image(), &evidence).discover, [subject]);
    let signature = owner.attach(&subject, REPOSITORY);
    evidence.cosign.insert(subject, Ok(vec![signature]));
    assert_eq!(rules.needs_more(&image(), &evidence).discover, []);
    let attested = attested(&json!({}));
    let rules = attested.rules_for(&reference);
    assert_eq!(rules.needs(&image()).discover, [subject]);
}

#[test]
fn list_that_could_not_be_read_whole_is_the_reason_only_if_nothing_counts() {
    let owner = Signer::new();
    let wants = policy(&json!([signed_by_key()]));
    let subject = *image().digest();
    let mut evidence = evidence(&owner, Vec::new());
    let discovered = evidence.discovered.get_mut(&subject).unwrap();
    let cap = NotFetched::permanent("see image_agent.evidence.candidates");
    discovered.incomplete = vec![cap, NotFetched::transient("no answer")];
    let denied = decide(&wants, image(), &evidence).unwrap_err();
    assert!(denied.decision().is_undecided(), "{denied}");
    let good = found("good", &bundle(&owner, &signature()).to_string());
    let discovered = evidence.discovered.get_mut(&subject).unwrap();
    discovered.candidates.push(good);
    assert!(decide(&wants, image(), &evidence).is_ok());
}

#[test]
fn no_document_trusts_a_root_and_names_nobody() {
    let nobody = PolicyProblem::RootWithoutIdentities;
    let rows = [
        (json!({}), Some(nobody)),
        (json!({"identities": []}), Some(PolicyProblem::EmptyList)),
        (json!({"identities": null}), None),
        (json!({"identities": [{}]}), None),
        (json!({"identities": [{"subject": "a@b"}]}), None),
        (json!({"identities": [{"issuer": "https://i"}]}), None),
        (
            json!({"identities": [{"subject": "", "issuer": "https://i"}]}),
            None,
        ),
        (
            json!({"identities": [{"subject": "a@b", "issuer": ""}]}),
            None,
        ),
        (
            json!({"identities": [{"subjectRegExp": ".*", "issuer": "https://i"}]}),
            None,
        ),
        (
            json!({"identities": [{"subject": "a@b", "issuerRegExp": "(x|)"}]}),
            None,
        ),
        (
            json!({"identities": [{"subject": "a@b", "subjectRegExp": "a", "issuer": "https://i"}]}),
            None,
        ),
        (
            json!({"identities": [{"githubWorkflowRepository": "acme/app"}]}),
            None,
        ),
    ];
    for kind in ["sigstoreSigned", "attestedBy"] {
        for (members, expected) in &rows {
            let mut requirement = json!({"type": kind, "trustedRoot": "public-good"});
            if kind == "attestedBy" {
                requirement["predicateType"] = json!("slsaprovenance1");
            }
            for (key, value) in members.as_object().unwrap() {
                requirement[key] = value.clone();
            }
            let document = json!({"default": [requirement]}).to_string();
            let error = Policy::parse(document.as_bytes()).expect_err(&document);
            if let Some(expected) = expected {
                assert_eq!(error.problem(), expected, "{document}");
            }
        }
    }
}

#[test]
fn trusted_root_and_what_belongs_to_it_stand_together_or_not_at_all() {
    let dev = json!([{"subject": "a@b", "issuer": "https://i"}]);
    let good = json!({"type": "sigstoreSigned", "trustedRoot": "public-good", "identities": dev});
    let parse = |requirement: &Value| {
        Policy::parse(json!({"default": [requirement]}).to_string().as_bytes())
    };
    assert!(parse(&good).is_ok());
    let changed = |key: &str, value: Value| {
        let mut changed = good.clone();
        changed[key] = value;
        changed
    };
    let conditions = |condition: Value| json!({"type": "attestedBy", "keyPath": KEY, "predicateType": SLSA, "conditions": [condition]});
    let rows = [
        changed("keyPath", json!("kbs:///a/b/c")),
        changed("rekorPublicKeyPath", json!("kbs:///a/b/c")),
        changed("trustedRoot", json!("public_good")),
        changed("trustedRoot", json!("")),
        changed("trustedRoot", json!({})),
        changed("evidence", json!({"tlog": "no"})),
        changed("evidence", json!({"log": false})),
        changed("annotations", json!({})),
        json!({"type": "sigstoreSigned", "keyPath": KEY, "identities": dev}),
        json!({"type": "sigstoreSigned", "keyPath": KEY, "evidence": {"tlog": true}}),
        json!({"type": "attestedBy", "predicateType": SLSA}),
        json!({"type": "attestedBy", "keyPath": KEY}),
        json!({"type": "attestedBy", "keyPath": KEY, "predicateType": "provenance"}),
        json!({"type": "attestedBy", "keyPath": KEY, "predicateType": SLSA, "conditions": []}),
        json!({"type": "attestedBy", "keyPath": KEY, "predicateType": SLSA, "conditions": [{"pointer": "/a"}]}),
        json!({"type": "attestedBy", "keyPath": KEY, "predicateType": SLSA, "conditions": [{"pointer": "a", "exists": true}]}),
        conditions(json!({"pointer": "/a~", "exists": false})),
        conditions(json!({"pointer": "/a~2b", "exists": false})),
        conditions(json!({"pointer": "/a", "atMost": 1e300})),
        conditions(json!({"pointer": "/a", "equals": {"b": [9_007_199_254_740_993.0]}})),
        json!({"type": "signedBy", "keyType": "GPGKeys", "keyPath": KEY, "signedIdentity": {"type": "digestOnly"}}),
    ];
    assert!(parse(&conditions(json!({"pointer": "/a~0~1b", "exists": false}))).is_ok());
    for requirement in rows {
        let parsed = parse(&requirement);
        assert!(parsed.is_err(), "{requirement}: {parsed:?}");
    }
}

#[test]
fn number_that_readers_take_for_another_one_is_not_compared() {
    let condition = |test: &str| {
        format!(
            r#"{{"default": [{{"type": "attestedBy", "keyPath": "{KEY}", "predicateType": "{SLSA}",
            "conditions": [{{"pointer": "/a", {test}}}]}}]}}"#
        )
    };
    for (test, expected) in [
        (r#""equals": 18446744073709551615"#, true),
        (r#""equals": 18446744073709551616"#, false),
        (r#""oneOf": [1, 18446744073709551616]"#, false),
        (r#""atMost": -9223372036854775809"#, false),
        (r#""atLeast": 7.5"#, true),
    ] {
        let parsed = Policy::parse(condition(test).as_bytes());
        let problem = parsed.as_ref().err().map(PolicyError::problem);
        let expected = (!expected).then_some(&PolicyProblem::NumberNotExact);
        assert_eq!(problem, expected, "{test}");
    }
}

#[test]
fn identity_that_everybody_has_is_warned_of() {
    let warnings = |identity: Value| {
        let signed = json!({
            "type": "sigstoreSigned",
            "trustedRoot": "public-good",
            "identities": [{"subject": "a@b", "issuer": "https://i"}, identity],
        });
        let policy = policy(&json!([signed]));
        policy
            .warnings()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let open = json!({"subjectRegExp": ".+", "issuerRegExp": ".+"});
    let [warning] = warnings(open.clone()).try_into().unwrap();
    assert!(warning.contains("everybody with an account"), "{warning}");
    for (key, value) in [
        ("issuerRegExp", "https://login\\.example\\.com"),
        ("subjectRegExp", ".+@example\\.com"),
        ("githubWorkflowRepository", "acme/app"),
    ] {
        let mut narrowed = open.clone();
        narrowed[key] = json!(value);
        assert_eq!(warnings(narrowed), [""; 0], "{key}");
    }
}

#[test]
fn trusted_root_of_another_kind_is_unusable() {
    let location = "kbs:///default/root/1";
    let dev = json!([{"subject": "a@b", "issuer": "https://i"}]);
    let wants = json!({"type": "sigstoreSigned", "trustedRoot": location, "identities": dev});
    let wants = policy(&json!([wants]));
    let kind = "application/vnd.dev.sigstore.trustedroot+json;version=0.1";
    for (case, root) in [
        ("empty", json!({"mediaType": kind})),
        ("no media type", json!({})),
        ("another", json!({"mediaType": "application/json"})),
        (
            "no window",
            json!({"mediaType": kind, "tlogs": [{"publicKey": {}}]}),
        ),
    ] {
        let mut evidence = evidence(&Signer::new(), Vec::new());
        let content = Ok(root.to_string().into_bytes());
        evidence.resources.insert(location.to_owned(), content);
        let denied = decide(&wants, image(), &evidence).unwrap_err();
        let outcome = &denied.decision().findings()[0].outcome;
        assert!(
            matches!(
                outcome,
                Outcome::Refused(Refusal::TrustedRootUnusable { .. })
            ),
            "{case}: {outcome:?}"
        );
    }
}
