//! Unpacks hostile image layers into directories that become visible only when proved.
//!
//! A layer comes from a registry that nobody trusts, so its bytes are hostile until the last one
//! has been read: the archive is written into a [`Staging`] directory, which is erased when it is
//! dropped, and only [`Unpacked`], which [`unpack`] returns once size, blob digest and `diff_id`
//! all hold, lets [`Staging::commit`] rename it to where others see it.
//!
//! The crate is synchronous. Every directory is reached from an open handle with `openat2(2)`, and
//! what is in it by the last part of its name alone, without following a link; no name from an
//! archive is ever resolved from a path. It needs Linux 5.8, a mounted `/proc`, and the privileges
//! to set owners, devices and `trusted.*` attributes.
//!
//! # Extended attributes
//!
//! Which are written, which dropped with a note, and for which the layer is refused, is in the table
//! of `SECURITY.md`, which a test holds to the code.
//!
//! # One tree, unpacked in order
//!
//! * A name is relative to the layer's root, also when it is written as absolute; `..` is refused.
//! * A parent that is a symbolic link is followed as in a chroot of the layer's root; one that
//!   leads there only by endless detours is refused, and so is a parent that is no directory.
//! * A link that leads to nothing in this layer is refused by [`unpack`] with an error for which
//!   [`Error::needs_lower_layers`] holds. A parent without an entry is made, and reported as
//!   implied: whether it is a symbolic link below only the caller can know. [`unpack_onto`] finds
//!   both below, as the order of the layers has it.
//! * The last entry of a name wins. A directory entry replaces whatever is not a directory; a file
//!   or link replaces a directory with all that is in it; a device or fifo in place of a directory
//!   is refused.
//! * A hard link has no metadata of its own; it may name an entry that comes later. One to a file
//!   below links to a copy of that: names that the file has in other layers keep the old one.
//! * A whiteout hides what lower layers have, never what the same layer brings, whichever comes
//!   first. A directory whose name was hidden, or was held by something else earlier in the layer,
//!   is opaque.
//!
//! # Where we differ from other unpackers
//!
//! The tests compare the tree with those of GNU tar, bsdtar and umoci, entry by entry. It is
//! another one only here:
//!
//! * Of an archive that readers are known to take in different ways there is no right tree: the
//!   layer is refused.
//! * So is a global pax header that sets anything of entries: GNU tar applies it, bsdtar and what
//!   runs containers pass over it, umoci knows none. One with a comment, as `git archive` writes
//!   it, is passed over.
//! * A hard link may come before its file, which fails elsewhere.
//! * An extended attribute without a value is written, as by both tars; Go, and umoci with it, drops
//!   it.
//! * A name has up to 4,095 bytes wherever the tree is made, as with both tars; umoci counts the path
//!   of its root in.
//! * A directory that its layer only implies is reported; what the one below has is for the caller to
//!   give it. umoci writes into the one below.
//! * A directory has the time of its entry, also when a later whiteout deletes something from it,
//!   which umoci lets show.
//! * A socket is skipped with a note, and so are most extended attributes outside `user.*` and
//!   `trusted.*`.

#![forbid(unsafe_code)]

mod apply;
mod cancel;
mod chunks;
mod copy;
mod dir;
mod entry;
mod error;
mod inflate;
mod limits;
mod metadata;
mod name;
mod pipeline;
mod privilege;
mod staging;
mod tar;
mod tree;
mod unpacked;
mod whiteout;
mod xattr;

pub use crate::cancel::Cancel;
pub use crate::dir::Dir;
pub use crate::error::{Error, HeaderFault, LinkFault, PaxFault, SparseFault};
pub use crate::limits::{Budget, LimitKind, Limits};
pub use crate::name::{Name, RelPath};
pub use crate::pipeline::{unpack, unpack_onto};
pub use crate::staging::{Committed, Staging};
pub use crate::unpacked::{Note, Notes, Unpacked};
