//! Archives made to do harm. Each has its own error; none leaves anything, anywhere.

use rootfs::{Error, HeaderFault, LinkFault, PaxFault};

use crate::kit::{Blob, Header, Scratch, Tar, refuses};

#[test]
fn refuses_names_that_lead_out() {
    let climbs: fn(&Error) -> bool = |error| matches!(error, Error::ParentComponent { .. });
    refuses(vec![
        ("file above", Tar::new().file("../evil", b"x"), climbs),
        (
            "file above by detour",
            Tar::new().file("a/../../evil", b"x"),
            climbs,
        ),
        (
            "absolute and above",
            Tar::new().file("/../../evil", b"x"),
            climbs,
        ),
        ("directory above", Tar::new().dir("../evil/"), climbs),
        ("the parent itself", Tar::new().dir(".."), climbs),
        ("symlink above", Tar::new().symlink("../evil", "x"), climbs),
        (
            "hard link to a file above",
            Tar::new().hard_link("a", "../outside/canary"),
            climbs,
        ),
        (
            "whiteout above",
            Tar::new().file("../.wh.outside", b""),
            climbs,
        ),
        (
            "pax path",
            Tar::new().pax(&[("path", b"../evil")]).file("a", b""),
            climbs,
        ),
        (
            "pax linkpath",
            Tar::new().pax(&[("linkpath", b"../x")]).hard_link("a", "b"),
            climbs,
        ),
        (
            "sparse name",
            Tar::new()
                .pax(&[
                    ("GNU.sparse.name", b"../evil"),
                    ("GNU.sparse.size", b"0"),
                    ("GNU.sparse.numblocks", b"0"),
                ])
                .file("a", b""),
            climbs,
        ),
        (
            "long name",
            Tar::new()
                .put(Header::new(b'L', "././@LongLink"), b"../evil\0")
                .file("a", b""),
            climbs,
        ),
        (
            "pax path with zero",
            Tar::new().pax(&[("path", b"a\0b")]).file("a", b""),
            |error| matches!(error, Error::Pax { fault: PaxFault::Value { key }, .. } if key.as_bytes() == b"path"),
        ),
    ]);
}

