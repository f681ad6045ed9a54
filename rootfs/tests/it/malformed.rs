//! Archives that are broken, ambiguous or too much.

use rootfs::{Error, HeaderFault, LimitKind, Limits, PaxFault, SparseFault};

use crate::kit::{Blob, Header, Scratch, Tar, refuses};

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
    let contradiction: fn(&Error) -> bool = |error| {
        matches!(
            error,
            Error::Header {
                fault: HeaderFault::Contradiction { .. },
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
            "file with content and a slash",
            Tar::new().file("a/", b"body"),
            sized,
        ),
        (
            "hard link with a size after a pax header",
            Tar::new()
                .pax(&[("comment", b"x")])
                .file("a", b"")
                .header(Header::new(b'1', "b").link("a").size(512))
                .file("hidden", b""),
            sized,
        ),
        (
            "pax and GNU name",
            long(b'L', b"b").pax(&[("path", b"a")]).file("c", b""),
            contradiction,
        ),
        (
            "pax and GNU target",
            Tar::new()
                .pax(&[("linkpath", b"a")])
                .put(Header::new(b'K', "././@LongLink"), b"b")
                .symlink("c", "d"),
            contradiction,
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
            LimitKind::KeptBytes,
            Limits {
                kept_bytes: 300,
                ..Limits::default()
            },
            Tar::new().dir("a").dir("a").dir("b"),
        ),
        (
            LimitKind::KeptBytes,
            Limits {
                kept_bytes: 150,
                ..Limits::default()
            },
            Tar::new()
                .hard_link("a", "c")
                .hard_link("b", "c")
                .file("c", b""),
        ),
        (
            LimitKind::KeptBytes,
            Limits {
                kept_bytes: 400,
                ..Limits::default()
            },
            Tar::new()
                .pax(&[("SCHILY.xattr.user.a", &[b'x'; 100])])
                .dir("a"),
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
            LimitKind::ImageBytes,
            Limits {
                image_bytes: 3000,
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
