//! Names from an archive: any bytes, and the paths that can be made of them.

use std::borrow::Borrow;
use std::fmt;

use crate::error::Error;
use crate::limits::{LimitKind, Limits};

/// A name as it came, any bytes. Printed with everything escaped that is not plain text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Vec<u8>);

impl Name {
    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for Name {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(&self.0, f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(&self.0, f)
    }
}

/// A path beneath the root of a layer: components joined by `/`, none of them empty, `.` or `..`,
/// none with a zero byte. The root itself is the empty path.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Vec<u8>);

impl RelPath {
    /// Parses a name of an archive. Absolute names are taken as relative to the root.
    pub(crate) fn parse(name: &[u8], limits: &Limits) -> Result<Self, Error> {
        if name.contains(&0) {
            return Err(Error::ZeroInName { entry: name.into() });
        }
        let mut path = Vec::with_capacity(name.len());
        let mut depth = 0_u64;
        for component in name.split(|&byte| byte == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(Error::ParentComponent { entry: name.into() }),
                _ => limits.hold(LimitKind::ComponentBytes, length(component))?,
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(component);
            depth = depth.saturating_add(1);
        }
        limits.hold(LimitKind::PathBytes, length(&path))?;
        limits.hold(LimitKind::PathDepth, depth)?;
        Ok(Self(path))
    }

    /// A path that is known to be one: part of another.
    pub(crate) fn canonical(path: &[u8]) -> Self {
        Self(path.to_vec())
    }

    /// The bytes of the path, without a leading slash; empty for the root.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the root of the layer.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path without its last component, and that component.
    pub(crate) fn split(&self) -> (&[u8], &[u8]) {
        match self.0.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => {
                let (parent, name) = self.0.split_at(slash);
                (parent, name.split_first().map_or(name, |(_, rest)| rest))
            }
            None => (&[], &self.0),
        }
    }

    /// The last component; empty for the root.
    pub(crate) fn file_name(&self) -> &[u8] {
        self.split().1
    }

    pub(crate) fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0
            .split(|&byte| byte == b'/')
            .filter(|component| !component.is_empty())
    }

    /// The number of components.
    pub(crate) fn depth(&self) -> u64 {
        u64::try_from(self.components().count()).unwrap_or(u64::MAX)
    }

    /// The path with one more component, which the caller knows to be one.
    pub(crate) fn join(&self, component: &[u8]) -> Self {
        let mut path = self.clone();
        path.push(component);
        path
    }

    pub(crate) fn push(&mut self, component: &[u8]) {
        if !self.0.is_empty() {
            self.0.push(b'/');
        }
        self.0.extend_from_slice(component);
    }

    /// Drops the last component; the root stays the root, as `..` has it in a chroot.
    pub(crate) fn pop(&mut self) {
        let parent = self.split().0.len();
        self.0.truncate(parent);
    }
}

impl Borrow<[u8]> for RelPath {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            f.write_str("the root")
        } else {
            escape(&self.0, f)
        }
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(&self.0, f)
    }
}

/// The length of a slice as the limits count; a slice is never longer than 64 bits can say.
pub(crate) fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn escape(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("\"")?;
    for chunk in bytes.utf8_chunks() {
        write!(f, "{}", chunk.valid().escape_debug())?;
        for byte in chunk.invalid() {
            write!(f, "\\x{byte:02x}")?;
        }
    }
    f.write_str("\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_relative_and_plain() {
        let rows: [(&[u8], &[u8]); 8] = [
            (b"./", b""),
            (b"/", b""),
            (b"", b""),
            (b"./usr//bin/./x", b"usr/bin/x"),
            (b"/etc/passwd", b"etc/passwd"),
            (b"dir/", b"dir"),
            (b"..x/...", b"..x/..."),
            (b"\xff\xfe/\n", b"\xff\xfe/\n"),
        ];
        for (name, expected) in rows {
            let path = RelPath::parse(name, &Limits::default()).unwrap();
            assert_eq!(path.as_bytes(), expected);
            assert_eq!(
                RelPath::parse(path.as_bytes(), &Limits::default()).unwrap(),
                path
            );
        }
    }

    #[test]
    fn refuses_names_that_climb_or_cannot_exist() {
        for name in [&b".."[..], b"../x", b"a/../b", b"a/..", b"/../etc/passwd"] {
            let error = RelPath::parse(name, &Limits::default()).unwrap_err();
            let Error::ParentComponent { entry } = error else {
                panic!("{error:?}")
            };
            assert_eq!(entry.as_bytes(), name);
        }
        let error = RelPath::parse(b"a\0b", &Limits::default()).unwrap_err();
        assert!(matches!(error, Error::ZeroInName { .. }), "{error:?}");
    }

    #[test]
    fn holds_names_to_the_limits() {
        let limits = Limits {
            path_depth: 3,
            ..Limits::default()
        };
        let rows = [
            ("component", "x".repeat(256), LimitKind::ComponentBytes, 256),
            ("depth", "a/a/a/a".to_owned(), LimitKind::PathDepth, 4),
            (
                "path",
                vec!["x".repeat(255); 17].join("/"),
                LimitKind::PathBytes,
                4351,
            ),
        ];
        for (row, name, expected, number) in rows {
            let error = RelPath::parse(name.as_bytes(), &limits).unwrap_err();
            let Error::Limit { limit, found, .. } = error else {
                panic!("{row}: {error:?}")
            };
            assert_eq!((limit, found), (expected, number), "{row}");
        }
        assert!(RelPath::parse(&[b'x'; 255], &limits).is_ok());
    }

    #[test]
    fn splits_and_walks() {
        let mut path = RelPath::parse(b"a/b/c", &Limits::default()).unwrap();
        assert_eq!(path.split(), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(path.components().collect::<Vec<_>>(), [b"a", b"b", b"c"]);
        for expected in [&b"a/b"[..], b"a", b"", b""] {
            path.pop();
            assert_eq!(path.as_bytes(), expected);
        }
        assert_eq!(path.join(b"x").join(b"y").as_bytes(), b"x/y");
    }

    #[test]
    fn prints_hostile_bytes_escaped() {
        let name = Name::from(&b"a\n\x1b[2J\xff\"b"[..]);
        assert_eq!(name.to_string(), r#""a\n\u{1b}[2J\xff\"b""#);
    }
}
