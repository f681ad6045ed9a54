//! Exchanges as recorded from the real server.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::*;
use crate::key::TeeKeyAlgorithm;

const NONCE: &str = "gSDhpHo9LNDdBsxGhcQ87JN7n1bJHKGZKUHTkXGrJLI=";
const COOKIE: &str =
    "kbs-session-id=d006e7091d6b45c182d455de0a79c461; Expires=Sun, 22 Nov 2026 10:57:57 GMT";

fn answer(status: u16, body: &Value) -> Answer {
    Answer {
        url: "http://127.0.0.1:8080/kbs/v0/x".to_owned(),
        received: Instant::now(),
        status,
        set_cookie: vec![COOKIE.to_owned()],
        date: Some("Sun, 22 Nov 2026 10:52:57 GMT".to_owned()),
        body: body.to_string().into_bytes(),
    }
}

fn challenge(extra_params: &Value) -> Answer {
    answer(
        200,
        &json!({ "nonce": NONCE, "extra-params": extra_params }),
    )
}

fn challenged(answer: &Answer) -> Result<Handshake<Challenged>, Error> {
    let key = TeeKey::generate(TeeKeyAlgorithm::P256).unwrap();
    Handshake::challenged("sample", key, answer)
}

fn body(request: &Request) -> Value {
    serde_json::from_slice(request.body()).unwrap()
}

#[test]
fn report_data_is_the_recorded_one() {
    let mut runtime_data = json!({ "nonce": NONCE, "tee-pubkey": {
        "kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW",
        "x": "NZaB2KhDlQRjhItdBxoYCyFeHtcBdJyWqo4FZ6LAogo",
        "y": "Zk_mK4S_VbpTjlKcg1d7IwZs9HYJbLye932pREQtl90",
    }});
    let key: crate::messages::Jwk =
        serde_json::from_value(runtime_data["tee-pubkey"].clone()).unwrap();
    runtime_data["additional-evidence"] = json!("");
    let typed = RuntimeData {
        additional_evidence: Some(""),
        nonce: NONCE,
        tee_pubkey: &key,
    };
    let expected = "8xSlRYr/BojFghkOIjcpoLDyG8RMReZqHiJtpLzKIkOeQ/yi0/zdH7drtrSWteod";
    for found in [
        ReportData::sha384(&runtime_data),
        ReportData::sha384(&typed),
    ] {
        assert_eq!(STANDARD.encode(found.unwrap().bytes()), expected);
    }
}

#[test]
fn device_report_data_leaves_additional_evidence_out() {
    let handshake = challenged(&challenge(&json!(""))).unwrap();
    let key = serde_json::to_value(handshake.key.public()).unwrap();
    let devices = ReportData::sha384(&json!({ "nonce": NONCE, "tee-pubkey": key })).unwrap();
    assert_eq!(handshake.device_report_data().unwrap(), devices);
    assert_ne!(handshake.report_data("").unwrap(), devices);
    assert_ne!(
        handshake.report_data("{}").unwrap(),
        handshake.report_data("{ }").unwrap()
    );
}

#[test]
fn messages_have_the_recorded_shape() {
    let auth = Handshake::auth_request("sample");
    assert_eq!(
        (auth.method(), auth.path(), auth.cookie()),
        (Method::Post, "/kbs/v0/auth", None)
    );
    let offered = json!({ "supported-hash-algorithms": ["sha256", "sha384", "sha512"] });
    let expected = json!({ "version": "0.4.0", "tee": "sample", "extra-params": offered });
    assert_eq!(body(&auth), expected);

    let handshake = challenged(&challenge(&json!(""))).unwrap();
    let evidence = Evidence {
        primary: json!({ "svn": "1" }),
        additional: String::new(),
    };
    let attest = handshake.attest_request(&evidence, None).unwrap();
    assert_eq!(attest.path(), "/kbs/v0/attest");
    assert_eq!(
        attest.cookie(),
        Some("kbs-session-id=d006e7091d6b45c182d455de0a79c461")
    );
    let key = serde_json::to_value(handshake.key.public()).unwrap();
    let members: Vec<&String> = key.as_object().unwrap().keys().collect();
    assert_eq!(members, ["alg", "crv", "kty", "x", "y"]);
    let expected = json!({
        "init-data": null,
        "runtime-data": { "nonce": NONCE, "tee-pubkey": key },
        "tee-evidence": { "primary_evidence": { "svn": "1" }, "additional_evidence": "" },
    });
    assert_eq!(body(&attest), expected);

    let session = handshake
        .attested(
            &answer(200, &json!({ "token": "e30.e30.x" })),
            SessionProof::Cookie,
        )
        .unwrap();
    let get = session.resource_request(&"kbs:///a/b/c?d=e".parse().unwrap());
    assert_eq!(
        (get.method(), get.path()),
        (Method::Get, "/kbs/v0/resource/a/b/c")
    );
    assert_eq!(get.query(), Some("d=e"));
    assert_eq!(
        get.cookie(),
        Some("kbs-session-id=d006e7091d6b45c182d455de0a79c461")
    );
}

