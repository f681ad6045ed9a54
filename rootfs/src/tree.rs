//! The directories of a tree being written: finding them, making them, and remembering what is to
//! be set on them at the end.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::rc::Rc;

use rustix::fs::{FileType, Stat, major, minor};
use rustix::io::Errno;

use crate::dir::Dir;
use crate::entry::Metadata;
use crate::error::{Error, LinkFault};
use crate::limits::{LimitKind, Limits};
use crate::name::RelPath;
use crate::unpacked::Counts;

/// The directories of the tree. While it is being written all of them have mode 0700 and belong to
/// this process, so that no bit of the archive's has an effect before the end.
///
/// Paths in here are canonical: no component of them is a symbolic link. The kernel holds us to
/// that, as every directory is opened with `RESOLVE_NO_SYMLINKS`.
#[derive(Debug)]
pub(crate) struct Tree<'a> {
    root: Rc<Dir>,
    limits: &'a Limits,
    /// Open directories. Dropped all together when there are too many, which costs little: an
    /// archive goes through a tree one directory after the other.
    open: HashMap<RelPath, Rc<Dir>>,
    records: BTreeMap<RelPath, Record>,
    pub(crate) root_is_opaque: bool,
    pub(crate) counts: Counts,
}

/// What is to become of a directory at the end.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// From the directory's own entry; without one it is implied.
    pub(crate) metadata: Option<Metadata>,
    /// Lower layers contribute nothing to what is in it.
    pub(crate) is_opaque: bool,
    /// Lower layers have no such directory at all.
    pub(crate) is_new: bool,
}

/// Where an entry goes: an open parent, and the canonical path.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) parent: Rc<Dir>,
    pub(crate) path: RelPath,
}

impl<'a> Tree<'a> {
    pub(crate) fn new(root: Dir, limits: &'a Limits) -> Self {
        Self {
            root: Rc::new(root),
            limits,
            open: HashMap::new(),
            records: BTreeMap::new(),
            root_is_opaque: false,
            counts: Counts::default(),
        }
    }

    /// Counts one more file or directory.
    pub(crate) fn count_entry(&mut self) -> Result<(), Error> {
        self.counts.entries = self.counts.entries.saturating_add(1);
        self.limits.hold(LimitKind::Entries, self.counts.entries)
    }

    /// The place of `path`, whose parents are made where they are missing and followed where they
    /// are links.
    pub(crate) fn slot(&mut self, path: &RelPath) -> Result<Slot, Error> {
        let (parent, name) = path.split();
        if let Some(dir) = self.cached(parent)? {
            return Ok(Slot {
                parent: dir,
                path: path.clone(),
            });
        }
        let parent = self.resolve(path, Missing::Make)?;
        let path = parent.join(name);
        Ok(Slot {
            parent: self.dir(&parent)?,
            path,
        })
    }

    /// The place of `path` if all its parents exist.
    pub(crate) fn existing_slot(&mut self, path: &RelPath) -> Result<Slot, Error> {
        let (parent, name) = path.split();
        if let Some(dir) = self.cached(parent)? {
            return Ok(Slot {
                parent: dir,
                path: path.clone(),
            });
        }
        let parent = self.resolve(path, Missing::Refuse)?;
        let path = parent.join(name);
        Ok(Slot {
            parent: self.dir(&parent)?,
            path,
        })
    }

    /// The record of a directory that exists at a canonical path other than the root.
    pub(crate) fn record(&mut self, path: &RelPath) -> &mut Record {
        self.records.entry(path.clone()).or_default()
    }

