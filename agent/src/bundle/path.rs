//! Where a bundle goes. The path comes from the untrusted host, by way of the runtime's agent.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, openat, statat, unlinkat};
use rustix::io::Errno;

use super::BundleError;
use crate::handle::{FileId, open_directory};
use crate::mountinfo::{self, mount_id};
use crate::spec::ROOTFS;
use crate::store::StoreError;

/// A path at which a bundle may be made, as far as its text tells.
///
/// Links, mounts and what exists are looked at when the bundle is made, by handle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BundlePath {
    path: PathBuf,
    components: Vec<String>,
}

/// Why a path can hold no bundle. In-guest paths are in fields of their own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundlePathError {
    /// The caller's fault: relative to nothing that we know.
    #[error("{} is not absolute", path.display())]
    NotAbsolute {
        /// The path as given.
        path: PathBuf,
    },

    /// The caller's fault: `.` and `..` have no place in the name of a directory.
    #[error("{} has a component `{component}`", path.display())]
    NotPlain {
        /// The path as given.
        path: PathBuf,
        /// `.` or `..`.
        component: &'static str,
    },

    /// The caller's fault: not UTF-8, or a NUL in it.
    #[error("{} is no text", path.display())]
    NotText {
        /// The path as given.
        path: PathBuf,
    },

    /// The caller's fault: longer than the kernel's paths.
    #[error("{length} bytes are too long for a path: at most {MAX_PATH} are possible")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },

    /// The caller's fault: deeper than any runtime puts a bundle. A handle is held open for each
    /// component.
    #[error(
        "{components} components are too many for the path of a bundle: at most {MAX_COMPONENTS} are possible"
    )]
    TooDeep {
        /// How many there are.
        components: usize,
    },

    /// The caller's fault, or a trap: a symbolic link leads elsewhere than the name says.
    #[error("{} is a symbolic link", component.display())]
    Link {
        /// The path up to the link.
        component: PathBuf,
    },

    /// The caller's fault: a file is where a directory has to be.
    #[error("{} is not a directory", component.display())]
    NotDirectory {
        /// The path up to the file.
        component: PathBuf,
    },

    /// The caller's fault: a bundle there could replace layers of other images.
    #[error("{} is the work directory or inside it", path.display())]
    InWorkDirectory {
        /// The path as given.
        path: PathBuf,
    },

    /// The caller's fault: a bundle there would be part of the container of another.
    #[error("{} is the root file system of a bundle", component.display())]
    InBundle {
        /// The path up to where the other bundle is mounted.
        component: PathBuf,
    },

    /// The caller's fault: a bundle there would contain the layers of all images.
    #[error("{} contains the work directory", path.display())]
    AroundWorkDirectory {
        /// The path as given.
        path: PathBuf,
    },
}

impl BundlePath {
    /// Accepts an absolute path of plain components, neither inside `work_dir` nor around it.
    pub(crate) fn parse(path: &Path, work_dir: &Path) -> Result<Self, BundleError> {
        let components = components(path)?;
        let plain: PathBuf = std::iter::once("/")
            .chain(components.iter().map(String::as_str))
            .collect();
        if plain.starts_with(work_dir) {
            return Err(BundlePathError::InWorkDirectory { path: plain }.into());
        }
        if work_dir.starts_with(&plain) {
            return Err(BundlePathError::AroundWorkDirectory { path: plain }.into());
        }
        Ok(Self {
            path: plain,
            components,
        })
    }

    /// The path, without doubled or trailing slashes.
    pub(crate) fn as_path(&self) -> &Path {
        &self.path
    }

    /// Opens as much of the path as exists. Nothing is made.
    pub(crate) fn walk(&self, work_dir: BorrowedFd<'_>) -> Result<Walk, BundleError> {
        let inspect = |error: Errno| BundleError::io("inspect", &self.path)(error.into());
        let work_dir_id = FileId::of(work_dir).map_err(inspect)?;
        let mut walk = Walk::from_root().map_err(inspect)?;
        let mut mount = mount_id(walk.deepest()).map_err(inspect)?;
        for (depth, component) in self.components.iter().enumerate() {
            match open_directory(walk.deepest(), component) {
                Ok(next) => walk.steps.push((component.clone(), next)),
                Err(Errno::NOENT) => {
                    walk.missing = self.components.iter().skip(depth).cloned().collect();
                    return Ok(walk);
                }
                Err(error) => return Err(step_error(error, &walk, component)),
            }
            let id = mount_id(walk.deepest()).map_err(inspect)?;
            if id != mount && is_bundle(id)? {
                let component = walk.path();
                return Err(BundlePathError::InBundle { component }.into());
            }
            mount = id;
            if FileId::of(walk.deepest()).map_err(inspect)? == work_dir_id {
                return Err(BundlePathError::InWorkDirectory {
                    path: self.path.clone(),
                }
                .into());
            }
        }
        if is_above(walk.deepest(), work_dir).map_err(inspect)? {
            return Err(BundlePathError::AroundWorkDirectory {
                path: self.path.clone(),
            }
            .into());
        }
        Ok(walk)
    }
}

