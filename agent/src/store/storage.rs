//! Whether the host can write what a store lies on.
//!
//! A tree in the store is as good as the bytes that were hashed only as long as nobody else can
//! change them. The memory of a confidential guest is its own; a disk is the host's, unless
//! dm-crypt authenticates every sector that is read from it.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::{fstat, fstatfs, major, minor};

use super::StoreError;
use crate::mountinfo::{self, mount_id};

/// Whether the file system of `directory` is out of the host's reach: tmpfs, ramfs, or a file
/// system on dm-crypt with integrity.
///
/// What device-mapper devices there are was decided in the guest, which is measured, so that their
/// names are believed; `sysfs` is where the kernel shows them.
pub(super) fn is_private(directory: BorrowedFd<'_>, sysfs: &Path) -> rustix::io::Result<bool> {
    let kind = fstatfs(directory)?.f_type;
    if MEMORY.contains(&kind) {
        return Ok(true);
    }
    let device = fstat(directory)?.st_dev;
    let device = format!("dev/block/{}:{}", major(device), minor(device));
    Ok(is_authenticated(&sysfs.join(device), MAX_STACK))
}

/// Whether every sector of the block device is authenticated when it is read: it is dm-crypt on
/// dm-integrity, or made of nothing but such devices.
fn is_authenticated(device: &Path, depth: usize) -> bool {
    let read = |device: &Path, file: &str| {
        let text = std::fs::read_to_string(device.join("dm").join(file)).unwrap_or_default();
        text.trim_end().to_owned()
    };
    let slaves: Vec<_> = std::fs::read_dir(device.join("slaves"))
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .collect();
    if slaves.is_empty() || depth == 0 {
        return false;
    }
    let uuid = read(device, "uuid");
    // cryptsetup names what it makes, and the dm-integrity beneath a volume that has one.
    let is_helper = |uuid: &str| HELPERS.iter().any(|prefix| uuid.starts_with(prefix));
    if uuid.starts_with("CRYPT-") && !is_helper(&uuid) {
        let is_integrity =
            |slave: &Path| is_helper(&read(slave, "uuid")) && read(slave, "name").ends_with("_dif");
        return slaves.iter().all(|slave| is_integrity(slave));
    }
    let is_stacked = !uuid.is_empty() && !is_helper(&uuid);
    is_stacked
        && slaves
            .iter()
            .all(|slave| is_authenticated(slave, depth - 1))
}

/// What a process of ours is called in the keys of layers that no other process is to believe.
pub(super) fn this_process() -> Result<&'static str, StoreError> {
    static NAME: OnceLock<String> = OnceLock::new();
    if let Some(name) = NAME.get() {
        return Ok(name);
    }
    let path = Path::new("/proc/sys/kernel/random/uuid");
    let uuid = std::fs::read_to_string(path).map_err(StoreError::io("read", path))?;
    Ok(NAME.get_or_init(|| uuid.trim().to_owned()))
}

/// The kind of file system that `directory` is on, for messages.
pub(crate) fn file_system(directory: BorrowedFd<'_>) -> String {
    let unknown = || "unknown file system".to_owned();
    let Ok(id) = mount_id(directory) else {
        return unknown();
    };
    let mounts = mountinfo::read().unwrap_or_default();
    let mount = mounts.into_iter().find(|mount| mount.id == id);
    mount.map_or_else(unknown, |mount| mount.file_system.display().to_string())
}

/// Where the kernel shows its devices.
pub(super) const SYSFS: &str = "/sys";

/// statfs(2): tmpfs and ramfs.
const MEMORY: [rustix::fs::FsWord; 2] = [0x0102_1994, 0x8584_58f6];

/// Devices of cryptsetup that encrypt nothing: since 2.8, and before.
const HELPERS: [&str; 2] = ["CRYPT-SUBDEV-", "CRYPT-INTEGRITY-"];

