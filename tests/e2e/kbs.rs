//! The KBS client against the development KBS: every promise of the crate, with its requests
//! counted.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "whatever breaks in a test must fail it, with the place where it broke"
)]

#[path = "kbs/attesters.rs"]
mod attesters;
#[path = "kbs/freshness.rs"]
mod freshness;
#[path = "kbs/program.rs"]
mod program;
#[path = "kbs/refusals.rs"]
mod refusals;
#[path = "kbs/server.rs"]
mod server;
#[path = "kbs/transport.rs"]
mod transport;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kbs_client::{
    Error, JweError, KbsClient, KbsConfig, ResourceUri, SampleAttester, SessionProof,
    TeeKeyAlgorithm,
};
use kit::kbs::{Certificate, DevKbs, Fault, Options, Requests, Step};

const KEY: &str = "default/cosign-key/1";

fn config(kbs: &DevKbs) -> KbsConfig {
    let mut config = KbsConfig::new(kbs.url().parse().unwrap());
    if kbs.url().starts_with("https") {
        config.root_certificates = vec![kbs.certificate().into()];
    }
    config.timeouts.connect = Duration::from_secs(10);
    config.timeouts.total = Duration::from_secs(30);
    config.timeouts.retry = Duration::from_secs(10);
    config
}

fn client(kbs: &DevKbs) -> KbsClient {
    KbsClient::new(config(kbs), Arc::new(SampleAttester)).unwrap()
}

fn uri(path: &str) -> ResourceUri {
    format!("kbs:///{path}").parse().unwrap()
}

fn requests(auth: usize, attest: usize, get: usize) -> Requests {
    Requests { auth, attest, get }
}

async fn fetch(client: &KbsClient, path: &str) -> Result<Vec<u8>, Error> {
    client
        .resource(&uri(path))
        .await
        .map(|secret| secret.expose().to_vec())
}

/// A KBS over http that holds [`KEY`], and a client for it.
fn kbs_and_client() -> (DevKbs, KbsClient) {
    let kbs = DevKbs::http();
    kbs.put(KEY, "the key");
    let client = client(&kbs);
    (kbs, client)
}

/// The same, and what fails is not tried again.
fn kbs_and_hasty_client() -> (DevKbs, KbsClient) {
    let (kbs, _) = kbs_and_client();
    let mut config = config(&kbs);
    config.timeouts.retry = Duration::ZERO;
    let client = KbsClient::new(config, Arc::new(SampleAttester)).unwrap();
    (kbs, client)
}

#[tokio::test]
async fn fetches_over_http_and_over_https_with_its_certificate() {
    for kbs in [DevKbs::http(), DevKbs::https()] {
        kbs.put(KEY, "the key");
        kbs.put("default/test/empty", "");
        let client = client(&kbs);
        assert!(client.authenticated(), "loopback and https are");
        assert_eq!(
            fetch(&client, KEY).await.unwrap(),
            b"the key",
            "{}",
            kbs.url()
        );
        assert_eq!(
            fetch(&client, "default/test/empty").await.unwrap(),
            b"",
            "{}",
            kbs.url()
        );
        assert_eq!(kbs.requests(), requests(1, 1, 2), "{}", kbs.url());
    }
}

#[tokio::test]
async fn opens_what_is_sealed_to_each_kind_of_key() {
    for algorithm in [
        TeeKeyAlgorithm::P256,
        TeeKeyAlgorithm::P521,
        TeeKeyAlgorithm::RsaOaep256,
    ] {
        let kbs = DevKbs::http();
        kbs.put(KEY, "the key");
        let mut config = config(&kbs);
        config.tee_key = algorithm;
        let client = KbsClient::new(config, Arc::new(SampleAttester)).unwrap();
        assert_eq!(
            fetch(&client, KEY).await.unwrap(),
            b"the key",
            "{algorithm:?}"
        );
    }
}

#[tokio::test]
async fn token_serves_in_place_of_the_cookie_and_outlives_its_session() {
    let kbs = DevKbs::http();
    kbs.put(KEY, "the key");
    kbs.set_session_life(Duration::from_secs(1));
    let mut config = config(&kbs);
    config.proof = SessionProof::Bearer;
    let client = KbsClient::new(config, Arc::new(SampleAttester)).unwrap();
    fetch(&client, KEY).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(fetch(&client, KEY).await.unwrap(), b"the key");
    assert_eq!(kbs.requests(), requests(1, 1, 2));
    kbs.forget_sessions();
    assert_eq!(fetch(&client, KEY).await.unwrap(), b"the key");
    assert_eq!(
        kbs.requests(),
        requests(2, 2, 4),
        "its signing key was gone"
    );
}

