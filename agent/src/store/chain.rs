//! Layers that are what they are only on top of others.
//!
//! A layer with a hard link to a file of a lower one, or with a file in a directory that is a
//! symbolic link there, makes a tree that depends on what lies below. Such a tree has a key of its
//! own, which includes the chain ID of what it was unpacked onto.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use policy::{Approved, Digest, Image};
use rustix::fs::{AtFlags, FileType, statat};
use rustix::io::Errno;

use super::{Store, StoreError, StoredLayer};
use crate::bundle::is_opaque;
use crate::handle::open_directory;

/// What lies below a layer: the `ChainID` of the OCI image specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChainId(String);

impl ChainId {
    /// For each layer of `image`, bottom first, what lies below it; nothing below the first.
    pub(crate) fn below_each(image: &Approved<Image>) -> Vec<Option<Self>> {
        let mut chain: Option<Self> = None;
        let mut chains = Vec::new();
        for layer in image.layers() {
            let diff_id = layer.diff_id().to_string();
            let next = match &chain {
                None => diff_id,
                Some(Self(below)) => {
                    Digest::sha256_of(format!("{below} {diff_id}").as_bytes()).to_string()
                }
            };
            chains.push(chain.replace(Self(next)));
        }
        chains
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Store {
    /// Whether a directory that `layer` implies is a symbolic link in what `below` makes, which is
    /// bottom first: then the layer's files belong where that leads.
    pub(crate) fn leads_through_link(
        &self,
        layer: &StoredLayer,
        below: &[StoredLayer],
    ) -> Result<bool, StoreError> {
        for path in layer.implied().paths().filter(|path| !path.is_empty()) {
            if self.is_link(path, below)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_link(&self, path: &[u8], below: &[StoredLayer]) -> Result<bool, StoreError> {
        for layer in below.iter().rev() {
            let seen = open_directory(self.layers(), layer.key())
                .and_then(|tree| look(tree, path))
                .map_err(|error| {
                    StoreError::io("inspect", &self.layer_path(layer))(error.into())
                })?;
            match seen {
                Seen::Link => return Ok(true),
                Seen::Other => return Ok(false),
                Seen::Nothing => {}
            }
        }
        Ok(false)
    }
}

/// What one layer says of a path.
enum Seen {
    /// It is a symbolic link.
    Link,
    /// It is something else, or there is nothing and lower layers are hidden.
    Other,
    /// The layer does not say.
    Nothing,
}

fn look(tree: OwnedFd, path: &[u8]) -> Result<Seen, Errno> {
    let mut directory = tree;
    let mut is_all_of_it = is_opaque(directory.as_fd())?;
    let mut components = path.split(|byte| *byte == b'/').peekable();
    while let Some(name) = components.next() {
        let name = OsStr::from_bytes(name);
        let found = if components.peek().is_some() {
            open_directory(directory.as_fd(), name).map(Some)
        } else {
            let stat = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW);
            let kind = stat.map(|stat| FileType::from_raw_mode(stat.st_mode));
            if kind == Ok(FileType::Symlink) {
                return Ok(Seen::Link);
            }
            kind.map(|_other| None)
        };
        match found {
            Ok(Some(next)) => directory = next,
            Err(Errno::NOENT) => break,
            // A link on the way is a directory that the layer implies, too, and was asked about.
            Ok(None) | Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Seen::Other),
            Err(error) => return Err(error),
        }
        is_all_of_it |= is_opaque(directory.as_fd())?;
    }
    Ok(if is_all_of_it {
        Seen::Other
    } else {
        Seen::Nothing
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::fixture::{Archive, Fixture, fetch, image};

    fn archive() -> Archive {
        Archive::default()
    }

    #[expect(clippy::too_many_lines, reason = "a table, one row per case")]
    #[test]
    fn a_directory_leads_through_a_link_if_the_topmost_layer_that_has_it_says_so() {
        let in_lib = || archive().entry(b"lib/x/file", 0o644).end();
        let link = || archive().symlink("lib", "usr/lib").end();
        let rows = [
            (
                "nothing below",
                vec![archive().entry(b"other", 0o644).end()],
                false,
            ),
            ("a link", vec![link()], true),
            (
                "a link further below",
                vec![link(), archive().entry(b"other", 0o644).end()],
                true,
            ),
            (
                "a link further in",
                vec![archive().symlink("lib/x", "y").end()],
                true,
            ),
            (
                "a directory",
                vec![archive().entry(b"lib/", 0o755).end()],
                false,
            ),
            ("a file", vec![archive().entry(b"lib", 0o755).end()], false),
            (
                "a link that a directory has replaced",
                vec![link(), archive().entry(b"lib/", 0o755).end()],
                false,
            ),
            (
                "a directory that a link has replaced",
                vec![archive().entry(b"lib/", 0o755).end(), link()],
                true,
            ),
            (
                "a link that is removed",
                vec![link(), archive().entry(b".wh.lib", 0o644).end()],
                false,
            ),
            (
                "a link in a directory that is emptied",
                vec![
                    archive().symlink("lib/x", "y").end(),
                    archive()
                        .entry(b"lib/", 0o755)
                        .entry(b"lib/.wh..wh..opq", 0o644)
                        .end(),
                ],
                false,
            ),
            (
                "a link below a root that is emptied",
                vec![link(), archive().entry(b".wh..wh..opq", 0o644).end()],
                false,
            ),
        ];
        for (case, mut tars, expected) in rows {
            let fixture = Fixture::new();
            let store = fixture.store();
            tars.push(in_lib());
            let layers = fetch(&store, &image(&tars, &json!({})), &tars);
            let (top, below) = layers.split_last().unwrap();
            assert_eq!(
                store.leads_through_link(top, below).unwrap(),
                expected,
                "{case}"
            );
        }
    }

    #[test]
    fn a_chain_is_named_as_the_image_specification_has_it() {
        let tars: Vec<_> = ["a", "b", "c"]
            .map(|name| archive().entry(name.as_bytes(), 0o644).end())
            .into();
        let diff_ids: Vec<_> = tars
            .iter()
            .map(|tar| Digest::sha256_of(tar).to_string())
            .collect();
        let pair = format!("{} {}", diff_ids[0], diff_ids[1]);
        let expected = [
            None,
            Some(ChainId(diff_ids[0].clone())),
            Some(ChainId(Digest::sha256_of(pair.as_bytes()).to_string())),
        ];
        assert_eq!(ChainId::below_each(&image(&tars, &json!({}))), expected);
    }

    #[test]
    fn a_layer_is_another_on_top_of_others() {
        let fixture = Fixture::new();
        let store = fixture.store();
        let tars: Vec<_> = ["a", "b"]
            .map(|name| archive().entry(name.as_bytes(), 0o644).end())
            .into();
        let image = image(&tars, &json!({}));
        let stored = fetch(&store, &image, &tars);
        let layer = image.layers().nth(1).unwrap();
        let chain = ChainId::below_each(&image).pop().unwrap();
        assert!(store.layer(&layer, chain.as_ref()).unwrap().is_none());
        assert!(store.is_tree_of(&stored[1], &layer, chain.as_ref()));
        assert!(!store.is_tree_of(&stored[0], &layer, chain.as_ref()));
        assert_eq!(store.names_of(&image).all().count(), 3);
    }
}
