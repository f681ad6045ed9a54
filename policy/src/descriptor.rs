//! Content descriptors (OCI image-spec, descriptor.md), and what a layer's media type says.

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::json::{Members, Node};
use crate::manifest::ManifestError;
use crate::platform::Platform;

/// A pointer to content: what it is, how long it is, and the digest it must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    media_type: String,
    digest: Digest,
    size: u64,
    urls: Vec<String>,
    annotations: BTreeMap<String, String>,
    platform: Option<Platform>,
}

impl Descriptor {
    /// The media type; empty when the document named none.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// The digest that the content must have.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The length that the content must have, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The annotations. Nothing has signed them unless the document around them was signed.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.annotations
    }

    /// For an entry of an index: the platform it is for.
    pub fn platform(&self) -> Option<&Platform> {
        self.platform.as_ref()
    }

    /// Whether `content` is what this points to.
    pub(crate) fn check(&self, content: &[u8]) -> Result<(), ManifestError> {
        let found = u64::try_from(content.len()).unwrap_or(u64::MAX);
        if found != self.size {
            return Err(ManifestError::SizeMismatch {
                expected: self.size,
                found,
            });
        }
        check_digest(&self.digest, content)
    }

    pub(crate) fn parse(node: &Node<'_>) -> Result<Self, ManifestError> {
        let members = node.open_object()?;
        refuse_other_spellings(&members, &KEYS)?;
        let digest = members.required("digest")?;
        let text = |node: Node<'_>| node.string().map(str::to_owned);
        let media_type = members
            .non_null("mediaType")
            .map(text)
            .transpose()?
            .unwrap_or_default();
        if media_type.len() > MAX_MEDIA_TYPE {
            return Err(ManifestError::MediaTypeTooLong {
                limit: MAX_MEDIA_TYPE,
                found: media_type.len(),
            });
        }
        let urls = members
            .non_null("urls")
            .map(|node| node.array())
            .transpose()?;
        Ok(Self {
            media_type,
            digest: digest
                .string()?
                .parse()
                .map_err(|source| ManifestError::Digest {
                    place: digest.place(),
                    source,
                })?,
            size: members.required("size")?.unsigned()?,
            urls: urls
                .unwrap_or_default()
                .into_iter()
                .map(text)
                .collect::<Result<_, _>>()?,
            annotations: annotations(&members)?,
            platform: members
                .non_null("platform")
                .map(|node| platform(&node))
                .transpose()?,
        })
    }

    /// How to read the layer that this points to, or why this program cannot.
    pub(crate) fn layer_compression(&self, index: usize) -> Result<Compression, ManifestError> {
        if !self.urls.is_empty() {
            return Err(ManifestError::ForeignLayer {
                index,
                media_type: self.media_type.clone(),
            });
        }
        if self.media_type.ends_with("+encrypted") {
            let media_type = self.media_type.clone();
            return Err(ManifestError::EncryptedLayer { index, media_type });
        }
        let known = LAYER_TYPES
            .iter()
            .find(|(media_type, _)| *media_type == self.media_type);
        known
            .map(|(_, compression)| *compression)
            .ok_or_else(|| ManifestError::UnsupportedLayer {
                index,
                media_type: self.media_type.clone(),
            })
    }
}

/// How a layer's tar stream is compressed. Complete: OCI layer.md defines no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// A plain tar stream.
    None,
    /// RFC 1952, all members.
    Gzip,
    /// RFC 8878, all frames.
    Zstd,
}

pub(crate) fn check_digest(expected: &Digest, content: &[u8]) -> Result<(), ManifestError> {
    let found = Digest::of(expected.algorithm(), content);
    if found == *expected {
        Ok(())
    } else {
        let (expected, found) = (Box::new(*expected), Box::new(found));
        Err(ManifestError::DigestMismatch { expected, found })
    }
}

/// Parsers that fold case would read `Digest` as `digest`; then two programs see two documents.
pub(crate) fn refuse_other_spellings(
    members: &Members<'_>,
    known: &[&str],
) -> Result<(), ManifestError> {
    let folds = |key: &str| {
        known
            .iter()
            .any(|own| own.eq_ignore_ascii_case(key) && *own != key)
    };
    match members.iter().find(|(key, _)| folds(key)) {
        Some((_, node)) => Err(ManifestError::Ambiguous {
            place: node.place(),
        }),
        None => Ok(()),
    }
}

fn annotations(members: &Members<'_>) -> Result<BTreeMap<String, String>, ManifestError> {
    let Some(node) = members.non_null("annotations") else {
        return Ok(BTreeMap::new());
    };
    let entries = node.open_object()?;
    let pair = |(key, value): (&str, Node<'_>)| Ok((key.to_owned(), value.string()?.to_owned()));
    entries.iter().map(pair).collect()
}

fn platform(node: &Node<'_>) -> Result<Platform, ManifestError> {
    let members = node.open_object()?;
    refuse_other_spellings(&members, &["os", "architecture", "variant"])?;
    let text = |key: &str| match members.non_null(key) {
        Some(node) => node.string().map(str::to_owned),
        None => Ok(String::new()),
    };
    let variant = text("variant")?;
    Ok(Platform {
        os: text("os")?,
        architecture: text("architecture")?,
        variant: (!variant.is_empty()).then_some(variant),
    })
}

const KEYS: [&str; 6] = [
    "mediaType",
    "digest",
    "size",
    "urls",
    "annotations",
    "platform",
];

/// The layer types of OCI layer.md and of Docker's schema 2. The non-distributable ones differ
/// only in who may serve them; what is refused is fetching them from elsewhere (CVE-2020-15157).
const LAYER_TYPES: [(&str, Compression); 11] = [
    ("application/vnd.oci.image.layer.v1.tar", Compression::None),
    (
        "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Gzip,
    ),
    (
        "application/vnd.oci.image.layer.v1.tar+zstd",
        Compression::Zstd,
    ),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        Compression::None,
    ),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        Compression::Gzip,
    ),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        Compression::Zstd,
    ),
    (
        "application/vnd.docker.image.rootfs.diff.tar",
        Compression::None,
    ),
    (
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        Compression::Gzip,
    ),
    (
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        Compression::Zstd,
    ),
    (
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        Compression::None,
    ),
    (
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        Compression::Gzip,
    ),
];

/// RFC 6838, section 4.2: 127 characters for the type, as many for the subtype, and a slash.
const MAX_MEDIA_TYPE: usize = 255;
