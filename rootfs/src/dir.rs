//! Directory handles: the only place where this crate turns a name into a file.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    self, AtFlags, CWD, Dev, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat,
};
use rustix::io::Errno;

use crate::error::Error;
use crate::name::Name;

/// An open directory. Everything reached through it lies beneath it.
///
/// No method follows a symbolic link, except [`open_ambient`](Self::open_ambient) those of the
/// caller's own configuration.
#[derive(Debug)]
pub struct Dir(OwnedFd);

impl Dir {
    /// Opens a directory that the caller's own configuration names, following links.
    ///
    /// # Errors
    /// [`Error::Io`] with what the kernel said.
    pub fn open_ambient(path: &Path) -> Result<Self, Error> {
        fs::openat(CWD, path, DIRECTORY, Mode::empty())
            .map(Self)
            .map_err(Error::io("open", path.as_os_str().as_bytes()))
    }

    /// A second handle of the same directory.
    ///
    /// # Errors
    /// [`Error::Io`] when the process has no descriptor left.
    pub fn try_clone(&self) -> Result<Self, Error> {
        self.0
            .try_clone()
            .map(Self)
            .map_err(Error::io("duplicate the handle of", b"a directory"))
    }

    /// Opens the directory `name` in this one.
    ///
    /// # Errors
    /// [`Error::NotOneComponent`]; [`Error::Io`] when it does not exist or is no directory.
    pub fn open_dir(&self, name: impl AsRef<OsStr>) -> Result<Self, Error> {
        let name = one_component(name.as_ref())?;
        self.open_beneath(name).map_err(Error::io("open", name))
    }

    /// Opens the directory `name` in this one, making it with mode 0700 if there is none.
    ///
    /// # Errors
    /// As [`open_dir`](Self::open_dir), and [`Error::NoSpace`].
    pub fn create_dir(&self, name: impl AsRef<OsStr>) -> Result<Self, Error> {
        let name = one_component(name.as_ref())?;
        match self.make_dir(name) {
            Ok(()) | Err(Errno::EXIST) => self.open_dir(OsStr::from_bytes(name)),
            Err(errno) => Err(Error::io("create", name)(errno)),
        }
    }

    /// Removes `name` and everything beneath it, following no link and leaving no mount. There
    /// being nothing of that name is no error.
    ///
    /// Takes three descriptors and no stack, however deep the tree.
    ///
    /// # Errors
    /// [`Error::NotOneComponent`]; [`Error::Io`] when the kernel will not remove something, a mount
    /// point for one.
    pub fn remove_all(&self, name: impl AsRef<OsStr>) -> Result<(), Error> {
        let name = one_component(name.as_ref())?;
        self.remove_tree(name).map_err(Error::io("remove", name))
    }

    /// Opens the directory at `path`, which may have many components, none of them a link.
    pub(crate) fn open_beneath(&self, path: &[u8]) -> rustix::io::Result<Self> {
        let path = if path.is_empty() { b"." } else { path };
        fs::openat2(&self.0, path, DIRECTORY, Mode::empty(), BENEATH).map(Self)
    }

    /// Creates the file `name`, which must not exist, for writing. The process's mask is taken
    /// from `mode`.
    pub(crate) fn create_file(&self, name: &[u8], mode: Mode) -> rustix::io::Result<File> {
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        fs::openat(&self.0, name, flags, mode).map(File::from)
    }

