//! Which layers there are, which of them are in use, and removing those that are not.
//!
//! A pull writes down which layers it wants before it looks whether they are there, under the lock
//! of the records. So a layer is in use when the record of any bundle names it, one that is being
//! made included, and whoever holds that lock exclusively can tell.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime};

use rustix::fs::{
    AtFlags, FlockOperation, RenameFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT,
    renameat_with, statat, unlinkat, utimensat,
};
use rustix::io::Errno;
use serde::Deserialize;

use super::overlay::says_delivered;
use super::space::Amount;
use super::{OverlayDirectory, Store, StoreError, record_name};
use crate::handle::{open_directory, try_lock};

/// What was removed to make room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Collected {
    /// How many layers.
    pub(crate) layers: usize,
    /// What they took, as far as their records say.
    pub(crate) amount: Amount,
}

/// A tree of the store, by what its record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// The name of the tree.
    pub(crate) key: String,
    /// Digest of its blob and `diff_id`, if the tree is proved.
    pub(crate) proved: Option<Proved>,
    /// When a pull wanted it last.
    pub(crate) last_used: SystemTime,
    /// Whether a bundle needs it.
    pub(crate) is_used: bool,
}

/// What the record of a proved tree says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proved {
    pub(crate) blob: String,
    pub(crate) diff_id: String,
    pub(crate) amount: Amount,
}

impl Store {
    /// Every tree of the store, the one that was wanted longest ago first, and what nothing proves
    /// before all others.
    ///
    /// Nothing is removed meanwhile.
    pub(crate) fn inventory(&self) -> Result<Vec<Listed>, StoreError> {
        let _lock = self.lock(FlockOperation::LockShared)?;
        let in_use = self.in_use()?;
        let mut listed = Vec::new();
        for name in self.list("layers")? {
            let Some(key) = name.to_str().map(str::to_owned) else {
                continue;
            };
            let record = self.proving_record(&key)?;
            listed.push(Listed {
                last_used: self.last_used(&key)?,
                is_used: in_use.has(&key),
                proved: record.map(|record| Proved {
                    amount: record.amount(),
                    blob: record.blob,
                    diff_id: record.diff_id,
                }),
                key,
            });
        }
        listed.sort_by_key(|layer| (layer.proved.is_some(), layer.last_used));
        Ok(listed)
    }

    /// What would be free if every layer were gone that no bundle uses and that is not in `spared`.
    pub(crate) fn reclaimable(&self, spared: &HashSet<String>) -> Result<Amount, StoreError> {
        let listed = self.inventory()?.into_iter();
        let unused = listed.filter(|layer| !layer.is_used && !spared.contains(&layer.key));
        let amounts = unused.filter_map(|layer| layer.proved).map(|it| it.amount);
        Ok(amounts.fold(Amount::default(), Amount::plus))
    }

    /// Removes layers that no bundle uses and that are not in `spared`, the one that was wanted
    /// longest ago first, until `needed` is free.
    ///
    /// What killed processes and bundles that are gone have left goes before.
    pub(crate) fn collect(
        &self,
        spared: &HashSet<String>,
        needed: Amount,
    ) -> Result<Collected, StoreError> {
        let mut collected = Collected::default();
        self.recover()?;
        for layer in self.inventory()? {
            if self.free()?.covers(needed) {
                break;
            }
            if !spared.contains(&layer.key) && self.remove_unused(&layer.key)? {
                tracing::info!(key = layer.key, "a layer that no bundle uses is removed");
                collected.layers += 1;
                let amount = layer.proved.map(|proved| proved.amount);
                collected.amount = collected.amount.plus(amount.unwrap_or_default());
            }
        }
        if !self.free()?.covers(needed) {
            self.remove_documents()?;
        }
        Ok(collected)
    }

