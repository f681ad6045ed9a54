//! Layers that cannot be unpacked without what lies below them.

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rootfs::{Dir, Error, LimitKind, LinkFault};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Timespec, Timestamps, Uid, XattrFlags, chownat, makedev, mknodat,
    setxattr, utimensat,
};

use crate::kit::{Blob, CAPABILITY, Scratch, Tar, Tree, describe};

/// A tree in which `lib` and `abs` are links to `usr/lib`, and a scratch on top of it.
struct Below {
    root: tempfile::TempDir,
    scratch: Scratch,
}

impl Below {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("usr/lib")).unwrap();
        std::fs::write(root.path().join("usr/lib/old"), "old").unwrap();
        symlink("usr/lib", root.path().join("lib")).unwrap();
        symlink("/usr/lib", root.path().join("abs")).unwrap();
        symlink("../../../usr", root.path().join("up")).unwrap();
        symlink("/outside", root.path().join("away")).unwrap();
        let mut scratch = Scratch::new();
        scratch.below = Some(Dir::open_ambient(root.path()).unwrap());
        Self { root, scratch }
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.root.path().join(name)
    }

    fn try_unpack(&self, tar: Tar) -> Result<Tree, Error> {
        let before = describe(self.root.path());
        let tree = self.scratch.unpack(&Blob::plain(tar.end()));
        assert_eq!(describe(self.root.path()), before, "below has changed");
        tree
    }

    fn unpack(&self, tar: Tar) -> Tree {
        self.try_unpack(tar).unwrap()
    }
}

#[test]
fn a_layer_that_needs_others_says_so_and_one_that_is_wrong_does_not() {
    let rows: [(&str, Tar, bool); 7] = [
        ("a hard link", Tar::new().hard_link("a", "b"), true),
        ("into nothing", Tar::new().hard_link("a", "b/c"), true),
        (
            "through a link",
            Tar::new().symlink("l", "d").file("l/x", b""),
            true,
        ),
        (
            "hidden by itself",
            Tar::new().file(".wh.b", b"").hard_link("a", "b"),
            true,
        ),
        (
            "a circle",
            Tar::new().symlink("l", "l").file("l/x", b""),
            false,
        ),
        (
            "a directory",
            Tar::new().dir("d").hard_link("a", "d"),
            false,
        ),
        ("a climber", Tar::new().file("../x", b""), false),
    ];
    for (row, tar, expected) in rows {
        let blob = Blob::plain(tar.end());
        let error = Scratch::new().unpack(&blob).map(|_| row).unwrap_err();
        assert_eq!(error.needs_lower_layers(), expected, "{row}: {error:?}");
        // Below is none of that, and there is nobody else to ask.
        let error = Below::new().scratch.unpack(&blob).map(|_| row).unwrap_err();
        assert!(!error.needs_lower_layers(), "{row}: {error:?}");
        let is_nowhere = matches!(
            error,
            Error::HardLink {
                fault: LinkFault::Nowhere,
                ..
            } | Error::ParentLink {
                fault: LinkFault::Nowhere,
                ..
            }
        );
        assert_eq!(is_nowhere, expected, "{row}: {error:?}");
    }
}

#[test]
fn parents_that_are_links_below_are_followed_within_the_image() {
    let below = Below::new();
    let tree = below.unpack(
        Tar::new()
            .file("lib/one", b"1")
            .file("abs/two", b"2")
            .file("up/lib/three", b"3")
            .dir("lib/deep")
            .file("lib/deep/four", b"4")
            .file("lib/.wh.old", b"")
            .hard_link("hard", "lib/one"),
    );
    let expected = [
        "hard",
        "usr",
        "usr/lib",
        "usr/lib/deep",
        "usr/lib/deep/four",
        "usr/lib/old",
        "usr/lib/one",
        "usr/lib/three",
        "usr/lib/two",
    ];
    assert_eq!(tree.names(), expected);
    assert_eq!(tree.implied, [&b""[..], b"usr", b"usr/lib"]);
    assert!(tree.line("usr/lib/old").contains(" 0:0 0:0 "), "a whiteout");
    let error = below
        .try_unpack(Tar::new().file("away/x", b""))
        .unwrap_err();
    let fault = LinkFault::Nowhere;
    assert!(
        matches!(&error, Error::ParentLink { fault: found, .. } if *found == fault),
        "{error:?}"
    );
}