/// More devices upon devices than anybody stacks.
const MAX_STACK: usize = 8;

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use rustix::fs::{Mode, OFlags, open};

    use super::*;

    /// A device by name, device-mapper uuid (empty for a real one) and what it is made of.
    type Device = (&'static str, &'static str, &'static [&'static str]);

    fn is_authenticated_in(devices: &[Device]) -> bool {
        let sysfs = tempfile::tempdir().unwrap();
        for (name, uuid, slaves) in devices {
            let device = sysfs.path().join(name);
            std::fs::create_dir_all(device.join("slaves")).unwrap();
            for slave in *slaves {
                let target = format!("../../{slave}");
                symlink(target, device.join("slaves").join(slave)).unwrap();
            }
            if !uuid.is_empty() {
                std::fs::create_dir(device.join("dm")).unwrap();
                std::fs::write(device.join("dm/uuid"), format!("{uuid}\n")).unwrap();
                std::fs::write(device.join("dm/name"), format!("{name}\n")).unwrap();
            }
        }
        is_authenticated(&sysfs.path().join("top"), MAX_STACK)
    }

    #[expect(clippy::too_many_lines, reason = "a table, one row per case")]
    #[test]
    fn only_encryption_with_integrity_keeps_the_host_from_writing() {
        let disk: Device = ("vdb", "", &[]);
        let luks: Device = ("top", "CRYPT-LUKS2-0123-top", &["top_dif"]);
        let rows: [(&str, bool, &[Device]); 9] = [
            ("a disk", false, &[("top", "", &[])]),
            (
                "encryption alone",
                false,
                &[("top", "CRYPT-LUKS2-0123-top", &["vdb"]), disk],
            ),
            (
                "integrity",
                true,
                &[
                    luks,
                    ("top_dif", "CRYPT-SUBDEV-0123-top_dif", &["vdb"]),
                    disk,
                ],
            ),
            (
                "integrity of an older cryptsetup",
                true,
                &[
                    luks,
                    ("top_dif", "CRYPT-INTEGRITY-0-top_dif", &["vdb"]),
                    disk,
                ],
            ),
            (
                "a helper that is no integrity",
                false,
                &[
                    ("top", "CRYPT-LUKS2-0123-top", &["reduced"]),
                    ("reduced", "CRYPT-SUBDEV-0123-reduced", &["vdb"]),
                    disk,
                ],
            ),
            (
                "integrity without encryption",
                false,
                &[("top", "CRYPT-INTEGRITY-0-top", &["vdb"]), disk],
            ),
            (
                "a volume of an authenticated disk",
                true,
                &[
                    ("top", "LVM-1", &["crypt"]),
                    ("crypt", "CRYPT-LUKS2-0-crypt", &["crypt_dif"]),
                    ("crypt_dif", "CRYPT-SUBDEV-0-crypt_dif", &["vdb"]),
                    disk,
                ],
            ),
            (
                "a volume of two disks, one of them plain",
                false,
                &[
                    ("top", "LVM-1", &["crypt", "vdb"]),
                    ("crypt", "CRYPT-LUKS2-0-crypt", &["crypt_dif"]),
                    ("crypt_dif", "CRYPT-SUBDEV-0-crypt_dif", &["vdb"]),
                    disk,
                ],
            ),
            ("a volume of itself", false, &[("top", "LVM-1", &["top"])]),
        ];
        for (case, expected, devices) in rows {
            assert_eq!(is_authenticated_in(devices), expected, "{case}");
        }
    }

    #[test]
    fn memory_is_private_and_a_file_system_without_a_device_is_not() {
        for (path, expected) in [("/dev/shm", true), ("/proc", false), ("/sys", false)] {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = open(path, flags, Mode::empty()).unwrap();
            let found = is_private(directory.as_fd(), Path::new(SYSFS)).unwrap();
            assert_eq!(found, expected, "{path}");
        }
    }
}
