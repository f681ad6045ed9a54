//! A second directory for a layer that occurs twice in an image, and the attributes of directories.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, fchmod,
    fchown, fgetxattr, flistxattr, fsetxattr, fstat, futimens, linkat, mkdirat, openat, statat,
};
use rustix::io::Errno;

/// Makes `name` in `parent` a copy of the tree `from`: directories are new, everything in them is
/// the same file under another name.
///
/// overlayfs refuses one directory as two layers, also through a bind mount, since it would meet
/// its own inodes on the way down.
pub(crate) fn link_tree(
    from: BorrowedFd<'_>,
    parent: BorrowedFd<'_>,
    name: &str,
) -> Result<(), Errno> {
    mkdirat(parent, name, Mode::RWXU)?;
    let mut open = vec![Level::new(
        open_directory(from, c".")?,
        openat(parent, name, OPEN, Mode::empty())?,
    )?];
    while let Some(level) = open.last_mut() {
        if let Some(below) = level.next_directory()? {
            open.push(below);
        } else {
            // Last, since what happens inside a directory changes its times.
            copy_attributes(level.from.as_fd(), level.to.as_fd(), |_| true)?;
            open.pop();
        }
    }
    Ok(())
}

/// Gives the directory `to` the owner, mode, times and those extended attributes of `from` that
/// `wanted` accepts by name.
pub(crate) fn copy_attributes(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    wanted: impl Fn(&[u8]) -> bool,
) -> Result<(), Errno> {
    let stat = fstat(from)?;
    fchown(
        to,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    let mut buffer = vec![0; MAX_ATTRIBUTE];
    let length = flistxattr(from, buffer.as_mut_slice())?;
    let names = buffer.get(..length).unwrap_or_default().to_vec();
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(c_name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        if is_portable(c_name.to_bytes()) && wanted(c_name.to_bytes()) {
            let length = fgetxattr(from, c_name, buffer.as_mut_slice())?;
            let value = buffer.get(..length).unwrap_or_default();
            fsetxattr(to, c_name, value, XattrFlags::empty())?;
        }
    }
    let time = |seconds, nanoseconds| {
        let tv_nsec = i64::try_from(nanoseconds).unwrap_or_default();
        Timespec {
            tv_sec: seconds,
            tv_nsec,
        }
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    futimens(to, &times)
}

/// Whether an attribute belongs to the file, and not to the security module of this kernel.
fn is_portable(name: &[u8]) -> bool {
    !name.starts_with(b"security.") || name == b"security.capability"
}

/// A directory that is being copied, and how far the copying is.
struct Level {
    from: OwnedFd,
    to: OwnedFd,
    entries: Dir,
}

impl Level {
    fn new(from: OwnedFd, to: OwnedFd) -> Result<Self, Errno> {
        let entries = Dir::read_from(&from)?;
        Ok(Self { from, to, entries })
    }

    /// Links what is left up to the next directory, and makes that.
    fn next_directory(&mut self) -> Result<Option<Self>, Errno> {
        for entry in self.entries.by_ref() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let kind = statat(&self.from, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode;
            if FileType::from_raw_mode(kind) == FileType::Directory {
                mkdirat(&self.to, name, Mode::RWXU)?;
                let from = open_directory(self.from.as_fd(), name)?;
                let to = open_directory(self.to.as_fd(), name)?;
                return Self::new(from, to).map(Some);
            }
            linkat(&self.from, name, &self.to, name, AtFlags::empty())?;
        }
        Ok(None)
    }
}

fn open_directory(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    openat(parent, name, OPEN, Mode::empty())
}

const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The most bytes that Linux stores in one extended attribute, and in the list of their names.
const MAX_ATTRIBUTE: usize = 65536;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};
    use std::path::Path;

    use rustix::fs::{CWD, mknodat, open};

    use super::*;

    fn directory(path: &Path) -> OwnedFd {
        open(path, OPEN, Mode::empty()).unwrap()
    }

    #[test]
    fn a_copy_has_new_directories_and_the_same_files() {
        let scratch = tempfile::tempdir().unwrap();
        let original = scratch.path().join("original");
        std::fs::create_dir_all(original.join("a/b")).unwrap();
        std::fs::write(original.join("a/b/file"), "text").unwrap();
        symlink("/nowhere", original.join("a/link")).unwrap();
        mknodat(
            CWD,
            original.join("a/gone"),
            FileType::CharacterDevice,
            Mode::empty(),
            0,
        )
        .unwrap();
        let inner = directory(&original.join("a"));
        fsetxattr(&inner, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
        fchown(&inner, Some(Uid::from_raw(7)), Some(Gid::from_raw(8))).unwrap();
        fchmod(&inner, Mode::from_raw_mode(0o3751)).unwrap();
        let time = Timespec {
            tv_sec: 12,
            tv_nsec: 345,
        };
        futimens(
            &inner,
            &Timestamps {
                last_access: time,
                last_modification: time,
            },
        )
        .unwrap();

        link_tree(
            directory(&original).as_fd(),
            directory(scratch.path()).as_fd(),
            "copy",
        )
        .unwrap();
        let copy = scratch.path().join("copy");
        for file in ["a/b/file", "a/link", "a/gone"] {
            let inode = |tree: &Path| std::fs::symlink_metadata(tree.join(file)).unwrap().ino();
            assert_eq!(inode(&copy), inode(&original), "{file}");
        }
        let (old, new) = (original.join("a"), copy.join("a"));
        let (old, new) = (old.metadata().unwrap(), new.metadata().unwrap());
        assert_ne!(new.ino(), old.ino());
        assert_eq!((new.uid(), new.gid(), new.mode()), (7, 8, 0o043_751));
        assert_eq!((new.mtime(), new.mtime_nsec()), (12, 345));
        let mut value = [0; 8];
        let length = fgetxattr(
            directory(&copy.join("a")),
            "trusted.overlay.opaque",
            &mut value[..],
        )
        .unwrap();
        assert_eq!(&value[..length], b"y");
    }

    #[test]
    fn only_the_attributes_asked_for_are_copied() {
        let scratch = tempfile::tempdir().unwrap();
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        std::fs::create_dir(&to).unwrap();
        let (from, to) = (directory(&from), directory(&to));
        for name in ["trusted.overlay.opaque", "trusted.other"] {
            fsetxattr(&from, name, b"y", XattrFlags::empty()).unwrap();
        }
        copy_attributes(from.as_fd(), to.as_fd(), |name| {
            name != b"trusted.overlay.opaque"
        })
        .unwrap();
        let mut list = [0; 256];
        let length = flistxattr(&to, &mut list[..]).unwrap();
        assert_eq!(&list[..length], b"trusted.other\0");
    }
}
