//! Manifests and indexes as a registry serves them: parsed, measured, and believed by nobody yet.

use serde::Serialize;

mod error;
mod kind;

use crate::descriptor::{Compression, Descriptor, check_digest};
use crate::digest::Digest;
use crate::json::Members;
use crate::platform::Platform;
use crate::reference::ImageRef;

pub use self::error::{ManifestError, NoPlatform};
use self::kind::{Kind, check_length, read};

/// The largest manifest or index that is read, in bytes.
pub const MAX_MANIFEST_BYTES: usize = 4 << 20;
/// The most layers an image may have: the kernel mounts no more at once.
pub const MAX_LAYERS: usize = 500;
/// The media type of an OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of an OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The media type of a Docker image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// The media type of a Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// What a registry answered for a reference.
///
/// Complete: every other type is refused by name.
#[derive(Debug)]
pub enum Document {
    /// One image.
    Manifest(Unverified<Manifest>),
    /// Images for several platforms, one of which is to be chosen.
    Index(Unverified<Index>),
}

impl Document {
    /// Reads what the registry served for `reference` under the given `Content-Type`.
    ///
    /// The bytes must have the reference's digest when it has one, and exactly one reading: a known
    /// type that body and header agree on, no duplicate keys, no keys of another format
    /// (CVE-2021-41190).
    pub fn parse(
        reference: &ImageRef,
        content_type: Option<&str>,
        raw: Vec<u8>,
    ) -> Result<Self, ManifestError> {
        let digest = match reference.digest() {
            Some(expected) => {
                check_length(&raw)?;
                check_digest(expected, &raw)?;
                *expected
            }
            None => Digest::sha256_of(&raw),
        };
        let (kind, json) = read(content_type, &raw)?;
        let members = json.root().open_object()?;
        let reference = reference.clone();
        Ok(if kind.is_index() {
            let value = Box::new(Index::parse(kind, &members)?);
            Self::Index(Unverified {
                value,
                reference,
                raw,
                digest,
                via: None,
            })
        } else {
            let value = Box::new(Manifest::parse(&members)?);
            Self::Manifest(Unverified {
                value,
                reference,
                raw,
                digest,
                via: None,
            })
        })
    }
}

/// A document that has the digest it claims, and nothing else to recommend it.
#[derive(Debug)]
pub struct Unverified<T> {
    value: Box<T>,
    reference: ImageRef,
    raw: Vec<u8>,
    digest: Digest,
    via: Option<Box<Via>>,
}

impl<T> Unverified<T> {
    /// The reference that was asked for.
    pub fn reference(&self) -> &ImageRef {
        &self.reference
    }

    /// The digest, computed from the bytes.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The bytes as served.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }
}

impl Unverified<Manifest> {
    /// The digest of the index that this manifest was chosen from.
    pub fn via(&self) -> Option<&Digest> {
        self.via.as_ref().map(|via| &via.digest)
    }

    /// The number of layers.
    pub fn layer_count(&self) -> usize {
        self.value.layers.len()
    }

    /// Where the image's config is, if this manifest is to be believed, given that every layer is of
    /// a kind that can be unpacked. What is fetched from there before an approval proves nothing.
    pub fn untrusted_config(&self) -> Result<&Descriptor, ManifestError> {
        self.value.layer_compressions().map(|_| self.value.config())
    }

    /// The layers, bottom first.
    pub(crate) fn layers(&self) -> &[Descriptor] {
        &self.value.layers
    }

    /// What a signature may be on: the manifest, and the index that lists it.
    pub(crate) fn subjects(&self) -> impl Iterator<Item = Subject<'_>> {
        let manifest = Subject {
            kind: SubjectKind::Manifest,
            digest: self.digest,
            raw: &self.raw,
        };
        let index = self.via.as_ref().map(|via| Subject {
            kind: SubjectKind::Index,
            digest: via.digest,
            raw: &via.raw,
        });
        std::iter::once(manifest).chain(index)
    }

    pub(crate) fn into_manifest(self) -> Manifest {
        *self.value
    }
}

