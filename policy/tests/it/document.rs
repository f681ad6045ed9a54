//! The policy document: what parses, what does not, and that the error says where and what.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use policy::{JsonProblem, Policy, PolicyCheck, PolicyProblem, Warning};
use serde_json::{Value, json};

use crate::holders::{Ca, TIME, valid};
use crate::support::Signer;

fn place_and_text(document: &str) -> String {
    Policy::parse(document.as_bytes()).unwrap_err().to_string()
}

#[test]
fn an_error_names_the_place_and_the_nearest_known_word() {
    let document = r#"{
  "default": [{"type": "reject"}],
  "transports": {"docker": {"quay.io/org": [
    {"type": "sigstoreSigned", "keyPth": "kbs:///default/cosign-key/1"}
  ]}}
}"#;
    assert_eq!(
        place_and_text(document),
        "line 4 column 32: transports.docker.\"quay.io/org\"[0].keyPth: unknown key, \
         did you mean keyPath"
    );
    assert_eq!(
        place_and_text(r#"{"default":[{"type":"rejekt"}]}"#),
        "line 1 column 21: default[0].type: unknown value \"rejekt\", did you mean reject, known \
         are insecureAcceptAnything, reject, signedBy, sigstoreSigned, signedBaseLayer, \
         attestedBy, digestAllowed, encrypted, notOlder, requireDigest, threshold"
    );
}

#[test]
fn refuses_each_way_of_saying_nothing() {
    let with = |requirement: &Value| json!({"default": [requirement]}).to_string();
    let sigstore = |key: &str, value: &Value| {
        let mut requirement = json!({"type": "sigstoreSigned"});
        requirement[key] = value.clone();
        with(&requirement)
    };
    let missing = PolicyProblem::Json(JsonProblem::MissingKey { key: "default" });
    let null = |expected| {
        PolicyProblem::Json(JsonProblem::WrongType {
            expected,
            found: "null",
        })
    };
    let rows = [
        ("no default", "{}".to_owned(), missing),
        (
            "null default",
            r#"{"default":null}"#.to_owned(),
            null("an array"),
        ),
        (
            "empty default",
            r#"{"default":[]}"#.to_owned(),
            PolicyProblem::EmptyList,
        ),
        (
            "empty scope",
            r#"{"default":[{"type":"reject"}],"transports":{"docker":{"":[]}}}"#.to_owned(),
            PolicyProblem::EmptyList,
        ),
        (
            "null transports",
            r#"{"default":[{"type":"reject"}],"transports":null}"#.to_owned(),
            null("an object"),
        ),
        (
            "empty key path",
            sigstore("keyPath", &json!("")),
            PolicyProblem::EmptyText,
        ),
        (
            "null key path",
            sigstore("keyPath", &json!(null)),
            null("a string"),
        ),
        (
            "no key paths",
            sigstore("keyPaths", &json!([])),
            PolicyProblem::EmptyList,
        ),
        (
            "empty key data",
            sigstore("keyData", &json!("")),
            PolicyProblem::EmptyText,
        ),
    ];
    for (name, document, expected) in rows {
        let error = Policy::parse(document.as_bytes()).unwrap_err();
        assert_eq!(error.problem(), &expected, "{name}");
    }
}

#[test]
fn an_empty_rekor_key_does_not_switch_the_log_off() {
    for value in [json!(""), json!(null), json!([])] {
        for key in [
            "rekorPublicKeyPath",
            "rekorPublicKeyPaths",
            "rekorPublicKeyData",
        ] {
            let mut requirement = json!({"type": "sigstoreSigned", "keyPath": "/k"});
            requirement[key] = value.clone();
            let text = place_and_text(&json!({"default": [requirement]}).to_string());
            assert!(text.contains(&format!("default[0].{key}: ")), "{text}");
        }
    }
}

