//! The writable part of one bundle, and the record by which a later process knows what it is.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{Store, StoreError, to_json};
use crate::handle::{
    FileId, ensure_directory, is_linked, open_directory, read_file, replace_file, try_lock,
};

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
/// Complete: either its caller was told, or it is to be taken down.
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
    /// None: its process was killed before anything was made outside the store.
    Nothing,
    /// A record of ours.
    Record(BundleRecord),
    /// A record of another version of this program.
    Unknown(serde_json::Error),
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
    /// A fresh directory with `record` in it.
    pub(crate) fn create(store: &Store, record: &BundleRecord) -> Result<Self, StoreError> {
        loop {
            let id = fresh_id()?;
            let overlay = store.inner.overlay.as_fd();
            let path = store.path("overlay").join(&id);
            let io = |error: Errno| StoreError::io("make", &path)(error.into());
            let handle = ensure_directory(overlay, &id).map_err(io)?;
            let locked = try_lock(handle.as_fd()).map_err(io)?;
            // A process that cleans up may have been faster with the lock: then this one is gone.
            if locked && is_linked(handle.as_fd()).map_err(io)? {
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

    /// What the list of mounts calls the bundle's file system.
    pub(crate) fn mount_source(&self) -> String {
        format!("image-agent:{}", self.id)
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

    /// The record.
    pub(crate) fn read(&self) -> Result<Found, StoreError> {
        let text = read_file(self.handle(), RECORD)
            .map_err(StoreError::io("read", &self.path().join(RECORD)))?;
        Ok(match text.map(|text| serde_json::from_slice(&text)) {
            None => Found::Nothing,
            Some(Ok(record)) => Found::Record(record),
            Some(Err(error)) => Found::Unknown(error),
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

fn fresh_id() -> Result<String, StoreError> {
    // One v4 UUID of the kernel's random generator for each read.
    let path = Path::new("/proc/sys/kernel/random/uuid");
    let uuid = std::fs::read_to_string(path).map_err(StoreError::io("read", path))?;
    Ok(uuid.trim().replace('-', ""))
}

const RECORD: &str = "record.json";
