//! Images, stores and bundles for tests: everything in one private directory, and no mount left.

use std::path::{Path, PathBuf};

use policy::{
    Approved, Digest, Document, Evidence, Image, ImageRef, Layer, OCI_MANIFEST, Platform, Policy,
};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use super::{Store, StoredLayer};
use crate::mountinfo;

/// A place for one test.
#[derive(Debug)]
pub(crate) struct Fixture {
    root: tempfile::TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests mount, so they need root"
        );
        Self {
            root: tempfile::tempdir().unwrap(),
        }
    }

    /// With a work directory that holds `options` of tmpfs and no more.
    pub(crate) fn with_disk(options: &str) -> Self {
        let fixture = Self::new();
        std::fs::create_dir(fixture.work_dir()).unwrap();
        let options = std::ffi::CString::new(options).unwrap();
        mount(
            "tmpfs",
            fixture.work_dir(),
            "tmpfs",
            MountFlags::empty(),
            options.as_c_str(),
        )
        .unwrap();
        fixture
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn work_dir(&self) -> PathBuf {
        self.path("work")
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(&self.work_dir()).unwrap()
    }

    /// The mounts in here, without that of [`Fixture::with_disk`].
    pub(crate) fn mounts(&self) -> Vec<mountinfo::Mount> {
        let mut mounts = mountinfo::read().unwrap();
        let root = self.root.path().canonicalize().unwrap();
        mounts.retain(|mount| mount.point.starts_with(&root) && mount.file_system == "overlay");
        mounts
    }

    /// The names in a directory of the store.
    pub(crate) fn list(&self, part: &str) -> Vec<String> {
        list(&self.work_dir().join(part))
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let root = self.root.path().canonicalize().unwrap();
        for mount in mountinfo::read().unwrap().iter().rev() {
            if mount.point.starts_with(&root) {
                unmount(&mount.point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).unwrap();
            }
        }
    }
}

/// Runs `test`, which is the body of the test `name`, in a process of its own.
///
/// What it changes there, like the limit of open files, no other test sees.
pub(crate) fn alone(name: &str, test: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return test();
    }
    let ran = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    let is_passed = ran.status.success() && said.contains("1 passed");
    assert!(is_passed, "{said}{}", String::from_utf8_lossy(&ran.stderr));
}

/// Runs `work` while this process, which has to be [`alone`], can open `left` more files.
pub(crate) fn with_descriptors_left<T>(left: usize, work: impl FnOnce() -> T) -> T {
    let limit = getrlimit(Resource::Nofile);
    let few = Rlimit {
        current: Some(256),
        ..limit
    };
    setrlimit(Resource::Nofile, few).unwrap();
    let mut held = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        held.push(file);
    }
    held.truncate(held.len() - left);
    let outcome = work();
    drop(held);
    setrlimit(Resource::Nofile, limit).unwrap();
    outcome
}

/// Set in the process of a test that runs [`alone`].
const ALONE: &str = "IMAGE_AGENT_TEST_ALONE";

