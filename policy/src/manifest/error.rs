//! Why a manifest or an index cannot be used.

use thiserror::Error;

use crate::digest::{Digest, DigestError};
use crate::json::{JsonError, Place};
use crate::platform::Platform;
use crate::printable::printable;

/// No entry of an index is for the platform wanted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no image for {wanted}, the index offers {}", list(offered))]
pub struct NoPlatform {
    /// The platform wanted.
    pub wanted: Platform,
    /// The platforms on offer.
    pub offered: Vec<Platform>,
}

/// Why a manifest cannot be used. The registry, or whoever built the image, is at fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The document is longer than is read.
    #[error("the manifest has {found} bytes, at most {limit} are read")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
        /// The length in bytes.
        found: usize,
    },
    /// The bytes do not have the digest they were asked for by.
    #[error("the manifest should have the digest {expected}, found {found}")]
    DigestMismatch {
        /// The digest asked for.
        expected: Box<Digest>,
        /// The digest of the bytes served.
        found: Box<Digest>,
    },
    /// The bytes do not have the length that the index announces.
    #[error("the manifest should have {expected} bytes, found {found}")]
    SizeMismatch {
        /// The length announced.
        expected: u64,
        /// The length served.
        found: u64,
    },
    /// The type is none of the four that images come in.
    #[error("{} is no manifest type that is supported", .found.as_deref().unwrap_or("an unnamed type"))]
    UnknownType {
        /// The media type found, if any was named.
        found: Option<String>,
    },
    /// A media type is longer than RFC 6838 allows; it would end up in logs and records.
    #[error("a media type has {found} characters, at most {limit} are allowed")]
    MediaTypeTooLong {
        /// The limit.
        limit: usize,
        /// Its length in bytes.
        found: usize,
    },
    /// Docker's schema 1 binds nothing but compressed layers and is refused by name.
    #[error("docker schema 1 manifests ({media_type}) are not supported")]
    Schema1 {
        /// The media type.
        media_type: String,
    },
    /// Header and body name different types (CVE-2021-41190).
    #[error("the registry serves {header}, the manifest says it is {body}")]
    TypeDisagrees {
        /// The type of the Content-Type header.
        header: String,
        /// The type in the body.
        body: String,
    },
    /// The schema version is not 2.
    #[error("the manifest has schema version {found}, only 2 is supported")]
    SchemaVersion {
        /// The version found.
        found: u64,
    },
    /// A key that another format, or a parser that folds case, would read differently.
    #[error("{place}: this key makes the manifest ambiguous")]
    Ambiguous {
        /// Where the key stands.
        place: Place,
    },
    /// The document is not the JSON that it should be.
    #[error("the manifest is malformed")]
    Json(#[from] JsonError),
    /// A digest in the document is not one.
    #[error("{place}: invalid digest")]
    Digest {
        /// Where it stands.
        place: Place,
        /// What is wrong with it.
        source: DigestError,
    },
    /// There are more layers than can be mounted.
    #[error("the image has {found} layers, at most {limit} can be mounted")]
    TooManyLayers {
        /// The limit.
        limit: usize,
        /// The number of layers.
        found: usize,
    },
    /// The descriptor handed in is not of this index. The caller is at fault.
    #[error("{digest} is not listed in the index")]
    NotListed {
        /// The digest of the stranger.
        digest: Digest,
    },
    /// An entry of an index is an index again.
    #[error("the index lists another index, {digest}")]
    NestedIndex {
        /// The digest of the inner index.
        digest: Digest,
    },
    /// A layer is encrypted.
    #[error(
        "layer {index} is encrypted ({}), which is not supported",
        printable(media_type)
    )]
    EncryptedLayer {
        /// Which layer, from 0 at the bottom.
        index: usize,
        /// Its media type.
        media_type: String,
    },
    /// A layer is to be fetched from elsewhere than the registry.
    #[error(
        "layer {index} ({}) is to be fetched from a foreign address",
        printable(media_type)
    )]
    ForeignLayer {
        /// Which layer, from 0 at the bottom.
        index: usize,
        /// Its media type.
        media_type: String,
    },
    /// A layer is no tar archive that can be read.
    #[error("layer {index} has the unsupported type {media_type:?}")]
    UnsupportedLayer {
        /// Which layer, from 0 at the bottom.
        index: usize,
        /// Its media type.
        media_type: String,
    },
}

fn list(platforms: &[Platform]) -> String {
    if platforms.is_empty() {
        return "none".to_owned();
    }
    let all: Vec<_> = platforms.iter().map(Platform::to_string).collect();
    printable(&all.join(", "))
}
