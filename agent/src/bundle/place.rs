//! A bundle's directory while the bundle is being made: whatever was put there goes again unless
//! it is kept.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, mkdirat, openat2, statat, unlinkat};
use rustix::io::Errno;

use super::BundleError;
use super::path::{BundlePath, Walk, step_error};
use crate::handle::{FileId, PLAIN, create_file, is_linked, names, open_directory, try_lock};
use crate::spec::ROOTFS;

/// The directories of a bundle, locked against other assemblies and empty of any other bundle.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    bundle: OwnedFd,
    config: Option<FileId>,
    directories: Directories,
}

impl Place {
    /// Makes what is missing of `<bundle>/rootfs`, unless there is a bundle already.
    pub(crate) fn make(path: &BundlePath, walk: Walk) -> Result<Self, BundleError> {
        let path = path.as_path().to_owned();
        let mut directories = Directories { walk, made: 0 };
        directories.make_missing()?;
        let make = |error: std::io::Error| BundleError::io("make", &path)(error);
        let bundle = directories
            .walk
            .deepest()
            .try_clone_to_owned()
            .map_err(make)?;
        // The lock ends with its handle. A directory that has lost its name was made by another
        // assembly, which has just failed.
        let locked = try_lock(bundle.as_fd()).map_err(|error| make(error.into()))?;
        if !locked {
            // Whoever has the lock is about to put something in these directories: they must not
            // be removed under its hands, whichever of us made them.
            directories.made = 0;
            return Err(BundleError::Busy { path });
        }
        if !is_linked(bundle.as_fd()).map_err(|error| make(error.into()))? {
            return Err(BundleError::Busy { path });
        }
        refuse_config(&path, bundle.as_fd())?;
        directories.make_rootfs()?;
        Ok(Self {
            path,
            bundle,
            config: None,
            directories,
        })
    }

    /// The directory to mount at.
    pub(crate) fn rootfs(&self) -> BorrowedFd<'_> {
        self.directories.walk.deepest()
    }

    /// Writes `config.json`. `claim` is told which file it is before there is anything in it.
    pub(crate) fn write_config(
        &mut self,
        content: &[u8],
        claim: impl FnOnce(FileId) -> Result<(), BundleError>,
    ) -> Result<(), BundleError> {
        let path = self.path.join(CONFIG);
        let io = |error: std::io::Error| BundleError::io("write", &path)(error);
        let file = match create_file(self.bundle.as_fd(), CONFIG, Mode::RUSR | Mode::WUSR) {
            Ok(file) => file,
            Err(Errno::EXIST) => {
                return Err(BundleError::Exists {
                    path: self.path.clone(),
                    what: CONFIG,
                });
            }
            Err(error) => return Err(io(error.into())),
        };
        let id = FileId::of(file.as_fd()).map_err(|error| io(error.into()))?;
        self.config = Some(id);
        claim(id)?;
        std::fs::File::from(file).write_all(content).map_err(io)
    }

    /// Leaves everything where it is.
    pub(crate) fn keep(mut self) {
        self.config = None;
        self.directories.made = 0;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(config) = self.config {
            remove_config(self.bundle.as_fd(), Some(config));
        }
    }
}

/// Refuses, without making anything, a path that no bundle can be made at: one that leads astray,
/// or that holds one already.
pub(crate) fn preflight(path: &BundlePath, work_dir: BorrowedFd<'_>) -> Result<(), BundleError> {
    let walk = path.walk(work_dir)?;
    if walk.missing().is_empty() {
        refuse_config(path.as_path(), walk.deepest())?;
    }
    Ok(())
}

fn refuse_config(path: &Path, bundle: BorrowedFd<'_>) -> Result<(), BundleError> {
    match statat(bundle, CONFIG, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        Ok(_) => Err(BundleError::Exists {
            path: path.to_owned(),
            what: CONFIG,
        }),
        Err(error) => Err(BundleError::io("look at", path)(error.into())),
    }
}

/// Removes what a killed process has left of a bundle: its `config.json`, when that is the file
/// `config`, and up to `made` directories of `<bundle>/rootfs`, when they are empty.
///
/// A bundle that another process is making at the same path is left alone.
pub(crate) fn remove_half_made(
    path: &BundlePath,
    work_dir: BorrowedFd<'_>,
    config: Option<FileId>,
    made: usize,
) -> Result<(), BundleError> {
    let mut walk = path.walk(work_dir)?;
    let mut left = made.saturating_sub(walk.missing().len());
    if walk.missing().is_empty() {
        let error = |error: Errno| BundleError::io("clean up", path.as_path())(error.into());
        let bundle = walk.deepest().try_clone_to_owned();
        let bundle = bundle.map_err(BundleError::io("clean up", path.as_path()))?;
        if !try_lock(bundle.as_fd()).map_err(error)? {
            return Ok(());
        }
        remove_config(bundle.as_fd(), config);
        match open_directory(bundle.as_fd(), ROOTFS) {
            Ok(rootfs) => walk.enter(ROOTFS, rootfs),
            Err(_absent) => left = left.saturating_sub(1),
        }
    } else {
        // The first directory that is missing is `rootfs` seen from below.
        left = left.saturating_sub(1);
    }
    walk.remove_empty(left);
    Ok(())
}

