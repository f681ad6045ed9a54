//! An answer of the KBS is echoed as it came or refused in words that are safe to print.
//!
//! An input is the status in a line, the cookie in a line, and the body.
#![no_main]

use std::sync::LazyLock;
use std::time::Instant;

use fuzz::assert_printable;
use kbs_client::{
    Answer, Attested, Challenged, Evidence, Handshake, SessionProof, TeeKey, TeeKeyAlgorithm,
};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

static SESSION: LazyLock<Handshake<Attested>> = LazyLock::new(|| {
    let token = answer(b"200\n\n{\"token\":\"e30.e30.x\"}").unwrap();
    challenged(&honest())
        .unwrap()
        .attested(&token, SessionProof::Cookie)
        .unwrap()
});

fuzz_target!(|data: &[u8]| {
    let Some(answer) = answer(data) else {
        return;
    };
    match challenged(&answer) {
        Ok(handshake) => assert_echoed(&handshake, &answer),
        Err(error) => assert_printable(&error),
    }
    let attested = challenged(&honest())
        .unwrap()
        .attested(&answer, SessionProof::Cookie);
    let opened = SESSION.open(&answer);
    for error in [attested.err(), opened.err()].iter().flatten() {
        assert_printable(error);
    }
});

fn answer(data: &[u8]) -> Option<Answer> {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let status = str::from_utf8(lines.next()?).ok()?.parse().ok()?;
    let cookie = String::from_utf8_lossy(lines.next()?).into_owned();
    Some(Answer {
        url: "https://kbs.example/kbs/v0/x".to_owned(),
        received: Instant::now(),
        status,
        set_cookie: vec![cookie],
        date: Some("Sun, 22 Nov 2026 10:52:57 GMT".to_owned()),
        body: lines.next()?.to_vec(),
    })
}

fn honest() -> Answer {
    answer(b"200\nkbs-session-id=1\n{\"nonce\":\"n\",\"extra-params\":\"\"}").unwrap()
}

fn challenged(answer: &Answer) -> Result<Handshake<Challenged>, kbs_client::Error> {
    let key = TeeKey::generate(TeeKeyAlgorithm::P256).unwrap();
    Handshake::challenged("sample", key, answer)
}

fn assert_echoed(handshake: &Handshake<Challenged>, answer: &Answer) {
    let (primary, additional) = (json!({}), String::new());
    let evidence = Evidence {
        primary,
        additional,
    };
    let request = handshake.attest_request(&evidence, None).unwrap();
    let sent: Value = serde_json::from_slice(request.body()).unwrap();
    // What nobody reads may hold what only a reader of everything objects to.
    let Ok(received) = serde_json::from_slice::<Value>(&answer.body) else {
        return;
    };
    assert_eq!(sent["runtime-data"]["nonce"], received["nonce"]);
    let cookie = request.cookie().unwrap();
    assert!(
        cookie
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b",;\"".contains(&byte))
    );
    assert_ne!(
        handshake.device_report_data().unwrap(),
        handshake.report_data("").unwrap()
    );
}
