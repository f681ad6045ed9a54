//! Finds the parents of an entry, following links as a chroot of the layer's root would, with
//! bounded work: targets full of detours must not cost more than the entries are worth.

use std::collections::HashMap;
use std::rc::Rc;

use rustix::fs::{FileType, Stat};

use crate::dir::Dir;
use crate::error::{Error, LinkFault};
use crate::limits::LimitKind;
use crate::name::{RelPath, length};
use crate::tree::below::Lower;
use crate::tree::{Slot, Tree, is_whiteout, kind};

/// What to do about a parent that does not exist.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Make,
    Refuse,
}

impl Tree<'_> {
    /// The canonical path of the parent of `entry`.
    ///
    /// Links are resolved here, as text, the way the kernel would for a process that has the tree
    /// as its root. A mistake in this could pick a wrong directory of the tree, but none outside:
    /// what is returned is opened as a path without links.
    pub(super) fn resolve(&mut self, entry: &RelPath, missing: Missing) -> Result<RelPath, Error> {
        let parent = entry.split().0;
        let known = self.known_part(parent);
        let mut walk = Walk::new(entry, parent, known);
        while let Some((component, by_link)) = walk.ahead.pop() {
            self.spend(&mut walk, 1)?;
            if component == b".." {
                walk.ascend();
                continue;
            }
            let dir = self.current(&mut walk)?;
            walk.at.push(&component);
            self.limits
                .hold(LimitKind::PathBytes, length(walk.at.as_bytes()))?;
            let stat = dir
                .stat(&component)
                .map_err(Error::io("examine", walk.at.as_bytes()))?;
            match stat.as_ref().map(kind) {
                Some(FileType::Directory) => walk.descend(&dir, &component)?,
                Some(FileType::Symlink) => walk.follow(&dir, &component)?,
                _ => self.fill_gap(&mut walk, dir, stat.as_ref(), by_link, missing)?,
            }
        }
        if walk.links > 0 && !walk.is_through_below {
            self.followed.insert(parent, &walk.at);
        }
        Ok(walk.at)
    }

    /// The longest part of `parent` that is a directory known by that very path. What is above a
    /// known directory is known, which makes this a binary search.
    fn known_part<'p>(&self, parent: &'p [u8]) -> &'p [u8] {
        let ends: Vec<usize> = parent
            .iter()
            .enumerate()
            .filter_map(|(at, &byte)| (byte == b'/').then_some(at))
            .collect();
        let part = |end: usize| parent.get(..end).unwrap_or_default();
        let known = ends.partition_point(|&end| self.is_dir(part(end)));
        let last = known.checked_sub(1).and_then(|last| ends.get(last));
        last.map_or(&[], |&end| part(end))
    }

    /// The directory that the walk is in.
    fn current(&mut self, walk: &mut Walk<'_>) -> Result<Rc<Dir>, Error> {
        if let Some(dir) = walk.dir.take() {
            return Ok(dir);
        }
        if walk.links > 0 && !self.open.contains_key(&walk.at) {
            // The kernel walks this path from the root.
            self.spend(walk, walk.at.depth())?;
        }
        self.dir(walk.at.as_bytes())
    }

    /// Deals with a component that is neither a directory nor a link, but perhaps a whiteout.
    fn fill_gap(
        &mut self,
        walk: &mut Walk<'_>,
        parent: Rc<Dir>,
        stat: Option<&Stat>,
        by_link: bool,
        missing: Missing,
    ) -> Result<(), Error> {
        let entry = walk.entry.clone();
        if stat.is_some_and(|stat| !is_whiteout(stat)) {
            let parent = walk.at.clone();
            return Err(Error::ParentNotDirectory { entry, parent });
        }
        let lower = match stat {
            None => self.lower_of(walk)?,
            Some(_whiteout) => None,
        };
        match lower.as_ref().map(Lower::kind) {
            Some(FileType::Symlink) => return walk.follow_below(lower),
            Some(FileType::Directory) => {}
            _ if by_link => return Err(walk.leads_nowhere(self.missing())),
            _ if missing == Missing::Refuse => {
                return Err(Error::HardLink {
                    target: entry.clone(),
                    entry,
                    fault: self.missing(),
                });
            }
            _ => {}
        }
        self.count_entry()?;
        let path = walk.at.clone();
        self.make_dir(&Slot { parent, path })
    }

    /// What lies below where the walk has got to, which the kernel finds from the root.
    fn lower_of(&mut self, walk: &mut Walk<'_>) -> Result<Option<Lower>, Error> {
        if self.below.is_some() {
            self.spend(walk, walk.at.depth())?;
        }
        self.lower(&walk.at)
    }

    /// Counts `components` looked up, for this entry and for all.
    fn spend(&mut self, walk: &mut Walk<'_>, components: u64) -> Result<(), Error> {
        let counts = &mut self.counts;
        walk.spent = walk.spent.saturating_add(components);
        counts.resolved = counts.resolved.saturating_add(components);
        let earned = counts.entries.saturating_mul(COMPONENTS_EARNED);
        if walk.spent > COMPONENTS || counts.resolved > COMPONENTS_FREE.saturating_add(earned) {
            return Err(walk.leads_nowhere(LinkFault::TooFar));
        }
        Ok(())
    }
}

