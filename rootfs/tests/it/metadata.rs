//! Owners, modes, times, attributes, devices and sparse files.

use crate::kit::{Blob, Header, Scratch, Tar, Tree};
use rootfs::Note;

fn unpack(tar: Tar) -> Tree {
    Scratch::new().unpack(&Blob::plain(tar.end())).unwrap()
}

/// `cap_net_raw=ep`, version 2.
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

#[test]
fn owners_and_modes_are_kept_whole() {
    let tree = unpack(
        Tar::new()
            .header(Header::new(b'0', "suid").mode(0o4755).owner(33, 44))
            .header(Header::new(b'0', "sgid").mode(0o2755))
            .header(Header::new(b'5', "sticky").mode(0o1777).owner(1, 0))
            .header(Header::new(b'0', "none").mode(0).owner(0, 1))
            .header(Header::new(b'5', "sticky/shared").mode(0o2770).owner(5, 6))
            .file("sticky/shared/f", b"")
            .hard_link("linked", "suid")
            .header(
                Header::new(b'1', "lying")
                    .link("suid")
                    .mode(0o644)
                    .owner(7, 7)
                    .mtime(7),
            )
            .header(
                Header::new(b'0', "base256")
                    .at(108, b"\x80\0\0\0\x7f\xff\xff\xff")
                    .at(116, b"\x80\0\0\0\x00\x40\x00\x00"),
            ),
    );
    let rows = [
        ("suid", "104755 33:44"),
        ("linked", "104755 33:44"),
        ("lying", "104755 33:44"),
        ("sgid", "102755 0:0"),
        ("sticky", "041777 1:0"),
        ("sticky/shared", "042770 5:6"),
        ("sticky/shared/f", "100644 0:0"),
        ("none", "100000 0:1"),
        ("base256", "100644 2147483647:4194304"),
    ];
    for (name, expected) in rows {
        assert!(
            tree.line(name).starts_with(expected),
            "{name}: {}",
            tree.line(name)
        );
    }
}

#[test]
fn pax_goes_over_the_header() {
    let tree = unpack(
        Tar::new()
            .global(&[("comment", b"of no entry")])
            .header(Header::new(b'0', "plain").owner(100, 200).mtime(5))
            .pax(&[("uid", b"3000000"), ("mtime", b"1700000000.123456789")])
            .header(Header::new(b'0', "own").owner(100, 200).mtime(5))
            .pax(&[("mtime", b"-1.25")])
            .dir("dir")
            .pax(&[("mtime", b"7.000000001"), ("gid", b"9")])
            .symlink("link", "x")
            .file("dir/after", b""),
    );
    let rows = [
        ("plain", " 100:200 ", " 5.000000000"),
        ("own", " 3000000:200 ", " 1700000000.123456789"),
        ("dir", " 0:0 ", " -2.750000000"),
        ("link", " 0:9 ", " 7.000000001"),
    ];
    for (name, owner, time) in rows {
        let line = tree.line(name);
        assert!(line.contains(owner), "{name}: {line}");
        assert!(line.contains(time), "{name}: {line}");
    }
}