#[test]
fn refuses_combinations_that_have_no_meaning() {
    let pki = json!({"caRootsPath": "/c", "subjectEmail": "e"});
    let fulcio = json!({"caPath": "/c", "oidcIssuer": "i", "subjectEmail": "e"});
    let rows = [
        (json!({}), "exactly one of"),
        (
            json!({"keyPath": "/a", "keyPaths": ["/b"]}),
            "found keyPath, keyPaths",
        ),
        (json!({"fulcio": fulcio}), "fulcio needs a rekorPublicKey"),
        (
            json!({"pki": pki, "rekorPublicKeyPath": "/r"}),
            "cannot be combined",
        ),
        (
            json!({"pki": {"caRootsPath": "/c"}}),
            "needs a subjectEmail or a subjectHostname",
        ),
        (
            json!({"keyPath": "/a", "rekorPublicKeyPath": "/r", "rekorPublicKeyData": "YQ=="}),
            "at most one of",
        ),
        (
            json!({"keyPath": "/a", "signedIdentity":
                {"type": "exactReference", "dockerReference": "example.com/a"}}),
            "needs a tag or a digest",
        ),
        (
            json!({"keyPath": "/a", "signedIdentity":
                {"type": "remapIdentity", "prefix": "example.com/", "signedPrefix": "b.example"}}),
            "host[:port]",
        ),
    ];
    for (members, expected) in rows {
        let mut requirement = members;
        requirement["type"] = json!("sigstoreSigned");
        let text = place_and_text(&json!({"default": [requirement]}).to_string());
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn pem_in_place_of_base64_is_accepted_with_a_warning() {
    let requirement = json!({"type": "sigstoreSigned", "keyData": "-----BEGIN PUBLIC KEY-----\nx"});
    let policy = Policy::parse(json!({"default": [requirement]}).to_string().as_bytes()).unwrap();
    let warnings: Vec<String> = policy.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "line 1 column 24: default[0].keyData: the value is PEM; the format wants the base64 of it"
        ]
    );
}

#[test]
fn warns_of_what_is_hardly_meant() {
    let document = json!({
        "default": [{"type": "insecureAcceptAnything"}],
        "transports": {"docker": {
            "busybox": [{"type": "reject"}],
            "quay.io/a:1": [{"type": "reject"}],
            "quay.io": [{"type": "sigstoreSigned", "keyPath": "/k",
                         "signedIdentity": {"type": "matchExact"}}],
        }},
    });
    let policy = Policy::parse(document.to_string().as_bytes()).unwrap();
    let text: Vec<String> = policy.warnings().iter().map(ToString::to_string).collect();
    let about = [
        "default: every image",
        "busybox: no image meets",
        "[0]: a plain cosign",
        "a:1\": an image",
    ];
    assert_eq!(text.len(), about.len(), "{text:#?}");
    for (text, about) in text.iter().zip(about) {
        assert!(text.contains(about), "{text}");
    }
}

#[test]
fn warns_where_unsigned_images_are_enough() {
    let accept = json!({"type": "insecureAcceptAnything"});
    let (by_digest, encrypted) = (
        json!({"type": "requireDigest"}),
        json!({"type": "encrypted"}),
    );
    let key = json!({"type": "sigstoreSigned", "keyPath": "/k"});
    let unproved = Some("images that nobody has signed or listed are accepted");
    let rows = [
        (json!([by_digest]), unproved),
        (json!([encrypted]), unproved),
        (json!([accept, by_digest, encrypted]), unproved),
        (
            json!([accept]),
            Some("every image that comes here is accepted"),
        ),
        (json!([by_digest, encrypted, key]), None),
        (json!([accept, key]), None),
    ];
    for (list, about) in rows {
        let everywhere = json!({"default": list, "transports": {"docker": {"": list}}});
        let policy = Policy::parse(everywhere.to_string().as_bytes()).unwrap();
        let texts: Vec<&str> = policy
            .warnings()
            .iter()
            .map(policy::Warning::text)
            .collect();
        let expected = if about.is_some() { 2 } else { 0 };
        assert_eq!(texts.len(), expected, "{list}: {texts:?}");
        assert!(
            texts.iter().all(|text| text.starts_with(about.unwrap())),
            "{list}: {texts:?}"
        );
    }
}

#[test]
fn an_empty_name_beside_another_is_as_if_it_were_not_there_and_is_warned_of() {
    for (empty, other) in [
        ("subjectEmail", "subjectHostname"),
        ("subjectHostname", "subjectEmail"),
    ] {
        let mut pki = json!({"caRootsPath": "/c"});
        pki[other] = json!("build.example");
        let requirement = |pki: &Value| json!({"type": "sigstoreSigned", "pki": pki});
        let without = json!({"default": [requirement(&pki)]}).to_string();
        pki[empty] = json!("");
        let with = json!({"default": [requirement(&pki)]}).to_string();
        let parse = |text: &str| Policy::parse(text.as_bytes()).unwrap();
        let (without, with) = (parse(&without), parse(&with));
        let printed = |policy: &Policy| serde_json::to_value(policy).unwrap();
        assert_eq!(printed(&with), printed(&without));
        assert!(without.warnings().is_empty());
        let [warning] = with.warnings() else {
            panic!("{:?}", with.warnings());
        };
        assert_eq!(warning.place().path(), format!("default[0].pki.{empty}"));
        assert_eq!(
            warning.text(),
            "an empty name asks for nothing: it is as if the key were not there"
        );
    }
}

