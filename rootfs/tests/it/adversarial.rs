//! Archives made to do harm. Each has its own error; none leaves anything, anywhere.

use rootfs::{Error, HeaderFault, LimitKind, Limits, LinkFault, PaxFault, SparseFault};

use crate::kit::{Blob, Header, Scratch, Tar};

type Row = (&'static str, Tar, fn(&Error) -> bool);

fn refuses(rows: Vec<Row>) {
    let scratch = Scratch::new();
    for (row, tar, is_expected) in rows {
        for blob in [
            Blob::plain(tar.clone().end()),
            Blob::gzip(&tar.clone().end()),
        ] {
            let error = scratch.unpack(&blob).expect_err(row);
            assert!(is_expected(&error), "{row}: {error:?}");
        }
    }
}

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
            let error = scratch.unpack(&Blob::plain(tar.end())).expect_err(what);
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

#[test]
fn refuses_devices_and_attributes_that_steer_the_overlay() {
    let overlay: fn(&Error) -> bool = |error| matches!(error, Error::OverlayXattr { .. });
    let device: fn(&Error) -> bool = |error| matches!(error, Error::WhiteoutDevice { .. });
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

#[test]
fn refuses_headers_on_which_readers_disagree() {
    let pax_fault: fn(&Error) -> bool = |error| {
        matches!(
            error,
            Error::Pax {
                fault: PaxFault::Record { .. },
                ..
            }
        )
    };
    let number: fn(&Error) -> bool = |error| {
        matches!(
            error,
            Error::Header {
                fault: HeaderFault::Number { .. },
                ..
            }
        )
    };
    let sized: fn(&Error) -> bool = |error| {
        matches!(
            error,
            Error::Header {
                fault: HeaderFault::Size { .. },
                ..
            }
        )
    };
    let twice: fn(&Error) -> bool = |error| {
        matches!(
            error,
            Error::Header {
                fault: HeaderFault::Duplicate { .. },
                ..
            }
        )
    };
    let dangling: fn(&Error) -> bool = |error| {
        matches!(
            error,
            Error::Header {
                fault: HeaderFault::Dangling,
                ..
            }
        )
    };
    let mut broken = Header::new(b'0', "a").sealed();
    broken[0] = b'b';
    let long = |kind, body: &[u8]| Tar::new().put(Header::new(kind, "././@LongLink"), body);
    refuses(vec![
        ("checksum", Tar::new().raw(&broken), |error| {
            matches!(
                error,
                Error::Header {
                    offset: 0,
                    fault: HeaderFault::Checksum { .. }
                }
            )
        }),
        (
            "malformed pax is no nothing",
            Tar::new()
                .put(Header::new(b'x', "x"), b"99 path=a\n")
                .file("a", b""),
            pax_fault,
        ),
        (
            "malformed global pax",
            Tar::new()
                .put(Header::new(b'g', "g"), b"junk")
                .file("a", b""),
            pax_fault,
        ),
        (
            "size in letters",
            Tar::new().header(Header::new(b'0', "a").at(124, b"zzzzzzzzzzz")),
            number,
        ),
        (
            "negative size",
            Tar::new().header(Header::new(b'0', "a").at(124, &[0xff; 12])),
            number,
        ),
        (
            "uid that means none",
            Tar::new().header(Header::new(b'0', "a").at(108, b"\x80\0\0\0\xff\xff\xff\xff")),
            number,
        ),
        (
            "directory with content",
            Tar::new().put(Header::new(b'5', "a"), b"body"),
            sized,
        ),
        (
            "symlink with content",
            Tar::new().put(Header::new(b'2', "a").link("b"), b"body"),
            sized,
        ),
        (
            "pax size of a symlink",
            Tar::new().pax(&[("size", b"512")]).symlink("a", "b"),
            sized,
        ),
        (
            "two pax headers",
            Tar::new()
                .pax(&[("path", b"a")])
                .pax(&[("path", b"b")])
                .file("c", b""),
            twice,
        ),
        (
            "two long names",
            long(b'L', b"a")
                .put(Header::new(b'L', "x"), b"b")
                .file("c", b""),
            twice,
        ),
        (
            "pax header for nothing",
            Tar::new().file("a", b"").pax(&[("path", b"b")]),
            dangling,
        ),
        ("long name for nothing", long(b'L', b"a"), dangling),
        (
            "unknown type",
            Tar::new().header(Header::new(b'Z', "a")),
            |error| {
                matches!(
                    error,
                    Error::Header {
                        fault: HeaderFault::Typeflag { typeflag: 'Z' },
                        ..
                    }
                )
            },
        ),
        (
            "multi-volume",
            Tar::new().header(Header::new(b'M', "a")),
            |error| {
                matches!(
                    error,
                    Error::Header {
                        fault: HeaderFault::Typeflag { typeflag: 'M' },
                        ..
                    }
                )
            },
        ),
        (
            "one block of zeros",
            Tar::new().raw(&[0; 512]).file("a", b""),
            |error| {
                matches!(
                    error,
                    Error::Header {
                        offset: 512,
                        fault: HeaderFault::LoneZeroBlock,
                        ..
                    }
                )
            },
        ),
        (
            "global path",
            Tar::new().global(&[("path", b"a")]).file("b", b""),
            |error| {
                matches!(
                    error,
                    Error::Pax {
                        fault: PaxFault::Global { .. },
                        ..
                    }
                )
            },
        ),
    ]);
}

#[test]
fn refuses_sparse_maps_that_lie() {
    let sparse = |records: &[(&str, &[u8])], body: &[u8]| Tar::new().pax(records).file("a", body);
    let segment: fn(&Error) -> bool = |error| {
        matches!(
            error,
            Error::Sparse {
                fault: SparseFault::Segment { .. },
                ..
            }
        )
    };
    let format: fn(&Error) -> bool = |error| {
        matches!(
            error,
            Error::Sparse {
                fault: SparseFault::Format,
                ..
            }
        )
    };
    refuses(vec![
        (
            "past the end",
            sparse(
                &[
                    ("GNU.sparse.size", b"10"),
                    ("GNU.sparse.numblocks", b"1"),
                    ("GNU.sparse.map", b"9,5"),
                ],
                b"12345",
            ),
            segment,
        ),
        (
            "overlap",
            sparse(
                &[
                    ("GNU.sparse.size", b"99"),
                    ("GNU.sparse.numblocks", b"2"),
                    ("GNU.sparse.map", b"0,3,2,2"),
                ],
                b"12345",
            ),
            segment,
        ),
        (
            "other sum",
            sparse(
                &[
                    ("GNU.sparse.size", b"99"),
                    ("GNU.sparse.numblocks", b"1"),
                    ("GNU.sparse.map", b"0,3"),
                ],
                b"12345",
            ),
            |error| {
                matches!(
                    error,
                    Error::Sparse {
                        fault: SparseFault::Sum {
                            segments: 3,
                            stored: 5
                        },
                        ..
                    }
                )
            },
        ),
        (
            "no size",
            sparse(&[("GNU.sparse.map", b"0,5")], b"12345"),
            format,
        ),
        (
            "unknown version",
            sparse(
                &[("GNU.sparse.major", b"7"), ("GNU.sparse.realsize", b"5")],
                b"12345",
            ),
            format,
        ),
        (
            "map not in the content",
            sparse(
                &[
                    ("GNU.sparse.major", b"1"),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.realsize", b"5"),
                ],
                b"1\n0\n",
            ),
            format,
        ),
        (
            "map of letters",
            sparse(
                &[
                    ("GNU.sparse.major", b"1"),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.realsize", b"5"),
                ],
                &[b'a'; 512],
            ),
            format,
        ),
    ]);
}

#[test]
fn stops_bombs_before_they_have_written_much() {
    let scratch = Scratch::new();
    let ten_gigabytes = 10_u64 << 30;
    let by_ratio = |error: Error, row: &str| {
        let Error::Limit {
            limit: LimitKind::Ratio,
            found,
            ..
        } = error
        else {
            panic!("{row}: {error:?}")
        };
        found
    };
    // In all four sparse formats the file is stated to be 10 GiB and holds nothing.
    let size = ten_gigabytes.to_string();
    let empty: [(&str, &[u8]); 3] = [
        ("GNU.sparse.size", size.as_bytes()),
        ("GNU.sparse.numblocks", b"0"),
        ("GNU.sparse.map", b""),
    ];
    let one: [(&str, &[u8]); 3] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.realsize", size.as_bytes()),
    ];
    let mut map = vec![0; 512];
    map[..2].copy_from_slice(b"0\n");
    let old = Header::new(b'S', "a")
        .at(257, b"ustar  \0")
        .at(483, b"\x80\0\0\0\0\0\0\x02\x80\0\0\0");
    let rows = [
        ("pax 0.x", Tar::new().pax(&empty).file("a", b"")),
        ("pax 1.0", Tar::new().pax(&one).file("a", &map)),
        ("old", Tar::new().header(old)),
    ];
    for (row, tar) in rows {
        let blob = Blob::plain(tar.end());
        assert!(blob.bytes.len() <= 4096, "{row}");
        assert_eq!(
            by_ratio(scratch.unpack(&blob).unwrap_err(), row),
            ten_gigabytes,
            "{row}"
        );
    }
    let zeros = Tar::new().file("zeros", &vec![0; 200 << 20]).end();
    for blob in [Blob::gzip(&zeros), Blob::zstd(&zeros)] {
        let found = by_ratio(scratch.unpack(&blob).unwrap_err(), blob.media_type);
        assert!(found < 128 << 20, "{}: {found}", blob.media_type);
    }
}

#[test]
fn holds_layers_to_every_limit() {
    let deep = vec!["d"; 30].join("/");
    let rows: Vec<(LimitKind, Limits, Tar)> = vec![
        (
            LimitKind::Entries,
            Limits {
                entries: 2,
                ..Limits::default()
            },
            Tar::new().dir("a").dir("b").dir("c"),
        ),
        (
            LimitKind::Entries,
            Limits {
                entries: 20,
                ..Limits::default()
            },
            Tar::new().file(&deep, b""),
        ),
        (
            LimitKind::PathDepth,
            Limits {
                path_depth: 20,
                ..Limits::default()
            },
            Tar::new().file(&deep, b""),
        ),
        (
            LimitKind::PathBytes,
            Limits {
                path_bytes: 20,
                ..Limits::default()
            },
            Tar::new().file(&deep, b""),
        ),
        (
            LimitKind::HeaderBytes,
            Limits {
                header_bytes: 99,
                ..Limits::default()
            },
            Tar::new().pax(&[("comment", &[b'x'; 100])]).file("a", b""),
        ),
        (
            LimitKind::HeaderBytes,
            Limits::default(),
            Tar::new().header(Header::new(b'x', "x").size(1 << 32)),
        ),
        (
            LimitKind::HeaderBytes,
            Limits::default(),
            Tar::new().header(Header::new(b'L', "x").size((8 << 30) - 1)),
        ),
        (
            LimitKind::XattrBytes,
            Limits {
                xattr_bytes: 20,
                ..Limits::default()
            },
            Tar::new()
                .pax(&[("SCHILY.xattr.user.a", b"0123456789abcdef")])
                .file("a", b""),
        ),
        (
            LimitKind::UnpackedBytes,
            Limits {
                unpacked_bytes: 3000,
                ..Limits::default()
            },
            Tar::new().file("a", &[1; 3000]),
        ),
        (
            LimitKind::ComponentBytes,
            Limits::default(),
            Tar::new().pax(&[("path", &[b'x'; 256])]).file("a", b""),
        ),
    ];
    let mut scratch = Scratch::new();
    for (expected, limits, tar) in rows {
        scratch.limits = limits;
        let error = scratch.unpack(&Blob::plain(tar.end())).unwrap_err();
        assert!(
            matches!(error, Error::Limit { limit, .. } if limit == expected),
            "{expected:?}: {error:?}"
        );
    }
}

/// CVE-2025-62518: the size in a pax header counts, for the entry it belongs to and no other.
#[test]
fn a_pax_size_hides_no_entries() {
    let scratch = Scratch::new();
    let inner = Tar::new().file("smuggled", b"x").0;
    let size = inner.len().to_string();
    let outer = Tar::new()
        .pax(&[("size", size.as_bytes())])
        .header(Header::new(b'0', "archive.tar").size(0))
        .body(&inner)
        .file("after", b"y");
    let tree = scratch.unpack(&Blob::plain(outer.end())).unwrap();
    assert_eq!(tree.names(), ["after", "archive.tar"]);

    // Between a pax header and its entry, a long name has the size of its own header.
    let tar = Tar::new()
        .pax(&[("size", b"3")])
        .put(Header::new(b'L', "././@LongLink"), b"the-name\0")
        .header(Header::new(b'0', "short").size(0))
        .body(b"abc")
        .file("after", b"y");
    let tree = scratch.unpack(&Blob::plain(tar.end())).unwrap();
    assert_eq!(tree.names(), ["after", "the-name"]);
    assert!(
        tree.line("the-name").contains("3 bytes \"abc\""),
        "{}",
        tree.line("the-name")
    );
}