    /// Removes a layer unless a bundle uses it.
    ///
    /// Its tree leaves its place in one step; erasing it takes time, for which nobody has to wait.
    fn remove_unused(&self, key: &str) -> Result<bool, StoreError> {
        let path = self.path("layers").join(key);
        let io = |error: Errno| StoreError::io("remove", &path)(error.into());
        let lock = self.lock(FlockOperation::LockExclusive)?;
        if self.in_use()?.has(key) {
            return Ok(false);
        }
        let tree = match open_directory(self.layers(), key) {
            Ok(tree) => tree,
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(io(error)),
        };
        // Locked, it is nobody's rubbish while it is erased.
        if !try_lock(tree.as_fd()).map_err(io)? {
            return Ok(false);
        }
        let aside = format!("{REMOVED}{key}");
        let staging = &self.inner.staging;
        let renamed = renameat_with(
            self.layers(),
            key,
            staging,
            aside.as_str(),
            RenameFlags::NOREPLACE,
        );
        match renamed {
            Ok(()) => {}
            // Somebody is still erasing the last tree of this name.
            Err(Errno::EXIST) => return Ok(false),
            Err(error) => return Err(io(error)),
        }
        match unlinkat(&self.inner.records, record_name(key), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(io(error)),
        }
        drop(lock);
        let removed = staging.remove_all(&aside);
        removed.map_err(StoreError::tree("remove", &path))?;
        Ok(true)
    }

    /// Notes that a pull wants the layer now.
    pub(super) fn touch(&self, key: &str) {
        let now = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_NOW,
            },
        };
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        if let Err(error) = utimensat(&self.inner.records, record_name(key), &now, flags) {
            tracing::debug!(%error, key, "the use of a layer cannot be noted");
        }
    }

    fn last_used(&self, key: &str) -> Result<SystemTime, StoreError> {
        let name = record_name(key);
        let stat = match statat(&self.inner.records, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(SystemTime::UNIX_EPOCH),
            Err(error) => {
                let path = self.path("records").join(&name);
                return Err(StoreError::io("inspect", &path)(error.into()));
            }
        };
        let seconds = u64::try_from(stat.st_mtime).unwrap_or_default();
        let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or_default();
        Ok(SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds))
    }

    /// The layers that bundles use, those that are being made included.
    pub(super) fn in_use(&self) -> Result<InUse, StoreError> {
        let mut keys = HashSet::new();
        for id in self.list("overlay")? {
            match self.use_by(&id)? {
                Some(used) => keys.extend(used.layers),
                None => return Ok(InUse::Everything),
            }
        }
        Ok(InUse::These(keys))
    }

    /// The layers of the bundles that were handed out, as far as their records say.
    ///
    /// One that is being made names every layer that it may want, also those that are on their way.
    pub(super) fn delivered(&self) -> Result<HashSet<String>, StoreError> {
        let mut keys = HashSet::new();
        for id in self.list("overlay")? {
            let used = self.use_by(&id)?.filter(|used| used.is_delivered);
            keys.extend(used.into_iter().flat_map(|used| used.layers));
        }
        Ok(keys)
    }

    /// What the bundle `id` uses; nothing when it has no record; `None` when its record does not
    /// say.
    fn use_by(&self, id: &OsStr) -> Result<Option<Use>, StoreError> {
        #[derive(Deserialize)]
        struct AnyVersion {
            layers: Vec<String>,
        }
        let id = id.to_str().unwrap_or_default();
        let Some(text) = OverlayDirectory::read_text(self, id)? else {
            return Ok(Some(Use::default()));
        };
        let record: Option<AnyVersion> = serde_json::from_slice(&text).ok();
        Ok(record.map(|record| Use {
            layers: record.layers,
            is_delivered: says_delivered(&text),
        }))
    }
}

/// What one bundle uses.
#[derive(Default)]
struct Use {
    layers: Vec<String>,
    is_delivered: bool,
}

/// Which layers bundles use.
#[derive(Debug)]
pub(super) enum InUse {
    /// These and no others.
    These(HashSet<String>),
    /// There is a bundle of which nobody knows.
    Everything,
}

impl InUse {
    pub(super) fn has(&self, key: &str) -> bool {
        match self {
            Self::These(keys) => keys.contains(key),
            Self::Everything => true,
        }
    }
}

