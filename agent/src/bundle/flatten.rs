//! Several layers as one plain directory, which shows what an overlay of them would.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, Stat, linkat, mkdirat, statat};

use super::BundleError;
use super::inherit::{Layers, giver, io, is_inheritable};
use crate::handle::names;
use crate::store::{StoredLayer, copy_attributes, copy_file, open_within};

/// What the files of a flat directory are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// Those of the layers, under one more name: nobody may change them.
    Linked,
    /// Copies.
    Copied,
}

impl Layers<'_> {
    /// Makes in `to`, which is empty, what the layers show together.
    ///
    /// `to_path` is for messages.
    pub(super) fn flatten(
        &self,
        to: BorrowedFd<'_>,
        to_path: &Path,
        content: Content,
    ) -> Result<(), BundleError> {
        let mut flat = Flat {
            to,
            to_path,
            content,
            copies: HashMap::new(),
        };
        // Paths and not handles: a tree may be deeper than a process may have files open.
        let mut pending = vec![(PathBuf::new(), self.layers.clone())];
        while let Some((path, among)) = pending.pop() {
            for (name, visible) in self.flatten_directory(&mut flat, &path, &among)? {
                pending.push((path.join(name), visible));
            }
        }
        Ok(())
    }

    /// Makes what is in the directory at `path`, and returns which directories are in it, each with
    /// the layers that may have something in there.
    fn flatten_directory<'l>(
        &self,
        flat: &mut Flat<'_>,
        path: &Path,
        among: &[&'l StoredLayer],
    ) -> Result<Vec<(OsString, Vec<&'l StoredLayer>)>, BundleError> {
        let bytes = path.as_os_str().as_bytes();
        let visible = self.visible(bytes, among)?;
        let directory = flat.open(path)?;
        let (mut seen, mut directories) = (HashSet::new(), Vec::new());
        for (index, layer) in visible.iter().enumerate() {
            let from = self.open(layer, bytes)?;
            let inspect = |error| self.io("inspect", layer, bytes)(error);
            for name in names(from.as_fd()).map_err(inspect)? {
                // The topmost layer that has a name says what it is.
                if !seen.insert(name.clone()) {
                    continue;
                }
                let stat = statat(&from, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(inspect)?;
                if flat.add(&from, &directory, &path.join(&name), &stat)? {
                    let below = visible.get(index..).unwrap_or_default();
                    directories.push((name, below.to_vec()));
                }
            }
        }
        // Last, since what is made in a directory changes its times.
        if let Some(giver) = giver(&visible, bytes) {
            let from = self.open(giver, bytes)?;
            copy_attributes(from.as_fd(), directory.as_fd(), is_inheritable).map_err(io(
                "set the attributes of",
                flat.to_path,
                bytes,
            ))?;
        }
        Ok(directories)
    }
}

/// A flat directory that is being made.
struct Flat<'a> {
    to: BorrowedFd<'a>,
    to_path: &'a Path,
    content: Content,
    /// Where the copies are of files that have several names, by device and inode number.
    copies: HashMap<(u64, u64), PathBuf>,
}

impl Flat<'_> {
    fn open(&self, path: &Path) -> Result<OwnedFd, BundleError> {
        let bytes = path.as_os_str().as_bytes();
        open_within(self.to, path).map_err(io("open", self.to_path, bytes))
    }

    /// Makes in `to` what is at the end of `path` in `from`; whether that is a directory, in which
    /// nothing is yet.
    fn add(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        path: &Path,
        stat: &Stat,
    ) -> Result<bool, BundleError> {
        let name = path.file_name().unwrap_or_default();
        let failed = |action| io(action, self.to_path, path.as_os_str().as_bytes());
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                mkdirat(to, name, Mode::RWXU).map_err(failed("make"))?;
                return Ok(true);
            }
            // A whiteout: there is nothing.
            FileType::CharacterDevice if stat.st_rdev == 0 => {}
            _ if self.content == Content::Linked => {
                linkat(from, name, to, name, AtFlags::empty()).map_err(failed("link"))?;
            }
            _ => self.copy(from, to, path, stat)?,
        }
        Ok(false)
    }

    fn copy(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        path: &Path,
        stat: &Stat,
    ) -> Result<(), BundleError> {
        let name = path.file_name().unwrap_or_default();
        let id = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.copies.get(&id)
            && let (Some(parent), Some(first)) = (first.parent(), first.file_name())
        {
            let parent = self.open(parent)?;
            return linkat(&parent, first, to, name, AtFlags::empty()).map_err(io(
                "link",
                self.to_path,
                path.as_os_str().as_bytes(),
            ));
        }
        let target = self.to_path.join(path);
        copy_file(from.as_fd(), to.as_fd(), name, is_inheritable)
            .map_err(BundleError::io("copy", &target))?;
        if stat.st_nlink > 1 {
            self.copies.insert(id, path.to_owned());
        }
        Ok(())
    }
}
