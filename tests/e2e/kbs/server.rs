//! The development KBS itself, asked by hand: status, kind and text of each answer as recorded from
//! the real one.

use aws_lc_rs::agreement::{self, PrivateKey};
use aws_lc_rs::digest::{SHA384, digest};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use kit::kbs::DevKbs;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::KEY;

const ATTEST_FAILED: &str = "Attestation error: RCAR handshake Attest failed";

async fn send(
    kbs: &DevKbs,
    method: Method,
    path: &str,
    cookie: Option<&str>,
    body: String,
) -> Response {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client
        .request(method, format!("{}{path}", kbs.url()))
        .body(body);
    let request = match cookie {
        Some(cookie) => request.header("cookie", cookie),
        None => request,
    };
    request.send().await.unwrap()
}

async fn post(kbs: &DevKbs, path: &str, cookie: Option<&str>, body: &Value) -> Response {
    send(kbs, Method::POST, path, cookie, body.to_string()).await
}

async fn get(kbs: &DevKbs, path: &str, cookie: Option<&str>) -> Response {
    send(kbs, Method::GET, path, cookie, String::new()).await
}

/// Status, kind, detail; an error has no content type.
async fn refusal(response: Response) -> (u16, String, String) {
    let status = response.status().as_u16();
    assert_eq!(response.headers().get("content-type"), None);
    let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    let kind = body["type"].as_str().unwrap();
    let kind = kind
        .strip_prefix("https://github.com/confidential-containers/kbs/errors/")
        .unwrap();
    (
        status,
        kind.to_owned(),
        body["detail"].as_str().unwrap().to_owned(),
    )
}

fn auth_body(version: &str, tee: &str) -> Value {
    json!({ "version": version, "tee": tee, "extra-params": "" })
}

/// Cookie and nonce of a new session.
async fn open_session(kbs: &DevKbs) -> (String, String) {
    let response = post(kbs, "/kbs/v0/auth", None, &auth_body("0.4.0", "sample")).await;
    assert_eq!(response.status(), 200);
    let cookie = response.headers()["set-cookie"]
        .to_str()
        .unwrap()
        .to_owned();
    let (pair, expires) = cookie.split_once("; ").unwrap();
    assert!(
        pair.starts_with("kbs-session-id=") && pair.len() == 15 + 32,
        "{cookie}"
    );
    assert!(
        expires.starts_with("Expires=") && expires.ends_with(" GMT"),
        "{cookie}"
    );
    let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    let nonce = body["nonce"].as_str().unwrap();
    assert_eq!((nonce.len(), &body["extra-params"]), (44, &json!("")));
    (pair.to_owned(), nonce.to_owned())
}

fn p256_key() -> Value {
    let key = PrivateKey::generate(&agreement::ECDH_P256).unwrap();
    let point = key.compute_public_key().unwrap();
    let coordinate = |range| URL_SAFE_NO_PAD.encode(&point.as_ref()[range]);
    json!({ "kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW",
        "x": coordinate(1..33), "y": coordinate(33..65) })
}

/// A correct body for attest; `key` is sent as it is, and hashed without members that are unknown.
fn attest_body(nonce: &str, key: &Value) -> Value {
    let hashed = format!(
        r#"{{"additional-evidence":"","nonce":"{nonce}","tee-pubkey":{{"alg":{},"crv":{},"kty":{},"x":{},"y":{}}}}}"#,
        key["alg"], key["crv"], key["kty"], key["x"], key["y"],
    );
    let report_data = STANDARD.encode(digest(&SHA384, hashed.as_bytes()));
    json!({
        "init-data": null,
        "runtime-data": { "nonce": nonce, "tee-pubkey": key },
        "tee-evidence": {
            "primary_evidence": { "svn": "1", "report_data": report_data },
            "additional_evidence": "",
        },
    })
}

async fn attested(kbs: &DevKbs, key: &Value) -> (String, String) {
    let (cookie, nonce) = open_session(kbs).await;
    let response = post(
        kbs,
        "/kbs/v0/attest",
        Some(&cookie),
        &attest_body(&nonce, key),
    )
    .await;
    assert_eq!(response.status(), 200);
    assert!(response.headers().contains_key("set-cookie"));
    let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    (cookie, body["token"].as_str().unwrap().to_owned())
}

/// A good JWE of [`KEY`], for somebody else.
pub(crate) async fn sealed_to_foreign_key(kbs: &DevKbs) -> String {
    let (cookie, _) = attested(kbs, &p256_key()).await;
    let response = get(kbs, &format!("/kbs/v0/resource/{KEY}"), Some(&cookie)).await;
    response.text().await.unwrap()
}