/// What [`rootfs::Staging::sweep`] takes for rubbish once it is unlocked.
const REMOVED: &str = "staging-removed-";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use policy::{Approved, Image};
    use serde_json::json;

    use super::*;
    use crate::store::fixture::{Fixture, fetch, file, image};
    use crate::store::{Finding, Problem, Progress};

    const EVERYTHING: Amount = Amount {
        bytes: u64::MAX,
        inodes: u64::MAX,
    };

    /// A store with an image of one layer for each name, used in this order.
    fn store_with(fixture: &Fixture, names: &[&str]) -> (Store, Vec<(Approved<Image>, String)>) {
        let store = fixture.store();
        let images = names.iter().enumerate().map(|(age, name)| {
            let tars = [file(name, &name.repeat(1000))];
            let image = image(&tars, &json!({}));
            let key = fetch(&store, &image, &tars)[0].key().to_owned();
            set_last_used(&fixture.work_dir(), &key, age);
            (image, key)
        });
        let images = images.collect();
        (store, images)
    }

    fn set_last_used(work_dir: &Path, key: &str, seconds: usize) {
        let record = std::fs::File::options()
            .write(true)
            .open(work_dir.join("records").join(record_name(key)))
            .unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap());
        record.set_modified(time).unwrap();
    }

    /// A bundle that is being made from `image`.
    fn reserve(store: &Store, image: &Approved<Image>) -> OverlayDirectory {
        let mut record = store.new_record().unwrap();
        record.layers = store.names_of(image).all().map(str::to_owned).collect();
        OverlayDirectory::create(store, &record).unwrap()
    }

    fn deliver(store: &Store, bundle: &OverlayDirectory, image: &Approved<Image>) {
        let mut record = store.new_record().unwrap();
        record.progress = Progress::Delivered;
        record.layers = image.layers().map(|it| store.key_of(&it, None)).collect();
        bundle.write(&record).unwrap();
    }

    #[test]
    fn the_layer_that_was_wanted_longest_ago_goes_first_and_none_without_need() {
        let fixture = Fixture::with_disk("size=1m");
        let (store, images) = store_with(&fixture, &["a", "b", "c"]);
        let keys: Vec<_> = images.iter().map(|(_, key)| key.clone()).collect();
        let listed = |store: &Store| -> Vec<_> {
            let listed = store.inventory().unwrap().into_iter();
            listed.map(|layer| layer.key).collect()
        };
        assert_eq!(listed(&store), keys);
        // A look is a use.
        let first = images[0].0.layers().next().unwrap();
        assert!(store.layer(&first, None).unwrap().is_some());
        let keys = [&keys[1], &keys[2], &keys[0]].map(Clone::clone);
        assert_eq!(listed(&store), keys);

        let free = store.free().unwrap();
        let nobody = HashSet::new();
        assert_eq!(store.collect(&nobody, free).unwrap().layers, 0);
        let more = Amount {
            bytes: free.bytes + 1,
            inodes: 0,
        };
        let collected = store.collect(&nobody, more).unwrap();
        assert_eq!((collected.layers, collected.amount.bytes), (1, 1000));
        assert_eq!(listed(&store), keys[1..]);
        let spared = HashSet::from([keys[1].clone()]);
        assert_eq!(store.collect(&spared, EVERYTHING).unwrap().layers, 1);
        assert_eq!(listed(&store), keys[1..2]);
        assert_eq!(fixture.list("staging"), [""; 0]);
        assert_eq!(fixture.list("records").len(), 1);
    }

    #[test]
    fn what_a_bundle_uses_or_is_about_to_use_stays() {
        let fixture = Fixture::new();
        let (store, images) = store_with(&fixture, &["a", "b"]);
        let held = reserve(&store, &images[0].0);
        let reclaimable = store.reclaimable(&HashSet::new()).unwrap();
        assert_eq!(reclaimable.bytes, 1000);
        let other_process = fixture.store();
        let nobody = HashSet::new();
        assert_eq!(
            other_process.collect(&nobody, EVERYTHING).unwrap().layers,
            1
        );
        assert_eq!(fixture.list("layers"), [images[0].1.as_str()]);
        assert!(store.inventory().unwrap()[0].is_used);
        assert_eq!(store.verify().unwrap(), (1, Vec::new()));
        drop(held);
        assert_eq!(store.collect(&nobody, EVERYTHING).unwrap().layers, 1);
        assert_eq!(fixture.list("layers"), [""; 0]);
    }

    #[test]
    fn a_bundle_of_which_nobody_knows_what_it_uses_keeps_everything() {
        let fixture = Fixture::new();
        let (store, images) = store_with(&fixture, &["a"]);
        let held = reserve(&store, &images[0].0);
        std::fs::write(held.path().join("record.json"), "{").unwrap();
        assert_eq!(
            store.collect(&HashSet::new(), EVERYTHING).unwrap().layers,
            0
        );
        assert_eq!(fixture.list("layers").len(), 1);
    }

    #[test]
    fn a_layer_that_cannot_be_erased_at_once_is_swept_later() {
        let fixture = Fixture::new();
        let (store, images) = store_with(&fixture, &["a"]);
        // What a process leaves that is killed while it erases.
        let (from, to) = (
            fixture.work_dir().join("layers"),
            fixture.work_dir().join("staging"),
        );
        let key = &images[0].1;
        std::fs::rename(from.join(key), to.join(format!("{REMOVED}{key}"))).unwrap();
        assert_eq!(store.recover().unwrap().staging_removed, 1);
        assert_eq!(fixture.list("staging"), [""; 0]);
        assert_eq!(fixture.list("records"), [""; 0]);
    }

    #[test]
    fn a_layer_whose_namesake_is_being_erased_stays() {
        let fixture = Fixture::new();
        let (store, images) = store_with(&fixture, &["a", "b"]);
        let aside = format!("{REMOVED}{}", images[0].1);
        let erasing = store.inner.staging.create_dir(aside.as_str()).unwrap();
        assert!(try_lock(erasing.as_fd()).unwrap());
        let collected = store.collect(&HashSet::new(), EVERYTHING).unwrap();
        assert_eq!(collected.layers, 1);
        assert_eq!(fixture.list("layers"), [images[0].1.as_str()]);
    }

    #[test]
    fn a_look_at_the_store_sees_no_layer_half_removed() {
        let fixture = Fixture::new();
        let store = fixture.store();
        let tars = [file("a", "text")];
        let image = image(&tars, &json!({}));
        std::thread::scope(|threads| {
            let coming_and_going = threads.spawn(|| {
                for _ in 0..200 {
                    fetch(&store, &image, &tars);
                    store.collect(&HashSet::new(), EVERYTHING).unwrap();
                }
            });
            while !coming_and_going.is_finished() {
                let (_count, findings) = store.verify().unwrap();
                assert_eq!(findings, []);
                assert!(
                    store
                        .inventory()
                        .unwrap()
                        .iter()
                        .all(|it| it.proved.is_some())
                );
            }
        });
    }

    #[test]
    fn what_does_not_fit_the_records_is_found() {
        let fixture = Fixture::new();
        let (store, images) = store_with(&fixture, &["a", "b", "c", "d"]);
        let layers = fixture.work_dir().join("layers");
        let keys: Vec<_> = images.iter().map(|(_, key)| key.as_str()).collect();
        std::fs::write(layers.join(keys[0]).join("a"), "x".repeat(1001)).unwrap();
        for name in ["b", "c", "d", "e"] {
            std::fs::create_dir(layers.join(keys[1]).join(format!("more-{name}"))).unwrap();
        }
        let record = fixture
            .work_dir()
            .join("records")
            .join(record_name(keys[2]));
        std::fs::remove_file(record).unwrap();
        let held = reserve(&store, &images[3].0);
        std::fs::remove_dir_all(layers.join(keys[3])).unwrap();
        // A bundle that is being made may miss what is on its way.
        let is_missing = |finding: &Finding| finding.problem == Problem::Missing;
        assert!(!store.verify().unwrap().1.iter().any(is_missing));
        deliver(&store, &held, &images[3].0);
        let (count, findings) = store.verify().unwrap();
        assert_eq!(count, 3);
        let problem = |key: &str| {
            let finding = findings.iter().find(|finding| finding.key == key);
            finding.unwrap().problem.to_string()
        };
        for (key, text) in [
            (keys[0], " 1001 bytes in 1 entries are there"),
            (keys[1], " 1000 bytes in 5 entries are there"),
            (keys[2], "no record proves it"),
            (keys[3], "a bundle uses it and it is not there"),
        ] {
            let problem = problem(key);
            assert!(problem.ends_with(text), "{problem}");
        }
        assert!(
            findings
                .iter()
                .any(|finding| finding.problem == Problem::Unproved)
        );
    }
}
