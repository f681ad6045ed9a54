//! Attesters: the kernel's configfs-tsm and the guest's attestation agent, against stand-ins with
//! their semantics, and the choice between them.

use std::error::Error as _;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::agreement::{ECDH_P521, PrivateKey};
use aws_lc_rs::digest::{SHA384, digest};
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kbs_client::{
    AgentError, AttestationAgent, Attester, AttesterError, DetectError, DetectedAttester, Error,
    InitData, InitDataError, KbsClient, ReportData, SampleAttester, SnpError, TsmAttester,
    TsmError, TsmProvider, TsmSettings,
};
use kit::attestation_agent::{AgentAnswers, AttestationAgentStandIn};
use kit::kbs::DevKbs;
use kit::tsm::{Hardware, TsmFault, TsmFs};
use serde_json::{Value, json};

use crate::{KEY, config, fetch, requests};

const INIT_DATA: &str = "version = \"0.1.0\"\nalgorithm = \"sha384\"\n\n[data]\n";

/// A TD quote of version 4 with these report data, launched with [`INIT_DATA`].
fn td_quote(report_data: &[u8]) -> Vec<u8> {
    let mut quote = vec![0; 48 + 584];
    quote[0] = 4;
    let launched = digest(&SHA384, INIT_DATA.as_bytes());
    quote[48 + 184..48 + 232].copy_from_slice(launched.as_ref());
    quote[48 + 520..].copy_from_slice(report_data);
    quote
}

/// An SNP report of version 3 with these report data, launched with [`INIT_DATA`].
fn snp_report(report_data: &[u8]) -> Vec<u8> {
    let mut report = vec![0; 1184];
    report[0] = 3;
    report[0x50..0x90].copy_from_slice(report_data);
    let launched = digest(&SHA384, INIT_DATA.as_bytes());
    report[0xc0..0xe0].copy_from_slice(&launched.as_ref()[..32]);
    report[0x188] = 0x19;
    report
}

fn tdx() -> Hardware {
    Hardware {
        provider: "tdx_guest",
        quote: td_quote,
        certificates: None,
        privilege_floor: 0,
    }
}

fn snp() -> Hardware {
    Hardware {
        provider: "sev_guest",
        quote: snp_report,
        ..tdx()
    }
}

fn settings(kernel: &TsmFs) -> TsmSettings {
    let mut settings = TsmSettings::default();
    kernel.folder().clone_into(&mut settings.folder);
    settings.deadline = Duration::from_secs(10);
    settings.ccel = "/nonexistent/CCEL".into();
    settings.agent_event_log = "/nonexistent/eventlog".into();
    settings
}

fn report_data() -> ReportData {
    ReportData::sha384(&json!({ "nonce": "n" })).unwrap()
}

async fn evidence(settings: TsmSettings) -> Result<Value, TsmError> {
    let attester = TsmAttester::new(settings);
    let outcome = attester.evidence(&report_data()).await;
    outcome.map_err(|error| error.cause().downcast_ref::<TsmError>().unwrap().clone())
}

fn client(kbs: &DevKbs, attester: impl Attester + 'static) -> KbsClient {
    KbsClient::new(config(kbs), Arc::new(attester)).unwrap()
}

#[tokio::test]
async fn kernel_vouches_for_the_guest_with_one_quote_and_leaves_nothing_behind() {
    for hardware in [tdx(), snp()] {
        let (kernel, kbs) = (TsmFs::mount(hardware), DevKbs::http());
        kbs.put(KEY, "the key");
        let mut config = config(&kbs);
        config.init_data = Some(InitData::parse(INIT_DATA.to_owned()).unwrap());
        let attester = TsmAttester::new(settings(&kernel));
        let client = KbsClient::new(config, Arc::new(attester)).unwrap();
        for _ in 0..3 {
            assert_eq!(fetch(&client, KEY).await.unwrap(), b"the key");
        }
        assert_eq!(kbs.requests(), requests(1, 1, 3));
        assert_eq!((kernel.quotes(), kernel.open_requests()), (1, 0));
        let [("inblob", inblob)] = &kernel.written()[..] else {
            panic!("{:?}", kernel.written())
        };
        assert_eq!((inblob.len(), &inblob[48..]), (64, &[0; 16][..]));
        let sent = json!({ "format": "toml", "body": INIT_DATA });
        assert_eq!(kbs.init_data_seen(), [sent]);
    }
}

