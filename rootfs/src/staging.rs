//! A directory that is erased unless what it holds was proved.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{self, FlockOperation, Mode};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid, getpid};

use crate::apply::finish_root;
use crate::dir::{Dir, one_component};
use crate::error::Error;
use crate::unpacked::{Notes, Unpacked};

/// A private directory (mode 0700) into which one layer is unpacked.
///
/// It is locked with `flock(2)` as long as this value lives, so that [`Staging::sweep`], of this
/// process or another, tells it from what a killed process left. Dropped, it is erased.
#[derive(Debug)]
pub struct Staging {
    parent: Dir,
    dir: Dir,
    name: Vec<u8>,
    serial: u64,
    used: AtomicBool,
    /// Whether there is something to erase.
    owned: bool,
}

impl Staging {
    /// Makes a staging directory in `parent`, which must be on the file system that the layer is
    /// to be committed to.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::NoSpace`] with what the kernel said.
    pub fn create(parent: &Dir) -> Result<Self, Error> {
        let own = parent.try_clone()?;
        loop {
            let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
            let pid = getpid().as_raw_nonzero();
            let name = format!("{PREFIX}{pid}-{serial}").into_bytes();
            match own.make_dir(&name) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(errno) => return Err(Error::io("create", &name)(errno)),
            }
            let claimed = match claim(&own, &name) {
                Ok(claimed) => claimed,
                Err(errno) => {
                    // Of no use, and nobody else's. Takes no descriptor, the lack of which is the
                    // likeliest cause.
                    drop(own.remove_all(OsStr::from_bytes(&name)));
                    return Err(Error::io("lock", &name)(errno));
                }
            };
            if let Some(dir) = claimed {
                let staging = Self {
                    parent: own,
                    dir,
                    name,
                    serial,
                    used: AtomicBool::new(false),
                    owned: true,
                };
                staging.take_possession()?;
                return Ok(staging);
            }
        }
    }

    /// Publishes the tree as `name` in `into`, with the metadata that the archive has for its root.
    ///
    /// # Errors
    /// [`Error::ForeignProof`] for the proof of another tree, [`Error::NotOneComponent`] for a name
    /// that is a path, [`Error::Io`] and [`Error::NoSpace`] with what the kernel said. In every case
    /// the tree is erased.
    pub fn commit(
        mut self,
        proof: Unpacked,
        into: &Dir,
        name: impl AsRef<OsStr>,
    ) -> Result<Committed, Error> {
        let name = one_component(name.as_ref())?;
        let Unpacked { staging, root, .. } = proof;
        if staging != self.serial {
            return Err(Error::ForeignProof);
        }
        // What cannot be set on the root only of all directories is not worth a second report.
        finish_root(&self.dir, &root, &mut Notes::default())?;
        match self.parent.rename_new(&self.name, into, name) {
            Ok(()) => {
                self.owned = false;
                Ok(Committed::New)
            }
            Err(Errno::EXIST | Errno::NOTEMPTY) => self.discard().map(|()| Committed::AlreadyThere),
            Err(errno) => Err(Error::io("publish", name)(errno)),
        }
    }

    /// Erases the tree now. Dropping it does the same, but cannot say what went wrong.
    ///
    /// # Errors
    /// [`Error::Io`] with what the kernel said.
    pub fn discard(mut self) -> Result<(), Error> {
        self.owned = false;
        self.erase()
    }

    /// Erases the staging directories in `parent` that no living process holds, and counts them.
    ///
    /// # Errors
    /// [`Error::Io`] with what the kernel said.
    pub fn sweep(parent: &Dir) -> Result<u64, Error> {
        let mut erased = 0;
        for name in parent
            .names()
            .map_err(Error::io("list", b"the staging area"))?
        {
            if !name.starts_with(PREFIX.as_bytes()) {
                continue;
            }
            // Held until it is gone, so that nobody believes it a new one.
            let held = match claim(parent, &name) {
                Ok(Some(held)) => held,
                // Held by another, or no directory and so nothing that a staging process made.
                Ok(None) | Err(Errno::NOTDIR | Errno::LOOP) => continue,
                Err(errno) => return Err(Error::io("lock", &name)(errno)),
            };
            parent.remove_all(OsStr::from_bytes(&name))?;
            drop(held);
            erased += 1;
        }
        Ok(erased)
    }

    /// A handle of the tree for the one layer that may be unpacked into it.
    pub(crate) fn begin(&self) -> Result<Dir, Error> {
        if self.used.swap(true, Ordering::Relaxed) {
            return Err(Error::StagingUsed);
        }
        self.dir.try_clone()
    }

    /// What a proof of this tree carries.
    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// A directory inherits group and set-gid bit where its parent has that bit; files in here
    /// must not.
    fn take_possession(&self) -> Result<(), Error> {
        fs::fchown(&self.dir, Some(geteuid()), Some(getegid()))
            .and_then(|()| fs::fchmod(&self.dir, Mode::RWXU))
            .map_err(Error::io("own", &self.name))
    }

    fn erase(&self) -> Result<(), Error> {
        self.parent.remove_all(OsStr::from_bytes(&self.name))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.owned {
            // There is nobody to tell; what stays behind is unlocked, and the next sweep takes it.
            drop(self.erase());
        }
    }
}

/// What [`Staging::commit`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// The tree is published.
    New,
    /// Something of that name existed; it was left as it is and the tree was erased.
    AlreadyThere,
}

