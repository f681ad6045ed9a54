//! Whatever the bytes: nothing outside the staging directory, and nothing left of it.

use proptest::prelude::*;
use rootfs::Error;

use crate::kit::{Blob, GZIP, Header, Scratch, Tar, Tree, ZSTD, describe, pax_body};

/// Few names, so that entries meet.
fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "a",
        "a/b",
        "a/b/c",
        "b",
        "b/a",
        "./",
        "/a",
        "../a",
        "a/..",
        "a/.wh.b",
        ".wh.a",
        "a/.wh..wh..opq",
        ".wh..wh..opq",
        ".wh.",
        "c",
        "c/a",
        "",
    ])
}

fn target() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "../outside", "/", "b/a", "..", "c", "../../x"])
}

/// Entries that get in each other's way.
fn entries() -> impl Strategy<Value = Tar> {
    let plain = prop_oneof![
        (name(), 0..3000_usize).prop_map(|(name, size)| Tar::new().file(name, &vec![7; size])),
        name().prop_map(|name| Tar::new().dir(name)),
        (name(), target()).prop_map(|(name, target)| Tar::new().symlink(name, target)),
        (name(), target()).prop_map(|(name, target)| Tar::new().hard_link(name, target)),
        (name(), 0..2_u64).prop_map(|(name, minor)| {
            Tar::new().header(Header::new(b'3', name).device(minor, minor))
        }),
        name().prop_map(|name| Tar::new().header(Header::new(b'6', name))),
        name().prop_map(|name| Tar::new().pax(&[("path", name.as_bytes()), ("uid", b"7")])),
    ];
    let entry = prop_oneof![
        8 => plain,
        1 => long_name(),
        1 => overlay_attribute(),
        1 => sparse(),
        1 => extended_header(),
    ];
    prop::collection::vec(entry, 0..12).prop_map(|entries| {
        entries
            .into_iter()
            .fold(Tar::new(), |all, next| all.raw(&next.0))
    })
}

/// A long name or target of GNU tar, and mostly the entry that it is for.
fn long_name() -> impl Strategy<Value = Tar> {
    let text = prop_oneof![
        name().prop_map(|name| name.as_bytes().to_vec()),
        target().prop_map(|target| format!("{}{target}", "d/../".repeat(40)).into_bytes()),
        prop::collection::vec(any::<u8>(), 0..600),
    ];
    let entries = prop::sample::select(vec![&b"0"[..], b"1", b"2", b"5", b""]);
    (any::<bool>(), text, entries).prop_map(|(is_name, text, entries)| {
        let typeflag = if is_name { b'L' } else { b'K' };
        let long = Tar::new().put(Header::new(typeflag, "././@LongLink"), &text);
        entries.iter().fold(long, |tar, &typeflag| {
            tar.header(Header::new(typeflag, "a").link("b"))
        })
    })
}

