//! A registry that lists far more than anybody wants to look at.

use std::time::{Duration, Instant};

use kit::client::Code;
use kit::cosign::{Claim, signature_tag};
use kit::front::Referrers;
use kit::image::{Image, sha256};
use kit::sigstore::{Attached, MEDIA_TYPE};
use serde_json::{Value, json};

use super::Stage;
use crate::{DENIED, FAILED, assert_says};

/// Entries that look like bundles and lead to no artefact; each says that it has `size` bytes.
fn noise(count: usize, size: u64) -> Vec<Value> {
    let entry = |number: usize| {
        json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": sha256(format!("noise {number}").as_bytes()),
            "size": size,
            "artifactType": MEDIA_TYPE,
        })
    };
    (0..count).map(entry).collect()
}

/// Larger by so many bytes, so that it is looked at last.
fn last(attached: Attached, bytes: usize) -> Attached {
    attached.manifest(|manifest| {
        manifest["annotations"]["padding"] = "x".repeat(bytes).into();
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_referrers_hide_nothing_that_is_within_the_limits() {
    let stage = Stage::set().await;
    let image = Image::small("popular");
    let reference = stage.push("team/app:1", &image).await;
    let good = stage.attached(&image);
    stage.store("team/app", std::slice::from_ref(&good)).await;
    let daemon = stage.guest.start().await;
    let list_in_pages = |of: usize, entries: Vec<Value>| {
        let list = Referrers::paged(of).list(&image.digest(), entries);
        stage.front.set_referrers(Some(list));
    };
    let list = |entries| list_in_pages(100, entries);

    // What is listed as something else, or is larger, is looked at later.
    let mut entries = noise(10_000, 50_000);
    entries.push(good.entry());
    list(entries.clone());
    stage
        .delivers(&daemon, "smaller than the others", &reference)
        .await;
    // In one page, with as much to each entry as cosign writes.
    for entry in &mut entries {
        entry["annotations"] = json!({"org.example.note": "x".repeat(250)});
    }
    assert!(json!(entries).to_string().len() > 5_000_000);
    list_in_pages(20_000, entries);
    stage.delivers(&daemon, "in one page", &reference).await;
    let mut entries = noise(10_000, 10);
    for entry in &mut entries {
        entry["artifactType"] = "application/spdx+json".into();
    }
    entries.push(good.entry());
    list(entries);
    stage
        .delivers(&daemon, "listed as a bundle", &reference)
        .await;

    let mut entries = noise(10_000, 10);
    entries.push(good.entry());
    list(entries);
    let begin = Instant::now();
    let refusal = daemon.refuses(&reference, &stage.guest.bundle("c1")).await;
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(refusal.code, Code::PERMISSION_DENIED, "{refusal:?}");
    let words = [
        FAILED,
        DENIED,
        "10001 artefacts refer to",
        "the first 64 are looked at, see image_agent.evidence.candidates",
    ];
    assert_says("beyond the limit", &refusal.message, &words);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tag_and_what_the_owner_delivers_have_limits_of_their_own() {
    let mut stage = Stage::set().await;
    let image = Image::small("flooded");
    let reference = stage.push("team/app:1", &image).await;
    let list = Referrers::paged(100).list(&image.digest(), noise(10_000, 10));
    stage.front.set_referrers(Some(list));
    stage.guest.settings = stage
        .guest
        .settings
        .clone()
        .with("image_agent.evidence.delivered", "kbs:///default/evidence");
    let daemon = stage.guest.start().await;
    daemon.refuses(&reference, &stage.guest.bundle("c1")).await;

    let name = format!("default/evidence/{}", image.digest().replace(':', "-"));
    let bundle = stage.bundle(&image);
    stage
        .scene
        .kbs
        .put(&name, String::from_utf8(bundle.bytes().to_vec()).unwrap());
    stage.delivers(&daemon, "delivered", &reference).await;

    let second = Image::small("flooded, too");
    let reference = stage.push("team/app:2", &second).await;
    let list = Referrers::paged(100).list(&second.digest(), noise(10_000, 10));
    stage.front.set_referrers(Some(list));
    let repository = format!("{}/team/app", stage.front.host());
    let signature = stage
        .scene
        .key
        .attest(&Claim::of(&repository, &second.digest()));
    let tag = format!("team/app:{}", signature_tag(&second.digest()));
    let attachment = kit::cosign::signature_image([signature]);
    stage.scene.registry.push(&tag, &attachment).await;
    stage.delivers(&daemon, "tagged", &reference).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_limit_is_named_and_can_be_raised() {
    let mut stage = Stage::set().await;
    let image = Image::small("limited");
    let reference = stage.push("team/app:1", &image).await;
    // Larger than the noise.
    let good = last(stage.attached(&image), 2000);
    stage.store("team/app", std::slice::from_ref(&good)).await;
    let mut entries = noise(20, 1000);
    entries.push(good.entry());
    let list = Referrers::paged(100).list(&image.digest(), entries);
    stage.front.set_referrers(Some(list));
    let plain = stage.guest.settings.clone();
    for (key, low, high) in [
        ("candidates", 20, 21),
        ("candidate_bytes", 1500, 5000),
        ("total_bytes", 1500, 5000),
    ] {
        let key = format!("image_agent.evidence.{key}");
        stage.guest.settings = plain.clone().with(&key, low);
        let refusal = {
            let daemon = stage.guest.start().await;
            daemon.refuses(&reference, &stage.guest.bundle("c1")).await
        };
        assert_says(&key, &refusal.message, &[DENIED, &format!("see {key}")]);
        stage.guest.settings = plain.clone().with(&key, high);
        let daemon = stage.guest.start().await;
        stage.delivers(&daemon, &key, &reference).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_never_end_do() {
    let stage = Stage::set().await;
    let image = Image::small("endless");
    let reference = stage.push("team/app:1", &image).await;
    let path = format!("/v2/team/app/referrers/{}", image.digest());
    let list = Referrers::paged(10).next_page(&path);
    stage
        .front
        .set_referrers(Some(list.list(&image.digest(), noise(10, 10))));
    let daemon = stage.guest.start().await;
    let refusal = daemon.refuses(&reference, &stage.guest.bundle("c1")).await;
    let words = [DENIED, "more than 256 pages or 8388608 bytes of referrers"];
    assert_says("endless", &refusal.message, &words);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_list_says_of_a_size_excludes_nothing() {
    let stage = Stage::set().await;
    let image = Image::small("listed with any size");
    let reference = stage.push("team/app:1", &image).await;
    let good = stage.attached(&image);
    stage.store("team/app", std::slice::from_ref(&good)).await;
    let daemon = stage.guest.start().await;
    for (case, size) in [
        ("none", None),
        ("nothing", Some(json!(0))),
        ("too small", Some(json!(1))),
        ("beyond every limit", Some(json!(u64::MAX))),
        ("negative", Some(json!(-1))),
        ("no number", Some(json!("1000"))),
    ] {
        let mut entry = good.entry();
        match size {
            Some(size) => entry["size"] = size,
            None => drop(entry.as_object_mut().unwrap().remove("size")),
        }
        let list = Referrers::paged(100).list(&image.digest(), [entry]);
        stage.front.set_referrers(Some(list));
        stage.delivers(&daemon, case, &reference).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artefact_of_many_layers_leaves_room_for_the_others() {
    let stage = Stage::set().await;
    let image = Image::small("beside many layers");
    let reference = stage.push("team/app:1", &image).await;
    let good = last(stage.attached(&image), 50_000);
    let large = vec![b' '; 1 << 20];
    for (case, content, count) in [
        ("many", b"{}".to_vec(), 64),
        // Together they have all the bytes that are read.
        ("large", large, 8),
    ] {
        let other = Attached::bytes(&image, MEDIA_TYPE, content).manifest(|manifest| {
            let layer = manifest["layers"][0].clone();
            manifest["layers"] = json!(vec![layer; count]);
        });
        stage
            .refer("team/app", &image, &[other, good.clone()])
            .await;
        let daemon = stage.guest.start().await;
        stage.delivers(&daemon, case, &reference).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_lie_about_their_size_take_no_room_from_the_others() {
    let stage = Stage::set().await;
    let image = Image::small("beside liars");
    let reference = stage.push("team/app:1", &image).await;
    let good = last(stage.attached(&image), 2000);
    // Each says that it has an eighth of all the bytes that are read, and none has.
    let mut list = Referrers::paged(100);
    for number in 0..20 {
        let liar = Attached::bytes(&image, MEDIA_TYPE, format!("{{\"liar\":{number}}}"));
        // A registry that looks at what it stores would not take such a manifest.
        stage.store("team/app", std::slice::from_ref(&liar)).await;
        let liar = liar.manifest(|manifest| manifest["layers"][0]["size"] = (1 << 20).into());
        list = list
            .document(&liar.image.digest(), liar.image.manifest.clone())
            .list(&image.digest(), [liar.entry()]);
    }
    stage.store("team/app", std::slice::from_ref(&good)).await;
    stage
        .front
        .set_referrers(Some(list.list(&image.digest(), [good.entry()])));
    let daemon = stage.guest.start().await;
    stage.delivers(&daemon, "after liars", &reference).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_beyond_all_the_bytes_that_are_read_are_not_fetched() {
    let mut stage = Stage::set().await;
    stage.guest.settings = stage
        .guest
        .settings
        .clone()
        .with("image_agent.evidence.total_bytes", 30_000);
    let image = Image::small("beside large ones");
    let reference = stage.push("team/app:1", &image).await;
    let large =
        ["a", "b", "c", "d"].map(|one| Attached::bytes(&image, MEDIA_TYPE, one.repeat(10_000)));
    stage.refer("team/app", &image, &large).await;
    let daemon = stage.guest.start().await;
    stage.front.forget_requests();
    let refusal = daemon.refuses(&reference, &stage.guest.bundle("c1")).await;
    let words = [DENIED, "see image_agent.evidence.total_bytes"];
    assert_says("large", &refusal.message, &words);
    let asked = stage.front.requests();
    let fetched = large.iter().filter(|one| {
        let manifest: Value = serde_json::from_slice(&one.image.manifest).unwrap();
        let digest = manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
        asked.iter().any(|request| request.ends_with(&digest))
    });
    assert_eq!(fetched.count(), 3);
}
