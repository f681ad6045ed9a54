use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use serde_json::json;

use super::fixture::{Archive, Fixture, fetch_layer, file, image, layer, list};
use super::*;

fn one_layer(tar: &[u8]) -> Approved<Layer> {
    image(&[tar.to_vec()], &json!({})).layers().next().unwrap()
}

#[test]
fn the_work_directory_is_made_for_its_owner_alone() {
    let fixture = Fixture::new();
    fixture.store();
    fixture.store();
    assert_eq!(
        list(&fixture.work_dir()),
        ["documents", "layers", "overlay", "records", "staging"]
    );
    for path in [fixture.work_dir(), fixture.work_dir().join("layers")] {
        assert_eq!(
            path.metadata().unwrap().permissions().mode() & 0o7777,
            0o700
        );
    }
}

#[test]
fn a_layer_is_visible_only_when_published_and_is_then_shared() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let tar = layer(&[("./", 0o750), ("a", 0o4755)]);
    let approved = one_layer(&tar);
    assert_eq!(store.layer(&approved, None).unwrap(), None);

    let staging = store.stage().unwrap();
    let unpacked = rootfs::unpack(
        &approved,
        tar.as_slice(),
        &staging,
        &rootfs::Budget::new(rootfs::Limits::default()),
        &rootfs::Cancel::new(),
    )
    .unwrap();
    assert_eq!(store.layer(&approved, None).unwrap(), None);
    let stored = store
        .publish(&approved, None, staging, unpacked, false)
        .unwrap();
    assert!(stored.has_root_entry());
    assert_eq!(fixture.list("staging"), [""; 0]);

    // Another process, another image with the same layer.
    assert_eq!(
        fixture.store().layer(&one_layer(&tar), None).unwrap(),
        Some(stored.clone())
    );
    let root = fixture
        .work_dir()
        .join("layers")
        .join(stored.key())
        .metadata()
        .unwrap();
    assert_eq!(
        (root.mode() & 0o7777, root.uid(), root.gid()),
        (0o750, 7, 8)
    );
}

#[test]
fn publishing_twice_keeps_the_first_tree() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let tar = file("a", "text");
    let approved = one_layer(&tar);
    let unpack = || {
        let staging = store.stage().unwrap();
        let budget = rootfs::Budget::new(rootfs::Limits::default());
        let cancel = rootfs::Cancel::new();
        let unpacked =
            rootfs::unpack(&approved, tar.as_slice(), &staging, &budget, &cancel).unwrap();
        (staging, unpacked)
    };
    let ((staging, unpacked), (late_staging, late)) = (unpack(), unpack());
    let stored = store
        .publish(&approved, None, staging, unpacked, false)
        .unwrap();
    assert!(!stored.has_root_entry());
    let path = fixture.work_dir().join("layers").join(stored.key());
    let inode = path.metadata().unwrap().ino();
    assert_eq!(
        store
            .publish(&approved, None, late_staging, late, true)
            .unwrap(),
        stored
    );
    assert_eq!(path.metadata().unwrap().ino(), inode);
    assert_eq!(fixture.list("staging"), [""; 0]);
    assert_eq!(fixture.list("layers").len(), 1);
}

#[test]
fn the_same_content_from_another_blob_is_another_layer() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let tar = file("a", "text");
    fetch_layer(&store, &one_layer(&tar), &tar);
    let record = |blob: &str, diff_id: &str| LayerRecord {
        blob: blob.to_owned(),
        diff_id: diff_id.to_owned(),
        ..LayerRecord::expected(&store, &one_layer(&tar), None)
    };
    let keys = [
        record("sha256:1", "sha256:2"),
        record("sha256:1", "sha256:3"),
    ];
    let other = record("sha256:3", "sha256:2");
    assert_ne!(keys[0].key(), keys[1].key());
    assert_ne!(keys[0].key(), other.key());
}

#[test]
fn a_tree_that_nothing_proves_is_dropped_and_not_believed() {
    type Spoil = fn(&Path);
    let rows: [(&str, Spoil); 4] = [
        ("no record", |record| std::fs::remove_file(record).unwrap()),
        ("no JSON", |record| std::fs::write(record, "{").unwrap()),
        ("another layer's record", |record| {
            replace(record, "diff_id", "sha256:0");
        }),
        ("an earlier boot's record", |record| {
            replace(record, "epoch", "earlier");
        }),
    ];
    let tar = file("a", "text");
    for recover in [false, true] {
        for (name, spoil) in &rows {
            let fixture = Fixture::new();
            let store = fixture.store();
            let approved = one_layer(&tar);
            let stored = fetch_layer(&store, &approved, &tar);
            spoil(
                &fixture
                    .work_dir()
                    .join("records")
                    .join(record_name(stored.key())),
            );
            if recover {
                let expected = Recovered {
                    layers_removed: 1,
                    ..Recovered::default()
                };
                assert_eq!(store.recover().unwrap(), expected, "{name}");
            }
            assert_eq!(store.layer(&approved, None).unwrap(), None, "{name}");
            assert_eq!(fixture.list("layers"), [""; 0], "{name}");
            assert_eq!(fixture.list("records"), [""; 0], "{name}");
            assert_eq!(fetch_layer(&store, &approved, &tar), stored, "{name}");
        }
    }
}

fn replace(record: &Path, key: &str, value: &str) {
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
    json[key] = value.into();
    std::fs::write(record, json.to_string()).unwrap();
}