/// Opens and locks `name`. Nothing is returned if another holds it, or if it has been swept away
/// or replaced between opening and locking.
fn claim(parent: &Dir, name: &[u8]) -> rustix::io::Result<Option<Dir>> {
    let dir = match parent.open_beneath(name) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened?,
    };
    match fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(None),
        locked => locked?,
    }
    let (held, named) = (fs::fstat(&dir)?, parent.stat(name)?);
    let same = |named: fs::Stat| (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino);
    Ok(named.is_some_and(same).then_some(dir))
}

/// Names of staging directories begin with this, and those of nothing else beside them do.
const PREFIX: &str = "staging-";

/// Tells the staging directories of this process apart.
static SERIAL: AtomicU64 = AtomicU64::new(0);

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd};

    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    use super::*;
    use crate::unpacked::{Counts, Root};

    fn scratch() -> (tempfile::TempDir, Dir) {
        let scratch = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(scratch.path()).unwrap();
        (scratch, dir)
    }

    fn proof(staging: u64) -> Unpacked {
        Unpacked {
            staging,
            root: Root::default(),
            implied: Vec::new(),
            notes: Notes::default(),
            counts: Counts::default(),
            content_bytes: 0,
        }
    }

    #[test]
    fn is_erased_when_dropped() {
        let (_scratch, dir) = scratch();
        let staging = Staging::create(&dir).unwrap();
        staging
            .dir
            .create_dir("a")
            .unwrap()
            .create_file(b"b", Mode::RWXU)
            .unwrap();
        assert_eq!(dir.names().unwrap().len(), 1);
        drop(staging);
        assert_eq!(dir.names().unwrap().len(), 0);
    }

    /// The limit is that of a process, so this test runs itself in one of its own.
    #[test]
    fn leaves_nothing_when_descriptors_run_out() {
        const CHILD: &str = "ROOTFS_TEST_WITHOUT_DESCRIPTORS";
        let (scratch, dir) = scratch();
        if std::env::var_os(CHILD).is_none() {
            let this = "staging::tests::leaves_nothing_when_descriptors_run_out";
            let status = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", this])
                .env(CHILD, "1")
                .status()
                .unwrap();
            assert!(status.success(), "{status}");
            return;
        }
        let before = getrlimit(Resource::Nofile);
        let next = u64::try_from(dir.try_clone().unwrap().as_fd().as_raw_fd()).unwrap();
        let outcomes = [0, 1, 2].map(|free| {
            let current = Some(next + free);
            setrlimit(Resource::Nofile, Rlimit { current, ..before }).unwrap();
            let created = Staging::create(&dir).map(drop);
            setrlimit(Resource::Nofile, before).unwrap();
            assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
            created
        });
        let [
            Err(Error::Io {
                operation: "duplicate the handle of",
                ..
            }),
            Err(Error::Io {
                operation: "lock",
                source,
                ..
            }),
            Ok(()),
        ] = outcomes
        else {
            panic!("{outcomes:?}")
        };
        assert_eq!(source.raw_os_error(), Some(Errno::MFILE.raw_os_error()));
    }

    #[test]
    fn publishes_with_its_own_proof_only() {
        let (_scratch, dir) = scratch();
        let (one, other) = (
            Staging::create(&dir).unwrap(),
            Staging::create(&dir).unwrap(),
        );
        let error = one.commit(proof(other.serial), &dir, "layer").unwrap_err();
        assert!(matches!(error, Error::ForeignProof), "{error:?}");
        let proof = proof(other.serial);
        assert_eq!(other.commit(proof, &dir, "layer").unwrap(), Committed::New);
        assert_eq!(dir.names().unwrap(), [b"layer"]);
        let mode = dir.stat(b"layer").unwrap().unwrap().st_mode;
        assert_eq!(mode & 0o7777, 0o755);
    }

    #[test]
    fn leaves_what_is_there_already() {
        let (_scratch, dir) = scratch();
        dir.create_dir("layer")
            .unwrap()
            .create_file(b"first", Mode::RWXU)
            .unwrap();
        let staging = Staging::create(&dir).unwrap();
        let proof = proof(staging.serial);
        assert_eq!(
            staging.commit(proof, &dir, "layer").unwrap(),
            Committed::AlreadyThere
        );
        assert_eq!(dir.names().unwrap(), [b"layer"]);
        assert_eq!(dir.open_dir("layer").unwrap().names().unwrap(), [b"first"]);
    }

    #[test]
    fn sweeps_what_nobody_holds() {
        let (_scratch, dir) = scratch();
        let held = Staging::create(&dir).unwrap();
        dir.create_dir("staging-1-1")
            .unwrap()
            .create_dir("deep")
            .unwrap();
        dir.create_dir("other").unwrap();
        dir.make_symlink(b"staging-link", b"other").unwrap();
        assert_eq!(Staging::sweep(&dir).unwrap(), 1);
        let mut names = dir.names().unwrap();
        names.sort();
        let mut expected = vec![
            b"other".to_vec(),
            b"staging-link".to_vec(),
            held.name.clone(),
        ];
        expected.sort();
        assert_eq!(names, expected);
    }

    #[test]
    fn takes_one_layer_only() {
        let (_scratch, dir) = scratch();
        let staging = Staging::create(&dir).unwrap();
        staging.begin().unwrap();
        let error = staging.begin().unwrap_err();
        assert!(matches!(error, Error::StagingUsed), "{error:?}");
    }

    #[test]
    fn refuses_to_publish_under_a_path() {
        let (_scratch, dir) = scratch();
        for name in ["../layer", "a/b", ".", ""] {
            let staging = Staging::create(&dir).unwrap();
            let proof = proof(staging.serial);
            let error = staging.commit(proof, &dir, name).unwrap_err();
            assert!(matches!(error, Error::NotOneComponent { .. }), "{error:?}");
        }
        assert_eq!(dir.names().unwrap().len(), 0);
    }
}
