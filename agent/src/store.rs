//! The work directory: proved layers, layers on their way, and the writable part of bundles.
//!
//! ```text
//! layers/<key>/           the tree of a proved layer; the key binds boot, blob, diff_id, encryption
//! records/<key>.json      what the key stands for
//! staging/<name>/         a layer being unpacked, locked by whoever unpacks it
//! overlay/<id>/           a bundle's upper and work directory and its record
//! documents/<digest>      manifests and configs, held to their digest whenever they are read
//! ```
//!
//! A layer is used only when blob digest and `diff_id` both are those of an approved image, and
//! only within the boot that proved it; where the host can write, only by the process that proved
//! it. No approval is ever stored. Several processes may use one
//! work directory at a time, so whatever is alive holds a lock, and only what is unlocked can be
//! rubbish. The runtime mounts fresh disks over the work directory while we run, so a [`Store`] is
//! opened for each pull.

mod chain;
mod collect;
mod copy;
mod documents;
#[cfg(test)]
pub(crate) mod fixture;
mod implied;
mod names;
mod overlay;
mod recover;
mod space;
mod storage;
mod verify;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use policy::{Approved, Digest, Layer};
use rootfs::{Dir, Staging, Unpacked};
use rustix::fs::{AtFlags, FileType, FlockOperation, flock, statat, syncfs, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub(crate) use self::chain::ChainId;
pub(crate) use self::collect::Listed;
pub(crate) use self::copy::{copy_attributes, copy_file, link_tree, open_within};
pub(crate) use self::documents::Document;
pub(crate) use self::implied::Implied;
pub(crate) use self::names::{ImageNames, LayerNames};
pub(crate) use self::overlay::{BundleRecord, OverlayDirectory, Progress};
#[cfg(test)]
pub(crate) use self::recover::Recovered;
pub(crate) use self::space::{Amount, Estimate, Shortage, size};
#[cfg(test)]
pub(crate) use self::verify::{Finding, Problem};
use crate::handle::{FileId, MAX_RECORD, is_disk_full, open_directory, read_file, replace_file};
use crate::mountinfo::{MountInfoError, OVERLAYS};

/// The work directory, opened.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    root: Dir,
    layers: Dir,
    records: Dir,
    staging: Dir,
    overlay: Dir,
    documents: Dir,
    boot_id: String,
    is_private: bool,
    /// What binds a layer to those who may believe it.
    epoch: String,
}

/// A layer that was proved and is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredLayer {
    key: String,
    implied: Implied,
    content_bytes: u64,
}

/// A work directory, whatever it is called: two opened at one path differ if a disk was mounted
/// there in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct StoreId(FileId);

