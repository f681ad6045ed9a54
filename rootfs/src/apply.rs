//! Writes the entries of an archive into a tree, one function per kind of file.

use std::fs::File;
use std::io::{BufRead, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use rustix::fs::{self, FileType, Mode, XattrFlags, makedev};
use rustix::io::Errno;

use crate::cancel::Cancel;
use crate::copy;
use crate::dir::Dir;
use crate::entry::{Content, Entry, Kind, Metadata, Segment, Time, Xattr};
use crate::error::{Error, LinkFault};
use crate::limits::{Budget, LimitKind};
use crate::metadata::{Stamp, permissions};
use crate::name::{Name, RelPath, length};
use crate::tar::Archive;
use crate::tree::{Lower, Record, Slot, Tree, is_whiteout, kind};
use crate::unpacked::{Counts, Note, Notes, Root};
use crate::whiteout::{Marker, marker};
use crate::xattr::{Verdict, judge};

/// Writes one archive into one directory.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    tree: Tree<'a>,
    budget: &'a Budget,
    cancel: &'a Cancel,
    blob_bytes: u64,
    stamp: Stamp,
    root: Option<Metadata>,
    /// Hard links to names that had not come yet.
    forward: Vec<(RelPath, RelPath)>,
    notes: Notes,
}

/// What a whole archive came to.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) root: Root,
    pub(crate) implied: Vec<RelPath>,
    pub(crate) notes: Notes,
    pub(crate) counts: Counts,
}

impl<'a> Writer<'a> {
    /// A writer into `root`, which is empty, of a layer that has `blob_bytes` when compressed, on
    /// top of what is `below` if that is known.
    pub(crate) fn new(
        root: Dir,
        below: Option<Dir>,
        budget: &'a Budget,
        blob_bytes: u64,
        cancel: &'a Cancel,
    ) -> Self {
        Self {
            tree: Tree::new(root, below, budget.limits()),
            budget,
            cancel,
            blob_bytes,
            stamp: Stamp::new(),
            root: None,
            forward: Vec::new(),
            notes: Notes::default(),
        }
    }

    /// Writes `entry`, whose content is next in `archive`.
    pub(crate) fn entry<R: BufRead>(
        &mut self,
        mut entry: Entry,
        archive: &mut Archive<'_, R>,
    ) -> Result<(), Error> {
        self.cancel.check()?;
        self.tree.count_entry()?;
        if entry.path.is_root() {
            return self.root_entry(entry);
        }
        match marker(&entry.path)? {
            Some(Marker::Whiteout(hidden)) => return self.whiteout(&entry.path, hidden),
            Some(Marker::Opaque) => {
                let slot = self.tree.slot(&entry.path)?;
                return self
                    .tree
                    .mark_opaque(&RelPath::canonical(slot.path.split().0));
            }
            Some(Marker::Aufs) => {
                self.notes.add(Note::AufsSkipped { entry: entry.path });
                return Ok(());
            }
            None => self.keep_xattrs(&mut entry)?,
        }
        let Entry {
            path,
            kind,
            metadata,
            ..
        } = entry;
        match kind {
            Kind::Directory => self.directory(&path, metadata),
            Kind::File(content) => self.file(&path, &content, &metadata, archive),
            Kind::HardLink(target) => self.hard_link(&path, target),
            Kind::Symlink(target) => self.symlink(&path, &target, &metadata),
            Kind::CharacterDevice { major: 0, minor: 0 } => {
                Err(Error::WhiteoutDevice { entry: path })
            }
            Kind::CharacterDevice { major, minor } => self.device(
                &path,
                FileType::CharacterDevice,
                makedev(major, minor),
                &metadata,
            ),
            Kind::BlockDevice { major, minor } => self.device(
                &path,
                FileType::BlockDevice,
                makedev(major, minor),
                &metadata,
            ),
            Kind::Fifo => self.device(&path, FileType::Fifo, 0, &metadata),
            Kind::Socket => {
                self.notes.add(Note::SocketSkipped { entry: path });
                Ok(())
            }
            Kind::VolumeLabel => {
                self.notes.add(Note::VolumeLabelSkipped { entry: path });
                Ok(())
            }
        }
    }

    /// Writes what could not be written before everything else was there.
    pub(crate) fn finish(mut self) -> Result<Written, Error> {
        self.cancel.check()?;
        self.forward_links()?;
        let is_opaque = self.tree.root_is_opaque;
        let counts = self.tree.counts;
        let (root, records) = self.tree.into_records();
        let mut implied = Vec::new();
        // Children before parents: setting a mode must not bar the way.
        for (path, record) in records.into_iter().rev() {
            self.cancel.check()?;
            finish_directory(&root, &path, &record, &self.stamp, &mut self.notes)?;
            if record.metadata.is_none() && !record.is_new {
                implied.push(path);
            }
        }
        if self.root.is_none() {
            implied.push(RelPath::default());
        }
        implied.reverse();
        let root = Root {
            metadata: self.root,
            is_opaque,
        };
        Ok(Written {
            root,
            implied,
            notes: self.notes,
            counts,
        })
    }

