//! Refusals, and answers that are none: each ends in the error that tells its cause.

use std::io;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use kbs_client::{Attester, AttesterError, Error, JweError, KbsClient, ReportData};
use kit::kbs::{DevKbs, Fault, Step};
use serde_json::{Value, json};

use crate::{KEY, config, fetch, kbs_and_client, kbs_and_hasty_client, requests};

/// Says what it is told to say.
#[derive(Debug)]
struct Liar {
    tee: &'static str,
    evidence: Option<Value>,
}

impl Attester for Liar {
    fn tee(&self) -> BoxFuture<'_, Result<String, AttesterError>> {
        std::future::ready(Ok(self.tee.to_owned())).boxed()
    }

    fn evidence<'a>(
        &'a self,
        _report_data: &'a ReportData,
    ) -> BoxFuture<'a, Result<Value, AttesterError>> {
        let unavailable = || AttesterError::new(io::Error::other("no quoting service"));
        std::future::ready(self.evidence.clone().ok_or_else(unavailable)).boxed()
    }
}

fn lying_client(kbs: &DevKbs, tee: &'static str, evidence: Option<Value>) -> KbsClient {
    KbsClient::new(config(kbs), Arc::new(Liar { tee, evidence })).unwrap()
}

#[tokio::test]
async fn refused_evidence_points_to_the_log_of_the_kbs() {
    let replayed = json!({ "svn": "1", "report_data": "AAAA" });
    for (tee, evidence) in [
        ("sample", &replayed),
        ("sample", &json!({})),
        ("snp", &replayed),
    ] {
        let kbs = DevKbs::http();
        let client = lying_client(&kbs, tee, Some(evidence.clone()));
        let error = fetch(&client, KEY).await.unwrap_err();
        let Error::EvidenceRefused { url, date, refusal } = &error else {
            panic!("{error:?}")
        };
        assert!(url.ends_with("/kbs/v0/attest"), "{url}");
        assert!(date.as_ref().unwrap().ends_with(" GMT"), "{date:?}");
        assert_eq!(
            refusal.detail,
            "Attestation error: RCAR handshake Attest failed"
        );
        assert!(
            error
                .to_string()
                .contains("the cause is in the KBS log at "),
            "{error}"
        );
        assert_eq!(kbs.requests(), requests(1, 1, 0), "{tee}");
    }
}

#[tokio::test]
async fn refused_session_names_the_tee() {
    let rows = [
        ("unheard-of", "deserialize Request"),
        ("se", "Attestation Service generate challenge failed"),
    ];
    for (tee, cause) in rows {
        let kbs = DevKbs::http();
        let error = fetch(&lying_client(&kbs, tee, None), KEY)
            .await
            .unwrap_err();
        let Error::SessionRefused {
            tee: found,
            refusal,
            ..
        } = &error
        else {
            panic!("{error:?}")
        };
        assert_eq!(found, tee);
        assert!(refusal.detail.ends_with(cause), "{}", refusal.detail);
        assert_eq!(kbs.requests(), requests(1, 0, 0), "{tee}");
    }
}

#[tokio::test]
async fn attester_without_evidence_is_told_from_a_refusal() {
    let kbs = DevKbs::http();
    let error = fetch(&lying_client(&kbs, "sample", None), KEY)
        .await
        .unwrap_err();
    let Error::Attester { source } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(source.to_string(), "no quoting service");
    assert_eq!(kbs.requests(), requests(1, 0, 0));
}

