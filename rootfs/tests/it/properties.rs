//! Whatever the bytes: nothing outside the staging directory, and nothing left of it.

use proptest::prelude::*;

use crate::kit::{Blob, GZIP, Header, Scratch, Tar, ZSTD, describe};

/// Entries that get in each other's way, with names from a small set.
fn entries() -> impl Strategy<Value = Tar> {
    let name = || {
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
    };
    let target = || prop::sample::select(vec!["a", "../outside", "/", "b/a", "..", "c", "../../x"]);
    let entry = prop_oneof![
        (name(), 0..3000_usize).prop_map(|(name, size)| Tar::new().file(name, &vec![7; size])),
        name().prop_map(|name| Tar::new().dir(name)),
        (name(), target()).prop_map(|(name, target)| Tar::new().symlink(name, target)),
        (name(), target()).prop_map(|(name, target)| Tar::new().hard_link(name, target)),
        (name(), 0..2_u64).prop_map(|(name, minor)| {
            Tar::new().header(Header::new(b'3', name).device(minor, minor))
        }),
        name().prop_map(|name| Tar::new().header(Header::new(b'6', name))),
        name().prop_map(|name| Tar::new().pax(&[("path", name.as_bytes()), ("uid", b"7")])),
        any::<[u8; 16]>().prop_map(|bytes| Tar::new().put(Header::new(b'x', "x"), &bytes)),
    ];
    prop::collection::vec(entry, 0..12).prop_map(|entries| {
        entries
            .into_iter()
            .fold(Tar::new(), |all, next| all.raw(&next.0))
    })
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
        drop(scratch.unpack(&Blob::gzip(&tar.end())));
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
        drop(scratch.unpack(&Blob::gzip(&tar.end())));
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
