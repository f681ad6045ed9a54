//! Copies a file of a layer below, so that this layer can have hard links to it.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{FileType, SeekFrom, Stat, fgetxattr, flistxattr, seek};
use rustix::io::Errno;

use crate::entry::{Metadata, Time, Xattr};
use crate::error::Error;
use crate::metadata::{Stamp, permissions};
use crate::name::{RelPath, length};
use crate::tree::{Lower, Slot, kind};
use crate::unpacked::Notes;
use crate::xattr::{Verdict, judge};

/// Makes in `to` what `lower` is: content, owner, mode, times and, of a regular file, those
/// extended attributes that a layer could have brought.
pub(crate) fn file(
    lower: &Lower,
    to: &Slot,
    stamp: &Stamp,
    notes: &mut Notes,
) -> Result<(), Error> {
    let (path, name) = (&to.path, to.path.file_name());
    let mut metadata = metadata(&lower.stat);
    let create = Error::io("create", path.as_bytes());
    match lower.kind() {
        FileType::RegularFile => {
            let from = lower.parent.open_file(name);
            let from = from.map_err(Error::io("open", path.as_bytes()))?;
            metadata.xattrs = xattrs(&from, path)?;
            let copy = to.parent.create_file(name, permissions(&metadata));
            let copy = copy.map_err(create)?;
            content(&from, &copy, lower.stat.st_size)
                .map_err(Error::io("copy", path.as_bytes()))?;
            return stamp.file(copy.as_fd(), path, &metadata, notes);
        }
        FileType::Symlink => {
            let target = lower.parent.read_link(name);
            let target = target.map_err(Error::io("read the link", path.as_bytes()))?;
            to.parent.make_symlink(name, &target).map_err(create)?;
        }
        node => {
            let made = to.parent.make_node(name, node, lower.stat.st_rdev);
            made.map_err(create)?;
        }
    }
    let is_link = kind(&lower.stat) == FileType::Symlink;
    stamp.node(&to.parent, path, &metadata, is_link, notes)
}

/// Copies what is stored; where there is nothing but a hole, the copy has one too.
fn content(from: &File, to: &File, size: i64) -> std::io::Result<()> {
    to.set_len(u64::try_from(size).unwrap_or_default())?;
    let mut end = 0;
    loop {
        let data = match seek(from, SeekFrom::Data(end)) {
            Err(Errno::NXIO) => return Ok(()),
            found => found?,
        };
        end = seek(from, SeekFrom::Hole(data))?;
        seek(from, SeekFrom::Start(data))?;
        stretch(from, to, data, end)?;
    }
}

/// Copies the bytes from `at`, where `from` stands, to `end`.
fn stretch(from: &File, to: &File, mut at: u64, end: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut from = from.take(end.saturating_sub(at));
    loop {
        let count = from.read(&mut buffer)?;
        let bytes = buffer.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(());
        }
        to.write_all_at(bytes, at)?;
        at = at.saturating_add(length(bytes));
    }
}

fn metadata(stat: &Stat) -> Metadata {
    Metadata {
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: stat.st_mode & 0o7777,
        modified: Time {
            seconds: stat.st_mtime,
            nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
        },
        xattrs: Vec::new(),
    }
}

fn xattrs(file: &File, path: &RelPath) -> Result<Vec<Xattr>, Error> {
    let failed = |errno: Errno| {
        let operation = "read an extended attribute of";
        Error::io(operation, path.as_bytes())(errno)
    };
    let mut buffer = vec![0; LARGEST];
    let count = match flistxattr(file, buffer.as_mut_slice()) {
        Err(Errno::OPNOTSUPP) => 0,
        listed => listed.map_err(failed)?,
    };
    let names = buffer.get(..count).unwrap_or_default().to_vec();
    let mut xattrs = Vec::new();
    for name in names
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
    {
        if matches!(judge(name), Verdict::Write | Verdict::WriteIfPossible) {
            let count = fgetxattr(file, name, buffer.as_mut_slice()).map_err(failed)?;
            let value = buffer.get(..count).unwrap_or_default().to_vec();
            xattrs.push(Xattr {
                name: name.to_vec(),
                value,
            });
        }
    }
    Ok(xattrs)
}

/// The most bytes that Linux has in one extended attribute, and in the list of their names.
const LARGEST: usize = 64 << 10;
