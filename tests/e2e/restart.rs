//! Starts and ends of the daemon, asked for or not.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use kit::archive::Archive;
use kit::client::CallError;
use kit::guest::{Daemon, Guest};
use kit::hostile::{Fault, Hostile};
use kit::image::{Image, Layer, busybox_layout};
use kit::registry::Registry;
use kit::scene::Scene;

use tokio::task::JoinHandle;

use super::{content, run_inside, trusting_guest};

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_bound_at_once_even_when_the_kbs_does_not_answer() {
    let scene = Scene::start().await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut guest = scene.guest();
    let url = format!("https://{}", silent.local_addr().unwrap());
    let mut credential = toml::Table::new();
    credential.insert("resource_uri".into(), "kbs:///default/file/1".into());
    let path = "/run/confidential-containers/cdh/kbs/image-agent-e2e-never";
    credential.insert("path".into(), path.into());
    guest.settings = guest
        .settings
        .clone()
        .with("kbc.url", url)
        .with("credentials", vec![credential]);
    let mut times = Vec::new();
    for _ in 0..5 {
        let mut daemon = guest.start().await;
        times.push(daemon.bound_after);
        daemon.terminate();
    }
    // Other tests share the processors; the best of five is the daemon's own.
    assert!(
        times.iter().min().unwrap() < &Duration::from_millis(100),
        "{times:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_private_and_replaces_a_stale_one() {
    let guest = trusting_guest("nobody.invalid");
    let mut daemon = guest.start().await;
    let metadata = std::fs::symlink_metadata(guest.socket()).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
    assert!(daemon.terminate().success());
    assert!(!guest.socket().exists(), "the daemon removes its socket");

    drop(UnixListener::bind(guest.socket()).unwrap());
    assert!(guest.socket().exists(), "a stale socket");
    let mut daemon = guest.start().await;
    daemon.kill();
    assert!(guest.socket().exists(), "a killed daemon leaves its socket");
    let mut daemon = guest.start().await;
    assert!(daemon.interrupt().success());
    assert!(!guest.socket().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_confidential_data_hub_serves_as_well() {
    let scene = Scene::start().await;
    let guest = scene.guest();
    let daemon = guest.start_as_confidential_data_hub().await;
    let image = Image::small("hub");
    let reference = scene.push_signed("app:1", &image).await;
    assert_eq!(
        daemon.delivers(&reference, &guest.bundle("c1")).await,
        image.digest()
    );
}

/// Begins a pull that stops in the middle of a layer, and waits until it has.
async fn begin_stalled_pull(
    registry: &Hostile,
    guest: &Guest,
    daemon: &Daemon,
) -> JoinHandle<Result<String, CallError>> {
    let noise: Vec<u8> = (0..500_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let done = Layer::gzip(Archive::new().file("done", "done"));
    let image = Image::of([done, Layer::gzip(Archive::new().file("noise", noise))]).build();
    let reference = registry.push("stalled:1", &image);
    registry.arm(&image.blobs[2].0, Fault::StallAfter(1_000_000));
    let call = spawn_pull(daemon, &reference, &guest.bundle("stalled"));
    let deadline = Instant::now() + Duration::from_secs(20);
    while !registry
        .requests()
        .iter()
        .any(|path| path.contains(&image.blobs[2].0))
    {
        assert!(
            Instant::now() < deadline,
            "the pull does not begin\n{}",
            daemon.log()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let is_staged = |path: &String| path.starts_with("work/staging/");
    while !guest.residue().iter().any(is_staged) {
        assert!(
            Instant::now() < deadline,
            "nothing is unpacked\n{}",
            daemon.log()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    call
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_in_the_middle_of_a_pull_leaves_nothing_half_made() {
    for signal in ["TERM", "INT"] {
        let registry = Hostile::start().await;
        let guest = trusting_guest(&registry.host());
        let mut daemon = guest.start().await;
        let delivered = registry.push("app:1", &Image::small("delivered"));
        daemon.delivers(&delivered, &guest.bundle("c1")).await;
        let before = guest.residue_beside_layers();
        let call = begin_stalled_pull(&registry, &guest, &daemon).await;
        let began = Instant::now();
        let status = if signal == "TERM" {
            daemon.terminate()
        } else {
            daemon.interrupt()
        };
        assert!(status.success(), "{signal}: {status}\n{}", daemon.log());
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{signal}: {:?}",
            began.elapsed()
        );
        assert!(call.await.unwrap().is_err());
        assert_eq!(guest.residue_beside_layers(), before, "{signal}");
        assert!(!guest.socket().exists());
        assert_eq!(content(&guest.bundle("c1"), "etc/mark"), "delivered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn delivered_bundles_survive_every_end_of_the_daemon() {
    let registry = Registry::start().await;
    let layout = tempfile::tempdir().unwrap();
    let layout = layout.path().join("layout");
    busybox_layout(&layout);
    let reference = registry.push_layout("busybox:1", &layout, "busybox", &[]);
    let guest = trusting_guest(registry.host());
    let mut daemon = guest.start().await;
    let bundle = guest.bundle("c1");
    daemon.delivers(&reference, &bundle).await;
    for end in ["terminate", "kill"] {
        let before = guest.residue();
        match end {
            "terminate" => drop(daemon.terminate()),
            _ => daemon.kill(),
        }
        assert_eq!(run_inside(&bundle, "echo $((6*7))"), "42\n", "{end}");
        daemon = guest.start().await;
        // Recovery goes on behind the socket; a pull that comes after it does not race with it.
        daemon.delivers(&reference, &guest.bundle(end)).await;
        let missing: Vec<_> = before.difference(&guest.residue()).cloned().collect();
        assert_eq!(missing, Vec::<String>::new(), "{end}");
        assert_eq!(
            run_inside(&bundle, "echo kept > /file; /bin/busybox cat /file"),
            "kept\n"
        );
        assert_eq!(
            run_inside(&guest.bundle(end), "test -e /file || echo separate"),
            "separate\n"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_in_the_middle_of_a_fetch_is_cleaned_up_by_the_next_start() {
    let registry = Hostile::start().await;
    let guest = trusting_guest(&registry.host());
    let mut daemon = guest.start().await;
    let before = guest.residue_beside_layers();
    let call = begin_stalled_pull(&registry, &guest, &daemon).await;
    let staged = || {
        guest
            .residue()
            .iter()
            .any(|path| path.starts_with("work/staging/"))
    };
    assert!(staged(), "{:?}", guest.residue());
    daemon.kill();
    assert!(matches!(call.await.unwrap(), Err(CallError::Lost(_))));
    assert!(staged(), "a killed daemon cannot clean up");
    registry.disarm();
    let daemon = guest.start().await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while guest.residue_beside_layers() != before {
        assert!(
            Instant::now() < deadline,
            "{:?}",
            guest.residue_beside_layers()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let reference = format!("{}/stalled:1", registry.host());
    daemon.delivers(&reference, &guest.bundle("stalled")).await;
}

pub(crate) fn spawn_pull(
    daemon: &Daemon,
    reference: &str,
    bundle: &Path,
) -> JoinHandle<Result<String, CallError>> {
    let (client, reference) = (daemon.client(), reference.to_owned());
    let path = bundle.display().to_string();
    tokio::spawn(async move { client.pull(&reference, &path).await })
}
