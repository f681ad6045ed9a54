//! What lies below the layer, for one that cannot be unpacked without.

use std::ops::Bound;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use crate::dir::Dir;
use crate::error::{Error, LinkFault};
use crate::name::{RelPath, length};
use crate::tree::{Record, Slot, Tree, beneath, is_whiteout, kind};

/// A file of a layer below.
#[derive(Debug)]
pub(crate) struct Lower {
    pub(crate) parent: Dir,
    pub(crate) stat: Stat,
}

impl Lower {
    pub(crate) fn kind(&self) -> FileType {
        kind(&self.stat)
    }
}

impl Tree<'_> {
    /// What is wrong with a name that is nowhere.
    pub(crate) fn missing(&self) -> LinkFault {
        match self.below {
            None => LinkFault::Missing,
            Some(_) => LinkFault::Nowhere,
        }
    }

    /// What lies below at `path`, the canonical path of nothing in a directory of this tree,
    /// unless this layer has hidden it so far.
    pub(crate) fn lower(&self, path: &RelPath) -> Result<Option<Lower>, Error> {
        let (parent, name) = path.split();
        let Some(below) = self.below.as_ref().filter(|_| !self.is_hidden(parent)) else {
            return Ok(None);
        };
        let parent = match below.open_beneath(parent) {
            // A directory of this layer covers whatever is not one below.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            opened => opened.map_err(Error::io("open", parent))?,
        };
        let stat = parent.stat(name);
        let stat = stat.map_err(Error::io("examine", path.as_bytes()))?;
        let visible = stat.filter(|stat| !is_whiteout(stat));
        Ok(visible.map(|stat| Lower { parent, stat }))
    }

    /// Remembers that the file in `slot` is only a copy of one below.
    pub(crate) fn keep_copy(&mut self, slot: &Slot) -> Result<(), Error> {
        self.keep_bytes(length(slot.path.as_bytes()).saturating_add(COPY))?;
        self.copies.insert(slot.path.clone());
        Ok(())
    }

    /// Removes what is at `path` if it is only a copy of a file below, which is to be hidden.
    pub(crate) fn hide_copy(&mut self, path: &RelPath) -> Result<(), Error> {
        if !self.copies.remove(path) {
            return Ok(());
        }
        let (parent, name) = path.split();
        let removed = self.dir(parent)?.unlink(name);
        // It may have been a link.
        self.followed.clear();
        removed.map_err(Error::io("replace", path.as_bytes()))
    }

    /// Removes the copies in `path`, and of it and what is in it those directories that were made
    /// for them alone.
    pub(crate) fn hide_copies(&mut self, path: &RelPath) -> Result<(), Error> {
        for mut at in self.copies_beneath(path) {
            self.hide_copy(&at)?;
            while at != *path {
                at.pop();
                if !self.remove_implied(&at)? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Removes a directory that nothing in this layer speaks of, if there is nothing in it.
    fn remove_implied(&mut self, path: &RelPath) -> Result<bool, Error> {
        let is_own = |record: &Record| record.metadata.is_some() || record.is_opaque;
        if self.records.get(path).is_none_or(is_own) {
            return Ok(false);
        }
        let (parent, name) = path.split();
        match self.dir(parent)?.remove_empty(name) {
            Ok(()) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(false),
            Err(errno) => return Err(Error::io("replace", path.as_bytes())(errno)),
        }
        self.records.remove(path);
        self.open.clear();
        self.followed.clear();
        Ok(true)
    }

    /// The copies in `path`, a directory of this tree, and in what is in it.
    pub(crate) fn copies_beneath(&self, path: &RelPath) -> Vec<RelPath> {
        let (first, end) = beneath(path);
        let range = if path.is_root() {
            (Bound::Unbounded, Bound::Unbounded)
        } else {
            (Bound::Included(&*first), Bound::Excluded(&*end))
        };
        self.copies.range::<[u8], _>(range).cloned().collect()
    }

    /// Whether lower layers contribute nothing to a directory of this tree.
    fn is_hidden(&self, path: &[u8]) -> bool {
        let hides = |path: &[u8]| {
            let record = self.records.get(path);
            record.is_some_and(|record| record.is_opaque || record.is_new)
        };
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let mut parts = slashes.filter_map(|(at, _)| path.get(..at));
        self.root_is_opaque || hides(path) || parts.any(hides)
    }
}

/// What a copy takes beside its path: its share of the set and the allocator.
const COPY: u64 = 64;
