//! Certificates in the place of keys: which evidence they must come with, and whom they must name.
#![expect(
    clippy::needless_pass_by_value,
    clippy::redundant_closure_for_method_calls,
    clippy::too_many_lines,
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

pub(super) const EMAIL: &str = "dev@example.com";
pub(super) const ISSUER: &str = "https://login.example.com";
pub(super) const ENTRY: &str = "/verificationMaterial/tlogEntries/0";
pub(super) const STAMP: &str =
    "/verificationMaterial/timestampVerificationData/rfc3161Timestamps/0/signedTimestamp";

/// A requirement of a signature by these identities, with some members more.
pub(super) fn by(identities: &Value, more: &Value) -> Value {
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

pub(super) fn by_dev(evidence: &Value) -> Value {
    let identities = json!([{"subject": EMAIL, "issuer": ISSUER}]);
    by(&identities, &json!({"evidence": evidence}))
}

pub(super) fn dev(services: &Sigstore) -> Ceremony<'_> {
    services.ceremony(Identity::email(EMAIL, ISSUER))
}

type Make = Box<dyn Fn(&Sigstore, &Statement) -> Bundle>;

/// One bundle under one requirement: accepted where no words are expected.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) requirement: Value,
    pub(super) make: Make,
    pub(super) words: &'static [&'static str],
}

/// A case of dev's.
pub(super) fn case(
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
    pub(super) async fn judge(&self, cases: Vec<Case>) {
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
async fn timestamp_that_nobody_can_check_and_nobody_demands_does_no_harm() {
    let stage = Stage::set().await;
    let mut root = stage.services.trusted_root();
    root["timestampAuthorities"] = json!([]);
    stage.scene.kbs.put(ROOT, root.to_string());
    let all = json!({});
    let cases = vec![
        case("with a promise of the log", &all, |one| one, &[]),
        // It is no time either.
        case(
            "with a proof of the log alone",
            &all,
            |one| one.log(Version::Two),
            &["time"],
        ),
    ];
    stage.judge(cases).await;
}

/// A private Sigstore that has no log or no certificate log, which is named in the policy, and a root
/// that stands in it.
#[tokio::test(flavor = "multi_thread")]
async fn root_without_a_service_is_enough_where_that_is_switched_off() {
    type Change = for<'a> fn(Ceremony<'a>) -> Ceremony<'a>;
    let stage = Stage::set().await;
    let rows: [(&str, &str, Change); 2] = [
        ("tlogs", "tlog", |one| one.without_log()),
        ("ctlogs", "sct", |one| one.without_certificate_log()),
    ];
    for (list, switch, change) in rows {
        let mut root = stage.services.trusted_root();
        root[list] = json!([]);
        let mut off = case(list, &json!({switch: false}), change, &[]);
        off.requirement["trustedRoot"] = root.clone();
        let mut demanded = by_dev(&json!({}));
        demanded["trustedRoot"] = root;
        stage.judge(vec![off]).await;
        let document = json!({"default": [demanded]}).to_string();
        let error = policy::Policy::parse(document.as_bytes()).unwrap_err();
        assert_says(list, &error.to_string(), &[list, switch]);
    }
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
