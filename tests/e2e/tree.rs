//! What a directory tree is, to be compared with another.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kit::image::sha256;

/// What a file is: kind and mode, owner, size, time of modification, content or target.
pub(crate) type Attributes = (u32, u32, u32, u64, (i64, i64), String);

/// Every file of a tree; directories have no size and no times of their own.
pub(crate) fn tree(root: &Path) -> BTreeMap<PathBuf, Attributes> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        let (size, modified, content) = if metadata.is_dir() {
            let entries = std::fs::read_dir(&path).unwrap();
            pending.extend(entries.map(|entry| entry.unwrap().path()));
            (0, (0, 0), String::new())
        } else if metadata.is_symlink() {
            let target = std::fs::read_link(&path).unwrap();
            let target = target.as_os_str().as_bytes().escape_ascii().to_string();
            (0, modified, target)
        } else {
            let content = sha256(&std::fs::read(&path).unwrap());
            (metadata.len(), modified, content)
        };
        let (mode, uid, gid) = (metadata.mode(), metadata.uid(), metadata.gid());
        let name = path.strip_prefix(root).unwrap().to_owned();
        found.insert(name, (mode, uid, gid, size, modified, content));
    }
    found
}
