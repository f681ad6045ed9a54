//! What happens between the client and the KBS: names, certificates, broken and endless answers.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kbs_client::{
    ConfigError, Error, JweError, KbsClient, KbsConfig, SampleAttester, Trust, Unreachability,
};
use kit::authority::Authority;
use kit::kbs::{Certificate, DevKbs, Fault, Options, Step};

use crate::{KEY, client, config, fetch, kbs_and_client, requests};

fn kbs_with(certificate: Certificate) -> DevKbs {
    DevKbs::start(Options {
        tls: Some(certificate),
        ..Options::default()
    })
    .unwrap()
}

#[tokio::test]
async fn wrong_certificate_is_reported_at_once_with_its_reason() {
    let rows = [
        (
            Certificate::Expired,
            "certificate expired",
            "our clock is wrong, which says ",
        ),
        (Certificate::OtherName, "not valid for name", "other names"),
        (
            Certificate::AuthorityItself,
            "CaUsedAsEndEntity",
            "CA certificate as its own",
        ),
    ];
    for (certificate, expected_reason, expected_hint) in rows {
        let kbs = kbs_with(certificate);
        let started = Instant::now();
        let error = fetch(&client(&kbs), KEY).await.unwrap_err();
        let Error::Tls {
            url,
            subject,
            reason,
            hint,
        } = &error
        else {
            panic!("{error:?}")
        };
        let subject = subject.as_deref().unwrap();
        assert!(subject.starts_with("CN="), "{subject}");
        assert!(error.to_string().contains(subject), "{error}");
        assert!(url.ends_with("/kbs/v0/auth"), "{url}");
        assert!(
            reason.contains(expected_reason),
            "{certificate:?}: {reason}"
        );
        assert!(hint.contains(expected_hint), "{certificate:?}: {hint}");
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "tried for as long as a broken connection"
        );
        assert_eq!(kbs.requests(), requests(0, 0, 0));
    }
}

#[tokio::test]
async fn configured_root_is_the_only_one() {
    let (kbs, other) = (DevKbs::https(), DevKbs::https());
    let mut config = config(&kbs);
    config.root_certificates = vec![other.certificate().into()];
    let client = KbsClient::new(config, Arc::new(SampleAttester)).unwrap();
    let error = fetch(&client, KEY).await.unwrap_err();
    let Error::Tls { reason, hint, .. } = &error else {
        panic!("{error:?}")
    };
    // Both authorities have the same name.
    assert_eq!(reason, "invalid peer certificate: BadSignature");
    assert_eq!(
        hint,
        "none of the configured root certificates has issued its certificate"
    );
    assert_eq!(kbs.requests(), requests(0, 0, 0));
}