/// A way from the root of the layer to the parent of an entry.
struct Walk<'a> {
    entry: &'a RelPath,
    /// Where it has got to.
    at: RelPath,
    /// That directory, if it is open already.
    dir: Option<Rc<Dir>>,
    /// The components still to be walked, the next one last, and whether each is out of a link.
    ahead: Vec<(Vec<u8>, bool)>,
    spent: u64,
    links: u32,
    last_link: RelPath,
    /// Whether it has followed a link that this layer does not have but may cover later, and
    /// without removing anything of its own.
    is_through_below: bool,
}

impl<'a> Walk<'a> {
    /// The way to `parent`, beginning at the directory `known`, a part of it.
    fn new(entry: &'a RelPath, parent: &[u8], known: &[u8]) -> Self {
        let mut walk = Self {
            entry,
            at: RelPath::canonical(known),
            dir: None,
            ahead: Vec::new(),
            spent: 0,
            links: 0,
            last_link: RelPath::default(),
            is_through_below: false,
        };
        walk.put_ahead(parent.strip_prefix(known).unwrap_or(parent), false);
        walk
    }

    fn put_ahead(&mut self, path: &[u8], by_link: bool) {
        for component in path.rsplit(|&byte| byte == b'/') {
            if !matches!(component, b"" | b".") {
                self.ahead.push((component.to_vec(), by_link));
            }
        }
    }

    /// Enters `component` of `parent`, which is a directory and in the path already.
    fn descend(&mut self, parent: &Dir, component: &[u8]) -> Result<(), Error> {
        let dir = parent
            .open_beneath(component)
            .map_err(Error::io("open", self.at.as_bytes()))?;
        self.dir = Some(Rc::new(dir));
        Ok(())
    }

    fn ascend(&mut self) {
        self.at.pop();
        self.dir = None;
    }

    /// Goes on with the target of `link` in `parent`, which is in the path already.
    fn follow(&mut self, parent: &Dir, link: &[u8]) -> Result<(), Error> {
        let target = parent
            .read_link(link)
            .map_err(Error::io("read the link", self.at.as_bytes()))?;
        self.last_link = self.at.clone();
        self.links = self.links.saturating_add(1);
        if self.links > LINKS {
            return Err(self.leads_nowhere(LinkFault::Loop));
        }
        self.put_ahead(&target, true);
        self.ascend();
        if target.starts_with(b"/") {
            self.at = RelPath::default();
        }
        Ok(())
    }

    /// Goes on with the target of a link below, which is in the path already.
    fn follow_below(&mut self, link: Option<Lower>) -> Result<(), Error> {
        self.is_through_below = true;
        let name = self.at.file_name().to_vec();
        link.map_or(Ok(()), |link| self.follow(&link.parent, &name))
    }

    fn leads_nowhere(&self, fault: LinkFault) -> Error {
        Error::ParentLink {
            entry: self.entry.clone(),
            link: self.last_link.clone(),
            fault,
        }
    }
}

/// Where parents with links in them lead; the few last of them.
#[derive(Debug, Default)]
pub(super) struct Followed(HashMap<RelPath, RelPath>);

impl Followed {
    pub(super) fn get(&self, parent: &[u8]) -> Option<&RelPath> {
        self.0.get(parent)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    fn insert(&mut self, parent: &[u8], canonical: &RelPath) {
        if self.0.len() >= FOLLOWED {
            self.0.clear();
        }
        self.0.insert(RelPath::canonical(parent), canonical.clone());
    }
}

/// As many links as the kernel follows in one path, `path_resolution(7)`.
const LINKS: u32 = 40;
/// Components looked up for one entry, all links together: twice what the longest path has.
const COMPONENTS: u64 = 4096;
/// Components looked up for each entry of the layer on average, beyond those that are free: more
/// than the parents of any honest entry, which are looked up once for all that follow it.
const COMPONENTS_EARNED: u64 = 32;
const COMPONENTS_FREE: u64 = 64 << 10;
/// Parents remembered. With two paths each they stay below 2 MiB.
const FOLLOWED: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    /// Looking for each missing parent from the root would take a hundred thousand.
    #[test]
    fn parents_missing_at_the_bottom_of_a_deep_tree_cost_one_component_each() {
        let scratch = tempfile::tempdir().unwrap();
        let limits = Limits::default();
        let mut tree = Tree::new(Dir::open_ambient(scratch.path()).unwrap(), None, &limits);
        let bottom = vec!["a"; 1000].join("/");
        for parent in 0..100 {
            let path = format!("{bottom}/{parent}/x");
            let path = RelPath::parse(path.as_bytes(), &limits).unwrap();
            assert_eq!(tree.slot(&path).unwrap().path, path);
        }
        assert_eq!((tree.counts.entries, tree.counts.resolved), (1100, 1100));
    }
}