#[test]
fn report_data_is_the_recorded_one() {
    let key = json!({ "kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW",
        "x": "NZaB2KhDlQRjhItdBxoYCyFeHtcBdJyWqo4FZ6LAogo",
        "y": "Zk_mK4S_VbpTjlKcg1d7IwZs9HYJbLye932pREQtl90" });
    let body = attest_body("gSDhpHo9LNDdBsxGhcQ87JN7n1bJHKGZKUHTkXGrJLI=", &key);
    assert_eq!(
        body["tee-evidence"]["primary_evidence"]["report_data"],
        "8xSlRYr/BojFghkOIjcpoLDyG8RMReZqHiJtpLzKIkOeQ/yi0/zdH7drtrSWteod"
    );
}

#[tokio::test]
async fn auth_is_refused_in_the_words_of_the_real_server() {
    let mismatch = |version: &str| {
        format!(
            "KBS Client Protocol Version Mismatch: expect =0.4.0 while the request is {version}"
        )
    };
    let unreadable = || "failed to parse KBS version".to_owned();
    let not_a_request = || "deserialize Request".to_owned();
    let rows = [
        (auth_body("0.4.1", "sample"), mismatch("0.4.1")),
        (auth_body("0.3.0", "sample"), mismatch("0.3.0")),
        (auth_body("1.0.0", "sample"), mismatch("1.0.0")),
        (auth_body("0.4.0-rc1", "sample"), mismatch("0.4.0-rc1")),
        (auth_body("0.4", "sample"), unreadable()),
        (auth_body("v0.4.0", "sample"), unreadable()),
        (auth_body("", "sample"), unreadable()),
        (auth_body("0.4.0", "unheard-of"), not_a_request()),
        (
            json!({ "version": "0.4.0", "tee": "sample" }),
            not_a_request(),
        ),
        (json!("text"), not_a_request()),
        (
            auth_body("0.4.0", "se"),
            "Attestation Service generate challenge failed".to_owned(),
        ),
    ];
    let kbs = DevKbs::http();
    for (body, cause) in rows {
        let found = refusal(post(&kbs, "/kbs/v0/auth", None, &body).await).await;
        let detail = format!("Attestation error: RCAR handshake Auth failed: {cause}");
        assert_eq!(
            found,
            (401, "AttestationError".to_owned(), detail),
            "{body}"
        );
    }
}

async fn attest_fails(kbs: &DevKbs, cookie: Option<&str>, body: &Value, row: &str) {
    let found = refusal(post(kbs, "/kbs/v0/attest", cookie, body).await).await;
    let expected = (401, "AttestationError".to_owned(), ATTEST_FAILED.to_owned());
    assert_eq!(found, expected, "{row}");
}

#[tokio::test]
async fn attest_refuses_everything_alike_and_keeps_the_session() {
    let kbs = DevKbs::http();
    let (cookie, nonce) = open_session(&kbs).await;
    let good = attest_body(&nonce, &p256_key());
    attest_fails(&kbs, None, &good, "no cookie").await;
    attest_fails(&kbs, Some("kbs-session-id=0"), &good, "unknown session").await;
    attest_fails(&kbs, Some(&cookie), &json!("text"), "not an object").await;
    let report_data = "/tee-evidence/primary_evidence/report_data";
    let digest = good.pointer(report_data).unwrap().as_str().unwrap();
    let padded = [STANDARD.decode(digest).unwrap(), vec![0; 16]].concat();
    let rows = [
        ("/runtime-data/nonce", json!("AAAA")),
        ("/runtime-data/tee-pubkey", p256_key()),
        (report_data, json!(STANDARD.encode(padded))),
        ("/tee-evidence/primary_evidence", json!({})),
        ("/tee-evidence/additional_evidence", json!("{}")),
        ("/init-data", json!({ "format": "json", "body": "" })),
    ];
    for (pointer, value) in rows {
        let mut body = good.clone();
        *body.pointer_mut(pointer).unwrap() = value;
        attest_fails(&kbs, Some(&cookie), &body, pointer).await;
    }
    let accepted = post(&kbs, "/kbs/v0/attest", Some(&cookie), &good).await;
    assert_eq!(accepted.status(), 200, "the session lives on");
}

#[tokio::test]
async fn attested_session_gives_its_old_token_whatever_is_sent() {
    let kbs = DevKbs::http();
    let (cookie, token) = attested(&kbs, &p256_key()).await;
    let again = post(&kbs, "/kbs/v0/attest", Some(&cookie), &json!("text")).await;
    assert_eq!(
        again.text().await.unwrap(),
        json!({ "token": token }).to_string()
    );
}

#[tokio::test]
async fn unknown_members_of_the_key_are_dropped_before_hashing() {
    let kbs = DevKbs::http();
    let mut key = p256_key();
    key["use"] = json!("enc");
    attested(&kbs, &key).await;
}

