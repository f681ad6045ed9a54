//! The writable part of one bundle, and the record by which a later process knows what it is.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, mkdirat, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{Store, StoreError, to_json};
use crate::handle::{
    FileId, ensure_directory, is_linked, open_directory, read_file, replace_file, try_lock,
};
use crate::mountinfo::bundle_source;

/// What is known on disk about a bundle. It is written before anything is made outside the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BundleRecord {
    pub(crate) progress: Progress,
    /// The bundle's directory.
    pub(crate) bundle: PathBuf,
    /// How many of the components of `<bundle>/rootfs` did not exist.
    pub(crate) made: usize,
    /// Which file `config.json` is, once it is there.
    pub(crate) config: Option<FileId>,
    /// The boot and the mount namespace that the mount belongs to.
    pub(crate) boot_id: String,
    pub(crate) mount_namespace: u64,
    pub(crate) manifest_digest: String,
    /// The keys of the layers in use, bottom first.
    pub(crate) layers: Vec<String>,
    /// Why the image was allowed. For people; nothing ever reads it back.
    pub(crate) decision: serde_json::Value,
}

/// How far a bundle is.
///
/// Complete: either its caller was told, or it is to be taken down. Every version of this program
/// writes it under the name `progress`, so that no other takes down what was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Progress {
    /// Being made, or given up by a process that was killed.
    Assembling,
    /// Handed out.
    Delivered,
}

/// What a directory has for a record.
///
/// Complete: records are written whole, so there is none, or a whole one.
#[derive(Debug)]
pub(crate) enum Found {
    /// None: its process was killed before anything was made outside the store, or somebody has
    /// removed it.
    Nothing,
    /// A record of ours.
    Record(BundleRecord),
    /// A record of another version of this program, or a damaged one.
    Unknown {
        error: serde_json::Error,
        /// Whether it says all the same that the bundle was handed out.
        is_delivered: bool,
    },
}

impl Found {
    /// Whether it is proved that the bundle was handed out: then it stays while it is mounted.
    pub(crate) fn is_delivered(&self) -> bool {
        match self {
            Self::Nothing => false,
            Self::Record(record) => record.progress == Progress::Delivered,
            Self::Unknown { is_delivered, .. } => *is_delivered,
        }
    }
}

/// `overlay/<id>`, locked, and erased when it is dropped unless it was kept.
#[derive(Debug)]
pub(crate) struct OverlayDirectory {
    store: Store,
    id: String,
    handle: OwnedFd,
    keep: bool,
}

impl OverlayDirectory {
    /// A fresh directory with `record` in it. From here on the layers that it names are in use.
    pub(crate) fn create(store: &Store, record: &BundleRecord) -> Result<Self, StoreError> {
        // Whoever removes layers that are not in use has not begun, or has ended.
        let _lock = store.lock(FlockOperation::LockShared)?;
        loop {
            let id = fresh_id()?;
            let path = store.path("overlay").join(&id);
            let claimed = make_locked(store.inner.overlay.as_fd(), &id)
                .map_err(|error| StoreError::io("make", &path)(error.into()))?;
            if let Some(handle) = claimed {
                let directory = Self {
                    store: store.clone(),
                    id,
                    handle,
                    keep: false,
                };
                directory.write(record)?;
                return Ok(directory);
            }
        }
    }

    /// Locks an existing directory. `None` when it is in use, or gone.
    pub(crate) fn lock_existing(store: &Store, id: &str) -> Result<Option<Self>, StoreError> {
        let path = store.path("overlay").join(id);
        let io = |error: Errno| StoreError::io("open", &path)(error.into());
        let handle = match open_directory(store.inner.overlay.as_fd(), id) {
            Ok(handle) => handle,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        let is_ours =
            try_lock(handle.as_fd()).map_err(io)? && is_linked(handle.as_fd()).map_err(io)?;
        Ok(is_ours.then(|| Self {
            store: store.clone(),
            id: id.to_owned(),
            handle,
            keep: true,
        }))
    }

    /// The bundle's id, which is the directory's name.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// What the list of mounts calls the bundle's file system.
    pub(crate) fn mount_source(&self) -> String {
        bundle_source(&self.id)
    }

    pub(crate) fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// The path, for messages.
    pub(crate) fn path(&self) -> PathBuf {
        self.store.path("overlay").join(&self.id)
    }

    /// A directory inside, made if there is none.
    pub(crate) fn directory(&self, name: &str) -> Result<OwnedFd, StoreError> {
        ensure_directory(self.handle(), name)
            .map_err(|error| StoreError::io("make", &self.path().join(name))(error.into()))
    }

    /// Replaces the record.
    pub(crate) fn write(&self, record: &BundleRecord) -> Result<(), StoreError> {
        let path = self.path().join(RECORD);
        replace_file(self.handle(), RECORD, &to_json(record, &path)?)
            .map_err(StoreError::io("write", &path))
    }

    /// The text of the record of the bundle `id`, whoever has it locked.
    pub(super) fn read_text(store: &Store, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = store.path("overlay").join(id);
        let handle = match open_directory(store.inner.overlay.as_fd(), id) {
            Ok(handle) => handle,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(StoreError::io("open", &path)(error.into())),
        };
        read_file(handle.as_fd(), RECORD).map_err(StoreError::io("read", &path.join(RECORD)))
    }

    /// The store that it is in.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// The record.
    pub(crate) fn read(&self) -> Result<Found, StoreError> {
        let text = read_file(self.handle(), RECORD)
            .map_err(StoreError::io("read", &self.path().join(RECORD)))?;
        let parse = |text: Vec<u8>| {
            serde_json::from_slice(&text).map_err(|error| (error, says_delivered(&text)))
        };
        Ok(match text.map(parse) {
            None => Found::Nothing,
            Some(Ok(record)) => Found::Record(record),
            Some(Err((error, is_delivered))) => Found::Unknown {
                error,
                is_delivered,
            },
        })
    }

    /// Leaves the directory where it is, unlocked.
    pub(crate) fn keep(mut self) {
        self.keep = true;
    }

    /// Erases the directory.
    pub(crate) fn erase(mut self) -> Result<(), StoreError> {
        self.keep = true;
        let removed = self.store.inner.overlay.remove_all(&self.id);
        removed.map_err(StoreError::tree("remove", &self.path()))
    }
}

impl Drop for OverlayDirectory {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = self.store.inner.overlay.remove_all(&self.id)
        {
            tracing::warn!(%error, id = self.id, "the directory of a half-made bundle stays");
        }
    }
}

