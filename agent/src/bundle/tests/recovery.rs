use super::*;

/// Where a process may be killed. Whatever it holds is closed without being cleaned up.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Killed {
    BeforeRecord,
    AfterRecord,
    AfterDirectories,
    WhileMountingByOptions,
    AfterEmptyConfig,
    AfterConfig,
    AfterAttach,
}

fn kill(scene: &Scene, name: &str, at: Killed) {
    let path = BundlePath::parse(&scene.bundle(name), &scene.fixture.work_dir()).unwrap();
    if at == Killed::BeforeRecord {
        std::fs::create_dir(scene.fixture.work_dir().join("overlay/0123")).unwrap();
        return;
    }
    if at == Killed::AfterAttach {
        let Bundle {
            mounted,
            place,
            overlay,
            record,
        } = scene.assemble(&small(), name).unwrap();
        assert_eq!(record.progress, Progress::Assembling);
        mounted.keep();
        place.keep();
        overlay.keep();
        return;
    }
    let walk = path.walk(scene.store.root()).unwrap();
    let mut record = scene.store.new_record().unwrap();
    record.bundle = path.as_path().to_owned();
    record.made = walk.to_make();
    let overlay = OverlayDirectory::create(&scene.store, &record).unwrap();
    if at != Killed::AfterRecord {
        let mut place = Place::make(&path, walk).unwrap();
        match at {
            Killed::WhileMountingByOptions => mount_scratch(scene, &overlay),
            Killed::AfterEmptyConfig => place.write_config(b"", |_unrecorded| Ok(())).unwrap(),
            Killed::AfterConfig => {
                let claim = |config| {
                    record.config = Some(config);
                    overlay.write(&record).map_err(store_error)
                };
                place.write_config(b"{}", claim).unwrap();
            }
            _ => {}
        }
        place.keep();
    }
    overlay.keep();
}

fn mount_scratch(scene: &Scene, overlay: &OverlayDirectory) {
    for part in [UPPER, "work", SCRATCH, EMPTY] {
        overlay.directory(part).unwrap();
    }
    let base = scene
        .fixture
        .work_dir()
        .join("overlay")
        .join(&scene.fixture.list("overlay")[0]);
    let options = format!("lowerdir={}", base.join(EMPTY).display());
    let options = options + &format!(",upperdir={0}/{UPPER},workdir={0}/work", base.display());
    let options = std::ffi::CString::new(options).unwrap();
    let source = overlay.mount_source();
    let flags = MountFlags::empty();
    mount_old(
        source,
        base.join(SCRATCH),
        "overlay",
        flags,
        options.as_c_str(),
    )
    .unwrap();
    assert_eq!(scene.fixture.mounts().len(), 1);
}

const KILLED: [Killed; 7] = [
    Killed::BeforeRecord,
    Killed::AfterRecord,
    Killed::AfterDirectories,
    Killed::WhileMountingByOptions,
    Killed::AfterEmptyConfig,
    Killed::AfterConfig,
    Killed::AfterAttach,
];

#[test]
fn whatever_a_killed_process_leaves_is_removed() {
    for at in KILLED {
        let scene = Scene::new();
        kill(&scene, "made/bundle", at);
        let expected = match at {
            Killed::BeforeRecord => Recovered {
                bundles_reclaimed: 1,
                ..Recovered::default()
            },
            _ => Recovered {
                half_made_removed: 1,
                ..Recovered::default()
            },
        };
        assert_eq!(scene.fixture.store().recover().unwrap(), expected, "{at:?}");
        scene.assert_nothing_left(&format!("{at:?}"));
        assert_eq!(list(&scene.bundle(".")), ["work"], "{at:?}");
        // And the path is free again.
        scene.deliver(&small(), "made/bundle");
    }
}

#[test]
fn what_stood_at_the_path_before_survives_the_removal() {
    for at in KILLED {
        let scene = Scene::new();
        std::fs::create_dir_all(scene.bundle("theirs/bundle/rootfs")).unwrap();
        kill(&scene, "theirs/bundle", at);
        scene.fixture.store().recover().unwrap();
        scene.assert_nothing_left(&format!("{at:?}"));
        assert_eq!(list(&scene.bundle("theirs/bundle")), [ROOTFS], "{at:?}");
    }
}

#[test]
fn a_bundle_made_since_at_the_same_path_survives_the_removal() {
    for at in [Killed::AfterRecord, Killed::AfterDirectories] {
        let scene = Scene::new();
        kill(&scene, "bundle", at);
        let path = scene.deliver(&small(), "bundle");
        let expected = Recovered {
            half_made_removed: 1,
            bundles_kept: 1,
            ..Recovered::default()
        };
        assert_eq!(scene.fixture.store().recover().unwrap(), expected, "{at:?}");
        assert_eq!(read(&path, "bin/su"), "bin/su");
        assert_eq!(list(&path), [CONFIG, ROOTFS], "{at:?}");
    }
}

#[test]
fn what_is_being_made_by_another_process_is_left_alone() {
    let scene = Scene::new();
    let bundle = scene.assemble(&small(), "bundle").unwrap();
    assert_eq!(
        scene.fixture.store().recover().unwrap(),
        Recovered::default()
    );
    bundle.deliver().unwrap();
    assert_eq!(read(&scene.bundle("bundle"), "bin/su"), "bin/su");
}

