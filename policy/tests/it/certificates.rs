//! Certificates that stand for signers: which count, and which do not.

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use policy::{
    Authority, CertificateError, CertificateProblem, CosignSignature, Digest, Evidence, Grounds,
    IssuerError, LogKey, Outcome, PemError, Policy, Refusal, SctProblem, SignatureProblem,
};
use proptest::prelude::*;
use proptest::sample::Index;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use serde_json::{Value, json};

use crate::holders::{
    BUNDLE, CERTIFICATE, CHAIN, Ca, EMAIL, Holder, OIDC, TIME, dns, email, extension, flip_pem,
    flip_text, issuer_v1, issuer_v2, log_body, promise, timestamp, timestamps, valid,
};
use crate::support::{
    NAME, REPOSITORY, SIGNATURE, Signer, decide, decision, manifest_bytes, policy, resolve,
};

const CA: &str = "kbs:///default/ca/1";
const LOG: &str = "kbs:///default/rekor-key/1";

fn nothing(_: &mut CertificateParams) {}

fn for_servers(params: &mut CertificateParams) {
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
}

fn fulcio(roots: &str) -> Authority {
    Authority::fulcio(roots.as_bytes(), OIDC, EMAIL).unwrap()
}

fn vouch(authority: &Authority, holder: &Holder, chain: &str) -> Result<(), CertificateProblem> {
    let vouched = authority.vouch(holder.pem.as_bytes(), chain.as_bytes(), TIME);
    vouched.map(|(key, _)| {
        assert_eq!(*key.fingerprint(), Digest::sha256_of(&holder.signer.spki()));
    })
}

