//! Mounts of bundles, overlays as a rule, made detached and attached last: until [`Detached::attach`] nothing of a mount
//! is visible, and it vanishes with its handle.
//!
//! Everything is named by handle. Kernels since 6.7 take the layers one by one (`lowerdir+`, up to
//! 500); older ones get a single option string, which is one page long.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, StatVfsMountFlags, fstatvfs, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount,
    fsopen, mount, mount_change, mount_remount, move_mount, open_tree, unmount,
};

use crate::handle::{PLAIN, descriptor_path};

/// An overlay file system to be: nothing happens before [`Overlay::mount`].
pub(crate) struct Overlay<'a> {
    /// What the list of mounts shows as its source.
    pub(crate) source: &'a str,
    /// The layers, topmost first. Handles are opened one at a time, since there may be 500.
    pub(crate) lowers: &'a [Lower<'a>],
    /// Where changes go; without it nothing can be changed, and there have to be two layers.
    pub(crate) writable: Option<Writable<'a>>,
}

/// Where changes of an overlay go.
#[derive(Clone, Copy)]
pub(crate) struct Writable<'a> {
    /// The changes. Its attributes become those of the root of the mount.
    pub(crate) upper: BorrowedFd<'a>,
    /// Scratch space of the kernel, on the file system of `upper`.
    pub(crate) work: BorrowedFd<'a>,
    /// Let what is written get lost when the machine goes down: nothing waits for the disk.
    pub(crate) volatile: bool,
}

/// A directory to be a layer: `name` in `parent`.
pub(crate) struct Lower<'a> {
    pub(crate) parent: BorrowedFd<'a>,
    pub(crate) name: &'a str,
}

impl Lower<'_> {
    fn open(&self) -> Result<OwnedFd, MountError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat2(
            self.parent,
            self.name,
            flags,
            Mode::empty(),
            // What is mounted over a tree is not what was proved.
            PLAIN | ResolveFlags::NO_XDEV,
        )
        .map_err(refused("open a layer"))
    }
}

/// Why there is no mount.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The kernel refused: it lacks overlayfs, or the store's file system cannot carry one.
    #[error("the kernel refused to {step}{said}")]
    Refused {
        /// What was asked of it.
        step: &'static str,
        /// What it said beside the number, with a separator in front; may be empty.
        said: String,
        /// The number.
        source: Errno,
    },

    /// The kernel takes only as many layers as one page of options holds: it is older than 6.7, or
    /// there are more than 500.
    #[error(
        "{layers} layers need {length} bytes of mount options and this kernel takes {MAX_OPTIONS}"
    )]
    TooManyLayers {
        /// The number of layers.
        layers: usize,
        /// The bytes they need.
        length: usize,
    },

    /// The kernel could not use its work directory and so mounted without write access.
    #[error("the kernel mounted the overlay read-only")]
    ReadOnly,
}

impl MountError {
    /// Whether there is no space left for the kernel's own directories.
    pub(crate) fn is_disk_full(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                source: Errno::NOSPC | Errno::DQUOT,
                ..
            }
        )
    }
}