/// A path as far as it exists: an open handle for each of its directories.
#[derive(Debug)]
pub(crate) struct Walk {
    root: OwnedFd,
    steps: Vec<(String, OwnedFd)>,
    missing: Vec<String>,
}

impl Walk {
    fn from_root() -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, "/", flags, Mode::empty())?;
        Ok(Self {
            root,
            steps: Vec::new(),
            missing: Vec::new(),
        })
    }

    /// The last directory that exists.
    pub(crate) fn deepest(&self) -> BorrowedFd<'_> {
        self.steps
            .last()
            .map_or_else(|| self.root.as_fd(), |(_, handle)| handle.as_fd())
    }

    /// The path of [`Walk::deepest`], for messages.
    pub(crate) fn path(&self) -> PathBuf {
        std::iter::once("/")
            .chain(self.steps.iter().map(|(name, _)| name.as_str()))
            .collect()
    }

    /// How many of the components of `<bundle>/rootfs` an assembly has to make.
    pub(crate) fn to_make(&self) -> usize {
        let has_rootfs = self.missing.is_empty()
            && statat(self.deepest(), ROOTFS, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        self.missing.len() + usize::from(!has_rootfs)
    }

    /// The components that do not exist, outermost first.
    pub(crate) fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Goes on to `name`, which was just made or found in [`Walk::deepest`].
    pub(crate) fn enter(&mut self, name: &str, handle: OwnedFd) {
        self.steps.push((name.to_owned(), handle));
    }

    /// Removes up to `count` directories from the deepest upwards, and stops at the first that is
    /// not empty.
    pub(crate) fn remove_empty(&mut self, count: usize) {
        for _ in 0..count {
            let Some((name, handle)) = self.steps.pop() else {
                return;
            };
            drop(handle);
            if let Err(error) = unlinkat(self.deepest(), &name, AtFlags::REMOVEDIR) {
                tracing::debug!(%error, "a directory of a half-made bundle stays");
                return;
            }
        }
    }
}

