//! Which registries are asked for evidence, whether they are at all, and for how long.

use std::time::{Duration, Instant};

use kit::client::Code;
use kit::image::Image;
use kit::registry::Registry;
use kit::scene::KEY;
use kit::sigstore::{
    Bundle, Statement, attestation_image, attestation_tag, fallback_tag, predicate, referrers,
};
use serde_json::json;

use super::Stage;
use crate::places::{REGISTRIES, entry};
use crate::{DENIED, FAILED, UNDECIDED, assert_says};

const OFF: &str = "use-sigstore-attachments is false for the image";

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_never_lists_anything_is_waited_for_until_the_deadline() {
    let mut stage = Stage::set().await;
    stage.guest.settings = stage
        .guest
        .settings
        .clone()
        .with("image_agent.evidence.deadline", 2);
    let image = Image::small("waited for");
    let reference = stage.push("team/app:1", &image).await;
    stage
        .refer("team/app", &image, &[stage.attached(&image)])
        .await;
    let daemon = stage.guest.start().await;
    stage.front.stall(Some("/referrers/"));
    let begin = Instant::now();
    let refusal = daemon.refuses(&reference, &stage.guest.bundle("c1")).await;
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(refusal.code, Code::UNAVAILABLE, "{refusal:?}");
    let words = [
        FAILED,
        UNDECIDED,
        "not all came in time, see image_agent.evidence.deadline",
    ];
    assert_says("stalled", &refusal.message, &words);
    // What is found elsewhere counts all the same.
    stage.front.stall(Some(".att"));
    stage.delivers(&daemon, "elsewhere", &reference).await;
    stage.front.stall(None);
    stage.delivers(&daemon, "answered again", &reference).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_is_looked_for_where_the_manifest_came_from() {
    let mut stage = Stage::set().await;
    let origin = Registry::start().await;
    let mirror = stage.front.host();
    let mirrors: [(&str, &[&str]); 1] = [(&mirror, &["insecure"])];
    let entries = vec![entry(origin.host(), true, &mirrors)];
    stage.guest.settings = stage.guest.settings.clone().with(REGISTRIES, entries);
    stage.scene.set_policy(&json!({
        "default": [{"type": "reject"}],
        "transports": {"docker": {origin.host(): [
            {"type": "sigstoreSigned", "keyPath": format!("kbs:///{KEY}")},
        ]}},
    }));
    let daemon = stage.guest.start().await;
    let at_origin = async |image: &Image| {
        let attached = [stage.attached(image)];
        for one in &attached {
            origin.push_untagged("team/app", &one.image).await;
        }
        let name = format!("team/app:{}", fallback_tag(&image.digest()));
        origin.push(&name, &referrers(&attached)).await;
    };

    let image = Image::small("mirrored with its bundle");
    let reference = origin.push("team/app:1", &image).await;
    stage.push("team/app:1", &image).await;
    stage
        .refer("team/app", &image, &[stage.attached(&image)])
        .await;
    stage.delivers(&daemon, "at the mirror", &reference).await;

    // A mirror that leaves bundles out is like a registry that has none.
    let image = Image::small("mirrored without its bundle");
    let reference = origin.push("team/app:2", &image).await;
    stage.push("team/app:2", &image).await;
    at_origin(&image).await;
    let refusal = daemon.refuses(&reference, &stage.guest.bundle("c1")).await;
    assert_eq!(refusal.code, Code::PERMISSION_DENIED, "{refusal:?}");
    let words = [FAILED, DENIED, "no signature was found"];
    assert_says("left out", &refusal.message, &words);

    // One that has not even the image gives way to the registry, whose bundles then count.
    let image = Image::small("not mirrored");
    let reference = origin.push("team/app:3", &image).await;
    at_origin(&image).await;
    stage.delivers(&daemon, "at the origin", &reference).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_is_asked_for_no_evidence_where_that_is_switched_off() {
    let mut stage = Stage::set().await;
    let host = stage.front.host();
    let off = format!("docker:\n  {host}:\n    use-sigstore-attachments: false\n");
    stage.guest.settings = stage
        .guest
        .settings
        .clone()
        .with("image.sigstore_config", off)
        .with("image_agent.evidence.delivered", "kbs:///default/evidence");
    let image = Image::small("not looked at");
    let digest = image.digest();
    let reference = stage.push("team/app:1", &image).await;
    stage
        .refer("team/app", &image, &[stage.attached(&image)])
        .await;
    let provenance = Statement::slsa(&digest, "https://builder.example", "source");
    let provenance = Bundle::keyed(&stage.scene.key, &provenance);
    let tag = format!("team/app:{}", attestation_tag(&digest));
    let attestations = attestation_image([&provenance]);
    stage.scene.registry.push(&tag, &attestations).await;
    let daemon = stage.guest.start().await;
    let key = format!("kbs:///{KEY}");
    let signed = json!({"type": "sigstoreSigned", "keyPath": key});
    let attested = json!({"type": "attestedBy", "predicateType": predicate::SLSA, "keyPath": key});
    for requirement in [&signed, &attested] {
        stage.demand(requirement);
        stage.front.forget_requests();
        let refusal = daemon.refuses(&reference, &stage.guest.bundle("c1")).await;
        assert_eq!(refusal.code, Code::PERMISSION_DENIED, "{refusal:?}");
        assert_says("off", &refusal.message, &[FAILED, DENIED, OFF]);
        let config = format!("GET /v2/team/app/blobs/{}", image.blobs[0].0);
        let mut asked = stage.front.requests();
        // It may have been asked for by then, or not yet.
        asked.retain(|request| *request != config);
        assert_eq!(asked, ["GET /v2/team/app/manifests/1"]);
    }
    // What the owner delivers is in no registry.
    let name = format!("default/evidence/{}", fallback_tag(&digest));
    for (requirement, bundle) in [(signed, stage.bundle(&image)), (attested, provenance)] {
        let text = String::from_utf8(bundle.bytes().to_vec()).unwrap();
        stage.scene.kbs.put(&name, text);
        stage.demand(&requirement);
        let case = requirement["type"].as_str().unwrap();
        stage.delivers(&daemon, case, &reference).await;
    }
}