/// Why the work directory cannot be used. In-guest paths are in fields of their own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The guest is too small for the image, or other things fill it.
    #[error("no space left in {}", path.display())]
    DiskFull {
        /// The file or directory that was being written.
        path: PathBuf,
    },

    /// The work directory, or a directory above it, is something else.
    #[error("image.work_dir is {}, which is not a directory", path.display())]
    NotADirectory {
        /// The work directory as it is configured.
        path: PathBuf,
    },

    /// The owner's to decide: what was proved there could be changed afterwards.
    #[error(
        "{} is on a disk that the host can write ({file_system}), so that a layer could be changed \
         after it was verified; mount a tmpfs there, or dm-crypt with integrity, or set \
         image_agent.danger_host_writable_store = true",
        path.display()
    )]
    HostWritable {
        /// The work directory.
        path: PathBuf,
        /// The kind of its file system.
        file_system: String,
    },

    /// The file system of the work directory does not do what is needed.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why it did not work.
        source: io::Error,
    },

    /// The image's fault: what a layer says of its root cannot be set on a directory.
    #[error("attributes of the root of a layer")]
    Root(#[source] Box<rootfs::Error>),

    /// A tree cannot be made, published or removed.
    #[error("{action} {}", path.display())]
    Tree {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which directory.
        path: PathBuf,
        /// Why it did not work.
        source: Box<rootfs::Error>,
    },

    /// What is mounted is not known, so nothing is taken for rubbish.
    #[error("list of mounts")]
    Mounts(#[source] MountInfoError),

    /// The image's fault: a layer implies more directories, or a decision says more, than a record
    /// may hold. Nobody could read such a record again.
    #[error("record {} has {length} bytes: at most {maximum} are possible", path.display())]
    RecordTooLong {
        /// The record's file.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
        /// The most bytes of a record.
        maximum: usize,
    },

    /// A record of ours cannot be written as JSON: a defect.
    #[error("record of {}", path.display())]
    Record {
        /// The record's file.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
}

impl Store {
    /// Opens the work directory, and makes it with mode 0700 before if there is none.
    pub(crate) fn open(work_dir: &Path) -> Result<Self, StoreError> {
        let io = |action| StoreError::io(action, work_dir);
        make_path(work_dir).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                let path = work_dir.to_owned();
                StoreError::NotADirectory { path }
            }
            _ => io("make")(source),
        })?;
        let root = Dir::open_ambient(work_dir).map_err(StoreError::tree("open", work_dir))?;
        let part = |name| {
            root.create_dir(name)
                .map_err(StoreError::tree("make", &work_dir.join(name)))
        };
        let boot_id =
            std::fs::read_to_string(BOOT_ID).map_err(StoreError::io("read", Path::new(BOOT_ID)))?;
        let boot_id = boot_id.trim().to_owned();
        let is_private = storage::is_private(root.as_fd(), Path::new(storage::SYSFS))
            .map_err(|error| io("inspect")(error.into()))?;
        let epoch = if is_private {
            boot_id.clone()
        } else {
            format!("{boot_id} {}", storage::this_process()?)
        };
        let inner = Inner {
            path: work_dir.to_owned(),
            layers: part("layers")?,
            records: part("records")?,
            staging: part("staging")?,
            overlay: part(OVERLAYS)?,
            documents: part("documents")?,
            boot_id,
            is_private,
            epoch,
            root,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Whether the host cannot write here. Where it can, each process believes its own layers alone.
    pub(crate) fn is_private(&self) -> bool {
        self.inner.is_private
    }

    /// Refuses storage that the host can write.
    pub(crate) fn require_private(&self) -> Result<(), StoreError> {
        if self.inner.is_private {
            return Ok(());
        }
        Err(StoreError::HostWritable {
            path: self.inner.path.clone(),
            file_system: storage::file_system(self.root()),
        })
    }

    /// Which work directory this is.
    pub(crate) fn id(&self) -> Result<StoreId, StoreError> {
        let id = FileId::of(self.root())
            .map_err(|error| StoreError::io("inspect", &self.inner.path)(error.into()))?;
        Ok(StoreId(id))
    }

    /// The name that the tree of a layer has, or would have, on its own or on top of others.
    pub(crate) fn key_of(&self, layer: &Approved<Layer>, onto: Option<&ChainId>) -> String {
        LayerRecord::expected(self, layer, onto).key()
    }

    /// The layer, if it is in the store: proved in this boot from this very blob and `diff_id`.
    ///
    /// For [`blocking`](crate::blocking::blocking) work only: where it finds a tree that nothing
    /// proves, it waits for whoever publishes, however long, and removes the tree.
    pub(crate) fn layer(
        &self,
        layer: &Approved<Layer>,
        onto: Option<&ChainId>,
    ) -> Result<Option<StoredLayer>, StoreError> {
        self.proved(&self.key_of(layer, onto))
    }

    /// The tree of that name, which must have come of [`Store::key_of`].
    fn proved(&self, key: &str) -> Result<Option<StoredLayer>, StoreError> {
        if !self.has_tree(key)? {
            return Ok(None);
        }
        if let Some(record) = self.proving_record(key)? {
            self.touch(key);
            return Ok(Some(record.into_layer(key.to_owned())));
        }
        // Whoever publishes writes the record first, so this tree is nobody's. Under the lock it
        // is looked at again: another process may have put a proved one in its place.
        let _lock = self.lock(FlockOperation::LockExclusive)?;
        if let Some(record) = self.proving_record(key)? {
            let is_there = self.has_tree(key)?;
            return Ok(is_there.then(|| record.into_layer(key.to_owned())));
        }
        self.discard(OsStr::new(key))?;
        Ok(None)
    }

    /// An empty directory to unpack a layer into. Dropping it erases it.
    pub(crate) fn stage(&self) -> Result<Staging, StoreError> {
        Staging::create(&self.inner.staging)
            .map_err(StoreError::tree("make", &self.path("staging")))
    }

    /// Makes an unpacked layer visible. When another pull was faster, its copy is taken.
    ///
    /// With `sync`, all of it is on the disk before it is visible, and its name when this returns.
    pub(crate) fn publish(
        &self,
        layer: &Approved<Layer>,
        onto: Option<&ChainId>,
        staging: Staging,
        proof: Unpacked,
        sync: bool,
    ) -> Result<StoredLayer, StoreError> {
        let record = LayerRecord {
            implied: Implied::of(&proof),
            bytes: proof.file_bytes(),
            entries: proof.entries(),
            content_bytes: proof.content_bytes(),
            ..LayerRecord::expected(self, layer, onto)
        };
        let key = record.key();
        let to_disk = |result: rustix::io::Result<()>, part| {
            result.map_err(|error| StoreError::io("sync", &self.path(part))(error.into()))
        };
        if sync {
            to_disk(syncfs(&self.inner.staging), "staging")?;
        }
        let lock = self.lock(FlockOperation::LockShared)?;
        let name = record_name(&key);
        let path = self.path("records").join(&name);
        let text = to_json(&record, &path)?;
        replace_file(self.inner.records.as_fd(), &name, &text)
            .map_err(StoreError::io("write", &path))?;
        staging
            .commit(proof, &self.inner.layers, &key)
            .map_err(|source| match source {
                // The rest of what a commit does is to set what the archive says of the root.
                rootfs::Error::Io { operation, .. }
                    if !matches!(operation, "publish" | "remove") =>
                {
                    StoreError::Root(Box::new(source))
                }
                source => StoreError::tree("publish", &self.path("layers").join(&key))(source),
            })?;
        if sync {
            to_disk(syncfs(&self.inner.layers), "layers")?;
        }
        drop(lock);
        Ok(record.into_layer(key))
    }

    /// The work directory itself.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.inner.root.as_fd()
    }

    /// The directory that holds the trees of layers.
    pub(crate) fn layers(&self) -> BorrowedFd<'_> {
        self.inner.layers.as_fd()
    }

    /// The path of a layer's tree, for messages.
    pub(crate) fn layer_path(&self, layer: &StoredLayer) -> PathBuf {
        self.path("layers").join(&layer.key)
    }

    /// Whether `stored` is the tree of `layer`, on its own or on top of what lies below it.
    pub(crate) fn is_tree_of(
        &self,
        stored: &StoredLayer,
        layer: &Approved<Layer>,
        below: Option<&ChainId>,
    ) -> bool {
        [None, below]
            .iter()
            .any(|onto| self.key_of(layer, *onto) == stored.key)
    }

    /// That there is no space left.
    pub(crate) fn disk_full(&self) -> StoreError {
        let path = self.inner.path.clone();
        StoreError::DiskFull { path }
    }

    fn has_tree(&self, key: &str) -> Result<bool, StoreError> {
        match statat(self.layers(), key, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            other => {
                let path = self.path("layers").join(key);
                let error = other.err().unwrap_or(Errno::NOTDIR);
                Err(StoreError::io("inspect", &path)(error.into()))
            }
        }
    }

    /// The record of a layer; `None` also when it is not one of ours, which proves as little.
    fn record(&self, key: &str) -> Result<Option<LayerRecord>, StoreError> {
        let name = record_name(key);
        let text = read_file(self.inner.records.as_fd(), &name)
            .map_err(StoreError::io("read", &self.path("records").join(&name)))?;
        Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
    }

    /// The record of a layer, if it proves the tree of that name to whoever asks now.
    fn proving_record(&self, key: &str) -> Result<Option<LayerRecord>, StoreError> {
        let record = self.record(key)?;
        let proves = |found: &LayerRecord| found.epoch == self.inner.epoch && found.key() == key;
        Ok(record.filter(proves))
    }

    /// Removes a layer and its record, that first: a tree that is removed in part is proved to
    /// nobody. The lock of the records must be held exclusively.
    fn discard(&self, key: &OsStr) -> Result<(), StoreError> {
        let mut name = key.to_owned();
        name.push(RECORD_SUFFIX);
        match unlinkat(&self.inner.records, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => {
                let path = self.path("records").join(&name);
                return Err(StoreError::io("remove", &path)(error.into()));
            }
        }
        self.inner
            .layers
            .remove_all(key)
            .map_err(StoreError::tree("remove", &self.path("layers").join(key)))
    }

    /// Held shared from writing a record until the layer is there, exclusively to remove either.
    fn lock(&self, operation: FlockOperation) -> Result<OwnedFd, StoreError> {
        let path = self.path("records");
        let io = |error: Errno| StoreError::io("lock", &path)(error.into());
        // A lock belongs to an open file, so each holder opens its own.
        let handle = open_directory(self.root(), "records").map_err(io)?;
        flock(&handle, operation).map_err(io)?;
        Ok(handle)
    }

    /// A directory of the store, for messages.
    fn path(&self, part: &str) -> PathBuf {
        self.inner.path.join(part)
    }
}