impl Unverified<Index> {
    /// The entry for `wanted`, by the preference order of [`Platform::acceptable`].
    ///
    /// Of entries for the same platform in an OCI index, one with zstd layers is preferred, else
    /// the first. Entries of an OCI index that name no platform are the last resort.
    pub fn choose(&self, wanted: &Platform) -> Result<Descriptor, NoPlatform> {
        let acceptable = wanted.acceptable();
        let rank = |entry: &Descriptor| match entry.platform() {
            Some(platform) => acceptable
                .iter()
                .position(|candidate| candidate == platform),
            None => self.value.kind.is_oci().then_some(acceptable.len()),
        };
        let zstd = |entry: &Descriptor| {
            self.value.kind.is_oci()
                && entry
                    .annotations()
                    .get(ZSTD_ANNOTATION)
                    .is_some_and(|value| value == "true")
        };
        let entries = self.value.manifests.iter();
        let ranked = entries.filter_map(|entry| Some(((rank(entry)?, !zstd(entry)), entry)));
        // min_by_key keeps the first of equals.
        let best = ranked
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, entry)| entry.clone());
        best.ok_or_else(|| NoPlatform {
            wanted: wanted.clone(),
            offered: self.platforms(),
        })
    }

    /// Reads the manifest that the entry `chosen` of this index points to.
    pub fn instance(
        self,
        chosen: &Descriptor,
        content_type: Option<&str>,
        raw: Vec<u8>,
    ) -> Result<Unverified<Manifest>, ManifestError> {
        if !self.value.manifests.contains(chosen) {
            return Err(ManifestError::NotListed {
                digest: *chosen.digest(),
            });
        }
        check_length(&raw)?;
        chosen.check(&raw)?;
        let (kind, json) = read(content_type, &raw)?;
        if kind.is_index() {
            return Err(ManifestError::NestedIndex {
                digest: *chosen.digest(),
            });
        }
        let value = Box::new(Manifest::parse(&json.root().open_object()?)?);
        let via = Some(Box::new(Via {
            digest: self.digest,
            raw: self.raw,
        }));
        Ok(Unverified {
            value,
            reference: self.reference,
            raw,
            digest: *chosen.digest(),
            via,
        })
    }

    /// The entries, in the order of the index.
    pub fn entries(&self) -> &[Descriptor] {
        &self.value.manifests
    }

    /// The platforms on offer, in the order of the index.
    pub fn platforms(&self) -> Vec<Platform> {
        self.value
            .manifests
            .iter()
            .filter_map(|entry| entry.platform().cloned())
            .collect()
    }
}

/// An image manifest: one config and the layers, bottom first.
#[derive(Debug)]
pub struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

impl Manifest {
    pub(crate) fn config(&self) -> &Descriptor {
        &self.config
    }

    pub(crate) fn into_layers(self) -> Vec<Descriptor> {
        self.layers
    }

    /// How to read each layer, or the first that cannot be read.
    pub(crate) fn layer_compressions(&self) -> Result<Vec<Compression>, ManifestError> {
        let layers = self.layers.iter().enumerate();
        layers
            .map(|(index, layer)| layer.layer_compression(index))
            .collect()
    }

    fn parse(members: &Members<'_>) -> Result<Self, ManifestError> {
        let config = Descriptor::parse(&members.required("config")?)?;
        let layers = members.required("layers")?.array()?;
        if layers.len() > MAX_LAYERS {
            return Err(ManifestError::TooManyLayers {
                limit: MAX_LAYERS,
                found: layers.len(),
            });
        }
        let layers = layers
            .iter()
            .map(Descriptor::parse)
            .collect::<Result<_, _>>()?;
        Ok(Self { config, layers })
    }
}

/// An image index or manifest list.
#[derive(Debug)]
pub struct Index {
    kind: Kind,
    manifests: Vec<Descriptor>,
}

impl Index {
    fn parse(kind: Kind, members: &Members<'_>) -> Result<Self, ManifestError> {
        let entries = members.required("manifests")?.array()?;
        let manifests = entries
            .iter()
            .map(Descriptor::parse)
            .collect::<Result<_, _>>()?;
        Ok(Self { kind, manifests })
    }
}

/// The signature manifest under a tag `sha256-<hex>.sig`: one attachment per layer.
///
/// It must be an OCI image manifest. Its bytes prove nothing; each signature in it is checked.
pub fn parse_attachments(
    content_type: Option<&str>,
    raw: &[u8],
) -> Result<Vec<Descriptor>, ManifestError> {
    let (kind, json) = read(content_type, raw)?;
    if kind != Kind::OciManifest {
        return Err(ManifestError::UnknownType {
            found: Some(kind.media_type().to_owned()),
        });
    }
    Manifest::parse(&json.root().open_object()?).map(|manifest| manifest.layers)
}

/// One of the documents that a signature may be on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) kind: SubjectKind,
    pub(crate) digest: Digest,
    raw: &'a [u8],
}

impl Subject<'_> {
    /// Whether `digest`, of whatever algorithm, is of these bytes.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.digest == *digest
            || self.digest.algorithm() != digest.algorithm() && digest.matches(self.raw)
    }
}

/// Which document a signature is on.
///
/// Complete: an image is reached directly or through one index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SubjectKind {
    /// The manifest of the chosen platform.
    Manifest,
    /// The index that lists it.
    Index,
}

/// The index a manifest was chosen from.
#[derive(Debug)]
struct Via {
    digest: Digest,
    raw: Vec<u8>,
}

const ZSTD_ANNOTATION: &str = "io.github.containers.compression.zstd";