/// The names in a directory, sorted.
pub(crate) fn list(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// An image with the layers `tars`, bottom first, approved by a policy that accepts anything.
pub(crate) fn image(tars: &[Vec<u8>], config: &Value) -> Approved<Image> {
    let reference = ImageRef::parse_edge("registry.test/app:1").unwrap();
    let diff_ids: Vec<_> = tars
        .iter()
        .map(|tar| Digest::sha256_of(tar).to_string())
        .collect();
    let host = Platform::host();
    let config = json!({
        "os": host.os, "architecture": host.architecture,
        "config": config, "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = serde_json::to_vec(&config).unwrap();
    let descriptor = |kind: &str, content: &[u8]| {
        let digest = Digest::sha256_of(content).to_string();
        json!({ "mediaType": kind, "digest": digest, "size": content.len() })
    };
    let kind = "application/vnd.oci.image.layer.v1.tar";
    let layers: Vec<_> = tars.iter().map(|tar| descriptor(kind, tar)).collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": layers,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
    });
    let raw = serde_json::to_vec(&manifest).unwrap();
    let Document::Manifest(manifest) =
        Document::parse(&reference, Some(OCI_MANIFEST), raw).unwrap()
    else {
        panic!("not a manifest")
    };
    let policy = Policy::parse(br#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
    let approved = policy
        .rules_for(&reference)
        .decide(manifest, &Evidence::default())
        .unwrap();
    approved.with_config(&config).unwrap()
}

/// Every layer of the image, in the store.
pub(crate) fn fetch(store: &Store, image: &Approved<Image>, tars: &[Vec<u8>]) -> Vec<StoredLayer> {
    image
        .layers()
        .zip(tars)
        .map(|(layer, tar)| fetch_layer(store, &layer, tar))
        .collect()
}

pub(crate) fn fetch_layer(store: &Store, layer: &Approved<Layer>, tar: &[u8]) -> StoredLayer {
    if let Some(stored) = store.layer(layer, None).unwrap() {
        return stored;
    }
    let staging = store.stage().unwrap();
    let budget = rootfs::Budget::new(rootfs::Limits::default());
    let unpacked = rootfs::unpack(layer, tar, &staging, &budget, &rootfs::Cancel::new()).unwrap();
    store
        .publish(layer, None, staging, unpacked, false)
        .unwrap()
}

/// A layer of directories (names that end with a slash) and files with their own name in them,
/// every one with its mode.
pub(crate) fn layer(entries: &[(&str, u32)]) -> Vec<u8> {
    let add = |archive: Archive, (name, mode): &(&str, u32)| archive.entry(name.as_bytes(), *mode);
    entries.iter().fold(Archive::default(), add).end()
}

/// A file with `content`, for [`layer`]s of one file.
pub(crate) fn file(name: &str, content: &str) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.add(name.as_bytes(), b'0', 0o644, "", content.as_bytes());
    archive.end()
}

/// A layer that is being written: POSIX.1-1988 ustar, owner 7:8, time 1000.
#[derive(Default)]
pub(crate) struct Archive(Vec<u8>);

impl Archive {
    /// A directory, if the name ends with a slash, or a file with its name in it.
    pub(crate) fn entry(mut self, name: &[u8], mode: u32) -> Self {
        if name.ends_with(b"/") {
            self.add(name, b'5', mode, "", b"");
        } else {
            self.add(name, b'0', mode, "", name);
        }
        self
    }

    pub(crate) fn symlink(mut self, name: &str, target: &str) -> Self {
        self.add(name.as_bytes(), b'2', 0o777, target, b"");
        self
    }

    /// A record for the next entry: a `path` too long for its header, or an extended attribute.
    pub(crate) fn extended(mut self, key: &str, value: &str) -> Self {
        let rest = format!(" {key}={value}\n");
        let mut lengths = rest.len()..rest.len() + 10;
        let length = lengths.find(|length| length.to_string().len() + rest.len() == *length);
        let record = format!("{}{rest}", length.unwrap());
        self.add(b"extended", b'x', 0o644, "", record.as_bytes());
        self
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    fn add(&mut self, name: &[u8], kind: u8, mode: u32, target: &str, content: &[u8]) {
        let mut header = [0_u8; 512];
        let mut put = |offset: usize, text: &[u8]| {
            header[offset..offset + text.len()].copy_from_slice(text);
        };
        put(0, name);
        put(100, format!("{mode:07o}").as_bytes());
        put(108, format!("{:07o}", 7).as_bytes());
        put(116, format!("{:07o}", 8).as_bytes());
        put(124, format!("{:011o}", content.len()).as_bytes());
        put(136, format!("{:011o}", 1000).as_bytes());
        put(148, b"        ");
        put(156, &[kind]);
        put(157, target.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(header);
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }
}