fn path_error(result: Result<(), CertificateProblem>) -> String {
    match result {
        Err(CertificateProblem::Path { why }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_path_leads_to_a_trusted_authority_over_intermediates_of_anyone() {
    let root = Ca::root(nothing);
    let below = root.below("below", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    });
    let holder = below.issue(nothing);
    // The last certificate of a chain is never looked at, as it is the root.
    let chain = format!("{}{}", below.pem, root.pem);
    let any = below.below("any", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
    });
    let rows = [
        ("over an intermediate", &root.pem, &chain, true),
        (
            "the intermediate is trusted",
            &below.pem,
            &String::new(),
            true,
        ),
        ("the intermediate stands last", &root.pem, &below.pem, false),
        ("no chain", &root.pem, &String::new(), false),
        ("another authority", &any.pem, &chain, false),
    ];
    for (row, roots, chain, counts) in rows {
        let result = vouch(&fulcio(roots), &holder, chain);
        assert_eq!(result.is_ok(), counts, "{row}");
        if !counts {
            assert_eq!(path_error(result), "UnknownIssuer", "{row}");
        }
    }
}

type Change = fn(&mut CertificateParams);

/// Why a path over a changed intermediate to a changed leaf does not count.
fn path(intermediate: Change, leaf: Change) -> String {
    let root = Ca::root(nothing);
    let below = root.below("below", intermediate);
    let chain = format!("{}{}", below.pem, root.pem);
    path_error(vouch(&fulcio(&root.pem), &below.issue(leaf), &chain))
}

#[test]
fn nobody_on_the_path_exceeds_its_purpose() {
    let rows: [(&str, String, &str); 9] = [
        (
            "a leaf for servers",
            path(nothing, for_servers),
            "RequiredEkuNotFound",
        ),
        (
            "an intermediate for servers",
            path(for_servers, nothing),
            "UnknownIssuer",
        ),
        (
            "an intermediate that signs no certificates",
            path(
                |params| params.key_usages = vec![KeyUsagePurpose::CrlSign],
                nothing,
            ),
            "UnknownIssuer",
        ),
        (
            "an intermediate that is no authority",
            path(|params| params.is_ca = IsCa::ExplicitNoCa, nothing),
            "UnknownIssuer",
        ),
        (
            "an expired leaf",
            path(nothing, |params| valid(params, 2023, 2024)),
            "CertExpired",
        ),
        (
            "a leaf of tomorrow",
            path(nothing, |params| valid(params, 2025, 2026)),
            "CertNotValidYet",
        ),
        (
            "an expired intermediate",
            path(|params| valid(params, 2020, 2021), nothing),
            "CertExpired",
        ),
        (
            "an unknown critical extension",
            path(nothing, |params| {
                let unknown = extension(&[1, 2, 3, 4], b"\x05\x00", true);
                params.custom_extensions.push(unknown);
            }),
            "UnsupportedCriticalExtension",
        ),
        (
            "a leaf that is an authority",
            path(nothing, |params| {
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            }),
            "CaUsedAsEndEntity",
        ),
    ];
    for (row, found, expected) in rows {
        assert!(found.contains(expected), "{row}: {found}");
    }
}

#[test]
fn a_holder_issues_nothing() {
    let root = Ca::root(nothing);
    let holder = root.issue(nothing);
    let second = holder.as_ca.issue(nothing);
    let chain = format!("{}\n{}", holder.pem, root.pem);
    assert_eq!(
        path_error(vouch(&fulcio(&root.pem), &second, &chain)),
        "UnknownIssuer"
    );
}

#[test]
fn trusted_certificates_are_held_to_what_they_say_of_themselves() {
    let rows: [(&str, Change); 5] = [
        ("expired", |params| valid(params, 2020, 2024)),
        ("of tomorrow", |params| valid(params, 2025, 2030)),
        ("no authority", |params| params.is_ca = IsCa::ExplicitNoCa),
        ("for servers", for_servers),
        ("with an unknown critical extension", |params| {
            params.custom_extensions = vec![extension(&[1, 2, 3, 4], b"\x05\x00", true)];
        }),
    ];
    for (row, change) in rows {
        let root = Ca::root(change);
        let result = vouch(&fulcio(&root.pem), &root.issue(nothing), "");
        assert_eq!(
            result,
            Err(CertificateProblem::NoRoot { found: 1 }),
            "{row}"
        );
        // It takes nothing from a good one beside it.
        let good = Ca::root(nothing);
        let both = fulcio(&format!("old\n{}\nnew\n{}", root.pem, good.pem));
        assert_eq!(vouch(&both, &good.issue(nothing), ""), Ok(()), "{row}");
    }
    let root = Ca::root(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    assert_eq!(vouch(&fulcio(&root.pem), &root.issue(nothing), ""), Ok(()));
    let below = root.below("below", nothing);
    let chain = format!("{}{}", below.pem, root.pem);
    let long = vouch(&fulcio(&root.pem), &below.issue(nothing), &chain);
    assert_eq!(path_error(long), "PathLenConstraintViolated");
}

#[test]
fn a_fulcio_certificate_names_the_issuer_and_the_email_to_the_letter() {
    let root = Ca::root(nothing);
    let authority = fulcio(&root.pem);
    let check = |change: &dyn Fn(&mut CertificateParams)| {
        vouch(&authority, &root.issue(|params| change(params)), "")
    };
    assert_eq!(
        check(&|params| params.custom_extensions = vec![issuer_v1(OIDC)]),
        Ok(())
    );
    assert_eq!(
        check(&|params| params.custom_extensions = vec![issuer_v2(OIDC)]),
        Ok(())
    );
    let several = check(&|params| params.subject_alt_names = vec![email("a@b.c"), email(EMAIL)]);
    assert_eq!(several, Ok(()));

    let none = check(&|params| params.custom_extensions = vec![]);
    assert_eq!(none, Err(IssuerError::Missing.into()));
    let slash = format!("{OIDC}/");
    let two = check(&|params| params.custom_extensions = vec![issuer_v1(OIDC), issuer_v2(&slash)]);
    let (older, newer) = (OIDC.to_owned(), slash.clone());
    assert_eq!(two, Err(IssuerError::Inconsistent { older, newer }.into()));
    let other = check(&|params| params.custom_extensions = vec![issuer_v2(&slash)]);
    let (expected, found) = (OIDC.to_owned(), slash.clone());
    assert_eq!(
        other,
        Err(CertificateProblem::OtherIssuer { expected, found })
    );
    let trailing = check(&|params| {
        let content = [issuer_v2(OIDC).content(), b"\x00"].concat();
        let oid = [1, 3, 6, 1, 4, 1, 57264, 1, 8];
        params.custom_extensions = vec![extension(&oid, &content, false)];
    });
    assert!(
        matches!(
            trailing,
            Err(CertificateProblem::Issuer(IssuerError::Der(_)))
        ),
        "{trailing:?}"
    );
    let twice = check(&|params| params.custom_extensions = vec![issuer_v1(OIDC), issuer_v1(OIDC)]);
    let oid = "1.3.6.1.4.1.57264.1.1".to_owned();
    let duplicate = CertificateError::DuplicateExtension { oid };
    assert_eq!(twice, Err(CertificateProblem::Certificate(duplicate)));
    for address in [
        "Dev@example.com",
        "dev@example.com.evil.example",
        "ev@example.com",
    ] {
        let (expected, found) = (EMAIL.to_owned(), vec![address.to_owned()]);
        assert_eq!(
            check(&|params| params.subject_alt_names = vec![email(address)]),
            Err(CertificateProblem::OtherEmail { expected, found })
        );
    }
    let (expected, found) = (EMAIL.to_owned(), vec![]);
    let as_host = check(&|params| params.subject_alt_names = vec![dns(EMAIL)]);
    assert_eq!(
        as_host,
        Err(CertificateProblem::OtherEmail { expected, found })
    );
}

#[test]
fn a_certificate_of_the_owner_s_authority_has_every_name_of_the_policy() {
    let root = Ca::root(nothing);
    let holder = root.issue(|params| {
        params.subject_alt_names =
            vec![email(EMAIL), dns("build.example.com"), dns("*.ci.example")];
    });
    let rows = [
        (Some(EMAIL), None, true),
        (None, Some("build.example.com"), true),
        (None, Some("BUILD.example.com."), true),
        (None, Some("one.ci.example"), true),
        (None, Some("one.two.ci.example"), false),
        (None, Some("ci.example"), false),
        (None, Some("evil.example"), false),
        (Some(EMAIL), Some("evil.example"), false),
        (Some("evil@example.com"), Some("build.example.com"), false),
    ];
    for (email, host, counts) in rows {
        let authority = Authority::pki(root.pem.as_bytes(), None, email, host).unwrap();
        let result = vouch(&authority, &holder, "");
        assert_eq!(result.is_ok(), counts, "{email:?} {host:?}: {result:?}");
    }
    let unnamed = Authority::pki(root.pem.as_bytes(), None, None, Some("not a host"));
    let found = "not a host".to_owned();
    assert_eq!(unnamed.unwrap_err(), CertificateError::Hostname { found });
}

#[test]
fn what_is_no_certificate_is_refused_by_what_it_is() {
    let root = Ca::root(nothing);
    let holder = root.issue(nothing);
    let authority = fulcio(&root.pem);
    let problem = |certificate: &str, chain: &str| {
        let vouched = authority.vouch(certificate.as_bytes(), chain.as_bytes(), TIME);
        vouched.map(|_| ()).unwrap_err()
    };
    let twice = format!("{0}\n{0}", holder.pem);
    let key = holder.signer.pem();
    let rows = [
        (problem("", ""), CertificateError::Pem(PemError::NoBlock)),
        (
            problem(&twice, ""),
            CertificateError::Pem(PemError::NotOneBlock),
        ),
        (
            problem(&key, ""),
            CertificateError::Label {
                found: "PUBLIC KEY".to_owned(),
            },
        ),
    ];
    for (found, expected) in rows {
        assert_eq!(found, CertificateProblem::Certificate(expected));
    }
    assert_eq!(
        problem(&holder.pem, "garbage"),
        CertificateProblem::Chain(CertificateError::Pem(PemError::NoBlock))
    );
    let long = root.pem.repeat(10);
    assert_eq!(
        problem(&holder.pem, &long),
        CertificateProblem::LongChain { found: 9 }
    );
    let empty = Authority::fulcio(b"", OIDC, EMAIL).unwrap_err();
    assert_eq!(empty, CertificateError::None);
    let label = Authority::fulcio(key.as_bytes(), OIDC, EMAIL).unwrap_err();
    let found = "PUBLIC KEY".to_owned();
    assert_eq!(label, CertificateError::Label { found });
}

/// What a stranger may hand in is refused before it costs anything.
#[test]
fn more_than_any_honest_certificate_is_refused_unread() {
    let root = Ca::root(nothing);
    let authority = fulcio(&root.pem);
    let holder = root.issue(nothing);
    let many = root.issue(|params| {
        for number in 0..10_000_u64 {
            let oid = [1, 3, 128 + number / 100, number % 100];
            params.custom_extensions.push(extension(&oid, b"", false));
        }
    });
    let vouch = |certificate: &str, chain: &str| {
        let vouched = authority.vouch(certificate.as_bytes(), chain.as_bytes(), TIME);
        vouched.map(|_| ()).unwrap_err()
    };
    let too_large = |problem: &CertificateError| match problem {
        CertificateError::TooLarge { limit, found } => {
            assert!(found > limit);
            *limit
        }
        other => panic!("{other:?}"),
    };
    let CertificateProblem::Certificate(problem) = vouch(&many.pem, "") else {
        panic!("a certificate of many extensions");
    };
    assert_eq!(too_large(&problem), 64 << 10);
    let text = " ".repeat(256 << 10);
    let CertificateProblem::Certificate(problem) = vouch(&format!("{text}{}", holder.pem), "")
    else {
        panic!("a long text");
    };
    assert_eq!(too_large(&problem), 256 << 10);
    let CertificateProblem::Chain(problem) = vouch(&holder.pem, &format!("{text}{}", root.pem))
    else {
        panic!("a long chain text");
    };
    assert_eq!(too_large(&problem), 256 << 10);
    // A long chain is not even parsed.
    let block = crate::support::pem("CERTIFICATE", b"no certificate");
    assert_eq!(
        vouch(&holder.pem, &block.repeat(1000)),
        CertificateProblem::LongChain { found: 999 }
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn one_certificate_with_two_emails_is_one_signer() {
    let root = Ca::root(nothing);
    let log = Signer::new();
    let (a, b) = ("a@example.com", "b@example.com");
    let holder = |names: &[&str]| {
        let names = names.iter().map(|name| email(name)).collect();
        root.issue(|params| params.subject_alt_names = names)
    };
    let digest = Digest::sha256_of(&manifest_bytes());
    let sign = |holder: &Holder| {
        let mut signature = holder.signer.attach(&digest, REPOSITORY);
        let body = log_body(&signature, &holder.pem);
        let bundle = promise(&log, &body, TIME).to_string();
        signature.annotations.insert(BUNDLE.to_owned(), bundle);
        let certificate = holder.pem.clone();
        signature
            .annotations
            .insert(CERTIFICATE.to_owned(), certificate);
        signature
    };
    let by = |email: &str| {
        let fulcio = json!({"caPath": CA, "oidcIssuer": OIDC, "subjectEmail": email});
        json!({"type": "sigstoreSigned", "fulcio": fulcio, "rekorPublicKeyPath": LOG})
    };
    let two = json!({"type": "threshold", "count": 2, "of": [by(a), by(b)]});
    let twice = json!({"type": "threshold", "count": 2, "of": [by(a), by(a)]});
    let rows = [
        ("one with both names", &two, vec![holder(&[a, b])], 1),
        (
            "two with both",
            &two,
            vec![holder(&[a, b]), holder(&[b, a])],
            1,
        ),
        (
            "one of a, one of both",
            &two,
            vec![holder(&[a]), holder(&[a, b])],
            1,
        ),
        (
            "two of one name",
            &twice,
            vec![holder(&[a]), holder(&[a])],
            1,
        ),
        ("one of each", &two, vec![holder(&[a]), holder(&[b])], 2),
    ];
    for (row, rule, holders, found) in rows {
        let mut evidence = Evidence::default();
        for (location, pem) in [(CA, root.pem.clone()), (LOG, log.pem())] {
            let pem = Ok(pem.into_bytes());
            evidence.resources.insert(location.to_owned(), pem);
        }
        let signatures = holders.iter().map(sign).collect();
        evidence.cosign.insert(digest, Ok(signatures));
        let manifest = resolve(NAME, manifest_bytes());
        let answer = decide(&policy(&json!([rule])), manifest, &evidence);
        let expected = match found {
            2 => Outcome::Met(Grounds::Members(2)),
            _ => Outcome::Refused(Refusal::TooFew {
                wanted: 2,
                of: 2,
                found,
            }),
        };
        assert_eq!(decision(&answer).findings()[0].outcome, expected, "{row}");
    }
}

/// One key, in the policy by itself and in a certificate, is one signer.
#[test]
fn one_key_in_two_certificates_is_one_signer() {
    let root = Ca::root(nothing);
    let log = Signer::new();
    let holder = root.issue(nothing);
    let digest = Digest::sha256_of(&manifest_bytes());
    let mut signature = holder.signer.attach(&digest, REPOSITORY);
    let body = log_body(&signature, &holder.pem);
    let bundle = promise(&log, &body, TIME).to_string();
    signature.annotations.insert(BUNDLE.to_owned(), bundle);
    let certificate = holder.pem.clone();
    signature
        .annotations
        .insert(CERTIFICATE.to_owned(), certificate);
    let key = json!({"type": "sigstoreSigned", "keyData": holder.signer.pem()});
    let rule = json!({"type": "threshold", "count": 2, "of": [by_fulcio(), key]});
    let mut evidence = Evidence::default();
    for (location, pem) in [(CA, root.pem.clone()), (LOG, log.pem())] {
        let pem = Ok(pem.into_bytes());
        evidence.resources.insert(location.to_owned(), pem);
    }
    evidence.cosign.insert(digest, Ok(vec![signature]));
    let manifest = resolve(NAME, manifest_bytes());
    let answer = decide(&policy(&json!([rule])), manifest, &evidence);
    let expected = Refusal::TooFew {
        wanted: 2,
        of: 2,
        found: 1,
    };
    assert_eq!(
        decision(&answer).findings()[0].outcome,
        Outcome::Refused(expected)
    );
}

struct Scene {
    root: Ca,
    log: Signer,
    holder: Holder,
}

impl Scene {
    fn new(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let root = Ca::root(nothing);
        let holder = root.issue(change);
        let log = Signer::new();
        Self { root, log, holder }
    }

    fn signature(&self, logged_at: Option<u64>) -> CosignSignature {
        let digest = Digest::sha256_of(&manifest_bytes());
        let mut signature = self.holder.signer.attach(&digest, REPOSITORY);
        if let Some(time) = logged_at {
            let body = log_body(&signature, &self.holder.pem);
            let bundle = promise(&self.log, &body, time).to_string();
            signature.annotations.insert(BUNDLE.to_owned(), bundle);
        }
        let certificate = self.holder.pem.clone();
        signature
            .annotations
            .insert(CERTIFICATE.to_owned(), certificate);
        signature
            .annotations
            .insert(CHAIN.to_owned(), self.root.pem.clone());
        signature
    }

    fn decide(
        &self,
        requirement: &Value,
        signature: CosignSignature,
        now: Option<u64>,
    ) -> (Outcome, Option<SignatureProblem>) {
        let mut evidence = Evidence::default();
        let (ca, log) = (self.root.pem.clone(), self.log.pem());
        evidence
            .resources
            .insert(CA.to_owned(), Ok(ca.into_bytes()));
        evidence
            .resources
            .insert(LOG.to_owned(), Ok(log.into_bytes()));
        evidence.now = now.map(|now| UNIX_EPOCH + Duration::from_secs(now));
        let digest = Digest::sha256_of(&manifest_bytes());
        evidence.cosign.insert(digest, Ok(vec![signature]));
        let manifest = resolve(NAME, manifest_bytes());
        let answer = decide(&policy(&json!([requirement])), manifest, &evidence);
        let finding = decision(&answer).findings()[0].clone();
        let problem = finding.rejected.first().map(|found| found.problem.clone());
        (finding.outcome, problem)
    }
}

fn by_fulcio() -> Value {
    let fulcio = json!({"caPath": CA, "oidcIssuer": OIDC, "subjectEmail": EMAIL});
    json!({"type": "sigstoreSigned", "fulcio": fulcio, "rekorPublicKeyPath": LOG})
}

fn by_pki() -> Value {
    let pki = json!({"caRootsPath": CA, "subjectEmail": EMAIL});
    json!({"type": "sigstoreSigned", "pki": pki})
}

const LATER: u64 = TIME + 10 * 365 * 86400;

#[test]
fn fulcio_certificates_count_at_the_time_when_the_log_took_the_signature_in() {
    let scene = Scene::new(nothing);
    let requirement = by_fulcio();
    let policy = policy(&json!([requirement]));
    let manifest = resolve(NAME, manifest_bytes());
    let needs = policy.rules_for(manifest.reference()).needs(&manifest);
    assert_eq!(needs.resources.iter().collect::<Vec<_>>(), [CA, LOG]);

    // Whatever the time is now, and whoever says so.
    for now in [None, Some(LATER)] {
        let (outcome, _) = scene.decide(&requirement, scene.signature(Some(TIME)), now);
        let Outcome::Met(Grounds::Signature(proof)) = outcome else {
            panic!("{outcome:?}");
        };
        let certificate = proof.certificate.unwrap();
        assert_eq!(certificate.oidc_issuer.as_deref(), Some(OIDC));
        assert_eq!(certificate.subject_email.as_deref(), Some(EMAIL));
        assert_eq!(proof.logged_at, Some(TIME));
        assert_eq!(
            proof.key_fingerprint.to_string(),
            format!("holder:{EMAIL} {OIDC}")
        );
    }
    for logged_at in [LATER, 0] {
        let signature = scene.signature(Some(logged_at));
        let (_, problem) = scene.decide(&requirement, signature, Some(TIME));
        assert!(
            matches!(
                problem,
                Some(SignatureProblem::Certificate(
                    CertificateProblem::Path { .. } | CertificateProblem::NoRoot { .. }
                ))
            ),
            "{problem:?}"
        );
    }
}

#[test]
fn a_fulcio_signature_needs_log_certificate_and_key_together() {
    let scene = Scene::new(nothing);
    let honest = scene.signature(Some(TIME));
    let without = |annotation: &str| {
        let mut signature = honest.clone();
        signature.annotations.remove(annotation);
        scene.decide(&by_fulcio(), signature, Some(TIME)).1.unwrap()
    };
    assert_eq!(without(BUNDLE), SignatureProblem::NoBundle);
    assert_eq!(without(CERTIFICATE), SignatureProblem::NoCertificate);

    // A certificate of the same holder that the log entry does not name.
    let mut other = honest.clone();
    let second = scene.root.issue(nothing);
    other.annotations.insert(CERTIFICATE.to_owned(), second.pem);
    let (_, problem) = scene.decide(&by_fulcio(), other, Some(TIME));
    let expected = SignatureProblem::Log(policy::LogProblem::OtherSigner);
    assert_eq!(problem, Some(expected));

    // An entry that names the certificate, with a signature by another key.
    let digest = Digest::sha256_of(&manifest_bytes());
    let mut forged = Signer::new().attach(&digest, REPOSITORY);
    let body = log_body(&forged, &scene.holder.pem);
    let bundle = promise(&scene.log, &body, TIME).to_string();
    forged.annotations.insert(BUNDLE.to_owned(), bundle);
    let certificate = scene.holder.pem.clone();
    forged
        .annotations
        .insert(CERTIFICATE.to_owned(), certificate);
    let (_, problem) = scene.decide(&by_fulcio(), forged, Some(TIME));
    assert_eq!(problem, Some(SignatureProblem::OtherKey { tried: 1 }));
}

#[test]
fn certificates_of_the_owner_s_authority_count_now() {
    let scene = Scene::new(nothing);
    let signature = scene.signature(None);
    let (outcome, _) = scene.decide(&by_pki(), signature.clone(), Some(TIME));
    let Outcome::Met(Grounds::Signature(proof)) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(proof.logged_at, None);
    assert_eq!(proof.key_fingerprint.to_string(), format!("holder:{EMAIL}"));

    let (_, problem) = scene.decide(&by_pki(), signature.clone(), Some(LATER));
    let Some(SignatureProblem::Certificate(CertificateProblem::Path { why })) = problem else {
        panic!("{problem:?}");
    };
    assert!(why.contains("CertExpired"), "{why}");
    let (outcome, _) = scene.decide(&by_pki(), signature, None);
    assert_eq!(outcome, Outcome::Refused(Refusal::NoTime));
}

#[test]
fn an_authority_that_cannot_be_read_refuses_the_requirement() {
    let mut scene = Scene::new(nothing);
    scene.root.pem = "garbage".to_owned();
    let problem = CertificateError::Pem(PemError::NoBlock);
    for requirement in [by_fulcio(), by_pki()] {
        let signature = scene.signature(Some(TIME));
        let (outcome, _) = scene.decide(&requirement, signature, Some(TIME));
        let (location, problem) = (CA.to_owned(), problem.clone());
        let expected = Refusal::AuthorityUnusable { location, problem };
        assert_eq!(outcome, Outcome::Refused(expected));
    }
}

const CT_LOG: &str = "kbs:///default/ct-log-key/1";

/// What becomes of a holder whose certificate has the timestamps that `log` makes, given what the
/// logs are shown and the key of the issuer.
fn vouch_logged(
    root: &Ca,
    logs: &[&Signer],
    log: impl FnOnce(&[u8], &[u8]) -> Vec<Vec<u8>>,
) -> Result<(), CertificateProblem> {
    let below = root.below("below", nothing);
    let chain = format!("{}{}", below.pem, root.pem);
    let holder = below.issue_logged(nothing, |content| {
        Some(log(content, &below.spki))
            .filter(|list| !list.is_empty())
            .map(|list| timestamps(&list))
    });
    let logs = logs
        .iter()
        .map(|log| LogKey::from_pem(log.pem().as_bytes()));
    let authority = fulcio(&root.pem).logged_by(logs.map(Result::unwrap).collect());
    vouch(&authority, &holder, &chain)
}

/// Those of a certificate by its content and the key of its issuer.
type Timestamps<'a> = &'a dyn Fn(&[u8], &[u8]) -> Vec<Vec<u8>>;

#[test]
fn a_certificate_counts_only_when_a_log_of_the_policy_saw_it_as_it_is() {
    let (root, log, other) = (Ca::root(nothing), Signer::new(), Signer::new());
    let check = |list: Timestamps<'_>| {
        vouch_logged(&root, &[&log], list).map_err(|problem| match problem {
            CertificateProblem::Sct(problem) => problem,
            other => panic!("{other:?}"),
        })
    };
    let good = |content: &[u8], issuer: &[u8]| timestamp(&log, content, issuer, TIME);
    let by_other = |content: &[u8], issuer: &[u8]| timestamp(&other, content, issuer, TIME);
    let mut unknown_version = vec![1];
    unknown_version.extend([7; 60]);

    assert_eq!(check(&|c, i| vec![good(c, i)]), Ok(()));
    assert_eq!(check(&|c, i| vec![by_other(c, i), good(c, i)]), Ok(()));
    let beside = |c: &[u8], i: &[u8]| vec![unknown_version.clone(), good(c, i)];
    assert_eq!(check(&beside), Ok(()));

    assert_eq!(check(&|_, _| vec![]), Err(SctProblem::Missing));
    let none = Err(SctProblem::OtherLog { found: 1 });
    assert_eq!(check(&|c, i| vec![by_other(c, i)]), none);
    let early = |c: &[u8], i: &[u8]| vec![timestamp(&log, c, i, 1_600_000_000)];
    let found = 1_600_000_000_000;
    assert_eq!(check(&early), Err(SctProblem::OutsideValidity { found }));
    let rows: [(&str, Timestamps<'_>); 4] = [
        ("another issuer", &|c, _| vec![good(c, &root.spki)]),
        ("another certificate", &|c, i| {
            let mut changed = c.to_vec();
            *changed.last_mut().unwrap() ^= 1;
            vec![good(&changed, i)]
        }),
        ("another time than is signed", &|c, i| {
            let mut changed = good(c, i);
            changed[40] ^= 1;
            vec![changed]
        }),
        ("another log beside a bad one", &|c, i| {
            vec![good(c, &root.spki), by_other(c, i)]
        }),
    ];
    for (row, list) in rows {
        assert_eq!(check(list), Err(SctProblem::BadSignature), "{row}");
    }
    let garbage = check(&|_, _| vec![vec![0; 10]]);
    assert!(
        matches!(garbage, Err(SctProblem::Malformed { .. })),
        "{garbage:?}"
    );
    let any = vouch_logged(&root, &[&other, &log], |c, i| vec![good(c, i)]);
    assert_eq!(any, Ok(()));
}

#[test]
fn a_policy_names_the_logs_that_must_have_seen_a_certificate() {
    let scene = Scene::new(nothing);
    for (kind, mut requirement) in [("fulcio", by_fulcio()), ("pki", by_pki())] {
        requirement[kind]["ctLogPublicKeyPath"] = json!(CT_LOG);
        let wanted = policy(&json!([requirement]));
        let printed = serde_json::to_value(&wanted).unwrap();
        let printed = &printed["transports"]["docker"][REPOSITORY][0][kind];
        assert_eq!(printed["ctLogPublicKeyPath"], CT_LOG);
        let manifest = resolve(NAME, manifest_bytes());
        let needs = wanted.rules_for(manifest.reference()).needs(&manifest);
        assert!(needs.resources.contains(CT_LOG), "{:?}", needs.resources);

        let signature = scene.signature(Some(TIME));
        let (outcome, _) = scene.decide(&requirement, signature.clone(), Some(TIME));
        assert!(
            matches!(&outcome, Outcome::Refused(Refusal::KeyNotFetched { location, .. })
                if location == CT_LOG),
            "{outcome:?}"
        );
        let logs = requirement[kind].as_object_mut().unwrap();
        logs.remove("ctLogPublicKeyPath");
        let key = STANDARD.encode(Signer::new().pem());
        logs.insert("ctLogPublicKeyData".to_owned(), json!(key));
        let (_, problem) = scene.decide(&requirement, signature, Some(TIME));
        let missing = CertificateProblem::Sct(SctProblem::Missing);
        assert_eq!(problem, Some(SignatureProblem::Certificate(missing)));
    }
    let mut misplaced = by_fulcio();
    misplaced["ctLogPublicKeyPath"] = json!(CT_LOG);
    let document = json!({"default": [misplaced]}).to_string();
    let error = Policy::parse(document.as_bytes()).unwrap_err();
    assert_eq!(error.place().path(), "default[0].ctLogPublicKeyPath");
}

/// A holder below an intermediate, and the chain.
static BELOW: LazyLock<(Scene, String)> = LazyLock::new(|| {
    let mut scene = Scene::new(nothing);
    let below = scene.root.below("below", nothing);
    scene.holder = below.issue(nothing);
    let chain = format!("{}{}", below.pem, scene.root.pem);
    (scene, chain)
});

proptest! {
    #[test]
    fn a_changed_byte_beside_a_certificate_never_yields_an_approval(
        at in any::<Index>(),
        by in 1_u8..=127,
        part in 0_u8..5,
        logged in any::<bool>(),
    ) {
        let (scene, chain) = &*BELOW;
        let requirement = if logged { by_fulcio() } else { by_pki() };
        let mut signature = scene.signature(logged.then_some(TIME));
        signature.annotations.insert(CHAIN.to_owned(), chain.clone());
        let decide = |signature| scene.decide(&requirement, signature, Some(TIME)).0;
        prop_assert!(matches!(decide(signature.clone()), Outcome::Met(_)));

        match part {
            0 => {
                let payload = signature.payload.as_mut().unwrap();
                let at = at.index(payload.len());
                payload[at] ^= by;
            }
            1 => flip_text(signature.annotations.get_mut(SIGNATURE).unwrap(), at, by),
            2 => {
                let changed = flip_pem(&scene.holder.pem, at, by);
                signature.annotations.insert(CERTIFICATE.to_owned(), changed);
            }
            3 => {
                signature.annotations.insert(CHAIN.to_owned(), flip_pem(chain, at, by));
            }
            // Without a log there is no bundle, and a foreign one changes nothing.
            _ => match signature.annotations.get_mut(BUNDLE) {
                Some(bundle) => flip_text(bundle, at, by),
                None => return Ok(()),
            },
        }
        let outcome = decide(signature);
        prop_assert!(!matches!(outcome, Outcome::Met(_)), "{:?}", outcome);
    }
}
