//! The names by which a layer hides what lies below (OCI image-spec, layer.md, «Whiteouts»).

use crate::error::Error;
use crate::name::RelPath;

/// What a name that begins with `.wh.` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marker<'a> {
    /// `.wh..wh..opq`: lower layers contribute nothing to this directory.
    Opaque,
    /// `.wh.name`: lower layers have no `name` in this directory.
    Whiteout(&'a [u8]),
    /// Bookkeeping of the AUFS file system, which is no part of the image.
    Aufs,
}

/// The marker that the last component of `path` is, if it is one.
///
/// # Errors
/// [`Error::Whiteout`] for a marker of a name that cannot exist, and for a marker used as a
/// directory.
pub(crate) fn marker(path: &RelPath) -> Result<Option<Marker<'_>>, Error> {
    let invalid = || Error::Whiteout {
        entry: path.clone(),
    };
    let (parent, name) = path.split();
    for component in parent.split(|&byte| byte == b'/') {
        if component.starts_with(AUFS) {
            return Ok(Some(Marker::Aufs));
        }
        if component.starts_with(PREFIX) {
            return Err(invalid());
        }
    }
    if name == OPAQUE {
        return Ok(Some(Marker::Opaque));
    }
    if name.starts_with(AUFS) {
        return Ok(Some(Marker::Aufs));
    }
    match name.strip_prefix(PREFIX) {
        None => Ok(None),
        Some(b"" | b"." | b"..") => Err(invalid()),
        Some(hidden) => Ok(Some(Marker::Whiteout(hidden))),
    }
}

const PREFIX: &[u8] = b".wh.";
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    #[test]
    fn tells_markers_by_name() {
        let rows: [(&str, Option<Marker<'_>>); 9] = [
            ("a/b", None),
            (".whale", None),
            ("a/x.wh.y", None),
            ("a/.wh.b", Some(Marker::Whiteout(b"b"))),
            (".wh..hidden", Some(Marker::Whiteout(b".hidden"))),
            ("a/.wh..wh..opq", Some(Marker::Opaque)),
            (".wh..wh.aufs", Some(Marker::Aufs)),
            (".wh..wh.plnk/12.34", Some(Marker::Aufs)),
            (".wh..wh.orph", Some(Marker::Aufs)),
        ];
        for (name, expected) in rows {
            let path = RelPath::parse(name.as_bytes(), &Limits::default()).unwrap();
            assert_eq!(marker(&path).unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn refuses_markers_of_names_that_cannot_exist() {
        for name in [".wh.", "a/.wh..", "a/.wh...", ".wh.a/b", "x/.wh.a/b/c"] {
            let path = RelPath::parse(name.as_bytes(), &Limits::default()).unwrap();
            let error = marker(&path).unwrap_err();
            assert!(
                matches!(&error, Error::Whiteout { entry } if *entry == path),
                "{error:?}"
            );
        }
    }
}
