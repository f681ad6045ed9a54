//! Why a layer was not unpacked.

use std::io;

use policy::{Compression, Digest};
use rustix::io::Errno;
use thiserror::Error;

use crate::limits::LimitKind;
use crate::name::{Name, RelPath};

/// Why a layer was not unpacked. Whatever it is, nothing of the layer stays on disk.
///
/// Names in these texts come from the archive and are hostile; they are escaped, but whoever hands
/// a text to an outsider must know that it carries them.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The source of the blob gave an error; the network or the registry is at fault.
    #[error("reading the layer's blob")]
    Read(#[source] io::Error),
    /// The source goes on after the size that the manifest states. The registry is at fault.
    #[error("the blob is longer than the {expected} bytes of its descriptor")]
    BlobTooLong {
        /// The descriptor's size.
        expected: u64,
    },
    /// The source ended early. The network or the registry is at fault.
    #[error("the blob ended after {found} bytes, its descriptor says {expected}")]
    BlobTooShort {
        /// The descriptor's size.
        expected: u64,
        /// The bytes that came.
        found: u64,
    },
    /// The blob is not the one of the manifest. The registry or the network is at fault.
    #[error("the blob's digest is {found}, expected {expected}")]
    BlobDigest {
        /// The descriptor's digest.
        expected: Digest,
        /// That of the bytes received.
        found: Digest,
    },
    /// The decompressed content is not the one of the image configuration, though the blob is that
    /// of the manifest. Whoever built the image is at fault.
    #[error("the content's digest is {found}, the image's diff_id is {expected}")]
    DiffId {
        /// The `diff_id` of the image configuration.
        expected: Digest,
        /// The digest of the decompressed content.
        found: Digest,
    },
    /// The blob is not in the compression that its media type states, or is damaged.
    #[error("the blob is not valid {compression:?}")]
    Inflate {
        /// What the media type states.
        compression: Compression,
        /// What the decoder says.
        #[source]
        source: io::Error,
    },
    /// Something that is neither another member nor padding follows the compressed stream.
    #[error("{compression:?} data is followed by garbage at byte {offset}")]
    TrailingGarbage {
        /// What the media type states.
        compression: Compression,
        /// Where the garbage begins.
        offset: u64,
    },
    /// The layer wants more than [`Limits`](crate::Limits) gives.
    #[error("the layer has {found} {limit}, at most {allowed} are allowed")]
    Limit {
        /// Which limit.
        limit: LimitKind,
        /// What it allows.
        allowed: u64,
        /// What the layer has, or had when it was stopped.
        found: u64,
    },
    /// The archive ends in the middle of an entry.
    #[error("the archive ends within an entry, at byte {offset}")]
    Truncated {
        /// Bytes of archive that there are.
        offset: u64,
    },
    /// A header block is not one of any tar format. Whoever built the image is at fault.
    #[error("the tar header at byte {offset} is malformed: {fault}")]
    Header {
        /// Where the header begins.
        offset: u64,
        /// What is wrong with it.
        fault: HeaderFault,
    },
    /// An extended header violates POSIX pax. Whoever built the image is at fault.
    #[error("the pax header at byte {offset} is malformed: {fault}")]
    Pax {
        /// Where the header begins.
        offset: u64,
        /// What is wrong with it.
        fault: PaxFault,
    },
    /// The map of a sparse file makes no sense. Whoever built the image is at fault.
    #[error("the sparse map of {entry} is malformed: {fault}")]
    Sparse {
        /// The file.
        entry: Name,
        /// What is wrong with it.
        fault: SparseFault,
    },
    /// A name has a `..` component, which could lead out of the tree.
    #[error("the name {entry} has a `..` component")]
    ParentComponent {
        /// The name.
        entry: Name,
    },
    /// A name has a byte of zero, which no file name can have.
    #[error("the name {entry} has a zero byte")]
    ZeroInName {
        /// The name.
        entry: Name,
    },
    /// The root of the layer is not a directory.
    #[error("the archive's root entry is no directory but of type {typeflag:?}")]
    RootNotDirectory {
        /// The type flag of the entry.
        typeflag: char,
    },
    /// A parent of an entry is a file, device or fifo.
    #[error("{parent}, a parent of {entry}, is no directory")]
    ParentNotDirectory {
        /// The entry.
        entry: RelPath,
        /// The parent.
        parent: RelPath,
    },
    /// A parent of an entry is a symbolic link which leads to no directory of this layer.
    #[error("{link}, a parent of {entry}, is a symbolic link {fault}")]
    ParentLink {
        /// The entry.
        entry: RelPath,
        /// The link.
        link: RelPath,
        /// Where it leads.
        fault: LinkFault,
    },
    /// The target of a hard link is not in this layer, or cannot be linked.
    #[error("{entry} is a hard link to {target}, {fault}")]
    HardLink {
        /// The link.
        entry: RelPath,
        /// What it names.
        target: RelPath,
        /// What is wrong with that.
        fault: LinkFault,
    },
    /// A device or fifo takes the place of a directory of the same layer.
    #[error("{entry} is a device where the layer has a directory")]
    DeviceOverDirectory {
        /// The entry.
        entry: RelPath,
    },
    /// A character device 0:0, which an overlay takes for a whiteout.
    #[error("{entry} is a character device 0:0, which overlayfs takes for a whiteout")]
    WhiteoutDevice {
        /// The entry.
        entry: RelPath,
    },
    /// An extended attribute by which an archive would steer the overlay mount.
    #[error("{entry} has the extended attribute {attribute}, which is overlayfs's own")]
    OverlayXattr {
        /// The entry.
        entry: RelPath,
        /// The attribute's name.
        attribute: Name,
    },
    /// A `.wh.` name that hides nothing that could exist.
    #[error("{entry} is no valid whiteout")]
    Whiteout {
        /// The entry.
        entry: RelPath,
    },
    /// The file system is full, or the quota used up. Nobody is at fault but the machine's size.
    #[error("no space left to {operation} {name}")]
    NoSpace {
        /// What was being done.
        operation: &'static str,
        /// To what.
        name: Name,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel refused an operation on the staging tree.
    #[error("cannot {operation} {name}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To what.
        name: Name,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A name handed to [`Dir`](crate::Dir) or [`Staging`](crate::Staging) is not one component.
    /// The caller is at fault.
    #[error("{name} is not the name of a file in a directory")]
    NotOneComponent {
        /// The name.
        name: Name,
    },
    /// A second layer was unpacked into the same staging directory. The caller is at fault.
    #[error("the staging directory has been unpacked into before")]
    StagingUsed,
    /// The proof handed to `commit` is that of another staging directory. The caller is at fault.
    #[error("the proof is that of another staging directory")]
    ForeignProof,
    /// The end was requested with [`Cancel`](crate::Cancel). Nobody is at fault.
    #[error("unpacking was cancelled")]
    Cancelled,
    /// The machine gave no thread.
    #[error("no thread for the {stage} stage")]
    Thread {
        /// The stage of the pipeline.
        stage: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Whether the layer cannot be unpacked for itself, but perhaps with
    /// [`unpack_onto`](crate::unpack_onto): a link of it leads to what it does not have.
    pub fn needs_lower_layers(&self) -> bool {
        let (Self::HardLink { fault, .. } | Self::ParentLink { fault, .. }) = self else {
            return false;
        };
        *fault == LinkFault::Missing
    }

    /// Turns what the kernel said into the error for doing `operation` to `name`.
    pub(crate) fn io<E: Into<io::Error>>(
        operation: &'static str,
        name: &[u8],
    ) -> impl FnOnce(E) -> Self {
        move |source| {
            let (source, name) = (source.into(), Name::from(name));
            let full = [Errno::NOSPC, Errno::DQUOT].map(|errno| Some(errno.raw_os_error()));
            if full.contains(&source.raw_os_error()) {
                Self::NoSpace {
                    operation,
                    name,
                    source,
                }
            } else {
                Self::Io {
                    operation,
                    name,
                    source,
                }
            }
        }
    }
}

/// What is wrong with a tar header.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeaderFault {
    /// The sum of the bytes is another.
    #[error("the checksum is {found}, its bytes sum to {expected}")]
    Checksum {
        /// The sum of the bytes.
        expected: i64,
        /// What the header says.
        found: i64,
    },
    /// A number is not octal and not base-256, or out of range.
    #[error("the field {field} is no number of its range")]
    Number {
        /// The field.
        field: &'static str,
    },
    /// The kind of entry is unknown.
    #[error("the type flag {typeflag:?} is unknown")]
    Typeflag {
        /// The flag.
        typeflag: char,
    },
    /// An entry without content states a size, which readers disagree on how to skip.
    #[error("an entry of type {typeflag:?} has a size of {size}")]
    Size {
        /// The type flag.
        typeflag: char,
        /// The size.
        size: u64,
    },
    /// A block of zeros is followed by something else than a second one.
    #[error("a single block of zeros is followed by more")]
    LoneZeroBlock,
    /// Extended headers with no entry that they apply to.
    #[error("extended headers are followed by no entry")]
    Dangling,
    /// Two extended headers of one kind before one entry; readers disagree on which holds.
    #[error("two extended headers of type {typeflag:?} for one entry")]
    Duplicate {
        /// The type flag.
        typeflag: char,
    },
    /// A GNU long name or target beside one in a pax header; readers disagree on which holds.
    #[error("an extended header of type {typeflag:?} says what a pax header says too")]
    Contradiction {
        /// The type flag of the GNU header.
        typeflag: char,
    },
    /// A symbolic link to nothing.
    #[error("a link has no target")]
    NoTarget,
}

/// What is wrong with a pax extended header.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PaxFault {
    /// A record is not `length key=value\n`.
    #[error("the record at byte {at} is not `length key=value`")]
    Record {
        /// Offset of the record in the header's body.
        at: u64,
    },
    /// The value of a keyword that has a meaning here is none of its values.
    #[error("the value of {key} is malformed")]
    Value {
        /// The keyword.
        key: Name,
    },
    /// A global header says something of all entries, which some readers heed and others pass over.
    #[error("a global header sets {key}, which only the header of an entry may")]
    Global {
        /// The keyword.
        key: Name,
    },
}

