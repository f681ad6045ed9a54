//! Certificates in the place of keys: which evidence they must come with, and whom they must name.
#![expect(
    clippy::items_after_statements,
    clippy::needless_pass_by_value,
    clippy::redundant_closure_for_method_calls,
    clippy::semicolon_if_nothing_returned,
    clippy::too_many_lines,
    clippy::type_complexity,
    reason = "tables of cases, each row as short as it can be"
)]

use kit::client::Code;
use kit::image::Image;
use kit::sigstore::{
    Attached, Bundle, Ceremony, GITHUB_ISSUER, Identity, IssuerForms, Moment, Sigstore, Statement,
    Version,
};
use serde_json::{Value, json};

use super::{ROOT, Stage};
use crate::{DENIED, assert_says};

const EMAIL: &str = "dev@example.com";
const ISSUER: &str = "https://login.example.com";
const ENTRY: &str = "/verificationMaterial/tlogEntries/0";
const STAMP: &str =
    "/verificationMaterial/timestampVerificationData/rfc3161Timestamps/0/signedTimestamp";

/// A requirement of a signature by these identities, with some members more.
fn by(identities: &Value, more: &Value) -> Value {
    let mut requirement = json!({
        "type": "sigstoreSigned",
        "trustedRoot": format!("kbs:///{ROOT}"),
        "identities": identities,
    });
    for (key, value) in more.as_object().unwrap() {
        requirement[key] = value.clone();
    }
    requirement
}

fn by_dev(evidence: &Value) -> Value {
    let identities = json!([{"subject": EMAIL, "issuer": ISSUER}]);
    by(&identities, &json!({"evidence": evidence}))
}

fn dev(services: &Sigstore) -> Ceremony<'_> {
    services.ceremony(Identity::email(EMAIL, ISSUER))
}

/// One bundle under one requirement: accepted where no words are expected.
struct Case {
    name: &'static str,
    requirement: Value,
    make: Box<dyn Fn(&Sigstore, &Statement) -> Bundle>,
    words: &'static [&'static str],
}

/// A case of dev's.
fn case(
    name: &'static str,
    evidence: &Value,
    make: impl for<'a> Fn(Ceremony<'a>) -> Ceremony<'a> + 'static,
    words: &'static [&'static str],
) -> Case {
    let make =
        move |services: &Sigstore, statement: &Statement| make(dev(services)).sign(statement);
    Case {
        name,
        requirement: by_dev(evidence),
        make: Box::new(make),
        words,
    }
}

/// A case of one who signs with everything.
fn who(
    name: &'static str,
    identities: Value,
    identity: Identity,
    words: &'static [&'static str],
) -> Case {
    let make = move |services: &Sigstore, statement: &Statement| {
        services.ceremony(identity.clone()).sign(statement)
    };
    Case {
        name,
        requirement: by(&identities, &json!({})),
        make: Box::new(make),
        words,
    }
}

