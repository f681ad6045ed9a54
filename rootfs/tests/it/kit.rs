//! Archives made byte by byte, layers approved honestly, and trees described line by line.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::Metadata;
use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use policy::{Approved, Digest, Document, Evidence, ImageRef, Layer, Policy};
use rootfs::{
    Budget, Cancel, Committed, Dir, Error, Limits, Notes, Staging, Unpacked, unpack, unpack_onto,
};

/// An archive under construction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

/// A header block, by default of a ustar file of mode 0644 that belongs to 0:0.
#[derive(Clone)]
pub(crate) struct Header(pub(crate) [u8; 512]);

impl Header {
    pub(crate) fn new(typeflag: u8, name: impl AsRef<[u8]>) -> Self {
        let mut header = Self([0; 512]);
        header.0[156] = typeflag;
        header.0[257..265].copy_from_slice(b"ustar\x0000");
        header
            .at(0, name.as_ref())
            .mode(if typeflag == b'5' { 0o755 } else { 0o644 })
    }

    pub(crate) fn at(mut self, offset: usize, bytes: &[u8]) -> Self {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn octal(self, offset: usize, digits: usize, value: u64) -> Self {
        self.at(offset, format!("{value:0digits$o}").as_bytes())
    }

    pub(crate) fn mode(self, mode: u64) -> Self {
        self.octal(100, 7, mode)
    }

    pub(crate) fn owner(self, uid: u64, gid: u64) -> Self {
        self.octal(108, 7, uid).octal(116, 7, gid)
    }

    pub(crate) fn size(self, size: u64) -> Self {
        self.octal(124, 11, size)
    }

    pub(crate) fn mtime(self, mtime: u64) -> Self {
        self.octal(136, 11, mtime)
    }

    pub(crate) fn link(self, target: impl AsRef<[u8]>) -> Self {
        self.at(157, target.as_ref())
    }

    pub(crate) fn device(self, major: u64, minor: u64) -> Self {
        self.octal(329, 7, major).octal(337, 7, minor)
    }

    pub(crate) fn sealed(self) -> [u8; 512] {
        let blank = self.at(148, b"        ");
        let sum: u64 = blank.0.iter().map(|&byte| u64::from(byte)).sum();
        blank.at(148, format!("{sum:06o}\0 ").as_bytes()).0
    }
}

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A header whose size is that of `body`, and `body` filled to a block.
    pub(crate) fn put(self, header: Header, body: &[u8]) -> Self {
        let header = header.size(u64::try_from(body.len()).unwrap());
        self.header(header).body(body)
    }

    pub(crate) fn header(self, header: Header) -> Self {
        self.raw(&header.sealed())
    }

    pub(crate) fn body(self, body: &[u8]) -> Self {
        let fill = body.len().wrapping_neg() % 512;
        self.raw(body).raw(&vec![0; fill])
    }

    pub(crate) fn file(self, name: impl AsRef<[u8]>, body: &[u8]) -> Self {
        self.put(Header::new(b'0', name), body)
    }

    pub(crate) fn dir(self, name: impl AsRef<[u8]>) -> Self {
        self.header(Header::new(b'5', name))
    }

    pub(crate) fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.header(Header::new(b'2', name).link(target))
    }

    pub(crate) fn hard_link(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.header(Header::new(b'1', name).link(target))
    }

    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.put(Header::new(b'x', "PaxHeaders/x"), &pax_body(records))
    }

    pub(crate) fn global(self, records: &[(&str, &[u8])]) -> Self {
        self.put(Header::new(b'g', "PaxHeaders/g"), &pax_body(records))
    }

    pub(crate) fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }
}

pub(crate) fn pax_body(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut total = rest + 1;
        while total != rest + total.to_string().len() {
            total = rest + total.to_string().len();
        }
        body.extend_from_slice(format!("{total} {key}=").as_bytes());
        body.extend_from_slice(value);
        body.push(b'\n');
    }
    body
}

/// A blob as a registry would serve it, with what the image says of it.
#[derive(Clone)]
pub(crate) struct Blob {
    pub(crate) bytes: Vec<u8>,
    pub(crate) media_type: &'static str,
    pub(crate) size: u64,
    pub(crate) digest: Digest,
    pub(crate) diff_id: Digest,
}