#[tokio::test]
async fn unknown_authority_is_told_as_such() {
    let kbs = DevKbs::https();
    let mut config = config(&kbs);
    config.root_certificates = vec![Authority::mint("other").certificate().into()];
    let client = KbsClient::new(config, Arc::new(SampleAttester)).unwrap();
    let error = fetch(&client, KEY).await.unwrap_err();
    let Error::Tls { reason, hint, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(reason, "invalid peer certificate: UnknownIssuer");
    assert_eq!(
        hint,
        "none of the configured root certificates has issued its certificate"
    );
}

#[tokio::test]
async fn configured_root_can_be_added_to_the_systems() {
    let (kbs, other) = (DevKbs::https(), DevKbs::https());
    kbs.put(KEY, "the key");
    let mut config = config(&kbs);
    config.trust = Trust::Added;
    let client = KbsClient::new(config.clone(), Arc::new(SampleAttester)).unwrap();
    assert_eq!(fetch(&client, KEY).await.unwrap(), b"the key");

    config.root_certificates = vec![other.certificate().into()];
    let client = KbsClient::new(config, Arc::new(SampleAttester)).unwrap();
    let error = fetch(&client, KEY).await.unwrap_err();
    let Error::Tls { hint, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(
        hint,
        "no root that is trusted has issued its certificate; configure the one that has"
    );
}

#[tokio::test]
async fn certificate_is_judged_no_earlier_than_what_has_certainly_been() {
    let kbs = DevKbs::https();
    let mut config = config(&kbs);
    // Far beyond the end of any certificate that is minted here.
    config.not_before = SystemTime::UNIX_EPOCH + Duration::from_hours(4_200 * 365 * 24);
    let client = KbsClient::new(config, Arc::new(SampleAttester)).unwrap();
    let error = fetch(&client, KEY).await.unwrap_err();
    let Error::Tls { reason, hint, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(reason.contains("certificate expired"), "{reason}");
    assert!(hint.contains(" 6167 "), "our clock is printed: {hint}");
}

#[tokio::test]
async fn several_roots_in_one_text_are_all_trusted() {
    let (kbs, other) = (DevKbs::https(), DevKbs::https());
    kbs.put(KEY, "the key");
    let mut config = config(&kbs);
    let both = format!("{}{}", other.certificate(), kbs.certificate());
    config.root_certificates = vec![both.into()];
    let client = KbsClient::new(config, Arc::new(SampleAttester)).unwrap();
    assert_eq!(fetch(&client, KEY).await.unwrap(), b"the key");
}

#[tokio::test]
async fn https_to_a_port_without_tls_is_a_tls_error() {
    let plain = DevKbs::http();
    let mut config = config(&DevKbs::https());
    config.url = plain.url().replace("http:", "https:").parse().unwrap();
    let client = KbsClient::new(config, Arc::new(SampleAttester)).unwrap();
    let error = fetch(&client, KEY).await.unwrap_err();
    let Error::Tls { hint, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(hint.starts_with("the port may not speak TLS"), "{hint}");
}

fn reason(error: &Error) -> Unreachability {
    let Error::Unreachable { reason, .. } = error else {
        panic!("{error:?}")
    };
    *reason
}

#[tokio::test]
async fn nobody_listening_is_told_within_the_time_for_retries() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut config = KbsConfig::new(format!("http://127.0.0.1:{port}").parse().unwrap());
    config.timeouts.retry = Duration::from_millis(300);
    let client = KbsClient::new(config, Arc::new(SampleAttester)).unwrap();
    let started = Instant::now();
    let error = fetch(&client, KEY).await.unwrap_err();
    assert_eq!(reason(&error), Unreachability::Refused);
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "{:?}",
        started.elapsed()
    );
    assert!(error.is_transient());
}

#[tokio::test]
async fn host_without_address_is_told_from_one_that_refuses() {
    // A label of 64 characters is no name: the resolver says so without asking anybody.
    let url = format!("http://{}/", "a".repeat(64));
    let mut config = KbsConfig::new(url.parse().unwrap());
    config.timeouts.retry = Duration::ZERO;
    let client = KbsClient::new(config, Arc::new(SampleAttester)).unwrap();
    let error = fetch(&client, KEY).await.unwrap_err();
    assert_eq!(reason(&error), Unreachability::Dns);
}

#[tokio::test]
async fn kbs_that_comes_up_late_is_waited_for() {
    let address = DevKbs::http().address();
    let mut config = KbsConfig::new(format!("http://{address}").parse().unwrap());
    config.timeouts.retry = Duration::from_secs(5);
    let client = KbsClient::new(config, Arc::new(SampleAttester)).unwrap();
    let start = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let kbs = DevKbs::start(Options {
            listen: address,
            ..Options::default()
        })
        .unwrap();
        kbs.put(KEY, "the key");
        kbs
    };
    let (kbs, fetched) = tokio::join!(start, fetch(&client, KEY));
    assert_eq!(fetched.unwrap(), b"the key");
    assert_eq!(kbs.requests(), requests(1, 1, 1));
}

#[tokio::test]
async fn restarted_kbs_costs_one_new_handshake() {
    let (kbs, client) = kbs_and_client();
    let listen = kbs.address();
    fetch(&client, KEY).await.unwrap();
    drop(kbs);
    let kbs = DevKbs::start(Options {
        listen,
        ..Options::default()
    })
    .unwrap();
    kbs.put(KEY, "the key");
    assert_eq!(fetch(&client, KEY).await.unwrap(), b"the key");
    assert_eq!(kbs.requests(), requests(1, 1, 2));
}

#[tokio::test]
async fn connection_cut_once_is_tried_anew() {
    for step in [Step::Auth, Step::Attest, Step::Get] {
        let (kbs, client) = kbs_and_client();
        kbs.fault(step, Fault::CutConnection, 1);
        assert_eq!(fetch(&client, KEY).await.unwrap(), b"the key", "{step:?}");
        let made = kbs.requests();
        assert_eq!(made.auth + made.attest + made.get, 4, "{step:?}: {made:?}");
    }
}

#[tokio::test]
async fn connection_cut_always_ends_as_broken() {
    let kbs = DevKbs::http();
    kbs.fault(Step::Get, Fault::CutConnection, usize::MAX);
    let mut config = config(&kbs);
    config.timeouts.retry = Duration::from_millis(400);
    let client = KbsClient::new(config, Arc::new(SampleAttester)).unwrap();
    let error = fetch(&client, KEY).await.unwrap_err();
    assert_eq!(reason(&error), Unreachability::Broken);
    assert_eq!(kbs.requests().attest, 1);
}

#[tokio::test]
async fn gateway_that_asks_for_patience_is_asked_again() {
    for (step, status) in [
        (Step::Auth, 502),
        (Step::Attest, 503),
        (Step::Get, 504),
        (Step::Get, 429),
    ] {
        let (kbs, client) = kbs_and_client();
        kbs.fault(step, Fault::status(status), 2);
        assert_eq!(fetch(&client, KEY).await.unwrap(), b"the key", "{step:?}");
        let made = kbs.requests();
        assert_eq!(made.auth + made.attest + made.get, 5, "{step:?}: {made:?}");
    }
}

#[tokio::test]
async fn gateway_that_stays_busy_is_told_by_its_answer() {
    let kbs = DevKbs::http();
    kbs.fault(Step::Get, Fault::status(503), usize::MAX);
    let mut config = config(&kbs);
    config.timeouts.retry = Duration::from_millis(400);
    let client = KbsClient::new(config, Arc::new(SampleAttester)).unwrap();
    let error = fetch(&client, KEY).await.unwrap_err();
    let Error::Refused { refusal, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(refusal.status, 503);
    assert!(error.is_transient());
    assert!(kbs.requests().get > 1, "{:?}", kbs.requests());
}

#[tokio::test]
async fn answer_beyond_the_cap_is_not_read() {
    for step in [Step::Auth, Step::Attest, Step::Get] {
        for fault in [Fault::EndlessBody, Fault::LongBody] {
            let (kbs, client) = kbs_and_client();
            kbs.fault(step, fault.clone(), 1);
            let error = fetch(&client, KEY).await.unwrap_err();
            let Error::TooLarge { limit, .. } = error else {
                panic!("{step:?} {error:?}")
            };
            assert_eq!(limit, 2 * 1024 * 1024, "{step:?} {fault:?}");
        }
    }
}

#[tokio::test]
async fn clock_that_is_wrong_costs_no_handshake() {
    let minutes = Duration::from_mins(10);
    for (ahead, behind) in [(minutes, Duration::ZERO), (Duration::ZERO, minutes)] {
        let (kbs, client) = kbs_and_client();
        kbs.set_clock(ahead, behind);
        for _ in 0..3 {
            assert_eq!(fetch(&client, KEY).await.unwrap(), b"the key");
        }
        assert_eq!(kbs.requests(), requests(1, 1, 3), "{ahead:?} {behind:?}");
        // The KBS is believed when it is ahead; nobody is when the time would go back.
        let gained = client.now().duration_since(SystemTime::now());
        assert_eq!(
            gained.is_ok_and(|gained| gained > minutes / 2),
            !ahead.is_zero()
        );
    }
}

#[tokio::test]
async fn slow_answer_ends_at_the_deadline() {
    for fault in [Fault::Drip, Fault::Delay(Duration::from_mins(1))] {
        let kbs = DevKbs::http();
        kbs.put(KEY, "the key");
        kbs.fault(Step::Get, fault.clone(), 9);
        let mut config = config(&kbs);
        config.timeouts.total = Duration::from_millis(1500);
        let client = KbsClient::new(config, Arc::new(SampleAttester)).unwrap();
        let started = Instant::now();
        let error = fetch(&client, KEY).await.unwrap_err();
        let deadline = Unreachability::Timeout(Duration::from_millis(1500));
        assert_eq!(reason(&error), deadline, "{fault:?}");
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "{:?}",
            started.elapsed()
        );
        assert_eq!(kbs.requests(), requests(1, 1, 1), "{fault:?}");
    }
}

#[tokio::test]
async fn truncated_jwe_is_no_jwe() {
    let (kbs, client) = kbs_and_client();
    kbs.fault(Step::Get, Fault::Truncate, 1);
    let error = fetch(&client, KEY).await.unwrap_err();
    let Error::Undecryptable {
        source: JweError::Shape(_),
        ..
    } = &error
    else {
        panic!("{error:?}")
    };
    assert_eq!(kbs.requests(), requests(1, 1, 1));
}

#[tokio::test]
async fn redirect_is_not_followed() {
    let ((kbs, client), elsewhere) = (kbs_and_client(), DevKbs::http());
    elsewhere.put(KEY, "not the key");
    kbs.fault(
        Step::Auth,
        Fault::redirect(&format!("{}/kbs/v0/auth", elsewhere.url())),
        1,
    );
    let error = fetch(&client, KEY).await.unwrap_err();
    let Error::Refused { refusal, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(refusal.status, 307);
    assert_eq!(elsewhere.requests(), requests(0, 0, 0));
}

#[tokio::test]
async fn configured_proxy_is_used() {
    let kbs = DevKbs::http();
    kbs.put(KEY, "the key");
    let mut config = KbsConfig::new("http://kbs.example".parse().unwrap());
    config.proxy = Some(kbs.url().parse().unwrap());
    let client = KbsClient::new(config, Arc::new(SampleAttester)).unwrap();
    assert!(!client.authenticated());
    assert_eq!(fetch(&client, KEY).await.unwrap(), b"the key");
}

#[tokio::test]
async fn kbs_behind_a_path_and_on_ipv6_is_reached() {
    let listen = "[::1]:0".parse().unwrap();
    let kbs = DevKbs::start(Options {
        listen,
        ..Options::default()
    })
    .unwrap();
    kbs.put(KEY, "the key");
    assert_eq!(fetch(&client(&kbs), KEY).await.unwrap(), b"the key");

    let mut behind = config(&kbs);
    behind.url = format!("{}/prefix/", kbs.url()).parse().unwrap();
    let client = KbsClient::new(behind, Arc::new(SampleAttester)).unwrap();
    let error = fetch(&client, KEY).await.unwrap_err();
    let Error::Refused { url, refusal } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(*url, format!("{}/prefix/kbs/v0/auth", kbs.url()));
    assert_eq!(refusal.status, 404);
}

#[test]
fn only_https_and_loopback_are_authenticated() {
    let certificate = DevKbs::https().certificate().to_owned();
    let rows = [
        ("https://kbs.example", None, true),
        ("https://kbs.example", Some("http://proxy.example"), true),
        ("http://kbs.example", None, false),
        ("http://192.0.2.1:8080", None, false),
        ("http://localhost.example", None, false),
        ("http://127.0.0.1:8080", None, true),
        ("http://[::1]:8080", None, true),
        ("http://localhost:8080", None, true),
        ("http://localhost:8080", Some("http://proxy.example"), false),
    ];
    for (url, proxy, expected) in rows {
        let mut config = KbsConfig::new(url.parse().unwrap());
        config.root_certificates = vec![certificate.clone().into()];
        config.proxy = proxy.map(|proxy| proxy.parse().unwrap());
        let client = KbsClient::new(config, Arc::new(SampleAttester)).unwrap();
        assert_eq!(client.authenticated(), expected, "{url} {proxy:?}");
    }
}

#[test]
fn configuration_that_cannot_work_is_refused() {
    let rows = [
        ("ftp://kbs.example", "another scheme"),
        ("http://user:pw@kbs.example", "a user name"),
        ("http://kbs.example/?a=b", "a query"),
        ("http://kbs.example/#a", "a fragment"),
    ];
    for (url, expected) in rows {
        let config = KbsConfig::new(url.parse().unwrap());
        let error = KbsClient::new(config, Arc::new(SampleAttester)).unwrap_err();
        let ConfigError::Url {
            problem,
            url: shown,
        } = &error
        else {
            panic!("{error:?}")
        };
        assert_eq!(*problem, expected, "{url}");
        assert!(!shown.contains("pw"), "{shown}");
    }
    let mut config = KbsConfig::new("http://kbs.example".parse().unwrap());
    config.proxy = Some("ftp://user:s3cret@proxy.example".parse().unwrap());
    let error = KbsClient::new(config, Arc::new(SampleAttester)).unwrap_err();
    assert!(matches!(error, ConfigError::Proxy { .. }), "{error:?}");
    assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    for roots in [
        "",
        "no PEM",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        let mut config = KbsConfig::new("https://kbs.example".parse().unwrap());
        config.root_certificates = vec![roots.into()];
        let error = KbsClient::new(config, Arc::new(SampleAttester)).unwrap_err();
        let expected = matches!(
            error,
            ConfigError::RootCertificates { .. } | ConfigError::Client { .. }
        );
        assert!(expected, "{roots:?}: {error:?}");
    }
}
