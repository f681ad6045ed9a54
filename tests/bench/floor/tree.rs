//! Writes an archive's entries with the fewest system calls that still give the right tree.
//!
//! It trusts the archive, which is the bench's own: it refuses nothing and checks nothing.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Result as SystemResult;

use super::BUFFER;
use super::ledger::{Ledger, Stage};

/// The directory that a layer is written to.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
}

/// What the headers say of one entry, as the system calls want it.
struct Item {
    path: String,
    link: String,
    mode: Mode,
    owner: Option<(Uid, Gid)>,
    times: Timestamps,
    capability: Option<Vec<u8>>,
    size: u64,
    kind: tar::EntryType,
}

impl Tree {
    pub(super) fn create(path: &Path) -> io::Result<Tree> {
        std::fs::create_dir(path)?;
        Ok(Tree {
            root: rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty())?,
        })
    }

    /// Writes every entry, then the times of the directories, which their entries had changed.
    pub(super) fn write<R: Read>(
        &self,
        archive: &mut tar::Archive<R>,
        ledger: &Ledger,
    ) -> io::Result<()> {
        let mut directories = Vec::new();
        let mut handles = Handles {
            root: &self.root,
            open: Vec::new(),
        };
        let mut buffer = vec![0; BUFFER];
        for entry in archive.entries()? {
            let mut entry = entry?;
            let item = Item::read(&mut entry)?;
            if item.kind.is_file() && !item.path.contains("/.wh.") {
                write_file(&item, &mut entry, &mut buffer, &mut handles, ledger)?;
            } else {
                ledger.charge(Stage::Write, || make(&item, &mut handles, &self.root))?;
            }
            if item.kind.is_dir() {
                directories.push((item.path, item.times));
            }
        }
        ledger.charge(Stage::Write, || {
            directories.iter().try_for_each(|(path, times)| {
                rustix::fs::utimensat(&self.root, path, times, AtFlags::empty())
            })
        })?;
        Ok(())
    }
}

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn write_file<R: Read>(
    item: &Item,
    content: &mut R,
    buffer: &mut [u8],
    handles: &mut Handles<'_>,
    ledger: &Ledger,
) -> io::Result<()> {
    let mut count = read_full(content, buffer)?;
    let mut left = item.size.saturating_sub(count_of(count));
    let mut file = ledger.charge(Stage::Write, || {
        let (parent, name) = handles.parent_of(&item.path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(parent, name, flags, item.mode)?);
        file.write_all(buffer.get(..count).unwrap_or_default())?;
        Ok::<_, io::Error>(file)
    })?;
    while left > 0 {
        count = read_full(content, buffer)?;
        left = left.saturating_sub(count_of(count));
        ledger.charge(Stage::Write, || {
            file.write_all(buffer.get(..count).unwrap_or_default())
        })?;
    }
    ledger.charge(Stage::Write, || {
        finish_file(item, &file)?;
        drop(file);
        Ok(())
    })
}

/// Owner before the set-user-ID bit and the capability, which a change of owner clears.
fn finish_file(item: &Item, file: &File) -> SystemResult<()> {
    if let Some((user, group)) = item.owner {
        rustix::fs::fchown(file, Some(user), Some(group))?;
        rustix::fs::fchmod(file, item.mode)?;
    }
    if let Some(value) = &item.capability {
        rustix::fs::fsetxattr(file, "security.capability", value, XattrFlags::empty())?;
    }
    rustix::fs::futimens(file, &item.times)
}

/// Everything that has no content.
fn make(item: &Item, handles: &mut Handles<'_>, root: &OwnedFd) -> SystemResult<()> {
    let (parent, name) = handles.parent_of(&item.path)?;
    if name == ".wh..wh..opq" {
        let directory = item.path.trim_end_matches("/.wh..wh..opq");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(root, directory, flags, Mode::empty())?;
        let (name, flags) = ("trusted.overlay.opaque", XattrFlags::empty());
        return rustix::fs::fsetxattr(directory, name, b"y", flags);
    }
    if let Some(hidden) = name.strip_prefix(".wh.") {
        let kind = FileType::CharacterDevice;
        return rustix::fs::mknodat(parent, hidden, kind, Mode::empty(), 0);
    }
    match item.kind {
        tar::EntryType::Directory => rustix::fs::mkdirat(parent, name, item.mode),
        tar::EntryType::Link => {
            rustix::fs::linkat(root, &item.link, parent, name, AtFlags::empty())
        }
        _ => {
            rustix::fs::symlinkat(&item.link, &parent, name)?;
            rustix::fs::utimensat(parent, name, &item.times, AtFlags::SYMLINK_NOFOLLOW)
        }
    }
}

/// The directories on the way to the entry at hand: archives come in the order of the tree.
struct Handles<'a> {
    root: &'a OwnedFd,
    open: Vec<(String, OwnedFd)>,
}

impl Handles<'_> {
    fn parent_of<'p>(&mut self, path: &'p str) -> SystemResult<(impl AsFd, &'p str)> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let holds = |folder: &str| {
            parent
                .strip_prefix(folder)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        while self.open.pop_if(|(folder, _)| !holds(folder)).is_some() {}
        let known = self.open.last().map_or("", |(folder, _)| folder.as_str());
        if known != parent {
            let below = parent
                .get(known.len()..)
                .unwrap_or(parent)
                .trim_start_matches('/');
            let from = self.open.last().map_or(self.root, |(_, handle)| handle);
            let handle = rustix::fs::openat(from, below, DIRECTORY, Mode::empty())?;
            self.open.push((parent.to_owned(), handle));
        }
        Ok((
            self.open
                .last()
                .map_or(self.root, |(_, handle)| handle)
                .as_fd(),
            name,
        ))
    }
}

impl Item {
    fn read<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Item> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let link = entry
            .link_name_bytes()
            .map(|name| text(&name))
            .unwrap_or_default();
        let path = text(&entry.path_bytes()).trim_end_matches('/').to_owned();
        let mut capability = None;
        for extension in entry.pax_extensions()?.into_iter().flatten() {
            let extension = extension?;
            if extension.key_bytes() == b"SCHILY.xattr.security.capability" {
                capability = Some(extension.value_bytes().to_vec());
            }
        }
        let header = entry.header();
        let user = u32::try_from(header.uid()?).unwrap_or(0);
        let group = u32::try_from(header.gid()?).unwrap_or(0);
        let time = Timespec {
            tv_sec: header.mtime()?.cast_signed(),
            tv_nsec: 0,
        };
        Ok(Item {
            path,
            link,
            mode: Mode::from_raw_mode(header.mode()?),
            owner: ((user, group) != (0, 0)).then(|| (Uid::from_raw(user), Gid::from_raw(group))),
            times: Timestamps {
                last_access: time,
                last_modification: time,
            },
            capability,
            size: entry.size(),
            kind: header.entry_type(),
        })
    }
}

fn read_full<R: Read>(content: &mut R, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match content.read(rest)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

fn count_of(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
