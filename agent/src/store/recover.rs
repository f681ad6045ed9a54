//! Cleaning up after processes that were killed.
//!
//! Nothing is known from memory: a lock says that somebody is at work, the list of mounts says what
//! is in use, and the records say the rest.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::path::Path;

use rootfs::Staging;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, ResolveFlags, openat2, unlinkat};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::collect::InUse;
use super::overlay::{Found, mount_namespace};
use super::{BundleRecord, OverlayDirectory, Progress, Store, StoreError};
use crate::bundle::{BundlePath, remove_half_made};
use crate::error::chain;
use crate::handle::{descriptor_path, names, open_directory};
use crate::mountinfo::{self, Mount, MountInfoError, mount_id};

/// What a clean-up found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Recovered {
    /// Bundles that are in use.
    pub(crate) bundles_kept: usize,
    /// Directories of bundles that were taken down before, by an unmount.
    pub(crate) bundles_reclaimed: usize,
    /// Bundles that were never delivered.
    pub(crate) half_made_removed: usize,
    /// Layers that were being unpacked.
    pub(crate) staging_removed: u64,
    /// Trees that nothing proves, those of an earlier boot among them.
    pub(crate) layers_removed: usize,
    /// What could not be judged or removed; the log says why.
    pub(crate) failures: usize,
}

impl Store {
    /// Removes what killed processes have left. What is alive, here or in another process, is
    /// locked and left alone; what cannot be judged stays.
    pub(crate) fn recover(&self) -> Result<Recovered, StoreError> {
        self.recover_with(&mountinfo::read)
    }

    pub(crate) fn recover_with(
        &self,
        read_mounts: &ReadMounts<'_>,
    ) -> Result<Recovered, StoreError> {
        let mut recovered = Recovered::default();
        self.recover_bundles(read_mounts, &mut recovered)?;
        match Staging::sweep(&self.inner.staging) {
            Ok(removed) => recovered.staging_removed = removed,
            Err(error) => recovered.fail(&error, OsStr::new("staging")),
        }
        self.recover_layers(&mut recovered)?;
        Ok(recovered)
    }

    /// Removes what bundles have left that are gone: their runtime tells nobody, it only unmounts.
    pub(crate) fn reclaim(&self) -> Result<Recovered, StoreError> {
        let mut recovered = Recovered::default();
        self.recover_bundles(&mountinfo::read, &mut recovered)?;
        Ok(recovered)
    }

    fn recover_bundles(
        &self,
        read_mounts: &ReadMounts<'_>,
        recovered: &mut Recovered,
    ) -> Result<(), StoreError> {
        let listed = self.list("overlay")?;
        // Read once for all bundles, so that many that are in use cost little. If it cannot be read
        // here it cannot be read below either, where that counts as a failure.
        let seen = Seen::in_list(&read_mounts().unwrap_or_default());
        for id in listed {
            let recover = |id| self.recover_bundle(id, &seen, read_mounts);
            let outcome = id.to_str().map_or(Ok(None), recover);
            recovered.count(outcome, &id, |recovered, outcome| match outcome {
                Outcome::Kept => &mut recovered.bundles_kept,
                Outcome::Reclaimed => &mut recovered.bundles_reclaimed,
                Outcome::HalfMade => &mut recovered.half_made_removed,
            });
        }
        Ok(())
    }

    fn recover_bundle(
        &self,
        id: &str,
        seen: &Seen,
        read_mounts: &ReadMounts<'_>,
    ) -> Result<Option<Outcome>, StoreError> {
        let Some(directory) = OverlayDirectory::lock_existing(self, id)? else {
            return Ok(None);
        };
        let found = directory.read()?;
        if found.is_delivered() && self.may_be_in_use(&directory, &found, seen)? {
            return Ok(Some(Outcome::Kept));
        }
        // Read under the lock: a bundle is mounted before its directory is unlocked.
        let mut mounts = read_mounts().map_err(StoreError::Mounts)?;
        mounts.retain(|mount| mount.bundle() == Some(id));
        if found.is_delivered() && !mounts.is_empty() {
            return Ok(Some(Outcome::Kept));
        }
        // Nothing proves that what is still mounted was ever handed out.
        for mount in mounts.iter().rev() {
            take_down(mount)?;
        }
        let is_half_made = self.clean_outside(&directory, &found) || !mounts.is_empty();
        directory.erase()?;
        Ok(Some(if is_half_made {
            Outcome::HalfMade
        } else {
            Outcome::Reclaimed
        }))
    }

    /// Whether a delivered bundle was mounted when the clean-up began, or may be where our list of
    /// mounts does not reach. One that was unmounted since is for the next clean-up.
    fn may_be_in_use(
        &self,
        directory: &OverlayDirectory,
        found: &Found,
        seen: &Seen,
    ) -> Result<bool, StoreError> {
        match found {
            _ if seen.0.contains(directory.id()) => Ok(true),
            Found::Record(record) => self.is_elsewhere(record),
            Found::Nothing | Found::Unknown { .. } => Ok(false),
        }
    }

