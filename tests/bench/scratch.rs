//! A fresh tmpfs for each run: the guest's real case, and gone in one call. Or a directory of a disk.

use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

use crate::fault::{During, Fault};

/// A mount; dropping it takes along whatever was written to it or mounted below it.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    is_on_disk: bool,
}

impl Scratch {
    /// Mounts it over `mountpoint`, which is created if missing.
    pub(crate) fn new(mountpoint: &Path) -> Result<Scratch, Fault> {
        let during = || format!("mounting a tmpfs on {}", mountpoint.display());
        std::fs::create_dir_all(mountpoint).during(during)?;
        mount(
            "bench",
            mountpoint,
            "tmpfs",
            MountFlags::empty(),
            c"size=90%,mode=755",
        )
        .during(during)?;
        Ok(Scratch {
            path: mountpoint.to_owned(),
            is_on_disk: false,
        })
    }

    /// Mounts a directory over itself, which is created, and its content lost with the mount.
    pub(crate) fn on_disk(directory: &Path) -> Result<Scratch, Fault> {
        let during = || format!("mounting {} on itself", directory.display());
        std::fs::create_dir(directory).during(during)?;
        mount_bind(directory, directory).during(during)?;
        Ok(Scratch {
            path: directory.to_owned(),
            is_on_disk: true,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The mount namespace is the bench's own and ends with it: a failure here leaves nothing.
        let _ = unmount(&self.path, UnmountFlags::DETACH);
        if self.is_on_disk {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
