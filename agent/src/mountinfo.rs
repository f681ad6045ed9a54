//! What is mounted, as `/proc/self/mountinfo` tells it: see `proc_pid_mountinfo(5)`.

use std::ffi::OsString;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, StatxFlags, statx};

/// One mount of this mount namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The id that `statx` reports as `stx_mnt_id`.
    pub(crate) id: u64,
    /// What of its file system is mounted.
    pub(crate) root: PathBuf,
    /// Where it is mounted.
    pub(crate) point: PathBuf,
    /// The kind of file system, `overlay` for instance.
    pub(crate) file_system: OsString,
    /// The source, which for an overlay is whatever its mounter called it.
    pub(crate) source: OsString,
}

impl Mount {
    /// The id of the bundle whose root file system this is, or a directory of that, in its place or
    /// bound to another.
    pub(crate) fn bundle(&self) -> Option<&str> {
        if self.file_system == "overlay"
            && let Some(id) = self.source.to_str()?.strip_prefix(BUNDLE)
        {
            return Some(id);
        }
        // A copy has no name of its own. Its directory has, which nobody makes twice.
        let mut names = self.root.iter().skip_while(|name| *name != OVERLAYS);
        let id = names.nth(1)?.to_str()?;
        (names.next()? == COPY && id.len() == ID_LENGTH).then_some(id)
    }
}

/// What the list of mounts calls the file system of the bundle `id`.
pub(crate) fn bundle_source(id: &str) -> String {
    format!("{BUNDLE}{id}")
}

/// The [`Mount::id`] of the mount that `handle` is in.
pub(crate) fn mount_id(handle: BorrowedFd<'_>) -> rustix::io::Result<u64> {
    Ok(statx(handle, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
}

/// Why the list of mounts is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountInfoError {
    /// The list cannot be read: `/proc` is not mounted, for instance.
    #[error("{MOUNTINFO} cannot be read")]
    Unreadable(#[source] std::io::Error),

    /// The kernel's format has changed. Guessing could take a mounted bundle for rubbish.
    #[error("{MOUNTINFO} has a line of unknown form: {line:?}")]
    UnknownForm {
        /// The line.
        line: String,
    },
}

/// The mounts of this mount namespace, in the kernel's order: what lies on top comes later.
pub(crate) fn read() -> Result<Vec<Mount>, MountInfoError> {
    parse(&std::fs::read(MOUNTINFO).map_err(MountInfoError::Unreadable)?)
}

fn parse(text: &[u8]) -> Result<Vec<Mount>, MountInfoError> {
    let lines = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    lines
        .map(|line| {
            parse_line(line).ok_or_else(|| MountInfoError::UnknownForm {
                line: String::from_utf8_lossy(line).into_owned(),
            })
        })
        .collect()
}

/// `id parent major:minor root mount-point options [tag...] - type source options`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let root = unescape(fields.nth(2)?);
    let point = unescape(fields.next()?);
    fields.find(|field| *field == b"-")?;
    Some(Mount {
        id,
        root: OsString::from_vec(root).into(),
        point: OsString::from_vec(point).into(),
        file_system: OsString::from_vec(unescape(fields.next()?)),
        source: OsString::from_vec(unescape(fields.next()?)),
    })
}

/// Space, tab, newline and backslash are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let escaped = after.split_at_checked(3).filter(|_| *byte == b'\\');
        let escaped = escaped.and_then(|(digits, tail)| Some((octal(digits)?, tail)));
        let (plain_byte, tail) = escaped.unwrap_or((*byte, after));
        plain.push(plain_byte);
        rest = tail;
    }
    plain
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

const BUNDLE: &str = "image-agent:";

/// Where the directories of bundles are, in the work directory.
pub(crate) const OVERLAYS: &str = "overlay";

/// The root file system of a bundle that is no overlay, in the bundle's directory.
pub(crate) const COPY: &str = "copy-of-all";

/// The digits of the id of a bundle.
const ID_LENGTH: usize = 32;

const MOUNTINFO: &str = "/proc/self/mountinfo";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let text = b"22 27 0:21 / /proc rw,relatime - proc proc rw\n\
            46 27 0:39 / /run/a\\040b/rootfs rw,relatime shared:7 master:2 - overlay \
            image-agent:0f rw,lowerdir+=/x,uuid=on\n\
            51 27 0:40 /sub\\134x / rw - fuse.some\\011thing  rw\n";
        let mounts = parse(text).unwrap();
        assert_eq!(mounts.len(), 3);
        assert_eq!(
            mounts[1],
            Mount {
                id: 46,
                root: "/".into(),
                point: "/run/a b/rootfs".into(),
                file_system: "overlay".into(),
                source: "image-agent:0f".into(),
            }
        );
        assert_eq!(mounts[2].file_system, "fuse.some\tthing");
        assert_eq!(mounts[2].source, "");
        assert_eq!(mounts[2].root, *"/sub\\x");
    }

    #[test]
    fn the_bundle_of_a_mount_is_known_by_its_source_or_by_its_directory() {
        let id = "0123456789abcdef0123456789abcdef";
        for (root, file_system, source, expected) in [
            ("/", "overlay", format!("image-agent:{id}"), Some(id)),
            ("/bin", "overlay", format!("image-agent:{id}"), Some(id)),
            ("/", "overlay", "overlay".to_owned(), None),
            ("/", "tmpfs", format!("image-agent:{id}"), None),
            (
                &format!("/overlay/{id}/copy-of-all"),
                "tmpfs",
                String::new(),
                Some(id),
            ),
            (
                &format!("/run/work/overlay/{id}/copy-of-all/bin"),
                "ext4",
                String::new(),
                Some(id),
            ),
            (
                &format!("/overlay/{id}/upper"),
                "tmpfs",
                String::new(),
                None,
            ),
            (&format!("/overlay/{id}"), "tmpfs", String::new(), None),
            ("/overlay/0123/copy-of-all", "tmpfs", String::new(), None),
        ] {
            let mount = Mount {
                id: 1,
                root: root.into(),
                point: "/".into(),
                file_system: file_system.into(),
                source: source.clone().into(),
            };
            assert_eq!(mount.bundle(), expected, "{root} {file_system} {source}");
        }
    }

    #[test]
    fn an_unknown_form_is_an_error_and_not_an_empty_list() {
        for line in [
            "x 27 0:21 / /proc rw - proc proc rw",
            "22 27 0:21 / /proc rw proc proc rw",
            "22",
        ] {
            let error = parse(line.as_bytes()).unwrap_err();
            assert!(
                matches!(error, MountInfoError::UnknownForm { line: ref found } if found == line),
                "{error:?}"
            );
        }
    }

    #[test]
    fn the_mounts_of_this_process_are_known() {
        assert!(read().unwrap().iter().any(|mount| mount.point == *"/proc"));
    }
}