/// Whoever removes a tree may be killed half way, and the process that has proved it may live on.
#[test]
fn a_tree_that_is_removed_in_part_is_proved_to_nobody() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let tar = layer(&[("a/", 0o755), ("b", 0o644)]);
    let approved = one_layer(&tar);
    let key = fetch_layer(&store, &approved, &tar).key().to_owned();
    let record = fixture.work_dir().join("records").join(record_name(&key));
    // As another process sees it, where the host can write.
    replace(&record, "epoch", "another process's");
    let tree = fixture.work_dir().join("layers").join(&key);
    rustix::mount::mount_bind(fixture.work_dir().join("staging"), tree.join("a")).unwrap();
    assert_eq!(store.recover().unwrap().failures, 1);
    assert!(tree.exists());
    assert_eq!(fixture.list("records"), [""; 0]);
}

#[test]
fn recovery_leaves_what_is_proved_and_what_is_alive() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let tar = file("a", "text");
    let approved = one_layer(&tar);
    fetch_layer(&store, &approved, &tar);
    let alive = store.stage().unwrap();
    std::fs::create_dir_all(fixture.work_dir().join("staging/staging-1-1/deep")).unwrap();
    std::fs::write(fixture.work_dir().join("records/.x.json.1.1"), "half").unwrap();
    std::fs::write(fixture.work_dir().join("records/gone.json"), "{}").unwrap();
    let expected = Recovered {
        staging_removed: 1,
        ..Recovered::default()
    };
    assert_eq!(fixture.store().recover().unwrap(), expected);
    assert_eq!(fixture.list("staging").len(), 1);
    assert_eq!(fixture.list("records").len(), 1);
    assert!(store.layer(&approved, None).unwrap().is_some());
    drop(alive);
    assert_eq!(fixture.list("staging"), [""; 0]);
}

#[test]
fn recovery_does_not_wait_for_whoever_publishes() {
    let fixture = Fixture::new();
    let store = fixture.store();
    std::fs::create_dir(fixture.work_dir().join("layers/unproved")).unwrap();
    let publishing = store.lock(FlockOperation::LockShared).unwrap();
    assert_eq!(store.recover().unwrap(), Recovered::default());
    drop(publishing);
    assert_eq!(store.recover().unwrap().layers_removed, 1);
}

#[test]
fn a_full_disk_is_told_apart() {
    let fixture = Fixture::with_disk("size=64k");
    let store = fixture.store();
    let tar = file("a", "text");
    let approved = one_layer(&tar);
    let staging = store.stage().unwrap();
    let budget = rootfs::Budget::new(rootfs::Limits::default());
    let cancel = rootfs::Cancel::new();
    let unpacked = rootfs::unpack(&approved, tar.as_slice(), &staging, &budget, &cancel).unwrap();
    let key = store.key_of(&approved, None);
    let filler = fixture.work_dir().join("filler");
    let full = std::fs::write(&filler, vec![1; 1 << 20]).unwrap_err();
    assert_eq!(Errno::from_io_error(&full), Some(Errno::NOSPC));
    let error = store
        .publish(&approved, None, staging, unpacked, false)
        .unwrap_err();
    let is_full =
        matches!(&error, StoreError::DiskFull { path } if path.ends_with(record_name(&key)));
    assert!(is_full, "{error:?}");
    assert_eq!(fixture.list("layers"), [""; 0]);
    assert_eq!(fixture.list("staging"), [""; 0]);
    assert_eq!(fixture.list("records"), [""; 0]);
}

#[test]
fn what_cannot_be_set_on_the_root_is_no_fault_of_the_store() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let tar = Archive::default()
        .extended("SCHILY.xattr.security.capability", "none")
        .entry(b"./", 0o755)
        .end();
    let approved = one_layer(&tar);
    let staging = store.stage().unwrap();
    let budget = rootfs::Budget::new(rootfs::Limits::default());
    let cancel = rootfs::Cancel::new();
    let unpacked = rootfs::unpack(&approved, tar.as_slice(), &staging, &budget, &cancel).unwrap();
    let error = store
        .publish(&approved, None, staging, unpacked, false)
        .unwrap_err();
    assert!(matches!(error, StoreError::Root(_)), "{error:?}");
    assert_eq!(fixture.list("staging"), [""; 0]);
    assert_eq!(fixture.list("layers"), [""; 0]);
}

#[test]
fn a_record_that_could_not_be_read_back_is_refused_before_it_is_written() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let mut record = store.new_record().unwrap();
    record.decision = "x".repeat(MAX_RECORD).into();
    let error = OverlayDirectory::create(&store, &record).unwrap_err();
    assert!(
        matches!(&error, StoreError::RecordTooLong { path, length, maximum: MAX_RECORD }
            if path.ends_with("record.json") && *length > MAX_RECORD),
        "{error:?}"
    );
    assert_eq!(fixture.list("overlay"), [""; 0]);

    let names: Vec<_> = (0..5000)
        .map(|index| format!("{}/{index}", "d".repeat(4000)))
        .collect();
    let implied = Implied::try_from(names).unwrap();
    let record = LayerRecord {
        implied,
        ..LayerRecord::expected(&store, &one_layer(&file("a", "a")), None)
    };
    let error = to_json(&record, Path::new("layer.json")).unwrap_err();
    assert!(
        matches!(&error, StoreError::RecordTooLong { length, .. } if *length > 20_000_000),
        "{error:?}"
    );
}

#[test]
fn the_implied_directories_of_a_layer_are_known_to_the_next_process() {
    let fixture = Fixture::new();
    let tar = Archive::default()
        .entry(b"given/", 0o700)
        .entry(b"given/in\xff%/x", 0o600)
        .end();
    let stored = fetch_layer(&fixture.store(), &one_layer(&tar), &tar);
    let found = fixture
        .store()
        .layer(&one_layer(&tar), None)
        .unwrap()
        .unwrap();
    assert_eq!(found, stored);
    let implied: Vec<_> = found.implied().paths().collect();
    assert_eq!(implied, [&b""[..], b"given/in\xff%"]);
    assert!(!found.has_root_entry());
}
