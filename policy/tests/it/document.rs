//! The policy document: what parses, what does not, and that the error says where and what.

use policy::{JsonProblem, Policy, PolicyProblem};
use serde_json::{Value, json};

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
         digestAllowed, encrypted, notOlder, requireDigest, threshold"
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