impl Blob {
    pub(crate) fn new(bytes: Vec<u8>, media_type: &'static str, content: &[u8]) -> Self {
        let size = u64::try_from(bytes.len()).unwrap();
        let (digest, diff_id) = (Digest::sha256_of(&bytes), Digest::sha256_of(content));
        Self {
            bytes,
            media_type,
            size,
            digest,
            diff_id,
        }
    }

    pub(crate) fn plain(content: Vec<u8>) -> Self {
        let digest = Digest::sha256_of(&content);
        let size = u64::try_from(content.len()).unwrap();
        Self {
            bytes: content,
            media_type: PLAIN,
            size,
            digest,
            diff_id: digest,
        }
    }

    pub(crate) fn gzip(content: &[u8]) -> Self {
        Self::new(gzip(content), GZIP, content)
    }

    pub(crate) fn zstd(content: &[u8]) -> Self {
        Self::new(zstd::encode_all(content, 1).unwrap(), ZSTD, content)
    }

    /// The layer of an image that a policy has approved.
    pub(crate) fn approved(&self) -> Approved<Layer> {
        let config = serde_json::json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": [self.diff_id.to_string()] },
        });
        let config = serde_json::to_vec(&config).unwrap();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": Digest::sha256_of(&config).to_string(),
                "size": config.len(),
            },
            "layers": [{
                "mediaType": self.media_type,
                "digest": self.digest.to_string(),
                "size": self.size,
            }],
        });
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let reference = ImageRef::parse_edge("registry.test/layer:1").unwrap();
        let Document::Manifest(manifest) =
            Document::parse(&reference, Some(MANIFEST), manifest).unwrap()
        else {
            panic!("an index")
        };
        let policy = Policy::parse(br#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
        let rules = policy.rules_for(&reference);
        let approved = rules.decide(manifest, &Evidence::default()).unwrap();
        let image = approved.with_config(&config).unwrap();
        image.layers().next().unwrap()
    }
}

pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

pub(crate) const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// `struct vfs_cap_data` of revision 2, with `CAP_NET_RAW`.
pub(crate) const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A directory with a work area, a place to publish to, and things that nothing may touch.
pub(crate) struct Scratch {
    root: tempfile::TempDir,
    work: Dir,
    pub(crate) limits: Limits,
    pub(crate) cancel: Cancel,
    /// What the layers below show, for layers that need it.
    pub(crate) below: Option<Dir>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests need root"
        );
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("outside/dir")).unwrap();
        std::fs::write(root.path().join("outside/canary"), "untouched").unwrap();
        std::fs::create_dir(root.path().join("work")).unwrap();
        let work = Dir::open_ambient(&root.path().join("work")).unwrap();
        Self {
            root,
            work,
            limits: Limits::default(),
            cancel: Cancel::new(),
            below: None,
        }
    }

    pub(crate) fn outside(&self) -> PathBuf {
        self.root.path().join("outside")
    }

    /// Unpacks and publishes a blob; whatever happens, nothing else may have changed.
    pub(crate) fn unpack(&self, blob: &Blob) -> Result<Tree, Error> {
        self.unpack_from(blob, blob.bytes.as_slice())
    }

    pub(crate) fn unpack_from(
        &self,
        blob: &Blob,
        source: impl std::io::BufRead + Send,
    ) -> Result<Tree, Error> {
        let before = self.listing();
        let staging = Staging::create(&self.work).unwrap();
        let (layer, budget) = (blob.approved(), Budget::new(self.limits.clone()));
        let result = match &self.below {
            None => unpack(&layer, source, &staging, &budget, &self.cancel),
            Some(below) => unpack_onto(&layer, source, below, &staging, &budget, &self.cancel),
        };
        let result = result.map(|proof| self.publish(staging, proof));
        assert_eq!(
            self.listing(),
            before,
            "something outside the staging directory has changed"
        );
        result
    }

    fn publish(&self, staging: Staging, proof: Unpacked) -> Tree {
        let mut tree = Tree {
            lines: Lines::new(),
            implied: proof
                .implied()
                .iter()
                .map(|path| path.as_bytes().to_vec())
                .collect(),
            notes: proof.notes().clone(),
            hides_all_below: proof.hides_all_below(),
            blocks: BTreeMap::new(),
        };
        assert_eq!(
            staging.commit(proof, &self.work, "layer").unwrap(),
            Committed::New
        );
        let layer = self.root.path().join("work/layer");
        tree.lines = describe(&layer);
        let blocks = |name: &String| Some(layer.join(name).symlink_metadata().ok()?.blocks());
        let names = tree.lines.keys();
        tree.blocks = names
            .filter_map(|name| Some((name.clone(), blocks(name)?)))
            .collect();
        self.work.remove_all("layer").unwrap();
        tree
    }

    fn listing(&self) -> Lines {
        describe(self.root.path())
    }
}

