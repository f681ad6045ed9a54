//! Whiteouts and opaque directories: what an overlay mount of the layer then shows.

use crate::kit::{Blob, Scratch, Tar, Tree};

fn unpack(tar: Tar) -> Tree {
    Scratch::new().unpack(&Blob::plain(tar.end())).unwrap()
}

fn is_opaque(tree: &Tree, name: &str) -> bool {
    tree.line(name).contains("trusted.overlay.opaque=\"y\"")
}

#[test]
fn a_whiteout_becomes_a_device() {
    let tree = unpack(
        Tar::new()
            .dir("a")
            .file("a/.wh.gone", b"")
            .file(".wh.top", b"ignored"),
    );
    assert_eq!(tree.names(), ["a", "a/gone", "top"]);
    for name in ["a/gone", "top"] {
        let line = tree.line(name);
        assert!(
            line.starts_with("020") && line.contains(" 0:0 0:0 "),
            "{line}"
        );
    }
    assert!(!is_opaque(&tree, "a"));
}

type Add = fn(Tar) -> Tar;

#[test]
fn an_entry_wins_over_a_whiteout_in_either_order() {
    let whiteout = || Tar::new().file(".wh.x", b"");
    let entries: [(&str, Add, &str); 4] = [
        ("file", |tar| tar.file("x", b"new"), "100644 0:0 3 bytes"),
        ("symlink", |tar| tar.symlink("x", "y"), "120777 0:0 -> y"),
        ("directory", |tar| tar.dir("x"), "040755"),
        ("implied directory", |tar| tar.file("x/y", b""), "040755"),
    ];
    for (row, entry, expected) in entries {
        for tar in [entry(whiteout()), entry(Tar::new()).file(".wh.x", b"")] {
            let tree = unpack(tar);
            assert!(
                tree.line("x").starts_with(expected),
                "{row}: {}",
                tree.line("x")
            );
            assert_eq!(is_opaque(&tree, "x"), row.contains("directory"), "{row}");
            assert_eq!(
                tree.implied,
                [b""],
                "{row}: a new directory takes nothing from below"
            );
        }
    }
}

#[test]
fn an_opaque_mark_counts_wherever_it_stands() {
    let rows = [
        (
            "before all",
            Tar::new()
                .file("d/.wh..wh..opq", b"")
                .dir("d")
                .file("d/x", b""),
        ),
        (
            "after the directory",
            Tar::new()
                .dir("d")
                .file("d/.wh..wh..opq", b"")
                .file("d/x", b""),
        ),
        (
            "after all",
            Tar::new()
                .dir("d")
                .file("d/x", b"")
                .file("d/.wh..wh..opq", b""),
        ),
        (
            "directory last",
            Tar::new()
                .file("d/x", b"")
                .file("d/.wh..wh..opq", b"")
                .dir("d"),
        ),
        (
            "twice",
            Tar::new()
                .file("d/.wh..wh..opq", b"")
                .file("d/x", b"")
                .dir("d")
                .file("d/.wh..wh..opq", b""),
        ),
    ];
    for (row, tar) in rows {
        let tree = unpack(tar);
        assert_eq!(tree.names(), ["d", "d/x"], "{row}");
        assert!(is_opaque(&tree, "d"), "{row}");
        assert_eq!(tree.implied, [b""], "{row}");
    }
    // Without an entry the directory is still that of the lower layer, only empty.
    let tree = unpack(Tar::new().file("d/.wh..wh..opq", b""));
    assert!(is_opaque(&tree, "d"));
    assert_eq!(tree.implied, [&b""[..], b"d"]);
}

#[test]
fn an_opaque_root_is_reported() {
    let tree = unpack(Tar::new().file(".wh..wh..opq", b"").file("x", b""));
    assert!(tree.hides_all_below && is_opaque(&tree, ""));
    assert!(!unpack(Tar::new().file("x", b"")).hides_all_below);
}

#[test]
fn a_whiteout_within_an_opaque_directory_shows_nothing() {
    let tar = Tar::new()
        .dir("d")
        .file("d/.wh..wh..opq", b"")
        .file("d/.wh.x", b"")
        .file("d/y", b"");
    let tree = unpack(tar);
    assert_eq!(tree.names(), ["d", "d/x", "d/y"]);
    assert!(tree.line("d/x").contains(" 0:0 0:0 "));
}