#[tokio::test]
async fn other_init_data_than_at_launch_are_not_sent() {
    for (hardware, expected) in [(tdx(), "MRCONFIGID"), (snp(), "HOST_DATA")] {
        let (kernel, kbs) = (TsmFs::mount(hardware), DevKbs::http());
        let mut config = config(&kbs);
        let other = format!("{INIT_DATA}# another byte\n");
        config.init_data = Some(InitData::parse(other).unwrap());
        let attester = TsmAttester::new(settings(&kernel));
        let client = KbsClient::new(config, Arc::new(attester)).unwrap();
        let error = fetch(&client, KEY).await.unwrap_err();
        let Error::InitData(InitDataError::Mismatch { register, .. }) = &error else {
            panic!("{error:?}")
        };
        assert_eq!(*register, expected);
        assert_eq!(kbs.requests(), requests(1, 0, 0));
    }
}

#[tokio::test]
async fn failures_that_pass_are_waited_for() {
    use TsmFault::{Busy, ForeignWrite, Interrupted, TimedOut, WriteDropped};
    let kernel = TsmFs::mount(tdx());
    kernel.fail([WriteDropped, Busy, TimedOut, Interrupted, ForeignWrite]);
    let evidence = evidence(settings(&kernel)).await.unwrap();
    let quote = STANDARD
        .decode(evidence["quote"].as_str().unwrap())
        .unwrap();
    let mut expected = report_data().bytes().to_vec();
    expected.resize(64, 0);
    assert_eq!(quote[568..632], expected, "not the other writer's");
    assert_eq!(kernel.open_requests(), 0);
}

#[tokio::test]
async fn failures_that_stay_are_told_at_once() {
    let kernel = TsmFs::mount(tdx());
    kernel.fail([TsmFault::Empty]);
    let error = evidence(settings(&kernel)).await.unwrap_err();
    assert!(matches!(error, TsmError::Empty), "{error:?}");
    kernel.fail([TsmFault::Broken]);
    let error = evidence(settings(&kernel)).await.unwrap_err();
    let TsmError::File { path, source } = &error else {
        panic!("{error:?}")
    };
    assert!(path.ends_with("outblob"), "{}", path.display());
    assert_eq!(source.raw_os_error(), Some(5));
    assert_eq!((kernel.quotes(), kernel.open_requests()), (2, 0));
}

#[tokio::test]
async fn failures_that_do_not_pass_in_time_end_at_the_deadline() {
    let kernel = TsmFs::mount(tdx());
    kernel.fail([TsmFault::Busy; 100]);
    let mut settings = settings(&kernel);
    settings.deadline = Duration::from_millis(400);
    let started = Instant::now();
    let error = evidence(settings).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(5));
    let TsmError::Deadline { source, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(matches!(**source, TsmError::File { .. }), "{source:?}");
    assert_eq!(kernel.open_requests(), 0);
}

