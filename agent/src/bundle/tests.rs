use std::os::unix::fs::{MetadataExt as _, symlink};

use rustix::mount::{MountFlags, UnmountFlags, mount as mount_old, unmount};
use serde_json::{Value, json};

use super::place::CONFIG;
use super::*;
use crate::spec::ROOTFS;
use crate::store::Recovered;
use crate::store::fixture::{Fixture, fetch, file, image, layer, list};

mod flatten;
mod inherit;
mod recovery;

/// The layers of a small image: a user database, a setuid program, and a root of its own.
fn small() -> Vec<Vec<u8>> {
    vec![
        layer(&[("./", 0o1751), ("bin/", 0o755), ("bin/su", 0o4755)]),
        file("etc/passwd", "app:x:5:6::/:/bin/sh\n"),
    ]
}

fn record(image: &Approved<Image>) -> Record {
    Record {
        decision: image.decision().clone(),
        kbs_authenticated: false,
    }
}

fn make(
    store: &Store,
    image: &Approved<Image>,
    layers: &[StoredLayer],
    path: &BundlePath,
) -> Result<Bundle, BundleError> {
    let reservation = reserve(store, image, path, &record(image))?;
    assemble(reservation, image, layers, path, StoreSettings::default())
}

struct Scene {
    fixture: Fixture,
    store: Store,
}

impl Scene {
    fn new() -> Self {
        Self::on(Fixture::new())
    }

    fn on(fixture: Fixture) -> Self {
        let store = fixture.store();
        Self { fixture, store }
    }

    fn bundle(&self, name: &str) -> PathBuf {
        self.fixture.path(name)
    }

    fn assemble_with(
        &self,
        tars: &[Vec<u8>],
        config: &Value,
        name: &str,
    ) -> Result<Bundle, BundleError> {
        let image = image(tars, config);
        let layers = fetch(&self.store, &image, tars);
        let path = BundlePath::parse(&self.bundle(name), &self.fixture.work_dir())?;
        make(&self.store, &image, &layers, &path)
    }

    fn assemble(&self, tars: &[Vec<u8>], name: &str) -> Result<Bundle, BundleError> {
        self.assemble_with(tars, &json!({}), name)
    }

    fn deliver(&self, tars: &[Vec<u8>], name: &str) -> PathBuf {
        self.assemble(tars, name).unwrap().deliver().unwrap();
        self.bundle(name)
    }

    fn assert_nothing_left(&self, what: &str) {
        assert_eq!(self.fixture.mounts(), [], "{what}");
        assert_eq!(self.fixture.list("overlay"), [""; 0], "{what}");
        assert_eq!(self.fixture.list("staging"), [""; 0], "{what}");
    }
}

fn read(path: &Path, name: &str) -> String {
    std::fs::read_to_string(path.join(ROOTFS).join(name)).unwrap()
}

#[test]
fn a_bundle_has_the_tree_and_the_configuration_of_its_image() {
    let scene = Scene::new();
    let config = json!({ "User": "app", "Cmd": ["/bin/su"] });
    let bundle = scene
        .assemble_with(&small(), &config, "deep/er/bundle")
        .unwrap();
    let path = scene.bundle("deep/er/bundle");
    assert_eq!(list(&path), [CONFIG, ROOTFS]);
    bundle.deliver().unwrap();

    assert_eq!(read(&path, "etc/passwd"), "app:x:5:6::/:/bin/sh\n");
    let program = path.join(ROOTFS).join("bin/su").metadata().unwrap();
    assert_eq!(
        (program.mode(), program.uid(), program.mtime()),
        (0o104_755, 7, 1000)
    );
    let text = std::fs::read(path.join(CONFIG)).unwrap();
    let spec: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(spec["process"]["user"], json!({ "uid": 5, "gid": 6 }));
    assert_eq!(spec["process"]["args"], json!(["/bin/su"]));
    let mounts = scene.fixture.mounts();
    assert_eq!(mounts.len(), 1);
    let source = format!("image-agent:{}", scene.fixture.list("overlay")[0]);
    assert_eq!(mounts[0].source, *source);
}

