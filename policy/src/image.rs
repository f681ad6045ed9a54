//! An image: its config (OCI image-spec, config.md) and its layers.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer};
use thiserror::Error;

use crate::descriptor::{Compression, Descriptor};
use crate::digest::{Digest, DigestError};
use crate::manifest::{Manifest, ManifestError};
use crate::platform::Platform;

/// The largest image config that is read, in bytes.
pub const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// An image whose config has the digest that the manifest gives.
#[derive(Debug)]
pub struct Image {
    config: ImageConfig,
    layers: Vec<Layer>,
}

impl Image {
    /// `names_platform` says that the config alone tells for which platform the image is.
    pub(crate) fn new(
        manifest: Manifest,
        raw: &[u8],
        names_platform: bool,
    ) -> Result<Self, ConfigError> {
        let found = u64::try_from(raw.len()).unwrap_or(u64::MAX);
        if found > MAX_CONFIG_BYTES {
            return Err(ConfigError::TooLarge {
                limit: MAX_CONFIG_BYTES,
                found,
            });
        }
        manifest.config().check(raw).map_err(ConfigError::Content)?;
        let config: ImageConfig = serde_json::from_slice(raw)?;
        let host = Platform::host();
        if names_platform && (&config.os, &config.architecture) != (&host.os, &host.architecture) {
            let (wanted, found) = (Box::new(host), Box::new(config.platform()));
            return Err(ConfigError::Platform { wanted, found });
        }
        let layers = pair(manifest, &config.rootfs)?;
        Ok(Self { config, layers })
    }

    pub(crate) fn config(&self) -> &ImageConfig {
        &self.config
    }

    pub(crate) fn layers(&self) -> &[Layer] {
        &self.layers
    }
}

/// A layer: the blob in the registry and the digest of what it unpacks from.
#[derive(Debug)]
pub struct Layer {
    blob: Descriptor,
    diff_id: Digest,
    compression: Compression,
}

impl Layer {
    pub(crate) fn blob(&self) -> &Descriptor {
        &self.blob
    }

    pub(crate) fn diff_id(&self) -> &Digest {
        &self.diff_id
    }

    pub(crate) fn compression(&self) -> Compression {
        self.compression
    }

    pub(crate) fn duplicate(&self) -> Self {
        Self {
            blob: self.blob.clone(),
            ..*self
        }
    }
}

/// What the image says about its own start. Every value is the image author's.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct ImageConfig {
    /// The operating system.
    pub os: String,
    /// The architecture.
    pub architecture: String,
    /// The variant of the architecture.
    #[serde(default, deserialize_with = "non_null")]
    pub variant: Option<String>,
    /// When the image was made, as RFC 3339 writes it.
    #[serde(default)]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default)]
    pub author: Option<String>,
    /// How to run it.
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: RunConfig,
    rootfs: RootFs,
}

impl ImageConfig {
    /// The platform that the image says it is for.
    pub fn platform(&self) -> Platform {
        Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
        }
    }
}

/// The `config` object of an image's config. What is absent or null is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct RunConfig {
    /// `user`, `uid`, `user:group`, `uid:gid`, `uid:group` or `user:gid`.
    #[serde(deserialize_with = "null_is_default")]
    pub user: String,
    /// `NAME=value` each.
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// The command, to which `cmd` is appended.
    #[serde(deserialize_with = "null_is_default")]
    pub entrypoint: Vec<String>,
    /// The default arguments, or the whole command when there is no entrypoint.
    #[serde(deserialize_with = "null_is_default")]
    pub cmd: Vec<String>,
    /// The directory to start in.
    #[serde(deserialize_with = "null_is_default")]
    pub working_dir: String,
    /// Paths that are to be volumes.
    #[serde(deserialize_with = "keys")]
    pub volumes: BTreeSet<String>,
    /// Free-form labels.
    #[serde(deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    /// `port`, `port/tcp` or `port/udp`.
    #[serde(deserialize_with = "keys")]
    pub exposed_ports: BTreeSet<String>,
    /// The signal that ends the container, e.g. `SIGTERM`.
    #[serde(deserialize_with = "non_null")]
    pub stop_signal: Option<String>,
}

/// Why a config does not go with its manifest. Whoever built or serves the image is at fault.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The config is longer than is read.
    #[error("the image config has {found} bytes, at most {limit} are read")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
        /// The length in bytes.
        found: u64,
    },
    /// The bytes are not those that the manifest points to.
    #[error("the image config is not the one that the manifest names")]
    Content(#[source] ManifestError),
    /// The config is not the JSON that config.md describes.
    #[error("the image config is malformed")]
    Malformed(#[from] serde_json::Error),
    /// A layer cannot be unpacked.
    #[error("the image cannot be unpacked")]
    Layers(#[source] ManifestError),
    /// A `diff_id` is not a digest.
    #[error("diff_id {index} is invalid")]
    DiffId {
        /// Which one, from 0 at the bottom.
        index: usize,
        /// What is wrong with it.
        source: DigestError,
    },
    /// The config describes another number of layers than the manifest.
    #[error("the manifest has {layers} layers, the config has {diff_ids} diff_ids")]
    LayerCount {
        /// The layers of the manifest.
        layers: usize,
        /// The `diff_ids` of the config.
        diff_ids: usize,
    },
    /// The image is for another platform.
    #[error("the image is for {found}, this is {wanted}")]
    Platform {
        /// The platform of this program.
        wanted: Box<Platform>,
        /// The platform of the image.
        found: Box<Platform>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct RootFs {
    #[serde(default, deserialize_with = "null_is_default")]
    diff_ids: Vec<String>,
}

/// Pairs each blob with its `diff_id`; a surplus on either side would leave something unproved.
fn pair(manifest: Manifest, rootfs: &RootFs) -> Result<Vec<Layer>, ConfigError> {
    let compressions = manifest.layer_compressions().map_err(ConfigError::Layers)?;
    let blobs = manifest.into_layers();
    if blobs.len() != rootfs.diff_ids.len() {
        let diff_ids = rootfs.diff_ids.len();
        return Err(ConfigError::LayerCount {
            layers: blobs.len(),
            diff_ids,
        });
    }
    let layers = blobs
        .into_iter()
        .zip(compressions)
        .zip(&rootfs.diff_ids)
        .enumerate();
    layers
        .map(|(index, ((blob, compression), diff_id))| {
            let diff_id = diff_id
                .parse()
                .map_err(|source| ConfigError::DiffId { index, source })?;
            Ok(Layer {
                blob,
                diff_id,
                compression,
            })
        })
        .collect()
}

/// Go writes `null` for an empty slice or map.
fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn non_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

/// A set, which Go writes as a map to empty objects.
fn keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
    let map: Option<serde_json::Map<String, serde_json::Value>> =
        Option::deserialize(deserializer)?;
    Ok(map
        .unwrap_or_default()
        .into_iter()
        .map(|(key, _)| key)
        .collect())
}