/// What would steer an overlay mount.
fn overlay_attribute() -> impl Strategy<Value = Tar> {
    let part = |parts: &[&'static str]| prop::sample::select(parts.to_vec());
    let key = (
        part(&["SCHILY.xattr.", "LIBARCHIVE.xattr."]),
        part(&["trusted.", "user.", "%75ser."]),
        part(&["overlay.", "overlay.overlay.", "overlay", "Overlay."]),
        part(&["opaque", "redirect", "metacopy", "whiteout", "origin", ""]),
    );
    let value = part(&["y", "x", "/outside", "", "eQ"]);
    (key, value, name(), any::<bool>()).prop_map(|(key, value, name, is_dir)| {
        let key = [key.0, key.1, key.2, key.3].concat();
        let tar = Tar::new().pax(&[(&key, value.as_bytes())]);
        if is_dir {
            tar.dir(name)
        } else {
            tar.file(name, b"")
        }
    })
}

/// A sparse file in one of the four formats, whose map and sizes may be lies.
fn sparse() -> impl Strategy<Value = Tar> {
    let segments = prop::collection::vec((0..2000_u64, 0..600_u64), 0..4);
    let lie = prop::option::weighted(
        0.2,
        prop::sample::select(vec![0, 1, 511, 1 << 20, 7 << 30, u64::MAX >> 1, u64::MAX]),
    );
    (name(), segments, lie.clone(), lie, 0..4_usize).prop_map(
        |(name, segments, size, offset, format)| {
            let (mut map, mut end, mut stored) = (Vec::new(), 0, 0);
            for (hole, length) in segments {
                map.push((end + hole, length));
                end += hole + length;
                stored += usize::try_from(length).unwrap();
            }
            if let (Some(first), Some(lie)) = (map.first_mut(), offset) {
                first.0 = lie;
            }
            let size = size.unwrap_or(end);
            let body = vec![7; stored];
            if format == 3 {
                return old_sparse(name, &map, size, &body);
            }
            pax_sparse(format, name, &map, size, &body)
        },
    )
}

fn old_sparse(name: &str, map: &[(u64, u64)], size: u64, body: &[u8]) -> Tar {
    let number = |value: u64| [&[0x80, 0, 0, 0][..], &value.to_be_bytes()].concat();
    let header = Header::new(b'S', name)
        .at(257, b"ustar  \0")
        .at(483, &number(size));
    let places = (386..).step_by(24);
    let header = places
        .zip(map)
        .fold(header, |header, (at, &(offset, length))| {
            header.at(at, &number(offset)).at(at + 12, &number(length))
        });
    Tar::new().put(header, body)
}

/// In format 0.0, 0.1 or 1.0.
fn pax_sparse(format: usize, name: &str, map: &[(u64, u64)], size: u64, body: &[u8]) -> Tar {
    let numbers: Vec<_> = map
        .iter()
        .flat_map(|&(offset, length)| [offset.to_string(), length.to_string()])
        .collect();
    let (count, size) = (map.len().to_string(), size.to_string());
    let record = |key, value: &str| (key, value.as_bytes().to_vec());
    let mut records = match format {
        2 => vec![
            record("GNU.sparse.major", "1"),
            record("GNU.sparse.minor", "0"),
            record("GNU.sparse.realsize", &size),
        ],
        _ => vec![
            record("GNU.sparse.size", &size),
            record("GNU.sparse.numblocks", &count),
        ],
    };
    let mut lines = Vec::new();
    match format {
        0 => {
            let keys = ["GNU.sparse.offset", "GNU.sparse.numbytes"]
                .into_iter()
                .cycle();
            records.extend(keys.zip(&numbers).map(|(key, number)| record(key, number)));
        }
        1 => records.push(record("GNU.sparse.map", &numbers.join(","))),
        _ => {
            let all = [&[count], &numbers[..]].concat();
            lines = (all.join("\n") + "\n").into_bytes();
            lines.resize(lines.len().next_multiple_of(512), 0);
        }
    }
    let records: Vec<_> = records
        .iter()
        .map(|(key, value)| (*key, value.as_slice()))
        .collect();
    Tar::new()
        .pax(&records)
        .file(name, &[&lines[..], body].concat())
}

/// An extended header, of one entry or of all, whose body is junk or has a byte that is.
fn extended_header() -> impl Strategy<Value = Tar> {
    let records = pax_body(&[
        ("path", b"../outside/a"),
        ("size", b"1024"),
        ("uid", b"7"),
        ("SCHILY.xattr.user.x", b"1"),
    ]);
    let damaged = (any::<prop::sample::Index>(), any::<u8>()).prop_map(move |(at, byte)| {
        let mut records = records.clone();
        let at = at.index(records.len());
        records[at] = byte;
        records
    });
    let body = prop_oneof![prop::collection::vec(any::<u8>(), 0..600), damaged];
    let typeflag = prop::sample::select(b"xXg".to_vec());
    (typeflag, body, name()).prop_map(|(typeflag, body, name)| {
        Tar::new()
            .put(Header::new(typeflag, "PaxHeaders/x"), &body)
            .file(name, b"after")
    })
}

/// Nothing of an archive steers the overlay mount: the one attribute there is our own mark.
fn assert_steers_no_mount(result: Result<Tree, Error>) {
    let Ok(tree) = result else { return };
    for (name, line) in tree.lines {
        let line = line.replace(r#" trusted.overlay.opaque="y""#, "");
        assert!(!line.contains(".overlay."), "{name}: {line}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    // The kit asserts the property after every attempt, successful or not.

    #[test]
    fn any_bytes_stay_inside(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        let scratch = Scratch::new();
        drop(scratch.unpack(&Blob::plain(bytes.clone())));
        drop(scratch.unpack(&Blob::new(bytes.clone(), GZIP, &[])));
        drop(scratch.unpack(&Blob::new(bytes, ZSTD, &[])));
    }

    #[test]
    fn any_entries_stay_inside(tar in entries()) {
        let scratch = Scratch::new();
        assert_steers_no_mount(scratch.unpack(&Blob::gzip(&tar.end())));
    }

    #[test]
    fn any_entries_on_links_below_stay_inside(tar in entries()) {
        let below = tempfile::tempdir().unwrap();
        std::fs::create_dir(below.path().join("c")).unwrap();
        std::fs::write(below.path().join("c/a"), "below").unwrap();
        for (link, target) in [("a", "c"), ("b", "../outside")] {
            std::os::unix::fs::symlink(target, below.path().join(link)).unwrap();
        }
        let before = describe(below.path());
        let mut scratch = Scratch::new();
        scratch.below = Some(rootfs::Dir::open_ambient(below.path()).unwrap());
        assert_steers_no_mount(scratch.unpack(&Blob::gzip(&tar.end())));
        assert_eq!(describe(below.path()), before);
    }

    #[test]
    fn any_damage_stays_inside(tar in entries(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = tar.end();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let scratch = Scratch::new();
        drop(scratch.unpack(&Blob::plain(bytes)));
    }
}