#[test]
fn the_root_has_the_attributes_of_the_topmost_layer_that_gives_any() {
    let scene = Scene::new();
    let path = scene.deliver(&small(), "given");
    let root = path.join(ROOTFS).metadata().unwrap();
    assert_eq!(
        (root.mode() & 0o7777, root.uid(), root.gid()),
        (0o1751, 7, 8)
    );
    assert_eq!(root.mtime(), 1000);

    let path = scene.deliver(&[file("a", "a")], "not-given");
    let root = path.join(ROOTFS).metadata().unwrap();
    assert_eq!(
        (root.mode() & 0o7777, root.uid(), root.gid()),
        (0o755, 0, 0)
    );
}

#[test]
fn no_bundle_is_put_inside_another() {
    let scene = Scene::new();
    let outer = scene.deliver(&small(), "outer");
    let bound = scene.bundle("bound");
    std::fs::create_dir(&bound).unwrap();
    let rootfs = outer.join(ROOTFS);
    rustix::mount::mount_bind(rootfs.join("bin"), &bound).unwrap();
    for (name, mounted) in [
        ("outer/rootfs", "outer/rootfs"),
        ("outer/rootfs/bin/inner", "outer/rootfs"),
        ("bound/inner", "bound"),
    ] {
        let error = scene.assemble(&small(), name).unwrap_err();
        assert!(
            matches!(&error, BundleError::Path(BundlePathError::InBundle { component })
                if *component == scene.bundle(mounted)),
            "{name}: {error:?}"
        );
    }
    assert_eq!(list(&rootfs), ["bin", "etc"]);
    assert_eq!(list(&rootfs.join("bin")), ["su"]);
    assert_eq!(scene.fixture.list("overlay").len(), 1);
}

#[test]
fn layers_that_recur_are_mounted_as_often_as_they_matter() {
    let scene = Scene::new();
    let a = layer(&[("x", 0o600), ("d/", 0o700), ("d/y", 0o600)]);
    let b = layer(&[(".wh.x", 0), ("d/.wh..wh..opq", 0), ("b", 0o600)]);
    let rows: [(&str, &[&str]); 5] = [
        ("ab", &["b", "d"]),
        ("aba", &["b", "d", "x"]),
        ("abab", &["b", "d"]),
        ("aab", &["b", "d"]),
        ("bbaa", &["b", "d", "x"]),
    ];
    for (name, expected) in rows {
        let layer = |letter| if letter == 'a' { a.clone() } else { b.clone() };
        let layers: Vec<_> = name.chars().map(layer).collect();
        let path = scene.deliver(&layers, name);
        assert_eq!(list(&path.join(ROOTFS)), expected, "{name}");
        let has_y = path.join(ROOTFS).join("d/y").exists();
        assert_eq!(has_y, name.ends_with('a'), "{name}");
    }
}

#[test]
fn an_opaque_root_hides_everything_below() {
    let scene = Scene::new();
    let below = layer(&[("./", 0o711), ("below", 0o600)]);
    let opaque = layer(&[(".wh..wh..opq", 0), ("above", 0o600)]);
    let path = scene.deliver(&[below, opaque], "bundle");
    assert_eq!(list(&path.join(ROOTFS)), ["above"]);
    assert_eq!(path.join(ROOTFS).metadata().unwrap().mode() & 0o7777, 0o711);
}

#[test]
fn images_with_nothing_in_them_have_an_empty_root() {
    let scene = Scene::new();
    for (name, layers) in [("none", vec![]), ("empty", vec![layer(&[]), layer(&[])])] {
        let path = scene.deliver(&layers, name);
        assert_eq!(list(&path.join(ROOTFS)), [""; 0]);
        std::fs::write(path.join(ROOTFS).join("new"), "").unwrap();
    }
}

#[test]
fn five_hundred_layers_make_a_bundle() {
    let scene = Scene::new();
    for count in [499, 500] {
        let mut tars: Vec<_> = (1..count)
            .map(|index| file(&format!("file{index}"), &index.to_string()))
            .collect();
        tars.push(tars[count / 2].clone());
        let path = scene.deliver(&tars, &format!("bundle{count}"));
        assert_eq!(list(&path.join(ROOTFS)).len(), count - 1);
        for index in 1..count {
            assert_eq!(read(&path, &format!("file{index}")), index.to_string());
        }
    }
}

