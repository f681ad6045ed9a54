//! The bounds within which a layer is unpacked.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;

/// What one layer may cost. Each field names the attack that it stops.
///
/// The defaults admit every layer that a registry commonly serves and refuse the classic bombs
/// before they have written 100 MiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of content after decompression, and likewise the sum of the sizes of all files with
    /// the holes of sparse ones. Stops a layer from filling the disk or the guest's memory.
    /// Default 64 GiB.
    pub unpacked_bytes: u64,
    /// Bytes that all layers of an image may unpack to together, counted as
    /// [`unpacked_bytes`](Self::unpacked_bytes) are. Stops an image of many layers, each of which
    /// stays within its own limit. Default 128 GiB.
    pub image_bytes: u64,
    /// How many times its compressed bytes a layer may expand, once past
    /// [`ratio_free_bytes`](Self::ratio_free_bytes). Stops decompression bombs (10 GB of zeros are
    /// 10 MB of gzip and 0.4 MB of zstd) and sparse bombs (10 GB in 2 kB). Default 200.
    pub ratio: u64,
    /// Bytes that a layer may expand to whatever its compressed size, so that small layers of
    /// little entropy pass. Default 64 MiB.
    pub ratio_free_bytes: u64,
    /// Entries of the archive plus parent directories that it implies. Stops a layer from using up
    /// inodes and kernel memory with empty files. Default 2,000,000.
    pub entries: u64,
    /// Bytes of a path, at most 4,096 whatever is set here. Stops names that other programs
    /// cannot open. Default 4,096.
    pub path_bytes: u64,
    /// Components of a path. Stops trees so deep that walking them exhausts the walker.
    /// Default 1,024.
    pub path_depth: u64,
    /// Bytes of one extended header, long name or sparse map. Stops an endless header from filling
    /// memory. Default 1 MiB.
    pub header_bytes: u64,
    /// Bytes of extended attributes, names and values, in the whole layer. Stops a layer from
    /// pinning kernel memory that no quota counts. Default 16 MiB.
    pub xattr_bytes: u64,
    /// Bytes of memory for what is known only at the end: names and metadata of directories, and
    /// hard links to names that come later. Each counts with its paths, its attributes and what it
    /// takes to keep them. Stops directories with long names, of which a megabyte of gzip holds
    /// hundreds of megabytes, from filling the guest's memory. Default 128 MiB, some 400,000 directories.
    pub kept_bytes: u64,
    /// Binary logarithm of the largest zstd window. Stops a frame of few bytes from claiming
    /// gigabytes of decoder memory. The windows of all layers that are being unpacked come out of
    /// one pool of the process, so that only one at a time can be larger than that pool.
    /// Default 27, which is 128 MiB.
    pub zstd_window_log: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unpacked_bytes: 64 << 30,
            image_bytes: 128 << 30,
            ratio: 200,
            ratio_free_bytes: 64 << 20,
            entries: 2_000_000,
            path_bytes: 4096,
            path_depth: 1024,
            header_bytes: 1 << 20,
            xattr_bytes: 16 << 20,
            kept_bytes: 128 << 20,
            zstd_window_log: 27,
        }
    }
}

impl Limits {
    /// Holds `found` to the limit named.
    pub(crate) fn hold(&self, limit: LimitKind, found: u64) -> Result<(), Error> {
        let allowed = match limit {
            LimitKind::UnpackedBytes => self.unpacked_bytes,
            LimitKind::ImageBytes => self.image_bytes,
            LimitKind::Entries => self.entries,
            LimitKind::PathBytes => self.path_bytes.min(PATH_MAX),
            LimitKind::ComponentBytes => NAME_MAX,
            LimitKind::PathDepth => self.path_depth,
            LimitKind::HeaderBytes => self.header_bytes,
            LimitKind::XattrBytes => self.xattr_bytes,
            LimitKind::KeptBytes => self.kept_bytes,
            LimitKind::Ratio => self.ratio,
            LimitKind::ZstdWindow => 1_u64.checked_shl(self.zstd_window_log).unwrap_or(u64::MAX),
        };
        if found > allowed {
            Err(Error::Limit {
                limit,
                allowed,
                found,
            })
        } else {
            Ok(())
        }
    }

    /// Holds `unpacked` bytes to the absolute limit and to the ratio over `compressed` bytes.
    pub(crate) fn hold_expansion(&self, unpacked: u64, compressed: u64) -> Result<(), Error> {
        self.hold(LimitKind::UnpackedBytes, unpacked)?;
        let earned = self.ratio.saturating_mul(compressed);
        let allowed = self.ratio_free_bytes.saturating_add(earned);
        if unpacked > allowed {
            return Err(Error::Limit {
                limit: LimitKind::Ratio,
                allowed,
                found: unpacked,
            });
        }
        Ok(())
    }
}

/// The limits of the layers of one image, and what all of them together have used.
///
/// Shared by the unpackings of one image.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    spent: AtomicU64,
    /// What this is a part of.
    whole: Option<Arc<Budget>>,
}

