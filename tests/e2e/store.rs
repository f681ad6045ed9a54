//! Layers are fetched once, outlive the callers that gave up, and are believed only where the host
//! cannot write.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kit::archive::{Archive, Entry};
use kit::client::{CallError, Client, Code};
use kit::cosign::{Claim, signature_image, signature_tag};
use kit::guest::{Daemon, Guest};
use kit::hostile::{Fault, Hostile};
use kit::image::{Format, Image, Layer, host_architecture};
use kit::programs::run;
use kit::scene::{KEY, Scene};
use serde_json::json;
use tar::EntryType;
use tokio::task::JoinHandle;

use super::{DENIED, assert_says, content, trusting_guest};

/// A layer of bytes that cannot be compressed.
pub(crate) fn noise(name: &str, words: u32) -> Layer {
    let noise: Vec<u8> = (0..words)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    Layer::gzip(Archive::new().file(name, noise))
}

/// How often the registry was asked for each layer of `image`.
pub(crate) fn fetched(registry: &Hostile, image: &Image) -> Vec<usize> {
    let requests = registry.requests();
    let layers = image.blobs.iter().skip(1);
    let times = |digest: &String| requests.iter().filter(|path| path.contains(digest)).count();
    layers.map(|(digest, _)| times(digest)).collect()
}

