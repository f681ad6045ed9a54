//! A fresh tmpfs for each run: the guest's real case, and gone in one call.

use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::fault::{During, Fault};

/// A mounted tmpfs; dropping it takes along whatever was written to it or mounted below it.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
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
    }
}