/// What is wrong with a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SparseFault {
    /// Segments overlap, go backwards or go past the end.
    #[error("the segment at {offset} of {length} bytes is out of order or past the end")]
    Segment {
        /// Where it begins in the file.
        offset: u64,
        /// Its bytes.
        length: u64,
    },
    /// The segments are not as long as the data stored.
    #[error("the segments sum to {segments} bytes, {stored} are stored")]
    Sum {
        /// Sum of the segments.
        segments: u64,
        /// Bytes stored in the archive.
        stored: u64,
    },
    /// The map is not one of the four formats of GNU tar.
    #[error("the map is in none of the formats of GNU tar")]
    Format,
}

/// Where a link leads that leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LinkFault {
    /// To a name that this layer does not have.
    #[error("which this layer does not have")]
    Missing,
    /// To a name that neither this layer nor any below it has.
    #[error("which neither this layer nor any below it has")]
    Nowhere,
    /// In circles, or through more links than the kernel would follow.
    #[error("which leads through too many links")]
    Loop,
    /// Through more directories than are looked up for one entry, or for this many.
    #[error("which leads through too many directories")]
    TooFar,
    /// To a directory, where it must not.
    #[error("which is a directory")]
    Directory,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_apart() {
        for errno in [Errno::NOSPC, Errno::DQUOT] {
            let error = Error::io("write", b"usr/bin/x")(errno);
            let Error::NoSpace {
                operation: "write",
                name,
                source,
            } = error
            else {
                panic!("{error:?}")
            };
            assert_eq!(name.as_bytes(), b"usr/bin/x");
            assert_eq!(source.raw_os_error(), Some(errno.raw_os_error()));
        }
        let error = Error::io("write", b"x")(Errno::IO);
        assert!(
            matches!(
                error,
                Error::Io {
                    operation: "write",
                    ..
                }
            ),
            "{error:?}"
        );
    }
}