    /// Removes what a bundle has put outside the store, if it is known to be half-made.
    fn clean_outside(&self, directory: &OverlayDirectory, found: &Found) -> bool {
        match found {
            Found::Record(record) if record.progress == Progress::Assembling => {
                self.clean_bundle(record);
                true
            }
            Found::Unknown { error, .. } => {
                let path = directory.path();
                let path = path.display();
                tracing::warn!(%error, %path, "the unreadable record of a bundle is removed");
                false
            }
            Found::Record(_) | Found::Nothing => false,
        }
    }

    /// Whether the bundle may be mounted where our list of mounts does not reach.
    fn is_elsewhere(&self, record: &BundleRecord) -> Result<bool, StoreError> {
        let is_this_boot = record.boot_id == self.inner.boot_id;
        Ok(is_this_boot && record.mount_namespace != mount_namespace()?)
    }

    /// Removes what a half-made bundle has put at the caller's path.
    fn clean_bundle(&self, record: &BundleRecord) {
        if record.bundle.as_os_str().is_empty() {
            // A view of lower layers is for nobody outside.
            return;
        }
        let cleaned = BundlePath::parse(&record.bundle, &self.inner.path)
            .and_then(|path| remove_half_made(&path, self.root(), record.config, record.made));
        if let Err(error) = cleaned {
            let error = chain(&error);
            tracing::warn!(error, bundle = %record.bundle.display(), "half-made bundle stays");
        }
    }

    /// Removes trees without a record that proves them, unless a bundle uses them, and records
    /// without a tree.
    fn recover_layers(&self, recovered: &mut Recovered) -> Result<(), StoreError> {
        let _lock = match self.lock(FlockOperation::NonBlockingLockExclusive) {
            Ok(lock) => lock,
            // Somebody publishes a layer or looks at them. What nothing proves can wait.
            Err(StoreError::Io { source, .. })
                if Errno::from_io_error(&source) == Some(Errno::WOULDBLOCK) =>
            {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let in_use = self.in_use()?;
        for name in self.list("layers")? {
            let outcome = self.recover_layer(&name, &in_use);
            recovered.count(outcome, &name, |recovered, ()| {
                &mut recovered.layers_removed
            });
        }
        for name in self.list("records")? {
            let key = name.to_str().and_then(|name| name.strip_suffix(".json"));
            let has_tree = key.map_or(Ok(false), |key| self.has_tree(key))?;
            if !has_tree {
                let path = self.path("records").join(&name);
                unlinkat(&self.inner.records, name.as_os_str(), AtFlags::empty())
                    .map_err(|error| StoreError::io("remove", &path)(error.into()))?;
            }
        }
        Ok(())
    }

    fn recover_layer(&self, name: &OsStr, in_use: &InUse) -> Result<Option<()>, StoreError> {
        let key = name.to_str().unwrap_or_default();
        if self.proving_record(key)?.is_some() || in_use.has(key) {
            return Ok(None);
        }
        self.discard(name)?;
        Ok(Some(()))
    }

    pub(super) fn list(&self, part: &'static str) -> Result<Vec<OsString>, StoreError> {
        let path = self.path(part);
        open_directory(self.root(), part)
            .and_then(|handle| names(handle.as_fd()))
            .map_err(|error| StoreError::io("list", &path)(error.into()))
    }
}

impl Recovered {
    fn count<T>(
        &mut self,
        outcome: Result<Option<T>, StoreError>,
        name: &OsStr,
        counter: impl FnOnce(&mut Self, T) -> &mut usize,
    ) {
        match outcome {
            Ok(Some(outcome)) => *counter(self, outcome) += 1,
            Ok(None) => {}
            Err(error) => self.fail(&error, name),
        }
    }

    fn fail(&mut self, error: &(dyn std::error::Error + 'static), name: &OsStr) {
        self.failures += 1;
        let error = chain(error);
        tracing::warn!(error, name = %name.display(), "cannot be cleaned up");
    }
}

/// Reads the list of mounts.
type ReadMounts<'a> = dyn Fn() -> Result<Vec<Mount>, MountInfoError> + 'a;

/// The bundles that were mounted when the clean-up began, by id.
struct Seen(HashSet<String>);

impl Seen {
    fn in_list(mounts: &[Mount]) -> Self {
        let bundles = mounts.iter().filter_map(Mount::bundle);
        Self(bundles.map(str::to_owned).collect())
    }
}

enum Outcome {
    Kept,
    Reclaimed,
    HalfMade,
}

/// Unmounts `mount` if that is what is found at its place.
fn take_down(mount: &Mount) -> Result<(), StoreError> {
    let path: &Path = &mount.point;
    let io = |error: Errno| StoreError::io("unmount", path)(error.into());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let handle = openat2(CWD, path, flags, Mode::empty(), resolve).map_err(io)?;
    if mount_id(handle.as_fd()).map_err(io)? != mount.id {
        // Something else was mounted over it.
        return Err(io(Errno::BUSY));
    }
    unmount(descriptor_path(handle.as_fd()), UnmountFlags::DETACH).map_err(io)
}
