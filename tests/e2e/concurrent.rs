//! Pulls side by side.

use std::time::{Duration, Instant};

use kit::archive::Archive;
use kit::hostile::{Fault, Hostile};
use kit::image::{Compression, Image, Layer};
use kit::scene::Scene;

use super::{content, trusting_guest};

#[tokio::test(flavor = "multi_thread")]
async fn different_images_are_pulled_side_by_side() {
    let scene = Scene::start().await;
    let guest = scene.guest();
    let daemon = guest.start().await;
    let shared = Layer::gzip(Archive::new().file("shared", "shared"));
    let mut pulls = Vec::new();
    for number in 0..6 {
        let own = Layer::gzip(Archive::new().file("own", number.to_string()));
        let image = Image::of([shared.clone(), own]).build();
        let reference = scene.push_signed(&format!("app{number}:1"), &image).await;
        for copy in 0..2 {
            let bundle = guest.bundle(&format!("c{number}-{copy}"));
            let (client, reference) = (daemon.client(), reference.clone());
            let path = bundle.display().to_string();
            let call = tokio::spawn(async move { client.pull(&reference, &path).await });
            pulls.push((number, bundle, image.digest(), call));
        }
    }
    for (number, bundle, digest, call) in pulls {
        assert_eq!(call.await.unwrap().unwrap(), digest);
        assert_eq!(content(&bundle, "own"), number.to_string());
        assert_eq!(content(&bundle, "shared"), "shared");
    }
    assert_eq!(guest.mounts().len(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_pull_holds_up_nobody() {
    let registry = Hostile::start().await;
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    let slow = Image::small("slow");
    let slow_reference = registry.push("slow:1", &slow);
    registry.arm(
        &slow.blobs[1].0,
        Fault::Slow(20, Duration::from_millis(500)),
    );
    let (client, path) = (daemon.client(), guest.bundle("slow").display().to_string());
    let slow_call = tokio::spawn(async move { client.pull(&slow_reference, &path).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    for number in 0..4 {
        let reference = registry.push(
            &format!("fast{number}:1"),
            &Image::small(&number.to_string()),
        );
        daemon
            .delivers(&reference, &guest.bundle(&format!("fast{number}")))
            .await;
    }
    assert!(
        !slow_call.is_finished(),
        "the fast pulls did not wait for the slow one"
    );
    assert_eq!(slow_call.await.unwrap().unwrap(), slow.digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn large_layers_that_drip_hold_up_nobody() {
    let registry = Hostile::start().await;
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    let large = |name: &str| {
        let layers = (0..3).map(|number| {
            let content = format!("{name} {number}").repeat(200_000);
            Layer::new(Archive::new().file("file", content), Compression::None)
        });
        Image::of(layers).build()
    };
    let (slow, fast) = (large("slow"), large("fast"));
    let slow_reference = registry.push("slow:1", &slow);
    for (digest, _) in slow.blobs.iter().skip(1) {
        registry.arm(digest, Fault::Slow(100, Duration::from_millis(500)));
    }
    let (client, path) = (daemon.client(), guest.bundle("slow").display().to_string());
    let slow_call = tokio::spawn(async move { client.pull(&slow_reference, &path).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let reference = registry.push("fast:1", &fast);
    let started = Instant::now();
    daemon.delivers(&reference, &guest.bundle("fast")).await;
    let took = started.elapsed();
    assert!(took < Duration::from_secs(25), "{took:?}");
    assert!(!slow_call.is_finished());
    slow_call.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pulls_to_one_bundle_make_one_bundle() {
    let registry = Hostile::start().await;
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    for round in 0..5 {
        let image = Image::small(&format!("round {round}"));
        let reference = registry.push(&format!("app{round}:1"), &image);
        let bundle = guest.bundle(&format!("c{round}"));
        let call = || {
            let (client, reference) = (daemon.client(), reference.clone());
            let path = bundle.display().to_string();
            tokio::spawn(async move { client.pull(&reference, &path).await })
        };
        let (one, two) = (call(), call());
        let results = [one.await.unwrap(), two.await.unwrap()];
        assert_eq!(
            results.iter().filter(|result| result.is_ok()).count(),
            1,
            "{results:?}"
        );
        assert_eq!(content(&bundle, "etc/mark"), format!("round {round}"));
        assert_eq!(guest.mounts().len(), round + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_leaves_nothing_where_nothing_may_linger() {
    let registry = Hostile::start().await;
    let mut guest = trusting_guest(&registry.host());
    guest.settings = guest.settings.clone().with("image_agent.store.linger", 0);
    let daemon = guest.start().await;
    let before = guest.residue();
    let image = Image::small("abandoned");
    let reference = registry.push("app:1", &image);
    registry.arm(&image.blobs[1].0, Fault::StallAfter(50));
    {
        let client = kit::client::Client::connect(&guest.socket()).await.unwrap();
        let path = guest.bundle("c1").display().to_string();
        let call = client.pull(&reference, &path);
        let gone = tokio::time::timeout(Duration::from_millis(300), call).await;
        assert!(gone.is_err(), "{gone:?}");
    }
    let began = Instant::now();
    guest.assert_residue(&before, "abandoned").await;
    assert!(began.elapsed() < Duration::from_secs(3));
    registry.disarm();
    daemon.delivers(&reference, &guest.bundle("c1")).await;
}
