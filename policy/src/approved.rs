//! The proof that an image may run.
//!
//! [`Approved`] has no public constructor and no way in but [`conclude`], which reads the decision
//! itself. Whoever holds an `Approved<T>` holds something that a policy allowed, or that matched a
//! digest in such a thing.
//!
//! It cannot be made by hand:
//!
//! ```compile_fail,E0451
//! fn forge(value: policy::Manifest, decision: policy::Decision) -> policy::Approved<policy::Manifest> {
//!     policy::Approved { value, decision: decision.into() }
//! }
//! ```
//!
//! nor copied, so that one approval is for one pull:
//!
//! ```compile_fail,E0277
//! fn twice<T: Clone>() {}
//! twice::<policy::Approved<policy::Image>>();
//! ```
//!
//! nor conjured from nothing, or read from a file:
//!
//! ```compile_fail,E0277
//! fn conjure<T: Default>() {}
//! conjure::<policy::Approved<policy::Manifest>>();
//! ```
//!
//! ```compile_fail,E0277
//! fn load<T: serde::de::DeserializeOwned>() {}
//! load::<policy::Approved<policy::Layer>>();
//! ```

use std::sync::Arc;

use crate::decision::{Decision, Denied};
use crate::descriptor::{Compression, Descriptor};
use crate::digest::Digest;
use crate::image::{ConfigError, Image, ImageConfig, Layer};
use crate::manifest::{Manifest, ManifestError, Unverified};

/// A thing that the policy allows, with the decision that says why.
#[derive(Debug)]
pub struct Approved<T> {
    value: T,
    decision: Arc<Decision>,
}

/// Turns a decision into its consequence. There is no other way to an `Approved<Manifest>`.
pub(crate) fn conclude(
    manifest: Unverified<Manifest>,
    decision: Decision,
) -> Result<Approved<Manifest>, Denied> {
    let about_this = decision.manifest_digest() == manifest.digest()
        && decision.reference() == manifest.reference();
    if !about_this || !decision.is_allowed() {
        return Err(Denied::new(decision));
    }
    Ok(Approved {
        value: manifest.into_manifest(),
        decision: Arc::new(decision),
    })
}

impl<T> Approved<T> {
    /// The decision.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }
}

impl Approved<Manifest> {
    /// The digest of the manifest.
    pub fn digest(&self) -> &Digest {
        self.decision.manifest_digest()
    }

    /// Where the image's config is, given that every layer is of a kind that can be unpacked.
    ///
    /// Nothing is to be downloaded for an image that could not start, so an encrypted, foreign or
    /// unknown layer is an error here.
    pub fn config(&self) -> Result<&Descriptor, ManifestError> {
        self.value.layer_compressions().map(|_| self.value.config())
    }

    /// Adds the image's config, whose bytes the manifest vouches for by digest and size.
    pub fn with_config(self, raw: &[u8]) -> Result<Approved<Image>, ConfigError> {
        let value = Image::new(self.value, raw, !self.decision.trusts_index())?;
        Ok(Approved {
            value,
            decision: self.decision,
        })
    }
}

impl Approved<Image> {
    /// The digest of the manifest.
    pub fn manifest_digest(&self) -> &Digest {
        self.decision.manifest_digest()
    }

    /// The image's config.
    pub fn config(&self) -> &ImageConfig {
        self.value.config()
    }

    /// The layers, bottom first.
    pub fn layers(&self) -> impl ExactSizeIterator<Item = Approved<Layer>> {
        let decision = Arc::clone(&self.decision);
        let approve = move |layer: &Layer| {
            let decision = Arc::clone(&decision);
            Approved {
                value: layer.duplicate(),
                decision,
            }
        };
        self.value.layers().iter().map(approve)
    }
}

impl Approved<Layer> {
    /// The blob as the registry stores it.
    pub fn blob(&self) -> &Descriptor {
        self.value.blob()
    }

    /// The digest that the uncompressed tar stream must have.
    pub fn diff_id(&self) -> &Digest {
        self.value.diff_id()
    }

    /// How the blob is compressed.
    pub fn compression(&self) -> Compression {
        self.value.compression()
    }
}
