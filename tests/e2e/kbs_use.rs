//! How the daemon uses the key broker service and what stands in for it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kit::cosign::{Claim, signature_image, signature_tag};
use kit::guest::Guest;
use kit::hostile::{Fault, Hostile};
use kit::image::Image;
use kit::kbs::{DevKbs, Fault as KbsFault, Requests, Step};
use kit::scene::{KEY, POLICY, Scene};
use kit::tsm::{Hardware, TsmFs};
use rustix::process::Signal;
use rustix::thread::CapabilitySet;
use serde_json::{Value, json};

use super::{DENIED, assert_says, content, trusting_guest};

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
async fn a_pull_costs_one_attestation_and_one_request_for_each_resource() {
    let scene = Scene::start().await;
    let keys: Vec<String> = (1..=3)
        .map(|number| format!("default/key/{number}"))
        .collect();
    for key in &keys {
        scene.kbs.put(key, scene.key.public_pem());
    }
    let paths = keys.iter().map(|key| format!("kbs:///{key}"));
    let signed = json!([{"type": "sigstoreSigned", "keyPaths": paths.collect::<Vec<_>>()}]);
    scene.set_policy(&json!({
        "default": [{"type": "reject"}],
        "transports": {"docker": {scene.registry.host(): signed}},
    }));
    scene
        .kbs
        .put("default/credentials/1", json!({"auths": {}}).to_string());
    let image = Image::small("counted");
    let reference = scene.push_signed("app:1", &image).await;
    let mut guest = scene.guest();
    guest.settings = guest.settings.clone().with(
        "image.authenticated_registry_credentials_uri",
        "kbs:///default/credentials/1",
    );
    let daemon = guest.start().await;
    for (pull, gets) in [("c1", 5), ("c2", 10)] {
        let digest = daemon.delivers(&reference, &guest.bundle(pull)).await;
        assert_eq!(digest, image.digest());
        let expected = Requests {
            auth: 1,
            attest: 1,
            get: gets,
        };
        assert_eq!(scene.kbs.requests(), expected, "{pull}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_and_keys_are_fetched_while_the_registry_is_asked() {
    let scene = Scene::start().await;
    let (kbs_takes, registry_takes) = (Duration::from_secs(1), Duration::from_millis(1500));
    let (registry, guest, reference) = asked_of_hostile(&scene).await;
    scene
        .kbs
        .put("default/credentials/1", json!({"auths": {}}).to_string());
    let mut guest = guest;
    guest.settings = guest.settings.clone().with(
        "image.authenticated_registry_credentials_uri",
        "kbs:///default/credentials/1",
    );
    let daemon = guest.start().await;
    scene.kbs.fault(Step::Get, KbsFault::Delay(kbs_takes), 3);
    registry.arm_times("/app/manifests/1", Fault::Slow(1 << 20, registry_takes), 1);
    let start = Instant::now();
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    let took = start.elapsed();
    // Credentials, then the manifest; the policy and the key beside them, which take a second each.
    assert!(took >= kbs_takes + registry_takes, "{took:?}");
    assert!(took < 2 * kbs_takes + registry_takes, "{took:?}");
    let expected = Requests {
        auth: 1,
        attest: 1,
        get: 3,
    };
    assert_eq!(scene.kbs.requests(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn config_comes_while_policy_and_key_are_fetched() {
    let scene = Scene::start().await;
    let (kbs_takes, config_takes) = (Duration::from_secs(1), Duration::from_millis(1500));
    let image = Image::small("beside the keys");
    let (registry, guest, reference) = asked_of_hostile_for(&scene, &image).await;
    let config = format!("GET /v2/app/blobs/{}", image.blobs[0].0);
    let daemon = guest.start().await;
    scene.kbs.fault(Step::Get, KbsFault::Delay(kbs_takes), 2);
    registry.arm(&image.blobs[0].0, Fault::Slow(1 << 20, config_takes));
    let start = Instant::now();
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    let took = start.elapsed();
    assert!(took >= 2 * kbs_takes, "{took:?}");
    assert!(took < 2 * kbs_takes + config_takes, "{took:?}");
    let asked = |line: &&String| **line == config;
    assert_eq!(registry.requests().iter().filter(asked).count(), 1);

    // What is in the store is not asked for.
    registry.disarm();
    daemon.delivers(&reference, &guest.bundle("c2")).await;
    assert_eq!(registry.requests().iter().filter(asked).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_waits_for_no_config_and_keeps_nothing_of_it() {
    let scene = Scene::start().await;
    let image = Image::small("denied meanwhile");
    let (registry, guest, reference) = asked_of_hostile_for(&scene, &image).await;
    scene.set_policy(&json!({"default": [{"type": "reject"}]}));
    let daemon = guest.start().await;
    let before = guest.residue();
    for (case, fault) in [
        ("stalls", Some(Fault::StallAfter(0))),
        ("is not there", Some(Fault::Status(404))),
        ("is there", None),
    ] {
        scene
            .kbs
            .fault(Step::Get, KbsFault::Delay(Duration::from_millis(500)), 1);
        registry.disarm();
        if let Some(fault) = fault {
            registry.arm(&image.blobs[0].0, fault);
        }
        let start = Instant::now();
        let refusal = daemon.refuses(&reference, &guest.bundle(case)).await;
        assert_says(case, &refusal.message, &[DENIED]);
        assert!(start.elapsed() < Duration::from_secs(5), "{case}");
        assert_eq!(
            registry.requests().len(),
            2,
            "{case}: {:?}",
            registry.requests()
        );
        guest.assert_residue(&before, case).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_missing_spoils_nothing_where_others_are_enough() {
    let scene = Scene::start().await;
    let signed = |key| json!({"type": "sigstoreSigned", "keyPath": format!("kbs:///{key}")});
    let either = [signed("default/cosign-key/missing"), signed(KEY)];
    scene.set_policy(&json!({
        "default": [{"type": "threshold", "count": 1, "of": either}],
    }));
    let reference = scene.push_signed("app:1", &Image::small("enough")).await;
    let guest = scene.guest();
    let daemon = guest.start().await;
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    assert_eq!(scene.kbs.requests().get, 3, "each was asked for once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_not_to_be_had_is_told_before_what_the_registry_says() {
    let scene = Scene::start().await;
    let (registry, guest, _) = asked_of_hostile(&scene).await;
    let daemon = guest.start().await;
    scene.kbs.deny(POLICY);
    let late = KbsFault::Delay(Duration::from_millis(500));
    scene.kbs.fault(Step::Get, late, 1);
    let missing = format!("{}/app:missing", registry.host());
    let refusal = daemon.refuses(&missing, &guest.bundle("c1")).await;
    assert_says(
        "denied",
        &refusal.message,
        &["policy: key broker service denies the resource"],
    );

    let mut guest = scene.guest();
    guest.settings = guest
        .settings
        .clone()
        .without("image.image_security_policy_uri");
    let daemon = guest.start().await;
    registry.disarm();
    daemon.refuses(&missing, &guest.bundle("c1")).await;
    assert_eq!(registry.requests(), Vec::<String>::new());
}

/// A registry that is honest until told otherwise, a guest that trusts the owner's key for it, and
/// an image there that is signed with it.
async fn asked_of_hostile(scene: &Scene) -> (Hostile, Guest, String) {
    asked_of_hostile_for(scene, &Image::small("hostile")).await
}

async fn asked_of_hostile_for(scene: &Scene, image: &Image) -> (Hostile, Guest, String) {
    let registry = Hostile::start().await;
    let name = format!("{}/app", registry.host());
    let reference = registry.push("app:1", image);
    let signature = scene.key.attest(&Claim::of(&name, &image.digest()));
    let tag = format!("app:{}", signature_tag(&image.digest()));
    registry.push(&tag, &signature_image([signature]));
    let signed = json!([{"type": "sigstoreSigned", "keyPath": format!("kbs:///{KEY}")}]);
    scene.set_policy(&json!({"default": signed}));
    let mut guest = scene.guest();
    guest.settings = guest.settings.clone().insecure_registry(&registry.host());
    (registry, guest, reference)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_for_a_time_ends_with_sighup() {
    let scene = Scene::start().await;
    let reference = scene.push_signed("app:1", &Image::small("kept")).await;
    let mut guest = scene.guest();
    guest.settings = guest.settings.clone().with("image_agent.kbs.ttl", 3600);
    let daemon = guest.start().await;
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    let before = scene.kbs.requests();
    scene.set_policy(&json!({"default": [{"type": "reject"}]}));
    daemon.delivers(&reference, &guest.bundle("c2")).await;
    assert_eq!(scene.kbs.requests(), before, "nothing was asked");

    daemon.signal(Signal::HUP);
    until(|| daemon.log().contains("SIGHUP")).await;
    daemon.refuses(&reference, &guest.bundle("c3")).await;
    assert_eq!(scene.kbs.requests().attest, 1, "the session lives on");
}

/// Waits a while for something to be so.
async fn until(is_so: impl Fn() -> bool) {
    for _ in 0..200 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(is_so(), "not in four seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_takes_effect_at_once_while_a_credential_is_waited_for() {
    let scene = Scene::start().await;
    let reference = scene.push_signed("app:1", &Image::small("hung")).await;
    let mut credential = toml::Table::new();
    credential.insert("resource_uri".into(), "kbs:///default/file/1".into());
    let path = "/run/confidential-containers/cdh/kbs/image-agent-e2e-never-written";
    credential.insert("path".into(), path.into());
    let mut guest = scene.guest();
    guest.settings = guest
        .settings
        .clone()
        .with("image_agent.kbs.ttl", 3600)
        .with("credentials", vec![credential]);
    let for_ever = KbsFault::Delay(Duration::from_hours(1));
    scene.kbs.fault(Step::Get, for_ever, 1);
    let daemon = guest.start().await;
    until(|| scene.kbs.requests().get == 1).await;
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    scene.set_policy(&json!({"default": [{"type": "reject"}]}));
    daemon.signal(Signal::HUP);
    until(|| daemon.log().contains("SIGHUP")).await;
    daemon.refuses(&reference, &guest.bundle("c2")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_the_configuration_does_not_accept_is_refused() {
    let scene = Scene::start().await;
    let reference = scene.push_signed("app:1", &Image::small("rolled")).await;
    let mut guest = scene.guest();
    let accepted = digest(&SHA256, scene.guide_policy().to_string().as_bytes());
    let digits = accepted.as_ref().iter().map(|byte| format!("{byte:02x}"));
    let accepted = format!("sha256:{}", digits.collect::<String>());
    guest.settings = guest
        .settings
        .clone()
        .with("image_agent.kbs.accepted_policies", vec![accepted]);
    let daemon = guest.start().await;
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    scene.set_policy(&json!({"default": [{"type": "insecureAcceptAnything"}]}));
    let refusal = daemon.refuses(&reference, &guest.bundle("c2")).await;
    assert_says(
        "another policy",
        &refusal.message,
        &["the policy is none that the configuration accepts"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_attests_when_nothing_is_said_and_init_data_go_with_it() {
    let scene = Scene::start().await;
    let image = Image::small("measured");
    let reference = scene.push_signed("app:1", &image).await;
    let init_data = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n";
    let kernel = TsmFs::mount(Hardware {
        provider: "tdx_guest",
        quote: |report_data| {
            let init_data = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n";
            let mut quote = vec![0; 48 + 584];
            quote[0] = 4;
            let launched = digest(&SHA256, init_data.as_bytes());
            quote[48 + 184..48 + 216].copy_from_slice(launched.as_ref());
            quote[48 + 520..].copy_from_slice(report_data);
            quote
        },
        certificates: None,
        privilege_floor: 0,
    });
    let mut guest = scene.guest();
    let file = guest.path().join("tmp/initdata.toml");
    std::fs::write(&file, init_data).unwrap();
    let path = |path: &Path| path.display().to_string();
    guest.settings = guest
        .settings
        .clone()
        .without("image_agent.attester")
        .with("image_agent.kbs.configfs_tsm", path(kernel.folder()))
        .with("image_agent.kbs.init_data", path(&file));
    let daemon = guest.start().await;
    let delivered = daemon.delivers(&reference, &guest.bundle("c1")).await;
    assert_eq!(delivered, image.digest());
    assert_eq!((kernel.quotes(), kernel.open_requests()), (1, 0));
    let sent = json!({"format": "toml", "body": init_data});
    assert_eq!(scene.kbs.init_data_seen(), [sent]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemons_memory_is_locked_where_that_is_allowed() {
    let scene = Scene::start().await;
    let guest = scene.guest();
    let daemon = guest.start().await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let locked = status.lines().find(|line| line.starts_with("VmLck:"));
    let locked = locked.unwrap().split_whitespace().nth(1).unwrap();
    let may_lock = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    assert_eq!(locked != "0", may_lock, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_and_attestation_can_be_had_by_hand() {
    let scene = Scene::start().await;
    scene.kbs.put("default/test/1", "bytes as they are");
    let guest = scene.guest();
    let output = by_hand(&guest, &["get", "kbs:///default/test/1"]).await;
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"bytes as they are");

    let output = by_hand(&guest, &["get", "kbs:///default/test/2"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_says("missing", &complaint, &["/kbs/v0/resource/default/test/2"]);

    let output = by_hand(&guest, &["attest", "--json"]).await;
    assert_eq!(output.status.code(), Some(0));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["tee"], "sample");
    assert_eq!(told["claims"]["iss"], "CoCo-Attestation-Service");
    let output = by_hand(&guest, &["attest"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("tee: sample\nevidence: "), "{text}");
    let requests = scene.kbs.requests();
    assert_eq!((requests.attest, requests.get), (4, 2));
}

/// Runs `image-agent kbs`.
async fn by_hand(guest: &Guest, arguments: &[&str]) -> Output {
    let mut command = guest.program();
    command.arg("kbs").args(arguments);
    command.arg("-c").arg(guest.write_config());
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
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
