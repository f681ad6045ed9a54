use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use super::*;
use crate::store::fixture::Archive;

/// Mode, owner, group and time of modification.
fn attributes(path: &Path) -> (u32, u32, u32, i64) {
    let found = path.symlink_metadata().unwrap();
    let mode = found.mode() & 0o7777;
    (mode, found.uid(), found.gid(), found.mtime())
}

#[test]
fn a_layer_that_implies_a_directory_leaves_it_as_private_as_it_was() {
    let scene = Scene::new();
    let below = Archive::default()
        .extended("SCHILY.xattr.user.note", "kept")
        .entry(b"data/", 0o2700)
        .entry(b"data/old", 0o600)
        .entry(b"tmp/", 0o1777)
        .end();
    let above = layer(&[("data/x", 0o600), ("tmp/y", 0o600), ("new/z", 0o600)]);
    let path = scene.deliver(&[below, above], "bundle").join(ROOTFS);
    assert_eq!(attributes(&path.join("data")), (0o2700, 7, 8, 1000));
    assert_eq!(attributes(&path.join("tmp")), (0o1777, 7, 8, 1000));
    for path in [&path.join("new"), &path] {
        let (mode, uid, gid, _now) = attributes(path);
        assert_eq!((mode, uid, gid), (0o755, 0, 0), "{}", path.display());
    }
    assert_eq!(list(&path.join("data")), ["old", "x"]);
    let mut value = [0; 16];
    let data = open_directory(std::fs::File::open(&path).unwrap().as_fd(), "data").unwrap();
    let length = fgetxattr(&data, "user.note", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"kept");
    std::fs::remove_dir_all(path.join("data")).unwrap();
    assert_eq!(list(&path), ["new", "tmp"]);
}

const PRIVATE: &[(&str, u32)] = &[("p/", 0o710), ("p/d/", 0o700), ("p/d/old", 0o600)];

const IMPLYING: &[(&str, u32)] = &[("p/d/x", 0o600)];

/// What a layer between [`PRIVATE`] and [`IMPLYING`] makes of the directories.
struct Row {
    name: &'static str,
    between: &'static [(&'static str, u32)],
    parent: u32,
    directory: u32,
    names: &'static [&'static str],
}

const fn row(
    name: &'static str,
    between: &'static [(&'static str, u32)],
    (parent, directory): (u32, u32),
    names: &'static [&'static str],
) -> Row {
    Row {
        name,
        between,
        parent,
        directory,
        names,
    }
}

const GIVEN: &[(&str, u32)] = &[("p/d/", 0o711)];
const OPAQUE: &[(&str, u32)] = &[("p/d/.wh..wh..opq", 0)];
const BOTH: &[(&str, u32)] = &[("p/d/", 0o711), ("p/d/.wh..wh..opq", 0), ("p/d/y", 0o600)];
const OPAQUE_PARENT: &[(&str, u32)] = &[("p/", 0o750), ("p/.wh..wh..opq", 0)];

const ROWS: [Row; 9] = [
    row("nothing", &[], (0o710, 0o700), &["old", "x"]),
    row(
        "an implied one",
        &[("p/d/y", 0)],
        (0o710, 0o700),
        &["old", "x", "y"],
    ),
    row("given", GIVEN, (0o710, 0o711), &["old", "x"]),
    row("opaque", OPAQUE, (0o710, 0o755), &["x"]),
    row("opaque and given", BOTH, (0o710, 0o711), &["x", "y"]),
    row("an opaque parent", OPAQUE_PARENT, (0o750, 0o755), &["x"]),
    row(
        "an opaque root",
        &[(".wh..wh..opq", 0)],
        (0o755, 0o755),
        &["x"],
    ),
    row("a whiteout", &[("p/.wh.d", 0)], (0o710, 0o755), &["x"]),
    row(
        "a whiteout of the parent",
        &[(".wh.p", 0)],
        (0o755, 0o755),
        &["x"],
    ),
];

#[test]
fn an_implied_directory_is_as_the_topmost_visible_layer_says() {
    let scene = Scene::new();
    for row in &ROWS {
        let layers = [PRIVATE, row.between, IMPLYING].map(layer);
        let path = scene.deliver(&layers, row.name).join(ROOTFS);
        let mode = |name| attributes(&path.join(name)).0;
        assert_eq!(
            (mode("p"), mode("p/d")),
            (row.parent, row.directory),
            "{}",
            row.name
        );
        assert_eq!(list(&path.join("p/d")), row.names, "{}", row.name);
    }
}

