//! The form in which lookasides store signatures: the first byte tells the format.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::encoding::decode_base64;
use crate::json::{Json, JsonError, Node};

/// A stored signature. Knowing its format says nothing about what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoredSignature {
    /// A simple-signing signature: an `OpenPGP` message in binary.
    Simple(Vec<u8>),
    /// A sigstore signature.
    Sigstore(StoredSigstore),
}

/// A sigstore signature with what stands beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredSigstore {
    /// The media type of the payload.
    pub mime_type: String,
    /// The bytes that are said to be signed.
    pub payload: Vec<u8>,
    /// The annotations, the signature among them.
    pub annotations: BTreeMap<String, String>,
}

impl StoredSignature {
    /// Tells the format of a stored signature.
    ///
    /// `OpenPGP` is known by the tags of the packets that such a message may begin with; anything
    /// else begins with a zero byte and the name of the format in a line.
    pub fn parse(mut blob: Vec<u8>) -> Result<Self, BlobError> {
        let Some(first) = blob.first() else {
            return Err(BlobError::Empty);
        };
        if OPENPGP_STARTS.contains(first) {
            return Ok(Self::Simple(blob));
        }
        if *first != 0 {
            return Err(BlobError::UnknownStart { found: *first });
        }
        let end = blob.iter().position(|byte| *byte == b'\n');
        let body = blob.split_off(end.ok_or(BlobError::NoName)? + 1);
        match blob.as_slice() {
            b"\0simple-signing\n" => Ok(Self::Simple(body)),
            b"\0sigstore-json\n" => sigstore(&body).map(Self::Sigstore),
            name => Err(BlobError::UnknownFormat {
                name: String::from_utf8_lossy(name)
                    .trim_matches(['\0', '\n'])
                    .to_owned(),
            }),
        }
    }
}

/// Why bytes are no stored signature. Whoever runs the lookaside is at fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BlobError {
    /// There is nothing.
    #[error("the signature is empty")]
    Empty,
    /// No known format begins so.
    #[error("no signature format begins with the byte {found:#04x}")]
    UnknownStart {
        /// The first byte.
        found: u8,
    },
    /// The line with the name of the format does not end.
    #[error("the name of the signature's format does not end")]
    NoName,
    /// A format that is not known.
    #[error("unknown signature format {name:?}")]
    UnknownFormat {
        /// Its name.
        name: String,
    },
    /// The JSON is not as it should be.
    #[error("{0}")]
    Json(#[from] JsonError),
    /// The payload is not base64.
    #[error("the payload is not base64: {0}")]
    Base64(#[from] base64::DecodeError),
}

/// Go reads this without care: any member may be absent or null, and unknown ones do not matter.
fn sigstore(body: &[u8]) -> Result<StoredSigstore, BlobError> {
    let json = Json::parse(body)?;
    let root = json.root();
    if root.is_null() {
        return Ok(StoredSigstore::default());
    }
    let members = root.open_object()?;
    let text = |key: &str| match members.non_null(key) {
        Some(node) => node.string(),
        None => Ok(""),
    };
    let annotations = match members.non_null("annotations") {
        Some(node) => annotations(&node)?,
        None => BTreeMap::new(),
    };
    Ok(StoredSigstore {
        mime_type: text("mimeType")?.to_owned(),
        payload: decode_base64(text("payload")?)?,
        annotations,
    })
}

fn annotations(node: &Node<'_>) -> Result<BTreeMap<String, String>, JsonError> {
    let members = node.open_object()?;
    let pair = |(key, node): (&str, Node<'_>)| Ok((key.to_owned(), node.string()?.to_owned()));
    members.iter().map(pair).collect()
}

/// Compressed data in the old and the new packet format, one-pass signature and signature (RFC 9580
/// section 4.2), as the reference implementation has them.
const OPENPGP_STARTS: [u8; 15] = [
    0xA0, 0xA1, 0xA2, 0xA3, 0xC8, 0x90, 0x91, 0x92, 0xC4, 0x88, 0x89, 0x8A, 0x8B, 0xC2, 0x3D,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_formats_apart() {
        let rows: [(&[u8], Result<StoredSignature, BlobError>); 8] = [
            (b"", Err(BlobError::Empty)),
            (b"-----BEGIN", Err(BlobError::UnknownStart { found: b'-' })),
            (b"\xa3x", Ok(StoredSignature::Simple(b"\xa3x".to_vec()))),
            (b"\0simple-signing", Err(BlobError::NoName)),
            (
                b"\0simple-signing\nx",
                Ok(StoredSignature::Simple(b"x".to_vec())),
            ),
            (
                b"\0sigstore-json \n{}",
                Err(BlobError::UnknownFormat {
                    name: "sigstore-json ".to_owned(),
                }),
            ),
            (
                b"\0sigstore-json\n{\"payload\":\"!\"}",
                Err(BlobError::Base64(base64::DecodeError::InvalidByte(0, b'!'))),
            ),
            (
                b"\0sigstore-json\nnull",
                Ok(StoredSignature::Sigstore(StoredSigstore::default())),
            ),
        ];
        for (blob, expected) in rows {
            assert_eq!(
                StoredSignature::parse(blob.to_vec()),
                expected,
                "{:?}",
                String::from_utf8_lossy(blob)
            );
        }
    }
}