/// Why there is no way on from `walk` to `name`.
pub(super) fn step_error(error: Errno, walk: &Walk, name: &str) -> BundleError {
    let component = walk.path().join(name);
    // O_DIRECTORY on a link gives ENOTDIR or ELOOP, as the kernel pleases.
    let is_link = statat(walk.deepest(), name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
    match error {
        Errno::LOOP | Errno::NOTDIR if is_link => BundlePathError::Link { component }.into(),
        Errno::NOTDIR => BundlePathError::NotDirectory { component }.into(),
        error => BundleError::io("open", &component)(error.into()),
    }
}

/// Whether the mount is the root file system of a bundle.
fn is_bundle(id: u64) -> Result<bool, BundleError> {
    let mounts =
        mountinfo::read().map_err(|error| BundleError::Store(StoreError::Mounts(error)))?;
    let mut mounts = mounts.iter();
    Ok(mounts.any(|mount| mount.id == id && mount.bundle().is_some()))
}

/// Whether `directory` is `inner` or one of the directories above it, whatever names lead there.
fn is_above(directory: BorrowedFd<'_>, inner: BorrowedFd<'_>) -> Result<bool, Errno> {
    let wanted = FileId::of(directory)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut current = openat(inner, ".", flags, Mode::empty())?;
    let mut id = FileId::of(current.as_fd())?;
    while id != wanted {
        let above = openat(&current, "..", flags, Mode::empty())?;
        let above_id = FileId::of(above.as_fd())?;
        // Only the root directory is its own parent.
        if above_id == id {
            return Ok(false);
        }
        (current, id) = (above, above_id);
    }
    Ok(true)
}

/// The components of a plain absolute path.
fn components(path: &Path) -> Result<Vec<String>, BundlePathError> {
    let owned = || path.to_owned();
    let text = path.to_str().filter(|text| !text.contains('\0'));
    let text = text.ok_or_else(|| BundlePathError::NotText { path: owned() })?;
    if text.len() > MAX_PATH {
        return Err(BundlePathError::TooLong { length: text.len() });
    }
    if !text.starts_with('/') {
        return Err(BundlePathError::NotAbsolute { path: owned() });
    }
    // Path::components() would drop `.` unseen.
    let components = || text.split('/').filter(|component| !component.is_empty());
    let count = components().count();
    if count > MAX_COMPONENTS {
        return Err(BundlePathError::TooDeep { components: count });
    }
    components()
        .map(|component| match component {
            "." => Err(BundlePathError::NotPlain {
                path: owned(),
                component: ".",
            }),
            ".." => Err(BundlePathError::NotPlain {
                path: owned(),
                component: "..",
            }),
            plain => Ok(plain.to_owned()),
        })
        .collect()
}

/// `PATH_MAX` of Linux, less the terminating zero.
const MAX_PATH: usize = 4095;

/// Runtimes use less than ten.
const MAX_COMPONENTS: usize = 64;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::open;

    use super::*;

    const WORK_DIR: &str = "/run/kata-containers/image";

    fn parse(path: &str) -> Result<BundlePath, BundlePathError> {
        BundlePath::parse(Path::new(path), Path::new(WORK_DIR)).map_err(|error| match error {
            BundleError::Path(error) => error,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn accepts_absolute_paths_of_plain_components() {
        for (path, plain) in [
            ("/run/kata-containers/c1", "/run/kata-containers/c1"),
            ("//run/kata-containers//c1//", "/run/kata-containers/c1"),
            ("/run/kata-containers/image2", "/run/kata-containers/image2"),
            ("/run/..a/.b/...", "/run/..a/.b/..."),
            (&"/a".repeat(64), &"/a".repeat(64)),
        ] {
            assert_eq!(parse(path).unwrap().as_path(), Path::new(plain));
        }
    }

    #[test]
    fn refuses_every_other_path() {
        let long = format!("/{}", "a/".repeat(2048));
        let deep = "/a".repeat(65);
        let rows = [
            ("", " is not absolute"),
            ("run/c1", "run/c1 is not absolute"),
            ("./run", "./run is not absolute"),
            ("/run/../etc", "/run/../etc has a component `..`"),
            ("/run/..", "/run/.. has a component `..`"),
            ("/run/./c1", "/run/./c1 has a component `.`"),
            ("/a\0b", "/a\0b is no text"),
            (
                &long,
                "4097 bytes are too long for a path: at most 4095 are possible",
            ),
            (
                &deep,
                "65 components are too many for the path of a bundle: at most 64 are possible",
            ),
            ("/", "/ contains the work directory"),
            (
                "/run/kata-containers",
                "/run/kata-containers contains the work directory",
            ),
            (
                WORK_DIR,
                "/run/kata-containers/image is the work directory or inside it",
            ),
            (
                "/run/kata-containers//image/layers/x",
                "/run/kata-containers/image/layers/x is the work directory or inside it",
            ),
        ];
        for (path, expected) in rows {
            assert_eq!(parse(path).unwrap_err().to_string(), expected);
        }
    }

    struct Scene {
        root: tempfile::TempDir,
        work: OwnedFd,
    }

    impl Scene {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(root.path().join("work/inner")).unwrap();
            std::fs::create_dir_all(root.path().join("bundles/one")).unwrap();
            std::fs::write(root.path().join("file"), "").unwrap();
            let work = root.path().join("work");
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let work = open(&work, flags, Mode::empty()).unwrap();
            Self { root, work }
        }

        /// The work directory is known under another name, so that only the handles can tell.
        fn walk(&self, path: &str) -> Result<Walk, BundleError> {
            let path = self.root.path().join(path);
            let path = BundlePath::parse(&path, Path::new("/another/name")).unwrap();
            path.walk(self.work.as_fd())
        }
    }

    #[test]
    fn walks_as_far_as_the_path_exists_and_makes_nothing() {
        let scene = Scene::new();
        let rows: [(&str, &[&str]); 3] = [
            ("bundles/one", &[]),
            ("bundles/two", &["two"]),
            ("new/a/b", &["new", "a", "b"]),
        ];
        for (path, missing) in rows {
            assert_eq!(scene.walk(path).unwrap().missing(), missing, "{path}");
        }
        assert!(!scene.root.path().join("bundles/two").exists());
    }

    #[test]
    fn a_link_is_refused_wherever_it_stands_and_wherever_it_leads() {
        let scene = Scene::new();
        let root = scene.root.path();
        symlink("bundles", root.join("link")).unwrap();
        symlink("one", root.join("bundles/last")).unwrap();
        symlink("/nowhere", root.join("bundles/dangling")).unwrap();
        for (path, link) in [
            ("link/one", "link"),
            ("link/two", "link"),
            ("bundles/last", "bundles/last"),
            ("bundles/dangling", "bundles/dangling"),
            ("bundles/dangling/x", "bundles/dangling"),
        ] {
            let error = scene.walk(path).unwrap_err();
            assert!(
                matches!(&error, BundleError::Path(BundlePathError::Link { component })
                    if *component == root.join(link)),
                "{path}: {error:?}"
            );
        }
        let error = scene.walk("file/x").unwrap_err();
        assert!(
            matches!(&error, BundleError::Path(BundlePathError::NotDirectory { component })
                if *component == root.join("file")),
            "{error:?}"
        );
    }

    #[test]
    fn the_work_directory_is_recognised_under_any_name() {
        let scene = Scene::new();
        for path in ["work", "work/inner", "work/new"] {
            let error = scene.walk(path).unwrap_err();
            assert!(
                matches!(
                    error,
                    BundleError::Path(BundlePathError::InWorkDirectory { .. })
                ),
                "{path}: {error:?}"
            );
        }
        let error = scene.walk("").unwrap_err();
        assert!(
            matches!(
                error,
                BundleError::Path(BundlePathError::AroundWorkDirectory { .. })
            ),
            "{error:?}"
        );
    }
}
