//! A second directory for a layer that occurs twice in an image, and copies of files and of the
//! attributes of directories.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
    chmod, chownat, fchmod, fchown, fgetxattr, flistxattr, fsetxattr, fstat, futimens, linkat,
    mkdirat, mknodat, openat2, readlinkat, seek, statat, symlinkat, utimensat,
};
use rustix::io::Errno;

use crate::handle::{PLAIN, create_file, descriptor_path, names, open_directory};

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
    let to = open_directory(parent, name)?;
    // Paths and not handles: a tree may be deeper than a process may have files open.
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let (from, to) = (open_within(from, &path)?, open_within(to.as_fd(), &path)?);
        for name in names(from.as_fd())? {
            let kind = statat(&from, &name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode;
            if FileType::from_raw_mode(kind) == FileType::Directory {
                mkdirat(&to, &name, Mode::RWXU)?;
                pending.push(path.join(name));
            } else {
                linkat(&from, &name, &to, &name, AtFlags::empty())?;
            }
        }
        // Last, since what is made inside a directory changes its times.
        copy_attributes(from.as_fd(), to.as_fd(), |_| true)?;
    }
    Ok(())
}

/// Opens the directory at `path` in a tree. That of a layer may be one byte too long for one call.
pub(crate) fn open_within(tree: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => match open_directory(tree, path) {
            Err(Errno::NAMETOOLONG) => open_directory(open_directory(tree, parent)?.as_fd(), name),
            opened => opened,
        },
        _ => open_directory(tree, "."),
    }
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
    futimens(to, &times(&stat))
}

/// Copies the file `name`, which is no directory, from one directory to another, with owner, mode,
/// times and, where it has content, those extended attributes that `wanted` accepts by name.
pub(crate) fn copy_file(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &OsStr,
    wanted: impl Fn(&[u8]) -> bool,
) -> io::Result<()> {
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    let is_link = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let original = File::from(openat2(from, name, flags, Mode::empty(), PLAIN)?);
            let copy = File::from(create_file(to, name, Mode::RUSR | Mode::WUSR)?);
            copy_content(&original, &copy)?;
            return Ok(copy_attributes(original.as_fd(), copy.as_fd(), wanted)?);
        }
        FileType::Symlink => {
            symlinkat(readlinkat(from, name, Vec::new())?, to, name)?;
            true
        }
        node => {
            mknodat(to, name, node, Mode::empty(), stat.st_rdev)?;
            false
        }
    };
    let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    let this = AtFlags::SYMLINK_NOFOLLOW;
    chownat(to, name, Some(owner.0), Some(owner.1), this)?;
    if !is_link {
        // By a handle of the node itself: a name could be a link's.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = openat2(to, name, flags, Mode::empty(), PLAIN)?;
        chmod(descriptor_path(node.as_fd()), mode)?;
    }
    Ok(utimensat(to, name, &times(&stat), this)?)
}

/// Copies what is stored; where there is nothing but a hole, the copy has one too.
fn copy_content(mut from: &File, mut to: &File) -> io::Result<()> {
    to.set_len(from.metadata()?.len())?;
    let mut end = 0;
    loop {
        let data = match seek(from, SeekFrom::Data(end)) {
            Err(Errno::NXIO) => return Ok(()),
            found => found?,
        };
        end = seek(from, SeekFrom::Hole(data))?;
        for file in [from, to] {
            seek(file, SeekFrom::Start(data))?;
        }
        io::copy(&mut from.by_ref().take(end.saturating_sub(data)), &mut to)?;
    }
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| {
        let tv_nsec = i64::try_from(nanoseconds).unwrap_or_default();
        Timespec {
            tv_sec: seconds,
            tv_nsec,
        }
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Whether an attribute belongs to the file, and not to the security module of this kernel.
fn is_portable(name: &[u8]) -> bool {
    !name.starts_with(b"security.") || name == b"security.capability"
}

/// The most bytes that Linux stores in one extended attribute, and in the list of their names.
const MAX_ATTRIBUTE: usize = 65536;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use rustix::fs::CWD;

    use super::*;
    use crate::store::fixture::{alone, with_descriptors_left};

    fn directory(path: &Path) -> OwnedFd {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).unwrap()
    }

    #[test]
    fn a_tree_deeper_than_there_are_handles_is_copied() {
        let name = "store::copy::tests::a_tree_deeper_than_there_are_handles_is_copied";
        alone(name, || {
            let scratch = tempfile::tempdir().unwrap();
            std::fs::create_dir(scratch.path().join("from")).unwrap();
            let from = directory(&scratch.path().join("from"));
            // The longest path that a layer can have: 4096 bytes.
            let mut deep = PathBuf::new();
            for name in std::iter::repeat_n("d", 2047).chain(["dd"]) {
                let parent = open_within(from.as_fd(), &deep).unwrap();
                mkdirat(&parent, name, Mode::RWXU).unwrap();
                deep.push(name);
            }
            assert_eq!(deep.as_os_str().len(), 4096);
            let attributes = Mode::from_raw_mode(0o751);
            fchmod(open_within(from.as_fd(), &deep).unwrap(), attributes).unwrap();
            let to = directory(scratch.path());
            with_descriptors_left(6, || link_tree(from.as_fd(), to.as_fd(), "to").unwrap());
            let copy = open_directory(to.as_fd(), "to").unwrap();
            let copied = fstat(open_within(copy.as_fd(), &deep).unwrap()).unwrap();
            assert_eq!(copied.st_mode & 0o7777, 0o751);
            // The standard library would need a handle for each level.
            let scratch = rootfs::Dir::open_ambient(scratch.path()).unwrap();
            scratch.remove_all("from").unwrap();
            scratch.remove_all("to").unwrap();
        });
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