    /// Makes the directory, or keeps the one that is there.
    pub(crate) fn make_dir(&mut self, slot: &Slot) -> Result<(), Error> {
        let (name, path) = (slot.path.file_name(), slot.path.as_bytes());
        match slot.parent.make_dir(name) {
            Ok(()) => {
                self.record(&slot.path);
                return Ok(());
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(Error::io("create", path)(errno)),
        }
        let existing = slot.parent.stat(name).map_err(Error::io("examine", path))?;
        if existing.is_some_and(|stat| kind(&stat) == FileType::Directory) {
            self.record(&slot.path);
            return Ok(());
        }
        // Whatever stood here hid what lower layers have of this name, and so does its successor.
        slot.parent
            .unlink(name)
            .map_err(Error::io("replace", path))?;
        slot.parent
            .make_dir(name)
            .map_err(Error::io("create", path))?;
        *self.record(&slot.path) = Record {
            metadata: None,
            is_opaque: true,
            is_new: true,
        };
        Ok(())
    }

    /// Removes whatever has the name, a directory with all that is in it.
    pub(crate) fn clear(&mut self, slot: &Slot) -> Result<(), Error> {
        let name = slot.path.file_name();
        slot.parent
            .remove_tree(name)
            .map_err(Error::io("replace", slot.path.as_bytes()))?;
        if self.records.remove(&slot.path).is_some() {
            self.forget_beneath(&slot.path);
        }
        Ok(())
    }

    /// Makes a directory opaque at the end.
    pub(crate) fn mark_opaque(&mut self, path: &RelPath) {
        if path.is_root() {
            self.root_is_opaque = true;
        } else {
            self.record(path).is_opaque = true;
        }
    }

    /// Ends the tree: the root, and all other directories.
    pub(crate) fn into_records(self) -> (Rc<Dir>, BTreeMap<RelPath, Record>) {
        (self.root, self.records)
    }

    /// The open directory at `path`, if that is a canonical path of one.
    fn cached(&mut self, path: &[u8]) -> Result<Option<Rc<Dir>>, Error> {
        if path.is_empty() {
            return Ok(Some(Rc::clone(&self.root)));
        }
        if let Some(dir) = self.open.get(path) {
            return Ok(Some(Rc::clone(dir)));
        }
        match self.root.open_beneath(path) {
            Ok(dir) => Ok(Some(self.keep(path, dir))),
            // A parent that is missing, a link, or no directory.
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(Error::io("open", path)(errno)),
        }
    }

    fn dir(&mut self, path: &RelPath) -> Result<Rc<Dir>, Error> {
        let gone = || Error::io("open", path.as_bytes())(Errno::NOENT);
        self.cached(path.as_bytes())?.ok_or_else(gone)
    }

    fn keep(&mut self, path: &[u8], dir: Dir) -> Rc<Dir> {
        if self.open.len() >= OPEN_DIRECTORIES {
            self.open.clear();
        }
        let dir = Rc::new(dir);
        self.open.insert(RelPath::canonical(path), Rc::clone(&dir));
        dir
    }

    /// The canonical path of the parent of `entry`.
    ///
    /// Links are resolved here, as text, the way the kernel would for a process that has the tree
    /// as its root. A mistake in this could pick a wrong directory of the tree, but none outside:
    /// what is returned is opened as a path without links.
    fn resolve(&mut self, entry: &RelPath, missing: Missing) -> Result<RelPath, Error> {
        let mut at = RelPath::default();
        let mut ahead = Ahead::new(entry);
        while let Some((component, by_link)) = ahead.next() {
            if component == b".." {
                at.pop();
                continue;
            }
            let parent = self.dir(&at)?;
            at.push(&component);
            self.limits
                .hold(LimitKind::PathBytes, crate::name::length(at.as_bytes()))?;
            let stat = parent
                .stat(&component)
                .map_err(Error::io("examine", at.as_bytes()))?;
            match stat.as_ref().map(kind) {
                Some(FileType::Directory) => {}
                Some(FileType::Symlink) => {
                    let target = parent
                        .read_link(&component)
                        .map_err(Error::io("read the link", at.as_bytes()))?;
                    ahead.follow(&at, &target, entry)?;
                    if target.starts_with(b"/") {
                        at = RelPath::default();
                    } else {
                        at.pop();
                    }
                }
                Some(_) if !stat.as_ref().is_some_and(is_whiteout) => {
                    return Err(Error::ParentNotDirectory {
                        entry: entry.clone(),
                        parent: at,
                    });
                }
                _ if by_link => return Err(ahead.leads_nowhere(entry, LinkFault::Missing)),
                _ if missing == Missing::Refuse => {
                    let fault = LinkFault::Missing;
                    let (target, entry) = (entry.clone(), entry.clone());
                    return Err(Error::HardLink {
                        entry,
                        target,
                        fault,
                    });
                }
                _ => {
                    self.count_entry()?;
                    self.make_dir(&Slot {
                        parent,
                        path: at.clone(),
                    })?;
                }
            }
        }
        Ok(at)
    }

    /// Forgets what was known of the directories beneath `path`, which have been removed.
    fn forget_beneath(&mut self, path: &RelPath) {
        self.open.clear();
        let (mut first, mut end) = (path.as_bytes().to_vec(), path.as_bytes().to_vec());
        first.push(b'/');
        end.push(b'/' + 1);
        let range = (
            Bound::Included(first.as_slice()),
            Bound::Excluded(end.as_slice()),
        );
        let gone: Vec<_> = self
            .records
            .range::<[u8], _>(range)
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            self.records.remove(&path);
        }
    }
}

/// Whether this is what overlayfs takes for a whiteout.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    kind(stat) == FileType::CharacterDevice && (major(stat.st_rdev), minor(stat.st_rdev)) == (0, 0)
}

pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// What to do about a parent that does not exist.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    Refuse,
}

/// The components of a path that are still to be walked, the next one last.
struct Ahead {
    components: Vec<(Vec<u8>, bool)>,
    links: u32,
    last_link: RelPath,
}

impl Ahead {
    /// The parents of `entry`.
    fn new(entry: &RelPath) -> Self {
        let components = entry.components().rev().skip(1);
        let components = components
            .map(|component| (component.to_vec(), false))
            .collect();
        Self {
            components,
            links: 0,
            last_link: RelPath::default(),
        }
    }

    /// The next component, and whether it comes out of a link.
    fn next(&mut self) -> Option<(Vec<u8>, bool)> {
        self.components.pop()
    }

    /// Puts the components of `target`, which `link` holds, in front.
    fn follow(&mut self, link: &RelPath, target: &[u8], entry: &RelPath) -> Result<(), Error> {
        self.last_link = link.clone();
        self.links = self.links.saturating_add(1);
        if self.links > LINKS {
            return Err(self.leads_nowhere(entry, LinkFault::Loop));
        }
        for component in target.rsplit(|&byte| byte == b'/') {
            if !matches!(component, b"" | b".") {
                self.components.push((component.to_vec(), true));
            }
        }
        Ok(())
    }

    fn leads_nowhere(&self, entry: &RelPath, fault: LinkFault) -> Error {
        Error::ParentLink {
            entry: entry.clone(),
            link: self.last_link.clone(),
            fault,
        }
    }
}

/// Directories kept open per layer; several layers share the descriptors of a process.
const OPEN_DIRECTORIES: usize = 32;
/// As many links as the kernel follows in one path, `path_resolution(7)`.
const LINKS: u32 = 40;
