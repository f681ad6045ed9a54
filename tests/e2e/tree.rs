//! What a directory tree is, to be compared with another.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kit::image::sha256;
use rustix::fs::{FileType, lgetxattr, llistxattr};

/// What a file is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Attributes {
    /// Kind and mode.
    mode: u32,
    owner: (u32, u32),
    /// None of its own for a directory.
    size: u64,
    /// When it was modified; in seconds and nanoseconds.
    pub(crate) modified: (i64, i64),
    /// The digest of its content, or what a link says.
    content: String,
    /// Extended attributes but for those by which overlayfs works.
    extended: BTreeMap<String, Vec<u8>>,
}

impl Attributes {
    pub(crate) fn is_directory(&self) -> bool {
        FileType::from_raw_mode(self.mode) == FileType::Directory
    }
}

/// Every file of a tree.
pub(crate) fn tree(root: &Path) -> BTreeMap<PathBuf, Attributes> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        let (size, content) = if metadata.is_dir() {
            let entries = std::fs::read_dir(&path).unwrap();
            pending.extend(entries.map(|entry| entry.unwrap().path()));
            (0, String::new())
        } else if metadata.is_symlink() {
            let target = std::fs::read_link(&path).unwrap();
            let target = target.as_os_str().as_bytes().escape_ascii().to_string();
            (0, target)
        } else {
            let content = sha256(&std::fs::read(&path).unwrap());
            (metadata.len(), content)
        };
        let name = path.strip_prefix(root).unwrap().to_owned();
        let attributes = Attributes {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            size,
            modified,
            content,
            extended: extended(&path),
        };
        found.insert(name, attributes);
    }
    found
}

fn extended(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut buffer = [0; 4096];
    let length = llistxattr(path, &mut buffer[..]).unwrap();
    let names = buffer[..length].split(|byte| *byte == 0);
    let names = names.map(|name| String::from_utf8(name.to_vec()).unwrap());
    let names = names.filter(|name| !name.is_empty() && !name.starts_with("trusted.overlay."));
    let value = |name: String| {
        let mut value = [0; 4096];
        let length = lgetxattr(path, name.as_str(), &mut value[..]).unwrap();
        (name, value[..length].to_vec())
    };
    names.map(value).collect()
}