async fn resource_refusal(kbs: &DevKbs, path: &str, cookie: Option<&str>) -> (u16, String, String) {
    refusal(get(kbs, &format!("/kbs/v0/resource/{path}"), cookie).await).await
}

#[tokio::test]
async fn resources_are_refused_in_the_words_of_the_real_server() {
    let kbs = DevKbs::http();
    kbs.put(KEY, "the key");
    kbs.deny("a/b/denied");
    let (attested, _) = attested(&kbs, &p256_key()).await;
    let (challenged, _) = open_session(&kbs).await;
    let no_token = ("TokenNotFound", "Attestation Token not found");
    let denied = ("PolicyDeny", "Access denied by policy");
    let plugin = ("PluginInternalError", "Plugin internal error");
    let rows = [
        (KEY, None, no_token),
        (KEY, Some("kbs-session-id=0"), no_token),
        (KEY, Some(&*challenged), no_token),
        ("a/b/denied", Some(&*attested), denied),
        ("a/b/missing", Some(&*attested), plugin),
        ("a/b", Some(&*attested), plugin),
        ("a/b/c/d", Some(&*attested), plugin),
        ("a/.b/c", Some(&*attested), plugin),
    ];
    for (path, cookie, (kind, detail)) in rows {
        let expected = (401, kind.to_owned(), detail.to_owned());
        assert_eq!(
            resource_refusal(&kbs, path, cookie).await,
            expected,
            "{path}"
        );
    }
    kbs.expire_tokens();
    let expected = (
        401,
        "TokenVerifierError".to_owned(),
        "Token Verifier error".to_owned(),
    );
    assert_eq!(resource_refusal(&kbs, KEY, Some(&attested)).await, expected);
}

#[tokio::test]
async fn unusable_key_passes_attestation_and_fails_at_the_resource() {
    let kbs = DevKbs::http();
    kbs.put(KEY, "the key");
    let rows = [
        ("x", json!("AAAA")),
        ("x", json!(URL_SAFE_NO_PAD.encode([0; 32]))),
        ("crv", json!("P-384")),
        ("alg", json!("ECDH-ES")),
    ];
    for (member, value) in rows {
        let mut key = p256_key();
        key[member] = value;
        let (cookie, _) = attested(&kbs, &key).await;
        let expected = (401, "JweError".to_owned(), "JWE failed".to_owned());
        assert_eq!(
            resource_refusal(&kbs, KEY, Some(&cookie)).await,
            expected,
            "{key}"
        );
    }
}

#[tokio::test]
async fn unknown_plugin_is_not_found() {
    let kbs = DevKbs::http();
    for (path, name) in [("/kbs/v0/pkcs11/a", "pkcs11"), ("/kbs/v0/auth", "auth")] {
        let detail = format!("Plugin {name} not found");
        let expected = (404, "PluginNotFound".to_owned(), detail);
        assert_eq!(refusal(get(&kbs, path, None).await).await, expected);
    }
}

#[tokio::test]
async fn bearer_token_opens_the_door_as_the_cookie_does() {
    let kbs = DevKbs::http();
    kbs.put(KEY, "the key");
    let (_, token) = attested(&kbs, &p256_key()).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/kbs/v0/resource/{KEY}", kbs.url());
    assert_eq!(
        client
            .get(&url)
            .bearer_auth(&token)
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    let tampered = client
        .get(&url)
        .bearer_auth(format!("{token}A"))
        .send()
        .await
        .unwrap();
    assert_eq!(refusal(tampered).await.1, "TokenVerifierError");
    kbs.forget_sessions();
    let foreign = client.get(&url).bearer_auth(&token).send().await.unwrap();
    assert_eq!(
        refusal(foreign).await.1,
        "TokenVerifierError",
        "the signing key is gone"
    );
}

#[tokio::test]
async fn requests_outside_the_protocol_are_answered_as_the_real_server_does() {
    let kbs = DevKbs::http();
    let response = get(&kbs, "/elsewhere", None).await;
    assert_eq!(
        (
            response.status().as_u16(),
            response.text().await.unwrap().as_str()
        ),
        (404, "")
    );
    let response = send(&kbs, Method::PATCH, "/kbs/v0/auth", None, String::new()).await;
    assert_eq!(response.status(), 405);
    assert!(response.headers().contains_key("allow"));
    let long = "x".repeat(2 * 1024 * 1024 + 1);
    let response = send(&kbs, Method::POST, "/kbs/v0/auth", None, long).await;
    assert_eq!(response.status(), 413);
    assert_eq!(response.text().await.unwrap(), "payload reached size limit");
}