#[test]
fn server_selects_the_hash_among_those_offered() {
    let rows = [
        (json!(""), Some(48)),
        (json!(null), Some(48)),
        (json!({}), Some(48)),
        (json!({ "selected-hash-algorithm": "SHA512" }), Some(64)),
        (json!({ "selected-hash-algorithm": "sha256" }), Some(32)),
        (json!({ "selected-hash-algorithm": "sm3" }), None),
        (json!({ "selected-hash-algorithm": 1 }), None),
    ];
    for (extra_params, expected) in rows {
        let length = match challenged(&challenge(&extra_params)) {
            Ok(handshake) => Some(handshake.report_data("").unwrap().bytes().len()),
            Err(Error::Malformed { .. }) => None,
            Err(error) => panic!("{error:?}"),
        };
        assert_eq!(length, expected, "{extra_params}");
    }
}

#[test]
fn session_lasts_as_long_as_cookie_and_token() {
    let handshake = challenged(&challenge(&json!(""))).unwrap();
    let answer = answer(200, &json!({ "token": "opaque" }));
    let session = handshake.attested(&answer, SessionProof::Cookie).unwrap();
    assert!(!session.is_over(answer.received + Duration::from_secs(269)));
    assert!(session.is_over(answer.received + Duration::from_secs(271)));
}

#[test]
fn token_goes_in_place_of_the_cookie_and_outlives_it() {
    let handshake = challenged(&challenge(&json!(""))).unwrap();
    let answer = answer(200, &json!({ "token": "opaque" }));
    let session = handshake.attested(&answer, SessionProof::Bearer).unwrap();
    let get = session.resource_request(&"kbs:///a/b/c".parse().unwrap());
    assert_eq!((get.cookie(), get.bearer()), (None, Some("opaque")));
    assert!(!session.is_over(answer.received + Duration::from_secs(271)));
}

#[test]
fn token_of_another_takes_the_place_of_a_handshake() {
    let key = || TeeKey::generate(TeeKeyAlgorithm::P256).unwrap();
    // {"iat":1,"exp":301}
    let token = "e30.eyJpYXQiOjEsImV4cCI6MzAxfQ.x";
    let session = Handshake::with_token(key(), Zeroizing::new(token.to_owned())).unwrap();
    let claims = session.untrusted_claims();
    assert_eq!(claims, Some(json!({ "iat": 1, "exp": 301 })));
    let get = session.resource_request(&"kbs:///a/b/c".parse().unwrap());
    assert_eq!((get.cookie(), get.bearer()), (None, Some(token)));
    assert!(session.is_over(Instant::now() + Duration::from_secs(271)));
    for text in ["", "a b", "a\r\nb", "\u{e9}"] {
        assert!(
            Handshake::with_token(key(), Zeroizing::new(text.to_owned())).is_none(),
            "{text:?}"
        );
    }
}

#[test]
fn init_data_goes_with_the_evidence() {
    let text = "version = '0.1.0'\nalgorithm = 'sha384'\n";
    let data = InitData::parse(text.to_owned()).unwrap();
    let handshake = challenged(&challenge(&json!(""))).unwrap();
    let evidence = Evidence {
        primary: json!({}),
        additional: String::new(),
    };
    let request = handshake.attest_request(&evidence, Some(&data)).unwrap();
    let expected = json!({ "format": "toml", "body": text });
    assert_eq!(body(&request)["init-data"], expected);
}

#[test]
fn cookie_that_could_break_out_of_its_header_is_no_cookie() {
    let long = format!("kbs-session-id={}", "x".repeat(5000));
    for line in [
        "kbs-session-id=",
        "kbs-session-id=a b",
        "kbs-session-id=a\r\nb",
        "other=a",
        &long,
    ] {
        let mut answer = challenge(&json!(""));
        answer.set_cookie = vec![line.to_owned()];
        let error = challenged(&answer).unwrap_err();
        let Error::Malformed { expected, .. } = &error else {
            panic!("{line:?}: {error:?}")
        };
        assert_eq!(*expected, "the session cookie kbs-session-id");
    }
}