impl Overlay<'_> {
    /// Mounts it, attached nowhere. `scratch` is an empty directory that older kernels need as a
    /// place to mount it at for a moment: its parent and its name.
    pub(crate) fn mount(&self, scratch: &Lower<'_>) -> Result<Detached, MountError> {
        let detached = match self.mount_by_parameters() {
            // What a kernel says that does not know the parameters, among other things.
            Err(MountError::Refused {
                source: Errno::INVAL | Errno::NOSYS,
                said,
                step,
            }) => {
                tracing::debug!(step, said, "mounting by an option string instead");
                self.mount_by_options(scratch)
                    .map_err(|error| with_more(error, said))
            }
            other => other,
        }?;
        let status = fstatvfs(&detached.handle).map_err(refused("describe the overlay"))?;
        if self.writable.is_some() && status.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Err(MountError::ReadOnly);
        }
        Ok(detached)
    }

    fn mount_by_parameters(&self) -> Result<Detached, MountError> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(refused("open an overlay file system"))?;
        let set = |key: &str, value: &str| {
            fsconfig_set_string(context.as_fd(), key, value)
                .map_err(|source| explained("configure the overlay", source, &context))
        };
        set("source", self.source)?;
        for lower in self.lowers {
            let handle = lower.open()?;
            set("lowerdir+", &descriptor_path(handle.as_fd()))?;
        }
        if let Some(writable) = self.writable {
            set("upperdir", &descriptor_path(writable.upper))?;
            set("workdir", &descriptor_path(writable.work))?;
            if writable.volatile {
                fsconfig_set_flag(context.as_fd(), "volatile")
                    .map_err(|source| explained("configure the overlay", source, &context))?;
            }
        }
        fsconfig_create(context.as_fd())
            .map_err(|source| explained("create the overlay", source, &context))?;
        let handle = fsmount(
            context.as_fd(),
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )
        .map_err(|source| explained("mount the overlay", source, &context))?;
        Ok(Detached {
            handle,
            is_directory: false,
        })
    }

    fn mount_by_options(&self, scratch: &Lower<'_>) -> Result<Detached, MountError> {
        let handles = self
            .lowers
            .iter()
            .map(Lower::open)
            .collect::<Result<Vec<_>, _>>()?;
        let paths: Vec<_> = handles
            .iter()
            .map(|handle| descriptor_path(handle.as_fd()))
            .collect();
        let lowers = paths.join(":");
        let options = match self.writable {
            None => format!("lowerdir={lowers}"),
            Some(writable) => format!(
                "lowerdir={lowers},upperdir={},workdir={}{}",
                descriptor_path(writable.upper),
                descriptor_path(writable.work),
                if writable.volatile { ",volatile" } else { "" }
            ),
        };
        if options.len() > MAX_OPTIONS {
            return Err(MountError::TooManyLayers {
                layers: handles.len(),
                length: options.len(),
            });
        }
        let place = format!("{}/{}", descriptor_path(scratch.parent), scratch.name);
        let options = std::ffi::CString::new(options).map_err(|_nul| MountError::Refused {
            step: "accept the options",
            said: String::new(),
            source: Errno::INVAL,
        })?;
        mount(
            self.source,
            &place,
            "overlay",
            MountFlags::empty(),
            options.as_c_str(),
        )
        .map_err(refused("mount the overlay"))?;
        // A clone of the mount is detached; the one that it was made from goes at once.
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let cloned = open_tree(scratch.parent, scratch.name, flags);
        let removed = unmount(&place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        let handle = cloned.map_err(refused("detach the overlay"))?;
        removed.map_err(refused("unmount the overlay"))?;
        Ok(Detached {
            handle,
            is_directory: false,
        })
    }
}

/// A mount that is attached nowhere and ends with this value.
#[derive(Debug)]
pub(crate) struct Detached {
    handle: OwnedFd,
    /// Whether it is a directory of another mount, with the flags of that.
    is_directory: bool,
}

impl Detached {
    /// The directory itself as a mount, without any layers.
    pub(crate) fn directory(directory: &Lower<'_>) -> Result<Self, MountError> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let handle = open_tree(directory.parent, directory.name, flags)
            .map_err(refused("mount a directory"))?;
        Ok(Self {
            handle,
            is_directory: true,
        })
    }

    /// The root of the mounted tree.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// Attaches the mount to the directory `onto`.
    pub(crate) fn attach(self, onto: BorrowedFd<'_>) -> Result<Attached, MountError> {
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(self.handle.as_fd(), "", onto, "", flags)
            .map_err(refused("attach the root file system"))?;
        let place = descriptor_path(self.handle.as_fd());
        let attached = Attached {
            handle: Some(self.handle),
        };
        if self.is_directory {
            // The mount that it comes from may forbid devices and setuid programs, and be told of
            // what is mounted in here.
            mount_remount(&place, MountFlags::BIND, "")
                .and_then(|()| mount_change(&place, MountPropagationFlags::PRIVATE))
                .map_err(refused("make the root file system a mount of its own"))?;
        }
        Ok(attached)
    }
}

/// A mount that is taken down when this value is dropped, unless it was kept.
#[derive(Debug)]
#[must_use]
pub(crate) struct Attached {
    handle: Option<OwnedFd>,
}

impl Attached {
    /// Leaves the mount where it is.
    pub(crate) fn keep(mut self) {
        self.handle = None;
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take()
            && let Err(error) = unmount(descriptor_path(handle.as_fd()), UnmountFlags::DETACH)
        {
            tracing::warn!(%error, "a half-made bundle cannot be unmounted");
        }
    }
}

fn refused(step: &'static str) -> impl FnOnce(Errno) -> MountError {
    move |source| MountError::Refused {
        step,
        said: String::new(),
        source,
    }
}

