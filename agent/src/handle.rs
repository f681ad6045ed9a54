//! Small operations on directory handles. None of them follows a symbolic link.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{
    AtFlags, Dir, FlockOperation, Mode, OFlags, RawDir, ResolveFlags, Stat, flock, fstat, mkdirat,
    openat2, renameat, unlinkat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// What a file is, whatever its name: device and inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(crate) fn of(handle: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        fstat(handle).map(|stat| Self::from_stat(&stat))
    }

    pub(crate) fn from_stat(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
        }
    }
}

/// The path by which the kernel finds what `handle` refers to, for the calls that take no handle.
///
/// It is a magic link: nothing that happens to the names on the way changes where it leads.
pub(crate) fn descriptor_path(handle: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", handle.as_raw_fd())
}

/// Opens the directory `name` beneath `parent`. `name` may have several components; none of them
/// may be a link.
pub(crate) fn open_directory(
    parent: BorrowedFd<'_>,
    name: impl AsRef<OsStr>,
) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(parent, name.as_ref(), flags, Mode::empty(), PLAIN)
}

/// The names in a directory.
pub(crate) fn names(directory: BorrowedFd<'_>) -> rustix::io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

/// Whether there is nothing in a directory, whose handle nobody has read from yet.
pub(crate) fn is_empty(directory: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let mut buffer = [MaybeUninit::uninit(); LONGEST_ENTRY];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Opens the directory `name` in `parent` and makes it before, for its owner alone, if there is
/// none.
pub(crate) fn ensure_directory(parent: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    match mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => open_directory(parent, name),
        Err(error) => Err(error),
    }
}

/// Writes a file of our own at once: whoever opens `name` sees all of `content`, or what was there.
///
/// Only its owner may read it.
pub(crate) fn replace_file(
    parent: BorrowedFd<'_>,
    name: impl AsRef<OsStr>,
    content: &[u8],
) -> io::Result<()> {
    // Nobody else has this process and thread, so what has the name is of a process long gone.
    let process = rustix::process::getpid();
    let aside = format!(".new.{process}.{}", rustix::thread::gettid());
    match unlinkat(parent, &aside, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let written = create_file(parent, &aside, Mode::RUSR | Mode::WUSR)
        .map_err(io::Error::from)
        .and_then(|file| std::fs::File::from(file).write_all(content))
        .and_then(|()| Ok(renameat(parent, &aside, parent, name.as_ref())?));
    if written.is_err() {
        // The error to report is the first one.
        let _ = unlinkat(parent, &aside, AtFlags::empty());
    }
    written
}

/// Creates the file `name`, which must not exist.
pub(crate) fn create_file(
    parent: BorrowedFd<'_>,
    name: impl AsRef<OsStr>,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(parent, name.as_ref(), flags, mode, PLAIN)
}

/// Reads a file of our own, `None` when there is none.
pub(crate) fn read_file(parent: BorrowedFd<'_>, name: &str) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat2(parent, name, flags, Mode::empty(), PLAIN) {
        Ok(file) => std::fs::File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let limit = u64::try_from(MAX_RECORD).unwrap_or(u64::MAX);
    let length = file.metadata()?.len().min(limit);
    let mut content = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    file.take(limit).read_to_end(&mut content)?;
    Ok(Some(content))
}

/// Takes the lock of a directory unless another process or task has it.
pub(crate) fn try_lock(handle: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    match flock(handle, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the directory still has a name: one that was removed while open has no links.
pub(crate) fn is_linked(handle: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    Ok(fstat(handle)?.st_nlink > 0)
}

/// Whether an error says that the disk, its inodes or a quota are used up.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOSPC | Errno::DQUOT)
    )
}

/// Beneath the handle, through directories only.
pub(crate) const PLAIN: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// A directory entry with a name of 255 bytes takes less.
const LONGEST_ENTRY: usize = 512;

/// The most bytes of a record that are read, and so the most that may be written.
pub(crate) const MAX_RECORD: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::open;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_never_through_a_link() {
        let root = tempfile::tempdir().unwrap();
        let handle = open(
            root.path(),
            OFlags::RDONLY | OFlags::DIRECTORY,
            Mode::empty(),
        )
        .unwrap();
        let victim = root.path().join("victim");
        std::fs::write(&victim, "safe").unwrap();
        std::os::unix::fs::symlink(&victim, root.path().join("record")).unwrap();
        let error = read_file(handle.as_fd(), "record").unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::LOOP));
        replace_file(handle.as_fd(), "record", b"new").unwrap();
        assert_eq!(
            read_file(handle.as_fd(), "record").unwrap().unwrap(),
            b"new"
        );
        assert_eq!(std::fs::read(&victim).unwrap(), b"safe");
        assert_eq!(read_file(handle.as_fd(), "none").unwrap(), None);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_directory_is_empty_until_something_is_in_it() {
        let root = tempfile::tempdir().unwrap();
        let open = || open(root.path(), OFlags::RDONLY, Mode::empty()).unwrap();
        assert!(is_empty(open().as_fd()).unwrap());
        for name in [&*"n".repeat(255), "x"] {
            std::fs::write(root.path().join(name), "").unwrap();
            assert!(!is_empty(open().as_fd()).unwrap());
        }
        let file = std::fs::File::open(root.path().join("x")).unwrap();
        assert_eq!(is_empty(file.as_fd()), Err(Errno::NOTDIR));
    }

    #[test]
    fn a_lock_is_held_once() {
        let root = tempfile::tempdir().unwrap();
        let one = open(root.path(), OFlags::RDONLY, Mode::empty()).unwrap();
        let two = open(root.path(), OFlags::RDONLY, Mode::empty()).unwrap();
        assert!(try_lock(one.as_fd()).unwrap());
        assert!(!try_lock(two.as_fd()).unwrap());
        drop(one);
        assert!(try_lock(two.as_fd()).unwrap());
    }
}