#[test]
fn what_is_not_delivered_is_taken_down_to_the_last_directory() {
    let scene = Scene::new();
    let before = list(&scene.bundle("."));
    drop(scene.assemble(&small(), "deep/er/bundle").unwrap());
    scene.assert_nothing_left("dropped");
    assert_eq!(list(&scene.bundle(".")), before);
}

#[test]
fn an_empty_rootfs_that_was_there_is_used_and_stays() {
    let scene = Scene::new();
    std::fs::create_dir_all(scene.bundle("bundle/rootfs")).unwrap();
    drop(scene.assemble(&small(), "bundle").unwrap());
    scene.assert_nothing_left("dropped");
    assert_eq!(list(&scene.bundle("bundle")), [ROOTFS]);
}

#[test]
fn a_path_that_holds_a_bundle_is_left_alone() {
    let scene = Scene::new();
    let taken = |name: &str, what: &str| {
        let error = scene.assemble(&small(), name).unwrap_err();
        assert!(
            matches!(&error, BundleError::Exists { path, what: found }
                if *path == scene.bundle(name) && *found == what),
            "{error:?}"
        );
    };
    let path = scene.deliver(&small(), "delivered");
    taken("delivered", CONFIG);
    assert_eq!(read(&path, "bin/su"), "bin/su");
    std::fs::remove_file(path.join(CONFIG)).unwrap();
    taken("delivered", ROOTFS);
    assert_eq!(read(&path, "bin/su"), "bin/su");

    std::fs::create_dir_all(scene.bundle("foreign/rootfs/home")).unwrap();
    taken("foreign", ROOTFS);
    assert_eq!(list(&scene.bundle("foreign/rootfs")), ["home"]);

    std::fs::create_dir(scene.bundle("dangling")).unwrap();
    symlink("/nowhere", scene.bundle("dangling").join(CONFIG)).unwrap();
    taken("dangling", CONFIG);
    assert_eq!(list(&scene.bundle("dangling")), [CONFIG]);
    assert_eq!(scene.fixture.list("overlay").len(), 1);
}

#[test]
fn a_rootfs_that_is_no_directory_is_refused() {
    let scene = Scene::new();
    std::fs::create_dir_all(scene.bundle("link")).unwrap();
    std::fs::create_dir_all(scene.bundle("file")).unwrap();
    symlink("/tmp", scene.bundle("link/rootfs")).unwrap();
    std::fs::write(scene.bundle("file/rootfs"), "").unwrap();
    let error = scene.assemble(&small(), "link").unwrap_err();
    assert!(
        matches!(&error, BundleError::Path(BundlePathError::Link { component })
            if *component == scene.bundle("link/rootfs")),
        "{error:?}"
    );
    let error = scene.assemble(&small(), "file").unwrap_err();
    assert!(
        matches!(&error, BundleError::Path(BundlePathError::NotDirectory { component })
            if *component == scene.bundle("file/rootfs")),
        "{error:?}"
    );
    scene.assert_nothing_left("refused");
    assert_eq!(list(&scene.bundle("link")), [ROOTFS]);
}

#[test]
fn an_image_that_cannot_start_leaves_nothing() {
    let scene = Scene::new();
    let before = list(&scene.bundle("."));
    let error = scene
        .assemble_with(&small(), &json!({ "User": "nobody-here" }), "bundle")
        .unwrap_err();
    assert!(
        matches!(&error, BundleError::User(UserError::UnknownUser { name }) if name == "nobody-here"),
        "{error:?}"
    );
    let config = json!({ "Volumes": { "../up": {} } });
    let error = scene
        .assemble_with(&small(), &config, "bundle")
        .unwrap_err();
    assert!(
        matches!(&error, BundleError::Spec(SpecError::Volume { volume }) if volume == "../up"),
        "{error:?}"
    );
    scene.assert_nothing_left("refused");
    assert_eq!(list(&scene.bundle(".")), before);
}