impl Store {
    /// A record of a bundle that is about to be made in this boot and mount namespace.
    pub(crate) fn new_record(&self) -> Result<BundleRecord, StoreError> {
        Ok(BundleRecord {
            progress: Progress::Assembling,
            bundle: PathBuf::new(),
            made: 0,
            config: None,
            boot_id: self.inner.boot_id.clone(),
            mount_namespace: mount_namespace()?,
            manifest_digest: String::new(),
            layers: Vec::new(),
            decision: serde_json::Value::Null,
        })
    }
}

/// The mount namespace of this process: another one's list of mounts says nothing about ours.
pub(crate) fn mount_namespace() -> Result<u64, StoreError> {
    let path = Path::new("/proc/self/ns/mnt");
    Ok(std::fs::metadata(path)
        .map_err(StoreError::io("inspect", path))?
        .ino())
}

/// Makes the directory `id` and locks it. `None` when a process that cleans up was faster with the
/// lock: then the directory is gone, or soon will be.
fn make_locked(overlay: BorrowedFd<'_>, id: &str) -> Result<Option<OwnedFd>, Errno> {
    mkdirat(overlay, id, Mode::RWXU)?;
    let claim = || {
        let handle = open_directory(overlay, id)?;
        let is_ours = try_lock(handle.as_fd())? && is_linked(handle.as_fd())?;
        Ok(is_ours.then_some(handle))
    };
    let claimed = claim();
    if claimed.is_err() {
        // The error to report is the first one.
        let _ = unlinkat(overlay, id, AtFlags::REMOVEDIR);
    }
    claimed
}

/// Whether a record that is none of ours says that its bundle was handed out.
pub(super) fn says_delivered(text: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct AnyVersion {
        progress: Progress,
    }
    serde_json::from_slice(text)
        .is_ok_and(|record: AnyVersion| record.progress == Progress::Delivered)
}

fn fresh_id() -> Result<String, StoreError> {
    // One v4 UUID of the kernel's random generator for each read.
    let path = Path::new("/proc/sys/kernel/random/uuid");
    let uuid = std::fs::read_to_string(path).map_err(StoreError::io("read", path))?;
    Ok(uuid.trim().replace('-', ""))
}

const RECORD: &str = "record.json";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{Fixture, alone, with_descriptors_left};

    #[test]
    fn a_directory_that_cannot_be_claimed_is_removed_at_once() {
        alone(
            "store::overlay::tests::a_directory_that_cannot_be_claimed_is_removed_at_once",
            || {
                let fixture = Fixture::new();
                let store = fixture.store();
                let overlay = store.inner.overlay.as_fd();
                let error = with_descriptors_left(0, || make_locked(overlay, "0123").unwrap_err());
                assert_eq!(error, Errno::MFILE);
                assert_eq!(fixture.list("overlay"), [""; 0]);
            },
        );
    }

    #[test]
    fn only_a_record_that_says_so_is_of_a_delivered_bundle() {
        for (text, expected) in [
            (r#"{"progress":"delivered","version":2}"#, true),
            (r#"{"progress":"assembling","version":2}"#, false),
            (r#"{"version":2}"#, false),
            (r#"{"progress":"delivered""#, false),
            ("", false),
        ] {
            assert_eq!(says_delivered(text.as_bytes()), expected, "{text}");
        }
    }
}