async fn pull_within(
    client: &Client,
    reference: &str,
    bundle: &Path,
    deadline: Duration,
) -> Result<String, CallError> {
    let bundle = bundle.display().to_string();
    client.pull_within(reference, &bundle, deadline).await
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

/// Begins a pull, and hangs up as soon as the first layer of `image` is asked for.
async fn abandon(registry: &Hostile, guest: &Guest, reference: &str, image: &Image) {
    let client = Client::connect(&guest.socket()).await.unwrap();
    let path = guest.bundle("c1").display().to_string();
    let call = client.pull(reference, &path);
    let asked = async {
        while fetched(registry, image)[0] == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let answered = tokio::select! {
        answer = call => Some(answer),
        () = asked => None,
    };
    assert_eq!(answered, None, "before anybody hung up");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_short_deadlines_bring_an_image_whose_bytes_are_fetched_once() {
    let registry = Hostile::start().await;
    let layers = ["a", "b"].map(|name| noise(name, 100_000));
    let image = Image::of(layers).build();
    let reference = registry.push("app:1", &image);
    let (piece, pause) = (10_000, Duration::from_millis(100));
    for (digest, _) in image.blobs.iter().skip(1) {
        registry.arm(digest, Fault::Slow(piece, pause));
    }
    // No machine is faster than the registry.
    let pieces = image.blobs[1].1.len().div_ceil(piece);
    let whole = pause * u32::try_from(pieces).unwrap();
    assert!(whole > Duration::from_secs(3), "{whole:?}");

    // The second retry may be for the same bundle as the first or for another.
    for bundles in [["c1", "c1", "c1"], ["c1", "c2", "c3"]] {
        let guest = trusting_guest(&registry.host());
        let daemon = guest.start().await;
        // kata-agent keeps its connection.
        let client = daemon.client();
        let before = fetched(&registry, &image);
        let mut answers = Vec::new();
        for bundle in bundles {
            let bundle = guest.bundle(bundle);
            answers.push(pull_within(&client, &reference, &bundle, whole / 3).await);
            // What a kubelet waits before it tries again is more.
            tokio::time::sleep(whole / 8).await;
        }
        for answer in &answers[..2] {
            // On a busy machine the caller is sometimes faster than the answer.
            let is_late = match answer {
                Err(CallError::Refused(refusal)) => refusal.code == Code::DEADLINE_EXCEEDED,
                Err(CallError::Lost(_)) => true,
                Ok(_) => false,
            };
            assert!(is_late, "{answers:?}");
        }
        assert_eq!(answers[2], Ok(image.digest()), "{}", daemon.log());
        assert_eq!(guest.mounts().len(), 1, "abandoned calls mount nothing");
        let file = guest.bundle(bundles[2]).join("rootfs/b");
        assert_eq!(std::fs::metadata(file).unwrap().len(), 400_000);
        let after = fetched(&registry, &image);
        let times: Vec<_> = after.iter().zip(before).map(|(a, b)| a - b).collect();
        assert_eq!(times, [1, 1]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_at_once_fetch_each_layer_once() {
    let registry = Hostile::start().await;
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    let (shared, own) = (noise("shared", 20_000), noise("own", 10_000));
    let image = Image::of([shared.clone(), own]).build();
    let other = Image::of([shared]).build();
    let references = [
        registry.push("app:1", &image),
        registry.push("other:1", &other),
    ];
    for (digest, _) in image.blobs.iter().skip(1) {
        registry.arm(digest, Fault::Slow(10_000, Duration::from_millis(50)));
    }
    let calls: Vec<_> = (0..6)
        .map(|number| {
            let bundle = guest.bundle(&format!("c{number}"));
            spawn_pull(&daemon, &references[number % 2], &bundle)
        })
        .collect();
    for (number, call) in calls.into_iter().enumerate() {
        let expected = [&image, &other][number % 2].digest();
        assert_eq!(call.await.unwrap(), Ok(expected));
    }
    assert_eq!(fetched(&registry, &image), [1, 1]);
    assert_eq!(guest.mounts().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_work_of_a_caller_that_went_away_is_there_for_the_next() {
    let registry = Hostile::start().await;
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    let image = Image::of([noise("a", 20_000)]).build();
    let reference = registry.push("app:1", &image);
    registry.arm(
        &image.blobs[1].0,
        Fault::Slow(10_000, Duration::from_millis(50)),
    );
    abandon(&registry, &guest, &reference, &image).await;
    let is_layer = |path: &String| path.starts_with("work/layers/");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !guest.residue().iter().any(is_layer) {
        assert!(Instant::now() < deadline, "{:?}", guest.residue());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let beside = guest.residue_beside_layers();
    assert!(beside.is_empty(), "only layer work goes on: {beside:?}");
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    assert_eq!(fetched(&registry, &image), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lingers_ends_with_the_daemon() {
    let registry = Hostile::start().await;
    let guest = trusting_guest(&registry.host());
    let mut daemon = guest.start().await;
    let image = Image::of([noise("a", 20_000)]).build();
    let reference = registry.push("app:1", &image);
    registry.arm(&image.blobs[1].0, Fault::StallAfter(30_000));
    abandon(&registry, &guest, &reference, &image).await;
    let is_staged = |path: &String| path.starts_with("work/staging/");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !guest.residue().iter().any(is_staged) {
        assert!(
            Instant::now() < deadline,
            "it lingers: {:?}",
            guest.residue()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let began = Instant::now();
    assert!(daemon.terminate().success());
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(guest.residue(), std::collections::BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_failed_is_no_verdict_on_who_had_joined_it() {
    let registry = Hostile::start().await;
    let mut guest = trusting_guest(&registry.host());
    guest.settings = guest.settings.clone().with("image_agent.timeouts.idle", 2);
    let daemon = guest.start().await;
    let image = Image::of([noise("a", 20_000)]).build();
    let reference = registry.push("app:1", &image);
    registry.arm_times(&image.blobs[1].0, Fault::StallAfter(30_000), 1);
    let first = spawn_pull(&daemon, &reference, &guest.bundle("c1"));
    while fetched(&registry, &image) == [0] {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let second = spawn_pull(&daemon, &reference, &guest.bundle("c2"));
    assert_eq!(second.await.unwrap(), Ok(image.digest()));
    // The first may try again on its own account.
    drop(first.await.unwrap());
    assert_eq!(fetched(&registry, &image), [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_those_who_joined_a_fetch_that_failed_one_fetches_again() {
    let registry = Hostile::start().await;
    let mut guest = trusting_guest(&registry.host());
    guest.settings = guest.settings.clone().with("image_agent.timeouts.idle", 4);
    let daemon = guest.start().await;
    let image = Image::of([noise("a", 40_000)]).build();
    let reference = registry.push("app:1", &image);
    let blob = &image.blobs[1].0;
    registry.arm_times(blob, Fault::StallAfter(30_000), 1);
    // What is asked for again takes long enough to be joined.
    registry.arm(blob, Fault::Slow(10_000, Duration::from_millis(100)));
    let calls: Vec<_> = (0..5)
        .map(|number| spawn_pull(&daemon, &reference, &guest.bundle(&format!("c{number}"))))
        .collect();
    let mut delivered = 0;
    for call in calls {
        delivered += u32::from(call.await.unwrap() == Ok(image.digest()));
    }
    // The leader of the first may have tried again on its own account.
    assert!(delivered >= 4, "{}", daemon.log());
    assert_eq!(fetched(&registry, &image), [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_pull_costs_one_request_and_little_time() {
    let registry = Hostile::start().await;
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    let platform = format!("linux/{}", host_architecture());
    let chosen = Image::of([noise("a", 1000), noise("b", 2000)]).build();
    let index = Image::index(Format::Oci, [(platform.as_str(), chosen.clone())]);
    let reference = registry.push("app:1", &index);
    daemon.delivers(&reference, &guest.bundle("c0")).await;
    let mut times = Vec::new();
    // Other tests share the processors; the best is the daemon's own.
    while !times.iter().any(|time| *time < SECOND_PULL) {
        let number = times.len() + 1;
        assert!(number < 50, "{times:?}");
        registry.disarm();
        let began = Instant::now();
        let digest = daemon
            .delivers(&reference, &guest.bundle(&format!("c{number}")))
            .await;
        times.push(began.elapsed());
        assert_eq!(digest, chosen.digest());
        assert_eq!(registry.requests(), ["GET /v2/app/manifests/1"]);
    }
    // A document that is not what its digest says is fetched again.
    for file in std::fs::read_dir(guest.work().join("documents")).unwrap() {
        std::fs::write(file.unwrap().path(), "damaged").unwrap();
    }
    registry.disarm();
    daemon.delivers(&reference, &guest.bundle("last")).await;
    assert_eq!(registry.requests().len(), 3, "{:?}", registry.requests());
}

/// What a pull may take whose layers are there.
const SECOND_PULL: Duration = Duration::from_millis(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_second_pull_asks_for_the_manifest_and_what_the_policy_needs_and_decides_anew() {
    let scene = Scene::start().await;
    let registry = Hostile::start().await;
    let signed = json!([{"type": "sigstoreSigned", "keyPath": format!("kbs:///{KEY}")}]);
    scene.set_policy(&json!({
        "default": [{"type": "reject"}],
        "transports": {"docker": {registry.host(): signed}},
    }));
    let mut guest = scene.guest();
    guest.settings = guest.settings.clone().insecure_registry(&registry.host());
    let image = Image::of([noise("a", 1000), noise("b", 2000)]).build();
    let reference = registry.push("app:1", &image);
    let claim = Claim::of(&format!("{}/app", registry.host()), &image.digest());
    let signature = signature_image([scene.key.attest(&claim)]);
    let tag = signature_tag(&image.digest());
    registry.push(&format!("app:{tag}"), &signature);
    let daemon = guest.start().await;
    daemon.delivers(&reference, &guest.bundle("c0")).await;
    let began = processor_time(&daemon);
    let count = 20;
    for number in 1..=count {
        registry.disarm();
        let before = scene.kbs.requests();
        let bundle = guest.bundle(&format!("c{number}"));
        daemon.delivers(&reference, &bundle).await;
        let expected = [
            "GET /v2/app/manifests/1".to_owned(),
            format!("GET /v2/app/manifests/{tag}"),
            format!("GET /v2/app/blobs/{}", signature.blobs[1].0),
        ];
        assert_eq!(registry.requests(), expected);
        let after = scene.kbs.requests();
        let more = |field: fn(&kit::kbs::Requests) -> usize| field(&after) - field(&before);
        let asked = (more(|it| it.auth), more(|it| it.attest), more(|it| it.get));
        assert_eq!(asked, (0, 0, 2), "policy and key");
    }
    // Others share the processors, so that only its own time is the daemon's.
    let each = processor_time(&daemon).saturating_sub(began) / count;

    assert!(each < SECOND_PULL, "{each:?}");
    registry.disarm();
    scene.set_policy(&json!({"default": [{"type": "reject"}]}));
    let refusal = daemon.refuses(&reference, &guest.bundle("denied")).await;
    assert_says("rejected since", &refusal.message, &[DENIED]);
    assert_eq!(registry.requests(), ["GET /v2/app/manifests/1"]);
}

/// What the daemon has used of the processors, in user and in kernel mode: `proc_pid_stat(5)`.
fn processor_time(daemon: &Daemon) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<_> = fields.split_whitespace().collect();
    let ticks: u64 = fields[11..13]
        .iter()
        .map(|it| it.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(ticks * 10)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_cannot_be_made_is_the_fault_of_its_layer() {
    let registry = Hostile::start().await;
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    let root = Entry::new("./", EntryType::Directory).attribute("security.capability", "none");
    let image = super::image_of(Archive::new().entry(&root));
    let reference = registry.push("app:1", &image);
    let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
    let words = [
        "unpack",
        "the guest cannot write the layer",
        &image.blobs[1].0,
    ];
    assert_says("root", &refusal.message, &words);
}

/// Mounts a disk of its own, which any host could write, on the guest's work directory.
fn mount_disk(guest: &Guest, name: &str) -> PathBuf {
    let file = guest.path().join("tmp").join(name);
    let disk = std::fs::File::create(&file).unwrap();
    disk.set_len(64 << 20).unwrap();
    std::fs::create_dir_all(guest.work()).unwrap();
    run(std::process::Command::new("/usr/sbin/mkfs.ext4")
        .arg("-q")
        .arg(&file));
    run(std::process::Command::new("mount")
        .args(["-o", "loop"])
        .arg(&file)
        .arg(guest.work()));
    file
}

/// What is on the disk when the power fails is what a copy of it has: the rest is in memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_layer_is_on_the_disk_before_it_counts_as_there_if_that_is_configured() {
    let registry = Hostile::start().await;
    let mut guest = trusting_guest(&registry.host());
    guest.settings = guest
        .settings
        .clone()
        .with("image_agent.danger_host_writable_store", true)
        .with("image_agent.store.sync", true);
    let disk = mount_disk(&guest, "disk");
    let reference = registry.push("app:1", &Image::small("durable"));
    let daemon = guest.start().await;
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    let (copy, after) = (
        guest.path().join("tmp/copy"),
        guest.path().join("tmp/after"),
    );
    std::fs::copy(disk, &copy).unwrap();
    std::fs::create_dir(&after).unwrap();
    run(std::process::Command::new("mount")
        .args(["-o", "loop"])
        .args([&copy, &after]));
    let layers = std::fs::read_dir(after.join("layers")).unwrap();
    let layers: Vec<_> = layers.map(|layer| layer.unwrap().path()).collect();
    assert_eq!(layers.len(), 1);
    let mark = std::fs::read_to_string(layers[0].join("etc/mark")).unwrap();
    assert_eq!(mark, "durable");
    assert_eq!(std::fs::read_dir(after.join("records")).unwrap().count(), 1);
    rustix::mount::unmount(&after, rustix::mount::UnmountFlags::DETACH).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_the_host_can_write_is_refused_also_when_it_is_mounted_late() {
    let registry = Hostile::start().await;
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    let reference = registry.push("app:1", &Image::small("disk"));
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    mount_disk(&guest, "disk");
    registry.disarm();
    let refusal = daemon.refuses(&reference, &guest.bundle("c2")).await;
    assert_eq!(refusal.code, Code::FAILED_PRECONDITION, "{refusal:?}");
    let words = [
        "image.work_dir is on a disk that the host can write",
        "ext4",
        "image_agent.danger_host_writable_store = true",
    ];
    assert_says("ext4", &refusal.message, &words);
    let inside = guest.path().display().to_string();
    assert!(!refusal.message.contains(&inside), "{refusal:?}");
    assert_eq!(registry.requests(), [""; 0], "nothing is asked for it");
    rustix::mount::unmount(guest.work(), rustix::mount::UnmountFlags::DETACH).unwrap();
    daemon.delivers(&reference, &guest.bundle("c2")).await;
    assert_eq!(registry.requests().len(), 1, "the layer is there still");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_the_host_can_write_is_believed_by_the_process_that_wrote_it_alone() {
    let registry = Hostile::start().await;
    let mut guest = trusting_guest(&registry.host());
    guest.settings = guest
        .settings
        .clone()
        .with("image_agent.danger_host_writable_store", true);
    mount_disk(&guest, "disk");
    let image = Image::small("danger");
    let reference = registry.push("app:1", &image);
    let mut daemon = guest.start().await;
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    daemon.delivers(&reference, &guest.bundle("c2")).await;
    assert_eq!(fetched(&registry, &image), [1]);
    let mut program = guest.program();
    program
        .args(["store", "list", "-c"])
        .arg(guest.path().join("cdh.toml"));
    let listed = String::from_utf8(run(&mut program).stdout).unwrap();
    assert_says("list", &listed, &["the host can write this disk", "used"]);
    daemon.kill();
    let daemon = guest.start().await;
    daemon.delivers(&reference, &guest.bundle("c3")).await;
    assert_eq!(fetched(&registry, &image), [2], "proved afresh");
    // The bundles of before have what they had.
    assert_eq!(content(&guest.bundle("c1"), "etc/mark"), "danger");
    drop(daemon);
    for name in ["c1", "c2", "c3"] {
        let rootfs = guest.bundle(name).join("rootfs");
        rustix::mount::unmount(rootfs, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
    let mut daemon = guest.start().await;
    let deadline = Instant::now() + Duration::from_secs(10);
    let layers = || {
        std::fs::read_dir(guest.work().join("layers"))
            .unwrap()
            .count()
    };
    while layers() > 0 {
        assert!(Instant::now() < deadline, "it is emptied at the start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    daemon.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_is_looked_after_by_hand() {
    let registry = Hostile::start().await;
    let mut guest = trusting_guest(&registry.host());
    guest.settings = guest
        .settings
        .clone()
        .with("image_agent.store.sync", true)
        .with("image_agent.store.volatile", true);
    let daemon = guest.start().await;
    for name in ["kept", "gone"] {
        let reference = registry.push(&format!("{name}:1"), &Image::small(name));
        daemon.delivers(&reference, &guest.bundle(name)).await;
    }
    let rootfs = guest.bundle("gone").join("rootfs");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut mounts = mounts.lines();
    let mount = mounts.find(|line| line.contains(rootfs.to_str().unwrap()));
    assert!(mount.unwrap().contains("volatile"), "{mount:?}");
    rustix::mount::unmount(rootfs, rustix::mount::UnmountFlags::DETACH).unwrap();
    let config = guest.path().join("cdh.toml");
    let store = |command: &str| -> serde_json::Value {
        let mut program = guest.program();
        program
            .args(["store", command, "--json", "-c"])
            .arg(&config);
        serde_json::from_slice(&run(&mut program).stdout).unwrap()
    };
    let listed = store("list");
    assert_eq!(listed["layers"].as_array().unwrap().len(), 2, "{listed}");
    let blob = Image::small("kept").blobs[1].0.clone();
    let is_kept = |layer: &&serde_json::Value| layer["blob"] == *blob;
    let kept = listed["layers"].as_array().unwrap().iter().find(is_kept);
    assert_eq!(kept.unwrap()["bytes"], 4, "{listed}");
    assert_eq!(store("verify")["findings"], serde_json::json!([]));
    assert_eq!(store("gc")["layers"], 1);
    let listed = store("list");
    assert_eq!(listed["layers"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed["layers"][0]["used"], true, "{listed}");
    assert_eq!(content(&guest.bundle("kept"), "etc/mark"), "kept");
    let overlays = std::fs::read_dir(guest.work().join("overlay")).unwrap();
    assert_eq!(
        overlays.count(),
        1,
        "the upper directory of the one gone is"
    );

    let key = listed["layers"][0]["key"].as_str().unwrap();
    std::fs::remove_file(guest.work().join(format!("records/{key}.json"))).unwrap();
    let mut program = guest.program();
    let output = program
        .args(["store", "verify", "-c"])
        .arg(&config)
        .output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_says(
        "verify",
        &said,
        &["no record proves it", "1 layers, 1 findings"],
    );
}