/// [`MountError::Refused`] with what the kernel logged to the file system context, which it hands
/// out one line per read, each with its level in front.
fn explained(step: &'static str, source: Errno, context: &OwnedFd) -> MountError {
    let mut said = String::new();
    let mut line = [0_u8; 512];
    for _ in 0..MAX_LOG_LINES {
        let Ok(length @ 1..) = rustix::io::read(context, &mut line) else {
            break;
        };
        let text = String::from_utf8_lossy(line.get(..length).unwrap_or_default()).into_owned();
        said.push_str(": ");
        said.push_str(text.get(2..).unwrap_or_default().trim_end());
    }
    MountError::Refused { step, said, source }
}

/// `error` of the second way to mount, with what was said about the first in front.
fn with_more(error: MountError, first: String) -> MountError {
    match error {
        MountError::Refused { step, said, source } => MountError::Refused {
            step,
            said: first + &said,
            source,
        },
        other => other,
    }
}

/// As many layers as one page of options holds, with handles of seven digits, which no kernel's
/// default exceeds.
pub(crate) const FITTING: usize = 180;

/// One page, less the terminating zero.
const MAX_OPTIONS: usize = 4095;

const MAX_LOG_LINES: usize = 8;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use rustix::fs::open;
    use rustix::mount::mount_bind;

    use super::*;
    use crate::mountinfo;

    fn directory(path: &Path) -> OwnedFd {
        std::fs::create_dir_all(path).unwrap();
        open(
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap()
    }

    /// A scene with `count` layers, each with a file of its own and one that all have.
    struct Scene {
        root: tempfile::TempDir,
        names: Vec<String>,
    }

    #[derive(Clone, Copy, Debug)]
    enum Way {
        Preferred,
        Parameters,
        Options,
    }

    impl Scene {
        fn new(count: usize) -> Self {
            let root = tempfile::tempdir().unwrap();
            let names: Vec<_> = (0..count).map(|index| format!("layer{index}")).collect();
            for name in &names {
                let layer = root.path().join("layers").join(name);
                std::fs::create_dir_all(&layer).unwrap();
                std::fs::write(layer.join(name), name).unwrap();
                std::fs::write(layer.join("shared"), name).unwrap();
            }
            Self { root, names }
        }

        fn mount(&self, way: Way) -> Result<Detached, MountError> {
            let path = self.root.path();
            let (layers, base) = (directory(&path.join("layers")), directory(path));
            let (upper, work) = (
                directory(&path.join("upper")),
                directory(&path.join("work")),
            );
            directory(&path.join("scratch"));
            let lowers: Vec<_> = self
                .names
                .iter()
                .map(|name| Lower {
                    parent: layers.as_fd(),
                    name,
                })
                .collect();
            let overlay = Overlay {
                source: "image-agent:test",
                lowers: &lowers,
                writable: Some(Writable {
                    upper: upper.as_fd(),
                    work: work.as_fd(),
                    volatile: false,
                }),
            };
            let scratch = Lower {
                parent: base.as_fd(),
                name: "scratch",
            };
            match way {
                Way::Preferred => overlay.mount(&scratch),
                Way::Parameters => overlay.mount_by_parameters(),
                Way::Options => overlay.mount_by_options(&scratch),
            }
        }

        fn mounts(&self) -> Vec<mountinfo::Mount> {
            let mut mounts = mountinfo::read().unwrap();
            mounts.retain(|mount| mount.point.starts_with(self.root.path()));
            mounts
        }
    }

    #[test]
    fn both_ways_mount_the_topmost_layer_first_and_leave_nothing_behind() {
        for way in [Way::Parameters, Way::Options] {
            let scene = Scene::new(3);
            let detached = scene.mount(way).unwrap();
            assert_eq!(
                scene.mounts(),
                [],
                "{way:?}: nothing shows before it is attached"
            );
            let place = scene.root.path().join("rootfs");
            let attached = detached.attach(directory(&place).as_fd()).unwrap();
            let mounts = scene.mounts();
            assert_eq!(mounts.len(), 1, "{way:?}");
            assert_eq!(mounts[0].point, place.canonicalize().unwrap());
            assert_eq!(mounts[0].source, "image-agent:test");
            assert_eq!(
                std::fs::read_to_string(place.join("shared")).unwrap(),
                "layer0"
            );
            assert_eq!(
                std::fs::read_to_string(place.join("layer2")).unwrap(),
                "layer2"
            );
            std::fs::write(place.join("shared"), "changed").unwrap();
            let layer = scene.root.path().join("layers/layer0/shared");
            assert_eq!(std::fs::read_to_string(layer).unwrap(), "layer0");
            drop(attached);
            assert_eq!(scene.mounts(), [], "{way:?}");
        }
    }

    #[test]
    fn a_kept_mount_outlives_its_guard() {
        let scene = Scene::new(1);
        let place = scene.root.path().join("rootfs");
        scene
            .mount(Way::Preferred)
            .unwrap()
            .attach(directory(&place).as_fd())
            .unwrap()
            .keep();
        assert_eq!(scene.mounts().len(), 1);
        // The mount allows setuid programs and device nodes: it is a container's root.
        let flags = fstatvfs(directory(&place)).unwrap().f_flag;
        assert!(!flags.intersects(
            StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV | StatVfsMountFlags::NOEXEC
        ));
        unmount(&place, UnmountFlags::NOFOLLOW).unwrap();
        assert_eq!(std::fs::metadata(&place).unwrap().nlink(), 2);
    }

    #[test]
    fn five_hundred_layers_are_mounted_and_not_one_more() {
        for count in [100, 499, 500] {
            let scene = Scene::new(count);
            let detached = scene.mount(Way::Preferred).unwrap();
            drop(
                detached
                    .attach(directory(&scene.root.path().join("rootfs")).as_fd())
                    .unwrap(),
            );
        }
        let error = Scene::new(501).mount(Way::Parameters).unwrap_err();
        assert!(
            matches!(error, MountError::Refused { step: "configure the overlay", ref said,
                source: Errno::INVAL } if said.contains("limit is 500")),
            "{error:?}"
        );
    }

    #[test]
    fn one_page_of_options_holds_about_two_hundred_layers() {
        let scene = Scene::new(200);
        drop(scene.mount(Way::Options).unwrap());
        let error = Scene::new(300).mount(Way::Options).unwrap_err();
        assert!(
            matches!(error, MountError::TooManyLayers { layers: 300, length } if length > 4095),
            "{error:?}"
        );
    }

    #[test]
    fn the_same_directory_twice_is_refused_by_the_kernel() {
        let mut scene = Scene::new(2);
        scene.names.push("layer0".to_owned());
        let error = scene.mount(Way::Preferred).unwrap_err();
        assert!(
            matches!(
                error,
                MountError::Refused {
                    step: "create the overlay",
                    source: Errno::LOOP,
                    ..
                }
            ),
            "{error:?}"
        );
        assert_eq!(scene.mounts(), []);
    }

    #[test]
    fn what_is_mounted_over_a_layer_is_not_taken_for_it() {
        let scene = Scene::new(2);
        let layer = |name| scene.root.path().join("layers").join(name);
        mount_bind(layer("layer1"), layer("layer0")).unwrap();
        for way in [Way::Parameters, Way::Options, Way::Preferred] {
            let error = scene.mount(way).unwrap_err();
            let is_foreign = matches!(
                error,
                MountError::Refused {
                    step: "open a layer",
                    source: Errno::XDEV,
                    ..
                }
            );
            assert!(is_foreign, "{way:?}: {error:?}");
        }
        unmount(layer("layer0"), UnmountFlags::NOFOLLOW).unwrap();
    }

    #[test]
    fn a_refusal_by_both_ways_leaves_nothing() {
        let scene = Scene::new(1);
        // Upper and work directory on different file systems.
        let path = scene.root.path();
        let layers = directory(&path.join("layers"));
        let upper = directory(&path.join("upper"));
        let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
        let work = directory(elsewhere.path());
        let base = directory(path);
        directory(&path.join("scratch"));
        let overlay = Overlay {
            source: "image-agent:test",
            lowers: &[Lower {
                parent: layers.as_fd(),
                name: "layer0",
            }],
            writable: Some(Writable {
                upper: upper.as_fd(),
                work: work.as_fd(),
                volatile: false,
            }),
        };
        let error = overlay
            .mount(&Lower {
                parent: base.as_fd(),
                name: "scratch",
            })
            .unwrap_err();
        assert!(
            matches!(
                error,
                MountError::Refused {
                    step: "mount the overlay",
                    source: Errno::INVAL,
                    ..
                }
            ),
            "{error:?}"
        );
        assert_eq!(scene.mounts(), []);
    }
}
