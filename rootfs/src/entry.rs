//! What an archive says of one file, checked as far as that goes without looking at the disk.

use crate::name::RelPath;

/// One entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: RelPath,
    pub(crate) kind: Kind,
    pub(crate) metadata: Metadata,
    pub(crate) typeflag: u8,
}

/// The kind of file. The content of a regular one follows in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File(Content),
    HardLink(RelPath),
    Symlink(Vec<u8>),
    CharacterDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
    Socket,
    /// A GNU volume label: the name of a tape, not a file.
    VolumeLabel,
}

/// How the content of a regular file is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Dense { size: u64 },
    Sparse { size: u64, segments: Vec<Segment> },
}

impl Content {
    /// The size of the file, holes included.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Dense { size } | Self::Sparse { size, .. } => *size,
        }
    }

    /// The bytes of the file that the archive does not hold.
    pub(crate) fn holes(&self) -> u64 {
        match self {
            Self::Dense { .. } => 0,
            Self::Sparse { size, segments } => {
                let lengths = segments.iter().map(|segment| segment.length);
                size.saturating_sub(lengths.sum())
            }
        }
    }
}

/// A run of stored bytes in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// Owner, mode, time and extended attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The twelve bits that `chmod` takes.
    pub(crate) mode: u32,
    pub(crate) modified: Time,
    pub(crate) xattrs: Vec<Xattr>,
}

/// A point in time as `utimensat` takes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Xattr {
    pub(crate) name: Vec<u8>,
    pub(crate) value: Vec<u8>,
}