#[test]
fn a_directory_given_above_the_one_implied_is_as_given_there() {
    let scene = Scene::new();
    let layers = [PRIVATE, IMPLYING, GIVEN].map(layer);
    let path = scene.deliver(&layers, "bundle").join(ROOTFS);
    assert_eq!(attributes(&path.join("p/d")), (0o711, 7, 8, 1000));
    assert_eq!(list(&path.join("p/d")), ["old", "x"]);
}

#[test]
fn a_link_or_file_below_an_implied_directory_gives_it_nothing() {
    let scene = Scene::new();
    let slash = attributes(Path::new("/"));
    let link = Archive::default().symlink("p/d", "/").end();
    for (name, between) in [("link", link), ("file", layer(&[("p/d", 0o600)]))] {
        let layers = [layer(PRIVATE), between, layer(IMPLYING)];
        let path = scene.deliver(&layers, name).join(ROOTFS);
        let (mode, uid, gid, _now) = attributes(&path.join("p/d"));
        assert_eq!((mode, uid, gid), (0o755, 0, 0), "{name}");
        assert_eq!(list(&path.join("p/d")), ["x"], "{name}");
    }
    assert_eq!(attributes(Path::new("/")), slash);
}

#[test]
fn an_implied_directory_that_a_higher_layer_hides_stays_hidden() {
    let scene = Scene::new();
    let below = layer(&[("d/", 0o700), ("e/", 0o700), ("e/f/", 0o700)]);
    let implying = layer(&[("d/x", 0o600), ("e/f/x", 0o600)]);
    let hiding = layer(&[(".wh.d", 0), ("e/.wh.f", 0)]);
    let path = scene.deliver(&[below, implying, hiding], "bundle");
    let path = path.join(ROOTFS);
    assert_eq!(list(&path), ["e"]);
    assert_eq!(list(&path.join("e")), [""; 0]);
    assert_eq!(attributes(&path.join("e")).0, 0o700);
}

#[test]
fn implied_directories_of_layers_that_recur_are_as_given() {
    let scene = Scene::new();
    let a = layer(&[
        ("d/", 0o700),
        ("d/a", 0o600),
        ("a-b/x", 0o600),
        ("a/b/x", 0o600),
    ]);
    let b = layer(&[
        ("d/b", 0o600),
        ("a/", 0o701),
        ("a/b/", 0o702),
        ("a-b/", 0o703),
    ]);
    for name in ["ab", "ba", "aba", "bab", "abab"] {
        let layer = |letter| if letter == 'a' { a.clone() } else { b.clone() };
        let layers: Vec<_> = name.chars().map(layer).collect();
        let path = scene.deliver(&layers, name).join(ROOTFS);
        assert_eq!(list(&path.join("d")), ["a", "b"], "{name}");
        for (directory, mode) in [("d", 0o700), ("a", 0o701), ("a/b", 0o702), ("a-b", 0o703)] {
            let expected = (mode, 7, 8, 1000);
            assert_eq!(
                attributes(&path.join(directory)),
                expected,
                "{name}: {directory}"
            );
        }
    }
}

#[test]
fn implied_directories_of_any_name_and_depth_are_as_given() {
    let scene = Scene::new();
    let deep = "d/".repeat(300);
    let odd = b"caf\xe9%41/";
    let below = Archive::default()
        .entry(odd, 0o700)
        .extended("path", &deep)
        .entry(b"deep/", 0o711)
        .end();
    let above = Archive::default()
        .entry(b"caf\xe9%41/x", 0o600)
        .extended("path", &format!("{deep}x"))
        .entry(b"deep", 0o600)
        .end();
    let path = scene.deliver(&[below, above], "bundle").join(ROOTFS);
    let odd = OsStr::from_bytes(odd);
    assert_eq!(attributes(&path.join(odd)), (0o700, 7, 8, 1000));
    assert_eq!(attributes(&path.join(&deep)), (0o711, 7, 8, 1000));
    let (mode, uid, gid, _now) = attributes(&path.join("d/d"));
    assert_eq!((mode, uid, gid), (0o755, 0, 0));
    assert!(path.join(deep).join("x").is_file());
}
