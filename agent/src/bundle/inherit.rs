//! Directories that a layer needs but does not describe.
//!
//! A layer that brings nothing but `data/x` implies `data`, and its tree has that with mode 0755
//! and owner 0:0. overlayfs shows a directory with the attributes of the topmost one of its name,
//! and those would cover whatever a lower layer says of `data`: that it is private, for one. The
//! upper directory of the bundle lies above all layers, so `data` is made there with the attributes
//! that belong to it.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{Mode, mkdirat};
use rustix::io::Errno;

use super::{BundleError, is_opaque};
use crate::handle::open_directory;
use crate::store::{Store, StoredLayer, copy_attributes, open_within};

/// The layers of a bundle that can be seen in its mount, topmost first.
pub(super) struct Layers<'a> {
    pub(super) store: &'a Store,
    pub(super) layers: Vec<&'a StoredLayer>,
}

impl Layers<'_> {
    /// Makes every implied directory in `upper`, which is empty, that a lower layer describes.
    ///
    /// `upper_path` is for messages.
    pub(super) fn inherit(
        &self,
        upper: BorrowedFd<'_>,
        upper_path: &Path,
    ) -> Result<(), BundleError> {
        let inherited = self.inherited()?;
        for directory in &inherited {
            make(upper, directory.path).map_err(io("make", upper_path, directory.path))?;
        }
        // Only now, since an attribute like a default access control list would pass on to what is
        // made inside.
        for directory in &inherited {
            let from = self.open(directory.giver, directory.path)?;
            open_directory(upper, OsStr::from_bytes(directory.path))
                .and_then(|to| copy_attributes(from.as_fd(), to.as_fd(), is_inheritable))
                .map_err(io("set the attributes of", upper_path, directory.path))?;
        }
        Ok(())
    }

    /// The directories whose attributes would be covered, and those on the way to them.
    fn inherited(&self) -> Result<Vec<Inherited<'_>>, BundleError> {
        let mut inherited = Vec::new();
        let mut way = vec![Step {
            path: b"",
            visible: self.layers.clone(),
            giver: None,
            is_made: true,
        }];
        for path in self.implied_paths() {
            self.go(&mut way, path)?;
            if !way.last().is_some_and(|step| step.is_covered(path)) {
                continue;
            }
            for step in way.iter_mut().filter(|step| !step.is_made) {
                if let Some(giver) = step.giver.or_else(|| step.visible.first().copied()) {
                    let path = step.path;
                    inherited.push(Inherited { path, giver });
                    step.is_made = true;
                }
            }
        }
        Ok(inherited)
    }

    /// What any layer implies below its root, every directory right before what is in it.
    fn implied_paths(&self) -> Vec<&[u8]> {
        let paths = self.layers.iter().flat_map(|layer| layer.implied().paths());
        let mut paths: Vec<_> = paths.filter(|path| !path.is_empty()).collect();
        // By components: as bytes, `a-b` would come between `a` and `a/b`.
        paths.sort_by(|one, other| components(one).cmp(components(other)));
        paths.dedup();
        paths
    }

    /// Goes back as far as `path` lies beneath and on towards it, as long as several layers are
    /// visible: where there is one, nothing covers anything.
    fn go<'a>(&'a self, way: &mut Vec<Step<'a>>, path: &'a [u8]) -> Result<(), BundleError> {
        while way.last().is_some_and(|step| !is_beneath(path, step.path)) {
            way.pop();
        }
        let done = way.last().map_or(0, |step| step.path.len());
        for prefix in prefixes(path).filter(|prefix| prefix.len() > done) {
            let Some(above) = way.last().filter(|step| step.visible.len() > 1) else {
                break;
            };
            let step = self.step(prefix, &above.visible)?;
            way.push(step);
        }
        Ok(())
    }

    fn step<'a>(&self, path: &'a [u8], above: &[&'a StoredLayer]) -> Result<Step<'a>, BundleError> {
        let visible = self.visible(path, above)?;
        Ok(Step {
            path,
            giver: visible.iter().copied().find(|layer| describes(layer, path)),
            visible,
            is_made: false,
        })
    }

    /// Looks for the directory at `path` in those layers in which the one above it is visible, as
    /// overlayfs does: where it is visible, topmost first.
    pub(super) fn visible<'l>(
        &self,
        path: &[u8],
        above: &[&'l StoredLayer],
    ) -> Result<Vec<&'l StoredLayer>, BundleError> {
        let mut visible = Vec::new();
        for layer in above {
            let directory = match self.try_to_open(layer, path) {
                Ok(directory) => directory,
                Err(Errno::NOENT) => continue,
                // A whiteout, a file or a link: what lies below is hidden.
                Err(Errno::NOTDIR | Errno::LOOP) => break,
                Err(error) => return Err(self.io("open", layer, path)(error)),
            };
            visible.push(*layer);
            let inspect = self.io("read the attributes of", layer, path);
            if is_opaque(directory.as_fd()).map_err(inspect)? {
                break;
            }
        }
        Ok(visible)
    }

    pub(super) fn open(&self, layer: &StoredLayer, path: &[u8]) -> Result<OwnedFd, BundleError> {
        self.try_to_open(layer, path)
            .map_err(self.io("open", layer, path))
    }

    fn try_to_open(&self, layer: &StoredLayer, path: &[u8]) -> Result<OwnedFd, Errno> {
        let (trees, path) = (self.store.layers(), Path::new(OsStr::from_bytes(path)));
        // At once where that is not too long: there may be many layers and many paths.
        match open_directory(trees, Path::new(layer.key()).join(path)) {
            Err(Errno::NAMETOOLONG) => {
                open_within(open_directory(trees, layer.key())?.as_fd(), path)
            }
            opened => opened,
        }
    }

    pub(super) fn io(
        &self,
        action: &'static str,
        layer: &StoredLayer,
        path: &[u8],
    ) -> impl FnOnce(Errno) -> BundleError + use<> {
        io(action, &self.store.layer_path(layer), path)
    }
}

