//! A bundle: `rootfs`, where the layers of an approved image are mounted, and `config.json`.
//!
//! Until a bundle is delivered, whatever was made for it is held by values that take it away again
//! when they are dropped; what a killed process leaves behind, [`Store::recover`] takes away.

mod flatten;
mod inherit;
mod path;
mod place;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use policy::{Approved, Image};
use rootfs::Dir;
use rustix::fs::{fgetxattr, fstatvfs};
use rustix::io::Errno;

use self::flatten::Content;
use self::inherit::{Layers, is_inheritable};
pub(crate) use self::path::{BundlePath, BundlePathError};
use self::place::Place;
pub(crate) use self::place::remove_half_made;
use crate::config::StoreSettings;
use crate::error::chain;
use crate::handle::{is_disk_full, is_empty, open_directory};
use crate::mount::{Attached, Detached, FITTING, Lower, MountError, Overlay, Writable};
use crate::mountinfo::COPY;
use crate::record::Record;
use crate::spec::{Spec, SpecError};
use crate::store::{
    BundleRecord, ChainId, OverlayDirectory, Progress, Store, StoreError, StoredLayer,
    copy_attributes, link_tree,
};
use crate::user::{self, UserError};

/// A bundle to be. As long as it lives nobody removes the layers of its image from the store.
#[derive(Debug)]
#[must_use]
pub(crate) struct Reservation {
    overlay: OverlayDirectory,
    record: BundleRecord,
}

/// A mounted bundle, taken down when it is dropped without having been delivered.
#[derive(Debug)]
#[must_use]
pub(crate) struct Bundle {
    // In the order in which they must go.
    mounted: Attached,
    place: Place,
    overlay: OverlayDirectory,
    record: BundleRecord,
}

