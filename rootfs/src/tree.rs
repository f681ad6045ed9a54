//! The directories of a tree being written: finding them, making them, and remembering what is to
//! be set on them at the end.

mod below;
mod resolve;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::rc::Rc;

use rustix::fs::{FileType, Stat, major, minor};
use rustix::io::Errno;

use crate::dir::Dir;
use crate::entry::Metadata;
use crate::error::Error;
use crate::limits::{LimitKind, Limits};
use crate::name::{RelPath, length};
pub(crate) use crate::tree::below::Lower;
use crate::tree::resolve::{Followed, Missing};
use crate::unpacked::Counts;

/// The directories of the tree. While it is being written all of them have mode 0700 and belong to
/// this process, so that no bit of the archive's has an effect before the end.
///
/// Paths in here are canonical: no component of them is a symbolic link. The kernel holds us to
/// that, as every directory is opened with `RESOLVE_NO_SYMLINKS`.
#[derive(Debug)]
pub(crate) struct Tree<'a> {
    root: Rc<Dir>,
    /// What the layers below show, if that is known.
    below: Option<Dir>,
    limits: &'a Limits,
    /// Open directories. Dropped all together when there are too many, which costs little: an
    /// archive goes through a tree one directory after the other.
    open: HashMap<RelPath, Rc<Dir>>,
    records: BTreeMap<RelPath, Record>,
    /// Files that are here only because hard links name them: copies of what lies below.
    copies: BTreeSet<RelPath>,
    /// Where parents lead that have links in them. True as long as nothing that has a name loses
    /// it to something else, and forgotten when that happens.
    followed: Followed,
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
    pub(crate) fn new(root: Dir, below: Option<Dir>, limits: &'a Limits) -> Self {
        Self {
            root: Rc::new(root),
            below,
            limits,
            open: HashMap::new(),
            records: BTreeMap::new(),
            copies: BTreeSet::new(),
            followed: Followed::default(),
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
        self.place(path, Missing::Make)
    }

    /// The place of `path` if all its parents exist.
    pub(crate) fn existing_slot(&mut self, path: &RelPath) -> Result<Slot, Error> {
        self.place(path, Missing::Refuse)
    }

    fn place(&mut self, path: &RelPath, missing: Missing) -> Result<Slot, Error> {
        let (parent, name) = path.split();
        if self.is_dir(parent) {
            let (parent, path) = (self.dir(parent)?, path.clone());
            return Ok(Slot { parent, path });
        }
        let canonical = match self.followed.get(parent) {
            Some(canonical) => canonical.clone(),
            None => self.resolve(path, missing)?,
        };
        Ok(Slot {
            parent: self.dir(canonical.as_bytes())?,
            path: canonical.join(name),
        })
    }

    /// The record of a directory that exists at a canonical path other than the root.
    pub(crate) fn record(&mut self, path: &RelPath) -> Result<&mut Record, Error> {
        if !self.records.contains_key(path) {
            self.keep_bytes(length(path.as_bytes()).saturating_add(RECORD))?;
        }
        Ok(self.records.entry(path.clone()).or_default())
    }

    /// Counts memory that is taken until the end. It is never given back, as a replaced directory
    /// could: an archive that lives by that is not an honest one.
    pub(crate) fn keep_bytes(&mut self, bytes: u64) -> Result<(), Error> {
        self.counts.kept_bytes = self.counts.kept_bytes.saturating_add(bytes);
        self.limits
            .hold(LimitKind::KeptBytes, self.counts.kept_bytes)
    }

    /// Makes the directory, or keeps the one that is there.
    pub(crate) fn make_dir(&mut self, slot: &Slot) -> Result<(), Error> {
        let (name, path) = (slot.path.file_name(), slot.path.as_bytes());
        match slot.parent.make_dir(name) {
            Ok(()) => {
                return self.record(&slot.path).map(drop);
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(Error::io("create", path)(errno)),
        }
        let existing = slot.parent.stat(name).map_err(Error::io("examine", path))?;
        if existing.is_some_and(|stat| kind(&stat) == FileType::Directory) {
            return self.record(&slot.path).map(drop);
        }
        // Whatever stood here hid what lower layers have of this name, and so does its successor.
        self.followed.clear();
        slot.parent
            .unlink(name)
            .map_err(Error::io("replace", path))?;
        self.copies.remove(&slot.path);
        slot.parent
            .make_dir(name)
            .map_err(Error::io("create", path))?;
        *self.record(&slot.path)? = Record {
            metadata: None,
            is_opaque: true,
            is_new: true,
        };
        Ok(())
    }

    /// Removes whatever has the name, a directory with all that is in it.
    pub(crate) fn clear(&mut self, slot: &Slot) -> Result<(), Error> {
        let name = slot.path.file_name();
        self.followed.clear();
        slot.parent
            .remove_tree(name)
            .map_err(Error::io("replace", slot.path.as_bytes()))?;
        self.copies.remove(&slot.path);
        if self.records.remove(&slot.path).is_some() {
            self.forget_beneath(&slot.path);
        }
        Ok(())
    }

    /// Makes a directory opaque at the end.
    pub(crate) fn mark_opaque(&mut self, path: &RelPath) -> Result<(), Error> {
        for copy in self.copies_beneath(path) {
            self.hide_copy(&copy)?;
        }
        if path.is_root() {
            self.root_is_opaque = true;
        } else {
            self.record(path)?.is_opaque = true;
        }
        Ok(())
    }

    /// Ends the tree: the root, and all other directories.
    pub(crate) fn into_records(self) -> (Rc<Dir>, BTreeMap<RelPath, Record>) {
        (self.root, self.records)
    }

    /// Whether `path` is a canonical path of a directory of this tree: each of them has a record.
    pub(super) fn is_dir(&self, path: &[u8]) -> bool {
        path.is_empty() || self.records.contains_key(path)
    }

    /// The open directory at `path`, a canonical path of one.
    pub(super) fn dir(&mut self, path: &[u8]) -> Result<Rc<Dir>, Error> {
        if path.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some(dir) = self.open.get(path) {
            return Ok(Rc::clone(dir));
        }
        let dir = self.root.open_beneath(path);
        Ok(self.keep(path, dir.map_err(Error::io("open", path))?))
    }

    fn keep(&mut self, path: &[u8], dir: Dir) -> Rc<Dir> {
        if self.open.len() >= OPEN_DIRECTORIES {
            self.open.clear();
        }
        let dir = Rc::new(dir);
        self.open.insert(RelPath::canonical(path), Rc::clone(&dir));
        dir
    }

    /// Forgets what was known of the directories beneath `path`, which have been removed.
    fn forget_beneath(&mut self, path: &RelPath) {
        self.open.clear();
        let (first, end) = beneath(path);
        let range = (Bound::Included(&*first), Bound::Excluded(&*end));
        let records = self.records.range::<[u8], _>(range);
        let gone: Vec<_> = records.map(|(path, _)| path.clone()).collect();
        for path in gone {
            self.records.remove(&path);
        }
        for path in self.copies_beneath(path) {
            self.copies.remove(&path);
        }
    }
}

/// Where the paths beneath `path` begin in the order of paths, and where they have ended.
fn beneath(path: &RelPath) -> (Vec<u8>, Vec<u8>) {
    let (mut first, mut end) = (path.as_bytes().to_vec(), path.as_bytes().to_vec());
    first.push(b'/');
    end.push(b'/' + 1);
    (first, end)
}

/// Whether this is what overlayfs takes for a whiteout.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    kind(stat) == FileType::CharacterDevice && (major(stat.st_rdev), minor(stat.st_rdev)) == (0, 0)
}

pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Directories kept open per layer; several layers share the descriptors of a process.
const OPEN_DIRECTORIES: usize = 32;
/// What a directory takes beside its path: its record, and its share of the map and the allocator.
const RECORD: u64 = 256;
