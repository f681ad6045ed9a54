//! Against GNU tar: the same archive, unpacked by both, must give the same tree.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, chownat, makedev, mknodat, setxattr};

use crate::kit::{Blob, Scratch, describe};

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
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    setxattr(
        at("usr/lib/file-3"),
        "security.capability",
        capability,
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
