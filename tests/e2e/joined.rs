//! What is in the store or under way is for those who are allowed to have it, and nothing but what
//! was proved.

use std::time::Duration;

use kit::archive::Archive;
use kit::client::Code;
use kit::cosign::{Claim, signature_image, signature_tag};
use kit::hostile::{Fault, Hostile};
use kit::image::{Compression, Image, Layer, sha256};
use kit::scene::{KEY, Scene};
use serde_json::json;

use super::store::{fetched, noise, spawn_pull};
use super::{DENIED, assert_says, content, trusting_guest};

#[tokio::test(flavor = "multi_thread")]
async fn whoever_joins_a_fetch_is_decided_for_by_itself() {
    let scene = Scene::start().await;
    let registry = Hostile::start().await;
    let signed = json!([{"type": "sigstoreSigned", "keyPath": format!("kbs:///{KEY}")}]);
    let policy = json!({
        "default": [{"type": "reject"}],
        "transports": {"docker": {registry.host(): signed}},
    });
    scene.set_policy(&policy);
    let mut guest = scene.guest();
    guest.settings = guest.settings.clone().insecure_registry(&registry.host());
    let image = Image::of([noise("a", 100_000)]).build();
    let reference = registry.push("app:1", &image);
    let claim = Claim::of(&format!("{}/app", registry.host()), &image.digest());
    let signature = signature_image([scene.key.attest(&claim)]);
    let tag = signature_tag(&image.digest());
    registry.push(&format!("app:{tag}"), &signature);
    // The same image under a name that nobody has signed it for.
    let unsigned = registry.push("other:1", &image);
    let daemon = guest.start().await;
    registry.arm(
        &image.blobs[1].0,
        Fault::Slow(10_000, Duration::from_millis(200)),
    );

    let first = spawn_pull(&daemon, &reference, &guest.bundle("c1"));
    while fetched(&registry, &image)[0] == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let refusal = daemon.refuses(&unsigned, &guest.bundle("c2")).await;
    assert_eq!(refusal.code, Code::PERMISSION_DENIED, "{refusal:?}");
    assert_says("by another name", &refusal.message, &[DENIED]);
    scene.set_policy(&json!({"default": [{"type": "reject"}]}));
    let refusal = daemon.refuses(&reference, &guest.bundle("c3")).await;
    assert_eq!(refusal.code, Code::PERMISSION_DENIED, "{refusal:?}");
    assert_says("rejected since", &refusal.message, &[DENIED]);
    assert!(!first.is_finished(), "the layer was under way all the time");
    assert_eq!(guest.mounts().len(), 0);

    scene.set_policy(&policy);
    let joined = spawn_pull(&daemon, &reference, &guest.bundle("c4"));
    assert_eq!(joined.await.unwrap(), Ok(image.digest()));
    assert_eq!(first.await.unwrap(), Ok(image.digest()));
    assert_eq!(guest.mounts().len(), 2);
    assert_eq!(fetched(&registry, &image), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_there_serves_only_for_the_blob_and_the_content_that_were_proved() {
    let registry = Hostile::start().await;
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    let archive = || Archive::new().file("name", "proved");
    let layer = Layer::gzip(archive());
    let image = Image::of([layer.clone()]).build();
    let same_content = Image::of([Layer::new(archive(), Compression::Zstd)]).build();
    let other_content = Image::of([Layer {
        diff_id: sha256(b"something else"),
        ..layer
    }]);
    let other_content = other_content.build();
    let reference = registry.push("app:1", &image);
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    assert_eq!(fetched(&registry, &image), [1]);

    let liar = registry.push("app:2", &other_content);
    let refusal = daemon.refuses(&liar, &guest.bundle("c2")).await;
    assert_eq!(refusal.code, Code::DATA_LOSS, "{refusal:?}");
    assert_says("other content", &refusal.message, &["diff_id"]);
    assert_eq!(
        fetched(&registry, &image),
        [2],
        "the same blob, not believed"
    );

    let recompressed = registry.push("app:3", &same_content);
    daemon.delivers(&recompressed, &guest.bundle("c3")).await;
    assert_eq!(fetched(&registry, &same_content), [1]);
    assert_eq!(content(&guest.bundle("c3"), "name"), "proved");

    daemon.delivers(&reference, &guest.bundle("c4")).await;
    assert_eq!(fetched(&registry, &image), [2], "it is there");
}
