//! Against GNU tar, bsdtar and umoci: the same layers, unpacked by each, must give the same tree.

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rootfs::{Error, PaxFault};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, chownat, makedev, mknodat, setxattr};

use crate::kit::{Blob, CAPABILITY, Header, Lines, Scratch, Tar, describe};
use crate::reference::{Image, Reference};

fn build(root: &Path) {
    let at = |name: &str| root.join(name);
    for dir in ["usr/bin", "usr/lib/deep/er", "var/empty", "tmp"] {
        std::fs::create_dir_all(at(dir)).unwrap();
    }
    for number in 0..200 {
        let content = vec![b'x'; number * 137];
        std::fs::write(at(&format!("usr/lib/file-{number}")), content).unwrap();
    }
    let long = at("usr/lib").join("n".repeat(250)).join("m".repeat(250));
    std::fs::create_dir_all(&long).unwrap();
    std::fs::write(long.join("f"), "long").unwrap();
    symlink("n".repeat(300), at("usr/bin/long-link")).unwrap();
    std::fs::write(at("usr/bin/sudo"), "suid").unwrap();
    std::fs::hard_link(at("usr/bin/sudo"), at("usr/lib/sudoedit")).unwrap();
    symlink("../lib/file-1", at("usr/bin/link")).unwrap();
    symlink("/nowhere", at("usr/bin/dangling")).unwrap();
    mknodat(
        CWD,
        at("tmp/null"),
        FileType::CharacterDevice,
        Mode::from(0o666),
        makedev(1, 3),
    )
    .unwrap();
    mknodat(
        CWD,
        at("tmp/disk"),
        FileType::BlockDevice,
        Mode::from(0o660),
        makedev(8, 1),
    )
    .unwrap();
    mknodat(CWD, at("tmp/fifo"), FileType::Fifo, Mode::from(0o600), 0).unwrap();
    let sparse = std::fs::File::create(at("var/sparse")).unwrap();
    for offset in [0_u64, 1 << 20, 3 << 20] {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", offset).unwrap();
    }
    sparse.set_len(5 << 20).unwrap();
    let own = |name: &str, uid, gid| {
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(uid),
            rustix::fs::Gid::from_raw(gid),
        );
        chownat(
            CWD,
            at(name),
            Some(uid),
            Some(gid),
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        )
        .unwrap();
    };
    own("usr/bin/link", 11, 12);
    own("usr/bin/sudo", 13, 14);
    own("var/empty", 3_000_000, 3_000_001);
    let mode = |name: &str, mode| {
        std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("usr/bin/sudo", 0o6755);
    mode("tmp", 0o1777);
    mode("var/empty", 0o2500);
    setxattr(
        at("usr/lib/file-2"),
        "user.note",
        b"\0binary\xff",
        XattrFlags::empty(),
    )
    .unwrap();
    setxattr(at("usr/lib"), "user.dir", b"d", XattrFlags::empty()).unwrap();
    setxattr(
        at("usr/lib/file-3"),
        "security.capability",
        CAPABILITY,
        XattrFlags::empty(),
    )
    .unwrap();
}

fn tar(arguments: &[&str], dir: &Path) {
    let status = Command::new("tar")
        .args(arguments)
        .current_dir(dir)
        .status()
        .unwrap();
    assert!(status.success(), "tar {arguments:?}: {status}");
}

