//! The proof that a layer is what its image says, and what is worth knowing of it.

use crate::entry::Metadata;
use crate::name::{Name, RelPath};

/// Proof that the tree in one [`Staging`](crate::Staging) directory is the layer approved: its
/// size, its blob digest and its `diff_id` held, and its source was read to the end.
#[derive(Debug)]
pub struct Unpacked {
    pub(crate) staging: u64,
    pub(crate) root: Root,
    pub(crate) implied: Vec<RelPath>,
    pub(crate) notes: Notes,
    pub(crate) counts: Counts,
    pub(crate) content_bytes: u64,
}

impl Unpacked {
    /// Bytes of the decompressed archive.
    pub fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    /// The sum of the sizes of all regular files, holes included.
    pub fn file_bytes(&self) -> u64 {
        self.counts.file_bytes
    }

    /// Entries of the archive, and parent directories it implies.
    pub fn entries(&self) -> u64 {
        self.counts.entries
    }

    /// Directories that have no entry of their own, in order: mode 0755, owner 0:0. Where a lower
    /// layer has them they look as they do there. The root is among them as the empty path when the
    /// archive has no entry for it.
    pub fn implied(&self) -> &[RelPath] {
        &self.implied
    }

    /// Whether lower layers contribute nothing at all. An overlay mount does not heed such a mark
    /// on the root of a layer: whoever mounts must leave the lower layers out.
    pub fn hides_all_below(&self) -> bool {
        self.root.is_opaque
    }

    /// What was left out, and why.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }
}

/// What an unpacked tree differs in from its archive.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Notes {
    kept: Vec<Note>,
    total: u64,
}

impl Notes {
    /// The first 64 notes.
    pub fn iter(&self) -> impl Iterator<Item = &Note> {
        self.kept.iter()
    }

    /// How many notes there were.
    pub fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn add(&mut self, note: Note) {
        self.total = self.total.saturating_add(1);
        if self.kept.len() < KEPT {
            self.kept.push(note);
        }
    }
}

/// One thing that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// A socket, which means nothing without the process that listens on it.
    SocketSkipped {
        /// The entry.
        entry: RelPath,
    },
    /// An extended attribute that is not for a layer to set, or that cannot be set here.
    XattrDropped {
        /// The entry.
        entry: RelPath,
        /// The attribute's name.
        attribute: Name,
    },
    /// Bookkeeping of the AUFS file system.
    AufsSkipped {
        /// The entry.
        entry: RelPath,
    },
    /// The name of a tape.
    VolumeLabelSkipped {
        /// The label.
        entry: RelPath,
    },
}

/// What the archive says of its root.
#[derive(Debug, Default)]
pub(crate) struct Root {
    /// From the entry of the root, if there is one.
    pub(crate) metadata: Option<Metadata>,
    pub(crate) is_opaque: bool,
}

/// What has been used of the limits.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) entries: u64,
    pub(crate) file_bytes: u64,
    pub(crate) xattr_bytes: u64,
    pub(crate) kept_bytes: u64,
    /// Components of paths looked up one by one.
    pub(crate) resolved: u64,
}

const KEPT: usize = 64;