impl Stage {
    /// Attaches each bundle to an image of its own and pulls that.
    async fn judge(&self, cases: Vec<Case>) {
        let daemon = self.guest.start().await;
        for (number, case) in cases.iter().enumerate() {
            let (name, image) = (case.name, Image::small(case.name));
            let repository = format!("team/app{number}");
            let reference = self.push(&format!("{repository}:1"), &image).await;
            let bundle = (case.make)(&self.services, &Statement::signature(&image.digest()));
            let attached = [Attached::bundle(&image, &bundle)];
            self.refer(&repository, &image, &attached).await;
            self.demand(&case.requirement);
            if case.words.is_empty() {
                self.delivers(&daemon, name, &reference).await;
                continue;
            }
            let refusal = daemon.refuses(&reference, &self.guest.bundle("c1")).await;
            assert_eq!(refusal.code, Code::PERMISSION_DENIED, "{name}: {refusal:?}");
            assert_says(name, &refusal.message, &[DENIED]);
            assert_says(name, &refusal.message, case.words);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_is_demanded_unless_it_is_switched_off_by_name() {
    let stage = Stage::set().await;
    let all = json!({});
    let no_log = json!({"tlog": false});
    let no_sct = json!({"sct": false});
    let stamped = json!({"timestamp": true});
    stage
        .judge(vec![
            case("everything", &all, |one| one, &[]),
            case("no timestamp", &all, |one| one.without_timestamp(), &[]),
            case("the second log", &all, |one| one.log(Version::Two), &[]),
            case(
                "the second log has no time",
                &all,
                |one| one.log(Version::Two).without_timestamp(),
                &["time"],
            ),
            case(
                "no log",
                &all,
                |one| one.without_log(),
                &["no entry of a transparency log"],
            ),
            case("no log, none wanted", &no_log, |one| one.without_log(), &[]),
            case(
                "no log, none wanted, no time",
                &no_log,
                |one| one.without_log().without_timestamp(),
                &["time"],
            ),
            case(
                "no certificate log",
                &all,
                |one| one.without_certificate_log(),
                &["SCT"],
            ),
            case(
                "no certificate log, none wanted",
                &no_sct,
                |one| one.without_certificate_log(),
                &[],
            ),
            case("a timestamp wanted", &stamped, |one| one, &[]),
            case(
                "no timestamp, one wanted",
                &stamped,
                |one| one.without_timestamp(),
                &["timestamp"],
            ),
            case(
                "signed before the certificate",
                &all,
                |one| {
                    one.issued(Moment::now().minus(30))
                        .signed(Moment::now().minus(3600))
                },
                &["certificate"],
            ),
            case(
                "signed after the certificate",
                &all,
                |one| one.issued(Moment::now().minus(7200)),
                &["certificate"],
            ),
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_a_certificate_names_is_compared_whole() {
    let stage = Stage::set().await;
    let github = || Identity::github("acme/app", "release.yml", "refs/heads/main");
    let workflow = "https://github.com/acme/app/.github/workflows/release.yml@refs/heads/main";
    let acme = |more: Value| {
        let mut entry = json!({
            "subjectRegExp": "https://github\\.com/acme/.*",
            "issuer": GITHUB_ISSUER,
        });
        for (key, value) in more.as_object().unwrap() {
            entry[key] = value.clone();
        }
        json!([entry])
    };
    let subject = |name: &str| json!([{"subject": name, "issuer": ISSUER}]);
    let exact = json!([{"subject": workflow, "issuer": GITHUB_ISSUER}]);
    let several = json!([
        {"subject": "nobody@example.com", "issuer": ISSUER},
        {"subject": EMAIL, "issuerRegExp": "https://login\\.example\\.(com|org)"},
    ]);
    let email = || Identity::email(EMAIL, ISSUER);
    let many = || {
        email()
            .and_uri("spiffe://example.com/a")
            .and_dns("build.example.com")
    };
    let evil = || {
        Identity::uri(
            "https://evil.example/?https://github.com/acme/app",
            GITHUB_ISSUER,
        )
    };
    stage
        .judge(vec![
            who("a workflow", exact, github(), &[]),
            who("any workflow of acme", acme(json!({})), github(), &[]),
            who(
                "the middle of a name",
                acme(json!({})),
                evil(),
                &["evil.example"],
            ),
            who("any of the entries", several, email(), &[]),
            who(
                "the second name",
                subject("spiffe://example.com/a"),
                many(),
                &[],
            ),
            who("a DNS name", subject("build.example.com"), many(), &[]),
            who(
                "a user name",
                subject("dev!acme"),
                email().and_username("dev!acme"),
                &[],
            ),
            who(
                "another name",
                subject("else@example.com"),
                email(),
                &[EMAIL],
            ),
            who(
                "the beginning of a name",
                subject("dev@example.co"),
                email(),
                &[EMAIL],
            ),
            who(
                "another issuer",
                json!([{"subject": EMAIL, "issuer": "https://evil.example"}]),
                email(),
                &[ISSUER],
            ),
            who(
                "the first form of the issuer",
                subject(EMAIL),
                email().issuer_forms(IssuerForms::First),
                &[],
            ),
            who(
                "the second form of the issuer",
                subject(EMAIL),
                email().issuer_forms(IssuerForms::Second),
                &[],
            ),
            who(
                "no issuer",
                subject(EMAIL),
                email().issuer_forms(IssuerForms::Missing),
                &["issuer"],
            ),
            who(
                "claims that hold",
                acme(json!({
                    "githubWorkflowRepository": "acme/app",
                    "githubWorkflowRef": "refs/heads/main",
                    "githubWorkflowTrigger": "push",
                })),
                github(),
                &[],
            ),
            who(
                "a claim that does not hold",
                acme(json!({"githubWorkflowRef": "refs/tags/v1"})),
                github(),
                &["refs/heads/main"],
            ),
        ])
        .await;
}

/// Each advisory by what it teaches: who made the software vulnerable is not what is tested.
#[tokio::test(flavor = "multi_thread")]
async fn the_lessons_of_the_advisories_hold() {
    let stage = Stage::set().await;
    let swapped = |services: &Sigstore, statement: &Statement| {
        let other = dev(services).sign(&statement.clone().annotated("other", "one"));
        let entry = other.json()["verificationMaterial"]["tlogEntries"].clone();
        dev(services)
            .sign(statement)
            .edit(|json| json["verificationMaterial"]["tlogEntries"] = entry)
    };
    let unpromised = |services: &Sigstore, statement: &Statement| {
        let signed = dev(services).without_timestamp().sign(statement);
        signed.without(&format!("{ENTRY}/inclusionPromise"))
    };
    let moved = |services: &Sigstore, statement: &Statement| {
        dev(services).sign(statement).edit(|json| {
            json["verificationMaterial"]["tlogEntries"][0]["integratedTime"] = "1".into()
        })
    };
    let predicate = |services: &Sigstore, statement: &Statement| {
        let sbom = "https://spdx.dev/Document";
        dev(services).sign(
            &statement
                .clone()
                .edit(|json| json["predicateType"] = sbom.into()),
        )
    };
    let twice = |services: &Sigstore, statement: &Statement| {
        dev(services).sign(statement).edit(|json| {
            let signature = json["dsseEnvelope"]["signatures"][0].clone();
            json["dsseEnvelope"]["signatures"] = json!([signature, signature]);
        })
    };
    let no_subject = |services: &Sigstore, statement: &Statement| {
        dev(services).sign(&statement.clone().edit(|json| json["subject"] = json!([])))
    };
    let empty_digest = |services: &Sigstore, statement: &Statement| {
        let empty = json!([{"digest": {"sha256": ""}}]);
        dev(services).sign(&statement.clone().edit(|json| json["subject"] = empty))
    };
    let garbage = |services: &Sigstore, statement: &Statement| {
        dev(services).sign(statement).edit(|json| {
            json["verificationMaterial"]["tlogEntries"][0]["canonicalizedBody"] = "e30=".into();
        })
    };
    let foreign_stamp = |services: &Sigstore, statement: &Statement| {
        let other = Sigstore::mint();
        let stamp = dev(&other).sign(statement);
        let stamp = stamp.json().pointer(STAMP).cloned().unwrap();
        dev(services)
            .sign(statement)
            .edit(|json| *json.pointer_mut(STAMP).unwrap() = stamp)
    };
    type Make = fn(&Sigstore, &Statement) -> Bundle;
    let lessons: [(&'static str, Make, &'static [&'static str]); 9] = [
        (
            "an entry is of this signature",
            swapped,
            &["does not count"],
        ),
        ("a time without a promise is no time", unpromised, &["time"]),
        ("a promise covers its time", moved, &["does not count"]),
        (
            "the type of predicate is checked",
            predicate,
            &["https://spdx.dev/Document"],
        ),
        ("an envelope has one signature", twice, &["does not count"]),
        ("no subject is no match", no_subject, &["does not count"]),
        (
            "an empty digest is no match",
            empty_digest,
            &["does not count"],
        ),
        (
            "a malformed entry is refused and not a panic",
            garbage,
            &["does not count"],
        ),
        (
            "a timestamp is of a trusted authority",
            foreign_stamp,
            &["does not count"],
        ),
    ];
    let cases = lessons.map(|(name, make, words)| Case {
        name,
        requirement: by_dev(&json!({})),
        make: Box::new(make),
        words,
    });
    stage.judge(cases.into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn intermediates_are_good_when_they_are_used() {
    let mut stage = Stage::set().await;
    stage.services = Sigstore::with_expired_intermediate();
    stage
        .scene
        .kbs
        .put(ROOT, stage.services.trusted_root().to_string());
    let all = json!({});
    // Within the year of the intermediate, which ended long ago.
    const THEN: Moment = Moment(1_590_000_000);
    stage
        .judge(vec![
            case(
                "in its time",
                &all,
                |one| one.issued(THEN).signed(THEN.plus(10)),
                &[],
            ),
            case("after its time", &all, |one| one, &["does not count"]),
        ])
        .await;
}