#[test]
fn layers_of_another_image_are_refused() {
    let scene = Scene::new();
    let (tars, other) = (small(), vec![small().remove(0), file("other", "")]);
    let image_of = |tars: &[Vec<u8>]| image(tars, &json!({}));
    let path = BundlePath::parse(&scene.bundle("bundle"), &scene.fixture.work_dir()).unwrap();
    let stored = fetch(&scene.store, &image_of(&tars), &tars);
    let rows = [
        (image_of(&other), stored.clone(), 1),
        (image_of(&tars), vec![stored[0].clone()], 1),
        (
            image_of(&tars),
            vec![stored[1].clone(), stored[0].clone()],
            0,
        ),
    ];
    for (image, layers, wrong) in rows {
        let error = make(&scene.store, &image, &layers, &path).unwrap_err();
        assert!(
            matches!(error, BundleError::WrongLayer { index, count: 2 } if index == wrong),
            "{error:?}"
        );
    }
    scene.assert_nothing_left("refused");
}

#[test]
fn a_full_disk_is_told_apart_and_leaves_nothing() {
    let tars = small();
    let mut refused = Vec::new();
    for free in 0..12 {
        let scene = Scene::on(Fixture::with_disk("nr_inodes=100"));
        let image = image(&tars, &json!({}));
        let layers = fetch(&scene.store, &image, &tars);
        let fill = |index| std::fs::write(scene.fixture.work_dir().join(format!("f{index}")), "");
        let filled = (0..100).take_while(|index| fill(*index).is_ok()).count();
        for index in 0..free.min(filled) {
            std::fs::remove_file(scene.fixture.work_dir().join(format!("f{index}"))).unwrap();
        }
        let path = BundlePath::parse(&scene.bundle("bundle"), &scene.fixture.work_dir()).unwrap();
        match make(&scene.store, &image, &layers, &path) {
            Ok(bundle) => drop(bundle),
            Err(BundleError::DiskFull { .. }) => refused.push(free),
            Err(error) => panic!("{free} free inodes: {error:?}"),
        }
        assert!(!scene.bundle("bundle").exists(), "{free} free inodes");
        scene.assert_nothing_left(&format!("{free} free inodes"));
    }
    assert!(refused.len() > 4 && refused.len() < 12, "{refused:?}");
    assert_eq!(refused, (0..refused.len()).collect::<Vec<_>>());
}

#[test]
fn bundles_are_made_side_by_side() {
    let scene = Scene::new();
    let tars = small();
    std::thread::scope(|threads| {
        let work = |index: usize| {
            let (scene, tars) = (&scene, &tars);
            threads.spawn(move || scene.deliver(tars, &format!("bundle{index}")))
        };
        let running: Vec<_> = (0..4).map(work).collect();
        for bundle in running {
            assert_eq!(read(&bundle.join().unwrap(), "bin/su"), "bin/su");
        }
    });
    assert_eq!(scene.fixture.mounts().len(), 4);
    assert_eq!(scene.fixture.list("layers").len(), 2);
}

#[test]
fn of_two_calls_for_one_path_one_gets_the_bundle() {
    let scene = Scene::new();
    let tars = small();
    for round in 0..50 {
        let name = format!("parent{round}/bundle");
        let outcomes = std::thread::scope(|threads| {
            let call = || threads.spawn(|| scene.assemble(&tars, &name).and_then(Bundle::deliver));
            let running = [call(), call()];
            running.map(|call| call.join().unwrap())
        });
        let delivered = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(delivered, 1, "{outcomes:?}");
        for error in outcomes.into_iter().filter_map(Result::err) {
            assert!(
                matches!(error, BundleError::Busy { .. } | BundleError::Exists { .. }),
                "{error:?}"
            );
        }
        assert_eq!(read(&scene.bundle(&name), "bin/su"), "bin/su");
    }
    assert_eq!(scene.fixture.mounts().len(), 50);
    assert_eq!(scene.fixture.list("overlay").len(), 50);
}