    fn root_entry(&mut self, mut entry: Entry) -> Result<(), Error> {
        match entry.kind {
            Kind::Directory => {
                self.keep_xattrs(&mut entry)?;
                self.root = Some(entry.metadata);
                Ok(())
            }
            Kind::VolumeLabel => Ok(()),
            _ => Err(Error::RootNotDirectory {
                typeflag: char::from(entry.typeflag),
            }),
        }
    }

    /// Leaves only those attributes that are to be written.
    fn keep_xattrs(&mut self, entry: &mut Entry) -> Result<(), Error> {
        let mut kept = Vec::new();
        for xattr in std::mem::take(&mut entry.metadata.xattrs) {
            let attribute = Name::from(xattr.name.as_slice());
            let entry = entry.path.clone();
            match judge(&xattr.name) {
                Verdict::Refuse => return Err(Error::OverlayXattr { entry, attribute }),
                Verdict::Drop => self.notes.add(Note::XattrDropped { entry, attribute }),
                Verdict::Write | Verdict::WriteIfPossible => {
                    let bytes = length(&xattr.name).saturating_add(length(&xattr.value));
                    let counts = &mut self.tree.counts;
                    counts.xattr_bytes = counts.xattr_bytes.saturating_add(bytes);
                    let limits = self.budget.limits();
                    limits.hold(LimitKind::XattrBytes, counts.xattr_bytes)?;
                    kept.push(xattr);
                }
            }
        }
        entry.metadata.xattrs = kept;
        Ok(())
    }

    fn directory(&mut self, path: &RelPath, metadata: Metadata) -> Result<(), Error> {
        let slot = self.tree.slot(path)?;
        self.tree.make_dir(&slot)?;
        self.tree.keep_bytes(kept_for(&metadata))?;
        self.tree.record(&slot.path)?.metadata = Some(metadata);
        Ok(())
    }

    fn file<R: BufRead>(
        &mut self,
        path: &RelPath,
        content: &Content,
        metadata: &Metadata,
        archive: &mut Archive<'_, R>,
    ) -> Result<(), Error> {
        let counts = &mut self.tree.counts;
        counts.file_bytes = counts.file_bytes.saturating_add(content.size());
        let limits = self.budget.limits();
        limits.hold_expansion(counts.file_bytes, self.blob_bytes)?;
        self.budget.spend(content.holes())?;
        let slot = self.tree.slot(path)?;
        let mode = permissions(metadata);
        let file = self.create(&slot, |parent, name| parent.create_file(name, mode))?;
        match content {
            Content::Dense { .. } => archive.copy_content(|piece| {
                (&file)
                    .write_all(piece)
                    .map_err(Error::io("write", slot.path.as_bytes()))
            })?,
            Content::Sparse { size, segments } => {
                file.set_len(*size)
                    .map_err(Error::io("write", slot.path.as_bytes()))?;
                write_segments(&file, segments, &slot.path, archive)?;
            }
        }
        self.stamp
            .file(file.as_fd(), &slot.path, metadata, &mut self.notes)
    }

    fn symlink(&mut self, path: &RelPath, target: &[u8], metadata: &Metadata) -> Result<(), Error> {
        let slot = self.tree.slot(path)?;
        self.create(&slot, |parent, name| parent.make_symlink(name, target))?;
        self.stamp
            .node(&slot.parent, &slot.path, metadata, true, &mut self.notes)
    }

    fn device(
        &mut self,
        path: &RelPath,
        kind_of_node: FileType,
        device: fs::Dev,
        metadata: &Metadata,
    ) -> Result<(), Error> {
        let slot = self.tree.slot(path)?;
        let existing = slot.parent.stat(slot.path.file_name());
        let existing = existing.map_err(Error::io("examine", slot.path.as_bytes()))?;
        if existing.is_some_and(|stat| kind(&stat) == FileType::Directory) {
            return Err(Error::DeviceOverDirectory { entry: slot.path });
        }
        self.create(&slot, |parent, name| {
            parent.make_node(name, kind_of_node, device)
        })?;
        self.stamp
            .node(&slot.parent, &slot.path, metadata, false, &mut self.notes)
    }