/// An attack, the archive for it, and the error that it must give.
pub(crate) type Row = (&'static str, Tar, fn(&Error) -> bool);

/// Each archive gives its error, whatever it is compressed with.
pub(crate) fn refuses(rows: Vec<Row>) {
    let scratch = Scratch::new();
    for (row, tar, is_expected) in rows {
        for blob in [
            Blob::plain(tar.clone().end()),
            Blob::gzip(&tar.clone().end()),
        ] {
            let error = scratch.unpack(&blob).map(|_| row).unwrap_err();
            assert!(is_expected(&error), "{row}: {error:?}");
        }
    }
}

/// What a layer came to.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) lines: Lines,
    pub(crate) implied: Vec<Vec<u8>>,
    pub(crate) notes: Notes,
    pub(crate) hides_all_below: bool,
    /// Blocks of 512 bytes that each file takes.
    pub(crate) blocks: BTreeMap<String, u64>,
}

impl Tree {
    /// The line of one file.
    pub(crate) fn line(&self, name: &str) -> &str {
        self.lines
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in {:#?}", self.lines))
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        self.lines
            .keys()
            .map(String::as_str)
            .filter(|name| !name.is_empty())
            .collect()
    }
}

/// A tree, one line to a file.
pub(crate) type Lines = BTreeMap<String, String>;

/// Every file beneath `root` but for the times of `root` itself.
pub(crate) fn describe(root: &Path) -> Lines {
    let mut described = Described::default();
    described.add(root, "");
    described.lines
}

#[derive(Default)]
struct Described {
    /// By inode the first name of a file.
    inodes: BTreeMap<u64, String>,
    lines: Lines,
}

impl Described {
    fn add(&mut self, path: &Path, name: &str) {
        let meta = std::fs::symlink_metadata(path).unwrap();
        let line = self.line(path, name, &meta);
        self.lines.insert(name.to_owned(), line);
        if !meta.is_dir() {
            return;
        }
        // By its handle, since the names of all directories together may be too long for a path.
        let dir = std::fs::File::open(path).unwrap();
        let handle = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
        let mut parts: Vec<_> = std::fs::read_dir(&handle)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        parts.sort();
        for part in parts {
            let separator = if name.is_empty() { "" } else { "/" };
            let child = format!("{name}{separator}{}", part.as_bytes().escape_ascii());
            self.add(&handle.join(part), &child);
        }
    }

    fn line(&mut self, path: &Path, name: &str, meta: &Metadata) -> String {
        let kind = meta.file_type();
        let (mode, uid, gid) = (meta.permissions().mode(), meta.uid(), meta.gid());
        let mut line = format!("{mode:06o} {uid}:{gid}");
        if kind.is_file() {
            let content = std::fs::read(path).unwrap();
            let head = if content.len() <= 32 {
                content.escape_ascii().to_string()
            } else {
                Digest::sha256_of(&content).to_string()
            };
            write!(line, " {} bytes {head:?}", content.len()).unwrap();
        } else if kind.is_symlink() {
            let target = std::fs::read_link(path).unwrap();
            write!(line, " -> {}", target.as_os_str().as_bytes().escape_ascii()).unwrap();
        } else if !kind.is_dir() {
            let (major, minor) = (
                rustix::fs::major(meta.rdev()),
                rustix::fs::minor(meta.rdev()),
            );
            write!(line, " {major}:{minor}").unwrap();
        }
        if !name.is_empty() && !name.starts_with("work") {
            write!(line, " {}.{:09}", meta.mtime(), meta.mtime_nsec()).unwrap();
        }
        for (key, value) in xattrs(path) {
            write!(line, " {key}={:?}", value.escape_ascii().to_string()).unwrap();
        }
        if !kind.is_dir() && meta.nlink() > 1 {
            let first = self
                .inodes
                .entry(meta.ino())
                .or_insert_with(|| name.to_owned());
            write!(line, " linked {first}").unwrap();
        }
        line
    }
}

pub(crate) fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0_u8; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let mut xattrs = BTreeMap::new();
    for name in names[..length]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0_u8; 64 << 10];
        let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
        xattrs.insert(name.escape_ascii().to_string(), value[..length].to_vec());
    }
    xattrs
}
