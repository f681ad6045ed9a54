//! What an image takes on the disk of the store, and what there is.

use std::fmt;
use std::path::PathBuf;

use policy::{Approved, Compression, Layer};
use rustix::fs::fstatvfs;

use super::{Store, StoreError, storage};

/// Bytes and inodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// Bytes.
    pub bytes: u64,
    /// Files, directories and links.
    pub inodes: u64,
}

impl Amount {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            inodes: self.inodes.saturating_add(other.inodes),
        }
    }

    /// Whether this is enough for `needed`.
    pub(crate) fn covers(self, needed: Self) -> bool {
        self.bytes >= needed.bytes && self.inodes >= needed.inodes
    }
}

impl fmt::Display for Amount {
    /// Without what there is no end of.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.bytes, self.inodes) {
            (bytes, u64::MAX) => f.write_str(&size(bytes)),
            (u64::MAX, inodes) => write!(f, "{inodes} inodes"),
            (bytes, inodes) => write!(f, "{} and {inodes} inodes", size(bytes)),
        }
    }
}

/// What a layer takes when it is unpacked, as far as its descriptor tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Estimate {
    /// No layer takes less.
    pub(crate) least: Amount,
    /// Most layers take no more.
    pub(crate) likely: Amount,
}

impl Estimate {
    /// Neither gzip nor zstd says before its end how long its content is. It is hardly ever shorter
    /// than the blob, since nobody compresses to have more; and programs and libraries are two to
    /// three times as long as theirs.
    pub(crate) fn of(layer: &Approved<Layer>) -> Self {
        let size = layer.blob().size();
        let likely = match layer.compression() {
            Compression::None => size,
            _ => size.saturating_mul(EXPANSION),
        };
        let amount = |bytes, inodes| Amount { bytes, inodes };
        Self {
            least: amount(size, INODES_OF_LAYER),
            likely: amount(
                likely,
                (likely / BYTES_PER_INODE).saturating_add(INODES_OF_LAYER),
            ),
        }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            least: self.least.plus(other.least),
            likely: self.likely.plus(other.likely),
        }
    }
}

/// An image that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// What it needs beyond what is there already.
    pub needed: Amount,
    /// What is free, and what would be if every layer that no bundle uses were gone.
    pub free: Amount,
    /// The work directory.
    pub path: PathBuf,
    /// The kind of its file system.
    pub file_system: String,
}

impl Shortage {
    /// The numbers, without the guest's path.
    pub fn facts(&self) -> String {
        format!("{} ({})", self.numbers(), self.file_system)
    }

    fn numbers(&self) -> String {
        let Self { needed, free, .. } = self;
        if needed.bytes > free.bytes {
            let (needed, free) = (size(needed.bytes), size(free.bytes));
            return format!("needs about {needed}, {free} free");
        }
        format!("needs about {} inodes, {} free", needed.inodes, free.inodes)
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (numbers, path) = (self.numbers(), self.path.display());
        write!(f, "{numbers} in {path} ({})", self.file_system)
    }
}

impl Store {
    /// What is free on the disk of the store; without number where the file system does not say,
    /// as ramfs does not, or makes inodes as they are needed.
    pub(crate) fn free(&self) -> Result<Amount, StoreError> {
        let disk = fstatvfs(self.root())
            .map_err(|error| StoreError::io("inspect", &self.inner.path)(error.into()))?;
        let or_endless = |total: u64, free: u64| if total == 0 { u64::MAX } else { free };
        Ok(Amount {
            bytes: or_endless(disk.f_blocks, disk.f_bavail.saturating_mul(disk.f_frsize)),
            inodes: or_endless(disk.f_files, disk.f_favail),
        })
    }

    /// That `needed` does not go into what is `free`.
    pub(crate) fn shortage(&self, needed: Amount, free: Amount) -> Shortage {
        Shortage {
            needed,
            free,
            path: self.inner.path.clone(),
            file_system: storage::file_system(self.root()),
        }
    }
}

/// A number of bytes for people: `2.1 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let (mut whole, mut rest, mut unit) = (bytes, 0, "bytes");
    for next in units.into_iter().skip(1) {
        if whole < 1024 {
            break;
        }
        (whole, rest, unit) = (whole / 1024, whole % 1024, next);
    }
    if unit == "bytes" {
        return format!("{whole} {unit}");
    }
    format!("{whole}.{} {unit}", rest * 10 / 1024)
}

/// How many times its compressed size a layer is expected to take.
const EXPANSION: u64 = 3;

/// The root of a layer's tree, which was its staging directory before, and its record. How many
/// entries there are in between no descriptor says; there are layers without any.
const INODES_OF_LAYER: u64 = 2;

/// Files of images are 10 to 20 KiB long on the average.
const BYTES_PER_INODE: u64 = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_people_read_them() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (1536 << 10, "1.5 MiB"),
            ((2 << 30) + (100 << 20), "2.0 GiB"),
            ((2 << 30) + (205 << 20), "2.2 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn an_amount_is_of_bytes_and_inodes_unless_one_is_without_end() {
        let of = |bytes, inodes| Amount { bytes, inodes }.to_string();
        assert_eq!(of(4 << 20, 198), "4.0 MiB and 198 inodes");
        assert_eq!(of(4 << 20, u64::MAX), "4.0 MiB");
        assert_eq!(of(u64::MAX, 198), "198 inodes");
    }

    #[test]
    fn a_shortage_says_what_is_needed_what_is_there_and_where() {
        let amount = |bytes, inodes| Amount { bytes, inodes };
        let mut shortage = Shortage {
            needed: amount(2252 << 20, 10),
            free: amount(1 << 30, 5),
            path: "/run/kata-containers/image".into(),
            file_system: "tmpfs".to_owned(),
        };
        let text = "needs about 2.1 GiB, 1.0 GiB free in /run/kata-containers/image (tmpfs)";
        assert_eq!(shortage.to_string(), text);
        let told = "needs about 2.1 GiB, 1.0 GiB free (tmpfs)";
        assert_eq!(shortage.facts(), told);
        shortage.needed.bytes = 1;
        let text = "needs about 10 inodes, 5 free in /run/kata-containers/image (tmpfs)";
        assert_eq!(shortage.to_string(), text);
    }
}