    /// A hard link has no metadata of its own: what its header says is often made up, and setting
    /// it would change the file under its first name.
    fn hard_link(&mut self, path: &RelPath, target: RelPath) -> Result<(), Error> {
        let slot = self.tree.slot(path)?;
        let from = match self.link_target(&slot, &target) {
            Ok(from) => from,
            Err(Error::HardLink {
                fault: LinkFault::Missing | LinkFault::Nowhere,
                ..
            }) => {
                // Until then the name is taken: neither what stood here nor what lies below has it.
                self.create(&slot, make_whiteout)?;
                let paths = [slot.path.as_bytes(), target.as_bytes()].map(length);
                let kept = paths.into_iter().fold(FORWARD_LINK, u64::saturating_add);
                self.tree.keep_bytes(kept)?;
                self.forward.push((slot.path, target));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if from.path == slot.path {
            return Ok(());
        }
        self.create(&slot, |parent, name| {
            parent.make_link(name, &from.parent, from.path.file_name())
        })
    }

    /// Where the target of a hard link is: a file of this layer, or one below that it then gets.
    fn link_target(&mut self, link: &Slot, target: &RelPath) -> Result<Slot, Error> {
        let refuse = |fault| {
            let (entry, target) = (link.path.clone(), target.clone());
            Err(Error::HardLink {
                entry,
                target,
                fault,
            })
        };
        if target.is_root() {
            return refuse(LinkFault::Directory);
        }
        let from = match self.tree.existing_slot(target) {
            Err(Error::HardLink { fault, .. }) => return refuse(fault),
            found => found?,
        };
        let stat = from.parent.stat(from.path.file_name());
        match stat.map_err(Error::io("examine", from.path.as_bytes()))? {
            None => match self.tree.lower(&from.path)? {
                None => refuse(self.tree.missing()),
                Some(lower) if lower.kind() == FileType::Directory => refuse(LinkFault::Directory),
                Some(lower) => self.take_up(&lower, &from).map(|()| from),
            },
            Some(stat) if is_whiteout(&stat) => refuse(self.tree.missing()),
            Some(stat) if kind(&stat) == FileType::Directory => refuse(LinkFault::Directory),
            Some(_) => Ok(from),
        }
    }

    /// Copies a file below to its place in this layer, where nothing is.
    fn take_up(&mut self, lower: &Lower, slot: &Slot) -> Result<(), Error> {
        self.tree.count_entry()?;
        if lower.kind() == FileType::RegularFile {
            let size = u64::try_from(lower.stat.st_size).unwrap_or(u64::MAX);
            let counts = &mut self.tree.counts;
            counts.file_bytes = counts.file_bytes.saturating_add(size);
            let limits = self.budget.limits();
            limits.hold(LimitKind::UnpackedBytes, counts.file_bytes)?;
            self.budget.spend(size)?;
        }
        copy::file(lower, slot, &self.stamp, &mut self.notes)?;
        self.tree.keep_copy(slot)
    }

    /// Makes the links whose targets came after them. Each round makes those whose target exists,
    /// be it a link of the round before. More rounds than [`FORWARD_ROUNDS`] no honest archive
    /// needs, and a long chain in the worst order would need one for every link.
    fn forward_links(&mut self) -> Result<(), Error> {
        let mut unresolved = None;
        for _ in 0..FORWARD_ROUNDS {
            unresolved = None;
            for (path, target) in std::mem::take(&mut self.forward) {
                self.cancel.check()?;
                let slot = self.tree.slot(&path)?;
                let existing = slot.parent.stat(path.file_name());
                let existing = existing.map_err(Error::io("examine", path.as_bytes()))?;
                // A later entry of that name won; a whiteout does not.
                if existing.is_some_and(|stat| !is_whiteout(&stat)) {
                    continue;
                }
                match self.link_target(&slot, &target) {
                    Err(
                        error @ Error::HardLink {
                            fault: LinkFault::Missing | LinkFault::Nowhere,
                            ..
                        },
                    ) => {
                        unresolved = Some(error);
                        self.forward.push((path, target));
                    }
                    Err(error) => return Err(error),
                    Ok(from) => self.create(&slot, |parent, name| {
                        parent.make_link(name, &from.parent, from.path.file_name())
                    })?,
                }
            }
            if unresolved.is_none() {
                break;
            }
        }
        unresolved.map_or(Ok(()), Err)
    }

    /// Hides `hidden`, a name beside that of `marker`, from lower layers. What this layer itself
    /// has of that name stays, whichever came first.
    fn whiteout(&mut self, marker: &RelPath, hidden: &[u8]) -> Result<(), Error> {
        let slot = self.tree.slot(marker)?;
        let path = RelPath::canonical(slot.path.split().0).join(hidden);
        self.tree.hide_copy(&path)?;
        self.tree.hide_copies(&path)?;
        match make_whiteout(&slot.parent, hidden) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(Error::io("create", path.as_bytes())(errno)),
        }
        let existing = slot
            .parent
            .stat(hidden)
            .map_err(Error::io("examine", path.as_bytes()))?;
        if existing.is_some_and(|stat| kind(&stat) == FileType::Directory) {
            let record = self.tree.record(&path)?;
            (record.is_opaque, record.is_new) = (true, true);
        }
        Ok(())
    }

    /// Makes something new, in place of whatever has the name.
    fn create<T>(
        &mut self,
        slot: &Slot,
        make: impl Fn(&Dir, &[u8]) -> rustix::io::Result<T>,
    ) -> Result<T, Error> {
        let result = match make(&slot.parent, slot.path.file_name()) {
            Err(Errno::EXIST) => {
                self.tree.clear(slot)?;
                make(&slot.parent, slot.path.file_name())
            }
            result => result,
        };
        result.map_err(Error::io("create", slot.path.as_bytes()))
    }
}

/// Makes what overlayfs takes for a whiteout.
fn make_whiteout(parent: &Dir, name: &[u8]) -> rustix::io::Result<()> {
    parent.make_node(name, FileType::CharacterDevice, makedev(0, 0))
}

/// Sets what the archive says of the root of the layer on `root`, which has not been published.
pub(crate) fn finish_root(root: &Dir, says: &Root, notes: &mut Notes) -> Result<(), Error> {
    let implied = implied_directory();
    let metadata = says.metadata.as_ref().unwrap_or(&implied);
    if says.is_opaque {
        set_opaque(root, &RelPath::default())?;
    }
    Stamp::new().directory(root.as_fd(), &RelPath::default(), metadata, notes)
}

fn finish_directory(
    root: &Rc<Dir>,
    path: &RelPath,
    record: &Record,
    stamp: &Stamp,
    notes: &mut Notes,
) -> Result<(), Error> {
    let (parent, name) = path.split();
    // The path of a directory may be one byte too long for one call; that of its parent is not.
    let dir = root
        .open_beneath(path.as_bytes())
        .or_else(|_| root.open_beneath(parent)?.open_beneath(name))
        .map_err(Error::io("open", path.as_bytes()))?;
    if record.is_opaque {
        set_opaque(&dir, path)?;
    }
    match &record.metadata {
        Some(metadata) => stamp.directory(dir.as_fd(), path, metadata, notes),
        None => fs::fchmod(&dir, Mode::from_raw_mode(IMPLIED_MODE))
            .map_err(Error::io("set the mode of", path.as_bytes())),
    }
}

fn set_opaque(dir: &Dir, path: &RelPath) -> Result<(), Error> {
    fs::fsetxattr(dir, "trusted.overlay.opaque", b"y", XattrFlags::empty())
        .map_err(Error::io("make opaque", path.as_bytes()))
}

fn write_segments<R: BufRead>(
    file: &File,
    segments: &[Segment],
    path: &RelPath,
    archive: &mut Archive<'_, R>,
) -> Result<(), Error> {
    let mut segments = segments.iter().copied();
    let mut at = Segment {
        offset: 0,
        length: 0,
    };
    archive.copy_content(|mut piece| {
        while !piece.is_empty() {
            if at.length == 0 {
                // The segments sum to the content stored, which the parser has made sure of.
                at = segments.next().unwrap_or(Segment {
                    offset: at.offset,
                    length: u64::MAX,
                });
            }
            let count = usize::try_from(at.length)
                .unwrap_or(usize::MAX)
                .min(piece.len());
            let (part, rest) = piece.split_at_checked(count).unwrap_or((piece, &[]));
            file.write_all_at(part, at.offset)
                .map_err(Error::io("write", path.as_bytes()))?;
            at.offset = at.offset.saturating_add(length(part));
            at.length = at.length.saturating_sub(length(part));
            piece = rest;
        }
        Ok(())
    })
}

/// Bytes of memory that the attributes of a directory take until the end.
fn kept_for(metadata: &Metadata) -> u64 {
    let attribute = |xattr: &Xattr| {
        let bytes = length(&xattr.name).saturating_add(length(&xattr.value));
        bytes.saturating_add(ATTRIBUTE)
    };
    metadata
        .xattrs
        .iter()
        .map(attribute)
        .fold(0, u64::saturating_add)
}

fn implied_directory() -> Metadata {
    Metadata {
        uid: 0,
        gid: 0,
        mode: IMPLIED_MODE,
        modified: Time::default(),
        xattrs: Vec::new(),
    }
}

/// What a directory has that no entry speaks of.
const IMPLIED_MODE: u32 = 0o755;
/// What an attribute takes beside its bytes, and a hard link beside its paths: the values
/// themselves, and what the allocator adds to each of their parts.
const ATTRIBUTE: u64 = 96;
const FORWARD_LINK: u64 = 96;
/// Hard links in a row, each to the next, whose file comes last.
const FORWARD_ROUNDS: u32 = 16;
