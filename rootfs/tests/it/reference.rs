//! The programs that fidelity is measured by, and images that they and we unpack.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use policy::Digest;
use rootfs::{Budget, Cancel, Dir, Limits, Staging, Unpacked, unpack, unpack_onto};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::{Value, json};

use crate::kit::{Blob, Lines, Tar, describe};

/// A program that unpacks, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reference {
    GnuTar,
    Bsdtar,
    /// Go's `archive/tar`, as nearly all that run containers use it.
    Umoci,
}

impl Reference {
    pub(crate) const ALL: [Self; 3] = [Self::GnuTar, Self::Bsdtar, Self::Umoci];

    /// The tree that it makes of `layers`, or what it says against them.
    pub(crate) fn unpack(self, layers: &[Tar]) -> Result<Lines, String> {
        let gnu = [
            "tar",
            "--xattrs",
            "--xattrs-include=*",
            "--same-owner",
            "--delay-directory-restore",
        ];
        match self {
            Self::GnuTar => with_tar(layers, &gnu),
            Self::Bsdtar => with_tar(layers, &["bsdtar", "--same-owner"]),
            Self::Umoci => Image::new(layers).with_umoci(),
        }
    }
}

/// Unpacks an archive with a program of tar's options.
fn with_tar(layers: &[Tar], program: &[&str]) -> Result<Lines, String> {
    let [layer] = layers else {
        panic!("{} knows no layers", program[0])
    };
    let scratch = tempfile::tempdir().unwrap();
    std::fs::create_dir(scratch.path().join("tree")).unwrap();
    std::fs::write(scratch.path().join("layer.tar"), layer.clone().end()).unwrap();
    let mut command = Command::new(program[0]);
    command
        .args(&program[1..])
        .args(["-xpf", "layer.tar", "--numeric-owner", "-C", "tree"])
        .current_dir(scratch.path());
    succeed(&mut command).map(|()| describe(&scratch.path().join("tree")))
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let output = command.output().unwrap();
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// An image on disk, for us and for others.
pub(crate) struct Image {
    scratch: tempfile::TempDir,
    blobs: Vec<Blob>,
}

impl Image {
    pub(crate) fn new(layers: &[Tar]) -> Self {
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
    pub(crate) fn ours(&self) -> (Lines, BTreeSet<String>) {
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

    fn with_umoci(&self) -> Result<Lines, String> {
        self.write_layout();
        let image = format!("{}:latest", self.path("layout").display());
        let mut command = Command::new("umoci");
        command
            .args(["unpack", "--image", &image])
            .arg(self.path("bundle"));
        succeed(&mut command).map(|()| describe(&self.path("bundle/rootfs")))
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