impl StoredLayer {
    /// The name of the layer's tree in [`Store::layers`].
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// The length of the archive that it was unpacked from.
    pub(crate) fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    /// Whether the archive had an entry for its root directory.
    pub(crate) fn has_root_entry(&self) -> bool {
        !self.implied.contains(b"")
    }

    /// The directories that the archive had no entry for.
    pub(crate) fn implied(&self) -> &Implied {
        &self.implied
    }
}

impl StoreError {
    /// Whether there was no space left.
    pub(crate) fn is_disk_full(&self) -> bool {
        matches!(self, Self::DiskFull { .. })
    }

    pub(crate) fn io<'a>(
        action: &'static str,
        path: &'a Path,
    ) -> impl Fn(io::Error) -> Self + use<'a> {
        move |source| {
            let path = path.to_owned();
            if is_disk_full(&source) {
                Self::DiskFull { path }
            } else {
                Self::Io {
                    action,
                    path,
                    source,
                }
            }
        }
    }

    fn tree<'a>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(rootfs::Error) -> Self + use<'a> {
        move |source| match source {
            rootfs::Error::NoSpace { .. } => Self::DiskFull {
                path: path.to_owned(),
            },
            source => Self::Tree {
                action,
                path: path.to_owned(),
                source: Box::new(source),
            },
        }
    }
}