#[test]
fn refuses_to_write_through_links_that_lead_nowhere_here() {
    let scratch = Scratch::new();
    let outside = scratch.outside();
    let outside = outside.to_str().unwrap();
    // Far more components than lead to the root of any file system.
    let climbing = format!("{}{outside}", "../".repeat(10));
    let missing = |error: Error, row: &str| {
        assert!(
            matches!(
                &error,
                Error::ParentLink {
                    fault: LinkFault::Missing,
                    ..
                }
            ),
            "{row}: {error:?}"
        );
    };
    let long = |name: &[u8], target: &str| {
        Tar::new()
            .pax(&[("path", name), ("linkpath", target.as_bytes())])
            .symlink("l", "t")
    };
    for (row, link) in [("absolute", outside), ("climbing", climbing.as_str())] {
        let entries: [(&str, Tar); 7] = [
            ("file", long(b"x", link).file("x/evil", b"evil")),
            (
                "over the canary",
                long(b"x", link).file("x/canary", b"evil"),
            ),
            ("directory", long(b"x", link).dir("x/evil/")),
            ("symlink", long(b"x", link).symlink("x/evil", "y")),
            ("whiteout", long(b"x", link).file("x/.wh.canary", b"")),
            ("opaque", long(b"x", link).file("x/.wh..wh..opq", b"")),
            (
                "hard link within",
                long(b"x", link).file("f", b"").hard_link("x/evil", "f"),
            ),
        ];
        for (what, tar) in entries {
            let error = scratch
                .unpack(&Blob::plain(tar.end()))
                .map(|_| what)
                .unwrap_err();
            missing(error, &format!("{row} link, {what}"));
        }
        let from = long(b"x", link).hard_link("stolen", "x/canary").end();
        missing(
            scratch.unpack(&Blob::plain(from)).unwrap_err(),
            "hard link from outside",
        );
    }
    let twice = Tar::new()
        .symlink("a", "b")
        .symlink("b", "a")
        .file("a/x", b"")
        .end();
    let error = scratch.unpack(&Blob::plain(twice)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::ParentLink {
                fault: LinkFault::Loop,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn no_metadata_lands_on_what_a_link_names() {
    let scratch = Scratch::new();
    let canary = scratch.outside().join("canary");
    let target = canary.to_str().unwrap().as_bytes();
    // The kit compares mode, owner, times and attributes of the canary before and after.
    let tar = Tar::new()
        .pax(&[("linkpath", target), ("SCHILY.xattr.trusted.evil", b"1")])
        .header(
            Header::new(b'2', "x")
                .link("t")
                .mode(0o6777)
                .owner(1, 2)
                .mtime(7),
        )
        .file("y", b"")
        .pax(&[("linkpath", target)])
        .symlink("y", "t")
        .hard_link("z", "y");
    let tree = scratch.unpack(&Blob::plain(tar.end())).unwrap();
    assert!(
        tree.line("x").starts_with("120777 1:2 -> "),
        "{}",
        tree.line("x")
    );
    assert!(
        tree.line("x").contains(" 7.000000000 trusted.evil="),
        "{}",
        tree.line("x")
    );
    assert!(tree.line("z").contains("linked y"), "{}", tree.line("z"));
}

#[test]
fn a_file_replaces_a_link_and_not_its_target() {
    let scratch = Scratch::new();
    let canary = scratch.outside().join("canary");
    let target = canary.to_str().unwrap().as_bytes();
    let link = || Tar::new().pax(&[("linkpath", target)]).symlink("x", "t");
    let tree = scratch
        .unpack(&Blob::plain(link().file("x", b"mine").end()))
        .unwrap();
    assert!(
        tree.line("x").starts_with("100644 0:0 4 bytes \"mine\""),
        "{}",
        tree.line("x")
    );
    let tree = scratch
        .unpack(&Blob::plain(link().dir("x").file("x/y", b"").end()))
        .unwrap();
    assert_eq!(tree.names(), ["x", "x/y"]);
    assert!(tree.line("x").starts_with("040755"), "{}", tree.line("x"));
}

#[test]
fn refuses_a_root_that_is_no_directory() {
    let not_directory: fn(&Error) -> bool = |error| matches!(error, Error::RootNotDirectory { .. });
    refuses(vec![
        (
            "symlink for root",
            Tar::new().symlink("./", "/etc"),
            not_directory,
        ),
        ("file for root", Tar::new().file(".", b"x"), not_directory),
        ("empty name", Tar::new().file("", b""), not_directory),
        (
            "hard link for root",
            Tar::new().file("a", b"").hard_link("/", "a"),
            not_directory,
        ),
        (
            "hard link to root",
            Tar::new().hard_link("a", "/"),
            |error| {
                matches!(
                    error,
                    Error::HardLink {
                        fault: LinkFault::Directory,
                        ..
                    }
                )
            },
        ),
    ]);
}

#[test]
fn refuses_links_and_parents_of_the_wrong_kind() {
    let through: fn(&Error) -> bool = |error| matches!(error, Error::ParentNotDirectory { parent, .. } if parent.as_bytes() == b"a");
    let missing: fn(&Error) -> bool = |error| {
        matches!(
            error,
            Error::HardLink {
                fault: LinkFault::Missing,
                ..
            }
        )
    };
    refuses(vec![
        (
            "beneath a file",
            Tar::new().file("a", b"").file("a/b", b""),
            through,
        ),
        (
            "beneath a fifo",
            Tar::new().header(Header::new(b'6', "a")).dir("a/b"),
            through,
        ),
        (
            "beneath a device",
            Tar::new()
                .header(Header::new(b'3', "a").device(1, 3))
                .dir("a/b"),
            through,
        ),
        (
            "hard link to nothing",
            Tar::new().hard_link("a", "b"),
            missing,
        ),
        (
            "hard link to itself",
            Tar::new().hard_link("a", "a"),
            missing,
        ),
        (
            "hard links in a circle",
            Tar::new().hard_link("a", "b").hard_link("b", "a"),
            missing,
        ),
        (
            "hard link to a whiteout",
            Tar::new().file(".wh.b", b"").hard_link("a", "b"),
            missing,
        ),
        (
            "hard link through nothing",
            Tar::new().hard_link("a", "no/such"),
            missing,
        ),
        (
            "hard link to a directory",
            Tar::new().dir("d").hard_link("a", "d"),
            |error| {
                matches!(
                    error,
                    Error::HardLink {
                        fault: LinkFault::Directory,
                        ..
                    }
                )
            },
        ),
        (
            "hard link without target",
            Tar::new().hard_link("a", ""),
            |error| {
                matches!(
                    error,
                    Error::Header {
                        fault: HeaderFault::NoTarget,
                        ..
                    }
                )
            },
        ),
        (
            "symlink without target",
            Tar::new().symlink("a", ""),
            |error| {
                matches!(
                    error,
                    Error::Header {
                        fault: HeaderFault::NoTarget,
                        ..
                    }
                )
            },
        ),
    ]);
}

fn out_of_range(error: &Error, expected: &str) -> bool {
    matches!(error, Error::Header { fault: HeaderFault::Number { field }, .. } if *field == expected)
}

#[test]
fn refuses_devices_and_attributes_that_steer_the_overlay() {
    let overlay: fn(&Error) -> bool = |error| matches!(error, Error::OverlayXattr { .. });
    let device: fn(&Error) -> bool = |error| matches!(error, Error::WhiteoutDevice { .. });
    let major: fn(&Error) -> bool = |error| out_of_range(error, "devmajor");
    let minor: fn(&Error) -> bool = |error| out_of_range(error, "devminor");
    let over: fn(&Error) -> bool = |error| matches!(error, Error::DeviceOverDirectory { .. });
    let xattr = |key: &'static str| Tar::new().pax(&[(key, b"y")]);
    refuses(vec![
        (
            "opaque",
            xattr("SCHILY.xattr.trusted.overlay.opaque").dir("a"),
            overlay,
        ),
        (
            "opaque root",
            xattr("SCHILY.xattr.trusted.overlay.opaque").dir("./"),
            overlay,
        ),
        (
            "redirect",
            xattr("SCHILY.xattr.trusted.overlay.redirect").dir("a"),
            overlay,
        ),
        (
            "metacopy",
            xattr("SCHILY.xattr.trusted.overlay.metacopy").file("a", b""),
            overlay,
        ),
        (
            "user namespace",
            xattr("SCHILY.xattr.user.overlay.whiteout").file("a", b""),
            overlay,
        ),
        (
            "bsdtar's form",
            Tar::new()
                .pax(&[("LIBARCHIVE.xattr.trusted%2Eoverlay.opaque", b"eQ")])
                .dir("a"),
            overlay,
        ),
        (
            "on a link",
            xattr("SCHILY.xattr.trusted.overlay.opaque").symlink("a", "b"),
            overlay,
        ),
        (
            "device 0:0",
            Tar::new().header(Header::new(b'3', "a").device(0, 0)),
            device,
        ),
        (
            "device 4096:0, cut to 0:0",
            Tar::new().header(Header::new(b'3', "a").device(0x1000, 0)),
            major,
        ),
        (
            "device 0:1048576, cut to 0:0",
            Tar::new().header(Header::new(b'3', "a").device(0, 0x10_0000)),
            minor,
        ),
        (
            "device 4097:3, cut to 1:3",
            Tar::new().header(Header::new(b'3', "a").device(0x1001, 3)),
            major,
        ),
        (
            "block device 0:1048576",
            Tar::new().header(Header::new(b'4', "a").device(0, 0x10_0000)),
            minor,
        ),
        (
            "device over directory",
            Tar::new()
                .dir("a")
                .header(Header::new(b'3', "a").device(1, 3)),
            over,
        ),
        (
            "fifo over directory",
            Tar::new().file("a/b", b"").header(Header::new(b'6', "a")),
            over,
        ),
        (
            "whiteout of nothing",
            Tar::new().file("a/.wh.", b""),
            |error| matches!(error, Error::Whiteout { .. }),
        ),
        (
            "whiteout of the parent",
            Tar::new().file("a/.wh...", b""),
            |error| matches!(error, Error::Whiteout { .. }),
        ),
    ]);
}