#[test]
fn an_entry_covers_a_link_below() {
    let below = Below::new();
    let rows: [(&str, Tar, &[&str]); 4] = [
        (
            "a directory",
            Tar::new().dir("lib").file("lib/x", b""),
            &["lib", "lib/x"],
        ),
        (
            "a link",
            Tar::new().dir("d").symlink("lib", "d").file("lib/x", b""),
            &["d", "d/x", "lib"],
        ),
        (
            "a link, after the one below was followed",
            Tar::new()
                .file("lib/y", b"")
                .dir("d")
                .symlink("lib", "d")
                .file("lib/x", b""),
            &["d", "d/x", "lib", "usr", "usr/lib", "usr/lib/y"],
        ),
        (
            "a whiteout, after the one below was followed",
            Tar::new()
                .file("lib/y", b"")
                .file(".wh.lib", b"")
                .file("lib/x", b""),
            &["lib", "lib/x", "usr", "usr/lib", "usr/lib/y"],
        ),
    ];
    for (row, tar, expected) in rows {
        assert_eq!(below.unpack(tar).names(), expected, "{row}");
    }
}

#[test]
fn a_link_of_the_layer_may_lead_below() {
    let tree = Below::new().unpack(Tar::new().symlink("l", "lib").file("l/x", b""));
    assert_eq!(tree.names(), ["l", "usr", "usr/lib", "usr/lib/x"]);
}

/// Content with a hole, a set-user-ID bit, a capability, an attribute and nanoseconds.
fn write_special(path: &Path) {
    let file = std::fs::File::create(path).unwrap();
    file.write_all_at(b"head", 0).unwrap();
    file.write_all_at(b"tail", 3 << 20).unwrap();
    file.set_len(4 << 20).unwrap();
    chownat(
        CWD,
        path,
        Some(Uid::from_raw(7)),
        Some(Gid::from_raw(8)),
        AtFlags::empty(),
    )
    .unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o4751)).unwrap();
    setxattr(path, "security.capability", CAPABILITY, XattrFlags::empty()).unwrap();
    setxattr(path, "user.note", b"\0\xff", XattrFlags::empty()).unwrap();
    let time = Timespec {
        tv_sec: 12,
        tv_nsec: 345,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(CWD, path, &times, AtFlags::empty()).unwrap();
}

#[test]
fn a_file_below_that_is_linked_to_is_copied_as_it_is() {
    let below = Below::new();
    write_special(&below.at("usr/lib/special"));
    let tree = below.unpack(
        Tar::new()
            .hard_link("a", "lib/special")
            .hard_link("b", "usr/lib/special"),
    );
    assert_eq!(
        tree.names(),
        ["a", "b", "usr", "usr/lib", "usr/lib/special"]
    );
    let original = &describe(below.root.path())["usr/lib/special"];
    for name in ["a", "b", "usr/lib/special"] {
        let line = tree.line(name);
        let (copy, linked) = line.split_once(" linked ").unwrap();
        assert_eq!(linked, "a", "{name}");
        assert_eq!(copy, original, "{name}");
    }
    assert!(
        tree.blocks["a"] < 1024,
        "the hole is gone: {:?}",
        tree.blocks
    );
    let links = below.unpack(Tar::new().hard_link("a", "lib"));
    let line = links.line("a");
    assert!(
        line.contains(" -> usr/lib ") && line.ends_with(" linked a"),
        "{line}"
    );
    assert_eq!(below.at("usr/lib/special").metadata().unwrap().nlink(), 1);
}

#[test]
fn a_copy_is_hidden_with_what_it_is_a_copy_of() {
    let below = Below::new();
    let link = || Tar::new().hard_link("new", "usr/lib/old");
    let is_whiteout = |tree: &Tree| tree.line("usr/lib/old").contains(" 0:0 0:0 ");
    let renamed = below.unpack(link().file("usr/lib/.wh.old", b""));
    assert!(is_whiteout(&renamed), "{:?}", renamed.lines);
    assert!(
        renamed.line("new").contains("\"old\""),
        "{:?}",
        renamed.lines
    );
    for mark in ["usr/lib/.wh..wh..opq", "usr/.wh..wh..opq", ".wh..wh..opq"] {
        let emptied = below.unpack(link().file(mark, b""));
        assert_eq!(emptied.names(), ["new", "usr", "usr/lib"], "{mark}");
    }
    let replaced = below.unpack(
        link()
            .file("usr/lib/old", b"own")
            .file("usr/lib/.wh.old", b""),
    );
    assert!(
        replaced.line("usr/lib/old").contains("\"own\""),
        "{:?}",
        replaced.lines
    );
}

