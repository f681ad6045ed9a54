use std::collections::BTreeMap;

use super::*;
use crate::store::fixture::Archive;

/// Everything below `path`: type and mode, owner, time, and what it holds or leads to.
type Shown = BTreeMap<PathBuf, (u32, u32, u32, i64, Vec<u8>)>;

fn shown(path: &Path) -> Shown {
    let mut found = BTreeMap::new();
    let mut pending = vec![path.to_owned()];
    while let Some(path_of_one) = pending.pop() {
        let stat = path_of_one.symlink_metadata().unwrap();
        let content = if stat.is_dir() {
            let entries = std::fs::read_dir(&path_of_one).unwrap();
            pending.extend(entries.map(|entry| entry.unwrap().path()));
            Vec::new()
        } else if stat.is_symlink() {
            let target = std::fs::read_link(&path_of_one).unwrap();
            target.into_os_string().into_encoded_bytes()
        } else if stat.is_file() {
            std::fs::read(&path_of_one).unwrap()
        } else {
            stat.rdev().to_string().into_bytes()
        };
        let name = path_of_one.strip_prefix(path).unwrap().to_owned();
        // A directory that no layer has an entry for is root's and was made just now.
        let is_ours = stat.is_dir() && stat.uid() == 0;
        let time = if is_ours { 0 } else { stat.mtime() };
        let one = (stat.mode(), stat.uid(), stat.gid(), time, content);
        found.insert(name, one);
    }
    found
}

/// Layers that replace, imply and repeat.
fn plain_layers() -> Vec<Vec<u8>> {
    let below = Archive::default()
        .entry(b"./", 0o711)
        .entry(b"private/", 0o2700)
        .entry(b"private/old", 0o4755)
        .entry(b"becomes-file/", 0o755)
        .entry(b"becomes-file/x", 0o644)
        .entry(b"becomes-directory", 0o644)
        .symlink("link", "private/old")
        .end();
    let middle = Archive::default()
        .entry(b"becomes-file", 0o640)
        .entry(b"becomes-directory/", 0o701)
        .entry(b"becomes-directory/x", 0o644)
        .entry(b"private/new", 0o600)
        .end();
    let above = layer(&[("private/newer", 0o644), ("becomes-directory/y", 0o600)]);
    vec![below.clone(), middle, above.clone(), below, above]
}

/// Layers that hide, empty and repeat.
fn hiding_layers() -> Vec<Vec<u8>> {
    let below = Archive::default()
        .entry(b"./", 0o711)
        .entry(b"private/", 0o700)
        .entry(b"private/old", 0o600)
        .entry(b"hidden/", 0o700)
        .entry(b"hidden/x", 0o755)
        .entry(b"emptied/", 0o750)
        .entry(b"emptied/below", 0o644)
        .end();
    let middle = Archive::default()
        .entry(b".wh.hidden", 0o644)
        .entry(b"emptied/.wh..wh..opq", 0o644)
        .entry(b"emptied/above", 0o644)
        .end();
    let above = layer(&[
        ("hidden/", 0o711),
        ("hidden/again", 0o644),
        ("private/.wh.old", 0o644),
    ]);
    vec![below.clone(), middle, above.clone(), below, above]
}

fn flattened(scene: &Scene, layers: &[StoredLayer], name: &str, content: Content) -> PathBuf {
    // Topmost first, as a stack has them.
    let layers = Layers {
        store: &scene.store,
        layers: layers.iter().rev().collect(),
    };
    let path = scene.fixture.work_dir().join(name);
    std::fs::create_dir(&path).unwrap();
    let directory = std::fs::File::open(&path).unwrap();
    layers.flatten(directory.as_fd(), &path, content).unwrap();
    path
}

#[test]
fn a_flat_directory_is_what_the_overlay_shows() {
    for all in [plain_layers(), hiding_layers()] {
        for count in 1..=all.len() {
            let scene = Scene::new();
            let tars = &all[..count];
            let mounted = scene.deliver(tars, "bundle").join(ROOTFS);
            let layers = fetch(&scene.store, &image(tars, &json!({})), tars);
            let expected = shown(&mounted);
            for (content, name) in [(Content::Linked, "linked"), (Content::Copied, "copied")] {
                let found = shown(&flattened(&scene, &layers, name, content));
                assert_eq!(found, expected, "{count} layers, {content:?}");
            }
        }
    }
}

