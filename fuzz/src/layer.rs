//! Attempts at unpacking, each in a directory of its own that is looked over afterwards.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use policy::{Approved, Digest, Document, Evidence, ImageRef, Layer, OCI_MANIFEST, Policy};
use rootfs::{
    Budget, Cancel, Committed, Dir, Error, Limits, Staging, Unpacked, unpack, unpack_onto,
};
use serde_json::json;
use tempfile::TempDir;

/// The media type of a layer that is not compressed; of others, with what follows it.
pub const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

/// Unpacks `blob`, which is said to be of `media_type` and to hold `content`, and lets `look` see
/// the tree if it comes to that.
///
/// Asserts that nothing outside the staging directory has changed, and that nothing of it stays.
pub fn attempt(
    media_type: &str,
    blob: &[u8],
    content: &[u8],
    look: impl FnOnce(&Path),
) -> Result<(), Error> {
    let scratch = Scratch::new();
    let layer = approve(media_type, blob, content);
    scratch.leaves_the_rest_alone(content, look, |staging| {
        unpack(
            &layer,
            blob,
            staging,
            &Budget::new(limits()),
            &Cancel::new(),
        )
    })
}

/// Unpacks the archive `content` on top of the tree of the archive `below`, if that makes one.
///
/// Asserts what [`attempt`] does, of the tree below as well.
pub fn attempt_onto(below: &[u8], content: &[u8]) -> Result<(), Error> {
    let scratch = Scratch::new();
    let (budget, cancel) = (Budget::new(limits()), Cancel::new());
    let staging = Staging::create(&scratch.work).unwrap();
    let lower = approve(PLAIN, below, below);
    let proof = unpack(&lower, below, &staging, &budget, &cancel)?;
    staging.commit(proof, &scratch.work, "below")?;
    let lower = scratch.work.open_dir("below").unwrap();
    let layer = approve(PLAIN, content, content);
    scratch.leaves_the_rest_alone(
        content,
        |_| {},
        |staging| {
            let result = unpack_onto(&layer, content, &lower, staging, &budget, &cancel);
            if let Err(error) = &result {
                assert!(!error.needs_lower_layers(), "{error:?}");
            }
            result
        },
    )
}

/// Small enough for many attempts in a second, in little memory.
fn limits() -> Limits {
    Limits {
        unpacked_bytes: 4 << 20,
        ratio_free_bytes: 1 << 20,
        entries: 2_000,
        header_bytes: 64 << 10,
        xattr_bytes: 64 << 10,
        kept_bytes: 1 << 20,
        zstd_window_log: 20,
        ..Limits::default()
    }
}

/// The layer of an image that a policy has approved.
fn approve(media_type: &str, blob: &[u8], content: &[u8]) -> Approved<Layer> {
    let config = json!({
        "os": "linux", "architecture": policy::Platform::host().architecture, "config": {},
        "rootfs": {"type": "layers", "diff_ids": [Digest::sha256_of(content).to_string()]},
    });
    let config = config.to_string().into_bytes();
    let descriptor = |media_type: &str, content: &[u8]| {
        let digest = Digest::sha256_of(content).to_string();
        json!({"mediaType": media_type, "digest": digest, "size": content.len()})
    };
    let manifest = json!({
        "schemaVersion": 2,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor(media_type, blob)],
    });
    let reference: ImageRef = "registry.example/layer:1".parse().unwrap();
    let manifest = manifest.to_string().into_bytes();
    let Ok(Document::Manifest(manifest)) =
        Document::parse(&reference, Some(OCI_MANIFEST), manifest)
    else {
        panic!("no manifest");
    };
    let policy = Policy::parse(br#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
    let rules = policy.rules_for(&reference);
    let approved = rules.decide(manifest, &Evidence::default()).unwrap();
    let image = approved.with_config(&config).unwrap();
    image.layers().next().unwrap()
}

/// A place to work in, and beside it things that nothing may touch.
struct Scratch {
    root: TempDir,
    work: Dir,
}

impl Scratch {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("outside/a")).unwrap();
        std::fs::write(root.path().join("outside/b"), "untouched").unwrap();
        std::fs::create_dir(root.path().join("work")).unwrap();
        let work = Dir::open_ambient(&root.path().join("work")).unwrap();
        Self { root, work }
    }

    /// Lets `work` unpack `content`, and takes away what that made.
    fn leaves_the_rest_alone(
        &self,
        content: &[u8],
        look: impl FnOnce(&Path),
        work: impl FnOnce(&Staging) -> Result<Unpacked, Error>,
    ) -> Result<(), Error> {
        let before = self.listing();
        let staging = Staging::create(&self.work).unwrap();
        let result = work(&staging);
        let result = result.and_then(|proof| {
            assert_eq!(proof.content_bytes(), u64::try_from(content.len()).unwrap());
            // What the archive says of its root is set last, and may be what the kernel refuses.
            let committed = staging.commit(proof, &self.work, "layer")?;
            assert_eq!(committed, Committed::New);
            look(&self.path("work/layer"));
            self.work.remove_all("layer").unwrap();
            Ok(())
        });
        assert_eq!(self.listing(), before, "more than the staging directory");
        result
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn listing(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        list(self.root.path(), &mut lines);
        lines.sort();
        lines
    }
}

/// A file, and all that tells whether it has been touched; the time of the work area, which comes
/// and goes, is not looked at.
type Line = (PathBuf, u32, u32, u32, u64, u64, i64, i64);

fn list(path: &Path, lines: &mut Vec<Line>) {
    let meta = std::fs::symlink_metadata(path).unwrap();
    let is_work = path.ends_with("work");
    let changed = |time: i64| if is_work { 0 } else { time };
    lines.push((
        path.to_owned(),
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.nlink(),
        meta.len(),
        changed(meta.ctime()),
        changed(meta.ctime_nsec()),
    ));
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            list(&entry.unwrap().path(), lines);
        }
    }
}
