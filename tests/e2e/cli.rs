//! The command line for people.

use std::process::Output;

use kit::guest::Guest;
use kit::image::Image;
use kit::scene::Scene;
use serde_json::Value;

use super::{DENIED, FAILED, assert_says, content};

/// Runs our program with `-c` this guest's configuration behind the arguments.
async fn cli(guest: &Guest, arguments: &[&str]) -> Output {
    let mut command = guest.program();
    command.args(arguments).arg("-c").arg(guest.write_config());
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn pull_needs_no_daemon() {
    let scene = Scene::start().await;
    let guest = scene.guest();
    let image = Image::small("cli");
    let reference = scene.push_signed("app:1", &image).await;

    let bundle = guest.bundle("c1");
    let output = cli(
        &guest,
        &["pull", &reference, "--bundle", bundle.to_str().unwrap()],
    )
    .await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).trim(), image.digest());
    assert_eq!(content(&bundle, "etc/mark"), "cli");

    let bundle = guest.bundle("c2");
    let arguments = [
        "pull",
        &reference,
        "--bundle",
        bundle.to_str().unwrap(),
        "--json",
    ];
    let output = cli(&guest, &arguments).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["manifest_digest"], image.digest());
    assert_eq!(content(&bundle, "etc/mark"), "cli");

    let again = cli(&guest, &arguments).await;
    assert_eq!(again.status.code(), Some(1), "{}", text(&again.stderr));
    assert_says("exists", &text(&again.stderr), &[FAILED]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pull_refuses_and_leaves_nothing() {
    let scene = Scene::start().await;
    let guest = scene.guest();
    let reference = scene
        .registry
        .push("app:1", &Image::small("unsigned"))
        .await;
    let bundle = guest.bundle("c1");
    let before = guest.residue();
    let output = cli(
        &guest,
        &["pull", &reference, "--bundle", bundle.to_str().unwrap()],
    )
    .await;
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "");
    assert_says(
        "unsigned",
        &text(&output.stderr),
        &[FAILED, DENIED, "no signature"],
    );
    guest.assert_residue(&before, "unsigned").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_decides_explains_and_unpacks_nothing() {
    let scene = Scene::start().await;
    let guest = scene.guest();
    let image = Image::small("verify");
    let signed = scene.push_signed("signed:1", &image).await;
    let unsigned = scene.registry.push("unsigned:1", &image).await;
    let before = guest.residue();

    let output = cli(&guest, &["verify", &signed]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_says(
        "signed",
        &text(&output.stdout),
        &[&image.digest(), "sigstoreSigned"],
    );

    let output = cli(&guest, &["verify", &signed, "--json"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    let record = record.to_string();
    assert_says("record", &record, &[&image.digest(), scene.registry.host()]);

    for json in [false, true] {
        let arguments: &[&str] = if json {
            &["verify", &unsigned, "--json"]
        } else {
            &["verify", &unsigned]
        };
        let output = cli(&guest, arguments).await;
        assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
        assert_says("unsigned", &text(&output.stderr), &[DENIED, "no signature"]);
        if json {
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert!(report["decision"].is_object(), "{report}");
        }
    }
    guest.assert_residue(&before, "verify").await;
    assert!(
        !guest.work().exists(),
        "nothing is unpacked, so there is no store"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_decision_record_tells_whether_the_kbs_was_authenticated() {
    let scene = Scene::start().await;
    let guest = scene.guest();
    let signed = scene.push_signed("signed:1", &Image::small("record")).await;
    let output = cli(&guest, &["verify", &signed, "--json"]).await;
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        find(&record, "kbs_authenticated"),
        Some(&Value::Bool(true)),
        "{record}"
    );
}

fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Object(members) => members
            .get(key)
            .or_else(|| members.values().find_map(|member| find(member, key))),
        Value::Array(items) => items.iter().find_map(|item| find(item, key)),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn call_speaks_to_a_running_daemon() {
    let scene = Scene::start().await;
    let guest = scene.guest();
    let image = Image::small("call");
    let signed = scene.push_signed("signed:1", &image).await;
    let unsigned = scene.registry.push("unsigned:1", &image).await;
    let daemon = guest.start().await;

    let bundle = guest.bundle("c1");
    let output = cli(&guest, &["call", &signed, bundle.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).trim(), image.digest());

    let socket = guest.socket();
    let bundle = guest.bundle("c2");
    let mut command = guest.program();
    command
        .args(["call", &unsigned])
        .arg(&bundle)
        .arg("--socket")
        .arg(&socket);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert_says("unsigned", &text(&output.stderr), &[FAILED, DENIED]);
    drop(daemon);

    let output = cli(&guest, &["call", &signed, "/x"]).await;
    assert_eq!(
        output.status.code(),
        Some(1),
        "no daemon: {}",
        text(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_on_the_command_line_have_their_own_exit_code() {
    let guest = Guest::new();
    for arguments in [
        &["pull", "app:1"][..],
        &["pull", "--bundle", "/x"],
        &["frobnicate"],
        &["verify"],
        &["config"],
    ] {
        let output = guest.program().args(arguments).output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
    }
}
