//! How long what was fetched serves again: not at all unless it is asked for, and then no longer.

use std::sync::Arc;
use std::time::Duration;

use kbs_client::{Error, Freshness, KbsClient, SampleAttester};
use kit::kbs::{DevKbs, Fault, Step};

use crate::{KEY, config, fetch, requests};

fn client(kbs: &DevKbs, ttl: Duration, stale: Duration) -> KbsClient {
    let mut config = config(kbs);
    config.freshness = Freshness { ttl, stale };
    config.timeouts.retry = Duration::ZERO;
    KbsClient::new(config, Arc::new(SampleAttester)).unwrap()
}

#[tokio::test]
async fn rotation_takes_effect_after_the_ttl_or_when_all_is_forgotten() {
    let kbs = DevKbs::http();
    kbs.put(KEY, "first");
    let client = client(&kbs, Duration::from_secs(2), Duration::ZERO);
    assert_eq!(fetch(&client, KEY).await.unwrap(), b"first");
    kbs.put(KEY, "second");
    assert_eq!(fetch(&client, KEY).await.unwrap(), b"first");
    assert_eq!(kbs.requests(), requests(1, 1, 1), "not asked again");
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(fetch(&client, KEY).await.unwrap(), b"second");
    kbs.put(KEY, "third");
    client.forget_resources();
    assert_eq!(fetch(&client, KEY).await.unwrap(), b"third");
    assert_eq!(kbs.requests(), requests(1, 1, 3), "the session lives on");
}

#[tokio::test]
async fn kbs_that_cannot_be_reached_is_stood_in_for_as_long_as_configured() {
    let second = Duration::from_secs(1);
    for (stale, serves) in [
        (Duration::ZERO, false),
        (60 * second, true),
        (second, false),
    ] {
        let kbs = DevKbs::http();
        kbs.put(KEY, "the key");
        let client = client(&kbs, Duration::ZERO, stale);
        fetch(&client, KEY).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1100)).await;
        drop(kbs);
        let outcome = fetch(&client, KEY).await;
        match outcome {
            Ok(content) => assert!(serves && content == b"the key", "{stale:?}"),
            Err(Error::Unreachable { .. }) => assert!(!serves, "{stale:?}"),
            Err(error) => panic!("{error:?}"),
        }
        let missing = fetch(&client, "default/test/other").await.unwrap_err();
        assert!(matches!(missing, Error::Unreachable { .. }), "{missing:?}");
    }
}

#[tokio::test]
async fn refusal_is_an_answer_that_nothing_stands_in_for() {
    let kbs = DevKbs::http();
    kbs.put(KEY, "the key");
    let client = client(&kbs, Duration::ZERO, Duration::from_mins(1));
    fetch(&client, KEY).await.unwrap();
    kbs.deny(KEY);
    let error = fetch(&client, KEY).await.unwrap_err();
    assert!(matches!(error, Error::PolicyDenied { .. }), "{error:?}");
    kbs.fault(Step::Get, Fault::CutConnection, 1);
    let error = fetch(&client, KEY).await.unwrap_err();
    assert!(
        matches!(error, Error::Unreachable { .. }),
        "what was denied is forgotten: {error:?}"
    );
}

#[tokio::test]
async fn denied_and_missing_resources_cost_one_request_each_time() {
    let kbs = DevKbs::http();
    kbs.deny(KEY);
    let client = client(&kbs, Duration::from_mins(1), Duration::ZERO);
    for gets in 1..4 {
        let error = fetch(&client, KEY).await.unwrap_err();
        assert!(matches!(error, Error::PolicyDenied { .. }), "{error:?}");
        assert_eq!(kbs.requests(), requests(1, 1, gets));
    }
}
