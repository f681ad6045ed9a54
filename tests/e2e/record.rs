//! The decision record: in the log, in JSON, beside the bundle, and as people read it.

use std::process::Output;

use kit::cosign::{Claim, Key, KeyKind};
use kit::guest::Guest;
use kit::image::{Format, Image, host_architecture};
use kit::kbs::DevKbs;
use kit::scene::{KEY, POLICY, Scene};
use serde_json::{Value, json};

use super::assert_says;

async fn verify(guest: &Guest, arguments: &[&str]) -> Output {
    let mut command = guest.program();
    let config = guest.write_config();
    command.arg("verify").args(arguments).arg("-c").arg(config);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The records that are kept beside the bundles of a guest.
fn kept(guest: &Guest) -> Vec<Value> {
    let overlay = std::fs::read_dir(guest.work().join("overlay")).unwrap();
    let records = overlay.map(|entry| {
        let record = std::fs::read(entry.unwrap().path().join("record.json")).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        record["decision"].clone()
    });
    records.collect()
}

/// The records in a log, with the level and the verdict of their lines.
fn logged(log: &str) -> Vec<(String, String, Value)> {
    let lines = log.lines().filter_map(|line| {
        let (head, record) = line.split_once(" record=")?;
        let mut words = head.split_whitespace();
        let level = words.nth(1)?.to_owned();
        let verdict = words.next()?.to_owned();
        Some((level, verdict, serde_json::from_str(record).unwrap()))
    });
    lines.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_record_is_in_the_log_at_info_beside_the_bundle_and_in_json() {
    let scene = Scene::start().await;
    let guest = scene.guest();
    let here = format!("linux/{}", host_architecture());
    let image = Image::small("recorded");
    let index = Image::index(Format::Oci, [(here.as_str(), image.clone())]);
    let signed = scene.registry.push("signed:1", &index).await;
    scene.sign("signed", &index.digest()).await;
    let unsigned = scene.registry.push("unsigned:1", &image).await;

    let daemon = guest.start().await;
    daemon.delivers(&signed, &guest.bundle("c1")).await;
    daemon.refuses(&unsigned, &guest.bundle("c2")).await;
    let output = verify(&guest, &[&signed, "--json"]).await;
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["allowed"], true);
    assert_eq!(record["asked"], signed);
    assert_eq!(record["index_digest"], index.digest());
    assert_eq!(record["manifest_digest"], image.digest());
    assert_eq!(record["kbs_authenticated"], true);
    assert_eq!(record["requirements"][0]["signature"]["subject"], "index");
    assert_eq!(kept(&guest), std::slice::from_ref(&record));

    let output = verify(&guest, &[&unsigned, "--json"]).await;
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    let refused: Value = serde_json::from_slice(&output.stdout).unwrap();
    let refused = refused["decision"].clone();
    assert_eq!(refused["allowed"], false);
    let info = |verdict: &str, record| ("INFO".to_owned(), verdict.to_owned(), record);
    assert_eq!(
        logged(&daemon.log()),
        [info("approved", record), info("denied", refused)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kbs_that_anybody_can_forge_is_in_every_record() {
    let scene = Scene::start().await;
    let plain = DevKbs::http();
    plain.put(KEY, scene.key.public_pem());
    plain.put(POLICY, scene.guide_policy().to_string());
    let signed = scene.push_signed("signed:1", &Image::small("plain")).await;
    let unsigned = scene.registry.push("unsigned:1", &Image::small("no")).await;
    let mut guest = scene.guest();
    // The kernel takes this address for loopback; nothing else does.
    let url = plain.url().replace("127.0.0.1", "0.0.0.0");
    guest.settings = guest
        .settings
        .clone()
        .without("kbc.kbs_cert")
        .with("kbc.url", url);
    let daemon = guest.start().await;
    daemon.delivers(&signed, &guest.bundle("c1")).await;
    daemon.refuses(&unsigned, &guest.bundle("c2")).await;
    for record in kept(&guest) {
        assert_eq!(record["kbs_authenticated"], false, "{record}");
    }
    let logged = logged(&daemon.log());
    assert_eq!(logged.len(), 2, "{}", daemon.log());
    for (_, verdict, record) in logged {
        assert_eq!(record["kbs_authenticated"], false, "{verdict}: {record}");
    }
    for (reference, code) in [(&signed, 0), (&unsigned, 3)] {
        let output = verify(&guest, &[reference]).await;
        assert_eq!(output.status.code(), Some(code));
        let words = ["the KBS is not authenticated"];
        assert_says(reference, &text(&output.stdout), &words);
    }
    guest.settings = guest
        .settings
        .clone()
        .with("image_agent.require_authenticated_kbs", true);
    let output = verify(&guest, &[&signed]).await;
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
    let words = ["require_authenticated_kbs", "use https"];
    assert_says("required", &text(&output.stderr), &words);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_read_who_signed_what_and_which_members_of_a_threshold_count() {
    let scene = Scene::start().await;
    let guest = scene.guest();
    let (review, stranger) = (Key::mint(KeyKind::P256), Key::mint(KeyKind::P384));
    scene.kbs.put("default/cosign-key/2", review.public_pem());
    scene.kbs.put("default/cosign-key/3", stranger.public_pem());
    let member = |key: u8| {
        let path = format!("kbs:///default/cosign-key/{key}");
        json!({"type": "sigstoreSigned", "keyPath": path})
    };
    let policy = |members: &[u8]| {
        let of: Vec<Value> = members.iter().map(|key| member(*key)).collect();
        json!({"default": [{"type": "threshold", "count": 2, "of": of}]})
    };
    let here = format!("linux/{}", host_architecture());
    let image = Image::small("threshold");
    let index = Image::index(Format::Oci, [(here.as_str(), image.clone())]);
    let reference = scene.registry.push("app:1", &index).await;
    let name = scene.name("app");
    let claim = |digest: &str| Claim::of(&name, digest);
    let by_owner = scene.key.attest(&claim(&image.digest()));
    scene
        .push_signatures("app", &image.digest(), [by_owner])
        .await;
    let by_review = review.attest(&claim(&index.digest()));
    scene
        .push_signatures("app", &index.digest(), [by_review])
        .await;

    scene.set_policy(&policy(&[1, 2, 3]));
    let output = verify(&guest, &[&reference]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let page = text(&output.stdout);
    let words = [
        format!("approved: {reference}"),
        "\n  threshold: 2 of its members are met\n".to_owned(),
        format!(" for {name}, on the manifest {} (sha256-", image.digest()),
        format!(" for {name}, on the index {} (sha256-", index.digest()),
        "\n    sigstoreSigned: not met: none of the 2 signatures found counts\n".to_owned(),
    ];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    assert_says("met", &page, &words);

    scene.set_policy(&policy(&[1, 1, 3]));
    let output = verify(&guest, &[&reference]).await;
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    let page = text(&output.stdout);
    let words = [
        "refused: ",
        "\n  threshold: not met: 2 of the 3 members must be met by signers of their own, 1 can be\n",
        "; the signer is that of member 1\n",
        "\n    sigstoreSigned: not met: ",
    ];
    assert_says("not met", &page, &words);
}