impl Budget {
    /// Nothing spent yet.
    pub const fn new(limits: Limits) -> Self {
        Self {
            limits,
            spent: AtomicU64::new(0),
            whole: None,
        }
    }

    /// A part of `whole` for one attempt at one layer: what is spent of it is spent of the whole,
    /// unless it is [given back](Self::give_back).
    pub fn part(whole: &Arc<Self>) -> Self {
        Self {
            limits: whole.limits.clone(),
            spent: AtomicU64::new(0),
            whole: Some(Arc::clone(whole)),
        }
    }

    /// The limits of each layer.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Counts unpacked bytes of the image: also for a layer that was unpacked before, by its
    /// [`content_bytes`](crate::Unpacked::content_bytes).
    ///
    /// # Errors
    /// [`Error::Limit`] beyond [`Limits::image_bytes`].
    pub fn spend(&self, bytes: u64) -> Result<(), Error> {
        let before = self.spent.fetch_add(bytes, Ordering::Relaxed);
        if let Some(whole) = &self.whole {
            return whole.spend(bytes);
        }
        self.limits
            .hold(LimitKind::ImageBytes, before.saturating_add(bytes))
    }

    /// Gives back to the whole what the attempt has spent of it, whose files are gone.
    pub fn give_back(self) {
        if let Some(whole) = &self.whole {
            let spent = self.spent.into_inner();
            whole.spent.fetch_sub(spent, Ordering::Relaxed);
        }
    }
}

/// Which of the [`Limits`] a layer went over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitKind {
    /// [`Limits::unpacked_bytes`].
    UnpackedBytes,
    /// [`Limits::image_bytes`]; the number found is that of all layers together.
    ImageBytes,
    /// [`Limits::ratio`]; the numbers are the bytes that the compressed size allows.
    Ratio,
    /// [`Limits::entries`].
    Entries,
    /// [`Limits::path_bytes`].
    PathBytes,
    /// 255 bytes for one component of a path, as Linux has it.
    ComponentBytes,
    /// [`Limits::path_depth`].
    PathDepth,
    /// [`Limits::header_bytes`].
    HeaderBytes,
    /// [`Limits::xattr_bytes`].
    XattrBytes,
    /// [`Limits::kept_bytes`].
    KeptBytes,
    /// [`Limits::zstd_window_log`], as bytes.
    ZstdWindow,
}

impl fmt::Display for LimitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnpackedBytes => "unpacked bytes",
            Self::ImageBytes => "unpacked bytes together with the image's other layers",
            Self::Ratio => "unpacked bytes for the compressed size",
            Self::Entries => "entries",
            Self::PathBytes => "bytes of a path",
            Self::ComponentBytes => "bytes of a path component",
            Self::PathDepth => "components of a path",
            Self::HeaderBytes => "bytes of an extended header",
            Self::XattrBytes => "bytes of extended attributes",
            Self::KeptBytes => "bytes of directories and links kept in memory",
            Self::ZstdWindow => "bytes of zstd window",
        })
    }
}

/// Linux `PATH_MAX`.
const PATH_MAX: u64 = 4096;
/// Linux `NAME_MAX`.
const NAME_MAX: u64 = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_ten_gigabytes_in_ten_megabytes_to_the_ratio() {
        let limits = Limits::default();
        let error = limits.hold_expansion(10 << 30, 10 << 20).unwrap_err();
        let Error::Limit {
            limit: LimitKind::Ratio,
            allowed,
            found,
        } = error
        else {
            panic!("{error:?}")
        };
        assert_eq!((allowed, found), ((64 << 20) + 200 * (10 << 20), 10 << 30));
    }

    #[test]
    fn layers_spend_of_one_budget() {
        let budget = Budget::new(Limits {
            image_bytes: 100,
            ..Limits::default()
        });
        budget.spend(60).unwrap();
        budget.spend(40).unwrap();
        let error = budget.spend(1).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the layer has 101 unpacked bytes together with the image's other layers, at most 100 \
             are allowed"
        );
    }

    #[test]
    fn failed_attempt_gives_back_what_it_has_spent() {
        let whole = Arc::new(Budget::new(Limits {
            image_bytes: 100,
            ..Limits::default()
        }));
        whole.spend(30).unwrap();
        let failed = Budget::part(&whole);
        failed.spend(60).unwrap();
        failed.spend(20).unwrap_err();
        failed.give_back();
        let kept = Budget::part(&whole);
        kept.spend(70).unwrap();
        drop(kept);
        whole.spend(1).unwrap_err();
    }

    #[test]
    fn admits_exactly_what_is_allowed() {
        let limits = Limits {
            entries: 3,
            ..Limits::default()
        };
        assert!(limits.hold(LimitKind::Entries, 3).is_ok());
        let error = limits.hold(LimitKind::Entries, 4).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Limit {
                    limit: LimitKind::Entries,
                    allowed: 3,
                    found: 4
                }
            ),
            "{error:?}"
        );
    }
}