/// Unlinks `config.json` when it is the file `id`. When it is not known which file it is, only an
/// empty one is: the process was killed between making and recording it.
fn remove_config(bundle: BorrowedFd<'_>, id: Option<FileId>) {
    let Ok(stat) = statat(bundle, CONFIG, AtFlags::SYMLINK_NOFOLLOW) else {
        return;
    };
    let is_ours = match id {
        Some(id) => FileId::from_stat(&stat) == id,
        None => stat.st_size == 0,
    };
    if is_ours && let Err(error) = unlinkat(bundle, CONFIG, AtFlags::empty()) {
        tracing::warn!(%error, "config.json of a half-made bundle stays");
    }
}

/// Directories that go again when they were made here and are empty.
#[derive(Debug)]
struct Directories {
    walk: Walk,
    made: usize,
}

impl Directories {
    fn make_missing(&mut self) -> Result<(), BundleError> {
        for name in self.walk.missing().to_vec() {
            let path = self.walk.path().join(&name);
            // NO_XDEV: there was nothing of this name, so a mount is the bundle of another call.
            match self.make(&name, PLAIN | ResolveFlags::NO_XDEV) {
                Ok(()) => {}
                Err(Errno::XDEV) => return Err(BundleError::Busy { path }),
                Err(error) => return Err(BundleError::io("make", &path)(error.into())),
            }
        }
        Ok(())
    }

    /// An empty directory may be there already; anything else is somebody's bundle.
    fn make_rootfs(&mut self) -> Result<(), BundleError> {
        let path = self.walk.path();
        let rootfs = path.join(ROOTFS);
        // NO_XDEV: what is mounted there must not be entered.
        match self.make(ROOTFS, PLAIN | ResolveFlags::NO_XDEV) {
            Ok(()) => {}
            Err(Errno::XDEV) => return Err(BundleError::Exists { path, what: ROOTFS }),
            Err(error) => return Err(step_error(error, &self.walk, ROOTFS)),
        }
        let entries = names(self.walk.deepest());
        if !entries
            .map_err(|error| BundleError::io("list", &rootfs)(error.into()))?
            .is_empty()
        {
            return Err(BundleError::Exists { path, what: ROOTFS });
        }
        Ok(())
    }

    fn make(&mut self, name: &str, resolve: ResolveFlags) -> Result<(), Errno> {
        let parent = self.walk.deepest();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let is_new = match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(error),
        };
        let opened = openat2(parent, name, flags, Mode::empty(), resolve);
        if is_new && opened.is_err() {
            // The error to report is the first one.
            let _ = unlinkat(parent, name, AtFlags::REMOVEDIR);
        }
        let handle = opened?;
        self.walk.enter(name, handle);
        // What stands inside a directory of another's making is not ours to take away with it.
        self.made = if is_new { self.made + 1 } else { 0 };
        Ok(())
    }
}

impl Drop for Directories {
    fn drop(&mut self) {
        self.walk.remove_empty(self.made);
    }
}

/// The runtime configuration inside a bundle.
pub(crate) const CONFIG: &str = "config.json";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{Fixture, alone, list, with_descriptors_left};

    #[test]
    fn a_directory_that_cannot_be_entered_is_removed_at_once() {
        let name = "bundle::place::tests::a_directory_that_cannot_be_entered_is_removed_at_once";
        alone(name, || {
            let fixture = Fixture::new();
            let store = fixture.store();
            for left in 0..4 {
                let place = fixture.path("a/b/c/d/e");
                let path = BundlePath::parse(&place, &fixture.work_dir()).unwrap();
                let walk = path.walk(store.root()).unwrap();
                let error = with_descriptors_left(left, || Place::make(&path, walk).unwrap_err());
                let is_out_of_handles = matches!(&error, BundleError::Io { source, .. }
                    if Errno::from_io_error(source) == Some(Errno::MFILE));
                assert!(is_out_of_handles, "{left}: {error:?}");
                assert_eq!(list(&fixture.path(".")), ["work"], "{left}");
            }
        });
    }
}