/// What a layer's key stands for, and what is known of its tree.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LayerRecord {
    /// The boot, and where the host can write the process, that proved the layer.
    epoch: String,
    blob: String,
    diff_id: String,
    encryption: String,
    /// The chain that it was unpacked onto, if it depends on that.
    onto: Option<String>,
    implied: Implied,
    /// The sum of the sizes of its files.
    bytes: u64,
    /// The entries of its archive, and the directories that it implies.
    entries: u64,
    /// The length of its archive.
    content_bytes: u64,
}

impl LayerRecord {
    /// What the record of `layer` has to say; nothing is known of a tree.
    fn expected(store: &Store, layer: &Approved<Layer>, onto: Option<&ChainId>) -> Self {
        Self {
            epoch: store.inner.epoch.clone(),
            blob: layer.blob().digest().to_string(),
            diff_id: layer.diff_id().to_string(),
            // Encrypted layers are refused until they can be decrypted.
            encryption: "none".to_owned(),
            onto: onto.map(|chain| chain.as_str().to_owned()),
            implied: Implied::default(),
            bytes: 0,
            entries: 0,
            content_bytes: 0,
        }
    }

    /// The name in the store. None of the parts can contain a newline.
    fn key(&self) -> String {
        let Self {
            epoch,
            blob,
            diff_id,
            encryption,
            onto,
            ..
        } = self;
        let onto = onto.as_deref().unwrap_or_default();
        let text =
            format!("image-agent layer 4\n{epoch}\n{blob}\n{diff_id}\n{encryption}\n{onto}\n");
        Digest::sha256_of(text.as_bytes()).hex()
    }

    fn into_layer(self, key: String) -> StoredLayer {
        StoredLayer {
            key,
            implied: self.implied,
            content_bytes: self.content_bytes,
        }
    }

    /// What the tree takes, about: files are not cut to whole blocks, nor blocks shared.
    fn amount(&self) -> Amount {
        Amount {
            bytes: self.bytes,
            inodes: self.entries,
        }
    }
}

fn record_name(key: &str) -> String {
    format!("{key}{RECORD_SUFFIX}")
}

/// The record as it is written to `path`, if it can be read back from there.
fn to_json(record: &impl Serialize, path: &Path) -> Result<Vec<u8>, StoreError> {
    let path = || path.to_owned();
    let text = serde_json::to_vec_pretty(record).map_err(|source| StoreError::Record {
        path: path(),
        source,
    })?;
    if text.len() > MAX_RECORD {
        return Err(StoreError::RecordTooLong {
            path: path(),
            length: text.len(),
            maximum: MAX_RECORD,
        });
    }
    Ok(text)
}

fn make_path(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

const RECORD_SUFFIX: &str = ".json";

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[cfg(test)]
mod tests;