#[test]
fn unpacks_what_gnu_tar_packs_as_gnu_tar_does() {
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("source");
    std::fs::create_dir(&source).unwrap();
    build(&source);
    let xattrs = ["--xattrs", "--xattrs-include=*"];
    let formats: [&[&str]; 6] = [
        &["--format=pax", "--sparse", xattrs[0], xattrs[1]],
        &["--format=pax", "--sparse", "--sparse-version=0.1"],
        &["--format=pax", "--sparse", "--sparse-version=0.0"],
        &["--format=gnu", "--sparse"],
        &["--format=oldgnu", "--sparse"],
        &[
            "--format=ustar",
            "--exclude=n*",
            "--exclude=long-link",
            "--exclude=empty",
        ],
    ];
    for (number, format) in formats.into_iter().enumerate() {
        let archive = scratch.path().join(format!("{number}.tar"));
        let theirs = scratch.path().join(format!("theirs-{number}"));
        std::fs::create_dir(&theirs).unwrap();
        let name = archive.to_str().unwrap();
        tar(
            &[&["-cf", name, "--numeric-owner"], format, &["."]].concat(),
            &source,
        );
        tar(
            &[
                &["-xpf", name, "--numeric-owner", "--same-owner"][..],
                &xattrs,
            ]
            .concat(),
            &theirs,
        );
        let blob = Blob::gzip(&std::fs::read(&archive).unwrap());
        let ours = Scratch::new().unpack(&blob).unwrap();
        let theirs = describe(&theirs);
        for (name, line) in &theirs {
            if !name.is_empty() {
                assert_eq!(ours.line(name), line, "{format:?}: {name}");
            }
        }
        assert_eq!(ours.lines.len(), theirs.len(), "{format:?}");
        assert!(
            ours.lines.len() > 200 && ours.notes.total() == 0,
            "{:?}",
            ours.notes
        );
        assert_eq!(ours.implied.len(), 0, "{format:?}");
    }
}