#[test]
fn a_copy_is_of_files_of_its_own_with_their_links_holes_and_attributes() {
    let scene = Scene::new();
    let tars = [Archive::default()
        .extended("SCHILY.xattr.user.note", "kept")
        .entry(b"d/file", 0o4711)
        .end()];
    let layers = fetch(&scene.store, &image(&tars, &json!({})), &tars);
    let tree = scene
        .fixture
        .work_dir()
        .join("layers")
        .join(layers[0].key());
    std::fs::hard_link(tree.join("d/file"), tree.join("same")).unwrap();
    std::fs::File::create(tree.join("hole"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    let copy = flattened(&scene, &layers, "copy", Content::Copied);
    let of = |tree: &Path, name: &str| tree.join(name).metadata().unwrap();
    assert_eq!(of(&copy, "same").ino(), of(&copy, "d/file").ino());
    assert_eq!(of(&copy, "same").nlink(), 2);
    assert_ne!(of(&copy, "same").ino(), of(&tree, "same").ino());
    assert_eq!(
        (of(&copy, "hole").len(), of(&copy, "hole").blocks()),
        (1 << 40, 0)
    );
    let mut value = [0; 16];
    let file = std::fs::File::open(copy.join("same")).unwrap();
    let length = fgetxattr(&file, "user.note", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"kept");
    std::fs::write(copy.join("same"), "changed").unwrap();
    assert_eq!(std::fs::read(tree.join("same")).unwrap(), b"d/file");
}

/// More layers than the kernel takes one by one, so that it gets them as options, of which one page
/// holds fewer: what a kernel before 6.7 does with 300.
#[test]
fn layers_that_no_mount_takes_are_merged() {
    let scene = Scene::new();
    let tars: Vec<_> = (0..501)
        .map(|index: u32| {
            let archive = Archive::default()
                .entry(format!("file{index}").as_bytes(), 0o600 + (index & 7))
                .entry(b"all/last", 0o600 + (index & 7));
            let gone = index.checked_sub(100).map(|gone| format!(".wh.file{gone}"));
            match gone {
                Some(gone) if index.is_multiple_of(50) => archive.entry(gone.as_bytes(), 0).end(),
                _ => archive.end(),
            }
        })
        .collect();
    let (lower, upper) = tars.split_at(250);
    let of = |tars: &[Vec<u8>]| fetch(&scene.store, &image(tars, &json!({})), tars);
    let layers = [of(lower), of(upper)].concat();
    let view = View::of(&scene.store, &layers).unwrap();
    let id = &scene.fixture.list("overlay")[0];
    let parts = scene.fixture.work_dir().join("overlay").join(id);
    assert!(
        !parts.join(MERGED).join("file0").exists(),
        "hidden by layer 100"
    );
    assert!(parts.join(MERGED).join("file1").exists());
    let seen = PathBuf::from(crate::handle::descriptor_path(view.root().as_fd()));
    // A name for each layer and one for all, less the nine that are hidden.
    assert_eq!(list(&seen).len(), 502 - 9);
    let last = seen.join("all/last").metadata().unwrap();
    assert_eq!(last.mode() & 0o7777, 0o604);
    drop(view);
    scene.assert_nothing_left("dropped");
}

const COPYING: StoreSettings = StoreSettings {
    linger: std::time::Duration::ZERO,
    sync: false,
    volatile: false,
    copy_without_overlay: true,
};

/// A store on which no overlay can be mounted, since it is on two already, the most that the kernel
/// stacks, and which allows no devices.
fn without_overlay() -> Scene {
    let fixture = Fixture::with_disk("size=64m");
    let disk = fixture.work_dir();
    let part = |name: &str| {
        std::fs::create_dir(disk.join(name)).unwrap();
        disk.join(name).display().to_string()
    };
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    let overlay = |onto: &Path, options: String| {
        let options = std::ffi::CString::new(options).unwrap();
        mount_old("store", onto, "overlay", flags, options.as_c_str()).unwrap();
    };
    let lower = part("lower");
    overlay(
        Path::new(&lower),
        format!("lowerdir={}:{}", part("a"), part("b")),
    );
    let (upper, work) = (part("upper"), part("work"));
    overlay(
        &disk,
        format!("lowerdir={lower},upperdir={upper},workdir={work}"),
    );
    rustix::mount::mount_change(&disk, rustix::mount::MountPropagationFlags::SHARED).unwrap();
    Scene::on(fixture)
}

fn assemble_copy(
    scene: &Scene,
    tars: &[Vec<u8>],
    settings: StoreSettings,
) -> Result<Bundle, BundleError> {
    let image = image(tars, &json!({}));
    let layers = fetch(&scene.store, &image, tars);
    let path = BundlePath::parse(&scene.bundle("bundle"), &scene.fixture.work_dir())?;
    let reservation = reserve(&scene.store, &image, &path, &record(&image))?;
    assemble(reservation, &image, &layers, &path, settings)
}

fn is_mounted(path: &Path) -> bool {
    let mounts = crate::mountinfo::read().unwrap();
    mounts.iter().any(|mount| mount.point == path)
}

#[test]
fn where_no_overlay_can_be_mounted_a_copy_is_made_if_that_is_configured() {
    let scene = without_overlay();
    let tars = plain_layers();
    let error = assemble_copy(&scene, &tars, StoreSettings::default()).unwrap_err();
    assert!(
        matches!(error, BundleError::Mount { layers: 5, .. }),
        "{error:?}"
    );
    assert_eq!(scene.fixture.list("overlay"), [""; 0]);

    drop(assemble_copy(&scene, &tars, COPYING).unwrap());
    assert_eq!(scene.fixture.list("overlay"), [""; 0]);
    assert!(!scene.bundle("bundle").exists());

    assemble_copy(&scene, &tars, COPYING)
        .unwrap()
        .deliver()
        .unwrap();
    let rootfs = scene.bundle("bundle").join(ROOTFS);
    let elsewhere = Scene::new();
    let expected = shown(&elsewhere.deliver(&tars, "bundle").join(ROOTFS));
    assert_eq!(shown(&rootfs), expected);
    let flags = fstatvfs(std::fs::File::open(&rootfs).unwrap())
        .unwrap()
        .f_flag;
    let forbidding = rustix::fs::StatVfsMountFlags::NODEV
        | rustix::fs::StatVfsMountFlags::NOSUID
        | rustix::fs::StatVfsMountFlags::NOEXEC;
    assert!(!flags.intersects(forbidding), "{flags:?}");

    // What is mounted in there is not seen in the store.
    rustix::mount::mount_bind("/proc", rootfs.join("private")).unwrap();
    let all = crate::mountinfo::read().unwrap();
    let proc = all.iter().filter(|mount| mount.file_system == "proc");
    let in_store = scene.fixture.work_dir().canonicalize().unwrap();
    assert_eq!(
        proc.filter(|mount| mount.point.starts_with(&in_store))
            .count(),
        0
    );
    unmount(rootfs.join("private"), UnmountFlags::empty()).unwrap();

    // What a container writes is its own.
    std::fs::write(rootfs.join("private/new"), "changed").unwrap();
    let (_count, findings) = scene.store.verify().unwrap();
    assert_eq!(findings, []);
    assert_eq!(scene.store.recover().unwrap().bundles_kept, 1);
    assert_eq!(
        std::fs::read(rootfs.join("private/new")).unwrap(),
        b"changed"
    );
    let error = scene.assemble(&small(), "bundle/rootfs/inner").unwrap_err();
    let is_inside = matches!(error, BundleError::Path(BundlePathError::InBundle { .. }));
    assert!(is_inside, "{error:?}");

    unmount(&rootfs, UnmountFlags::empty()).unwrap();
    assert_eq!(scene.store.recover().unwrap().bundles_reclaimed, 1);
    assert_eq!(scene.fixture.list("overlay"), [""; 0]);
}

#[test]
fn a_copy_that_was_never_handed_out_is_taken_down() {
    let scene = without_overlay();
    let Bundle {
        mounted,
        place,
        overlay,
        record: _,
    } = assemble_copy(&scene, &small(), COPYING).unwrap();
    mounted.keep();
    place.keep();
    overlay.keep();
    let rootfs = scene.bundle("bundle").join(ROOTFS).canonicalize().unwrap();
    assert!(is_mounted(&rootfs));
    assert_eq!(scene.store.recover().unwrap().half_made_removed, 1);
    assert!(!is_mounted(&rootfs));
    assert!(!scene.bundle("bundle").exists());
    assert_eq!(scene.fixture.list("overlay"), [""; 0]);
}

/// Layers that hide something cannot be unpacked on such a store, so that the other test of flat
/// directories must do for these.
#[test]
fn what_lies_below_is_seen_where_no_overlay_can_be_mounted() {
    let tars = plain_layers();
    let elsewhere = Scene::new();
    let expected = shown(&elsewhere.deliver(&tars, "bundle").join(ROOTFS));
    let scene = without_overlay();
    let layers = fetch(&scene.store, &image(&tars, &json!({})), &tars);
    let view = View::of(&scene.store, &layers).unwrap();
    let seen = PathBuf::from(crate::handle::descriptor_path(view.root().as_fd()));
    // Beyond the descriptor's own link.
    assert_eq!(shown(&seen.join(".")), expected);
    drop(view);
    assert_eq!(scene.fixture.list("overlay"), [""; 0]);
}