#[tokio::test]
async fn other_version_is_refused_naming_both() {
    let (kbs, client) = kbs_and_client();
    let detail = "Attestation error: RCAR handshake Auth failed: KBS Client Protocol Version \
                  Mismatch: expect =0.5.0 while the request is 0.4.0";
    kbs.fault(Step::Auth, Fault::error(401, "AttestationError", detail), 1);
    let error = fetch(&client, KEY).await.unwrap_err();
    let Error::Version { ours, theirs, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!((*ours, theirs.as_str()), ("0.4.0", "0.5.0"));
    assert_eq!(kbs.requests(), requests(1, 0, 0));
}

/// The name of the variant, for tables.
fn variant(error: &Error) -> String {
    let debug = format!("{error:?}");
    debug.split_whitespace().next().unwrap().to_owned()
}

/// Trustee answers 401 to nearly everything; the protocol's text has 403 and 404.
#[tokio::test]
async fn kind_decides_and_without_a_kind_the_status() {
    let rows = [
        (401, "PolicyDeny", "PolicyDenied"),
        (403, "PolicyDeny", "PolicyDenied"),
        (401, "PluginInternalError", "NotFound"),
        (404, "ResourceNotFound", "NotFound"),
        (404, "PluginNotFound", "NoSuchPlugin"),
        (401, "JweError", "Refused"),
        (401, "Unheard-of", "Refused"),
        (403, "", "PolicyDenied"),
        (404, "", "NotFound"),
        (401, "", "Refused"),
        (413, "", "Refused"),
        (431, "", "Refused"),
        (503, "", "Refused"),
        (307, "", "Refused"),
    ];
    for (status, kind, expected) in rows {
        let (kbs, client) = kbs_and_hasty_client();
        let fault = match kind {
            "" => Fault::status(status),
            kind => Fault::error(status, kind, "detail"),
        };
        kbs.fault(Step::Get, fault, 9);
        let error = fetch(&client, KEY).await.unwrap_err();
        assert_eq!(variant(&error), expected, "{status} {kind}: {error}");
        assert_eq!(error.is_transient(), status == 503, "{status} {kind}");
        assert_eq!(kbs.requests(), requests(1, 1, 1), "{status} {kind}");
    }
}

#[tokio::test]
async fn answer_that_is_no_challenge_is_malformed() {
    for (row, body, with_cookie) in [
        ("HTML", "<html>", true),
        ("no nonce", r#"{"extra-params":""}"#, true),
        ("no cookie", r#"{"nonce":"n","extra-params":""}"#, false),
        (
            "unknown hash",
            r#"{"nonce":"n","extra-params":{"selected-hash-algorithm":"sm3"}}"#,
            true,
        ),
    ] {
        let (kbs, client) = kbs_and_client();
        let cookie = ("set-cookie", "kbs-session-id=abc".to_owned());
        let headers = if with_cookie {
            vec![cookie]
        } else {
            Vec::new()
        };
        let fault = Fault::Answer {
            status: 200,
            headers,
            body: body.to_owned(),
        };
        kbs.fault(Step::Auth, fault, 1);
        let error = fetch(&client, KEY).await.unwrap_err();
        assert_eq!(variant(&error), "Malformed", "{row}: {error}");
        assert_eq!(kbs.requests(), requests(1, 0, 0), "{row}");
    }
}

#[tokio::test]
async fn answer_that_is_no_token_is_told_from_a_refusal() {
    let rows = [
        ("HTML", Fault::message("<html>"), "Malformed"),
        ("no token", Fault::message("{}"), "Malformed"),
        ("overload", Fault::status(503), "Refused"),
        ("nothing there", Fault::status(404), "Refused"),
    ];
    for (row, fault, expected) in rows {
        let (kbs, client) = kbs_and_hasty_client();
        kbs.fault(Step::Attest, fault, 1);
        let error = fetch(&client, KEY).await.unwrap_err();
        assert_eq!(variant(&error), expected, "{row}: {error}");
        assert_eq!(kbs.requests(), requests(1, 1, 0), "{row}");
    }
}

#[tokio::test]
async fn replayed_challenge_is_refused_by_the_kbs() {
    let (kbs, client) = kbs_and_client();
    let fault = Fault::Answer {
        status: 200,
        headers: vec![("set-cookie", "kbs-session-id=of-somebody-else".to_owned())],
        body: r#"{"nonce":"old","extra-params":""}"#.to_owned(),
    };
    kbs.fault(Step::Auth, fault, 1);
    let error = fetch(&client, KEY).await.unwrap_err();
    assert_eq!(variant(&error), "EvidenceRefused", "{error}");
}

#[tokio::test]
async fn answer_that_is_no_resource_is_not_decryptable() {
    let (kbs, client) = kbs_and_client();
    kbs.fault(Step::Get, Fault::message("<html>"), 1);
    let error = fetch(&client, KEY).await.unwrap_err();
    let Error::Undecryptable {
        source: JweError::Shape(_),
        ..
    } = &error
    else {
        panic!("{error:?}")
    };
}