/// A directory to be made, after those that it is in.
struct Inherited<'a> {
    path: &'a [u8],
    /// The layer whose directory has the attributes.
    giver: &'a StoredLayer,
}

/// A directory on the way from the root.
struct Step<'a> {
    path: &'a [u8],
    /// The layers whose directory of this name is visible, topmost first.
    visible: Vec<&'a StoredLayer>,
    /// The topmost of them that has an entry for it.
    giver: Option<&'a StoredLayer>,
    is_made: bool,
}

impl Step<'_> {
    /// Whether this is `path`, and a layer covers what the giver says of it.
    fn is_covered(&self, path: &[u8]) -> bool {
        let top = self.visible.first().map(|layer| layer.key());
        self.path == path && self.giver.is_some_and(|giver| top != Some(giver.key()))
    }
}

/// Whose attributes the directory at `path` has, of the layers in which it is visible.
pub(super) fn giver<'l>(visible: &[&'l StoredLayer], path: &[u8]) -> Option<&'l StoredLayer> {
    let giver = visible.iter().find(|layer| describes(layer, path));
    giver.or_else(|| visible.first()).copied()
}

/// Whether the layer has an entry for the directory at `path`, which it has.
fn describes(layer: &StoredLayer, path: &[u8]) -> bool {
    !layer.implied().contains(path)
}

/// What steers overlayfs belongs to one layer.
pub(super) fn is_inheritable(attribute: &[u8]) -> bool {
    !attribute.starts_with(b"trusted.overlay.")
}

fn make(upper: BorrowedFd<'_>, path: &[u8]) -> Result<(), Errno> {
    let path = Path::new(OsStr::from_bytes(path));
    let name = path.file_name().ok_or(Errno::INVAL)?;
    match path.parent().filter(|parent| *parent != Path::new("")) {
        Some(parent) => mkdirat(open_directory(upper, parent)?, name, Mode::RWXU),
        None => mkdirat(upper, name, Mode::RWXU),
    }
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
}

fn is_beneath(path: &[u8], directory: &[u8]) -> bool {
    let rest = path.strip_prefix(directory);
    directory.is_empty() || rest.is_some_and(|rest| rest.starts_with(b"/"))
}

/// The path's first component, its first two, and so on.
fn prefixes(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    slashes
        .filter_map(|(index, _)| path.get(..index))
        .chain(std::iter::once(path))
}

pub(super) fn io(
    action: &'static str,
    tree: &Path,
    path: &[u8],
) -> impl FnOnce(Errno) -> BundleError + use<> {
    let path = tree.join(OsStr::from_bytes(path));
    move |error| BundleError::io(action, &path)(error.into())
}
