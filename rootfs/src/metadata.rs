//! Sets owner, mode, extended attributes and times, in the one order in which all of them last.
//!
//! A change of owner clears set-id bits and capabilities, and a change of mode rewrites access
//! control lists: so first the owner, then the mode, then attributes, then times.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{self, AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use crate::dir::Dir;
use crate::entry::{Metadata, Time, Xattr};
use crate::error::Error;
use crate::name::{Name, RelPath};
use crate::unpacked::{Note, Notes};
use crate::xattr::{Verdict, judge};

/// Sets metadata of files that this process has made.
#[derive(Debug)]
pub(crate) struct Stamp {
    /// Whom new files belong to: no directory has a set-gid bit while the tree is being written.
    own: (u32, u32),
    /// The process's mask of mode bits that new files do not get.
    mask: u32,
}

impl Stamp {
    pub(crate) fn new() -> Self {
        Self {
            own: (geteuid().as_raw(), getegid().as_raw()),
            mask: creation_mask(),
        }
    }

    /// Sets everything on an open file that was created with [`permissions`] of its mode.
    pub(crate) fn file(
        &self,
        file: BorrowedFd<'_>,
        path: &RelPath,
        metadata: &Metadata,
        notes: &mut Notes,
    ) -> Result<(), Error> {
        let born = permissions(metadata).as_raw_mode() & !self.mask;
        self.open(file, path, metadata, born, notes)
    }

    /// Sets everything on an open directory, of which only its owner was allowed anything.
    pub(crate) fn directory(
        &self,
        directory: BorrowedFd<'_>,
        path: &RelPath,
        metadata: &Metadata,
        notes: &mut Notes,
    ) -> Result<(), Error> {
        self.open(directory, path, metadata, Mode::RWXU.as_raw_mode(), notes)
    }

    /// Sets what is not so from birth, when the mode was `born`.
    fn open(
        &self,
        file: BorrowedFd<'_>,
        path: &RelPath,
        metadata: &Metadata,
        born: u32,
        notes: &mut Notes,
    ) -> Result<(), Error> {
        let name = path.as_bytes();
        if let Some((uid, gid)) = self.foreign_owner(metadata) {
            fs::fchown(file, Some(uid), Some(gid)).map_err(Error::io("set the owner of", name))?;
        }
        // A change of owner takes away only bits that no file is born with.
        if metadata.mode != born {
            fs::fchmod(file, Mode::from_raw_mode(metadata.mode))
                .map_err(Error::io("set the mode of", name))?;
        }
        for xattr in &metadata.xattrs {
            let set = fs::fsetxattr(file, &*xattr.name, &xattr.value, XattrFlags::empty());
            settle(set, path, xattr, notes)?;
        }
        fs::futimens(file, &timestamps(metadata.modified))
            .map_err(Error::io("set the times of", name))
    }

    /// Sets everything on a link, device or fifo, none of which is ever opened.
    pub(crate) fn node(
        &self,
        parent: &Dir,
        path: &RelPath,
        metadata: &Metadata,
        is_link: bool,
        notes: &mut Notes,
    ) -> Result<(), Error> {
        let name = path.file_name();
        let itself = AtFlags::SYMLINK_NOFOLLOW;
        if let Some((uid, gid)) = self.foreign_owner(metadata) {
            fs::chownat(parent, name, Some(uid), Some(gid), itself)
                .map_err(Error::io("set the owner of", path.as_bytes()))?;
        }
        if !is_link || !metadata.xattrs.is_empty() {
            let node = parent
                .open_node(name)
                .map_err(Error::io("open", path.as_bytes()))?;
            by_descriptor(node.as_fd(), path, metadata, is_link, notes)?;
        }
        fs::utimensat(parent, name, &timestamps(metadata.modified), itself)
            .map_err(Error::io("set the times of", path.as_bytes()))
    }

    fn foreign_owner(&self, metadata: &Metadata) -> Option<(Uid, Gid)> {
        let owner = (metadata.uid, metadata.gid);
        (owner != self.own).then(|| (Uid::from_raw(owner.0), Gid::from_raw(owner.1)))
    }
}

/// The mode that a file is to be created with: what it may do for others than its owner comes last.
pub(crate) fn permissions(metadata: &Metadata) -> Mode {
    Mode::from_raw_mode(metadata.mode & 0o777)
}

/// The mask of this process. Where it cannot be told it is taken to be one that lets no bit pass,
/// so that every mode is set.
fn creation_mask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines();
    let mask = lines.find_map(|line| line.strip_prefix("Umask:"));
    mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok())
        .unwrap_or(0o777)
}

/// Mode and attributes of what is only held as a location. The kernel takes neither from such a
/// handle, but does from its entry in `/proc`, which names this inode and no other.
fn by_descriptor(
    node: BorrowedFd<'_>,
    path: &RelPath,
    metadata: &Metadata,
    is_link: bool,
    notes: &mut Notes,
) -> Result<(), Error> {
    let location = format!("/proc/self/fd/{}", node.as_raw_fd());
    if !is_link {
        fs::chmod(&*location, Mode::from_raw_mode(metadata.mode))
            .map_err(Error::io("set the mode of", path.as_bytes()))?;
    }
    for xattr in &metadata.xattrs {
        let set = fs::setxattr(&*location, &*xattr.name, &xattr.value, XattrFlags::empty());
        settle(set, path, xattr, notes)?;
    }
    Ok(())
}

/// An attribute that is good to have but that nothing here can carry becomes a note.
fn settle(
    set: rustix::io::Result<()>,
    path: &RelPath,
    xattr: &Xattr,
    notes: &mut Notes,
) -> Result<(), Error> {
    match set {
        Ok(()) => Ok(()),
        // EPERM: `user.*` on anything but files and directories, xattr(7).
        Err(Errno::OPNOTSUPP | Errno::PERM) if judge(&xattr.name) == Verdict::WriteIfPossible => {
            let attribute = Name::from(xattr.name.as_slice());
            notes.add(Note::XattrDropped {
                entry: path.clone(),
                attribute,
            });
            Ok(())
        }
        Err(errno) => Err(Error::io("set an extended attribute of", path.as_bytes())(
            errno,
        )),
    }
}

fn timestamps(modified: Time) -> Timestamps {
    let time = Timespec {
        tv_sec: modified.seconds,
        tv_nsec: i64::from(modified.nanoseconds),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