/// Layers by name, bottom first.
type Case = (&'static str, Vec<Tar>);

const CAPABILITY_RECORD: (&str, &[u8]) = ("SCHILY.xattr.security.capability", CAPABILITY);

fn suid(name: &str) -> Header {
    Header::new(b'0', name).mode(0o4755).owner(7, 8).mtime(99)
}

/// What one archive can say, and three programs read alike.
fn single_layers() -> Vec<Case> {
    let long = format!("{}/{}", vec!["p".repeat(200); 3].join("/"), "n".repeat(255));
    let v7 = Header::new(b'0', "v7").at(257, &[0; 8]).mtime(5);
    let linked = |header: Header| {
        header
            .at(156, b"1")
            .link("suid")
            .mode(0o4755)
            .owner(7, 8)
            .mtime(99)
    };
    vec![
        (
            "set-id bits, owners and capabilities, also of hard links",
            vec![
                Tar::new()
                    .put(suid("suid"), b"x")
                    .header(linked(suid("suid-link")))
                    .put(
                        Header::new(b'0', "sgid").mode(0o2711).owner(0, 2_097_151),
                        b"",
                    )
                    .header(
                        Header::new(b'5', "sticky/")
                            .mode(0o1777)
                            .owner(1, 2)
                            .mtime(4),
                    )
                    .header(
                        Header::new(b'5', "sgid-dir/")
                            .mode(0o2750)
                            .owner(1, 2)
                            .mtime(4),
                    )
                    .file("sgid-dir/inside", b"")
                    .header(
                        Header::new(b'5', "sgid-dir/")
                            .mode(0o2750)
                            .owner(1, 2)
                            .mtime(4),
                    )
                    .pax(&[CAPABILITY_RECORD])
                    .put(
                        Header::new(b'0', "capable")
                            .mode(0o755)
                            .owner(3, 4)
                            .mtime(1),
                        b"cap",
                    )
                    .hard_link("capable-link", "capable")
                    .pax(&[("uid", b"3000000"), ("gid", b"4000000000")])
                    .file("large-owner", b"")
                    .put(
                        Header::new(b'0', "binary-owner").at(108, b"\x80\0\0\0\0\x40\0\0"),
                        b"",
                    ),
            ],
        ),
        (
            "times, attributes and names of every kind",
            vec![
                Tar::new()
                    .pax(&[("mtime", b"1700000000.123456789")])
                    .file("sub-second", b"")
                    .pax(&[("mtime", b"-2")])
                    .file("before-1970", b"")
                    .pax(&[
                        ("SCHILY.xattr.user.binary", b"\0\n=\xff"),
                        ("SCHILY.xattr.user.b", b"2"),
                    ])
                    .file("attributes", b"")
                    .pax(&[("path", long.as_bytes())])
                    .file("short", b"long")
                    .put(
                        Header::new(b'L', "././@LongLink"),
                        &[&[b'g'; 250][..], b"\0"].concat(),
                    )
                    .file("cut", b"gnu")
                    .put(v7, b"old")
                    .file(b"not\xffutf8\xfe", b"bytes")
                    .file("empty", b""),
            ],
        ),
        (
            "devices, fifos and links",
            vec![
                Tar::new()
                    .header(
                        Header::new(b'3', "null")
                            .device(1, 3)
                            .mode(0o666)
                            .owner(1, 2)
                            .mtime(3),
                    )
                    .header(
                        Header::new(b'4', "disk")
                            .device(8, 257)
                            .mode(0o660)
                            .mtime(3),
                    )
                    .header(Header::new(b'6', "fifo").mode(0o620).mtime(3))
                    .header(
                        Header::new(b'2', "link")
                            .link("/nowhere")
                            .owner(5, 6)
                            .mode(0o777)
                            .mtime(7),
                    )
                    .file("dir/file", b"1")
                    .hard_link("hard", "dir/file")
                    .hard_link("absolute", "/dir/file"),
            ],
        ),
        (
            "entries that come twice",
            vec![
                Tar::new()
                    .file("file", b"first")
                    .file("file", b"second")
                    .symlink("changes", "file")
                    .file("changes", b"now a file")
                    .put(Header::new(b'5', "dir").mode(0o700).mtime(1), b"")
                    .put(Header::new(b'5', "dir").mode(0o750).mtime(1), b""),
            ],
        ),
        (
            "missing parents and an entry for the root",
            vec![
                Tar::new()
                    .header(Header::new(b'5', "./").mode(0o711).owner(1, 2))
                    .file("no/such/parent", b"")
                    .file("./dotted", b""),
            ],
        ),
    ]
}

/// What crosses layers.
fn several_layers() -> Vec<Case> {
    let a = || Tar::new().dir("d").file("d/a", b"a").file("f", b"from a");
    let b = || {
        Tar::new()
            .dir("d")
            .file("d/b", b"b")
            .file("d/.wh.a", b"")
            .file(".wh.f", b"")
    };
    vec![
        ("a layer that comes twice", vec![a(), b(), a()]),
        ("empty layers", vec![Tar::new(), a(), Tar::new()]),
        (
            "whiteouts and opaque marks",
            vec![
                Tar::new()
                    .dir("o")
                    .file("o/x", b"")
                    .dir("o/deep")
                    .file("o/deep/y", b"")
                    .dir("w")
                    .file("w/x", b""),
                Tar::new()
                    .dir("o")
                    .file("o/.wh..wh..opq", b"")
                    .file("o/new", b"")
                    .file(".wh.w", b""),
                Tar::new().dir("w").file("w/again", b""),
            ],
        ),
        (
            "directories become files and files directories",
            vec![
                Tar::new().dir("x").file("x/in", b"").file("y", b"file"),
                Tar::new().file("x", b"file").dir("y").file("y/in", b""),
                Tar::new().dir("x").file("x/back", b"").file("y", b"back"),
            ],
        ),
        (
            "a parent that only a lower layer describes",
            vec![
                Tar::new()
                    .header(Header::new(b'5', "p").mode(0o700).owner(1, 2).mtime(3))
                    .file("p/a", b""),
                Tar::new().file("p/b", b"").file("p/q/c", b""),
            ],
        ),
        (
            "a parent that is a link below",
            vec![
                Tar::new()
                    .dir("usr")
                    .dir("usr/lib")
                    .symlink("lib", "usr/lib")
                    .symlink("abs", "/usr/lib"),
                Tar::new().file("lib/x", b"x").file("abs/y", b"y"),
                Tar::new().file("lib/.wh.x", b"").file("lib/z", b"z"),
            ],
        ),
        (
            "a hard link to a file below",
            vec![
                Tar::new().dir("d").put(suid("d/file"), b"content"),
                Tar::new()
                    .header(suid("link").at(156, b"1").link("d/file"))
                    .header(suid("absolute").at(156, b"1").link("/d/file")),
            ],
        ),
        (
            "a link takes the place of a directory below",
            vec![
                Tar::new().dir("run").file("run/x", b"").dir("var"),
                Tar::new().file(".wh.run", b"").symlink("run", "var"),
                Tar::new().file("run/y", b""),
            ],
        ),
    ]
}

/// Layers that hide what is in [`hidden`], with the entries in every order.
fn orders() -> Vec<(&'static str, Tar)> {
    let file = |name: &str| Tar::new().file(name, b"above");
    let mark = |name: &str| Tar::new().file(name, b"");
    let dir = |name: &str| Tar::new().dir(name);
    let all = |parts: &[Tar]| parts.iter().fold(Tar::new(), |all, part| all.raw(&part.0));
    let opaque = || mark("o/.wh..wh..opq");
    vec![
        ("whiteout, file", all(&[mark(".wh.f"), file("f")])),
        ("file, whiteout", all(&[file("f"), mark(".wh.f")])),
        (
            "whiteout, directory",
            all(&[mark(".wh.d"), dir("d"), file("d/b")]),
        ),
        (
            "directory, whiteout",
            all(&[dir("d"), file("d/b"), mark(".wh.d")]),
        ),
        (
            "directory, whiteout, what is in it",
            all(&[dir("d"), mark(".wh.d"), file("d/b")]),
        ),
        (
            "directory, whiteout of what is in it, the same again",
            all(&[dir("d"), mark("d/.wh.a"), file("d/a")]),
        ),
        (
            "opaque mark first",
            all(&[dir("o"), opaque(), file("o/x"), file("o/new")]),
        ),
        (
            "opaque mark in the middle",
            all(&[dir("o"), file("o/x"), opaque(), file("o/new")]),
        ),
        (
            "opaque mark last",
            all(&[dir("o"), file("o/x"), file("o/new"), opaque()]),
        ),
        (
            "opaque mark before its directory",
            all(&[opaque(), dir("o"), file("o/x")]),
        ),
        (
            "opaque mark after a directory that is below, too",
            all(&[dir("o"), dir("o/deep"), file("o/deep/new"), opaque()]),
        ),
        (
            "opaque mark of a directory without an entry",
            all(&[file("o/x"), opaque()]),
        ),
        (
            "opaque mark, and a whiteout of what it hides",
            all(&[dir("o"), mark("o/.wh.y"), opaque(), file("o/y")]),
        ),
    ]
}

fn hidden() -> Tar {
    let below = |tar: Tar, name| tar.file(name, b"below");
    let dirs = Tar::new().dir("d").dir("o").dir("o/deep");
    ["d/a", "f", "o/deep/y", "o/x", "o/y"]
        .into_iter()
        .fold(dirs, below)
}

/// What the programs read in different ways, and those of them that we are with: these are the
/// differences that the documentation of the crate lists.
fn differences() -> Vec<(&'static str, Tar, &'static [Reference])> {
    let directory = vec!["d".repeat(255); 15].join("/");
    let longest = format!("{directory}/{}", "f".repeat(255));
    assert_eq!(longest.len(), 4095);
    let tars: &[Reference] = &[Reference::GnuTar, Reference::Bsdtar];
    vec![
        (
            "an attribute without a value, which in Go takes the attribute back",
            Tar::new()
                .pax(&[
                    ("SCHILY.xattr.user.empty", b""),
                    ("SCHILY.xattr.user.x", b"1"),
                ])
                .file("file", b""),
            tars,
        ),
        (
            "a path of 4,095 bytes, which umoci writes behind that of its root",
            Tar::new()
                .pax(&[("path", longest.as_bytes())])
                .file("cut", b"deep"),
            tars,
        ),
        (
            "the global header of git archive, a type that umoci does not know",
            Tar::new()
                .global(&[("comment", b"da39a3ee5e6b4b0d3255bfef95601890afd80709")])
                .file("file", b""),
            tars,
        ),
        (
            "a hard link to a file that comes later",
            Tar::new().hard_link("link", "file").file("file", b"later"),
            &[],
        ),
    ]
}

#[test]
fn one_archive_gives_the_same_tree_as_three_other_programs() {
    for (case, layers) in single_layers() {
        let ours = Image::new(&layers).ours();
        for reference in Reference::ALL {
            assert_same(case, reference, &ours, &layers);
        }
    }
}

#[test]
fn where_programs_differ_the_tree_is_that_of_those_that_are_named() {
    for (case, tar, same) in differences() {
        let layers = [tar];
        let ours = Image::new(&layers).ours();
        for reference in Reference::ALL {
            if same.contains(&reference) {
                assert_same(case, reference, &ours, &layers);
            } else {
                assert_ne!(
                    reference.unpack(&layers).as_ref(),
                    Ok(&ours.0),
                    "{case}: {reference:?}"
                );
            }
        }
    }
}

/// What runs containers passes over global headers, as bsdtar does; umoci refuses each of them.
#[test]
fn global_headers_that_programs_take_in_different_ways_are_refused() {
    let records: [(&str, &[u8]); 5] = [
        ("uid", b"100"),
        ("gid", b"100"),
        ("mtime", b"5.5"),
        ("path", b"other"),
        ("size", b"3"),
    ];
    for (key, value) in records {
        let layers = [Tar::new().global(&[(key, value)]).file("file", b"content")];
        let trees = [Reference::GnuTar, Reference::Bsdtar].map(|tar| tar.unpack(&layers).unwrap());
        assert_ne!(trees[0], trees[1], "{key}");
        Reference::Umoci.unpack(&layers).unwrap_err();
        let [layer] = layers;
        let error = Scratch::new()
            .unpack(&Blob::gzip(&layer.end()))
            .unwrap_err();
        assert!(
            matches!(&error, Error::Pax { offset: 0, fault: PaxFault::Global { key: found } }
                if found.as_bytes() == key.as_bytes()),
            "{key}: {error:?}"
        );
    }
}

#[test]
fn layers_on_layers_give_the_same_tree_as_umoci() {
    for (case, layers) in several_layers() {
        let ours = Image::new(&layers).ours();
        assert_same(case, Reference::Umoci, &ours, &layers);
    }
}

/// Where umoci deletes something, the directory that had it gets the time of that; ours keeps that
/// of its entry.
#[test]
fn whiteouts_in_every_order_give_the_same_tree_as_umoci() {
    for (case, tar) in orders() {
        let layers = [hidden(), tar];
        let (mut ours, implied) = Image::new(&layers).ours();
        for (name, line) in &ours {
            let is_kept = line.contains(" 0.000000000") || name.is_empty();
            assert!(is_kept || implied.contains(name), "{case}: {name}: {line}");
        }
        let mut theirs = Reference::Umoci.unpack(&layers).unwrap();
        for line in ours.values_mut().chain(theirs.values_mut()) {
            if let Some(rest) = line.strip_prefix("04") {
                *line = rest.split(' ').take(2).collect::<Vec<_>>().join(" ");
            }
        }
        assert_equal(case, Reference::Umoci, &(ours, implied), &theirs);
    }
}

fn assert_same(case: &str, who: Reference, ours: &(Lines, BTreeSet<String>), layers: &[Tar]) {
    let theirs = who
        .unpack(layers)
        .unwrap_or_else(|error| panic!("{case}: {who:?}: {error}"));
    assert_equal(case, who, ours, &theirs);
}

/// The attributes of directories that a layer implies are the business of whoever mounts.
fn assert_equal(
    case: &str,
    who: Reference,
    (ours, implied): &(Lines, BTreeSet<String>),
    theirs: &Lines,
) {
    let names = |lines: &Lines| lines.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(ours), names(theirs), "{case}: {who:?}");
    for (name, line) in theirs.iter().filter(|(name, _)| !implied.contains(*name)) {
        assert_eq!(&ours[name], line, "{case}: {who:?}: {name}");
    }
}