#[test]
fn a_directory_that_was_something_else_hides_what_lies_below() {
    let rows = [
        (
            "file then directory",
            Tar::new().file("x", b"").dir("x"),
            true,
        ),
        (
            "link then directory",
            Tar::new().symlink("x", "y").dir("x"),
            true,
        ),
        (
            "directory, file, directory",
            Tar::new().file("x/old", b"").file("x", b"").dir("x"),
            true,
        ),
        ("directory twice", Tar::new().dir("x").dir("x"), false),
    ];
    for (row, tar, expected) in rows {
        let tree = unpack(tar);
        assert_eq!(tree.names(), ["x"], "{row}");
        assert_eq!(is_opaque(&tree, "x"), expected, "{row}");
    }
    // The mark goes with the directory that had it.
    let tree = unpack(Tar::new().file("x/.wh..wh..opq", b"").file("x", b"file"));
    assert!(
        tree.line("x").starts_with("100644 0:0 4 bytes \"file\""),
        "{}",
        tree.line("x")
    );
}

#[test]
fn aufs_bookkeeping_is_skipped() {
    let tar = Tar::new()
        .dir(".wh..wh.plnk")
        .file(".wh..wh.plnk/1.2", b"")
        .file(".wh..wh.aufs", b"")
        .file("x", b"");
    let tree = unpack(tar);
    assert_eq!(tree.names(), ["x"]);
    assert_eq!(tree.notes.total(), 3);
}

/// The overlay mount itself, as the judge of all the above.
#[test]
fn an_overlay_mount_shows_one_tree_unpacked_in_order() {
    use rootfs::{Budget, Cancel, Dir, Limits, Staging, unpack};
    use std::collections::BTreeSet;

    let scratch = tempfile::tempdir().unwrap();
    let work = Dir::open_ambient(scratch.path()).unwrap();
    let lower = Tar::new()
        .file("kept/a", b"lower")
        .file("emptied/a", b"")
        .file("gone", b"")
        .file("tree/deep/a", b"")
        .file("replaced/a", b"")
        .file("file", b"")
        .file("order/a", b"");
    let upper = Tar::new()
        .file("kept/b", b"")
        .file("emptied/.wh..wh..opq", b"")
        .file("emptied/b", b"")
        .file(".wh.gone", b"")
        .file(".wh.tree", b"")
        .file("replaced", b"")
        .dir("replaced")
        .file("replaced/b", b"")
        .file(".wh.file", b"")
        .file("file", b"again")
        .dir("order")
        .file("order/b", b"")
        .file(".wh.order", b"");
    for (name, tar) in [("lower", lower), ("upper", upper)] {
        let blob = Blob::plain(tar.end());
        let staging = Staging::create(&work).unwrap();
        let proof = unpack(
            &blob.approved(),
            blob.bytes.as_slice(),
            &staging,
            &Budget::new(Limits::default()),
            &Cancel::new(),
        )
        .unwrap();
        staging.commit(proof, &work, name).unwrap();
    }
    std::fs::create_dir(scratch.path().join("merged")).unwrap();
    let merged = scratch.path().join("merged");
    let options = format!("lowerdir={0}/upper:{0}/lower", scratch.path().display());
    let options = std::ffi::CString::new(options).unwrap();
    rustix::mount::mount(
        "overlay",
        &merged,
        "overlay",
        rustix::mount::MountFlags::RDONLY,
        &*options,
    )
    .unwrap();
    let names: BTreeSet<_> = walk(&merged, &merged).into_iter().collect();
    // A process that another test is just starting may still have what was open in there.
    rustix::mount::unmount(&merged, rustix::mount::UnmountFlags::DETACH).unwrap();
    let expected = [
        "emptied",
        "emptied/b",
        "file",
        "kept",
        "kept/a",
        "kept/b",
        "order",
        "order/b",
        "replaced",
        "replaced/b",
    ];
    assert_eq!(names, expected.map(str::to_owned).into());
}

fn walk(root: &std::path::Path, at: &std::path::Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        names.push(
            path.strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned(),
        );
        if path.symlink_metadata().unwrap().is_dir() {
            names.extend(walk(root, &path));
        }
    }
    names
}