#[tokio::test]
async fn slow_quote_ends_at_the_deadline_of_the_client_and_is_cleared_away() {
    let (kernel, kbs) = (TsmFs::mount(tdx()), DevKbs::http());
    kernel.fail([TsmFault::Slow(Duration::from_secs(2))]);
    let mut config = config(&kbs);
    config.timeouts.evidence = Duration::from_millis(300);
    let attester = TsmAttester::new(settings(&kernel));
    let client = KbsClient::new(config, Arc::new(attester)).unwrap();
    let started = Instant::now();
    let error = fetch(&client, KEY).await.unwrap_err();
    assert!(matches!(error, Error::Attester { .. }), "{error:?}");
    assert!(error.is_transient());
    assert!(started.elapsed() < Duration::from_millis(1900));
    while kernel.open_requests() > 0 {
        assert!(started.elapsed() < Duration::from_secs(20), "left behind");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn event_logs_go_with_a_tdx_quote() {
    let kernel = TsmFs::mount(tdx());
    assert_eq!(
        evidence(settings(&kernel)).await.unwrap()["cc_eventlog"],
        Value::Null
    );
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(&kernel);
    settings.agent_event_log = folder.path().join("eventlog");
    std::fs::write(&settings.agent_event_log, b"agent's log").unwrap();
    let log = evidence(settings.clone()).await.unwrap()["cc_eventlog"].clone();
    let log = STANDARD.decode(log.as_str().unwrap()).unwrap();
    assert_eq!(log[69..], *b"agent's log\xff\xff\xff\xff\xff\xff\xff\xff");

    settings.ccel = folder.path().join("CCEL");
    std::fs::write(&settings.ccel, b"no event log").unwrap();
    let error = evidence(settings).await.unwrap_err();
    assert!(matches!(error, TsmError::EventLog(_)), "{error:?}");
}

#[tokio::test]
async fn snp_report_comes_with_its_certificates_and_privilege_level() {
    let mut certificates = vec![0; 48];
    let vcek = [
        0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac,
        0xcd,
    ];
    certificates[..16].copy_from_slice(&vcek);
    certificates[16] = 48;
    certificates[20] = 3;
    certificates.extend([1, 2, 3]);
    let kernel = TsmFs::mount(Hardware {
        certificates: Some(certificates),
        privilege_floor: 2,
        ..snp()
    });
    let json = evidence(settings(&kernel)).await.unwrap();
    let expected = json!([{ "cert_type": "VCEK", "data": [1, 2, 3] }]);
    assert_eq!(json["cert_chain"], expected);
    assert_eq!(kernel.written()[0], ("privlevel", b"2".to_vec()));

    let mut settings = settings(&kernel);
    settings.privilege_level = Some(3);
    evidence(settings.clone()).await.unwrap();
    assert_eq!(kernel.written()[2], ("privlevel", b"3".to_vec()));
    settings.privilege_level = Some(1);
    let error = evidence(settings).await.unwrap_err();
    let TsmError::File { path, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(path.ends_with("privlevel"), "beneath the floor: {error:?}");
}

#[tokio::test]
async fn hardware_that_is_not_the_expected_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut missing = TsmSettings::default();
    missing.folder = folder.path().join("report");
    let error = evidence(missing).await.unwrap_err();
    assert!(matches!(error, TsmError::Missing { .. }), "{error:?}");

    let kernel = TsmFs::mount(Hardware {
        provider: "arm_cca_guest",
        ..tdx()
    });
    let error = evidence(settings(&kernel)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "expected tdx_guest or sev_guest as provider of quotes, found \"arm_cca_guest\""
    );

    let kernel = TsmFs::mount(snp());
    let mut settings = settings(&kernel);
    settings.provider = Some(TsmProvider::Tdx);
    let error = evidence(settings).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "expected tdx_guest as provider of quotes, found \"sev_guest\""
    );
}

#[tokio::test]
async fn report_that_is_none_is_refused_before_it_is_sent() {
    let kernel = TsmFs::mount(Hardware {
        quote: |_| vec![3; 10],
        ..snp()
    });
    let error = evidence(settings(&kernel)).await.unwrap_err();
    assert!(
        matches!(error, TsmError::Report(SnpError::Length { found: 10 })),
        "{error:?}"
    );
}

fn sample_agent() -> AttestationAgentStandIn {
    AttestationAgentStandIn::start(AgentAnswers {
        tee: "sample".to_owned(),
        ..AgentAnswers::default()
    })
}

fn agent_at(socket: &Path) -> AttestationAgent {
    AttestationAgent::new(socket).with_deadline(Duration::from_secs(10))
}

#[tokio::test]
async fn attestation_agent_gives_evidence_over_ttrpc() {
    let (agent, kbs) = (sample_agent(), DevKbs::http());
    kbs.put(KEY, "the key");
    let client = client(&kbs, agent_at(&agent.socket()));
    for _ in 0..3 {
        assert_eq!(fetch(&client, KEY).await.unwrap(), b"the key");
    }
    assert_eq!(kbs.requests(), requests(1, 1, 3));
    let calls = agent.calls();
    let methods: Vec<&str> = calls.iter().map(|(method, _)| *method).collect();
    assert_eq!(
        methods,
        ["GetTeeType", "GetAdditionalEvidence", "GetEvidence"]
    );
    assert_eq!(calls[2].1.len(), 48, "the digest as it is");

    agent.set(|answers| answers.additional = Some("{\"nvidia\": {}}".to_owned()));
    kbs.forget_sessions();
    assert_eq!(fetch(&client, KEY).await.unwrap(), b"the key");
}

#[tokio::test]
async fn token_of_the_agent_opens_resources_with_its_key() {
    let (agent, kbs) = (sample_agent(), DevKbs::http());
    kbs.put(KEY, "the key");
    let key = PrivateKey::generate(&ECDH_P521).unwrap();
    agent.set(|answers| {
        answers.token = Some(agent_token(&kbs, &key));
    });
    let client = KbsClient::with_agent_tokens(config(&kbs), agent_at(&agent.socket())).unwrap();
    for _ in 0..3 {
        assert_eq!(fetch(&client, KEY).await.unwrap(), b"the key");
    }
    assert_eq!(kbs.requests(), requests(0, 0, 3));
    assert_eq!(agent.calls(), [("GetToken", b"kbs".to_vec())]);
    let attestation = client.attest().await.unwrap();
    assert_eq!(attestation.tee, None);
    assert!(attestation.untrusted_claims.is_some());

    // A token that the KBS refuses is asked for anew, once.
    kbs.forget_sessions();
    let error = fetch(&client, KEY).await.unwrap_err();
    assert!(matches!(error, Error::TokenRefused { .. }), "{error:?}");
    assert_eq!(agent.calls().len(), 2);
    agent.set(|answers| answers.token = Some(agent_token(&kbs, &key)));
    assert_eq!(fetch(&client, KEY).await.unwrap(), b"the key");
}

/// The agent's answer: a token of `kbs` for `key`, and the key in PEM.
fn agent_token(kbs: &DevKbs, key: &PrivateKey) -> String {
    let point = key.compute_public_key().unwrap();
    let coordinate = |range: std::ops::Range<usize>| {
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&point.as_ref()[range])
    };
    let public = json!({ "kty": "EC", "crv": "P-521", "alg": "ECDH-ES+A256KW",
        "x": coordinate(1..67), "y": coordinate(67..133) });
    let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
    let text = STANDARD.encode(der.as_ref());
    let mut pem = "-----BEGIN PRIVATE KEY-----\n".to_owned();
    for line in text.as_bytes().chunks(64) {
        writeln!(pem, "{}", str::from_utf8(line).unwrap()).unwrap();
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    json!({ "token": kbs.token_for(&public), "tee_keypair": pem }).to_string()
}

fn agent_error(error: &Error) -> AgentError {
    let Error::Attester { source } = error else {
        panic!("{error:?}")
    };
    source.cause().downcast_ref::<AgentError>().unwrap().clone()
}

#[tokio::test]
async fn agent_that_fails_is_told_with_its_words() {
    let (agent, kbs) = (sample_agent(), DevKbs::http());
    let client = KbsClient::with_agent_tokens(config(&kbs), agent_at(&agent.socket())).unwrap();
    let error = fetch(&client, KEY).await.unwrap_err();
    let AgentError::Refused { code, message, .. } = agent_error(&error) else {
        panic!("{error:?}")
    };
    assert_eq!(
        (code, &*message),
        (13, "[ERROR:attestation-agent] AA-KBC get token failed")
    );
    for token in [
        "not json",
        "{}",
        "{\"token\":\"t\",\"tee_keypair\":\"no key\"}",
    ] {
        agent.set(|answers| answers.token = Some(token.to_owned()));
        let error = fetch(&client, KEY).await.unwrap_err();
        let told = agent_error(&error);
        let expected = matches!(told, AgentError::Malformed { .. } | AgentError::Key(_));
        assert!(expected, "{token}: {told:?}");
        assert!(!format!("{error:?}").contains("no key"), "{error:?}");
    }
    agent.set(|answers| answers.tee = "SNP; rm".to_owned());
    let error = fetch(&self::client(&kbs, agent_at(&agent.socket())), KEY)
        .await
        .unwrap_err();
    let told = agent_error(&error);
    assert!(matches!(told, AgentError::Malformed { .. }), "{told:?}");
    assert_eq!(kbs.requests(), requests(0, 0, 0));
}

#[tokio::test]
async fn agent_that_is_slow_or_away_is_told_within_the_deadline() {
    let agent = sample_agent();
    agent.set(|answers| answers.delay = Duration::from_secs(2));
    let slow = AttestationAgent::new(agent.socket()).with_deadline(Duration::from_millis(200));
    let error = slow.tee_type().await.unwrap_err();
    let AgentError::Deadline { method, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(*method, "GetTeeType");
    let socket = agent.socket();
    drop(agent);
    let error = agent_at(&socket).tee_type().await.unwrap_err();
    assert!(matches!(error, AgentError::Unreachable { .. }), "{error:?}");
}

fn detect_error(error: &AttesterError) -> DetectError {
    error.cause().downcast_ref::<DetectError>().unwrap().clone()
}

#[tokio::test]
async fn agent_is_preferred_and_the_kernel_is_next() {
    let kernel = TsmFs::mount(tdx());
    let agent = sample_agent();
    agent.set(|answers| answers.tee = "snp".to_owned());
    let detect = |socket: &Path| {
        let kernel = TsmAttester::new(settings(&kernel));
        DetectedAttester::new(agent_at(socket), kernel)
    };
    assert_eq!(detect(&agent.socket()).tee().await.unwrap(), "snp");
    let nowhere = kernel.folder().join("nowhere.sock");
    assert_eq!(detect(&nowhere).tee().await.unwrap(), "tdx");
    assert_eq!(kernel.open_requests(), 0);
}

#[tokio::test]
async fn sample_is_never_the_choice_of_nobody() {
    let kernel = TsmFs::mount(tdx());
    let agent = sample_agent();
    let detected = DetectedAttester::new(
        agent_at(&agent.socket()),
        TsmAttester::new(settings(&kernel)),
    );
    let error = detect_error(&detected.tee().await.unwrap_err());
    assert!(matches!(error, DetectError::Sample { .. }), "{error:?}");
    assert_eq!(SampleAttester.tee().await.unwrap(), "sample", "by its name");
}

#[tokio::test]
async fn nothing_to_be_found_is_told_with_where_it_was_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = TsmSettings::default();
    settings.folder = folder.path().join("report");
    let socket = folder.path().join("agent.sock");
    let detected = DetectedAttester::new(agent_at(&socket), TsmAttester::new(settings));
    let error = detect_error(&detected.tee().await.unwrap_err());
    let text = error.to_string();
    for place in ["agent.sock", "/report"] {
        assert!(text.contains(place), "{text}");
    }
    assert!(error.source().is_some());
}
