//! How the daemon uses the key broker service and what stands in for it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kit::image::Image;
use kit::kbs::DevKbs;
use kit::scene::{KEY, POLICY, Scene};
use serde_json::json;

use super::{content, trusting_guest};

#[tokio::test(flavor = "multi_thread")]
async fn one_attestation_serves_many_pulls_at_once() {
    let scene = Scene::start().await;
    let guest = scene.guest();
    let daemon = guest.start().await;
    let reference = scene.push_signed("app:1", &Image::small("one")).await;
    let pulls = (0..8).map(|number| {
        let (client, reference) = (daemon.client(), reference.clone());
        let bundle = guest.bundle(&format!("c{number}")).display().to_string();
        tokio::spawn(async move { client.pull(&reference, &bundle).await })
    });
    for pull in pulls.collect::<Vec<_>>() {
        pull.await.unwrap().unwrap();
    }
    let requests = scene.kbs.requests();
    assert_eq!((requests.auth, requests.attest), (1, 1), "{requests:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_costs_one_new_handshake() {
    let scene = Scene::start().await;
    let guest = scene.guest();
    let daemon = guest.start().await;
    let reference = scene.push_signed("app:1", &Image::small("expired")).await;
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    scene.kbs.expire_tokens();
    daemon.delivers(&reference, &guest.bundle("c2")).await;
    assert_eq!(scene.kbs.requests().attest, 2);
    scene.kbs.forget_sessions();
    daemon.delivers(&reference, &guest.bundle("c3")).await;
    assert_eq!(scene.kbs.requests().attest, 3);
    daemon.delivers(&reference, &guest.bundle("c4")).await;
    assert_eq!(scene.kbs.requests().attest, 3, "and then on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kbs_over_loopback_http_serves_too() {
    let scene = Scene::start().await;
    let plain = DevKbs::http();
    plain.put(KEY, scene.key.public_pem());
    plain.put(POLICY, scene.guide_policy().to_string());
    let reference = scene.push_signed("app:1", &Image::small("plain")).await;
    let mut guest = scene.guest();
    guest.settings = guest
        .settings
        .clone()
        .without("kbc.kbs_cert")
        .with("kbc.url", plain.url());
    let daemon = guest.start().await;
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    assert_eq!(plain.requests().attest, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_and_key_may_be_files_of_the_guest() {
    let scene = Scene::start().await;
    let image = Image::small("files");
    let reference = scene.push_signed("app:1", &image).await;
    let mut guest = trusting_guest(scene.registry.host());
    let (policy, key) = (
        guest.path().join("tmp/policy.json"),
        guest.path().join("tmp/cosign.pub"),
    );
    std::fs::write(&key, scene.key.public_pem()).unwrap();
    let document = json!({"default": [{"type": "sigstoreSigned", "keyPath": key}]});
    std::fs::write(&policy, document.to_string()).unwrap();
    guest.settings = guest
        .settings
        .clone()
        .without("image.image_security_policy")
        .with(
            "image.image_security_policy_uri",
            format!("file://{}", policy.display()),
        );
    let daemon = guest.start().await;
    assert_eq!(
        daemon.delivers(&reference, &guest.bundle("c1")).await,
        image.digest()
    );
    assert_eq!(content(&guest.bundle("c1"), "etc/mark"), "files");

    // Files are read for each pull as well.
    std::fs::write(&policy, r#"{"default":[{"type":"reject"}]}"#).unwrap();
    daemon.refuses(&reference, &guest.bundle("c2")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_may_come_from_the_offline_files() {
    let scene = Scene::start().await;
    let image = Image::small("offline");
    let reference = scene.push_signed("app:1", &image).await;
    let mut guest = scene.guest();
    let file = guest.path().join("tmp/resources.json");
    let encode = |text: String| STANDARD.encode(text);
    let resources = json!({
        KEY: encode(scene.key.public_pem()),
        POLICY: encode(scene.guide_policy().to_string()),
    });
    std::fs::write(&file, resources.to_string()).unwrap();
    // Without a table `kbc` the environment says where resources come from.
    guest.settings = guest.settings.clone().without("kbc");
    guest.environment = vec![
        ("AA_KBC_PARAMS", "offline_fs_kbc::null".to_owned()),
        ("OFFLINE_FS_KBC_EXTRA_FILE_PATH", file.display().to_string()),
    ];
    let daemon = guest.start().await;
    assert_eq!(
        daemon.delivers(&reference, &guest.bundle("c1")).await,
        image.digest()
    );
    assert_eq!(scene.kbs.requests(), kit::kbs::Requests::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_written_beneath_the_fixed_directory_after_the_bind() {
    let scene = Scene::start().await;
    scene.kbs.put("default/file/1", "the content");
    let mut guest = scene.guest();
    let folder = Path::new("/run/confidential-containers/cdh/kbs");
    let name = format!("image-agent-e2e-{}", std::process::id());
    let path = folder.join(&name).join("file");
    let mut credential = toml::Table::new();
    credential.insert("resource_uri".into(), "kbs:///default/file/1".into());
    credential.insert("path".into(), path.display().to_string().into());
    guest.settings = guest.settings.clone().with("credentials", vec![credential]);
    let before = existing(folder);
    let daemon = guest.start().await;
    let mut written = None;
    for _ in 0..200 {
        written = std::fs::read_to_string(&path).ok();
        if written.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mode = std::fs::metadata(&path)
        .map(|meta| meta.permissions().mode() & 0o7777)
        .ok();
    // The one place outside of the guest's own directories: leave it as it was.
    let _ = std::fs::remove_dir_all(folder.join(&name));
    for made in folder
        .ancestors()
        .take_while(|made| !before.starts_with(made))
    {
        let _ = std::fs::remove_dir(made);
    }
    assert_eq!(written.as_deref(), Some("the content"), "{}", daemon.log());
    assert_eq!(mode, Some(0o600));
}

/// The deepest part of `path` that exists.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|part| part.exists()).unwrap()
}