#[test]
fn server_version_is_read_from_its_refusal() {
    let rows = [
        (
            "Version Mismatch: expect =0.5.0 while the request is 0.4.0",
            "0.5.0",
        ),
        ("Version Mismatch: expect 1.0.0", "1.0.0"),
        ("Version Mismatch", "another one, which it does not name"),
    ];
    for (detail, expected) in rows {
        let body = json!({ "type": "x/errors/AttestationError", "detail": detail });
        let error = challenged(&answer(401, &body)).unwrap_err();
        let Error::Version { ours, theirs, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!((*ours, theirs.as_str()), ("0.4.0", expected));
    }
}

#[test]
fn words_of_the_server_are_shortened_and_made_printable() {
    let detail = format!("line\n\u{1b}[31m{}", "x".repeat(1000));
    let body = json!({ "type": "x/errors/AttestationError", "detail": detail });
    let error = challenged(&answer(401, &body)).unwrap_err();
    let Error::SessionRefused { refusal, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(refusal.detail.chars().count(), 300);
    assert!(!error.to_string().contains(['\n', '\u{1b}']), "{error}");
}

#[test]
fn errors_quote_no_answer_that_has_another_shape() {
    let handshake = challenged(&challenge(&json!(""))).unwrap();
    let bare_token = answer(200, &json!("e30.s3cret.x"));
    let error = handshake.attested(&bare_token, SessionProof::Cookie);
    let Err(Error::Malformed { source, .. }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(
        source.unwrap().to_string(),
        "a value that does not belong there, at line 1 column 14"
    );
    let token = answer(200, &json!({ "token": "e30.e30.x" }));
    let handshake = challenged(&challenge(&json!(""))).unwrap();
    let session = handshake.attested(&token, SessionProof::Cookie).unwrap();
    for unsealed in [
        json!("s3cret"),
        json!({ "s3cret": 1 }),
        json!({ "iv": "s3cret" }),
    ] {
        let error = session.open(&answer(200, &unsealed)).unwrap_err();
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    }
}

#[test]
fn debug_shows_no_nonce_no_cookie_and_no_evidence() {
    let handshake = challenged(&challenge(&json!(""))).unwrap();
    let evidence = Evidence {
        primary: json!("quote"),
        additional: String::new(),
    };
    let request = handshake.attest_request(&evidence, None).unwrap();
    let shown = format!(
        "{handshake:?} {request:?} {evidence:?} {:?}",
        challenge(&json!(""))
    );
    for secret in [NONCE, "d006e709", "quote"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

/// Every answer with every byte replaced: what is not refused is read, and nothing else happens.
#[test]
fn no_byte_of_an_answer_does_more_than_fail() {
    let mutations = |answer: &Answer| -> Vec<Answer> {
        let length = answer.body.len();
        let places = (0..length).flat_map(|at| [0, b'"', b'}', 0xff].map(|byte| (at, byte)));
        places
            .map(|(at, byte)| {
                let mut mutated = answer.clone();
                mutated.body[at] = byte;
                mutated
            })
            .collect()
    };
    let challenge = challenge(&json!({ "selected-hash-algorithm": "sha384" }));
    for mutated in mutations(&challenge) {
        if let Ok(handshake) = challenged(&mutated) {
            let evidence = Evidence {
                primary: json!({}),
                additional: String::new(),
            };
            handshake.report_data("").unwrap();
            handshake.attest_request(&evidence, None).unwrap();
        }
    }
    let token = answer(200, &json!({ "token": "e30.eyJpYXQiOjEsImV4cCI6MzAxfQ.x" }));
    let refusal = json!({ "type": "x/errors/PolicyDeny", "detail": "no" });
    let session = challenged(&challenge).unwrap();
    let session = session.attested(&token, SessionProof::Cookie).unwrap();
    for status in [200, 401] {
        for mutated in mutations(&answer(status, &refusal)) {
            let error = session.open(&mutated).unwrap_err();
            assert!(error.to_string().contains("127.0.0.1"), "{error}");
        }
    }
    for mutated in mutations(&token) {
        let handshake = challenged(&challenge).unwrap();
        if let Ok(session) = handshake.attested(&mutated, SessionProof::Bearer) {
            session.resource_request(&"kbs:///a/b/c".parse().unwrap());
        }
    }
}
