//! Against GNU tar, bsdtar and umoci: the same layers, unpacked by each, must give the same tree.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use policy::Digest;
use rootfs::{Budget, Cancel, Dir, Limits, Staging, Unpacked, unpack, unpack_onto};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, chownat, makedev, mknodat, setxattr};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::{Value, json};

use crate::kit::{Blob, CAPABILITY, Header, Lines, Scratch, Tar, describe};

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
                    .hard_link("hard", "dir/file"),
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

#[test]
fn one_archive_gives_the_same_tree_as_three_other_programs() {
    for (case, layers) in single_layers() {
        let (ours, implied) = Image::new(&layers).ours();
        let gnu = [
            "tar",
            "--xattrs",
            "--xattrs-include=*",
            "--same-owner",
            "--delay-directory-restore",
        ];
        assert_same(case, "GNU tar", &ours, &implied, &with_tar(&layers, &gnu));
        assert_same(
            case,
            "bsdtar",
            &ours,
            &implied,
            &with_tar(&layers, &["bsdtar", "--same-owner"]),
        );
        assert_same(
            case,
            "umoci",
            &ours,
            &implied,
            &Image::new(&layers).with_umoci(),
        );
    }
}

#[test]
fn layers_on_layers_give_the_same_tree_as_umoci() {
    for (case, layers) in several_layers() {
        let (ours, implied) = Image::new(&layers).ours();
        assert_same(
            case,
            "umoci",
            &ours,
            &implied,
            &Image::new(&layers).with_umoci(),
        );
    }
}

/// The attributes of directories that a layer implies are the business of whoever mounts.
fn assert_same(case: &str, who: &str, ours: &Lines, implied: &BTreeSet<String>, theirs: &Lines) {
    let names = |lines: &Lines| lines.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(ours), names(theirs), "{case}: {who}");
    for (name, line) in theirs.iter().filter(|(name, _)| !implied.contains(*name)) {
        assert_eq!(&ours[name], line, "{case}: {who}: {name}");
    }
}

/// Unpacks an archive with a program of tar's options.
fn with_tar(layers: &[Tar], program: &[&str]) -> Lines {
    let scratch = tempfile::tempdir().unwrap();
    std::fs::create_dir(scratch.path().join("tree")).unwrap();
    std::fs::write(scratch.path().join("layer.tar"), layers[0].clone().end()).unwrap();
    let output = Command::new(program[0])
        .args(&program[1..])
        .args(["-xpf", "layer.tar", "--numeric-owner", "-C", "tree"])
        .current_dir(scratch.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{program:?}: {output:?}");
    describe(&scratch.path().join("tree"))
}

/// An image on disk, for us and for others.
struct Image {
    scratch: tempfile::TempDir,
    blobs: Vec<Blob>,
}

impl Image {
    fn new(layers: &[Tar]) -> Self {
        let blobs = layers.iter().map(|tar| Blob::gzip(&tar.clone().end()));
        Self {
            scratch: tempfile::tempdir().unwrap(),
            blobs: blobs.collect(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// What an overlay mount of our trees shows, and the directories that are implied in any.
    fn ours(&self) -> (Lines, BTreeSet<String>) {
        let work = Dir::open_ambient(self.scratch.path()).unwrap();
        std::fs::create_dir(self.path("view")).unwrap();
        let mut implied = BTreeSet::new();
        for (number, blob) in self.blobs.iter().enumerate() {
            let (staging, proof) = self.unpack(&work, blob, number);
            let paths = proof
                .implied()
                .iter()
                .map(|path| path.as_bytes().escape_ascii().to_string());
            implied.extend(paths);
            staging.commit(proof, &work, number.to_string()).unwrap();
        }
        (self.with_view(self.blobs.len(), describe), implied)
    }

    /// Unpacks a layer alone, or on top of the `below` ones under it where it needs them.
    fn unpack(&self, work: &Dir, blob: &Blob, below: usize) -> (Staging, Unpacked) {
        let (layer, budget) = (blob.approved(), Budget::new(Limits::default()));
        let source = || blob.bytes.as_slice();
        let staging = Staging::create(work).unwrap();
        let alone = unpack(&layer, source(), &staging, &budget, &Cancel::new());
        let is_link_below = |proof: &Unpacked, view: &Path| {
            let mut paths = proof.implied().iter();
            paths.any(|path| view.join(OsStr::from_bytes(path.as_bytes())).is_symlink())
        };
        match alone {
            Ok(proof) if below == 0 => return (staging, proof),
            Ok(proof) if !self.with_view(below, |view| is_link_below(&proof, view)) => {
                return (staging, proof);
            }
            Err(error) if !error.needs_lower_layers() => panic!("{error}"),
            _ => {}
        }
        let staging = Staging::create(work).unwrap();
        let onto = |view: &Path| {
            let view = Dir::open_ambient(view).unwrap();
            unpack_onto(&layer, source(), &view, &staging, &budget, &Cancel::new()).unwrap()
        };
        let proof = self.with_view(below, onto);
        (staging, proof)
    }

    /// Shows the lowest `count` trees as an overlay mount does.
    fn with_view<T>(&self, count: usize, look: impl FnOnce(&Path) -> T) -> T {
        let (view, empty) = (self.path("view"), self.path("empty"));
        std::fs::create_dir_all(&empty).unwrap();
        // An overlay without an upper directory wants two lower ones.
        let trees = (0..count)
            .rev()
            .map(|number| self.path(&number.to_string()));
        let lower: Vec<_> = trees.chain([empty]).collect();
        let lower: Vec<_> = lower.iter().map(|path| path.to_str().unwrap()).collect();
        let options = CString::new(format!("lowerdir={}", lower.join(":"))).unwrap();
        mount("overlay", &view, "overlay", MountFlags::RDONLY, &*options).unwrap();
        let seen = look(&view);
        // A process that another test is just starting may still have what was open in there.
        unmount(&view, UnmountFlags::DETACH).unwrap();
        seen
    }

    fn with_umoci(&self) -> Lines {
        self.write_layout();
        let image = format!("{}:latest", self.path("layout").display());
        let output = Command::new("umoci")
            .args(["unpack", "--image", &image])
            .arg(self.path("bundle"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        describe(&self.path("bundle/rootfs"))
    }

    fn write_layout(&self) {
        let blobs = self.path("layout/blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let put = |media_type: &str, bytes: &[u8]| -> Value {
            let digest = Digest::sha256_of(bytes);
            std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
            json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len() })
        };
        let layers: Vec<_> = self
            .blobs
            .iter()
            .map(|blob| put(blob.media_type, &blob.bytes))
            .collect();
        let diff_ids: Vec<_> = self
            .blobs
            .iter()
            .map(|blob| blob.diff_id.to_string())
            .collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = put(
            "application/vnd.oci.image.config.v1+json",
            config.to_string().as_bytes(),
        );
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers });
        let mut manifest = put(kind, manifest.to_string().as_bytes());
        manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        std::fs::write(self.path("layout/index.json"), index.to_string()).unwrap();
        let version = r#"{"imageLayoutVersion":"1.0.0"}"#;
        std::fs::write(self.path("layout/oci-layout"), version).unwrap();
    }
}