    /// Opens the file `name` for reading; a link is refused.
    pub(crate) fn open_file(&self, name: &[u8]) -> rustix::io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        fs::openat(&self.0, name, flags, Mode::empty()).map(File::from)
    }

    /// A handle of whatever `name` is, a link too, for metadata only.
    pub(crate) fn open_node(&self, name: &[u8]) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat(&self.0, name, flags, Mode::empty())
    }

    pub(crate) fn make_dir(&self, name: &[u8]) -> rustix::io::Result<()> {
        fs::mkdirat(&self.0, name, Mode::RWXU)
    }

    pub(crate) fn make_symlink(&self, name: &[u8], target: &[u8]) -> rustix::io::Result<()> {
        fs::symlinkat(target, &self.0, name)
    }

    pub(crate) fn make_node(
        &self,
        name: &[u8],
        kind: FileType,
        device: Dev,
    ) -> rustix::io::Result<()> {
        fs::mknodat(&self.0, name, kind, Mode::RUSR | Mode::WUSR, device)
    }

    /// Links `name` to the file `from` in another directory; a link there is linked, not followed.
    pub(crate) fn make_link(
        &self,
        name: &[u8],
        there: &Self,
        from: &[u8],
    ) -> rustix::io::Result<()> {
        fs::linkat(&there.0, from, &self.0, name, AtFlags::empty())
    }

    /// What `name` is, itself, or nothing.
    pub(crate) fn stat(&self, name: &[u8]) -> rustix::io::Result<Option<Stat>> {
        match fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    pub(crate) fn read_link(&self, name: &[u8]) -> rustix::io::Result<Vec<u8>> {
        fs::readlinkat(&self.0, name, Vec::new()).map(std::ffi::CString::into_bytes)
    }

    pub(crate) fn unlink(&self, name: &[u8]) -> rustix::io::Result<()> {
        fs::unlinkat(&self.0, name, AtFlags::empty())
    }

    /// Removes the directory `name`, which must be empty.
    pub(crate) fn remove_empty(&self, name: &[u8]) -> rustix::io::Result<()> {
        fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)
    }

    /// Renames `name` to `new` in `there`, where nothing of that name may exist.
    pub(crate) fn rename_new(
        &self,
        name: &[u8],
        there: &Self,
        new: &[u8],
    ) -> rustix::io::Result<()> {
        fs::renameat_with(&self.0, name, &there.0, new, RenameFlags::NOREPLACE)
    }

    /// The names in this directory.
    pub(crate) fn names(&self) -> rustix::io::Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        Ok(names)
    }

    pub(crate) fn remove_tree(&self, name: &[u8]) -> rustix::io::Result<()> {
        if self.remove_shallow(name)? == Removal::Done {
            return Ok(());
        }
        self.open_beneath(name)?.clear()?;
        fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)
    }

    /// Empties this directory. A directory that is not empty has its children taken up one level
    /// until it is, so that neither depth nor the length of paths ever matters.
    fn clear(&self) -> rustix::io::Result<()> {
        let mut serial = 0_u64;
        loop {
            let mut removed_any = false;
            for entry in fs::Dir::read_from(&self.0)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name == b"." || name == b".." {
                    continue;
                }
                removed_any = true;
                if self.remove_shallow(name)? == Removal::NotEmpty {
                    self.take_up(name, &mut serial)?;
                }
            }
            if !removed_any {
                return Ok(());
            }
        }
    }

    /// Moves the subdirectories of `name` beside it and removes what else is in it.
    fn take_up(&self, name: &[u8], serial: &mut u64) -> rustix::io::Result<()> {
        let child = self.open_beneath(name)?;
        for entry in fs::Dir::read_from(&child.0)? {
            let entry = entry?;
            let inner = entry.file_name().to_bytes();
            if inner == b"." || inner == b".." || child.remove_shallow(inner)? == Removal::Done {
                continue;
            }
            loop {
                *serial = serial.wrapping_add(1);
                let new = format!("removing-{serial}");
                match child.rename_new(inner, self, new.as_bytes()) {
                    Err(Errno::EXIST) => {}
                    renamed => break renamed?,
                }
            }
        }
        self.remove_shallow(name).map(drop)
    }

    /// Removes a file or an empty directory.
    fn remove_shallow(&self, name: &[u8]) -> rustix::io::Result<Removal> {
        match self.unlink(name) {
            Ok(()) | Err(Errno::NOENT) => return Ok(Removal::Done),
            Err(Errno::ISDIR) => {}
            Err(errno) => return Err(errno),
        }
        match fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(Removal::Done),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(Removal::NotEmpty),
            Err(errno) => Err(errno),
        }
    }
}

/// A directory that the caller has opened, by `fsmount(2)` for one.
impl From<OwnedFd> for Dir {
    fn from(directory: OwnedFd) -> Self {
        Self(directory)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Fails unless `name` names something in a directory and nothing else.
pub(crate) fn one_component(name: &OsStr) -> Result<&[u8], Error> {
    let name = name.as_bytes();
    let plain = !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0);
    if plain {
        Ok(name)
    } else {
        Err(Error::NotOneComponent {
            name: Name::from(name),
        })
    }
}

#[derive(PartialEq, Eq)]
enum Removal {
    Done,
    NotEmpty,
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// No link is followed and no mount entered: openat2(2).
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn scratch() -> (tempfile::TempDir, Dir) {
        let scratch = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(scratch.path()).unwrap();
        (scratch, dir)
    }

    #[test]
    fn refuses_names_of_more_than_one_component() {
        let (_scratch, dir) = scratch();
        for name in ["", ".", "..", "a/b", "/", "a/"] {
            for error in [
                dir.open_dir(name).unwrap_err(),
                dir.create_dir(name).unwrap_err(),
                dir.remove_all(name).unwrap_err(),
            ] {
                assert!(
                    matches!(error, Error::NotOneComponent { .. }),
                    "{name}: {error:?}"
                );
            }
        }
    }

    #[test]
    fn opens_no_directory_through_a_link() {
        let (scratch, dir) = scratch();
        dir.create_dir("real").unwrap();
        symlink("real", scratch.path().join("link")).unwrap();
        symlink("/", scratch.path().join("slash")).unwrap();
        for name in ["link", "slash"] {
            assert_eq!(dir.open_beneath(name.as_bytes()).unwrap_err(), Errno::LOOP);
        }
        assert_eq!(dir.open_beneath(b"link/../..").unwrap_err(), Errno::LOOP);
        assert_eq!(dir.open_beneath(b"real/../..").unwrap_err(), Errno::XDEV);
        dir.open_dir("real").unwrap();
    }

    #[test]
    fn removes_trees_deeper_than_any_path_and_touches_nothing_else() {
        let (scratch, dir) = scratch();
        std::fs::write(scratch.path().join("bystander"), "here").unwrap();
        let mut at = dir.create_dir("tree").unwrap();
        for depth in 0..3000 {
            at.make_symlink(b"out", b"../../bystander").unwrap();
            at.create_file(b"removing-1", Mode::RWXU).unwrap();
            fs::fchmod(&at, Mode::empty()).unwrap();
            at = at
                .create_dir(if depth % 2 == 0 { "a" } else { "removing-2" })
                .unwrap();
        }
        dir.remove_all("tree").unwrap();
        dir.remove_all("tree").unwrap();
        assert_eq!(dir.names().unwrap(), [b"bystander"]);
    }

    #[test]
    fn removes_a_link_and_not_what_it_names() {
        let (scratch, dir) = scratch();
        std::fs::create_dir(scratch.path().join("kept")).unwrap();
        symlink("kept", scratch.path().join("link")).unwrap();
        dir.remove_all("link").unwrap();
        assert_eq!(dir.names().unwrap(), [b"kept"]);
    }
}
