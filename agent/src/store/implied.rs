//! The directories of a layer that its archive has no entry for, as the layer's record keeps them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use rootfs::{RelPath, Unpacked};
use serde::{Deserialize, Serialize};

/// Paths beneath the root of a layer, any bytes; the root itself is the empty path.
///
/// In JSON they are text, with `%` and two hexadecimal digits for every byte that is not part of
/// UTF-8 and for `%` itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub(crate) struct Implied(Arc<BTreeSet<Vec<u8>>>);

impl Implied {
    pub(super) fn of(proof: &Unpacked) -> Self {
        let paths = proof.implied().iter().map(RelPath::as_bytes);
        Self(Arc::new(paths.map(<[u8]>::to_vec).collect()))
    }

    /// Whether the archive has no entry for the directory at `path`.
    pub(crate) fn contains(&self, path: &[u8]) -> bool {
        self.0.contains(path)
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(Vec::as_slice)
    }
}

impl From<Implied> for Vec<String> {
    fn from(implied: Implied) -> Self {
        implied.paths().map(encode).collect()
    }
}

impl TryFrom<Vec<String>> for Implied {
    type Error = NotAPath;

    fn try_from(texts: Vec<String>) -> Result<Self, NotAPath> {
        let decode_one = |text: String| decode(&text).ok_or(NotAPath { text });
        let paths: BTreeSet<_> = texts
            .into_iter()
            .map(decode_one)
            .collect::<Result<_, _>>()?;
        Ok(Self(Arc::new(paths)))
    }
}

/// A record that we have not written: no layer has such a directory.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a path beneath the root of a layer")]
pub(crate) struct NotAPath {
    text: String,
}

fn encode(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        text.push_str(&chunk.valid().replace('%', "%25"));
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(text, "%{byte:02x}");
        }
    }
    text
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut pieces = text.as_bytes().split(|byte| *byte == b'%');
    let mut path = pieces.next()?.to_vec();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        path.push(u8::from_str_radix(digits, 16).ok()?);
        path.extend_from_slice(rest);
    }
    let is_plain = |component: &[u8]| !matches!(component, b"" | b"." | b"..");
    let is_path = path.is_empty() || path.split(|byte| *byte == b'/').all(is_plain);
    (is_path && !path.contains(&0)).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn implied(paths: &[&[u8]]) -> Implied {
        let paths = paths.iter().map(|path| path.to_vec());
        Implied(Arc::new(paths.collect()))
    }

    #[test]
    fn every_name_survives_its_record() {
        let names: [&[u8]; 7] = [
            b"",
            b"a/b",
            b"100%/%25",
            b"\xff\xfe/%ff",
            b"caf\xc3\xa9/caf\xe9",
            b"line\nbreak\"",
            b"\xe2\x82",
        ];
        let kept = implied(&names);
        let json = serde_json::to_string(&kept).unwrap();
        let read: Implied = serde_json::from_str(&json).unwrap();
        assert_eq!(read, kept, "{json}");
        for name in names {
            assert!(read.contains(name), "{}", name.escape_ascii());
        }
    }

    #[test]
    fn a_record_that_leads_out_of_its_layer_is_none() {
        for text in [
            "..", "a/../b", "/a", "a/", "a//b", ".", "%00", "%2e%2e", "%", "%f", "%zz", "%2é",
        ] {
            let error = Implied::try_from(vec![text.to_owned()]).unwrap_err();
            assert_eq!(error.text, text);
        }
    }
}