#[tokio::test]
async fn attestation_tells_what_it_has_brought() {
    let (kbs, client) = kbs_and_client();
    let attestation = client.attest().await.unwrap();
    assert_eq!(attestation.tee.as_deref(), Some("sample"));
    assert!(attestation.evidence_length.unwrap() > 60);
    let claims = attestation.untrusted_claims.unwrap();
    assert_eq!(claims["iss"], "CoCo-Attestation-Service");
    fetch(&client, KEY).await.unwrap();
    assert_eq!(kbs.requests(), requests(1, 1, 1), "the session serves on");
}

#[tokio::test]
async fn one_attestation_serves_a_hundred_concurrent_callers() {
    let (kbs, client) = kbs_and_client();
    let fetched = join_all((0..100).map(|_| fetch(&client, KEY))).await;
    assert!(
        fetched
            .iter()
            .all(|content| content.as_deref().unwrap() == b"the key")
    );
    assert_eq!(kbs.requests(), requests(1, 1, 100));
}

#[tokio::test]
async fn handshake_and_fetches_take_one_connection() {
    for kbs in [DevKbs::http(), DevKbs::https()] {
        kbs.put(KEY, "the key");
        let client = client(&kbs);
        for _ in 0..10 {
            fetch(&client, KEY).await.unwrap();
        }
        assert_eq!(kbs.requests(), requests(1, 1, 10));
        assert_eq!(kbs.connections(), 1, "{}", kbs.url());
    }
}

#[tokio::test]
async fn a_hundred_callers_share_one_connection_over_http2() {
    let kbs = DevKbs::start(Options {
        tls: Some(Certificate::Good),
        http2: true,
        ..Options::default()
    })
    .unwrap();
    kbs.put(KEY, "the key");
    let client = client(&kbs);
    let fetched = join_all((0..100).map(|_| fetch(&client, KEY))).await;
    for content in fetched {
        assert_eq!(content.unwrap(), b"the key");
    }
    kbs.deny(KEY);
    let error = fetch(&client, KEY).await.unwrap_err();
    assert!(matches!(error, Error::PolicyDenied { .. }), "{error:?}");
    assert_eq!(kbs.requests(), requests(1, 1, 101));
    assert_eq!(kbs.connections(), 1);
}

#[tokio::test]
async fn denied_resource_costs_one_request() {
    let (kbs, client) = kbs_and_client();
    kbs.deny(KEY);
    kbs.deny("default/test/missing");
    for (path, gets) in [(KEY, 1), ("default/test/missing", 2), (KEY, 3)] {
        let error = fetch(&client, path).await.unwrap_err();
        let Error::PolicyDenied { url } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(*url, format!("{}/kbs/v0/resource/{path}", kbs.url()));
        assert_eq!(kbs.requests(), requests(1, 1, gets));
    }
    kbs.allow(KEY);
    assert_eq!(fetch(&client, KEY).await.unwrap(), b"the key");
    assert_eq!(kbs.requests(), requests(1, 1, 4));
}

#[tokio::test]
async fn missing_resource_costs_one_request() {
    let (kbs, client) = kbs_and_client();
    let error = fetch(&client, "default/test/missing").await.unwrap_err();
    let Error::NotFound { url } = &error else {
        panic!("{error:?}")
    };
    assert!(
        url.ends_with("/kbs/v0/resource/default/test/missing"),
        "{url}"
    );
    assert_eq!(kbs.requests(), requests(1, 1, 1));
}

#[tokio::test]
async fn unknown_plugin_costs_one_request() {
    let (kbs, client) = kbs_and_client();
    let pin = "kbs+pkcs11:///pin?user=alice".parse().unwrap();
    let error = client.resource(&pin).await.unwrap_err();
    let Error::NoSuchPlugin { url } = &error else {
        panic!("{error:?}")
    };
    assert!(
        url.ends_with("/kbs/v0/pkcs11/pin"),
        "the query stays out of errors: {url}"
    );
    assert_eq!(kbs.requests(), requests(1, 1, 1));
}

#[tokio::test]
async fn expired_token_costs_one_new_handshake() {
    let (kbs, client) = kbs_and_client();
    fetch(&client, KEY).await.unwrap();
    kbs.expire_tokens();
    assert_eq!(fetch(&client, KEY).await.unwrap(), b"the key");
    assert_eq!(kbs.requests(), requests(2, 2, 3));
    fetch(&client, KEY).await.unwrap();
    assert_eq!(kbs.requests(), requests(2, 2, 4), "and then on");
}

#[tokio::test]
async fn forgotten_session_costs_one_new_handshake_for_all() {
    let (kbs, client) = kbs_and_client();
    fetch(&client, KEY).await.unwrap();
    kbs.forget_sessions();
    let fetched = join_all((0..50).map(|_| fetch(&client, KEY))).await;
    assert!(
        fetched
            .iter()
            .all(|content| content.as_deref().unwrap() == b"the key")
    );
    assert_eq!(kbs.requests(), requests(2, 2, 1 + 50 + 50));
}

