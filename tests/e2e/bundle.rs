//! Bundles: where they may be, what they hold, and what happens when they cannot be made.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use kit::archive::{Archive, Entry};
use kit::client::{CallError, Code};
use kit::guest::Guest;
use kit::hostile::Hostile;
use kit::image::{Image, Layer};
use kit::programs::run;
use rustix::mount::{UnmountFlags, unmount};
use serde_json::{Value, json};

use super::{FAILED, assert_says, content, image_of, trusting_guest};

#[tokio::test(flavor = "multi_thread")]
async fn bundle_paths_that_lead_astray_are_refused() {
    let registry = Hostile::start().await;
    let reference = registry.push("app:1", &Image::small("astray"));
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    daemon.delivers(&reference, &guest.bundle("warm")).await;
    let root = guest.path().display().to_string();
    symlink("/tmp", guest.bundle("link")).unwrap();
    symlink(guest.path().join("elsewhere"), guest.bundle("dangling")).unwrap();
    std::fs::write(guest.bundle("file"), "x").unwrap();
    let before = guest.residue();
    for path in [
        String::new(),
        "relative/path".to_owned(),
        "bundles/../bundles/c1".to_owned(),
        "/".to_owned(),
        format!("{root}/bundles/../c1"),
        format!("{root}/bundles/./c1"),
        format!("{root}/bundles/link"),
        format!("{root}/bundles/link/c1"),
        format!("{root}/bundles/dangling"),
        format!("{root}/bundles/file"),
        format!("{root}/bundles/file/c1"),
        format!("{root}/work"),
        format!("{root}/work/c1"),
        format!("{root}/work/layers/c1"),
        root.clone(),
        format!("{root}/bundles/a\0b"),
        format!("/{}", "a/".repeat(3000)),
    ] {
        let case: String = path.chars().take(100).collect();
        match daemon.client().pull(&reference, &path).await {
            Err(CallError::Refused(refusal)) => {
                assert_eq!(refusal.code, Code::INVALID_ARGUMENT, "{case}: {refusal:?}");
                assert_says(&case, &refusal.message, &[FAILED]);
            }
            other => panic!("{case}: {other:?}\n{}", daemon.log()),
        }
        guest.assert_residue(&before, &case).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_exists_is_left_alone() {
    let registry = Hostile::start().await;
    let reference = registry.push("app:1", &Image::small("first"));
    let other = registry.push("other:1", &Image::small("second"));
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    let config = std::fs::read(guest.bundle("c1").join("config.json")).unwrap();

    let made = |name: &str, what: &str| {
        let bundle = guest.bundle(name);
        std::fs::create_dir(&bundle).unwrap();
        match what {
            "config" => std::fs::write(bundle.join("config.json"), "precious").unwrap(),
            "config link" => symlink("/etc/passwd", bundle.join("config.json")).unwrap(),
            "file" => std::fs::write(bundle.join("rootfs"), "precious").unwrap(),
            "link" => symlink("/tmp", bundle.join("rootfs")).unwrap(),
            _ => {
                std::fs::create_dir(bundle.join("rootfs")).unwrap();
                std::fs::write(bundle.join("rootfs/precious"), "precious").unwrap();
            }
        }
    };
    for (name, what) in [
        ("c2", "config"),
        ("c3", "config link"),
        ("c4", "file"),
        ("c5", "link"),
        ("c6", "tree"),
    ] {
        made(name, what);
    }
    let passwd = std::fs::read("/etc/passwd").unwrap();
    for name in ["c1", "c2", "c3", "c4", "c5", "c6"] {
        let tree = || {
            run(std::process::Command::new("ls")
                .arg("-laR")
                .arg(guest.bundle(name)))
            .stdout
        };
        let (before, listing) = (guest.residue_beside_layers(), tree());
        let refusal = daemon.refuses(&other, &guest.bundle(name)).await;
        // A root file system that is no directory is the path's fault as well.
        let codes = [Code::ALREADY_EXISTS, Code::INVALID_ARGUMENT];
        let codes = if name == "c4" || name == "c5" {
            &codes[..]
        } else {
            &codes[..1]
        };
        assert!(codes.contains(&refusal.code), "{name}: {refusal:?}");
        assert_says(name, &refusal.message, &[FAILED]);
        assert_eq!(guest.residue_beside_layers(), before, "{name}");
        assert_eq!(tree(), listing, "{name}");
    }
    assert_eq!(content(&guest.bundle("c1"), "etc/mark"), "first");
    assert_eq!(
        std::fs::read(guest.bundle("c1").join("config.json")).unwrap(),
        config
    );
    assert_eq!(std::fs::read("/etc/passwd").unwrap(), passwd);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_directory_made_by_the_caller_is_used() {
    let registry = Hostile::start().await;
    let reference = registry.push("app:1", &Image::small("empty"));
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    std::fs::create_dir(guest.bundle("c1")).unwrap();
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    daemon
        .delivers(&reference, &guest.path().join("bundles/deep/er/c2"))
        .await;
}

fn users() -> Archive {
    Archive::new()
        .directory("etc/")
        .file(
            "etc/passwd",
            "root:x:0:0::/:/bin/sh\nweb:x:33:44:w:/srv:/bin/sh\n",
        )
        .file(
            "etc/group",
            "root:x:0:\nwww:x:44:\nextra:x:55:web\nmore:x:66:other,web\n",
        )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_config_becomes_the_runtime_config() {
    let registry = Hostile::start().await;
    let image = Image::of([Layer::gzip(users())])
        .config(|config| {
            config["config"] = json!({
                "User": "web",
                "Env": ["PATH=/bin", "A=1"],
                "Entrypoint": ["/bin/entry", "-x"],
                "Cmd": ["arg"],
                "WorkingDir": "/srv",
                "Volumes": {"/data": {}},
                "Labels": {"org.example.label": "value"},
                "StopSignal": "SIGUSR1",
            });
        })
        .build();
    let reference = registry.push("app:1", &image);
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    let text = std::fs::read_to_string(guest.bundle("c1").join("config.json")).unwrap();
    let spec: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(spec["process"]["args"], json!(["/bin/entry", "-x", "arg"]));
    assert_eq!(spec["process"]["cwd"], json!("/srv"));
    let environment = spec["process"]["env"].as_array().unwrap();
    assert!(environment.contains(&json!("A=1")) && environment.contains(&json!("PATH=/bin")));
    assert_eq!(spec["process"]["user"]["uid"], json!(33));
    assert_eq!(spec["process"]["user"]["gid"], json!(44));
    let mut groups: Vec<_> = spec["process"]["user"]["additionalGids"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_u64)
        .collect();
    groups.retain(|group| *group != 44);
    assert_eq!(groups, [55, 66]);
    let mounts = spec["mounts"].as_array().unwrap();
    assert!(
        mounts.iter().any(|mount| mount["destination"] == "/data"),
        "{mounts:?}"
    );
    assert_eq!(spec["annotations"]["org.example.label"], json!("value"));
    assert_eq!(
        spec["annotations"]["org.opencontainers.image.stopSignal"],
        json!("SIGUSR1")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_resolved_in_the_image_and_never_outside() {
    let registry = Hostile::start().await;
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    let outside = guest.path().join("tmp/passwd");
    std::fs::write(&outside, "stranger:x:7:7::/:/bin/sh\n").unwrap();
    let linked = || {
        Archive::new()
            .directory("etc/")
            .symlink("etc/passwd", outside.to_str().unwrap())
    };
    let pipe = || {
        Archive::new()
            .directory("etc/")
            .entry(&Entry::new("etc/passwd", tar::EntryType::Fifo))
    };
    for (number, (user, archive, expected)) in [
        ("", users(), Some((0, 0))),
        ("web", users(), Some((33, 44))),
        ("33", users(), Some((33, 44))),
        ("web:www", users(), Some((33, 44))),
        ("web:55", users(), Some((33, 55))),
        ("1234:5678", Archive::new(), Some((1234, 5678))),
        ("nobody-knows", users(), None),
        ("web:nogroup", users(), None),
        ("4294967296", users(), None),
        ("-1", users(), None),
        ("stranger", linked(), None),
        ("stranger", pipe(), None),
    ]
    .into_iter()
    .enumerate()
    {
        let archive = archive.file("number", number.to_string());
        let image = Image::of([Layer::gzip(archive)])
            .config(|config| config["config"]["User"] = user.into())
            .build();
        let reference = registry.push(&format!("app{number}:1"), &image);
        let bundle = guest.bundle(&format!("c{number}"));
        if let Some((uid, gid)) = expected {
            daemon.delivers(&reference, &bundle).await;
            let text = std::fs::read_to_string(bundle.join("config.json")).unwrap();
            let spec: Value = serde_json::from_str(&text).unwrap();
            let found = &spec["process"]["user"];
            assert_eq!(
                (&found["uid"], &found["gid"]),
                (&json!(uid), &json!(gid)),
                "{user:?}"
            );
        } else {
            let before = guest.residue_beside_layers();
            let refusal = daemon.refuses(&reference, &bundle).await;
            assert_says(user, &refusal.message, &[FAILED, "user"]);
            assert_eq!(guest.residue_beside_layers(), before, "{user}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_layers_are_mounted_in_order() {
    let registry = Hostile::start().await;
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    let layer = |number: usize| {
        let archive = Archive::new().file("last", format!("{number}"));
        Layer::gzip(archive.file(format!("file{number}"), format!("content {number}")))
    };
    for count in [499, 500] {
        // The uppermost is one that lies further below, too.
        let repeated = count / 2;
        let mut layers: Vec<_> = (0..count - 1).map(layer).collect();
        layers.push(layer(repeated));
        let reference = registry.push(&format!("app{count}:1"), &Image::of(layers).build());
        let bundle = guest.bundle(&format!("c{count}"));
        daemon.delivers(&reference, &bundle).await;
        assert_eq!(content(&bundle, "last"), repeated.to_string());
        for number in 0..count - 1 {
            let found = content(&bundle, &format!("file{number}"));
            assert_eq!(found, format!("content {number}"));
        }
        let names = std::fs::read_dir(bundle.join("rootfs")).unwrap();
        assert_eq!(names.count(), count, "one file each, and the one of all");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_occurs_twice_counts_twice() {
    let registry = Hostile::start().await;
    let first = Layer::gzip(Archive::new().file("a", "first").file("only", ""));
    let second = Layer::gzip(Archive::new().file("a", "second").file(".wh.only", ""));
    let image = Image::of([first.clone(), second, first]).build();
    let reference = registry.push("app:1", &image);
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    assert_eq!(content(&guest.bundle("c1"), "a"), "first");
    assert!(guest.bundle("c1").join("rootfs/only").exists());
}

/// A guest whose work directory is a file system of this size.
fn small_guest(registry: &Hostile, options: &str) -> Guest {
    let guest = trusting_guest(&registry.host());
    std::fs::create_dir(guest.work()).unwrap();
    mount_memory(&guest.work(), options);
    guest
}

fn mount_memory(at: &Path, options: &str) {
    run(std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", options, "image-agent-e2e"])
        .arg(at));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_nothing_is_left() {
    let registry = Hostile::start().await;
    let noise: Vec<u8> = (0..2_000_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let mut files = Archive::new();
    for number in 0..500 {
        files = files.file(format!("file{number}"), "");
    }
    let noise = Archive::new().file("noise", &noise);
    for (case, options, archive, words) in [
        (
            "no space",
            "size=4m",
            noise,
            ["needs about", "4.0 MiB free"],
        ),
        (
            "no inodes",
            "size=4m,nr_inodes=200",
            files,
            ["needs more than the ", " inodes that were free"],
        ),
    ] {
        let guest = small_guest(&registry, options);
        let daemon = guest.start().await;
        let before = guest.residue();
        let reference = registry.push("big:1", &image_of(archive));
        let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
        assert_eq!(
            refusal.code,
            Code::RESOURCE_EXHAUSTED,
            "{case}: {refusal:?}"
        );
        assert_says(case, &refusal.message, &[FAILED, "full", "(tmpfs)"]);
        assert_says(case, &refusal.message, &words);
        guest.assert_residue(&before, case).await;
        let small = registry.push("small:1", &Image::small("fits"));
        daemon.delivers(&small, &guest.bundle("c1")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_mounted_over_the_work_directory_is_used_from_then_on() {
    let registry = Hostile::start().await;
    let reference = registry.push("app:1", &Image::small("over"));
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    mount_memory(&guest.work(), "size=16m");
    daemon.delivers(&reference, &guest.bundle("c2")).await;
    assert_eq!(content(&guest.bundle("c1"), "etc/mark"), "over");
    assert_eq!(content(&guest.bundle("c2"), "etc/mark"), "over");
    assert!(
        guest
            .work()
            .join("layers")
            .read_dir()
            .unwrap()
            .next()
            .is_some()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_container_wrote_goes_with_it_at_the_next_pull() {
    let registry = Hostile::start().await;
    let reference = registry.push("app:1", &Image::small("again"));
    let guest = small_guest(&registry, "size=8m");
    let daemon = guest.start().await;
    daemon.delivers(&reference, &guest.bundle("stays")).await;
    // Far from full, so that nothing but the next pull makes room.
    for number in 0..10 {
        let rootfs = guest.bundle(&format!("c{number}")).join("rootfs");
        daemon.delivers(&reference, rootfs.parent().unwrap()).await;
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::fs::write(rootfs.join("log"), vec![1; 2_000_000]).is_err() {
            assert!(Instant::now() < deadline, "{number}: full of what is gone");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        unmount(&rootfs, UnmountFlags::DETACH).unwrap();
    }
    assert_eq!(content(&guest.bundle("stays"), "etc/mark"), "again");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_overlay_can_be_mounted_a_copy_is_delivered_if_that_is_configured() {
    let registry = Hostile::start().await;
    // The topmost leads through a link of another one, so that it is unpacked onto the two.
    let layers = [
        Archive::new().file("name", "lower").file("lower", ""),
        Archive::new()
            .file("name", "upper")
            .directory("real/")
            .symlink("link", "real"),
        Archive::new().file("link/inside", "topmost"),
    ]
    .map(Layer::gzip);
    let reference = registry.push("app:1", &Image::of(layers).build());
    let mut guest = trusting_guest(&registry.host());
    // No overlay can be mounted of what is on one that has another below it.
    let inside = |name: &str| guest.path().join("tmp").join(name).display().to_string();
    for name in ["a", "b", "lower", "upper", "work"] {
        std::fs::create_dir(inside(name)).unwrap();
    }
    std::fs::create_dir(guest.work()).unwrap();
    let mount = |options: String, place: &Path| {
        run(std::process::Command::new("mount")
            .args(["-t", "overlay", "-o", &options, "image-agent-e2e"])
            .arg(place))
    };
    let (a, b, lower) = (inside("a"), inside("b"), inside("lower"));
    mount(format!("lowerdir={a}:{b}"), Path::new(&lower));
    let (upper, work) = (inside("upper"), inside("work"));
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    mount(options, &guest.work());
    let with = |settings: &kit::settings::Settings, key: &str| settings.clone().with(key, true);
    guest.settings = with(&guest.settings, "image_agent.danger_host_writable_store");
    let mut daemon = guest.start().await;
    let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
    assert_says("refused", &refusal.message, &["mount failed", "3 layers"]);
    daemon.terminate();

    guest.settings = with(&guest.settings, "image_agent.store.copy_without_overlay");
    let mut daemon = guest.start().await;
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    daemon.delivers(&reference, &guest.bundle("c2")).await;
    let rootfs = guest.bundle("c1").join("rootfs");
    std::fs::write(rootfs.join("name"), "changed").unwrap();
    daemon.kill();
    let daemon = guest.start().await;
    daemon.delivers(&reference, &guest.bundle("c3")).await;
    for (name, expected) in [("c1", "changed"), ("c2", "upper"), ("c3", "upper")] {
        assert_eq!(content(&guest.bundle(name), "name"), expected);
        assert_eq!(content(&guest.bundle(name), "real/inside"), "topmost");
        assert!(guest.bundle(name).join("rootfs/lower").exists());
    }
    unmount(&rootfs, UnmountFlags::DETACH).unwrap();
    daemon.delivers(&reference, &guest.bundle("c4")).await;
    let kept = || {
        std::fs::read_dir(guest.work().join("overlay"))
            .unwrap()
            .count()
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while kept() > 3 {
        assert!(Instant::now() < deadline, "the copy that is gone stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_fails_is_told_and_nothing_is_left() {
    let registry = Hostile::start().await;
    let reference = registry.push("app:1", &Image::small("unmountable"));
    let guest = trusting_guest(&registry.host());
    // ramfs has no extended attributes, which the writable part of an overlay needs.
    std::fs::create_dir(guest.work()).unwrap();
    run(std::process::Command::new("mount")
        .args(["-t", "ramfs", "image-agent-e2e"])
        .arg(guest.work()));
    let daemon = guest.start().await;
    let before = guest.residue();
    match daemon.pull(&reference, &guest.bundle("c1")).await {
        Err(CallError::Refused(refusal)) => {
            assert_says("ramfs", &refusal.message, &[FAILED]);
            assert_eq!(refusal.code, Code::INTERNAL, "{refusal:?}");
            let beside: std::collections::BTreeSet<_> = before
                .into_iter()
                .filter(|path| !kit::guest::is_of_layers(path))
                .collect();
            assert_eq!(guest.residue_beside_layers(), beside);
        }
        other => panic!("{other:?}\n{}", daemon.log()),
    }
}
