//! Whether what is in the store fits what its records say.
//!
//! That a tree is the content of its `diff_id` cannot be seen from the tree any more: an archive
//! holds what no file system keeps. What can be seen is that each tree has a record which was
//! written in this boot for a tree of this name, that it has no more in it than was unpacked, and
//! that no bundle misses a layer.

use std::collections::HashSet;
use std::fmt;
use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, FlockOperation, statat};
use rustix::io::Errno;

use super::copy::open_within;
use super::space::Amount;
use super::{Store, StoreError};
use crate::handle::{names, open_directory};

/// Something that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// The tree.
    pub(crate) key: String,
    pub(crate) problem: Problem,
}

/// What is wrong with a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// No record of this boot proves it, and on a disk that the host can write, of this process.
    Unproved,
    /// There is more in it than was unpacked.
    Grown { recorded: Amount, found: Amount },
    /// There is none, though a bundle uses it.
    Missing,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unproved => f.write_str("no record proves it"),
            Self::Grown { recorded, found } => write!(
                f,
                "{} bytes in {} entries were unpacked, {} bytes in {} entries are there",
                recorded.bytes, recorded.inodes, found.bytes, found.inodes
            ),
            Self::Missing => f.write_str("a bundle uses it and it is not there"),
        }
    }
}

impl Store {
    /// How many trees there are, and what does not fit.
    ///
    /// Nothing is removed meanwhile.
    pub(crate) fn verify(&self) -> Result<(usize, Vec<Finding>), StoreError> {
        let _lock = self.lock(FlockOperation::LockShared)?;
        let mut findings = Vec::new();
        let listed = self.inventory()?;
        for layer in &listed {
            let problem = match &layer.proved {
                None => Some(Problem::Unproved),
                Some(proved) => {
                    let found = self.measure(&layer.key)?;
                    let recorded = proved.amount;
                    (!recorded.covers(found)).then_some(Problem::Grown { recorded, found })
                }
            };
            let key = layer.key.clone();
            findings.extend(problem.map(|problem| Finding { key, problem }));
        }
        let there: HashSet<_> = listed.iter().map(|layer| layer.key.as_str()).collect();
        for key in self.delivered()? {
            if !there.contains(key.as_str()) {
                let problem = Problem::Missing;
                findings.push(Finding { key, problem });
            }
        }
        Ok((listed.len(), findings))
    }

    /// The files in a tree, each once, and the sum of their sizes.
    fn measure(&self, key: &str) -> Result<Amount, StoreError> {
        let path = self.path("layers").join(key);
        self.measure_tree(key)
            .map_err(|error| StoreError::io("inspect", &path)(error.into()))
    }

    fn measure_tree(&self, key: &str) -> Result<Amount, Errno> {
        let tree = open_directory(self.layers(), key)?;
        let mut amount = Amount::default();
        let mut linked = HashSet::new();
        let mut pending = vec![PathBuf::new()];
        while let Some(path) = pending.pop() {
            let directory = open_within(tree.as_fd(), &path)?;
            for name in names(directory.as_fd())? {
                amount.inodes += 1;
                let stat = statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW)?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => pending.push(path.join(name)),
                    FileType::RegularFile if stat.st_nlink == 1 || linked.insert(stat.st_ino) => {
                        let size = u64::try_from(stat.st_size).unwrap_or_default();
                        amount.bytes = amount.bytes.saturating_add(size);
                    }
                    _ => {}
                }
            }
        }
        Ok(amount)
    }
}