#[test]
fn attributes_survive_the_change_of_owner() {
    let tree = unpack(
        Tar::new()
            .pax(&[
                ("SCHILY.xattr.security.capability", CAPABILITY),
                ("SCHILY.xattr.user.binary", b"\0\xff=\n"),
                ("SCHILY.xattr.user.empty", b""),
                (
                    "SCHILY.xattr.security.selinux",
                    b"system_u:object_r:bin_t:s0\0",
                ),
            ])
            .put(Header::new(b'0', "ping").mode(0o4755).owner(12, 34), b"x")
            .hard_link("linked", "ping")
            .pax(&[
                ("SCHILY.xattr.user.dir", b"d"),
                ("SCHILY.xattr.trusted.t", b"t"),
            ])
            .dir("dir")
            .pax(&[("LIBARCHIVE.xattr.user.b%73d", b"YQA")])
            .file("bsd", b"")
            .pax(&[
                ("SCHILY.xattr.user.l", b"1"),
                ("SCHILY.xattr.trusted.l", b"2"),
            ])
            .symlink("link", "x"),
    );
    for name in ["ping", "linked"] {
        let line = tree.line(name);
        assert!(line.starts_with("104755 12:34"), "{line}");
        let capability = format!(
            "security.capability={:?}",
            CAPABILITY.escape_ascii().to_string()
        );
        assert!(line.contains(&capability), "{line}");
        assert!(line.contains(r#"user.binary="\\x00\\xff=\\n""#), "{line}");
        assert!(line.contains(r#"user.empty="""#), "{line}");
        assert!(!line.contains("selinux"), "{line}");
    }
    assert!(
        tree.line("dir").contains(r#"trusted.t="t" user.dir="d""#),
        "{}",
        tree.line("dir")
    );
    assert!(
        tree.line("bsd").contains(r#"user.bsd="a\\x00""#),
        "{}",
        tree.line("bsd")
    );
    assert!(
        tree.line("link").contains(r#"trusted.l="2""#),
        "{}",
        tree.line("link")
    );
    let dropped: Vec<_> = tree
        .notes
        .iter()
        .map(|note| match note {
            Note::XattrDropped { entry, attribute } => (entry.as_bytes(), attribute.as_bytes()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        dropped,
        [
            (&b"ping"[..], &b"security.selinux"[..]),
            (b"link", b"user.l")
        ]
    );
}

#[test]
fn devices_and_fifos_are_made_and_sockets_noted() {
    let tree = unpack(
        Tar::new()
            .header(
                Header::new(b'3', "null")
                    .device(1, 3)
                    .mode(0o666)
                    .owner(1, 2)
                    .mtime(3),
            )
            .header(Header::new(b'4', "disk").device(8, 257).mode(0o6660))
            .header(Header::new(b'3', "largest").device(0xfff, 0xf_ffff))
            .header(Header::new(b'6', "fifo").mode(0o620))
            .pax(&[("SCHILY.xattr.trusted.d", b"1")])
            .header(Header::new(b'4', "marked").device(7, 0))
            .header(Header::new(b'0', "socket").mode(0o140_755))
            .header(Header::new(b'V', "a tape")),
    );
    assert!(
        tree.line("null").starts_with("020666 1:2 1:3 3.000000000"),
        "{}",
        tree.line("null")
    );
    assert!(
        tree.line("disk").starts_with("066660 0:0 8:257 "),
        "{}",
        tree.line("disk")
    );
    assert!(
        tree.line("largest").starts_with("020644 0:0 4095:1048575 "),
        "{}",
        tree.line("largest")
    );
    assert!(
        tree.line("fifo").starts_with("010620 0:0 "),
        "{}",
        tree.line("fifo")
    );
    assert!(
        tree.line("marked").contains("trusted.d"),
        "{}",
        tree.line("marked")
    );
    assert_eq!(tree.names(), ["disk", "fifo", "largest", "marked", "null"]);
    let skipped = tree.notes.iter().map(|note| match note {
        Note::SocketSkipped { entry } => ("socket", entry.as_bytes()),
        Note::VolumeLabelSkipped { entry } => ("label", entry.as_bytes()),
        other => panic!("{other:?}"),
    });
    assert_eq!(
        skipped.collect::<Vec<_>>(),
        [("socket", &b"socket"[..]), ("label", b"a tape")]
    );
    assert_eq!(tree.notes.total(), 2);
}

#[test]
fn the_root_has_what_its_entry_says() {
    let tree = unpack(
        Tar::new()
            .pax(&[("SCHILY.xattr.user.root", b"1")])
            .header(Header::new(b'5', "./").mode(0o1711).owner(3, 4))
            .file("x", b""),
    );
    assert!(
        tree.line("").starts_with("041711 3:4 "),
        "{}",
        tree.line("")
    );
    assert!(tree.line("").contains("user.root"), "{}", tree.line(""));
}

#[test]
fn sparse_files_are_whole_in_every_format() {
    let content = b"headtail";
    let mut expected = vec![0; 20_000];
    expected[..4].copy_from_slice(b"head");
    expected[15_000..15_004].copy_from_slice(b"tail");
    let expected = policy::Digest::sha256_of(&expected).to_string();

    let mut old = Header::new(b'S', "old")
        .at(257, b"ustar  \0")
        .at(345, &[0; 155]);
    for (at, (offset, length)) in [(386, (0, 4)), (410, (15_000, 4)), (434, (20_000, 0))] {
        old = old.at(at, format!("{offset:011o}\0{length:011o}").as_bytes());
    }
    let old = old.at(483, format!("{:011o}", 20_000).as_bytes());
    let mut map = b"3\n0\n4\n15000\n4\n20000\n0\n".to_vec();
    map.resize(512, 0);
    let leading: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"pax10"),
        ("GNU.sparse.realsize", b"20000"),
    ];
    let inline: [(&str, &[u8]); 4] = [
        ("GNU.sparse.size", b"20000"),
        ("GNU.sparse.numblocks", b"2"),
        ("GNU.sparse.name", b"pax01"),
        ("GNU.sparse.map", b"0,4,15000,4"),
    ];
    let pairs: [(&str, &[u8]); 6] = [
        ("GNU.sparse.size", b"20000"),
        ("GNU.sparse.numblocks", b"2"),
        ("GNU.sparse.offset", b"0"),
        ("GNU.sparse.numbytes", b"4"),
        ("GNU.sparse.offset", b"15000"),
        ("GNU.sparse.numbytes", b"4"),
    ];
    let tree = unpack(
        Tar::new()
            .put(old, content)
            .pax(&leading)
            .file("GNUSparseFile.0/pax10", &[&map[..], content].concat())
            .pax(&inline)
            .file("GNUSparseFile.0/pax01", content)
            .pax(&pairs)
            .file("pax00", content)
            .file("after", b"after"),
    );
    assert_eq!(tree.names(), ["after", "old", "pax00", "pax01", "pax10"]);
    for name in ["old", "pax00", "pax01", "pax10"] {
        assert!(
            tree.line(name).contains("20000 bytes"),
            "{name}: {}",
            tree.line(name)
        );
        assert!(
            tree.line(name).contains(&expected),
            "{name}: {}",
            tree.line(name)
        );
    }
}