#[test]
fn a_delivered_bundle_is_kept_until_it_is_unmounted() {
    let scene = Scene::new();
    let path = scene.deliver(&small(), "bundle");
    std::fs::write(path.join(ROOTFS).join("written"), "by the container").unwrap();
    let kept = Recovered {
        bundles_kept: 1,
        ..Recovered::default()
    };
    for _ in 0..2 {
        assert_eq!(scene.fixture.store().recover().unwrap(), kept);
        assert_eq!(read(&path, "written"), "by the container");
    }
    unmount(path.join(ROOTFS), UnmountFlags::NOFOLLOW).unwrap();
    let reclaimed = Recovered {
        bundles_reclaimed: 1,
        ..Recovered::default()
    };
    assert_eq!(scene.fixture.store().recover().unwrap(), reclaimed);
    scene.assert_nothing_left("unmounted");
    assert_eq!(scene.fixture.list("layers").len(), 2);
    // The directory is the runtime's to remove.
    assert_eq!(list(&path), [CONFIG, ROOTFS]);
}

#[test]
fn records_of_other_places_and_versions_take_nothing_down() {
    let scene = Scene::new();
    let path = scene.deliver(&small(), "bundle");
    let record = scene
        .fixture
        .work_dir()
        .join("overlay")
        .join(&scene.fixture.list("overlay")[0]);
    let record = record.join("record.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    let kept = Recovered {
        bundles_kept: 1,
        ..Recovered::default()
    };

    std::fs::write(&record, r#"{"version":2,"progress":"delivered"}"#).unwrap();
    assert_eq!(scene.fixture.store().recover().unwrap(), kept);

    json["mount_namespace"] = 1.into();
    std::fs::write(&record, json.to_string()).unwrap();
    unmount(path.join(ROOTFS), UnmountFlags::NOFOLLOW).unwrap();
    assert_eq!(
        scene.fixture.store().recover().unwrap(),
        kept,
        "mounted elsewhere, perhaps"
    );

    json["boot_id"] = "earlier".into();
    std::fs::write(&record, json.to_string()).unwrap();
    let reclaimed = Recovered {
        bundles_reclaimed: 1,
        ..Recovered::default()
    };
    assert_eq!(scene.fixture.store().recover().unwrap(), reclaimed);
}

#[test]
fn a_mount_that_nothing_proves_delivered_is_not_kept_for_ever() {
    type Spoil = fn(&Path);
    let rows: [(&str, Spoil); 4] = [
        ("no record", |record| std::fs::remove_file(record).unwrap()),
        ("cut off", |record| {
            std::fs::write(record, r#"{"progress":"delivered""#).unwrap();
        }),
        ("unknown", |record| {
            std::fs::write(record, r#"{"version":2}"#).unwrap();
        }),
        ("unknown, half-made", |record| {
            std::fs::write(record, r#"{"version":2,"progress":"assembling"}"#).unwrap();
        }),
    ];
    for (name, spoil) in rows {
        let scene = Scene::new();
        kill(&scene, "bundle", Killed::AfterAttach);
        let id = &scene.fixture.list("overlay")[0];
        spoil(
            &scene
                .fixture
                .work_dir()
                .join("overlay")
                .join(id)
                .join("record.json"),
        );
        let expected = Recovered {
            half_made_removed: 1,
            ..Recovered::default()
        };
        assert_eq!(scene.fixture.store().recover().unwrap(), expected, "{name}");
        scene.assert_nothing_left(name);
    }
}

#[test]
fn bundles_in_use_cost_one_reading_of_the_mounts() {
    let scene = Scene::new();
    for index in 0..5 {
        scene.deliver(&small(), &format!("kept{index}"));
    }
    let gone = scene.deliver(&small(), "gone").join(ROOTFS);
    unmount(gone, UnmountFlags::NOFOLLOW).unwrap();
    kill(&scene, "killed", Killed::AfterAttach);
    let readings = std::cell::Cell::new(0);
    let read_mounts = || {
        readings.set(readings.get() + 1);
        crate::mountinfo::read()
    };
    let expected = Recovered {
        bundles_kept: 5,
        bundles_reclaimed: 1,
        half_made_removed: 1,
        ..Recovered::default()
    };
    assert_eq!(scene.store.recover_with(&read_mounts).unwrap(), expected);
    // One for all, and one under the lock of each that is removed.
    assert_eq!(readings.get(), 3);
}

#[test]
fn a_bundle_delivered_while_the_clean_up_runs_is_kept() {
    let scene = Scene::new();
    let path = scene.deliver(&small(), "bundle");
    // The first reading was before the delivery.
    let is_first = std::cell::Cell::new(true);
    let read_mounts = || {
        if is_first.replace(false) {
            return Ok(Vec::new());
        }
        crate::mountinfo::read()
    };
    let kept = Recovered {
        bundles_kept: 1,
        ..Recovered::default()
    };
    assert_eq!(scene.store.recover_with(&read_mounts).unwrap(), kept);
    assert_eq!(read(&path, "bin/su"), "bin/su");
}

#[test]
fn a_bundle_covered_by_another_mount_is_not_torn_out() {
    let scene = Scene::new();
    kill(&scene, "bundle", Killed::AfterAttach);
    let rootfs = scene.bundle("bundle/rootfs");
    mount_old("tmpfs", &rootfs, "tmpfs", MountFlags::empty(), None).unwrap();
    let failed = Recovered {
        failures: 1,
        ..Recovered::default()
    };
    assert_eq!(scene.fixture.store().recover().unwrap(), failed);
    assert_eq!(scene.fixture.mounts().len(), 1);
    unmount(&rootfs, UnmountFlags::NOFOLLOW).unwrap();
    assert_eq!(
        scene.fixture.store().recover().unwrap().half_made_removed,
        1
    );
    scene.assert_nothing_left("uncovered");
}