/// Why there is no bundle. In-guest paths are in fields of their own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The caller's fault: no bundle can be there.
    #[error(transparent)]
    Path(#[from] BundlePathError),

    /// The caller's fault, or an earlier call was answered after all.
    #[error("{} holds a bundle already: it has a {what}", path.display())]
    Exists {
        /// The bundle's directory.
        path: PathBuf,
        /// `config.json` or `rootfs`.
        what: &'static str,
    },

    /// The caller's fault: another call is making a bundle there.
    #[error("another bundle is being made in {}", path.display())]
    Busy {
        /// The bundle's directory.
        path: PathBuf,
    },

    /// The guest is too small for the image, or other things fill it.
    #[error("no space left in {}", path.display())]
    DiskFull {
        /// The file or directory that was being written.
        path: PathBuf,
    },

    /// The kernel will not mount the layers.
    #[error("mount of {layers} layers")]
    Mount {
        /// The number of layers.
        layers: usize,
        /// Why not.
        source: MountError,
    },

    /// The image's fault: its user cannot be resolved.
    #[error("user of the image")]
    User(#[source] UserError),

    /// The image's fault: its config makes no runtime configuration.
    #[error("runtime configuration")]
    Spec(#[source] SpecError),

    /// A runtime configuration or a decision cannot be written as JSON: a defect.
    #[error("JSON")]
    Json(#[source] serde_json::Error),

    /// The layers handed in are not those of the image: a defect.
    #[error("layer {index} is not the one of the image, which has {count}")]
    WrongLayer {
        /// Which one, from 0 at the bottom.
        index: usize,
        /// How many layers the image has.
        count: usize,
    },

    /// The store cannot be used.
    #[error("store")]
    Store(#[source] StoreError),

    /// A file system does not do what is needed.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why it did not work.
        source: io::Error,
    },
}

/// Refuses what [`assemble`] would refuse about `path`, before anything is fetched for it.
pub(crate) fn preflight(store: &Store, path: &BundlePath) -> Result<(), BundleError> {
    place::preflight(path, store.root())
}

/// Writes down, before they are looked for, that the layers of `image` are wanted for a bundle at
/// `path`. The `decision` is kept with that.
pub(crate) fn reserve(
    store: &Store,
    image: &Approved<Image>,
    path: &BundlePath,
    decision: &Record,
) -> Result<Reservation, BundleError> {
    let mut record = store.new_record().map_err(store_error)?;
    path.as_path().clone_into(&mut record.bundle);
    record.manifest_digest = image.manifest_digest().to_string();
    record.layers = store.names_of(image).all().map(str::to_owned).collect();
    record.decision = serde_json::to_value(decision).map_err(BundleError::Json)?;
    let overlay = OverlayDirectory::create(store, &record).map_err(store_error)?;
    Ok(Reservation { overlay, record })
}

/// Mounts `layers`, which are those of `image` bottom first, at `<path>/rootfs`, and writes
/// `<path>/config.json`.
///
/// Every layer has to be the one that `image` names by blob digest and `diff_id`.
pub(crate) fn assemble(
    reservation: Reservation,
    image: &Approved<Image>,
    layers: &[StoredLayer],
    path: &BundlePath,
    settings: StoreSettings,
) -> Result<Bundle, BundleError> {
    let Reservation {
        overlay,
        mut record,
    } = reservation;
    let store = overlay.store().clone();
    check_layers(&store, image, layers)?;
    let walk = path.walk(store.root())?;
    record.made = walk.to_make();
    record.layers = layers.iter().map(|layer| layer.key().to_owned()).collect();
    overlay.write(&record).map_err(store_error)?;
    let mut place = Place::make(path, walk)?;
    let detached = mount(&store, &overlay, layers, settings)?;
    let user = user::resolve(&image.config().config.user, detached.root());
    let user = user.map_err(BundleError::User)?;
    let spec = Spec::new(image.config(), user).map_err(BundleError::Spec)?;
    let spec = serde_json::to_vec_pretty(&spec).map_err(BundleError::Json)?;
    place.write_config(&spec, |config| {
        record.config = Some(config);
        overlay.write(&record).map_err(store_error)
    })?;
    let mounted = detached
        .attach(place.rootfs())
        .map_err(mount_error(&overlay, layers.len()))?;
    Ok(Bundle {
        mounted,
        place,
        overlay,
        record,
    })
}

impl Bundle {
    /// Hands the bundle over: from here on it stays, whatever becomes of this process.
    pub(crate) fn deliver(mut self) -> Result<(), BundleError> {
        self.record.progress = Progress::Delivered;
        self.overlay.write(&self.record).map_err(store_error)?;
        let Self {
            mounted,
            place,
            overlay,
            record: _,
        } = self;
        mounted.keep();
        place.keep();
        overlay.keep();
        Ok(())
    }
}

impl BundleError {
    /// Whether there was no space left for it.
    pub(crate) fn is_disk_full(&self) -> bool {
        match self {
            Self::DiskFull { .. } => true,
            Self::Store(source) => source.is_disk_full(),
            _ => false,
        }
    }

    fn io<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Self + use<'a> {
        move |source| {
            let path = path.to_owned();
            if is_disk_full(&source) {
                Self::DiskFull { path }
            } else {
                Self::Io {
                    action,
                    path,
                    source,
                }
            }
        }
    }
}

fn store_error(error: StoreError) -> BundleError {
    match error {
        StoreError::DiskFull { path } => BundleError::DiskFull { path },
        other => BundleError::Store(other),
    }
}

fn check_layers(
    store: &Store,
    image: &Approved<Image>,
    layers: &[StoredLayer],
) -> Result<(), BundleError> {
    let expected = image.layers();
    let count = expected.len();
    if layers.len() != count {
        return Err(BundleError::WrongLayer {
            index: layers.len().min(count),
            count,
        });
    }
    let chains = ChainId::below_each(image);
    for (index, ((stored, layer), chain)) in layers.iter().zip(expected).zip(&chains).enumerate() {
        if !store.is_tree_of(stored, &layer, chain.as_ref()) {
            return Err(BundleError::WrongLayer { index, count });
        }
    }
    Ok(())
}

fn mount(
    store: &Store,
    directory: &OverlayDirectory,
    layers: &[StoredLayer],
    settings: StoreSettings,
) -> Result<Detached, BundleError> {
    let mut stack = Stack::new(store, directory, layers)?;
    let upper = directory.directory(UPPER).map_err(store_error)?;
    let work = directory.directory("work").map_err(store_error)?;
    let upper_path = directory.path().join(UPPER);
    stack.visible.inherit(upper.as_fd(), &upper_path)?;
    // Last, since what is made inside changes its times.
    stack.copy_root_attributes(layers, upper.as_fd(), &upper_path)?;
    let writable = Writable {
        upper: upper.as_fd(),
        work: work.as_fd(),
        volatile: settings.volatile,
    };
    match stack.mount(Some(writable)) {
        Err(BundleError::Mount { source, .. }) if settings.copy_without_overlay => {
            let error = chain(&source);
            tracing::warn!(
                error,
                "no overlay can be mounted, so that the layers are copied"
            );
            stack.copy(layers)
        }
        mounted => mounted,
    }
}

/// What some layers of an image show together, for as long as it lives; nothing can be changed.
#[derive(Debug)]
pub(crate) struct View {
    // In the order in which they must go.
    root: Dir,
    _directory: OverlayDirectory,
}

impl View {
    /// What `layers` show, which are bottom first and the first of any image.
    pub(crate) fn of(store: &Store, layers: &[StoredLayer]) -> Result<Self, BundleError> {
        let mut record = store.new_record().map_err(store_error)?;
        record.layers = layers.iter().map(|layer| layer.key().to_owned()).collect();
        let directory = OverlayDirectory::create(store, &record).map_err(store_error)?;
        let root = Self::mount(store, &directory, layers)?;
        Ok(Self {
            root,
            _directory: directory,
        })
    }

    /// The root of what they show.
    pub(crate) fn root(&self) -> &Dir {
        &self.root
    }

    fn mount(
        store: &Store,
        directory: &OverlayDirectory,
        layers: &[StoredLayer],
    ) -> Result<Dir, BundleError> {
        let mut stack = Stack::new(store, directory, layers)?;
        let open = |error: io::Error| BundleError::io("open", &directory.path())(error);
        if let [lower] = stack.lowers().as_slice() {
            // An overlay without a writable part has at least two.
            let tree = open_directory(lower.parent, lower.name);
            return tree.map(Dir::from).map_err(|error| open(error.into()));
        }
        match stack.mount(None) {
            Ok(detached) => {
                let root = detached.root().try_clone_to_owned().map_err(open)?;
                Ok(Dir::from(root))
            }
            // Where nothing is written, links are as good as an overlay and cost little.
            Err(BundleError::Mount { .. }) => stack.link().map(Dir::from),
            Err(error) => Err(error),
        }
    }
}

/// The directories to mount, topmost first.
struct Stack<'a> {
    visible: Layers<'a>,
    directory: &'a OverlayDirectory,
    levels: Vec<Level<'a>>,
}

enum Level<'a> {
    /// A tree of the store.
    Stored(&'a str),
    /// A directory of the bundle's own.
    Own(String),
}

impl<'a> Stack<'a> {
    /// One directory for each layer that makes a difference.
    fn new(
        store: &'a Store,
        directory: &'a OverlayDirectory,
        layers: &'a [StoredLayer],
    ) -> Result<Self, BundleError> {
        let visible = Layers {
            store,
            layers: Vec::new(),
        };
        let mut stack = Self {
            visible,
            directory,
            levels: Vec::new(),
        };
        let mut seen: Vec<&str> = Vec::new();
        for layer in layers.iter().rev() {
            let tree = stack.open(layer)?;
            let is_empty = is_empty(tree.as_fd()).map_err(stack.io("list", layer))?;
            // The same layer twice in a row is that layer once.
            if !is_empty && seen.last() != Some(&layer.key()) {
                stack.add(layer, tree.as_fd(), seen.contains(&layer.key()))?;
                seen.push(layer.key());
                stack.visible.layers.push(layer);
            }
            // overlayfs does not look for this mark on the root of a layer.
            if is_opaque(tree.as_fd()).map_err(stack.io("read the attributes of", layer))? {
                break;
            }
        }
        if stack.levels.is_empty() {
            directory.directory(EMPTY).map_err(store_error)?;
            stack.levels.push(Level::Own(EMPTY.to_owned()));
        }
        Ok(stack)
    }

    fn add(
        &mut self,
        layer: &'a StoredLayer,
        tree: BorrowedFd<'_>,
        is_repeated: bool,
    ) -> Result<(), BundleError> {
        if is_repeated {
            let name = format!("copy-{}", self.levels.len());
            link_tree(tree, self.directory.handle(), &name)
                .map_err(self.io("make a second copy of", layer))?;
            self.levels.push(Level::Own(name));
        } else {
            self.levels.push(Level::Stored(layer.key()));
        }
        Ok(())
    }

    /// Mounts an overlay of them.
    fn mount(&mut self, writable: Option<Writable<'_>>) -> Result<Detached, BundleError> {
        self.directory.directory(SCRATCH).map_err(store_error)?;
        let mut mounted = self.try_to_mount(writable);
        if matches!(mounted, Err(MountError::TooManyLayers { .. })) {
            self.merge_down(FITTING)?;
            mounted = self.try_to_mount(writable);
        }
        mounted.map_err(mount_error(self.directory, self.levels.len()))
    }

    fn try_to_mount(&self, writable: Option<Writable<'_>>) -> Result<Detached, MountError> {
        let source = self.directory.mount_source();
        let overlay = Overlay {
            source: &source,
            lowers: &self.lowers(),
            writable,
        };
        overlay.mount(&Lower {
            parent: self.directory.handle(),
            name: SCRATCH,
        })
    }

    /// Makes one directory of so many of the lowest layers that there are `count`.
    fn merge_down(&mut self, count: usize) -> Result<(), BundleError> {
        let kept = count.saturating_sub(1);
        let merged = self.directory.directory(MERGED).map_err(store_error)?;
        let path = self.directory.path().join(MERGED);
        let layers = self.visible.layers.get(kept..).unwrap_or_default().to_vec();
        let lowest = Layers {
            store: self.visible.store,
            layers,
        };
        lowest.flatten(merged.as_fd(), &path, Content::Linked)?;
        self.levels.truncate(kept);
        self.levels.push(Level::Own(MERGED.to_owned()));
        Ok(())
    }

    /// Makes a directory of links to what they show together, for whoever only looks at it.
    fn link(&self) -> Result<OwnedFd, BundleError> {
        let linked = self.directory.directory(LINKED).map_err(store_error)?;
        let path = self.directory.path().join(LINKED);
        self.visible
            .flatten(linked.as_fd(), &path, Content::Linked)?;
        Ok(linked)
    }

    /// Mounts a copy of what they show together, which is as good as an overlay of them to whoever
    /// uses it, but takes time and room.
    fn copy(&self, layers: &[StoredLayer]) -> Result<Detached, BundleError> {
        let copy = self.directory.directory(COPY).map_err(store_error)?;
        let path = self.directory.path().join(COPY);
        self.visible.flatten(copy.as_fd(), &path, Content::Copied)?;
        self.copy_root_attributes(layers, copy.as_fd(), &path)?;
        let tree = Lower {
            parent: self.directory.handle(),
            name: COPY,
        };
        Detached::directory(&tree).map_err(mount_error(self.directory, self.levels.len()))
    }

    fn lowers(&self) -> Vec<Lower<'_>> {
        let stored = self.visible.store.layers();
        let own = self.directory.handle();
        let levels = self.levels.iter();
        levels
            .map(|level| match level {
                Level::Stored(name) => Lower {
                    parent: stored,
                    name,
                },
                Level::Own(name) => Lower { parent: own, name },
            })
            .collect()
    }

    /// The root of an overlay has the attributes of the upper directory, so that gets those of the
    /// topmost layer that says what the root is like.
    fn copy_root_attributes(
        &self,
        layers: &[StoredLayer],
        upper: BorrowedFd<'_>,
        path: &Path,
    ) -> Result<(), BundleError> {
        let Some(layer) = layers.iter().rev().find(|layer| layer.has_root_entry()) else {
            let mode = rustix::fs::Mode::from_raw_mode(0o755);
            return rustix::fs::fchmod(upper, mode)
                .map_err(|error| BundleError::io("change the mode of", path)(error.into()));
        };
        let tree = self.open(layer)?;
        copy_attributes(tree.as_fd(), upper, is_inheritable)
            .map_err(self.io("copy the attributes of", layer))
    }

    fn open(&self, layer: &StoredLayer) -> Result<OwnedFd, BundleError> {
        open_directory(self.visible.store.layers(), layer.key()).map_err(self.io("open", layer))
    }

    fn io(&self, action: &'static str, layer: &StoredLayer) -> impl FnOnce(Errno) -> BundleError {
        let path = self.visible.store.layer_path(layer);
        move |error| BundleError::io(action, &path)(error.into())
    }
}

/// Whether whatever lies below the layer is hidden.
pub(crate) fn is_opaque(tree: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut value = [0_u8; 1];
    match fgetxattr(tree, "trusted.overlay.opaque", &mut value[..]) {
        Ok(_) => Ok(value == *b"y"),
        Err(Errno::NODATA) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A mount that did not work for want of space says so in one way or another.
fn mount_error(
    directory: &OverlayDirectory,
    layers: usize,
) -> impl FnOnce(MountError) -> BundleError + use<'_> {
    move |source| {
        let is_full = || {
            fstatvfs(directory.handle()).is_ok_and(|disk| disk.f_bavail == 0 || disk.f_favail == 0)
        };
        if source.is_disk_full() || (matches!(source, MountError::ReadOnly) && is_full()) {
            return BundleError::DiskFull {
                path: directory.path(),
            };
        }
        BundleError::Mount { layers, source }
    }
}

const UPPER: &str = "upper";

const SCRATCH: &str = "scratch";

const MERGED: &str = "merged";

const LINKED: &str = "linked";

const EMPTY: &str = "empty";

#[cfg(test)]
mod tests;