#[test]
fn a_policy_prints_as_what_it_was_read_from() {
    let key = json!({"type": "sigstoreSigned", "keyPath": "/k",
                     "signedIdentity": {"type": "matchRepository"}});
    let document = json!({
        "default": [{"type": "reject"}],
        "transports": {
            "docker": {
                "": [key],
                "quay.io": [{"type": "signedBy", "keyType": "GPGKeys", "keyPaths": ["/a", "/b"],
                    "signedIdentity": {"type": "exactReference", "dockerReference": "a/b:c"}}],
            },
            "dir": {"/srv/images": [{"type": "insecureAcceptAnything"}]},
        },
    });
    let policy = Policy::parse(document.to_string().as_bytes()).unwrap();
    assert_eq!(serde_json::to_value(&policy).unwrap(), document);
}

/// What a check says of keys that stand in the policy or are at hand, by the place of each.
#[test]
fn a_check_looks_at_the_keys_that_are_at_hand() {
    let good = Signer::new().pem();
    let expired = Ca::root(|params| valid(params, 2020, 2024)).pem;
    let current = Ca::root(|params| valid(params, 2020, 2040)).pem;
    let data = |text: &str| json!(STANDARD.encode(text));
    let fulcio = json!({"caData": data(&format!("{current}{expired}")), "oidcIssuer": "i",
        "subjectEmail": "e", "ctLogPublicKeyPath": "/good"});
    let document = json!({
        "default": [{"type": "sigstoreSigned", "keyDatas": [data(&good), data("garbage")]}],
        "transports": {"docker": {
            "a.io": [{"type": "sigstoreSigned", "fulcio": fulcio, "rekorPublicKeyPath": "/none"}],
            "b.io": [{"type": "signedBy", "keyType": "GPGKeys", "keyData": data("garbage")}],
            "c.io": [{"type": "sigstoreSigned", "keyPaths": ["/bad", "/good", "/bad"]}],
        }},
    });
    let check = PolicyCheck::parse(document.to_string().as_bytes()).unwrap();
    let locations: Vec<&str> = check.locations().into_iter().collect();
    assert_eq!(locations, ["/bad", "/good", "/none"]);
    let resources = BTreeMap::from([
        ("/good".to_owned(), good.into_bytes()),
        ("/bad".to_owned(), b"garbage".to_vec()),
    ]);
    let now = UNIX_EPOCH + Duration::from_secs(TIME);
    let warnings = check.warnings(&resources, now);
    let is_remark = |warning: &&Warning| warning.text().contains("digest only");
    let remarks = warnings.iter().filter(is_remark);
    let remarks: Vec<&str> = remarks.map(|warning| warning.place().path()).collect();
    assert_eq!(remarks, ["default[0]", "transports.docker.\"c.io\"[0]"]);
    let others = warnings.iter().filter(|warning| !is_remark(warning));
    let found = others.map(|warning| {
        let path = warning.place().path().replace("transports.docker.", "");
        format!("{path}: {}", warning.text())
    });
    let no_key = "the key cannot be used: it does not begin with -----BEGIN";
    let expected = [
        format!("default[0].keyDatas[1]: {no_key}"),
        "\"a.io\"[0].fulcio.caData: certificate 2 is valid from 2020-01-01T00:00:00Z to \
         2024-01-01T00:00:00Z, and not now"
            .to_owned(),
        "\"b.io\"[0].keyData: the keyring cannot be used: it is neither a binary nor an armored \
         OpenPGP keyring"
            .to_owned(),
        format!("\"c.io\"[0].keyPaths[0]: {no_key}"),
        "\"c.io\"[0].keyPaths[2]: this path stands twice in the requirement".to_owned(),
        format!("\"c.io\"[0].keyPaths[2]: {no_key}"),
    ];
    assert_eq!(found.collect::<Vec<_>>(), expected);
    assert_eq!(check.policy().warnings().len(), 1);
}