#[tokio::test]
async fn token_at_its_end_is_renewed_before_it_is_refused() {
    let (kbs, client) = kbs_and_client();
    kbs.set_token_life(Duration::from_secs(1));
    fetch(&client, KEY).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    fetch(&client, KEY).await.unwrap();
    assert_eq!(kbs.requests(), requests(2, 2, 2));
}

#[tokio::test]
async fn session_at_its_end_is_renewed_before_it_is_refused() {
    let (kbs, client) = kbs_and_client();
    kbs.set_session_life(Duration::from_secs(2));
    fetch(&client, KEY).await.unwrap();
    // `Expires` and `Date` are whole seconds: the session lasts up to three.
    tokio::time::sleep(Duration::from_millis(3200)).await;
    fetch(&client, KEY).await.unwrap();
    assert_eq!(kbs.requests(), requests(2, 2, 2));
}

#[tokio::test]
async fn token_refused_after_attestation_is_final() {
    for kind in ["TokenNotFound", "TokenVerifierError"] {
        let (kbs, client) = kbs_and_client();
        kbs.fault(Step::Get, Fault::error(401, kind, "no"), 9);
        let error = fetch(&client, KEY).await.unwrap_err();
        let Error::TokenRefused { refusal, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!((refusal.status, refusal.kind.as_str()), (401, kind));
        assert_eq!(kbs.requests(), requests(2, 2, 2), "{kind}");
    }
}

#[tokio::test]
async fn failed_handshake_is_reported_to_all_who_wait_and_not_repeated_by_each() {
    let (kbs, client) = kbs_and_client();
    let refused = Fault::error(401, "AttestationError", "RCAR handshake Attest failed");
    kbs.fault(Step::Attest, refused, 1);
    for error in join_all((0..50).map(|_| fetch(&client, KEY))).await {
        let Err(Error::EvidenceRefused { .. }) = &error else {
            panic!("{error:?}")
        };
    }
    assert_eq!(kbs.requests(), requests(1, 1, 0));
    fetch(&client, KEY).await.unwrap();
    assert_eq!(
        kbs.requests(),
        requests(2, 2, 1),
        "a later caller tries again"
    );
}

#[tokio::test]
async fn caller_that_gives_up_does_not_end_the_handshake_of_others() {
    let (kbs, client) = kbs_and_client();
    kbs.fault(Step::Auth, Fault::Delay(Duration::from_millis(300)), 1);
    let impatient = tokio::time::timeout(Duration::from_millis(100), fetch(&client, KEY));
    let (gave_up, patient) = tokio::join!(impatient, fetch(&client, KEY));
    assert!(gave_up.is_err(), "in time after all");
    assert_eq!(patient.unwrap(), b"the key");
    assert_eq!(kbs.requests(), requests(1, 1, 1));
}

#[tokio::test]
async fn handshake_that_all_gave_up_is_begun_anew() {
    let (kbs, client) = kbs_and_client();
    kbs.fault(Step::Auth, Fault::Delay(Duration::from_millis(300)), 1);
    let impatient = tokio::time::timeout(Duration::from_millis(100), fetch(&client, KEY));
    assert!(impatient.await.is_err(), "in time after all");
    assert_eq!(fetch(&client, KEY).await.unwrap(), b"the key");
    assert_eq!(kbs.requests(), requests(2, 1, 1));
}

#[tokio::test]
async fn resource_sealed_to_another_key_cannot_be_decrypted() {
    let (kbs, other) = kbs_and_client();
    fetch(&other, KEY).await.unwrap();
    let jwe = server::sealed_to_foreign_key(&kbs).await;
    kbs.fault(Step::Get, Fault::message(&jwe), 1);
    let error = fetch(&client(&kbs), KEY).await.unwrap_err();
    let Error::Undecryptable {
        source: JweError::ContentKey,
        ..
    } = &error
    else {
        panic!("{error:?}")
    };
}

#[tokio::test]
async fn nothing_secret_is_printed() {
    let (kbs, client) = kbs_and_client();
    let secret = client.resource(&uri(KEY)).await.unwrap();
    assert_eq!(format!("{secret:?}"), "Secret(..)");
    let shown = format!("{client:?}");
    assert!(
        !shown.contains("kbs-session-id") && !shown.contains("the key"),
        "{shown}"
    );
    kbs.deny(KEY);
    let error = fetch(&client, KEY).await.unwrap_err();
    assert!(
        !format!("{error:?}").contains("kbs-session-id"),
        "{error:?}"
    );
}