#[test]
fn a_directory_of_copies_is_hidden_with_them() {
    let below = Below::new();
    let link = || Tar::new().hard_link("new", "usr/lib/old");
    for (mark, name) in [("usr/.wh.lib", "usr/lib"), (".wh.usr", "usr")] {
        let hidden = below.unpack(link().file(mark, b""));
        assert!(!hidden.names().contains(&"usr/lib/old"), "{mark}");
        assert!(
            hidden.line(name).contains(" 0:0 0:0 "),
            "{:?}",
            hidden.lines
        );
        assert!(hidden.line("new").contains("\"old\""), "{mark}");
    }
    let kept = below.unpack(link().file("usr/lib/own", b"").file("usr/.wh.lib", b""));
    assert_eq!(kept.names(), ["new", "usr", "usr/lib", "usr/lib/own"]);
    assert!(
        kept.line("usr/lib").contains("overlay.opaque"),
        "{:?}",
        kept.lines
    );
}

#[test]
fn a_copy_that_was_replaced_is_no_copy_any_more() {
    let below = Below::new();
    for mark in ["usr/lib/.wh..wh..opq", "usr/lib/.wh.old"] {
        let tar = Tar::new().hard_link("new", "usr/lib/old");
        let tree = below.unpack(tar.dir("usr/lib/old").file(mark, b""));
        assert!(tree.line("usr/lib/old").starts_with("040755"), "{mark}");
    }
    let tar = Tar::new().hard_link("new", "lib").file("lib/x", b"");
    let tree = below.unpack(tar.file(".wh.lib", b"").file("lib/y", b""));
    assert_eq!(
        tree.names(),
        ["lib", "lib/y", "new", "usr", "usr/lib", "usr/lib/x"]
    );
}

#[test]
fn a_link_to_what_comes_later_hides_what_lies_below() {
    let below = Below::new();
    let tree = below.unpack(
        Tar::new()
            .hard_link("usr/lib/old", "z")
            .hard_link("a", "usr/lib/old")
            .file("z", b"new"),
    );
    for name in ["a", "usr/lib/old", "z"] {
        assert!(
            tree.line(name).contains("\"new\""),
            "{name}: {:?}",
            tree.lines
        );
    }
}

#[test]
fn what_the_layer_has_hidden_is_not_found_below() {
    let rows = [
        (
            "a link to what comes later",
            Tar::new().hard_link("usr", "z").dir("usr/lib"),
        ),
        ("a whiteout", Tar::new().file("usr/lib/.wh.old", b"")),
        (
            "an opaque parent",
            Tar::new().file("usr/lib/.wh..wh..opq", b""),
        ),
        ("an opaque root", Tar::new().file(".wh..wh..opq", b"")),
        (
            "a directory that was a file",
            Tar::new().file("usr", b"").dir("usr").dir("usr/lib"),
        ),
    ];
    for (row, tar) in rows {
        let error = Below::new().try_unpack(tar.hard_link("new", "usr/lib/old"));
        let error = error.map(|_| row).unwrap_err();
        let is_nowhere = matches!(
            error,
            Error::HardLink {
                fault: LinkFault::Nowhere,
                ..
            }
        );
        assert!(is_nowhere, "{row}: {error:?}");
    }
}

#[test]
fn copies_count_towards_the_limits() {
    let mut below = Below::new();
    write_special(&below.at("usr/lib/special"));
    below.scratch.limits.unpacked_bytes = 3 << 20;
    let error = below
        .try_unpack(Tar::new().hard_link("a", "lib/special"))
        .unwrap_err();
    let limit = LimitKind::UnpackedBytes;
    assert!(
        matches!(error, Error::Limit { limit: found, .. } if found == limit),
        "{error:?}"
    );
}

/// What is below is trusted no more than the layer: a device and a fifo are made, never opened.
#[test]
fn a_device_below_is_made_and_not_opened() {
    let below = Below::new();
    let make = |name: &str, kind, device| {
        mknodat(CWD, below.at(name), kind, 0o640.into(), device).unwrap();
    };
    make("tty", FileType::CharacterDevice, makedev(5, 0));
    make("pipe", FileType::Fifo, 0);
    let tree = below.unpack(Tar::new().hard_link("a", "tty").hard_link("b", "pipe"));
    assert!(
        tree.line("a").starts_with("020640 0:0 5:0 "),
        "{}",
        tree.line("a")
    );
    assert!(
        tree.line("b").starts_with("010640 0:0 0:0 "),
        "{}",
        tree.line("b")
    );
}
